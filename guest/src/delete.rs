//! Deleting a run with everything that belongs to it.

use crate::error::Result;
use crate::layout::{self, StorePath};
use crate::model::Durability;
use crate::names::RunId;
use crate::ports::Kind;
use crate::scope::Scope;

impl Scope {
    /// Deletes a run, and says whether there was anything.
    ///
    /// The record goes first: a reader that finds no record asks for nothing else. What cannot be told to
    /// belong to this run alone stays, and so does the lock file: who waits for it must find it.
    pub(crate) fn delete_run(&self, run: &RunId) -> Result<bool> {
        self.prepare_write()?;
        let lock = self.lock_run(run)?;
        let logs = self.flat_logs(run)?;
        let mut removed = false;
        for path in [
            layout::run_record(run),
            layout::derived(run),
            layout::done_marker(run),
        ] {
            removed |= self.tree.remove(&path)?;
        }
        for (path, _) in logs {
            removed |= self.tree.remove(&path)?;
        }
        for directory in [
            layout::result_directory(run),
            layout::artifact_directory(run),
            layout::log_directory(run),
        ] {
            removed |= self.remove_directory_with_files(&directory)?;
        }
        if removed && self.options.durability == Durability::Full {
            for top in [
                layout::Top::Runs,
                layout::Top::Derived,
                layout::Top::Logs,
                layout::Top::Results,
                layout::Top::Artifacts,
            ] {
                let directory = layout::directory(top);
                if self.tree.stat(&directory)?.is_some() {
                    self.tree.sync_directory(&directory)?;
                }
            }
        }
        drop(lock);
        Ok(removed)
    }

    /// Removes a directory of a run with the files in it. Links are removed, never followed.
    fn remove_directory_with_files(&self, directory: &StorePath) -> Result<bool> {
        if !self
            .tree
            .stat(directory)?
            .is_some_and(|stat| stat.kind == Kind::Directory)
        {
            return Ok(false);
        }
        for entry in self.tree.list(directory)? {
            let path = directory.child(&entry.name)?;
            if entry.kind == Kind::Directory {
                // The reference makes directories here for artifact names with a slash.
                self.remove_directory_with_files(&path)?;
            } else {
                self.tree.remove(&path)?;
            }
        }
        self.tree.remove_directory(directory)?;
        Ok(true)
    }
}
