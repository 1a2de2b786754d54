//! The names in `logs/`, remembered as long as nobody else changes the directory.
//!
//! A flat log does not say where its run's id ends, so finding a run's logs means looking at all names. In a
//! store of 100,000 runs that is far too much for every call. So the names are kept in memory, together
//! with a *stamp*, the directory's modification time. If it is so young that a later change might get the same
//! one, since file systems have coarse clocks, the store sets it itself, to the nanosecond, before it lists; it
//! does so too after each change of its own. Whatever another program creates or removes later gives the
//! directory another time.
//!
//! A new stamp after a change of ours would also cover what others changed since the look before it, and that
//! may be long: a journal is synced between. So each of our writers adds a byte to `.index/log-changes` after
//! it changed the directory and before it releases the run's lock. If after a change of ours the file has
//! grown by more than our own byte, the names are not kept; if it has grown later, they are not used. Whoever
//! holds a run's lock therefore knows of all logs that another of our writers made for it.
//!
//! What remains are programs that are not ours: their change between the look at the stamp before a change of
//! ours and the new stamp after it is taken for ours. So after changes of its own the store looks again from
//! time to time.

use crate::error::Result;
use crate::layout::{self, Top};
use crate::logs_naming::label_pieces;
use crate::model::Access;
use crate::names::RunId;
use crate::ports::{Kind, was_within};
use crate::scope::Scope;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher};

/// The most names that are remembered.
const NAMES: usize = 1_000_000;

/// How old a modification time must be, in nanoseconds, for a later change to have another one on a file
/// system with a coarse clock.
const TICKS: u64 = 50_000_000;

/// The least time between two looks, in nanoseconds, after changes of our own.
const LOOK_AGAIN: u64 = 2_000_000_000;

/// How many times longer than a look it takes is the time until the next, after changes of our own.
const PAUSE: u64 = 50;

/// The size beyond which the file that counts changes is begun anew, in bytes.
const MARKS: u64 = 64 * 1024;

/// When a directory changed, as far as its times tell.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: u64,
    changed: u64,
}

/// Names by a text in them. The hash has no secret: a name that another program chooses can only slow down the
/// store that it is in.
type Names = HashMap<String, Vec<String>, BuildHasherDefault<DefaultHasher>>;

/// The files directly in `logs/`.
#[derive(Default)]
pub(crate) struct LogFiles {
    /// Names by each text before a `_`: a run's id, if the file is a flat log.
    flat: Names,
    /// Names by each text of 8 characters that may begin a run's id, if the file is a label file.
    labels: Names,
    count: usize,
    stamp: Option<Stamp>,
    /// When the directory was listed, and how long that took, in nanoseconds.
    listed: u64,
    took: u64,
    /// Whether this store changed the directory since.
    changed: bool,
    /// How many changes of our writers were counted when the names were last known to be complete.
    marks: u64,
}

/// Returns the texts in a file's name that may be the id of its run.
fn run_ids(name: &str) -> impl Iterator<Item = &str> {
    name.match_indices('_').map(|(at, _)| &name[..at])
}

fn add<'n>(names: &mut Names, keys: impl Iterator<Item = &'n str>, name: &str) {
    for key in keys {
        let found = match names.get_mut(key) {
            Some(found) => found,
            None => names.entry(key.to_owned()).or_default(),
        };
        if !found.iter().any(|found| found == name) {
            found.push(name.to_owned());
        }
    }
}

fn remove<'n>(names: &mut Names, keys: impl Iterator<Item = &'n str>, name: &str) {
    for key in keys {
        if let Some(found) = names.get_mut(key) {
            found.retain(|found| found != name);
            if found.is_empty() {
                names.remove(key);
            }
        }
    }
}

impl LogFiles {
    fn insert(&mut self, name: &str) {
        add(&mut self.flat, run_ids(name), name);
        add(&mut self.labels, label_pieces(name), name);
        self.count += 1;
    }

    fn remove(&mut self, name: &str) {
        remove(&mut self.flat, run_ids(name), name);
        remove(&mut self.labels, label_pieces(name), name);
        self.count = self.count.saturating_sub(1);
    }

    /// Returns the names that may be of a run's logs, sorted.
    fn of(&self, run: &RunId) -> Vec<String> {
        let labels = run.prefix8().and_then(|prefix8| self.labels.get(prefix8));
        let flat = self.flat.get(run.as_str());
        let mut found: Vec<String> = flat.into_iter().chain(labels).flatten().cloned().collect();
        found.sort_unstable();
        found.dedup();
        found
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
        let pause = LOOK_AGAIN.max(files.took.saturating_mul(PAUSE));
        if (files.changed && !was_within(files.listed, pause, now)) || !self.stands(&files)? {
            *files = self.look_at_logs(now)?;
        }
        Ok(files.of(run))
    }

    /// Says whether nobody else changed the directory.
    fn stands(&self, files: &LogFiles) -> Result<bool> {
        match files.stamp {
            None => Ok(false),
            // A time that this store did not set tells of all changes.
            Some(stamp) => Ok(self.log_stamp()? == Some(stamp)
                && (!files.changed || self.log_marks()? == files.marks)),
        }
    }

    fn log_marks(&self) -> Result<u64> {
        let marks = self.tree.stat(&layout::log_changes())?;
        Ok(marks.map_or(0, |stat| stat.size))
    }

    /// Counts a change of names in `logs/`, and returns how many were counted; none if that failed.
    ///
    /// The change was made, so a failure is none of the call: others may miss it for a moment, as if another
    /// program had made it.
    pub(crate) fn mark_log_change(&self) -> Option<u64> {
        let (marks, _) = self.tree.open_to_append(&layout::log_changes()).ok()?;
        marks.append(b".").ok()?;
        Some(marks.stat().ok()?.size)
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
        let mut marks = self.log_marks()?;
        if marks > MARKS && self.options.access == Access::ReadWrite {
            // Whoever remembers the old count looks again.
            self.tree.remove(&layout::log_changes())?;
            marks = self.log_marks()?;
        }
        let mut files = LogFiles {
            marks,
            ..LogFiles::default()
        };
        for entry in self.tree.list(&layout::directory(Top::Logs))? {
            if entry.kind == Kind::File {
                files.insert(&entry.name);
            }
        }
        files.stamp = stamp.filter(|_| files.count <= NAMES);
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
        // It may have been made in part.
        let done = change();
        let marks = self.mark_log_change();
        let done = done?;
        let mut files = self.log_files.borrow_mut();
        let alone = marks.is_some_and(|marks| marks == files.marks + 1);
        if stood && alone {
            files.marks += 1;
            for change in changes {
                match change {
                    LogChange::Added(name) => files.insert(name),
                    LogChange::Removed(name) => files.remove(name),
                }
            }
            files.changed = true;
            files.stamp = self.set_log_stamp(self.ports.clock.now())?;
        }
        Ok(done)
    }
}
