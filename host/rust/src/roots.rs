//! The `roots` import: locks, sync and identity of the one directory that is granted.
//!
//! Everything goes through a handle on that directory. Names come from the component and are checked here
//! again: whatever runs in its place cannot lock a file anywhere else.

use crate::bindings::metalab::store::roots::{
    Host, HostLock, Identity, LockError, LockMode, LockTarget,
};
use crate::types::Access;
use cap_std::fs::{Dir, MetadataExt};
use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock};
use std::thread::sleep;
use std::time::{Duration, Instant};
use wasmtime::component::{Resource, ResourceTable};

/// The most bytes of a lock's file that are read or written.
const MAX_CONTENT: usize = 4096;

/// The longest name of a lock, in bytes: with its suffix it is a file name.
const MAX_NAME: usize = 250;

/// How much of a refused name is shown, in characters.
const SHOWN: usize = 64;

/// The longest pause between two tries to take a lock.
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// How often a lock's file may be replaced while it is locked before the waiting begins. A reference delete
/// replaces it once.
const FREE_RETRIES: u32 = 16;

/// What the user is to know where nothing can be locked.
const UNLOCKED: &str = "nothing can be locked on the file system of this store: writers cannot exclude each other, \
     so that of two that change one run at the same time one may undo what the other did, and what a killed writer left is not put \
     right; let one process write at a time, or use a file system with working flock";

/// The directory that the `roots` import is about.
#[derive(Debug)]
pub struct RootsContext {
    /// None for an instance that is granted no directory.
    granted: Option<Granted>,
    /// The longest that a lock is waited for, whatever the component asks: no time limit of a call interrupts it.
    longest_wait: Duration,
    /// As many as there are readers of files, and one.
    pub(crate) readers: Arc<()>,
    /// What the user is to know, once nothing could be locked.
    unlocked: Arc<OnceLock<String>>,
}

#[derive(Debug)]
struct Granted {
    directory: Dir,
    access: Access,
    /// The directory opened for `syncfs`, once: the kernel reports a failed write-back to the descriptors
    /// that were open when it happened, and a descriptor opened later may never hear of it.
    sync: File,
}

impl RootsContext {
    /// Makes the context of a directory. With read-only access no lock can be taken: it would create a file.
    ///
    /// # Errors
    /// If the directory cannot be opened for reading.
    pub fn new(directory: Dir, access: Access) -> io::Result<Self> {
        // The handle itself may be one that cannot be synced (O_PATH).
        let sync = directory.open(".")?.into_std();
        Ok(Self {
            granted: Some(Granted {
                directory,
                access,
                sync,
            }),
            longest_wait: Duration::MAX,
            readers: Arc::default(),
            unlocked: Arc::default(),
        })
    }

    /// Notes here that nothing can be locked, as soon as that shows.
    #[must_use]
    pub(crate) fn telling(mut self, unlocked: Arc<OnceLock<String>>) -> Self {
        self.unlocked = unlocked;
        self
    }

    /// Limits how long a lock is waited for, whatever the component asks.
    #[must_use]
    pub fn longest_wait(mut self, longest_wait: Duration) -> Self {
        self.longest_wait = longest_wait;
        self
    }

    /// Returns the directory, if one is granted.
    pub(crate) fn directory(&self) -> Option<&Dir> {
        self.granted.as_ref().map(|granted| &granted.directory)
    }

    /// Makes the context of an instance that is granted no directory.
    #[must_use]
    pub fn none() -> Self {
        Self {
            granted: None,
            longest_wait: Duration::MAX,
            readers: Arc::default(),
            unlocked: Arc::default(),
        }
    }
}

/// A lock that is held. Closing the file releases it.
#[derive(Debug)]
pub struct HeldLock {
    file: File,
    /// Whether there was nothing in the file when it was locked.
    empty: bool,
}

impl HeldLock {
    /// Returns the content of the file.
    fn content(&self) -> Result<Vec<u8>, LockError> {
        if self.empty {
            return Ok(Vec::new());
        }
        let mut content = vec![0; MAX_CONTENT];
        let count = self.file.read_at(&mut content, 0);
        content.truncate(count.map_err(|error| failed(&error))?);
        Ok(content)
    }
}

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
    ) -> wasmtime::Result<Result<(Resource<HeldLock>, Vec<u8>), LockError>> {
        let taken = self
            .context
            .acquire(&target, mode, timeout_ms)
            .and_then(|lock| Ok((lock.content()?, lock)));
        Ok(match taken {
            Ok((content, lock)) => Ok((self.table.push(lock)?, content)),
            Err(error) => Err(error),
        })
    }

    fn sync(&mut self) -> wasmtime::Result<Result<(), String>> {
        let Some(granted) = &self.context.granted else {
            return Ok(Err("no directory is granted".to_owned()));
        };
        Ok(rustix::fs::syncfs(&granted.sync).map_err(|error| error.to_string()))
    }

    fn get_identity(&mut self) -> wasmtime::Result<Identity> {
        let (machine, boot) = tokens();
        let granted = self.context.granted.as_ref();
        let metadata = granted.and_then(|granted| granted.directory.dir_metadata().ok());
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
        let file = &self.table.get(&lock)?.file;
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
        let place = Place::of(target)?;
        let granted = self.granted.as_ref().ok_or(LockError::NoDirectory)?;
        if granted.access == Access::ReadOnly {
            return Err(LockError::ReadOnly);
        }
        let operation = match mode {
            LockMode::Shared => FlockOperation::NonBlockingLockShared,
            LockMode::Exclusive => FlockOperation::NonBlockingLockExclusive,
        };
        let wait = Duration::from_millis(u64::from(timeout_ms)).min(self.longest_wait);
        let deadline = Instant::now() + wait;
        let mut pause = Duration::from_micros(50);
        let mut replaced = 0;
        loop {
            let (file, opened) = place.open(&granted.directory)?;
            match rustix::fs::flock(&file, operation) {
                Ok(()) => {
                    if let Some(named) = place.named(&granted.directory, &opened) {
                        let empty = named.st_size == 0;
                        return Ok(HeldLock { file, empty });
                    }
                    replaced += 1;
                    if replaced <= FREE_RETRIES {
                        continue;
                    }
                }
                Err(Errno::WOULDBLOCK) => {}
                Err(Errno::INTR) => continue,
                Err(Errno::NOLCK | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                    self.unlocked.get_or_init(|| UNLOCKED.to_owned());
                    return Err(LockError::Unavailable(format!(
                        "{} cannot be locked on this file system",
                        place.path
                    )));
                }
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

/// Where a lock's file is, below the granted directory.
struct Place {
    directory: &'static str,
    file: String,
    /// Both, joined: to look at, never to open.
    path: String,
}

impl Place {
    fn of(target: &LockTarget) -> Result<Self, LockError> {
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
        if !harmless {
            // A name may be as large as what the component may pass at all, and the message goes back to it.
            let shown: String = name.chars().take(SHOWN).collect();
            return Err(LockError::Refused(format!(
                "{shown:?} is not the name of a file"
            )));
        }
        let file = format!("{name}.lock");
        Ok(Self {
            directory,
            path: format!("{directory}/{file}"),
            file,
        })
    }

    /// Opens the file, and creates it if it is missing. Each of the two steps is one name without a `/`, and
    /// neither follows a link: nothing outside the granted directory can be reached.
    fn open(&self, root: &Dir) -> Result<(File, Stat), LockError> {
        let refused = |what: &str| Err(LockError::Refused(format!("{} is {what}", self.path)));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = match rustix::fs::openat(root, self.directory, flags, Mode::empty()) {
            Ok(directory) => directory,
            Err(Errno::NOENT) => return Err(LockError::NoDirectory),
            Err(Errno::NOTDIR | Errno::LOOP) => {
                return Err(LockError::Refused(format!(
                    "{} is not a directory",
                    self.directory
                )));
            }
            Err(error) => return Err(failed(&error.into())),
        };
        // What is no file is not opened: opening alone does something to some devices.
        let seen = rustix::fs::statat(&directory, &self.file, AtFlags::SYMLINK_NOFOLLOW);
        if let Some(what) = seen.ok().and_then(|seen| misplaced(&seen)) {
            return refused(what);
        }
        // It may have taken the file's place since: a FIFO must not block, and a terminal must not become ours.
        let flags = OFlags::RDWR
            | OFlags::CREATE
            | OFlags::NOFOLLOW
            | OFlags::NONBLOCK
            | OFlags::NOCTTY
            | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o666);
        let file = match rustix::fs::openat(&directory, &self.file, flags, mode) {
            Ok(file) => file,
            // The directory was removed meanwhile.
            Err(Errno::NOENT) => return Err(LockError::NoDirectory),
            Err(Errno::LOOP) => return refused("a symbolic link"),
            Err(Errno::ISDIR) => return refused("a directory"),
            Err(Errno::NXIO) => return refused("not a regular file"),
            Err(error) => return Err(failed(&error.into())),
        };
        let stat = rustix::fs::fstat(&file).map_err(|error| failed(&error.into()))?;
        match misplaced(&stat) {
            None => Ok((file.into(), stat)),
            Some(what) => refused(what),
        }
    }

    /// Looks at the file again, if the name still leads to the one that was opened. A reference delete
    /// unlinks it, and a lock on a file without a name excludes nobody.
    fn named(&self, root: &Dir, opened: &Stat) -> Option<Stat> {
        let named = rustix::fs::statat(root, &self.path, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        let same = (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino);
        same.then_some(named)
    }
}

/// Says what something is that is no regular file.
fn misplaced(stat: &Stat) -> Option<&'static str> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => None,
        FileType::Symlink => Some("a symbolic link"),
        FileType::Directory => Some("a directory"),
        FileType::Fifo => Some("a FIFO"),
        FileType::Socket => Some("a socket"),
        FileType::CharacterDevice | FileType::BlockDevice => Some("a device"),
        FileType::Unknown => Some("not a regular file"),
    }
}

fn failed(error: &io::Error) -> LockError {
    if error.kind() == io::ErrorKind::ReadOnlyFilesystem {
        LockError::ReadOnly
    } else {
        LockError::Io(error.to_string())
    }
}

/// Prints bytes in lowercase hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the tokens of the machine and of its boot. They are read once: they do not change.
fn tokens() -> (String, String) {
    static TOKENS: OnceLock<(String, String)> = OnceLock::new();
    let token = |path: &str| {
        let Ok(text) = std::fs::read_to_string(path) else {
            return String::new();
        };
        // In containers the file is often there, and empty: that is no machine's id.
        if text.trim().is_empty() {
            return String::new();
        }
        // The machine's id is not to be shown to others as it is.
        let digest = Sha256::digest(text.trim().as_bytes());
        hex(&digest[..16])
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
        let first = context(directory.path(), Access::ReadWrite);
        let second = context(directory.path(), Access::ReadWrite);
        (directory, first, second)
    }

    fn context(path: &std::path::Path, access: Access) -> RootsContext {
        let directory = Dir::open_ambient_dir(path, ambient_authority()).unwrap();
        RootsContext::new(directory, access).unwrap()
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
        assert_eq!(fresh.file.metadata().unwrap().len(), 0);
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
    fn what_lies_in_the_place_of_a_lock_s_file_and_is_none_is_named_and_not_opened() {
        let (directory, first, _) = contexts();
        let locks = directory.path().join(".locks");
        let make = |name: &str, kind, device| {
            let mode = Mode::from_raw_mode(0o600);
            rustix::fs::mknodat(rustix::fs::CWD, locks.join(name), kind, mode, device)
        };
        make("fifo.lock", FileType::Fifo, 0).unwrap();
        std::fs::create_dir(locks.join("directory.lock")).unwrap();
        std::os::unix::fs::symlink("x", locks.join("link.lock")).unwrap();
        drop(std::os::unix::net::UnixListener::bind(locks.join("socket.lock")).unwrap());
        let mut cases = vec![
            ("fifo", "a FIFO"),
            ("directory", "a directory"),
            ("link", "a symbolic link"),
            ("socket", "a socket"),
        ];
        // A number that no driver has, so that opening it would be another error; only root may make one.
        let device = rustix::fs::makedev(511, 1);
        match make("device.lock", FileType::CharacterDevice, device) {
            Ok(()) => cases.push(("device", "a device")),
            Err(error) => println!("no device was tried: {error}"),
        }
        for (name, what) in cases {
            let refused = first.acquire(&run(name), LockMode::Exclusive, 0);
            let expected = format!(".locks/{name}.lock is {what}");
            assert_eq!(refused.unwrap_err(), LockError::Refused(expected));
        }
    }

    #[test]
    fn a_directory_of_locks_that_is_a_link_is_refused() {
        let (directory, first, _) = contexts();
        let locks = directory.path().join(".locks");
        std::fs::remove_dir(&locks).unwrap();
        // Even one that stays inside: the reference does not make such a thing.
        std::os::unix::fs::symlink(".index", &locks).unwrap();
        let refused = first.acquire(&run("a"), LockMode::Exclusive, 0);
        assert_eq!(
            refused.unwrap_err(),
            LockError::Refused(".locks is not a directory".to_owned())
        );
        assert!(!directory.path().join(".index/a.lock").exists());
    }

    #[test]
    fn a_waiting_lock_is_taken_when_its_holder_lets_go() {
        let (directory, first, second) = contexts();
        let held = first.acquire(&run("a"), LockMode::Exclusive, 0).unwrap();
        let waiter = std::thread::spawn(move || {
            second
                .acquire(&run("a"), LockMode::Exclusive, 60_000)
                .is_ok()
        });
        drop(held);
        assert!(waiter.join().unwrap());
        drop(directory);
    }

    #[test]
    fn a_lock_counts_again_after_the_whole_directory_was_replaced() {
        let (directory, first, second) = contexts();
        let locks = directory.path().join(".locks");
        let _stale = first.acquire(&run("a"), LockMode::Exclusive, 0).unwrap();
        std::fs::rename(&locks, directory.path().join("aside")).unwrap();
        std::fs::create_dir(&locks).unwrap();
        let _held = second.acquire(&run("a"), LockMode::Exclusive, 0).unwrap();
        assert_eq!(
            first
                .acquire(&run("a"), LockMode::Exclusive, 0)
                .unwrap_err(),
            LockError::TimedOut
        );
    }

    #[test]
    fn a_read_only_grant_takes_no_lock_and_creates_no_file() {
        let (directory, ..) = contexts();
        let reader = context(directory.path(), Access::ReadOnly);
        assert_eq!(
            reader.acquire(&run("a"), LockMode::Shared, 0).unwrap_err(),
            LockError::ReadOnly
        );
        assert!(!directory.path().join(".locks/a.lock").exists());
    }

    #[test]
    fn the_content_of_a_lock_is_replaced_whole_and_bounded() {
        let (directory, first, _) = contexts();
        let mut table = ResourceTable::new();
        let mut view = RootsView {
            context: &first,
            table: &mut table,
        };
        let (lock, content) = view
            .acquire(run("a"), LockMode::Exclusive, 0)
            .unwrap()
            .unwrap();
        assert_eq!(content, b"");
        let handle = lock.rep();
        let lock = || Resource::<HeldLock>::new_borrow(handle);
        view.set_content(lock(), b"generation 12".to_vec())
            .unwrap()
            .unwrap();
        view.set_content(lock(), b"13".to_vec()).unwrap().unwrap();
        assert!(matches!(
            view.set_content(lock(), vec![0; MAX_CONTENT + 1]).unwrap(),
            Err(LockError::Refused(_))
        ));
        let path = directory.path().join(".locks/a.lock");
        assert_eq!(std::fs::read(&path).unwrap(), b"13");
        view.drop(Resource::new_own(handle)).unwrap();
        let content = |view: &mut RootsView<'_>| {
            let taken = view.acquire(run("a"), LockMode::Exclusive, 0);
            let (lock, content) = taken.unwrap().unwrap();
            view.drop(lock).unwrap();
            content
        };
        assert_eq!(content(&mut view), b"13");
        // A foreign writer may have left more than the component is to hold.
        std::fs::write(&path, vec![b'x'; 3 * MAX_CONTENT]).unwrap();
        assert_eq!(content(&mut view).len(), MAX_CONTENT);
    }

    #[test]
    fn the_identity_is_that_of_the_granted_directory() {
        let (directory, first, second) = contexts();
        let mut table = ResourceTable::new();
        let mut identity = |context: &RootsContext| {
            let table = &mut table;
            RootsView { context, table }.get_identity().unwrap()
        };
        let stat = rustix::fs::stat(directory.path()).unwrap();
        let found = identity(&first);
        assert_eq!((found.device, found.inode), (stat.st_dev, stat.st_ino));
        assert_eq!(identity(&second), found);
        let elsewhere = tempfile::tempdir().unwrap();
        let other = identity(&context(elsewhere.path(), Access::ReadOnly));
        assert_ne!(other.inode, found.inode);
        assert_eq!((other.machine, other.boot), (found.machine, found.boot));
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
