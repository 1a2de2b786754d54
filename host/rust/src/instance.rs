//! One instance of the component, with its state and its limits.

use crate::bindings::MetalabStore;
use crate::engine::{Engine, TICK, table};
use crate::error::{Error, Result};
use crate::grant::Grant;
use crate::roots::{RootsContext, RootsView};
use std::time::Duration;
use wasmtime::component::ResourceTable;
use wasmtime::{Store, StoreLimits, StoreLimitsBuilder, Trap};
use wasmtime_wasi::p2::pipe::MemoryOutputPipe;
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};

/// How many bytes of what the component says when it fails are kept.
const STDERR_BYTES: usize = 4096;

/// What an instance of the component may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Memory in bytes. Default 1 GiB.
    pub memory_bytes: usize,
    /// How long one call may take, waiting for locks and for the disk included. Default 10 minutes.
    pub call_deadline: Duration,
    /// How many resources it may hold at once: files, locks, readers. Default 4,096.
    pub resources: usize,
    /// How many bytes it may pass to the host in one call. Default 64 MiB.
    pub host_call_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: 1 << 30,
            call_deadline: Duration::from_mins(10),
            resources: 4096,
            host_call_bytes: 64 << 20,
        }
    }
}

/// What an instance's host calls work on.
pub(crate) struct State {
    wasi: WasiCtx,
    table: ResourceTable,
    roots: RootsContext,
    limits: StoreLimits,
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
                grant.roots()?
            }
            None => RootsContext::none(),
        };
        let state = State {
            wasi: builder.build(),
            table: table(limits.resources),
            roots,
            limits: StoreLimitsBuilder::new()
                .memory_size(limits.memory_bytes)
                .trap_on_grow_failure(true)
                .build(),
            stderr,
        };
        let mut store = Store::new(engine.wasmtime(), state);
        store.limiter(|state| &mut state.limits);
        store.set_hostcall_fuel(limits.host_call_bytes);
        store.set_epoch_deadline(ticks(limits.call_deadline));
        let bindings = engine
            .pre()
            .instantiate(&mut store)
            .map_err(|error| Error::Engine(format!("{error:#}")))?;
        Ok(Self {
            store,
            bindings,
            limits,
        })
    }

    /// Gives the next call its whole time.
    pub(crate) fn begin_call(&mut self) {
        self.store
            .set_epoch_deadline(ticks(self.limits.call_deadline));
    }

    /// Turns a failure of the component into an error. The instance must not be used afterwards.
    pub(crate) fn failure(&self, error: &wasmtime::Error) -> Error {
        match error.downcast_ref::<Trap>() {
            Some(Trap::Interrupt) => {
                return Error::LimitExceeded(format!(
                    "a call took longer than {:?}",
                    self.limits.call_deadline
                ));
            }
            Some(Trap::StackOverflow) => {
                return Error::LimitExceeded("the stack is used up".to_owned());
            }
            _ => {}
        }
        let text = format!("{error:#}");
        if text.contains("forcing trap when growing memory") || text.contains("memory minimum size")
        {
            return Error::LimitExceeded(format!(
                "more than {} bytes of memory",
                self.limits.memory_bytes
            ));
        }
        let said = self.store.data().stderr.contents();
        let said = String::from_utf8_lossy(&said);
        Error::Trap(if said.is_empty() {
            text
        } else {
            format!("{text}: {}", said.trim())
        })
    }
}

fn ticks(deadline: Duration) -> u64 {
    u64::try_from(deadline.as_millis() / TICK.as_millis())
        .unwrap_or(u64::MAX / 2)
        .saturating_add(1)
}
