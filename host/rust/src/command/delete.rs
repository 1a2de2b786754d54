//! `metalab-store delete`

use super::{Context, Failure, Outcome, no_such_run, text};
use std::io::Write;

#[derive(clap::Args)]
pub(super) struct Delete {
    /// The runs' ids
    #[arg(required = true)]
    runs: Vec<String>,
}

impl Delete {
    pub(super) fn run(&self, context: &mut Context) -> Outcome {
        // A store that is not there is not created to delete from it.
        drop(context.reader()?);
        let store = context.writer()?;
        let mut deleted = Vec::new();
        for run in &self.runs {
            match store.delete_run(run) {
                Ok(true) => deleted.push(run),
                Ok(false) => context.report(&no_such_run(run)),
                Err(error) => context.report(&error.into()),
            }
        }
        store.close()?;
        if context.json {
            context.print_json(&serde_json::json!({ "deleted": deleted }))?;
        } else {
            for run in &deleted {
                writeln!(context.out, "Deleted run {}", text::cell(run))?;
            }
        }
        if deleted.len() < self.runs.len() {
            return Err(Failure::Said);
        }
        Ok(())
    }
}
