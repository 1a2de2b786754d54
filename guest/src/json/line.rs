//! Prints a text on one line while it is read, without building a tree of it.

use super::Text;
use super::number::{float_text, is_own_text, parse_float, push_float};
use super::print::push_text;
use super::scan::{Kind, Scalar, run, special_in_ascii};
use super::text::compare;

/// So many bytes are made room for at first.
const FIRST_BYTES: usize = 120;

/// The line that [`line`](super::line()) prints of a value, made of the value's tokens.
///
/// It says nothing of a value in which the keys of an object are not in order, or have escapes.
#[derive(Default)]
pub(crate) struct Line<'a> {
    out: String,
    unusual: bool,
    /// The open containers, with the last key of each.
    open: Vec<(Kind, Option<&'a str>)>,
    /// Whether the innermost open container has no items so far.
    empty: bool,
}

/// Says whether a value that is no container is written as [`line`](super::line()) prints it.
pub(crate) fn is_own_form(value: Scalar<'_>) -> bool {
    match value {
        Scalar::Null | Scalar::Bool(_) | Scalar::NotFinite(_) => true,
        Scalar::Integer(text) => text != "-0",
        Scalar::Float(text) => is_own_text(text) || float_text(parse_float(text)) == text,
        Scalar::String(body, escaped) => {
            let plain = || run(body.as_bytes(), special_in_ascii) == body.len();
            (!escaped && plain()) || {
                let mut own = String::with_capacity(body.len() + 2);
                push_text(&Text::written(body, escaped), &mut own);
                own.get(1..own.len() - 1) == Some(body)
            }
        }
    }
}

impl<'a> Line<'a> {
    /// Shows the line of a value that has come to its end, and is empty then; none if there is nothing to say.
    pub(crate) fn take<T>(&mut self, show: impl FnOnce(&str) -> T) -> Option<T> {
        let shown = (!self.unusual).then(|| show(&self.out));
        self.out.clear();
        shown
    }

    pub(crate) fn scalar(&mut self, value: Scalar<'a>) {
        self.value();
        match value {
            Scalar::Null => self.out.push_str("null"),
            Scalar::Bool(true) => self.out.push_str("true"),
            Scalar::Bool(false) => self.out.push_str("false"),
            Scalar::NotFinite(value) => push_float(value, &mut self.out),
            Scalar::Integer("-0") => self.out.push('0'),
            Scalar::Integer(text) => self.out.push_str(text),
            Scalar::Float(text) if is_own_text(text) => self.out.push_str(text),
            Scalar::Float(text) => push_float(parse_float(text), &mut self.out),
            Scalar::String(body, escaped) => {
                push_text(&Text::written(body, escaped), &mut self.out);
            }
        }
    }

    pub(crate) fn key(&mut self, body: &'a str, escaped: bool) {
        self.item();
        let Some((_, last)) = self.open.last_mut() else {
            return;
        };
        self.unusual |=
            escaped || last.is_some_and(|last| compare(last.as_bytes(), body.as_bytes()).is_ge());
        *last = Some(body);
        push_text(&body.into(), &mut self.out);
        self.out.push(':');
    }

    pub(crate) fn open(&mut self, kind: Kind) {
        if self.open.is_empty() {
            self.out.reserve(FIRST_BYTES);
        }
        self.value();
        self.out.push(match kind {
            Kind::Array => '[',
            Kind::Object => '{',
        });
        self.open.push((kind, None));
        self.empty = true;
    }

    pub(crate) fn close(&mut self) {
        self.out.push(match self.open.pop() {
            Some((Kind::Object, _)) => '}',
            _ => ']',
        });
        self.empty = false;
    }

    /// A value begins.
    fn value(&mut self) {
        if let Some((Kind::Array, _)) = self.open.last() {
            self.item();
        }
    }

    /// An item of the innermost container begins.
    fn item(&mut self) {
        if !self.empty {
            self.out.push(',');
        }
        self.empty = false;
    }
}

impl<'a> Scalar<'a> {
    /// Returns the content of a string without escapes.
    pub(crate) fn plain(self) -> Option<&'a str> {
        match self {
            Self::String(body, false) => Some(body),
            _ => None,
        }
    }

    /// Returns the content of a string that has no lone surrogate.
    pub(crate) fn into_string(self) -> Option<String> {
        match self {
            Self::String(body, escaped) => Text::written(body, escaped).into_string().ok(),
            _ => None,
        }
    }
}
