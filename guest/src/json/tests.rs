use std::borrow::Cow;

use super::python::{Random, ask};
use super::*;

fn pretty_of(value: &Value<'_>) -> String {
    let mut out = String::new();
    pretty(value, &mut out);
    out
}

fn line_of(value: &Value<'_>) -> String {
    let mut out = String::new();
    line(value, &mut out);
    out
}

fn reprinted(text: &str) -> String {
    line_of(&parse(text.as_bytes()).unwrap())
}

#[test]
fn pretty_text_is_laid_out_as_python_lays_it_out() {
    let value = parse(br#"{"b":[1,[],{},{"x":null}],"a":{},"c":true,"B":"\u00e9\ud83d\ude00"}"#);
    let expected = r#"{
  "B": "\u00e9\ud83d\ude00",
  "a": {},
  "b": [
    1,
    [],
    {},
    {
      "x": null
    }
  ],
  "c": true
}"#;
    assert_eq!(pretty_of(&value.unwrap()), expected);
}

#[test]
fn a_line_has_no_white_space_sorted_keys_and_only_ascii() {
    let value = parse("{ \"é\" : [ 1 , \"a b\" ] , \"a\" : false }".as_bytes()).unwrap();
    assert_eq!(line_of(&value), r#"{"a":false,"\u00e9":[1,"a b"]}"#);
}

#[test]
fn printing_appends() {
    let mut out = String::from("x");
    pretty(&Value::Int(1), &mut out);
    line(&Value::Null, &mut out);
    minify(b" [ ] ", &mut out).unwrap();
    assert_eq!(out, "x1null[]");
}

#[test]
fn floats_have_the_text_of_pythons_repr() {
    for (value, text) in [
        (1.0, "1.0"),
        (0.0, "0.0"),
        (-0.0, "-0.0"),
        (0.1, "0.1"),
        (100_000.0, "100000.0"),
        (1e15, "1000000000000000.0"),
        (9_999_999_999_999_998.0, "9999999999999998.0"),
        (1e16, "1e+16"),
        (1e22, "1e+22"),
        (-1.5e300, "-1.5e+300"),
        (0.0001, "0.0001"),
        (0.000_099_999_999_999_999_99, "9.999999999999999e-05"),
        (1e-5, "1e-05"),
        (1e-7, "1e-07"),
        (-1.25e-7, "-1.25e-07"),
        (5e-324, "5e-324"),
        (f64::MAX, "1.7976931348623157e+308"),
        (f64::NAN, "NaN"),
        (f64::INFINITY, "Infinity"),
        (f64::NEG_INFINITY, "-Infinity"),
    ] {
        assert_eq!(float_text(value), text);
    }
}

#[test]
fn numbers_read_as_python_reads_them() {
    for (text, printed) in [
        ("-0", "0"),
        ("-0.0", "-0.0"),
        ("1E5", "100000.0"),
        ("1e999", "Infinity"),
        ("-1e999", "-Infinity"),
        ("1e-999", "0.0"),
        ("1e99999999999999999999", "Infinity"),
        ("0e99999999999999999999", "0.0"),
        ("[NaN,Infinity,-Infinity]", "[NaN,Infinity,-Infinity]"),
        ("9223372036854775807", "9223372036854775807"),
        ("-9223372036854775809", "-9223372036854775809"),
        ("1180591620717411303424", "1180591620717411303424"),
    ] {
        assert_eq!(reprinted(text), printed, "{text}");
    }
    assert_eq!(
        parse(b"-9223372036854775808").unwrap(),
        Value::Int(i64::MIN)
    );
    let big = Value::BigInt(Cow::Borrowed("9223372036854775808"));
    assert_eq!(parse(b"9223372036854775808").unwrap(), big);
}

#[test]
fn integers_are_read_up_to_the_digits_that_python_converts() {
    for sign in ["", "-"] {
        let longest = format!("{sign}{}", "9".repeat(MAX_INT_DIGITS));
        assert_eq!(reprinted(&longest), longest);
        let error = parse(format!("[{longest}9]").as_bytes()).unwrap_err();
        assert_eq!((error.offset, error.reason), (1, Reason::IntegerTooLong));
    }
}

/// Failure: the standard library's conversion caps exponents at some 65,536 before it adds the
/// position of the point. Consequence: a long float was read as another number than Python reads.
/// Fix: long floats are shortened first.
#[test]
fn floats_of_any_length_are_read_correctly() {
    let zeros = "0".repeat(1_000_000);
    for (text, value) in [
        (format!("0.{zeros}1e1000001"), 1.0),
        (format!("-25{zeros}.0E-1000001"), -2.5),
        (format!("1{zeros}e-999998"), 100.0),
        (format!("1{zeros}.5"), f64::INFINITY),
        (format!("0.{zeros}1"), 0.0),
        (format!("-0.{zeros}"), -0.0),
        (format!("0.{zeros}e5"), 0.0),
        (format!("0.5{zeros}"), 0.5),
        // One more than halfway between 1.0 and the next float: rounds up, by its last digit.
        (
            format!("1.00000000000000011102230246251565404236316680908203125{zeros}1"),
            1.000_000_000_000_000_2,
        ),
        (
            format!("1.00000000000000011102230246251565404236316680908203125{zeros}"),
            1.0,
        ),
    ] {
        let Value::Float(read) = parse(text.as_bytes()).unwrap() else {
            unreachable!("it has a fraction or an exponent");
        };
        assert_eq!(read.to_bits(), value.to_bits(), "{value}");
    }
}

#[test]
fn lone_surrogates_are_kept_and_pairs_become_characters() {
    for (text, printed) in [
        (r#""\ud800""#, r#""\ud800""#),
        (r#""a\uDFFFb\uD800""#, r#""a\udfffb\ud800""#),
        (r#""\ud83d\ude00""#, r#""\ud83d\ude00""#),
        (
            r#""\ud800\ud83d\ude00\ude00""#,
            r#""\ud800\ud83d\ude00\ude00""#,
        ),
        (r#""\ude00\ud83d""#, r#""\ude00\ud83d""#),
        (r#""\ud83dx\ude00""#, r#""\ud83dx\ude00""#),
        (r#""\ud83d\\ude00""#, r#""\ud83d\\ude00""#),
        (r#""\ud7ff\ue000\ufffd""#, r#""\ud7ff\ue000\ufffd""#),
        (
            "\"\u{d7ff}\\ud800\u{e000}😀\u{10ffff}\"",
            r#""\ud7ff\ud800\ue000\ud83d\ude00\udbff\udfff""#,
        ),
    ] {
        assert_eq!(reprinted(text), printed, "{text}");
    }
    let value = parse(br#"["\ud83d\ude00","\ud83d"]"#).unwrap();
    let items = value.as_array().unwrap();
    assert_eq!(items[0].as_str(), Some("😀"));
    assert_eq!(items[1].as_str(), None);
    let Value::String(text) = items[1].clone() else {
        unreachable!("it is a string");
    };
    assert_eq!(text.as_wtf8(), [0xED, 0xA0, 0xBD]);
    assert_eq!(text.clone().into_owned(), text);
    assert_eq!(text.clone().into_string(), Err(text));
    assert_eq!(Text::from("é").into_string(), Ok("é".to_owned()));
}

#[test]
fn escapes_are_read_and_printed_as_python_prints_them() {
    assert_eq!(
        reprinted(r#""\"\\\/\b\f\n\r\t\u0000\u001F\u007f\u0041\u00e9""#),
        r#""\"\\/\b\f\n\r\t\u0000\u001f\u007fA\u00e9""#
    );
    assert_eq!(reprinted("\"\u{7f}\u{80}~\""), r#""\u007f\u0080~""#);
}

#[test]
fn every_byte_at_every_place_of_a_run_is_escaped_or_copied() {
    for code in 0..=0x2FF_u32 {
        let character = char::from_u32(code).unwrap();
        for place in 0..20 {
            let text = format!("{}{character}{}", "p".repeat(place), "q".repeat(9));
            let value = Value::from(text.as_str());
            let printed = line_of(&value);
            assert!(printed.bytes().all(|byte| (0x20..0x7F).contains(&byte)));
            assert_eq!(
                parse(printed.as_bytes()).unwrap(),
                value,
                "{code:x} {place}"
            );
        }
    }
}

#[test]
fn keys_sort_by_code_point_and_the_last_duplicate_wins() {
    let text = "{\"\u{ffff}\":1,\"\\ud800\":2,\"😀\":3,\"b\":4,\"\u{d7ff}\":5,\"B\":6,\"b\":[7],\"\":8,\"b\":9}";
    assert_eq!(
        reprinted(text),
        r#"{"":8,"B":6,"b":9,"\ud7ff":5,"\ud800":2,"\uffff":1,"\ud83d\ude00":3}"#
    );
    assert_eq!(reprinted(r#"{"a":1,"a":2}"#), r#"{"a":2}"#);
    assert_eq!(reprinted(r#"{"a":1,"\u0061":2}"#), r#"{"a":2}"#);
    // A nested object between two entries must not confuse the order of the outer one.
    assert_eq!(
        reprinted(r#"{"m":{"z":1,"a":2},"n":{"x":{}},"a":[{"q":1}]}"#),
        r#"{"a":[{"q":1}],"m":{"a":2,"z":1},"n":{"x":{}}}"#
    );
}

#[test]
fn objects_are_changed_by_key() {
    let mut object = Object::new();
    assert_eq!(object.insert("b", 2_i64), None);
    assert_eq!(object.insert("a".to_owned(), "x"), None);
    assert_eq!(object.insert("b", Value::Null), Some(Value::Int(2)));
    assert_eq!(object.len(), 2);
    assert!(object.contains_key("a") && !object.contains_key("c"));
    *object.get_mut("b").unwrap() = true.into();
    assert_eq!(object.get("b"), Some(&Value::Bool(true)));
    let keys: Vec<_> = object.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys, [Some("a"), Some("b")]);
    assert_eq!(object.remove("a"), Some("x".into()));
    assert_eq!(object.remove("a"), None);
    object.retain(|key, _| *key != "b");
    assert!(object.is_empty());
}

#[test]
fn values_are_equal_exactly_when_all_their_parts_are() {
    let texts = [
        "null",
        "false",
        "true",
        "0",
        "1",
        "1.5",
        "9223372036854775808",
        "\"\"",
        "\"a\"",
        "[]",
        "{}",
        "[[]]",
        "[{}]",
        "[1]",
        "[1,1]",
        "[1,2]",
        "{\"a\":1}",
        "{\"b\":1}",
        "{\"a\":1,\"b\":1}",
        "{\"a\":[1]}",
    ];
    for (left_index, left) in texts.iter().enumerate() {
        for (right_index, right) in texts.iter().enumerate() {
            let (left, right) = (parse(left.as_bytes()), parse(right.as_bytes()));
            let copy = left.clone().map(Value::into_owned);
            assert_eq!(left == right, left_index == right_index);
            assert_eq!(copy == right, left_index == right_index);
        }
    }
    assert_ne!(Value::Float(f64::NAN), Value::Float(f64::NAN));
    assert_eq!(Value::Float(0.0), Value::Float(-0.0));
}

#[test]
fn what_is_not_json_is_refused_with_its_place_and_reason() {
    use Reason::*;
    for (text, offset, reason) in [
        ("", 0, UnexpectedEnd),
        (" \n", 2, UnexpectedEnd),
        ("\u{feff}1", 0, ByteOrderMark),
        ("{", 1, UnexpectedEnd),
        ("[1,", 3, UnexpectedEnd),
        ("\"abc", 4, UnexpectedEnd),
        ("\"abc\\", 5, UnexpectedEnd),
        ("[1,]", 3, UnexpectedCharacter(']')),
        ("[,]", 1, UnexpectedCharacter(',')),
        ("[1 2]", 3, UnexpectedCharacter('2')),
        ("[1}", 2, UnexpectedCharacter('}')),
        ("{,}", 1, UnexpectedCharacter(',')),
        ("{\"a\":1]", 6, UnexpectedCharacter(']')),
        ("{\"a\":1,}", 7, UnexpectedCharacter('}')),
        ("{\"a\" 1}", 5, UnexpectedCharacter('1')),
        ("{1:2}", 1, UnexpectedCharacter('1')),
        ("{'a':1}", 1, UnexpectedCharacter('\'')),
        ("[é]", 1, UnexpectedCharacter('é')),
        ("\u{a0}1", 0, UnexpectedCharacter('\u{a0}')),
        ("nulL", 3, UnexpectedCharacter('L')),
        ("nan", 1, UnexpectedCharacter('a')),
        ("-NaN", 1, UnexpectedCharacter('N')),
        ("-Inf", 4, UnexpectedEnd),
        ("+1", 0, UnexpectedCharacter('+')),
        (".5", 0, UnexpectedCharacter('.')),
        ("1.", 2, UnexpectedEnd),
        ("[1.e5]", 3, UnexpectedCharacter('e')),
        ("1e+", 3, UnexpectedEnd),
        ("-", 1, UnexpectedEnd),
        ("01", 0, LeadingZero),
        ("[-00]", 2, LeadingZero),
        ("0x1", 1, TrailingData),
        ("{} {}", 3, TrailingData),
        ("null\0", 4, TrailingData),
        ("\"\\x\"", 1, InvalidEscape),
        ("\"\\u00e\"", 1, InvalidEscape),
        ("\"\\u+0e9\"", 1, InvalidEscape),
        ("\"ab\\é\"", 3, InvalidEscape),
        ("\"a\nb\"", 2, ControlCharacter(10)),
        ("\"\0\"", 1, ControlCharacter(0)),
        ("[\"\t\"]", 2, ControlCharacter(9)),
    ] {
        let error = JsonError { offset, reason };
        assert_eq!(parse(text.as_bytes()), Err(error), "{text:?}");
        let mut out = String::from("kept");
        assert_eq!(minify(text.as_bytes(), &mut out), Err(error), "{text:?}");
        assert_eq!(out, "kept");
    }
    let message = parse(b"[1,]").unwrap_err().to_string();
    assert_eq!(message, "unexpected character ']' at byte 3");
}

#[test]
fn invalid_utf8_is_refused_with_its_place() {
    for text in [
        &b"[1,\"\xFF\"]"[..],
        b"[1,\"\xED\xA0\x80\"]",
        b"[1,\"\xC3\"]",
    ] {
        let error = parse(text).unwrap_err();
        assert_eq!((error.offset, error.reason), (4, Reason::InvalidUtf8));
        assert_eq!(minify(text, &mut String::new()), Err(error));
    }
}

#[test]
fn minify_copies_everything_but_white_space() {
    let text = "\t{ \"b\" : [ 1E5 , -0 , \"a  b\\u00E9\\/é\" ] ,\r\n \"a\":NaN, \"a\" : { } } \n";
    let mut out = String::new();
    minify(text.as_bytes(), &mut out).unwrap();
    assert_eq!(out, r#"{"b":[1E5,-0,"a  b\u00E9\/é"],"a":NaN,"a":{}}"#);
    let mut again = String::new();
    minify(out.as_bytes(), &mut again).unwrap();
    assert_eq!(again, out);
}

fn nested(depth: usize) -> [String; 3] {
    let key = "{\"k\":";
    [
        format!("{}{}", "[".repeat(depth), "]".repeat(depth)),
        format!("{}1{}", key.repeat(depth), "}".repeat(depth)),
        format!(
            "{}0{}",
            format!("[{key}").repeat(depth / 2),
            "}]".repeat(depth / 2)
        ),
    ]
}

#[test]
fn the_deepest_nesting_needs_no_more_than_half_a_mebibyte_of_stack() {
    let thread = std::thread::Builder::new().stack_size(512 * 1024);
    let work = thread.spawn(|| {
        for text in nested(MAX_DEPTH) {
            let value = parse(text.as_bytes()).unwrap();
            assert_eq!(line_of(&value), text);
            assert_eq!(format!("{value:?}"), text);
            let mut copy = value.clone();
            assert!(copy == value);
            // The same depth with another innermost value.
            copy = Value::Array(vec![copy]);
            assert!(copy != value);
            let owned = value.into_owned();
            assert_eq!(parse(pretty_of(&owned).as_bytes()).unwrap(), owned);
            let mut out = String::new();
            minify(text.as_bytes(), &mut out).unwrap();
            assert_eq!(out, text);
        }
    });
    work.unwrap().join().unwrap();
}

#[test]
fn deeper_nesting_is_refused_where_it_gets_too_deep() {
    for depth in [MAX_DEPTH + 2, 100_000] {
        for (text, offset) in nested(depth).iter().zip([1000, 5000, 3000]) {
            let error = parse(text.as_bytes()).unwrap_err();
            assert_eq!((error.offset, error.reason), (offset, Reason::TooDeep));
            assert_eq!(minify(text.as_bytes(), &mut String::new()), Err(error));
        }
    }
    // Depth is what is open at once, not what was opened.
    let flat = format!("[{}[]]", "[[]],".repeat(5000));
    assert!(parse(flat.as_bytes()).is_ok());
}

/// Failure: 1000000000000000.25 lies halfway between two shortest texts, and Rust prints the larger
/// where Python prints the even one. Consequence: a record read and written back had other bytes.
/// Fix: such ties are found and settled as Python does.
#[test]
fn a_float_halfway_between_two_texts_is_printed_as_the_even_one() {
    for (value, text) in [
        (1e15 + 0.25, "1000000000000000.2"),
        (1e15 + 0.75, "1000000000000000.8"),
        (-(2_f64.powi(50) + 1.25), "-1125899906842625.2"),
        // The even text is nearer to the float below, whose distance is only half.
        (2_f64.powi(-24), "5.960464477539063e-08"),
        (0.5, "0.5"),
    ] {
        assert_eq!(float_text(value), text);
    }
}

/// The floats whose text is most likely to differ: around powers, subnormal, any bit pattern.
fn random_float(random: &mut Random) -> f64 {
    match random.below(7) {
        // Few binary places and many digits: ties.
        3 => {
            let odd = u32::try_from(random.next() >> 32).unwrap();
            let high = f64::from(odd) * f64::from(1 << random.below(22));
            let low = f64::from(u32::try_from(random.below(1 << 10)).unwrap());
            (high + low) / f64::from(1 << random.below(26))
        }
        0 => {
            let power = 10_f64.powi(i32::try_from(random.below(40)).unwrap() - 20);
            f64::from_bits(
                power
                    .to_bits()
                    .wrapping_add(random.next() % 5)
                    .wrapping_sub(2),
            )
        }
        1 => {
            let exponent = random.next() % 2047;
            f64::from_bits(
                (exponent << 52)
                    .wrapping_add(random.next() % 5)
                    .wrapping_sub(2),
            )
        }
        2 => f64::from_bits(random.next() >> 12 >> random.below(52)),
        _ => f64::from_bits(random.next()),
    }
}

fn random_text(random: &mut Random) -> Text<'static> {
    const PARTS: [&str; 24] = [
        "a",
        "Z",
        "9",
        " ",
        "plain text",
        "\\\"",
        "\\\\",
        "\\/",
        "\\n",
        "\\b",
        "\\f",
        "\\r",
        "\\t",
        "\\u0000",
        "\\u001f",
        "\\u007f",
        "é",
        "\u{2028}",
        "😀",
        "\\ud800",
        "\\udfff",
        "\\ud83d",
        "\\ude00",
        "\u{ffff}",
    ];
    let mut body = String::new();
    for _ in 0..random.below(12) {
        body.push_str(random.pick(&PARTS));
    }
    let text = format!("\"{body}\"");
    let Ok(Value::String(text)) = parse(text.as_bytes()) else {
        unreachable!("it is a string");
    };
    text.into_owned()
}

fn random_value(random: &mut Random, depth: usize) -> Value<'static> {
    match random.below(if depth == 0 { 9 } else { 13 }) {
        0 => Value::Null,
        1 => Value::Bool(random.below(2) == 0),
        2 => Value::Int(i64::from_ne_bytes(random.next().to_ne_bytes()) >> random.below(64)),
        3 => {
            let digits: String = (0..random.below(100))
                .map(|_| random.pick(&['0', '1', '5', '9']))
                .collect();
            let sign = random.pick(&["", "-"]);
            Value::BigInt(Cow::Owned(format!("{sign}9223372036854775808{digits}")))
        }
        4 | 5 => Value::String(random_text(random)),
        6..=8 => Value::Float(random_float(random)),
        9 => {
            let mut value = random_value(random, 0);
            for _ in 0..random.below(300) {
                value = match random.below(2) {
                    0 => Value::Array(vec![value]),
                    _ => [(random_text(random), value)]
                        .into_iter()
                        .collect::<Object<'_>>()
                        .into(),
                };
            }
            value
        }
        10 => (0..random.below(6))
            .map(|_| random_value(random, depth - 1))
            .collect::<Vec<_>>()
            .into(),
        _ => (0..random.below(8))
            .map(|_| (random_text(random), random_value(random, depth - 1)))
            .collect::<Object<'_>>()
            .into(),
    }
}

/// Reads one JSON text a line and answers each with its pretty text as a JSON string.
const REPRINT: &str = "
import json
sys.setrecursionlimit(5000)
out = []
for text in sys.stdin.read().splitlines():
    out.append(json.dumps(json.dumps(json.loads(text), indent=2, sort_keys=True)))
print('\\n'.join(out))
";

#[test]
fn python_prints_the_same_bytes_of_random_values() {
    let mut random = Random::new(1);
    let mut values: Vec<_> = (0..3000).map(|_| random_value(&mut random, 4)).collect();
    for _ in 0..500 {
        let floats = (0..60).map(|_| Value::Float(random_float(&mut random)));
        values.push(floats.collect::<Vec<_>>().into());
    }
    let mut lines = String::new();
    for value in &values {
        line(value, &mut lines);
        lines.push('\n');
    }
    for (value, text) in values.iter().zip(lines.lines()) {
        assert_eq!(line_of(&parse(text.as_bytes()).unwrap()), text);
        let mut out = String::new();
        minify(pretty_of(value).as_bytes(), &mut out).unwrap();
        assert_eq!(out, text);
    }
    let Some(answer) = ask("v >= (3, 11)", REPRINT, &lines) else {
        return;
    };
    assert_eq!(answer.lines().count(), values.len());
    for (value, theirs) in values.iter().zip(answer.lines()) {
        let theirs = parse(theirs.as_bytes()).unwrap();
        let (ours, theirs) = (pretty_of(value), theirs.as_str().unwrap());
        let difference = ours.lines().zip(theirs.lines()).find(|(a, b)| a != b);
        assert_eq!(difference, None);
        assert!(ours == theirs);
    }
}

/// Reads texts as JSON strings, one a line, and answers each as `REPRINT` does, or with `null`.
const REPRINT_OR_REFUSE: &str = "
import json
out = []
for line in sys.stdin.read().splitlines():
    try:
        out.append(json.dumps(json.dumps(json.loads(json.loads(line)), indent=2, sort_keys=True)))
    except ValueError:
        out.append('null')
print('\\n'.join(out))
";

#[test]
fn python_accepts_and_refuses_the_same_texts() {
    const PARTS: [&str; 56] = [
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\"a\"",
        "\"a\":",
        "\"b\":1,",
        "\\",
        "\\u",
        "\\ud800",
        "\\udc00",
        "\\u00e9",
        "\\n",
        "\\x",
        "0",
        "1",
        "-",
        "-0",
        "+",
        ".",
        "e",
        "E",
        "E5",
        "e-3",
        "1.5",
        "00",
        "12345678901234567890",
        "NaN",
        "nan",
        "Infinity",
        "-Infinity",
        "-NaN",
        "null",
        "true",
        "false",
        "nul",
        " ",
        "\n",
        "\r\n",
        "\t",
        "\u{c}",
        "\0",
        "\u{7f}",
        "é",
        "😀",
        "\u{feff}",
        "\u{a0}",
        "\u{2028}",
        "/",
        "'",
        "//",
        "{}",
        "[]",
    ];
    let mut random = Random::new(2);
    let mut texts = vec![String::new()];
    for round in 0..30_000 {
        let mut text = if round % 3 == 0 {
            (0..random.below(8)).map(|_| random.pick(&PARTS)).collect()
        } else if round % 3 == 1 {
            pretty_of(&random_value(&mut random, 2))
        } else {
            line_of(&random_value(&mut random, 2))
        };
        if text.len() > 3000 {
            continue;
        }
        for _ in 0..random.below(3) {
            let mut from = random.below(text.len() + 1);
            let mut to = (from + random.below(4)).min(text.len());
            while !text.is_char_boundary(from) {
                from -= 1;
            }
            while !text.is_char_boundary(to) {
                to += 1;
            }
            text.replace_range(from..to, random.pick(&PARTS));
        }
        texts.push(text);
    }
    let mut lines = String::new();
    let mut ours = Vec::new();
    for text in &texts {
        line(&text.as_str().into(), &mut lines);
        lines.push('\n');
        let parsed = parse(text.as_bytes());
        let mut minified = String::new();
        let outcome = minify(text.as_bytes(), &mut minified);
        match &parsed {
            Ok(value) => {
                assert_eq!(outcome, Ok(()));
                assert!(!minified.contains(['\n', '\r']), "{text:?}");
                let again = parse(minified.as_bytes()).unwrap();
                assert_eq!(line_of(&again), line_of(value), "{text:?}");
            }
            Err(error) => assert_eq!(outcome, Err(*error)),
        }
        ours.push(parsed.ok().map(|value| pretty_of(&value)));
    }
    let accepted = ours.iter().flatten().count();
    assert!(
        accepted > 5000 && texts.len() - accepted > 5000,
        "{accepted}"
    );
    let Some(answer) = ask("v >= (3, 11)", REPRINT_OR_REFUSE, &lines) else {
        return;
    };
    assert_eq!(answer.lines().count(), texts.len());
    for ((text, ours), theirs) in texts.iter().zip(&ours).zip(answer.lines()) {
        let theirs = parse(theirs.as_bytes()).unwrap();
        assert_eq!(ours.as_deref(), theirs.as_str(), "{text:?}");
    }
}

/// A run record of the usual size, as the reference writes it.
fn record() -> String {
    let mut artifact = Object::new();
    for (key, value) in [
        ("artifact_id", "5f0c1a52b0d44b6e9a3bd1f2a97c80de"),
        ("content_hash", "0f343b0931126a20f133d67c2b018a3b"),
        ("format", "json"),
        ("kind", "json"),
        ("name", "summary"),
        (
            "uri",
            "/srv/experiments/curve_fit_1.0/artifacts/ab715c67c9710b4f/summary.json",
        ),
    ] {
        artifact.insert(key, value);
    }
    artifact.insert("size_bytes", 1024_i64);
    let mut metadata = Object::new();
    metadata.insert("_run_id", "ab715c67c9710b4f");
    artifact.insert("metadata", metadata);
    let mut provenance = Object::new();
    provenance.insert("extra", Object::new());
    for key in [
        "code_hash",
        "executor_id",
        "host",
        "metalab_version",
        "python_version",
    ] {
        provenance.insert(key, "node-017.cluster");
    }
    let (mut metrics, mut params) = (Object::new(), Object::new());
    for index in 0..5_u32 {
        metrics.insert(format!("metric_{index}"), f64::from(index + 1) / 7.0);
        params.insert(format!("parameter_{index}"), f64::from(index) / 10.0);
    }
    let mut record = Object::new();
    for (key, value) in [
        ("_schema_version", "0.1"),
        ("context_fingerprint", "3b4f1d8c9e2a7f60"),
        ("experiment_id", "curve_fit:1.0"),
        ("finished_at", "2026-03-01T09:00:05.123456"),
        ("params_fingerprint", "9a8b7c6d5e4f3a2b"),
        ("run_id", "ab715c67c9710b4f"),
        ("seed_fingerprint", "0011223344556677"),
        ("started_at", "2026-03-01T09:00:00.123456"),
        ("status", "success"),
    ] {
        record.insert(key, value);
    }
    record.insert("artifacts", vec![artifact.into()]);
    record.insert("duration_ms", 5000_i64);
    record.insert("error", Value::Null);
    record.insert("metrics", metrics);
    record.insert("notes", Value::Null);
    record.insert("params_resolved", params);
    record.insert("provenance", provenance);
    record.insert("tags", vec!["baseline".into(), "sweep".into()]);
    record.insert("warnings", Vec::new());
    pretty_of(&record.into())
}

#[test]
fn a_record_of_the_usual_size_survives_every_way() {
    let text = record();
    let value = parse(text.as_bytes()).unwrap();
    assert_eq!(pretty_of(&value), text);
    let mut minified = String::new();
    minify(text.as_bytes(), &mut minified).unwrap();
    assert_eq!(line_of(&value), minified);
}

#[test]
fn a_float_that_is_its_own_text_is_printed_as_it_is() {
    use super::number::{is_own_text, parse_float};
    let mut own = 0;
    let mut random = crate::testing::Random::new(11);
    for _ in 0..200_000 {
        let digits = random.next() >> (random.next() % 64);
        let places = usize::try_from(random.next() % 20).unwrap();
        let digits = format!("{digits:0>width$}", width = places + 1);
        let (whole, fraction) = digits.split_at(digits.len() - places);
        let sign = if random.next().is_multiple_of(2) {
            ""
        } else {
            "-"
        };
        let whole = match whole.trim_start_matches('0') {
            "" => "0",
            whole => whole,
        };
        let text = match fraction {
            "" => format!("{sign}{whole}e2"),
            fraction => format!("{sign}{whole}.{fraction}"),
        };
        if is_own_text(&text) {
            own += 1;
            assert_eq!(float_text(parse_float(&text)), text);
        }
    }
    assert!(own > 20_000, "{own}");
    for text in ["0.0", "-0.0", "0.0001", "1.5", "12345678901234.0", "-0.5"] {
        assert!(is_own_text(text), "{text}");
        assert_eq!(float_text(parse_float(text)), text);
    }
    for text in [
        "0.00001",
        "1.50",
        "1e5",
        "1.0e5",
        "0.30000000000000004",
        "1.00",
    ] {
        assert!(!is_own_text(text), "{text}");
    }
}

/// What can be seen of a value, and of all that is in it.
fn seen(part: Part<'_>, out: &mut Vec<String>) {
    let mut text = String::new();
    part.line(&mut text);
    out.push(match part.shape() {
        Shape::Null => "null".to_owned(),
        Shape::Bool(value) => format!("{value}"),
        Shape::Int(value) => format!("integer {value}"),
        Shape::Big(digits) => format!("large {digits}"),
        Shape::Float(value) => format!("float {:x}", value.to_bits()),
        Shape::Text(text) => format!("text {text:?}"),
        Shape::Wtf8(bytes) => format!("bytes {bytes:?}"),
        Shape::Array => format!("array {text}"),
        Shape::Object => format!("object {text}"),
    });
    for (key, part) in part.entries().chain(part.items()) {
        out.push(format!("{key:?}"));
        seen(part, out);
    }
    out.push("end".to_owned());
}

#[test]
fn tokens_in_a_row_show_what_a_tree_shows() {
    let mut random = Random::new(21);
    let mut texts: Vec<String> = (0..2000)
        .map(|_| pretty_of(&random_value(&mut random, 4)))
        .collect();
    texts.push(record());
    let mut flat = 0;
    for text in &texts {
        let value = parse(text.as_bytes()).unwrap();
        let mut minified = b"before".to_vec();
        let document = Document::read_and_minify(text, &mut minified, &mut Nothing).unwrap();
        flat += usize::from(matches!(document, Document::Flat(_)));
        let mut expected = String::from("before");
        minify(text.as_bytes(), &mut expected).unwrap();
        assert_eq!(minified, expected.as_bytes());
        let [mut one, mut other] = [Vec::new(), Vec::new()];
        seen(document.root(), &mut one);
        seen(Part::Tree(&value), &mut other);
        assert_eq!(one, other, "{text}");
    }
    assert!((500..texts.len()).contains(&flat), "{flat}");
}

#[test]
fn a_text_is_read_as_a_tree_where_its_tokens_do_not_say_it() {
    for text in [
        r#"{"b": 1, "a": 2}"#,
        r#"{"a": 1, "a": 2}"#,
        r#"{"a": {"d": 1, "c": 2}, "b": 3}"#,
        r#"[{"a": 1}, {"\u0061": 1}]"#,
    ] {
        let mut out = Vec::new();
        let document = Document::read_and_minify(text, &mut out, &mut Nothing).unwrap();
        assert!(matches!(document, Document::Tree(_)), "{text}");
        let [mut one, mut other] = [Vec::new(), Vec::new()];
        seen(document.root(), &mut one);
        seen(Part::Tree(&parse(text.as_bytes()).unwrap()), &mut other);
        assert_eq!((one, out), (other, text.replace(' ', "").into_bytes()));
    }
    let mut out = b"before".to_vec();
    let refused = Document::read_and_minify(r#"{"a": 1, "b": }"#, &mut out, &mut Nothing);
    let Err(error) = refused else {
        panic!("it is none");
    };
    assert_eq!(error, parse(br#"{"a": 1, "b": }"#).unwrap_err());
    assert_eq!(out, b"before");
}
