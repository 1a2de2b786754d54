//! Whatever lies in a store where a file should be: a typed error names it, and nothing else is affected.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use metalab_store::types::{
    ArtifactDescriptor, ArtifactReference, Durability, Expectation, RunRecord, Status,
    StructuredResult,
};
use metalab_store::{Error, FileStoreConfig, Result, Store};
use metalab_store_tests::{peak_memory, tree};
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;

/// The files of a run called `bad`, and of its experiment.
const PLACES: [&str; 8] = [
    "runs/bad.json",
    "derived/bad.json",
    "results/bad/x.json",
    "logs/bad_run.log",
    "artifacts/bad/x.bin",
    "artifacts/bad/_manifest.json",
    "experiments/exp_1_20260301_090000.json",
    "_meta.json",
];

/// What lies there.
const THINGS: [&str; 10] = [
    "a directory",
    "a link to a file outside",
    "a link to a directory outside",
    "a link to nothing",
    "a FIFO",
    "no UTF-8",
    "no JSON",
    "JSON nested 100,000 deep",
    "a JSON list",
    "a GiB of zeros",
];

fn open(root: &Path) -> Store {
    open_with(root, Durability::Full)
}

fn open_with(root: &Path, durability: Durability) -> Store {
    let config = FileStoreConfig::new(root).scoped("exp:1");
    config.durability(durability).connect().unwrap()
}

fn descriptor(run: &str) -> ArtifactDescriptor {
    ArtifactDescriptor::new(run, "x", "blob", "bin")
}

fn reference(run: &str) -> ArtifactReference {
    ArtifactReference::Name((run.to_owned(), "x".to_owned()))
}

/// Writes everything of a run.
fn fill(store: &Store, run: &str) -> Result<()> {
    let record = RunRecord::new(run, Status::Success);
    store.put_run_record(&record, &Expectation::Anything)?;
    store.put_derived_text(run, "{\"a\": 1}")?;
    store.put_result(run, "x", &StructuredResult::new("[1]"))?;
    store.put_log(run, "run", "line\n")?;
    store.put_artifact(b"content", &descriptor(run))?;
    Ok(())
}

/// Reads everything of a run that is whole.
fn is_whole(store: &Store, run: &str) {
    assert_eq!(store.get_run_record(run).unwrap().unwrap().run_id, run);
    assert!(
        store
            .get_derived_text(run)
            .unwrap()
            .unwrap()
            .contains("\"a\": 1")
    );
    assert_eq!(store.get_result(run, "x").unwrap().unwrap().data, "[1]");
    assert_eq!(store.get_log(run, "run").unwrap().unwrap(), "line\n");
    assert_eq!(store.list_logs(run).unwrap(), ["run"]);
    assert_eq!(store.list_results(run).unwrap(), ["x"]);
    assert_eq!(store.get_artifact(&reference(run)).unwrap(), b"content");
    assert_eq!(store.list_artifacts(run).unwrap().len(), 1);
}

/// Reads what is at a place. Artifacts and logs are bytes: their content is nobody's business.
fn read(store: &Store, place: &str) -> Result<()> {
    match place {
        "runs/bad.json" => store.get_run_record("bad").map(drop),
        "derived/bad.json" => store.get_derived("bad").map(drop),
        "results/bad/x.json" => store.get_result("bad", "x").map(drop),
        "logs/bad_run.log" => store.get_log("bad", "run").map(drop),
        // It may have a GiB, and is read in pieces.
        "artifacts/bad/x.bin" => store
            .open_artifact(&reference("bad"), false)
            .and_then(|mut reader| reader.read_at(0, 10))
            .map(drop),
        "artifacts/bad/_manifest.json" => store.list_artifacts("bad").map(drop),
        "experiments/exp_1_20260301_090000.json" => {
            store.get_experiment_manifest("exp:1").map(drop)
        }
        _ => Ok(()),
    }
}

fn plant(thing: &str, path: &Path, outside: &Path) {
    if path.is_dir() {
        fs::remove_dir_all(path).unwrap();
    } else {
        fs::remove_file(path).ok();
    }
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    match thing {
        "a directory" => fs::create_dir_all(path.join("inside")).unwrap(),
        "a link to a file outside" => symlink(outside.join("secret.json"), path).unwrap(),
        "a link to a directory outside" => symlink(outside, path).unwrap(),
        "a link to nothing" => symlink(outside.join("new.json"), path).unwrap(),
        "a FIFO" => rustix::fs::mknodat(
            rustix::fs::CWD,
            path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap(),
        "no UTF-8" => fs::write(path, b"{\"a\": \"\xff\"}").unwrap(),
        "no JSON" => fs::write(path, "{\"a\": ").unwrap(),
        "JSON nested 100,000 deep" => {
            fs::write(path, "{\"a\": ".repeat(100_000)).unwrap();
        }
        "a JSON list" => fs::write(path, "[1, 2]").unwrap(),
        "a GiB of zeros" => File::create(path).unwrap().set_len(1 << 30).unwrap(),
        other => panic!("{other}"),
    }
}

/// Says whether a thing at a place is simply a content there.
fn is_content(thing: &str, place: &str) -> bool {
    match place {
        "logs/bad_run.log" => thing.contains("JSON"),
        "artifacts/bad/x.bin" => {
            !thing.starts_with("a link") && !["a directory", "a FIFO"].contains(&thing)
        }
        _ => false,
    }
}

#[test]
fn whatever_lies_where_a_file_should_be_is_named_and_affects_nothing_else() {
    for place in PLACES {
        for (index, thing) in THINGS.into_iter().enumerate() {
            // Both ways of writing meet it.
            let durability = [Durability::Full, Durability::Relaxed][index % 2];
            let context = format!("{thing} at {place}");
            let directory = tempfile::tempdir().unwrap();
            let root = directory.path().join("store");
            let outside = directory.path().join("outside");
            fs::create_dir(&outside).unwrap();
            fs::write(outside.join("secret.json"), "{\"run_id\": \"bad\"}").unwrap();
            let store = open_with(&root, durability);
            fill(&store, "bad").unwrap();
            fill(&store, "good").unwrap();
            let stamp = Some("20260301_090000");
            store.put_experiment_manifest("exp:1", "{}", stamp).unwrap();
            store.close().unwrap();
            let path = root.join("exp_1").join(place);
            plant(thing, &path, &outside);

            let store = open_with(&root, durability);
            is_whole(&store, "good");
            let found = read(&store, place);
            if place == "_meta.json" || is_content(thing, place) {
                assert!(
                    found.is_ok() || matches!(found, Err(Error::TooLarge(_))),
                    "{context}: {found:?}"
                );
            } else {
                let error = found.map_err(|error| (error.code(), error.to_string()));
                let (code, message) = error.expect_err(&context);
                assert!(
                    ["corrupt", "too-large", "not-found"].contains(&code),
                    "{context}: {code}: {message}"
                );
                let name = Path::new(place).file_name().unwrap().to_str().unwrap();
                assert!(message.contains(name), "{context}: {message}");
            }
            // What is around it is found nevertheless.
            let page = store.list_run_records(None).unwrap();
            let bad = usize::from(place == "runs/bad.json");
            assert_eq!(
                (page.records.len(), page.damaged.len()),
                (2 - bad, bad),
                "{context}"
            );
            if place != "runs/bad.json" {
                assert!(store.get_run_record("bad").unwrap().is_some());
            }
            // It is written over, or refused with a reason; and a run is deleted with it, or not at all.
            for result in [
                fill(&store, "bad"),
                store
                    .put_experiment_manifest("exp:1", "{}", stamp)
                    .map(drop),
                store.append_log("bad", "run", "more\n", true).map(drop),
                store.delete_run("bad").map(drop),
            ] {
                if let Err(error) = result {
                    assert!(
                        ["corrupt", "io", "too-large", "already-exists"].contains(&error.code()),
                        "{context}: {error:?}"
                    );
                }
            }
            is_whole(&store, "good");
            store.close().unwrap();
            assert_eq!(
                tree(&outside).into_values().collect::<Vec<_>>(),
                [b"{\"run_id\": \"bad\"}"],
                "{context}"
            );
        }
    }
    // Nothing was ever held whole that is that large.
    assert!(peak_memory() < 900, "{} MiB", peak_memory());
}

#[test]
fn a_directory_of_the_store_that_leads_out_of_it_is_refused() {
    for name in [
        "runs",
        "derived",
        "results",
        "logs",
        "artifacts",
        "artifacts/bad",
        "results/bad",
        "logs/bad_x_y",
        "experiments",
        ".locks",
        ".index",
        ".index/staging",
    ] {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("store");
        let outside = directory.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(
            outside.join("bad.json"),
            "{\"run_id\": \"bad\", \"status\": \"success\"}",
        )
        .unwrap();
        open(&root).close().unwrap();
        let path = root.join("exp_1").join(name);
        fs::remove_dir_all(&path).ok();
        symlink(&outside, &path).unwrap();
        let before = tree(&outside);
        let refused = |result: Result<()>| {
            if let Err(error) = result {
                assert!(
                    ["io", "corrupt", "already-exists", "not-found"].contains(&error.code()),
                    "{name}: {error:?}"
                );
            }
        };
        let opened = FileStoreConfig::new(&root).scoped("exp:1").connect();
        let Ok(store) = opened else {
            refused(opened.map(drop));
            continue;
        };
        refused(fill(&store, "bad"));
        refused(store.put_log("bad_x_y", "a_b", "text").map(drop));
        refused(
            store
                .put_artifact(&vec![1; 200_000], &descriptor("bad"))
                .map(drop),
        );
        refused(store.put_experiment_manifest("exp:1", "{}", None).map(drop));
        let list = store.list_run_records(None).map(|page| page.records);
        if name == "runs" {
            assert!(!list.is_ok_and(|records| !records.is_empty()), "{name}");
        }
        refused(store.get_derived("bad").map(drop));
        refused(store.delete_run("bad").map(drop));
        refused(store.close());
        assert_eq!(tree(&outside), before, "{name}");
    }
}

#[test]
fn arguments_that_cannot_be_stored_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let anything = &Expectation::Anything;
    let deep = format!(
        "{{\"run_id\": \"run\", \"status\": \"success\", \"metrics\": {}1{}}}",
        "{\"a\": ".repeat(100_000),
        "}".repeat(100_000)
    );
    for text in [
        deep.as_str(),
        "",
        "[]",
        "{",
        "{\"run_id\": \"run\"} {}",
        "{\"run_id\": 1, \"status\": \"success\"}",
        "{\"run_id\": \"run\", \"status\": \"done\"}",
        "{\"run_id\": \"run\", \"status\": \"success\", \"metrics\": []}",
        "{\"run_id\": \"run\", \"status\": \"success\", \"started_at\": \"yesterday\"}",
    ] {
        let error = store.put_run_text(text, anything).unwrap_err();
        let shown: String = text.chars().take(60).collect();
        assert_eq!(error.code(), "invalid-argument", "{shown}: {error}");
    }
    for hash in ["0123456789abcdef", &"0".repeat(64), "xyz", ""] {
        let mut wrong = descriptor("run");
        wrong.content_hash = Some(hash.to_owned());
        let error = store.put_artifact(b"content", &wrong).unwrap_err();
        assert_eq!(error.code(), "invalid-argument", "{hash}: {error}");
        let mut writer = match store.create_artifact(&wrong) {
            Ok(writer) => writer,
            Err(error) => {
                assert_eq!(error.code(), "invalid-argument");
                continue;
            }
        };
        writer.append(b"content").unwrap();
        assert_eq!(writer.finish().unwrap_err().code(), "invalid-argument");
    }
    assert_eq!(store.list_artifacts("run").unwrap(), []);
    assert_eq!(store.list_run_records(None).unwrap().records, []);
}

#[test]
fn a_record_of_a_newer_format_is_read_and_never_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let path = directory.path().join("exp_1/runs/new.json");
    let text = "{\n  \"_schema_version\": \"7.0\",\n  \"experiment_id\": \"exp:1\",\n  \"run_id\": \"new\",\n  \"shape\": {\"of\": \"things\"},\n  \"status\": \"success\"\n}";
    fs::write(&path, text).unwrap();
    let found = store.get_run_record("new").unwrap().unwrap();
    assert_eq!(found.schema_version, "7.0");
    assert!(found.unknown.contains("shape"));
    let error = store
        .put_run_record(&found, &Expectation::Anything)
        .unwrap_err();
    assert!(error.to_string().contains("7.0"), "{error}");
    let mut old = found;
    old.schema_version = String::new();
    let error = store
        .put_run_record(&old, &Expectation::Anything)
        .unwrap_err();
    assert!(error.to_string().contains("7.0"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
    assert!(store.delete_run("new").unwrap());
}

#[test]
fn a_log_is_read_to_its_end_whatever_bytes_it_ends_with() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let path = directory.path().join("exp_1/logs/run_x.log");
    // A character that is cut by the end of a piece comes with the next one, once the file has grown.
    fs::write(&path, b"abc\xe2\x9c").unwrap();
    let first = store.read_log("run", "x", 0, 100).unwrap().unwrap();
    assert_eq!((first.text.as_str(), first.next_offset), ("abc", 3));
    fs::write(&path, b"abc\xe2\x9c\x93d").unwrap();
    let second = store.read_log("run", "x", 3, 100).unwrap().unwrap();
    assert_eq!((second.text.as_str(), second.next_offset), ("\u{2713}d", 7));
    // One that is never finished does not stop those who follow for ever.
    for bytes in [&b"\xe2\x9c"[..], b"\xff", b"\xf0\x9f\x98"] {
        fs::write(&path, bytes).unwrap();
        let piece = store.read_log("run", "x", 0, 4).unwrap().unwrap();
        assert!(
            piece.end,
            "a follower can tell that nothing more is there now"
        );
        fs::write(&path, [bytes, b"\n"].concat()).unwrap();
        let piece = store
            .read_log("run", "x", piece.next_offset, 100)
            .unwrap()
            .unwrap();
        assert!(piece.text.ends_with('\n') || piece.text.is_empty());
    }
}

#[test]
fn a_file_in_the_index_that_is_too_large_for_a_segment_keeps_nobody_out() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    fill(&store, "good").unwrap();
    store.close().unwrap();
    let path = directory
        .path()
        .join("exp_1/.index/journal-00000000deadbeef.seg");
    File::create(&path).unwrap().set_len(1 << 30).unwrap();
    let store = open(directory.path());
    is_whole(&store, "good");
    fill(&store, "other").unwrap();
    store.close().unwrap();
    assert!(
        path.exists(),
        "what this version does not know is left alone"
    );
}
