//! A put tells the database while the files are written, and nobody sees what it told before they say it. And what happens to
//! what it cannot be told.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use metalab_store_guest::config::{from_locator, resolve};
use metalab_store_guest::database::rebuild::Standing;
use metalab_store_guest::model::{
    Access, Durability, Expectation, IndexOptions, Metric, MetricValue, StoreOptions,
};
use metalab_store_guest::native;
use metalab_store_guest::ports::{PortError, PortResult};
use metalab_store_guest::query::QueryText;
use metalab_store_guest::store::Store;
use metalab_store_guest::testing::{Touch, watched};
use metalab_store_guest::verify::VerifyOptions;
use metalab_store_postgres::{Pool, Statement, Value};
use std::cell::{Cell, RefCell};
use std::fs;
use std::path::Path;
use std::rc::Rc;
use std::time::SystemTime;

/// A schema on the server that the tests share. It goes when this is dropped.
struct Schema {
    name: String,
    pool: Pool,
}

impl Schema {
    fn new() -> Self {
        let time = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos();
        let name = format!("foretold{time}");
        let pool = pool(&name);
        Self { name, pool }
    }

    fn number(&self, sql: &str) -> i64 {
        let statement = Statement {
            sql: sql.replace("{}", &self.name),
            parameters: Vec::new(),
        };
        match self.pool.query(&statement, 1).unwrap().rows[0][0] {
            Value::Integer(number) => number,
            ref other => panic!("{other:?}"),
        }
    }

    fn execute(&self, sql: &str) {
        let statement = Statement {
            sql: sql.replace("{}", &self.name),
            parameters: Vec::new(),
        };
        self.pool.execute(&statement).unwrap();
    }

    /// Counts what anybody can see.
    fn rows(&self) -> i64 {
        self.number("SELECT count(*) + count(derived) FROM {}.metalab_store_runs")
    }

    /// Counts the sessions of the store that are in a transaction that writes.
    fn writing(&self) -> i64 {
        self.number(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = '{} store' AND backend_xid IS NOT NULL",
        )
    }
}

impl Drop for Schema {
    fn drop(&mut self) {
        let sql = format!("DROP SCHEMA IF EXISTS {} CASCADE", self.name);
        self.pool
            .execute(&Statement {
                sql,
                parameters: Vec::new(),
            })
            .ok();
    }
}

fn pool(application: &str) -> Pool {
    let uri = std::env::var("METALAB_TEST_POSTGRES").unwrap_or_else(|_| {
        panic!("METALAB_TEST_POSTGRES should name a PostgreSQL server to test with; `cargo xtask test` starts one")
    });
    let separator = if uri.contains('?') { '&' } else { '?' };
    let application = application.replace(' ', "%20");
    let locator = format!("{uri}{separator}file_root=/&application_name={application}");
    let connection = resolve(&from_locator(&locator).unwrap(), None)
        .unwrap()
        .connection;
    native::pool(connection.unwrap()).unwrap()
}

type Watch = Rc<RefCell<Option<Box<dyn Fn(Touch, &str) -> PortResult<()>>>>>;

/// Opens a store, and a place for who wants to be told what is done in its directory.
fn open(root: &Path, schema: &Schema) -> (Store, Watch) {
    let pool = pool(&format!("{} store", schema.name));
    let mut ports = native::ports_with_database(root, "index", pool).unwrap();
    let watch = Watch::default();
    let told = Rc::clone(&watch);
    ports.directory = watched(ports.directory, move |touch, path| match &*told.borrow() {
        Some(watch) => watch(touch, path),
        None => Ok(()),
    });
    let options = StoreOptions {
        directory: root.to_str().unwrap().to_owned(),
        experiment_id: Some("e:1".to_owned()),
        access: Access::ReadWrite,
        durability: Durability::Full,
        lock_timeout_ms: 1000,
        index: Some(IndexOptions {
            binding: "index".to_owned(),
            schema: schema.name.clone(),
            auto_migrate: true,
            projection: true,
        }),
    };
    (Store::open(ports, options).unwrap(), watch)
}

fn record(run: &str) -> String {
    format!(r#"{{"run_id": "{run}", "status": "success"}}"#)
}

fn metrics() -> Vec<Metric> {
    vec![Metric {
        name: "best".to_owned(),
        value: MetricValue::Float(0.5),
    }]
}

#[test]
fn the_server_works_while_the_files_are_written_and_shows_nothing_before() {
    let root = tempfile::tempdir().unwrap();
    let schema = Rc::new(Schema::new());
    let (store, watch) = open(root.path(), &schema);
    store
        .put_run_text(&record("first"), &Expectation::Anything)
        .unwrap();
    assert_eq!(store.list_run_records(None).unwrap().total(), 1);

    let calls: [(&str, i64, &dyn Fn()); 4] = [
        ("runs/", 1, &|| {
            store
                .put_run_text(&record("second"), &Expectation::Anything)
                .unwrap();
        }),
        ("derived/", 1, &|| {
            store.put_derived("second", &metrics()).unwrap();
        }),
        ("runs/", 2, &|| {
            let lines = format!("{}\n{}\n", record("third"), record("fourth"));
            assert!(
                store
                    .put_run_lines(&lines)
                    .unwrap()
                    .iter()
                    .all(Result::is_ok)
            );
        }),
        ("derived/", 1, &|| {
            let stored = store.put_derived_batch(&[("third".to_owned(), metrics())]);
            assert!(stored.unwrap().iter().all(Result::is_ok));
        }),
    ];
    for (directory, added, call) in calls {
        let before = schema.rows();
        let looked = Rc::new(Cell::new(0));
        let (count, observer) = (Rc::clone(&looked), Rc::clone(&schema));
        *watch.borrow_mut() = Some(Box::new(move |touch, path| {
            if touch == Touch::Make && path.starts_with(directory) && path.contains(".tmp") {
                assert_eq!(observer.rows(), before, "{path}");
                // It is at work, whether anybody waits for it or not.
                while observer.writing() == 0 {
                    std::thread::yield_now();
                }
                count.set(count.get() + 1);
            }
            Ok(())
        }));
        call();
        *watch.borrow_mut() = None;
        assert!(looked.get() > 0);
        assert_eq!(schema.rows(), before + added);
        assert_eq!(schema.writing(), 0);
    }
    store.close().unwrap();
}

#[test]
fn what_was_told_of_files_that_could_not_be_written_is_taken_back() {
    let root = tempfile::tempdir().unwrap();
    let schema = Schema::new();
    let (store, watch) = open(root.path(), &schema);
    store
        .put_run_text(&record("first"), &Expectation::Anything)
        .unwrap();
    assert_eq!(store.list_run_records(None).unwrap().total(), 1);
    // At the last moment something takes the place of the file.
    let place = root.path().join("runs/second.json");
    let taken = place.clone();
    *watch.borrow_mut() = Some(Box::new(move |touch, path| {
        if touch == Touch::Make && path.starts_with("runs/") && path.contains("second") {
            fs::create_dir_all(taken.join("full")).unwrap();
        }
        Ok(())
    }));
    store
        .put_run_text(&record("second"), &Expectation::Anything)
        .unwrap_err();
    *watch.borrow_mut() = None;
    assert!(place.is_dir());
    assert_eq!((schema.rows(), schema.writing()), (1, 0));
    // Of several runs in one call those whose files were written are told.
    let lines = format!("{}\n{}\n", record("third"), record("second"));
    let stored = store.put_run_lines(&lines).unwrap();
    assert!(stored[0].is_ok() && stored[1].is_err(), "{stored:?}");
    assert_eq!(schema.writing(), 0);
    fs::remove_dir_all(&place).unwrap();
    assert_eq!(store.list_run_records(None).unwrap().total(), 2);
    assert_eq!(schema.rows(), 2);
    store.close().unwrap();
}

/// A store whose record or derived metrics were just replaced by a writer that was killed before it told the database, and
/// another one that is at work, so that the database is believed.
fn killed(root: &Path, schema: &Schema, derived: bool) -> (Store, Store) {
    let (store, _) = open(root, schema);
    store
        .put_run_text(&record("first"), &Expectation::Anything)
        .unwrap();
    store.put_derived("first", &metrics()).unwrap();
    assert_eq!(store.list_run_records(None).unwrap().total(), 1);
    let (other, _) = open(root, schema);
    other
        .put_run_text(&record("second"), &Expectation::Anything)
        .unwrap();
    let (killed, watch) = open(root, schema);
    let file = ["runs/first.json", "derived/first.json"][usize::from(derived)];
    // From the moment on at which the file is in place, nothing works.
    let dead = Rc::new(Cell::new(false));
    let dies = Rc::clone(&dead);
    *watch.borrow_mut() = Some(Box::new(move |touch, path| {
        if dies.get() {
            return Err(PortError::Other("io"));
        }
        if (touch, path) == (Touch::Renamed, file) {
            dies.set(true);
            std::panic::resume_unwind(Box::new("killed"));
        }
        Ok(())
    }));
    let changed = r#"{"run_id": "first", "status": "failed"}"#;
    let put = || match derived {
        false => killed
            .put_run_text(changed, &Expectation::Anything)
            .map(drop),
        true => killed.put_derived("first", &[]).map(drop),
    };
    let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(put));
    assert!(unwound.is_err() && dead.get());
    (store, other)
}

#[test]
fn what_a_writer_had_changed_when_it_was_killed_is_no_damage_of_the_database() {
    for derived in [false, true] {
        let root = tempfile::tempdir().unwrap();
        let schema = Schema::new();
        let (store, other) = killed(root.path(), &schema, derived);
        let mut verification = store.verify(VerifyOptions::default()).unwrap();
        let mut found = Vec::new();
        while verification.step().unwrap().is_some() {
            found.extend(verification.take_findings());
        }
        found.extend(verification.take_findings());
        assert_eq!(found, []);
        other.close().unwrap();
        store.close().unwrap();
    }
}

#[test]
fn what_a_writer_had_changed_when_it_was_killed_is_soon_listed() {
    let root = tempfile::tempdir().unwrap();
    let schema = Schema::new();
    let (store, other) = killed(root.path(), &schema, false);
    let failed = QueryText {
        filter: "status = 'failed'",
        ..QueryText::default()
    };
    // Within a second: this loop ends, or the test does not.
    while store.query_runs(&failed).unwrap().total() == 0 {}
    assert_eq!(store.list_run_records(None).unwrap().total(), 2);
    assert_eq!(store.query_runs(&failed).unwrap().total(), 1);
    other.close().unwrap();
    store.close().unwrap();
}

#[test]
fn a_run_whose_row_an_index_of_the_owner_refuses_is_found_by_its_text() {
    let indexes = [
        "CREATE INDEX lab ON {}.metalab_store_runs (((document #>> '{metrics,loss}')::bigint))",
        "CREATE INDEX lab ON {}.runs (((record_json #>> '{metrics,loss}')::bigint))",
    ];
    for index in indexes {
        let root = tempfile::tempdir().unwrap();
        let schema = Schema::new();
        let (store, _) = open(root.path(), &schema);
        let put = |run: &str, loss: &str| {
            let record = format!(
                r#"{{"run_id": "{run}", "experiment_id": "e:1", "status": "success", "metrics": {{"loss": {loss}}}}}"#
            );
            store.put_run_text(&record, &Expectation::Anything).unwrap();
        };
        put("first", "1");
        assert_eq!(store.list_run_records(None).unwrap().total(), 1);
        schema.execute(index);
        put("second", "\"high\"");
        put("third", "2");
        let high = QueryText {
            filter: "metrics.loss = 'high'",
            ..QueryText::default()
        };
        let find = |when: &str| {
            assert_eq!(
                store.index_state().unwrap().standing,
                Standing::Current,
                "{when}"
            );
            assert_eq!(store.list_run_records(None).unwrap().total(), 3, "{when}");
            assert_eq!(store.query_runs(&high).unwrap().total(), 1, "{when}");
        };
        find("after the puts");
        let rebuild = || {
            let mut rebuild = store.rebuild_index(&[]).unwrap();
            while rebuild.step().unwrap().is_some() {}
            rebuild.report().clone()
        };
        let refused = "DELETE FROM {}.metalab_store_runs";
        schema.execute(refused);
        let report = rebuild();
        assert_eq!((report.runs, report.damaged.len()), (3, 1), "{report:?}");
        assert_eq!(report.damaged[0].file, "runs/second.json");
        find("after a comparison");
        schema.execute("DROP INDEX {}.lab");
        let report = rebuild();
        assert_eq!(
            (report.runs, report.changed, report.damaged.len()),
            (3, 1, 0),
            "{report:?}"
        );
        find("after the index is gone");
        assert_eq!(
            schema.number("SELECT count(*) FROM {}.metalab_store_runs WHERE inexact"),
            0
        );
        assert_eq!(schema.number("SELECT count(*) FROM {}.runs"), 3);
        store.close().unwrap();
    }
}
