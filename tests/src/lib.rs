//! What the tests that cross a boundary share: the reference's collection, trees, the command.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

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
            } else {
                found.insert(name, fs::read(&path).unwrap());
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
