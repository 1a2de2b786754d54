//! Plugins: what they see, what they may use, and what becomes of a run when one misbehaves.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use metalab_store::plugin::{
    DeriveOptions, DeriveReport, FailureReason, Plugin, PluginLimits, derive,
};
use metalab_store::types::{
    ArtifactDescriptor, Durability, Expectation, Metric, MetricValue, RunQuery, RunRecord, Status,
    StructuredResult,
};
use metalab_store::{Error, FileStoreConfig, Limits, Store, StoreConfig};
use metalab_store_tests::{command, plugin, tree};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;
use wit_component::DecodedWasm;

fn config(root: &Path) -> StoreConfig {
    FileStoreConfig::new(root).scoped("exp:1").into()
}

fn open(root: &Path) -> Store {
    config(root)
        .durability(Durability::Relaxed)
        .connect()
        .unwrap()
}

fn put(store: &Store, runs: &[&str]) {
    for run in runs {
        let mut record = RunRecord::new(*run, Status::Success);
        record.metrics.push(Metric {
            name: "loss".to_owned(),
            value: MetricValue::Float(0.25),
        });
        store
            .put_run_record(&record, &Expectation::Anything)
            .unwrap();
    }
}

fn test_plugin() -> Plugin {
    Plugin::load(&plugin("test")).unwrap()
}

fn options() -> DeriveOptions {
    DeriveOptions {
        limits: PluginLimits {
            // Nothing here takes long, but machines are busy.
            time: Duration::from_mins(5),
            calls: 100,
            ..PluginLimits::default()
        },
        ..DeriveOptions::default()
    }
}

fn run_over(root: &Path, options: &DeriveOptions) -> metalab_store::Result<DeriveReport> {
    derive(&config(root), &test_plugin(), options, &mut |_| {
        ControlFlow::Continue(())
    })
}

/// Returns the texts that were derived of a run, by name.
fn texts(store: &Store, run: &str) -> BTreeMap<String, String> {
    let derived = store.get_derived(run).unwrap().unwrap();
    let text = |metric: Metric| match metric.value {
        MetricValue::Text(text) => (metric.name, text),
        other => (metric.name, format!("{other:?}")),
    };
    derived.into_iter().map(text).collect()
}

#[test]
fn whatever_a_plugin_does_fails_that_run_with_a_reason_and_stops_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let bad = [
        ("badinteger", "garbage"),
        ("badjson", "garbage"),
        ("call", "calls"),
        ("control", "garbage"),
        ("exhaust", "memory"),
        ("large", "garbage"),
        ("longname", "garbage"),
        ("many", "garbage"),
        ("overflow", "trap"),
        ("refuse", "refused"),
        ("shout", "refused"),
        ("some", "garbage"),
        ("trap", "trap"),
        ("twice", "garbage"),
        ("unnamed", "garbage"),
    ];
    let good = ["count-1", "count-2", "hash", "nan", "zero"];
    put(&store, &bad.map(|(run, _)| run));
    put(&store, &good);
    store.put_derived_text("trap", r#"{"kept": 1}"#).unwrap();
    let report = run_over(directory.path(), &options()).unwrap();
    let mut found: Vec<(&str, &str)> = report
        .failures
        .iter()
        .map(|failure| (failure.run_id.as_str(), failure.reason.code()))
        .collect();
    found.sort_unstable();
    assert_eq!(found, bad);
    assert_eq!((report.runs, report.derived), (20, 5));
    for failure in &report.failures {
        let said = failure.reason.to_string();
        assert!(
            said.len() < 2000,
            "{}: {} bytes",
            failure.run_id,
            said.len()
        );
        let has = store.get_derived_text(&failure.run_id).unwrap();
        assert_eq!(
            has.is_some(),
            failure.run_id == "trap",
            "{}",
            failure.run_id
        );
    }
    for run in good {
        assert!(store.derived_exists(run).unwrap(), "{run}");
    }
    assert!(
        store
            .get_derived_text("trap")
            .unwrap()
            .unwrap()
            .contains("kept")
    );
    let nan = store.get_derived_text("nan").unwrap().unwrap();
    assert!(
        nan.contains("\"nan\": NaN") && nan.contains("\"infinite\": Infinity"),
        "{nan}"
    );
}

#[test]
fn a_plugin_that_loops_ends_when_its_time_is_over() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    put(&store, &["loop"]);
    let hasty = DeriveOptions {
        limits: PluginLimits {
            time: Duration::from_millis(200),
            ..PluginLimits::default()
        },
        ..DeriveOptions::default()
    };
    let report = run_over(directory.path(), &hasty).unwrap();
    let reason = FailureReason::Time(Duration::from_millis(200));
    assert_eq!(report.failures[0].reason, reason);
    assert_eq!(report.derived, 0);
}

#[test]
fn each_run_has_an_instance_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    put(&store, &["count-1", "count-2", "count-3"]);
    let options = DeriveOptions {
        workers: 1,
        ..options()
    };
    assert_eq!(run_over(directory.path(), &options).unwrap().derived, 3);
    let all = RunQuery {
        filter: "derived.runs = 1".to_owned(),
        ..RunQuery::default()
    };
    assert_eq!(store.query_runs(&all).unwrap().total().unwrap(), 3);
}

#[test]
fn a_plugin_reads_all_of_a_run_through_the_store() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    put(&store, &["run"]);
    store
        .put_derived_text("run", r#"{"a": 1, "b": 2}"#)
        .unwrap();
    let result = StructuredResult::new("[1, 2]");
    store.put_result("run", "curve", &result).unwrap();
    store.put_log("run", "out", "0123456789").unwrap();
    let artifact = ArtifactDescriptor::new("run", "model", "blob", "bin");
    store.put_artifact(b"abcdefgh", &artifact).unwrap();
    let report = run_over(directory.path(), &options()).unwrap();
    assert_eq!(report.failures, []);
    let text = store.get_run_text("run").unwrap().unwrap();
    let expected = [
        ("artifact model", "abcdefgh"),
        ("derived", "2"),
        ("log out", "23456"),
        ("result curve", "[1,2]"),
        ("runs", "run"),
        ("status", "Status::Success"),
        ("text", &text.len().to_string()),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(texts(&store, "run"), expected.into());
}

#[test]
fn a_plugin_sees_no_other_experiment_and_no_other_file() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    put(&store, &["other"]);
    let other = FileStoreConfig::new(directory.path()).scoped("other:1");
    put(&other.connect().unwrap(), &["secret"]);
    assert_eq!(run_over(directory.path(), &options()).unwrap().failures, []);
    let seen = texts(&store, "other");
    assert!(seen["parent"].ends_with("InvalidName"), "{seen:?}");
    assert!(seen["absolute"].ends_with("InvalidName"), "{seen:?}");
    assert_eq!(seen["foreign"], "false");
    assert_eq!(seen["artifact"], "MetricValue::Boolean(true)");
}

#[test]
fn a_plugin_is_never_run_over_a_collection() {
    let directory = tempfile::tempdir().unwrap();
    let whole = StoreConfig::from(FileStoreConfig::new(directory.path()));
    let refused = derive(&whole, &test_plugin(), &options(), &mut |_| {
        ControlFlow::Continue(())
    });
    assert_eq!(refused.unwrap_err().code(), "invalid-argument");
    assert!(tree(directory.path()).is_empty());
}

#[test]
fn when_the_store_fails_under_a_plugin_that_run_fails_and_the_next_finds_a_fresh_store() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    put(&store, &["large1", "small"]);
    let result = StructuredResult::new(format!("\"{}\"", "x".repeat(20 << 20)));
    store.put_result("large1", "x", &result).unwrap();
    let little = config(directory.path()).limits(Limits {
        memory_bytes: 16 << 20,
        ..Limits::default()
    });
    let options = DeriveOptions {
        workers: 1,
        ..options()
    };
    let report = derive(&little, &test_plugin(), &options, &mut |_| {
        ControlFlow::Continue(())
    });
    let report = report.unwrap();
    assert_eq!((report.runs, report.derived), (2, 1));
    let failure = &report.failures[0];
    assert_eq!(failure.run_id, "large1");
    let FailureReason::Store(error) = &failure.reason else {
        panic!("{:?}", failure.reason);
    };
    assert_eq!(error.code(), "limit-exceeded", "{error}");
}

#[test]
fn only_runs_that_the_filter_matches_are_derived_and_a_dry_run_stores_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    put(&store, &["zero", "one", "two"]);
    store.close().unwrap();
    let before = tree(directory.path());
    let dry = DeriveOptions {
        filter: "run_id != \"two\"".to_owned(),
        dry_run: true,
        ..options()
    };
    assert_eq!(run_over(directory.path(), &dry).unwrap().derived, 2);
    assert_eq!(tree(directory.path()), before);
    let wet = DeriveOptions {
        dry_run: false,
        ..dry
    };
    assert_eq!(run_over(directory.path(), &wet).unwrap().derived, 2);
    let store = open(directory.path());
    assert!(store.derived_exists("one").unwrap());
    assert!(!store.derived_exists("two").unwrap());
    let wrong = DeriveOptions {
        filter: "metrics.loss <".to_owned(),
        ..options()
    };
    let refused = run_over(directory.path(), &wrong).unwrap_err();
    assert_eq!(refused.code(), "invalid-query");
}

#[test]
fn whoever_stops_it_need_not_wait_for_a_plugin_that_loops() {
    let directory = tempfile::tempdir().unwrap();
    put(&open(directory.path()), &["loop-1", "loop-2", "loop-3"]);
    let patient = DeriveOptions {
        limits: PluginLimits {
            time: Duration::from_hours(24),
            ..PluginLimits::default()
        },
        ..options()
    };
    let mut asked = 0;
    let stopped = derive(
        &config(directory.path()),
        &test_plugin(),
        &patient,
        &mut |progress| {
            asked += 1;
            assert_eq!((progress.done, progress.total), (0, 3));
            match asked {
                3 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        },
    );
    assert_eq!(stopped.unwrap_err(), Error::Cancelled);
}

#[tokio::test(flavor = "current_thread")]
async fn a_plugin_runs_inside_a_runtime() {
    let directory = tempfile::tempdir().unwrap();
    put(&open(directory.path()), &["zero"]);
    assert_eq!(run_over(directory.path(), &options()).unwrap().derived, 1);
}

#[test]
fn a_plugin_imports_the_view_and_nothing_else() {
    for name in ["example", "test"] {
        let bytes = std::fs::read(plugin(name)).unwrap();
        let DecodedWasm::Component(resolve, world) = wit_component::decode(&bytes).unwrap() else {
            panic!("the binary is not a component");
        };
        let world = &resolve.worlds[world];
        let imports = world.imports.keys().map(|key| resolve.name_world_key(key));
        // The others are types that the world uses.
        let imports = imports.filter(|name| name.contains('/'));
        assert_eq!(
            imports.collect::<Vec<_>>(),
            ["metalab:store/types@0.1.0", "metalab:store/view@0.1.0"],
            "{name}"
        );
        let exports = world.exports.keys().map(|key| resolve.name_world_key(key));
        assert_eq!(exports.collect::<Vec<_>>(), ["derive"], "{name}");
    }
}

#[test]
fn what_is_no_plugin_says_what_it_is() {
    let missing = Plugin::load(Path::new("/nowhere/plugin.wasm")).unwrap_err();
    assert_eq!(missing.code(), "plugin-missing", "{missing}");
    let store = Plugin::from_bytes(metalab_store::component_bytes()).unwrap_err();
    assert_eq!(store.code(), "plugin-world");
    assert!(
        store.to_string().contains("wasi:filesystem/types"),
        "{store}"
    );
    let empty = Plugin::from_bytes(b"\0asm\x0d\0\x01\0").unwrap_err();
    assert_eq!(empty.code(), "plugin-world");
    assert!(empty.to_string().contains("no function derive"), "{empty}");
    for bytes in [&b""[..], b"no wasm", b"\0asm\x01\0\0\0"] {
        let refused = Plugin::from_bytes(bytes).unwrap_err();
        assert_eq!(refused.code(), "plugin-world", "{refused}");
    }
    let bytes = std::fs::read(plugin("example")).unwrap();
    let other = replaced(
        &bytes,
        b"metalab:store/view@0.1.0",
        b"metalab:store/view@0.9.0",
    );
    let refused = Plugin::from_bytes(&other).unwrap_err();
    assert_eq!(refused.code(), "plugin-version");
    assert!(refused.to_string().contains("0.9.0"), "{refused}");
}

/// Replaces one text in a binary by another of the same length.
fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let mut at = 0;
    while at + from.len() <= bytes.len() {
        if bytes[at..].starts_with(from) {
            bytes[at..at + to.len()].copy_from_slice(to);
        }
        at += 1;
    }
    bytes
}

/// Runs the command on a store, and returns how it ended with what it printed.
fn derive_by_command(root: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = command()
        .arg("-s")
        .arg(root)
        .arg("derive")
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn the_example_is_run_by_the_command_over_each_experiment_and_its_metrics_are_found() {
    let directory = tempfile::tempdir().unwrap();
    for experiment in ["exp:1", "exp:2"] {
        let store = FileStoreConfig::new(directory.path()).scoped(experiment);
        let store = store.connect().unwrap();
        put(&store, &["a", "b"]);
        store.put_log("a", "out", "twelve bytes").unwrap();
    }
    let mut loose = RunRecord::new("loose", Status::Success);
    loose.experiment_id = "loose:1".to_owned();
    let whole = FileStoreConfig::new(directory.path()).connect().unwrap();
    whole
        .put_run_record(&loose, &Expectation::Anything)
        .unwrap();
    let example = plugin("example");
    let (code, out, said) = derive_by_command(directory.path(), &[example.to_str().unwrap()]);
    assert_eq!(out, "4 runs: 4 derived, 0 failed.\n");
    assert_eq!(code, Some(0));
    assert_eq!(
        said,
        "warning: 1 runs lie in the collection itself and not in an experiment's directory: they were passed over\n"
    );
    let mut list = open(directory.path())
        .query_runs(&RunQuery {
            filter: "derived.metric_norm = 0.25 and derived.loss_rank = 0".to_owned(),
            sort: "run_id".to_owned(),
            columns: "run_id, derived.log_bytes, derived.metric_count".to_owned(),
            ..RunQuery::default()
        })
        .unwrap();
    let rows = list.next_rows(10).unwrap();
    let rows: Vec<Vec<String>> = rows
        .into_iter()
        .map(|row| row.into_iter().flatten().collect())
        .collect();
    assert_eq!(rows, [["\"a\"", "12", "1"], ["\"b\"", "0", "1"]]);
}

#[test]
fn the_command_reports_runs_that_failed_and_what_is_no_plugin() {
    let directory = tempfile::tempdir().unwrap();
    put(&open(directory.path()), &["refuse-1", "zero"]);
    let test = plugin("test");
    let test = test.to_str().unwrap();
    let (code, out, said) = derive_by_command(directory.path(), &[test, "-e", "exp:1"]);
    assert_eq!(out, "2 runs: 1 derived, 1 failed.\n");
    assert_eq!(
        said,
        "failed: exp:1 refuse-1: there is nothing to derive of refuse-1\n"
    );
    assert_eq!(code, Some(1));
    let (code, out, said) = derive_by_command(directory.path(), &[test, "--json", "--dry-run"]);
    let found: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        found,
        serde_json::json!({
            "dry_run": true,
            "runs": 2,
            "derived": 1,
            "failed": 1,
            "failures": [{
                "experiment_id": "exp:1",
                "run_id": "refuse-1",
                "code": "refused",
                "message": "there is nothing to derive of refuse-1",
            }],
        })
    );
    assert_eq!((code, said.as_str()), (Some(1), ""));
    let (code, _, said) = derive_by_command(directory.path(), &["/nowhere.wasm"]);
    assert_eq!(code, Some(1));
    assert!(
        said.starts_with("error: cannot read the plugin /nowhere.wasm"),
        "{said}"
    );
    let (code, _, _) = derive_by_command(directory.path(), &[test, "--time", "0"]);
    assert_eq!(code, Some(2));
}
