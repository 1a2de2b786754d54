//! `metalab-store put`

use super::{Context, Failure, Outcome, text};
use metalab_store::Store;
use metalab_store::types::Expectation;
use std::io::{self, BufRead, IsTerminal, Write};

/// How many bytes of lines are passed on at once.
const BATCH: usize = 4 << 20;

/// How many bytes a record may have.
const MAX_RECORD: usize = 64 << 20;

pub(super) fn run(context: &mut Context) -> Outcome {
    let mut input = io::stdin().lock();
    if io::stdin().is_terminal() {
        eprintln!("Reading run records as JSON from standard input.");
    }
    let mut line = String::new();
    while line.trim().is_empty() {
        line.clear();
        if input.read_line(&mut line)? == 0 {
            return Err(Failure::Other(
                "nothing was read: pass a run record as JSON, or one a line".to_owned(),
            ));
        }
    }
    let store = context.writer()?;
    hint(context)?;
    let mut counts = Counts::default();
    // A record that is spread over lines does not end where its first line does.
    if complete(&line) {
        let mut batch = line;
        loop {
            let read = read_lines(&mut input, &mut batch)?;
            put_lines(context, &store, &batch, &mut counts)?;
            batch.clear();
            if read == 0 {
                break;
            }
        }
    } else {
        let mut record = line;
        io::Read::take(&mut input, MAX_RECORD as u64 + 1).read_to_string_after(&mut record)?;
        if record.len() > MAX_RECORD {
            return Err(Failure::Other(format!(
                "the record has more than {MAX_RECORD} bytes"
            )));
        }
        match store.put_run_text(record.trim(), &Expectation::Anything) {
            Ok(revision) => counts.stored(context, &revision)?,
            Err(error) => return Err(error.into()),
        }
    }
    store.close()?;
    counts.print(context)?;
    if counts.failed > 0 {
        Err(Failure::Said)
    } else {
        Ok(())
    }
}

/// Reads the rest of a text behind what is there already.
trait ReadAfter {
    fn read_to_string_after(&mut self, text: &mut String) -> io::Result<()>;
}

impl<R: io::Read> ReadAfter for R {
    fn read_to_string_after(&mut self, text: &mut String) -> io::Result<()> {
        self.read_to_string(text).map(drop)
    }
}

#[derive(Default)]
struct Counts {
    stored: u64,
    failed: u64,
}

impl Counts {
    fn stored(&mut self, context: &mut Context, revision: &str) -> Outcome {
        self.stored += 1;
        if context.json {
            writeln!(
                context.out,
                "{}",
                serde_json::json!({ "revision": revision })
            )?;
        }
        Ok(())
    }

    fn print(&self, context: &mut Context) -> Outcome {
        if !context.json {
            let plural = if self.stored == 1 { "" } else { "s" };
            writeln!(context.out, "Stored {} run{plural}.", self.stored)?;
        }
        context.out.flush()?;
        if self.failed > 0 {
            eprintln!(
                "error: {} of {} records were not stored",
                self.failed,
                self.failed + self.stored
            );
        }
        Ok(())
    }
}

/// Says whether a line is a whole JSON object, as far as brackets tell.
fn complete(line: &str) -> bool {
    let (mut depth, mut quoted, mut escaped) = (0_i64, false, false);
    for byte in line.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'{' | b'[' if !quoted => depth += 1,
            b'}' | b']' if !quoted => depth -= 1,
            _ => {}
        }
    }
    depth <= 0 && !quoted
}

/// Appends lines until a batch is full; returns how many bytes were read.
fn read_lines(input: &mut impl BufRead, batch: &mut String) -> io::Result<usize> {
    let before = batch.len();
    while batch.len() < BATCH {
        if input.read_line(batch)? == 0 {
            break;
        }
    }
    Ok(batch.len() - before)
}

fn put_lines(context: &mut Context, store: &Store, lines: &str, counts: &mut Counts) -> Outcome {
    if lines.trim().is_empty() {
        return Ok(());
    }
    for outcome in store.put_run_lines(lines)? {
        match outcome {
            Ok(revision) => counts.stored(context, &revision)?,
            Err(error) => {
                counts.failed += 1;
                if context.json {
                    let failed =
                        serde_json::json!({ "code": error.code(), "message": error.to_string() });
                    writeln!(context.out, "{}", serde_json::json!({ "error": failed }))?;
                } else {
                    eprintln!("error: {}", text::safe(&error.to_string()));
                }
            }
        }
    }
    Ok(())
}

/// Without an experiment, records go to the root itself; in a collection that is rarely what is meant.
fn hint(context: &Context) -> Outcome {
    if !context.config.is_scoped() && !context.config.list_experiments()?.experiments.is_empty() {
        eprintln!(
            "note: writing to the collection's own directory; name an experiment with -e to write there"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::complete;

    #[test]
    fn a_record_on_one_line_is_told_from_the_first_line_of_a_longer_one() {
        assert!(complete("{\"a\": {\"b\": [1]}}\n"));
        assert!(complete("{\"a\": \"}{\\\"\"}"));
        assert!(!complete("{\n"));
        assert!(!complete("{\"a\": {\"b\": 1},\n"));
    }
}
