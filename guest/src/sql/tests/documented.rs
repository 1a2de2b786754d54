//! The tables of the language's page, asked of a database.

use super::*;
use crate::query::tests::documented::{answer, table};

/// Returns the runs that a filter finds.
fn found(server: &Server, scopes: &[String], filter: &str, sort: &str) -> Vec<String> {
    let query = query(&QueryText {
        filter,
        sort,
        limit: Some(page::MAX_PAGE),
        ..QueryText::default()
    });
    let page = page::run(server, server.within(scopes), &query, false)
        .unwrap_or_else(|error| panic!("{filter}: {error:?}"));
    page.rows.into_iter().map(|row| row.key.run_id).collect()
}

#[test]
fn every_type_pair_compares_as_the_page_says() {
    let server = Server::new();
    let rows = table("| `metrics.x` | filter | answer |");
    let name = |index: usize| format!("run{index}");
    for (index, row) in rows.iter().enumerate() {
        let inner = match row[0] {
            "(missing)" => "{}".to_owned(),
            value => format!(r#"{{"x": {value}}}"#),
        };
        let run = name(index);
        let record = format!(
            r#"{{"run_id": "{run}", "metrics": {inner}, "params_resolved": {inner}, "error": {inner},
                "provenance": {{"extra": {inner}}}}}"#
        );
        server.put(&[super::row("s", &run, &record, Some(&inner))]);
    }
    let scopes = ["s".to_owned()];
    for (index, row) in rows.iter().enumerate() {
        for namespace in ["metrics", "params", "error", "provenance.extra", "derived"] {
            let filter = row[1].replace("metrics", namespace);
            let runs = found(&server, &scopes, &filter, "");
            assert_eq!(
                runs.contains(&name(index)),
                answer(row[2]),
                "{filter} with {}",
                row[0]
            );
        }
    }
}

#[test]
fn fields_of_whole_records_read_as_the_page_says() {
    let server = Server::new();
    for (index, row) in table("| record | filter | answer |").iter().enumerate() {
        let scope = format!("scope{index}");
        server.put(&[super::row(&scope, "", row[0], None)]);
        let runs = found(&server, &[scope], row[1], "");
        assert_eq!(
            !runs.is_empty(),
            answer(row[2]),
            "{} with {}",
            row[1],
            row[0]
        );
    }
}

#[test]
fn values_sort_as_the_page_says() {
    let server = Server::new();
    let rows = table("| ascending | descending |");
    let record = |value: &str, run: &str| match value {
        "(missing)" => format!(r#"{{"run_id": {run:?}}}"#),
        value => format!(r#"{{"run_id": {run:?}, "metrics": {{"x": {value}}}}}"#),
    };
    for (column, sort) in [(0, "metrics.x"), (1, "metrics.x desc")] {
        let scope = format!("scope{column}");
        // Those that are equal are not in the order of their runs by themselves.
        for row in rows.iter().rev() {
            server.put(&[super::row(
                &scope,
                row[column],
                &record(row[column], row[column]),
                None,
            )]);
        }
        let documented: Vec<_> = rows.iter().map(|row| row[column]).collect();
        assert_eq!(found(&server, &[scope], "", sort), documented);
    }
}
