//! `verify`, `--repair` and `gc` through the component, beside processes that write, with a database, and as commands.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use metalab_store::maintenance::{
    Collected, Finding, FindingKind, Garbage, GarbageOptions, GarbageReport, Severity, Verified,
    VerifyReport, collect_garbage, verify,
};
use metalab_store::types::{ArtifactDescriptor, Expectation, RunRecord, Status};
use metalab_store::{Error, FileStoreConfig, Store, StoreConfig};
use metalab_store_tests::database::Schema;
use metalab_store_tests::{Worker, command, leftovers, reference_collection, tree};
use rustix::fs::{Timespec, Timestamps, futimens};
use serde_json::Value;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

fn run_verify(config: &StoreConfig, repair: bool) -> (Vec<Finding>, VerifyReport) {
    let mut findings = Vec::new();
    let report = verify(config, repair, &mut |event| {
        if let Verified::Found(finding) = event {
            findings.push(finding);
        }
        ControlFlow::Continue(())
    });
    (findings, report.unwrap())
}

fn run_gc(config: &StoreConfig, apply: bool) -> (Vec<Garbage>, GarbageReport) {
    let mut found = Vec::new();
    let options = GarbageOptions {
        apply,
        grace_seconds: 0,
    };
    let report = collect_garbage(config, options, &mut |event| {
        if let Collected::Found(garbage) = event {
            found.push(garbage);
        }
        ControlFlow::Continue(())
    });
    (found, report.unwrap())
}

fn run_command(root: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = command()
        .arg("-s")
        .arg(root)
        .args(arguments)
        .output()
        .unwrap();
    (
        output.status.code(),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

fn kinds(findings: &[Finding]) -> Vec<(FindingKind, &str)> {
    let kind = |finding: &'_ Finding| finding.kind;
    findings
        .iter()
        .map(|finding| (kind(finding), finding.file.as_str()))
        .collect()
}

fn set_time(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    let file = fs::File::options().append(true).open(path).unwrap();
    futimens(file, &times).unwrap();
}

/// Gives every file a time long ago, so that it is known by it.
fn age(root: &Path) {
    for name in tree(root).into_keys() {
        let path = root.join(&name);
        if path.is_file() {
            set_time(&path, 1_700_000_000, 0);
        }
    }
}

/// Changes a file in place, and gives it back the time that it had.
fn change_behind(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let before = fs::metadata(path).unwrap();
    let mut content = fs::read(path).unwrap();
    change(&mut content);
    fs::write(path, content).unwrap();
    set_time(path, before.mtime(), before.mtime_nsec());
}

fn put(store: &Store, run: &str) {
    let mut record = RunRecord::new(run, Status::Success);
    let descriptor = ArtifactDescriptor::new(run, "w", "blob", "bin");
    record.artifacts = vec![store.put_artifact(b"weights", &descriptor).unwrap()];
    store
        .put_run_record(&record, &Expectation::Anything)
        .unwrap();
    store.put_derived_text(run, "{\"d\": 1}").unwrap();
}

/// Fills a collection of two experiments.
fn fill(config: &StoreConfig) {
    for experiment in ["a:1", "b"] {
        let store = config.clone().scoped(experiment).connect().unwrap();
        for run in ["r1", "r2"] {
            put(&store, run);
        }
        store.close().unwrap();
    }
}

#[test]
fn what_the_reference_wrote_is_sound_but_for_what_it_left_broken() {
    let directory = reference_collection();
    let config = StoreConfig::from(FileStoreConfig::new(directory.path().join("experiments")));
    let (findings, report) = run_verify(&config, false);
    insta::assert_snapshot!(transcript(&findings, &report));
}

fn transcript(findings: &[Finding], report: &VerifyReport) -> String {
    let mut lines: Vec<String> = findings
        .iter()
        .map(|finding| {
            format!(
                "{} {} {}: {}",
                finding.severity.as_str(),
                finding.kind.as_str(),
                finding.file,
                finding.reason
            )
        })
        .collect();
    lines.sort();
    lines.push(format!(
        "{} runs, {} files, {} damaged, {} warnings, {} orphans, {} leftovers",
        report.runs, report.files, report.damage, report.warnings, report.orphans, report.leftovers
    ));
    lines.join("\n")
}

#[test]
fn a_collection_is_verified_and_each_experiment_of_it_repaired() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let config = StoreConfig::from(FileStoreConfig::new(root));
    fill(&config);
    age(root);
    let (findings, report) = run_verify(&config, false);
    assert_eq!(findings, []);
    assert_eq!((report.runs, report.digests.len()), (4, 2));
    let manifest = root.join("a_1/artifacts/r1/_manifest.json");
    let whole = fs::read(&manifest).unwrap();
    fs::write(&manifest, "{").unwrap();
    fs::write(root.join("b/derived/r2.json"), "{").unwrap();
    let (findings, report) = run_verify(&config, false);
    assert_eq!(
        kinds(&findings),
        [
            (FindingKind::Changed, "a_1/artifacts/r1/_manifest.json"),
            (FindingKind::Unreadable, "a_1/artifacts/r1/_manifest.json"),
            (FindingKind::Changed, "b/derived/r2.json"),
            (FindingKind::Unreadable, "b/derived/r2.json"),
        ]
    );
    assert_eq!(report.damage, 2);
    let (findings, report) = run_verify(&config, true);
    assert_eq!(findings.len(), 2);
    assert_eq!((report.damage, report.repaired), (1, 1));
    assert_eq!(fs::read(&manifest).unwrap(), whole);
    assert!(root.join("a_1/.quarantine").exists());
    assert!(!root.join("b/.quarantine").exists());
    // Nothing of a store was made in the collection's root.
    assert!(!root.join("runs").exists() && !root.join(".index").exists());
}

#[test]
fn a_verification_that_is_stopped_says_so_and_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let config = StoreConfig::from(FileStoreConfig::new(directory.path()));
    fill(&config);
    let stopped = verify(&config, false, &mut |_| ControlFlow::Break(()));
    assert!(matches!(stopped, Err(Error::Cancelled)));
    assert_eq!(leftovers(directory.path()), Vec::<String>::new());
    let options = GarbageOptions {
        apply: true,
        grace_seconds: 0,
    };
    let stopped = collect_garbage(&config, options, &mut |_| ControlFlow::Break(()));
    assert!(matches!(stopped, Err(Error::Cancelled)));
    assert_eq!(run_verify(&config, false).0, []);
}

#[test]
fn garbage_of_all_others_is_removed_where_one_store_cannot_be_opened() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let config = StoreConfig::from(FileStoreConfig::new(root));
    fill(&config);
    let left = root.join("b/artifacts/r1/old.bin");
    fs::write(&left, "nobody's").unwrap();
    // Something lies in the place of a directory.
    fs::remove_dir_all(root.join("a_1/runs")).unwrap();
    fs::write(root.join("a_1/runs"), "").unwrap();
    // And one that does not say whose it is.
    fs::create_dir(root.join("c")).unwrap();
    fs::write(root.join("c/_meta.json"), "{").unwrap();
    for (apply, directories) in [
        (false, ["a_1/runs", "c/_meta.json"]),
        (true, ["a:1", "c/_meta.json"]),
    ] {
        let (found, report) = run_gc(&config, apply);
        assert_eq!((report.files, report.unseen), (1, 2), "{found:#?}");
        assert_eq!(left.exists(), !apply);
        let unseen = found
            .iter()
            .filter(|garbage| garbage.kind == FindingKind::Unreadable);
        assert!(
            unseen
                .clone()
                .all(|garbage| garbage.kept.as_deref() == Some("what is in it was not looked at"))
        );
        let unseen: Vec<&str> = unseen.map(|garbage| garbage.file.as_str()).collect();
        assert_eq!(unseen, directories);
    }
}

#[test]
fn the_command_lists_what_it_removed_where_one_store_cannot_be_looked_at_and_fails() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fill(&StoreConfig::from(FileStoreConfig::new(root)));
    let left = root.join("b/artifacts/r1/old.bin");
    fs::write(&left, "nobody's").unwrap();
    fs::remove_dir_all(root.join("a_1/runs")).unwrap();
    fs::write(root.join("a_1/runs"), "").unwrap();
    let run = |arguments: &[&str]| run_command(root, arguments);
    let (code, out, err) = run(&["gc", "--grace", "0s"]);
    assert_eq!(code, Some(1));
    assert!(out.contains("would remove b/artifacts/r1/old.bin"), "{out}");
    assert!(out.contains("keeps a_1/runs"), "{out}");
    assert!(err.contains("1 directory could not be looked at"), "{err}");
    let (code, out, err) = run(&["--json", "gc", "--apply", "--grace", "0s"]);
    assert_eq!(code, Some(1));
    let document: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&document["files"], &document["unseen"]),
        (&1.into(), &1.into())
    );
    assert_eq!(document["found"].as_array().unwrap().len(), 2, "{out}");
    let err: Value = serde_json::from_str(&err).unwrap();
    assert_eq!(err["error"]["code"], "io");
    assert!(!left.exists());
}

#[test]
fn a_store_that_does_not_exist_is_not_made() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("nothing");
    let config = StoreConfig::from(FileStoreConfig::new(&root));
    for config in [config.clone(), config.scoped("a")] {
        let refused = verify(&config, true, &mut |_| ControlFlow::Continue(()));
        assert!(matches!(refused, Err(Error::Root { .. })), "{refused:?}");
        let options = GarbageOptions {
            apply: true,
            grace_seconds: 0,
        };
        let refused = collect_garbage(&config, options, &mut |_| ControlFlow::Continue(()));
        assert!(matches!(refused, Err(Error::Root { .. })), "{refused:?}");
    }
    assert!(!root.exists());
}

#[test]
fn processes_that_write_cause_no_false_alarm_and_lose_nothing_to_a_collection() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let config = StoreConfig::from(FileStoreConfig::new(&root)).scoped("exp:1");
    config.connect().unwrap().close().unwrap();
    let mut workers = vec![
        Worker::start("churn", &root, &["churn-x"]),
        Worker::start("script", &root, &["script-", "5"]),
    ];
    for worker in &mut workers {
        worker.line().unwrap();
    }
    for _ in 0..12 {
        let (findings, _) = run_verify(&config, false);
        let damage: Vec<&Finding> = findings
            .iter()
            .filter(|finding| finding.severity == Severity::Damage)
            .collect();
        assert!(damage.is_empty(), "{damage:#?}");
        run_gc(&config, true);
        // They go on meanwhile.
        for worker in &mut workers {
            worker.line().unwrap();
        }
    }
    // One is killed in the middle of its work, the other one ends.
    let killed = workers.remove(0);
    killed.kill();
    workers.remove(0).end();
    run_gc(&config, true);
    assert_eq!(leftovers(&root), Vec::<String>::new());
    let (findings, _) = run_verify(&config, false);
    let bad: Vec<&Finding> = findings
        .iter()
        .filter(|finding| finding.severity == Severity::Damage)
        .collect();
    assert!(bad.is_empty(), "{bad:#?}");
}

#[test]
fn a_database_that_says_something_else_than_the_files_is_found_and_put_right() {
    let schema = Schema::new();
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let config = StoreConfig::from(schema.config(root));
    fill(&config);
    for experiment in ["a:1", "b"] {
        let store = config.clone().scoped(experiment).connect().unwrap();
        store.list_run_records(None).unwrap();
        store.close().unwrap();
    }
    let scoped = config.clone().scoped("a:1");
    assert_eq!(run_verify(&scoped, false).0, []);
    assert_eq!(run_verify(&config, false).0, []);
    let changes: [(&str, &str); 4] = [
        (
            "DELETE FROM {metalab_store_runs} WHERE run_id = 'r1' AND experiment_id = 'a:1'",
            "does not know",
        ),
        (
            "UPDATE {metalab_store_runs} SET record = replace(record, 'success', 'failed') WHERE run_id = 'r1' AND experiment_id = 'a:1'",
            "another record",
        ),
        (
            "UPDATE {metalab_store_runs} SET derived = NULL WHERE run_id = 'r1' AND experiment_id = 'a:1'",
            "other derived",
        ),
        (
            "INSERT INTO {metalab_store_runs} SELECT scope, 'r0', revision, record, derived, stamp, experiment_id, status, age, \
             finished_at, tags, inexact, document FROM {metalab_store_runs} WHERE run_id = 'r1' AND experiment_id = 'a:1'",
            "not there",
        ),
    ];
    for (sql, reason) in changes {
        schema.run(sql);
        let (findings, report) = run_verify(&scoped, false);
        assert_eq!(findings.len(), 1, "{sql}: {findings:#?}");
        assert_eq!(findings[0].kind, FindingKind::Database);
        assert_eq!(findings[0].severity, Severity::Damage);
        assert!(findings[0].reason.contains(reason), "{findings:#?}");
        assert_eq!(report.damage, 1);
        let (findings, report) = run_verify(&scoped, true);
        assert_eq!((findings.len(), report.repaired, report.damage), (1, 1, 0));
        assert_eq!(run_verify(&scoped, false).0, [], "{sql}");
    }
}

#[test]
fn a_record_that_changed_on_the_disk_is_restored_from_the_database() {
    let schema = Schema::new();
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let config = StoreConfig::from(schema.config(root)).scoped("a:1");
    let store = config.connect().unwrap();
    put(&store, "r1");
    store.close().unwrap();
    age(root);
    // The database is compared with the files as they are now.
    let store = config.connect().unwrap();
    store.rebuild_index().unwrap().finish().unwrap();
    store.close().unwrap();
    assert_eq!(run_verify(&config, false).0, []);
    for file in ["runs/r1.json", "derived/r1.json"] {
        let path = root.join("a_1").join(file);
        let whole = fs::read(&path).unwrap();
        let at = whole.len() / 2;
        change_behind(&path, |content| content[at] ^= 0x20);
        let (findings, _) = run_verify(&config, false);
        assert!(
            kinds(&findings).contains(&(FindingKind::Altered, file)),
            "{findings:#?}"
        );
        let (findings, report) = run_verify(&config, true);
        assert_eq!(report.damage, 0, "{findings:#?}");
        assert_eq!(fs::read(&path).unwrap(), whole);
        assert_eq!(run_verify(&config, false).0, []);
    }
}

#[test]
fn the_commands_say_what_they_found_and_exit_so() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let config = StoreConfig::from(FileStoreConfig::new(root));
    fill(&config);
    let run = |arguments: &[&str]| run_command(root, arguments);
    let (code, out, err) = run(&["verify"]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert!(out.starts_with("4 runs, 16 files, "), "{out}");
    // Orphans and leftovers alone are no failure.
    fs::remove_file(root.join("b/runs/r2.json")).unwrap();
    fs::write(root.join("b/runs/x.tmp.0123abcd"), "{").unwrap();
    let (code, out, _) = run(&["verify"]);
    assert_eq!(code, Some(0));
    assert!(out.contains("orphan: b/"), "{out}");
    assert!(out.contains("leftover: b/runs/x.tmp.0123abcd"), "{out}");
    // Damage is.
    fs::write(root.join("a_1/runs/r1.json"), "{").unwrap();
    let (code, out, err) = run(&["verify"]);
    assert_eq!((code, err.as_str()), (Some(3), ""));
    assert!(out.starts_with("damage: a_1/runs/r1.json: "), "{out}");
    let (code, out, _) = run(&["--json", "verify", "--repair"]);
    assert_eq!(code, Some(3));
    let document: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(document["damage"], 1);
    let findings = document["findings"].as_array().unwrap();
    let damage: Vec<&Value> = findings
        .iter()
        .filter(|finding| finding["severity"] == "damage")
        .collect();
    assert_eq!(damage.len(), 1, "{out}");
    assert_eq!(damage[0]["kind"], "unreadable");
    assert_eq!(damage[0]["file"], "a_1/runs/r1.json");
    assert_eq!(damage[0]["run_id"], "r1");
    assert_eq!(damage[0]["repaired"], Value::Null);
    // Garbage is listed, then removed.
    let (code, out, _) = run(&["gc", "--grace", "0s"]);
    assert_eq!(code, Some(0));
    assert!(out.contains("would remove b/runs/x.tmp.0123abcd"), "{out}");
    assert!(root.join("b/runs/x.tmp.0123abcd").exists());
    let (code, out, _) = run(&["gc", "--apply"]);
    assert_eq!(code, Some(0));
    assert!(out.contains("keeps b/runs/x.tmp.0123abcd"), "{out}");
    let (code, out, _) = run(&["--json", "gc", "--apply", "--grace", "0s"]);
    assert_eq!(code, Some(0));
    let document: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(document["applied"], true);
    assert_eq!(document["files"], 1, "{out}");
    assert_eq!(document["found"][0]["kind"], "half-written");
    assert!(!root.join("b/runs/x.tmp.0123abcd").exists());
    let (code, _, err) = run(&["gc", "--grace", "1x"]);
    assert_eq!(code, Some(2), "{err}");
    let (code, _, err) = run(&["-e", "nobody", "verify"]);
    assert_eq!(code, Some(1), "{err}");
    assert!(!root.join("nobody").exists());
}
