//! A plugin for tests: it does what the beginning of the run's id says, and most of it is bad.

#![cfg(target_family = "wasm")]
#![allow(
    missing_docs,
    unsafe_code,
    clippy::allow_attributes,
    reason = "generated bindings: an expectation would depend on the generator's version"
)]

wit_bindgen::generate!({
    path: "../../wit",
    world: "plugin",
    generate_all,
});

use metalab::store::view;
use std::sync::atomic::{AtomicI64, Ordering};

struct Plugin;

export!(Plugin);

/// How many runs this instance was asked about.
static RUNS: AtomicI64 = AtomicI64::new(0);

type Derived = Vec<(String, MetricValue)>;

impl Guest for Plugin {
    fn derive(run_id: String) -> Result<Derived, String> {
        let runs = RUNS.fetch_add(1, Ordering::Relaxed) + 1;
        let named = |name: &str, value| Ok(vec![(name.to_owned(), value)]);
        let nothing = MetricValue::Boolean(true);
        let what = run_id.split('-').next().unwrap_or_default();
        match what {
            "refuse" => Err(format!("there is nothing to derive of {run_id}")),
            "shout" => Err("x".repeat(1 << 20)),
            "trap" => panic!("the plugin panics"),
            "loop" => loop {
                std::hint::spin_loop();
            },
            "overflow" => named("depth", MetricValue::Integer(deep(1))),
            "exhaust" => {
                let mut kept = Vec::new();
                loop {
                    kept.push(vec![1_u8; 1 << 20]);
                    std::hint::black_box(&kept);
                }
            }
            "call" => loop {
                view::list_logs(&run_id).map_err(|error| format!("{error:?}"))?;
            },
            "large" => named("text", MetricValue::Text("x".repeat(64 << 20))),
            "many" => Ok((0..1_000_000)
                .map(|index| (format!("m{index}"), MetricValue::Integer(index)))
                .collect()),
            "some" => Ok((0..10_001)
                .map(|index| (format!("m{index}"), MetricValue::Integer(index)))
                .collect()),
            "unnamed" => named("", nothing),
            "longname" => named(&"n".repeat(257), nothing),
            "control" => named("a\u{1b}[2Jb", nothing),
            "twice" => Ok(vec![
                ("a".to_owned(), MetricValue::Integer(1)),
                ("a".to_owned(), MetricValue::Integer(2)),
            ]),
            "badjson" => named("a", MetricValue::Other("{".to_owned())),
            "badinteger" => named("a", MetricValue::BigInteger("one".to_owned())),
            "nan" => Ok(vec![
                ("nan".to_owned(), MetricValue::Float(f64::NAN)),
                ("infinite".to_owned(), MetricValue::Float(f64::INFINITY)),
            ]),
            "hash" => {
                // The standard library draws a random number for each map.
                let map: std::collections::HashMap<&str, i64> = [("a", 1)].into();
                named("a", MetricValue::Integer(map["a"]))
            }
            "count" => named("runs", MetricValue::Integer(runs)),
            "other" => look(&run_id),
            _ => read(&run_id),
        }
    }
}

fn deep(level: i64) -> i64 {
    let kept = std::hint::black_box([level; 64]);
    if level < 0 {
        0
    } else {
        deep(level + 1) + kept[3]
    }
}

/// Looks for what it must not find.
fn look(run_id: &str) -> Result<Derived, String> {
    let mut derived = Vec::new();
    for (name, id) in [
        ("parent", "../other_1/runs/secret"),
        ("absolute", "/etc/hostname"),
        ("foreign", "secret"),
    ] {
        let found = match view::get_run_record(id) {
            Ok(found) => found.is_some().to_string(),
            Err(error) => format!("{error:?}")
                .split('(')
                .next()
                .unwrap_or_default()
                .to_owned(),
        };
        derived.push((name.to_owned(), MetricValue::Text(found)));
    }
    let artifact = view::read_artifact(run_id, "not-there", 0, 1).is_err();
    derived.push(("artifact".to_owned(), MetricValue::Boolean(artifact)));
    Ok(derived)
}

/// Reads everything there is, and tells what it saw.
fn read(run_id: &str) -> Result<Derived, String> {
    let said = |error| format!("{error:?}");
    let mut derived = Vec::new();
    let mut tell =
        |name: &str, value: String| derived.push((name.to_owned(), MetricValue::Text(value)));
    let run = view::get_run_record(run_id)
        .map_err(said)?
        .ok_or("there is no such run")?;
    tell("status", format!("{:?}", run.status));
    let text = view::get_run_text(run_id)
        .map_err(said)?
        .ok_or("there is no text")?;
    tell("text", text.len().to_string());
    tell("runs", view::list_runs("", 10).map_err(said)?.join(" "));
    let before = view::get_derived(run_id).map_err(said)?;
    tell(
        "derived",
        before.map_or(0, |metrics| metrics.len()).to_string(),
    );
    for name in view::list_results(run_id).map_err(said)? {
        let found = view::get_result(run_id, &name).map_err(said)?;
        tell(
            &format!("result {name}"),
            found.map(|found| found.data).unwrap_or_default(),
        );
    }
    for name in view::list_logs(run_id).map_err(said)? {
        let piece = view::read_log(run_id, &name, 2, 5).map_err(said)?;
        tell(
            &format!("log {name}"),
            piece.map(|piece| piece.text).unwrap_or_default(),
        );
    }
    for artifact in view::list_artifacts(run_id).map_err(said)? {
        let (mut content, mut offset) = (Vec::new(), 0);
        loop {
            let piece = view::read_artifact(run_id, &artifact.name, offset, 3).map_err(said)?;
            if piece.is_empty() {
                break;
            }
            offset += piece.len() as u64;
            content.extend(piece);
        }
        tell(
            &format!("artifact {}", artifact.name),
            String::from_utf8_lossy(&content).into_owned(),
        );
    }
    Ok(derived)
}
