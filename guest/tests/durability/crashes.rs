//! A crash after every single call of a long script, by a kill and by a power cut: what was acknowledged is
//! there, what was under way is there wholly or not at all, and nothing is left lying around.

use crate::script::{
    Allowed, Soft, World, appended_to, canonical, check_model, dump, is_many_calls, leftovers,
    open, samples, script, seed,
};
use crate::sim::{Disk, Numbers, SimDisk, Tree};
use metalab_store_guest::model::Access;
use std::time::Instant;

/// What was looked at.
#[derive(Debug, Default)]
struct Count {
    operations: usize,
    calls: u64,
    images: usize,
    kills: usize,
    power_cuts: usize,
    read_only: usize,
    crashes_while_recovering: usize,
}

/// What a crash may leave, and what to say if it leaves something else.
struct Expected<'e> {
    before: &'e Allowed,
    after: &'e Allowed,
    /// Whether each file may be as before or after by itself.
    mixed: bool,
    context: &'e str,
}

impl Expected<'_> {
    fn check(&self, found: &Tree, lost: bool, how: &str) {
        let after = self.after.difference(found, lost);
        let Some(after) = after else { return };
        let before = self.before.difference(found, lost);
        let Some(before) = before else { return };
        if self.mixed {
            // Each file is as it was before or after.
            let mut mixed = self.after.clone();
            for (path, content) in &self.before.tree {
                if found.get(path) == Some(content) {
                    mixed.tree.insert(path.clone(), content.clone());
                }
            }
            for path in self.after.tree.keys() {
                if !self.before.tree.contains_key(path) && !found.contains_key(path) {
                    mixed.tree.remove(path);
                }
            }
            if mixed.difference(found, lost).is_none() {
                return;
            }
        }
        panic!(
            "{how}, {}: compared with the state after it, {after}; with the state before it, {before}",
            self.context
        );
    }
}

/// Opens and closes the store, and returns the files.
fn recovered(disk: &SimDisk, context: &str) -> Tree {
    let store = open(disk, Access::ReadWrite);
    let store = store.unwrap_or_else(|error| panic!("{context}: cannot be opened: {error}"));
    store.close().unwrap();
    drop(store);
    disk.tree()
}

/// Recovers a state and checks it. A second crash on the way must change nothing.
fn check(
    image: &Disk,
    lost: bool,
    expected: &Expected<'_>,
    numbers: &mut Numbers,
    count: &mut Count,
) {
    let how = if lost {
        "after a power cut"
    } else {
        "after a kill"
    };
    let context = format!("{how}, {}", expected.context);
    let disk = SimDisk::of(image.clone(), numbers.next());
    let twice = numbers.percent(10);
    if twice {
        disk.keep_images();
    }
    let tree = recovered(&disk, &context);
    let left = leftovers(&tree);
    assert_eq!(left, Vec::<String>::new(), "{context}: left behind");
    let tree = canonical(tree);
    expected.check(&tree, lost, how);
    if lost && numbers.percent(25) {
        count.read_only += 1;
        read_only(image, &disk, numbers.next(), &context);
    }
    let images = disk.take_images();
    if images.is_empty() {
        return;
    }
    for _ in 0..2 {
        count.crashes_while_recovering += 1;
        let image = &images[numbers.below(images.len())];
        let states = image.after_power_cuts(3, numbers.next());
        let state = &states[numbers.below(states.len())];
        for (image, lost) in [(image, lost), (state, true)] {
            let again =
                format!("{context}, after another one while recovering (power cut: {lost})");
            let disk = SimDisk::of(image.clone(), numbers.next());
            let tree = recovered(&disk, &again);
            assert_eq!(
                leftovers(&tree),
                Vec::<String>::new(),
                "{again}: left behind"
            );
            expected.check(&canonical(tree), lost, &again);
        }
    }
}

/// A store that is opened to read shows what the recovery makes, and writes nothing.
fn read_only(image: &Disk, recovered: &SimDisk, seed: u64, context: &str) {
    let disk = SimDisk::of(image.clone(), seed);
    let writable = open(recovered, Access::ReadWrite).unwrap();
    match open(&disk, Access::ReadOnly) {
        Ok(store) => {
            let found =
                dump(&store).unwrap_or_else(|error| panic!("{context}: read-only: {error}"));
            let wanted = dump(&writable).unwrap();
            for key in found.keys().chain(wanted.keys()) {
                assert!(
                    found.get(key) == wanted.get(key),
                    "{context}: opened to read, {key} is {:.300?}; recovered, it is {:.300?}",
                    found.get(key),
                    wanted.get(key)
                );
            }
        }
        Err(error) => panic!("{context}: cannot be opened to read: {error}"),
    }
    assert_eq!(
        disk.changes(),
        0,
        "{context}: opening to read wrote something"
    );
}

/// Runs the script, and looks at every part of the crashes that falls to this share of them.
fn crash_everywhere(share: usize, shares: usize) {
    let seed = seed();
    println!("METALAB_STORE_SEED={seed}");
    let begun = Instant::now();
    let mut count = Count::default();
    let mut numbers = Numbers::new(seed);
    let mut world = World::new(SimDisk::new(seed));
    world.disk.keep_images();
    let mut before = Allowed {
        tree: Tree::new(),
        soft: Soft::new(),
        under_way: false,
    };
    for operation in script(seed) {
        if !world.can(&operation) {
            continue;
        }
        count.operations += 1;
        let name = format!("seed {seed}, operation {operation:?}");
        let result = world.call(&operation);
        result.unwrap_or_else(|error| panic!("{name}: {error}"));
        let tree = canonical(world.disk.tree());
        world.note(&operation, &before.tree);
        let after = Allowed {
            tree,
            soft: world.soft.clone(),
            under_way: false,
        };
        if let Some(file) = appended_to(&operation) {
            // A line may be there in part while it is being written.
            let durable = before.tree.get(&file).cloned();
            before.soft.entry(file).or_insert(durable);
            before.tree.clone_from(&after.tree);
            before.under_way = true;
        }
        world.disk.advance(700_000_000);
        let mut images = world.disk.take_images();
        images.push(world.disk.image());
        let last = images.len() - 1;
        for (index, image) in images.iter().enumerate() {
            count.images += 1;
            if count.images % shares != share {
                continue;
            }
            let acknowledged = index == last;
            let context = if acknowledged {
                format!("{name}, acknowledged")
            } else {
                format!("{name}, after change {index} of {last}")
            };
            let expected = Expected {
                before: if acknowledged { &after } else { &before },
                after: &after,
                mixed: is_many_calls(&operation),
                context: &context,
            };
            count.kills += 1;
            check(image, false, &expected, &mut numbers, &mut count);
            let most = samples(if acknowledged { 12 } else { 8 });
            for state in image.after_power_cuts(most, numbers.next()) {
                count.power_cuts += 1;
                check(&state, true, &expected, &mut numbers, &mut count);
            }
        }
        if let Some(store) = &world.stores[operation.process] {
            let context = format!("{name}, at once");
            check_model(store, &world.model, &context);
            world.disk.take_images();
        }
        before = after;
    }
    count.calls = world.disk.calls();
    println!("{count:?} in {:?}", begun.elapsed());
    assert!(count.operations >= 200, "{count:?}");
}

#[test]
fn what_was_acknowledged_survives_a_crash_after_every_call_first_half() {
    crash_everywhere(0, 2);
}

#[test]
fn what_was_acknowledged_survives_a_crash_after_every_call_second_half() {
    crash_everywhere(1, 2);
}
