//! Which fields the runs have that a query finds.

use super::page::{Key, Stored, Within, is_of, unexpected};
use super::runs::TABLE;
use super::translate::Parameters;
use crate::ports::{Database, DatabaseResult, Isolation, SqlValue, Statement};
use crate::query::{Catalogue, FieldSummary, Query, RecordRow};

/// How many rows are read at once, and how many bytes.
const CHUNK_ROWS: u32 = 1024;
const CHUNK_BYTES: u32 = 1024 * 1024;

/// Which fields some runs have.
#[derive(Clone, Debug)]
pub struct Fields {
    /// The fields.
    pub fields: Vec<FieldSummary>,
    /// Whether these are all.
    pub complete: bool,
    /// How many runs there are.
    pub runs: u64,
    /// The runs whose derived metrics cannot be read; they are not counted.
    pub damaged: Vec<Key>,
}

/// Collects the fields of the runs that a query's filter matches, from the texts of their files.
///
/// # Errors
/// Those of the database.
pub fn run(database: &dyn Database, within: Within<'_>, query: &Query) -> DatabaseResult<Fields> {
    let mut parameters = Parameters::default();
    let scopes = within.scopes(&mut parameters);
    let matching = within.matching(query, &scopes, &mut parameters);
    // Of equal values the first one is shown: so the order has to be the same every time.
    let statement = Statement {
        sql: format!(
            "SELECT r.scope, r.run_id, r.revision, r.record, r.derived, r.inexact FROM {} AS r \
             WHERE {} AND (r.inexact OR ({matching})) ORDER BY r.scope, r.run_id",
            within.schema.name(TABLE),
            scopes.condition()
        ),
        parameters: parameters.into_values(),
    };
    let transaction = database.begin(Isolation::RepeatableRead, true)?;
    let cursor = transaction.open_cursor(&statement)?;
    let mut catalogue = Catalogue::default();
    let mut runs = 0;
    let mut damaged = Vec::new();
    loop {
        let rows = cursor.next(CHUNK_ROWS, CHUNK_BYTES)?.rows;
        if rows.is_empty() {
            break;
        }
        for row in rows {
            let mut values = row.into_iter();
            let stored = Stored::take(&mut values)?;
            let inexact = match values.next() {
                Some(SqlValue::Boolean(inexact)) => inexact,
                other => return Err(unexpected(other.as_ref())),
            };
            let read = stored.read(|record, derived| {
                let wanted = || {
                    is_of(record, within.experiment)
                        && query.matches(&RecordRow::new(record, derived))
                };
                if !inexact || wanted() {
                    runs += 1;
                    catalogue.add(record, derived);
                }
            });
            if read.is_none() {
                damaged.push(stored.key);
            }
        }
    }
    damaged.sort();
    let (fields, complete) = catalogue.finish();
    Ok(Fields {
        fields,
        complete,
        runs,
        damaged,
    })
}
