//! The values of the contract, as plain Rust types that serde can read and write.
//!
//! Fields whose type is text of JSON (`params_resolved`, `metadata`, …) hold JSON as Python's `json` module
//! prints it: it may contain `NaN` and integers of any size.

use crate::bindings::exports::metalab::store as exports;

pub use exports::config::{Access, Durability, ExperimentList, Locator};
pub use exports::store::{
    ArtifactReference, Expectation, FieldCatalogue, FieldSummary, IndexStanding, IndexState,
    OrphanedExperiment, RebuildProgress, RebuildReport, RunQuery,
};
pub use exports::types::{
    ArtifactDescriptor, Conflict, Corrupt, Damage, DatabaseError, InvalidName, InvalidQuery,
    IoError, LogChunk, Manifest, ManifestHeader, Metric, MetricValue, Missing, NameKind,
    Provenance, RunRecord, Status, StructuredResult, VersionedRun,
};

impl Default for Provenance {
    fn default() -> Self {
        Self {
            code_hash: None,
            python_version: None,
            metalab_version: None,
            executor_id: None,
            host: None,
            extra: "{}".to_owned(),
            unknown: "{}".to_owned(),
        }
    }
}

impl RunRecord {
    /// Makes a record of which nothing is known but what a put needs.
    #[must_use]
    pub fn new(run_id: impl Into<String>, status: Status) -> Self {
        Self {
            run_id: run_id.into(),
            experiment_id: String::new(),
            status,
            context_fingerprint: String::new(),
            params_fingerprint: String::new(),
            seed_fingerprint: String::new(),
            started_at: None,
            finished_at: None,
            duration_ms: 0,
            metrics: Vec::new(),
            provenance: Provenance::default(),
            error: None,
            params_resolved: "{}".to_owned(),
            tags: Vec::new(),
            warnings: Vec::new(),
            notes: None,
            artifacts: Vec::new(),
            schema_version: String::new(),
            unknown: "{}".to_owned(),
        }
    }
}

impl Default for RunQuery {
    /// All runs, the newest start first, whole.
    fn default() -> Self {
        Self {
            filter: String::new(),
            sort: String::new(),
            columns: String::new(),
            limit: None,
            cursor: None,
            check: false,
        }
    }
}

impl ArtifactDescriptor {
    /// Makes the descriptor of an artifact of a run, as a put needs it.
    #[must_use]
    pub fn new(
        run_id: &str,
        name: impl Into<String>,
        kind: impl Into<String>,
        format: impl Into<String>,
    ) -> Self {
        let name = name.into();
        Self {
            artifact_id: format!("{run_id}-{name}"),
            name,
            kind: kind.into(),
            format: format.into(),
            uri: String::new(),
            content_hash: None,
            size_bytes: None,
            metadata: serde_json::json!({ "_run_id": run_id }).to_string(),
            unknown: "{}".to_owned(),
        }
    }
}

impl StructuredResult {
    /// Makes a result of JSON data alone.
    #[must_use]
    pub fn new(data: impl Into<String>) -> Self {
        Self {
            data: data.into(),
            dtype: None,
            shape: None,
            metadata: "{}".to_owned(),
            unknown: "{}".to_owned(),
        }
    }
}
