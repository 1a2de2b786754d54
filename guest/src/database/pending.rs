//! Runs that the database was not told of: `.index/pending-*`, a line for each run.
//!
//! A note is taken while the run's lock is held, after its files were changed. Whoever brings the database
//! up to date takes the run's lock too, and reads the files then: so it tells at least what the note is about.
//!
//! A store appends to a note of its own. Who replays it renames it first, and then reads it; who appended
//! looks whether the name is still there, and if it is not, takes the note again. So no line is lost,
//! whichever comes first. The new name is there before the old one goes, so that whoever lists the notes at that
//! moment sees one of them.
//!
//! A run is noted even while the database is not believed: a comparison that has listed the files already may be about
//! to make it so. A note with the line `/`, which is no run, is about the whole directory: it says that the database
//! is to be compared with the files.

use super::Sql;
use super::reflect::GROUP;
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

/// The line of a note that is about the whole directory.
const EVERYTHING: &str = "/";

/// Takes a note away from its writer, and returns the name that it has now; none if somebody else was faster.
pub(crate) fn take_over(scope: &Scope, note: &StorePath) -> Option<StorePath> {
    let mine = layout::pending_note(scope.ports.random.next());
    let created = scope.tree.create(&mine);
    if created.is_ok() && scope.tree.rename(note, &mine).is_ok() {
        return Some(mine);
    }
    scope.tree.remove(&mine).ok();
    None
}

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
        let mut lines = String::new();
        for run in runs {
            lines.push_str(run.as_str());
            lines.push('\n');
        }
        if lines.is_empty() {
            return;
        }
        match self.take_note(sql, &lines) {
            Ok(()) => sql.noted.set(true),
            Err(_) => self.disown_database(),
        }
    }

    fn take_note(&self, sql: &Sql, lines: &str) -> Result<()> {
        for _ in 0..ATTEMPTS {
            let path = layout::pending_note(sql.note.get());
            let (file, size) = self.tree.open_to_append(&path)?;
            // One that is longer is about the whole directory.
            if size <= MAX_NOTE {
                file.append(lines.as_bytes())
                    .map_err(|reason| Error::io(self.tree.path(&path), "write", reason))?;
            }
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

    /// Makes the database be compared with the files before it is believed again, if it knows this directory.
    pub(crate) fn disown_database(&self) {
        let state = layout::database_state();
        if !matches!(self.tree.is_file(&state), Ok(true)) {
            return;
        }
        // The note is for a comparison that is under way: it would write the state again.
        if self.disowning.get() == 0 {
            self.disowning.set(self.ports.random.next());
        }
        let note = layout::pending_note(self.disowning.get());
        if !matches!(self.tree.is_file(&note), Ok(true))
            && let Ok((file, _)) = self.tree.open_to_append(&note)
        {
            file.append(format!("{EVERYTHING}\n").as_bytes()).ok();
        }
        // Where the file cannot be removed, nothing can be written either: no call comes here.
        drop(self.tree.remove(&state));
    }

    /// Tells the database of the runs that are noted. False: it was not told of all.
    pub(crate) fn replay_pending(&self) -> Result<bool> {
        for note in notes(self)? {
            // Nobody appends to this name.
            let Some(mine) = take_over(self, &note) else {
                // Somebody else replays it. Whether that is done is not known.
                return Ok(false);
            };
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
            if text.lines().any(|line| line == EVERYTHING) {
                // It stays until a comparison settles it.
                return Ok(false);
            }
            let runs: BTreeSet<RunId> = text
                .lines()
                .filter_map(|line| RunId::parse(line).ok())
                .collect();
            let runs: Vec<RunId> = runs.into_iter().collect();
            for group in runs.chunks(GROUP) {
                if self.reflect_unlocked(group)?.is_none() {
                    return Ok(false);
                }
            }
            self.tree.remove(&mine)?;
        }
        Ok(true)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop where it fails")]
mod tests {
    use super::{notes, take_over};
    use crate::layout;
    use crate::model::{Access, Durability, StoreOptions};
    use crate::native;
    use crate::scope::Scope;
    use crate::testing::{Touch, watched};
    use std::cell::RefCell;
    use std::fs;
    use std::rc::Rc;

    #[test]
    fn a_note_that_is_taken_over_is_listed_under_one_of_its_names_at_every_moment() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join(".index")).unwrap();
        let note = layout::pending_note(7);
        fs::write(directory.path().join(note.to_string()), "run\n").unwrap();
        let mut ports = native::ports(directory.path()).unwrap();
        let seen: Rc<RefCell<Vec<usize>>> = Rc::default();
        let (others, noted) = (Rc::clone(&ports.directory), Rc::clone(&seen));
        // What others can list just before a name changes.
        ports.directory = watched(ports.directory, move |touch, path| {
            if touch == Touch::Rename {
                let there = others.list(".index").unwrap().entries;
                let name = path.strip_prefix(".index/").unwrap();
                noted
                    .borrow_mut()
                    .push(there.iter().filter(|entry| entry.name == name).count());
            }
        });
        let options = StoreOptions {
            directory: String::new(),
            experiment_id: None,
            access: Access::ReadWrite,
            durability: Durability::Full,
            lock_timeout_ms: 0,
            index: None,
        };
        let scope = Scope::new(ports, Rc::new(options), None);
        let mine = take_over(&scope, &note).unwrap();
        assert_eq!(*seen.borrow(), [1], "the new name was there before");
        assert_eq!(notes(&scope).unwrap(), [mine]);
        // One that is gone leaves nothing behind.
        assert!(take_over(&scope, &note).is_none());
        assert_eq!(notes(&scope).unwrap().len(), 1);
    }
}
