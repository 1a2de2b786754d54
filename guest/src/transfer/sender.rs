//! The source's side: hands a stream out in pieces.

use super::digest::{self, Digest, List};
use super::inventory::{Belongings, Files, Inventory, Kinds, Place, Stray, files_of, reason};
use super::note::{self, Part, PartNote, UnitNote};
use super::tar;
use super::{ExperimentDigest, Failure, KEPT, MAX_CHUNK, Report, Selection};
use crate::codec;
use crate::error::{Error, NameKind, Result};
use crate::layout::{self, StorePath, Top};
use crate::model::Damage;
use crate::names::{ExperimentId, RunId};
use crate::ports::{File, Kind, Stat};
use crate::query::{Query, QueryText, RecordRow};
use crate::scope::Scope;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, VecDeque, btree_map};
use std::rc::Rc;

/// How often a run is read that somebody changes meanwhile.
const ATTEMPTS: u32 = 5;

/// How far a sender has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Progress {
    /// The runs looked at.
    pub runs: u64,
    /// The runs there are, as far as it is known: experiments are listed when it is their turn.
    pub total: u64,
    /// The bytes handed out.
    pub bytes: u64,
}

/// Hands out a stream. Nothing is changed at the source, and dropping it ends the copy.
pub struct Sender {
    selection: Selection,
    query: Option<Query>,
    scopes: VecDeque<(Part, Rc<Scope>)>,
    current: Option<Sending>,
    /// What is to be handed out next.
    buffer: Vec<u8>,
    parts: u64,
    progress: Progress,
    report: Report,
    damaged: Vec<Damage>,
    state: State,
}

#[derive(PartialEq)]
enum State {
    Fresh,
    Running,
    Ended,
}

/// A part that is being handed out.
struct Sending {
    part: Part,
    scope: Rc<Scope>,
    runs: btree_map::IntoIter<RunId, Belongings>,
    others: std::vec::IntoIter<StorePath>,
    /// What is in the place of something of a run.
    misplaced: BTreeMap<RunId, Vec<Stray>>,
    units: u64,
    sent_runs: u64,
    list: List,
    large: Option<Large>,
}

/// A run with more than is kept in memory: its files are handed out as they are read.
struct Large {
    run: RunId,
    belongings: Belongings,
    /// The files that it has, with what is known of each.
    found: Vec<(StorePath, Stat)>,
    /// How many of them were begun.
    begun: usize,
    open: Option<OpenFile>,
    list: List,
    /// How many files were handed out, and their bytes. They count as what becomes of the run.
    files: (u64, u64),
    note: UnitNote,
}

/// Whether a query selects a run.
enum Choice {
    Yes,
    No,
    /// It cannot be told, for this reason.
    Unknown(String),
}

struct OpenFile {
    path: StorePath,
    stat: Stat,
    file: Box<dyn File>,
    offset: u64,
    hash: Hash,
}

/// The digest of a file that is being handed out.
enum Hash {
    /// The host said it before: it hashes a whole file several times as fast as its pieces are hashed here. Whoever takes the
    /// file hashes what came.
    Known(Digest),
    Counting(Sha256),
}

/// The files of a unit that were read whole, and what is wrong with others.
#[derive(Default)]
struct Read {
    files: Vec<(StorePath, Vec<u8>)>,
    faults: Vec<(String, String)>,
}

impl Sender {
    /// Begins a stream of what is selected in some scopes: the store's own first.
    pub(crate) fn new(
        scopes: Vec<Rc<Scope>>,
        damaged: Vec<Damage>,
        selection: Selection,
    ) -> Result<Self> {
        let now = scopes
            .first()
            .map_or(0, |scope| scope.ports.clock.now() / 1_000);
        let query = if selection.filter.is_empty() {
            None
        } else {
            let text = QueryText {
                filter: &selection.filter,
                ..QueryText::default()
            };
            Some(Query::parse(&text, i64::try_from(now).unwrap_or(i64::MAX))?)
        };
        for id in &selection.experiments {
            ExperimentId::parse(id)?;
        }
        let kinds = Kinds {
            artifacts: selection.artifacts,
            derived: selection.derived,
            results: selection.results,
            logs: selection.logs,
        };
        let mut parts: VecDeque<(Part, Rc<Scope>)> = VecDeque::new();
        for scope in scopes {
            let part = Part {
                directory: match &scope.experiment {
                    None => String::new(),
                    Some(id) => layout::experiment_directory(id)?.file_name().to_owned(),
                },
                experiment: scope.experiment.clone(),
                kinds,
            };
            if parts
                .iter()
                .any(|(other, _)| other.directory == part.directory)
            {
                return Err(Error::Conflict {
                    current: None,
                    message: format!(
                        "two directories of the source are those of experiment {:?}; one of them is {}: move it away, or export each by itself",
                        part.id(),
                        scope.outside
                    ),
                });
            }
            let wanted = selection.experiments.is_empty()
                || selection.experiments.iter().any(|id| id == part.id());
            if wanted {
                parts.push_back((part, scope));
            }
        }
        for id in &selection.experiments {
            if !parts.iter().any(|(part, _)| part.id() == id) {
                return Err(Error::NotFound {
                    kind: NameKind::Experiment,
                    name: id.clone(),
                    message: format!("the source has no experiment {id:?}"),
                });
            }
        }
        Ok(Self {
            selection,
            query,
            scopes: parts,
            current: None,
            buffer: Vec::new(),
            parts: 0,
            progress: Progress::default(),
            report: Report::default(),
            damaged,
            state: State::Fresh,
        })
    }

    /// Returns the next piece of the stream: at most 256 KiB. An empty one is the end.
    ///
    /// # Errors
    /// `io` if a directory of the source cannot be listed. What is wrong with a single file is told in the stream
    /// and ends nothing.
    pub fn next_chunk(&mut self) -> Result<Vec<u8>> {
        while self.buffer.len() < MAX_CHUNK && self.state != State::Ended {
            self.advance()?;
        }
        let rest = self.buffer.split_off(self.buffer.len().min(MAX_CHUNK));
        let chunk = std::mem::replace(&mut self.buffer, rest);
        self.progress.bytes += chunk.len() as u64;
        Ok(chunk)
    }

    /// Returns how far it has come.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// Returns what was handed out: as copied, or as failed and why, with the digests of whole experiments.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Returns directories of the collection that could not be told to be an experiment's.
    #[must_use]
    pub fn damaged(&self) -> &[Damage] {
        &self.damaged
    }

    /// Puts something into the buffer.
    fn advance(&mut self) -> Result<()> {
        if self.state == State::Fresh {
            push_file(&mut self.buffer, note::HEAD, note::head().as_bytes());
            self.state = State::Running;
        }
        let Some(mut sending) = self.current.take() else {
            return self.begin_part();
        };
        if let Some(large) = sending.large.take() {
            self.advance_large(&mut sending, large)?;
            self.current = Some(sending);
            return Ok(());
        }
        if let Some((run, belongings)) = sending.runs.next() {
            self.progress.runs += 1;
            match self.selects(&sending.scope, &run)? {
                Choice::Yes => self.send_run(&mut sending, run, &belongings)?,
                Choice::No => {}
                Choice::Unknown(reason) => {
                    let read = Read::default();
                    self.send_read(&mut sending, Some(run), read, Some(reason));
                }
            }
            self.current = Some(sending);
            return Ok(());
        }
        if let Some(path) = sending.others.next() {
            self.send_other(&mut sending, path)?;
            self.current = Some(sending);
            return Ok(());
        }
        let digest = note::digest_text(&sending.list.finish());
        let text = note::end(&PartNote {
            runs: sending.sent_runs,
            digest: digest.clone(),
        });
        push_file(
            &mut self.buffer,
            &note::end_path(&sending.part),
            text.as_bytes(),
        );
        self.report.digests.push(ExperimentDigest {
            experiment_id: sending.part.id().to_owned(),
            runs: sending.sent_runs,
            digest,
        });
        Ok(())
    }

    fn begin_part(&mut self) -> Result<()> {
        let Some((part, scope)) = self.scopes.pop_front() else {
            push_file(
                &mut self.buffer,
                note::TAIL,
                note::tail(self.parts).as_bytes(),
            );
            tar::push_end(&mut self.buffer);
            self.state = State::Ended;
            return Ok(());
        };
        let mut part = part;
        let inventory = Inventory::take(&scope)?;
        let (mut runs, mut others) = (inventory.runs, inventory.others);
        let loose_logs = self.selection.logs && self.query.is_none();
        others.retain(|path| path.top() != Top::Logs || loose_logs);
        let mut misplaced: BTreeMap<RunId, Vec<Stray>> = BTreeMap::new();
        let mut faults = Vec::new();
        for stray in inventory.strays {
            let top = stray.path.top();
            match &stray.place {
                Place::Run(run) if comes(part.kinds, top) => {
                    runs.entry(run.clone()).or_default();
                    misplaced.entry(run.clone()).or_default().push(stray);
                }
                Place::File if top != Top::Logs || loose_logs => faults.push(stray),
                Place::Directory if top != Top::Locks && comes(part.kinds, top) => {
                    faults.push(stray);
                }
                _ => {}
            }
        }
        for top in inventory.unlisted {
            match top {
                // Nobody knows which runs there are, and none would be whole.
                Top::Runs => runs.clear(),
                Top::Artifacts => part.kinds.artifacts = false,
                Top::Derived => part.kinds.derived = false,
                Top::Results => part.kinds.results = false,
                Top::Logs => part.kinds.logs = false,
                _ => {}
            }
        }
        // A collection's own directory counts only if there is something in it.
        if part.experiment.is_none() && runs.is_empty() && others.is_empty() && faults.is_empty() {
            return Ok(());
        }
        self.parts += 1;
        self.progress.total += runs.len() as u64;
        push_file(
            &mut self.buffer,
            &note::begin_path(&part),
            note::begin(&part).as_bytes(),
        );
        let mut sending = Sending {
            part,
            scope,
            runs: runs.into_iter(),
            others: others.into_iter(),
            misplaced,
            units: 0,
            sent_runs: 0,
            list: List::default(),
            large: None,
        };
        if !faults.is_empty() {
            let read = Read {
                faults: faults.iter().map(fault).collect(),
                ..Read::default()
            };
            self.send_read(&mut sending, None, read, None);
        }
        self.current = Some(sending);
        Ok(())
    }

    /// Says whether the query selects a run.
    fn selects(&self, scope: &Scope, run: &RunId) -> Result<Choice> {
        let Some(query) = &self.query else {
            return Ok(Choice::Yes);
        };
        let content = match scope.record_content(run) {
            Ok(Some(content)) => content,
            Ok(None) => return Ok(Choice::No),
            Err(error) => return unknown(error),
        };
        let derived = match scope.derived_content(run) {
            Ok(derived) => derived,
            Err(error) => return unknown(error),
        };
        let record = match codec::parse_object(&layout::run_record(run).to_string(), &content) {
            Ok(record) => record,
            Err(error) => return unknown(error),
        };
        let derived = derived
            .as_deref()
            .and_then(|content| codec::parse_object("", content).ok());
        let selected = query.matches(&RecordRow::new(&record, derived.as_ref()));
        Ok(if selected { Choice::Yes } else { Choice::No })
    }

    fn send_run(
        &mut self,
        sending: &mut Sending,
        run: RunId,
        belongings: &Belongings,
    ) -> Result<()> {
        let mut torn = None;
        let belongings = belongings.at_most();
        let misplaced = sending.misplaced.remove(&run).unwrap_or_default();
        let list = |scope: &Scope| -> Result<Files> {
            let mut found = files_of(scope, &run, &belongings, sending.part.kinds)?;
            for stray in &misplaced {
                let told = found.faults.iter().any(|fault| fault.path == stray.path);
                // A file in the place of a directory is not told by the listing of that.
                if !told && scope.tree.is_file(&stray.path)? {
                    found.faults.push(stray.clone());
                }
            }
            Ok(found)
        };
        for _ in 0..ATTEMPTS {
            let found = list(&sending.scope)?;
            let size: u64 = found.files.iter().map(|(_, stat)| stat.size).sum();
            if found.files.is_empty() && found.faults.is_empty() {
                // It was deleted since the directories were listed, or nothing of it is wanted.
                return Ok(());
            }
            if size > KEPT {
                sending.large = Some(begin_large(run, belongings, found));
                return Ok(());
            }
            match read_whole(&sending.scope, &found, || list(&sending.scope))? {
                Ok(read) => {
                    self.send_read(sending, Some(run), read, None);
                    return Ok(());
                }
                Err(path) => torn = Some(path),
            }
        }
        let torn = torn.map(|path| still_changing(&path));
        self.send_read(sending, Some(run), Read::default(), torn);
        Ok(())
    }

    fn send_other(&mut self, sending: &mut Sending, path: StorePath) -> Result<()> {
        let stat = match sending.scope.tree.stat(&path) {
            Ok(Some(stat)) if stat.kind == Kind::File => stat,
            // It vanished, or something else took its place.
            Ok(_) => return Ok(()),
            Err(error) => {
                let read = Read {
                    files: Vec::new(),
                    faults: vec![(path.to_string(), reason(error)?)],
                };
                self.send_read(sending, None, read, None);
                return Ok(());
            }
        };
        if stat.size > codec::MAX_DOCUMENT {
            let read = Read {
                files: Vec::new(),
                faults: vec![(
                    path.to_string(),
                    format!(
                        "it has {} bytes; a file that belongs to no run is copied up to {}",
                        stat.size,
                        codec::MAX_DOCUMENT
                    ),
                )],
            };
            self.send_read(sending, None, read, None);
            return Ok(());
        }
        for _ in 0..ATTEMPTS {
            let scope = &sending.scope;
            let look = || {
                let stat = scope.tree.stat(&path)?;
                Ok(Files {
                    files: stat.map(|stat| (path.clone(), stat)).into_iter().collect(),
                    ..Files::default()
                })
            };
            let found = look()?;
            if found.files.is_empty() {
                return Ok(());
            }
            if let Ok(read) = read_whole(scope, &found, look)? {
                self.send_read(sending, None, read, None);
                return Ok(());
            }
        }
        let read = Read {
            files: Vec::new(),
            faults: vec![(path.to_string(), still_changing(&path))],
        };
        self.send_read(sending, None, read, None);
        Ok(())
    }

    /// Hands out a unit that was read whole.
    fn send_read(
        &mut self,
        sending: &mut Sending,
        run: Option<RunId>,
        read: Read,
        torn: Option<String>,
    ) {
        let mut list = List::default();
        let mut files = (0, 0);
        for (path, content) in &read.files {
            let name = path.to_string();
            push_file(&mut self.buffer, &sending.part.path(&name), content);
            let digest = digest::of_file(path, content);
            list.add(&digest, &name);
            files.0 += 1;
            files.1 += content.len() as u64;
            if run.is_none() {
                sending.list.add(&digest, &name);
            }
        }
        let digest = list.finish();
        let note = UnitNote {
            run,
            digest: note::digest_text(&digest),
            torn,
            faults: read.faults,
            more_faults: 0,
        };
        self.send_note(sending, note, &digest, files);
    }

    fn send_note(
        &mut self,
        sending: &mut Sending,
        mut note: UnitNote,
        digest: &Digest,
        files: (u64, u64),
    ) {
        let more = note.faults.len().saturating_sub(note::MAX_FAULTS);
        note.faults.truncate(note::MAX_FAULTS);
        note.more_faults = more as u64;
        if let Some(run) = &note.run
            && note.torn.is_none()
        {
            sending.list.add(digest, run.as_str());
            sending.sent_runs += 1;
        }
        let failure = |file: Option<String>, reason: &str| Failure {
            experiment_id: sending.part.id().to_owned(),
            run_id: note.run.as_ref().map(|run| run.as_str().to_owned()),
            file,
            reason: reason.to_owned(),
        };
        for (file, reason) in &note.faults {
            self.report.failed.add(0, 1, 0);
            self.report.fail(failure(Some(file.clone()), reason));
        }
        if note.more_faults > 0 {
            self.report.failed.add(0, note.more_faults, 0);
            let reason = note::more_faults(note.more_faults);
            self.report.fail(failure(None, &reason));
        }
        if let Some(torn) = &note.torn {
            self.report.fail(failure(None, torn));
        }
        // Nobody takes a file of a run that is torn.
        let counts = match note.torn {
            Some(_) => &mut self.report.failed,
            None => &mut self.report.copied,
        };
        counts.add(0, files.0, files.1);
        let runs = u64::from(note.run.is_some());
        if note.torn.is_some() || !note.faults.is_empty() {
            self.report.failed.add(runs, 0, 0);
        } else {
            self.report.copied.add(runs, 0, 0);
        }
        let path = note::unit_path(&sending.part, sending.units);
        sending.units += 1;
        push_file(&mut self.buffer, &path, note::unit(&note).as_bytes());
    }

    /// Hands out the next piece of a large run.
    fn advance_large(&mut self, sending: &mut Sending, mut large: Large) -> Result<()> {
        if let Some(mut open) = large.open.take() {
            let left = open.stat.size - open.offset;
            if left > 0 {
                let wanted = usize::try_from(left).unwrap_or(MAX_CHUNK).min(MAX_CHUNK);
                let scope = &sending.scope;
                let piece =
                    match scope
                        .tree
                        .read_piece(&open.path, open.file.as_ref(), open.offset, wanted)
                    {
                        Ok(piece) => piece,
                        Err(error) => {
                            large.note.torn.get_or_insert(reason(error)?);
                            Vec::new()
                        }
                    };
                let mut piece = piece;
                if piece.is_empty() {
                    // It became shorter. The stream said how long it is, so it is filled up, and not used.
                    large
                        .note
                        .torn
                        .get_or_insert_with(|| still_changing(&open.path));
                    piece = vec![0; wanted];
                }
                if let Hash::Counting(hash) = &mut open.hash {
                    hash.update(&piece);
                }
                open.offset += piece.len() as u64;
                self.buffer.extend_from_slice(&piece);
                large.open = Some(open);
            } else {
                tar::push_padding(&mut self.buffer, open.stat.size);
                let digest = match open.hash {
                    Hash::Known(digest) => digest,
                    Hash::Counting(hash) => hash.finalize().into(),
                };
                large.list.add(&digest, &open.path.to_string());
                large.files.0 += 1;
                large.files.1 += open.stat.size;
            }
            sending.large = Some(large);
            return Ok(());
        }
        let Some((path, stat)) = large.found.get(large.begun).cloned() else {
            let kinds = sending.part.kinds;
            let now = files_of(&sending.scope, &large.run, &large.belongings, kinds)?;
            if let Some(path) = difference(&large.found, &now.files) {
                large.note.torn.get_or_insert_with(|| still_changing(&path));
            }
            let digest = large.list.finish();
            large.note.run = Some(large.run);
            large.note.digest = note::digest_text(&digest);
            self.send_note(sending, large.note, &digest, large.files);
            return Ok(());
        };
        large.begun += 1;
        if digest::names_places(&path) && stat.size <= codec::MAX_DOCUMENT {
            let name = path.to_string();
            match sending.scope.tree.read(&path, codec::MAX_DOCUMENT) {
                Ok(Some(content)) => {
                    push_file(&mut self.buffer, &sending.part.path(&name), &content);
                    large.list.add(&digest::of_file(&path, &content), &name);
                    large.files.0 += 1;
                    large.files.1 += content.len() as u64;
                }
                Ok(None) => {
                    large.note.torn.get_or_insert_with(|| still_changing(&path));
                }
                Err(error) => large.note.faults.push((name, reason(error)?)),
            }
        } else {
            match sending.scope.tree.open(&path) {
                Ok(Some((file, stat))) => {
                    let name = sending.part.path(&path.to_string());
                    tar::push_header(&mut self.buffer, &name, stat.size);
                    let known = sending.scope.tree.digest(&path);
                    let known = known.filter(|(seen, _)| seen.size == stat.size);
                    let hash = match known {
                        Some((_, digest)) => Hash::Known(digest),
                        None => Hash::Counting(Sha256::new()),
                    };
                    large.open = Some(OpenFile {
                        path,
                        stat,
                        file,
                        offset: 0,
                        hash,
                    });
                }
                Ok(None) => {
                    large.note.torn.get_or_insert_with(|| still_changing(&path));
                }
                Err(error) => large.note.faults.push((path.to_string(), reason(error)?)),
            }
        }
        sending.large = Some(large);
        Ok(())
    }
}

fn begin_large(run: RunId, belongings: Belongings, found: Files) -> Large {
    let faults = &found.faults;
    Large {
        run,
        belongings,
        found: found.files,
        begun: 0,
        open: None,
        list: List::default(),
        files: (0, 0),
        note: UnitNote {
            run: None,
            digest: String::new(),
            torn: None,
            faults: faults.iter().map(fault).collect(),
            more_faults: 0,
        },
    }
}

fn fault(stray: &Stray) -> (String, String) {
    let path = stray.path.to_string();
    // The directory of the experiment itself has no name in it.
    let path = if path.is_empty() { ".".into() } else { path };
    (path, stray.reason.clone())
}

/// Says whether files of a directory come.
fn comes(kinds: Kinds, top: Top) -> bool {
    match top {
        Top::Artifacts => kinds.artifacts,
        Top::Derived => kinds.derived,
        Top::Results => kinds.results,
        Top::Logs => kinds.logs,
        _ => true,
    }
}

/// Tells why nobody knows whether a run is selected.
fn unknown(error: Error) -> Result<Choice> {
    Ok(Choice::Unknown(format!(
        "it cannot be told whether it is selected: {}",
        reason(error)?
    )))
}

fn still_changing(path: &StorePath) -> String {
    format!(
        "{path} was changed while it was read, again and again; run the same command again later"
    )
}

/// Appends a whole entry.
fn push_file(buffer: &mut Vec<u8>, path: &str, content: &[u8]) {
    tar::push_header(buffer, path, content.len() as u64);
    buffer.extend_from_slice(content);
    tar::push_padding(buffer, content.len() as u64);
}

/// Names a file that is not what it was when the files were listed before, or that came or went since.
///
/// A log may have grown: what was read is what it was then.
fn difference(before: &[(StorePath, Stat)], now: &[(StorePath, Stat)]) -> Option<StorePath> {
    let mut now = now.iter();
    for (path, stat) in before {
        match now.next() {
            Some((same, _)) if same != path => return Some(path.min(same).clone()),
            Some((_, found)) if found == stat => {}
            Some((_, found)) if path.top() == Top::Logs && found.size >= stat.size => {}
            _ => return Some(path.clone()),
        }
    }
    now.next().map(|(path, _)| path.clone())
}

/// Reads files whole, or names one that was changed meanwhile.
///
/// They are listed again afterwards: if nothing differs, what was read is what there was at one moment.
fn read_whole(
    scope: &Scope,
    found: &Files,
    again: impl FnOnce() -> Result<Files>,
) -> Result<std::result::Result<Read, StorePath>> {
    let mut read = Read {
        files: Vec::with_capacity(found.files.len()),
        faults: found.faults.iter().map(fault).collect(),
    };
    for (path, stat) in &found.files {
        let limit = stat.size.saturating_add(KEPT).max(codec::MAX_DOCUMENT);
        match scope.tree.read(path, limit) {
            Ok(Some(content)) => read.files.push((path.clone(), content)),
            Ok(None) => return Ok(Err(path.clone())),
            Err(error) => read.faults.push((path.to_string(), reason(error)?)),
        }
    }
    Ok(match difference(&found.files, &again()?.files) {
        Some(path) => Err(path),
        None => Ok(read),
    })
}
