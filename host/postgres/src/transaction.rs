//! Transactions, and the cursors and COPYs in them.

use crate::connection::{Copy, RowSet, Statement, cursor_text};
use crate::failure::{Failure, FailureKind};
use crate::pool::{Lease, blocking};
use crate::value::Value;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

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

/// A transaction. Dropping it, with its cursors and COPYs, rolls back.
pub struct Transaction(Arc<Shared>);

struct Shared {
    lease: Mutex<Open>,
    timeout: Duration,
}

struct Open {
    /// None once the transaction is over.
    lease: Option<Lease>,
    cursors: u64,
    /// Whether a COPY is under way: nothing else can be asked then.
    copying: bool,
}

/// A cursor within a transaction.
pub struct Cursor {
    shared: Arc<Shared>,
    name: String,
    columns: Vec<String>,
    /// Rows that were fetched and did not fit on a page.
    rows: VecDeque<Vec<Value>>,
    ended: bool,
}

/// A running COPY. Dropping it before it is finished cancels it, and the transaction with it.
pub struct CopyWriter {
    shared: Arc<Shared>,
    copy: Option<Copy>,
}

impl Shared {
    fn open(&self) -> MutexGuard<'_, Open> {
        // A panic while the connection was used leaves the transaction to be rolled back, as any other end.
        self.lease.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run<T: Send>(
        &self,
        run: impl FnOnce(&mut crate::connection::Connection) -> Result<T, Failure> + Send,
    ) -> Result<T, Failure> {
        blocking(|| {
            let mut open = self.open();
            if open.copying {
                return Err(Failure::new(
                    FailureKind::Refused,
                    "a COPY is under way in this transaction; finish it first",
                ));
            }
            let Some(lease) = &mut open.lease else {
                return Err(over());
            };
            let answer = lease.run(run);
            if let Err(failure) = &answer
                && (failure.broke() || failure.kind == FailureKind::TooLarge)
            {
                open.lease = None;
            }
            answer
        })
    }
}

fn over() -> Failure {
    Failure::new(FailureKind::Refused, "the transaction is over")
}

impl Drop for Shared {
    fn drop(&mut self) {
        let lease = self.open().lease.take();
        if let Some(mut lease) = lease {
            blocking(move || {
                lease.roll_back();
                drop(lease);
            });
        }
    }
}

impl Transaction {
    pub(crate) fn new(lease: Lease, timeout: Duration) -> Self {
        Self(Arc::new(Shared {
            lease: Mutex::new(Open {
                lease: Some(lease),
                cursors: 0,
                copying: false,
            }),
            timeout,
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
        let committed = self.0.run(|connection| {
            let committed = connection.execute(
                &Statement {
                    sql: "COMMIT".to_owned(),
                    parameters: Vec::new(),
                },
                timeout,
                true,
            );
            committed.map(drop)
        });
        let lease = self.0.open().lease.take();
        if let Some(mut lease) = lease {
            blocking(|| {
                if committed.is_err() {
                    lease.roll_back();
                }
                drop(lease);
            });
        }
        committed
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
                self.fetch(max_rows.min(FETCH))?;
                continue;
            }
            if let Some(row) = self.rows.pop_front() {
                bytes += row.iter().map(Value::weight).sum::<usize>();
                page.rows.push(row);
            }
        }
        page.columns.clone_from(&self.columns);
        page.affected = page.rows.len() as u64;
        Ok(page)
    }

    fn fetch(&mut self, count: usize) -> Result<(), Failure> {
        let fetch = Statement {
            sql: format!("FETCH FORWARD {count} FROM {}", self.name),
            parameters: Vec::new(),
        };
        let timeout = self.shared.timeout;
        let rows = u32::try_from(count).unwrap_or(u32::MAX);
        let set = self
            .shared
            .run(|connection| connection.query(&fetch, rows, timeout, true))?;
        self.ended = set.rows.len() < count;
        self.columns = set.columns;
        self.rows.extend(set.rows);
        Ok(())
    }
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
            if answer.as_ref().is_err_and(Failure::broke) {
                open.lease = None;
            }
            answer
        })
    }
}

impl Drop for CopyWriter {
    fn drop(&mut self) {
        if self.copy.take().is_some() {
            // The server is told that it failed; what it still answers is nobody's.
            let mut open = self.shared.open();
            open.copying = false;
            if let Some(lease) = &mut open.lease {
                lease.discard();
            }
            let lease = open.lease.take();
            drop(open);
            drop(lease);
        }
    }
}
