//! Derived metrics (`derived/{run-id}.json`) and structured results (`results/{run-id}/{name}.json`).

use crate::codec;
use crate::commit::Change;
use crate::error::Result;
use crate::json::{Object, Value};
use crate::layout;
use crate::model::{Metric, StructuredResult};
use crate::names::{ResultName, RunId};
use crate::records::PreparedRecord;
use crate::scope::Scope;

impl Scope {
    /// Stores the derived metrics of a run.
    pub(crate) fn put_derived(&self, run: &RunId, derived: Object<'_>) -> Result<String> {
        self.prepare_write()?;
        let held = self.lock_run(run)?;
        let path = layout::derived(run);
        let previous = self.fingerprint(&path)?;
        let text = codec::print(&Value::Object(derived));
        let change = Change::put(path, previous, text.as_bytes());
        let revision = change.revision();
        let told = self.commit_and_tell(run, &held, change, None);
        drop(held);
        self.tell_noted();
        told.map(|()| revision)
    }

    /// Stores the derived metrics of many runs; the outcomes are in their order.
    pub(crate) fn put_derived_batch(
        &self,
        derived: Vec<Result<PreparedRecord<'_>>>,
    ) -> Result<Vec<Result<String>>> {
        self.put_batch(derived, |scope, _, derived| {
            let path = layout::derived(&derived.run);
            let previous = scope.fingerprint(&path)?;
            Ok(Change::put(path, previous, derived.text.as_bytes()))
        })
    }

    /// Returns the content of the derived metrics' file.
    pub(crate) fn derived_content(&self, run: &RunId) -> Result<Option<Vec<u8>>> {
        self.tree.read(&layout::derived(run), codec::MAX_DOCUMENT)
    }

    /// Returns the derived metrics of a run.
    pub(crate) fn get_derived(&self, run: &RunId) -> Result<Option<Vec<Metric>>> {
        let Some(content) = self.derived_content(run)? else {
            return Ok(None);
        };
        let file = self.tree.path(&layout::derived(run));
        codec::metrics_from(&file, codec::parse_object(&file, &content)?).map(Some)
    }

    /// Stores structured result data.
    pub(crate) fn put_result(
        &self,
        run: &RunId,
        name: &ResultName,
        result: &StructuredResult,
    ) -> Result<String> {
        let path = layout::result(run, name);
        let object = codec::structured_result_to(result)?;
        self.prepare_write()?;
        let held = self.lock_run(run)?;
        self.publish(&held, path, codec::print(&Value::Object(object)).as_bytes())
    }

    /// Returns the content of a result's file.
    pub(crate) fn result_content(&self, run: &RunId, name: &ResultName) -> Result<Option<Vec<u8>>> {
        self.tree
            .read(&layout::result(run, name), codec::MAX_DOCUMENT)
    }

    /// Returns structured result data.
    pub(crate) fn get_result(
        &self,
        run: &RunId,
        name: &ResultName,
    ) -> Result<Option<StructuredResult>> {
        let Some(content) = self.result_content(run, name)? else {
            return Ok(None);
        };
        let file = self.tree.path(&layout::result(run, name));
        codec::structured_result(&file, codec::parse_object(&file, &content)?).map(Some)
    }

    /// Lists the names of a run's results, sorted.
    pub(crate) fn list_results(&self, run: &RunId) -> Result<Vec<String>> {
        let entries = self.tree.list(&layout::result_directory(run))?;
        let mut names: Vec<String> = entries
            .iter()
            .filter_map(|entry| layout::result_of(&entry.name))
            .map(|name| name.as_str().to_owned())
            .collect();
        names.sort_unstable();
        Ok(names)
    }
}
