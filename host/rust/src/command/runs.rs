//! `metalab-store runs`

use super::{Context, Outcome, table, text};
use comfy_table::{Cell, Table};
use metalab_store::RunList;
use metalab_store::types::{Metric, MetricValue, RunQuery, RunRecord};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{self, Write};

/// How many bytes of lines are asked for at once.
const PAGE_BYTES: u32 = 4 << 20;

/// How many records are asked for at once.
const PAGE: u32 = 1024;

/// How many columns of metrics a table has at most.
const METRICS: usize = 4;

/// The columns that CSV has if none are asked for.
const CSV_COLUMNS: &str = "run_id, experiment_id, status, started_at, finished_at, duration_ms";

#[derive(clap::Args)]
pub(super) struct Runs {
    /// Show only runs of which this is true, as in `status = "failed" and metrics.loss < 0.5`
    #[arg(
        long = "where",
        value_name = "FILTER",
        default_value = "",
        hide_default_value = true
    )]
    filter: String,
    /// Sort by these keys, as in `metrics.loss, started_at desc`; by default the newest come first
    #[arg(
        long,
        value_name = "KEYS",
        default_value = "",
        hide_default_value = true
    )]
    sort: String,
    /// Show these columns, as in `run_id, params.lr, metrics.loss`
    #[arg(
        long,
        value_name = "COLUMNS",
        default_value = "",
        hide_default_value = true
    )]
    columns: String,
    /// Show at most so many runs
    #[arg(short = 'n', long, value_name = "N")]
    limit: Option<u32>,
    /// Go on after the runs that came with this cursor, of the same filter and sort keys
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,
    /// Print only how many runs there are
    #[arg(long, conflicts_with_all = ["columns", "sort", "limit", "cursor", "json_lines", "csv"])]
    count: bool,
    /// Print JSON lines: each run on a line of its own; whole records are as `put` reads them
    #[arg(long)]
    json_lines: bool,
    /// Look at every file, so that one rewritten in place by another program is noticed
    #[arg(long)]
    check: bool,
    /// Print CSV
    #[arg(long, conflicts_with = "json_lines")]
    csv: bool,
}

impl Runs {
    pub(super) fn run(&self, context: &mut Context) -> Outcome {
        let store = context.reader()?;
        let columns = if self.csv && self.columns.is_empty() {
            CSV_COLUMNS
        } else {
            &self.columns
        };
        let mut list = store.query_runs(&RunQuery {
            filter: self.filter.clone(),
            sort: self.sort.clone(),
            columns: columns.to_owned(),
            // Counting needs none of them.
            limit: if self.count { Some(0) } else { self.limit },
            cursor: self.cursor.clone(),
            check: self.check,
        })?;
        if self.count {
            return print_count(context, &mut list);
        }
        if self.csv {
            print_csv(context, &mut list)?;
        } else if self.json_lines {
            print_lines(context, &mut list)?;
        } else if context.json {
            return print_json(context, &mut list);
        } else if self.columns.is_empty() {
            print_table(context, &mut list)?;
        } else {
            print_columns(context, &mut list)?;
        }
        context.out.flush()?;
        context.warn_of_damage(&list.damaged()?);
        if list.cursor()?.is_some() {
            let left = match (&self.cursor, self.limit) {
                (None, Some(shown)) => list.total()?.saturating_sub(shown.into()).to_string(),
                _ => "some".to_owned(),
            };
            let message = format!("{left} more; with --json there is a cursor to go on from");
            context.remark("note", &message);
        }
        Ok(())
    }
}

fn print_count(context: &mut Context, list: &mut RunList) -> Outcome {
    let (runs, damaged) = (list.total()?, list.damaged()?);
    if context.json {
        return context.print_json(&json!({"runs": runs, "damaged": damaged}));
    }
    writeln!(context.out, "{runs}")?;
    context.out.flush()?;
    context.warn_of_damage(&damaged);
    Ok(())
}

/// Prints the records as their files hold them: no number passes through another representation.
fn print_lines(context: &mut Context, list: &mut RunList) -> Outcome {
    loop {
        let page = list.next_lines(PAGE_BYTES)?;
        if page.is_empty() {
            return Ok(());
        }
        context.out.write_all(page.as_bytes())?;
    }
}

/// Prints the records as their files hold them, in one JSON document.
fn print_json(context: &mut Context, list: &mut RunList) -> Outcome {
    let mut first = true;
    write!(context.out, "{{\"runs\": [")?;
    loop {
        let page = list.next_lines(PAGE_BYTES)?;
        if page.is_empty() {
            break;
        }
        for line in page.lines() {
            write!(context.out, "{}\n{line}", if first { "" } else { "," })?;
            first = false;
        }
    }
    let rest = json!({
        "total": list.total()?,
        "cursor": list.cursor()?,
        "damaged": list.damaged()?,
    });
    let rest = rest.to_string();
    // The document was opened above.
    writeln!(context.out, "\n], {}", rest.trim_start_matches('{'))?;
    Ok(())
}

fn print_csv(context: &mut Context, list: &mut RunList) -> Outcome {
    let broken = |error: csv::Error| io::Error::other(error);
    let mut writer = csv::Writer::from_writer(&mut context.out);
    writer.write_record(list.columns()?).map_err(broken)?;
    loop {
        let rows = list.next_rows(PAGE)?;
        if rows.is_empty() {
            writer.flush()?;
            return Ok(());
        }
        for row in rows {
            writer.write_record(row.iter().map(plain)).map_err(broken)?;
        }
    }
}

/// Prints a table of the columns that were asked for.
fn print_columns(context: &mut Context, list: &mut RunList) -> Outcome {
    let columns = list.columns()?;
    let mut rows = Vec::new();
    loop {
        let page = list.next_rows(PAGE)?;
        if page.is_empty() {
            break;
        }
        rows.extend(page);
    }
    if rows.is_empty() {
        writeln!(context.out, "No runs found")?;
        return Ok(());
    }
    let is_number = |value: &String| !value.starts_with(['"', '[', '{', 't', 'f', 'n']);
    let numeric: Vec<bool> = (0..columns.len())
        .map(|index| {
            let values = rows.iter().filter_map(|row| row.get(index)?.as_ref());
            values.clone().count() > 0 && values.clone().all(is_number)
        })
        .collect();
    let cell = |(numeric, content): (&bool, String)| {
        if *numeric {
            table::number(&content)
        } else {
            table::text(&content)
        }
    };
    let heading = numeric.iter().zip(columns).map(cell).collect();
    let rows = rows
        .iter()
        .map(|row| {
            numeric
                .iter()
                .zip(row.iter().map(plain))
                .map(cell)
                .collect()
        })
        .collect();
    write!(
        context.out,
        "{}",
        table::lines(table::table(heading, rows), 0)
    )?;
    Ok(())
}

/// Returns a value as tables show it: a text without its quotes, anything else as it is, nothing for none.
fn plain(value: &Option<String>) -> String {
    let Some(value) = value else {
        return String::new();
    };
    serde_json::from_str::<String>(value).unwrap_or_else(|_| value.clone())
}

fn print_table(context: &mut Context, list: &mut RunList) -> Outcome {
    let mut records: Vec<RunRecord> = Vec::new();
    loop {
        let page = list.next(PAGE)?;
        if page.is_empty() {
            break;
        }
        records.extend(page);
    }
    if records.is_empty() {
        writeln!(context.out, "No runs found")?;
    } else {
        write!(context.out, "{}", format_runs(&records))?;
    }
    Ok(())
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
