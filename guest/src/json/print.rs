//! Printing JSON text: exactly as Python's `json.dumps` with `sort_keys=True`, everything escaped to ASCII.

use super::value::{Text, Value};
use std::fmt::Write as _;

/// Appends a value as `json.dumps(value, indent=2, sort_keys=True)` prints it: no trailing newline.
pub fn pretty(value: &Value<'_>, out: &mut String) {
    write(value, Some(0), out);
}

/// Appends a value on one line, without white space.
pub fn line(value: &Value<'_>, out: &mut String) {
    write(value, None, out);
}

/// Prints a value; with an indentation, each item on a line of its own.
fn write(value: &Value<'_>, indent: Option<usize>, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Int(number) => {
            // Writing to a string cannot fail.
            let _ = write!(out, "{number}");
        }
        Value::BigInt(digits) => out.push_str(digits),
        Value::Float(number) => out.push_str(&float_text(*number)),
        Value::String(text) => string(text, out),
        Value::Array(items) if items.is_empty() => out.push_str("[]"),
        Value::Array(items) => {
            out.push('[');
            let inner = indent.map(|indent| indent + 1);
            for (index, item) in items.iter().enumerate() {
                separate(index, inner, out);
                write(item, inner, out);
            }
            new_line(indent, out);
            out.push(']');
        }
        Value::Object(object) if object.is_empty() => out.push_str("{}"),
        Value::Object(object) => {
            out.push('{');
            let inner = indent.map(|indent| indent + 1);
            for (index, (key, item)) in object.iter().enumerate() {
                separate(index, inner, out);
                string(key, out);
                out.push_str(if inner.is_some() { ": " } else { ":" });
                write(item, inner, out);
            }
            new_line(indent, out);
            out.push('}');
        }
    }
}

fn separate(index: usize, indent: Option<usize>, out: &mut String) {
    if index > 0 {
        out.push(',');
    }
    new_line(indent, out);
}

fn new_line(indent: Option<usize>, out: &mut String) {
    if let Some(indent) = indent {
        out.push('\n');
        out.extend(std::iter::repeat_n("  ", indent));
    }
}

fn string(text: &Text<'_>, out: &mut String) {
    out.push('"');
    match text.as_str() {
        Some(text) => plain(text, out),
        None => {
            let mut rest = text.as_wtf8();
            while !rest.is_empty() {
                let chunk = rest.utf8_chunks().next();
                let valid = chunk.map_or("", |chunk| chunk.valid());
                plain(valid, out);
                rest = &rest[valid.len()..];
                // What is not UTF-8 is a lone surrogate: three bytes.
                if let [_, high, low, tail @ ..] = rest {
                    escape(
                        0xd000 | (u32::from(*high & 0x3f) << 6) | u32::from(*low & 0x3f),
                        out,
                    );
                    rest = tail;
                } else {
                    break;
                }
            }
        }
    }
    out.push('"');
}

fn plain(text: &str, out: &mut String) {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let run = bytes[at..]
            .iter()
            .position(|byte| !matches!(byte, b' '..=b'~') || matches!(byte, b'"' | b'\\'));
        let run = run.unwrap_or(bytes.len() - at);
        out.push_str(&text[at..at + run]);
        at += run;
        let Some(character) = text[at..].chars().next() else {
            break;
        };
        at += character.len_utf8();
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            other => {
                let mut units = [0; 2];
                for unit in other.encode_utf16(&mut units) {
                    escape(u32::from(*unit), out);
                }
            }
        }
    }
}

fn escape(unit: u32, out: &mut String) {
    // Writing to a string cannot fail.
    let _ = write!(out, "\\u{unit:04x}");
}

/// Returns a number as Python's `repr` prints it: the fewest digits that read back as the same number.
///
/// ```
/// use metalab_store_guest::json::float_text;
///
/// assert_eq!(float_text(1e22), "1e+22");
/// assert_eq!(float_text(1e-7), "1e-07");
/// assert_eq!(float_text(-0.0), "-0.0");
/// ```
#[must_use]
pub fn float_text(number: f64) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        }
        .to_owned();
    }
    let scientific = format!("{number:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if (-4..16).contains(&exponent) {
        // The shortest digits again, written out; Python always shows a fraction.
        let mut text = format!("{number}");
        if !text.contains('.') {
            text.push_str(".0");
        }
        return text;
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.unsigned_abs())
}
