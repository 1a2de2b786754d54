use crate::codec::LineForm;
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
        let piece = list.next_lines(LineForm::AsWritten, 1 << 20).unwrap();
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
