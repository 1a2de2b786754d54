//! Stores with PostgreSQL as query index, on a real server: the same answers as files in every state, complete for
//! every writer, and apart from each other.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use metalab_store::types::{
    Expectation, IndexStanding, Metric, MetricValue, RebuildReport, RunQuery, RunRecord, Status,
};
use metalab_store::{Error, FileStoreConfig, PostgresStoreConfig, Store, StoreConfig};
use metalab_store_guest::testing::{Touch, watched};
use metalab_store_postgres::{Isolation, Statement, Value};
use metalab_store_tests::database::{Schema, pool};
use metalab_store_tests::proxy::Proxy;
use metalab_store_tests::script::Numbers;
use metalab_store_tests::{Worker, reference_collection, tree};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, UNIX_EPOCH};
use tempfile::TempDir;

/// A run with some metrics.
fn run(id: &str, loss: f64) -> RunRecord {
    let mut record = RunRecord::new(id, Status::Success);
    record.started_at = Some(format!("2026-03-01T09:00:{:02.0}", loss.abs() % 60.0));
    record.metrics = vec![Metric {
        name: "loss".into(),
        value: MetricValue::Float(loss),
    }];
    record
}

/// A run with a metric that JSONB cannot hold.
fn odd_run(id: &str) -> RunRecord {
    let mut record = run(id, 1.0);
    record.metrics[0].value = MetricValue::Float(f64::NAN);
    record
}

fn put(store: &Store, record: &RunRecord) {
    store
        .put_run_record(record, &Expectation::Anything)
        .unwrap();
}

/// What a store answers to everything that a database could answer.
fn answers(store: &Store) -> Vec<String> {
    let mut found = Vec::new();
    let queries = [
        ("", "", ""),
        ("metrics.loss < 5", "metrics.loss desc", ""),
        ("status = \"success\"", "", "run_id, metrics, derived"),
        (
            "derived.best exists",
            "derived.best",
            "run_id, derived.best",
        ),
        (
            "tags contains \"a\" or metrics.loss = nan",
            "run_id",
            "run_id",
        ),
    ];
    for (filter, sort, columns) in queries {
        for limit in [None, Some(3)] {
            let query = RunQuery {
                filter: filter.into(),
                sort: sort.into(),
                columns: columns.into(),
                limit,
                cursor: None,
                check: false,
            };
            let mut list = store.query_runs(&query).unwrap();
            found.push(format!("{filter} {limit:?}: {}", list.total().unwrap()));
            if !columns.is_empty() {
                // Its rows are no records, wherever they come from.
                found.push(list.next(1).unwrap_err().to_string());
            }
            loop {
                let lines = list.next_lines(1 << 20).unwrap();
                if lines.is_empty() {
                    break;
                }
                found.push(lines);
            }
            found.push(format!(
                "{:?} {:?}",
                // It holds the time of its query, too.
                list.cursor().unwrap().is_some(),
                list.damaged().unwrap()
            ));
        }
    }
    found.push(format!("{:?}", store.list_run_records(None).unwrap()));
    found.push(format!("{:?}", store.list_fields("").unwrap()));
    found
}

/// Says how the index of a store is, as a store that only reads sees it.
fn standing(config: &PostgresStoreConfig) -> IndexStanding {
    let store = config.clone().read_only().connect().unwrap();
    let state = store.index_state().unwrap();
    state.standing
}

/// Asserts that the database answers, and that it says what the files say.
fn assert_current(config: &PostgresStoreConfig) {
    assert_eq!(standing(config), IndexStanding::Current);
    let indexed = config.clone().read_only().connect().unwrap();
    let files = config.to_filestore().read_only().connect().unwrap();
    assert_same(&answers(&indexed), &answers(&files));
}

/// Names the first answer that differs.
fn assert_same(found: &[String], expected: &[String]) {
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found, expected);
    }
    assert_eq!(found.len(), expected.len());
}

fn ids(store: &Store) -> Vec<String> {
    let list = store.list_run_records(None).unwrap();
    list.records
        .into_iter()
        .map(|record| record.run_id)
        .collect()
}

#[test]
fn a_store_with_an_index_answers_as_its_files_do() {
    let root = reference_collection();
    let root = root.path().join("experiments");
    let schema = Schema::new();
    let config = schema.config(&root);
    let before = tree(&root);
    // One that only reads changes nothing, and the files answer.
    assert_eq!(standing(&config), IndexStanding::Unreachable);
    assert_eq!(tree(&root), before);
    // One that may write compares at its first list.
    let store = config.connect().unwrap();
    assert_eq!(ids(&store).len(), 14);
    store.close().unwrap();
    assert_current(&config);
    for experiment in ["curve_fit:1.0", "special:2", "damaged:1", "plain"] {
        let scoped = config.clone().scoped(experiment);
        scoped.connect().unwrap().list_run_records(None).unwrap();
        assert_current(&scoped);
    }
    assert_current(&config);
}

#[test]
fn every_write_is_in_the_index_when_it_returns() {
    let root = tempfile::tempdir().unwrap();
    let schema = Schema::new();
    let config = schema.config(root.path()).scoped("a:1");
    let store = config.connect().unwrap();
    store.list_run_records(None).unwrap();
    let reader = config.clone().read_only().connect().unwrap();
    put(&store, &run("one", 1.0));
    assert_eq!(
        reader.index_state().unwrap().standing,
        IndexStanding::Current
    );
    assert_eq!(ids(&reader), ["one"]);
    let mut values = BTreeMap::new();
    for (name, value) in [("best", 0.5), ("worst", f64::NAN)] {
        values.insert(name, value);
    }
    let derived = values.into_iter().map(|(name, value)| Metric {
        name: name.into(),
        value: MetricValue::Float(value),
    });
    store
        .put_derived("one", &derived.collect::<Vec<_>>())
        .unwrap();
    let found = reader.query_runs(&RunQuery {
        filter: "derived.best = 0.5 and derived.worst = nan".into(),
        ..RunQuery::default()
    });
    assert_eq!(found.unwrap().remaining().unwrap(), 1);
    let batch: Vec<RunRecord> = (0..300)
        .map(|n| run(&format!("batch{n:03}"), f64::from(n)))
        .collect();
    assert!(
        store
            .put_run_records(&batch)
            .unwrap()
            .iter()
            .all(Result::is_ok)
    );
    assert_eq!(ids(&reader).len(), 301);
    assert!(store.delete_run("one").unwrap());
    assert!(store.delete_run("batch007").unwrap());
    assert_eq!(ids(&reader).len(), 299);
    assert_eq!(schema.count("runs"), 299);
    assert_eq!(schema.count("derived"), 0);
    assert_eq!(
        reader.index_state().unwrap().standing,
        IndexStanding::Current
    );
    drop(reader);
    store.close().unwrap();
    assert_current(&config);
}

#[test]
fn values_that_jsonb_cannot_hold_are_listed_found_and_exact() {
    let root = tempfile::tempdir().unwrap();
    let schema = Schema::new();
    let config = schema.config(root.path()).scoped("a:1");
    let store = config.connect().unwrap();
    let odd = [
        ("nan", r#"{"x": NaN, "y": Infinity, "z": -Infinity}"#),
        ("nul", r#"{"x": "a\u0000b", "\u0000": 1}"#),
        ("surrogate", r#"{"x": "\ud800"}"#),
        (
            "big",
            r#"{"x": 1180591620717411303425, "y": -0.0, "z": 1e22, "w": 1.7976931348623157e308}"#,
        ),
        ("tiny", r#"{"x": 5e-324}"#),
    ];
    for (id, metrics) in odd {
        let record = format!(
            r#"{{"run_id": "{id}", "experiment_id": "a:1", "status": "success", "duration_ms": 9007199254740993, "metrics": {metrics}}}"#
        );
        store.put_run_text(&record, &Expectation::Anything).unwrap();
    }
    store.close().unwrap();
    assert_eq!(schema.count("metalab_store_runs"), 5);
    assert_eq!(schema.count("runs"), 5);
    let store = config.connect().unwrap();
    for (filter, expected) in [
        ("metrics.x = nan", "nan"),
        ("metrics.y = inf", "nan"),
        ("metrics.x = 1180591620717411303425", "big"),
        ("metrics.x > 0 and metrics.x < 1e-300", "tiny"),
        ("metrics.x contains \"b\"", "nul"),
    ] {
        let mut found = store
            .query_runs(&RunQuery {
                filter: filter.into(),
                columns: "run_id".into(),
                limit: Some(10),
                ..RunQuery::default()
            })
            .unwrap();
        let rows = found.next_rows(10).unwrap();
        assert_eq!(rows, [[Some(format!("\"{expected}\""))]], "{filter}");
    }
    store.close().unwrap();
    assert_current(&config);
}

#[test]
fn sixteen_writers_with_the_same_metrics_in_any_order_lose_nothing_and_never_block_each_other() {
    let root = tempfile::tempdir().unwrap();
    let schema = Schema::new();
    let config = schema.config(root.path()).scoped("a:1");
    config.connect().unwrap().close().unwrap();
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    let before = schema.rows(deadlocks);
    thread::scope(|scope| {
        for writer in 0..16_u64 {
            let config = config.clone();
            scope.spawn(move || {
                let store = config.connect().unwrap();
                let mut numbers = Numbers::new(writer);
                for number in 0..125 {
                    let mut record = run(&format!("w{writer:02}n{number:03}"), 1.0);
                    let mut names: Vec<u64> = (0..10).collect();
                    names.sort_by_key(|_| numbers.draw());
                    record.metrics = names
                        .into_iter()
                        .map(|name| Metric {
                            name: format!("m{name}"),
                            value: MetricValue::Integer(i64::try_from(numbers.below(100)).unwrap()),
                        })
                        .collect();
                    put(&store, &record);
                    if number % 10 == 0 {
                        // All of them write one run, too.
                        put(&store, &run("shared", f64::from(number)));
                    }
                }
                assert_eq!(store.index_state().unwrap().pending, 0);
                store.close().unwrap();
            });
        }
    });
    assert_eq!(schema.count("metalab_store_runs"), 2001);
    assert_eq!(schema.count("runs"), 2001);
    assert_eq!(schema.rows(deadlocks), before);
    config.connect().unwrap().list_run_records(None).unwrap();
    assert_current(&config);
}

#[test]
fn what_writers_did_before_they_were_killed_is_in_the_index_at_the_next_contact() {
    let root = tempfile::tempdir().unwrap();
    let schema = Schema::new();
    let config = schema.config(root.path()).scoped("exp:1");
    let locator = schema.locator(root.path());
    let mut numbers = Numbers::new(metalab_store_tests::script::seed());
    config.connect().unwrap().close().unwrap();
    let churn = |prefix: &str| Worker::start_on(&locator, "churn", root.path(), &[prefix]);
    for round in 0..20 {
        let mut workers = [churn("a"), churn("b")];
        for worker in &mut workers {
            for _ in 0..=numbers.below(4) {
                assert!(worker.line().is_some());
            }
        }
        for worker in workers {
            worker.kill();
        }
        let store = config.connect().unwrap();
        store.list_run_records(None).unwrap();
        let state = store.index_state().unwrap();
        assert_eq!(
            state.standing,
            IndexStanding::Current,
            "round {round}: {state:?}"
        );
        store.close().unwrap();
        assert_current(&config);
    }
}

#[test]
fn two_experiments_and_two_collections_in_one_schema_never_touch_each_other() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let schema = Schema::new();
    let configs = [
        schema.config(here.path()).scoped("a:1"),
        schema.config(here.path()).scoped("b:1"),
        schema.config(there.path()).scoped("a:1"),
        schema.config(there.path()).scoped("b:1"),
    ];
    let stores: Vec<Store> = configs
        .iter()
        .map(|config| config.connect().unwrap())
        .collect();
    for (index, store) in stores.iter().enumerate() {
        for id in ["same", &format!("own{index}")] {
            put(store, &run(id, f64::from(u8::try_from(index).unwrap())));
        }
    }
    let loss = |store: &Store| {
        store
            .get_run_record("same")
            .unwrap()
            .map(|run| run.metrics[0].value.clone())
    };
    for (index, store) in stores.iter().enumerate() {
        assert_eq!(ids(store).len(), 2);
        let expected = MetricValue::Float(f64::from(u8::try_from(index).unwrap()));
        assert_eq!(loss(store), Some(expected));
    }
    // A delete takes its own alone.
    assert!(stores[0].delete_run("same").unwrap());
    assert_eq!(ids(&stores[0]), ["own0"]);
    for store in &stores[1..] {
        assert_eq!(ids(store).len(), 2);
    }
    // A rebuild of one changes nothing of the others, whatever it finds.
    fs::remove_file(here.path().join("a_1/runs/own0.json")).unwrap();
    let report = stores[0].rebuild_index().unwrap().finish().unwrap();
    assert_eq!((report.runs, report.removed), (0, 1));
    assert_eq!(ids(&stores[0]), [""; 0]);
    for store in &stores[1..] {
        assert_eq!(ids(store).len(), 2);
    }
    drop(stores);
    for config in &configs {
        assert_current(config);
    }
    // The whole collection is both of its experiments.
    for (root, expected) in [(&here, 2), (&there, 4)] {
        let config = schema.config(root.path());
        let store = config.connect().unwrap();
        assert_eq!(ids(&store).len(), expected);
        store.rebuild_index().unwrap().finish().unwrap();
        store.close().unwrap();
        assert_current(&config);
    }
    assert_eq!(schema.count("metalab_store_runs"), 6);
}

#[test]
fn what_other_programs_did_is_found_when_the_store_is_opened() {
    let root = tempfile::tempdir().unwrap();
    let schema = Schema::new();
    let config = schema.config(root.path()).scoped("a:1");
    let store = config.connect().unwrap();
    for number in 0..20 {
        put(&store, &run(&format!("run{number:02}"), f64::from(number)));
    }
    store.list_run_records(None).unwrap();
    store.close().unwrap();
    assert_current(&config);
    let runs = root.path().join("a_1/runs");
    let text = fs::read_to_string(runs.join("run05.json")).unwrap();
    fs::remove_file(runs.join("run00.json")).unwrap();
    fs::write(runs.join("new.json"), text.replace("run05", "new")).unwrap();
    // Replaced by rename, with the same size.
    fs::write(runs.join("x"), text.replace("5.0", "7.5")).unwrap();
    fs::rename(runs.join("x"), runs.join("run05.json")).unwrap();
    fs::create_dir_all(root.path().join("a_1/derived")).unwrap();
    fs::write(root.path().join("a_1/derived/run07.json"), "{\"best\": 1}").unwrap();
    fs::write(runs.join("broken.json"), "{").unwrap();
    assert_eq!(standing(&config), IndexStanding::Behind);
    let files = config.to_filestore().read_only().connect().unwrap();
    let reader = config.clone().read_only().connect().unwrap();
    assert_same(&answers(&reader), &answers(&files));
    // A store that may write brings it up to date by itself.
    let store = config.connect().unwrap();
    assert_same(&answers(&store), &answers(&files));
    assert_eq!(
        store.index_state().unwrap().standing,
        IndexStanding::Current
    );
    store.close().unwrap();
    assert_current(&config);
    // A store of files alone is another program to the database.
    let other = config.to_filestore().connect().unwrap();
    put(&other, &run("other", 3.0));
    other.close().unwrap();
    assert_ne!(standing(&config), IndexStanding::Current);
    config.connect().unwrap().list_run_records(None).unwrap();
    assert_current(&config);
}

/// A run whose record could not be read was put. Its row and the note that it could not be read were both there, and who opened
/// the store then took the row for one of a run that was gone: the run was in no answer any more. Now the note goes alone.
#[test]
fn a_run_that_could_not_be_read_and_was_put_since_stays_in_the_index() {
    let directory = TempDir::new().unwrap();
    let schema = Schema::new();
    let config = schema.config(directory.path()).scoped("exp:1");
    let store = config.connect().unwrap();
    let damaged = ["a", "m", "z"];
    put(&store, &run("k", 1.0));
    for id in damaged {
        fs::write(directory.path().join(format!("exp_1/runs/{id}.json")), "{").unwrap();
    }
    store.close().unwrap();
    let store = config.connect().unwrap();
    assert_eq!(ids(&store), ["k"]);
    for id in damaged {
        put(&store, &run(id, 2.0));
    }
    store.close().unwrap();
    for _ in 0..3 {
        // Something that another program does, so that the files are compared with the database.
        fs::write(directory.path().join("exp_1/runs/other.json"), "{").unwrap();
        fs::remove_file(directory.path().join("exp_1/runs/other.json")).unwrap();
        let store = config.connect().unwrap();
        let mut found = ids(&store);
        found.sort();
        assert_eq!(found, ["a", "k", "m", "z"]);
        store.close().unwrap();
    }
}

#[test]
fn a_run_that_was_told_while_its_files_were_written_is_compared_by_what_they_hold() {
    let root = tempfile::tempdir().unwrap();
    let schema = Schema::new();
    let config = schema.config(root.path()).scoped("a:1");
    let rows =
        || schema.rows("SELECT run_id, stamp, xmin::text FROM {metalab_store_runs} ORDER BY 1");
    let compare = || {
        // Without it nobody knows what the database was compared with.
        fs::remove_file(root.path().join("a_1/.index/database.json")).unwrap();
        let store = config.connect().unwrap();
        store.list_run_records(None).unwrap();
        store.close().unwrap();
        assert_current(&config);
    };
    let store = config.connect().unwrap();
    for (number, id) in (0..4).zip(["one", "two", "three", "four"]) {
        put(&store, &run(id, f64::from(number)));
    }
    let best = Metric {
        name: "best".into(),
        value: MetricValue::Float(0.5),
    };
    store
        .put_derived("two", std::slice::from_ref(&best))
        .unwrap();
    let told = rows();
    // Who puts the same again changes the row: nobody who compared it before may take it for unchanged.
    put(&store, &run("one", 0.0));
    store.put_derived("two", &[best]).unwrap();
    let again = rows();
    for (before, after) in told.iter().zip(&again) {
        let same = matches!(&before[0], Value::Text(id) if id == "three" || id == "four");
        assert_eq!(before == after, same, "{before:?} {after:?}");
        assert_eq!(before[1] == after[1], same, "{before:?} {after:?}");
    }
    store.close().unwrap();
    // A comparison, and one that reads every file, finds all as it is and leaves it alone.
    compare();
    let store = config.connect().unwrap();
    let report = store.rebuild_index().unwrap().finish().unwrap();
    assert_eq!((report.runs, report.added, report.changed), (4, 0, 0));
    store.close().unwrap();
    assert_eq!(rows(), again);

    // What another program changed in place, with the size that it had, is found by both.
    let place = root.path().join("a_1");
    let edit = |file: &str, from: &str, to: &str| {
        let text = fs::read_to_string(place.join(file)).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(place.join(file), text.replace(from, to)).unwrap();
    };
    edit("runs/three.json", "2.0", "2.5");
    edit("derived/two.json", "0.5", "0.7");
    compare();
    fs::remove_file(place.join("derived/two.json")).unwrap();
    edit("runs/four.json", "3.0", "3.5");
    let store = config.connect().unwrap();
    let report = store.rebuild_index().unwrap().finish().unwrap();
    assert_eq!((report.runs, report.added, report.changed), (4, 0, 2));
    store.close().unwrap();
    assert_current(&config);
}

#[test]
fn a_rebuild_finds_each_run_that_differs_in_anything_and_sends_no_other() {
    let root = tempfile::tempdir().unwrap();
    let schema = Schema::new();
    let config = schema.config(root.path()).scoped("a:1");
    let files = config.to_filestore().connect().unwrap();
    let records: Vec<RunRecord> = (0..40)
        .map(|n| run(&format!("run{n:02}"), f64::from(n)))
        .collect();
    files.put_run_records(&records).unwrap();
    files.put_derived("run09", &records[1].metrics).unwrap();
    files.close().unwrap();
    let rebuild = || {
        let store = config.connect().unwrap();
        let report = store.rebuild_index().unwrap().finish().unwrap();
        store.close().unwrap();
        (report.runs, report.added, report.changed, report.removed)
    };
    assert_eq!(rebuild(), (40, 40, 0, 0));
    let place = root.path().join("a_1");
    // The row says something else: its text, its derived metrics, what its files were like.
    schema.run(
        "UPDATE {metalab_store_runs} SET record = replace(record, '1.0', '1.5') WHERE run_id = 'run01';\n\
         UPDATE {metalab_store_runs} SET derived = '[]' WHERE run_id IN ('run02', 'run09');\n\
         UPDATE {metalab_store_runs} SET stamp = '1.2.3' WHERE run_id = 'run03'",
    );
    // The file does: with the size and the time that it had, or with others.
    let path = place.join("runs/run04.json");
    let time = fs::metadata(&path).unwrap().modified().unwrap();
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains("4.0"), "{text}");
    fs::write(&path, text.replace("4.0", "4.5")).unwrap();
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(time).unwrap();
    let text = fs::read_to_string(place.join("runs/run05.json")).unwrap();
    fs::write(place.join("runs/run05.json"), format!("{text} ")).unwrap();
    // Derived metrics came, a record came, and one went.
    fs::copy(
        place.join("derived/run09.json"),
        place.join("derived/run06.json"),
    )
    .unwrap();
    let text = fs::read_to_string(place.join("runs/run08.json")).unwrap();
    fs::write(place.join("runs/new.json"), text.replace("run08", "new")).unwrap();
    fs::remove_file(place.join("runs/run07.json")).unwrap();
    assert_eq!(rebuild(), (40, 1, 7, 1));
    assert_current(&config);
    assert_eq!(rebuild(), (40, 0, 0, 0));
}

/// Names an address where no server answers.
const NOBODY: &str = "postgresql://u@127.0.0.1:1/db?connect_timeout=1";

#[test]
fn a_run_that_the_database_was_not_told_of_during_a_comparison_is_in_the_next_list() {
    let directory = tempfile::tempdir().unwrap();
    let schema = Schema::new();
    let config = schema.config(directory.path()).scoped("e:1");
    let comparing = config.connect().unwrap();
    put(&comparing, &run("before", 1.0));
    let mut comparison = comparing.rebuild_index().unwrap();
    // The files are listed, and the database is not believed yet: it was never compared.
    let cut_off = PostgresStoreConfig::new(NOBODY, directory.path()).scoped("e:1");
    put(&cut_off.connect().unwrap(), &run("meanwhile", 2.0));
    while comparison.step().unwrap().is_some() {}
    let mut listed = ids(&comparing);
    listed.sort();
    assert_eq!(listed, ["before", "meanwhile"]);
    assert_current(&config);
}

/// Compares a directory with the database, without the component, while somebody else works at a moment, once.
fn compare_while(
    schema: &Schema,
    root: &Path,
    moment: (Touch, &'static str),
    work: impl Fn() + 'static,
) {
    use metalab_store_guest::{config, native, store};
    let config = config::from_locator(&schema.locator(root)).unwrap();
    let config = config::scoped(config, "e:1").unwrap();
    let resolution = config::resolve(&config, None).unwrap();
    let directory = root.join(resolution.subdirectory.unwrap());
    let mut ports = native::ports(&directory).unwrap();
    let index = resolution.options.index.as_ref().unwrap();
    let pool = native::pool(resolution.connection.unwrap()).unwrap();
    ports.databases = native::databases(&index.binding, pool);
    let worked = Rc::new(Cell::new(true));
    let done = Rc::clone(&worked);
    ports.directory = watched(ports.directory, move |touch, path| {
        if (touch, path) == moment && !done.replace(true) {
            work();
        }
    });
    let comparing = store::Store::open(ports, resolution.options).unwrap();
    worked.set(false);
    let mut comparison = comparing.rebuild_index(&[]).unwrap();
    while comparison.step().unwrap().is_some() {}
    assert!(worked.get(), "it was never {moment:?}");
    comparing.close().unwrap();
}

#[test]
fn a_run_that_is_put_between_two_looks_of_a_comparison_stays_in_the_index() {
    let directory = tempfile::tempdir().unwrap();
    let schema = Schema::new();
    let config = schema.config(directory.path()).scoped("e:1");
    let store = config.connect().unwrap();
    put(&store, &run("a", 1.0));
    put(&store, &run("m", 1.0));
    assert_eq!(ids(&store).len(), 2);
    let writer = store.clone();
    // The database knows both of these when it is asked, and the list of names has neither.
    compare_while(
        &schema,
        directory.path(),
        (Touch::Listed, "runs"),
        move || {
            put(&writer, &run("b", 2.0));
            put(&writer, &run("z", 2.0));
        },
    );
    assert_eq!(ids(&store).len(), 4);
    assert_current(&config);
}

#[test]
fn a_run_that_is_deleted_while_a_comparison_sends_it_is_not_in_the_index() {
    let directory = tempfile::tempdir().unwrap();
    let schema = Schema::new();
    let config = schema.config(directory.path()).scoped("e:1");
    let files = config.to_filestore().connect().unwrap();
    put(&files, &run("a", 1.0));
    put(&files, &run("b", 1.0));
    files.close().unwrap();
    let store = config.connect().unwrap();
    // It works, so that it is known to be there.
    put(&store, &run("c", 1.0));
    let writer = store.clone();
    // The first one was read already.
    compare_while(
        &schema,
        directory.path(),
        (Touch::Make, "runs/b.json"),
        move || {
            assert!(writer.delete_run("a").unwrap());
        },
    );
    assert_eq!(ids(&store).len(), 2);
    assert_current(&config);
}

/// Waits until connections of this name, as many as are named, wait for a lock of the server.
fn wait_for_waiting(schema: &Schema, name: &str) {
    let waiting = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = '{name}' AND wait_event_type = 'Lock'"
    );
    while schema.rows(&waiting) == [[Value::Integer(0)]] {
        thread::park_timeout(std::time::Duration::from_millis(2));
    }
}

/// A put locked the row of the reference's table first and then our own, a comparison the other way round: each waited for the
/// other, and one of them failed with "deadlock detected". Now a comparison waits for the puts that are under way before its
/// first change.
#[test]
fn a_comparison_and_a_batch_that_want_the_same_rows_wait_for_each_other_and_never_in_a_circle() {
    let root = tempfile::tempdir().unwrap();
    let schema = Schema::new();
    let of = |name: &str| {
        let uri = format!(
            "{}?application_name={name}{}",
            schema.uri,
            std::process::id()
        );
        PostgresStoreConfig::new(uri, root.path())
            .schema(schema.name.clone())
            .scoped("a:1")
    };
    let runs = [run("one", 1.0), run("two", 2.0)];
    let store = of("putting").connect().unwrap();
    assert!(
        store
            .put_run_records(&runs)
            .unwrap()
            .iter()
            .all(Result::is_ok)
    );
    assert_eq!(ids(&store).len(), 2);
    schema.run("UPDATE {metalab_store_runs} SET stamp = 'another'");
    let pool = pool(&schema.uri);
    let third = pool.begin(Isolation::ReadCommitted, false).unwrap();
    let held = Statement {
        sql: format!(
            "SELECT 1::bigint FROM {} WHERE run_id = 'two' FOR UPDATE",
            schema.table("runs")
        ),
        parameters: Vec::new(),
    };
    assert_eq!(third.query(&held, 1).unwrap().rows.len(), 1);
    let name = |of: &str| format!("{of}{}", std::process::id());
    thread::scope(|scope| {
        let putting = scope.spawn(|| store.put_run_records(&runs).unwrap());
        wait_for_waiting(&schema, &name("putting"));
        let comparing = scope.spawn(|| {
            let store = of("comparing").connect().unwrap();
            store.rebuild_index().unwrap().finish().map(drop)
        });
        wait_for_waiting(&schema, &name("comparing"));
        // Who only reads waits for neither.
        let reader = of("reading").read_only().connect().unwrap();
        assert_eq!(ids(&reader).len(), 2);
        drop(third);
        assert!(putting.join().unwrap().iter().all(Result::is_ok));
        comparing.join().unwrap().unwrap();
    });
    assert_eq!(store.index_state().unwrap().pending, 0);
    pool.close();
    store.close().unwrap();
    let store = of("reading").connect().unwrap();
    assert_eq!(ids(&store).len(), 2);
    store.close().unwrap();
    assert_current(&of("reading"));
}

/// The same store deleted a run that its own comparison had sent already: the run's row came back, and was listed without a file.
#[test]
fn a_run_that_a_store_deletes_during_its_own_comparison_is_not_in_the_index() {
    let root = tempfile::tempdir().unwrap();
    let schema = Schema::new();
    let config = schema.config(root.path()).scoped("a:1");
    let files = config.to_filestore().connect().unwrap();
    let records: Vec<RunRecord> = (0..1030).map(|n| run(&format!("run{n:04}"), 1.0)).collect();
    files.put_run_records(&records).unwrap();
    files.close().unwrap();
    let store = config.connect().unwrap();
    let mut rebuild = store.rebuild_index().unwrap();
    while let Some(progress) = rebuild.step().unwrap()
        && (progress.phase != "send" || progress.done == 0)
    {}
    assert!(store.delete_run("run0000").unwrap());
    while rebuild.step().unwrap().is_some() {}
    assert_eq!(ids(&store).len(), 1029);
    assert_current(&config);
    store.close().unwrap();
    assert_eq!(schema.count("metalab_store_runs"), 1029);
    assert_eq!(schema.count("runs"), 1029);
}

/// While a writer was open, everybody who opened the store believed the database, whatever other programs had done to the files.
#[test]
fn what_other_programs_did_is_found_when_a_store_is_opened_beside_a_living_writer() {
    let root = tempfile::tempdir().unwrap();
    let schema = Schema::new();
    let config = schema.config(root.path()).scoped("a:1");
    let writers = [config.connect().unwrap(), config.connect().unwrap()];
    put(&writers[0], &run("kept", 1.0));
    put(&writers[1], &run("lost", 2.0));
    for writer in &writers {
        assert_eq!(ids(writer).len(), 2);
    }
    let runs = root.path().join("a_1/runs");
    let text = fs::read_to_string(runs.join("kept.json")).unwrap();
    let foreign = |id: &str| {
        fs::write(runs.join(format!("{id}.json")), text.replace("kept", id)).unwrap();
    };
    let all = |store: &Store| {
        let mut found = ids(store);
        found.sort();
        found
    };
    foreign("added");
    let reader = config.clone().read_only().connect().unwrap();
    assert_eq!(all(&reader), ["added", "kept", "lost"]);
    assert_eq!(
        reader.index_state().unwrap().standing,
        IndexStanding::Behind
    );
    let opened = config.connect().unwrap();
    assert_eq!(all(&opened), ["added", "kept", "lost"]);
    // Now the database was compared, and answers.
    assert_eq!(all(&reader), ["added", "kept", "lost"]);
    assert_current(&config);
    fs::remove_file(runs.join("lost.json")).unwrap();
    fs::create_dir_all(root.path().join("a_1/derived")).unwrap();
    fs::write(root.path().join("a_1/derived/kept.json"), "{\"best\": 1}").unwrap();
    let fresh = config.clone().read_only().connect().unwrap();
    assert_eq!(all(&fresh), ["added", "kept"]);
    assert_eq!(standing(&config), IndexStanding::Behind);
    let opened = config.connect().unwrap();
    assert_eq!(all(&opened), ["added", "kept"]);
    assert_current(&config);
    // What the writers themselves do is no reason to compare anything.
    let marks = || schema.rows("SELECT mark FROM {metalab_store_directories}");
    let before = marks();
    for number in 0..20 {
        put(&writers[number % 2], &run(&format!("more{number:02}"), 1.0));
        writers[0]
            .put_derived("added", &run("", 1.0).metrics)
            .unwrap();
        let opened = config.connect().unwrap();
        assert_eq!(all(&opened).len(), 3 + number);
        assert_eq!(standing(&config), IndexStanding::Current);
    }
    assert_eq!(marks(), before);
    for writer in writers {
        writer.close().unwrap();
    }
}

/// One record that the server refused, for the length of a tag for instance, ended every comparison: the index was never
/// believed again, and `rebuild-index` failed.
#[test]
fn a_run_that_the_server_cannot_index_is_listed_found_and_reported_and_hides_no_other() {
    let root = tempfile::tempdir().unwrap();
    let schema = Schema::new();
    let config = schema.config(root.path()).scoped("a:1");
    let store = config.connect().unwrap();
    let mut numbers = Numbers::new(1);
    let mut noise = |length: usize| -> String {
        let letters: Vec<char> = ('a'..='z').chain('A'..='Z').chain('0'..='9').collect();
        (0..length)
            .map(|_| letters[usize::try_from(numbers.below(62)).unwrap()])
            .collect()
    };
    put(&store, &run("beside", 1.0));
    let tag = noise(8000);
    let mut tagged = run("tagged", 2.0);
    tagged.tags = vec![tag.clone()];
    put(&store, &tagged);
    assert_eq!(store.index_state().unwrap().pending, 0);
    let runs = root.path().join("a_1/runs");
    let foreign = [
        ("named", noise(4000), "1"),
        ("tiny", "a:1".to_owned(), "1e-99999"),
        (
            "long",
            "a:1".to_owned(),
            &format!("0.{}", "7".repeat(20_000)),
        ),
    ];
    for (id, experiment, metric) in &foreign {
        let text = format!(
            r#"{{"run_id": "{id}", "experiment_id": "{experiment}", "status": "success", "metrics": {{"x": {metric}}}}}"#
        );
        fs::write(runs.join(format!("{id}.json")), text).unwrap();
    }
    let mut found = ids(&store);
    found.sort();
    assert_eq!(found, ["beside", "long", "named", "tagged", "tiny"]);
    let state = store.index_state().unwrap();
    assert_eq!(state.standing, IndexStanding::Current, "{state:?}");
    for (filter, expected) in [
        (format!("tags contains \"{tag}\""), 1),
        (format!("experiment_id = \"{}\"", foreign[0].1), 1),
        ("metrics.loss > 0".to_owned(), 2),
        ("metrics.x = 1".to_owned(), 1),
        ("metrics.x < 1".to_owned(), 2),
    ] {
        let query = RunQuery {
            filter,
            ..RunQuery::default()
        };
        assert_eq!(store.query_runs(&query).unwrap().total().unwrap(), expected);
    }
    // Also where all of it is written anew, and where it is only read again.
    schema.run("DELETE FROM {metalab_store_runs} WHERE run_id <> 'beside'");
    for added in [4, 0] {
        let report = store.rebuild_index().unwrap().finish().unwrap();
        assert_eq!((report.runs, report.added), (5, added));
        let files: Vec<&str> = report.damaged.iter().map(|damage| &*damage.file).collect();
        assert_eq!(files, ["runs/named.json", "runs/tagged.json"]);
    }
    store.close().unwrap();
    assert_current(&config);
    assert_eq!(schema.count("runs"), 4);
}

/// The reference's tables were written run by run and never compared: what they lacked stayed away, and what they had too much stayed.
#[test]
fn a_rebuild_puts_the_tables_of_the_reference_right() {
    let root = tempfile::tempdir().unwrap();
    let schema = Schema::new();
    let config = schema.config(root.path()).scoped("a:1");
    let rebuild = |config: &PostgresStoreConfig| {
        let store = config.connect().unwrap();
        store.rebuild_index().unwrap().finish().unwrap();
        store.close().unwrap();
    };
    // Without these tables at first.
    let store = config.clone().projection(false).connect().unwrap();
    let records: Vec<RunRecord> = (0..300)
        .map(|n| run(&format!("run{n:03}"), f64::from(n)))
        .collect();
    store.put_run_records(&records).unwrap();
    for id in ["run007", "run008"] {
        store.put_derived(id, &records[1].metrics).unwrap();
    }
    assert_eq!(ids(&store).len(), 300);
    store.close().unwrap();
    rebuild(&config);
    assert_eq!((schema.count("runs"), schema.count("derived")), (300, 2));
    let right = projected(&schema);
    // Another collection has the same experiment in the same schema, and a program of the reference an experiment of its own.
    let elsewhere = tempfile::tempdir().unwrap();
    let other = schema
        .config(elsewhere.path())
        .scoped("a:1")
        .connect()
        .unwrap();
    put(&other, &run("elsewhere", 1.0));
    other.close().unwrap();
    let add = |id: &str, experiment: &str| {
        schema.run(&format!(
            "INSERT INTO {{runs}} SELECT '{id}', '{experiment}', status, context_fingerprint, params_fingerprint, seed_fingerprint, \
             started_at, finished_at, duration_ms, record_json FROM {{runs}} WHERE run_id = 'elsewhere';\n\
             INSERT INTO {{derived}} (run_id, derived_json) VALUES ('{id}', '{{{{}}}}')"
        ).replace("{{}}", "[]"));
    };
    add("ghost", "a:1");
    add("theirs", "b:1");
    schema.run(
        "DELETE FROM {runs} WHERE run_id IN ('run005', 'run007');\n\
         DELETE FROM {derived} WHERE run_id = 'run008';\n\
         INSERT INTO {derived} (run_id, derived_json) VALUES ('run009', '[]')",
    );
    rebuild(&config);
    assert_eq!((schema.count("runs"), schema.count("derived")), (302, 3));
    schema.run("DELETE FROM {runs} WHERE run_id IN ('elsewhere', 'theirs');\nDELETE FROM {derived} WHERE run_id = 'theirs'");
    assert_eq!(projected(&schema), right);
    // All of it, and the file of derived metrics that is gone.
    fs::remove_file(root.path().join("a_1/derived/run008.json")).unwrap();
    config.connect().unwrap().list_run_records(None).unwrap();
    assert_eq!(schema.count("derived"), 1);
    schema.run("TRUNCATE {runs}");
    schema.run("TRUNCATE {derived}");
    rebuild(&config);
    assert_eq!((schema.count("runs"), schema.count("derived")), (300, 1));
    // Seen from the collection.
    schema.run("TRUNCATE {runs}");
    rebuild(&schema.config(root.path()));
    assert_eq!((schema.count("runs"), schema.count("derived")), (300, 1));
    assert_current(&config);
}

#[test]
fn what_a_store_of_files_puts_shows_at_once_however_often_the_database_was_compared() {
    let directory = tempfile::tempdir().unwrap();
    let schema = Schema::new();
    let config = schema.config(directory.path()).scoped("e:1");
    let indexed = config.connect().unwrap();
    let files = config.to_filestore().connect().unwrap();
    let mut expected = Vec::new();
    for round in 0..4 {
        // A comparison settles what came before it, and not what comes while it is under way.
        let mut comparison = (round % 2 == 1).then(|| indexed.rebuild_index().unwrap());
        for writer in [&files, &indexed] {
            let id = format!("run{}", expected.len());
            put(writer, &run(&id, 1.0));
            expected.push(id);
        }
        while let Some(step) = &mut comparison
            && step.step().unwrap().is_some()
        {}
        drop(comparison);
        assert_eq!(ids(&indexed), expected, "round {round}");
    }
    files.close().unwrap();
    indexed.close().unwrap();
    assert_eq!(ids(&config.read_only().connect().unwrap()), expected);
}

#[test]
fn a_database_that_lost_rows_tables_or_its_mark_is_not_believed() {
    let root = tempfile::tempdir().unwrap();
    let schema = Schema::new();
    let config = schema.config(root.path()).scoped("a:1");
    let fill = || {
        let store = config.connect().unwrap();
        put(&store, &run("one", 1.0));
        put(&store, &run("two", 2.0));
        store.list_run_records(None).unwrap();
        store.close().unwrap();
        assert_current(&config);
    };
    fill();
    // As after a restore of an old backup: the mark is another one.
    schema.run(
        "UPDATE {metalab_store_directories} SET mark = 'old';\nDELETE FROM {metalab_store_runs}",
    );
    assert_eq!(standing(&config), IndexStanding::Behind);
    fill();
    schema.run("DELETE FROM {metalab_store_directories};\nDELETE FROM {metalab_store_runs}");
    assert_eq!(standing(&config), IndexStanding::Behind);
    fill();
    schema.run("DROP TABLE {metalab_store_runs};\nDROP TABLE {metalab_store_directories};\nDROP TABLE {metalab_store_unreadable};\nDROP TABLE {metalab_store_meta}");
    assert_eq!(standing(&config), IndexStanding::Unreachable);
    fill();
    // A store that is open meanwhile notices, too.
    let store = config.connect().unwrap();
    assert_eq!(ids(&store).len(), 2);
    schema.run(
        "UPDATE {metalab_store_directories} SET mark = 'old';\nDELETE FROM {metalab_store_runs}",
    );
    assert_eq!(ids(&store).len(), 2);
    store.close().unwrap();
    assert_current(&config);
    // Rows that somebody changed by hand are found by a rebuild.
    schema.run("UPDATE {metalab_store_runs} SET record = replace(record, '2.0', '3.0')");
    let store = config.connect().unwrap();
    let report = store.rebuild_index().unwrap().finish().unwrap();
    assert_eq!((report.runs, report.changed), (2, 1));
    store.close().unwrap();
    assert_current(&config);
}

#[test]
fn without_its_index_directory_a_store_finds_its_rows_again_and_a_copy_gets_rows_of_its_own() {
    let root = tempfile::tempdir().unwrap();
    let schema = Schema::new();
    let config = schema.config(root.path()).scoped("a:1");
    let store = config.connect().unwrap();
    put(&store, &run("one", 1.0));
    store.list_run_records(None).unwrap();
    store.close().unwrap();
    fs::remove_dir_all(root.path().join("a_1/.index")).unwrap();
    assert_eq!(standing(&config), IndexStanding::Behind);
    config.connect().unwrap().list_run_records(None).unwrap();
    assert_current(&config);
    assert_eq!(schema.count("metalab_store_directories"), 1);
    // Copied with its index, as a careless rsync does.
    let copy = tempfile::tempdir().unwrap();
    let status = std::process::Command::new("cp")
        .arg("-a")
        .arg(root.path().join("a_1"))
        .arg(copy.path())
        .status();
    assert!(status.unwrap().success());
    let copied = schema.config(copy.path()).scoped("a:1");
    assert_eq!(standing(&copied), IndexStanding::Behind);
    let store = copied.connect().unwrap();
    put(&store, &run("two", 2.0));
    assert_eq!(ids(&store).len(), 2);
    store.close().unwrap();
    assert_current(&copied);
    assert_current(&config);
    assert_eq!(schema.count("metalab_store_directories"), 2);
    assert_eq!(schema.count("metalab_store_runs"), 3);
}

#[test]
fn a_rebuild_of_one_directory_leaves_the_manifests_of_another_with_the_same_experiment() {
    let schema = Schema::new();
    let mut stores = Vec::new();
    for (stamp, id) in [("20260101_000000", "one"), ("20260202_000000", "two")] {
        let root = tempfile::tempdir().unwrap();
        let store = schema.config(root.path()).scoped("a:1").connect().unwrap();
        put(&store, &run(id, 1.0));
        store
            .put_experiment_manifest("a:1", "{\"name\": \"a\"}", Some(stamp))
            .unwrap();
        stores.push((root, store));
    }
    let changed = |store: &Store| {
        let report = store.rebuild_index().unwrap().finish().unwrap();
        report.manifests
    };
    let stamps = || -> Vec<Value> {
        let rows = schema.rows("SELECT timestamp FROM {experiment_manifests} ORDER BY timestamp");
        rows.into_iter().flatten().collect()
    };
    let text = |stamp: &str| Value::Text(stamp.to_owned());
    let [(first, one), (second, two)] = &stores[..] else {
        unreachable!()
    };
    assert_eq!((changed(one), changed(two)), (0, 0));
    // The other one has no run any more, and a manifest that is gone is removed all the same.
    two.delete_run("two").unwrap();
    fs::remove_file(
        first
            .path()
            .join("a_1/experiments/a_1_20260101_000000.json"),
    )
    .unwrap();
    assert_eq!(changed(one), 1);
    assert_eq!(stamps(), [text("20260202_000000")]);
    // One that both have goes with the last of them, and one that another program wrote stays.
    one.put_experiment_manifest("a:1", "{\"name\": \"a\"}", Some("20260202_000000"))
        .unwrap();
    schema.run(
        "INSERT INTO {experiment_manifests} (experiment_id, timestamp, manifest_json, submitted_at, created_at) \
         VALUES ('a:1', '20260303_000000', '[]', now(), '2026-01-01')",
    );
    for (root, store, expected) in [(second, two, 0), (first, one, 1)] {
        fs::remove_file(root.path().join("a_1/experiments/a_1_20260202_000000.json")).unwrap();
        assert_eq!(changed(store), expected);
    }
    assert_eq!(stamps(), [text("20260303_000000")]);
    // Tables that do not say yet whose the manifests are: then a rebuild of each directory says so.
    one.put_experiment_manifest("a:1", "{\"name\": \"a\"}", Some("20260101_000000"))
        .unwrap();
    let config = schema.config(first.path()).scoped("a:1");
    schema.run("DROP TABLE {metalab_store_manifests};\nUPDATE {metalab_store_meta} SET value = '2' WHERE key = 'version'");
    let reopened = config.connect().unwrap();
    assert_eq!(changed(&reopened), 0);
    fs::remove_file(
        first
            .path()
            .join("a_1/experiments/a_1_20260101_000000.json"),
    )
    .unwrap();
    assert_eq!(changed(&reopened), 1);
    assert_eq!(stamps(), [text("20260303_000000")]);
}

/// The keys of the reference's tables hold one run of an id: what becomes of one that two collections have.
#[test]
fn a_run_that_two_directories_have_is_in_the_tables_of_the_reference_as_it_was_written_last() {
    let schema = Schema::new();
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let [one, two] = [&here, &there].map(|root| {
        let store = schema.config(root.path()).scoped("a:1").connect().unwrap();
        assert_eq!(ids(&store), [""; 0]);
        store
    });
    let loss = || schema.rows("SELECT record_json -> 'metrics' ->> 'loss' FROM {runs}");
    for (number, store) in [&one, &two].into_iter().enumerate() {
        put(
            store,
            &run("same", f64::from(u8::try_from(number).unwrap()) + 0.5),
        );
    }
    assert_eq!(loss(), [[Value::Text("1.5".into())]]);
    assert!(two.delete_run("same").unwrap());
    assert_eq!((ids(&one), ids(&two)), (vec!["same".to_owned()], vec![]));
    assert_eq!(schema.count("runs"), 0);
    one.rebuild_index().unwrap().finish().unwrap();
    assert_eq!(loss(), [[Value::Text("0.5".into())]]);
    assert_eq!(schema.count("metalab_store_runs"), 1);
}

#[test]
fn an_index_is_made_of_files_that_are_there_and_left_again() {
    let collection = reference_collection();
    let root = collection.path().join("experiments");
    let schema = Schema::new();
    let files = FileStoreConfig::new(&root);
    let store = PostgresStoreConfig::from_filestore(schema.uri.clone(), &files, Some(&schema.name))
        .unwrap();
    store.close().unwrap();
    assert_eq!(schema.count("metalab_store_runs"), 14);
    schema.run("DELETE FROM {metalab_store_runs}");
    let config = schema.config(&root);
    let store = config.connect().unwrap();
    let report = store.rebuild_index().unwrap().finish().unwrap();
    assert_eq!((report.runs, report.added, report.manifests), (14, 14, 0));
    assert_eq!(report.damaged.len(), 8);
    let report = store.rebuild_index().unwrap().finish().unwrap();
    assert_eq!((report.runs, report.added, report.changed), (14, 0, 0));
    // Of the manifests, too, what differs is written.
    schema.run("UPDATE {experiment_manifests} SET manifest_json = '1' WHERE id = (SELECT min(id) FROM {experiment_manifests})");
    let report = store.rebuild_index().unwrap().finish().unwrap();
    assert_eq!((report.added, report.changed, report.manifests), (0, 0, 1));
    let wrong = schema.rows("SELECT 1 FROM {experiment_manifests} WHERE manifest_json = '1'");
    assert_eq!(wrong.len(), 0);
    store.close().unwrap();
    assert_current(&config);
    assert_eq!(schema.count("experiment_manifests"), 2);
    let plain = config.to_filestore().read_only().connect().unwrap();
    assert_eq!(ids(&plain).len(), 14);
    assert!(matches!(
        plain.rebuild_index(),
        Err(Error::InvalidArgument(_) | Error::ReadOnly(_))
    ));
    // Counted once a run, however often it was put.
    let scoped = config.clone().scoped("plain").connect().unwrap();
    for _ in 0..5 {
        put(&scoped, &run("run_1", 4.0));
    }
    scoped.rebuild_index().unwrap().finish().unwrap();
    let counted = schema.rows("SELECT count FROM {field_catalog} WHERE field_name = 'loss'");
    let with_loss =
        schema.rows("SELECT count(*)::integer FROM {runs} WHERE record_json -> 'metrics' ? 'loss'");
    assert_eq!(counted, with_loss);
}

/// Everything in the reference's tables that does not tell the time.
fn projected(schema: &Schema) -> Vec<Vec<Value>> {
    let mut rows = schema.rows(
        "SELECT run_id::text, experiment_id::text, status::text, started_at::text, finished_at::text, duration_ms::text, \
         record_json::text FROM {runs} ORDER BY run_id",
    );
    rows.extend(
        schema.rows("SELECT run_id::text, derived_json::text FROM {derived} ORDER BY run_id"),
    );
    rows
}

fn counted(schema: &Schema) -> Vec<Vec<Value>> {
    schema.rows(
        "SELECT namespace::text, field_name::text, field_type::text, count::text, values::text, min_value::text, \
         max_value::text FROM {field_catalog} ORDER BY namespace COLLATE \"C\", field_name COLLATE \"C\"",
    )
}

#[test]
fn empty_tables_are_filled_with_what_changing_them_run_by_run_gives() {
    const RUNS: u32 = 2_500;
    let root = tempfile::tempdir().unwrap();
    let files = FileStoreConfig::new(root.path()).scoped("a:1");
    let store = files.connect().unwrap();
    let mut lines = String::new();
    for index in 0..RUNS {
        let odd = match index % 7 {
            0 => r#""x": NaN, "name": "tab\t and \\ and \u0000""#,
            1 => r#""x": 1e400, "name": "é""#,
            2 => r#""x": 123456789012345678901234567890, "flag": true"#,
            3 => r#""x": "text", "flag": false"#,
            4 => r#""x": null, "list": [1, {"a": null}]"#,
            5 => r#""x": 0.1, "other": null"#,
            _ => r#""x": -7, "name": "line\nline""#,
        };
        lines.push_str(&format!(
            "{{\"run_id\": \"run {index}\", \"status\": \"success\", \"metrics\": {{\"loss\": {index}, {odd}}}, \
             \"params_resolved\": {{\"n\": \"{}\", {odd}}}}}\n",
            index % 300
        ));
    }
    for outcome in store.put_run_lines(&lines).unwrap() {
        outcome.unwrap();
    }
    for index in (0..RUNS).step_by(50) {
        let best = Metric {
            name: "best".into(),
            value: MetricValue::Float(if index % 100 == 0 { f64::NAN } else { 0.5 }),
        };
        store.put_derived(&format!("run {index}"), &[best]).unwrap();
    }
    store.close().unwrap();
    let place = root.path().join("a_1");
    fs::write(place.join("runs/damaged.json"), "{").unwrap();
    fs::write(place.join("derived/run 3.json"), "{").unwrap();

    let filled = Schema::new();
    let config = filled.config(root.path()).scoped("a:1");
    let store = config.connect().unwrap();
    let report = store.rebuild_index().unwrap().finish().unwrap();
    assert_eq!(
        (report.runs, report.added),
        (u64::from(RUNS), u64::from(RUNS))
    );
    assert_eq!(report.damaged.len(), 1);
    store.close().unwrap();
    assert_current(&config);
    let indexes = "SELECT indexname::text FROM pg_indexes WHERE schemaname = '{schema}' ORDER BY 1";
    let indexes = |schema: &Schema| schema.rows(&indexes.replace("{schema}", &schema.name));

    // The same with tables that hold a run of somebody else.
    let changed = Schema::new();
    let other = tempfile::tempdir().unwrap();
    let stranger = changed
        .config(other.path())
        .scoped("b:1")
        .connect()
        .unwrap();
    put(&stranger, &run("stranger", 1.0));
    stranger.close().unwrap();
    let config = changed.config(root.path()).scoped("a:1");
    let store = config.connect().unwrap();
    store.rebuild_index().unwrap().finish().unwrap();
    store.close().unwrap();
    assert_current(&config);
    changed.run("DELETE FROM {runs} WHERE run_id = 'stranger'");
    assert_eq!(projected(&filled), projected(&changed));
    assert_eq!(indexes(&filled), indexes(&changed));

    // What was counted while the table was filled is what the server counts.
    let catalogue = counted(&filled);
    assert!(catalogue.len() > 10, "{catalogue:?}");
    filled.run(
        "DELETE FROM {field_catalog};\nUPDATE {runs} SET updated_at = now() WHERE run_id = 'run 1'",
    );
    let config = filled.config(root.path()).scoped("a:1");
    let store = config.connect().unwrap();
    store.rebuild_index().unwrap().finish().unwrap();
    assert_eq!(counted(&filled), catalogue);
    // And it is not counted again where nothing changed.
    filled.run("UPDATE {field_catalog} SET count = 0");
    store.rebuild_index().unwrap().finish().unwrap();
    let zero = filled.rows("SELECT sum(count)::text FROM {field_catalog}");
    assert_eq!(zero, [[Value::Text("0".into())]]);
    store.close().unwrap();
}

#[test]
fn the_last_writer_of_a_small_store_counts_the_fields_when_it_closes() {
    let root = tempfile::tempdir().unwrap();
    let schema = Schema::new();
    let config = schema.config(root.path()).scoped("a:1");
    let store = config.connect().unwrap();
    // An empty directory is compared first.
    assert!(ids(&store).is_empty());
    put(&store, &run("one", 1.0));
    put(&store, &run("two", 2.0));
    assert_eq!(schema.count("field_catalog"), 0);
    store.close().unwrap();
    let rows = schema.rows("SELECT field_name::text, count::text FROM {field_catalog}");
    assert_eq!(
        rows,
        [[Value::Text("loss".into()), Value::Text("2".into())]]
    );
}

#[test]
fn tables_of_a_newer_version_are_refused_and_older_ones_brought_up_to_date() {
    let root = tempfile::tempdir().unwrap();
    let schema = Schema::new();
    let config = schema.config(root.path()).scoped("a:1");
    let create = format!("CREATE SCHEMA {}", schema.table("").trim_end_matches('.'));
    schema.run(&create);
    schema.run(
        "CREATE TABLE {meta} (key TEXT PRIMARY KEY, value JSONB NOT NULL);\n\
         INSERT INTO {meta} VALUES ('schema_version', '9')",
    );
    let store = config.connect().unwrap();
    put(&store, &run("one", 1.0));
    let state = store.index_state().unwrap();
    assert_eq!(state.standing, IndexStanding::Unreachable);
    let refused = store.rebuild_index().err().unwrap();
    assert!(refused.to_string().contains("version \"9\""), "{refused}");
    assert_eq!(ids(&store), ["one"]);
    store.close().unwrap();
    // Without the reference's tables nothing is in the way.
    let plain = config.clone().projection(false);
    plain.connect().unwrap().list_run_records(None).unwrap();
    assert_current(&plain);
    // Version 1: derived metrics refer to runs.
    schema.run(
        "DROP TABLE {meta};\n\
         CREATE TABLE {runs} (run_id TEXT PRIMARY KEY, experiment_id TEXT NOT NULL, status TEXT NOT NULL, \
         context_fingerprint TEXT NOT NULL, params_fingerprint TEXT NOT NULL, seed_fingerprint TEXT NOT NULL, \
         started_at TIMESTAMPTZ NOT NULL, finished_at TIMESTAMPTZ, duration_ms INTEGER, record_json JSONB NOT NULL);\n\
         CREATE TABLE {derived} (run_id TEXT PRIMARY KEY REFERENCES {runs} (run_id), derived_json JSONB NOT NULL);\n\
         CREATE TABLE {logs} (run_id TEXT NOT NULL REFERENCES {runs} (run_id), name TEXT NOT NULL);\n\
         CREATE TABLE {artifacts} (run_id TEXT NOT NULL REFERENCES {runs} (run_id), name TEXT NOT NULL);\n\
         INSERT INTO {runs} VALUES ('logged', 'a:1', 'success', '', '', '', now(), NULL, 0, '{{}}');\n\
         INSERT INTO {logs} VALUES ('logged', 'run');\n\
         INSERT INTO {artifacts} VALUES ('logged', 'model')".replace("{{}}", "[]").as_str(),
    );
    let store = config.connect().unwrap();
    store.put_derived_text("orphan", "{\"best\": 1}").unwrap();
    store.put_derived_text("one", "{\"best\": 1}").unwrap();
    put(&store, &run("logged", 1.0));
    assert!(store.delete_run("logged").unwrap());
    assert_eq!(store.index_state().unwrap().pending, 0);
    store.rebuild_index().unwrap().finish().unwrap();
    assert_eq!(schema.count("runs"), 1);
    assert_eq!(schema.count("derived"), 1);
    assert_eq!(
        schema.rows("SELECT value::text FROM {meta} WHERE key = 'schema_version'"),
        [[Value::Text("3".into())]]
    );
    store.close().unwrap();
    assert_current(&config);
    // Our own tables, too.
    schema.run(
        "DROP TABLE {metalab_store_steady};\nUPDATE {metalab_store_meta} SET value = '1' WHERE key = 'version'",
    );
    assert_eq!(standing(&config), IndexStanding::Unreachable);
    let store = config.connect().unwrap();
    assert_eq!(ids(&store), ["one"]);
    store.close().unwrap();
    assert_current(&config);
    schema.run("UPDATE {metalab_store_meta} SET value = '4' WHERE key = 'version'");
    let store = config.connect().unwrap();
    let refused = store.rebuild_index().err().unwrap();
    assert!(refused.to_string().contains("version \"4\""), "{refused}");
    assert_eq!(ids(&store), ["one"]);
}

#[test]
fn names_and_values_that_look_like_sql_are_only_names_and_values() {
    let root = tempfile::tempdir().unwrap();
    let keep = Schema::new();
    for name in [
        "public; CREATE TABLE public.pwned(a int); COMMIT; --",
        "My-Schema",
        "a\"b",
        "select",
        "$1",
        "é\u{1F600}",
    ] {
        let name = format!("{name}{}", std::process::id());
        let schema = Schema::on(&keep.uri, &name);
        let config = schema.config(root.path()).scoped("a:1");
        let store = config.connect().unwrap();
        for id in [
            "'; DROP TABLE runs; --",
            "\"",
            "$1",
            "a\\'b".replace('\\', "%").as_str(),
            "é",
        ] {
            let mut record = run(id, 1.0);
            record.notes = Some("'); DELETE FROM metalab_store_runs; --\t\n\\N\\.".into());
            record.tags = vec![
                "{a,b}".into(),
                "\"".into(),
                "\\".into(),
                "NULL".into(),
                String::new(),
            ];
            put(&store, &record);
        }
        store.list_run_records(None).unwrap();
        store.rebuild_index().unwrap().finish().unwrap();
        store.close().unwrap();
        assert_current(&config);
        assert_eq!(schema.count("metalab_store_runs"), 5, "{name}");
    }
    for name in ["", "a\0b", &"x".repeat(64)] {
        let refused = keep
            .config(root.path())
            .schema(name)
            .scoped("a:1")
            .connect();
        assert!(
            matches!(refused, Err(Error::InvalidArgument(_))),
            "{name:?}"
        );
    }
    assert_eq!(
        keep.rows("SELECT to_regclass('public.pwned') IS NULL"),
        [[Value::Boolean(true)]]
    );
}

#[test]
fn a_role_with_rights_on_its_schema_alone_is_enough() {
    let root = tempfile::tempdir().unwrap();
    let admin = Schema::new();
    let role = format!("lab{}", std::process::id());
    let name = format!("lab{}", std::process::id());
    admin.run(&format!(
        "CREATE ROLE {role} LOGIN PASSWORD 'pw';\nCREATE SCHEMA {name} AUTHORIZATION {role}"
    ));
    let uri = admin.uri.replace("//metalab@", &format!("//{role}:pw@"));
    let schema = Schema::on(&uri, &name);
    let config = schema.config(root.path()).scoped("a:1");
    let store = config.connect().unwrap();
    put(&store, &run("one", 1.0));
    store.list_run_records(None).unwrap();
    store.rebuild_index().unwrap().finish().unwrap();
    store.close().unwrap();
    assert_current(&config);
    drop(schema);
    admin.run(&format!(
        "DROP SCHEMA IF EXISTS {name} CASCADE;\nDROP ROLE {role}"
    ));
}

/// The extension lay in a schema that the role may not use: then its tables could not be created.
#[test]
fn an_extension_that_a_role_may_not_use_is_left_out() {
    let root = tempfile::tempdir().unwrap();
    let admin = Schema::new();
    let name = format!("hidden{}", std::process::id());
    admin.run(&format!("CREATE DATABASE {name}"));
    let (server, _) = admin.uri.rsplit_once('/').unwrap();
    let database = format!("{server}/{name}");
    let inside = Schema::on(&database, "hidden");
    inside.run(&format!(
        "CREATE SCHEMA hidden;\nCREATE EXTENSION pg_trgm SCHEMA hidden;\n\
         CREATE ROLE {name} LOGIN PASSWORD 'pw';\nCREATE SCHEMA lab AUTHORIZATION {name}"
    ));
    let uri = database.replace("//metalab@", &format!("//{name}:pw@"));
    let schema = Schema::on(&uri, "lab");
    let config = schema.config(root.path()).scoped("a:1");
    let store = config.connect().unwrap();
    put(&store, &run("one", 1.0));
    store.rebuild_index().unwrap().finish().unwrap();
    store.close().unwrap();
    assert_current(&config);
    drop(schema);
    drop(inside);
    admin.run(&format!(
        "DROP DATABASE {name} WITH (FORCE);\nDROP ROLE {name}"
    ));
}

#[test]
fn a_pool_never_has_more_connections_than_it_may_and_leaves_none_behind() {
    let root = tempfile::tempdir().unwrap();
    let schema = Schema::new();
    let name = format!("leak{}", std::process::id());
    let uri = format!("{}?application_name={name}", schema.uri);
    let config = PostgresStoreConfig::new(uri, root.path())
        .schema(schema.name.clone())
        .pool_size(1, 3)
        .scoped("a:1");
    let open = format!("SELECT count(*) FROM pg_stat_activity WHERE application_name = '{name}'");
    let count = || match schema.rows(&open)[0][0] {
        Value::Integer(count) => count,
        ref other => panic!("{other:?}"),
    };
    let store = config.connect().unwrap();
    let most = thread::scope(|scope| {
        let threads: Vec<_> = (0..64)
            .map(|number| {
                let (store, count) = (store.clone(), &count);
                scope.spawn(move || {
                    put(&store, &run(&format!("run{number}"), 1.0));
                    let seen = count();
                    store.list_run_records(None).unwrap();
                    seen.max(count())
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .max()
    });
    assert!(most.unwrap() <= 3, "{most:?}");
    store.close().unwrap();
    for _ in 0..500 {
        let store = config.connect().unwrap();
        store.index_state().unwrap();
        store.close().unwrap();
    }
    // The server takes a moment to notice that a client is gone.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while count() > 0 {
        assert!(
            std::time::Instant::now() < deadline,
            "{} connections are left",
            count()
        );
        thread::yield_now();
    }
    config.connect().unwrap().list_run_records(None).unwrap();
    assert_current(&config);
}

/// Returns the experiments that a report names, with their runs.
fn orphans(report: &RebuildReport) -> Vec<(&str, u64)> {
    let orphans = report.orphans.iter();
    orphans
        .map(|orphan| (orphan.experiment.as_str(), orphan.runs))
        .collect()
}

fn rebuild(config: &PostgresStoreConfig, prune: &[&str]) -> metalab_store::Result<RebuildReport> {
    let store = config.connect()?;
    let report = store.rebuild_index_and_prune(prune)?.finish()?;
    store.close()?;
    Ok(report)
}

/// Takes the directory of `a:1` away, prunes its one run, and brings it back with all that it believes of itself.
fn prune_while_away(config: &PostgresStoreConfig, schema: &Schema, directory: &Path) {
    let elsewhere = tempfile::tempdir().unwrap();
    let away = elsewhere.path().join("a_1");
    fs::rename(directory, &away).unwrap();
    assert_eq!(rebuild(config, &["a:1"]).unwrap().pruned, 1);
    assert_eq!(schema.count("metalab_store_runs"), 0);
    fs::rename(&away, directory).unwrap();
}

/// All tables but the catalogue of fields and the times of writing: a row as text, by table.
fn tables(schema: &Schema) -> BTreeMap<&'static str, Vec<String>> {
    let tables = [
        ("metalab_store_runs", "scope, run_id, record, derived"),
        ("metalab_store_unreadable", "scope, run_id"),
        ("metalab_store_manifests", "scope, experiment_id, timestamp"),
        ("metalab_store_directories", "scope, directory"),
        ("runs", "run_id, experiment_id"),
        ("derived", "run_id, derived_json"),
        ("experiment_manifests", "experiment_id, timestamp"),
    ];
    let rows = |(table, columns)| {
        let sql = format!("SELECT ROW({columns})::text FROM {{{table}}} ORDER BY 1");
        let rows = schema.rows(&sql).into_iter().flatten();
        (table, rows.map(|row| format!("{row:?}")).collect())
    };
    tables.into_iter().map(rows).collect()
}

#[test]
fn rows_of_a_directory_that_is_gone_are_reported_and_stay_until_they_are_pruned() {
    let root = tempfile::tempdir().unwrap();
    let schema = Schema::new();
    for experiment in ["a:1", "b:1"] {
        let store = schema.config(root.path()).scoped(experiment);
        let store = store.connect().unwrap();
        put(&store, &run(&experiment[..1], 1.0));
        store.close().unwrap();
    }
    // A program of the reference wrote of it, and of an experiment of its own.
    for (id, experiment) in [("stray", "a:1"), ("apart", "d:1")] {
        schema.run(&format!(
            "INSERT INTO {{runs}} SELECT '{id}', '{experiment}', status, context_fingerprint, params_fingerprint, seed_fingerprint, \
             started_at, finished_at, duration_ms, record_json FROM {{runs}} WHERE run_id = 'a';\n\
             INSERT INTO {{derived}} (run_id, derived_json) VALUES ('{id}', '[]')"
        ));
    }
    fs::remove_dir_all(root.path().join("a_1")).unwrap();
    let config = schema.config(root.path());
    let store = config.connect().unwrap();
    let report = store.rebuild_index().unwrap().finish().unwrap();
    assert_eq!((report.runs, report.removed, report.pruned), (1, 0, 0));
    assert_eq!(
        (orphans(&report), report.orphan_count),
        (vec![("a:1", 1)], 1)
    );
    assert_eq!(ids(&store), ["b"]);
    store.close().unwrap();
    assert_current(&config);
    assert_eq!(schema.count("metalab_store_runs"), 2);
    assert_eq!((schema.count("runs"), schema.count("derived")), (4, 2));
    // The store of another experiment says nothing of it.
    let report = rebuild(&config.clone().scoped("b:1"), &[]).unwrap();
    assert_eq!(report.orphan_count, 0);
    let report = rebuild(&config, &["a:1"]).unwrap();
    assert_eq!((report.runs, report.removed, report.pruned), (1, 0, 1));
    assert_eq!((orphans(&report), report.orphan_count), (vec![], 0));
    assert_eq!(schema.count("metalab_store_runs"), 1);
    let text = |text: &str| Value::Text(text.into());
    let left = schema.rows("SELECT run_id FROM {runs} ORDER BY 1");
    assert_eq!(left, [[text("apart")], [text("b")]]);
    let left = schema.rows("SELECT run_id FROM {derived}");
    assert_eq!(left, [[text("apart")]]);
    assert_current(&config);
    // Neither what is gone nor what never was is an error.
    let report = rebuild(&config, &["a:1", "nobody", "a:1"]).unwrap();
    assert_eq!((report.runs, report.pruned), (1, 0));
}

#[test]
fn what_is_pruned_is_gone_in_all_tables_and_what_another_collection_has_of_it_stays() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let schema = Schema::new();
    let stamp = |day: u8| format!("202601{day:02}_000000");
    let fill = |root: &Path, experiment: &str, runs: &[&str], manifests: &[u8]| {
        let store = schema.config(root).scoped(experiment).connect().unwrap();
        for id in runs {
            put(&store, &run(id, 1.0));
        }
        for day in manifests {
            store
                .put_experiment_manifest(experiment, "{}", Some(&stamp(*day)))
                .unwrap();
        }
        store.close().unwrap();
    };
    fill(there.path(), "a:1", &["shared", "theirs"], &[1, 2]);
    fill(there.path(), "c:1", &["same"], &[]);
    fill(here.path(), "b:1", &["b"], &[4]);
    // The root has a run of the experiment, too.
    let collection = schema.config(here.path()).connect().unwrap();
    let mut of_root = run("root", 1.0);
    of_root.experiment_id = "a:1".into();
    put(&collection, &of_root);
    collection.close().unwrap();
    for root in [&here, &there] {
        rebuild(&schema.config(root.path()), &[]).unwrap();
    }
    let before = tables(&schema);
    fill(here.path(), "a:1", &["shared", "own"], &[2, 3]);
    fs::write(here.path().join("a_1/runs/broken.json"), "no record").unwrap();
    let store = schema.config(here.path()).scoped("a:1").connect().unwrap();
    for id in ["shared", "own"] {
        store.put_derived(id, &run("", 2.0).metrics).unwrap();
    }
    store.rebuild_index().unwrap().finish().unwrap();
    store.close().unwrap();
    let filled = tables(&schema);
    fs::remove_dir_all(here.path().join("a_1")).unwrap();
    let config = schema.config(here.path());
    let report = rebuild(&config, &[]).unwrap();
    assert_eq!(
        (orphans(&report), report.orphan_count),
        (vec![("a:1", 3)], 1)
    );
    assert_eq!(tables(&schema), filled, "what is only reported stays");
    // Another collection does not see it, and prunes nothing of it.
    fs::remove_dir_all(there.path().join("c_1")).unwrap();
    let report = rebuild(&schema.config(there.path()), &[]).unwrap();
    assert_eq!(orphans(&report), [("c:1", 1)]);
    let report = rebuild(&config, &["c:1"]).unwrap();
    assert_eq!((report.pruned, orphans(&report)), (0, vec![("a:1", 3)]));
    assert_eq!(tables(&schema), filled);

    // A program of the reference wrote of it, and of an experiment of its own.
    for experiment in ["a:1", "d:1"] {
        schema.run(&format!(
            "INSERT INTO {{experiment_manifests}} (experiment_id, timestamp, manifest_json, submitted_at) \
             VALUES ('{experiment}', '20260909_000000', '[]', now())"
        ));
    }
    let report = rebuild(&config, &["a:1"]).unwrap();
    assert_eq!((report.runs, report.pruned, report.orphan_count), (2, 3, 0));
    let mut after = tables(&schema);
    let manifests = after.get_mut("experiment_manifests").unwrap();
    let all = manifests.len();
    manifests.retain(|kept| !kept.contains("d:1"));
    assert_eq!(manifests.len() + 1, all, "of the program of the reference");
    assert_eq!(after, before);
    assert_eq!(schema.count("metalab_store_unreadable"), 0);
    let steady = schema.rows(
        "SELECT 1 FROM {metalab_store_steady} WHERE scope NOT IN (SELECT scope FROM {metalab_store_directories})",
    );
    assert_eq!(steady.len(), 0);
    assert_current(&config);
    assert_current(&schema.config(there.path()).scoped("a:1"));
    // The catalogue of fields is counted anew.
    let counted =
        schema.rows("SELECT count::bigint FROM {field_catalog} WHERE field_name = 'loss'");
    assert_eq!(counted, [[Value::Integer(schema.count("runs"))]]);
}

/// In the reference's tables a run id has one row: of two experiments with a run of the same id, the first one's.
#[test]
fn a_run_that_had_no_place_beside_one_that_is_pruned_gets_it() {
    let root = tempfile::tempdir().unwrap();
    let schema = Schema::new();
    for experiment in ["a:1", "b:1"] {
        let store = schema.config(root.path()).scoped(experiment);
        let store = store.connect().unwrap();
        put(&store, &run("same", 1.0));
        store.close().unwrap();
    }
    let of = || schema.rows("SELECT experiment_id FROM {runs}");
    assert_eq!(of(), [[Value::Text("a:1".into())]]);
    fs::remove_dir_all(root.path().join("a_1")).unwrap();
    let config = schema.config(root.path());
    assert_eq!(rebuild(&config, &["a:1"]).unwrap().pruned, 1);
    assert_eq!(of(), [[Value::Text("b:1".into())]]);
    assert_current(&config);
}

#[test]
fn what_has_a_directory_or_is_not_the_store_s_is_not_pruned_and_the_error_says_what_to_do() {
    let root = tempfile::tempdir().unwrap();
    let schema = Schema::new();
    let config = schema.config(root.path());
    for experiment in ["a:1", "b:1"] {
        let store = config.clone().scoped(experiment).connect().unwrap();
        put(&store, &run(&experiment[..1], 1.0));
        store.close().unwrap();
    }
    rebuild(&config, &[]).unwrap();
    fs::remove_dir_all(root.path().join("a_1")).unwrap();
    let before = tables(&schema);
    let scoped = config.clone().scoped("b:1");
    let invalid = |config: &PostgresStoreConfig, prune: &[&str], parts: &[&str]| {
        let Err(Error::InvalidArgument(message)) = rebuild(config, prune) else {
            panic!("{prune:?} is not to be pruned");
        };
        for part in parts {
            assert!(message.contains(part), "{message}");
        }
    };
    // One that may be pruned goes with none that may not.
    let directory = root.path().canonicalize().unwrap().join("b_1");
    let directory = directory.to_str().unwrap();
    invalid(
        &config,
        &["a:1", "b:1"],
        &["\"b:1\"", directory, "remove the directory"],
    );
    // Two ids of one directory.
    invalid(&config, &["b_1"], &["\"b_1\"", directory]);
    invalid(&scoped, &["b:1"], &["\"b:1\"", directory]);
    invalid(
        &scoped,
        &["a:1"],
        &["\"a:1\"", "\"b:1\"", "whole collection"],
    );
    let files = config.to_filestore().connect().unwrap();
    let refused = files.rebuild_index_and_prune(&["a:1"]).err().unwrap();
    assert!(
        matches!(&refused, Error::InvalidArgument(message) if message.contains("postgresql://")),
        "{refused}"
    );
    files.close().unwrap();
    let reading = config.clone().read_only().connect().unwrap();
    let refused = reading.rebuild_index_and_prune(&["a:1"]).err().unwrap();
    assert!(matches!(refused, Error::ReadOnly(_)), "{refused}");
    for name in [
        "",
        "../a_1",
        "a/1",
        ".index",
        "runs",
        "services",
        "a\0",
        "a_1/../b_1",
    ] {
        let refused = rebuild(&config, &["a:1", name]).unwrap_err();
        assert!(
            matches!(refused, Error::InvalidName(_)),
            "{name:?}: {refused}"
        );
    }
    // Names that only look like something else find nothing.
    for name in ["%", "_", "a%", "a_1' OR true --", "*", "A:1"] {
        assert_eq!(rebuild(&config, &[name]).unwrap().pruned, 0, "{name}");
    }
    let now = tables(&schema);
    for table in ["metalab_store_runs", "runs", "metalab_store_directories"] {
        assert_eq!(now[table], before[table]);
    }
    // While another program compares the collection.
    let busy = config.connect().unwrap();
    let other = busy.rebuild_index().unwrap();
    let refused = rebuild(&config, &["a:1"]).unwrap_err();
    assert!(matches!(refused, Error::Locked(_)), "{refused}");
    drop(other);
    assert_eq!(rebuild(&config, &["a_1"]).unwrap().pruned, 1);
    assert_eq!(
        (schema.count("metalab_store_runs"), schema.count("runs")),
        (1, 1)
    );
}

#[test]
fn a_directory_that_is_called_otherwise_or_comes_back_has_its_rows() {
    let root = tempfile::tempdir().unwrap();
    let schema = Schema::new();
    let config = schema.config(root.path());
    let scoped = config.clone().scoped("a:1");
    let store = scoped.connect().unwrap();
    put(&store, &run("a", 1.0));
    store.close().unwrap();
    rebuild(&config, &[]).unwrap();
    let (old, new) = (root.path().join("a_1"), root.path().join("renamed"));
    fs::rename(&old, &new).unwrap();
    // The database still knows it by its old name.
    let report = rebuild(&config, &["a:1"]).unwrap();
    assert_eq!((report.runs, report.pruned, report.added), (1, 0, 0));
    assert_eq!(report.orphan_count, 0);
    fs::rename(&new, &old).unwrap();
    rebuild(&config, &[]).unwrap();
    prune_while_away(&config, &schema, &old);
    assert_ne!(standing(&scoped), IndexStanding::Current);
    assert_eq!(ids(&scoped.clone().read_only().connect().unwrap()), ["a"]);
    assert_eq!(ids(&scoped.connect().unwrap()), ["a"]);
    assert_current(&scoped);
    let report = rebuild(&config, &[]).unwrap();
    assert_eq!((report.runs, report.orphan_count), (1, 0));
    assert_eq!(schema.count("metalab_store_runs"), 1);
}

/// A comparison that began before has seen the rows, and finds nothing to send: its mark must not say that the database has them.
#[test]
fn a_directory_that_is_pruned_while_it_is_compared_is_compared_again() {
    let root = tempfile::tempdir().unwrap();
    let schema = Schema::new();
    let config = schema.config(root.path());
    let scoped = config.clone().scoped("a:1");
    let store = scoped.connect().unwrap();
    put(&store, &run("a", 1.0));
    store.rebuild_index().unwrap().finish().unwrap();
    let comparison = store.rebuild_index().unwrap();
    prune_while_away(&config, &schema, &root.path().join("a_1"));
    let refused = comparison.finish().unwrap_err();
    assert!(
        matches!(&refused, Error::Database(refused) if refused.retryable),
        "{refused}"
    );
    assert_eq!(ids(&store), ["a"]);
    store.close().unwrap();
    assert_current(&scoped);
    assert_eq!(schema.count("metalab_store_runs"), 1);
}

#[test]
fn without_the_tables_of_the_reference_pruning_leaves_them_to_a_store_that_has_them() {
    let root = tempfile::tempdir().unwrap();
    let schema = Schema::new();
    let config = schema.config(root.path());
    let store = config.clone().scoped("a:1").connect().unwrap();
    put(&store, &run("a", 1.0));
    store
        .put_experiment_manifest("a:1", "{}", Some("20260101_000000"))
        .unwrap();
    store.close().unwrap();
    fs::remove_dir_all(root.path().join("a_1")).unwrap();
    let without = config.clone().projection(false);
    assert_eq!(orphans(&rebuild(&without, &[]).unwrap()), [("a:1", 1)]);
    let report = rebuild(&without, &["a:1"]).unwrap();
    assert_eq!((report.pruned, report.orphan_count), (1, 0));
    let counts = || {
        [
            "metalab_store_runs",
            "runs",
            "metalab_store_manifests",
            "experiment_manifests",
        ]
        .map(|table| schema.count(table))
    };
    assert_eq!(counts(), [0, 1, 1, 1]);
    assert_eq!(orphans(&rebuild(&config, &[]).unwrap()), [("a:1", 0)]);
    let report = rebuild(&config, &["a:1"]).unwrap();
    assert_eq!((report.pruned, report.orphan_count), (0, 0));
    assert_eq!(counts(), [0, 0, 0, 0]);
}

#[test]
fn of_many_experiments_that_are_gone_the_first_are_named_and_all_counted() {
    let root = tempfile::tempdir().unwrap();
    let schema = Schema::new();
    let config = schema.config(root.path());
    let store = config.connect().unwrap();
    let mut of_root = run("a", 1.0);
    of_root.experiment_id = "z:1".into();
    put(&store, &of_root);
    store.close().unwrap();
    rebuild(&config, &[]).unwrap();
    // Beside them what no store can have made, on this machine at this path, and what is another machine's.
    schema.run(
        "INSERT INTO {metalab_store_directories} (scope, mark, directory, machine, inode) \
         SELECT 'many' || number, '', directory || '/x' || number, machine, '0' FROM {metalab_store_directories}, generate_series(100, 250) AS number \
         WHERE directory NOT LIKE '%/x%';\n\
         INSERT INTO {metalab_store_directories} (scope, mark, directory, machine, inode) \
         SELECT 'odd' || number, '', directory || name, machine, '0' FROM {metalab_store_directories}, \
         unnest(ARRAY['/.hidden', '/a/b', '/', '/runs', '2/x', '/..'], ARRAY[1, 2, 3, 4, 5, 6]) AS odd (name, number) WHERE directory NOT LIKE '%/x%';\n\
         INSERT INTO {metalab_store_directories} (scope, mark, directory, machine, inode) \
         SELECT 'far' || number, '', directory || '/w' || number, 'another', '0' FROM {metalab_store_directories}, generate_series(1, 3) AS number \
         WHERE scope = (SELECT scope FROM {metalab_store_runs});\n\
         INSERT INTO {metalab_store_unreadable} SELECT scope, 'one', '' FROM {metalab_store_directories} WHERE scope ~ '^(many|odd|far)';\n\
         INSERT INTO {metalab_store_unreadable} SELECT scope, 'two', '' FROM {metalab_store_directories} WHERE scope = 'many101'",
    );
    let report = rebuild(&config, &[]).unwrap();
    let found = orphans(&report);
    assert_eq!(found[..2], [("x100", 1), ("x101", 2)]);
    assert!(
        found.iter().all(|(name, _)| name.starts_with('x')),
        "{found:?}"
    );
    assert_eq!(report.orphan_count, 151);
    // Two of the first 100 are what no store can have made.
    assert_eq!(found.len(), 98);
    let names: Vec<&str> = found.iter().map(|(name, _)| *name).collect();
    let report = rebuild(&config, &names).unwrap();
    let left = orphans(&report).len();
    assert_eq!(report.orphan_count, 151 - names.len() as u64);
    assert_eq!(left as u64, report.orphan_count);
    assert_eq!(report.pruned, names.len() as u64 + 1);
    let others = schema.rows("SELECT 1 FROM {metalab_store_unreadable} WHERE scope ~ '^(odd|far)'");
    assert_eq!(others.len(), 9);
}

/// Failure: a list held a connection for as long as it was open, and wanted another one to be opened. Consequence: with one
/// that nobody read to its end, puts and lists waited for ten seconds and did without the database. Fix: short lists are read at
/// once, and long ones give their connection back with the last run.
#[test]
fn lists_that_are_open_keep_no_connection_unless_they_are_long() {
    let root = tempfile::tempdir().unwrap();
    let schema = Schema::new();
    let config = |connections: u32| -> Store {
        let config = schema.config(root.path()).scoped("a:1");
        let config = config.connect_timeout(Duration::from_millis(200));
        let config = StoreConfig::from(config.pool_size(1, connections));
        config.max_instances(8).connect().unwrap()
    };
    let store = config(1);
    let records: Vec<RunRecord> = (0..20).map(|n| run(&format!("few{n:02}"), 1.0)).collect();
    store.put_run_records(&records).unwrap();
    let open = |store: &Store| store.query_runs(&RunQuery::default()).unwrap();
    let is_told = |store: &Store, id: &str| {
        let before = schema.count("metalab_store_runs");
        put(store, &run(id, 1.0));
        schema.count("metalab_store_runs") - before
    };
    let mut lists = [(); 3].map(|()| open(&store));
    assert_eq!(is_told(&store, "more"), 1);
    assert_eq!(
        store.index_state().unwrap().standing,
        IndexStanding::Current
    );
    for list in &mut lists {
        assert_eq!(list.next(100).unwrap().len(), 20);
    }
    let many: Vec<RunRecord> = (0..5_000)
        .map(|n| run(&format!("many{n:04}"), 1.0))
        .collect();
    store.put_run_records(&many).unwrap();
    // One that was read to its last run is held still.
    let mut list = open(&store);
    let mut left = list.remaining().unwrap();
    while left > 0 {
        left -= list.next(500).unwrap().len() as u64;
    }
    assert_eq!(is_told(&store, "after"), 1);
    drop(list);
    store.close().unwrap();
    // Where they are read no further, they hold what there is.
    let store = config(2);
    let mut lists = [(); 2].map(|()| open(&store));
    for list in &mut lists {
        assert_eq!(list.next(1).unwrap().len(), 1);
    }
    assert_eq!(is_told(&store, "noted"), 0);
    assert_eq!(ids(&store).len(), 5_023);
    let state = store.index_state().unwrap();
    assert_eq!(
        (state.standing, state.pending),
        (IndexStanding::Unreachable, 1)
    );
    assert!(state.trouble.unwrap().contains("pool_max_size"));
    for mut list in lists {
        // They go on, and so does what was put since.
        assert_eq!(list.next(100).unwrap().len(), 100);
    }
    store.close().unwrap();
    assert_eq!(ids(&config(2)).len(), 5_023);
    assert_current(&schema.config(root.path()).scoped("a:1"));
}

/// A call that changes a run waits for the server once after its files were written, however many runs it is about.
#[test]
fn a_put_speaks_to_the_server_while_its_files_are_written_and_once_more() {
    let root = tempfile::tempdir().unwrap();
    let schema = Schema::new();
    let proxy = Proxy::before(&schema.uri);
    let config = PostgresStoreConfig::new(proxy.uri(), root.path()).schema(&*schema.name);
    let store = config.scoped("a:1").connect().unwrap();
    assert_eq!(ids(&store), [""; 0]);
    let most = |call: &dyn Fn(u32)| {
        let counts: Vec<usize> = (0..20)
            .map(|number| {
                let before = proxy.flights();
                call(number);
                proxy.flights() - before
            })
            .collect();
        // The first ones prepare statements.
        counts[5..].iter().copied().max().unwrap()
    };
    let name = |number: u32| format!("run{number:02}");
    let put_one = |number: u32| put(&store, &run(&name(number), 1.0));
    let derive = |number: u32| {
        let metrics = &run("", f64::from(number)).metrics;
        store.put_derived(&name(number), metrics).unwrap();
    };
    let put_many = |number: u32| {
        let records: Vec<RunRecord> = (0..10)
            .map(|n| run(&format!("many{n}"), f64::from(number)))
            .collect();
        let outcomes = store.put_run_records(&records).unwrap();
        assert!(outcomes.iter().all(Result::is_ok));
    };
    let delete = |number: u32| assert!(store.delete_run(&name(number)).unwrap());
    // The files may be faster than the server's first answer: then it is asked to commit before that.
    for call in [&put_one as &dyn Fn(u32), &derive, &put_many] {
        let most = most(call);
        assert!((1..=2).contains(&most), "{most}");
    }
    assert_eq!(most(&delete), 1);
    assert_eq!(schema.count("metalab_store_runs"), 10);
    assert_eq!(schema.count("runs"), 10);
}

/// Rows of a schema, but for what tells directories and times apart.
fn all_rows(schema: &Schema) -> Vec<Vec<Value>> {
    let mut rows = schema
        .rows("SELECT (to_jsonb(r) - 'scope' - 'stamp')::text FROM {metalab_store_runs} AS r ORDER BY run_id");
    rows.extend(schema.rows("SELECT run_id FROM {metalab_store_unreadable} ORDER BY run_id"));
    rows.extend(projected(schema));
    rows
}

/// A server that was away missed what was noted and no more: a look at the index meanwhile made all runs be compared once it
/// was back.
#[test]
fn what_is_told_late_is_what_a_comparison_of_everything_finds() {
    for seed in 0..6 {
        let mut numbers = Numbers::new(seed);
        let root = tempfile::tempdir().unwrap();
        let (told_late, compared) = (Schema::new(), Schema::new());
        let proxy = Proxy::before(&told_late.uri);
        let config = PostgresStoreConfig::new(proxy.uri(), root.path());
        let config = config.schema(&*told_late.name).scoped("a:1");
        // No pause lasts longer than the test wants.
        let hours = Arc::new(AtomicU64::new(0));
        let now = Arc::clone(&hours);
        let start = UNIX_EPOCH.elapsed().unwrap();
        let config = StoreConfig::from(config)
            .clock(move || start + Duration::from_hours(now.load(Ordering::SeqCst)));
        let store = config.connect().unwrap();
        put(&store, &run("first", 0.0));
        assert_eq!(ids(&store), ["first"]);
        let mark = || told_late.rows("SELECT mark FROM {metalab_store_directories}");
        let before = mark();
        let (mut away, mut noted) = (false, 0);
        for number in 0..120_u32 {
            let id = format!("run{}", numbers.below(25));
            let loss = f64::from(number);
            match numbers.below(12) {
                0..4 => put(&store, &run(&id, loss)),
                4 => put(&store, &odd_run(&id)),
                5 => drop(store.put_derived(&id, &run("", loss).metrics).unwrap()),
                6..8 => drop(store.delete_run(&id).unwrap()),
                8 => {
                    let records = [0, 1, 2].map(|n| run(&format!("run{n}"), loss));
                    assert!(
                        store
                            .put_run_records(&records)
                            .unwrap()
                            .iter()
                            .all(Result::is_ok)
                    );
                }
                // A list out of the files settles the times of their directories: then all runs are compared.
                9 if away => {}
                9 => drop(ids(&store)),
                10 => {
                    away = true;
                    proxy.stay_away(true);
                }
                _ => {
                    noted += store.index_state().unwrap().pending;
                    away = false;
                    proxy.stay_away(false);
                    hours.fetch_add(1, Ordering::SeqCst);
                }
            }
        }
        assert!(noted > 0, "the server was never away: seed {seed}");
        proxy.stay_away(false);
        // A connection that takes long serves the next call.
        let back = (0..100).any(|_| {
            hours.fetch_add(1, Ordering::SeqCst);
            put(&store, &run("last", 1.0));
            store.index_state().unwrap().standing == IndexStanding::Current
        });
        assert!(back, "{:?}", store.index_state());
        let listed = ids(&store);
        assert_eq!(store.index_state().unwrap().pending, 0);
        // All that was told late, and nothing was compared.
        assert_eq!(mark(), before);
        let rows = all_rows(&told_late);
        let fresh = compared
            .config(root.path())
            .scoped("a:1")
            .connect()
            .unwrap();
        let report = fresh.rebuild_index().unwrap().finish().unwrap();
        assert_eq!(report.added, listed.len() as u64);
        assert_eq!(rows, all_rows(&compared), "seed {seed}");
    }
}

#[test]
fn tables_that_may_not_be_created_are_not_and_the_error_says_what_to_do() {
    let root = tempfile::tempdir().unwrap();
    let schema = Schema::new();
    let config = schema.config(root.path()).scoped("a:1");
    let strict = config.clone().auto_migrate(false);
    let store = strict.connect().unwrap();
    put(&store, &run("one", 1.0));
    assert_eq!(ids(&store), ["one"]);
    let state = store.index_state().unwrap();
    assert_eq!(state.standing, IndexStanding::Unreachable);
    let Err(Error::Database(refused)) = store.rebuild_index() else {
        panic!("there is nothing to rebuild");
    };
    for message in [state.trouble.unwrap(), refused.message] {
        assert!(message.contains("auto_migrate"), "{message}");
    }
    store.close().unwrap();
    let schemas = "SELECT count(*) FROM pg_namespace WHERE nspname = '{}'";
    let schemas = schemas.replace("{}", &schema.name.replace('\'', "''"));
    let there = || schema.rows(&schemas)[0][0].clone();
    assert_eq!(there(), Value::Integer(0));
    // Once somebody else created them, all is well.
    config
        .connect()
        .unwrap()
        .rebuild_index()
        .unwrap()
        .finish()
        .unwrap();
    assert_eq!(there(), Value::Integer(1));
    let store = strict.connect().unwrap();
    put(&store, &run("two", 2.0));
    assert_eq!(schema.count("metalab_store_runs"), 2);
    store.close().unwrap();
    assert_current(&strict);
}

#[test]
fn without_the_tables_of_the_reference_every_answer_is_the_same() {
    let root = tempfile::tempdir().unwrap();
    let schema = Schema::new();
    let config = schema.config(root.path()).scoped("a:1").projection(false);
    let store = config.connect().unwrap();
    let records: Vec<RunRecord> = (0..30)
        .map(|n| run(&format!("run{n:02}"), f64::from(n) / 3.0))
        .collect();
    assert!(
        store
            .put_run_records(&records)
            .unwrap()
            .iter()
            .all(Result::is_ok)
    );
    put(&store, &odd_run("nan"));
    store.put_derived("run03", &records[4].metrics).unwrap();
    store.put_experiment_manifest("a:1", "{}", None).unwrap();
    assert!(store.delete_run("run05").unwrap());
    fs::write(root.path().join("a_1/runs/broken.json"), "{").unwrap();
    let report = store.rebuild_index().unwrap().finish().unwrap();
    assert_eq!(
        (report.runs, report.manifests, report.damaged.len()),
        (30, 0, 1)
    );
    put(&store, &run("last", 9.0));
    assert_eq!(store.index_state().unwrap().pending, 0);
    store.close().unwrap();
    assert_current(&config);
    let tables = format!(
        "SELECT tablename::text FROM pg_tables WHERE schemaname = '{}' AND tablename NOT LIKE 'metalab\\_store\\_%'",
        schema.name.replace('\'', "''")
    );
    assert_eq!(schema.rows(&tables).len(), 0);
}

#[test]
fn files_of_every_kind_get_an_index_and_are_left_as_they_were() {
    let kinds: [(&str, &[&str]); 3] = [
        ("flat", &[]),
        ("scoped", &["a:1"]),
        ("collection", &["a:1", "b:1"]),
    ];
    for (kind, experiments) in kinds {
        let root = tempfile::tempdir().unwrap();
        let files = FileStoreConfig::new(root.path());
        let write = |config: FileStoreConfig, name: &str| {
            let store = config.connect().unwrap();
            for number in 0..5_u8 {
                let mut record = run(&format!("{name}{number}"), f64::from(number));
                if name == "flat" {
                    record.experiment_id = "flat:1".into();
                }
                put(&store, &record);
                store.put_derived(&record.run_id, &record.metrics).unwrap();
            }
            store.close().unwrap();
        };
        for experiment in experiments {
            write(files.clone().scoped(*experiment), &experiment[..1]);
        }
        if kind != "scoped" {
            write(files.clone(), "flat");
        }
        let runs = 5 * (experiments.len() + usize::from(kind != "scoped"));
        let (files, scoped) = match kind {
            "scoped" => (files.scoped("a:1"), true),
            _ => (files, false),
        };
        let kept = |root: &Path| {
            let mut found = tree(root);
            found.retain(|path, _| !path.contains(".index"));
            found
        };
        let before = kept(root.path());
        let schema = Schema::new();
        let store =
            PostgresStoreConfig::from_filestore(schema.uri.clone(), &files, Some(&schema.name))
                .unwrap();
        assert_eq!(ids(&store).len(), runs, "{kind}");
        assert_eq!(
            store.index_state().unwrap().standing,
            IndexStanding::Current
        );
        store.close().unwrap();
        assert_eq!(
            schema.count("metalab_store_runs"),
            i64::try_from(runs).unwrap()
        );
        assert_eq!(kept(root.path()), before, "{kind}");
        // And back: what the files say is what the database said, and what they say then it learns.
        let config = schema.config(root.path());
        let config = if scoped { config.scoped("a:1") } else { config };
        assert_current(&config);
        let plain = config.to_filestore().connect().unwrap();
        assert_eq!(plain.index_state().unwrap().standing, IndexStanding::None);
        let mut later = run("later", 1.0);
        if !scoped {
            later.experiment_id = "flat:1".into();
        }
        put(&plain, &later);
        plain.close().unwrap();
        assert_eq!(standing(&config), IndexStanding::Behind, "{kind}");
        assert_eq!(ids(&config.connect().unwrap()).len(), runs + 1);
        assert_current(&config);
    }
}

#[tokio::test]
async fn a_store_with_an_index_works_inside_a_runtime_of_one_thread() {
    inside_a_runtime();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_with_an_index_works_inside_a_runtime_of_many_threads() {
    inside_a_runtime();
}

fn inside_a_runtime() {
    let root = tempfile::tempdir().unwrap();
    let schema = Schema::new();
    let config = schema.config(root.path()).scoped("a:1");
    let store = config.connect().unwrap();
    put(&store, &run("one", 1.0));
    assert_eq!(ids(&store), ["one"]);
    store.rebuild_index().unwrap().finish().unwrap();
    store.close().unwrap();
    assert_current(&config);
}

#[test]
fn no_message_shows_a_password() {
    let root: TempDir = tempfile::tempdir().unwrap();
    let root: &Path = root.path();
    let config =
        PostgresStoreConfig::new("postgresql://u:hunter2@127.0.0.1:1/db", root).scoped("a:1");
    assert!(!format!("{config:?}").contains("hunter2"));
    let store = config.connect().unwrap();
    put(&store, &run("one", 1.0));
    let state = store.index_state().unwrap();
    assert_eq!(state.standing, IndexStanding::Unreachable);
    let refused = store.rebuild_index().err().unwrap();
    for text in [format!("{state:?}"), format!("{refused:?} {refused}")] {
        assert!(!text.contains("hunter2"), "{text}");
    }
    assert_eq!(ids(&store), ["one"]);
}
