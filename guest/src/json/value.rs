//! The tree of a JSON text.

use std::borrow::Cow;
use std::fmt;

use super::text::compare;
use super::{Text, tree, walk};

/// One JSON value.
///
/// Equality is that of the parts: `NaN` differs from itself, and `0.0` equals `-0.0`. To compare
/// to the byte, compare what [`line`](super::line()) prints.
///
/// Cloning, comparing and printing take any depth. Dropping recurses: it needs some 80 bytes of
/// stack a level, which [`MAX_DEPTH`](super::MAX_DEPTH) keeps harmless for what was read; who
/// builds a much deeper value by hand answers for it.
#[derive(Default)]
pub enum Value<'a> {
    /// `null`
    #[default]
    Null,
    /// `true` or `false`
    Bool(bool),
    /// An integer of at most 64 bits.
    Int(i64),
    /// An integer beyond 64 bits, as Python prints it: a minus sign or none, no leading zero.
    BigInt(Cow<'a, str>),
    /// A number written with a fraction or an exponent, or `NaN` or an infinity.
    Float(f64),
    /// A string.
    String(Text<'a>),
    /// An array.
    Array(Vec<Self>),
    /// An object.
    Object(Object<'a>),
}

impl<'a> Value<'a> {
    /// Returns the string, or `None` if the value is no string or holds a lone surrogate.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => text.as_str(),
            _ => None,
        }
    }

    /// Returns the entries, or `None` if the value is no object.
    #[must_use]
    pub fn as_object(&self) -> Option<&Object<'a>> {
        match self {
            Self::Object(object) => Some(object),
            _ => None,
        }
    }

    /// Returns the items, or `None` if the value is no array.
    #[must_use]
    pub fn as_array(&self) -> Option<&[Self]> {
        match self {
            Self::Array(items) => Some(items),
            _ => None,
        }
    }

    /// Returns the name of the value's type in JSON's own words, for messages.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "boolean",
            Self::Int(_) | Self::BigInt(_) => "integer",
            Self::Float(_) => "number",
            Self::String(_) => "string",
            Self::Array(_) => "array",
            Self::Object(_) => "object",
        }
    }

    /// Returns the same value, independent of the text that it was read from.
    #[must_use]
    pub fn into_owned(self) -> Value<'static> {
        let text = |text: &Text<'a>| text.clone().into_owned();
        tree::copy(&self, text, |digits| Cow::Owned(digits.to_string()))
    }
}

impl Clone for Value<'_> {
    fn clone(&self) -> Self {
        tree::copy(self, Clone::clone, Clone::clone)
    }
}

impl PartialEq for Value<'_> {
    fn eq(&self, other: &Self) -> bool {
        walk::equal(self, other)
    }
}

impl fmt::Debug for Value<'_> {
    /// Shows the value as one line of JSON.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = String::new();
        super::line(self, &mut out);
        f.write_str(&out)
    }
}

impl From<bool> for Value<'_> {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i64> for Value<'_> {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<u64> for Value<'_> {
    fn from(value: u64) -> Self {
        match i64::try_from(value) {
            Ok(value) => Self::Int(value),
            Err(_) => Self::BigInt(Cow::Owned(value.to_string())),
        }
    }
}

impl From<f64> for Value<'_> {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::String(text.into())
    }
}

impl From<String> for Value<'_> {
    fn from(text: String) -> Self {
        Self::String(text.into())
    }
}

impl<'a> From<Text<'a>> for Value<'a> {
    fn from(text: Text<'a>) -> Self {
        Self::String(text)
    }
}

impl<'a> From<Vec<Self>> for Value<'a> {
    fn from(items: Vec<Self>) -> Self {
        Self::Array(items)
    }
}

impl<'a> From<Object<'a>> for Value<'a> {
    fn from(object: Object<'a>) -> Self {
        Self::Object(object)
    }
}

impl<'a, T: Into<Self>> From<Option<T>> for Value<'a> {
    /// Makes `null` of `None`.
    fn from(value: Option<T>) -> Self {
        value.map_or(Value::Null, Into::into)
    }
}

/// The entries of a JSON object: unique keys, sorted by code point.
#[derive(Clone, PartialEq, Default)]
pub struct Object<'a>(Vec<(Text<'a>, Value<'a>)>);

impl<'a> Object<'a> {
    /// Makes an object without entries.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes an object of entries that are sorted already and have unique keys.
    pub(super) fn from_sorted(entries: Vec<(Text<'a>, Value<'a>)>) -> Self {
        Self(entries)
    }

    /// Returns the number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Tells whether there are no entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value<'a>> {
        let (_, value) = self.0.get(self.find(key.as_bytes()).ok()?)?;
        Some(value)
    }

    /// Returns the value of a key, to be changed.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Value<'a>> {
        let index = self.find(key.as_bytes()).ok()?;
        let (_, value) = self.0.get_mut(index)?;
        Some(value)
    }

    /// Tells whether there is an entry of this key.
    #[must_use]
    pub fn contains_key(&self, key: &str) -> bool {
        self.find(key.as_bytes()).is_ok()
    }

    /// Takes out the entry of a key and returns its value.
    pub fn remove(&mut self, key: &str) -> Option<Value<'a>> {
        let index = self.find(key.as_bytes()).ok()?;
        let (_, value) = self.0.remove(index);
        Some(value)
    }

    /// Puts in an entry, and returns the value that the key had before.
    pub fn insert(
        &mut self,
        key: impl Into<Text<'a>>,
        value: impl Into<Value<'a>>,
    ) -> Option<Value<'a>> {
        let (key, value) = (key.into(), value.into());
        match self.find(key.as_wtf8()) {
            Ok(index) => self
                .0
                .get_mut(index)
                .map(|entry| std::mem::replace(&mut entry.1, value)),
            Err(index) => {
                self.0.insert(index, (key, value));
                None
            }
        }
    }

    /// Keeps the entries for which the function says so.
    pub fn retain(&mut self, mut keep: impl FnMut(&Text<'a>, &mut Value<'a>) -> bool) {
        self.0.retain_mut(|(key, value)| keep(key, value));
    }

    /// Returns the entries in the order of their keys.
    pub fn iter(&self) -> Iter<'_, 'a> {
        self.into_iter()
    }

    /// Returns the same entries, independent of the text that they were read from.
    #[must_use]
    pub fn into_owned(self) -> Object<'static> {
        let owned = |(key, value): (Text<'_>, Value<'_>)| (key.into_owned(), value.into_owned());
        Object(self.0.into_iter().map(owned).collect())
    }

    pub(super) fn entries(&self) -> &[(Text<'a>, Value<'a>)] {
        &self.0
    }

    fn find(&self, key: &[u8]) -> Result<usize, usize> {
        self.0
            .binary_search_by(|(candidate, _)| compare(candidate.as_wtf8(), key))
    }
}

/// The entries of an object, borrowed, in the order of their keys.
pub type Iter<'v, 'a> = std::iter::Map<
    std::slice::Iter<'v, (Text<'a>, Value<'a>)>,
    fn(&'v (Text<'a>, Value<'a>)) -> (&'v Text<'a>, &'v Value<'a>),
>;

impl<'v, 'a> IntoIterator for &'v Object<'a> {
    type Item = (&'v Text<'a>, &'v Value<'a>);
    type IntoIter = Iter<'v, 'a>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter().map(|(key, value)| (key, value))
    }
}

impl<'a> IntoIterator for Object<'a> {
    type Item = (Text<'a>, Value<'a>);
    type IntoIter = std::vec::IntoIter<(Text<'a>, Value<'a>)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> FromIterator<(Text<'a>, Value<'a>)> for Object<'a> {
    /// Sorts the entries; of equal keys the last one wins.
    fn from_iter<I: IntoIterator<Item = (Text<'a>, Value<'a>)>>(entries: I) -> Self {
        let mut entries: Vec<_> = entries.into_iter().collect();
        // The sort is stable, so that equal keys stay in the order in which they came.
        entries.sort_by(|(left, _), (right, _)| left.cmp(right));
        entries.dedup_by(|later, kept| {
            let equal = later.0 == kept.0;
            if equal {
                std::mem::swap(&mut later.1, &mut kept.1);
            }
            equal
        });
        Self(entries)
    }
}

impl fmt::Debug for Object<'_> {
    /// Shows the keys and values as JSON prints them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self).finish()
    }
}
