//! The demo: the main job of the store on an embedded default, as its user sees it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use metalab_store::types::{ArtifactReference, RunRecord, Status};
use metalab_store::{FileStoreConfig, Store};
use metalab_store_tests::{command, tree};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

fn demo(directory: &Path, arguments: &[&str]) -> Output {
    let binary = Path::new(command().get_program()).with_file_name("demo");
    Command::new(binary)
        .current_dir(directory)
        .args(arguments)
        .output()
        .unwrap()
}

/// Returns what a call that succeeded printed; it says nothing else where no terminal watches.
fn printed(output: Output) -> String {
    let complaints = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.success() && complaints.is_empty(),
        "{complaints}"
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Checks that everything is there that a runner leaves behind about a run.
fn check_run(store: &Store, run: &RunRecord) {
    let id = run.run_id.as_str();
    assert!(id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert!(run.started_at.is_some() && run.finished_at >= run.started_at);
    let params: Value = serde_json::from_str(&run.params_resolved).unwrap();
    assert!(params["learning_rate"].is_number(), "{params}");
    let fingerprints = [
        &run.context_fingerprint,
        &run.params_fingerprint,
        &run.seed_fingerprint,
    ];
    assert!(fingerprints.iter().all(|text| text.len() == 16));
    assert!(run.metrics.iter().any(|metric| metric.name == "final_loss"));
    assert!(!store.get_derived(id).unwrap().unwrap().is_empty());

    let losses = store.get_result(id, "train_loss").unwrap().unwrap();
    let points: Vec<(u64, f64)> = serde_json::from_str(&losses.data).unwrap();
    assert!(points.len() > 1 && points.is_sorted_by(|one, two| one.0 < two.0));
    assert_eq!(losses.shape, Some(vec![points.len() as u64, 2]));
    let metadata: Value = serde_json::from_str(&losses.metadata).unwrap();
    assert_eq!(metadata["type"], "stepped_metric");

    let log = store.get_log(id, "run").unwrap().unwrap();
    assert!(log.lines().count() > points.len(), "{log}");
    let artifacts = store.list_artifacts(id).unwrap();
    assert_eq!(artifacts.len(), 2);
    assert_eq!(artifacts, run.artifacts);
    for artifact in artifacts {
        let reference = ArtifactReference::Name((id.to_owned(), artifact.name));
        // Opening with verification fails if the content is not what was recorded.
        let reader = store.open_artifact(&reference, true).unwrap();
        assert_eq!(Some(reader.size()), artifact.size_bytes);
    }
}

#[test]
fn the_demo_leaves_behind_a_whole_experiment_and_every_call_adds_a_version() {
    let directory = tempfile::tempdir().unwrap();
    let first = printed(demo(directory.path(), &[]));
    assert!(first.contains("Did 64 runs of curve_fit:1"), "{first}");
    let config = FileStoreConfig::new(directory.path().join("demo-store")).read_only();
    let store = config.clone().scoped("curve_fit:1").connect().unwrap();
    let page = store.list_run_records(None).unwrap();
    assert_eq!((page.records.len(), page.damaged.len()), (64, 0));
    for run in &page.records {
        check_run(&store, run);
    }
    let failed: Vec<&RunRecord> = page
        .records
        .iter()
        .filter(|run| run.status == Status::Failed)
        .collect();
    assert!(!failed.is_empty() && failed.len() < 16, "{}", failed.len());
    for run in failed {
        let error: Value = serde_json::from_str(run.error.as_ref().unwrap()).unwrap();
        assert!(
            error["message"].as_str().unwrap().contains("diverged"),
            "{error}"
        );
    }
    let manifest = store.get_experiment_manifest("curve_fit:1").unwrap();
    let manifest: Value = serde_json::from_str(&manifest.unwrap().body).unwrap();
    let planned: BTreeSet<&str> = manifest["run_ids"]
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_str().unwrap())
        .collect();
    let done: BTreeSet<&str> = page.records.iter().map(|run| run.run_id.as_str()).collect();
    assert_eq!(planned, done);
    assert_eq!(manifest["total_runs"], 64);

    let version = directory.path().join("demo-store/curve_fit_1");
    let before = tree(&version);
    let second = printed(demo(directory.path(), &[]));
    assert!(second.contains("Did 64 runs of curve_fit:2"), "{second}");
    assert_eq!(
        tree(&version),
        before,
        "the second call changed the first version"
    );
    assert_eq!(
        config.list_experiments().unwrap().experiments,
        ["curve_fit:1", "curve_fit:2"]
    );
}

#[test]
fn the_commands_that_the_demo_names_work_as_they_are_printed() {
    let directory = tempfile::tempdir().unwrap();
    let report = printed(demo(directory.path(), &["--store", "my store"]));
    let (_, commands) = report.split_once("Try next\n").unwrap();
    let commands: Vec<&str> = commands.lines().map(str::trim).collect();
    assert_eq!(commands.len(), 2, "{report}");
    for line in commands {
        let output = Command::new("sh")
            .current_dir(directory.path())
            .env_remove("METALAB_STORE")
            .args(["-c", line])
            .output()
            .unwrap();
        let text = printed(output);
        assert!(text.lines().count() > 20, "{line}: {text}");
    }
}

#[test]
fn what_the_demo_cannot_do_it_tells_in_one_sentence() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("file"), "x").unwrap();
    for (arguments, words) in [
        (&["--store", "file"][..], "not a directory"),
        (&["--store"], "name of a directory"),
        (&["--frobnicate"], "--frobnicate"),
    ] {
        let output = demo(directory.path(), arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.starts_with("demo: ") && said.contains(words) && said.lines().count() == 1,
            "{said}"
        );
    }
    assert_eq!(tree(directory.path()).len(), 1);
}
