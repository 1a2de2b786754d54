//! Checking that a store holds what its writers wrote, putting right what has one right answer, and removing
//! what dead writers left.
//!
//! [`Verification`] goes through every file once, in pieces of bounded size and memory: each is read, hashed, parsed,
//! and compared with its name, with the manifest that lists it, and with what was known of it ([`known`]). What is
//! found is a [`Finding`]; a file that cannot be read is one too, and ends nothing. A run that looks wrong is looked at
//! again under its lock, so that what a writer is in the middle of is no finding.
//!
//! [`Collection`] removes leftovers; `docs/verify.md` describes both.

mod database;
mod files;
mod garbage;
mod known;
mod quarantine;
mod run;
mod service;
#[cfg(target_family = "wasm")]
mod surface;

pub use garbage::{Collection, GarbageOptions, GarbageReport, Left};

use crate::error::{Error, Result};
use crate::index::SavedIndex;
use crate::layout::{self, StorePath, Top};
use crate::model::{Access, Damage};
use crate::names::RunId;
use crate::run_list::damage;
use crate::scope::{Scope, hex};
use crate::transfer::ExperimentDigest;
use crate::transfer::digest::List;
use crate::transfer::inventory::{Belongings, Directories, Inventory, Place, Stray};
use database::DatabaseCheck;
use files::{Budget, FileCheck};
use known::{Key, KnownFiles, NewlyKnown};
use quarantine::Quarantine;
use run::{Beside, RunCheck};
use service::ServiceCheck;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

/// How old a time of a file must be, in nanoseconds, for a later change to have another one on a file system
/// with a coarse clock.
const TICKS: u64 = 50_000_000;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// A file is not what its writer wrote, or what should be there is not.
    Damage,
    /// Something to look at; nothing is known to be lost.
    Warning,
    /// Something that belongs to nothing.
    Orphan,
    /// Something that a dead writer left behind.
    Leftover,
}

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

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FindingKind {
    /// A file cannot be read, or is not of the format.
    Unreadable,
    /// A file's bytes are not those that were known, while its size and its time are.
    Altered,
    /// A file says that it is something else than its name says.
    Misplaced,
    /// An artifact has not the size or the hash that its run's manifest says.
    ArtifactDiffers,
    /// An artifact that its run's manifest lists is not there.
    ArtifactMissing,
    /// An entry of an artifact manifest is not one that can be checked, or is there twice.
    ArtifactEntry,
    /// A file was changed by another program since it was verified last.
    Changed,
    /// A file is sound, but holds a value that the typed form cannot.
    Unrepresentable,
    /// A record is of a newer format.
    NewerFormat,
    /// A log holds bytes that are not UTF-8.
    NotText,
    /// Something that is no file of the format.
    Stray,
    /// A journal holds content that never reached its file.
    Promised,
    /// A cache under `.index/` is not what it should be.
    Index,
    /// The database says something else than the files.
    Database,
    /// A run has files and no record.
    NoRecord,
    /// A file beside artifacts that no manifest lists.
    Unlisted,
    /// A log that nobody can be told to own.
    Unowned,
    /// A file that a writer left half written.
    HalfWritten,
    /// The file of a lock of a run of which there is nothing.
    UnusedLock,
    /// A journal of another machine of which nothing is left to do.
    OldJournal,
}

impl FindingKind {
    /// Returns it as words joined by hyphens.
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

    /// Returns how bad it is.
    fn severity(self) -> Severity {
        match self {
            Self::Unreadable
            | Self::Altered
            | Self::Misplaced
            | Self::ArtifactDiffers
            | Self::ArtifactMissing
            | Self::Promised
            | Self::Database => Severity::Damage,
            Self::ArtifactEntry
            | Self::Changed
            | Self::Unrepresentable
            | Self::NewerFormat
            | Self::NotText
            | Self::Stray
            | Self::Index => Severity::Warning,
            Self::NoRecord | Self::Unlisted | Self::Unowned => Severity::Orphan,
            Self::HalfWritten | Self::UnusedLock | Self::OldJournal => Severity::Leftover,
        }
    }
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is.
    pub kind: FindingKind,
    /// The file or directory, relative to the granted directory.
    pub file: String,
    /// The run that it belongs to.
    pub run_id: Option<String>,
    /// What is wrong, in one sentence.
    pub reason: String,
    /// What can be done about it, in one sentence.
    pub way_out: String,
    /// What was done about it.
    pub repaired: Option<String>,
}

/// What is verified, and what is done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyOptions {
    /// Whether what has exactly one right answer is put right.
    pub repair: bool,
    /// Whether the experiments below a collection's root are verified too.
    pub below: bool,
}

impl Default for VerifyOptions {
    fn default() -> Self {
        Self {
            repair: false,
            below: true,
        }
    }
}

/// How far a verification is.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct VerifyProgress {
    /// The directory, relative to the store's; empty for the store's own.
    pub directory: String,
    /// What is being verified: `journal`, `runs`, `other files`, `index`, `database` or `done`.
    pub phase: &'static str,
    /// How much of it is done.
    pub done: u64,
    /// Out of how much.
    pub total: u64,
    /// The bytes read so far.
    pub bytes: u64,
}

/// What was looked at, and how much was found.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct VerifyReport {
    /// Runs.
    pub runs: u64,
    /// Files.
    pub files: u64,
    /// Bytes in these files.
    pub bytes: u64,
    /// Files of which nothing was known before.
    pub fresh: u64,
    /// Files that this store's own writers replaced since, or that have only grown.
    pub replaced: u64,
    /// Damaged things that are not put right.
    pub damage: u64,
    /// Warnings.
    pub warnings: u64,
    /// Things that belong to nothing.
    pub orphans: u64,
    /// Things that dead writers left.
    pub leftovers: u64,
    /// Findings that were put right.
    pub repaired: u64,
    /// What each experiment holds, as one number.
    pub digests: Vec<ExperimentDigest>,
}

/// What findings and counts are collected in.
#[derive(Default)]
struct Tally {
    findings: VecDeque<Finding>,
    report: VerifyReport,
}

impl Tally {
    fn add(&mut self, finding: Finding) {
        let report = &mut self.report;
        if finding.repaired.is_some() {
            report.repaired += 1;
        } else {
            *match finding.severity {
                Severity::Damage => &mut report.damage,
                Severity::Warning => &mut report.warnings,
                Severity::Orphan => &mut report.orphans,
                Severity::Leftover => &mut report.leftovers,
            } += 1;
        }
        self.findings.push_back(finding);
    }
}

/// Makes a finding about a file.
fn finding(
    scope: &Scope,
    kind: FindingKind,
    path: &StorePath,
    reason: impl Into<String>,
    way_out: impl Into<String>,
) -> Finding {
    Finding {
        severity: kind.severity(),
        kind,
        file: scope.tree.path(path),
        run_id: None,
        reason: reason.into(),
        way_out: way_out.into(),
        repaired: None,
    }
}

/// Makes a finding of an error about one file; an error about more is one.
fn finding_of(scope: &Scope, path: &StorePath, error: Error) -> Result<Finding> {
    let kind = match &error {
        Error::Unrepresentable { .. } => FindingKind::Unrepresentable,
        _ => FindingKind::Unreadable,
    };
    let way_out = match kind {
        FindingKind::Unrepresentable => "read it as text",
        _ => "restore it from a copy",
    };
    let Damage { reason, .. } = damage(error)?;
    Ok(finding(scope, kind, path, reason, way_out))
}

/// A verification that is under way. Dropping it ends it; what it had put right stays so.
pub struct Verification {
    options: VerifyOptions,
    waiting: VecDeque<(Rc<Scope>, bool)>,
    current: Option<Box<Checking>>,
    tally: Tally,
    /// Whether digests may be noted.
    may_note: bool,
}

/// One directory that is being verified.
struct Checking {
    scope: Rc<Scope>,
    /// Whether it is the directory that was granted, so that its runs can be locked and repaired.
    own: bool,
    phase: Phase,
    lock_files: Vec<RunId>,
    /// The directories that could not be listed.
    unlisted: Vec<Top>,
    known: KnownFiles,
    noted: Option<NewlyKnown>,
    list: List,
    runs: u64,
    runs_done: u64,
    /// The directories that hold a file of each run, opened once.
    directories: Directories,
    /// The saved index, as far as it can be used.
    index: Option<SavedIndex>,
    /// Of how many runs it holds another record than the file, and one of them.
    misled: Option<(u64, RunId)>,
    quarantine: Option<Quarantine>,
    /// Whether something was put right in it.
    repaired: bool,
}

enum Phase {
    Journal(Box<Inventory>),
    Runs {
        waiting: std::collections::btree_map::IntoIter<RunId, Belongings>,
        run: Option<Box<RunCheck>>,
        others: Vec<StorePath>,
    },
    Others {
        waiting: std::vec::IntoIter<StorePath>,
        total: usize,
        file: Option<Box<FileCheck>>,
    },
    Service(Box<ServiceCheck>),
    Database(Box<DatabaseCheck>),
    Done,
}

impl Verification {
    /// Begins with some directories: the store's own first.
    pub(crate) fn begin(
        scopes: Vec<Rc<Scope>>,
        damaged: Vec<Damage>,
        options: VerifyOptions,
    ) -> Result<Self> {
        let may_note = scopes
            .first()
            .is_some_and(|scope| scope.options.access == Access::ReadWrite);
        if options.repair
            && let Some(scope) = scopes.first()
        {
            scope.refuse_read_only()?;
        }
        let mut tally = Tally::default();
        for damage in damaged {
            tally.add(Finding {
                severity: Severity::Damage,
                kind: FindingKind::Unreadable,
                file: damage.file,
                run_id: None,
                reason: damage.reason,
                way_out: "restore its _meta.json, or move it away".into(),
                repaired: None,
            });
        }
        let mut waiting: VecDeque<(Rc<Scope>, bool)> = scopes
            .into_iter()
            .map(|scope| {
                let own = scope.tree.is_whole();
                (scope, own)
            })
            .collect();
        if !options.below {
            waiting.truncate(1);
        }
        Ok(Self {
            options,
            waiting,
            current: None,
            tally,
            may_note,
        })
    }

    /// Does the next piece, and says how far it is; none at the end.
    ///
    /// # Errors
    /// `io` if a directory cannot be listed, `locked`, `database` while the database is repaired.
    pub fn step(&mut self) -> Result<Option<VerifyProgress>> {
        let mut checking = match self.current.take() {
            Some(checking) => checking,
            None => {
                let Some((scope, own)) = self.waiting.pop_front() else {
                    return Ok(None);
                };
                let root = layout::directory(Top::Root);
                match Checking::begin(Rc::clone(&scope), own, self.may_note, &mut self.tally) {
                    Ok(checking) => Box::new(checking),
                    // Something else lies in the place of one of its directories. The others are verified.
                    Err(error @ Error::Corrupt { .. }) => {
                        self.tally.add(finding_of(&scope, &root, error)?);
                        return Ok(Some(VerifyProgress {
                            directory: scope.tree.path(&root),
                            phase: "done",
                            ..VerifyProgress::default()
                        }));
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        checking.step(self.options, &mut self.tally)?;
        let progress = checking.progress(self.tally.report.bytes);
        if !matches!(checking.phase, Phase::Done) {
            self.current = Some(checking);
        }
        Ok(Some(progress))
    }

    /// Hands out what was found since the last call.
    pub fn take_findings(&mut self) -> Vec<Finding> {
        self.tally.findings.drain(..).collect()
    }

    /// Returns what was looked at so far, and how much was found.
    #[must_use]
    pub fn report(&self) -> &VerifyReport {
        &self.tally.report
    }
}

impl Drop for Checking {
    fn drop(&mut self) {
        if let Some(noted) = self.noted.take() {
            noted.discard(&self.scope);
        }
    }
}

impl Checking {
    fn begin(scope: Rc<Scope>, own: bool, may_note: bool, tally: &mut Tally) -> Result<Self> {
        let mut inventory = Inventory::take(&scope)?;
        for stray in inventory.strays.drain(..) {
            tally.add(told(&scope, &stray)?);
        }
        if inventory.unlisted.contains(&Top::Runs) {
            // Without the records, everything would belong to nothing.
            inventory.runs.clear();
            inventory.lock_files.clear();
        }
        for stage in inventory.stages.drain(..) {
            tally.add(half_written(&scope, &stage));
        }
        let (known, trouble) = KnownFiles::open(&scope)?;
        tally_all(tally, trouble);
        let runs = &inventory.runs;
        inventory.lock_files.retain(|run| !runs.contains_key(run));
        let noted = match may_note {
            true => NewlyKnown::begin(&scope),
            false => None,
        };
        Ok(Self {
            own,
            lock_files: std::mem::take(&mut inventory.lock_files),
            unlisted: std::mem::take(&mut inventory.unlisted),
            known,
            noted,
            list: List::default(),
            runs: inventory.runs.len() as u64,
            runs_done: 0,
            index: scope.saved_index()?.and_then(std::result::Result::ok),
            misled: None,
            directories: Directories::open(&scope),
            quarantine: None,
            repaired: false,
            phase: Phase::Journal(Box::new(inventory)),
            scope,
        })
    }

    fn progress(&self, bytes: u64) -> VerifyProgress {
        let (phase, done, total) = match &self.phase {
            Phase::Journal(_) => ("journal", 0, 1),
            Phase::Runs { .. } => ("runs", self.runs_done, self.runs),
            Phase::Others { waiting, total, .. } => {
                let total = *total as u64;
                ("other files", total - waiting.len() as u64, total)
            }
            Phase::Service(service) => {
                let (done, total) = service.progress();
                ("index", done, total)
            }
            Phase::Database(check) => {
                let (done, total) = check.progress();
                ("database", done, total)
            }
            Phase::Done => ("done", 1, 1),
        };
        VerifyProgress {
            directory: self.scope.tree.path(&layout::directory(Top::Root)),
            phase,
            done,
            total,
            bytes,
        }
    }

    /// Says whether runs can be locked, and what is wrong put right.
    fn may_write(&self) -> bool {
        self.own && self.scope.options.access == Access::ReadWrite
    }

    fn step(&mut self, options: VerifyOptions, tally: &mut Tally) -> Result<()> {
        let repair = options.repair && self.may_write();
        let mut budget = Budget::new();
        let phase = std::mem::replace(&mut self.phase, Phase::Done);
        self.phase = match phase {
            Phase::Journal(inventory) => {
                self.check_journal(repair, tally)?;
                Phase::Runs {
                    waiting: inventory.runs.into_iter(),
                    run: None,
                    others: inventory.others,
                }
            }
            Phase::Runs {
                mut waiting,
                mut run,
                others,
            } => loop {
                if budget.is_spent() {
                    break Phase::Runs {
                        waiting,
                        run,
                        others,
                    };
                }
                let mut check = match run.take() {
                    Some(check) => check,
                    None => match waiting.next() {
                        Some((id, belongings)) => {
                            let known = self.known.take(&Key::run(&id), &self.scope, tally)?;
                            Box::new(RunCheck::begin(
                                &self.scope,
                                &self.directories,
                                id,
                                belongings,
                                known,
                            )?)
                        }
                        None => {
                            break Phase::Others {
                                total: others.len(),
                                waiting: others.into_iter(),
                                file: None,
                            };
                        }
                    },
                };
                let beside = Beside {
                    noted_at: self.known.noted_at(),
                    index: self.index.as_ref(),
                    directories: &self.directories,
                    unlisted: &self.unlisted,
                };
                if !check.step(&self.scope, &beside, &mut budget)? {
                    run = Some(check);
                    continue;
                }
                if check.wants_another_look() {
                    run = Some(Box::new(check.look_again(&self.scope, self.may_write())?));
                    continue;
                }
                if repair && check.repair(&self.scope, self.index.as_ref(), &mut self.quarantine)? {
                    self.repaired = true;
                    run = Some(Box::new(check.after_repair(&self.scope)?));
                    continue;
                }
                self.runs_done += 1;
                self.finish_run(*check, tally)?;
            },
            Phase::Others {
                mut waiting,
                total,
                mut file,
            } => loop {
                if budget.is_spent() {
                    break Phase::Others {
                        waiting,
                        total,
                        file,
                    };
                }
                let mut check = match file.take() {
                    Some(check) => check,
                    None => match waiting.next() {
                        Some(path) => {
                            let known = self.known.take(&Key::other(&path), &self.scope, tally)?;
                            Box::new(FileCheck::begin(&self.scope, path, known)?)
                        }
                        None => {
                            // What was known of files behind the last one is passed over, and told if it is gone.
                            let next = Key::service(&layout::directory(Top::Root));
                            self.known.take(&next, &self.scope, tally)?;
                            self.report_digest(tally);
                            break Phase::Service(Box::new(ServiceCheck::begin(
                                &self.scope,
                                &self.lock_files,
                            )?));
                        }
                    },
                };
                if !check.step(&self.scope, self.known.noted_at(), &mut budget)? {
                    file = Some(check);
                } else if check.wants_another_look(&self.scope)? {
                    file = Some(Box::new(check.look_again(&self.scope)?));
                } else {
                    self.finish_other(*check, tally)?;
                }
            },
            Phase::Service(mut service) => {
                let done = service.step(
                    &self.scope,
                    &mut self.known,
                    self.noted.as_mut(),
                    &mut budget,
                    tally,
                )?;
                if done {
                    self.check_index(repair, tally)?;
                    match DatabaseCheck::begin(&self.scope, self.own, repair, tally)? {
                        Some(check) => Phase::Database(Box::new(check)),
                        None => self.finish()?,
                    }
                } else {
                    Phase::Service(service)
                }
            }
            Phase::Database(mut check) => {
                if check.step(&self.scope, self.may_write(), tally)? {
                    self.finish()?
                } else {
                    Phase::Database(check)
                }
            }
            Phase::Done => Phase::Done,
        };
        Ok(())
    }

    fn finish_run(&mut self, check: RunCheck, tally: &mut Tally) -> Result<()> {
        let report = &mut tally.report;
        report.runs += 1;
        let done = check.finish();
        if done.misled {
            let (count, _) = self.misled.get_or_insert((0, done.run.clone()));
            *count += 1;
        }
        report.files += done.sums.files;
        report.bytes += done.sums.bytes;
        report.fresh += done.sums.fresh;
        report.replaced += done.sums.replaced;
        if done.is_there {
            self.list.add(&done.digest, done.run.as_str());
        } else {
            report.runs -= 1;
            self.runs_done -= 1;
            self.runs -= 1;
        }
        if let Some(noted) = &mut self.noted {
            noted.push(&self.scope, &Key::run(&done.run), &done.noted)?;
        }
        tally_all(tally, done.findings);
        Ok(())
    }

    fn finish_other(&mut self, check: FileCheck, tally: &mut Tally) -> Result<()> {
        let path = check.path().clone();
        let done = check.finish();
        if let Some(counted) = &done.digest {
            tally.report.files += 1;
            self.list.add(counted, &path.to_string());
        }
        tally.report.bytes += done.bytes;
        tally.report.fresh += u64::from(done.fresh);
        tally.report.replaced += u64::from(done.replaced);
        if let Some(noted) = &mut self.noted {
            let files: Vec<_> = done.noted.into_iter().collect();
            noted.push(&self.scope, &Key::other(&path), &files)?;
        }
        if path.top() == Top::Logs {
            tally.add(finding(
                &self.scope,
                FindingKind::Unowned,
                &path,
                "it is a log that nobody can be told to own",
                "rename it to RUN_NAME.log of a run that exists, or remove it",
            ));
        }
        tally_all(tally, done.findings);
        Ok(())
    }

    fn report_digest(&mut self, tally: &mut Tally) {
        let digest = std::mem::take(&mut self.list).finish();
        // A collection's own directory counts only if there is something in it.
        if self.scope.experiment.is_none() && tally.report.files == 0 {
            return;
        }
        let id = self.scope.experiment.as_ref().map(|id| id.as_str());
        tally.report.digests.push(ExperimentDigest {
            experiment_id: id.unwrap_or_default().to_owned(),
            runs: self.runs,
            digest: hex(&digest),
        });
    }

    /// Notes what is known now, and makes durable what was put right.
    fn finish(&mut self) -> Result<Phase> {
        if let Some(noted) = self.noted.take() {
            noted.finish(&self.scope)?;
        }
        if self.repaired || self.quarantine.is_some() {
            self.scope.sync_all()?;
        }
        Ok(Phase::Done)
    }
}

fn tally_all(tally: &mut Tally, findings: impl IntoIterator<Item = Finding>) {
    for finding in findings {
        tally.add(finding);
    }
}

/// Makes a finding of something in the place of a file, or of a directory that cannot be listed.
fn told(scope: &Scope, stray: &Stray) -> Result<Finding> {
    let (path, reason) = (&stray.path, &stray.reason);
    match stray.place {
        Place::Directory => {
            let error = Error::corrupt(scope.tree.path(path), None, reason);
            let mut finding = finding_of(scope, path, error)?;
            finding.reason.clone_from(reason);
            finding.way_out = "let it be read, or put a directory in its place".into();
            Ok(finding)
        }
        _ => Ok(stray_finding(scope, path, reason)),
    }
}

fn stray_finding(scope: &Scope, path: &StorePath, reason: &str) -> Finding {
    finding(
        scope,
        FindingKind::Stray,
        path,
        reason,
        "move it out of the store if nobody needs it here",
    )
}

/// Says whether nothing is in the place of a file.
fn is_gone(scope: &Scope, path: &StorePath) -> bool {
    matches!(scope.tree.stat(path), Ok(None))
}

/// Tells of a known file that is gone.
fn vanished(scope: &Scope, path: &StorePath) -> Finding {
    finding(
        scope,
        FindingKind::Changed,
        path,
        "it was there when it was verified last and is gone, and no writer that keeps a journal here removed it",
        "restore it from a copy, if nobody meant to remove it; it is told once",
    )
}

fn half_written(scope: &Scope, path: &StorePath) -> Finding {
    finding(
        scope,
        FindingKind::HalfWritten,
        path,
        "a writer has it open, or left it half written",
        "`gc` removes it once no writer can need it",
    )
}

/// What the sums of a run's files are.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    files: u64,
    bytes: u64,
    fresh: u64,
    replaced: u64,
}

/// The files of a run's artifacts by their names, with what they are.
type Artifacts = BTreeMap<String, (u64, [u8; 32])>;
