//! Clocks that are ahead, and clocks that jump: whether a writer lives is told by its locks, never by the time of a file.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use metalab_store_guest::database::listing::RunListing;
use metalab_store_guest::model::{
    Access, ArtifactDescriptor, ArtifactReference, Durability, Expectation, StoreOptions,
};
use metalab_store_guest::native;
use metalab_store_guest::ports::{Clock, Ports};
use metalab_store_guest::query::QueryText;
use metalab_store_guest::store::Store;
use metalab_store_guest::testing::{Touch, watched};
use metalab_store_guest::verify::{FindingKind, GarbageOptions, VerifyOptions};
use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::rc::Rc;

const HOUR: i64 = 3_600_000_000_000;

/// A clock that a test sets forward and back.
struct Shifted {
    inner: Rc<dyn Clock>,
    by: Rc<Cell<i64>>,
}

impl Clock for Shifted {
    fn now(&self) -> u64 {
        self.inner.now().saturating_add_signed(self.by.get())
    }
}

/// Opens a store, and returns the handle on its clock too.
fn open(root: &Path, durability: Durability) -> (Store, Rc<Cell<i64>>) {
    open_with(native::ports(root).unwrap(), root, durability)
}

fn open_with(mut ports: Ports, root: &Path, durability: Durability) -> (Store, Rc<Cell<i64>>) {
    let by = Rc::new(Cell::new(0));
    ports.clock = Rc::new(Shifted {
        inner: ports.clock,
        by: Rc::clone(&by),
    });
    let options = StoreOptions {
        directory: root.to_str().unwrap().to_owned(),
        experiment_id: Some("e:1".to_owned()),
        access: Access::ReadWrite,
        durability,
        lock_timeout_ms: 1_000,
        index: None,
    };
    (Store::open(ports, options).unwrap(), by)
}

fn put(store: &Store, run: &str) {
    let record = format!(r#"{{"run_id": "{run}", "experiment_id": "e:1", "status": "success"}}"#);
    store.put_run_text(&record, &Expectation::Anything).unwrap();
}

fn listed(store: &Store) -> usize {
    match store.query_runs(&QueryText::default()).unwrap() {
        RunListing::Files(mut list) => {
            let mut count = 0;
            loop {
                match list.next(1_000).unwrap().len() {
                    0 => return count,
                    more => count += more,
                }
            }
        }
        RunListing::Database(_) => panic!("there is no database"),
    }
}

fn artifact() -> ArtifactDescriptor {
    ArtifactDescriptor {
        artifact_id: "run-x".to_owned(),
        name: "x".to_owned(),
        kind: "bytes".to_owned(),
        format: "bin".to_owned(),
        uri: String::new(),
        content_hash: None,
        size_bytes: None,
        metadata: r#"{"_run_id": "run"}"#.to_owned(),
        unknown: "{}".to_owned(),
    }
}

#[test]
fn an_artifact_that_is_being_written_is_left_alone_by_every_other_store_whatever_its_clock_says() {
    for durability in [Durability::Full, Durability::Relaxed] {
        let directory = tempfile::tempdir().unwrap();
        let (writing, _) = open(directory.path(), durability);
        let mut artifact = writing.create_artifact(artifact()).unwrap();
        artifact.write(b"half of it, ").unwrap();
        let staged = writing.stage_artifact(self::artifact()).unwrap();
        fs::write(directory.path().join(&staged), "placed by the host").unwrap();
        // Whoever opens a store removes what dead writers left.
        let (other, by) = open(directory.path(), durability);
        by.set(100 * HOUR);
        let options = GarbageOptions {
            apply: true,
            grace_seconds: 3_600,
        };
        let mut collection = other.collect_garbage(options).unwrap();
        while collection.step().unwrap().is_some() {}
        assert_eq!(collection.report().files, 0, "{durability:?}");
        drop(collection);
        artifact.write(b"and the rest").unwrap();
        artifact.finish().unwrap();
        let reference = ArtifactReference::Name("run".to_owned(), "x".to_owned());
        assert_eq!(
            other.get_artifact(&reference).unwrap(),
            b"half of it, and the rest"
        );
        assert!(directory.path().join(&staged).is_file());
        // Once its writer is gone it is swept.
        drop(writing);
        drop(other);
        drop(open(directory.path(), durability));
        assert!(!directory.path().join(&staged).exists(), "{durability:?}");
    }
}

#[test]
fn a_table_that_a_writer_with_a_clock_ahead_swept_is_written_again_by_the_store_that_needs_it() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let (ours, _) = open(root, Durability::Relaxed);
    let put_many = |name: &str| {
        for index in 0..400 {
            put(&ours, &format!("{name}{index}"));
        }
    };
    put_many("a");
    assert_eq!(listed(&ours), 400);
    // The other one does not know our table, and finds it old.
    fs::remove_file(root.join(".index/columns")).unwrap();
    let (other, by) = open(root, Durability::Relaxed);
    by.set(HOUR);
    assert_eq!(listed(&other), 400);
    put_many("b");
    assert_eq!(listed(&ours), 800);
    let mut verification = ours.verify(VerifyOptions::default()).unwrap();
    let mut found = Vec::new();
    while verification.step().unwrap().is_some() {
        found.extend(verification.take_findings());
    }
    found.extend(verification.take_findings());
    found.retain(|finding| finding.kind == FindingKind::Index);
    assert_eq!(found, []);
}

#[test]
fn the_list_that_a_verification_is_writing_is_left_alone_by_a_store_whose_clock_is_ahead() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().to_owned();
    let (store, _) = open(&root, Durability::Relaxed);
    for index in 0..400 {
        put(&store, &format!("a{index}"));
    }
    assert_eq!(listed(&store), 400);
    let mut ports = native::ports(&root).unwrap();
    let held = Rc::new(Cell::new(0));
    let (count, at) = (Rc::clone(&held), root.clone());
    ports.directory = watched(ports.directory, move |touch, path| {
        if touch == Touch::Rename && path == ".index/digests" {
            count.set(count.get() + 1);
            let head = at.join(".index/columns");
            fs::remove_file(&head).unwrap();
            let (other, by) = open(&at, Durability::Relaxed);
            by.set(HOUR);
            assert_eq!(listed(&other), 400);
            assert!(head.exists(), "the other one saved its index");
        }
    });
    let (verifying, by) = open_with(ports, &root, Durability::Relaxed);
    // A file that was changed a moment ago is not noted.
    by.set(1_000_000_000);
    let mut verification = verifying.verify(VerifyOptions::default()).unwrap();
    while verification.step().unwrap().is_some() {}
    // The list was there to be taken away.
    assert_eq!(held.get(), 1);
    assert!(root.join(".index/digests").exists());
}

#[test]
fn after_a_clock_was_set_back_a_store_still_looks_for_what_other_programs_did() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().to_owned();
    let mut ports = native::ports(&root).unwrap();
    let foreign = Rc::new(Cell::new(false));
    let (write, runs) = (Rc::clone(&foreign), root.join("runs"));
    ports.directory = watched(ports.directory, move |touch, path| {
        // Just before our own change: so that what we note of the directory covers both.
        if touch == Touch::Make && path.starts_with("runs/") && write.take() {
            let record = r#"{"run_id": "f", "experiment_id": "e:1", "status": "success"}"#;
            fs::write(runs.join("f.json"), record).unwrap();
        }
    });
    let (store, by) = open_with(ports, &root, Durability::Relaxed);
    by.set(HOUR);
    put(&store, "a");
    assert_eq!(listed(&store), 1);
    // The first change after the file of notes was begun says only what it is about.
    put(&store, "b");
    assert_eq!(listed(&store), 2);
    foreign.set(true);
    put(&store, "c");
    assert_eq!(listed(&store), 3, "the foreign change shows already");
    by.set(0);
    assert_eq!(listed(&store), 4);
}
