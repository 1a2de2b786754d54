//! Goes through a tree without recursion, which keeps the deepest tree off the stack.

use std::slice;

use super::scan::Kind;
use super::{Text, Value};

/// Is shown the parts of a tree in order.
pub(super) trait Visit<'a> {
    /// An item of the innermost container comes next, or its key if that is an object.
    fn item(&mut self) {}
    fn key(&mut self, key: &Text<'a>);
    /// A value that is no container.
    fn scalar(&mut self, value: &Value<'a>);
    fn open(&mut self, kind: Kind);
    /// The container that was opened last, and is of this kind, ends.
    fn close(&mut self, kind: Kind);
}

/// What is left of an open container.
enum Rest<'v, 'a> {
    Array(slice::Iter<'v, Value<'a>>),
    Object(slice::Iter<'v, (Text<'a>, Value<'a>)>),
}

impl<'v, 'a> Rest<'v, 'a> {
    fn of(value: &'v Value<'a>) -> Option<Self> {
        match value {
            Value::Array(items) => Some(Self::Array(items.iter())),
            Value::Object(object) => Some(Self::Object(object.entries().iter())),
            _ => None,
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Array(_) => Kind::Array,
            Self::Object(_) => Kind::Object,
        }
    }

    fn next(&mut self) -> Option<(Option<&'v Text<'a>>, &'v Value<'a>)> {
        match self {
            Self::Array(items) => items.next().map(|item| (None, item)),
            Self::Object(entries) => entries.next().map(|(key, value)| (Some(key), value)),
        }
    }
}

pub(super) fn walk<'a>(value: &Value<'a>, visit: &mut impl Visit<'a>) {
    let mut open = Vec::new();
    let mut value = value;
    loop {
        match Rest::of(value) {
            None => visit.scalar(value),
            Some(rest) => {
                visit.open(rest.kind());
                open.push(rest);
            }
        }
        value = loop {
            let Some(innermost) = open.last_mut() else {
                return;
            };
            if let Some((key, item)) = innermost.next() {
                visit.item();
                if let Some(key) = key {
                    visit.key(key);
                }
                break item;
            }
            visit.close(innermost.kind());
            open.pop();
        };
    }
}

/// Compares two trees.
pub(super) fn equal(left: &Value<'_>, right: &Value<'_>) -> bool {
    let mut open = Vec::new();
    let mut pair = (left, right);
    loop {
        match (Rest::of(pair.0), Rest::of(pair.1)) {
            (None, None) if equal_scalars(pair.0, pair.1) => {}
            (Some(left), Some(right)) if left.kind() == right.kind() => open.push((left, right)),
            _ => return false,
        }
        pair = loop {
            let Some((left, right)) = open.last_mut() else {
                return true;
            };
            match (left.next(), right.next()) {
                (None, None) => {
                    open.pop();
                }
                (Some(left), Some(right)) if left.0 == right.0 => break (left.1, right.1),
                _ => return false,
            }
        };
    }
}

fn equal_scalars(left: &Value<'_>, right: &Value<'_>) -> bool {
    match (left, right) {
        (Value::Null, Value::Null) => true,
        (Value::Bool(left), Value::Bool(right)) => left == right,
        (Value::Int(left), Value::Int(right)) => left == right,
        (Value::BigInt(left), Value::BigInt(right)) => left == right,
        (Value::Float(left), Value::Float(right)) => left == right,
        (Value::String(left), Value::String(right)) => left == right,
        _ => false,
    }
}
