//! Removing what dead writers left, and what belongs to nothing.
//!
//! What is removed is looked at again under the lock that its writer would hold, and only after a grace period without
//! a change: so nothing is taken from a writer that lives. Where that cannot be told, it stays.

use super::FindingKind;
use super::run::entries_of;
use crate::codec;
use crate::error::{Error, Result};
use crate::json::Value;
use crate::layout::{self, StorePath, Top};
use crate::model::Access;
use crate::names::RunId;
use crate::ports::{Kind, Lock, LockError, LockMode, LockTarget, Stat};
use crate::scope::Scope;
use crate::segment::lock_file;
use crate::transfer::inventory::{Belongings, Inventory, Kinds, Place, Stray, files_of};
use std::collections::{BTreeSet, VecDeque, btree_map};
use std::rc::Rc;

/// The name of the lock of whoever collects.
const LOCK: &str = "garbage";

/// How many runs one step looks at.
const RUNS: usize = 64;

/// What is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GarbageOptions {
    /// Whether anything is removed, or only told what would be.
    pub apply: bool,
    /// How long a file must not have changed, in seconds.
    pub grace_seconds: u64,
}

/// Something that is left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// What it is.
    pub kind: FindingKind,
    /// The file, relative to the granted directory.
    pub file: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// Why it is not needed, in one sentence.
    pub reason: String,
    /// Why it stays; none if it is removed, or would be.
    pub kept: Option<String>,
}

/// How much was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct GarbageReport {
    /// The files that were removed, or would be.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The files that stay.
    pub kept_files: u64,
    /// Their bytes.
    pub kept_bytes: u64,
    /// Directories that could not be looked at.
    pub unseen: u64,
}

/// A collection that is under way. Dropping it ends it; what was removed stays so.
pub struct Collection {
    scope: Rc<Scope>,
    options: GarbageOptions,
    runs: btree_map::IntoIter<RunId, Belongings>,
    total: u64,
    done: u64,
    /// What is looked at after the runs; none once it was.
    rest: Option<Rest>,
    found: VecDeque<Left>,
    report: GarbageReport,
    removed: bool,
    /// Journals that hold what is in no file.
    unsettled: BTreeSet<u64>,
    /// The runs that these name.
    promised: BTreeSet<RunId>,
    /// Whether locks work, so that a living writer can be told from a dead one.
    locks_work: bool,
    /// Lets one collect at a time.
    _lock: Option<Box<dyn Lock>>,
}

struct Rest {
    stages: Vec<StorePath>,
    unused: Vec<RunId>,
}

/// Whether something may be removed.
enum Answer {
    /// While this lock is held, if there is one.
    Yes(#[expect(dead_code, reason = "it is held until it is dropped")] Option<Box<dyn Lock>>),
    /// For this reason not.
    No(&'static str),
}

const YOUNG: &str = "it was changed within the grace period";
const HELD: &str = "a writer holds its lock";
const ALIVE: &str = "its writer may live";
const PROMISED: &str =
    "a journal holds what belongs to it and is in no file; `verify --repair` puts it in place";
const NO_LOCKS: &str =
    "the file system has no working locks, so that it cannot be told whether its writer lives";

/// Takes the lock that lets one collect at a time, and says whether locks work. A directory without a store, and
/// one that is only read, gets none.
fn alone(scope: &Scope) -> Result<(Option<Box<dyn Lock>>, bool)> {
    let is_store = scope.tree.stat(&layout::directory(Top::Index))?.is_some();
    if scope.options.access == Access::ReadOnly || !is_store {
        return Ok((None, true));
    }
    let target = LockTarget::Segment(LOCK);
    match scope.ports.roots.acquire(target, LockMode::Exclusive, 0) {
        Ok(lock) => Ok((Some(lock), true)),
        Err(LockError::TimedOut) => Err(Error::Locked(format!(
            "garbage of {} is being collected by another program; try again when it is done",
            scope.outside
        ))),
        Err(_) => Ok((None, false)),
    }
}

impl Collection {
    /// Begins.
    pub(crate) fn begin(scope: Rc<Scope>, options: GarbageOptions) -> Result<Self> {
        if options.apply {
            scope.refuse_read_only()?;
        }
        let mut inventory = Inventory::take(&scope)?;
        let mut unused = inventory.lock_files;
        let unlisted = &inventory.unlisted;
        if !unlisted.is_empty() {
            // Of which runs there is nothing is not known.
            unused.clear();
        }
        if unlisted.contains(&Top::Runs) || unlisted.contains(&Top::Artifacts) {
            // Nor is what their records and manifests list.
            inventory.runs.clear();
        }
        let runs = &inventory.runs;
        unused.retain(|run| !runs.contains_key(run));
        let mut stages = inventory.stages;
        for top in [Top::Root, Top::Index] {
            let directory = layout::directory(top);
            if unlisted.contains(&top) {
                continue;
            }
            for entry in scope.tree.list(&directory)? {
                if entry.kind == Kind::File && layout::is_stage_name(&entry.name) {
                    stages.extend(directory.child(&entry.name));
                }
            }
        }
        let (lock, locks_work) = alone(&scope)?;
        let may_lock = scope.options.access == Access::ReadWrite;
        let journals = scope.foreign_promises(may_lock, &mut |_| Ok(false))?;
        let open = journals.iter().filter(|journal| !journal.is_settled);
        let unsettled: BTreeSet<u64> = open.map(|journal| journal.id).collect();
        drop(journals);
        let promised = match unsettled.is_empty() {
            true => BTreeSet::new(),
            false => scope.journalled_runs(|id| unsettled.contains(&id))?,
        };
        let mut collection = Self {
            locks_work,
            _lock: lock,
            unsettled,
            promised,
            scope,
            options,
            total: inventory.runs.len() as u64,
            done: 0,
            runs: inventory.runs.into_iter(),
            rest: Some(Rest { stages, unused }),
            found: VecDeque::new(),
            report: GarbageReport::default(),
            removed: false,
        };
        for stray in &inventory.strays {
            collection.tell_unlisted(stray);
        }
        Ok(collection)
    }

    /// Tells of a directory that cannot be listed: what is left in it is not known.
    fn tell_unlisted(&mut self, stray: &Stray) {
        if stray.place == Place::Directory {
            self.report.unseen += 1;
            self.found.push_back(Left {
                kind: FindingKind::Unreadable,
                file: self.scope.tree.path(&stray.path),
                bytes: 0,
                reason: stray.reason.clone(),
                kept: Some("what is in it was not looked at".to_owned()),
            });
        }
    }

    /// Does the next piece, and says how many runs of how many were looked at; none at the end.
    ///
    /// # Errors
    /// `io`.
    pub fn step(&mut self) -> Result<Option<(u64, u64)>> {
        for _ in 0..RUNS {
            let Some((run, belongings)) = self.runs.next() else {
                let Some(rest) = self.rest.take() else {
                    return Ok(None);
                };
                self.look_at_rest(rest)?;
                if self.removed {
                    self.scope.sync_all()?;
                }
                return Ok(Some((self.done, self.total)));
            };
            self.done += 1;
            self.look_at_run(&run, &belongings)?;
        }
        Ok(Some((self.done, self.total)))
    }

    /// Hands out what was found since the last call.
    pub fn take_found(&mut self) -> Vec<Left> {
        self.found.drain(..).collect()
    }

    /// Returns how much was found so far.
    #[must_use]
    pub fn report(&self) -> GarbageReport {
        self.report
    }

    /// Returns why something stays whatever it is: it is young, or nobody knows whether its writer lives.
    fn stays(&self, stat: &Stat) -> Option<Answer> {
        if self.is_young(stat) {
            Some(Answer::No(YOUNG))
        } else if self.locks_work {
            None
        } else {
            Some(Answer::No(NO_LOCKS))
        }
    }

    fn is_young(&self, stat: &Stat) -> bool {
        let grace = self.options.grace_seconds.saturating_mul(1_000_000_000);
        let changed = stat.modified.max(stat.changed);
        grace > 0 && changed.saturating_add(grace) > self.scope.ports.clock.now()
    }

    /// Takes a lock that a writer would hold. In a dry run its file is not created.
    fn lock(&self, target: LockTarget<'_>, file: &StorePath) -> Result<Answer> {
        let roots = &self.scope.ports.roots;
        if !self.options.apply
            && (self.scope.options.access == Access::ReadOnly
                || self.scope.tree.stat(file)?.is_none())
        {
            return Ok(Answer::Yes(None));
        }
        match roots.acquire(target, LockMode::Exclusive, 0) {
            Ok(lock) => Ok(Answer::Yes(Some(lock))),
            Err(LockError::TimedOut) => Ok(Answer::No(HELD)),
            Err(LockError::Unavailable(_)) => Ok(Answer::No(NO_LOCKS)),
            Err(reason) => Err(Error::Io {
                file: self.scope.tree.path(file),
                operation: "lock",
                code: "io",
                outcome_unknown: false,
                message: format!(
                    "{} cannot be locked: {reason:?}",
                    self.scope.tree.path(file)
                ),
            }),
        }
    }

    fn lock_run(&self, run: &RunId) -> Result<Answer> {
        self.lock(LockTarget::Run(run.as_str()), &layout::lock(run))
    }

    /// Removes the file of a lock that was made for this collection, while the lock is held.
    fn unmake_lock(&self, run: &RunId, was_there: bool) -> Result<()> {
        // Of one that cannot be looked at there may be something.
        if self.options.apply && !was_there && !self.is_there(run).unwrap_or(true) {
            self.scope.tree.remove(&layout::lock(run))?;
        }
        Ok(())
    }

    /// Removes a file if it may be, and notes what became of it.
    fn settle(
        &mut self,
        kind: FindingKind,
        path: &StorePath,
        stat: &Stat,
        reason: &str,
        answer: &Answer,
    ) -> Result<()> {
        let kept = match answer {
            Answer::No(kept) => Some((*kept).to_owned()),
            Answer::Yes(_) if self.options.apply => {
                // What is there now may be another file.
                if self.scope.tree.stat(path)?.as_ref() == Some(stat) {
                    self.scope.tree.remove(path)?;
                    self.removed = true;
                    None
                } else {
                    Some("it was changed a moment ago".to_owned())
                }
            }
            Answer::Yes(_) => None,
        };
        let report = &mut self.report;
        if kept.is_none() {
            report.files += 1;
            report.bytes += stat.size;
        } else {
            report.kept_files += 1;
            report.kept_bytes += stat.size;
        }
        self.found.push_back(Left {
            kind,
            file: self.scope.tree.path(path),
            bytes: stat.size,
            reason: reason.to_owned(),
            kept,
        });
        Ok(())
    }

    /// Looks for files beside a run's artifacts, results and logs.
    fn look_at_run(&mut self, run: &RunId, belongings: &Belongings) -> Result<()> {
        let kinds = Kinds {
            artifacts: true,
            derived: false,
            results: true,
            logs: true,
        };
        let found = files_of(&self.scope, run, belongings, kinds)?;
        for fault in &found.faults {
            self.tell_unlisted(fault);
        }
        for stage in &found.stages {
            self.look_at_stage(stage, Some(run))?;
        }
        let manifest = layout::artifact_manifest(run);
        let files: Vec<&(StorePath, Stat)> = found
            .files
            .iter()
            .filter(|(path, _)| path.top() == Top::Artifacts && *path != manifest)
            .collect();
        if files.is_empty() {
            return Ok(());
        }
        let Some(listed) = self.listed(run)? else {
            return Ok(());
        };
        let is_listed = |path: &StorePath, listed: &BTreeSet<String>| {
            listed
                .iter()
                .any(|tail| path.rest().split_once('/').map(|(_, rest)| rest) == Some(tail))
        };
        let unlisted: Vec<&(StorePath, Stat)> = files
            .into_iter()
            .filter(|(path, _)| !is_listed(path, &listed))
            .collect();
        if unlisted.is_empty() {
            return Ok(());
        }
        let answer = self.lock_run(run)?;
        // A writer may have listed it meanwhile.
        let listed = self.listed(run)?;
        for (path, stat) in unlisted {
            let Some(listed) = &listed else {
                return Ok(());
            };
            if is_listed(path, listed) {
                continue;
            }
            let stays = match self.promised.contains(run) {
                true => Some(Answer::No(PROMISED)),
                false => self.stays(stat),
            };
            self.settle(
                FindingKind::Unlisted,
                path,
                stat,
                "no artifact manifest and no record lists it",
                stays.as_ref().unwrap_or(&answer),
            )?;
        }
        if self.options.apply {
            self.scope
                .tree
                .remove_directory(&layout::artifact_directory(run))?;
        }
        Ok(())
    }

    /// Collects the files that a run's artifact manifest and its record list, by their paths within the run's
    /// directory; none if one of the two cannot be read, so that nothing is known.
    fn listed(&self, run: &RunId) -> Result<Option<BTreeSet<String>>> {
        let mut listed = BTreeSet::new();
        for path in [layout::artifact_manifest(run), layout::run_record(run)] {
            let content = match self.scope.tree.read(&path, codec::MAX_DOCUMENT) {
                Ok(None) => continue,
                Ok(Some(content)) => content,
                Err(_) => return Ok(None),
            };
            let file = self.scope.tree.path(&path);
            let Ok(entries) = entries_of(&file, &content) else {
                return Ok(None);
            };
            for (index, entry) in entries.into_iter().enumerate() {
                if let Some(uri) = entry
                    .as_object()
                    .and_then(|entry| entry.get("uri"))
                    .and_then(Value::as_str)
                {
                    // The reference makes directories for names with a slash.
                    let directory = format!("{}/", layout::artifact_directory(run));
                    if let Some((_, tail)) = uri.rsplit_once(&directory) {
                        listed.insert(tail.to_owned());
                    }
                }
                let Ok(entry) = codec::descriptor(&file, index, entry.into_owned()) else {
                    return Ok(None);
                };
                if let Ok(path) = self.scope.descriptor_path(run, &entry) {
                    listed.insert(path.file_name().to_owned());
                }
            }
        }
        Ok(Some(listed))
    }

    /// Looks at a file that a writer left half written, or is writing.
    fn look_at_stage(&mut self, path: &StorePath, run: Option<&RunId>) -> Result<()> {
        let Some(stat) = self.scope.tree.stat(path)? else {
            return Ok(());
        };
        let own = match (path.top(), path.file_name().rsplit_once(".tmp.")) {
            (Top::Runs | Top::Derived, Some((stem, _))) => RunId::parse(stem).ok(),
            _ => None,
        };
        let run = run.or(own.as_ref());
        let was_there = match run {
            Some(run) => self.scope.tree.stat(&layout::lock(run))?.is_some(),
            None => true,
        };
        let writer = path
            .file_name()
            .rsplit_once('.')
            .and_then(|(_, token)| u64::from_str_radix(token, 16).ok());
        let answer = if run.is_some_and(|run| self.promised.contains(run)) {
            Answer::No(PROMISED)
        } else if let Some(stays) = self.stays(&stat) {
            stays
        } else if writer.map_or(Ok(false), |writer| self.scope.writer_may_live(writer))? {
            Answer::No(ALIVE)
        } else {
            match (run, path.top()) {
                (Some(run), _) => self.lock_run(run)?,
                // Nobody but a writer that is registered makes these.
                (None, Top::Index) if self.scope.other_writers_may_live()? => Answer::No(ALIVE),
                (None, Top::Index) => {
                    let name = path.file_name().split('.').next().unwrap_or_default();
                    let lock = layout::index(&format!("{name}.lock"))?;
                    match name {
                        "columns" | "changes" => self.lock(
                            LockTarget::Segment("columns"),
                            &layout::index("columns.lock")?,
                        )?,
                        name => self.lock(LockTarget::Segment(name), &lock)?,
                    }
                }
                (None, Top::Experiments) => {
                    let lock = layout::index(&format!("{}.lock", crate::manifests::LOCK))?;
                    self.lock(LockTarget::Segment(crate::manifests::LOCK), &lock)?
                }
                (None, Top::Root) => {
                    self.lock(LockTarget::Maintenance, &layout::index("maintenance.lock")?)?
                }
                // The file of a log, of which nobody says whose it is.
                (None, _) if self.scope.other_writers_may_live()? => Answer::No(ALIVE),
                (None, _) => Answer::Yes(None),
            }
        };
        self.settle(
            FindingKind::HalfWritten,
            path,
            &stat,
            "a writer left it half written",
            &answer,
        )?;
        match (run, &answer) {
            (Some(run), Answer::Yes(_)) => self.unmake_lock(run, was_there),
            _ => Ok(()),
        }
    }

    fn look_at_rest(&mut self, rest: Rest) -> Result<()> {
        for stage in &rest.stages {
            self.look_at_stage(stage, None)?;
        }
        self.look_at_staging()?;
        self.look_at_journals()?;
        let journalled = self.scope.journalled_runs(|_| true)?;
        for run in rest.unused {
            if !journalled.contains(&run) {
                self.look_at_lock(&run)?;
            }
        }
        Ok(())
    }

    fn look_at_staging(&mut self) -> Result<()> {
        let staging = layout::staging_directory();
        for entry in self.scope.tree.list(&staging)? {
            let Some(token) = layout::staging_token_of(&entry.name) else {
                continue;
            };
            let path = staging.child(&entry.name)?;
            let Some(stat) = self.scope.tree.stat(&path)? else {
                continue;
            };
            let owner = layout::staging_owner(token);
            let answer = if self.unsettled.contains(&owner) {
                Answer::No(PROMISED)
            } else if let Some(stays) = self.stays(&stat) {
                stays
            } else if self.scope.writer_may_live(owner)? {
                Answer::No(ALIVE)
            } else {
                Answer::Yes(None)
            };
            self.settle(
                FindingKind::HalfWritten,
                &path,
                &stat,
                "it is an artifact that its writer never finished",
                &answer,
            )?;
        }
        Ok(())
    }

    fn look_at_journals(&mut self) -> Result<()> {
        let may_lock = self.scope.options.access == Access::ReadWrite;
        let journals = self.scope.foreign_promises(may_lock, &mut |_| Ok(false))?;
        for journal in journals {
            let path = layout::journal_segment(journal.id);
            let Some(stat) = self.scope.tree.stat(&path)? else {
                continue;
            };
            let answer = if !journal.is_settled {
                Answer::No("it holds what is in no file; `verify --repair` puts it in place")
            } else {
                self.stays(&stat).unwrap_or(Answer::Yes(None))
            };
            self.settle(
                FindingKind::OldJournal,
                &path,
                &stat,
                "it is the journal of a writer of another machine, and nothing of it is left to do",
                &answer,
            )?;
            if self.options.apply && matches!(answer, Answer::Yes(_)) {
                self.scope.tree.remove(&lock_file(journal.id)?)?;
            }
        }
        Ok(())
    }

    /// Looks at the file of a lock of a run of which there was nothing.
    fn look_at_lock(&mut self, run: &RunId) -> Result<()> {
        let path = layout::lock(run);
        let Some(stat) = self.scope.tree.stat(&path)? else {
            return Ok(());
        };
        let answer = match self.stays(&stat) {
            Some(stays) => stays,
            None => self.lock_run(run)?,
        };
        if matches!(answer, Answer::Yes(_)) && self.is_there(run)? {
            // Somebody began it meanwhile.
            return Ok(());
        }
        self.settle(
            FindingKind::UnusedLock,
            &path,
            &stat,
            "it is the lock of a run of which there is nothing",
            &answer,
        )
    }

    fn is_there(&self, run: &RunId) -> Result<bool> {
        let belongings = Belongings::default().again(&self.scope, run)?;
        Ok(belongings.has_any() || !self.scope.list_logs(run)?.is_empty())
    }
}
