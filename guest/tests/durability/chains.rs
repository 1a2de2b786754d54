//! Long histories of one run: by two writers in turns, with checkpoints between, and artifact manifests that
//! grow piece by piece in the journal.

use crate::script::{
    RUNS, canonical, descriptor, dump, filler, leftovers, open, record, samples, seed,
};
use crate::sim::{Disk, Fault, SimDisk, Tree};
use metalab_store_guest::codec;
use metalab_store_guest::json::Value;
use metalab_store_guest::model::{Access, Expectation};
use metalab_store_guest::store::Store;

/// Recovers a state and returns the files; nothing is left behind.
fn recovered(image: &Disk) -> Tree {
    let disk = SimDisk::of(image.clone(), 9);
    open(&disk, Access::ReadWrite).unwrap().close().unwrap();
    let tree = disk.tree();
    assert_eq!(leftovers(&tree), Vec::<String>::new());
    canonical(tree)
}

/// Whatever a power cut now leaves is recovered to exactly what is there now; so is a kill.
fn survives(disk: &SimDisk, context: &str) {
    let image = disk.image();
    let wanted = canonical(disk.tree());
    assert!(recovered(&image) == wanted, "{context}: after a kill");
    for (number, state) in image
        .after_power_cuts(samples(20), seed())
        .iter()
        .enumerate()
    {
        let found = recovered(state);
        for path in wanted.keys().chain(found.keys()) {
            assert!(
                wanted.get(path) == found.get(path),
                "{context}: seed {}, power cut {number}: {path} has {:?} bytes and should have {:?}",
                seed(),
                found.get(path).map(|content| content.len()),
                wanted.get(path).map(|content| content.len())
            );
        }
    }
}

fn put(store: &Store, run: &str, tag: &str) {
    let record = record(run, tag, 300);
    store
        .put_run_record(&record, &Expectation::Anything)
        .unwrap();
}

#[test]
fn two_writers_in_turns_lose_nothing_with_a_checkpoint_by_either_between() {
    // Which of them closes (C), is killed (K) or goes on (-) after its turn.
    for (first, second) in [
        ("-", "-"),
        ("-", "C"),
        ("C", "-"),
        ("-", "K"),
        ("K", "-"),
        ("C", "C"),
        ("K", "C"),
    ] {
        for history in 0..4 {
            let context = format!("first {first}, second {second}, history {history}");
            let disk = SimDisk::new(3);
            let mut stores = [0, 1].map(|_| Some(open(&disk, Access::ReadWrite).unwrap()));
            for turn in 0..7 {
                let process = turn % 2;
                let store =
                    stores[process].get_or_insert_with(|| open(&disk, Access::ReadWrite).unwrap());
                match history {
                    0 => put(store, "c", &format!("turn {turn}")),
                    // The same bytes come back: what is replaced looks like what was written before.
                    1 => put(store, "c", ["one", "other"][turn / 2 % 2]),
                    2 if turn % 3 == 2 => assert!(store.delete_run("c").unwrap()),
                    2 => put(store, "c", "the same"),
                    _ => {
                        let content = filler(&format!("turn {turn}"), 700);
                        let name = ["a", "b", "c"][turn % 3];
                        let descriptor = descriptor("c", name, "txt");
                        store.put_artifact(content.as_bytes(), descriptor).unwrap();
                    }
                }
                survives(&disk, &format!("{context}, turn {turn}"));
                match [first, second][process] {
                    "C" => {
                        stores[process].take().unwrap().close().unwrap();
                        survives(&disk, &format!("{context}, turn {turn}, closed"));
                    }
                    "K" => stores[process] = None,
                    _ => {}
                }
            }
        }
    }
}

#[test]
fn a_manifest_of_many_artifacts_is_recovered_from_the_pieces_in_the_journal() {
    let disk = SimDisk::new(4);
    let store = open(&disk, Access::ReadWrite).unwrap();
    for number in 0..40 {
        let content = filler(&number.to_string(), 200);
        let name = format!("artifact-{number}");
        store
            .put_artifact(content.as_bytes(), descriptor("c", &name, "txt"))
            .unwrap();
        if number % 3 == 0 {
            survives(&disk, &format!("artifact {number}"));
        }
    }
    survives(&disk, "all artifacts");
    let found = dump(&store).unwrap();
    assert_eq!(found.len(), 40);
}

#[test]
fn pieces_of_a_manifest_are_put_together_when_another_writer_made_their_beginning_durable() {
    // The first writer's whole manifest lies below a generation that the second writer's checkpoint made
    // durable, and whose entry is gone. Its later pieces refer to the manifest all the same.
    let disk = SimDisk::new(5);
    let first = open(&disk, Access::ReadWrite).unwrap();
    for name in ["a", "b"] {
        first
            .put_artifact(b"content", descriptor("c", name, "txt"))
            .unwrap();
    }
    let second = open(&disk, Access::ReadWrite).unwrap();
    put(&second, "c", "one");
    put(&second, "c", "two");
    second.close().unwrap();
    for name in ["d", "e", "f"] {
        first
            .put_artifact(b"content", descriptor("c", name, "txt"))
            .unwrap();
        survives(&disk, name);
    }
}

#[test]
fn pieces_of_a_manifest_are_not_lost_when_the_journal_was_removed_between_them() {
    let disk = SimDisk::new(6);
    let store = open(&disk, Access::ReadWrite).unwrap();
    for name in ["a", "b"] {
        store
            .put_artifact(b"content", descriptor("c", name, "txt"))
            .unwrap();
    }
    disk.foreign_remove(".index");
    store
        .put_artifact(b"content", descriptor("c", "d", "txt"))
        .unwrap();
    survives(&disk, "after the journal was removed");
}

#[test]
fn an_artifact_of_many_runs_at_a_time_is_recovered_for_each() {
    let disk = SimDisk::new(7);
    let store = open(&disk, Access::ReadWrite).unwrap();
    for round in 0..4 {
        for run in RUNS {
            let content = filler(&format!("{round} {run}"), 400);
            let name = format!("n{round}");
            store
                .put_artifact(content.as_bytes(), descriptor(run, &name, "bin"))
                .unwrap();
        }
        survives(&disk, &format!("round {round}"));
    }
}

#[test]
fn a_clock_that_is_set_back_loses_nothing_of_one_writer() {
    let disk = SimDisk::new(8);
    let store = open(&disk, Access::ReadWrite).unwrap();
    put(&store, "c", "one");
    disk.advance(-3_600_000_000_000);
    put(&store, "c", "two");
    survives(&disk, "replaced by the same writer");
    disk.advance(-3_600_000_000_000);
    assert!(store.delete_run("c").unwrap());
    survives(&disk, "deleted");
    disk.advance(-3_600_000_000_000);
    put(&store, "c", "three");
    survives(&disk, "put again");
    // From the second change of a run on, the lock's file tells the order to other writers too.
    let other = open(&disk, Access::ReadWrite).unwrap();
    disk.advance(-3_600_000_000_000);
    put(&other, "c", "four");
    survives(&disk, "replaced by another writer");
}

#[test]
fn without_working_locks_every_call_is_durable_by_itself() {
    let disk = SimDisk::new(10);
    disk.set_locks(false);
    let store = open(&disk, Access::ReadWrite).unwrap();
    let check = |context: &str| {
        let wanted = canonical(disk.tree());
        for state in disk.image().after_power_cuts(samples(20), seed()) {
            let disk = SimDisk::of(state, 11);
            disk.set_locks(false);
            let store = open(&disk, Access::ReadOnly).unwrap();
            dump(&store).unwrap();
            let mut found = canonical(disk.tree());
            found.retain(|path, _| !path.contains(".tmp."));
            assert!(found == wanted, "{context}: {:?}", found.keys());
        }
    };
    put(&store, "c", "one");
    check("put");
    put(&store, "c", "two");
    check("replaced");
    store
        .put_artifact(b"content", descriptor("c", "a", "txt"))
        .unwrap();
    check("artifact");
    let large = filler("large", 70_000);
    store
        .put_artifact(large.as_bytes(), descriptor("c", "b", "txt"))
        .unwrap();
    check("large artifact");
    store.put_log("c", "out_err", "line").unwrap();
    check("log");
    assert!(store.delete_run("c").unwrap());
    check("deleted");
}

#[test]
fn a_store_on_a_file_system_that_is_read_only_shows_what_was_promised() {
    let disk = SimDisk::new(12);
    let store = open(&disk, Access::ReadWrite).unwrap();
    put(&store, "c", "one");
    put(&store, "c", "two");
    store
        .put_artifact(b"content", descriptor("c", "a", "txt"))
        .unwrap();
    let wanted = dump(&store).unwrap();
    for state in disk.image().after_power_cuts(samples(20), seed()) {
        let disk = SimDisk::of(state, 13);
        disk.set_read_only(true);
        let store = open(&disk, Access::ReadOnly).unwrap();
        assert_eq!(dump(&store).unwrap(), wanted);
        assert_eq!(disk.changes(), 0);
    }
}

#[test]
fn a_call_of_a_killed_writer_is_whole_or_nothing_to_the_writers_that_live_on() {
    for kind in [
        "replace an artifact",
        "replace it by another format",
        "delete",
    ] {
        for call in 0.. {
            let disk = SimDisk::new(14);
            let killed = open(&disk, Access::ReadWrite).unwrap();
            let lives = open(&disk, Access::ReadWrite).unwrap();
            for name in ["a", "b"] {
                killed
                    .put_artifact(b"content", descriptor("c", name, "txt"))
                    .unwrap();
            }
            put(&killed, "c", "one");
            disk.plan(Some(Fault::Crash(disk.calls() + call)));
            let outcome = match kind {
                "delete" => killed.delete_run("c").map(drop),
                kind => {
                    let format = if kind == "replace an artifact" {
                        "txt"
                    } else {
                        "bin"
                    };
                    killed
                        .put_artifact(b"other content", descriptor("c", "a", format))
                        .map(drop)
                }
            };
            disk.plan(None);
            if outcome.is_ok() {
                break;
            }
            drop(killed);
            let context = format!("{kind}, killed at call {call}");
            lives
                .put_artifact(b"later", descriptor("c", "later", "txt"))
                .unwrap();
            let found = dump(&lives).unwrap_or_else(|error| panic!("{context}: {error}"));
            let keys: Vec<&String> = found.keys().collect();
            let all = [
                "artifact c a",
                "artifact c b",
                "artifact c later",
                "record c",
            ];
            let deleted = ["artifact c later"];
            assert!(
                keys == all || kind == "delete" && keys == deleted,
                "{context}: {keys:?}"
            );
            lives.close().unwrap();
            drop(lives);
            open(&disk, Access::ReadWrite).unwrap().close().unwrap();
            let store = open(&disk, Access::ReadOnly).unwrap();
            let again = dump(&store).unwrap_or_else(|error| panic!("{context}, reopened: {error}"));
            assert_eq!(again, found, "{context}, reopened");
        }
    }
}

/// Another program writes as the reference does: it renames, and syncs nothing.
#[test]
fn what_replaces_another_programs_unsynced_file_survives_as_much_as_anything_else() {
    let disk = SimDisk::new(12);
    let store = open(&disk, Access::ReadWrite).unwrap();
    let text = |tag: &str| {
        let record = record("c", tag, 300);
        codec::print(&Value::Object(codec::run_record_to(&record).unwrap())).into_bytes()
    };
    disk.foreign_write("runs/c.json", &text("foreign"));
    put(&store, "c", "ours");
    survives(&disk, "replaced");
    put(&store, "c", "ours again");
    survives(&disk, "replaced again");
    disk.foreign_write("runs/c.json", &text("foreign again"));
    disk.advance(100_000_000);
    put(&store, "c", "last");
    survives(&disk, "replaced after a change by both");
    disk.foreign_write("derived/c.json", b"{}");
    store.put_derived_text("c", r#"{"a": 1}"#).unwrap();
    survives(&disk, "derived metrics replaced");
    disk.foreign_write("runs/c.json", &text("foreign at last"));
    disk.foreign_write("derived/c.json", b"{}");
    disk.foreign_write("results/c/x.json", b"{}");
    assert!(store.delete_run("c").unwrap());
    survives(&disk, "deleted");
    // A file that was there for long is as durable as it will ever be.
    disk.foreign_write("runs/c.json", &text("old"));
    disk.sync();
    disk.advance(3_600_000_000_000);
    put(&store, "c", "new");
    survives(&disk, "an old one replaced");
    // Of many, all are made durable at once.
    let records: Vec<_> = (0..40)
        .map(|index| record(&format!("many-{index}"), "ours", 50))
        .collect();
    for record in &records {
        disk.foreign_write(&format!("runs/{}.json", record.run_id), b"{}");
    }
    let outcomes = store.put_run_records(&records).unwrap();
    assert!(outcomes.iter().all(Result::is_ok));
    survives(&disk, "a batch");
}
