//! Logs are found whoever wrote them, and without a look at all names for every call.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use metalab_store_guest::model::{Access, Durability, StoreOptions};
use metalab_store_guest::native;
use metalab_store_guest::ports::{Clock, Directory, Ports};
use metalab_store_guest::store::Store;
use metalab_store_guest::testing::{self, Touch};
use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::rc::Rc;

/// Watches a directory: counts how often its `logs/` is listed, and lets others work before a file goes.
fn watched(
    inner: Rc<dyn Directory>,
    lists: Rc<Cell<u32>>,
    others: impl Fn() + 'static,
) -> Rc<dyn Directory> {
    let before = move |touch, path: &str| match touch {
        Touch::List if path == "logs" => lists.set(lists.get() + 1),
        Touch::RemoveFile => others(),
        _ => {}
    };
    testing::watched(inner, before)
}

/// A clock by which no time passes: after changes of its own a store looks again every few seconds.
struct SlowClock {
    start: u64,
    steps: Cell<u64>,
}

impl Clock for SlowClock {
    fn now(&self) -> u64 {
        self.steps.set(self.steps.get() + 1_000);
        self.start + self.steps.get()
    }
}

fn open_with(ports: Ports, directory: &Path, access: Access) -> Store {
    let options = StoreOptions {
        directory: directory.to_str().unwrap().to_owned(),
        experiment_id: Some("e:1".to_owned()),
        access,
        durability: Durability::Relaxed,
        lock_timeout_ms: 1000,
        index: None,
    };
    Store::open(ports, options).unwrap()
}

fn open(directory: &Path, access: Access) -> Store {
    open_with(native::ports(directory).unwrap(), directory, access)
}

#[test]
fn a_store_s_own_changes_cost_no_look_at_all_names() {
    let directory = tempfile::tempdir().unwrap();
    let lists = Rc::new(Cell::new(0));
    let mut ports = native::ports(directory.path()).unwrap();
    ports.clock = Rc::new(SlowClock {
        start: ports.clock.now(),
        steps: Cell::new(0),
    });
    ports.directory = watched(ports.directory, Rc::clone(&lists), || ());
    let store = open_with(ports, directory.path(), Access::ReadWrite);
    let run = |index: u32| format!("{index:016x}");
    for index in 0..50 {
        store.put_log(&run(index), "stdout", "text").unwrap();
        store
            .append_log(&run(index), "run", "line\n", false)
            .unwrap();
        assert_eq!(store.list_logs(&run(index)).unwrap(), ["run", "stdout"]);
    }
    for index in 0..50 {
        assert!(store.delete_run(&run(index)).unwrap());
        assert_eq!(store.list_logs(&run(index)).unwrap(), Vec::<String>::new());
    }
    assert_eq!(lists.get(), 1);
    assert_eq!(
        fs::read_dir(directory.path().join("logs")).unwrap().count(),
        0
    );
}

#[test]
fn what_others_do_to_the_directory_shows_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let ours = open(directory.path(), Access::ReadWrite);
    let other = open(directory.path(), Access::ReadWrite);
    let reader = open(directory.path(), Access::ReadOnly);
    let logs = directory.path().join("logs");
    let mut expected = std::collections::BTreeSet::new();
    // A fixed sequence of steps that look random.
    let mut state: u32 = 7;
    for _ in 0..2_000 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let (step, name) = (state >> 24, format!("n{}", (state >> 16) % 16));
        match step % 5 {
            0 => {
                fs::write(logs.join(format!("run_{name}.log")), "foreign").unwrap();
                expected.insert(name);
            }
            1 => {
                let file = logs.join(format!("run_{name}.log"));
                assert_eq!(fs::remove_file(file).is_ok(), expected.remove(&name));
            }
            2 => {
                ours.put_log("run", &name, "ours").unwrap();
                expected.insert(name);
            }
            3 => {
                other.append_log("run", &name, "other's\n", false).unwrap();
                expected.insert(name);
            }
            _ if step > 240 => {
                ours.delete_run("run").unwrap();
                expected.clear();
            }
            _ => {}
        }
        let wanted: Vec<&String> = expected.iter().collect();
        for store in [&ours, &other, &reader] {
            assert_eq!(
                store.list_logs("run").unwrap().iter().collect::<Vec<_>>(),
                wanted
            );
        }
    }
}

/// The time that a store gives the directory after a change of its own covered what another writer had created
/// meanwhile. For two seconds the new logs were in no list, and a delete of their run left them behind. Writers
/// count their changes now, and the store looks again if another one counted.
#[test]
fn a_log_that_another_writer_makes_during_a_delete_is_deleted_with_its_run() {
    let directory = tempfile::tempdir().unwrap();
    let other = open(directory.path(), Access::ReadWrite);
    let mut ports = native::ports(directory.path()).unwrap();
    let made = Rc::new(Cell::new(0));
    let count = Rc::clone(&made);
    ports.directory = watched(ports.directory, Rc::default(), move || {
        let run = format!("run{}", count.get());
        count.set(count.get() + 1);
        other.append_log(&run, "run", "line\n", false).unwrap();
    });
    let store = open_with(ports, directory.path(), Access::ReadWrite);
    store.put_log("first", "run", "line\n").unwrap();
    assert!(store.delete_run("first").unwrap());
    assert!(made.get() > 0);
    // Each delete lets the other one make another log.
    for index in 0..10 {
        let run = format!("run{index}");
        assert_eq!(store.list_logs(&run).unwrap(), ["run"]);
        assert!(store.delete_run(&run).unwrap());
        assert_eq!(store.list_logs(&run).unwrap(), Vec::<String>::new());
    }
}

#[test]
fn a_log_written_nested_leaves_no_older_text_that_would_be_read_before_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), Access::ReadWrite);
    let record = r#"{"run_id": "run", "experiment_id": "e:1", "status": "success"}"#;
    let anything = metalab_store_guest::model::Expectation::Anything;
    store.put_run_text(record, &anything).unwrap();
    let flat = directory.path().join("logs/run_step_1.log");
    let label = directory.path().join("logs/lr_run_step_2.log");
    fs::write(&flat, "old").unwrap();
    fs::write(&label, "of a run that nobody can tell").unwrap();
    assert_eq!(store.get_log("run", "step_1").unwrap().unwrap(), "old");
    store.put_log("run", "step_1", "new").unwrap();
    assert_eq!(store.get_log("run", "step_1").unwrap().unwrap(), "new");
    assert!(!flat.exists() && label.exists());
}

#[test]
fn deleting_a_run_that_never_was_creates_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions {
        directory: directory.path().to_str().unwrap().to_owned(),
        experiment_id: None,
        access: Access::ReadWrite,
        durability: Durability::Full,
        lock_timeout_ms: 1000,
        index: None,
    };
    let store = Store::open(native::ports(directory.path()).unwrap(), options).unwrap();
    assert!(!store.delete_run("run").unwrap());
    store.close().unwrap();
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}
