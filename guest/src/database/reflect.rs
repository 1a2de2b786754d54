//! Telling the database what the files say of a run.
//!
//! The run's lock is held meanwhile, so that of two writers the one that wrote the files last tells the
//! database last. What is told is read from the files, not passed along: so a note that is replayed, a
//! derived put and a record put are all the same, and none can tell half of it.
//!
//! A put knows what its files are about to say. So it is told while they are written and synced: the server works
//! on it meanwhile, in a transaction that is committed when the files are durable, and rolled back if they are not.
//! Then a row is known by what the files hold ([`content_stamp`]): what they are like is not known yet.

use super::Sql;
use super::ready::place_in_grant;
use super::state::{self, Place, State};
use crate::codec;
use crate::commit::{Call, Change, Held};
use crate::error::Result;
use crate::json::Object;
use crate::layout;
use crate::names::{ExperimentId, RunId};
use crate::ports::{DatabaseResult, Directory, SqlValue, Stat, Statement, Transaction};
use crate::query::RecordRow;
use crate::scope::{Scope, revision};
use crate::sql::directories::{self, statement, texts};
use crate::sql::projection::{self, Projected};
use crate::sql::runs::{self, Fragment, Row};
use std::borrow::Cow;
use std::collections::BTreeSet;

/// The most runs that are told in one statement.
pub(crate) const GROUP: usize = runs::MAX_ROWS;

/// What the files say of a run.
pub(crate) enum Seen {
    /// It has a record.
    Run(Box<Told>),
    /// It has a file in the place of its record that is none, known by this stamp.
    Unreadable(RunId, String),
    /// It has no record.
    Gone(RunId),
}

/// A run as the database is told of it.
pub(crate) struct Told {
    pub(crate) row: Row,
    /// What the reference's tables hold of it, if they are written.
    pub(crate) projected: Option<Projected>,
}

/// Returns what tells one content of a run's two files from another, without reading them.
pub(crate) fn stamp(record: &Stat, derived: Option<&Stat>) -> String {
    let one = |stat: &Stat| format!("{}.{}.{}", stat.size, stat.modified, stat.changed);
    match derived {
        None => one(record),
        Some(derived) => format!("{} {}", one(record), one(derived)),
    }
}

/// Returns the stamp of a run whose files are not written yet: the digests of what they are about to hold, and a
/// number that no other row ever has. Whoever changes a row names its stamp, and must not take it for an earlier one
/// that told the same.
fn content_stamp(record: &str, derived: Option<&str>, number: u64) -> String {
    format!("={record} {} {number:016x}", derived.unwrap_or("-"))
}

/// Returns the digests of the record and of the derived metrics in such a stamp; none if it is another one.
pub(crate) fn contents_of(stamp: &str) -> Option<(&str, Option<&str>)> {
    let mut parts = stamp.strip_prefix('=')?.split(' ');
    let record = parts.next()?;
    let derived = parts.next()?;
    Some((record, Some(derived).filter(|derived| *derived != "-")))
}

/// How the files of runs are looked at.
pub(crate) struct Looking<'l> {
    /// The directory, as the database knows it.
    pub(crate) id: &'l str,
    /// Whether the reference's tables are written.
    pub(crate) projection: bool,
    /// The directory of the records, open: a name in it is found faster than a path.
    pub(crate) records: Option<&'l dyn Directory>,
    /// The runs that have derived metrics, if that is known.
    pub(crate) derived: Option<&'l BTreeSet<RunId>>,
}

impl<'l> Looking<'l> {
    /// Looks at a few files, each by its path.
    pub(crate) fn by_paths(id: &'l str, projection: bool) -> Self {
        Self {
            id,
            projection,
            records: None,
            derived: None,
        }
    }
}

impl Scope {
    /// Reads what the files say of a run, and shows the record that was read.
    pub(crate) fn see(
        &self,
        looking: &Looking<'_>,
        run: &RunId,
        show: impl FnOnce(&Object<'_>),
    ) -> Result<Seen> {
        let path = layout::run_record(run);
        let (record_stat, content) = match self.tree.open_in(looking.records, &path) {
            Ok(None) => return Ok(Seen::Gone(run.clone())),
            Ok(Some((file, stat))) => {
                let content = self
                    .tree
                    .read_open(&path, &*file, &stat, codec::MAX_DOCUMENT);
                (stat, content)
            }
            Err(error) => match self.tree.stat(&path)? {
                None => return Ok(Seen::Gone(run.clone())),
                Some(stat) => (stat, Err(error)),
            },
        };
        let derived_stat = match looking.derived {
            Some(derived) if !derived.contains(run) => None,
            _ => self.tree.stat(&layout::derived(run))?,
        };
        let stamp = stamp(&record_stat, derived_stat.as_ref());
        let Ok(content) = content else {
            return Ok(Seen::Unreadable(run.clone(), stamp));
        };
        // Derived metrics that cannot be read are looked at again by the queries that need them.
        let derived = match derived_stat {
            None => None,
            Some(_) => match self.derived_content(run) {
                Ok(derived) => derived.map(|derived| {
                    String::from_utf8(derived).unwrap_or_else(|error| {
                        String::from_utf8_lossy(error.as_bytes()).into_owned()
                    })
                }),
                Err(_) => Some(String::new()),
            },
        };
        let revision = revision(&content);
        let Ok(record) = String::from_utf8(content) else {
            return Ok(Seen::Unreadable(run.clone(), stamp));
        };
        let record = (&*record, None);
        let told = looking.told(run, &revision, record, derived.as_deref(), &stamp, show);
        Ok(match told {
            Some(told) => Seen::Run(Box::new(told)),
            None => Seen::Unreadable(run.clone(), stamp),
        })
    }

    /// Says what the files of a run will say once a call's changes are made; none if that is not sure, or if it
    /// will have no record.
    fn foresee(&self, looking: &Looking<'_>, run: &RunId, call: &Call<'_>) -> Option<Told> {
        let content = |path| match call.content_of(&path) {
            Some((content, digest)) => Some(Some((Cow::Borrowed(content), digest))),
            None => {
                let content = self.tree.read(&path, codec::MAX_DOCUMENT).ok()?;
                Some(content.map(|content| {
                    let digest = revision(&content);
                    (Cow::Owned(content), digest)
                }))
            }
        };
        let (record, digest) = content(layout::run_record(run))??;
        let derived = content(layout::derived(run))?;
        let text = |content| std::str::from_utf8(content).ok();
        let (derived, derived_digest) = match &derived {
            None => (None, None),
            Some((derived, digest)) => (Some(text(derived)?), Some(digest.as_str())),
        };
        let number = self.ports.random.next();
        let stamp = content_stamp(&digest, derived_digest, number);
        let record = (text(&record)?, call.record);
        looking.told(run, &digest, record, derived, &stamp, |_| {})
    }
}

impl Looking<'_> {
    /// Makes what the database is told of a run out of the texts of its files, and shows the record; none if that
    /// cannot be read. The record comes with its tree if somebody read it already.
    fn told(
        &self,
        run: &RunId,
        revision: &str,
        (text, record): (&str, Option<&Object<'_>>),
        derived: Option<&str>,
        stamp: &str,
        show: impl FnOnce(&Object<'_>),
    ) -> Option<Told> {
        let mut projected = None;
        let id = run.as_str();
        let see = |row: &RecordRow<'_, '_>| {
            show(row.record());
            if self.projection {
                projected = Projected::new(id, row, text);
            }
        };
        let row = match record {
            Some(record) => Row::read(self.id, id, revision, (text, record), derived, stamp, see),
            None => Row::seen(self.id, id, revision, text, derived, stamp, see),
        };
        row.ok().map(|row| Told { row, projected })
    }
}

/// Says whether the server refused what a statement says: a value that it cannot take, or a rule of its owner.
pub(crate) fn is_refusal(sqlstate: Option<&str>) -> bool {
    // data_exception, integrity_constraint_violation, program_limit_exceeded
    sqlstate.is_some_and(|state| {
        ["22", "23", "54"]
            .iter()
            .any(|class| state.starts_with(class))
    })
}

/// Makes the statements that tell the database what was seen of some runs of one directory: one for those
/// that have a record, one for the others.
fn statements(sql: &Sql, id: &str, seen: &[Seen]) -> Vec<Statement> {
    let mut told: Vec<&Told> = Vec::new();
    let (mut unreadable, mut gone) = (Vec::new(), Vec::new());
    for seen in seen {
        match seen {
            Seen::Run(run) => told.push(&**run),
            Seen::Unreadable(run, stamp) => unreadable.push((run.as_str(), stamp.as_str())),
            Seen::Gone(run) => gone.push(run.as_str()),
        }
    }
    let mut statements = tell(sql, told);
    if !unreadable.is_empty() || !gone.is_empty() {
        statements.push(withdraw(sql, id, &unreadable, &gone));
    }
    statements
}

/// The number of the parameter in which [`runs::upsert_from`] passes the texts of records, as its first is 1.
const RECORD: usize = 4;

/// Makes the statements that write some runs: mostly one.
fn tell(sql: &Sql, told: Vec<&Told>) -> Vec<Statement> {
    // The reference's tables do not take all.
    let (projected, alone): (Vec<_>, Vec<_>) =
        told.into_iter().partition(|told| told.projected.is_some());
    let groups = [projected, alone].into_iter();
    groups
        .filter(|told| !told.is_empty())
        .map(|mut told| tell_alike(sql, &mut told))
        .collect()
}

/// Makes the statement that writes some runs, in our own table and, if they are taken there, in the reference's.
///
/// That a run could not be read before is left as it stands: who lists such runs looks at their files.
fn tell_alike(sql: &Sql, told: &mut [&Told]) -> Statement {
    let schema = &sql.schema;
    // What the parameters of the reference's tables are numbered from: behind those of our own.
    let next = runs::COLUMNS.len() + 1;
    if let [one] = told
        && let Some(projected) = &one.projected
        && !projected.has_derived()
    {
        let text = sql.put_text.get_or_init(|| {
            let own = runs::upsert_one(schema, 1);
            let runs = projection::write_one(schema, next, RECORD);
            format!("WITH own AS ({own}) {runs}")
        });
        let mut parameters = Vec::from(one.row.parameters());
        parameters.extend(projection::parameters(projected));
        // The last one is that of the derived metrics.
        parameters.pop();
        return statement(text.clone(), parameters);
    }
    // The order in which our own rows are passed, so that the texts of the records are passed once.
    told.sort_by(|left, right| left.row.run_id.cmp(&right.row.run_id));
    let rows: Vec<&Row> = told.iter().map(|told| &told.row).collect();
    let Fragment {
        sql: own,
        mut parameters,
    } = runs::upsert_from(schema, &rows, 1);
    let projected: Vec<&Projected> = told
        .iter()
        .filter_map(|told| told.projected.as_ref())
        .collect();
    if projected.len() < told.len() {
        return statement(own, parameters);
    }
    let given = match projected.as_slice() {
        [one] => {
            parameters.extend(projection::parameters(one));
            projection::from_parameters(next, RECORD)
        }
        several => {
            parameters.extend(projection::arrays(several.iter().copied()));
            projection::from_arrays(next, RECORD)
        }
    };
    let [runs, derived] = projection::write(schema, "given");
    let mut sql = format!("WITH own AS ({own}), given AS ({given})");
    if projected.iter().any(|projected| projected.has_derived()) {
        sql.push_str(&format!(", projected_derived AS ({derived})"));
    }
    statement(format!("{sql} {runs}"), parameters)
}

/// Makes the statement that takes runs back: those that are gone, and those whose record cannot be read.
fn withdraw(sql: &Sql, id: &str, unreadable: &[(&str, &str)], gone: &[&str]) -> Statement {
    let schema = &sql.schema;
    let own = schema.name(runs::TABLE);
    let table = schema.name("metalab_store_unreadable");
    let all = unreadable
        .iter()
        .map(|(run, _)| *run)
        .chain(gone.iter().copied());
    let parameters = vec![
        SqlValue::Text(id.to_owned()),
        texts(all),
        texts(gone.iter().copied()),
        texts(unreadable.iter().map(|(run, _)| *run)),
        texts(unreadable.iter().map(|(_, stamp)| *stamp)),
    ];
    let mut text = format!(
        "WITH gone AS (DELETE FROM {own} WHERE scope = $1::text AND run_id = ANY($2::text[]) RETURNING run_id, experiment_id), \
         forgotten AS (DELETE FROM {table} WHERE scope = $1::text AND run_id = ANY($3::text[])), \
         noted AS (INSERT INTO {table} AS kept (scope, run_id, stamp) \
         SELECT $1::text, run_id, stamp FROM unnest($4::text[], $5::text[]) AS new (run_id, stamp) \
         ON CONFLICT (scope, run_id) DO UPDATE SET stamp = EXCLUDED.stamp)"
    );
    if sql.options.projection {
        let [runs, derived] = projection::delete(schema, "gone");
        text.push_str(&format!(
            ", projected AS ({runs}), projected_derived AS ({derived})"
        ));
    }
    text.push_str(" SELECT 1");
    statement(text, parameters)
}

impl Sql {
    /// Tells the database what was seen of some runs of a directory. Of a run whose row the server refuses, an index of its
    /// owner's for instance, it is told the texts alone: queries read those. Returns these runs, and why.
    fn tell(&self, id: &str, mut seen: Vec<Seen>) -> DatabaseResult<Vec<(String, String)>> {
        let mut refused = Vec::new();
        match self.tell_at_once(id, &seen) {
            Err(failure) if is_refusal(failure.sqlstate.as_deref()) => {}
            told => return told.map(|()| refused),
        }
        for seen in &mut seen {
            let failure = match self.tell_at_once(id, std::slice::from_ref(seen)) {
                Ok(()) => continue,
                Err(failure) => failure,
            };
            match seen {
                Seen::Run(told) if is_refusal(failure.sqlstate.as_deref()) => {
                    told.row.reduce();
                    told.projected = None;
                    refused.push((told.row.run_id.clone(), failure.message));
                }
                _ => return Err(failure),
            }
            self.tell_at_once(id, std::slice::from_ref(seen))?;
        }
        Ok(refused)
    }

    fn tell_at_once(&self, id: &str, seen: &[Seen]) -> DatabaseResult<()> {
        let statements = statements(self, id, seen);
        match statements.as_slice() {
            [] => Ok(()),
            [one] => self.ask(|database| database.execute(one)).map(drop),
            several => self.ask(|database| database.batch(several)).map(drop),
        }
    }
}

impl Scope {
    /// Makes the changes of one call, and tells the database of the run whose lock it holds.
    pub(crate) fn commit_and_tell(
        &self,
        run: &RunId,
        held: &Held,
        change: Change<'_>,
        record: Option<&Object<'_>>,
    ) -> Result<()> {
        let call = Call {
            held,
            changes: vec![change],
            record,
        };
        let outcomes = self.commit_all_and_tell(&[run], vec![call]);
        outcomes.into_iter().next().unwrap_or(Ok(()))
    }

    /// Makes the changes of several calls with one sync, and tells the database of the runs whose locks they hold;
    /// runs and outcomes are in the order of the calls.
    pub(crate) fn commit_all_and_tell(
        &self,
        runs: &[&RunId],
        calls: Vec<Call<'_>>,
    ) -> Vec<Result<()>> {
        let locked = calls.iter().all(|call| call.held.lock.is_some());
        let foretold = self.foretell(runs, &calls, locked);
        let outcomes = self.commit_all(calls);
        let told = match foretold {
            Some(foretold) if outcomes.iter().all(Result::is_ok) => self.confirm(foretold),
            // What was foretold and did not come is rolled back.
            foretold => {
                drop(foretold);
                false
            }
        };
        if !told {
            // Also where it failed: the outcome may be unknown.
            self.reflect(runs, locked);
        }
        outcomes
    }

    /// Begins to tell the database what the files are about to say of some runs; none: it is told afterwards.
    fn foretell(
        &self,
        runs: &[&RunId],
        calls: &[Call<'_>],
        locked: bool,
    ) -> Option<Box<dyn Transaction>> {
        let sql = self.sql.as_ref()?;
        if !locked || runs.is_empty() || runs.len() > GROUP || sql.is_paused() {
            return None;
        }
        let id = self.directory_id(sql).ok()?;
        let looking = Looking::by_paths(&id, sql.options.projection);
        let told: Option<Vec<Told>> = runs
            .iter()
            .zip(calls)
            .map(|(run, call)| self.foresee(&looking, run, call))
            .collect();
        let told = told?;
        let statements = tell(sql, told.iter().collect());
        let database = sql.database().ok()?;
        // Once others know that writers are at work, they look whether the server crashed since.
        let may_be_lost = sql.live.borrow().contains(&place_in_grant(self));
        sql.tried(database.begin_with(&statements, may_be_lost))
            .ok()
    }

    /// Commits what was foretold, now that the files say it. False: the database was not told.
    fn confirm(&self, foretold: Box<dyn Transaction>) -> bool {
        self.sql.as_ref().is_some_and(|sql| {
            // The server is still at work.
            self.look_after_write(sql).is_ok()
                && sql.tried(foretold.commit()).is_ok()
                && self.after_telling(sql).is_ok()
        })
    }

    fn after_telling(&self, sql: &Sql) -> Result<()> {
        if sql.noted.get() {
            sql.due.set(true);
        }
        if !sql.told.replace(true) {
            self.join_database(sql)?;
        }
        Ok(())
    }

    /// Tells the database what the files say of some runs whose locks are held, or notes that it was not told.
    ///
    /// The files were changed, and the change is durable: whatever happens here, the call has succeeded.
    pub(crate) fn reflect(&self, runs: &[&RunId], locked: bool) {
        let Some(sql) = &self.sql else {
            // A store of files does not tell the database: what the database says is not believed until it
            // was compared with the files. Another store may have compared them since our last change.
            self.disown_database();
            return;
        };
        if !locked {
            // Two writers of one run may tell the database in another order than they wrote the files.
            self.disown_database();
            return;
        }
        let told = self.directory_id(sql).and_then(|id| {
            let looking = Looking::by_paths(&id, sql.options.projection);
            for group in runs.chunks(GROUP) {
                let seen: Result<Vec<Seen>> = group
                    .iter()
                    .map(|run| self.see(&looking, run, |_| {}))
                    .collect();
                sql.tell(&id, seen?)?;
            }
            self.look_after_write(sql)?;
            self.after_telling(sql)
        });
        if told.is_err() {
            self.note_pending(sql, runs.iter().copied());
            // The note says what changed.
            self.look_after_write(sql).ok();
        }
    }

    /// Tells the database what this store noted, once it answers again. No run's lock may be held.
    pub(crate) fn tell_noted(&self) {
        if let Some(sql) = &self.sql
            && sql.due.take()
        {
            // What cannot be told now is told by the next list, or by a comparison.
            sql.noted.set(false);
            drop(self.replay_pending());
        }
    }

    /// Writes a manifest to the reference's tables. The store itself never asks the database for manifests: one
    /// that is not told is written by the next rebuild.
    pub(crate) fn reflect_manifest(&self, experiment: &ExperimentId, stamp: &str, text: &str) {
        let Some(sql) = self.sql.as_ref().filter(|sql| sql.options.projection) else {
            return;
        };
        let now = i64::try_from(self.ports.clock.now() / 1_000).unwrap_or(i64::MAX);
        if let Ok(scope) = self.directory_id(sql)
            && let Ok(body) = codec::parse_object("", text.as_bytes())
        {
            let manifest =
                projection::manifest(&sql.schema, &scope, experiment.as_str(), stamp, &body, now);
            // Whether it failed shows in the state of the index.
            drop(sql.ask(|database| database.execute(&manifest)));
        }
    }

    /// Locks some runs and tells the database what their files say. Returns those of which it took only the texts, and
    /// why; none: it was not told.
    pub(crate) fn reflect_unlocked(&self, runs: &[RunId]) -> Result<Option<Vec<(String, String)>>> {
        let Some(sql) = &self.sql else {
            return Ok(None);
        };
        let Ok(id) = self.directory_id(sql) else {
            return Ok(None);
        };
        let mut held = Vec::with_capacity(runs.len());
        for run in runs {
            held.push(self.lock_run(run)?);
        }
        if held.iter().any(|held| held.lock.is_none()) {
            self.disown_database();
            return Ok(None);
        }
        let looking = Looking::by_paths(&id, sql.options.projection);
        let seen: Result<Vec<Seen>> = runs
            .iter()
            .map(|run| self.see(&looking, run, |_| {}))
            .collect();
        Ok(sql.tell(&id, seen?).ok())
    }

    /// Returns the id under which the database knows this directory. One that it does not know gets one, and
    /// is not believed to be known: what it holds has to be compared first.
    pub(crate) fn directory_id(&self, sql: &Sql) -> Result<String> {
        let database = sql.id(true)?;
        // What says so is read again only if it may have changed.
        let place = place_in_grant(self);
        let file = self.tree.stat(&layout::database_state())?;
        if let Some(file) = &file
            && let Some((known, id)) = sql.known.borrow().get(&place)
            && known == file
        {
            return Ok(id.clone());
        }
        let here = Place::of(self);
        let state = State::read(&self.tree).map(|(_, state)| state);
        if state.as_ref().is_none_or(|state| !state.live) {
            // Others do not know any more that this store is at work.
            sql.live.borrow_mut().remove(&place);
        }
        if let Some(state) = &state
            && state.database == database
            && state.place.can_be(&here)
        {
            if let Some(file) = file
                && !state::is_young(file.modified.max(file.changed), self.ports.clock.now())
            {
                let known = (file, state.scope.clone());
                sql.known.borrow_mut().insert(place, known);
            }
            return Ok(state.scope.clone());
        }
        let inode = here.inode.to_string();
        let found = sql.ask(|database| {
            directories::find(
                database,
                &sql.schema,
                &here.machine,
                &inode,
                &here.directory,
            )
        })?;
        let directory = directories::Directory {
            scope: found.unwrap_or_else(|| sql.new_id()),
            mark: String::new(),
            steady: true,
        };
        let name = directories::name(
            &sql.schema,
            &directory,
            &here.machine,
            &inode,
            &here.directory,
        );
        sql.ask(|database| database.execute(&name))?;
        let state = State {
            database,
            scope: directory.scope.clone(),
            mark: String::new(),
            place: here,
            stamps: None,
            live: false,
        };
        sql.doubt(&place);
        self.tree
            .ensure_directory(&layout::directory(layout::Top::Index))?;
        state.write(self)?;
        Ok(directory.scope)
    }
}
