//! Runs that the database was not told of: `.index/pending-*`, a line for each run.
//!
//! A note is taken while the run's lock is held, after its files were changed. Whoever brings the database
//! up to date takes the run's lock too, and reads the files then: so it tells at least what the note is about.
//!
//! A store appends to a note of its own. Who replays it renames it first, and then reads it; who appended
//! looks whether the name is still there, and if it is not, takes the note again. So no line is lost,
//! whichever comes first.

use super::Sql;
use super::reflect::GROUP;
use super::state::State;
use crate::error::{Error, Result};
use crate::layout::{self, StorePath, Top};
use crate::names::RunId;
use crate::ports::Kind;
use crate::scope::Scope;
use std::collections::BTreeSet;

/// The most bytes of a note that are read; beyond, the directory is compared as a whole.
const MAX_NOTE: u64 = 16 * 1024 * 1024;

/// How often a note is taken again because somebody renamed it.
const ATTEMPTS: usize = 8;

/// Lists the notes of a directory.
pub(crate) fn notes(scope: &Scope) -> Result<Vec<StorePath>> {
    let entries = scope.tree.list(&layout::directory(Top::Index))?;
    Ok(entries
        .iter()
        .filter(|entry| entry.kind == Kind::File)
        .filter_map(|entry| layout::pending_note_of(&entry.name))
        .collect())
}

impl Scope {
    /// Notes runs whose files were changed and that the database was not told of.
    ///
    /// Where not even that is possible, the state's file is removed: then the database is not believed until
    /// it was compared with the files.
    pub(crate) fn note_pending<'r>(&self, sql: &Sql, runs: impl Iterator<Item = &'r RunId>) {
        if State::read(&self.tree).is_none_or(|(_, state)| state.mark.is_empty()) {
            // The database is not believed anyway.
            return;
        }
        let mut lines = String::new();
        for run in runs {
            lines.push_str(run.as_str());
            lines.push('\n');
        }
        if !lines.is_empty() && self.take_note(sql, &lines).is_err() {
            self.disown_database();
        }
    }

    fn take_note(&self, sql: &Sql, lines: &str) -> Result<()> {
        for _ in 0..ATTEMPTS {
            let path = layout::pending_note(sql.note.get());
            let (file, _) = self.tree.open_to_append(&path)?;
            file.append(lines.as_bytes())
                .map_err(|reason| Error::io(self.tree.path(&path), "write", reason))?;
            let stat = file
                .stat()
                .map_err(|reason| Error::io(self.tree.path(&path), "look at", reason))?;
            if stat.links > 0 && self.tree.is_file(&path)? {
                return Ok(());
            }
            // Somebody is replaying it, and may have read it before these lines were in it.
            sql.note.set(self.ports.random.next());
        }
        Err(Error::Io {
            file: ".index".into(),
            operation: "note a run in",
            code: "busy",
            outcome_unknown: false,
            message: "a note in .index was taken away again and again".into(),
        })
    }

    /// Makes the database be compared with the files before it is believed again.
    pub(crate) fn disown_database(&self) {
        // Where the file cannot be removed, nothing can be written either: no call comes here.
        drop(self.tree.remove(&layout::database_state()));
    }

    /// Tells the database of the runs that are noted. False: it was not told of all.
    pub(crate) fn replay_pending(&self) -> Result<bool> {
        for note in notes(self)? {
            // Nobody appends to this name.
            let mine = layout::pending_note(self.ports.random.next());
            if self.tree.rename(&note, &mine).is_err() {
                // Somebody else replays it. Whether that is done is not known.
                return Ok(false);
            }
            let content = match self.tree.read(&mine, MAX_NOTE) {
                Ok(content) => content.unwrap_or_default(),
                Err(Error::TooLarge(_)) => {
                    self.disown_database();
                    self.tree.remove(&mine)?;
                    return Ok(false);
                }
                Err(error) => return Err(error),
            };
            let text = String::from_utf8_lossy(&content);
            let runs: BTreeSet<RunId> = text
                .lines()
                .filter_map(|line| RunId::parse(line).ok())
                .collect();
            let runs: Vec<RunId> = runs.into_iter().collect();
            for group in runs.chunks(GROUP) {
                if !self.reflect_unlocked(group)? {
                    return Ok(false);
                }
            }
            self.tree.remove(&mine)?;
        }
        Ok(true)
    }
}
