//! A copy that a kill, a power cut or a full disk ends is finished by the same copy again: everything is there, nothing
//! is taken for somebody else's, and what is whole is not written a second time.

use crate::script::{canonical, leftovers, open, record, samples, seed};
use crate::sim::{CallKind, Fault, Numbers, SimDisk, Tree};
use metalab_store_guest::error::Error;
use metalab_store_guest::model::{Access, ArtifactDescriptor, Expectation};
use metalab_store_guest::ports::PortError;
use metalab_store_guest::store::Store;
use metalab_store_guest::testing;
use metalab_store_guest::transfer::{MAX_CHUNK, ReceiveOptions, Report, Selection};

/// Makes a store with a few runs; one has an artifact that is not kept in memory.
fn source() -> SimDisk {
    let disk = SimDisk::new(1);
    let store = open(&disk, Access::ReadWrite).unwrap();
    for (run, size) in [("a", 10), ("b", 2_000), ("c", 1_100_000), ("d", 600)] {
        store
            .put_run_record(&record(run, "x", 700), &Expectation::Anything)
            .unwrap();
        let descriptor = ArtifactDescriptor {
            artifact_id: run.to_owned(),
            name: "w".to_owned(),
            kind: "bytes".to_owned(),
            format: "bin".to_owned(),
            uri: String::new(),
            content_hash: None,
            size_bytes: None,
            metadata: format!("{{\"_run_id\": \"{run}\"}}"),
            unknown: "{}".to_owned(),
        };
        let content: Vec<u8> = (0..size).map(|byte: u32| (byte % 251) as u8).collect();
        let mut writer = store.create_artifact(descriptor).unwrap();
        for piece in content.chunks(MAX_CHUNK) {
            writer.write(piece).unwrap();
        }
        writer.finish().unwrap();
        store
            .put_log(run, "run", &"line\n".repeat(size as usize % 300 + 1))
            .unwrap();
    }
    store.close().unwrap();
    disk.foreign_write("exp_context_manifest.json", b"{}");
    disk
}

fn stream(disk: &SimDisk) -> Vec<u8> {
    let store = open(disk, Access::ReadOnly).unwrap();
    testing::stream(&store, Selection::default()).0
}

/// Copies a stream into a store, whole.
fn take(disk: &SimDisk, stream: &[u8]) -> Result<Report, Error> {
    let store = open(disk, Access::ReadWrite)?;
    let report = take_into(&store, stream)?;
    store.close()?;
    Ok(report)
}

fn take_into(store: &Store, stream: &[u8]) -> Result<Report, Error> {
    let mut receiver = store.receive(ReceiveOptions::default(), None)?;
    for chunk in stream.chunks(MAX_CHUNK) {
        let step = receiver.write(chunk)?;
        assert_eq!(step.consumed, chunk.len());
    }
    receiver.finish()
}

/// The files of the format.
fn files(tree: Tree) -> Tree {
    canonical(tree)
}

/// How many files of the right content there are.
fn whole_files(found: &Tree, wanted: &Tree) -> u64 {
    let count = found
        .iter()
        .filter(|(path, content)| *path != "_meta.json" && wanted.get(*path) == Some(content));
    count.count() as u64
}

/// Asserts that the same copy again finishes it.
fn finish(disk: &SimDisk, stream: &[u8], wanted: &Tree, context: &str) {
    let before = whole_files(&files(disk.tree()), wanted);
    let report = take(disk, stream).unwrap_or_else(|error| panic!("{context}: {error}"));
    assert_eq!(report.failures, Vec::new(), "{context}");
    let total = wanted.len() as u64 - 1;
    assert_eq!(
        report.copied.files + report.skipped.files,
        total,
        "{context}"
    );
    assert_eq!(report.skipped.files, before, "{context}: written twice");
    let found = disk.tree();
    let left = leftovers(&found);
    let left: Vec<_> = left
        .iter()
        .filter(|path| *path != ".index/transfer.lock")
        .collect();
    assert_eq!(left, Vec::<&String>::new(), "{context}");
    let found = files(found);
    let differs = wanted
        .keys()
        .chain(found.keys())
        .find(|path| wanted.get(*path) != found.get(*path));
    assert_eq!(differs, None, "{context}");
}

#[test]
fn a_copy_that_a_kill_or_a_power_cut_ends_after_any_call_is_finished_by_the_same_one() {
    let seed = seed();
    println!("METALAB_STORE_SEED={seed}");
    let mut numbers = Numbers::new(seed);
    let from = source();
    let (wanted, stream) = (files(from.tree()), stream(&from));
    let to = SimDisk::new(seed);
    to.keep_images();
    take(&to, &stream).unwrap();
    let images = to.take_images();
    let (mut kills, mut cuts) = (0, 0);
    for (at, image) in images.iter().enumerate() {
        let context = format!("METALAB_STORE_SEED={seed}, after change {at}");
        finish(
            &SimDisk::of(image.clone(), numbers.next()),
            &stream,
            &wanted,
            &format!("{context}, a kill"),
        );
        kills += 1;
        for state in image.after_power_cuts(samples(6), numbers.next()) {
            let context = format!("{context}, power cut {cuts}");
            finish(
                &SimDisk::of(state, numbers.next()),
                &stream,
                &wanted,
                &context,
            );
            cuts += 1;
        }
    }
    println!("{kills} kills, {cuts} power cuts");
    assert!(kills > 50 && cuts > 200, "{kills} kills, {cuts} power cuts");
}

#[test]
fn a_finished_copy_survives_a_power_cut() {
    let seed = seed();
    let from = source();
    let (wanted, stream) = (files(from.tree()), stream(&from));
    let to = SimDisk::new(seed);
    let store = open(&to, Access::ReadWrite).unwrap();
    take_into(&store, &stream).unwrap();
    // Not even closed.
    for state in to.image().after_power_cuts(samples(20), seed) {
        let disk = SimDisk::of(state, seed);
        let found = files(disk.tree());
        assert!(found == wanted, "METALAB_STORE_SEED={seed}");
    }
}

#[test]
fn a_disk_that_is_full_at_any_call_ends_the_copy_with_its_reason_and_the_same_copy_goes_on() {
    let from = source();
    let (wanted, stream) = (files(from.tree()), stream(&from));
    let to = SimDisk::new(1);
    take(&to, &stream).unwrap();
    let kinds = to.kinds();
    let mut told = 0;
    for (at, kind) in kinds.iter().enumerate() {
        if matches!(kind, CallKind::Look) {
            continue;
        }
        let to = SimDisk::new(1);
        let full = PortError::Other("insufficient-space");
        to.plan(Some(Fault::Fail(at as u64 + 1, full)));
        let taken = take(&to, &stream);
        to.plan(None);
        match taken {
            Ok(report) => told += u64::from(!report.failures.is_empty()),
            Err(error) => {
                let text = error.to_string();
                assert!(
                    matches!(
                        error,
                        Error::Io {
                            code: "insufficient-space",
                            ..
                        }
                    ) || text.contains("insufficient"),
                    "call {at}: {text}"
                );
                told += 1;
            }
        }
        to.kill_all();
        let disk = SimDisk::of(to.image(), 1);
        let report = take(&disk, &stream).unwrap_or_else(|error| panic!("call {at}: {error}"));
        assert_eq!(report.failures, Vec::new(), "call {at}");
        assert!(files(disk.tree()) == wanted, "call {at}");
    }
    assert!(told > 20, "{told}");
}

#[test]
fn two_copies_at_once_keep_the_mark_until_the_last_one_is_done() {
    let from = source();
    let stream = stream(&from);
    let to = SimDisk::new(1);
    let (first, second) = (
        open(&to, Access::ReadWrite).unwrap(),
        open(&to, Access::ReadWrite).unwrap(),
    );
    let mark = ".index/transfer-unfinished";
    let mut one = first.receive(ReceiveOptions::default(), None).unwrap();
    let mut two = second.receive(ReceiveOptions::default(), None).unwrap();
    let chunks: Vec<&[u8]> = stream.chunks(MAX_CHUNK).collect();
    one.write(chunks[0]).unwrap();
    // The second finds other runs to copy than the first.
    to.foreign_remove("runs/a.json");
    two.write(chunks[0]).unwrap();
    for chunk in &chunks[1..] {
        one.write(chunk).unwrap();
    }
    assert_eq!(one.finish().unwrap().failures, Vec::new());
    assert!(to.read(mark).is_some());
    for chunk in &chunks[1..] {
        two.write(chunk).unwrap();
    }
    assert_eq!(two.finish().unwrap().failures, Vec::new());
    assert!(to.read(mark).is_none());
    assert!(files(to.tree()) == files(from.tree()));
}
