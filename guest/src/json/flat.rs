//! The tokens of a text in a row: what a tree of it would hold, without the tree.

use super::part::Shape;
use super::scan::{Kind, Scalar, Sink};
use super::{Line, Text, compare, parse_float};

/// A text of which a part can be looked at as if it had been made a tree.
///
/// Only of a text that has no escapes in keys, and whose keys are in order in each of its objects, as writers of the format
/// leave them: no key is there twice then.
pub(crate) struct Flat<'a> {
    tokens: Vec<Token<'a>>,
    /// The strings with escapes.
    texts: Vec<Text<'a>>,
}

#[derive(Clone, Copy)]
enum Token<'a> {
    /// The key of the value that follows.
    Key(&'a str),
    /// A value that is no container, and no string with escapes.
    Scalar(Scalar<'a>),
    /// A string with escapes as it is written, and its place among them.
    Escaped(&'a str, usize),
    /// A container, and the place of what follows it.
    Open(Kind, usize),
    Close,
}

/// So many tokens are made room for at first: a record has about a hundred.
const ROOM: usize = 192;

impl<'a> Flat<'a> {
    /// Returns the text's own value.
    pub(super) fn root(&self) -> FlatPart<'_> {
        FlatPart { flat: self, at: 0 }
    }
}

/// Takes the tokens of a text, until it is seen not to be of this form.
pub(super) struct Reader<'a> {
    flat: Flat<'a>,
    usual: bool,
    /// The places of the open containers, with the last key of each.
    open: Vec<(usize, Option<&'a str>)>,
}

impl Default for Reader<'_> {
    fn default() -> Self {
        Self {
            flat: Flat {
                tokens: Vec::with_capacity(ROOM),
                texts: Vec::new(),
            },
            usual: true,
            open: Vec::new(),
        }
    }
}

impl<'a> Reader<'a> {
    /// Returns the tokens of a text that was read; none if it is not of this form.
    pub(super) fn finish(self) -> Option<Flat<'a>> {
        self.usual.then_some(self.flat)
    }
}

impl<'a> Sink<'a> for Reader<'a> {
    fn scalar(&mut self, value: Scalar<'a>) {
        if !self.usual {
            return;
        }
        let token = match value {
            Scalar::String(body, true) => {
                self.flat.texts.push(Text::unescape(body));
                Token::Escaped(body, self.flat.texts.len() - 1)
            }
            value => Token::Scalar(value),
        };
        self.flat.tokens.push(token);
    }

    fn key(&mut self, body: &'a str, escaped: bool) {
        if !self.usual {
            return;
        }
        if let Some((_, last)) = self.open.last_mut() {
            let ordered = last.is_none_or(|last| compare(last.as_bytes(), body.as_bytes()).is_lt());
            *last = Some(body);
            self.usual = ordered && !escaped;
        }
        self.flat.tokens.push(Token::Key(body));
    }

    fn open(&mut self, kind: Kind) {
        if !self.usual {
            return;
        }
        self.open.push((self.flat.tokens.len(), None));
        // Where it ends is known there.
        self.flat.tokens.push(Token::Open(kind, 0));
    }

    fn close(&mut self) {
        if !self.usual {
            return;
        }
        self.flat.tokens.push(Token::Close);
        let after = self.flat.tokens.len();
        if let Some((place, _)) = self.open.pop()
            && let Some(Token::Open(_, end)) = self.flat.tokens.get_mut(place)
        {
            *end = after;
        }
    }
}

/// A value of a text.
#[derive(Clone, Copy)]
pub(crate) struct FlatPart<'f> {
    flat: &'f Flat<'f>,
    at: usize,
}

impl<'f> FlatPart<'f> {
    fn token(self) -> Token<'f> {
        self.flat
            .tokens
            .get(self.at)
            .copied()
            .unwrap_or(Token::Close)
    }

    /// Returns the place of what follows the value.
    fn after(self) -> usize {
        match self.token() {
            Token::Open(_, after) => after,
            _ => self.at + 1,
        }
    }

    pub(super) fn is_container(self, kind: Kind) -> bool {
        matches!(self.token(), Token::Open(open, _) if open == kind)
    }

    pub(super) fn is_null(self) -> bool {
        matches!(self.token(), Token::Scalar(Scalar::Null))
    }

    /// Returns the parts of a container of this kind, each with its key if it is an object.
    pub(super) fn parts(self, kind: Kind) -> FlatParts<'f> {
        let next = self.is_container(kind).then(|| Self {
            flat: self.flat,
            at: self.at + 1,
        });
        FlatParts { next }
    }

    pub(super) fn shape(self) -> Shape<'f> {
        let text = |place| self.flat.texts.get(place);
        match self.token() {
            Token::Scalar(Scalar::Null) => Shape::Null,
            Token::Scalar(Scalar::Bool(value)) => Shape::Bool(value),
            Token::Scalar(Scalar::NotFinite(value)) => Shape::Float(value),
            Token::Scalar(Scalar::Integer(text)) => {
                text.parse().map_or(Shape::Big(text), Shape::Int)
            }
            Token::Scalar(Scalar::Float(text)) => Shape::Float(parse_float(text)),
            Token::Scalar(Scalar::String(body, _)) => Shape::Text(body),
            Token::Escaped(_, place) => text(place).map_or(Shape::Null, Shape::of_text),
            Token::Open(Kind::Array, _) => Shape::Array,
            Token::Open(Kind::Object, _) => Shape::Object,
            // No value is a key or an end.
            Token::Key(_) | Token::Close => Shape::Null,
        }
    }

    /// Appends what [`line`](super::line()) prints.
    pub(super) fn line(self, out: &mut String) {
        let mut line = Line::default();
        let tokens = self.flat.tokens.get(self.at..self.after());
        for token in tokens.unwrap_or_default() {
            match *token {
                Token::Key(key) => line.key(key, false),
                Token::Scalar(value) => line.scalar(value),
                Token::Escaped(body, _) => line.scalar(Scalar::String(body, true)),
                Token::Open(kind, _) => line.open(kind),
                Token::Close => line.close(),
            }
        }
        line.take(|text| out.push_str(text));
    }
}

/// What is left of a container.
pub(crate) struct FlatParts<'f> {
    next: Option<FlatPart<'f>>,
}

impl<'f> Iterator for FlatParts<'f> {
    type Item = (Option<&'f str>, FlatPart<'f>);

    fn next(&mut self) -> Option<Self::Item> {
        let mut value = self.next?;
        let key = match value.token() {
            Token::Close => {
                self.next = None;
                return None;
            }
            Token::Key(key) => {
                value.at += 1;
                Some(key)
            }
            _ => None,
        };
        self.next = Some(FlatPart {
            flat: value.flat,
            at: value.after(),
        });
        Some((key, value))
    }
}
