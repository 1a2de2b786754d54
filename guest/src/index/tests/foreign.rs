//! What other programs do to the files between and during queries.

use super::*;
use crate::ports::Ports;
use crate::testing::{Answer, Touch, watched};
use std::cell::Cell;
use std::rc::Rc;

/// A clock that goes on by a microsecond a look, so that how fast the test runs decides nothing.
struct Steps(Cell<u64>);

impl crate::ports::Clock for Steps {
    fn now(&self) -> u64 {
        self.0.set(self.0.get() + 1_000);
        self.0.get()
    }
}

/// Opens a store in which no time passes, so that it does not look at all names again by itself, in a watched directory.
pub(super) fn still<A: Answer>(
    directory: &Path,
    access: Access,
    durability: Durability,
    told: impl Fn(Touch, &str) -> A + 'static,
) -> Store {
    let ports = native::ports(directory).unwrap();
    let ports = Ports {
        directory: watched(Rc::clone(&ports.directory), told),
        clock: Rc::new(Steps(Cell::new(ports.clock.now()))),
        ..ports
    };
    let options = StoreOptions {
        directory: directory.to_str().unwrap().to_owned(),
        experiment_id: Some("e".to_owned()),
        access,
        durability,
        lock_timeout_ms: 1000,
        index: None,
    };
    Store::open(ports, options).unwrap()
}

/// The same, and how often it looked at all names.
pub(super) fn counted(
    directory: &Path,
    access: Access,
    durability: Durability,
) -> (Store, Rc<Cell<usize>>) {
    let lists = Rc::new(Cell::new(0));
    let counted = Rc::clone(&lists);
    let store = still(directory, access, durability, move |touch, path| {
        if (touch, path) == (Touch::List, "runs") {
            counted.set(counted.get() + 1);
        }
    });
    (store, lists)
}

fn runs(store: &Store) -> Vec<String> {
    answer(store.query_runs(&QueryText::default()).unwrap()).lines
}

#[test]
fn what_is_added_removed_and_replaced_is_seen_at_once_also_in_the_same_tick_and_of_the_same_size() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let stores = [
        open(root),
        open_as(root, None, Access::ReadOnly),
        open_as(root, Some("e"), Access::ReadWrite),
    ];
    let mut random = Random::new(7);
    for _ in 0..300 {
        let run = format!("r{}", random.below(12));
        match random.below(8) {
            0..=3 => write_foreign(root, &run, &format!("{}", 1 + random.below(9))),
            4 | 5 => drop(fs::remove_file(root.join(format!("runs/{run}.json")))),
            6 => {
                let stage = root.join("derived/x.part");
                fs::create_dir_all(root.join("derived")).unwrap();
                fs::write(&stage, format!("{{\"f1\": {}}}", random.below(10))).unwrap();
                fs::rename(stage, root.join(format!("derived/{run}.json"))).unwrap();
            }
            _ => drop(fs::remove_file(root.join(format!("derived/{run}.json")))),
        }
        let store = &stores[random.below(3)];
        let query = QueryText {
            filter: random.pick(&["", "metrics.loss > 4", "derived.f1 < 5 or metrics.loss = 2"]),
            sort: random.pick(&["", "metrics.loss desc", "derived.f1"]),
            limit: random.pick(&[None, Some(3)]),
            ..QueryText::default()
        };
        ask(store, &query);
    }
}

#[test]
fn our_own_puts_and_foreign_changes_in_turn_are_all_seen() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let stores = [open(root), open(root)];
    let mut random = Random::new(8);
    for _ in 0..300 {
        let run = format!("r{}", random.below(12));
        let loss = format!("{}", 1 + random.below(9));
        match random.below(6) {
            0..=2 => put(&stores[random.below(2)], &run, &loss),
            3 => drop(stores[random.below(2)].delete_run(&run).unwrap()),
            4 => write_foreign(root, &run, &loss),
            _ => drop(fs::remove_file(root.join(format!("runs/{run}.json")))),
        }
        if random.below(3) > 0 {
            all(&stores[random.below(2)]);
        }
    }
}

#[test]
fn a_change_between_two_pages_is_on_the_second() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    for run in 0..20 {
        write_foreign(root, &format!("r{run:02}"), &run.to_string());
    }
    for access in [Access::ReadOnly, Access::ReadWrite] {
        let store = open_as(root, None, access);
        let mut query = QueryText {
            sort: "metrics.loss",
            limit: Some(5),
            ..QueryText::default()
        };
        let first = ask(&store, &query);
        let cursor = first.cursor.unwrap();
        query.cursor = Some(&cursor);
        write_foreign(root, "r05", "100");
        write_foreign(root, "new", "5.5");
        fs::remove_file(root.join("runs/r06.json")).unwrap();
        let second = ask(&store, &query);
        assert!(second.lines[0].contains("\"new\""), "{second:?}");
        assert!(second.lines[1].contains("\"r07\""), "{second:?}");
        write_foreign(root, "r05", "5");
        write_foreign(root, "r06", "6");
        fs::remove_file(root.join("runs/new.json")).unwrap();
    }
}

#[test]
fn a_file_rewritten_in_place_is_seen_where_it_is_returned_and_everywhere_with_check() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    for run in 0..10 {
        write_foreign(root, &format!("r{run}"), &format!("{run}.5"));
    }
    let store = open(root);
    all(&store);
    let path = |run: &str| root.join(format!("runs/{run}.json"));
    let rewrite = |run: &str, from: &str, to: &str| {
        let text = fs::read_to_string(path(run)).unwrap();
        assert!(text.contains(from));
        fs::write(path(run), text.replace(from, to)).unwrap();
    };
    let best = |check| QueryText {
        sort: "metrics.loss",
        limit: Some(2),
        check,
        ..QueryText::default()
    };
    // The best one is not the best any more; it has the same size.
    rewrite("r0", "0.5", "9.9");
    let answered = ask(&store, &best(false));
    assert!(answered.lines[0].contains("\"r1\""), "{answered:?}");
    // One that was not on the page comes to be: only a check can tell.
    rewrite("r9", "9.5", "0.1");
    let answered = ask(&store, &best(true));
    assert!(answered.lines[0].contains("\"r9\""), "{answered:?}");
    all(&store);
}

#[test]
fn a_damaged_file_is_reported_each_time_until_it_is_repaired_in_place() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    write_foreign(root, "good", "1");
    fs::write(root.join("runs/bad.json"), "{").unwrap();
    fs::create_dir_all(root.join("derived")).unwrap();
    fs::write(root.join("derived/good.json"), "[]").unwrap();
    for access in [Access::ReadWrite, Access::ReadOnly] {
        let store = open_as(root, None, access);
        for _ in 0..3 {
            assert_eq!(all(&store).damaged.len(), 1);
            let query = QueryText {
                sort: "derived.x",
                ..QueryText::default()
            };
            let answered = ask(&store, &query);
            assert_eq!((answered.damaged.len(), answered.lines.len()), (2, 0));
        }
    }
    let store = open(root);
    assert_eq!(all(&store).damaged.len(), 1);
    fs::write(root.join("runs/bad.json"), "{\"status\": \"success\"}").unwrap();
    let answered = all(&store);
    assert_eq!((answered.damaged.len(), answered.lines.len()), (0, 2));
}

#[test]
fn what_our_own_writers_changed_is_known_without_a_look_at_all_names() {
    for durability in [Durability::Relaxed, Durability::Full] {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let (writer, _) = counted(root, Access::ReadWrite, durability);
        let (reader, lists) = counted(root, Access::ReadWrite, durability);
        for run in 0..20 {
            put(&writer, &format!("r{run}"), "1");
        }
        runs(&reader);
        let before = lists.get();
        assert!(before > 0);
        // Whoever just noticed that there is an index needs a moment.
        let (writer, _) = counted(root, Access::ReadWrite, durability);
        for run in 0..20 {
            put(&writer, &format!("r{run}"), "2");
            put(&writer, &format!("n{run}"), "3");
            assert_eq!(runs(&reader).len(), 21 + run);
            writer.delete_run(&format!("r{run}")).unwrap();
            assert_eq!(runs(&reader).len(), 20 + run);
            put(&writer, &format!("r{run}"), "2");
        }
        assert_eq!(lists.get(), before);
        // Another program's change is not covered by them.
        write_foreign(root, "foreign", "1");
        put(&writer, "r1", "4");
        assert!(
            runs(&reader)
                .iter()
                .any(|line| line.contains("\"foreign\""))
        );
        assert!(lists.get() > before);
        all(&reader);
    }
}

#[test]
fn a_saved_index_is_used_by_the_next_store_and_a_reader_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let tree = || {
        let mut names: Vec<String> = fs::read_dir(root.join(".index"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    {
        let (writer, _) = counted(root, Access::ReadWrite, Durability::Full);
        for run in 0..300 {
            put(&writer, &format!("r{run}"), "1");
        }
        writer.close().unwrap();
        all(&writer);
    }
    let before = tree();
    assert!(before.iter().any(|name| name == "columns"), "{before:?}");
    for _ in 0..2 {
        let (reader, lists) = counted(root, Access::ReadOnly, Durability::Full);
        assert_eq!(runs(&reader).len(), 300);
        assert_eq!(lists.get(), 0);
        all(&reader);
    }
    assert_eq!(tree(), before);
    fs::remove_dir_all(root.join(".index")).unwrap();
    let (reader, lists) = counted(root, Access::ReadOnly, Durability::Full);
    assert_eq!(runs(&reader).len(), 300);
    assert!(lists.get() > 0);
    assert!(!root.join(".index").exists());
}

#[test]
fn looking_at_a_directory_that_is_no_store_yet_leaves_nothing_in_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    assert_eq!(all(&store).lines, [] as [String; 0]);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_collection_sees_the_changes_in_its_experiments() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let experiments = ["e", "f"].map(|name| {
        let path = root.join(name);
        fs::create_dir(&path).unwrap();
        (open_as(&path, Some(name), Access::ReadWrite), path)
    });
    let collection = open(root);
    let mut random = Random::new(9);
    for round in 0..60 {
        let (store, path) = &experiments[random.below(2)];
        let run = format!("r{}", random.below(6));
        let experiment = path.file_name().unwrap().to_str().unwrap();
        let record = format!(
            "{{\"run_id\": \"{run}\", \"experiment_id\": \"{experiment}\", \"status\": \"failed\", \"metrics\": {{\"loss\": {round}}}}}"
        );
        match random.below(4) {
            0 | 1 => drop(store.put_run_text(&record, &Expectation::Anything).unwrap()),
            2 => fs::write(path.join(format!("runs/{run}.json")), record).unwrap(),
            _ => drop(fs::remove_file(path.join(format!("runs/{run}.json")))),
        }
        if random.below(3) == 0 {
            all(store);
        }
        let query = QueryText {
            sort: random.pick(&["", "metrics.loss desc"]),
            limit: random.pick(&[None, Some(2)]),
            check: true,
            ..QueryText::default()
        };
        ask(&collection, &query);
    }
}

#[test]
fn a_removed_or_replaced_directory_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    for run in 0..5 {
        write_foreign(root, &format!("r{run}"), "1");
    }
    let store = open(root);
    assert_eq!(all(&store).lines.len(), 5);
    fs::rename(root.join("runs"), root.join("old")).unwrap();
    assert_eq!(all(&store).lines.len(), 0);
    write_foreign(root, "other", "1");
    assert_eq!(all(&store).lines.len(), 1);
    fs::remove_dir_all(root.join("runs")).unwrap();
    fs::rename(root.join("old"), root.join("runs")).unwrap();
    assert_eq!(all(&store).lines.len(), 5);
}
