//! `metalab-store derive`

use super::progress::Progress;
use super::{Context, Failure, Outcome};
use metalab_store::StoreConfig;
use metalab_store::plugin::{DeriveOptions, DeriveReport, Plugin, PluginLimits, derive};
use metalab_store::types::RunQuery;
use serde_json::json;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

#[derive(clap::Args)]
pub(super) struct Derive {
    /// The plugin: a component of the contract's world `plugin`
    #[arg(value_name = "PLUGIN.wasm")]
    plugin: PathBuf,
    /// Only runs that a filter matches, as with `runs --where`
    #[arg(short, long = "where", value_name = "FILTER")]
    filter: Option<String>,
    /// How many runs are computed at once; one a core by default
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: Option<u16>,
    /// How many seconds the plugin may take for a run
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    time: u32,
    /// How many MiB of memory the plugin may have
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..=4096))]
    memory: u16,
    /// How often the plugin may call the store for a run
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    calls: u64,
    /// Store nothing, and tell what would be derived
    #[arg(long)]
    dry_run: bool,
}

/// What became of one experiment's runs.
type Derived = (String, DeriveReport);

impl Derive {
    pub(super) fn run(&self, context: &mut Context, experiment: Option<&str>) -> Outcome {
        let plugin = Plugin::load(&self.plugin)?;
        let mut options = DeriveOptions {
            filter: self.filter.clone().unwrap_or_default(),
            limits: PluginLimits {
                memory_bytes: usize::from(self.memory) << 20,
                time: Duration::from_secs(self.time.into()),
                calls: self.calls,
                ..PluginLimits::default()
            },
            dry_run: self.dry_run,
            ..DeriveOptions::default()
        };
        if let Some(workers) = self.workers {
            options.workers = workers.into();
        }
        let mut all = Vec::new();
        for (name, config) in experiments(context, experiment)? {
            let bar = Progress::new(context.json);
            let report = derive(&config, &plugin, &options, &mut |progress| {
                bar.show(&name, progress.done, progress.total);
                ControlFlow::Continue(())
            })?;
            drop(bar);
            all.push((name, report));
        }
        self.warn_of_others(context, &all)?;
        self.print(context, &all)?;
        if all.iter().all(|(_, report)| report.failures.is_empty()) {
            Ok(())
        } else {
            Err(Failure::Said)
        }
    }

    /// Tells of runs in the collection's own directory: whoever sees it sees every experiment, so no plugin does.
    fn warn_of_others(&self, context: &Context, all: &[Derived]) -> Outcome {
        if context.config.is_scoped() {
            return Ok(());
        }
        let store = context.reader()?;
        let mut list = store.query_runs(&RunQuery {
            filter: self.filter.clone().unwrap_or_default(),
            columns: "run_id".to_owned(),
            limit: Some(0),
            ..RunQuery::default()
        })?;
        let seen: u64 = all.iter().map(|(_, report)| report.runs).sum();
        let others = list.total()?.saturating_sub(seen);
        if others > 0 {
            context.remark(
                "warning",
                &format!("{others} runs lie in the collection itself and not in an experiment's directory: they were passed over"),
            );
        }
        Ok(())
    }

    fn print(&self, context: &mut Context, all: &[Derived]) -> Outcome {
        for (_, report) in all {
            context.warn_of_damage(&report.damaged);
        }
        let sum = |count: fn(&DeriveReport) -> u64| {
            all.iter().map(|(_, report)| count(report)).sum::<u64>()
        };
        let (runs, derived) = (sum(|report| report.runs), sum(|report| report.derived));
        let failed = sum(|report| report.failures.len() as u64);
        let failures = all.iter().flat_map(|(experiment, report)| {
            report
                .failures
                .iter()
                .map(move |failure| (experiment, failure))
        });
        if context.json {
            let failures: Vec<_> = failures
                .map(|(experiment, failure)| {
                    json!({
                        "experiment_id": experiment,
                        "run_id": failure.run_id,
                        "code": failure.reason.code(),
                        "message": failure.reason.to_string(),
                    })
                })
                .collect();
            return context.print_json(&json!({
                "dry_run": self.dry_run,
                "runs": runs,
                "derived": derived,
                "failed": failed,
                "failures": failures,
            }));
        }
        for (experiment, failure) in failures {
            context.remark(
                "failed",
                &format!("{experiment} {}: {}", failure.run_id, failure.reason),
            );
        }
        let verb = if self.dry_run {
            "would be derived"
        } else {
            "derived"
        };
        writeln!(
            context.out,
            "{runs} runs: {derived} {verb}, {failed} failed."
        )?;
        Ok(())
    }
}

/// Returns the experiments that the plugin is run over, one after the other, with their stores.
fn experiments(
    context: &Context,
    experiment: Option<&str>,
) -> Result<Vec<(String, StoreConfig)>, Failure> {
    if context.config.is_scoped() {
        let name = experiment.unwrap_or_default().to_owned();
        return Ok(vec![(name, context.config.clone())]);
    }
    let found = context.config.list_experiments()?;
    context.warn_of_damage(&found.damaged);
    let scoped = |name: String| (name.clone(), context.config.clone().scoped(name));
    Ok(found.experiments.into_iter().map(scoped).collect())
}
