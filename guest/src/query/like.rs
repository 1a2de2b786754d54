//! The patterns of `like` and `ilike`.

use std::fmt;

use super::MAX_PATTERN;
use super::error::Reason;

/// A pattern: `%` stands for any text, `_` for one character, a backslash makes the next character plain.
///
/// Matching takes time in proportion to the text times the longest piece between two `%`, at worst; there is
/// no backtracking over earlier pieces.
#[derive(Clone)]
pub struct Pattern {
    source: String,
    /// What stands between the `%`. A pattern without `%` is one segment.
    segments: Vec<Vec<Unit>>,
}

/// The smallest part of a pattern.
#[derive(Clone, Copy)]
enum Unit {
    /// One byte of a character. Characters are whole in a segment, and a search starts only at the start of
    /// a character, so that comparing bytes compares characters.
    Byte(u8),
    /// Any one character.
    One,
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// [`Reason::BadPattern`] if it ends with a backslash that escapes nothing, [`Reason::PatternTooLong`]
    /// beyond [`MAX_PATTERN`] bytes.
    pub fn new(source: impl Into<String>) -> Result<Self, Reason> {
        let source = source.into();
        if source.len() > MAX_PATTERN {
            return Err(Reason::PatternTooLong(source.len()));
        }
        let mut segments = Vec::new();
        let mut segment = Vec::new();
        let mut escaped = false;
        for byte in source.bytes() {
            match byte {
                b'\\' if !escaped => {
                    escaped = true;
                    continue;
                }
                b'%' if !escaped => segments.push(std::mem::take(&mut segment)),
                b'_' if !escaped => segment.push(Unit::One),
                _ => segment.push(Unit::Byte(byte)),
            }
            escaped = false;
        }
        if escaped {
            return Err(Reason::BadPattern);
        }
        segments.push(segment);
        Ok(Self { source, segments })
    }

    /// Returns the pattern as it was written.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Tells whether the whole text, UTF-8 or WTF-8, is as the pattern says.
    ///
    /// With `fold`, the letters `A` to `Z` equal `a` to `z`, and no other letters equal each other.
    #[must_use]
    pub fn matches(&self, text: &[u8], fold: bool) -> bool {
        let Some((first, rest)) = self.segments.split_first() else {
            return false;
        };
        let Some(mut at) = match_at(first, text, 0, fold) else {
            return false;
        };
        let Some((last, middle)) = rest.split_last() else {
            return at == text.len();
        };
        for segment in middle {
            // The leftmost match leaves the most room for what follows.
            loop {
                if let Some(end) = match_at(segment, text, at, fold) {
                    at = end;
                    break;
                }
                let Some(next) = forward(text, at) else {
                    return false;
                };
                at = next;
            }
        }
        match_end(last, text, fold).is_some_and(|start| start >= at)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Pattern {}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.source)
    }
}

fn same(left: u8, right: u8, fold: bool) -> bool {
    left == right || (fold && left.eq_ignore_ascii_case(&right))
}

/// Matches a segment that starts here and returns where it ends.
fn match_at(segment: &[Unit], text: &[u8], start: usize, fold: bool) -> Option<usize> {
    let mut at = start;
    for unit in segment {
        match unit {
            Unit::Byte(byte) if same(*byte, *text.get(at)?, fold) => at += 1,
            Unit::Byte(_) => return None,
            Unit::One => at = forward(text, at)?,
        }
    }
    Some(at)
}

/// Matches a segment at the end of the text and returns where it starts.
fn match_end(segment: &[Unit], text: &[u8], fold: bool) -> Option<usize> {
    let mut at = text.len();
    for unit in segment.iter().rev() {
        at = match unit {
            Unit::Byte(byte) => {
                let before = at.checked_sub(1)?;
                if !same(*byte, *text.get(before)?, fold) {
                    return None;
                }
                before
            }
            Unit::One => backward(text, at)?,
        };
    }
    Some(at)
}

fn continues(text: &[u8], at: usize) -> bool {
    matches!(text.get(at), Some(0x80..=0xBF))
}

/// Returns where the next character starts, or `None` at the end.
fn forward(text: &[u8], at: usize) -> Option<usize> {
    text.get(at)?;
    let mut next = at + 1;
    while continues(text, next) {
        next += 1;
    }
    Some(next)
}

/// Returns where the character before this place starts, or `None` at the start.
fn backward(text: &[u8], at: usize) -> Option<usize> {
    let mut before = at.checked_sub(1)?;
    while before > 0 && continues(text, before) {
        before -= 1;
    }
    Some(before)
}
