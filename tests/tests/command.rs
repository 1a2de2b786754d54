//! The command on the reference's collection: what people and programs read.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use metalab_store_tests::{checkout, command, reference_collection, tree};
use std::io::Write;
use std::path::Path;
use std::process::{Output, Stdio};

fn run(directory: &Path, arguments: &[&str]) -> Output {
    command()
        .current_dir(directory)
        .args(arguments)
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn put(directory: &Path, arguments: &[&str], input: &str) -> Output {
    let mut child = command()
        .current_dir(directory)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn reading_commands_answer_and_change_nothing() {
    let unpacked = reference_collection();
    let before = tree(unpacked.path());
    let run = |arguments: &[&str]| text(&run(unpacked.path(), arguments));
    assert_eq!(
        run(&["experiments"]),
        "Experiments:\n  curve_fit:1.0\n  damaged:1\n  plain\n  special:2\n"
    );
    insta::assert_snapshot!("runs", run(&["runs"]));
    insta::assert_snapshot!("show", run(&["show", "ab715c67c9710b4f"]));
    insta::assert_snapshot!("show_failed", run(&["show", "920aa42fdc123795"]));
    insta::assert_snapshot!("artifacts", run(&["artifacts", "ab715c67c9710b4f"]));
    assert_eq!(
        run(&["logs", "ab715c67c9710b4f"]),
        "legacylabel\nrun\nstderr\nstdout\n"
    );
    assert_eq!(
        run(&["logs", "ab715c67c9710b4f", "stdout"]),
        "hello\nworld\n"
    );
    assert_eq!(run(&["logs", "run_1"]), "run\n");
    let summary = std::fs::read_to_string(
        unpacked
            .path()
            .join("experiments/curve_fit_1.0/artifacts/ab715c67c9710b4f/summary.json"),
    );
    assert_eq!(
        run(&["cat", "ab715c67c9710b4f", "summary"]),
        summary.unwrap()
    );
    assert!(run(&["cat", "ab715c67c9710b4f", "scalar"]).contains("\"data\""));
    assert_eq!(tree(unpacked.path()), before);
}

#[test]
fn json_output_is_json_and_holds_every_record_and_all_damage() {
    let unpacked = reference_collection();
    let experiments: serde_json::Value =
        serde_json::from_str(&text(&run(unpacked.path(), &["experiments", "--json"]))).unwrap();
    assert_eq!(experiments["experiments"].as_array().unwrap().len(), 4);
    let runs = text(&run(unpacked.path(), &["runs", "--json"]));
    // One record holds NaN and infinities, as Python writes them; everything else is plain JSON.
    let plain = runs
        .replace("-Infinity", "null")
        .replace("Infinity", "null")
        .replace("NaN", "null");
    let runs: serde_json::Value = serde_json::from_str(&plain).unwrap();
    assert_eq!(runs["runs"].as_array().unwrap().len(), 14);
    assert_eq!(runs["damaged"].as_array().unwrap().len(), 8);
    assert!(text(&run(unpacked.path(), &["runs", "--json"])).contains("1180591620717411303424"));
    let lines = text(&run(
        unpacked.path(),
        &["-e", "plain", "runs", "--json-lines"],
    ));
    assert_eq!(lines.lines().count(), 5);
    let shown = text(&run(unpacked.path(), &["show", "run_1", "--json"]));
    let file =
        std::fs::read_to_string(unpacked.path().join("experiments/plain/runs/run_1.json")).unwrap();
    assert_eq!(shown.trim_end(), file);
    let artifacts = text(&run(
        unpacked.path(),
        &["artifacts", "ab715c67c9710b4f", "--json"],
    ));
    let artifacts: serde_json::Value = serde_json::from_str(&artifacts).unwrap();
    assert_eq!(artifacts["artifacts"][0]["metadata"]["stage"], "final");
    let log = text(&run(unpacked.path(), &["logs", "run_1", "run", "--json"]));
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&log).unwrap()["content"],
        "run_1\n"
    );
}

#[test]
fn a_record_put_is_the_file_that_the_reference_would_write() {
    let unpacked = reference_collection();
    let directory = tempfile::tempdir().unwrap();
    let original = unpacked
        .path()
        .join("experiments/curve_fit_1.0/runs/ab715c67c9710b4f.json");
    let original = std::fs::read_to_string(original).unwrap();
    let stored = put(directory.path(), &["-e", "curve_fit:1.0", "put"], &original);
    assert_eq!(text(&stored), "Stored 1 run.\n");
    let written = directory
        .path()
        .join("experiments/curve_fit_1.0/runs/ab715c67c9710b4f.json");
    assert_eq!(std::fs::read_to_string(written).unwrap(), original);

    let lines = "{\"run_id\": \"a\", \"status\": \"success\"}\n\n{\"run_id\": \"../b\", \"status\": \"success\"}\n{\"run_id\": \"c\", \"status\": \"running\"}\n";
    let stored = put(directory.path(), &["-e", "curve_fit:1.0", "put"], lines);
    assert_eq!(stored.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&stored.stdout), "Stored 2 runs.\n");
    assert!(String::from_utf8_lossy(&stored.stderr).contains("../b"));
    assert_eq!(
        text(&run(
            directory.path(),
            &["-e", "curve_fit:1.0", "delete", "a", "c"]
        )),
        "Deleted run a\nDeleted run c\n"
    );
    assert_eq!(
        run(directory.path(), &["-e", "curve_fit:1.0", "delete", "a"])
            .status
            .code(),
        Some(1)
    );
}

#[test]
fn mistakes_are_told_in_one_sentence_and_by_the_exit_code() {
    let directory = tempfile::tempdir().unwrap();
    let missing = run(directory.path(), &["runs"]);
    assert_eq!(missing.status.code(), Some(1));
    let said = String::from_utf8(missing.stderr).unwrap();
    assert!(
        said.contains("no such directory") && said.lines().count() == 1,
        "{said}"
    );
    assert_eq!(
        text(&run(directory.path(), &["experiments"])),
        "No experiments found\n"
    );
    assert_eq!(
        run(directory.path(), &["frobnicate"]).status.code(),
        Some(2)
    );
    let json = run(directory.path(), &["runs", "--json"]);
    let said: serde_json::Value = serde_json::from_slice(&json.stderr).unwrap();
    assert_eq!(said["error"]["code"], "root");
    let scoped = run(directory.path(), &["-e", "x", "experiments", "--json"]);
    assert_eq!(
        serde_json::from_slice::<serde_json::Value>(&scoped.stderr).unwrap()["error"]["code"],
        "invalid-argument"
    );
    assert!(tree(directory.path()).is_empty());
    let unpacked = reference_collection();
    let unknown = run(unpacked.path(), &["show", "nothing"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(
        String::from_utf8(unknown.stderr)
            .unwrap()
            .contains("\"nothing\"")
    );
}

#[test]
fn the_help_of_every_command_is_as_it_was_reviewed() {
    let directory = tempfile::tempdir().unwrap();
    let mut help = text(&run(directory.path(), &["--help"]));
    for name in [
        "experiments",
        "runs",
        "show",
        "put",
        "delete",
        "logs",
        "artifacts",
        "cat",
        "completions",
    ] {
        help.push_str(&format!("\n--- {name}\n"));
        help.push_str(&text(&run(directory.path(), &[name, "--help"])));
    }
    insta::assert_snapshot!("help", help);
    assert!(text(&run(directory.path(), &["completions", "bash"])).contains("metalab-store"));
}

#[test]
fn every_test_file_is_built() {
    // Cargo finds them by itself unless that is switched off.
    let manifest = std::fs::read_to_string(checkout().join("tests/Cargo.toml")).unwrap();
    assert!(!manifest.contains("autotests"));
}
