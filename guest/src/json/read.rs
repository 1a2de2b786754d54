//! Reading JSON text, into values or only to check it.

use super::value::{Object, Text, Value};
use super::{JsonError, MAX_DEPTH, Reason};
use std::borrow::Cow;

/// Parses a text.
///
/// # Errors
/// [`JsonError`], with the byte offset. Never a stack overflow: the depth is limited, and containers that
/// are open are kept in a list.
pub fn parse(text: &[u8]) -> Result<Value<'_>, JsonError> {
    let mut scanner = Scanner::new(text)?;
    let mut open: Vec<Open<'_>> = Vec::new();
    'value: loop {
        scanner.skip_space();
        let mut value = match scanner.peek() {
            Some(b'[') => {
                scanner.enter(open.len())?;
                scanner.skip_space();
                if scanner.take(b']') {
                    Value::Array(Vec::new())
                } else {
                    open.push(Open::Array(Vec::new()));
                    continue 'value;
                }
            }
            Some(b'{') => {
                scanner.enter(open.len())?;
                scanner.skip_space();
                if scanner.take(b'}') {
                    Value::Object(Object::new())
                } else {
                    let key = scanner.key()?;
                    open.push(Open::Object(Vec::new(), key));
                    continue 'value;
                }
            }
            _ => scanner.scalar()?,
        };
        // The value is whole; it may be the last of the container that is open, and that of the next.
        loop {
            match open.pop() {
                None => {
                    scanner.finish()?;
                    return Ok(value);
                }
                Some(Open::Array(mut items)) => {
                    items.push(value);
                    if scanner.more(b']')? {
                        open.push(Open::Array(items));
                        continue 'value;
                    }
                    value = Value::Array(items);
                }
                Some(Open::Object(mut entries, key)) => {
                    entries.push((key, value));
                    if scanner.more(b'}')? {
                        scanner.skip_space();
                        let key = scanner.key()?;
                        open.push(Open::Object(entries, key));
                        continue 'value;
                    }
                    value = Value::Object(Object::from_entries(entries));
                }
            }
        }
    }
}

/// A container that is not complete yet.
enum Open<'a> {
    Array(Vec<Value<'a>>),
    /// With the key whose value comes next.
    Object(Vec<(Text<'a>, Value<'a>)>, Text<'a>),
}

/// Checks a text as [`parse`] does, and appends it without insignificant white space.
///
/// # Errors
/// [`JsonError`]; part of the text may have been appended then.
pub fn minify(text: &[u8], out: &mut String) -> Result<(), JsonError> {
    let mut scanner = Scanner::new(text)?;
    // For each container that is open, the byte that ends it.
    let mut open: Vec<u8> = Vec::new();
    out.reserve(text.len());
    'value: loop {
        scanner.skip_space();
        match scanner.peek() {
            Some(first @ (b'[' | b'{')) => {
                scanner.enter(open.len())?;
                let last = if first == b'[' { b']' } else { b'}' };
                out.push(char::from(first));
                scanner.skip_space();
                if scanner.take(last) {
                    out.push(char::from(last));
                } else {
                    open.push(last);
                    if last == b'}' {
                        scanner.copy_key(out)?;
                    }
                    continue 'value;
                }
            }
            _ => scanner.copy_scalar(out)?,
        }
        while let Some(last) = open.last().copied() {
            if scanner.more(last)? {
                out.push(',');
                if last == b'}' {
                    scanner.skip_space();
                    scanner.copy_key(out)?;
                }
                continue 'value;
            }
            out.push(char::from(last));
            open.pop();
        }
        return scanner.finish();
    }
}

/// A place in a text.
struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

/// A string of the text: where its content is, and whether it has escapes.
struct Quoted {
    start: usize,
    end: usize,
    escaped: bool,
}

impl<'a> Scanner<'a> {
    fn new(text: &'a [u8]) -> Result<Self, JsonError> {
        match std::str::from_utf8(text) {
            Ok(text) => Ok(Self { text, at: 0 }),
            Err(error) => Err(JsonError {
                offset: error.valid_up_to() as u64,
                reason: Reason::Encoding,
            }),
        }
    }

    fn fail<T>(&self, at: usize, reason: Reason) -> Result<T, JsonError> {
        let reason = if at >= self.text.len() {
            Reason::End
        } else {
            reason
        };
        Err(JsonError {
            offset: at as u64,
            reason,
        })
    }

    fn byte(&self, at: usize) -> Option<u8> {
        self.text.as_bytes().get(at).copied()
    }

    fn peek(&self) -> Option<u8> {
        self.byte(self.at)
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        if found {
            self.at += 1;
        }
        found
    }

    /// Takes the first byte of a container.
    fn enter(&mut self, depth: usize) -> Result<(), JsonError> {
        if depth >= MAX_DEPTH {
            return self.fail(self.at, Reason::Depth);
        }
        self.at += 1;
        Ok(())
    }

    /// Takes a comma, or the byte that ends the container; says whether it was a comma.
    fn more(&mut self, last: u8) -> Result<bool, JsonError> {
        self.skip_space();
        if self.take(b',') {
            return Ok(true);
        }
        if self.take(last) {
            return Ok(false);
        }
        self.fail(self.at, Reason::Comma)
    }

    fn finish(&mut self) -> Result<(), JsonError> {
        self.skip_space();
        if self.at == self.text.len() {
            Ok(())
        } else {
            self.fail(self.at, Reason::Trailing)
        }
    }

    fn key(&mut self) -> Result<Text<'a>, JsonError> {
        if self.peek() != Some(b'"') {
            return self.fail(self.at, Reason::Key);
        }
        let key = self.string()?;
        self.colon()?;
        Ok(key)
    }

    fn colon(&mut self) -> Result<(), JsonError> {
        self.skip_space();
        if self.take(b':') {
            Ok(())
        } else {
            self.fail(self.at, Reason::Colon)
        }
    }

    fn copy_key(&mut self, out: &mut String) -> Result<(), JsonError> {
        if self.peek() != Some(b'"') {
            return self.fail(self.at, Reason::Key);
        }
        self.copy_scalar(out)?;
        self.colon()?;
        out.push(':');
        Ok(())
    }

    fn copy_scalar(&mut self, out: &mut String) -> Result<(), JsonError> {
        let start = self.at;
        if self.peek() == Some(b'"') {
            let quoted = self.quoted()?;
            if quoted.escaped {
                self.unescape(&quoted, &mut Vec::new())?;
            }
        } else if !self.literal() {
            self.number()?;
        }
        out.push_str(&self.text[start..self.at]);
        Ok(())
    }

    fn scalar(&mut self) -> Result<Value<'a>, JsonError> {
        match self.peek() {
            Some(b'"') => return self.string().map(Value::String),
            Some(b'n') if self.word("null") => return Ok(Value::Null),
            Some(b't') if self.word("true") => return Ok(Value::Bool(true)),
            Some(b'f') if self.word("false") => return Ok(Value::Bool(false)),
            Some(b'N') if self.word("NaN") => return Ok(Value::Float(f64::NAN)),
            Some(b'I') if self.word("Infinity") => return Ok(Value::Float(f64::INFINITY)),
            Some(b'-') if self.word("-Infinity") => return Ok(Value::Float(f64::NEG_INFINITY)),
            _ => {}
        }
        let start = self.at;
        let float = self.number()?;
        let digits = &self.text[start..self.at];
        if float {
            // Overflow gives an infinity, as in Python.
            return digits
                .parse()
                .map(Value::Float)
                .or_else(|_| self.fail(start, Reason::Number));
        }
        Ok(digits
            .parse()
            .map_or_else(|_| Value::BigInt(Cow::Borrowed(digits)), Value::Int))
    }

    fn literal(&mut self) -> bool {
        ["null", "true", "false", "NaN", "Infinity", "-Infinity"]
            .into_iter()
            .any(|word| self.word(word))
    }

    fn word(&mut self, word: &str) -> bool {
        let found = self.text.as_bytes()[self.at..].starts_with(word.as_bytes());
        if found {
            self.at += word.len();
        }
        found
    }

    /// Takes a number and says whether it is a floating point number.
    fn number(&mut self) -> Result<bool, JsonError> {
        let start = self.at;
        let sign = usize::from(self.peek() == Some(b'-'));
        self.at += sign;
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits(),
            _ if sign == 1 => return self.fail(self.at, Reason::Number),
            _ => return self.fail(start, Reason::Value),
        }
        let mut float = false;
        if self.peek() == Some(b'.')
            && self
                .byte(self.at + 1)
                .is_some_and(|byte| byte.is_ascii_digit())
        {
            float = true;
            self.at += 1;
            self.digits();
        }
        if let Some(b'e' | b'E') = self.peek() {
            let sign = usize::from(matches!(self.byte(self.at + 1), Some(b'+' | b'-')));
            if self
                .byte(self.at + 1 + sign)
                .is_some_and(|byte| byte.is_ascii_digit())
            {
                float = true;
                self.at += 1 + sign;
                self.digits();
            }
        }
        Ok(float)
    }

    fn digits(&mut self) {
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
    }

    fn string(&mut self) -> Result<Text<'a>, JsonError> {
        let quoted = self.quoted()?;
        if !quoted.escaped {
            return Ok(Text::from(&self.text[quoted.start..quoted.end]));
        }
        let mut content = Vec::with_capacity(quoted.end - quoted.start);
        self.unescape(&quoted, &mut content)?;
        Ok(Text::from_wtf8(content))
    }

    /// Finds the end of a string.
    fn quoted(&mut self) -> Result<Quoted, JsonError> {
        let start = self.at + 1;
        let mut at = start;
        let mut escaped = false;
        loop {
            match self.byte(at) {
                Some(b'"') => {
                    self.at = at + 1;
                    return Ok(Quoted {
                        start,
                        end: at,
                        escaped,
                    });
                }
                Some(b'\\') => {
                    escaped = true;
                    at += 2;
                }
                Some(0..=0x1f) => return self.fail(at, Reason::Control),
                Some(_) => at += 1,
                None => return self.fail(self.text.len(), Reason::End),
            }
        }
    }

    /// Appends the content of a string, escapes resolved, as WTF-8.
    fn unescape(&self, quoted: &Quoted, out: &mut Vec<u8>) -> Result<(), JsonError> {
        let bytes = self.text.as_bytes();
        let mut at = quoted.start;
        while at < quoted.end {
            let run = bytes[at..quoted.end]
                .iter()
                .position(|byte| *byte == b'\\')
                .unwrap_or(quoted.end - at);
            out.extend_from_slice(&bytes[at..at + run]);
            at += run;
            if at >= quoted.end {
                break;
            }
            let plain = match bytes[at + 1] {
                byte @ (b'"' | b'\\' | b'/') => byte,
                b'b' => 0x08,
                b'f' => 0x0c,
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'u' => {
                    let (code, length) = self.unicode_escape(at, quoted.end)?;
                    push_wtf8(out, code);
                    at += length;
                    continue;
                }
                _ => return self.fail(at, Reason::Escape),
            };
            out.push(plain);
            at += 2;
        }
        Ok(())
    }

    /// Reads `\uXXXX`, or two of them that are a pair; returns the code point and how long it was.
    fn unicode_escape(&self, at: usize, end: usize) -> Result<(u32, usize), JsonError> {
        let first = match self.hex(at, end) {
            Some(code) => code,
            None => return self.fail(at, Reason::Escape),
        };
        if (0xd800..0xdc00).contains(&first)
            && let Some(second) = self.hex(at + 6, end)
            && (0xdc00..0xe000).contains(&second)
        {
            return Ok((0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00), 12));
        }
        Ok((first, 6))
    }

    fn hex(&self, at: usize, end: usize) -> Option<u32> {
        let escape = self
            .text
            .as_bytes()
            .get(at..at + 6)
            .filter(|_| at + 6 <= end)?;
        if &escape[..2] != b"\\u" {
            return None;
        }
        escape[2..].iter().try_fold(0, |code, digit| {
            Some(code * 16 + char::from(*digit).to_digit(16)?)
        })
    }
}

/// Appends a code point, a lone surrogate too. A surrogate pair in two escapes never gets here in halves.
fn push_wtf8(out: &mut Vec<u8>, code: u32) {
    match char::from_u32(code) {
        Some(character) => {
            let mut buffer = [0; 4];
            out.extend_from_slice(character.encode_utf8(&mut buffer).as_bytes());
        }
        None => {
            let low = |shift: u32| u8::try_from((code >> shift) & 0x3f).unwrap_or_default() | 0x80;
            out.extend_from_slice(&[0xed, low(6), low(0)]);
        }
    }
}
