//! Decides whether a run is as a filter says.

use std::cmp::Ordering;

use super::expr::{CompareOp, Expr, Literal};
use super::row::{Cell, Row};

impl Expr {
    /// Tells whether a run is as the filter says; `now` is the time of the query, in microseconds since
    /// 1970-01-01 UTC.
    ///
    /// Every part is true or false, never unknown: what has no answer, such as a comparison with a missing
    /// field, is false, and `not` and `!=` turn false into true.
    #[must_use]
    pub fn matches(&self, row: &impl Row, now: i64) -> bool {
        match self {
            Self::And(children) => children.iter().all(|child| child.matches(row, now)),
            Self::Or(children) => children.iter().any(|child| child.matches(row, now)),
            Self::Not(child) => !child.matches(row, now),
            Self::Compare { field, op, value } => compares(&row.cell(field), *op, value, now),
            Self::In { field, values } => {
                let cell = row.cell(field);
                values.iter().any(|value| equals(&cell, value, now))
            }
            Self::Between { field, low, high } => {
                let cell = row.cell(field);
                compares(&cell, CompareOp::GreaterOrEqual, low, now)
                    && compares(&cell, CompareOp::LessOrEqual, high, now)
            }
            Self::Contains { field, value } => contains(&row.cell(field), value, now),
            Self::Like {
                field,
                pattern,
                fold,
            } => {
                let cell = row.cell(field);
                cell.text().is_some_and(|text| pattern.matches(text, *fold))
            }
            Self::Exists(field) => !matches!(row.cell(field), Cell::Missing),
        }
    }
}

/// Compares a cell with a value.
#[must_use]
pub fn compares(cell: &Cell<'_>, op: CompareOp, value: &Literal, now: i64) -> bool {
    match op {
        CompareOp::Equal => equals(cell, value, now),
        CompareOp::NotEqual => !equals(cell, value, now),
        CompareOp::Less => order(cell, value, now).is_some_and(Ordering::is_lt),
        CompareOp::LessOrEqual => order(cell, value, now).is_some_and(Ordering::is_le),
        CompareOp::Greater => order(cell, value, now).is_some_and(Ordering::is_gt),
        CompareOp::GreaterOrEqual => order(cell, value, now).is_some_and(Ordering::is_ge),
    }
}

/// Tells whether a cell is of the value's type and equal to it. NaN equals NaN, so that it can be found.
#[must_use]
pub fn equals(cell: &Cell<'_>, value: &Literal, now: i64) -> bool {
    match (cell, value) {
        (Cell::Null, Literal::Null) => true,
        (Cell::Bool(cell), Literal::Bool(value)) => cell == value,
        _ => match (cell.number(), value.number()) {
            (Some(cell), Some(value)) if cell.is_nan() || value.is_nan() => {
                cell.is_nan() && value.is_nan()
            }
            _ => order(cell, value, now).is_some_and(Ordering::is_eq),
        },
    }
}

/// Compares a cell with a value of the same type; `None` for other types and where there is no order.
#[must_use]
pub fn order(cell: &Cell<'_>, value: &Literal, now: i64) -> Option<Ordering> {
    match (cell, value) {
        (Cell::Time(cell), Literal::Time(value)) => Some(cell.cmp(&value.micros(now))),
        (_, Literal::Text(value)) => Some(cell.text()?.cmp(value.as_bytes())),
        _ => cell.number()?.compare(value.number()?),
    }
}

/// Tells whether a text has the value as a part, or a list as an item.
#[must_use]
pub fn contains(cell: &Cell<'_>, value: &Literal, now: i64) -> bool {
    match (cell, value) {
        (Cell::Text(text), Literal::Text(part)) => text.contains(part.as_str()),
        // The part has no lone surrogates, so that it lies between two of the text's, if it is there.
        (Cell::Wtf8(bytes), Literal::Text(part)) => bytes
            .utf8_chunks()
            .any(|chunk| chunk.valid().contains(part.as_str())),
        (Cell::List(items), _) => items.any(|item| equals(item, value, now)),
        _ => false,
    }
}
