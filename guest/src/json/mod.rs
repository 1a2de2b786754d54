//! Reads and writes JSON text exactly as the format's reference (Python's `json`) does.
//!
//! It is the only place of the project that knows JSON text. It differs from RFC 8259 where the
//! reference does:
//!
//! * `NaN`, `Infinity` and `-Infinity` are numbers, and a float that is too large reads as infinite;
//! * integers are unbounded, up to [`MAX_INT_DIGITS`] digits (the reference refuses to read more);
//! * the text of floats is that of Python's `repr`: `1.0`, `1e+22`, `1e-07`;
//! * strings may hold lone surrogates, see [`Text`];
//! * of duplicate keys the last one wins;
//! * a byte order mark is refused.
//!
//! No input makes this module panic or overflow the stack: reading, printing, cloning and comparing
//! do not recurse, and what nests deeper than [`MAX_DEPTH`] is refused while it is read.
//!
//! ```
//! use metalab_store_guest::json;
//!
//! let value = json::parse(br#"{"loss": 1E-7, "id": "a", "seed": 1180591620717411303424}"#)?;
//! let mut text = String::new();
//! json::pretty(&value, &mut text);
//! assert_eq!(text, "{\n  \"id\": \"a\",\n  \"loss\": 1e-07,\n  \"seed\": 1180591620717411303424\n}");
//! # Ok::<(), json::JsonError>(())
//! ```

mod flat;
mod line;
mod number;
mod part;
mod print;
mod scan;
mod text;
mod tree;
mod value;
mod walk;

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop where it fails")]
pub(crate) mod python;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop where it fails")]
mod tests;

pub(crate) use line::{Line, is_own_form};
pub use number::float_text;
pub(crate) use number::{parse_float, push_float};
pub(crate) use part::{Document, Part, Parts, Shape};
pub(crate) use print::push_text;
pub(crate) use scan::{Kind, Nothing, Scalar, Sink, minify_seen, scan};
pub use text::Text;
pub(crate) use text::{compare, is_same};
pub use value::{Object, Value};

use print::Layout;

/// The deepest nesting of arrays and objects that is read.
///
/// The reference itself stops a little below (Python's recursion limit).
pub const MAX_DEPTH: usize = 1000;

/// The most digits that an integer may have, sign not counted: what Python 3.11 converts.
pub const MAX_INT_DIGITS: usize = 4300;

/// Tells why and where a text is not JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason} at byte {offset}")]
pub struct JsonError {
    /// The offset of the problem in bytes, from the start of the text.
    pub offset: u64,
    /// What is wrong there.
    pub reason: Reason,
}

/// What can be wrong with a JSON text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The text is not UTF-8.
    #[error("invalid UTF-8")]
    InvalidUtf8,
    /// The text starts with a byte order mark.
    #[error("byte order mark")]
    ByteOrderMark,
    /// The text ends inside a value, or is empty.
    #[error("unexpected end of the text")]
    UnexpectedEnd,
    /// A character stands where no such token may stand.
    #[error("unexpected character {0:?}")]
    UnexpectedCharacter(char),
    /// Something other than white space follows the value.
    #[error("data after the value")]
    TrailingData,
    /// A backslash is not followed by one of `"\/bfnrt` or by `u` and four hexadecimal digits.
    #[error("invalid escape in a string")]
    InvalidEscape,
    /// A string holds a raw control character (below U+0020).
    #[error("control character 0x{0:02x} in a string")]
    ControlCharacter(u8),
    /// A number has digits after a leading zero.
    #[error("number with a leading zero")]
    LeadingZero,
    /// An integer has more than [`MAX_INT_DIGITS`] digits.
    #[error("integer of more than {MAX_INT_DIGITS} digits")]
    IntegerTooLong,
    /// Arrays and objects nest deeper than [`MAX_DEPTH`].
    #[error("nesting deeper than {MAX_DEPTH}")]
    TooDeep,
}

impl JsonError {
    fn new(offset: usize, reason: Reason) -> Self {
        Self {
            // No platform has a usize wider than 64 bits.
            offset: u64::try_from(offset).unwrap_or(u64::MAX),
            reason,
        }
    }
}

/// Reads one JSON text; strings without escapes are borrowed from it.
///
/// # Errors
///
/// The offset and the reason of the first problem; invalid UTF-8 anywhere comes before all others.
pub fn parse(text: &[u8]) -> Result<Value<'_>, JsonError> {
    let mut tree = tree::Tree::default();
    scan(scan::text(text)?, &mut tree)?;
    Ok(tree.finish())
}

/// Appends the text that `json.dumps(value, indent=2, sort_keys=True)` makes; no newline at the end.
pub fn pretty(value: &Value<'_>, out: &mut String) {
    print::print(value, Layout::Pretty, out);
}

/// Appends the value on one line without any white space, keys sorted, in ASCII.
pub fn line(value: &Value<'_>, out: &mut String) {
    print::print(value, Layout::Line, out);
}

/// Appends the text without its insignificant white space, which makes it one line.
///
/// Strings, numbers, the order of keys and duplicate keys are copied as they are. The text is
/// checked as [`parse`] checks it, in the same pass, but no tree is built.
///
/// # Errors
///
/// Exactly those of [`parse`]; then nothing is appended.
pub fn minify(text: &[u8], out: &mut String) -> Result<(), JsonError> {
    minify_seen(text, &mut Nothing, out)
}
