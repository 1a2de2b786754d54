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
    let mut steps = details(server, scopes, text, "Node Type");
    steps.extend(details(server, scopes, text, "Index Name"));
    steps
}

/// All values of one name in a plan.
fn details(server: &Server, scopes: &[&str], text: &QueryText<'_>, name: &str) -> Vec<String> {
    let scopes: Vec<_> = scopes.iter().map(|scope| (*scope).to_owned()).collect();
    let mut statement = page::statement(server.within(&scopes), &query(text), false);
    statement.sql = format!("EXPLAIN (FORMAT JSON, COSTS OFF) {}", statement.sql);
    let rows = server.query(&statement, 1).unwrap().rows;
    let Some([SqlValue::Json(json)]) = rows.first().map(Vec::as_slice) else {
        panic!("{rows:?} is no plan");
    };
    let start = format!("\"{name}\": \"");
    json.lines()
        .filter_map(|line| line.trim().strip_prefix(&start))
        .map(|value| value.trim_end_matches(['"', ',']).to_owned())
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

#[test]
fn a_sort_key_with_an_index_of_its_own_is_not_sorted_by() {
    let server = many();
    for sort in [
        "metrics.loss",
        "metrics.loss desc",
        "params.lr desc",
        "duration_ms",
    ] {
        let text = QueryText {
            sort,
            filter: "metrics.loss > 20",
            limit: Some(100),
            ..QueryText::default()
        };
        let asked = query(&text);
        let before = plan(&server, &["s"], &text);
        assert!(holds(&before, "Sort"), "{sort}: {before:?}");
        let scopes = ["s".to_owned()];
        let page = || page::run(&server, server.within(&scopes), &asked, true).unwrap();
        let sorted = page();
        let key = &asked.sort.0[0];
        let statements = sorting::create(&server.schema, key).unwrap();
        server.in_one_transaction(&statements);
        server.in_one_transaction(&statements);
        let after = plan(&server, &["s"], &text);
        assert!(!holds(&after, "Sort"), "{sort}: {after:?}");
        // A later page, and a range, start in the middle of the index.
        let cursor = sorted.next.clone();
        let text = QueryText {
            cursor: cursor.as_deref(),
            ..text
        };
        let bounds = details(&server, &["s"], &text, "Index Cond");
        let ranges = 1 + usize::from(sort.starts_with("metrics"));
        assert!(
            bounds
                .iter()
                .any(|bound| bound.matches("ROW(").count() == 2 * ranges),
            "{bounds:?}"
        );
        assert!(
            holds(&after, &sorting::index_name(key)),
            "{sort}: {after:?}"
        );
        assert_eq!(page(), sorted, "{sort}");
    }
}

#[test]
fn a_number_with_an_index_of_its_own_finds_few_runs_by_it_and_many_in_the_order_of_the_page() {
    let mut server = many();
    let first = QueryText {
        limit: Some(100),
        ..QueryText::default()
    };
    let ordered = "metalab_store_runs_order";
    let few = [
        "metrics.loss < 1",
        "metrics.loss <= 0.5",
        "metrics.loss > 996",
        "metrics.loss = 7.5",
        "metrics.loss between 3 and 4",
        r#"status = "success" and metrics.loss < 1"#,
    ];
    let many = [
        "metrics.loss < 900",
        "metrics.loss > 2",
        "metrics.loss between 3 and 990",
        "metrics.loss < 1 or metrics.loss > 2",
        "not metrics.loss < 1",
    ];
    let scopes = ["s".to_owned()];
    let pages = |server: &Server, filters: &[&str]| -> Vec<Page> {
        let page = |filter: &&str| {
            let text = QueryText { filter, ..first };
            page::run(server, server.within(&scopes), &query(&text), true).unwrap()
        };
        filters.iter().map(page).collect()
    };
    let before = (pages(&server, &few), pages(&server, &many));
    assert!(
        before
            .0
            .iter()
            .all(|page| !page.rows.is_empty() && page.next.is_none())
    );
    let asked_for_few = QueryText {
        filter: few[5],
        ..first
    };
    let asked = query(&asked_for_few);
    let keys = translate::compared(asked.filter.as_ref().unwrap());
    let [key] = keys.as_slice() else {
        panic!("{keys:?}");
    };
    let create = sorting::create_for_ranges(&server.schema, key).unwrap();
    server.in_one_transaction(&create);
    server.in_one_transaction(&create);
    let own = sorting::index_name(key);
    let existing = server.query(&sorting::existing(&server.schema), 9);
    assert_eq!(existing.unwrap().rows, [[SqlValue::Text(own.clone())]]);
    // A store that does not know of it asks as before.
    let found = plan(&server, &["s"], &asked_for_few);
    assert!(holds(&found, ordered), "{found:?}");
    server.indexes.insert(own.clone());
    for filter in few {
        let found = plan(&server, &["s"], &QueryText { filter, ..first });
        assert!(holds(&found, &own), "{filter}: {found:?}");
        assert!(!holds(&found, ordered), "{filter}: {found:?}");
        let found = plan(&server, &["s", "other"], &QueryText { filter, ..first });
        assert!(holds(&found, &own), "{filter}: {found:?}");
    }
    for filter in many {
        let found = plan(&server, &["s"], &QueryText { filter, ..first });
        assert!(holds(&found, ordered), "{filter}: {found:?}");
        assert!(!holds(&found, &own), "{filter}: {found:?}");
        assert!(!holds(&found, "Sort"), "{filter}: {found:?}");
    }
    let after = (pages(&server, &few), pages(&server, &many));
    assert_eq!(after, before);
}

#[test]
fn the_numbers_that_an_index_could_find_runs_by_are_those_that_every_run_is_compared_with() {
    for (filter, expected) in [
        ("metrics.a < 1", vec!["metrics.a"]),
        (
            "metrics.a = 1 and params.b.c >= 2 and metrics.a > 0",
            vec!["metrics.a", "params.b.c"],
        ),
        ("duration_ms between 1 and 2.5", vec!["duration_ms"]),
        ("metrics.a < 1 or metrics.b < 1", vec![]),
        ("metrics.a != 1", vec![]),
        ("not metrics.a < 1", vec![]),
        (r#"metrics.a = "x""#, vec![]),
        ("metrics.a < inf", vec![]),
    ] {
        let asked = query(&QueryText {
            filter,
            ..QueryText::default()
        });
        let keys = translate::compared(asked.filter.as_ref().unwrap());
        let names: Vec<String> = keys.iter().map(|key| key.field.to_string()).collect();
        assert_eq!(names, expected, "{filter}");
    }
}

#[test]
fn the_names_of_a_sort_key_are_quoted_by_the_server_and_its_indexes_are_few() {
    let server = Server::new();
    let hostile = r#"a'); DROP TABLE %1$s; -- \\ $index$ $do$ \" é"#;
    let record = format!(r#"{{"run_id": "a", "metrics": {{"{hostile}": 1}}}}"#);
    server.put(&[row("s", "a", &record, None)]);
    let scopes = ["s".to_owned()];
    for index in 0..sorting::MAX_INDEXES + 3 {
        let sort = format!(r#"metrics."{hostile}{index}""#);
        let asked = query(&QueryText {
            sort: &sort,
            limit: Some(1),
            ..QueryText::default()
        });
        server.in_one_transaction(&sorting::create(&server.schema, &asked.sort.0[0]).unwrap());
        let page = page::run(&server, server.within(&scopes), &asked, true).unwrap();
        assert_eq!(page.total, Some(1));
    }
    let statement = Statement {
        sql: "SELECT count(*) FROM pg_indexes WHERE schemaname = $1::text \
              AND starts_with(indexname, 'metalab_store_sort_')"
            .to_owned(),
        parameters: vec![SqlValue::Text(server.schema.as_str().to_owned())],
    };
    let found = server.query(&statement, 1).unwrap().rows;
    let most = i64::try_from(sorting::MAX_INDEXES).unwrap();
    assert_eq!(found, [[SqlValue::Integer(most)]]);
}

#[test]
fn columns_of_their_own_and_paths_into_lists_get_no_index_of_a_sort_key() {
    let server = Server::new();
    for sort in [
        "started_at",
        "run_id",
        "status",
        "params.a[0]",
        r#"metrics."\u0000""#,
    ] {
        let asked = query(&QueryText {
            sort,
            ..QueryText::default()
        });
        assert_eq!(
            sorting::create(&server.schema, &asked.sort.0[0]),
            None,
            "{sort}"
        );
    }
}
