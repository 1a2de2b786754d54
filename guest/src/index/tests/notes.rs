//! What several writers note of their changes at the same moment: whatever order they come in, a query sees every run
//! that was put before it.

use super::foreign::{counted, still};
use super::*;
use crate::ports::PortError;
use crate::testing::Touch;
use std::cell::{Cell, RefCell};
use std::io::Write;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

fn unwatched(root: &Path) -> Store {
    still(root, Access::ReadWrite, Durability::Relaxed, |_, _| ())
}

/// The names that the index lists, without a comparison: that would look at all of them.
fn listed(store: &Store) -> Vec<String> {
    let query = QueryText {
        columns: "run_id",
        sort: "run_id",
        ..QueryText::default()
    };
    let lines = answer(store.query_runs(&query).unwrap()).lines;
    let name = |line: &String| line.split('"').nth(3).unwrap_or_default().to_owned();
    lines.iter().map(name).collect()
}

fn reader(root: &Path) -> (Store, Rc<Cell<usize>>) {
    counted(root, Access::ReadWrite, Durability::Relaxed)
}

/// The side of a thread that stops for another.
struct Stop {
    reached: Sender<()>,
    go: Receiver<()>,
}

/// The side of the other.
struct Gate {
    reached: Receiver<()>,
    go: Sender<()>,
}

fn stop() -> (Stop, Gate) {
    let (reached, at) = channel();
    let (go, gone) = channel();
    (Stop { reached, go: gone }, Gate { reached: at, go })
}

impl Stop {
    fn wait(&self) {
        self.reached.send(()).unwrap();
        self.go.recv().unwrap();
    }
}

impl Gate {
    /// Lets the thread go on, and waits until it stops again.
    fn pass(&self) {
        self.go.send(()).unwrap();
        self.reached.recv().unwrap();
    }
}

/// How the run `slow` is put.
#[derive(Clone, Copy)]
struct Slow {
    durability: Durability,
    /// When it stops.
    moment: (Touch, &'static str),
    /// Whether there was a file of notes before.
    noting: bool,
    /// What happens after the stop.
    then: Result<(), PortError>,
    /// Whether nothing works from there on, as if it were killed.
    killed: bool,
}

const NOTE: (Touch, &str) = (Touch::Append, ".index/changes");

impl Default for Slow {
    fn default() -> Self {
        Self {
            durability: Durability::Relaxed,
            moment: NOTE,
            noting: true,
            then: Ok(()),
            killed: false,
        }
    }
}

/// Puts the run `slow` in another thread, which stops three times: before the put, once during it, and after it.
fn slowly(root: &Path, slow: Slow, work: impl FnOnce(Gate) -> Rc<Gate>) {
    let (stop, gate) = stop();
    thread::scope(|threads| {
        threads.spawn(move || {
            let stop = Rc::new(stop);
            let armed = Rc::new(Cell::new(false));
            let dead = Rc::new(Cell::new(false));
            let (stopping, inside) = (Rc::clone(&armed), Rc::clone(&stop));
            let store = still(
                root,
                Access::ReadWrite,
                slow.durability,
                move |touch, path| {
                    if dead.get() {
                        return Err(PortError::Other("io"));
                    }
                    if (touch, path) == slow.moment && stopping.replace(false) {
                        inside.wait();
                        dead.set(slow.killed);
                        return slow.then;
                    }
                    Ok(())
                },
            );
            if slow.noting {
                put(&store, "first", "1");
            }
            stop.wait();
            armed.set(true);
            let record = r#"{"run_id": "slow", "experiment_id": "e", "status": "success"}"#;
            let done = store.put_run_text(record, &Expectation::Anything);
            assert!(!armed.get(), "it never did this: {:?}", slow.moment);
            // A note that cannot be written is no failure of the put.
            done.unwrap();
            drop(store);
            stop.wait();
        });
        gate.reached.recv().unwrap();
        let gate = work(gate);
        gate.go.send(()).unwrap();
    });
}

/// Puts the run `quick`. Just before its file gets its name, something else happens: what is noted of the directory covers
/// that, too.
fn put_around(root: &Path, work: impl Fn() + 'static) {
    let around = Rc::new(Cell::new(false));
    let begun = Rc::clone(&around);
    let quick = still(
        root,
        Access::ReadWrite,
        Durability::Relaxed,
        move |touch, path| {
            if (touch, path) == (Touch::Rename, "runs/quick.json") && begun.replace(false) {
                work();
            }
        },
    );
    put(&quick, "second", "1");
    around.set(true);
    put(&quick, "quick", "1");
    assert!(!around.get());
}

/// Makes a store with an index, and returns one that knows it.
fn prepare(root: &Path) -> (Store, Rc<Cell<usize>>) {
    put(&unwatched(root), "a", "1");
    let (store, looks) = reader(root);
    assert_eq!(listed(&store), ["a"]);
    assert!(root.join(".index/changes").exists());
    (store, looks)
}

/// Lists all runs while `slow` has changed its file and not yet noted it: what others noted explains the directory.
fn list_between(root: &Path, gate: Gate, store: &Store, looks: &Cell<usize>) -> Rc<Gate> {
    let gate = Rc::new(gate);
    let inside = Rc::clone(&gate);
    put_around(root, move || inside.pass());
    let before = looks.get();
    assert_eq!(listed(store), ["a", "first", "quick", "second"]);
    assert_eq!(looks.get(), before, "the notes were not used");
    gate
}

const ALL: [&str; 5] = ["a", "first", "quick", "second", "slow"];

#[test]
fn a_run_is_listed_once_it_is_put_also_if_its_note_comes_after_one_that_covers_it() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let (store, looks) = prepare(root);
    slowly(root, Slow::default(), |gate| {
        let gate = list_between(root, gate, &store, &looks);
        gate.pass();
        assert_eq!(listed(&store), ALL);
        gate
    });
}

#[test]
fn a_run_is_listed_once_it_is_put_also_if_its_note_cannot_be_written() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let (store, looks) = prepare(root);
    let full = Slow {
        then: Err(PortError::NoSpace),
        ..Slow::default()
    };
    slowly(root, full, |gate| {
        let gate = list_between(root, gate, &store, &looks);
        gate.pass();
        assert_eq!(listed(&store), ALL);
        // Others that knew the notes are told, too; and notes are begun anew.
        put(&store, "b", "1");
        assert_eq!(listed(&store).len(), 6);
        gate
    });
}

#[test]
fn a_run_of_a_writer_that_was_killed_before_its_note_is_listed_once_the_store_is_recovered() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let (store, looks) = prepare(root);
    let killed = Slow {
        durability: Durability::Full,
        then: Err(PortError::Other("io")),
        killed: true,
        ..Slow::default()
    };
    slowly(root, killed, |gate| {
        let gate = list_between(root, gate, &store, &looks);
        gate.pass();
        drop(unwatched(root));
        assert_eq!(listed(&store), ALL);
        gate
    });
}

#[test]
fn a_run_is_listed_once_it_is_put_also_if_the_notes_are_begun_anew_meanwhile() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let gate: Rc<RefCell<Option<Rc<Gate>>>> = Rc::default();
    let looks = Rc::new(Cell::new(0));
    let (held, counted) = (Rc::clone(&gate), Rc::clone(&looks));
    put(&unwatched(root), "a", "1");
    let store = still(
        root,
        Access::ReadWrite,
        Durability::Relaxed,
        move |touch, path| {
            match (touch, path) {
                (Touch::List, "runs") => counted.set(counted.get() + 1),
                // Its note goes to the old file, once all in there was read.
                (Touch::Rename, ".index/changes") => {
                    if let Some(gate) = held.take() {
                        gate.pass();
                    }
                }
                _ => {}
            }
        },
    );
    assert_eq!(listed(&store), ["a"]);
    slowly(root, Slow::default(), |inner| {
        let passing = list_between(root, inner, &store, &looks);
        *gate.borrow_mut() = Some(Rc::clone(&passing));
        // So many notes that they are begun anew.
        let many: Vec<String> = (0..9_000).map(|run| format!("{run:0120}")).collect();
        let note = super::super::changes::encode([None; 2], &many);
        let log = root.join(".index/changes");
        let mut log = fs::OpenOptions::new().append(true).open(log).unwrap();
        log.write_all(&note).unwrap();
        put(&store, "b", "1");
        listed(&store);
        assert!(gate.borrow().is_none(), "the notes were not begun anew");
        assert_eq!(listed(&store).len(), 6);
        assert_eq!(listed(&reader(root).0).len(), 6);
        passing
    });
}

#[test]
fn a_run_is_listed_once_it_is_put_also_if_the_notes_were_begun_while_it_was_put() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    put(&unwatched(root), "a", "1");
    let slow = Slow {
        moment: (Touch::Rename, "runs/slow.json"),
        noting: false,
        ..Slow::default()
    };
    slowly(root, slow, |gate| {
        gate.pass();
        let (store, looks) = prepare(root);
        let gate = Rc::new(gate);
        let inside = Rc::clone(&gate);
        put_around(root, move || inside.pass());
        let before = looks.get();
        assert_eq!(listed(&store), ["a", "quick", "second", "slow"]);
        assert_eq!(looks.get(), before, "the notes were not used");
        gate
    });
}
