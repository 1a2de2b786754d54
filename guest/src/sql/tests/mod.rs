//! What SQL answers, against a real server.

mod documented;
mod plans;
mod queries;
mod server;
mod table;

use super::page::{Found, Key, Listing, Page, Within};
use super::runs::Row;
use super::{Schema, fields, page, runs, sorting, translate};
use crate::json::python::Random;
use crate::ports::{Database, SqlValue, Statement};
use crate::query::{Query, QueryText};
use server::Server;

/// 2026-03-08T00:00:00 UTC.
const NOW: i64 = 1_772_928_000_000_000;

fn query(text: &QueryText<'_>) -> Query {
    Query::parse(text, NOW).unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

fn row(scope: &str, run_id: &str, record: &str, derived: Option<&str>) -> Row {
    Row::new(scope, run_id, "0123456789abcdef", record, derived, "stamp")
        .unwrap_or_else(|error| panic!("{record}: {error}"))
}
