//! The destination's side: takes a stream and puts what it holds in place, unit by unit.

use super::digest::{self, Digest, List};
use super::note::{self, Part};
use super::tar::{self, BLOCK, Extension, Header, refused};
use super::{Existing, ExperimentDigest, Failure, KEPT, MAX_CHUNK, ReceiveOptions, Report};
use crate::codec;
use crate::commit::{Held, name_change};
use crate::error::{Error, Result};
use crate::json::Value;
use crate::layout::{self, StorePath, Top};
use crate::log_files::LogChange;
use crate::model::{Access, Durability};
use crate::names::RunId;
use crate::ports::{File, Kind, Lock, Stat};
use crate::scope::Scope;
use sha2::{Digest as _, Sha256};
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::rc::Rc;

/// The number in the name of a stage file beside the file that it becomes. It is always the same one, so that
/// what a killed copy left is found again: only the holder of the run's lock uses it.
const TOKEN: u32 = 0x7472_6e73;

/// The file that says that a copy into this store did not come to its end.
const MARK: &str = "transfer-unfinished";

/// The lock that all copies into this store hold together, so that the last one removes the mark.
const LOCK: &str = "transfer";

/// What a disk writes whole or not at all.
const SECTOR: u64 = 512;

/// A file of up to this many bytes is kept in memory until its unit is whole.
const SMALL: u64 = 1024 * 1024;

/// The most bytes of a file that a host hashes at once.
const MAX_HASHED: u64 = 1 << 30;

/// The most files of one unit.
const MAX_FILES: usize = 1_000_000;

/// What became of a piece of the stream.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Step {
    /// How many bytes of it were taken: all of them, unless the rest is for another store.
    pub consumed: usize,
    /// Whose the rest is.
    pub elsewhere: Option<Elsewhere>,
}

/// Another experiment's part of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elsewhere {
    /// The experiment whose store takes it.
    pub experiment_id: String,
    /// What that store's receiver must be given.
    pub handover: Vec<u8>,
}

/// Takes a stream. What was put in place stays when it is dropped, and the same stream goes on from there.
pub struct Receiver {
    scope: Rc<Scope>,
    options: ReceiveOptions,
    state: State,
    extension: Extension,
    head_seen: bool,
    ended: bool,
    /// Whether the rest of the stream went to another store.
    handed_over: bool,
    parts: u64,
    part: Option<Receiving>,
    /// A part that another store is to take, or that this one is told to pass over.
    refusable: Option<Part>,
    unit: Unit,
    report: Report,
    /// Whether a copy was ended here before it was done.
    unfinished: bool,
    /// Whether anything was written.
    wrote: bool,
    /// Held from the first write on.
    lock: Option<Box<dyn Lock>>,
}

enum State {
    Header(Vec<u8>),
    Body { entry: Entry, left: u64, size: u64 },
    Padding(usize),
    End,
}

enum Entry {
    Extension(Vec<u8>),
    Note(note::Kind, String, Vec<u8>),
    File(Box<Incoming>),
    Ignored,
}

/// The part that is being taken.
struct Receiving {
    part: Part,
    list: List,
    runs: u64,
    last_run: Option<RunId>,
    last_other: String,
    /// Why nothing of it is taken.
    refused: Option<String>,
    /// Whether a unit of it did not come as it was sent, which was told.
    incomplete: bool,
}

#[derive(Default)]
struct Unit {
    files: Vec<Incoming>,
    kept: u64,
    /// What is kept in memory whatever its size: one record and one artifact manifest.
    documents: Vec<StorePath>,
    last: String,
    /// What makes the unit useless, found while it came.
    broken: Option<String>,
    count: u64,
    bytes: u64,
}

/// A file of a unit.
struct Incoming {
    path: StorePath,
    size: u64,
    /// How much of it came.
    seen: u64,
    content: Content,
}

enum Content {
    /// In memory.
    Memory(Vec<u8>),
    /// The same so far as the file that is there.
    Same(Box<dyn File>, Stat, Sha256),
    /// In a stage file, and hashed as it comes, or once it is whole.
    Staged(StorePath, Box<dyn File>, Option<Sha256>),
    /// Different from what is there, or new; only counted. It may begin with what is there.
    Counted(Sha256, bool),
}

/// What there is in the place of a file.
enum There {
    Nothing,
    Same,
    /// Something that the file goes on from: a log that grew, or what a power cut left of an earlier copy.
    Less,
    Other,
}

/// What is to be done with a file.
enum Plan {
    Keep,
    Write,
}

impl Receiver {
    /// Begins to take a stream, or the rest of one that another receiver handed over.
    pub(crate) fn new(
        scope: Rc<Scope>,
        options: ReceiveOptions,
        handover: Option<&[u8]>,
    ) -> Result<Self> {
        if !options.dry_run {
            scope.refuse_read_only()?;
        }
        let mark = layout::index(MARK)?;
        let unfinished = scope.tree.stat(&mark)?.is_some();
        let mut receiver = Self {
            scope,
            options,
            state: State::Header(Vec::with_capacity(BLOCK)),
            extension: Extension::default(),
            head_seen: false,
            ended: false,
            handed_over: false,
            parts: 0,
            part: None,
            refusable: None,
            unit: Unit::default(),
            report: Report::default(),
            unfinished,
            wrote: false,
            lock: None,
        };
        if let Some(handover) = handover {
            receiver.take_over(handover)?;
        }
        Ok(receiver)
    }

    fn take_over(&mut self, handover: &[u8]) -> Result<()> {
        let bad = || refused("what another store handed over cannot be read");
        let end = handover.iter().position(|byte| *byte == b'\n');
        let (parts, begin) = handover.split_at(end.ok_or_else(bad)?);
        let parts = std::str::from_utf8(parts).ok();
        self.parts = parts.and_then(|parts| parts.parse().ok()).ok_or_else(bad)?;
        self.head_seen = true;
        let part = note::read_begin(begin)?;
        if part.experiment != self.scope.experiment {
            return Err(bad());
        }
        self.begin(part, None);
        Ok(())
    }

    /// Takes a piece of the stream: at most 256 KiB.
    ///
    /// # Errors
    /// `invalid-argument` if it is no stream, or one that is damaged or hostile; `io` if nothing more can be
    /// written. What is wrong with one run is told by [`finish`](Self::finish) and ends nothing.
    pub fn write(&mut self, chunk: &[u8]) -> Result<Step> {
        if chunk.len() > MAX_CHUNK {
            return Err(Error::TooLarge(format!(
                "a chunk has {} bytes; at most {MAX_CHUNK} are taken in one call",
                chunk.len()
            )));
        }
        let mut step = Step::default();
        while step.consumed < chunk.len() && step.elsewhere.is_none() {
            let rest = &chunk[step.consumed..];
            let (taken, elsewhere) = self.take(rest)?;
            step.consumed += taken;
            step.elsewhere = elsewhere;
        }
        Ok(step)
    }

    /// Passes over the part that `write` said belongs elsewhere: its store cannot be opened.
    pub fn refuse(&mut self, reason: &str) {
        if let Some(part) = self.refusable.take() {
            self.handed_over = false;
            self.begin(part, Some(reason.to_owned()));
        }
    }

    /// Returns what became of the stream so far.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Makes durable what was put in place, and returns what became of the stream.
    ///
    /// # Errors
    /// `io`; `invalid-argument` if nothing came.
    pub fn finish(mut self) -> Result<Report> {
        if !self.head_seen {
            return Err(refused("it ends too early, before its first entry"));
        }
        let whole = self.ended || self.handed_over;
        // What an ended copy left in place is not durable either.
        if self.wrote || (self.unfinished && !self.options.dry_run) {
            if self.lock.is_none() {
                self.lock = self.scope.lock_shared(LOCK, "the store")?;
            }
            // Somebody may have compared them in between.
            self.scope.disown_database();
            if self.scope.options.durability == Durability::Full {
                self.scope.sync_all()?;
            }
            // Another copy needs the mark as long as it is under way. The last one has made all of them durable.
            let shared = self.lock.take().is_some();
            let alone = whole
                .then(|| self.scope.lock_at_once(LOCK))
                .filter(|alone| !shared || alone.is_some());
            if alone.is_some() {
                self.scope.tree.remove(&layout::index(MARK)?)?;
            }
        }
        if !whole {
            let experiment = self.part.as_ref().map(|part| part.part.id().to_owned());
            self.report.fail(Failure {
                experiment_id: experiment.unwrap_or_default(),
                run_id: None,
                file: None,
                reason: "the stream ended too early: what had come is in place; run the same command again"
                    .to_owned(),
            });
        }
        Ok(std::mem::take(&mut self.report))
    }

    fn take(&mut self, rest: &[u8]) -> Result<(usize, Option<Elsewhere>)> {
        match &mut self.state {
            State::End => Ok((rest.len(), None)),
            State::Header(block) => {
                let count = (BLOCK - block.len()).min(rest.len());
                block.extend_from_slice(&rest[..count]);
                if let Ok(block) = <&[u8; BLOCK]>::try_from(block.as_slice()) {
                    let header = tar::read_header(block)?;
                    self.header(header)?;
                }
                Ok((count, None))
            }
            State::Body { entry, left, .. } => {
                let count = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                *left -= count as u64;
                let done = *left == 0;
                match entry {
                    Entry::Ignored => {}
                    Entry::Extension(content) | Entry::Note(_, _, content) => {
                        content.extend_from_slice(&rest[..count]);
                    }
                    Entry::File(incoming) => {
                        let taken = incoming.append(&self.scope, &self.options, &rest[..count]);
                        if let Err(error) = taken {
                            if is_fatal(&error) {
                                return Err(error);
                            }
                            self.unit.broken = Some(error.to_string());
                            let passed = std::mem::replace(entry, Entry::Ignored);
                            if let Entry::File(incoming) = passed {
                                self.unit.files.push(*incoming);
                            }
                        }
                    }
                }
                if done {
                    return Ok((count, self.end_entry()?));
                }
                Ok((count, None))
            }
            State::Padding(left) => {
                let count = (*left).min(rest.len());
                *left -= count;
                if *left == 0 {
                    self.state = State::Header(Vec::with_capacity(BLOCK));
                    return Ok((count, self.elsewhere_now()));
                }
                Ok((count, None))
            }
        }
    }

    fn header(&mut self, header: Header) -> Result<()> {
        let (path, size) = match header {
            Header::End => {
                if !self.ended {
                    return Err(refused("it ends before its last part"));
                }
                self.state = State::End;
                return Ok(());
            }
            Header::Extension(size) => {
                if size > tar::MAX_PAX {
                    return Err(refused("an extended header is too large"));
                }
                self.body(Entry::Extension(Vec::new()), size)?;
                return Ok(());
            }
            Header::File(path, size) => {
                let extension = std::mem::take(&mut self.extension);
                (
                    extension.path.unwrap_or(path),
                    extension.size.unwrap_or(size),
                )
            }
        };
        if self.ended {
            return Err(refused("something follows its end"));
        }
        if let Some((kind, directory)) = note::kind(&path) {
            if size > note::MAX_NOTE {
                return Err(refused("a note is too large"));
            }
            return self.body(Entry::Note(kind, directory.to_owned(), Vec::new()), size);
        }
        if !self.head_seen {
            return Err(refused(&format!(
                "it begins with {path:?}, and an export of metalab-store begins with {}",
                note::HEAD
            )));
        }
        let entry = self.file(&path, size)?;
        self.body(entry, size)
    }

    /// Goes on to the content of an entry.
    fn body(&mut self, entry: Entry, size: u64) -> Result<()> {
        self.state = State::Body {
            entry,
            left: size,
            size,
        };
        if size == 0 {
            self.end_entry()?;
        }
        Ok(())
    }

    /// Judges a file by its path.
    fn file(&mut self, path: &str, size: u64) -> Result<Entry> {
        let Some(receiving) = &self.part else {
            return Err(refused(&format!("{path:?} belongs to no part")));
        };
        let directory = receiving.part.directory.as_str();
        let inner = match directory {
            "" => Some(path),
            directory => path
                .strip_prefix(directory)
                .and_then(|rest| rest.strip_prefix('/')),
        };
        let Some(inner) = inner else {
            return Err(refused(&format!(
                "{path:?} is not in the directory {directory:?} of its part"
            )));
        };
        // A path that leaves the store, or that is no file of the format, is the mark of a stream that somebody
        // made to do harm: nothing more of it is taken.
        let parsed = layout::parse(inner)
            .or_else(|| layout::root_file(inner))
            .filter(|parsed| !layout::is_stage_name(parsed.file_name()))
            .ok_or_else(|| refused(&format!("{path:?} is no path of a file of a store")))?;
        if parsed.to_string() <= self.unit.last {
            return Err(refused(&format!(
                "{path:?} comes twice, or is not in its place"
            )));
        }
        // Each is kept in memory until the unit is whole, so more of them could fill it.
        if digest::names_places(&parsed) {
            let documents = &mut self.unit.documents;
            if let Some(first) = documents.iter().find(|path| path.top() == parsed.top()) {
                let what = match parsed.top() {
                    Top::Runs => "record",
                    _ => "artifact manifest",
                };
                return Err(refused(&format!(
                    "{path:?} is a second {what} in the run of {first}"
                )));
            }
            documents.push(parsed.clone());
        }
        self.unit.last = parsed.to_string();
        self.unit.count += 1;
        self.unit.bytes = self.unit.bytes.saturating_add(size);
        if self.unit.files.len() >= MAX_FILES {
            return Err(refused(&format!("a run has more than {MAX_FILES} files")));
        }
        if receiving.refused.is_some() || self.unit.broken.is_some() {
            return Ok(Entry::Ignored);
        }
        match self.incoming(parsed, size) {
            Ok(incoming) => Ok(Entry::File(Box::new(incoming))),
            Err(error) if is_fatal(&error) => Err(error),
            Err(error) => {
                self.unit.broken = Some(error.to_string());
                Ok(Entry::Ignored)
            }
        }
    }

    /// Decides where the content of a file goes until its unit is whole.
    fn incoming(&mut self, path: StorePath, size: u64) -> Result<Incoming> {
        let document = digest::names_places(&path) && size <= codec::MAX_DOCUMENT;
        let small = size <= SMALL && self.unit.kept + size <= KEPT;
        let content = if document || small {
            self.unit.kept += size;
            Content::Memory(Vec::new())
        } else {
            // A dry run keeps nothing with which to see later that it goes on from what there is.
            let dry = self.options.dry_run;
            match self.scope.tree.open(&path)? {
                Some((file, stat)) if stat.size == size || (dry && stat.size < size) => {
                    Content::Same(file, stat, Sha256::new())
                }
                _ => match new_content(&self.scope, &self.options, Sha256::new())? {
                    // The host hashes a whole file several times as fast as its pieces are hashed here.
                    Content::Staged(stage, file, _) if size <= MAX_HASHED => {
                        Content::Staged(stage, file, None)
                    }
                    content => content,
                },
            }
        };
        Ok(Incoming {
            path,
            size,
            seen: 0,
            content,
        })
    }

    /// Does what is to be done when the content of an entry is whole.
    fn end_entry(&mut self) -> Result<Option<Elsewhere>> {
        let State::Body { entry, size, .. } =
            std::mem::replace(&mut self.state, State::Header(Vec::new()))
        else {
            return Ok(None);
        };
        match entry {
            Entry::Ignored => {}
            Entry::Extension(content) => self.extension = tar::read_extension(&content)?,
            Entry::Note(kind, directory, content) => self.note(kind, &directory, &content)?,
            Entry::File(incoming) => self.unit.files.push(*incoming),
        }
        let padding = tar::padding(size);
        self.state = if padding == 0 {
            State::Header(Vec::with_capacity(BLOCK))
        } else {
            State::Padding(padding)
        };
        if padding == 0 {
            return Ok(self.elsewhere_now());
        }
        Ok(None)
    }

    /// Says that the rest is another store's, once the note of its part was taken whole.
    fn elsewhere_now(&mut self) -> Option<Elsewhere> {
        let part = self.refusable.as_ref()?;
        self.handed_over = true;
        let mut handover = format!("{}\n", self.parts).into_bytes();
        handover.extend_from_slice(note::begin(part).as_bytes());
        Some(Elsewhere {
            experiment_id: part.id().to_owned(),
            handover,
        })
    }

    fn note(&mut self, kind: note::Kind, directory: &str, content: &[u8]) -> Result<()> {
        if kind != note::Kind::Head && !self.head_seen {
            return Err(refused("its first entry is missing"));
        }
        let here = self.part.as_ref().map(|part| part.part.directory.as_str());
        let within = here == Some(directory);
        match kind {
            note::Kind::Head if self.head_seen => Err(refused("it begins twice")),
            note::Kind::Head => {
                note::check_head(content)?;
                self.head_seen = true;
                Ok(())
            }
            note::Kind::Tail if here.is_some() => Err(refused("a part has no end")),
            note::Kind::Tail => {
                note::check_tail(content, self.parts)?;
                self.ended = true;
                Ok(())
            }
            note::Kind::Begin if here.is_some() => Err(refused("a part has no end")),
            note::Kind::Begin => {
                let part = note::read_begin(content)?;
                if part.directory != directory {
                    return Err(refused("a part is not in its directory"));
                }
                self.meet(part);
                Ok(())
            }
            note::Kind::Unit | note::Kind::End if !within => {
                Err(refused("a note is not in its part"))
            }
            note::Kind::Unit => {
                let note = note::read_unit(content)?;
                self.end_unit(note)
            }
            note::Kind::End => self.end_part(content),
        }
    }

    /// Decides who takes a part.
    fn meet(&mut self, part: Part) {
        if part.experiment == self.scope.experiment {
            self.begin(part, None);
        } else if part.experiment.is_some()
            && (self.scope.experiment.is_none() || self.options.redirect)
        {
            self.refusable = Some(part);
        } else {
            let own = self.scope.experiment.as_ref().map_or("", |id| id.as_str());
            let reason = if part.experiment.is_none() {
                format!(
                    "these runs belong to no experiment, and the destination is limited to {own:?}; open it without an experiment"
                )
            } else {
                format!(
                    "the destination is limited to experiment {own:?}; open it without an experiment, or choose the source's with it"
                )
            };
            self.begin(part, Some(reason));
        }
    }

    fn begin(&mut self, part: Part, refused: Option<String>) {
        self.parts += 1;
        if let Some(reason) = &refused {
            self.report.fail(Failure {
                experiment_id: part.id().to_owned(),
                run_id: None,
                file: None,
                reason: reason.clone(),
            });
        }
        self.unit = Unit::default();
        self.part = Some(Receiving {
            part,
            list: List::default(),
            runs: 0,
            last_run: None,
            last_other: String::new(),
            refused,
            incomplete: false,
        });
    }

    fn end_part(&mut self, content: &[u8]) -> Result<()> {
        let note = note::read_end(content)?;
        if self.unit.count > 0 {
            return Err(refused("a run has no note"));
        }
        let Some(receiving) = self.part.take() else {
            return Ok(());
        };
        if receiving.refused.is_some() {
            return Ok(());
        }
        let digest = note::digest_text(&receiving.list.finish());
        let same = digest == note.digest && receiving.runs == note.runs;
        if !same && !receiving.incomplete {
            self.report.fail(Failure {
                experiment_id: receiving.part.id().to_owned(),
                run_id: None,
                file: None,
                reason: format!(
                    "what came has digest {digest} and {} runs, what was sent {} and {}",
                    receiving.runs, note.digest, note.runs
                ),
            });
        }
        self.report.digests.push(ExperimentDigest {
            experiment_id: receiving.part.id().to_owned(),
            runs: receiving.runs,
            digest,
        });
        Ok(())
    }

    /// Puts a unit in place that came whole.
    fn end_unit(&mut self, note: note::UnitNote) -> Result<()> {
        let mut unit = std::mem::take(&mut self.unit);
        let runs = u64::from(note.run.is_some());
        let Some(receiving) = &mut self.part else {
            return Ok(());
        };
        if let Some(run) = &note.run {
            if receiving.last_run.as_ref().is_some_and(|last| last >= run) {
                return Err(refused(&format!(
                    "run {:?} comes twice, or is not in its place",
                    run.as_str()
                )));
            }
            receiving.last_run = Some(run.clone());
        } else if let Some(file) = unit.files.last() {
            let name = file.path.to_string();
            if name <= receiving.last_other {
                return Err(refused(&format!(
                    "{name:?} comes twice, or is not in its place"
                )));
            }
            receiving.last_other = name;
        }
        if receiving.refused.is_some() {
            self.report.failed.add(runs, unit.count, unit.bytes);
            return Ok(());
        }
        let mut reason = note.torn.clone().or_else(|| unit.broken.take());
        let mut digests = Vec::new();
        if reason.is_none() {
            for file in &unit.files {
                if !belongs(&file.path, note.run.as_ref()) {
                    return Err(refused(&format!(
                        "{} does not belong to the unit that it came with",
                        file.path
                    )));
                }
            }
            let files = unit.files.iter();
            match files.map(|file| file.digest(&self.scope)).collect() {
                Ok(found) => digests = found,
                Err(error) if is_fatal(&error) => {
                    unit.discard(&self.scope);
                    return Err(error);
                }
                Err(error) => reason = Some(error.to_string()),
            }
        }
        if reason.is_none() {
            let mut list = List::default();
            for (file, digest) in unit.files.iter().zip(&digests) {
                list.add(digest, &file.path.to_string());
            }
            let digest = list.finish();
            if note::digest_text(&digest) == note.digest {
                match &note.run {
                    Some(run) => {
                        receiving.list.add(&digest, run.as_str());
                        receiving.runs += 1;
                    }
                    None => {
                        for (file, digest) in unit.files.iter().zip(&digests) {
                            receiving.list.add(digest, &file.path.to_string());
                        }
                    }
                }
            } else {
                reason = Some("what came is not what was sent: its digest differs".to_owned());
            }
        }
        receiving.incomplete |= reason.is_some();
        let id = receiving.part.id().to_owned();
        let mut settled = None;
        if reason.is_none() {
            match self.settle(&unit, note.run.as_ref(), note.faults.is_empty()) {
                Ok(outcome) => settled = Some(outcome),
                Err(error) if is_fatal(&error) => {
                    unit.discard(&self.scope);
                    return Err(error);
                }
                Err(error) => reason = Some(error.to_string()),
            }
        }
        let fault = |file: Option<String>, reason: String| Failure {
            experiment_id: id.clone(),
            run_id: note.run.as_ref().map(|run| run.as_str().to_owned()),
            file,
            reason,
        };
        for (file, reason) in &note.faults {
            self.report.fail(fault(Some(file.clone()), reason.clone()));
            self.report.failed.add(0, 1, 0);
        }
        if note.more_faults > 0 {
            let reason = note::more_faults(note.more_faults);
            self.report.fail(fault(None, reason));
            self.report.failed.add(0, note.more_faults, 0);
        }
        match settled {
            Some(outcome) => {
                self.report
                    .copied
                    .add(0, outcome.copied.0, outcome.copied.1);
                self.report
                    .skipped
                    .add(0, outcome.skipped.0, outcome.skipped.1);
                self.report.removed += outcome.removed;
                let counts = if !note.faults.is_empty() {
                    &mut self.report.failed
                } else if outcome.copied.0 + outcome.removed > 0 {
                    &mut self.report.copied
                } else {
                    &mut self.report.skipped
                };
                counts.add(runs, 0, 0);
            }
            None => {
                let file = unit.files.last().filter(|_| note.run.is_none());
                let file = file.map(|file| file.path.to_string());
                self.report.fail(fault(file, reason.unwrap_or_default()));
                self.report.failed.add(runs, unit.count, unit.bytes);
            }
        }
        unit.discard(&self.scope);
        Ok(())
    }

    /// Compares a unit with what is there, and writes what is to be written.
    ///
    /// `whole` says that nothing of the unit is missing.
    fn settle(&mut self, unit: &Unit, run: Option<&RunId>, whole: bool) -> Result<Outcome> {
        let rewritten = self.rewritten(unit);
        let contents: Vec<Option<&[u8]>> = unit
            .files
            .iter()
            .zip(&rewritten)
            .map(|(file, rewritten)| match (rewritten, &file.content) {
                (Some(content), _) => Some(content.as_slice()),
                (None, Content::Memory(content)) => Some(content.as_slice()),
                _ => None,
            })
            .collect();
        // As soon as anything is to be written, all is looked at again under the lock.
        let until_write = !self.options.dry_run;
        let plan = self.plan(unit, run, &contents, until_write)?;
        let writes = plan.iter().any(|plan| matches!(plan, Plan::Write));
        let extra = self.extra(unit, run, whole)?;
        let mut outcome = Outcome {
            removed: extra.len() as u64,
            ..Outcome::default()
        };
        if (writes || !extra.is_empty()) && !self.options.dry_run {
            self.scope.prepare_write()?;
            self.mark()?;
            let held = match run {
                Some(run) => self.scope.lock_run(run)?,
                None => self
                    .scope
                    .lock_named(crate::manifests::LOCK, "the list of manifests")?,
            };
            // What was seen before the lock was taken may be another's half-done work.
            let plan = self.plan(unit, run, &contents, false)?;
            let extra = self.extra(unit, run, whole)?;
            self.write_all(&held, unit, &contents, &plan, &extra)?;
            outcome.removed = extra.len() as u64;
            count(&mut outcome, unit, &plan);
            return Ok(outcome);
        }
        count(&mut outcome, unit, &plan);
        Ok(outcome)
    }

    /// Lists what this store has of a run that is to be replaced and that did not come.
    ///
    /// Of a run without a record, and of one of which the source could not read all, what came is only a part.
    fn extra(&self, unit: &Unit, run: Option<&RunId>, whole: bool) -> Result<Vec<StorePath>> {
        let (Existing::Overwrite, Some(run), Some(receiving), true) =
            (self.options.existing, run, &self.part, whole)
        else {
            return Ok(Vec::new());
        };
        let came: BTreeSet<&StorePath> = unit.files.iter().map(|file| &file.path).collect();
        if !came.contains(&layout::run_record(run)) {
            return Ok(Vec::new());
        }
        let kinds = receiving.part.kinds;
        let (found, _) = self.scope.belongings(run)?;
        let comes = |path: &StorePath| match path.top() {
            Top::Artifacts => kinds.artifacts,
            Top::Derived => kinds.derived,
            Top::Logs => kinds.logs,
            Top::Results => kinds.results,
            _ => true,
        };
        let extra = found.files.into_iter();
        Ok(extra
            .filter(|path| comes(path) && !came.contains(path))
            .filter(|path| !layout::is_stage_name(path.file_name()))
            .collect())
    }

    /// Returns the contents in which the places of artifacts are other ones here.
    fn rewritten(&self, unit: &Unit) -> Vec<Option<Vec<u8>>> {
        let rewrite = |file: &Incoming| {
            let Content::Memory(content) = &file.content else {
                return None;
            };
            if !self.options.rewrite_uris || !digest::names_places(&file.path) {
                return None;
            }
            let mut object = codec::parse_object("", content).ok()?;
            let Some(Value::Array(artifacts)) = object.get_mut("artifacts") else {
                return None;
            };
            let mut changed = false;
            for artifact in artifacts {
                let Value::Object(artifact) = artifact else {
                    continue;
                };
                let uri = artifact.get("uri").and_then(Value::as_str);
                let Some((_, run, file)) = uri.and_then(layout::artifact_tail) else {
                    continue;
                };
                let Ok(path) = layout::artifact_file(&run, file) else {
                    continue;
                };
                artifact.insert("uri", self.scope.outside(&path));
                changed = true;
            }
            changed.then(|| codec::print(&Value::Object(object)).into_bytes())
        };
        unit.files.iter().map(rewrite).collect()
    }

    /// Decides what is to be done with each file of a unit; `until_write`: up to the first that is to be written.
    fn plan(
        &self,
        unit: &Unit,
        run: Option<&RunId>,
        contents: &[Option<&[u8]>],
        until_write: bool,
    ) -> Result<Vec<Plan>> {
        if self.options.existing == Existing::Skip
            && let Some(run) = run
            && self.scope.tree.is_file(&layout::run_record(run))?
            && !self.is_own(unit, run, contents)?
        {
            return Ok(unit.files.iter().map(|_| Plan::Keep).collect());
        }
        let mut plans = Vec::with_capacity(unit.files.len());
        for (file, content) in unit.files.iter().zip(contents) {
            let plan = match self.there(file, *content)? {
                There::Same => Plan::Keep,
                There::Nothing | There::Less => Plan::Write,
                There::Other => match self.options.existing {
                    Existing::Overwrite => Plan::Write,
                    Existing::Skip => Plan::Keep,
                    Existing::Fail => {
                        let path = self.scope.tree.path(&file.path);
                        return Err(Error::Conflict {
                            current: None,
                            message: format!(
                                "the destination has {path} with another content; nothing of this {} was copied: pass --overwrite to replace it, or --skip-existing to keep it",
                                if run.is_some() { "run" } else { "file" }
                            ),
                        });
                    }
                },
            };
            let write = matches!(plan, Plan::Write);
            plans.push(plan);
            if write && until_write {
                break;
            }
        }
        Ok(plans)
    }

    /// Says whether a run's record may be there since an earlier copy was ended: the rest of it may be missing then.
    fn is_own(&self, unit: &Unit, run: &RunId, contents: &[Option<&[u8]>]) -> Result<bool> {
        if !self.unfinished {
            return Ok(false);
        }
        let record = layout::run_record(run);
        let mut files = unit.files.iter().zip(contents);
        match files.find(|(file, _)| file.path == record) {
            Some((file, content)) => Ok(!matches!(self.there(file, *content)?, There::Other)),
            None => Ok(false),
        }
    }

    /// Looks at what is in the place of a file.
    fn there(&self, file: &Incoming, content: Option<&[u8]>) -> Result<There> {
        let tree = &self.scope.tree;
        let Some(stat) = tree.stat(&file.path)? else {
            return Ok(There::Nothing);
        };
        if stat.kind != Kind::File {
            return Err(Error::AlreadyExists(format!(
                "{} should be a file and is not; move it away",
                tree.path(&file.path)
            )));
        }
        if let Content::Same(_, seen, _) = &file.content {
            if *seen == stat {
                return Ok(There::Same);
            }
            return Err(Error::Conflict {
                current: None,
                message: format!(
                    "{} was changed by somebody else meanwhile; run the same command again",
                    tree.path(&file.path)
                ),
            });
        }
        let size = content.map_or(file.size, |content| content.len() as u64);
        if stat.size > size {
            return Ok(There::Other);
        }
        // Only a log goes on from what there is; or anything that a power cut took from an earlier copy.
        let grows = file.path.top() == Top::Logs;
        if stat.size < size && !grows && !self.unfinished {
            return Ok(There::Other);
        }
        let Some((found, _)) = tree.open(&file.path)? else {
            return Ok(There::Nothing);
        };
        let (mut offset, mut equal, mut lost) = (0, true, self.unfinished);
        while equal || lost {
            let piece = tree.read_piece(&file.path, found.as_ref(), offset, MAX_CHUNK)?;
            if piece.is_empty() {
                return Ok(if stat.size == size && equal {
                    There::Same
                } else {
                    There::Less
                });
            }
            let ours = match (content, &file.content) {
                (Some(content), _) => {
                    let at = usize::try_from(offset).unwrap_or(usize::MAX);
                    Cow::Borrowed(content.get(at..).unwrap_or_default())
                }
                (None, Content::Staged(stage, staged, _)) => {
                    Cow::Owned(self.staged(stage, staged.as_ref(), offset, piece.len())?)
                }
                (None, Content::Counted(_, true)) => return Ok(There::Less),
                // A dry run keeps nothing to compare with.
                (None, _) => return Ok(There::Other),
            };
            equal &= ours.starts_with(&piece);
            lost = lost && (equal || is_left_of(&piece, &ours, offset));
            offset += piece.len() as u64;
        }
        Ok(There::Other)
    }

    /// Reads a piece of a stage file.
    fn staged(
        &self,
        stage: &StorePath,
        staged: &dyn File,
        offset: u64,
        length: usize,
    ) -> Result<Vec<u8>> {
        let mut content = Vec::with_capacity(length);
        while content.len() < length {
            let at = offset + content.len() as u64;
            let left = length - content.len();
            let found = self.scope.tree.read_piece(stage, staged, at, left)?;
            if found.is_empty() {
                break;
            }
            content.extend_from_slice(&found);
        }
        Ok(content)
    }

    /// Notes durably that a copy is under way, before the first file is put in place without a sync.
    fn mark(&mut self) -> Result<()> {
        if self.wrote {
            return Ok(());
        }
        self.wrote = true;
        self.lock = self.scope.lock_shared(LOCK, "the store")?;
        // What a database says is compared with the files when they are in place, or when a dead copy is noticed.
        self.scope.disown_database();
        let mark = layout::index(MARK)?;
        if self.scope.options.durability == Durability::Relaxed || self.scope.tree.is_file(&mark)? {
            return Ok(());
        }
        let (file, _) = self.scope.tree.open_to_append(&mark)?;
        file.sync_data()
            .map_err(|reason| Error::io(self.scope.tree.path(&mark), "sync", reason))?;
        self.scope.sync_names(&mark)
    }

    fn write_all(
        &self,
        held: &Held,
        unit: &Unit,
        contents: &[Option<&[u8]>],
        plan: &[Plan],
        extra: &[StorePath],
    ) -> Result<()> {
        if let Some(lock) = &held.lock {
            name_change(lock.as_ref(), self.scope.ports.clock.now());
        }
        let logs = layout::directory(Top::Logs);
        let names: Vec<&str> = unit
            .files
            .iter()
            .zip(plan)
            .filter(|(file, plan)| {
                matches!(plan, Plan::Write) && file.path.parent().as_ref() == Some(&logs)
            })
            .map(|(file, _)| file.path.file_name())
            .collect();
        let gone = extra
            .iter()
            .filter(|path| path.parent().as_ref() == Some(&logs));
        let changes: Vec<LogChange<'_>> = names
            .iter()
            .map(|name| LogChange::Added(name))
            .chain(gone.map(|path| LogChange::Removed(path.file_name())))
            .collect();
        let done = self.scope.changing_logs(&changes, || {
            let files = unit.files.iter().zip(contents).zip(plan);
            for ((file, content), plan) in files {
                if matches!(plan, Plan::Keep) {
                    continue;
                }
                match (content, &file.content) {
                    (Some(content), _) => self.place(&file.path, content)?,
                    (None, Content::Staged(stage, _, _)) => {
                        self.scope.rename_into_place(stage, &file.path)?;
                    }
                    (None, _) => {}
                }
            }
            // The new record is in place and tells of none of them.
            for path in extra {
                self.scope.tree.remove(path)?;
            }
            Ok(())
        });
        let files = unit.files.iter().map(|file| &file.path);
        self.scope.note_files(files.chain(extra));
        done
    }

    /// Puts a small file in place.
    fn place(&self, path: &StorePath, content: &[u8]) -> Result<()> {
        let beside = path.stage(TOKEN);
        let stage = if beside.file_name().len() > crate::names::FILE_LIMIT {
            self.scope.new_staging()?
        } else {
            beside
        };
        let mut written = self.scope.write_stage(&stage, content, false);
        if matches!(&written, Err(Error::Io { code: "exist", .. })) {
            // A copy that was ended left it, and nobody else holds the lock.
            self.scope.tree.remove(&stage)?;
            written = self.scope.write_stage(&stage, content, false);
        }
        let placed = written.and_then(|()| self.scope.rename_into_place(&stage, path));
        if placed.is_err() {
            // The error of the write is what counts.
            drop(self.scope.tree.remove(&stage));
        }
        placed
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let State::Body {
            entry: Entry::File(incoming),
            ..
        } = std::mem::replace(&mut self.state, State::End)
        {
            self.unit.files.push(*incoming);
        }
        let mut unit = std::mem::take(&mut self.unit);
        unit.discard(&self.scope);
    }
}

/// How many files and bytes of a unit were written, and how many were there.
#[derive(Default)]
struct Outcome {
    removed: u64,
    copied: (u64, u64),
    skipped: (u64, u64),
}

fn count(outcome: &mut Outcome, unit: &Unit, plan: &[Plan]) {
    for (file, plan) in unit.files.iter().zip(plan) {
        let counts = match plan {
            Plan::Write => &mut outcome.copied,
            Plan::Keep => &mut outcome.skipped,
        };
        counts.0 += 1;
        counts.1 += file.size;
    }
}

impl Unit {
    /// Removes the stage files that were not renamed away.
    fn discard(&mut self, scope: &Scope) {
        if scope.options.access == Access::ReadOnly {
            return;
        }
        for file in self.files.drain(..) {
            if let Content::Staged(stage, _, _) = file.content {
                // Nobody is left to tell; what stays is swept later.
                drop(scope.tree.remove(&stage));
            }
        }
    }
}

impl Incoming {
    /// Takes the next piece of its content.
    fn append(&mut self, scope: &Scope, options: &ReceiveOptions, piece: &[u8]) -> Result<()> {
        match &mut self.content {
            Content::Memory(content) => content.extend_from_slice(piece),
            Content::Counted(hash, _) => hash.update(piece),
            Content::Staged(stage, file, hash) => {
                file.write(self.seen, piece)
                    .map_err(|reason| Error::io(scope.tree.path(stage), "write", reason))?;
                if let Some(hash) = hash {
                    hash.update(piece);
                }
            }
            Content::Same(file, stat, hash) => {
                let mut known = 0;
                let mut equal = true;
                let mut whole = false;
                while equal && known < piece.len() {
                    let at = self.seen + known as u64;
                    let wanted = piece.len() - known;
                    let found = scope
                        .tree
                        .read_piece(&self.path, file.as_ref(), at, wanted)?;
                    whole = found.is_empty();
                    equal = !whole && piece[known..].starts_with(&found);
                    known += found.len();
                }
                if equal {
                    hash.update(piece);
                } else {
                    let begun = std::mem::take(hash);
                    let mut content = new_content(scope, options, begun)?;
                    if let Content::Counted(_, goes_on) = &mut content {
                        *goes_on = whole;
                    }
                    if let Content::Staged(stage, staged, _) = &content {
                        copy(
                            scope,
                            &self.path,
                            file.as_ref(),
                            stage,
                            staged.as_ref(),
                            self.seen,
                        )?;
                        let now = scope.tree.stat(&self.path)?;
                        if now.as_ref() != Some(stat) {
                            return Err(Error::Conflict {
                                current: None,
                                message: format!(
                                    "{} was changed by somebody else meanwhile; run the same command again",
                                    scope.tree.path(&self.path)
                                ),
                            });
                        }
                    }
                    std::mem::swap(&mut self.content, &mut content);
                    return self.append(scope, options, piece);
                }
            }
        }
        self.seen += piece.len() as u64;
        Ok(())
    }

    /// Returns the digest of its content.
    fn digest(&self, scope: &Scope) -> Result<Digest> {
        Ok(match &self.content {
            Content::Memory(content) => digest::of_file(&self.path, content),
            Content::Staged(stage, file, None) => match scope.tree.digest(stage) {
                Some((_, digest)) => digest,
                None => scope.tree.hash_open(stage, file.as_ref())?.1,
            },
            Content::Same(_, _, hash)
            | Content::Staged(_, _, Some(hash))
            | Content::Counted(hash, _) => hash.clone().finalize().into(),
        })
    }
}

/// Makes a place for a content that is not there yet.
fn new_content(scope: &Scope, options: &ReceiveOptions, begun: Sha256) -> Result<Content> {
    if options.dry_run {
        return Ok(Content::Counted(begun, false));
    }
    scope.prepare_write()?;
    let stage = scope.new_staging()?;
    let file = scope.tree.create(&stage)?;
    Ok(Content::Staged(stage, file, Some(begun)))
}

/// Copies what is known to be the same into a stage file.
fn copy(
    scope: &Scope,
    path: &StorePath,
    from: &dyn File,
    stage: &StorePath,
    to: &dyn File,
    length: u64,
) -> Result<()> {
    let mut offset = 0;
    while offset < length {
        let left = usize::try_from(length - offset).unwrap_or(MAX_CHUNK);
        let piece = scope
            .tree
            .read_piece(path, from, offset, left.min(MAX_CHUNK))?;
        if piece.is_empty() {
            break;
        }
        to.write(offset, &piece)
            .map_err(|reason| Error::io(scope.tree.path(stage), "write", reason))?;
        offset += piece.len() as u64;
    }
    Ok(())
}

/// Says whether a piece of a file is what a power cut can leave of another: each sector that, or zeros.
fn is_left_of(piece: &[u8], whole: &[u8], offset: u64) -> bool {
    let (mut at, mut offset) = (0, offset);
    while at < piece.len() {
        let left = usize::try_from(SECTOR - offset % SECTOR).unwrap_or_default();
        let sector = &piece[at..piece.len().min(at + left)];
        let ours = whole.get(at..at + sector.len());
        if ours != Some(sector) && sector.iter().any(|byte| *byte != 0) {
            return false;
        }
        at += sector.len();
        offset += sector.len() as u64;
    }
    true
}

/// Says whether a file can belong to a run, or to none.
fn belongs(path: &StorePath, run: Option<&RunId>) -> bool {
    let nested = path.rest().split_once('/').map(|(directory, _)| directory);
    let Some(run) = run else {
        return nested.is_none() && matches!(path.top(), Top::Root | Top::Experiments | Top::Logs);
    };
    match path.top() {
        Top::Runs => *path == layout::run_record(run) || *path == layout::done_marker(run),
        Top::Derived => *path == layout::derived(run),
        Top::Artifacts | Top::Results => nested == Some(run.as_str()),
        // Whose a flat log is, its source said; anybody's can be overwritten only with the same name.
        Top::Logs => nested.is_none_or(|directory| directory == run.as_str()),
        _ => false,
    }
}

/// Says whether an error is about the whole store: nothing more can be put in place.
fn is_fatal(error: &Error) -> bool {
    match error {
        Error::Io { code, .. } => matches!(*code, "insufficient-space" | "quota" | "io"),
        Error::ReadOnly(_) => true,
        _ => false,
    }
}
