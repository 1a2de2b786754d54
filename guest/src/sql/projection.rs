//! The reference's tables, for its readers: written in the same transaction as our own, never read by us.
//!
//! Their key is the run's id alone, so a run of another experiment is left alone. What JSONB cannot hold
//! is sanitised there: NaN and the infinities become null, `\u0000` and lone surrogates U+FFFD.

use super::Schema;
use super::directories::{self, MANIFESTS, run, statement, text};
use super::document::holds;
use super::identifier;
use super::runs::{MAX_INDEXED, push_value};
use crate::codec;
use crate::json::{Object, Text, Value};
use crate::ports::{DatabaseResult, SqlValue, Statement, Transaction};
use crate::query::RecordRow;
use crate::time::Timestamp;

/// The tables of the reference's schema, as it creates them.
const TABLES: [(&str, &str); 5] = [
    (
        "runs",
        "run_id TEXT PRIMARY KEY, experiment_id TEXT NOT NULL, status TEXT NOT NULL, context_fingerprint TEXT NOT NULL, \
         params_fingerprint TEXT NOT NULL, seed_fingerprint TEXT NOT NULL, started_at TIMESTAMPTZ NOT NULL, \
         finished_at TIMESTAMPTZ, duration_ms INTEGER, record_json JSONB NOT NULL, created_at TIMESTAMPTZ DEFAULT NOW(), \
         updated_at TIMESTAMPTZ DEFAULT NOW()",
    ),
    (
        "derived",
        "run_id TEXT PRIMARY KEY, derived_json JSONB NOT NULL, created_at TIMESTAMPTZ DEFAULT NOW(), \
         updated_at TIMESTAMPTZ DEFAULT NOW()",
    ),
    (
        "experiment_manifests",
        "id SERIAL PRIMARY KEY, experiment_id TEXT NOT NULL, timestamp TEXT NOT NULL, manifest_json JSONB NOT NULL, \
         submitted_at TIMESTAMPTZ NOT NULL, total_runs INTEGER, created_at TIMESTAMPTZ DEFAULT NOW(), \
         UNIQUE (experiment_id, timestamp)",
    ),
    (
        "field_catalog",
        "namespace TEXT NOT NULL, field_name TEXT NOT NULL, field_type TEXT, count INTEGER DEFAULT 0, values TEXT[], \
         min_value DOUBLE PRECISION, max_value DOUBLE PRECISION, updated_at TIMESTAMPTZ DEFAULT NOW(), \
         PRIMARY KEY (namespace, field_name)",
    ),
    (
        "meta",
        "key TEXT PRIMARY KEY, value JSONB NOT NULL, updated_at TIMESTAMPTZ DEFAULT NOW()",
    ),
];

/// Columns that tables of the first versions may lack.
const ADDED: [(&str, &str); 5] = [
    ("runs", "created_at TIMESTAMPTZ DEFAULT NOW()"),
    ("runs", "updated_at TIMESTAMPTZ DEFAULT NOW()"),
    ("derived", "created_at TIMESTAMPTZ DEFAULT NOW()"),
    ("derived", "updated_at TIMESTAMPTZ DEFAULT NOW()"),
    ("experiment_manifests", "total_runs INTEGER"),
];

/// The indexes of `runs`: name and what is indexed.
const RUNS_INDEXES: [(&str, &str); 6] = [
    ("idx_runs_experiment_id", "(experiment_id)"),
    ("idx_runs_status", "(status)"),
    ("idx_runs_started_at", "(started_at DESC)"),
    (
        "idx_runs_experiment_started",
        "(experiment_id, started_at DESC)",
    ),
    ("idx_runs_experiment_status", "(experiment_id, status)"),
    ("idx_runs_record_gin", "USING GIN (record_json)"),
];

/// The columns that the reference's readers search for parts of a text, where the extension is there.
const SEARCHED: [&str; 4] = [
    "run_id",
    "seed_fingerprint",
    "params_fingerprint",
    "context_fingerprint",
];

/// Returns the version of the reference's tables if it is newer than what is known here.
pub(crate) fn newer(
    transaction: &dyn Transaction,
    schema: &Schema,
) -> DatabaseResult<Option<String>> {
    let there = "SELECT to_regclass($1) IS NOT NULL".to_owned();
    let meta = schema.name("meta");
    let there = transaction.query(&statement(there, vec![SqlValue::Text(meta.clone())]), 1)?;
    if !directories::is_true(&there) {
        return Ok(None);
    }
    let read = format!("SELECT value #>> '{{}}' FROM {meta} WHERE key = 'schema_version'");
    let rows = transaction.query(&statement(read, Vec::new()), 1)?;
    let version = rows.rows.first().and_then(|row| text(row, 0));
    Ok(version
        .filter(|version| {
            version
                .parse::<u32>()
                .map_or(true, |version| version > directories::PROJECTION)
        })
        .map(str::to_owned))
}

/// Creates the tables, or brings those of the versions 1 and 2 up to date.
pub(crate) fn create(transaction: &dyn Transaction, schema: &Schema) -> DatabaseResult<()> {
    for (table, columns) in TABLES {
        let table = schema.name(table);
        run(
            transaction,
            &format!("CREATE TABLE IF NOT EXISTS {table} ({columns})"),
        )?;
    }
    for (table, column) in ADDED {
        let table = schema.name(table);
        run(
            transaction,
            &format!("ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {column}"),
        )?;
    }
    // Version 1 let derived metrics, logs and artifacts refer to runs: then nothing of a run can be written before it, and no
    // run deleted that has any.
    let foreign = "SELECT relname::text, conname::text FROM pg_constraint JOIN pg_class AS own ON own.oid = conrelid \
         WHERE contype = 'f' AND confrelid = to_regclass($1) \
         AND relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = to_regclass($1))";
    let runs = SqlValue::Text(schema.name("runs"));
    let found = transaction.query(&statement(foreign.to_owned(), vec![runs]), 100)?;
    for row in &found.rows {
        if let (Some(table), Some(name)) = (text(row, 0), text(row, 1)) {
            let (table, name) = (identifier::quoted(table), identifier::quoted(name));
            run(
                transaction,
                &format!("ALTER TABLE {schema}.{table} DROP CONSTRAINT IF EXISTS {name}"),
            )?;
        }
    }
    // Whoever may not create the extension gets everything but the search for parts of a text.
    run(
        transaction,
        "DO $$ BEGIN CREATE EXTENSION IF NOT EXISTS pg_trgm; EXCEPTION WHEN OTHERS THEN NULL; END $$",
    )?;
    for sql in create_indexes(transaction, schema)? {
        run(transaction, &sql)?;
    }
    let manifests = schema.name("experiment_manifests");
    run(
        transaction,
        &format!(
            "CREATE INDEX IF NOT EXISTS idx_manifests_experiment_id ON {manifests} (experiment_id, submitted_at DESC)"
        ),
    )?;
    let meta = schema.name("meta");
    run(
        transaction,
        &format!(
            "INSERT INTO {meta} (key, value) VALUES ('schema_version', '3') ON CONFLICT (key) DO UPDATE SET \
             value = EXCLUDED.value, updated_at = NOW()"
        ),
    )?;
    Ok(())
}

/// Makes the statements that create the indexes of `runs`.
pub(crate) fn create_indexes(
    transaction: &dyn Transaction,
    schema: &Schema,
) -> DatabaseResult<Vec<String>> {
    let runs = schema.name("runs");
    let create =
        |name: &str, what: &str| format!("CREATE INDEX IF NOT EXISTS {name} ON {runs} {what}");
    let mut indexes: Vec<String> = RUNS_INDEXES
        .iter()
        .map(|(name, what)| create(name, what))
        .collect();
    let extension = "SELECT nspname::text FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace WHERE extname = 'pg_trgm' \
         AND has_schema_privilege(n.oid, 'USAGE')";
    let found = transaction.query(&statement(extension.to_owned(), Vec::new()), 1)?;
    if let Some(place) = found.rows.first().and_then(|row| text(row, 0)) {
        let place = identifier::quoted(place);
        for column in SEARCHED {
            let what = format!("USING GIN ({column} {place}.gin_trgm_ops)");
            indexes.push(create(&format!("idx_runs_{column}_trgm"), &what));
        }
    }
    Ok(indexes)
}

/// Makes the statements that remove the indexes of `runs`: a table without rows is filled faster without.
pub(crate) fn drop_indexes(schema: &Schema) -> Vec<String> {
    let searched = SEARCHED.map(|column| format!("idx_runs_{column}_trgm"));
    let known = RUNS_INDEXES.map(|(name, _)| name.to_owned());
    let names = known.into_iter().chain(searched);
    names
        .map(|name| format!("DROP INDEX IF EXISTS {schema}.{name}"))
        .collect()
}

/// A run as the reference's tables hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Projected {
    /// The run.
    pub(crate) run_id: String,
    experiment_id: String,
    status: String,
    fingerprints: [String; 3],
    started_at: String,
    finished_at: Option<String>,
    duration_ms: Option<String>,
    /// The record as JSONB takes it, if that is not its text.
    record: Option<String>,
    /// The derived metrics as JSONB takes them.
    derived: Option<String>,
}

/// The columns of a row of [`Projected::own_values`], in its order.
pub(crate) const COLUMNS: [&str; 11] = [
    "run_id",
    "experiment_id",
    "status",
    "context_fingerprint",
    "params_fingerprint",
    "seed_fingerprint",
    "started_at",
    "finished_at",
    "duration_ms",
    "record_json",
    "derived_json",
];

impl Projected {
    /// Makes the row of a run from its record and its derived metrics, and the text of the record; none if the indexes
    /// do not take it.
    pub(crate) fn new(run_id: &str, row: &RecordRow<'_, '_>, record_text: &str) -> Option<Self> {
        let record = row.record();
        let text = |name: &str| {
            let text = record.get(name).and_then(text_value);
            text.unwrap_or_default()
        };
        let [started_at, finished_at] = row
            .times()
            .map(|micros| crate::time::isoformat(micros?, Some(0)).ok());
        let status = text("status");
        let experiment_id = text("experiment_id");
        if experiment_id.len() + status.len() > MAX_INDEXED {
            return None;
        }
        let mut record_json = sanitised(record);
        if record_json.is_none() && has_odd_numbers(record_text) {
            record_json = Some(codec::print_line(&Value::Object(record.clone())));
        }
        Some(Self {
            run_id: run_id.to_owned(),
            experiment_id,
            status: if status.is_empty() {
                "failed".into()
            } else {
                status
            },
            fingerprints: [
                text("context_fingerprint"),
                text("params_fingerprint"),
                text("seed_fingerprint"),
            ],
            // The column takes no null: a run that does not say when it started is the oldest.
            started_at: started_at.unwrap_or_else(|| "1970-01-01T00:00:00+00:00".into()),
            finished_at,
            duration_ms: match record.get("duration_ms") {
                Some(Value::Int(ms)) => i32::try_from(*ms).ok().map(|ms| ms.to_string()),
                _ => Some("0".into()),
            },
            record: record_json,
            derived: row.derived().map(jsonb_text),
        })
    }

    /// Returns the values of the columns as texts, the record only if it is not the text of its file.
    pub(crate) fn own_values(&self) -> [Option<&str>; 11] {
        let [context, params, seed] = &self.fingerprints;
        [
            Some(&self.run_id),
            Some(&self.experiment_id),
            Some(&self.status),
            Some(context),
            Some(params),
            Some(seed),
            Some(&self.started_at),
            self.finished_at.as_deref(),
            self.duration_ms.as_deref(),
            self.record.as_deref(),
            self.derived.as_deref(),
        ]
    }

    /// Appends the run as lines of the COPYs that [`copy_into`] begins, given the text of its record.
    pub(crate) fn copy_lines(&self, record: &str, runs: &mut String, derived: &mut String) {
        for (column, value) in COLUMNS.iter().zip(self.own_values()) {
            let value = match *column {
                "derived_json" => break,
                "record_json" => Some(value.unwrap_or(record)),
                _ => value,
            };
            if !runs.is_empty() && !runs.ends_with('\n') {
                runs.push('\t');
            }
            push_value(value, runs);
        }
        runs.push('\n');
        if let Some(metrics) = &self.derived {
            push_value(Some(&self.run_id), derived);
            derived.push('\t');
            push_value(Some(metrics), derived);
            derived.push('\n');
        }
    }

    /// Says whether there are derived metrics.
    pub(crate) fn has_derived(&self) -> bool {
        self.derived.is_some()
    }
}

/// Makes the statements that begin a COPY into each of the two tables.
pub(crate) fn copy_into(schema: &Schema) -> [String; 2] {
    let (_, own) = COLUMNS.split_last().unwrap_or((&"", &[]));
    [
        format!(
            "COPY {} ({}) FROM STDIN",
            schema.name("runs"),
            own.join(", ")
        ),
        format!(
            "COPY {} (run_id, derived_json) FROM STDIN",
            schema.name("derived")
        ),
    ]
}

/// Returns a text as PostgreSQL takes it.
fn text_value(value: &Value<'_>) -> Option<String> {
    match value {
        Value::String(text) => Some(clean(text)),
        _ => None,
    }
}

/// Returns a text as the reference's tables hold it.
pub(super) fn clean(text: &Text<'_>) -> String {
    let text = String::from_utf8_lossy(text.as_wtf8());
    text.replace('\0', "\u{fffd}")
}

/// Returns an object as JSONB takes it, or none if its own text will do.
fn sanitised(object: &Object<'_>) -> Option<String> {
    if object.iter().all(is_taken) {
        return None;
    }
    Some(codec::print_line(&Value::Object(sanitised_object(object))))
}

/// Says whether JSONB takes an entry of an object as it is.
fn is_taken((name, value): (&Text<'_>, &Value<'_>)) -> bool {
    holds(name) && is_taken_value(value)
}

/// Nests no deeper than what was read: see [`crate::json::MAX_DEPTH`].
fn is_taken_value(value: &Value<'_>) -> bool {
    match value {
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::BigInt(_) => true,
        Value::Float(number) => number.is_finite(),
        Value::String(text) => holds(text),
        Value::Array(items) => items.iter().all(is_taken_value),
        Value::Object(object) => object.iter().all(is_taken),
    }
}

/// Says whether a JSON text may hold a number that JSONB refuses, with more than 16,383 digits after the point or an exponent
/// that makes as many: a number that is read and written again has none of that.
fn has_odd_numbers(text: &str) -> bool {
    const DIGITS: usize = 15_000;
    let mut bytes = text.bytes();
    let (mut digits, mut within_exponent) = (0, false);
    while let Some(byte) = bytes.next() {
        match byte {
            b'0'..=b'9' => digits += 1,
            b'e' | b'E' => (digits, within_exponent) = (0, true),
            b'-' | b'+' => digits = 0,
            b'"' => {
                (digits, within_exponent) = (0, false);
                // Digests of files look like numbers.
                while let Some(byte) = bytes.next()
                    && byte != b'"'
                {
                    if byte == b'\\' {
                        bytes.next();
                    }
                }
            }
            _ => (digits, within_exponent) = (0, false),
        }
        if digits > if within_exponent { 3 } else { DIGITS } {
            return true;
        }
    }
    false
}

/// Returns the text of an object as JSONB takes it.
fn jsonb_text(object: &Object<'_>) -> String {
    sanitised(object).unwrap_or_else(|| codec::print_line(&Value::Object(object.clone())))
}

fn sanitised_object<'o>(object: &Object<'o>) -> Object<'o> {
    let entries = object.iter();
    entries
        .map(|(name, value)| (sanitised_text(name), sanitised_value(value)))
        .collect()
}

fn sanitised_text<'t>(text: &Text<'t>) -> Text<'t> {
    if holds(text) {
        text.clone()
    } else {
        Text::from(clean(text))
    }
}

/// Nests no deeper than what was read: see [`crate::json::MAX_DEPTH`].
fn sanitised_value<'v>(value: &Value<'v>) -> Value<'v> {
    match value {
        Value::Float(number) if !number.is_finite() => Value::Null,
        Value::String(text) => Value::String(sanitised_text(text)),
        Value::Array(items) => Value::Array(items.iter().map(sanitised_value).collect()),
        Value::Object(object) => Value::Object(sanitised_object(object)),
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::BigInt(_) | Value::Float(_) => {
            value.clone()
        }
    }
}

/// The columns that rows are given in, but that of the record, which comes last.
fn given(value: impl Fn(usize, &str) -> String, record: &str) -> String {
    let columns = COLUMNS.iter().enumerate();
    let columns: Vec<String> = columns
        .map(|(index, column)| match *column {
            "record_json" => format!(
                "coalesce({}, {record}) AS record_json",
                value(index, column)
            ),
            _ => format!("{} AS {column}", value(index, column)),
        })
        .collect();
    columns.join(", ")
}

/// Makes the text of a `SELECT` that gives one row of our columns from parameters, `$first` and following;
/// `record` is the number of the parameter with the text of its record.
pub(crate) fn from_parameters(first: usize, record: usize) -> String {
    let value = |index: usize, _: &str| format!("${}::text", first + index);
    format!("SELECT {}", given(value, &format!("${record}::text")))
}

/// Makes the text of a `SELECT` that gives rows of our columns from parallel arrays.
pub(crate) fn from_arrays(first: usize, record: usize) -> String {
    let arrays: Vec<String> = (first..first + COLUMNS.len())
        .chain([record])
        .map(|number| format!("${number}::text[]"))
        .collect();
    let value = |_: usize, column: &str| column.to_owned();
    format!(
        "SELECT {} FROM unnest({}) AS given ({}, record_text)",
        given(value, "record_text"),
        arrays.join(", "),
        COLUMNS.join(", ")
    )
}

/// Makes the parameters that go with [`from_parameters`].
pub(crate) fn parameters(row: &Projected) -> Vec<SqlValue> {
    let value = |value: Option<&str>| match value {
        None => SqlValue::Null,
        Some(text) => SqlValue::Text(text.to_owned()),
    };
    row.own_values().map(value).to_vec()
}

/// Makes the parameters that go with [`from_arrays`].
pub(crate) fn arrays<'p>(rows: impl Iterator<Item = &'p Projected>) -> Vec<SqlValue> {
    let mut columns: [Vec<Option<String>>; 11] = Default::default();
    for row in rows {
        for (column, value) in columns.iter_mut().zip(row.own_values()) {
            column.push(value.map(str::to_owned));
        }
    }
    columns.into_iter().map(SqlValue::TextArray).collect()
}

/// How the row of a run replaces the one that was there, if that is of the same experiment.
const REPLACE: &str = "ON CONFLICT (run_id) DO UPDATE SET status = EXCLUDED.status, context_fingerprint = EXCLUDED.context_fingerprint, \
    params_fingerprint = EXCLUDED.params_fingerprint, seed_fingerprint = EXCLUDED.seed_fingerprint, \
    started_at = EXCLUDED.started_at, finished_at = EXCLUDED.finished_at, duration_ms = EXCLUDED.duration_ms, \
    record_json = EXCLUDED.record_json, updated_at = now() WHERE kept.experiment_id = EXCLUDED.experiment_id";

fn insert_into(schema: &Schema) -> String {
    format!(
        "INSERT INTO {} AS kept (run_id, experiment_id, status, context_fingerprint, params_fingerprint, seed_fingerprint, \
         started_at, finished_at, duration_ms, record_json, updated_at)",
        schema.name("runs")
    )
}

/// Makes the text of a statement that writes the row of one run from the parameters that go with
/// [`from_parameters`]. It says the same as the first of [`write`], and is planned in half the time.
pub(crate) fn write_one(schema: &Schema, first: usize, record: usize) -> String {
    const CASTS: [(&str, &str); 3] = [
        ("started_at", "::text::timestamptz"),
        ("finished_at", "::text::timestamptz"),
        ("duration_ms", "::text::integer"),
    ];
    let values: Vec<String> = (first..)
        .zip(&COLUMNS[..COLUMNS.len() - 1])
        .map(|(number, column)| match *column {
            "record_json" => format!("coalesce(${number}::text, ${record}::text)::jsonb"),
            column => {
                let cast = CASTS.iter().find(|(name, _)| *name == column);
                format!("${number}{}", cast.map_or("::text", |(_, cast)| cast))
            }
        })
        .collect();
    format!(
        "{} VALUES ({}, now()) {REPLACE}",
        insert_into(schema),
        values.join(", ")
    )
}

/// Makes the text of two statements, as parts of a `WITH`, that write the rows of `source`.
///
/// Rows of other experiments stay as they are. They are written in the order of the ids, so that writers
/// wait for each other and never in a circle.
pub(crate) fn write(schema: &Schema, source: &str) -> [String; 2] {
    let runs = schema.name("runs");
    let derived = schema.name("derived");
    let write_runs = format!(
        "{} SELECT run_id, experiment_id, status, context_fingerprint, params_fingerprint, seed_fingerprint, started_at::timestamptz, \
         finished_at::timestamptz, duration_ms::integer, record_json::jsonb, now() FROM {source} AS new ORDER BY run_id {REPLACE}",
        insert_into(schema)
    );
    let write_derived = format!(
        "INSERT INTO {derived} (run_id, derived_json, updated_at) \
         SELECT run_id, derived_json::jsonb, now() FROM {source} AS new WHERE derived_json IS NOT NULL AND NOT EXISTS \
         (SELECT 1 FROM {runs} AS other WHERE other.run_id = new.run_id AND other.experiment_id <> new.experiment_id) \
         ORDER BY run_id \
         ON CONFLICT (run_id) DO UPDATE SET derived_json = EXCLUDED.derived_json, updated_at = now()"
    );
    [write_runs, write_derived]
}

/// Makes the text of two statements, as parts of a `WITH`, that delete what `gone` names: rows of
/// `(run_id, experiment_id)`.
pub(crate) fn delete(schema: &Schema, gone: &str) -> [String; 2] {
    let runs = schema.name("runs");
    let derived = schema.name("derived");
    [
        format!(
            "DELETE FROM {runs} AS kept USING {gone} AS gone WHERE kept.run_id = gone.run_id AND kept.experiment_id = gone.experiment_id"
        ),
        format!(
            "DELETE FROM {derived} AS kept USING {gone} AS gone WHERE kept.run_id = gone.run_id AND NOT EXISTS \
             (SELECT 1 FROM {runs} AS other WHERE other.run_id = gone.run_id AND other.experiment_id <> gone.experiment_id)"
        ),
    ]
}

/// Makes the statements that delete what the tables have too much of the experiments that a directory holds: runs that are in
/// no directory, and derived metrics of runs that have none.
///
/// Rows of an experiment that another program wrote there, and not this store, are of no directory that is known here.
pub(crate) fn delete_strays(schema: &Schema, scope: &str, experiment: &str) -> [Statement; 2] {
    let own = schema.name(super::runs::TABLE);
    let runs = schema.name("runs");
    let derived = schema.name("derived");
    let value = |text: &str| SqlValue::Text(text.to_owned());
    [
        statement(
            format!(
                "WITH held AS (SELECT experiment_id FROM {own} WHERE scope = $1 UNION SELECT $2::text COLLATE \"C\"), \
                 gone AS (DELETE FROM {runs} AS kept USING held WHERE kept.experiment_id = held.experiment_id \
                 AND held.experiment_id <> '' AND NOT EXISTS (SELECT 1 FROM {own} AS known \
                 WHERE known.run_id = kept.run_id AND known.experiment_id = kept.experiment_id) RETURNING kept.run_id) \
                 DELETE FROM {derived} AS kept USING gone WHERE kept.run_id = gone.run_id"
            ),
            vec![value(scope), value(experiment)],
        ),
        statement(
            format!(
                "DELETE FROM {derived} AS kept USING {own} AS known WHERE known.scope = $1 AND known.run_id = kept.run_id \
                 AND known.derived IS NULL \
                 AND NOT EXISTS (SELECT 1 FROM {own} AS other WHERE other.run_id = kept.run_id AND other.derived IS NOT NULL) \
                 AND NOT EXISTS (SELECT 1 FROM {runs} AS other WHERE other.run_id = kept.run_id AND other.experiment_id <> known.experiment_id)"
            ),
            vec![value(scope)],
        ),
    ]
}

/// Makes the statement that returns the runs of a directory after one that the tables lack, with their texts; and whether
/// it is the derived metrics alone that are missing.
pub(crate) fn missing(schema: &Schema, scope: &str, after: &str) -> Statement {
    // A run's id is the key of both of the reference's tables. Joins, as each of many rows would be looked up else.
    let sql = format!(
        "SELECT known.run_id, known.record, known.derived, other.run_id IS NOT NULL FROM {} AS known \
         LEFT JOIN {} AS other ON other.run_id = known.run_id \
         LEFT JOIN {} AS kept ON kept.run_id = known.run_id \
         WHERE known.scope = $1 AND known.run_id > $2 AND (other.run_id IS NULL \
         OR known.derived IS NOT NULL AND kept.run_id IS NULL AND other.experiment_id = known.experiment_id) \
         ORDER BY known.run_id",
        schema.name(super::runs::TABLE),
        schema.name("runs"),
        schema.name("derived")
    );
    let parameters = [scope, after].map(|text| SqlValue::Text(text.to_owned()));
    statement(sql, parameters.to_vec())
}

/// Makes the statement that writes runs, each with the text of its record.
pub(crate) fn write_given(schema: &Schema, given: &[(Projected, &str)]) -> Statement {
    let mut parameters = arrays(given.iter().map(|(projected, _)| projected));
    parameters.push(directories::texts(given.iter().map(|(_, record)| *record)));
    let [runs, derived] = write(schema, "given");
    let sql = format!(
        "WITH given AS ({}), projected_derived AS ({derived}) {runs}",
        from_arrays(1, COLUMNS.len() + 1)
    );
    statement(sql, parameters)
}

/// Makes the statement that keeps others from writing manifests to the end of the transaction.
///
/// It is the first one of its transaction: who writes a manifest locks this table before a row of the other.
pub(crate) fn lock_manifests(schema: &Schema) -> Statement {
    let sql = format!(
        "LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE",
        schema.name(MANIFESTS)
    );
    statement(sql, Vec::new())
}

/// Makes the statement that deletes the manifests that a directory had before this transaction and are not among these
/// experiments and stamps. One that another directory has too stays, and so does one of which nothing says whose it is.
pub(crate) fn delete_manifests<'s>(
    schema: &Schema,
    scope: &str,
    found: impl Iterator<Item = (&'s str, &'s str)>,
) -> Statement {
    let own = schema.name(MANIFESTS);
    let sql = format!(
        "WITH gone AS (DELETE FROM {own} AS had WHERE scope = $1 AND written_at < now() AND NOT EXISTS \
         (SELECT 1 FROM unnest($2::text[], $3::text[]) AS found (experiment_id, timestamp) \
         WHERE found.experiment_id = had.experiment_id AND found.timestamp = had.timestamp) \
         RETURNING experiment_id, timestamp) \
         DELETE FROM {} AS kept USING gone WHERE kept.experiment_id = gone.experiment_id AND kept.timestamp = gone.timestamp \
         AND NOT EXISTS (SELECT 1 FROM {own} AS other WHERE other.experiment_id = gone.experiment_id \
         AND other.timestamp = gone.timestamp AND other.scope <> $1)",
        schema.name("experiment_manifests")
    );
    let (experiments, stamps): (Vec<_>, Vec<_>) = found.unzip();
    statement(
        sql,
        vec![
            SqlValue::Text(scope.to_owned()),
            directories::texts(experiments),
            directories::texts(stamps),
        ],
    )
}

/// Makes the statement that notes that a directory has a manifest, and writes it if another one is there.
pub(crate) fn manifest(
    schema: &Schema,
    scope: &str,
    experiment: &str,
    stamp: &str,
    body: &Object<'_>,
    now: i64,
) -> Statement {
    let sql = format!(
        "WITH had AS (INSERT INTO {} (scope, experiment_id, timestamp, written_at) VALUES ($6, $1::text, $2::text, now()) \
         ON CONFLICT (experiment_id, timestamp, scope) DO UPDATE SET written_at = EXCLUDED.written_at) \
         INSERT INTO {} AS kept (experiment_id, timestamp, manifest_json, submitted_at, total_runs) \
         VALUES ($1::text, $2::text, $3::jsonb, $4, $5::integer) ON CONFLICT (experiment_id, timestamp) DO UPDATE SET \
         manifest_json = EXCLUDED.manifest_json, submitted_at = EXCLUDED.submitted_at, total_runs = EXCLUDED.total_runs \
         WHERE (kept.manifest_json, kept.total_runs) IS DISTINCT FROM (EXCLUDED.manifest_json, EXCLUDED.total_runs)",
        schema.name(MANIFESTS),
        schema.name("experiment_manifests")
    );
    let submitted = body.get("submitted_at").and_then(Value::as_str);
    let submitted = submitted
        .and_then(|text| Timestamp::parse(text).ok())
        .map_or(now, |time| time.micros_utc);
    let total = match body.get("total_runs") {
        Some(Value::Int(total)) => {
            i32::try_from(*total).map_or(SqlValue::Null, |total| SqlValue::Integer(total.into()))
        }
        _ => SqlValue::Null,
    };
    statement(
        sql,
        vec![
            SqlValue::Text(experiment.to_owned()),
            SqlValue::Text(stamp.to_owned()),
            SqlValue::Json(jsonb_text(body)),
            SqlValue::Timestamp(submitted),
            total,
            SqlValue::Text(scope.to_owned()),
        ],
    )
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop where it fails")]
mod tests {
    use super::*;

    fn record_json(text: &str) -> Option<String> {
        let record = codec::parse_object("", text.as_bytes()).unwrap();
        let row = RecordRow::new(&record, None);
        Projected::new("a", &row, text).unwrap().record
    }

    #[test]
    fn a_record_that_jsonb_takes_is_passed_as_the_text_that_it_is() {
        for text in [
            r#"{"artifacts": [{"content_hash": "3cfde99669d2a7b7", "uri": "a\"1e99999\\"}]}"#,
            r#"{"seed_fingerprint": "e123456789", "0e1234567": 1e300}"#,
            r#"{"metrics": {"a": [1.5e-300, 12345678901234567890, 0.0000001]}}"#,
        ] {
            assert_eq!(record_json(text), None, "{text}");
        }
        let long = format!(r#"{{"notes": "{}"}}"#, "1".repeat(20_000));
        assert_eq!(record_json(&long), None);
    }

    #[test]
    fn what_jsonb_refuses_is_passed_otherwise() {
        for (text, taken) in [
            (r#"{"a": [NaN, 1]}"#, r#"{"a":[null,1]}"#),
            (
                r#"{"a": {"b\u0000": "\u0000c"}}"#,
                r#"{"a":{"b\ufffd":"\ufffdc"}}"#,
            ),
            (r#"{"a": "\"", "b": 1e-0099999}"#, r#"{"a":"\"","b":0.0}"#),
            (r#"{"a": "x", "b": -1E+00001}"#, r#"{"a":"x","b":-10.0}"#),
        ] {
            assert_eq!(record_json(text).as_deref(), Some(taken), "{text}");
        }
        let long = format!(r#"{{"a": 0.{}5}}"#, "0".repeat(20_000));
        assert_eq!(record_json(&long).as_deref(), Some(r#"{"a":0.0}"#));
    }
}
