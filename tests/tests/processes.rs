//! Many processes on one store: no update is lost, no file of another program undone, and no read fails because
//! a file vanished.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use metalab_store::types::{ArtifactDescriptor, ArtifactReference, Expectation, RunRecord, Status};
use metalab_store::{Error, FileStoreConfig, Store};
use metalab_store_tests::script::{State, after, calls, make, observe, record};
use metalab_store_tests::{Worker, leftovers, tree};
use std::fs;
use std::path::Path;

fn open(root: &Path) -> Store {
    FileStoreConfig::new(root)
        .scoped("exp:1")
        .connect()
        .unwrap()
}

fn notes(store: &Store, run: &str) -> Option<String> {
    store.get_run_record(run).unwrap()?.notes
}

#[test]
fn eight_writers_and_four_readers_lose_nothing_and_see_only_whole_runs() {
    const TIMES: u32 = 60;
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let store = open(&root);
    let stable: Vec<String> = (0..20).map(|index| format!("stable{index}")).collect();
    for run in &stable {
        store
            .put_run_record(&record(run, 7), &Expectation::Anything)
            .unwrap();
    }
    let times = TIMES.to_string();
    let stable: Vec<&str> = stable.iter().map(String::as_str).collect();
    let churned: Vec<String> = (0..4).map(|index| format!("churn-x{index}")).collect();
    let churned: Vec<&str> = churned.iter().map(String::as_str).collect();
    let readers = vec![
        Worker::start("list", &root, &stable),
        Worker::start("list", &root, &stable),
        Worker::start("read", &root, &churned),
        Worker::start("read", &root, &churned),
    ];
    let churners = vec![
        Worker::start("churn", &root, &["churn-x"]),
        Worker::start("churn", &root, &["churn-y"]),
        Worker::start("script", &root, &["script-", "5"]),
    ];
    // Four of ours and one that writes as the reference does count together.
    let counters: Vec<Worker> = (0..4)
        .map(|_| Worker::start("count", &root, &["counter", &times]))
        .collect();
    let mut plain = Worker::start("plain", &root, &["plain-own", "counter", &times]);
    let mut written = 0;
    while plain.line().is_some() {
        written += 1;
    }
    plain.end();
    assert_eq!(written, TIMES);
    // They end by themselves: the end of their input means nothing to them.
    let counted: usize = counters.into_iter().map(Worker::end).sum();
    assert_eq!(counted, 4 * TIMES as usize);
    for worker in churners {
        assert!(worker.end() > 0);
    }
    for worker in readers {
        assert!(worker.end() > 0, "a reader never came to its end");
    }
    assert_eq!(
        notes(&store, "counter").unwrap(),
        (5 * TIMES).to_string(),
        "updates were lost"
    );
    assert_eq!(notes(&store, "plain-own").unwrap(), times);
    store.close().unwrap();
    let store = open(&root);
    assert_eq!(notes(&store, "counter").unwrap(), (5 * TIMES).to_string());
    assert_eq!(notes(&store, "plain-own").unwrap(), times);
    assert_eq!(store.list_run_records(None).unwrap().damaged, []);
    store.close().unwrap();
    // The plain program's stage file is renamed; ours are swept.
    assert_eq!(leftovers(&root), Vec::<String>::new());
}

#[test]
fn a_writer_whose_index_was_removed_starts_anew_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let mut state = State::new();
    // Nobody has it open.
    open(&root).close().unwrap();
    fs::remove_dir_all(root.join("exp_1/.index")).unwrap();
    let store = open(&root);
    let source = directory.path().join("source");
    for run in ["a", "b", "c", "d"] {
        state.entry(format!("run-{run}")).or_default();
    }
    for (number, (tag, call)) in calls("run-", 11).take(60).enumerate() {
        if number % 7 == 3 {
            fs::remove_dir_all(root.join("exp_1/.index")).unwrap();
        }
        make(&store, &call, tag, &source).unwrap();
        state = after(&state, &call, tag).pop().unwrap();
    }
    assert_eq!(observe(&store, state.keys()).unwrap(), state);
    store.close().unwrap();
    let store = open(&root);
    assert_eq!(observe(&store, state.keys()).unwrap(), state);
    store.close().unwrap();
    assert_eq!(leftovers(&root), Vec::<String>::new());
}

#[test]
fn a_writer_whose_index_was_removed_survives_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let mut worker = Worker::start("script", &root, &["run-", "21"]);
    let mut done = 0;
    for _ in 0..10 {
        worker.line().unwrap();
        done += 1;
    }
    // It writes meanwhile, so that files come and go under the removal.
    while fs::remove_dir_all(root.join("exp_1/.index")).is_err() {}
    for _ in 0..30 {
        worker.line().unwrap();
        done += 1;
    }
    done += worker.kill();
    let mut state = State::new();
    for run in ["a", "b", "c", "d"] {
        state.entry(format!("run-{run}")).or_default();
    }
    let mut calls = calls("run-", 21);
    for (tag, call) in calls.by_ref().take(done) {
        state = after(&state, &call, tag).pop().unwrap();
    }
    let (tag, call) = calls.next().unwrap();
    let store = open(&root);
    let found = observe(&store, state.keys()).unwrap();
    assert!(
        after(&state, &call, tag).contains(&found),
        "{found:?}\n{state:?}"
    );
}

#[test]
fn an_artifact_that_is_open_can_be_read_to_its_end_after_its_run_is_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let content: Vec<u8> = (0..=255).cycle().take(700_000).collect();
    let descriptor = ArtifactDescriptor::new("run", "x", "blob", "bin");
    store.put_artifact(&content, &descriptor).unwrap();
    let reference = ArtifactReference::Name(("run".to_owned(), "x".to_owned()));
    let mut reader = store.open_artifact(&reference, false).unwrap();
    let mut list = store.list_runs(None).unwrap();
    assert!(store.delete_run("run").unwrap());
    let mut read = Vec::new();
    std::io::Read::read_to_end(&mut reader, &mut read).unwrap();
    assert!(read == content);
    assert_eq!(list.next(10).unwrap(), []);
    assert_eq!(
        store.get_artifact(&reference).unwrap_err().code(),
        "not-found"
    );
}

/// Calls every method that writes; each is refused.
fn every_write_is_refused(store: &Store, source: &Path) {
    let mut run = RunRecord::new("run", Status::Success);
    run.experiment_id = "exp:1".to_owned();
    let descriptor = ArtifactDescriptor::new("run", "x", "blob", "bin");
    let anything = &Expectation::Anything;
    let text = r#"{"run_id": "run", "experiment_id": "exp:1", "status": "success"}"#;
    let refused = |name: &str, result: Result<(), Error>| {
        assert_eq!(result.unwrap_err().code(), "read-only", "{name}");
    };
    refused("put", store.put_run_record(&run, anything).map(drop));
    refused("put text", store.put_run_text(text, anything).map(drop));
    refused("put many", store.put_run_records(&[run]).map(drop));
    refused("put lines", store.put_run_lines(text).map(drop));
    refused("delete", store.delete_run("run").map(drop));
    refused("derived", store.put_derived("run", &[]).map(drop));
    refused(
        "derived text",
        store.put_derived_text("run", "{}").map(drop),
    );
    let result = metalab_store::types::StructuredResult {
        data: "1".to_owned(),
        dtype: None,
        shape: None,
        metadata: "{}".to_owned(),
        unknown: "{}".to_owned(),
    };
    refused("result", store.put_result("run", "x", &result).map(drop));
    refused("log", store.put_log("run", "x", ""));
    refused("append", store.append_log("run", "x", "", true).map(drop));
    refused("artifact", store.put_artifact(b"", &descriptor).map(drop));
    refused(
        "file",
        store.put_artifact_file(source, &descriptor).map(drop),
    );
    refused("writer", store.create_artifact(&descriptor).map(drop));
    let manifest = store.put_experiment_manifest("exp:1", "{}", None);
    refused("manifest", manifest.map(drop));
}

#[test]
fn a_store_opened_read_only_creates_nothing_and_refuses_every_write() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("source");
    fs::write(&source, "x").unwrap();
    // One without anything in it, and one with everything.
    for filled in [false, true] {
        let root = directory.path().join(format!("store-{filled}"));
        fs::create_dir_all(root.join("exp_1")).unwrap();
        if filled {
            let store = open(&root);
            for (tag, call) in calls("run-", 3).take(30) {
                make(&store, &call, tag, &source).unwrap();
            }
            // Left open: its journal stays.
            std::mem::forget(store);
        }
        let before = tree(&root);
        for scoped in [false, true] {
            let config = FileStoreConfig::new(&root).read_only();
            let config = if scoped {
                config.scoped("exp:1")
            } else {
                config
            };
            let store = config.connect().unwrap();
            every_write_is_refused(&store, &source);
            store.list_run_records(None).unwrap();
            store.get_log_path("run", "x").unwrap();
            store.close().unwrap();
        }
        assert!(tree(&root) == before);
    }
}

/// Mounts need a privilege that not every machine gives; a directory that cannot be written is the next best.
#[test]
fn a_store_on_a_read_only_mount_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let source = directory.path().join("source");
    fs::write(&source, "x").unwrap();
    let store = open(&root);
    store
        .put_run_record(&record("run", 1), &Expectation::Anything)
        .unwrap();
    store.close().unwrap();
    let mount = |arguments: &[&str]| {
        let status = std::process::Command::new("mount").args(arguments).status();
        status.is_ok_and(|status| status.success())
    };
    let path = root.to_str().unwrap();
    let mounted = mount(&["--bind", path, path]) && mount(&["-o", "remount,bind,ro", path]);
    if !mounted {
        println!("no mount: this machine does not allow it, so permissions stand in for it");
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o555);
        fs::set_permissions(root.join("exp_1"), permissions).unwrap();
    }
    let checked = std::panic::catch_unwind(|| {
        let store = FileStoreConfig::new(&root).scoped("exp:1").read_only();
        let store = store.connect().unwrap();
        assert!(store.get_run_record("run").unwrap().is_some());
        every_write_is_refused(&store, &source);
        store.close().unwrap();
        if mounted {
            // To write, it is not even opened.
            let refused = FileStoreConfig::new(&root).scoped("exp:1").connect();
            let message = refused.map(drop).unwrap_err().to_string();
            assert!(message.contains("read-only"), "{message}");
        }
    });
    if mounted {
        let unmounted = std::process::Command::new("umount").arg(path).status();
        assert!(unmounted.unwrap().success());
    }
    checked.unwrap();
}
