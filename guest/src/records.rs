//! Run records: `runs/{run-id}.json`.

use crate::codec;
use crate::commit::{Call, Change, Held};
use crate::error::{Error, Result};
use crate::journal::Fingerprint;
use crate::json::{Object, Value};
use crate::layout;
use crate::model::{Expectation, RunRecord};
use crate::names::{ExperimentId, RunId};
use crate::scope::{Scope, revision};
use std::collections::BTreeSet;

/// How a record of this format begins in a file that the store or the reference wrote.
const CURRENT_HEAD: &[u8] = b"{\n  \"_schema_version\": \"0.1\"";

/// The key of the version.
const VERSION_KEY: &[u8] = b"\"_schema_version\"";

/// The most runs that a batch locks at a time.
const BATCH: usize = 128;

/// A record, or the derived metrics of a run, ready to be written.
pub(crate) struct PreparedRecord<'a> {
    pub(crate) run: RunId,
    pub(crate) text: String,
    /// The tree of the text, if it is a record that a database is told of, and alone: those of many would take much
    /// memory.
    pub(crate) record: Option<Object<'a>>,
}

/// Looks at the file that is there, and makes the change that replaces it.
type MakeChange = for<'r> fn(&Scope, &Held, &'r PreparedRecord<'_>) -> Result<Change<'r>>;

impl Scope {
    /// Checks and completes a record, and prints it.
    pub(crate) fn prepare_record<'a>(&'a self, record: Object<'a>) -> Result<PreparedRecord<'a>> {
        let scope = self.experiment.as_ref().map(|id| id.as_str());
        let (run_id, record) = codec::complete_record(record, scope)?;
        let run = RunId::parse(&run_id)?;
        // A scope's own id was parsed when the store was opened, and the record's is the same.
        if scope.is_none()
            && let Some(named) = record.get("experiment_id").and_then(Value::as_str)
        {
            ExperimentId::parse(named)?;
        }
        let record = Value::Object(record);
        let text = codec::print(&record);
        if text.len() as u64 > codec::MAX_DOCUMENT {
            return Err(Error::TooLarge(format!(
                "the record of run {run_id:?} has {} bytes; at most {} are stored",
                text.len(),
                codec::MAX_DOCUMENT
            )));
        }
        // Without a database nobody looks at it any more.
        let record = match record {
            Value::Object(record) if self.sql.is_some() => Some(record),
            _ => None,
        };
        Ok(PreparedRecord { run, text, record })
    }

    /// Stores a run record.
    pub(crate) fn put_record(
        &self,
        record: &PreparedRecord<'_>,
        expect: &Expectation,
    ) -> Result<String> {
        self.prepare_write()?;
        let held = self.lock_run(&record.run)?;
        let change = self.record_change(&held, record, expect)?;
        let revision = change.revision();
        let told = self.commit_and_tell(&record.run, &held, change, record.record.as_ref());
        drop(held);
        self.tell_noted();
        told.map(|()| revision)
    }

    /// Looks at the record that is there, and makes the change that replaces it.
    fn record_change<'r>(
        &self,
        held: &Held,
        record: &'r PreparedRecord<'_>,
        expect: &Expectation,
    ) -> Result<Change<'r>> {
        let run_id = record.run.as_str();
        let path = layout::run_record(&record.run);
        let current = self.tree.read(&path, codec::MAX_DOCUMENT)?;
        if *expect != Expectation::Anything {
            if held.lock.is_none() {
                return Err(Error::LocksUnavailable(format!(
                    "run {run_id:?}: the file system has no working locks, so a record cannot be compared and replaced; put it without an expectation"
                )));
            }
            check_expectation(run_id, expect, current.as_deref())?;
        }
        if let Some(current) = &current {
            refuse_newer(&self.tree.path(&path), current)?;
        }
        let previous = current.as_deref().map(Fingerprint::of);
        Ok(Change::put(path, previous, record.text.as_bytes()))
    }

    /// Stores many records; the outcomes are in their order.
    pub(crate) fn put_records(
        &self,
        records: Vec<Result<PreparedRecord<'_>>>,
    ) -> Result<Vec<Result<String>>> {
        self.put_batch(records, |scope, held, record| {
            scope.record_change(held, record, &Expectation::Anything)
        })
    }

    /// Stores a file for each of many runs; the outcomes are in their order. Each group of runs is synced once.
    pub(crate) fn put_batch(
        &self,
        records: Vec<Result<PreparedRecord<'_>>>,
        change: MakeChange,
    ) -> Result<Vec<Result<String>>> {
        self.prepare_write()?;
        let mut outcomes: Vec<Result<String>> = Vec::with_capacity(records.len());
        let mut group: Vec<(usize, PreparedRecord<'_>)> = Vec::new();
        let mut runs = BTreeSet::new();
        for record in records {
            let index = outcomes.len();
            match record {
                Err(error) => outcomes.push(Err(error)),
                Ok(record) => {
                    // A run that comes again is written again: the last one stays.
                    if group.len() == BATCH || runs.contains(&record.run) {
                        self.put_group(&mut group, change, &mut outcomes);
                        runs.clear();
                    }
                    runs.insert(record.run.clone());
                    group.push((index, record));
                    outcomes.push(Ok(String::new()));
                }
            }
        }
        self.put_group(&mut group, change, &mut outcomes);
        self.tell_noted();
        Ok(outcomes)
    }

    /// Stores files of different runs with one sync. The locks are taken in the order of the runs' names,
    /// so that two batches never wait for each other.
    fn put_group(
        &self,
        group: &mut Vec<(usize, PreparedRecord<'_>)>,
        change: MakeChange,
        outcomes: &mut [Result<String>],
    ) {
        group.sort_by(|a, b| a.1.run.cmp(&b.1.run));
        let mut locked = Vec::with_capacity(group.len());
        for (index, record) in group.iter() {
            match self.lock_run(&record.run) {
                Ok(held) => locked.push((*index, held, record)),
                Err(error) => outcomes[*index] = Err(error),
            }
        }
        let mut calls = Vec::with_capacity(locked.len());
        let mut revisions = Vec::with_capacity(locked.len());
        let mut runs = Vec::with_capacity(locked.len());
        for (index, held, record) in &locked {
            match change(self, held, record) {
                Ok(change) => {
                    revisions.push((*index, change.revision()));
                    runs.push(&record.run);
                    calls.push(Call {
                        held,
                        changes: vec![change],
                        record: None,
                    });
                }
                Err(error) => outcomes[*index] = Err(error),
            }
        }
        let outcomes_of_calls = self.commit_all_and_tell(&runs, calls);
        for ((index, revision), outcome) in revisions.into_iter().zip(outcomes_of_calls) {
            outcomes[index] = outcome.map(|()| revision);
        }
        group.clear();
    }

    /// Returns the content of a record's file.
    pub(crate) fn record_content(&self, run: &RunId) -> Result<Option<Vec<u8>>> {
        self.tree
            .read(&layout::run_record(run), codec::MAX_DOCUMENT)
    }

    /// Loads a record from the content of its file.
    pub(crate) fn load_record(&self, run: &RunId, content: &[u8]) -> Result<RunRecord> {
        let file = self.tree.path(&layout::run_record(run));
        codec::load_run_record(&file, content)
    }

    /// Lists the runs that have a file for their record, in no particular order.
    pub(crate) fn recorded_runs(&self) -> Result<Vec<RunId>> {
        let entries = self.tree.list(&layout::directory(layout::Top::Runs))?;
        Ok(entries
            .into_iter()
            .filter_map(|entry| layout::run_id_of_record(&entry.name))
            .collect())
    }
}

fn check_expectation(run: &str, expect: &Expectation, current: Option<&[u8]>) -> Result<()> {
    let found = current.map(revision);
    let message = match (expect, &found) {
        (Expectation::Anything, _) | (Expectation::Absent, None) => return Ok(()),
        (Expectation::Revision(wanted), Some(found)) if wanted == found => return Ok(()),
        (Expectation::Absent, Some(found)) => {
            format!("run {run:?} exists already, with revision {found}")
        }
        (Expectation::Revision(wanted), Some(found)) => {
            format!(
                "run {run:?} has revision {found}, not {wanted}: somebody changed it; read it again"
            )
        }
        (Expectation::Revision(wanted), None) => {
            format!("run {run:?} does not exist (any more); revision {wanted} was expected")
        }
    };
    Err(Error::Conflict {
        current: found,
        message,
    })
}

/// Refuses to replace a record of a newer format: what this version does not know would be lost.
fn refuse_newer(file: &str, current: &[u8]) -> Result<()> {
    // Most records need not be parsed: the key is the first, and nothing else in them is called so.
    if let Some(rest) = current.strip_prefix(CURRENT_HEAD)
        && !rest
            .windows(VERSION_KEY.len())
            .any(|window| window == VERSION_KEY)
    {
        return Ok(());
    }
    // A damaged record, or one without a version, may be replaced.
    let Ok(object) = codec::parse_object(file, current) else {
        return Ok(());
    };
    match codec::other_version(&object) {
        None => Ok(()),
        Some(version) => Err(Error::InvalidArgument(format!(
            "{file} is of format version {version}; this version writes {} and does not replace newer records: update the store",
            codec::SCHEMA_VERSION
        ))),
    }
}
