//! Who wins: every state of a file against every state of the journal, on the machine that was booted again,
//! on the same boot, on another machine and in a copy of the directory.

use crate::script::{canonical, open};
use crate::sim::SimDisk;
use metalab_store_guest::journal::{
    self, Call, Entry, Fingerprint, Header, LockName, Source, Step,
};
use metalab_store_guest::layout;
use metalab_store_guest::model::Access;
use metalab_store_guest::ports::Identity;
use metalab_store_guest::store::Store;

const FILE: &str = "runs/c.json";
const SECOND: &str = "derived/c.json";
const SEGMENT: u64 = 0xabc;

// What was written last, what it replaced, and what stood between them. None is the beginning of another.
const WRITTEN: &str = "{\"run_id\": \"c\", \"experiment_id\": \"sim:1\", \"status\": \"success\", \"notes\": \"new\"}";
const PREVIOUS: &str =
    "{ \"run_id\": \"c\", \"experiment_id\": \"sim:1\", \"status\": \"running\"}";
const MIDDLE: &str =
    "{\n\"run_id\": \"c\", \"experiment_id\": \"sim:1\", \"status\": \"failed\", \"notes\": \"m\"}";
const FOREIGN: &str =
    "{\t\"run_id\": \"c\", \"experiment_id\": \"sim:1\", \"status\": \"cancelled\"}";

/// The states of the file, in the order of the columns of the table.
const FILES: [&str; 9] = [
    "written",
    "middle",
    "previous",
    "absent",
    "prefix",
    "empty",
    "zeros",
    "foreign",
    "directory",
];

/// What becomes of the file after the machine was booted again. `.`: it stays as it is. `W`: it is written
/// again. `D`: it is removed.
///
/// A prefix is one of what was written last (of what is removed, where the last step removes). A removal
/// has no content to compare a prefix with, unless the journal holds what is removed.
#[rustfmt::skip]
const TABLE: [(&str, &str); 13] = [
    //                       written
    //                       | middle
    //                       | | previous
    //                       | | | absent
    //                       | | | | prefix
    //                       | | | | | empty
    //                       | | | | | | zeros
    //                       | | | | | | | foreign
    //                       | | | | | | | | directory
    ("put new",             ". . . W W W W . ."),
    ("replace",             ". . W . W W W . ."),
    ("new, replace",        ". W . W W W W . ."),
    ("replace twice",       ". W W . W W W . ."),
    ("new, patch",          ". W . W W W W . ."),
    ("remove previous",     ". . D . . . . . ."),
    ("new, remove",         "D . . . D D D . ."),
    ("replace, remove",     "D . D . D D D . ."),
    ("remove, new",         ". . W W W W W . ."),
    ("cancelled",           ". . . . . . . . ."),
    ("replace, cancelled",  ". . W . . W W . ."),
    ("below a gap",         ". . . . . . . . ."),
    ("gap, then replace",   ". . W . W W W . ."),
];

/// Where the journal is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Rebooted,
    SameBoot,
    OtherMachine,
    OtherDirectory,
    /// Rebooted, and the lock's file lost what it held.
    RebootedWithoutLockContent,
}

fn inline(previous: Option<&str>, written: &str) -> Step {
    Step::Put {
        path: FILE.into(),
        previous: previous.map(|previous| Fingerprint::of(previous.as_bytes())),
        written: Fingerprint::of(written.as_bytes()),
        source: Source::Inline(written.as_bytes().to_vec()),
    }
}

/// Replaces the whole content by pieces that are kept at both ends.
fn patch(previous: &str, written: &str) -> Step {
    Step::Put {
        path: FILE.into(),
        previous: Some(Fingerprint::of(previous.as_bytes())),
        written: Fingerprint::of(written.as_bytes()),
        source: Source::Patch {
            at: 1,
            removed: previous.len() as u64 - 2,
            insert: written.as_bytes()[1..written.len() - 1].to_vec(),
        },
    }
}

fn remove(previous: &str) -> Step {
    Step::Remove {
        path: FILE.into(),
        previous: Fingerprint::of(previous.as_bytes()),
    }
}

/// Returns the entries of a journal, the generation in the lock's file, and what a prefix is one of.
fn history(name: &str) -> (Vec<Entry>, u64, &'static str) {
    let call = |generation, after, step| {
        Entry::Call(Call {
            lock: LockName::Run("c".into()),
            generation,
            after,
            steps: vec![step],
        })
    };
    let new = |generation| call(generation, 0, inline(None, WRITTEN));
    match name {
        "put new" => (vec![new(10)], 0, WRITTEN),
        "replace" => (
            vec![call(10, 0, inline(Some(PREVIOUS), WRITTEN))],
            10,
            WRITTEN,
        ),
        "new, replace" => {
            let second = call(11, 0, inline(Some(MIDDLE), WRITTEN));
            (vec![call(10, 0, inline(None, MIDDLE)), second], 11, WRITTEN)
        }
        "replace twice" => {
            let first = call(10, 0, inline(Some(PREVIOUS), MIDDLE));
            (
                vec![first, call(11, 10, inline(Some(MIDDLE), WRITTEN))],
                11,
                WRITTEN,
            )
        }
        "new, patch" => {
            let first = call(10, 0, inline(None, MIDDLE));
            (
                vec![first, call(11, 0, patch(MIDDLE, WRITTEN))],
                11,
                WRITTEN,
            )
        }
        "remove previous" => (vec![call(10, 0, remove(PREVIOUS))], 10, PREVIOUS),
        "new, remove" => (vec![new(10), call(11, 0, remove(WRITTEN))], 11, WRITTEN),
        "replace, remove" => {
            let first = call(10, 0, inline(Some(PREVIOUS), WRITTEN));
            (vec![first, call(11, 10, remove(WRITTEN))], 11, WRITTEN)
        }
        "remove, new" => {
            let first = call(10, 0, remove(PREVIOUS));
            (
                vec![first, call(11, 10, inline(None, WRITTEN))],
                11,
                WRITTEN,
            )
        }
        "cancelled" => {
            let first = call(10, 0, inline(Some(PREVIOUS), WRITTEN));
            (vec![first, Entry::Cancelled(1)], 10, WRITTEN)
        }
        // The first call counts. The second never wrote anything: what looks like it is somebody else's.
        "replace, cancelled" => {
            let first = call(10, 0, inline(Some(PREVIOUS), WRITTEN));
            let second = call(11, 10, inline(Some(WRITTEN), MIDDLE));
            (vec![first, second, Entry::Cancelled(2)], 11, MIDDLE)
        }
        "below a gap" => (
            vec![call(10, 0, inline(Some(PREVIOUS), WRITTEN))],
            20,
            WRITTEN,
        ),
        "gap, then replace" => {
            // The first is below the generation 20, which is in no segment; the second comes after it.
            let first = call(10, 0, inline(Some(FOREIGN), MIDDLE));
            (
                vec![first, call(30, 20, inline(Some(PREVIOUS), WRITTEN))],
                30,
                WRITTEN,
            )
        }
        other => panic!("no history {other}"),
    }
}

/// Makes a disk with an empty store, a file in a state and a journal.
fn disk(file: &str, entries: &[Entry], stored: u64, of: &str, place: Place) -> SimDisk {
    let disk = SimDisk::new(1);
    open(&disk, Access::ReadWrite).unwrap().close().unwrap();
    let content: Option<Vec<u8>> = match file {
        "written" => Some(WRITTEN.into()),
        "middle" => Some(MIDDLE.into()),
        "previous" => Some(PREVIOUS.into()),
        "prefix" => Some(of.as_bytes()[..of.len() - 3].to_vec()),
        "empty" => Some(Vec::new()),
        "zeros" => Some(vec![0; of.len()]),
        "foreign" => Some(FOREIGN.into()),
        _ => None,
    };
    match content {
        Some(content) => disk.foreign_write(FILE, &content),
        None if file == "directory" => disk.foreign_directory(FILE),
        None => {}
    }
    write_journal(&disk, entries, stored);
    match place {
        Place::Rebooted => disk.reboot(),
        Place::SameBoot => disk.kill_all(),
        Place::OtherMachine => {
            disk.reboot();
            disk.set_machine("another");
        }
        Place::OtherDirectory => {
            disk.reboot();
            disk.set_inode(78);
        }
        Place::RebootedWithoutLockContent => {
            disk.reboot();
            disk.foreign_write(".locks/c.lock", &[0; 16]);
        }
    }
    disk
}

fn write_journal(disk: &SimDisk, entries: &[Entry], stored: u64) {
    let header = Header {
        identity: disk.process().roots.identity(),
        salt: 77,
    };
    let mut segment = journal::begin(&header);
    for (index, entry) in entries.iter().enumerate() {
        journal::append(&mut segment, header.salt, index as u64 + 1, entry);
    }
    segment.resize(segment.len() + 4096, 0);
    disk.foreign_write(&layout::journal_segment(SEGMENT).to_string(), &segment);
    if stored > 0 {
        disk.foreign_write(".locks/c.lock", stored.to_string().as_bytes());
    }
    disk.sync();
}

fn record(store: &Store) -> Option<String> {
    store.get_run_text("c").unwrap()
}

/// Opens the store read-only and to write, and returns what each shows of the file; none if there is none.
fn outcomes(disk: &SimDisk, directory: bool) -> [Option<String>; 2] {
    let shown = open(disk, Access::ReadOnly).unwrap();
    let shown = if directory { None } else { record(&shown) };
    open(disk, Access::ReadWrite).unwrap().close().unwrap();
    let found = disk
        .read(FILE)
        .map(|found| String::from_utf8(found.to_vec()).unwrap());
    [shown, found]
}

#[test]
fn who_wins_is_decided_by_content() {
    let mut wrong = Vec::new();
    for (name, row) in TABLE {
        let (entries, stored, of) = history(name);
        for (file, wanted) in FILES.into_iter().zip(row.split(' ')) {
            for place in [
                Place::Rebooted,
                Place::SameBoot,
                Place::OtherMachine,
                Place::OtherDirectory,
            ] {
                let disk = disk(file, &entries, stored, of, place);
                let before = disk
                    .read(FILE)
                    .map(|found| String::from_utf8(found.to_vec()).unwrap());
                let outcome = match (place, wanted) {
                    (Place::Rebooted, "W") => Some(WRITTEN.to_owned()),
                    (Place::Rebooted, "D") => None,
                    _ => before,
                };
                let [shown, found] = outcomes(&disk, file == "directory");
                if found != outcome {
                    wrong.push(format!(
                        "{name}, {file}, {place:?}: {wanted} is wanted, {found:?} is found"
                    ));
                }
                if shown != outcome {
                    wrong.push(format!(
                        "{name}, {file}, {place:?}: {wanted} is wanted, {shown:?} is shown"
                    ));
                }
                let segment = disk.read(&layout::journal_segment(SEGMENT).to_string());
                let foreign = matches!(place, Place::OtherMachine | Place::OtherDirectory);
                assert_eq!(
                    segment.is_some(),
                    foreign,
                    "{name}, {file}, {place:?}: the segment"
                );
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_generation_that_its_lock_file_lost_changes_nothing_but_what_a_gap_told() {
    for (name, row) in TABLE {
        let (entries, stored, of) = history(name);
        if name == "below a gap" {
            // Only the lock's file knew.
            continue;
        }
        for (file, wanted) in FILES.into_iter().zip(row.split(' ')) {
            let place = Place::RebootedWithoutLockContent;
            let disk = disk(file, &entries, stored, of, place);
            let before = disk
                .read(FILE)
                .map(|found| String::from_utf8(found.to_vec()).unwrap());
            let [_, found] = outcomes(&disk, file == "directory");
            let outcome = match wanted {
                "W" => Some(WRITTEN.to_owned()),
                "D" => None,
                _ => before,
            };
            assert_eq!(found, outcome, "{name}, {file}");
        }
    }
}

/// A call of two files, the state of each, and what becomes of both on the same boot: a writer was killed.
#[test]
fn a_killed_writers_last_call_is_finished_if_it_was_begun() {
    let steps = || {
        let second = Step::Put {
            path: SECOND.into(),
            previous: None,
            written: Fingerprint::of(b"{\"x\": 2}"),
            source: Source::Inline(b"{\"x\": 2}".to_vec()),
        };
        vec![inline(Some(PREVIOUS), WRITTEN), second]
    };
    let call = |generation, steps| {
        Entry::Call(Call {
            lock: LockName::Run("c".into()),
            generation,
            after: 0,
            steps,
        })
    };
    let whole = vec![call(10, steps())];
    let done = vec![call(10, steps()), Entry::Done(1)];
    let cancelled = vec![call(10, steps()), Entry::Cancelled(1)];
    let superseded = vec![
        call(10, steps()),
        call(11, vec![inline(Some(WRITTEN), WRITTEN)]),
    ];
    // The journal, the generation in the lock's file, the first file, whether the second is there; and
    // whether the call is finished.
    type Row<'r> = (&'r str, &'r [Entry], u64, &'r str, bool, bool);
    let table: [Row<'_>; 9] = [
        ("nothing was done", &whole, 0, "previous", false, false),
        ("half of it was done", &whole, 10, "written", false, true),
        ("all of it was done", &whole, 10, "written", true, true),
        (
            "the other half was done",
            &whole,
            10,
            "previous",
            true,
            true,
        ),
        (
            "somebody changed the rest",
            &whole,
            10,
            "foreign",
            true,
            false,
        ),
        (
            "it was done, then somebody removed a file",
            &done,
            10,
            "written",
            false,
            false,
        ),
        (
            "it was cancelled, then somebody wrote a file",
            &cancelled,
            10,
            "written",
            false,
            false,
        ),
        (
            "a later call came after it",
            &superseded,
            11,
            "written",
            false,
            false,
        ),
        (
            "a later call came that was made durable",
            &whole,
            20,
            "written",
            false,
            false,
        ),
    ];
    for (name, entries, stored, first, second, finished) in table {
        let disk = disk(first, entries, stored, WRITTEN, Place::SameBoot);
        if second {
            disk.foreign_write(SECOND, b"{\"x\": 2}");
        }
        let before = canonical(disk.tree());
        open(&disk, Access::ReadWrite).unwrap().close().unwrap();
        let after = canonical(disk.tree());
        if finished {
            assert_eq!(after[FILE].as_slice(), WRITTEN.as_bytes(), "{name}");
            assert_eq!(after[SECOND].as_slice(), b"{\"x\": 2}", "{name}");
        } else {
            assert_eq!(after, before, "{name}");
        }
    }
}

#[test]
fn a_living_writers_segment_is_left_alone() {
    let disk = SimDisk::new(2);
    let writer = open(&disk, Access::ReadWrite).unwrap();
    writer
        .put_run_text(WRITTEN, &metalab_store_guest::model::Expectation::Anything)
        .unwrap();
    let segments = || {
        let tree = disk.tree();
        tree.keys()
            .filter(|path| path.ends_with(".seg"))
            .cloned()
            .collect::<Vec<_>>()
    };
    let before = segments();
    assert_eq!(before.len(), 1);
    open(&disk, Access::ReadWrite).unwrap().close().unwrap();
    assert_eq!(segments(), before);
    writer.close().unwrap();
    assert_eq!(segments(), Vec::<String>::new());
}

#[test]
fn a_segment_without_a_known_machine_is_replayed_where_its_device_is() {
    // An unknown machine: only the device and the directory tell the place.
    let identity = Identity::default();
    let disk = SimDisk::new(3);
    disk.set_machine("");
    open(&disk, Access::ReadWrite).unwrap().close().unwrap();
    write_journal(&disk, &[history("put new").0.remove(0)], 0);
    assert_ne!(disk.process().roots.identity(), identity);
    disk.reboot();
    open(&disk, Access::ReadWrite).unwrap().close().unwrap();
    assert_eq!(disk.read(FILE).unwrap().as_slice(), WRITTEN.as_bytes());
}
