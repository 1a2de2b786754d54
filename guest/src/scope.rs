//! One store directory: what all its parts share. Locks, publishing, creation of the layout, `_meta.json`.

use crate::artifact_manifest::KnownManifest;
use crate::codec;
use crate::commit::{Change, Held, Journal, generation_of, lock_content_failed, unsettled_writer};
use crate::database::Sql;
use crate::error::{Error, Result};
use crate::index::Index;
use crate::journal::LockName;
use crate::json::{Object, Value};
use crate::layout::{self, StorePath, Top};
use crate::log_files::LogFiles;
use crate::model::{Access, Durability, StoreOptions};
use crate::names::{ExperimentId, RunId};
use crate::ports::{Kind, Lock, LockError, LockMode, LockTarget, Ports};
use crate::segment::low_half;
use crate::tree::{ATTEMPTS, Overlay, Tree};
use sha2::{Digest, Sha256};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

/// One store directory: an experiment's, or a collection's root.
#[derive(Clone)]
pub(crate) struct Scope {
    pub(crate) tree: Tree,
    pub(crate) ports: Ports,
    pub(crate) options: Rc<StoreOptions>,
    /// The experiment that the directory belongs to; none for a collection's root.
    pub(crate) experiment: Option<ExperimentId>,
    /// The directory, by its name outside.
    pub(crate) outside: String,
    /// Whether the layout was seen to be complete.
    prepared: Rc<Cell<bool>>,
    /// Whether something was appended and not synced.
    pub(crate) unsynced: Rc<Cell<bool>>,
    /// What this store promised and has not made durable in place yet.
    pub(crate) journal: Rc<Journal>,
    /// The artifact manifest that was written last.
    pub(crate) manifest: Rc<RefCell<Option<KnownManifest>>>,
    /// The files in `logs/`.
    pub(crate) log_files: Rc<RefCell<LogFiles>>,
    /// The database as query index, if the store has one.
    pub(crate) sql: Option<Rc<Sql>>,
    /// The number of this store's note that the database is not to be believed; 0 for none yet.
    pub(crate) disowning: Rc<Cell<u64>>,
    /// What queries need of all runs.
    pub(crate) index: Rc<Index>,
    /// The same of the directories below.
    indexes: Rc<RefCell<BTreeMap<String, Rc<Index>>>>,
    /// What is read in place of lost files in the directories below, as far as they were looked at.
    overlays: Rc<RefCell<BTreeMap<String, Option<Rc<Overlay>>>>>,
}

impl Scope {
    /// Makes the scope of the granted directory.
    pub(crate) fn new(
        ports: Ports,
        options: Rc<StoreOptions>,
        experiment: Option<ExperimentId>,
    ) -> Self {
        Self {
            tree: Tree::new(Rc::clone(&ports.directory)),
            outside: options.directory.clone(),
            ports,
            options,
            experiment,
            prepared: Rc::new(Cell::new(false)),
            unsynced: Rc::new(Cell::new(false)),
            journal: Rc::default(),
            manifest: Rc::default(),
            log_files: Rc::default(),
            sql: None,
            disowning: Rc::default(),
            index: Rc::default(),
            indexes: Rc::default(),
            overlays: Rc::default(),
        }
    }

    /// Makes the scope of an experiment's directory below a collection's root: to read.
    ///
    /// What a crash of the machine kept from its files is looked at once: such a crash ends this store too.
    pub(crate) fn child(&self, directory: &str, experiment: ExperimentId) -> Result<Self> {
        let mut child = self.directory_below(directory, experiment);
        let known = self.overlays.borrow().get(directory).cloned();
        let overlay = match known {
            Some(overlay) => overlay,
            None => {
                let overlay = child.overlay()?.map(Rc::new);
                let mut overlays = self.overlays.borrow_mut();
                overlays.insert(directory.to_owned(), overlay.clone());
                overlay
            }
        };
        child.tree.set_overlay(overlay);
        let mut indexes = self.indexes.borrow_mut();
        child.index = Rc::clone(indexes.entry(directory.to_owned()).or_default());
        drop(indexes);
        Ok(child)
    }

    fn directory_below(&self, directory: &str, experiment: ExperimentId) -> Self {
        let mut options = StoreOptions::clone(&self.options);
        options.access = Access::ReadOnly;
        Self {
            tree: self.tree.child(directory),
            ports: self.ports.clone(),
            options: Rc::new(options),
            experiment: Some(experiment),
            outside: format!("{}/{directory}", self.outside),
            prepared: Rc::new(Cell::new(false)),
            unsynced: Rc::new(Cell::new(false)),
            journal: Rc::default(),
            manifest: Rc::default(),
            log_files: Rc::default(),
            sql: self.sql.clone(),
            disowning: Rc::default(),
            index: Rc::default(),
            indexes: Rc::default(),
            overlays: Rc::default(),
        }
    }

    /// Returns a file's path outside the component.
    pub(crate) fn outside(&self, path: &StorePath) -> String {
        format!("{}/{path}", self.outside)
    }

    /// Refuses a write to a read-only store.
    pub(crate) fn refuse_read_only(&self) -> Result<()> {
        if self.options.access == Access::ReadOnly {
            return Err(Error::ReadOnly(format!(
                "the store {} was opened read-only",
                self.outside
            )));
        }
        Ok(())
    }

    /// Refuses a write to a read-only store, and creates the layout before the first one.
    pub(crate) fn prepare_write(&self) -> Result<()> {
        self.refuse_read_only()?;
        if !self.prepared.get() {
            self.create_layout()?;
            self.prepared.set(true);
        }
        Ok(())
    }

    fn create_layout(&self) -> Result<()> {
        let mut created = false;
        for top in Top::ALL_CREATED {
            created |= self.tree.ensure_directory(&layout::directory(top))?;
        }
        created |= self.tree.ensure_directory(&layout::directory(Top::Index))?;
        if self.tree.stat(&layout::meta())?.is_none() {
            let mut meta = Object::new();
            meta.insert("created_by", Value::String("metalab".into()));
            meta.insert(
                "schema_version",
                Value::String(codec::SCHEMA_VERSION.into()),
            );
            if let Some(experiment) = &self.experiment {
                meta.insert("experiment_id", Value::String(experiment.as_str().into()));
            }
            // One creates it at a time, so that a stage file beside it is one that a dead writer left.
            // Without the lock it is created all the same.
            let timeout = self.options.lock_timeout_ms;
            let target = LockTarget::Maintenance;
            let creating = self
                .ports
                .roots
                .acquire(target, LockMode::Exclusive, timeout)
                .ok();
            if creating.is_some() {
                self.sweep_meta_stages()?;
            }
            if self.tree.stat(&layout::meta())?.is_none() {
                // Before anything is promised about this directory.
                let text = codec::print(&Value::Object(meta)).into_bytes();
                self.make(&Change::put(layout::meta(), None, text))?;
            }
        } else if created && self.options.durability == Durability::Full {
            self.tree.sync_directory(&layout::directory(Top::Root))?;
        }
        Ok(())
    }

    /// Removes what writers left that were killed while they created `_meta.json`.
    fn sweep_meta_stages(&self) -> Result<()> {
        let root = layout::directory(Top::Root);
        let meta = layout::meta().stage(0);
        let (mark, _) = meta.file_name().split_at(meta.file_name().len() - 8);
        for entry in self.tree.list(&root)? {
            if entry.kind == Kind::File
                && entry.name.starts_with(mark)
                && layout::is_stage_name(&entry.name)
            {
                self.tree.remove(&root.child(&entry.name)?)?;
            }
        }
        Ok(())
    }

    /// Reads which experiment the directory says it belongs to. A damaged `_meta.json` says nothing.
    pub(crate) fn declared_experiment(&self) -> Result<Option<String>> {
        let path = layout::meta();
        let Some(content) = self.tree.read(&path, codec::MAX_DOCUMENT)? else {
            return Ok(None);
        };
        let object = codec::parse_object(&self.tree.path(&path), &content)?;
        match object.get("experiment_id") {
            None => Ok(None),
            Some(Value::String(id)) if id.as_str().is_some() => Ok(id.as_str().map(str::to_owned)),
            Some(_) => Err(Error::corrupt(
                self.tree.path(&path),
                None,
                "`experiment_id` should be a text",
            )),
        }
    }

    /// Locks a run; without a lock where the file system has no working ones.
    pub(crate) fn lock_run(&self, run: &RunId) -> Result<Held> {
        let lock = self.lock(
            LockTarget::Run(run.as_str()),
            &format!("run {:?}", run.as_str()),
        )?;
        let held = held(LockName::Run(run.as_str().to_owned()), lock)?;
        self.look_before_write()?;
        self.finish_half_done(&held)?;
        Ok(held)
    }

    /// Locks a run for a recovery, which looks at everything that is half done itself.
    pub(crate) fn lock_run_to_recover(&self, run: &RunId) -> Result<Option<Box<dyn Lock>>> {
        self.lock(
            LockTarget::Run(run.as_str()),
            &format!("run {:?}", run.as_str()),
        )
    }

    /// Locks something else of the store by a name of the store's own.
    pub(crate) fn lock_named(&self, name: &str, what: &str) -> Result<Held> {
        let lock = self.lock(LockTarget::Segment(name), what)?;
        held(LockName::Other(name.to_owned()), lock)
    }

    /// Takes a lock together with other holders, or returns none where the file system has no working locks.
    pub(crate) fn lock_shared(&self, name: &str, what: &str) -> Result<Option<Box<dyn Lock>>> {
        self.lock_as(LockTarget::Segment(name), LockMode::Shared, what)
    }

    /// Takes a lock that nobody holds; none if anybody does.
    pub(crate) fn lock_at_once(&self, name: &str) -> Option<Box<dyn Lock>> {
        let target = LockTarget::Segment(name);
        let taken = self.ports.roots.acquire(target, LockMode::Exclusive, 0);
        taken.ok()
    }

    /// Takes a lock, or returns none where the file system has no working locks.
    fn lock(&self, target: LockTarget<'_>, what: &str) -> Result<Option<Box<dyn Lock>>> {
        self.lock_as(target, LockMode::Exclusive, what)
    }

    fn lock_as(
        &self,
        target: LockTarget<'_>,
        mode: LockMode,
        what: &str,
    ) -> Result<Option<Box<dyn Lock>>> {
        let timeout = self.options.lock_timeout_ms;
        let mut taken = self.ports.roots.acquire(target, mode, timeout);
        let mut attempt = 0;
        while matches!(taken, Err(LockError::NoDirectory)) && attempt < ATTEMPTS {
            attempt += 1;
            self.tree.ensure_directory(&layout::directory(Top::Locks))?;
            self.tree.ensure_directory(&layout::directory(Top::Index))?;
            taken = self.ports.roots.acquire(target, mode, timeout);
        }
        match taken {
            Ok(lock) => Ok(Some(lock)),
            Err(LockError::Unavailable(_)) => Ok(None),
            Err(LockError::TimedOut) => Err(Error::Locked(format!(
                "{what} is locked by another writer since {timeout} ms; try again, or raise the lock timeout"
            ))),
            Err(LockError::ReadOnly) => Err(Error::ReadOnly(format!(
                "{what} cannot be locked: the file system is read-only"
            ))),
            Err(LockError::NoDirectory) => Err(lock_failed(what, "its directory vanished")),
            Err(LockError::Refused(reason) | LockError::Io(reason)) => {
                Err(lock_failed(what, &reason))
            }
        }
    }

    /// Puts a file in place of an earlier one, whole or not at all, and returns its revision.
    pub(crate) fn publish(&self, held: &Held, path: StorePath, content: &[u8]) -> Result<String> {
        let previous = self.fingerprint(&path)?;
        let change = Change::put(path, previous, content);
        let revision = change.revision();
        self.commit(held, vec![change])?;
        Ok(revision)
    }

    /// Names a stage file beside a file.
    pub(crate) fn stage(&self, path: &StorePath) -> StorePath {
        path.stage(low_half(self.ports.random.next()))
    }
}

/// Reads the generation in the file of a lock that was taken.
fn held(name: LockName, lock: Option<Box<dyn Lock>>) -> Result<Held> {
    let content = lock.as_ref().map(|lock| lock.content());
    let mut held = Held {
        name,
        lock,
        stored: Cell::new(0),
        unsettled: None,
    };
    match content {
        None => {}
        Some(Ok(content)) => {
            held.stored.set(generation_of(&content));
            held.unsettled = unsettled_writer(&content);
        }
        Some(Err(reason)) => return Err(lock_content_failed(&held, &reason)),
    }
    Ok(held)
}

fn lock_failed(what: &str, reason: &str) -> Error {
    Error::Io {
        file: ".locks".into(),
        operation: "lock",
        code: "io",
        outcome_unknown: false,
        message: format!("{what} cannot be locked: {reason}"),
    }
}

/// Returns the revision of a content: the first 16 hexadecimal digits of its SHA-256.
#[must_use]
pub fn revision(content: &[u8]) -> String {
    hex(&Sha256::digest(content)[..8])
}

/// Prints bytes in lowercase hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}
