//! Verifying a store, repairing what has one right answer, and removing what dead writers left.
//!
//! All rules are the component's. This opens the stores of a collection's experiments one after the other where they
//! are to be changed: an instance of the component can lock the runs of the directory that it was granted alone.

use crate::bindings::exports::metalab::store::maintenance as wire;
use crate::config::StoreConfig;
use crate::error::{Error, Result};
use crate::pool::Resource;
use crate::store::Store;
use crate::types::Damage;
use std::ops::ControlFlow;

pub use wire::{
    Finding, FindingKind, Garbage, GarbageOptions, GarbageProgress, GarbageReport, Severity,
    VerifyOptions, VerifyProgress, VerifyReport,
};

impl Severity {
    /// Returns it as a word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Damage => "damage",
            Self::Warning => "warning",
            Self::Orphan => "orphan",
            Self::Leftover => "leftover",
        }
    }
}

impl FindingKind {
    /// Returns it as words joined by hyphens, as the contract names it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Altered => "altered",
            Self::Misplaced => "misplaced",
            Self::ArtifactDiffers => "artifact-differs",
            Self::ArtifactMissing => "artifact-missing",
            Self::ArtifactEntry => "artifact-entry",
            Self::Changed => "changed",
            Self::Unrepresentable => "unrepresentable",
            Self::NewerFormat => "newer-format",
            Self::NotText => "not-text",
            Self::Stray => "stray",
            Self::Promised => "promised",
            Self::Index => "index",
            Self::Database => "database",
            Self::NoRecord => "no-record",
            Self::Unlisted => "unlisted",
            Self::Unowned => "unowned",
            Self::HalfWritten => "half-written",
            Self::UnusedLock => "unused-lock",
            Self::OldJournal => "old-journal",
        }
    }
}

/// What happens during a verification.
#[derive(Clone, Debug, PartialEq)]
pub enum Verified {
    /// It is so far.
    Progress(VerifyProgress),
    /// This was found. Its file is relative to the collection's root.
    Found(Finding),
}

/// What happens during a collection of garbage.
#[derive(Clone, Debug, PartialEq)]
pub enum Collected {
    /// It is so far, in this directory.
    Progress(String, GarbageProgress),
    /// This was found. Its file is relative to the collection's root.
    Found(Garbage),
}

/// Verifies a store: of a collection, all of it. A store that cannot be written is verified without noting anything.
///
/// `watch` is told often how far it is, and of each finding, and stops it with [`ControlFlow::Break`].
///
/// # Errors
/// [`Error::Root`] if there is no such store, [`Error::ReadOnly`] if one that is should be repaired,
/// [`Error::Cancelled`], [`Error::Io`]. What is wrong with a file, or with one experiment, is a finding.
pub fn verify(
    config: &StoreConfig,
    repair: bool,
    watch: &mut dyn FnMut(Verified) -> ControlFlow<()>,
) -> Result<VerifyReport> {
    let mut report = VerifyReport::default();
    // What does not exist is not made.
    config.clone().read_only().max_instances(1).connect()?;
    if config.is_scoped() || !repair {
        let store = match repair {
            true => config.clone().max_instances(1).connect()?,
            false => writer_or_reader(config)?,
        };
        let options = VerifyOptions {
            repair,
            below: true,
        };
        verify_one(&store, options, "", &mut report, watch)?;
        return Ok(report);
    }
    let options = VerifyOptions {
        repair,
        below: false,
    };
    let list = config.list_experiments()?;
    for id in &list.experiments {
        let scoped = config.clone().scoped(id).max_instances(1);
        match scoped.connect() {
            Ok(store) => {
                let directory = directory_of(config, &store)?;
                verify_one(&store, options, &directory, &mut report, watch)?;
            }
            Err(error) => {
                let damage = not_opened(id, &error);
                let way_out = "open it by itself when that is put right";
                unverified(&mut report, damage, way_out, watch)?;
            }
        }
    }
    for damage in list.damaged {
        let way_out = "restore its _meta.json, or move it away";
        unverified(&mut report, damage, way_out, watch)?;
    }
    let store = config.clone().max_instances(1).connect()?;
    verify_one(&store, options, "", &mut report, watch)?;
    Ok(report)
}

/// Looks for what dead writers left in a store, or in all of a collection, and removes it if the options say so.
///
/// `watch` is told often how far it is, and of everything that is found, and stops it with [`ControlFlow::Break`].
///
/// # Errors
/// As [`verify`]. A directory or a store of a collection that cannot be looked at is told as something that stays, with
/// the reason, and counted as unseen; all others are done.
pub fn collect_garbage(
    config: &StoreConfig,
    options: GarbageOptions,
    watch: &mut dyn FnMut(Collected) -> ControlFlow<()>,
) -> Result<GarbageReport> {
    let mut report = GarbageReport::default();
    // What does not exist is not made.
    config.clone().read_only().max_instances(1).connect()?;
    let open = |config: &StoreConfig| match options.apply {
        true => config.clone().max_instances(1).connect(),
        false => writer_or_reader(config),
    };
    if !config.is_scoped() {
        let list = config.list_experiments()?;
        for id in &list.experiments {
            match open(&config.clone().scoped(id)) {
                Ok(store) => {
                    let directory = directory_of(config, &store)?;
                    collect_one(&store, options, &directory, &mut report, watch)?;
                }
                Err(error) => unseen(&mut report, not_opened(id, &error), watch)?,
            }
        }
        for damage in list.damaged {
            unseen(&mut report, damage, watch)?;
        }
    }
    collect_one(&open(config)?, options, "", &mut report, watch)?;
    Ok(report)
}

/// Opens a store to write; to read where that is not allowed, or where something lies in the place of one of its
/// directories: then it is a finding.
fn writer_or_reader(config: &StoreConfig) -> Result<Store> {
    let config = config.clone().max_instances(1);
    match config.connect() {
        Err(Error::ReadOnly(_) | Error::AlreadyExists(_)) => config.read_only().connect(),
        Err(Error::Io(error)) if error.code == "access" => config.read_only().connect(),
        connected => connected,
    }
}

/// Returns the name of a store's directory in its collection.
fn directory_of(config: &StoreConfig, store: &Store) -> Result<String> {
    let directory = store.get_working_directory()?;
    let below = directory.strip_prefix(config.root()).unwrap_or(&directory);
    Ok(below.to_string_lossy().into_owned())
}

fn within(directory: &str, file: &str) -> String {
    match (directory, file) {
        ("", file) => file.to_owned(),
        (directory, "") => directory.to_owned(),
        (directory, file) => format!("{directory}/{file}"),
    }
}

fn not_opened(id: &str, error: &Error) -> Damage {
    Damage {
        file: id.to_owned(),
        offset: None,
        reason: format!("the store of experiment {id:?} cannot be opened: {error}"),
    }
}

/// Tells of a directory whose garbage is not looked for.
fn unseen(
    report: &mut GarbageReport,
    Damage { file, reason, .. }: Damage,
    watch: &mut dyn FnMut(Collected) -> ControlFlow<()>,
) -> Result<()> {
    report.unseen += 1;
    let garbage = Garbage {
        kind: FindingKind::Unreadable,
        file,
        bytes: 0,
        reason,
        kept: Some("what is in it was not looked at".to_owned()),
    };
    match watch(Collected::Found(garbage)) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::Cancelled),
    }
}

/// Tells of a directory that cannot be verified.
fn unverified(
    report: &mut VerifyReport,
    Damage { file, reason, .. }: Damage,
    way_out: &str,
    watch: &mut dyn FnMut(Verified) -> ControlFlow<()>,
) -> Result<()> {
    report.damage += 1;
    let finding = Finding {
        severity: Severity::Damage,
        kind: FindingKind::Unreadable,
        file,
        run_id: None,
        reason,
        way_out: way_out.to_owned(),
        repaired: None,
    };
    match watch(Verified::Found(finding)) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::Cancelled),
    }
}

fn verify_one(
    store: &Store,
    options: VerifyOptions,
    directory: &str,
    report: &mut VerifyReport,
    watch: &mut dyn FnMut(Verified) -> ControlFlow<()>,
) -> Result<()> {
    let mut verification = store.verify(options)?;
    loop {
        let step = verification.step()?;
        for mut finding in verification.findings()? {
            finding.file = within(directory, &finding.file);
            if watch(Verified::Found(finding)).is_break() {
                return Err(Error::Cancelled);
            }
        }
        let Some(mut progress) = step else {
            break;
        };
        progress.directory = within(directory, &progress.directory);
        progress.bytes += report.bytes;
        if watch(Verified::Progress(progress)).is_break() {
            return Err(Error::Cancelled);
        }
    }
    let part = verification.report()?;
    drop(verification);
    report.runs += part.runs;
    report.files += part.files;
    report.bytes += part.bytes;
    report.fresh += part.fresh;
    report.replaced += part.replaced;
    report.damage += part.damage;
    report.warnings += part.warnings;
    report.orphans += part.orphans;
    report.leftovers += part.leftovers;
    report.repaired += part.repaired;
    report.digests.extend(part.digests);
    store.close()
}

fn collect_one(
    store: &Store,
    options: GarbageOptions,
    directory: &str,
    report: &mut GarbageReport,
    watch: &mut dyn FnMut(Collected) -> ControlFlow<()>,
) -> Result<()> {
    let mut collection = store.collect_garbage(options)?;
    loop {
        let step = collection.step()?;
        for mut garbage in collection.found()? {
            garbage.file = within(directory, &garbage.file);
            if watch(Collected::Found(garbage)).is_break() {
                return Err(Error::Cancelled);
            }
        }
        let Some(progress) = step else {
            break;
        };
        if watch(Collected::Progress(directory.to_owned(), progress)).is_break() {
            return Err(Error::Cancelled);
        }
    }
    let part = collection.report()?;
    drop(collection);
    report.files += part.files;
    report.bytes += part.bytes;
    report.kept_files += part.kept_files;
    report.kept_bytes += part.kept_bytes;
    report.unseen += part.unseen;
    store.close()
}

impl Default for VerifyOptions {
    fn default() -> Self {
        Self {
            repair: false,
            below: true,
        }
    }
}

#[expect(
    clippy::derivable_impls,
    reason = "the type is generated from the contract"
)]
impl Default for VerifyReport {
    fn default() -> Self {
        Self {
            runs: 0,
            files: 0,
            bytes: 0,
            fresh: 0,
            replaced: 0,
            damage: 0,
            warnings: 0,
            orphans: 0,
            leftovers: 0,
            repaired: 0,
            digests: Vec::new(),
        }
    }
}

#[expect(
    clippy::derivable_impls,
    reason = "the type is generated from the contract"
)]
impl Default for GarbageReport {
    fn default() -> Self {
        Self {
            files: 0,
            bytes: 0,
            kept_files: 0,
            kept_bytes: 0,
            unseen: 0,
        }
    }
}

/// A verification that is under way. Dropping it ends it; what was put right stays so.
pub struct Verification {
    resource: Resource,
}

impl Verification {
    /// Does the next piece, in bounded time, and says how far it is; none at the end.
    ///
    /// # Errors
    /// [`Error::Io`] if a directory cannot be listed, [`Error::Closed`].
    pub fn step(&mut self) -> Result<Option<VerifyProgress>> {
        self.resource.call(|instance, resource| {
            let guest = instance.bindings.metalab_store_maintenance().verification();
            guest.call_step(&mut instance.store, resource)
        })
    }

    /// Returns what was found since the last call.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub fn findings(&mut self) -> Result<Vec<Finding>> {
        self.resource.call(|instance, resource| {
            let guest = instance.bindings.metalab_store_maintenance().verification();
            Ok(Ok(guest.call_findings(&mut instance.store, resource)?))
        })
    }

    /// Returns what was looked at so far, and how much was found.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub fn report(&self) -> Result<VerifyReport> {
        self.resource.call(|instance, resource| {
            let guest = instance.bindings.metalab_store_maintenance().verification();
            Ok(Ok(guest.call_report(&mut instance.store, resource)?))
        })
    }
}

/// A collection of garbage that is under way. Dropping it ends it; what was removed stays so.
pub struct Collection {
    resource: Resource,
}

impl Collection {
    /// Does the next piece, in bounded time, and says how far it is; none at the end.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Closed`].
    pub fn step(&mut self) -> Result<Option<GarbageProgress>> {
        self.resource.call(|instance, resource| {
            let guest = instance.bindings.metalab_store_maintenance().collection();
            guest.call_step(&mut instance.store, resource)
        })
    }

    /// Returns what was found since the last call.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub fn found(&mut self) -> Result<Vec<Garbage>> {
        self.resource.call(|instance, resource| {
            let guest = instance.bindings.metalab_store_maintenance().collection();
            Ok(Ok(guest.call_found(&mut instance.store, resource)?))
        })
    }

    /// Returns how much was found so far.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub fn report(&self) -> Result<GarbageReport> {
        self.resource.call(|instance, resource| {
            let guest = instance.bindings.metalab_store_maintenance().collection();
            Ok(Ok(guest.call_report(&mut instance.store, resource)?))
        })
    }
}

impl Store {
    /// Begins to verify the store; [`verify`] does all of it.
    ///
    /// # Errors
    /// [`Error::ReadOnly`] if a store that is should be repaired, [`Error::Io`].
    pub fn verify(&self, options: VerifyOptions) -> Result<Verification> {
        let resource = self.pool().open_resource(|instance, store| {
            let guest = instance.bindings.metalab_store_maintenance();
            guest.call_verify(&mut instance.store, store, options)
        })?;
        Ok(Verification { resource })
    }

    /// Begins to look for what can be removed of the store's own directory; [`collect_garbage`] does all of it.
    ///
    /// # Errors
    /// [`Error::ReadOnly`] if it is to be removed and the store is, [`Error::Io`].
    pub fn collect_garbage(&self, options: GarbageOptions) -> Result<Collection> {
        let resource = self.pool().open_resource(|instance, store| {
            let guest = instance.bindings.metalab_store_maintenance();
            guest.call_collect_garbage(&mut instance.store, store, options)
        })?;
        Ok(Collection { resource })
    }
}
