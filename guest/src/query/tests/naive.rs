//! A second evaluation of filters that shares nothing with the first but the tree: it works on lists of code
//! points and on decimal expansions, and takes the long way everywhere.

use super::*;
use crate::time::Timestamp;
use std::cmp::Ordering;

enum Plain {
    Missing,
    Null,
    Bool(bool),
    Number(String),
    Text(Vec<u32>),
    Time(i64),
    List(Vec<Self>),
    Object,
}

fn code_points(wtf8: &[u8]) -> Vec<u32> {
    let mut points: Vec<u32> = Vec::new();
    for byte in wtf8 {
        let bits = |mask: u8| u32::from(byte & mask);
        match byte {
            0x00..=0x7F => points.push(bits(0x7F)),
            0x80..=0xBF => {
                let last = points.last_mut().unwrap();
                *last = (*last << 6) | bits(0x3F);
            }
            0xC0..=0xDF => points.push(bits(0x1F)),
            0xE0..=0xEF => points.push(bits(0x0F)),
            0xF0..=0xFF => points.push(bits(0x07)),
        }
    }
    points
}

/// All digits of a float: 1,074 places are enough for every one.
fn expansion(value: f64) -> String {
    if value.is_finite() {
        format!("{value:.1074}")
    } else {
        value.to_string()
    }
}

fn plain(value: &Value<'_>) -> Plain {
    match value {
        Value::Null => Plain::Null,
        Value::Bool(value) => Plain::Bool(*value),
        Value::Int(value) => Plain::Number(value.to_string()),
        Value::BigInt(digits) => Plain::Number(digits.to_string()),
        Value::Float(value) => Plain::Number(expansion(*value)),
        Value::String(text) => Plain::Text(code_points(text.as_wtf8())),
        Value::Array(items) => Plain::List(items.iter().map(plain).collect()),
        Value::Object(_) => Plain::Object,
    }
}

fn literal(literal: &Literal) -> Plain {
    match literal {
        Literal::Null => Plain::Null,
        Literal::Bool(value) => Plain::Bool(*value),
        Literal::Int(value) => Plain::Number(value.to_string()),
        Literal::Big(digits) => Plain::Number(digits.clone()),
        Literal::Float(value) => Plain::Number(expansion(*value)),
        Literal::Text(text) => Plain::Text(text.chars().map(u32::from).collect()),
        Literal::Time(Moment::At(micros)) => Plain::Time(*micros),
        Literal::Time(Moment::Now(seconds)) => Plain::Time(NOW + seconds * 1_000_000),
    }
}

/// Makes the digits of two numbers equally long before and after the point, and compares them as texts.
fn numbers(left: &str, right: &str) -> Option<Ordering> {
    const INFINITY: &str = "inf";
    if left == "NaN" || right == "NaN" {
        return None;
    }
    let parts = |text: &str| {
        let negative = text.starts_with('-');
        let size = text.trim_start_matches('-').to_owned();
        let size = if size == INFINITY {
            "9".repeat(5000)
        } else {
            size
        };
        let (whole, fraction) = match size.split_once('.') {
            Some((whole, fraction)) => (whole.to_owned(), fraction.to_owned()),
            None => (size, String::new()),
        };
        let padded = format!("{whole:0>5000}{fraction:0<1100}");
        let zero = padded.bytes().all(|digit| digit == b'0');
        (negative && !zero, padded)
    };
    let ((left_negative, left), (right_negative, right)) = (parts(left), parts(right));
    Some(match (left_negative, right_negative) {
        (false, false) => left.cmp(&right),
        (true, true) => right.cmp(&left),
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
    })
}

fn compared(left: &Plain, right: &Plain) -> Option<Ordering> {
    match (left, right) {
        (Plain::Number(left), Plain::Number(right)) => numbers(left, right),
        (Plain::Text(left), Plain::Text(right)) => Some(left.cmp(right)),
        (Plain::Time(left), Plain::Time(right)) => Some(left.cmp(right)),
        _ => None,
    }
}

fn equal(left: &Plain, right: &Plain) -> bool {
    match (left, right) {
        (Plain::Null, Plain::Null) => true,
        (Plain::Bool(left), Plain::Bool(right)) => left == right,
        (Plain::Number(left), Plain::Number(right)) if left == "NaN" && right == "NaN" => true,
        _ => compared(left, right) == Some(Ordering::Equal),
    }
}

/// Whether a pattern matches, by a table of all pairs of their ends.
pub(super) fn like(pattern: &str, text: &[u32], fold: bool) -> bool {
    #[derive(PartialEq)]
    enum Unit {
        Any,
        One,
        Is(u32),
    }
    let mut units = Vec::new();
    let mut characters = pattern.chars();
    while let Some(character) = characters.next() {
        units.push(match character {
            '%' => Unit::Any,
            '_' => Unit::One,
            '\\' => Unit::Is(u32::from(characters.next().unwrap())),
            plain => Unit::Is(u32::from(plain)),
        });
    }
    let lower = |point: u32| match point {
        65..=90 if fold => point + 32,
        _ => point,
    };
    let mut reached = vec![vec![false; text.len() + 1]; units.len() + 1];
    reached[0][0] = true;
    for (row, unit) in units.iter().enumerate() {
        for column in 0..=text.len() {
            let before = column.checked_sub(1);
            reached[row + 1][column] = match unit {
                Unit::Any => {
                    reached[row][column] || before.is_some_and(|before| reached[row + 1][before])
                }
                Unit::One => before.is_some_and(|before| reached[row][before]),
                Unit::Is(point) => before.is_some_and(|before| {
                    reached[row][before] && lower(text[before]) == lower(*point)
                }),
            };
        }
    }
    reached[units.len()][text.len()]
}

pub(super) struct Naive<'r> {
    pub(super) record: &'r Value<'r>,
    pub(super) derived: Option<&'r Value<'r>>,
}

impl Naive<'_> {
    fn at(&self, root: &str, path: &[Step]) -> Option<Plain> {
        let mut value = self.record.as_object()?.get(root)?;
        for step in path {
            value = match (step, value) {
                (Step::Key(key), Value::Object(object)) => object.get(key)?,
                (Step::Index(index), Value::Array(items)) => items.get(*index as usize)?,
                _ => return None,
            };
        }
        Some(plain(value))
    }

    fn get(&self, field: &Field) -> Plain {
        let key = |name: &str| [Step::Key(name.to_owned())];
        let text = |root: &str, default: &str| match self.at(root, &[]) {
            None => Plain::Text(default.chars().map(u32::from).collect()),
            Some(found) => found,
        };
        let time = |root: &str| {
            let object = self.record.as_object().unwrap();
            let text = object.get(root).and_then(Value::as_str).unwrap_or("");
            Timestamp::parse(text).map_or(Plain::Missing, |time| Plain::Time(time.micros_utc))
        };
        let or_missing = |found: Option<Plain>| found.unwrap_or(Plain::Missing);
        let present = |found: Option<Plain>| match found {
            None | Some(Plain::Null) => Plain::Missing,
            Some(found) => found,
        };
        match field {
            Field::RunId => text("run_id", ""),
            Field::ExperimentId => text("experiment_id", ""),
            Field::Status => text("status", "failed"),
            Field::ContextFingerprint => text("context_fingerprint", ""),
            Field::ParamsFingerprint => text("params_fingerprint", ""),
            Field::SeedFingerprint => text("seed_fingerprint", ""),
            Field::StartedAt => time("started_at"),
            Field::FinishedAt => time("finished_at"),
            Field::DurationMs => self
                .at("duration_ms", &[])
                .unwrap_or(Plain::Number("0".to_owned())),
            Field::Tags => match self.at("tags", &[]) {
                Some(Plain::List(items)) if !items.is_empty() => Plain::List(items),
                _ => Plain::Missing,
            },
            Field::Notes => present(self.at("notes", &[])),
            Field::Error(path) if path.is_empty() => present(self.at("error", path)),
            Field::Error(path) => or_missing(self.at("error", path)),
            Field::Metric(name) => or_missing(self.at("metrics", &key(name))),
            Field::Param(path) => or_missing(self.at("params_resolved", path)),
            Field::Provenance(path) if path[..] == key("host") => {
                present(self.at("provenance", path))
            }
            Field::Provenance(path) => or_missing(self.at("provenance", path)),
            Field::Derived(name) => {
                let found = self
                    .derived
                    .and_then(|derived| derived.as_object()?.get(name));
                found.map_or(Plain::Missing, plain)
            }
        }
    }

    pub(super) fn matches(&self, expr: &Expr) -> bool {
        match expr {
            Expr::And(children) => !children.iter().any(|child| !self.matches(child)),
            Expr::Or(children) => children.iter().filter(|child| self.matches(child)).count() > 0,
            Expr::Not(child) => !self.matches(child),
            Expr::Exists(field) => !matches!(self.get(field), Plain::Missing),
            Expr::Compare { field, op, value } => {
                let (cell, value) = (self.get(field), literal(value));
                let order = compared(&cell, &value);
                match op {
                    CompareOp::Equal => equal(&cell, &value),
                    CompareOp::NotEqual => !equal(&cell, &value),
                    CompareOp::Less => order == Some(Ordering::Less),
                    CompareOp::Greater => order == Some(Ordering::Greater),
                    CompareOp::LessOrEqual => order.is_some() && order != Some(Ordering::Greater),
                    CompareOp::GreaterOrEqual => order.is_some() && order != Some(Ordering::Less),
                }
            }
            Expr::In { field, values } => {
                let cell = self.get(field);
                values.iter().any(|value| equal(&cell, &literal(value)))
            }
            Expr::Between { field, low, high } => {
                let cell = self.get(field);
                let low = compared(&literal(low), &cell);
                let high = compared(&cell, &literal(high));
                let fits = |order| matches!(order, Some(Ordering::Less | Ordering::Equal));
                fits(low) && fits(high)
            }
            Expr::Contains { field, value } => match (self.get(field), literal(value)) {
                (Plain::Text(text), Plain::Text(part)) => {
                    part.is_empty() || text.windows(part.len()).any(|window| window == part)
                }
                (Plain::List(items), value) => items.iter().any(|item| equal(item, &value)),
                _ => false,
            },
            Expr::Like {
                field,
                pattern,
                fold,
            } => match self.get(field) {
                Plain::Text(text) => like(pattern.source(), &text, *fold),
                _ => false,
            },
        }
    }
}
