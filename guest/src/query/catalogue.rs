//! Which fields some runs have, and what is in them.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use super::field::{Field, Step};
use super::row::{Cell, null_is_missing};
use crate::codec;
use crate::json::{Object, Value};
use crate::time::Timestamp;

/// The most fields that are told apart.
pub const MAX_FIELDS: usize = 10_000;

/// The most values of a field that are listed.
pub const MAX_VALUES: usize = 50;

/// The longest value that is listed, in bytes of JSON text.
const MAX_VALUE: usize = 256;

/// The deepest object whose parts are fields of their own.
const MAX_DEPTH: usize = 32;

/// What some runs have in one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldSummary {
    /// The field, as a query names it.
    pub field: String,
    /// The types of its values, sorted: `bool`, `float`, `integer`, `list`, `null`, `object`, `text`, `time`.
    pub types: Vec<&'static str>,
    /// How many runs have it.
    pub runs: u64,
    /// The least number or time, as JSON text. NaN is no number here.
    pub min: Option<String>,
    /// The greatest.
    pub max: Option<String>,
    /// Different values as JSON text, sorted: at most [`MAX_VALUES`]. Of a list, its items.
    pub values: Vec<String>,
    /// Whether these are all of them.
    pub complete: bool,
}

/// A value that can be least or greatest.
#[derive(Clone)]
enum Ranked {
    Number(Value<'static>),
    Time(i64, String),
}

impl Ranked {
    fn compare(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Time(left, _), Self::Time(right, _)) => Some(left.cmp(right)),
            (Self::Number(left), Self::Number(right)) => {
                Cell::of(left).number()?.compare(Cell::of(right).number()?)
            }
            _ => None,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Number(value) => codec::print_line(value),
            Self::Time(_, text) => codec::print_line(&Value::String(text.as_str().into())),
        }
    }
}

#[derive(Default)]
struct Entry {
    types: BTreeSet<&'static str>,
    runs: u64,
    min: Option<Ranked>,
    max: Option<Ranked>,
    values: BTreeSet<String>,
    more: bool,
}

impl Entry {
    fn rank(&mut self, value: &Ranked) {
        // Of equal ones the first text stands, whichever came first: `1` and `1.0`.
        let is = |other: &Option<Ranked>, wanted| {
            other.as_ref().is_none_or(|other| {
                let order = value.compare(other);
                order == Some(wanted)
                    || (order == Some(Ordering::Equal) && value.text() < other.text())
            })
        };
        if is(&self.min, Ordering::Less) {
            self.min = Some(value.clone());
        }
        if is(&self.max, Ordering::Greater) {
            self.max = Some(value.clone());
        }
    }

    fn list(&mut self, value: &Value<'_>) {
        let text = codec::print_line(value);
        if text.len() > MAX_VALUE {
            self.more = true;
        } else if self.values.insert(text) && self.values.len() > MAX_VALUES {
            // The first ones by their text stay, in whatever order they come.
            self.values.pop_last();
            self.more = true;
        }
    }
}

/// Collects what runs have in their fields. It keeps no more than [`MAX_FIELDS`] fields.
#[derive(Default)]
pub struct Catalogue {
    fields: BTreeMap<Field, Entry>,
    incomplete: bool,
}

impl Catalogue {
    /// Adds a run: its record, and its derived metrics, if there are any.
    pub fn add(&mut self, record: &Object<'_>, derived: Option<&Object<'_>>) {
        for field in [
            Field::ExperimentId,
            Field::Status,
            Field::DurationMs,
            Field::Tags,
            Field::Notes,
            Field::StartedAt,
            Field::FinishedAt,
        ] {
            let Some(value) = record.get(&field.to_string()) else {
                continue;
            };
            match (&field, value) {
                (_, Value::Null) => {}
                (Field::StartedAt | Field::FinishedAt, value) => self.add_time(field, value),
                (_, value) => self.add_value(field, value),
            }
        }
        self.add_flat(record.get("metrics"), Field::Metric);
        if let Some(derived) = derived {
            self.add_all(derived, Field::Derived);
        }
        self.add_nested(
            record.get("params_resolved"),
            &mut Vec::new(),
            &Field::Param,
        );
        self.add_nested(
            record.get("provenance"),
            &mut Vec::new(),
            &Field::Provenance,
        );
        self.add_nested(record.get("error"), &mut Vec::new(), &Field::Error);
    }

    fn add_flat(&mut self, object: Option<&Value<'_>>, field: fn(String) -> Field) {
        if let Some(object) = object.and_then(Value::as_object) {
            self.add_all(object, field);
        }
    }

    fn add_all(&mut self, object: &Object<'_>, field: fn(String) -> Field) {
        for (name, value) in object.iter() {
            // A name that no query can spell has no field.
            if let Some(name) = name.as_str() {
                self.add_value(field(name.to_owned()), value);
            }
        }
    }

    fn add_nested(
        &mut self,
        value: Option<&Value<'_>>,
        path: &mut Vec<Step>,
        field: &impl Fn(Vec<Step>) -> Field,
    ) {
        let Some(value) = value else { return };
        match value.as_object() {
            Some(object) if path.len() < MAX_DEPTH && (path.is_empty() || !object.is_empty()) => {
                for (name, value) in object.iter() {
                    if let Some(name) = name.as_str() {
                        path.push(Step::Key(name.to_owned()));
                        self.add_nested(Some(value), path, field);
                        path.pop();
                    }
                }
            }
            _ if path.is_empty() => {}
            _ => self.add_value(field(path.clone()), value),
        }
    }

    fn entry(&mut self, field: Field) -> Option<&mut Entry> {
        if self.fields.len() >= MAX_FIELDS && !self.fields.contains_key(&field) {
            self.incomplete = true;
            return None;
        }
        Some(self.fields.entry(field).or_default())
    }

    fn add_time(&mut self, field: Field, value: &Value<'_>) {
        let Some(text) = value.as_str().filter(|text| !text.is_empty()) else {
            return;
        };
        let Ok(time) = Timestamp::parse(text) else {
            return;
        };
        let Some(entry) = self.entry(field) else {
            return;
        };
        entry.runs += 1;
        entry.types.insert("time");
        entry.rank(&Ranked::Time(time.micros_utc, text.to_owned()));
        // There are as many as runs, and a range says more.
        entry.more = true;
    }

    fn add_value(&mut self, field: Field, value: &Value<'_>) {
        if *value == Value::Null && null_is_missing(&field) {
            return;
        }
        let Some(entry) = self.entry(field) else {
            return;
        };
        entry.runs += 1;
        entry.types.insert(type_of(value));
        match value {
            Value::Array(items) => items.iter().for_each(|item| entry.list(item)),
            Value::Float(number) if number.is_nan() => entry.list(value),
            Value::Int(_) | Value::BigInt(_) | Value::Float(_) => {
                entry.rank(&Ranked::Number(value.clone().into_owned()));
                entry.list(value);
            }
            _ => entry.list(value),
        }
    }

    /// Returns the fields, and whether these are all.
    #[must_use]
    pub fn finish(self) -> (Vec<FieldSummary>, bool) {
        let summaries = self.fields.into_iter().map(|(field, entry)| FieldSummary {
            field: field.to_string(),
            types: entry.types.into_iter().collect(),
            runs: entry.runs,
            min: entry.min.as_ref().map(Ranked::text),
            max: entry.max.as_ref().map(Ranked::text),
            values: entry.values.into_iter().collect(),
            complete: !entry.more,
        });
        (summaries.collect(), !self.incomplete)
    }
}

fn type_of(value: &Value<'_>) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Int(_) | Value::BigInt(_) => "integer",
        Value::Float(_) => "float",
        Value::String(_) => "text",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop where it fails")]

    use super::*;
    use crate::json;

    fn summaries(records: &[&str]) -> BTreeMap<String, FieldSummary> {
        let mut catalogue = Catalogue::default();
        for record in records {
            let record = json::parse(record.as_bytes()).unwrap();
            catalogue.add(record.as_object().unwrap(), None);
        }
        let (found, complete) = catalogue.finish();
        assert!(complete);
        found
            .into_iter()
            .map(|summary| (summary.field.clone(), summary))
            .collect()
    }

    #[test]
    fn types_counts_ranges_and_values_are_told_for_each_field() {
        let found = summaries(&[
            r#"{"run_id": "a", "metrics": {"loss": 0.5, "n": 1}, "params_resolved": {"opt": {"lr": 1, "name": "sgd"}},
                "started_at": "2026-01-02", "tags": ["x", "y"]}"#,
            r#"{"run_id": "b", "metrics": {"loss": NaN, "n": 123456789012345678901}, "params_resolved": {"opt": {"lr": 0.1, "name": "adam"}},
                "started_at": "2026-01-02T00:00:00+02:00", "tags": ["x"]}"#,
            r#"{"run_id": "c", "metrics": {"odd name": true, "loss": 0.25}, "params_resolved": {"opt": {}, "layers": [1, 2]}}"#,
        ]);
        let names: Vec<&str> = found.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "metrics.\"odd name\"",
                "metrics.loss",
                "metrics.n",
                "params.layers",
                "params.opt",
                "params.opt.lr",
                "params.opt.name",
                "started_at",
                "tags"
            ]
        );
        let loss = &found["metrics.loss"];
        assert_eq!((loss.runs, loss.types.as_slice()), (3, &["float"][..]));
        assert_eq!(loss.min.as_deref(), Some("0.25"));
        assert_eq!(loss.max.as_deref(), Some("0.5"));
        assert_eq!(loss.values, ["0.25", "0.5", "NaN"]);
        assert!(loss.complete);
        assert_eq!(
            found["metrics.n"].max.as_deref(),
            Some("123456789012345678901")
        );
        assert_eq!(found["params.opt.lr"].types, ["float", "integer"]);
        assert_eq!(found["params.opt.lr"].min.as_deref(), Some("0.1"));
        assert_eq!(found["params.opt"].types, ["object"]);
        assert_eq!(found["params.layers"].values, ["1", "2"]);
        assert_eq!(found["tags"].values, ["\"x\"", "\"y\""]);
        assert_eq!(
            found["started_at"].min.as_deref(),
            Some("\"2026-01-02T00:00:00+02:00\"")
        );
        assert!(!found["started_at"].complete);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut catalogue = Catalogue::default();
        for index in 0..MAX_FIELDS + 10 {
            let record = format!(
                "{{\"metrics\": {{\"m{index}\": {index}, \"same\": {index}, \"long\": \"{}\"}}}}",
                "x".repeat(1000)
            );
            let record = json::parse(record.as_bytes()).unwrap();
            catalogue.add(record.as_object().unwrap(), None);
        }
        let (found, complete) = catalogue.finish();
        assert!(!complete);
        assert_eq!(found.len(), MAX_FIELDS);
        let same = found
            .iter()
            .find(|field| field.field == "metrics.same")
            .unwrap();
        assert_eq!(same.runs, MAX_FIELDS as u64 + 10);
        assert_eq!((same.values.len(), same.complete), (MAX_VALUES, false));
        assert_eq!(same.max, Some((MAX_FIELDS + 9).to_string()));
        let long = found
            .iter()
            .find(|field| field.field == "metrics.long")
            .unwrap();
        assert_eq!((long.values.len(), long.complete), (0, false));
    }
}
