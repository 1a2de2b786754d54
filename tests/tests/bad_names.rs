//! Names that come in by a side door: in a record's text, in a batch, in an artifact's address or metadata, as
//! the experiment of a record that is put into a collection.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use metalab_store::types::{ArtifactDescriptor, ArtifactReference, Expectation, RunRecord, Status};
use metalab_store::{Error, FileStoreConfig, Store};
use metalab_store_tests::tree;
use serde_json::json;

/// Names that are no safe file names; not the empty one, which stands for "not given" in these places.
fn unsafe_names() -> Vec<String> {
    let names = [
        ".", "..", "../x", "/x", "a/b", "a\\b", "a\0b", "a\nb", "a\u{7f}", ".x",
    ];
    names
        .iter()
        .map(|name| (*name).to_owned())
        .chain(["x".repeat(243)])
        .collect()
}

fn open(directory: &tempfile::TempDir) -> Store {
    FileStoreConfig::new(directory.path().join("store"))
        .scoped("exp:1")
        .connect()
        .unwrap()
}

#[track_caller]
fn refused<T>(outcome: Result<T, Error>, name: &str) {
    let error = outcome
        .err()
        .unwrap_or_else(|| panic!("{name:?} was taken"));
    assert_eq!(error.code(), "invalid-name", "{name:?}: {error}");
}

#[test]
fn the_run_id_in_a_text_or_a_batch_is_refused_and_its_neighbours_are_stored() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let before = tree(directory.path());
    let text = |id: &str| json!({ "run_id": id, "status": "success" }).to_string();
    for name in unsafe_names() {
        refused(
            store.put_run_text(&text(&name), &Expectation::Anything),
            &name,
        );
    }
    assert_eq!(tree(directory.path()), before);

    let names = unsafe_names();
    let records: Vec<RunRecord> = names
        .iter()
        .map(String::as_str)
        .chain(["good"])
        .map(|name| RunRecord::new(name, Status::Success))
        .collect();
    let lines: String = names
        .iter()
        .map(String::as_str)
        .chain(["better"])
        .map(|name| format!("{}\n", text(name)))
        .collect();
    for outcomes in [
        store.put_run_records(&records).unwrap(),
        store.put_run_lines(&lines).unwrap(),
    ] {
        let mut outcomes = outcomes.into_iter();
        for name in &names {
            refused(outcomes.next().unwrap(), name);
        }
        outcomes.next().unwrap().unwrap();
        assert!(outcomes.next().is_none());
    }
    let page = store.list_run_records(None).unwrap();
    let mut ids: Vec<&str> = page.records.iter().map(|run| run.run_id.as_str()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["better", "good"]);
}

#[test]
fn the_experiment_of_a_record_put_into_a_collection_cannot_lead_out_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let collection = FileStoreConfig::new(&root).connect().unwrap();
    let before = tree(directory.path());
    for name in unsafe_names() {
        let mut record = RunRecord::new("run", Status::Success);
        record.experiment_id.clone_from(&name);
        refused(
            collection.put_run_record(&record, &Expectation::Anything),
            &name,
        );
        let text = json!({ "run_id": "run", "status": "success", "experiment_id": name });
        refused(
            collection.put_run_text(&text.to_string(), &Expectation::Anything),
            &name,
        );
        refused(collection.scoped(&name), &name);
    }
    assert_eq!(tree(directory.path()), before);
}

#[test]
fn an_artifact_s_run_cannot_lead_out_of_the_store_by_metadata_or_address() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let source = directory.path().join("source");
    std::fs::write(&source, "x").unwrap();
    let before = tree(directory.path());
    for name in unsafe_names() {
        for descriptor in [
            ArtifactDescriptor::new(&name, "x", "blob", "bin"),
            ArtifactDescriptor::new("run", name.as_str(), "blob", "bin"),
            ArtifactDescriptor::new("run", "x", "blob", name.as_str()),
        ] {
            refused(store.put_artifact(b"x", &descriptor), &name);
            refused(store.create_artifact(&descriptor), &name);
            refused(store.put_artifact_file(&source, &descriptor), &name);
        }
        for pair in [
            (name.clone(), "x".to_owned()),
            ("run".to_owned(), name.clone()),
        ] {
            let artifact = ArtifactReference::Name(pair);
            refused(store.get_artifact(&artifact), &name);
            refused(store.open_artifact(&artifact, false), &name);
        }
    }
    assert_eq!(tree(directory.path()), before);

    // An address is no name: whatever lies outside `artifacts/RUN/FILE` of this store is not an artifact.
    for uri in [
        "",
        "/",
        "/etc/passwd",
        "file:///etc/passwd",
        "../../../etc/passwd",
        "/srv/exp_1/artifacts/../../source",
        "/srv/exp_1/artifacts/run/..",
        "/srv/exp_1/artifacts/run/",
        "/srv/exp_1/artifacts/.hidden/x",
        "/srv/exp_2/artifacts/run/x.bin",
    ] {
        let error = store
            .get_artifact(&ArtifactReference::Uri(uri.to_owned()))
            .unwrap_err();
        assert!(
            ["invalid-argument", "invalid-name"].contains(&error.code()),
            "{uri:?}: {} {error}",
            error.code()
        );
    }
    assert_eq!(tree(directory.path()), before);
}

#[test]
fn a_filter_by_an_experiment_that_cannot_exist_matches_nothing_and_touches_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let run = RunRecord::new("run", Status::Success);
    store.put_run_record(&run, &Expectation::Anything).unwrap();
    let before = tree(directory.path());
    for name in unsafe_names() {
        match store.list_run_records(Some(&name)) {
            Ok(page) => assert!(page.records.is_empty(), "{name:?}"),
            Err(error) => assert_eq!(error.code(), "invalid-name", "{name:?}: {error}"),
        }
    }
    assert_eq!(tree(directory.path()), before);
}
