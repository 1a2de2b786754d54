//! How a call's changes become durable and visible: promised in the journal with one sync, then done.
//!
//! A call is a list of changes under one lock. Its entry is appended to this store's own segment and synced;
//! only then are the files staged, renamed and removed, without syncs of their own: a power cut before they
//! reach the disk is put right from the journal (`recovery`). A checkpoint syncs the file system once and
//! removes the segment.
//!
//! Order under one lock is a *generation*: a number greater than all before, mostly the time in
//! microseconds. The lock's file names the last one whose entry was synced. An entry names that one too
//! (`after`), so that recovery sees a gap where a call is not in any segment any more: then a checkpoint
//! made it durable, and everything before it. While a call of several steps is under way, the lock's file
//! names its writer too: if the writer is killed, whoever takes the lock next finishes the call.
//!
//! Without a journal (relaxed durability, no working locks) the same changes are made one by one, synced
//! each if the durability asks for it.

use crate::error::{Error, Result};
use crate::journal::{self, Entry, Fingerprint, LockName, Source, Step};
use crate::json::Object;
use crate::layout::{self, StorePath};
use crate::model::Durability;
use crate::ports::{Kind, Lock, LockError};
use crate::scope::Scope;
use crate::segment::{AppendError, Writer};
use crate::tree::ATTEMPTS;
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

/// The most bytes of a long list that are journalled whole, so that later additions can refer to it.
pub(crate) const INLINE_BASE: usize = 1024 * 1024;

/// For so long, in nanoseconds, a file may be in memory alone that was written without a sync: some systems
/// wait ten minutes.
const LATELY: u64 = 660_000_000_000;

/// How much a file's times may be behind the clock, in nanoseconds.
const TICKS: u64 = 50_000_000;

/// For more files than these, one sync of everything is better than one each.
const FEW: usize = 8;

/// What this store has promised and not yet made durable in place.
#[derive(Default)]
pub(crate) struct Journal {
    writer: RefCell<Option<Writer>>,
    /// Counts the segments begun, so that others can tell whether one was retired meanwhile.
    epoch: Cell<u64>,
    /// The last generation that this store gave out.
    generation: Cell<u64>,
    /// Whether the name of the staging directory is known to be durable.
    staging_named: Cell<bool>,
    /// Whether the names in the store's own directory are known to be durable.
    root_named: Cell<bool>,
    /// What this store wrote since its segment was begun: the segment brings it back.
    written: RefCell<BTreeMap<StorePath, Fingerprint>>,
    /// When everything was last made durable, in nanoseconds since 1970.
    synced: Cell<u64>,
}

/// Something locked, or not where the file system has no working locks.
pub(crate) struct Held {
    pub(crate) name: LockName,
    pub(crate) lock: Option<Box<dyn Lock>>,
    /// The generation that the lock's file names; 0 for none.
    pub(crate) stored: Cell<u64>,
    /// The writer whose call of several steps may be half done.
    pub(crate) unsettled: Option<u64>,
}

/// One change of a file.
pub(crate) enum Change<'a> {
    /// The file gets a new content.
    Put {
        path: StorePath,
        /// What it replaces; none: there is no such file.
        previous: Option<Fingerprint>,
        written: Fingerprint,
        content: Content<'a>,
    },
    /// The file goes.
    Remove {
        path: StorePath,
        previous: Fingerprint,
    },
}

/// The new content of a file.
pub(crate) enum Content<'a> {
    /// Its bytes.
    Bytes(Cow<'a, [u8]>),
    /// Its bytes, and how they come from the previous ones: a piece there was replaced.
    Patched {
        whole: Cow<'a, [u8]>,
        at: u64,
        removed: u64,
        insert: Vec<u8>,
    },
    /// Its bytes, journalled whole even if they are many: later patches refer to them.
    Base(Cow<'a, [u8]>),
    /// A finished stage file, durable already.
    Staged(StorePath),
}

impl Content<'_> {
    /// Returns the bytes, unless they are in a stage file.
    fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Bytes(bytes) | Self::Base(bytes) | Self::Patched { whole: bytes, .. } => {
                Some(bytes)
            }
            Self::Staged(_) => None,
        }
    }

    /// Says whether it is too long for the journal.
    fn is_long(&self) -> bool {
        match self {
            Self::Bytes(bytes) => bytes.len() > journal::INLINE,
            Self::Base(bytes) => bytes.len() > INLINE_BASE,
            Self::Patched { whole, insert, .. } => {
                insert.len() > journal::INLINE || whole.len() > INLINE_BASE
            }
            Self::Staged(_) => false,
        }
    }
}

impl<'a> Change<'a> {
    /// Makes the change that gives a file a new content.
    pub(crate) fn put(
        path: StorePath,
        previous: Option<Fingerprint>,
        content: impl Into<Cow<'a, [u8]>>,
    ) -> Self {
        let content = content.into();
        Self::Put {
            path,
            previous,
            written: Fingerprint::of(&content),
            content: Content::Bytes(content),
        }
    }

    /// Returns the revision of the new content; empty for a removal.
    pub(crate) fn revision(&self) -> String {
        match self {
            Self::Put { written, .. } => written.revision(),
            Self::Remove { .. } => String::new(),
        }
    }

    fn step(&self) -> Step {
        match self {
            Self::Put {
                path,
                previous,
                written,
                content,
            } => Step::Put {
                path: path.to_string(),
                previous: *previous,
                written: *written,
                source: match content {
                    Content::Bytes(bytes) | Content::Base(bytes) => Source::Inline(bytes.to_vec()),
                    Content::Patched {
                        at,
                        removed,
                        insert,
                        ..
                    } => Source::Patch {
                        at: *at,
                        removed: *removed,
                        insert: insert.clone(),
                    },
                    Content::Staged(stage) => Source::Staged(stage.to_string()),
                },
            },
            Self::Remove { path, previous } => Step::Remove {
                path: path.to_string(),
                previous: *previous,
            },
        }
    }

    /// Says whether it only adds a file.
    fn adds(&self) -> bool {
        matches!(self, Self::Put { previous: None, .. })
    }
}

/// The changes of one call.
pub(crate) struct Call<'a> {
    pub(crate) held: &'a Held,
    pub(crate) changes: Vec<Change<'a>>,
    /// The run's record as the changes leave it, if its tree is at hand.
    pub(crate) record: Option<&'a Object<'a>>,
}

impl Call<'_> {
    /// Returns the new content that a file gets, and its revision, if that is known here.
    pub(crate) fn content_of(&self, file: &StorePath) -> Option<(&[u8], String)> {
        self.changes.iter().find_map(|change| match change {
            Change::Put { path, content, .. } if path == file => {
                Some((content.bytes()?, change.revision()))
            }
            _ => None,
        })
    }

    /// Lets patches be written whole: the segment that holds what they refer to was removed by somebody.
    fn refer_to_nothing(&mut self) {
        for change in &mut self.changes {
            if let Change::Put { content, .. } = change
                && let Content::Patched { whole, .. } = content
            {
                *content = Content::Base(std::mem::take(whole));
            }
        }
    }
}

/// Says whether a directory or a file under `.index/` was not there any more.
pub(crate) fn is_removed(error: &Error) -> bool {
    matches!(
        error,
        Error::Io {
            code: "no-entry",
            ..
        }
    )
}

/// Does something in `.index/` again if somebody removed that meanwhile.
fn unless_removed<T>(mut work: impl FnMut() -> Result<T>) -> Result<T> {
    let mut attempt = 0;
    loop {
        match work() {
            Err(error) if is_removed(&error) && attempt < ATTEMPTS => attempt += 1,
            done => return done,
        }
    }
}

impl Scope {
    /// Makes the changes of one call: all of them or none, durable when this returns.
    ///
    /// An error whose outcome is unknown keeps the stage files that it was given: a recovery may need them.
    pub(crate) fn commit(&self, held: &Held, changes: Vec<Change<'_>>) -> Result<()> {
        let outcomes = self.commit_all(vec![Call {
            held,
            changes,
            record: None,
        }]);
        outcomes.into_iter().next().unwrap_or(Ok(()))
    }

    /// Makes the changes of several calls with one sync; the outcomes are in their order.
    pub(crate) fn commit_all(&self, mut calls: Vec<Call<'_>>) -> Vec<Result<()>> {
        let journalled = self.options.durability == Durability::Full
            && calls.iter().all(|call| call.held.lock.is_some());
        if journalled {
            let mut writer = self.journal.writer.borrow_mut();
            match self.ready(&mut writer) {
                Ok(true) => return self.commit_journalled(&mut writer, &mut calls),
                Ok(false) => {}
                Err(error) => return calls.iter().map(|_| Err(error.clone())).collect(),
            }
        }
        let watch = self.watch(&calls);
        let make = |call: &Call<'_>| call.changes.iter().try_for_each(|change| self.make(change));
        let outcomes = calls.iter().map(make).collect();
        self.note(watch);
        outcomes
    }

    /// Makes sure that there is a segment to write; false where there can be none.
    fn ready(&self, slot: &mut Option<Writer>) -> Result<bool> {
        if let Some(writer) = slot {
            if writer.segment_is_there(&self.tree)? {
                return Ok(true);
            }
            if writer.has_segment() {
                // Somebody removed the journal. What it promised is made durable before it is forgotten,
                // and whoever removed it removed the lock's file too.
                self.sync_all()?;
                *slot = None;
            }
        }
        if slot.is_none() {
            *slot = Writer::register(&self.tree, &self.ports)?;
        }
        let Some(writer) = slot else {
            return Ok(false);
        };
        writer.begin(&self.tree, &self.ports)?;
        self.journal.epoch.set(self.journal.epoch.get() + 1);
        Ok(true)
    }

    /// Returns this store's number as a writer of the journal, if it is one.
    pub(crate) fn writer_number(&self) -> Option<u64> {
        let writer = self.journal.writer.borrow();
        writer.as_ref().map(|writer| u64::from(writer.token()))
    }

    /// Returns a number that is another one for each segment; none while there is no segment.
    pub(crate) fn segment_epoch(&self) -> Option<u64> {
        let writer = self.journal.writer.borrow();
        writer
            .as_ref()
            .is_some_and(Writer::has_segment)
            .then(|| self.journal.epoch.get())
    }

    /// Makes everything written so far durable, if the journal or the caller needs it, and gives the
    /// journal up.
    pub(crate) fn checkpoint(&self, needed: bool) -> Result<()> {
        let mut slot = self.journal.writer.borrow_mut();
        let writer = slot.take();
        if needed || writer.as_ref().is_some_and(Writer::has_segment) {
            // If it fails, the segment is left to the next one who opens the store.
            self.sync_all()?;
        }
        let Some(mut writer) = writer else {
            return Ok(());
        };
        writer.retire(&self.tree)?;
        if Rc::strong_count(&self.journal) > 1 {
            // An artifact is still being written: its stage file is known by this writer's number.
            *slot = Some(writer);
            return Ok(());
        }
        writer.resign(&self.tree)?;
        if self.options.durability == Durability::Relaxed {
            // It had no segment.
            return Ok(());
        }
        let index = layout::directory(layout::Top::Index);
        match self.tree.sync_directory(&index) {
            // Somebody removed the journal: no segment is left that a power cut could bring back.
            Err(error) if is_removed(&error) => Ok(()),
            synced => synced,
        }
    }

    /// Makes durable whatever was written to the file system of the store.
    pub(crate) fn sync_all(&self) -> Result<()> {
        let now = self.ports.clock.now();
        self.ports.roots.sync().map_err(|reason| Error::Io {
            file: self.outside.clone(),
            operation: "sync",
            code: "io",
            outcome_unknown: true,
            message: format!(
                "what was written to {} could not be made durable: {reason}",
                self.outside
            ),
        })?;
        self.journal.synced.set(now);
        self.journal.written.borrow_mut().clear();
        Ok(())
    }

    /// Makes durable what the calls replace or remove, if another program wrote it lately, maybe without a
    /// sync. Else a power cut could leave something that was there neither before nor after the call, and
    /// that would be taken for a change by that program.
    fn settle_previous(&self, calls: &[Call<'_>], now: u64) -> Result<()> {
        let durable = now.saturating_sub(LATELY).max(self.journal.synced.get());
        let written = self.journal.written.borrow();
        let mut recent = Vec::new();
        for change in calls.iter().flat_map(|call| &call.changes) {
            let (path, previous) = match change {
                Change::Put { path, previous, .. } => (path, previous.as_ref()),
                Change::Remove { path, previous } => (path, Some(previous)),
            };
            if previous.is_none() || written.get(path) == previous {
                continue;
            }
            if let Some(stat) = self.tree.stat(path)?
                && stat.kind == Kind::File
                // A clock of files is a little behind.
                && stat.modified.max(stat.changed).saturating_add(TICKS) > durable
            {
                recent.push(path);
            }
        }
        drop(written);
        if recent.len() > FEW {
            return self.sync_all().map_err(nothing_done);
        }
        for path in recent {
            if let Some((file, _)) = self.tree.open(path)? {
                file.sync_data()
                    .map_err(|reason| Error::io(self.tree.path(path), "sync", reason))?;
                self.sync_names(path)?;
            }
        }
        Ok(())
    }

    fn commit_journalled(
        &self,
        slot: &mut Option<Writer>,
        calls: &mut [Call<'_>],
    ) -> Vec<Result<()>> {
        let now = self.ports.clock.now();
        let mut outcomes: Vec<Result<()>> = Vec::with_capacity(calls.len());
        let mut entries = Vec::with_capacity(calls.len());
        let mut moves = Vec::with_capacity(calls.len());
        if let Err(error) = self.settle_previous(calls, now) {
            return calls.iter().map(|_| Err(error.clone())).collect();
        }
        let token = slot.as_ref().map(Writer::token);
        let empty = slot.as_ref().is_none_or(Writer::is_empty);
        for call in calls.iter_mut() {
            if empty {
                call.refer_to_nothing();
            }
            let prepared = self.prepare(call, token).map(|()| call.held.stored.get());
            outcomes.push(prepared.map(|stored| {
                // The clock may have been set back.
                let last = self.journal.generation.get();
                let generation = (stored + 1).max(now / 1_000).max(last + 1);
                self.journal.generation.set(generation);
                entries.push(Entry::Call(entry(call, generation, stored)));
                moves.push((generation, stored));
            }));
        }
        if entries.is_empty() {
            return outcomes;
        }
        let promised = match slot {
            Some(writer) => writer.promise(&self.tree, &entries),
            None => return outcomes,
        };
        let first = match promised {
            Ok(first) => first,
            Err(reason) => {
                let error = match reason {
                    AppendError::Clean(error) => error,
                    AppendError::Unknown(error) => {
                        *slot = None;
                        unknown(error)
                    }
                };
                let fail = |outcome: Result<()>| outcome.and(Err(error.clone()));
                return outcomes.into_iter().map(fail).collect();
            }
        };
        let watch = self.watch(calls);
        let mut promised = moves.into_iter().zip(first..);
        for (call, outcome) in calls.iter().zip(&mut outcomes) {
            if outcome.is_err() {
                continue;
            }
            if let Some(((generation, stored), frame)) = promised.next() {
                *outcome = self.carry_out(slot, call, generation, stored, frame);
                if outcome.is_ok() {
                    self.remember(call);
                }
            }
        }
        self.note(watch);
        // If the sync fails, or the segment cannot be removed, it is left to the next one who opens the
        // store: the calls were made either way.
        if let Some(writer) = slot
            && writer.is_due(now)
            && self
                .sync_all()
                .and_then(|()| writer.retire(&self.tree))
                .is_err()
        {
            *slot = None;
        }
        outcomes
    }

    /// Remembers what a call wrote.
    fn remember(&self, call: &Call<'_>) {
        let mut files = self.journal.written.borrow_mut();
        for change in &call.changes {
            match change {
                Change::Put { path, written, .. } => files.insert(path.clone(), *written),
                Change::Remove { path, .. } => files.remove(path),
            };
        }
    }

    /// Puts contents that are too long for the journal into stage files, and makes those durable.
    fn prepare(&self, call: &mut Call<'_>, token: Option<u32>) -> Result<()> {
        for change in &mut call.changes {
            let Change::Put { content, .. } = change else {
                continue;
            };
            if !content.is_long() {
                continue;
            }
            let Some(bytes) = content.bytes() else {
                continue;
            };
            let stage = unless_removed(|| {
                let stage = self.staging(token)?;
                let written = self
                    .write_stage(&stage, bytes, true)
                    .and_then(|()| self.tree.sync_directory(&layout::staging_directory()));
                if written.is_err() {
                    // The error of the write is what counts; a stage file left behind is swept later.
                    drop(self.tree.remove(&stage));
                }
                written.map(|()| stage)
            })?;
            *content = Content::Staged(stage);
        }
        Ok(())
    }

    /// Names a new file in the staging directory. Its writer is registered, whatever it promises: so others know that it lives.
    pub(crate) fn new_staging(&self) -> Result<StorePath> {
        let mut writer = self.journal.writer.borrow_mut();
        if writer.is_none() {
            *writer = Writer::register(&self.tree, &self.ports)?;
        }
        let token = writer.as_ref().map(Writer::token);
        unless_removed(|| self.staging(token))
    }

    /// Names a file in the staging directory so that its writer can be told.
    fn staging(&self, token: Option<u32>) -> Result<StorePath> {
        let created = self.tree.ensure_directory(&layout::staging_directory())?;
        if (created || !self.journal.staging_named.get())
            && self.options.durability == Durability::Full
        {
            // Who created it may have been killed before its name was durable, and its files with it.
            self.tree
                .sync_directory(&layout::directory(layout::Top::Index))?;
            self.tree
                .sync_directory(&layout::directory(layout::Top::Root))?;
            self.journal.staging_named.set(true);
        }
        let random = self.ports.random.next();
        Ok(layout::staging(match token {
            Some(token) => (u64::from(token) << 32) | (random >> 32),
            None => random,
        }))
    }

    /// Does what was promised. If the first step fails, the promise is taken back.
    fn carry_out(
        &self,
        slot: &mut Option<Writer>,
        call: &Call<'_>,
        generation: u64,
        stored: u64,
        frame: u64,
    ) -> Result<()> {
        let Some(writer) = slot else {
            // The segment failed under an earlier call of this batch.
            return Err(unknown(busy()));
        };
        let token = writer.token();
        let mut staged = Vec::new();
        let mut begun = false;
        let several = call.changes.len() > 1;
        let writer_noted = several.then_some(token);
        let mut done = self.name_generation(call, generation, stored, writer_noted);
        if done.is_ok() {
            done = self.stage_all(call, token, &mut staged);
        }
        if done.is_ok() {
            let mut stages = staged.iter();
            for change in &call.changes {
                let made = match change {
                    Change::Put { path, content, .. } => {
                        let stage = match content {
                            Content::Staged(stage) => Some(stage),
                            _ => stages.next(),
                        };
                        stage.map_or(Ok(()), |stage| self.rename_into_place(stage, path))
                    }
                    Change::Remove { path, .. } => self.tree.remove(path).map(drop),
                };
                if made.is_err() {
                    done = made;
                    break;
                }
                begun = true;
            }
        }
        let Err(error) = done else {
            if several {
                settle(call, generation);
            }
            if several && writer.append(&self.tree, &[Entry::Done(frame)]).is_err() {
                // Everything is done and promised; only this segment takes no more.
                *slot = None;
            }
            return Ok(());
        };
        if begun {
            // The rest is done by whoever takes the lock next, or opens the store.
            *slot = None;
            return Err(unknown(error));
        }
        let cancelled = writer.promise(&self.tree, &[Entry::Cancelled(frame)]);
        for stage in &staged {
            drop(self.tree.remove(stage));
        }
        match cancelled {
            Ok(_) => {
                if several {
                    settle(call, generation);
                }
                Err(error)
            }
            Err(_) => {
                *slot = None;
                Err(unknown(error))
            }
        }
    }

    /// Notes the generation in the lock's file: its entry is durable. Who only adds a file to a run that was
    /// never changed need not: nothing can be mistaken for an earlier state of it.
    ///
    /// A call of several steps notes its writer too, until it is done: if it does not come to its end, whoever
    /// takes the lock next finds the rest in the writer's segment.
    fn name_generation(
        &self,
        call: &Call<'_>,
        generation: u64,
        stored: u64,
        writer: Option<u32>,
    ) -> Result<()> {
        if writer.is_none() && stored == 0 && call.changes.iter().all(Change::adds) {
            return Ok(());
        }
        let Some(lock) = &call.held.lock else {
            return Ok(());
        };
        let text = match writer {
            Some(writer) => format!("{generation} {writer:08x}"),
            None => generation.to_string(),
        };
        lock.set_content(text.as_bytes())
            .map_err(|reason| lock_content_failed(call.held, &reason))?;
        call.held.stored.set(generation);
        Ok(())
    }

    fn stage_all(&self, call: &Call<'_>, token: u32, staged: &mut Vec<StorePath>) -> Result<()> {
        for change in &call.changes {
            let Change::Put { path, content, .. } = change else {
                continue;
            };
            let Some(bytes) = content.bytes() else {
                continue;
            };
            let stage = path.stage(token);
            staged.push(stage.clone());
            let mut written = self.write_stage(&stage, bytes, false);
            if matches!(&written, Err(Error::Io { code: "exist", .. })) {
                // Nobody else uses this token: it is left over from a call of ours that failed.
                self.tree.remove(&stage)?;
                written = self.write_stage(&stage, bytes, false);
            }
            written?;
        }
        Ok(())
    }

    pub(crate) fn write_stage(&self, stage: &StorePath, content: &[u8], sync: bool) -> Result<()> {
        let file = self.tree.create(stage)?;
        file.write(0, content)
            .map_err(|reason| Error::io(self.tree.path(stage), "write", reason))?;
        if sync {
            file.sync_data()
                .map_err(|reason| Error::io(self.tree.path(stage), "sync", reason))?;
        }
        Ok(())
    }

    /// Renames a stage file to its final name; the directory of an artifact may be missing.
    pub(crate) fn rename_into_place(&self, stage: &StorePath, path: &StorePath) -> Result<()> {
        let renamed = self.tree.rename(stage, path);
        if matches!(
            &renamed,
            Err(Error::Io {
                code: "no-entry",
                ..
            })
        ) && let Some(parent) = path.parent()
            && self.tree.ensure_directory(&parent)?
        {
            return self.tree.rename(stage, path);
        }
        renamed
    }

    /// Makes a change at once: synced step by step with full durability, not at all with relaxed.
    pub(crate) fn make(&self, change: &Change<'_>) -> Result<()> {
        let sync = self.options.durability == Durability::Full;
        let path = match change {
            Change::Remove { path, .. } => {
                self.tree.remove(path)?;
                path
            }
            Change::Put { path, content, .. } => {
                match (content, content.bytes()) {
                    (Content::Staged(stage), _) => self.rename_into_place(stage, path)?,
                    (_, bytes) => {
                        let bytes = bytes.unwrap_or_default();
                        let stage = self.stage(path);
                        let made = self
                            .write_stage(&stage, bytes, sync)
                            .and_then(|()| self.tree.rename(&stage, path));
                        if made.is_err() {
                            // The error of the write is what counts; a stage file left behind is harmless.
                            drop(self.tree.remove(&stage));
                        }
                        made?;
                    }
                }
                path
            }
        };
        if sync { self.sync_names(path) } else { Ok(()) }
    }

    /// Makes the name of a file durable, and those of the directories that it is in.
    pub(crate) fn sync_names(&self, path: &StorePath) -> Result<()> {
        let mut next = path.parent();
        while let Some(directory) = next {
            next = directory.parent();
            // Directories in the root are created once, and no store removes them.
            if next.is_none() && self.journal.root_named.get() && path.top() != layout::Top::Root {
                break;
            }
            self.tree.sync_directory(&directory)?;
            if next.is_none() {
                self.journal.root_named.set(true);
            }
        }
        Ok(())
    }

    /// Returns what a file is now; none if there is nothing of this name.
    pub(crate) fn fingerprint(&self, path: &StorePath) -> Result<Option<Fingerprint>> {
        let Some(stat) = self.tree.stat(path)? else {
            return Ok(None);
        };
        if stat.size > journal::INLINE as u64 {
            return Ok(Some(Fingerprint {
                size: stat.size,
                hash: None,
            }));
        }
        let content = self.tree.read(path, journal::INLINE as u64 * 2)?;
        Ok(content.as_deref().map(Fingerprint::of))
    }
}

/// Makes the journal's entry of a call.
fn entry(call: &Call<'_>, generation: u64, after: u64) -> journal::Call {
    journal::Call {
        lock: call.held.name.clone(),
        generation,
        after,
        steps: call.changes.iter().map(Change::step).collect(),
    }
}

/// Reads a generation from the content of a lock's file.
pub(crate) fn generation_of(content: &[u8]) -> u64 {
    std::str::from_utf8(content)
        .ok()
        .and_then(|text| text.split_whitespace().next()?.parse().ok())
        .unwrap_or_default()
}

/// Reads the number of the writer whose call of several steps may be half done.
pub(crate) fn unsettled_writer(content: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(content).ok()?;
    u64::from_str_radix(text.split_whitespace().nth(1)?, 16).ok()
}

/// Notes in a lock's file that files under it are about to be changed in some other way than by calls, and when: else a
/// verification would take that for the work of another program.
pub(crate) fn name_change(lock: &dyn Lock, now: u64) {
    // What cannot be noted is told once as a change.
    let Ok(content) = lock.content() else {
        return;
    };
    let generation = generation_of(&content);
    let writer = match unsettled_writer(&content) {
        Some(writer) => format!("{writer:08x}"),
        None => "-".to_owned(),
    };
    let text = format!("{generation} {writer} {}", now / 1_000);
    drop(lock.set_content(text.as_bytes()));
}

/// Reads from the content of a lock's file when something under it was changed last, in microseconds since 1970.
pub(crate) fn last_change(content: &[u8]) -> u64 {
    let named = std::str::from_utf8(content)
        .ok()
        .and_then(|text| text.split_whitespace().nth(2)?.parse().ok());
    generation_of(content).max(named.unwrap_or_default())
}

/// Notes in the lock's file that nothing of a call is left to do.
fn settle(call: &Call<'_>, generation: u64) {
    if let Some(lock) = &call.held.lock {
        // Who reads the longer text finds in the journal that the call is done.
        drop(lock.set_content(generation.to_string().as_bytes()));
    }
}

pub(crate) fn lock_content_failed(held: &Held, reason: &LockError) -> Error {
    let (LockName::Run(name) | LockName::Other(name)) = &held.name;
    Error::Io {
        file: ".locks".into(),
        operation: "read or write the lock file of",
        code: "io",
        outcome_unknown: false,
        message: format!("the lock file of {name:?} cannot be read or written: {reason:?}"),
    }
}

/// Turns an error into one that says: it may have happened, or will when the store is opened again.
fn unknown(mut error: Error) -> Error {
    const SAID: &str = "; whether the call takes effect shows when the store is opened again";
    if let Error::Io {
        outcome_unknown,
        message,
        ..
    } = &mut error
    {
        *outcome_unknown = true;
        message.push_str(SAID);
        return error;
    }
    Error::Io {
        file: String::new(),
        operation: "finish",
        code: "io",
        outcome_unknown: true,
        message: format!("{error}{SAID}"),
    }
}

/// Turns an error into one that says: the call had not begun.
fn nothing_done(mut error: Error) -> Error {
    if let Error::Io {
        outcome_unknown, ..
    } = &mut error
    {
        *outcome_unknown = false;
    }
    error
}

fn busy() -> Error {
    Error::Io {
        file: ".index".into(),
        operation: "use the journal in",
        code: "io",
        outcome_unknown: false,
        message: "the journal cannot be used: an earlier write to it failed".into(),
    }
}
