//! The fields of a run that a query can name.

use std::fmt;

use super::error::Reason;
use super::expr::write_text;

/// One step of a path into nested values.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    /// The entry of this key of an object; nothing in a list.
    Key(String),
    /// The item of this number of a list, counted from 0; nothing in an object.
    Index(u32),
}

/// A field of a run.
///
/// [`fmt::Display`] prints it as a query names it, names in quotes where they need them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Field {
    /// `run_id`
    RunId,
    /// `experiment_id`
    ExperimentId,
    /// `status`
    Status,
    /// `context_fingerprint`
    ContextFingerprint,
    /// `params_fingerprint`
    ParamsFingerprint,
    /// `seed_fingerprint`
    SeedFingerprint,
    /// `started_at`
    StartedAt,
    /// `finished_at`
    FinishedAt,
    /// `duration_ms`
    DurationMs,
    /// `tags`
    Tags,
    /// `notes`
    Notes,
    /// `error` or a path into it, as `error.type`; the first step is a key.
    Error(Vec<Step>),
    /// `metrics.NAME`
    Metric(String),
    /// `params.PATH`: at least one step, the first a key.
    Param(Vec<Step>),
    /// `derived.NAME`
    Derived(String),
    /// `provenance.PATH`: at least one step, the first a key.
    Provenance(Vec<Step>),
}

/// What is known of a field's values before any record is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A text.
    Text,
    /// One of the four statuses, a text.
    Status,
    /// A point in time.
    Time,
    /// An integer.
    Integer,
    /// A list of texts.
    Texts,
    /// Whatever JSON can hold.
    Any,
}

/// The fields without parts, by name.
const PLAIN: [(&str, Field); 11] = [
    ("run_id", Field::RunId),
    ("experiment_id", Field::ExperimentId),
    ("status", Field::Status),
    ("context_fingerprint", Field::ContextFingerprint),
    ("params_fingerprint", Field::ParamsFingerprint),
    ("seed_fingerprint", Field::SeedFingerprint),
    ("started_at", Field::StartedAt),
    ("finished_at", Field::FinishedAt),
    ("duration_ms", Field::DurationMs),
    ("tags", Field::Tags),
    ("notes", Field::Notes),
];

/// The parts of the provenance that the format defines, all of them texts.
pub(super) const PROVENANCE_TEXTS: [&str; 5] = [
    "code_hash",
    "python_version",
    "metalab_version",
    "executor_id",
    "host",
];

impl Field {
    /// Makes the field that a word and the steps after it name.
    pub(super) fn named(head: &str, steps: Vec<Step>) -> Result<Self, Reason> {
        if let Some((name, field)) = PLAIN.iter().find(|(name, _)| *name == head) {
            return if steps.is_empty() {
                Ok(field.clone())
            } else {
                Err(Reason::NoParts(name))
            };
        }
        match head {
            "metrics" => flat("metrics", steps).map(Self::Metric),
            "derived" => flat("derived", steps).map(Self::Derived),
            "params" => nested("params", steps).map(Self::Param),
            "provenance" => nested("provenance", steps).map(Self::Provenance),
            "error" if steps.is_empty() => Ok(Self::Error(steps)),
            "error" => nested("error", steps).map(Self::Error),
            _ => Err(Reason::UnknownField(super::error::shown(head))),
        }
    }

    /// Returns what is known of the field's values.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::RunId
            | Self::ExperimentId
            | Self::ContextFingerprint
            | Self::ParamsFingerprint
            | Self::SeedFingerprint
            | Self::Notes => Kind::Text,
            Self::Status => Kind::Status,
            Self::StartedAt | Self::FinishedAt => Kind::Time,
            Self::DurationMs => Kind::Integer,
            Self::Tags => Kind::Texts,
            Self::Provenance(path) if provenance_text(path).is_some() => Kind::Text,
            Self::Error(_)
            | Self::Metric(_)
            | Self::Param(_)
            | Self::Derived(_)
            | Self::Provenance(_) => Kind::Any,
        }
    }
}

/// Returns the name of the part of the provenance that a path names, if the format defines it.
pub(super) fn provenance_text(path: &[Step]) -> Option<&str> {
    match path {
        [Step::Key(key)] if PROVENANCE_TEXTS.contains(&key.as_str()) => Some(key),
        _ => None,
    }
}

/// Joins the steps to one name: metrics hold no objects, so that a dot can only belong to the name.
fn flat(head: &'static str, steps: Vec<Step>) -> Result<String, Reason> {
    let mut name = String::new();
    if steps.is_empty() {
        return Err(Reason::NameMissing(head));
    }
    for (index, step) in steps.into_iter().enumerate() {
        let Step::Key(key) = step else {
            return Err(Reason::NoIndex(head));
        };
        if index > 0 {
            name.push('.');
        }
        name.push_str(&key);
    }
    Ok(name)
}

fn nested(head: &'static str, steps: Vec<Step>) -> Result<Vec<Step>, Reason> {
    match steps.first() {
        Some(Step::Key(_)) => Ok(steps),
        Some(Step::Index(_)) | None => Err(Reason::NameMissing(head)),
    }
}

/// Tells whether a name can stand in a path without quotes.
fn is_bare(name: &str) -> bool {
    !name.is_empty() && name.chars().all(is_word)
}

/// Tells whether a character can stand in a word.
pub(super) fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

fn write_key(f: &mut fmt::Formatter<'_>, key: &str) -> fmt::Result {
    f.write_str(".")?;
    if is_bare(key) {
        f.write_str(key)
    } else {
        write_text(f, key)
    }
}

fn write_path(f: &mut fmt::Formatter<'_>, head: &str, path: &[Step]) -> fmt::Result {
    f.write_str(head)?;
    for step in path {
        match step {
            Step::Key(key) => write_key(f, key)?,
            Step::Index(index) => write!(f, "[{index}]")?,
        }
    }
    Ok(())
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error(path) => write_path(f, "error", path),
            Self::Param(path) => write_path(f, "params", path),
            Self::Provenance(path) => write_path(f, "provenance", path),
            Self::Metric(name) => {
                f.write_str("metrics")?;
                write_key(f, name)
            }
            Self::Derived(name) => {
                f.write_str("derived")?;
                write_key(f, name)
            }
            plain => {
                let found = PLAIN.iter().find(|(_, field)| field == plain);
                f.write_str(found.map_or("", |(name, _)| name))
            }
        }
    }
}

/// One column of a projection: a field, or all fields of a kind as one object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Column {
    /// A single field.
    Field(Field),
    /// `metrics`: all metrics.
    Metrics,
    /// `params`: all parameters.
    Params,
    /// `derived`: all derived metrics.
    Derived,
    /// `provenance`: the whole provenance.
    Provenance,
}

impl Column {
    /// Makes the column that a word and the steps after it name.
    pub(super) fn named(head: &str, steps: Vec<Step>) -> Result<Self, Reason> {
        match head {
            "metrics" if steps.is_empty() => Ok(Self::Metrics),
            "params" if steps.is_empty() => Ok(Self::Params),
            "derived" if steps.is_empty() => Ok(Self::Derived),
            "provenance" if steps.is_empty() => Ok(Self::Provenance),
            _ => Field::named(head, steps).map(Self::Field),
        }
    }
}

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(field) => field.fmt(f),
            Self::Metrics => f.write_str("metrics"),
            Self::Params => f.write_str("params"),
            Self::Derived => f.write_str("derived"),
            Self::Provenance => f.write_str("provenance"),
        }
    }
}
