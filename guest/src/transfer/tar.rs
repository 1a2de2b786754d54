//! The form of the stream: a tar archive of regular files, written in one way only.
//!
//! Every entry has the same owner, mode and time, so that the same content is the same bytes. A path that the
//! classic header cannot hold, and a size beyond 8 GiB, stand in a `pax` header before the entry. What is read
//! may come from anybody: links, devices, directories and everything else that is no regular file are refused,
//! and so are numbers and headers that are not as they should be.

use crate::error::{Error, Result};

/// The size of a header, and what contents are filled up to.
pub(crate) const BLOCK: usize = 512;

/// The largest `pax` header that is read: it holds a path and a size.
pub(crate) const MAX_PAX: u64 = 16 * 1024;

/// The longest path that the classic header holds in one field.
const NAME: usize = 100;

/// The largest size that the classic header holds.
const MAX_SIZE: u64 = 0o777_7777_7777;

/// What a header says of the bytes that follow it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Header {
    /// A regular file of this path and size.
    File(String, u64),
    /// A `pax` header of this size for the next entry.
    Extension(u64),
    /// No entry: the archive ends here.
    End,
}

/// What a `pax` header says of the next entry.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Extension {
    pub(crate) path: Option<String>,
    pub(crate) size: Option<u64>,
}

/// Returns how many bytes follow a content of this size up to the next header.
pub(crate) fn padding(size: u64) -> usize {
    let rest = usize::try_from(size % BLOCK as u64).unwrap_or_default();
    (BLOCK - rest) % BLOCK
}

/// Appends the header of a regular file.
pub(crate) fn push_header(out: &mut Vec<u8>, path: &str, size: u64) {
    let plain = path.is_ascii() && path.len() <= NAME;
    if !plain || size > MAX_SIZE {
        let mut records = String::new();
        if !plain {
            push_record(&mut records, "path", path);
        }
        if size > MAX_SIZE {
            push_record(&mut records, "size", &size.to_string());
        }
        push_block(out, b"pax", records.len() as u64, b'x');
        out.extend_from_slice(records.as_bytes());
        push_padding(out, records.len() as u64);
    }
    let short: Vec<u8> = path.bytes().filter(u8::is_ascii).take(NAME).collect();
    push_block(out, &short, size.min(MAX_SIZE), b'0');
}

/// Fills a content of this size up to the next header.
pub(crate) fn push_padding(out: &mut Vec<u8>, size: u64) {
    out.resize(out.len() + padding(size), 0);
}

/// Appends the end of the archive.
pub(crate) fn push_end(out: &mut Vec<u8>) {
    out.resize(out.len() + 2 * BLOCK, 0);
}

/// Appends a record of a `pax` header: its length, which counts its own digits, a key and a value.
fn push_record(records: &mut String, key: &str, value: &str) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.push_str(&format!("{length} {key}={value}\n"));
}

fn push_block(out: &mut Vec<u8>, name: &[u8], size: u64, kind: u8) {
    let mut block = [0; BLOCK];
    block[..name.len()].copy_from_slice(name);
    let octal = |field: &mut [u8], value: u64| {
        let digits = format!("{value:0width$o}", width = field.len() - 1);
        field[..digits.len()].copy_from_slice(digits.as_bytes());
    };
    octal(&mut block[100..108], 0o644);
    octal(&mut block[108..116], 0);
    octal(&mut block[116..124], 0);
    octal(&mut block[124..136], size);
    octal(&mut block[136..148], 0);
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    let sum = checksum(&block);
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out.extend_from_slice(&block);
}

/// Adds up a header, its own sum taken as spaces.
fn checksum(block: &[u8; BLOCK]) -> u64 {
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
    sum(&block[..148]) + 8 * u64::from(b' ') + sum(&block[156..])
}

/// Reads a header.
///
/// # Errors
/// `invalid-argument` for anything that is no header of a regular file.
pub(crate) fn read_header(block: &[u8; BLOCK]) -> Result<Header> {
    if block.iter().all(|byte| *byte == 0) {
        return Ok(Header::End);
    }
    if octal(&block[148..156]) != Some(checksum(block)) {
        return Err(refused("a header's checksum is wrong"));
    }
    let name = text(&block[..100]).ok_or_else(|| refused("a path is not UTF-8"))?;
    let size = octal(&block[124..136])
        .ok_or_else(|| refused(&format!("the size of {name:?} is no number")))?;
    let what = match block[156] {
        b'0' | 0 => {
            let prefix = if &block[257..263] == b"ustar\0" {
                text(&block[345..500]).ok_or_else(|| refused("a path is not UTF-8"))?
            } else {
                String::new()
            };
            let path = if prefix.is_empty() {
                name
            } else {
                format!("{prefix}/{name}")
            };
            return Ok(Header::File(path, size));
        }
        b'x' => return Ok(Header::Extension(size)),
        b'1' => "a hard link",
        b'2' => "a symbolic link",
        b'3' | b'4' => "a device",
        b'5' => "a directory",
        b'6' => "a FIFO",
        _ => "neither a file nor anything known",
    };
    Err(refused(&format!(
        "{name:?} is {what}; only regular files are taken"
    )))
}

/// Reads the records of a `pax` header. Those that say nothing about path and size are passed over.
///
/// # Errors
/// `invalid-argument` if they are not as they should be.
pub(crate) fn read_extension(mut records: &[u8]) -> Result<Extension> {
    let bad = || refused("an extended header cannot be read");
    let mut extension = Extension::default();
    while !records.is_empty() {
        let space = records
            .iter()
            .position(|byte| *byte == b' ')
            .ok_or_else(bad)?;
        let length: usize = std::str::from_utf8(&records[..space])
            .ok()
            .and_then(|digits| digits.parse().ok())
            .filter(|length| *length > space + 1 && *length <= records.len())
            .ok_or_else(bad)?;
        let (record, rest) = records.split_at(length);
        records = rest;
        let record = record[space + 1..].strip_suffix(b"\n").ok_or_else(bad)?;
        let record = std::str::from_utf8(record).map_err(|_| bad())?;
        match record.split_once('=').ok_or_else(bad)? {
            ("path", path) => extension.path = Some(path.to_owned()),
            ("size", size) => extension.size = Some(size.parse().map_err(|_| bad())?),
            _ => {}
        }
    }
    Ok(extension)
}

/// Makes the error of a stream that is not as it should be.
pub(crate) fn refused(reason: &str) -> Error {
    Error::InvalidArgument(format!("the stream cannot be read: {reason}"))
}

/// Reads a text that ends at the first NUL.
fn text(field: &[u8]) -> Option<String> {
    let end = field.iter().position(|byte| *byte == 0);
    let text = &field[..end.unwrap_or(field.len())];
    std::str::from_utf8(text).ok().map(str::to_owned)
}

fn octal(field: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(field).ok()?;
    u64::from_str_radix(text.trim_matches([' ', '\0']), 8).ok()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use super::*;

    fn block(bytes: &[u8]) -> [u8; BLOCK] {
        bytes[..BLOCK].try_into().unwrap()
    }

    #[test]
    fn a_header_that_was_written_is_read_again() {
        let long = format!("artifacts/{}/x", "r".repeat(120));
        for (path, size) in [
            ("runs/a.json", 0),
            ("runs/a.json", MAX_SIZE),
            ("runs/ä.json", 1),
            (long.as_str(), 513),
            ("runs/big", MAX_SIZE + 1),
        ] {
            let mut out = Vec::new();
            push_header(&mut out, path, size);
            let mut extension = Extension::default();
            let mut rest = out.as_slice();
            if let Header::Extension(length) = read_header(&block(rest)).unwrap() {
                let length = usize::try_from(length).unwrap();
                extension = read_extension(&rest[BLOCK..BLOCK + length]).unwrap();
                rest = &rest[BLOCK + length + padding(length as u64)..];
            }
            let Header::File(name, short) = read_header(&block(rest)).unwrap() else {
                panic!("{path}");
            };
            assert_eq!(extension.path.unwrap_or(name), path);
            assert_eq!(extension.size.unwrap_or(short), size);
            assert_eq!(rest.len(), BLOCK);
        }
    }

    #[test]
    fn only_regular_files_are_read_and_others_are_named() {
        for (kind, what) in [
            (b'1', "a hard link"),
            (b'2', "a symbolic link"),
            (b'3', "a device"),
            (b'4', "a device"),
            (b'5', "a directory"),
            (b'6', "a FIFO"),
            (b'L', "neither a file nor anything known"),
        ] {
            let mut out = Vec::new();
            push_block(&mut out, b"runs/x.json", 0, kind);
            let error = read_header(&block(&out)).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
        let mut out = Vec::new();
        push_block(&mut out, b"runs/x.json", 0, b'0');
        out[0] ^= 1;
        assert!(read_header(&block(&out)).is_err());
        assert_eq!(read_header(&[0; BLOCK]).unwrap(), Header::End);
    }

    #[test]
    fn a_length_that_lies_is_refused() {
        for records in [
            "5 a=b",
            "99 path=x\n",
            "3 x\n",
            " path=x\n",
            "10 path=x",
            "x",
        ] {
            assert!(read_extension(records.as_bytes()).is_err(), "{records}");
        }
        let path = read_extension(b"10 path=x\n").unwrap().path;
        assert_eq!(path.as_deref(), Some("x"));
    }
}
