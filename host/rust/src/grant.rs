//! What an instance is granted: one directory, by a handle that was opened before and is kept.

use crate::error::{Error, Result};
use crate::postgres::Bindings;
use crate::roots::RootsContext;
use crate::types::Access;
use cap_std::ambient_authority;
use cap_std::fs::Dir;
use rustix::fs::AtFlags;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use wasmtime_wasi::{FsPerms, HostWallClock, WasiCtxBuilder};

/// The name under which the component sees its directory.
const GUEST_NAME: &str = "store";

/// Tells how long ago 1970 began.
#[derive(Clone)]
pub(crate) struct Clock(pub(crate) Arc<dyn Fn() -> Duration + Send + Sync>);

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}

impl HostWallClock for Clock {
    fn resolution(&self) -> Duration {
        Duration::from_nanos(1)
    }

    fn now(&self) -> Duration {
        (self.0)()
    }
}

/// A directory that instances may use.
#[derive(Debug)]
pub(crate) struct Grant {
    directory: Dir,
    /// The directory by its name outside, for messages.
    path: PathBuf,
    access: Access,
    bindings: Bindings,
    clock: Option<Clock>,
    unlocked: Arc<OnceLock<String>>,
}

impl Grant {
    /// Opens a directory to grant it. With write access, missing directories are created.
    pub(crate) fn open(root: &Path, subdirectory: Option<&str>, access: Access) -> Result<Self> {
        let create = access == Access::ReadWrite;
        let opened = match Dir::open_ambient_dir(root, ambient_authority()) {
            Err(error) if create && error.kind() == io::ErrorKind::NotFound => {
                std::fs::create_dir_all(root)
                    .and_then(|()| Dir::open_ambient_dir(root, ambient_authority()))
            }
            opened => opened,
        };
        let mut directory = opened.map_err(|error| refused(root, &error))?;
        let mut path = root.to_owned();
        if let Some(name) = subdirectory {
            path.push(name);
            // Below the root everything goes through its handle: no link leads out of it.
            let opened = match directory.open_dir(name) {
                Err(error) if create && error.kind() == io::ErrorKind::NotFound => {
                    match directory.create_dir(name) {
                        // Somebody else opens the same experiment for the first time.
                        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                        created => created,
                    }
                    .and_then(|()| directory.open_dir(name))
                }
                opened => opened,
            };
            directory = opened.map_err(|error| refused(&path, &error))?;
        }
        if create {
            let needed = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
            rustix::fs::accessat(&directory, ".", needed, AtFlags::empty()).map_err(|errno| {
                let why = reason(&errno.into());
                Error::Root {
                    path: path.clone(),
                    reason: format!("it cannot be written ({why}); it may be opened read-only"),
                }
            })?;
        }
        Ok(Self {
            directory,
            path,
            access,
            bindings: Bindings::default(),
            clock: None,
            unlocked: Arc::default(),
        })
    }

    /// Lets the component have another time than the system's.
    pub(crate) fn with_clock(mut self, clock: Option<Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Returns what the user is to know if nothing could be locked.
    pub(crate) fn unlocked(&self) -> Option<&str> {
        self.unlocked.get().map(String::as_str)
    }

    /// Grants databases too.
    pub(crate) fn with_bindings(mut self, bindings: Bindings) -> Self {
        self.bindings = bindings;
        self
    }

    /// Returns the databases.
    pub(crate) fn bindings(&self) -> Bindings {
        self.bindings.clone()
    }

    /// Grants the directory to an instance that is about to be made.
    pub(crate) fn apply(&self, builder: &mut WasiCtxBuilder) -> Result<()> {
        let perms = match self.access {
            Access::ReadOnly => FsPerms::ReadOnly,
            Access::ReadWrite => FsPerms::ReadWrite,
        };
        if let Some(clock) = &self.clock {
            builder.wall_clock(clock.clone());
        }
        // Before the directory is added: the switch is copied into it.
        builder.allow_blocking_current_thread(true);
        // The handle that was checked is the one that is granted, whatever its path leads to by now.
        let handle = PathBuf::from(format!("/proc/self/fd/{}", self.directory.as_raw_fd()));
        let granted = if handle.is_dir() { &handle } else { &self.path };
        let added = builder.preopened_dir(granted, GUEST_NAME, perms);
        added.map_err(|error| Error::Root {
            path: self.path.clone(),
            reason: format!("{error:#}"),
        })?;
        Ok(())
    }

    /// Returns what the `roots` import of an instance works on.
    pub(crate) fn roots(&self) -> Result<RootsContext> {
        let directory = self.directory.try_clone();
        directory
            .and_then(|directory| RootsContext::new(directory, self.access))
            .map(|roots| roots.telling(Arc::clone(&self.unlocked)))
            .map_err(|error| refused(&self.path, &error))
    }

    /// Returns the directory.
    pub(crate) fn directory(&self) -> &Dir {
        &self.directory
    }

    /// Says what may be done with it.
    pub(crate) fn access(&self) -> Access {
        self.access
    }
}

fn refused(path: &Path, error: &io::Error) -> Error {
    Error::Root {
        path: path.to_owned(),
        reason: reason(error),
    }
}

/// Says in words why a directory cannot be opened.
fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such directory".to_owned(),
        io::ErrorKind::NotADirectory => "it is not a directory".to_owned(),
        io::ErrorKind::AlreadyExists => "a file is in its place".to_owned(),
        // The operating system did not say so: the handle's sandbox did.
        io::ErrorKind::PermissionDenied if error.raw_os_error().is_none() => {
            "it leads outside of the store's root".to_owned()
        }
        io::ErrorKind::PermissionDenied => "access is denied".to_owned(),
        io::ErrorKind::ReadOnlyFilesystem => "the file system is read-only".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use std::os::unix::fs::symlink;

    fn reason_of(opened: Result<Grant>) -> String {
        match opened.unwrap_err() {
            Error::Root { reason, .. } => reason,
            other => panic!("{other}"),
        }
    }

    fn is_empty(directory: &tempfile::TempDir) -> bool {
        std::fs::read_dir(directory.path())
            .unwrap()
            .next()
            .is_none()
    }

    #[test]
    fn a_subdirectory_that_leads_out_of_the_root_is_refused_for_that_reason() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::create_dir(outside.path().join("inner")).unwrap();
        let root = tempfile::tempdir_in(outside.path()).unwrap();
        symlink(outside.path(), root.path().join("absolute")).unwrap();
        symlink("../inner", root.path().join("relative")).unwrap();
        symlink("absolute", root.path().join("chain")).unwrap();
        for name in ["absolute", "relative", "chain", "..", "../inner", "/etc"] {
            for access in [Access::ReadOnly, Access::ReadWrite] {
                let reason = reason_of(Grant::open(root.path(), Some(name), access));
                assert!(reason.contains("outside"), "{name}: {reason}");
            }
        }
    }

    #[test]
    fn a_subdirectory_that_is_a_link_to_nothing_outside_is_not_created_there() {
        let outside = tempfile::tempdir().unwrap();
        let root = tempfile::tempdir().unwrap();
        symlink(outside.path().join("new"), root.path().join("exp")).unwrap();
        Grant::open(root.path(), Some("exp"), Access::ReadWrite).unwrap_err();
        assert!(is_empty(&outside));
    }

    #[test]
    fn a_missing_directory_is_created_to_write_and_refused_to_read() {
        let parent = tempfile::tempdir().unwrap();
        let root = parent.path().join("a/b");
        for subdirectory in [None, Some("exp")] {
            let reason = reason_of(Grant::open(&root, subdirectory, Access::ReadOnly));
            assert_eq!(reason, "there is no such directory");
            assert!(is_empty(&parent));
        }
        Grant::open(&root, Some("exp"), Access::ReadWrite).unwrap();
        assert!(root.join("exp").is_dir());
        Grant::open(&root, Some("exp"), Access::ReadOnly).unwrap();
    }

    #[test]
    fn a_file_in_the_place_of_a_directory_is_named_as_that() {
        let parent = tempfile::tempdir().unwrap();
        std::fs::write(parent.path().join("file"), "").unwrap();
        for (root, subdirectory) in [("file", None), ("file/below", None), ("", Some("file"))] {
            let root = parent.path().join(root);
            let reason = reason_of(Grant::open(&root, subdirectory, Access::ReadWrite));
            assert_eq!(reason, "it is not a directory", "{}", root.display());
        }
    }

    #[test]
    fn what_is_granted_stays_the_directory_that_was_opened() {
        let parent = tempfile::tempdir().unwrap();
        let (root, aside) = (parent.path().join("root"), parent.path().join("aside"));
        let grant = Grant::open(&root, None, Access::ReadWrite).unwrap();
        std::fs::rename(&root, &aside).unwrap();
        std::fs::write(aside.join("mark"), "").unwrap();
        std::fs::create_dir(&root).unwrap();
        assert!(grant.directory().exists("mark"));
        // What the preopen is made from leads there too.
        let handle = format!("/proc/self/fd/{}/mark", grant.directory().as_raw_fd());
        assert!(Path::new(&handle).exists());
    }
}
