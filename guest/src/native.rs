//! The ports on the operating system: cap-std directories and `flock`.
//!
//! They serve unit tests and the baseline that the component's speed is compared with. The component itself
//! runs on the ports of a host.

use crate::connection::{Connection, TlsMode};
use crate::native_database::NativeDatabases;
use crate::ports::{
    Clock, Databases, Directory, Entry, File, Identity, Kind, Listing, Lock, LockError, LockMode,
    LockTarget, NoDatabases, OpenMode, PortError, PortResult, Ports, Random, Roots, Stat,
};
use cap_std::ambient_authority;
use cap_std::fs::{Dir, Metadata, OpenOptions, OpenOptionsExt};
use rustix::fs::{FlockOperation, OFlags};
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::rc::Rc;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Returns the ports of a directory of this machine.
///
/// # Errors
/// If the directory cannot be opened.
pub fn ports(root: &Path) -> io::Result<Ports> {
    let directory = Dir::open_ambient_dir(root, ambient_authority())?;
    Ok(Ports {
        roots: Rc::new(NativeRoots(directory.try_clone()?)),
        directory: Rc::new(NativeDirectory(directory)),
        clock: Rc::new(SystemClock),
        random: Rc::new(SystemRandom),
        databases: Rc::new(NoDatabases),
    })
}

/// Returns the ports of a directory of this machine, and of a database under the name of a binding.
///
/// # Errors
/// If the directory cannot be opened.
pub fn ports_with_database(
    root: &Path,
    binding: &str,
    pool: metalab_store_postgres::Pool,
) -> io::Result<Ports> {
    Ok(Ports {
        databases: databases(binding, pool),
        ..ports(root)?
    })
}

/// Grants a database under the name of a binding.
pub fn databases(binding: &str, pool: metalab_store_postgres::Pool) -> Rc<dyn Databases> {
    Rc::new(NativeDatabases {
        binding: binding.to_owned(),
        pool,
    })
}

/// Makes a pool for a server that a configuration leads to, as a host does.
///
/// # Errors
/// If the settings cannot be obeyed.
pub fn pool(
    connection: Connection,
) -> Result<metalab_store_postgres::Pool, metalab_store_postgres::Failure> {
    use metalab_store_postgres as driver;
    let size = |size: u32| usize::try_from(size).unwrap_or(usize::MAX);
    let mut settings = driver::Settings::new("", 0, connection.database);
    settings.hosts = connection.hosts;
    settings.user = connection.user;
    settings.password = connection.password;
    settings.tls_mode = match connection.tls_mode {
        TlsMode::Disable => driver::TlsMode::Disable,
        TlsMode::Prefer => driver::TlsMode::Prefer,
        TlsMode::Require => driver::TlsMode::Require,
        TlsMode::VerifyCa => driver::TlsMode::VerifyCa,
        TlsMode::VerifyFull => driver::TlsMode::VerifyFull,
    };
    settings.ca_file = connection.ca_file;
    settings.parameters = connection.parameters;
    settings.connect_timeout = Duration::from_millis(connection.connect_timeout_ms.into());
    settings.min_size = size(connection.pool_min_size);
    settings.max_size = size(connection.pool_max_size);
    driver::Pool::new(settings)
}

/// Makes a pool for the server that tests use.
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop where it fails")]
pub(crate) fn test_pool() -> metalab_store_postgres::Pool {
    let uri = std::env::var("METALAB_TEST_POSTGRES").unwrap_or_else(|_| {
        panic!("METALAB_TEST_POSTGRES should name a PostgreSQL server to test with; `cargo xtask test` starts one")
    });
    let separator = if uri.contains('?') { '&' } else { '?' };
    let config = crate::config::from_locator(&format!("{uri}{separator}file_root=/")).unwrap();
    let resolved = crate::config::resolve(&config, None).unwrap();
    pool(resolved.connection.unwrap()).unwrap()
}

struct NativeDirectory(Dir);

struct NativeFile(std::fs::File);

fn reason(error: &io::Error) -> PortError {
    use rustix::io::Errno;
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT) => PortError::NotFound,
        Some(Errno::EXIST) => PortError::AlreadyExists,
        Some(Errno::NOTDIR) => PortError::NotDirectory,
        Some(Errno::ISDIR) => PortError::IsDirectory,
        Some(Errno::NOTEMPTY) => PortError::NotEmpty,
        Some(Errno::ROFS) => PortError::ReadOnly,
        Some(Errno::NOSPC | Errno::DQUOT) => PortError::NoSpace,
        Some(Errno::LOOP) => PortError::Loop,
        Some(Errno::NAMETOOLONG) => PortError::NameTooLong,
        Some(Errno::FBIG) => PortError::TooLarge,
        Some(Errno::IO) => PortError::Device,
        Some(Errno::OPNOTSUPP | Errno::NOSYS) => PortError::Unsupported,
        _ if error.kind() == io::ErrorKind::PermissionDenied => PortError::Denied,
        _ => PortError::Other("other"),
    }
}

fn kind(file_type: cap_std::fs::FileType) -> Kind {
    if file_type.is_file() {
        Kind::File
    } else if file_type.is_dir() {
        Kind::Directory
    } else if file_type.is_symlink() {
        Kind::Link
    } else {
        Kind::Other
    }
}

fn nanoseconds(time: io::Result<SystemTime>) -> u64 {
    let since = time
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    since
        .and_then(|since| u64::try_from(since.as_nanos()).ok())
        .unwrap_or_default()
}

fn stat(metadata: &Metadata) -> Stat {
    use cap_std::fs::MetadataExt as _;
    let changed = metadata
        .ctime()
        .saturating_mul(1_000_000_000)
        .saturating_add(metadata.ctime_nsec());
    Stat {
        kind: kind(metadata.file_type()),
        size: metadata.len(),
        links: metadata.nlink(),
        modified: nanoseconds(metadata.modified().map(cap_std::time::SystemTime::into_std)),
        changed: u64::try_from(changed).unwrap_or_default(),
    }
}

fn here(path: &str) -> &str {
    if path.is_empty() { "." } else { path }
}

impl Directory for NativeDirectory {
    fn stat(&self, path: &str) -> PortResult<Stat> {
        self.0
            .symlink_metadata(here(path))
            .map(|found| stat(&found))
            .map_err(|error| reason(&error))
    }

    fn list(&self, path: &str) -> PortResult<Listing> {
        // As in the component, a link is no directory.
        if !path.is_empty()
            && self
                .0
                .symlink_metadata(path)
                .is_ok_and(|found| found.is_symlink())
        {
            return Err(PortError::NotDirectory);
        }
        let mut listing = Listing::default();
        for entry in self
            .0
            .read_dir(here(path))
            .map_err(|error| reason(&error))?
        {
            let entry = entry.map_err(|error| reason(&error))?;
            match (entry.file_name().into_string(), entry.file_type()) {
                (Ok(name), Ok(found)) => listing.entries.push(Entry {
                    name,
                    kind: kind(found),
                }),
                (Err(_), _) => listing.illegal_names += 1,
                (Ok(_), Err(error)) if error.kind() == io::ErrorKind::NotFound => {}
                (Ok(_), Err(error)) => return Err(reason(&error)),
            }
        }
        Ok(listing)
    }

    fn open_directory(&self, path: &str) -> PortResult<Rc<dyn Directory>> {
        let opened = self.0.open_dir(here(path));
        opened
            .map(|opened| Rc::new(Self(opened)) as Rc<dyn Directory>)
            .map_err(|error| reason(&error))
    }

    fn create_directory(&self, path: &str) -> PortResult<()> {
        self.0.create_dir(path).map_err(|error| reason(&error))
    }

    fn open(&self, path: &str, mode: OpenMode) -> PortResult<Box<dyn File>> {
        let mut options = OpenOptions::new();
        match mode {
            OpenMode::Read => options.read(true),
            OpenMode::CreateNew => options.read(true).write(true).create_new(true),
            OpenMode::Update => options.read(true).write(true),
            OpenMode::Append => options.read(true).write(true).create(true),
        };
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        options.custom_flags(i32::try_from(flags.bits()).unwrap_or_default());
        let file = self
            .0
            .open_with(path, &options)
            .map_err(|error| reason(&error))?;
        let metadata = file.metadata().map_err(|error| reason(&error))?;
        if metadata.is_dir() {
            return Err(PortError::IsDirectory);
        }
        if !metadata.is_file() {
            return Err(PortError::Unsupported);
        }
        Ok(Box::new(NativeFile(file.into_std())))
    }

    fn rename(&self, from: &str, to: &str) -> PortResult<()> {
        self.0
            .rename(from, &self.0, to)
            .map_err(|error| reason(&error))
    }

    fn remove_file(&self, path: &str) -> PortResult<()> {
        self.0.remove_file(path).map_err(|error| reason(&error))
    }

    fn remove_directory(&self, path: &str) -> PortResult<()> {
        self.0.remove_dir(path).map_err(|error| reason(&error))
    }

    fn set_modified(&self, path: &str, time: u64) -> PortResult<()> {
        let omitted = rustix::fs::Timespec {
            tv_sec: 0,
            tv_nsec: rustix::fs::UTIME_OMIT,
        };
        let seconds = i64::try_from(time / 1_000_000_000).map_err(|_| PortError::Unsupported)?;
        let modified = rustix::fs::Timespec {
            tv_sec: seconds,
            tv_nsec: (time % 1_000_000_000).try_into().unwrap_or_default(),
        };
        let times = rustix::fs::Timestamps {
            last_access: omitted,
            last_modification: modified,
        };
        rustix::fs::utimensat(&self.0, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| reason(&error.into()))
    }

    fn sync(&self) -> PortResult<()> {
        // The handle itself may be one that cannot be synced (O_PATH).
        let opened = self.0.open(".").map_err(|error| reason(&error))?;
        opened.sync_all().map_err(|error| reason(&error))
    }
}

impl File for NativeFile {
    fn read(&self, offset: u64, length: usize) -> PortResult<Vec<u8>> {
        let mut content = vec![0; length.min(64 * 1024)];
        let count = self
            .0
            .read_at(&mut content, offset)
            .map_err(|error| reason(&error))?;
        content.truncate(count);
        Ok(content)
    }

    fn write(&self, offset: u64, content: &[u8]) -> PortResult<()> {
        self.0
            .write_all_at(content, offset)
            .map_err(|error| reason(&error))
    }

    fn append(&self, content: &[u8]) -> PortResult<()> {
        let flags = rustix::fs::fcntl_getfl(&self.0).map_err(|error| reason(&error.into()))?;
        rustix::fs::fcntl_setfl(&self.0, flags | OFlags::APPEND)
            .map_err(|error| reason(&error.into()))?;
        io::Write::write_all(&mut &self.0, content).map_err(|error| reason(&error))
    }

    fn set_size(&self, size: u64) -> PortResult<()> {
        self.0.set_len(size).map_err(|error| reason(&error))
    }

    fn stat(&self) -> PortResult<Stat> {
        let metadata = self.0.metadata().map_err(|error| reason(&error))?;
        let changed = metadata
            .ctime()
            .saturating_mul(1_000_000_000)
            .saturating_add(metadata.ctime_nsec());
        Ok(Stat {
            kind: Kind::File,
            size: metadata.len(),
            links: metadata.nlink(),
            modified: nanoseconds(metadata.modified()),
            changed: u64::try_from(changed).unwrap_or_default(),
        })
    }

    fn sync_data(&self) -> PortResult<()> {
        self.0.sync_data().map_err(|error| reason(&error))
    }
}

struct NativeRoots(Dir);

/// A locked file: closing it releases the lock.
struct NativeLock(std::fs::File);

fn failed(error: &io::Error) -> LockError {
    match reason(error) {
        PortError::ReadOnly => LockError::ReadOnly,
        PortError::Loop => LockError::Refused("it is a symbolic link".into()),
        _ => LockError::Io(error.to_string()),
    }
}

impl NativeRoots {
    fn open(&self, path: &str) -> Result<std::fs::File, LockError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true);
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        options.custom_flags(i32::try_from(flags.bits()).unwrap_or_default());
        match self.0.open_with(path, &options) {
            Ok(file) => Ok(file.into_std()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(LockError::NoDirectory),
            Err(error) => Err(failed(&error)),
        }
    }
}

impl Roots for NativeRoots {
    fn acquire(
        &self,
        target: LockTarget<'_>,
        mode: LockMode,
        timeout_ms: u32,
    ) -> Result<Box<dyn Lock>, LockError> {
        let path = match target {
            LockTarget::Run(run) => format!(".locks/{run}.lock"),
            LockTarget::Segment(name) => format!(".index/{name}.lock"),
            LockTarget::Maintenance => ".index/maintenance.lock".to_owned(),
        };
        let operation = match mode {
            LockMode::Shared => FlockOperation::NonBlockingLockShared,
            LockMode::Exclusive => FlockOperation::NonBlockingLockExclusive,
        };
        let deadline = Instant::now() + Duration::from_millis(u64::from(timeout_ms));
        let mut pause = Duration::from_micros(50);
        loop {
            let file = self.open(&path)?;
            let metadata = file.metadata().map_err(|error| failed(&error))?;
            if !metadata.is_file() {
                return Err(LockError::Refused("it is not a regular file".into()));
            }
            match rustix::fs::flock(&file, operation) {
                Ok(()) => {
                    // A reference delete unlinks the file: the lock counts only if it is still the file's.
                    use cap_std::fs::MetadataExt as _;
                    match self.0.symlink_metadata(&path) {
                        Ok(named)
                            if (named.dev(), named.ino()) == (metadata.dev(), metadata.ino()) =>
                        {
                            return Ok(Box::new(NativeLock(file)));
                        }
                        _ => continue,
                    }
                }
                Err(rustix::io::Errno::WOULDBLOCK) => {}
                Err(
                    rustix::io::Errno::NOLCK
                    | rustix::io::Errno::OPNOTSUPP
                    | rustix::io::Errno::NOSYS,
                ) => {
                    return Err(LockError::Unavailable("flock is not supported here".into()));
                }
                Err(error) => return Err(failed(&error.into())),
            }
            if Instant::now() >= deadline {
                return Err(LockError::TimedOut);
            }
            sleep(pause.min(deadline.saturating_duration_since(Instant::now())));
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    fn sync(&self) -> Result<(), String> {
        let opened = self.0.open(".").map_err(|error| error.to_string())?;
        rustix::fs::syncfs(&opened).map_err(|error| error.to_string())
    }

    fn identity(&self) -> Identity {
        use cap_std::fs::MetadataExt as _;
        let read = |path: &str| {
            std::fs::read_to_string(path)
                .unwrap_or_default()
                .trim()
                .to_owned()
        };
        let metadata = self.0.dir_metadata();
        Identity {
            machine: read("/etc/machine-id"),
            boot: read("/proc/sys/kernel/random/boot_id"),
            device: metadata
                .as_ref()
                .map(|found| found.dev())
                .unwrap_or_default(),
            inode: metadata
                .as_ref()
                .map(|found| found.ino())
                .unwrap_or_default(),
        }
    }

    fn utc_offset(&self, _at_seconds: i64) -> i32 {
        // Tests want names that do not depend on the machine.
        0
    }
}

impl Lock for NativeLock {
    fn content(&self) -> Result<Vec<u8>, LockError> {
        let mut content = vec![0; 4096];
        let count = self
            .0
            .read_at(&mut content, 0)
            .map_err(|error| failed(&error))?;
        content.truncate(count);
        Ok(content)
    }

    fn set_content(&self, content: &[u8]) -> Result<(), LockError> {
        self.0
            .write_all_at(content, 0)
            .map_err(|error| failed(&error))?;
        self.0
            .set_len(content.len() as u64)
            .map_err(|error| failed(&error))
    }
}

struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> u64 {
        nanoseconds(Ok(SystemTime::now()))
    }
}

struct SystemRandom;

impl Random for SystemRandom {
    fn next(&self) -> u64 {
        // The standard library seeds each state from the operating system.
        RandomState::new().build_hasher().finish()
    }
}
