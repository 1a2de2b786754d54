//! The database as query index: whether it says of each run what the files say.
//!
//! It is asked for digests, a page of runs at a time, so that no transaction stays open. A run that differs is asked
//! about again under its lock: a writer changes the files first and tells the database then.

use super::{Finding, FindingKind, Severity, Tally, finding, tally_all};
use crate::database::Sql;
use crate::database::rebuild::IndexRebuild;
use crate::database::reflect::{Looking, Seen};
use crate::database::state::State;
use crate::error::{Error, Result};
use crate::layout;
use crate::model::Access;
use crate::names::RunId;
use crate::ports::SqlValue;
use crate::scope::{Scope, hex, revision};
use crate::sql::directories::text;
use crate::sql::runs;
use sha2::{Digest as _, Sha256};
use std::collections::VecDeque;
use std::rc::Rc;

/// How many runs a page has.
const PAGE: u32 = 1024;

/// The most runs that are told one by one.
const TOLD: u64 = 1000;

/// A comparison that is under way.
pub(super) struct DatabaseCheck {
    sql: Rc<Sql>,
    /// The directory, as the database knows it.
    id: String,
    /// Whether queries are answered by the database.
    believed: bool,
    names: VecDeque<RunId>,
    total: u64,
    /// The last run of the last page; none if there is no other page.
    after: Option<String>,
    findings: Vec<Finding>,
    different: u64,
    repair: bool,
    rebuild: Option<IndexRebuild>,
}

/// What the database knows of a run.
struct Row {
    run: String,
    /// Whether the record could be read.
    readable: bool,
    record: Option<String>,
    derived: Option<String>,
}

impl DatabaseCheck {
    /// Begins; none if there is no database, or it cannot be asked.
    pub(super) fn begin(
        scope: &Rc<Scope>,
        own: bool,
        repair: bool,
        tally: &mut Tally,
    ) -> Result<Option<Self>> {
        let Some(sql) = scope.sql.clone() else {
            return Ok(None);
        };
        let believed = sql
            .believed(std::slice::from_ref(scope), Access::ReadOnly)?
            .is_some();
        let state = State::read(&scope.tree).map(|(_, state)| state);
        let mut check = Self {
            id: state
                .as_ref()
                .map(|state| state.scope.clone())
                .unwrap_or_default(),
            sql,
            believed,
            names: VecDeque::new(),
            total: 0,
            after: Some(String::new()),
            findings: Vec::new(),
            different: 0,
            repair: repair && own,
            rebuild: None,
        };
        if state.is_none() && scope.recorded_runs()?.is_empty() {
            // A collection's root, for instance.
            return Ok(None);
        }
        if state.is_none() || !believed {
            let trouble = check.sql.trouble();
            let reason = match &trouble {
                Some(trouble) => format!("the database does not answer: {trouble}"),
                None => "the database is not known to say what the files say; the files answer"
                    .to_owned(),
            };
            let mut found = finding(
                scope,
                FindingKind::Database,
                &layout::database_state(),
                reason,
                "`rebuild-index` compares the two",
            );
            found.severity = Severity::Warning;
            if trouble.is_some() {
                tally.add(found);
                return Ok(None);
            }
            check.findings.push(found);
        }
        if check.id.is_empty() {
            // It knows nothing of this directory that could be compared.
            check.after = None;
        } else {
            let mut names = scope.recorded_runs()?;
            names.sort_unstable();
            check.total = names.len() as u64;
            check.names = names.into();
        }
        Ok(Some(check))
    }

    pub(super) fn progress(&self) -> (u64, u64) {
        (self.total - self.names.len() as u64, self.total)
    }

    /// Does the next piece, and says whether that was all.
    pub(super) fn step(
        &mut self,
        scope: &Rc<Scope>,
        may_lock: bool,
        tally: &mut Tally,
    ) -> Result<bool> {
        if let Some(rebuild) = &mut self.rebuild {
            if rebuild.step()?.is_some() {
                return Ok(false);
            }
            for found in &mut self.findings {
                found.repaired = Some("the database was brought up to date with the files".into());
            }
            tally_all(tally, self.findings.drain(..));
            return Ok(true);
        }
        if let Some(after) = self.after.take() {
            self.compare_page(scope, may_lock, &after)?;
            return Ok(false);
        }
        if self.different > TOLD {
            self.findings.push(self.about(
                scope,
                &layout::database_state(),
                format!("{} runs more differ in the database", self.different - TOLD),
            ));
        }
        if self.repair && !self.findings.is_empty() {
            self.rebuild = Some(IndexRebuild::of_directory(scope)?);
            return Ok(false);
        }
        tally_all(tally, self.findings.drain(..));
        Ok(true)
    }

    fn compare_page(&mut self, scope: &Rc<Scope>, may_lock: bool, after: &str) -> Result<()> {
        let page = runs::digests(&self.sql.schema, &self.id, after, PAGE);
        let rows = self.sql.ask(|database| database.query(&page, PAGE))?;
        let rows: Vec<Row> = rows.rows.iter().filter_map(|row| row_of(row)).collect();
        let full = rows.len() == PAGE as usize;
        for row in &rows {
            while let Some(name) = self.names.front()
                && name.as_str() < row.run.as_str()
            {
                let name = name.clone();
                self.names.pop_front();
                self.compare(scope, may_lock, &name, None)?;
            }
            let Ok(run) = RunId::parse(&row.run) else {
                continue;
            };
            if self.names.front() == Some(&run) {
                self.names.pop_front();
            }
            self.compare(scope, may_lock, &run, Some(row))?;
        }
        if full {
            self.after = rows.last().map(|row| row.run.clone());
        } else {
            while let Some(name) = self.names.pop_front() {
                self.compare(scope, may_lock, &name, None)?;
            }
        }
        Ok(())
    }

    fn compare(
        &mut self,
        scope: &Rc<Scope>,
        may_lock: bool,
        run: &RunId,
        row: Option<&Row>,
    ) -> Result<()> {
        if difference(scope, run, row)?.is_none() {
            return Ok(());
        }
        let Some(mut reason) = self.compare_locked(scope, may_lock, run)? else {
            return Ok(());
        };
        if may_lock && self.believed {
            // A writer that was killed meanwhile told nobody what it had changed.
            scope.recover()?;
            scope.replay_pending()?;
            match self.compare_locked(scope, may_lock, run)? {
                Some(still) => reason = still,
                None => return Ok(()),
            }
        }
        // A writer could not tell the database of it meanwhile: then the files answer.
        let scopes = std::slice::from_ref(scope);
        self.believed = self.believed && self.sql.believed(scopes, Access::ReadOnly)?.is_some();
        self.different += 1;
        if self.different <= TOLD {
            let mut found = self.about(scope, &layout::run_record(run), reason.to_owned());
            found.run_id = Some(run.as_str().to_owned());
            self.findings.push(found);
        }
        Ok(())
    }

    /// Compares a run while nobody changes it.
    fn compare_locked(
        &self,
        scope: &Rc<Scope>,
        may_lock: bool,
        run: &RunId,
    ) -> Result<Option<&'static str>> {
        // Without the file of a lock nobody is in the middle of a change, and none is made for a run that is gone.
        let has_lock = scope.tree.stat(&layout::lock(run))?.is_some();
        let lock = match may_lock && has_lock {
            true => match scope.lock_run(run) {
                Ok(held) => Some(held),
                Err(Error::Locked(_)) => None,
                Err(error) => return Err(error),
            },
            false => None,
        };
        let again = runs::digest_of(&self.sql.schema, &self.id, run.as_str());
        let rows = self.sql.ask(|database| database.query(&again, 2))?;
        let row = rows.rows.first().and_then(|row| row_of(row));
        let different = difference(scope, run, row.as_ref());
        drop(lock);
        different
    }

    fn about(&self, scope: &Scope, path: &layout::StorePath, reason: String) -> Finding {
        let mut found = finding(
            scope,
            FindingKind::Database,
            path,
            reason,
            "`verify --repair` or `rebuild-index` brings the database up to date with the files",
        );
        if !self.believed {
            // No query is answered by it.
            found.severity = Severity::Warning;
        }
        found
    }
}

/// Says how the database differs from the files of a run.
fn difference(scope: &Scope, run: &RunId, row: Option<&Row>) -> Result<Option<&'static str>> {
    let there = scope.tree.is_file(&layout::run_record(run))?;
    let row = match (there, row) {
        (false, None) => return Ok(None),
        (false, Some(_)) => return Ok(Some("the database has a run whose record is not there")),
        (true, None) => return Ok(Some("the database does not know the run")),
        (true, Some(row)) => row,
    };
    if !row.readable {
        let seen = scope.see(&Looking::by_paths("", false), run, |_| {})?;
        return Ok(match seen {
            Seen::Run(_) => Some("the database takes the record for an unreadable one"),
            Seen::Unreadable(..) | Seen::Gone(_) => None,
        });
    }
    let record = match scope.record_content(run) {
        Ok(record) => record.as_deref().map(revision),
        Err(Error::Corrupt { .. } | Error::TooLarge(_)) => None,
        Err(error) => return Err(error),
    };
    if record != row.record {
        return Ok(Some("the database has another record than the file"));
    }
    let derived = match scope.derived_content(run) {
        Ok(derived) => derived.map(|derived| hex(&Sha256::digest(&derived)[..8])),
        // What is wrong with the file was told.
        Err(_) => return Ok(None),
    };
    Ok((derived != row.derived).then_some("the database has other derived metrics than the file"))
}

fn row_of(row: &[SqlValue]) -> Option<Row> {
    Some(Row {
        run: text(row, 0)?.to_owned(),
        readable: matches!(row.get(1), Some(SqlValue::Boolean(true))),
        record: text(row, 2).map(str::to_owned),
        derived: text(row, 3).map(str::to_owned),
    })
}
