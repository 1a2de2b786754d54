//! Turns the format's JSON documents into typed values and back.
//!
//! Loading is as tolerant as the reference's: missing fields have the same defaults, except that a missing
//! time stays absent. What the reference cannot load is damage; what it can load but a typed field cannot
//! hold is unrepresentable. Unknown keys are kept.

use crate::error::{Error, Result};
use crate::json::{self, Object, Part, Parts, Shape, Text, Value};
use crate::model::{
    ArtifactDescriptor, Metric, MetricValue, Provenance, RunRecord, Status, StructuredResult,
};
use crate::quick;
use crate::time::Timestamp;
use crate::typed_line;

/// The version of the format that this crate writes.
pub const SCHEMA_VERSION: &str = "0.1";

/// The kind of an artifact whose descriptor names none.
pub(crate) const DEFAULT_KIND: &str = "blob";

/// The format of an artifact whose descriptor names none.
pub(crate) const DEFAULT_FORMAT: &str = "binary";

/// The largest document that is read in one piece, in bytes.
pub const MAX_DOCUMENT: u64 = 64 * 1024 * 1024;

/// Parses a document that must be an object.
///
/// # Errors
/// `corrupt`, with the byte offset, if the text is not JSON or not an object.
pub fn parse_object<'a>(file: &str, text: &'a [u8]) -> Result<Object<'a>> {
    match parse_value(file, text)? {
        Value::Object(object) => Ok(object),
        other => Err(Error::corrupt(
            file,
            Some(0),
            format!("expected an object, found {}", kind(&other)),
        )),
    }
}

/// Parses a document that may be any value.
///
/// # Errors
/// `corrupt`, with the byte offset, if the text is not JSON.
pub fn parse_value<'a>(file: &str, text: &'a [u8]) -> Result<Value<'a>> {
    json::parse(text).map_err(|error| Error::corrupt(file, Some(error.offset), error.reason))
}

/// Parses JSON text that a caller passed.
///
/// # Errors
/// `invalid-argument`, naming the argument and the byte offset.
pub fn parse_argument<'a>(what: &str, text: &'a str) -> Result<Value<'a>> {
    if text.len() as u64 > MAX_DOCUMENT {
        return Err(Error::TooLarge(format!(
            "{what} has {} bytes; a document may have at most {MAX_DOCUMENT}",
            text.len()
        )));
    }
    json::parse(text.as_bytes()).map_err(|error| {
        Error::InvalidArgument(format!(
            "{what} is not JSON text: {} at byte {}",
            error.reason, error.offset
        ))
    })
}

/// Parses JSON text that a caller passed and that must be an object.
///
/// # Errors
/// `invalid-argument`, naming the argument.
pub fn parse_argument_object<'a>(what: &str, text: &'a str) -> Result<Object<'a>> {
    match parse_argument(what, text)? {
        Value::Object(object) => Ok(object),
        other => Err(Error::InvalidArgument(format!(
            "{what} should be a JSON object, not {}",
            kind(&other)
        ))),
    }
}

/// Prints a document as its file holds it.
#[must_use]
pub fn print(value: &Value<'_>) -> String {
    let mut text = String::new();
    json::pretty(value, &mut text);
    text
}

/// Prints a value as one line, as it crosses the component's surface.
#[must_use]
pub fn print_line(value: &Value<'_>) -> String {
    line(value)
}

fn line(value: &Value<'_>) -> String {
    let mut text = String::new();
    json::line(value, &mut text);
    text
}

/// Names the kind of a value, for messages.
fn kind(value: &Value<'_>) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Int(_) | Value::BigInt(_) => "an integer",
        Value::Float(_) => "a floating point number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Reads the fields of one object, and names the file and the field in every error.
struct Fields<'a, 'f> {
    file: &'f str,
    /// What the object is, for messages: empty for the document itself.
    within: &'f str,
    object: Object<'a>,
}

impl<'a> Fields<'a, '_> {
    fn wrong(&self, field: &str, expected: &str, found: &Value<'_>) -> Error {
        let reason = format!(
            "{}`{field}` should be {expected}, not {}",
            self.within,
            kind(found)
        );
        Error::unrepresentable(self.file, reason)
    }

    fn text_of(&self, field: &str, text: Text<'a>) -> Result<String> {
        text.into_string().map_err(|_| {
            let reason = format!("{}`{field}` holds a lone surrogate", self.within);
            Error::unrepresentable(self.file, reason)
        })
    }

    /// A text that the format gives a default when it is missing.
    fn text(&mut self, field: &str, default: &str) -> Result<String> {
        Ok(self
            .optional_text(field)?
            .unwrap_or_else(|| default.to_owned()))
    }

    fn optional_text(&mut self, field: &str) -> Result<Option<String>> {
        match self.object.remove(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => self.text_of(field, text).map(Some),
            Some(other) => Err(self.wrong(field, "a text", &other)),
        }
    }

    /// An object as text; missing and null are `{}`.
    fn object_text(&mut self, field: &str) -> Result<String> {
        match self.object.remove(field) {
            None | Some(Value::Null) => Ok("{}".to_owned()),
            Some(value @ Value::Object(_)) => Ok(line(&value)),
            Some(other) => Err(self.wrong(field, "an object", &other)),
        }
    }

    /// A list that must be one, as the reference needs it.
    fn list(&mut self, field: &str) -> Result<Vec<Value<'a>>> {
        match self.object.remove(field) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => Ok(items),
            Some(other) => Err(Error::corrupt(
                self.file,
                None,
                format!(
                    "{}`{field}` should be a list, not {}",
                    self.within,
                    kind(&other)
                ),
            )),
        }
    }

    fn rest(self) -> String {
        if self.object.is_empty() {
            "{}".to_owned()
        } else {
            line(&Value::Object(self.object))
        }
    }
}

fn metric_value(value: Value<'_>) -> MetricValue {
    match value {
        Value::Bool(value) => MetricValue::Boolean(value),
        Value::Int(value) => MetricValue::Integer(value),
        Value::BigInt(digits) => MetricValue::BigInteger(digits.into_owned()),
        Value::Float(value) => MetricValue::Float(value),
        Value::String(text) if text.as_str().is_some() => {
            MetricValue::Text(text.into_string().unwrap_or_default())
        }
        other => MetricValue::Other(line(&other)),
    }
}

/// Turns an object of metrics into a list sorted by name.
///
/// # Errors
/// `unrepresentable` if a name holds a lone surrogate.
pub fn metrics_from(file: &str, object: Object<'_>) -> Result<Vec<Metric>> {
    let mut metrics = Vec::with_capacity(object.len());
    for (name, value) in object {
        let name = name.into_string().map_err(|_| {
            Error::unrepresentable(file, "the name of a metric holds a lone surrogate")
        })?;
        metrics.push(Metric {
            name,
            value: metric_value(value),
        });
    }
    Ok(metrics)
}

/// Turns a list of metrics into an object.
///
/// # Errors
/// `invalid-argument` if a name occurs twice or a value is not what it says.
pub fn metrics_to(metrics: &[Metric]) -> Result<Object<'_>> {
    let mut object = Object::new();
    for metric in metrics {
        let value = match &metric.value {
            MetricValue::Boolean(value) => Value::Bool(*value),
            MetricValue::Integer(value) => Value::Int(*value),
            MetricValue::BigInteger(digits) => match parse_argument("a big integer", digits)? {
                value @ (Value::Int(_) | Value::BigInt(_)) => value,
                other => {
                    return Err(Error::InvalidArgument(format!(
                        "metric {:?} should be an integer, not {}",
                        metric.name,
                        kind(&other)
                    )));
                }
            },
            MetricValue::Float(value) => Value::Float(*value),
            MetricValue::Text(text) => Value::String(text.as_str().into()),
            MetricValue::Other(text) => parse_argument(&format!("metric {:?}", metric.name), text)?,
        };
        if object.insert(metric.name.as_str(), value).is_some() {
            return Err(Error::InvalidArgument(format!(
                "metric {:?} is given twice",
                metric.name
            )));
        }
    }
    Ok(object)
}

fn timestamp(fields: &mut Fields<'_, '_>, field: &str) -> Result<Option<String>> {
    let Some(text) = fields.optional_text(field)?.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    match Timestamp::parse(&text) {
        Ok(_) => Ok(Some(text)),
        Err(reason) => Err(Error::corrupt(
            fields.file,
            None,
            format!("`{field}` is {text:?}, which is not a time: {reason}"),
        )),
    }
}

fn descriptor_fields(file: &str, within: &str, value: Value<'_>) -> Result<ArtifactDescriptor> {
    let Value::Object(object) = value else {
        return Err(Error::corrupt(
            file,
            None,
            format!("{within}should be an object, not {}", kind(&value)),
        ));
    };
    let mut fields = Fields {
        file,
        within,
        object,
    };
    Ok(ArtifactDescriptor {
        artifact_id: fields.text("artifact_id", "")?,
        name: fields.text("name", "")?,
        kind: fields.text("kind", DEFAULT_KIND)?,
        format: fields.text("format", DEFAULT_FORMAT)?,
        uri: fields.text("uri", "")?,
        content_hash: fields.optional_text("content_hash")?,
        size_bytes: match fields.object.remove("size_bytes") {
            None | Some(Value::Null) => None,
            Some(Value::Int(size)) if size >= 0 => Some(size.unsigned_abs()),
            Some(other) => return Err(fields.wrong("size_bytes", "a count of bytes", &other)),
        },
        metadata: fields.object_text("metadata")?,
        unknown: fields.rest(),
    })
}

/// Loads a descriptor from an entry of an artifact manifest.
///
/// # Errors
/// `corrupt` or `unrepresentable`, naming the file and the entry.
pub fn descriptor(file: &str, index: usize, value: Value<'_>) -> Result<ArtifactDescriptor> {
    descriptor_fields(file, &format!("artifact {index}: "), value)
}

/// Loads a run record from the text of its file.
///
/// # Errors
/// `corrupt` if the text is not JSON, not an object or not what the reference could load, `unrepresentable` if a typed
/// field cannot hold a value.
pub fn load_run_record(file: &str, text: &[u8]) -> Result<RunRecord> {
    match str::from_utf8(text).ok().and_then(quick::run_record) {
        Some(record) => Ok(record),
        None => run_record(file, parse_object(file, text)?),
    }
}

/// Loads a run record.
///
/// # Errors
/// `corrupt` if the reference could not load it, `unrepresentable` if a typed field cannot hold a value.
pub fn run_record(file: &str, object: Object<'_>) -> Result<RunRecord> {
    let mut fields = Fields {
        file,
        within: "",
        object,
    };
    let status = match fields.object.remove("status") {
        None => Status::Failed,
        Some(Value::String(text)) => {
            let known = text.as_str().and_then(Status::parse);
            known.ok_or_else(|| {
                let reason = format!(
                    "`status` is {}, not one of success, failed, cancelled, running",
                    line(&Value::String(text))
                );
                Error::corrupt(file, None, reason)
            })?
        }
        Some(other) => {
            return Err(Error::corrupt(
                file,
                None,
                format!("`status` should be a text, not {}", kind(&other)),
            ));
        }
    };
    let started_at = timestamp(&mut fields, "started_at")?;
    let finished_at = timestamp(&mut fields, "finished_at")?;
    let metrics = match fields.object.remove("metrics") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Object(object)) => metrics_from(file, object)?,
        Some(other) => return Err(fields.wrong("metrics", "an object", &other)),
    };
    let mut tags = Vec::new();
    for tag in fields.list("tags")? {
        match tag {
            Value::String(text) => tags.push(fields.text_of("tags", text)?),
            other => return Err(fields.wrong("tags", "a list of texts", &other)),
        }
    }
    let warnings = fields.list("warnings")?.iter().map(line).collect();
    let mut artifacts = Vec::new();
    for (index, entry) in fields.list("artifacts")?.into_iter().enumerate() {
        artifacts.push(descriptor(file, index, entry)?);
    }
    Ok(RunRecord {
        run_id: fields.text("run_id", "")?,
        experiment_id: fields.text("experiment_id", "")?,
        status,
        context_fingerprint: fields.text("context_fingerprint", "")?,
        params_fingerprint: fields.text("params_fingerprint", "")?,
        seed_fingerprint: fields.text("seed_fingerprint", "")?,
        started_at,
        finished_at,
        duration_ms: match fields.object.remove("duration_ms") {
            None | Some(Value::Null) => 0,
            Some(Value::Int(value)) => value,
            Some(other) => {
                return Err(fields.wrong("duration_ms", "an integer of at most 64 bits", &other));
            }
        },
        metrics,
        provenance: provenance(file, fields.object.remove("provenance"))?,
        error: match fields.object.remove("error") {
            None | Some(Value::Null) => None,
            Some(value) => Some(line(&value)),
        },
        params_resolved: fields.object_text("params_resolved")?,
        tags,
        warnings,
        notes: fields.optional_text("notes")?,
        artifacts,
        schema_version: fields.text("_schema_version", "")?,
        unknown: fields.rest(),
    })
}

fn provenance(file: &str, value: Option<Value<'_>>) -> Result<Provenance> {
    // The reference takes anything but an object as an empty provenance.
    let object = match value {
        Some(Value::Object(object)) => object,
        _ => Object::new(),
    };
    let mut fields = Fields {
        file,
        within: "provenance: ",
        object,
    };
    Ok(Provenance {
        code_hash: fields.optional_text("code_hash")?,
        python_version: fields.optional_text("python_version")?,
        metalab_version: fields.optional_text("metalab_version")?,
        executor_id: fields.optional_text("executor_id")?,
        host: fields.optional_text("host")?,
        extra: fields.object_text("extra")?,
        unknown: fields.rest(),
    })
}

fn put<'a>(object: &mut Object<'a>, field: &'static str, value: Value<'a>) {
    // A field that an `unknown` object also names: the typed field wins.
    object.insert(field, value);
}

fn text(value: &str) -> Value<'_> {
    Value::String(value.into())
}

fn optional(value: Option<&String>) -> Value<'_> {
    value.map_or(Value::Null, |value| text(value))
}

fn unknown<'a>(what: &str, value: &'a str) -> Result<Object<'a>> {
    if value.is_empty() || value == "{}" {
        Ok(Object::new())
    } else {
        parse_argument_object(what, value)
    }
}

fn open_object<'a>(what: &str, value: &'a str) -> Result<Value<'a>> {
    unknown(what, value).map(Value::Object)
}

/// Turns a descriptor into an object.
///
/// # Errors
/// `invalid-argument` if an open part is not a JSON object.
pub fn descriptor_to(descriptor: &ArtifactDescriptor) -> Result<Value<'_>> {
    let mut object = unknown("the artifact's unknown keys", &descriptor.unknown)?;
    put(&mut object, "artifact_id", text(&descriptor.artifact_id));
    put(&mut object, "name", text(&descriptor.name));
    put(&mut object, "kind", text(&descriptor.kind));
    put(&mut object, "format", text(&descriptor.format));
    put(&mut object, "uri", text(&descriptor.uri));
    put(
        &mut object,
        "content_hash",
        optional(descriptor.content_hash.as_ref()),
    );
    put(
        &mut object,
        "size_bytes",
        match descriptor.size_bytes {
            None => Value::Null,
            Some(size) => Value::Int(i64::try_from(size).map_err(|_| {
                Error::InvalidArgument(format!(
                    "artifact {:?} cannot have {size} bytes",
                    descriptor.name
                ))
            })?),
        },
    );
    put(
        &mut object,
        "metadata",
        open_object("the artifact's metadata", &descriptor.metadata)?,
    );
    Ok(Value::Object(object))
}

/// Says whether a record loads for certain, without loading it; of others it says nothing.
pub(crate) fn surely_loads(mut record: Parts<'_>) -> bool {
    let text_or_none = |value: Part<'_>| value.is_null() || value.text().is_some();
    let of_artifact = |(name, value): (Option<&str>, Part<'_>)| match name.map(str::as_bytes) {
        Some(b"artifact_id" | b"content_hash" | b"format" | b"kind" | b"name" | b"uri") => {
            text_or_none(value)
        }
        Some(b"size_bytes") => matches!(value.shape(), Shape::Null | Shape::Int(0..)),
        Some(b"metadata") => value.is_null() || value.is_object(),
        _ => true,
    };
    let mut has_status = false;
    let of_record = |(name, value): (Option<&str>, Part<'_>)| match name.map(str::as_bytes) {
        Some(b"status") => {
            has_status = true;
            value.text().and_then(Status::parse).is_some()
        }
        Some(b"started_at" | b"finished_at") => {
            value.is_null()
                || value
                    .text()
                    .is_some_and(|text| Timestamp::parse(text).is_ok())
        }
        Some(b"metrics") => {
            value.is_null()
                || (value.is_object() && value.entries().all(|(name, _)| name.is_some()))
        }
        Some(b"tags") => value.is_array() && value.items().all(|(_, tag)| tag.text().is_some()),
        Some(b"warnings") => value.is_array(),
        Some(b"artifacts") => {
            value.is_array()
                && value.items().all(|(_, artifact)| {
                    artifact.is_object() && artifact.entries().all(of_artifact)
                })
        }
        _ => true,
    };
    record.all(of_record) && has_status
}

/// Turns a record into the object that its file holds.
///
/// # Errors
/// `invalid-argument` if an open part is not what it should be, or a time is not one.
pub fn run_record_to(record: &RunRecord) -> Result<Object<'_>> {
    let mut object = unknown("the record's unknown keys", &record.unknown)?;
    put(&mut object, "run_id", text(&record.run_id));
    put(&mut object, "experiment_id", text(&record.experiment_id));
    put(&mut object, "status", text(record.status.as_str()));
    put(
        &mut object,
        "context_fingerprint",
        text(&record.context_fingerprint),
    );
    put(
        &mut object,
        "params_fingerprint",
        text(&record.params_fingerprint),
    );
    put(
        &mut object,
        "seed_fingerprint",
        text(&record.seed_fingerprint),
    );
    for (field, value) in [
        ("started_at", &record.started_at),
        ("finished_at", &record.finished_at),
    ] {
        if let Some(value) = value {
            put(&mut object, field, text(value));
        }
    }
    put(&mut object, "duration_ms", Value::Int(record.duration_ms));
    put(
        &mut object,
        "metrics",
        Value::Object(metrics_to(&record.metrics)?),
    );
    let provenance = &record.provenance;
    let mut inner = unknown("the provenance's unknown keys", &provenance.unknown)?;
    put(
        &mut inner,
        "code_hash",
        optional(provenance.code_hash.as_ref()),
    );
    put(
        &mut inner,
        "python_version",
        optional(provenance.python_version.as_ref()),
    );
    put(
        &mut inner,
        "metalab_version",
        optional(provenance.metalab_version.as_ref()),
    );
    put(
        &mut inner,
        "executor_id",
        optional(provenance.executor_id.as_ref()),
    );
    put(&mut inner, "host", optional(provenance.host.as_ref()));
    put(
        &mut inner,
        "extra",
        open_object("the provenance's `extra`", &provenance.extra)?,
    );
    put(&mut object, "provenance", Value::Object(inner));
    put(
        &mut object,
        "error",
        match &record.error {
            None => Value::Null,
            Some(error) => parse_argument("the record's `error`", error)?,
        },
    );
    put(
        &mut object,
        "params_resolved",
        open_object("the record's `params_resolved`", &record.params_resolved)?,
    );
    put(
        &mut object,
        "tags",
        Value::Array(record.tags.iter().map(|tag| text(tag)).collect()),
    );
    let warnings = record
        .warnings
        .iter()
        .map(|warning| parse_argument("a warning", warning));
    put(
        &mut object,
        "warnings",
        Value::Array(warnings.collect::<Result<_>>()?),
    );
    put(&mut object, "notes", optional(record.notes.as_ref()));
    let artifacts = record.artifacts.iter().map(descriptor_to);
    put(
        &mut object,
        "artifacts",
        Value::Array(artifacts.collect::<Result<_>>()?),
    );
    put(&mut object, "_schema_version", text(&record.schema_version));
    Ok(object)
}

/// What a line of text is of a run record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LineForm {
    /// The text of its file.
    AsWritten,
    /// What typed records hold, with all keys of the format, each with a value of its type; other keys are in an object
    /// `unknown` within theirs.
    Typed,
}

/// Appends the line of a run record; of an error nothing is appended.
///
/// # Errors
/// `corrupt` if the text is not JSON; of a typed line all errors of [`load_run_record`].
pub(crate) fn push_line(
    form: LineForm,
    file: &dyn Fn() -> String,
    text: &[u8],
    out: &mut String,
) -> Result<()> {
    let before = out.len();
    let mut check = quick::Check::default();
    match form {
        LineForm::AsWritten => json::minify(text, out),
        LineForm::Typed => json::minify_seen(text, &mut check, out),
    }
    .map_err(|error| Error::corrupt(file(), Some(error.offset), error.reason))?;
    if form == LineForm::AsWritten || check.is_whole() {
        return Ok(());
    }
    out.truncate(before);
    typed_line::push(&load_run_record(&file(), text)?, out);
    Ok(())
}

/// Completes a record that is about to be written: checks it, fills in the scope's experiment and the
/// defaults of fields that are missing, and stamps the version.
///
/// # Errors
/// `invalid-argument` if the run id or the status is missing or a time is not one; `conflict` if the
/// record names another experiment than the scope.
pub fn complete_record<'a>(
    mut object: Object<'a>,
    scope: Option<&'a str>,
) -> Result<(String, Object<'a>)> {
    let what = "the record";
    check_version(&object)?;
    let run_id = match object.get("run_id") {
        Some(Value::String(id)) if id.as_str().is_some_and(|id| !id.is_empty()) => {
            id.as_str().unwrap_or_default().to_owned()
        }
        _ => {
            return Err(Error::InvalidArgument(
                "the record has no run id: `run_id` should be a text".into(),
            ));
        }
    };
    match object.get("status") {
        Some(Value::String(status)) if status.as_str().and_then(Status::parse).is_some() => {}
        None => {
            return Err(Error::InvalidArgument(format!(
                "the record of run {run_id:?} has no `status`"
            )));
        }
        Some(other) => {
            return Err(Error::InvalidArgument(format!(
                "the record of run {run_id:?} has the status {}, not one of success, failed, cancelled, running",
                line(other)
            )));
        }
    }
    let named = match object.get("experiment_id") {
        None | Some(Value::Null) => "",
        Some(Value::String(id)) => id.as_str().unwrap_or("\u{fffd}"),
        Some(_) => {
            return Err(Error::InvalidArgument(format!(
                "{what}'s `experiment_id` should be a text"
            )));
        }
    };
    match scope {
        None if named.is_empty() => {
            return Err(Error::InvalidArgument(format!(
                "the record of run {run_id:?} names no experiment; name one, or open the store of an experiment"
            )));
        }
        Some(scope) if named.is_empty() => put(&mut object, "experiment_id", text(scope)),
        Some(scope) if named != scope => {
            return Err(Error::Conflict {
                current: None,
                message: format!(
                    "the record of run {run_id:?} belongs to experiment {named:?}, this store to {scope:?}; open the store of {named:?}"
                ),
            });
        }
        _ => {}
    }
    for field in ["started_at", "finished_at"] {
        match object.get(field) {
            None => {}
            Some(Value::Null) => {
                object.remove(field);
            }
            Some(Value::String(value))
                if value
                    .as_str()
                    .is_some_and(|value| Timestamp::parse(value).is_ok()) => {}
            Some(other) => {
                return Err(Error::InvalidArgument(format!(
                    "the record of run {run_id:?}: `{field}` is {}, which is not an ISO 8601 time",
                    line(other)
                )));
            }
        }
    }
    for field in [
        "context_fingerprint",
        "params_fingerprint",
        "seed_fingerprint",
    ] {
        default(&mut object, field, || text(""));
    }
    for field in ["metrics", "params_resolved"] {
        default(&mut object, field, || Value::Object(Object::new()));
    }
    for field in ["tags", "warnings", "artifacts"] {
        default(&mut object, field, || Value::Array(Vec::new()));
    }
    for field in ["error", "notes"] {
        default(&mut object, field, || Value::Null);
    }
    default(&mut object, "duration_ms", || Value::Int(0));
    let mut inner = match object.remove("provenance") {
        Some(Value::Object(inner)) => inner,
        None | Some(Value::Null) => Object::new(),
        Some(_) => {
            return Err(Error::InvalidArgument(format!(
                "{what}'s `provenance` should be an object"
            )));
        }
    };
    for field in [
        "code_hash",
        "python_version",
        "metalab_version",
        "executor_id",
        "host",
    ] {
        default(&mut inner, field, || Value::Null);
    }
    default(&mut inner, "extra", || Value::Object(Object::new()));
    put(&mut object, "provenance", Value::Object(inner));
    for (field, list) in [
        ("metrics", false),
        ("params_resolved", false),
        ("tags", true),
        ("warnings", true),
        ("artifacts", true),
    ] {
        let right = matches!(
            (object.get(field), list),
            (Some(Value::Array(_)), true) | (Some(Value::Object(_)), false)
        );
        if !right {
            return Err(Error::InvalidArgument(format!(
                "the record of run {run_id:?}: `{field}` should be {}",
                if list { "a list" } else { "an object" }
            )));
        }
    }
    put(&mut object, "_schema_version", text(SCHEMA_VERSION));
    Ok((run_id, object))
}

fn default<'a>(object: &mut Object<'a>, field: &'static str, value: impl FnOnce() -> Value<'a>) {
    if !object.contains_key(field) {
        put(object, field, value());
    }
}

/// Returns the version of a record's format as a text, if it is another than the one that this crate writes.
#[must_use]
pub fn other_version(object: &Object<'_>) -> Option<String> {
    let version = match object.get("_schema_version") {
        None | Some(Value::Null) => return None,
        Some(Value::String(version)) => version.as_str().unwrap_or("\u{fffd}").to_owned(),
        Some(other) => line(other),
    };
    (!version.is_empty() && version != SCHEMA_VERSION).then_some(version)
}

/// Checks that a document about to be written is not of a newer format than this one.
fn check_version(object: &Object<'_>) -> Result<()> {
    match other_version(object) {
        None => Ok(()),
        Some(version) => Err(Error::InvalidArgument(format!(
            "the record is of format version {version}; this version writes {SCHEMA_VERSION} and does not rewrite newer records: update the store"
        ))),
    }
}

/// Loads structured result data.
///
/// # Errors
/// `corrupt` or `unrepresentable`, naming the file.
pub fn structured_result(file: &str, object: Object<'_>) -> Result<StructuredResult> {
    let mut fields = Fields {
        file,
        within: "",
        object,
    };
    let data = fields
        .object
        .remove("data")
        .map_or_else(|| "null".to_owned(), |data| line(&data));
    let shape = match fields.object.remove("shape") {
        None | Some(Value::Null) => None,
        Some(Value::Array(items)) => {
            let mut shape = Vec::with_capacity(items.len());
            for item in items {
                match item {
                    Value::Int(size) if size >= 0 => shape.push(size.unsigned_abs()),
                    other => return Err(fields.wrong("shape", "a list of sizes", &other)),
                }
            }
            Some(shape)
        }
        Some(other) => return Err(fields.wrong("shape", "a list of sizes", &other)),
    };
    Ok(StructuredResult {
        data,
        dtype: fields.optional_text("dtype")?,
        shape,
        metadata: fields.object_text("metadata")?,
        unknown: fields.rest(),
    })
}

/// Turns structured result data into the object that its file holds.
///
/// # Errors
/// `invalid-argument` if an open part is not what it should be.
pub fn structured_result_to(result: &StructuredResult) -> Result<Object<'_>> {
    let mut object = unknown("the result's unknown keys", &result.unknown)?;
    put(
        &mut object,
        "data",
        parse_argument("the result's data", &result.data)?,
    );
    put(&mut object, "dtype", optional(result.dtype.as_ref()));
    put(
        &mut object,
        "metadata",
        open_object("the result's metadata", &result.metadata)?,
    );
    let mut shape = Value::Null;
    if let Some(sizes) = &result.shape {
        let mut items = Vec::with_capacity(sizes.len());
        for size in sizes {
            let size = i64::try_from(*size).map_err(|_| {
                Error::InvalidArgument(format!("the result's shape cannot hold {size}"))
            })?;
            items.push(Value::Int(size));
        }
        shape = Value::Array(items);
    }
    put(&mut object, "shape", shape);
    Ok(object)
}
