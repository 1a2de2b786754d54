//! The storage logic of metalab-store.

pub mod error;
pub mod ports;

#[cfg(target_family = "wasm")]
mod component;
