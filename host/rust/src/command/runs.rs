//! `metalab-store runs`

use super::{Context, Outcome, table, text, warn_of_damage};
use metalab_store::types::{Metric, MetricValue, RunRecord, Status};
use std::collections::BTreeMap;
use std::io::Write;

/// How many bytes of lines are asked for at once.
const PAGE_BYTES: u32 = 4 << 20;

/// How many records are asked for at once.
const PAGE: u32 = 1024;

/// How many columns of metrics a table has at most.
const METRICS: usize = 4;

#[derive(clap::Args)]
pub(super) struct Runs {
    /// Show at most so many runs
    #[arg(short = 'n', long, value_name = "N")]
    limit: Option<u64>,
    /// Print each run on a line of its own, as JSON
    #[arg(long)]
    json_lines: bool,
}

impl Runs {
    pub(super) fn run(&self, context: &mut Context) -> Outcome {
        if context.json || self.json_lines {
            self.print_json(context)
        } else {
            self.print_table(context)
        }
    }

    /// Prints the records as their files hold them: no number passes through another representation.
    fn print_json(&self, context: &mut Context) -> Outcome {
        let store = context.reader()?;
        let mut list = store.list_runs(None)?;
        let mut left = self.limit.unwrap_or(u64::MAX);
        let mut first = true;
        if !self.json_lines {
            write!(context.out, "{{\"runs\": [")?;
        }
        'pages: loop {
            let page = list.next_lines(PAGE_BYTES)?;
            if page.is_empty() {
                break;
            }
            for line in page.lines() {
                if left == 0 {
                    break 'pages;
                }
                left -= 1;
                if self.json_lines {
                    writeln!(context.out, "{line}")?;
                } else {
                    write!(context.out, "{}\n{line}", if first { "" } else { "," })?;
                }
                first = false;
            }
        }
        let damaged = list.damaged()?;
        if self.json_lines {
            context.out.flush()?;
            warn_of_damage(&damaged);
        } else {
            let damaged = serde_json::to_string(&damaged).map_err(std::io::Error::from)?;
            writeln!(context.out, "\n], \"damaged\": {damaged}}}")?;
        }
        Ok(())
    }

    fn print_table(&self, context: &mut Context) -> Outcome {
        let store = context.reader()?;
        let mut list = store.list_runs(None)?;
        let total = list.remaining()?;
        let limit = self.limit.unwrap_or(u64::MAX);
        let mut records: Vec<RunRecord> = Vec::new();
        while (records.len() as u64) < limit {
            let wanted = limit - records.len() as u64;
            let page = list.next(u32::try_from(wanted).unwrap_or(PAGE).min(PAGE))?;
            if page.is_empty() {
                break;
            }
            records.extend(page);
        }
        let damaged = list.damaged()?;
        if records.is_empty() {
            writeln!(context.out, "No runs found")?;
        } else {
            write!(context.out, "{}", format_runs(&records))?;
            if (records.len() as u64) < total {
                writeln!(context.out, "{} of {total} runs", records.len())?;
            }
        }
        context.out.flush()?;
        warn_of_damage(&damaged);
        Ok(())
    }
}

/// Makes the table of some runs, with as many metrics as fit the terminal.
fn format_runs(records: &[RunRecord]) -> String {
    let tables = (0..=METRICS)
        .rev()
        .map(|metrics| format_columns(records, metrics));
    let mut narrowest = String::new();
    for table in tables {
        if table::fits(&table) {
            return table;
        }
        narrowest = table;
    }
    narrowest
}

/// Makes the table of some runs; what is the same for all of them, or empty, is left out.
fn format_columns(records: &[RunRecord], most_metrics: usize) -> String {
    let experiments = records
        .iter()
        .any(|record| record.experiment_id != records[0].experiment_id);
    let tags = records.iter().any(|record| !record.tags.is_empty());
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for metric in records.iter().flat_map(|record| &record.metrics) {
        *counts.entry(&metric.name).or_default() += 1;
    }
    let mut metrics: Vec<(&str, usize)> = counts.into_iter().collect();
    metrics.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    metrics.truncate(most_metrics);

    let mut heading = vec!["RUN"];
    if experiments {
        heading.push("EXPERIMENT");
    }
    heading.extend(["STATUS", "STARTED", "DURATION"]);
    heading.extend(metrics.iter().map(|(name, _)| *name));
    if tags {
        heading.push("TAGS");
    }
    let rows = records.iter().map(|record| {
        let mut row = vec![record.run_id.clone()];
        if experiments {
            row.push(record.experiment_id.clone());
        }
        row.push(status(record.status).to_owned());
        row.push(
            record
                .started_at
                .as_deref()
                .map(|time| time.get(..19).unwrap_or(time))
                .unwrap_or_default()
                .to_owned(),
        );
        row.push(text::duration(record.duration_ms));
        for (name, _) in &metrics {
            let metric = record.metrics.iter().find(|metric| metric.name == *name);
            row.push(metric.map(value).unwrap_or_default());
        }
        if tags {
            row.push(record.tags.join(", "));
        }
        row
    });
    table::table(&heading, rows.collect())
}

/// Returns a status as the format writes it.
pub(super) fn status(status: Status) -> &'static str {
    match status {
        Status::Success => "success",
        Status::Failed => "failed",
        Status::Cancelled => "cancelled",
        Status::Running => "running",
    }
}

/// Returns a metric's value for people.
pub(super) fn value(metric: &Metric) -> String {
    match &metric.value {
        MetricValue::Boolean(value) => value.to_string(),
        MetricValue::Integer(value) => value.to_string(),
        MetricValue::BigInteger(value) | MetricValue::Text(value) | MetricValue::Other(value) => {
            value.clone()
        }
        MetricValue::Float(value) => {
            // What is far from 1 is read more easily with an exponent.
            let magnitude = value.abs();
            if *value == 0.0 || !value.is_finite() || (1e-4..1e15).contains(&magnitude) {
                value.to_string()
            } else {
                format!("{value:e}")
            }
        }
    }
}
