//! A process that uses a store as a test tells it, and says on standard output what it has done.
//!
//! `store-worker MODE ROOT ARGUMENTS…`; it ends with its standard input, if it does not end by itself.

#![expect(
    clippy::unwrap_used,
    reason = "a failure is a panic, and the test sees it"
)]

use metalab_store::types::{ArtifactDescriptor, ArtifactReference, Expectation};
use metalab_store::{Error, FileStoreConfig, Store, StoreConfig};
use metalab_store_tests::script::{Call, calls, make, record};
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

const EXPERIMENT: &str = "exp:1";

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").unwrap();
    out.flush().unwrap();
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (mode, root) = (arguments[0].as_str(), Path::new(&arguments[1]));
    let rest: Vec<&str> = arguments[2..].iter().map(String::as_str).collect();
    let over = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&over);
    std::thread::spawn(move || {
        std::io::stdin().read_to_end(&mut Vec::new()).ok();
        told.store(true, Ordering::Relaxed);
    });
    let over = || over.load(Ordering::Relaxed);
    // A store with a database has a locator besides.
    let config = match std::env::var("METALAB_STORE_WORKER_LOCATOR") {
        Ok(locator) => StoreConfig::from_locator(&locator).unwrap(),
        Err(_) => FileStoreConfig::new(root).into(),
    };
    let config = config.scoped(EXPERIMENT);
    let connect = || config.clone().connect().unwrap();
    match (mode, rest.as_slice()) {
        ("script", [prefix, seed]) => script(&connect(), root, prefix, seed.parse().unwrap(), over),
        ("count", [run, times]) => count(&connect(), run, times.parse().unwrap()),
        ("plain", [own, shared, times]) => {
            plain(&root.join("exp_1"), own, shared, times.parse().unwrap());
        }
        ("churn", [prefix]) => churn(&connect(), prefix, over),
        ("list", stable) => list(&config.read_only().connect().unwrap(), stable, over),
        ("read", runs) => read(&config.read_only().connect().unwrap(), runs, over),
        ("everything", []) => everything(&config),
        ("puts", [prefix, times]) => puts(&connect(), prefix, times.parse().unwrap()),
        ("timed", [records]) => timed(&connect(), Path::new(records)),
        other => panic!("no such mode: {other:?}"),
    }
}

/// Makes the calls of a script until it is killed.
fn script(store: &Store, root: &Path, prefix: &str, seed: u64, over: impl Fn() -> bool) {
    let source = root.with_file_name(format!("source-{prefix}"));
    for (number, (tag, call)) in calls(prefix, seed).enumerate() {
        if over() {
            break;
        }
        let mut made = make(store, &call, tag, &source);
        // An artifact that is on its way when somebody removes `.index/` goes with it, and is to be stored again.
        while let (Call::Bytes(..) | Call::Pieces(..) | Call::File(..), Err(error)) = (&call, &made)
            && is_lost_on_its_way(error)
        {
            made = make(store, &call, tag, &source);
        }
        made.unwrap();
        say(&format!("done {number}"));
    }
    store.close().unwrap();
}

fn is_lost_on_its_way(error: &Error) -> bool {
    match error {
        Error::Io(error) => error.file.starts_with(".index/staging") && error.code == "no-entry",
        Error::InvalidArgument(message) => message.starts_with("nothing was placed in .index/"),
        _ => false,
    }
}

/// Adds one to the number in a run's notes, so many times, by compare and swap.
fn count(store: &Store, run: &str, times: u32) {
    let mut left = times;
    while left > 0 {
        let (expect, number) = match store.get_versioned_run(run).unwrap() {
            None => (Expectation::Absent, 0),
            Some(found) => {
                let number: u64 = found.record.notes.unwrap().parse().unwrap();
                (Expectation::Revision(found.revision), number)
            }
        };
        let mut next = record(run, 0);
        next.notes = Some((number + 1).to_string());
        match store.put_run_record(&next, &expect) {
            Ok(_) => {
                left -= 1;
                say("counted");
            }
            Err(Error::Conflict(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    store.close().unwrap();
}

/// Puts, deletes and puts again, alone and in batches.
fn churn(store: &Store, prefix: &str, over: impl Fn() -> bool) {
    for tag in 0.. {
        if over() {
            break;
        }
        let runs: Vec<_> = (0..4)
            .map(|index| record(&format!("{prefix}{index}"), tag))
            .collect();
        for outcome in store.put_run_records(&runs).unwrap() {
            outcome.unwrap();
        }
        for run in &runs {
            let run = &run.run_id;
            let descriptor = ArtifactDescriptor::new(run, "x", "blob", "bin");
            store.put_artifact(&tag.to_le_bytes(), &descriptor).unwrap();
            store.put_derived_text(run, "{\"a\": 1}").unwrap();
            store.append_log(run, "run", "line\n", false).unwrap();
        }
        for run in &runs {
            assert!(store.delete_run(&run.run_id).unwrap());
        }
        say("turned");
    }
    store.close().unwrap();
}

/// Lists all runs again and again: those that are never deleted are in each list, and whole.
fn list(store: &Store, stable: &[&str], over: impl Fn() -> bool) {
    while !over() {
        let page = store.list_run_records(None).unwrap();
        assert_eq!(page.damaged, []);
        for run in stable {
            let found: Vec<_> = page
                .records
                .iter()
                .filter(|record| record.run_id == **run)
                .collect();
            assert_eq!(found.len(), 1, "{run}");
        }
        let mut ids: Vec<&String> = page.records.iter().map(|record| &record.run_id).collect();
        let all = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), all, "a run is listed twice");
        say("listed");
    }
}

/// Reads everything of some runs again and again: nothing fails because it vanished.
fn read(store: &Store, runs: &[&str], over: impl Fn() -> bool) {
    while !over() {
        for run in runs {
            if let Some(found) = store.get_run_record(run).unwrap() {
                assert_eq!(found.run_id, *run);
            }
            store.get_derived(run).unwrap();
            store.get_log(run, "run").unwrap();
            store.list_logs(run).unwrap();
            store.list_results(run).unwrap();
            for artifact in store.list_artifacts(run).unwrap() {
                let reference = ArtifactReference::Name(((*run).to_owned(), artifact.name));
                match store.get_artifact(&reference) {
                    Ok(content) => assert_eq!(content.len(), 8),
                    // Deleted since it was listed.
                    Err(Error::NotFound(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
        say("read");
    }
}

/// Locks a run as the reference does, but for the look whether the file is still the one of its name: the
/// reference loses updates without it.
fn lock(root: &Path, run: &str) -> File {
    let path = root.join(".locks").join(format!("{run}.lock"));
    loop {
        let file = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .unwrap();
        flock(&file, FlockOperation::LockExclusive).unwrap();
        let same =
            fs::metadata(&path).is_ok_and(|named| named.ino() == file.metadata().unwrap().ino());
        if same {
            return file;
        }
    }
}

/// Writes a record's file as the reference does.
fn write(root: &Path, run: &str, notes: &str) {
    let text = format!(
        "{{\n  \"_schema_version\": \"0.1\",\n  \"experiment_id\": \"{EXPERIMENT}\",\n  \"notes\": \"{notes}\",\n  \"run_id\": \"{run}\",\n  \"status\": \"success\"\n}}"
    );
    let path = root.join("runs").join(format!("{run}.json"));
    let stage = path.with_extension("tmp.0123abcd");
    fs::write(&stage, text).unwrap();
    fs::rename(&stage, &path).unwrap();
}

/// Writes files as the reference does, without the library: a run of its own that it also deletes and makes
/// again, and a counter that it shares with others.
fn plain(root: &Path, own: &str, shared: &str, times: u32) {
    for time in 1..=times {
        let held = lock(root, own);
        write(root, own, &time.to_string());
        drop(held);
        if time % 10 == 0 && time < times {
            let held = lock(root, own);
            fs::remove_file(root.join("runs").join(format!("{own}.json"))).unwrap();
            drop(held);
            fs::remove_file(root.join(".locks").join(format!("{own}.lock"))).unwrap();
        }
        let held = lock(root, shared);
        let path = root.join("runs").join(format!("{shared}.json"));
        let number = fs::read_to_string(&path).map_or(0, |text| {
            let notes = text.split("\"notes\": \"").nth(1).unwrap();
            notes.split('"').next().unwrap().parse().unwrap()
        });
        write(root, shared, &(number + 1).to_string());
        drop(held);
        say("wrote");
    }
}

/// Makes every call, on a run that an enemy has looked after and on one that is whole. What they answer is no matter
/// here: whoever watches the process wants to know what it opens.
fn everything(config: &StoreConfig) {
    let said = |outcome: Result<(), Error>| drop(outcome);
    for config in [config.clone().read_only(), config.clone()] {
        let Ok(store) = config.connect() else {
            continue;
        };
        for run in ["bad", "good"] {
            let name = ArtifactReference::Name((run.to_owned(), "x".to_owned()));
            said(store.get_run_record(run).map(drop));
            said(store.get_derived_text(run).map(drop));
            said(store.get_result(run, "x").map(drop));
            said(store.list_results(run).map(drop));
            said(store.list_logs(run).map(drop));
            said(store.get_log(run, "run").map(drop));
            said(store.list_artifacts(run).map(drop));
            said(store.get_artifact(&name).map(drop));
            said(store.put_log(run, "run", "line\n"));
            said(store.append_log(run, "run", "line\n", true).map(drop));
            said(store.put_derived_text(run, "{\"a\": 1}").map(drop));
            let descriptor = ArtifactDescriptor::new(run, "x", "blob", "bin");
            said(store.put_artifact(b"content", &descriptor).map(drop));
            said(
                store
                    .put_run_record(&record(run, 1), &Expectation::Anything)
                    .map(drop),
            );
        }
        said(store.list_run_records(None).map(drop));
        said(store.list_experiment_manifests("exp:1").map(drop));
        said(store.get_experiment_manifest("exp:1").map(drop));
        said(store.delete_run("bad").map(drop));
        said(store.close());
    }
    say("done");
}

/// Puts the records of a file, one a line, and says how many microseconds each took.
fn timed(store: &Store, records: &Path) {
    let took: Vec<u128> = fs::read_to_string(records)
        .unwrap()
        .lines()
        .map(|line| {
            let start = Instant::now();
            store.put_run_text(line, &Expectation::Anything).unwrap();
            start.elapsed().as_micros()
        })
        .collect();
    store.close().unwrap();
    for microseconds in took {
        say(&microseconds.to_string());
    }
}

/// Puts so many runs, and says each that was acknowledged.
fn puts(store: &Store, prefix: &str, times: u32) {
    for number in 0..times {
        let run = format!("{prefix}_{number}");
        store
            .put_run_record(&record(&run, number.into()), &Expectation::Anything)
            .unwrap();
        say(&run);
    }
    // Without locks nobody can promise that nobody else writes the same run meanwhile.
    match store.put_run_record(&record(prefix, 0), &Expectation::Absent) {
        Ok(_) => say("locked"),
        Err(error) => say(error.code()),
    }
    for warning in store.warnings() {
        say(&warning);
    }
    store.close().unwrap();
}
