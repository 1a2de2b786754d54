//! The script's calls on the storage logic itself, without component and without sandbox.

use super::whole::derive_whole;
use super::{Copying, Failure, Lines, Opened, Outcome, Pieces, Rows, Target, Which};
use crate::database::Schema;
use metalab_store::types::{
    ArtifactDescriptor, ArtifactReference, Damage, Expectation, FieldCatalogue, FieldSummary,
    LogChunk, Manifest, ManifestHeader, Metric, MetricValue, RunQuery, StructuredResult,
};
use metalab_store_guest::config::{self, Backend, StoreConfig};
use metalab_store_guest::database::listing::RunListing;
use metalab_store_guest::error::Error;
use metalab_store_guest::query::QueryText;
use metalab_store_guest::store::Store;
use metalab_store_guest::{model, native};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// The logic of the guest: files alone, or with an index in a schema.
#[derive(Default)]
pub struct Native(pub Option<Schema>);

/// A store of it.
pub struct Direct {
    store: Store,
    directory: PathBuf,
}

impl Direct {
    pub(super) fn into_store(self) -> Store {
        self.store
    }
}

fn failed(error: &Error) -> Failure {
    let code = match error {
        Error::InvalidName { .. } => "invalid-name",
        Error::InvalidArgument(_) => "invalid-argument",
        Error::NotFound { .. } => "not-found",
        Error::AlreadyExists(_) => "already-exists",
        Error::Conflict { .. } => "conflict",
        Error::Corrupt { .. } => "corrupt",
        Error::Unrepresentable { .. } => "unrepresentable",
        Error::Locked(_) => "locked",
        Error::LocksUnavailable(_) => "locks-unavailable",
        Error::ReadOnly(_) => "read-only",
        Error::Database { .. } => "database",
        Error::NotGranted(_) => "not-granted",
        Error::InvalidQuery { .. } => "invalid-query",
        Error::TooLarge(_) => "too-large",
        Error::Io { .. } => "io",
    };
    Failure {
        code: code.to_owned(),
        message: error.to_string(),
    }
}

pub(super) fn told<T>(result: Result<T, Error>) -> Outcome<T> {
    result.map_err(|error| failed(&error))
}

fn damage(damage: model::Damage) -> Damage {
    Damage {
        file: damage.file,
        offset: damage.offset,
        reason: damage.reason,
    }
}

fn damages(list: Vec<model::Damage>) -> Vec<Damage> {
    list.into_iter().map(damage).collect()
}

fn inward(descriptor: ArtifactDescriptor) -> model::ArtifactDescriptor {
    model::ArtifactDescriptor {
        artifact_id: descriptor.artifact_id,
        name: descriptor.name,
        kind: descriptor.kind,
        format: descriptor.format,
        uri: descriptor.uri,
        content_hash: descriptor.content_hash,
        size_bytes: descriptor.size_bytes,
        metadata: descriptor.metadata,
        unknown: descriptor.unknown,
    }
}

fn outward(descriptor: model::ArtifactDescriptor) -> ArtifactDescriptor {
    ArtifactDescriptor {
        artifact_id: descriptor.artifact_id,
        name: descriptor.name,
        kind: descriptor.kind,
        format: descriptor.format,
        uri: descriptor.uri,
        content_hash: descriptor.content_hash,
        size_bytes: descriptor.size_bytes,
        metadata: descriptor.metadata,
        unknown: descriptor.unknown,
    }
}

fn header(header: model::ManifestHeader) -> ManifestHeader {
    ManifestHeader {
        experiment_id: header.experiment_id,
        timestamp: header.timestamp,
        counter: header.counter,
    }
}

fn configuration(root: &Path, read_only: bool) -> StoreConfig {
    StoreConfig {
        backend: Backend::File,
        root: root.to_str().unwrap().to_owned(),
        experiment_id: None,
        access: if read_only {
            model::Access::ReadOnly
        } else {
            model::Access::ReadWrite
        },
        durability: model::Durability::Full,
        lock_timeout_ms: 30_000,
    }
}

impl Target for Native {
    type Store = Direct;

    fn open(&self, root: &Path, experiment: Option<&str>, read_only: bool) -> Outcome<Direct> {
        let mut config = configuration(root, read_only);
        if let Some(schema) = &self.0 {
            config.backend = told(config::from_locator(&schema.locator(root)))?.backend;
        }
        if let Some(experiment) = experiment {
            config = told(config::scoped(config, experiment))?;
        }
        let resolution = told(config::resolve(&config, None))?;
        let mut directory = root.to_owned();
        directory.extend(resolution.subdirectory);
        // What a host does and says when it grants a directory.
        if read_only && !directory.exists() {
            let missing = if root.exists() { &directory } else { root };
            let path = missing.display();
            return Err(Failure {
                code: "root".to_owned(),
                message: format!("cannot open the store {path}: there is no such directory"),
            });
        }
        fs::create_dir_all(&directory).unwrap();
        let mut ports = native::ports(&directory).unwrap();
        if let (Some(index), Some(connection)) = (&resolution.options.index, resolution.connection)
        {
            let pool = native::pool(connection).unwrap();
            ports.databases = native::databases(&index.binding, pool);
        }
        let store = told(Store::open(ports, resolution.options))?;
        Ok(Direct { store, directory })
    }

    fn list_experiments(&self, root: &Path) -> Outcome<(Vec<String>, Vec<Damage>)> {
        let ports = native::ports(root).unwrap();
        let config = configuration(root, true);
        let found = told(config::list_experiments(&config, Some(ports)))?;
        Ok((found.experiments, damages(found.damaged)))
    }

    fn parse_locator(&self, locator: &str) -> Option<Outcome<Value>> {
        let parsed = told(config::parse_locator(locator));
        Some(parsed.map(|locator| {
            json!({
                "scheme": locator.scheme,
                "path": locator.path,
                "host": locator.host,
                "port": locator.port,
                "user": locator.user,
                "password": locator.password,
                "parameters": locator.parameters,
            })
        }))
    }

    fn verify(&self, which: Which<'_>, repair: bool) -> Outcome<Value> {
        self.verify_whole(which, repair)
    }

    fn collect_garbage(&self, which: Which<'_>, apply: bool) -> Outcome<Value> {
        self.collect_whole(which, apply)
    }

    fn transfer(&self, from: &Path, to: &Path, how: &Copying<'_>) -> Outcome<Value> {
        Self::transfer_whole(from, to, how)
    }

    /// The logic runs no plugins: the Rust host does, with the same index.
    fn derive(
        &self,
        which: Which<'_>,
        plugin: &str,
        filter: &str,
        dry_run: bool,
    ) -> Outcome<Value> {
        derive_whole(self.0.as_ref(), which, plugin, filter, dry_run)
    }
}

fn metric_inward(metric: &Metric) -> model::Metric {
    let value = match metric.value.clone() {
        MetricValue::Boolean(value) => model::MetricValue::Boolean(value),
        MetricValue::Integer(value) => model::MetricValue::Integer(value),
        MetricValue::BigInteger(value) => model::MetricValue::BigInteger(value),
        MetricValue::Float(value) => model::MetricValue::Float(value),
        MetricValue::Text(value) => model::MetricValue::Text(value),
        MetricValue::Other(value) => model::MetricValue::Other(value),
    };
    let name = metric.name.clone();
    model::Metric { name, value }
}

fn metrics_outward(metrics: Vec<model::Metric>) -> Vec<Metric> {
    let outward = |metric: model::Metric| Metric {
        name: metric.name,
        value: match metric.value {
            model::MetricValue::Boolean(value) => MetricValue::Boolean(value),
            model::MetricValue::Integer(value) => MetricValue::Integer(value),
            model::MetricValue::BigInteger(value) => MetricValue::BigInteger(value),
            model::MetricValue::Float(value) => MetricValue::Float(value),
            model::MetricValue::Text(value) => MetricValue::Text(value),
            model::MetricValue::Other(value) => MetricValue::Other(value),
        },
    };
    metrics.into_iter().map(outward).collect()
}

fn lines(list: Result<RunListing, Error>) -> Outcome<Lines> {
    let mut list = told(list)?;
    let mut text = String::new();
    loop {
        let page = told(list.next_lines(0x7fff_ffff))?;
        if page.is_empty() {
            break;
        }
        text.push_str(&page);
    }
    Ok(Lines {
        total: list.total(),
        columns: list.columns().to_vec(),
        text,
        cursor: list.cursor(),
        damaged: damages(list.damaged()),
    })
}

fn query(query: &RunQuery) -> QueryText<'_> {
    QueryText {
        filter: &query.filter,
        sort: &query.sort,
        columns: &query.columns,
        limit: query.limit,
        cursor: query.cursor.as_deref(),
        check: query.check,
    }
}

impl Opened for Direct {
    fn close(self) -> Outcome<()> {
        told(self.store.close())
    }

    fn working_directory(&self) -> Outcome<String> {
        Ok(self.store.working_directory())
    }

    fn put_run_text(&self, record: &str, expect: Expectation) -> Outcome<String> {
        let expect = match expect {
            Expectation::Anything => model::Expectation::Anything,
            Expectation::Absent => model::Expectation::Absent,
            Expectation::Revision(revision) => model::Expectation::Revision(revision),
        };
        told(self.store.put_run_text(record, &expect))
    }

    fn put_run_lines(&self, lines: &str) -> Outcome<Vec<Outcome<String>>> {
        let outcomes = told(self.store.put_run_lines(lines))?;
        Ok(outcomes.into_iter().map(told).collect())
    }

    fn get_run_text(&self, run: &str) -> Outcome<Option<String>> {
        told(self.store.get_run_text(run))
    }

    fn run_status(&self, run: &str) -> Outcome<Option<String>> {
        let record = told(self.store.get_run_record(run))?;
        Ok(record.map(|record| record.status.as_str().to_owned()))
    }

    fn list_runs(&self, experiment: Option<&str>) -> Outcome<Lines> {
        lines(self.store.list_run_records(experiment))
    }

    fn query_runs(&self, asked: &RunQuery) -> Outcome<Lines> {
        lines(self.store.query_runs(&query(asked)))
    }

    fn query_rows(&self, asked: &RunQuery) -> Outcome<Rows> {
        let mut list = told(self.store.query_runs(&query(asked)))?;
        let mut rows = Vec::new();
        loop {
            let page = list.next_rows(4096);
            if page.is_empty() {
                return Ok((list.columns().to_vec(), rows));
            }
            rows.extend(page);
        }
    }

    fn list_fields(&self, filter: &str) -> Outcome<FieldCatalogue> {
        let found = told(self.store.list_fields(filter))?;
        let fields = found.fields.into_iter().map(|summary| FieldSummary {
            field: summary.field,
            types: summary.types.into_iter().map(str::to_owned).collect(),
            runs: summary.runs,
            min: summary.min,
            max: summary.max,
            values: summary.values,
            complete: summary.complete,
        });
        Ok(FieldCatalogue {
            fields: fields.collect(),
            complete: found.complete,
            runs: found.runs,
            damaged: damages(found.damaged),
        })
    }

    fn run_exists(&self, run: &str) -> Outcome<bool> {
        told(self.store.run_exists(run))
    }

    fn delete_run(&self, run: &str) -> Outcome<bool> {
        told(self.store.delete_run(run))
    }

    fn put_derived_text(&self, run: &str, derived: &str) -> Outcome<String> {
        told(self.store.put_derived_text(run, derived))
    }

    fn run_metrics(&self, run: &str) -> Outcome<Option<Vec<Metric>>> {
        let record = told(self.store.get_run_record(run))?;
        Ok(record.map(|record| metrics_outward(record.metrics)))
    }

    fn put_derived(&self, run: &str, metrics: &[Metric]) -> Outcome<String> {
        let metrics: Vec<_> = metrics.iter().map(metric_inward).collect();
        told(self.store.put_derived(run, &metrics))
    }

    fn put_derived_batch(
        &self,
        derived: &[(String, Vec<Metric>)],
    ) -> Outcome<Vec<Outcome<String>>> {
        let derived: Vec<_> = derived
            .iter()
            .map(|(run, metrics)| (run.clone(), metrics.iter().map(metric_inward).collect()))
            .collect();
        let outcomes = told(self.store.put_derived_batch(&derived))?;
        Ok(outcomes.into_iter().map(told).collect())
    }

    fn get_derived(&self, run: &str) -> Outcome<Option<Vec<Metric>>> {
        told(self.store.get_derived(run)).map(|found| found.map(metrics_outward))
    }

    fn get_derived_text(&self, run: &str) -> Outcome<Option<String>> {
        told(self.store.get_derived_text(run))
    }

    fn derived_exists(&self, run: &str) -> Outcome<bool> {
        told(self.store.derived_exists(run))
    }

    fn put_result(&self, run: &str, name: &str, result: StructuredResult) -> Outcome<String> {
        let result = model::StructuredResult {
            data: result.data,
            dtype: result.dtype,
            shape: result.shape,
            metadata: result.metadata,
            unknown: result.unknown,
        };
        told(self.store.put_result(run, name, &result))
    }

    fn get_result_text(&self, run: &str, name: &str) -> Outcome<Option<String>> {
        told(self.store.get_result_text(run, name))
    }

    fn list_results(&self, run: &str) -> Outcome<Vec<String>> {
        told(self.store.list_results(run))
    }

    fn put_log(&self, run: &str, name: &str, content: &str) -> Outcome<()> {
        told(self.store.put_log(run, name, content))
    }

    fn append_log(&self, run: &str, name: &str, content: &str, sync: bool) -> Outcome<u64> {
        told(self.store.append_log(run, name, content, sync))
    }

    fn get_log(&self, run: &str, name: &str) -> Outcome<Option<String>> {
        told(self.store.get_log(run, name))
    }

    fn read_log(&self, run: &str, name: &str, offset: u64, max: u32) -> Outcome<Option<LogChunk>> {
        let chunk = told(self.store.read_log(run, name, offset, max))?;
        Ok(chunk.map(|chunk| LogChunk {
            text: chunk.text,
            next_offset: chunk.next_offset,
            replaced: chunk.replaced,
            end: chunk.end,
        }))
    }

    fn list_logs(&self, run: &str) -> Outcome<Vec<String>> {
        told(self.store.list_logs(run))
    }

    fn log_path(&self, run: &str, name: &str) -> Outcome<String> {
        told(self.store.get_log_path(run, name))
    }

    fn put_artifact(
        &self,
        content: &[u8],
        descriptor: ArtifactDescriptor,
    ) -> Outcome<ArtifactDescriptor> {
        told(self.store.put_artifact(content, inward(descriptor))).map(outward)
    }

    fn write_artifact(
        &self,
        chunks: &[Vec<u8>],
        descriptor: ArtifactDescriptor,
    ) -> Outcome<ArtifactDescriptor> {
        let mut writer = told(self.store.create_artifact(inward(descriptor)))?;
        for chunk in chunks {
            told(writer.write(chunk))?;
        }
        told(writer.finish()).map(outward)
    }

    fn put_artifact_file(
        &self,
        content: &[u8],
        descriptor: ArtifactDescriptor,
    ) -> Outcome<ArtifactDescriptor> {
        let descriptor = inward(descriptor);
        let staged = told(self.store.stage_artifact(descriptor.clone()))?;
        fs::write(self.directory.join(&staged), content).unwrap();
        told(self.store.import_artifact(&staged, descriptor)).map(outward)
    }

    fn read_artifact(
        &self,
        artifact: &ArtifactReference,
        verify: bool,
        reads: &[(u64, u32)],
    ) -> Outcome<Pieces> {
        let artifact = match artifact.clone() {
            ArtifactReference::Uri(uri) => model::ArtifactReference::Uri(uri),
            ArtifactReference::Name((run, name)) => model::ArtifactReference::Name(run, name),
        };
        let reader = told(self.store.open_artifact(&artifact, verify))?;
        let mut pieces = Vec::new();
        for &(offset, length) in reads {
            pieces.push(told(reader.read(offset, length))?);
        }
        Ok((reader.size(), pieces, reader.descriptor().map(outward)))
    }

    fn list_artifacts(&self, run: &str) -> Outcome<Vec<ArtifactDescriptor>> {
        let found = told(self.store.list_artifacts(run))?;
        Ok(found.into_iter().map(outward).collect())
    }

    fn put_manifest(
        &self,
        experiment: &str,
        body: &str,
        timestamp: Option<&str>,
    ) -> Outcome<ManifestHeader> {
        let stored = self
            .store
            .put_experiment_manifest(experiment, body, timestamp);
        told(stored).map(header)
    }

    fn get_manifest(&self, experiment: &str) -> Outcome<Option<Manifest>> {
        let found = told(self.store.get_experiment_manifest(experiment))?;
        Ok(found.map(|found| Manifest {
            header: header(found.header),
            body: found.body,
        }))
    }

    fn list_manifests(&self, experiment: &str) -> Outcome<Vec<ManifestHeader>> {
        let found = told(self.store.list_experiment_manifests(experiment))?;
        Ok(found.into_iter().map(header).collect())
    }
}
