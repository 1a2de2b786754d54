//! `metalab-store artifacts`

use super::{Context, Outcome, no_such_run, table, text};
use comfy_table::Table;
use metalab_store::types::ArtifactDescriptor;
use std::io::Write;

#[derive(clap::Args)]
pub(super) struct Artifacts {
    /// The run's id
    run: String,
}

impl Artifacts {
    pub(super) fn run(&self, context: &mut Context) -> Outcome {
        let store = context.reader()?;
        let artifacts = store.list_artifacts(&self.run)?;
        if artifacts.is_empty() && !store.run_exists(&self.run)? {
            return Err(no_such_run(&self.run));
        }
        if context.json {
            let entries: Vec<String> = artifacts.iter().map(json).collect();
            let entries = entries.join(",\n");
            writeln!(context.out, "{{\"artifacts\": [\n{entries}\n]}}")?;
        } else if artifacts.is_empty() {
            writeln!(context.out, "No artifacts found")?;
        } else {
            write!(context.out, "{}", table::lines(make_table(&artifacts), 0))?;
        }
        Ok(())
    }
}

/// Makes a table of artifacts.
pub(super) fn make_table(artifacts: &[ArtifactDescriptor]) -> Table {
    let mut heading: Vec<_> = ["NAME", "KIND", "FORMAT"].map(table::text).into();
    heading.extend([table::number("SIZE"), table::text("SHA-256")]);
    let row = |artifact: &ArtifactDescriptor| {
        let hash = artifact.content_hash.as_deref().unwrap_or_default();
        vec![
            table::text(&artifact.name),
            table::text(&artifact.kind),
            table::text(&artifact.format),
            table::number(&artifact.size_bytes.map(text::size).unwrap_or_default()),
            table::text(hash.get(..16).unwrap_or(hash)),
        ]
    };
    table::table(heading, artifacts.iter().map(row).collect())
}

/// Returns a descriptor as JSON. Its open parts are JSON text already, and may hold NaN.
fn json(artifact: &ArtifactDescriptor) -> String {
    let mut known = serde_json::json!(artifact);
    if let Some(fields) = known.as_object_mut() {
        fields.remove("metadata");
        fields.remove("unknown");
    }
    let known = known.to_string();
    let mut members = vec![
        text::inside(&known).to_owned(),
        format!("\"metadata\":{}", artifact.metadata),
    ];
    let unknown = text::inside(&artifact.unknown);
    if !unknown.is_empty() {
        members.push(unknown.to_owned());
    }
    format!("{{{}}}", members.join(","))
}
