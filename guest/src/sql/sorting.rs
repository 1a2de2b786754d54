//! Indexes for the sort keys that a store is asked for again and again, and for the numbers that its filters compare.
//!
//! Without one, a page sorted by a metric looks at every run of the directory, and so does a page of the few runs
//! whose metric is in some range. Which metrics there are, only the
//! runs know, so that no table can have their indexes from the start. Such an index costs every later write a
//! little, and its creation keeps writers waiting while it looks at all rows: so nothing here happens by itself.

use sha2::{Digest, Sha256};

use super::document::{INFINITY, NAN, NEGATIVE_INFINITY};
use super::identifier::Schema;
use super::runs::{TABLE, push};
use super::translate::{can_be_found, part, rank_of, sorted_number, sorted_text};
use crate::json::{self, Object, Value};
use crate::ports::{SqlValue, Statement};
use crate::query::{Direction, Field, SortKey, Step};

/// The most such indexes of a table. Beyond, none is created.
pub const MAX_INDEXES: usize = 8;

/// The longest path that gets an index.
const MAX_STEPS: usize = 8;

/// Returns the statements that create the index of a sort key where it is missing; to be run as one batch.
///
/// `None` for keys that need none or cannot have one: those in columns of their own, and paths into lists.
///
/// The names in the path are data here too: the first statement hands them over as a parameter, and the server
/// itself quotes them in the second, whose text is made of nothing but the number of steps.
#[must_use]
pub fn create(schema: &Schema, key: &SortKey) -> Option<[Statement; 2]> {
    made(schema, key, false)
}

/// Does the same for a number that filters compare, and lets the server count how its values are spread: only then it
/// knows whether few runs are in a range or many. It does not count that for an index of a part of the table by itself.
#[must_use]
pub fn create_for_ranges(schema: &Schema, key: &SortKey) -> Option<[Statement; 2]> {
    made(schema, key, true)
}

fn made(schema: &Schema, key: &SortKey, ranges: bool) -> Option<[Statement; 2]> {
    let metric = |name: &String| vec![Step::Key(name.clone())];
    let (name, path) = match &key.field {
        Field::DurationMs => ("duration_ms", Vec::new()),
        Field::Metric(name) => ("metrics", metric(name)),
        Field::Derived(name) => ("derived", metric(name)),
        Field::Param(path) => ("params", path.clone()),
        Field::Provenance(path) => ("provenance", path.clone()),
        _ => return None,
    };
    if path.len() > MAX_STEPS || !can_be_found(&path) {
        return None;
    }
    let mut keys = Vec::new();
    for step in &path {
        match step {
            Step::Key(key) => keys.push(Value::from(key.as_str())),
            Step::Index(_) => return None,
        }
    }
    let mut json = part(name).replace("r.document", "document");
    for index in 0..keys.len() {
        // The first two are the index and the schema.
        json = format!("({json} -> %{}$L::text)", index + 3);
    }
    let direction = match key.direction {
        Direction::Ascending => "ASC",
        Direction::Descending => "DESC",
    };
    let special = [NEGATIVE_INFINITY, INFINITY, NAN]
        .map(|text| format!("E'{}'::jsonb", text.replace('\\', "\\\\")));
    let rank = rank_of(&json, key.direction, special);
    let number = sorted_number(&json, key.direction);
    let text = sorted_text(&json);
    let mut arguments = String::new();
    for index in 0..keys.len() {
        push(&mut arguments, format_args!(", given->'keys'->>{index}"));
    }
    let statistics = match ranges {
        false => String::new(),
        true => format!(
            "EXECUTE format($made$CREATE STATISTICS IF NOT EXISTS %2$I.%1$I ON ({rank}), ({number}) FROM %2$I.{TABLE}$made$, \
             given->>'index', given->>'schema'{arguments}); EXECUTE format('ANALYZE %I.{TABLE}', given->>'schema'); "
        ),
    };
    let sql = format!(
        "DO $do$ DECLARE given jsonb := current_setting('metalab_store.sort')::jsonb; BEGIN \
         PERFORM pg_advisory_xact_lock(hashtext(given->>'schema'), hashtext('{TABLE}')); \
         IF (SELECT count(*) FROM pg_indexes WHERE schemaname = given->>'schema' AND tablename = '{TABLE}' \
         AND starts_with(indexname, 'metalab_store_sort_')) < {MAX_INDEXES} THEN EXECUTE format($index$\
         CREATE INDEX IF NOT EXISTS %1$I ON %2$I.{TABLE} (scope, ({rank}), ({number}), ({text}) {direction}, \
          age, experiment_id, run_id) WHERE NOT inexact\
         $index$, given->>'index', given->>'schema'{arguments}); \
         {statistics}END IF; END $do$"
    );
    let mut given = Object::new();
    given.insert("schema", schema.as_str());
    given.insert("index", index_name(key));
    given.insert("keys", keys);
    let mut text = String::new();
    json::line(&Value::Object(given), &mut text);
    Some([
        Statement {
            sql: "SELECT set_config('metalab_store.sort', $1::text, true)".to_owned(),
            parameters: vec![SqlValue::Text(text)],
        },
        Statement {
            sql,
            parameters: Vec::new(),
        },
    ])
}

/// Returns the statement that names the indexes that were made for ranges.
#[must_use]
pub fn existing(schema: &Schema) -> Statement {
    Statement {
        sql: format!(
            "SELECT stxname::text FROM pg_statistic_ext JOIN pg_namespace AS place ON place.oid = stxnamespace \
             WHERE nspname = $1::text AND stxrelid = (SELECT oid FROM pg_class WHERE relnamespace = place.oid AND relname = '{TABLE}') \
             AND starts_with(stxname, 'metalab_store_sort_') ORDER BY 1"
        ),
        parameters: vec![SqlValue::Text(schema.as_str().to_owned())],
    }
}

/// Returns the name of the index of a sort key.
#[must_use]
pub fn index_name(key: &SortKey) -> String {
    let direction = match key.direction {
        Direction::Ascending => "asc",
        Direction::Descending => "desc",
    };
    let mut name = format!("metalab_store_sort_{direction}_");
    for byte in Sha256::digest(key.field.to_string().as_bytes())
        .iter()
        .take(12)
    {
        push(&mut name, format_args!("{byte:02x}"));
    }
    name
}
