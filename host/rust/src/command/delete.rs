//! `metalab-store delete`

use super::{Context, Failure, Outcome, text};
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
        let mut failed = false;
        for run in &self.runs {
            match store.delete_run(run) {
                Ok(true) => deleted.push(run),
                Ok(false) => {
                    failed = true;
                    eprintln!("error: there is no run {run:?}");
                }
                Err(error) => {
                    failed = true;
                    eprintln!("error: {}", text::safe(&error.to_string()));
                }
            }
        }
        store.close()?;
        if context.json {
            context.print_json(&serde_json::json!({ "deleted": deleted }))?;
        } else {
            for run in deleted {
                writeln!(context.out, "Deleted run {}", text::cell(run))?;
            }
        }
        context.out.flush()?;
        if failed { Err(Failure::Said) } else { Ok(()) }
    }
}
