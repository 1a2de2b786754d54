//! `metalab-store gc`

use super::progress::Progress;
use super::{Context, Failure, Outcome, text};
use metalab_store::maintenance::{
    Collected, Garbage, GarbageOptions, GarbageReport, collect_garbage,
};
use serde_json::json;
use std::io::Write;
use std::ops::ControlFlow;

#[derive(clap::Args)]
pub(super) struct Gc {
    /// Remove what is listed; without it, nothing is removed
    #[arg(long)]
    apply: bool,
    /// Leave what was changed within this time: a number with s, m, h or d
    #[arg(long, value_name = "TIME", default_value = "1d", value_parser = seconds)]
    grace: u64,
}

/// Reads a time: `90s`, `15m`, `12h`, `7d`, or seconds.
fn seconds(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.char_indices().next_back() {
        Some((at, 's')) => (&text[..at], 1),
        Some((at, 'm')) => (&text[..at], 60),
        Some((at, 'h')) => (&text[..at], 3_600),
        Some((at, 'd')) => (&text[..at], 86_400),
        _ => (text, 1),
    };
    let number: u64 = number
        .parse()
        .map_err(|_| "expected a number with s, m, h or d, as in 12h".to_owned())?;
    number
        .checked_mul(unit)
        .ok_or_else(|| "the time is too long".to_owned())
}

impl Gc {
    pub(super) fn run(&self, context: &mut Context) -> Outcome {
        let options = GarbageOptions {
            apply: self.apply,
            grace_seconds: self.grace,
        };
        let progress = Progress::new(context.json);
        let mut found = Vec::new();
        let report = collect_garbage(&context.config, options, &mut |event| {
            match event {
                Collected::Progress(directory, step) => {
                    let what = match directory.as_str() {
                        "" => "runs",
                        directory => directory,
                    };
                    progress.show(what, step.runs, step.total);
                }
                Collected::Found(garbage) => found.push(garbage),
            }
            ControlFlow::Continue(())
        });
        drop(progress);
        let report = report?;
        if context.json {
            let found: Vec<_> = found
                .iter()
                .map(|garbage| {
                    json!({
                        "kind": garbage.kind.as_str(),
                        "file": garbage.file,
                        "bytes": garbage.bytes,
                        "reason": garbage.reason,
                        "kept": garbage.kept,
                    })
                })
                .collect();
            let mut document = json!(report);
            document["applied"] = self.apply.into();
            document["found"] = found.into();
            context.print_json(&document)?;
        } else {
            self.print(context, &found, report)?;
        }
        if report.unseen > 0 {
            context.out.flush()?;
            return Err(Failure::Other(
                "io",
                match report.unseen {
                    1 => "1 directory could not be looked at: see what is listed of it".to_owned(),
                    unseen => format!(
                        "{unseen} directories could not be looked at: see what is listed of them"
                    ),
                },
            ));
        }
        Ok(())
    }

    fn print(&self, context: &mut Context, found: &[Garbage], report: GarbageReport) -> Outcome {
        let verb = if self.apply {
            "removed"
        } else {
            "would remove"
        };
        for garbage in found {
            let (what, why) = match &garbage.kept {
                Some(kept) => ("keeps", kept),
                None => (verb, &garbage.reason),
            };
            writeln!(
                context.out,
                "{what} {} ({}): {}",
                text::cell(&garbage.file),
                text::size(garbage.bytes),
                text::safe(why)
            )?;
        }
        let verb = if self.apply {
            "Removed"
        } else {
            "Would remove"
        };
        writeln!(
            context.out,
            "{verb} {} files, {}. Keeps {} files, {}.",
            report.files,
            text::size(report.bytes),
            report.kept_files,
            text::size(report.kept_bytes)
        )?;
        if !self.apply && report.files > 0 {
            writeln!(
                context.out,
                "Nothing was removed; pass --apply to remove it."
            )?;
        }
        Ok(())
    }
}
