//! What an instance is granted: one directory, by a handle that was opened before and is kept.

use crate::error::{Error, Result};
use crate::roots::RootsContext;
use crate::types::Access;
use cap_std::ambient_authority;
use cap_std::fs::Dir;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use wasmtime_wasi::{FsPerms, WasiCtxBuilder};

/// The name under which the component sees its directory.
const GUEST_NAME: &str = "store";

/// A directory that instances may use.
#[derive(Debug)]
pub(crate) struct Grant {
    directory: Dir,
    /// The directory by its name outside, for messages.
    path: PathBuf,
    access: Access,
}

impl Grant {
    /// Opens a directory to grant it. With write access, missing directories are created.
    pub(crate) fn open(root: &Path, subdirectory: Option<&str>, access: Access) -> Result<Self> {
        let refuse = |path: &Path, error: std::io::Error| Error::Root {
            path: path.to_owned(),
            reason: reason(&error),
        };
        let create = access == Access::ReadWrite;
        if create && !root.exists() {
            std::fs::create_dir_all(root).map_err(|error| refuse(root, error))?;
        }
        let mut directory = Dir::open_ambient_dir(root, ambient_authority())
            .map_err(|error| refuse(root, error))?;
        let mut path = root.to_owned();
        if let Some(name) = subdirectory {
            path.push(name);
            // Below the root everything goes through its handle: no link leads out of it.
            if create && directory.symlink_metadata(name).is_err() {
                directory
                    .create_dir(name)
                    .or_else(|error| match error.kind() {
                        std::io::ErrorKind::AlreadyExists => Ok(()),
                        _ => Err(refuse(&path, error)),
                    })?;
            }
            directory = directory
                .open_dir(name)
                .map_err(|error| refuse(&path, error))?;
        }
        Ok(Self {
            directory,
            path,
            access,
        })
    }

    /// Grants the directory to an instance that is about to be made.
    pub(crate) fn apply(&self, builder: &mut WasiCtxBuilder) -> Result<()> {
        let perms = match self.access {
            Access::ReadOnly => FsPerms::ReadOnly,
            Access::ReadWrite => FsPerms::ReadWrite,
        };
        // Before the directory is added: the switch is copied into it.
        builder.allow_blocking_current_thread(true);
        // The handle that was checked is the one that is granted, whatever its path leads to by now.
        let handle = format!("/proc/self/fd/{}", self.directory.as_raw_fd());
        let added = builder.preopened_dir(&handle, GUEST_NAME, perms);
        added.map_err(|error| Error::Root {
            path: self.path.clone(),
            reason: format!("{error:#}"),
        })?;
        Ok(())
    }

    /// Returns what the `roots` import of an instance works on.
    pub(crate) fn roots(&self) -> Result<RootsContext> {
        let context = RootsContext::new(self.directory()?, self.access);
        context.map_err(|error| Error::Root {
            path: self.path.clone(),
            reason: reason(&error),
        })
    }

    /// Returns another handle on the directory.
    pub(crate) fn directory(&self) -> Result<Dir> {
        let cloned = self.directory.try_clone();
        cloned.map_err(|error| Error::Root {
            path: self.path.clone(),
            reason: reason(&error),
        })
    }
}

/// Says in words why a directory cannot be opened.
fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such directory".to_owned(),
        std::io::ErrorKind::NotADirectory => "it is not a directory".to_owned(),
        std::io::ErrorKind::AlreadyExists => "a file is in its place".to_owned(),
        std::io::ErrorKind::PermissionDenied => "access is denied".to_owned(),
        std::io::ErrorKind::ReadOnlyFilesystem => "the file system is read-only".to_owned(),
        _ => error.to_string(),
    }
}
