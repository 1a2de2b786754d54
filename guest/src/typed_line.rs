//! Prints run records as typed lines: `next-typed-lines` in `wit/store.wit` says what these are.

use crate::json::{push_float, push_text};
use crate::model::{ArtifactDescriptor, Metric, MetricValue, Provenance, RunRecord};
use crate::quick::EMPTY;

/// Appends the line of a record, without its end.
pub(crate) fn push(record: &RunRecord, out: &mut String) {
    text(r#"{"_schema_version":"#, &record.schema_version, out);
    list(r#","artifacts":"#, &record.artifacts, artifact, out);
    text(
        r#","context_fingerprint":"#,
        &record.context_fingerprint,
        out,
    );
    raw(r#","duration_ms":"#, &record.duration_ms.to_string(), out);
    raw(
        r#","error":"#,
        record.error.as_deref().unwrap_or("null"),
        out,
    );
    text(r#","experiment_id":"#, &record.experiment_id, out);
    optional(r#","finished_at":"#, record.finished_at.as_deref(), out);
    raw(r#","metrics":"#, "{", out);
    items(&record.metrics, metric, out);
    optional(r#"},"notes":"#, record.notes.as_deref(), out);
    text(r#","params_fingerprint":"#, &record.params_fingerprint, out);
    raw(r#","params_resolved":"#, &record.params_resolved, out);
    provenance(r#","provenance":"#, &record.provenance, out);
    text(r#","run_id":"#, &record.run_id, out);
    text(r#","seed_fingerprint":"#, &record.seed_fingerprint, out);
    optional(r#","started_at":"#, record.started_at.as_deref(), out);
    text(r#","status":"#, record.status.as_str(), out);
    list(
        r#","tags":"#,
        &record.tags,
        |tag, out| text("", tag, out),
        out,
    );
    unknown(&record.unknown, out);
    list(
        r#","warnings":"#,
        &record.warnings,
        |warning, out| out.push_str(warning),
        out,
    );
    out.push('}');
}

fn metric(metric: &Metric, out: &mut String) {
    text("", &metric.name, out);
    out.push(':');
    match &metric.value {
        MetricValue::Boolean(value) => raw("", if *value { "true" } else { "false" }, out),
        MetricValue::Integer(value) => raw("", &value.to_string(), out),
        MetricValue::Float(value) => push_float(*value, out),
        MetricValue::Text(value) => text("", value, out),
        MetricValue::BigInteger(value) | MetricValue::Other(value) => out.push_str(value),
    }
}

fn provenance(key: &str, provenance: &Provenance, out: &mut String) {
    raw(key, "{", out);
    optional(r#""code_hash":"#, provenance.code_hash.as_deref(), out);
    optional(r#","executor_id":"#, provenance.executor_id.as_deref(), out);
    raw(r#","extra":"#, &provenance.extra, out);
    optional(r#","host":"#, provenance.host.as_deref(), out);
    optional(
        r#","metalab_version":"#,
        provenance.metalab_version.as_deref(),
        out,
    );
    optional(
        r#","python_version":"#,
        provenance.python_version.as_deref(),
        out,
    );
    unknown(&provenance.unknown, out);
    out.push('}');
}

fn artifact(artifact: &ArtifactDescriptor, out: &mut String) {
    text(r#"{"artifact_id":"#, &artifact.artifact_id, out);
    optional(r#","content_hash":"#, artifact.content_hash.as_deref(), out);
    text(r#","format":"#, &artifact.format, out);
    text(r#","kind":"#, &artifact.kind, out);
    raw(r#","metadata":"#, &artifact.metadata, out);
    text(r#","name":"#, &artifact.name, out);
    let size = artifact.size_bytes.map(|size| size.to_string());
    raw(r#","size_bytes":"#, size.as_deref().unwrap_or("null"), out);
    unknown(&artifact.unknown, out);
    text(r#","uri":"#, &artifact.uri, out);
    out.push('}');
}

/// Appends the entries that the format does not know, if there are any.
fn unknown(entries: &str, out: &mut String) {
    if entries != EMPTY {
        raw(r#","unknown":"#, entries, out);
    }
}

fn raw(key: &str, json: &str, out: &mut String) {
    out.push_str(key);
    out.push_str(json);
}

fn text(key: &str, text: &str, out: &mut String) {
    out.push_str(key);
    push_text(&text.into(), out);
}

fn optional(key: &str, value: Option<&str>, out: &mut String) {
    match value {
        Some(value) => text(key, value, out),
        None => raw(key, "null", out),
    }
}

fn list<T>(key: &str, of: &[T], item: impl Fn(&T, &mut String), out: &mut String) {
    raw(key, "[", out);
    items(of, item, out);
    out.push(']');
}

fn items<T>(of: &[T], item: impl Fn(&T, &mut String), out: &mut String) {
    for (index, one) in of.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        item(one, out);
    }
}
