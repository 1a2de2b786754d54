//! A plugin over the runs of an experiment: who computes, who stores, and what became of each run.

use super::{FailureReason, Plugin, PluginLimits, run_ids};
use crate::config::StoreConfig;
use crate::error::{Error, Result};
use crate::pool::{STACK, off_runtime};
use crate::store::Store;
use crate::types::{Damage, Metric, MetricValue, RunQuery};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// The most runs that are stored with one sync.
const BATCH: usize = 128;

/// The most bytes of names and texts that are stored with one sync, as long as they are of more than one run.
const BATCH_BYTES: usize = 4 << 20;

/// How long more runs are waited for before some are stored: a sync costs as much as many runs.
const GATHERING: Duration = Duration::from_millis(50);

/// How often whoever waits is asked whether to go on, while no run ends.
const PATIENCE: Duration = Duration::from_millis(100);

/// How a plugin is run.
#[derive(Clone, Debug)]
pub struct DeriveOptions {
    /// Which runs: a filter of the query language; all if it is empty.
    pub filter: String,
    /// How many runs are computed at once. Default: one a core.
    pub workers: usize,
    /// What the plugin may use for each run.
    pub limits: PluginLimits,
    /// Whether nothing is stored, and only told what would be.
    pub dry_run: bool,
}

impl Default for DeriveOptions {
    fn default() -> Self {
        Self {
            filter: String::new(),
            workers: thread::available_parallelism().map_or(1, usize::from),
            limits: PluginLimits::default(),
            dry_run: false,
        }
    }
}

/// How far it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeriveProgress {
    /// Runs of which is known what became of them.
    pub done: u64,
    /// Those of them that failed.
    pub failed: u64,
    /// All runs.
    pub total: u64,
}

/// A run that nothing was derived from.
#[derive(Clone, Debug, PartialEq)]
pub struct RunFailure {
    /// The run.
    pub run_id: String,
    /// Why not.
    pub reason: FailureReason,
}

/// What became of the runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DeriveReport {
    /// Runs that the filter matches.
    pub runs: u64,
    /// Runs whose derived metrics were stored, or would be.
    pub derived: u64,
    /// The runs that failed, in the order of the list: they keep the derived metrics that they had.
    pub failures: Vec<RunFailure>,
    /// The files found damaged: they hide no run.
    pub damaged: Vec<Damage>,
}

/// What a worker says of a run: its place in the list, and its metrics.
type Computed = (usize, std::result::Result<Vec<Metric>, FailureReason>);

/// Runs a plugin over the runs of an experiment, and stores what it derives in place of what they had.
///
/// The plugin sees that experiment, read-only. What happens to one run is in the report, and stops nothing. `progress`
/// is called often, and stops the work with [`ControlFlow::Break`]; what was stored until then stays.
///
/// # Errors
/// [`Error::InvalidArgument`] if the configuration is not limited to an experiment; [`Error::InvalidQuery`];
/// [`Error::Cancelled`]; and whatever keeps the store from being opened.
pub fn derive(
    config: &StoreConfig,
    plugin: &Plugin,
    options: &DeriveOptions,
    progress: &mut dyn FnMut(&DeriveProgress) -> ControlFlow<()>,
) -> Result<DeriveReport> {
    if !config.is_scoped() {
        return Err(Error::InvalidArgument(
            "a plugin sees one experiment: limit the store to it".to_owned(),
        ));
    }
    let workers = options.workers.max(1);
    // Before the reader: the first writer makes what it then reads.
    let writer = match options.dry_run {
        true => None,
        false => Some(config.clone().max_instances(1).connect()?),
    };
    let reader = config
        .clone()
        .read_only()
        .max_instances(workers)
        .connect()?;
    off_runtime(|| plugin.check(&reader, options.limits))?;
    let mut list = reader.query_runs(&RunQuery {
        filter: options.filter.clone(),
        columns: "run_id".to_owned(),
        ..RunQuery::default()
    })?;
    let runs = run_ids(&mut list)?;
    let damaged = list.damaged()?;
    drop(list);
    let mut work = Work {
        writer,
        runs: &runs,
        progress: DeriveProgress {
            total: runs.len() as u64,
            ..DeriveProgress::default()
        },
        failures: Vec::new(),
    };
    let stopped = Arc::new(AtomicBool::new(false));
    let next = AtomicUsize::new(0);
    let done = thread::scope(|scope| {
        let (computed, answers) = sync_channel(BATCH);
        for _ in 0..workers.min(runs.len()) {
            let computed = computed.clone();
            let compute = || {
                compute(
                    plugin,
                    &reader,
                    &runs,
                    &next,
                    options.limits,
                    &stopped,
                    computed,
                );
            };
            let started = thread::Builder::new()
                .name("metalab-store-plugin".to_owned())
                .stack_size(STACK)
                .spawn_scoped(scope, compute);
            if let Err(error) = started {
                stopped.store(true, Ordering::Relaxed);
                return Err(Error::Engine(format!("no thread can be started: {error}")));
            }
        }
        drop(computed);
        let done = work.store_all(&answers, progress);
        // Workers end with the run that they are at, and that one is interrupted.
        stopped.store(true, Ordering::Relaxed);
        done
    });
    let closed = work.writer.as_ref().map_or(Ok(()), Store::close);
    done?;
    closed?;
    reader.close()?;
    let mut failures = work.failures;
    failures.sort_by_key(|(index, _)| *index);
    Ok(DeriveReport {
        runs: work.progress.total,
        derived: work.progress.done - work.progress.failed,
        failures: failures.into_iter().map(|(_, failure)| failure).collect(),
        damaged,
    })
}

/// Computes runs until there are no more, or nobody wants them.
fn compute(
    plugin: &Plugin,
    reader: &Store,
    runs: &[String],
    next: &AtomicUsize,
    limits: PluginLimits,
    stopped: &Arc<AtomicBool>,
    computed: SyncSender<Computed>,
) {
    while !stopped.load(Ordering::Relaxed) {
        let index = next.fetch_add(1, Ordering::Relaxed);
        let Some(run) = runs.get(index) else { return };
        let answer = plugin.run(reader, run, limits, stopped);
        if computed.send((index, answer)).is_err() {
            return;
        }
    }
}

/// Returns how many bytes of names and texts an answer has.
fn weight((_, answer): &Computed) -> usize {
    let bytes = |metric: &Metric| {
        metric.name.len()
            + match &metric.value {
                MetricValue::BigInteger(text)
                | MetricValue::Text(text)
                | MetricValue::Other(text) => text.len(),
                MetricValue::Boolean(_) | MetricValue::Integer(_) | MetricValue::Float(_) => 0,
            }
    };
    answer
        .as_ref()
        .map_or(0, |metrics| metrics.iter().map(bytes).sum())
}

/// What the thread that stores works on.
struct Work<'a> {
    writer: Option<Store>,
    runs: &'a [String],
    progress: DeriveProgress,
    failures: Vec<(usize, RunFailure)>,
}

impl Work<'_> {
    /// Stores what the workers computed, as much at once as comes soon.
    fn store_all(
        &mut self,
        answers: &Receiver<Computed>,
        progress: &mut dyn FnMut(&DeriveProgress) -> ControlFlow<()>,
    ) -> Result<()> {
        loop {
            if progress(&self.progress).is_break() {
                return Err(Error::Cancelled);
            }
            let first = match answers.recv_timeout(PATIENCE) {
                Ok(first) => first,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            };
            let mut batch = vec![first];
            let until = Instant::now() + GATHERING;
            let mut bytes = weight(&batch[0]);
            while batch.len() < BATCH && bytes < BATCH_BYTES {
                match answers.recv_timeout(until.saturating_duration_since(Instant::now())) {
                    Ok(next) => {
                        bytes += weight(&next);
                        batch.push(next);
                    }
                    Err(_) => break,
                }
            }
            self.store(batch)?;
        }
    }

    fn store(&mut self, batch: Vec<Computed>) -> Result<()> {
        self.progress.done += batch.len() as u64;
        let mut indices = Vec::with_capacity(batch.len());
        let mut derived = Vec::with_capacity(batch.len());
        for (index, answer) in batch {
            match answer {
                Ok(metrics) => {
                    indices.push(index);
                    derived.push((self.runs[index].clone(), metrics));
                }
                Err(reason) => self.failed(index, reason),
            }
        }
        let Some(writer) = &self.writer else {
            return Ok(());
        };
        if derived.is_empty() {
            return Ok(());
        }
        let outcomes = writer.put_derived_batch(&derived)?;
        for (index, outcome) in indices.into_iter().zip(outcomes) {
            match outcome {
                Ok(_) => {}
                // The store was asked to keep what the plugin said, and what it said is none.
                Err(Error::InvalidArgument(reason)) => {
                    self.failed(index, FailureReason::Garbage(reason));
                }
                Err(error) => self.failed(index, FailureReason::Store(error)),
            }
        }
        Ok(())
    }

    fn failed(&mut self, index: usize, reason: FailureReason) {
        self.progress.failed += 1;
        let run_id = self.runs[index].clone();
        self.failures.push((index, RunFailure { run_id, reason }));
    }
}
