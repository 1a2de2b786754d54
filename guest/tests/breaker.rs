//! A database that does not answer is left alone: how often it is asked is counted, by a clock of the test's own.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use metalab_store_guest::config::{from_locator, resolve};
use metalab_store_guest::database::rebuild::Standing;
use metalab_store_guest::model::{Access, Durability, Expectation, IndexOptions, StoreOptions};
use metalab_store_guest::native;
use metalab_store_guest::ports::Clock;
use metalab_store_guest::query::QueryText;
use metalab_store_guest::store::Store;
use std::cell::Cell;
use std::net::TcpListener;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const SECOND: u64 = 1_000_000_000;

/// Something that is no database: it counts who connects, and hangs up.
fn deaf_server() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let attempts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&attempts);
    // It ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            counted.fetch_add(1, Ordering::SeqCst);
            drop(stream);
        }
    });
    (port, attempts)
}

struct Told(Cell<u64>);

impl Clock for Told {
    fn now(&self) -> u64 {
        self.0.get()
    }
}

fn open(root: &Path, port: u16, clock: &Rc<Told>) -> Store {
    let locator = format!("postgresql://lab@127.0.0.1:{port}/lab?file_root=/&sslmode=disable");
    let connection = resolve(&from_locator(&locator).unwrap(), None)
        .unwrap()
        .connection;
    let pool = native::pool(connection.unwrap()).unwrap();
    let mut ports = native::ports_with_database(root, "index", pool).unwrap();
    ports.clock = Rc::<Told>::clone(clock);
    let options = StoreOptions {
        directory: root.to_str().unwrap().to_owned(),
        experiment_id: Some("e:1".to_owned()),
        access: Access::ReadWrite,
        durability: Durability::Full,
        lock_timeout_ms: 1000,
        index: Some(IndexOptions {
            binding: "index".to_owned(),
            schema: "public".to_owned(),
            auto_migrate: true,
            projection: true,
        }),
    };
    Store::open(ports, options).unwrap()
}

#[test]
fn a_server_that_does_not_answer_is_asked_once_and_then_ever_more_rarely() {
    let root = tempfile::tempdir().unwrap();
    let (port, attempts) = deaf_server();
    let start = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .unwrap()
        .as_secs()
        * SECOND;
    let clock = Rc::new(Told(Cell::new(start)));
    let store = open(root.path(), port, &clock);
    let mut runs = 0;
    let mut all_calls = || {
        for _ in 0..5 {
            let record = format!(r#"{{"run_id": "run{runs}", "status": "success"}}"#);
            runs += 1;
            store.put_run_text(&record, &Expectation::Anything).unwrap();
            let text = QueryText {
                filter: "status = \"success\"",
                limit: Some(10),
                ..QueryText::default()
            };
            store.query_runs(&text).unwrap();
            assert_eq!(store.list_run_records(None).unwrap().total(), runs);
            assert_eq!(store.index_state().unwrap().standing, Standing::Unreachable);
        }
    };
    let mut expected = 0;
    // Each pause is twice the one before, and half a minute at most.
    for pause in [1, 2, 4, 8, 16, 30, 30] {
        all_calls();
        expected += 1;
        assert_eq!(attempts.load(Ordering::SeqCst), expected);
        clock.0.set(clock.0.get() + pause * SECOND - 1);
        all_calls();
        assert_eq!(attempts.load(Ordering::SeqCst), expected, "after {pause} s");
        clock.0.set(clock.0.get() + 1);
    }
    store.close().unwrap();
}
