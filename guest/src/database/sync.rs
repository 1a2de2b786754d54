//! Bringing the database up to date with the files of one directory: a comparison, then one transaction that
//! changes only what differs.
//!
//! No lock is held while files and rows are compared and sent, so that writers go on. Only the changes at the end keep
//! them waiting. Each change names the stamp that the row had when it was compared, and does nothing where it has another
//! one by now: then a writer has told the database something newer. Readers see the rows as they were or as they are, never
//! none, and never wait.
//!
//! It is done in steps of a bounded size, so that whoever runs it can show how far it is, and stop.

use super::Sql;
use super::ready::{place_in_grant, set_aside};
use super::reflect::{GROUP, Looking, Seen, Told, contents_of, is_refusal, stamp};
use super::state::{self, Place, Stamps, State};
use crate::codec;
use crate::error::{Error, Result};
use crate::json::Object;
use crate::layout::{self, StorePath, Top};
use crate::model::{Access, Damage};
use crate::names::{ExperimentId, RunId};
use crate::ports::{
    CopyWriter, Cursor, Database, DatabaseResult, Directory, Isolation, Lock, LockError, LockMode,
    LockTarget, Reading, RowSet, SqlValue, Transaction,
};
use crate::query::RecordRow;
use crate::run_list::damage;
use crate::scope::{Scope, hex, revision};
use crate::sql::Schema;
use crate::sql::catalogue::Counted;
use crate::sql::directories::{is_true, run, statement, text, texts};
use crate::sql::projection::{self, Projected};
use crate::sql::runs;
use crate::tree::Tree;
use sha2::{Digest, Sha256};
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;

/// How many names one step compares.
const COMPARED: usize = 4096;

/// How many runs one step sends.
const SENT: usize = 1024;

/// How many rows a page of the database's answer has, and how many bytes.
const PAGE_ROWS: u32 = 8192;
const PAGE_BYTES: u32 = 4 * 1024 * 1024;

/// How many bytes of lines are sent at once.
const CHUNK: usize = 256 * 1024;

/// From so many new runs on, an empty table is filled without its indexes.
const MANY: usize = 2000;

/// After so many runs, lines are sent to a table that is filled.
const PACE: usize = 64;

/// So many bytes of lines wait for another table before it has its turn.
const TURN: usize = 4 * CHUNK;

/// How many rows are deleted by one statement.
const DELETED: usize = 10_000;

/// How many runs are written at once to the reference's tables while these are put right: writers wait meanwhile.
const REFERENCE: u32 = 512;

/// How many manifests are sent at once.
const MANIFESTS: usize = 32;

/// What the server answers where a lock is not to be waited for.
const LOCKED: &str = "55P03";

/// The name of the lock that lets one store compare at a time.
const LOCK: &str = "database";

/// The table that new rows are sent to.
const LOAD: &str = "metalab_store_load";

/// What was found and done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SyncReport {
    /// Runs with a record.
    pub runs: u64,
    /// Runs that the database did not know.
    pub added: u64,
    /// Runs of which it knew something else.
    pub changed: u64,
    /// Runs that it knew and that are gone.
    pub removed: u64,
    /// Manifests that were written to the reference's tables, or removed from them.
    pub manifests: u64,
    /// Files that are no records, and are not in the index.
    pub damaged: Vec<Damage>,
}

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncProgress {
    /// What is being done.
    pub phase: &'static str,
    /// How much of it.
    pub done: u64,
    /// Out of how much.
    pub total: u64,
}

/// A comparison that is under way. Dropping it changes nothing.
pub(crate) struct Sync {
    scope: Rc<Scope>,
    sql: Rc<Sql>,
    state: State,
    /// Whether the files are read, or known by their stamps.
    full: bool,
    /// Whether empty tables were filled: then the reference's are as right as ours, and its fields were counted meanwhile.
    filled: bool,
    stage: Stage,
    /// When the directories had changed before they were listed.
    stamps: Stamps,
    /// The notes that this comparison settles.
    notes: Vec<StorePath>,
    /// The runs that were sent although the database did not know them, with their stamps.
    added: Vec<(RunId, String)>,
    report: SyncReport,
    /// The same before the runs were sent.
    before: SyncReport,
    /// Another store does not compare at the same time; held to the end.
    _lock: Option<Box<dyn Lock>>,
}

enum Stage {
    Compare(Box<Compare>),
    Load(Box<Load>),
    /// Telling of each of these runs from here on, as the server refused one of them.
    OneByOne(Vec<RunId>, usize),
    /// Putting the reference's tables right, after this run.
    Reference(String),
    Manifests(Manifests),
    Done,
}

/// Writing the manifests of a directory to the reference's tables.
struct Manifests {
    transaction: Box<dyn Transaction>,
    found: Vec<(ExperimentId, String, StorePath)>,
    at: usize,
}

/// What differs.
#[derive(Default)]
struct Difference {
    /// Runs to be sent, with the stamp of the row that they replace.
    send: Vec<(RunId, Option<String>)>,
    /// Runs that are gone, with the stamp of their row.
    gone: Vec<(String, String)>,
    /// Runs that are no longer among the unreadable ones.
    readable: Vec<String>,
}

struct Compare {
    names: Vec<RunId>,
    at: usize,
    /// What the files are told from in great numbers; none if each is looked at by itself.
    lying: Option<Lying>,
    page: VecDeque<Known>,
    ended: bool,
    difference: Difference,
    // The cursor goes before its transaction.
    cursor: Box<dyn Cursor>,
    _transaction: Box<dyn Transaction>,
}

/// The directory of the records, open, and the runs that had derived metrics when they were listed.
struct Lying {
    records: Option<Rc<dyn Directory>>,
    derived: BTreeSet<RunId>,
}

impl Lying {
    /// Says whether the files of a run are those that the database knows, if it has no derived metrics.
    fn is_like(&self, run: &RunId, known: &Known) -> bool {
        if self.derived.contains(run) {
            return false;
        }
        let stat = || {
            let path = layout::run_record(run);
            self.records.as_ref()?.stat(path.file_name()).ok()
        };
        contents_of(&known.stamp).is_some()
            || stat().is_some_and(|stat| known.stamp == stamp(&stat, None))
    }

    fn find(tree: &Tree) -> Result<Self> {
        let derived = tree.list(&layout::directory(Top::Derived))?;
        let derived = derived.iter();
        Ok(Self {
            records: tree.handle(&layout::directory(Top::Runs))?,
            derived: derived
                .filter_map(|entry| layout::run_id_of_record(&entry.name))
                .collect(),
        })
    }
}

/// What the database knows of a run.
struct Known {
    run: String,
    stamp: String,
    /// Whether it is in the table of runs, not in that of unreadable ones.
    row: bool,
    /// Whether queries read its text.
    inexact: bool,
    record: Option<String>,
    derived: Option<String>,
}

struct Load {
    difference: Difference,
    at: usize,
    unreadable: Vec<(String, String)>,
    /// Filling the empty tables; none: the rows go into a temporary table first.
    fill: Option<Fill>,
    // It goes last: a COPY goes before its transaction.
    transaction: Box<dyn Transaction>,
}

/// Filling empty tables: rows go where they stay, and nobody else writes meanwhile.
///
/// There is one COPY at a time, and while its lines are on their way the next runs are read. So the server and
/// this program work at once.
struct Fill {
    /// Our own table first, then the reference's, as far as they are written.
    targets: Vec<Target>,
    /// The target that is copied into now.
    copy: Option<(usize, Box<dyn CopyWriter>)>,
    lying: Lying,
    counted: Counted,
}

/// A table that is filled.
struct Target {
    copy: String,
    /// Lines that were not sent yet.
    lines: String,
}

impl Sync {
    /// Begins a comparison; `locked` if another store is at it.
    pub(crate) fn begin(scope: &Rc<Scope>, sql: &Rc<Sql>, full: bool) -> Result<Self> {
        let lock = lock_comparison(scope)?;
        let id = scope.directory_id(sql)?;
        let state = State {
            database: sql.id(true)?,
            scope: id.clone(),
            mark: sql.new_id(),
            place: Place::of(scope),
            stamps: None,
            live: true,
        };
        sql.watch(&state)?;
        let notes = set_aside(scope)?;
        let stamps = state::stamps(&scope.tree)?;
        let mut names = scope.recorded_runs()?;
        names.sort_unstable();
        let compare = Compare::begin(sql, &id, full, names);
        let mut compare = sql.heard(compare)?;
        if full && !scope.tree.has_overlay()? {
            compare.lying = Some(Lying::find(&scope.tree)?);
        }
        Ok(Self {
            scope: Rc::clone(scope),
            sql: Rc::clone(sql),
            state,
            full,
            filled: false,
            stage: Stage::Compare(Box::new(compare)),
            stamps,
            notes,
            added: Vec::new(),
            report: SyncReport::default(),
            before: SyncReport::default(),
            _lock: lock,
        })
    }

    /// Says how far it is.
    pub(crate) fn progress(&self) -> SyncProgress {
        let (phase, done, total) = match &self.stage {
            Stage::Compare(compare) => ("compare", compare.at, compare.names.len()),
            Stage::Load(load) => ("send", load.at, load.difference.send.len()),
            Stage::OneByOne(runs, at) => ("send", *at, runs.len()),
            Stage::Reference(_) => ("tables", 0, 1),
            Stage::Manifests(manifests) => ("manifests", manifests.at, manifests.found.len()),
            Stage::Done => ("done", 1, 1),
        };
        SyncProgress {
            phase,
            done: done as u64,
            total: total as u64,
        }
    }

    /// Returns what was found and done so far.
    pub(crate) fn report(&self) -> &SyncReport {
        &self.report
    }

    /// Does the next piece of it, and says whether there is more.
    pub(crate) fn step(&mut self) -> Result<bool> {
        let stage = std::mem::replace(&mut self.stage, Stage::Done);
        self.stage = match stage {
            Stage::Compare(mut compare) => match self.compare(&mut compare)? {
                false => Stage::Compare(compare),
                true => {
                    let difference = std::mem::take(&mut compare.difference);
                    drop(compare);
                    self.after_comparison(difference)?
                }
            },
            Stage::Load(load) => self.load(load)?,
            Stage::OneByOne(runs, at) => self.tell_next(runs, at)?,
            Stage::Reference(after) => {
                let written = self.put_reference_right(&after);
                match self.sql.heard(written)? {
                    Some(last) => Stage::Reference(last),
                    None => self.begin_manifests()?,
                }
            }
            Stage::Manifests(manifests) => self.send_manifests(manifests)?,
            Stage::Done => return Ok(false),
        };
        Ok(!matches!(self.stage, Stage::Done))
    }

    /// Sends the next runs, and changes the rows when all are sent.
    fn load(&mut self, mut load: Box<Load>) -> Result<Stage> {
        if load.at == 0 {
            self.before = self.report.clone();
        }
        let difference = match self.send(&mut load) {
            Ok(false) => return Ok(Stage::Load(load)),
            Ok(true) => {
                let filled = load.fill.is_some();
                let (difference, applied) = self.apply(*load);
                match self.sql.heard(applied) {
                    Ok(()) => {
                        self.filled = filled;
                        self.note_changed()?;
                        return self.settled();
                    }
                    Err(failure) if self.may_go_on(failure.sqlstate.as_deref()) => difference,
                    Err(failure) => return Err(failure.into()),
                }
            }
            Err(Error::Database { sqlstate, .. }) if self.may_go_on(sqlstate.as_deref()) => {
                // The transaction and what is copied in it end here.
                load.difference
            }
            Err(error) => return Err(error),
        };
        self.report = std::mem::take(&mut self.before);
        self.added.clear();
        let send = difference.send.into_iter().map(|(run, _)| run);
        let named = difference
            .gone
            .iter()
            .map(|(run, _)| run)
            .chain(&difference.readable);
        let runs: BTreeSet<RunId> = named
            .filter_map(|run| RunId::parse(run).ok())
            .chain(send)
            .collect();
        Ok(Stage::OneByOne(runs.into_iter().collect(), 0))
    }

    /// Says whether all runs but those that the server refuses can be told: for that their locks are taken.
    fn may_go_on(&self, sqlstate: Option<&str>) -> bool {
        self.scope.tree.is_whole() && is_refusal(sqlstate)
    }

    /// Tells of the next runs, each group in a statement of its own.
    fn tell_next(&mut self, runs: Vec<RunId>, at: usize) -> Result<Stage> {
        let end = (at + GROUP).min(runs.len());
        if at == end {
            self.sql.mark(&self.state, |mark| {
                self.sql.ask(|database| database.execute(mark))
            })?;
            return self.settled();
        }
        let Some(refused) = self.scope.reflect_unlocked(&runs[at..end])? else {
            return Err(Error::Database {
                sqlstate: None,
                retryable: true,
                message: format!("the database: {}", self.sql.trouble().unwrap_or_default()),
            });
        };
        for run in &runs[at..end] {
            let there = self.scope.tree.is_file(&layout::run_record(run))?;
            self.report.runs += u64::from(there);
            self.report.changed += u64::from(there);
            self.report.removed += u64::from(!there);
        }
        for (run, why) in refused {
            if let Ok(run) = RunId::parse(&run) {
                self.report.damaged.push(Damage {
                    file: self.scope.tree.path(&layout::run_record(&run)),
                    offset: None,
                    reason: format!(
                        "the database refuses its row, so that queries read its text: {why}"
                    ),
                });
            }
        }
        Ok(Stage::OneByOne(runs, end))
    }

    fn compare(&mut self, compare: &mut Compare) -> Result<bool> {
        if compare.at == 0 && self.sql.heard(compare.peek())?.is_none() {
            // The database knows none of them: there is nothing to compare.
            let names = std::mem::take(&mut compare.names);
            compare.difference.send = names.into_iter().map(|run| (run, None)).collect();
            return Ok(true);
        }
        let end = (compare.at + COMPARED).min(compare.names.len());
        let mut files = self.read_ahead(compare, end);
        while compare.at < end {
            let run = compare.names[compare.at].clone();
            let file = files.as_mut().map(|files| files.next());
            compare.at += 1;
            // What comes before it in the database was in no file when the names were listed.
            let mut known = loop {
                let next = self.sql.heard(compare.peek())?;
                match next {
                    Some(next) if next.run.as_str() < run.as_str() => {
                        let known = compare.page.pop_front();
                        self.judge_unlisted(known, &mut compare.difference)?;
                    }
                    Some(next) if next.run == run.as_str() => break compare.page.pop_front(),
                    _ => break None,
                }
            };
            if known.as_ref().is_some_and(|known| !known.row)
                && let Some(next) = self.sql.heard(compare.peek())?
                && next.run == run.as_str()
            {
                // It could not be read once, and was put since then.
                let unreadable = known.map(|known| known.run);
                compare.difference.readable.extend(unreadable);
                known = compare.page.pop_front();
            }
            if let (Some(Ok((_, content))), Some(known), Some(lying)) =
                (file, &known, &compare.lying)
                && known.says(content)
                && lying.is_like(&run, known)
            {
                self.report.runs += 1;
                continue;
            }
            self.judge(&run, known, &mut compare.difference)?;
        }
        if compare.at < compare.names.len() {
            return Ok(false);
        }
        // The rest of what the database knows.
        for _ in 0..COMPARED {
            if self.sql.heard(compare.peek())?.is_none() {
                return Ok(true);
            }
            let known = compare.page.pop_front();
            self.judge_unlisted(known, &mut compare.difference)?;
        }
        Ok(false)
    }

    /// Begins to read the files of the next runs; none if each is to be looked at by itself.
    fn read_ahead(&self, compare: &Compare, end: usize) -> Option<Box<dyn Reading>> {
        let lying = compare.lying.as_ref()?;
        let paths = compare.names[compare.at..end].iter();
        let paths: Vec<StorePath> = paths.map(layout::run_record).collect();
        let names: Vec<&str> = paths.iter().map(StorePath::file_name).collect();
        lying.records.as_ref()?.read(&names)
    }

    /// Judges a run that the database knows and that had no file when the names were listed: it may have been put since.
    fn judge_unlisted(&mut self, known: Option<Known>, difference: &mut Difference) -> Result<()> {
        let Some(known) = known else {
            return Ok(());
        };
        match RunId::parse(&known.run) {
            Ok(run) => self.judge(&run, Some(known), difference),
            // No file has such a name.
            Err(_) => {
                difference.gone.push((known.run, known.stamp));
                Ok(())
            }
        }
    }

    /// Compares a run with what the database knows of it.
    fn judge(
        &mut self,
        run: &RunId,
        known: Option<Known>,
        difference: &mut Difference,
    ) -> Result<()> {
        let tree = &self.scope.tree;
        let Some(record) = tree.stat(&layout::run_record(run))? else {
            // It went since the directory was listed.
            if let Some(known) = known {
                difference.gone.push((known.run, known.stamp));
            }
            return Ok(());
        };
        let derived = tree.stat(&layout::derived(run))?;
        let stamp = stamp(&record, derived.as_ref());
        let Some(known) = known else {
            difference.send.push((run.clone(), None));
            return Ok(());
        };
        if !known.row {
            // What could not be read is looked at again, whatever its stamp.
            difference.readable.push(known.run);
            difference.send.push((run.clone(), None));
            return Ok(());
        }
        // A row that was told before the files were written is known by what they hold.
        let by_content = contents_of(&known.stamp).is_some();
        if (by_content || known.stamp == stamp)
            && (!(self.full || by_content) || self.says_the_same(run, &known)?)
        {
            self.report.runs += 1;
            if self.full && known.inexact {
                let looking = Looking::by_paths(&self.state.scope, self.sql.options.projection);
                if let Seen::Run(told) = self.scope.see(&looking, run, |_| {})? {
                    self.report_too_long(&told);
                    if !told.row.is_inexact() {
                        // The server refused more than its texts then.
                        self.report.runs -= 1;
                        difference.send.push((run.clone(), Some(known.stamp)));
                    }
                }
            }
            return Ok(());
        }
        difference.send.push((run.clone(), Some(known.stamp)));
        Ok(())
    }

    /// Reports a run that has something that no index takes.
    fn report_too_long(&mut self, told: &Told) {
        if let Some(what) = told.row.too_long()
            && let Ok(run) = RunId::parse(&told.row.run_id)
        {
            self.report.damaged.push(Damage {
                file: self.scope.tree.path(&layout::run_record(&run)),
                offset: None,
                reason: format!(
                    "its `{what}` has more than {} bytes, which no index takes: queries read its text",
                    runs::MAX_INDEXED
                ),
            });
        }
    }

    /// Says whether the texts that the database holds are those of the files.
    fn says_the_same(&self, run: &RunId, known: &Known) -> Result<bool> {
        let record = match self.scope.record_content(run) {
            Ok(record) => record,
            Err(Error::Corrupt { .. } | Error::TooLarge(_)) => return Ok(false),
            Err(error) => return Err(error),
        };
        if record.as_deref().map(revision) != known.record {
            return Ok(false);
        }
        let Ok(derived) = self.scope.derived_content(run) else {
            return Ok(false);
        };
        let derived = derived.map(|derived| hex(&Sha256::digest(&derived)[..8]));
        Ok(derived == known.derived)
    }

    fn after_comparison(&mut self, difference: Difference) -> Result<Stage> {
        if difference.send.is_empty()
            && difference.gone.is_empty()
            && difference.readable.is_empty()
        {
            self.sql.mark(&self.state, |mark| {
                self.sql.ask(|database| database.execute(mark))
            })?;
            return self.settled();
        }
        Ok(Stage::Load(Box::new(self.begin_load(difference)?)))
    }

    fn begin_load(&self, difference: Difference) -> Result<Load> {
        let fresh = difference
            .send
            .iter()
            .all(|(_, expected)| expected.is_none());
        if fresh && difference.send.len() >= MANY {
            let transaction = self.sql.heard(self.begin_fill())?;
            if let Some(transaction) = transaction {
                return Ok(Load {
                    difference,
                    at: 0,
                    unreadable: Vec::new(),
                    fill: Some(Fill {
                        targets: self.targets(),
                        copy: None,
                        lying: Lying::find(&self.scope.tree)?,
                        counted: Counted::default(),
                    }),
                    transaction,
                });
            }
        }
        let transaction = self.sql.heard(self.begin_difference())?;
        Ok(Load {
            difference,
            at: 0,
            unreadable: Vec::new(),
            fill: None,
            transaction,
        })
    }

    /// Begins a transaction that fills the tables; none if they are not empty. Whoever else wants them waits.
    fn begin_fill(&self) -> DatabaseResult<Option<Box<dyn Transaction>>> {
        let schema = &self.sql.schema;
        let database = self.sql.database()?;
        let mut tables = vec![schema.name(runs::TABLE)];
        if self.sql.options.projection {
            tables.extend([schema.name("runs"), schema.name("derived")]);
        }
        // Nobody is kept waiting for nothing; but somebody may be faster than the lock. A transaction that had looked
        // would hold its table already: two of them could only wait for each other.
        for table in &tables {
            if !is_empty(&**database, table)? {
                return Ok(None);
            }
        }
        let transaction = database.begin(Isolation::ReadCommitted, false)?;
        for (index, table) in tables.iter().enumerate() {
            // Writers may have locked the reference's tables before ours: they wait for us, and are not waited for.
            let wait = if index == 0 { "" } else { " NOWAIT" };
            let lock = format!("LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE{wait}");
            match run(&*transaction, &lock) {
                Err(failure) if failure.sqlstate.as_deref() == Some(LOCKED) => return Ok(None),
                locked => locked?,
            };
            if !is_empty_now(&*transaction, table)? {
                return Ok(None);
            }
        }
        for sql in runs::drop_indexes(schema) {
            run(&*transaction, &sql)?;
        }
        if self.sql.options.projection {
            for sql in projection::drop_indexes(schema) {
                run(&*transaction, &sql)?;
            }
        }
        Ok(Some(transaction))
    }

    /// Returns the tables that are filled.
    fn targets(&self) -> Vec<Target> {
        let schema = &self.sql.schema;
        let mut copies = vec![runs::copy_into(&schema.name(runs::TABLE))];
        if self.sql.options.projection {
            copies.extend(projection::copy_into(schema));
        }
        let target = |copy| Target {
            copy,
            lines: String::new(),
        };
        copies.into_iter().map(target).collect()
    }

    /// Begins a transaction that changes what differs, with a table for the new rows.
    fn begin_difference(&self) -> DatabaseResult<Box<dyn Transaction>> {
        let transaction = self
            .sql
            .database()?
            .begin(Isolation::ReadCommitted, false)?;
        let columns: Vec<String> = projection::COLUMNS
            .iter()
            .map(|column| format!("p_{column} text"))
            .collect();
        run(
            &*transaction,
            &format!(
                "CREATE TEMPORARY TABLE {LOAD} (LIKE {} INCLUDING DEFAULTS) ON COMMIT DROP",
                self.sql.schema.name(runs::TABLE)
            ),
        )?;
        run(
            &*transaction,
            &format!(
                "ALTER TABLE {LOAD} ADD COLUMN expected text, ADD COLUMN {}",
                columns.join(", ADD COLUMN ")
            ),
        )?;
        Ok(transaction)
    }

    /// Sends the next runs, and says whether that were all.
    fn send(&mut self, load: &mut Load) -> Result<bool> {
        let end = (load.at + SENT).min(load.difference.send.len());
        let mut lines = String::new();
        let copy = match load.fill {
            Some(_) => None,
            None => {
                let columns: Vec<String> = projection::COLUMNS
                    .iter()
                    .map(|column| format!("p_{column}"))
                    .collect();
                let copy = format!(
                    "COPY {LOAD} ({}, expected, {}) FROM STDIN",
                    runs::COLUMNS.join(", "),
                    columns.join(", ")
                );
                Some(self.sql.heard(load.transaction.copy_in(&copy))?)
            }
        };
        while load.at < end {
            let seen = self.see_next(load)?;
            if let Seen::Run(told) = &seen {
                self.report_too_long(told);
            }
            let (_, expected) = &load.difference.send[load.at];
            load.at += 1;
            match (seen, &mut load.fill) {
                (Seen::Run(told), Some(fill)) => {
                    self.report.runs += 1;
                    self.report.added += 1;
                    fill.take(&told);
                }
                (Seen::Run(told), None) => {
                    self.report.runs += 1;
                    match expected {
                        Some(_) => self.report.changed += 1,
                        None => {
                            self.report.added += 1;
                            let (run, _) = &load.difference.send[load.at - 1];
                            self.added.push((run.clone(), told.row.stamp.clone()));
                        }
                    }
                    line(&told, expected.as_deref(), &mut lines);
                }
                (seen, _) => self.leave_out(load, seen)?,
            }
            if let Some(copy) = &copy
                && lines.len() >= CHUNK
            {
                self.sql.heard(send_lines(&**copy, &mut lines))?;
            }
            if let Some(fill) = &mut load.fill
                && load.at.is_multiple_of(PACE)
            {
                self.sql.heard(fill.go_on(&*load.transaction))?;
            }
        }
        if let Some(copy) = copy {
            self.sql.heard(send_lines(&*copy, &mut lines))?;
            self.sql.heard(copy.finish())?;
        }
        if load.at < load.difference.send.len() {
            return Ok(false);
        }
        if let Some(fill) = &mut load.fill {
            self.sql.heard(fill.finish(&*load.transaction))?;
        }
        Ok(true)
    }

    /// Reads the files of the next run.
    fn see_next(&self, load: &mut Load) -> Result<Seen> {
        let (run, _) = &load.difference.send[load.at];
        let mut looking = Looking::by_paths(&self.state.scope, self.sql.options.projection);
        match &mut load.fill {
            None => self.scope.see(&looking, run, |_| {}),
            Some(fill) => {
                looking.records = fill.lying.records.as_deref();
                looking.derived = Some(&fill.lying.derived);
                let counted = &mut fill.counted;
                self.scope.see(&looking, run, |record| counted.add(record))
            }
        }
    }

    /// Notes a run that has no record that can be read.
    fn leave_out(&mut self, load: &mut Load, seen: Seen) -> Result<()> {
        let run = match seen {
            Seen::Run(_) => return Ok(()),
            Seen::Gone(run) => run,
            Seen::Unreadable(run, stamp) => {
                let why = self.scope.record_content(&run).and_then(|content| {
                    content.map_or(Ok(()), |content| {
                        self.scope.load_record(&run, &content).map(drop)
                    })
                });
                if let Err(error) = why {
                    self.report.damaged.push(damage(error)?);
                }
                load.unreadable.push((run.as_str().to_owned(), stamp));
                run
            }
        };
        let (_, expected) = &load.difference.send[load.at - 1];
        if let Some(expected) = expected {
            let gone = (run.as_str().to_owned(), expected.clone());
            load.difference.gone.push(gone);
        }
        Ok(())
    }

    /// Changes what differs, in the transaction that the rows were sent in.
    fn apply(&mut self, load: Load) -> (Difference, DatabaseResult<()>) {
        let applied = self.change(&load);
        let applied = applied.and_then(|()| load.transaction.commit());
        (load.difference, applied)
    }

    fn change(&mut self, load: &Load) -> DatabaseResult<()> {
        let schema = &self.sql.schema;
        let transaction = &*load.transaction;
        let id = SqlValue::Text(self.state.scope.clone());
        if load.fill.is_none() {
            lock_writers_out(transaction, schema)?;
            self.change_rows(transaction)?;
        }
        self.report.removed += self.delete(transaction, &load.difference.gone)?;
        let unreadable = schema.name("metalab_store_unreadable");
        if !load.difference.readable.is_empty() {
            let sql =
                format!("DELETE FROM {unreadable} WHERE scope = $1 AND run_id = ANY($2::text[])");
            let readable = texts(load.difference.readable.iter().map(String::as_str));
            transaction.execute(&statement(sql, vec![id.clone(), readable]))?;
        }
        if !load.unreadable.is_empty() {
            let sql = format!(
                "INSERT INTO {unreadable} AS kept (scope, run_id, stamp) SELECT $1, run_id, stamp \
                 FROM unnest($2::text[], $3::text[]) AS new (run_id, stamp) \
                 ON CONFLICT (scope, run_id) DO UPDATE SET stamp = EXCLUDED.stamp"
            );
            let names = texts(load.unreadable.iter().map(|(run, _)| run.as_str()));
            let stamps = texts(load.unreadable.iter().map(|(_, stamp)| stamp.as_str()));
            transaction.execute(&statement(sql, vec![id, names, stamps]))?;
        }
        if let Some(fill) = &load.fill {
            for sql in runs::indexes(schema) {
                run(transaction, &sql)?;
            }
            if self.sql.options.projection {
                for sql in projection::create_indexes(transaction, schema)? {
                    run(transaction, &sql)?;
                }
                for counted in fill.counted.statements(schema).into_iter().flatten() {
                    transaction.execute(&counted)?;
                }
            }
        }
        if load.fill.is_some() {
            run(transaction, &runs::analyze_columns(schema))?;
        } else if self.report.added + self.report.changed >= MANY as u64 {
            run(transaction, &runs::analyze(schema))?;
        }
        self.sql
            .mark(&self.state, |mark| transaction.execute(mark))
            .map(drop)
    }

    /// Notes the runs that a writer changed after they were read and before the database had them: it was told first, and
    /// knew nothing yet that it could change.
    ///
    /// That writer may be this store itself, or one that is closed again, and its change as young as what was listed: so all
    /// of them are looked at.
    fn note_changed(&mut self) -> Result<()> {
        let added = std::mem::take(&mut self.added);
        let tree = &self.scope.tree;
        let mut changed = Vec::new();
        for (run, told) in added {
            let derived = tree.stat(&layout::derived(&run))?;
            let now = tree.stat(&layout::run_record(&run))?;
            if now.is_none_or(|record| stamp(&record, derived.as_ref()) != told) {
                changed.push(run);
            }
        }
        if !changed.is_empty() {
            self.scope.note_pending(&self.sql, changed.iter());
        }
        Ok(())
    }

    /// Changes and adds the rows that were sent.
    fn change_rows(&self, transaction: &dyn Transaction) -> DatabaseResult<()> {
        let schema = &self.sql.schema;
        let own = schema.name(runs::TABLE);
        let columns = runs::COLUMNS.join(", ");
        if self.report.changed > 0 {
            let changed: Vec<String> = runs::COLUMNS
                .iter()
                .skip(2)
                .map(|column| format!("{column} = new.{column}"))
                .collect();
            run(
                transaction,
                &format!(
                    "UPDATE {own} AS old SET {} FROM {LOAD} AS new WHERE old.scope = new.scope AND old.run_id = new.run_id \
                     AND old.stamp = new.expected",
                    changed.join(", ")
                ),
            )?;
        }
        run(
            transaction,
            &format!(
                "INSERT INTO {own} ({columns}) SELECT {columns} FROM {LOAD} WHERE expected IS NULL ORDER BY run_id \
                 ON CONFLICT (scope, run_id) DO NOTHING"
            ),
        )?;
        if self.sql.options.projection {
            let columns: Vec<String> = projection::COLUMNS
                .iter()
                .map(|column| match *column {
                    "record_json" => "coalesce(p_record_json, record) AS record_json".to_owned(),
                    column => format!("p_{column} AS {column}"),
                })
                .collect();
            // A run of which a writer told something newer is there already.
            let sent = format!(
                "FROM {LOAD} AS sent WHERE p_run_id IS NOT NULL AND EXISTS (SELECT 1 FROM {own} AS own \
                 WHERE own.scope = sent.scope AND own.run_id = sent.run_id AND own.stamp = sent.stamp)"
            );
            let source = format!("(SELECT {} {sent})", columns.join(", "));
            for sql in projection::write(schema, &source) {
                run(transaction, &sql)?;
            }
            if self.report.changed > 0 {
                let without = format!(
                    "(SELECT p_run_id AS run_id, p_experiment_id AS experiment_id {sent} AND p_derived_json IS NULL)"
                );
                let [_, derived] = projection::delete(schema, &without);
                run(transaction, &derived)?;
            }
        }
        Ok(())
    }

    fn delete(
        &self,
        transaction: &dyn Transaction,
        gone: &[(String, String)],
    ) -> DatabaseResult<u64> {
        let schema = &self.sql.schema;
        let mut removed = 0;
        for gone in gone.chunks(DELETED) {
            let mut sql = format!(
                "WITH gone AS (DELETE FROM {} AS old USING unnest($2::text[], $3::text[]) AS named (run_id, stamp) \
                 WHERE old.scope = $1 AND old.run_id = named.run_id AND old.stamp = named.stamp RETURNING old.run_id, old.experiment_id), \
                 forgotten AS (DELETE FROM {} AS old USING unnest($2::text[], $3::text[]) AS named (run_id, stamp) \
                 WHERE old.scope = $1 AND old.run_id = named.run_id AND old.stamp = named.stamp)",
                schema.name(runs::TABLE),
                schema.name("metalab_store_unreadable")
            );
            if self.sql.options.projection {
                let [runs, derived] = projection::delete(schema, "gone");
                sql.push_str(&format!(
                    ", projected AS ({runs}), projected_derived AS ({derived})"
                ));
            }
            sql.push_str(" SELECT count(*) FROM gone");
            let parameters = vec![
                SqlValue::Text(self.state.scope.clone()),
                texts(gone.iter().map(|(run, _)| run.as_str())),
                texts(gone.iter().map(|(_, stamp)| stamp.as_str())),
            ];
            let counted = transaction.query(&statement(sql, parameters), 1)?;
            if let Some(SqlValue::Integer(count)) = counted.rows.first().and_then(|row| row.first())
            {
                removed += u64::try_from(*count).unwrap_or_default();
            }
        }
        Ok(removed)
    }

    /// Notes what the database and the directory agree on now.
    fn settled(&mut self) -> Result<Stage> {
        if !self.scope.tree.is_file(&layout::database_state())? {
            // Somebody wrote meanwhile who does not tell the database: what was found of the files is no longer all.
            return Ok(Stage::Done);
        }
        let now = state::stamps(&self.scope.tree)?;
        // Without a change meanwhile, the next who opens the store need not compare. Whoever changes
        // something from now on gives the directories other times, if these are old enough.
        if now == self.stamps {
            self.state.stamps = match self.scope.options.access {
                // A directory that is only looked at keeps its times.
                Access::ReadOnly => Some(now),
                Access::ReadWrite => state::settled_stamps(&self.scope)?,
            };
        }
        let content = self.state.write(&self.scope)?;
        for note in self.notes.drain(..) {
            self.scope.tree.remove(&note)?;
        }
        let place = place_in_grant(&self.scope);
        self.sql.agree(&place, content, self.state.stamps);
        self.sql.live.borrow_mut().insert(place);
        self.sql.told.set(true);
        if self.full && self.sql.options.projection {
            return match self.filled {
                true => self.begin_manifests(),
                false => Ok(Stage::Reference(String::new())),
            };
        }
        Ok(Stage::Done)
    }

    /// Writes the next runs that the reference's tables lack, after a run, and returns the last of them; none at the end.
    /// What they have too much is deleted first.
    ///
    /// No writer is at work meanwhile: what is written there is what our own table says.
    fn put_reference_right(&self, after: &str) -> DatabaseResult<Option<String>> {
        let schema = &self.sql.schema;
        let scope = &self.state.scope;
        let begin = || -> DatabaseResult<Box<dyn Transaction>> {
            let transaction = self
                .sql
                .database()?
                .begin(Isolation::ReadCommitted, false)?;
            lock_writers_out(&*transaction, schema)?;
            Ok(transaction)
        };
        if after.is_empty() {
            let transaction = begin()?;
            let experiment = self.scope.experiment.as_ref();
            let experiment = experiment.map_or("", |experiment| experiment.as_str());
            for delete in projection::delete_strays(schema, scope, experiment) {
                transaction.execute(&delete)?;
            }
            transaction.commit()?;
        }
        let transaction = begin()?;
        let missing = projection::missing(schema, scope, after);
        let cursor = transaction.open_cursor(&missing)?;
        let RowSet { rows, .. } = cursor.next(REFERENCE, PAGE_BYTES)?;
        drop(cursor);
        let mut given = Vec::with_capacity(rows.len());
        for row in &rows {
            let (Some(run), Some(record)) = (text(row, 0), text(row, 1)) else {
                continue;
            };
            let derived = text(row, 2).and_then(object);
            let projected = object(record).and_then(|parsed| {
                Projected::new(run, &RecordRow::new(&parsed, derived.as_ref()), record)
            });
            // Derived metrics that cannot be read are in no table.
            let is_there = matches!(row.get(3), Some(SqlValue::Boolean(true)));
            let projected = projected.filter(|row| !is_there || row.has_derived());
            given.extend(projected.map(|projected| (projected, record)));
        }
        let written = match given.is_empty() {
            true => Ok(0),
            false => transaction.execute(&projection::write_given(schema, &given)),
        };
        match written {
            Err(failure) if is_refusal(failure.sqlstate.as_deref()) => {
                drop(transaction);
                for one in given.chunks(1) {
                    let transaction = begin()?;
                    match transaction.execute(&projection::write_given(schema, one)) {
                        // It is in our own table alone.
                        Err(failure) if is_refusal(failure.sqlstate.as_deref()) => {}
                        written => {
                            written?;
                            transaction.commit()?;
                        }
                    }
                }
            }
            written => {
                written?;
                transaction.commit()?;
            }
        }
        let last = rows.last().and_then(|row| text(row, 0));
        Ok(last.map(str::to_owned))
    }

    /// Begins to compare the manifests: within one transaction, so that readers see those of before or all of now.
    fn begin_manifests(&self) -> Result<Stage> {
        let lock = projection::lock_manifests(&self.sql.schema);
        let transaction = self.sql.ask(|database| {
            let transaction = database.begin(Isolation::ReadCommitted, false)?;
            transaction.execute(&lock)?;
            Ok(transaction)
        })?;
        // Listed after it began: what is not among them and was in the tables before it is gone.
        let found = self.scope.all_manifests()?;
        Ok(Stage::Manifests(Manifests {
            transaction,
            found,
            at: 0,
        }))
    }

    /// Sends the next manifests to the reference's tables; after the last ones the fields are counted anew.
    fn send_manifests(&mut self, mut manifests: Manifests) -> Result<Stage> {
        let Manifests { found, at, .. } = &manifests;
        let schema = &self.sql.schema;
        let scope = &self.state.scope;
        let end = (at + MANIFESTS).min(found.len());
        let now = i64::try_from(self.scope.ports.clock.now() / 1_000).unwrap_or(i64::MAX);
        let mut statements = Vec::new();
        for (experiment, stamp, path) in &found[*at..end] {
            let Some(content) = self.scope.tree.read(path, codec::MAX_DOCUMENT)? else {
                continue;
            };
            let file = self.scope.tree.path(path);
            match codec::parse_object(&file, &content) {
                Ok(body) => {
                    let experiment = experiment.as_str();
                    statements.push(projection::manifest(
                        schema, scope, experiment, stamp, &body, now,
                    ));
                }
                Err(error) => self.report.damaged.push(damage(error)?),
            }
        }
        if end == found.len() {
            let found = found.iter();
            let found = found.map(|(experiment, stamp, _)| (experiment.as_str(), stamp.as_str()));
            statements.push(projection::delete_manifests(schema, scope, found));
        }
        if !statements.is_empty() {
            let changed = manifests.transaction.batch(&statements);
            self.report.manifests += self.sql.heard(changed)?.iter().sum::<u64>();
        }
        manifests.at = end;
        if end < manifests.found.len() {
            return Ok(Stage::Manifests(manifests));
        }
        let committed = manifests.transaction.commit();
        self.sql.heard(committed)?;
        if !self.filled {
            self.sql.count_fields()?;
        }
        Ok(Stage::Done)
    }
}

impl Fill {
    /// Takes the lines of a run.
    fn take(&mut self, told: &Told) {
        let mut targets = self.targets.iter_mut().map(|target| &mut target.lines);
        if let Some(own) = targets.next() {
            runs::copy_line(&told.row, own);
        }
        if let (Some(projected), Some(runs), Some(derived)) =
            (&told.projected, targets.next(), targets.next())
        {
            projected.copy_lines(told.row.record_text(), runs, derived);
        }
    }

    /// Sends a piece, and lets another table have its turn where one waits.
    fn go_on(&mut self, transaction: &dyn Transaction) -> DatabaseResult<()> {
        let current = match &self.copy {
            None => None,
            Some((current, copy)) => {
                let lines = &mut self.targets[*current].lines;
                send_piece(&**copy, lines)?;
                if !lines.is_empty() {
                    return Ok(());
                }
                Some(*current)
            }
        };
        let waits =
            |target: &usize| Some(*target) != current && self.targets[*target].lines.len() >= TURN;
        match (0..self.targets.len()).find(waits) {
            None => Ok(()),
            Some(waiting) => self.turn(transaction, waiting),
        }
    }

    /// Ends what is copied now, and begins with another table.
    fn turn(&mut self, transaction: &dyn Transaction, target: usize) -> DatabaseResult<()> {
        if let Some((_, copy)) = self.copy.take() {
            copy.finish()?;
        }
        self.copy = Some((target, transaction.copy_in(&self.targets[target].copy)?));
        Ok(())
    }

    /// Sends all that is left.
    fn finish(&mut self, transaction: &dyn Transaction) -> DatabaseResult<()> {
        let current = self.copy.as_ref().map(|(current, _)| *current);
        let others = (0..self.targets.len()).filter(|target| Some(*target) != current);
        let order: Vec<usize> = current.into_iter().chain(others).collect();
        for target in order {
            if self.targets[target].lines.is_empty() {
                continue;
            }
            if self
                .copy
                .as_ref()
                .is_none_or(|(current, _)| *current != target)
            {
                self.turn(transaction, target)?;
            }
            if let Some((_, copy)) = &self.copy {
                send_lines(&**copy, &mut self.targets[target].lines)?;
            }
        }
        match self.copy.take() {
            None => Ok(()),
            Some((_, copy)) => copy.finish().map(drop),
        }
    }
}

impl Compare {
    fn begin(sql: &Sql, id: &str, full: bool, names: Vec<RunId>) -> DatabaseResult<Self> {
        let transaction = sql.database()?.begin(Isolation::RepeatableRead, true)?;
        let digest = |column: &str| match full {
            true => format!("substr(encode(sha256(convert_to({column}, 'UTF8')), 'hex'), 1, 16)"),
            false => "NULL".to_owned(),
        };
        let text = format!(
            "SELECT run_id, stamp, true, {}, {}, inexact FROM {} WHERE scope = $1 \
             UNION ALL SELECT run_id, stamp, false, NULL, NULL, false FROM {} WHERE scope = $1 ORDER BY 1, 3",
            digest("record"),
            digest("derived"),
            sql.schema.name(runs::TABLE),
            sql.schema.name("metalab_store_unreadable")
        );
        let id = SqlValue::Text(id.to_owned());
        let cursor = transaction.open_cursor(&statement(text, vec![id]))?;
        Ok(Self {
            names,
            at: 0,
            lying: None,
            page: VecDeque::new(),
            ended: false,
            difference: Difference::default(),
            cursor,
            _transaction: transaction,
        })
    }

    /// Returns the next run that the database knows.
    fn peek(&mut self) -> DatabaseResult<Option<&Known>> {
        if self.page.is_empty() && !self.ended {
            let RowSet { rows, .. } = self.cursor.next(PAGE_ROWS, PAGE_BYTES)?;
            self.ended = rows.is_empty();
            self.page = rows.iter().filter_map(|row| known(row)).collect();
        }
        Ok(self.page.front())
    }
}

impl Known {
    /// Says whether this is a run without derived metrics and with this record, of which no more is to be looked at.
    fn says(&self, record: &str) -> bool {
        self.row
            && !self.inexact
            && self.derived.is_none()
            && self.record.as_ref() == Some(&revision(record.as_bytes()))
    }
}

fn known(row: &[SqlValue]) -> Option<Known> {
    let stamp = text(row, 1)?;
    let digests = match (text(row, 3), contents_of(stamp)) {
        // What the texts were when they were told; they were not asked for now.
        (None, Some((record, derived))) => (Some(record), derived),
        (record, _) => (record, text(row, 4)),
    };
    Some(Known {
        run: text(row, 0)?.to_owned(),
        stamp: stamp.to_owned(),
        row: matches!(row.get(2), Some(SqlValue::Boolean(true))),
        inexact: matches!(row.get(5), Some(SqlValue::Boolean(true))),
        record: digests.0.map(str::to_owned),
        derived: digests.1.map(str::to_owned),
    })
}

/// Keeps other stores from comparing a directory; none if that is not possible. Fails with `locked` if one is at it.
pub(super) fn lock_comparison(scope: &Scope) -> Result<Option<Box<dyn Lock>>> {
    if !scope.tree.is_whole() {
        return Ok(None);
    }
    scope
        .tree
        .ensure_directory(&layout::directory(Top::Index))?;
    let target = LockTarget::Segment(LOCK);
    match scope.ports.roots.acquire(target, LockMode::Exclusive, 0) {
        Ok(lock) => Ok(Some(lock)),
        Err(LockError::TimedOut) => Err(Error::Locked(format!(
            "{} is being compared with the database by another program; try again when it is done",
            scope.outside
        ))),
        // Two comparisons at a time do no harm; they are only work done twice.
        Err(_) => Ok(None),
    }
}

/// Keeps writers waiting to the end of a transaction, and waits for those that are at work; readers go on.
///
/// A put locks its row in the reference's table first and the one in ours last; many rows are changed in another order. But
/// from its beginning to its commit a put holds our table for writing, which this waits for before it has any row. So nobody
/// waits in a circle.
pub(super) fn lock_writers_out(
    transaction: &dyn Transaction,
    schema: &Schema,
) -> DatabaseResult<()> {
    let own = schema.name(runs::TABLE);
    let lock = format!("LOCK TABLE {own} IN SHARE ROW EXCLUSIVE MODE");
    run(transaction, &lock).map(drop)
}

fn object(text: &str) -> Option<Object<'_>> {
    codec::parse_object("", text.as_bytes()).ok()
}

fn is_empty(database: &dyn Database, table: &str) -> DatabaseResult<bool> {
    let sql = format!("SELECT NOT EXISTS (SELECT 1 FROM {table})");
    Ok(is_true(&database.query(&statement(sql, Vec::new()), 1)?))
}

fn is_empty_now(transaction: &dyn Transaction, table: &str) -> DatabaseResult<bool> {
    let sql = format!("SELECT NOT EXISTS (SELECT 1 FROM {table})");
    Ok(is_true(&transaction.query(&statement(sql, Vec::new()), 1)?))
}

/// Appends the line of a run.
fn line(told: &Told, expected: Option<&str>, lines: &mut String) {
    runs::copy_line(&told.row, lines);
    lines.pop();
    lines.push('\t');
    runs::push_value(expected, lines);
    match &told.projected {
        None => lines.push_str(&"\t\\N".repeat(projection::COLUMNS.len())),
        Some(projected) => {
            for value in projected.own_values() {
                lines.push('\t');
                runs::push_value(value, lines);
            }
        }
    }
    lines.push('\n');
}

/// Sends all lines.
fn send_lines(copy: &dyn CopyWriter, lines: &mut String) -> DatabaseResult<()> {
    while !lines.is_empty() {
        send_piece(copy, lines)?;
    }
    Ok(())
}

/// Sends the first lines, as many bytes as are sent at once.
fn send_piece(copy: &dyn CopyWriter, lines: &mut String) -> DatabaseResult<()> {
    let mut end = lines.len().min(CHUNK);
    while !lines.is_char_boundary(end) {
        end -= 1;
    }
    copy.write(&lines[..end])?;
    lines.drain(..end);
    Ok(())
}
