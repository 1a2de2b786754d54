//! Targets that are files of a store, or streams into one: written by an enemy, then met by a store that is opened.

use crate::harness::{Target, outcome, shape};
use crate::mutate::{INTERESTING, Numbers, put};
use crate::texts::records;
use metalab_store_guest::config::{self, Backend, PostgresConfig};
use metalab_store_guest::journal::{
    self, Call, Entry, Fingerprint, Header, LockName, Source, Step,
};
use metalab_store_guest::model::{
    Access, ArtifactDescriptor, ArtifactReference, Durability, Expectation, StoreOptions,
};
use metalab_store_guest::ports::Identity;
use metalab_store_guest::query::QueryText;
use metalab_store_guest::store::Store;
use metalab_store_guest::testing;
use metalab_store_guest::transfer::{Packer, ReceiveOptions, Selection, Unpacker};
use metalab_store_guest::{error, native};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

type Tree = BTreeMap<String, Vec<u8>>;

/// A store that is put back to what it was before each input, beside a directory that nobody may touch.
struct Place {
    directory: tempfile::TempDir,
    before: Tree,
}

impl Place {
    fn new(fill: impl FnOnce(&Path)) -> Self {
        // In memory where that is possible: what a disk takes for a sync would be most of the time.
        let memory = Path::new("/dev/shm");
        let directory = match memory.is_dir() {
            true => tempfile::tempdir_in(memory),
            false => tempfile::tempdir(),
        };
        let directory = directory.unwrap();
        fs::create_dir(directory.path().join("outside")).unwrap();
        fs::write(directory.path().join("outside/secret"), "secret").unwrap();
        fs::create_dir(directory.path().join("store")).unwrap();
        fill(&directory.path().join("store"));
        let before = tree(&directory.path().join("store"));
        Self { directory, before }
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    fn reset(&self) {
        let now = tree(&self.root());
        for path in now.keys().filter(|path| !self.before.contains_key(*path)) {
            fs::remove_file(self.root().join(path)).unwrap();
        }
        for (path, content) in &self.before {
            if now.get(path) != Some(content) {
                let path = self.root().join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, content).unwrap();
            }
        }
    }

    fn outside_is_untouched(&self) {
        let mut names: Vec<_> = fs::read_dir(self.directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["outside", "store"]);
        let outside = Tree::from([("secret".to_owned(), b"secret".to_vec())]);
        assert_eq!(tree(&self.directory.path().join("outside")), outside);
    }
}

fn tree(root: &Path) -> Tree {
    fn walk(root: &Path, directory: &Path, found: &mut Tree) {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let path = entry.path();
            if entry.file_type().unwrap().is_dir() {
                walk(root, &path, found);
            } else {
                let name = path
                    .strip_prefix(root)
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned();
                found.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    let mut found = Tree::new();
    walk(root, root, &mut found);
    found
}

fn open(root: &Path, access: Access) -> error::Result<Store> {
    let options = StoreOptions {
        directory: root.to_str().unwrap().to_owned(),
        experiment_id: Some("e".to_owned()),
        access,
        durability: Durability::Relaxed,
        lock_timeout_ms: 1_000,
        index: None,
    };
    Store::open(native::ports(root).unwrap(), options)
}

fn artifact() -> ArtifactDescriptor {
    ArtifactDescriptor {
        artifact_id: "i".to_owned(),
        name: "w".to_owned(),
        kind: "bytes".to_owned(),
        format: "bin".to_owned(),
        uri: String::new(),
        content_hash: None,
        size_bytes: None,
        metadata: r#"{"_run_id": "r"}"#.to_owned(),
        unknown: "{}".to_owned(),
    }
}

fn fill(root: &Path) {
    let store = open(root, Access::ReadWrite).unwrap();
    for run in ["r", "good"] {
        let record =
            format!(r#"{{"run_id": "{run}", "status": "success", "metrics": {{"loss": 0.5}}}}"#);
        store.put_run_text(&record, &Expectation::Anything).unwrap();
        store.put_derived_text(run, r#"{"f1": 1}"#).unwrap();
        store.put_log(run, "stdout", "one\ntwo\n").unwrap();
    }
    let result = store.put_artifact(b"weights", artifact());
    result.unwrap();
    store
        .put_experiment_manifest("e", "{\"k\": 1}", Some("20260101_000000"))
        .unwrap();
    grow_old(root);
    ask(&store).unwrap();
    store.close().unwrap();
}

/// Waits until the index may believe what it saw of the files: it reads again those that changed just now.
fn grow_old(root: &Path) {
    let young = |directory: &str| {
        let changed = fs::metadata(root.join(directory))
            .unwrap()
            .modified()
            .unwrap();
        changed
            .elapsed()
            .is_ok_and(|age| age < Duration::from_millis(100))
    };
    while young("runs") || young("derived") {
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// A query that reads the columns of records, derived metrics and texts.
fn ask(store: &Store) -> error::Result<Vec<String>> {
    let query = QueryText {
        filter: "metrics.loss < 1 and not notes exists",
        sort: "derived.f1, metrics.loss desc",
        ..QueryText::default()
    };
    let mut listing = store.query_runs(&query)?;
    let mut lines = Vec::new();
    loop {
        let page = listing.next_lines(1 << 20)?;
        if page.is_empty() {
            return Ok(lines);
        }
        lines.extend(page.lines().map(str::to_owned));
    }
}

/// Asks a store everything, and returns what it said, in few words.
fn read_everything(store: &Store) -> u64 {
    let mut said = Vec::new();
    let mut say = |result: error::Result<String>| {
        said.push(result.map_or_else(shape, |answer| answer.len().to_string()));
    };
    say(store
        .get_run_record("r")
        .map(|record| format!("{record:?}")));
    say(store.get_run_text("r").map(Option::unwrap_or_default));
    say(store
        .list_run_records(None)
        .map(|listing| format!("{:?}", listing.damaged())));
    say(ask(store).map(|lines| lines.concat()));
    say(store
        .list_fields("")
        .map(|found| format!("{}", found.fields.len())));
    say(store.get_derived("r").map(|derived| format!("{derived:?}")));
    say(store.list_artifacts("r").map(|found| format!("{found:?}")));
    let named = ArtifactReference::Name("r".to_owned(), "w".to_owned());
    say(store
        .get_artifact(&named)
        .map(|content| content.len().to_string()));
    say(store.list_logs("r").map(|logs| logs.concat()));
    say(store.get_log("r", "stdout").map(Option::unwrap_or_default));
    say(store.list_results("r").map(|results| results.concat()));
    say(store
        .get_result("r", "x")
        .map(|result| format!("{result:?}")));
    say(store
        .get_experiment_manifest("e")
        .map(|manifest| format!("{manifest:?}")));
    outcome(said)
}

/// The other run is there, whole, and the store goes on.
fn the_good_run_is_there(store: &Store) {
    let record = store.get_run_record("good").unwrap().unwrap();
    assert_eq!(record.run_id, "good");
    assert_eq!(
        store.get_log("good", "stdout").unwrap().unwrap(),
        "one\ntwo\n"
    );
}

const KEYS: &[&str] = &[
    "\"run_id\"",
    "\"status\"",
    "\"artifacts\"",
    "\"name\"",
    "\"format\"",
    "\"uri\"",
    "\"metadata\"",
    "\"_run_id\"",
    "\"experiment_id\"",
    "\"../../outside/secret\"",
    "\"/etc/passwd\"",
    "\"w\"",
    "\"r\"",
    "\"bin\"",
    "{}",
    "[]",
];

/// The files that a store reads, each with a content to begin with.
const FILES: [&str; 7] = [
    "artifacts/r/_manifest.json",
    "runs/r.json",
    "derived/r.json",
    "results/r/x.json",
    "_meta.json",
    "experiments/e_20260101_000000.json",
    "logs/r_stdout.log",
];

#[test]
fn no_content_of_a_file_breaks_a_store_or_hides_another_run() {
    let place = Place::new(fill);
    // The first byte says which file it is.
    let mut seeds = Vec::new();
    for (number, file) in FILES.iter().enumerate() {
        let mut seed = vec![u8::try_from(number).unwrap()];
        seed.extend(
            place
                .before
                .get(*file)
                .map_or(&b"{\"data\": [1], \"shape\": [1]}"[..], Vec::as_slice),
        );
        seeds.push(seed);
    }
    seeds.extend(
        records()
            .into_iter()
            .map(|record| [&[1], &record[..]].concat()),
    );
    let target = Target {
        name: "files",
        seeds,
        tokens: KEYS,
        inputs: 300,
    };
    target.run(|input| {
        let (number, content) = input
            .split_first()
            .map_or((0, &[][..]), |(number, rest)| (*number, rest));
        let file = FILES[usize::from(number) % FILES.len()];
        place.reset();
        let path = place.root().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        let opened = open(&place.root(), Access::ReadOnly);
        let seen = match &opened {
            Err(error) => outcome((number, shape(error))),
            Ok(store) => {
                the_good_run_is_there(store);
                outcome((number, read_everything(store)))
            }
        };
        assert_eq!(fs::read(&path).unwrap(), content, "reading writes nothing");
        if let Ok(store) = open(&place.root(), Access::ReadWrite) {
            drop(store.put_artifact(b"other", artifact()));
            drop(store.append_log("r", "stdout", "more\n", false));
            store
                .delete_run("r")
                .map_or_else(|error| drop(shape(error)), |_| ());
            the_good_run_is_there(&store);
            store.close().unwrap();
        }
        place.outside_is_untouched();
        seen
    });
}

/// Where an enemy would like a step of the journal to lead.
const PLACES: [&str; 16] = [
    "runs/r.json",
    "runs/good.json",
    "derived/r.json",
    "logs/r_stdout.log",
    "artifacts/r/w.bin",
    "artifacts/r/_manifest.json",
    "_meta.json",
    "runs/new.json",
    "../outside/secret",
    "runs/../../outside/secret",
    "/etc/hostname",
    "",
    ".index/staging/00000000000000aa",
    ".index/journal-00000000000000bb.seg",
    ".locks/r.lock",
    "runs/\u{1b}[2J.json",
];

/// Makes a segment that an enemy could: whole frames with right checksums, whatever they say.
fn enemy_segment(numbers: &mut Numbers, here: &Identity, before: &Tree) -> Vec<u8> {
    let mut identity = here.clone();
    match numbers.below(8) {
        0 => identity.machine = "another".to_owned(),
        1 | 2 => {}
        // As if the machine had gone down since: everything is looked at.
        _ => identity.boot = "another".to_owned(),
    }
    let header = Header {
        identity,
        salt: numbers.next(),
    };
    let mut segment = journal::begin(&header);
    for frame in 1..=numbers.below(6) as u64 {
        let entry = match numbers.below(8) {
            0 => Entry::Done(numbers.below(6) as u64),
            1 => Entry::Cancelled(numbers.below(6) as u64),
            kind => {
                let name =
                    (*numbers.pick(&["r", "r", "r", "good", "new", "../x", "", "meta"])).to_owned();
                let large = 1 << numbers.below(64);
                Entry::Call(Call {
                    lock: if kind == 2 {
                        LockName::Other(name)
                    } else {
                        LockName::Run(name)
                    },
                    generation: *numbers.pick(&[frame, frame + 20, large]),
                    after: *numbers.pick(&[0, frame, large]),
                    steps: (0..numbers.below(5))
                        .map(|_| enemy_step(numbers, before))
                        .collect(),
                })
            }
        };
        journal::append(&mut segment, header.salt, frame, &entry);
    }
    segment.resize(segment.len() + numbers.below(64), *numbers.pick(&[0, 0xff]));
    segment
}

fn enemy_step(numbers: &mut Numbers, before: &Tree) -> Step {
    let path = (*numbers.pick(&PLACES)).to_owned();
    let is = before.get(&path).map(|content| Fingerprint::of(content));
    let odd = Fingerprint {
        size: 1 << numbers.below(64),
        hash: None,
    };
    let previous = match numbers.below(4) {
        0 => None,
        1 => Some(odd),
        _ => is,
    };
    if numbers.below(4) == 0 {
        return Step::Remove {
            path,
            previous: previous.unwrap_or(odd),
        };
    }
    let content = vec![b'x'; numbers.below(300)];
    let (written, source) = match numbers.below(6) {
        0 => {
            let stage = numbers.pick(&PLACES);
            (
                Fingerprint::of(b"staged"),
                Source::Staged((*stage).to_owned()),
            )
        }
        1 => {
            let (at, removed) = (1 << numbers.below(64), 1 << numbers.below(64));
            (
                odd,
                Source::Patch {
                    at,
                    removed,
                    insert: content,
                },
            )
        }
        2 => (odd, Source::Inline(content)),
        _ => (Fingerprint::of(&content), Source::Inline(content)),
    };
    Step::Put {
        path,
        previous,
        written,
        source,
    }
}

#[test]
fn no_bytes_break_the_reader_of_journals_and_what_is_read_is_what_was_written() {
    let header = Header {
        identity: Identity::default(),
        salt: 1,
    };
    let mut whole = journal::begin(&header);
    journal::append(&mut whole, 1, 1, &Entry::Done(7));
    let call = Call {
        lock: LockName::Run("r".to_owned()),
        generation: 2,
        after: 1,
        steps: vec![Step::Put {
            path: "runs/r.json".to_owned(),
            previous: Some(Fingerprint::of(b"a")),
            written: Fingerprint::of(b"b"),
            source: Source::Inline(b"b".to_vec()),
        }],
    };
    journal::append(&mut whole, 1, 2, &Entry::Call(call));
    whole.extend([0; 64]);
    let target = Target {
        name: "journal",
        seeds: vec![whole],
        tokens: &["runs/", "../"],
        inputs: 2000,
    };
    target.run(|input| {
        let mut seen = Vec::new();
        // As it is, and with the checksum of its first frames made right: salt and number are known to an enemy.
        for content in [input.to_vec(), with_checksums(input)] {
            match journal::read(&content) {
                Err(error) => seen.push(error.to_string()),
                Ok(segment) => {
                    let end = usize::try_from(segment.end).unwrap();
                    let mut again = journal::begin(&segment.header);
                    for (index, entry) in &segment.entries {
                        journal::append(&mut again, segment.header.salt, *index, entry);
                    }
                    // The header may have had more after what this version reads.
                    if segment.entries.is_empty() {
                        assert!(end <= content.len());
                    } else {
                        let frames = &again[journal::begin(&segment.header).len()..];
                        assert!(content[..end].ends_with(frames));
                    }
                    seen.push(segment.entries.len().to_string());
                }
            }
        }
        outcome(seen)
    });
}

/// Makes the checksums of frames right.
fn with_checksums(input: &[u8]) -> Vec<u8> {
    let mut content = input.to_vec();
    let (mut at, mut index, mut salt) = (journal::MAGIC.len(), 0_u64, 0_u64);
    while let Some(head) = content.get(at..at + journal::FRAME) {
        let length = u32::from_le_bytes(head[..4].try_into().unwrap()) as usize;
        let Some(payload) = content.get(at + journal::FRAME..at + journal::FRAME + length) else {
            break;
        };
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&salt.to_le_bytes());
        hasher.update(&index.to_le_bytes());
        hasher.update(payload);
        if index == 0 && payload.len() >= 8 {
            salt = u64::from_le_bytes(payload[payload.len() - 8..].try_into().unwrap());
        }
        let check = hasher.finalize().to_le_bytes();
        content[at + 4..at + 8].copy_from_slice(&check);
        at += journal::FRAME + length;
        index += 1;
    }
    content
}

#[test]
fn no_journal_of_an_enemy_reaches_beyond_the_files_of_the_store_it_lies_in() {
    let place = Place::new(fill);
    let identity = native::ports(&place.root()).unwrap().roots.identity();
    let seeds = (0..40_u8).map(|seed| vec![seed; 8]).collect();
    let target = Target {
        name: "enemy-journal",
        seeds,
        tokens: &[],
        inputs: 400,
    };
    let mut replayed = 0;
    target.run(|input| {
        place.reset();
        // What the bytes are does not matter: they say which numbers the segment is made of.
        let segment = enemy_segment(&mut Numbers::new(outcome(input)), &identity, &place.before);
        fs::create_dir_all(place.root().join(".index/staging")).unwrap();
        fs::write(
            place.root().join(".index/journal-00000000000000aa.seg"),
            &segment,
        )
        .unwrap();
        fs::write(
            place.root().join(".index/staging/00000000000000aa"),
            "staged",
        )
        .unwrap();
        let mut seen = Vec::new();
        for access in [Access::ReadOnly, Access::ReadWrite] {
            match open(&place.root(), access) {
                Err(error) => seen.push(outcome(shape(error))),
                Ok(store) => {
                    seen.push(read_everything(&store));
                    if access == Access::ReadWrite {
                        let record = r#"{"run_id": "newer", "status": "success"}"#;
                        seen.push(outcome(
                            store.put_run_text(record, &Expectation::Anything).is_ok(),
                        ));
                        seen.push(outcome(store.close().is_ok()));
                    }
                }
            }
            place.outside_is_untouched();
        }
        let known = |path: &String| {
            place.before.contains_key(path)
                || path.starts_with(".index/")
                || path.starts_with(".locks/")
                || ["runs/new.json", "runs/newer.json"].contains(&path.as_str())
        };
        for path in tree(&place.root()).keys() {
            assert!(known(path), "{path:?} was written");
        }
        replayed += u32::from(
            fs::read(place.root().join("runs/new.json"))
                .is_ok_and(|content| content.starts_with(b"x")),
        );
        outcome(seen)
    });
    assert!(
        replayed > 0,
        "an enemy who writes as a writer of this machine would is obeyed within the store"
    );
}

/// Makes the checksums of a table's blocks, texts and directory right, wherever they stand: a checksum follows the
/// place and the length of what it is of.
fn refit_table(content: &mut [u8], whole: &[u8]) {
    let end = whole.len() - 16;
    for at in 0..end.saturating_sub(12) {
        let number =
            |from: usize| u32::from_le_bytes(whole[from..from + 4].try_into().unwrap()) as usize;
        // Blocks name place, length and checksum; texts have two lengths.
        for (length, check) in [
            (number(at + 4), at + 8),
            (number(at + 4).wrapping_add(number(at + 8)), at + 12),
        ] {
            let from = number(at);
            let Some(bytes) = from.checked_add(length).and_then(|to| whole.get(from..to)) else {
                continue;
            };
            if length > 0
                && check + 4 <= whole.len()
                && table_check(bytes) == whole[check..check + 4]
            {
                let fit = table_check(&content[from..from + length]);
                content[check..check + 4].copy_from_slice(&fit);
            }
        }
    }
    let length = u32::from_le_bytes(content[end..end + 4].try_into().unwrap()) as usize;
    if let Some(from) = end.checked_sub(length) {
        let fit = table_check(&content[from..end]);
        content[end + 4..end + 8].copy_from_slice(&fit);
    }
}

/// The checksum of a part of a table.
fn table_check(bytes: &[u8]) -> [u8; 4] {
    let hash = twox_hash::XxHash64::oneshot(0, bytes).to_le_bytes();
    hash[..4].try_into().unwrap()
}

/// Makes the checksum at the end of an index's head right, and the one that it names of a table that was changed.
fn refit_head(head: &mut [u8], table: Option<(&[u8], &[u8])>) {
    let check = |table: &[u8]| -> [u8; 4] { table[table.len() - 12..][..4].try_into().unwrap() };
    if let Some((before, after)) = table {
        let before = check(before);
        let at = head.windows(4).position(|window| window == before).unwrap();
        put(head, at, &check(after));
    }
    let end = head.len() - 4;
    let fit = crc32fast::hash(&head[..end]).to_le_bytes();
    head[end..].copy_from_slice(&fit);
}

/// The files of an index.
const INDEX: [&str; 3] = ["columns", ".tab", "changes"];

/// A store with an index of which one file is another one's work. What the input says: which file, whether its
/// checksums are made right, and which of its bytes become what.
fn forge(input: &[u8], place: &Place) -> (usize, bool) {
    let named = |name: &str| {
        let mut paths = place.before.keys();
        let path = paths.find(|path| path.starts_with(".index/") && path.ends_with(name));
        place.root().join(path.unwrap())
    };
    let [kind, edits @ ..] = input else {
        return (0, false);
    };
    let (number, fits) = (usize::from(kind % 3), kind & 4 != 0);
    let path = named(INDEX[number]);
    let whole = fs::read(&path).unwrap();
    let mut content = whole.clone();
    for edit in edits.chunks_exact(4) {
        let at = usize::from(u16::from_le_bytes([edit[0], edit[1]])) % content.len();
        let number = INTERESTING[usize::from(edit[3]) % INTERESTING.len()].to_le_bytes();
        match edit[2] % 8 {
            0 => content[at] = edit[3],
            1 => content[at] ^= 1 << (edit[3] % 8),
            2 | 3 => put(&mut content, at, &number),
            4 if !fits => content.truncate(at.max(1)),
            5 if !fits => content.push(edit[3]),
            _ => put(&mut content, at, &number[..4]),
        }
    }
    if kind & 32 != 0 {
        // Not noise, but a lie: the losses of all runs.
        for (truth, lie) in [
            (0.5_f64.to_le_bytes(), 5_f64.to_le_bytes()),
            (*b"loss\":0.", *b"loss\":5."),
        ] {
            for at in 0..content.len().saturating_sub(7) {
                if content[at..at + 8] == truth {
                    put(&mut content, at, &lie);
                }
            }
        }
    }
    if fits && number == 0 {
        refit_head(&mut content, None);
    }
    if fits && number == 1 {
        refit_table(&mut content, &whole);
        let mut head = fs::read(named(INDEX[0])).unwrap();
        refit_head(&mut head, Some((&whole, &content)));
        fs::write(named(INDEX[0]), head).unwrap();
    }
    fs::write(path, content).unwrap();
    (number, fits)
}

#[test]
fn no_index_of_an_enemy_breaks_a_store_whose_files_are_whole() {
    let mut numbers = Numbers::new(5);
    // One or two edits of each file: more of them, and nothing is left to be believed.
    let mut seed = |kind: u8| {
        let edits = (0..=numbers.below(2)).flat_map(|_| numbers.next().to_le_bytes()[..4].to_vec());
        [kind].into_iter().chain(edits).collect::<Vec<u8>>()
    };
    let mut seeds: Vec<Vec<u8>> = (0..120)
        .map(|number: u8| seed(number % 6 + number / 30 * 8))
        .collect();
    seeds.push(vec![1 + 4 + 32]);
    let mut place = Place::new(fill);
    let mut believed = 0;
    let target = Target {
        name: "index",
        seeds,
        tokens: &[],
        inputs: 400,
    };
    target.run(|input| {
        place.reset();
        let forged = forge(input, &place);
        let store = open(&place.root(), Access::ReadOnly).unwrap();
        the_good_run_is_there(&store);
        let seen = read_everything(&store);
        // Somebody who can forge checksums can make lists wrong, and nothing else.
        let right = ask(&store).is_ok_and(|lines| lines.len() == 2);
        believed += u32::from(!right);
        drop(store);
        if input.first().is_some_and(|kind| kind & 24 == 24) {
            // It never stops a writer, and once it is gone the answer is right.
            let store = open(&place.root(), Access::ReadWrite).unwrap();
            store
                .put_run_text(
                    r#"{"run_id": "new", "status": "success"}"#,
                    &Expectation::Anything,
                )
                .unwrap();
            drop(
                store
                    .query_runs(&QueryText {
                        check: true,
                        ..QueryText::default()
                    })
                    .unwrap(),
            );
            store.close().unwrap();
            drop(store);
            fs::remove_dir_all(place.root().join(".index")).unwrap();
            let store = open(&place.root(), Access::ReadOnly).unwrap();
            assert_eq!(ask(&store).unwrap().len(), 2);
            place.outside_is_untouched();
            // What was changed cannot be put back so that the index takes it for unchanged.
            place = Place::new(fill);
        }
        outcome((forged, seen, right))
    });
    assert!(
        believed > 0,
        "no forgery was good enough to be believed: the test is blunt"
    );
}

#[test]
fn no_service_file_leads_the_credentials_of_a_user_elsewhere() {
    let place = Place::new(|root| {
        fs::create_dir_all(root.join("services/postgres")).unwrap();
    });
    let seeds = [
        r#"{"host": "db.example", "port": 5432, "database": "lab", "user": "lab", "password": "hunter22"}"#,
        r#"{"host": "/var/run/postgresql", "port": "5433", "database": "x", "user": "y", "password": null, "extra": 1}"#,
        "[]",
    ];
    let seeds = seeds.iter().map(|seed| seed.as_bytes().to_vec()).collect();
    let tokens = &[
        "\"host\"",
        "\"port\"",
        "\"database\"",
        "\"user\"",
        "\"password\"",
        "\"db.example\"",
        "\"other\"",
        "5432",
        "\"DB.EXAMPLE\"",
        "\"\"",
        "null",
    ];
    let target = Target {
        name: "service",
        seeds,
        tokens,
        inputs: 1500,
    };
    target.run(|input| {
        fs::write(place.root().join("services/postgres/service.json"), input).unwrap();
        let ports = native::ports(&place.root()).unwrap();
        let mut seen = Vec::new();
        for connection in [
            "postgresql://lab@db.example/lab",
            "postgresql://lab:own@db.example/lab",
            "postgresql:///",
        ] {
            let config = config::StoreConfig {
                backend: Backend::Postgres(PostgresConfig {
                    connection_string: connection.to_owned(),
                    schema: "public".to_owned(),
                    auto_migrate: true,
                    connect_timeout_ms: 1,
                    pool_min_size: 1,
                    pool_max_size: 2,
                    projection: true,
                }),
                root: "/x".to_owned(),
                experiment_id: None,
                access: Access::ReadWrite,
                durability: Durability::Full,
                lock_timeout_ms: 1,
            };
            let resolved = config::resolve(&config, Some(&ports)).unwrap();
            let warnings = resolved.warnings.concat();
            assert!(!warnings.contains("hunter22"), "{warnings}");
            let found = resolved.connection.unwrap();
            if connection.contains("db.example") {
                let [(host, port)] = &found.hosts[..] else {
                    panic!("{found:?}")
                };
                assert!(
                    host.eq_ignore_ascii_case("db.example") && *port == 5432,
                    "{found:?}"
                );
                assert_eq!(
                    (found.database.as_str(), found.user.as_deref()),
                    ("lab", Some("lab"))
                );
            }
            if connection.contains(":own@") {
                assert_eq!(found.password.as_deref(), Some("own"));
            }
            seen.push((shape(warnings), found.password.is_some()));
        }
        outcome(seen)
    });
}

/// The stream of a store that has a run with everything.
fn stream() -> Vec<u8> {
    let place = Place::new(fill);
    let store = open(&place.root(), Access::ReadOnly).unwrap();
    testing::stream(&store, Selection::default()).0
}

/// Makes the checksums of all blocks that look like headers right.
fn refit_tar(stream: &mut [u8]) {
    for block in stream.chunks_exact_mut(512) {
        if &block[257..262] == b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
}

#[test]
fn no_stream_and_no_archive_gets_out_of_the_store_that_takes_it() {
    let place = Place::new(|root| {
        let store = open(root, Access::ReadWrite).unwrap();
        store
            .put_run_text(
                r#"{"run_id": "good", "status": "success"}"#,
                &Expectation::Anything,
            )
            .unwrap();
        store.put_log("good", "stdout", "one\ntwo\n").unwrap();
        store.close().unwrap();
    });
    let stream = stream();
    let mut packer = Packer::default();
    let mut archive = packer.write(&stream);
    archive.extend(packer.finish());
    // The first byte says what the rest is: an archive, a stream, a stream whose checksums are made right.
    let mut seeds = vec![[&[0], &archive[..]].concat()];
    seeds.extend([1, 2].map(|kind| [&[kind], &stream[..]].concat()));
    let tokens = &[
        "runs/r.json",
        "../outside/secret",
        "/etc/passwd",
        ".transfer/",
        ".index/",
        ".locks/",
        "e/",
        "ustar\u{0}00",
        "path=",
        "30 path=../../outside/secret\n",
        "size=",
        "\u{0}\u{0}\u{0}1",
        "runs/r.json\u{0}2",
    ];
    let target = Target {
        name: "archives",
        seeds,
        tokens,
        inputs: 300,
    };
    target.run(|input| {
        place.reset();
        let Some((kind, content)) = input.split_first() else {
            return 0;
        };
        let mut stream = Vec::new();
        let mut seen = Vec::new();
        match kind % 3 {
            0 => {
                let mut unpacker = Unpacker::new(Some(1 << 20));
                let mut result = Ok(());
                for chunk in content.chunks(4096) {
                    result = unpacker.write(chunk);
                    while result.is_ok() {
                        match unpacker.read() {
                            Ok(piece) if piece.is_empty() => break,
                            Ok(piece) => stream.extend(piece),
                            Err(error) => result = Err(error),
                        }
                    }
                    if result.is_err() {
                        break;
                    }
                }
                while result.is_ok() {
                    match unpacker.read_rest() {
                        Ok(piece) if piece.is_empty() => break,
                        Ok(piece) => stream.extend(piece),
                        Err(error) => result = Err(error),
                    }
                }
                assert!(stream.len() <= (1 << 20) + (256 << 10));
                seen.push(result.map_or_else(shape, |()| String::new()));
            }
            1 => stream.extend(content),
            _ => {
                stream.extend(content);
                refit_tar(&mut stream);
            }
        }
        let store = open(&place.root(), Access::ReadWrite).unwrap();
        let mut receiver = store.receive(ReceiveOptions::default(), None).unwrap();
        let mut rest = &stream[..];
        while !rest.is_empty() {
            match receiver.write(&rest[..rest.len().min(10_000)]) {
                Ok(step) if step.elsewhere.is_some() => break,
                Ok(step) => {
                    assert!(
                        step.consumed > 0,
                        "a receiver that takes nothing is never done"
                    );
                    rest = &rest[step.consumed..];
                }
                Err(error) => {
                    seen.push(shape(error));
                    break;
                }
            }
        }
        seen.push(
            receiver
                .finish()
                .map_or_else(shape, |report| report.copied.files.to_string()),
        );
        the_good_run_is_there(&store);
        let everything = read_everything(&store);
        store.close().unwrap();
        place.outside_is_untouched();
        outcome((kind % 3, seen, everything))
    });
}
