use super::naive::{Naive, like};
use super::*;
use crate::json::python::Random;

#[test]
fn random_filters_give_what_a_second_evaluation_gives() {
    let seed = 5;
    let mut random = Random::new(seed);
    let mut matched = 0;
    let rounds = 20_000;
    for round in 0..rounds {
        let text = random::record_text(&mut random, round);
        let derived = random::open_object(&mut random);
        let (read, derived) = (record(&text), record(&derived));
        let derived = (random.below(3) > 0).then_some(&derived);
        let row = RecordRow::new(object(&read), derived.map(object));
        let naive = Naive {
            record: &read,
            derived,
        };
        let filter = random::expr(&mut random, 3);
        let found = filter.matches(&row, NOW);
        matched += usize::from(found);
        assert_eq!(
            found,
            naive.matches(&filter),
            "seed {seed}: {filter} on {text}"
        );
    }
    // Neither answer is rare, so that the comparison says something.
    assert!((rounds / 4..rounds * 3 / 4).contains(&matched), "{matched}");
}

#[test]
fn not_turns_every_answer_round_and_unequal_is_not_equal() {
    let mut random = Random::new(6);
    for round in 0..5000 {
        let text = random::record_text(&mut random, round);
        let read = record(&text);
        let row = RecordRow::new(object(&read), None);
        let filter = random::expr(&mut random, 2);
        let opposite = Expr::Not(Box::new(filter.clone()));
        assert_ne!(
            filter.matches(&row, NOW),
            opposite.matches(&row, NOW),
            "{filter}"
        );
        if let Expr::Compare { field, value, .. } = filter {
            let cell = row.cell(&field);
            let equal = compares(&cell, CompareOp::Equal, &value, NOW);
            assert_ne!(equal, compares(&cell, CompareOp::NotEqual, &value, NOW));
        }
    }
}

#[test]
fn patterns_match_what_a_table_of_all_pairs_matches() {
    let mut random = Random::new(7);
    for _ in 0..100_000 {
        let piece = |random: &mut Random, pieces: &[&'static str]| -> String {
            let count = random.below(8);
            (0..count).map(|_| random.pick(pieces)).collect()
        };
        let source = piece(
            &mut random,
            &["%", "_", "a", "b", "A", "é", "\\%", "\\_", "\\\\", "😀"],
        );
        let text = piece(
            &mut random,
            &["%", "_", "a", "b", "A", "B", "é", "\\", "😀"],
        );
        let fold = random.below(2) == 0;
        let points: Vec<_> = text.chars().map(u32::from).collect();
        let found = Pattern::new(source.as_str())
            .unwrap()
            .matches(text.as_bytes(), fold);
        assert_eq!(
            found,
            like(&source, &points, fold),
            "{source:?} on {text:?}"
        );
    }
}

#[test]
fn a_pattern_of_many_wildcards_does_not_explode() {
    // Backtracking over all of them would take longer than the sun has left.
    let pattern = Pattern::new(format!("{}b", "%a".repeat(500))).unwrap();
    let text = "a".repeat(1_000_000);
    assert!(!pattern.matches(text.as_bytes(), false));
    assert!(pattern.matches(format!("{text}b").as_bytes(), true));
    let single = Pattern::new(format!("%{}_", "_a".repeat(500))).unwrap();
    assert!(single.matches(&text.as_bytes()[..10_000], false));
}

#[test]
fn relative_times_move_with_the_time_of_the_query() {
    let read = record(r#"{"started_at": "2026-03-01T00:00:00"}"#);
    let row = RecordRow::new(object(&read), None);
    let filter = filter("started_at >= now - 7d");
    assert!(filter.matches(&row, NOW));
    assert!(!filter.matches(&row, NOW + 1));
    // Even where the time of the query makes no sense.
    assert!(!filter.matches(&row, i64::MAX));
    assert!(filter.matches(&row, i64::MIN));
}

#[test]
fn a_row_of_a_damaged_record_never_fails() {
    let mut random = Random::new(8);
    for _ in 0..5000 {
        let value = random::value(&mut random);
        let names = [
            "run_id",
            "experiment_id",
            "status",
            "started_at",
            "finished_at",
            "duration_ms",
            "tags",
            "notes",
            "metrics",
            "params_resolved",
            "provenance",
            "error",
        ];
        let fields: Vec<_> = names
            .iter()
            .map(|name| format!("{name:?}: {value}"))
            .collect();
        let text = format!("{{{}}}", fields.join(", "));
        let read = record(&text);
        let row = RecordRow::new(object(&read), Some(object(&read)));
        let filter = random::expr(&mut random, 2);
        let opposite = Expr::Not(Box::new(filter.clone()));
        assert_ne!(filter.matches(&row, NOW), opposite.matches(&row, NOW));
        let sort = random::sort(&mut random);
        let position = sort.position(&row);
        assert!(sort.compare(&position, &position).is_eq());
        let columns =
            parse_columns("status, tags, duration_ms, metrics, params.a, derived").unwrap();
        assert_eq!(columns.unwrap().values(&row).len(), 6);
    }
}

#[test]
fn projections_show_values_as_the_record_holds_them() {
    let read = record(
        r#"{"run_id": "a", "started_at": "2026-03-01 09:00", "tags": [], "params_resolved": {"b": {"c": [1]}},
            "metrics": {"x": 1e400, "y": 1180591620717411303424, "z": null}, "notes": null}"#,
    );
    let derived = record(r#"{"d": true}"#);
    let row = RecordRow::new(object(&read), Some(object(&derived)));
    let columns = "run_id, started_at, finished_at, status, duration_ms, notes, tags, metrics.x, metrics.y, metrics.z, \
                   metrics.\"w w\", params.b, params.b.c[0], derived.d, derived, seed_fingerprint, provenance";
    let columns = parse_columns(columns).unwrap().unwrap();
    let shown = columns.object(&row);
    assert_eq!(
        format!("{:?}", Value::Object(shown)),
        r#"{"derived":{"d":true},"derived.d":true,"duration_ms":0,"metrics.x":Infinity,"metrics.y":1180591620717411303424,"metrics.z":null,"params.b":{"c":[1]},"params.b.c[0]":1,"run_id":"a","seed_fingerprint":"","started_at":"2026-03-01 09:00","status":"failed"}"#
    );
    let values = columns.values(&row);
    assert_eq!(values.len(), columns.0.len());
    assert_eq!(values[1], Some(Value::from("2026-03-01 09:00")));
    assert_eq!(values[2], None);
}
