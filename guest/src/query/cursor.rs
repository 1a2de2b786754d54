//! Cursors: where a page of rows ended, as a text for the caller to hand back.
//!
//! A cursor holds the sort values and the ids of the last row, not a count of rows. So a page neither repeats
//! nor skips a row because others were added or deleted meanwhile, or because the last row itself is gone. It
//! also holds the time that `now` meant on the first page. It is no secret and no proof: a forged one can only
//! name another place to go on from.

use sha2::{Digest, Sha256};

use super::error::Reason;
use super::order::{Position, Sort, SortValue};

/// The version of the cursors that this module writes.
const VERSION: u8 = 1;

/// Bytes of the checksum at the end.
const CHECK: usize = 4;

/// Which query a cursor belongs to: the start of a hash of its filter and sort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner([u8; 8]);

impl Owner {
    /// Makes the mark of a query out of the texts of its filter and its sort.
    pub(super) fn of(filter: &str, sort: &str) -> Self {
        let mut hash = Sha256::new();
        hash.update(filter.as_bytes());
        // No printed filter holds a NUL.
        hash.update([0]);
        hash.update(sort.as_bytes());
        let mut owner = [0; 8];
        for (byte, from) in owner.iter_mut().zip(hash.finalize()) {
            *byte = from;
        }
        Self(owner)
    }
}

/// Where to go on, and what the query meant by `now`.
#[derive(Clone, Debug)]
pub struct Cursor {
    /// The time of the query's first page, in microseconds since 1970-01-01 UTC.
    pub now: i64,
    /// The last row of the page before.
    pub last: Position,
}

impl Cursor {
    /// Prints the cursor of a query.
    pub(super) fn encode(&self, owner: Owner) -> String {
        let mut out = vec![VERSION];
        out.extend_from_slice(&owner.0);
        out.extend_from_slice(&self.now.to_le_bytes());
        for key in &self.last.keys {
            encode_value(key, &mut out);
        }
        match self.last.started_at {
            None => out.push(0),
            Some(micros) => {
                out.push(1);
                out.extend_from_slice(&micros.to_le_bytes());
            }
        }
        encode_bytes(self.last.experiment_id.as_bytes(), &mut out);
        encode_bytes(self.last.run_id.as_bytes(), &mut out);
        let check = crc32fast::hash(&out);
        out.extend_from_slice(&check.to_le_bytes());
        to_text(&out)
    }

    /// Reads the cursor of a query.
    pub(super) fn decode(text: &str, owner: Owner, sort: &Sort) -> Result<Self, Reason> {
        // Its length needs no bound: reading takes time and memory in proportion to the text that is there.
        let bytes = from_text(text).ok_or(Reason::CursorDamaged)?;
        let body = bytes.len().checked_sub(CHECK).and_then(|length| {
            let (body, check) = bytes.split_at_checked(length)?;
            (crc32fast::hash(body).to_le_bytes() == check).then_some(body)
        });
        let mut reader = Reader(body.ok_or(Reason::CursorDamaged)?);
        let version = reader.byte().ok_or(Reason::CursorDamaged)?;
        if version != VERSION {
            return Err(Reason::CursorVersion(version));
        }
        if reader.array().ok_or(Reason::CursorDamaged)? != owner.0 {
            return Err(Reason::CursorOfAnotherQuery);
        }
        reader.cursor(sort.0.len()).ok_or(Reason::CursorDamaged)
    }
}

fn encode_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    // Ids and cut texts are far shorter than this; a length that is not could never be read back.
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(bytes);
}

fn encode_value(value: &SortValue, out: &mut Vec<u8>) {
    match value {
        SortValue::Missing => out.push(0),
        SortValue::Null => out.push(1),
        SortValue::Bool(value) => out.push(2 + u8::from(*value)),
        SortValue::Int(value) => {
            out.push(4);
            out.extend_from_slice(&value.to_le_bytes());
        }
        SortValue::Big(digits) => {
            out.push(5);
            encode_bytes(digits.as_bytes(), out);
        }
        SortValue::Float(value) => {
            out.push(6);
            out.extend_from_slice(&value.to_le_bytes());
        }
        SortValue::Nan => out.push(7),
        SortValue::Text(text) => {
            out.push(8);
            encode_bytes(text, out);
        }
        SortValue::Time(micros) => {
            out.push(9);
            out.extend_from_slice(&micros.to_le_bytes());
        }
        SortValue::List => out.push(10),
        SortValue::Object => out.push(11),
    }
}

/// Reads the bytes of a cursor; `None` where they are not what they should be.
struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn take(&mut self, length: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn int(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    fn bytes(&mut self) -> Option<&'b [u8]> {
        let length = self.array().map(u32::from_le_bytes)?;
        self.take(usize::try_from(length).ok()?)
    }

    fn text(&mut self) -> Option<String> {
        Some(std::str::from_utf8(self.bytes()?).ok()?.to_owned())
    }

    fn value(&mut self) -> Option<SortValue> {
        Some(match self.byte()? {
            0 => SortValue::Missing,
            1 => SortValue::Null,
            2 => SortValue::Bool(false),
            3 => SortValue::Bool(true),
            4 => SortValue::Int(self.int()?),
            5 => SortValue::Big(self.text().filter(|digits| is_big(digits))?),
            6 => {
                let value = self.array().map(f64::from_le_bytes)?;
                SortValue::Float(Some(value).filter(|value| !value.is_nan())?)
            }
            7 => SortValue::Nan,
            8 => SortValue::Text(self.bytes()?.to_vec()),
            9 => SortValue::Time(self.int()?),
            10 => SortValue::List,
            11 => SortValue::Object,
            _ => return None,
        })
    }

    fn cursor(mut self, keys: usize) -> Option<Cursor> {
        let now = self.int()?;
        let keys = (0..keys).map(|_| self.value()).collect::<Option<_>>()?;
        let started_at = match self.byte()? {
            0 => None,
            1 => Some(self.int()?),
            _ => return None,
        };
        let last = Position {
            keys,
            started_at,
            experiment_id: self.text()?,
            run_id: self.text()?,
        };
        self.0.is_empty().then_some(Cursor { now, last })
    }
}

/// Tells whether a text is an integer beyond 64 bits as [`SortValue::Big`] holds them.
fn is_big(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = digits.bytes().all(|digit| digit.is_ascii_digit());
    plain && !digits.is_empty() && !digits.starts_with('0') && text.parse::<i64>().is_err()
}

/// The digits of base64 that are safe in URLs and file names.
const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Prints bytes in base64 without padding.
pub(super) fn to_text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let mut group = [0; 4];
        for (to, from) in group.iter_mut().skip(1).zip(chunk) {
            *to = *from;
        }
        let group = u32::from_be_bytes(group);
        for index in 0..=chunk.len() {
            let digit = (group >> (18 - 6 * index)) & 63;
            text.push(char::from(DIGITS[digit as usize]));
        }
    }
    text
}

/// Reads base64 without padding; every content has one text.
fn from_text(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for chunk in text.as_bytes().chunks(4) {
        let mut group = 0_u32;
        for digit in chunk {
            let value = match digit {
                b'A'..=b'Z' => digit - b'A',
                b'a'..=b'z' => digit - b'a' + 26,
                b'0'..=b'9' => digit - b'0' + 52,
                b'-' => 62,
                b'_' => 63,
                _ => return None,
            };
            group = (group << 6) | u32::from(value);
        }
        // What is left of the last digit is zero; a single digit holds no byte.
        let missing = 4 - chunk.len();
        let [_, decoded @ ..] = (group << (6 * missing)).to_be_bytes();
        let length = chunk.len().checked_sub(1).filter(|length| *length > 0)?;
        let (decoded, rest) = decoded.split_at_checked(length)?;
        if rest.iter().any(|byte| *byte != 0) {
            return None;
        }
        bytes.extend_from_slice(decoded);
    }
    Some(bytes)
}
