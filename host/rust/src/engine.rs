//! The engine: the compiled component, linked with what it imports, shared by all stores of a process.

use crate::bindings::MetalabStorePre;
use crate::engine_config::engine_config;
use crate::error::{Error, Result};
use crate::instance::State;
use crate::postgres::PostgresView;
use crate::roots::RootsView;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};
use wasmtime::component::{Component, HasData, Linker, ResourceTable};
use wasmtime::error::Context;

/// The component, compiled for the machine that built this crate.
static COMPILED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/metalab_store.cwasm"));

/// The component as it was built: for machines on which `COMPILED` does not run, and for everyone to read.
static COMPONENT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/metalab_store.wasm"));

/// How often the epoch advances: the resolution of the time limit of calls.
pub(crate) const TICK: Duration = Duration::from_millis(50);

/// How far the epoch advances at once, at most.
const LONGEST_STEP: Duration = Duration::from_secs(1);

/// The compiled component with its imports, ready to be instantiated. Cheap to clone, shared by threads.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    engine: wasmtime::Engine,
    pre: MetalabStorePre<State>,
    ticker: Ticker,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}

impl Engine {
    /// Returns the engine that all stores of this process share unless they are given another.
    ///
    /// # Errors
    /// [`Error::Engine`] if the component cannot be loaded.
    pub fn shared() -> Result<Self> {
        static SHARED: OnceLock<Result<Engine>> = OnceLock::new();
        SHARED.get_or_init(Self::new).clone()
    }

    /// Loads the component: precompiled if it fits this machine, else it is compiled now (about 0.2 s).
    ///
    /// # Errors
    /// [`Error::Engine`] if the component cannot be compiled or linked.
    pub fn new() -> Result<Self> {
        Self::load().map_err(|error| Error::Engine(format!("{error:#}")))
    }

    /// Compiles another component than the embedded one: one that another toolchain made, for instance. It is
    /// granted what the embedded one is, under the same limits, and nothing more.
    ///
    /// # Errors
    /// [`Error::Engine`] if it is no component, lacks an interface, or wants another import than the embedded one.
    pub fn of_component(component: &[u8]) -> Result<Self> {
        let load = || {
            let engine = wasmtime::Engine::new(&engine_config())?;
            let component = Component::new(&engine, component).context("compile the component")?;
            // What the embedded component has no use for is not there: no network that could be refused, and no
            // clock to wait for that no time limit interrupts.
            let known = imports(&engine, &embedded(&engine)?);
            if let Some(name) = imports(&engine, &component)
                .into_iter()
                .find(|name| !known.contains(name))
            {
                wasmtime::bail!("the component imports {name}, which is not granted");
            }
            Self::link(engine, &component)
        };
        load().map_err(|error| Error::Engine(format!("{error:#}")))
    }

    fn load() -> wasmtime::Result<Self> {
        let engine = wasmtime::Engine::new(&engine_config())?;
        let component = embedded(&engine)?;
        Self::link(engine, &component)
    }

    fn link(engine: wasmtime::Engine, component: &Component) -> wasmtime::Result<Self> {
        let mut linker = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_sync(&mut linker)?;
        add_to_linker(&mut linker, State::roots, State::postgres)?;
        let pre = MetalabStorePre::new(linker.instantiate_pre(component)?)?;
        let ticker = Ticker::start(&engine)?;
        Ok(Self(Arc::new(Inner {
            engine,
            pre,
            ticker,
        })))
    }

    /// Lets the epoch advance while a call runs: until what is returned is dropped.
    pub(crate) fn ticking(&self) -> Ticking {
        self.0.ticker.resume();
        Ticking(self.clone())
    }

    pub(crate) fn wasmtime(&self) -> &wasmtime::Engine {
        &self.0.engine
    }

    pub(crate) fn pre(&self) -> &MetalabStorePre<State> {
        &self.0.pre
    }
}

/// Returns the component that this crate embeds.
fn embedded(engine: &wasmtime::Engine) -> wasmtime::Result<Component> {
    match deserialize(engine) {
        Ok(component) => Ok(component),
        Err(_) => Component::new(engine, COMPONENT).context("compile the component"),
    }
}

/// Returns what a component imports, without versions.
fn imports(engine: &wasmtime::Engine, component: &Component) -> Vec<String> {
    let ty = component.component_type();
    let names = ty.imports(engine).map(|(name, _)| name);
    names
        .map(|name| name.split('@').next().unwrap_or_default().to_owned())
        .collect()
}

/// Returns the bytes of the component that this crate embeds: the same for every host of a build.
#[must_use]
pub fn component_bytes() -> &'static [u8] {
    COMPONENT
}

#[expect(
    unsafe_code,
    reason = "the bytes come from this crate's build script, which made them with the same version of wasmtime; \
              nobody can have changed them since, short of changing this program"
)]
fn deserialize(engine: &wasmtime::Engine) -> wasmtime::Result<Component> {
    // SAFETY: `COMPILED` is the unmodified output of `Engine::precompile_component`, embedded when this crate
    // was compiled. Wasmtime itself checks its version, the settings and the features of the CPU.
    unsafe { Component::deserialize(engine, COMPILED) }
}

/// The thread that advances the epoch while calls run. It sleeps while none does, so that an open store costs
/// an idle process nothing, and ends with the engine.
struct Ticker {
    calls: Arc<Calls>,
    thread: Thread,
}

#[derive(Default)]
struct Calls {
    running: AtomicUsize,
    ended: AtomicBool,
}

/// A call that runs. While there is one, the epoch advances.
pub(crate) struct Ticking(Engine);

impl Ticker {
    fn start(engine: &wasmtime::Engine) -> wasmtime::Result<Self> {
        let calls = Arc::new(Calls::default());
        let (engine, seen) = (engine.clone(), Arc::clone(&calls));
        let run = move || {
            let (mut advanced, mut left) = (Instant::now(), Duration::ZERO);
            while !seen.ended.load(Ordering::Acquire) {
                if seen.running.load(Ordering::Acquire) == 0 {
                    thread::park();
                    advanced = Instant::now();
                } else {
                    thread::sleep(TICK);
                    // On a busy machine a sleep takes longer, and time passes all the same. But a process that was stopped
                    // for a while goes on where it was.
                    let passed = advanced.elapsed().min(LONGEST_STEP);
                    advanced = Instant::now();
                    left += passed;
                    while left >= TICK {
                        left -= TICK;
                        engine.increment_epoch();
                    }
                }
            }
        };
        let started = thread::Builder::new()
            .name("metalab-store-epoch".to_owned())
            .spawn(run);
        let thread = started
            .context("start the epoch's thread")?
            .thread()
            .clone();
        Ok(Self { calls, thread })
    }

    fn resume(&self) {
        if self.calls.running.fetch_add(1, Ordering::AcqRel) == 0 {
            // Costs a system call only if the thread sleeps: at most once a tick.
            self.thread.unpark();
        }
    }
}

impl Drop for Ticking {
    fn drop(&mut self) {
        self.0.0.ticker.calls.running.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.calls.ended.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

struct HasRoots;

impl HasData for HasRoots {
    type Data<'a> = RootsView<'a>;
}

struct HasPostgres;

impl HasData for HasPostgres {
    type Data<'a> = PostgresView<'a>;
}

/// Adds the contract's imports, `roots`, `bulk` and `postgres`, to a linker of the embedder's own state.
///
/// WASI is added apart from it. The functions say where in the state the parts are.
///
/// # Errors
/// If the linker has one of these interfaces already.
pub fn add_to_linker<T: 'static>(
    linker: &mut Linker<T>,
    roots: fn(&mut T) -> RootsView<'_>,
    postgres: fn(&mut T) -> PostgresView<'_>,
) -> wasmtime::Result<()> {
    use crate::bindings::metalab::store;
    store::roots::add_to_linker::<T, HasRoots>(linker, roots)?;
    store::bulk::add_to_linker::<T, HasRoots>(linker, roots)?;
    store::postgres::add_to_linker::<T, HasPostgres>(linker, postgres)
}

/// Returns an empty table of at most so many resources.
pub(crate) fn table(capacity: usize) -> ResourceTable {
    let mut table = ResourceTable::new();
    table.set_max_capacity(capacity);
    table
}
