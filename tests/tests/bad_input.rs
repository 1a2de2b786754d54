//! Bad input gets a typed error that names the thing, and nothing is touched.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use metalab_store::types::{
    ArtifactDescriptor, ArtifactReference, Expectation, RunRecord, Status, StructuredResult,
};
use metalab_store::{Error, FileStoreConfig, Result, Store, StoreConfig};
use metalab_store_tests::tree;
use std::fs;

/// Names that are no safe file names.
fn unsafe_names() -> Vec<String> {
    let names = [
        "",
        ".",
        "..",
        "../x",
        "/x",
        "a/b",
        "a\\b",
        "a\0b",
        "a\nb",
        "a\u{7f}b",
        "a\u{85}b",
        ".hidden",
        "..\\x",
        "../../../../etc/passwd",
    ];
    names
        .iter()
        .map(|name| (*name).to_owned())
        .chain(["x".repeat(243), "é".repeat(122)])
        .collect()
}

fn record(run: &str) -> RunRecord {
    RunRecord::new(run, Status::Success)
}

fn descriptor(run: &str, name: &str, format: &str) -> ArtifactDescriptor {
    ArtifactDescriptor::new(run, name, "blob", format)
}

/// Calls everything that takes a run id with one, and everything that takes another name with that.
fn calls(store: &Store, name: &str) -> Vec<(&'static str, Result<()>)> {
    let result = StructuredResult::new("1");
    vec![
        (
            "put_run_record",
            store
                .put_run_record(&record(name), &Expectation::Anything)
                .map(drop),
        ),
        ("get_run_record", store.get_run_record(name).map(drop)),
        ("get_versioned_run", store.get_versioned_run(name).map(drop)),
        ("get_run_text", store.get_run_text(name).map(drop)),
        ("run_exists", store.run_exists(name).map(drop)),
        ("delete_run", store.delete_run(name).map(drop)),
        ("put_derived", store.put_derived(name, &[]).map(drop)),
        (
            "put_derived_text",
            store.put_derived_text(name, "{}").map(drop),
        ),
        ("get_derived", store.get_derived(name).map(drop)),
        ("get_derived_text", store.get_derived_text(name).map(drop)),
        ("derived_exists", store.derived_exists(name).map(drop)),
        (
            "put_result run",
            store.put_result(name, "x", &result).map(drop),
        ),
        (
            "put_result name",
            store.put_result("run", name, &result).map(drop),
        ),
        ("get_result run", store.get_result(name, "x").map(drop)),
        ("get_result name", store.get_result("run", name).map(drop)),
        (
            "get_result_text",
            store.get_result_text("run", name).map(drop),
        ),
        ("list_results", store.list_results(name).map(drop)),
        ("put_log run", store.put_log(name, "x", "")),
        ("put_log name", store.put_log("run", name, "")),
        (
            "append_log run",
            store.append_log(name, "x", "", false).map(drop),
        ),
        (
            "append_log name",
            store.append_log("run", name, "", false).map(drop),
        ),
        ("get_log run", store.get_log(name, "x").map(drop)),
        ("get_log name", store.get_log("run", name).map(drop)),
        ("read_log", store.read_log("run", name, 0, 10).map(drop)),
        ("list_logs", store.list_logs(name).map(drop)),
        ("get_log_path run", store.get_log_path(name, "x").map(drop)),
        (
            "get_log_path name",
            store.get_log_path("run", name).map(drop),
        ),
        (
            "put_artifact run",
            store
                .put_artifact(b"", &descriptor(name, "x", "bin"))
                .map(drop),
        ),
        (
            "put_artifact name",
            store
                .put_artifact(b"", &descriptor("run", name, "bin"))
                .map(drop),
        ),
        (
            "create_artifact",
            store
                .create_artifact(&descriptor("run", name, "bin"))
                .map(drop),
        ),
        (
            "get_artifact",
            store
                .get_artifact(&ArtifactReference::Name((name.to_owned(), "x".to_owned())))
                .map(drop),
        ),
        ("list_artifacts", store.list_artifacts(name).map(drop)),
        (
            "put_experiment_manifest",
            store.put_experiment_manifest(name, "{}", None).map(drop),
        ),
        (
            "put_experiment_manifest time",
            store
                .put_experiment_manifest("exp:1", "{}", Some(name))
                .map(drop),
        ),
        (
            "get_experiment_manifest",
            store.get_experiment_manifest(name).map(drop),
        ),
        (
            "list_experiment_manifests",
            store.list_experiment_manifests(name).map(drop),
        ),
    ]
}

#[test]
fn a_name_that_is_no_safe_file_name_is_refused_by_every_call_before_anything_is_touched() {
    let outer = tempfile::tempdir().unwrap();
    let root = outer.path().join("store");
    let store = FileStoreConfig::new(&root)
        .scoped("exp:1")
        .connect()
        .unwrap();
    let before = tree(outer.path());
    for name in unsafe_names() {
        for (call, outcome) in calls(&store, &name) {
            let error = outcome.expect_err(call);
            // An empty run id of a record is a field that is missing, not a name that is wrong.
            let expected = if name.is_empty() && call == "put_run_record" {
                "invalid-argument"
            } else {
                "invalid-name"
            };
            assert_eq!(error.code(), expected, "{call} {name:?}: {error}");
        }
        // A format stands behind the name and a dot: one that begins with a dot leads nowhere.
        if !name.is_empty() && (!name.starts_with('.') || name.contains(['/', '\\'])) {
            let formats = store.put_artifact(b"", &descriptor("run", "x", &name));
            assert_eq!(
                formats.unwrap_err().code(),
                "invalid-name",
                "format {name:?}"
            );
        }
        let scoped = FileStoreConfig::new(&root).scoped(&name).connect();
        assert_eq!(
            scoped.err().map(|error| error.code()),
            Some("invalid-name"),
            "scope {name:?}"
        );
    }
    assert_eq!(
        store
            .put_artifact(b"", &descriptor("run", "_manifest", "json"))
            .unwrap_err()
            .code(),
        "invalid-name"
    );
    assert_eq!(tree(outer.path()), before);
}

#[test]
fn what_is_missing_is_none_or_not_found_and_never_a_trap() {
    let directory = tempfile::tempdir().unwrap();
    let store = FileStoreConfig::new(directory.path())
        .scoped("exp:1")
        .connect()
        .unwrap();
    assert_eq!(store.get_run_record("nothing").unwrap(), None);
    assert_eq!(store.get_run_text("nothing").unwrap(), None);
    assert_eq!(store.get_derived("nothing").unwrap(), None);
    assert_eq!(store.get_result("nothing", "x").unwrap(), None);
    assert_eq!(store.get_log("nothing", "x").unwrap(), None);
    assert_eq!(store.read_log("nothing", "x", 0, 10).unwrap(), None);
    assert_eq!(store.get_experiment_manifest("exp:1").unwrap(), None);
    assert!(store.list_artifacts("nothing").unwrap().is_empty());
    assert!(!store.delete_run("nothing").unwrap());
    let artifact = ArtifactReference::Name(("nothing".to_owned(), "x".to_owned()));
    let error = store.get_artifact(&artifact).unwrap_err();
    assert_eq!(error.code(), "not-found");
    assert!(
        error.to_string().contains("\"x\"") && error.to_string().contains("\"nothing\""),
        "{error}"
    );
    let elsewhere = ArtifactReference::Uri("/etc/passwd".to_owned());
    assert_eq!(
        store.get_artifact(&elsewhere).unwrap_err().code(),
        "invalid-argument"
    );
    let escaping = ArtifactReference::Uri("/x/exp_1/artifacts/../passwd".to_owned());
    assert_eq!(
        store.get_artifact(&escaping).unwrap_err().code(),
        "invalid-argument"
    );
}

#[test]
fn a_root_that_cannot_be_a_store_is_one_clear_sentence() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "x").unwrap();
    for config in [
        FileStoreConfig::new(&file),
        FileStoreConfig::new(&file).scoped("exp:1"),
        FileStoreConfig::new(&file).read_only(),
    ] {
        let error = config.connect().err().unwrap();
        assert!(matches!(error, Error::Root { .. }), "{error:?}");
        assert!(
            error.to_string().contains("file") && error.to_string().contains("not a directory"),
            "{error}"
        );
    }
    let missing = directory.path().join("missing");
    for config in [
        FileStoreConfig::new(&missing),
        FileStoreConfig::new(&missing).scoped("exp:1"),
    ] {
        let error = config.read_only().connect().err().unwrap();
        assert!(
            error.to_string().contains("missing")
                && error.to_string().contains("no such directory"),
            "{error}"
        );
    }
    assert!(!missing.exists(), "a read-only open created the root");
    // The kernel lets nobody write there, not even the superuser under whom tests may run.
    let error = FileStoreConfig::new("/proc/self/store")
        .connect()
        .err()
        .unwrap();
    assert!(
        matches!(error, Error::Root { .. }) && error.to_string().contains("/proc/"),
        "{error}"
    );
    fs::write(directory.path().join("exp_2"), "x").unwrap();
    let error = FileStoreConfig::new(directory.path())
        .scoped("exp:2")
        .connect()
        .err()
        .unwrap();
    assert!(error.to_string().contains("exp_2"), "{error}");
}

#[test]
fn a_read_only_store_refuses_every_write_and_creates_nothing() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("exp_1")).unwrap();
    for config in [
        FileStoreConfig::new(directory.path()).scoped("exp:1"),
        FileStoreConfig::new(directory.path()),
    ] {
        let store = config.read_only().connect().unwrap();
        let mut named = record("run");
        named.experiment_id = "exp:1".to_owned();
        for (call, outcome) in [
            (
                "put_run_record",
                store
                    .put_run_record(&named, &Expectation::Anything)
                    .map(drop),
            ),
            (
                "put_run_records",
                store.put_run_records(&[named.clone()]).map(drop),
            ),
            ("put_derived", store.put_derived("run", &[]).map(drop)),
            (
                "put_result",
                store
                    .put_result("run", "x", &StructuredResult::new("1"))
                    .map(drop),
            ),
            ("put_log", store.put_log("run", "x", "")),
            (
                "append_log",
                store.append_log("run", "x", "", true).map(drop),
            ),
            (
                "put_artifact",
                store
                    .put_artifact(b"x", &descriptor("run", "x", "bin"))
                    .map(drop),
            ),
            (
                "put_artifact_file",
                store
                    .put_artifact_file(
                        &std::env::current_exe().unwrap(),
                        &descriptor("run", "x", "bin"),
                    )
                    .map(drop),
            ),
            (
                "create_artifact",
                store
                    .create_artifact(&descriptor("run", "x", "bin"))
                    .map(drop),
            ),
            (
                "put_experiment_manifest",
                store.put_experiment_manifest("exp:1", "{}", None).map(drop),
            ),
            ("delete_run", store.delete_run("run").map(drop)),
        ] {
            assert_eq!(outcome.expect_err(call).code(), "read-only", "{call}");
        }
    }
    assert_eq!(tree(directory.path()).len(), 1);
}

#[test]
fn listing_experiments_of_a_scoped_configuration_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let error = FileStoreConfig::new(directory.path())
        .scoped("exp:1")
        .list_experiments()
        .unwrap_err();
    assert_eq!(error.code(), "invalid-argument");
    assert!(error.to_string().contains("exp:1"), "{error}");
    let again = FileStoreConfig::new(directory.path())
        .scoped("a:1")
        .scoped("b:1")
        .connect()
        .err()
        .unwrap();
    assert_eq!(again.code(), "invalid-argument");
    assert!(
        again.to_string().contains("a:1") && again.to_string().contains("b:1"),
        "{again}"
    );
}

#[test]
fn two_experiments_that_map_to_one_directory_are_a_conflict() {
    let directory = tempfile::tempdir().unwrap();
    FileStoreConfig::new(directory.path())
        .scoped("a:b")
        .connect()
        .unwrap();
    let error = FileStoreConfig::new(directory.path())
        .scoped("a_b")
        .connect()
        .err()
        .unwrap();
    assert_eq!(error.code(), "conflict");
    assert!(
        error.to_string().contains("a:b") && error.to_string().contains("a_b"),
        "{error}"
    );
}

#[test]
fn a_record_of_another_experiment_or_without_what_it_needs_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let store = FileStoreConfig::new(directory.path())
        .scoped("exp:1")
        .connect()
        .unwrap();
    let mut other = record("run");
    other.experiment_id = "exp:2".to_owned();
    assert_eq!(
        store
            .put_run_record(&other, &Expectation::Anything)
            .unwrap_err()
            .code(),
        "conflict"
    );
    for text in [
        "",
        "[]",
        "{}",
        "{\"run_id\": \"a\"}",
        "{\"run_id\": \"a\", \"status\": \"paused\"}",
        "{\"status\": \"success\"}",
        "{\"run_id\": \"a\", \"status\": \"success\", \"started_at\": \"yesterday\"}",
        "{\"run_id\": 5, \"status\": \"success\"}",
    ] {
        assert_eq!(
            store
                .put_run_text(text, &Expectation::Anything)
                .unwrap_err()
                .code(),
            "invalid-argument",
            "{text}"
        );
    }
    let newer = "{\"run_id\": \"a\", \"status\": \"success\", \"_schema_version\": \"9.9\"}";
    let error = store
        .put_run_text(newer, &Expectation::Anything)
        .unwrap_err();
    assert!(error.to_string().contains("9.9"), "{error}");
    assert!(!store.run_exists("a").unwrap());
}

#[test]
fn a_wrong_revision_is_a_conflict_that_carries_the_current_one() {
    let directory = tempfile::tempdir().unwrap();
    let store = FileStoreConfig::new(directory.path())
        .scoped("exp:1")
        .connect()
        .unwrap();
    let first = store
        .put_run_record(&record("run"), &Expectation::Absent)
        .unwrap();
    let mut changed = record("run");
    changed.notes = Some("changed".to_owned());
    let second = store
        .put_run_record(&changed, &Expectation::Revision(first.clone()))
        .unwrap();
    assert_ne!(first, second);
    match store
        .put_run_record(&record("run"), &Expectation::Revision(first))
        .unwrap_err()
    {
        Error::Conflict(conflict) => assert_eq!(conflict.current, Some(second.clone())),
        other => panic!("{other:?}"),
    }
    assert_eq!(
        store
            .put_run_record(&record("run"), &Expectation::Absent)
            .unwrap_err()
            .code(),
        "conflict"
    );
    assert_eq!(
        store.get_versioned_run("run").unwrap().unwrap().revision,
        second
    );
}

#[test]
fn a_wrong_hash_or_size_stores_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = FileStoreConfig::new(directory.path())
        .scoped("exp:1")
        .connect()
        .unwrap();
    let before = tree(directory.path());
    let mut wrong = descriptor("run", "x", "bin");
    wrong.content_hash = Some("0123456789abcdef".to_owned());
    assert_eq!(
        store.put_artifact(b"content", &wrong).unwrap_err().code(),
        "invalid-argument"
    );
    let mut wrong = descriptor("run", "x", "bin");
    wrong.size_bytes = Some(3);
    assert_eq!(
        store.put_artifact(b"content", &wrong).unwrap_err().code(),
        "invalid-argument"
    );
    assert!(store.list_artifacts("run").unwrap().is_empty());
    let files = |tree: &std::collections::BTreeMap<String, Vec<u8>>| {
        let kept = |name: &&String| !name.ends_with('/') && !name.starts_with("exp_1/.locks");
        tree.keys().filter(kept).cloned().collect::<Vec<_>>()
    };
    assert_eq!(files(&tree(directory.path())), files(&before));
}

#[test]
fn deep_json_and_links_out_of_the_store_are_typed_errors_that_name_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret.json"), "{}").unwrap();
    let store = FileStoreConfig::new(directory.path())
        .scoped("exp:1")
        .connect()
        .unwrap();
    let runs = directory.path().join("exp_1/runs");
    fs::write(runs.join("deep.json"), "[".repeat(100_000)).unwrap();
    std::os::unix::fs::symlink(outside.path().join("secret.json"), runs.join("link.json")).unwrap();
    fs::create_dir(runs.join("folder.json")).unwrap();
    for name in ["deep", "link", "folder"] {
        let error = store.get_run_record(name).unwrap_err();
        assert_eq!(error.code(), "corrupt", "{error}");
        assert!(
            error.to_string().contains(&format!("runs/{name}.json")),
            "{error}"
        );
    }
    store
        .put_run_record(&record("good"), &Expectation::Anything)
        .unwrap();
    let page = store.list_run_records(None).unwrap();
    assert_eq!(page.records.len(), 1);
    assert_eq!(page.damaged.len(), 3);
    // A directory that is a link leads out of the store, and writing through it is refused.
    fs::remove_dir_all(directory.path().join("exp_1/derived")).unwrap();
    std::os::unix::fs::symlink(outside.path(), directory.path().join("exp_1/derived")).unwrap();
    assert_eq!(store.put_derived("run", &[]).unwrap_err().code(), "io");
    assert_eq!(tree(outside.path()).len(), 1);
}

#[test]
fn locators_that_cannot_be_obeyed_are_refused_with_the_way_out() {
    for (locator, words) in [
        ("", "empty"),
        ("s3://bucket/x", "\"s3\""),
        ("file://runs/x", "file:///runs/x"),
        ("file:///x?colour=red", "\"colour\""),
        ("postgresql://u:secret@h/db", "file_root"),
        ("discover", "discover"),
    ] {
        let error = StoreConfig::from_locator(locator).unwrap_err();
        assert_eq!(error.code(), "invalid-argument", "{locator}");
        assert!(
            error.to_string().contains(words) && !error.to_string().contains("secret"),
            "{error}"
        );
    }
    let postgres =
        StoreConfig::from_locator("postgresql://u:secret@h/db?file_root=/tmp/x").unwrap();
    assert!(!format!("{postgres:?}").contains("secret"));
    let directory = tempfile::tempdir().unwrap();
    let locator = format!(
        "file://{}?experiment_id=my_exp:1.0",
        directory.path().display()
    );
    let store = StoreConfig::from_locator(&locator)
        .unwrap()
        .connect()
        .unwrap();
    assert!(
        store
            .get_working_directory()
            .unwrap()
            .ends_with("my_exp_1.0")
    );
}
