//! The `roots` import: locks, sync and identity of the one directory that is granted.
//!
//! Everything goes through a handle on that directory. Names come from the component and are checked here
//! again: whatever runs in its place cannot lock a file anywhere else.

use crate::bindings::metalab::store::roots::{
    Host, HostLock, Identity, LockError, LockMode, LockTarget,
};
use cap_std::fs::{Dir, File, MetadataExt, OpenOptions, OpenOptionsExt};
use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};
use wasmtime::component::{Resource, ResourceTable};

/// The most bytes of a lock's file that are read or written.
const MAX_CONTENT: usize = 4096;

/// The longest name of a lock, in bytes: with its suffix it is a file name.
const MAX_NAME: usize = 250;

/// The longest pause between two tries to take a lock.
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// The directory that the `roots` import is about.
#[derive(Debug)]
pub struct RootsContext {
    /// None for an instance that is granted no directory.
    directory: Option<Dir>,
}

impl RootsContext {
    /// Makes the context of a directory.
    #[must_use]
    pub fn new(directory: Dir) -> Self {
        Self {
            directory: Some(directory),
        }
    }

    /// Makes the context of an instance that is granted no directory.
    #[must_use]
    pub fn none() -> Self {
        Self { directory: None }
    }

    fn directory(&self) -> io::Result<&Dir> {
        self.directory
            .as_ref()
            .ok_or_else(|| io::Error::other("no directory is granted"))
    }
}

/// A lock that is held. Closing the file releases it.
#[derive(Debug)]
pub struct HeldLock(std::fs::File);

/// The context together with the table that its resources live in.
pub struct RootsView<'a> {
    /// The directory.
    pub context: &'a RootsContext,
    /// The component's resources.
    pub table: &'a mut ResourceTable,
}

impl Host for RootsView<'_> {
    fn acquire(
        &mut self,
        target: LockTarget,
        mode: LockMode,
        timeout_ms: u32,
    ) -> wasmtime::Result<Result<Resource<HeldLock>, LockError>> {
        match self.context.acquire(&target, mode, timeout_ms) {
            Ok(lock) => Ok(Ok(self.table.push(lock)?)),
            Err(error) => Ok(Err(error)),
        }
    }

    fn sync(&mut self) -> wasmtime::Result<Result<(), String>> {
        // The handle itself may be one that cannot be synced (O_PATH).
        let opened = self
            .context
            .directory()
            .and_then(|directory| directory.open("."));
        let synced = opened.and_then(|file| Ok(rustix::fs::syncfs(&file)?));
        Ok(synced.map_err(|error| error.to_string()))
    }

    fn get_identity(&mut self) -> wasmtime::Result<Identity> {
        let (machine, boot) = tokens();
        let metadata = self.context.directory().and_then(Dir::dir_metadata);
        Ok(Identity {
            machine,
            boot,
            device: metadata.as_ref().map(MetadataExt::dev).unwrap_or_default(),
            inode: metadata.as_ref().map(MetadataExt::ino).unwrap_or_default(),
        })
    }

    fn utc_offset(&mut self, at_seconds: i64) -> wasmtime::Result<i32> {
        let zone = jiff::tz::TimeZone::system();
        let offset =
            jiff::Timestamp::from_second(at_seconds).map(|at| zone.to_offset(at).seconds());
        Ok(offset.unwrap_or_default())
    }
}

impl HostLock for RootsView<'_> {
    fn content(
        &mut self,
        lock: Resource<HeldLock>,
    ) -> wasmtime::Result<Result<Vec<u8>, LockError>> {
        let file = &self.table.get(&lock)?.0;
        let mut content = vec![0; MAX_CONTENT];
        Ok(match file.read_at(&mut content, 0) {
            Ok(count) => {
                content.truncate(count);
                Ok(content)
            }
            Err(error) => Err(failed(&error)),
        })
    }

    fn set_content(
        &mut self,
        lock: Resource<HeldLock>,
        content: Vec<u8>,
    ) -> wasmtime::Result<Result<(), LockError>> {
        if content.len() > MAX_CONTENT {
            return Ok(Err(LockError::Refused(format!(
                "a lock's file holds at most {MAX_CONTENT} bytes"
            ))));
        }
        let file = &self.table.get(&lock)?.0;
        let written = file
            .write_all_at(&content, 0)
            .and_then(|()| file.set_len(content.len() as u64));
        Ok(written.map_err(|error| failed(&error)))
    }

    fn drop(&mut self, lock: Resource<HeldLock>) -> wasmtime::Result<()> {
        self.table.delete(lock)?;
        Ok(())
    }
}

impl RootsContext {
    fn acquire(
        &self,
        target: &LockTarget,
        mode: LockMode,
        timeout_ms: u32,
    ) -> Result<HeldLock, LockError> {
        let path = path(target)?;
        let directory = self.directory().map_err(|_| LockError::NoDirectory)?;
        let operation = match mode {
            LockMode::Shared => FlockOperation::NonBlockingLockShared,
            LockMode::Exclusive => FlockOperation::NonBlockingLockExclusive,
        };
        let deadline = Instant::now() + Duration::from_millis(u64::from(timeout_ms));
        let mut pause = Duration::from_micros(50);
        loop {
            let file = open(directory, &path)?;
            let opened = file.metadata().map_err(|error| failed(&error))?;
            if !opened.is_file() {
                return Err(LockError::Refused(format!("{path} is not a regular file")));
            }
            match rustix::fs::flock(&file, operation) {
                Ok(()) => {
                    // A reference delete unlinks the file: the lock counts only if it is still the file's.
                    let named = directory.symlink_metadata(&path);
                    if named.is_ok_and(|named| {
                        (named.dev(), named.ino()) == (opened.dev(), opened.ino())
                    }) {
                        return Ok(HeldLock(file.into_std()));
                    }
                }
                Err(Errno::WOULDBLOCK) => {}
                Err(Errno::NOLCK | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                    return Err(LockError::Unavailable(format!(
                        "{path} cannot be locked on this file system"
                    )));
                }
                Err(Errno::INTR) => continue,
                Err(error) => return Err(failed(&error.into())),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(LockError::TimedOut);
            }
            sleep(pause.min(left));
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

fn open(directory: &Dir, path: &str) -> Result<File, LockError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true);
    // A FIFO must not block, and a link must not be followed.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    options.custom_flags(i32::try_from(flags.bits()).unwrap_or_default());
    directory
        .open_with(path, &options)
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => LockError::NoDirectory,
            io::ErrorKind::IsADirectory => LockError::Refused(format!("{path} is a directory")),
            _ if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
                LockError::Refused(format!("{path} is a symbolic link"))
            }
            _ => failed(&error),
        })
}

fn failed(error: &io::Error) -> LockError {
    if error.kind() == io::ErrorKind::ReadOnlyFilesystem {
        LockError::ReadOnly
    } else {
        LockError::Io(error.to_string())
    }
}

/// Returns the lock's file, relative to the directory.
fn path(target: &LockTarget) -> Result<String, LockError> {
    let (directory, name) = match target {
        LockTarget::Run(run) => (".locks", run.as_str()),
        LockTarget::Segment(segment) => (".index", segment.as_str()),
        LockTarget::Maintenance => (".index", "maintenance"),
    };
    let harmless = !name.is_empty()
        && name.len() <= MAX_NAME
        && !name.starts_with('.')
        && !name
            .chars()
            .any(|character| character == '/' || character == '\\' || character.is_control());
    if harmless {
        Ok(format!("{directory}/{name}.lock"))
    } else {
        Err(LockError::Refused(format!(
            "{name:?} is not the name of a file"
        )))
    }
}

/// Returns the tokens of the machine and of its boot. They are read once: they do not change.
fn tokens() -> (String, String) {
    static TOKENS: OnceLock<(String, String)> = OnceLock::new();
    let token = |path: &str| {
        let Ok(text) = std::fs::read_to_string(path) else {
            return String::new();
        };
        // The machine's id is not to be shown to others as it is.
        let digest = Sha256::digest(text.trim().as_bytes());
        digest[..16]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    };
    TOKENS
        .get_or_init(|| {
            (
                token("/etc/machine-id"),
                token("/proc/sys/kernel/random/boot_id"),
            )
        })
        .clone()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use cap_std::ambient_authority;

    /// A directory with `.locks` and `.index` in it, and two contexts on it.
    fn contexts() -> (tempfile::TempDir, RootsContext, RootsContext) {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join(".locks")).unwrap();
        std::fs::create_dir(directory.path().join(".index")).unwrap();
        let open = || {
            RootsContext::new(Dir::open_ambient_dir(directory.path(), ambient_authority()).unwrap())
        };
        let (first, second) = (open(), open());
        (directory, first, second)
    }

    fn run(name: &str) -> LockTarget {
        LockTarget::Run(name.to_owned())
    }

    #[test]
    fn a_run_is_locked_by_one_holder_at_a_time_and_free_after_it() {
        let (_directory, first, second) = contexts();
        let held = first.acquire(&run("a"), LockMode::Exclusive, 0).unwrap();
        assert_eq!(
            second
                .acquire(&run("a"), LockMode::Exclusive, 1)
                .unwrap_err(),
            LockError::TimedOut
        );
        second.acquire(&run("b"), LockMode::Exclusive, 0).unwrap();
        drop(held);
        second.acquire(&run("a"), LockMode::Exclusive, 0).unwrap();
    }

    #[test]
    fn shared_holders_exclude_only_an_exclusive_one() {
        let (_directory, first, second) = contexts();
        let _one = first
            .acquire(&LockTarget::Maintenance, LockMode::Shared, 0)
            .unwrap();
        let _two = second
            .acquire(&LockTarget::Maintenance, LockMode::Shared, 0)
            .unwrap();
        assert_eq!(
            second
                .acquire(&LockTarget::Maintenance, LockMode::Exclusive, 0)
                .unwrap_err(),
            LockError::TimedOut
        );
    }

    #[test]
    fn the_lock_excludes_a_plain_flock_on_the_same_file() {
        let (directory, first, _) = contexts();
        let file = std::fs::File::create(directory.path().join(".locks/a.lock")).unwrap();
        rustix::fs::flock(&file, FlockOperation::LockExclusive).unwrap();
        assert_eq!(
            first
                .acquire(&run("a"), LockMode::Exclusive, 1)
                .unwrap_err(),
            LockError::TimedOut
        );
        drop(file);
        first.acquire(&run("a"), LockMode::Exclusive, 0).unwrap();
    }

    #[test]
    fn a_lock_on_a_file_that_was_unlinked_meanwhile_does_not_count() {
        let (directory, first, second) = contexts();
        let path = directory.path().join(".locks/a.lock");
        let _stale = first.acquire(&run("a"), LockMode::Exclusive, 0).unwrap();
        std::fs::remove_file(&path).unwrap();
        let fresh = second.acquire(&run("a"), LockMode::Exclusive, 0).unwrap();
        assert_eq!(fresh.0.metadata().unwrap().len(), 0);
        assert_eq!(
            first
                .acquire(&run("a"), LockMode::Exclusive, 1)
                .unwrap_err(),
            LockError::TimedOut
        );
    }

    #[test]
    fn what_is_no_file_directly_in_its_directory_is_refused() {
        let (directory, first, _) = contexts();
        for name in [
            "",
            ".",
            "..",
            "../a",
            "a/b",
            "a\\b",
            "a\0b",
            ".hidden",
            &"x".repeat(251),
        ] {
            assert!(
                matches!(
                    first.acquire(&run(name), LockMode::Exclusive, 0),
                    Err(LockError::Refused(_))
                ),
                "{name:?}"
            );
        }
        let outside = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(
            outside.path().join("x"),
            directory.path().join(".locks/link.lock"),
        )
        .unwrap();
        assert!(matches!(
            first.acquire(&run("link"), LockMode::Exclusive, 0),
            Err(LockError::Refused(_))
        ));
        assert!(!outside.path().join("x").exists());
        rustix::fs::mknodat(
            rustix::fs::CWD,
            directory.path().join(".locks/fifo.lock"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        assert!(matches!(
            first.acquire(&run("fifo"), LockMode::Exclusive, 0),
            Err(LockError::Refused(_))
        ));
        std::fs::create_dir(directory.path().join(".locks/dir.lock")).unwrap();
        assert!(matches!(
            first.acquire(&run("dir"), LockMode::Exclusive, 0),
            Err(LockError::Refused(_))
        ));
    }

    #[test]
    fn without_its_directory_a_lock_is_not_taken_and_nothing_is_created() {
        let (directory, first, _) = contexts();
        std::fs::remove_dir(directory.path().join(".locks")).unwrap();
        assert_eq!(
            first
                .acquire(&run("a"), LockMode::Exclusive, 0)
                .unwrap_err(),
            LockError::NoDirectory
        );
        assert!(!directory.path().join(".locks").exists());
    }
}
