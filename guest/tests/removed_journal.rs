//! `.index/` is a cache and a journal: somebody may remove it at any moment, also while a call uses it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use metalab_store_guest::model::{Access, Durability, Expectation, StoreOptions};
use metalab_store_guest::native;
use metalab_store_guest::store::Store;
use metalab_store_guest::testing::{Touch, watched};
use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::rc::Rc;

/// Opens a store whose `.index/` is removed a few times, each time just before something is done at a place.
fn open(root: &Path, moment: (Touch, &'static str), times: u32) -> (Store, Rc<Cell<u32>>) {
    let mut ports = native::ports(root).unwrap();
    let left = Rc::new(Cell::new(0));
    let (counted, index) = (Rc::clone(&left), root.join(".index"));
    ports.directory = watched(ports.directory, move |touch, path| {
        if (touch, path) == moment && counted.get() > 0 && fs::remove_dir_all(&index).is_ok() {
            counted.set(counted.get() - 1);
        }
    });
    let options = StoreOptions {
        directory: root.to_str().unwrap().to_owned(),
        experiment_id: Some("e:1".to_owned()),
        access: Access::ReadWrite,
        durability: Durability::Full,
        lock_timeout_ms: 1000,
        index: None,
    };
    let store = Store::open(ports, options).unwrap();
    left.set(times);
    (store, left)
}

#[test]
fn a_call_whose_long_content_is_staged_survives_the_removal_of_its_directory() {
    // Too long for the journal itself.
    let text = format!(
        r#"{{"run_id": "r", "status": "success", "notes": "{}"}}"#,
        "x".repeat(1 << 20)
    );
    for place in [".index", ".index/staging"] {
        let directory = tempfile::tempdir().unwrap();
        let (store, left) = open(directory.path(), (Touch::OpenDirectory, place), 3);
        store.put_run_text(&text, &Expectation::Anything).unwrap();
        assert_eq!(left.get(), 0, "{place}");
        assert!(store.run_exists("r").unwrap());
        store.put_run_text(&text, &Expectation::Anything).unwrap();
        store.close().unwrap();
    }
}
