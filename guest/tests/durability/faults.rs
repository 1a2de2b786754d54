//! An error of the operating system at every single call of the script: a typed error, the previous value
//! intact unless the error says that the outcome is unknown, and a store that goes on working.

use crate::script::{
    Action, Allowed, Operation, RUNS, Soft, World, appended_to, canonical, check_model, descriptor,
    dump, is_many_calls, is_unknown, leftovers, open, samples, script, seed,
};
use crate::sim::{CallKind, Disk, Fault, Numbers, SimDisk, Tree};
use metalab_store_guest::error::Error;
use metalab_store_guest::model::{Access, Expectation};
use metalab_store_guest::ports::PortError;
use std::time::Instant;

/// How many operations of the script run before the one that fails, so that its store has a history.
const HISTORY: usize = 4;

/// What happened.
#[derive(Debug, Default)]
struct Count {
    operations: usize,
    faults: usize,
    errors: usize,
    unknown: usize,
    no_errors: usize,
}

/// A place in the script: a disk, the operations that lead up to one, and that one.
struct Place<'p> {
    disk: &'p Disk,
    model: &'p crate::script::Model,
    soft: &'p Soft,
    /// Which processes have the store open.
    open: [bool; 2],
    history: &'p [Operation],
    operation: &'p Operation,
}

impl Place<'_> {
    /// Makes the world before the operation.
    fn world(&self) -> World {
        let mut world = World::new(SimDisk::of(self.disk.clone(), 1));
        world.model = self.model.clone();
        world.soft = self.soft.clone();
        for process in [0, 1] {
            if self.open[process] {
                world.stores[process] = Some(open(&world.disk, Access::ReadWrite).unwrap());
            }
        }
        for operation in self.history {
            if world.can(operation) {
                let before = canonical(world.disk.tree());
                world.call(operation).unwrap();
                world.note(operation, &before);
            }
        }
        world
    }
}

/// Reopens a disk, and checks that the files are as one of those given.
fn check_crashes(world: &World, allowed: &[&Allowed], mixed: bool, seed: u64, context: &str) {
    let image = world.disk.image();
    let mut states = vec![(image.clone(), false)];
    let lost = image.after_power_cuts(samples(6), seed);
    // The first ones are the extremes.
    states.extend(lost.into_iter().map(|state| (state, true)));
    for (state, lost) in states {
        let disk = SimDisk::of(state, seed);
        let store = open(&disk, Access::ReadWrite).unwrap();
        store.close().unwrap();
        drop(store);
        let found = canonical(disk.tree());
        compare(
            &found,
            allowed,
            mixed,
            lost,
            &format!("{context}, power cut: {lost}"),
        );
    }
}

fn compare(found: &Tree, allowed: &[&Allowed], mixed: bool, lost: bool, context: &str) {
    let differences: Vec<String> = allowed
        .iter()
        .filter_map(|allowed| allowed.difference(found, lost))
        .collect();
    if differences.len() < allowed.len() {
        return;
    }
    if mixed && let [before, after] = allowed {
        let mut mixture = (*after).clone();
        for (path, content) in &before.tree {
            if found.get(path) == Some(content) {
                mixture.tree.insert(path.clone(), content.clone());
            }
        }
        mixture
            .tree
            .retain(|path, _| before.tree.contains_key(path) || found.contains_key(path));
        if mixture.difference(found, lost).is_none() {
            return;
        }
    }
    panic!("{context}: {}", differences.join("; or: "));
}

fn fail_everywhere(share: usize, shares: usize) {
    let seed = seed();
    println!("METALAB_STORE_SEED={seed}");
    let begun = Instant::now();
    let mut count = Count::default();
    let mut numbers = Numbers::new(seed);
    let script: Vec<Operation> = script(seed);
    // The script without faults: what each operation begins with.
    let mut world = World::new(SimDisk::new(seed));
    let mut places = Vec::new();
    let mut done = Vec::new();
    for operation in script {
        if !world.can(&operation) {
            continue;
        }
        let open = [0, 1].map(|process| world.stores[process].is_some());
        let model = (world.model.clone(), world.soft.clone());
        places.push((world.disk.image(), model, open));
        let before = canonical(world.disk.tree());
        world.call(&operation).unwrap();
        world.note(&operation, &before);
        world.disk.advance(700_000_000);
        done.push(operation);
    }
    for (index, operation) in done.iter().enumerate() {
        if index % shares != share {
            continue;
        }
        count.operations += 1;
        let from = index.saturating_sub(HISTORY);
        let (disk, (model, soft), open) = &places[from];
        let place = Place {
            disk,
            model,
            soft,
            open: *open,
            history: &done[from..index],
            operation,
        };
        fail_at_every_call(&place, seed, &mut numbers, &mut count);
    }
    println!("{count:?} in {:?}", begun.elapsed());
    assert!(count.errors > count.operations, "{count:?}");
}

fn fail_at_every_call(place: &Place<'_>, seed: u64, numbers: &mut Numbers, count: &mut Count) {
    let operation = place.operation;
    // Without a fault: which calls there are, and what comes out.
    let mut world = place.world();
    if !world.can(operation) {
        return;
    }
    let before = Allowed {
        tree: canonical(world.disk.tree()),
        soft: world.soft.clone(),
        under_way: false,
    };
    let first = world.disk.calls();
    world.call(operation).unwrap();
    world.note(operation, &before.tree);
    let after = Allowed {
        tree: canonical(world.disk.tree()),
        soft: world.soft.clone(),
        under_way: false,
    };
    let kinds = world.disk.kinds();
    let errors = [PortError::NoSpace, PortError::Device, PortError::Denied];
    for call in first..world.disk.calls() {
        let kind = kinds[usize::try_from(call).unwrap()];
        let error = errors[numbers.below(errors.len())];
        let mut faults = vec![Fault::Fail(call, error)];
        match kind {
            CallKind::Write => faults.push(Fault::ShortWrite(call)),
            CallKind::Sync => faults.push(Fault::FailAfterEffect(call, error)),
            CallKind::Look | CallKind::Change => {}
        }
        for fault in faults {
            count.faults += 1;
            let context = format!("seed {seed}, {operation:?}, {fault:?} ({kind:?})");
            fail_once(place, fault, &before, &after, &context, numbers, count);
        }
    }
}

fn fail_once(
    place: &Place<'_>,
    fault: Fault,
    before: &Allowed,
    after: &Allowed,
    context: &str,
    numbers: &mut Numbers,
    count: &mut Count,
) {
    let operation = place.operation;
    let mixed = is_many_calls(operation);
    let mut world = place.world();
    world.disk.plan(Some(fault));
    let outcome = world.call(operation);
    world.disk.plan(None);
    let mut old = before.clone();
    if let Some(file) = appended_to(operation) {
        // A line that did not fit is there in part.
        let durable = before.soft.get(&file).cloned();
        let durable = durable.unwrap_or_else(|| before.tree.get(&file).cloned());
        old = after.clone();
        old.soft.insert(file, durable);
        old.under_way = true;
    }
    let allowed: Vec<&Allowed> = match &outcome {
        Ok(()) => {
            count.no_errors += 1;
            world.note(operation, &before.tree);
            vec![after]
        }
        Err(error) => {
            count.errors += 1;
            assert!(
                matches!(
                    error,
                    Error::Io { .. } | Error::Conflict { .. } | Error::Corrupt { .. }
                ),
                "{context}: {error:?}"
            );
            if is_unknown(error) {
                count.unknown += 1;
                vec![&old, after]
            } else {
                let empty = appended_to(operation).map(|file| {
                    let mut empty = before.clone();
                    empty.tree.entry(file).or_default();
                    empty
                });
                let mut allowed = vec![before];
                if mixed || empty.is_some() {
                    allowed.push(after);
                }
                // A new log may be there without a line, or with all of it if only the sync failed; never with half.
                allowed.extend(&empty);
                compare(
                    &canonical(world.disk.tree()),
                    &allowed,
                    mixed,
                    false,
                    &format!("{context}, at once after {error}"),
                );
                vec![&old]
            }
        }
    };
    let allowed = if mixed { vec![&old, after] } else { allowed };
    let context = &format!("{context}, after {outcome:?}");
    check_crashes(&world, &allowed, mixed, numbers.next(), context);
    stays_whole(&mut world, operation, numbers.next(), context);
    goes_on(&mut world, operation, context);
}

/// A later call about the same run finds nothing half done, and leaves nothing half done behind.
fn stays_whole(world: &mut World, operation: &Operation, seed: u64, context: &str) {
    let Action::Artifact { run, .. } = operation.action else {
        return;
    };
    let process = operation.process;
    let store = world.stores[process].as_ref().unwrap();
    let later = store.put_artifact(b"later", descriptor(RUNS[run], "later", "txt"));
    later.unwrap_or_else(|error| panic!("{context}: a later artifact: {error}"));
    dump(store).unwrap_or_else(|error| panic!("{context}, and a later artifact: {error}"));
    let image = world.disk.image();
    let mut states = image.after_power_cuts(4, seed);
    states.push(image);
    for state in states {
        let store = open(&SimDisk::of(state, seed), Access::ReadWrite).unwrap();
        let found = dump(&store);
        let found = found.unwrap_or_else(|error| panic!("{context}, reopened: {error}"));
        assert!(found.contains_key(&format!("artifact {} later", RUNS[run])));
    }
}

/// The same store takes the call again, and others; so does the next one.
fn goes_on(world: &mut World, operation: &Operation, context: &str) {
    let process = operation.process;
    if world.stores[process].is_none() {
        let again = open(&world.disk, Access::ReadWrite);
        world.stores[process] = Some(again.unwrap_or_else(|error| panic!("{context}: {error}")));
    }
    let store = world.stores[process].as_ref().unwrap();
    let record = crate::script::record("after", "later", 50);
    let put = store.put_run_record(&record, &Expectation::Anything);
    put.unwrap_or_else(|error| panic!("{context}: a later put: {error}"));
    assert!(store.run_exists("after").unwrap());
    let deleted = store.delete_run("after");
    assert!(deleted.unwrap_or_else(|error| panic!("{context}: a later delete: {error}")));
    if world.can(operation) {
        let again = world.call(operation);
        again.unwrap_or_else(|error| panic!("{context}: again: {error}"));
    }
    for store in world.stores.iter_mut() {
        if let Some(store) = store.take() {
            let closed = store.close();
            closed.unwrap_or_else(|error| panic!("{context}: closing: {error}"));
        }
    }
    let store = open(&world.disk, Access::ReadWrite).unwrap();
    store.close().unwrap();
    drop(store);
    let left = leftovers(&world.disk.tree());
    assert_eq!(left, Vec::<String>::new(), "{context}: left behind");
}

#[test]
fn an_error_at_any_call_is_typed_and_leaves_the_previous_value_first_half() {
    fail_everywhere(0, 2);
}

#[test]
fn an_error_at_any_call_is_typed_and_leaves_the_previous_value_second_half() {
    fail_everywhere(1, 2);
}

#[test]
fn the_script_does_to_the_values_what_it_says() {
    let mut world = World::new(SimDisk::new(seed()));
    let mut before = Tree::new();
    for operation in script(seed()) {
        if world.can(&operation) {
            world.call(&operation).unwrap();
            world.note(&operation, &before);
            before = canonical(world.disk.tree());
        }
    }
    let store = open(&world.disk, Access::ReadOnly).unwrap();
    check_model(&store, &world.model, "at the end");
    assert!(!world.model.is_empty());
}
