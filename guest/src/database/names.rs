//! Whether other programs added or removed files while writers are at work that keep the database in step.
//!
//! Their changes give the directories other times all along, so that the times tell nothing about anybody else. But the names
//! tell: what is in the directories has to be what the database knows. A run that somebody is about to put or delete differs
//! for a moment, and is looked at again.

use super::Sql;
use super::reflect::stamp;
use crate::error::Result;
use crate::layout::{self, Top};
use crate::names::RunId;
use crate::ports::{DatabaseResult, Isolation, SqlValue};
use crate::scope::Scope;
use crate::sql::directories::{statement, text, texts};
use crate::sql::runs;
use std::collections::{BTreeMap, BTreeSet};

/// How often runs that differ are looked at again.
const ATTEMPTS: usize = 4;

/// More runs than these differ because somebody else changed them.
const FEW: usize = 256;

/// How many rows a page of the database's answer has, and how many bytes.
const PAGE_ROWS: u32 = 8192;
const PAGE_BYTES: u32 = 4 * 1024 * 1024;

/// What is known of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Known {
    /// It has a record, and derived metrics or not.
    Run(bool),
    /// Its file is no record, and known by this stamp.
    Unreadable(String),
}

impl Sql {
    /// Says whether the database knows the runs that a directory has.
    pub(super) fn names_agree(&self, scope: &Scope, id: &str) -> Result<bool> {
        let derived = scope.tree.list(&layout::directory(Top::Derived))?;
        let derived: BTreeSet<RunId> = derived
            .iter()
            .filter_map(|entry| layout::run_id_of_record(&entry.name))
            .collect();
        let there = scope.recorded_runs()?;
        let Ok(mut known) = self.heard(self.known_runs(id, None)) else {
            return Ok(false);
        };
        let mut differing = Vec::new();
        for run in there {
            let agrees = match known.remove(run.as_str()) {
                Some(Known::Run(has_derived)) => has_derived == derived.contains(&run),
                _ => false,
            };
            if !agrees {
                differing.push(run);
            }
        }
        for name in known.into_keys() {
            match RunId::parse(&name) {
                Ok(run) => differing.push(run),
                // No file has such a name.
                Err(_) => return Ok(false),
            }
        }
        for _ in 0..ATTEMPTS {
            if differing.is_empty() || differing.len() > FEW {
                break;
            }
            let names: Vec<&str> = differing.iter().map(RunId::as_str).collect();
            let Ok(known) = self.heard(self.known_runs(id, Some(&names))) else {
                return Ok(false);
            };
            let mut left = Vec::new();
            for run in differing {
                if !is_known(scope, &run, known.get(run.as_str()))? {
                    left.push(run);
                }
            }
            differing = left;
        }
        Ok(differing.is_empty())
    }

    /// Returns what the database knows of the runs of a directory, or of some of them.
    fn known_runs(
        &self,
        id: &str,
        names: Option<&[&str]>,
    ) -> DatabaseResult<BTreeMap<String, Known>> {
        let mut parameters = vec![SqlValue::Text(id.to_owned())];
        let which = match names {
            None => "scope = $1",
            Some(names) => {
                parameters.push(texts(names.iter().copied()));
                "scope = $1 AND run_id = ANY($2::text[])"
            }
        };
        // A run that could not be read once, and was put since then, is in both.
        let sql = format!(
            "SELECT run_id, '', derived IS NOT NULL FROM {} WHERE {which} \
             UNION ALL SELECT run_id, stamp, false FROM {} AS noted WHERE {which} \
             AND NOT EXISTS (SELECT 1 FROM {} AS own WHERE own.scope = noted.scope AND own.run_id = noted.run_id)",
            self.schema.name(runs::TABLE),
            self.schema.name("metalab_store_unreadable"),
            self.schema.name(runs::TABLE)
        );
        let transaction = self.database()?.begin(Isolation::RepeatableRead, true)?;
        let cursor = transaction.open_cursor(&statement(sql, parameters))?;
        let mut known = BTreeMap::new();
        loop {
            let page = cursor.next(PAGE_ROWS, PAGE_BYTES)?;
            if page.rows.is_empty() {
                return Ok(known);
            }
            for row in &page.rows {
                let (Some(run), Some(stamp)) = (text(row, 0), text(row, 1)) else {
                    continue;
                };
                let has_derived = matches!(row.get(2), Some(SqlValue::Boolean(true)));
                let what = match stamp {
                    "" => Known::Run(has_derived),
                    stamp => Known::Unreadable(stamp.to_owned()),
                };
                known.insert(run.to_owned(), what);
            }
        }
    }
}

/// Says whether this is what the files of a run are like now.
fn is_known(scope: &Scope, run: &RunId, known: Option<&Known>) -> Result<bool> {
    let Some(record) = scope.tree.stat(&layout::run_record(run))? else {
        return Ok(known.is_none());
    };
    let derived = scope.tree.stat(&layout::derived(run))?;
    Ok(match known {
        None => false,
        Some(Known::Run(has_derived)) => *has_derived == derived.is_some(),
        Some(Known::Unreadable(told)) => *told == stamp(&record, derived.as_ref()),
    })
}
