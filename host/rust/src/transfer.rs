//! Copying runs from one store to another, or to and from an archive.
//!
//! All rules are the component's; this carries the stream between two instances of it.

use crate::bindings::exports::metalab::store::transfer as wire;
use crate::config::StoreConfig;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::instance::{Instance, Limits};
use crate::pool::{Answer, Resource, off_runtime};
use crate::store::Store;
use crate::types::{DatabaseError, IndexStanding, IoError};
use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use wasmtime::component::ResourceAny;

pub use wire::{Counts, Existing, ExperimentDigest, Failure, Report, Selection};

/// The most bytes that cross the component's surface in one call.
const CHUNK: usize = 256 * 1024;

/// Where runs are copied from or to.
#[derive(Clone, Debug)]
pub enum Place {
    /// A store: a whole collection, or an experiment.
    Store(Box<StoreConfig>),
    /// An archive. It is compressed if its name does not end in `.tar`.
    Archive(PathBuf),
}

/// How far a copy has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The runs of the source that were looked at; 0 for an archive.
    pub runs: u64,
    /// The runs that the source has, as far as it is known: experiments are listed when it is their turn.
    pub total: u64,
    /// The bytes that were carried.
    pub bytes: u64,
    /// Of an archive that is copied from: how many of its bytes were read, and how many it has.
    pub archive: Option<(u64, u64)>,
}

/// How runs are copied.
#[derive(Clone, Debug)]
pub struct TransferOptions {
    /// What is copied from a store. An archive is copied whole: anything else is refused.
    pub selection: Selection,
    /// What happens to a run that the destination has with another content.
    pub existing: Existing,
    /// Whether nothing is written, and only told what would be.
    pub dry_run: bool,
    /// Whether the places of artifacts are rewritten to those of the destination.
    pub rewrite_uris: bool,
    /// How many bytes an archive may hold; by default 1 GiB and 1,000 times its size.
    pub max_archive_bytes: Option<u64>,
}

impl Default for TransferOptions {
    fn default() -> Self {
        Self {
            selection: Selection {
                experiments: Vec::new(),
                filter: String::new(),
                artifacts: true,
                derived: true,
                results: true,
                logs: true,
            },
            existing: Existing::Fail,
            dry_run: false,
            rewrite_uris: false,
            max_archive_bytes: None,
        }
    }
}

/// Copies runs, and says what became of each.
///
/// `progress` is called often, and stops the copy with [`ControlFlow::Break`]. A copy that was stopped, or killed,
/// is finished by the same call.
///
/// # Errors
/// [`Error::InvalidArgument`] if one place lies in the other, or the archive is none; [`Error::Cancelled`];
/// [`Error::Io`]. What is wrong with one run is in the report, and ends nothing.
pub fn transfer(
    from: &Place,
    to: &Place,
    options: &TransferOptions,
    progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
) -> Result<Report> {
    check_places(from, to)?;
    let mut source = Source::open(from, options)?;
    match to {
        Place::Store(config) => into_store(&mut source, config, options, progress),
        Place::Archive(path) => into_archive(&mut source, path, options, progress),
    }
}

fn check_places(from: &Place, to: &Place) -> Result<()> {
    if let (Place::Store(from), Place::Archive(to)) = (from, to) {
        return check_archive(from.root(), to);
    }
    let (Place::Store(from), Place::Store(to)) = (from, to) else {
        return Ok(());
    };
    let (source, destination) = (from.root(), to.root());
    if source == destination {
        return Err(Error::InvalidArgument(format!(
            "source and destination are the same store, {}",
            source.display()
        )));
    }
    for (outer, inner) in [(source, destination), (destination, source)] {
        if inner.starts_with(outer) {
            return Err(Error::InvalidArgument(format!(
                "{} lies within {}; name a destination beside the source",
                inner.display(),
                outer.display()
            )));
        }
    }
    Ok(())
}

/// Refuses to put an archive into the store that it is made of.
fn check_archive(source: &Path, archive: &Path) -> Result<()> {
    let parent = match archive.parent() {
        None => return Ok(()),
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
    };
    // What is not there is told by whoever opens it.
    if let (Ok(outer), Ok(inner)) = (source.canonicalize(), parent.canonicalize())
        && inner.starts_with(&outer)
    {
        return Err(Error::InvalidArgument(format!(
            "the archive {} would lie within {}, which it is made of; name a place beside that",
            archive.display(),
            source.display()
        )));
    }
    Ok(())
}

/// Refuses to choose from an archive.
fn check_whole(selection: &Selection) -> Result<()> {
    let Selection {
        experiments,
        filter,
        artifacts,
        derived,
        results,
        logs,
    } = selection;
    if experiments.is_empty() && filter.is_empty() && *artifacts && *derived && *results && *logs {
        return Ok(());
    }
    Err(Error::InvalidArgument(
        "an archive is copied whole: import it, and export from that store what is wanted"
            .to_owned(),
    ))
}

/// What hands the stream out.
enum Source {
    Store(Resource),
    Archive {
        path: PathBuf,
        file: File,
        unpacker: Box<Tool>,
        ended: bool,
        progress: Progress,
    },
}

/// A resource of the component that needs no store, in an instance that sees no directory.
struct Tool {
    instance: Instance,
    resource: ResourceAny,
}

impl Tool {
    fn new(
        make: impl FnOnce(&mut Instance) -> wasmtime::Result<ResourceAny> + Send,
    ) -> Result<Self> {
        off_runtime(|| {
            let mut instance = Instance::new(&Engine::shared()?, None, Limits::default())?;
            let resource = instance.call(|instance| Ok(Ok(make(instance)?)))??;
            Ok(Self { instance, resource })
        })
    }

    fn call<T: Send>(
        &mut self,
        function: impl FnOnce(&mut Instance, ResourceAny) -> Answer<T> + Send,
    ) -> Result<T> {
        let resource = self.resource;
        off_runtime(|| {
            self.instance
                .call(|instance| function(instance, resource))?
        })
    }
}

impl Source {
    fn open(from: &Place, options: &TransferOptions) -> Result<Self> {
        match from {
            Place::Store(config) => {
                let store = config
                    .as_ref()
                    .clone()
                    .read_only()
                    .max_instances(1)
                    .connect()?;
                let selection = &options.selection;
                let sender = store.pool().open_resource(|instance, store| {
                    let guest = instance.bindings.metalab_store_transfer();
                    guest.call_send(&mut instance.store, store, selection)
                })?;
                Ok(Self::Store(sender))
            }
            Place::Archive(path) => {
                check_whole(&options.selection)?;
                let failed = |error| refused(path, "open", &error);
                let file = File::open(path).map_err(failed)?;
                let size = file.metadata().map_err(failed)?.len();
                let limit = options.max_archive_bytes;
                let unpacker = Tool::new(|instance| {
                    let guest = instance.bindings.metalab_store_transfer();
                    guest
                        .unpacker()
                        .call_constructor(&mut instance.store, limit)
                })?;
                Ok(Self::Archive {
                    path: path.clone(),
                    file,
                    unpacker: Box::new(unpacker),
                    ended: false,
                    progress: Progress {
                        archive: Some((0, size)),
                        ..Progress::default()
                    },
                })
            }
        }
    }

    /// Returns the next piece of the stream; an empty one is the end.
    fn next(&mut self) -> Result<Vec<u8>> {
        match self {
            Self::Store(sender) => sender.call(|instance, sender| {
                let guest = instance.bindings.metalab_store_transfer().sender();
                guest.call_next_chunk(&mut instance.store, sender)
            }),
            Self::Archive {
                path,
                file,
                unpacker,
                ended,
                progress,
            } => loop {
                let all = *ended;
                let piece = unpacker.call(|instance, unpacker| {
                    let guest = instance.bindings.metalab_store_transfer().unpacker();
                    guest.call_read(&mut instance.store, unpacker, all)
                })?;
                if !piece.is_empty() || all {
                    progress.bytes += piece.len() as u64;
                    return Ok(piece);
                }
                let mut packed = vec![0; CHUNK];
                let failed = |error| refused(path, "read", &error);
                let count = file.read(&mut packed).map_err(failed)?;
                *ended = count == 0;
                if let Some((read, _)) = &mut progress.archive {
                    *read += count as u64;
                }
                unpacker.call(|instance, unpacker| {
                    let guest = instance.bindings.metalab_store_transfer().unpacker();
                    guest.call_write(&mut instance.store, unpacker, &packed[..count])
                })?;
            },
        }
    }

    /// Reports the directories that may be experiments and were not copied, since they do not say so.
    fn add_damaged(&self, options: &TransferOptions, report: &mut Report) -> Result<()> {
        let Self::Store(sender) = self else {
            return Ok(());
        };
        if !options.selection.experiments.is_empty() {
            return Ok(());
        }
        let damaged = sender.call(|instance, sender| {
            let guest = instance.bindings.metalab_store_transfer().sender();
            Ok(Ok(guest.call_damaged(&mut instance.store, sender)?))
        })?;
        report
            .failures
            .extend(damaged.into_iter().map(|damage| Failure {
                experiment_id: String::new(),
                run_id: None,
                file: Some(damage.file),
                reason: damage.reason,
            }));
        Ok(())
    }

    fn progress(&self) -> Result<Progress> {
        match self {
            Self::Store(sender) => sent(sender),
            Self::Archive { progress, .. } => Ok(*progress),
        }
    }
}

/// Says how far a sender has come.
fn sent(sender: &Resource) -> Result<Progress> {
    let progress = sender.call(|instance, sender| {
        let guest = instance.bindings.metalab_store_transfer().sender();
        Ok(Ok(guest.call_progress(&mut instance.store, sender)?))
    })?;
    Ok(Progress {
        runs: progress.runs,
        total: progress.total,
        bytes: progress.bytes,
        archive: None,
    })
}

/// Makes the error of an archive that cannot be opened, read or written.
fn refused(path: &Path, operation: &str, error: &io::Error) -> Error {
    let code = match error.kind() {
        io::ErrorKind::NotFound => "no-entry",
        io::ErrorKind::PermissionDenied => "access",
        io::ErrorKind::StorageFull => "insufficient-space",
        io::ErrorKind::QuotaExceeded => "quota",
        io::ErrorKind::IsADirectory => "is-directory",
        _ => "io",
    };
    Error::Io(IoError {
        file: path.display().to_string(),
        operation: operation.to_owned(),
        code: code.to_owned(),
        outcome_unknown: false,
        message: format!("cannot {operation} the archive {}: {error}", path.display()),
    })
}

/// A store that takes the stream.
struct Destination {
    receiver: Resource,
    store: Store,
    /// An empty store that stands for one that does not exist yet; only a dry run looks at it.
    stand_in: Option<StandIn>,
}

/// A directory that goes when this is dropped.
struct StandIn(PathBuf);

impl StandIn {
    fn new() -> Result<Self> {
        let since = std::time::SystemTime::UNIX_EPOCH
            .elapsed()
            .unwrap_or_default();
        let name = format!("metalab-store-{}-{}", std::process::id(), since.as_nanos());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).map_err(|error| Error::Root {
            path: path.clone(),
            reason: error.to_string(),
        })?;
        Ok(Self(path))
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        // What stays is in the directory of temporary files.
        std::fs::remove_dir_all(&self.0).ok();
    }
}

impl Destination {
    fn open(
        config: &StoreConfig,
        options: &TransferOptions,
        handover: Option<&[u8]>,
    ) -> Result<Self> {
        let unwritten = config.clone().max_instances(1);
        let mut config = unwritten.clone();
        if options.dry_run {
            config = config.read_only();
        }
        let mut stand_in = None;
        let store = match config.connect() {
            Err(Error::Root { path, .. }) if options.dry_run && !path.exists() => {
                let directory = StandIn::new()?;
                let writer = unwritten.with_root(directory.0.clone());
                writer.connect()?.close()?;
                stand_in = Some(directory);
                writer.read_only().connect()
            }
            connected => connected,
        }?;
        let wire = wire::ReceiveOptions {
            existing: options.existing,
            dry_run: options.dry_run,
            rewrite_uris: options.rewrite_uris,
            redirect: handover.is_some(),
        };
        let receiver = store.pool().open_resource(|instance, store| {
            let guest = instance.bindings.metalab_store_transfer();
            guest.call_receive(&mut instance.store, store, wire, handover)
        })?;
        Ok(Self {
            receiver,
            store,
            stand_in,
        })
    }

    fn write(&self, chunk: &[u8]) -> Result<wire::Step> {
        self.receiver.call(|instance, receiver| {
            let guest = instance.bindings.metalab_store_transfer().receiver();
            guest.call_write(&mut instance.store, receiver, chunk)
        })
    }

    fn refuse(&self, reason: &str) -> Result<()> {
        self.receiver.call(|instance, receiver| {
            let guest = instance.bindings.metalab_store_transfer().receiver();
            Ok(Ok(guest.call_refuse(
                &mut instance.store,
                receiver,
                reason,
            )?))
        })
    }

    fn finish(self, report: &mut Report) -> Result<()> {
        let found = self.receiver.call(|instance, receiver| {
            let guest = instance.bindings.metalab_store_transfer().receiver();
            guest.call_finish(&mut instance.store, receiver)
        })?;
        drop(self.receiver);
        self.store.close()?;
        drop(self.stand_in);
        for (sum, counts) in [
            (&mut report.copied, found.copied),
            (&mut report.skipped, found.skipped),
            (&mut report.failed, found.failed),
        ] {
            sum.runs += counts.runs;
            sum.files += counts.files;
            sum.bytes += counts.bytes;
        }
        report.removed += found.removed;
        report.failures.extend(found.failures);
        report.digests.extend(found.digests);
        Ok(())
    }
}

/// An archive that is being written, beside the one that it becomes. It is locked as long as it is open, and has
/// always the same name, so that what a killed export left is written over and no other export writes it too.
struct Part<'a> {
    file: File,
    path: PathBuf,
    becomes: &'a Path,
}

impl<'a> Part<'a> {
    fn create(becomes: &'a Path) -> Result<Self> {
        let mut name = becomes.as_os_str().to_owned();
        name.push(".part");
        let path = PathBuf::from(name);
        let failed = |error: io::Error| refused(becomes, "write", &error);
        loop {
            let mut options = File::options();
            let file = options.write(true).create(true).truncate(false).open(&path);
            let file = file.map_err(failed)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(std::fs::TryLockError::WouldBlock) => {
                    return Err(Error::Locked(format!(
                        "another export is writing the archive {}; wait for it, or name another archive",
                        becomes.display()
                    )));
                }
                // Without working locks, nobody else is told.
                Err(std::fs::TryLockError::Error(_)) => {}
            }
            // Who held the lock before may have renamed it meanwhile.
            let named = std::fs::symlink_metadata(&path).ok();
            let opened = file.metadata().map_err(failed)?;
            if named.is_some_and(|named| (named.dev(), named.ino()) == (opened.dev(), opened.ino()))
            {
                file.set_len(0).map_err(failed)?;
                return Ok(Self {
                    file,
                    path,
                    becomes,
                });
            }
        }
    }

    fn write(&mut self, piece: &[u8]) -> Result<()> {
        let written = self.file.write_all(piece);
        written.map_err(|error| refused(self.becomes, "write", &error))
    }

    /// Puts it in place, durably.
    fn publish(self) -> Result<()> {
        let directory = match self.becomes.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let done = self
            .file
            .sync_all()
            .and_then(|()| std::fs::rename(&self.path, self.becomes))
            .and_then(|()| File::open(directory)?.sync_all());
        done.map_err(|error| {
            let error = refused(self.becomes, "write", &error);
            self.discard();
            error
        })
    }

    fn discard(&self) {
        // The error that made it useless is what counts.
        std::fs::remove_file(&self.path).ok();
    }
}

fn empty_report() -> Report {
    let none = Counts {
        runs: 0,
        files: 0,
        bytes: 0,
    };
    Report {
        copied: none,
        skipped: none,
        failed: none,
        removed: 0,
        failures: Vec::new(),
        digests: Vec::new(),
    }
}

fn into_store(
    source: &mut Source,
    config: &StoreConfig,
    options: &TransferOptions,
    progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
) -> Result<Report> {
    let mut report = empty_report();
    let indexed = config.has_database() && !options.dry_run;
    if indexed {
        check_database(config)?;
    }
    let mut destination = Destination::open(config, options, None)?;
    loop {
        let chunk = source.next()?;
        if chunk.is_empty() {
            break;
        }
        let mut rest = chunk.as_slice();
        while !rest.is_empty() {
            let step = destination.write(rest)?;
            let consumed = usize::try_from(step.consumed).unwrap_or(usize::MAX);
            if consumed == 0 && step.elsewhere.is_none() {
                return Err(Error::Trap("the component takes nothing".to_owned()));
            }
            rest = rest.get(consumed..).unwrap_or_default();
            if let Some(elsewhere) = step.elsewhere {
                let scoped = config.clone().scoped(&elsewhere.experiment_id);
                match Destination::open(&scoped, options, Some(&elsewhere.handover)) {
                    Ok(next) => {
                        std::mem::replace(&mut destination, next).finish(&mut report)?;
                    }
                    Err(error) => destination.refuse(&error.to_string())?,
                }
            }
        }
        if progress(&source.progress()?).is_break() {
            return Err(Error::Cancelled);
        }
    }
    destination.finish(&mut report)?;
    if indexed && let Err(error) = update_database(config) {
        report.failures.push(Failure {
            experiment_id: String::new(),
            run_id: None,
            file: None,
            reason: format!(
                "the files are in place, and the database does not know all of them yet: {error}; run `metalab-store rebuild-index`"
            ),
        });
    }
    source.add_damaged(options, &mut report)?;
    Ok(report)
}

/// Refuses a destination whose database does not answer, before anything is copied.
fn check_database(config: &StoreConfig) -> Result<()> {
    let store = config.clone().max_instances(1).connect()?;
    // A schema that has no tables yet gets them.
    let answered = match store.index_state()?.standing {
        IndexStanding::Unreachable => store.rebuild_index().map(drop),
        IndexStanding::None | IndexStanding::Current | IndexStanding::Behind => Ok(()),
    };
    store.close()?;
    answered.map_err(|error| match error {
        Error::Database(database) => Error::Database(DatabaseError {
            message: format!(
                "nothing was copied: the destination's database cannot be used: {}",
                database.message
            ),
            ..database
        }),
        other => other,
    })
}

/// Lets the database know what was copied.
fn update_database(config: &StoreConfig) -> Result<()> {
    let store = config.clone().max_instances(1).connect()?;
    if store.index_state()?.standing != IndexStanding::Current {
        store.rebuild_index()?.finish()?;
    }
    store.close()
}

fn into_archive(
    source: &mut Source,
    path: &Path,
    options: &TransferOptions,
    progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
) -> Result<Report> {
    let Source::Store(sender) = source else {
        return Err(Error::InvalidArgument(
            "source and destination are both archives; copy the file".to_owned(),
        ));
    };
    if path.exists() && options.existing != Existing::Overwrite {
        return Err(Error::AlreadyExists(format!(
            "the archive {} exists already; pass --overwrite to replace it",
            path.display()
        )));
    }
    let plain = path.extension().is_some_and(|extension| extension == "tar");
    let mut packer = Tool::new(|instance| {
        let guest = instance.bindings.metalab_store_transfer();
        guest.packer().call_constructor(&mut instance.store)
    })?;
    let mut file = match options.dry_run {
        true => None,
        false => Some(Part::create(path)?),
    };
    let written = loop {
        let chunk = sender.call(|instance, sender| {
            let guest = instance.bindings.metalab_store_transfer().sender();
            guest.call_next_chunk(&mut instance.store, sender)
        });
        let chunk = match chunk {
            Ok(chunk) => chunk,
            Err(error) => break Err(error),
        };
        let ended = chunk.is_empty();
        let packed = if plain {
            Ok(chunk)
        } else {
            packer.call(|instance, packer| {
                let guest = instance.bindings.metalab_store_transfer().packer();
                let store = &mut instance.store;
                Ok(Ok(if ended {
                    guest.call_finish(store, packer)?
                } else {
                    guest.call_write(store, packer, &chunk)?
                }))
            })
        };
        let put = packed.and_then(|packed| match &mut file {
            Some(part) => part.write(&packed),
            None => Ok(()),
        });
        if let Err(error) = put {
            break Err(error);
        }
        if ended {
            break Ok(());
        }
        let now = match sent(sender) {
            Ok(now) => now,
            Err(error) => break Err(error),
        };
        if progress(&now).is_break() {
            break Err(Error::Cancelled);
        }
    };
    match (written, file) {
        (Ok(()), Some(part)) => part.publish()?,
        (Ok(()), None) => {}
        (Err(error), part) => {
            if let Some(part) = part {
                part.discard();
            }
            return Err(error);
        }
    }
    let mut report = sender.call(|instance, sender| {
        let guest = instance.bindings.metalab_store_transfer().sender();
        Ok(Ok(guest.call_report(&mut instance.store, sender)?))
    })?;
    source.add_damaged(options, &mut report)?;
    Ok(report)
}
