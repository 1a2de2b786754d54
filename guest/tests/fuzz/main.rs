//! Fuzzing on the stable compiler: seeds, mutations that know what lengths, checksums and names look like, and
//! targets that check more than that nothing panics.
//!
//! Without variables each target takes a few hundred inputs, which is a test like others. `cargo xtask fuzz
//! --minutes N` gives the targets N minutes together and writes a report. `METALAB_STORE_SEED` sets the seed.
//! An input that breaks a target is kept in `target/fuzz-found`; once the fault is fixed it goes to `found/TARGET/`, from
//! where every later run takes it first.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod files;
mod harness;
mod mutate;
mod rows;
mod texts;
