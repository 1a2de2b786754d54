//! One file: read, hashed, judged by what it holds, and compared with what it was.

use super::known::KnownFile;
use super::run::LOOKS;
use super::{Finding, FindingKind, Severity, TICKS, finding, finding_of, stray_finding};
use crate::codec;
use crate::commit::last_change;
use crate::error::{Error, Result};
use crate::json::{Object, Parts, Value};
use crate::layout::{self, StorePath, Top};
use crate::names::{ExperimentId, RunId};
use crate::ports::{Directory, File, Kind, Stat};
use crate::scope::Scope;
use crate::transfer::digest::{self, Digest};
use sha2::{Digest as _, Sha256};

/// How many bytes one step reads.
const BYTES: u64 = 8 * 1024 * 1024;

/// How many files one step looks at.
const FILES: u64 = 256;

/// How many bytes are read at once.
const PIECE: usize = 64 * 1024;

/// What the work of one step is limited to.
pub(super) struct Budget {
    bytes: u64,
    files: u64,
}

impl Budget {
    pub(super) fn new() -> Self {
        Self {
            bytes: BYTES,
            files: FILES,
        }
    }

    pub(super) fn is_spent(&self) -> bool {
        self.bytes == 0 || self.files == 0
    }

    fn spend(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes as u64);
    }

    pub(super) fn spend_file(&mut self) {
        self.files = self.files.saturating_sub(1);
    }
}

/// A file that is being read.
pub(super) struct Reading {
    path: StorePath,
    stat: Stat,
    file: Box<dyn File>,
    read: u64,
    hash: Sha256,
    /// The whole content, if it is a document.
    content: Option<Vec<u8>>,
    /// Where the known content of a log ended, and the digest up to there.
    before: Option<(u64, Option<Digest>)>,
    /// The bytes of a character that was cut at the end of the last piece; none if it is known not to be text.
    text: Option<Vec<u8>>,
    not_text: Option<u64>,
}

/// A file that was read.
pub(super) struct Content {
    pub(super) path: StorePath,
    pub(super) stat: Stat,
    /// How many bytes were read.
    pub(super) size: u64,
    /// The digest of the bytes.
    pub(super) digest: Digest,
    /// The whole content, if it is a document.
    pub(super) content: Option<Vec<u8>>,
    before: Option<Digest>,
    /// Where a log holds what is not UTF-8.
    not_text: Option<u64>,
}

/// Says whether a file is read whole, to be parsed.
fn is_document(path: &StorePath) -> bool {
    match path.top() {
        Top::Artifacts => digest::names_places(path),
        Top::Logs | Top::Locks | Top::Index => false,
        Top::Root | Top::Runs | Top::Derived | Top::Results | Top::Experiments => true,
    }
}

/// Has the host read an artifact of no more bytes than one step takes; none where it does not, or where the artifact is not what was
/// looked at a moment ago.
pub(super) fn digest_of(
    scope: &Scope,
    path: &StorePath,
    seen: &Stat,
    budget: &mut Budget,
) -> Option<Content> {
    if path.top() != Top::Artifacts || is_document(path) || seen.size > BYTES {
        return None;
    }
    let (stat, digest) = scope.tree.digest(path)?;
    if (stat.size, stat.modified) != (seen.size, seen.modified) {
        return None;
    }
    budget.spend(usize::try_from(stat.size).unwrap_or(usize::MAX));
    Some(Content {
        path: path.clone(),
        stat: *seen,
        size: stat.size,
        digest,
        content: None,
        before: None,
        not_text: None,
    })
}

impl Reading {
    /// Opens a file that was looked at a moment ago, through its directory if that was opened before; none if it
    /// vanished.
    pub(super) fn open(
        scope: &Scope,
        directory: Option<&dyn Directory>,
        path: StorePath,
        seen: &Stat,
        known: Option<&KnownFile>,
    ) -> Result<Option<Self>> {
        let Some((file, stat)) = scope.tree.open_seen(directory, &path, seen)? else {
            return Ok(None);
        };
        let document = is_document(&path);
        if document && stat.size > codec::MAX_DOCUMENT {
            return Err(Error::TooLarge(format!(
                "{} has {} bytes; a document may have at most {}",
                scope.tree.path(&path),
                stat.size,
                codec::MAX_DOCUMENT
            )));
        }
        let log = path.top() == Top::Logs;
        let before = known
            .filter(|known| log && known.size < stat.size)
            .map(|known| (known.size, None));
        Ok(Some(Self {
            path,
            stat,
            file,
            read: 0,
            hash: Sha256::new(),
            content: document.then(Vec::new),
            before,
            text: log.then(Vec::new),
            not_text: None,
        }))
    }

    /// Reads on, and says whether it is read. What comes after the size that it had when it was opened is not.
    pub(super) fn step(&mut self, scope: &Scope, budget: &mut Budget) -> Result<bool> {
        loop {
            let left = self.stat.size - self.read;
            if left == 0 {
                return Ok(true);
            }
            if budget.is_spent() {
                return Ok(false);
            }
            let wanted = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            let piece = scope
                .tree
                .read_piece(&self.path, self.file.as_ref(), self.read, wanted)?;
            if piece.is_empty() {
                // It was cut meanwhile.
                return Ok(true);
            }
            budget.spend(piece.len());
            self.take(&piece);
        }
    }

    fn take(&mut self, piece: &[u8]) {
        let at = self.read;
        self.read += piece.len() as u64;
        match &mut self.before {
            Some((end, digest @ None)) if *end <= self.read => {
                let within = usize::try_from(*end - at).unwrap_or(piece.len());
                let (old, new) = piece.split_at(within.min(piece.len()));
                self.hash.update(old);
                *digest = Some(self.hash.clone().finalize().into());
                self.hash.update(new);
            }
            _ => self.hash.update(piece),
        }
        if let Some(content) = &mut self.content {
            content.extend_from_slice(piece);
        }
        if let Some(mut cut) = self.text.take() {
            let start = at - cut.len() as u64;
            let joined;
            let text = if cut.is_empty() {
                piece
            } else {
                cut.extend_from_slice(piece);
                joined = cut;
                &joined
            };
            match std::str::from_utf8(text) {
                Ok(_) => self.text = Some(Vec::new()),
                Err(error) if error.error_len().is_none() => {
                    self.text = text.get(error.valid_up_to()..).map(<[u8]>::to_vec);
                }
                Err(error) => self.not_text = Some(start + error.valid_up_to() as u64),
            }
        }
    }

    pub(super) fn finish(self) -> Content {
        Content {
            path: self.path,
            stat: self.stat,
            size: self.read,
            digest: self.hash.finalize().into(),
            content: self.content,
            before: self.before.and_then(|(_, digest)| digest),
            // A character that is cut at the very end may be about to be written.
            not_text: self.not_text,
        }
    }
}

/// Returns the digest that counts for a document's run and experiment.
pub(super) fn counted(found: &Content, document: Option<Object<'_>>) -> Digest {
    let text = document
        .filter(|_| digest::names_places(&found.path))
        .and_then(digest::without_places);
    text.map_or(found.digest, |text| Sha256::digest(text).into())
}

/// What a comparison with what was known tells.
#[derive(Default)]
pub(super) struct Compared {
    pub(super) finding: Option<Finding>,
    /// What is known from now on.
    pub(super) noted: Option<KnownFile>,
    /// Whether nothing was known.
    pub(super) fresh: bool,
    /// Whether an own writer changed it, or it has only grown.
    pub(super) replaced: bool,
}

/// Compares a file with what it was. `now` is a time before it was read; `owner` says whose lock tells of changes by our own writers.
pub(super) fn compare(
    scope: &Scope,
    found: &Content,
    known: Option<&KnownFile>,
    noted_at: u64,
    owner: Option<&RunId>,
    now: u64,
) -> Result<Compared> {
    let young = found.stat.modified.saturating_add(TICKS) > now;
    let read = KnownFile {
        path: found.path.to_string(),
        size: found.stat.size,
        modified: found.stat.modified,
        digest: found.digest,
    };
    let mut compared = Compared::default();
    let Some(known) = known else {
        compared.fresh = true;
        // A later change could get the same time.
        compared.noted = (!young).then_some(read);
        return Ok(compared);
    };
    if known.digest == found.digest {
        compared.noted = Some(if young { known.clone() } else { read });
        return Ok(compared);
    }
    if (known.size, known.modified) == (found.stat.size, found.stat.modified) {
        // It is told again by each verification, until it is right or was written.
        compared.noted = Some(known.clone());
        compared.finding = Some(finding(
            scope,
            FindingKind::Altered,
            &found.path,
            "its bytes are not those that were verified before, while its size and the time of its last change are the same",
            "restore it from a copy; if it is right as it is, give it another time (touch)",
        ));
        return Ok(compared);
    }
    compared.noted = (!young).then_some(read);
    if found.before == Some(known.digest) || written_by_us(scope, owner, noted_at)? {
        compared.replaced = true;
    } else if !matches!(found.path.top(), Top::Locks | Top::Index) {
        compared.finding = Some(finding(
            scope,
            FindingKind::Changed,
            &found.path,
            "it was changed since it was verified last, and not by a writer that keeps a journal here",
            "nothing, if somebody meant to; it is told once",
        ));
    }
    Ok(compared)
}

/// Says whether a writer of ours changed files of a run, or of none, since a time: it named its call in the lock's file.
pub(super) fn written_by_us(scope: &Scope, run: Option<&RunId>, noted_at: u64) -> Result<bool> {
    let lock = match run {
        Some(run) => layout::lock(run),
        None => layout::index(&format!("{}.lock", crate::manifests::LOCK))?,
    };
    let content = scope.tree.read(&lock, 4096)?;
    Ok(content.is_some_and(|content| last_change(&content) >= noted_at))
}

/// Judges a document of a run, other than its record and its artifact manifest, by what it holds.
pub(super) fn judge_document(
    scope: &Scope,
    path: &StorePath,
    content: &[u8],
    findings: &mut Vec<Finding>,
) -> Result<()> {
    let file = scope.tree.path(path);
    let judged = match path.top() {
        Top::Runs => codec::parse_value(&file, content).map(drop),
        Top::Derived => codec::parse_object(&file, content)
            .and_then(|object| codec::metrics_from(&file, object))
            .map(drop),
        Top::Results if is_result(path) => codec::parse_object(&file, content)
            .and_then(|object| codec::structured_result(&file, object))
            .map(drop),
        Top::Results => {
            findings.push(stray_finding(scope, path, "the format has no such file"));
            Ok(())
        }
        _ => Ok(()),
    };
    if let Err(error) = judged {
        findings.push(finding_of(scope, path, error)?);
    }
    Ok(())
}

/// Says whether a path is that of a result, directly in its run's directory.
fn is_result(path: &StorePath) -> bool {
    path.rest().matches('/').count() == 1 && layout::result_of(path.file_name()).is_some()
}

/// Judges a record by what it holds.
pub(super) fn judge_record(
    scope: &Scope,
    run: &RunId,
    path: &StorePath,
    object: &Object<'_>,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    let named = object.get("run_id").and_then(Value::as_str);
    match named {
        Some(named) if named == run.as_str() => {}
        Some(named) => findings.push(finding(
            scope,
            FindingKind::Misplaced,
            path,
            format!(
                "it is the record of run {named:?}, under the name of run {:?}",
                run.as_str()
            ),
            "restore it from a copy, or rename it",
        )),
        None => findings.push(finding(
            scope,
            FindingKind::Misplaced,
            path,
            "it does not say which run it is the record of",
            "restore it from a copy, or put the record again",
        )),
    }
    judge_experiment(scope, path, object, findings);
    if let Some(version) = codec::other_version(object) {
        findings.push(finding(
            scope,
            FindingKind::NewerFormat,
            path,
            format!(
                "it is of format version {version}, and is not judged by the rules of this one"
            ),
            "verify it with the program that wrote it",
        ));
        return Ok(());
    }
    if is_plain(object) {
        return Ok(());
    }
    if let Err(error) = codec::run_record(&scope.tree.path(path), object.clone()) {
        findings.push(finding_of(scope, path, error)?);
    }
    Ok(())
}

/// Says whether a record is certain to load as typed data, without loading it; of others it says nothing.
fn is_plain(record: &Object<'_>) -> bool {
    const TEXTS: [&str; 6] = [
        "experiment_id",
        "context_fingerprint",
        "params_fingerprint",
        "seed_fingerprint",
        "notes",
        "_schema_version",
    ];
    const OF_PROVENANCE: [&str; 5] = [
        "code_hash",
        "python_version",
        "metalab_version",
        "executor_id",
        "host",
    ];
    let is = |object: &Object<'_>, name: &str, fits: fn(&Value<'_>) -> bool| match object.get(name)
    {
        None | Some(Value::Null) => true,
        Some(value) => fits(value),
    };
    let text = |value: &Value<'_>| value.as_str().is_some();
    let object = |value: &Value<'_>| value.as_object().is_some();
    let provenance = record.get("provenance").and_then(Value::as_object);
    codec::surely_loads(Parts::of(record))
        && TEXTS.iter().all(|name| is(record, name, text))
        && is(record, "params_resolved", object)
        && is(record, "duration_ms", |value| {
            matches!(value, Value::Int(_))
        })
        && provenance.is_none_or(|provenance| {
            OF_PROVENANCE.iter().all(|name| is(provenance, name, text))
                && is(provenance, "extra", object)
        })
}

/// Judges whether a document names the experiment that its directory belongs to.
fn judge_experiment(
    scope: &Scope,
    path: &StorePath,
    object: &Object<'_>,
    findings: &mut Vec<Finding>,
) {
    if let Some(experiment) = &scope.experiment
        && let Some(named) = object.get("experiment_id").and_then(Value::as_str)
        && named != experiment.as_str()
        && !named.is_empty()
    {
        findings.push(finding(
            scope,
            FindingKind::Misplaced,
            path,
            format!(
                "it names experiment {named:?}, in the directory of {:?}",
                experiment.as_str()
            ),
            "move it to the experiment that it names, or restore it from a copy",
        ));
    }
}

/// Judges a log by what was read of it.
pub(super) fn judge_log(scope: &Scope, found: &Content, findings: &mut Vec<Finding>) {
    if let Some(at) = found.not_text {
        findings.push(finding(
            scope,
            FindingKind::NotText,
            &found.path,
            format!("it is not UTF-8 at byte {at}"),
            "read it in pieces: bytes that are no text appear as U+FFFD",
        ));
    }
    let nested = found.path.rest().contains('/');
    if nested
        && (found.path.rest().matches('/').count() != 1
            || layout::nested_log_of(found.path.file_name()).is_none())
    {
        findings.push(stray_finding(
            scope,
            &found.path,
            "the format has no such file",
        ));
    }
}

/// A file that belongs to no run.
pub(super) struct FileCheck {
    path: StorePath,
    known: Option<KnownFile>,
    /// What it was like when it was opened.
    seen: Option<Stat>,
    reading: Option<Reading>,
    /// When it was opened.
    begun: u64,
    /// How often it was looked at before.
    looks: u32,
    done: FileDone,
}

/// What became of it.
#[derive(Default)]
pub(super) struct FileDone {
    pub(super) findings: Vec<Finding>,
    /// The digest of the bytes, which is also the one that counts: none of these files names places.
    pub(super) digest: Option<Digest>,
    pub(super) bytes: u64,
    pub(super) fresh: bool,
    pub(super) replaced: bool,
    pub(super) noted: Option<KnownFile>,
}

impl FileCheck {
    pub(super) fn begin(scope: &Scope, path: StorePath, known: Vec<KnownFile>) -> Result<Self> {
        let mut check = Self {
            known: known.into_iter().next(),
            seen: None,
            looks: 0,
            reading: None,
            begun: scope.ports.clock.now(),
            done: FileDone::default(),
            path,
        };
        match scope.tree.stat(&check.path) {
            Ok(Some(stat)) if stat.kind == Kind::File => {
                check.seen = Some(stat);
                match Reading::open(scope, None, check.path.clone(), &stat, check.known.as_ref()) {
                    Ok(reading) => check.reading = reading,
                    Err(error) => check.fault(scope, error)?,
                }
            }
            // It vanished, or something else took its place, which the next verification tells.
            Ok(_) => check.done.noted = check.known.clone(),
            Err(error) => check.fault(scope, error)?,
        }
        Ok(check)
    }

    fn fault(&mut self, scope: &Scope, error: Error) -> Result<()> {
        self.done.noted = self.known.clone();
        self.done
            .findings
            .push(finding_of(scope, &self.path, error)?);
        Ok(())
    }

    pub(super) fn path(&self) -> &StorePath {
        &self.path
    }

    /// Says whether what was found may be of two contents: the file was changed since it was looked at.
    pub(super) fn wants_another_look(&self, scope: &Scope) -> Result<bool> {
        let is_damaged = |finding: &Finding| finding.severity == Severity::Damage;
        Ok(self.looks < LOOKS
            && self.done.findings.iter().any(is_damaged)
            && scope.tree.stat(&self.path)? != self.seen)
    }

    /// Looks at the file again.
    pub(super) fn look_again(self, scope: &Scope) -> Result<Self> {
        let looks = self.looks + 1;
        let mut check = Self::begin(scope, self.path, self.known.into_iter().collect())?;
        check.looks = looks;
        Ok(check)
    }

    pub(super) fn step(
        &mut self,
        scope: &Scope,
        noted_at: u64,
        budget: &mut Budget,
    ) -> Result<bool> {
        let Some(mut reading) = self.reading.take() else {
            budget.spend_file();
            return Ok(true);
        };
        match reading.step(scope, budget) {
            Ok(true) => {}
            Ok(false) => {
                self.reading = Some(reading);
                return Ok(false);
            }
            Err(error) => {
                self.fault(scope, error)?;
                return Ok(true);
            }
        }
        budget.spend_file();
        let found = reading.finish();
        let compared = compare(
            scope,
            &found,
            self.known.as_ref(),
            noted_at,
            None,
            self.begun,
        )?;
        let done = &mut self.done;
        done.bytes = found.size;
        done.digest = Some(found.digest);
        done.findings.extend(compared.finding);
        done.fresh = compared.fresh;
        done.replaced = compared.replaced;
        done.noted = compared.noted;
        match self.path.top() {
            Top::Logs => judge_log(scope, &found, &mut done.findings),
            Top::Experiments => {
                let content = found.content.as_deref().unwrap_or_default();
                if let Err(error) = judge_manifest(scope, &self.path, content, &mut done.findings) {
                    done.findings.push(finding_of(scope, &self.path, error)?);
                }
            }
            Top::Root => {
                let content = found.content.as_deref().unwrap_or_default();
                let judged = if self.path == layout::meta() {
                    judge_meta(scope, &self.path, content, &mut done.findings)
                } else {
                    // What runners leave beside the store's directories.
                    codec::parse_value(&scope.tree.path(&self.path), content).map(drop)
                };
                if let Err(error) = judged {
                    done.findings.push(finding_of(scope, &self.path, error)?);
                }
            }
            _ => {}
        }
        Ok(true)
    }

    pub(super) fn finish(self) -> FileDone {
        self.done
    }
}

/// Judges an experiment manifest.
fn judge_manifest(
    scope: &Scope,
    path: &StorePath,
    content: &[u8],
    findings: &mut Vec<Finding>,
) -> Result<()> {
    let object = codec::parse_object(&scope.tree.path(path), content)?;
    let named = object.get("experiment_id").and_then(Value::as_str);
    let of = |id: &ExperimentId| layout::manifest_of(path.file_name(), id).is_some();
    let fits = match (named, &scope.experiment) {
        (Some(named), _) => ExperimentId::parse(named).is_ok_and(|id| of(&id)),
        (None, Some(experiment)) => of(experiment),
        (None, None) => layout::manifest_parts(path.file_name()).is_some(),
    };
    if fits {
        judge_experiment(scope, path, &object, findings);
    } else {
        let whose = match named {
            Some(named) => format!("the manifest of experiment {named:?} that it holds"),
            None => "a manifest of this experiment".to_owned(),
        };
        findings.push(finding(
            scope,
            FindingKind::Misplaced,
            path,
            format!("its name is not one of {whose}"),
            "rename it, or restore it from a copy",
        ));
    }
    Ok(())
}

/// Judges the file that says whose a store is.
fn judge_meta(
    scope: &Scope,
    path: &StorePath,
    content: &[u8],
    findings: &mut Vec<Finding>,
) -> Result<()> {
    let file = scope.tree.path(path);
    let object = codec::parse_object(&file, content)?;
    match object.get("experiment_id") {
        None | Some(Value::Null) => Ok(()),
        Some(Value::String(id)) if id.as_str().is_some() => {
            judge_experiment(scope, path, &object, findings);
            Ok(())
        }
        Some(_) => Err(Error::corrupt(
            file,
            None,
            "`experiment_id` should be a text",
        )),
    }
}
