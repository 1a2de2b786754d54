//! `metalab-store rebuild-index`

use super::progress::Progress;
use super::{Context, Outcome};
use serde_json::json;
use std::io::Write;

pub(super) fn run(context: &mut Context) -> Outcome {
    let store = context.writer()?;
    let mut rebuild = store.rebuild_index()?;
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
        writeln!(
            context.out,
            "{} runs in the index: {} added, {} changed, {} removed; {} manifests.",
            report.runs, report.added, report.changed, report.removed, report.manifests
        )?;
        context.out.flush()?;
        context.warn_of_damage(&report.damaged);
    }
    store.close()?;
    Ok(())
}
