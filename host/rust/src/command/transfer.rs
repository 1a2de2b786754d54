//! `metalab-store export` and `metalab-store import`

use super::{Context, Failure, Outcome, text, usage};
use metalab_store::StoreConfig;
use metalab_store::transfer::{
    Counts, Existing, Place, Progress, Report, Selection, TransferOptions, transfer,
};
use std::io::{self, IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How often the bar is drawn.
const REDRAW: Duration = Duration::from_millis(200);

#[derive(clap::Args)]
pub(super) struct Transfer {
    /// What is copied from: a store or an archive; export: the store of -s by default
    #[arg(long, value_name = "LOCATOR")]
    from: Option<String>,
    /// What is copied to: a store or an archive; import: the store of -s by default
    #[arg(long, value_name = "LOCATOR")]
    to: Option<String>,
    /// Copy only runs that a filter matches, as with `runs --where`
    #[arg(short, long = "where", value_name = "FILTER")]
    filter: Option<String>,
    /// Leave out artifacts and their manifests
    #[arg(long)]
    no_artifacts: bool,
    /// Leave out logs
    #[arg(long)]
    no_logs: bool,
    /// Leave out structured results
    #[arg(long)]
    no_results: bool,
    /// Leave out derived metrics
    #[arg(long)]
    no_derived: bool,
    /// Replace what the destination has with another content: a run is then what the source has of it, and no more
    #[arg(long, group = "existing")]
    overwrite: bool,
    /// Keep each run whose record the destination has, whatever it holds
    #[arg(long, group = "existing")]
    skip_existing: bool,
    /// Report a run that the destination has with another content as failed; this is the default
    #[arg(long, group = "existing")]
    fail_existing: bool,
    /// Write nothing, and tell what would be copied
    #[arg(long)]
    dry_run: bool,
    /// Rewrite the places of artifacts in records and manifests; they are found without it too
    #[arg(long)]
    rewrite_uris: bool,
    /// How many bytes an archive may hold; 1 GiB and 1,000 times its size by default
    #[arg(long, value_name = "BYTES")]
    max_archive_bytes: Option<u64>,
}

impl Transfer {
    pub(super) fn run(
        &self,
        context: &mut Context,
        store: &str,
        experiments: &[String],
        export: bool,
    ) -> Outcome {
        let own = |given: &Option<String>, option, default| match (given, default) {
            (Some(given), _) => given.clone(),
            (None, true) => store.to_owned(),
            (None, false) => usage(&format!("name what is copied {option}: --{option} LOCATOR")),
        };
        let from = place(&own(&self.from, "from", export))?;
        let to = place(&own(&self.to, "to", !export))?;
        let options = TransferOptions {
            selection: Selection {
                experiments: experiments.to_vec(),
                filter: self.filter.clone().unwrap_or_default(),
                artifacts: !self.no_artifacts,
                derived: !self.no_derived,
                results: !self.no_results,
                logs: !self.no_logs,
            },
            existing: if self.overwrite {
                Existing::Overwrite
            } else if self.skip_existing {
                Existing::Skip
            } else {
                Existing::Fail
            },
            dry_run: self.dry_run,
            rewrite_uris: self.rewrite_uris,
            max_archive_bytes: self.max_archive_bytes,
        };
        let mut bar = Bar::new();
        let copied = transfer(&from, &to, &options, &mut |progress| {
            bar.show(progress);
            ControlFlow::Continue(())
        });
        bar.clear();
        let report = copied?;
        self.print(context, &report)?;
        if report.failures.is_empty() {
            Ok(())
        } else {
            Err(Failure::Said)
        }
    }

    fn print(&self, context: &mut Context, report: &Report) -> Outcome {
        if context.json {
            let mut document = serde_json::json!(report);
            document["dry_run"] = self.dry_run.into();
            return context.print_json(&document);
        }
        for failure in &report.failures {
            let place = [
                Some(&failure.experiment_id).filter(|id| !id.is_empty()),
                failure.run_id.as_ref(),
                failure.file.as_ref(),
            ];
            let place: Vec<&str> = place.into_iter().flatten().map(String::as_str).collect();
            context.remark(
                "failed",
                &format!("{}: {}", place.join(" "), failure.reason),
            );
        }
        let verb = if self.dry_run { "Would copy" } else { "Copied" };
        let line = |counts: &Counts| {
            format!(
                "{} runs, {} files, {}",
                counts.runs,
                counts.files,
                text::size(counts.bytes)
            )
        };
        writeln!(context.out, "{verb}: {}", line(&report.copied))?;
        writeln!(context.out, "There already: {}", line(&report.skipped))?;
        writeln!(context.out, "Failed: {}", line(&report.failed))?;
        if report.removed > 0 {
            let verb = if self.dry_run {
                "Would remove"
            } else {
                "Removed"
            };
            let files = report.removed;
            writeln!(
                context.out,
                "{verb}: {files} files that the source does not have"
            )?;
        }
        for digest in &report.digests {
            let id = if digest.experiment_id.is_empty() {
                "(no experiment)"
            } else {
                &digest.experiment_id
            };
            writeln!(context.out, "{}  {}", digest.digest, text::cell(id))?;
        }
        Ok(())
    }
}

/// Reads a place: an archive by the end of its name, else a store.
fn place(locator: &str) -> Result<Place, Failure> {
    if [".tar.zst", ".tar"]
        .iter()
        .any(|end| locator.ends_with(end))
    {
        return Ok(Place::Archive(PathBuf::from(locator)));
    }
    Ok(Place::Store(Box::new(StoreConfig::from_locator(locator)?)))
}

/// A line on a terminal that says how far a copy is; nothing in a pipe.
struct Bar {
    shown: bool,
    begun: Instant,
    drawn: Instant,
}

impl Bar {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            shown: io::stderr().is_terminal(),
            begun: now,
            drawn: now,
        }
    }

    fn show(&mut self, progress: &Progress) {
        if !self.shown || self.drawn.elapsed() < REDRAW {
            return;
        }
        self.drawn = Instant::now();
        let seconds = self.begun.elapsed().as_secs_f64().max(0.001);
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an estimate for people"
        )]
        let (rate, left) = {
            let (done, total) = progress.archive.unwrap_or((progress.runs, progress.total));
            let left = total.saturating_sub(done) as f64 * seconds / done.max(1) as f64;
            ((progress.bytes as f64 / seconds) as u64, left as i64)
        };
        let done = match progress.archive {
            Some((read, size)) => format!("{} of {}", text::size(read), text::size(size)),
            None => format!("{}/{} runs", progress.runs, progress.total),
        };
        let line = format!(
            "{done}, {}, {}/s, {} left",
            text::size(progress.bytes),
            text::size(rate),
            text::duration(left * 1000)
        );
        write!(io::stderr(), "\r\x1b[2K{line}").ok();
    }

    fn clear(&self) {
        if self.shown {
            write!(io::stderr(), "\r\x1b[2K").ok();
        }
    }
}
