//! The script's calls on whole stores and collections: verifying, collecting garbage, copying, and running plugins.

use super::host::told as hosted;
use super::native::told;
use super::{Native, Outcome, RustHost, Target};
use crate::database::Schema;
use metalab_store::maintenance::{self, Collected, Verified};
use metalab_store::plugin::{self, DeriveOptions, Plugin, PluginLimits};
use metalab_store::transfer::{Existing, Place, TransferOptions, transfer};
use metalab_store::{FileStoreConfig, StoreConfig};
use metalab_store_guest::store::Store;
use metalab_store_guest::transfer as logic;
use metalab_store_guest::verify::{GarbageOptions, VerifyOptions, VerifyReport};
use serde_json::{Value, json};
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

/// Which store is meant.
#[derive(Clone, Copy)]
pub struct Which<'a> {
    /// The collection's root.
    pub root: &'a Path,
    /// The experiment.
    pub experiment: Option<&'a str>,
    /// Whether it may not be written.
    pub read_only: bool,
}

/// How something is copied.
pub struct Copying<'a> {
    /// The experiments; all if there are none.
    pub experiments: Vec<String>,
    /// Which runs.
    pub filter: &'a str,
    /// What happens to a run that is there with another content.
    pub existing: &'a str,
    /// Whether nothing is written.
    pub dry_run: bool,
}

/// The most calls of the view that a plugin may make for a run of the script.
const CALLS: u64 = 100;

/// What both the native logic and the Rust host say, from values with fields of the same names.
macro_rules! shown_report {
    ($report:expr) => {
        json!({
            "runs": $report.runs,
            "damage": $report.damage,
            "warnings": $report.warnings,
            "orphans": $report.orphans,
            "leftovers": $report.leftovers,
            "repaired": $report.repaired,
        })
    };
}

macro_rules! shown_finding {
    ($finding:expr) => {
        json!({
            "severity": $finding.severity.as_str(),
            "kind": $finding.kind.as_str(),
            "file": $finding.file,
            "run_id": $finding.run_id,
            "reason": $finding.reason,
            "way_out": $finding.way_out,
            "repaired": $finding.repaired,
        })
    };
}

macro_rules! shown_garbage {
    ($garbage:expr) => {
        json!({
            "kind": $garbage.kind.as_str(),
            "file": $garbage.file,
            "bytes": $garbage.bytes,
            "reason": $garbage.reason,
            "kept": $garbage.kept,
        })
    };
}

macro_rules! shown_collection {
    ($report:expr, $found:expr) => {
        json!({
            "files": $report.files,
            "bytes": $report.bytes,
            "kept_files": $report.kept_files,
            "kept_bytes": $report.kept_bytes,
            "unseen": $report.unseen,
            "found": $found,
        })
    };
}

macro_rules! shown_counts {
    ($counts:expr) => {
        json!({ "runs": $counts.runs, "files": $counts.files })
    };
}

macro_rules! shown_failures {
    ($failures:expr) => {
        $failures
            .iter()
            .map(|failure| {
                json!({
                    "experiment_id": failure.experiment_id,
                    "run_id": failure.run_id,
                    "file": failure.file,
                    "reason": failure.reason,
                })
            })
            .collect::<Vec<Value>>()
    };
}

/// Says whether a place is an archive.
fn is_archive(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "zst")
}

/// Returns the Rust host's configuration of a store.
fn config_of(index: Option<&Schema>, which: Which<'_>) -> StoreConfig {
    let mut config = RustHost::config(index, which.root);
    if let Some(experiment) = which.experiment {
        config = config.scoped(experiment);
    }
    match which.read_only {
        true => config.read_only(),
        false => config,
    }
}

/// Runs a plugin, in the Rust host: the logic alone runs none.
pub(super) fn derive_whole(
    index: Option<&Schema>,
    which: Which<'_>,
    plugin: &str,
    filter: &str,
    dry_run: bool,
) -> Outcome<Value> {
    let plugin = hosted(Plugin::load(&crate::plugin(plugin)))?;
    let options = DeriveOptions {
        filter: filter.to_owned(),
        dry_run,
        limits: PluginLimits {
            calls: CALLS,
            ..PluginLimits::default()
        },
        ..DeriveOptions::default()
    };
    let report = plugin::derive(&config_of(index, which), &plugin, &options, &mut |_| {
        ControlFlow::Continue(())
    });
    let report = hosted(report)?;
    let failures: Vec<Value> = report
        .failures
        .iter()
        .map(|failure| json!({ "run_id": failure.run_id, "code": failure.reason.code() }))
        .collect();
    Ok(json!({ "runs": report.runs, "derived": report.derived, "failures": failures }))
}

impl RustHost {
    pub(super) fn verify_whole(&self, which: Which<'_>, repair: bool) -> Outcome<Value> {
        let mut findings = Vec::new();
        let report =
            maintenance::verify(&config_of(self.0.as_ref(), which), repair, &mut |event| {
                if let Verified::Found(finding) = event {
                    findings.push(shown_finding!(finding));
                }
                ControlFlow::Continue(())
            });
        let report = hosted(report)?;
        Ok(json!({ "findings": findings, "report": shown_report!(report) }))
    }

    pub(super) fn collect_whole(&self, which: Which<'_>, apply: bool) -> Outcome<Value> {
        let mut found = Vec::new();
        let options = maintenance::GarbageOptions {
            apply,
            grace_seconds: 0,
        };
        let config = config_of(self.0.as_ref(), which);
        let report = maintenance::collect_garbage(&config, options, &mut |event| {
            if let Collected::Found(garbage) = event {
                found.push(shown_garbage!(garbage));
            }
            ControlFlow::Continue(())
        });
        let report = hosted(report)?;
        Ok(shown_collection!(report, found))
    }

    pub(super) fn transfer_whole(from: &Path, to: &Path, how: &Copying<'_>) -> Outcome<Value> {
        let place = |path: &Path| match is_archive(path) {
            true => Place::Archive(path.to_owned()),
            false => Place::Store(Box::new(FileStoreConfig::new(path).into())),
        };
        let mut options = TransferOptions {
            existing: match how.existing {
                "skip" => Existing::Skip,
                "overwrite" => Existing::Overwrite,
                _ => Existing::Fail,
            },
            dry_run: how.dry_run,
            ..TransferOptions::default()
        };
        options.selection.experiments.clone_from(&how.experiments);
        how.filter.clone_into(&mut options.selection.filter);
        let report = transfer(&place(from), &place(to), &options, &mut |_| {
            ControlFlow::Continue(())
        });
        let report = hosted(report)?;
        Ok(json!({
            "copied": shown_counts!(report.copied),
            "skipped": shown_counts!(report.skipped),
            "failed": shown_counts!(report.failed),
            "removed": report.removed,
            "failures": shown_failures!(report.failures),
        }))
    }
}

impl Native {
    fn opened(&self, which: Which<'_>) -> Outcome<Store> {
        self.open(which.root, which.experiment, which.read_only)
            .map(super::native::Direct::into_store)
    }

    pub(super) fn verify_whole(&self, which: Which<'_>, repair: bool) -> Outcome<Value> {
        // What does not exist is not made.
        told(
            self.opened(Which {
                read_only: true,
                ..which
            })?
            .close(),
        )?;
        let store = self.opened(which)?;
        let below = true;
        let mut verification = told(store.verify(VerifyOptions { repair, below }))?;
        while told(verification.step())?.is_some() {}
        let findings: Vec<Value> = verification
            .take_findings()
            .iter()
            .map(|finding| shown_finding!(finding))
            .collect();
        let report: &VerifyReport = verification.report();
        let shown = json!({ "findings": findings, "report": shown_report!(report) });
        drop(verification);
        told(store.close())?;
        Ok(shown)
    }

    pub(super) fn collect_whole(&self, which: Which<'_>, apply: bool) -> Outcome<Value> {
        told(
            self.opened(Which {
                read_only: true,
                ..which
            })?
            .close(),
        )?;
        let store = self.opened(which)?;
        let options = GarbageOptions {
            apply,
            grace_seconds: 0,
        };
        let mut collection = told(store.collect_garbage(options))?;
        while told(collection.step())?.is_some() {}
        let found: Vec<Value> = collection
            .take_found()
            .iter()
            .map(|garbage| shown_garbage!(garbage))
            .collect();
        let shown = shown_collection!(collection.report(), found);
        drop(collection);
        told(store.close())?;
        Ok(shown)
    }

    /// Carries a stream as a host does.
    pub(super) fn transfer_whole(from: &Path, to: &Path, how: &Copying<'_>) -> Outcome<Value> {
        if is_archive(from) {
            let pieces = unpacked(&fs::read(from).unwrap())?;
            return received(&mut pieces.into_iter().map(Ok), to, how);
        }
        let source = Self::default().opened(whole(from, true))?;
        let mut sender = told(source.send(logic::Selection {
            experiments: how.experiments.clone(),
            filter: how.filter.to_owned(),
            ..logic::Selection::default()
        }))?;
        let mut pieces = std::iter::from_fn(|| match told(sender.next_chunk()) {
            Ok(piece) if piece.is_empty() => None,
            piece => Some(piece),
        });
        if !is_archive(to) {
            return received(&mut pieces, to, how);
        }
        let mut packer = logic::Packer::default();
        let mut packed = Vec::new();
        for piece in &mut pieces {
            packed.extend(packer.write(&piece?));
        }
        packed.extend(packer.finish());
        fs::write(to, packed).unwrap();
        Ok(shown_transfer(sender.report()))
    }
}

fn whole(root: &Path, read_only: bool) -> Which<'_> {
    Which {
        root,
        experiment: None,
        read_only,
    }
}

/// Decompresses an archive.
fn unpacked(archive: &[u8]) -> Outcome<Vec<Vec<u8>>> {
    let mut unpacker = logic::Unpacker::new(None);
    let mut pieces = Vec::new();
    for (packed, all) in [(archive, false), (&[][..], true)] {
        told(unpacker.write(packed))?;
        loop {
            let piece = told(match all {
                false => unpacker.read(),
                true => unpacker.read_rest(),
            })?;
            if piece.is_empty() {
                break;
            }
            pieces.push(piece);
        }
    }
    Ok(pieces)
}

/// Takes a stream into the stores of a collection, and says what became of it.
fn received(
    pieces: &mut dyn Iterator<Item = Outcome<Vec<u8>>>,
    to: &Path,
    how: &Copying<'_>,
) -> Outcome<Value> {
    let native = Native::default();
    let options = logic::ReceiveOptions {
        existing: match how.existing {
            "skip" => logic::Existing::Skip,
            "overwrite" => logic::Existing::Overwrite,
            _ => logic::Existing::Fail,
        },
        dry_run: how.dry_run,
        ..logic::ReceiveOptions::default()
    };
    let mut sum = logic::Report::default();
    // Where nothing is to be written, an empty store stands for one that does not exist.
    let stand_in = tempfile::tempdir().unwrap();
    let stands_in = how.dry_run && !to.exists();
    let to = match stands_in {
        true => stand_in.path(),
        false => to,
    };
    let opened = |experiment: Option<&str>| {
        let which = Which {
            experiment,
            ..whole(to, false)
        };
        if stands_in {
            told(native.opened(which)?.close())?;
        }
        let read_only = how.dry_run;
        native.opened(Which { read_only, ..which })
    };
    let mut destination = opened(None)?;
    let mut receiver = told(destination.receive(options, None))?;
    for piece in pieces {
        let piece = piece?;
        let mut rest = piece.as_slice();
        while !rest.is_empty() {
            let step = told(receiver.write(rest))?;
            rest = &rest[step.consumed..];
            let Some(elsewhere) = step.elsewhere else {
                continue;
            };
            add(&mut sum, told(receiver.finish())?);
            told(destination.close())?;
            destination = opened(Some(&elsewhere.experiment_id))?;
            let options = logic::ReceiveOptions {
                redirect: true,
                ..options
            };
            receiver = told(destination.receive(options, Some(&elsewhere.handover)))?;
        }
    }
    add(&mut sum, told(receiver.finish())?);
    told(destination.close())?;
    Ok(shown_transfer(&sum))
}

fn add(sum: &mut logic::Report, part: logic::Report) {
    for (sum, part) in [
        (&mut sum.copied, part.copied),
        (&mut sum.skipped, part.skipped),
        (&mut sum.failed, part.failed),
    ] {
        sum.runs += part.runs;
        sum.files += part.files;
    }
    sum.removed += part.removed;
    sum.failures.extend(part.failures);
}

fn shown_transfer(report: &logic::Report) -> Value {
    json!({
        "copied": shown_counts!(report.copied),
        "skipped": shown_counts!(report.skipped),
        "failed": shown_counts!(report.failed),
        "removed": report.removed,
        "failures": shown_failures!(report.failures),
    })
}
