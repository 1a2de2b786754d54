//! Cuts the text of a query into tokens.

use super::error::{Fault, Reason, shown};
use super::field::{Step, is_word};
use crate::time::Timestamp;

/// The smallest meaningful part of a query's text.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token<'q> {
    /// A word: a key word, or a field with the steps of its path.
    Word(&'q str, Vec<Step>),
    /// A quoted text, without quotes and escapes.
    Text(String),
    /// A number without sign, in JSON's grammar but for leading zeros.
    Number(&'q str),
    /// A number of seconds, written with a unit.
    Duration(&'q str, char),
    /// A timestamp without quotes, as it is written.
    Time(&'q str),
    /// `=`, `!=`, `(` and the like.
    Symbol(&'static str),
    /// The end of the text.
    End,
}

impl Token<'_> {
    /// Describes the token for messages; the text is that of its place.
    pub(super) fn describe(&self, text: &str) -> String {
        match self {
            Self::End => "the end".to_owned(),
            _ => shown(text),
        }
    }
}

/// A token and its place.
#[derive(Clone, Debug)]
pub(super) struct Placed<'q> {
    pub(super) token: Token<'q>,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// The symbols, each before those that it begins with. `==` and `<>` are other ways to write `=` and `!=`.
const SYMBOLS: [(&str, &str); 14] = [
    ("==", "="),
    ("=", "="),
    ("!=", "!="),
    ("<>", "!="),
    ("<=", "<="),
    ("<", "<"),
    (">=", ">="),
    (">", ">"),
    ("(", "("),
    (")", ")"),
    (",", ","),
    ("+", "+"),
    ("-", "-"),
    ("*", "*"),
];

const NAME: &str = "a name; one with other characters than letters, digits and _ stands in quotes";

/// Reads tokens one after the other.
pub(super) struct Lexer<'q> {
    text: &'q str,
    at: usize,
}

impl<'q> Lexer<'q> {
    pub(super) fn new(text: &'q str) -> Self {
        Self { text, at: 0 }
    }

    fn rest(&self) -> &'q str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn byte(&self, ahead: usize) -> u8 {
        let bytes = self.text.as_bytes();
        bytes.get(self.at + ahead).copied().unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    /// Takes all characters up to the first that is not wanted.
    fn take(&mut self, wanted: impl Fn(char) -> bool) -> &'q str {
        let rest = self.rest();
        let length = rest.find(|character| !wanted(character));
        let (taken, _) = rest.split_at(length.unwrap_or(rest.len()));
        self.at += taken.len();
        taken
    }

    fn unexpected(&self, expected: &'static str) -> Fault {
        let found = match self.peek() {
            None => "the end".to_owned(),
            Some(character) => shown(character.encode_utf8(&mut [0; 4])),
        };
        Fault::new(self.at, Reason::Unexpected { found, expected })
    }

    /// Reads the next token.
    pub(super) fn next(&mut self) -> Result<Placed<'q>, Fault> {
        self.take(char::is_whitespace);
        let start = self.at;
        let token = self.token()?;
        Ok(Placed {
            token,
            start,
            end: self.at,
        })
    }

    fn token(&mut self) -> Result<Token<'q>, Fault> {
        let Some(first) = self.peek() else {
            return Ok(Token::End);
        };
        if first.is_ascii_digit() {
            return self.number();
        }
        if is_word(first) {
            return self.word();
        }
        if matches!(first, '"' | '\'') {
            return self.quoted().map(Token::Text);
        }
        let rest = self.rest();
        for (written, symbol) in SYMBOLS {
            if rest.starts_with(written) {
                self.at += written.len();
                return Ok(Token::Symbol(symbol));
            }
        }
        Err(self.unexpected(
            "a field, a value or an operator; a name with other characters than letters, digits and _ stands \
             in quotes, such as metrics.\"val/loss\"",
        ))
    }

    /// Reads a word, and the path that follows it without space.
    fn word(&mut self) -> Result<Token<'q>, Fault> {
        let head = self.take(is_word);
        let mut steps = Vec::new();
        loop {
            match self.byte(0) {
                b'.' => {
                    self.at += 1;
                    steps.push(Step::Key(self.name()?));
                }
                b'[' => {
                    self.at += 1;
                    steps.push(Step::Index(self.index()?));
                }
                _ => return Ok(Token::Word(head, steps)),
            }
        }
    }

    fn name(&mut self) -> Result<String, Fault> {
        match self.peek() {
            Some('"' | '\'') => self.quoted(),
            Some(first) if is_word(first) => Ok(self.take(is_word).to_owned()),
            _ => Err(self.unexpected(NAME)),
        }
    }

    fn index(&mut self) -> Result<u32, Fault> {
        let start = self.at;
        let digits = self.take(|character| character.is_ascii_digit());
        if digits.is_empty() {
            return Err(self.unexpected("the number of a list's item, from 0 on"));
        }
        let index = digits
            .parse()
            .map_err(|_| Fault::new(start, Reason::BadIndex(shown(digits))))?;
        if self.byte(0) != b']' {
            return Err(self.unexpected("`]`"));
        }
        self.at += 1;
        Ok(index)
    }

    /// Reads a text in single or double quotes.
    fn quoted(&mut self) -> Result<String, Fault> {
        let start = self.at;
        let quote = char::from(self.byte(0));
        self.at += 1;
        let mut text = String::new();
        loop {
            text.push_str(self.take(|character| character != quote && character != '\\'));
            match self.peek() {
                None => return Err(Fault::new(start, Reason::Unclosed)),
                Some('\\') => {
                    let escape = self.at;
                    let character = self.escape();
                    text.push(character.ok_or(Fault::new(escape, Reason::BadEscape))?);
                }
                Some(_) => {
                    self.at += 1;
                    return Ok(text);
                }
            }
        }
    }

    fn escape(&mut self) -> Option<char> {
        let letter = self.byte(1);
        self.at += 2;
        Some(match letter {
            b'\\' | b'"' | b'\'' | b'/' => char::from(letter),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let first = self.unit()?;
                if !(0xD800..0xDC00).contains(&first) {
                    // A lone second half is no character.
                    return char::from_u32(first);
                }
                if (self.byte(0), self.byte(1)) != (b'\\', b'u') {
                    return None;
                }
                self.at += 2;
                let second = self.unit()?.checked_sub(0xDC00)?;
                if second >= 0x400 {
                    return None;
                }
                char::from_u32(0x10000 + ((first - 0xD800) << 10) + second)?
            }
            _ => return None,
        })
    }

    fn unit(&mut self) -> Option<u32> {
        let digits = self.text.get(self.at..self.at + 4)?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        self.at += 4;
        u32::from_str_radix(digits, 16).ok()
    }

    /// Reads what starts with a digit: a number, a duration or a timestamp.
    fn number(&mut self) -> Result<Token<'q>, Fault> {
        let start = self.at;
        let whole = self.take(|character| character.is_ascii_digit());
        if whole.len() == 4
            && self.byte(0) == b'-'
            && (self.byte(1).is_ascii_digit() || self.byte(1) == b'W')
        {
            return self.time(start);
        }
        if self.byte(0) == b'.' && self.byte(1).is_ascii_digit() {
            self.at += 1;
            self.take(|character| character.is_ascii_digit());
        }
        if matches!(self.byte(0), b'e' | b'E') {
            let signed = usize::from(matches!(self.byte(1), b'+' | b'-'));
            if self.byte(1 + signed).is_ascii_digit() {
                self.at += 1 + signed;
                self.take(|character| character.is_ascii_digit());
            }
        }
        let number = self.text.get(start..self.at).unwrap_or_default();
        let tail = self.take(|character| is_word(character) || character == '.');
        match tail {
            "" => Ok(Token::Number(number)),
            "s" | "m" | "h" | "d" | "w" if number == whole => {
                Ok(Token::Duration(number, char::from(tail.as_bytes()[0])))
            }
            _ => {
                let all = self.text.get(start..self.at).unwrap_or_default();
                Err(Fault::new(start, Reason::BadNumber(shown(all))))
            }
        }
    }

    fn time(&mut self, start: usize) -> Result<Token<'q>, Fault> {
        let part = |character: char| {
            character.is_ascii_alphanumeric() || matches!(character, ':' | '.' | '+' | '-')
        };
        self.take(part);
        // After a date, a space and a time of day can be nothing else.
        let date_only = self.at - start == "2026-03-01".len();
        if date_only
            && self.byte(0) == b' '
            && self.byte(1).is_ascii_digit()
            && self.byte(2).is_ascii_digit()
            && self.byte(3) == b':'
        {
            self.at += 1;
            self.take(part);
        }
        let text = self.text.get(start..self.at).unwrap_or_default();
        match Timestamp::parse(text) {
            Ok(_) => Ok(Token::Time(text)),
            Err(reason) => Err(Fault::new(
                start,
                Reason::BadTime {
                    text: shown(text),
                    reason,
                },
            )),
        }
    }
}
