//! Artifacts as Rust readers and writers.

use crate::bindings::exports::metalab::store::types::Error as WireError;
use crate::error::{Error, Result};
use crate::store::Leased;
use crate::types::ArtifactDescriptor;
use std::io::{self, Read, Seek, SeekFrom, Write};
use wasmtime::component::ResourceAny;

/// The most bytes that cross into or out of the component in one call.
pub(crate) const CHUNK: usize = 256 * 1024;

/// An artifact open for reading.
///
/// It holds an instance of the component until it is dropped.
pub struct ArtifactReader {
    pub(crate) leased: Leased,
    pub(crate) resource: ResourceAny,
    pub(crate) position: u64,
    pub(crate) size: u64,
}

impl ArtifactReader {
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
        let resource = self.resource;
        self.leased.run(|instance| {
            let guest = instance.bindings.metalab_store_store();
            Ok(Ok(guest
                .artifact_reader()
                .call_descriptor(&mut instance.store, resource)?))
        })
    }

    /// Reads from a byte offset: at most `length` bytes, or 256 KiB. Empty at and beyond the end.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn read_at(&mut self, offset: u64, length: usize) -> Result<Vec<u8>> {
        let length = u32::try_from(length.min(CHUNK)).unwrap_or(u32::MAX);
        let resource = self.resource;
        self.leased.run(|instance| {
            let guest = instance.bindings.metalab_store_store();
            guest
                .artifact_reader()
                .call_read(&mut instance.store, resource, offset, length)
        })
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

impl Drop for ArtifactReader {
    fn drop(&mut self) {
        self.leased.drop_resource(self.resource);
    }
}

/// An artifact being written. Dropped before [`finish`](Self::finish), it leaves nothing behind.
///
/// It holds an instance of the component until it is dropped.
pub struct ArtifactWriter {
    pub(crate) leased: Leased,
    pub(crate) resource: ResourceAny,
}

impl ArtifactWriter {
    /// Appends bytes, however many.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn append(&mut self, content: &[u8]) -> Result<()> {
        let resource = self.resource;
        for chunk in content.chunks(CHUNK) {
            self.leased.run(|instance| {
                let guest = instance.bindings.metalab_store_store();
                guest
                    .artifact_writer()
                    .call_write(&mut instance.store, resource, chunk)
            })?;
        }
        Ok(())
    }

    /// Stores the artifact and returns its descriptor.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if size or hash are not those given, [`Error::Io`].
    pub fn finish(mut self) -> Result<ArtifactDescriptor> {
        let resource = self.resource;
        self.leased.run(
            |instance| -> wasmtime::Result<std::result::Result<_, WireError>> {
                let guest = instance.bindings.metalab_store_store();
                guest
                    .artifact_writer()
                    .call_finish(&mut instance.store, resource)
            },
        )
    }
}

impl Write for ArtifactWriter {
    fn write(&mut self, content: &[u8]) -> io::Result<usize> {
        let taken = content.len().min(CHUNK);
        self.append(&content[..taken]).map_err(io::Error::other)?;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for ArtifactWriter {
    fn drop(&mut self) {
        self.leased.drop_resource(self.resource);
    }
}

/// Turns an error of a source file into one of an argument: the caller named it.
pub(crate) fn source_failed(path: &std::path::Path, error: &io::Error) -> Error {
    Error::InvalidArgument(format!(
        "cannot read the artifact's source {}: {error}",
        path.display()
    ))
}
