//! String content that Python can hold and Rust's `str` cannot.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

/// The content of a JSON string: like a string, but it may hold lone surrogates.
///
/// Python strings may hold them, and `\ud800` reads and prints as itself. They are kept as WTF-8:
/// UTF-8 in which a lone surrogate has its three-byte form. A surrogate pair is always one
/// character. Texts compare by code point, which is the order of their WTF-8 bytes.
#[derive(Clone)]
pub struct Text<'a>(Repr<'a>);

/// Invariant: `Surrogates` holds at least one lone surrogate and no pair, so that every content
/// has one representation and `as_str` needs no look at the bytes.
#[derive(Clone)]
enum Repr<'a> {
    Str(Cow<'a, str>),
    Surrogates(Vec<u8>),
}

/// A part of a text: characters, or one lone surrogate (U+D800 to U+DFFF).
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'t> {
    Str(&'t str),
    Surrogate(u16),
}

impl<'a> Text<'a> {
    /// Returns the text as a string, or `None` if it holds a lone surrogate.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match &self.0 {
            Repr::Str(text) => Some(text),
            Repr::Surrogates(_) => None,
        }
    }

    /// Turns the text into a string.
    ///
    /// # Errors
    ///
    /// The text itself, unchanged, if it holds a lone surrogate.
    pub fn into_string(self) -> Result<String, Self> {
        match self.0 {
            Repr::Str(text) => Ok(text.into_owned()),
            Repr::Surrogates(_) => Err(self),
        }
    }

    /// Returns the bytes of the text in WTF-8; they are UTF-8 if there is no lone surrogate.
    #[must_use]
    pub fn as_wtf8(&self) -> &[u8] {
        match &self.0 {
            Repr::Str(text) => text.as_bytes(),
            Repr::Surrogates(bytes) => bytes,
        }
    }

    /// Returns the same text, independent of what it was read from.
    #[must_use]
    pub fn into_owned(self) -> Text<'static> {
        Text(match self.0 {
            Repr::Str(text) => Repr::Str(Cow::Owned(text.into_owned())),
            Repr::Surrogates(bytes) => Repr::Surrogates(bytes),
        })
    }

    /// Makes a text of the content between the quotes of a JSON string, which has escapes or has none.
    pub(super) fn written(body: &'a str, escaped: bool) -> Self {
        if escaped {
            Self::unescape(body)
        } else {
            body.into()
        }
    }

    /// Makes a text of the content between the quotes of a JSON string whose escapes are valid.
    pub(super) fn unescape(body: &'a str) -> Self {
        let mut bytes = Vec::with_capacity(body.len());
        let mut rest = body;
        while let Some((plain, escape)) = rest.split_once('\\') {
            bytes.extend_from_slice(plain.as_bytes());
            let mut after = escape.chars();
            let code = match after.next() {
                Some('u') => {
                    let (code, length) = unescape_unit(escape);
                    rest = escape.get(length..).unwrap_or_default();
                    push_code(&mut bytes, code);
                    continue;
                }
                Some('b') => b'\x08',
                Some('f') => b'\x0c',
                Some('n') => b'\n',
                Some('r') => b'\r',
                Some('t') => b'\t',
                Some('/') => b'/',
                Some('"') => b'"',
                // Only a second backslash is left: the scanner let nothing else through.
                _ => b'\\',
            };
            bytes.push(code);
            rest = after.as_str();
        }
        bytes.extend_from_slice(rest.as_bytes());
        // WTF-8 fails to be UTF-8 exactly when it holds a lone surrogate.
        Text(match String::from_utf8(bytes) {
            Ok(text) => Repr::Str(Cow::Owned(text)),
            Err(error) => Repr::Surrogates(error.into_bytes()),
        })
    }

    /// Returns the parts of the text in order; a text without lone surrogates is one part.
    pub(super) fn pieces(&self) -> Pieces<'_> {
        match &self.0 {
            Repr::Str(text) => Pieces {
                whole: Some(text),
                bytes: &[],
            },
            Repr::Surrogates(bytes) => Pieces { whole: None, bytes },
        }
    }
}

/// The parts of one text, see [`Text::pieces`].
pub(super) struct Pieces<'t> {
    whole: Option<&'t str>,
    bytes: &'t [u8],
}

impl<'t> Iterator for Pieces<'t> {
    type Item = Piece<'t>;

    fn next(&mut self) -> Option<Piece<'t>> {
        if let Some(whole) = self.whole.take() {
            return Some(Piece::Str(whole));
        }
        if let [0xED, second @ 0xA0..=0xBF, third, rest @ ..] = self.bytes {
            self.bytes = rest;
            let unit = 0xD000 | (u16::from(second & 0x3F) << 6) | u16::from(third & 0x3F);
            return Some(Piece::Surrogate(unit));
        }
        // 0xED is always a first byte, so that the search cannot stop inside a character.
        let end = self
            .bytes
            .windows(2)
            .position(|pair| matches!(pair, [0xED, 0xA0..=0xBF]))
            .unwrap_or(self.bytes.len());
        let (plain, rest) = self.bytes.split_at(end);
        self.bytes = rest;
        match std::str::from_utf8(plain) {
            Ok("") | Err(_) => None,
            Ok(plain) => Some(Piece::Str(plain)),
        }
    }
}

/// Reads `uXXXX`, or the two halves of a pair `uXXXX\uXXXX`: the code point and the bytes used.
fn unescape_unit(escape: &str) -> (u32, usize) {
    let unit = |start: usize| {
        let digits = escape.get(start..start + 4)?;
        u32::from_str_radix(digits, 16).ok()
    };
    // The scanner has seen four digits; U+FFFD would stand for a fault of ours.
    let first = unit(1).unwrap_or(0xFFFD);
    if (0xD800..0xDC00).contains(&first)
        && escape.get(5..7) == Some("\\u")
        && let Some(second @ 0xDC00..0xE000) = unit(7)
    {
        return (0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00), 11);
    }
    (first, 5)
}

/// Appends a code point, surrogates included, in WTF-8.
fn push_code(bytes: &mut Vec<u8>, code: u32) {
    if let Some(character) = char::from_u32(code) {
        let mut buffer = [0; 4];
        bytes.extend_from_slice(character.encode_utf8(&mut buffer).as_bytes());
    } else {
        let [_, _, high, low] = code.to_be_bytes();
        bytes.push(0xE0 | (high >> 4));
        bytes.push(0x80 | ((high & 0x0F) << 2) | (low >> 6));
        bytes.push(0x80 | (low & 0x3F));
    }
}

impl<'a> From<&'a str> for Text<'a> {
    fn from(text: &'a str) -> Self {
        Text(Repr::Str(Cow::Borrowed(text)))
    }
}

impl From<String> for Text<'_> {
    fn from(text: String) -> Self {
        Text(Repr::Str(Cow::Owned(text)))
    }
}

impl PartialEq for Text<'_> {
    fn eq(&self, other: &Self) -> bool {
        is_same(self.as_wtf8(), other.as_wtf8())
    }
}

impl Eq for Text<'_> {}

impl PartialEq<str> for Text<'_> {
    fn eq(&self, other: &str) -> bool {
        self.as_wtf8() == other.as_bytes()
    }
}

impl PartialEq<&str> for Text<'_> {
    fn eq(&self, other: &&str) -> bool {
        self == *other
    }
}

impl PartialOrd for Text<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Text<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        compare(self.as_wtf8(), other.as_wtf8())
    }
}

/// Says whether texts have the same bytes, looking at eight at a time: the C library of the component takes one at a time.
pub(crate) fn is_same(left: &[u8], right: &[u8]) -> bool {
    // What is left at the end is looked at with bytes before it once more.
    left.len() == right.len()
        && match (left.last_chunk::<8>(), right.last_chunk::<8>()) {
            (Some(one), Some(other)) => {
                u64::from_ne_bytes(*one) == u64::from_ne_bytes(*other)
                    && same_words(left, right) == left.len() / 8
            }
            _ => match (
                left.first_chunk::<4>(),
                right.first_chunk::<4>(),
                left.last_chunk::<4>(),
                right.last_chunk::<4>(),
            ) {
                (Some(one), Some(other), Some(end), Some(other_end)) => {
                    u32::from_ne_bytes(*one) == u32::from_ne_bytes(*other)
                        && u32::from_ne_bytes(*end) == u32::from_ne_bytes(*other_end)
                }
                _ => left.iter().eq(right),
            },
        }
}

/// Compares texts by their bytes, as [`is_same`] does.
pub(crate) fn compare(left: &[u8], right: &[u8]) -> Ordering {
    // The first eight bytes that differ, or the last ones.
    let same = 8 * same_words(left, right);
    let rest = |bytes| <[u8]>::get(bytes, same..).unwrap_or_default().iter();
    rest(left).cmp(rest(right))
}

/// Returns how many words of eight bytes are the same at the start.
fn same_words(left: &[u8], right: &[u8]) -> usize {
    let words = left.as_chunks::<8>().0.iter().zip(right.as_chunks::<8>().0);
    words
        .take_while(|(one, other)| u64::from_ne_bytes(**one) == u64::from_ne_bytes(**other))
        .count()
}

impl Hash for Text<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_wtf8().hash(state);
    }
}

impl fmt::Debug for Text<'_> {
    /// Shows the text as JSON prints it, so that lone surrogates can be seen.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = String::new();
        super::print::push_text(self, &mut out);
        f.write_str(&out)
    }
}
