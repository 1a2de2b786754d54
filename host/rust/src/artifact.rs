//! Artifacts as Rust readers and writers, and copied from files.

use crate::error::{Error, Result};
use crate::pool::Resource;
use crate::types::{ArtifactDescriptor, IoError};
use cap_std::fs::{Dir, OpenOptions};
use rustix::fs::OFlags;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The most bytes that cross into or out of the component in one call.
pub(crate) const CHUNK: usize = 256 * 1024;

/// An artifact open for reading.
///
/// It lives in the store: after [`Store::close`](crate::Store::close) its calls are [`Error::Closed`].
pub struct ArtifactReader {
    resource: Resource,
    position: u64,
    size: u64,
}

impl ArtifactReader {
    pub(crate) fn new(resource: Resource) -> Result<Self> {
        let size = resource.call(|instance, resource| {
            let guest = instance.bindings.metalab_store_store().artifact_reader();
            Ok(Ok(guest.call_size(&mut instance.store, resource)?))
        })?;
        Ok(Self {
            resource,
            position: 0,
            size,
        })
    }

    /// Returns the artifact's size in bytes when it was opened.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns its descriptor, if the run's artifact manifest has one for this file.
    ///
    /// # Errors
    /// [`Error::Trap`].
    pub fn descriptor(&mut self) -> Result<Option<ArtifactDescriptor>> {
        self.resource.call(|instance, resource| {
            let guest = instance.bindings.metalab_store_store().artifact_reader();
            Ok(Ok(guest.call_descriptor(&mut instance.store, resource)?))
        })
    }

    /// Reads from a byte offset: at most `length` bytes, or 256 KiB. Empty at and beyond the end.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn read_at(&mut self, offset: u64, length: usize) -> Result<Vec<u8>> {
        let length = length.min(CHUNK);
        let asked = u32::try_from(length).unwrap_or(u32::MAX);
        let mut content = self.resource.call(|instance, resource| {
            let guest = instance.bindings.metalab_store_store().artifact_reader();
            guest.call_read(&mut instance.store, resource, offset, asked)
        })?;
        // The length is the component's: more than was asked for would not fit the caller's buffer.
        content.truncate(length);
        Ok(content)
    }
}

impl Read for ArtifactReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let content = self
            .read_at(self.position, buffer.len())
            .map_err(io::Error::other)?;
        buffer[..content.len()].copy_from_slice(&content);
        self.position += content.len() as u64;
        Ok(content.len())
    }
}

impl Seek for ArtifactReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(by) => self.size.checked_add_signed(by),
        };
        self.position = target.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.position)
    }
}

/// An artifact being written. Dropped before [`finish`](Self::finish), it leaves nothing behind.
///
/// It lives in the store: after [`Store::close`](crate::Store::close) its calls are [`Error::Closed`].
pub struct ArtifactWriter {
    resource: Resource,
    /// What was appended and does not fill a call yet: many writers write little at a time.
    pending: Vec<u8>,
}

impl ArtifactWriter {
    pub(crate) fn new(resource: Resource) -> Self {
        Self {
            resource,
            pending: Vec::new(),
        }
    }

    /// Appends bytes, however many. Less than 256 KiB may wait for more, and so may their error.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn append(&mut self, mut content: &[u8]) -> Result<()> {
        if !self.pending.is_empty() {
            let (taken, rest) = content.split_at(content.len().min(CHUNK - self.pending.len()));
            self.pending.extend_from_slice(taken);
            content = rest;
            if self.pending.len() < CHUNK {
                return Ok(());
            }
            self.send_pending()?;
        }
        let (whole, rest) = content.split_at(content.len() - content.len() % CHUNK);
        for chunk in whole.chunks(CHUNK) {
            self.send(chunk)?;
        }
        self.pending.extend_from_slice(rest);
        Ok(())
    }

    fn send(&self, chunk: &[u8]) -> Result<()> {
        self.resource.call(|instance, resource| {
            let guest = instance.bindings.metalab_store_store().artifact_writer();
            guest.call_write(&mut instance.store, resource, chunk)
        })
    }

    fn send_pending(&mut self) -> Result<()> {
        let pending = std::mem::take(&mut self.pending);
        if pending.is_empty() {
            return Ok(());
        }
        self.send(&pending)?;
        // Its space serves again.
        self.pending = pending;
        self.pending.clear();
        Ok(())
    }

    /// Stores the artifact and returns its descriptor.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if size or hash are not those given, [`Error::Io`].
    pub fn finish(mut self) -> Result<ArtifactDescriptor> {
        self.send_pending()?;
        self.resource.call(|instance, resource| {
            let guest = instance.bindings.metalab_store_store().artifact_writer();
            guest.call_finish(&mut instance.store, resource)
        })
    }
}

impl Write for ArtifactWriter {
    fn write(&mut self, content: &[u8]) -> io::Result<usize> {
        self.append(content).map_err(io::Error::other)?;
        Ok(content.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send_pending().map_err(io::Error::other)
    }
}

/// Opens the file that an artifact is to be copied from.
pub(crate) fn open_source(path: &Path) -> Result<File> {
    let refused = |reason: &dyn std::fmt::Display| {
        Error::InvalidArgument(format!(
            "cannot read the artifact's source {}: {reason}",
            path.display()
        ))
    };
    // Opening a FIFO without a writer must not block, and what was opened is what is looked at.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::options()
        .read(true)
        .custom_flags(i32::try_from(flags.bits()).unwrap_or_default())
        .open(path)
        .map_err(|error| refused(&error))?;
    let metadata = file.metadata().map_err(|error| refused(&error))?;
    if metadata.is_file() {
        Ok(file)
    } else {
        Err(refused(&"it is not a regular file"))
    }
}

/// Copies a file into the store's directory, to a name that must not exist.
pub(crate) fn copy(source: &File, directory: &Dir, name: &str) -> Result<()> {
    let copied = directory
        .open_with(name, OpenOptions::new().write(true).create_new(true))
        .and_then(|target| {
            let target = target.into_std();
            // A file system that shares blocks needs no copy; any reason why not is a reason to copy.
            if rustix::fs::ioctl_ficlone(&target, source).is_ok() {
                return Ok(());
            }
            io::copy(&mut &*source, &mut &target).map(drop)
        });
    copied.map_err(|error| {
        Error::Io(IoError {
            file: name.to_owned(),
            operation: "copy".to_owned(),
            code: wasi_code(error.kind()).to_owned(),
            outcome_unknown: false,
            message: format!("cannot copy the artifact into the store's file {name}: {error}"),
        })
    })
}

/// Returns the name that WASI has for an error, as in the errors of the component.
fn wasi_code(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::StorageFull => "insufficient-space",
        io::ErrorKind::QuotaExceeded => "quota",
        io::ErrorKind::FileTooLarge => "file-too-large",
        io::ErrorKind::PermissionDenied => "access",
        io::ErrorKind::ReadOnlyFilesystem => "read-only",
        io::ErrorKind::AlreadyExists => "exist",
        io::ErrorKind::NotFound => "no-entry",
        _ => "io",
    }
}
