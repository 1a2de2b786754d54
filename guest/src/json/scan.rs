//! The grammar: one scanner, without recursion, for everything that reads JSON text.

use super::text::is_same;
use super::{JsonError, MAX_DEPTH, MAX_INT_DIGITS, Reason};

/// Takes the tokens of a text in order. A value inside an object follows its key.
pub(crate) trait Sink<'a> {
    /// Insignificant white space lies at these bytes.
    fn gap(&mut self, _start: usize, _end: usize) {}
    fn scalar(&mut self, value: Scalar<'a>);
    /// A key; `body` is what stands between the quotes, `escaped` tells whether it has escapes.
    fn key(&mut self, body: &'a str, escaped: bool);
    /// Returns the key that is likely to be the next one, with its quotes and without escapes: it is looked for first.
    fn likely_key(&self) -> Option<&'static str> {
        None
    }
    /// The likely key; then there is no other call for it.
    fn likely_key_came(&mut self) {}
    fn open(&mut self, kind: Kind);
    /// The container that was opened last ends.
    fn close(&mut self);
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Kind {
    #[default]
    Array,
    Object,
}

/// A value that is no container, as it is written.
#[derive(Clone, Copy)]
pub(crate) enum Scalar<'a> {
    Null,
    Bool(bool),
    /// `NaN`, `Infinity` or `-Infinity`.
    NotFinite(f64),
    Integer(&'a str),
    Float(&'a str),
    /// What stands between the quotes, and whether it has escapes.
    String(&'a str, bool),
}

/// Reads one text into the sink, which has seen the text up to the problem if there is one.
pub(crate) fn scan<'a>(text: &'a str, sink: &mut impl Sink<'a>) -> Result<(), JsonError> {
    Scanner { text, at: 0 }.document(sink)
}

/// Returns the text that bytes are.
pub(super) fn text(bytes: &[u8]) -> Result<&str, JsonError> {
    str::from_utf8(bytes).map_err(|error| JsonError::new(error.valid_up_to(), Reason::InvalidUtf8))
}

/// Does what [`super::minify`] does; a sink sees the tokens too.
pub(crate) fn minify_seen<'a>(
    text: &'a [u8],
    sink: &mut impl Sink<'a>,
    out: &mut String,
) -> Result<(), JsonError> {
    scan_and_minify(self::text(text)?, sink, out)
}

/// Reads one text into the sink and appends it without its gaps.
pub(super) fn scan_and_minify<'a>(
    text: &'a str,
    sink: &mut impl Sink<'a>,
    out: &mut impl Out,
) -> Result<(), JsonError> {
    let before = out.room(text.len());
    let mut copy = Copy {
        text,
        copied: 0,
        out,
        sink,
    };
    match scan(text, &mut copy) {
        Ok(()) => {
            copy.gap(text.len(), text.len());
            Ok(())
        }
        Err(error) => {
            out.cut(before);
            Err(error)
        }
    }
}

/// What a text is appended to.
pub(super) trait Out {
    /// Makes room for so many bytes more, and returns how many there are.
    fn room(&mut self, bytes: usize) -> usize;
    fn append(&mut self, piece: &str);
    /// Leaves so many bytes, of which the last one ends what was appended.
    fn cut(&mut self, length: usize);
}

impl Out for String {
    fn room(&mut self, bytes: usize) -> usize {
        self.reserve(bytes);
        self.len()
    }
    fn append(&mut self, piece: &str) {
        self.push_str(piece);
    }
    fn cut(&mut self, length: usize) {
        self.truncate(length);
    }
}

impl Out for Vec<u8> {
    fn room(&mut self, bytes: usize) -> usize {
        self.reserve(bytes);
        self.len()
    }
    fn append(&mut self, piece: &str) {
        // A runtime copies memory in a call, which takes longer than most pieces do this way.
        const SHORT: usize = 64;
        if piece.len() > SHORT {
            return self.extend_from_slice(piece.as_bytes());
        }
        let (words, rest) = piece.as_bytes().as_chunks::<8>();
        for word in words {
            self.extend_from_slice(word);
        }
        let (words, rest) = rest.as_chunks::<4>();
        for word in words {
            self.extend_from_slice(word);
        }
        for byte in rest {
            self.push(*byte);
        }
    }
    fn cut(&mut self, length: usize) {
        self.truncate(length);
    }
}

/// Takes no notice of anything.
pub(crate) struct Nothing;

impl<'a> Sink<'a> for Nothing {
    fn scalar(&mut self, _value: Scalar<'a>) {}
    fn key(&mut self, _body: &'a str, _escaped: bool) {}
    fn open(&mut self, _kind: Kind) {}
    fn close(&mut self) {}
}

/// Copies a text without its gaps, and passes on its tokens.
struct Copy<'a, 'o, S, O> {
    text: &'a str,
    copied: usize,
    out: &'o mut O,
    sink: &'o mut S,
}

impl<'a, S: Sink<'a>, O: Out> Sink<'a> for Copy<'a, '_, S, O> {
    fn gap(&mut self, start: usize, end: usize) {
        // Gaps are runs of ASCII, so that both borders are borders of characters.
        self.out
            .append(self.text.get(self.copied..start).unwrap_or_default());
        self.copied = end;
    }
    fn scalar(&mut self, value: Scalar<'a>) {
        self.sink.scalar(value);
    }
    fn key(&mut self, body: &'a str, escaped: bool) {
        self.sink.key(body, escaped);
    }
    fn likely_key(&self) -> Option<&'static str> {
        self.sink.likely_key()
    }
    fn likely_key_came(&mut self) {
        self.sink.likely_key_came();
    }
    fn open(&mut self, kind: Kind) {
        self.sink.open(kind);
    }
    fn close(&mut self) {
        self.sink.close();
    }
}

/// The kinds of the open containers, innermost last, one bit each: a set bit is an object.
struct Nest {
    objects: [u64; MAX_DEPTH.div_ceil(64)],
    depth: usize,
}

impl Nest {
    /// Opens a container; `false` if that would be too deep.
    fn push(&mut self, kind: Kind) -> bool {
        if self.depth == MAX_DEPTH {
            return false;
        }
        let bit = 1 << (self.depth % 64);
        if let Some(word) = self.objects.get_mut(self.depth / 64) {
            match kind {
                Kind::Array => *word &= !bit,
                Kind::Object => *word |= bit,
            }
        }
        self.depth += 1;
        true
    }

    fn pop(&mut self) {
        self.depth = self.depth.saturating_sub(1);
    }

    fn innermost(&self) -> Option<Kind> {
        let index = self.depth.checked_sub(1)?;
        let word = self.objects.get(index / 64)?;
        Some(match word >> (index % 64) & 1 {
            0 => Kind::Array,
            _ => Kind::Object,
        })
    }
}

struct Scanner<'a> {
    text: &'a str,
    /// The offset of the next byte; between tokens it is a border of characters.
    at: usize,
}

impl<'a> Scanner<'a> {
    fn document(&mut self, sink: &mut impl Sink<'a>) -> Result<(), JsonError> {
        let mut nest = Nest {
            objects: [0; MAX_DEPTH.div_ceil(64)],
            depth: 0,
        };
        if self.text.starts_with('\u{FEFF}') {
            return Err(self.error(Reason::ByteOrderMark));
        }
        self.space(sink);
        'value: loop {
            match self.peek() {
                Some(b'"') => {
                    let (body, escaped) = self.string()?;
                    sink.scalar(Scalar::String(body, escaped));
                }
                Some(b'-' | b'0'..=b'9') => self.number(sink)?,
                Some(b'{') => {
                    if !nest.push(Kind::Object) {
                        return Err(self.error(Reason::TooDeep));
                    }
                    self.at += 1;
                    sink.open(Kind::Object);
                    self.space(sink);
                    if self.peek() != Some(b'}') {
                        self.key(sink)?;
                        continue 'value;
                    }
                }
                Some(b'[') => {
                    if !nest.push(Kind::Array) {
                        return Err(self.error(Reason::TooDeep));
                    }
                    self.at += 1;
                    sink.open(Kind::Array);
                    self.space(sink);
                    if self.peek() != Some(b']') {
                        continue 'value;
                    }
                }
                Some(b'n') => self.word("null", Scalar::Null, sink)?,
                Some(b't') => self.word("true", Scalar::Bool(true), sink)?,
                Some(b'f') => self.word("false", Scalar::Bool(false), sink)?,
                Some(b'N') => self.word("NaN", Scalar::NotFinite(f64::NAN), sink)?,
                Some(b'I') => self.word("Infinity", Scalar::NotFinite(f64::INFINITY), sink)?,
                _ => return Err(self.unexpected()),
            }
            // A value ends here, or an empty container is about to.
            loop {
                self.space(sink);
                let Some(kind) = nest.innermost() else {
                    return match self.peek() {
                        None => Ok(()),
                        Some(_) => Err(self.error(Reason::TrailingData)),
                    };
                };
                match (self.peek(), kind) {
                    (Some(b','), Kind::Array) => {
                        self.at += 1;
                        self.space(sink);
                        continue 'value;
                    }
                    (Some(b','), Kind::Object) => {
                        self.at += 1;
                        self.space(sink);
                        self.key(sink)?;
                        continue 'value;
                    }
                    (Some(b']'), Kind::Array) | (Some(b'}'), Kind::Object) => {
                        self.at += 1;
                        nest.pop();
                        sink.close();
                    }
                    _ => return Err(self.unexpected()),
                }
            }
        }
    }

    /// Reads a key, the colon and the white space around it.
    fn key(&mut self, sink: &mut impl Sink<'a>) -> Result<(), JsonError> {
        if let Some(likely) = sink.likely_key()
            && self
                .text
                .as_bytes()
                .get(self.at..self.at + likely.len())
                .is_some_and(|here| is_same(here, likely.as_bytes()))
        {
            self.at += likely.len();
            sink.likely_key_came();
        } else {
            if self.peek() != Some(b'"') {
                return Err(self.unexpected());
            }
            let (body, escaped) = self.string()?;
            sink.key(body, escaped);
        }
        self.space(sink);
        if self.peek() != Some(b':') {
            return Err(self.unexpected());
        }
        self.at += 1;
        self.space(sink);
        Ok(())
    }

    /// Reads a string from its opening quote on: what stands between the quotes, and if it has escapes.
    fn string(&mut self) -> Result<(&'a str, bool), JsonError> {
        let bytes = self.text.as_bytes();
        let start = self.at + 1;
        let mut escaped = false;
        self.at = start;
        loop {
            self.at += plain_run(bytes.get(self.at..).unwrap_or_default());
            match bytes.get(self.at) {
                Some(b'"') => {
                    let body = self.slice(start);
                    self.at += 1;
                    return Ok((body, escaped));
                }
                Some(b'\\') => {
                    escaped = true;
                    self.at += match bytes.get(self.at + 1) {
                        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => 2,
                        Some(b'u')
                            if bytes
                                .get(self.at + 2..self.at + 6)
                                .is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) =>
                        {
                            6
                        }
                        Some(_) => return Err(self.error(Reason::InvalidEscape)),
                        None => return Err(self.end()),
                    };
                }
                Some(&control) => return Err(self.error(Reason::ControlCharacter(control))),
                None => return Err(self.end()),
            }
        }
    }

    fn number(&mut self, sink: &mut impl Sink<'a>) -> Result<(), JsonError> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
            if self.peek() == Some(b'I') {
                return self.word("Infinity", Scalar::NotFinite(f64::NEG_INFINITY), sink);
            }
        }
        let first = self.at;
        self.digits()?;
        let digits = self.at - first;
        if digits > 1 && self.text.as_bytes().get(first) == Some(&b'0') {
            self.at = first;
            return Err(self.error(Reason::LeadingZero));
        }
        let mut float = false;
        if self.peek() == Some(b'.') {
            float = true;
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            float = true;
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        if float {
            sink.scalar(Scalar::Float(self.slice(start)));
        } else if digits > MAX_INT_DIGITS {
            self.at = start;
            return Err(self.error(Reason::IntegerTooLong));
        } else {
            sink.scalar(Scalar::Integer(self.slice(start)));
        }
        Ok(())
    }

    /// Skips at least one digit.
    fn digits(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at == start {
            return Err(self.unexpected());
        }
        Ok(())
    }

    fn word(
        &mut self,
        text: &str,
        value: Scalar<'a>,
        sink: &mut impl Sink<'a>,
    ) -> Result<(), JsonError> {
        for byte in text.bytes() {
            if self.peek() != Some(byte) {
                return Err(self.unexpected());
            }
            self.at += 1;
        }
        sink.scalar(value);
        Ok(())
    }

    #[inline]
    fn space(&mut self, sink: &mut impl Sink<'a>) {
        if self.peek().is_some_and(|byte| byte <= b' ') {
            self.space_run(sink);
        }
    }

    fn space_run(&mut self, sink: &mut impl Sink<'a>) {
        let bytes = self.text.as_bytes();
        let start = self.at;
        let mut at = start;
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = bytes.get(at) {
            at += 1;
            // Indentation, the usual case, goes eight at a time.
            while let Some(word) = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) {
                let others = u64::from_le_bytes(*word) ^ (ONES * 0x20);
                at += others.trailing_zeros() as usize / 8;
                if others != 0 {
                    break;
                }
            }
        }
        self.at = at;
        if at != start {
            sink.gap(start, at);
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// The text from `start` to here; both are borders because an ASCII byte stands on either side.
    fn slice(&self, start: usize) -> &'a str {
        self.text.get(start..self.at).unwrap_or_default()
    }

    fn error(&self, reason: Reason) -> JsonError {
        JsonError::new(self.at, reason)
    }

    fn end(&self) -> JsonError {
        JsonError::new(self.text.len(), Reason::UnexpectedEnd)
    }

    fn unexpected(&self) -> JsonError {
        match self
            .text
            .get(self.at..)
            .and_then(|rest| rest.chars().next())
        {
            Some(character) => self.error(Reason::UnexpectedCharacter(character)),
            None => self.end(),
        }
    }
}

const ONES: u64 = u64::MAX / 0xFF;
const HIGHS: u64 = ONES * 0x80;

/// Marks, with their high bits, the bytes of a word that end a plain run in a string: controls,
/// quotes and backslashes. The lowest mark is exact; above it there may be false ones.
pub(super) fn special(word: u64) -> u64 {
    let control = word.wrapping_sub(ONES * 0x20) & !word;
    let quote = word ^ (ONES * 0x22);
    let backslash = word ^ (ONES * 0x5C);
    let quote = quote.wrapping_sub(ONES) & !quote;
    let backslash = backslash.wrapping_sub(ONES) & !backslash;
    (control | quote | backslash) & HIGHS
}

/// Marks what [`special`] marks, and every byte from 0x7F on: what an ASCII string must escape.
pub(super) fn special_in_ascii(word: u64) -> u64 {
    let delete = word ^ (ONES * 0x7F);
    special(word) | ((delete.wrapping_sub(ONES) | word) & HIGHS)
}

/// Returns the length of the run at the start in which `marks` finds nothing, eight bytes at a time.
pub(super) fn run(bytes: &[u8], marks: impl Fn(u64) -> u64) -> usize {
    let (words, tail) = bytes.as_chunks::<8>();
    let mut length = 0;
    for word in words {
        let found = marks(u64::from_le_bytes(*word));
        if found != 0 {
            return length + found.trailing_zeros() as usize / 8;
        }
        length += 8;
    }
    // Padded with a plain letter; a mark in the padding only ends the run where the bytes end.
    let mut last = [b'a'; 8];
    for (place, byte) in last.iter_mut().zip(tail) {
        *place = *byte;
    }
    let found = marks(u64::from_le_bytes(last));
    let plain = found.trailing_zeros() as usize / 8;
    length + plain.min(tail.len())
}

fn plain_run(bytes: &[u8]) -> usize {
    run(bytes, special)
}
