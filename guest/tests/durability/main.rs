//! What a crash, a kill, a full disk and a broken one leave of a store: on a simulated disk that knows what
//! was written, what was synced, and what a power cut may make of the rest.
//!
//! `METALAB_STORE_SEED` sets the seed of everything that is sampled, `METALAB_STORE_SAMPLES` how many states
//! of the disk are looked at per crash. Every failure names the seed.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod chains;
mod crashes;
mod faults;
mod script;
mod sim;
mod sim_tests;
mod transfer;
mod who_wins;
