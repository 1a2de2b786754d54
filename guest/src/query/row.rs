//! What a query sees of a run.

use std::borrow::Cow;

use super::field::{Column, Field, Step, provenance_text};
use super::number::Number;
use crate::json::{Object, Part, Shape, Text, Value};
use crate::time::Timestamp;

/// The value of one field of one run, as queries see it.
#[derive(Clone, Debug)]
pub enum Cell<'a> {
    /// The run does not have the field.
    Missing,
    /// A JSON null.
    Null,
    /// A truth value.
    Bool(bool),
    /// An integer of at most 64 bits.
    Int(i64),
    /// An integer beyond 64 bits in decimal: a minus sign or none, no leading zero.
    Big(&'a str),
    /// A float; NaN and the infinities included.
    Float(f64),
    /// A text.
    Text(&'a str),
    /// A text with lone surrogates, in WTF-8.
    Wtf8(&'a [u8]),
    /// A point in time, in microseconds since 1970-01-01 UTC.
    Time(i64),
    /// A list.
    List(List<'a>),
    /// An object.
    Object,
}

/// The items of a list.
#[derive(Clone, Debug)]
pub enum List<'a> {
    /// As they were read.
    Values(&'a [Value<'a>]),
    /// As cells; lists and objects among them need no content, since nothing compares with them.
    Cells(Vec<Cell<'a>>),
}

impl<'a> List<'a> {
    /// Tells whether an item is as the function says.
    pub fn any(&self, mut wanted: impl FnMut(&Cell<'a>) -> bool) -> bool {
        match self {
            Self::Values(values) => values.iter().any(|value| wanted(&Cell::of(value))),
            Self::Cells(cells) => cells.iter().any(wanted),
        }
    }
}

impl<'a> Cell<'a> {
    /// Makes the cell of a JSON value.
    #[must_use]
    pub fn of(value: &'a Value<'a>) -> Self {
        match value {
            Value::Array(items) => Self::List(List::Values(items)),
            value => Self::of_shape(Part::Tree(value).shape()),
        }
    }

    /// Makes the cell of a value that is no list, and of a list as if nothing were in it.
    pub(crate) fn of_shape(shape: Shape<'a>) -> Self {
        match shape {
            Shape::Null => Self::Null,
            Shape::Bool(value) => Self::Bool(value),
            Shape::Int(value) => Self::Int(value),
            Shape::Big(digits) => Self::Big(digits),
            Shape::Float(value) => Self::Float(value),
            Shape::Text(text) => Self::Text(text),
            Shape::Wtf8(bytes) => Self::Wtf8(bytes),
            Shape::Array => Self::List(List::Cells(Vec::new())),
            Shape::Object => Self::Object,
        }
    }

    /// Returns the number, or `None` if the cell holds none.
    #[must_use]
    pub fn number(&self) -> Option<Number<'a>> {
        match *self {
            Self::Int(value) => Some(Number::Int(value)),
            Self::Big(digits) => Some(Number::Big(digits)),
            Self::Float(value) => Some(Number::Float(value)),
            _ => None,
        }
    }

    /// Returns the bytes of the text in WTF-8, or `None` if the cell holds none.
    ///
    /// Bytes in WTF-8 compare as the code points do.
    #[must_use]
    pub fn text(&self) -> Option<&'a [u8]> {
        match *self {
            Self::Text(text) => Some(text.as_bytes()),
            Self::Wtf8(bytes) => Some(bytes),
            _ => None,
        }
    }
}

/// A run as filters and sort keys see it.
pub trait Row {
    /// Returns the value of a field.
    ///
    /// What the format gives a default is never missing: the ids, the fingerprints, `status` and
    /// `duration_ms`. In `notes`, the times, `error` and the five named parts of the provenance a null is
    /// missing; so are times that are empty, and `tags` without any.
    fn cell(&self, field: &Field) -> Cell<'_>;
}

/// A run as projections see it.
pub trait Columns {
    /// Returns the value of a column as the record holds it, or `None` if it is missing.
    fn value(&self, column: &Column) -> Option<Value<'_>>;
}

/// A run whose record and derived metrics have been read.
///
/// The record is one that [`codec::run_record`](crate::codec::run_record) loads. Of any other, a field of a
/// wrong type reads as missing or as what it holds; nothing fails.
#[derive(Debug)]
pub struct RecordRow<'r, 'v> {
    record: &'r Object<'v>,
    derived: Option<&'r Object<'v>>,
    started_at: Option<i64>,
    finished_at: Option<i64>,
}

impl<'r, 'v> RecordRow<'r, 'v> {
    /// Makes the row of a record and of the derived metrics, if there are any.
    #[must_use]
    pub fn new(record: &'r Object<'v>, derived: Option<&'r Object<'v>>) -> Self {
        let time = |name| time_of(record.get(name).and_then(Value::as_str));
        Self {
            record,
            derived,
            started_at: time("started_at"),
            finished_at: time("finished_at"),
        }
    }

    /// Returns the record.
    pub(crate) fn record(&self) -> &'r Object<'v> {
        self.record
    }

    /// Returns the derived metrics.
    pub(crate) fn derived(&self) -> Option<&'r Object<'v>> {
        self.derived
    }

    /// Returns when the run started and finished, in microseconds since 1970-01-01 UTC.
    pub(crate) fn times(&self) -> [Option<i64>; 2] {
        [self.started_at, self.finished_at]
    }

    fn object(&self, name: &str) -> Option<&Object<'v>> {
        self.record.get(name)?.as_object()
    }

    fn found(&self, field: &Field) -> Option<&Value<'v>> {
        match field {
            Field::RunId => self.record.get("run_id"),
            Field::ExperimentId => self.record.get("experiment_id"),
            Field::Status => self.record.get("status"),
            Field::ContextFingerprint => self.record.get("context_fingerprint"),
            Field::ParamsFingerprint => self.record.get("params_fingerprint"),
            Field::SeedFingerprint => self.record.get("seed_fingerprint"),
            Field::StartedAt => self.record.get("started_at"),
            Field::FinishedAt => self.record.get("finished_at"),
            Field::DurationMs => self.record.get("duration_ms"),
            Field::Tags => self.record.get("tags"),
            Field::Notes => self.record.get("notes"),
            Field::Error(path) => follow(self.record.get("error")?, path),
            Field::Metric(name) => self.object("metrics")?.get(name),
            Field::Derived(name) => self.derived?.get(name),
            Field::Param(path) => follow(self.record.get("params_resolved")?, path),
            Field::Provenance(path) => follow(self.record.get("provenance")?, path),
        }
    }
}

/// Follows a path into a value.
fn follow<'r, 'v>(value: &'r Value<'v>, path: &[Step]) -> Option<&'r Value<'v>> {
    path.iter().try_fold(value, |value, step| match step {
        Step::Key(key) => value.as_object()?.get(key),
        Step::Index(index) => value.as_array()?.get(usize::try_from(*index).ok()?),
    })
}

/// Tells whether null is the same as missing in this field.
pub(crate) fn null_is_missing(field: &Field) -> bool {
    match field {
        Field::Notes => true,
        Field::Error(path) => path.is_empty(),
        Field::Provenance(path) => provenance_text(path).is_some(),
        _ => false,
    }
}

impl Row for RecordRow<'_, '_> {
    fn cell(&self, field: &Field) -> Cell<'_> {
        match field {
            Field::StartedAt => self.started_at.map_or(Cell::Missing, Cell::Time),
            Field::FinishedAt => self.finished_at.map_or(Cell::Missing, Cell::Time),
            Field::Tags => match self.found(field).and_then(Value::as_array) {
                None | Some([]) => Cell::Missing,
                Some(tags) => Cell::List(List::Values(tags)),
            },
            _ => cell_of(field, self.found(field).map(Cell::of)),
        }
    }
}

/// Makes the cell of a field, neither a time nor the tags, out of what a record has there.
pub(crate) fn cell_of<'a>(field: &Field, found: Option<Cell<'a>>) -> Cell<'a> {
    match (field, found) {
        (
            Field::RunId
            | Field::ExperimentId
            | Field::ContextFingerprint
            | Field::ParamsFingerprint
            | Field::SeedFingerprint,
            None | Some(Cell::Null),
        ) => Cell::Text(""),
        (Field::Status, None | Some(Cell::Null)) => Cell::Text("failed"),
        (Field::DurationMs, None | Some(Cell::Null)) => Cell::Int(0),
        (_, None) => Cell::Missing,
        (_, Some(Cell::Null)) if null_is_missing(field) => Cell::Missing,
        (_, Some(cell)) => cell,
    }
}

/// Makes the cell of a time out of its text.
pub(crate) fn time_of(text: Option<&str>) -> Option<i64> {
    Some(Timestamp::parse(text?).ok()?.micros_utc)
}

impl Columns for RecordRow<'_, '_> {
    fn value(&self, column: &Column) -> Option<Value<'_>> {
        let whole = |name: &str| Some(self.record.get(name)?.clone());
        let field = match column {
            Column::Metrics => return whole("metrics"),
            Column::Params => return whole("params_resolved"),
            Column::Provenance => return whole("provenance"),
            Column::Derived => return Some(Value::Object(self.derived?.clone())),
            Column::Field(field) => field,
        };
        match (self.cell(field), self.found(field)) {
            (Cell::Missing, _) => None,
            (_, Some(Value::Null) | None) => Some(default_value(field)),
            (_, Some(value)) => Some(value.clone()),
        }
    }
}

/// Returns what a field has that is not missing and that the record does not name.
fn default_value(field: &Field) -> Value<'static> {
    match field {
        Field::Status => Value::String("failed".into()),
        Field::DurationMs => Value::Int(0),
        Field::RunId
        | Field::ExperimentId
        | Field::ContextFingerprint
        | Field::ParamsFingerprint
        | Field::SeedFingerprint => Value::String(Text::from("")),
        // An open field is not missing only if it is there, and then it is null.
        _ => Value::Null,
    }
}

impl<R: Row + ?Sized> Row for &R {
    fn cell(&self, field: &Field) -> Cell<'_> {
        (**self).cell(field)
    }
}

/// Returns a text as UTF-8; only ids of damaged records are not.
pub(super) fn lossy(cell: &Cell<'_>) -> String {
    cell.text()
        .map_or(Cow::Borrowed(""), String::from_utf8_lossy)
        .into_owned()
}
