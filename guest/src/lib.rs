//! The storage logic of metalab-store.

#![deny(missing_docs)]
// The component's bindings are generated and need it; everything else does not.
#![cfg_attr(not(target_family = "wasm"), forbid(unsafe_code))]

pub mod layout;
pub mod logs_naming;
pub mod names;
