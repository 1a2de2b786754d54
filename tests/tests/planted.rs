//! What others left in the store's own places, or wrote into its files: named, never followed, and no
//! reason to hide or to lose anything else.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use metalab_store::types::{
    ArtifactDescriptor, ArtifactReference, Durability, Expectation, RunQuery, RunRecord, Status,
    StructuredResult,
};
use metalab_store::{FileStoreConfig, Result, Store};
use metalab_store_tests::{leftovers, tree};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

/// What is no regular file. Opening the last one to read would block for ever.
const NO_FILES: [&str; 4] = [
    "a directory",
    "a link to a file",
    "a link to nothing",
    "a FIFO",
];

fn open(root: &Path, durability: Durability) -> Result<Store> {
    FileStoreConfig::new(root)
        .scoped("exp:1")
        .durability(durability)
        .connect()
}

fn descriptor(run: &str, name: &str) -> ArtifactDescriptor {
    ArtifactDescriptor::new(run, name, "blob", "bin")
}

fn reference(run: &str, name: &str) -> ArtifactReference {
    ArtifactReference::Name((run.to_owned(), name.to_owned()))
}

/// Makes everything of a run, each by its own call.
fn writes(store: &Store, run: &str) -> Vec<(&'static str, Result<()>)> {
    let record = RunRecord::new(run, Status::Success);
    let result = StructuredResult::new("[1]");
    vec![
        (
            "record",
            store
                .put_run_record(&record, &Expectation::Anything)
                .map(drop),
        ),
        (
            "derived",
            store.put_derived_text(run, "{\"a\": 1}").map(drop),
        ),
        ("result", store.put_result(run, "x", &result).map(drop)),
        (
            "artifact",
            store
                .put_artifact(b"content", &descriptor(run, "x"))
                .map(drop),
        ),
    ]
}

fn fill(store: &Store, run: &str) {
    for (call, outcome) in writes(store, run) {
        outcome.unwrap_or_else(|error| panic!("{call} of {run}: {error}"));
    }
    store.put_log(run, "run", "line\n").unwrap();
}

/// Reads everything of a run.
fn is_whole(store: &Store, run: &str, context: &str) {
    let record = store.get_run_record(run).unwrap();
    assert_eq!(record.unwrap().run_id, run, "{context}");
    let derived = store.get_derived_text(run).unwrap().unwrap();
    assert_eq!(derived, "{\n  \"a\": 1\n}", "{context}");
    let result = store.get_result(run, "x").unwrap().unwrap();
    assert_eq!(result.data, "[1]", "{context}");
    let log = store.get_log(run, "run").unwrap().unwrap();
    assert_eq!(log, "line\n", "{context}");
    let content = store.get_artifact(&reference(run, "x")).unwrap();
    assert_eq!(content, b"content", "{context}");
}

fn plant(thing: &str, path: &Path, outside: &Path) {
    fs::remove_file(path).ok();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    match thing {
        "a directory" => fs::create_dir_all(path.join("inside")).unwrap(),
        "a link to a file" => symlink(outside.join("secret"), path).unwrap(),
        "a link to nothing" => symlink(outside.join("new"), path).unwrap(),
        "a FIFO" => {
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            let kind = rustix::fs::FileType::Fifo;
            rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0).unwrap();
        }
        "nothing in it" => drop(File::create(path).unwrap()),
        "noise" => fs::write(path, [0xff; 5000]).unwrap(),
        "a GiB of zeros" => File::create(path).unwrap().set_len(1 << 30).unwrap(),
        other => panic!("{other}"),
    }
}

/// The files of the format, without those that belong to the store's own bookkeeping.
fn files(experiment: &Path) -> BTreeMap<String, Vec<u8>> {
    [
        "runs",
        "derived",
        "results",
        "logs",
        "artifacts",
        "experiments",
    ]
    .into_iter()
    .flat_map(|top| {
        tree(&experiment.join(top))
            .into_iter()
            .filter(|(name, _)| !name.ends_with('/'))
            .map(move |(name, content)| (format!("{top}/{name}"), content))
    })
    .collect()
}

/// A collection, and a directory beside it that nobody may touch.
struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("outside")).unwrap();
        fs::write(directory.path().join("outside/secret"), "secret").unwrap();
        Self { directory }
    }

    fn root(&self) -> std::path::PathBuf {
        self.directory.path().join("store")
    }

    fn outside(&self) -> std::path::PathBuf {
        self.directory.path().join("outside")
    }

    fn experiment(&self) -> std::path::PathBuf {
        self.root().join("exp_1")
    }

    fn outside_is_untouched(&self, context: &str) {
        let expected = BTreeMap::from([("secret".to_owned(), b"secret".to_vec())]);
        assert_eq!(tree(&self.outside()), expected, "{context}");
    }
}

#[test]
fn what_is_no_file_where_a_lock_should_be_stops_writes_of_that_run_and_nothing_else() {
    for durability in [Durability::Full, Durability::Relaxed] {
        for thing in NO_FILES {
            let context = format!("{thing}, {durability:?}");
            let place = Place::new();
            let store = open(&place.root(), durability).unwrap();
            fill(&store, "bad");
            fill(&store, "good");
            store.close().unwrap();
            plant(
                thing,
                &place.experiment().join(".locks/bad.lock"),
                &place.outside(),
            );
            let store = open(&place.root(), durability).unwrap();
            let before = files(&place.experiment());
            let deleted = ("delete", store.delete_run("bad").map(drop));
            for (call, outcome) in writes(&store, "bad").into_iter().chain([deleted]) {
                let error = outcome.expect_err(&format!("{call}, {context}"));
                assert_eq!(error.code(), "io", "{call}, {context}: {error}");
                assert!(
                    error.to_string().contains(".locks/bad.lock"),
                    "{call}, {context}: {error}"
                );
            }
            assert!(files(&place.experiment()) == before, "{context}");
            is_whole(&store, "bad", &context);
            is_whole(&store, "good", &context);
            fill(&store, "good");
            fill(&store, "new");
            store.close().unwrap();
            assert_eq!(leftovers(&place.root()), [""; 0], "{context}");
            place.outside_is_untouched(&context);
        }
    }
}

#[test]
fn what_lies_in_a_lock_file_is_no_matter() {
    for thing in ["nothing in it", "noise", "a GiB of zeros"] {
        let place = Place::new();
        let store = open(&place.root(), Durability::Full).unwrap();
        fill(&store, "bad");
        store.close().unwrap();
        plant(
            thing,
            &place.experiment().join(".locks/bad.lock"),
            &place.outside(),
        );
        let store = open(&place.root(), Durability::Full).unwrap();
        is_whole(&store, "bad", thing);
        fill(&store, "bad");
        is_whole(&store, "bad", thing);
        assert!(store.delete_run("bad").unwrap(), "{thing}");
        store.close().unwrap();
    }
}

#[test]
fn what_is_no_journal_in_the_journals_place_hides_and_loses_nothing() {
    let own = [
        ".index/journal-00000000000000aa.seg",
        ".index/journal-00000000000000aa.lock",
        ".index/staging/00000000000000aa",
        ".index/something",
        "runs/bad.tmp.0123abcd",
        "artifacts/bad/x.tmp.0123abcd",
    ];
    for name in own {
        for thing in NO_FILES.into_iter().chain(["nothing in it", "noise"]) {
            let context = format!("{thing} at {name}");
            let place = Place::new();
            let store = open(&place.root(), Durability::Full).unwrap();
            fill(&store, "bad");
            store.close().unwrap();
            let before = files(&place.experiment());
            plant(thing, &place.experiment().join(name), &place.outside());
            // It is looked at when a store is opened, so both ways to open have to live with it.
            let reader = FileStoreConfig::new(place.root())
                .scoped("exp:1")
                .read_only()
                .connect();
            let reader = reader.unwrap_or_else(|error| panic!("{context}: {error}"));
            is_whole(&reader, "bad", &context);
            let store = open(&place.root(), Durability::Full);
            let store = store.unwrap_or_else(|error| panic!("{context}: {error}"));
            is_whole(&store, "bad", &context);
            for (path, content) in &before {
                let now = fs::read(place.experiment().join(path));
                assert!(now.is_ok_and(|now| now == *content), "{context}: {path}");
            }
            fill(&store, "new");
            store.close().unwrap();
            let store = open(&place.root(), Durability::Full).unwrap();
            is_whole(&store, "new", &context);
            assert_eq!(
                store.list_run_records(None).unwrap().damaged,
                [],
                "{context}"
            );
            assert!(store.delete_run("new").unwrap(), "{context}");
            store.close().unwrap();
            place.outside_is_untouched(&context);
        }
    }
}

#[test]
fn a_damaged_list_of_artifacts_hides_no_other_data_and_is_never_written_over() {
    let damages: [&[u8]; 6] = [
        b"",
        b"{\"artifacts\": [",
        b"{\"artifacts\": [{\"name\": \"\xff\"}]}",
        b"[]",
        b"{\"artifacts\": 5}",
        b"\0\0\0\0",
    ];
    for durability in [Durability::Full, Durability::Relaxed] {
        for damage in damages {
            let context = format!("{:?}, {durability:?}", String::from_utf8_lossy(damage));
            let place = Place::new();
            let store = open(&place.root(), durability).unwrap();
            fill(&store, "bad");
            fill(&store, "good");
            store.close().unwrap();
            let manifest = place.experiment().join("artifacts/bad/_manifest.json");
            fs::write(&manifest, damage).unwrap();
            let store = open(&place.root(), durability).unwrap();
            let before = files(&place.experiment());

            let source = place.directory.path().join("source");
            fs::write(&source, vec![7; 300_000]).unwrap();
            let streamed = || {
                let mut writer = store.create_artifact(&descriptor("bad", "x"))?;
                writer.append(b"other content")?;
                writer.finish().map(drop)
            };
            for (call, outcome) in [
                ("list", store.list_artifacts("bad").map(drop)),
                ("get", store.get_artifact(&reference("bad", "x")).map(drop)),
                (
                    "put over",
                    store
                        .put_artifact(b"other content", &descriptor("bad", "x"))
                        .map(drop),
                ),
                (
                    "put beside",
                    store
                        .put_artifact(b"other content", &descriptor("bad", "y"))
                        .map(drop),
                ),
                (
                    "stage",
                    store
                        .put_artifact_file(&source, &descriptor("bad", "x"))
                        .map(drop),
                ),
                ("stream", streamed()),
            ] {
                let error = outcome.expect_err(&format!("{call}, {context}"));
                assert_eq!(error.code(), "corrupt", "{call}, {context}: {error}");
                assert!(
                    error.to_string().contains("artifacts/bad/_manifest.json"),
                    "{call}, {context}: {error}"
                );
            }
            assert!(files(&place.experiment()) == before, "{context}");
            // The file is there, and who knows where finds it.
            let uri = ArtifactReference::Uri("exp_1/artifacts/bad/x.bin".to_owned());
            assert_eq!(store.get_artifact(&uri).unwrap(), b"content", "{context}");
            is_whole(&store, "good", &context);
            fill(&store, "good");
            assert!(store.get_run_record("bad").unwrap().is_some());
            assert!(store.get_derived_text("bad").unwrap().is_some());
            assert!(store.get_result("bad", "x").unwrap().is_some());
            assert_eq!(store.list_logs("bad").unwrap(), ["run"]);
            let page = store.list_run_records(None).unwrap();
            assert_eq!((page.records.len(), page.damaged.len()), (2, 0));
            // What cannot be read can be removed.
            assert!(store.delete_run("bad").unwrap(), "{context}");
            store.close().unwrap();
            let left = files(&place.experiment());
            let left: Vec<&String> = left.keys().filter(|name| name.contains("bad")).collect();
            assert_eq!(left, [""; 0], "{context}");
            assert_eq!(leftovers(&place.root()), [""; 0], "{context}");
        }
    }
}

#[test]
fn a_damaged_meta_file_hides_no_run_and_stays_as_it_is() {
    let damages: [&[u8]; 7] = [
        b"",
        b"{\"experiment_id\": ",
        b"{\"experiment_id\": \"\xff\"}",
        b"{\"experiment_id\": \"\\ud800\"}",
        b"{\"experiment_id\": [\"exp:1\"]}",
        b"[\"experiment_id\"]",
        b"null",
    ];
    for damage in damages {
        let context = String::from_utf8_lossy(damage).into_owned();
        let place = Place::new();
        let store = open(&place.root(), Durability::Full).unwrap();
        fill(&store, "run");
        store.close().unwrap();
        let other = FileStoreConfig::new(place.root()).scoped("other:1");
        fill(&other.connect().unwrap(), "elsewhere");
        let meta = place.experiment().join("_meta.json");
        fs::write(&meta, damage).unwrap();

        let store = open(&place.root(), Durability::Full).unwrap();
        is_whole(&store, "run", &context);
        fill(&store, "new");
        let page = store.list_run_records(None).unwrap();
        assert_eq!(
            (page.records.len(), page.damaged.len()),
            (2, 0),
            "{context}"
        );
        assert!(store.delete_run("new").unwrap());
        store.close().unwrap();
        // The whole collection cannot tell what this experiment is called. It says so, and shows the others.
        let collection = FileStoreConfig::new(place.root()).read_only();
        let page = collection
            .connect()
            .unwrap()
            .list_run_records(None)
            .unwrap();
        let runs: Vec<&str> = page.records.iter().map(|run| run.run_id.as_str()).collect();
        assert_eq!(runs, ["elsewhere"], "{context}");
        let listed = collection.list_experiments().unwrap();
        assert_eq!(listed.experiments, ["other:1"], "{context}");
        for damaged in [page.damaged, listed.damaged] {
            let damaged: Vec<&str> = damaged.iter().map(|damage| damage.file.as_str()).collect();
            assert_eq!(damaged, ["exp_1/_meta.json"], "{context}");
        }
        assert_eq!(fs::read(&meta).unwrap(), damage, "{context}");
    }
}

#[test]
fn an_entry_that_is_no_artifact_stays_in_the_list_when_another_is_put() {
    let place = Place::new();
    let store = open(&place.root(), Durability::Full).unwrap();
    fill(&store, "run");
    store.close().unwrap();
    let manifest = place.experiment().join("artifacts/run/_manifest.json");
    let whole = fs::read_to_string(&manifest).unwrap();
    let foreign = whole.replacen(
        "[\n",
        "[\n    {\n      \"of\": \"another program\"\n    },\n    1,\n",
        1,
    );
    fs::write(&manifest, &foreign).unwrap();
    let store = open(&place.root(), Durability::Full).unwrap();
    store
        .put_artifact(b"content", &descriptor("run", "y"))
        .unwrap();
    let now = fs::read_to_string(&manifest).unwrap();
    let kept = foreign.strip_suffix("\n  ]\n}").unwrap();
    assert!(now.starts_with(kept), "{now}");
    let error = store.list_artifacts("run").unwrap_err();
    assert_eq!(error.code(), "corrupt", "{error}");
    store.close().unwrap();
}

#[test]
fn a_record_that_names_another_run_stands_for_its_file_only() {
    let place = Place::new();
    let store = open(&place.root(), Durability::Full).unwrap();
    fill(&store, "one");
    fill(&store, "two");
    store.close().unwrap();
    let one = place.experiment().join("runs/one.json");
    let two = place.experiment().join("runs/two.json");
    let whole = fs::read(&two).unwrap();
    fs::write(&one, &whole).unwrap();
    let store = open(&place.root(), Durability::Full).unwrap();
    // What the file says is what a reader gets; nothing looks for the other run because of it.
    assert_eq!(
        store.get_run_text("one").unwrap().unwrap().as_bytes(),
        whole
    );
    is_whole(&store, "two", "a copy under another name");
    // A write to the run that it names goes to that run's own file.
    let mut changed = RunRecord::new("two", Status::Failed);
    changed.notes = Some("changed".to_owned());
    store
        .put_run_record(&changed, &Expectation::Anything)
        .unwrap();
    assert_eq!(fs::read(&one).unwrap(), whole);
    assert_ne!(fs::read(&two).unwrap(), whole);
    // A delete of the run that it is called by takes the file and nothing of the run that it names.
    assert!(store.delete_run("one").unwrap());
    assert!(!one.exists());
    assert_eq!(
        store.get_run_record("two").unwrap().unwrap().notes,
        changed.notes
    );
    assert!(store.get_derived_text("two").unwrap().is_some());
    assert_eq!(
        store.get_artifact(&reference("two", "x")).unwrap(),
        b"content"
    );
    store.close().unwrap();
}

#[test]
fn who_follows_a_log_with_torn_characters_gets_all_of_it_and_always_comes_to_an_end() {
    let place = Place::new();
    let store = open(&place.root(), Durability::Full).unwrap();
    let path = place.experiment().join("logs/run_x.log");
    let torn: [&[u8]; 6] = [
        b"\xe2\x9c",
        b"\xf0\x9f\x98",
        b"\xff",
        b"\xc3",
        b"\xed\xa0\x80",
        b"a\xf0\x9f",
    ];
    for bytes in torn {
        for pieces in [1, 4, 5, 100] {
            let context = format!("{bytes:x?} in pieces of {pieces}");
            // The writer died within a character, and another one went on after it.
            let content = [bytes, b"\nnext\n", bytes].concat();
            fs::write(&path, &content).unwrap();
            let (mut offset, mut text, mut calls) = (0, String::new(), 0);
            loop {
                let piece = store.read_log("run", "x", offset, pieces).unwrap().unwrap();
                assert!(
                    piece.end || piece.next_offset > offset,
                    "{context}: no progress at {offset}"
                );
                text.push_str(&piece.text);
                offset = piece.next_offset;
                calls += 1;
                assert!(calls <= content.len() + 1, "{context}: no end");
                if piece.end {
                    break;
                }
            }
            // Only what may still become a character is left.
            let rest = content.len() as u64 - offset;
            assert!(rest < 4, "{context}: {rest} bytes are left");
            assert!(text.contains("\nnext\n"), "{context}: {text:?}");
            let expected = String::from_utf8_lossy(&content[..usize::try_from(offset).unwrap()]);
            assert_eq!(text, expected, "{context}");
        }
    }
    store.close().unwrap();
}

#[test]
fn a_record_rewritten_in_place_with_its_size_and_time_restored_is_noticed_where_it_is_returned() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), Durability::Relaxed).unwrap();
    let mut record = RunRecord::new("r", Status::Success);
    record.params_resolved = "{\"x\":1}".to_owned();
    store
        .put_run_record(&record, &Expectation::Anything)
        .unwrap();
    let path = directory.path().join("exp_1/runs/r.json");
    let changed = || fs::metadata(&path).unwrap().modified().unwrap();
    // A file as young as a tick of the clock is read again in any case.
    let mut others = 0;
    while changed().elapsed().unwrap() < Duration::from_millis(100) {
        let other = RunRecord::new(format!("other{others}"), Status::Success);
        store
            .put_run_record(&other, &Expectation::Anything)
            .unwrap();
        others += 1;
    }
    let query = RunQuery {
        filter: "params.x > 0".to_owned(),
        ..RunQuery::default()
    };
    let lines = || {
        store
            .query_runs(&query)
            .unwrap()
            .next_lines(1 << 20)
            .unwrap()
    };
    assert!(lines().contains("{\"x\":1}"));
    assert!(lines().contains("{\"x\":1}"));

    let before = changed();
    let text = fs::read_to_string(&path).unwrap();
    let mut file = File::options().write(true).open(&path).unwrap();
    file.write_all(text.replace("\"x\": 1", "\"x\": 2").as_bytes())
        .unwrap();
    file.set_modified(before).unwrap();
    assert_eq!(changed(), before);
    assert!(lines().contains("{\"x\":2}"));
}
