//! What is copied from one store to another is the same there, whatever ends the copy in between.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use metalab_store_guest::model::{Access, ArtifactDescriptor, Durability, StoreOptions};
use metalab_store_guest::native;
use metalab_store_guest::store::Store;
use metalab_store_guest::testing::{Touch, stream, watched};
use metalab_store_guest::transfer::{
    Counts, Existing, ExperimentDigest, MAX_CHUNK, Packer, ReceiveOptions, Report, Selection,
    Unpacker,
};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;

type Builder = tar::Builder<Vec<u8>>;

fn open(root: &Path, experiment: Option<&str>, access: Access) -> Store {
    fs::create_dir_all(root).unwrap();
    let options = options(root, experiment, access);
    Store::open(native::ports(root).unwrap(), options).unwrap()
}

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

/// Fills a collection: two experiments, runs with everything, one with a large artifact, a log without a run.
fn fill(root: &Path) {
    for (id, directory) in [("a:1", "a_1"), ("b", "b")] {
        let store = open(&root.join(directory), Some(id), Access::ReadWrite);
        for run in ["r1", "r_2", "0123456789abcdef"] {
            let record = format!(
                "{{\"run_id\": \"{run}\", \"status\": \"success\", \"artifacts\": [{{\"name\": \"w\", \"uri\": \"/old/artifacts/{run}/w.bin\"}}]}}"
            );
            store
                .put_run_text(&record, &metalab_store_guest::model::Expectation::Anything)
                .unwrap();
            store.put_derived_text(run, "{\"d\": 1}").unwrap();
            store.put_log(run, "stdout", "one\r\ntwo\n").unwrap();
            store.put_log(run, "step_1", "x").unwrap();
            store.put_artifact(b"weights", artifact(run, "w")).unwrap();
        }
        let large = if id == "b" { "r1" } else { "r_2" };
        let mut writer = store.create_artifact(artifact(large, "large")).unwrap();
        for piece in 0..17_u8 {
            writer.write(&vec![piece; MAX_CHUNK]).unwrap();
        }
        writer.finish().unwrap();
        store
            .put_experiment_manifest(id, "{\"k\": 1}", Some("20260101_000000"))
            .unwrap();
        store.close().unwrap();
        fs::write(root.join(directory).join("runs/r1.done"), "{}").unwrap();
        fs::write(root.join(directory).join("logs/nobody_knows.log"), "?").unwrap();
    }
}

/// The files of a tree that belong to the format, by their paths.
fn tree(root: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(root: &Path, directory: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path
                .strip_prefix(root)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            if name.contains(".locks") || name.contains(".index") {
                continue;
            }
            if path.is_dir() {
                walk(root, &path, found);
            } else {
                found.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(root, root, &mut found);
    found
}

/// Takes a stream as a host does, and opens the stores that it asks for. Ends after so many bytes.
fn take(root: &Path, stream: &[u8], options: ReceiveOptions, bytes: usize) -> Vec<Report> {
    let access = if options.dry_run {
        Access::ReadOnly
    } else {
        Access::ReadWrite
    };
    let mut store = open(root, None, access);
    let mut receiver = store.receive(options, None).unwrap();
    let mut reports = Vec::new();
    for chunk in stream[..bytes.min(stream.len())].chunks(100_000) {
        let mut rest = chunk;
        while !rest.is_empty() {
            let step = receiver.write(rest).unwrap();
            rest = &rest[step.consumed..];
            if let Some(elsewhere) = step.elsewhere {
                reports.push(receiver.finish().unwrap());
                store.close().unwrap();
                let directory = root.join(elsewhere.experiment_id.replace(':', "_"));
                store = open(&directory, Some(&elsewhere.experiment_id), access);
                let options = ReceiveOptions {
                    redirect: true,
                    ..options
                };
                receiver = store.receive(options, Some(&elsewhere.handover)).unwrap();
            }
        }
    }
    if bytes < stream.len() {
        // As if the process had been killed: no finish, no close.
        drop(receiver);
        return reports;
    }
    reports.push(receiver.finish().unwrap());
    store.close().unwrap();
    reports
}

fn digests(reports: &[Report]) -> Vec<ExperimentDigest> {
    reports
        .iter()
        .flat_map(|report| report.digests.clone())
        .collect()
}

fn copied(reports: &[Report]) -> (u64, u64) {
    let sum = |count: fn(&Report) -> u64| reports.iter().map(count).sum();
    (
        sum(|report| report.copied.files),
        sum(|report| report.skipped.files),
    )
}

fn failures(reports: &[Report]) -> Vec<String> {
    let found = reports.iter().flat_map(|report| &report.failures);
    found.map(|failure| failure.reason.clone()).collect()
}

#[test]
fn a_collection_is_copied_byte_for_byte_with_the_same_digests() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fill(from.path());
    let source = open(from.path(), None, Access::ReadOnly);
    let (bytes, sent) = stream(&source, Selection::default());
    let reports = take(to.path(), &bytes, ReceiveOptions::default(), usize::MAX);
    assert_eq!(failures(&reports), Vec::<String>::new());
    assert_eq!(digests(&reports), sent);
    assert_eq!(sent.len(), 2);
    let mut there = tree(to.path());
    // The collection's own directory gets nothing: it has no runs of its own.
    assert_eq!(there.remove("_meta.json"), None);
    assert_eq!(there, tree(from.path()));
    let again = open(to.path(), None, Access::ReadOnly);
    assert_eq!(stream(&again, Selection::default()).0, bytes);
}

#[test]
fn the_same_copy_again_writes_nothing() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fill(from.path());
    let source = open(from.path(), None, Access::ReadOnly);
    let (bytes, sent) = stream(&source, Selection::default());
    let first = take(to.path(), &bytes, ReceiveOptions::default(), usize::MAX);
    let second = take(to.path(), &bytes, ReceiveOptions::default(), usize::MAX);
    assert_eq!(copied(&second), (0, copied(&first).0));
    assert_eq!(digests(&second), sent);
    let dry = ReceiveOptions {
        dry_run: true,
        ..ReceiveOptions::default()
    };
    assert_eq!(
        copied(&take(to.path(), &bytes, dry, usize::MAX)),
        copied(&second)
    );
}

#[test]
fn a_copy_that_is_ended_anywhere_is_finished_by_the_same_command_and_copies_nothing_twice() {
    let from = tempfile::tempdir().unwrap();
    fill(from.path());
    let source = open(from.path(), None, Access::ReadOnly);
    let (bytes, sent) = stream(&source, Selection::default());
    let whole = tree(from.path());
    for cut in 0..50 {
        let to = tempfile::tempdir().unwrap();
        let at = bytes.len() * cut / 50 + cut * 37;
        take(to.path(), &bytes, ReceiveOptions::default(), at);
        let before = tree(to.path());
        let reports = take(to.path(), &bytes, ReceiveOptions::default(), usize::MAX);
        assert_eq!(failures(&reports), Vec::<String>::new(), "{at}");
        assert_eq!(digests(&reports), sent, "{at}");
        assert_eq!(tree(to.path()), whole, "{at}");
        let metas = before
            .keys()
            .filter(|name| name.ends_with("_meta.json"))
            .count();
        assert_eq!(copied(&reports).1, (before.len() - metas) as u64, "{at}");
    }
}

#[test]
fn a_run_that_differs_stays_is_passed_over_or_replaced_as_was_asked() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fill(from.path());
    let source = open(from.path(), None, Access::ReadOnly);
    let (bytes, _) = stream(&source, Selection::default());
    take(to.path(), &bytes, ReceiveOptions::default(), usize::MAX);
    let derived = to.path().join("a_1/derived/r1.json");
    fs::write(&derived, "{\"other\": 2}").unwrap();
    fs::remove_file(to.path().join("a_1/runs/r1.done")).unwrap();
    let reports = take(to.path(), &bytes, ReceiveOptions::default(), usize::MAX);
    let told = failures(&reports);
    assert_eq!(told.len(), 1);
    assert!(
        told[0].contains("derived/r1.json") && told[0].contains("--overwrite"),
        "{told:?}"
    );
    assert!(!to.path().join("a_1/runs/r1.done").exists());
    let with = |existing| ReceiveOptions {
        existing,
        ..ReceiveOptions::default()
    };
    let reports = take(to.path(), &bytes, with(Existing::Skip), usize::MAX);
    assert_eq!((copied(&reports).0, failures(&reports).len()), (0, 0));
    let reports = take(to.path(), &bytes, with(Existing::Overwrite), usize::MAX);
    assert_eq!((copied(&reports).0, failures(&reports).len()), (2, 0));
    assert_eq!(fs::read(&derived).unwrap(), b"{\n  \"d\": 1\n}");
}

#[test]
fn a_run_that_is_replaced_is_then_what_the_source_has_and_nothing_else() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fill(from.path());
    let source = open(from.path(), None, Access::ReadOnly);
    let (bytes, _) = stream(&source, Selection::default());
    take(to.path(), &bytes, ReceiveOptions::default(), usize::MAX);
    let b = to.path().join("b");
    fs::create_dir_all(b.join("results/r1")).unwrap();
    fs::create_dir_all(b.join("logs/r1")).unwrap();
    let extra = [
        "artifacts/r1/old.bin",
        "results/r1/old.json",
        "logs/r1_old.log",
        "logs/r1/old.txt",
        "runs/r_2.done",
    ];
    for file in extra {
        fs::write(b.join(file), "{}").unwrap();
    }
    let with = |existing, dry_run| ReceiveOptions {
        existing,
        dry_run,
        ..ReceiveOptions::default()
    };
    let removed = |reports: &[Report]| reports.iter().map(|report| report.removed).sum::<u64>();
    // Others leave it alone, and so does a copy without these kinds of files.
    for existing in [Existing::Fail, Existing::Skip] {
        let reports = take(to.path(), &bytes, with(existing, false), usize::MAX);
        assert_eq!((removed(&reports), failures(&reports)), (0, Vec::new()));
    }
    let selection = Selection {
        artifacts: false,
        results: false,
        logs: false,
        ..Selection::default()
    };
    let (part, _) = stream(&source, selection);
    let reports = take(
        to.path(),
        &part,
        with(Existing::Overwrite, false),
        usize::MAX,
    );
    assert_eq!(removed(&reports), 1);
    assert!(!b.join(extra[4]).exists());
    assert!(extra[..4].iter().all(|file| b.join(file).exists()));
    let reports = take(
        to.path(),
        &bytes,
        with(Existing::Overwrite, true),
        usize::MAX,
    );
    assert_eq!((removed(&reports), copied(&reports).0), (4, 0));
    assert!(extra[..4].iter().all(|file| b.join(file).exists()));
    let reports = take(
        to.path(),
        &bytes,
        with(Existing::Overwrite, false),
        usize::MAX,
    );
    assert_eq!((removed(&reports), failures(&reports)), (4, Vec::new()));
    assert_eq!(tree(to.path()), tree(from.path()));
    let store = open(&b, Some("b"), Access::ReadOnly);
    assert_eq!(store.list_logs("r1").unwrap(), ["stdout", "step_1"]);
}

#[test]
fn pieces_of_a_run_without_a_record_replace_pieces_and_remove_nothing() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fill(from.path());
    let source = open(from.path(), None, Access::ReadOnly);
    let (bytes, _) = stream(&source, Selection::default());
    take(to.path(), &bytes, ReceiveOptions::default(), usize::MAX);
    fs::remove_file(from.path().join("b/runs/r1.json")).unwrap();
    fs::write(from.path().join("b/derived/r1.json"), "{\"d\": 3}").unwrap();
    let (bytes, _) = stream(&source, Selection::default());
    let options = ReceiveOptions {
        existing: Existing::Overwrite,
        ..ReceiveOptions::default()
    };
    let reports = take(to.path(), &bytes, options, usize::MAX);
    assert_eq!((copied(&reports).0, failures(&reports)), (1, Vec::new()));
    assert!(to.path().join("b/runs/r1.json").exists());
}

#[test]
fn what_runners_leave_in_a_store_comes_along_and_what_is_the_stores_own_does_not() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fill(from.path());
    let b = from.path().join("b");
    let known = [
        "b:1_context_manifest.json",
        "context_spec.json",
        "manifest.json",
        "slurm_array_spec.json",
    ];
    for file in known {
        fs::write(b.join(file), format!("{{\"{file}\": 1}}")).unwrap();
    }
    for file in [
        ".quarantine/x.json",
        "services/postgres/.pgpass",
        "slurm_logs/1.out",
        "notes.txt",
        ".index/x",
    ] {
        let path = b.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "secret").unwrap();
    }
    std::os::unix::fs::symlink("/etc/hostname", b.join("x_context_manifest.json")).unwrap();
    let source = open(from.path(), None, Access::ReadOnly);
    let (bytes, sent) = stream(&source, Selection::default());
    let reports = take(to.path(), &bytes, ReceiveOptions::default(), usize::MAX);
    assert_eq!(digests(&reports), sent);
    // A link under a name of the format is told; files that the format does not know are not.
    let told: Vec<_> = reports.iter().flat_map(|report| &report.failures).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].file.as_deref(), Some("x_context_manifest.json"));
    assert!(told[0].reason.contains("symbolic link"), "{told:?}");
    fs::remove_file(b.join("x_context_manifest.json")).unwrap();
    let there = tree(to.path());
    for file in known {
        assert!(there.contains_key(&format!("b/{file}")), "{file}");
    }
    assert!(there.values().all(|content| content != b"secret"));
    assert!(!there.keys().any(|path| path.contains("x_context")));
    // One that changed is not silently replaced.
    fs::write(b.join("manifest.json"), "{}").unwrap();
    let (bytes, _) = stream(&source, Selection::default());
    let reports = take(to.path(), &bytes, ReceiveOptions::default(), usize::MAX);
    assert_eq!(failures(&reports).len(), 1);
}

#[test]
fn a_run_that_changes_while_it_is_handed_out_is_not_copied_half() {
    type Change = fn(&Path);
    let changes: [(Change, bool); 5] = [
        (|b| fs::write(b.join("runs/r1.json"), "{}").unwrap(), false),
        (|b| fs::remove_file(b.join("runs/r1.done")).unwrap(), false),
        (
            |b| fs::write(b.join("artifacts/r1/new.bin"), "x").unwrap(),
            false,
        ),
        (
            |b| fs::write(b.join("artifacts/r1/large.bin"), "x").unwrap(),
            false,
        ),
        (
            |b| fs::write(b.join("logs/r1_stdout.log"), "one\r\ntwo\nthree\n").unwrap(),
            true,
        ),
    ];
    for (at, (change, copied)) in changes.into_iter().enumerate() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fill(from.path());
        let b = from.path().join("b");
        let source = open(&b, Some("b"), Access::ReadOnly);
        let mut sender = source.send(Selection::default()).unwrap();
        let mut bytes = Vec::new();
        // r1 has more than is kept: it is under way after a few pieces.
        for piece in 0.. {
            if piece == 6 {
                change(&b);
            }
            let chunk = sender.next_chunk().unwrap();
            if chunk.is_empty() {
                break;
            }
            bytes.extend(chunk);
        }
        let told: Vec<_> = sender.report().failures.clone();
        assert_eq!(told.is_empty(), copied, "{at}: {told:?}");
        let reports = take(to.path(), &bytes, ReceiveOptions::default(), usize::MAX);
        assert_eq!(failures(&reports).is_empty(), copied, "{at}");
        // An archive has nobody else who counts.
        let sent = [sender.report().clone()];
        let files = |reports: &[Report]| -> [u64; 4] {
            reports.iter().fold([0; 4], |sum, report| {
                let (copied, failed) = (&report.copied, &report.failed);
                [
                    sum[0] + copied.files,
                    sum[1] + copied.bytes,
                    sum[2] + failed.files,
                    sum[3] + failed.bytes,
                ]
            })
        };
        assert_eq!(files(&sent), files(&reports), "{at}");
        assert_eq!(to.path().join("b/runs/r1.json").exists(), copied, "{at}");
        assert!(copied || !to.path().join("b/artifacts/r1").exists(), "{at}");
        assert!(to.path().join("b/runs/r_2.json").exists(), "{at}");
        // The same copy again, when nothing changes any more.
        let (bytes, _) = stream(&source, Selection::default());
        let reports = take(to.path(), &bytes, ReceiveOptions::default(), usize::MAX);
        assert_eq!(failures(&reports), Vec::<String>::new(), "{at}");
    }
}

#[test]
fn every_run_and_file_is_counted_once() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fill(from.path());
    let a = from.path().join("a_1");
    let all = tree(from.path()).len() as u64;
    // A file that cannot be read, a run with another content, one that is there already.
    std::os::unix::fs::symlink("nowhere", a.join("artifacts/r_2/link")).unwrap();
    let source = open(from.path(), None, Access::ReadOnly);
    let only = Selection {
        filter: "run_id = \"r1\"".to_owned(),
        ..Selection::default()
    };
    let (bytes, _) = stream(&source, only);
    take(to.path(), &bytes, ReceiveOptions::default(), usize::MAX);
    fs::write(to.path().join("b/derived/r1.json"), "{}").unwrap();
    let (bytes, _) = stream(&source, Selection::default());
    let reports = take(to.path(), &bytes, ReceiveOptions::default(), usize::MAX);
    let sum = |of: fn(&Report) -> [u64; 3]| {
        reports.iter().map(of).fold([0; 3], |sum, counts| {
            [sum[0] + counts[0], sum[1] + counts[1], sum[2] + counts[2]]
        })
    };
    let runs = sum(|report| [report.copied.runs, report.skipped.runs, report.failed.runs]);
    assert_eq!(runs, [3, 1, 2]);
    let files = sum(|report| {
        [
            report.copied.files,
            report.skipped.files,
            report.failed.files,
        ]
    });
    // The link failed besides, and the two `_meta.json` are the destination's own.
    assert_eq!(files.iter().sum::<u64>(), all + 1 - 2);
    assert_eq!(failures(&reports).len(), 2);
}

/// What was not copied: the experiment, the run or the file, in order.
fn told(reports: &[Report]) -> Vec<String> {
    let failures = reports.iter().flat_map(|report| &report.failures);
    let mut told: Vec<String> = failures
        .map(|failure| {
            format!(
                "{} {} {}",
                failure.experiment_id,
                failure.run_id.as_deref().unwrap_or("-"),
                failure.file.as_deref().unwrap_or("-")
            )
        })
        .collect();
    told.sort();
    told
}

/// Puts a link in the place of something.
fn link(path: impl AsRef<Path>) {
    let path = path.as_ref();
    if path.exists() {
        fs::rename(path, path.with_extension("kept")).unwrap();
    }
    std::os::unix::fs::symlink("/etc", path).unwrap();
}

/// A copy was ended by the first directory that could not be listed, without saying what it had done and of which run
/// that was; so one broken place kept everything from being copied. It is a failure of the run, or of the directory.
#[test]
fn a_place_that_cannot_be_listed_fails_its_run_or_its_kind_of_files_and_no_other() {
    type Break = fn(&Path);
    let cases: [(Break, &str, &[&str]); 7] = [
        (
            |a| link(a.join("artifacts/r1")),
            "a:1 r1 artifacts/r1",
            &["runs/r1.json", "artifacts/r_2/w.bin"],
        ),
        (
            |a| link(a.join("results/r1")),
            "a:1 r1 results/r1",
            &["runs/r1.json", "artifacts/r1/w.bin"],
        ),
        (
            |a| link(a.join("logs/r1")),
            "a:1 r1 logs/r1",
            &["runs/r1.json", "logs/r1_stdout.log"],
        ),
        (
            |a| link(a.join("derived")),
            "a:1 - derived",
            &["runs/r1.json", "artifacts/r1/w.bin"],
        ),
        (
            |a| link(a.join("artifacts")),
            "a:1 - artifacts",
            &["runs/r1.json", "derived/r1.json"],
        ),
        (
            |a| link(a.join("experiments")),
            "a:1 - experiments",
            &["runs/r1.json", "derived/r1.json"],
        ),
        (
            |a| link(a.join("runs")),
            "a:1 - runs",
            &["experiments/a_1_20260101_000000.json"],
        ),
    ];
    for (change, expected, there) in cases {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fill(from.path());
        change(&from.path().join("a_1"));
        let source = open(from.path(), None, Access::ReadOnly);
        let (bytes, sent) = stream(&source, Selection::default());
        let reports = take(to.path(), &bytes, ReceiveOptions::default(), usize::MAX);
        assert_eq!(told(&reports), [expected]);
        assert_eq!(digests(&reports), sent, "{expected}");
        let copied = tree(to.path());
        for file in there {
            assert!(
                copied.contains_key(&format!("a_1/{file}")),
                "{expected}: {file}"
            );
        }
        assert!(copied.contains_key("b/runs/r1.json"), "{expected}");
        // What could not be listed says nothing of what the source has.
        let options = ReceiveOptions {
            existing: Existing::Overwrite,
            ..ReceiveOptions::default()
        };
        fs::create_dir_all(to.path().join("a_1/derived")).unwrap();
        let kept = to.path().join("a_1/derived/r_2.json");
        fs::write(&kept, "{\n  \"d\": 1\n}").unwrap();
        take(to.path(), &bytes, options, usize::MAX);
        assert!(kept.exists(), "{expected}");
    }
}

#[test]
fn a_run_of_which_nobody_can_say_whether_it_is_selected_fails() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fill(from.path());
    let a = from.path().join("a_1");
    for file in ["runs/r1.json", "derived/r_2.json"] {
        fs::remove_file(a.join(file)).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", a.join(file)).unwrap();
    }
    fs::write(from.path().join("b/runs/r1.json"), "{\"run_id\": ").unwrap();
    let source = open(from.path(), None, Access::ReadOnly);
    let selection = Selection {
        filter: "status = \"success\"".to_owned(),
        ..Selection::default()
    };
    let (bytes, sent) = stream(&source, selection);
    let reports = take(to.path(), &bytes, ReceiveOptions::default(), usize::MAX);
    assert_eq!(told(&reports), ["a:1 r1 -", "a:1 r_2 -", "b r1 -"]);
    assert_eq!(digests(&reports), sent);
    let runs: u64 = reports.iter().map(|report| report.copied.runs).sum();
    assert_eq!(runs, 3);
}

/// Links and directories under names of the format were left out, and the copy said that all went well.
#[test]
fn what_is_no_file_under_a_name_of_the_format_is_told() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fill(from.path());
    let a = from.path().join("a_1");
    for link in [
        "runs/new.json",
        "runs/r1.json",
        "derived/other.json",
        "artifacts/link",
        "logs/r1_link.log",
        "experiments/e.json",
        "context_spec.json",
    ] {
        let path = a.join(link);
        if path.exists() {
            fs::remove_file(&path).unwrap();
        }
        std::os::unix::fs::symlink("/etc/hostname", path).unwrap();
    }
    fs::create_dir_all(a.join("derived/directory.json")).unwrap();
    fs::create_dir_all(a.join("results")).unwrap();
    fs::write(a.join("results/r1"), "a file").unwrap();
    // The format knows none of these.
    fs::write(a.join("artifacts/README"), "a file").unwrap();
    fs::write(a.join("runs/notes.txt"), "a file").unwrap();
    std::os::unix::fs::symlink("/etc", a.join("notes")).unwrap();
    let source = open(from.path(), None, Access::ReadOnly);
    let (bytes, sent) = stream(&source, Selection::default());
    let reports = take(to.path(), &bytes, ReceiveOptions::default(), usize::MAX);
    assert_eq!(
        told(&reports),
        [
            "a:1 - context_spec.json",
            "a:1 - experiments/e.json",
            "a:1 - logs/r1_link.log",
            "a:1 directory derived/directory.json",
            "a:1 link artifacts/link",
            "a:1 new runs/new.json",
            "a:1 other derived/other.json",
            "a:1 r1 results/r1",
            "a:1 r1 runs/r1.json",
        ]
    );
    assert_eq!(digests(&reports), sent);
    assert!(to.path().join("a_1/artifacts/r1/w.bin").exists());
    // What is not to be copied is not missing.
    let selection = Selection {
        artifacts: false,
        derived: false,
        results: false,
        logs: false,
        ..Selection::default()
    };
    let (bytes, _) = stream(&source, selection);
    let reports = take(to.path(), &bytes, ReceiveOptions::default(), usize::MAX);
    assert_eq!(told(&reports).len(), 4, "{:?}", told(&reports));
}

/// A run with very many faults made a note that no reader takes, so nothing after it was copied.
#[test]
fn a_run_with_very_many_faults_fails_alone_and_all_of_them_are_counted() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fill(from.path());
    let artifacts = from.path().join("a_1/artifacts/r1");
    for number in 0..10_000 {
        std::os::unix::fs::symlink("/etc", artifacts.join(format!("{number}.bin"))).unwrap();
    }
    let source = open(from.path(), None, Access::ReadOnly);
    let (bytes, sent) = stream(&source, Selection::default());
    let reports = take(to.path(), &bytes, ReceiveOptions::default(), usize::MAX);
    let failed: u64 = reports.iter().map(|report| report.failed.files).sum();
    assert_eq!((failed, told(&reports).len()), (10_000, 101));
    assert!(
        failures(&reports)
            .iter()
            .any(|reason| reason.starts_with("9900 more files"))
    );
    assert_eq!(digests(&reports), sent);
    assert!(to.path().join("b/runs/r1.json").exists());
}

#[test]
fn a_log_that_grew_goes_on_at_the_destination() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fill(from.path());
    let source = open(from.path(), None, Access::ReadOnly);
    let (bytes, _) = stream(&source, Selection::default());
    take(to.path(), &bytes, ReceiveOptions::default(), usize::MAX);
    fs::write(
        from.path().join("b/logs/r1_stdout.log"),
        "one\r\ntwo\nthree\n",
    )
    .unwrap();
    let (bytes, _) = stream(&source, Selection::default());
    let reports = take(to.path(), &bytes, ReceiveOptions::default(), usize::MAX);
    assert_eq!((copied(&reports).0, failures(&reports)), (1, Vec::new()));
    assert_eq!(tree(to.path()), tree(from.path()));
}

/// A dry run keeps nothing of a log that is not kept in memory, and took one that had grown for another one.
#[test]
fn a_log_that_grows_by_much_while_it_is_read_is_copied_as_it_was_once_and_a_dry_run_says_the_same()
{
    const MIB: usize = 1 << 20;
    // In memory, beside what is, and in a run that is not.
    for (size, artifact) in [(10, 10), (3 * MIB / 2, 10), (10, 5 * MIB), (6 * MIB, 10)] {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = from.path();
        let store = open(root, Some("b"), Access::ReadWrite);
        for run in ["r1", "r2"] {
            let record = format!("{{\"run_id\": \"{run}\", \"status\": \"success\"}}");
            store
                .put_run_text(&record, &metalab_store_guest::model::Expectation::Anything)
                .unwrap();
        }
        store.put_log("r1", "out", &"x".repeat(size)).unwrap();
        let mut writer = store.create_artifact(self::artifact("r1", "w")).unwrap();
        for piece in vec![7; artifact].chunks(MAX_CHUNK) {
            writer.write(piece).unwrap();
        }
        writer.finish().unwrap();
        store.close().unwrap();
        let log = root.join("logs/r1_out.log");
        // Where nothing is there, and where an earlier copy is.
        for _ in 0..2 {
            let context = format!("a log of {size}, an artifact of {artifact}");
            let mut ports = native::ports(root).unwrap();
            let growing = log.clone();
            ports.directory = watched(ports.directory, move |touch, path| {
                if touch == Touch::Make && path == "logs/r1_out.log" {
                    let mut log = fs::File::options().append(true).open(&growing).unwrap();
                    log.write_all(&vec![b'y'; 3 * MIB / 2]).unwrap();
                }
            });
            let source = Store::open(ports, options(root, Some("b"), Access::ReadOnly)).unwrap();
            let mut sender = source.send(Selection::default()).unwrap();
            let mut bytes = Vec::new();
            loop {
                let chunk = sender.next_chunk().unwrap();
                if chunk.is_empty() {
                    break;
                }
                bytes.extend(chunk);
            }
            let sent = sender.report().clone();
            assert_eq!(sent.failures, [], "{context}");
            let dry = ReceiveOptions {
                dry_run: true,
                ..ReceiveOptions::default()
            };
            let reports = [dry, ReceiveOptions::default()]
                .map(|options| take(to.path(), &bytes, options, usize::MAX));
            let [dry, copied] = reports.map(|mut reports| reports.pop().unwrap());
            assert_eq!(dry, copied, "{context}");
            assert_eq!(
                (copied.failures, copied.digests),
                (Vec::new(), sent.digests)
            );
            let sum = |of: fn(&Counts) -> u64| of(&copied.copied) + of(&copied.skipped);
            assert_eq!(sum(|counts| counts.files), sent.copied.files, "{context}");
            assert_eq!(sum(|counts| counts.bytes), sent.copied.bytes, "{context}");
            let (whole, copy) = (fs::read(&log).unwrap(), to.path().join("b/logs/r1_out.log"));
            let copy = fs::read(copy).unwrap();
            assert!(copy.len() >= size, "{context}: {} bytes", copy.len());
            assert!(whole.starts_with(&copy), "{context}");
        }
        // The whole of it in the end.
        let source = open(root, Some("b"), Access::ReadOnly);
        let (bytes, _) = stream(&source, Selection::default());
        take(to.path(), &bytes, ReceiveOptions::default(), usize::MAX);
        assert!(fs::read(to.path().join("b/logs/r1_out.log")).unwrap() == fs::read(&log).unwrap());
    }
}

#[test]
fn what_is_selected_is_copied_and_nothing_else() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fill(from.path());
    let source = open(from.path(), None, Access::ReadOnly);
    let selection = Selection {
        experiments: vec!["b".to_owned()],
        filter: "run_id = \"r1\"".to_owned(),
        artifacts: false,
        logs: false,
        ..Selection::default()
    };
    let (bytes, _) = stream(&source, selection);
    take(to.path(), &bytes, ReceiveOptions::default(), usize::MAX);
    let there: Vec<String> = tree(to.path()).into_keys().collect();
    assert_eq!(
        there,
        [
            "b/_meta.json",
            "b/derived/r1.json",
            "b/experiments/b_20260101_000000.json",
            "b/runs/r1.done",
            "b/runs/r1.json",
        ]
    );
    let unknown = Selection {
        experiments: vec!["c".to_owned()],
        ..Selection::default()
    };
    assert!(source.send(unknown).is_err());
}

#[test]
fn places_are_rewritten_only_when_asked_and_the_digest_stays() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fill(from.path());
    let source = open(from.path(), None, Access::ReadOnly);
    let (bytes, sent) = stream(&source, Selection::default());
    let options = ReceiveOptions {
        rewrite_uris: true,
        ..ReceiveOptions::default()
    };
    let reports = take(to.path(), &bytes, options, usize::MAX);
    assert_eq!(digests(&reports), sent);
    let record = fs::read_to_string(to.path().join("b/runs/r1.json")).unwrap();
    let place = to.path().join("b/artifacts/r1/w.bin");
    assert!(record.contains(place.to_str().unwrap()), "{record}");
    assert_eq!(copied(&take(to.path(), &bytes, options, usize::MAX)).0, 0);
    let again = open(to.path(), None, Access::ReadOnly);
    assert_eq!(stream(&again, Selection::default()).1, sent);
}

#[test]
fn an_archive_is_the_stream_and_one_that_is_cut_or_a_bomb_is_refused() {
    let from = tempfile::tempdir().unwrap();
    fill(from.path());
    let source = open(from.path(), None, Access::ReadOnly);
    let (bytes, _) = stream(&source, Selection::default());
    let pack = |bytes: &[u8]| {
        let mut packer = Packer::default();
        let mut archive = Vec::new();
        for chunk in bytes.chunks(100_000) {
            archive.extend(packer.write(chunk));
        }
        archive.extend(packer.finish());
        archive
    };
    let archive = pack(&bytes);
    assert!(archive.len() < bytes.len() / 10);
    assert_eq!(archive, pack(&bytes));
    assert_eq!(unpack(&archive, None).unwrap(), bytes);
    assert_eq!(unpack(&bytes, None).unwrap(), bytes);
    let limit = unpack(&archive, Some(bytes.len() as u64 - 1)).unwrap_err();
    assert!(limit.contains("fill the disk"), "{limit}");
    let cut = unpack(&archive[..archive.len() - 1], None).unwrap_err();
    assert!(
        cut.contains("too early") || cut.contains("damaged"),
        "{cut}"
    );
}

fn unpack(archive: &[u8], limit: Option<u64>) -> Result<Vec<u8>, String> {
    let mut unpacker = Unpacker::new(limit);
    let mut whole = Vec::new();
    for chunk in archive.chunks(7_001) {
        unpacker.write(chunk).map_err(|error| error.to_string())?;
        loop {
            let piece = unpacker.read().map_err(|error| error.to_string())?;
            if piece.is_empty() {
                break;
            }
            whole.extend(piece);
        }
    }
    loop {
        let piece = unpacker.read_rest().map_err(|error| error.to_string())?;
        if piece.is_empty() {
            return Ok(whole);
        }
        whole.extend(piece);
    }
}

#[test]
fn a_hostile_stream_is_refused_for_its_reason_and_writes_nothing_outside() {
    let from = tempfile::tempdir().unwrap();
    fill(from.path());
    let source = open(&from.path().join("b"), Some("b"), Access::ReadOnly);
    let (bytes, _) = stream(&source, Selection::default());
    let entries = |bytes: &[u8]| -> Vec<(String, Vec<u8>)> {
        let mut archive = tar::Archive::new(bytes);
        let read = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
            (entry.path().unwrap().to_str().unwrap().to_owned(), content)
        };
        archive.entries().unwrap().map(read).collect()
    };
    let good = entries(&bytes);
    let build = |change: &dyn Fn(&mut Builder, &str, &[u8])| {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, content) in &good {
            change(&mut builder, path, content);
        }
        builder.into_inner().unwrap()
    };
    let append = |builder: &mut Builder, path: &str, content: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append(&header, content).unwrap();
    };
    let victim = "b/derived/r1.json";
    for (name, reason) in [
        ("/etc/passwd", "not in the directory"),
        ("b/../../escape", "no path of a file"),
        ("../escape", "not in the directory"),
        ("b/.index/x", "no path of a file"),
        ("b/.locks/r1.lock", "no path of a file"),
        ("b/runs/../../escape", "no path of a file"),
        ("b/runs/r1.tmp.deadbeef", "no path of a file"),
        ("b/artifacts/r1/w.bin", "comes twice"),
        ("b/derived/r2.json", "does not belong"),
        ("c/derived/r1.json", "not in the directory"),
    ] {
        let hostile = build(&|builder, path, content| {
            let path = if path == victim { name } else { path };
            append(builder, path, content);
        });
        let error = refused(&hostile);
        assert!(error.contains(reason), "{name}: {error}");
    }
    for (kind, what) in [
        (tar::EntryType::Symlink, "a symbolic link"),
        (tar::EntryType::Link, "a hard link"),
        (tar::EntryType::Char, "a device"),
        (tar::EntryType::Fifo, "a FIFO"),
        (tar::EntryType::Directory, "a directory"),
    ] {
        let hostile = build(&|builder, path, content| {
            if path == victim {
                let mut header = tar::Header::new_ustar();
                header.set_path(path).unwrap();
                header.set_entry_type(kind);
                header.set_size(0);
                header.set_cksum();
                builder.append(&header, &[][..]).unwrap();
            } else {
                append(builder, path, content);
            }
        });
        let error = refused(&hostile);
        assert!(error.contains(what), "{error}");
    }
    // Documents are kept in memory until their run is whole, so one of each kind is all that a run may have.
    for (path, more, reason) in [
        ("b/runs/r1.json", "b/runs/r1x.json", "a second record"),
        (
            "b/artifacts/r1/w.bin",
            "b/artifacts/r1x/_manifest.json",
            "a second artifact manifest",
        ),
    ] {
        let hostile = build(&|builder, name, content| {
            append(builder, name, content);
            if name == path {
                append(builder, more, b"{}");
            }
        });
        let error = refused(&hostile);
        assert!(error.contains(reason), "{more}: {error}");
        assert!(error.contains("r1x"), "{more}: {error}");
    }
    // A content that is not what was sent hides no other run.
    let to = tempfile::tempdir().unwrap();
    let flipped = build(&|builder, path, content| {
        let content = if path == victim {
            b"{\n  \"d\": 2\n}"
        } else {
            content
        };
        append(builder, path, content);
    });
    let told = failures(&take(
        to.path(),
        &flipped,
        ReceiveOptions::default(),
        usize::MAX,
    ));
    assert!(told[0].contains("digest differs"), "{told:?}");
    assert!(!to.path().join("b/runs/r1.json").exists());
    assert!(to.path().join("b/runs/r_2.json").exists());
}

/// Takes a stream that must be refused, and says how it was.
fn refused(stream: &[u8]) -> String {
    let outside = tempfile::tempdir().unwrap();
    let root = outside.path().join("root");
    let store = open(&root, Some("b"), Access::ReadWrite);
    let mut receiver = store.receive(ReceiveOptions::default(), None).unwrap();
    let mut told = None;
    for chunk in stream.chunks(MAX_CHUNK) {
        if let Err(error) = receiver.write(chunk) {
            told = Some(error.to_string());
            break;
        }
    }
    drop(receiver);
    store.close().unwrap();
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    assert!(!root.join("runs/r1.json").exists());
    told.expect("the stream was taken")
}
