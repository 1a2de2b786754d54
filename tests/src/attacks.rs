//! Counts attacks by class and outcome, for the table in `tests/README.md`.

use std::fs::OpenOptions;
use std::io::Write as _;

/// Names the file that attacks are written to, a line each. `cargo xtask test` sets it, and makes the table.
const VARIABLE: &str = "METALAB_STORE_ATTACKS";

/// Counts attacks that were tried and came to nothing.
///
/// # Panics
/// If the file cannot be written.
pub fn count(class: &str, outcome: &str, attacks: u64) {
    if let Some(path) = std::env::var_os(VARIABLE) {
        let file = OpenOptions::new().create(true).append(true).open(path);
        // One write: tests of several processes append to the same file.
        let line = format!("{class}\t{outcome}\t{attacks}\n");
        file.unwrap().write_all(line.as_bytes()).unwrap();
    }
}
