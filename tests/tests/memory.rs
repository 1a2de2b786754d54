//! Copies and verifications need memory for names, and not for what files hold.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use metalab_store::maintenance::verify;
use metalab_store::transfer::{Place, Report, TransferOptions, transfer};
use metalab_store::types::{ArtifactDescriptor, Expectation, RunRecord, Status};
use metalab_store::{FileStoreConfig, Limits, StoreConfig};
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

const MIB: u64 = 1 << 20;

/// The most that a copy or a verification may add to the memory of this process.
const MOST: u64 = 100 * MIB;

/// One test at a time measures.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns a line of what the kernel says of this process, in bytes.
fn memory(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let size = line.unwrap().trim_start_matches(':').trim();
    size.strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

/// Does something that may not take much memory, in the host and in the component.
fn lean<T>(what: &str, function: impl FnOnce() -> T) -> T {
    let before = memory("VmRSS");
    // From here on the peak counts.
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let done = function();
    let used = memory("VmHWM").saturating_sub(before);
    println!("{what} took {} MiB", used / MIB);
    assert!(used < MOST, "{what} took {} MiB", used / MIB);
    done
}

/// A store whose component may use so many bytes.
fn store(root: &Path, limit: u64) -> StoreConfig {
    StoreConfig::from(FileStoreConfig::new(root)).limits(Limits {
        memory_bytes: usize::try_from(limit).unwrap(),
        ..Limits::default()
    })
}

fn copy(from: Place, to: Place) -> Report {
    let options = TransferOptions::default();
    let report = transfer(&from, &to, &options, &mut |_| ControlFlow::Continue(()));
    let report = report.unwrap();
    assert_eq!(report.failures, []);
    report
}

#[test]
fn an_artifact_of_any_size_is_exported_and_verified_in_little_memory() {
    let _alone = alone();
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let config = store(&root, 16 * MIB);
    let writer = config.clone().scoped("exp:1").connect().unwrap();
    let run = RunRecord::new("run", Status::Success);
    writer.put_run_record(&run, &Expectation::Anything).unwrap();
    let size = 300 * MIB;
    let sparse = directory.path().join("sparse");
    fs::File::create(&sparse).unwrap().set_len(size).unwrap();
    let descriptor = ArtifactDescriptor::new("run", "large", "blob", "bin");
    lean("a put", || writer.put_artifact_file(&sparse, &descriptor)).unwrap();
    writer.close().unwrap();
    let archive = directory.path().join("a.tar.zst");
    let from = Place::Store(Box::new(config.clone()));
    let sent = lean("an export", || copy(from, Place::Archive(archive.clone())));
    assert!(sent.copied.bytes > size);
    assert!(fs::metadata(&archive).unwrap().len() < size / 100);
    let report = lean("a verification", || {
        verify(&config, false, &mut |_| ControlFlow::Continue(())).unwrap()
    });
    assert_eq!((report.damage, report.digests.len()), (0, 1));
    assert_eq!(report.digests[0].digest, sent.digests[0].digest);
    assert!(report.bytes > size);
}

#[test]
fn twenty_thousand_runs_are_exported_and_imported_in_little_memory() {
    let _alone = alone();
    // No disk is needed.
    let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    let directory = directory.unwrap();
    let root = directory.path().join("store");
    let runs = 20_000;
    fs::create_dir_all(root.join("exp_1/runs")).unwrap();
    let meta = "{\n  \"experiment_id\": \"exp:1\"\n}";
    fs::write(root.join("exp_1/_meta.json"), meta).unwrap();
    for run in 0..runs {
        let record = format!(
            "{{\"experiment_id\": \"exp:1\", \"run_id\": \"r{run}\", \"status\": \"success\"}}"
        );
        fs::write(root.join(format!("exp_1/runs/r{run}.json")), record).unwrap();
    }
    let archive = directory.path().join("a.tar.zst");
    let from = Place::Store(Box::new(store(&root, 32 * MIB)));
    let sent = lean("an export", || copy(from, Place::Archive(archive.clone())));
    assert_eq!((sent.copied.runs, sent.copied.files), (runs, runs));
    let to = directory.path().join("copy");
    let into = Place::Store(Box::new(store(&to, 32 * MIB)));
    let came = lean("an import", || copy(Place::Archive(archive), into));
    assert_eq!((came.copied, came.digests), (sent.copied, sent.digests));
    for run in [0, runs - 1] {
        let file = format!("exp_1/runs/r{run}.json");
        assert_eq!(
            fs::read(to.join(&file)).unwrap(),
            fs::read(root.join(&file)).unwrap()
        );
    }
}
