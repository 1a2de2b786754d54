//! The component's surface: maps its types and resources to the store's, and nothing else.

#![allow(
    missing_docs,
    unsafe_code,
    clippy::allow_attributes,
    reason = "generated bindings: an expectation would depend on the generator's version"
)]

use crate::database::listing::RunListing;
use crate::database::rebuild;
use crate::query::QueryText;
use crate::{artifacts, config as settings, connection, error, model, store as logic, wasi};
use std::cell::RefCell;

wit_bindgen::generate!({
    path: "../wit",
    world: "metalab-store",
    generate_all,
});

use exports::metalab::store::{config, store, types};

pub(crate) struct Component;

export!(Component);

/// Says that the host granted no directory.
fn not_granted() -> error::Error {
    error::Error::NotGranted("the host granted no directory".into())
}

// --- errors ------------------------------------------------------------------------------------------

impl From<error::NameKind> for types::NameKind {
    fn from(kind: error::NameKind) -> Self {
        match kind {
            error::NameKind::Run => Self::Run,
            error::NameKind::Experiment => Self::Experiment,
            error::NameKind::Artifact => Self::Artifact,
            error::NameKind::ArtifactFormat => Self::ArtifactFormat,
            error::NameKind::Result => Self::Result,
            error::NameKind::Log => Self::Log,
            error::NameKind::Manifest => Self::Manifest,
        }
    }
}

impl From<error::Error> for types::Error {
    fn from(error: error::Error) -> Self {
        use error::Error as E;
        match error {
            E::InvalidName {
                kind,
                name,
                message,
            } => Self::InvalidName(types::InvalidName {
                kind: kind.into(),
                name,
                message,
            }),
            E::InvalidArgument(message) => Self::InvalidArgument(message),
            E::NotFound {
                kind,
                name,
                message,
            } => Self::NotFound(types::Missing {
                kind: kind.into(),
                name,
                message,
            }),
            E::AlreadyExists(message) => Self::AlreadyExists(message),
            E::Conflict { current, message } => {
                Self::Conflict(types::Conflict { current, message })
            }
            E::Corrupt {
                file,
                offset,
                message,
            } => Self::Corrupt(types::Corrupt {
                file,
                offset,
                message,
            }),
            E::Unrepresentable {
                file,
                offset,
                message,
            } => Self::Unrepresentable(types::Corrupt {
                file,
                offset,
                message,
            }),
            E::Locked(message) => Self::Locked(message),
            E::LocksUnavailable(message) => Self::LocksUnavailable(message),
            E::ReadOnly(message) => Self::ReadOnly(message),
            E::Database {
                sqlstate,
                retryable,
                message,
            } => Self::Database(types::DatabaseError {
                sqlstate,
                retryable,
                message,
            }),
            E::NotGranted(message) => Self::NotGranted(message),
            E::InvalidQuery { position, message } => {
                Self::InvalidQuery(types::InvalidQuery { position, message })
            }
            E::TooLarge(message) => Self::TooLarge(message),
            E::Io {
                file,
                operation,
                code,
                outcome_unknown,
                message,
            } => Self::Io(types::IoError {
                file,
                operation: operation.to_owned(),
                code: code.to_owned(),
                outcome_unknown,
                message,
            }),
        }
    }
}

// --- values ------------------------------------------------------------------------------------------

/// Maps a record of the surface to one of the model and back: the same fields, field by field.
macro_rules! same_fields {
    ($($surface:ty = $model:ty { $($field:ident),* $(,)? })*) => { $(
        impl From<$model> for $surface {
            fn from(value: $model) -> Self {
                Self { $($field: value.$field.convert()),* }
            }
        }
        impl From<$surface> for $model {
            fn from(value: $surface) -> Self {
                Self { $($field: value.$field.convert()),* }
            }
        }
    )* };
}

/// A conversion that also reaches into lists and options.
pub(crate) trait Convert<T> {
    fn convert(self) -> T;
}

macro_rules! itself {
    ($($type:ty),*) => { $(impl Convert<$type> for $type { fn convert(self) -> $type { self } })* };
}

itself!(
    String,
    i64,
    u64,
    u32,
    bool,
    Option<String>,
    Option<u64>,
    Vec<String>,
    Option<Vec<u64>>
);

macro_rules! by_from {
    ($($surface:ty = $model:ty),* $(,)?) => { $(
        impl Convert<$surface> for $model { fn convert(self) -> $surface { self.into() } }
        impl Convert<$model> for $surface { fn convert(self) -> $model { self.into() } }
        impl Convert<Vec<$surface>> for Vec<$model> {
            fn convert(self) -> Vec<$surface> { self.into_iter().map(Into::into).collect() }
        }
        impl Convert<Vec<$model>> for Vec<$surface> {
            fn convert(self) -> Vec<$model> { self.into_iter().map(Into::into).collect() }
        }
    )* };
}

by_from!(
    types::Status = model::Status,
    types::Metric = model::Metric,
    types::MetricValue = model::MetricValue,
    types::Provenance = model::Provenance,
    types::ArtifactDescriptor = model::ArtifactDescriptor,
    types::ManifestHeader = model::ManifestHeader,
    types::Damage = model::Damage,
);

same_fields! {
    types::Metric = model::Metric { name, value }
    types::Provenance = model::Provenance {
        code_hash, python_version, metalab_version, executor_id, host, extra, unknown,
    }
    types::ArtifactDescriptor = model::ArtifactDescriptor {
        artifact_id, name, kind, format, uri, content_hash, size_bytes, metadata, unknown,
    }
    types::RunRecord = model::RunRecord {
        run_id, experiment_id, status, context_fingerprint, params_fingerprint, seed_fingerprint, started_at,
        finished_at, duration_ms, metrics, provenance, error, params_resolved, tags, warnings, notes, artifacts,
        schema_version, unknown,
    }
    types::StructuredResult = model::StructuredResult { data, dtype, shape, metadata, unknown }
    types::ManifestHeader = model::ManifestHeader { experiment_id, timestamp, counter }
    types::Manifest = model::Manifest { header, body }
    types::LogChunk = model::LogChunk { text, next_offset, replaced, end }
    types::Damage = model::Damage { file, offset, reason }
}

impl From<model::Status> for types::Status {
    fn from(status: model::Status) -> Self {
        match status {
            model::Status::Success => Self::Success,
            model::Status::Failed => Self::Failed,
            model::Status::Cancelled => Self::Cancelled,
            model::Status::Running => Self::Running,
        }
    }
}

impl From<types::Status> for model::Status {
    fn from(status: types::Status) -> Self {
        match status {
            types::Status::Success => Self::Success,
            types::Status::Failed => Self::Failed,
            types::Status::Cancelled => Self::Cancelled,
            types::Status::Running => Self::Running,
        }
    }
}

impl From<model::MetricValue> for types::MetricValue {
    fn from(value: model::MetricValue) -> Self {
        match value {
            model::MetricValue::Boolean(value) => Self::Boolean(value),
            model::MetricValue::Integer(value) => Self::Integer(value),
            model::MetricValue::BigInteger(value) => Self::BigInteger(value),
            model::MetricValue::Float(value) => Self::Float(value),
            model::MetricValue::Text(value) => Self::Text(value),
            model::MetricValue::Other(value) => Self::Other(value),
        }
    }
}

impl From<types::MetricValue> for model::MetricValue {
    fn from(value: types::MetricValue) -> Self {
        match value {
            types::MetricValue::Boolean(value) => Self::Boolean(value),
            types::MetricValue::Integer(value) => Self::Integer(value),
            types::MetricValue::BigInteger(value) => Self::BigInteger(value),
            types::MetricValue::Float(value) => Self::Float(value),
            types::MetricValue::Text(value) => Self::Text(value),
            types::MetricValue::Other(value) => Self::Other(value),
        }
    }
}

impl From<store::Expectation> for model::Expectation {
    fn from(expect: store::Expectation) -> Self {
        match expect {
            store::Expectation::Anything => Self::Anything,
            store::Expectation::Absent => Self::Absent,
            store::Expectation::Revision(revision) => Self::Revision(revision),
        }
    }
}

impl From<store::Document> for model::Document {
    fn from(document: store::Document) -> Self {
        use store::Document as D;
        match document {
            D::RunRecord(run) => Self::RunRecord(run),
            D::Derived(run) => Self::Derived(run),
            D::Result((run, name)) => Self::Result(run, name),
            D::ArtifactManifest(run) => Self::ArtifactManifest(run),
            D::ExperimentManifest(header) => Self::ExperimentManifest(model::ManifestHeader {
                experiment_id: header.experiment_id,
                timestamp: header.timestamp,
                counter: header.counter,
            }),
        }
    }
}

impl From<store::ArtifactReference> for model::ArtifactReference {
    fn from(artifact: store::ArtifactReference) -> Self {
        match artifact {
            store::ArtifactReference::Uri(uri) => Self::Uri(uri),
            store::ArtifactReference::Name((run, name)) => Self::Name(run, name),
        }
    }
}

fn outcomes(results: Vec<error::Result<String>>) -> Vec<store::PutOutcome> {
    results.into_iter().map(|outcome| Ok(outcome?)).collect()
}

// --- configurations ----------------------------------------------------------------------------------

impl From<config::Access> for model::Access {
    fn from(access: config::Access) -> Self {
        match access {
            config::Access::ReadOnly => Self::ReadOnly,
            config::Access::ReadWrite => Self::ReadWrite,
        }
    }
}

impl From<model::Access> for config::Access {
    fn from(access: model::Access) -> Self {
        match access {
            model::Access::ReadOnly => Self::ReadOnly,
            model::Access::ReadWrite => Self::ReadWrite,
        }
    }
}

impl From<config::Durability> for model::Durability {
    fn from(durability: config::Durability) -> Self {
        match durability {
            config::Durability::Full => Self::Full,
            config::Durability::Relaxed => Self::Relaxed,
        }
    }
}

impl From<model::Durability> for config::Durability {
    fn from(durability: model::Durability) -> Self {
        match durability {
            model::Durability::Full => Self::Full,
            model::Durability::Relaxed => Self::Relaxed,
        }
    }
}

same_fields! {
    config::PostgresConfig = settings::PostgresConfig {
        connection_string, schema, auto_migrate, connect_timeout_ms, pool_min_size, pool_max_size, projection,
    }
    config::IndexOptions = model::IndexOptions { binding, schema, auto_migrate, projection }
    config::StoreConfig = settings::StoreConfig {
        backend, root, experiment_id, access, durability, lock_timeout_ms,
    }
    config::StoreOptions = model::StoreOptions {
        directory, experiment_id, access, durability, lock_timeout_ms, index,
    }
}

by_from!(
    config::Access = model::Access,
    config::Durability = model::Durability,
    config::Backend = settings::Backend,
);

impl Convert<Option<config::IndexOptions>> for Option<model::IndexOptions> {
    fn convert(self) -> Option<config::IndexOptions> {
        self.map(Into::into)
    }
}

impl Convert<Option<model::IndexOptions>> for Option<config::IndexOptions> {
    fn convert(self) -> Option<model::IndexOptions> {
        self.map(Into::into)
    }
}

impl From<config::Backend> for settings::Backend {
    fn from(backend: config::Backend) -> Self {
        match backend {
            config::Backend::File => Self::File,
            config::Backend::Postgres(postgres) => Self::Postgres(postgres.into()),
        }
    }
}

impl From<settings::Backend> for config::Backend {
    fn from(backend: settings::Backend) -> Self {
        match backend {
            settings::Backend::File => Self::File,
            settings::Backend::Postgres(postgres) => Self::Postgres(postgres.into()),
        }
    }
}

impl config::Guest for Component {
    fn parse_locator(text: String) -> Result<config::Locator, types::Error> {
        let settings::Locator {
            scheme,
            path,
            host,
            port,
            user,
            password,
            parameters,
        } = settings::parse_locator(&text)?;
        Ok(config::Locator {
            scheme,
            path,
            host,
            port,
            user,
            password,
            parameters,
        })
    }

    fn from_locator(text: String) -> Result<config::StoreConfig, types::Error> {
        Ok(settings::from_locator(&text)?.into())
    }

    fn scoped(
        config: config::StoreConfig,
        experiment_id: String,
    ) -> Result<config::StoreConfig, types::Error> {
        Ok(settings::scoped(config.into(), &experiment_id)?.into())
    }

    fn for_experiment(
        config: config::StoreConfig,
        experiment_id: String,
    ) -> Result<config::StoreConfig, types::Error> {
        Self::scoped(config, experiment_id)
    }

    fn list_experiments(
        config: config::StoreConfig,
    ) -> Result<config::ExperimentList, types::Error> {
        let settings::ExperimentList {
            experiments,
            damaged,
        } = settings::list_experiments(&config.into(), wasi::ports())?;
        Ok(config::ExperimentList {
            experiments,
            damaged: damaged.convert(),
        })
    }

    fn resolve(config: config::StoreConfig) -> Result<config::Resolution, types::Error> {
        let settings::Resolution {
            subdirectory,
            options,
            connection,
            warnings,
        } = settings::resolve(&config.into(), wasi::ports().as_ref())?;
        Ok(config::Resolution {
            subdirectory,
            options: options.into(),
            connection: connection.map(Into::into),
            warnings,
        })
    }
}

impl From<connection::Connection> for config::Connection {
    fn from(connection: connection::Connection) -> Self {
        use connection::TlsMode;
        Self {
            hosts: connection.hosts,
            database: connection.database,
            user: connection.user,
            password: connection.password,
            tls_mode: match connection.tls_mode {
                TlsMode::Disable => config::TlsMode::Disable,
                TlsMode::Prefer => config::TlsMode::Prefer,
                TlsMode::Require => config::TlsMode::Require,
                TlsMode::VerifyCa => config::TlsMode::VerifyCa,
                TlsMode::VerifyFull => config::TlsMode::VerifyFull,
            },
            ca_file: connection.ca_file,
            parameters: connection.parameters,
            connect_timeout_ms: connection.connect_timeout_ms,
            pool_min_size: connection.pool_min_size,
            pool_max_size: connection.pool_max_size,
        }
    }
}

// --- the store ---------------------------------------------------------------------------------------

pub(crate) struct Store(logic::Store);

pub(crate) struct RunList(RefCell<RunListing>);

pub(crate) struct IndexRebuild(RefCell<rebuild::IndexRebuild>);

/// None once it is finished.
pub(crate) struct ArtifactWriter(RefCell<Option<artifacts::ArtifactWriter>>);

pub(crate) struct ArtifactReader(artifacts::ArtifactReader);

impl store::Guest for Component {
    type Store = Store;
    type RunList = RunList;
    type IndexRebuild = IndexRebuild;
    type ArtifactWriter = ArtifactWriter;
    type ArtifactReader = ArtifactReader;
}

/// The result of a call of the surface.
pub(crate) type Answer<T> = Result<T, types::Error>;

/// Returns the store of a resource.
pub(crate) fn logic_of<'s>(store: &'s store::StoreBorrow<'_>) -> &'s logic::Store {
    &store.get::<Store>().0
}

impl store::GuestStore for Store {
    fn open(options: store::StoreOptions) -> Answer<store::Store> {
        let ports = wasi::ports().ok_or_else(not_granted)?;
        Ok(store::Store::new(Self(logic::Store::open(
            ports,
            options.into(),
        )?)))
    }

    fn close(&self) -> Answer<()> {
        Ok(self.0.close()?)
    }

    fn get_working_directory(&self) -> String {
        self.0.working_directory()
    }

    fn put_run_record(
        &self,
        record: store::RunRecord,
        expect: store::Expectation,
    ) -> Answer<String> {
        Ok(self.0.put_run_record(&record.into(), &expect.into())?)
    }

    fn put_run_text(&self, record: String, expect: store::Expectation) -> Answer<String> {
        Ok(self.0.put_run_text(&record, &expect.into())?)
    }

    fn put_run_records(&self, records: Vec<store::RunRecord>) -> Answer<Vec<store::PutOutcome>> {
        let records: Vec<model::RunRecord> = records.into_iter().map(Into::into).collect();
        Ok(outcomes(self.0.put_run_records(&records)?))
    }

    fn put_run_lines(&self, lines: String) -> Answer<Vec<store::PutOutcome>> {
        Ok(outcomes(self.0.put_run_lines(&lines)?))
    }

    fn get_run_record(&self, run_id: String) -> Answer<Option<store::RunRecord>> {
        Ok(self.0.get_run_record(&run_id)?.map(Into::into))
    }

    fn get_versioned_run(&self, run_id: String) -> Answer<Option<store::VersionedRun>> {
        let found = self.0.get_versioned_run(&run_id)?;
        Ok(found.map(|(revision, record)| store::VersionedRun {
            revision,
            record: record.into(),
        }))
    }

    fn get_run_text(&self, run_id: String) -> Answer<Option<String>> {
        Ok(self.0.get_run_text(&run_id)?)
    }

    fn get_typed_run_text(&self, run_id: String) -> Answer<Option<String>> {
        Ok(self.0.get_typed_run_text(&run_id)?)
    }

    fn file_of(&self, document: store::Document) -> Answer<String> {
        Ok(self.0.file_of(&document.into())?)
    }

    fn list_run_records(&self, experiment_id: Option<String>) -> Answer<store::RunList> {
        let list = self.0.list_run_records(experiment_id.as_deref())?;
        Ok(store::RunList::new(RunList(RefCell::new(list))))
    }

    fn query_runs(&self, query: store::RunQuery) -> Answer<store::RunList> {
        let query = QueryText {
            filter: &query.filter,
            sort: &query.sort,
            columns: &query.columns,
            limit: query.limit,
            cursor: query.cursor.as_deref(),
            check: query.check,
        };
        let list = self.0.query_runs(&query)?;
        Ok(store::RunList::new(RunList(RefCell::new(list))))
    }

    fn list_fields(&self, filter: String) -> Answer<store::FieldCatalogue> {
        let found = self.0.list_fields(&filter)?;
        let fields = found.fields.into_iter().map(|field| store::FieldSummary {
            field: field.field,
            types: field.types.into_iter().map(str::to_owned).collect(),
            runs: field.runs,
            min: field.min,
            max: field.max,
            values: field.values,
            complete: field.complete,
        });
        Ok(store::FieldCatalogue {
            fields: fields.collect(),
            complete: found.complete,
            runs: found.runs,
            damaged: found.damaged.convert(),
        })
    }

    fn index_state(&self) -> Answer<store::IndexState> {
        let state = self.0.index_state()?;
        Ok(store::IndexState {
            standing: match state.standing {
                rebuild::Standing::None => store::IndexStanding::None,
                rebuild::Standing::Current => store::IndexStanding::Current,
                rebuild::Standing::Behind => store::IndexStanding::Behind,
                rebuild::Standing::Unreachable => store::IndexStanding::Unreachable,
            },
            pending: state.pending,
            trouble: state.trouble,
        })
    }

    fn rebuild_index(&self, prune: Vec<String>) -> Answer<store::IndexRebuild> {
        let rebuild = self.0.rebuild_index(&prune)?;
        Ok(store::IndexRebuild::new(IndexRebuild(RefCell::new(
            rebuild,
        ))))
    }

    fn run_exists(&self, run_id: String) -> Answer<bool> {
        Ok(self.0.run_exists(&run_id)?)
    }

    fn delete_run(&self, run_id: String) -> Answer<bool> {
        Ok(self.0.delete_run(&run_id)?)
    }

    fn put_derived(&self, run_id: String, metrics: Vec<store::Metric>) -> Answer<String> {
        let metrics: Vec<model::Metric> = metrics.convert();
        Ok(self.0.put_derived(&run_id, &metrics)?)
    }

    fn put_derived_text(&self, run_id: String, derived: String) -> Answer<String> {
        Ok(self.0.put_derived_text(&run_id, &derived)?)
    }

    fn put_derived_batch(
        &self,
        derived: Vec<(String, Vec<store::Metric>)>,
    ) -> Answer<Vec<store::PutOutcome>> {
        let derived: Vec<(String, Vec<model::Metric>)> = derived
            .into_iter()
            .map(|(run_id, metrics)| (run_id, metrics.convert()))
            .collect();
        Ok(outcomes(self.0.put_derived_batch(&derived)?))
    }

    fn get_derived(&self, run_id: String) -> Answer<Option<Vec<store::Metric>>> {
        Ok(self.0.get_derived(&run_id)?.map(Convert::convert))
    }

    fn get_derived_text(&self, run_id: String) -> Answer<Option<String>> {
        Ok(self.0.get_derived_text(&run_id)?)
    }

    fn derived_exists(&self, run_id: String) -> Answer<bool> {
        Ok(self.0.derived_exists(&run_id)?)
    }

    fn put_result(
        &self,
        run_id: String,
        name: String,
        result: store::StructuredResult,
    ) -> Answer<String> {
        Ok(self.0.put_result(&run_id, &name, &result.into())?)
    }

    fn get_result(&self, run_id: String, name: String) -> Answer<Option<store::StructuredResult>> {
        Ok(self.0.get_result(&run_id, &name)?.map(Into::into))
    }

    fn get_result_text(&self, run_id: String, name: String) -> Answer<Option<String>> {
        Ok(self.0.get_result_text(&run_id, &name)?)
    }

    fn list_results(&self, run_id: String) -> Answer<Vec<String>> {
        Ok(self.0.list_results(&run_id)?)
    }

    fn put_log(&self, run_id: String, name: String, content: String) -> Answer<()> {
        Ok(self.0.put_log(&run_id, &name, &content)?)
    }

    fn append_log(&self, run_id: String, name: String, content: String, sync: bool) -> Answer<u64> {
        Ok(self.0.append_log(&run_id, &name, &content, sync)?)
    }

    fn get_log(&self, run_id: String, name: String) -> Answer<Option<String>> {
        Ok(self.0.get_log(&run_id, &name)?)
    }

    fn read_log(
        &self,
        run_id: String,
        name: String,
        offset: u64,
        max_bytes: u32,
    ) -> Answer<Option<store::LogChunk>> {
        Ok(self
            .0
            .read_log(&run_id, &name, offset, max_bytes)?
            .map(Into::into))
    }

    fn list_logs(&self, run_id: String) -> Answer<Vec<String>> {
        Ok(self.0.list_logs(&run_id)?)
    }

    fn get_log_path(&self, run_id: String, name: String) -> Answer<String> {
        Ok(self.0.get_log_path(&run_id, &name)?)
    }

    fn put_artifact(
        &self,
        content: Vec<u8>,
        descriptor: store::ArtifactDescriptor,
    ) -> Answer<store::ArtifactDescriptor> {
        Ok(self.0.put_artifact(&content, descriptor.into())?.into())
    }

    fn create_artifact(
        &self,
        descriptor: store::ArtifactDescriptor,
    ) -> Answer<store::ArtifactWriter> {
        let writer = self.0.create_artifact(descriptor.into())?;
        Ok(store::ArtifactWriter::new(ArtifactWriter(RefCell::new(
            Some(writer),
        ))))
    }

    fn stage_artifact(&self, descriptor: store::ArtifactDescriptor) -> Answer<String> {
        Ok(self.0.stage_artifact(descriptor.into())?)
    }

    fn import_artifact(
        &self,
        staged: String,
        descriptor: store::ArtifactDescriptor,
    ) -> Answer<store::ArtifactDescriptor> {
        Ok(self.0.import_artifact(&staged, descriptor.into())?.into())
    }

    fn get_artifact(&self, artifact: store::ArtifactReference) -> Answer<Vec<u8>> {
        Ok(self.0.get_artifact(&artifact.into())?)
    }

    fn open_artifact(
        &self,
        artifact: store::ArtifactReference,
        verify: bool,
    ) -> Answer<store::ArtifactReader> {
        Ok(store::ArtifactReader::new(ArtifactReader(
            self.0.open_artifact(&artifact.into(), verify)?,
        )))
    }

    fn list_artifacts(&self, run_id: String) -> Answer<Vec<store::ArtifactDescriptor>> {
        Ok(self.0.list_artifacts(&run_id)?.convert())
    }

    fn put_experiment_manifest(
        &self,
        experiment_id: String,
        body: String,
        timestamp: Option<String>,
    ) -> Answer<store::ManifestHeader> {
        Ok(self
            .0
            .put_experiment_manifest(&experiment_id, &body, timestamp.as_deref())?
            .into())
    }

    fn get_experiment_manifest(&self, experiment_id: String) -> Answer<Option<store::Manifest>> {
        Ok(self
            .0
            .get_experiment_manifest(&experiment_id)?
            .map(Into::into))
    }

    fn list_experiment_manifests(
        &self,
        experiment_id: String,
    ) -> Answer<Vec<store::ManifestHeader>> {
        Ok(self.0.list_experiment_manifests(&experiment_id)?.convert())
    }
}

impl store::GuestRunList for RunList {
    fn remaining(&self) -> u64 {
        self.0.borrow().remaining()
    }

    fn next(&self, limit: u32) -> Answer<Vec<store::RunRecord>> {
        let records = self.0.borrow_mut().next(limit)?;
        Ok(records.into_iter().map(Into::into).collect())
    }

    fn next_lines(&self, max_bytes: u32) -> Answer<String> {
        Ok(self.0.borrow_mut().next_lines(max_bytes)?)
    }

    fn next_typed_lines(&self, limit: u32, max_bytes: u32) -> Answer<String> {
        Ok(self.0.borrow_mut().next_typed_lines(limit, max_bytes)?)
    }

    fn files(&self) -> Vec<String> {
        self.0.borrow().files()
    }

    fn next_rows(&self, limit: u32) -> Vec<Vec<Option<String>>> {
        self.0.borrow_mut().next_rows(limit)
    }

    fn columns(&self) -> Vec<String> {
        self.0.borrow().columns().to_vec()
    }

    fn total(&self) -> u64 {
        self.0.borrow().total()
    }

    fn cursor(&self) -> Option<String> {
        self.0.borrow().cursor()
    }

    fn damaged(&self) -> Vec<store::Damage> {
        self.0.borrow().damaged().convert()
    }
}

impl store::GuestIndexRebuild for IndexRebuild {
    fn step(&self) -> Answer<Option<store::RebuildProgress>> {
        let mut rebuild = self.0.borrow_mut();
        let directory = rebuild.directory().to_owned();
        let progress = rebuild.step()?;
        Ok(progress.map(|progress| store::RebuildProgress {
            directory,
            phase: progress.phase.to_owned(),
            done: progress.done,
            total: progress.total,
        }))
    }

    fn report(&self) -> store::RebuildReport {
        let rebuild = self.0.borrow();
        let report = rebuild.report();
        let (orphans, orphan_count) = rebuild.orphans();
        let orphans = orphans.iter().map(|orphan| store::OrphanedExperiment {
            experiment: orphan.experiment.clone(),
            runs: orphan.runs,
        });
        store::RebuildReport {
            pruned: rebuild.pruned(),
            orphans: orphans.collect(),
            orphan_count,
            runs: report.runs,
            added: report.added,
            changed: report.changed,
            removed: report.removed,
            manifests: report.manifests,
            damaged: report.damaged.clone().convert(),
        }
    }
}

impl store::GuestArtifactWriter for ArtifactWriter {
    fn write(&self, chunk: Vec<u8>) -> Answer<()> {
        let mut writer = self.0.borrow_mut();
        let writer = writer.as_mut().ok_or_else(finished)?;
        Ok(writer.write(&chunk)?)
    }

    fn finish(&self) -> Answer<store::ArtifactDescriptor> {
        let writer = self.0.borrow_mut().take().ok_or_else(finished)?;
        Ok(writer.finish()?.into())
    }
}

fn finished() -> error::Error {
    error::Error::InvalidArgument("the artifact is finished; begin another one".into())
}

impl store::GuestArtifactReader for ArtifactReader {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read(&self, offset: u64, max_bytes: u32) -> Answer<Vec<u8>> {
        Ok(self.0.read(offset, max_bytes)?)
    }

    fn read_text(&self, offset: u64, max_bytes: u32) -> Answer<String> {
        let content = self.0.read(offset, max_bytes)?;
        Ok(content.into_iter().map(char::from).collect())
    }

    fn descriptor(&self) -> Option<store::ArtifactDescriptor> {
        self.0.descriptor().map(Into::into)
    }
}
