//! `metalab-store put`

use super::text::Brackets;
use super::{Context, Failure, Outcome};
use metalab_store::types::Expectation;
use metalab_store::{Error, Store};
use serde_json::json;
use std::io::{self, BufRead, Cursor, IsTerminal, Read, Write};

/// How many bytes of lines are passed on at once.
const BATCH: usize = 4 << 20;

/// How many bytes a record may have, as the store has it.
const MAX_RECORD: usize = 64 << 20;

pub(super) fn run(context: &mut Context) -> Outcome {
    let mut input = io::stdin().lock();
    if io::stdin().is_terminal() {
        context.remark("note", "reading run records as JSON from standard input");
    }
    let mut head = Vec::new();
    let mut number = 0;
    while head.trim_ascii().is_empty() {
        head.clear();
        number += 1;
        if (&mut input)
            .take(MAX_RECORD as u64)
            .read_until(b'\n', &mut head)?
            == 0
        {
            return Err(Failure::Other(
                "invalid-argument",
                "nothing was read: pass a run record as JSON, or one a line".to_owned(),
            ));
        }
    }
    let store = context.writer()?;
    hint(context);
    let mut put = Put {
        context,
        store,
        listening: true,
        stored: 0,
        failed: 0,
    };
    let outcome = put.all(head, number, input);
    put.store.close()?;
    put.finish()?;
    outcome
}

/// Without an experiment, records go to the root itself; in a collection that is rarely what is meant.
fn hint(context: &Context) {
    let list = || context.config.list_experiments();
    if !context.config.is_scoped() && list().is_ok_and(|list| !list.experiments.is_empty()) {
        context.remark(
            "note",
            "writing to the collection's own directory; name an experiment with -e to write there",
        );
    }
}

/// Storing what is read, and what became of it.
struct Put<'a> {
    context: &'a mut Context,
    store: Store,
    /// Whether the output is still read by somebody. The records are stored in any case.
    listening: bool,
    stored: u64,
    failed: u64,
}

impl Put<'_> {
    /// Stores what is in the head and in the rest of the input.
    ///
    /// The head is the first line, of this number. If brackets are left open in it, either the input is one
    /// record spread over lines, or the line is damaged and the others may be sound.
    fn all(&mut self, mut head: Vec<u8>, number: u64, mut rest: impl BufRead) -> Outcome {
        if !balanced(&head) && head.len() < MAX_RECORD {
            let room = MAX_RECORD + 1 - head.len();
            (&mut rest).take(room as u64).read_to_end(&mut head)?;
            let outcome = record(&head)
                .and_then(|record| self.store.put_run_text(record, &Expectation::Anything));
            match outcome {
                Ok(revision) => return self.outcome(None, Ok(revision)),
                Err(_) if !balanced(&head) && head.split(|byte| *byte == b'\n').any(is_record) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.lines(Cursor::new(head).chain(rest), number)
    }

    /// Stores records that stand one a line, the first of them on the line of this number.
    fn lines(&mut self, mut input: impl BufRead, mut number: u64) -> Outcome {
        let mut batch = String::new();
        let mut numbers = Vec::new();
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = (&mut input)
                .take(MAX_RECORD as u64 + 1)
                .read_until(b'\n', &mut line)?;
            if line.len() > MAX_RECORD {
                input.skip_until(b'\n')?;
            }
            let record = record(&line);
            let length = line.len();
            if read == 0 || record.is_err() || batch.len() + length > BATCH {
                self.batch(&batch, &numbers)?;
                batch.clear();
                numbers.clear();
            }
            match record {
                _ if read == 0 => return Ok(()),
                Ok("") => {}
                Ok(record) => {
                    batch.push_str(record);
                    batch.push('\n');
                    numbers.push(number);
                }
                Err(error) => self.outcome(Some(number), Err(error))?,
            }
            number += 1;
        }
    }

    fn batch(&mut self, batch: &str, numbers: &[u64]) -> Outcome {
        if numbers.is_empty() {
            return Ok(());
        }
        let outcomes = self.store.put_run_lines(batch)?;
        for (number, outcome) in numbers.iter().zip(outcomes) {
            self.outcome(Some(*number), outcome)?;
        }
        Ok(())
    }

    /// Reports what became of a record, with the number of its line if it has one to itself.
    fn outcome(&mut self, line: Option<u64>, outcome: Result<String, Error>) -> Outcome {
        let report = match outcome {
            Ok(revision) => {
                self.stored += 1;
                json!({ "line": line, "revision": revision })
            }
            Err(error) => {
                self.failed += 1;
                let message = error.to_string();
                if !self.context.json {
                    let place = line
                        .map(|line| format!("line {line}: "))
                        .unwrap_or_default();
                    let failure = Failure::Other(error.code(), place + &message);
                    self.context.report(&failure);
                }
                json!({ "line": line, "error": { "code": error.code(), "message": message } })
            }
        };
        if self.context.json {
            self.print(&report.to_string())?;
        }
        Ok(())
    }

    fn print(&mut self, line: &str) -> io::Result<()> {
        if !self.listening {
            return Ok(());
        }
        match writeln!(self.context.out, "{line}") {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.listening = false;
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// Says how many records were stored.
    fn finish(&mut self) -> Outcome {
        if !self.context.json {
            let plural = if self.stored == 1 { "" } else { "s" };
            self.print(&format!("Stored {} run{plural}.", self.stored))?;
        }
        if self.failed == 0 {
            return Ok(());
        }
        let all = self.failed + self.stored;
        Err(Failure::Other(
            "failed",
            format!("{} of {all} records were not stored", self.failed),
        ))
    }
}

/// Returns a record's text without white space around it; it is empty if there is nothing else.
fn record(bytes: &[u8]) -> Result<&str, Error> {
    if bytes.len() > MAX_RECORD {
        return Err(Error::TooLarge(format!(
            "the record has more than {MAX_RECORD} bytes"
        )));
    }
    match str::from_utf8(bytes) {
        Ok(text) => Ok(text.trim()),
        Err(error) => Err(Error::InvalidArgument(format!(
            "the record is not UTF-8 at byte {}",
            error.valid_up_to()
        ))),
    }
}

/// Says whether all brackets of a text are closed.
fn balanced(text: &[u8]) -> bool {
    let mut brackets = Brackets::default();
    for byte in text {
        brackets.take(*byte);
    }
    brackets.balanced()
}

/// Says whether a line looks like a whole record.
fn is_record(line: &[u8]) -> bool {
    let line = line.trim_ascii();
    line.starts_with(b"{")
        && line.ends_with(b"}")
        && balanced(line)
        && line.windows(8).any(|name| name == b"\"run_id\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_on_one_line_is_told_from_the_first_line_of_a_longer_one() {
        assert!(balanced(b"{\"a\": {\"b\": [1]}}\n"));
        assert!(balanced(b"{\"a\": \"}{\\\"\"}"));
        assert!(!balanced(b"{\n"));
        assert!(!balanced(b"{\"a\": {\"b\": 1},\n"));
        assert!(!balanced(b"{\"a\": \"}"));
    }

    #[test]
    fn a_line_with_a_record_is_told_from_one_of_a_record_with_nested_objects() {
        assert!(is_record(b" {\"run_id\": \"a\"} \r"));
        assert!(!is_record(b"{\"a\": 1}"));
        assert!(!is_record(b"{\"run_id\": \"a\", \"status\""));
        assert!(!is_record(b"\"run_id\": \"a\""));
    }

    #[test]
    fn a_record_that_is_too_large_or_no_text_is_refused() {
        assert_eq!(record(b" {}\n").unwrap_or_default(), "{}");
        assert!(matches!(record(b"\xff"), Err(Error::InvalidArgument(_))));
        assert!(matches!(
            record(&vec![b' '; MAX_RECORD + 1]),
            Err(Error::TooLarge(_))
        ));
    }
}
