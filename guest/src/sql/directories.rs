//! The tables that say what this database is and which directories it knows.

use super::Schema;
use super::page::Key;
use crate::ports::{
    Database, DatabaseFailure, DatabaseFailureKind, DatabaseResult, Isolation, RowSet, SqlValue,
    Statement, Transaction,
};

/// The version of this store's own tables.
pub(crate) const VERSION: u32 = 3;

/// The version of the reference's tables.
pub(crate) const PROJECTION: u32 = 3;

/// The table that a crash of the server empties. It holds the marks of directories that were given since the last one.
///
/// Commits of puts are not made durable by the server before they are answered: the files are that. A server that
/// crashed may have lost the last of them, and is known by this.
pub(super) const STEADY: &str = "metalab_store_steady";

/// The table of the directories that are known.
pub(super) const DIRECTORIES: &str = "metalab_store_directories";

/// The table of runs whose files cannot be read.
pub(super) const UNREADABLE: &str = "metalab_store_unreadable";

/// The table that says which directories have a manifest that is in the reference's table: that one does not.
pub(crate) const MANIFESTS: &str = "metalab_store_manifests";

/// The most rows of an answer about the tables themselves.
const FEW: u32 = 10_000;

/// What was found where the tables should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Tables {
    /// Nothing, or not all that is wanted.
    Missing,
    /// All, in a database of this id.
    Ready(String),
    /// Tables of a newer version, and what they are called.
    Newer(&'static str, String),
}

/// Makes a statement.
pub(crate) fn statement(sql: String, parameters: Vec<SqlValue>) -> Statement {
    Statement { sql, parameters }
}

/// Returns the text in a column of a row.
pub(crate) fn text(row: &[SqlValue], column: usize) -> Option<&str> {
    match row.get(column) {
        Some(SqlValue::Text(text) | SqlValue::Json(text)) => Some(text),
        _ => None,
    }
}

/// Makes a parameter of texts.
pub(crate) fn texts<'t>(texts: impl IntoIterator<Item = &'t str>) -> SqlValue {
    SqlValue::TextArray(
        texts
            .into_iter()
            .map(|text| Some(text.to_owned()))
            .collect(),
    )
}

/// Says whether the server answered that something named in the statement is not there.
pub(crate) fn is_missing(failure: &DatabaseFailure) -> bool {
    // undefined_table, invalid_schema_name, undefined_column
    matches!(
        failure.sqlstate.as_deref(),
        Some("42P01" | "3F000" | "42703")
    )
}

/// Looks at the tables.
pub(crate) fn look(
    database: &dyn Database,
    schema: &Schema,
    projection: bool,
) -> DatabaseResult<Tables> {
    let meta = schema.name("metalab_store_meta");
    let read = statement(format!("SELECT key, value FROM {meta}"), Vec::new());
    match database.query(&read, FEW) {
        Ok(rows) => Ok(judge(&rows, projection)),
        Err(failure) if is_missing(&failure) => Ok(Tables::Missing),
        Err(failure) => Err(failure),
    }
}

fn judge(rows: &RowSet, projection: bool) -> Tables {
    let value = |wanted: &str| {
        let mut rows = rows.rows.iter();
        rows.find(|row| text(row, 0) == Some(wanted))
            .and_then(|row| text(row, 1))
    };
    let Some(version) = value("version") else {
        return Tables::Missing;
    };
    match version.parse::<u32>() {
        Ok(VERSION) => {}
        // What this version added is created.
        Ok(older) if older < VERSION => return Tables::Missing,
        _ => return Tables::Newer("metalab_store_meta", version.to_owned()),
    }
    let projected = value("projection").and_then(|version| version.parse().ok());
    match value("database") {
        Some(database) if !projection || projected == Some(PROJECTION) => {
            Tables::Ready(database.to_owned())
        }
        _ => Tables::Missing,
    }
}

/// Creates what is missing, one program at a time, and says what is there then.
pub(crate) fn migrate(
    database: &dyn Database,
    schema: &Schema,
    projection: bool,
    new_id: &str,
) -> DatabaseResult<Tables> {
    let transaction = database.begin(Isolation::ReadCommitted, false)?;
    let lock = "SELECT pg_advisory_xact_lock(hashtextextended($1, 5246077386))::text";
    let key = SqlValue::Text(format!("metalab-store schema {}", schema.as_str()));
    transaction.query(&statement(lock.to_owned(), vec![key]), 1)?;
    // `CREATE SCHEMA IF NOT EXISTS` needs the right to create one, also where it is there.
    let there = "SELECT EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = $1)";
    let there = statement(
        there.to_owned(),
        vec![SqlValue::Text(schema.as_str().to_owned())],
    );
    if !is_true(&transaction.query(&there, 1)?) {
        run(&*transaction, &format!("CREATE SCHEMA {}", schema.quoted()))?;
    }
    let meta = schema.name("metalab_store_meta");
    run(
        &*transaction,
        &format!("CREATE TABLE IF NOT EXISTS {meta} (key text PRIMARY KEY, value text NOT NULL)"),
    )?;
    let read = statement(format!("SELECT key, value FROM {meta}"), Vec::new());
    let found = judge(&transaction.query(&read, FEW)?, projection);
    if found != Tables::Missing {
        return Ok(found);
    }
    if projection && let Some(newer) = super::projection::newer(&*transaction, schema)? {
        return Ok(Tables::Newer("meta", newer));
    }
    for sql in super::runs::create(schema) {
        run(&*transaction, &sql)?;
    }
    let directories = schema.name(DIRECTORIES);
    let unreadable = schema.name(UNREADABLE);
    run(
        &*transaction,
        &format!(
            "CREATE TABLE IF NOT EXISTS {directories} (scope text COLLATE \"C\" PRIMARY KEY, mark text NOT NULL, \
             directory text NOT NULL, machine text NOT NULL, inode text NOT NULL, updated_at timestamptz NOT NULL DEFAULT now())"
        ),
    )?;
    run(
        &*transaction,
        &format!(
            "CREATE TABLE IF NOT EXISTS {unreadable} (scope text COLLATE \"C\" NOT NULL, run_id text COLLATE \"C\" NOT NULL, \
             stamp text NOT NULL, PRIMARY KEY (scope, run_id))"
        ),
    )?;
    let steady = schema.name(STEADY);
    run(
        &*transaction,
        &format!(
            "CREATE UNLOGGED TABLE IF NOT EXISTS {steady} (scope text COLLATE \"C\" PRIMARY KEY, mark text NOT NULL)"
        ),
    )?;
    if projection {
        super::projection::create(&*transaction, schema)?;
        let manifests = schema.name(MANIFESTS);
        run(
            &*transaction,
            &format!(
                "CREATE TABLE IF NOT EXISTS {manifests} (scope text COLLATE \"C\" NOT NULL, experiment_id text COLLATE \"C\" NOT NULL, \
                 timestamp text COLLATE \"C\" NOT NULL, written_at timestamptz NOT NULL, PRIMARY KEY (experiment_id, timestamp, scope))"
            ),
        )?;
        set(&*transaction, &meta, "projection", &PROJECTION.to_string())?;
    }
    set(&*transaction, &meta, "version", &VERSION.to_string())?;
    // The first one stays: a database keeps its id.
    let keep = format!(
        "INSERT INTO {meta} (key, value) VALUES ('database', $1) ON CONFLICT (key) DO NOTHING"
    );
    transaction.execute(&statement(keep, vec![SqlValue::Text(new_id.to_owned())]))?;
    let made = judge(&transaction.query(&read, FEW)?, projection);
    transaction.commit()?;
    Ok(made)
}

fn set(transaction: &dyn Transaction, meta: &str, key: &str, value: &str) -> DatabaseResult<u64> {
    let sql = format!(
        "INSERT INTO {meta} (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value"
    );
    let parameters = [key, value].map(|text| SqlValue::Text(text.to_owned()));
    transaction.execute(&statement(sql, parameters.to_vec()))
}

/// Runs a statement without parameters.
pub(crate) fn run(transaction: &dyn Transaction, sql: &str) -> DatabaseResult<u64> {
    transaction.execute(&statement(sql.to_owned(), Vec::new()))
}

/// Says whether the first value of an answer is true.
pub(crate) fn is_true(rows: &RowSet) -> bool {
    matches!(
        rows.rows.first().and_then(|row| row.first()),
        Some(SqlValue::Boolean(true))
    )
}

/// A directory as the database knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Directory {
    /// Its id.
    pub(crate) scope: String,
    /// What `.index/database.json` has to say too.
    pub(crate) mark: String,
    /// Whether the server did not crash since the directory was given its mark.
    pub(crate) steady: bool,
}

/// Returns the directories of these ids that the database knows.
pub(crate) fn known(
    database: &dyn Database,
    schema: &Schema,
    scopes: &[&str],
) -> DatabaseResult<Vec<Directory>> {
    let sql = format!(
        "SELECT scope, mark, EXISTS (SELECT 1 FROM {} AS steady WHERE steady.scope = named.scope AND steady.mark = named.mark) \
         FROM {} AS named WHERE scope = ANY($1::text[])",
        schema.name(STEADY),
        schema.name(DIRECTORIES)
    );
    let rows = database.query(&statement(sql, vec![texts(scopes.iter().copied())]), FEW)?;
    let directory = |row: &Vec<SqlValue>| {
        Some(Directory {
            scope: text(row, 0)?.to_owned(),
            mark: text(row, 1)?.to_owned(),
            steady: matches!(row.get(2), Some(SqlValue::Boolean(true))),
        })
    };
    Ok(rows.rows.iter().filter_map(directory).collect())
}

/// Returns the runs of these directories whose record cannot be read. It is asked last: fails if the server crashed
/// since the `steady` ones were found to be that, because what it said since then may be less than what it knew.
pub(crate) fn unreadable(
    ask: impl FnOnce(&Statement) -> DatabaseResult<RowSet>,
    schema: &Schema,
    scopes: &[String],
    steady: &[String],
) -> DatabaseResult<Vec<Key>> {
    let sql = format!(
        "SELECT scope, run_id FROM {} WHERE scope = ANY($1::text[]) \
         UNION ALL SELECT scope, NULL FROM unnest($2::text[]) AS asked (scope) \
         WHERE NOT EXISTS (SELECT 1 FROM {} AS steady WHERE steady.scope = asked.scope) ORDER BY scope, run_id",
        schema.name(UNREADABLE),
        schema.name(STEADY)
    );
    let names = |scopes: &[String]| texts(scopes.iter().map(String::as_str));
    let parameters = vec![names(scopes), names(steady)];
    let rows = ask(&statement(sql, parameters))?;
    if rows
        .rows
        .iter()
        .any(|row| row.get(1) == Some(&SqlValue::Null))
    {
        return Err(crashed());
    }
    let key = |row: &Vec<SqlValue>| {
        Some(Key {
            scope: text(row, 0)?.to_owned(),
            run_id: text(row, 1)?.to_owned(),
        })
    };
    Ok(rows.rows.iter().filter_map(key).collect())
}

/// Finds the id under which the database knows the directory at a place: `.index/` may have been deleted.
pub(crate) fn find(
    database: &dyn Database,
    schema: &Schema,
    machine: &str,
    inode: &str,
    directory: &str,
) -> DatabaseResult<Option<String>> {
    let sql = format!(
        "SELECT scope FROM {} WHERE machine = $1 AND inode = $2 AND directory = $3 ORDER BY updated_at DESC LIMIT 1",
        schema.name(DIRECTORIES)
    );
    let parameters = [machine, inode, directory].map(|text| SqlValue::Text(text.to_owned()));
    let rows = database.query(&statement(sql, parameters.to_vec()), 1)?;
    Ok(rows
        .rows
        .first()
        .and_then(|row| text(row, 0))
        .map(str::to_owned))
}

/// What a directory that is known gets.
const RENAMED: &str = "ON CONFLICT (scope) DO UPDATE SET mark = EXCLUDED.mark, machine = EXCLUDED.machine, \
    inode = EXCLUDED.inode, directory = EXCLUDED.directory, updated_at = now()";

fn named(directory: &Directory, machine: &str, inode: &str, outside: &str) -> Vec<SqlValue> {
    let Directory { scope, mark, .. } = directory;
    let texts = [scope.as_str(), mark.as_str(), machine, inode, outside];
    texts.map(|text| SqlValue::Text(text.to_owned())).to_vec()
}

/// Makes the statement that names a directory without a mark.
pub(crate) fn name(
    schema: &Schema,
    directory: &Directory,
    machine: &str,
    inode: &str,
    outside: &str,
) -> Statement {
    let sql = format!(
        "INSERT INTO {} (scope, mark, machine, inode, directory) VALUES ($1, $2, $3, $4, $5) {RENAMED}",
        schema.name(DIRECTORIES)
    );
    statement(sql, named(directory, machine, inode, outside))
}

/// Makes the statement that begins to watch whether the server crashes, or the directory is pruned, until it gets its
/// new mark.
pub(crate) fn watch(schema: &Schema, scope: &str, mark: &str) -> Statement {
    // By the mark it is found in the end, and by the directory when that is pruned.
    let parameters = [mark, scope].map(|text| SqlValue::Text(text.to_owned()));
    statement(
        format!(
            "INSERT INTO {} (scope, mark) VALUES ($1, $2)",
            schema.name(STEADY)
        ),
        parameters.to_vec(),
    )
}

/// Makes the statement that gives a directory a new mark, unless the server crashed, or the directory was pruned, since that
/// was to be watched: then no row is changed.
pub(crate) fn mark_compared(
    schema: &Schema,
    directory: &Directory,
    machine: &str,
    inode: &str,
    outside: &str,
) -> Statement {
    let steady = schema.name(STEADY);
    let sql = format!(
        "WITH watched AS (DELETE FROM {steady} WHERE scope = $2 RETURNING scope), \
         steady AS (INSERT INTO {steady} (scope, mark) SELECT $1, $2 FROM watched \
         ON CONFLICT (scope) DO UPDATE SET mark = EXCLUDED.mark) \
         INSERT INTO {} (scope, mark, machine, inode, directory) SELECT $1, $2, $3, $4, $5 FROM watched {RENAMED}",
        schema.name(DIRECTORIES)
    );
    statement(sql, named(directory, machine, inode, outside))
}

/// Makes the statement that gives a directory another mark, unless the server crashed since it was given the one
/// that it has: then no row is changed.
pub(crate) fn mark_closed(schema: &Schema, scope: &str, old: &str, new: &str) -> Statement {
    let sql = format!(
        "WITH steady AS (UPDATE {} SET mark = $3 WHERE scope = $1 AND mark = $2 RETURNING scope) \
         UPDATE {} AS named SET mark = $3, updated_at = now() FROM steady WHERE named.scope = steady.scope AND named.mark = $2",
        schema.name(STEADY),
        schema.name(DIRECTORIES)
    );
    let parameters = [scope, old, new].map(|text| SqlValue::Text(text.to_owned()));
    statement(sql, parameters.to_vec())
}

/// Makes the failure of a server that crashed while its answers were relied on.
pub(crate) fn crashed() -> DatabaseFailure {
    DatabaseFailure {
        kind: DatabaseFailureKind::Refused,
        sqlstate: None,
        retryable: true,
        outcome_unknown: false,
        message:
            "the server crashed, or its rows were pruned, while it was asked: it may not know any more what it was told last"
                .into(),
    }
}

/// Makes the failure of tables that this version must not touch.
pub(crate) fn newer(table: &str, version: &str) -> DatabaseFailure {
    DatabaseFailure {
        kind: DatabaseFailureKind::Refused,
        sqlstate: None,
        retryable: false,
        outcome_unknown: false,
        message: format!(
            "the table {table:?} says that the tables are of version {version:?}, which this version of the store does not know: update the store, or name another schema"
        ),
    }
}

/// Makes the failure of tables that are missing and may not be created.
pub(crate) fn missing(schema: &Schema) -> DatabaseFailure {
    DatabaseFailure {
        kind: DatabaseFailureKind::Refused,
        sqlstate: None,
        retryable: false,
        outcome_unknown: false,
        message: format!(
            "the schema {:?} has no tables of the store, and may not be given any: open the store once to write with auto_migrate",
            schema.as_str()
        ),
    }
}
