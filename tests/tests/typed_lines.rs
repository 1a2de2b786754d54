//! Lists cross as lines of text: each record in them is the one that is handed out by itself.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use metalab_store::types::{Expectation, RunQuery, RunRecord, Status};
use metalab_store::{Error, FileStoreConfig};
use std::fs;

/// Records as this program, another one and nobody in particular writes them, without their run ids.
const RECORDS: [&str; 14] = [
    r#""status": "success""#,
    r#""status": "failed", "started_at": "2026-03-01T09:00:00Z", "finished_at": "", "duration_ms": -5"#,
    r#""status": "running", "notes": "a \"quoted\" \u00e4 \ud83d\ude00 text", "tags": ["\u0000", "", "ä"]"#,
    r#""metrics": {"a": 1, "b": -0.0, "c": NaN, "d": -Infinity, "e": 1e400, "f": true, "g": "t\n", "h": null}"#,
    r#""metrics": {"big": 123456789012345678901234567890, "list": [1, 2.50], "odd": "\ud800", "z": {"b": 1, "a": 2}}"#,
    r#""params_resolved": {"b": 1, "a": {"deep": [[], {}]}, "x": 0.30000000000000004, "e": 1E5}"#,
    r#""error": {"type": "E", "message": "m"}, "warnings": [{"message": "w"}, "plain", 1.50]"#,
    r#""error": "text", "warnings": [], "params_resolved": null, "metrics": null"#,
    r#""artifacts": [{}, {"name": "w", "size_bytes": 9223372036854775807, "content_hash": "3cfd", "new": [1]}]"#,
    r#""artifacts": [{"artifact_id": "i", "content_hash": null, "format": "npz", "kind": "k", "metadata": {"s": [2]}, "name": "n", "size_bytes": 0, "uri": "/x"}]"#,
    r#""provenance": {"host": "h", "extra": {"a": 1}, "later": null, "code_hash": null}, "zzz": 1, "aaa": {"b": 2}"#,
    r#""provenance": [1], "experiment_id": null, "duration_ms": null, "_schema_version": null"#,
    // None of these two is a record.
    r#""status": "unheard of""#,
    r#""tags": ["\ud800"]"#,
];

/// A record that is handed out as its file holds it, without its run id: it has all that the format knows.
const WHOLE: &str = r#""_schema_version": "0.1", "artifacts": [{"artifact_id": "i", "content_hash": null, "format": "npz", "kind": "numpy", "metadata": {"s": [2]}, "name": "w", "size_bytes": 71, "uri": "/x/w.npz"}], "context_fingerprint": "c", "duration_ms": 12, "error": null, "experiment_id": "exp:1", "finished_at": null, "metrics": {"a": 1.25, "b": [1], "big": 123456789012345678901, "t": "\u00e4"}, "notes": null, "params_fingerprint": "p", "params_resolved": {"lr": 0.1, "x": {"y": "z"}}, "provenance": {"code_hash": null, "executor_id": null, "extra": {"a": 1}, "host": "h", "metalab_version": null, "python_version": "3.12"}, "run_id": "RUN", "seed_fingerprint": "s", "started_at": "2026-03-01T09:00:00", "status": "failed", "tags": ["t"], "warnings": [{"message": "w"}]"#;

/// What may stand in it in place of what, so that it is handed out in another way, or may be.
const CHANGES: [(&str, &str); 26] = [
    (r#""lr": 0.1"#, r#""lr": 0.10"#),
    (r#""lr": 0.1"#, r#""lr": 0.30000000000000004"#),
    (r#""lr": 0.1"#, r#""lr": 0.30000000000000003"#),
    (r#""lr": 0.1"#, r#""lr": 1E-7"#),
    (r#""lr": 0.1"#, r#""lr": -0"#),
    (r#""lr": 0.1"#, r#""lr": NaN, "ls": -Infinity, "lt": 1e400"#),
    (r#""lr": 0.1"#, r#""ä": 0.1"#),
    (r#""lr": 0.1"#, r#""\u006cr": 0.1"#),
    (r#""y": "z""#, r#""y": "z", "w": 1"#),
    (r#""y": "z""#, r#""y": "z", "y": 1"#),
    (r#""y": "z""#, r#""y": "\u007a \/""#),
    (r#""y": "z""#, r#""y": "ä""#),
    (r#""y": "z""#, r#""y": "\u00e4\n""#),
    (r#""a": 1.25, "b": [1]"#, r#""b": [1.0], "a": 1.25"#),
    (r#""b": [1]"#, r#""b": [1.50]"#),
    (r#""b": [1]"#, r#""b": -0, "c": -0.0, "d": 1.50"#),
    (r#""b": [1]"#, r#""b": "\uD800""#),
    (r#""b": [1]"#, r#""b": "\ud800""#),
    (r#""error": null"#, r#""error": "a \/ b""#),
    (r#"{"message": "w"}"#, r#"1.50"#),
    (r#""extra": {"a": 1}"#, r#""extra": {"a": 1, "A": 2}"#),
    (r#""size_bytes": 71"#, r#""size_bytes": -0"#),
    (r#""duration_ms": 12"#, r#""duration_ms": -0"#),
    (r#""s": [2]"#, r#""s": [2.0, {"b": 1, "a": 2}]"#),
    (r#""finished_at": null"#, r#""finished_at": """#),
    (r#""notes": null"#, r#""notes": "\u0041 ä \ud83d\ude00""#),
];

#[test]
fn a_record_that_has_everything_is_the_one_that_is_handed_out_by_itself() {
    let directory = tempfile::tempdir().unwrap();
    let runs = directory.path().join("exp_1/runs");
    let config = FileStoreConfig::new(directory.path()).scoped("exp:1");
    config.connect().unwrap().close().unwrap();
    let mut texts = vec![WHOLE.to_owned()];
    for (from, to) in CHANGES {
        assert!(WHOLE.contains(from), "{from}");
        texts.push(WHOLE.replace(from, to));
    }
    // A float whose exponent is beyond what readers of floats look at.
    let long = format!("1{}.0e-700000", "0".repeat(700_000));
    texts.push(WHOLE.replace("1.25", &long));
    for (index, text) in texts.iter().enumerate() {
        let text = text.replace("RUN", &format!("r{index}"));
        fs::write(runs.join(format!("r{index}.json")), format!("{{{text}}}")).unwrap();
    }
    // The first answer may be made of the files, the second one is of the index, which the third one finds.
    for _ in 0..3 {
        let store = config.connect().unwrap();
        for _ in 0..2 {
            let listed = store.list_run_records(None).unwrap();
            assert_eq!(
                (listed.records.len(), listed.damaged.len()),
                (texts.len(), 0)
            );
            for record in &listed.records {
                let alone = store.get_run_record(&record.run_id).unwrap().unwrap();
                assert_eq!(format!("{record:?}"), format!("{alone:?}"));
            }
        }
        store.close().unwrap();
    }
}

#[test]
fn each_record_of_a_list_is_the_one_that_is_handed_out_by_itself() {
    let directory = tempfile::tempdir().unwrap();
    let runs = directory.path().join("exp_1/runs");
    let config = FileStoreConfig::new(directory.path()).scoped("exp:1");
    config.connect().unwrap().close().unwrap();
    for (index, record) in RECORDS.iter().enumerate() {
        // Its keys in order, so that it is of the usual form where it can be, and in another one.
        let first = format!("{{{record}, \"run_id\": \"r{index}\"}}");
        let last = format!("{{\"run_id\": \"s{index}\", {record}}}");
        fs::write(runs.join(format!("r{index}.json")), first).unwrap();
        fs::write(runs.join(format!("s{index}.json")), last).unwrap();
    }
    let store = config.connect().unwrap();
    for limit in [1, 3, 1024] {
        let mut list = store.list_runs(None).unwrap();
        let mut listed: Vec<RunRecord> = Vec::new();
        loop {
            let page = list.next(limit).unwrap();
            if page.is_empty() {
                break;
            }
            listed.extend(page);
        }
        assert_eq!(listed.len(), 2 * (RECORDS.len() - 2));
        for record in &listed {
            let alone = store.get_run_record(&record.run_id).unwrap().unwrap();
            // As text, for what is no number equals nothing.
            assert_eq!(format!("{record:?}"), format!("{alone:?}"));
        }
        let damaged = list.damaged().unwrap();
        let files: Vec<&str> = damaged.iter().map(|damage| damage.file.as_str()).collect();
        assert_eq!(
            files,
            [
                "runs/r12.json",
                "runs/r13.json",
                "runs/s12.json",
                "runs/s13.json"
            ]
        );
        // Typed lines hold and leave out the same.
        let mut lines = store.list_runs(None).unwrap();
        let mut ids = Vec::new();
        loop {
            let page = lines.next_typed_lines(limit, u32::MAX).unwrap();
            if page.is_empty() {
                break;
            }
            ids.extend(page.lines().map(|line| {
                let (_, id) = line.rsplit_once("\"run_id\":\"").unwrap();
                id.split('"').next().unwrap().to_owned()
            }));
        }
        let expected: Vec<&str> = listed.iter().map(|record| record.run_id.as_str()).collect();
        assert_eq!(ids, expected);
        assert_eq!(lines.damaged().unwrap(), damaged);
    }
}

#[test]
fn all_records_at_once_are_those_of_the_pages() {
    let directory = tempfile::tempdir().unwrap();
    let runs = directory.path().join("exp_1/runs");
    let config = FileStoreConfig::new(directory.path()).scoped("exp:1");
    config.connect().unwrap().close().unwrap();
    // Fewer than a page, one, some, and some and a part.
    let mut written = 0;
    for count in [0, 1, 256, 257, 2048, 2500] {
        for index in written..count {
            let text = format!(
                "{{\"run_id\": \"r{index}\", \"status\": \"success\", \"duration_ms\": {index}}}"
            );
            fs::write(runs.join(format!("r{index}.json")), text).unwrap();
        }
        written = count;
        fs::write(runs.join("damaged.json"), "{").unwrap();
        let store = config.connect().unwrap();
        let page = store.list_run_records(None).unwrap();
        let mut list = store.list_runs(None).unwrap();
        let mut listed: Vec<RunRecord> = Vec::new();
        while listed.len() < count {
            listed.extend(list.next(100).unwrap());
        }
        assert_eq!(page.records, listed);
        let damaged: Vec<&str> = page.damaged.iter().map(|one| one.file.as_str()).collect();
        assert_eq!(damaged, ["runs/damaged.json"]);
        store.close().unwrap();
    }
}

#[test]
fn rows_of_columns_are_no_records() {
    let directory = tempfile::tempdir().unwrap();
    let store = FileStoreConfig::new(directory.path())
        .scoped("exp:1")
        .connect()
        .unwrap();
    store
        .put_run_record(
            &RunRecord::new("r", Status::Success),
            &Expectation::Anything,
        )
        .unwrap();
    let query = RunQuery {
        columns: "run_id, metrics.loss".to_owned(),
        ..RunQuery::default()
    };
    let mut list = store.query_runs(&query).unwrap();
    for refused in [list.next(1).err(), list.next_typed_lines(1, 1).err()] {
        let Some(Error::InvalidArgument(message)) = refused else {
            panic!("{refused:?}");
        };
        assert!(message.contains("run_id, metrics.loss"), "{message}");
    }
    // It is as it was.
    assert_eq!(list.remaining().unwrap(), 1);
    assert_eq!(list.next_lines(1 << 20).unwrap(), "{\"run_id\": \"r\"}\n");
}
