//! The form of a record that PostgreSQL filters and sorts by.
//!
//! JSONB cannot hold everything that a record can. The document keeps what filters and sort keys look at, in a
//! form that JSONB holds and in which every comparison has the answer that it has for the record itself:
//!
//! * what a query takes for missing is not there, and what has a default has its default;
//! * a float of 2^53 or more is written as the integer that it is, because JSONB would keep the decimal that is
//!   printed for it. Below, that decimal is in the same order against all numbers that can occur;
//! * NaN and the infinities are objects of the one key [`SPECIAL`], which no other object of a document has.
//!
//! Where that is not enough, the record is *inexact*: its document is empty, and a query decides about it from
//! its text. That is so if a text or key holds a NUL or a lone surrogate, if a key is [`SPECIAL`], if it nests
//! deeper than [`MAX_DEPTH`], if the record names another run than its file does, or if a tag, its experiment or its status
//! is too long for the server's indexes ([`MAX_INDEXED`]).

use crate::json::{self, Object, Text, Value};
use crate::query::{Cell, Field, RecordRow, Row as _, Step};
use crate::sql::runs::MAX_INDEXED;

/// The only key of an object that stands for a float that JSON has no number for.
pub const SPECIAL: &str = "\u{1}";

/// NaN in a document.
pub const NAN: &str = r#"{"\u0001":0}"#;

/// The positive infinity in a document.
pub const INFINITY: &str = r#"{"\u0001":1}"#;

/// The negative infinity in a document.
pub const NEGATIVE_INFINITY: &str = r#"{"\u0001":-1}"#;

/// How deep the values of a document nest. PostgreSQL and dropping a tree recurse.
pub const MAX_DEPTH: usize = 64;

/// From here on floats are integers and are written as such: 2^53.
const INTEGRAL: f64 = 9_007_199_254_740_992.0;

/// What queries see of a record, in a form that the database can compare.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Document {
    /// The experiment that the record names; empty if none, or if the database cannot hold it.
    pub experiment_id: String,
    /// The status.
    pub status: String,
    /// When the run started, in microseconds since 1970-01-01 UTC.
    pub started_at: Option<i64>,
    /// When the run finished, in microseconds since 1970-01-01 UTC.
    pub finished_at: Option<i64>,
    /// The tags.
    pub tags: Vec<String>,
    /// Whether only the text of the record can answer a query. Then the fields that follow are empty.
    pub inexact: bool,
    /// The rest as JSON text.
    pub json: String,
    /// What is too long to be indexed.
    pub too_long: Option<&'static str>,
}

impl Document {
    /// Makes the document of the record in the file of a run, and of the derived metrics if there are any.
    #[must_use]
    pub fn new(run_id: &str, record: Object<'_>, derived: Option<Object<'_>>) -> Self {
        let mut made = Self::plain(&record);
        match Self::json(run_id, record, derived) {
            Some((tags, json)) => {
                made.tags = tags;
                made.json = json;
            }
            None => {
                made.inexact = true;
                made.json = "{}".to_owned();
            }
        }
        made.indexable()
    }

    /// Makes the document of a record whose derived metrics cannot be read.
    #[must_use]
    pub fn without_derived(record: &Object<'_>) -> Self {
        let made = Self {
            inexact: true,
            json: "{}".to_owned(),
            ..Self::plain(record)
        };
        made.indexable()
    }

    /// Leaves out what the indexes do not take.
    fn indexable(mut self) -> Self {
        if self.experiment_id.len() + self.status.len() > MAX_INDEXED {
            self.too_long = Some("experiment_id");
            self.experiment_id.clear();
            if self.status.len() > MAX_INDEXED {
                self.status.clear();
            }
        } else if self.tags.iter().any(|tag| tag.len() > MAX_INDEXED) {
            self.too_long = Some("tags");
        } else {
            return self;
        }
        self.reduce();
        self
    }

    /// Leaves out whatever is not needed to find the record's text.
    pub(crate) fn reduce(&mut self) {
        self.tags.clear();
        self.json = "{}".to_owned();
        self.inexact = true;
    }

    /// The parts that have columns of their own, and that an inexact record has too.
    fn plain(record: &Object<'_>) -> Self {
        let row = RecordRow::new(record, None);
        let text = |field: Field| match row.cell(&field) {
            Cell::Text(text) if !text.contains('\0') => text.to_owned(),
            _ => String::new(),
        };
        let time = |field: Field| match row.cell(&field) {
            Cell::Time(micros) => Some(micros),
            _ => None,
        };
        Self {
            experiment_id: text(Field::ExperimentId),
            status: text(Field::Status),
            started_at: time(Field::StartedAt),
            finished_at: time(Field::FinishedAt),
            ..Self::default()
        }
    }

    /// Returns the tags and the rest, or `None` if the database cannot compare all of it.
    fn json(
        run_id: &str,
        mut record: Object<'_>,
        derived: Option<Object<'_>>,
    ) -> Option<(Vec<String>, String)> {
        let row = RecordRow::new(&record, None);
        let Cell::Text(own_id) = row.cell(&Field::RunId) else {
            return None;
        };
        let Cell::Text(experiment) = row.cell(&Field::ExperimentId) else {
            return None;
        };
        if own_id != run_id || experiment.contains('\0') {
            return None;
        }
        let mut tags = Vec::new();
        if let Some(Value::Array(items)) = record.remove("tags") {
            for item in items {
                match item {
                    Value::String(text) if holds(&text) => tags.push(text.into_string().ok()?),
                    _ => return None,
                }
            }
        }
        let mut document = Object::new();
        for name in [
            "context_fingerprint",
            "params_fingerprint",
            "seed_fingerprint",
        ] {
            document.insert(name, with_default(&mut record, name, Text::from("")));
        }
        document.insert(
            "duration_ms",
            with_default(&mut record, "duration_ms", 0_i64),
        );
        for name in ["notes", "error"] {
            match record.remove(name) {
                None | Some(Value::Null) => {}
                Some(value) => {
                    document.insert(name, value);
                }
            }
        }
        for (name, short) in [("metrics", "metrics"), ("params_resolved", "params")] {
            if let Some(Value::Object(object)) = record.remove(name) {
                document.insert(short, object);
            }
        }
        if let Some(Value::Object(mut provenance)) = record.remove("provenance") {
            provenance.retain(|key, value| {
                !matches!(value, Value::Null) || !key.as_str().is_some_and(is_provenance_text)
            });
            document.insert("provenance", provenance);
        }
        if let Some(derived) = derived {
            document.insert("derived", derived);
        }
        let mut document = Value::Object(document);
        if !sanitise(&mut document, MAX_DEPTH) {
            return None;
        }
        let mut json = String::new();
        json::line(&document, &mut json);
        Some((tags, json))
    }
}

fn with_default<'a>(
    record: &mut Object<'a>,
    name: &str,
    default: impl Into<Value<'a>>,
) -> Value<'a> {
    match record.remove(name) {
        None | Some(Value::Null) => default.into(),
        Some(value) => value,
    }
}

fn is_provenance_text(key: &str) -> bool {
    use crate::query::Kind;
    Field::Provenance(vec![Step::Key(key.to_owned())]).kind() == Kind::Text
}

/// Tells whether PostgreSQL can hold a text.
pub(super) fn holds(text: &Text<'_>) -> bool {
    text.as_str().is_some_and(|text| !text.contains('\0'))
}

/// Makes a value one that JSONB holds and compares as it should; `false` if that cannot be.
fn sanitise(value: &mut Value<'_>, depth: usize) -> bool {
    match value {
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::BigInt(_) => true,
        Value::Float(float) => {
            if let Some(other) = other_than_float(*float) {
                *value = other;
            }
            true
        }
        Value::String(text) => holds(text),
        Value::Array(items) => depth > 0 && items.iter_mut().all(|item| sanitise(item, depth - 1)),
        Value::Object(object) => {
            let mut exact = depth > 0;
            object.retain(|key, value| {
                exact = exact && holds(key) && *key != SPECIAL && sanitise(value, depth - 1);
                true
            });
            exact
        }
    }
}

/// Returns what stands for a float that cannot stand for itself.
fn other_than_float(float: f64) -> Option<Value<'static>> {
    if !float.is_finite() {
        let sign: i64 = match float {
            _ if float.is_nan() => 0,
            _ if float > 0.0 => 1,
            _ => -1,
        };
        let mut special = Object::new();
        special.insert(SPECIAL, sign);
        return Some(Value::Object(special));
    }
    // So large a float is an integer, and this prints all of its digits.
    (float.abs() >= INTEGRAL).then(|| Value::BigInt(format!("{float:.0}").into()))
}

/// Returns the number as a document holds it: JSON text.
#[must_use]
pub fn number(value: f64) -> String {
    let mut text = String::new();
    let value = other_than_float(value).unwrap_or(Value::Float(value));
    json::line(&value, &mut text);
    text
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop where it fails")]
mod tests {
    use super::*;

    fn document(run_id: &str, record: &str, derived: Option<&str>) -> Document {
        let parse = |text: &'static str| match json::parse(text.as_bytes()).unwrap() {
            Value::Object(object) => object,
            other => panic!("{other:?} is no object"),
        };
        let leak = |text: &str| -> &'static str { Box::leak(text.to_owned().into_boxed_str()) };
        Document::new(
            run_id,
            parse(leak(record)),
            derived.map(|text| parse(leak(text))),
        )
    }

    #[test]
    fn what_is_missing_is_left_out_and_what_has_a_default_has_it() {
        let made = document(
            "",
            r#"{"notes": null, "error": null, "provenance": {"host": null, "gpu": null}}"#,
            None,
        );
        assert_eq!(
            made.json,
            concat!(
                r#"{"context_fingerprint":"","duration_ms":0,"params_fingerprint":"","#,
                r#""provenance":{"gpu":null},"seed_fingerprint":""}"#
            )
        );
        assert_eq!(made.status, "failed");
        assert!(!made.inexact);
    }

    #[test]
    fn floats_that_jsonb_would_change_are_written_exactly() {
        assert_eq!(number(0.1), "0.1");
        assert_eq!(number(9_007_199_254_740_991.0), "9007199254740991.0");
        assert_eq!(number(9_007_199_254_740_992.0), "9007199254740992");
        assert_eq!(number(1e23), "99999999999999991611392");
        assert_eq!(number(-1e22), "-10000000000000000000000");
        assert_eq!(number(f64::NAN), NAN);
        assert_eq!(number(f64::INFINITY), INFINITY);
        assert_eq!(number(f64::NEG_INFINITY), NEGATIVE_INFINITY);
        let made = document("", r#"{"metrics": {"a": [1e400, NaN, 1e22]}}"#, None);
        let metrics = r#""metrics":{"a":[{"\u0001":1},{"\u0001":0},10000000000000000000000]}"#;
        assert!(made.json.contains(metrics), "{}", made.json);
    }

    #[test]
    fn a_record_that_the_database_cannot_hold_is_inexact() {
        let nested = format!(
            r#"{{"params_resolved": {{"a": {}{}}}}}"#,
            "[".repeat(65),
            "]".repeat(65)
        );
        for record in [
            r#"{"notes": "a\u0000"}"#,
            r#"{"notes": "\ud800"}"#,
            r#"{"metrics": {"a\u0000": 1}}"#,
            r#"{"metrics": {"\udc00": 1}}"#,
            r#"{"metrics": {"\u0001": 1}}"#,
            r#"{"params_resolved": {"a": [{"b": "\u0000"}]}}"#,
            r#"{"tags": ["a", "\u0000"]}"#,
            r#"{"tags": [1]}"#,
            r#"{"run_id": "other"}"#,
            r#"{"experiment_id": "\u0000"}"#,
            r#"{"experiment_id": 1}"#,
            &nested,
        ] {
            let made = document("", record, None);
            assert!(made.inexact, "{record}");
            assert_eq!((made.json.as_str(), made.tags.len()), ("{}", 0), "{record}");
        }
        assert!(document("", "{}", Some(r#"{"a": "\u0000"}"#)).inexact);
        assert!(!document("r", r#"{"run_id": "r", "notes": "\u0001"}"#, None).inexact);
    }

    #[test]
    fn what_no_query_can_name_does_not_make_a_record_inexact() {
        let made = document(
            "",
            r#"{"warnings": ["\u0000"], "x": {"\u0001": "\ud800"}}"#,
            None,
        );
        assert!(!made.inexact);
    }
}
