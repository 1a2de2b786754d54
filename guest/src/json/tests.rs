#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;

fn printed(text: &str) -> String {
    let mut out = String::new();
    pretty(&parse(text.as_bytes()).unwrap(), &mut out);
    out
}

fn reason(text: &str) -> (u64, Reason) {
    let parsed = parse(text.as_bytes()).unwrap_err();
    assert_eq!(
        minify(text.as_bytes(), &mut String::new()).unwrap_err(),
        parsed,
        "{text}"
    );
    (parsed.offset, parsed.reason)
}

#[test]
fn text_is_printed_as_python_prints_it() {
    let text = r#" {"b": [1, 2.5, {}], "a": null, "é": "\u2713 \ud83d\ude00 \ud800 / \u007f\b\"", "c": []} "#;
    let expected = "{\n  \"a\": null,\n  \"b\": [\n    1,\n    2.5,\n    {}\n  ],\n  \"c\": [],\n  \"\\u00e9\": \"\\u2713 \\ud83d\\ude00 \\ud800 / \\u007f\\b\\\"\"\n}";
    assert_eq!(printed(text), expected);
    assert_eq!(printed(expected), expected);
}

#[test]
fn numbers_keep_their_value_and_python_s_spelling() {
    for (text, expected) in [
        ("1", "1"),
        ("-0", "0"),
        ("-0.0", "-0.0"),
        ("1E5", "100000.0"),
        ("1e22", "1e+22"),
        ("1e-7", "1e-07"),
        ("1180591620717411303424", "1180591620717411303424"),
        ("-9223372036854775808", "-9223372036854775808"),
        ("9223372036854775808", "9223372036854775808"),
        ("1e999", "Infinity"),
        ("-1e999", "-Infinity"),
        ("NaN", "NaN"),
        ("Infinity", "Infinity"),
        ("-Infinity", "-Infinity"),
        ("5e-324", "5e-324"),
        ("1.7976931348623157e308", "1.7976931348623157e+308"),
        ("123456789012345680.0", "1.2345678901234568e+17"),
        ("1234567890123456.7", "1234567890123456.8"),
        ("0.0001", "0.0001"),
        ("0.00001", "1e-05"),
        ("1e15", "1000000000000000.0"),
        ("1e16", "1e+16"),
    ] {
        assert_eq!(printed(text), expected, "{text}");
    }
}

#[test]
fn of_equal_keys_the_last_one_wins() {
    assert_eq!(
        printed(r#"{"a": 1, "b": 2, "a": 3}"#),
        "{\n  \"a\": 3,\n  \"b\": 2\n}"
    );
}

#[test]
fn what_is_not_json_is_refused_with_its_place() {
    for (text, offset, expected) in [
        ("", 0, Reason::End),
        ("  ", 2, Reason::End),
        ("{", 1, Reason::End),
        ("[1", 2, Reason::End),
        ("\"a", 2, Reason::End),
        ("\"a\\", 3, Reason::End),
        ("[1 2]", 3, Reason::Comma),
        ("[1,]", 3, Reason::Value),
        ("{\"a\" 1}", 5, Reason::Colon),
        ("{a: 1}", 1, Reason::Key),
        ("{\"a\":1,}", 7, Reason::Key),
        ("01", 1, Reason::Trailing),
        ("1.", 1, Reason::Trailing),
        ("-x", 1, Reason::Number),
        ("nul", 0, Reason::Value),
        ("\"\\x\"", 1, Reason::Escape),
        ("\"\\u12g4\"", 1, Reason::Escape),
        ("\"\\u123\"", 1, Reason::Escape),
        ("\"a\nb\"", 2, Reason::Control),
        ("{} {}", 3, Reason::Trailing),
        ("\u{feff}1", 0, Reason::Value),
    ] {
        assert_eq!(reason(text), (offset, expected), "{text:?}");
    }
    assert_eq!(
        parse(b"[\"\xff\"]").unwrap_err(),
        JsonError {
            offset: 2,
            reason: Reason::Encoding
        }
    );
}

#[test]
fn nesting_is_limited_and_never_overflows_the_stack() {
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    let deepest = nested(MAX_DEPTH);
    let value = parse(deepest.as_bytes()).unwrap();
    let mut out = String::new();
    line(&value.clone().into_owned(), &mut out);
    assert_eq!(out, deepest);
    assert_eq!(
        reason(&nested(MAX_DEPTH + 1)),
        (MAX_DEPTH as u64, Reason::Depth)
    );
    assert_eq!(reason(&"[".repeat(100_000)).1, Reason::Depth);
    assert_eq!(reason(&"{\"a\":".repeat(100_000)).1, Reason::Depth);
}

#[test]
fn a_minified_text_says_the_same_without_white_space() {
    let text = "{ \"b\" : [ 1.50 , \"a b\\u00e9\" , { } , [ ] ] ,\n\t\"a\" : NaN }\r\n";
    let mut out = String::new();
    minify(text.as_bytes(), &mut out).unwrap();
    assert_eq!(out, "{\"b\":[1.50,\"a b\\u00e9\",{},[]],\"a\":NaN}");
    let mut first = String::new();
    pretty(&parse(out.as_bytes()).unwrap(), &mut first);
    assert_eq!(first, printed(text));
}

#[test]
fn objects_are_sorted_by_code_point_also_beyond_the_basic_plane_and_with_surrogates() {
    // U+FFFF < U+10000 by code point, though not in UTF-16; a lone surrogate stands below U+FFFF.
    let text = "{\"\\ud800\\udc00\": 1, \"\\uffff\": 2, \"\\ud800\": 3}";
    assert_eq!(
        printed(text),
        "{\n  \"\\ud800\": 3,\n  \"\\uffff\": 2,\n  \"\\ud800\\udc00\": 1\n}"
    );
}
