//! One run with everything that belongs to it.

use super::files::{
    Budget, Content, Reading, compare, counted, digest_of, judge_document, judge_log, judge_record,
    written_by_us,
};
use super::known::KnownFile;
use super::quarantine::Quarantine;
use super::{
    Artifacts, Finding, FindingKind, Severity, Sums, finding, finding_of, half_written, is_gone,
    told, vanished,
};
use crate::artifacts::{check_content, public_descriptor};
use crate::codec;
use crate::commit::{Change, Held};
use crate::database::state::State;
use crate::error::{Error, Result};
use crate::index::SavedIndex;
use crate::journal::Fingerprint;
use crate::json::{Object, Value};
use crate::layout::{self, StorePath, Top};
use crate::model::ArtifactDescriptor;
use crate::names::RunId;
use crate::ports::{Directory, Stat};
use crate::scope::{Scope, hex};
use crate::sql::directories::text;
use crate::sql::runs::texts_of;
use crate::transfer::digest::{Digest, List, names_places};
use crate::transfer::inventory::{Belongings, Directories, Kinds, files_in};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// How often something is looked at again that a writer may be changing and that cannot be locked.
pub(super) const LOOKS: u32 = 4;

/// A run that is being looked at.
pub(super) struct RunCheck {
    run: RunId,
    belongings: Belongings,
    known: Vec<KnownFile>,
    /// Which of the known files are there.
    seen: Vec<bool>,
    files: std::vec::IntoIter<(StorePath, Stat)>,
    /// The directory of its artifacts, if it was opened.
    artifact_directory: Option<Rc<dyn Directory>>,
    reading: Option<Reading>,
    /// When the look began.
    begun: u64,
    noted: Vec<KnownFile>,
    list: List,
    sums: Sums,
    findings: Vec<Finding>,
    has_record: bool,
    /// Whether the saved index holds another record.
    misled: bool,
    first: Option<StorePath>,
    manifest: Manifest,
    /// The artifacts that the run's record lists.
    recorded: Vec<ArtifactDescriptor>,
    artifacts: Artifacts,
    /// Whether a known file is gone, which a writer may be in the middle of removing.
    vanished: bool,
    /// How often the run was looked at before.
    looks: u32,
    /// The run's lock, but for the first look.
    held: Option<Held>,
    /// What was put right.
    repaired: Vec<Finding>,
}

/// What is known beside a run.
pub(super) struct Beside<'c> {
    /// When the list of digests was made.
    pub(super) noted_at: u64,
    /// The saved index.
    pub(super) index: Option<&'c SavedIndex>,
    pub(super) directories: &'c Directories,
    /// The directories that could not be listed: what is missing from them is not known.
    pub(super) unlisted: &'c [Top],
}

/// What lists a run's artifacts.
enum Manifest {
    /// There is none.
    Absent,
    /// It cannot be read.
    Damaged,
    /// It lists these.
    Whole(Vec<ArtifactDescriptor>),
}

/// What became of a run.
pub(super) struct RunDone {
    pub(super) run: RunId,
    /// Whether there was anything of it.
    pub(super) is_there: bool,
    pub(super) digest: Digest,
    pub(super) sums: Sums,
    pub(super) noted: Vec<KnownFile>,
    pub(super) findings: Vec<Finding>,
    /// Whether the saved index holds another record.
    pub(super) misled: bool,
}

const ALL: Kinds = Kinds {
    artifacts: true,
    derived: true,
    results: true,
    logs: true,
};

impl RunCheck {
    /// Begins with a run.
    pub(super) fn begin(
        scope: &Scope,
        directories: &Directories,
        run: RunId,
        belongings: Belongings,
        known: Vec<KnownFile>,
    ) -> Result<Self> {
        let found = files_in(scope, directories, &run, &belongings, ALL)?;
        let mut findings = Vec::new();
        for stage in &found.stages {
            findings.push(half_written(scope, stage));
        }
        for fault in &found.faults {
            findings.push(told(scope, fault)?);
        }
        Ok(Self {
            run,
            belongings,
            seen: vec![false; known.len()],
            known,
            first: found.files.first().map(|(path, _)| path.clone()),
            files: found.files.into_iter(),
            artifact_directory: found.artifacts,
            reading: None,
            begun: scope.ports.clock.now(),
            noted: Vec::new(),
            list: List::default(),
            sums: Sums::default(),
            findings,
            has_record: false,
            misled: false,
            manifest: Manifest::Absent,
            recorded: Vec::new(),
            artifacts: Artifacts::new(),
            vanished: false,
            looks: 0,
            held: None,
            repaired: Vec::new(),
        })
    }

    /// Looks at the run again, under its lock if that can be had: a writer may have been in the middle of a change.
    pub(super) fn look_again(self, scope: &Scope, may_lock: bool) -> Result<Self> {
        let looks = self.looks + 1;
        let held = if may_lock {
            match scope.lock_run(&self.run) {
                Ok(held) => Some(held),
                // What is seen without it is told all the same.
                Err(Error::Locked(_)) => None,
                Err(error) => return Err(error),
            }
        } else {
            None
        };
        let belongings = self.belongings.again(scope, &self.run)?;
        let mut check = Self::begin(
            scope,
            &Directories::default(),
            self.run,
            belongings,
            self.known,
        )?;
        check.looks = looks;
        check.held = held;
        Ok(check)
    }

    /// Says whether what was found may be the middle of a writer's change: not under the run's lock, and where that cannot be
    /// had, not time after time.
    pub(super) fn wants_another_look(&self) -> bool {
        let is_locked = self.held.as_ref().is_some_and(|held| held.lock.is_some());
        let is_grave =
            |finding: &Finding| matches!(finding.severity, Severity::Damage | Severity::Orphan);
        !is_locked
            && self.looks < LOOKS
            && (self.misled || self.vanished || self.findings.iter().any(is_grave))
    }

    /// Does the next piece, and says whether that was all.
    pub(super) fn step(
        &mut self,
        scope: &Scope,
        beside: &Beside<'_>,
        budget: &mut Budget,
    ) -> Result<bool> {
        loop {
            let mut reading = match self.reading.take() {
                Some(reading) => reading,
                None => {
                    if budget.is_spent() {
                        return Ok(false);
                    }
                    let Some((path, stat)) = self.files.next() else {
                        budget.spend_file();
                        self.conclude(scope, beside)?;
                        return Ok(true);
                    };
                    budget.spend_file();
                    if let Some(found) = digest_of(scope, &path, &stat, budget) {
                        self.take(scope, found, beside)?;
                        continue;
                    }
                    let within = layout::artifact_directory(&self.run);
                    let directory = match path.parent() {
                        Some(parent) if parent == within => self.artifact_directory.as_deref(),
                        _ => beside.directories.of(&path),
                    };
                    let known = self.known_file(&path);
                    match Reading::open(scope, directory, path.clone(), &stat, known) {
                        Ok(Some(reading)) => reading,
                        // It vanished; what is missing is told at the end.
                        Ok(None) => continue,
                        Err(error) => {
                            self.fault(scope, &path, error)?;
                            continue;
                        }
                    }
                }
            };
            match reading.step(scope, budget) {
                Ok(true) => self.take(scope, reading.finish(), beside)?,
                Ok(false) => {
                    self.reading = Some(reading);
                    return Ok(false);
                }
                Err(error) => {
                    let path = reading.finish().path;
                    self.fault(scope, &path, error)?;
                }
            }
        }
    }

    fn known_file(&self, path: &StorePath) -> Option<&KnownFile> {
        self.known_at(path).and_then(|at| self.known.get(at))
    }

    fn known_at(&self, path: &StorePath) -> Option<usize> {
        let name = path.to_string();
        let found = self.known.binary_search_by(|known| known.path.cmp(&name));
        found.ok()
    }

    /// Notes that a file is there.
    fn see(&mut self, path: &StorePath) {
        let at = self.known_at(path);
        if let Some(seen) = at.and_then(|at| self.seen.get_mut(at)) {
            *seen = true;
        }
    }

    fn fault(&mut self, scope: &Scope, path: &StorePath, error: Error) -> Result<()> {
        let finding = finding_of(scope, path, error)?;
        self.findings.push(finding);
        self.see(path);
        // It is there, even if it cannot be read.
        self.has_record |= is_record(path);
        if path.top() == Top::Artifacts && names_places(path) {
            self.manifest = Manifest::Damaged;
        }
        let known = self.known_file(path).cloned();
        self.noted.extend(known);
        Ok(())
    }

    /// Takes a file that was read.
    fn take(&mut self, scope: &Scope, mut found: Content, beside: &Beside<'_>) -> Result<()> {
        self.see(&found.path);
        let known = self.known_file(&found.path);
        let compared = compare(
            scope,
            &found,
            known,
            beside.noted_at,
            Some(&self.run),
            self.begun,
        )?;
        self.sums.files += 1;
        self.sums.bytes += found.size;
        self.sums.fresh += u64::from(compared.fresh);
        self.sums.replaced += u64::from(compared.replaced);
        let is_known_wrong = compared.finding.is_some();
        self.findings.extend(compared.finding);
        self.noted.extend(compared.noted);
        let content = found.content.take();
        let mut digest = found.digest;
        match (found.path.top(), content) {
            (Top::Artifacts, Some(content)) => {
                let document = self.take_manifest(scope, &found.path, &content)?;
                digest = counted(&found, document);
            }
            (Top::Artifacts, None) => {
                // By its path within the run's directory.
                let rest = found.path.rest();
                let name = rest.split_once('/').map_or(rest, |(_, name)| name);
                let sums = (found.size, found.digest);
                self.artifacts.insert(name.to_owned(), sums);
            }
            (Top::Logs, _) => judge_log(scope, &found, &mut self.findings),
            (_, content) if is_record(&found.path) => {
                self.has_record = true;
                let content = content.unwrap_or_default();
                if let Some(index) = beside.index
                    && !is_known_wrong
                {
                    // A part of it that cannot be read is not used by queries either.
                    let misleads = index.misleads(&self.run, &found.stat, &content);
                    self.misled = misleads.unwrap_or_default();
                }
                let document = self.take_record(scope, &found.path, &content)?;
                digest = counted(&found, document);
            }
            (_, content) => {
                let content = content.unwrap_or_default();
                judge_document(scope, &found.path, &content, &mut self.findings)?;
            }
        }
        self.list.add(&digest, &found.path.to_string());
        Ok(())
    }

    fn take_record<'c>(
        &mut self,
        scope: &Scope,
        path: &StorePath,
        content: &'c [u8],
    ) -> Result<Option<Object<'c>>> {
        match codec::parse_object(&scope.tree.path(path), content) {
            Ok(object) => {
                judge_record(scope, &self.run, path, &object, &mut self.findings)?;
                if let Some(Value::Array(entries)) = object.get("artifacts") {
                    let file = scope.tree.path(path);
                    let listed = entries.iter().enumerate();
                    // An entry that does not load was told with the record.
                    self.recorded = listed
                        .filter_map(|(at, entry)| codec::descriptor(&file, at, entry.clone()).ok())
                        .collect();
                }
                Ok(Some(object))
            }
            Err(error) => {
                self.findings.push(finding_of(scope, path, error)?);
                Ok(None)
            }
        }
    }

    fn take_manifest<'c>(
        &mut self,
        scope: &Scope,
        path: &StorePath,
        content: &'c [u8],
    ) -> Result<Option<Object<'c>>> {
        self.manifest = Manifest::Damaged;
        let file = scope.tree.path(path);
        let object = match codec::parse_object(&file, content) {
            Ok(object) => object,
            Err(error) => {
                self.findings.push(finding_of(scope, path, error)?);
                return Ok(None);
            }
        };
        let entries = match object.get("artifacts") {
            None => &[],
            Some(Value::Array(entries)) => entries.as_slice(),
            Some(_) => {
                let error = Error::corrupt(file, None, "`artifacts` should be a list");
                self.findings.push(finding_of(scope, path, error)?);
                return Ok(Some(object));
            }
        };
        let mut descriptors = Vec::with_capacity(entries.len());
        for (index, entry) in entries.iter().enumerate() {
            match codec::descriptor(&file, index, entry.clone()) {
                Ok(descriptor) => descriptors.push(descriptor),
                Err(error) => self.findings.push(finding_of(scope, path, error)?),
            }
        }
        self.manifest = Manifest::Whole(descriptors);
        Ok(Some(object))
    }

    /// Judges the run as a whole.
    fn conclude(&mut self, scope: &Scope, beside: &Beside<'_>) -> Result<()> {
        self.judge_artifacts(scope)?;
        if !beside.unlisted.contains(&Top::Artifacts) {
            self.judge_recorded(scope);
        }
        self.judge_vanished(scope, beside)?;
        if !self.has_record
            && let Some(first) = &self.first
        {
            self.findings.push(finding(
                scope,
                FindingKind::NoRecord,
                first,
                format!(
                    "run {:?} has {} files and no record",
                    self.run.as_str(),
                    self.sums.files
                ),
                "put its record, or remove it with `delete`",
            ));
        }
        for finding in &mut self.findings {
            finding.run_id = Some(self.run.as_str().to_owned());
        }
        Ok(())
    }

    fn judge_artifacts(&mut self, scope: &Scope) -> Result<()> {
        let path = layout::artifact_manifest(&self.run);
        let entries = match std::mem::replace(&mut self.manifest, Manifest::Absent) {
            Manifest::Whole(entries) => entries,
            // Without it nothing is known of the files beside it.
            Manifest::Damaged => return Ok(()),
            Manifest::Absent => Vec::new(),
        };
        let mut names = BTreeSet::new();
        let mut listed = BTreeSet::new();
        for entry in &entries {
            if !names.insert(entry.name.as_str()) {
                self.findings.push(finding(
                    scope,
                    FindingKind::ArtifactEntry,
                    &path,
                    format!("it lists artifact {:?} twice", entry.name),
                    "put the artifact again",
                ));
            }
            self.judge_entry(scope, &path, entry, &mut listed)?;
        }
        self.judge_unlisted(scope, &listed);
        Ok(())
    }

    fn judge_entry(
        &mut self,
        scope: &Scope,
        manifest: &StorePath,
        entry: &ArtifactDescriptor,
        listed: &mut BTreeSet<String>,
    ) -> Result<()> {
        let name = self.file_of(scope, entry);
        let path = name
            .as_deref()
            .and_then(|name| self.artifact_path(name).ok());
        let (Some(name), Some(path)) = (name, path) else {
            self.findings.push(finding(
                scope,
                FindingKind::ArtifactEntry,
                manifest,
                format!("its entry for artifact {:?} names no file", entry.name),
                "put the artifact again",
            ));
            return Ok(());
        };
        listed.insert(name.clone());
        let Some((size, digest)) = self.artifacts.get(&name) else {
            // One that cannot be read was told already, and so was its directory.
            if !self.is_told(scope, &path) {
                self.findings.push(finding(
                    scope,
                    FindingKind::ArtifactMissing,
                    &path,
                    format!("artifact {:?} is listed and is not there", entry.name),
                    "restore it from a copy, or put the artifact again",
                ));
            }
            return Ok(());
        };
        if let Some(hash) = &entry.content_hash
            && !(matches!(hash.len(), 16 | 64) && hash.bytes().all(|byte| byte.is_ascii_hexdigit()))
        {
            self.findings.push(finding(
                scope,
                FindingKind::ArtifactEntry,
                manifest,
                format!(
                    "the content hash of artifact {:?} is no SHA-256, so its content cannot be checked",
                    entry.name
                ),
                "put the artifact again without a hash",
            ));
            return Ok(());
        }
        if let Err(reason) = check_content(entry, *size, &hex(digest)) {
            self.findings.push(finding(
                scope,
                FindingKind::ArtifactDiffers,
                &path,
                format!(
                    "artifact {:?} is not what its run's manifest says: {reason}",
                    entry.name
                ),
                "restore it from a copy; if the file is right, put the artifact again",
            ));
        }
        Ok(())
    }

    /// Says whether something was told of a file, or of a directory that it is in.
    fn is_told(&self, scope: &Scope, path: &StorePath) -> bool {
        let told = scope.tree.path(path);
        self.findings.iter().any(|finding| {
            let below = told.strip_prefix(&finding.file);
            below.is_some_and(|below| below.is_empty() || below.starts_with('/'))
        })
    }

    /// Tells of the artifacts that only the run's record lists, and that are not there. One whose place is outside
    /// the run's directory is none of the store's.
    fn judge_recorded(&mut self, scope: &Scope) {
        let own = format!("{}/", layout::artifact_directory(&self.run));
        for entry in std::mem::take(&mut self.recorded) {
            let within = entry.uri.strip_prefix("file://").unwrap_or(&entry.uri);
            let is_own = match layout::artifact_tail(within) {
                Some((_, run, _)) => run == self.run,
                // The reference makes directories for names with a slash.
                None => within.contains(&format!("/{own}")) || within.starts_with(&own),
            };
            let name = self.file_of(scope, &entry).filter(|_| is_own);
            let Some(path) = name.and_then(|name| match self.artifacts.contains_key(&name) {
                true => None,
                false => self.artifact_path(&name).ok(),
            }) else {
                continue;
            };
            // Something else in its place was told.
            if is_gone(scope, &path) && !self.is_told(scope, &path) {
                self.findings.push(finding(
                    scope,
                    FindingKind::ArtifactMissing,
                    &path,
                    format!(
                        "the run's record lists artifact {:?}, and it is not there",
                        entry.name
                    ),
                    "restore it from a copy; a store that was copied without artifacts has none",
                ));
            }
        }
    }

    /// Tells of files that were known and are gone, of a run that is there. Its own writers may remove some.
    fn judge_vanished(&mut self, scope: &Scope, beside: &Beside<'_>) -> Result<()> {
        // A run is deleted record first; what is left of it is told.
        if !self.has_record || self.seen.iter().all(|seen| *seen) {
            return Ok(());
        }
        if written_by_us(scope, Some(&self.run), beside.noted_at)? {
            return Ok(());
        }
        let known = self.known.iter().zip(&self.seen);
        let gone: Vec<StorePath> = known
            .filter(|(_, seen)| !**seen)
            .filter_map(|(known, _)| layout::parse(&known.path))
            .collect();
        let manifest = layout::artifact_manifest(&self.run);
        let lists_gone = gone.contains(&manifest);
        for path in gone {
            // A file that no manifest lists is garbage, which may be removed.
            let is_garbage = path.top() == Top::Artifacts && !lists_gone;
            if is_garbage || beside.unlisted.contains(&path.top()) {
                continue;
            }
            // A log that now counts as another run's is there, and so is what stands in the place of a file.
            if is_gone(scope, &path) && !self.is_told(scope, &path) {
                self.vanished = true;
                self.findings.push(vanished(scope, &path));
            }
        }
        Ok(())
    }

    /// Returns the path within the run's directory of the file that an entry is about.
    fn file_of(&self, scope: &Scope, entry: &ArtifactDescriptor) -> Option<String> {
        // The reference makes directories for names with a slash.
        let tail = format!("/{}/", layout::artifact_directory(&self.run));
        if let Some((_, rest)) = entry.uri.rsplit_once(&tail)
            && rest.contains('/')
            && self.artifacts.contains_key(rest)
        {
            return Some(rest.to_owned());
        }
        let path = scope.descriptor_path(&self.run, entry).ok()?;
        Some(path.file_name().to_owned())
    }

    fn artifact_path(&self, name: &str) -> Result<StorePath> {
        let mut path = layout::artifact_directory(&self.run);
        for component in name.split('/') {
            path = path.child(component)?;
        }
        Ok(path)
    }

    /// Tells of the files beside artifacts that are none.
    fn judge_unlisted(&mut self, scope: &Scope, listed: &BTreeSet<String>) {
        let unlisted: Vec<StorePath> = self
            .artifacts
            .keys()
            .filter(|name| !listed.contains(*name))
            .filter_map(|name| self.artifact_path(name).ok())
            .collect();
        for path in unlisted {
            self.findings.push(finding(
                scope,
                FindingKind::Unlisted,
                &path,
                "no artifact manifest lists it",
                "put it as an artifact, or let `gc` remove it",
            ));
        }
    }

    /// Puts right what has one right answer, and says whether there was anything. The run's lock is held.
    pub(super) fn repair(
        &mut self,
        scope: &Scope,
        index: Option<&SavedIndex>,
        quarantine: &mut Option<Quarantine>,
    ) -> Result<bool> {
        let restored = self.restore(scope, index, quarantine)?;
        Ok(self.repair_manifest(scope, quarantine)? || restored)
    }

    /// Restores a record or derived metrics whose bytes changed on the disk, where the database or the index has a
    /// text with the digest that was known.
    fn restore(
        &mut self,
        scope: &Scope,
        index: Option<&SavedIndex>,
        quarantine: &mut Option<Quarantine>,
    ) -> Result<bool> {
        let Some(held) = &self.held else {
            return Ok(false);
        };
        let mut restored = false;
        for path in [layout::run_record(&self.run), layout::derived(&self.run)] {
            let place = scope.tree.path(&path);
            let altered = |finding: &&mut Finding| {
                finding.file == place && finding.kind == FindingKind::Altered
            };
            let Some(finding) = self.findings.iter_mut().find(altered) else {
                continue;
            };
            let name = path.to_string();
            let Some(known) = self.known.iter().find(|known| known.path == name) else {
                continue;
            };
            let texts = [
                (kept_by_database(scope, &self.run, &path), "the database"),
                (kept_by_index(index, &self.run, &path), "the index"),
            ];
            let right = texts.into_iter().find_map(|(text, whose)| {
                let text = text?;
                let same = Fingerprint::of(text.as_bytes()).hash == Some(known.digest);
                same.then_some((text, whose))
            });
            let Some((right, whose)) = right else {
                continue;
            };
            let Some(current) = scope.tree.read(&path, codec::MAX_DOCUMENT)? else {
                continue;
            };
            Quarantine::open(quarantine, scope)?.keep(scope, &path, &current)?;
            let previous = Some(Fingerprint::of(&current));
            scope.commit(held, vec![Change::put(path, previous, right.as_bytes())])?;
            finding.repaired = Some(format!(
                "it was restored from {whose}, which had the bytes that were known"
            ));
            restored = true;
        }
        if restored {
            scope.reflect(&[&self.run], held.lock.is_some());
        }
        Ok(restored)
    }

    /// Puts the artifact manifest right where the run's record and the files prove what it should say, and says
    /// whether it did. The record lists artifacts too, with their hashes; a file that has the hash that the record
    /// says is provably the artifact's.
    fn repair_manifest(
        &mut self,
        scope: &Scope,
        quarantine: &mut Option<Quarantine>,
    ) -> Result<bool> {
        let Some(held) = &self.held else {
            return Ok(false);
        };
        let manifest = layout::artifact_manifest(&self.run);
        let place = scope.tree.path(&manifest);
        let concerns = |finding: &Finding| match finding.kind {
            FindingKind::Unreadable => finding.file == place,
            FindingKind::ArtifactDiffers | FindingKind::Unlisted => true,
            _ => false,
        };
        if !self.findings.iter().any(concerns) {
            return Ok(false);
        }
        let Some(record) = scope.record_content(&self.run)? else {
            return Ok(false);
        };
        let proven = self.proven(scope, &record);
        if proven.is_empty() {
            return Ok(false);
        }
        // What cannot be read cannot be kept.
        let Ok(current) = scope.tree.read(&manifest, codec::MAX_DOCUMENT) else {
            return Ok(false);
        };
        let parsed = current
            .as_deref()
            .map(|content| codec::parse_object(&place, content));
        let (mut object, mut entries) = match parsed {
            None => (Object::new(), Vec::new()),
            Some(Ok(mut object)) => match object.remove("artifacts") {
                None => (object, Vec::new()),
                Some(Value::Array(entries)) => (object, entries),
                Some(_) => return Ok(false),
            },
            Some(Err(_)) => {
                // What it said of others is lost, so all of them must be proven.
                if !self.artifacts.keys().all(|file| proven.contains_key(file)) {
                    return Ok(false);
                }
                (Object::new(), Vec::new())
            }
        };
        let rebuilt = entries.is_empty();
        let mut said = Vec::new();
        for (file, (name, entry)) in &proven {
            let known = entries
                .iter_mut()
                .find(|entry| text_of(entry, "name") == Some(name.as_str()));
            let path = scope.tree.path(&self.artifact_path(file)?);
            let told = |finding: &&mut Finding| {
                finding.file == path
                    && matches!(
                        finding.kind,
                        FindingKind::ArtifactDiffers | FindingKind::Unlisted
                    )
            };
            let told = self.findings.iter_mut().find(told);
            match (known, &told) {
                (Some(known), Some(finding)) if finding.kind == FindingKind::ArtifactDiffers => {
                    *known = entry.clone();
                }
                (None, _) if rebuilt || told.is_some() => entries.push(entry.clone()),
                _ => continue,
            }
            if let Some(finding) = told {
                finding.repaired = Some(format!(
                    "its entry in {place} was made anew from the run's record, whose hash the file has"
                ));
            }
            said.push(name.clone());
        }
        if said.is_empty() {
            return Ok(false);
        }
        object.insert("artifacts", Value::Array(entries));
        let content = codec::print(&Value::Object(object)).into_bytes();
        if let Some(current) = &current {
            Quarantine::open(quarantine, scope)?.keep(scope, &manifest, current)?;
        }
        let previous = current.as_deref().map(Fingerprint::of);
        scope.commit(held, vec![Change::put(manifest, previous, content)])?;
        for finding in &mut self.findings {
            if finding.kind == FindingKind::Unreadable && finding.file == place {
                finding.repaired = Some(format!(
                    "it was made anew from the run's record, whose hashes the files have: {}",
                    said.join(", ")
                ));
            }
        }
        Ok(true)
    }

    /// Collects the artifacts that the run's record lists with the hash that their files have, by their files.
    fn proven(&self, scope: &Scope, record: &[u8]) -> BTreeMap<String, (String, Value<'static>)> {
        let mut proven = BTreeMap::new();
        let file = scope.tree.path(&layout::run_record(&self.run));
        for (index, entry) in entries_of(&file, record)
            .unwrap_or_default()
            .into_iter()
            .enumerate()
        {
            let entry = entry.into_owned();
            let Ok(descriptor) = codec::descriptor(&file, index, entry.clone()) else {
                continue;
            };
            let Some(name) = self.file_of(scope, &descriptor) else {
                continue;
            };
            if let Some((size, digest)) = self.artifacts.get(&name)
                && descriptor
                    .content_hash
                    .as_ref()
                    .is_some_and(|hash| hash.len() >= 16)
                && check_content(&descriptor, *size, &hex(digest)).is_ok()
                && let Ok(public) = public_descriptor(&descriptor)
                && let Ok(value) = codec::descriptor_to(&public)
            {
                proven.insert(name, (descriptor.name, value.into_owned()));
            }
        }
        proven
    }

    /// Begins again after a repair, and keeps what was put right.
    pub(super) fn after_repair(self, scope: &Scope) -> Result<Self> {
        let repaired = self
            .findings
            .into_iter()
            .filter(|finding| finding.repaired.is_some())
            .collect();
        // The lock is released first.
        drop(self.held);
        let belongings = self.belongings.again(scope, &self.run)?;
        let mut check = Self::begin(
            scope,
            &Directories::default(),
            self.run,
            belongings,
            self.known,
        )?;
        check.looks = LOOKS;
        check.repaired = repaired;
        Ok(check)
    }

    pub(super) fn finish(mut self) -> RunDone {
        self.findings.append(&mut self.repaired);
        RunDone {
            is_there: self.first.is_some() || !self.findings.is_empty(),
            run: self.run,
            digest: self.list.finish(),
            sums: self.sums,
            noted: self.noted,
            findings: self.findings,
            misled: self.misled,
        }
    }
}

fn is_record(path: &StorePath) -> bool {
    path.top() == Top::Runs && path.rest().ends_with(".json")
}

/// Takes the entries out of an artifact manifest.
pub(super) fn entries_of<'c>(file: &str, content: &'c [u8]) -> Result<Vec<Value<'c>>> {
    let mut object = codec::parse_object(file, content)?;
    match object.remove("artifacts") {
        None => Ok(Vec::new()),
        Some(Value::Array(entries)) => Ok(entries),
        Some(_) => Err(Error::corrupt(file, None, "`artifacts` should be a list")),
    }
}

fn text_of<'v>(entry: &'v Value<'_>, name: &str) -> Option<&'v str> {
    entry.as_object()?.get(name)?.as_str()
}

/// Returns the text that the database has of a record or of derived metrics. One that does not answer has none.
fn kept_by_database(scope: &Scope, run: &RunId, path: &StorePath) -> Option<String> {
    let sql = scope.sql.as_ref()?;
    let (_, state) = State::read(&scope.tree)?;
    let asked = texts_of(&sql.schema, &state.scope, run.as_str());
    let rows = sql.ask(|database| database.query(&asked, 1)).ok()?;
    let column = usize::from(path.top() == Top::Derived);
    text(rows.rows.first()?, column).map(str::to_owned)
}

/// Returns the text that the index has of a record or of derived metrics, as the format prints it.
fn kept_by_index(index: Option<&SavedIndex>, run: &RunId, path: &StorePath) -> Option<String> {
    let texts = index?.texts(run)?;
    let text = match path.top() {
        Top::Derived => texts.derived?,
        _ => texts.record,
    };
    let object = codec::parse_object("", text.as_bytes()).ok()?;
    Some(codec::print(&Value::Object(object)))
}
