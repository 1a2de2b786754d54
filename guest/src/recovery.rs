//! What is done about the promises of writers that are gone, when a store is opened.
//!
//! ## Who wins
//! A writer is gone when its lock can be taken. What it promised is looked at only on its own machine and
//! directory; elsewhere (a copied store, another node of a cluster) nothing happens by itself.
//!
//! * **The machine went down since** (another boot): what reached the disk is unknown. The entries of all
//!   segments are put in the order of their generations. Below a *gap* they are done: a lock's file, or a
//!   later entry's `after`, names a generation that is in no segment any more, so a checkpoint made it, and
//!   everything before it, durable. Of what is left, the last entry of each file counts. If the file is what
//!   the entry wrote, fine. If it is what one of the entries replaced or wrote, is missing where one of
//!   them found it missing, or holds less than what was written (cut short, or zeros), then the file never
//!   reached the disk, and is written again. Anything else is a change by another program, which wins.
//! * **The machine is still up** (a kill): everything that was done is there. Only the last call of the
//!   writer may be half done; if it is, and nothing came after it, it is finished.
//!
//! Then everything is synced, and the segments and stage files of the dead writers are removed.
//!
//! A store that is opened to read looks at the same promises, and reads what a recovery would write
//! ([`Overlay`]).

use crate::commit::{Held, generation_of, lock_content_failed, name_change};
use crate::error::{Error, Result};
use crate::journal::{self, Call, Entry, Fingerprint, LockName, Segment, Source, Step};
use crate::layout::{self, StorePath, Top};
use crate::model::Access;
use crate::names::RunId;
use crate::ports::{Identity, Kind, Lock, LockError, LockMode, LockTarget};
use crate::scope::Scope;
use crate::segment::{lock_file, lock_name, low_half};
use crate::tree::{Overlaid, Overlay, Tree};
use std::collections::{BTreeMap, BTreeSet};

/// The largest segment that is read, in bytes.
const MAX_SEGMENT: u64 = 256 * 1024 * 1024;

/// The largest file that is compared by its content, in bytes; beyond, the size decides.
const MAX_COMPARED: u64 = 64 * 1024 * 1024;

/// What a segment is to the one who opens the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Its writer lives, or it is of another machine or directory: it tells the order, and is left alone.
    Foreign,
    /// Its writer was killed.
    Killed,
    /// The machine went down since.
    Lost,
}

/// A segment that was found.
struct Found {
    id: u64,
    segment: Segment,
    standing: Standing,
    /// Held until the segment is removed.
    lock: Option<Box<dyn Lock>>,
}

/// The journal of a writer of another machine or directory.
pub(crate) struct ForeignJournal {
    pub(crate) id: u64,
    /// Whether nothing of it is left to do.
    pub(crate) is_settled: bool,
    /// Held until this is dropped, where locks are taken.
    _lock: Option<Box<dyn Lock>>,
}

/// One call of a segment.
struct Promise<'f> {
    call: &'f Call,
    /// The number of the writer.
    writer: u64,
    standing: Standing,
    cancelled: bool,
    /// Whether it was never carried out: a later call under its lock did not find its generation in the
    /// lock's file, which is named before the first step.
    void: bool,
}

/// What is to be done about a file.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    /// It is as it should be, or somebody else changed it.
    Keep,
    /// It gets this content.
    Write(Vec<u8>),
    /// It is this stage file.
    Rename(StorePath),
    /// It goes.
    Remove,
}

/// A file as it is.
enum Current {
    Absent,
    File {
        size: u64,
        /// The content and its hash; none for a large file.
        content: Option<(Vec<u8>, Fingerprint)>,
    },
    /// No file: left alone.
    Other,
}

impl Current {
    fn of(tree: &Tree, path: &StorePath) -> Result<Self> {
        let Some(stat) = tree.stat(path)? else {
            return Ok(Self::Absent);
        };
        if stat.kind != Kind::File {
            return Ok(Self::Other);
        }
        if stat.size > MAX_COMPARED {
            return Ok(Self::File {
                size: stat.size,
                content: None,
            });
        }
        Ok(match tree.read(path, MAX_COMPARED)? {
            None => Self::Absent,
            Some(content) => Self::File {
                size: content.len() as u64,
                content: Some((content.clone(), Fingerprint::of(&content))),
            },
        })
    }

    fn is(&self, wanted: &Fingerprint) -> bool {
        match self {
            Self::Absent | Self::Other => false,
            Self::File { size, content } => {
                *size == wanted.size
                    && match (content, wanted.hash) {
                        (Some((_, found)), Some(_)) => found == wanted,
                        // Known by its size alone.
                        _ => true,
                    }
            }
        }
    }

    fn was(&self, previous: Option<&Fingerprint>) -> bool {
        match previous {
            None => matches!(self, Self::Absent),
            Some(previous) => self.is(previous),
        }
    }

    /// Says whether this is what was written with less in it: cut short, or zeros where the text should be.
    fn is_less_than(&self, written: &[u8]) -> bool {
        let Self::File {
            content: Some((content, _)),
            ..
        } = self
        else {
            return false;
        };
        let same = content
            .iter()
            .zip(written)
            .take_while(|(found, wanted)| found == wanted)
            .count();
        match content.get(same) {
            None => same < written.len(),
            Some(byte) => *byte == 0 && same < written.len(),
        }
    }
}

/// Judges a file by the steps that concern it, the last one deciding. They are in order, none cancelled,
/// none known to be durable; those before them that are durable only tell what later ones refer to.
fn judge(tree: &Tree, path: &StorePath, durable: &[&Step], steps: &[&Step]) -> Result<Verdict> {
    let Some((last, earlier)) = steps.split_last() else {
        return Ok(Verdict::Keep);
    };
    let current = Current::of(tree, path)?;
    let seen_before = steps.iter().any(|step| match step {
        Step::Put { previous, .. } => current.was(previous.as_ref()),
        Step::Remove { previous, .. } => current.is(previous),
    }) || earlier.iter().any(|step| match step {
        Step::Put { written, .. } => current.is(written),
        Step::Remove { .. } => matches!(current, Current::Absent),
    });
    let (content, half_written) = contents(&current, durable, steps);
    let lost = seen_before || half_written;
    match last {
        // No put of this store has made such a file: somebody else wrote the journal.
        Step::Put { .. } if !path.is_writable() => Ok(Verdict::Keep),
        Step::Remove { .. } => Ok(match current {
            Current::File { .. } if lost => Verdict::Remove,
            _ => Verdict::Keep,
        }),
        Step::Put {
            source: Source::Staged(stage),
            written,
            ..
        } => {
            // Its content was durable before the entry was; only the name may be lost.
            let Some(stage) = layout::parse_staging(stage) else {
                return Ok(Verdict::Keep);
            };
            let whole = tree
                .stat(&stage)?
                .is_some_and(|stat| stat.kind == Kind::File && stat.size == written.size);
            Ok(if whole && lost {
                Verdict::Rename(stage)
            } else {
                Verdict::Keep
            })
        }
        Step::Put { written, .. } => Ok(match content {
            _ if current.is(written) => Verdict::Keep,
            Some(content) if lost && Fingerprint::of(&content) == *written => {
                Verdict::Write(content)
            }
            _ => Verdict::Keep,
        }),
    }
}

/// Makes the content that the last step wrote, from contents in the journal and patches of them; and says
/// whether the file holds less of what any step wrote.
fn contents(current: &Current, durable: &[&Step], steps: &[&Step]) -> (Option<Vec<u8>>, bool) {
    let mut content: Option<Vec<u8>> = None;
    let mut half_written = false;
    for (index, step) in durable.iter().chain(steps).enumerate() {
        content = match step {
            Step::Remove { .. } => None,
            Step::Put {
                source: Source::Staged(_),
                ..
            } => None,
            Step::Put {
                source: Source::Inline(bytes),
                ..
            } => Some(bytes.clone()),
            Step::Put {
                source:
                    Source::Patch {
                        at,
                        removed,
                        insert,
                    },
                previous,
                ..
            } => {
                let base = content.or_else(|| match current {
                    Current::File {
                        content: Some((bytes, found)),
                        ..
                    } if Some(found) == previous.as_ref() => Some(bytes.clone()),
                    _ => None,
                });
                base.and_then(|base| patched(&base, *at, *removed, insert))
            }
        };
        if index >= durable.len()
            && let Some(content) = &content
        {
            half_written |= current.is_less_than(content);
        }
    }
    (content, half_written)
}

fn patched(base: &[u8], at: u64, removed: u64, insert: &[u8]) -> Option<Vec<u8>> {
    let at = usize::try_from(at).ok()?;
    let end = at.checked_add(usize::try_from(removed).ok()?)?;
    let (head, tail) = (base.get(..at)?, base.get(end..)?);
    Some([head, insert, tail].concat())
}

/// Puts the promises in order, by what they locked.
fn in_order(found: &[Found]) -> BTreeMap<&LockName, Vec<Promise<'_>>> {
    let mut all: BTreeMap<&LockName, Vec<Promise<'_>>> = BTreeMap::new();
    for found in found {
        let cancelled: BTreeSet<u64> = found
            .segment
            .entries
            .iter()
            .filter_map(|(_, entry)| match entry {
                Entry::Cancelled(frame) => Some(*frame),
                _ => None,
            })
            .collect();
        for (frame, entry) in &found.segment.entries {
            if let Entry::Call(call) = entry {
                all.entry(&call.lock).or_default().push(Promise {
                    call,
                    writer: found.id,
                    standing: found.standing,
                    cancelled: cancelled.contains(frame),
                    void: false,
                });
            }
        }
    }
    for promises in all.values_mut() {
        promises.sort_by_key(|promise| promise.call.generation);
        let mut seen = u64::MAX;
        for promise in promises.iter_mut().rev() {
            // A call of one step may be replayed alone: its outcome was unknown.
            promise.void = promise.call.steps.len() > 1 && seen < promise.call.generation;
            // Who adds one file names no generation: only the clock tells when that was.
            if promise.call.after != 0 || promise.call.steps.len() > 1 || !adds(promise.call) {
                seen = seen.min(promise.call.after);
            }
        }
    }
    all
}

/// Collects the frames of the calls of which nothing is left to do.
fn settled(segment: &Segment) -> BTreeSet<u64> {
    let frames = segment.entries.iter().filter_map(|(_, entry)| match entry {
        Entry::Done(frame) | Entry::Cancelled(frame) => Some(*frame),
        Entry::Call(_) => None,
    });
    frames.collect()
}

/// Says whether a call only adds files.
fn adds(call: &Call) -> bool {
    call.steps
        .iter()
        .all(|step| matches!(step, Step::Put { previous: None, .. }))
}

/// Returns the highest generation up to which everything under a lock is durable: see the module's text.
fn durable_up_to(promises: &[Promise<'_>], stored: u64) -> u64 {
    let present = |generation: u64| {
        promises
            .iter()
            .any(|promise| promise.call.generation == generation)
    };
    promises
        .iter()
        .map(|promise| promise.call.after)
        .chain([stored])
        .filter(|generation| !present(*generation))
        .max()
        .unwrap_or_default()
}

/// What may be lost of a file.
struct Lost<'f> {
    path: StorePath,
    /// What was promised of it and is durable, as far as it is still in a segment.
    durable: Vec<&'f Step>,
    /// What was promised of it since, in order.
    steps: Vec<&'f Step>,
    /// The number of the writer that had the last word.
    writer: u64,
}

/// Collects what concerns each file under one lock and may be lost; only files whose last word is a writer's
/// of this machine that went down.
fn lost_steps<'f>(promises: &[Promise<'f>], stored: u64) -> Vec<Lost<'f>> {
    let durable_up_to = durable_up_to(promises, stored);
    let mut files: BTreeMap<&str, Vec<(&Promise<'f>, &'f Step)>> = BTreeMap::new();
    for promise in promises.iter().filter(|promise| !promise.cancelled) {
        for step in &promise.call.steps {
            let steps = files.entry(step.path()).or_default();
            steps.push((promise, step));
        }
    }
    let mut lost = Vec::new();
    for (path, mut steps) in files {
        // What was never carried out is not the last word. Before another one it may stay: it matches nothing.
        while steps.last().is_some_and(|(promise, _)| promise.void) {
            steps.pop();
        }
        let durable = |(promise, _): &(&Promise<'_>, _)| promise.call.generation <= durable_up_to;
        let (durable, steps): (Vec<_>, Vec<_>) = steps.into_iter().partition(durable);
        if let Some((last, _)) = steps.last()
            && last.standing == Standing::Lost
            // A path that is not one of the format's was not written by this store.
            && let Some(path) = layout::parse(path)
        {
            lost.push(Lost {
                path,
                writer: last.writer,
                durable: durable.into_iter().map(|(_, step)| step).collect(),
                steps: steps.into_iter().map(|(_, step)| step).collect(),
            });
        }
    }
    lost
}

/// Says what a segment is, by where it was written. Its writer is known to be gone.
fn standing(here: &Identity, there: &Identity) -> Standing {
    let booted_since = here.boot.is_empty() || here.boot != there.boot;
    // Numbers of devices change between boots, so the machine and the inode decide if the machine is known.
    let same_place = here.inode == there.inode
        && here.machine == there.machine
        && (!here.machine.is_empty() || here.device == there.device || !booted_since);
    match (same_place, booted_since) {
        (false, _) => Standing::Foreign,
        (true, true) => Standing::Lost,
        (true, false) => Standing::Killed,
    }
}

/// Returns the number of every segment in the journal.
fn segment_ids(tree: &Tree) -> Result<Vec<u64>> {
    let entries = tree.list(&layout::directory(Top::Index))?;
    Ok(entries
        .iter()
        .filter(|entry| entry.kind == Kind::File)
        .filter_map(|entry| layout::segment_of(&entry.name))
        .collect())
}

/// Returns the number of every writer that has a segment or the file of a lock.
fn writer_ids(tree: &Tree) -> Result<BTreeSet<u64>> {
    let entries = tree.list(&layout::directory(Top::Index))?;
    let id = |name: &str| layout::segment_of(name).or_else(|| layout::segment_lock_of(name));
    Ok(entries
        .iter()
        .filter(|entry| entry.kind == Kind::File)
        .filter_map(|entry| id(&entry.name))
        .collect())
}

/// Reads a segment; none if it is no segment that this version knows, or vanished.
fn read_segment(
    tree: &Tree,
    id: u64,
) -> Result<Option<std::result::Result<Segment, journal::NotASegment>>> {
    let content = match tree.read(&layout::journal_segment(id), MAX_SEGMENT) {
        Ok(content) => content,
        // No segment of ours grows to this: it must not keep the store from being opened.
        Err(Error::TooLarge(_)) => return Ok(Some(Err(journal::NotASegment::Unknown))),
        Err(error) => return Err(error),
    };
    Ok(content.as_deref().map(journal::read))
}

impl Scope {
    /// Does what dead writers left to do, and removes what they left behind.
    pub(crate) fn recover(&self) -> Result<()> {
        let writers = writer_ids(&self.tree)?;
        let staged = self.staged_tokens()?;
        if writers.is_empty() && staged.is_empty() {
            return Ok(());
        }
        let timeout = self.options.lock_timeout_ms;
        // One recovers at a time, and whoever opens the store meanwhile waits for the end of it.
        let maintenance =
            self.ports
                .roots
                .acquire(LockTarget::Maintenance, LockMode::Exclusive, timeout);
        let _maintenance = match maintenance {
            Ok(lock) => lock,
            // Without locks nobody can be known to be dead.
            Err(LockError::Unavailable(_)) => return Ok(()),
            Err(LockError::TimedOut) => {
                return Err(Error::Locked(format!(
                    "{} is being recovered by another program since {timeout} ms; try again, or raise the lock timeout",
                    self.outside
                )));
            }
            Err(reason) => return Err(maintenance_failed(&reason)),
        };
        let mut found = Vec::new();
        for id in segment_ids(&self.tree)? {
            found.extend(self.look_at(id)?);
        }
        let touched = Self::touched(&found);
        self.note_touched(&touched);
        self.replay_lost(&found)?;
        for dead in &found {
            if dead.standing == Standing::Killed {
                self.finish(dead, &found)?;
            }
        }
        // The index is told of what they had done and not noted.
        self.note_runs(touched.into_iter());
        let dead = |found: &Found| found.standing != Standing::Foreign;
        for found in found.iter().filter(|found| dead(found)) {
            self.sweep(found)?;
        }
        // Stage files are gone for good before the segments that name them are.
        if found.iter().any(dead) {
            self.sync_all()?;
        }
        let mut removed = false;
        for found in found.into_iter().filter(dead) {
            removed = true;
            self.tree.remove(&layout::journal_segment(found.id))?;
            self.tree.remove(&lock_file(found.id)?)?;
            drop(found.lock);
        }
        if removed {
            // A segment that a power cut brings back must find the staged files that it names.
            self.tree.sync_directory(&layout::directory(Top::Index))?;
        }
        self.sweep_staging(&staged)?;
        self.sweep_locks(&writers)?;
        Ok(())
    }

    /// Notes for the database what dead writers did: they may have changed files and not told it.
    fn note_touched(&self, runs: &BTreeSet<RunId>) {
        match &self.sql {
            Some(sql) => self.note_pending(sql, runs.iter()),
            None if runs.is_empty() => {}
            None => self.disown_database(),
        }
    }

    /// Returns the runs that dead writers may have changed.
    fn touched(found: &[Found]) -> BTreeSet<RunId> {
        let dead = found
            .iter()
            .filter(|found| found.standing != Standing::Foreign);
        let entries = dead.flat_map(|found| &found.segment.entries);
        entries
            .filter_map(|(_, entry)| match entry {
                Entry::Call(call) => Some(&call.lock),
                Entry::Done(_) | Entry::Cancelled(_) => None,
            })
            .filter_map(|lock| match lock {
                LockName::Run(run) => RunId::parse(run).ok(),
                LockName::Other(_) => None,
            })
            .collect()
    }

    /// Looks at a segment: reads it, and finds out whether its writer is gone.
    fn look_at(&self, id: u64) -> Result<Option<Found>> {
        let lock = self.dead_writer(id)?;
        let segment = match read_segment(&self.tree, id)? {
            Some(Ok(segment)) => segment,
            Some(Err(journal::NotASegment::Unfinished)) => {
                if let Some(lock) = lock {
                    // Nothing was ever promised in it.
                    self.tree.remove(&layout::journal_segment(id))?;
                    self.tree.remove(&lock_file(id)?)?;
                    drop(lock);
                }
                return Ok(None);
            }
            // Of a newer version, or no segment at all: left alone.
            Some(Err(journal::NotASegment::Unknown)) => return Ok(None),
            None => {
                if let Some(lock) = lock {
                    self.tree.remove(&lock_file(id)?)?;
                    drop(lock);
                }
                return Ok(None);
            }
        };
        let here = self.ports.roots.identity();
        let standing = match &lock {
            Some(_) => standing(&here, &segment.header.identity),
            None => Standing::Foreign,
        };
        Ok(Some(Found {
            id,
            segment,
            standing,
            lock: lock.filter(|_| standing != Standing::Foreign),
        }))
    }

    /// Takes the lock of a writer that is gone; none if it lives.
    fn dead_writer(&self, id: u64) -> Result<Option<Box<dyn Lock>>> {
        let name = lock_name(id);
        let target = LockTarget::Segment(&name);
        match self.ports.roots.acquire(target, LockMode::Exclusive, 0) {
            Ok(lock) => Ok(Some(lock)),
            Err(LockError::TimedOut | LockError::Unavailable(_)) => Ok(None),
            Err(reason) => Err(maintenance_failed(&reason)),
        }
    }

    /// Writes again what was promised and lost when the machine went down.
    fn replay_lost(&self, found: &[Found]) -> Result<()> {
        for (name, promises) in in_order(found) {
            if !promises
                .iter()
                .any(|promise| promise.standing == Standing::Lost)
            {
                continue;
            }
            let Some(lock) = self.lock_again(name)? else {
                continue;
            };
            let stored = lock.content().map(|content| generation_of(&content));
            let stored = stored.map_err(|reason| maintenance_failed(&reason))?;
            for lost in lost_steps(&promises, stored) {
                let verdict = judge(&self.tree, &lost.path, &lost.durable, &lost.steps)?;
                self.carry_out_verdict(lost.writer, &lost.path, verdict)?;
                if matches!(lost.steps.last(), Some(Step::Remove { .. })) {
                    self.remove_empty_directory(&lost.path)?;
                }
            }
            // The lock's file may have lost its generation. It is named again, so that these promises count
            // as durable if another power cut brings back some of their segments and not the others.
            let last = promises.last().map(|promise| promise.call.generation);
            if let Some(last) = last.filter(|last| *last > stored)
                && !promises.iter().all(|promise| adds(promise.call))
            {
                lock.set_content(last.to_string().as_bytes())
                    .map_err(|reason| maintenance_failed(&reason))?;
            }
        }
        Ok(())
    }

    /// Takes the lock that a call was made under.
    fn lock_again(&self, name: &LockName) -> Result<Option<Box<dyn Lock>>> {
        let held = match name {
            LockName::Run(run) => match crate::names::RunId::parse(run) {
                Ok(run) => self.lock_run_to_recover(&run)?,
                // No writer of ours locks a run that cannot be named.
                Err(_) => return Ok(None),
            },
            LockName::Other(name) if name == crate::manifests::LOCK => {
                self.lock_named(name, "the list of manifests")?.lock
            }
            LockName::Other(_) => return Ok(None),
        };
        Ok(held)
    }

    /// Does what is to be done about a file. A stage file is named as the dead writer would have named it,
    /// so that it is swept with the others if this recovery does not come to its end.
    fn carry_out_verdict(&self, writer: u64, path: &StorePath, verdict: Verdict) -> Result<()> {
        let done = match verdict {
            Verdict::Keep => return Ok(()),
            Verdict::Remove => self.tree.remove(path).map(drop),
            Verdict::Rename(stage) => self.rename_into_place(&stage, path),
            Verdict::Write(content) => {
                let stage = path.stage(low_half(writer));
                self.tree.remove(&stage)?;
                let written = self
                    .write_stage(&stage, &content, false)
                    .and_then(|()| self.tree.rename(&stage, path));
                if written.is_err() {
                    // The error of the write is what counts.
                    drop(self.tree.remove(&stage));
                }
                written
            }
        };
        self.note_files(std::iter::once(path));
        done
    }

    /// Removes a directory of a deleted run, once nothing is in it.
    fn remove_empty_directory(&self, path: &StorePath) -> Result<()> {
        match path.parent() {
            Some(parent) if !parent.rest().is_empty() => {
                self.tree.remove_directory(&parent).map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Finishes the calls of a killed writer that are half done and that nothing came after.
    fn finish(&self, dead: &Found, all: &[Found]) -> Result<()> {
        let entries = &dead.segment.entries;
        let settled = settled(&dead.segment);
        for (frame, entry) in entries {
            // One step is done or not; a call of one that is not was never acknowledged.
            if let Entry::Call(call) = entry
                && call.steps.len() > 1
                && !settled.contains(frame)
            {
                self.finish_call(dead.id, call, all)?;
            }
        }
        Ok(())
    }

    fn finish_call(&self, writer: u64, call: &Call, all: &[Found]) -> Result<()> {
        let Some(lock) = self.lock_again(&call.lock)? else {
            return Ok(());
        };
        let stored = lock.content().map(|content| generation_of(&content));
        let later = stored.map_err(|reason| maintenance_failed(&reason))? > call.generation
            || all.iter().any(|other| {
                other.segment.entries.iter().any(|(_, entry)| match entry {
                    Entry::Call(other) => {
                        other.lock == call.lock && other.generation > call.generation
                    }
                    _ => false,
                })
            });
        if later {
            return Ok(());
        }
        self.finish_steps(writer, call)
    }

    /// Finishes the call that a writer left half done under a lock that is held now: it was killed, or an
    /// error of the operating system ended it.
    pub(crate) fn finish_half_done(&self, held: &Held) -> Result<()> {
        let (Some(writer), Some(lock)) = (held.unsettled, &held.lock) else {
            return Ok(());
        };
        let generation = held.stored.get();
        if let Some(Ok(segment)) = read_segment(&self.tree, writer)?
            && standing(&self.ports.roots.identity(), &segment.header.identity) == Standing::Killed
        {
            let settled = settled(&segment);
            for (frame, entry) in &segment.entries {
                if let Entry::Call(call) = entry
                    && call.lock == held.name
                    && call.generation == generation
                    && !settled.contains(frame)
                {
                    self.finish_steps(writer, call)?;
                }
            }
        }
        lock.set_content(generation.to_string().as_bytes())
            .map_err(|reason| lock_content_failed(held, &reason))
    }

    /// Finishes a call of which something is done and that nothing came after. Its lock is held.
    fn finish_steps(&self, writer: u64, call: &Call) -> Result<()> {
        let mut done = false;
        let mut left = Vec::new();
        for step in &call.steps {
            let Some(path) = layout::parse(step.path()) else {
                return Ok(());
            };
            let current = Current::of(&self.tree, &path)?;
            match step {
                Step::Put { written, .. } if current.is(written) => done = true,
                Step::Remove { .. } if matches!(current, Current::Absent) => done = true,
                _ => left.push((path, step)),
            }
        }
        if !done {
            return Ok(());
        }
        let mut logs = false;
        for (path, step) in left {
            let verdict = judge(&self.tree, &path, &[], &[step])?;
            logs |= path.top() == Top::Logs;
            self.carry_out_verdict(writer, &path, verdict)?;
            if matches!(step, Step::Remove { .. }) {
                self.remove_empty_directory(&path)?;
            }
        }
        if logs {
            self.mark_log_change();
        }
        Ok(())
    }

    /// Removes the stage files of a dead writer beside the files that it wrote.
    fn sweep(&self, dead: &Found) -> Result<()> {
        let token = low_half(dead.id);
        for (_, entry) in &dead.segment.entries {
            let Entry::Call(call) = entry else { continue };
            for step in &call.steps {
                if let Step::Put { path, .. } = step
                    && let Some(path) = layout::parse(path)
                {
                    self.tree.remove(&path.stage(token))?;
                }
            }
        }
        Ok(())
    }

    /// Lists what is in the staging directory.
    fn staged_tokens(&self) -> Result<Vec<u64>> {
        let entries = self.tree.list(&layout::staging_directory())?;
        Ok(entries
            .iter()
            .filter(|entry| entry.kind == Kind::File)
            .filter_map(|entry| layout::staging_token_of(&entry.name))
            .collect())
    }

    /// Removes the files of dead writers in the staging directory; those of segments that are left alone
    /// stay.
    fn sweep_staging(&self, tokens: &[u64]) -> Result<()> {
        let owners: BTreeSet<u64> = tokens
            .iter()
            .map(|token| layout::staging_owner(*token))
            .collect();
        for owner in owners {
            if self.tree.stat(&layout::journal_segment(owner))?.is_some() {
                continue;
            }
            let Some(lock) = self.dead_writer(owner)? else {
                continue;
            };
            for token in tokens {
                if layout::staging_owner(*token) == owner {
                    self.tree.remove(&layout::staging(*token))?;
                }
            }
            self.tree.remove(&lock_file(owner)?)?;
            drop(lock);
        }
        Ok(())
    }

    /// Removes the lock files of writers that died before they began a segment.
    fn sweep_locks(&self, writers: &BTreeSet<u64>) -> Result<()> {
        for id in writers {
            if self.tree.stat(&layout::journal_segment(*id))?.is_none()
                && self.tree.stat(&lock_file(*id)?)?.is_some()
                && let Some(lock) = self.dead_writer(*id)?
            {
                self.tree.remove(&lock_file(*id)?)?;
                drop(lock);
            }
        }
        Ok(())
    }

    /// Returns what a recovery would do, for a store that is only read; none if nothing.
    pub(crate) fn overlay(&self) -> Result<Option<Overlay>> {
        let ids = segment_ids(&self.tree)?;
        if ids.is_empty() {
            return Ok(None);
        }
        let here = self.ports.roots.identity();
        let mut found = Vec::new();
        let mut lost = Vec::new();
        for id in ids {
            let Some(Ok(segment)) = read_segment(&self.tree, id)? else {
                continue;
            };
            let mut here = here.clone();
            if !self.tree.is_whole() {
                // What is known is the granted directory's number, not that of one below it.
                here.inode = segment.header.identity.inode;
            }
            // Without a lock, only another boot tells that the writer is gone.
            let standing = match standing(&here, &segment.header.identity) {
                Standing::Lost => Standing::Lost,
                Standing::Killed | Standing::Foreign => Standing::Foreign,
            };
            if standing == Standing::Lost {
                lost.push(layout::journal_segment(id));
            }
            found.push(Found {
                id,
                segment,
                standing,
                lock: None,
            });
        }
        if lost.is_empty() {
            return Ok(None);
        }
        let mut files = BTreeMap::new();
        for (name, promises) in in_order(&found) {
            let stored = self.stored_generation(name)?;
            for lost in lost_steps(&promises, stored) {
                let verdict = judge(&self.tree, &lost.path, &lost.durable, &lost.steps)?;
                let overlaid = match verdict {
                    Verdict::Keep => continue,
                    Verdict::Write(content) => Overlaid::Content(content.into()),
                    Verdict::Rename(stage) => Overlaid::Moved(stage),
                    Verdict::Remove => Overlaid::Removed,
                };
                files.insert(lost.path, overlaid);
            }
        }
        Ok((!files.is_empty()).then(|| Overlay::new(files, lost)))
    }

    /// Looks at what writers of other machines and directories promised that is in no file, one file after the other.
    /// `each` says whether it is put in place now. Those that may live are left alone, if that can be told.
    pub(crate) fn foreign_promises(
        &self,
        may_lock: bool,
        each: &mut dyn FnMut(&StorePath) -> Result<bool>,
    ) -> Result<Vec<ForeignJournal>> {
        let here = self.ports.roots.identity();
        let mut found = Vec::new();
        for id in segment_ids(&self.tree)? {
            let Some(Ok(segment)) = read_segment(&self.tree, id)? else {
                continue;
            };
            let mut here = here.clone();
            if !self.tree.is_whole() {
                // What is known is the granted directory's number, not that of one below it.
                here.inode = segment.header.identity.inode;
            }
            let elsewhere = standing(&here, &segment.header.identity) == Standing::Foreign;
            let lock = match may_lock && elsewhere {
                true => self.dead_writer(id)?,
                false => None,
            };
            let gone = elsewhere && (lock.is_some() || !may_lock);
            found.push(Found {
                id,
                segment,
                // To this directory it is as if the machine had gone down.
                standing: if gone {
                    Standing::Lost
                } else {
                    Standing::Foreign
                },
                lock,
            });
        }
        let mut unsettled = BTreeSet::new();
        for (name, promises) in in_order(&found) {
            let lost = |promise: &Promise<'_>| promise.standing == Standing::Lost;
            if !promises.iter().any(lost) {
                continue;
            }
            let lock = match may_lock {
                true => self.lock_again(name)?,
                false => None,
            };
            let stored = self.stored_generation(name)?;
            for lost in lost_steps(&promises, stored) {
                let verdict = judge(&self.tree, &lost.path, &lost.durable, &lost.steps)?;
                if verdict == Verdict::Keep {
                    continue;
                }
                if each(&lost.path)? {
                    if let Some(lock) = &lock {
                        name_change(lock.as_ref(), self.ports.clock.now());
                    }
                    self.carry_out_verdict(lost.writer, &lost.path, verdict)?;
                } else {
                    unsettled.insert(lost.writer);
                }
            }
            drop(lock);
        }
        Ok(found
            .into_iter()
            .filter(|found| found.standing == Standing::Lost)
            .map(|found| ForeignJournal {
                is_settled: !unsettled.contains(&found.id),
                id: found.id,
                _lock: found.lock,
            })
            .collect())
    }

    /// Returns the runs that the journals of some writers name.
    pub(crate) fn journalled_runs(&self, wanted: impl Fn(u64) -> bool) -> Result<BTreeSet<RunId>> {
        let mut runs = BTreeSet::new();
        for id in segment_ids(&self.tree)?
            .into_iter()
            .filter(|id| wanted(*id))
        {
            let Some(Ok(segment)) = read_segment(&self.tree, id)? else {
                continue;
            };
            for (_, entry) in &segment.entries {
                if let Entry::Call(call) = entry
                    && let LockName::Run(run) = &call.lock
                    && let Ok(run) = RunId::parse(run)
                {
                    runs.insert(run);
                }
            }
        }
        Ok(runs)
    }

    /// Says whether a writer other than this store may live.
    pub(crate) fn other_writers_may_live(&self) -> Result<bool> {
        let own = self.writer_number();
        for id in writer_ids(&self.tree)? {
            if Some(id) != own && self.writer_may_live(id)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Says whether the writer of a number may live. Where that cannot be told, it may.
    pub(crate) fn writer_may_live(&self, id: u64) -> Result<bool> {
        if self.tree.stat(&lock_file(id)?)?.is_none() {
            return Ok(false);
        }
        // Whoever only reads cannot look.
        if self.options.access == Access::ReadOnly {
            return Ok(true);
        }
        Ok(self.dead_writer(id)?.is_none())
    }

    /// Reads the generation in a lock's file without taking the lock.
    fn stored_generation(&self, name: &LockName) -> Result<u64> {
        let path = match name {
            LockName::Run(run) => match crate::names::RunId::parse(run) {
                Ok(run) => layout::lock(&run),
                Err(_) => return Ok(0),
            },
            LockName::Other(name) => match layout::index(&format!("{name}.lock")) {
                Ok(path) => path,
                Err(_) => return Ok(0),
            },
        };
        let content = self.tree.read(&path, 4096)?;
        Ok(content.map_or(0, |content| generation_of(&content)))
    }
}

fn maintenance_failed(reason: &LockError) -> Error {
    if *reason == LockError::ReadOnly {
        return Error::ReadOnly(
            "the journal cannot be recovered: the file system is read-only; open the store read-only"
                .into(),
        );
    }
    Error::Io {
        file: ".index".into(),
        operation: "lock",
        code: "io",
        outcome_unknown: false,
        message: format!("the journal in .index cannot be locked for a recovery: {reason:?}"),
    }
}
