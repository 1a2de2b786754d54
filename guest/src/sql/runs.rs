//! Our own table of runs.
//!
//! A row is a run of one directory (its *scope*): the exact texts of its record and of its derived metrics, and
//! beside them what queries filter and sort by. The first answer a get, the others only say which rows to take.

use std::borrow::Cow;
use std::fmt::Write as _;

use super::document::Document;
use super::identifier::Schema;
use crate::codec;
use crate::error::Error;
use crate::json::{Object, Parts};
use crate::ports::{SqlValue, Statement};
use crate::query::RecordRow;

/// The name of the table.
pub const TABLE: &str = "metalab_store_runs";

/// The columns, in the order in which [`copy_line`] and [`upsert`] write them.
pub const COLUMNS: [&str; 13] = [
    "scope",
    "run_id",
    "revision",
    "record",
    "derived",
    "stamp",
    "experiment_id",
    "status",
    "age",
    "finished_at",
    "tags",
    "inexact",
    "document",
];

/// What each column is made of when it comes as a text.
const CASTS: [&str; COLUMNS.len()] = [
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    "::bigint",
    "::bigint",
    "::text[]",
    "::boolean",
    "::jsonb",
];

/// The age of a run that has no start: those come last.
pub const NO_AGE: i64 = i64::MAX;

/// The most bytes that a tag, or an experiment and a status together, may have for the server's indexes to take them: an
/// entry of an index has at most 2,704, with the run and the directory. The rows of records with more are inexact.
pub const MAX_INDEXED: usize = 2_000;

/// The most rows of one [`upsert`].
pub const MAX_ROWS: usize = 128;

/// Returns the statements that create the table and its indexes where they are missing.
#[must_use]
pub fn create(schema: &Schema) -> Vec<String> {
    let mut statements = vec![table(schema)];
    statements.extend(indexes(schema));
    statements
}

/// Returns the statement that creates the table without any index.
///
/// The texts collate by code point, whatever the database does. `age` is the negative start in microseconds, so
/// that the newest run comes first and a run without a start ([`NO_AGE`]) last in one ascending order. The
/// document stays in the row as long as it can, and the two texts leave it first.
#[must_use]
pub fn table(schema: &Schema) -> String {
    let name = schema.name(TABLE);
    format!(
        r#"CREATE TABLE IF NOT EXISTS {name} (
    scope text COLLATE "C" NOT NULL,
    run_id text COLLATE "C" NOT NULL,
    revision text COLLATE "C" NOT NULL,
    record text COLLATE "C" NOT NULL,
    derived text COLLATE "C",
    stamp text COLLATE "C" NOT NULL,
    experiment_id text COLLATE "C" NOT NULL,
    status text COLLATE "C" NOT NULL,
    age bigint NOT NULL,
    finished_at bigint,
    tags text[] COLLATE "C" NOT NULL,
    inexact boolean NOT NULL,
    document jsonb NOT NULL
)"#
    )
}

/// Returns the statements that create the indexes; a bulk load into an empty table runs them at its end.
///
/// The first is what makes (scope, run) unique, so that there is no upsert without it.
#[must_use]
pub fn indexes(schema: &Schema) -> Vec<String> {
    let name = schema.name(TABLE);
    vec![
        format!(
            "CREATE UNIQUE INDEX IF NOT EXISTS metalab_store_runs_key ON {name} (scope, run_id)"
        ),
        format!(
            "CREATE INDEX IF NOT EXISTS metalab_store_runs_order \
             ON {name} (scope, age, experiment_id, run_id, status, inexact)"
        ),
        format!(
            "CREATE INDEX IF NOT EXISTS metalab_store_runs_inexact \
             ON {name} (scope, run_id) WHERE inexact"
        ),
        format!("CREATE INDEX IF NOT EXISTS metalab_store_runs_tags ON {name} USING gin (tags)"),
    ]
}

/// Returns the statements that remove the indexes: an empty table is filled faster without them.
#[must_use]
pub fn drop_indexes(schema: &Schema) -> Vec<String> {
    ["key", "order", "inexact", "tags"]
        .iter()
        .map(|name| format!("DROP INDEX IF EXISTS {schema}.metalab_store_runs_{name}"))
        .collect()
}

/// Returns the statement that tells the planner what the table holds; to be run after a bulk load.
#[must_use]
pub fn analyze(schema: &Schema) -> String {
    format!("ANALYZE {}", schema.name(TABLE))
}

/// Makes the statement that returns the next runs of a directory after one, in the order of their ids: the run,
/// whether its record could be read, and the first 16 digits of the SHA-256 of its record and of its derived metrics.
#[must_use]
pub fn digests(schema: &Schema, scope: &str, after: &str, limit: u32) -> Statement {
    Statement {
        sql: format!(
            "{} ORDER BY 1 LIMIT $3",
            digests_where(schema, "run_id > $2")
        ),
        parameters: vec![
            SqlValue::Text(scope.to_owned()),
            SqlValue::Text(after.to_owned()),
            SqlValue::Integer(limit.into()),
        ],
    }
}

/// Makes the statement that returns the same of one run.
#[must_use]
pub fn digest_of(schema: &Schema, scope: &str, run: &str) -> Statement {
    Statement {
        sql: digests_where(schema, "run_id = $2"),
        parameters: vec![
            SqlValue::Text(scope.to_owned()),
            SqlValue::Text(run.to_owned()),
        ],
    }
}

fn digests_where(schema: &Schema, which: &str) -> String {
    let digest = |column: &str| {
        format!("substr(encode(sha256(convert_to({column}, 'UTF8')), 'hex'), 1, 16)")
    };
    format!(
        "SELECT run_id, true, {}, {} FROM {} WHERE scope = $1 AND {which} \
         UNION ALL SELECT run_id, false, NULL, NULL FROM {} WHERE scope = $1 AND {which}",
        digest("record"),
        digest("derived"),
        schema.name(TABLE),
        schema.name(super::directories::UNREADABLE)
    )
}

/// Makes the statement that returns the texts of one run: its record and its derived metrics.
#[must_use]
pub fn texts_of(schema: &Schema, scope: &str, run: &str) -> Statement {
    Statement {
        sql: format!(
            "SELECT record, derived FROM {} WHERE scope = $1 AND run_id = $2",
            schema.name(TABLE)
        ),
        parameters: vec![
            SqlValue::Text(scope.to_owned()),
            SqlValue::Text(run.to_owned()),
        ],
    }
}

/// Does the same for what queries filter and sort by without looking into the document, in a fifth of the time.
#[must_use]
pub(crate) fn analyze_columns(schema: &Schema) -> String {
    format!(
        "ANALYZE {} (scope, run_id, experiment_id, status, age, finished_at, tags, inexact)",
        schema.name(TABLE)
    )
}

/// Why a text is not a row.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Reason {
    /// The byte offset of the problem in the record's text.
    pub offset: Option<u64>,
    /// What is wrong with it.
    pub reason: String,
}

/// A row of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The directory that holds the run.
    pub scope: String,
    /// The run, by the name of its file.
    pub run_id: String,
    /// The revision of the record.
    pub revision: String,
    /// The text of the record.
    pub record: String,
    /// The text of the derived metrics.
    pub derived: Option<String>,
    /// What the writer knows the files by.
    pub stamp: String,
    document: Document,
}

impl Row {
    /// Makes the row of a run out of the texts of its files.
    ///
    /// Derived metrics that cannot be read make no error: a query that needs them reports the run as damaged,
    /// as it does for files, and any other shows it. Neither scope nor stamp may hold a NUL character.
    ///
    /// # Errors
    /// The record is none that can be loaded. One that only a typed form cannot hold is no error: lines of text
    /// show it.
    pub fn new(
        scope: &str,
        run_id: &str,
        revision: &str,
        record_text: &str,
        derived_text: Option<&str>,
        stamp: &str,
    ) -> Result<Self, Reason> {
        let see = |_: &RecordRow<'_, '_>| {};
        Self::seen(
            scope,
            run_id,
            revision,
            record_text,
            derived_text,
            stamp,
            see,
        )
    }

    /// Makes the same, and shows what was read meanwhile: the record, and the derived metrics if they can be.
    ///
    /// # Errors
    /// As [`new`](Self::new); then nothing is shown.
    pub(crate) fn seen(
        scope: &str,
        run_id: &str,
        revision: &str,
        record_text: &str,
        derived_text: Option<&str>,
        stamp: &str,
        see: impl FnOnce(&RecordRow<'_, '_>),
    ) -> Result<Self, Reason> {
        let record = codec::parse_object("", record_text.as_bytes()).map_err(reason)?;
        let record = (record_text, &record);
        Self::read(scope, run_id, revision, record, derived_text, stamp, see)
    }

    /// Makes the same of the text of a record and its tree.
    ///
    /// # Errors
    /// As [`new`](Self::new); then nothing is shown.
    pub(crate) fn read(
        scope: &str,
        run_id: &str,
        revision: &str,
        (record_text, record): (&str, &Object<'_>),
        derived_text: Option<&str>,
        stamp: &str,
        see: impl FnOnce(&RecordRow<'_, '_>),
    ) -> Result<Self, Reason> {
        if !codec::surely_loads(Parts::of(record)) {
            match codec::run_record("", record.clone()) {
                Ok(_) | Err(Error::Unrepresentable { .. }) => {}
                Err(error) => return Err(reason(error)),
            }
        }
        let mut derived = derived_text.map(str::to_owned);
        let parsed = derived_text.map(|text| codec::parse_object("", text.as_bytes()));
        let (parsed, readable) = match parsed.transpose() {
            Ok(parsed) => (parsed, true),
            Err(_) => (None, false),
        };
        let row = RecordRow::new(record, parsed.as_ref());
        see(&row);
        let document = if readable {
            Document::new(run_id, &row)
        } else {
            // The database holds no NUL. What is left is as little an object as the text was.
            derived = derived.map(|text| text.replace('\0', "?"));
            Document::without_derived(&row)
        };
        Ok(Self {
            scope: scope.to_owned(),
            run_id: run_id.to_owned(),
            revision: revision.to_owned(),
            record: record_text.to_owned(),
            derived,
            stamp: stamp.to_owned(),
            document,
        })
    }

    /// Returns the experiment that the record names; empty if none.
    #[must_use]
    pub fn experiment_id(&self) -> &str {
        &self.document.experiment_id
    }

    /// Returns the text of the record.
    #[must_use]
    pub fn record_text(&self) -> &str {
        &self.record
    }

    /// Tells whether queries have to look at the text of the record.
    #[must_use]
    pub fn is_inexact(&self) -> bool {
        self.document.inexact
    }

    /// Leaves out whatever is not needed to answer queries out of the texts.
    pub(crate) fn reduce(&mut self) {
        self.document.reduce();
    }

    /// Names what is too long to be indexed, if something is.
    #[must_use]
    pub fn too_long(&self) -> Option<&'static str> {
        self.document.too_long
    }

    /// Returns the columns as texts, in the order of [`COLUMNS`].
    fn texts(&self) -> [Option<Cow<'_, str>>; COLUMNS.len()] {
        let document = &self.document;
        let text = |text| Some(Cow::Borrowed(text));
        [
            text(&*self.scope),
            text(&self.run_id),
            text(&self.revision),
            text(&self.record),
            self.derived.as_deref().map(Cow::Borrowed),
            text(&self.stamp),
            text(&document.experiment_id),
            text(&document.status),
            Some(age(document.started_at).to_string().into()),
            document.finished_at.map(|micros| micros.to_string().into()),
            Some(array(&document.tags).into()),
            text(if document.inexact { "true" } else { "false" }),
            text(&document.json),
        ]
    }

    /// Returns the columns as parameters, in the order of [`COLUMNS`].
    pub(crate) fn parameters(&self) -> [SqlValue; COLUMNS.len()] {
        let text = |text: &String| SqlValue::Text(text.clone());
        let document = &self.document;
        [
            text(&self.scope),
            text(&self.run_id),
            text(&self.revision),
            text(&self.record),
            self.derived.as_ref().map_or(SqlValue::Null, text),
            text(&self.stamp),
            text(&document.experiment_id),
            text(&document.status),
            SqlValue::Integer(age(document.started_at)),
            document
                .finished_at
                .map_or(SqlValue::Null, SqlValue::Integer),
            SqlValue::TextArray(document.tags.iter().cloned().map(Some).collect()),
            SqlValue::Boolean(document.inexact),
            SqlValue::Json(document.json.clone()),
        ]
    }
}

fn reason(error: Error) -> Reason {
    match error {
        Error::Corrupt {
            offset, message, ..
        } => Reason {
            offset,
            reason: message,
        },
        other => Reason {
            offset: None,
            reason: other.to_string(),
        },
    }
}

/// Returns what orders runs by their start, the newest first.
#[must_use]
pub fn age(started_at: Option<i64>) -> i64 {
    started_at.map_or(NO_AGE, |micros| micros.saturating_neg())
}

/// Writes an array as PostgreSQL reads it.
fn array(items: &[String]) -> String {
    let mut text = String::from("{");
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        text.push('"');
        for character in item.chars() {
            if matches!(character, '"' | '\\') {
                text.push('\\');
            }
            text.push(character);
        }
        text.push('"');
    }
    text.push('}');
    text
}

/// A part of a statement and the parameters that it names.
#[derive(Clone, Debug, PartialEq)]
pub struct Fragment {
    /// The text.
    pub sql: String,
    /// The values of its parameters, in order.
    pub parameters: Vec<SqlValue>,
}

/// Returns the statement that puts in 1 to [`MAX_ROWS`] rows, each in place of the one that was there.
#[must_use]
pub fn upsert(schema: &Schema, rows: &[Row]) -> Statement {
    let rows: Vec<&Row> = rows.iter().collect();
    let Fragment { sql, parameters } = upsert_from(schema, &rows, 1);
    Statement { sql, parameters }
}

/// Returns the same as a part of a larger statement, whose parameters are numbered from `first` on.
///
/// The rows are put in in the order of their keys, so that two writers never wait for each other. Of rows with
/// one key the last one counts.
#[must_use]
pub fn upsert_from(schema: &Schema, rows: &[&Row], first: usize) -> Fragment {
    match rows {
        [row] => Fragment {
            sql: upsert_one(schema, first),
            parameters: row.parameters().into(),
        },
        rows => Fragment {
            sql: upsert_many(schema, first),
            parameters: arrays(rows),
        },
    }
}

/// Returns the text of that statement for one row, whose values are [`Row::parameters`].
pub(crate) fn upsert_one(schema: &Schema, first: usize) -> String {
    let mut source = String::from("VALUES (");
    for (index, cast) in CASTS.iter().enumerate() {
        let comma = if index > 0 { ", " } else { "" };
        let cast = if cast.is_empty() { "::text" } else { cast };
        push(&mut source, format_args!("{comma}${}{cast}", first + index));
    }
    source.push(')');
    upsert_of(schema, &source)
}

/// Returns the text of that statement for rows that are given as arrays.
fn upsert_many(schema: &Schema, first: usize) -> String {
    let mut source = String::from("SELECT ");
    for (index, (column, cast)) in COLUMNS.iter().zip(CASTS).enumerate() {
        let comma = if index > 0 { ", " } else { "" };
        push(&mut source, format_args!("{comma}{column}{cast}"));
    }
    source.push_str(" FROM unnest(");
    for index in 0..COLUMNS.len() {
        let comma = if index > 0 { ", " } else { "" };
        push(
            &mut source,
            format_args!("{comma}${}::text[]", first + index),
        );
    }
    push(
        &mut source,
        format_args!(") AS new ({})", COLUMNS.join(", ")),
    );
    upsert_of(schema, &source)
}

fn upsert_of(schema: &Schema, source: &str) -> String {
    let mut sql = format!(
        "INSERT INTO {} AS old ({}) {source} ON CONFLICT (scope, run_id) DO UPDATE SET ",
        schema.name(TABLE),
        COLUMNS.join(", ")
    );
    for (index, column) in COLUMNS.iter().skip(2).enumerate() {
        let comma = if index > 0 { ", " } else { "" };
        push(
            &mut sql,
            format_args!("{comma}{column} = excluded.{column}"),
        );
    }
    sql
}

/// Returns the columns of some rows, one array each.
fn arrays(rows: &[&Row]) -> Vec<SqlValue> {
    let mut sorted = rows.to_vec();
    // The sort is stable: the last of equal keys stays last.
    sorted.sort_by(|left, right| key(left).cmp(&key(right)));
    let mut arrays = vec![Vec::with_capacity(rows.len()); COLUMNS.len()];
    for (index, row) in sorted.iter().enumerate() {
        if sorted
            .get(index + 1)
            .is_some_and(|next| key(next) == key(row))
        {
            continue;
        }
        for (array, text) in arrays.iter_mut().zip(row.texts()) {
            array.push(text.map(Cow::into_owned));
        }
    }
    arrays.into_iter().map(SqlValue::TextArray).collect()
}

fn key(row: &Row) -> (&str, &str) {
    (&row.scope, &row.run_id)
}

/// Returns the statement that begins a COPY of lines into this table or into another of the same columns.
#[must_use]
pub fn copy_into(table: &str) -> String {
    format!("COPY {table} ({}) FROM STDIN", COLUMNS.join(", "))
}

/// Appends a row as a line of a COPY in text format.
pub fn copy_line(row: &Row, out: &mut String) {
    for (index, text) in row.texts().iter().enumerate() {
        if index > 0 {
            out.push('\t');
        }
        match text {
            None => out.push_str("\\N"),
            Some(text) => push_copied(text, out),
        }
    }
    out.push('\n');
}

/// Appends a value as a COPY in text format takes it.
pub fn push_value(value: Option<&str>, out: &mut String) {
    match value {
        None => out.push_str("\\N"),
        Some(text) => push_copied(text, out),
    }
}

/// Appends a text that is not null.
pub(super) fn push_copied(text: &str, out: &mut String) {
    let mut rest = text;
    while let Some(at) = rest.find(['\\', '\t', '\n', '\r']) {
        let (plain, special) = rest.split_at(at);
        out.push_str(plain);
        out.push_str(match special.as_bytes().first() {
            Some(b'\t') => "\\t",
            Some(b'\n') => "\\n",
            Some(b'\r') => "\\r",
            _ => "\\\\",
        });
        rest = special.get(1..).unwrap_or_default();
    }
    out.push_str(rest);
}

/// Returns the statement that deletes runs of a scope.
#[must_use]
pub fn delete(schema: &Schema, scope: &str, runs: &[&str]) -> Statement {
    let runs = runs.iter().map(|run| Some((*run).to_owned())).collect();
    Statement {
        sql: format!(
            "DELETE FROM {} WHERE scope = $1 AND run_id = ANY($2)",
            schema.name(TABLE)
        ),
        parameters: vec![SqlValue::Text(scope.to_owned()), SqlValue::TextArray(runs)],
    }
}

/// Appends to a text; that cannot fail.
pub(super) fn push(sql: &mut String, arguments: std::fmt::Arguments<'_>) {
    sql.write_fmt(arguments)
        .expect("writing into a string does not fail");
}
