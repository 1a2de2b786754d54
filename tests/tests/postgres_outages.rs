//! What a store does while its server is stopped, killed, standing still, read-only or too slow: nothing that was
//! acknowledged is lost, every answer is right, and the index is complete after the next contact.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use metalab_store::types::{Expectation, IndexStanding, RunRecord, Status};
use metalab_store::{PostgresStoreConfig, Store};
use metalab_store_cluster::Cluster;
use metalab_store_tests::database::Schema;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

struct Setting {
    // The schema is dropped while the server still runs.
    schema: Schema,
    root: tempfile::TempDir,
    cluster: Cluster,
}

impl Setting {
    fn new() -> Self {
        let cluster = Cluster::start(&[]).unwrap();
        Self {
            schema: Schema::on(&cluster.uri(), "lab"),
            root: tempfile::tempdir().unwrap(),
            cluster,
        }
    }

    fn config(&self) -> PostgresStoreConfig {
        self.config_on(self.root.path())
    }

    fn config_on(&self, root: &Path) -> PostgresStoreConfig {
        self.schema
            .config(root)
            .scoped("a:1")
            .connect_timeout(Duration::from_millis(500))
    }

    /// Asserts that a store that may write brings the index up to date by itself.
    fn assert_completed(&self, runs: usize) {
        let store = self.config().connect().unwrap();
        assert_eq!(ids(&store).len(), runs);
        let state = store.index_state().unwrap();
        assert_eq!(state.standing, IndexStanding::Current, "{state:?}");
        assert_eq!(state.pending, 0);
        store.close().unwrap();
        assert_eq!(
            self.schema.count("metalab_store_runs"),
            i64::try_from(runs).unwrap()
        );
        assert_eq!(self.schema.count("runs"), i64::try_from(runs).unwrap());
    }
}

fn put(store: &Store, id: &str) {
    let record = RunRecord::new(id, Status::Success);
    store
        .put_run_record(&record, &Expectation::Anything)
        .unwrap();
}

fn ids(store: &Store) -> Vec<String> {
    let list = store.list_run_records(None).unwrap();
    assert_eq!(list.damaged, []);
    list.records
        .into_iter()
        .map(|record| record.run_id)
        .collect()
}

/// Writes until it is told to stop, and counts what was acknowledged.
fn write_all_the_time(store: &Store, writer: usize, stop: &AtomicBool, written: &AtomicUsize) {
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        put(store, &format!("w{writer}n{number:06}"));
        written.fetch_add(1, Ordering::Relaxed);
    }
}

/// Waits until a count has grown by so many.
fn wait_for(count: &AtomicUsize, more: usize) {
    let goal = count.load(Ordering::Relaxed) + more;
    while count.load(Ordering::Relaxed) < goal {
        thread::yield_now();
    }
}

#[test]
fn a_server_that_is_gone_stops_no_call_and_is_told_when_it_is_back() {
    let mut setting = Setting::new();
    let store = setting.config().connect().unwrap();
    put(&store, "before");
    assert_eq!(ids(&store).len(), 1);
    setting.cluster.stop().unwrap();
    for number in 0..50 {
        put(&store, &format!("during{number:02}"));
    }
    store.delete_run("before").unwrap();
    assert_eq!(ids(&store).len(), 50);
    let state = store.index_state().unwrap();
    assert_eq!(state.standing, IndexStanding::Unreachable);
    assert!(state.pending > 0, "{state:?}");
    setting.cluster.restart().unwrap();
    // Another program tells what this one could not.
    setting.assert_completed(50);
    // And this one finds that it is told.
    put(&store, "after");
    store.close().unwrap();
    setting.assert_completed(51);
}

/// A store that only put runs never told the server of those that it had noted: whoever only reads the tables missed them.
#[test]
fn a_store_that_only_puts_tells_what_it_noted_once_the_server_is_back() {
    let mut setting = Setting::new();
    let rows = |setting: &Setting| setting.schema.count("metalab_store_runs");
    for told in [true, false] {
        let store = setting.config().connect().unwrap();
        let name = |phase: &str, number: usize| format!("{told}{phase}{number:03}");
        if told {
            assert_eq!(ids(&store).len(), 0);
        }
        put(&store, &name("before", 0));
        let before = rows(&setting);
        setting.cluster.stop().unwrap();
        for number in 0..10 {
            put(&store, &name("during", number));
        }
        setting.cluster.restart().unwrap();
        let mut puts = 1 + 10;
        if told {
            // It is left alone for a moment first.
            while rows(&setting) == before {
                put(&store, &name("after", puts));
                puts += 1;
            }
            assert_eq!(store.index_state().unwrap().pending, 0);
            let puts = i64::try_from(puts).unwrap();
            assert_eq!(rows(&setting), puts);
            assert_eq!(setting.schema.count("runs"), puts);
        } else {
            // Something else that the server is told.
            while setting.schema.count("experiment_manifests") == 0 {
                store.put_experiment_manifest("a:1", "{}", None).unwrap();
            }
            assert_eq!(rows(&setting), before);
        }
        let all = rows(&setting);
        store.close().unwrap();
        let expected = if told { all } else { all + 10 };
        assert_eq!(rows(&setting), expected);
        let reader = setting.config().read_only().connect().unwrap();
        let state = reader.index_state().unwrap();
        assert_eq!((state.standing, state.pending), (IndexStanding::Current, 0));
    }
}

#[test]
fn a_server_that_is_killed_again_and_again_loses_nothing() {
    let mut setting = Setting::new();
    let store = setting.config().connect().unwrap();
    put(&store, "first");
    assert_eq!(ids(&store).len(), 1);
    let (stop, written) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for writer in 0..4 {
            let (config, stop, written) = (setting.config(), &stop, &written);
            scope.spawn(move || {
                let store = config.connect().unwrap();
                write_all_the_time(&store, writer, stop, written);
                store.close().unwrap();
            });
        }
        for _ in 0..3 {
            wait_for(&written, 60);
            setting.cluster.kill().unwrap();
            wait_for(&written, 20);
            setting.cluster.restart().unwrap();
        }
        wait_for(&written, 60);
        stop.store(true, Ordering::Relaxed);
    });
    store.close().unwrap();
    setting.assert_completed(written.into_inner() + 1);
}

#[test]
fn what_a_server_forgot_in_a_crash_is_noticed_by_every_list() {
    let mut setting = Setting::new();
    // So the server keeps what need not be durable in its memory, until something else has to be durable.
    setting
        .cluster
        .configure("wal_writer_delay = 10s\nautovacuum = off\n")
        .unwrap();
    setting.cluster.restart().unwrap();
    let store = setting.config().connect().unwrap();
    let reader = setting.config().read_only().connect().unwrap();
    put(&store, "first");
    assert_eq!((ids(&store).len(), ids(&reader).len()), (1, 1));
    let forgotten = |setting: &Setting, told: i64| {
        let rows = setting.schema.count("metalab_store_runs");
        assert!(rows < told, "the server lost nothing: it has {rows} rows");
    };
    for round in 1..4 {
        let told = 1 + 20 * round;
        for number in 0..20 {
            put(&store, &format!("round{round}n{number:02}"));
        }
        assert_eq!(ids(&reader).len(), told);
        setting.cluster.kill().unwrap();
        setting.cluster.restart().unwrap();
        forgotten(&setting, i64::try_from(told).unwrap());
        // One that only reads does not believe it, and neither does one that was open or is opened then.
        let fresh = setting.config().read_only().connect().unwrap();
        for reader in [&reader, &fresh] {
            assert_eq!(ids(reader).len(), told);
            assert_ne!(
                reader.index_state().unwrap().standing,
                IndexStanding::Current
            );
        }
        // One that writes makes it whole.
        assert_eq!(ids(&store).len(), told);
        assert_eq!(
            setting.schema.count("metalab_store_runs"),
            i64::try_from(told).unwrap()
        );
        assert_eq!(
            reader.index_state().unwrap().standing,
            IndexStanding::Current
        );
    }
    // One that writes on without a list in between is closed, and another one finds what is missing.
    for number in 0..20 {
        put(&store, &format!("last{number:02}"));
    }
    setting.cluster.kill().unwrap();
    setting.cluster.restart().unwrap();
    forgotten(&setting, 81);
    put(&store, "after");
    store.close().unwrap();
    setting.assert_completed(82);
    // Where all writers closed the store before, nothing was lost, and nothing is compared.
    setting.cluster.kill().unwrap();
    setting.cluster.restart().unwrap();
    let reader = setting.config().read_only().connect().unwrap();
    assert_eq!(ids(&reader).len(), 82);
    assert_eq!(
        reader.index_state().unwrap().standing,
        IndexStanding::Current
    );
}

#[test]
fn a_server_that_is_killed_during_a_rebuild_leaves_the_old_rows_or_the_new_ones() {
    let mut setting = Setting::new();
    let store = setting.config().connect().unwrap();
    let records: Vec<RunRecord> = (0..6000)
        .map(|number| RunRecord::new(format!("run{number:05}"), Status::Success))
        .collect();
    let files = setting.config().to_filestore().connect().unwrap();
    assert!(
        files
            .put_run_records(&records)
            .unwrap()
            .iter()
            .all(Result::is_ok)
    );
    files.close().unwrap();
    store.close().unwrap();
    // At every step of the comparison, of the COPY and of the changes.
    for steps in 0.. {
        let store = setting.config().connect().unwrap();
        let mut rebuild = store.rebuild_index().unwrap();
        let mut done = false;
        for _ in 0..steps {
            done |= rebuild.step().unwrap().is_none();
        }
        setting.cluster.kill().unwrap();
        while !done && matches!(rebuild.step(), Ok(Some(_))) {}
        drop(rebuild);
        assert_eq!(ids(&store).len(), 6000);
        store.close().ok();
        setting.cluster.restart().unwrap();
        let reader = setting.config().read_only().connect().unwrap();
        assert_eq!(ids(&reader).len(), 6000);
        let rows = setting.schema.count("metalab_store_runs");
        assert!(rows == 0 || rows == 6000, "{rows} rows after {steps} steps");
        if done {
            break;
        }
        setting.schema.run("DELETE FROM {metalab_store_runs}");
        setting.schema.run("DELETE FROM {runs}");
    }
    setting.assert_completed(6000);
}

#[test]
fn a_database_that_is_read_only_is_told_when_it_is_not() {
    let mut setting = Setting::new();
    let store = setting.config().connect().unwrap();
    put(&store, "before");
    assert_eq!(ids(&store).len(), 1);
    setting
        .cluster
        .configure("default_transaction_read_only = on\n")
        .unwrap();
    setting.cluster.restart().unwrap();
    put(&store, "during");
    assert_eq!(ids(&store).len(), 2);
    store.close().unwrap();
    let store = setting.config().connect().unwrap();
    assert_eq!(ids(&store).len(), 2);
    store.close().unwrap();
    setting
        .cluster
        .configure("default_transaction_read_only = off\n")
        .unwrap();
    setting.cluster.restart().unwrap();
    setting.assert_completed(2);
}

#[test]
fn statements_that_may_take_no_time_fail_and_lose_nothing() {
    let mut setting = Setting::new();
    let store = setting.config().connect().unwrap();
    put(&store, "before");
    assert_eq!(ids(&store).len(), 1);
    setting
        .cluster
        .configure("statement_timeout = 1\n")
        .unwrap();
    setting.cluster.restart().unwrap();
    for number in 0..200 {
        put(&store, &format!("during{number:03}"));
    }
    assert_eq!(ids(&store).len(), 201);
    store.close().unwrap();
    setting
        .cluster
        .configure("statement_timeout = 0\n")
        .unwrap();
    setting.cluster.restart().unwrap();
    setting.assert_completed(201);
}

#[test]
fn a_server_that_stands_still_is_left_alone_and_told_later() {
    let setting = Setting::new();
    let store = setting.config().connect().unwrap();
    put(&store, "before");
    assert_eq!(ids(&store).len(), 1);
    store.close().unwrap();
    setting.cluster.freeze(true).unwrap();
    let store = setting.config().connect().unwrap();
    // The first call waits for a connection, the others do not.
    for number in 0..20 {
        put(&store, &format!("during{number:02}"));
    }
    assert_eq!(ids(&store).len(), 21);
    assert_eq!(
        store.index_state().unwrap().standing,
        IndexStanding::Unreachable
    );
    store.close().unwrap();
    setting.cluster.freeze(false).unwrap();
    setting.assert_completed(21);
}
