//! What the store holds after the experiment, read back from it.

use metalab_store::types::{Metric, MetricValue, RunRecord, Status};
use metalab_store::{FileStoreConfig, Store};
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

/// How many of the best runs are shown.
const BEST: usize = 8;

/// What there is to report.
pub(crate) struct Report<'a> {
    pub(crate) collection: &'a FileStoreConfig,
    /// The collection as the caller called it.
    pub(crate) root: &'a Path,
    pub(crate) experiment: &'a str,
    pub(crate) took: Duration,
    pub(crate) runs: usize,
}

impl Report<'_> {
    /// Returns the whole report.
    pub(crate) fn text(&self) -> Result<String, Box<dyn Error>> {
        let store = self.collection.clone().read_only().connect()?;
        let all = store.list_run_records(None)?;
        let runs: Vec<&RunRecord> = all
            .records
            .iter()
            .filter(|run| run.experiment_id == self.experiment)
            .collect();
        let failed: Vec<&RunRecord> = runs
            .iter()
            .copied()
            .filter(|run| run.status == Status::Failed)
            .collect();

        let mut out = String::new();
        writeln!(
            out,
            "Did {} runs of {} in {:.2} s, {} of them failed.\n",
            self.runs,
            self.experiment,
            self.took.as_secs_f64(),
            failed.len()
        )?;
        self.experiments(&mut out, &all.records)?;
        for damage in &all.damaged {
            writeln!(out, "  damaged: {}", damage.reason)?;
        }
        let best = best(&runs);
        table(&mut out, &best)?;
        if let Some(run) = best.first() {
            writeln!(out, "\nThe best run")?;
            in_full(&mut out, &store, run)?;
        }
        if let Some(run) = failed.first() {
            let error = run.error.as_deref().unwrap_or("{}");
            let error: serde_json::Value = serde_json::from_str(error)?;
            let message = error["message"].as_str().unwrap_or("no reason given");
            writeln!(out, "\nA run that failed\n  {}  {message}", run.run_id)?;
        }
        self.next(&mut out, best.first().or(runs.first()).copied())?;
        Ok(out)
    }

    fn experiments(&self, out: &mut String, runs: &[RunRecord]) -> Result<(), Box<dyn Error>> {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for run in runs {
            *counts.entry(&run.experiment_id).or_default() += 1;
        }
        writeln!(out, "Experiments in {}", self.root.display())?;
        for id in self.collection.list_experiments()?.experiments {
            let count = counts.get(id.as_str()).copied().unwrap_or_default();
            writeln!(out, "  {id:14}{count:>4} runs")?;
        }
        Ok(())
    }

    /// Names the two commands to try next.
    fn next(&self, out: &mut String, run: Option<&RunRecord>) -> Result<(), Box<dyn Error>> {
        let command = std::env::current_exe()?.with_file_name("metalab-store");
        let here = std::env::current_dir()?;
        let command = quoted(command.strip_prefix(&here).unwrap_or(&command));
        let root = quoted(self.root);
        writeln!(out, "\nTry next")?;
        writeln!(out, "  {command} -s {root} runs")?;
        if let Some(run) = run {
            writeln!(out, "  {command} -s {root} logs {} run", run.run_id)?;
        }
        Ok(())
    }
}

/// Returns the runs that have a final loss and did not fail, the lowest loss first.
fn best<'a>(runs: &[&'a RunRecord]) -> Vec<&'a RunRecord> {
    let mut best: Vec<(f64, &RunRecord)> = runs
        .iter()
        .filter(|run| run.status == Status::Success)
        .filter_map(|run| Some((float(&run.metrics, "final_loss")?, *run)))
        .collect();
    best.sort_by(|one, two| one.0.total_cmp(&two.0));
    best.into_iter().map(|(_, run)| run).collect()
}

fn table(out: &mut String, best: &[&RunRecord]) -> Result<(), Box<dyn Error>> {
    let shown = best.len().min(BEST);
    writeln!(
        out,
        "\nThe best {shown} of {} runs that ended well",
        best.len()
    )?;
    writeln!(
        out,
        "  {:16}  {:>10}  {:>13}  {:>8}  {:>6}",
        "RUN", "FINAL LOSS", "LEARNING RATE", "MOMENTUM", "DEGREE"
    )?;
    for run in best.iter().take(BEST) {
        let params: serde_json::Value = serde_json::from_str(&run.params_resolved)?;
        writeln!(
            out,
            "  {:16}  {:>10.6}  {:>13}  {:>8}  {:>6}",
            run.run_id,
            float(&run.metrics, "final_loss").unwrap_or(f64::NAN),
            params["learning_rate"].to_string(),
            params["momentum"].to_string(),
            params["degree"].to_string(),
        )?;
    }
    Ok(())
}

/// Shows everything that the store holds about a run.
fn in_full(out: &mut String, store: &Store, run: &RunRecord) -> Result<(), Box<dyn Error>> {
    let id = run.run_id.as_str();
    let mut line = |name: &str, value: &str| writeln!(out, "  {name:12}{value}");
    line("run", id)?;
    line("experiment", &run.experiment_id)?;
    line("status", status(run.status))?;
    line("started", run.started_at.as_deref().unwrap_or("unknown"))?;
    line("took", &format!("{} ms", run.duration_ms))?;
    line("parameters", &run.params_resolved)?;
    line("tags", &run.tags.join(", "))?;
    line("metrics", &metrics(&run.metrics))?;
    let derived = store.get_derived(id)?.unwrap_or_default();
    line("derived", &metrics(&derived))?;
    for name in store.list_results(id)? {
        if let Some(result) = store.get_result(id, &name)? {
            let points: Vec<(u32, f64)> = serde_json::from_str(&result.data)?;
            let shown: Vec<String> = points
                .iter()
                .step_by(5)
                .map(|(step, loss)| format!("{loss:.4} at {step}"))
                .collect();
            line(
                &name,
                &format!("{} points: {}", points.len(), shown.join(", ")),
            )?;
        }
    }
    for artifact in store.list_artifacts(id)? {
        let hash = artifact.content_hash.unwrap_or_default();
        let size = artifact.size_bytes.unwrap_or_default();
        let hash = hash.get(..16).unwrap_or(&hash);
        line(
            "artifact",
            &format!(
                "{}.{}, {size} bytes, SHA-256 {hash}...",
                artifact.name, artifact.format
            ),
        )?;
    }
    for name in store.list_logs(id)? {
        let text = store.get_log(id, &name)?.unwrap_or_default();
        line("log", &format!("{name}, {} lines", text.lines().count()))?;
    }
    let provenance = &run.provenance;
    let code = provenance.code_hash.as_deref().unwrap_or("unknown");
    let host = provenance.host.as_deref().unwrap_or("unknown");
    line("provenance", &format!("code {code} on {host}"))?;
    Ok(())
}

fn status(status: Status) -> &'static str {
    match status {
        Status::Success => "success",
        Status::Failed => "failed",
        Status::Cancelled => "cancelled",
        Status::Running => "running",
    }
}

fn float(metrics: &[Metric], name: &str) -> Option<f64> {
    match metrics.iter().find(|metric| metric.name == name)?.value {
        MetricValue::Float(value) => Some(value),
        _ => None,
    }
}

fn metrics(metrics: &[Metric]) -> String {
    let shown: Vec<String> = metrics
        .iter()
        .map(|metric| match &metric.value {
            MetricValue::Float(value) => format!("{} {value:.6}", metric.name),
            MetricValue::Integer(value) => format!("{} {value}", metric.name),
            other => format!("{} {other:?}", metric.name),
        })
        .collect();
    shown.join(", ")
}

/// Returns a path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+:=@".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::quoted;
    use std::path::Path;

    #[test]
    fn a_path_that_a_shell_would_take_apart_is_quoted() {
        assert_eq!(quoted(Path::new("target/release/x")), "target/release/x");
        assert_eq!(quoted(Path::new("my store's")), r"'my store'\''s'");
    }
}
