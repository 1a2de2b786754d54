//! Filters, sort keys and cursors in SQL.
//!
//! The answers are those of `docs/query-language.md` for every row that is not inexact, see
//! [`document`](super::document). Three rules carry that:
//!
//! * SQL's NULL is allowed where it counts as false: between `and` and `or` it does, and every `not` is written
//!   as `IS NOT TRUE`, so that there are two answers and no third;
//! * a comparison looks at the type first, since JSONB itself has an order between types;
//! * texts compare in the collation `"C"`, numbers as JSONB or as `numeric`, which round nothing.
//!
//! Whatever a query holds is a parameter. A literal that no exact row can equal (a text with a NUL) never
//! becomes one: what is true of it is decided here.

use super::document::{self, INFINITY, MAX_DEPTH, NAN, NEGATIVE_INFINITY, SPECIAL};
use super::runs::{NO_AGE, age};
use crate::json::{self, Value};
use crate::ports::SqlValue;
use crate::query::{
    CompareOp, Direction, Expr, Field, Literal, Position, Query, SORTED_CHARACTERS, SortKey,
    SortValue, Step,
};

/// The parameters of a statement under construction.
#[derive(Debug, Default)]
pub struct Parameters {
    values: Vec<SqlValue>,
    /// The places of the values that stand for floats without a number in JSON, once they are needed.
    special: Vec<(&'static str, usize)>,
}

impl Parameters {
    /// Takes a value and returns how the statement names it.
    pub fn add(&mut self, value: SqlValue) -> String {
        self.values.push(value);
        format!("${}", self.values.len())
    }

    /// Takes a text.
    pub fn text(&mut self, text: &str) -> String {
        self.add(SqlValue::Text(text.to_owned())) + "::text"
    }

    /// Takes a list of texts.
    pub fn texts<'t>(&mut self, texts: impl IntoIterator<Item = &'t str>) -> String {
        let texts = texts.into_iter().map(|text| Some(text.to_owned()));
        self.add(SqlValue::TextArray(texts.collect())) + "::text[]"
    }

    /// Takes an integer.
    pub fn integer(&mut self, value: i64) -> String {
        self.add(SqlValue::Integer(value)) + "::bigint"
    }

    fn json(&mut self, text: String) -> String {
        self.add(SqlValue::Json(text)) + "::jsonb"
    }

    /// Takes what stands for NaN or an infinity, once.
    fn special(&mut self, text: &'static str) -> String {
        let known = self.special.iter().find(|(known, _)| *known == text);
        match known {
            Some((_, place)) => format!("${place}::jsonb"),
            None => {
                let name = self.json(text.to_owned());
                self.special.push((text, self.values.len()));
                name
            }
        }
    }

    /// Makes a condition, and forgets its parameters if it came out constant: the server refuses to guess the
    /// types of those that a statement does not use.
    fn used(&mut self, make: impl FnOnce(&mut Self) -> String) -> String {
        let before = self.values.len();
        let sql = make(self);
        if sql == FALSE || sql == TRUE {
            self.values.truncate(before);
            self.special.retain(|(_, place)| *place <= before);
        }
        sql
    }

    /// Returns the values.
    #[must_use]
    pub fn into_values(self) -> Vec<SqlValue> {
        self.values
    }
}

/// What a field is in the table, whose row is called `r`.
enum Source {
    /// A text that is never NULL.
    Text(&'static str),
    /// When the run started.
    Age,
    /// A time; NULL if it is missing.
    Time(&'static str),
    /// The tags.
    Tags,
    /// A value of the document; NULL if it is missing.
    Json(String),
    /// Nothing: no exact row has it.
    Missing,
}

fn source(field: &Field, parameters: &mut Parameters) -> Source {
    let mut within = |name: &'static str, path: &[Step]| json_path(name, path, parameters);
    match field {
        Field::RunId => Source::Text("r.run_id"),
        Field::ExperimentId => Source::Text("r.experiment_id"),
        Field::Status => Source::Text("r.status"),
        Field::StartedAt => Source::Age,
        Field::FinishedAt => Source::Time("r.finished_at"),
        Field::Tags => Source::Tags,
        Field::ContextFingerprint => within("context_fingerprint", &[]),
        Field::ParamsFingerprint => within("params_fingerprint", &[]),
        Field::SeedFingerprint => within("seed_fingerprint", &[]),
        Field::DurationMs => within("duration_ms", &[]),
        Field::Notes => within("notes", &[]),
        Field::Error(path) => within("error", path),
        Field::Metric(name) => within("metrics", &[Step::Key(name.clone())]),
        Field::Derived(name) => within("derived", &[Step::Key(name.clone())]),
        Field::Param(path) => within("params", path),
        Field::Provenance(path) => within("provenance", path),
    }
}

/// Follows a path into a part of the document.
///
/// `->` with a text looks into objects alone. No operator looks into lists alone: `#>` takes a number for a key of
/// an object as well, and `-> 0` takes a scalar for a list of one. A strict path does.
fn json_path(name: &'static str, path: &[Step], parameters: &mut Parameters) -> Source {
    if !can_be_found(path) {
        return Source::Missing;
    }
    let mut sql = part(name);
    for step in path {
        sql = match step {
            Step::Key(key) => format!("({sql} -> {})", parameters.text(key)),
            Step::Index(index) => {
                let variables = parameters.json(format!("{{\"i\":{index}}}"));
                format!("jsonb_path_query_first({sql}, 'strict $[$i]', {variables}, true)")
            }
        };
    }
    Source::Json(sql)
}

/// Returns a part of the document.
pub(super) fn part(name: &'static str) -> String {
    format!("(r.document -> '{name}')")
}

/// Tells whether a document can have a value at the end of a path.
pub(super) fn can_be_found(path: &[Step]) -> bool {
    // The part that the path goes into is below the document.
    path.len() < MAX_DEPTH
        && path.iter().all(|step| match step {
            Step::Key(key) => !key.contains('\0') && key != SPECIAL,
            Step::Index(_) => true,
        })
}

/// Returns the text of a value that is known to be a text.
fn text_of(json: &str) -> String {
    format!("({json} #>> '{{}}') COLLATE \"C\"")
}

const FALSE: &str = "false";
const TRUE: &str = "true";

/// Returns the condition that a row fulfils if it is as the filter says. It may be NULL instead of false.
#[must_use]
pub fn condition(expr: &Expr, now: i64, parameters: &mut Parameters) -> String {
    match expr {
        Expr::And(children) => joined(children, " AND ", now, parameters),
        Expr::Or(children) => joined(children, " OR ", now, parameters),
        Expr::Not(child) => negated(&condition(child, now, parameters)),
        Expr::Compare {
            field,
            op: CompareOp::NotEqual,
            value,
        } => {
            let same = parameters.used(|parameters| {
                let source = source(field, parameters);
                equal(&source, value, now, parameters)
            });
            negated(&same)
        }
        Expr::Compare { field, op, value } => parameters.used(|parameters| {
            let source = source(field, parameters);
            match op {
                CompareOp::Equal => equal(&source, value, now, parameters),
                order => ordered(&source, *order, value, now, parameters),
            }
        }),
        Expr::In { field, values } => parameters.used(|parameters| {
            let source = source(field, parameters);
            equal_to_one(&source, values, now, parameters)
        }),
        Expr::Between { field, low, high } => parameters.used(|parameters| {
            let source = source(field, parameters);
            let low = ordered(&source, CompareOp::GreaterOrEqual, low, now, parameters);
            let high = ordered(&source, CompareOp::LessOrEqual, high, now, parameters);
            match low == FALSE || high == FALSE {
                true => FALSE.to_owned(),
                false => format!("({low} AND {high})"),
            }
        }),
        Expr::Contains { field, value } => parameters.used(|parameters| {
            let source = source(field, parameters);
            contains(&source, value, parameters)
        }),
        Expr::Like {
            field,
            pattern,
            fold,
        } => parameters.used(|parameters| {
            let source = source(field, parameters);
            like(&source, pattern.source(), *fold, parameters)
        }),
        Expr::Exists(field) => parameters.used(|parameters| match source(field, parameters) {
            Source::Text(_) => TRUE.to_owned(),
            Source::Age => format!("r.age < {NO_AGE}"),
            Source::Time(column) => format!("{column} IS NOT NULL"),
            Source::Tags => "r.tags <> '{}'".to_owned(),
            Source::Json(json) => format!("{json} IS NOT NULL"),
            Source::Missing => FALSE.to_owned(),
        }),
    }
}

fn joined(children: &[Expr], with: &str, now: i64, parameters: &mut Parameters) -> String {
    let parts: Vec<_> = children
        .iter()
        .map(|child| condition(child, now, parameters))
        .collect();
    format!("({})", parts.join(with))
}

fn negated(condition: &str) -> String {
    format!("(({condition}) IS NOT TRUE)")
}

/// Returns a literal as a document holds it, or `None` if no document does.
fn as_json(literal: &Literal) -> Option<String> {
    Some(match literal {
        Literal::Null => "null".to_owned(),
        Literal::Bool(value) => value.to_string(),
        Literal::Int(value) => value.to_string(),
        Literal::Big(digits) => digits.clone(),
        Literal::Float(value) => document::number(*value),
        Literal::Text(text) if text.contains('\0') => return None,
        Literal::Text(text) => {
            let mut out = String::new();
            json::line(&Value::from(text.as_str()), &mut out);
            out
        }
        Literal::Time(_) => return None,
    })
}

/// Returns the text of a literal that an exact row can hold.
fn as_text(literal: &Literal) -> Option<&str> {
    match literal {
        Literal::Text(text) if !text.contains('\0') => Some(text),
        _ => None,
    }
}

/// Returns the time of a literal, kept away from [`NO_AGE`], which no time that can be written reaches.
fn as_time(literal: &Literal, now: i64) -> Option<i64> {
    match literal {
        Literal::Time(moment) => Some(away(moment.micros(now))),
        _ => None,
    }
}

fn away(micros: i64) -> i64 {
    micros.clamp(1 - NO_AGE, NO_AGE - 1)
}

fn equal(source: &Source, value: &Literal, now: i64, parameters: &mut Parameters) -> String {
    let found = match source {
        Source::Text(column) => {
            as_text(value).map(|text| format!("{column} = {}", parameters.text(text)))
        }
        Source::Age => as_time(value, now)
            .map(|time| format!("r.age = {}", parameters.integer(age(Some(time))))),
        Source::Time(column) => {
            as_time(value, now).map(|time| format!("{column} = {}", parameters.integer(time)))
        }
        Source::Json(json) => {
            as_json(value).map(|value| format!("{json} = {}", parameters.json(value)))
        }
        Source::Tags | Source::Missing => None,
    };
    found.unwrap_or_else(|| FALSE.to_owned())
}

fn equal_to_one(
    source: &Source,
    values: &[Literal],
    now: i64,
    parameters: &mut Parameters,
) -> String {
    if let [value] = values {
        return equal(source, value, now, parameters);
    }
    // The sub-select is there to turn the texts into values once and not for each row.
    let mut one_of = |column: &str, texts: Vec<String>, cast: &str| {
        let texts = parameters.texts(texts.iter().map(String::as_str));
        format!("{column} = ANY((SELECT {texts}::{cast}[])::{cast}[])")
    };
    let times = || values.iter().filter_map(|value| as_time(value, now));
    match source {
        Source::Text(column) => {
            let texts = parameters.texts(values.iter().filter_map(as_text));
            format!("{column} = ANY({texts})")
        }
        Source::Age => {
            let ages = times().map(|time| age(Some(time)).to_string());
            one_of("r.age", ages.collect(), "bigint")
        }
        Source::Time(column) => one_of(
            column,
            times().map(|time| time.to_string()).collect(),
            "bigint",
        ),
        Source::Json(json) => one_of(json, values.iter().filter_map(as_json).collect(), "jsonb"),
        Source::Tags | Source::Missing => FALSE.to_owned(),
    }
}

fn ordered(
    source: &Source,
    op: CompareOp,
    value: &Literal,
    now: i64,
    parameters: &mut Parameters,
) -> String {
    let found = match source {
        Source::Text(column) => match value {
            Literal::Text(text) => Some(text_ordered(column, op, text, parameters)),
            _ => None,
        },
        Source::Age => as_time(value, now).map(|time| {
            let sql = format!(
                "r.age {} {}",
                reversed(op).as_str(),
                parameters.integer(age(Some(time)))
            );
            // Runs without a start are older than all others, and no time compares with them.
            match op {
                CompareOp::Less | CompareOp::LessOrEqual => {
                    format!("({sql} AND r.age < {NO_AGE})")
                }
                _ => sql,
            }
        }),
        Source::Time(column) => as_time(value, now)
            .map(|time| format!("{column} {} {}", op.as_str(), parameters.integer(time))),
        Source::Json(json) => match value {
            Literal::Text(text) => {
                let sql = text_ordered(&text_of(json), op, text, parameters);
                Some(format!(
                    "CASE WHEN jsonb_typeof({json}) = 'string' THEN {sql} END"
                ))
            }
            Literal::Int(_) | Literal::Big(_) | Literal::Float(_) => {
                number_ordered(json, op, value, parameters)
            }
            Literal::Null | Literal::Bool(_) | Literal::Time(_) => None,
        },
        Source::Tags | Source::Missing => None,
    };
    found.unwrap_or_else(|| FALSE.to_owned())
}

fn reversed(op: CompareOp) -> CompareOp {
    match op {
        CompareOp::Less => CompareOp::Greater,
        CompareOp::LessOrEqual => CompareOp::GreaterOrEqual,
        CompareOp::Greater => CompareOp::Less,
        CompareOp::GreaterOrEqual => CompareOp::LessOrEqual,
        same @ (CompareOp::Equal | CompareOp::NotEqual) => same,
    }
}

fn number_ordered(
    json: &str,
    op: CompareOp,
    value: &Literal,
    parameters: &mut Parameters,
) -> Option<String> {
    let infinite = match value {
        Literal::Float(float) if float.is_nan() => return None,
        Literal::Float(float) if float.is_infinite() => {
            if *float > 0.0 {
                1
            } else {
                -1
            }
        }
        _ => 0,
    };
    let holds = |sign: i32| match op {
        CompareOp::Less => sign < infinite,
        CompareOp::LessOrEqual => sign <= infinite,
        CompareOp::Greater => sign > infinite,
        CompareOp::GreaterOrEqual => sign >= infinite,
        CompareOp::Equal | CompareOp::NotEqual => false,
    };
    let finite = match infinite {
        0 => format!(
            "{json} {} {}",
            op.as_str(),
            parameters.json(as_json(value)?)
        ),
        _ => holds(0).to_string(),
    };
    let mut special = Vec::new();
    if holds(-1) {
        special.push(format!(
            "{json} = {}",
            parameters.special(NEGATIVE_INFINITY)
        ));
    }
    if holds(1) {
        special.push(format!("{json} = {}", parameters.special(INFINITY)));
    }
    let special = match special.is_empty() {
        true => String::new(),
        false => format!(" WHEN 'object' THEN {}", special.join(" OR ")),
    };
    Some(format!(
        "CASE jsonb_typeof({json}) WHEN 'number' THEN {finite}{special} END"
    ))
}

/// A text that PostgreSQL can hold, and where another that it cannot hold stands beside it.
struct Bound {
    text: String,
    place: Place,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// It is the text itself.
    Same,
    /// All texts up to this one are less, all after it greater.
    After,
    /// All texts before this one are less, this one and all after it greater.
    Before,
}

impl Bound {
    /// Finds the place of a text in WTF-8 among those without NUL and lone surrogates.
    fn of(wtf8: &[u8]) -> Self {
        let valid = match std::str::from_utf8(wtf8) {
            Ok(text) => text,
            // What is valid up to an error is UTF-8.
            Err(error) => std::str::from_utf8(wtf8.get(..error.valid_up_to()).unwrap_or_default())
                .unwrap_or_default(),
        };
        if let Some((before, _)) = valid.split_once('\0') {
            // A text that goes on where this one has its NUL goes on with something greater.
            return Self {
                text: before.to_owned(),
                place: Place::After,
            };
        }
        if valid.len() < wtf8.len() {
            // Lone surrogates lie between U+D7FF and U+E000.
            return Self {
                text: format!("{valid}\u{e000}"),
                place: Place::Before,
            };
        }
        Self {
            text: valid.to_owned(),
            place: Place::Same,
        }
    }

    fn operator(&self, op: CompareOp) -> &'static str {
        match (self.place, op) {
            (Place::Same, op) => op.as_str(),
            (Place::After, CompareOp::Less | CompareOp::LessOrEqual) => "<=",
            (Place::After, _) => ">",
            (Place::Before, CompareOp::Less | CompareOp::LessOrEqual) => "<",
            (Place::Before, _) => ">=",
        }
    }
}

fn text_ordered(sql: &str, op: CompareOp, text: &str, parameters: &mut Parameters) -> String {
    let bound = Bound::of(text.as_bytes());
    format!(
        "{sql} {} {}",
        bound.operator(op),
        parameters.text(&bound.text)
    )
}

fn contains(source: &Source, value: &Literal, parameters: &mut Parameters) -> String {
    let found = match source {
        Source::Text(column) => {
            as_text(value).map(|part| format!("strpos({column}, {}) > 0", parameters.text(part)))
        }
        Source::Tags => as_text(value).map(|tag| format!("r.tags @> {}", parameters.texts([tag]))),
        Source::Json(json) => as_json(value).map(|item| {
            let item = parameters.json(format!("[{item}]"));
            let listed = format!("{json} @> {item}");
            match as_text(value) {
                Some(part) => format!(
                    "CASE jsonb_typeof({json}) WHEN 'string' THEN strpos({}, {}) > 0 \
                     WHEN 'array' THEN {listed} END",
                    text_of(json),
                    parameters.text(part)
                ),
                None => listed,
            }
        }),
        Source::Age | Source::Time(_) | Source::Missing => None,
    };
    found.unwrap_or_else(|| FALSE.to_owned())
}

fn like(source: &Source, pattern: &str, fold: bool, parameters: &mut Parameters) -> String {
    if pattern.contains('\0') {
        return FALSE.to_owned();
    }
    let mut like = |text: &str| {
        if fold {
            // In the collation "C" only the letters of ASCII have two cases.
            let pattern = parameters.text(&pattern.to_ascii_lowercase());
            format!("lower({text}) LIKE {pattern}")
        } else {
            format!("{text} LIKE {}", parameters.text(pattern))
        }
    };
    match source {
        Source::Text(column) => like(column),
        Source::Json(json) => format!(
            "CASE WHEN jsonb_typeof({json}) = 'string' THEN {} END",
            like(&text_of(json))
        ),
        Source::Age | Source::Time(_) | Source::Tags | Source::Missing => FALSE.to_owned(),
    }
}

/// The order of a query: what to order by, and what a row is like that comes after a cursor.
pub struct Order {
    /// The list for `ORDER BY`, without the scope.
    pub by: String,
    /// Conditions that may be NULL instead of false: that a row comes after the cursor, and what else follows
    /// from the query, in a form that bounds an index of the first key.
    pub within: Vec<String>,
}

/// Translates the order of a query.
#[must_use]
pub fn order(query: &Query, parameters: &mut Parameters) -> Order {
    let mut by = Vec::new();
    let mut steps = Vec::new();
    let mut within = Vec::new();
    let mut bounds = Vec::new();
    let cursor = query.cursor.as_ref();
    let mut values = cursor.map(|cursor| cursor.last.keys.iter());
    for (index, key) in query.sort.0.iter().enumerate() {
        let made = SortedKey::of(key, parameters);
        made.order_by(&mut by);
        let value = values.as_mut().and_then(Iterator::next);
        if index == 0 {
            if let Some(filter) = &query.filter {
                made.bounds_of(&key.field, filter, parameters, &mut bounds);
            }
            bounds.extend(value.and_then(|value| made.bound_after(value, parameters)));
        }
        if let Some(value) = value {
            steps.push(made.place(value, parameters));
        }
    }
    by.push("r.age, r.experiment_id, r.run_id".to_owned());
    within.extend(cursor.map(|cursor| {
        let last = after_ids(&cursor.last, parameters);
        // From the last key to the first: later in this key, or equal in it and later in what follows.
        steps.into_iter().rev().fold(last, |rest, place| {
            let Placed { after, same } = place;
            format!("({after} OR ({same} AND {rest}))")
        })
    }));
    within.extend(bounds);
    Order {
        by: by.join(", "),
        within,
    }
}

/// Compares what settles the order of rows that are equal in all keys.
fn after_ids(last: &Position, parameters: &mut Parameters) -> String {
    let age = parameters.integer(age(last.started_at.map(away)));
    let experiment = Bound::of(last.experiment_id.as_bytes());
    let run = Bound::of(last.run_id.as_bytes());
    // Ids in a cursor are UTF-8, so that only a NUL can be in the way: greater is greater than what is before it.
    if experiment.place == Place::Same {
        format!(
            "(r.age, r.experiment_id, r.run_id) > ({age}, {}, {})",
            parameters.text(&experiment.text),
            parameters.text(&run.text)
        )
    } else {
        format!(
            "(r.age, r.experiment_id) > ({age}, {})",
            parameters.text(&experiment.text)
        )
    }
}

/// Returns the keys of the numbers that all runs of a filter are compared with: an index of one of them finds the runs.
#[must_use]
pub fn compared(filter: &Expr) -> Vec<SortKey> {
    let mut keys: Vec<SortKey> = Vec::new();
    for part in parts(filter) {
        if let Some((field, _)) = range_of(part)
            && keys.iter().all(|key| key.field != *field)
        {
            keys.push(ascending(field));
        }
    }
    keys
}

/// Returns what has to be true, all of it, of every run of a filter.
fn parts(filter: &Expr) -> &[Expr] {
    match filter {
        Expr::And(children) => children,
        one => std::slice::from_ref(one),
    }
}

/// The ends of a range of numbers, each with the operator that a number within it has towards it.
type Ends<'e> = Vec<(CompareOp, &'e Literal)>;

/// Returns the field and the range of a part of a filter that compares a number.
fn range_of(part: &Expr) -> Option<(&Field, Ends<'_>)> {
    let (field, ends) = match part {
        Expr::Compare {
            op: CompareOp::NotEqual,
            ..
        } => return None,
        Expr::Compare { field, op, value } => (field, vec![(*op, value)]),
        Expr::Between { field, low, high } => (
            field,
            vec![
                (CompareOp::GreaterOrEqual, low),
                (CompareOp::LessOrEqual, high),
            ],
        ),
        _ => return None,
    };
    let are_numbers = ends.iter().all(|(_, end)| match end {
        Literal::Int(_) | Literal::Big(_) => true,
        Literal::Float(value) => value.is_finite(),
        _ => false,
    });
    are_numbers.then_some((field, ends))
}

/// Says the same as the parts of a filter that compare a number, in the words of the ascending index of the number's
/// field, where there is one.
///
/// They follow from the filter and decide nothing. An index finds few runs by them; where it would find many, the
/// server knows that from its statistics, and reads the runs in the order of the page. Without an index it knows
/// nothing and guesses wrong.
#[must_use]
pub fn ranges(
    filter: &Expr,
    has_index: impl Fn(&SortKey) -> bool,
    parameters: &mut Parameters,
) -> Vec<String> {
    let ranges = parts(filter).iter().filter_map(range_of);
    let ranges = ranges.filter(|(field, _)| has_index(&ascending(field)));
    ranges
        .filter_map(|(field, ends)| range(field, &ends, parameters))
        .collect()
}

fn ascending(field: &Field) -> SortKey {
    SortKey {
        field: field.clone(),
        direction: Direction::Ascending,
    }
}

fn range(field: &Field, ends: &Ends<'_>, parameters: &mut Parameters) -> Option<String> {
    let key = ascending(field);
    let made = SortedKey::of(&key, parameters);
    let Source::Json(json) = &made.source else {
        return None;
    };
    let number = sorted_number(json, key.direction);
    let mut finite = format!("{} = {}", made.rank, rank::NUMBER);
    for (op, end) in ends {
        let end = parameters.json(as_json(end)?);
        finite.push_str(&format!(" AND {number} {} ({end})::numeric", op.as_str()));
    }
    // An infinity is beyond every number.
    let beyond = match ends.as_slice() {
        [(CompareOp::Less | CompareOp::LessOrEqual, _)] => Some(rank::LEAST),
        [(CompareOp::Greater | CompareOp::GreaterOrEqual, _)] => Some(rank::MOST),
        _ => None,
    };
    Some(match beyond {
        Some(beyond) => format!("(({finite}) OR {} = {beyond})", made.rank),
        None => format!("({finite})"),
    })
}

/// Where a row stands in one key, relative to a cursor: conditions that may be NULL instead of false.
struct Placed {
    after: String,
    same: String,
}

impl Placed {
    fn constant(after: bool, same: bool) -> Self {
        Self {
            after: after.to_string(),
            same: same.to_string(),
        }
    }
}

struct SortedKey {
    source: Source,
    direction: Direction,
    /// For values of the document: the group of the value.
    rank: String,
}

/// The groups of values, in their order. Infinities and truth values are groups of their own, so that a value
/// within a group is a finite number or a text.
mod rank {
    pub(super) const LEAST: u8 = 0;
    pub(super) const NUMBER: u8 = 1;
    pub(super) const MOST: u8 = 2;
    /// No value of a document is a time.
    pub(super) const TIME: u8 = 3;
    pub(super) const NAN: u8 = 4;
    pub(super) const TEXT: u8 = 5;
    pub(super) const FIRST_BOOL: u8 = 6;
    pub(super) const SECOND_BOOL: u8 = 7;
    pub(super) const NULL: u8 = 8;
    pub(super) const LIST: u8 = 9;
    pub(super) const OBJECT: u8 = 10;
    pub(super) const MISSING: u8 = 11;
}

impl SortedKey {
    fn of(key: &SortKey, parameters: &mut Parameters) -> Self {
        let source = source(&key.field, parameters);
        let direction = key.direction;
        let mut made = Self {
            source,
            direction,
            rank: String::new(),
        };
        if let Source::Json(json) = &made.source {
            made.rank = rank_of(
                json,
                direction,
                [NEGATIVE_INFINITY, INFINITY, NAN].map(|text| parameters.special(text)),
            );
        }
        made
    }

    fn ascending(&self) -> bool {
        self.direction == Direction::Ascending
    }

    fn bool_rank(&self, value: bool) -> u8 {
        bool_rank(value, self.direction)
    }

    fn infinity_rank(&self, positive: bool) -> u8 {
        infinity_rank(positive, self.direction)
    }

    fn rank_of(&self, value: &SortValue) -> u8 {
        match value {
            SortValue::Float(value) if value.is_infinite() => self.infinity_rank(*value > 0.0),
            SortValue::Int(_) | SortValue::Big(_) | SortValue::Float(_) => rank::NUMBER,
            SortValue::Time(_) => rank::TIME,
            SortValue::Nan => rank::NAN,
            SortValue::Text(_) => rank::TEXT,
            SortValue::Bool(value) => self.bool_rank(*value),
            SortValue::Null => rank::NULL,
            SortValue::List => rank::LIST,
            SortValue::Object => rank::OBJECT,
            SortValue::Missing => rank::MISSING,
        }
    }

    /// The operator that finds what comes later.
    fn later(&self) -> CompareOp {
        match self.ascending() {
            true => CompareOp::Greater,
            false => CompareOp::Less,
        }
    }

    fn order_by(&self, by: &mut Vec<String>) {
        let direction = if self.ascending() { "ASC" } else { "DESC" };
        match &self.source {
            Source::Text(column) => by.push(format!("{column} {direction}")),
            Source::Age if self.ascending() => {
                by.push(format!("(r.age = {NO_AGE})"));
                by.push("r.age DESC".to_owned());
            }
            Source::Age => by.push("r.age".to_owned()),
            Source::Time(column) => by.push(format!("{column} {direction} NULLS LAST")),
            Source::Json(json) => {
                by.push(self.rank.clone());
                by.push(sorted_number(json, self.direction));
                by.push(format!("{} {direction}", sorted_text(json)));
            }
            Source::Tags | Source::Missing => {}
        }
    }

    /// Finds what a filter says of this key alone, as bounds of an index of the key.
    ///
    /// They follow from the filter and decide nothing: without them, a page would read the index from its start.
    fn bounds_of(
        &self,
        field: &Field,
        filter: &Expr,
        parameters: &mut Parameters,
        bounds: &mut Vec<String>,
    ) {
        match filter {
            Expr::And(children) => {
                for child in children {
                    self.bounds_of(field, child, parameters, bounds);
                }
            }
            Expr::Compare {
                field: named,
                op,
                value,
            } if named == field => match op {
                CompareOp::Less | CompareOp::LessOrEqual => {
                    bounds.extend(self.bound(value, false, parameters));
                }
                CompareOp::Greater | CompareOp::GreaterOrEqual => {
                    bounds.extend(self.bound(value, true, parameters));
                }
                CompareOp::Equal => {
                    bounds.extend(self.bound(value, true, parameters));
                    bounds.extend(self.bound(value, false, parameters));
                }
                CompareOp::NotEqual => {}
            },
            Expr::Between {
                field: named,
                low,
                high,
            } if named == field => {
                bounds.extend(self.bound(low, true, parameters));
                bounds.extend(self.bound(high, false, parameters));
            }
            _ => {}
        }
    }

    /// Says that a value is a number from here on, or up to here. It includes the end and the infinity beyond.
    fn bound(&self, end: &Literal, from: bool, parameters: &mut Parameters) -> Option<String> {
        match end {
            Literal::Int(_) | Literal::Big(_) => {}
            Literal::Float(value) if value.is_finite() => {}
            _ => return None,
        }
        self.bound_at(as_json(end)?, from == self.ascending(), parameters)
    }

    /// Says that a row does not come before one with this value.
    fn bound_after(&self, value: &SortValue, parameters: &mut Parameters) -> Option<String> {
        let Source::Json(_) = &self.source else {
            return None;
        };
        match self.rank_of(value) {
            rank::NUMBER => self.bound_at(number_json(value)?, true, parameters),
            place => Some(format!("{} >= {place}", self.rank)),
        }
    }

    fn bound_at(&self, number: String, least: bool, parameters: &mut Parameters) -> Option<String> {
        let Source::Json(json) = &self.source else {
            return None;
        };
        let sign = if self.ascending() { "" } else { "-" };
        Some(format!(
            "({}, {}) {} ({}, {sign}(({})::numeric))",
            self.rank,
            sorted_number(json, self.direction),
            if least { ">=" } else { "<=" },
            rank::NUMBER,
            parameters.json(number)
        ))
    }

    fn place(&self, value: &SortValue, parameters: &mut Parameters) -> Placed {
        let place = self.rank_of(value);
        match &self.source {
            Source::Text(column) => match value {
                SortValue::Text(text) => self.place_text(column, text, parameters),
                _ => Placed::constant(place < rank::TEXT, false),
            },
            Source::Age => {
                let missing = format!("r.age = {NO_AGE}");
                match value {
                    SortValue::Time(micros) => {
                        let age = parameters.integer(age(Some(away(*micros))));
                        let after = match self.ascending() {
                            true => format!("(r.age < {age} OR {missing})"),
                            // Missing ones are the oldest.
                            false => format!("r.age > {age}"),
                        };
                        Placed {
                            after,
                            same: format!("r.age = {age}"),
                        }
                    }
                    _ => Self::place_time(place, missing),
                }
            }
            Source::Time(column) => {
                let missing = format!("{column} IS NULL");
                match value {
                    SortValue::Time(micros) => {
                        let time = parameters.integer(*micros);
                        let later = self.later().as_str();
                        Placed {
                            after: format!("({column} {later} {time} OR {missing})"),
                            same: format!("{column} = {time}"),
                        }
                    }
                    _ => Self::place_time(place, missing),
                }
            }
            Source::Json(json) => {
                let rank = &self.rank;
                let greater = format!("{rank} > {place}");
                let within = match value {
                    SortValue::Text(text) => {
                        Some(self.place_text(&sorted_text(json), text, parameters))
                    }
                    _ if place == rank::NUMBER => number_json(value).map(|number| {
                        let number = parameters.json(number);
                        let later = self.later().as_str();
                        Placed {
                            after: format!(
                                "CASE WHEN jsonb_typeof({json}) = 'number' THEN {json} {later} {number} END"
                            ),
                            same: format!("{json} = {number}"),
                        }
                    }),
                    _ => None,
                };
                match within {
                    Some(Placed { after, same }) => Placed {
                        after: format!("({greater} OR {after})"),
                        same,
                    },
                    None => Placed {
                        after: greater,
                        same: format!("{rank} = {place}"),
                    },
                }
            }
            Source::Tags | Source::Missing => {
                Placed::constant(place < rank::MISSING, place == rank::MISSING)
            }
        }
    }

    /// Places rows of a time field after a value that is no time.
    fn place_time(place: u8, missing: String) -> Placed {
        match place {
            rank::MISSING => Placed {
                after: FALSE.to_owned(),
                same: missing,
            },
            _ if place < rank::TIME => Placed::constant(true, false),
            _ => Placed {
                after: missing,
                same: FALSE.to_owned(),
            },
        }
    }

    fn place_text(&self, sql: &str, text: &[u8], parameters: &mut Parameters) -> Placed {
        let bound = Bound::of(text);
        let name = parameters.text(&bound.text);
        Placed {
            after: format!("{sql} {} {name}", bound.operator(self.later())),
            same: match bound.place {
                Place::Same => format!("{sql} = {name}"),
                Place::After | Place::Before => FALSE.to_owned(),
            },
        }
    }
}

fn bool_rank(value: bool, direction: Direction) -> u8 {
    match value == (direction == Direction::Ascending) {
        true => rank::SECOND_BOOL,
        false => rank::FIRST_BOOL,
    }
}

fn infinity_rank(positive: bool, direction: Direction) -> u8 {
    match positive == (direction == Direction::Ascending) {
        true => rank::MOST,
        false => rank::LEAST,
    }
}

/// Returns the group of a value, given what stands for the negative and the positive infinity and for NaN.
pub(super) fn rank_of(json: &str, direction: Direction, special: [String; 3]) -> String {
    let [negative, positive, nan] = special;
    format!(
        "CASE jsonb_typeof({json}) WHEN 'number' THEN {} WHEN 'string' THEN {} \
         WHEN 'boolean' THEN CASE {json} WHEN 'true'::jsonb THEN {} ELSE {} END \
         WHEN 'null' THEN {} WHEN 'array' THEN {} \
         WHEN 'object' THEN CASE {json} WHEN {negative} THEN {} WHEN {positive} THEN {} WHEN {nan} THEN {} \
         ELSE {} END ELSE {} END",
        rank::NUMBER,
        rank::TEXT,
        bool_rank(true, direction),
        bool_rank(false, direction),
        rank::NULL,
        rank::LIST,
        infinity_rank(false, direction),
        infinity_rank(true, direction),
        rank::NAN,
        rank::OBJECT,
        rank::MISSING,
    )
}

/// Returns a finite number for an ascending sort, negative for a descending key; NULL if the value is none.
pub(super) fn sorted_number(json: &str, direction: Direction) -> String {
    let sign = match direction {
        Direction::Ascending => "",
        Direction::Descending => "-",
    };
    format!("CASE WHEN jsonb_typeof({json}) = 'number' THEN {sign}(({json})::numeric) END")
}

/// Returns the part of a text that counts in a sort; NULL if the value is no text.
pub(super) fn sorted_text(json: &str) -> String {
    format!(
        "CASE WHEN jsonb_typeof({json}) = 'string' \
         THEN left({json} #>> '{{}}', {SORTED_CHARACTERS}) END COLLATE \"C\""
    )
}

fn number_json(value: &SortValue) -> Option<String> {
    match value {
        SortValue::Int(value) => Some(value.to_string()),
        SortValue::Big(digits) => Some(digits.clone()),
        SortValue::Float(value) => Some(document::number(*value)),
        _ => None,
    }
}
