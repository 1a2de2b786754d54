//! Why a text is no query: the reason as data, and where in the text it was found.

use std::fmt;

use super::{
    MAX_COLUMNS, MAX_DEPTH, MAX_LITERALS, MAX_PATTERN, MAX_SORT_KEYS, MAX_TERMS, MAX_TEXT,
};
use crate::error::Error;
use crate::json::{self, MAX_INT_DIGITS};
use crate::time::TimeError;

/// How many characters of the text a message repeats.
const SHOWN: usize = 40;

/// Which text of a query is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// The filter.
    Filter,
    /// The sort keys.
    Sort,
    /// The columns.
    Columns,
    /// The cursor.
    Cursor,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Filter => "filter",
            Self::Sort => "sort",
            Self::Columns => "columns",
            Self::Cursor => "cursor",
        })
    }
}

/// Tells why and where a text is not a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryError {
    /// Which of the query's texts it is.
    pub part: Part,
    /// The offset of the problem in that text, in bytes.
    pub position: u32,
    /// The line of the problem, counted from 1.
    pub line: u32,
    /// The column of the problem in its line, in characters, counted from 1.
    pub column: u32,
    /// What is wrong there.
    pub reason: Reason,
}

impl std::error::Error for QueryError {}

impl fmt::Display for QueryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            part,
            position,
            line,
            column,
            reason,
        } = self;
        match part {
            // Nobody reads a cursor, so that a place in it says nothing.
            Part::Cursor => write!(f, "cursor: {reason}"),
            _ if *line == 1 => write!(f, "{part}, byte {position}: {reason}"),
            _ => write!(
                f,
                "{part}, byte {position} (line {line}, column {column}): {reason}"
            ),
        }
    }
}

impl From<QueryError> for Error {
    fn from(error: QueryError) -> Self {
        Self::InvalidQuery {
            position: error.position,
            message: error.to_string(),
        }
    }
}

/// What can be wrong with a query.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The text is longer than [`MAX_TEXT`].
    #[error("the text has {0} bytes; at most {MAX_TEXT} are allowed")]
    TooLong(usize),
    /// The filter has more than [`MAX_TERMS`] comparisons.
    #[error("more than {MAX_TERMS} comparisons")]
    TooManyTerms,
    /// The filter has more than [`MAX_LITERALS`] values.
    #[error("more than {MAX_LITERALS} values")]
    TooManyLiterals,
    /// Parentheses and `not` nest deeper than [`MAX_DEPTH`].
    #[error("parentheses and `not` nested deeper than {MAX_DEPTH}")]
    TooDeep,
    /// There are more than [`MAX_SORT_KEYS`] sort keys.
    #[error("more than {MAX_SORT_KEYS} sort keys")]
    TooManySortKeys,
    /// There are more than [`MAX_COLUMNS`] columns.
    #[error("more than {MAX_COLUMNS} columns")]
    TooManyColumns,
    /// Something else stands where the grammar wants another thing.
    #[error("found {found}, expected {expected}")]
    Unexpected {
        /// What stands there, shortened.
        found: String,
        /// What could stand there.
        expected: &'static str,
    },
    /// There is no field of this name.
    #[error(
        "there is no field {0}; there are run_id, experiment_id, status, started_at, finished_at, duration_ms, \
         tags, notes, context_fingerprint, params_fingerprint, seed_fingerprint, error.type, metrics.NAME, \
         params.PATH, derived.NAME and provenance.NAME; a text is quoted"
    )]
    UnknownField(String),
    /// The field has no parts, or not such parts.
    #[error("{0} has no parts to be named after it")]
    NoParts(&'static str),
    /// The field needs a name after it.
    #[error("{0} needs a name after it, such as {0}.NAME")]
    NameMissing(&'static str),
    /// The names of metrics are flat, so that no index can follow.
    #[error("{0} holds single values under names; an index cannot follow")]
    NoIndex(&'static str),
    /// The field holds several values and rows cannot be sorted by it.
    #[error("{0} holds several values; it cannot be sorted by")]
    NotSortable(&'static str),
    /// A quoted text has no end.
    #[error("the quote that opens here is never closed")]
    Unclosed,
    /// A backslash in a text is not followed by a known escape.
    #[error(
        r#"a backslash in a text is followed by one of \ " ' / b f n r t, or by u and four hexadecimal digits that make a character; a backslash itself is written \\"#
    )]
    BadEscape,
    /// Characters that begin like a number are none.
    #[error("{0} is not a number")]
    BadNumber(String),
    /// An integer has more digits than a record can hold.
    #[error("the integer has more than {MAX_INT_DIGITS} digits")]
    IntegerTooLong,
    /// An index into a list does not fit 32 bits.
    #[error("{0} is not an index into a list")]
    BadIndex(String),
    /// A text or literal is not a timestamp.
    #[error("{text} is not a timestamp: {reason}")]
    BadTime {
        /// The text, shortened.
        text: String,
        /// Why.
        reason: TimeError,
    },
    /// A duration is too large.
    #[error("the duration is longer than ten thousand years")]
    BadDuration,
    /// A value of this type is never in this field, or this comparison not made for it.
    #[error("{field} {problem}, not {found}")]
    Mismatch {
        /// The field.
        field: String,
        /// What it can be compared with.
        problem: &'static str,
        /// What was found.
        found: &'static str,
    },
    /// The field cannot be used with this comparison.
    #[error("{field} cannot be used with `{operator}`; {hint}")]
    NotApplicable {
        /// The field.
        field: String,
        /// The comparison.
        operator: &'static str,
        /// The way out.
        hint: &'static str,
    },
    /// There is no such status.
    #[error(
        "{0} is not a status; there are \"success\", \"failed\", \"cancelled\" and \"running\""
    )]
    UnknownStatus(String),
    /// A value has no order, so that nothing is less or greater.
    #[error("{0} has no order; compare with = or !=")]
    NoOrder(&'static str),
    /// The two ends of a range are of different types.
    #[error("the two ends of `between` should be two numbers, two texts or two times")]
    MixedRange,
    /// The pattern ends with a single backslash.
    #[error(
        "the pattern ends with a backslash that escapes nothing; \\\\ stands for a backslash in a pattern, and \
         \\\\\\\\ for that in a quoted text"
    )]
    BadPattern,
    /// The pattern is longer than [`MAX_PATTERN`].
    #[error("the pattern has {0} bytes; at most {MAX_PATTERN} are allowed")]
    PatternTooLong(usize),
    /// The cursor is not one, or was changed.
    #[error("this is no cursor that a query returned, or it was changed on its way")]
    CursorDamaged,
    /// The cursor was made by another version of the store.
    #[error(
        "the cursor has format {0}, which this version does not read; start again at the first page"
    )]
    CursorVersion(u8),
    /// The cursor was made by another query.
    #[error(
        "the cursor belongs to a query with another filter or sort; pass both unchanged, or start again at the \
         first page"
    )]
    CursorOfAnotherQuery,
}

/// A reason and its offset, before the text around it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) at: usize,
    pub(super) reason: Reason,
}

impl Fault {
    pub(super) fn new(at: usize, reason: Reason) -> Self {
        Self { at, reason }
    }

    /// Finds the line and the column of the fault.
    pub(super) fn within(self, part: Part, text: &str) -> QueryError {
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let before = text.get(..self.at).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |end| end + 1);
        let in_line = before.get(line_start..).unwrap_or_default();
        QueryError {
            part,
            position: number(self.at),
            line: number(before.matches('\n').count() + 1),
            column: number(in_line.chars().count() + 1),
            reason: self.reason,
        }
    }
}

/// Quotes a piece of the text for a message, shortened.
pub(super) fn shown(text: &str) -> String {
    let mut piece: String = text.chars().take(SHOWN).collect();
    if piece.len() < text.len() {
        piece.push('…');
    }
    let mut out = String::new();
    // As JSON, so that no control character reaches a terminal.
    json::line(&json::Value::from(piece), &mut out);
    out
}
