//! Pages of run records as one text and numbers: a record has some thirty texts, and each that crosses by itself is dear.

use crate::json::Scalar;
use crate::model::{
    ArtifactDescriptor, Metric, MetricValue, Provenance, RunRecord as Record, Status,
};
use crate::quick::{self, Keep};
use std::marker::PhantomData;

/// Run records, one after the other. `packed-records` in `wit/store.wit` says what the numbers are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packed {
    /// How many they are.
    pub count: u32,
    /// What their texts are pieces of.
    pub text: String,
    /// The numbers.
    pub fields: Vec<u32>,
}

/// What is made room for at first, in bytes.
const ROOM: usize = 256 * 1024;

/// Where a text starts and ends.
#[derive(Clone, Copy, Default)]
struct Range(u32, u32);

/// An optional text that is not there.
const NONE: Range = Range(u32::MAX, u32::MAX);

impl Packed {
    /// Adds a record as its file holds it, if it is of the usual form.
    pub(crate) fn push_text(&mut self, record: &str) -> bool {
        let start = self.text.len();
        if self.count == 0 {
            // Most pages have some hundred records of about a kibibyte.
            self.text.reserve(ROOM);
            self.fields.reserve(ROOM / 16);
        }
        // Its texts lie in it.
        self.text.push_str(record);
        let mut ranges = Ranges {
            record,
            start,
            text: &mut self.text,
        };
        let Some(found) = quick::read(record, &mut ranges) else {
            self.text.truncate(start);
            return false;
        };
        self.push(&found, |_, range| *range);
        true
    }

    /// Adds a record.
    pub(crate) fn push_record(&mut self, record: &Record) {
        self.push(record, |text, piece| append(text, piece));
    }

    fn push<T>(&mut self, record: &Record<T>, place: impl Fn(&mut String, &T) -> Range) {
        let mut writer = Writer {
            fields: &mut self.fields,
            text: &mut self.text,
            place,
            of: PhantomData,
        };
        writer.record(record);
        self.count += 1;
    }
}

/// Appends a text.
fn append(text: &mut String, piece: &str) -> Range {
    let start = text.len();
    text.push_str(piece);
    range(start, text.len())
}

/// No page has more bytes than 32 bits count: a record has at most 64 MiB.
fn range(start: usize, end: usize) -> Range {
    let number = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
    Range(number(start), number(end))
}

/// Keeps the texts of a record where they are.
struct Ranges<'a, 'p> {
    record: &'a str,
    /// Where the record lies in the page.
    start: usize,
    text: &'p mut String,
}

impl<'a> Keep<'a> for Ranges<'a, '_> {
    type Text = Range;

    fn string(&mut self, body: &'a str, escaped: bool) -> Option<Range> {
        if escaped {
            let content = Scalar::String(body, escaped).into_string()?;
            return Some(append(self.text, &content));
        }
        let offset = body.as_ptr().addr() - self.record.as_ptr().addr();
        Some(range(self.start + offset, self.start + offset + body.len()))
    }

    fn made(&mut self, text: &str) -> Range {
        append(self.text, text)
    }
}

/// Writes the numbers of a record: of each of its fields, in the order in which the contract has them.
struct Writer<'p, T, P> {
    fields: &'p mut Vec<u32>,
    text: &'p mut String,
    place: P,
    of: PhantomData<T>,
}

impl<T, P: Fn(&mut String, &T) -> Range> Writer<'_, T, P> {
    fn number(&mut self, number: u32) {
        self.fields.push(number);
    }

    fn wide(&mut self, number: u64) {
        let [a, b, c, d, e, f, g, h] = number.to_le_bytes();
        let halves = [[a, b, c, d], [e, f, g, h]];
        self.fields.extend(halves.map(u32::from_le_bytes));
    }

    fn range(&mut self, Range(start, end): Range) {
        self.fields.extend([start, end]);
    }

    fn text(&mut self, text: &T) {
        let range = (self.place)(self.text, text);
        self.range(range);
    }

    fn optional(&mut self, text: Option<&T>) {
        match text {
            Some(text) => self.text(text),
            None => self.range(NONE),
        }
    }

    fn list<I>(&mut self, items: &[I], mut item: impl FnMut(&mut Self, &I)) {
        self.number(u32::try_from(items.len()).unwrap_or(u32::MAX));
        for one in items {
            item(self, one);
        }
    }

    fn record(&mut self, record: &Record<T>) {
        self.text(&record.run_id);
        self.text(&record.experiment_id);
        self.number(match record.status {
            Status::Success => 0,
            Status::Failed => 1,
            Status::Cancelled => 2,
            Status::Running => 3,
        });
        self.text(&record.context_fingerprint);
        self.text(&record.params_fingerprint);
        self.text(&record.seed_fingerprint);
        self.optional(record.started_at.as_ref());
        self.optional(record.finished_at.as_ref());
        self.wide(record.duration_ms.cast_unsigned());
        self.list(&record.metrics, Self::metric);
        self.provenance(&record.provenance);
        self.optional(record.error.as_ref());
        self.text(&record.params_resolved);
        self.list(&record.tags, Self::text);
        self.list(&record.warnings, Self::text);
        self.optional(record.notes.as_ref());
        self.list(&record.artifacts, Self::artifact);
        self.text(&record.schema_version);
        self.text(&record.unknown);
    }

    fn metric(&mut self, metric: &Metric<T>) {
        self.text(&metric.name);
        match &metric.value {
            MetricValue::Boolean(value) => {
                self.number(0);
                self.number(u32::from(*value));
            }
            MetricValue::Integer(value) => {
                self.number(1);
                self.wide(value.cast_unsigned());
            }
            MetricValue::BigInteger(digits) => {
                self.number(2);
                self.text(digits);
            }
            MetricValue::Float(value) => {
                self.number(3);
                self.wide(value.to_bits());
            }
            MetricValue::Text(text) => {
                self.number(4);
                self.text(text);
            }
            MetricValue::Other(text) => {
                self.number(5);
                self.text(text);
            }
        }
    }

    fn provenance(&mut self, provenance: &Provenance<T>) {
        self.optional(provenance.code_hash.as_ref());
        self.optional(provenance.python_version.as_ref());
        self.optional(provenance.metalab_version.as_ref());
        self.optional(provenance.executor_id.as_ref());
        self.optional(provenance.host.as_ref());
        self.text(&provenance.extra);
        self.text(&provenance.unknown);
    }

    fn artifact(&mut self, artifact: &ArtifactDescriptor<T>) {
        self.text(&artifact.artifact_id);
        self.text(&artifact.name);
        self.text(&artifact.kind);
        self.text(&artifact.format);
        self.text(&artifact.uri);
        self.optional(artifact.content_hash.as_ref());
        self.number(u32::from(artifact.size_bytes.is_some()));
        self.wide(artifact.size_bytes.unwrap_or_default());
        self.text(&artifact.metadata);
        self.text(&artifact.unknown);
    }
}
