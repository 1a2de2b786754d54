//! A process that uses a store as the soak tells it: a call a line on standard input, its answer a line on standard
//! output.
//!
//! `soak-worker LOCATOR`; it ends with its standard input. The program `soak` says what the calls are.

#![expect(
    clippy::unwrap_used,
    reason = "a failure is a panic, and the soak sees it"
)]

use metalab_store::types::{
    ArtifactDescriptor, ArtifactReference, Expectation, RunQuery, StructuredResult,
};
use metalab_store::{Error, Store, StoreConfig};
use serde_json::{Value, json};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime};

const NAME: &str = "a";

fn record(run: &str, tag: u64) -> String {
    json!({
        "run_id": run,
        "experiment_id": "exp:1",
        "status": "success",
        "notes": tag.to_string(),
        "metrics": {"tag": tag},
    })
    .to_string()
}

fn content(tag: u64) -> Vec<u8> {
    let length = 1000 + usize::try_from(tag % 7).unwrap() * 60_000;
    tag.to_le_bytes().into_iter().cycle().take(length).collect()
}

fn put_artifact(store: &Store, run: &str, tag: u64) -> Result<(), Error> {
    let descriptor = ArtifactDescriptor::new(run, NAME, "blob", "bin");
    let bytes = content(tag);
    if bytes.len() < 200_000 {
        return store.put_artifact(&bytes, &descriptor).map(drop);
    }
    let mut writer = store.create_artifact(&descriptor)?;
    for piece in bytes.chunks(50_000) {
        writer.append(piece)?;
    }
    writer.finish().map(drop)
}

fn observe(store: &Store, run: &str) -> Result<Value, Error> {
    let artifact = match store.list_artifacts(run)?.is_empty() {
        true => None,
        false => {
            let reference = ArtifactReference::Name((run.to_owned(), NAME.to_owned()));
            let read = store.get_artifact(&reference)?;
            let tag = u64::from_le_bytes(read[..8].try_into().unwrap());
            assert!(
                read == content(tag),
                "the artifact of {run} is not what was stored"
            );
            Some(tag)
        }
    };
    let tag = |text: &str| serde_json::from_str::<Value>(text).unwrap()["tag"].clone();
    let found = store.get_run_record(run)?;
    let log = store.get_log(run, "run")?.unwrap_or_default();
    let lines: Vec<u64> = log.lines().map(|line| line.parse().unwrap()).collect();
    Ok(json!({
        "record": found.map(|found| found.notes.unwrap().parse::<u64>().unwrap()),
        "derived": store.get_derived_text(run)?.map(|text| tag(&text)),
        "result": store.get_result(run, NAME)?.map(|found| found.data.parse::<u64>().unwrap()),
        "artifact": artifact,
        "log": lines,
    }))
}

fn list(store: &Store) -> Result<Value, Error> {
    let page = store.list_run_records(None)?;
    assert_eq!(page.damaged, []);
    let tag = |notes: Option<String>| notes.unwrap().parse::<u64>().unwrap();
    let runs = page.records.into_iter();
    Ok(runs
        .map(|run| (run.run_id, json!(tag(run.notes))))
        .collect())
}

fn query(store: &Store, tag: u64) -> Result<Value, Error> {
    let query = RunQuery {
        filter: format!("metrics.tag >= {tag}"),
        sort: String::new(),
        columns: String::new(),
        limit: None,
        cursor: None,
        check: false,
    };
    let mut list = store.query_runs(&query)?;
    let mut found = Vec::new();
    loop {
        let page = list.next(1000)?;
        if page.is_empty() {
            break;
        }
        found.extend(page.into_iter().map(|record| record.run_id));
    }
    assert_eq!(list.damaged()?, []);
    Ok(json!(found))
}

/// Makes a call.
fn make(store: &Store, clock: &AtomicI64, call: &Value) -> Result<Value, Error> {
    let run = call["run"].as_str().unwrap_or_default();
    let tag = call["tag"].as_u64().unwrap_or_default();
    let done = |outcome: Result<(), Error>| outcome.map(|()| Value::Null);
    match call["op"].as_str().unwrap() {
        "put" => done(
            store
                .put_run_text(&record(run, tag), &Expectation::Anything)
                .map(drop),
        ),
        "many" => {
            let runs = call["runs"].as_array().unwrap().iter();
            let lines: Vec<String> = runs.map(|run| record(run.as_str().unwrap(), tag)).collect();
            let outcomes = store.put_run_lines(&lines.join("\n"))?;
            done(
                outcomes
                    .into_iter()
                    .try_for_each(|outcome| outcome.map(drop)),
            )
        }
        "derived" => done(
            store
                .put_derived_text(run, &format!("{{\"tag\": {tag}}}"))
                .map(drop),
        ),
        "result" => {
            let result = StructuredResult::new(tag.to_string());
            done(store.put_result(run, NAME, &result).map(drop))
        }
        "append" => done(
            store
                .append_log(run, "run", &format!("{tag}\n"), true)
                .map(drop),
        ),
        "artifact" => done(put_artifact(store, run, tag)),
        "delete" => done(store.delete_run(run).map(drop)),
        "observe" => observe(store, run),
        "list" => list(store),
        "query" => query(store, tag),
        "clock" => {
            clock.store(call["seconds"].as_i64().unwrap(), Ordering::Relaxed);
            Ok(Value::Null)
        }
        "close" => done(store.close()),
        other => panic!("no such call: {other}"),
    }
}

fn main() {
    let locator = std::env::args().nth(1).unwrap();
    let clock = Arc::new(AtomicI64::new(0));
    let shifted = Arc::clone(&clock);
    let config = StoreConfig::from_locator(&locator).unwrap().clock(move || {
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let shift = shifted.load(Ordering::Relaxed);
        let by = Duration::from_secs(shift.unsigned_abs());
        if shift < 0 {
            now.saturating_sub(by)
        } else {
            now + by
        }
    });
    let say = |answer: Value| {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{answer}").unwrap();
        out.flush().unwrap();
    };
    let store = match config.scoped("exp:1").connect() {
        Ok(store) => store,
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(1);
        }
    };
    say(json!({"ok": null, "us": 0}));
    for line in std::io::stdin().lines() {
        let call: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let begun = Instant::now();
        let outcome = make(&store, &clock, &call);
        let us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        say(match outcome {
            Ok(value) => json!({"ok": value, "us": us}),
            Err(error) => {
                let unknown = matches!(&error, Error::Io(failure) if failure.outcome_unknown);
                json!({"error": error.code(), "unknown": unknown, "message": error.to_string(), "us": us})
            }
        });
    }
}
