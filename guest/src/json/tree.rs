//! Builds trees from their parts in order, without recursion.

use std::borrow::Cow;

use super::scan::{Kind, Scalar, Sink};
use super::walk::{Visit, walk};
use super::{Object, Text, Value, number};

/// A tree under construction.
///
/// The items of all open arrays and the entries of all open objects lie on two common stacks; a
/// container that closes moves its own part into a vector of the right size.
#[derive(Default)]
pub(super) struct Tree<'a> {
    values: Vec<Value<'a>>,
    entries: Vec<(Text<'a>, Value<'a>)>,
    outer: Vec<Frame>,
    /// The innermost open container. The text's own value counts as the only item of an array.
    open: Frame,
}

/// An open container.
#[derive(Clone, Copy, Default)]
struct Frame {
    kind: Kind,
    /// The index of its first item or entry on its stack.
    start: usize,
    /// Whether an entry does not follow its predecessor in the order of keys.
    unsorted: bool,
}

impl<'a> Tree<'a> {
    /// Returns the value of the text that was scanned to its end.
    pub(super) fn finish(mut self) -> Value<'a> {
        self.values.pop().unwrap_or_default()
    }

    /// Adds a key to the innermost object; its value must come next.
    fn push_key(&mut self, key: Text<'a>) {
        if let Some((previous, _)) = self.entries.get(self.open.start..).and_then(<[_]>::last)
            && *previous >= key
        {
            self.open.unsorted = true;
        }
        // `put` replaces the value.
        self.entries.push((key, Value::Null));
    }

    /// Adds a value to the innermost container.
    fn put(&mut self, value: Value<'a>) {
        match self.open.kind {
            Kind::Array => self.values.push(value),
            Kind::Object => {
                if let Some((_, place)) = self.entries.last_mut() {
                    *place = value;
                }
            }
        }
    }

    fn begin(&mut self, kind: Kind) {
        self.outer.push(self.open);
        self.open = Frame {
            kind,
            start: match kind {
                Kind::Array => self.values.len(),
                Kind::Object => self.entries.len(),
            },
            unsorted: false,
        };
    }

    fn end(&mut self) {
        let Frame {
            kind,
            start,
            unsorted,
        } = self.open;
        let value = match kind {
            Kind::Array => Value::Array(self.values.drain(start..).collect()),
            Kind::Object if unsorted => Value::Object(self.entries.drain(start..).collect()),
            Kind::Object => {
                Value::Object(Object::from_sorted(self.entries.drain(start..).collect()))
            }
        };
        self.open = self.outer.pop().unwrap_or_default();
        self.put(value);
    }
}

impl<'a> Sink<'a> for Tree<'a> {
    fn scalar(&mut self, value: Scalar<'a>) {
        self.put(match value {
            Scalar::Null => Value::Null,
            Scalar::Bool(value) => Value::Bool(value),
            Scalar::NotFinite(value) => Value::Float(value),
            // What does not fit is in Python's own form already: the grammar has no leading zeros.
            Scalar::Integer(text) => match text.parse() {
                Ok(value) => Value::Int(value),
                Err(_) => Value::BigInt(Cow::Borrowed(text)),
            },
            Scalar::Float(text) => Value::Float(number::parse_float(text)),
            Scalar::String(body, escaped) => Value::String(Text::written(body, escaped)),
        });
    }

    fn key(&mut self, body: &'a str, escaped: bool) {
        self.push_key(Text::written(body, escaped));
    }

    fn open(&mut self, kind: Kind) {
        self.begin(kind);
    }

    fn close(&mut self) {
        self.end();
    }
}

/// Copies a tree, every text by the given functions.
pub(super) fn copy<'a, 'b>(
    value: &Value<'a>,
    text: impl Fn(&Text<'a>) -> Text<'b>,
    digits: impl Fn(&Cow<'a, str>) -> Cow<'b, str>,
) -> Value<'b> {
    let mut copier = Copier {
        tree: Tree::default(),
        text,
        digits,
    };
    walk(value, &mut copier);
    copier.tree.finish()
}

struct Copier<'b, T, D> {
    tree: Tree<'b>,
    text: T,
    digits: D,
}

impl<'a, 'b, T, D> Visit<'a> for Copier<'b, T, D>
where
    T: Fn(&Text<'a>) -> Text<'b>,
    D: Fn(&Cow<'a, str>) -> Cow<'b, str>,
{
    fn key(&mut self, key: &Text<'a>) {
        self.tree.push_key((self.text)(key));
    }

    fn scalar(&mut self, value: &Value<'a>) {
        self.tree.put(match value {
            Value::Bool(value) => Value::Bool(*value),
            Value::Int(value) => Value::Int(*value),
            Value::BigInt(digits) => Value::BigInt((self.digits)(digits)),
            Value::Float(value) => Value::Float(*value),
            Value::String(text) => Value::String((self.text)(text)),
            // The walk opens containers.
            Value::Null | Value::Array(_) | Value::Object(_) => Value::Null,
        });
    }

    fn open(&mut self, kind: Kind) {
        self.tree.begin(kind);
    }

    fn close(&mut self, _kind: Kind) {
        self.tree.end();
    }
}
