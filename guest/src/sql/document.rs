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

/// So many bytes are made room for at first.
const FIRST_BYTES: usize = 512;

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
    pub fn new(run_id: &str, row: &RecordRow<'_, '_>) -> Self {
        let mut made = Self::plain(row);
        match Self::json(run_id, row) {
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
    pub fn without_derived(row: &RecordRow<'_, '_>) -> Self {
        let made = Self {
            inexact: true,
            json: "{}".to_owned(),
            ..Self::plain(row)
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
    fn plain(row: &RecordRow<'_, '_>) -> Self {
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
    fn json(run_id: &str, row: &RecordRow<'_, '_>) -> Option<(Vec<String>, String)> {
        let Cell::Text(own_id) = row.cell(&Field::RunId) else {
            return None;
        };
        let Cell::Text(experiment) = row.cell(&Field::ExperimentId) else {
            return None;
        };
        if own_id != run_id || experiment.contains('\0') {
            return None;
        }
        let record = row.record();
        let mut tags = Vec::new();
        if let Some(Value::Array(items)) = record.get("tags") {
            for item in items {
                match item {
                    Value::String(text) if holds(text) => tags.push(text.as_str()?.to_owned()),
                    _ => return None,
                }
            }
        }
        let given = |name: &str| match record.get(name) {
            None | Some(Value::Null) => None,
            given => given,
        };
        let object = |name: &str| record.get(name).and_then(Value::as_object);
        // In the order of the keys.
        let mut json = Entries::begin();
        json.text("context_fingerprint", given("context_fingerprint"))?;
        if let Some(derived) = row.derived() {
            json.object("derived", derived, |_, _| true)?;
        }
        json.value(
            "duration_ms",
            given("duration_ms").unwrap_or(&Value::Int(0)),
        )?;
        if let Some(error) = given("error") {
            json.value("error", error)?;
        }
        if let Some(metrics) = object("metrics") {
            json.object("metrics", metrics, |_, _| true)?;
        }
        if let Some(notes) = given("notes") {
            json.value("notes", notes)?;
        }
        if let Some(params) = object("params_resolved") {
            json.object("params", params, |_, _| true)?;
        }
        json.text("params_fingerprint", given("params_fingerprint"))?;
        if let Some(provenance) = object("provenance") {
            json.object("provenance", provenance, |key, value| {
                !matches!(value, Value::Null) || !key.as_str().is_some_and(is_provenance_text)
            })?;
        }
        json.text("seed_fingerprint", given("seed_fingerprint"))?;
        Some((tags, json.end()))
    }
}

/// The entries of a document while they are written; each says `None` if the database cannot hold it.
struct Entries(String);

impl Entries {
    fn begin() -> Self {
        let mut json = String::with_capacity(FIRST_BYTES);
        json.push('{');
        Self(json)
    }

    fn key(&mut self, key: &str) {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        json::push_text(&key.into(), &mut self.0);
        self.0.push(':');
    }

    fn value(&mut self, key: &str, value: &Value<'_>) -> Option<()> {
        self.key(key);
        push(value, MAX_DEPTH - 1, &mut self.0)
    }

    /// Writes a value that is an empty text if there is none.
    fn text(&mut self, key: &str, value: Option<&Value<'_>>) -> Option<()> {
        match value {
            Some(value) => self.value(key, value),
            None => self.value(key, &Value::String("".into())),
        }
    }

    fn object(
        &mut self,
        key: &str,
        object: &Object<'_>,
        keep: impl Fn(&Text<'_>, &Value<'_>) -> bool,
    ) -> Option<()> {
        self.key(key);
        push_object(object, MAX_DEPTH - 2, keep, &mut self.0)
    }

    fn end(mut self) -> String {
        self.0.push('}');
        self.0
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

/// Writes a value as one that JSONB holds and compares as it should, with so many levels below it; `None` if that
/// cannot be.
fn push(value: &Value<'_>, depth: usize, out: &mut String) -> Option<()> {
    match value {
        Value::Float(float) => match other_than_float(*float) {
            Some(other) => json::line(&other, out),
            None => json::line(value, out),
        },
        Value::String(text) if holds(text) => json::push_text(text, out),
        Value::String(_) => return None,
        Value::Array(items) => {
            let below = depth.checked_sub(1)?;
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                push(item, below, out)?;
            }
            out.push(']');
        }
        Value::Object(object) => push_object(object, depth.checked_sub(1)?, |_, _| true, out)?,
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::BigInt(_) => json::line(value, out),
    }
    Some(())
}

/// Writes the entries that are kept of an object, each with so many levels below it.
fn push_object(
    object: &Object<'_>,
    below: usize,
    keep: impl Fn(&Text<'_>, &Value<'_>) -> bool,
    out: &mut String,
) -> Option<()> {
    out.push('{');
    let begun = out.len();
    for (key, value) in object.iter().filter(|(key, value)| keep(key, value)) {
        if !holds(key) || *key == SPECIAL {
            return None;
        }
        if out.len() > begun {
            out.push(',');
        }
        json::push_text(key, out);
        out.push(':');
        push(value, below, out)?;
    }
    out.push('}');
    Some(())
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
        let (record, derived) = (parse(leak(record)), derived.map(|text| parse(leak(text))));
        Document::new(run_id, &RecordRow::new(&record, derived.as_ref()))
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
