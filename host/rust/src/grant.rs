//! What an instance is granted: one directory, by a handle that was opened before and is kept.

use crate::error::{Error, Result};
use crate::roots::RootsContext;
use crate::types::Access;
use cap_std::ambient_authority;
use cap_std::fs::Dir;
use rustix::fs::AtFlags;
use std::io;
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
        io::ErrorKind::PermissionDenied => "access is denied".to_owned(),
        io::ErrorKind::ReadOnlyFilesystem => "the file system is read-only".to_owned(),
        _ => error.to_string(),
    }
}
