//! Where the database is believed.
//!
//! A directory's rows are what its files say if the database was compared with the files, or if nobody wrote
//! since the last writer that kept both in step closed the store; if no run is noted as not told; and if
//! the database still is the one that was compared: it and the directory keep the same mark.
//!
//! A store that may write brings the database up to date where it cannot be believed. One that only reads
//! lets the files answer.

use super::Sql;
use super::pending::{notes, take_over};
use super::state::{self, Place, State};
use super::sync::Sync;
use crate::error::Result;
use crate::layout::{self, StorePath, Top};
use crate::model::{Access, Durability};
use crate::ports::{DatabaseResult, Statement, was_within};
use crate::scope::Scope;
use crate::sql::catalogue;
use crate::sql::directories::{self, Directory};
use std::rc::Rc;

/// How often a directory is compared that is never found at rest, before the files answer.
const ATTEMPTS: usize = 2;

/// So long, in nanoseconds, after a writer was killed, a list may show what was there before its last call, which it had
/// not yet told the database of.
const RECOVERED: u64 = 1_000_000_000;

/// Of so many runs the fields are counted when the last writer closes the store; of more by `rebuild-index`.
const FEW: u32 = 5_000;

impl Sql {
    /// Returns the ids of some directories if the database says what their files say, else none.
    pub(crate) fn believed(
        self: &Rc<Self>,
        scopes: &[Rc<Scope>],
        access: Access,
    ) -> Result<Option<Vec<String>>> {
        let may_write = access == Access::ReadWrite;
        let Ok(database) = self.id(may_write) else {
            return Ok(None);
        };
        for _ in 0..ATTEMPTS {
            let mut states = Vec::with_capacity(scopes.len());
            for scope in scopes {
                match self.agreeing_state(scope, &database, may_write)? {
                    Some(state) => states.push(state),
                    None => return Ok(None),
                }
            }
            let ids: Vec<&str> = states.iter().map(|state| state.scope.as_str()).collect();
            let known = self.ask(|database| directories::known(database, &self.schema, &ids));
            let Ok(known) = known else {
                return Ok(None);
            };
            let mut all = true;
            for (scope, state) in scopes.iter().zip(&states) {
                // While writers are at work, the server may lose in a crash what it was told last.
                let same = |known: &Directory| {
                    known.scope == state.scope
                        && known.mark == state.mark
                        && (known.steady || !state.live)
                };
                if !known.iter().any(same) {
                    // Another database, or this one as it was some time ago.
                    self.doubt(&place_in_grant(scope));
                    if may_write {
                        scope.disown_database();
                    }
                    all = false;
                }
            }
            if all {
                let steady = known.iter().filter(|known| known.steady);
                *self.steady.borrow_mut() = steady.map(|known| known.scope.clone()).collect();
                return Ok(Some(states.into_iter().map(|state| state.scope).collect()));
            }
            if !may_write {
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// Returns the state of a directory whose files the database is found to agree with, after it was brought
    /// up to date if need be.
    fn agreeing_state(
        self: &Rc<Self>,
        scope: &Rc<Scope>,
        database: &str,
        may_write: bool,
    ) -> Result<Option<State>> {
        let place = place_in_grant(scope);
        if may_write && scope.tree.is_whole() {
            self.recover_now_and_then(scope);
        }
        if !notes(scope)?.is_empty() {
            // The runs of a directory below cannot be locked: there the comparison finds what is noted, and so it does
            // where the database is not believed anyway.
            let compared = State::read(&scope.tree)
                .is_some_and(|(_, state)| state.database == database && !state.mark.is_empty());
            let replayed =
                may_write && compared && scope.tree.is_whole() && scope.replay_pending()?;
            if !replayed {
                // The notes say what is missing, as long as they are there.
                if !may_write || self.is_paused() {
                    return Ok(None);
                }
                self.doubt(&place);
            }
        }
        if let Some((content, state)) = State::read(&scope.tree)
            && state.database == database
            && !state.mark.is_empty()
            && notes(scope)?.is_empty()
        {
            if self.agrees(&place, &content)
                && self.still_explained(scope, &place)?
                && !self.unchecked.borrow().contains(&place)
            {
                return Ok(Some(state));
            }
            // Where writers are at work, the times do not tell what other programs did.
            if let Some(stamps) = state.stands(scope)?
                && (stamps.is_some() || self.names_agree(scope, &state.scope)?)
            {
                self.agree(&place, content, stamps);
                return Ok(Some(state));
            }
        }
        if !may_write {
            return Ok(None);
        }
        let Ok(mut sync) = Sync::begin(scope, self, false) else {
            return Ok(None);
        };
        while let Ok(more) = sync.step() {
            if !more {
                return Ok(State::read(&scope.tree)
                    .filter(|(content, _)| self.agrees(&place, content))
                    .map(|(_, state)| state));
            }
        }
        Ok(None)
    }
}

impl Sql {
    /// Notes what writers changed that were killed since this store was opened: they told nobody.
    fn recover_now_and_then(&self, scope: &Scope) {
        let now = scope.ports.clock.now();
        if was_within(self.recovered.get(), RECOVERED, now) {
            return;
        }
        self.recovered.set(now);
        // Whoever opens the store next is told why it cannot be done.
        drop(scope.recover());
    }

    /// Says whether all changes of a directory since it was found to agree are ours: this store's, or those of
    /// other writers, who told the database of them.
    fn still_explained(&self, scope: &Scope, place: &str) -> Result<bool> {
        match self.explained(place) {
            None => Ok(true),
            Some(stamps) if stamps == state::stamps(&scope.tree)? => Ok(true),
            Some(_) => {
                let others = state::has_other_writers(scope)?;
                if others {
                    // From now on only a comparison tells whose changes they are.
                    self.explain(place, None);
                } else {
                    self.doubt(place);
                }
                Ok(others)
            }
        }
    }
}

/// Returns the path of a scope's directory in the granted one.
pub(crate) fn place_in_grant(scope: &Scope) -> String {
    scope.tree.path(&layout::directory(Top::Root))
}

impl Scope {
    /// Notes, when the store is opened, whether the database is in step with the directory: after the first
    /// write that cannot be told any more.
    pub(crate) fn meet_database(&self) -> Result<()> {
        if let Some(sql) = &self.sql
            && let Some((content, state)) = State::read(&self.tree)
            && let Some(stamps) = state.stands(self)?
        {
            let place = place_in_grant(self);
            sql.agree(&place, content, stamps);
            if stamps.is_none() {
                // The first list looks: a store that only puts asks nothing.
                sql.unchecked.borrow_mut().insert(place);
            }
        }
        Ok(())
    }

    /// Looks, before a write, whether somebody else changed the directories since this store looked last.
    ///
    /// A change by another program between this look and the one after the write is taken for ours.
    pub(crate) fn look_before_write(&self) -> Result<()> {
        if let Some(sql) = &self.sql {
            let place = place_in_grant(self);
            let explained = sql.explained(&place);
            if explained.is_some() && explained != Some(state::stamps(&self.tree)?) {
                sql.explain(&place, None);
            }
        }
        Ok(())
    }

    /// Notes, after a write, when the directories have changed.
    pub(crate) fn look_after_write(&self, sql: &Sql) -> Result<()> {
        let place = place_in_grant(self);
        if sql.explained(&place).is_some() {
            sql.explain(&place, Some(state::stamps(&self.tree)?));
        }
        Ok(())
    }

    /// Notes that a writer is at work that keeps the database in step.
    pub(crate) fn join_database(&self, sql: &Sql) -> Result<()> {
        let place = place_in_grant(self);
        if let Some((content, mut state)) = State::read(&self.tree)
            && sql.agrees(&place, &content)
        {
            if !state.live {
                state.live = true;
                state.stamps = None;
                let stamps = sql.explained(&place);
                sql.agree(&place, state.write(self)?, stamps);
            }
            sql.live.borrow_mut().insert(place);
        }
        Ok(())
    }

    /// Says, when the last writer closes the store, what the database and the directory agree on, so that the
    /// next one who opens it need not compare them.
    pub(crate) fn part_from_database(&self) -> Result<()> {
        let Some(sql) = &self.sql else {
            return Ok(());
        };
        // Without the journal nobody knows who else writes.
        if self.options.access == Access::ReadOnly
            || self.options.durability != Durability::Full
            || !(sql.told.get() || sql.noted.get())
            || sql.is_paused()
        {
            return Ok(());
        }
        if self.tree.is_whole() && !notes(self)?.is_empty() {
            // What cannot be told now is told at the next contact.
            drop(self.replay_pending());
        }
        let place = place_in_grant(self);
        let Some((content, mut state)) = State::read(&self.tree) else {
            return Ok(());
        };
        // Another writer may have changed a file and not told the database yet.
        if state::has_other_writers(self)?
            || !sql.agrees(&place, &content)
            || !notes(self)?.is_empty()
        {
            return Ok(());
        }
        // Another program may have changed something: the next who opens the store has to find it.
        let explained = sql.explained(&place);
        if explained.is_none() || explained != Some(state::stamps(&self.tree)?) {
            return Ok(());
        }
        let Some(stamps) = state::settled_stamps(self)? else {
            return Ok(());
        };
        state.stamps = Some(stamps);
        state.live = false;
        let old = std::mem::replace(&mut state.mark, sql.new_id());
        let mark = directories::mark_closed(&sql.schema, &state.scope, &old, &state.mark);
        if !matches!(sql.ask(|database| database.execute(&mark)), Ok(1)) {
            // The server crashed and may have forgotten something, the marks differ now, or the old one stays in
            // both: in no case anything wrong is believed.
            return Ok(());
        }
        if !self.tree.is_file(&layout::database_state())? {
            // Somebody who does not tell the database has written meanwhile.
            return Ok(());
        }
        state.write(self)?;
        if sql.options.projection {
            // For the reference's readers alone: whether it failed shows in the state of the index.
            drop(sql.count_fields_of_few());
        }
        Ok(())
    }
}

impl Sql {
    /// Brings the reference's catalogue of fields up to date, if its runs changed since they were counted.
    pub(crate) fn count_fields(&self) -> DatabaseResult<()> {
        let counted = catalogue::is_counted(&self.schema);
        let counted = self.ask(|database| database.query(&counted, 1))?;
        if !directories::is_true(&counted) {
            let recount = catalogue::recount(&self.schema);
            self.ask(|database| database.batch(&recount))?;
        }
        Ok(())
    }

    /// Does so if there are few runs.
    fn count_fields_of_few(&self) -> DatabaseResult<()> {
        let small = catalogue::is_small(&self.schema, FEW);
        if directories::is_true(&self.ask(|database| database.query(&small, 1))?) {
            self.count_fields()?;
        }
        Ok(())
    }

    /// Begins to watch whether the server crashes, or a directory is pruned, before a comparison has marked it.
    pub(crate) fn watch(&self, state: &State) -> DatabaseResult<()> {
        let watch = directories::watch(&self.schema, &state.scope, &state.mark);
        self.ask(|database| database.execute(&watch)).map(drop)
    }

    /// Makes the database keep the mark of a directory that was compared; fails if the server crashed, or the directory was
    /// pruned, since that was begun: it may have forgotten what it was found to know.
    pub(crate) fn mark(
        &self,
        state: &State,
        execute: impl FnOnce(&Statement) -> DatabaseResult<u64>,
    ) -> DatabaseResult<()> {
        let directory = Directory {
            scope: state.scope.clone(),
            mark: state.mark.clone(),
            steady: true,
        };
        let inode = state.place.inode.to_string();
        let Place {
            machine,
            directory: outside,
            ..
        } = &state.place;
        let mark = directories::mark_compared(&self.schema, &directory, machine, &inode, outside);
        match execute(&mark)? {
            0 => Err(directories::crashed()),
            _ => Ok(()),
        }
    }
}

/// Takes the notes of a directory out of the way: what they are about is found by a comparison that begins
/// now. Returns the names that they have until then.
pub(crate) fn set_aside(scope: &Scope) -> Result<Vec<StorePath>> {
    let mut aside = Vec::new();
    for note in notes(scope)? {
        aside.extend(take_over(scope, &note));
    }
    Ok(aside)
}
