//! A value of a text that was read, be it as a tree or as its tokens in a row.

use super::flat::{Flat, FlatPart, FlatParts, Reader};
use super::scan::{self, Kind, Scalar, Sink};
use super::tree::Tree;
use super::{JsonError, Object, Text, Value, line};

/// A text that was read.
pub(crate) enum Document<'a> {
    Flat(Flat<'a>),
    Tree(Value<'a>),
}

impl<'a> Document<'a> {
    /// Reads a text and appends it without white space; nothing is appended of one that is none. Another sink sees the tokens
    /// too, and knows which keys are likely.
    pub(crate) fn read_and_minify(
        text: &'a str,
        out: &mut Vec<u8>,
        other: &mut impl Sink<'a>,
    ) -> Result<Self, JsonError> {
        let mut both = Both {
            tokens: Reader::default(),
            other,
        };
        scan::scan_and_minify(text, &mut both, out)?;
        if let Some(flat) = both.tokens.finish() {
            return Ok(Self::Flat(flat));
        }
        let mut tree = Tree::default();
        scan::scan(text, &mut tree)?;
        Ok(Self::Tree(tree.finish()))
    }

    /// Returns the text's own value.
    pub(crate) fn root(&self) -> Part<'_> {
        match self {
            Self::Flat(flat) => Part::Flat(flat.root()),
            Self::Tree(value) => Part::Tree(value),
        }
    }
}

/// Passes tokens on to two sinks.
struct Both<'a, 'o, S> {
    tokens: Reader<'a>,
    other: &'o mut S,
}

impl<'a, S: Sink<'a>> Sink<'a> for Both<'a, '_, S> {
    fn scalar(&mut self, value: Scalar<'a>) {
        self.tokens.scalar(value);
        self.other.scalar(value);
    }

    fn key(&mut self, body: &'a str, escaped: bool) {
        self.tokens.key(body, escaped);
        self.other.key(body, escaped);
    }

    fn likely_key(&self) -> Option<&'static str> {
        self.other.likely_key()
    }

    fn likely_key_came(&mut self) {
        let key = self.other.likely_key().unwrap_or_default();
        self.tokens
            .key(key.get(1..key.len() - 1).unwrap_or_default(), false);
        self.other.likely_key_came();
    }

    fn open(&mut self, kind: Kind) {
        self.tokens.open(kind);
        self.other.open(kind);
    }

    fn close(&mut self) {
        self.tokens.close();
        self.other.close();
    }
}

/// A value, with what is in it.
#[derive(Clone, Copy)]
pub(crate) enum Part<'v> {
    Flat(FlatPart<'v>),
    Tree(&'v Value<'v>),
}

/// What a value is, without what is in a container.
#[derive(Clone, Copy)]
pub(crate) enum Shape<'v> {
    Null,
    Bool(bool),
    /// An integer of at most 64 bits.
    Int(i64),
    /// An integer beyond 64 bits, as Python prints it.
    Big(&'v str),
    Float(f64),
    Text(&'v str),
    /// A text with lone surrogates, in WTF-8.
    Wtf8(&'v [u8]),
    Array,
    Object,
}

impl<'v> Shape<'v> {
    pub(super) fn of_text(text: &'v Text<'_>) -> Self {
        text.as_str().map_or(Self::Wtf8(text.as_wtf8()), Self::Text)
    }
}

impl<'v> Part<'v> {
    pub(crate) fn shape(self) -> Shape<'v> {
        match self {
            Self::Flat(part) => part.shape(),
            Self::Tree(value) => match value {
                Value::Null => Shape::Null,
                Value::Bool(value) => Shape::Bool(*value),
                Value::Int(value) => Shape::Int(*value),
                Value::BigInt(digits) => Shape::Big(digits),
                Value::Float(value) => Shape::Float(*value),
                Value::String(text) => Shape::of_text(text),
                Value::Array(_) => Shape::Array,
                Value::Object(_) => Shape::Object,
            },
        }
    }

    /// Returns the entries of an object in the order of their keys, which are unique; a key with a lone surrogate is none.
    /// Of anything else there are none.
    pub(crate) fn entries(self) -> Parts<'v> {
        match self {
            Self::Flat(part) => Parts::Flat(part.parts(Kind::Object)),
            Self::Tree(Value::Object(object)) => Parts::Entries(object.entries().iter()),
            Self::Tree(_) => Parts::Items([].iter()),
        }
    }

    /// Returns the items of an array, without keys; of anything else there are none.
    pub(crate) fn items(self) -> Parts<'v> {
        match self {
            Self::Flat(part) => Parts::Flat(part.parts(Kind::Array)),
            Self::Tree(Value::Array(items)) => Parts::Items(items.iter()),
            Self::Tree(_) => Parts::Items([].iter()),
        }
    }

    /// Appends what [`line`](super::line()) prints.
    pub(crate) fn line(self, out: &mut String) {
        match self {
            Self::Flat(part) => part.line(out),
            Self::Tree(value) => line(value, out),
        }
    }

    /// Returns the string; none if the value is no string or holds a lone surrogate.
    pub(crate) fn text(self) -> Option<&'v str> {
        match self.shape() {
            Shape::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn is_null(self) -> bool {
        match self {
            Self::Flat(part) => part.is_null(),
            Self::Tree(value) => matches!(value, Value::Null),
        }
    }

    pub(crate) fn is_array(self) -> bool {
        self.is_container(Kind::Array)
    }

    pub(crate) fn is_object(self) -> bool {
        self.is_container(Kind::Object)
    }

    fn is_container(self, kind: Kind) -> bool {
        match (self, kind) {
            (Self::Flat(part), kind) => part.is_container(kind),
            (Self::Tree(value), Kind::Array) => matches!(value, Value::Array(_)),
            (Self::Tree(value), Kind::Object) => matches!(value, Value::Object(_)),
        }
    }
}

/// What is in a container.
pub(crate) enum Parts<'v> {
    Flat(FlatParts<'v>),
    Entries(std::slice::Iter<'v, (Text<'v>, Value<'v>)>),
    Items(std::slice::Iter<'v, Value<'v>>),
}

impl<'v> Parts<'v> {
    /// Returns the entries of an object.
    pub(crate) fn of(object: &'v Object<'v>) -> Self {
        Self::Entries(object.entries().iter())
    }
}

impl<'v> Iterator for Parts<'v> {
    type Item = (Option<&'v str>, Part<'v>);

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Flat(parts) => parts.next().map(|(key, part)| (key, Part::Flat(part))),
            Self::Entries(entries) => entries
                .next()
                .map(|(key, value)| (key.as_str(), Part::Tree(value))),
            Self::Items(items) => items.next().map(|value| (None, Part::Tree(value))),
        }
    }
}
