use super::*;
use crate::json::python::Random;
use std::cmp::Ordering;

fn query(text: &QueryText<'_>) -> Query {
    Query::parse(text, NOW).unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

fn page(query: &Query, records: &[String]) -> Page<String> {
    let mut pager = Pager::new(query);
    for text in records {
        let read = record(text);
        pager.offer(&RecordRow::new(object(&read), None), || text.clone());
    }
    pager.finish()
}

fn refused_cursor(text: &QueryText<'_>) -> Reason {
    let error = Query::parse(text, NOW).unwrap_err();
    assert_eq!((error.part, error.position), (Part::Cursor, 0));
    error.reason
}

#[test]
fn the_pages_of_a_query_are_all_of_its_rows_in_order() {
    let seed = 4;
    let mut random = Random::new(seed);
    for round in 0..200 {
        let records: Vec<_> = (0..60)
            .map(|run| random::record_text(&mut random, run))
            .collect();
        let filter = random::expr(&mut random, 2).to_string();
        let sort = random::sort(&mut random);
        let keys = sort.to_string();
        let text = QueryText {
            filter: if round % 2 == 0 { "" } else { &filter },
            sort: &keys,
            ..QueryText::default()
        };
        let all = page(&query(&text), &records);
        assert_eq!(all.next, None);
        assert_eq!(all.total, all.rows.len() as u64);
        // By another way: sort what matches, whole.
        let whole = query(&text);
        let read: Vec<_> = records.iter().map(|text| record(text)).collect();
        let mut sorted: Vec<_> = read
            .iter()
            .zip(&records)
            .filter_map(|(value, text)| {
                let row = RecordRow::new(object(value), None);
                whole.matches(&row).then(|| (sort.position(&row), text))
            })
            .collect();
        sorted.sort_by(|left, right| sort.compare(&left.0, &right.0));
        let sorted: Vec<_> = sorted.into_iter().map(|(_, text)| text.clone()).collect();
        assert_eq!(all.rows, sorted, "seed {seed}: {text:?}");

        let limit = u32::try_from(1 + random.below(20)).unwrap();
        let mut rows = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let text = QueryText {
                limit: Some(limit),
                cursor: cursor.as_deref(),
                ..text
            };
            let part = page(&query(&text), &records);
            assert_eq!(part.total, all.total);
            assert!(part.rows.len() <= limit as usize);
            rows.extend(part.rows);
            cursor = part.next;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(rows, all.rows, "seed {seed}: {text:?}");
    }
}

#[test]
fn a_page_goes_on_after_a_row_that_is_gone_and_past_rows_that_came() {
    let run =
        |id: &str, loss: &str| format!(r#"{{"run_id": "{id}", "metrics": {{"loss": {loss}}}}}"#);
    let mut runs = vec![run("a", "1"), run("b", "2"), run("c", "3"), run("d", "4")];
    let text = QueryText {
        sort: "metrics.loss",
        limit: Some(2),
        ..QueryText::default()
    };
    let first = page(&query(&text), &runs);
    assert_eq!(first.rows, [run("a", "1"), run("b", "2")]);
    runs.remove(1);
    runs.push(run("e", "1.5"));
    runs.push(run("f", "2.5"));
    runs.push(run("aa", "2"));
    let text = QueryText {
        cursor: first.next.as_deref(),
        ..text
    };
    let second = page(&query(&text), &runs);
    assert_eq!(second.rows, [run("f", "2.5"), run("c", "3")]);
}

#[test]
fn now_means_the_same_on_every_page() {
    let text = QueryText {
        filter: "started_at > now - 1d",
        limit: Some(1),
        ..QueryText::default()
    };
    let runs = [
        r#"{"run_id": "a", "started_at": "2026-03-07T12:00:00"}"#.to_owned(),
        r#"{"run_id": "b", "started_at": "2026-03-07T00:00:01"}"#.to_owned(),
    ];
    let first = page(&query(&text), &runs);
    let text = QueryText {
        cursor: first.next.as_deref(),
        ..text
    };
    let later = Query::parse(&text, NOW + 3_600_000_000).unwrap();
    assert_eq!(later.now, NOW);
    assert_eq!(page(&later, &runs).rows, runs[1..]);
}

#[test]
fn a_cursor_of_another_filter_or_sort_is_refused_and_of_another_spelling_is_not() {
    let text = QueryText {
        filter: "notes exists",
        sort: "metrics.loss desc",
        ..QueryText::default()
    };
    let first = query(&text);
    let none = Object::new();
    let cursor = first.cursor_after(&first.sort.position(&RecordRow::new(&none, None)));
    let text = QueryText {
        cursor: Some(&cursor),
        ..text
    };
    query(&text);
    query(&QueryText {
        filter: "(notes EXISTS)",
        sort: " metrics.\"loss\" DESC",
        columns: "run_id",
        limit: Some(7),
        ..text
    });
    for (filter, sort) in [
        ("notes exists", "metrics.loss asc"),
        ("notes exists", ""),
        ("not notes exists", "metrics.loss desc"),
        ("", "metrics.loss desc"),
    ] {
        let other = QueryText {
            filter,
            sort,
            ..text
        };
        assert_eq!(refused_cursor(&other), Reason::CursorOfAnotherQuery);
    }
}

#[test]
fn damaged_cursors_are_refused_and_sound_ones_come_back_whole() {
    let mut random = Random::new(9);
    for round in 0..300 {
        let sort = random::sort(&mut random);
        let keys = sort.to_string();
        let text = QueryText {
            sort: &keys,
            ..QueryText::default()
        };
        let whole = query(&text);
        let read = random::record_text(&mut random, round);
        let read = record(&read);
        let position = sort.position(&RecordRow::new(object(&read), None));
        let cursor = whole.cursor_after(&position);
        let safe = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        assert!(cursor.bytes().all(safe), "{cursor}");
        let text = QueryText {
            cursor: Some(&cursor),
            ..text
        };
        let last = query(&text).cursor.unwrap().last;
        assert!(sort.compare(&last, &position).is_eq());
        assert_eq!(format!("{last:?}"), format!("{position:?}"));
        for _ in 0..50 {
            let mut damaged = cursor.clone();
            let at = random.below(damaged.len());
            match random.below(3) {
                0 => damaged.truncate(at),
                1 => damaged.insert(at, random.pick(&['A', '=', 'é', '\0'])),
                _ => damaged.replace_range(at..=at, random.pick(&["A", "B", "9", "+", "_"])),
            }
            if damaged != cursor {
                let text = QueryText {
                    cursor: Some(&damaged),
                    ..text
                };
                assert_eq!(refused_cursor(&text), Reason::CursorDamaged, "{damaged}");
            }
        }
    }
    for cursor in ["", "A", "AAAA", "AAAAAAAA", &"A".repeat(1 << 20)] {
        let text = QueryText {
            cursor: Some(cursor),
            ..QueryText::default()
        };
        assert_eq!(refused_cursor(&text), Reason::CursorDamaged);
    }
}

#[test]
fn a_cursor_of_a_later_version_says_so() {
    // The byte 2 and its checksum.
    let check = crc32fast::hash(&[2]).to_le_bytes();
    let bytes = [2, check[0], check[1], check[2], check[3]];
    let cursor = cursor::to_text(&bytes);
    let text = QueryText {
        cursor: Some(&cursor),
        ..QueryText::default()
    };
    assert_eq!(refused_cursor(&text), Reason::CursorVersion(2));
}

#[test]
fn the_order_is_total() {
    let mut random = Random::new(10);
    let mut texts: Vec<_> = (0..90)
        .map(|run| random::record_text(&mut random, run))
        .collect();
    texts.push(texts[0].clone());
    let read: Vec<_> = texts.iter().map(|text| record(text)).collect();
    for _ in 0..20 {
        let sort = random::sort(&mut random);
        let positions: Vec<_> = read
            .iter()
            .map(|value| sort.position(&RecordRow::new(object(value), None)))
            .collect();
        for (i, a) in positions.iter().enumerate() {
            for (j, b) in positions.iter().enumerate() {
                let order = sort.compare(a, b);
                assert_eq!(order, sort.compare(b, a).reverse());
                let same = i == j || (i.min(j) == 0 && i.max(j) == 90);
                assert_eq!(order.is_eq(), same, "{} {}", texts[i], texts[j]);
                for c in &positions {
                    if order.is_le() && sort.compare(b, c).is_le() {
                        assert_ne!(sort.compare(a, c), Ordering::Greater, "{sort}");
                    }
                }
            }
        }
    }
}

#[test]
fn rows_that_tie_follow_the_newest_start_then_the_experiment_then_the_run() {
    let run = |started: &str, experiment: &str, run: &str| {
        format!(
            r#"{{"started_at": {started}, "experiment_id": "{experiment}", "run_id": "{run}", "metrics": {{"x": 1}}}}"#
        )
    };
    let ordered = [
        run("\"2026-03-02T00:00:00+14:00\"", "z", "z"),
        run("\"2026-03-01T09:00:00\"", "a", "b"),
        run("\"2026-03-01T10:00:00+01:00\"", "b", "a"),
        run("null", "Z", "b"),
        run("null", "a", "Z"),
        run("null", "a", "a"),
        run("null", "é", "a"),
    ];
    let mut mixed = ordered.to_vec();
    mixed.reverse();
    for sort in ["", "metrics.x desc", "metrics.y", "status, metrics.x"] {
        let text = QueryText {
            sort,
            ..QueryText::default()
        };
        assert_eq!(page(&query(&text), &mixed).rows, ordered, "{sort}");
    }
}

#[test]
fn a_long_text_sorts_by_its_first_characters_and_an_id_by_all() {
    let long = |last: char| format!("{}{last}", "é".repeat(SORTED_CHARACTERS));
    let runs = [
        format!(r#"{{"run_id": "2", "notes": "{}"}}"#, long('a')),
        format!(r#"{{"run_id": "1", "notes": "{}"}}"#, long('b')),
    ];
    let by = |sort| {
        page(
            &query(&QueryText {
                sort,
                ..QueryText::default()
            }),
            &runs,
        )
        .rows
    };
    assert_eq!(by("notes"), [runs[1].clone(), runs[0].clone()]);
    let runs = [
        format!(r#"{{"experiment_id": "{}", "run_id": "1"}}"#, long('b')),
        format!(r#"{{"experiment_id": "{}", "run_id": "2"}}"#, long('a')),
    ];
    let text = QueryText {
        sort: "experiment_id desc",
        ..QueryText::default()
    };
    assert_eq!(page(&query(&text), &runs).rows, runs);
}

#[test]
fn a_page_of_no_rows_has_no_next_page_and_still_counts() {
    let text = QueryText {
        limit: Some(0),
        ..QueryText::default()
    };
    let empty = page(&query(&text), &["{}".to_owned()]);
    assert!(empty.rows.is_empty());
    assert_eq!((empty.next, empty.total), (None, 1));
}

#[test]
fn a_query_shows_the_fields_that_it_reads() {
    let whole = query(&QueryText {
        filter: "metrics.a = 1 and (tags exists or not notes like \"a\") or params.b in (1)",
        sort: "metrics.c",
        ..QueryText::default()
    });
    let mut fields = Vec::new();
    whole.for_each_field(|field| fields.push(field.to_string()));
    assert_eq!(
        fields,
        ["metrics.a", "tags", "notes", "params.b", "metrics.c"]
    );
}
