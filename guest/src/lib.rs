//! The storage logic of metalab-store: everything that is to be known about the format, its names and its
//! durability. It compiles to the WebAssembly component, and natively for its unit tests, for fault
//! injection and as the baseline that the component's speed is compared with.
//!
//! Data flows one way: the component's surface ([`store`], [`config`]) -> the parts (records, artifacts,
//! logs, …) -> files by their place in the [`layout`] -> the [`ports`].

#![deny(missing_docs)]
// The component's bindings are generated and need it; everything else does not.
#![cfg_attr(not(target_family = "wasm"), forbid(unsafe_code))]

mod artifact_manifest;
pub mod artifacts;
pub mod codec;
mod collection;
mod commit;
#[cfg(target_family = "wasm")]
mod component;
pub mod config;
pub mod connection;
pub mod database;
mod delete;
mod derived;
pub mod error;
mod index;
pub mod journal;
pub mod json;
pub mod layout;
mod log_files;
mod logs;
pub mod logs_naming;
mod manifests;
pub mod model;
pub mod names;
#[cfg(not(target_family = "wasm"))]
pub mod native;
#[cfg(not(target_family = "wasm"))]
mod native_database;
pub mod ports;
pub mod query;
mod quick;
mod records;
mod recovery;
pub mod run_list;
mod scope;
mod segment;
pub mod sql;
pub mod store;
#[cfg(not(target_family = "wasm"))]
pub mod testing;
pub mod time;
pub mod transfer;
mod tree;
mod typed_line;
pub mod verify;
#[cfg(target_family = "wasm")]
mod wasi;
#[cfg(target_family = "wasm")]
mod wasi_database;
