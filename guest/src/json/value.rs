//! JSON values. What has no escapes is borrowed from the text.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

/// The content of a JSON string: text that may hold lone surrogates.
///
/// Texts are ordered by code point.
#[derive(Clone)]
pub struct Text<'a>(Inner<'a>);

#[derive(Clone)]
enum Inner<'a> {
    /// Without lone surrogates.
    Plain(Cow<'a, str>),
    /// With at least one: WTF-8, whose byte order is the order of code points too.
    Surrogates(Vec<u8>),
}

impl<'a> Text<'a> {
    /// Makes a text from WTF-8 that this crate put together.
    pub(super) fn from_wtf8(bytes: Vec<u8>) -> Self {
        match String::from_utf8(bytes) {
            Ok(text) => Self(Inner::Plain(Cow::Owned(text))),
            Err(error) => Self(Inner::Surrogates(error.into_bytes())),
        }
    }

    /// Returns it as a string, or nothing if it holds a lone surrogate.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match &self.0 {
            Inner::Plain(text) => Some(text),
            Inner::Surrogates(_) => None,
        }
    }

    /// Turns it into a string.
    ///
    /// # Errors
    /// Itself, if it holds a lone surrogate.
    pub fn into_string(self) -> Result<String, Self> {
        match self.0 {
            Inner::Plain(text) => Ok(text.into_owned()),
            Inner::Surrogates(_) => Err(self),
        }
    }

    /// Returns its bytes: UTF-8, in which lone surrogates are encoded like other characters.
    #[must_use]
    pub fn as_wtf8(&self) -> &[u8] {
        match &self.0 {
            Inner::Plain(text) => text.as_bytes(),
            Inner::Surrogates(bytes) => bytes,
        }
    }

    /// Returns it without a borrow.
    #[must_use]
    pub fn into_owned(self) -> Text<'static> {
        Text(match self.0 {
            Inner::Plain(text) => Inner::Plain(Cow::Owned(text.into_owned())),
            Inner::Surrogates(bytes) => Inner::Surrogates(bytes),
        })
    }
}

impl<'a> From<&'a str> for Text<'a> {
    fn from(text: &'a str) -> Self {
        Self(Inner::Plain(Cow::Borrowed(text)))
    }
}

impl From<String> for Text<'_> {
    fn from(text: String) -> Self {
        Self(Inner::Plain(Cow::Owned(text)))
    }
}

impl PartialEq for Text<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.as_wtf8() == other.as_wtf8()
    }
}

impl Eq for Text<'_> {}

impl PartialOrd for Text<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Text<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_wtf8().cmp(other.as_wtf8())
    }
}

impl Hash for Text<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_wtf8().hash(state);
    }
}

impl fmt::Debug for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Inner::Plain(text) => fmt::Debug::fmt(text, f),
            Inner::Surrogates(bytes) => write!(f, "WTF-8 {:?}", String::from_utf8_lossy(bytes)),
        }
    }
}

/// A JSON value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// An integer that fits 64 bits.
    Int(i64),
    /// An integer that does not, in decimal without leading zeros.
    BigInt(Cow<'a, str>),
    /// A floating point number.
    Float(f64),
    /// A string.
    String(Text<'a>),
    /// A list.
    Array(Vec<Value<'a>>),
    /// An object.
    Object(Object<'a>),
}

impl Value<'_> {
    /// Returns it without a borrow.
    #[must_use]
    pub fn into_owned(self) -> Value<'static> {
        match self {
            Self::Null => Value::Null,
            Self::Bool(value) => Value::Bool(value),
            Self::Int(value) => Value::Int(value),
            Self::BigInt(digits) => Value::BigInt(Cow::Owned(digits.into_owned())),
            Self::Float(value) => Value::Float(value),
            Self::String(text) => Value::String(text.into_owned()),
            Self::Array(items) => Value::Array(items.into_iter().map(Value::into_owned).collect()),
            Self::Object(object) => {
                let entries = object.0.into_iter();
                Value::Object(Object(
                    entries
                        .map(|(key, value)| (key.into_owned(), value.into_owned()))
                        .collect(),
                ))
            }
        }
    }
}

/// A JSON object: its entries sorted by key, each key once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Object<'a>(Vec<(Text<'a>, Value<'a>)>);

impl<'a> Object<'a> {
    /// Returns an empty object.
    #[must_use]
    pub fn new() -> Self {
        Self(Vec::new())
    }

    /// Makes an object of entries in the order of the text: of equal keys the last one wins.
    pub(super) fn from_entries(mut entries: Vec<(Text<'a>, Value<'a>)>) -> Self {
        // What the store or the reference wrote is sorted already.
        if !entries.is_sorted_by(|a, b| a.0 < b.0) {
            entries.reverse();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            entries.dedup_by(|later, kept| later.0 == kept.0);
        }
        Self(entries)
    }

    fn find(&self, key: &[u8]) -> Result<usize, usize> {
        self.0
            .binary_search_by(|(other, _)| other.as_wtf8().cmp(key))
    }

    /// Returns the value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value<'a>> {
        self.find(key.as_bytes()).ok().map(|index| &self.0[index].1)
    }

    /// Says whether there is a key.
    #[must_use]
    pub fn contains_key(&self, key: &str) -> bool {
        self.find(key.as_bytes()).is_ok()
    }

    /// Removes a key and returns its value.
    pub fn remove(&mut self, key: &str) -> Option<Value<'a>> {
        self.find(key.as_bytes())
            .ok()
            .map(|index| self.0.remove(index).1)
    }

    /// Sets the value of a key and returns the value it had.
    pub fn insert(&mut self, key: Text<'a>, value: Value<'a>) -> Option<Value<'a>> {
        match self.find(key.as_wtf8()) {
            Ok(index) => Some(std::mem::replace(&mut self.0[index].1, value)),
            Err(index) => {
                self.0.insert(index, (key, value));
                None
            }
        }
    }

    /// Returns how many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Says whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the entries, sorted by key.
    pub fn iter(&self) -> std::slice::Iter<'_, (Text<'a>, Value<'a>)> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for Object<'a> {
    type Item = (Text<'a>, Value<'a>);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'v, 'a> IntoIterator for &'v Object<'a> {
    type Item = &'v (Text<'a>, Value<'a>);
    type IntoIter = std::slice::Iter<'v, (Text<'a>, Value<'a>)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}
