//! Transactions, and the cursors and COPYs in them.

use crate::connection::{Answers, Copy, RowSet, Statement, cursor_text};
use crate::failure::{Failure, FailureKind};
use crate::pool::{Lease, blocking};
use crate::settings::Settings;
use crate::value::Value;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// How many rows are fetched at once, at most.
const FETCH: usize = 512;

/// How a transaction sees others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Each statement sees what was committed before it.
    ReadCommitted,
    /// All statements see what was committed before the first.
    RepeatableRead,
    /// As if transactions ran one after the other.
    Serializable,
}

impl Isolation {
    pub(crate) fn begin(self, read_only: bool) -> String {
        let level = match self {
            Self::ReadCommitted => "READ COMMITTED",
            Self::RepeatableRead => "REPEATABLE READ",
            Self::Serializable => "SERIALIZABLE",
        };
        let access = if read_only { "READ ONLY" } else { "READ WRITE" };
        format!("BEGIN ISOLATION LEVEL {level} {access}")
    }
}

/// A transaction. Dropping it rolls back, also while its cursors and COPYs are held.
pub struct Transaction(Arc<Held>);

/// A transaction that is held, by itself or by a cursor or a COPY.
pub(crate) struct Held {
    lease: Mutex<Open>,
    timeout: Duration,
    begun: Instant,
    max_age: Duration,
}

struct Open {
    /// None once the transaction is over.
    lease: Option<Lease>,
    /// What the server still has to answer to the first statements.
    answers: Option<Answers>,
    cursors: u64,
    /// Whether a COPY is under way: nothing else can be asked then.
    copying: bool,
    /// Why it cannot be committed any more: the server rolls back what is committed nevertheless.
    failed: Option<Failure>,
}

impl Open {
    /// Runs something on the connection.
    fn on_connection<T>(
        &mut self,
        run: impl FnOnce(&mut crate::connection::Connection) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        match &mut self.lease {
            None => Err(over()),
            Some(lease) => lease.run(run),
        }
    }

    /// Notes what became of a statement.
    fn note<T>(&mut self, answer: Result<T, Failure>) -> Result<T, Failure> {
        match answer {
            Ok(answer) => {
                // Only a return to a savepoint is done after a failure, and mends it.
                self.failed = None;
                Ok(answer)
            }
            Err(mut failure) => {
                // What is not committed has no effect.
                failure.outcome_unknown = false;
                if failure.broke() {
                    self.lease = None;
                } else if failure.sqlstate.is_some() && self.failed.is_none() {
                    self.failed = Some(failure.clone());
                }
                Err(failure)
            }
        }
    }
}

/// A cursor within a transaction.
pub struct Cursor {
    shared: Arc<Held>,
    name: String,
    columns: Vec<String>,
    /// Rows that were fetched and did not fit on a page.
    rows: VecDeque<Vec<Value>>,
    /// How many rows were asked for last.
    fetched: usize,
    /// How many bytes the largest of them had.
    largest: usize,
    ended: bool,
}

/// A running COPY. Dropping it before it is finished cancels it, and the transaction with it.
pub struct CopyWriter {
    shared: Arc<Held>,
    copy: Option<Copy>,
}

impl Held {
    fn open(&self) -> MutexGuard<'_, Open> {
        // A panic while the connection was used leaves the transaction to be rolled back, as any other end.
        self.lease.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run<T: Send>(
        &self,
        run: impl FnOnce(&mut crate::connection::Connection) -> Result<T, Failure> + Send,
    ) -> Result<T, Failure> {
        blocking(|| {
            self.end_if_old();
            let mut open = self.open();
            if open.copying {
                return Err(Failure::new(
                    FailureKind::Refused,
                    "a COPY is under way in this transaction; finish it first",
                ));
            }
            if let Some(answers) = open.answers.take() {
                let answered =
                    open.on_connection(|connection| connection.answered(answers, self.timeout));
                open.note(answered)?;
            }
            let answer = open.on_connection(run);
            open.note(answer)
        })
    }

    /// Ends the transaction if it is open for longer than it may be and is not used at this moment.
    pub(crate) fn end_if_old(&self) -> bool {
        if self.begun.elapsed() <= self.max_age {
            return false;
        }
        let lease = match self.lease.try_lock() {
            Ok(mut open) => open.lease.take(),
            Err(_) => None,
        };
        let ended = lease.is_some();
        end(lease);
        ended
    }
}

/// Rolls back, and gives the connection back.
fn end(lease: Option<Lease>) {
    if let Some(mut lease) = lease {
        blocking(move || {
            lease.roll_back();
            drop(lease);
        });
    }
}

fn over() -> Failure {
    Failure::new(FailureKind::Refused, "the transaction is over")
}

impl Drop for Held {
    fn drop(&mut self) {
        let lease = self.open().lease.take();
        end(lease);
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        // Cursors and COPYs that are still held do not keep it.
        let (lease, copying) = {
            let mut open = self.0.open();
            (open.lease.take(), open.copying)
        };
        match lease {
            // It cannot be asked for anything before the COPY ends.
            Some(mut lease) if copying => lease.discard(),
            lease => end(lease),
        }
    }
}

impl Transaction {
    pub(crate) fn held(&self) -> Weak<Held> {
        Arc::downgrade(&self.0)
    }

    pub(crate) fn new(
        lease: Lease,
        answers: Option<Answers>,
        timeout: Duration,
        settings: &Settings,
    ) -> Self {
        Self(Arc::new(Held {
            lease: Mutex::new(Open {
                lease: Some(lease),
                answers,
                cursors: 0,
                copying: false,
                failed: None,
            }),
            timeout,
            begun: Instant::now(),
            max_age: settings.transaction_max_age,
        }))
    }

    /// Runs a query. More than `max_rows` rows are [`FailureKind::TooLarge`], and end the transaction.
    ///
    /// # Errors
    /// Why it failed.
    pub fn query(&self, statement: &Statement, max_rows: u32) -> Result<RowSet, Failure> {
        let timeout = self.0.timeout;
        self.0
            .run(|connection| connection.query(statement, max_rows, timeout, true))
    }

    /// Runs a statement and returns the number of rows changed.
    ///
    /// # Errors
    /// Why it failed.
    pub fn execute(&self, statement: &Statement) -> Result<u64, Failure> {
        let timeout = self.0.timeout;
        self.0
            .run(|connection| connection.execute(statement, timeout, true))
    }

    /// Runs statements pipelined. Returns the rows changed by each.
    ///
    /// # Errors
    /// Why the first one that failed did.
    pub fn batch(&self, statements: &[Statement]) -> Result<Vec<u64>, Failure> {
        let timeout = self.0.timeout;
        self.0
            .run(|connection| connection.batch(statements, timeout, true))
    }

    /// Opens a cursor.
    ///
    /// # Errors
    /// Why it could not be opened.
    pub fn open_cursor(&self, statement: &Statement) -> Result<Cursor, Failure> {
        let number = {
            let mut open = self.0.open();
            open.cursors += 1;
            open.cursors
        };
        let name = format!("metalab_store_{number}");
        let declare = Statement {
            sql: cursor_text(&name, &statement.sql),
            parameters: statement.parameters.clone(),
        };
        self.execute(&declare)?;
        Ok(Cursor {
            shared: Arc::clone(&self.0),
            name,
            columns: Vec::new(),
            rows: VecDeque::new(),
            fetched: 1,
            largest: 0,
            ended: false,
        })
    }

    /// Begins a `COPY … FROM STDIN` in text format.
    ///
    /// # Errors
    /// Why it could not begin.
    pub fn copy_in(&self, sql: &str) -> Result<CopyWriter, Failure> {
        let timeout = self.0.timeout;
        let copy = self.0.run(|connection| connection.copy_in(sql, timeout))?;
        self.0.open().copying = true;
        Ok(CopyWriter {
            shared: Arc::clone(&self.0),
            copy: Some(copy),
        })
    }

    /// Commits. The transaction is over afterwards, also when this fails.
    ///
    /// # Errors
    /// Why it failed; whether it was committed may be unknown then.
    pub fn commit(&self) -> Result<(), Failure> {
        let timeout = self.0.timeout;
        blocking(|| {
            self.0.end_if_old();
            let (lease, answers, failed, copying) = {
                let mut open = self.0.open();
                (
                    open.lease.take(),
                    open.answers.take(),
                    open.failed.take(),
                    open.copying,
                )
            };
            let mut lease = lease.ok_or_else(over)?;
            if copying {
                lease.discard();
                return Err(Failure::new(
                    FailureKind::Refused,
                    "the transaction was rolled back, because a COPY in it was not finished",
                ));
            }
            if let Some(mut failure) = failed {
                end(Some(lease));
                failure.message = format!(
                    "the transaction was rolled back, because a statement in it had failed: {}",
                    failure.message
                );
                return Err(failure);
            }
            let committed = lease.run(|connection| connection.commit(answers, timeout));
            if committed.is_err() {
                end(Some(lease));
            }
            committed
        })
    }
}

impl Cursor {
    /// Returns the next rows: at most `max_rows`, and no more once they have `max_bytes`. An empty page is the
    /// end.
    ///
    /// # Errors
    /// Why they could not be fetched.
    pub fn next(&mut self, max_rows: u32, max_bytes: u32) -> Result<RowSet, Failure> {
        let max_rows = usize::try_from(max_rows.max(1)).unwrap_or(usize::MAX);
        let max_bytes = usize::try_from(max_bytes).unwrap_or(usize::MAX);
        let mut page = RowSet::default();
        let mut bytes = 0;
        while page.rows.len() < max_rows && (page.rows.is_empty() || bytes < max_bytes) {
            if self.rows.is_empty() {
                if self.ended {
                    break;
                }
                self.fetch(max_rows, max_bytes.saturating_sub(bytes))?;
                continue;
            }
            if let Some(row) = self.rows.pop_front() {
                bytes += weight(&row);
                page.rows.push(row);
            }
        }
        page.columns.clone_from(&self.columns);
        page.affected = page.rows.len() as u64;
        Ok(page)
    }

    /// Fetches as many rows as there is room for, by the largest of the last ones. It begins with one.
    fn fetch(&mut self, max_rows: usize, max_bytes: usize) -> Result<(), Failure> {
        let room = max_bytes.checked_div(self.largest).unwrap_or(1);
        let count = room
            .min(self.fetched.saturating_mul(2))
            .min(max_rows)
            .clamp(1, FETCH);
        let timeout = self.shared.timeout;
        let rows = u32::try_from(count).unwrap_or(u32::MAX);
        let set = self
            .shared
            .run(|connection| connection.fetch(&self.name, rows, timeout))?;
        self.ended = set.rows.len() < count;
        self.fetched = count;
        let largest = set.rows.iter().map(|row| weight(row)).max();
        self.largest = largest.unwrap_or_default().max(1);
        self.columns = set.columns;
        self.rows.extend(set.rows);
        Ok(())
    }
}

fn weight(row: &[Value]) -> usize {
    row.iter().map(Value::weight).sum()
}

impl CopyWriter {
    /// Sends lines.
    ///
    /// # Errors
    /// Why they could not be sent.
    pub fn write(&mut self, lines: &str) -> Result<(), Failure> {
        let timeout = self.shared.timeout;
        self.with(|connection, copy| connection.copy(copy, lines, timeout))
    }

    /// Ends the COPY and returns the number of rows.
    ///
    /// # Errors
    /// Why the server refused it.
    pub fn finish(&mut self) -> Result<u64, Failure> {
        let timeout = self.shared.timeout;
        let finished = self.with(|connection, copy| connection.finish(copy, timeout));
        self.copy = None;
        self.shared.open().copying = false;
        finished
    }

    fn with<T: Send>(
        &mut self,
        run: impl FnOnce(&mut crate::connection::Connection, &mut Copy) -> Result<T, Failure> + Send,
    ) -> Result<T, Failure> {
        let Some(copy) = &mut self.copy else {
            return Err(over());
        };
        let shared = &self.shared;
        blocking(|| {
            let mut open = shared.open();
            let Some(lease) = &mut open.lease else {
                return Err(over());
            };
            let answer = lease.run(|connection| run(connection, copy));
            open.note(answer)
        })
    }
}

impl Drop for CopyWriter {
    fn drop(&mut self) {
        let Some(copy) = self.copy.take() else {
            return;
        };
        let shared = &self.shared;
        blocking(move || {
            let mut open = shared.open();
            open.copying = false;
            if let Some(lease) = &mut open.lease {
                let timeout = shared.timeout;
                let abandoned = lease.run(|connection| connection.abandon(copy, timeout));
                if abandoned.is_err_and(|failure| failure.broke()) {
                    open.lease = None;
                }
                open.failed = Some(Failure::new(
                    FailureKind::Refused,
                    "a COPY in it was not finished",
                ));
            }
        });
    }
}
