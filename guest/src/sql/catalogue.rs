//! The reference's catalogue of fields: what its readers offer to filter by. Our own answers never come from it.
//!
//! It is counted over all runs of the reference's table, in a transaction of its own, and only if that table
//! changed since it was counted last. Whoever fills the empty table has seen all of its runs, and counts meanwhile.

use super::Schema;
use super::directories::statement;
use super::projection::clean;
use crate::codec;
use crate::json::{Object, Value};
use crate::ports::{SqlValue, Statement};
use std::collections::{BTreeMap, BTreeSet};

/// The most values that are shown of a field.
const VALUES: usize = 100;

/// The most fields that are counted in memory.
const FIELDS: usize = 20_000;

/// The parts of a record that are counted, by the names of their key and of their namespace.
const NAMESPACES: [(&str, &str); 2] = [("params_resolved", "params"), ("metrics", "metrics")];

/// The key in our table of facts that says of which state of the reference's table the catalogue is.
const COUNTED: &str = "field_catalog";

/// Makes the text that tells one state of the reference's table from another, as an expression over it.
const STATE: &str =
    "count(*)::text || ' ' || coalesce(max(extract(epoch from updated_at))::text, '')";

/// Makes the query that says whether the catalogue is of the table's present state: one row of true or false.
pub(crate) fn is_counted(schema: &Schema) -> Statement {
    let sql = format!(
        "SELECT (SELECT value FROM {} WHERE key = $1) IS NOT DISTINCT FROM (SELECT {STATE} FROM {})",
        schema.name("metalab_store_meta"),
        schema.name("runs")
    );
    statement(sql, vec![SqlValue::Text(COUNTED.into())])
}

/// Makes the query that says whether the table has at most so many runs.
pub(crate) fn is_small(schema: &Schema, runs: u32) -> Statement {
    let sql = format!(
        "SELECT count(*) <= {runs} FROM (SELECT 1 FROM {} LIMIT {}) AS few",
        schema.name("runs"),
        u64::from(runs) + 1
    );
    statement(sql, Vec::new())
}

/// Makes the statements that count the fields of all runs anew, for one transaction.
pub(crate) fn recount(schema: &Schema) -> Vec<Statement> {
    let runs = schema.name("runs");
    let mut statements = before(schema);
    let sql = format!(
        "INSERT INTO {} (namespace, field_name, field_type, count, values, min_value, max_value, updated_at) \
         WITH fields AS ( \
           SELECT 'params' AS namespace, f.key, f.value, jsonb_typeof(f.value) AS kind FROM {runs}, \
             jsonb_each(CASE jsonb_typeof(record_json -> 'params_resolved') WHEN 'object' THEN record_json -> 'params_resolved' ELSE '{{}}' END) AS f \
           UNION ALL \
           SELECT 'metrics', f.key, f.value, jsonb_typeof(f.value) FROM {runs}, \
             jsonb_each(CASE jsonb_typeof(record_json -> 'metrics') WHEN 'object' THEN record_json -> 'metrics' ELSE '{{}}' END) AS f \
         ), shown AS ( \
           SELECT namespace, key, kind, CASE kind WHEN 'string' THEN value #>> '{{}}' WHEN 'boolean' THEN initcap(value #>> '{{}}') END AS shown, \
             CASE kind WHEN 'number' THEN (value #>> '{{}}')::numeric END AS number FROM fields \
         ), numbers AS ( \
           SELECT *, CASE WHEN number BETWEEN -1.7976931348623157e308 AND 1.7976931348623157e308 THEN number::double precision END AS float FROM shown \
         ) \
         SELECT namespace, key, CASE max(kind) FILTER (WHERE kind <> 'null') WHEN 'number' THEN 'numeric' WHEN 'string' THEN 'string' \
           WHEN 'boolean' THEN 'boolean' ELSE 'unknown' END, \
           count(*), (array_agg(DISTINCT shown COLLATE \"C\") FILTER (WHERE shown IS NOT NULL))[1:{VALUES}], min(float), max(float), now() \
         FROM numbers GROUP BY namespace, key",
        schema.name("field_catalog")
    );
    statements.push(statement(sql, Vec::new()));
    statements
}

/// Makes the statements that come before the new catalogue: others who count wait, and the old one goes. The
/// state is noted first, so that a run that comes meanwhile is counted once more and not forgotten.
fn before(schema: &Schema) -> Vec<Statement> {
    let catalogue = schema.name("field_catalog");
    let note = format!(
        "INSERT INTO {} (key, value) SELECT $1, {STATE} FROM {} ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value",
        schema.name("metalab_store_meta"),
        schema.name("runs")
    );
    vec![
        statement(
            format!("LOCK TABLE {catalogue} IN SHARE ROW EXCLUSIVE MODE"),
            Vec::new(),
        ),
        statement(note, vec![SqlValue::Text(COUNTED.into())]),
        statement(format!("DELETE FROM {catalogue}"), Vec::new()),
    ]
}

/// The fields of runs that were seen one by one.
#[derive(Default)]
pub(crate) struct Counted {
    fields: BTreeMap<(&'static str, String), Field>,
    /// Whether there were more fields than are counted here.
    beyond: bool,
}

#[derive(Default)]
struct Field {
    count: u64,
    /// The last of its types, by name; none if all were null.
    kind: Option<&'static str>,
    values: BTreeSet<String>,
    range: Option<(f64, f64)>,
}

impl Counted {
    /// Counts the fields of a record.
    pub(crate) fn add(&mut self, record: &Object<'_>) {
        for (key, namespace) in NAMESPACES {
            let Some(Value::Object(object)) = record.get(key) else {
                continue;
            };
            for (name, value) in object.iter() {
                let key = (namespace, clean(name));
                if self.fields.len() >= FIELDS && !self.fields.contains_key(&key) {
                    self.beyond = true;
                    continue;
                }
                self.fields.entry(key).or_default().add(value);
            }
        }
    }

    /// Makes the statements that write what was counted, for the transaction that wrote the runs; none if that
    /// is not all.
    pub(crate) fn statements(&self, schema: &Schema) -> Option<Vec<Statement>> {
        if self.beyond {
            return None;
        }
        let rows = self
            .fields
            .iter()
            .map(|((namespace, name), field)| field.row(namespace, name));
        let rows = codec::print_line(&Value::Array(rows.collect()));
        let sql = format!(
            "INSERT INTO {} (namespace, field_name, field_type, count, values, min_value, max_value, updated_at) \
             SELECT namespace, field_name, field_type, count, values, min_value, max_value, now() \
             FROM jsonb_to_recordset($1::jsonb) AS counted (namespace text, field_name text, field_type text, \
             count integer, values text[], min_value double precision, max_value double precision)",
            schema.name("field_catalog")
        );
        let mut statements = before(schema);
        statements.push(statement(sql, vec![SqlValue::Json(rows)]));
        Some(statements)
    }
}

impl Field {
    fn add(&mut self, value: &Value<'_>) {
        self.count += 1;
        let (kind, shown, number) = match value {
            Value::Null => return,
            Value::Float(number) if !number.is_finite() => return,
            Value::Bool(flag) => {
                let shown = if *flag { "True" } else { "False" };
                ("boolean", Some(shown.to_owned()), None)
            }
            Value::String(text) => ("string", Some(clean(text)), None),
            Value::Float(number) => ("number", None, Some(*number)),
            #[expect(
                clippy::cast_precision_loss,
                reason = "the column holds the nearest float"
            )]
            Value::Int(number) => ("number", None, Some(*number as f64)),
            Value::BigInt(digits) => ("number", None, digits.parse().ok()),
            Value::Array(_) => ("array", None, None),
            Value::Object(_) => ("object", None, None),
        };
        self.kind = self.kind.max(Some(kind));
        if let Some(shown) = shown
            && (self.values.len() < VALUES || self.values.last().is_some_and(|last| shown < *last))
        {
            self.values.insert(shown);
            if self.values.len() > VALUES {
                self.values.pop_last();
            }
        }
        if let Some(number) = number.filter(|number| number.is_finite()) {
            let (least, most) = self.range.unwrap_or((number, number));
            self.range = Some((least.min(number), most.max(number)));
        }
    }

    fn row(&self, namespace: &str, name: &str) -> Value<'static> {
        let text = |text: &str| Value::String(text.to_owned().into());
        let bound = |bound: Option<f64>| bound.map_or(Value::Null, Value::Float);
        let mut row = Object::new();
        row.insert("namespace", text(namespace));
        row.insert("field_name", text(name));
        let kind = match self.kind {
            Some("number") => "numeric",
            Some("string") => "string",
            Some("boolean") => "boolean",
            _ => "unknown",
        };
        row.insert("field_type", text(kind));
        let count = i64::try_from(self.count).unwrap_or(i64::MAX);
        row.insert("count", Value::Int(count));
        let values = match self.values.is_empty() {
            true => Value::Null,
            false => Value::Array(self.values.iter().map(|value| text(value)).collect()),
        };
        row.insert("values", values);
        row.insert("min_value", bound(self.range.map(|(least, _)| least)));
        row.insert("max_value", bound(self.range.map(|(_, most)| most)));
        Value::Object(row)
    }
}
