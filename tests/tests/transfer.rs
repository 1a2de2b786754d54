//! Copies between stores and archives: of any kind to any kind, killed at any moment, from and into what should not be.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use metalab_store::transfer::{
    Existing, ExperimentDigest, Failure, Place, Report, TransferOptions, transfer,
};
use metalab_store::types::{ArtifactReference, IndexStanding};
use metalab_store::{Error, FileStoreConfig, StoreConfig};
use metalab_store_guest::transfer::{Packer, Unpacker};
use metalab_store_tests::database::{Schema, config};
use metalab_store_tests::script::{Numbers, seed};
use metalab_store_tests::{Worker, command, reference_collection};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// A block of an archive.
const BLOCK: usize = 512;

fn write(path: impl AsRef<Path>, content: impl AsRef<[u8]>) {
    let path = path.as_ref();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// Makes a directory in memory if there is a place: a kill spares what was written, so that no disk is needed.
fn in_memory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

fn meta(directory: &Path, experiment: &str) {
    let experiment = experiment.replace('é', "\\u00e9").replace('ß', "\\u00df");
    let text = format!(
        "{{\n  \"created_by\": \"metalab\",\n  \"experiment_id\": \"{experiment}\",\n  \"schema_version\": \"0.1\"\n}}"
    );
    write(directory.join("_meta.json"), text);
}

/// Writes a run with everything that one can have, as the format has it.
fn write_run(directory: &Path, experiment: &str, run: &str, artifacts: u8, numbers: &mut Numbers) {
    let mut entries = Vec::new();
    for artifact in 0..artifacts {
        let size = usize::try_from(numbers.below(3_000)).unwrap();
        let content = vec![artifact; size];
        write(
            directory.join(format!("artifacts/{run}/a {artifact}.bin")),
            content,
        );
        entries.push(format!(
            "    {{\n      \"artifact_id\": \"{run}{artifact}\",\n      \"format\": \"bin\",\n      \"kind\": \"bytes\",\n      \"name\": \"a {artifact}\",\n      \"uri\": \"/old/{run}/a {artifact}.bin\"\n    }}"
        ));
    }
    let manifest = format!("{{\n  \"artifacts\": [\n{}\n  ]\n}}", entries.join(",\n"));
    if artifacts > 0 {
        write(
            directory.join(format!("artifacts/{run}/_manifest.json")),
            &manifest,
        );
    }
    let value = ["1.5", "NaN", "-Infinity", "1180591620717411303424", "-0.0"];
    let value = value[usize::try_from(numbers.below(5)).unwrap()];
    write(
        directory.join(format!("runs/{run}.json")),
        format!(
            "{{\n  \"experiment_id\": \"{experiment}\",\n  \"metrics\": {{\n    \"loss\": {value}\n  }},\n  \"run_id\": \"{run}\",\n  \"status\": \"success\"\n}}"
        ),
    );
    write(
        directory.join(format!("derived/{run}.json")),
        format!("{{\n  \"best\": {value}\n}}"),
    );
    write(
        directory.join(format!("logs/{run}_run.log")),
        "a line\r\nanother\n",
    );
    match numbers.below(4) {
        0 => write(directory.join(format!("logs/{run}/stdout.txt")), "nested"),
        1 => write(
            directory.join(format!("results/{run}/scores.json")),
            "{\n  \"data\": [\n    1\n  ]\n}",
        ),
        2 => write(
            directory.join(format!("runs/{run}.done")),
            "{\"completed_at\": \"2026-03-01T09:00:00\"}",
        ),
        _ => {}
    }
}

/// Makes a collection of so many runs with five artifacts each: three experiments, odd names, logs of all generations,
/// and what belongs to no run.
fn generated(root: &Path, runs: usize) {
    let mut numbers = Numbers::new(7);
    let experiments = [("one:1.0", "one_1.0"), ("two", "two"), ("Dréi:ß", "Dréi_ß")];
    for (at, (experiment, directory)) in experiments.into_iter().enumerate() {
        let directory = root.join(directory);
        meta(&directory, experiment);
        let odd = [
            "run.with.dots",
            "run_1",
            "run_1_2",
            "Ünïcode-ïd",
            &"x".repeat(64),
        ];
        for run in odd {
            write_run(&directory, experiment, run, 5, &mut numbers);
        }
        for _ in odd.len()..runs / 3 + usize::from(at < runs % 3) {
            let run = format!("{:016x}", numbers.draw());
            write_run(&directory, experiment, &run, 5, &mut numbers);
        }
        // A label with the beginning of an id, and one that nobody knows.
        write(directory.join("logs/my label_deadbeef_run.log"), "?");
        write(directory.join("artifacts/legacy-id-012345/state"), "orphan");
        write(directory.join("derived/0000000000000000.json"), "{}");
        write(
            directory.join(format!("{experiment}_context_manifest.json")),
            "{}",
        );
        write(
            directory.join(format!(
                "experiments/{}_20260101_000000.json",
                experiment.replace(':', "_")
            )),
            "{\n  \"description\": \"first\"\n}",
        );
    }
}

/// The files of a collection that a copy must have, by their paths.
fn files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = metalab_store_tests::tree(root);
    found.retain(|path, _| {
        !path.ends_with('/')
            // The destination's own, and what the format does not know.
            && path != "_meta.json"
            && !path.contains(".index/")
            && !path.contains(".locks/")
            && !path.contains(".tmp.")
            && !path.starts_with("services/")
            && !path.starts_with("badmeta/")
            && !path.starts_with("not_an_experiment/")
    });
    found
}

/// Names the first file that differs.
fn assert_same(found: &Path, wanted: &Path) {
    let (found, wanted) = (files(found), files(wanted));
    let differs = wanted
        .keys()
        .chain(found.keys())
        .find(|path| wanted.get(*path) != found.get(*path));
    assert_eq!(differs, None);
    assert!(!wanted.is_empty());
}

fn store(root: impl AsRef<Path>) -> Place {
    Place::Store(Box::new(FileStoreConfig::new(root).into()))
}

fn copy_with(from: &Place, to: &Place, options: &TransferOptions) -> Result<Report, Error> {
    transfer(from, to, options, &mut |_| ControlFlow::Continue(()))
}

fn copy(from: &Place, to: &Place) -> Report {
    copy_with(from, to, &TransferOptions::default()).unwrap()
}

fn ids(digests: &[ExperimentDigest]) -> BTreeMap<String, (u64, String)> {
    let entry = |digest: &ExperimentDigest| {
        (
            digest.experiment_id.clone(),
            (digest.runs, digest.digest.clone()),
        )
    };
    digests.iter().map(entry).collect()
}

fn reasons(failures: &[Failure]) -> Vec<&str> {
    failures
        .iter()
        .map(|failure| failure.reason.as_str())
        .collect()
}

/// Copies a collection from any kind of place to any kind, and compares what is there.
fn any_to_any(source: &Path, failing: usize) -> BTreeMap<String, (u64, String)> {
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    let archive = |name: &str| Place::Archive(at(name));
    let schemas = [Schema::new(), Schema::new(), Schema::new()];
    let database = |index: usize, name: &str| {
        fs::create_dir_all(at(name)).unwrap();
        Place::Store(Box::new(schemas[index].config(&at(name)).into()))
    };
    let files = store(source);
    let mut digests = None;
    let mut first = None;
    for (from, to, stored) in [
        (&files, store(at("file")), Some("file")),
        (&files, database(0, "pg"), Some("pg")),
        (&files, archive("file.tar.zst"), None),
        (&database(0, "pg"), archive("pg.tar.zst"), None),
        (&database(0, "pg"), database(1, "pg-pg"), Some("pg-pg")),
        (&database(0, "pg"), store(at("pg-file")), Some("pg-file")),
        (
            &archive("pg.tar.zst"),
            store(at("archive-file")),
            Some("archive-file"),
        ),
        (
            &archive("file.tar.zst"),
            database(2, "archive-pg"),
            Some("archive-pg"),
        ),
        (&store(at("archive-file")), archive("again.tar"), None),
        (
            &archive("again.tar"),
            store(at("plain-file")),
            Some("plain-file"),
        ),
    ] {
        let report = copy(from, &to);
        let context = format!("{from:?} to {to:?}");
        // What the source cannot tell is told by it alone: it is not in the stream.
        let told = usize::from(std::ptr::eq(from, &raw const files)) * failing;
        assert_eq!(
            report.failures.len(),
            told,
            "{context}: {:?}",
            report.failures
        );
        let found = ids(&report.digests);
        assert_eq!(&found, digests.get_or_insert(found.clone()), "{context}");
        let counts = (report.copied.runs, report.copied.files, report.copied.bytes);
        assert_eq!(&counts, first.get_or_insert(counts), "{context}");
        assert_eq!(
            report.skipped.files + report.failed.files + report.removed,
            0
        );
        if let Some(name) = stored {
            assert_same(&at(name), source);
        }
        // The same copy again finds everything in place.
        if let Place::Store(_) = to {
            let report = copy(from, &to);
            assert_eq!(report.copied.files, 0, "{context}");
            assert_eq!(report.skipped.files, counts.1, "{context}");
            assert_eq!(Some(&ids(&report.digests)), digests.as_ref());
        }
    }
    assert!(fs::read(at("file.tar.zst")).unwrap() == fs::read(at("pg.tar.zst")).unwrap());
    for (schema, root) in schemas.iter().zip(["pg", "pg-pg", "archive-pg"]) {
        let store = schema.config(&at(root)).read_only().connect().unwrap();
        assert_eq!(
            store.index_state().unwrap().standing,
            IndexStanding::Current
        );
    }
    digests.unwrap()
}

#[test]
fn what_the_reference_wrote_is_the_same_in_every_kind_of_store_and_archive() {
    let source = reference_collection();
    // `badmeta` may be an experiment's directory and does not say whose.
    let digests = any_to_any(&source.path().join("experiments"), 1);
    let runs: Vec<(&str, u64)> = digests
        .iter()
        .map(|(id, (runs, _))| (id.as_str(), *runs))
        .collect();
    assert_eq!(
        runs,
        [
            ("curve_fit:1.0", 5),
            ("damaged:1", 9),
            ("plain", 5),
            ("special:2", 4)
        ]
    );
}

#[test]
fn a_thousand_runs_with_five_thousand_artifacts_are_the_same_in_every_kind_of_store_and_archive() {
    let source = tempfile::tempdir().unwrap();
    generated(source.path(), 1_000);
    let digests = any_to_any(source.path(), 0);
    // Each experiment has two ids with pieces and no record besides.
    assert_eq!(
        digests.values().map(|(runs, _)| runs).sum::<u64>(),
        1_000 + 3 * 2
    );
}

/// A copy by the command, in a process of its own.
fn export(from: &str, to: &str, more: &[&str]) -> Command {
    let mut command = command();
    command
        .args(["export", "--json", "--from", from, "--to", to])
        .args(more)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn json(output: &Output) -> Value {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What kind of copy is killed.
struct Killed<'k> {
    from: String,
    /// Where the files appear.
    root: &'k Path,
    to: String,
}

/// Kills a copy when it has written so many of the files, and a random moment later.
fn kill(command: &mut Command, spins: u64, begun: impl Fn() -> bool) {
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while !begun() && child.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    for _ in 0..spins {
        std::hint::spin_loop();
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// How many files of the right content a destination has.
fn whole(root: &Path, wanted: &BTreeMap<String, Vec<u8>>) -> u64 {
    if !root.exists() {
        return 0;
    }
    let found = files(root);
    let right = found.iter().filter(|(path, content)| {
        !path.ends_with("_meta.json") && wanted.get(*path) == Some(content)
    });
    right.count() as u64
}

fn records(root: &Path) -> usize {
    let mut count = 0;
    for experiment in fs::read_dir(root).into_iter().flatten().flatten() {
        count += fs::read_dir(experiment.path().join("runs"))
            .into_iter()
            .flatten()
            .count();
    }
    count
}

/// Kills copies at random moments until so many were killed, and finishes each.
fn kill_copies(
    source: &Path,
    runs: u64,
    kills: u32,
    mut make: impl FnMut(u32) -> (TempDir, String, String),
) {
    let seed = seed();
    println!("METALAB_STORE_SEED={seed}");
    let mut numbers = Numbers::new(seed);
    let wanted = files(source);
    let reference = tempfile::tempdir().unwrap();
    let digests = serde_json::json!(copy(&store(source), &store(reference.path())).digests);
    let (mut killed, mut round, mut kept) = (0, 0, 0);
    while killed < kills {
        let (directory, from, to) = make(round);
        round += 1;
        let place = Killed {
            from,
            root: directory.path(),
            to,
        };
        for _ in 0..2 + numbers.below(6) {
            let until = records(place.root) + usize::try_from(numbers.below(runs / 2)).unwrap();
            kill(
                &mut export(&place.from, &place.to, &[]),
                numbers.below(2_000_000),
                || records(place.root) >= until,
            );
            killed += 1;
        }
        let before = whole(place.root, &wanted);
        kept += before;
        let report = json(&export(&place.from, &place.to, &[]).output().unwrap());
        let context = format!("METALAB_STORE_SEED={seed}, after kill {killed}");
        assert_eq!(
            report["skipped"]["files"], before,
            "{context}: written twice"
        );
        assert_eq!(report["digests"], digests, "{context}");
        assert_eq!(report["failures"], serde_json::json!([]), "{context}");
        assert_same(place.root, source);
        let mut left = metalab_store_tests::leftovers(place.root);
        // What is known of the database has no journal: who was killed in the middle of noting it leaves that to `gc`.
        if left
            .iter()
            .any(|file| file.contains(".index/database.tmp."))
        {
            let gc = ["-s", &place.to, "gc", "--apply", "--grace", "0s"];
            let collected = command().args(gc).output().unwrap();
            assert!(collected.status.success(), "{context}: {collected:?}");
            left = metalab_store_tests::leftovers(place.root);
        }
        assert_eq!(left, Vec::<String>::new(), "{context}");
        let marks = metalab_store_tests::tree(place.root);
        let mark = marks
            .keys()
            .find(|path| path.contains("transfer-unfinished"));
        assert_eq!(mark, None, "{context}");
    }
    println!("{killed} copies killed, {kept} files kept");
    assert!(kept > 0);
}

/// How many copies of each kind are killed: `METALAB_STORE_KILLS`, or 50.
fn kills() -> u32 {
    let given = std::env::var("METALAB_STORE_KILLS").ok();
    given.and_then(|kills| kills.parse().ok()).unwrap_or(50)
}

#[test]
fn a_copy_of_files_that_is_killed_at_any_moment_is_finished_by_the_same_command() {
    let source = in_memory();
    generated(source.path(), 200);
    write(
        source.path().join("two/artifacts/run_1/large.bin"),
        vec![7; 6_000_000],
    );
    kill_copies(source.path(), 200, kills(), |_| {
        let to = in_memory();
        let locator = to.path().display().to_string();
        (to, source.path().display().to_string(), locator)
    });
}

#[test]
fn a_copy_out_of_an_archive_that_is_killed_at_any_moment_is_finished_by_the_same_command() {
    let source = in_memory();
    generated(source.path(), 200);
    let archives = in_memory();
    let archive = archives.path().join("a.tar.zst");
    copy(&store(source.path()), &Place::Archive(archive.clone()));
    kill_copies(source.path(), 200, kills(), |_| {
        let to = in_memory();
        let locator = to.path().display().to_string();
        (to, archive.display().to_string(), locator)
    });
}

#[test]
fn a_copy_into_a_store_with_a_database_that_is_killed_at_any_moment_is_finished_by_the_same_command()
 {
    let source = in_memory();
    generated(source.path(), 150);
    let mut schemas = Vec::new();
    kill_copies(source.path(), 150, kills(), |_| {
        let schema = Schema::new();
        let to = in_memory();
        let locator = schema.locator(to.path());
        let config = schema.config(to.path());
        schemas.push((schema, config));
        (to, source.path().display().to_string(), locator)
    });
    // The last one is still there to be looked at by its rows.
    let (schema, _) = schemas.last().unwrap();
    assert_eq!(schema.count("metalab_store_runs"), 150);
}

#[test]
fn an_archive_whose_writing_is_killed_is_written_again_and_is_the_same_to_the_byte() {
    let source = in_memory();
    generated(source.path(), 200);
    let from = source.path().display().to_string();
    let archives = in_memory();
    let wanted = archives.path().join("wanted.tar.zst");
    copy(&store(source.path()), &Place::Archive(wanted.clone()));
    let wanted = fs::read(wanted).unwrap();
    let seed = seed();
    println!("METALAB_STORE_SEED={seed}");
    let mut numbers = Numbers::new(seed);
    let archive = archives.path().join("a.tar.zst");
    let part = archives.path().join("a.tar.zst.part");
    for at in 0..kills() {
        let until = numbers.below(wanted.len() as u64);
        kill(
            &mut export(&from, archive.to_str().unwrap(), &[]),
            numbers.below(500_000),
            || fs::metadata(&part).is_ok_and(|part| part.len() >= until),
        );
        // Whole or not there at all.
        if archive.exists() {
            assert!(
                fs::read(&archive).unwrap() == wanted,
                "METALAB_STORE_SEED={seed}"
            );
            fs::remove_file(&archive).unwrap();
        }
        if at % 5 == 4 {
            json(
                &export(&from, archive.to_str().unwrap(), &[])
                    .output()
                    .unwrap(),
            );
            assert!(
                fs::read(&archive).unwrap() == wanted,
                "METALAB_STORE_SEED={seed}"
            );
            assert!(!part.exists());
            fs::remove_file(&archive).unwrap();
        }
    }
}

#[test]
fn what_writers_change_meanwhile_is_copied_as_it_was_at_one_moment() {
    let source = tempfile::tempdir().unwrap();
    let root = source.path();
    let config: StoreConfig = FileStoreConfig::new(root).into();
    config
        .clone()
        .scoped("exp:1")
        .connect()
        .unwrap()
        .close()
        .unwrap();
    let mut writers = [
        Worker::start("churn", root, &["p"]),
        Worker::start("churn", root, &["q"]),
    ];
    for writer in &mut writers {
        writer.line().unwrap();
    }
    let (mut seen, mut torn) = (0, 0);
    for _ in 0..60 {
        let to = tempfile::tempdir().unwrap();
        let report = copy(&store(root), &store(to.path()));
        torn += report.failures.len();
        for failure in &report.failures {
            assert!(
                failure.reason.contains("was changed while it was read"),
                "{failure:?}"
            );
        }
        let copied = FileStoreConfig::new(to.path()).scoped("exp:1").read_only();
        let Ok(copied) = copied.connect() else {
            continue;
        };
        let list = copied.list_run_records(None).unwrap();
        assert_eq!(list.damaged, Vec::new());
        for record in list.records {
            seen += 1;
            let tag: u64 = record
                .notes
                .unwrap()
                .split(' ')
                .next()
                .unwrap()
                .parse()
                .unwrap();
            // Every artifact that the manifest names is there, whole, and the record's own.
            for artifact in copied.list_artifacts(&record.run_id).unwrap() {
                let content = copied
                    .get_artifact(&ArtifactReference::Name((
                        record.run_id.clone(),
                        artifact.name.clone(),
                    )))
                    .unwrap();
                assert_eq!(content, tag.to_le_bytes());
            }
        }
    }
    for writer in writers {
        writer.end();
    }
    println!("{seen} runs seen, {torn} reported as changing");
    assert!(seen > 20, "{seen} runs seen, {torn} reported as changing");
    let to = tempfile::tempdir().unwrap();
    assert_eq!(copy(&store(root), &store(to.path())).failures, Vec::new());
    assert_same(to.path(), root);
}

#[test]
fn progress_is_told_and_a_copy_that_is_stopped_is_finished_by_the_same_call() {
    let (source, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    generated(source.path(), 200);
    let (from, into) = (store(source.path()), store(to.path()));
    let options = TransferOptions::default();
    let mut told = Vec::new();
    let stopped = transfer(&from, &into, &options, &mut |progress| {
        told.push(*progress);
        if told.len() == 3 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    assert_eq!(stopped, Err(Error::Cancelled));
    assert_eq!(told.len(), 3);
    assert!(told.is_sorted_by(|one, two| one.runs <= two.runs && one.bytes < two.bytes));
    let before = whole(to.path(), &files(source.path()));
    assert!(before > 0);
    told.clear();
    let report = transfer(&from, &into, &options, &mut |progress| {
        told.push(*progress);
        ControlFlow::Continue(())
    });
    let report = report.unwrap();
    assert_eq!(report.skipped.files, before);
    let last = told.last().unwrap();
    assert_eq!((last.runs, last.total), (206, 206));
    // An archive knows its size, and not how many runs it holds.
    let archive = Place::Archive(to.path().join("a.tar.zst"));
    copy(&from, &archive);
    let again = tempfile::tempdir().unwrap();
    let mut read = Vec::new();
    transfer(&archive, &store(again.path()), &options, &mut |progress| {
        read.push(progress.archive.unwrap());
        ControlFlow::Continue(())
    })
    .unwrap();
    let size = fs::metadata(to.path().join("a.tar.zst")).unwrap().len();
    assert_eq!(read.last(), Some(&(size, size)));
    // A copy that is stopped leaves no half archive.
    let half = to.path().join("half.tar.zst");
    let stopped = transfer(&from, &Place::Archive(half.clone()), &options, &mut |_| {
        ControlFlow::Break(())
    });
    assert_eq!(stopped, Err(Error::Cancelled));
    assert!(!half.exists() && !to.path().join("half.tar.zst.part").exists());
}

#[tokio::test]
async fn a_copy_works_within_an_asynchronous_program() {
    let (source, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    generated(source.path(), 20);
    let report = copy(&store(source.path()), &store(to.path()));
    assert_eq!(report.failures, Vec::new());
    assert_same(to.path(), source.path());
}

/// Says how a copy by the command was refused: its status, and the code and the message of the error.
fn refused(command: &mut Command) -> (Option<i32>, String, String) {
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    let error: Value = serde_json::from_str(text.lines().last().unwrap_or_default())
        .unwrap_or_else(|_| panic!("{command:?}: {text}"));
    let part = |key: &str| error["error"][key].as_str().unwrap_or_default().to_owned();
    (output.status.code(), part("code"), part("message"))
}

#[test]
fn what_cannot_be_copied_is_one_clear_error_and_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    generated(&here.join("source"), 20);
    fs::create_dir_all(here.join("other")).unwrap();
    symlink(here.join("source"), here.join("link")).unwrap();
    write(here.join("there.tar.zst"), "there");
    write(
        here.join("text.tar.zst"),
        "this is no archive, and never was one",
    );
    let before = metalab_store_tests::tree(here);
    let path = |name: &str| here.join(name).display().to_string();
    let dead = format!(
        "postgresql://nobody@127.0.0.1:1/nothing?file_root={}&connect_timeout=1",
        path("dead")
    );
    fs::create_dir_all(here.join("dead")).unwrap();
    let source = path("source");
    let cases: [(&str, &str, &[&str], &str, &str); 18] = [
        (
            &source,
            &source,
            &[],
            "invalid-argument",
            "are the same store",
        ),
        (
            &source,
            &path("link"),
            &[],
            "invalid-argument",
            "are the same store",
        ),
        (
            &source,
            &path("source/two/inside"),
            &[],
            "invalid-argument",
            "lies within",
        ),
        (
            &source,
            &path("link/two/new"),
            &[],
            "invalid-argument",
            "lies within",
        ),
        (
            &path("source/two"),
            &source,
            &[],
            "invalid-argument",
            "lies within",
        ),
        (
            &source,
            &path("source/two/new.tar.zst"),
            &[],
            "invalid-argument",
            "would lie within",
        ),
        (
            &source,
            &path("link/new.tar"),
            &[],
            "invalid-argument",
            "would lie within",
        ),
        (&path("nowhere"), &path("other"), &[], "root", "nowhere"),
        (
            &path("nowhere.tar.zst"),
            &path("other"),
            &[],
            "io",
            "nowhere.tar.zst",
        ),
        (
            &path("there.tar.zst"),
            &path("new.tar.zst"),
            &[],
            "invalid-argument",
            "copy the file",
        ),
        (
            &source,
            &path("there.tar.zst"),
            &[],
            "already-exists",
            "--overwrite",
        ),
        (
            &source,
            &path("no/directory.tar.zst"),
            &[],
            "io",
            "No such file",
        ),
        (
            &source,
            &path("other"),
            &["-e", "nobody:1"],
            "not-found",
            "nobody:1",
        ),
        (
            &source,
            &path("other"),
            &["--where", "loss <"],
            "invalid-query",
            "",
        ),
        (
            &source,
            &path("other"),
            &["-e", "../two"],
            "invalid-name",
            "..",
        ),
        (
            &path("there.tar.zst"),
            &path("other"),
            &["-e", "two"],
            "invalid-argument",
            "copied whole",
        ),
        (
            &path("text.tar.zst"),
            &path("other"),
            &[],
            "invalid-argument",
            "cannot be read",
        ),
        (&source, &dead, &[], "database", "nothing was copied"),
    ];
    for (from, to, more, code, message) in cases {
        let (status, found, told) = refused(&mut export(from, to, more));
        assert_eq!(
            (status, found.as_str()),
            (Some(1), code),
            "{from} {to}: {told}"
        );
        assert!(told.contains(message), "{from} {to}: {told}");
        assert!(!told.contains("nobody@"), "{told}");
    }
    let mut after = metalab_store_tests::tree(here);
    // A store that was opened to write may be there, empty.
    after.retain(|path, _| !path.starts_with("other/") && !path.starts_with("dead/"));
    let mut before = before;
    before.retain(|path, _| !path.starts_with("other/") && !path.starts_with("dead/"));
    let differs = before
        .keys()
        .chain(after.keys())
        .find(|path| before.get(*path) != after.get(*path));
    assert_eq!(differs, None);
    // Arguments that contradict each other are refused before anything is looked at.
    for more in [
        &["--overwrite", "--skip-existing"][..],
        &["--overwrite", "--fail-existing"],
    ] {
        let output = export(&source, &path("other"), more).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
    }
    for two in [
        ["-e", "two", "-e", "one:1.0", "runs"],
        ["-e", "two", "runs", "-e", "one:1.0"],
    ] {
        let output = command().args(["-s", &source]).args(two).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains("takes one experiment"));
    }
}

#[test]
fn experiments_are_chosen_by_their_ids() {
    let (source, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    generated(source.path(), 30);
    let from = source.path().display().to_string();
    let into = to.path().join("copy").display().to_string();
    let more = ["-e", "two", "--experiment", "one:1.0"];
    let dry = json(
        &export(&from, &into, &[&more[..], &["--dry-run"]].concat())
            .output()
            .unwrap(),
    );
    assert!(!to.path().join("copy").exists());
    let report = json(&export(&from, &into, &more).output().unwrap());
    assert_eq!(dry["copied"], report["copied"]);
    assert_eq!(
        (&dry["dry_run"], &report["dry_run"]),
        (&true.into(), &false.into())
    );
    let ids: Vec<&str> = report["digests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|digest| digest["experiment_id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, ["one:1.0", "two"]);
    let there: BTreeSet<_> = fs::read_dir(to.path().join("copy"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| !name.to_str().unwrap().starts_with('.'))
        .collect();
    assert_eq!(there, BTreeSet::from(["one_1.0".into(), "two".into()]));
    // A destination that is limited to an experiment takes that one, and the source may be too.
    let scoped = format!(
        "file://{}?experiment_id=two",
        to.path().join("two").display()
    );
    let from_two = format!("file://{from}?experiment_id=two");
    let report = json(&export(&from_two, &scoped, &[]).output().unwrap());
    assert_eq!(report["digests"][0]["experiment_id"], "two");
    let output = export(&from, &scoped, &[]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["failures"].as_array().unwrap().len(), 2);
    assert!(
        report["failures"][0]["reason"]
            .as_str()
            .unwrap()
            .contains("is limited to")
    );
}

#[test]
fn what_is_damaged_or_no_file_at_the_source_is_named_and_the_rest_is_copied() {
    let (source, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    generated(source.path(), 30);
    let two = source.path().join("two");
    symlink("/etc/hostname", two.join("artifacts/run_1/link.bin")).unwrap();
    fs::create_dir_all(two.join("results/run_1_2")).unwrap();
    let fifo = Command::new("mkfifo")
        .arg(two.join("results/run_1_2/fifo.json"))
        .status();
    assert!(fifo.unwrap().success());
    fs::remove_file(two.join("derived/run.with.dots.json")).unwrap();
    fs::create_dir(two.join("derived/run.with.dots.json")).unwrap();
    // A damaged record is what there is: it is copied as it is.
    write(two.join("runs/damaged.json"), "{\"run_id\": ");
    let report = copy(&store(source.path()), &store(to.path()));
    let mut told: Vec<String> = report
        .failures
        .iter()
        .map(|failure| {
            format!(
                "{}: {}",
                failure.file.as_deref().unwrap_or_default(),
                failure.reason
            )
        })
        .collect();
    told.sort();
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(
        told[0].starts_with("artifacts/run_1/link.bin: it is a symbolic link"),
        "{told:?}"
    );
    assert!(
        told[2].starts_with("results/run_1_2/fifo.json: it is neither"),
        "{told:?}"
    );
    assert_eq!((report.failed.files, report.failed.runs), (3, 3));
    let there = files(to.path());
    assert!(
        !there
            .keys()
            .any(|path| path.contains("link.bin") || path.contains("fifo"))
    );
    assert!(there.contains_key("two/runs/run_1.json"));
    assert_eq!(there["two/runs/damaged.json"], b"{\"run_id\": ");
    assert!(there.contains_key("two/runs/run.with.dots.json"));
}

#[test]
fn a_file_that_the_destination_cannot_hold_fails_its_run_and_no_other() {
    let (source, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    generated(source.path(), 20);
    write(
        source.path().join("two/artifacts/run_1/large.bin"),
        vec![1; 3_000_000],
    );
    let built = command();
    let limited = "trap '' XFSZ; ulimit -f 1000; exec \"$0\" \"$@\"";
    let output = Command::new("sh")
        .args(["-c", limited])
        .arg(built.get_program())
        .args(["export", "--json", "--from"])
        .arg(source.path())
        .arg("--to")
        .arg(to.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["failures"].as_array().unwrap().len(), 1, "{report}");
    assert_eq!(report["failures"][0]["run_id"], "run_1");
    assert_eq!(report["failed"]["runs"], 1);
    assert!(!to.path().join("two/artifacts/run_1").exists());
    assert_eq!(
        metalab_store_tests::leftovers(to.path()),
        Vec::<String>::new()
    );
    let report = copy(&store(source.path()), &store(to.path()));
    assert_eq!((report.copied.runs, report.failures), (1, Vec::new()));
    assert_same(to.path(), source.path());
}

#[test]
fn an_archive_that_ends_at_any_block_is_told_and_the_whole_one_goes_on_from_there() {
    let (source, places) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut numbers = Numbers::new(1);
    meta(&source.path().join("e"), "e");
    for run in ["a", "b", "c"] {
        write_run(&source.path().join("e"), "e", run, 1, &mut numbers);
    }
    let whole = places.path().join("whole.tar");
    copy(&store(source.path()), &Place::Archive(whole.clone()));
    let bytes = fs::read(&whole).unwrap();
    let packed = {
        let mut packer = Packer::default();
        let mut packed = packer.write(&bytes);
        packed.extend(packer.finish());
        packed
    };
    let cut = Place::Archive(places.path().join("cut.tar.zst"));
    let end = bytes.len() - 2 * BLOCK;
    for at in (0..end).step_by(BLOCK) {
        fs::write(places.path().join("cut.tar.zst"), &bytes[..at]).unwrap();
        let to = tempfile::tempdir().unwrap();
        let told = match copy_with(&cut, &store(to.path()), &TransferOptions::default()) {
            Ok(report) => reasons(&report.failures).join("; "),
            Err(error) => error.to_string(),
        };
        assert!(told.contains("too early"), "{at}: {told}");
        // What is there is there whole, and has nothing of another run.
        for (path, content) in files(to.path()) {
            if !path.ends_with("_meta.json") {
                assert_eq!(
                    fs::read(source.path().join(&path)).unwrap(),
                    content,
                    "{at}"
                );
            }
        }
        let report = copy(&Place::Archive(whole.clone()), &store(to.path()));
        assert_eq!(report.failures, Vec::new(), "{at}");
        assert_same(to.path(), source.path());
    }
    for at in (0..packed.len()).step_by(packed.len() / 40 + 1) {
        fs::write(places.path().join("cut.tar.zst"), &packed[..at]).unwrap();
        let to = tempfile::tempdir().unwrap();
        let told = match copy_with(&cut, &store(to.path()), &TransferOptions::default()) {
            Ok(report) => reasons(&report.failures).join("; "),
            Err(error) => error.to_string(),
        };
        assert!(!told.is_empty(), "{at}");
    }
}

#[test]
fn an_archive_that_was_made_to_do_harm_is_refused_with_its_reason() {
    let places = tempfile::tempdir().unwrap();
    let here = places.path();
    let mut numbers = Numbers::new(1);
    meta(&here.join("source/e"), "e");
    write_run(&here.join("source/e"), "e", "a", 1, &mut numbers);
    let good = here.join("good.tar");
    copy(&store(here.join("source")), &Place::Archive(good.clone()));
    let good = fs::read(good).unwrap();
    let victim = "e/derived/a.json";
    let hostile = |name: &str, kind: tar::EntryType| {
        let mut builder = tar::Builder::new(Vec::new());
        for entry in tar::Archive::new(good.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().to_str().unwrap().to_owned();
            let mut content = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
            let mut header = tar::Header::new_ustar();
            let is_victim = path == victim;
            let path = if is_victim { name } else { &path };
            header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
            if is_victim && kind != tar::EntryType::Regular {
                header.set_entry_type(kind);
                header.set_link_name("/etc/hostname").unwrap();
                content.clear();
            }
            header.set_size(content.len() as u64);
            header.set_cksum();
            builder.append(&header, content.as_slice()).unwrap();
        }
        builder.into_inner().unwrap()
    };
    let archive = here.join("hostile.tar");
    let outside = |here: &Path| -> BTreeSet<PathBuf> {
        let entries = fs::read_dir(here).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    for (name, kind, reason) in [
        (
            "/tmp/escape",
            tar::EntryType::Regular,
            "not in the directory",
        ),
        (
            "e/../../escape",
            tar::EntryType::Regular,
            "no path of a file",
        ),
        (
            "e/.index/transfer-unfinished",
            tar::EntryType::Regular,
            "no path of a file",
        ),
        ("e/services/x", tar::EntryType::Regular, "no path of a file"),
        (
            "e/artifacts/a/a 0.bin",
            tar::EntryType::Regular,
            "comes twice",
        ),
        (victim, tar::EntryType::Symlink, "a symbolic link"),
        (victim, tar::EntryType::Link, "a hard link"),
        (victim, tar::EntryType::Block, "a device"),
        (victim, tar::EntryType::Fifo, "a FIFO"),
    ] {
        fs::write(&archive, hostile(name, kind)).unwrap();
        let to = here.join("to");
        fs::create_dir(&to).unwrap();
        let before = outside(here);
        let (status, code, told) = refused(&mut export(
            archive.to_str().unwrap(),
            to.to_str().unwrap(),
            &[],
        ));
        assert_eq!(
            (status, code.as_str()),
            (Some(1), "invalid-argument"),
            "{name}: {told}"
        );
        assert!(told.contains(reason), "{name}: {told}");
        assert_eq!(outside(here), before, "{name}");
        assert_eq!(records(&to), 0, "{name}");
        fs::remove_dir_all(to).unwrap();
    }
}

#[test]
fn an_archive_that_holds_far_more_than_its_size_is_refused() {
    // A frame with a window of a megabyte and 256 blocks, each a byte that is repeated 131,072 times.
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x50];
    for block in 0..256_u32 {
        let header = (128 * 1024) << 3 | 1 << 1 | u32::from(block == 255);
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.push(0);
    }
    let mut unpacker = Unpacker::new(None);
    let mut given = 0_u64;
    let mut refused = None;
    'archive: for _ in 0..300 {
        unpacker.write(&frame).unwrap();
        loop {
            match unpacker.read() {
                Ok(piece) if piece.is_empty() => break,
                Ok(piece) => given += piece.len() as u64,
                Err(error) => {
                    refused = Some(error.to_string());
                    break 'archive;
                }
            }
        }
    }
    let refused = refused.expect("the archive was unpacked");
    assert!(refused.contains("made to fill the disk"), "{refused}");
    assert!(given < 3 << 29, "{given}");
    // The command says how much is allowed, and takes more if it is told to.
    let places = tempfile::tempdir().unwrap();
    let here = places.path();
    generated(&here.join("source"), 15);
    let archive = here.join("a.tar.zst").display().to_string();
    copy(
        &store(here.join("source")),
        &Place::Archive(here.join("a.tar.zst")),
    );
    let to = here.join("to").display().to_string();
    let (status, code, _) = refused_with_limit(&archive, &to, "100000");
    assert_eq!((status, code.as_str()), (Some(1), "too-large"));
    json(
        &export(&archive, &to, &["--max-archive-bytes", "1000000"])
            .output()
            .unwrap(),
    );
    assert_same(&here.join("to"), &here.join("source"));
}

fn refused_with_limit(archive: &str, to: &str, limit: &str) -> (Option<i32>, String, String) {
    refused(&mut export(archive, to, &["--max-archive-bytes", limit]))
}

#[test]
fn runs_that_the_destination_has_with_another_content_are_kept_or_replaced_as_was_asked() {
    let (source, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    generated(source.path(), 20);
    let (from, into) = (store(source.path()), store(to.path()));
    copy(&from, &into);
    let other = to.path().join("two/runs/run_1.json");
    fs::write(&other, "{\"run_id\": \"run_1\", \"status\": \"failed\"}").unwrap();
    write(to.path().join("two/results/run_1/extra.json"), "{}");
    let with = |existing| TransferOptions {
        existing,
        ..TransferOptions::default()
    };
    let report = copy_with(&from, &into, &with(Existing::Fail)).unwrap();
    assert_eq!(report.failures.len(), 1);
    assert_eq!(report.failures[0].run_id.as_deref(), Some("run_1"));
    assert!(report.failures[0].reason.contains("--overwrite"));
    assert_eq!(report.failed.runs, 1);
    let report = copy_with(&from, &into, &with(Existing::Skip)).unwrap();
    assert_eq!((report.copied.files, report.failures.len()), (0, 0));
    assert!(fs::read_to_string(&other).unwrap().contains("failed"));
    let report = copy_with(&from, &into, &with(Existing::Overwrite)).unwrap();
    assert_eq!(
        (report.copied.runs, report.copied.files, report.removed),
        (1, 1, 1)
    );
    assert_same(to.path(), source.path());
}

#[test]
fn a_database_that_is_down_keeps_no_export_from_its_files() {
    let (source, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    generated(source.path(), 20);
    let dead = format!(
        "postgresql://nobody@127.0.0.1:1/nothing?file_root={}&connect_timeout=1",
        source.path().display()
    );
    let report = copy(&Place::Store(Box::new(config(&dead))), &store(to.path()));
    assert_eq!(report.failures, Vec::new());
    assert_same(to.path(), source.path());
}

#[test]
fn the_summary_for_people_and_for_programs_is_stable() {
    let place = reference_collection();
    let mut transcript = String::new();
    for arguments in [
        "export --to copy",
        "export --to copy",
        "-e curve_fit:1.0 export --to paper.tar.zst",
        "import --from paper.tar.zst --to there --json",
        "import --from paper.tar.zst --to there --dry-run",
        "export",
        "import --to there",
    ] {
        let mut command = command();
        let output = command
            .current_dir(place.path())
            .args(arguments.split(' '))
            .output()
            .unwrap();
        transcript.push_str(&format!(
            "$ metalab-store {arguments}\n{}{}[exit status {}]\n\n",
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
            output.status.code().unwrap()
        ));
    }
    insta::assert_snapshot!(transcript);
}
