//! Writers are killed at any moment. What they acknowledged is there, and nothing is half done.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use metalab_store::FileStoreConfig;
use metalab_store_tests::script::{Numbers, State, after, calls, observe, seed};
use metalab_store_tests::{Worker, leftovers};
use std::path::Path;

/// How many writers are killed: `METALAB_STORE_KILLS`, or 200.
fn kills() -> u64 {
    let given = std::env::var("METALAB_STORE_KILLS").ok();
    given.and_then(|kills| kills.parse().ok()).unwrap_or(200)
}

/// Opens a store and compares it with the states that it may have; returns the one it has.
fn check(root: &Path, possible: &[State], context: &str) -> State {
    let store = FileStoreConfig::new(root)
        .scoped("exp:1")
        .connect()
        .unwrap();
    let found =
        observe(&store, possible[0].keys()).unwrap_or_else(|error| panic!("{context}: {error}"));
    let last = possible.last().unwrap();
    assert!(
        possible.contains(&found),
        "{context}: found {found:?}\nacknowledged {:?}\nor in the end {last:?}",
        possible[0]
    );
    // Everything that can be read, is: a second opening changes nothing.
    store.close().unwrap();
    found
}

/// Plays a script up to the calls that a writer acknowledged, and returns what may be there: the last call may
/// have been made or not.
fn possible(before: &State, prefix: &str, script: u64, done: usize) -> Vec<State> {
    let mut state = before.clone();
    for run in ["a", "b", "c", "d"] {
        state.entry(format!("{prefix}{run}")).or_default();
    }
    let mut calls = calls(prefix, script);
    for (tag, call) in calls.by_ref().take(done) {
        state = after(&state, &call, tag).pop().unwrap();
    }
    let (tag, call) = calls.next().unwrap();
    after(&state, &call, tag)
}

/// Lets a writer make calls and kills it; returns how many it had acknowledged.
fn kill_after(mut writer: Worker, acknowledged: u64, spins: u64) -> usize {
    let mut done = 0;
    for _ in 0..acknowledged {
        writer.line().unwrap();
        done += 1;
    }
    // Some time into the next call, whatever the machine does meanwhile.
    for _ in 0..spins {
        std::hint::spin_loop();
    }
    done + writer.kill()
}

#[test]
fn a_killed_writer_loses_nothing_that_it_acknowledged() {
    let seed = seed();
    println!("METALAB_STORE_SEED={seed}");
    let mut numbers = Numbers::new(seed);
    let mut killed = 0;
    let mut acknowledged = 0;
    while killed < kills() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("store");
        let mut state = State::new();
        for _ in 0..12 {
            let script = numbers.draw();
            let context = format!("METALAB_STORE_SEED={seed}, kill {killed}");
            let writer = Worker::start("script", &root, &["run-", &script.to_string()]);
            let (calls, spins) = (numbers.below(25), numbers.below(300_000));
            let done = kill_after(writer, calls, spins);
            killed += 1;
            acknowledged += done;
            let may_be = possible(&state, "run-", script, done);
            state = check(&root, &may_be, &context);
            assert_eq!(leftovers(&root), Vec::<String>::new(), "{context}");
        }
    }
    println!("{killed} writers killed, {acknowledged} calls acknowledged");
    assert!(acknowledged > 1000);
}

#[test]
fn a_killed_writer_disturbs_no_other_writer_of_the_same_store() {
    let seed = seed();
    println!("METALAB_STORE_SEED={seed}");
    let mut numbers = Numbers::new(seed);
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let (script, other_script) = (numbers.draw(), numbers.draw());
    let mut other = Worker::start("script", &root, &["other-", &other_script.to_string()]);
    other.line().unwrap();
    let mut state = State::new();
    for round in 0..10 {
        let context = format!("METALAB_STORE_SEED={seed}, round {round}");
        let script = script.wrapping_add(round);
        let writer = Worker::start("script", &root, &["run-", &script.to_string()]);
        let done = kill_after(writer, numbers.below(20), numbers.below(300_000));
        let may_be = possible(&state, "run-", script, done);
        // The other one goes on meanwhile.
        state = check(&root, &may_be, &context);
    }
    let done = 1 + other.end();
    let other_state = possible(&State::new(), "other-", other_script, done);
    check(&root, &other_state[..1], "the one that was not killed");
    assert_eq!(leftovers(&root), Vec::<String>::new());
}
