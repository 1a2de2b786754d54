//! Queries against the evaluation that files use.

use super::*;
use crate::codec;
use crate::json::Value;
use crate::query::{Catalogue, Pager, RecordRow};
use crate::run_list::needs_derived;
use crate::testing as random;

const SCOPES: [&str; 3] = ["a0", "b0", "c0"];

/// The files of a run.
struct Files {
    key: Key,
    record: String,
    derived: Option<String>,
}

/// Makes the files of a run; most are such that the database alone can judge them.
fn files(random: &mut Random, index: usize) -> Files {
    let any = random.below(5) == 0;
    loop {
        let files = any_files(random, index);
        let Key { scope, run_id } = &files.key;
        let derived = files.derived.as_deref();
        let made = Row::new(scope, run_id, "r", &files.record, derived, "s");
        if any || made.is_ok_and(|row| !row.is_inexact()) {
            return files;
        }
    }
}

fn any_files(random: &mut Random, index: usize) -> Files {
    let record = random::record_text(random, index);
    let own = format!("run{index}");
    Files {
        key: Key {
            scope: random.pick(&SCOPES).to_owned(),
            // Some files are called like no run.
            run_id: match random.below(30) {
                0 => format!("file{index}"),
                _ => own,
            },
        },
        record: match random.below(20) {
            0 => record.replacen('{', r#"{"seed_fingerprint": "\u0000", "#, 1),
            1 => record.replacen('{', r#"{"notes": "\udc00a", "#, 1),
            2 => record.replacen('{', r#"{"duration_ms": 1.5, "#, 1),
            3 => record.replacen('{', r#"{"params_fingerprint": [1], "metrics": 5, "#, 1),
            4 => record.replacen('{', &format!(r#"{{"notes": "{}", "#, "é".repeat(300)), 1),
            _ => record,
        },
        derived: match random.below(40) {
            0 => Some("[1]".to_owned()),
            1 => Some("{\"a\":\0 1}".to_owned()),
            2..=25 => Some(random::open_object(random)),
            _ => None,
        },
    }
}

/// What is compared of a row: which run it is, and its columns.
type Seen = (Key, Option<Vec<Option<String>>>);

/// What files answer: the rows in order, the next cursor, how many match in all, and which are damaged.
fn expected(
    files: &[Files],
    scopes: &[String],
    experiment: Option<&str>,
    query: &Query,
) -> (Vec<Seen>, Option<String>, u64, Vec<Key>) {
    let mut pager = Pager::new(query);
    let mut damaged = Vec::new();
    for file in files.iter().filter(|file| scopes.contains(&file.key.scope)) {
        let record = codec::parse_object("", file.record.as_bytes()).unwrap();
        let derived = file.derived.as_deref().filter(|_| needs_derived(query));
        let derived = match derived.map(|text| codec::parse_object("", text.as_bytes())) {
            None => None,
            Some(Ok(derived)) => Some(derived),
            Some(Err(_)) => {
                damaged.push(file.key.clone());
                continue;
            }
        };
        let named = record.get("experiment_id").and_then(Value::as_str);
        if experiment.is_some_and(|wanted| wanted != named.unwrap_or_default()) {
            continue;
        }
        let row = RecordRow::new(&record, derived.as_ref());
        pager.offer(&row, || {
            let columns = query.columns.as_ref();
            let values = columns.map(|columns| {
                let values = columns.values(&row).into_iter();
                values
                    .map(|value| value.as_ref().map(codec::print_line))
                    .collect()
            });
            (file.key.clone(), values)
        });
    }
    damaged.sort();
    let page = pager.finish();
    (page.rows, page.next, page.total, damaged)
}

fn seen(rows: Vec<Found>) -> Vec<Seen> {
    rows.into_iter().map(|row| (row.key, row.values)).collect()
}

#[test]
fn a_database_answers_every_query_as_files_do() {
    let seed = 11;
    let mut random = Random::new(seed);
    for _ in 0..8 {
        let server = Server::new();
        let mut files: Vec<_> = (0..260).map(|index| files(&mut random, index)).collect();
        // What cannot be loaded is in no answer.
        files.retain(|file| {
            let Key { scope, run_id } = &file.key;
            let made = Row::new(
                scope,
                run_id,
                "r",
                &file.record,
                file.derived.as_deref(),
                "s",
            );
            made.is_ok()
        });
        let rows: Vec<_> = files
            .iter()
            .map(|file| {
                row(
                    &file.key.scope,
                    &file.key.run_id,
                    &file.record,
                    file.derived.as_deref(),
                )
            })
            .collect();
        assert!(rows.iter().any(Row::is_inexact) && !rows.iter().all(Row::is_inexact));
        server.put(&rows);
        for _ in 0..250 {
            ask(&server, &files, &mut random);
        }
    }
}

fn ask(server: &Server, files: &[Files], random: &mut Random) {
    let scopes: Vec<_> = match random.below(3) {
        0 => vec!["a0".to_owned()],
        1 => vec!["a0".to_owned(), "b0".to_owned(), "a0".to_owned()],
        _ => SCOPES.map(str::to_owned).into(),
    };
    let experiment = random.pick(&[None, None, None, Some("e"), Some(""), Some("\0")]);
    let filter = match random.below(5) {
        0 => String::new(),
        _ => {
            let depth = random.below(3);
            random::expr(random, depth).to_string()
        }
    };
    let sort = random::sort(random).to_string();
    let columns = random.pick(&["", "", "run_id, metrics.a", "metrics, derived.a, tags"]);
    let within = Within {
        experiment,
        ..server.within(&scopes)
    };
    let mut cursor: Option<String> = None;
    loop {
        let text = QueryText {
            filter: &filter,
            sort: &sort,
            columns,
            limit: random.pick(&[Some(3), Some(40), Some(40), Some(1000), Some(1025), None]),
            cursor: cursor.as_deref(),
            check: false,
        };
        let context = format!("{text:?} of {experiment:?} in {scopes:?}");
        let query = query(&text);
        let (rows, next, total, damaged) = expected(files, &scopes, experiment, &query);
        let counted = random.below(2) == 0;
        let page = page::run(server, within, &query, counted)
            .unwrap_or_else(|error| panic!("{context}: {error:?}"));
        assert_eq!(seen(page.rows), rows, "{context}");
        assert_eq!(page.next, next, "{context}");
        assert_eq!(page.total, counted.then_some(total), "{context}");
        assert_eq!(page.damaged, damaged, "{context}");
        cursor = next;
        if cursor.is_none() || random.below(6) == 0 {
            break;
        }
    }
}

#[test]
fn fields_are_those_that_files_have() {
    let mut random = Random::new(5);
    let server = Server::new();
    let mut files: Vec<_> = (0..200).map(|index| files(&mut random, index)).collect();
    files.retain(|file| {
        let Key { scope, run_id } = &file.key;
        let made = Row::new(
            scope,
            run_id,
            "r",
            &file.record,
            file.derived.as_deref(),
            "s",
        );
        made.map(|row| server.put(&[row])).is_ok()
    });
    files.sort_by(|left, right| left.key.cmp(&right.key));
    let scopes = ["a0".to_owned(), "b0".to_owned()];
    for _ in 0..50 {
        let filter = random::expr(&mut random, 1).to_string();
        let query = query(&QueryText {
            filter: &filter,
            ..QueryText::default()
        });
        let found = fields::run(&server, server.within(&scopes), &query).unwrap();
        let mut catalogue = Catalogue::default();
        let mut runs = 0;
        let mut damaged = Vec::new();
        for file in files.iter().filter(|file| scopes.contains(&file.key.scope)) {
            let parse =
                |text: &str| codec::parse_object("", text.as_bytes()).map(|it| it.into_owned());
            let record = parse(&file.record).unwrap();
            let Ok(derived) = file.derived.as_deref().map(parse).transpose() else {
                damaged.push(file.key.clone());
                continue;
            };
            if query.matches(&RecordRow::new(&record, derived.as_ref())) {
                runs += 1;
                catalogue.add(&record, derived.as_ref());
            }
        }
        damaged.sort();
        let (expected, complete) = catalogue.finish();
        assert_eq!(found.runs, runs, "{filter}");
        assert_eq!(
            format!("{:?}", found.fields),
            format!("{expected:?}"),
            "{filter}"
        );
        assert_eq!(
            (found.complete, found.damaged),
            (complete, damaged),
            "{filter}"
        );
    }
}

#[test]
fn a_list_is_the_same_in_pieces_of_any_size() {
    let mut random = Random::new(6);
    let server = Server::new();
    let rows: Vec<_> = (0..300)
        .map(|index| {
            let inexact = if index % 3 == 0 { "\\u0000" } else { "" };
            let value = random::value(&mut random);
            let record = format!(
                r#"{{"run_id": "run{index}", "notes": "{inexact}", "metrics": {{"a": {value}}}}}"#
            );
            row("s", &format!("run{index}"), &record, None)
        })
        .collect();
    server.put(&rows);
    let scopes = ["s".to_owned()];
    let query = query(&QueryText {
        sort: "metrics.a desc",
        ..QueryText::default()
    });
    let whole = page::run(&server, server.within(&scopes), &query, true).unwrap();
    assert_eq!((whole.rows.len(), whole.total), (300, Some(300)));
    for (rows, bytes) in [(1, u32::MAX), (7, u32::MAX), (u32::MAX, 1), (u32::MAX, 500)] {
        let within = server.within(&scopes);
        let mut listing = Listing::open(&server, within, &query, false).unwrap();
        let mut all = Vec::new();
        loop {
            let piece = listing.next(rows, bytes).unwrap();
            if piece.is_empty() {
                break;
            }
            assert!(piece.len() <= rows as usize);
            all.extend(piece);
        }
        assert_eq!(all, whole.rows, "{rows} rows, {bytes} bytes");
        assert_eq!((listing.total(), listing.cursor()), (None, None));
    }
}

#[test]
fn a_page_takes_one_round_trip_and_its_total_none_of_its_own() {
    let server = Server::new();
    let rows: Vec<_> = (0..50)
        .map(|index| {
            let notes = if index < 10 { "\\ud800" } else { "" };
            let record = format!(r#"{{"run_id": "run{index}", "notes": "{notes}"}}"#);
            row("s", &format!("run{index}"), &record, None)
        })
        .collect();
    server.put(&rows);
    let scopes = ["s".to_owned()];
    let query = query(&QueryText {
        limit: Some(20),
        ..QueryText::default()
    });
    let before = server.asked.get();
    let page = page::run(&server, server.within(&scopes), &query, true).unwrap();
    assert_eq!((page.rows.len(), page.total), (20, Some(50)));
    assert_eq!(server.asked.get() - before, 1);
}

#[test]
fn a_limit_of_none_shows_none_and_counts_all() {
    let server = Server::new();
    server.put(&[row("s", "", "{}", None)]);
    let scopes = ["s".to_owned()];
    let query = query(&QueryText {
        limit: Some(0),
        ..QueryText::default()
    });
    let page = page::run(&server, server.within(&scopes), &query, true).unwrap();
    assert_eq!(
        page,
        Page {
            total: Some(1),
            ..Page::default()
        }
    );
    assert_eq!(
        page::count(&server, server.within(&scopes), &query).unwrap(),
        1
    );
    let none = page::run(&server, server.within(&[]), &query, true).unwrap();
    assert_eq!(none.total, Some(0));
}

#[test]
fn names_that_the_document_reserves_or_cannot_hold_are_found() {
    let server = Server::new();
    let records = [
        r#"{"run_id": "a", "params_resolved": {"x": {"\u0001": 1}}}"#,
        r#"{"run_id": "b", "params_resolved": {"x": NaN}}"#,
        r#"{"run_id": "c", "params_resolved": {"x": {"\u0000": 1}}}"#,
        r#"{"run_id": "d", "params_resolved": {"x": {"a\"}'.$[0]": 1}}}"#,
    ];
    for (record, run) in records.into_iter().zip(["a", "b", "c", "d"]) {
        server.put(&[row("s", run, record, None)]);
    }
    let scopes = ["s".to_owned()];
    for (filter, wanted) in [
        (r#"params.x."\u0001" exists"#, "a"),
        (r#"params.x."\u0000" exists"#, "c"),
        (r#"params.x."a\"}'.$[0]" = 1"#, "d"),
        ("params.x = nan", "b"),
    ] {
        let query = query(&QueryText {
            filter,
            ..QueryText::default()
        });
        let page = page::run(&server, server.within(&scopes), &query, true).unwrap();
        let runs: Vec<_> = page
            .rows
            .iter()
            .map(|row| row.key.run_id.as_str())
            .collect();
        assert_eq!(runs, [wanted], "{filter}");
    }
}

#[test]
fn the_largest_filter_is_translated() {
    let server = Server::new();
    let nested = format!("{}{}{}", "[".repeat(63), "NaN", "]".repeat(63));
    let record = format!(r#"{{"run_id": "a", "params_resolved": {{"a": {nested}}}}}"#);
    let deep = row("s", "a", &record, None);
    server.put(&[deep, row("s", "b", r#"{"run_id": "b"}"#, None)]);
    let scopes = ["s".to_owned()];
    let terms: Vec<_> = (0..1000)
        .map(|index| format!("metrics.m{index} < {index}"))
        .collect();
    let values: Vec<_> = (0..4096).map(|index| index.to_string()).collect();
    let mut not = "metrics.a = 1".to_owned();
    for _ in 0..32 {
        not = format!("not ({not})");
    }
    let path = format!("params.a{} = nan", "[0]".repeat(63));
    let long = format!("params.a{} exists", ".a".repeat(30_000));
    for (filter, matching) in [
        (terms.join(" or "), 0),
        (terms.join(" and "), 0),
        (format!("metrics.a not in ({})", values.join(", ")), 2),
        (not, 0),
        (path, 1),
        (long, 0),
    ] {
        let query = query(&QueryText {
            filter: &filter,
            limit: Some(10),
            ..QueryText::default()
        });
        let page = page::run(&server, server.within(&scopes), &query, true).unwrap();
        assert_eq!(
            page.total,
            Some(matching),
            "{}",
            &filter[..40.min(filter.len())]
        );
    }
}

#[test]
fn a_page_goes_on_after_a_text_that_the_database_cannot_hold() {
    let server = Server::new();
    // In this order, by code point; every second one is inexact.
    let texts = [
        "",
        "\\u0000",
        "\\u0001",
        "a",
        "a\\u0000",
        "a\\u0000b",
        "a\\u0001",
        "a\\ud7ff",
        "a\\ud800",
        "a\\udfffz",
        "a\\ue000",
        "a\\ue000b",
        "b",
        "\\ud7ff",
        "\\ud800",
        "\\ue000",
        "\\uffff",
        "\\ud83d\\ude00",
    ];
    for (index, text) in texts.iter().enumerate() {
        let run = format!("{index:02}");
        let record = format!(r#"{{"run_id": "{run}", "notes": "{text}"}}"#);
        server.put(&[row("s", &run, &record, None)]);
    }
    let scopes = ["s".to_owned()];
    for (sort, backwards) in [("notes", false), ("notes desc", true)] {
        let mut runs = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let query = query(&QueryText {
                sort,
                limit: Some(1),
                cursor: cursor.as_deref(),
                ..QueryText::default()
            });
            let page = page::run(&server, server.within(&scopes), &query, false).unwrap();
            runs.extend(page.rows.into_iter().map(|row| row.key.run_id));
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        if backwards {
            runs.reverse();
        }
        let expected: Vec<_> = (0..texts.len())
            .map(|index| format!("{index:02}"))
            .collect();
        assert_eq!(runs, expected, "{sort}");
    }
}
