use super::*;
use crate::error::Error;
use crate::json::python::Random;

#[test]
fn a_printed_tree_parses_to_the_same_tree() {
    let seed = 1;
    let mut random = Random::new(seed);
    for _ in 0..30_000 {
        let tree = random::expr(&mut random, 4);
        let text = tree.to_string();
        match parse_filter(&text) {
            // A tree of more terms than a filter may have is no promise.
            Err(error) if error.reason == Reason::TooManyTerms => {}
            parsed => assert_eq!(parsed, Ok(Some(tree)), "seed {seed}: {text}"),
        }
        let sort = random::sort(&mut random);
        assert_eq!(parse_sort(&sort.to_string()), Ok(sort));
    }
}

#[test]
fn printed_columns_parse_to_the_same_columns() {
    let text = r#"run_id,metrics , params, derived.'a b',provenance,error,params.a[3]."x\"y\u0000",metrics.1"#;
    let columns = parse_columns(text).unwrap();
    let printed = columns.as_ref().unwrap().to_string();
    assert_eq!(
        printed,
        r#"run_id, metrics, params, derived."a b", provenance, error, params.a[3]."x\"y\u0000", metrics.1"#
    );
    assert_eq!(parse_columns(&printed), Ok(columns));
}

#[test]
fn empty_texts_are_no_filter_no_keys_and_no_columns() {
    assert_eq!(parse_filter(" \n"), Ok(None));
    assert_eq!(parse_sort(""), Ok(Sort::default()));
    assert_eq!(parse_columns("\t"), Ok(None));
}

#[test]
fn groups_stay_as_they_are_written() {
    let a = || Box::new(Expr::Exists(Field::Notes));
    assert_eq!(
        filter("not not notes exists"),
        Expr::Not(Box::new(Expr::Not(a())))
    );
    assert_eq!(filter("((notes exists))"), *a());
    assert_eq!(
        filter("notes exists or notes exists and not notes exists"),
        Expr::Or(vec![*a(), Expr::And(vec![*a(), Expr::Not(a())])])
    );
    assert_eq!(
        filter("(notes exists or notes exists) or notes exists"),
        Expr::Or(vec![Expr::Or(vec![*a(), *a()]), *a()])
    );
}

#[test]
fn literals_keep_their_type_and_their_exact_value() {
    let value = |text: &str| match filter(&format!("metrics.a = {text}")) {
        Expr::Compare { value, .. } => value,
        other => panic!("{other:?}"),
    };
    assert_eq!(value("1"), Literal::Int(1));
    assert_eq!(value("-0"), Literal::Int(0));
    assert_eq!(value("1.0"), Literal::Float(1.0));
    assert_eq!(value("-0.0"), Literal::Float(-0.0));
    assert_ne!(value("-0.0"), Literal::Float(0.0));
    assert_eq!(value("+1e-7"), Literal::Float(1e-7));
    assert_eq!(value("1E400"), Literal::Float(f64::INFINITY));
    assert_eq!(value("- inf"), Literal::Float(f64::NEG_INFINITY));
    assert_eq!(value("NaN"), Literal::Float(f64::NAN));
    assert_eq!(value("-9223372036854775808"), Literal::Int(i64::MIN));
    assert_eq!(
        value("9223372036854775808"),
        Literal::Big("9223372036854775808".to_owned())
    );
    assert_eq!(value("TRUE"), Literal::Bool(true));
    assert_eq!(value("Null"), Literal::Null);
    assert_eq!(
        value(r#""\u00e9\ud83d\ude00\n\/""#),
        Literal::Text("é😀\n/".to_owned())
    );
    assert_eq!(value(r#"'"' "#), Literal::Text("\"".to_owned()));
    let digits = "9".repeat(4300);
    assert_eq!(value(&digits), Literal::Big(digits.clone()));
    assert_eq!(
        refused(&format!("metrics.a = 1{digits}")).reason,
        Reason::IntegerTooLong
    );
}

#[test]
fn durations_add_up() {
    let moment = |text: &str| match filter(&format!("started_at = {text}")) {
        Expr::Compare { value, .. } => value,
        other => panic!("{other:?}"),
    };
    let now = |seconds| Literal::Time(Moment::Now(seconds));
    assert_eq!(moment("now"), now(0));
    assert_eq!(moment("NOW-7d"), now(-7 * 86_400));
    assert_eq!(
        moment("now - 2w + 3h - 4m + 5s"),
        now(-2 * 604_800 + 3 * 3600 - 4 * 60 + 5)
    );
    assert_eq!(moment("now + 0s"), now(0));
    let too_long = format!("started_at > now - {}s", "9".repeat(1000));
    assert_eq!(refused(&too_long).reason, Reason::BadDuration);
    // Each is in bounds and their sum is not.
    let sum = format!("started_at > now{}", " - 400000w".repeat(5));
    assert_eq!(refused(&sum).reason, Reason::BadDuration);
}

#[test]
fn an_error_names_the_text_the_byte_the_line_and_the_column() {
    let error = refused("notes = \"é\"\n  and 5 = 6");
    assert_eq!((error.position, error.line, error.column), (19, 2, 7));
    assert_eq!(
        error.to_string(),
        "filter, byte 19 (line 2, column 7): found \"5\", expected a field, `not` or `(`"
    );
    let error = parse_sort("run_id, ").unwrap_err();
    assert_eq!(
        error.to_string(),
        "sort, byte 8: found the end, expected a field after the comma"
    );
    let error = parse_sort("notes down").unwrap_err();
    assert_eq!(error.position, 6);
    assert_eq!(
        parse_sort("tags").unwrap_err().reason,
        Reason::NotSortable("tags")
    );
    let error = parse_columns("run_id metrics").unwrap_err();
    assert_eq!(
        error.to_string(),
        "columns, byte 7: found \"metrics\", expected a comma or the end"
    );
    assert_eq!(
        Error::from(error),
        Error::InvalidQuery {
            position: 7,
            message: "columns, byte 7: found \"metrics\", expected a comma or the end".to_owned(),
        }
    );
}

#[test]
fn a_message_repeats_little_of_the_text_and_no_control_characters() {
    let error = refused(&format!("status = \"{}\"", "\u{1b}[31m".repeat(5000)));
    let message = error.to_string();
    assert!(message.len() < 500, "{message}");
    assert!(!message.contains('\u{1b}'));
    let error = refused(&format!("{} = 1", "x".repeat(60_000)));
    assert!(error.to_string().len() < 500);
}

/// Runs on a stack that is smaller than any host gives to a component.
fn on_a_small_stack(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new()
        .stack_size(128 * 1024)
        .spawn(test);
    thread.unwrap().join().unwrap();
}

#[test]
fn what_is_too_large_or_too_deep_is_refused_and_never_overflows_the_stack() {
    on_a_small_stack(|| {
        let deep = |open: &str, close: &str, depth: usize| {
            format!("{}notes exists{}", open.repeat(depth), close.repeat(depth))
        };
        for depth in [MAX_DEPTH + 1, 10_000] {
            let error = refused(&deep("(", ")", depth));
            assert_eq!((error.reason, error.position), (Reason::TooDeep, 64));
            let error = refused(&deep("not ", "", depth));
            assert_eq!((error.reason, error.position), (Reason::TooDeep, 256));
            assert_eq!(refused(&deep("(not ", ")", depth)).reason, Reason::TooDeep);
        }
        let million = "x".repeat(1 << 20);
        for text in [
            deep("(", ")", 1_000_000),
            deep("not ", "", 1_000_000),
            format!("notes = \"{million}\""),
            format!("metrics.a = {}", "1".repeat(1 << 20)),
            format!("metrics.{million} = 1"),
            vec!["metrics.a = 1"; 10_000].join(" or "),
        ] {
            let error = refused(&text);
            assert_eq!(error.reason, Reason::TooLong(text.len()));
            assert_eq!(error.position, 65_536);
        }
        assert!(matches!(
            parse_sort(&million).unwrap_err().reason,
            Reason::TooLong(_)
        ));
        assert!(matches!(
            parse_columns(&million).unwrap_err().reason,
            Reason::TooLong(_)
        ));
    });
}

#[test]
fn each_limit_is_reached_and_not_passed() {
    let terms = |count| vec!["tags exists"; count].join(" or ");
    filter(&terms(MAX_TERMS));
    let error = refused(&terms(MAX_TERMS + 1));
    assert_eq!(error.reason, Reason::TooManyTerms);
    assert_eq!(error.position, 15_000);
    let values = |count| format!("metrics.a in ({})", vec!["1"; count].join(","));
    filter(&values(MAX_LITERALS));
    assert_eq!(
        refused(&values(MAX_LITERALS + 1)).reason,
        Reason::TooManyLiterals
    );
    let pattern = |length| format!("notes like \"{}\"", "a".repeat(length));
    filter(&pattern(MAX_PATTERN));
    assert_eq!(
        refused(&pattern(MAX_PATTERN + 1)).reason,
        Reason::PatternTooLong(1025)
    );
    let list = |count| vec!["notes"; count].join(",");
    assert_eq!(
        parse_sort(&list(MAX_SORT_KEYS)).unwrap().0.len(),
        MAX_SORT_KEYS
    );
    assert_eq!(
        parse_sort(&list(MAX_SORT_KEYS + 1)).unwrap_err().reason,
        Reason::TooManySortKeys
    );
    assert_eq!(
        parse_columns(&list(MAX_COLUMNS)).unwrap().unwrap().0.len(),
        MAX_COLUMNS
    );
    let error = parse_columns(&list(MAX_COLUMNS + 1)).unwrap_err();
    assert_eq!(error.reason, Reason::TooManyColumns);
    let padded = |length: usize| format!("tags exists{}", " ".repeat(length - 11));
    filter(&padded(MAX_TEXT));
    assert_eq!(
        refused(&padded(MAX_TEXT + 1)).reason,
        Reason::TooLong(MAX_TEXT + 1)
    );
}

#[test]
fn the_deepest_tree_is_parsed_printed_evaluated_and_dropped_on_a_small_stack() {
    on_a_small_stack(|| {
        let mut text = "notes exists".to_owned();
        for _ in 0..MAX_DEPTH / 2 {
            text = format!("not (notes exists or notes exists and {text})");
        }
        let tree = filter(&text);
        assert_eq!(tree.to_string(), text);
        let none = Object::new();
        assert!(tree.matches(&RecordRow::new(&none, None), NOW));
        assert_eq!(tree.clone(), tree);
    });
}

const CORPUS: [&str; 12] = [
    r#"status = "failed" and metrics.loss < 0.5 or tags contains "best""#,
    r#"started_at > now - 7d and params."learning rate".initial in (0.1, 0.01)"#,
    r#"not (notes ilike "%baseline\\%" or error.type exists)"#,
    "started_at between 2026-03-01T09:00:00.123456+01:00 and 2026-W09-7 10:00",
    "params.layers[0].width not between -1 and 1180591620717411303424",
    "metrics.'a\\u00e9\\ud83d\\ude00b' != nan or derived.x >= -inf",
    "provenance.extra.gpu[12] is not missing and duration_ms <= 1e-7",
    "run_id in ('a', \"b\") and experiment_id like 'x_%'",
    "metrics.loss desc, started_at asc, params.a.b[3]",
    "run_id, metrics, params.\"x y\", error.type",
    "metrics.x = null or metrics.x == true or not metrics.y <> false",
    "notes contains \"\u{85}\u{10ffff}\t\" and context_fingerprint >= 'é'",
];

const PIECES: [&str; 44] = [
    " ",
    "(",
    ")",
    "\"",
    "'",
    "\\",
    "\\u",
    "\\ud83d",
    ".",
    "[",
    "]",
    ",",
    "=",
    "!",
    "<",
    ">",
    "-",
    "+",
    "e",
    "0",
    "9",
    "now",
    "and",
    "or",
    "not",
    "in",
    "is",
    "missing",
    "exists",
    "like",
    "between",
    "contains",
    "null",
    "nan",
    "metrics",
    "params",
    "2026-03-01",
    "99999999999999999999",
    "7d",
    "é",
    "😀",
    "\0",
    "\u{2028}",
    "%",
];

/// Changes a text at random, at the borders of characters.
fn mutated(random: &mut Random, text: &str) -> String {
    let mut characters: Vec<char> = text.chars().collect();
    for _ in 0..=random.below(3) {
        let at = random.below(characters.len() + 1);
        let end = (at + random.below(6)).min(characters.len());
        match random.below(5) {
            0 => drop(characters.drain(at..end)),
            1 => {
                let copy = characters[at..end].to_vec();
                let to = random.below(characters.len() + 1);
                characters.splice(to..to, copy);
            }
            2 => characters.truncate(at.max(1)),
            _ => {
                let piece: &str = random.pick(&PIECES);
                characters.splice(at..end.min(at + random.below(2)), piece.chars());
            }
        }
    }
    characters.into_iter().collect()
}

#[test]
fn mutated_texts_are_refused_or_parsed_and_never_fail_otherwise() {
    let seed = 2;
    let mut random = Random::new(seed);
    let read = record(r#"{"notes": "a", "metrics": {"loss": 0.25}, "tags": ["best"]}"#);
    let row = RecordRow::new(object(&read), None);
    let (mut accepted, mut rejected) = (0, 0);
    eprintln!("seed {seed}");
    for _ in 0..250_000 {
        let origin = random.pick(&CORPUS);
        let text = mutated(&mut random, origin);
        let check = |error: &QueryError| {
            let at = usize::try_from(error.position).unwrap();
            assert!(text.is_char_boundary(at), "{text:?}: {error}");
            assert!(!error.to_string().is_empty());
        };
        match parse_filter(&text) {
            Ok(None) => {}
            Ok(Some(tree)) => {
                accepted += 1;
                let found = tree.matches(&row, NOW);
                let again = filter(&tree.to_string());
                assert_eq!(again, tree, "{text:?}");
                assert_eq!(again.matches(&row, NOW), found);
            }
            Err(error) => {
                rejected += 1;
                check(&error);
            }
        }
        match parse_sort(&text) {
            Ok(sort) => assert_eq!(parse_sort(&sort.to_string()), Ok(sort)),
            Err(error) => check(&error),
        }
        match parse_columns(&text) {
            Ok(None) => {}
            Ok(Some(columns)) => assert_eq!(parse_columns(&columns.to_string()), Ok(Some(columns))),
            Err(error) => check(&error),
        }
    }
    // Both ways are gone often enough to say something.
    assert!(
        accepted > 10_000 && rejected > 100_000,
        "{accepted} {rejected}"
    );
}

#[test]
fn texts_of_pieces_alone_never_fail() {
    let mut random = Random::new(3);
    for _ in 0..100_000 {
        let count = random.below(12);
        let text: String = (0..count).map(|_| random.pick(&PIECES)).collect();
        if let Ok(Some(tree)) = parse_filter(&text) {
            assert_eq!(filter(&tree.to_string()), tree);
        }
    }
}
