//! The simulated disk keeps its own promises: what it may lose and what it must keep.

use crate::sim::{Disk, Fault, SimDisk};
use metalab_store_guest::ports::{LockError, LockMode, LockTarget, OpenMode, PortError, Ports};
use std::collections::BTreeSet;

fn create(ports: &Ports, path: &str, content: &[u8]) -> Box<dyn metalab_store_guest::ports::File> {
    let file = ports.directory.open(path, OpenMode::CreateNew).unwrap();
    file.write(0, content).unwrap();
    file
}

/// Returns what a file may be after a power cut, as texts.
fn states(disk: &Disk, path: &str) -> BTreeSet<String> {
    let states = disk.after_power_cuts(200, 1);
    let text = |state: &Disk| match state.tree().get(path) {
        None => "absent".to_owned(),
        Some(content) => String::from_utf8(content.to_vec()).unwrap(),
    };
    states.iter().map(text).collect()
}

#[test]
fn a_kill_keeps_what_was_written_and_releases_locks() {
    let disk = SimDisk::new(1);
    let ports = disk.process();
    ports.directory.create_directory(".locks").unwrap();
    let run = LockTarget::Run("a");
    let lock = ports.roots.acquire(run, LockMode::Exclusive, 0).unwrap();
    lock.set_content(b"7").unwrap();
    let other = disk.process();
    let refused = other.roots.acquire(run, LockMode::Exclusive, 0);
    assert_eq!(refused.err(), Some(LockError::TimedOut));
    create(&ports, "a", b"written");
    disk.kill_all();
    assert_eq!(ports.directory.stat("a").err(), Some(PortError::Device));
    let next = disk.process();
    let lock = next.roots.acquire(run, LockMode::Exclusive, 0).unwrap();
    assert_eq!(lock.content().unwrap(), b"7");
    assert_eq!(disk.read("a").unwrap().as_slice(), b"written");
}

#[test]
fn without_a_sync_a_new_file_may_be_absent_empty_zeros_short_or_whole() {
    let disk = SimDisk::new(1);
    create(&disk.process(), "a", b"abc");
    let found = states(&disk.image(), "a");
    for possible in ["absent", "", "\0\0\0", "a", "ab", "abc"] {
        assert!(found.contains(possible), "{possible:?} in {found:?}");
    }
    assert_eq!(found.len(), 6, "{found:?}");
}

#[test]
fn a_synced_file_keeps_its_content_and_may_lose_its_name_until_the_directory_is_synced() {
    let disk = SimDisk::new(1);
    let ports = disk.process();
    create(&ports, "a", b"abc").sync_data().unwrap();
    let both = BTreeSet::from(["absent".to_owned(), "abc".to_owned()]);
    assert_eq!(states(&disk.image(), "a"), both);
    ports.directory.sync().unwrap();
    assert_eq!(
        states(&disk.image(), "a"),
        BTreeSet::from(["abc".to_owned()])
    );
}

#[test]
fn a_rename_is_the_old_file_or_the_new_one_whose_data_may_be_missing() {
    let disk = SimDisk::new(1);
    let ports = disk.process();
    create(&ports, "a", b"old").sync_data().unwrap();
    ports.directory.sync().unwrap();
    create(&ports, "b", b"new");
    ports.directory.rename("b", "a").unwrap();
    let found = states(&disk.image(), "a");
    for possible in ["old", "new", "", "\0\0\0"] {
        assert!(found.contains(possible), "{possible:?} in {found:?}");
    }
    assert!(!found.contains("absent"), "{found:?}");
    ports.roots.sync().unwrap();
    assert_eq!(
        states(&disk.image(), "a"),
        BTreeSet::from(["new".to_owned()])
    );
}

#[test]
fn a_file_in_a_directory_whose_name_was_not_synced_may_be_lost_with_it() {
    let disk = SimDisk::new(1);
    let ports = disk.process();
    ports.directory.create_directory("d").unwrap();
    create(&ports, "d/a", b"abc").sync_data().unwrap();
    ports.directory.open_directory("d").unwrap().sync().unwrap();
    assert!(states(&disk.image(), "d/a").contains("absent"));
    ports.directory.sync().unwrap();
    assert_eq!(
        states(&disk.image(), "d/a"),
        BTreeSet::from(["abc".to_owned()])
    );
}

#[test]
fn a_file_renamed_to_another_directory_is_in_one_of_them() {
    let disk = SimDisk::new(1);
    let ports = disk.process();
    ports.directory.create_directory("from").unwrap();
    create(&ports, "from/a", b"abc");
    ports.roots.sync().unwrap();
    ports.directory.create_directory("to").unwrap();
    ports.directory.rename("from/a", "to/a").unwrap();
    for state in disk.image().after_power_cuts(100, 1) {
        let tree = state.tree();
        assert_eq!(tree.len(), 1, "{tree:?}");
    }
    ports
        .directory
        .open_directory("from")
        .unwrap()
        .sync()
        .unwrap();
    assert_eq!(
        states(&disk.image(), "to/a"),
        BTreeSet::from(["abc".to_owned()])
    );
}

#[test]
fn changes_of_different_names_reach_the_disk_in_any_order() {
    let disk = SimDisk::new(1);
    let ports = disk.process();
    create(&ports, "a", b"").sync_data().unwrap();
    create(&ports, "b", b"").sync_data().unwrap();
    ports.directory.sync().unwrap();
    ports.directory.remove_file("a").unwrap();
    ports.directory.remove_file("b").unwrap();
    let mut found = BTreeSet::new();
    for state in disk.image().after_power_cuts(100, 1) {
        found.insert(state.tree().into_keys().collect::<String>());
    }
    assert_eq!(
        found,
        BTreeSet::from(["", "a", "ab", "b"].map(str::to_owned))
    );
}

#[test]
fn a_sector_that_is_overwritten_is_old_or_new() {
    let disk = SimDisk::new(1);
    let ports = disk.process();
    let file = create(&ports, "a", &[b'o'; 1024]);
    ports.roots.sync().unwrap();
    file.write(0, &[b'n'; 1024]).unwrap();
    let (old, new) = ("o".repeat(512), "n".repeat(512));
    let found = states(&disk.image(), "a");
    let all = [(&old, &old), (&old, &new), (&new, &old), (&new, &new)];
    assert_eq!(
        found,
        all.map(|(a, b)| format!("{a}{b}")).into_iter().collect()
    );
}

#[test]
fn faults_hit_the_call_they_are_planned_for_and_no_other() {
    let disk = SimDisk::new(1);
    let ports = disk.process();
    let file = create(&ports, "a", b"");
    let next = disk.calls();
    disk.plan(Some(Fault::Fail(next + 1, PortError::NoSpace)));
    file.write(0, b"one").unwrap();
    assert_eq!(file.write(3, b"two"), Err(PortError::NoSpace));
    file.write(3, b"6").unwrap();
    assert_eq!(disk.read("a").unwrap().as_slice(), b"one6");
    disk.plan(Some(Fault::ShortWrite(disk.calls())));
    assert_eq!(file.append(b"half"), Err(PortError::NoSpace));
    assert_eq!(disk.read("a").unwrap().as_slice(), b"one6ha");
    disk.plan(Some(Fault::FailAfterEffect(
        disk.calls(),
        PortError::Device,
    )));
    assert_eq!(ports.directory.remove_file("a"), Err(PortError::Device));
    assert_eq!(disk.read("a"), None);
    disk.plan(Some(Fault::Crash(disk.calls())));
    assert_eq!(ports.directory.sync(), Err(PortError::Device));
    assert_eq!(ports.directory.sync(), Err(PortError::Device));
    disk.process().directory.sync().unwrap();
}
