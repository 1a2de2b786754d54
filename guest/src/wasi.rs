//! The ports on WASI descriptors and on the `roots` import.
//!
//! Descriptors are used directly, not `std::fs`: they can sync a directory, and each operation is one call.

use crate::component::metalab::store::roots;
use crate::ports::{
    Clock, Directory, Entry, File, Identity, Kind, Listing, Lock, LockError, LockMode, LockTarget,
    OpenMode, PortError, PortResult, Ports, Random, Roots, Stat,
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
        directory: Rc::new(WasiDirectory(directory)),
        roots: Rc::new(HostRoots),
        clock: Rc::new(WasiClock),
        random: Rc::new(WasiRandom),
        databases: Rc::new(HostDatabases),
    })
}

/// A descriptor of a directory.
struct WasiDirectory(Descriptor);

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

impl Directory for WasiDirectory {
    fn stat(&self, path: &str) -> PortResult<Stat> {
        let path = if path.is_empty() { "." } else { path };
        self.0
            .stat_at(PathFlags::empty(), path)
            .map(|found| stat(&found))
            .map_err(reason)
    }

    fn list(&self, path: &str) -> PortResult<Listing> {
        let stream = match path {
            "" => self.0.read_directory(),
            path => open_directory(&self.0, path).and_then(|directory| directory.read_directory()),
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
        open_directory(&self.0, path)
            .map(|directory| Rc::new(Self(directory)) as Rc<dyn Directory>)
            .map_err(reason)
    }

    fn create_directory(&self, path: &str) -> PortResult<()> {
        self.0.create_directory_at(path).map_err(reason)
    }

    fn open(&self, path: &str, mode: OpenMode) -> PortResult<Box<dyn File>> {
        let both = DescriptorFlags::READ | DescriptorFlags::WRITE;
        let (open, flags) = match mode {
            OpenMode::Read => (OpenFlags::empty(), DescriptorFlags::READ),
            OpenMode::CreateNew => (
                OpenFlags::CREATE | OpenFlags::EXCLUSIVE,
                DescriptorFlags::WRITE,
            ),
            OpenMode::Update => (OpenFlags::empty(), both),
            OpenMode::Append => (OpenFlags::CREATE, both),
        };
        let opened = self.0.open_at(PathFlags::empty(), path, open, flags);
        opened
            .map(|file| Box::new(WasiFile(file)) as Box<dyn File>)
            .map_err(reason)
    }

    fn rename(&self, from: &str, to: &str) -> PortResult<()> {
        self.0.rename_at(from, &self.0, to).map_err(reason)
    }

    fn remove_file(&self, path: &str) -> PortResult<()> {
        self.0.unlink_file_at(path).map_err(reason)
    }

    fn remove_directory(&self, path: &str) -> PortResult<()> {
        self.0.remove_directory_at(path).map_err(reason)
    }

    fn set_modified(&self, path: &str, time: u64) -> PortResult<()> {
        let modified = NewTimestamp::Timestamp(wall_clock::Datetime {
            seconds: time / 1_000_000_000,
            nanoseconds: u32::try_from(time % 1_000_000_000).unwrap_or_default(),
        });
        self.0
            .set_times_at(PathFlags::empty(), path, NewTimestamp::NoChange, modified)
            .map_err(reason)
    }

    fn sync(&self) -> PortResult<()> {
        // Some hosts cannot sync the granted descriptor itself, but every one that was opened.
        let again = self
            .0
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
