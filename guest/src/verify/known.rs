//! What each file was when it was verified last: `.index/digests`.
//!
//! The file is a cache with checksums. It says for each file the digest of its bytes, and the size and the time of the
//! last change that it had then. If a file has another digest now and the same size and time, nobody wrote it: its
//! bytes changed on the disk or on the way from it. Nothing else is concluded from the file: without it, or where it
//! is damaged, files are only judged by what they hold, and are noted anew.
//!
//! It is written as the verification goes, in the order in which files are looked at, and read in that order by the
//! next: so it takes no memory.
//!
//! ## Format
//! Numbers are little-endian. `MAGIC`, then blocks: `u32` length of the payload, `u32` CRC-32 of the payload, the
//! payload. The first block holds when this was noted, in microseconds since 1970; each other holds groups; an empty
//! one ends the file. A group is the files that are looked at together, a run's for instance: a byte for its kind, its
//! name, a `u32` count, and for each file its path, `u64` size, `u64` time of the last change of the content in
//! nanoseconds since 1970, and 32 bytes SHA-256. Texts are a `u32` length and UTF-8.

use super::{Finding, FindingKind, Tally, finding, is_gone, tally_all, vanished};
use crate::commit::is_removed;
use crate::error::{Error, Result};
use crate::index::bytes::{Reader, put_text, put_u32, put_u64, small};
use crate::layout::{self, StorePath, Top};
use crate::names::RunId;
use crate::ports::{File, Lock, LockError, LockMode, LockTarget};
use crate::scope::Scope;
use crate::transfer::digest::Digest;

/// How the file begins.
const MAGIC: &[u8; 8] = b"mlabdig1";

/// The name of the lock of whoever writes the file.
const LOCK: &str = "digests";

/// The size from which on a block is written, in bytes.
const BLOCK: usize = 128 * 1024;

/// The largest block that is read or written, in bytes. A group that does not fit is not noted.
const MAX_BLOCK: usize = 64 * 1024 * 1024;

/// What a file was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KnownFile {
    pub(super) path: String,
    pub(super) size: u64,
    pub(super) modified: u64,
    pub(super) digest: Digest,
}

/// The name of a group. Groups are in the order of their kinds and names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    kind: u8,
    name: String,
}

/// The kind of a file that belongs to no run.
const OTHER: u8 = 1;

impl Key {
    /// The files of a run.
    pub(super) fn run(run: &RunId) -> Self {
        Self {
            kind: 0,
            name: run.as_str().to_owned(),
        }
    }

    /// A file that belongs to no run.
    pub(super) fn other(path: &StorePath) -> Self {
        Self {
            kind: OTHER,
            name: path.to_string(),
        }
    }

    /// A file of the store itself.
    pub(super) fn service(path: &StorePath) -> Self {
        Self {
            kind: 2,
            name: path.to_string(),
        }
    }
}

/// What was known, read in order.
pub(super) struct KnownFiles {
    file: Option<Box<dyn File>>,
    at: u64,
    size: u64,
    /// When it was noted, in microseconds since 1970.
    noted_at: u64,
    block: Vec<u8>,
    read: usize,
    next: Option<(Key, Vec<KnownFile>)>,
    ended: bool,
}

/// The file is not what was written.
struct Damaged;

impl KnownFiles {
    /// Opens the file; with nothing in it if there is none.
    pub(super) fn open(scope: &Scope) -> Result<(Self, Option<Finding>)> {
        let mut known = Self {
            file: None,
            at: 0,
            size: 0,
            noted_at: 0,
            block: Vec::new(),
            read: 0,
            next: None,
            ended: false,
        };
        match scope.tree.open(&layout::known_digests()) {
            Ok(None) => return Ok((known, None)),
            Ok(Some((file, stat))) => {
                known.file = Some(file);
                known.size = stat.size;
            }
            Err(Error::Corrupt { .. }) => return Ok((known, Some(damaged(scope)))),
            Err(error) => return Err(error),
        }
        match known.begin() {
            Ok(()) => Ok((known, None)),
            Err(Damaged) => {
                known.file = None;
                known.next = None;
                known.noted_at = 0;
                Ok((known, Some(damaged(scope))))
            }
        }
    }

    /// Returns when it was noted, in microseconds since 1970; 0 if never.
    pub(super) fn noted_at(&self) -> u64 {
        self.noted_at
    }

    fn begin(&mut self) -> std::result::Result<(), Damaged> {
        if self.bytes(MAGIC.len())? != MAGIC {
            return Err(Damaged);
        }
        let head = self.next_block()?;
        let mut reader = Reader(&head);
        self.noted_at = reader.u64().map_err(|_| Damaged)?;
        reader.end().map_err(|_| Damaged)?;
        self.advance()
    }

    fn bytes(&mut self, length: usize) -> std::result::Result<Vec<u8>, Damaged> {
        let file = self.file.as_ref().ok_or(Damaged)?;
        if length as u64 > self.size.saturating_sub(self.at) {
            return Err(Damaged);
        }
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            let piece = file
                .read(self.at, (length - bytes.len()).min(64 * 1024))
                .map_err(|_| Damaged)?;
            if piece.is_empty() {
                return Err(Damaged);
            }
            self.at += piece.len() as u64;
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }

    fn next_block(&mut self) -> std::result::Result<Vec<u8>, Damaged> {
        let head = self.bytes(8)?;
        let mut reader = Reader(&head);
        let (length, check) = match (reader.u32(), reader.u32()) {
            (Ok(length), Ok(check)) => (length as usize, check),
            _ => return Err(Damaged),
        };
        if length > MAX_BLOCK {
            return Err(Damaged);
        }
        let payload = self.bytes(length)?;
        if crc32fast::hash(&payload) != check {
            return Err(Damaged);
        }
        Ok(payload)
    }

    /// Reads the next group.
    fn advance(&mut self) -> std::result::Result<(), Damaged> {
        if self.read == self.block.len() {
            if self.ended {
                self.next = None;
                return Ok(());
            }
            self.block = self.next_block()?;
            self.read = 0;
            if self.block.is_empty() {
                self.ended = true;
                self.next = None;
                return if self.at == self.size {
                    Ok(())
                } else {
                    Err(Damaged)
                };
            }
        }
        let mut reader = Reader(&self.block[self.read..]);
        let before = reader.0.len();
        let group = read_group(&mut reader).map_err(|_| Damaged)?;
        self.read += before - reader.0.len();
        self.next = Some(group);
        Ok(())
    }

    /// Takes what was known of a group. Groups are taken in their order; of those before it, files of no run that are
    /// gone are told.
    pub(super) fn take(
        &mut self,
        key: &Key,
        scope: &Scope,
        tally: &mut Tally,
    ) -> Result<Vec<KnownFile>> {
        while let Some((next, _)) = &self.next {
            if next > key {
                break;
            }
            let found = next == key;
            let is_other = next.kind == OTHER;
            let files = self.next.take().map(|(_, files)| files);
            if self.advance().is_err() {
                self.next = None;
                self.block.clear();
                self.read = 0;
                self.ended = true;
                tally_all(tally, Some(damaged(scope)));
            }
            if found {
                return Ok(files.unwrap_or_default());
            }
            if is_other {
                tally_all(tally, gone_of(scope, &files.unwrap_or_default()));
            }
        }
        Ok(Vec::new())
    }
}

/// Tells of files of no run that are gone.
fn gone_of(scope: &Scope, files: &[KnownFile]) -> Vec<Finding> {
    let path =
        |file: &KnownFile| layout::parse(&file.path).or_else(|| layout::root_file(&file.path));
    files
        .iter()
        .filter_map(path)
        // A log that nobody owned may be removed, or was deleted with the run that came to own it.
        .filter(|path| path.top() != Top::Logs && is_gone(scope, path))
        .map(|path| vanished(scope, &path))
        .collect()
}

fn read_group(
    reader: &mut Reader<'_>,
) -> std::result::Result<(Key, Vec<KnownFile>), crate::index::Doubt> {
    let kind = reader.byte()?;
    let name = reader.text()?.to_owned();
    let mut files = Vec::new();
    for _ in 0..reader.count(52)? {
        let path = reader.text()?.to_owned();
        files.push(KnownFile {
            path,
            size: reader.u64()?,
            modified: reader.u64()?,
            digest: reader
                .take(32)?
                .try_into()
                .map_err(|_| crate::index::Doubt)?,
        });
    }
    Ok((Key { kind, name }, files))
}

fn damaged(scope: &Scope) -> Finding {
    Finding {
        // It is synced before it gets its name: no power cut leaves it torn.
        severity: super::Severity::Damage,
        ..finding(
            scope,
            FindingKind::Index,
            &layout::known_digests(),
            "the list of known digests has a wrong checksum; what it knew of the files is not used",
            "every verification of a store that may be written makes it anew",
        )
    }
}

/// What is known now, written as it comes. Dropping it leaves the old file.
pub(super) struct NewlyKnown {
    /// When the verification began, in microseconds since 1970.
    begun: u64,
    file: Option<(Box<dyn File>, StorePath)>,
    at: u64,
    block: Vec<u8>,
    any: bool,
    /// Keeps others from writing the file, and from taking its stage file for a leftover.
    _lock: Option<Box<dyn Lock>>,
}

impl NewlyKnown {
    /// Begins with nothing; none if another verification is at it.
    pub(super) fn begin(scope: &Scope) -> Option<Self> {
        let is_there = |path| scope.tree.stat(&path).is_ok_and(|stat| stat.is_some());
        // The locks are those of the granted directory. One without a store gets none.
        let lock = match scope.tree.is_whole() && is_there(layout::directory(Top::Index)) {
            true => {
                let target = LockTarget::Segment(LOCK);
                match scope.ports.roots.acquire(target, LockMode::Exclusive, 0) {
                    Ok(lock) => Some(lock),
                    Err(LockError::TimedOut) => return None,
                    // Two at a time do no harm: each writes a whole file.
                    Err(_) => None,
                }
            }
            false => None,
        };
        if lock.is_some() {
            sweep(scope);
        }
        Some(Self {
            _lock: lock,
            begun: scope.ports.clock.now() / 1_000,
            file: None,
            at: 0,
            block: Vec::new(),
            any: false,
        })
    }

    /// Adds a group.
    pub(super) fn push(&mut self, scope: &Scope, key: &Key, files: &[KnownFile]) -> Result<()> {
        if files.is_empty() {
            return Ok(());
        }
        let before = self.block.len();
        self.block.push(key.kind);
        put_text(&mut self.block, key.name.as_bytes());
        put_u32(&mut self.block, small(files.len()));
        for file in files {
            put_text(&mut self.block, file.path.as_bytes());
            put_u64(&mut self.block, file.size);
            put_u64(&mut self.block, file.modified);
            self.block.extend_from_slice(&file.digest);
        }
        if self.block.len() - before > MAX_BLOCK - BLOCK {
            self.block.truncate(before);
        }
        self.any |= !self.block.is_empty();
        if self.block.len() >= BLOCK {
            self.flush(scope)?;
        }
        Ok(())
    }

    fn flush(&mut self, scope: &Scope) -> Result<()> {
        let block = std::mem::take(&mut self.block);
        if self.file.is_none() {
            let stage = scope.stage(&layout::known_digests());
            let file = scope.tree.create(&stage)?;
            self.file = Some((file, stage));
            let mut head = MAGIC.to_vec();
            let mut payload = Vec::new();
            put_u64(&mut payload, self.begun);
            put_block(&mut head, &payload);
            self.write(scope, &head)?;
        }
        let mut bytes = Vec::with_capacity(block.len() + 8);
        put_block(&mut bytes, &block);
        self.write(scope, &bytes)
    }

    fn write(&mut self, scope: &Scope, bytes: &[u8]) -> Result<()> {
        if let Some((file, stage)) = &self.file {
            let written = file.write(self.at, bytes);
            if let Err(reason) = written {
                // The error of the write is what counts.
                drop(scope.tree.remove(stage));
                return Err(Error::io(scope.tree.path(stage), "write", reason));
            }
            self.at += bytes.len() as u64;
        }
        Ok(())
    }

    /// Puts it in place of what was known before.
    pub(super) fn finish(mut self, scope: &Scope) -> Result<()> {
        if !self.any {
            // What was known is of files that are gone, which were told.
            return scope.tree.remove(&layout::known_digests()).map(drop);
        }
        if !self.block.is_empty() {
            self.flush(scope)?;
        }
        // An empty block is the end.
        self.flush(scope)?;
        let Some((file, stage)) = &self.file else {
            return Ok(());
        };
        let synced = file
            .sync_data()
            .map_err(|reason| Error::io(scope.tree.path(stage), "sync", reason));
        let placed = synced.and_then(|()| scope.tree.rename(stage, &layout::known_digests()));
        match placed {
            // Somebody took it away, as no lock kept it or the whole `.index/` went: what was known before stays.
            Err(error) if is_removed(&error) => Ok(()),
            Err(error) => {
                drop(scope.tree.remove(stage));
                Err(error)
            }
            Ok(()) => Ok(()),
        }
    }

    /// Forgets what was written so far.
    pub(super) fn discard(self, scope: &Scope) {
        if let Some((_, stage)) = &self.file {
            // A stage file left behind is harmless.
            drop(scope.tree.remove(stage));
        }
    }
}

/// Removes what verifications that were killed left of the file. Whoever calls it has the lock.
fn sweep(scope: &Scope) {
    let index = layout::directory(Top::Index);
    let list = layout::known_digests();
    // What cannot be removed now is removed by the next verification, or by a collection of garbage.
    for entry in scope.tree.list(&index).unwrap_or_default() {
        if layout::is_stage_of(&entry.name, &list)
            && let Ok(stage) = index.child(&entry.name)
        {
            drop(scope.tree.remove(&stage));
        }
    }
}

fn put_block(out: &mut Vec<u8>, payload: &[u8]) {
    put_u32(out, small(payload.len()));
    put_u32(out, crc32fast::hash(payload));
    out.extend_from_slice(payload);
}
