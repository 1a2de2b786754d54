//! One script of calls, as data: every host gives the same answers and errors, and leaves the same files and tables.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use metalab_store_tests::checkout;
use metalab_store_tests::conformance::{Native, RustHost, Target, tables, transcript};
use metalab_store_tests::database::Schema;
use serde_json::Value;
use std::fmt::{Display, Write};
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;

fn root() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("root");
    fs::create_dir(&root).unwrap();
    (directory, root)
}

fn run<T: Target>(target: &T) -> Vec<Value> {
    let (_directory, root) = root();
    transcript(target, &root)
}

/// What all hosts give.
fn expected() -> Vec<Value> {
    let text = fs::read_to_string(checkout().join("tests/conformance/expected.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    lines.collect()
}

/// Writes what the native logic gave for what all hosts give, if told so.
fn accept<T: Display>(name: &str, found: &[T]) {
    if std::env::var("METALAB_CONFORMANCE").is_ok_and(|value| value == "accept") {
        let text = found.iter().fold(String::new(), |mut text, line| {
            writeln!(text, "{line}").unwrap();
            text
        });
        fs::write(checkout().join("tests/conformance").join(name), text).unwrap();
    }
}

/// Compares the rows of an index's tables with those that all hosts write.
fn compare_tables(found: &[String]) {
    let path = checkout().join("tests/conformance/tables.jsonl");
    let expected = fs::read_to_string(path).unwrap();
    for (found, expected) in found.iter().zip(expected.lines()) {
        assert_eq!(found, expected);
    }
    assert_eq!(found.len(), expected.lines().count());
}

/// Compares transcripts line by line, and names the first call that differs.
fn compare(found: &[Value], expected: &[Value]) {
    let script = fs::read(checkout().join("tests/conformance/script.json")).unwrap();
    let script: Value = serde_json::from_slice(&script).unwrap();
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        if found["unavailable"] == true {
            continue;
        }
        let operation = script["operations"].get(index);
        assert_eq!(found, expected, "call {index}: {operation:?}");
    }
    assert_eq!(found.len(), expected.len());
}

#[test]
fn the_script_has_hundreds_of_calls_of_every_function() {
    let script = fs::read(checkout().join("tests/conformance/script.json")).unwrap();
    let script: Value = serde_json::from_slice(&script).unwrap();
    assert!(script["operations"].as_array().unwrap().len() >= 600);
}

#[test]
fn the_native_logic_gives_what_all_hosts_give() {
    let found = run(&Native::default());
    accept("expected.jsonl", &found);
    compare(&found, &expected());
}

#[test]
fn the_rust_host_gives_what_all_hosts_give() {
    compare(&run(&RustHost::default()), &expected());
}

#[test]
fn the_native_logic_gives_the_same_with_an_index_in_postgresql() {
    let (_directory, root) = root();
    let target = Native(Some(Schema::new()));
    compare(&transcript(&target, &root), &expected());
    let found = tables(target.0.as_ref().unwrap(), &root);
    accept("tables.jsonl", &found);
    compare_tables(&found);
}

#[test]
fn the_rust_host_gives_the_same_with_an_index_in_postgresql() {
    let (_directory, root) = root();
    let target = RustHost(Some(Schema::new()));
    compare(&transcript(&target, &root), &expected());
    compare_tables(&tables(target.0.as_ref().unwrap(), &root));
}
