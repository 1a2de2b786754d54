//! This store as a writer of the journal, and the segment that it writes.
//!
//! A writer has a number, drawn at its first write and locked as long as it may write. Its segment is begun
//! with a promise and retired by a checkpoint; its stage files carry the number too, so that what a dead
//! writer left can be told from what a living one needs.

use crate::error::{Error, Result};
use crate::journal::{self, Entry, Header};
use crate::layout::{self, StorePath, Top};
use crate::ports::{File, Lock, LockError, LockMode, LockTarget, PortError, Ports};
use crate::tree::Tree;

/// The space first allocated, in bytes.
const FIRST_SPACE: u64 = 32 * 1024;

/// The most space that is allocated ahead at once, in bytes.
const SPACE: u64 = 256 * 1024;

/// Beyond this size, in bytes, a checkpoint retires the segment.
const FULL: u64 = 4 * 1024 * 1024;

/// After this time, in nanoseconds, a checkpoint retires the segment: what the journal still promises
/// should not lag far behind what other programs do to the files.
const OLD: u64 = 30_000_000_000;

/// How often a number for a new segment is drawn before something must be wrong.
const ATTEMPTS: u32 = 16;

/// Why entries were not appended.
pub(crate) enum AppendError {
    /// None of them will ever count.
    Clean(Error),
    /// They may have reached the disk or not. The segment must not be used any more.
    Unknown(Error),
}

/// The store as a writer of the journal: its number, locked as long as it may write, and its segment.
pub(crate) struct Writer {
    id: u32,
    /// Held as long as this store may write: who can take it knows that the writer is gone.
    lock: Box<dyn Lock>,
    segment: Option<Segment>,
}

/// A segment being written.
struct Segment {
    path: StorePath,
    file: Box<dyn File>,
    salt: u64,
    /// The number of the next frame.
    next: u64,
    /// The bytes of the whole frames.
    end: u64,
    /// The bytes that exist, zeros at the end included.
    allocated: u64,
    /// When it was begun, in nanoseconds since 1970.
    begun: u64,
    /// Whether its name is durable.
    named: bool,
}

/// Returns the name of a segment's lock.
pub(crate) fn lock_name(id: u64) -> String {
    format!("journal-{id:016x}")
}

/// Returns the path of the file of a segment's lock.
pub(crate) fn lock_file(id: u64) -> Result<StorePath> {
    Ok(layout::index(&format!("{}.lock", lock_name(id)))?)
}

impl Writer {
    /// Draws a number that no other writer has, or returns none where there are no working locks.
    pub(crate) fn register(tree: &Tree, ports: &Ports) -> Result<Option<Self>> {
        for _ in 0..ATTEMPTS {
            tree.ensure_directory(&layout::directory(Top::Index))?;
            let id = low_half(ports.random.next());
            let path = layout::journal_segment(u64::from(id));
            let name = lock_name(u64::from(id));
            let target = LockTarget::Segment(&name);
            let lock = match ports.roots.acquire(target, LockMode::Exclusive, 0) {
                Ok(lock) => lock,
                Err(LockError::Unavailable(_)) => return Ok(None),
                // Another writer has the number, or somebody removed the directory meanwhile.
                Err(LockError::TimedOut | LockError::NoDirectory) => continue,
                Err(reason) => return Err(lock_failed(&path, &reason)),
            };
            if tree.stat(&path)?.is_none() {
                return Ok(Some(Self {
                    id,
                    lock,
                    segment: None,
                }));
            }
        }
        Err(Error::Io {
            file: layout::directory(Top::Index).to_string(),
            operation: "begin a journal segment in",
            code: "exist",
            outcome_unknown: false,
            message: format!(
                "cannot begin a journal segment in .index: {ATTEMPTS} random names were taken"
            ),
        })
    }

    /// Returns the token of the stage files that belong to this writer.
    pub(crate) fn token(&self) -> u32 {
        self.id
    }

    /// Begins a segment.
    pub(crate) fn begin(&mut self, tree: &Tree, ports: &Ports) -> Result<()> {
        let path = layout::journal_segment(u64::from(self.id));
        let header = Header {
            identity: ports.roots.identity(),
            salt: ports.random.next(),
        };
        let mut content = journal::begin(&header);
        let end = content.len() as u64;
        content.resize(usize::try_from(FIRST_SPACE).unwrap_or_default(), 0);
        let file = tree.create(&path)?;
        if let Err(reason) = file.write(0, &content) {
            // Nothing was promised in it; the error of the write is what counts.
            drop(tree.remove(&path));
            return Err(Error::io(tree.path(&path), "write", reason));
        }
        self.segment = Some(Segment {
            path,
            file,
            salt: header.salt,
            next: 1,
            end,
            allocated: content.len() as u64,
            begun: ports.clock.now(),
            named: false,
        });
        Ok(())
    }

    /// Says whether there is a segment.
    pub(crate) fn has_segment(&self) -> bool {
        self.segment.is_some()
    }

    /// Says whether nothing was appended to the segment yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.segment
            .as_ref()
            .is_none_or(|segment| segment.next == 1)
    }

    /// Says whether the segment is still there: `.index/` may have been deleted.
    pub(crate) fn segment_is_there(&self, tree: &Tree) -> Result<bool> {
        let Some(segment) = &self.segment else {
            return Ok(false);
        };
        let stat = segment.file.stat();
        let stat = stat.map_err(|reason| Error::io(tree.path(&segment.path), "look at", reason))?;
        Ok(stat.links > 0 && stat.size >= segment.end)
    }

    /// Says whether it is time for a checkpoint.
    pub(crate) fn is_due(&self, now: u64) -> bool {
        self.segment
            .as_ref()
            .is_some_and(|segment| segment.end > FULL || now.saturating_sub(segment.begun) > OLD)
    }

    /// Appends entries, makes them durable, and returns the number of the first one's frame.
    pub(crate) fn promise(
        &mut self,
        tree: &Tree,
        entries: &[Entry],
    ) -> std::result::Result<u64, AppendError> {
        let first = self.append(tree, entries)?;
        if let Some(segment) = &mut self.segment {
            segment.sync(tree).map_err(AppendError::Unknown)?;
        }
        Ok(first)
    }

    /// Appends entries without a sync: they survive a kill.
    pub(crate) fn append(
        &mut self,
        tree: &Tree,
        entries: &[Entry],
    ) -> std::result::Result<u64, AppendError> {
        match &mut self.segment {
            Some(segment) => segment.append(tree, entries),
            None => Err(AppendError::Clean(Error::io(
                layout::journal_segment(u64::from(self.id)).to_string(),
                "append to",
                PortError::NotFound,
            ))),
        }
    }

    /// Removes the segment: everything promised in it is durable in its place.
    pub(crate) fn retire(&mut self, tree: &Tree) -> Result<()> {
        if let Some(segment) = self.segment.take() {
            tree.remove(&segment.path)?;
        }
        Ok(())
    }

    /// Gives the number up. Its segment was retired before.
    pub(crate) fn resign(self, tree: &Tree) -> Result<()> {
        // Nobody can wait for this lock: its name is random, and who finds its file locks it again.
        tree.remove(&lock_file(u64::from(self.id))?)?;
        drop(self.lock);
        Ok(())
    }
}

impl Segment {
    fn sync(&mut self, tree: &Tree) -> Result<()> {
        self.file
            .sync_data()
            .map_err(|reason| Error::io(tree.path(&self.path), "sync", reason))?;
        if !self.named {
            tree.sync_directory(&layout::directory(Top::Index))?;
            // Whoever created `.index` may have been killed before it made that name durable.
            tree.sync_directory(&layout::directory(Top::Root))?;
            self.named = true;
        }
        Ok(())
    }

    fn append(&mut self, tree: &Tree, entries: &[Entry]) -> std::result::Result<u64, AppendError> {
        let mut frames = Vec::new();
        let first = self.next;
        for (index, entry) in entries.iter().enumerate() {
            journal::append(&mut frames, self.salt, first + index as u64, entry);
        }
        let end = self.end + frames.len() as u64;
        let failed = |reason| Error::io(tree.path(&self.path), "write", reason);
        if end > self.allocated {
            let space = (end - self.allocated) + end.clamp(FIRST_SPACE, SPACE);
            let zeros = vec![0; usize::try_from(space).unwrap_or(usize::MAX)];
            let grown = self.file.write(self.allocated, &zeros);
            grown.map_err(|reason| AppendError::Clean(failed(reason)))?;
            self.allocated += space;
        }
        let written = self.file.write(self.end, &frames);
        written.map_err(|reason| AppendError::Unknown(failed(reason)))?;
        self.end = end;
        self.next += entries.len() as u64;
        Ok(first)
    }
}

/// Returns a random number as a token of 32 bits.
pub(crate) fn low_half(random: u64) -> u32 {
    u32::try_from(random & u64::from(u32::MAX)).unwrap_or_default()
}

fn lock_failed(path: &StorePath, reason: &LockError) -> Error {
    let message = match reason {
        LockError::ReadOnly => {
            return Error::ReadOnly(format!(
                "{path} cannot be locked: the file system is read-only"
            ));
        }
        LockError::Refused(reason) | LockError::Io(reason) | LockError::Unavailable(reason) => {
            reason.as_str()
        }
        LockError::NoDirectory => "its directory vanished",
        LockError::TimedOut => "it is locked by somebody else",
    };
    Error::Io {
        file: path.to_string(),
        operation: "lock",
        code: "io",
        outcome_unknown: false,
        message: format!("{path} cannot be locked: {message}"),
    }
}
