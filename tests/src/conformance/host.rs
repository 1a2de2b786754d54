//! The script's calls on the Rust host.

use super::whole::derive_whole;
use super::{Copying, Failure, Lines, Opened, Outcome, Pieces, Rows, Target, Which};
use crate::database::Schema;
use metalab_store::types::{
    ArtifactDescriptor, ArtifactReference, Damage, Expectation, FieldCatalogue, LogChunk, Manifest,
    ManifestHeader, Metric, RunQuery, Status, StructuredResult,
};
use metalab_store::{Error, FileStoreConfig, RunList, Store, StoreConfig};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The Rust host: files alone, or with an index in a schema.
#[derive(Default)]
pub struct RustHost(pub Option<Schema>);

impl RustHost {
    pub(super) fn config(index: Option<&Schema>, root: &Path) -> StoreConfig {
        match index {
            None => FileStoreConfig::new(root).into(),
            Some(schema) => schema.config(root).into(),
        }
    }
}

/// A store of it.
pub struct Hosted {
    store: Store,
    root: PathBuf,
}

fn failed(error: &Error) -> Failure {
    Failure {
        code: error.code().to_owned(),
        message: error.to_string(),
    }
}

pub(super) fn told<T>(result: metalab_store::Result<T>) -> Outcome<T> {
    result.map_err(|error| failed(&error))
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

impl Target for RustHost {
    type Store = Hosted;

    fn open(&self, root: &Path, experiment: Option<&str>, read_only: bool) -> Outcome<Hosted> {
        let mut config = Self::config(self.0.as_ref(), root);
        if let Some(experiment) = experiment {
            config = config.scoped(experiment);
        }
        if read_only {
            config = config.read_only();
        }
        let store = told(config.connect())?;
        let root = root.to_owned();
        Ok(Hosted { store, root })
    }

    fn list_experiments(&self, root: &Path) -> Outcome<(Vec<String>, Vec<Damage>)> {
        let found = told(Self::config(self.0.as_ref(), root).list_experiments())?;
        Ok((found.experiments, found.damaged))
    }

    fn parse_locator(&self, _: &str) -> Option<Outcome<Value>> {
        None
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

fn lines(list: metalab_store::Result<RunList>) -> Outcome<Lines> {
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
        total: told(list.total())?,
        columns: told(list.columns())?,
        text,
        cursor: told(list.cursor())?,
        damaged: told(list.damaged())?,
    })
}

impl Opened for Hosted {
    fn close(self) -> Outcome<()> {
        told(self.store.close())
    }

    fn working_directory(&self) -> Outcome<String> {
        told(self.store.get_working_directory()).map(|path| text(&path))
    }

    fn put_run_text(&self, record: &str, expect: Expectation) -> Outcome<String> {
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
        Ok(record.map(|record| {
            let status = match record.status {
                Status::Success => "success",
                Status::Failed => "failed",
                Status::Cancelled => "cancelled",
                Status::Running => "running",
            };
            status.to_owned()
        }))
    }

    fn list_runs(&self, experiment: Option<&str>) -> Outcome<Lines> {
        lines(self.store.list_runs(experiment))
    }

    fn query_runs(&self, query: &RunQuery) -> Outcome<Lines> {
        lines(self.store.query_runs(query))
    }

    fn query_rows(&self, query: &RunQuery) -> Outcome<Rows> {
        let mut list = told(self.store.query_runs(query))?;
        let mut rows = Vec::new();
        loop {
            let page = told(list.next_rows(4096))?;
            if page.is_empty() {
                return Ok((told(list.columns())?, rows));
            }
            rows.extend(page);
        }
    }

    fn list_fields(&self, filter: &str) -> Outcome<FieldCatalogue> {
        told(self.store.list_fields(filter))
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
        Ok(record.map(|record| record.metrics))
    }

    fn put_derived(&self, run: &str, metrics: &[Metric]) -> Outcome<String> {
        told(self.store.put_derived(run, metrics))
    }

    fn put_derived_batch(
        &self,
        derived: &[(String, Vec<Metric>)],
    ) -> Outcome<Vec<Outcome<String>>> {
        let outcomes = told(self.store.put_derived_batch(derived))?;
        Ok(outcomes.into_iter().map(told).collect())
    }

    fn get_derived(&self, run: &str) -> Outcome<Option<Vec<Metric>>> {
        told(self.store.get_derived(run))
    }

    fn get_derived_text(&self, run: &str) -> Outcome<Option<String>> {
        told(self.store.get_derived_text(run))
    }

    fn derived_exists(&self, run: &str) -> Outcome<bool> {
        told(self.store.derived_exists(run))
    }

    fn put_result(&self, run: &str, name: &str, result: StructuredResult) -> Outcome<String> {
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
        told(self.store.read_log(run, name, offset, max))
    }

    fn list_logs(&self, run: &str) -> Outcome<Vec<String>> {
        told(self.store.list_logs(run))
    }

    fn log_path(&self, run: &str, name: &str) -> Outcome<String> {
        told(self.store.get_log_path(run, name)).map(|path| text(&path))
    }

    fn put_artifact(
        &self,
        content: &[u8],
        descriptor: ArtifactDescriptor,
    ) -> Outcome<ArtifactDescriptor> {
        told(self.store.put_artifact(content, &descriptor))
    }

    fn write_artifact(
        &self,
        chunks: &[Vec<u8>],
        descriptor: ArtifactDescriptor,
    ) -> Outcome<ArtifactDescriptor> {
        let mut writer = told(self.store.create_artifact(&descriptor))?;
        for chunk in chunks {
            told(writer.append(chunk))?;
        }
        told(writer.finish())
    }

    fn put_artifact_file(
        &self,
        content: &[u8],
        descriptor: ArtifactDescriptor,
    ) -> Outcome<ArtifactDescriptor> {
        let source = self.root.with_extension("source");
        std::fs::write(&source, content).unwrap();
        let stored = told(self.store.put_artifact_file(&source, &descriptor));
        std::fs::remove_file(&source).unwrap();
        stored
    }

    fn read_artifact(
        &self,
        artifact: &ArtifactReference,
        verify: bool,
        reads: &[(u64, u32)],
    ) -> Outcome<Pieces> {
        let mut reader = told(self.store.open_artifact(artifact, verify))?;
        let mut pieces = Vec::new();
        for &(offset, length) in reads {
            let length = usize::try_from(length).unwrap();
            pieces.push(told(reader.read_at(offset, length))?);
        }
        Ok((reader.size(), pieces, told(reader.descriptor())?))
    }

    fn list_artifacts(&self, run: &str) -> Outcome<Vec<ArtifactDescriptor>> {
        told(self.store.list_artifacts(run))
    }

    fn put_manifest(
        &self,
        experiment: &str,
        body: &str,
        timestamp: Option<&str>,
    ) -> Outcome<ManifestHeader> {
        told(
            self.store
                .put_experiment_manifest(experiment, body, timestamp),
        )
    }

    fn get_manifest(&self, experiment: &str) -> Outcome<Option<Manifest>> {
        told(self.store.get_experiment_manifest(experiment))
    }

    fn list_manifests(&self, experiment: &str) -> Outcome<Vec<ManifestHeader>> {
        told(self.store.list_experiment_manifests(experiment))
    }
}
