//! Everything that makes SQL.
//!
//! [`runs`] is our own table: one row a run, with the exact texts of the record and of the derived metrics, and
//! beside them what queries filter and sort by. [`document`] makes that second form of a record, [`translate`]
//! turns filters and orders into conditions on it, and [`page`] and [`fields`] answer queries with them.
//!
//! No value ever becomes part of a statement's text: ids, names, literals and paths are parameters. Only the
//! schema's name stands in it, quoted by [`identifier`].

pub(crate) mod catalogue;
pub(crate) mod directories;
pub mod document;
pub mod fields;
pub mod identifier;
pub mod page;
pub(crate) mod projection;
pub(crate) mod prune;
pub mod runs;
pub mod sorting;
pub mod translate;

pub use identifier::Schema;

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop where it fails")]
mod tests;
