//! The order of a query's rows: total, and the same on every backend.

use std::cmp::Ordering;
use std::fmt;

use super::field::Field;
use super::number::Number;
use super::row::{Cell, List, Row, lossy};

/// How many characters of a text count in a sort; what is equal up to there is a tie.
///
/// It bounds cursors and the keys that an index keeps. Texts of [`Field::RunId`] and
/// [`Field::ExperimentId`] count whole.
pub const SORTED_CHARACTERS: usize = 256;

/// Which way a sort key goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The smallest first.
    Ascending,
    /// The largest first.
    Descending,
}

/// One sort key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SortKey {
    /// The field.
    pub field: Field,
    /// Which way it goes.
    pub direction: Direction,
}

impl fmt::Display for SortKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.direction {
            Direction::Ascending => write!(f, "{} asc", self.field),
            Direction::Descending => write!(f, "{} desc", self.field),
        }
    }
}

/// The sort keys of a query, the most important one first.
///
/// Rows that are equal in all of them follow the newest start first, those without one last, then the
/// experiment id and the run id by code point; that is also the order without any key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Sort(pub Vec<SortKey>);

impl fmt::Display for Sort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, key) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            key.fmt(f)?;
        }
        Ok(())
    }
}

/// What a row is sorted by in one key.
///
/// The variants are in the order of their groups. The direction of a key turns the order within a group and
/// never that of the groups: numbers come first and missing fields last, either way.
#[derive(Clone, Debug)]
pub enum SortValue {
    /// An integer of at most 64 bits; in one group with all numbers but NaN.
    Int(i64),
    /// An integer beyond 64 bits in decimal.
    Big(String),
    /// A float that is not NaN.
    Float(f64),
    /// A point in time; no field holds times and numbers.
    Time(i64),
    /// NaN.
    Nan,
    /// A text in WTF-8, cut to [`SORTED_CHARACTERS`].
    Text(Vec<u8>),
    /// A truth value: false is less than true.
    Bool(bool),
    /// A null.
    Null,
    /// A list; all are equal.
    List,
    /// An object; all are equal.
    Object,
    /// The field is missing.
    Missing,
}

impl SortValue {
    /// Makes the sort value of a cell; `whole` keeps a text from being cut.
    #[must_use]
    pub fn of(cell: &Cell<'_>, whole: bool) -> Self {
        match cell {
            Cell::Missing => Self::Missing,
            Cell::Null => Self::Null,
            Cell::Bool(value) => Self::Bool(*value),
            Cell::Int(value) => Self::Int(*value),
            Cell::Big(digits) => Self::Big((*digits).to_owned()),
            Cell::Float(value) if value.is_nan() => Self::Nan,
            Cell::Float(value) => Self::Float(*value),
            Cell::Text(text) if whole => Self::Text(text.as_bytes().to_vec()),
            Cell::Text(text) => Self::Text(start(text.as_bytes()).to_vec()),
            Cell::Wtf8(text) => Self::Text(start(text).to_vec()),
            Cell::Time(micros) => Self::Time(*micros),
            Cell::List(_) => Self::List,
            Cell::Object => Self::Object,
        }
    }

    /// Returns the number of the value's group.
    #[must_use]
    pub fn group(&self) -> u8 {
        match self {
            Self::Int(_) | Self::Big(_) | Self::Float(_) => 0,
            Self::Time(_) => 1,
            Self::Nan => 2,
            Self::Text(_) => 3,
            Self::Bool(_) => 4,
            Self::Null => 5,
            Self::List => 6,
            Self::Object => 7,
            Self::Missing => 8,
        }
    }

    /// Returns a cell with this sort value.
    pub(crate) fn cell(&self) -> Cell<'_> {
        match self {
            Self::Missing => Cell::Missing,
            Self::Null => Cell::Null,
            Self::Bool(value) => Cell::Bool(*value),
            Self::Int(value) => Cell::Int(*value),
            Self::Big(digits) => Cell::Big(digits),
            Self::Float(value) => Cell::Float(*value),
            Self::Nan => Cell::Float(f64::NAN),
            Self::Text(text) => std::str::from_utf8(text).map_or(Cell::Wtf8(text), Cell::Text),
            Self::Time(micros) => Cell::Time(*micros),
            Self::List => Cell::List(List::Cells(Vec::new())),
            Self::Object => Cell::Object,
        }
    }

    fn number(&self) -> Option<Number<'_>> {
        match self {
            Self::Int(value) => Some(Number::Int(*value)),
            Self::Big(digits) => Some(Number::Big(digits)),
            Self::Float(value) => Some(Number::Float(*value)),
            _ => None,
        }
    }

    /// Compares two values for a key of this direction.
    #[must_use]
    pub fn compare(&self, other: &Self, direction: Direction) -> Ordering {
        let within = match (self, other) {
            (Self::Text(left), Self::Text(right)) => left.cmp(right),
            (Self::Time(left), Self::Time(right)) => left.cmp(right),
            (Self::Bool(left), Self::Bool(right)) => left.cmp(right),
            _ => match (self.number(), other.number()) {
                // Neither is NaN, so that there is an answer.
                (Some(left), Some(right)) => left.compare(right).unwrap_or(Ordering::Equal),
                _ => return self.group().cmp(&other.group()),
            },
        };
        match direction {
            Direction::Ascending => within,
            Direction::Descending => within.reverse(),
        }
    }
}

/// Compares two cells as their sort values compare, without making these; `whole` keeps texts from being cut.
#[must_use]
pub fn compare_cells(
    left: &Cell<'_>,
    right: &Cell<'_>,
    direction: Direction,
    whole: bool,
) -> Ordering {
    let within = match (left, right) {
        (Cell::Time(left), Cell::Time(right)) => left.cmp(right),
        (Cell::Bool(left), Cell::Bool(right)) => left.cmp(right),
        _ => match (sorted_text(left, whole), sorted_text(right, whole)) {
            (Some(left), Some(right)) => left.cmp(right),
            _ => match (scaled(left), scaled(right)) {
                // Neither is NaN, so that there is an answer.
                (Some(left), Some(right)) => left.compare(right).unwrap_or(Ordering::Equal),
                _ => return group_of(left).cmp(&group_of(right)),
            },
        },
    };
    match direction {
        Direction::Ascending => within,
        Direction::Descending => within.reverse(),
    }
}

fn sorted_text<'a>(cell: &Cell<'a>, whole: bool) -> Option<&'a [u8]> {
    match cell {
        Cell::Text(text) if whole => Some(text.as_bytes()),
        cell => cell.text().map(start),
    }
}

/// Returns a number that has a place on the scale.
fn scaled<'a>(cell: &Cell<'a>) -> Option<Number<'a>> {
    cell.number().filter(|number| !number.is_nan())
}

fn group_of(cell: &Cell<'_>) -> u8 {
    SortValue::group(&match cell {
        Cell::Missing => SortValue::Missing,
        Cell::Null => SortValue::Null,
        Cell::Bool(value) => SortValue::Bool(*value),
        Cell::Float(value) if value.is_nan() => SortValue::Nan,
        Cell::Int(_) | Cell::Big(_) | Cell::Float(_) => SortValue::Int(0),
        Cell::Text(_) | Cell::Wtf8(_) => SortValue::Text(Vec::new()),
        Cell::Time(micros) => SortValue::Time(*micros),
        Cell::List(_) => SortValue::List,
        Cell::Object => SortValue::Object,
    })
}

/// Returns the part of a text in WTF-8 that counts in a sort.
fn start(text: &[u8]) -> &[u8] {
    if text.len() <= SORTED_CHARACTERS {
        return text;
    }
    // A character starts with each byte that does not continue one.
    let end = text
        .iter()
        .enumerate()
        .filter(|(_, byte)| !matches!(byte, 0x80..=0xBF))
        .nth(SORTED_CHARACTERS)
        .map_or(text.len(), |(index, _)| index);
    text.get(..end).unwrap_or(text)
}

/// Where a row stands in the order of a query.
#[derive(Clone, Debug)]
pub struct Position {
    /// The values of the sort keys.
    pub keys: Vec<SortValue>,
    /// When the run started, in microseconds since 1970-01-01 UTC.
    pub started_at: Option<i64>,
    /// The experiment id.
    pub experiment_id: String,
    /// The run id.
    pub run_id: String,
}

impl Sort {
    /// Returns where a row stands.
    #[must_use]
    pub fn position(&self, row: &impl Row) -> Position {
        let value = |key: &SortKey| {
            let whole = matches!(key.field, Field::RunId | Field::ExperimentId);
            SortValue::of(&row.cell(&key.field), whole)
        };
        Position {
            keys: self.0.iter().map(value).collect(),
            started_at: match row.cell(&Field::StartedAt) {
                Cell::Time(micros) => Some(micros),
                _ => None,
            },
            experiment_id: lossy(&row.cell(&Field::ExperimentId)),
            run_id: lossy(&row.cell(&Field::RunId)),
        }
    }

    /// Compares two rows; only those of one run of one experiment are equal.
    #[must_use]
    pub fn compare(&self, left: &Position, right: &Position) -> Ordering {
        let mut pairs = left.keys.iter().zip(&right.keys);
        let by_keys = self.0.iter().find_map(|key| {
            let (left, right) = pairs.next()?;
            Some(left.compare(right, key.direction)).filter(|order| order.is_ne())
        });
        by_keys
            .unwrap_or(Ordering::Equal)
            // `None` is less than every time: reversed, the newest comes first and none last.
            .then_with(|| right.started_at.cmp(&left.started_at))
            .then_with(|| left.experiment_id.cmp(&right.experiment_id))
            .then_with(|| left.run_id.cmp(&right.run_id))
    }
}
