//! The index's own files are damaged, or gone.

use super::*;
use std::path::PathBuf;

/// Makes a store with a saved index, and returns the files of that.
fn saved(root: &Path) -> Vec<PathBuf> {
    let store = open_as(root, Some("e"), Access::ReadWrite);
    put(&store, "a", "0.5");
    put(&store, "b", "NaN");
    store.put_derived_text("a", "{\"f1\": 1}").unwrap();
    all(&store);
    // Some notes, too.
    put(&store, "b", "0.25");
    put(&store, "b", "0.125");
    let files = fs::read_dir(root.join(".index")).unwrap();
    let mut files: Vec<PathBuf> = files
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name == "columns" || name == "changes" || name.ends_with(".tab")
        })
        .collect();
    files.sort();
    assert_eq!(files.len(), 3, "{files:?}");
    files
}

fn check(root: &Path, access: Access) {
    let store = open_as(root, Some("e"), access);
    let query = QueryText {
        filter: "metrics.loss < 1 and not notes exists",
        sort: "derived.f1, metrics.loss desc",
        limit: Some(1),
        ..QueryText::default()
    };
    assert_eq!(ask(&store, &query).total, 2);
    assert_eq!(all(&store).lines.len(), 2);
}

#[test]
fn no_flipped_byte_of_the_index_makes_a_wrong_answer() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    for file in saved(root) {
        let whole = fs::read(&file).unwrap();
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            fs::write(&file, &flipped).unwrap();
            check(root, Access::ReadOnly);
        }
        fs::write(&file, &whole).unwrap();
    }
}

#[test]
fn no_cut_or_extended_file_of_the_index_makes_a_wrong_answer() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    for file in saved(root) {
        let whole = fs::read(&file).unwrap();
        for length in (0..whole.len()).step_by(13) {
            fs::write(&file, &whole[..length]).unwrap();
            check(root, Access::ReadOnly);
        }
        let mut longer = whole.clone();
        longer.extend_from_slice(&[0xFF; 40]);
        fs::write(&file, &longer).unwrap();
        check(root, Access::ReadOnly);
        fs::write(&file, vec![0xFF; whole.len()]).unwrap();
        check(root, Access::ReadOnly);
        fs::remove_file(&file).unwrap();
        check(root, Access::ReadOnly);
        fs::create_dir(&file).unwrap();
        check(root, Access::ReadOnly);
        fs::remove_dir(&file).unwrap();
        fs::write(&file, &whole).unwrap();
    }
}

#[test]
fn a_writer_replaces_a_damaged_index_and_goes_on_without_one() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    for file in saved(root) {
        fs::write(&file, "nonsense").unwrap();
        check(root, Access::ReadWrite);
        check(root, Access::ReadOnly);
    }
    let store = open_as(root, Some("e"), Access::ReadWrite);
    all(&store);
    for name in ["columns", "changes"] {
        fs::remove_file(root.join(".index").join(name)).unwrap();
        put(&store, "c", "1");
        assert_eq!(all(&store).lines.len(), 3);
        store.delete_run("c").unwrap();
        assert_eq!(all(&store).lines.len(), 2);
    }
    store.close().unwrap();
    fs::remove_dir_all(root.join(".index")).unwrap();
    put(&store, "c", "1");
    assert_eq!(all(&store).lines.len(), 3);
}
