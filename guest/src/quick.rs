//! Reads run records of the usual form without building a tree of them.
//!
//! [`codec::run_record`](crate::codec::run_record) says what a record is; this says the same of texts as the format's writers
//! make them, in a fraction of the time, and nothing at all of others: those whose keys are not in order, or that have anything
//! which the format does not expect where it is.

use crate::codec::{DEFAULT_FORMAT, DEFAULT_KIND};
use crate::json::{
    Kind, Line, Scalar, Sink, compare, is_own_form, is_same, parse_float, push_text, scan,
};
use crate::model::{ArtifactDescriptor, Metric, MetricValue, Provenance, RunRecord, Status};
use crate::time::Timestamp;
use std::cmp::Ordering;

/// Loads a run record, or says nothing.
pub(crate) fn run_record(text: &str) -> Option<RunRecord> {
    let mut reader = Reader {
        record: RunRecord {
            run_id: String::new(),
            experiment_id: String::new(),
            status: Status::Failed,
            context_fingerprint: String::new(),
            params_fingerprint: String::new(),
            seed_fingerprint: String::new(),
            started_at: None,
            finished_at: None,
            duration_ms: 0,
            metrics: Vec::new(),
            provenance: Provenance {
                code_hash: None,
                python_version: None,
                metalab_version: None,
                executor_id: None,
                host: None,
                extra: EMPTY.to_owned(),
                unknown: EMPTY.to_owned(),
            },
            error: None,
            params_resolved: EMPTY.to_owned(),
            tags: Vec::new(),
            warnings: Vec::new(),
            notes: None,
            artifacts: Vec::new(),
            schema_version: String::new(),
            unknown: EMPTY.to_owned(),
        },
        usual: true,
        within: Within::Nothing,
        field: Field::Unknown,
        keys: Keys::new(&TOP),
        inner: Keys::new(&[]),
        line: Line::default(),
        depth: 0,
        unknown: [String::new(), String::new()],
    };
    scan(text, &mut reader).ok()?;
    reader.usual.then_some(reader.record)
}

/// An object without entries, as text.
pub(crate) const EMPTY: &str = "{}";

/// No float that a program prints exactly has more bytes.
const LONGEST_FLOAT: usize = 32;

/// What a value is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Field {
    // Of a record.
    SchemaVersion,
    Artifacts,
    ContextFingerprint,
    DurationMs,
    Error,
    ExperimentId,
    FinishedAt,
    Metrics,
    Notes,
    ParamsFingerprint,
    ParamsResolved,
    Provenance,
    RunId,
    SeedFingerprint,
    StartedAt,
    Status,
    Tags,
    Warnings,
    // Of a provenance.
    CodeHash,
    ExecutorId,
    Extra,
    Host,
    MetalabVersion,
    PythonVersion,
    // Of an artifact.
    ArtifactId,
    ContentHash,
    Format,
    ArtifactKind,
    Metadata,
    Name,
    SizeBytes,
    Uri,
    /// Of any of these.
    Unknown,
}

/// A field that the format knows.
struct Known {
    name: &'static str,
    /// The name as a key is written.
    key: &'static str,
    field: Field,
}

macro_rules! known {
    ($($name:literal: $field:ident),* $(,)?) => {
        [$(Known {
            name: $name,
            key: concat!("\"", $name, "\""),
            field: Field::$field,
        }),*]
    };
}

/// The fields of a record, in the order of their names.
static TOP: [Known; 18] = known![
    "_schema_version": SchemaVersion,
    "artifacts": Artifacts,
    "context_fingerprint": ContextFingerprint,
    "duration_ms": DurationMs,
    "error": Error,
    "experiment_id": ExperimentId,
    "finished_at": FinishedAt,
    "metrics": Metrics,
    "notes": Notes,
    "params_fingerprint": ParamsFingerprint,
    "params_resolved": ParamsResolved,
    "provenance": Provenance,
    "run_id": RunId,
    "seed_fingerprint": SeedFingerprint,
    "started_at": StartedAt,
    "status": Status,
    "tags": Tags,
    "warnings": Warnings,
];

/// The fields of a provenance, in the order of their names.
static PROVENANCE: [Known; 6] = known![
    "code_hash": CodeHash,
    "executor_id": ExecutorId,
    "extra": Extra,
    "host": Host,
    "metalab_version": MetalabVersion,
    "python_version": PythonVersion,
];

/// The fields of an artifact, in the order of their names.
static ARTIFACT: [Known; 8] = known![
    "artifact_id": ArtifactId,
    "content_hash": ContentHash,
    "format": Format,
    "kind": ArtifactKind,
    "metadata": Metadata,
    "name": Name,
    "size_bytes": SizeBytes,
    "uri": Uri,
];

/// The keys of one object, as they come.
struct Keys<'a> {
    /// The fields that were not passed yet.
    fields: &'static [Known],
    last: Option<&'a str>,
}

impl<'a> Keys<'a> {
    fn new(fields: &'static [Known]) -> Self {
        Self { fields, last: None }
    }

    /// Returns the key of the next field, as it is written.
    fn likely(&self) -> Option<&'static str> {
        self.fields.first().map(|known| known.key)
    }

    /// Passes the next field, whose key came.
    fn pass(&mut self) -> Option<Field> {
        let (known, rest) = self.fields.split_first()?;
        self.fields = rest;
        self.last = Some(known.name);
        Some(known.field)
    }

    /// Returns the field of a key; none if the keys are not in order.
    fn next(&mut self, key: &'a str) -> Option<Field> {
        // The usual case: the next field. No key before it was behind it.
        if let Some((known, _)) = self.fields.split_first()
            && is_same(known.name.as_bytes(), key.as_bytes())
        {
            return self.pass();
        }
        if self
            .last
            .is_some_and(|last| compare(last.as_bytes(), key.as_bytes()).is_ge())
        {
            return None;
        }
        self.last = Some(key);
        while let Some((known, rest)) = self.fields.split_first() {
            match compare(known.name.as_bytes(), key.as_bytes()) {
                Ordering::Less => self.fields = rest,
                Ordering::Equal => {
                    self.fields = rest;
                    return Some(known.field);
                }
                Ordering::Greater => break,
            }
        }
        Some(Field::Unknown)
    }
}

/// What the next value is an entry or an item of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Within {
    /// It is the text's own value.
    Nothing,
    Record,
    Metrics,
    Provenance,
    Tags,
    Warnings,
    Artifacts,
    Artifact,
}

/// What a container is that opens.
enum Opened {
    /// One that the format knows.
    Known(Within),
    /// One that may hold anything.
    Any,
    /// One that the format does not expect there.
    Unexpected,
}

impl Within {
    /// Says what a container is that opens here, as the value of a field where there are any.
    fn open(self, field: Field, kind: Kind) -> Opened {
        Opened::Known(match (self, field, kind) {
            (Self::Nothing, _, Kind::Object) => Self::Record,
            (Self::Record, Field::Metrics, Kind::Object) => Self::Metrics,
            (Self::Record, Field::Provenance, Kind::Object) => Self::Provenance,
            (Self::Record, Field::Tags, Kind::Array) => Self::Tags,
            (Self::Record, Field::Warnings, Kind::Array) => Self::Warnings,
            (Self::Record, Field::Artifacts, Kind::Array) => Self::Artifacts,
            (Self::Artifacts, _, Kind::Object) => Self::Artifact,
            (Self::Metrics | Self::Warnings, ..)
            | (Self::Record, Field::Error, _)
            | (Self::Record, Field::ParamsResolved, Kind::Object)
            | (Self::Provenance, Field::Extra, Kind::Object)
            | (Self::Artifact, Field::Metadata, Kind::Object)
            | (Self::Record | Self::Provenance | Self::Artifact, Field::Unknown, _) => {
                return Opened::Any;
            }
            _ => return Opened::Unexpected,
        })
    }

    /// Returns what this is a part of.
    fn around(self) -> Self {
        match self {
            Self::Artifact => Self::Artifacts,
            Self::Nothing | Self::Record => Self::Nothing,
            _ => Self::Record,
        }
    }

    /// Returns the fields of an object in a record.
    fn fields(self) -> &'static [Known] {
        match self {
            Self::Provenance => &PROVENANCE,
            Self::Artifact => &ARTIFACT,
            _ => &[],
        }
    }
}

struct Reader<'a> {
    record: RunRecord,
    /// Whether the text is of the usual form so far.
    usual: bool,
    within: Within,
    /// The field that the next value is, where fields have names.
    field: Field,
    /// The keys of the record itself, and those of the object in it.
    keys: Keys<'a>,
    inner: Keys<'a>,
    /// What is kept as text.
    line: Line<'a>,
    /// How many containers are open of what is being kept as text.
    depth: usize,
    /// The entries that the format does not know, of the record itself and of the object in it.
    unknown: [String; 2],
}

/// Of what is not of the usual form, these say nothing.
impl<'a> Reader<'a> {
    fn unusual(&mut self) {
        self.usual = false;
    }

    /// Takes what was kept as text.
    fn keep(&mut self) -> Option<()> {
        if self.field == Field::Unknown && self.within != Within::Metrics {
            return self.keep_unknown();
        }
        let text = self.line.take(str::to_owned)?;
        match (self.within, self.field) {
            (Within::Metrics, _) => {
                self.record.metrics.last_mut()?.value = MetricValue::Other(text);
            }
            (Within::Warnings, _) => self.record.warnings.push(text),
            (Within::Record, Field::Error) => self.record.error = Some(text),
            (Within::Record, Field::ParamsResolved) => self.record.params_resolved = text,
            (Within::Provenance, Field::Extra) => self.record.provenance.extra = text,
            (Within::Artifact, Field::Metadata) => {
                self.record.artifacts.last_mut()?.metadata = text;
            }
            _ => return None,
        }
        Some(())
    }

    /// Adds an entry that the format does not know to the others of its object.
    fn keep_unknown(&mut self) -> Option<()> {
        let [of_record, of_inner] = &mut self.unknown;
        let (keys, entries) = match self.within {
            Within::Record => (&self.keys, of_record),
            _ => (&self.inner, of_inner),
        };
        entries.push(if entries.is_empty() { '{' } else { ',' });
        push_text(&keys.last?.into(), entries);
        entries.push(':');
        self.line.take(|text| entries.push_str(text))
    }

    /// Takes the entries that the format does not know of an object that has come to its end.
    fn take_unknown(&mut self, of: usize) -> String {
        let entries = &mut self.unknown[of];
        if entries.is_empty() {
            return EMPTY.to_owned();
        }
        entries.push('}');
        std::mem::take(entries)
    }

    /// Returns a text, or that there is none.
    fn text(&mut self, value: Scalar<'a>) -> Option<Option<String>> {
        match value {
            Scalar::Null => Some(None),
            Scalar::String(..) => value.into_string().map(Some),
            _ => None,
        }
    }

    /// Returns a text, or an empty one.
    fn text_or_empty(&mut self, value: Scalar<'a>) -> Option<String> {
        self.text(value).map(Option::unwrap_or_default)
    }

    /// Returns a text, or the default.
    fn text_or(&mut self, value: Scalar<'a>, default: &str) -> Option<String> {
        let text = self.text(value)?;
        Some(text.unwrap_or_else(|| default.to_owned()))
    }

    /// Returns a time as it is written, or that there is none.
    fn time(&mut self, value: Scalar<'a>) -> Option<Option<String>> {
        if matches!(value, Scalar::Null) {
            return Some(None);
        }
        match value.plain()? {
            "" => Some(None),
            text => {
                Timestamp::parse(text).ok()?;
                Some(Some(text.to_owned()))
            }
        }
    }

    fn of_metrics(&mut self, value: Scalar<'a>) -> Option<()> {
        let value = match value {
            Scalar::Bool(value) => MetricValue::Boolean(value),
            Scalar::Integer(text) => match text.parse() {
                Ok(value) => MetricValue::Integer(value),
                Err(_) => MetricValue::BigInteger(text.to_owned()),
            },
            Scalar::Float(text) => MetricValue::Float(parse_float(text)),
            Scalar::NotFinite(value) => MetricValue::Float(value),
            Scalar::String(..) => MetricValue::Text(value.into_string()?),
            Scalar::Null => MetricValue::Other("null".to_owned()),
        };
        self.record.metrics.last_mut()?.value = value;
        Some(())
    }

    fn of_record(&mut self, value: Scalar<'a>) -> Option<()> {
        match self.field {
            Field::SchemaVersion => self.record.schema_version = self.text_or_empty(value)?,
            Field::ContextFingerprint => {
                self.record.context_fingerprint = self.text_or_empty(value)?;
            }
            Field::ExperimentId => self.record.experiment_id = self.text_or_empty(value)?,
            Field::ParamsFingerprint => {
                self.record.params_fingerprint = self.text_or_empty(value)?;
            }
            Field::RunId => self.record.run_id = self.text_or_empty(value)?,
            Field::SeedFingerprint => self.record.seed_fingerprint = self.text_or_empty(value)?,
            Field::Notes => self.record.notes = self.text(value)?,
            Field::StartedAt => self.record.started_at = self.time(value)?,
            Field::FinishedAt => self.record.finished_at = self.time(value)?,
            Field::DurationMs => self.record.duration_ms = integer(value)?.unwrap_or_default(),
            Field::Status => self.record.status = Status::parse(value.plain()?)?,
            Field::Error | Field::Metrics | Field::ParamsResolved
                if matches!(value, Scalar::Null) => {}
            Field::Error | Field::Unknown => self.as_text(value)?,
            // The reference takes anything but an object as an empty provenance.
            Field::Provenance => {}
            _ => return None,
        }
        Some(())
    }

    fn of_provenance(&mut self, value: Scalar<'a>) -> Option<()> {
        match self.field {
            Field::CodeHash => self.record.provenance.code_hash = self.text(value)?,
            Field::ExecutorId => self.record.provenance.executor_id = self.text(value)?,
            Field::Host => self.record.provenance.host = self.text(value)?,
            Field::MetalabVersion => self.record.provenance.metalab_version = self.text(value)?,
            Field::PythonVersion => self.record.provenance.python_version = self.text(value)?,
            Field::Extra if matches!(value, Scalar::Null) => {}
            Field::Unknown => self.as_text(value)?,
            _ => return None,
        }
        Some(())
    }

    fn of_artifact(&mut self, value: Scalar<'a>) -> Option<()> {
        match self.field {
            Field::ArtifactId => {
                let text = self.text_or_empty(value)?;
                self.artifact()?.artifact_id = text;
            }
            Field::Format => {
                let text = self.text_or(value, DEFAULT_FORMAT)?;
                self.artifact()?.format = text;
            }
            Field::ArtifactKind => {
                let text = self.text_or(value, DEFAULT_KIND)?;
                self.artifact()?.kind = text;
            }
            Field::Name => {
                let text = self.text_or_empty(value)?;
                self.artifact()?.name = text;
            }
            Field::Uri => {
                let text = self.text_or_empty(value)?;
                self.artifact()?.uri = text;
            }
            Field::ContentHash => {
                let text = self.text(value)?;
                self.artifact()?.content_hash = text;
            }
            Field::SizeBytes => {
                let size = integer(value)?.map(u64::try_from).transpose();
                self.artifact()?.size_bytes = size.ok()?;
            }
            Field::Metadata if matches!(value, Scalar::Null) => {}
            Field::Unknown => self.as_text(value)?,
            _ => return None,
        }
        Some(())
    }

    fn artifact(&mut self) -> Option<&mut ArtifactDescriptor> {
        self.record.artifacts.last_mut()
    }

    /// Keeps a value that is no container as text.
    fn as_text(&mut self, value: Scalar<'a>) -> Option<()> {
        self.line.scalar(value);
        self.keep()
    }
}

/// Returns an integer of at most 64 bits, or that there is none.
fn integer(value: Scalar<'_>) -> Option<Option<i64>> {
    match value {
        Scalar::Null => Some(None),
        Scalar::Integer(text) => text.parse().ok().map(Some),
        _ => None,
    }
}

impl<'a> Sink<'a> for Reader<'a> {
    fn scalar(&mut self, value: Scalar<'a>) {
        if !self.usual {
            return;
        }
        if self.depth > 0 {
            return self.line.scalar(value);
        }
        let taken = match self.within {
            Within::Record => self.of_record(value),
            Within::Metrics => self.of_metrics(value),
            Within::Provenance => self.of_provenance(value),
            Within::Artifact => self.of_artifact(value),
            Within::Warnings => self.as_text(value),
            Within::Tags => match value {
                Scalar::String(..) => value.into_string().map(|tag| self.record.tags.push(tag)),
                _ => None,
            },
            Within::Artifacts | Within::Nothing => None,
        };
        self.usual = taken.is_some();
    }

    fn likely_key(&self) -> Option<&'static str> {
        match self.within {
            _ if !self.usual || self.depth > 0 => None,
            Within::Record => self.keys.likely(),
            _ => self.inner.likely(),
        }
    }

    fn likely_key_came(&mut self) {
        let field = match self.within {
            Within::Record => self.keys.pass(),
            _ => self.inner.pass(),
        };
        match field {
            Some(field) => self.field = field,
            None => self.unusual(),
        }
    }

    fn key(&mut self, body: &'a str, escaped: bool) {
        if !self.usual {
            return;
        }
        if self.depth > 0 {
            return self.line.key(body, escaped);
        }
        if escaped {
            return self.unusual();
        }
        let field = match self.within {
            Within::Record => self.keys.next(body),
            _ => self.inner.next(body),
        };
        let Some(field) = field else {
            return self.unusual();
        };
        self.field = field;
        if self.within == Within::Metrics {
            self.record.metrics.push(Metric {
                name: body.to_owned(),
                // Its value comes next.
                value: MetricValue::Boolean(false),
            });
        }
    }

    fn open(&mut self, kind: Kind) {
        if !self.usual {
            return;
        }
        if self.depth > 0 {
            self.depth += 1;
            return self.line.open(kind);
        }
        match self.within.open(self.field, kind) {
            Opened::Known(within) => {
                self.within = within;
                self.inner = Keys::new(within.fields());
                if within == Within::Artifact {
                    self.record.artifacts.push(ArtifactDescriptor {
                        artifact_id: String::new(),
                        name: String::new(),
                        kind: DEFAULT_KIND.to_owned(),
                        format: DEFAULT_FORMAT.to_owned(),
                        uri: String::new(),
                        content_hash: None,
                        size_bytes: None,
                        metadata: EMPTY.to_owned(),
                        unknown: EMPTY.to_owned(),
                    });
                }
            }
            Opened::Any => {
                self.depth = 1;
                self.line.open(kind);
            }
            Opened::Unexpected => self.unusual(),
        }
    }

    fn close(&mut self) {
        if !self.usual {
            return;
        }
        if self.depth > 0 {
            self.line.close();
            self.depth -= 1;
            if self.depth == 0 {
                self.usual = self.keep().is_some();
            }
            return;
        }
        match self.within {
            Within::Artifact => {
                let unknown = self.take_unknown(1);
                if let Some(artifact) = self.artifact() {
                    artifact.unknown = unknown;
                }
            }
            Within::Provenance => self.record.provenance.unknown = self.take_unknown(1),
            Within::Nothing | Within::Record => self.record.unknown = self.take_unknown(0),
            _ => {}
        }
        self.within = self.within.around();
    }
}

/// Checks whether a text that has no white space is a typed line as it is, without keeping anything of it: a record of the usual
/// form that has every field that the format knows, each of its type, and no others, and in which all that is kept as text is
/// written as this program prints it. Of other texts it says nothing.
pub(crate) struct Check<'a> {
    /// Whether it has been right so far.
    whole: bool,
    within: Within,
    /// The field that the next value is, where fields have names.
    field: Field,
    /// The fields that are to come, of the record itself and of the object in it.
    top: &'static [Known],
    inner: &'static [Known],
    last_metric: Option<&'a str>,
    /// The containers that are open of what may hold anything, with the last key of each.
    open: Vec<Option<&'a str>>,
}

impl Default for Check<'_> {
    fn default() -> Self {
        Self {
            whole: true,
            within: Within::Nothing,
            field: Field::Unknown,
            top: &TOP,
            inner: &[],
            last_metric: None,
            open: Vec::new(),
        }
    }
}

impl Check<'_> {
    /// Says whether a text that has come to its end was right.
    pub(crate) fn is_whole(&self) -> bool {
        self.whole && self.top.is_empty()
    }

    /// The fields that are to come where a key is.
    fn fields(&mut self) -> &mut &'static [Known] {
        match self.within {
            Within::Record => &mut self.top,
            _ => &mut self.inner,
        }
    }

    /// Passes the next field.
    fn pass(&mut self) -> Option<&'static Known> {
        let fields = self.fields();
        let (known, rest) = fields.split_first()?;
        *fields = rest;
        Some(known)
    }

    /// Returns the field of a key, which has to be the next one.
    fn next(&mut self, key: &str) -> Option<Field> {
        let known = self.pass()?;
        is_same(known.name.as_bytes(), key.as_bytes()).then_some(known.field)
    }

    fn is_right(&self, value: Scalar<'_>) -> bool {
        let is_null = matches!(value, Scalar::Null);
        match (self.within, self.field) {
            (Within::Record, Field::StartedAt | Field::FinishedAt) => {
                is_null
                    || value
                        .plain()
                        .is_some_and(|text| Timestamp::parse(text).is_ok())
            }
            (Within::Record, Field::Status) => value.plain().and_then(Status::parse).is_some(),
            (Within::Record, Field::DurationMs) => integer(value).flatten().is_some(),
            (Within::Artifact, Field::SizeBytes) => {
                integer(value).is_some_and(|size| size.is_none_or(|size| size >= 0))
                    && is_own_form(value)
            }
            (Within::Metrics, _) => match value {
                // One that no string holds is kept as it is written.
                Scalar::String(_, true) => value.into_string().is_some() || is_own_form(value),
                // Not every reader takes all digits of a longer one.
                Scalar::Float(text) => text.len() <= LONGEST_FLOAT,
                _ => true,
            },
            (Within::Warnings, _) | (Within::Record, Field::Error) => is_own_form(value),
            (
                Within::Record,
                Field::Metrics
                | Field::ParamsResolved
                | Field::Provenance
                | Field::Tags
                | Field::Warnings
                | Field::Artifacts,
            )
            | (Within::Provenance, Field::Extra)
            | (Within::Artifact, Field::Metadata)
            | (Within::Artifacts | Within::Nothing, _) => false,
            (Within::Record, Field::Notes)
            | (Within::Provenance, _)
            | (Within::Artifact, Field::ContentHash)
                if is_null =>
            {
                true
            }
            (Within::Record | Within::Provenance | Within::Artifact | Within::Tags, _) => {
                matches!(value, Scalar::String(_, false)) || value.into_string().is_some()
            }
        }
    }
}

/// Once it is not right, nothing matters any more.
impl<'a> Sink<'a> for Check<'a> {
    fn scalar(&mut self, value: Scalar<'a>) {
        if self.whole {
            self.whole = match self.open.is_empty() {
                true => self.is_right(value),
                false => is_own_form(value),
            };
        }
    }

    fn likely_key(&self) -> Option<&'static str> {
        match self.within {
            _ if !self.whole || !self.open.is_empty() => None,
            Within::Record => self.top.first().map(|known| known.key),
            _ => self.inner.first().map(|known| known.key),
        }
    }

    fn likely_key_came(&mut self) {
        if let Some(known) = self.pass() {
            self.field = known.field;
        }
    }

    fn key(&mut self, body: &'a str, escaped: bool) {
        if !self.whole {
            return;
        }
        let last = match self.open.last_mut() {
            Some(last) => {
                self.whole = is_own_form(Scalar::String(body, escaped));
                last
            }
            None if self.within == Within::Metrics => &mut self.last_metric,
            None => {
                match self.next(body) {
                    Some(field) => self.field = field,
                    None => self.whole = false,
                }
                return;
            }
        };
        // Keys with escapes are ordered by what they say.
        self.whole &=
            !escaped && last.is_none_or(|last| compare(last.as_bytes(), body.as_bytes()).is_lt());
        *last = Some(body);
    }

    fn open(&mut self, kind: Kind) {
        if !self.whole {
            return;
        }
        if !self.open.is_empty() {
            return self.open.push(None);
        }
        match self.within.open(self.field, kind) {
            Opened::Known(within) => {
                self.within = within;
                self.inner = within.fields();
            }
            Opened::Any => self.open.push(None),
            Opened::Unexpected => self.whole = false,
        }
    }

    fn close(&mut self) {
        if !self.whole || self.open.pop().is_some() {
            return;
        }
        match self.within {
            Within::Artifact | Within::Provenance => self.whole = self.inner.is_empty(),
            Within::Record | Within::Nothing => self.whole = self.top.is_empty(),
            _ => {}
        }
        self.within = self.within.around();
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop where it fails")]
mod tests {
    use super::*;
    use crate::codec;
    use crate::json;

    /// A record with everything that the format has, in the order of the keys.
    const WHOLE: &str = r#"{"_schema_version":"0.1","aaa":{"b":[1.5,{"c":null}],"d":-0.0},"artifacts":[{"artifact_id":"i","content_hash":"3cfd","format":"npz","kind":"numpy","metadata":{"shape":[2,3]},"more":1,"name":"w","size_bytes":71,"uri":"/x/w.npz"},{}],"context_fingerprint":"c","duration_ms":1000,"error":{"message":"\u00e4\n","type":"E"},"experiment_id":"e:1","finished_at":"2026-03-01T09:00:01.123456","metrics":{"a":1.25,"b":true,"c":"text","d":12345678901234567890123,"e":null,"f":[1,2.50],"g":-0,"h":NaN,"i":1e5},"notes":"n","params_fingerprint":"p","params_resolved":{"lr":0.001,"n":{"deep":[[],{}]},"x":0.30000000000000004},"provenance":{"code_hash":"h","executor_id":null,"extra":{"a":1},"host":"m","metalab_version":"1","python_version":"3.11","zzz":"z"},"run_id":"r","seed_fingerprint":"s","started_at":"2026-03-01T09:00:00+01:00","status":"success","tags":["a","b\u0041"],"warnings":[{"message":"w"},"plain"],"zzz":[]}"#;

    /// Values of every kind, as they may stand anywhere.
    const VALUES: [&str; 22] = [
        "null",
        "true",
        "0",
        "-0",
        "7",
        "-7",
        "9223372036854775808",
        "1.0",
        "1.50",
        "1e5",
        "1E-7",
        "0.00001",
        "NaN",
        "-Infinity",
        "\"\"",
        "\"text\"",
        "\"\\ud800\"",
        "\"\\u00e4\u{e4}\"",
        "[]",
        "[1]",
        "{}",
        "{\"b\":1,\"a\":2}",
    ];

    fn is_whole(text: &str) -> bool {
        let mut check = Check::default();
        scan(text, &mut check).is_ok() && check.is_whole()
    }

    fn by_tree(text: &str) -> crate::error::Result<RunRecord> {
        codec::run_record("f", codec::parse_object("f", text.as_bytes())?)
    }

    /// The same without what the format does not know, and with everything that it knows.
    fn known() -> String {
        let known = WHOLE
            .replace(r#""aaa":{"b":[1.5,{"c":null}],"d":-0.0},"#, "")
            .replace(r#""more":1,"#, "")
            .replace(r#"},{}],"context"#, r#"}],"context"#)
            .replace(r#","zzz":"z""#, "")
            .replace(r#","zzz":[]"#, "")
            // All that is kept as text is written as this program prints it.
            .replace("2.50", "2.5");
        assert!(is_whole(&known));
        known
    }

    /// Makes a typed line, and says whether it is the text itself.
    #[track_caller]
    fn is_typed_line(text: &str) -> bool {
        let mut line = String::from("before");
        let made = codec::push_line(
            codec::LineForm::Typed,
            &|| "f".to_owned(),
            text.as_bytes(),
            &mut line,
        );
        let line = line.strip_prefix("before").unwrap();
        let record = match by_tree(text) {
            Ok(record) => record,
            Err(error) => {
                assert_eq!((made.unwrap_err(), line), (error, ""), "{text}");
                return false;
            }
        };
        made.unwrap();
        // A typed line is one of the record that the text holds, with everything that the format knows, and no more.
        let mut object = codec::parse_object("f", line.as_bytes()).unwrap();
        let unknown = take_unknown(&mut object);
        assert_eq!(unknown, record.unknown, "{text}");
        let Some(json::Value::Object(provenance)) = object.get_mut("provenance") else {
            panic!("{line}");
        };
        assert_eq!(take_unknown(provenance), record.provenance.unknown);
        let Some(json::Value::Array(artifacts)) = object.get_mut("artifacts") else {
            panic!("{line}");
        };
        for (artifact, expected) in artifacts.iter_mut().zip(&record.artifacts) {
            let json::Value::Object(artifact) = artifact else {
                panic!("{line}");
            };
            assert_eq!(take_unknown(artifact), expected.unknown);
        }
        has_keys(&object, &TOP);
        has_keys(
            object.get("provenance").unwrap().as_object().unwrap(),
            &PROVENANCE,
        );
        for artifact in object.get("artifacts").unwrap().as_array().unwrap() {
            has_keys(artifact.as_object().unwrap(), &ARTIFACT);
        }
        let without = codec::print_line(&json::Value::Object(object));
        let mut keys = Escaped(false);
        scan(&without, &mut keys).unwrap();
        // Of one with an escape in a key nothing is said.
        assert_eq!(is_whole(&without), !keys.0, "{without}");
        let mut known = record.clone();
        known.unknown = EMPTY.to_owned();
        known.provenance.unknown = EMPTY.to_owned();
        for artifact in &mut known.artifacts {
            artifact.unknown = EMPTY.to_owned();
        }
        assert_eq!(
            format!("{:?}", by_tree(&without).unwrap()),
            format!("{known:?}"),
            "{text}"
        );
        line == text
    }

    /// Whether a key has an escape.
    struct Escaped(bool);

    impl<'a> Sink<'a> for Escaped {
        fn scalar(&mut self, _value: Scalar<'a>) {}
        fn key(&mut self, _body: &'a str, escaped: bool) {
            self.0 |= escaped;
        }
        fn open(&mut self, _kind: Kind) {}
        fn close(&mut self) {}
    }

    #[track_caller]
    fn has_keys(object: &json::Object<'_>, fields: &[Known]) {
        let keys: Vec<&str> = object.iter().filter_map(|(key, _)| key.as_str()).collect();
        let names: Vec<&str> = fields.iter().map(|known| known.name).collect();
        assert_eq!(keys, names);
    }

    fn take_unknown(object: &mut json::Object<'_>) -> String {
        let unknown = object.remove("unknown");
        unknown.map_or_else(|| EMPTY.to_owned(), |unknown| codec::print_line(&unknown))
    }

    #[track_caller]
    fn agrees(text: &str) -> bool {
        let quick = run_record(text);
        if let Some(record) = &quick {
            // As text, for what is no number equals nothing.
            assert_eq!(
                format!("{record:?}"),
                format!("{:?}", by_tree(text).unwrap()),
                "{text}"
            );
        }
        quick.is_some()
    }

    #[test]
    fn a_record_of_the_usual_form_is_what_the_tree_says_that_it_is() {
        assert!(agrees(WHOLE));
        assert!(agrees("{}"));
        assert!(agrees(r#"{"run_id":"r"}"#));
        // With the white space of a file.
        let object = codec::parse_object("f", WHOLE.as_bytes()).unwrap();
        assert!(agrees(&codec::print(&json::Value::Object(object))));
    }

    #[test]
    fn a_typed_line_has_all_that_the_format_knows_and_only_that() {
        assert!(is_typed_line(&known()));
        for text in [
            WHOLE,
            "{}",
            r#"{"run_id":"r"}"#,
            r#"{"unknown":{"unknown":1},"provenance":{"unknown":null},"artifacts":[{"unknown":2}]}"#,
            r#"{"status":"success","run_id":"r","tags":["\ud83d\ude00"],"notes":"\ud800"}"#,
        ] {
            assert!(!is_typed_line(text), "{text}");
        }
        let known = known();
        let mut whole = 0;
        for (place, _) in known.match_indices(':') {
            let Ok(rest) = after_value(&known[place + 1..]) else {
                continue;
            };
            for value in VALUES {
                let text = format!("{}:{value}{rest}", &known[..place]);
                whole += usize::from(is_typed_line(&text));
            }
            // Without the entry, and with another one in its place.
            let start = known[..place].rfind('"').unwrap();
            let start = known[..start].rfind('"').unwrap();
            for text in [
                format!("{}{}", &known[..start], rest.trim_start_matches(',')),
                format!("{}\"zz\":1{rest}", &known[..start]),
            ] {
                if json::parse(text.as_bytes()).is_ok() {
                    is_typed_line(&text);
                }
            }
        }
        // It is no test of the tree alone.
        assert!(whole > 150, "{whole}");
        for place in 0..known.len() {
            for byte in ['"', ',', ':', '{', '}', '[', ']', '0', 'a', '\\'] {
                let text = format!("{}{byte}{}", &known[..place], &known[place..]);
                if json::parse(text.as_bytes()).is_ok() && !text.contains(' ') {
                    is_typed_line(&text);
                }
            }
        }
    }

    #[test]
    fn whatever_stands_in_place_of_a_value_the_tree_agrees_or_is_asked() {
        let mut said = 0;
        for (place, _) in WHOLE.match_indices(':') {
            let Ok(rest) = after_value(&WHOLE[place + 1..]) else {
                continue;
            };
            for value in VALUES {
                said += usize::from(agrees(&format!("{}:{value}{rest}", &WHOLE[..place])));
            }
        }
        // It is no test of the tree alone.
        assert!(said > 300, "{said}");
    }

    /// Returns what follows the value at the start of a text.
    fn after_value(text: &str) -> Result<&str, ()> {
        (1..=text.len())
            .filter(|end| text.is_char_boundary(*end))
            .find(|end| {
                json::parse(&text.as_bytes()[..*end]).is_ok()
                    && text[*end..].starts_with([',', '}', ']'])
            })
            .map(|end| &text[end..])
            .ok_or(())
    }

    #[test]
    fn every_cut_and_every_other_byte_is_left_to_the_tree_or_agreed_upon() {
        for place in 0..WHOLE.len() {
            agrees(&WHOLE[..place]);
            for byte in ['"', ',', ':', '{', '}', '[', ']', '0', 'a', '\\', ' ', '\n'] {
                let (before, after) = WHOLE.split_at(place);
                agrees(&format!("{before}{byte}{after}"));
                agrees(&format!("{before}{byte}{}", &after[1..]));
            }
        }
    }

    #[test]
    fn keys_out_of_order_twice_or_with_escapes_are_left_to_the_tree() {
        for text in [
            r#"{"status":"success","run_id":"r"}"#,
            r#"{"run_id":"r","run_id":"s"}"#,
            r#"{"run\u005fid":"r"}"#,
            r#"{"params_resolved":{"b":1,"a":2}}"#,
            r#"{"metrics":{"b":1,"a":2}}"#,
            r#"{"provenance":{"host":"h","code_hash":"c"}}"#,
            r#"{"artifacts":[{"name":"n","format":"f"}]}"#,
        ] {
            assert!(run_record(text).is_none(), "{text}");
            by_tree(text).unwrap();
        }
    }
}
