//! The data of the store as plain values: the same shapes as in `wit/types.wit`, where they are explained.

/// JSON text as Python's `json` prints and reads it.
pub type JsonText = String;

/// How a run ended, or that it has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// The run finished.
    Success,
    /// The run ended with an error.
    Failed,
    /// The run was stopped on request.
    Cancelled,
    /// The run has not finished.
    Running,
}

impl Status {
    /// Returns the status as the format writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Running => "running",
        }
    }

    /// Reads a status as the format writes it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Success, Self::Failed, Self::Cancelled, Self::Running]
            .into_iter()
            .find(|status| status.as_str() == text)
    }
}

/// The value of a metric.
#[derive(Clone, Debug, PartialEq)]
pub enum MetricValue {
    /// A truth value.
    Boolean(bool),
    /// An integer that fits 64 bits.
    Integer(i64),
    /// An integer that does not, in decimal.
    BigInteger(String),
    /// A floating point number.
    Float(f64),
    /// A text.
    Text(String),
    /// Anything else, as JSON text.
    Other(JsonText),
}

/// A named metric.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// The name.
    pub name: String,
    /// The value.
    pub value: MetricValue,
}

/// Where a run's code ran, and which code it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provenance {
    /// Hash of the operation's code.
    pub code_hash: Option<String>,
    /// Version of the Python interpreter.
    pub python_version: Option<String>,
    /// Version of the experiment library.
    pub metalab_version: Option<String>,
    /// Which executor ran it.
    pub executor_id: Option<String>,
    /// Name of the machine.
    pub host: Option<String>,
    /// The format's own open part: an object.
    pub extra: JsonText,
    /// Unknown keys: an object.
    pub unknown: JsonText,
}

/// What the store knows about an artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArtifactDescriptor {
    /// The writer's identifier.
    pub artifact_id: String,
    /// The name, unique within the run.
    pub name: String,
    /// What kind of thing it is.
    pub kind: String,
    /// Its file format.
    pub format: String,
    /// Where the file is; only the tail counts.
    pub uri: String,
    /// SHA-256 in hexadecimal, whole or the first 16 digits.
    pub content_hash: Option<String>,
    /// Size in bytes.
    pub size_bytes: Option<u64>,
    /// Open metadata: an object.
    pub metadata: JsonText,
    /// Unknown keys: an object.
    pub unknown: JsonText,
}

/// One run of an experiment.
#[derive(Clone, Debug, PartialEq)]
pub struct RunRecord {
    /// The run's identifier.
    pub run_id: String,
    /// The experiment it belongs to.
    pub experiment_id: String,
    /// How it ended.
    pub status: Status,
    /// Fingerprint of the context.
    pub context_fingerprint: String,
    /// Fingerprint of the parameters.
    pub params_fingerprint: String,
    /// Fingerprint of the seeds.
    pub seed_fingerprint: String,
    /// When it started, as written.
    pub started_at: Option<String>,
    /// When it finished, as written.
    pub finished_at: Option<String>,
    /// How long it took, in milliseconds.
    pub duration_ms: i64,
    /// The metrics, sorted by name.
    pub metrics: Vec<Metric>,
    /// Where and what ran.
    pub provenance: Provenance,
    /// What went wrong: an object.
    pub error: Option<JsonText>,
    /// The resolved parameters: an object.
    pub params_resolved: JsonText,
    /// Tags.
    pub tags: Vec<String>,
    /// Warnings, each an object.
    pub warnings: Vec<JsonText>,
    /// Free text.
    pub notes: Option<String>,
    /// The artifacts that the run reported.
    pub artifacts: Vec<ArtifactDescriptor>,
    /// The version of the format.
    pub schema_version: String,
    /// Unknown keys: an object.
    pub unknown: JsonText,
}

/// Structured result data of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StructuredResult {
    /// The data: any JSON value.
    pub data: JsonText,
    /// The element type.
    pub dtype: Option<String>,
    /// The shape.
    pub shape: Option<Vec<u64>>,
    /// Open metadata: an object.
    pub metadata: JsonText,
    /// Unknown keys: an object.
    pub unknown: JsonText,
}

/// Which version of an experiment's manifest a body is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestHeader {
    /// The experiment.
    pub experiment_id: String,
    /// The timestamp in the file's name.
    pub timestamp: String,
    /// Counts manifests with an equal timestamp.
    pub counter: u32,
}

/// An experiment manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Which version it is.
    pub header: ManifestHeader,
    /// The manifest: an object.
    pub body: JsonText,
}

/// A piece of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogChunk {
    /// The text; bytes that are not UTF-8 appear as U+FFFD.
    pub text: String,
    /// The byte offset to read on from.
    pub next_offset: u64,
    /// How many replacement characters were put in.
    pub replaced: u32,
    /// Whether the end was reached.
    pub end: bool,
}

/// A file that could not be read as what it should be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Damage {
    /// The file, relative to the directory that the store was opened on.
    pub file: String,
    /// The byte offset of the problem.
    pub offset: Option<u64>,
    /// What is wrong with it.
    pub reason: String,
}

/// What a put requires of the record that it replaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expectation {
    /// Nothing.
    Anything,
    /// That there is none.
    Absent,
    /// That it has this revision.
    Revision(String),
}

/// Something that has a file of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// The record of a run.
    RunRecord(String),
    /// The derived metrics of a run.
    Derived(String),
    /// A structured result of a run, by name.
    Result(String, String),
    /// The artifact manifest of a run.
    ArtifactManifest(String),
    /// A manifest of an experiment.
    ExperimentManifest(ManifestHeader),
}

/// Which artifact is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArtifactReference {
    /// By uri; only the tail counts.
    Uri(String),
    /// By run id and name.
    Name(String, String),
}

/// What may be done with a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read.
    ReadOnly,
    /// Read and write.
    ReadWrite,
}

/// What an acknowledged write survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// A kill and a power cut.
    Full,
    /// A kill.
    Relaxed,
}

/// How the component names a connection pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexOptions {
    /// The name of the binding.
    pub binding: String,
    /// The schema that holds the tables.
    pub schema: String,
    /// Whether tables are created when missing.
    pub auto_migrate: bool,
    /// Whether the reference's tables are written too.
    pub projection: bool,
}

/// What a store is opened with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreOptions {
    /// The granted directory, by its name outside.
    pub directory: String,
    /// The experiment that the store is limited to.
    pub experiment_id: Option<String>,
    /// What may be done with it.
    pub access: Access,
    /// What an acknowledged write survives.
    pub durability: Durability,
    /// How long a write waits for another writer, in milliseconds.
    pub lock_timeout_ms: u32,
    /// The query index.
    pub index: Option<IndexOptions>,
}
