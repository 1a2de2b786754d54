//! Everything that makes SQL.
//!
//! [`runs`] is our own table: one row a run, with the exact texts of the record and of the derived metrics, and
//! beside them what queries filter and sort by. [`document`] makes that second form of a record.
//!
//! No value ever becomes part of a statement's text: ids, names, literals and paths are parameters. Only the
//! schema's name stands in it, quoted by [`identifier`].

pub mod document;
pub mod identifier;
pub mod runs;

pub use identifier::Schema;
