//! `metalab-store logs`

use super::{Context, Failure, Outcome, no_such_run, table, text};
use comfy_table::Table;
use metalab_store::types::Status;
use metalab_store::{Error, Store};
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
    /// Go on printing what is appended, until the run is over or the command is interrupted
    ///
    /// A run is over when its record's status is another one than running. A run without a readable record
    /// may still be written to, and is followed.
    #[arg(short, long, requires = "name", conflicts_with = "json")]
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
        let mut logs = Vec::new();
        for name in names {
            let size = size(&store, &self.run, &name)?;
            logs.push((name, size));
        }
        if context.json {
            let entries: Vec<_> = logs
                .iter()
                .map(|(name, size)| serde_json::json!({ "name": name, "size_bytes": size }))
                .collect();
            return context.print_json(&serde_json::json!({ "logs": entries }));
        }
        if logs.is_empty() {
            writeln!(context.out, "No logs found")?;
        } else {
            write!(context.out, "{}", table::lines(make_table(&logs), 0))?;
        }
        Ok(())
    }

    fn missing(&self, name: &str) -> Failure {
        Failure::Other(
            "not-found",
            format!(
                "run {:?} has no log {name:?}; `metalab-store logs {}` lists those there are",
                self.run, self.run
            ),
        )
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

/// Makes a table of logs and their sizes.
pub(super) fn make_table(logs: &[(String, u64)]) -> Table {
    let heading = vec![table::text("NAME"), table::number("SIZE")];
    let row =
        |(name, size): &(String, u64)| vec![table::text(name), table::number(&text::size(*size))];
    table::table(heading, logs.iter().map(row).collect())
}

/// Returns the size of a log in bytes; 0 if it is gone meanwhile.
///
/// The store hands logs out in pieces and does not say how long they are. A piece is empty exactly from the
/// end on, which is looked for by halves instead of reading everything before it.
pub(super) fn size(store: &Store, run: &str, name: &str) -> Result<u64, Error> {
    let beyond = |offset| {
        let piece = store.read_log(run, name, offset, 1)?;
        Ok::<bool, Error>(piece.is_none_or(|piece| piece.text.is_empty()))
    };
    let (mut low, mut high) = (0, 1);
    while !beyond(high)? {
        low = high;
        high *= 2;
    }
    // The end lies in `low..=high`, and what is at `low` is before it unless that is 0.
    while low < high {
        let middle = low + (high - low) / 2;
        if beyond(middle)? {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    Ok(low)
}
