//! The files of the store itself: `_meta.json`, the files of locks, the journal and the caches.

use super::files::{Budget, FileCheck};
use super::known::{Key, KnownFiles, NewlyKnown};
use super::quarantine::Quarantine;
use super::{Checking, Finding, FindingKind, Severity, Tally, finding, half_written, tally_all};
use crate::error::Result;
use crate::layout::{self, StorePath, Top};
use crate::names::RunId;
use crate::ports::Kind;
use crate::scope::Scope;

/// The store's own files that are being looked at.
pub(super) struct ServiceCheck {
    waiting: std::vec::IntoIter<StorePath>,
    total: usize,
    file: Option<Box<FileCheck>>,
    findings: Vec<Finding>,
}

impl ServiceCheck {
    /// Lists them. `unused` are the runs of which there is nothing but the file of a lock.
    pub(super) fn begin(scope: &Scope, unused: &[RunId]) -> Result<Self> {
        let mut files = Vec::new();
        let mut findings = Vec::new();
        if scope.tree.is_file(&layout::meta())? {
            files.push(layout::meta());
        }
        for top in [Top::Locks, Top::Index] {
            let directory = layout::directory(top);
            for entry in scope.tree.list(&directory)? {
                let Ok(path) = directory.child(&entry.name) else {
                    continue;
                };
                if entry.kind != Kind::File || path == layout::known_digests() {
                    continue;
                }
                if layout::is_stage_name(&entry.name) {
                    // A living writer may be about to rename it; so is this verification's own list.
                    if top == Top::Index && !entry.name.starts_with("digests") {
                        findings.push(half_written(scope, &path));
                    }
                    continue;
                }
                files.push(path);
            }
        }
        for run in unused {
            findings.push(finding(
                scope,
                FindingKind::UnusedLock,
                &layout::lock(run),
                format!("there is nothing else of run {:?}", run.as_str()),
                "`gc` removes it",
            ));
        }
        let staging = layout::staging_directory();
        for entry in scope.tree.list(&staging)? {
            let Some(token) = layout::staging_token_of(&entry.name) else {
                continue;
            };
            let owner = crate::segment::lock_file(layout::staging_owner(token))?;
            if entry.kind == Kind::File && scope.tree.stat(&owner)?.is_none() {
                findings.push(half_written(scope, &staging.child(&entry.name)?));
            }
        }
        files.sort_by_cached_key(StorePath::to_string);
        Ok(Self {
            total: files.len(),
            waiting: files.into_iter(),
            file: None,
            findings,
        })
    }

    pub(super) fn progress(&self) -> (u64, u64) {
        let total = self.total as u64;
        (total - self.waiting.len() as u64, total)
    }

    /// Does the next piece, and says whether that was all.
    pub(super) fn step(
        &mut self,
        scope: &Scope,
        known: &mut KnownFiles,
        mut noted: Option<&mut NewlyKnown>,
        budget: &mut Budget,
        tally: &mut Tally,
    ) -> Result<bool> {
        loop {
            let mut check = match self.file.take() {
                Some(check) => check,
                None => {
                    if budget.is_spent() {
                        return Ok(false);
                    }
                    let Some(path) = self.waiting.next() else {
                        tally_all(tally, self.findings.drain(..));
                        return Ok(true);
                    };
                    let known = known.take(&Key::service(&path), scope, tally)?;
                    Box::new(FileCheck::begin(scope, path, known)?)
                }
            };
            if !check.step(scope, known.noted_at(), budget)? {
                self.file = Some(check);
                return Ok(false);
            }
            if check.wants_another_look(scope)? {
                self.file = Some(Box::new(check.look_again(scope)?));
                continue;
            }
            let key = Key::service(check.path());
            let done = check.finish();
            tally.report.bytes += done.bytes;
            self.findings.extend(done.findings);
            if let Some(noted) = noted.as_deref_mut() {
                let files: Vec<_> = done.noted.into_iter().collect();
                noted.push(scope, &key, &files)?;
            }
        }
    }
}

impl Checking {
    /// Tells whether the saved index can be used, and says what the files say.
    pub(super) fn check_index(&mut self, repair: bool, tally: &mut Tally) -> Result<()> {
        let head = layout::index_head();
        let mut found = match (&self.misled, self.scope.saved_index()?) {
            (Some((count, run)), _) => {
                let mut found = finding(
                    &self.scope,
                    FindingKind::Index,
                    &head,
                    format!(
                        "the saved index holds another record than the file of {count} runs, {:?} for one",
                        run.as_str()
                    ),
                    "`verify --repair` moves it away, and the next query makes it anew",
                );
                // Queries answer what it says.
                found.severity = Severity::Damage;
                found
            }
            (None, Some(Err(_))) => finding(
                &self.scope,
                FindingKind::Index,
                &head,
                "the saved index cannot be used; queries read the files",
                "the next query of a store that may be written makes it anew",
            ),
            (None, _) => return Ok(()),
        };
        if repair
            && Quarantine::open(&mut self.quarantine, &self.scope)?.take(&self.scope, &head)?
        {
            // What is in memory came from there.
            self.scope.index.distrust();
            found.repaired = Some("it was moved away, and is made anew by the next query".into());
        }
        tally.add(found);
        Ok(())
    }

    /// Looks at the journals of writers of other machines and directories: what they promised may be in no file.
    pub(super) fn check_journal(&mut self, repair: bool, tally: &mut Tally) -> Result<()> {
        let scope = &self.scope;
        let may_lock = self.may_write();
        let quarantine = &mut self.quarantine;
        let mut found = Vec::new();
        let journals = scope.foreign_promises(may_lock, &mut |path| {
            let mut pending = finding(
                scope,
                FindingKind::Promised,
                path,
                "a journal of another machine holds a newer content that never reached the file",
                "`verify --repair` puts it in place",
            );
            if repair {
                let quarantine = Quarantine::open(quarantine, scope)?;
                if let Some(content) = scope.tree.read(path, u64::MAX)? {
                    quarantine.keep(scope, path, &content)?;
                }
                pending.repaired = Some("the content was put in place".into());
            }
            found.push(pending);
            Ok(repair)
        })?;
        self.repaired |= repair && !found.is_empty();
        if self.repaired {
            scope.sync_all()?;
        }
        tally_all(tally, found);
        for journal in journals {
            let path = layout::journal_segment(journal.id);
            if !journal.is_settled {
                continue;
            }
            let mut old = finding(
                scope,
                FindingKind::OldJournal,
                &path,
                "it is the journal of another machine, and nothing of it is left to do",
                "`gc` removes it, `verify --repair` moves it away",
            );
            if repair {
                Quarantine::open(&mut self.quarantine, scope)?.take(scope, &path)?;
                old.repaired = Some("it was moved away".into());
            }
            tally.add(old);
        }
        Ok(())
    }
}
