//! Prints trees.

use super::number::{push_float, push_int};
use super::scan::{Kind, run, special_in_ascii};
use super::text::Piece;
use super::walk::{Visit, walk};
use super::{Text, Value};

/// Where white space goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// As Python's `indent=2`.
    Pretty,
    /// None at all.
    Line,
}

pub(super) fn print(value: &Value<'_>, layout: Layout, out: &mut String) {
    let mut printer = Printer {
        out,
        layout,
        depth: 0,
        empty: true,
    };
    walk(value, &mut printer);
}

struct Printer<'o> {
    out: &'o mut String,
    layout: Layout,
    depth: usize,
    /// Whether the innermost open container has no items so far.
    empty: bool,
}

impl<'a> Visit<'a> for Printer<'_> {
    fn item(&mut self) {
        if !self.empty {
            self.out.push(',');
        }
        self.empty = false;
        start_line(self.depth, self.layout, self.out);
    }

    fn key(&mut self, key: &Text<'a>) {
        push_text(key, self.out);
        self.out.push_str(match self.layout {
            Layout::Pretty => ": ",
            Layout::Line => ":",
        });
    }

    fn scalar(&mut self, value: &Value<'a>) {
        match value {
            Value::Null => self.out.push_str("null"),
            Value::Bool(true) => self.out.push_str("true"),
            Value::Bool(false) => self.out.push_str("false"),
            Value::Int(value) => push_int(*value, self.out),
            Value::BigInt(digits) => self.out.push_str(digits),
            Value::Float(value) => push_float(*value, self.out),
            Value::String(text) => push_text(text, self.out),
            // The walk opens these.
            Value::Array(_) | Value::Object(_) => {}
        }
    }

    fn open(&mut self, kind: Kind) {
        self.out.push(match kind {
            Kind::Array => '[',
            Kind::Object => '{',
        });
        self.depth += 1;
        self.empty = true;
    }

    fn close(&mut self, kind: Kind) {
        self.depth -= 1;
        if !self.empty {
            start_line(self.depth, self.layout, self.out);
        }
        self.empty = false;
        self.out.push(match kind {
            Kind::Array => ']',
            Kind::Object => '}',
        });
    }
}

fn start_line(depth: usize, layout: Layout, out: &mut String) {
    const SPACES: &str = "                                ";
    if layout == Layout::Line {
        return;
    }
    out.push('\n');
    let mut left = depth * 2;
    while left > 0 {
        let part = left.min(SPACES.len());
        out.push_str(SPACES.get(..part).unwrap_or_default());
        left -= part;
    }
}

/// Appends a string with its quotes, in ASCII.
pub(crate) fn push_text(text: &Text<'_>, out: &mut String) {
    out.push('"');
    for piece in text.pieces() {
        match piece {
            Piece::Str(part) => push_escaped(part, out),
            Piece::Surrogate(unit) => push_unit(unit, out),
        }
    }
    out.push('"');
}

fn push_escaped(text: &str, out: &mut String) {
    let mut rest = text;
    loop {
        // A run of ASCII ends at a border of characters.
        let (plain, tail) = rest.split_at(run(rest.as_bytes(), special_in_ascii));
        out.push_str(plain);
        let mut characters = tail.chars();
        let Some(character) = characters.next() else {
            return;
        };
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            other => {
                let mut buffer = [0; 2];
                for unit in other.encode_utf16(&mut buffer) {
                    push_unit(*unit, out);
                }
            }
        }
        rest = characters.as_str();
    }
}

fn push_unit(unit: u16, out: &mut String) {
    const DIGITS: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f',
    ];
    out.push_str("\\u");
    for shift in [12, 8, 4, 0] {
        out.push(DIGITS[usize::from(unit >> shift & 0xF)]);
    }
}
