//! `metalab-store runs`

use super::{Context, Outcome, table, text};
use comfy_table::{Cell, Table};
use metalab_store::types::{Metric, MetricValue, RunRecord};
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
    /// Print JSON lines: each run's record on a line of its own, as `put` reads it
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
            context.warn_of_damage(&damaged);
        } else {
            let damaged = serde_json::to_string(&damaged).map_err(std::io::Error::from)?;
            writeln!(context.out, "\n], \"damaged\": {damaged}}}")?;
        }
        Ok(())
    }

    fn print_table(&self, context: &mut Context) -> Outcome {
        let store = context.reader()?;
        let mut list = store.list_runs(None)?;
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
        let left = list.remaining()?;
        if !records.is_empty() {
            write!(context.out, "{}", format_runs(&records))?;
        } else if left == 0 {
            writeln!(context.out, "No runs found")?;
        }
        if left > 0 {
            writeln!(context.out, "and {left} more")?;
        }
        context.out.flush()?;
        context.warn_of_damage(&damaged);
        Ok(())
    }
}

/// Makes the table of some runs, with as many metrics as fit the terminal.
fn format_runs(records: &[RunRecord]) -> String {
    let metrics = common_metrics(records);
    let tagged = records.iter().any(|record| !record.tags.is_empty());
    // The tags go before the last metric does.
    let mut candidates = Vec::new();
    if tagged {
        let least = metrics.len().min(1);
        candidates.extend((least..=metrics.len()).rev().map(|shown| (shown, true)));
    }
    candidates.extend((0..=metrics.len()).rev().map(|shown| (shown, false)));
    for (shown, tags) in candidates {
        let table = make_table(records, &metrics[..shown], tags);
        if table::fits(&table, 0) || (shown == 0 && !tags) {
            return table::lines(table, 0);
        }
    }
    String::new()
}

/// A metric that has a column.
struct Column<'a> {
    name: &'a str,
    /// How many of the runs have it.
    count: usize,
    /// Whether all of its values are numbers.
    numeric: bool,
}

/// Returns the metrics that most of the runs have, those of equal frequency by name.
fn common_metrics(records: &[RunRecord]) -> Vec<Column<'_>> {
    let mut columns: BTreeMap<&str, Column> = BTreeMap::new();
    for metric in records.iter().flat_map(|record| &record.metrics) {
        let column = columns.entry(&metric.name).or_insert(Column {
            name: &metric.name,
            count: 0,
            numeric: true,
        });
        column.count += 1;
        column.numeric &= numeric(metric);
    }
    let mut columns: Vec<Column> = columns.into_values().collect();
    columns.sort_by_key(|column| std::cmp::Reverse(column.count));
    columns.truncate(METRICS);
    columns
}

/// Makes the table of some runs; what is the same for all of them, or empty, is left out.
fn make_table(records: &[RunRecord], metrics: &[Column], tags: bool) -> Table {
    let experiments = records
        .iter()
        .any(|record| record.experiment_id != records[0].experiment_id);

    let mut heading = vec![table::text("RUN")];
    if experiments {
        heading.push(table::text("EXPERIMENT"));
    }
    heading.extend(["STATUS", "STARTED"].map(table::text));
    heading.push(table::number("DURATION"));
    heading.extend(metrics.iter().map(|column| {
        if column.numeric {
            table::number(column.name)
        } else {
            table::text(column.name)
        }
    }));
    if tags {
        heading.push(table::text("TAGS"));
    }
    let rows = records.iter().map(|record| {
        let mut row = vec![table::text(&record.run_id)];
        if experiments {
            row.push(table::text(&record.experiment_id));
        }
        row.push(table::status(record.status));
        row.push(table::text(&text::time(
            record.started_at.as_deref().unwrap_or_default(),
        )));
        row.push(table::number(&duration(record)));
        for column in metrics {
            let metric = record
                .metrics
                .iter()
                .find(|metric| metric.name == column.name);
            row.push(metric.map_or_else(|| table::text(""), cell));
        }
        if tags {
            row.push(table::text(&record.tags.join(", ")));
        }
        row
    });
    table::table(heading, rows.collect())
}

/// Returns how long a run took; nothing if its record does not say.
pub(super) fn duration(record: &RunRecord) -> String {
    if record.duration_ms == 0 && record.finished_at.is_none() {
        String::new()
    } else {
        text::duration(record.duration_ms)
    }
}

fn numeric(metric: &Metric) -> bool {
    matches!(
        metric.value,
        MetricValue::Integer(_) | MetricValue::BigInteger(_) | MetricValue::Float(_)
    )
}

/// Makes the cell of a metric's value.
fn cell(metric: &Metric) -> Cell {
    if numeric(metric) {
        table::number(&value(metric))
    } else {
        table::text(&value(metric))
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
        // As short as it can be without becoming another number, and never like an integer.
        MetricValue::Float(value) => format!("{value:?}"),
    }
}
