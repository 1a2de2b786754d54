//! JSON text as Python's `json` module reads and prints it. The only place that parses or prints JSON.
//!
//! Beyond RFC 8259, as in Python: the literals `NaN`, `Infinity` and `-Infinity`, integers of any size, lone
//! surrogates as escapes; of equal keys the last one wins. Nesting is limited to [`MAX_DEPTH`].

mod print;
mod read;
mod value;

pub use print::{float_text, line, pretty};
pub use read::{minify, parse};
pub use value::{Object, Text, Value};

/// How deep lists and objects may be nested.
///
/// Python's own limit is its recursion limit, 1,000 by default; what it wrote is within this.
pub const MAX_DEPTH: usize = 1000;

/// Why a text is not JSON, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JsonError {
    /// The byte offset of the problem.
    pub offset: u64,
    /// What the problem is.
    pub reason: Reason,
}

/// What is wrong with a text that is not JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The text ends too early.
    #[error("the text ends before the value does")]
    End,
    /// A value should begin here.
    #[error("a value was expected")]
    Value,
    /// A key should begin here.
    #[error("a key in double quotes was expected")]
    Key,
    /// A colon should be here.
    #[error("a colon was expected")]
    Colon,
    /// A comma or the end of the list or object should be here.
    #[error("a comma or the end of the list or object was expected")]
    Comma,
    /// A number is spelled wrong.
    #[error("the number is spelled wrong")]
    Number,
    /// A backslash is followed by something that is no escape.
    #[error("the backslash begins no known escape")]
    Escape,
    /// A control character stands in a string.
    #[error("a control character in a string must be escaped")]
    Control,
    /// Something follows the value.
    #[error("something follows the value")]
    Trailing,
    /// Lists and objects are nested too deep.
    #[error("lists and objects are nested more than {MAX_DEPTH} deep")]
    Depth,
    /// The text is not UTF-8.
    #[error("the text is not UTF-8")]
    Encoding,
}

#[cfg(test)]
mod tests;
