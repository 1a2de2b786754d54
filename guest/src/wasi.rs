//! The ports on WASI descriptors and on the imports `roots` and `bulk`.
//!
//! Descriptors are used directly, not `std::fs`: they can sync a directory, and each operation is one call.

use crate::component::metalab::store::{bulk, roots};
use crate::ports::{
    Clock, Directory, Entry, File, Identity, Kind, Listing, Lock, LockError, LockMode, LockTarget,
    OpenMode, PortError, PortResult, Ports, Random, Reading, Roots, Stat,
};
use crate::wasi_database::HostDatabases;
use std::cell::RefCell;
use std::rc::Rc;
use wasip2::clocks::wall_clock;
use wasip2::filesystem::preopens;
use wasip2::filesystem::types::{
    Descriptor, DescriptorFlags, DescriptorStat, DescriptorType, ErrorCode, NewTimestamp,
    OpenFlags, PathFlags,
};

/// Returns the ports of the granted directory, or none if the host granted none.
pub(crate) fn ports() -> Option<Ports> {
    let (directory, _) = preopens::get_directories().into_iter().next()?;
    Some(Ports {
        directory: Rc::new(WasiDirectory {
            descriptor: directory,
            path: String::new(),
        }),
        roots: Rc::new(HostRoots),
        clock: Rc::new(WasiClock),
        random: Rc::new(WasiRandom),
        databases: Rc::new(HostDatabases),
    })
}

/// So many files are looked at in one call.
const LOOKED_AT: usize = 4096;

/// A descriptor of a directory.
struct WasiDirectory {
    descriptor: Descriptor,
    /// Where it is below the granted directory, for which this is empty.
    path: String,
}

/// A descriptor of a regular file.
struct WasiFile(Descriptor);

fn reason(code: ErrorCode) -> PortError {
    match code {
        ErrorCode::NoEntry => PortError::NotFound,
        ErrorCode::Exist => PortError::AlreadyExists,
        ErrorCode::NotDirectory => PortError::NotDirectory,
        ErrorCode::IsDirectory => PortError::IsDirectory,
        ErrorCode::NotEmpty => PortError::NotEmpty,
        ErrorCode::Access | ErrorCode::NotPermitted => PortError::Denied,
        ErrorCode::ReadOnly => PortError::ReadOnly,
        ErrorCode::InsufficientSpace | ErrorCode::Quota => PortError::NoSpace,
        ErrorCode::Loop => PortError::Loop,
        ErrorCode::NameTooLong => PortError::NameTooLong,
        ErrorCode::FileTooLarge => PortError::TooLarge,
        ErrorCode::Io => PortError::Device,
        ErrorCode::IllegalByteSequence => PortError::IllegalName,
        ErrorCode::Unsupported => PortError::Unsupported,
        other => PortError::Other(other.name()),
    }
}

fn stat(stat: &DescriptorStat) -> Stat {
    let nanoseconds = |time: Option<wall_clock::Datetime>| {
        time.map_or(0, |time| {
            time.seconds
                .saturating_mul(1_000_000_000)
                .saturating_add(u64::from(time.nanoseconds))
        })
    };
    Stat {
        kind: kind(stat.type_),
        size: stat.size,
        links: stat.link_count,
        modified: nanoseconds(stat.data_modification_timestamp),
        changed: nanoseconds(stat.status_change_timestamp),
    }
}

/// Opens a directory, and nothing else: the host looks at what it opened only afterwards, and a FIFO of this name would
/// block it for ever.
fn open_directory(root: &Descriptor, path: &str) -> Result<Descriptor, ErrorCode> {
    match root.stat_at(PathFlags::empty(), path)?.type_ {
        // A link is not followed, and refused for what it is.
        DescriptorType::Directory | DescriptorType::SymbolicLink => root.open_at(
            PathFlags::empty(),
            path,
            OpenFlags::DIRECTORY,
            DescriptorFlags::READ,
        ),
        _ => Err(ErrorCode::NotDirectory),
    }
}

fn kind(found: DescriptorType) -> Kind {
    match found {
        DescriptorType::RegularFile => Kind::File,
        DescriptorType::Directory => Kind::Directory,
        DescriptorType::SymbolicLink => Kind::Link,
        _ => Kind::Other,
    }
}

impl WasiDirectory {
    /// Returns where something is below the granted directory.
    fn path_of(&self, path: &str) -> String {
        match (self.path.as_str(), path) {
            (above, "") => above.to_owned(),
            ("", path) => path.to_owned(),
            (above, path) => format!("{above}/{path}"),
        }
    }
}

/// Understands a list of `bulk`.
fn listing(entries: &str) -> Option<Listing> {
    let mut listing = Listing::default();
    for entry in entries.split_terminator('/') {
        let (kind, name) = entry.split_at_checked(1)?;
        let kind = match kind {
            "f" => Kind::File,
            "d" => Kind::Directory,
            "l" => Kind::Link,
            "o" => Kind::Other,
            "!" => {
                listing.illegal_names += 1;
                continue;
            }
            _ => return None,
        };
        if matches!(name, "" | "." | "..") {
            return None;
        }
        listing.entries.push(Entry {
            name: name.to_owned(),
            kind,
        });
    }
    Some(listing)
}

/// Files that the host reads.
struct HostReading {
    reader: bulk::Reader,
    /// What it read last, and how much of that was taken.
    page: String,
    at: usize,
}

impl Reading for HostReading {
    fn next(&mut self) -> PortResult<(Stat, &str)> {
        if self.at >= self.page.len() {
            self.page = self.reader.next();
            self.at = 0;
        }
        let rest = self.page.get(self.at..).unwrap_or_default();
        let length = rest.find('\n').unwrap_or(rest.len());
        let from = self.at + length + 1;
        self.at = from;
        match line(rest.get(..length)) {
            Line::Absent => Err(PortError::NotFound),
            Line::Unsaid => Err(PortError::Unsupported),
            Line::File(stat) => {
                let to = usize::try_from(stat.size).ok();
                let to = to.and_then(|size| from.checked_add(size));
                let content = to.and_then(|to| {
                    self.at = to.saturating_add(1);
                    self.page.get(from..to)
                });
                Ok((stat, content.ok_or(PortError::Unsupported)?))
            }
        }
    }
}

/// What the host says of a file.
enum Line {
    Absent,
    File(Stat),
    /// Nothing that helps.
    Unsaid,
}

/// Understands a line of an answer of `bulk`.
fn line(line: Option<&str>) -> Line {
    let Some(line) = line else {
        return Line::Unsaid;
    };
    if line == "-" {
        return Line::Absent;
    }
    match numbers(line.as_bytes()) {
        Some([size, links, modified, changed]) => Line::File(Stat {
            kind: Kind::File,
            size,
            links,
            modified,
            changed,
        }),
        None => Line::Unsaid,
    }
}

/// Reads numbers with a space between them.
fn numbers<const N: usize>(line: &[u8]) -> Option<[u64; N]> {
    /// 64 bits hold all numbers of so many digits.
    const DIGITS: usize = 19;
    let mut numbers = [0; N];
    let mut bytes = line.iter();
    for (index, number) in numbers.iter_mut().enumerate() {
        let mut digits = 0;
        let ended = loop {
            match bytes.next() {
                Some(digit @ b'0'..=b'9') if digits < DIGITS => {
                    *number = *number * 10 + u64::from(digit - b'0');
                    digits += 1;
                }
                Some(b' ') => break index + 1 < N,
                None => break index + 1 == N,
                Some(_) => return None,
            }
        };
        if digits == 0 || !ended {
            return None;
        }
    }
    Some(numbers)
}

/// Reads a SHA-256 in hexadecimal.
fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != digest.len() || !rest.is_empty() {
        return None;
    }
    for (byte, [high, low]) in digest.iter_mut().zip(pairs) {
        let digit = |digit: &u8| char::from(*digit).to_digit(16);
        *byte = u8::try_from(digit(high)? << 4 | digit(low)?).ok()?;
    }
    Some(digest)
}

impl Directory for WasiDirectory {
    fn stat(&self, path: &str) -> PortResult<Stat> {
        let path = if path.is_empty() { "." } else { path };
        self.descriptor
            .stat_at(PathFlags::empty(), path)
            .map(|found| stat(&found))
            .map_err(reason)
    }

    fn look(&self, names: &[&str]) -> Vec<PortResult<Stat>> {
        let mut found = Vec::with_capacity(names.len());
        for names in names.chunks(LOOKED_AT) {
            let answer = bulk::look(&self.path, &names.join("/")).unwrap_or_default();
            let mut lines = answer.lines();
            // Whatever the host does not say, or says in another way, WASI says.
            found.extend(names.iter().map(|name| match line(lines.next()) {
                Line::Absent => Err(PortError::NotFound),
                Line::File(stat) => Ok(stat),
                Line::Unsaid => self.stat(name),
            }));
        }
        found
    }

    fn digest(&self, path: &str) -> PortResult<(Stat, [u8; 32])> {
        let path = self.path_of(path);
        let (directory, name) = path.rsplit_once('/').ok_or(PortError::Unsupported)?;
        let answer = bulk::digest(directory, name);
        let said = answer.as_deref().and_then(|answer| answer.rsplit_once(' '));
        match said.map(|(stat, digest)| (line(Some(stat)), unhex(digest))) {
            Some((Line::File(stat), Some(digest))) => Ok((stat, digest)),
            _ => Err(PortError::Unsupported),
        }
    }

    fn read(&self, names: &[&str]) -> Option<Box<dyn Reading>> {
        let reader = bulk::read(&self.path, &names.join("/"))?;
        Some(Box::new(HostReading {
            reader,
            page: String::new(),
            at: 0,
        }))
    }

    fn list(&self, path: &str) -> PortResult<Listing> {
        if let Some(entries) = bulk::list(&self.path_of(path))
            && let Some(listing) = listing(&entries)
        {
            return Ok(listing);
        }
        let stream = match path {
            "" => self.descriptor.read_directory(),
            path => open_directory(&self.descriptor, path)
                .and_then(|directory| directory.read_directory()),
        };
        let stream = stream.map_err(reason)?;
        let mut listing = Listing::default();
        loop {
            match stream.read_directory_entry() {
                Ok(None) => return Ok(listing),
                Ok(Some(entry)) => listing.entries.push(Entry {
                    kind: kind(entry.type_),
                    name: entry.name,
                }),
                // The entry vanished between being read and being looked at.
                Err(ErrorCode::NoEntry) => {}
                Err(ErrorCode::IllegalByteSequence) => listing.illegal_names += 1,
                Err(code) => return Err(reason(code)),
            }
        }
    }

    fn open_directory(&self, path: &str) -> PortResult<Rc<dyn Directory>> {
        open_directory(&self.descriptor, path)
            .map(|descriptor| {
                let path = self.path_of(path);
                Rc::new(Self { descriptor, path }) as Rc<dyn Directory>
            })
            .map_err(reason)
    }

    fn create_directory(&self, path: &str) -> PortResult<()> {
        self.descriptor.create_directory_at(path).map_err(reason)
    }

    fn open(&self, path: &str, mode: OpenMode) -> PortResult<Box<dyn File>> {
        let both = DescriptorFlags::READ | DescriptorFlags::WRITE;
        let (open, flags) = match mode {
            OpenMode::Read => (OpenFlags::empty(), DescriptorFlags::READ),
            OpenMode::CreateNew => (OpenFlags::CREATE | OpenFlags::EXCLUSIVE, both),
            OpenMode::Update => (OpenFlags::empty(), both),
            OpenMode::Append => (OpenFlags::CREATE, both),
        };
        let opened = self
            .descriptor
            .open_at(PathFlags::empty(), path, open, flags);
        opened
            .map(|file| Box::new(WasiFile(file)) as Box<dyn File>)
            .map_err(reason)
    }

    fn rename(&self, from: &str, to: &str) -> PortResult<()> {
        self.descriptor
            .rename_at(from, &self.descriptor, to)
            .map_err(reason)
    }

    fn remove_file(&self, path: &str) -> PortResult<()> {
        self.descriptor.unlink_file_at(path).map_err(reason)
    }

    fn remove_directory(&self, path: &str) -> PortResult<()> {
        self.descriptor.remove_directory_at(path).map_err(reason)
    }

    fn set_modified(&self, path: &str, time: u64) -> PortResult<()> {
        let modified = NewTimestamp::Timestamp(wall_clock::Datetime {
            seconds: time / 1_000_000_000,
            nanoseconds: u32::try_from(time % 1_000_000_000).unwrap_or_default(),
        });
        self.descriptor
            .set_times_at(PathFlags::empty(), path, NewTimestamp::NoChange, modified)
            .map_err(reason)
    }

    fn sync(&self) -> PortResult<()> {
        // Some hosts cannot sync the granted descriptor itself, but every one that was opened.
        let again = self
            .descriptor
            .open_at(
                PathFlags::empty(),
                ".",
                OpenFlags::DIRECTORY,
                DescriptorFlags::READ,
            )
            .map_err(reason)?;
        again.sync().map_err(reason)
    }
}

impl File for WasiFile {
    fn read(&self, offset: u64, length: usize) -> PortResult<Vec<u8>> {
        self.0
            .read(length as u64, offset)
            .map(|(content, _)| content)
            .map_err(reason)
    }

    fn write(&self, offset: u64, content: &[u8]) -> PortResult<()> {
        let mut written = 0;
        while written < content.len() {
            let count = self
                .0
                .write(&content[written..], offset + written as u64)
                .map_err(reason)?;
            if count == 0 {
                return Err(PortError::Device);
            }
            written += usize::try_from(count)
                .unwrap_or(usize::MAX)
                .min(content.len() - written);
        }
        Ok(())
    }

    fn append(&self, content: &[u8]) -> PortResult<()> {
        let stream = self.0.append_via_stream().map_err(reason)?;
        // The most that the interface takes in one call.
        for piece in content.chunks(4096) {
            stream
                .blocking_write_and_flush(piece)
                .map_err(|error| match error {
                    wasip2::io::streams::StreamError::Closed => PortError::Device,
                    wasip2::io::streams::StreamError::LastOperationFailed(error) => {
                        wasip2::filesystem::types::filesystem_error_code(&error)
                            .map_or(PortError::Device, reason)
                    }
                })?;
        }
        Ok(())
    }

    fn set_size(&self, size: u64) -> PortResult<()> {
        self.0.set_size(size).map_err(reason)
    }

    fn stat(&self) -> PortResult<Stat> {
        self.0.stat().map(|found| stat(&found)).map_err(reason)
    }

    fn sync_data(&self) -> PortResult<()> {
        self.0.sync_data().map_err(reason)
    }
}

/// The `roots` import.
struct HostRoots;

/// A lock that the host holds.
struct HostLock {
    lock: roots::Lock,
    /// The content of its file.
    content: RefCell<Vec<u8>>,
}

fn lock_error(error: roots::LockError) -> LockError {
    match error {
        roots::LockError::TimedOut => LockError::TimedOut,
        roots::LockError::Unavailable(reason) => LockError::Unavailable(reason),
        roots::LockError::Refused(reason) => LockError::Refused(reason),
        roots::LockError::NoDirectory => LockError::NoDirectory,
        roots::LockError::ReadOnly => LockError::ReadOnly,
        roots::LockError::Io(reason) => LockError::Io(reason),
    }
}

impl Roots for HostRoots {
    fn acquire(
        &self,
        target: LockTarget<'_>,
        mode: LockMode,
        timeout_ms: u32,
    ) -> Result<Box<dyn Lock>, LockError> {
        let target = match target {
            LockTarget::Run(run) => roots::LockTarget::Run(run.to_owned()),
            LockTarget::Segment(segment) => roots::LockTarget::Segment(segment.to_owned()),
            LockTarget::Maintenance => roots::LockTarget::Maintenance,
        };
        let mode = match mode {
            LockMode::Shared => roots::LockMode::Shared,
            LockMode::Exclusive => roots::LockMode::Exclusive,
        };
        let taken = roots::acquire(&target, mode, timeout_ms);
        taken
            .map(|(lock, content)| {
                let content = RefCell::new(content);
                Box::new(HostLock { lock, content }) as Box<dyn Lock>
            })
            .map_err(lock_error)
    }

    fn sync(&self) -> Result<(), String> {
        roots::sync()
    }

    fn identity(&self) -> Identity {
        let identity = roots::get_identity();
        Identity {
            machine: identity.machine,
            boot: identity.boot,
            device: identity.device,
            inode: identity.inode,
        }
    }

    fn utc_offset(&self, at_seconds: i64) -> i32 {
        roots::utc_offset(at_seconds)
    }
}

impl Lock for HostLock {
    fn content(&self) -> Result<Vec<u8>, LockError> {
        Ok(self.content.borrow().clone())
    }

    fn set_content(&self, content: &[u8]) -> Result<(), LockError> {
        // Whatever part of it was written if this fails, the next holder reads it again.
        self.lock.set_content(content).map_err(lock_error)?;
        self.content.replace(content.to_vec());
        Ok(())
    }
}

struct WasiClock;

impl Clock for WasiClock {
    fn now(&self) -> u64 {
        let now = wall_clock::now();
        now.seconds
            .saturating_mul(1_000_000_000)
            .saturating_add(u64::from(now.nanoseconds))
    }
}

struct WasiRandom;

impl Random for WasiRandom {
    fn next(&self) -> u64 {
        wasip2::random::random::get_random_u64()
    }
}
