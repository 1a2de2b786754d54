//! An open store: the contract's calls as methods with native types.

use crate::artifact::{ArtifactReader, ArtifactWriter, CHUNK, copy, open_source};
use crate::config::StoreConfig;
use crate::error::{Error, Result};
use crate::pool::{Pool, Resource, STACK};
use crate::typed_line;
use crate::types::{
    Access, ArtifactDescriptor, ArtifactReference, Damage, Expectation, FieldCatalogue, IndexState,
    LogChunk, Manifest, ManifestHeader, Metric, RebuildProgress, RebuildReport, RunQuery,
    RunRecord, StructuredResult, VersionedRun,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread;

/// How many records a page of a list has when all of them are wanted.
const PAGE: u32 = 256;

/// So many pages may wait to be read.
const PAGES_AHEAD: usize = 4;

/// An open store. Cheap to clone; clones share the same instances, and threads may use it at once.
///
/// Calls block. From inside a Tokio runtime they work too: they run on another thread meanwhile.
/// A put that returned has the durability of the configuration.
#[derive(Clone)]
pub struct Store(Arc<Shared>);

struct Shared {
    config: StoreConfig,
    pool: Arc<Pool>,
    warnings: Vec<String>,
}

/// All run records of a list, and the files that could not be read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunPage {
    /// The records.
    pub records: Vec<RunRecord>,
    /// The files found damaged: they hide no record.
    pub damaged: Vec<Damage>,
}

/// Makes the body of a method that makes one call of the component's store resource.
macro_rules! call {
    ($self:ident . $method:ident ( $($argument:expr),* )) => {
        $self.0.pool.call(|instance, store| {
            instance.bindings.metalab_store_store().store().$method(&mut instance.store, store $(, $argument)*)
        })
    };
}

/// Makes the body of a method that makes one call of a resource of the component.
macro_rules! call_resource {
    ($self:ident . $resource:ident . $method:ident ( $($argument:expr),* )) => {
        $self.resource.call(|instance, resource| {
            let guest = instance.bindings.metalab_store_store();
            guest.$resource().$method(&mut instance.store, resource $(, $argument)*)
        })
    };
}

impl Store {
    pub(crate) fn new(config: StoreConfig, pool: Pool, warnings: Vec<String>) -> Self {
        Self(Arc::new(Shared {
            config,
            pool: Arc::new(pool),
            warnings,
        }))
    }

    /// Returns what the user should know, in sentences: about the configuration that the store was opened with, and that nothing
    /// can be locked where it lies, once a write has found that.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let unlocked = self.0.pool.grant().unlocked();
        let warnings = self.0.warnings.iter().map(String::as_str);
        warnings.chain(unlocked).map(str::to_owned).collect()
    }

    /// Opens the store of an experiment of this store's collection.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if this store is limited to another experiment, and as `connect`.
    pub fn scoped(&self, experiment_id: &str) -> Result<Self> {
        self.0.config.clone().scoped(experiment_id).connect()
    }

    /// Makes everything durable and ends the store's work; later calls are [`Error::Closed`].
    ///
    /// Waits for calls that run. Readers, writers and lists end too; an unfinished writer leaves nothing
    /// behind. Closing again does nothing.
    ///
    /// # Errors
    /// [`Error::Io`] if something could not be made durable. The store is closed nevertheless.
    pub fn close(&self) -> Result<()> {
        self.0.pool.close()
    }

    /// Returns the store's directory.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub fn get_working_directory(&self) -> Result<PathBuf> {
        self.0
            .pool
            .call(|instance, store| {
                let guest = instance.bindings.metalab_store_store();
                Ok(Ok(guest
                    .store()
                    .call_get_working_directory(&mut instance.store, store)?))
            })
            .map(PathBuf::from)
    }

    /// Stores a run record whole, in place of an earlier one, and returns its revision.
    ///
    /// # Errors
    /// [`Error::Conflict`] if the record names another experiment than the store's, or `expect` is not met.
    pub fn put_run_record(&self, record: &RunRecord, expect: &Expectation) -> Result<String> {
        call!(self.call_put_run_record(record, expect))
    }

    /// Stores a run record given as JSON text in the format of its file.
    ///
    /// # Errors
    /// As [`put_run_record`](Self::put_run_record).
    pub fn put_run_text(&self, record: &str, expect: &Expectation) -> Result<String> {
        let record = record.to_owned();
        call!(self.call_put_run_text(&record, expect))
    }

    /// Stores many records; the outcomes are in their order.
    ///
    /// # Errors
    /// If none could be stored; what became of each record is in its outcome.
    pub fn put_run_records(&self, records: &[RunRecord]) -> Result<Vec<Result<String>>> {
        let outcomes = call!(self.call_put_run_records(records))?;
        Ok(outcomes
            .into_iter()
            .map(|outcome| outcome.map_err(Error::from))
            .collect())
    }

    /// Stores many records, each on a line of JSON text; empty lines are skipped.
    ///
    /// # Errors
    /// As [`put_run_records`](Self::put_run_records).
    pub fn put_run_lines(&self, lines: &str) -> Result<Vec<Result<String>>> {
        let outcomes = call!(self.call_put_run_lines(lines))?;
        Ok(outcomes
            .into_iter()
            .map(|outcome| outcome.map_err(Error::from))
            .collect())
    }

    /// Returns a run record, or none if there is no such run.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if its file is damaged.
    pub fn get_run_record(&self, run_id: &str) -> Result<Option<RunRecord>> {
        call!(self.call_get_run_record(run_id))
    }

    /// Returns a run record with the revision to require in a later put.
    ///
    /// # Errors
    /// As [`get_run_record`](Self::get_run_record).
    pub fn get_versioned_run(&self, run_id: &str) -> Result<Option<VersionedRun>> {
        call!(self.call_get_versioned_run(run_id))
    }

    /// Returns the text of a run record's file as it is.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it is not UTF-8.
    pub fn get_run_text(&self, run_id: &str) -> Result<Option<String>> {
        call!(self.call_get_run_text(run_id))
    }

    /// Returns all run records, of one experiment or of all, the newest start first.
    ///
    /// # Errors
    /// [`Error::Io`]. A file that cannot be read is among the damaged ones and hides no other.
    pub fn list_run_records(&self, experiment_id: Option<&str>) -> Result<RunPage> {
        let mut list = self.list_runs(experiment_id)?;
        Ok(RunPage {
            records: list.all()?,
            damaged: list.damaged()?,
        })
    }

    /// Lists run records a page at a time.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn list_runs(&self, experiment_id: Option<&str>) -> Result<RunList> {
        let resource = self.0.pool.open_resource(|instance, store| {
            let guest = instance.bindings.metalab_store_store();
            guest
                .store()
                .call_list_run_records(&mut instance.store, store, experiment_id)
        })?;
        Ok(RunList { resource })
    }

    /// Lists the runs that a query asks for, a page at a time. `docs/query-language.md` is about queries.
    ///
    /// # Errors
    /// [`Error::InvalidQuery`] with the place and what was expected there; [`Error::Io`].
    pub fn query_runs(&self, query: &RunQuery) -> Result<RunList> {
        let resource = self.0.pool.open_resource(|instance, store| {
            let guest = instance.bindings.metalab_store_store();
            guest
                .store()
                .call_query_runs(&mut instance.store, store, query)
        })?;
        Ok(RunList { resource })
    }

    /// Returns which fields the runs have that a filter matches, and what is in them. All runs if it is empty.
    ///
    /// # Errors
    /// [`Error::InvalidQuery`], [`Error::Io`].
    pub fn list_fields(&self, filter: &str) -> Result<FieldCatalogue> {
        call!(self.call_list_fields(filter))
    }

    /// Says how the query index is, without changing anything.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn index_state(&self) -> Result<IndexState> {
        call!(self.call_index_state())
    }

    /// Begins to bring the query index up to date with the files: reads every file, and changes only what
    /// differs, for each directory in one transaction. Readers see the rows as they were or as they are.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] on a store of files alone, [`Error::ReadOnly`], [`Error::Database`],
    /// [`Error::Locked`] while another program does it.
    pub fn rebuild_index(&self) -> Result<IndexRebuild> {
        self.rebuild_index_and_prune::<&str>(&[])
    }

    /// Does the same, and removes what the index has of these experiments first, in one transaction: the rows of their
    /// directories in this collection, and in the tables of the reference the rows of these experiments that no other
    /// directory known to the index accounts for. No file is touched, and it is no error if there are none.
    ///
    /// [`RebuildReport::orphans`] says which experiments of a collection have rows and no directory any more.
    ///
    /// # Errors
    /// Those of [`rebuild_index`](Self::rebuild_index); [`Error::InvalidArgument`] if one of them has a directory, which a
    /// rebuild keeps in step, or is not the one that the store is limited to; [`Error::InvalidName`].
    pub fn rebuild_index_and_prune<S: AsRef<str>>(
        &self,
        experiments: &[S],
    ) -> Result<IndexRebuild> {
        let prune: Vec<String> = experiments
            .iter()
            .map(|experiment| experiment.as_ref().to_owned())
            .collect();
        let resource = self.0.pool.open_resource(|instance, store| {
            let guest = instance.bindings.metalab_store_store();
            guest
                .store()
                .call_rebuild_index(&mut instance.store, store, &prune)
        })?;
        Ok(IndexRebuild { resource })
    }

    /// Says whether there is a file for the run's record, readable or not.
    ///
    /// # Errors
    /// [`Error::InvalidName`].
    pub fn run_exists(&self, run_id: &str) -> Result<bool> {
        call!(self.call_run_exists(run_id))
    }

    /// Deletes a run with everything that belongs to it, and says whether there was anything.
    ///
    /// # Errors
    /// [`Error::Locked`] if another writer holds the run.
    pub fn delete_run(&self, run_id: &str) -> Result<bool> {
        call!(self.call_delete_run(run_id))
    }

    /// Stores the derived metrics of a run, in place of earlier ones.
    ///
    /// # Errors
    /// [`Error::Locked`] if another writer holds the run.
    pub fn put_derived(&self, run_id: &str, metrics: &[Metric]) -> Result<String> {
        call!(self.call_put_derived(run_id, metrics))
    }

    /// Stores the derived metrics of a run given as a JSON object.
    ///
    /// # Errors
    /// As [`put_derived`](Self::put_derived).
    pub fn put_derived_text(&self, run_id: &str, derived: &str) -> Result<String> {
        let derived = derived.to_owned();
        call!(self.call_put_derived_text(run_id, &derived))
    }

    /// Stores the derived metrics of many runs; the outcomes are in their order.
    ///
    /// # Errors
    /// If none could be stored; what became of each run is in its outcome.
    pub fn put_derived_batch(
        &self,
        derived: &[(String, Vec<Metric>)],
    ) -> Result<Vec<Result<String>>> {
        let outcomes = call!(self.call_put_derived_batch(derived))?;
        Ok(outcomes
            .into_iter()
            .map(|outcome| outcome.map_err(Error::from))
            .collect())
    }

    /// Returns the derived metrics of a run, or none if there are none.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if their file is damaged.
    pub fn get_derived(&self, run_id: &str) -> Result<Option<Vec<Metric>>> {
        call!(self.call_get_derived(run_id))
    }

    /// Returns the text of the derived metrics' file as it is.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it is not UTF-8.
    pub fn get_derived_text(&self, run_id: &str) -> Result<Option<String>> {
        call!(self.call_get_derived_text(run_id))
    }

    /// Says whether a run has derived metrics.
    ///
    /// # Errors
    /// [`Error::InvalidName`].
    pub fn derived_exists(&self, run_id: &str) -> Result<bool> {
        call!(self.call_derived_exists(run_id))
    }

    /// Stores structured result data of a run, in place of earlier data of this name.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the data is not JSON text.
    pub fn put_result(
        &self,
        run_id: &str,
        name: &str,
        result: &StructuredResult,
    ) -> Result<String> {
        call!(self.call_put_result(run_id, name, result))
    }

    /// Returns structured result data, or none.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if its file is damaged.
    pub fn get_result(&self, run_id: &str, name: &str) -> Result<Option<StructuredResult>> {
        call!(self.call_get_result(run_id, name))
    }

    /// Returns the text of a result's file as it is.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it is not UTF-8.
    pub fn get_result_text(&self, run_id: &str, name: &str) -> Result<Option<String>> {
        call!(self.call_get_result_text(run_id, name))
    }

    /// Lists the names of a run's results, sorted.
    ///
    /// # Errors
    /// [`Error::InvalidName`].
    pub fn list_results(&self, run_id: &str) -> Result<Vec<String>> {
        call!(self.call_list_results(run_id))
    }

    /// Stores a log whole, in place of an earlier one.
    ///
    /// # Errors
    /// [`Error::Locked`] if another writer holds the run.
    pub fn put_log(&self, run_id: &str, name: &str, content: &str) -> Result<()> {
        call!(self.call_put_log(run_id, name, content))
    }

    /// Appends to a log and returns its new size in bytes. With `sync`, it is durable then.
    ///
    /// # Errors
    /// As [`put_log`](Self::put_log).
    pub fn append_log(&self, run_id: &str, name: &str, content: &str, sync: bool) -> Result<u64> {
        call!(self.call_append_log(run_id, name, content, sync))
    }

    /// Returns a log whole, or none.
    ///
    /// # Errors
    /// [`Error::TooLarge`] over 64 MiB, [`Error::Corrupt`] if it is not UTF-8.
    pub fn get_log(&self, run_id: &str, name: &str) -> Result<Option<String>> {
        call!(self.call_get_log(run_id, name))
    }

    /// Reads a piece of a log from a byte offset; none if there is no such log.
    ///
    /// # Errors
    /// [`Error::InvalidName`].
    pub fn read_log(
        &self,
        run_id: &str,
        name: &str,
        offset: u64,
        max_bytes: u32,
    ) -> Result<Option<LogChunk>> {
        call!(self.call_read_log(run_id, name, offset, max_bytes))
    }

    /// Lists the names of a run's logs, sorted.
    ///
    /// # Errors
    /// [`Error::InvalidName`].
    pub fn list_logs(&self, run_id: &str) -> Result<Vec<String>> {
        call!(self.call_list_logs(run_id))
    }

    /// Returns where a program may write a log itself. The directory exists then, the file need not.
    ///
    /// # Errors
    /// [`Error::InvalidName`].
    pub fn get_log_path(&self, run_id: &str, name: &str) -> Result<PathBuf> {
        call!(self.call_get_log_path(run_id, name)).map(PathBuf::from)
    }

    /// Stores an artifact of bytes, however many, and returns its descriptor as stored.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if size or hash are not those given.
    pub fn put_artifact(
        &self,
        content: &[u8],
        descriptor: &ArtifactDescriptor,
    ) -> Result<ArtifactDescriptor> {
        if content.len() <= CHUNK {
            return call!(self.call_put_artifact(content, descriptor));
        }
        let mut writer = self.create_artifact(descriptor)?;
        writer.append(content)?;
        writer.finish()
    }

    /// Stores an artifact from a file, without passing its bytes through the component's memory at once.
    ///
    /// The file is copied into the store, as a reflink where the file system can, and hashed there.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the source is not a regular file, or size or hash are not those given;
    /// [`Error::Io`] if it cannot be copied.
    pub fn put_artifact_file(
        &self,
        source: &Path,
        descriptor: &ArtifactDescriptor,
    ) -> Result<ArtifactDescriptor> {
        let source = open_source(source)?;
        let staged = call!(self.call_stage_artifact(descriptor))?;
        let grant = self.0.pool.grant();
        // The component refuses to stage in a read-only store; the host's own handle could write there.
        if grant.access() == Access::ReadOnly {
            return Err(Error::ReadOnly("the store was opened read-only".to_owned()));
        }
        if let Err(error) = copy(&source, grant.directory(), &staged) {
            // The name is not trusted: only what was created here goes.
            if !matches!(&error, Error::Io(io) if io.code == "exist") {
                grant.directory().remove_file(&staged).ok();
            }
            return Err(error);
        }
        call!(self.call_import_artifact(&staged, descriptor))
    }

    /// Begins an artifact of any size.
    ///
    /// # Errors
    /// [`Error::InvalidName`].
    pub fn create_artifact(&self, descriptor: &ArtifactDescriptor) -> Result<ArtifactWriter> {
        let resource = self.0.pool.open_resource(|instance, store| {
            let guest = instance.bindings.metalab_store_store();
            guest
                .store()
                .call_create_artifact(&mut instance.store, store, descriptor)
        })?;
        Ok(ArtifactWriter::new(resource))
    }

    /// Returns the bytes of an artifact.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such artifact.
    pub fn get_artifact(&self, artifact: &ArtifactReference) -> Result<Vec<u8>> {
        let mut reader = self.open_artifact(artifact, false)?;
        let mut content = Vec::new();
        // No more than it said: what the component hands out must not fill the host's memory.
        while (content.len() as u64) < reader.size() {
            let piece = reader.read_at(content.len() as u64, CHUNK)?;
            if piece.is_empty() {
                break;
            }
            content.extend_from_slice(&piece);
        }
        Ok(content)
    }

    /// Opens an artifact for reading. With `verify`, its content is hashed first.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Corrupt`] if it was to be verified and differs from its descriptor.
    pub fn open_artifact(
        &self,
        artifact: &ArtifactReference,
        verify: bool,
    ) -> Result<ArtifactReader> {
        let resource = self.0.pool.open_resource(|instance, store| {
            let guest = instance.bindings.metalab_store_store();
            guest
                .store()
                .call_open_artifact(&mut instance.store, store, artifact, verify)
        })?;
        ArtifactReader::new(resource)
    }

    /// Lists the artifacts of a run; the one put last is last.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the run's artifact manifest is damaged.
    pub fn list_artifacts(&self, run_id: &str) -> Result<Vec<ArtifactDescriptor>> {
        call!(self.call_list_artifacts(run_id))
    }

    /// Returns the instances.
    pub(crate) fn pool(&self) -> &Arc<Pool> {
        &self.0.pool
    }

    /// Stores a manifest of an experiment, given as a JSON object.
    ///
    /// # Errors
    /// [`Error::Conflict`] if the store is limited to another experiment.
    pub fn put_experiment_manifest(
        &self,
        experiment_id: &str,
        body: &str,
        timestamp: Option<&str>,
    ) -> Result<ManifestHeader> {
        let body = body.to_owned();
        call!(self.call_put_experiment_manifest(experiment_id, &body, timestamp))
    }

    /// Returns the newest manifest of an experiment, or none.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if its file is damaged.
    pub fn get_experiment_manifest(&self, experiment_id: &str) -> Result<Option<Manifest>> {
        call!(self.call_get_experiment_manifest(experiment_id))
    }

    /// Lists the manifests of an experiment, the newest first.
    ///
    /// # Errors
    /// [`Error::InvalidName`].
    pub fn list_experiment_manifests(&self, experiment_id: &str) -> Result<Vec<ManifestHeader>> {
        call!(self.call_list_experiment_manifests(experiment_id))
    }
}

/// A rebuild of the query index that is under way. Dropping it leaves what was not finished as it was.
pub struct IndexRebuild {
    resource: Resource,
}

impl IndexRebuild {
    /// Does the next piece, in bounded time, and says how far it is; none at the end.
    ///
    /// # Errors
    /// [`Error::Database`], [`Error::Io`]. Directories that were finished before stay finished.
    pub fn step(&mut self) -> Result<Option<RebuildProgress>> {
        call_resource!(self.index_rebuild.call_step())
    }

    /// Returns what was found and done in the directories that are finished.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub fn report(&self) -> Result<RebuildReport> {
        self.resource.call(|instance, resource| {
            let guest = instance.bindings.metalab_store_store().index_rebuild();
            Ok(Ok(guest.call_report(&mut instance.store, resource)?))
        })
    }

    /// Does all of it, and returns the report.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn finish(mut self) -> Result<RebuildReport> {
        while self.step()?.is_some() {}
        self.report()
    }
}

/// A list of run records, handed out a page at a time.
///
/// It lives in the store: after [`Store::close`] its calls are [`Error::Closed`].
pub struct RunList {
    resource: Resource,
}

impl RunList {
    /// Returns the next records: at most `limit`, or 4,096. An empty page is the end.
    ///
    /// # Errors
    /// [`Error::Io`], and [`Error::InvalidArgument`] if the query named columns.
    pub fn next(&mut self, limit: u32) -> Result<Vec<RunRecord>> {
        // One text crosses in a fraction of the time that the thousands in it would take.
        typed_line::read(&self.next_typed_lines(limit, u32::MAX)?)
    }

    /// Returns all records that are left. While a page of many is read, the component makes the next one.
    fn all(&mut self) -> Result<Vec<RunRecord>> {
        let mut records = self.next(PAGE)?;
        if records.len() < PAGE as usize {
            // There is hardly another one, and a thread is dearer than that.
            while self.add_next(&mut records)? {}
            return Ok(records);
        }
        let started = thread::scope(|scope| -> Result<bool> {
            let (sender, pages) = sync_channel::<Result<String>>(PAGES_AHEAD);
            let list = &mut *self;
            // The component has the other thread: what is made here is freed here too, as allocators like it.
            let made = thread::Builder::new()
                .stack_size(STACK)
                .spawn_scoped(scope, move || {
                    loop {
                        let page = list.next_typed_lines(PAGE, u32::MAX);
                        let is_last = page.as_ref().map_or(true, String::is_empty);
                        // Nobody takes what comes after a page that is none.
                        if sender.send(page).is_err() || is_last {
                            break;
                        }
                    }
                });
            if made.is_err() {
                return Ok(false);
            }
            for page in pages {
                records.extend(typed_line::read(&page?)?);
            }
            Ok(true)
        })?;
        if !started {
            while self.add_next(&mut records)? {}
        }
        Ok(records)
    }

    /// Adds the next records, and says whether there were any.
    fn add_next(&mut self, records: &mut Vec<RunRecord>) -> Result<bool> {
        let page = self.next(PAGE)?;
        let any = !page.is_empty();
        records.extend(page);
        Ok(any)
    }

    /// Returns the next records as lines of JSON text: at most `max_bytes`, or 16 MiB, but at least one
    /// record. An empty text is the end.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn next_lines(&mut self, max_bytes: u32) -> Result<String> {
        call_resource!(self.run_list.call_next_lines(max_bytes))
    }

    /// Returns the next records as lines of JSON text, at most `limit`, or 4,096, and at most `max_bytes`, or 16 MiB, but at
    /// least one: each an object with all keys of the format, of the types that [`RunRecord`] has. What
    /// [`next`](Self::next) leaves out is left out and damaged here too. An empty text is the end.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub fn next_typed_lines(&mut self, limit: u32, max_bytes: u32) -> Result<String> {
        call_resource!(self.run_list.call_next_typed_lines(limit, max_bytes))
    }

    /// Returns the files found damaged so far.
    ///
    /// # Errors
    /// [`Error::Trap`].
    pub fn damaged(&mut self) -> Result<Vec<Damage>> {
        self.resource.call(|instance, resource| {
            let guest = instance.bindings.metalab_store_store().run_list();
            Ok(Ok(guest.call_damaged(&mut instance.store, resource)?))
        })
    }

    /// Returns the columns of the next runs: at most `limit`, or 4,096. Each value is JSON text, or none if the run
    /// does not have it. An empty page is the end.
    ///
    /// # Errors
    /// [`Error::Trap`].
    pub fn next_rows(&mut self, limit: u32) -> Result<Vec<Vec<Option<String>>>> {
        self.resource.call(|instance, resource| {
            let guest = instance.bindings.metalab_store_store().run_list();
            Ok(Ok(guest.call_next_rows(
                &mut instance.store,
                resource,
                limit,
            )?))
        })
    }

    /// Returns the names of the query's columns, in its order; none if it named none.
    ///
    /// # Errors
    /// [`Error::Trap`].
    pub fn columns(&mut self) -> Result<Vec<String>> {
        self.resource.call(|instance, resource| {
            let guest = instance.bindings.metalab_store_store().run_list();
            Ok(Ok(guest.call_columns(&mut instance.store, resource)?))
        })
    }

    /// Returns how many runs the query's filter matches, those before its cursor and beyond its limit too.
    ///
    /// # Errors
    /// [`Error::Trap`].
    pub fn total(&mut self) -> Result<u64> {
        self.resource.call(|instance, resource| {
            let guest = instance.bindings.metalab_store_store().run_list();
            Ok(Ok(guest.call_total(&mut instance.store, resource)?))
        })
    }

    /// Returns the cursor of the runs after these, if the query had a limit and there are more.
    ///
    /// # Errors
    /// [`Error::Trap`].
    pub fn cursor(&mut self) -> Result<Option<String>> {
        self.resource.call(|instance, resource| {
            let guest = instance.bindings.metalab_store_store().run_list();
            Ok(Ok(guest.call_cursor(&mut instance.store, resource)?))
        })
    }

    /// Returns how many runs are left to hand out.
    ///
    /// # Errors
    /// [`Error::Trap`].
    pub fn remaining(&mut self) -> Result<u64> {
        self.resource.call(|instance, resource| {
            let guest = instance.bindings.metalab_store_store().run_list();
            Ok(Ok(guest.call_remaining(&mut instance.store, resource)?))
        })
    }
}
