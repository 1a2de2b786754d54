//! The table itself: what is put in comes back, by every way in.

use super::*;
use crate::codec;
use crate::json::Value;
use crate::sql::projection::Projected;

fn hostile() -> Vec<Row> {
    let record = "{\n\t\"run_id\": \"a\\\\b\\\"{,}\",\r\n \"tags\": [\"\", \"NULL\", \"a,b\", \"{\\\"\\\\}\", \"\\t\\n é\"], \
                  \"started_at\": \"2026-03-01T00:00:00\", \"metrics\": {\"\\\\N\": 1e400}}";
    vec![
        row("s", "a\\b\"{,}", record, Some("{\"x\\n\": \"\\\\.\"}")),
        row(
            "s",
            "\\N",
            "{\"run_id\": \"\\\\N\", \"notes\": \"\\u0000\"}",
            None,
        ),
        row("s", "", "{}", Some("{\0")),
        row("t", "", "{\"status\": \"running\"}", None),
    ]
}

fn stored(server: &Server) -> Vec<Vec<SqlValue>> {
    let sql = format!(
        "SELECT {} FROM {} ORDER BY scope, run_id",
        runs::COLUMNS.join(", "),
        server.schema.name(runs::TABLE)
    );
    let statement = Statement {
        sql,
        parameters: Vec::new(),
    };
    server.query(&statement, 100).unwrap().rows
}

#[test]
fn a_row_comes_back_as_it_was_put_in_whichever_way_it_went() {
    let rows = hostile();
    let one_by_one = Server::new();
    for row in &rows {
        one_by_one
            .execute(&runs::upsert(&one_by_one.schema, std::slice::from_ref(row)))
            .unwrap();
    }
    let together = Server::new();
    // The last of equal keys counts.
    let mut twice = vec![row("s", "", "{\"notes\": \"old\"}", None)];
    twice.extend(rows.clone());
    together.put(&twice);
    together.put(&rows);
    let copied = Server::empty();
    copied.run(&runs::table(&copied.schema));
    let mut lines = String::new();
    for row in &rows {
        runs::copy_line(row, &mut lines);
    }
    copied.copy(&runs::copy_into(&copied.schema.name(runs::TABLE)), &lines);
    for index in runs::indexes(&copied.schema) {
        copied.run(&index);
    }
    for statement in runs::create(&copied.schema) {
        copied.run(&statement);
    }
    let expected = stored(&one_by_one);
    assert_eq!(expected.len(), 4);
    assert_eq!(stored(&together), expected);
    assert_eq!(stored(&copied), expected);
    let text = |text: &str| SqlValue::Text(text.to_owned());
    assert_eq!(expected[2][1], text("a\\b\"{,}"));
    assert_eq!(expected[2][3], text(&rows[0].record));
    assert_eq!(expected[2][8], SqlValue::Integer(-1_772_323_200_000_000));
    let tags = ["", "NULL", "a,b", "{\"\\}", "\t\n é"].map(|tag| Some(tag.to_owned()));
    assert_eq!(expected[2][10], SqlValue::TextArray(tags.into()));
}

#[test]
fn an_upsert_can_be_a_part_of_a_larger_statement() {
    let server = Server::new();
    for count in [1, 3] {
        let rows = &hostile()[..count];
        let part = runs::upsert_from(&server.schema, &rows.iter().collect::<Vec<_>>(), 2);
        let mut parameters = vec![SqlValue::Integer(5)];
        parameters.extend(part.parameters);
        let statement = Statement {
            sql: format!(
                "WITH put AS ({} RETURNING 1) SELECT count(*) + $1::bigint FROM put",
                part.sql
            ),
            parameters,
        };
        let found = server.query(&statement, 1).unwrap().rows;
        let expected = 5 + i64::try_from(count).unwrap();
        assert_eq!(found, [[SqlValue::Integer(expected)]]);
    }
}

#[test]
fn a_delete_touches_the_runs_that_it_names_in_its_scope() {
    let server = Server::new();
    server.put(&hostile());
    let delete = runs::delete(&server.schema, "s", &["", "\\N", "other"]);
    assert_eq!(server.execute(&delete), Ok(2));
    let left: Vec<_> = stored(&server)
        .into_iter()
        .map(|row| row[0].clone())
        .collect();
    assert_eq!(
        left,
        ["s", "t"].map(|scope| SqlValue::Text(scope.to_owned()))
    );
}

#[test]
fn what_cannot_be_loaded_is_no_row_and_says_where() {
    let refused = |text: &str| Row::new("s", "r", "v", text, None, "s").unwrap_err();
    assert_eq!(refused("{\"a\": }").offset, Some(6));
    assert!(refused("[]").reason.contains("expected an object"));
    assert!(
        refused("{\"status\": \"done\"}")
            .reason
            .contains("`status`")
    );
    assert!(
        refused("{\"started_at\": \"yesterday\"}")
            .reason
            .contains("not a time")
    );
}

#[test]
fn the_row_of_a_record_whose_tree_is_at_hand_is_that_of_its_text() {
    for argument in [
        r#"{"run_id": "r", "status": "success"}"#,
        r#"{"run_id": "r", "status": "failed", "started_at": "2026-03-01T09:00:00+01:00", "finished_at": null,
            "metrics": {"a": 1e400, "b": NaN, "c": -0, "d": 1.50, "e": 9007199254740993.0, "f": 12345678901234567890123},
            "params_resolved": {"z": 1, "a": {"b": [true, null, "\u0000"]}, "z": 2}, "tags": ["t", "\u00e4"],
            "notes": "\ud83d\ude00", "error": {"type": "E"}, "provenance": {"host": null, "gpu": null}}"#,
        r#"{"run_id": "r", "status": "running", "notes": "\ud800", "x": {"\udc00": 1}}"#,
        r#"{"run_id": "r", "status": "success", "metrics": {"\u0001": 1e-300, "m": 0.1}, "warnings": ["\u0000"]}"#,
        r#"{"run_id": "r", "status": "success", "artifacts": [{"size_bytes": 1e3}], "tags": [1]}"#,
    ] {
        let argument = codec::parse_argument_object("the record", argument).unwrap();
        let (run, record) = codec::complete_record(argument, Some("e:1")).unwrap();
        let record = Value::Object(record);
        let text = codec::print(&record);
        let Value::Object(record) = record else {
            panic!("{record:?} is no object")
        };
        let (mut of_tree, mut of_text) = (None, None);
        let tree = Row::read("s", &run, "v", (&text, &record), None, "t", |row| {
            of_tree = Projected::new(&run, row, &text);
        });
        let read = Row::seen("s", &run, "v", &text, None, "t", |row| {
            of_text = Projected::new(&run, row, &text);
        });
        assert_eq!(tree.is_ok(), read.is_ok(), "{text}");
        assert_eq!((tree.ok(), of_tree), (read.ok(), of_text), "{text}");
    }
}
