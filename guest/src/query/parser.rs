//! Makes trees of the texts of a query.
//!
//! The parser recurses once for each parenthesis and each `not`, at most [`MAX_DEPTH`] times.

use super::error::{Fault, Part, QueryError, Reason, shown};
use super::expr::{CompareOp, Expr, Literal, Moment, UNITS};
use super::field::{Column, Field, Kind};
use super::lexer::{Lexer, Placed, Token};
use super::like::Pattern;
use super::order::{Direction, Sort, SortKey};
use super::page::Projection;
use super::{MAX_COLUMNS, MAX_DEPTH, MAX_LITERALS, MAX_SORT_KEYS, MAX_TERMS, MAX_TEXT};
use crate::json::{self, Value};
use crate::model::Status;
use crate::time::{Timestamp, isoformat};

/// Seconds of ten thousand years: enough for every duration that ends within the calendar.
const MAX_SECONDS: i64 = 10_000 * 366 * 86_400;

const FIELD: &str = "a field, `not` or `(`";
const OPERATOR: &str = "=, !=, <, <=, >, >=, in, between, contains, like, ilike, exists, is missing, or one of them with `not` before \
     it; a name with other characters than letters, digits and _ stands in quotes";
const VALUE: &str = "a value: a quoted text, a number, true, false, null, a timestamp such as 2026-03-01T09:00:00, or now";

/// Reads a filter; `None` for a text of white space alone.
///
/// # Errors
/// The first problem and its place.
pub fn parse_filter(text: &str) -> Result<Option<Expr>, QueryError> {
    parse(Part::Filter, text, |parser| {
        if parser.next.token == Token::End {
            return Ok(None);
        }
        let expr = parser.any()?;
        parser.end("`and`, `or` or the end")?;
        Ok(Some(expr))
    })
}

/// Reads sort keys, such as `metrics.loss asc, started_at desc`; none for a text of white space alone.
///
/// # Errors
/// The first problem and its place.
pub fn parse_sort(text: &str) -> Result<Sort, QueryError> {
    parse(Part::Sort, text, |parser| {
        let mut keys = Vec::new();
        while parser.next.token != Token::End {
            let start = parser.next.start;
            if keys.len() == MAX_SORT_KEYS {
                return Err(Fault::new(start, Reason::TooManySortKeys));
            }
            let (head, steps) = parser.path("a field to sort by")?;
            let field = Field::named(head, steps).map_err(|reason| Fault::new(start, reason))?;
            if field == Field::Tags {
                return Err(Fault::new(start, Reason::NotSortable("tags")));
            }
            let direction = if parser.keyword("desc")? {
                Direction::Descending
            } else {
                parser.keyword("asc")?;
                Direction::Ascending
            };
            keys.push(SortKey { field, direction });
            if !parser.comma("`asc`, `desc`, a comma or the end")? {
                break;
            }
        }
        Ok(Sort(keys))
    })
}

/// Reads columns, such as `run_id, metrics.loss, params`; `None` for a text of white space alone.
///
/// # Errors
/// The first problem and its place.
pub fn parse_columns(text: &str) -> Result<Option<Projection>, QueryError> {
    parse(Part::Columns, text, |parser| {
        if parser.next.token == Token::End {
            return Ok(None);
        }
        let mut columns = Vec::new();
        loop {
            let start = parser.next.start;
            if columns.len() == MAX_COLUMNS {
                return Err(Fault::new(start, Reason::TooManyColumns));
            }
            let (head, steps) = parser.path("a field")?;
            columns.push(Column::named(head, steps).map_err(|reason| Fault::new(start, reason))?);
            if !parser.comma("a comma or the end")? {
                return Ok(Some(Projection(columns)));
            }
        }
    })
}

fn parse<'q, T>(
    part: Part,
    text: &'q str,
    read: impl FnOnce(&mut Parser<'q>) -> Result<T, Fault>,
) -> Result<T, QueryError> {
    let result = if text.len() > MAX_TEXT {
        Err(Fault::new(
            text.floor_char_boundary(MAX_TEXT),
            Reason::TooLong(text.len()),
        ))
    } else {
        Parser::new(text).and_then(|mut parser| read(&mut parser))
    };
    result.map_err(|fault| fault.within(part, text))
}

struct Parser<'q> {
    text: &'q str,
    lexer: Lexer<'q>,
    next: Placed<'q>,
    depth: usize,
    terms: usize,
    literals: usize,
}

/// What a value is compared by.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Equality,
    Order,
    Contains,
}

impl<'q> Parser<'q> {
    fn new(text: &'q str) -> Result<Self, Fault> {
        let mut lexer = Lexer::new(text);
        let next = lexer.next()?;
        Ok(Self {
            text,
            lexer,
            next,
            depth: 0,
            terms: 0,
            literals: 0,
        })
    }

    /// Takes the next token.
    fn take(&mut self) -> Result<Placed<'q>, Fault> {
        let following = self.lexer.next()?;
        Ok(std::mem::replace(&mut self.next, following))
    }

    fn unexpected(&self, expected: &'static str) -> Fault {
        let place = &self.next;
        let text = self.text.get(place.start..place.end).unwrap_or_default();
        let found = place.token.describe(text);
        Fault::new(place.start, Reason::Unexpected { found, expected })
    }

    fn is_keyword(&self, word: &str) -> bool {
        matches!(&self.next.token, Token::Word(head, steps)
            if steps.is_empty() && head.eq_ignore_ascii_case(word))
    }

    /// Takes a key word if it comes next.
    fn keyword(&mut self, word: &str) -> Result<bool, Fault> {
        let found = self.is_keyword(word);
        if found {
            self.take()?;
        }
        Ok(found)
    }

    /// Takes a symbol if it comes next.
    fn symbol(&mut self, symbol: &str) -> Result<bool, Fault> {
        let found = matches!(self.next.token, Token::Symbol(next) if next == symbol);
        if found {
            self.take()?;
        }
        Ok(found)
    }

    fn end(&self, expected: &'static str) -> Result<(), Fault> {
        if self.next.token == Token::End {
            Ok(())
        } else {
            Err(self.unexpected(expected))
        }
    }

    /// Takes a comma, after which something must follow, or stands at the end.
    fn comma(&mut self, expected: &'static str) -> Result<bool, Fault> {
        if self.symbol(",")? {
            if self.next.token == Token::End {
                return Err(self.unexpected("a field after the comma"));
            }
            return Ok(true);
        }
        self.end(expected)?;
        Ok(false)
    }

    fn path(&mut self, expected: &'static str) -> Result<(&'q str, Vec<super::Step>), Fault> {
        if !matches!(self.next.token, Token::Word(..)) {
            return Err(self.unexpected(expected));
        }
        match self.take()?.token {
            Token::Word(head, steps) => Ok((head, steps)),
            _ => Err(self.unexpected(expected)),
        }
    }

    /// `ALL or ALL or …`
    fn any(&mut self) -> Result<Expr, Fault> {
        let first = self.all()?;
        if !self.is_keyword("or") {
            return Ok(first);
        }
        let mut children = vec![first];
        while self.keyword("or")? {
            children.push(self.all()?);
        }
        Ok(Expr::Or(children))
    }

    /// `ONE and ONE and …`
    fn all(&mut self) -> Result<Expr, Fault> {
        let first = self.one()?;
        if !self.is_keyword("and") {
            return Ok(first);
        }
        let mut children = vec![first];
        while self.keyword("and")? {
            children.push(self.one()?);
        }
        Ok(Expr::And(children))
    }

    /// `not ONE`, `(ANY)` or a comparison.
    fn one(&mut self) -> Result<Expr, Fault> {
        let start = self.next.start;
        let negated = self.keyword("not")?;
        if !negated && !self.symbol("(")? {
            return self.term();
        }
        if self.depth == MAX_DEPTH {
            return Err(Fault::new(start, Reason::TooDeep));
        }
        self.depth += 1;
        let expr = if negated {
            Expr::Not(Box::new(self.one()?))
        } else {
            let inner = self.any()?;
            if !self.symbol(")")? {
                return Err(self.unexpected("`and`, `or` or `)`"));
            }
            inner
        };
        self.depth -= 1;
        Ok(expr)
    }

    fn term(&mut self) -> Result<Expr, Fault> {
        let start = self.next.start;
        if self.terms == MAX_TERMS {
            return Err(Fault::new(start, Reason::TooManyTerms));
        }
        self.terms += 1;
        let (head, steps) = self.path(FIELD)?;
        let field = Field::named(head, steps).map_err(|reason| Fault::new(start, reason))?;
        if self.keyword("exists")? {
            return Ok(Expr::Exists(field));
        }
        if self.keyword("is")? {
            let present = self.keyword("not")?;
            if !self.keyword("missing")? {
                return Err(
                    self.unexpected("`missing` or `not missing`; null is found by `= null`")
                );
            }
            let exists = Expr::Exists(field);
            return Ok(if present { exists } else { not(exists) });
        }
        if self.keyword("not")? {
            return match self.worded(&field)? {
                Some(expr) => Ok(not(expr)),
                None => Err(self.unexpected("`in`, `between`, `contains`, `like` or `ilike`")),
            };
        }
        if let Some(expr) = self.worded(&field)? {
            return Ok(expr);
        }
        let op = match self.next.token {
            Token::Symbol("=") => CompareOp::Equal,
            Token::Symbol("!=") => CompareOp::NotEqual,
            Token::Symbol("<") => CompareOp::Less,
            Token::Symbol("<=") => CompareOp::LessOrEqual,
            Token::Symbol(">") => CompareOp::Greater,
            Token::Symbol(">=") => CompareOp::GreaterOrEqual,
            _ => return Err(self.unexpected(OPERATOR)),
        };
        let place = self.take()?.start;
        if field.kind() == Kind::Texts {
            return Err(not_applicable(&field, op.as_str(), place));
        }
        let how = if op.is_order() {
            Use::Order
        } else {
            Use::Equality
        };
        let value = self.value(&field, how)?;
        Ok(Expr::Compare { field, op, value })
    }

    /// A comparison that is written as a word, if one comes next.
    fn worded(&mut self, field: &Field) -> Result<Option<Expr>, Fault> {
        let place = self.next.start;
        let kind = field.kind();
        let field = field.clone();
        let refused = |operator: &'static str, kinds: &[Kind]| {
            if kinds.contains(&kind) {
                Err(not_applicable(&field, operator, place))
            } else {
                Ok(())
            }
        };
        if self.keyword("in")? {
            refused("in", &[Kind::Texts])?;
            return self.list(field).map(Some);
        }
        if self.keyword("between")? {
            refused("between", &[Kind::Texts])?;
            let at = self.next.start;
            let low = self.value(&field, Use::Order)?;
            if !self.keyword("and")? {
                return Err(self.unexpected("`and` and the upper end"));
            }
            let high = self.value(&field, Use::Order)?;
            // Only numbers, texts and times have an order.
            if low.number().is_some() != high.number().is_some() {
                return Err(Fault::new(at, Reason::MixedRange));
            }
            return Ok(Some(Expr::Between { field, low, high }));
        }
        if self.keyword("contains")? {
            refused("contains", &[Kind::Time, Kind::Integer])?;
            let value = self.value(&field, Use::Contains)?;
            return Ok(Some(Expr::Contains { field, value }));
        }
        let fold = self.is_keyword("ilike");
        if self.keyword("like")? || self.keyword("ilike")? {
            let word = if fold { "ilike" } else { "like" };
            refused(word, &[Kind::Time, Kind::Integer, Kind::Texts])?;
            let at = self.next.start;
            let Literal::Text(source) = self.literal()? else {
                let found = self.text.get(at..).unwrap_or_default();
                let found = shown(found.split_whitespace().next().unwrap_or_default());
                let expected = "a pattern as a quoted text";
                return Err(Fault::new(at, Reason::Unexpected { found, expected }));
            };
            let pattern = Pattern::new(source).map_err(|reason| Fault::new(at, reason))?;
            return Ok(Some(Expr::Like {
                field,
                pattern,
                fold,
            }));
        }
        Ok(None)
    }

    /// `(VALUE, VALUE, …)`
    fn list(&mut self, field: Field) -> Result<Expr, Fault> {
        if !self.symbol("(")? {
            return Err(self.unexpected("`(` and a list of values"));
        }
        let mut values = vec![self.value(&field, Use::Equality)?];
        while self.symbol(",")? {
            values.push(self.value(&field, Use::Equality)?);
        }
        if !self.symbol(")")? {
            return Err(self.unexpected("a comma or `)`"));
        }
        Ok(Expr::In { field, values })
    }

    /// A value that the field can be compared with.
    fn value(&mut self, field: &Field, how: Use) -> Result<Literal, Fault> {
        let at = self.next.start;
        let literal = self.literal()?;
        fit(field, literal, how).map_err(|reason| Fault::new(at, reason))
    }

    fn literal(&mut self) -> Result<Literal, Fault> {
        let start = self.next.start;
        if self.literals == MAX_LITERALS {
            return Err(Fault::new(start, Reason::TooManyLiterals));
        }
        self.literals += 1;
        let negative = self.symbol("-")?;
        let signed = negative || self.symbol("+")?;
        match &self.next.token {
            Token::Number(_) => {}
            Token::Word(head, steps) if steps.is_empty() => {
                let literal = match head.to_ascii_lowercase().as_str() {
                    "inf" | "infinity" if negative => Literal::Float(f64::NEG_INFINITY),
                    "inf" | "infinity" => Literal::Float(f64::INFINITY),
                    "nan" if !signed => Literal::Float(f64::NAN),
                    "true" if !signed => Literal::Bool(true),
                    "false" if !signed => Literal::Bool(false),
                    "null" if !signed => Literal::Null,
                    "now" if !signed => {
                        self.take()?;
                        return self.relative();
                    }
                    _ => return Err(self.unexpected(if signed { "a number" } else { VALUE })),
                };
                self.take()?;
                return Ok(literal);
            }
            _ if signed => return Err(self.unexpected("a number")),
            Token::Text(_) | Token::Time(_) => {}
            Token::Duration(..) => {
                return Err(
                    self.unexpected("a value; a duration stands after now, such as now - 7d")
                );
            }
            Token::Word(..) | Token::Symbol(_) | Token::End => return Err(self.unexpected(VALUE)),
        }
        let place = self.take()?;
        let literal = match place.token {
            Token::Number(digits) => number(negative, digits),
            Token::Time(text) => timestamp(text),
            Token::Text(text) => Ok(Literal::Text(text)),
            // Every other token was refused above.
            _ => return Err(self.unexpected(VALUE)),
        };
        literal.map_err(|reason| Fault::new(place.start, reason))
    }

    /// What may follow `now`: durations, each with its sign.
    fn relative(&mut self) -> Result<Literal, Fault> {
        let mut seconds = 0_i64;
        loop {
            let sign = match self.next.token {
                Token::Symbol("+") => 1,
                Token::Symbol("-") => -1,
                _ => return Ok(Literal::Time(Moment::Now(seconds))),
            };
            self.take()?;
            let Token::Duration(digits, letter) = self.next.token else {
                return Err(self.unexpected("a duration such as 90s, 30m, 12h, 7d or 2w"));
            };
            let unit = UNITS.iter().find(|(unit, _)| *unit == letter);
            let sum = digits
                .parse::<i64>()
                .ok()
                .and_then(|count| count.checked_mul(unit?.1))
                .and_then(|size| seconds.checked_add(sign * size))
                .filter(|sum| sum.abs() <= MAX_SECONDS);
            seconds = sum.ok_or(Fault::new(self.next.start, Reason::BadDuration))?;
            self.take()?;
        }
    }
}

/// Makes the opposite of an expression.
fn not(expr: Expr) -> Expr {
    Expr::Not(Box::new(expr))
}

fn not_applicable(field: &Field, operator: &'static str, at: usize) -> Fault {
    let hint = match field.kind() {
        Kind::Texts => "it is a list: use `contains` or `exists`",
        Kind::Time => "compare it with a timestamp or with now",
        Kind::Integer => "compare it with a number",
        Kind::Text | Kind::Status | Kind::Any => "use another comparison",
    };
    let field = field.to_string();
    Fault::new(
        at,
        Reason::NotApplicable {
            field,
            operator,
            hint,
        },
    )
}

/// Reads a number as a record would hold it.
fn number(negative: bool, digits: &str) -> Result<Literal, Reason> {
    let sign = if negative { "-" } else { "" };
    let text = format!("{sign}{digits}");
    match json::parse(text.as_bytes()) {
        Ok(Value::Int(value)) => Ok(Literal::Int(value)),
        Ok(Value::BigInt(digits)) => Ok(Literal::Big(digits.into_owned())),
        Ok(Value::Float(value)) => Ok(Literal::Float(value)),
        Err(error) if error.reason == json::Reason::IntegerTooLong => Err(Reason::IntegerTooLong),
        _ => Err(Reason::BadNumber(shown(&text))),
    }
}

/// Reads a timestamp that can also be printed.
fn timestamp(text: &str) -> Result<Literal, Reason> {
    let read = Timestamp::parse(text)
        .and_then(|time| isoformat(time.micros_utc, Some(0)).map(|_| time.micros_utc));
    match read {
        Ok(micros) => Ok(Literal::Time(Moment::At(micros))),
        Err(reason) => Err(Reason::BadTime {
            text: shown(text),
            reason,
        }),
    }
}

/// Refuses what can never be true, and turns texts into timestamps where the field is one.
fn fit(field: &Field, literal: Literal, how: Use) -> Result<Literal, Reason> {
    let problem = match (field.kind(), &literal) {
        (Kind::Time, Literal::Text(text)) => return timestamp(text),
        (Kind::Time, Literal::Time(_)) => None,
        (Kind::Time, Literal::Null) | (Kind::Text, Literal::Null) => Some(
            "is never null; a field that a run lacks is found by `is missing`; it is compared with a value",
        ),
        (Kind::Time, _) => Some("is compared with a timestamp or with now"),
        (Kind::Integer, Literal::Int(_) | Literal::Big(_) | Literal::Float(_)) => None,
        (Kind::Integer, _) => Some("is compared with a number"),
        (Kind::Text | Kind::Status | Kind::Texts, Literal::Text(_)) => None,
        (Kind::Text | Kind::Status | Kind::Texts, _) => Some("is compared with a quoted text"),
        (Kind::Any, Literal::Time(_)) => {
            Some("never holds times, only texts that look so; it is compared with a quoted text")
        }
        (Kind::Any, _) => None,
    };
    if let Some(problem) = problem {
        return Err(Reason::Mismatch {
            field: field.to_string(),
            problem,
            found: literal.kind(),
        });
    }
    match (&literal, how) {
        (Literal::Null | Literal::Bool(_), Use::Order) => Err(Reason::NoOrder(literal.kind())),
        (Literal::Float(value), Use::Order) if value.is_nan() => {
            Err(Reason::NoOrder(literal.kind()))
        }
        (Literal::Text(text), Use::Equality)
            if field.kind() == Kind::Status && Status::parse(text).is_none() =>
        {
            Err(Reason::UnknownStatus(shown(text)))
        }
        _ => Ok(literal),
    }
}
