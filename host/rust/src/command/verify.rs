//! `metalab-store verify`

use super::progress::Progress;
use super::{Context, Failure, Outcome, text};
use metalab_store::maintenance::{Finding, Severity, Verified, VerifyReport, verify};
use serde_json::json;
use std::io::Write;
use std::ops::ControlFlow;

#[derive(clap::Args)]
pub(super) struct Verify {
    /// Put right what has exactly one right answer; what is replaced is kept in .quarantine/
    #[arg(long)]
    repair: bool,
}

impl Verify {
    pub(super) fn run(&self, context: &mut Context) -> Outcome {
        let progress = Progress::new(context.json);
        let mut findings = Vec::new();
        let report = verify(&context.config, self.repair, &mut |event| {
            match event {
                Verified::Progress(step) => {
                    let what = match step.directory.as_str() {
                        "" => step.phase,
                        directory => format!("{directory}: {}", step.phase),
                    };
                    progress.show(&what, step.done, step.total);
                }
                Verified::Found(finding) => findings.push(finding),
            }
            ControlFlow::Continue(())
        });
        drop(progress);
        let report = report?;
        if context.json {
            print_json(context, &findings, &report)?;
        } else {
            print(context, &findings, &report)?;
        }
        if report.damage > 0 {
            context.out.flush()?;
            return Err(Failure::Damaged);
        }
        Ok(())
    }
}

fn print_json(context: &mut Context, findings: &[Finding], report: &VerifyReport) -> Outcome {
    let findings: Vec<_> = findings
        .iter()
        .map(|finding| {
            json!({
                "severity": finding.severity.as_str(),
                "kind": finding.kind.as_str(),
                "file": finding.file,
                "run_id": finding.run_id,
                "reason": finding.reason,
                "way_out": finding.way_out,
                "repaired": finding.repaired,
            })
        })
        .collect();
    let mut document = json!(report);
    document["findings"] = findings.into();
    context.print_json(&document)
}

fn print(context: &mut Context, findings: &[Finding], report: &VerifyReport) -> Outcome {
    for severity in [
        Severity::Damage,
        Severity::Warning,
        Severity::Orphan,
        Severity::Leftover,
    ] {
        for finding in findings.iter().filter(|found| found.severity == severity) {
            let (what, way_out) = match &finding.repaired {
                Some(repaired) => ("repaired", repaired),
                None => (severity.as_str(), &finding.way_out),
            };
            writeln!(
                context.out,
                "{what}: {}: {} ({way_out})",
                text::cell(&finding.file),
                text::safe(&finding.reason)
            )?;
        }
    }
    writeln!(
        context.out,
        "{} runs, {} files, {}: {} damaged, {} warnings, {} orphans, {} leftovers, {} repaired.",
        report.runs,
        report.files,
        text::size(report.bytes),
        report.damage,
        report.warnings,
        report.orphans,
        report.leftovers,
        report.repaired
    )?;
    for digest in &report.digests {
        let id = match digest.experiment_id.as_str() {
            "" => "(no experiment)",
            id => id,
        };
        writeln!(context.out, "{}  {}", digest.digest, text::cell(id))?;
    }
    Ok(())
}
