//! Names that differ by their case or their normal form alone, names that are no text, and files that change under
//! whoever reads them: everything else is read and written as if they were not there.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use metalab_store::types::{
    ArtifactDescriptor, ArtifactReference, Expectation, RunRecord, Status, StructuredResult,
};
use metalab_store::{Error, FileStoreConfig, Store};
use metalab_store_tests::{attacks, command};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// Twins: by case, and by the normal form of one letter.
const RUNS: [&str; 4] = ["Run", "run", "\u{e9}", "e\u{301}"];

fn open(root: &Path) -> Store {
    FileStoreConfig::new(root)
        .scoped("exp:1")
        .connect()
        .unwrap()
}

fn fill(store: &Store, run: &str) {
    let mut record = RunRecord::new(run, Status::Success);
    record.notes = Some(run.to_owned());
    store
        .put_run_record(&record, &Expectation::Anything)
        .unwrap();
    store
        .put_derived_text(run, &format!("{{\"of\": \"{run}\"}}"))
        .unwrap();
    let result = StructuredResult::new(format!("\"{run}\""));
    store.put_result(run, "x", &result).unwrap();
    store.put_log(run, "run", run).unwrap();
    let descriptor = ArtifactDescriptor::new(run, "x", "blob", "bin");
    store.put_artifact(run.as_bytes(), &descriptor).unwrap();
}

/// Asserts that a run has all of its own, and nothing of another.
fn assert_whole(store: &Store, run: &str) {
    let record = store.get_run_record(run).unwrap().unwrap();
    assert_eq!(
        (record.run_id.as_str(), record.notes.as_deref()),
        (run, Some(run))
    );
    let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    let derived = store.get_derived_text(run).unwrap().unwrap();
    assert_eq!(value(&derived)["of"], run);
    let result = store.get_result(run, "x").unwrap().unwrap();
    assert_eq!(value(&result.data), run);
    assert_eq!(store.get_log(run, "run").unwrap().as_deref(), Some(run));
    assert_eq!(store.list_logs(run).unwrap(), ["run"]);
    let reference = ArtifactReference::Name((run.to_owned(), "x".to_owned()));
    assert_eq!(store.get_artifact(&reference).unwrap(), run.as_bytes());
    assert_eq!(store.list_artifacts(run).unwrap().len(), 1);
}

fn listed(store: &Store) -> BTreeSet<String> {
    let page = store.list_run_records(None).unwrap();
    assert_eq!(page.damaged, []);
    page.records.into_iter().map(|run| run.run_id).collect()
}

fn names(runs: &[&str]) -> BTreeSet<String> {
    runs.iter().map(|run| (*run).to_owned()).collect()
}

#[test]
fn runs_whose_names_are_twins_are_different_runs() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    for run in RUNS {
        fill(&store, run);
    }
    for (at, gone) in RUNS.iter().enumerate() {
        assert_eq!(listed(&store), names(&RUNS[at..]));
        for run in &RUNS[at..] {
            assert_whole(&store, run);
        }
        assert!(store.delete_run(gone).unwrap());
        attacks::count(
            "twins and names that are no text",
            "everything else whole",
            1,
        );
    }
    assert_eq!(listed(&store), BTreeSet::new());
}

#[test]
fn names_that_are_no_text_hide_nothing_and_stop_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let store = open(&root);
    for run in RUNS {
        fill(&store, run);
    }
    store.put_experiment_manifest("exp:1", "{}", None).unwrap();
    let places = [
        "",
        "runs",
        "derived",
        "logs",
        "artifacts",
        "results",
        "experiments",
        ".locks",
        ".index",
        ".index/staging",
        "artifacts/run",
        "results/run",
    ];
    for place in places {
        let within = root.join("exp_1").join(place);
        fs::create_dir_all(&within).unwrap();
        for name in [
            &b"\xff.json"[..],
            b"run_\xff.log",
            b"journal-\xff.seg",
            b"x.tmp.\xc3",
        ] {
            fs::write(within.join(OsStr::from_bytes(name)), "{}").unwrap();
            attacks::count(
                "twins and names that are no text",
                "everything else whole",
                1,
            );
        }
        fs::create_dir(within.join(OsStr::from_bytes(b"\xfe"))).unwrap();
    }
    store.close().unwrap();
    let store = open(&root);
    assert_eq!(listed(&store), names(&RUNS));
    for run in RUNS {
        assert_whole(&store, run);
        fill(&store, run);
        assert_whole(&store, run);
    }
    assert_eq!(store.list_experiment_manifests("exp:1").unwrap().len(), 1);
    assert!(store.delete_run("Run").unwrap());
    assert_eq!(listed(&store), names(&RUNS[1..]));
    store.close().unwrap();
    // Damage would be another status.
    let locator = root.to_str().unwrap().to_owned();
    for arguments in [
        &["verify"][..],
        &["gc", "--apply", "--grace", "0s"],
        &["runs"],
    ] {
        let ended = command()
            .args(["-s", &locator, "-e", "exp:1"])
            .args(arguments)
            .output()
            .unwrap();
        assert!(ended.status.success(), "{arguments:?}: {ended:?}");
    }
    assert_whole(&open(&root), "run");
}

/// Writes a file in place, now short and now long, until it is told to stop.
fn change(file: &Path, contents: &[Vec<u8>; 2], over: &AtomicBool) {
    let file = File::options().write(true).open(file).unwrap();
    while !over.load(Ordering::Relaxed) {
        for content in contents {
            file.write_all_at(content, 0).unwrap();
            file.set_len(content.len() as u64).unwrap();
        }
    }
}

#[test]
fn a_file_that_grows_and_shrinks_while_it_is_read_is_an_answer_or_a_typed_error() {
    const READS: u64 = 200;
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let store = open(&root);
    for run in ["bad", "good"] {
        fill(&store, run);
    }
    let padded = |length: usize| {
        let notes = "x".repeat(length);
        format!(
            "{{\"run_id\": \"bad\", \"experiment_id\": \"exp:1\", \"status\": \"success\", \"notes\": \"{notes}\"}}"
        )
        .into_bytes()
    };
    let cases: [(&str, [Vec<u8>; 2]); 4] = [
        ("runs/bad.json", [padded(1), padded(200_000)]),
        (
            "derived/bad.json",
            [
                b"{}".to_vec(),
                [b"{\"a\": 1}".to_vec(), vec![b' '; 150_000]].concat(),
            ],
        ),
        (
            "logs/bad_run.log",
            [b"a\n".to_vec(), b"line\n".repeat(40_000)],
        ),
        (
            "artifacts/bad/x.bin",
            [b"bad".to_vec(), b"bad".repeat(100_000)],
        ),
    ];
    for (place, contents) in &cases {
        let file = root.join("exp_1").join(place);
        assert!(file.is_file(), "{place}");
        let over = AtomicBool::new(false);
        thread::scope(|threads| {
            threads.spawn(|| change(&file, contents, &over));
            for _ in 0..READS {
                let reference = ArtifactReference::Name(("bad".to_owned(), "x".to_owned()));
                let outcomes = [
                    store.get_run_record("bad").map(drop),
                    store.get_derived_text("bad").map(drop),
                    store.get_log("bad", "run").map(drop),
                    store.get_artifact(&reference).map(drop),
                    store.list_run_records(None).map(drop),
                ];
                for outcome in outcomes {
                    let typed = matches!(
                        outcome,
                        Ok(()) | Err(Error::Corrupt(_) | Error::TooLarge(_))
                    );
                    assert!(typed, "{place}: {outcome:?}");
                }
                assert_whole(&store, "good");
            }
            over.store(true, Ordering::Relaxed);
        });
        attacks::count(
            "files that change while they are read",
            "an answer or a typed error",
            READS,
        );
    }
}
