//! Deleting a run with everything that belongs to it.

use crate::commit::{Change, Held};
use crate::error::Result;
use crate::layout::{self, StorePath, Top};
use crate::log_files::LogChange;
use crate::names::RunId;
use crate::ports::Kind;
use crate::scope::Scope;

/// The most files that are removed as one call: what an entry of the journal can name.
const FILES: usize = 10_000;

/// What there is of a run.
#[derive(Default)]
pub(crate) struct Belongings {
    pub(crate) files: Vec<StorePath>,
    /// The directories, those within others first.
    directories: Vec<StorePath>,
}

impl Scope {
    /// Deletes a run, and says whether there was anything.
    ///
    /// The record goes first: a reader that finds no record asks for nothing else. What cannot be told to
    /// belong to this run alone stays, and so does the lock file: who waits for it must find it.
    pub(crate) fn delete_run(&self, run: &RunId) -> Result<bool> {
        self.refuse_read_only()?;
        let (found, _) = self.belongings(run)?;
        if found.files.is_empty() && found.directories.is_empty() {
            // Nothing is created, not even a lock's file, for a run that never was.
            return Ok(false);
        }
        self.prepare_write()?;
        let held = self.lock_run(run)?;
        let (found, logs) = self.belongings(run)?;
        let logs: Vec<LogChange<'_>> = logs.iter().map(|log| LogChange::Removed(log)).collect();
        let removed = self.changing_logs(&logs, || self.remove_all(&held, found));
        // Also where it failed: a part of it may be done.
        self.reflect(&[run], held.lock.is_some());
        drop(held);
        self.tell_noted();
        removed
    }

    fn remove_all(&self, held: &Held, found: Belongings) -> Result<bool> {
        let mut changes = Vec::with_capacity(found.files.len().min(FILES));
        let mut removed = !found.directories.is_empty();
        for path in found.files {
            let Some(stat) = self.tree.stat(&path)? else {
                continue;
            };
            removed = true;
            if stat.kind != Kind::File {
                // Links and the like are nothing that a journal could bring back, and are never followed.
                self.tree.remove(&path)?;
                continue;
            }
            if path.top() == Top::Logs {
                self.sync_log(&path)?;
            }
            if let Some(previous) = self.fingerprint(&path)? {
                changes.push(Change::Remove { path, previous });
            }
            if changes.len() == FILES {
                self.commit(held, std::mem::take(&mut changes))?;
            }
        }
        if !changes.is_empty() {
            self.commit(held, changes)?;
        }
        for directory in found.directories {
            // The run is deleted: an empty directory that stays is no reason to say that it is not.
            drop(self.tree.remove_directory(&directory));
        }
        Ok(removed)
    }

    /// Lists what belongs to a run, the record first, and the names of the files directly in `logs/`.
    pub(crate) fn belongings(&self, run: &RunId) -> Result<(Belongings, Vec<String>)> {
        let mut found = Belongings::default();
        for path in [
            layout::run_record(run),
            layout::derived(run),
            layout::done_marker(run),
        ] {
            if self.tree.stat(&path)?.is_some() {
                found.files.push(path);
            }
        }
        let logs = self.flat_logs(run)?;
        let names = logs.iter().map(|(path, _)| path.file_name().to_owned());
        let names = names.collect();
        found.files.extend(logs.into_iter().map(|(path, _)| path));
        for directory in [
            layout::result_directory(run),
            layout::artifact_directory(run),
            layout::log_directory(run),
        ] {
            self.collect(&directory, &mut found)?;
        }
        Ok((found, names))
    }

    /// Lists a directory of a run with everything in it. Links are listed, never followed.
    fn collect(&self, directory: &StorePath, found: &mut Belongings) -> Result<()> {
        if !self
            .tree
            .stat(directory)?
            .is_some_and(|stat| stat.kind == Kind::Directory)
        {
            return Ok(());
        }
        for entry in self.tree.list(directory)? {
            let path = directory.child(&entry.name)?;
            if entry.kind == Kind::Directory {
                // The reference makes directories here for artifact names with a slash.
                self.collect(&path, found)?;
            } else {
                found.files.push(path);
            }
        }
        found.directories.push(directory.clone());
        Ok(())
    }
}
