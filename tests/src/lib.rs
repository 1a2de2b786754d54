//! What the tests that cross a boundary share: the reference's collection, trees, the command.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

pub mod attacks;
pub mod conformance;
pub mod database;
pub mod hostile;
pub mod measured;
pub mod proxy;
pub mod script;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The checkout.
#[must_use]
pub fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

/// Unpacks the collection that the reference wrote; it is in `experiments` in the directory.
#[must_use]
pub fn reference_collection() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let archive = fs::File::open(checkout().join("tests/fixtures/reference-store.tar.gz")).unwrap();
    tar::Archive::new(flate2::read::GzDecoder::new(archive))
        .unpack(directory.path())
        .unwrap();
    directory
}

/// What the reference itself answers about its collection.
#[must_use]
pub fn golden() -> serde_json::Value {
    let text = fs::read(checkout().join("tests/fixtures/reference-store.golden.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

/// Returns every file below a directory with its content; directories end with a slash.
#[must_use]
pub fn tree(root: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(root: &Path, directory: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path
                .strip_prefix(root)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            if path.is_symlink() {
                found.insert(
                    name,
                    fs::read_link(&path)
                        .unwrap()
                        .into_os_string()
                        .into_encoded_bytes(),
                );
            } else if path.is_dir() {
                found.insert(format!("{name}/"), Vec::new());
                walk(root, &path, found);
            } else if path.is_file() {
                found.insert(name, fs::read(&path).unwrap());
            } else {
                // To read a FIFO would block for ever.
                found.insert(name, b"no regular file".to_vec());
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(root, root, &mut found);
    found
}

/// Returns a call of the command, without anything of the environment that it looks at.
#[must_use]
pub fn command() -> Command {
    let built = std::env::current_exe().unwrap();
    let directory = built
        .ancestors()
        .find(|path| path.ends_with("release") || path.ends_with("debug"))
        .unwrap();
    let mut command = Command::new(directory.join("metalab-store"));
    for name in ["METALAB_STORE", "COLUMNS", "NO_COLOR"] {
        command.env_remove(name);
    }
    command
}

/// Returns the path of a program that was built with the tests.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let built = std::env::current_exe().unwrap();
    let directory = built
        .ancestors()
        .find(|path| path.ends_with("release") || path.ends_with("debug"))
        .unwrap();
    directory.join(name)
}

/// A process that a test started. It is killed if the test ends before it does.
pub struct Worker {
    child: std::process::Child,
    lines: std::io::Lines<std::io::BufReader<std::process::ChildStdout>>,
}

impl Worker {
    /// Starts a worker on a store.
    #[must_use]
    pub fn start(mode: &str, root: &Path, arguments: &[&str]) -> Self {
        Self::start_by(Command::new(program("store-worker")), mode, root, arguments)
    }

    /// Starts a worker on a store with a database.
    #[must_use]
    pub fn start_on(locator: &str, mode: &str, root: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new(program("store-worker"));
        command.env("METALAB_STORE_WORKER_LOCATOR", locator);
        Self::start_by(command, mode, root, arguments)
    }

    fn start_by(mut command: Command, mode: &str, root: &Path, arguments: &[&str]) -> Self {
        use std::io::BufRead;
        use std::process::Stdio;
        let mut child = command
            .arg(mode)
            .arg(root)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Waits for the next line; none is the end.
    pub fn line(&mut self) -> Option<String> {
        self.lines.next().map(Result::unwrap)
    }

    /// Kills it, without a chance to do anything more, and returns how many lines more it had written.
    pub fn kill(mut self) -> usize {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.lines.by_ref().count()
    }

    /// Tells it to end, waits until it does, and returns how many lines more it had written.
    pub fn end(mut self) -> usize {
        drop(self.child.stdin.take());
        let lines = self.lines.by_ref().count();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "a worker failed: {status}");
        lines
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Returns what a store should not keep: stage files, and the journal and locks of writers that are gone.
#[must_use]
pub fn leftovers(root: &Path) -> Vec<String> {
    let stage = |name: &String| name.contains(".tmp.");
    let journal = |name: &String| {
        name.contains(".index/journal-")
            || (name.contains(".index/staging/") && !name.ends_with('/'))
    };
    tree(root)
        .into_keys()
        .filter(|name| stage(name) || journal(name))
        .collect()
}

/// Returns the most memory that this process ever had, in MiB; 0 where the system does not say.
#[must_use]
pub fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|peak| peak.split_whitespace().next()?.parse::<u64>().ok());
    peak.unwrap_or_default() / 1024
}

/// Returns the path of a plugin that `cargo xtask build` made: `example` or `test`.
#[must_use]
pub fn plugin(name: &str) -> PathBuf {
    let target = program("plugins")
        .parent()
        .unwrap()
        .parent()
        .unwrap()
        .to_owned();
    target.join("plugins").join(format!("{name}.wasm"))
}
