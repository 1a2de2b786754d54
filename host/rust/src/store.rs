//! An open store: a pool of instances of the component on one directory.

use crate::artifact::{ArtifactReader, ArtifactWriter, CHUNK, source_failed};
use crate::bindings::exports::metalab::store::store as wire;
use crate::bindings::exports::metalab::store::types::Error as WireError;
use crate::config::StoreConfig;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::grant::Grant;
use crate::instance::{Instance, Limits};
use crate::types::{
    ArtifactDescriptor, ArtifactReference, Damage, Expectation, LogChunk, Manifest, ManifestHeader,
    Metric, RunRecord, StructuredResult, VersionedRun,
};
use cap_std::fs::{Dir, OpenOptions};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use wasmtime::component::ResourceAny;

/// How many records a page of a list has when all of them are wanted.
const PAGE: u32 = 1024;

/// The stack of a thread that calls the component in place of one of a Tokio runtime, in bytes.
const STACK: usize = 4 * 1024 * 1024;

/// The answer of the component: the outer error is a trap.
type Answer<T> = wasmtime::Result<std::result::Result<T, WireError>>;

/// An open store. Cheap to clone; clones share the same instances, and threads may use it at once.
///
/// Calls block. From inside a Tokio runtime they work too: they run on another thread meanwhile.
/// A put that returned has the durability of the configuration.
#[derive(Clone)]
pub struct Store(Arc<Shared>);

struct Shared {
    config: StoreConfig,
    engine: Engine,
    grant: Grant,
    options: wire::StoreOptions,
    limits: Limits,
    max_instances: usize,
    pool: Mutex<Pool>,
    returned: Condvar,
}

struct Pool {
    idle: Vec<Opened>,
    /// How many instances there are, idle or not.
    count: usize,
    closed: bool,
}

/// An instance with the store opened in it.
struct Opened {
    instance: Instance,
    store: ResourceAny,
}

/// Runs a closure on a thread that is not one of a Tokio runtime: the WASI host blocks inside.
pub(crate) fn off_runtime<T: Send>(function: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    if tokio::runtime::Handle::try_current().is_err() {
        return function();
    }
    std::thread::scope(|scope| {
        let started = std::thread::Builder::new()
            .stack_size(STACK)
            .spawn_scoped(scope, function);
        let thread =
            started.map_err(|error| Error::Engine(format!("no thread can be started: {error}")))?;
        thread
            .join()
            .unwrap_or_else(|_| Err(Error::Engine("a thread of the store panicked".to_owned())))
    })
}

impl Shared {
    fn pool(&self) -> MutexGuard<'_, Pool> {
        // Nothing that holds the lock can leave the pool in a wrong state.
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self) -> Result<Opened> {
        let mut instance = Instance::new(&self.engine, Some(&self.grant), self.limits)?;
        let opened = instance
            .bindings
            .metalab_store_store()
            .store()
            .call_open(&mut instance.store, &self.options);
        match opened {
            Ok(Ok(store)) => Ok(Opened { instance, store }),
            Ok(Err(error)) => Err(error.into()),
            Err(error) => Err(instance.failure(&error)),
        }
    }

    fn take(self: &Arc<Self>) -> Result<Leased> {
        let mut pool = self.pool();
        loop {
            if pool.closed {
                return Err(Error::Closed);
            }
            if let Some(opened) = pool.idle.pop() {
                return Ok(Leased {
                    shared: Arc::clone(self),
                    opened: Some(opened),
                });
            }
            if pool.count < self.max_instances {
                pool.count += 1;
                break;
            }
            pool = self
                .returned
                .wait(pool)
                .unwrap_or_else(PoisonError::into_inner);
        }
        drop(pool);
        match self.start() {
            Ok(opened) => Ok(Leased {
                shared: Arc::clone(self),
                opened: Some(opened),
            }),
            Err(error) => {
                self.pool().count -= 1;
                self.returned.notify_one();
                Err(error)
            }
        }
    }
}

/// An instance taken from the pool; it goes back when this is dropped, unless the component failed.
pub(crate) struct Leased {
    shared: Arc<Shared>,
    opened: Option<Opened>,
}

impl Leased {
    /// Calls the component. After a trap the instance is gone: the pool starts a fresh one when needed.
    pub(crate) fn run<T: Send>(
        &mut self,
        function: impl FnOnce(&mut Instance) -> Answer<T> + Send,
    ) -> Result<T> {
        self.with_store(|instance, _| function(instance))
    }

    fn with_store<T: Send>(
        &mut self,
        function: impl FnOnce(&mut Instance, ResourceAny) -> Answer<T> + Send,
    ) -> Result<T> {
        let Some(opened) = self.opened.as_mut() else {
            return Err(Error::Trap("the instance is gone".to_owned()));
        };
        let failure = off_runtime(|| {
            opened.instance.begin_call();
            match function(&mut opened.instance, opened.store) {
                Ok(answer) => Ok(answer.map_err(Error::from)),
                Err(error) => Err(opened.instance.failure(&error)),
            }
        });
        match failure {
            Ok(answer) => answer,
            Err(error) => {
                self.discard();
                Err(error)
            }
        }
    }

    /// Gives a resource of the instance back.
    pub(crate) fn drop_resource(&mut self, resource: ResourceAny) {
        // A resource of an instance that is gone went with it.
        if self.opened.is_some() {
            drop(self.run(|instance| Ok(Ok(resource.resource_drop(&mut instance.store)?))));
        }
    }

    fn discard(&mut self) {
        if self.opened.take().is_some() {
            self.shared.pool().count -= 1;
            self.shared.returned.notify_one();
        }
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        if let Some(opened) = self.opened.take() {
            let mut pool = self.shared.pool();
            if pool.closed {
                pool.count -= 1;
                drop(pool);
                close(opened).ok();
            } else {
                pool.idle.push(opened);
                drop(pool);
            }
            self.shared.returned.notify_all();
        }
    }
}

/// Ends the store's work in one instance.
fn close(mut opened: Opened) -> Result<()> {
    off_runtime(move || {
        let instance = &mut opened.instance;
        instance.begin_call();
        let closed = instance
            .bindings
            .metalab_store_store()
            .store()
            .call_close(&mut instance.store, opened.store);
        match closed {
            Ok(answer) => answer.map_err(Error::from),
            Err(error) => Err(instance.failure(&error)),
        }
    })
}

impl Drop for Shared {
    fn drop(&mut self) {
        let pool = self.pool.get_mut().unwrap_or_else(PoisonError::into_inner);
        for opened in pool.idle.drain(..) {
            // Who wants to know calls `close`.
            close(opened).ok();
        }
    }
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
        $self.call(|instance, store| {
            instance.bindings.metalab_store_store().store().$method(&mut instance.store, store $(, $argument)*)
        })
    };
}

impl Store {
    pub(crate) fn open(
        config: StoreConfig,
        engine: Engine,
        grant: Grant,
        options: wire::StoreOptions,
        limits: Limits,
        max_instances: usize,
    ) -> Result<Self> {
        let pool = Mutex::new(Pool {
            idle: Vec::new(),
            count: 0,
            closed: false,
        });
        let returned = Condvar::new();
        let shared = Shared {
            config,
            engine,
            grant,
            options,
            limits,
            max_instances,
            pool,
            returned,
        };
        let store = Self(Arc::new(shared));
        // Errors of the directory show now, not at the first call.
        off_runtime(|| store.0.take().map(drop))?;
        Ok(store)
    }

    fn call<T: Send>(
        &self,
        function: impl FnOnce(&mut Instance, ResourceAny) -> Answer<T> + Send,
    ) -> Result<T> {
        off_runtime(|| self.0.take())?.with_store(function)
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
    /// Readers, writers and lists that are still open end when they are dropped. Closing again does nothing.
    ///
    /// # Errors
    /// [`Error::Io`] if something could not be made durable. The store is closed nevertheless.
    pub fn close(&self) -> Result<()> {
        let mut pool = self.0.pool();
        pool.closed = true;
        let idle = std::mem::take(&mut pool.idle);
        pool.count -= idle.len();
        drop(pool);
        self.0.returned.notify_all();
        idle.into_iter().map(close).fold(Ok(()), Result::and)
    }

    /// Returns the store's directory.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub fn get_working_directory(&self) -> Result<PathBuf> {
        self.call(|instance, store| {
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

    /// Stores many records with one sync; the outcomes are in their order.
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
        let mut records = Vec::new();
        loop {
            let page = list.next(PAGE)?;
            if page.is_empty() {
                return Ok(RunPage {
                    records,
                    damaged: list.damaged()?,
                });
            }
            records.extend(page);
        }
    }

    /// Lists run records a page at a time.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn list_runs(&self, experiment_id: Option<&str>) -> Result<RunList> {
        let mut leased = off_runtime(|| self.0.take())?;
        let resource = leased.with_store(|instance, store| {
            let guest = instance.bindings.metalab_store_store();
            guest
                .store()
                .call_list_run_records(&mut instance.store, store, experiment_id)
        })?;
        Ok(RunList { leased, resource })
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
    /// [`Error::InvalidArgument`] if the source is not a regular file, or size or hash are not those given.
    pub fn put_artifact_file(
        &self,
        source: &Path,
        descriptor: &ArtifactDescriptor,
    ) -> Result<ArtifactDescriptor> {
        // The type is looked at first: opening a FIFO would block.
        let metadata = std::fs::metadata(source).map_err(|error| source_failed(source, &error))?;
        if !metadata.is_file() {
            return Err(source_failed(
                source,
                &std::io::Error::other("it is not a regular file"),
            ));
        }
        let file = File::open(source).map_err(|error| source_failed(source, &error))?;
        let staged = call!(self.call_stage_artifact())?;
        let directory = self.0.grant.directory()?;
        let copied = copy(&file, &directory, &staged);
        if let Err(error) = copied {
            directory.remove_file(&staged).ok();
            return Err(Error::InvalidArgument(format!(
                "cannot copy {} into the store: {error}",
                source.display()
            )));
        }
        call!(self.call_import_artifact(&staged, descriptor))
    }

    /// Begins an artifact of any size.
    ///
    /// # Errors
    /// [`Error::InvalidName`].
    pub fn create_artifact(&self, descriptor: &ArtifactDescriptor) -> Result<ArtifactWriter> {
        let mut leased = off_runtime(|| self.0.take())?;
        let resource = leased.with_store(|instance, store| {
            let guest = instance.bindings.metalab_store_store();
            guest
                .store()
                .call_create_artifact(&mut instance.store, store, descriptor)
        })?;
        Ok(ArtifactWriter { leased, resource })
    }

    /// Returns the bytes of an artifact.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such artifact.
    pub fn get_artifact(&self, artifact: &ArtifactReference) -> Result<Vec<u8>> {
        let mut reader = self.open_artifact(artifact, false)?;
        let mut content = Vec::with_capacity(
            usize::try_from(reader.size())
                .unwrap_or_default()
                .min(64 << 20),
        );
        loop {
            let piece = reader.read_at(content.len() as u64, CHUNK)?;
            if piece.is_empty() {
                return Ok(content);
            }
            content.extend_from_slice(&piece);
        }
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
        let mut leased = off_runtime(|| self.0.take())?;
        let resource = leased.with_store(|instance, store| {
            let guest = instance.bindings.metalab_store_store();
            guest
                .store()
                .call_open_artifact(&mut instance.store, store, artifact, verify)
        })?;
        let size = leased.run(|instance| {
            let guest = instance.bindings.metalab_store_store();
            Ok(Ok(guest
                .artifact_reader()
                .call_size(&mut instance.store, resource)?))
        })?;
        Ok(ArtifactReader {
            leased,
            resource,
            position: 0,
            size,
        })
    }

    /// Lists the artifacts of a run; the one put last is last.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the run's artifact manifest is damaged.
    pub fn list_artifacts(&self, run_id: &str) -> Result<Vec<ArtifactDescriptor>> {
        call!(self.call_list_artifacts(run_id))
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

/// Copies a file into the store's directory, to a name that must not exist.
fn copy(source: &File, directory: &Dir, name: &str) -> std::io::Result<()> {
    let target = directory
        .open_with(name, OpenOptions::new().write(true).create_new(true))?
        .into_std();
    // A file system that shares blocks needs no copy; any reason why not is a reason to copy.
    if rustix::fs::ioctl_ficlone(&target, source).is_ok() {
        return Ok(());
    }
    std::io::copy(&mut &*source, &mut &target)?;
    Ok(())
}

/// A list of run records, handed out a page at a time.
///
/// It holds an instance of the component until it is dropped.
pub struct RunList {
    leased: Leased,
    resource: ResourceAny,
}

impl RunList {
    /// Returns the next records: at most `limit`, or 4,096. An empty page is the end.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn next(&mut self, limit: u32) -> Result<Vec<RunRecord>> {
        let resource = self.resource;
        self.leased.run(|instance| {
            let guest = instance.bindings.metalab_store_store();
            guest
                .run_list()
                .call_next(&mut instance.store, resource, limit)
        })
    }

    /// Returns the next records as lines of JSON text: at most `max_bytes`, or 16 MiB, but at least one
    /// record. An empty text is the end.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn next_lines(&mut self, max_bytes: u32) -> Result<String> {
        let resource = self.resource;
        self.leased.run(|instance| {
            let guest = instance.bindings.metalab_store_store();
            guest
                .run_list()
                .call_next_lines(&mut instance.store, resource, max_bytes)
        })
    }

    /// Returns the files found damaged so far.
    ///
    /// # Errors
    /// [`Error::Trap`].
    pub fn damaged(&mut self) -> Result<Vec<Damage>> {
        let resource = self.resource;
        self.leased.run(|instance| {
            let guest = instance.bindings.metalab_store_store();
            Ok(Ok(guest
                .run_list()
                .call_damaged(&mut instance.store, resource)?))
        })
    }

    /// Returns how many runs are left to hand out.
    ///
    /// # Errors
    /// [`Error::Trap`].
    pub fn remaining(&mut self) -> Result<u64> {
        let resource = self.resource;
        self.leased.run(|instance| {
            let guest = instance.bindings.metalab_store_store();
            Ok(Ok(guest
                .run_list()
                .call_remaining(&mut instance.store, resource)?))
        })
    }
}

impl Drop for RunList {
    fn drop(&mut self) {
        self.leased.drop_resource(self.resource);
    }
}
