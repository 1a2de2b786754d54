//! What happens to a store when an instance of the component exceeds a limit, fails or is closed.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use metalab_store::types::{
    ArtifactDescriptor, ArtifactReference, Durability, Expectation, RunRecord, Status,
};
use metalab_store::{FileStoreConfig, Limits, Store, StoreConfig};
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

const MIB: usize = 1 << 20;

fn config(root: &Path) -> FileStoreConfig {
    FileStoreConfig::new(root).scoped("exp:1")
}

/// Opens a store of one instance, so that a failure is one of every call.
fn open_one(root: &Path, limits: Limits) -> Store {
    StoreConfig::from(config(root))
        .limits(limits)
        .max_instances(1)
        .connect()
        .unwrap()
}

fn put(store: &Store, run: &str) {
    let run = RunRecord::new(run, Status::Success);
    store.put_run_record(&run, &Expectation::Anything).unwrap();
}

/// Makes the component use more memory than a store of these limits may.
fn exhaust(store: &Store) {
    let mut large = RunRecord::new("large", Status::Success);
    large.notes = Some("x".repeat(24 * MIB));
    let error = store
        .put_run_record(&large, &Expectation::Anything)
        .unwrap_err();
    assert_eq!(error.code(), "limit-exceeded", "{error}");
    assert!(error.to_string().contains("bytes of memory"), "{error}");
}

fn little_memory() -> Limits {
    Limits {
        memory_bytes: 16 * MIB,
        ..Limits::default()
    }
}

#[test]
fn a_call_that_takes_longer_than_it_may_ends_and_the_store_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let store = config(directory.path())
        .lock_timeout(Duration::from_secs(2))
        .limits(Limits {
            call_deadline: Duration::from_millis(500),
            ..Limits::default()
        })
        .connect()
        .unwrap();
    // The lock is waited for in the host, which nothing interrupts; the component goes on only after it.
    let path = directory.path().join("exp_1/.locks/run.lock");
    let held = std::fs::File::create(path).unwrap();
    held.lock().unwrap();
    let run = RunRecord::new("run", Status::Success);
    let error = store
        .put_run_record(&run, &Expectation::Anything)
        .unwrap_err();
    assert_eq!(error.code(), "limit-exceeded", "{error}");
    assert!(error.to_string().contains("longer than 500ms"), "{error}");
    drop(held);
    let reader = config(directory.path()).read_only().connect().unwrap();
    assert!(!reader.run_exists("run").unwrap());
}

#[test]
fn after_a_failure_what_was_opened_says_so_and_the_store_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_one(directory.path(), little_memory());
    put(&store, "run");
    let mut list = store.list_runs(None).unwrap();
    exhaust(&store);
    let error = list.next(10).unwrap_err();
    assert_eq!(error.code(), "trap");
    assert!(error.to_string().contains("open it again"), "{error}");
    drop(list);
    assert_eq!(store.list_run_records(None).unwrap().records.len(), 1);
    put(&store, "other");
    store.close().unwrap();
}

#[test]
fn a_fresh_instance_is_granted_the_directory_that_was_opened_wherever_its_name_leads_by_now() {
    let parent = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    let (root, aside) = (parent.path().join("root"), parent.path().join("aside"));
    let store = open_one(&root, little_memory());
    std::fs::rename(&root, &aside).unwrap();
    std::os::unix::fs::symlink(outside.path(), &root).unwrap();
    exhaust(&store);
    put(&store, "run");
    assert!(aside.join("exp_1/runs/run.json").exists());
    assert!(metalab_store_tests::tree(outside.path()).is_empty());
}

#[test]
fn more_open_readers_than_there_may_be_resources_are_a_limit_and_not_a_crash() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_one(
        directory.path(),
        Limits {
            resources: 64,
            ..Limits::default()
        },
    );
    let descriptor = ArtifactDescriptor::new("run", "x", "blob", "bin");
    store.put_artifact(b"content", &descriptor).unwrap();
    let artifact = ArtifactReference::Name(("run".to_owned(), "x".to_owned()));
    let mut readers = Vec::new();
    let error = loop {
        assert!(readers.len() < 1000, "nothing limits the readers");
        match store.open_artifact(&artifact, false) {
            Ok(reader) => readers.push(reader),
            Err(error) => break error,
        }
    };
    assert_eq!(error.code(), "limit-exceeded", "{error}");
    drop(readers);
    assert_eq!(store.get_artifact(&artifact).unwrap(), b"content");
}

#[test]
fn with_a_single_instance_a_list_can_be_walked_while_its_runs_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_one(directory.path(), Limits::default());
    for run in ["a", "b", "c"] {
        put(&store, run);
    }
    let mut list = store.list_runs(None).unwrap();
    let mut seen = Vec::new();
    loop {
        let page = list.next(1).unwrap();
        let Some(run) = page.first() else { break };
        assert!(store.get_run_record(&run.run_id).unwrap().is_some());
        seen.push(run.run_id.clone());
    }
    assert_eq!(seen, ["a", "b", "c"]);
}

#[test]
fn closing_ends_readers_and_lists_and_takes_unfinished_artifacts_away() {
    let directory = tempfile::tempdir().unwrap();
    let store = config(directory.path()).connect().unwrap();
    put(&store, "run");
    let descriptor = ArtifactDescriptor::new("run", "x", "blob", "bin");
    store.put_artifact(b"content", &descriptor).unwrap();
    let before = metalab_store_tests::tree(directory.path());
    let artifact = ArtifactReference::Name(("run".to_owned(), "x".to_owned()));
    let mut reader = store.open_artifact(&artifact, false).unwrap();
    let mut list = store.list_runs(None).unwrap();
    let other = ArtifactDescriptor::new("run", "y", "blob", "bin");
    let mut writer = store.create_artifact(&other).unwrap();
    writer.write_all(b"half").unwrap();
    store.close().unwrap();
    assert_eq!(list.next(1).unwrap_err().code(), "closed");
    assert_eq!(reader.read_at(0, 1).unwrap_err().code(), "closed");
    reader.read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(writer.finish().unwrap_err().code(), "closed");
    let files = |tree: std::collections::BTreeMap<String, Vec<u8>>| -> Vec<String> {
        let names = tree.into_keys();
        names
            .filter(|name| name.contains("artifacts") || name.contains("staging/"))
            .filter(|name| !name.ends_with("staging/"))
            .collect()
    };
    assert_eq!(
        files(metalab_store_tests::tree(directory.path())),
        files(before)
    );
}

#[test]
fn the_largest_texts_of_the_contract_pass_and_larger_ones_are_too_large() {
    let directory = tempfile::tempdir().unwrap();
    let store = config(directory.path())
        .durability(Durability::Relaxed)
        .connect()
        .unwrap();
    let largest = "0123456789abcde\n".repeat(4 * MIB);
    assert_eq!(largest.len(), 64 * MIB);
    store.put_log("run", "log", &largest).unwrap();
    assert!(store.get_log("run", "log").unwrap().unwrap() == largest);
    store.append_log("run", "log", "x", false).unwrap();
    assert_eq!(store.get_log("run", "log").unwrap_err().code(), "too-large");
}

#[test]
fn a_collection_of_large_records_is_listed_whole() {
    let directory = tempfile::tempdir().unwrap();
    let store = config(directory.path())
        .durability(Durability::Relaxed)
        .connect()
        .unwrap();
    // Together more than one answer of the component may carry.
    let notes = "x".repeat(4 * MIB);
    let count = Limits::default().host_call_bytes / notes.len() + 2;
    for index in 0..count {
        let mut run = RunRecord::new(format!("run{index:04}"), Status::Success);
        run.notes = Some(notes.clone());
        store.put_run_record(&run, &Expectation::Anything).unwrap();
    }
    assert_eq!(store.list_run_records(None).unwrap().records.len(), count);
}
