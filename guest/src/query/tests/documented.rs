//! Every table of the language's page, as tests.

use super::*;

const PAGE: &str = include_str!("../../../../docs/query-language.md");

/// The rows below a table's head, each cut into its cells, which lose the marks around code.
pub(crate) fn table(head: &str) -> Vec<Vec<&'static str>> {
    let rows = PAGE
        .lines()
        .skip_while(|line| *line != head)
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let cells = |line: &'static str| {
        let inner = line.trim_start_matches("| ").trim_end_matches(" |");
        let plain = |cell: &'static str| {
            let code = cell
                .strip_prefix('`')
                .and_then(|cell| cell.strip_suffix('`'));
            code.filter(|code| !code.contains('`')).unwrap_or(cell)
        };
        inner.split(" | ").map(plain).collect()
    };
    let rows: Vec<Vec<_>> = rows.map(cells).collect();
    assert!(rows.len() > 5, "there is no table {head}");
    rows
}

pub(crate) fn answer(text: &str) -> bool {
    match text {
        "true" => true,
        "false" => false,
        other => panic!("{other} is no answer"),
    }
}

fn metrics(value: &str) -> String {
    match value {
        "(missing)" => r#"{"metrics": {}}"#.to_owned(),
        value => format!(r#"{{"metrics": {{"x": {value}}}}}"#),
    }
}

#[test]
fn filters_print_as_the_page_says() {
    for row in table("| filter | printed |") {
        match row[1] {
            "(refused)" => drop(refused(row[0])),
            printed => assert_eq!(filter(row[0]).to_string(), printed, "{}", row[0]),
        }
    }
}

#[test]
fn every_type_pair_compares_as_the_page_says() {
    for row in table("| `metrics.x` | filter | answer |") {
        let found = holds(&metrics(row[0]), row[1]);
        assert_eq!(found, answer(row[2]), "{} with {}", row[1], row[0]);
    }
}

#[test]
fn params_derived_errors_and_open_provenance_compare_as_metrics_do() {
    for row in table("| `metrics.x` | filter | answer |") {
        let value = row[0];
        let inner = match value {
            "(missing)" => "{}".to_owned(),
            value => format!(r#"{{"x": {value}}}"#),
        };
        let whole = format!(
            r#"{{"params_resolved": {inner}, "error": {inner}, "provenance": {{"extra": {inner}}}}}"#
        );
        for namespace in ["params", "error", "provenance.extra"] {
            let text = row[1].replace("metrics", namespace);
            assert_eq!(holds(&whole, &text), answer(row[2]), "{text} with {value}");
        }
        let derived = record(&inner);
        let empty = Object::new();
        let view = RecordRow::new(&empty, Some(object(&derived)));
        let text = row[1].replace("metrics", "derived");
        let found = filter(&text).matches(&view, NOW);
        assert_eq!(found, answer(row[2]), "{text} with {value}");
    }
}

#[test]
fn fields_of_whole_records_read_as_the_page_says() {
    for row in table("| record | filter | answer |") {
        let found = holds(row[0], row[1]);
        assert_eq!(found, answer(row[2]), "{} with {}", row[1], row[0]);
    }
}

#[test]
fn refused_filters_say_where_and_what_was_expected() {
    for row in table("| filter | byte | message |") {
        let error = refused(row[0]);
        assert_eq!(error.position.to_string(), row[1], "{}: {error}", row[0]);
        let message = error.to_string();
        assert!(message.contains(row[2]), "{}: {message}", row[0]);
    }
}

#[test]
fn values_sort_as_the_page_says() {
    let rows = table("| ascending | descending |");
    let order = |direction, index: usize| {
        let sort = parse_sort(&format!("metrics.x {direction}")).unwrap();
        let documented: Vec<_> = rows.iter().map(|row| row[index]).collect();
        let mut sorted: Vec<_> = documented
            .iter()
            .rev()
            .map(|value| {
                let text = metrics(value);
                let read = record(&text);
                (sort.position(&RecordRow::new(object(&read), None)), *value)
            })
            .collect();
        sorted.sort_by(|left, right| sort.compare(&left.0, &right.0));
        let sorted: Vec<_> = sorted.into_iter().map(|(_, value)| value).collect();
        assert_eq!(sorted, documented);
    };
    order("asc", 0);
    order("desc", 1);
}

#[test]
fn the_limits_are_those_of_the_page() {
    let rows = table("| what | at most |");
    let documented: Vec<_> = rows.iter().map(|row| row[1].replace(',', "")).collect();
    let limits = [
        MAX_TEXT,
        MAX_TERMS,
        MAX_LITERALS,
        MAX_DEPTH,
        MAX_PATTERN,
        MAX_SORT_KEYS,
        MAX_COLUMNS,
    ];
    for (documented, limit) in documented.iter().zip(limits) {
        assert_eq!(documented.trim_end_matches(" each"), limit.to_string());
    }
    assert_eq!(documented.len(), limits.len());
}

#[test]
fn the_examples_at_the_top_of_the_page_are_filters() {
    let examples: Vec<_> = PAGE
        .lines()
        .skip_while(|line| !line.starts_with("    "))
        .take_while(|line| line.starts_with("    "))
        .collect();
    assert_eq!(examples.len(), 3);
    for example in examples {
        filter(example);
    }
}
