//! What a plugin sees: the calls of the contract's `view`, answered by the store component.

use super::State;
use crate::artifact::ArtifactReader;
use crate::bindings::exports::metalab::store::types::Error as Wire;
use crate::error::Result;
use crate::store::Store;
use crate::types::{
    ArtifactDescriptor, ArtifactReference, LogChunk, Metric, RunQuery, RunRecord, StructuredResult,
};
use wasmtime::StoreContextMut;
use wasmtime::component::Linker;

/// The interface, of the version that this host knows.
pub(super) const VIEW: &str = "metalab:store/view@0.1.0";

/// The most runs of a list.
const LIST: u32 = 4096;

/// The most bytes of a piece of an artifact.
const CHUNK: u32 = 256 * 1024;

/// What the calls of one run work on.
pub(super) struct View {
    store: Store,
    calls: u64,
    /// The artifact that was read last: its pieces are read one after the other.
    reader: Option<(String, String, ArtifactReader)>,
    /// Why a call ended the run, if it was not the plugin that failed.
    pub(super) ended: Option<Ended>,
}

/// Why a call of the view ends the run.
pub(super) enum Ended {
    /// It was one too many.
    Calls,
    /// The store failed in a way that the contract has no word for.
    Store(crate::Error),
}

/// An answer of the view; the outer error ends the run.
type Answer<T> = wasmtime::Result<(std::result::Result<T, Wire>,)>;

impl View {
    /// Makes the view of a store, for so many calls.
    pub(super) fn new(store: Store, calls: u64) -> Self {
        Self {
            store,
            calls,
            reader: None,
            ended: None,
        }
    }

    /// Passes a call on to the store.
    fn call<T>(&mut self, function: impl FnOnce(&Store) -> Result<T>) -> Answer<T> {
        self.counted()?;
        let answer = function(&self.store);
        self.answer(answer)
    }

    fn counted(&mut self) -> wasmtime::Result<()> {
        let Some(left) = self.calls.checked_sub(1) else {
            self.ended = Some(Ended::Calls);
            return Err(wasmtime::Error::msg("the budget of calls is used up"));
        };
        self.calls = left;
        Ok(())
    }

    fn answer<T>(&mut self, answer: Result<T>) -> Answer<T> {
        match answer {
            Ok(value) => Ok((Ok(value),)),
            Err(error) => match error.into_wire() {
                Ok(wire) => Ok((Err(wire),)),
                // The store's own failure: its next call finds a fresh instance, this run does not go on.
                Err(error) => {
                    let message = error.to_string();
                    self.ended = Some(Ended::Store(error));
                    Err(wasmtime::Error::msg(message))
                }
            },
        }
    }

    fn read_artifact(
        &mut self,
        run: String,
        name: String,
        offset: u64,
        max: u32,
    ) -> Answer<Vec<u8>> {
        self.counted()?;
        let read = self.read_piece(run, name, offset, max);
        self.answer(read)
    }

    fn read_piece(&mut self, run: String, name: String, offset: u64, max: u32) -> Result<Vec<u8>> {
        let kept = self.reader.take();
        let mut reader = match kept {
            Some((of, named, reader)) if of == run && named == name => reader,
            _ => {
                let artifact = ArtifactReference::Name((run.clone(), name.clone()));
                self.store.open_artifact(&artifact, false)?
            }
        };
        let piece = reader.read_at(offset, max.min(CHUNK) as usize)?;
        self.reader = Some((run, name, reader));
        Ok(piece)
    }
}

fn list_runs(store: &Store, filter: String, limit: u32) -> Result<Vec<String>> {
    let mut list = store.query_runs(&RunQuery {
        filter,
        columns: "run_id".to_owned(),
        limit: Some(limit.min(LIST)),
        ..RunQuery::default()
    })?;
    super::run_ids(&mut list)
}

/// Defines the view for plugins, and nothing else.
pub(super) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let mut view = linker.instance(VIEW)?;
    // A call of a name and what it returns, as the store's method of the same name takes and returns it.
    macro_rules! pass_on {
        ($name:literal, $method:ident($($argument:ident: $type:ident),*) -> $answer:ty) => {
            view.func_wrap(
                $name,
                |mut context: StoreContextMut<'_, State>, ($($argument,)*): ($($type,)*)| -> Answer<$answer> {
                    context.data_mut().view.call(|store| store.$method($(pass_on!(@ $argument $type)),*))
                },
            )?
        };
        (@ $argument:ident String) => { &$argument };
        (@ $argument:ident $type:ident) => { $argument };
    }
    view.func_wrap(
        "list-runs",
        |mut context: StoreContextMut<'_, State>,
         (filter, limit): (String, u32)|
         -> Answer<Vec<String>> {
            let view = &mut context.data_mut().view;
            view.call(|store| list_runs(store, filter, limit))
        },
    )?;
    pass_on!("get-run-record", get_run_record(run: String) -> Option<RunRecord>);
    pass_on!("get-run-text", get_run_text(run: String) -> Option<String>);
    pass_on!("get-derived", get_derived(run: String) -> Option<Vec<Metric>>);
    pass_on!("list-results", list_results(run: String) -> Vec<String>);
    pass_on!("get-result", get_result(run: String, name: String) -> Option<StructuredResult>);
    pass_on!("list-logs", list_logs(run: String) -> Vec<String>);
    pass_on!(
        "read-log",
        read_log(run: String, name: String, offset: u64, max: u32) -> Option<LogChunk>
    );
    pass_on!("list-artifacts", list_artifacts(run: String) -> Vec<ArtifactDescriptor>);
    view.func_wrap(
        "read-artifact",
        |mut context: StoreContextMut<'_, State>,
         (run, name, offset, max): (String, String, u64, u32)|
         -> Answer<Vec<u8>> {
            context
                .data_mut()
                .view
                .read_artifact(run, name, offset, max)
        },
    )
}
