use crate::database::listing::RunListing;
use crate::model::{Access, Durability, Expectation, StoreOptions};
use crate::native;
use crate::query::QueryText;
use crate::store::Store;
use crate::testing::{self, Random};
use std::fs;
use std::path::Path;

mod damage;
mod differential;
mod foreign;
mod notes;
mod processes;

fn open_as(directory: &Path, experiment: Option<&str>, access: Access) -> Store {
    let options = StoreOptions {
        directory: directory.to_str().unwrap().to_owned(),
        experiment_id: experiment.map(str::to_owned),
        access,
        durability: Durability::Relaxed,
        lock_timeout_ms: 1000,
        index: None,
    };
    Store::open(native::ports(directory).unwrap(), options).unwrap()
}

fn open(directory: &Path) -> Store {
    open_as(directory, None, Access::ReadWrite)
}

/// All that a list says.
#[derive(Debug, PartialEq)]
struct Answer {
    lines: Vec<String>,
    total: u64,
    cursor: Option<String>,
    damaged: Vec<crate::model::Damage>,
}

fn answer(mut list: RunListing) -> Answer {
    let mut text = String::new();
    loop {
        let piece = list.next_lines(1 << 20).unwrap();
        if piece.is_empty() {
            break;
        }
        text.push_str(&piece);
    }
    Answer {
        lines: text.lines().map(str::to_owned).collect(),
        total: list.total(),
        cursor: list.cursor(),
        damaged: list.damaged(),
    }
}

/// Asks the index and the scan, and returns what both say.
fn ask(store: &Store, query: &QueryText<'_>) -> Answer {
    // The time of the query is part of a cursor.
    let indexed = answer(store.query_runs(query).unwrap());
    let scanned = answer(store.scan_runs(query).unwrap());
    let without_cursor = |answer: &Answer| {
        (
            answer.lines.clone(),
            answer.total,
            answer.cursor.is_some(),
            answer.damaged.clone(),
        )
    };
    assert_eq!(
        without_cursor(&indexed),
        without_cursor(&scanned),
        "{query:?}"
    );
    indexed
}

fn all(store: &Store) -> Answer {
    ask(store, &QueryText::default())
}

fn put(store: &Store, run: &str, loss: &str) {
    let record = format!(
        "{{\"run_id\": \"{run}\", \"experiment_id\": \"e\", \"status\": \"success\", \"metrics\": {{\"loss\": {loss}}}}}"
    );
    store.put_run_text(&record, &Expectation::Anything).unwrap();
}

/// Writes a record in place of another, as another program does.
fn write_foreign(directory: &Path, run: &str, loss: &str) {
    let record = format!(
        "{{\"run_id\": \"{run}\", \"experiment_id\": \"e\", \"status\": \"success\", \"metrics\": {{\"loss\": {loss}}}}}"
    );
    let runs = directory.join("runs");
    fs::create_dir_all(&runs).unwrap();
    let stage = runs.join(format!("{run}.part"));
    fs::write(&stage, record).unwrap();
    fs::rename(stage, runs.join(format!("{run}.json"))).unwrap();
}

#[test]
fn what_typed_records_cannot_hold_is_damaged_in_every_form_of_a_typed_list() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let runs = directory.path().join("runs");
    fs::create_dir_all(&runs).unwrap();
    fs::write(
        runs.join("a.json"),
        r#"{"run_id": "a", "status": "success"}"#,
    )
    .unwrap();
    fs::write(
        runs.join("b.json"),
        r#"{"run_id": "b", "tags": ["\ud800"]}"#,
    )
    .unwrap();
    // The first answer is made of the files, the second one of the index.
    for _ in 0..2 {
        let list = || store.list_run_records(None).unwrap();
        let whole = answer(list());
        assert_eq!((whole.lines.len(), whole.damaged.len()), (2, 0));
        let (mut typed, mut lines) = (list(), list());
        assert_eq!(typed.next(10).unwrap().len(), 1);
        let text = lines.next_typed_lines(10, 1 << 20).unwrap();
        assert_eq!(text.lines().count(), 1);
        assert_eq!(lines.files(), ["runs/a.json"]);
        assert_eq!(typed.next(10).unwrap().len(), 0);
        for list in [&typed, &lines] {
            let files: Vec<String> = list.damaged().into_iter().map(|it| it.file).collect();
            assert_eq!(files, ["runs/b.json"]);
        }
    }
}
