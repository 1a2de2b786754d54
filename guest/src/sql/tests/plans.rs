//! How the server goes about a query: which index it takes, whether it sorts.

use super::*;

const RUNS: usize = 20_000;

/// A table of many runs, two thirds of them in one scope.
fn many() -> Server {
    let server = Server::empty();
    server.run(&runs::table(&server.schema));
    let mut lines = String::new();
    for index in 0..RUNS {
        let run = format!("{:016x}", index * 7919);
        let scope = if index % 3 == 0 { "other" } else { "s" };
        let status = if index % 50 == 0 { "failed" } else { "success" };
        let tags = if index % 1000 == 1 {
            r#""rare""#
        } else {
            r#""common""#
        };
        let second = index % 60;
        let minute = index / 60 % 60;
        let hour = index / 3600;
        let record = format!(
            r#"{{"run_id": "{run}", "experiment_id": "e{}", "status": "{status}", "tags": [{tags}],
               "started_at": "2026-03-01T{hour:02}:{minute:02}:{second:02}",
               "metrics": {{"loss": {}.5}}, "params_resolved": {{"lr": 0.{index}}}}}"#,
            index % 20,
            index % 997
        );
        runs::copy_line(&row(scope, &run, &record, None), &mut lines);
    }
    server.copy(&runs::copy_into(&server.schema.name(runs::TABLE)), &lines);
    for index in runs::indexes(&server.schema) {
        server.run(&index);
    }
    server.run(&runs::analyze(&server.schema));
    server
}

/// The steps of a plan: node types, with the index where there is one.
fn plan(server: &Server, scopes: &[&str], text: &QueryText<'_>) -> Vec<String> {
    let scopes: Vec<_> = scopes.iter().map(|scope| (*scope).to_owned()).collect();
    let mut statement = page::statement(server.within(&scopes), &query(text), false);
    statement.sql = format!("EXPLAIN (FORMAT JSON, COSTS OFF) {}", statement.sql);
    let rows = server.query(&statement, 1).unwrap().rows;
    let Some([SqlValue::Json(json)]) = rows.first().map(Vec::as_slice) else {
        panic!("{rows:?} is no plan");
    };
    let named = |line: &str, name: &str| {
        let value = line.trim().strip_prefix(&format!("\"{name}\": \""))?;
        Some(value.trim_end_matches(['"', ',']).to_owned())
    };
    let lines = json.lines();
    lines
        .filter_map(|line| named(line, "Node Type").or_else(|| named(line, "Index Name")))
        .collect()
}

fn holds(plan: &[String], step: &str) -> bool {
    plan.iter().any(|found| found == step)
}

#[test]
fn each_query_shape_goes_the_way_that_its_index_is_there_for() {
    let server = many();
    let first = QueryText {
        limit: Some(100),
        ..QueryText::default()
    };
    let ordered = "metalab_store_runs_order";
    // In the default order nothing is sorted: the index has that order, and has the status and experiment in it.
    for filter in [
        "",
        r#"status = "failed""#,
        r#"status in ("success", "running")"#,
        r#"experiment_id = "e7""#,
        r#"tags contains "common""#,
        "metrics.loss < 500",
        "started_at > 2026-03-01T02:00:00",
        "started_at between 2026-03-01T01:00:00 and 2026-03-01T02:00:00",
        r#"not (status = "failed" and metrics.loss > 5)"#,
    ] {
        let found = plan(&server, &["s"], &QueryText { filter, ..first });
        assert!(holds(&found, ordered), "{filter}: {found:?}");
        assert!(!holds(&found, "Sort"), "{filter}: {found:?}");
        assert!(!holds(&found, "Seq Scan"), "{filter}: {found:?}");
    }
    // The index of inexact rows is a part of every page.
    let found = plan(&server, &["s"], &first);
    assert!(holds(&found, "metalab_store_runs_inexact"), "{found:?}");
    // A later page starts where it starts: the ids of the cursor are a bound of the index.
    let page = page::run(
        &server,
        server.within(&["s".to_owned()]),
        &query(&first),
        false,
    )
    .unwrap();
    let later = QueryText {
        cursor: page.next.as_deref(),
        ..first
    };
    let found = plan(&server, &["s"], &later);
    assert!(
        holds(&found, ordered) && !holds(&found, "Sort"),
        "{found:?}"
    );
    // A rare tag comes from its own index.
    let rare = QueryText {
        filter: r#"tags contains "rare""#,
        ..first
    };
    let found = plan(&server, &["s"], &rare);
    assert!(holds(&found, "metalab_store_runs_tags"), "{found:?}");
    // One run comes from the key.
    let one = QueryText {
        filter: r#"run_id = "0000000000001eef""#,
        ..first
    };
    let found = plan(&server, &["s"], &one);
    assert!(holds(&found, "metalab_store_runs_key"), "{found:?}");
    // Several scopes: each gives its first ones in order, and only those are sorted.
    let found = plan(&server, &["s", "other"], &first);
    assert!(
        holds(&found, ordered) && holds(&found, "Nested Loop"),
        "{found:?}"
    );
    assert!(!holds(&found, "Seq Scan"), "{found:?}");
}
