//! `metalab-store logs`

use super::{Context, Failure, Outcome, no_such_run, text};
use metalab_store::Store;
use metalab_store::types::Status;
use std::io::{IsTerminal, Write};
use std::thread::sleep;
use std::time::Duration;

/// How much of a log is asked for at once, in bytes.
const PIECE: u32 = 256 * 1024;

/// How long to wait before looking whether a log has grown.
const PAUSE: Duration = Duration::from_millis(250);

#[derive(clap::Args)]
pub(super) struct Logs {
    /// The run's id
    run: String,
    /// The log's name; without it, the names are listed
    name: Option<String>,
    /// Go on printing what is appended, until the run is over
    #[arg(short, long, requires = "name")]
    follow: bool,
}

impl Logs {
    pub(super) fn run(&self, context: &mut Context) -> Outcome {
        let store = context.reader()?;
        if let Some(name) = &self.name {
            return if context.json {
                self.print_json(context, &store, name)
            } else {
                self.print(context, &store, name)
            };
        }
        let names = store.list_logs(&self.run)?;
        if names.is_empty() && !store.run_exists(&self.run)? {
            return Err(no_such_run(&self.run));
        }
        if context.json {
            return context.print_json(&serde_json::json!({ "logs": names }));
        }
        for name in names {
            writeln!(context.out, "{}", text::cell(&name))?;
        }
        Ok(())
    }

    fn missing(&self, name: &str) -> Failure {
        Failure::Other(format!(
            "run {:?} has no log {name:?}; `metalab-store logs {}` lists those there are",
            self.run, self.run
        ))
    }

    fn print_json(&self, context: &mut Context, store: &Store, name: &str) -> Outcome {
        let content = store
            .get_log(&self.run, name)?
            .ok_or_else(|| self.missing(name))?;
        context
            .print_json(&serde_json::json!({ "run": self.run, "name": name, "content": content }))
    }

    fn print(&self, context: &mut Context, store: &Store, name: &str) -> Outcome {
        // A pipe gets the log as it is; a terminal nothing that controls it.
        let terminal = std::io::stdout().is_terminal();
        let mut offset = 0;
        loop {
            // The status is read before the log: what was written before the end is still printed.
            let running = self.follow && self.running(store)?;
            loop {
                let chunk = store
                    .read_log(&self.run, name, offset, PIECE)?
                    .ok_or_else(|| self.missing(name))?;
                if terminal {
                    write!(context.out, "{}", text::safe(&chunk.text))?;
                } else {
                    write!(context.out, "{}", chunk.text)?;
                }
                let stuck = chunk.next_offset == offset;
                offset = chunk.next_offset;
                if chunk.end || stuck {
                    break;
                }
            }
            context.out.flush()?;
            if !running {
                return Ok(());
            }
            sleep(PAUSE);
        }
    }

    /// A run that has no readable record may still be written to.
    fn running(&self, store: &Store) -> Result<bool, Failure> {
        Ok(store
            .get_run_record(&self.run)?
            .is_none_or(|record| record.status == Status::Running))
    }
}
