//! `metalab-store show`

use super::runs::{duration, value};
use super::{Context, Outcome, artifacts, logs, no_such_run, table, text};
use comfy_table::Table;
use metalab_store::types::{Metric, RunRecord};
use metalab_store::{Error, Store};
use std::io::{self, Write};

/// How far the parts of a run are indented below their titles.
const INDENT: u16 = 2;

#[derive(clap::Args)]
pub(super) struct Show {
    /// The run's id
    run: String,
}

impl Show {
    pub(super) fn run(&self, context: &mut Context) -> Outcome {
        let store = context.reader()?;
        let record = match store.get_run_record(&self.run) {
            Ok(Some(record)) => Ok(record),
            Ok(None) => return Err(no_such_run(&self.run)),
            Err(Error::Unrepresentable(reason)) => Err(reason),
            Err(error) => return Err(error.into()),
        };
        if !context.json
            && let Ok(record) = &record
        {
            return self.print(context, &store, record);
        }
        // The text of the file, which is known to be JSON now, holds what the typed form cannot.
        let Some(text) = store.get_run_text(&self.run)? else {
            return Err(no_such_run(&self.run));
        };
        match record {
            Err(reason) if !context.json => {
                context.remark("warning", &reason.message);
                writeln!(context.out, "{}", text::safe(text.trim_end()))?;
            }
            _ => writeln!(context.out, "{}", text.trim_end())?,
        }
        Ok(())
    }

    fn print(&self, context: &mut Context, store: &Store, record: &RunRecord) -> Outcome {
        let run = &self.run;
        let derived = part(context, store.get_derived(run))?.unwrap_or_default();
        let results = part(context, store.list_results(run))?;
        let artifacts = part(context, store.list_artifacts(run))?;
        let mut logs = Vec::new();
        for name in part(context, store.list_logs(run))? {
            let size = logs::size(store, run, &name)?;
            logs.push((name, size));
        }

        let out = &mut context.out;
        head(out, record)?;
        let parameters = text::members(&record.params_resolved);
        section(out, "Parameters", pairs(parameters))?;
        section(out, "Metrics", pairs(metrics(&record.metrics)))?;
        section(out, "Derived metrics", pairs(metrics(&derived)))?;
        let results = results.iter().map(|name| vec![table::text(name)]).collect();
        section(out, "Results", table::table(Vec::new(), results))?;
        section(out, "Artifacts", artifacts::make_table(&artifacts))?;
        section(out, "Logs", logs::make_table(&logs))?;
        if let Some(notes) = &record.notes {
            writeln!(out, "\nNotes\n  {}", text::indented(notes, 2))?;
        }
        for warning in &record.warnings {
            object(out, "Warning", warning)?;
        }
        if let Some(error) = &record.error {
            object(out, "Error", error)?;
        }
        section(out, "Other fields", pairs(text::members(&record.unknown)))
    }
}

/// Returns a part of a run; one that is damaged is reported, and hides no other.
fn part<T: Default>(context: &Context, answer: Result<T, Error>) -> Result<T, Error> {
    match answer {
        Err(Error::Corrupt(reason) | Error::Unrepresentable(reason)) => {
            context.remark("warning", &reason.message);
            Ok(T::default())
        }
        answer => answer,
    }
}

/// Prints what a record has one of.
fn head(out: &mut impl Write, record: &RunRecord) -> io::Result<()> {
    let known = |value: &Option<String>| value.clone().unwrap_or_default();
    let provenance = &record.provenance;
    let mut lines = vec![
        ("run", record.run_id.clone()),
        ("experiment", record.experiment_id.clone()),
        ("status", text::status(record.status).to_owned()),
        ("started", known(&record.started_at)),
        ("finished", known(&record.finished_at)),
        ("duration", duration(record)),
        ("tags", record.tags.join(", ")),
        ("context fingerprint", record.context_fingerprint.clone()),
        ("params fingerprint", record.params_fingerprint.clone()),
        ("seed fingerprint", record.seed_fingerprint.clone()),
        ("code", known(&provenance.code_hash)),
        ("python", known(&provenance.python_version)),
        ("metalab", known(&provenance.metalab_version)),
        ("executor", known(&provenance.executor_id)),
        ("host", known(&provenance.host)),
    ];
    let more = [&provenance.extra, &provenance.unknown].map(|object| text::members(object));
    let more = more.concat();
    lines.extend(more.iter().map(|(name, value)| (&**name, value.clone())));
    for (name, value) in lines.into_iter().filter(|(_, value)| !value.is_empty()) {
        writeln!(out, "{:19} {}", text::cell(name), text::cell(&value))?;
    }
    Ok(())
}

fn metrics(metrics: &[Metric]) -> Vec<(String, String)> {
    let pair = |metric: &Metric| (metric.name.clone(), value(metric));
    metrics.iter().map(pair).collect()
}

fn pairs(pairs: Vec<(String, String)>) -> Table {
    let row = |(name, value): &(String, String)| vec![table::text(name), table::text(value)];
    table::table(Vec::new(), pairs.iter().map(row).collect())
}

/// Prints a part of a run, if there is anything in it.
fn section(out: &mut impl Write, title: &str, table: Table) -> Outcome {
    if !table.is_empty() {
        write!(out, "\n{title}\n{}", table::lines(table, INDENT))?;
    }
    Ok(())
}

/// Prints the members of a JSON object, texts of several lines as such.
fn object(out: &mut impl Write, title: &str, object: &str) -> io::Result<()> {
    writeln!(out, "\n{title}")?;
    for (name, value) in text::members(object) {
        writeln!(
            out,
            "  {}: {}",
            text::cell(&name),
            text::indented(&value, 4)
        )?;
    }
    Ok(())
}
