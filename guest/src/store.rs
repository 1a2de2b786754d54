//! The store: every operation, on one experiment's directory or on a whole collection.
//!
//! Names are parsed here, before anything is touched.

use crate::artifacts::{ArtifactReader, ArtifactWriter};
use crate::codec::{self, LineForm};
use crate::collection;
use crate::database::listing::{DatabaseList, RunListing};
use crate::database::rebuild::{IndexRebuild, IndexState};
use crate::database::{self, Sql};
use crate::error::{Error, Result};
use crate::json::{Object, Value};
use crate::layout::{self, StorePath};
use crate::model::{
    Access, ArtifactDescriptor, ArtifactReference, Damage, Document, Durability, Expectation,
    LogChunk, Manifest, ManifestHeader, Metric, RunRecord, StoreOptions, StructuredResult,
};
use crate::names::{ExperimentId, LogName, ManifestStamp, ResultName, RunId};
use crate::ports::{Kind, Ports};
use crate::query::{Query, QueryText};
use crate::records::PreparedRecord;
use crate::run_list::{self, FieldCatalogue, Found, RunList};
use crate::scope::{Scope, revision};
use crate::transfer::{ReceiveOptions, Receiver, Selection, Sender};
use crate::verify::{Collection, GarbageOptions, Verification, VerifyOptions};
use std::rc::Rc;

/// An open store.
pub struct Store {
    scope: Rc<Scope>,
}

impl Store {
    /// Opens the granted directory.
    ///
    /// # Errors
    /// `conflict` if the directory belongs to another experiment, `invalid-name`, `io`.
    pub fn open(ports: Ports, options: StoreOptions) -> Result<Self> {
        let experiment = options
            .experiment_id
            .as_deref()
            .filter(|id| !id.is_empty())
            .map(ExperimentId::parse)
            .transpose()?;
        let sql = match &options.index {
            None => None,
            Some(index) => Some(Rc::new(Sql::new(&ports, index)?)),
        };
        let mut scope = Scope::new(ports, Rc::new(options), experiment);
        scope.sql = sql;
        if let Some(experiment) = &scope.experiment {
            // A damaged `_meta.json` says nothing, and must not hide the runs.
            let declared = match scope.declared_experiment() {
                Ok(declared) => declared,
                Err(Error::Corrupt { .. } | Error::TooLarge(_)) => None,
                Err(error) => return Err(error),
            };
            if let Some(declared) = declared
                && declared != experiment.as_str()
            {
                return Err(Error::Conflict {
                    current: None,
                    message: format!(
                        "the directory {} belongs to experiment {declared:?}, not to {:?}: both ids map to it; rename one of them",
                        scope.outside,
                        experiment.as_str()
                    ),
                });
            }
        }
        match scope.options.access {
            Access::ReadOnly => {
                let overlay = scope.overlay()?;
                scope.tree.set_overlay(overlay.map(Rc::new));
            }
            Access::ReadWrite => {
                scope.recover()?;
                scope.meet_database()?;
                if scope.experiment.is_some() {
                    scope.prepare_write()?;
                }
            }
        }
        Ok(Self {
            scope: Rc::new(scope),
        })
    }

    /// Ends the store's work: makes durable what was appended to logs without a sync, and what the journal
    /// still promises, and removes the journal.
    ///
    /// # Errors
    /// `io` if something could not be made durable.
    pub fn close(&self) -> Result<()> {
        let appended =
            self.scope.unsynced.get() && self.scope.options.durability == Durability::Full;
        self.scope.checkpoint(appended)?;
        self.scope.unsynced.set(false);
        self.scope.index.save_at_close(&self.scope);
        self.scope.part_from_database()
    }

    /// Returns the store's directory, by its name outside.
    #[must_use]
    pub fn working_directory(&self) -> String {
        self.scope.outside.clone()
    }

    /// The scopes that reads cover: the experiment's, or the root's and those of all experiments below.
    fn scopes(&self) -> Result<(Vec<Rc<Scope>>, Vec<Damage>)> {
        let mut scopes = vec![Rc::clone(&self.scope)];
        let mut damaged = Vec::new();
        if self.scope.experiment.is_none() {
            let found = collection::discover(&self.scope)?;
            scopes.extend(found.scopes);
            damaged = found.damaged;
        }
        Ok((scopes, damaged))
    }

    /// Finds the scope that holds a run: the one with its record, else one with anything of it, else the
    /// store's own. An experiment that cannot be looked at hides no run of another.
    fn owner(&self, run: &RunId) -> Result<Rc<Scope>> {
        let mut unknown = None;
        let owner = self.find_owner(run, &mut unknown)?;
        match (owner, unknown) {
            (Some(owner), _) => Ok(owner),
            (None, Some(error)) => Err(error),
            (None, None) => Ok(Rc::clone(&self.scope)),
        }
    }

    /// Finds the scope that holds something of a run, and keeps why one could not be looked at.
    fn find_owner(&self, run: &RunId, unknown: &mut Option<Error>) -> Result<Option<Rc<Scope>>> {
        if self.scope.experiment.is_some() {
            return Ok(Some(Rc::clone(&self.scope)));
        }
        let (scopes, _) = self.scopes()?;
        let probes: [fn(&Scope, &RunId) -> Result<bool>; 2] = [
            |scope, run| Ok(scope.tree.stat(&layout::run_record(run))?.is_some()),
            |scope, run| {
                let directory = |path: layout::StorePath| -> Result<bool> {
                    Ok(scope
                        .tree
                        .stat(&path)?
                        .is_some_and(|stat| stat.kind == Kind::Directory))
                };
                Ok(scope.tree.stat(&layout::derived(run))?.is_some()
                    || directory(layout::result_directory(run))?
                    || directory(layout::artifact_directory(run))?
                    || !scope.list_logs(run)?.is_empty())
            },
        ];
        for probe in probes {
            let mut holders = Vec::new();
            for scope in &scopes {
                match probe(scope, run) {
                    Ok(true) => holders.push(Rc::clone(scope)),
                    Ok(false) => {}
                    Err(error) => *unknown = Some(error),
                }
            }
            if holders.len() > 1 {
                let names: Vec<&str> = holders.iter().map(|scope| scope.outside.as_str()).collect();
                return Err(Error::Conflict {
                    current: None,
                    message: format!(
                        "run {:?} is in more than one experiment: {}; open the store of one of them",
                        run.as_str(),
                        names.join(", ")
                    ),
                });
            }
            if let Some(holder) = holders.pop() {
                return Ok(Some(holder));
            }
        }
        Ok(None)
    }

    /// Returns the scope to write a run to: the store's own. A collection refuses to write a second copy
    /// of a run that one of its experiments holds.
    fn writer(&self, run: &RunId) -> Result<&Scope> {
        if self.scope.experiment.is_none() && self.scope.options.access == Access::ReadWrite {
            let mut unknown = None;
            let owner = self.find_owner(run, &mut unknown)?;
            if let Some(error) = unknown {
                // The run may be the unreadable experiment's.
                return Err(error);
            }
            if let Some(experiment) = owner.as_ref().and_then(|owner| owner.experiment.as_ref()) {
                return Err(Error::Conflict {
                    current: None,
                    message: format!(
                        "run {:?} belongs to experiment {:?}, and the store was opened on the whole collection; open the store of that experiment to write",
                        run.as_str(),
                        experiment.as_str()
                    ),
                });
            }
        }
        Ok(&self.scope)
    }

    // --- run records ---------------------------------------------------------------------------------

    fn prepare_record<'a>(&'a self, record: Object<'a>) -> Result<PreparedRecord<'a>> {
        let record = self.scope.prepare_record(record)?;
        self.writer(&record.run)?;
        Ok(record)
    }

    /// Does the same for a batch, which keeps no trees.
    fn prepare_one_of_many<'a>(&'a self, record: Object<'a>) -> Result<PreparedRecord<'a>> {
        let mut prepared = self.prepare_record(record)?;
        prepared.record = None;
        Ok(prepared)
    }

    /// Stores a run record.
    ///
    /// # Errors
    /// `invalid-name`, `invalid-argument`, `conflict`, `locked`, `read-only`, `io`.
    pub fn put_run_record(&self, record: &RunRecord, expect: &Expectation) -> Result<String> {
        let record = self.prepare_record(codec::run_record_to(record)?)?;
        self.scope.put_record(&record, expect)
    }

    /// Stores a run record given as JSON text.
    ///
    /// # Errors
    /// As `put_run_record`.
    pub fn put_run_text(&self, record: &str, expect: &Expectation) -> Result<String> {
        let record = self.prepare_record(codec::parse_argument_object("the record", record)?)?;
        self.scope.put_record(&record, expect)
    }

    /// Stores many records; the outcomes are in their order.
    ///
    /// # Errors
    /// `read-only`.
    pub fn put_run_records(&self, records: &[RunRecord]) -> Result<Vec<Result<String>>> {
        let prepare = |record| self.prepare_one_of_many(codec::run_record_to(record)?);
        self.scope
            .put_records(records.iter().map(prepare).collect())
    }

    /// Stores many records given as lines of JSON text; empty lines are skipped.
    ///
    /// # Errors
    /// `read-only`.
    pub fn put_run_lines(&self, lines: &str) -> Result<Vec<Result<String>>> {
        let prepare =
            |line| self.prepare_one_of_many(codec::parse_argument_object("the record", line)?);
        let lines = lines.lines().filter(|line| !line.trim().is_empty());
        self.scope.put_records(lines.map(prepare).collect())
    }

    fn content(&self, run_id: &str) -> Result<Option<Found>> {
        let run = RunId::parse(run_id)?;
        let scope = self.owner(&run)?;
        let content = scope.record_content(&run)?;
        Ok(content.map(|content| (scope, run, content)))
    }

    /// Returns a run record.
    ///
    /// # Errors
    /// `invalid-name`, `conflict`, `corrupt`, `unrepresentable`, `io`.
    pub fn get_run_record(&self, run_id: &str) -> Result<Option<RunRecord>> {
        let Some((scope, run, content)) = self.content(run_id)? else {
            return Ok(None);
        };
        scope.load_record(&run, &content).map(Some)
    }

    /// Returns a run record with its revision.
    ///
    /// # Errors
    /// As `get_run_record`.
    pub fn get_versioned_run(&self, run_id: &str) -> Result<Option<(String, RunRecord)>> {
        let Some((scope, run, content)) = self.content(run_id)? else {
            return Ok(None);
        };
        Ok(Some((
            revision(&content),
            scope.load_record(&run, &content)?,
        )))
    }

    /// Returns the text of a run record's file.
    ///
    /// # Errors
    /// `invalid-name`, `conflict`, `corrupt` if it is not UTF-8, `io`.
    pub fn get_run_text(&self, run_id: &str) -> Result<Option<String>> {
        let Some((scope, run, content)) = self.content(run_id)? else {
            return Ok(None);
        };
        utf8(&scope, &layout::run_record(&run), content).map(Some)
    }

    /// Returns a run record as a typed line.
    ///
    /// # Errors
    /// As `get_run_record`.
    pub fn get_typed_run_text(&self, run_id: &str) -> Result<Option<String>> {
        let Some((scope, run, content)) = self.content(run_id)? else {
            return Ok(None);
        };
        let file = || scope.tree.path(&layout::run_record(&run));
        let mut line = String::new();
        codec::push_line(LineForm::Typed, &file, &content, &mut line)?;
        Ok(Some(line))
    }

    /// Names the file of something, relative to the collection's root, whether it is there or not.
    ///
    /// # Errors
    /// `invalid-name`, `conflict`, `io`.
    pub fn file_of(&self, document: &Document) -> Result<String> {
        let (scope, path) = match document {
            Document::RunRecord(run) => self.file_of_run(run, layout::run_record)?,
            Document::Derived(run) => self.file_of_run(run, layout::derived)?,
            Document::Result(run, name) => {
                let name = ResultName::parse(name)?;
                self.file_of_run(run, |run| layout::result(run, &name))?
            }
            Document::ArtifactManifest(run) => self.file_of_run(run, layout::artifact_manifest)?,
            Document::ExperimentManifest(header) => {
                let experiment = ExperimentId::parse(&header.experiment_id)?;
                let stamp = ManifestStamp::parse(&header.timestamp)?;
                let path = layout::experiment_manifest(&experiment, &stamp, header.counter)?;
                (self.manifest_scope(&experiment)?, path)
            }
        };
        Ok(scope.tree.path(&path))
    }

    fn file_of_run(
        &self,
        run: &str,
        path: impl FnOnce(&RunId) -> StorePath,
    ) -> Result<(Rc<Scope>, StorePath)> {
        let run = RunId::parse(run)?;
        Ok((self.owner(&run)?, path(&run)))
    }

    /// Lists run records, of one experiment or of all.
    ///
    /// # Errors
    /// `io`. A file that cannot be read is reported by the list and hides no other.
    pub fn list_run_records(&self, experiment_id: Option<&str>) -> Result<RunListing> {
        self.list(
            experiment_id,
            &Query::parse(&QueryText::default(), 0)?,
            false,
        )
    }

    /// Lists runs: out of the database where it is believed, else out of the files.
    fn list(&self, experiment: Option<&str>, query: &Query, check: bool) -> Result<RunListing> {
        let (scopes, damaged) = self.scopes()?;
        let access = self.scope.options.access;
        // Whoever wants every file looked at does not want the database's word for it.
        if !check
            && let Some(list) = DatabaseList::open(&scopes, access, experiment, query, &damaged)?
        {
            return Ok(RunListing::Database(Box::new(list)));
        }
        let list = RunList::open(scopes, experiment, query, damaged, check)?;
        Ok(RunListing::Files(list))
    }

    /// Lists the runs that a query asks for.
    ///
    /// # Errors
    /// `invalid-query`, `io`. A file that cannot be read is reported by the list and hides no other.
    pub fn query_runs(&self, query: &QueryText<'_>) -> Result<RunListing> {
        let check = query.check;
        let now = self.scope.ports.clock.now() / 1_000;
        let query = Query::parse(query, i64::try_from(now).unwrap_or(i64::MAX))?;
        self.list(None, &query, check)
    }

    /// Lists the same by a look at every file, without the index: what it has to agree with.
    ///
    /// # Errors
    /// As `query_runs`.
    #[cfg(not(target_family = "wasm"))]
    pub fn scan_runs(&self, query: &QueryText<'_>) -> Result<RunListing> {
        let now = self.scope.ports.clock.now() / 1_000;
        let query = Query::parse(query, i64::try_from(now).unwrap_or(i64::MAX))?;
        let (scopes, damaged) = self.scopes()?;
        RunList::scan(scopes, None, &query, damaged).map(RunListing::Files)
    }

    /// Returns the same as `list_fields` by a look at every file, without the index.
    ///
    /// # Errors
    /// As `list_fields`.
    #[cfg(not(target_family = "wasm"))]
    pub fn scan_fields(&self, filter: &str) -> Result<FieldCatalogue> {
        let now = self.scope.ports.clock.now() / 1_000;
        let query = QueryText {
            filter,
            ..QueryText::default()
        };
        let query = Query::parse(&query, i64::try_from(now).unwrap_or(i64::MAX))?;
        let (scopes, damaged) = self.scopes()?;
        run_list::scanned_catalogue(&scopes, &query, damaged)
    }

    /// Returns which fields the runs have that a filter matches.
    ///
    /// # Errors
    /// `invalid-query`, `io`. A file that cannot be read is reported and hides no other.
    pub fn list_fields(&self, filter: &str) -> Result<FieldCatalogue> {
        let now = self.scope.ports.clock.now() / 1_000;
        let query = QueryText {
            filter,
            ..QueryText::default()
        };
        let query = Query::parse(&query, i64::try_from(now).unwrap_or(i64::MAX))?;
        let (scopes, damaged) = self.scopes()?;
        let access = self.scope.options.access;
        if let Some(found) = database::listing::catalogue(&scopes, access, &query, &damaged)? {
            return Ok(found);
        }
        run_list::catalogue(&scopes, &query, damaged)
    }

    /// Returns how the query index is.
    ///
    /// # Errors
    /// `io`.
    pub fn index_state(&self) -> Result<IndexState> {
        let (scopes, _) = self.scopes()?;
        database::rebuild::index_state(&scopes)
    }

    /// Begins to bring the query index up to date with the files, and to remove what it has of the experiments in `prune`,
    /// whose directories are not there any more.
    ///
    /// # Errors
    /// `read-only`, `database`, `locked`, `not-granted`, `io`; `invalid-argument` on a store of files alone, and for an
    /// experiment to be pruned that has a directory or is not this store's; `invalid-name`.
    pub fn rebuild_index(&self, prune: &[String]) -> Result<IndexRebuild> {
        self.scope.refuse_read_only()?;
        let (scopes, damaged) = self.scopes()?;
        IndexRebuild::begin(scopes, damaged, prune)
    }

    /// Says whether there is a file for the run's record.
    ///
    /// # Errors
    /// `invalid-name`, `io`.
    pub fn run_exists(&self, run_id: &str) -> Result<bool> {
        let run = RunId::parse(run_id)?;
        let (scopes, _) = self.scopes()?;
        let mut unknown = None;
        for scope in scopes {
            match scope.tree.stat(&layout::run_record(&run)) {
                Ok(Some(_)) => return Ok(true),
                Ok(None) => {}
                Err(error) => unknown = Some(error),
            }
        }
        unknown.map_or(Ok(false), Err)
    }

    /// Deletes a run with everything that belongs to it, and says whether there was anything.
    ///
    /// # Errors
    /// `invalid-name`, `conflict`, `locked`, `read-only`, `io`.
    pub fn delete_run(&self, run_id: &str) -> Result<bool> {
        let run = RunId::parse(run_id)?;
        self.writer(&run)?.delete_run(&run)
    }

    // --- derived metrics and results -----------------------------------------------------------------

    /// Stores the derived metrics of a run.
    ///
    /// # Errors
    /// `invalid-name`, `invalid-argument`, `conflict`, `locked`, `read-only`, `io`.
    pub fn put_derived(&self, run_id: &str, metrics: &[Metric]) -> Result<String> {
        let run = RunId::parse(run_id)?;
        self.writer(&run)?
            .put_derived(&run, codec::metrics_to(metrics)?)
    }

    /// Stores the derived metrics of a run given as a JSON object.
    ///
    /// # Errors
    /// As `put_derived`.
    pub fn put_derived_text(&self, run_id: &str, derived: &str) -> Result<String> {
        let run = RunId::parse(run_id)?;
        let derived = codec::parse_argument_object("the derived metrics", derived)?;
        self.writer(&run)?.put_derived(&run, derived)
    }

    /// Stores the derived metrics of many runs; the outcomes are in their order.
    ///
    /// # Errors
    /// `read-only`.
    pub fn put_derived_batch(
        &self,
        derived: &[(String, Vec<Metric>)],
    ) -> Result<Vec<Result<String>>> {
        let prepare = |(run_id, metrics): &(String, Vec<Metric>)| {
            let run = RunId::parse(run_id)?;
            self.writer(&run)?;
            let text = codec::print(&Value::Object(codec::metrics_to(metrics)?));
            Ok(PreparedRecord {
                run,
                text,
                record: None,
            })
        };
        self.scope
            .put_derived_batch(derived.iter().map(prepare).collect())
    }

    /// Returns the derived metrics of a run.
    ///
    /// # Errors
    /// `invalid-name`, `conflict`, `corrupt`, `unrepresentable`, `io`.
    pub fn get_derived(&self, run_id: &str) -> Result<Option<Vec<Metric>>> {
        let run = RunId::parse(run_id)?;
        self.owner(&run)?.get_derived(&run)
    }

    /// Returns the text of the derived metrics' file.
    ///
    /// # Errors
    /// `invalid-name`, `conflict`, `corrupt` if it is not UTF-8, `io`.
    pub fn get_derived_text(&self, run_id: &str) -> Result<Option<String>> {
        let run = RunId::parse(run_id)?;
        let scope = self.owner(&run)?;
        let content = scope.derived_content(&run)?;
        content
            .map(|content| utf8(&scope, &layout::derived(&run), content))
            .transpose()
    }

    /// Says whether a run has derived metrics.
    ///
    /// # Errors
    /// `invalid-name`, `conflict`, `io`.
    pub fn derived_exists(&self, run_id: &str) -> Result<bool> {
        let run = RunId::parse(run_id)?;
        Ok(self
            .owner(&run)?
            .tree
            .stat(&layout::derived(&run))?
            .is_some())
    }

    /// Stores structured result data.
    ///
    /// # Errors
    /// `invalid-name`, `invalid-argument`, `conflict`, `locked`, `read-only`, `io`.
    pub fn put_result(
        &self,
        run_id: &str,
        name: &str,
        result: &StructuredResult,
    ) -> Result<String> {
        let (run, name) = (RunId::parse(run_id)?, ResultName::parse(name)?);
        self.writer(&run)?.put_result(&run, &name, result)
    }

    /// Returns structured result data.
    ///
    /// # Errors
    /// `invalid-name`, `conflict`, `corrupt`, `unrepresentable`, `io`.
    pub fn get_result(&self, run_id: &str, name: &str) -> Result<Option<StructuredResult>> {
        let (run, name) = (RunId::parse(run_id)?, ResultName::parse(name)?);
        self.owner(&run)?.get_result(&run, &name)
    }

    /// Returns the text of a result's file.
    ///
    /// # Errors
    /// `invalid-name`, `conflict`, `corrupt` if it is not UTF-8, `io`.
    pub fn get_result_text(&self, run_id: &str, name: &str) -> Result<Option<String>> {
        let (run, name) = (RunId::parse(run_id)?, ResultName::parse(name)?);
        let scope = self.owner(&run)?;
        let content = scope.result_content(&run, &name)?;
        content
            .map(|content| utf8(&scope, &layout::result(&run, &name), content))
            .transpose()
    }

    /// Lists the names of a run's results, sorted.
    ///
    /// # Errors
    /// `invalid-name`, `conflict`, `io`.
    pub fn list_results(&self, run_id: &str) -> Result<Vec<String>> {
        let run = RunId::parse(run_id)?;
        self.owner(&run)?.list_results(&run)
    }

    // --- logs ----------------------------------------------------------------------------------------

    /// Stores a log whole.
    ///
    /// # Errors
    /// `invalid-name`, `conflict`, `locked`, `read-only`, `io`.
    pub fn put_log(&self, run_id: &str, name: &str, content: &str) -> Result<()> {
        let (run, name) = (RunId::parse(run_id)?, LogName::parse(name)?);
        self.writer(&run)?.put_log(&run, &name, content)
    }

    /// Appends to a log and returns its new size.
    ///
    /// # Errors
    /// As `put_log`.
    pub fn append_log(&self, run_id: &str, name: &str, content: &str, sync: bool) -> Result<u64> {
        let (run, name) = (RunId::parse(run_id)?, LogName::parse(name)?);
        self.writer(&run)?.append_log(&run, &name, content, sync)
    }

    /// Returns a log whole.
    ///
    /// # Errors
    /// `invalid-name`, `conflict`, `corrupt` if it is not UTF-8, `too-large`, `io`.
    pub fn get_log(&self, run_id: &str, name: &str) -> Result<Option<String>> {
        let (run, name) = (RunId::parse(run_id)?, LogName::parse(name)?);
        self.owner(&run)?.get_log(&run, &name)
    }

    /// Reads a piece of a log.
    ///
    /// # Errors
    /// `invalid-name`, `conflict`, `io`.
    pub fn read_log(
        &self,
        run_id: &str,
        name: &str,
        offset: u64,
        max_bytes: u32,
    ) -> Result<Option<LogChunk>> {
        let (run, name) = (RunId::parse(run_id)?, LogName::parse(name)?);
        self.owner(&run)?.read_log(&run, &name, offset, max_bytes)
    }

    /// Lists the names of a run's logs, sorted.
    ///
    /// # Errors
    /// `invalid-name`, `conflict`, `io`.
    pub fn list_logs(&self, run_id: &str) -> Result<Vec<String>> {
        let run = RunId::parse(run_id)?;
        self.owner(&run)?.list_logs(&run)
    }

    /// Returns where a program may write a log itself.
    ///
    /// # Errors
    /// `invalid-name`, `conflict`, `io`.
    pub fn get_log_path(&self, run_id: &str, name: &str) -> Result<String> {
        let (run, name) = (RunId::parse(run_id)?, LogName::parse(name)?);
        self.writer(&run)?.log_path(&run, &name)
    }

    // --- artifacts -----------------------------------------------------------------------------------

    /// Stores a small artifact.
    ///
    /// # Errors
    /// `invalid-name`, `invalid-argument`, `too-large`, `locked`, `read-only`, `io`.
    pub fn put_artifact(
        &self,
        content: &[u8],
        descriptor: ArtifactDescriptor,
    ) -> Result<ArtifactDescriptor> {
        self.artifact_writer_scope(&descriptor)?
            .put_artifact(content, descriptor)
    }

    /// Begins an artifact of any size.
    ///
    /// # Errors
    /// As `put_artifact`.
    pub fn create_artifact(&self, descriptor: ArtifactDescriptor) -> Result<ArtifactWriter> {
        self.artifact_writer_scope(&descriptor)?
            .create_artifact(descriptor)
    }

    fn artifact_writer_scope(&self, descriptor: &ArtifactDescriptor) -> Result<&Scope> {
        self.writer(&Scope::artifact_run(descriptor)?)
    }

    /// Names a file in which the host may place an artifact's bytes.
    ///
    /// # Errors
    /// `invalid-name`, `invalid-argument`, `conflict`, `read-only`, `io`.
    pub fn stage_artifact(&self, descriptor: ArtifactDescriptor) -> Result<String> {
        self.artifact_writer_scope(&descriptor)?
            .stage_artifact(descriptor)
    }

    /// Stores the artifact that the host placed in a staged file.
    ///
    /// # Errors
    /// As `put_artifact`.
    pub fn import_artifact(
        &self,
        staged: &str,
        descriptor: ArtifactDescriptor,
    ) -> Result<ArtifactDescriptor> {
        let allowed = self.artifact_writer_scope(&descriptor).map(|_| ());
        self.scope.import_artifact(staged, descriptor, allowed)
    }

    /// Returns a whole artifact of at most 256 KiB.
    ///
    /// # Errors
    /// `invalid-name`, `invalid-argument`, `not-found`, `too-large`, `io`.
    pub fn get_artifact(&self, artifact: &ArtifactReference) -> Result<Vec<u8>> {
        self.open_artifact(artifact, false)?.read_whole()
    }

    /// Opens an artifact for reading.
    ///
    /// # Errors
    /// `invalid-name`, `invalid-argument`, `not-found`, `corrupt` if it was to be verified and differs.
    pub fn open_artifact(
        &self,
        artifact: &ArtifactReference,
        verify: bool,
    ) -> Result<ArtifactReader> {
        let scope = match artifact {
            ArtifactReference::Name(run, _) => self.owner(&RunId::parse(run)?)?,
            ArtifactReference::Uri(uri) => self.uri_scope(uri)?,
        };
        scope.open_artifact(artifact, verify)
    }

    /// Finds the scope that a uri points into: by the directory before its tail.
    fn uri_scope(&self, uri: &str) -> Result<Rc<Scope>> {
        let Some((directory, _, _)) = layout::artifact_tail(uri) else {
            return Ok(Rc::clone(&self.scope));
        };
        let base = |scope: &Scope| scope.outside.rsplit('/').next().map(str::to_owned);
        let (scopes, _) = self.scopes()?;
        for scope in scopes.iter().rev() {
            if base(scope).as_deref() == directory {
                return Ok(Rc::clone(scope));
            }
        }
        if self.scope.experiment.is_some() && directory.is_some() {
            return Err(Error::NotGranted(format!(
                "{uri:?} lies in another directory than this store, {}; open the artifact by run and name, or the store it belongs to",
                self.scope.outside
            )));
        }
        Ok(Rc::clone(&self.scope))
    }

    /// Lists the artifacts of a run.
    ///
    /// # Errors
    /// `invalid-name`, `conflict`, `corrupt`, `io`.
    pub fn list_artifacts(&self, run_id: &str) -> Result<Vec<ArtifactDescriptor>> {
        let run = RunId::parse(run_id)?;
        self.owner(&run)?.list_artifacts(&run)
    }

    // --- transfer ------------------------------------------------------------------------------------

    /// Begins to hand out what is selected, to be taken by another store.
    ///
    /// # Errors
    /// `invalid-query`, `invalid-name`, `not-found` for an experiment that is not there, `conflict`, `io`.
    pub fn send(&self, selection: Selection) -> Result<Sender> {
        let (scopes, damaged) = self.scopes()?;
        Sender::new(scopes, damaged, selection)
    }

    /// Begins to take what another store hands out, or the rest that another receiver handed over.
    ///
    /// # Errors
    /// `read-only`, `invalid-argument`, `io`.
    pub fn receive(&self, options: ReceiveOptions, handover: Option<&[u8]>) -> Result<Receiver> {
        Receiver::new(Rc::clone(&self.scope), options, handover)
    }

    // --- verification --------------------------------------------------------------------------------

    /// Begins to check that everything is what its writers wrote.
    ///
    /// # Errors
    /// `read-only` if it is to repair a store that is, `io`.
    pub fn verify(&self, options: VerifyOptions) -> Result<Verification> {
        let (scopes, damaged) = if options.below {
            self.scopes()?
        } else {
            (vec![Rc::clone(&self.scope)], Vec::new())
        };
        Verification::begin(scopes, damaged, options)
    }

    /// Begins to look for what dead writers left in the store's own directory, and to remove it.
    ///
    /// # Errors
    /// `read-only`, `io`.
    pub fn collect_garbage(&self, options: GarbageOptions) -> Result<Collection> {
        Collection::begin(Rc::clone(&self.scope), options)
    }

    // --- manifests -----------------------------------------------------------------------------------

    /// Stores a manifest of an experiment.
    ///
    /// # Errors
    /// `invalid-name`, `invalid-argument`, `conflict`, `locked`, `read-only`, `io`.
    pub fn put_experiment_manifest(
        &self,
        experiment_id: &str,
        body: &str,
        timestamp: Option<&str>,
    ) -> Result<ManifestHeader> {
        let experiment = ExperimentId::parse(experiment_id)?;
        let stamp = timestamp.map(ManifestStamp::parse_numbered).transpose()?;
        let body = codec::parse_argument_object("the manifest", body)?;
        let (stamp, first) = stamp.unzip();
        self.scope
            .put_manifest(&experiment, body, stamp.as_ref(), first.unwrap_or_default())
    }

    /// Finds the scope that holds an experiment's manifests.
    fn manifest_scope(&self, experiment: &ExperimentId) -> Result<Rc<Scope>> {
        let (scopes, _) = self.scopes()?;
        let own = scopes
            .iter()
            .find(|scope| scope.experiment.as_ref() == Some(experiment));
        Ok(Rc::clone(own.unwrap_or(&self.scope)))
    }

    /// Returns the newest manifest of an experiment.
    ///
    /// # Errors
    /// `invalid-name`, `corrupt`, `io`.
    pub fn get_experiment_manifest(&self, experiment_id: &str) -> Result<Option<Manifest>> {
        let experiment = ExperimentId::parse(experiment_id)?;
        self.manifest_scope(&experiment)?
            .newest_manifest(&experiment)
    }

    /// Lists the manifests of an experiment, the newest first.
    ///
    /// # Errors
    /// `invalid-name`, `io`.
    pub fn list_experiment_manifests(&self, experiment_id: &str) -> Result<Vec<ManifestHeader>> {
        let experiment = ExperimentId::parse(experiment_id)?;
        self.manifest_scope(&experiment)?
            .list_manifests(&experiment)
    }
}

/// Turns a file's content into text.
fn utf8(scope: &Scope, path: &layout::StorePath, content: Vec<u8>) -> Result<String> {
    String::from_utf8(content).map_err(|error| {
        let offset = error.utf8_error().valid_up_to() as u64;
        Error::corrupt(scope.tree.path(path), Some(offset), "it is not UTF-8")
    })
}
