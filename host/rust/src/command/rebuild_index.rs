//! `metalab-store rebuild-index`

use super::progress::Progress;
use super::{Context, Outcome, text};
use metalab_store::types::RebuildReport;
use serde_json::json;
use std::io::Write;

#[derive(clap::Args)]
pub(super) struct RebuildIndex {
    /// Remove the rows of this experiment, whose directory was removed; no file is touched. May be given more than once
    #[arg(long, value_name = "EXPERIMENT")]
    prune: Vec<String>,
}

impl RebuildIndex {
    pub(super) fn run(self, context: &mut Context) -> Outcome {
        let store = context.writer()?;
        let mut rebuild = store.rebuild_index_and_prune(&self.prune)?;
        let progress = Progress::new(context.json);
        while let Some(step) = rebuild.step()? {
            let what = match step.directory.as_str() {
                "" => step.phase.clone(),
                directory => format!("{directory}: {}", step.phase),
            };
            progress.show(&what, step.done, step.total);
        }
        drop(progress);
        let report = rebuild.report()?;
        drop(rebuild);
        if context.json {
            context.print_json(&json!(report))?;
        } else {
            self.print(context, &report)?;
            context.out.flush()?;
            context.warn_of_damage(&report.damaged);
        }
        store.close()?;
        Ok(())
    }

    fn print(&self, context: &mut Context, report: &RebuildReport) -> Outcome {
        writeln!(
            context.out,
            "{} runs in the index: {} added, {} changed, {} removed; {} manifests.",
            report.runs, report.added, report.changed, report.removed, report.manifests
        )?;
        if !self.prune.is_empty() {
            writeln!(context.out, "{} runs pruned.", report.pruned)?;
        }
        if report.orphan_count == 0 {
            return Ok(());
        }
        writeln!(
            context.out,
            "The index has rows of experiments whose directories are not in the collection any more; \
             `metalab-store rebuild-index --prune EXPERIMENT` removes them:"
        )?;
        for orphan in &report.orphans {
            writeln!(
                context.out,
                "  {}  {} runs",
                text::cell(&orphan.experiment),
                orphan.runs
            )?;
        }
        let shown = u64::try_from(report.orphans.len()).unwrap_or(u64::MAX);
        match report.orphan_count.saturating_sub(shown) {
            0 => {}
            more => writeln!(context.out, "  and {more} more")?,
        }
        Ok(())
    }
}
