//! `metalab-store fields`

use super::{Context, Outcome, table};
use metalab_store::types::FieldSummary;
use serde_json::json;
use std::io::Write;

/// How many characters of a field's values a table shows.
const SHOWN: usize = 60;

#[derive(clap::Args)]
pub(super) struct Fields {
    /// Count only runs of which this is true, as in `status = "failed"`
    #[arg(
        long = "where",
        value_name = "FILTER",
        default_value = "",
        hide_default_value = true
    )]
    filter: String,
}

impl Fields {
    pub(super) fn run(&self, context: &mut Context) -> Outcome {
        let store = context.reader()?;
        let found = store.list_fields(&self.filter)?;
        if context.json {
            let fields: Vec<String> = found.fields.iter().map(json).collect();
            let rest = json!({
                "runs": found.runs, "complete": found.complete, "damaged": found.damaged,
            });
            writeln!(
                context.out,
                "{{\"fields\": [\n{}\n], {}",
                fields.join(",\n"),
                rest.to_string().trim_start_matches('{')
            )?;
            return Ok(());
        }
        if found.fields.is_empty() {
            writeln!(context.out, "No fields found")?;
        } else {
            let mut heading = vec![table::text("FIELD"), table::text("TYPES")];
            heading.extend(["RUNS", "MIN", "MAX"].map(table::number));
            heading.push(table::text("VALUES"));
            let rows = found.fields.iter().map(|field| {
                let plain = |value: &Option<String>| {
                    table::number(value.as_deref().unwrap_or_default().trim_matches('"'))
                };
                vec![
                    table::text(&field.field),
                    table::text(&field.types.join(", ")),
                    table::number(&field.runs.to_string()),
                    plain(&field.min),
                    plain(&field.max),
                    table::text(&values(field)),
                ]
            });
            let table = table::table(heading, rows.collect());
            write!(context.out, "{}", table::lines(table, 0))?;
        }
        context.out.flush()?;
        if !found.complete {
            context.remark("note", "there are more fields than are listed");
        }
        context.warn_of_damage(&found.damaged);
        Ok(())
    }
}

/// Returns the values of a field, as many as fit.
fn values(field: &FieldSummary) -> String {
    let mut shown = String::new();
    for (index, value) in field.values.iter().enumerate() {
        let comma = if index > 0 { ", " } else { "" };
        if shown.chars().count() + comma.len() + value.chars().count() > SHOWN {
            shown.push_str(comma);
            shown.push('…');
            return shown;
        }
        shown.push_str(comma);
        shown.push_str(value);
    }
    if !field.complete && !shown.is_empty() {
        shown.push_str(", …");
    }
    shown
}

/// Returns a field as JSON. Its values are JSON text already, and may hold NaN.
fn json(field: &FieldSummary) -> String {
    let known = json!({"field": field.field, "types": field.types, "runs": field.runs});
    let known = known.to_string();
    let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "null".to_owned());
    format!(
        "{}, \"min\": {}, \"max\": {}, \"values\": [{}], \"complete\": {}}}",
        known.trim_end_matches('}'),
        value(&field.min),
        value(&field.max),
        field.values.join(", "),
        field.complete
    )
}
