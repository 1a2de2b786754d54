//! Archives: the stream, compressed.
//!
//! The compression is done here and not by the host, so that every host writes the same bytes. Each MiB of the
//! stream is a frame of its own: `zstd` and every other tool reads them one after the other as one file.

use super::tar::refused;
use crate::error::{Error, Result};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use std::collections::VecDeque;
use std::io::Read;

/// How much of the stream is one frame.
const FRAME: usize = 1024 * 1024;

/// With which bytes a frame begins.
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// How many times larger than the archive the stream may be, beyond [`FREE`].
pub const MAX_RATIO: u64 = 1000;

/// How large the stream of any archive may be.
pub const FREE: u64 = 1024 * 1024 * 1024;

/// The largest window that a frame may ask for.
const MAX_WINDOW: u64 = 8 * 1024 * 1024;

/// The most that a block of a frame has, with its header and that of the frame.
const MAX_BLOCK: usize = 128 * 1024 + 64;

/// Compresses a stream.
#[derive(Default)]
pub struct Packer {
    pending: Vec<u8>,
}

impl Packer {
    /// Takes the next piece of the stream, and returns what of the archive is ready, maybe nothing.
    pub fn write(&mut self, chunk: &[u8]) -> Vec<u8> {
        self.pending.extend_from_slice(chunk);
        let mut packed = Vec::new();
        while self.pending.len() >= FRAME {
            let rest = self.pending.split_off(FRAME);
            packed.append(&mut compress(&self.pending));
            self.pending = rest;
        }
        packed
    }

    /// Returns the rest of the archive.
    pub fn finish(&mut self) -> Vec<u8> {
        let pending = std::mem::take(&mut self.pending);
        if pending.is_empty() {
            return Vec::new();
        }
        compress(&pending)
    }
}

fn compress(content: &[u8]) -> Vec<u8> {
    compress_to_vec(content, CompressionLevel::Fastest)
}

/// Decompresses an archive. A stream that is not compressed passes as it is.
pub struct Unpacker {
    decoder: FrameDecoder,
    /// What was taken and not decompressed yet.
    pending: VecDeque<u8>,
    /// Whether the stream is compressed; unknown until its first bytes are there.
    compressed: Option<bool>,
    within: bool,
    taken: u64,
    given: u64,
    limit: Option<u64>,
}

impl Unpacker {
    /// Makes one. Without a limit in bytes, a stream may have 1 GiB and 1,000 times the size of its archive.
    #[must_use]
    pub fn new(limit: Option<u64>) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(MAX_WINDOW);
        Self {
            decoder,
            pending: VecDeque::new(),
            compressed: None,
            within: false,
            taken: 0,
            given: 0,
            limit,
        }
    }

    /// Takes the next piece of the archive: at most 256 KiB, or nothing more. Then [`read`](Self::read) until it
    /// returns nothing.
    ///
    /// # Errors
    /// `too-large`.
    pub fn write(&mut self, chunk: &[u8]) -> Result<()> {
        if chunk.len() > super::MAX_CHUNK {
            return Err(Error::TooLarge(format!(
                "a chunk has {} bytes; at most {} are taken in one call",
                chunk.len(),
                super::MAX_CHUNK
            )));
        }
        self.taken += chunk.len() as u64;
        self.pending.extend(chunk);
        Ok(())
    }

    /// Returns a piece of the stream: at most 256 KiB. Nothing means that more of the archive is needed.
    ///
    /// # Errors
    /// `invalid-argument` if it is no archive, or one that is damaged; `too-large` beyond the limit.
    pub fn read(&mut self) -> Result<Vec<u8>> {
        self.next(false)
    }

    /// As [`read`](Self::read), once all of the archive was taken. Nothing is the end.
    ///
    /// # Errors
    /// As `read`, and if the archive ends within a frame.
    pub fn read_rest(&mut self) -> Result<Vec<u8>> {
        self.next(true)
    }

    fn next(&mut self, all: bool) -> Result<Vec<u8>> {
        if self.compressed.is_none() {
            if self.pending.len() < MAGIC.len() && !all {
                return Ok(Vec::new());
            }
            self.compressed = Some(self.pending.iter().take(4).eq(&MAGIC));
        }
        let piece = if self.compressed == Some(true) {
            self.decompress(all)?
        } else {
            let count = self.pending.len().min(super::MAX_CHUNK);
            self.pending.drain(..count).collect()
        };
        self.given += piece.len() as u64;
        let allowed = self
            .limit
            .unwrap_or_else(|| FREE.saturating_add(self.taken.saturating_mul(MAX_RATIO)));
        if self.given > allowed {
            return Err(Error::TooLarge(format!(
                "the archive holds more than {allowed} bytes, and only {} of it were read: it may be made to fill the disk; if you trust it, allow more",
                self.taken
            )));
        }
        Ok(piece)
    }

    fn decompress(&mut self, all: bool) -> Result<Vec<u8>> {
        loop {
            let ready = self.decoder.can_collect();
            if self.within && ready > 0 {
                let mut piece = vec![0; ready.min(super::MAX_CHUNK)];
                let count = self.decoder.read(&mut piece).map_err(damaged)?;
                piece.truncate(count);
                return Ok(piece);
            }
            if self.within && self.decoder.is_finished() {
                self.within = false;
            }
            if self.pending.is_empty() || (self.pending.len() < MAX_BLOCK && !all) {
                if all && (self.within || !self.pending.is_empty()) {
                    return Err(refused("the archive ends too early"));
                }
                return Ok(Vec::new());
            }
            // What is not used stays in place: the decoder reads from the front.
            if self.within {
                self.decoder
                    .decode_blocks(&mut self.pending, BlockDecodingStrategy::UptoBlocks(1))
                    .map_err(damaged)?;
            } else {
                self.decoder.reset(&mut self.pending).map_err(damaged)?;
                self.within = true;
            }
        }
    }
}

fn damaged(error: impl std::fmt::Display) -> Error {
    refused(&format!("the archive is damaged: {error}"))
}
