//! The storage logic of metalab-store.
#[cfg(target_family = "wasm")]
mod component;
