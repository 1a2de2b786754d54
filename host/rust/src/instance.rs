//! One instance of the component, with its state and its limits.

use crate::bindings::MetalabStore;
use crate::engine::{Engine, TICK, table};
use crate::error::{Error, Result};
use crate::grant::Grant;
use crate::pool::Answer;
use crate::postgres::{Bindings, PostgresView};
use crate::roots::{RootsContext, RootsView};
use std::time::Duration;
use wasmtime::component::{ResourceTable, ResourceTableError};
use wasmtime::{ResourceLimiter, Store, Trap};
use wasmtime_wasi::p2::pipe::MemoryOutputPipe;
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};

/// How many bytes of what the component says when it fails are kept.
const STDERR_BYTES: usize = 4096;

/// What an instance of the component may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Memory in bytes, all linear memories together. Default 1 GiB.
    pub memory_bytes: usize,
    /// Entries of tables, all tables together. Default 100,000.
    pub table_entries: usize,
    /// How long one call may take, waiting for locks and for the disk included. Default 10 minutes.
    pub call_deadline: Duration,
    /// How many resources it may hold at once: files, locks, readers. Default 4,096.
    pub resources: usize,
    /// How many bytes it may pass to the host in one call or answer. Default 256 MiB: the largest text of the
    /// contract has 64 MiB, and typed values weigh more than their text.
    pub host_call_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: 1 << 30,
            table_entries: 100_000,
            call_deadline: Duration::from_mins(10),
            resources: 4096,
            host_call_bytes: 256 << 20,
        }
    }
}

/// What an instance's host calls work on.
pub(crate) struct State {
    wasi: WasiCtx,
    table: ResourceTable,
    roots: RootsContext,
    postgres: Bindings,
    limiter: Limiter,
    stderr: MemoryOutputPipe,
}

impl State {
    /// Returns what the `roots` import works on.
    pub(crate) fn roots(&mut self) -> RootsView<'_> {
        RootsView {
            context: &self.roots,
            table: &mut self.table,
        }
    }
}

impl State {
    /// Returns what the `postgres` import works on.
    pub(crate) fn postgres(&mut self) -> PostgresView<'_> {
        PostgresView {
            bindings: &self.postgres,
            table: &mut self.table,
        }
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

/// An instance of the component.
pub(crate) struct Instance {
    engine: Engine,
    pub(crate) store: Store<State>,
    pub(crate) bindings: MetalabStore,
    limits: Limits,
}

impl Instance {
    /// Starts an instance that sees a directory, or nothing.
    pub(crate) fn new(engine: &Engine, grant: Option<&Grant>, limits: Limits) -> Result<Self> {
        let stderr = MemoryOutputPipe::new(STDERR_BYTES);
        let mut builder = WasiCtxBuilder::new();
        builder.stderr(stderr.clone());
        let roots = match grant {
            Some(grant) => {
                grant.apply(&mut builder)?;
                // Past the deadline, so that whoever waited longer than the call may take is ended for that reason.
                grant
                    .roots()?
                    .longest_wait(limits.call_deadline.saturating_add(TICK * 2))
            }
            None => RootsContext::none(),
        };
        let state = State {
            wasi: builder.build(),
            table: table(limits.resources),
            roots,
            postgres: grant.map(Grant::bindings).unwrap_or_default(),
            limiter: Limiter::new(limits),
            stderr,
        };
        let mut store = Store::new(engine.wasmtime(), state);
        store.limiter(|state| &mut state.limiter);
        store.set_hostcall_fuel(limits.host_call_bytes);
        store.set_epoch_deadline(ticks(limits.call_deadline));
        let _ticking = engine.ticking();
        match engine.pre().instantiate(&mut store) {
            Ok(bindings) => Ok(Self {
                engine: engine.clone(),
                store,
                bindings,
                limits,
            }),
            Err(error) => Err(exceeded(&store, &error, limits)
                .unwrap_or_else(|| Error::Engine(format!("{error:#}")))),
        }
    }

    /// Makes a call, which has its whole time. After an outer error the instance must not be used again.
    pub(crate) fn call<T>(
        &mut self,
        function: impl FnOnce(&mut Self) -> Answer<T>,
    ) -> std::result::Result<Result<T>, Error> {
        self.store
            .set_epoch_deadline(ticks(self.limits.call_deadline));
        let _ticking = self.engine.ticking();
        match function(self) {
            Ok(answer) => Ok(answer.map_err(Error::from)),
            Err(error) => Err(self.failure(&error)),
        }
    }

    /// Turns a failure of the component into an error.
    fn failure(&self, error: &wasmtime::Error) -> Error {
        if let Some(error) = exceeded(&self.store, error, self.limits) {
            return error;
        }
        // The outer causes are a list of addresses; what the component said last is its panic's message.
        let cause = error.root_cause();
        let said = self.store.data().stderr.contents();
        // Whoever prints it does not want the terminal steered by a component.
        let said = String::from_utf8_lossy(&said).replace(
            |character: char| character.is_control() && character != '\n',
            "\u{fffd}",
        );
        Error::Trap(if said.trim().is_empty() {
            cause.to_string()
        } else {
            format!("{cause}: {}", said.trim())
        })
    }
}

/// Says which limit a failure is about, if it is about one.
fn exceeded(store: &Store<State>, error: &wasmtime::Error, limits: Limits) -> Option<Error> {
    let what = match (&store.data().limiter.refused, error.downcast_ref::<Trap>()) {
        (Some(refused), _) => refused.clone(),
        (None, Some(Trap::Interrupt)) => {
            format!("a call took longer than {:?}", limits.call_deadline)
        }
        (None, Some(Trap::StackOverflow)) => "its stack is used up".to_owned(),
        _ if matches!(
            error.downcast_ref::<ResourceTableError>(),
            Some(ResourceTableError::Full)
        ) =>
        {
            format!("more than {} resources at once", limits.resources)
        }
        _ => return None,
    };
    Some(Error::LimitExceeded(what))
}

/// Counts what an instance takes, and remembers what it was refused: a trap alone does not tell.
pub(crate) struct Limiter {
    limits: Limits,
    memory: usize,
    entries: usize,
    pub(crate) refused: Option<String>,
}

impl Limiter {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            memory: 0,
            entries: 0,
            refused: None,
        }
    }

    fn refuse(&mut self, what: String) -> wasmtime::Result<bool> {
        let error = wasmtime::Error::msg(what.clone());
        self.refused = Some(what);
        Err(error)
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let total = self.memory.saturating_add(desired.saturating_sub(current));
        if total > self.limits.memory_bytes {
            let limit = self.limits.memory_bytes;
            return self.refuse(format!("more than {limit} bytes of memory"));
        }
        self.memory = total;
        Ok(true)
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        self.refuse(format!("the system gave it no more memory: {error}"))?;
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let total = self.entries.saturating_add(desired.saturating_sub(current));
        if total > self.limits.table_entries {
            let limit = self.limits.table_entries;
            return self.refuse(format!("more than {limit} entries of tables"));
        }
        self.entries = total;
        Ok(true)
    }
}

fn ticks(deadline: Duration) -> u64 {
    u64::try_from(deadline.as_millis() / TICK.as_millis())
        .unwrap_or(u64::MAX / 2)
        .saturating_add(1)
}
