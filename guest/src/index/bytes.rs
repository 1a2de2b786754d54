//! Reads and writes the numbers, texts and checksums of the index's files. What is read may have been written
//! by anyone: every length is checked against what is there before anything is allocated.

use super::Doubt;

/// Appends a number of 32 bits.
pub(crate) fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends a number of 64 bits.
pub(crate) fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends a text with its length.
pub(crate) fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    put_u32(out, small(text.len()));
    out.extend_from_slice(text);
}

/// Returns a length as 32 bits. Tables are cut long before one would not fit; one that does not fails its
/// checks when it is read.
pub(crate) fn small(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// Returns a number of a file as a place in memory; one that no memory has fails every check.
pub(crate) fn place(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Reads numbers of 32 bits.
pub(crate) fn u32s(bytes: &[u8]) -> Vec<u32> {
    let (chunks, _) = bytes.as_chunks::<4>();
    chunks.iter().copied().map(u32::from_le_bytes).collect()
}

/// Takes bytes off the front.
pub(crate) struct Reader<'b>(pub(crate) &'b [u8]);

impl<'b> Reader<'b> {
    pub(crate) fn take(&mut self, length: usize) -> Result<&'b [u8], Doubt> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Doubt)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Doubt> {
        self.take(N)?.try_into().map_err(|_| Doubt)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Doubt> {
        self.array().map(|[byte]| byte)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Doubt> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Doubt> {
        self.array().map(u64::from_le_bytes)
    }

    /// Takes a count of things that have at least so many bytes each.
    pub(crate) fn count(&mut self, bytes_each: usize) -> Result<usize, Doubt> {
        let count = place(u64::from(self.u32()?));
        let fits = count.checked_mul(bytes_each.max(1)).ok_or(Doubt)? <= self.0.len();
        if fits { Ok(count) } else { Err(Doubt) }
    }

    pub(crate) fn bytes(&mut self) -> Result<&'b [u8], Doubt> {
        let length = self.count(1)?;
        self.take(length)
    }

    pub(crate) fn text(&mut self) -> Result<&'b str, Doubt> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Doubt)
    }

    /// Checks that nothing is left.
    pub(crate) fn end(self) -> Result<(), Doubt> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Doubt)
        }
    }
}
