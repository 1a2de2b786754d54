//! The format of the journal: what a writer promised, before the files show it.
//!
//! Each writer appends to a segment of its own, `.index/journal-{16 hex}.seg`, and syncs it once a call or
//! batch. The compatible files are written by stage and rename, and reach the disk behind it. A segment is
//! held by a lock as long as its writer lives, so whoever can take the lock knows that the writer is gone
//! and may do what is left to do: see `recovery`.
//!
//! ## Format
//! All numbers are little-endian. A segment begins with `MAGIC` and one frame that holds the header; frames
//! with entries follow, then zeros: space is allocated ahead, so that a sync has no metadata to write. A
//! frame is: `u32` length of the payload, `u32` CRC-32 of the segment's salt (`u64`; 0 for the header), the
//! frame's number (`u64`, counting from 0 for the header) and the payload, then the payload. A frame that
//! is cut short or whose checksum differs ends the segment: it was being written when the writer or the
//! machine stopped. The salt is random, so that no frame of an earlier use of the same space counts.
//!
//! The checksum guards against torn writes, not against an enemy: whoever can write `.index/` can write the
//! files themselves.

use crate::ports::Identity;
use crate::scope::hex;
use sha2::{Digest, Sha256};

/// The first bytes of a segment: what it is, and the version of its format.
pub const MAGIC: &[u8; 8] = b"mlabjrn1";

/// Documents up to this size, in bytes, are journalled whole; larger ones by their hash.
pub const INLINE: usize = 64 * 1024;

/// The largest payload of a frame, in bytes.
pub const MAX_PAYLOAD: usize = 16 * 1024 * 1024;

/// The bytes before a frame's payload.
pub const FRAME: usize = 8;

/// What a file was: its size and the SHA-256 of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fingerprint {
    /// The size in bytes.
    pub size: u64,
    /// The SHA-256; absent for a large file that is to be removed.
    pub hash: Option<[u8; 32]>,
}

impl Fingerprint {
    /// Returns the fingerprint of a content.
    #[must_use]
    pub fn of(content: &[u8]) -> Self {
        Self {
            size: content.len() as u64,
            hash: Some(Sha256::digest(content).into()),
        }
    }

    /// Returns the revision of the content: the first 16 hexadecimal digits of its SHA-256.
    #[must_use]
    pub fn revision(&self) -> String {
        self.hash.map(|hash| hex(&hash[..8])).unwrap_or_default()
    }
}

/// Who wrote a segment, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The machine, its boot, and the directory.
    pub identity: Identity,
    /// A random number that is part of every checksum.
    pub salt: u64,
}

/// One change of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The file gets a new content.
    Put {
        /// The file, relative to the store directory.
        path: String,
        /// What it replaces; none: there was no such file.
        previous: Option<Fingerprint>,
        /// What it becomes.
        written: Fingerprint,
        /// The new content, or the stage file that holds it and is durable already.
        source: Source,
    },
    /// The file goes.
    Remove {
        /// The file, relative to the store directory.
        path: String,
        /// What it was.
        previous: Fingerprint,
    },
}

/// Where the new content of a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Here.
    Inline(Vec<u8>),
    /// In this stage file.
    Staged(String),
    /// It is the previous content with a piece replaced: so a long list grows at the cost of its new entry.
    Patch {
        /// Where the piece begins, in bytes.
        at: u64,
        /// How many bytes of the previous content it replaces.
        removed: u64,
        /// The piece.
        insert: Vec<u8>,
    },
}

impl Step {
    /// Returns the file that changes.
    #[must_use]
    pub fn path(&self) -> &str {
        match self {
            Self::Put { path, .. } | Self::Remove { path, .. } => path,
        }
    }
}

/// One call: all of its steps happen, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// What was locked: a run's id, or the name of another lock.
    pub lock: LockName,
    /// The order of the calls under one lock.
    pub generation: u64,
    /// The generation that the lock's file named when this call took the lock; 0 if none.
    pub after: u64,
    /// What changes, in this order.
    pub steps: Vec<Step>,
}

/// The name of what a call locked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LockName {
    /// A run.
    Run(String),
    /// Something else, as a segment lock of this name.
    Other(String),
}

/// An entry of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A call that was promised.
    Call(Call),
    /// The call in the frame of this number is done: nothing is left of it after a kill.
    Done(u64),
    /// The call in the frame of this number failed and its caller knows: it never happened.
    Cancelled(u64),
}

/// A segment as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Who wrote it.
    pub header: Header,
    /// Its entries, with the numbers of their frames.
    pub entries: Vec<(u64, Entry)>,
    /// How many bytes its whole frames take.
    pub end: u64,
}

/// Why a file is not a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotASegment {
    /// It was cut before its header was whole: nothing was promised in it.
    #[error("its header is cut short")]
    Unfinished,
    /// It is something else, or of a newer format.
    #[error("it is not a journal segment that this version knows")]
    Unknown,
}

/// Returns the beginning of a segment.
#[must_use]
pub fn begin(header: &Header) -> Vec<u8> {
    let mut payload = Vec::new();
    bytes(&mut payload, header.identity.machine.as_bytes());
    bytes(&mut payload, header.identity.boot.as_bytes());
    number(&mut payload, header.identity.device);
    number(&mut payload, header.identity.inode);
    number(&mut payload, header.salt);
    let mut segment = MAGIC.to_vec();
    frame(&mut segment, 0, 0, &payload);
    segment
}

/// Appends an entry as the frame of a number.
pub fn append(segment: &mut Vec<u8>, salt: u64, index: u64, entry: &Entry) {
    let mut payload = Vec::new();
    match entry {
        Entry::Call(call) => {
            payload.push(0);
            let (kind, name) = match &call.lock {
                LockName::Run(name) => (0, name),
                LockName::Other(name) => (1, name),
            };
            payload.push(kind);
            bytes(&mut payload, name.as_bytes());
            number(&mut payload, call.generation);
            number(&mut payload, call.after);
            number(&mut payload, call.steps.len() as u64);
            for step in &call.steps {
                encode_step(&mut payload, step);
            }
        }
        Entry::Done(frame) => {
            payload.push(1);
            number(&mut payload, *frame);
        }
        Entry::Cancelled(frame) => {
            payload.push(2);
            number(&mut payload, *frame);
        }
    }
    frame(segment, salt, index, &payload);
}

fn encode_step(payload: &mut Vec<u8>, step: &Step) {
    match step {
        Step::Put {
            path,
            previous,
            written,
            source,
        } => {
            payload.push(0);
            bytes(payload, path.as_bytes());
            match previous {
                None => payload.push(0),
                Some(previous) => {
                    payload.push(1);
                    fingerprint(payload, previous);
                }
            }
            fingerprint(payload, written);
            match source {
                Source::Inline(content) => {
                    payload.push(0);
                    bytes(payload, content);
                }
                Source::Staged(stage) => {
                    payload.push(1);
                    bytes(payload, stage.as_bytes());
                }
                Source::Patch {
                    at,
                    removed,
                    insert,
                } => {
                    payload.push(2);
                    number(payload, *at);
                    number(payload, *removed);
                    bytes(payload, insert);
                }
            }
        }
        Step::Remove { path, previous } => {
            payload.push(1);
            bytes(payload, path.as_bytes());
            fingerprint(payload, previous);
        }
    }
}

fn number(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn bytes(out: &mut Vec<u8>, value: &[u8]) {
    number(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn fingerprint(out: &mut Vec<u8>, value: &Fingerprint) {
    number(out, value.size);
    match &value.hash {
        None => out.push(0),
        Some(hash) => {
            out.push(1);
            out.extend_from_slice(hash);
        }
    }
}

fn checksum(salt: u64, index: u64, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&salt.to_le_bytes());
    hasher.update(&index.to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

fn frame(out: &mut Vec<u8>, salt: u64, index: u64, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&checksum(salt, index, payload).to_le_bytes());
    out.extend_from_slice(payload);
}

/// Reads a segment, up to the first frame that is not whole.
///
/// # Errors
/// [`NotASegment`] if not even the header is whole.
pub fn read(content: &[u8]) -> Result<Segment, NotASegment> {
    let Some(rest) = content.strip_prefix(MAGIC) else {
        let begun = &content[..content.len().min(MAGIC.len())];
        // A power cut may keep the size of a file and lose what was written to it.
        return Err(
            if MAGIC.starts_with(begun) || begun.iter().all(|byte| *byte == 0) {
                NotASegment::Unfinished
            } else {
                NotASegment::Unknown
            },
        );
    };
    let mut input = Input(rest);
    let header = input.frame(0, 0).ok_or(NotASegment::Unfinished)?;
    let header = decode_header(header).ok_or(NotASegment::Unknown)?;
    let mut entries = Vec::new();
    loop {
        let left = input.0.len();
        let index = entries.len() as u64 + 1;
        let entry = input.frame(header.salt, index).and_then(decode_entry);
        match entry {
            Some(entry) => entries.push((index, entry)),
            None => {
                return Ok(Segment {
                    header,
                    entries,
                    end: (content.len() - left) as u64,
                });
            }
        }
    }
}

fn decode_header(payload: &[u8]) -> Option<Header> {
    let mut input = Input(payload);
    let machine = input.text()?;
    let boot = input.text()?;
    let identity = Identity {
        machine,
        boot,
        device: input.number()?,
        inode: input.number()?,
    };
    let salt = input.number()?;
    Some(Header { identity, salt })
}

fn decode_entry(payload: &[u8]) -> Option<Entry> {
    let mut input = Input(payload);
    let entry = match input.byte()? {
        0 => {
            let kind = input.byte()?;
            let name = input.text()?;
            let lock = match kind {
                0 => LockName::Run(name),
                1 => LockName::Other(name),
                _ => return None,
            };
            let generation = input.number()?;
            let after = input.number()?;
            let count = input.number()?;
            let mut steps = Vec::new();
            for _ in 0..count {
                steps.push(decode_step(&mut input)?);
            }
            Entry::Call(Call {
                lock,
                generation,
                after,
                steps,
            })
        }
        1 => Entry::Done(input.number()?),
        2 => Entry::Cancelled(input.number()?),
        _ => return None,
    };
    input.0.is_empty().then_some(entry)
}

fn decode_step(input: &mut Input<'_>) -> Option<Step> {
    match input.byte()? {
        0 => {
            let path = input.text()?;
            let previous = match input.byte()? {
                0 => None,
                1 => Some(input.fingerprint()?),
                _ => return None,
            };
            let written = input.fingerprint()?;
            let source = match input.byte()? {
                0 => Source::Inline(input.bytes()?.to_vec()),
                1 => Source::Staged(input.text()?),
                2 => Source::Patch {
                    at: input.number()?,
                    removed: input.number()?,
                    insert: input.bytes()?.to_vec(),
                },
                _ => return None,
            };
            Some(Step::Put {
                path,
                previous,
                written,
                source,
            })
        }
        1 => Some(Step::Remove {
            path: input.text()?,
            previous: input.fingerprint()?,
        }),
        _ => None,
    }
}

/// What is left to read. Every length is checked against it before it is used.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|taken| taken[0])
    }

    fn number(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_le_bytes)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        self.take(length)
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_vec()).ok()
    }

    fn fingerprint(&mut self) -> Option<Fingerprint> {
        let size = self.number()?;
        let hash = match self.byte()? {
            0 => None,
            1 => Some(self.take(32)?.try_into().ok()?),
            _ => return None,
        };
        Some(Fingerprint { size, hash })
    }

    /// Takes the frame of a number, or nothing if it is not whole.
    fn frame(&mut self, salt: u64, index: u64) -> Option<&'a [u8]> {
        let mut rest = Input(self.0);
        let head = rest.take(FRAME)?;
        let length = u32::from_le_bytes(head[..4].try_into().ok()?);
        let sum = u32::from_le_bytes(head[4..].try_into().ok()?);
        let length = usize::try_from(length)
            .ok()
            .filter(|length| *length <= MAX_PAYLOAD)?;
        let payload = rest.take(length)?;
        if checksum(salt, index, payload) != sum {
            return None;
        }
        self.0 = rest.0;
        Some(payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: u64 = 0x1234_5678_9abc_def0;

    fn header() -> Header {
        Header {
            identity: Identity {
                machine: "m".into(),
                boot: "b".into(),
                device: 7,
                inode: 9,
            },
            salt: SALT,
        }
    }

    fn entries() -> Vec<Entry> {
        let put = Step::Put {
            path: "runs/a.json".into(),
            previous: Some(Fingerprint::of(b"old")),
            written: Fingerprint::of(b"new"),
            source: Source::Inline(b"new".to_vec()),
        };
        let patch = Step::Put {
            path: "artifacts/a/_manifest.json".into(),
            previous: Some(Fingerprint::of(b"[1]")),
            written: Fingerprint::of(b"[1,2]"),
            source: Source::Patch {
                at: 2,
                removed: 1,
                insert: b",2]".to_vec(),
            },
        };
        let staged = Step::Put {
            path: "artifacts/a/x.bin".into(),
            previous: None,
            written: Fingerprint {
                size: 1 << 40,
                hash: Some([3; 32]),
            },
            source: Source::Staged("artifacts/a/x.tmp.00000001".into()),
        };
        let remove = Step::Remove {
            path: "derived/a.json".into(),
            previous: Fingerprint {
                size: 5,
                hash: None,
            },
        };
        vec![
            Entry::Call(Call {
                lock: LockName::Run("a".into()),
                generation: 3,
                after: 2,
                steps: vec![put, patch],
            }),
            Entry::Call(Call {
                lock: LockName::Other("manifests".into()),
                generation: u64::MAX,
                after: 0,
                steps: vec![staged, remove],
            }),
            Entry::Done(2),
            Entry::Cancelled(1),
        ]
    }

    fn segment() -> Vec<u8> {
        let mut segment = begin(&header());
        for (index, entry) in entries().iter().enumerate() {
            append(&mut segment, SALT, index as u64 + 1, entry);
        }
        segment
    }

    #[test]
    fn what_was_appended_is_read_back() {
        let read = read(&segment()).expect("a whole segment");
        assert_eq!(read.header, header());
        assert_eq!(read.end, segment().len() as u64);
        let numbers: Vec<u64> = read.entries.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, [1, 2, 3, 4]);
        let found: Vec<Entry> = read.entries.into_iter().map(|(_, entry)| entry).collect();
        assert_eq!(found, entries());
    }

    #[test]
    fn a_segment_cut_at_any_byte_keeps_the_entries_before_the_cut() {
        let whole = segment();
        let mut ends = vec![begin(&header()).len()];
        let mut grown = begin(&header());
        for (index, entry) in entries().iter().enumerate() {
            append(&mut grown, SALT, index as u64 + 1, entry);
            ends.push(grown.len());
        }
        for cut in 0..=whole.len() {
            match read(&whole[..cut]) {
                Ok(read) => {
                    let complete = ends.iter().filter(|end| **end <= cut).count() - 1;
                    assert_eq!(read.entries.len(), complete, "cut at {cut}");
                }
                Err(reason) => {
                    assert_eq!(reason, NotASegment::Unfinished, "cut at {cut}");
                    assert!(cut < ends[0], "cut at {cut}");
                }
            }
        }
    }

    #[test]
    fn a_flipped_byte_never_changes_an_entry_silently() {
        let whole = segment();
        let original = read(&whole).expect("a whole segment").entries;
        for position in 0..whole.len() {
            for flip in [0x01, 0x80] {
                let mut damaged = whole.clone();
                damaged[position] ^= flip;
                if let Ok(read) = read(&damaged) {
                    assert!(
                        read.entries.len() < original.len() || position < begin(&header()).len()
                    );
                    assert_eq!(
                        read.entries[..],
                        original[..read.entries.len()],
                        "byte {position}"
                    );
                }
            }
        }
    }

    #[test]
    fn space_allocated_ahead_and_frames_of_an_earlier_use_end_a_segment() {
        let mut allocated = segment();
        allocated.resize(64 * 1024, 0);
        let read_back = read(&allocated).expect("a whole segment");
        assert_eq!(read_back.entries.len(), 4);
        assert_eq!(read_back.end, segment().len() as u64);
        // The same space with another salt: no old frame is an entry.
        let mut header = header();
        header.salt = 1;
        let fresh = begin(&header);
        allocated[..fresh.len()].copy_from_slice(&fresh);
        assert_eq!(read(&allocated).expect("a whole segment").entries, []);
    }

    #[test]
    fn lengths_that_lie_are_refused_without_being_believed() {
        let mut segment = begin(&header());
        let mut payload = vec![0, 0];
        number(&mut payload, u64::MAX);
        frame(&mut segment, SALT, 1, &payload);
        assert_eq!(read(&segment).expect("a header").entries.len(), 0);
        let mut segment = begin(&header());
        segment.extend_from_slice(&u32::MAX.to_le_bytes());
        segment.extend_from_slice(&[0; 64]);
        assert_eq!(read(&segment).expect("a header").entries.len(), 0);
    }
}
