//! `metalab-store artifacts`

use super::{Context, Outcome, no_such_run, table, text};
use metalab_store::types::ArtifactDescriptor;
use std::io::Write;

#[derive(clap::Args)]
pub(super) struct Artifacts {
    /// The run's id
    run: String,
}

/// The heading of a table of artifacts.
pub(super) const HEADING: [&str; 5] = ["NAME", "KIND", "FORMAT", "SIZE", "SHA-256"];

/// Makes the rows of a table of artifacts.
pub(super) fn rows(artifacts: &[ArtifactDescriptor]) -> Vec<Vec<String>> {
    let row = |artifact: &ArtifactDescriptor| {
        let hash = artifact.content_hash.clone().unwrap_or_default();
        vec![
            artifact.name.clone(),
            artifact.kind.clone(),
            artifact.format.clone(),
            artifact.size_bytes.map(text::size).unwrap_or_default(),
            hash.get(..16).unwrap_or(&hash).to_owned(),
        ]
    };
    artifacts.iter().map(row).collect()
}

impl Artifacts {
    pub(super) fn run(&self, context: &mut Context) -> Outcome {
        let store = context.reader()?;
        let artifacts = store.list_artifacts(&self.run)?;
        if artifacts.is_empty() && !store.run_exists(&self.run)? {
            return Err(no_such_run(&self.run));
        }
        if !context.json {
            write!(context.out, "{}", table::table(&HEADING, rows(&artifacts)))?;
            return Ok(());
        }
        // The metadata is JSON text already, and may hold what no other JSON library prints.
        let mut entries = Vec::new();
        for artifact in &artifacts {
            let mut entry = serde_json::json!(artifact);
            if let Some(fields) = entry.as_object_mut() {
                fields.remove("metadata");
                fields.remove("unknown");
            }
            let entry = entry.to_string();
            entries.push(format!(
                "{},\"metadata\":{}}}",
                entry.trim_end_matches('}'),
                artifact.metadata
            ));
        }
        writeln!(
            context.out,
            "{{\"artifacts\": [\n{}\n]}}",
            entries.join(",\n")
        )?;
        Ok(())
    }
}
