//! Plugins: components of other people that compute derived metrics of runs, and see nothing but one experiment.
//!
//! A plugin runs in an instance of its own for each run; what it asks of the store is passed on to an instance of the
//! store component. So whatever a plugin does ends that run's instance and nothing else. `docs/plugins.md` is for
//! whoever writes one.

mod derive;
mod view;

use crate::engine::{Engine, TICK};
use crate::error::{Error, Result};
use crate::instance::{Limiter, Limits};
use crate::store::{RunList, Store};
use crate::types::{Metric, MetricValue};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use view::{Ended, VIEW, View};
use wasmtime::component::{Component, InstancePre, Linker, TypedFunc};
use wasmtime::{Trap, UpdateDeadline};

pub use derive::{DeriveOptions, DeriveProgress, DeriveReport, RunFailure, derive};

/// The name of the function that a plugin exports.
const DERIVE: &str = "derive";

/// What the interfaces of the contract are called, without their version.
const OURS: [&str; 2] = ["metalab:store/view", "metalab:store/types"];

/// The most metrics of a run.
const METRICS: usize = 10_000;

/// The most bytes of a metric's name.
const NAME_BYTES: usize = 256;

/// How many characters of a plugin's reason are kept.
const REASON: usize = 1000;

/// What a plugin may use for one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PluginLimits {
    /// Memory in bytes. Default 256 MiB.
    pub memory_bytes: usize,
    /// Entries of tables, all tables together. Default 10,000.
    pub table_entries: usize,
    /// How long it may take, what the store does for it included. Default 10 seconds.
    pub time: Duration,
    /// How many calls of the view it may make. Default 10,000.
    pub calls: u64,
    /// How many bytes it may pass to the host in one call or answer. Default 2 MiB.
    pub answer_bytes: usize,
}

impl Default for PluginLimits {
    fn default() -> Self {
        Self {
            memory_bytes: 256 << 20,
            table_entries: 10_000,
            time: Duration::from_secs(10),
            calls: 10_000,
            answer_bytes: 2 << 20,
        }
    }
}

/// Why a plugin derived nothing from a run.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum FailureReason {
    /// The plugin says why.
    Refused(String),
    /// The plugin trapped.
    Trap(String),
    /// It took longer than it may.
    Time(Duration),
    /// It wanted more memory, or more entries of tables, than it may have.
    Memory(String),
    /// It called the view more often than it may.
    Calls(u64),
    /// What it answered is no list of metrics.
    Garbage(String),
    /// The store could not be read, or could not store what was derived.
    Store(Error),
}

impl FailureReason {
    /// Returns a stable name of the reason's kind, the same in every host.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refused(_) => "refused",
            Self::Trap(_) => "trap",
            Self::Time(_) => "time",
            Self::Memory(_) => "memory",
            Self::Calls(_) => "calls",
            Self::Garbage(_) => "garbage",
            Self::Store(_) => "store",
        }
    }
}

impl fmt::Display for FailureReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(reason) => f.write_str(reason),
            Self::Trap(reason) => write!(f, "the plugin failed: {reason}"),
            Self::Time(limit) => write!(f, "the plugin took longer than {limit:?}"),
            Self::Memory(reason) => write!(f, "the plugin wanted {reason}"),
            Self::Calls(limit) => write!(f, "the plugin called the store more than {limit} times"),
            Self::Garbage(reason) => write!(f, "the plugin's answer cannot be used: {reason}"),
            Self::Store(error) => error.fmt(f),
        }
    }
}

/// What an instance of a plugin works on.
struct State {
    view: View,
    limiter: Limiter,
    /// When its time is over.
    until: Instant,
    late: bool,
}

type Answer = (std::result::Result<Vec<(String, MetricValue)>, String>,);

/// The function that a plugin exports.
type Derive = TypedFunc<(String,), Answer>;

/// A plugin, compiled and checked. Cheap to clone; threads may use it at once.
#[derive(Clone)]
pub struct Plugin(Arc<Loaded>);

struct Loaded {
    engine: Engine,
    pre: InstancePre<State>,
}

impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plugin").finish_non_exhaustive()
    }
}

impl Plugin {
    /// Loads a plugin from a file.
    ///
    /// # Errors
    /// [`Error::PluginMissing`] if it cannot be read, and as [`from_bytes`](Self::from_bytes).
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|error| Error::PluginMissing {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
        Self::from_bytes(&bytes)
    }

    /// Compiles a plugin, and checks that it is of the contract's world `plugin`.
    ///
    /// # Errors
    /// [`Error::PluginWorld`] if it is no component, wants more than a plugin gets or does not derive;
    /// [`Error::PluginVersion`] if it is of another version of the contract.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let engine = Engine::shared()?;
        let no_plugin = |error: wasmtime::Error| Error::PluginWorld(format!("{error:#}"));
        let component = Component::from_binary(engine.wasmtime(), bytes).map_err(no_plugin)?;
        check_imports(&engine, &component)?;
        let mut linker = Linker::new(engine.wasmtime());
        view::add_to_linker(&mut linker).map_err(|error| Error::Engine(format!("{error:#}")))?;
        let pre = linker.instantiate_pre(&component).map_err(no_plugin)?;
        if component.get_export_index(None, DERIVE).is_none() {
            return Err(Error::PluginWorld(format!(
                "it exports no function {DERIVE}"
            )));
        }
        Ok(Self(Arc::new(Loaded { engine, pre })))
    }

    /// Starts an instance, and looks whether the function is what it should be.
    fn check(&self, store: &Store, limits: PluginLimits) -> Result<()> {
        let mut instance = self.instance(store, limits);
        let deadline = limits.time.as_millis() / TICK.as_millis();
        instance.set_epoch_deadline(u64::try_from(deadline).unwrap_or(u64::MAX / 2));
        let _ticking = self.0.engine.ticking();
        match self.start(&mut instance) {
            Ok(_) => Ok(()),
            Err(error) => Err(Error::PluginWorld(format!("{error:#}"))),
        }
    }

    fn instance(&self, store: &Store, limits: PluginLimits) -> wasmtime::Store<State> {
        let state = State {
            view: View::new(store.clone(), limits.calls),
            limiter: Limiter::new(Limits {
                memory_bytes: limits.memory_bytes,
                table_entries: limits.table_entries,
                ..Limits::default()
            }),
            until: Instant::now() + limits.time,
            late: false,
        };
        let mut instance = wasmtime::Store::new(self.0.engine.wasmtime(), state);
        instance.limiter(|state| &mut state.limiter);
        instance.set_hostcall_fuel(limits.answer_bytes);
        instance.set_epoch_deadline(1);
        instance
    }

    fn start(&self, instance: &mut wasmtime::Store<State>) -> wasmtime::Result<Derive> {
        let started = self.0.pre.instantiate(&mut *instance)?;
        started.get_typed_func(&mut *instance, DERIVE)
    }

    /// Computes the derived metrics of one run, and stores nothing.
    ///
    /// Runs on the caller's thread, which needs 4 MiB of stack.
    fn run(
        &self,
        store: &Store,
        run_id: &str,
        limits: PluginLimits,
        stopped: &Arc<AtomicBool>,
    ) -> std::result::Result<Vec<Metric>, FailureReason> {
        let engine = &self.0.engine;
        let mut instance = self.instance(store, limits);
        let stopped = Arc::clone(stopped);
        instance.epoch_deadline_callback(move |mut context| {
            let state = context.data_mut();
            state.late = Instant::now() >= state.until;
            Ok(if state.late || stopped.load(Ordering::Relaxed) {
                UpdateDeadline::Interrupt
            } else {
                UpdateDeadline::Continue(1)
            })
        });
        let _ticking = engine.ticking();
        let answer = self.call(&mut instance, run_id);
        let answer = answer.map_err(|error| failure(&mut instance, &error, limits))?;
        let derived = answer.map_err(|reason| FailureReason::Refused(short(&reason)))?;
        metrics(derived)
    }

    fn call(
        &self,
        instance: &mut wasmtime::Store<State>,
        run_id: &str,
    ) -> wasmtime::Result<std::result::Result<Vec<(String, MetricValue)>, String>> {
        let derive = self.start(instance)?;
        let (answer,) = derive.call(&mut *instance, (run_id.to_owned(),))?;
        Ok(answer)
    }
}

/// Refuses what a plugin must not import, by name: the linker alone would say it less clearly.
fn check_imports(engine: &Engine, component: &Component) -> Result<()> {
    let known = VIEW.split('@').nth(1).unwrap_or_default();
    let ty = component.component_type();
    let mut foreign = Vec::new();
    for (name, _) in ty.imports(engine.wasmtime()) {
        let (interface, version) = name.split_once('@').unwrap_or((name, ""));
        if !OURS.contains(&interface) {
            foreign.push(name);
        } else if !is_compatible(version, known) {
            return Err(Error::PluginVersion(format!(
                "it is made for version {version} of the store's contract, and this store has {known}"
            )));
        }
    }
    if foreign.is_empty() {
        return Ok(());
    }
    Err(Error::PluginWorld(format!(
        "it imports {}, and a plugin gets nothing but metalab:store/view; docs/plugins.md says how to build one",
        foreign.join(", ")
    )))
}

/// Says whether versions are the same to the first part that is not zero: those match in a component.
fn is_compatible(version: &str, known: &str) -> bool {
    let track = |version: &str| -> Option<Vec<u64>> {
        let mut parts = Vec::new();
        for part in version.split('.') {
            let part = part.parse().ok()?;
            parts.push(part);
            if part != 0 {
                break;
            }
        }
        Some(parts)
    };
    track(version).is_some_and(|version| Some(version) == track(known))
}

/// Says why a plugin's call ended.
fn failure(
    instance: &mut wasmtime::Store<State>,
    error: &wasmtime::Error,
    limits: PluginLimits,
) -> FailureReason {
    let state = instance.data_mut();
    if let Some(ended) = state.view.ended.take() {
        return match ended {
            Ended::Calls => FailureReason::Calls(limits.calls),
            Ended::Store(error) => FailureReason::Store(error),
        };
    }
    if let Some(refused) = state.limiter.refused.take() {
        return FailureReason::Memory(refused);
    }
    if state.late {
        return FailureReason::Time(limits.time);
    }
    match error.downcast_ref::<Trap>() {
        Some(trap) => FailureReason::Trap(trap.to_string()),
        // It ran, and then what it passed could not be read: too large, or none of the contract's values.
        None => FailureReason::Garbage(short(&error.root_cause().to_string())),
    }
}

/// Checks what a plugin derived. That values are what they say, and names unique, the store checks.
fn metrics(derived: Vec<(String, MetricValue)>) -> std::result::Result<Vec<Metric>, FailureReason> {
    let garbage = |reason| Err(FailureReason::Garbage(reason));
    if derived.len() > METRICS {
        return garbage(format!(
            "{} metrics; a run may have {METRICS}",
            derived.len()
        ));
    }
    for (name, _) in &derived {
        if name.is_empty() || name.len() > NAME_BYTES || name.chars().any(char::is_control) {
            return garbage(format!(
                "{:?} is no name of a metric: 1 to {NAME_BYTES} bytes without control characters",
                short(name)
            ));
        }
    }
    let derived = derived.into_iter();
    Ok(derived
        .map(|(name, value)| Metric { name, value })
        .collect())
}

/// Cuts what a plugin said to a length that a report can hold.
fn short(text: &str) -> String {
    match text.char_indices().nth(REASON) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Returns the ids of the runs of a list whose only column they are.
fn run_ids(list: &mut RunList) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    loop {
        let rows = list.next_rows(4096)?;
        if rows.is_empty() {
            return Ok(ids);
        }
        let texts = rows
            .into_iter()
            .filter_map(|row| row.into_iter().flatten().next());
        // A safe name holds nothing that JSON text could not.
        ids.extend(texts.filter_map(|text| serde_json::from_str::<String>(&text).ok()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_match_to_the_first_part_that_is_not_zero() {
        for good in ["0.1.0", "0.1.7"] {
            assert!(is_compatible(good, "0.1.0"), "{good}");
        }
        for bad in ["0.2.0", "1.0.0", "", "0.1-x", "0"] {
            assert!(!is_compatible(bad, "0.1.0"), "{bad}");
        }
        assert!(is_compatible("2.3.4", "2.0.0"));
    }

    #[test]
    fn what_a_plugin_says_is_cut_between_characters() {
        assert_eq!(short("kurz"), "kurz");
        let cut = short(&"ä".repeat(2 * REASON));
        assert_eq!(cut.chars().count(), REASON + 1);
    }
}
