//! The `maintenance` interface of the component's surface: maps its types and resources, and nothing else.

use crate::component::exports::metalab::store::{maintenance as wit, store, transfer};
use crate::component::{Answer, Component, logic_of};
use crate::verify as logic;
use std::cell::RefCell;

/// The resource that verifies.
pub struct Verification(RefCell<logic::Verification>);

/// The resource that removes what is left over.
pub struct Collection(RefCell<logic::Collection>);

impl wit::Guest for Component {
    type Verification = Verification;
    type Collection = Collection;

    fn verify(
        of: store::StoreBorrow<'_>,
        options: wit::VerifyOptions,
    ) -> Answer<wit::Verification> {
        let verification = logic_of(&of).verify(logic::VerifyOptions {
            repair: options.repair,
            below: options.below,
        })?;
        Ok(wit::Verification::new(Verification(RefCell::new(
            verification,
        ))))
    }

    fn collect_garbage(
        of: store::StoreBorrow<'_>,
        options: wit::GarbageOptions,
    ) -> Answer<wit::Collection> {
        let collection = logic_of(&of).collect_garbage(logic::GarbageOptions {
            apply: options.apply,
            grace_seconds: options.grace_seconds,
        })?;
        Ok(wit::Collection::new(Collection(RefCell::new(collection))))
    }
}

fn severity(severity: logic::Severity) -> wit::Severity {
    match severity {
        logic::Severity::Damage => wit::Severity::Damage,
        logic::Severity::Warning => wit::Severity::Warning,
        logic::Severity::Orphan => wit::Severity::Orphan,
        logic::Severity::Leftover => wit::Severity::Leftover,
    }
}

fn kind(kind: logic::FindingKind) -> wit::FindingKind {
    use logic::FindingKind as K;
    match kind {
        K::Unreadable => wit::FindingKind::Unreadable,
        K::Altered => wit::FindingKind::Altered,
        K::Misplaced => wit::FindingKind::Misplaced,
        K::ArtifactDiffers => wit::FindingKind::ArtifactDiffers,
        K::ArtifactMissing => wit::FindingKind::ArtifactMissing,
        K::ArtifactEntry => wit::FindingKind::ArtifactEntry,
        K::Changed => wit::FindingKind::Changed,
        K::Unrepresentable => wit::FindingKind::Unrepresentable,
        K::NewerFormat => wit::FindingKind::NewerFormat,
        K::NotText => wit::FindingKind::NotText,
        K::Stray => wit::FindingKind::Stray,
        K::Promised => wit::FindingKind::Promised,
        K::Index => wit::FindingKind::Index,
        K::Database => wit::FindingKind::Database,
        K::NoRecord => wit::FindingKind::NoRecord,
        K::Unlisted => wit::FindingKind::Unlisted,
        K::Unowned => wit::FindingKind::Unowned,
        K::HalfWritten => wit::FindingKind::HalfWritten,
        K::UnusedLock => wit::FindingKind::UnusedLock,
        K::OldJournal => wit::FindingKind::OldJournal,
    }
}

impl wit::GuestVerification for Verification {
    fn step(&self) -> Answer<Option<wit::VerifyProgress>> {
        let progress = self.0.borrow_mut().step()?;
        Ok(progress.map(|progress| wit::VerifyProgress {
            directory: progress.directory,
            phase: progress.phase.to_owned(),
            done: progress.done,
            total: progress.total,
            bytes: progress.bytes,
        }))
    }

    fn findings(&self) -> Vec<wit::Finding> {
        let found = self.0.borrow_mut().take_findings();
        let finding = |finding: logic::Finding| wit::Finding {
            severity: severity(finding.severity),
            kind: kind(finding.kind),
            file: finding.file,
            run_id: finding.run_id,
            reason: finding.reason,
            way_out: finding.way_out,
            repaired: finding.repaired,
        };
        found.into_iter().map(finding).collect()
    }

    fn report(&self) -> wit::VerifyReport {
        let verification = self.0.borrow();
        let report = verification.report();
        let digest = |digest: &crate::transfer::ExperimentDigest| transfer::ExperimentDigest {
            experiment_id: digest.experiment_id.clone(),
            runs: digest.runs,
            digest: digest.digest.clone(),
        };
        wit::VerifyReport {
            runs: report.runs,
            files: report.files,
            bytes: report.bytes,
            fresh: report.fresh,
            replaced: report.replaced,
            damage: report.damage,
            warnings: report.warnings,
            orphans: report.orphans,
            leftovers: report.leftovers,
            repaired: report.repaired,
            digests: report.digests.iter().map(digest).collect(),
        }
    }
}

impl wit::GuestCollection for Collection {
    fn step(&self) -> Answer<Option<wit::GarbageProgress>> {
        let progress = self.0.borrow_mut().step()?;
        Ok(progress.map(|(runs, total)| wit::GarbageProgress { runs, total }))
    }

    fn found(&self) -> Vec<wit::Garbage> {
        let found = self.0.borrow_mut().take_found();
        let left = |left: logic::Left| wit::Garbage {
            kind: kind(left.kind),
            file: left.file,
            bytes: left.bytes,
            reason: left.reason,
            kept: left.kept,
        };
        found.into_iter().map(left).collect()
    }

    fn report(&self) -> wit::GarbageReport {
        let report = self.0.borrow().report();
        wit::GarbageReport {
            files: report.files,
            bytes: report.bytes,
            kept_files: report.kept_files,
            kept_bytes: report.kept_bytes,
            unseen: report.unseen,
        }
    }
}
