//! The index of a store directory: what queries need of all runs, in columns, kept under `.index/` and in memory.
//!
//! The files are the truth, and another program may change them at any time. So before each query the index
//! makes sure that it knows them ([`Index::refresh`]):
//!
//! 1. It looks at the *stamps* of `runs/` and `derived/`: when the directory last changed. A stamp tells of every
//!    name that was added, removed or replaced, unless it is so young that a later change may get the same one:
//!    file systems have coarse clocks. A writer therefore gives the directory a stamp of its own, to the
//!    nanosecond; a reader takes no stamp that is younger than two ticks.
//! 2. A stamp that is not the known one may be explained by the notes of our own writers ([`changes`]): then only
//!    the runs that they name are read again.
//! 3. Otherwise it looks at the name, the size and the times of every file, and reads those that differ, or whose
//!    times were so young when they were read that a later change may have left them as they were.
//!
//! After a query, the files of the rows that it returns are looked at again, so that a file rewritten in place is
//! noticed too; and a query can ask for step 3 (`check`).
//!
//! What is kept under `.index/` is a cache: the head (`columns`), which names the tables and what they know, and
//! the tables, which never change. All of it is untrusted: lengths are checked before anything is allocated, and
//! everything has a checksum. What is damaged, of another version or missing is made anew from the files. A
//! store that is opened to read uses it and writes nothing.

pub(crate) mod bytes;
mod changes;
mod column;
mod head;
mod select;
mod table;

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop where it fails")]
mod tests;

pub(crate) use changes::ChangeLog;
pub(crate) use select::{Chosen, Selection, choose};
pub(crate) use table::{Table, Texts};

use crate::codec;
use crate::error::{Error, Result};
use crate::json::{self, Document, Nothing, Part, Sink, Value};
use crate::layout::{self, StorePath, Top};
use crate::model::{Access, Damage};
use crate::names::RunId;
use crate::ports::{Directory, Kind, PortError, PortResult, Reading, Stat, was_within};
use crate::quick;
use crate::run_list::damage;
use crate::scope::Scope;
use crate::tree::Tree;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use table::{Builder, DerivedText, Seen};

/// The directories that the index knows.
pub(crate) const TOPS: [Top; 2] = [Top::Runs, Top::Derived];

/// How old a time of a file must be, in nanoseconds, for a later change to have another one on a file system
/// with a coarse clock.
const TICKS: u64 = 50_000_000;

/// The least time between two looks at all names, in nanoseconds, after changes by our own writers: what another
/// program changed in the very moment of such a change is covered by its stamp.
const LOOK_AGAIN: u64 = 2_000_000_000;

/// How many times longer than a look it takes is the time until the next, after changes by our own writers.
const PAUSE: u64 = 50;

/// The most bytes of tables that a store keeps in memory that may not save them; beyond, it reads every file for each
/// query.
const MAX_MEMORY: usize = 384 << 20;

/// So many runs are read together.
const READ_TOGETHER: usize = 1 << 14;

/// So many files are looked at together.
const LOOKED_TOGETHER: usize = 1 << 14;

/// Beyond so many runs, what is needed to look at all of them is not kept for the next time.
const KEEP_LOOKS: usize = 1 << 18;

/// So many files are worth being read ahead.
const WORTH_READING_AHEAD: usize = 32;

/// So many small tables are kept before they are made one.
const SMALL_TABLES: usize = 4;

/// So many runs have to be new before a writer saves them for others.
const WORTH_SAVING: usize = 256;

/// So many runs a store has to have changed before it makes an index when it is closed.
const WORTH_BUILDING: usize = 1000;

/// The index, or a part of it, is not what it should be, and cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Doubt;

/// Why something was not done with the index.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The index is not what it should be.
    Doubt,
    /// There is more than may be kept in memory, and nothing may be saved.
    Beyond,
    /// The files could not be read.
    Store(Error),
}

impl From<Doubt> for Trouble {
    fn from(Doubt: Doubt) -> Self {
        Self::Doubt
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

type Outcome<T> = std::result::Result<T, Trouble>;

/// When a directory last changed, as far as its times tell; zeros if there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stamp {
    modified: u64,
    changed: u64,
}

/// Looks at the stamp of a directory.
fn stamp(scope: &Scope, top: Top) -> std::result::Result<Stamp, Trouble> {
    match scope.tree.stat(&layout::directory(top))? {
        None => Ok(Stamp::default()),
        Some(stat) if stat.kind == Kind::Directory => Ok(Stamp {
            modified: stat.modified,
            changed: stat.changed,
        }),
        // A link or a file in its place: the files themselves say what is wrong.
        Some(_) => Err(Trouble::Doubt),
    }
}

/// What is damaged of a run, and what its file was like then.
struct Damaged {
    seen: Option<Seen>,
    damage: Damage,
}

/// What is known of the files.
#[derive(Default)]
struct State {
    tables: Vec<Rc<Table>>,
    /// The records that cannot be loaded, by the run's name.
    records: BTreeMap<String, Damaged>,
    /// The derived metrics that cannot be read, of runs whose record can.
    derived: BTreeMap<String, Damaged>,
    stamps: [Stamp; 2],
    /// Whether whatever changes from now on gives the directories other stamps.
    settled: bool,
    /// The file of notes, and how much of it is known.
    log: Option<(u64, u64)>,
    /// That file.
    notes: Option<changes::OpenLog>,
    /// Whether our own writers changed something since the last look at all names.
    changed: bool,
    looked: u64,
    took: u64,
    /// How many runs others would have to read again.
    unsaved: usize,
    /// Whether others would have to look at all names.
    outdated: bool,
    /// What was damaged when it was saved, to be looked at again.
    again: Vec<String>,
    /// The runs read during this query whose files were so young that a later change may have left their times.
    young: BTreeSet<String>,
}

/// The index of one store directory.
#[derive(Default)]
pub(crate) struct Index {
    state: RefCell<Option<State>>,
    /// Whether it is known to need more memory than it may.
    beyond: Cell<bool>,
    pub(crate) log: ChangeLog,
}

/// What one scope has to say to a query.
pub(crate) struct View {
    /// Whether the files can be compared with what the index knows of them.
    pub(crate) comparable: bool,
    pub(crate) tables: Vec<Rc<Table>>,
    /// The files that are damaged, those of derived metrics only if these are needed.
    pub(crate) damaged: Vec<Damage>,
    /// Whether there are derived metrics that are damaged.
    pub(crate) derived_damaged: bool,
}

/// The index as it was saved.
pub(crate) struct SavedIndex {
    tables: Vec<Rc<Table>>,
    records: Option<Rc<dyn Directory>>,
}

impl SavedIndex {
    fn find(&self, run: &RunId) -> std::result::Result<Option<(&Table, usize)>, Doubt> {
        for table in &self.tables {
            if let Some(row) = table.find(run.as_str())? {
                return Ok(Some((table, row)));
            }
        }
        Ok(None)
    }

    /// Says whether a query would be told another record than a file held when it had a stat: the index read it when the
    /// file had the times that it has now.
    pub(crate) fn misleads(
        &self,
        run: &RunId,
        stat: &Stat,
        content: &[u8],
    ) -> std::result::Result<bool, Doubt> {
        let Some((table, row)) = self.find(run)? else {
            return Ok(false);
        };
        let now = look_at(self.records.as_deref(), &layout::run_record(run));
        let unchanged = now
            .as_ref()
            .is_some_and(|now| (now.size, now.modified) == (stat.size, stat.modified));
        if !unchanged || !is_same(now.as_ref(), Some(&table.seen(row)?.0)) {
            return Ok(false);
        }
        let mut text = String::new();
        if json::minify(content, &mut text).is_err() {
            return Ok(false);
        }
        table.with_record(row, |kept| kept != text)
    }

    /// Returns the texts that it has of a run.
    pub(crate) fn texts(&self, run: &RunId) -> Option<Texts> {
        let (table, row) = self.find(run).ok()??;
        table.texts(row).ok()
    }
}

/// What is read of one run.
enum Read {
    Absent,
    Damaged(Damaged),
    /// It is in the table; whether one of its files is young.
    Whole(bool),
}

/// What was read of a run ahead.
struct Ahead<'p> {
    /// The time before the first file was read.
    now: u64,
    /// The place of its record.
    path: &'p StorePath,
    record: PortResult<(Stat, &'p str)>,
    /// The place of its derived metrics.
    derived_path: &'p StorePath,
    derived: PortResult<(Stat, &'p str)>,
}

/// Where runs are read from.
#[derive(Default)]
struct Directories<'l> {
    records: Option<Rc<dyn Directory>>,
    derived: Option<Rc<dyn Directory>>,
    /// The names in the directory of derived metrics, if they were listed after its stamp was taken: what is
    /// added later gives it another.
    listed: Option<&'l BTreeSet<String>>,
}

impl Directories<'_> {
    /// Says whether there can be derived metrics at a place.
    fn has_derived(&self, path: &StorePath) -> bool {
        self.listed
            .is_none_or(|listed| listed.contains(path.file_name()))
    }
}

impl Index {
    /// Makes sure that the index knows the files, and returns what it knows.
    ///
    /// With `check`, every file is looked at. `again` says that it is still the same query.
    pub(crate) fn refresh(
        &self,
        scope: &Scope,
        check: bool,
        derived: bool,
        again: bool,
    ) -> Outcome<View> {
        if self.beyond.get() {
            return Err(Trouble::Beyond);
        }
        if !again && let Some(state) = self.state.borrow_mut().as_mut() {
            state.young.clear();
        }
        let refreshed = self.try_refresh(scope, check, derived);
        match refreshed {
            Err(Trouble::Doubt) => {
                // Made anew, from the files alone.
                *self.state.borrow_mut() = Some(State::default());
                self.try_refresh(scope, true, derived)
            }
            Err(Trouble::Beyond) => {
                *self.state.borrow_mut() = None;
                self.beyond.set(true);
                Err(Trouble::Beyond)
            }
            refreshed => refreshed,
        }
    }

    fn try_refresh(&self, scope: &Scope, check: bool, derived: bool) -> Outcome<View> {
        let mut slot = self.state.borrow_mut();
        if scope.tree.has_overlay()? {
            // What is read in place of the files has no times. It is so until somebody recovers the store.
            *slot = None;
            let mut state = State::default();
            scope.look_at_all(&mut state)?;
            return Ok(View {
                comparable: false,
                ..state.view(derived)
            });
        }
        if slot.is_none() {
            let loaded = scope.load_index();
            *slot = Some(loaded.unwrap_or_default());
        }
        let Some(state) = slot.as_mut() else {
            return Err(Trouble::Doubt);
        };
        scope.catch_up(state, check)?;
        if (state.outdated || state.unsaved >= WORTH_SAVING) && scope.may_save() {
            scope.save_index(state);
        }
        Ok(state.view(derived))
    }

    /// Forgets what is in memory and reads everything from the files at the next query.
    pub(crate) fn distrust(&self) {
        *self.state.borrow_mut() = Some(State::default());
    }

    /// Looks at the files of some rows again. If one is not what the index knows, reads it again and says so.
    pub(crate) fn look_again<'t>(
        &self,
        scope: &Scope,
        rows: impl Iterator<Item = (&'t Table, usize)>,
        derived: bool,
    ) -> Outcome<bool> {
        let mut slot = self.state.borrow_mut();
        let state = slot.as_mut().ok_or(Trouble::Doubt)?;
        let records = scope.directory(Top::Runs)?;
        let others = if derived {
            scope.directory(Top::Derived)?
        } else {
            None
        };
        let mut rows = rows.peekable();
        let mut changed = Vec::new();
        while rows.peek().is_some() {
            let mut runs = Vec::new();
            let mut seen = Vec::new();
            for (table, row) in rows.by_ref().take(LOOKED_TOGETHER) {
                let run = RunId::parse(table.names()?.get(row)).map_err(|_| Doubt)?;
                // What was read during this query is as new as a scan would have it.
                let young = !state.young.is_empty() && state.young.contains(run.as_str());
                let as_read = |mut seen: Seen| {
                    seen.young &= !young;
                    seen
                };
                let (record, derived) = table.seen(row)?;
                seen.push((as_read(record), derived.map(as_read)));
                runs.push(run);
            }
            let mut same = vec![true; runs.len()];
            let found = look(records.as_deref(), runs.iter().map(layout::run_record));
            for ((same, stat), (seen, _)) in same.iter_mut().zip(found).zip(&seen) {
                *same = is_same(stat.as_ref(), Some(seen));
            }
            if derived {
                let found = look(others.as_deref(), runs.iter().map(layout::derived));
                for ((same, stat), (_, seen)) in same.iter_mut().zip(found).zip(&seen) {
                    *same &= is_same(stat.as_ref(), seen.as_ref());
                }
            }
            let runs = runs.into_iter().zip(same);
            changed.extend(runs.filter_map(|(run, same)| (!same).then_some(run)));
        }
        if changed.is_empty() {
            return Ok(true);
        }
        scope.read_runs(state, changed.iter(), None)?;
        Ok(false)
    }

    /// Saves what others would have to read, when the store is closed.
    pub(crate) fn save_at_close(&self, scope: &Scope) {
        let changed = self.log.changed.get();
        let there = scope
            .tree
            .stat(&layout::index_head())
            .is_ok_and(|head| head.is_some());
        let worth = if there { WORTH_SAVING } else { WORTH_BUILDING };
        if scope.options.access == Access::ReadWrite && changed >= worth {
            // It is a cache: who needs it makes it, too.
            drop(self.try_refresh(scope, false, false));
            if let Ok(mut slot) = self.state.try_borrow_mut()
                && let Some(state) = slot.as_mut()
                && state.unsaved > 0
            {
                scope.save_index(state);
            }
        }
    }
}

impl State {
    fn view(&self, derived: bool) -> View {
        let records = self.records.values();
        let others = self.derived.values().filter(|_| derived);
        View {
            comparable: true,
            tables: self.tables.clone(),
            damaged: records
                .chain(others)
                .map(|damaged| damaged.damage.clone())
                .collect(),
            derived_damaged: derived && !self.derived.is_empty(),
        }
    }

    /// Forgets a run, which is looked for in the first tables.
    fn forget(&mut self, name: &str, tables: usize) -> std::result::Result<(), Doubt> {
        self.records.remove(name);
        self.derived.remove(name);
        for table in self.tables.iter().take(tables) {
            if let Some(row) = table.find(name)? {
                table.kill(row);
                break;
            }
        }
        Ok(())
    }
}

/// Returns what is known of a file, looked at by this time.
fn seen_of(stat: &Stat, now: u64) -> Seen {
    Seen {
        size: stat.size,
        modified: stat.modified,
        changed: stat.changed,
        young: stat.modified.max(stat.changed).saturating_add(TICKS) >= now,
    }
}

/// Says whether a file is as it was seen, for certain.
fn is_same(stat: Option<&Stat>, seen: Option<&Seen>) -> bool {
    match (stat, seen) {
        (None, None) => true,
        (Some(stat), Some(seen)) => {
            !seen.young
                && stat.kind == Kind::File
                && (stat.size, stat.modified, stat.changed)
                    == (seen.size, seen.modified, seen.changed)
        }
        _ => false,
    }
}

impl Scope {
    /// Returns the index as it was saved, to compare it with the files; none where nothing was saved.
    ///
    /// # Errors
    /// `Doubt` inside if it cannot be used.
    pub(crate) fn saved_index(&self) -> Result<Option<std::result::Result<SavedIndex, Doubt>>> {
        if self.tree.stat(&layout::index_head())?.is_none() {
            return Ok(None);
        }
        let Some(state) = self.load_index() else {
            return Ok(Some(Err(Doubt)));
        };
        Ok(Some(Ok(SavedIndex {
            tables: state.tables,
            records: self.directory(Top::Runs)?,
        })))
    }

    /// Says whether the index may be saved: looking at a directory that is no store yet leaves nothing in it.
    fn may_save(&self) -> bool {
        self.options.access == Access::ReadWrite
            && self
                .tree
                .stat(&layout::directory(Top::Index))
                .is_ok_and(|stat| stat.is_some_and(|stat| stat.kind == Kind::Directory))
    }

    /// Reads what changed since the last query.
    fn catch_up(&self, state: &mut State, check: bool) -> Outcome<()> {
        let now = self.ports.clock.now();
        let pause = LOOK_AGAIN.max(state.took.saturating_mul(PAUSE));
        let due = !was_within(state.looked, pause, now);
        if check || !state.settled || (state.changed && due) {
            return self.look_at_all(state);
        }
        let found = [stamp(self, TOPS[0])?, stamp(self, TOPS[1])?];
        let mut again: BTreeSet<RunId> = BTreeSet::new();
        let mut told = self.noted_since(state, found)?;
        if told.is_none()
            && let Some(saved) = self.load_index().filter(|saved| saved.settled)
        {
            // Another one of us looked at all names meanwhile.
            *state = saved;
            told = self.noted_since(state, found)?;
        }
        match told {
            Some(runs) => again.extend(runs),
            None => return self.look_at_all(state),
        }
        for name in std::mem::take(&mut state.again) {
            again.extend(RunId::parse(&name));
        }
        self.add_changed_damage(state, &mut again)?;
        self.read_runs(state, again.iter(), None)
    }

    /// Returns the runs that our own writers changed, if that is all that happened.
    fn noted_since(&self, state: &mut State, found: [Stamp; 2]) -> Result<Option<BTreeSet<RunId>>> {
        let Some((id, from)) = state.log else {
            return Ok((found == state.stamps).then(BTreeSet::new));
        };
        let known = state.notes.as_mut().is_some_and(changes::OpenLog::is_there);
        if !known {
            state.notes = self.open_log()?.filter(|log| log.id == id);
        }
        let Some(log) = &state.notes else {
            return Ok(None);
        };
        // Also if the directories are as they were: a note may come later than one that covers what it tells of.
        let Ok(notes) = log.notes(from) else {
            return Ok(None);
        };
        let Some(told) = changes::explained(&notes, state.stamps, found) else {
            return Ok(None);
        };
        state.log = Some((id, log.size));
        state.stamps = told;
        state.changed |= !notes.is_empty();
        Ok(Some(notes.into_iter().flat_map(|note| note.runs).collect()))
    }

    /// Adds the runs with damaged files that are not as they were.
    fn add_changed_damage(&self, state: &State, again: &mut BTreeSet<RunId>) -> Result<()> {
        let paths: [fn(&RunId) -> StorePath; 2] = [layout::run_record, layout::derived];
        let places = [&state.records, &state.derived].into_iter().zip(paths);
        for ((damaged, path), top) in places.zip(TOPS) {
            if damaged.is_empty() {
                continue;
            }
            let directory = self.directory(top).ok().flatten();
            for (name, damaged) in damaged {
                let Ok(run) = RunId::parse(name) else {
                    continue;
                };
                let stat = look_at(directory.as_deref(), &path(&run));
                if !is_same(stat.as_ref(), damaged.seen.as_ref()) {
                    again.insert(run);
                }
            }
        }
        Ok(())
    }

    /// Gives a directory a stamp of its own if its stamp is young, and says whether whatever changes from now on
    /// gives it another.
    fn settle(&self, top: Top) -> Outcome<(Stamp, bool)> {
        let now = self.ports.clock.now();
        let found = stamp(self, top)?;
        if found.modified.max(found.changed).saturating_add(TICKS) < now {
            // It is left as it is: others may know it too.
            return Ok((found, true));
        }
        if self.options.access == Access::ReadOnly
            || !self.tree.set_modified(&layout::directory(top), now)
        {
            return Ok((found, false));
        }
        let found = stamp(self, top)?;
        Ok((found, found.modified == now))
    }

    /// Looks at the names and times of all files, and reads those that the index does not know.
    fn look_at_all(&self, state: &mut State) -> Outcome<()> {
        let started = self.ports.clock.now();
        let notes = self.open_log()?;
        let (runs, runs_settled) = self.settle(TOPS[0])?;
        let (derived, derived_settled) = self.settle(TOPS[1])?;
        let mut records: Vec<RunId> = self.recorded_runs()?;
        records.sort_unstable();
        let listed = self.tree.list(&layout::directory(Top::Derived));
        let listed: BTreeSet<String> = match listed {
            Ok(entries) => entries.into_iter().map(|entry| entry.name).collect(),
            // What is wrong with it shows where a run's metrics are asked for.
            Err(_) => return Err(Trouble::Doubt),
        };
        let handles = [self.directory(Top::Runs)?, self.directory(Top::Derived)?];
        let mut known: Vec<Vec<bool>> = state
            .tables
            .iter()
            .map(|table| vec![false; table.rows()])
            .collect();
        let mut again = Vec::new();
        let mut likely = 0;
        for records in records.chunks(LOOKED_TOGETHER) {
            let mut compared = Vec::with_capacity(records.len());
            for run in records {
                let mut seen = None;
                // Names in a row are often in one table.
                for index in (likely..state.tables.len()).chain(0..likely) {
                    if let Some(row) = state.tables[index].find(run.as_str())? {
                        known[index][row] = true;
                        seen = Some(state.tables[index].seen(row)?);
                        likely = index;
                        break;
                    }
                }
                match seen {
                    Some(seen) if !state.derived.contains_key(run.as_str()) => {
                        compared.push((run, seen));
                    }
                    _ => again.push(run),
                }
            }
            let known_runs = || compared.iter().map(|(run, _)| *run);
            let found = look(handles[0].as_deref(), known_runs().map(layout::run_record));
            let paths: Vec<Option<StorePath>> = known_runs()
                .map(layout::derived)
                .map(|path| listed.contains(path.file_name()).then_some(path))
                .collect();
            let there: Vec<bool> = paths.iter().map(Option::is_some).collect();
            let mut others = look(handles[1].as_deref(), paths.into_iter().flatten()).into_iter();
            for (((run, (record, derived)), stat), there) in compared.iter().zip(found).zip(there) {
                let other = match there {
                    true => others.next().flatten(),
                    false => None,
                };
                if !is_same(stat.as_ref(), Some(record))
                    || !is_same(other.as_ref(), derived.as_ref())
                {
                    again.push(run);
                }
            }
        }
        again.sort_unstable();
        let mut gone = 0;
        for (table, known) in state.tables.iter().zip(known) {
            for (row, known) in known.into_iter().enumerate() {
                if !known && table.is_live(row) {
                    table.kill(row);
                    gone += 1;
                }
            }
        }
        if state.tables.iter().map(|table| table.rows()).sum::<usize>() > KEEP_LOOKS {
            state.tables.iter().for_each(|table| table.forget_looks());
        }
        // Those that are still there are read again.
        state.records.clear();
        state.derived.clear();
        state.again.clear();
        self.read_runs(state, again.into_iter(), Some(&listed))?;
        state.unsaved += gone;
        state.outdated =
            state.outdated || state.stamps != [runs, derived] || !state.settled || state.changed;
        state.stamps = [runs, derived];
        state.settled = runs_settled && derived_settled;
        state.log = notes.as_ref().map(|log| (log.id, log.size));
        state.notes = notes;
        state.changed = false;
        state.looked = self.ports.clock.now();
        state.took = state.looked.saturating_sub(started);
        Ok(())
    }

    /// Opens one of the directories, to look at many files.
    fn directory(&self, top: Top) -> Result<Option<Rc<dyn Directory>>> {
        self.tree.handle(&layout::directory(top))
    }

    /// Reads some runs anew. Of those that are not among the `listed` names, there are no derived metrics.
    fn read_runs<'r>(
        &self,
        state: &mut State,
        runs: impl Iterator<Item = &'r RunId>,
        listed: Option<&BTreeSet<String>>,
    ) -> Outcome<()> {
        let mut runs = runs.peekable();
        let mut builder = Builder::new();
        let mut count = 0;
        let tables = state.tables.len();
        let from = if runs.peek().is_some() {
            // What cannot be opened is found by its whole path, which says what is wrong with it.
            let directory = |top| match self.tree.has_overlay() {
                Ok(false) => self.directory(top).ok().flatten(),
                _ => None,
            };
            Directories {
                records: directory(Top::Runs),
                derived: directory(Top::Derived),
                listed,
            }
        } else {
            Directories::default()
        };
        loop {
            let together: Vec<&RunId> = runs.by_ref().take(READ_TOGETHER).collect();
            if together.is_empty() {
                break;
            }
            count += together.len();
            let now = self.ports.clock.now();
            let records: Vec<_> = together.iter().copied().map(layout::run_record).collect();
            let derived: Vec<_> = together
                .iter()
                .copied()
                .map(layout::derived)
                .map(|path| (from.has_derived(&path), path))
                .collect();
            let listed = derived.iter().filter(|(listed, _)| *listed);
            let mut records_ahead = read_ahead(from.records.as_deref(), records.iter());
            let mut derived_ahead =
                read_ahead(from.derived.as_deref(), listed.map(|(_, path)| path));
            let places = records.iter().zip(&derived);
            for (run, (path, (listed, derived_path))) in together.into_iter().zip(places) {
                // Those that are made of these runs have no other of them.
                state.forget(run.as_str(), tables)?;
                let ahead = Ahead {
                    now,
                    path,
                    record: next(&mut records_ahead),
                    derived_path,
                    derived: match listed {
                        true => next(&mut derived_ahead),
                        false => Err(PortError::NotFound),
                    },
                };
                match self.read_run(state, &mut builder, run, &from, &ahead)? {
                    Read::Whole(young) => {
                        if young {
                            state.young.insert(run.as_str().to_owned());
                        }
                    }
                    Read::Absent => {}
                    Read::Damaged(damaged) => {
                        state.records.insert(run.as_str().to_owned(), damaged);
                    }
                }
                if builder.is_full() {
                    self.add_table(state, std::mem::replace(&mut builder, Builder::new()))?;
                }
            }
        }
        self.add_table(state, builder)?;
        state.unsaved += count;
        state.tables.retain(|table| table.live_rows() > 0);
        let small = state
            .tables
            .iter()
            .filter(|table| table.live_rows() < table::MAX_ROWS / 4);
        if small.count() > SMALL_TABLES {
            self.merge(state)?;
        }
        Ok(())
    }

    fn add_table(&self, state: &mut State, builder: Builder) -> Outcome<()> {
        if builder.is_empty() {
            return Ok(());
        }
        let bytes = builder.finish(self.ports.random.next());
        let mut table = Table::in_memory(bytes)?;
        if table.rows() >= WORTH_SAVING
            && self.may_save()
            && let Some(saved) = self.save_table(&table)
        {
            table = saved;
        }
        state.tables.push(Rc::new(table));
        let in_memory = state.tables.iter().filter_map(|table| table.bytes());
        if in_memory.map(<[u8]>::len).sum::<usize>() > MAX_MEMORY {
            return Err(Trouble::Beyond);
        }
        Ok(())
    }

    /// Makes one table of small ones, and of those in which many rows are gone.
    fn merge(&self, state: &mut State) -> Outcome<()> {
        state.tables.sort_by_key(|table| table.live_rows());
        let mut sum = 0;
        let mut count = 0;
        for table in &state.tables {
            // Only what is not much larger than all before is worth the work.
            if count > 1 && table.live_rows() > 2 * sum && table.live_rows() * 2 > table.rows() {
                break;
            }
            sum += table.live_rows();
            count += 1;
            if sum > table::MAX_ROWS {
                break;
            }
        }
        let rest = state.tables.split_off(count);
        let merged = std::mem::replace(&mut state.tables, rest);
        let mut builder = Builder::new();
        for table in merged {
            for row in 0..table.rows() {
                if !table.is_live(row) {
                    continue;
                }
                let texts = table.texts(row)?;
                let (seen, derived) = table.seen(row)?;
                let record = object(&texts.record)?;
                let derived_object = texts.derived.as_deref().map(object).transpose()?;
                let derived = match (derived, &derived_object, &texts.derived) {
                    (Some(seen), Some(object), Some(text)) => {
                        DerivedText::Whole(seen, Part::Tree(object), text.as_bytes())
                    }
                    (Some(seen), _, _) => DerivedText::Damaged(seen),
                    (None, ..) => DerivedText::Absent,
                };
                let record = Part::Tree(&record);
                let text = (texts.record.as_bytes(), table.is_typed_line(row)?);
                builder.add(&table.name(row)?, seen, record, text, &derived);
                if builder.is_full() {
                    self.add_table(state, std::mem::replace(&mut builder, Builder::new()))?;
                }
            }
        }
        self.add_table(state, builder)
    }

    /// Reads a file through its directory, if it was not read with others before.
    fn read_unless_read<'p>(
        &self,
        directory: Option<&dyn Directory>,
        path: &StorePath,
        ahead: PortResult<(Stat, &'p str)>,
    ) -> Result<Option<(Stat, Content<'p>)>> {
        let opened = match (ahead, directory) {
            (Ok((stat, content)), _) => return Ok(Some((stat, Content::Text(content)))),
            (Err(PortError::NotFound), _) => return Ok(None),
            (Err(_), None) => self.tree.open(path)?,
            (Err(_), Some(directory)) => match directory.look(&[path.file_name()]).pop() {
                // The times that it is compared by come from the same look everywhere.
                Some(Ok(stat)) => self.tree.open_seen(Some(directory), path, &stat)?,
                Some(Err(PortError::NotFound | PortError::NotDirectory)) => return Ok(None),
                _ => self.tree.open(path)?,
            },
        };
        let Some((file, stat)) = opened else {
            return Ok(None);
        };
        let content = self
            .tree
            .read_open(path, file.as_ref(), &stat, codec::MAX_DOCUMENT)?;
        Ok(Some((stat, Content::Bytes(content))))
    }

    /// Reads one run, and what it is damaged by.
    fn read_run(
        &self,
        state: &mut State,
        builder: &mut Builder,
        run: &RunId,
        from: &Directories<'_>,
        ahead: &Ahead<'_>,
    ) -> Outcome<Read> {
        let path = ahead.path;
        let look = |directory: Option<&dyn Directory>, path: &StorePath| {
            look_at(directory, path).map(|stat| seen_of(&stat, ahead.now))
        };
        let read = |directory, path: &StorePath, piece| {
            let found = self.read_unless_read(directory, path, piece)?;
            Ok::<_, Error>(found.map(|(stat, content)| (seen_of(&stat, ahead.now), content)))
        };
        let content = match read(from.records.as_deref(), path, ahead.record) {
            Ok(None) => return Ok(Read::Absent),
            Ok(Some(content)) => content,
            Err(error) => {
                // Whatever changed it since it could not be read left times that are young.
                return Ok(Read::Damaged(Damaged {
                    seen: look(from.records.as_deref(), path),
                    damage: damage(error)?,
                }));
            }
        };
        let (record_seen, content) = content;
        let mut text = Vec::with_capacity(content.bytes().len());
        let mut check = quick::Check::default();
        let parsed = parse(&self.tree, path, &content, &mut text, &mut check).and_then(|record| {
            if check.is_whole() || codec::surely_loads(record.root().entries()) {
                return Ok(record);
            }
            let place = self.tree.path(path);
            let tree = codec::parse_object(&place, content.bytes())?;
            match codec::run_record(&place, tree) {
                Ok(_) | Err(Error::Unrepresentable { .. }) => Ok(record),
                Err(error) => Err(error),
            }
        });
        let record = match parsed {
            Ok(record) => record,
            Err(error) => {
                return Ok(Read::Damaged(Damaged {
                    seen: Some(record_seen),
                    damage: damage(error)?,
                }));
            }
        };
        let text = (text.as_slice(), check.is_whole());
        let opened = read(from.derived.as_deref(), ahead.derived_path, ahead.derived);
        let mut derived_text = Vec::new();
        let parsed = match &opened {
            Ok(None) => Ok(None),
            Ok(Some((seen, content))) => {
                let path = ahead.derived_path;
                parse(&self.tree, path, content, &mut derived_text, &mut Nothing)
                    .map(|object| Some((*seen, object)))
            }
            Err(error) => Err(error.clone()),
        };
        let mut young = record_seen.young;
        match parsed {
            Ok(None) => {
                let derived = DerivedText::Absent;
                builder.add(run.as_str(), record_seen, record.root(), text, &derived);
            }
            Ok(Some((seen, metrics))) => {
                young |= seen.young;
                let derived = DerivedText::Whole(seen, metrics.root(), &derived_text);
                builder.add(run.as_str(), record_seen, record.root(), text, &derived);
            }
            Err(error) => {
                let known = look(from.derived.as_deref(), ahead.derived_path);
                young = true;
                // Of what cannot be looked at, nothing is known: it is read again each time.
                let unknown = Seen {
                    size: 0,
                    modified: 0,
                    changed: 0,
                    young: true,
                };
                let derived = DerivedText::Damaged(known.unwrap_or(unknown));
                builder.add(run.as_str(), record_seen, record.root(), text, &derived);
                let damaged = Damaged {
                    seen: known,
                    damage: damage(error)?,
                };
                state.derived.insert(run.as_str().to_owned(), damaged);
            }
        }
        Ok(Read::Whole(young))
    }
}

/// What is in a file.
enum Content<'p> {
    /// It was read with others, and is UTF-8.
    Text(&'p str),
    Bytes(Vec<u8>),
}

impl Content<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Bytes(bytes) => bytes,
        }
    }
}

/// Reads a file that must hold an object, and appends its text without white space. A check sees what is in it too.
fn parse<'c>(
    tree: &Tree,
    path: &StorePath,
    content: &'c Content<'_>,
    line: &mut Vec<u8>,
    check: &mut impl Sink<'c>,
) -> Result<Document<'c>> {
    let text = match content {
        Content::Text(text) => Some(*text),
        Content::Bytes(bytes) => str::from_utf8(bytes).ok(),
    };
    match text.map(|text| Document::read_and_minify(text, line, check)) {
        Some(Ok(document)) if document.root().is_object() => Ok(document),
        // What is wrong is told in full.
        _ => codec::parse_object(&tree.path(path), content.bytes())
            .map(|object| Document::Tree(Value::Object(object))),
    }
}

/// Looks at files of a directory; without one, none of them is there.
fn look(
    directory: Option<&dyn Directory>,
    paths: impl Iterator<Item = StorePath>,
) -> Vec<Option<Stat>> {
    let paths: Vec<StorePath> = paths.collect();
    let Some(directory) = directory else {
        return vec![None; paths.len()];
    };
    let names: Vec<&str> = paths.iter().map(StorePath::file_name).collect();
    let found = directory.look(&names);
    found.into_iter().map(std::result::Result::ok).collect()
}

/// Looks at one file of a directory.
fn look_at(directory: Option<&dyn Directory>, path: &StorePath) -> Option<Stat> {
    directory?.look(&[path.file_name()]).pop()?.ok()
}

/// Begins to read files of a directory, if they are many.
fn read_ahead<'p>(
    directory: Option<&dyn Directory>,
    paths: impl Iterator<Item = &'p StorePath>,
) -> Option<Box<dyn Reading>> {
    let names: Vec<&str> = paths.map(StorePath::file_name).collect();
    if names.len() < WORTH_READING_AHEAD {
        return None;
    }
    directory?.read(&names)
}

/// Returns the next of the files that are read ahead, if they are.
fn next(reading: &mut Option<Box<dyn Reading>>) -> PortResult<(Stat, &str)> {
    match reading {
        Some(reading) => reading.next(),
        None => Err(PortError::Unsupported),
    }
}

/// Reads a text of a table.
fn object(text: &str) -> std::result::Result<Value<'_>, Doubt> {
    match json::parse(text.as_bytes()) {
        Ok(value @ Value::Object(_)) => Ok(value),
        _ => Err(Doubt),
    }
}
