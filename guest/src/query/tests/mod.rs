pub(crate) mod documented;
mod evaluation;
mod naive;
mod pages;
mod parsing;

use super::*;
use crate::json::{self, Object, Value};
use crate::testing::{self as random, NOW};

fn filter(text: &str) -> Expr {
    match parse_filter(text) {
        Ok(Some(expr)) => expr,
        other => panic!("{text}: {other:?}"),
    }
}

fn refused(text: &str) -> QueryError {
    match parse_filter(text) {
        Err(error) => error,
        Ok(expr) => panic!("{text} became {expr:?}"),
    }
}

fn record(text: &str) -> Value<'_> {
    let value = json::parse(text.as_bytes());
    value.unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn object<'r, 'v>(value: &'r Value<'v>) -> &'r Object<'v> {
    value.as_object().unwrap()
}

fn holds(record_text: &str, filter_text: &str) -> bool {
    let value = record(record_text);
    filter(filter_text).matches(&RecordRow::new(object(&value), None), NOW)
}
