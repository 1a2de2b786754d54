//! Whatever is not as its writers wrote it is found, named, and hides nothing else.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use metalab_store_guest::database::listing::RunListing;
use metalab_store_guest::error::Error;
use metalab_store_guest::journal::{
    self, Call, Entry, Fingerprint, Header, LockName, Source, Step,
};
use metalab_store_guest::model::{
    Access, ArtifactDescriptor, Durability, Expectation, StoreOptions,
};
use metalab_store_guest::native;
use metalab_store_guest::ports::{
    Directory, File, Identity, Listing, Lock, LockError, LockMode, LockTarget, OpenMode,
    PortResult, Roots, Stat,
};
use metalab_store_guest::query::QueryText;
use metalab_store_guest::store::Store;
use metalab_store_guest::testing::{Touch, stream, watched};
use metalab_store_guest::transfer::{Existing, MAX_CHUNK, ReceiveOptions, Selection};
use metalab_store_guest::verify::{
    Finding, FindingKind, GarbageOptions, GarbageReport, Left, Severity, VerifyOptions,
    VerifyReport,
};
use rustix::fs::{Timespec, Timestamps};
use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// A run that the small stores have.
const RUN: &str = "0123456789abcdef";

fn options(root: &Path, experiment: Option<&str>, access: Access) -> StoreOptions {
    StoreOptions {
        directory: root.to_str().unwrap().to_owned(),
        experiment_id: experiment.map(str::to_owned),
        access,
        durability: Durability::Full,
        lock_timeout_ms: 1_000,
        index: None,
    }
}

fn open(root: &Path, experiment: Option<&str>, access: Access) -> Store {
    fs::create_dir_all(root).unwrap();
    Store::open(
        native::ports(root).unwrap(),
        options(root, experiment, access),
    )
    .unwrap()
}

fn artifact(run: &str, name: &str) -> ArtifactDescriptor {
    ArtifactDescriptor {
        artifact_id: format!("{run}-{name}"),
        name: name.to_owned(),
        kind: "bytes".to_owned(),
        format: "bin".to_owned(),
        uri: String::new(),
        content_hash: None,
        size_bytes: None,
        metadata: format!("{{\"_run_id\": \"{run}\"}}"),
        unknown: "{}".to_owned(),
    }
}

fn put_record(store: &Store, record: &str) {
    store.put_run_text(record, &Expectation::Anything).unwrap();
}

/// Fills an experiment's store with a file of each kind, and makes all of them old enough to be known by their times.
fn fill(root: &Path) {
    let store = open(root, Some("e:1"), Access::ReadWrite);
    for run in [RUN, "r_2"] {
        put_record(
            &store,
            &format!(
                "{{\"run_id\": \"{run}\", \"status\": \"success\", \"metrics\": {{\"m\": 1}}}}"
            ),
        );
    }
    store.put_derived_text(RUN, "{\"d\": 1}").unwrap();
    store.put_log(RUN, "out", "one\ntwo\n").unwrap();
    store.put_log(RUN, "st_1", "é").unwrap();
    store.put_artifact(b"weights", artifact(RUN, "w")).unwrap();
    store
        .put_result(
            RUN,
            "res",
            &metalab_store_guest::model::StructuredResult {
                data: "[1, 2]".to_owned(),
                dtype: None,
                shape: Some(vec![2]),
                metadata: "{}".to_owned(),
                unknown: "{}".to_owned(),
            },
        )
        .unwrap();
    store
        .put_experiment_manifest("e:1", "{\"k\": 1}", Some("20260101_000000"))
        .unwrap();
    // So that there is an index, with notes.
    drop(store.query_runs(&QueryText::default()).unwrap());
    store.close().unwrap();
    fs::write(root.join("runs").join(format!("{RUN}.done")), "{}").unwrap();
    age(root);
}

/// The files below a directory, sorted.
fn files(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => waiting.push(path),
                false => found.push(path),
            }
        }
    }
    found.sort();
    found
}

/// Gives every file a time long ago.
fn age(root: &Path) {
    for path in files(root) {
        set_time(&path, (1_700_000_000, 0));
    }
}

fn set_time(path: &Path, (seconds, nanoseconds): (i64, i64)) {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    let file = fs::OpenOptions::new().append(true).open(path).unwrap();
    rustix::fs::futimens(file, &times).unwrap();
}

/// Changes a file in place, and gives it back the time that it had.
fn change_behind(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let before = fs::metadata(path).unwrap();
    let mut content = fs::read(path).unwrap();
    change(&mut content);
    fs::write(path, content).unwrap();
    set_time(path, (before.mtime(), before.mtime_nsec()));
}

fn run_to_end(store: &Store, options: VerifyOptions) -> (Vec<Finding>, VerifyReport) {
    let mut verification = store.verify(options).unwrap();
    let mut findings = Vec::new();
    while verification.step().unwrap().is_some() {
        findings.extend(verification.take_findings());
    }
    findings.extend(verification.take_findings());
    (findings, verification.report().clone())
}

fn verify(root: &Path) -> Vec<Finding> {
    let store = open(root, Some("e:1"), Access::ReadWrite);
    let (findings, _) = run_to_end(&store, VerifyOptions::default());
    store.close().unwrap();
    findings
}

/// What was found, without the words.
fn kinds(findings: &[Finding]) -> Vec<(FindingKind, &str)> {
    findings
        .iter()
        .map(|finding| (finding.kind, finding.file.as_str()))
        .collect()
}

#[test]
fn a_store_that_is_as_it_was_written_has_no_findings() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fill(root);
    let store = open(root, Some("e:1"), Access::ReadWrite);
    let (findings, report) = run_to_end(&store, VerifyOptions::default());
    assert_eq!(findings, []);
    assert_eq!((report.runs, report.damage, report.warnings), (2, 0, 0));
    assert_eq!((report.fresh, report.files), (10, 10));
    // The second time, everything is known.
    let (findings, report) = run_to_end(&store, VerifyOptions::default());
    assert_eq!(findings, []);
    assert_eq!((report.fresh, report.replaced, report.files), (0, 0, 10));
    // And what an experiment holds is the number that a transfer computes.
    let mut sender = store.send(Selection::default()).unwrap();
    while !sender.next_chunk().unwrap().is_empty() {}
    assert_eq!(sender.report().digests, report.digests);
    store.close().unwrap();
}

#[test]
fn a_flipped_byte_in_any_file_is_found_and_hides_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fill(root);
    assert_eq!(verify(root), []);
    age(&root.join(".index"));
    age(&root.join(".locks"));
    // The list itself was made a moment ago, and so were the locks that the verification looked at.
    assert_eq!(verify(root), []);
    let all = files(root);
    let mut flipped = 0;
    for path in &all {
        let name = path.strip_prefix(root).unwrap().to_str().unwrap();
        let length = fs::read(path).unwrap().len();
        for position in 0..length {
            let flip = 1_u8 << (position % 8);
            let digests = fs::read(root.join(".index/digests")).unwrap();
            change_behind(path, |content| content[position] ^= flip);
            // A damaged `_meta.json` may name another experiment, and then only the collection is opened.
            let scope = (name != "_meta.json").then_some("e:1");
            let store = open(root, scope, Access::ReadOnly);
            let (findings, _) = run_to_end(&store, VerifyOptions::default());
            let named = findings
                .iter()
                .any(|finding| finding.severity == Severity::Damage && finding.file == name);
            assert!(named, "byte {position} of {name}: {findings:#?}");
            others_are_there(&store, name);
            change_behind(path, |content| content[position] ^= flip);
            assert_eq!(fs::read(root.join(".index/digests")).unwrap(), digests);
            flipped += 1;
        }
    }
    assert!(flipped > 1_500, "{flipped} bytes were flipped");
    assert_eq!(verify(root), []);
}

/// Checks that everything but one file is listed and read.
fn others_are_there(store: &Store, damaged: &str) {
    let record = |run: &str| format!("runs/{run}.json");
    let mut listing = store.list_run_records(None).unwrap();
    let page = listing.next(100).unwrap();
    let listed: Vec<String> = page.into_iter().map(|record| record.run_id).collect();
    for run in [RUN, "r_2"] {
        if damaged != record(run) {
            assert!(
                listed.iter().any(|listed| listed == run),
                "{run} with {damaged}"
            );
            assert!(store.get_run_record(run).unwrap().is_some());
        }
    }
    if !damaged.starts_with("derived/") {
        assert_eq!(store.get_derived(RUN).unwrap().unwrap().len(), 1);
    }
    if !damaged.starts_with("logs/") {
        assert_eq!(store.list_logs(RUN).unwrap(), ["out", "st_1"]);
        assert_eq!(store.get_log(RUN, "out").unwrap().unwrap(), "one\ntwo\n");
    }
    if !damaged.starts_with("results/") {
        assert!(store.get_result(RUN, "res").unwrap().is_some());
    }
    if !damaged.starts_with("artifacts/") {
        let reference =
            metalab_store_guest::model::ArtifactReference::Name(RUN.to_owned(), "w".to_owned());
        assert_eq!(store.get_artifact(&reference).unwrap(), b"weights");
    }
    if !damaged.starts_with("experiments/") {
        assert!(store.get_experiment_manifest("e:1").unwrap().is_some());
    }
}

#[test]
fn a_store_that_is_only_read_is_verified_and_not_written() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fill(root);
    let before = files(root);
    let store = open(root, Some("e:1"), Access::ReadOnly);
    let (findings, report) = run_to_end(&store, VerifyOptions::default());
    assert_eq!(findings, []);
    assert_eq!(report.files, 10);
    assert_eq!(files(root), before);
}

/// Fills a store, changes it, and returns what is found of it.
fn found_after(change: impl FnOnce(&Path)) -> Vec<Finding> {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fill(root);
    change(root);
    verify(root)
}

fn write(root: &Path, file: &str, content: impl AsRef<[u8]>) {
    let path = root.join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// Checks what is found of a store in which one file has another content.
#[track_caller]
fn assert_found(file: &str, content: impl AsRef<[u8]>, kind: FindingKind, reason: &str) {
    let findings = found_after(|root| write(root, file, content));
    assert_eq!(kinds(&findings), [(kind, file)], "{findings:#?}");
    assert!(findings[0].reason.contains(reason), "{findings:#?}");
}

#[test]
fn a_document_that_cannot_be_read_is_damage() {
    let unreadable = |file: &str, content: &[u8], reason: &str| {
        assert_found(file, content, FindingKind::Unreadable, reason);
    };
    let record = format!("runs/{RUN}.json");
    unreadable(&record, b"", "");
    unreadable(&record, b"{\"run_id\": \"0123", "");
    unreadable(&record, &[0; 64], "");
    unreadable(
        &record,
        format!("{{\"run_id\": \"{RUN}\", \"status\": \"odd\"}}").as_bytes(),
        "`status`",
    );
    unreadable(&format!("runs/{RUN}.done"), b"{", "");
    unreadable(&format!("derived/{RUN}.json"), b"[1]", "expected an object");
    unreadable(&format!("results/{RUN}/res.json"), b"{\"data\": 1", "");
    unreadable(
        "experiments/e_1_20260101_000000.json",
        b"[]",
        "expected an object",
    );
    unreadable(
        &format!("artifacts/{RUN}/_manifest.json"),
        b"{\"artifacts\": 1}",
        "should be a list",
    );
}

#[test]
fn a_document_that_says_it_is_another_one_is_damage() {
    let misplaced = |file: &str, content: &str, reason: &str| {
        assert_found(file, content, FindingKind::Misplaced, reason);
    };
    let record = format!("runs/{RUN}.json");
    misplaced(
        &record,
        "{\"run_id\": \"another\", \"experiment_id\": \"e:1\", \"status\": \"success\"}",
        "\"another\"",
    );
    misplaced(&record, "{\"status\": \"success\"}", "does not say");
    misplaced(
        &record,
        &format!("{{\"run_id\": \"{RUN}\", \"experiment_id\": \"f\", \"status\": \"success\"}}"),
        "experiment \"f\"",
    );
    misplaced(
        "experiments/e_1_20260101_000000.json",
        "{\"experiment_id\": \"f\"}",
        "\"f\"",
    );
}

#[test]
fn what_this_version_cannot_show_is_a_warning() {
    let record = format!("runs/{RUN}.json");
    assert_found(
        &record,
        format!("{{\"run_id\": \"{RUN}\", \"status\": \"success\", \"_schema_version\": \"9\"}}"),
        FindingKind::NewerFormat,
        "version 9",
    );
    assert_found(
        &record,
        format!("{{\"run_id\": \"{RUN}\", \"status\": \"success\", \"notes\": \"\\ud800\"}}"),
        FindingKind::Unrepresentable,
        "",
    );
    assert_found(
        &format!("logs/{RUN}_out.log"),
        b"good\n\xff bad",
        FindingKind::NotText,
        "byte 5",
    );
    let findings = found_after(|root| write(root, "runs/notes.txt", "x"));
    assert_eq!(kinds(&findings), [(FindingKind::Stray, "runs/notes.txt")]);
    let findings = found_after(|root| {
        std::os::unix::fs::symlink("/etc/hostname", root.join("runs/link.json")).unwrap();
    });
    assert_eq!(kinds(&findings), [(FindingKind::Stray, "runs/link.json")]);
    let findings = found_after(|root| write(root, ".index/columns", "x"));
    assert_eq!(kinds(&findings), [(FindingKind::Index, ".index/columns")]);
}

#[test]
fn a_log_whose_character_crosses_a_piece_is_text() {
    let findings = found_after(|root| {
        let mut text = "x".repeat(64 * 1024 - 1);
        text.push_str("éé");
        write(root, &format!("logs/{RUN}_out.log"), text);
    });
    assert_eq!(findings, []);
}

#[test]
fn artifacts_and_their_manifest_agree_or_are_found() {
    let file = format!("artifacts/{RUN}/w.bin");
    let manifest = format!("artifacts/{RUN}/_manifest.json");
    assert_found(&file, b"Weights", FindingKind::ArtifactDiffers, "SHA-256");
    assert_found(
        &file,
        b"weights and more",
        FindingKind::ArtifactDiffers,
        "16 bytes",
    );
    let findings = found_after(|root| fs::remove_file(root.join(&file)).unwrap());
    assert_eq!(
        kinds(&findings),
        [(FindingKind::ArtifactMissing, file.as_str())]
    );
    let other = format!("artifacts/{RUN}/extra.bin");
    assert_found(&other, b"x", FindingKind::Unlisted, "no artifact manifest");
    let entry = |hash: &str| {
        format!(
            "{{\"name\": \"w\", \"format\": \"bin\", \"uri\": \"/x/artifacts/{RUN}/w.bin\", \"content_hash\": {hash}}}"
        )
    };
    assert_found(
        &manifest,
        format!("{{\"artifacts\": [{}]}}", entry("\"md5:1\"")),
        FindingKind::ArtifactEntry,
        "no SHA-256",
    );
    assert_found(
        &manifest,
        format!("{{\"artifacts\": [{}, {}]}}", entry("null"), entry("null")),
        FindingKind::ArtifactEntry,
        "twice",
    );
    let findings = found_after(|root| fs::remove_file(root.join(&manifest)).unwrap());
    assert_eq!(kinds(&findings), [(FindingKind::Unlisted, file.as_str())]);
}

#[test]
fn what_belongs_to_nothing_is_an_orphan_and_what_was_left_a_leftover() {
    let findings = found_after(|root| {
        fs::remove_file(root.join("runs/r_2.json")).unwrap();
        write(root, "derived/r_2.json", "{}");
        write(root, "logs/whose.log", "x");
        write(root, "runs/x.tmp.0123abcd", "{");
        write(root, "artifacts/r_2/w.tmp.0123abcd", "{");
        write(root, ".locks/gone.lock", "");
    });
    assert_eq!(
        kinds(&findings),
        [
            (FindingKind::HalfWritten, "runs/x.tmp.0123abcd"),
            (FindingKind::HalfWritten, "artifacts/r_2/w.tmp.0123abcd"),
            (FindingKind::NoRecord, "derived/r_2.json"),
            (FindingKind::Unowned, "logs/whose.log"),
            (FindingKind::UnusedLock, ".locks/gone.lock"),
        ]
    );
    assert_eq!(findings[1].run_id.as_deref(), Some("r_2"));
    for finding in &findings {
        assert!(finding.severity >= Severity::Orphan, "{finding:#?}");
    }
}

#[test]
fn a_change_by_another_program_is_told_once_and_one_by_a_writer_of_ours_never() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fill(root);
    assert_eq!(verify(root), []);
    let record = format!("runs/{RUN}.json");
    let text = fs::read_to_string(root.join(&record)).unwrap();
    write(root, &record, text.replace("\"m\": 1", "\"m\": 2"));
    set_time(&root.join(&record), (1_700_000_100, 0));
    let findings = verify(root);
    assert_eq!(kinds(&findings), [(FindingKind::Changed, record.as_str())]);
    assert_eq!(findings[0].severity, Severity::Warning);
    assert_eq!(verify(root), []);
    // A writer of ours replaces it, and a log grows.
    let store = open(root, Some("e:1"), Access::ReadWrite);
    put_record(
        &store,
        &format!("{{\"run_id\": \"{RUN}\", \"status\": \"failed\"}}"),
    );
    store.append_log(RUN, "out", "three\n", true).unwrap();
    store.close().unwrap();
    set_time(&root.join(&record), (1_700_000_200, 0));
    set_time(
        &root.join(format!("logs/{RUN}_out.log")),
        (1_700_000_200, 0),
    );
    let store = open(root, Some("e:1"), Access::ReadWrite);
    let (findings, report) = run_to_end(&store, VerifyOptions::default());
    assert_eq!(findings, []);
    assert_eq!(report.replaced, 2);
    store.close().unwrap();
}

#[test]
fn a_damaged_list_of_digests_is_told_and_made_anew() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fill(root);
    assert_eq!(verify(root), []);
    let list = root.join(".index/digests");
    let whole = fs::read(&list).unwrap();
    for content in [
        &whole[..whole.len() - 3],
        &whole[..20],
        b"",
        b"something else",
    ] {
        fs::write(&list, content).unwrap();
        let findings = verify(root);
        assert_eq!(kinds(&findings), [(FindingKind::Index, ".index/digests")]);
        assert_eq!(verify(root), []);
    }
}

#[test]
fn a_verification_that_is_dropped_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fill(root);
    let before = files(root);
    let store = open(root, Some("e:1"), Access::ReadWrite);
    let mut verification = store.verify(VerifyOptions::default()).unwrap();
    verification.step().unwrap();
    verification.step().unwrap();
    drop(verification);
    store.close().unwrap();
    let mut after = files(root);
    // The file of a lock stays.
    after.retain(|path| !path.ends_with(".index/digests.lock"));
    assert_eq!(after, before);
}

#[test]
fn a_list_of_digests_that_somebody_takes_away_before_it_is_whole_is_no_failure() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().to_owned();
    fill(&root);
    assert_eq!(verify(&root), []);
    let before = fs::read(root.join(".index/digests")).unwrap();
    let mut ports = native::ports(&root).unwrap();
    let index = root.join(".index");
    ports.directory = watched(ports.directory, move |touch, path| {
        if touch == Touch::Rename && path == ".index/digests" {
            let stages = files(&index).into_iter().filter(|path| {
                let name = path.file_name().unwrap().to_str().unwrap();
                name.starts_with("digests.tmp.")
            });
            for stage in stages {
                fs::remove_file(stage).unwrap();
            }
        }
    });
    let store = Store::open(ports, options(&root, Some("e:1"), Access::ReadWrite)).unwrap();
    let (findings, report) = run_to_end(&store, VerifyOptions::default());
    assert_eq!((findings, report.files), (vec![], 10));
    store.close().unwrap();
    assert_eq!(fs::read(root.join(".index/digests")).unwrap(), before);
}

#[test]
fn what_a_killed_verification_left_of_its_list_is_removed_by_the_next_once_nobody_verifies() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fill(root);
    let left = root.join(".index/digests.tmp.0123abcd");
    let store = open(root, Some("e:1"), Access::ReadWrite);
    let mut alive = store.verify(VerifyOptions::default()).unwrap();
    alive.step().unwrap();
    write(root, ".index/digests.tmp.0123abcd", "half");
    // The living one could be its writer.
    assert_eq!(verify(root), []);
    assert!(left.exists());
    drop(alive);
    store.close().unwrap();
    assert_eq!(verify(root), []);
    assert!(!left.exists());
}

#[test]
fn a_collection_is_verified_whole() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    for experiment in ["a:1", "b"] {
        let store = open(
            &root.join(experiment.replace(':', "_")),
            Some(experiment),
            Access::ReadWrite,
        );
        put_record(&store, "{\"run_id\": \"r\", \"status\": \"success\"}");
        store.close().unwrap();
    }
    fs::create_dir(root.join("odd")).unwrap();
    write(root, "odd/_meta.json", "{");
    write(root, "b/runs/r.json", "{");
    age(root);
    let store = open(root, None, Access::ReadWrite);
    let (findings, report) = run_to_end(&store, VerifyOptions::default());
    assert_eq!(
        kinds(&findings),
        [
            (FindingKind::Unreadable, "odd/_meta.json"),
            (FindingKind::Unreadable, "b/runs/r.json"),
        ]
    );
    let digests: Vec<&str> = report
        .digests
        .iter()
        .map(|digest| digest.experiment_id.as_str())
        .collect();
    assert_eq!(digests, ["a:1", "b"]);
    // Each directory keeps what is known of it, and the root nothing that it has no file of.
    assert!(root.join("a_1/.index/digests").exists());
    assert!(!root.join(".index").exists());
    let (_, report) = run_to_end(
        &store,
        VerifyOptions {
            below: false,
            ..VerifyOptions::default()
        },
    );
    assert_eq!(report.runs, 0);
    store.close().unwrap();
}

fn repair(root: &Path) -> Vec<Finding> {
    let store = open(root, Some("e:1"), Access::ReadWrite);
    let (findings, _) = run_to_end(
        &store,
        VerifyOptions {
            repair: true,
            ..VerifyOptions::default()
        },
    );
    store.close().unwrap();
    findings
}

/// Writes the journal of a writer of another machine: one call that gives a record a new content.
fn write_foreign_journal(root: &Path, previous: &[u8], content: &[u8]) -> PathBuf {
    write_journal_of(root, &format!("runs/{RUN}.json"), previous, content)
}

/// Does the same for any file of the run.
fn write_journal_of(root: &Path, file: &str, previous: &[u8], content: &[u8]) -> PathBuf {
    let header = Header {
        identity: Identity {
            machine: "another".to_owned(),
            boot: "its boot".to_owned(),
            device: 1,
            inode: 2,
        },
        salt: 7,
    };
    let mut segment = journal::begin(&header);
    let call = Call {
        lock: LockName::Run(RUN.to_owned()),
        generation: u64::MAX / 2,
        after: 1,
        steps: vec![Step::Put {
            path: file.to_owned(),
            previous: Some(Fingerprint::of(previous)),
            written: Fingerprint::of(content),
            source: Source::Inline(content.to_vec()),
        }],
    };
    journal::append(&mut segment, header.salt, 1, &Entry::Call(call));
    let path = root.join(".index/journal-00000000000000aa.seg");
    fs::write(&path, segment).unwrap();
    path
}

/// A run whose manifest was promised by a journal of another machine had all its new artifacts removed, before
/// `verify --repair` could put the manifest in place.
#[test]
fn what_a_promised_manifest_may_list_is_no_garbage() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fill(root);
    let manifest = format!("artifacts/{RUN}/_manifest.json");
    let old = fs::read(root.join(&manifest)).unwrap();
    let new = String::from_utf8(old.clone())
        .unwrap()
        .replace("w.bin", "new.bin");
    write_journal_of(root, &manifest, &old, new.as_bytes());
    for file in [
        format!("artifacts/{RUN}/new.bin"),
        format!("artifacts/{RUN}/old.tmp.0123abcd"),
        "artifacts/r_2/unlisted.bin".to_owned(),
    ] {
        write(root, &file, "1234");
    }
    let (found, _) = collect(root, true, 0);
    let (gone, _) = split(&found);
    assert_eq!(gone, ["artifacts/r_2/unlisted.bin"], "{found:#?}");
    assert!(root.join(format!("artifacts/{RUN}/new.bin")).exists());
}

/// What the quarantine holds, by its paths without that of the batch.
fn quarantined(root: &Path) -> Vec<(String, Vec<u8>)> {
    let directory = root.join(".quarantine");
    if !directory.exists() {
        return Vec::new();
    }
    files(&directory)
        .into_iter()
        .map(|path| {
            let below = path.strip_prefix(&directory).unwrap().to_str().unwrap();
            let (_, name) = below.split_once('/').unwrap();
            (name.to_owned(), fs::read(&path).unwrap())
        })
        .collect()
}

/// Makes what lies in the place of a file, out of its old and its new content.
type Lost = fn(&[u8], &[u8]) -> Vec<u8>;

#[test]
fn what_the_journal_of_another_machine_promised_is_found_and_put_in_place() {
    let record = format!("runs/{RUN}.json");
    let changes: [Lost; 3] = [
        // The rename was lost, or the copy was torn: cut short, or filled with zeros.
        |old, _| old.to_vec(),
        |_, new| new[..40].to_vec(),
        |_, _| [0; 40].to_vec(),
    ];
    for change in changes {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        fill(root);
        let old = fs::read(root.join(&record)).unwrap();
        let new = String::from_utf8(old.clone())
            .unwrap()
            .replace("\"m\": 1", "\"m\": 2");
        let segment = write_foreign_journal(root, &old, new.as_bytes());
        let torn = change(&old, new.as_bytes());
        fs::write(root.join(&record), &torn).unwrap();
        let findings = verify(root);
        assert_eq!(findings[0].kind, FindingKind::Promised, "{findings:#?}");
        assert_eq!(findings[0].file, record);
        assert_eq!(findings[0].severity, Severity::Damage);
        assert_eq!(fs::read(root.join(&record)).unwrap(), torn);
        assert!(segment.exists());
        let findings = repair(root);
        assert!(
            findings.iter().all(|finding| finding.repaired.is_some()),
            "{findings:#?}"
        );
        assert_eq!(fs::read_to_string(root.join(&record)).unwrap(), new);
        let kept = quarantined(root);
        assert!(kept.contains(&(record.clone(), torn)), "{kept:?}");
        assert!(!segment.exists());
        assert_eq!(kept.len(), 2, "{kept:?}");
        assert_eq!(verify(root).len(), 0);
    }
}

#[test]
fn a_file_that_another_program_changed_since_is_kept_by_a_repair() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fill(root);
    let record = root.join(format!("runs/{RUN}.json"));
    let old = fs::read(&record).unwrap();
    write_foreign_journal(root, &old, b"{\"run_id\": \"0123456789abcdef\"}");
    let text = String::from_utf8(old)
        .unwrap()
        .replace("\"m\": 1", "\"m\": 3");
    fs::write(&record, &text).unwrap();
    let findings = verify(root);
    let journal = ".index/journal-00000000000000aa.seg";
    assert_eq!(kinds(&findings), [(FindingKind::OldJournal, journal)]);
    assert_eq!(findings[0].severity, Severity::Leftover);
    repair(root);
    assert_eq!(fs::read_to_string(&record).unwrap(), text);
    assert_eq!(verify(root), []);
}

/// Makes the record of a run list the artifact that it has, as runners do.
fn list_in_record(root: &Path) {
    let store = open(root, Some("e:1"), Access::ReadWrite);
    let mut record = store.get_run_record(RUN).unwrap().unwrap();
    record.artifacts = store.list_artifacts(RUN).unwrap();
    store
        .put_run_record(&record, &Expectation::Anything)
        .unwrap();
    store.close().unwrap();
}

#[test]
fn an_artifact_manifest_is_made_anew_where_the_record_proves_it() {
    let manifest = format!("artifacts/{RUN}/_manifest.json");
    let damages: [fn(&str) -> Option<String>; 4] = [
        |_| Some("{\"artifacts\": [".to_owned()),
        |_| None,
        |whole| {
            let at = whole.find("\"content_hash\": \"").unwrap() + 17;
            Some(format!("{}0000{}", &whole[..at], &whole[at + 4..]))
        },
        |_| Some("{\n  \"artifacts\": []\n}".to_owned()),
    ];
    for damage in damages {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        fill(root);
        list_in_record(root);
        let path = root.join(&manifest);
        let whole = fs::read_to_string(&path).unwrap();
        match damage(&whole) {
            Some(content) => fs::write(&path, content).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        let damaged = fs::read(&path).ok();
        assert_eq!(verify(root).len(), 1);
        let findings = repair(root);
        assert_eq!(findings.len(), 1, "{findings:#?}");
        assert!(findings[0].repaired.is_some(), "{findings:#?}");
        assert_eq!(fs::read_to_string(&path).unwrap(), whole);
        let kept: Vec<Vec<u8>> = quarantined(root)
            .into_iter()
            .map(|(_, kept)| kept)
            .collect();
        assert_eq!(kept, damaged.into_iter().collect::<Vec<_>>());
        assert_eq!(verify(root), []);
    }
}

#[test]
fn an_artifact_that_only_the_record_lists_and_that_is_gone_is_damage() {
    let gone = |root: &Path| fs::remove_dir_all(root.join("artifacts").join(RUN)).unwrap();
    let file = format!("artifacts/{RUN}/w.bin");
    let findings = found_after(|root| {
        list_in_record(root);
        gone(root);
    });
    assert_eq!(
        kinds(&findings),
        [(FindingKind::ArtifactMissing, file.as_str())]
    );
    assert_eq!(findings[0].severity, Severity::Damage);
    assert!(findings[0].reason.contains("record lists"), "{findings:#?}");
    // It does not matter that it was known, and it is told each time.
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fill(root);
    list_in_record(root);
    age(root);
    assert_eq!(verify(root), []);
    gone(root);
    for _ in 0..2 {
        let found = verify(root);
        let found = kinds(&found);
        assert!(found.contains(&(FindingKind::ArtifactMissing, file.as_str())));
        assert!(
            found
                .iter()
                .all(|(_, told)| *told == file || told.ends_with("_manifest.json"))
        );
    }
    // One that is stored elsewhere is none of the store's.
    for uri in [
        "s3://bucket/w.bin",
        "/data/w.bin",
        "",
        "/x/artifacts/r_2/w.bin",
    ] {
        let findings = found_after(|root| {
            list_in_record(root);
            let path = root.join("runs").join(format!("{RUN}.json"));
            let record = fs::read_to_string(&path).unwrap();
            let start = record.find("\"uri\": \"").unwrap() + 8;
            let end = start + record[start..].find('"').unwrap();
            let moved = format!("{}{uri}{}", &record[..start], &record[end..]);
            fs::write(&path, moved).unwrap();
            fs::remove_dir_all(root.join(".index")).unwrap();
            gone(root);
        });
        assert_eq!(findings, [], "{uri:?}");
    }
    // What could not be listed may be there.
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fill(root);
    list_in_record(root);
    fs::remove_dir_all(root.join("artifacts")).unwrap();
    std::os::unix::fs::symlink("/nowhere", root.join("artifacts")).unwrap();
    let store = open(root, Some("e:1"), Access::ReadOnly);
    let (findings, _) = run_to_end(&store, VerifyOptions::default());
    assert_eq!(kinds(&findings), [(FindingKind::Unreadable, "artifacts")]);
}

#[test]
fn a_known_file_that_another_program_removed_is_told_once() {
    let removed = [
        format!("derived/{RUN}.json"),
        format!("results/{RUN}/res.json"),
        format!("runs/{RUN}.done"),
        format!("logs/{RUN}_out.log"),
    ];
    for file in &removed {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        fill(root);
        assert_eq!(verify(root), []);
        assert!(root.join(file).exists(), "{:?}", files(root));
        fs::remove_file(root.join(file)).unwrap();
        fs::remove_dir_all(root.join(".index/records")).unwrap_or_default();
        let findings = verify(root);
        let told = findings.iter().find(|finding| finding.file == *file);
        let told = told.unwrap_or_else(|| panic!("{file}: {findings:#?}"));
        assert_eq!(told.kind, FindingKind::Changed);
        assert!(told.reason.contains("is gone"), "{}", told.reason);
        assert!(verify(root).iter().all(|finding| finding.file != *file));
    }
    // Files of no run lie before, between and behind others; with the last one, nothing of the kind is left.
    let others = [
        "a_context_manifest.json",
        "experiments/e_1_20260101_000000.json",
        "z_context_manifest.json",
    ];
    for gone in [&others[..1], &others[1..2], &others[2..], &others[..]] {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        fill(root);
        for file in [others[0], others[2], "logs/nobody.log"] {
            write(root, file, "{}");
        }
        age(root);
        let unowned = (FindingKind::Unowned, "logs/nobody.log");
        assert_eq!(kinds(&verify(root)), [unowned]);
        for file in gone {
            fs::remove_file(root.join(file)).unwrap();
        }
        // A log that nobody owns may go: that is its way out.
        fs::remove_file(root.join(unowned.1)).unwrap();
        let told = verify(root);
        let expected = gone.iter().map(|file| (FindingKind::Changed, *file));
        assert_eq!(kinds(&told), expected.collect::<Vec<_>>());
        for finding in &told {
            assert_eq!(finding.severity, Severity::Warning);
            assert!(finding.reason.contains("is gone"), "{}", finding.reason);
        }
        assert_eq!(verify(root), []);
    }
    // A manifest takes what it lists along.
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fill(root);
    assert_eq!(verify(root), []);
    fs::remove_dir_all(root.join("artifacts").join(RUN)).unwrap();
    let files = ["_manifest.json", "w.bin"].map(|name| format!("artifacts/{RUN}/{name}"));
    let told = verify(root);
    let expected = files
        .each_ref()
        .map(|file| (FindingKind::Changed, file.as_str()));
    assert_eq!(kinds(&told), expected);
    assert_eq!(verify(root), []);
}

/// The directory of a collection may hold nothing else, so that nothing else is known of it.
#[test]
fn the_only_known_file_of_a_collection_that_another_program_removed_is_told_once() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let file = "x_context_manifest.json";
    write(root, file, "{}");
    age(root);
    let verify = || {
        let store = open(root, None, Access::ReadWrite);
        let (findings, _) = run_to_end(&store, VerifyOptions::default());
        store.close().unwrap();
        findings
    };
    assert_eq!(verify(), []);
    fs::remove_file(root.join(file)).unwrap();
    assert_eq!(kinds(&verify()), [(FindingKind::Changed, file)]);
    assert_eq!(verify(), []);
}

#[test]
fn what_the_store_itself_removed_is_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fill(root);
    list_in_record(root);
    write(root, "artifacts/r_2/unlisted.bin", b"x");
    age(root);
    assert_eq!(verify(root).len(), 1);
    let (found, _) = collect(root, true, 0);
    assert!(found.iter().any(|left| left.file.ends_with("unlisted.bin")));
    let store = open(root, Some("e:1"), Access::ReadWrite);
    store.delete_run(RUN).unwrap();
    store.close().unwrap();
    // The file of its lock stays for a while.
    let lock = format!(".locks/{RUN}.lock");
    let told = verify(root);
    assert_eq!(kinds(&told), [(FindingKind::UnusedLock, lock.as_str())]);
}

#[test]
fn what_has_no_single_right_answer_is_not_repaired() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fill(root);
    list_in_record(root);
    // The file itself is what is wrong.
    write(root, &format!("artifacts/{RUN}/w.bin"), b"Weights");
    write(root, "runs/r_2.json", "{");
    write(root, &format!("derived/{RUN}.json"), "[");
    let before = |root: &Path| -> Vec<Vec<u8>> {
        files(root)
            .iter()
            .filter(|path| !path.to_str().unwrap().contains(".index"))
            .map(|path| fs::read(path).unwrap())
            .collect()
    };
    let kept = before(root);
    let findings = repair(root);
    assert_eq!(findings.len(), 3, "{findings:#?}");
    assert!(findings.iter().all(|finding| finding.repaired.is_none()));
    assert_eq!(before(root), kept);
    assert_eq!(quarantined(root), []);
}

#[test]
fn an_index_that_cannot_be_used_is_moved_away_by_a_repair() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fill(root);
    write(root, ".index/columns", "damaged");
    let findings = repair(root);
    assert_eq!(kinds(&findings), [(FindingKind::Index, ".index/columns")]);
    assert!(findings[0].repaired.is_some());
    assert_eq!(
        quarantined(root),
        [(".index/columns".to_owned(), b"damaged".to_vec())]
    );
    assert_eq!(verify(root), []);
}

#[test]
fn a_store_that_is_only_read_is_not_repaired() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fill(root);
    let store = open(root, Some("e:1"), Access::ReadOnly);
    let refused = store.verify(VerifyOptions {
        repair: true,
        below: true,
    });
    assert!(matches!(refused, Err(Error::ReadOnly(_))));
}

fn collect(root: &Path, apply: bool, grace_seconds: u64) -> (Vec<Left>, GarbageReport) {
    let store = open(root, Some("e:1"), Access::ReadWrite);
    let collected = collect_of(&store, apply, grace_seconds);
    store.close().unwrap();
    collected
}

fn collect_of(store: &Store, apply: bool, grace_seconds: u64) -> (Vec<Left>, GarbageReport) {
    let mut collection = store
        .collect_garbage(GarbageOptions {
            apply,
            grace_seconds,
        })
        .unwrap();
    let mut found = Vec::new();
    while collection.step().unwrap().is_some() {
        found.extend(collection.take_found());
    }
    found.extend(collection.take_found());
    (found, collection.report())
}

/// The files that go, and those that stay.
fn split(found: &[Left]) -> (Vec<&str>, Vec<&str>) {
    let files = |kept: bool| {
        let wanted = found.iter().filter(|left| left.kept.is_some() == kept);
        wanted.map(|left| left.file.as_str()).collect()
    };
    (files(false), files(true))
}

/// Leaves in a store what dead writers leave.
fn litter(root: &Path) -> Vec<String> {
    let foreign = root.join(format!("runs/{RUN}.json"));
    let content = fs::read(&foreign).unwrap();
    write_foreign_journal(root, b"something earlier", &content);
    let run = format!("artifacts/{RUN}");
    let names = [
        format!("{run}/old.tmp.0123abcd"),
        format!("{run}/unlisted.bin"),
        "experiments/e.tmp.0123abcd".to_owned(),
        "runs/x.tmp.0123abcd".to_owned(),
        ".index/digests.tmp.0123abcd".to_owned(),
        "_meta.tmp.0123abcd".to_owned(),
        ".locks/gone.lock".to_owned(),
    ];
    for name in &names {
        write(root, name, "1234");
    }
    let mut all = names.to_vec();
    all.push(".index/journal-00000000000000aa.seg".to_owned());
    all.sort();
    all
}

#[test]
fn garbage_is_listed_and_removed_only_when_asked_and_old_enough() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fill(root);
    let litter = litter(root);
    // Whoever opens the store looks whether the writer of the journal lives.
    write(root, ".index/journal-00000000000000aa.lock", "");
    write(root, ".index/garbage.lock", "");
    let before = files(root);
    // Everything was made a moment ago.
    let (found, report) = collect(root, true, 3600);
    let (gone, mut kept) = split(&found);
    kept.sort_unstable();
    assert_eq!(
        (gone, kept),
        (vec![], litter.iter().map(String::as_str).collect())
    );
    assert_eq!((report.files, report.kept_files), (0, 8));
    assert_eq!(files(root), before);
    // Without a grace period it would go, and is still there.
    let (found, report) = collect(root, false, 0);
    let (mut gone, kept) = split(&found);
    gone.sort_unstable();
    assert_eq!(kept, Vec::<&str>::new());
    assert_eq!(gone, litter);
    assert_eq!(report.files, 8);
    assert!(report.bytes > 7 * 4);
    assert_eq!(files(root), before);
    let (_, report) = collect(root, true, 0);
    assert_eq!((report.files, report.kept_files), (8, 0));
    for name in &litter {
        assert!(!root.join(name).exists(), "{name}");
    }
    // What belongs to the store is all there.
    assert_eq!(verify(root), []);
    let (found, _) = collect(root, true, 0);
    assert_eq!(split(&found), (vec![], vec![]));
}

#[test]
fn what_a_writer_that_lives_may_need_is_no_garbage() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fill(root);
    let writer = open(root, Some("e:1"), Access::ReadWrite);
    // An artifact that is being written, and what the writer of this number would stage.
    let mut artifact_writer = writer.create_artifact(artifact(RUN, "big")).unwrap();
    artifact_writer.write(b"a piece").unwrap();
    let staging = fs::read_dir(root.join(".index/staging"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .file_name();
    let token = &staging.to_str().unwrap()[..8];
    write(root, &format!("runs/x.tmp.{token}"), "{");
    // A run that another program holds the lock of, as a reference writer would.
    write(root, "artifacts/r_2/x.tmp.0123abcd", "{");
    write(root, "artifacts/r_2/unlisted.bin", "{");
    let lock = fs::File::options()
        .create(true)
        .append(true)
        .open(root.join(".locks/r_2.lock"))
        .unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let (found, report) = collect(root, true, 0);
    let (gone, mut kept) = split(&found);
    kept.sort_unstable();
    assert_eq!(gone, Vec::<&str>::new(), "{found:#?}");
    assert_eq!(
        kept,
        [
            &format!(".index/staging/{}", staging.to_str().unwrap()),
            "artifacts/r_2/unlisted.bin",
            "artifacts/r_2/x.tmp.0123abcd",
            &format!("runs/x.tmp.{token}"),
        ]
    );
    assert_eq!(report.kept_files, 4);
    artifact_writer.finish().unwrap();
    writer.close().unwrap();
    drop(lock);
    let (found, _) = collect(root, true, 0);
    assert_eq!(split(&found).0.len(), 3, "{found:#?}");
    let (findings, report) = {
        let store = open(root, Some("e:1"), Access::ReadWrite);
        let found = run_to_end(&store, VerifyOptions::default());
        store.close().unwrap();
        found
    };
    assert_eq!(findings, []);
    assert_eq!(report.files, 11);
}

/// A directory of which all locks are refused.
struct Unlocked(Rc<dyn Roots>);

impl Roots for Unlocked {
    fn acquire(
        &self,
        _target: LockTarget<'_>,
        _mode: LockMode,
        _timeout_ms: u32,
    ) -> Result<Box<dyn Lock>, LockError> {
        Err(LockError::Unavailable("no locks here".to_owned()))
    }
    fn sync(&self) -> Result<(), String> {
        self.0.sync()
    }
    fn identity(&self) -> Identity {
        self.0.identity()
    }
    fn utc_offset(&self, at_seconds: i64) -> i32 {
        self.0.utc_offset(at_seconds)
    }
}

#[test]
fn where_locks_are_refused_all_that_a_writer_may_need_stays_and_the_reason_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fill(root);
    let writer = open(root, Some("e:1"), Access::ReadWrite);
    let mut artifact_writer = writer.create_artifact(artifact(RUN, "big")).unwrap();
    artifact_writer.write(b"a piece").unwrap();
    let mut litter = litter(root);
    litter.push("logs/nobody.tmp.0123abcd".to_owned());
    write(root, &litter[litter.len() - 1], "1");
    // Nobody knows whether the writer of the journal is gone, so it is not looked at.
    let journal = ".index/journal-00000000000000aa.seg";
    for apply in [false, true] {
        let mut ports = native::ports(root).unwrap();
        ports.roots = Rc::new(Unlocked(ports.roots));
        let store = Store::open(ports, options(root, Some("e:1"), Access::ReadWrite)).unwrap();
        let (found, report) = collect_of(&store, apply, 0);
        store.close().unwrap();
        for left in &found {
            let kept = left.kept.as_deref().unwrap_or_default();
            assert!(kept.contains("no working locks"), "{left:?}");
        }
        assert_eq!((report.files, report.bytes), (0, 0));
        let told = |name: &str| found.iter().any(|left| left.file == name);
        assert!(
            found
                .iter()
                .any(|left| left.file.starts_with(".index/staging/")),
            "{found:#?}"
        );
        for name in &litter {
            assert!(told(name) || name == journal, "{name}: {found:#?}");
            assert!(root.join(name).exists(), "{name}");
        }
    }
    artifact_writer.finish().unwrap();
    writer.close().unwrap();
    // Where there are locks, all of it goes.
    collect(root, true, 0);
    assert!(litter.iter().all(|name| !root.join(name).exists()));
    assert_eq!(verify(root), []);
}

#[test]
fn nothing_beside_a_manifest_that_cannot_be_read_is_garbage() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fill(root);
    write(root, &format!("artifacts/{RUN}/_manifest.json"), "{");
    write(root, &format!("artifacts/{RUN}/unlisted.bin"), "{");
    let (found, _) = collect(root, true, 0);
    assert_eq!(found, []);
    // A file that only the record lists is none either.
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fill(root);
    list_in_record(root);
    fs::remove_file(root.join(format!("artifacts/{RUN}/_manifest.json"))).unwrap();
    let (found, _) = collect(root, true, 0);
    assert_eq!(found, []);
}

#[test]
fn a_journal_with_what_is_in_no_file_is_no_garbage() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fill(root);
    let record = fs::read(root.join(format!("runs/{RUN}.json"))).unwrap();
    let segment = write_foreign_journal(root, &record, b"{\"run_id\": \"0123456789abcdef\"}");
    let (found, _) = collect(root, true, 0);
    assert_eq!(split(&found).0, Vec::<&str>::new());
    assert_eq!(found.len(), 1);
    assert!(segment.exists());
}

#[test]
fn a_record_that_changed_on_the_disk_is_restored_from_the_index() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fill(root);
    assert_eq!(verify(root), []);
    for file in [format!("runs/{RUN}.json"), format!("derived/{RUN}.json")] {
        let path = root.join(&file);
        let whole = fs::read(&path).unwrap();
        let at = whole.len() / 2;
        change_behind(&path, |content| content[at] ^= 0x10);
        let damaged = fs::read(&path).unwrap();
        let findings = repair(root);
        let repaired: Vec<&Finding> = findings
            .iter()
            .filter(|finding| finding.repaired.is_some())
            .collect();
        assert_eq!(repaired.len(), findings.len(), "{findings:#?}");
        assert_eq!(fs::read(&path).unwrap(), whole);
        assert!(quarantined(root).contains(&(file, damaged)));
        assert_eq!(verify(root), []);
    }
}

/// A directory on a file system that keeps no times of changes of an inode.
struct WithoutChangeTimes(Rc<dyn Directory>);

struct FileWithoutChangeTimes(Box<dyn File>);

fn without(stat: Stat) -> Stat {
    Stat { changed: 0, ..stat }
}

impl Directory for WithoutChangeTimes {
    fn stat(&self, path: &str) -> PortResult<Stat> {
        self.0.stat(path).map(without)
    }
    fn list(&self, path: &str) -> PortResult<Listing> {
        self.0.list(path)
    }
    fn open_directory(&self, path: &str) -> PortResult<Rc<dyn Directory>> {
        Ok(Rc::new(Self(self.0.open_directory(path)?)))
    }
    fn create_directory(&self, path: &str) -> PortResult<()> {
        self.0.create_directory(path)
    }
    fn open(&self, path: &str, mode: OpenMode) -> PortResult<Box<dyn File>> {
        Ok(Box::new(FileWithoutChangeTimes(self.0.open(path, mode)?)))
    }
    fn rename(&self, from: &str, to: &str) -> PortResult<()> {
        self.0.rename(from, to)
    }
    fn remove_file(&self, path: &str) -> PortResult<()> {
        self.0.remove_file(path)
    }
    fn remove_directory(&self, path: &str) -> PortResult<()> {
        self.0.remove_directory(path)
    }
    fn sync(&self) -> PortResult<()> {
        self.0.sync()
    }
    fn set_modified(&self, path: &str, time: u64) -> PortResult<()> {
        self.0.set_modified(path, time)
    }
}

impl File for FileWithoutChangeTimes {
    fn read(&self, offset: u64, length: usize) -> PortResult<Vec<u8>> {
        self.0.read(offset, length)
    }
    fn write(&self, offset: u64, content: &[u8]) -> PortResult<()> {
        self.0.write(offset, content)
    }
    fn append(&self, content: &[u8]) -> PortResult<()> {
        self.0.append(content)
    }
    fn set_size(&self, size: u64) -> PortResult<()> {
        self.0.set_size(size)
    }
    fn stat(&self) -> PortResult<Stat> {
        self.0.stat().map(without)
    }
    fn sync_data(&self) -> PortResult<()> {
        self.0.sync_data()
    }
}

/// What is done once.
type Deed = Box<dyn FnOnce()>;

/// Does something just before another store changes a file of `runs`, so that what that notes of the directory covers both.
/// Returns how many runs have a metric `m` of 2 after it, as the other store's index says, and what is found of the store.
fn noted_by_another(root: &Path, change: impl FnOnce() + 'static) -> (u64, Vec<Finding>) {
    let armed: Rc<RefCell<Option<Deed>>> = Rc::default();
    let waiting = Rc::clone(&armed);
    let mut ports = native::ports(root).unwrap();
    ports.directory = watched(ports.directory, move |touch, path| {
        let is_change = touch == Touch::Make && path.starts_with("runs/");
        let change = is_change.then(|| waiting.take()).flatten();
        if let Some(change) = change {
            change();
        }
    });
    let store = Store::open(ports, options(root, Some("e:1"), Access::ReadWrite)).unwrap();
    let with_2 = || {
        let query = QueryText {
            filter: "metrics.m = 2",
            ..QueryText::default()
        };
        match store.query_runs(&query).unwrap() {
            RunListing::Files(list) => list.total(),
            RunListing::Database(_) => panic!("there is no database"),
        }
    };
    // The first change after the file of notes was begun says only what it is about.
    assert_eq!(with_2(), 0);
    put_record(&store, "{\"run_id\": \"r_3\", \"status\": \"success\"}");
    assert_eq!(with_2(), 0);
    *armed.borrow_mut() = Some(Box::new(change));
    put_record(&store, "{\"run_id\": \"r_4\", \"status\": \"success\"}");
    assert!(armed.borrow().is_none());
    let found = with_2();
    store.close().unwrap();
    (found, verify(root))
}

#[test]
fn what_a_copy_wrote_is_noted_for_the_index_of_a_writer_that_was_at_work_meanwhile() {
    let (directory, source) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let root = directory.path().to_owned();
    fill(&root);
    let other = open(source.path(), Some("e:1"), Access::ReadWrite);
    let record =
        format!("{{\"run_id\": \"{RUN}\", \"status\": \"success\", \"metrics\": {{\"m\": 2}}}}");
    put_record(&other, &record);
    // The same as there: a change of `derived` that nobody notes makes everybody look at all names.
    other.put_derived_text(RUN, "{\"d\": 1}").unwrap();
    let (stream, _) = stream(&other, Selection::default());
    other.close().unwrap();
    let to = root.clone();
    let (found, findings) = noted_by_another(&root, move || overwrite(&to, &stream));
    assert_eq!((found, findings), (1, vec![]));
}

#[test]
fn what_a_repair_put_in_place_is_noted_for_the_index_of_a_writer_that_was_at_work_meanwhile() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().to_owned();
    fill(&root);
    let old = fs::read(root.join(format!("runs/{RUN}.json"))).unwrap();
    let new = String::from_utf8(old.clone())
        .unwrap()
        .replace("\"m\": 1", "\"m\": 2");
    write_foreign_journal(&root, &old, new.as_bytes());
    let to = root.clone();
    let (found, findings) = noted_by_another(&root, move || drop(repair(&to)));
    assert_eq!((found, findings), (1, vec![]));
}

/// Takes a stream, and replaces what is there.
fn overwrite(root: &Path, stream: &[u8]) {
    let store = open(root, Some("e:1"), Access::ReadWrite);
    let options = ReceiveOptions {
        existing: Existing::Overwrite,
        ..ReceiveOptions::default()
    };
    let mut receiver = store.receive(options, None).unwrap();
    for chunk in stream.chunks(MAX_CHUNK) {
        assert_eq!(receiver.write(chunk).unwrap().consumed, chunk.len());
    }
    assert_eq!(receiver.finish().unwrap().failures, []);
    store.close().unwrap();
}

/// What a copy replaced and removed was told as another program's work.
#[test]
fn what_a_copy_replaced_and_removed_is_not_told_as_changed() {
    let (directory, source) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let root = directory.path();
    fill(root);
    assert_eq!(verify(root), []);
    // Files of no run that the source lacks stay; of a run, they go.
    let other = open(source.path(), Some("e:1"), Access::ReadWrite);
    put_record(
        &other,
        &format!("{{\"run_id\": \"{RUN}\", \"status\": \"failed\"}}"),
    );
    other.put_derived_text(RUN, "{\"d\": 2}").unwrap();
    other
        .put_artifact(b"other weights", artifact(RUN, "w"))
        .unwrap();
    other
        .put_experiment_manifest("e:1", "{\"k\": 2}", Some("20260101_000000"))
        .unwrap();
    let (stream, _) = stream(&other, Selection::default());
    other.close().unwrap();
    overwrite(root, &stream);
    for file in [
        format!("logs/{RUN}_out.log"),
        format!("results/{RUN}/res.json"),
        format!("runs/{RUN}.done"),
    ] {
        assert!(!root.join(&file).exists(), "{file}");
    }
    let manifest = "experiments/e_1_20260101_000000.json";
    assert!(
        fs::read_to_string(root.join(manifest))
            .unwrap()
            .contains('2')
    );
    assert_eq!(verify(root), []);
    // Another program's change after it is told.
    age(root);
    assert_eq!(verify(root), []);
    fs::remove_file(root.join(manifest)).unwrap();
    fs::remove_file(root.join(format!("derived/{RUN}.json"))).unwrap();
    let derived = format!("derived/{RUN}.json");
    let expected = [derived.as_str(), manifest].map(|file| (FindingKind::Changed, file));
    assert_eq!(kinds(&verify(root)), expected);
}

#[test]
fn what_a_repair_put_in_place_is_not_told_as_changed() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fill(root);
    assert_eq!(verify(root), []);
    let record = format!("runs/{RUN}.json");
    let old = fs::read(root.join(&record)).unwrap();
    let new = String::from_utf8(old.clone())
        .unwrap()
        .replace("\"m\": 1", "\"m\": 2");
    write_foreign_journal(root, &old, new.as_bytes());
    let found = repair(root);
    let promised = (FindingKind::Promised, record.as_str());
    assert!(kinds(&found).contains(&promised), "{found:#?}");
    assert!(
        found
            .iter()
            .all(|finding| finding.kind != FindingKind::Changed),
        "{found:#?}"
    );
    assert_eq!(fs::read_to_string(root.join(&record)).unwrap(), new);
    assert_eq!(verify(root), []);
}

#[test]
fn what_a_recovery_wrote_is_not_told_as_changed() {
    for boot in [None, Some("an earlier boot")] {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        fill(root);
        assert_eq!(verify(root), []);
        let mut identity = native::ports(root).unwrap().roots.identity();
        if let Some(boot) = boot {
            boot.clone_into(&mut identity.boot);
        }
        let header = Header { identity, salt: 7 };
        let files = [format!("runs/{RUN}.json"), format!("derived/{RUN}.json")];
        let contents = files.each_ref().map(|file| {
            let old = fs::read_to_string(root.join(file)).unwrap();
            (old.clone(), old.replace(": 1", ": 2"))
        });
        let step = |(file, (old, new)): (&String, &(String, String))| Step::Put {
            path: file.clone(),
            previous: Some(Fingerprint::of(old.as_bytes())),
            written: Fingerprint::of(new.as_bytes()),
            source: Source::Inline(new.clone().into_bytes()),
        };
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
        let lock = root.join(format!(".locks/{RUN}.lock"));
        let named = fs::read_to_string(&lock).unwrap();
        let call = Call {
            lock: LockName::Run(RUN.to_owned()),
            generation: u64::try_from(now.as_micros()).unwrap(),
            after: named.parse().unwrap_or_default(),
            steps: files.iter().zip(&contents).map(step).collect(),
        };
        if boot.is_none() {
            // A kill leaves what was done; a power cut may take all of it.
            fs::write(lock, format!("{} 000000aa", call.generation)).unwrap();
            fs::write(root.join(&files[0]), &contents[0].1).unwrap();
        }
        let mut segment = journal::begin(&header);
        journal::append(&mut segment, header.salt, 1, &Entry::Call(call));
        fs::write(root.join(".index/journal-00000000000000aa.seg"), segment).unwrap();
        open(root, Some("e:1"), Access::ReadWrite).close().unwrap();
        for (file, (_, new)) in files.iter().zip(&contents) {
            let found = fs::read_to_string(root.join(file)).unwrap();
            assert_eq!(found, *new, "{boot:?}");
        }
        assert_eq!(verify(root), [], "{boot:?}");
    }
}

#[test]
fn an_index_that_says_something_else_than_the_files_is_found_and_moved_away() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fill(root);
    let open = || {
        let mut ports = native::ports(root).unwrap();
        ports.directory = Rc::new(WithoutChangeTimes(Rc::clone(&ports.directory)));
        Store::open(ports, options(root, Some("e:1"), Access::ReadWrite)).unwrap()
    };
    let count = |store: &Store| {
        let query = QueryText {
            filter: "metrics.m = 2",
            ..QueryText::default()
        };
        store.query_runs(&query).unwrap().total()
    };
    // It reads every file, since all of them were given another time.
    let store = open();
    assert_eq!(count(&store), 0);
    store.close().unwrap();
    change_behind(&root.join(format!("runs/{RUN}.json")), |content| {
        let at = content.windows(6).position(|window| window == b"\"m\": 1");
        content[at.unwrap() + 5] = b'2';
    });
    let store = open();
    assert_eq!(count(&store), 0, "the index was believed");
    let (findings, _) = run_to_end(&store, VerifyOptions::default());
    assert_eq!(kinds(&findings), [(FindingKind::Index, ".index/columns")]);
    assert_eq!(findings[0].severity, Severity::Damage);
    let repairing = VerifyOptions {
        repair: true,
        ..VerifyOptions::default()
    };
    let (findings, report) = run_to_end(&store, repairing);
    assert!(findings[0].repaired.is_some());
    assert_eq!(report.damage, 0);
    assert_eq!(count(&store), 1);
    let (findings, _) = run_to_end(&store, VerifyOptions::default());
    assert_eq!(findings, []);
    store.close().unwrap();
}

#[test]
fn a_link_in_the_place_of_a_directory_is_damage() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fill(root);
    fs::rename(root.join("derived"), root.join("elsewhere")).unwrap();
    std::os::unix::fs::symlink("elsewhere", root.join("derived")).unwrap();
    let store = open(root, Some("e:1"), Access::ReadOnly);
    let (findings, report) = run_to_end(&store, VerifyOptions::default());
    assert_eq!(kinds(&findings), [(FindingKind::Unreadable, "derived")]);
    assert_eq!((report.damage, report.runs), (1, 2));
}

/// A directory that could not be listed ended the verification, and the collection of garbage: one that a user may not read
/// kept everything else from being looked at.
#[test]
fn a_directory_that_cannot_be_listed_is_told_and_hides_nothing_else() {
    let artifacts = format!("artifacts/{RUN}");
    for place in [artifacts.as_str(), "artifacts", "derived", "logs", "runs"] {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        fill(root);
        let litter = format!("results/{RUN}/res.tmp.0123abcd");
        write(root, &litter, "1234");
        write(root, &format!("{artifacts}/unlisted.bin"), "1234");
        fs::write(root.join("experiments/e_1_20260101_000000.json"), "{").unwrap();
        fs::rename(root.join(place), root.join("elsewhere")).unwrap();
        std::os::unix::fs::symlink("elsewhere", root.join(place)).unwrap();
        let store = open(root, Some("e:1"), Access::ReadOnly);
        let (findings, _) = run_to_end(&store, VerifyOptions::default());
        let told = kinds(&findings);
        let damage = findings
            .iter()
            .filter(|finding| finding.severity == Severity::Damage);
        assert_eq!(
            damage.count(),
            if place == artifacts { 1 } else { 2 },
            "{place}: {told:?}"
        );
        assert!(
            told.contains(&(
                FindingKind::Unreadable,
                "experiments/e_1_20260101_000000.json"
            )),
            "{place}: {told:?}"
        );
        let (found, _) = collect_of(&store, false, 0);
        let (gone, kept) = split(&found);
        if place != artifacts {
            assert_eq!(kept, [place], "{found:#?}");
        }
        let looked_at = !matches!(place, "artifacts" | "runs");
        assert_eq!(
            gone.contains(&litter.as_str()),
            looked_at,
            "{place}: {gone:?}"
        );
    }
}

/// Verifies a store in which a writer replaces a file, each time with a longer one, just before it is opened.
fn verify_outrun(root: &Path, access: Access, file: &'static str, times: u32) -> Vec<Finding> {
    let mut ports = native::ports(root).unwrap();
    let left = std::cell::Cell::new(0);
    let left = Rc::new(left);
    let (replace, place) = (Rc::clone(&left), root.join(file));
    ports.directory = watched(ports.directory, move |touch, path| {
        if (touch, path) == (Touch::Make, file) && replace.get() > 0 {
            replace.set(replace.get() - 1);
            let old = fs::read_to_string(&place).unwrap();
            let added = format!("{{\n  \"zzz{}\": \"added\",", replace.get());
            let longer = old.replacen('{', &added, 1);
            let stage = place.with_extension("tmp.0123abcd");
            fs::write(&stage, longer).unwrap();
            fs::rename(&stage, &place).unwrap();
        }
    });
    let store = Store::open(ports, options(root, Some("e:1"), access)).unwrap();
    left.set(times);
    let (mut findings, _) = run_to_end(&store, VerifyOptions::default());
    assert_eq!(left.get(), 0, "{file} was not opened so often");
    findings.retain(|finding| finding.severity == Severity::Damage);
    findings
}

#[test]
fn a_file_that_a_writer_replaces_while_it_is_looked_at_is_no_damage() {
    let files = [
        "runs/0123456789abcdef.json",
        "derived/0123456789abcdef.json",
        "experiments/e_1_20260101_000000.json",
    ];
    for file in files {
        for (access, times) in [(Access::ReadWrite, 1), (Access::ReadOnly, 3)] {
            let directory = tempfile::tempdir().unwrap();
            let root = directory.path();
            fill(root);
            // The index knows the record.
            assert_eq!(verify(root), []);
            assert_eq!(
                verify_outrun(root, access, file, times),
                [],
                "{file} {access:?}"
            );
        }
    }
}
