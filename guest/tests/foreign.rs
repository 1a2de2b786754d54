//! What another program left in a store is neither taken for something else nor passed over in silence.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use metalab_store_guest::error::Error;
use metalab_store_guest::model::{Access, Damage, Durability, Expectation, StoreOptions};
use metalab_store_guest::native;
use metalab_store_guest::store::Store;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;

fn try_open(directory: &Path, experiment: Option<&str>, access: Access) -> Result<Store, Error> {
    let options = StoreOptions {
        directory: directory.to_str().unwrap().to_owned(),
        experiment_id: experiment.map(str::to_owned),
        access,
        durability: Durability::Full,
        lock_timeout_ms: 1000,
        index: None,
    };
    Store::open(native::ports(directory).unwrap(), options)
}

fn open(directory: &Path, experiment: Option<&str>, access: Access) -> Store {
    try_open(directory, experiment, access).unwrap()
}

fn put(store: &Store, run: &str) {
    let record = format!("{{\"run_id\": \"{run}\", \"status\": \"success\"}}");
    store.put_run_text(&record, &Expectation::Anything).unwrap();
}

/// Lists all runs of a store, sorted, and the damaged files.
fn list(store: &Store) -> Result<(Vec<String>, Vec<Damage>), Error> {
    let mut list = store.list_run_records(None)?;
    let records = list.next(100)?;
    let mut runs: Vec<String> = records.into_iter().map(|record| record.run_id).collect();
    runs.sort();
    Ok((runs, list.damaged()))
}

/// Failure: the text `"_schema_version": "0.1"` was looked for anywhere in a record, and only a version that is
/// a text counted. Consequence: a newer record that holds these words in its parameters, or whose version is a
/// number, was replaced, and what only the newer format knows was lost. Fix: only the record's own key counts,
/// and every version but this one is refused.
#[test]
fn a_newer_record_is_not_replaced_whatever_else_it_holds_and_however_it_writes_its_version() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), Some("e:1"), Access::ReadWrite);
    let path = directory.path().join("runs/run.json");
    let own = "\"run_id\": \"run\", \"status\": \"success\"";
    for newer in [
        format!("{{\"_schema_version\": \"9.9\", {own}}}"),
        // The words stand in an object, in a line of their own, and in a text.
        format!(
            "{{\n  \"_schema_version\": \"9.9\",\n  \"params_resolved\": {{\n  \"_schema_version\": \"0.1\"\n}}, {own}}}"
        ),
        format!("{{\"A\": {{\"_schema_version\": \"0.1\"}}, \"_schema_version\": \"9.9\", {own}}}"),
        format!(
            "{{\"_schema_version\": \"9.9\", \"notes\": \"\\\"_schema_version\\\": \\\"0.1\\\"\", {own}}}"
        ),
        // The last of two keys counts.
        format!("{{\n  \"_schema_version\": \"0.1\", {own}, \"_schema_version\": \"9.9\"}}"),
        format!("{{\"_schema_version\": 9.9, {own}}}"),
        format!("{{\"_schema_version\": 2, {own}}}"),
        format!("{{\"_schema_version\": [9, 9], {own}}}"),
        format!("{{\"_schema_version\": \"\\ud800\", {own}}}"),
    ] {
        fs::write(&path, &newer).unwrap();
        let record = format!("{{{own}}}");
        for outcome in [
            store.put_run_text(&record, &Expectation::Anything),
            store.put_run_lines(&record).unwrap().remove(0),
        ] {
            let error = outcome.expect_err(&newer);
            assert!(
                matches!(error, Error::InvalidArgument(_)),
                "{newer}: {error:?}"
            );
            assert!(error.to_string().contains("runs/run.json"), "{error}");
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), newer);
        assert_eq!(store.get_run_text("run").unwrap().unwrap(), newer);
    }
    // What is of this version, or says nothing, is replaced.
    for same in [
        format!("{{\"_schema_version\": \"0.1\", {own}}}"),
        format!("{{\"A\": 1, {own}, \"_schema_version\": \"0.1\"}}"),
        format!("{{\"_schema_version\": null, {own}}}"),
        format!("{{\"_schema_version\": \"\", {own}}}"),
        format!("{{{own}}}"),
        "{".to_owned(),
    ] {
        fs::write(&path, &same).unwrap();
        let record = format!("{{{own}}}");
        store
            .put_run_text(&record, &Expectation::Anything)
            .unwrap_or_else(|error| panic!("{same}: {error}"));
    }
}

/// Failure: a directory of the store that is a link, or a file, was listed as empty. Consequence: a store whose
/// `runs` was moved to another disk and linked looked as if all its runs were gone, although each of them could
/// be got. Fix: it is damage, and named.
#[test]
fn a_directory_of_the_format_that_is_none_is_never_listed_as_empty() {
    for (top, inside) in [
        ("runs", true),
        ("runs", false),
        ("logs", false),
        ("experiments", false),
    ] {
        let outer = tempfile::tempdir().unwrap();
        let root = outer.path().join("store");
        fs::create_dir(&root).unwrap();
        let store = open(&root, Some("e:1"), Access::ReadWrite);
        put(&store, "run");
        store.put_log("run", "out", "text").unwrap();
        store.close().unwrap();
        let moved = if inside {
            root.join("moved")
        } else {
            outer.path().join("moved")
        };
        fs::rename(root.join(top), &moved).unwrap();
        for link in [true, false] {
            if link {
                symlink(&moved, root.join(top)).unwrap();
            } else {
                fs::remove_file(root.join(top)).unwrap();
                fs::write(root.join(top), "").unwrap();
            }
            let reader = open(&root, Some("e:1"), Access::ReadOnly);
            let error = match top {
                "runs" => list(&reader).map(drop),
                "logs" => reader.list_logs("run").map(drop),
                _ => reader.list_experiment_manifests("e:1").map(drop),
            };
            let error = error.expect_err(top);
            assert!(
                matches!(&error, Error::Corrupt { file, .. } if file == top),
                "{top}: {error:?}"
            );
        }
    }
    // One that is missing is empty: a collection need not have all of them.
    let directory = tempfile::tempdir().unwrap();
    let reader = open(directory.path(), Some("e:1"), Access::ReadOnly);
    assert_eq!(list(&reader).unwrap(), (vec![], vec![]));
    assert!(reader.list_logs("run").unwrap().is_empty());
}

/// Failure: the first experiment of a collection that could not be listed or looked at was the answer to every
/// question about the whole collection. Consequence: one damaged experiment hid all others. Fix: it is among
/// what is damaged.
#[test]
fn an_experiment_that_cannot_be_read_hides_no_other_of_the_collection() {
    type Harm = fn(&Path, &Path);
    let harms: [(&str, Harm, &str); 2] = [
        (
            "a link for its runs",
            |experiment, outside| {
                fs::remove_dir_all(experiment.join("runs")).unwrap();
                symlink(outside, experiment.join("runs")).unwrap();
            },
            "bad_1/runs",
        ),
        (
            "a file for its runs",
            |experiment, _| {
                fs::remove_dir_all(experiment.join("runs")).unwrap();
                fs::write(experiment.join("runs"), "").unwrap();
            },
            "bad_1/runs",
        ),
    ];
    for (what, harm, file) in harms {
        let outer = tempfile::tempdir().unwrap();
        let root = outer.path().join("store");
        let outside = outer.path().join("outside");
        fs::create_dir(&outside).unwrap();
        for experiment in ["bad", "good"] {
            let directory = root.join(format!("{experiment}_1"));
            fs::create_dir_all(&directory).unwrap();
            let store = open(
                &directory,
                Some(&format!("{experiment}:1")),
                Access::ReadWrite,
            );
            put(&store, &format!("run_of_{experiment}"));
            store.close().unwrap();
        }
        harm(&root.join("bad_1"), &outside);
        for access in [Access::ReadOnly, Access::ReadWrite] {
            let collection = open(&root, None, access);
            let (runs, damaged) =
                list(&collection).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(runs, ["run_of_good"], "{what}");
            let damaged: Vec<&str> = damaged.iter().map(|damage| damage.file.as_str()).collect();
            assert_eq!(damaged, [file], "{what}");
            assert!(
                collection.get_run_record("run_of_good").unwrap().is_some(),
                "{what}"
            );
            assert!(collection.run_exists("run_of_good").unwrap(), "{what}");
        }
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "{what}");
    }
}

#[test]
fn a_run_that_an_unreadable_experiment_may_hold_gets_no_second_copy() {
    let outer = tempfile::tempdir().unwrap();
    let root = outer.path().join("store");
    let outside = outer.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let directory = root.join("bad_1");
    fs::create_dir_all(&directory).unwrap();
    let store = open(&directory, Some("bad:1"), Access::ReadWrite);
    put(&store, "run");
    store.close().unwrap();
    fs::rename(directory.join("runs"), outside.join("runs")).unwrap();
    symlink(outside.join("runs"), directory.join("runs")).unwrap();
    let collection = open(&root, None, Access::ReadWrite);
    let record = "{\"run_id\": \"run\", \"experiment_id\": \"e:1\", \"status\": \"success\"}";
    let error = collection
        .put_run_text(record, &Expectation::Anything)
        .unwrap_err();
    assert!(error.to_string().contains("bad_1/runs"), "{error:?}");
    let error = collection.get_run_record("run").unwrap_err();
    assert!(error.to_string().contains("bad_1/runs"), "{error:?}");
    assert!(!root.join("runs/run.json").exists());
}

/// Failure: of a record too large to read, the list named the file up to the first space. Fix: the whole name.
#[test]
fn a_record_too_large_to_read_is_named_whole() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), Some("e:1"), Access::ReadWrite);
    put(&store, "good");
    for run in ["a run", "it has 3 bytes; no"] {
        let path = directory.path().join(format!("runs/{run}.json"));
        File::create(&path).unwrap().set_len(1 << 30).unwrap();
        let (runs, damaged) = list(&store).unwrap();
        assert_eq!(runs, ["good"]);
        assert_eq!(damaged[0].file, format!("runs/{run}.json"));
        assert_eq!(damaged.len(), 1);
        fs::remove_file(path).unwrap();
    }
}
