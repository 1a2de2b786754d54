//! The names in `logs/`, remembered as long as nobody else changes the directory.
//!
//! A flat log does not say where its run's id ends, so finding a run's logs means looking at all names. In a
//! store of 100,000 runs that is far too much for every call. So the names are kept sorted in memory, together
//! with a *stamp*, the directory's modification time. If it is so young that a later change might get the same
//! one, since file systems have coarse clocks, the store sets it itself, to the nanosecond, before it lists; it
//! does so too after each change of its own. Whatever another program creates or removes later gives the
//! directory another time.
//!
//! What remains is a moment: a change by another program between the look at the stamp before a change of
//! ours and the new stamp after it is taken for ours. So after changes of its own the store looks again from
//! time to time.

use crate::error::Result;
use crate::layout::{self, Top};
use crate::logs_naming::label_pieces;
use crate::model::Access;
use crate::names::RunId;
use crate::ports::Kind;
use crate::scope::Scope;
use std::collections::BTreeSet;

/// The most names that are remembered.
const NAMES: usize = 1_000_000;

/// How old a modification time must be, in nanoseconds, for a later change to have another one on a file
/// system with a coarse clock.
const TICKS: u64 = 50_000_000;

/// The least time between two looks, in nanoseconds, after changes of our own.
const LOOK_AGAIN: u64 = 2_000_000_000;

/// How many times longer than a look it takes is the time until the next, after changes of our own.
const PAUSE: u64 = 50;

/// When a directory changed, as far as its times tell.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: u64,
    changed: u64,
}

/// The files directly in `logs/`.
#[derive(Default)]
pub(crate) struct LogFiles {
    names: BTreeSet<String>,
    /// The 8 characters between two `_` in a name that may be a label file's, and the name.
    labels: BTreeSet<(String, String)>,
    stamp: Option<Stamp>,
    /// When the directory was listed, and how long that took, in nanoseconds.
    listed: u64,
    took: u64,
    /// Whether this store changed the directory since.
    changed: bool,
}

impl LogFiles {
    fn insert(&mut self, name: String) {
        for piece in label_pieces(&name) {
            self.labels.insert((piece.to_owned(), name.clone()));
        }
        self.names.insert(name);
    }

    fn remove(&mut self, name: &str) {
        for piece in label_pieces(name) {
            self.labels.remove(&(piece.to_owned(), name.to_owned()));
        }
        self.names.remove(name);
    }

    /// Returns the names that may be of a run's logs, sorted.
    fn of(&self, run: &RunId) -> Vec<String> {
        // `_` is followed by the backquote.
        let (first, end) = (format!("{run}_"), format!("{run}`"));
        let mut found: BTreeSet<&String> = self.names.range(first..end).collect();
        if let Some(prefix8) = run.prefix8() {
            let from = (prefix8.to_owned(), String::new());
            let labels = self.labels.range(from..);
            found.extend(
                labels
                    .take_while(|(piece, _)| piece == prefix8)
                    .map(|(_, name)| name),
            );
        }
        found.into_iter().cloned().collect()
    }
}

/// A change of names in `logs/`.
pub(crate) enum LogChange<'a> {
    Added(&'a str),
    Removed(&'a str),
}

impl Scope {
    /// Returns the names of the files directly in `logs/` that may belong to a run.
    pub(crate) fn log_file_names(&self, run: &RunId) -> Result<Vec<String>> {
        let mut files = self.log_files.borrow_mut();
        let now = self.ports.clock.now();
        let looked = files
            .listed
            .saturating_add(LOOK_AGAIN.max(files.took.saturating_mul(PAUSE)));
        if (files.changed && now > looked) || !self.stands(&files)? {
            *files = self.look_at_logs(now)?;
        }
        Ok(files.of(run))
    }

    /// Says whether nobody else changed the directory.
    fn stands(&self, files: &LogFiles) -> Result<bool> {
        match files.stamp {
            None => Ok(false),
            Some(stamp) => Ok(self.log_stamp()? == Some(stamp)),
        }
    }

    fn log_stamp(&self) -> Result<Option<Stamp>> {
        let stat = self.tree.stat(&layout::directory(Top::Logs))?;
        Ok(stat.map(|stat| Stamp {
            modified: stat.modified,
            changed: stat.changed,
        }))
    }

    /// Gives the directory a time of its own, and returns it; none where that is not possible.
    fn set_log_stamp(&self, now: u64) -> Result<Option<Stamp>> {
        let logs = layout::directory(Top::Logs);
        if self.options.access == Access::ReadOnly || !self.tree.set_modified(&logs, now) {
            return Ok(None);
        }
        let stamp = self.log_stamp()?;
        // Another time: somebody was faster.
        Ok(stamp.filter(|stamp| stamp.modified / 1_000 == now / 1_000))
    }

    fn look_at_logs(&self, now: u64) -> Result<LogFiles> {
        // A time that is old enough is not touched: others may know it too.
        let old = |stamp: &Stamp| stamp.modified.max(stamp.changed).saturating_add(TICKS) < now;
        let stamp = match self.log_stamp()?.filter(old) {
            Some(stamp) => Some(stamp),
            None => self.set_log_stamp(now)?,
        };
        let mut files = LogFiles::default();
        for entry in self.tree.list(&layout::directory(Top::Logs))? {
            if entry.kind == Kind::File {
                files.insert(entry.name);
            }
        }
        files.stamp = stamp.filter(|_| files.names.len() <= NAMES);
        files.listed = now;
        files.took = self.ports.clock.now().saturating_sub(now);
        Ok(files)
    }

    /// Does something that changes names in `logs/`, and remembers which.
    pub(crate) fn changing_logs<T>(
        &self,
        changes: &[LogChange<'_>],
        change: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        if changes.is_empty() {
            return change();
        }
        let stood = {
            let mut files = self.log_files.borrow_mut();
            let stamp = files.stamp.take();
            stamp.is_some() && stamp == self.log_stamp()?
        };
        let done = change()?;
        if stood {
            let mut files = self.log_files.borrow_mut();
            for change in changes {
                match change {
                    LogChange::Added(name) => files.insert((*name).to_owned()),
                    LogChange::Removed(name) => files.remove(name),
                }
            }
            files.changed = true;
            files.stamp = self.set_log_stamp(self.ports.clock.now())?;
        }
        Ok(done)
    }
}
