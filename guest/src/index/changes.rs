//! The file in which writers note which runs they changed, so that a query need not look at all files.
//!
//! A note names the runs of one call, and for each of the two directories its stamp just before the call's first
//! change and just after the last one. The stamp after is one that the writer gave the directory itself, to the
//! nanosecond, so that whatever anyone changes later gives it another. Notes whose stamps follow one another
//! without a gap, from the stamp that the index knows to the one that the directory has, tell all that
//! changed. Where there is a gap, they tell nothing, and the index looks at all names: two of our writers at the
//! same moment, a writer that was killed, a note that is torn or that somebody removed. So no note is ever
//! needed, and none is synced.

use super::bytes::{Reader, put_text, put_u32, put_u64, small};
use super::{Doubt, Stamp, TOPS, stamp};
use crate::commit::{Call, Change};
use crate::error::Result;
use crate::layout::{self, StorePath};
use crate::model::Access;
use crate::names::RunId;
use crate::ports::{File, Kind, was_within};
use crate::scope::Scope;
use std::cell::{Cell, RefCell};

/// How the file begins; a number that tells it from other ones follows.
pub(super) const MAGIC: &[u8; 8] = b"mlabchg1";

/// The bytes before the first note.
pub(super) const HEADER: u64 = 16;

/// The most bytes of notes that are read. Beyond, looking at all names is no more work.
const MAX_NOTES: u64 = 4 << 20;

/// How long a writer goes without a look whether there is such a file now, in nanoseconds.
const LOOK_AGAIN: u64 = 500_000_000;

/// The writer's side.
#[derive(Default)]
pub(crate) struct ChangeLog {
    file: RefCell<Option<Box<dyn File>>>,
    /// When there was no such file.
    looked: Cell<u64>,
    /// How many runs this store changed.
    pub(super) changed: Cell<usize>,
}

/// What a call is about to change.
pub(crate) struct Watch {
    before: [Option<Stamp>; 2],
    runs: Vec<String>,
}

/// Where a directory went from, and where to.
pub(super) type Move = Option<(Stamp, Stamp)>;

/// One note.
pub(super) struct Note {
    pub(super) moves: [Move; 2],
    pub(super) runs: Vec<RunId>,
    /// Where it ends in the file.
    pub(super) end: u64,
}

/// Returns the path that a change is about.
fn path_of<'c>(change: &'c Change<'_>) -> &'c StorePath {
    match change {
        Change::Put { path, .. } | Change::Remove { path, .. } => path,
    }
}

impl Scope {
    /// Looks at the directories that calls are about to change; none if nobody wants to know.
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
        if !self.log_is_there().ok()? {
            return None;
        }
        let mut before = [None; 2];
        for (which, top) in TOPS.into_iter().enumerate() {
            if touched[which] {
                before[which] = Some(stamp(self, top).ok()?);
            }
        }
        Some(Watch { before, runs })
    }

    fn log_is_there(&self) -> Result<bool> {
        let log = &self.index.log;
        let mut file = log.file.borrow_mut();
        if let Some(open) = file.as_ref()
            && open.stat().is_ok_and(|stat| stat.links > 0)
        {
            return Ok(true);
        }
        *file = None;
        let now = self.ports.clock.now();
        if self.options.access == Access::ReadOnly || was_within(log.looked.get(), LOOK_AGAIN, now)
        {
            return Ok(false);
        }
        log.looked.set(now);
        let path = layout::index_changes();
        let there = self.tree.stat(&path)?;
        if there.is_some_and(|stat| stat.kind == Kind::File && stat.size >= HEADER) {
            *file = Some(self.tree.open_to_append(&path)?.0);
            log.looked.set(0);
        }
        Ok(file.is_some())
    }

    /// Looks for the file of notes at the next change, also if there was none a moment ago.
    pub(super) fn look_for_log(&self) {
        self.index.log.looked.set(0);
        *self.index.log.file.borrow_mut() = None;
    }

    /// Notes what calls changed. If that fails, the next query looks at all names.
    pub(crate) fn note(&self, watch: Option<Watch>) {
        let Some(watch) = watch else {
            return;
        };
        let mut payload = Vec::new();
        for (top, before) in TOPS.into_iter().zip(watch.before) {
            let Some(before) = before else {
                payload.push(0);
                continue;
            };
            let now = self.ports.clock.now();
            let directory = layout::directory(top);
            if !self.tree.set_modified(&directory, now) {
                return;
            }
            let Ok(after) = stamp(self, top) else {
                return;
            };
            if after.modified != now {
                // Somebody was faster, or the file system keeps no such times.
                return;
            }
            payload.push(1);
            for stamp in [before, after] {
                put_u64(&mut payload, stamp.modified);
                put_u64(&mut payload, stamp.changed);
            }
        }
        put_u32(&mut payload, small(watch.runs.len()));
        for run in &watch.runs {
            put_text(&mut payload, run.as_bytes());
        }
        let mut note = Vec::with_capacity(payload.len() + 8);
        put_u32(&mut note, small(payload.len()));
        put_u32(&mut note, crc32fast::hash(&payload));
        note.extend_from_slice(&payload);
        if let Some(file) = self.index.log.file.borrow().as_ref() {
            // A note that is missing is a gap, which is found.
            file.append(&note).ok();
        }
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
    /// Reads the notes from a place on; one that is torn is the last one.
    pub(super) fn notes(&self, from: u64) -> std::result::Result<Vec<Note>, Doubt> {
        let length = self.size.checked_sub(from).ok_or(Doubt)?;
        if from < HEADER || length > MAX_NOTES {
            return Err(Doubt);
        }
        let mut content = Vec::new();
        while (content.len() as u64) < length {
            let at = from + content.len() as u64;
            let piece = self.file.read(at, 64 * 1024).map_err(|_| Doubt)?;
            if piece.is_empty() {
                break;
            }
            content.extend_from_slice(&piece);
        }
        let mut notes = Vec::new();
        let mut reader = Reader(&content);
        let mut end = from;
        while let Ok((mut note, bytes)) = read_note(&mut reader) {
            end += bytes;
            note.end = end;
            notes.push(note);
        }
        Ok(notes)
    }
}

fn read_note(reader: &mut Reader<'_>) -> std::result::Result<(Note, u64), Doubt> {
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
    let note = Note {
        moves,
        runs,
        end: 0,
    };
    Ok((note, 8 + length as u64))
}

/// Returns the notes that tell all that happened between two stamps of both directories, if they do.
pub(super) fn explained(notes: &[Note], known: [Stamp; 2], found: [Stamp; 2]) -> Option<&[Note]> {
    let mut at = known;
    let mut told = None;
    for (index, note) in notes.iter().enumerate() {
        for (at, moved) in at.iter_mut().zip(note.moves) {
            match moved {
                None => {}
                Some((before, after)) if before == *at => *at = after,
                // Whatever comes after a gap belongs to the next query, if all before it is told.
                Some(_) => return told,
            }
        }
        if at == found {
            told = notes.get(..=index);
        }
    }
    told
}
