//! The file in which writers note which runs they changed, so that a query need not look at all files.
//!
//! A note names the runs of one call, and for each of the two directories its stamp just before the call's first
//! change and just after the last one. The stamp after is one that the writer gave the directory itself, to the
//! nanosecond, so that whatever anyone changes later gives it another. If notes lead from the stamp that the index
//! knows to the one that the directory has, all that changed was changed in the time of one of them. Where they do
//! not (a writer that was killed, a note that is torn, another program), the index looks at all names.
//!
//! Other writers may change something in that time, too, and note it later, or without stamps. So whoever reads the
//! notes reads all of them, and a call returns only when its note is where a reader will find it:
//!
//! * The note is in the file that has the name now, and if that was begun anew meanwhile, also in the new one. Whoever
//!   begins it anew takes over what was noted since it last read.
//! * If it cannot be written, the file is removed, and the directories get new stamps: then everybody looks at all
//!   names.
//! * What a writer that was killed had not noted is noted by whoever recovers the store.
//!
//! So no note is ever needed, and none is synced.

use super::bytes::{Reader, put_text, put_u32, put_u64, small};
use super::{Doubt, Stamp, TOPS, stamp};
use crate::commit::{Call, Change};
use crate::error::Result;
use crate::layout::{self, StorePath, Top};
use crate::names::RunId;
use crate::ports::{File, Kind};
use crate::scope::Scope;
use crate::tree::ATTEMPTS;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

/// How the file begins; a number that tells it from other ones follows.
pub(super) const MAGIC: &[u8; 8] = b"mlabchg1";

/// The bytes before the first note.
pub(super) const HEADER: u64 = 16;

/// The most bytes of notes that are read. Beyond, looking at all names is no more work.
const MAX_NOTES: u64 = 4 << 20;

/// How often all notes are gone through for what they lead to.
const PASSES: usize = 4;

/// The writer's side.
#[derive(Default)]
pub(crate) struct ChangeLog {
    file: RefCell<Option<Box<dyn File>>>,
    /// Whether it was looked for before a change; later it is found after one.
    sought: Cell<bool>,
    /// How many runs this store changed.
    pub(super) changed: Cell<usize>,
}

/// What a call is about to change.
pub(crate) struct Watch {
    touched: [bool; 2],
    /// What the directories were like before, if that is of use.
    before: [Option<Stamp>; 2],
    runs: Vec<String>,
}

/// Where a directory went from, and where to.
pub(super) type Move = Option<(Stamp, Stamp)>;

/// One note.
pub(super) struct Note {
    pub(super) moves: [Move; 2],
    pub(super) runs: Vec<RunId>,
}

/// Returns the path that a change is about.
fn path_of<'c>(change: &'c Change<'_>) -> &'c StorePath {
    match change {
        Change::Put { path, .. } | Change::Remove { path, .. } => path,
    }
}

impl Scope {
    /// Looks at the directories that calls are about to change; none if they change none of both.
    pub(crate) fn watch(&self, calls: &[Call<'_>]) -> Option<Watch> {
        let mut touched = [false; 2];
        let mut runs = Vec::new();
        for change in calls.iter().flat_map(|call| &call.changes) {
            let path = path_of(change);
            let Some(which) = TOPS.iter().position(|top| *top == path.top()) else {
                continue;
            };
            touched[which] = true;
            if let Some(run) = layout::run_id_of_record(path.file_name()) {
                runs.push(run.as_str().to_owned());
            }
        }
        if touched == [false; 2] {
            return None;
        }
        let log = &self.index.log;
        log.changed.set(log.changed.get() + runs.len());
        if !log.sought.replace(true) {
            *log.file.borrow_mut() = self.notes_to_write().ok().flatten();
        }
        let mut before = [None; 2];
        // Without a file of notes, nobody asks.
        if log.file.borrow().is_some() {
            for ((top, touched), before) in TOPS.into_iter().zip(touched).zip(&mut before) {
                if touched {
                    *before = stamp(self, top).ok();
                }
            }
        }
        Some(Watch {
            touched,
            before,
            runs,
        })
    }

    /// Notes what calls changed.
    pub(crate) fn note(&self, watch: Option<Watch>) {
        let Some(watch) = watch else {
            return;
        };
        let mut moves = [None; 2];
        for ((top, before), moved) in TOPS.into_iter().zip(watch.before).zip(&mut moves) {
            *moved = before.and_then(|before| Some((before, self.give_stamp(top)?)));
        }
        self.add_note(moves, watch.touched, &watch.runs);
    }

    /// Notes that files were changed in some other way than by calls.
    pub(crate) fn note_files<'p>(&self, paths: impl Iterator<Item = &'p StorePath>) {
        let paths = paths.filter(|path| TOPS.contains(&path.top()));
        self.note_runs(paths.filter_map(|path| layout::run_id_of_record(path.file_name())));
    }

    /// Notes that something of runs was changed in some other way than by calls.
    pub(crate) fn note_runs(&self, runs: impl Iterator<Item = RunId>) {
        let runs: Vec<String> = runs.map(|run| run.as_str().to_owned()).collect();
        if !runs.is_empty() {
            self.add_note([None; 2], [true; 2], &runs);
        }
    }

    /// Gives a directory a stamp of its own; none if somebody was faster, or the file system keeps no such times.
    fn give_stamp(&self, top: Top) -> Option<Stamp> {
        let now = self.ports.clock.now();
        if !self.tree.set_modified(&layout::directory(top), now) {
            return None;
        }
        stamp(self, top).ok().filter(|stamp| stamp.modified == now)
    }

    fn add_note(&self, mut moves: [Move; 2], touched: [bool; 2], runs: &[String]) {
        let mut file = self.index.log.file.borrow_mut();
        for _ in 0..ATTEMPTS {
            if file.is_none() {
                // In a file that was begun since, stamps from before would say too much.
                moves = [None; 2];
                match self.notes_to_write() {
                    Ok(None) => return,
                    Ok(found) => *file = found,
                    Err(_) => break,
                }
            }
            let Some(open) = file.as_ref() else {
                break;
            };
            if open.append(&encode(moves, runs)).is_err() {
                break;
            }
            match open.stat() {
                Ok(stat) if stat.links > 0 => return,
                Ok(_) => *file = None,
                Err(_) => break,
            }
        }
        // Nobody may rely on notes that lack this one. The order counts: whoever knows the new stamps saw the file go.
        *file = None;
        drop(self.tree.remove(&layout::index_changes()));
        for (top, touched) in TOPS.into_iter().zip(touched) {
            if touched {
                self.give_stamp(top);
            }
        }
    }

    /// Opens the file of notes to write, if there is one.
    fn notes_to_write(&self) -> Result<Option<Box<dyn File>>> {
        let path = layout::index_changes();
        let there = self.tree.stat(&path)?;
        if there.is_none_or(|stat| stat.kind != Kind::File || stat.size < HEADER) {
            return Ok(None);
        }
        Ok(Some(self.tree.open_to_append(&path)?.0))
    }

    /// Opens the file of notes; none if there is none that this version knows.
    pub(super) fn open_log(&self) -> Result<Option<OpenLog>> {
        let path = layout::index_changes();
        let opened = match self.tree.open(&path) {
            Ok(opened) => opened,
            // Whatever lies there in its place: there are no notes.
            Err(crate::error::Error::Corrupt { .. }) => None,
            Err(error) => return Err(error),
        };
        let Some((file, stat)) = opened else {
            return Ok(None);
        };
        let header = self.tree.read_piece(&path, file.as_ref(), 0, 16)?;
        let mut reader = Reader(&header);
        let known = reader.take(8).is_ok_and(|magic| magic == MAGIC);
        let id = reader.u64();
        Ok(match id {
            Ok(id) if known => Some(OpenLog {
                file,
                id,
                size: stat.size,
            }),
            _ => None,
        })
    }
}

/// The file of notes.
pub(super) struct OpenLog {
    file: Box<dyn File>,
    pub(super) id: u64,
    pub(super) size: u64,
}

impl OpenLog {
    /// Looks how long it is now, and says whether it still has its name.
    pub(super) fn is_there(&mut self) -> bool {
        match self.file.stat() {
            Ok(stat) => {
                self.size = stat.size;
                stat.links > 0
            }
            Err(_) => false,
        }
    }

    /// Reads the notes from a place to the end.
    ///
    /// # Errors
    /// `Doubt` also if one is torn: whatever comes after it cannot be read.
    pub(super) fn notes(&self, from: u64) -> std::result::Result<Vec<Note>, Doubt> {
        let length = self.size.checked_sub(from).ok_or(Doubt)?;
        if from < HEADER || length > MAX_NOTES {
            return Err(Doubt);
        }
        let mut content = Vec::new();
        while (content.len() as u64) < length {
            let at = from + content.len() as u64;
            let left = usize::try_from(length - content.len() as u64).map_err(|_| Doubt)?;
            let piece = self.file.read(at, left.min(64 * 1024)).map_err(|_| Doubt)?;
            if piece.is_empty() {
                break;
            }
            content.extend_from_slice(&piece);
        }
        if content.len() as u64 != length {
            return Err(Doubt);
        }
        let mut notes = Vec::new();
        let mut reader = Reader(&content);
        while !reader.0.is_empty() {
            notes.push(read_note(&mut reader)?);
        }
        Ok(notes)
    }
}

/// Writes a note.
pub(super) fn encode(moves: [Move; 2], runs: &[String]) -> Vec<u8> {
    let mut payload = Vec::new();
    for moved in moves {
        payload.push(u8::from(moved.is_some()));
        for stamp in moved.iter().flat_map(|(before, after)| [before, after]) {
            put_u64(&mut payload, stamp.modified);
            put_u64(&mut payload, stamp.changed);
        }
    }
    put_u32(&mut payload, small(runs.len()));
    for run in runs {
        put_text(&mut payload, run.as_bytes());
    }
    let mut note = Vec::with_capacity(payload.len() + 8);
    put_u32(&mut note, small(payload.len()));
    put_u32(&mut note, crc32fast::hash(&payload));
    note.extend_from_slice(&payload);
    note
}

fn read_note(reader: &mut Reader<'_>) -> std::result::Result<Note, Doubt> {
    let length = reader.u32()? as usize;
    let check = reader.u32()?;
    let payload = reader.take(length)?;
    if crc32fast::hash(payload) != check {
        return Err(Doubt);
    }
    let mut payload = Reader(payload);
    let mut moves = [None; 2];
    for each in &mut moves {
        if payload.byte()? != 0 {
            let mut stamp = || {
                Ok::<_, Doubt>(Stamp {
                    modified: payload.u64()?,
                    changed: payload.u64()?,
                })
            };
            *each = Some((stamp()?, stamp()?));
        }
    }
    let mut runs = Vec::new();
    for _ in 0..payload.count(4)? {
        runs.push(RunId::parse(payload.text()?).map_err(|_| Doubt)?);
    }
    payload.end()?;
    Ok(Note { moves, runs })
}

/// Says whether notes tell all that changed between two stamps of both directories, and if so, up to which stamps they
/// tell it.
pub(super) fn explained(
    notes: &[Note],
    known: [Stamp; 2],
    found: [Stamp; 2],
) -> Option<[Stamp; 2]> {
    let mut told = found;
    for (which, told) in told.iter_mut().enumerate() {
        let moves = || notes.iter().filter_map(|note| note.moves[which]);
        let mut reached = BTreeSet::from([known[which]]);
        // Notes may come in another order than what they tell of.
        for _ in 0..PASSES {
            if reached.contains(told) {
                break;
            }
            for (before, after) in moves() {
                if reached.contains(&before) {
                    reached.insert(after);
                }
            }
        }
        if !reached.contains(told) {
            return None;
        }
        // What changed after the look at the directory.
        for (before, after) in moves() {
            if before == *told {
                *told = after;
            }
        }
    }
    Some(told)
}
