//! The tree of a filter, and its text.

use std::fmt;

use super::field::Field;
use super::like::Pattern;
use super::number::Number;
use crate::json::float_text;
use crate::time::isoformat;

/// Microseconds of a second.
const SECOND: i64 = 1_000_000;

/// The units of durations, in seconds, the largest first.
pub(super) const UNITS: [(char, i64); 5] = [
    ('w', 604_800),
    ('d', 86_400),
    ('h', 3600),
    ('m', 60),
    ('s', 1),
];

/// A comparison of a field with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CompareOp {
    /// `=`
    Equal,
    /// `!=`: true exactly where `=` is false.
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

impl CompareOp {
    /// Returns the text of the operator.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        }
    }

    /// Tells whether the operator asks for an order and not only for equality.
    #[must_use]
    pub fn is_order(self) -> bool {
        !matches!(self, Self::Equal | Self::NotEqual)
    }
}

/// A point in time as a query names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Moment {
    /// A timestamp: microseconds since 1970-01-01 UTC. Only years 1 to 9999 can be printed.
    At(i64),
    /// The time of the query and some seconds, usually negative.
    Now(i64),
}

impl Moment {
    /// Returns the point in time in microseconds since 1970-01-01 UTC, given that of the query.
    #[must_use]
    pub fn micros(self, now: i64) -> i64 {
        match self {
            Self::At(micros) => micros,
            Self::Now(seconds) => now.saturating_add(seconds.saturating_mul(SECOND)),
        }
    }
}

/// A value that a query holds.
///
/// Two literals are equal if they print alike: `1` differs from `1.0`, `0.0` from `-0.0`, and NaN is itself.
#[derive(Clone, Debug)]
pub enum Literal {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// An integer of at most 64 bits.
    Int(i64),
    /// An integer beyond 64 bits in decimal: a minus sign or none, no leading zero.
    Big(String),
    /// A float; `nan`, `inf` and `-inf` included.
    Float(f64),
    /// A text.
    Text(String),
    /// A point in time.
    Time(Moment),
}

impl Literal {
    /// Returns the number, or `None` if the literal is none.
    #[must_use]
    pub fn number(&self) -> Option<Number<'_>> {
        match self {
            Self::Int(value) => Some(Number::Int(*value)),
            Self::Big(digits) => Some(Number::Big(digits)),
            Self::Float(value) => Some(Number::Float(*value)),
            Self::Null | Self::Bool(_) | Self::Text(_) | Self::Time(_) => None,
        }
    }

    /// Names the kind of the literal, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a truth value",
            Self::Float(value) if value.is_nan() => "nan",
            Self::Int(_) | Self::Big(_) | Self::Float(_) => "a number",
            Self::Text(_) => "a text",
            Self::Time(_) => "a time",
        }
    }
}

impl PartialEq for Literal {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Bool(left), Self::Bool(right)) => left == right,
            (Self::Int(left), Self::Int(right)) => left == right,
            (Self::Big(left), Self::Big(right)) | (Self::Text(left), Self::Text(right)) => {
                left == right
            }
            (Self::Float(left), Self::Float(right)) => {
                left.to_bits() == right.to_bits() || (left.is_nan() && right.is_nan())
            }
            (Self::Time(left), Self::Time(right)) => left == right,
            _ => false,
        }
    }
}

impl Eq for Literal {}

/// A filter: what a run must be like.
///
/// The parser keeps the tree as it was written, groups in parentheses included; its depth is bounded by
/// [`MAX_DEPTH`](super::MAX_DEPTH). Evaluating, printing and dropping a tree recurse, so that who builds a
/// tree by hand answers for its depth. [`fmt::Display`] prints a text that parses to the same tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expr {
    /// All of at least two.
    And(Vec<Self>),
    /// Any of at least two.
    Or(Vec<Self>),
    /// The opposite.
    Not(Box<Self>),
    /// `FIELD = VALUE` and the like.
    Compare {
        /// The field.
        field: Field,
        /// The comparison.
        op: CompareOp,
        /// The value.
        value: Literal,
    },
    /// `FIELD in (VALUE, …)`: equal to one of at least one.
    In {
        /// The field.
        field: Field,
        /// The values.
        values: Vec<Literal>,
    },
    /// `FIELD between LOW and HIGH`, both included.
    Between {
        /// The field.
        field: Field,
        /// The lower end.
        low: Literal,
        /// The upper end.
        high: Literal,
    },
    /// `FIELD contains VALUE`: a text has this part, or a list this item.
    Contains {
        /// The field.
        field: Field,
        /// The part or the item.
        value: Literal,
    },
    /// `FIELD like PATTERN`, or `ilike` with `fold`.
    Like {
        /// The field.
        field: Field,
        /// The pattern.
        pattern: Pattern,
        /// Whether `A` to `Z` equal `a` to `z`.
        fold: bool,
    },
    /// `FIELD exists`: it is not missing. Null is not missing.
    Exists(Field),
}

impl Expr {
    /// Shows every field that the filter names, in the order of the text.
    pub fn for_each_field<'e>(&'e self, show: &mut impl FnMut(&'e Field)) {
        match self {
            Self::And(children) | Self::Or(children) => {
                for child in children {
                    child.for_each_field(show);
                }
            }
            Self::Not(child) => child.for_each_field(show),
            Self::Compare { field, .. }
            | Self::In { field, .. }
            | Self::Between { field, .. }
            | Self::Contains { field, .. }
            | Self::Like { field, .. }
            | Self::Exists(field) => show(field),
        }
    }
}

/// Writes a text in quotes.
pub(super) fn write_text(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    use fmt::Write as _;
    f.write_char('"')?;
    for character in text.chars() {
        match character {
            '"' | '\\' => {
                f.write_char('\\')?;
                f.write_char(character)?;
            }
            '\n' => f.write_str("\\n")?,
            '\t' => f.write_str("\\t")?,
            '\r' => f.write_str("\\r")?,
            // Control characters are below U+0100, so that four digits are enough.
            control if control.is_control() => write!(f, "\\u{:04x}", u32::from(control))?,
            plain => f.write_char(plain)?,
        }
    }
    f.write_char('"')
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::At(micros) => match isoformat(micros, Some(0)) {
                Ok(text) => f.write_str(&text),
                // The parser makes no such literal; the nearest printable one stands for it.
                Err(_) if micros < 0 => f.write_str("0001-01-01T00:00:00+00:00"),
                Err(_) => f.write_str("9999-12-31T23:59:59.999999+00:00"),
            },
            Self::Now(0) => f.write_str("now"),
            Self::Now(seconds) => {
                let sign = if seconds < 0 { '-' } else { '+' };
                let unit = UNITS.into_iter().find(|(_, unit)| seconds % unit == 0);
                let (letter, unit) = unit.unwrap_or(('s', 1));
                write!(f, "now {sign} {}{letter}", (seconds / unit).unsigned_abs())
            }
        }
    }
}

impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Int(value) => write!(f, "{value}"),
            Self::Big(digits) => f.write_str(digits),
            Self::Float(value) if value.is_nan() => f.write_str("nan"),
            Self::Float(value) if value.is_infinite() => {
                f.write_str(if *value > 0.0 { "inf" } else { "-inf" })
            }
            Self::Float(value) => f.write_str(&float_text(*value)),
            Self::Text(text) => write_text(f, text),
            Self::Time(moment) => moment.fmt(f),
        }
    }
}

/// Writes children with a word between them; those that bind as loosely or looser in parentheses.
fn write_list(f: &mut fmt::Formatter<'_>, word: &str, children: &[Expr], and: bool) -> fmt::Result {
    for (index, child) in children.iter().enumerate() {
        if index > 0 {
            write!(f, " {word} ")?;
        }
        match child {
            Expr::Or(_) => write!(f, "({child})")?,
            Expr::And(_) if and => write!(f, "({child})")?,
            _ => write!(f, "{child}")?,
        }
    }
    Ok(())
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::And(children) => write_list(f, "and", children, true),
            Self::Or(children) => write_list(f, "or", children, false),
            Self::Not(child) => match **child {
                Self::And(_) | Self::Or(_) => write!(f, "not ({child})"),
                _ => write!(f, "not {child}"),
            },
            Self::Compare { field, op, value } => write!(f, "{field} {} {value}", op.as_str()),
            Self::In { field, values } => {
                write!(f, "{field} in (")?;
                for (index, value) in values.iter().enumerate() {
                    if index > 0 {
                        f.write_str(", ")?;
                    }
                    value.fmt(f)?;
                }
                f.write_str(")")
            }
            Self::Between { field, low, high } => write!(f, "{field} between {low} and {high}"),
            Self::Contains { field, value } => write!(f, "{field} contains {value}"),
            Self::Like {
                field,
                pattern,
                fold,
            } => {
                let word = if *fold { "ilike" } else { "like" };
                write!(f, "{field} {word} ")?;
                write_text(f, pattern.source())
            }
            Self::Exists(field) => write!(f, "{field} exists"),
        }
    }
}
