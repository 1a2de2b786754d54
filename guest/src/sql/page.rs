//! Pages of a query, lists of all its runs, and counts, out of our own table.
//!
//! The database answers for all rows but the inexact ones. Those come along as they are, and the evaluation
//! that files use decides about them from their texts; then both are merged in the query's order.

use std::collections::{BTreeSet, HashSet, VecDeque};

use super::identifier::Schema;
use super::runs::{TABLE, push};
use super::sorting;
use super::translate::{self, Parameters};
use crate::codec;
use crate::json::{Object, Value};
use crate::ports::{
    self, Database, DatabaseFailure, DatabaseFailureKind, DatabaseResult, Isolation, RowSet,
    SqlValue, Statement, Transaction,
};
use crate::query::{Pager, Position, Query, RecordRow, SortKey};
use crate::run_list::needs_derived;

/// The most inexact rows that come along with a page. With more, the page is made of two statements.
pub const MAX_INEXACT: u32 = 64;

/// The largest page that comes in one piece. A larger one is read through a cursor.
pub const MAX_PAGE: u32 = 1024;

/// How many rows a cursor is asked for at once, and how many bytes.
const CHUNK_ROWS: u32 = 1024;
const CHUNK_BYTES: u32 = 1024 * 1024;

/// Which runs are asked for, apart from the query's filter.
#[derive(Clone, Copy, Debug)]
pub struct Within<'q> {
    /// The schema of the table.
    pub schema: &'q Schema,
    /// The directories. No run of another one is ever looked at.
    pub scopes: &'q [String],
    /// The experiment that the record has to name.
    pub experiment: Option<&'q str>,
    /// The names of the indexes that [`sorting`] made.
    pub indexes: &'q BTreeSet<String>,
}

/// Names a run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The directory.
    pub scope: String,
    /// The run, by the name of its file.
    pub run_id: String,
}

/// A run that a query found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Which run it is.
    pub key: Key,
    /// The revision of the record.
    pub revision: String,
    /// The text of the record.
    pub record: String,
    /// The query's columns, each as JSON text; none if it named none.
    pub values: Option<Vec<Option<String>>>,
}

/// A page of a query.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The runs, in the query's order.
    pub rows: Vec<Found>,
    /// The cursor of the next page, if rows are left.
    pub next: Option<String>,
    /// How many runs the filter matches, if that was asked for.
    pub total: Option<u64>,
    /// Runs whose files cannot be read as what the query needs of them. They are on no page.
    pub damaged: Vec<Key>,
}

/// Answers a query, in one round trip if the page has at most [`MAX_PAGE`] rows and few rows are inexact.
///
/// `total` asks how many runs the filter matches as well. That looks at all of them.
///
/// # Errors
/// Those of the database.
pub fn run(
    database: &dyn Database,
    within: Within<'_>,
    query: &Query,
    total: bool,
) -> DatabaseResult<Page> {
    let limit = query.limit.filter(|limit| *limit <= MAX_PAGE);
    if let Some(limit) = limit {
        let rows = limit + 1 + MAX_INEXACT + 1 + 1;
        let result = database.query(&statement(within, query, total), rows)?;
        if let Some(page) = whole_page(within, query, result)? {
            return Ok(page);
        }
    }
    let mut listing = Listing::open(database, within, query, total)?;
    let mut rows = Vec::new();
    loop {
        let more = listing.next(CHUNK_ROWS, u32::MAX)?;
        if more.is_empty() {
            break;
        }
        rows.extend(more);
    }
    Ok(Page {
        rows,
        next: listing.cursor(),
        total: listing.total(),
        damaged: listing.take_damaged(),
    })
}

/// Counts the runs that a query's filter matches, whatever its limit and cursor.
///
/// # Errors
/// Those of the database.
pub fn count(database: &dyn Database, within: Within<'_>, query: &Query) -> DatabaseResult<u64> {
    let query = Query {
        limit: Some(0),
        cursor: None,
        ..query.clone()
    };
    Ok(run(database, within, &query, true)?
        .total
        .unwrap_or_default())
}

/// Which of its three parts a row of a page's statement is from.
const EXACT: i64 = 0;
const INEXACT: i64 = 1;
const TOTAL: i64 = 2;

/// Returns the statement of a page: the rows that the database is sure of, one more than the page has; some of
/// the inexact rows; and the number of matching rows, if that is wanted.
#[must_use]
pub fn statement(within: Within<'_>, query: &Query, total: bool) -> Statement {
    let mut parameters = Parameters::default();
    let table = within.schema.name(TABLE);
    let scopes = within.scopes(&mut parameters);
    let columns = columns(query);
    let mut sql = format!("(SELECT {EXACT}::bigint, {columns}, NULL::bigint FROM (");
    let limit = query.limit.map(|limit| i64::from(limit) + 1);
    sql.push_str(&within.exact(query, limit, &scopes, &mut parameters));
    push(
        &mut sql,
        format_args!(
            ") AS r) UNION ALL (SELECT {INEXACT}, {columns}, NULL FROM {table} AS r \
             WHERE {} AND r.inexact LIMIT {})",
            scopes.condition(),
            MAX_INEXACT + 1
        ),
    );
    if total {
        let matching = within.matching(query, &scopes, &mut parameters);
        push(
            &mut sql,
            format_args!(
                " UNION ALL (SELECT {TOTAL}, NULL, NULL, NULL, NULL, NULL, count(*) \
                 FROM {table} AS r WHERE {matching})"
            ),
        );
    }
    Statement {
        sql,
        parameters: parameters.into_values(),
    }
}

/// The columns of a row that are needed in any case, and the derived metrics if they are.
fn columns(query: &Query) -> &'static str {
    if needs_derived(query) {
        "r.scope, r.run_id, r.revision, r.record, r.derived"
    } else {
        "r.scope, r.run_id, r.revision, r.record, NULL::text AS derived"
    }
}

impl Within<'_> {
    /// Makes the parameter of the directories.
    pub(super) fn scopes(&self, parameters: &mut Parameters) -> Scopes {
        let mut known = HashSet::new();
        let scopes = self.scopes.iter().map(String::as_str);
        let scopes: Vec<_> = scopes.filter(|scope| known.insert(*scope)).collect();
        match *scopes {
            [scope] => Scopes::One(parameters.text(scope)),
            _ => Scopes::Many(parameters.texts(scopes)),
        }
    }

    /// Returns the condition of all rows that the database is sure of and that the query's filter matches.
    pub(super) fn matching(
        &self,
        query: &Query,
        scopes: &Scopes,
        parameters: &mut Parameters,
    ) -> String {
        scopes.condition() + &self.conditions(query, parameters)
    }

    fn conditions(&self, query: &Query, parameters: &mut Parameters) -> String {
        let mut sql = String::from(" AND NOT r.inexact");
        if let Some(experiment) = self.experiment {
            let condition = match experiment.contains('\0') {
                true => "false".to_owned(),
                false => format!("r.experiment_id = {}", parameters.text(experiment)),
            };
            push(&mut sql, format_args!(" AND {condition}"));
        }
        if let Some(filter) = &query.filter {
            let condition = translate::condition(filter, query.now, parameters);
            push(&mut sql, format_args!(" AND ({condition})"));
            // The index of the first sort key is given its bounds with the order.
            let first = query.sort.0.first().map(|key| &key.field);
            let has_index = |key: &SortKey| {
                first != Some(&key.field) && self.indexes.contains(&sorting::index_name(key))
            };
            for range in translate::ranges(filter, has_index, parameters) {
                push(&mut sql, format_args!(" AND {range}"));
            }
        }
        sql
    }

    /// Returns the rows that the database is sure of, in the query's order.
    ///
    /// An index gives the rows of one scope in order. With a limit, each of several scopes gives its first ones,
    /// and those are sorted.
    fn exact(
        &self,
        query: &Query,
        limit: Option<i64>,
        scopes: &Scopes,
        parameters: &mut Parameters,
    ) -> String {
        let table = self.schema.name(TABLE);
        let mut conditions = self.conditions(query, parameters);
        let order = translate::order(query, parameters);
        for condition in &order.within {
            push(&mut conditions, format_args!(" AND {condition}"));
        }
        let by = &order.by;
        let limit = limit.map_or(String::new(), |limit| {
            format!(" LIMIT {}", parameters.integer(limit))
        });
        match scopes {
            Scopes::Many(scopes) if !limit.is_empty() => format!(
                "SELECT r.* FROM unnest({scopes}) AS one (scope) CROSS JOIN LATERAL (\
                 SELECT r.* FROM {table} AS r WHERE r.scope = one.scope{conditions} \
                 ORDER BY {by}{limit}) AS r ORDER BY {by}, r.scope{limit}"
            ),
            scopes => format!(
                "SELECT r.* FROM {table} AS r WHERE {}{conditions} ORDER BY {by}, r.scope{limit}",
                scopes.condition()
            ),
        }
    }
}

/// The directories of a statement, as its parameter.
pub(super) enum Scopes {
    /// One of them.
    One(String),
    /// None or several.
    Many(String),
}

impl Scopes {
    /// Returns the condition of all their rows.
    pub(super) fn condition(&self) -> String {
        match self {
            Self::One(scope) => format!("r.scope = {scope}"),
            Self::Many(scopes) => format!("r.scope = ANY({scopes})"),
        }
    }
}

/// A row as the table has it.
#[derive(Clone)]
pub(super) struct Stored {
    pub(super) key: Key,
    revision: String,
    record: String,
    derived: Option<String>,
}

impl Stored {
    /// Takes the first columns of a row.
    pub(super) fn take(values: &mut impl Iterator<Item = SqlValue>) -> DatabaseResult<Self> {
        let mut text = || match values.next() {
            Some(SqlValue::Text(text)) => Ok(Some(text)),
            Some(SqlValue::Null) => Ok(None),
            other => Err(unexpected(other.as_ref())),
        };
        let scope = text()?;
        let run_id = text()?;
        let revision = text()?;
        let record = text()?;
        let derived = text()?;
        let needed = |text: Option<String>| text.ok_or_else(|| unexpected(Some(&SqlValue::Null)));
        Ok(Self {
            key: Key {
                scope: needed(scope)?,
                run_id: needed(run_id)?,
            },
            revision: needed(revision)?,
            record: needed(record)?,
            derived,
        })
    }

    /// Shows the record and the row of queries; `None` if a text that came along is no object.
    pub(super) fn read<T>(
        &self,
        show: impl FnOnce(&Object<'_>, Option<&Object<'_>>) -> T,
    ) -> Option<T> {
        let record = object(&self.record)?;
        let derived = match &self.derived {
            Some(text) => Some(object(text)?),
            None => None,
        };
        Some(show(&record, derived.as_ref()))
    }

    fn position(&self, query: &Query) -> Option<Position> {
        self.read(|record, derived| query.sort.position(&RecordRow::new(record, derived)))
    }

    /// Makes what a page shows of the row; `None` if it cannot be read as the columns need it.
    fn found(&self, query: &Query) -> Option<Found> {
        let values = match &query.columns {
            None => None,
            Some(_) => {
                Some(self.read(|record, derived| shown(query, &RecordRow::new(record, derived)))?)
            }
        };
        Some(self.with_values(values))
    }

    fn with_values(&self, values: Option<Vec<Option<String>>>) -> Found {
        Found {
            key: self.key.clone(),
            revision: self.revision.clone(),
            record: self.record.clone(),
            values,
        }
    }
}

fn object(text: &str) -> Option<Object<'_>> {
    codec::parse_object("", text.as_bytes()).ok()
}

/// Returns the columns of a row, each as JSON text.
fn shown(query: &Query, row: &RecordRow<'_, '_>) -> Vec<Option<String>> {
    let columns = query.columns.iter();
    let values = columns.flat_map(|columns| columns.values(row));
    values
        .map(|value| value.as_ref().map(codec::print_line))
        .collect()
}

/// Tells whether a record is of an experiment, if one is asked for.
pub(super) fn is_of(record: &Object<'_>, experiment: Option<&str>) -> bool {
    let named = record.get("experiment_id").and_then(Value::as_str);
    experiment.is_none_or(|wanted| wanted == named.unwrap_or_default())
}

/// The server sent something that our statement did not ask for: the table is not ours.
pub(super) fn unexpected(found: Option<&SqlValue>) -> DatabaseFailure {
    DatabaseFailure {
        kind: DatabaseFailureKind::UnsupportedType,
        sqlstate: None,
        retryable: false,
        outcome_unknown: false,
        message: format!(
            "table {TABLE} has columns of other types than this version makes: found {}",
            match found {
                None => "no value",
                Some(SqlValue::Null) => "NULL",
                Some(SqlValue::Boolean(_)) => "a truth value",
                Some(SqlValue::Integer(_)) => "an integer",
                Some(SqlValue::Float(_)) => "a float",
                Some(SqlValue::Text(_)) => "a text",
                Some(SqlValue::Bytes(_)) => "bytes",
                Some(SqlValue::Json(_)) => "JSON",
                Some(SqlValue::Timestamp(_)) => "a timestamp",
                Some(SqlValue::TextArray(_)) => "a list of texts",
            }
        ),
    }
}

fn count_of(value: Option<&SqlValue>) -> DatabaseResult<u64> {
    match value {
        Some(SqlValue::Integer(count)) => Ok(count.unsigned_abs()),
        other => Err(unexpected(other)),
    }
}

/// Makes a page of the rows of [`statement`]; `None` if there are more inexact rows than came along.
fn whole_page(within: Within<'_>, query: &Query, result: RowSet) -> DatabaseResult<Option<Page>> {
    let mut page = Page::default();
    let mut exact = Vec::new();
    let mut inexact = Vec::new();
    for row in result.rows {
        let mut values = row.into_iter();
        match values.next() {
            Some(SqlValue::Integer(EXACT)) => exact.push(Stored::take(&mut values)?),
            Some(SqlValue::Integer(INEXACT)) => inexact.push(Stored::take(&mut values)?),
            Some(SqlValue::Integer(TOTAL)) => {
                page.total = Some(count_of(values.last().as_ref())?);
            }
            other => return Err(unexpected(other.as_ref())),
        }
    }
    if inexact.len() > MAX_INEXACT as usize {
        return Ok(None);
    }
    inexact.retain(|stored| {
        let matches = stored.read(|record, derived| {
            is_of(record, within.experiment) && query.matches(&RecordRow::new(record, derived))
        });
        if matches.is_none() {
            page.damaged.push(stored.key.clone());
        }
        matches == Some(true)
    });
    page.total = page.total.map(|total| total + inexact.len() as u64);
    let limit = query.limit.map_or(usize::MAX, |limit| limit as usize);
    if inexact.is_empty() {
        if exact.len() > limit {
            exact.truncate(limit);
            let last = exact.last().and_then(|stored| stored.position(query));
            page.next = last.map(|position| query.cursor_after(&position));
        }
        for stored in exact {
            match stored.found(query) {
                Some(found) => page.rows.push(found),
                None => page.damaged.push(stored.key),
            }
        }
    } else {
        let mut pager = Pager::new(query);
        for stored in exact.iter().chain(&inexact) {
            let read = stored.read(|record, derived| {
                let row = RecordRow::new(record, derived);
                pager.offer(&row, || {
                    let columns = query.columns.as_ref();
                    stored.with_values(columns.map(|_| shown(query, &row)))
                });
            });
            if read.is_none() {
                page.damaged.push(stored.key.clone());
            }
        }
        let merged = pager.finish();
        page.rows = merged.rows;
        page.next = merged.next;
    }
    page.damaged.sort();
    Ok(Some(page))
}

/// All runs that a query finds, handed out in pieces, as they were when the list was opened.
///
/// Of the rows that the database is sure of, it holds one piece at a time. Of the inexact ones that match, it
/// holds sort values and ids.
pub struct Listing {
    // The cursor goes before its transaction.
    cursor: Option<Box<dyn ports::Cursor>>,
    transaction: Box<dyn Transaction>,
    schema: Schema,
    query: Query,
    exact: VecDeque<Stored>,
    inexact: VecDeque<(Position, Key)>,
    /// The texts of the first inexact rows.
    loaded: VecDeque<Stored>,
    left: Option<u32>,
    next: Option<String>,
    total: Option<u64>,
    damaged: Vec<Key>,
}

impl Listing {
    /// Opens the list; `total` asks how many runs the filter matches as well.
    ///
    /// # Errors
    /// Those of the database.
    pub fn open(
        database: &dyn Database,
        within: Within<'_>,
        query: &Query,
        total: bool,
    ) -> DatabaseResult<Self> {
        let transaction = database.begin(Isolation::RepeatableRead, true)?;
        let mut listing = Self {
            cursor: None,
            transaction,
            schema: within.schema.clone(),
            query: query.clone(),
            exact: VecDeque::new(),
            inexact: VecDeque::new(),
            loaded: VecDeque::new(),
            left: query.limit,
            next: None,
            total: None,
            damaged: Vec::new(),
        };
        let inexact = listing.find_inexact(within)?;
        if total {
            let mut parameters = Parameters::default();
            let scopes = within.scopes(&mut parameters);
            let matching = within.matching(query, &scopes, &mut parameters);
            let table = within.schema.name(TABLE);
            let counted = listing.transaction.query(
                &Statement {
                    sql: format!("SELECT count(*) FROM {table} AS r WHERE {matching}"),
                    parameters: parameters.into_values(),
                },
                1,
            )?;
            let count = counted.rows.first().and_then(|row| row.first());
            listing.total = Some(count_of(count)? + inexact);
        }
        let mut parameters = Parameters::default();
        let scopes = within.scopes(&mut parameters);
        let limit = query.limit.map(|limit| i64::from(limit) + 1);
        let rows = within.exact(query, limit, &scopes, &mut parameters);
        let columns = columns(query);
        listing.cursor = Some(listing.transaction.open_cursor(&Statement {
            sql: format!("SELECT {columns} FROM ({rows}) AS r"),
            parameters: parameters.into_values(),
        })?);
        Ok(listing)
    }

    /// Finds the places of the inexact rows that are on this page or behind it; returns how many match.
    fn find_inexact(&mut self, within: Within<'_>) -> DatabaseResult<u64> {
        let mut parameters = Parameters::default();
        let scopes = within.scopes(&mut parameters);
        let cursor = self.transaction.open_cursor(&Statement {
            sql: format!(
                "SELECT {} FROM {} AS r WHERE {} AND r.inexact",
                columns(&self.query),
                within.schema.name(TABLE),
                scopes.condition()
            ),
            parameters: parameters.into_values(),
        })?;
        let mut matching = 0;
        let mut found = Vec::new();
        loop {
            let rows = cursor.next(CHUNK_ROWS, CHUNK_BYTES)?.rows;
            if rows.is_empty() {
                break;
            }
            for row in rows {
                let stored = Stored::take(&mut row.into_iter())?;
                let position = stored.read(|record, derived| {
                    let row = RecordRow::new(record, derived);
                    (is_of(record, within.experiment) && self.query.matches(&row))
                        .then(|| self.query.sort.position(&row))
                });
                match position {
                    None => self.damaged.push(stored.key),
                    Some(None) => {}
                    Some(Some(position)) => {
                        matching += 1;
                        let last = self.query.cursor.as_ref().map(|cursor| &cursor.last);
                        if last.is_none_or(|last| self.query.sort.compare(&position, last).is_gt())
                        {
                            found.push((position, stored.key));
                        }
                    }
                }
            }
        }
        let sort = &self.query.sort;
        found.sort_by(|left, right| {
            sort.compare(&left.0, &right.0)
                .then_with(|| left.1.cmp(&right.1))
        });
        self.inexact = found.into();
        Ok(matching)
    }

    /// Asks something else of the database as it was when the list was opened.
    ///
    /// # Errors
    /// Those of the database.
    pub fn ask(&self, question: &Statement) -> DatabaseResult<RowSet> {
        self.transaction.query(question, u32::MAX)
    }

    /// Returns how many runs the filter matches, if that was asked for.
    #[must_use]
    pub fn total(&self) -> Option<u64> {
        self.total
    }

    /// Returns the cursor of what a limit left over; it is known once [`next`](Self::next) has come to the end.
    #[must_use]
    pub fn cursor(&self) -> Option<String> {
        self.next.clone()
    }

    /// Takes the runs whose files cannot be read as what the query needs of them, as far as they were met since this was
    /// called last.
    #[must_use]
    pub fn take_damaged(&mut self) -> Vec<Key> {
        let mut damaged = std::mem::take(&mut self.damaged);
        damaged.sort();
        damaged
    }

    /// Returns the next runs: at most `max_rows`, and no more once their records have `max_bytes`. None is the
    /// end.
    ///
    /// # Errors
    /// Those of the database.
    pub fn next(&mut self, max_rows: u32, max_bytes: u32) -> DatabaseResult<Vec<Found>> {
        let mut rows = Vec::new();
        let mut bytes = 0;
        while rows.len() < max_rows.max(1) as usize && bytes < max_bytes.max(1) as usize {
            if self.left == Some(0) {
                break;
            }
            let Some(stored) = self.take()? else {
                break;
            };
            if let Some(left) = &mut self.left {
                *left -= 1;
                if *left == 0 && (self.has_exact()? || !self.inexact.is_empty()) {
                    let last = stored.position(&self.query);
                    self.next = last.map(|position| self.query.cursor_after(&position));
                }
            }
            match stored.found(&self.query) {
                Some(found) => {
                    bytes += found.record.len();
                    rows.push(found);
                }
                None => self.damaged.push(stored.key),
            }
        }
        Ok(rows)
    }

    /// Takes the next row of both kinds.
    fn take(&mut self) -> DatabaseResult<Option<Stored>> {
        let exact = self.has_exact()?;
        let Some((position, _)) = self.inexact.front() else {
            return Ok(self.exact.pop_front());
        };
        let front = self.exact.front().filter(|_| exact);
        let first = front.and_then(|stored| stored.position(&self.query));
        let is_first = first.is_some_and(|first| self.query.sort.compare(&first, position).is_le());
        if is_first {
            return Ok(self.exact.pop_front());
        }
        self.take_inexact()
    }

    /// Makes sure that the next row is there that the database is sure of; tells whether there is one.
    fn has_exact(&mut self) -> DatabaseResult<bool> {
        if self.exact.is_empty()
            && let Some(cursor) = &self.cursor
        {
            for row in cursor.next(CHUNK_ROWS, CHUNK_BYTES)?.rows {
                self.exact.push_back(Stored::take(&mut row.into_iter())?);
            }
            if self.exact.is_empty() {
                self.cursor = None;
            }
        }
        Ok(!self.exact.is_empty())
    }

    /// Takes the first inexact row; their texts are read again, some at a time.
    fn take_inexact(&mut self) -> DatabaseResult<Option<Stored>> {
        if self.loaded.is_empty() {
            let first = || self.inexact.iter().take(MAX_INEXACT as usize);
            let mut parameters = Parameters::default();
            let scopes = parameters.texts(first().map(|(_, key)| key.scope.as_str()));
            let runs = parameters.texts(first().map(|(_, key)| key.run_id.as_str()));
            let rows = self.transaction.query(
                &Statement {
                    sql: format!(
                        "SELECT {} FROM unnest({scopes}, {runs}) WITH ORDINALITY AS one (scope, run_id, place) \
                         JOIN {} AS r ON r.scope = one.scope AND r.run_id = one.run_id ORDER BY one.place",
                        columns(&self.query),
                        self.schema.name(TABLE)
                    ),
                    parameters: parameters.into_values(),
                },
                MAX_INEXACT,
            )?;
            for row in rows.rows {
                self.loaded.push_back(Stored::take(&mut row.into_iter())?);
            }
        }
        self.inexact.pop_front();
        Ok(self.loaded.pop_front())
    }
}
