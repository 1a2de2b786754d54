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
    let Err(error) = outcome else {
        panic!("{name:?} was taken");
    };
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
fn the_experiment_of_a_record_put_into_a_collection_is_data_there_and_never_a_place() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let collection = FileStoreConfig::new(&root).connect().unwrap();
    let mut run = RunRecord::new("run", Status::Success);
    run.experiment_id = "exp:1".to_owned();
    collection
        .put_run_record(&run, &Expectation::Anything)
        .unwrap();
    let files = |root: &std::path::Path| tree(root).into_keys().collect::<Vec<_>>();
    let before = files(directory.path());
    for name in unsafe_names() {
        refused(collection.scoped(&name), &name);
        run.experiment_id.clone_from(&name);
        // Whether it is taken or refused: the run's own file is the only one that a put can name.
        match collection.put_run_record(&run, &Expectation::Anything) {
            Ok(_) => {
                let read = collection.get_run_record("run").unwrap().unwrap();
                assert_eq!(read.experiment_id, name);
            }
            Err(error) => assert_eq!(error.code(), "invalid-name", "{name:?}: {error}"),
        }
        assert_eq!(files(directory.path()), before, "{name:?}");
    }
}

#[test]
fn an_artifact_s_run_cannot_lead_out_of_the_store_by_metadata_or_address() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let source = directory.path().join("source");
    std::fs::write(&source, "x").unwrap();
    let before = tree(directory.path());
    for name in unsafe_names() {
        let mut descriptors = vec![
            ArtifactDescriptor::new(&name, "x", "blob", "bin"),
            ArtifactDescriptor::new("run", name.as_str(), "blob", "bin"),
        ];
        // A format follows a name and a dot in the file's name, so dots alone lead nowhere.
        if ![".", "..", ".x"].contains(&name.as_str()) {
            descriptors.push(ArtifactDescriptor::new("run", "x", "blob", name.as_str()));
        }
        for descriptor in descriptors {
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

    // An address is no name: what does not end in `artifacts/RUN/FILE` is none of an artifact.
    for (uri, code) in [
        ("", "invalid-argument"),
        ("/", "invalid-argument"),
        ("/etc/passwd", "invalid-argument"),
        ("file:///etc/passwd", "invalid-argument"),
        ("../../../etc/passwd", "invalid-argument"),
        ("/srv/exp_1/artifacts/../../source", "invalid-argument"),
        ("/srv/exp_1/artifacts/run/..", "invalid-argument"),
        ("/srv/exp_1/artifacts/run/", "invalid-argument"),
        ("/srv/exp_1/artifacts/.hidden/x", "invalid-argument"),
        ("/srv/exp_2/artifacts/run/x.bin", "not-granted"),
        ("/srv/exp_1/artifacts/run/x.bin", "not-found"),
    ] {
        let artifact = ArtifactReference::Uri(uri.to_owned());
        let error = store.get_artifact(&artifact).unwrap_err();
        assert_eq!(error.code(), code, "{uri:?}: {error}");
    }
    assert_eq!(tree(directory.path()), before);
}

#[test]
fn a_filter_by_an_experiment_that_cannot_exist_matches_nothing_and_touches_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let run = RunRecord::new("run", Status::Success);
    store.put_run_record(&run, &Expectation::Anything).unwrap();
    // A list may keep what it read under `.index/`.
    let files = || {
        let mut files = tree(directory.path());
        files.retain(|name, _| !name.contains("/.index/"));
        files
    };
    let before = files();
    for name in unsafe_names() {
        match store.list_run_records(Some(&name)) {
            Ok(page) => assert!(page.records.is_empty(), "{name:?}"),
            Err(error) => assert_eq!(error.code(), "invalid-name", "{name:?}: {error}"),
        }
    }
    assert_eq!(files(), before);
}
