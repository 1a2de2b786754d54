//! `metalab-store show`

use super::runs::{status, value};
use super::{Context, Outcome, no_such_run, table, text};
use metalab_store::types::RunRecord;
use metalab_store::{Error, Store};
use std::io::Write;

#[derive(clap::Args)]
pub(super) struct Show {
    /// The run's id
    run: String,
}

impl Show {
    pub(super) fn run(&self, context: &mut Context) -> Outcome {
        let store = context.reader()?;
        if context.json {
            let text = store
                .get_run_text(&self.run)?
                .ok_or_else(|| no_such_run(&self.run))?;
            writeln!(context.out, "{}", text.trim_end())?;
            return Ok(());
        }
        match store.get_run_record(&self.run) {
            Ok(Some(record)) => self.print(context, &store, &record),
            Ok(None) => Err(no_such_run(&self.run)),
            Err(Error::Unrepresentable(reason)) => {
                eprintln!("warning: {}", text::safe(&reason.message));
                let text = store.get_run_text(&self.run)?.unwrap_or_default();
                writeln!(context.out, "{}", text::safe(&text))?;
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn print(&self, context: &mut Context, store: &Store, record: &RunRecord) -> Outcome {
        let out = &mut context.out;
        let mut head = vec![
            ("run", record.run_id.clone()),
            ("experiment", record.experiment_id.clone()),
            ("status", status(record.status).to_owned()),
            ("started", record.started_at.clone().unwrap_or_default()),
            ("finished", record.finished_at.clone().unwrap_or_default()),
            ("duration", text::duration(record.duration_ms)),
            ("tags", record.tags.join(", ")),
            ("notes", record.notes.clone().unwrap_or_default()),
            ("params fingerprint", record.params_fingerprint.clone()),
            ("seed fingerprint", record.seed_fingerprint.clone()),
            ("context fingerprint", record.context_fingerprint.clone()),
        ];
        let provenance = &record.provenance;
        for (name, value) in [
            ("code", &provenance.code_hash),
            ("python", &provenance.python_version),
            ("metalab", &provenance.metalab_version),
            ("executor", &provenance.executor_id),
            ("host", &provenance.host),
        ] {
            head.push((name, value.clone().unwrap_or_default()));
        }
        for (name, value) in head.into_iter().filter(|(_, value)| !value.is_empty()) {
            writeln!(out, "{name:20}{}", text::cell(&value))?;
        }
        let pairs = |metrics: &[metalab_store::types::Metric]| -> Vec<Vec<String>> {
            metrics
                .iter()
                .map(|metric| vec![metric.name.clone(), value(metric)])
                .collect()
        };
        if record.params_resolved != "{}" {
            writeln!(
                out,
                "\nParameters\n  {}",
                text::safe(&record.params_resolved)
            )?;
        }
        section(out, "Metrics", &["NAME", "VALUE"], pairs(&record.metrics))?;
        let derived = store.get_derived(&self.run)?.unwrap_or_default();
        section(out, "Derived metrics", &["NAME", "VALUE"], pairs(&derived))?;
        let results = store.list_results(&self.run)?;
        section(
            out,
            "Results",
            &["NAME"],
            results.into_iter().map(|name| vec![name]).collect(),
        )?;
        let artifacts = super::artifacts::rows(&store.list_artifacts(&self.run)?);
        section(out, "Artifacts", &super::artifacts::HEADING, artifacts)?;
        let logs = store.list_logs(&self.run)?;
        section(
            out,
            "Logs",
            &["NAME"],
            logs.into_iter().map(|name| vec![name]).collect(),
        )?;
        if let Some(error) = &record.error {
            writeln!(out, "\nError")?;
            match serde_json::from_str::<serde_json::Value>(error) {
                Ok(serde_json::Value::Object(fields)) => {
                    for (name, value) in fields {
                        let value = value
                            .as_str()
                            .map_or_else(|| value.to_string(), str::to_owned);
                        writeln!(
                            out,
                            "  {name}: {}",
                            text::safe(value.trim_end()).replace('\n', "\n    ")
                        )?;
                    }
                }
                _ => writeln!(out, "  {}", text::safe(error))?,
            }
        }
        for warning in &record.warnings {
            writeln!(out, "\nWarning\n  {}", text::safe(warning))?;
        }
        Ok(())
    }
}

fn section(out: &mut impl Write, title: &str, heading: &[&str], rows: Vec<Vec<String>>) -> Outcome {
    if !rows.is_empty() {
        writeln!(out, "\n{title}")?;
        for line in table::table(heading, rows)
            .lines()
            .skip(usize::from(heading.len() < 3))
        {
            writeln!(out, "  {line}")?;
        }
    }
    Ok(())
}
