//! One connection, with a runtime of its own: it is driven by whoever waits for an answer, and by nobody else.

use crate::failure::{Failure, FailureKind};
use crate::settings::Settings;
use crate::text::{self, Place};
use crate::value::{self, Raw, Value};
use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::{SinkExt, TryStreamExt};
use std::cell::Cell;
use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, CopyInSink, Statement as Prepared};
use tokio_postgres_rustls::MakeRustlsConnect;

/// How many prepared statements a connection keeps.
const PREPARED: usize = 64;

/// How long a cancelled statement may take to end before the connection is given up.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How much longer than the server we wait: a statement that the server cancels leaves a good connection.
const GRACE: Duration = Duration::from_secs(2);

/// Ends what others that use the connection later must not find.
const RESET: &str = "ROLLBACK; CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ALL; UNLISTEN *; \
                     SELECT pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES";

/// A statement with parameters `$1`, `$2`, ….
#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    /// The text.
    pub sql: String,
    /// The parameters.
    pub parameters: Vec<Value>,
}

/// Rows of a result.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowSet {
    /// The columns' names.
    pub columns: Vec<String>,
    /// The rows.
    pub rows: Vec<Vec<Value>>,
    /// The rows that the statement changed or returned.
    pub affected: u64,
}

/// A running COPY.
pub(crate) type Copy = Pin<Box<CopyInSink<Bytes>>>;

/// Answers to statements that were sent.
pub(crate) type Answers = Pin<Box<dyn Future<Output = Result<(), Failure>> + Send>>;

/// A connection.
pub(crate) struct Connection {
    /// Taken when the connection ends: dropping a runtime where it may not be dropped panics.
    runtime: Option<Runtime>,
    client: Arc<Client>,
    tls: MakeRustlsConnect,
    prepared: VecDeque<(String, Prepared)>,
    max_answer: usize,
    /// How long the server lets a statement outside a transaction take, if it is told.
    session_timeout: Option<Duration>,
    /// Whether something may be left in the session.
    has_traces: bool,
    /// Whether a cancellation was sent: it may hit a later statement.
    cancelled: Cell<bool>,
    /// Whether the server did not answer in time, not even to that.
    mute: Cell<bool>,
    /// When it was last used.
    pub(crate) used: Instant,
}

impl Connection {
    /// Connects within the time that the settings give.
    pub(crate) fn open(settings: &Settings, tls: &MakeRustlsConnect) -> Result<Self, Failure> {
        let config = settings.config()?;
        let runtime = Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(|error| Failure::new(FailureKind::Unreachable, error.to_string()))?;
        // The driver's own limit is for reaching an address, and not for what the server does then. Each host
        // has its time, so that a silent one does not keep from the next.
        let hosts = u32::try_from(settings.hosts.len().max(1)).unwrap_or(u32::MAX);
        let patience = settings.connect_timeout.saturating_mul(hosts);
        let connected = runtime
            .block_on(async { tokio::time::timeout(patience, config.connect(tls.clone())).await });
        let (client, connection) = match connected {
            Ok(Ok(connected)) => connected,
            failed => {
                runtime.shutdown_background();
                return Err(match failed {
                    Ok(Err(error)) => Failure::to_connect(&error),
                    _ => Failure::new(
                        FailureKind::Unreachable,
                        format!(
                            "no connection could be made within {} ms",
                            patience.as_millis()
                        ),
                    ),
                });
            }
        };
        runtime.spawn(async move {
            // Why it ended is told to whoever waits for an answer.
            drop(connection.await);
        });
        let mut connection = Self {
            runtime: Some(runtime),
            client: Arc::new(client),
            tls: tls.clone(),
            prepared: VecDeque::new(),
            max_answer: settings.max_answer,
            session_timeout: settings
                .tells_timeout()
                .then_some(settings.statement_timeout),
            has_traces: false,
            cancelled: Cell::new(false),
            mute: Cell::new(false),
            used: Instant::now(),
        };
        let session = connection.session();
        connection.simple(&session, settings.connect_timeout)?;
        Ok(connection)
    }

    /// Makes the text that a new session begins with.
    fn session(&self) -> String {
        let mut text = PLANS.to_owned();
        if let Some(timeout) = self.session_timeout {
            text.push_str("; ");
            text.push_str(&set_timeout("SESSION", timeout));
        }
        text
    }

    /// Makes the connection as good as new, if it may not be.
    pub(crate) fn reset(&mut self, timeout: Duration) -> Result<(), Failure> {
        if !self.has_traces {
            return Ok(());
        }
        let reset = format!("{RESET}; {}", self.session());
        self.simple(&reset, timeout)?;
        self.has_traces = false;
        Ok(())
    }

    /// Begins a transaction whose statements may take so long.
    pub(crate) fn begin(&mut self, begin: &str, timeout: Duration) -> Result<(), Failure> {
        if self.session_timeout.is_none() {
            return self.simple(begin, timeout);
        }
        let both = format!("{begin}; {}", set_timeout("LOCAL", timeout));
        self.simple(&both, timeout)
    }

    /// Begins a transaction and sends statements in it. What the server answers is waited for later.
    pub(crate) fn start(
        &mut self,
        begin: String,
        statements: Vec<Statement>,
        timeout: Duration,
    ) -> Result<Answers, Failure> {
        self.used = Instant::now();
        let mut all = Vec::with_capacity(statements.len());
        for statement in statements {
            text::check(&statement.sql, Place::Within)?;
            let prepared = self.prepare_now(&statement.sql, timeout)?;
            value::check(&statement.parameters, prepared.params())?;
            all.push((prepared, statement.parameters));
        }
        let client = Arc::clone(&self.client);
        let mut answers: Answers = Box::pin(async move {
            let begin = client.batch_execute(&begin);
            let run = join_all(
                all.iter()
                    .map(|(prepared, parameters)| client.execute_raw(prepared, slice(parameters))),
            );
            // They are polled, and so sent, in this order.
            let (begun, ran) = futures_util::join!(begin, run);
            let done = begun.and_then(|()| ran.into_iter().try_for_each(|ran| ran.map(drop)));
            done.map_err(|error| Failure::of(&error))
        });
        let Some(runtime) = &self.runtime else {
            return Err(over());
        };
        runtime.block_on(async {
            if let Poll::Ready(answered) = futures_util::poll!(answers.as_mut()) {
                answered?;
                answers = Box::pin(async { Ok(()) });
            }
            let_others_go_on().await;
            Ok(())
        })?;
        Ok(answers)
    }

    /// Waits for what the server answers.
    pub(crate) fn answered(&mut self, answers: Answers, timeout: Duration) -> Result<(), Failure> {
        let answered = self.wait(timeout, answers);
        self.forget_stale(answered)
    }

    /// Commits, and waits for what the server still has to answer to the statements before. If one of them failed,
    /// the server rolls back.
    pub(crate) fn commit(
        &mut self,
        answers: Option<Answers>,
        timeout: Duration,
    ) -> Result<(), Failure> {
        self.used = Instant::now();
        let client = &self.client;
        let committed = self.wait(timeout, async {
            let before = async {
                match answers {
                    None => Ok(()),
                    Some(answers) => answers.await,
                }
            };
            let (answered, committed) = futures_util::join!(before, client.batch_execute("COMMIT"));
            answered?;
            committed.map_err(|error| Failure::of(&error))
        });
        self.forget_stale(committed)
    }

    /// Lets all statements be prepared anew after a plan was found stale.
    fn forget_stale<T>(&mut self, answer: Result<T, Failure>) -> Result<T, Failure> {
        if answer.as_ref().is_err_and(is_stale) {
            self.prepared.clear();
        }
        answer
    }

    /// Says whether the connection is over, after a look at what the server may have said meanwhile.
    pub(crate) fn is_over(&self) -> bool {
        if let Some(runtime) = &self.runtime {
            runtime.block_on(let_others_go_on());
        }
        self.client.is_closed() || self.was_cancelled()
    }

    /// Says whether a cancellation was sent, which may hit a later statement.
    pub(crate) fn was_cancelled(&self) -> bool {
        self.cancelled.get()
    }

    /// Says whether the server did not answer in time, not even to a cancellation.
    pub(crate) fn is_mute(&self) -> bool {
        self.mute.get()
    }

    /// Waits for an answer, at most until a deadline; then the statement is cancelled.
    fn wait<T>(
        &self,
        timeout: Duration,
        answer: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let Some(runtime) = &self.runtime else {
            return Err(over());
        };
        runtime.block_on(async {
            let mut answer = pin!(answer);
            let patience = timeout.saturating_add(GRACE);
            if let Ok(answer) = tokio::time::timeout(patience, answer.as_mut()).await {
                return answer;
            }
            self.cancelled.set(true);
            let token = self.client.cancel_token();
            let cancel = token.cancel_query(self.tls.clone());
            let cancelled = tokio::time::timeout(LAST_WORDS, cancel).await.is_ok();
            let late = format!("the statement took longer than {} ms", timeout.as_millis());
            let mut failure = Failure::new(FailureKind::TimedOut, late);
            if cancelled && let Ok(answer) = tokio::time::timeout(LAST_WORDS, answer).await {
                // It may have been done after all.
                return match answer {
                    Ok(answer) => Ok(answer),
                    Err(_) => Err(failure),
                };
            }
            failure.outcome_unknown = true;
            self.mute.set(true);
            Err(failure)
        })
    }

    /// Returns a prepared statement; one that was used lately is ready.
    async fn prepare(&mut self, sql: &str) -> Result<Prepared, Failure> {
        if let Some(at) = self.prepared.iter().position(|(known, _)| known == sql)
            && let Some(entry) = self.prepared.remove(at)
        {
            let prepared = entry.1.clone();
            self.prepared.push_front(entry);
            return Ok(prepared);
        }
        let prepared = self.client.prepare(sql).await;
        let prepared = prepared.map_err(|error| Failure::of(&error))?;
        if text::leaves_traces(sql) {
            // Such statements are not kept: each time, it is seen that they were run.
            self.has_traces = true;
            return Ok(prepared);
        }
        self.prepared.truncate(PREPARED - 1);
        self.prepared.push_front((sql.to_owned(), prepared.clone()));
        Ok(prepared)
    }

    /// Runs something with a prepared statement. A plan that a change of the tables made stale is made anew,
    /// unless a transaction was lost by it.
    fn run<T>(
        &mut self,
        statement: &Statement,
        timeout: Duration,
        within: bool,
        run: impl AsyncFn(&Client, &Prepared, usize) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        text::check(&statement.sql, place(within))?;
        self.used = Instant::now();
        let max_answer = self.max_answer;
        for attempt in 0..2 {
            let fresh = attempt > 0;
            let prepared = self.prepare_now(&statement.sql, timeout)?;
            value::check(&statement.parameters, prepared.params())?;
            let answer = self.wait(timeout, run(&self.client, &prepared, max_answer));
            match answer {
                Err(failure) if is_stale(&failure) => {
                    self.forget(&statement.sql);
                    if fresh || within {
                        return Err(failure);
                    }
                }
                answer => return answer,
            }
        }
        Err(Failure::new(
            FailureKind::Refused,
            "the statement's plan is stale",
        ))
    }

    fn prepare_now(&mut self, sql: &str, timeout: Duration) -> Result<Prepared, Failure> {
        let Some(runtime) = self.runtime.take() else {
            return Err(over());
        };
        let prepared =
            runtime.block_on(async { tokio::time::timeout(timeout, self.prepare(sql)).await });
        self.runtime = Some(runtime);
        prepared.unwrap_or_else(|_| {
            self.mute.set(true);
            Err(Failure::new(
                FailureKind::TimedOut,
                format!(
                    "the server did not answer within {} ms",
                    timeout.as_millis()
                ),
            ))
        })
    }

    /// Runs a query.
    pub(crate) fn query(
        &mut self,
        statement: &Statement,
        max_rows: u32,
        timeout: Duration,
        within: bool,
    ) -> Result<RowSet, Failure> {
        let parameters = &statement.parameters;
        self.run(
            statement,
            timeout,
            within,
            async |client, prepared, max_answer| {
                read_all(client, prepared, parameters, max_rows, max_answer).await
            },
        )
    }

    /// Fetches the next rows of a cursor. The statement is not kept: the same text means other columns in
    /// another transaction.
    pub(crate) fn fetch(
        &mut self,
        name: &str,
        count: u32,
        timeout: Duration,
    ) -> Result<RowSet, Failure> {
        self.used = Instant::now();
        let client = &self.client;
        let max_answer = self.max_answer;
        self.wait(timeout, async {
            let fetch = format!("FETCH FORWARD {count} FROM {name}");
            let prepared = client.prepare(&fetch).await;
            let prepared = prepared.map_err(|error| Failure::of(&error))?;
            read_all(client, &prepared, &[], count, max_answer).await
        })
    }

    fn forget(&mut self, sql: &str) {
        self.prepared.retain(|(known, _)| known != sql);
    }

    /// Runs a statement.
    pub(crate) fn execute(
        &mut self,
        statement: &Statement,
        timeout: Duration,
        within: bool,
    ) -> Result<u64, Failure> {
        let parameters = &statement.parameters;
        self.run(statement, timeout, within, async |client, prepared, _| {
            client
                .execute_raw(prepared, slice(parameters))
                .await
                .map_err(|error| Failure::of(&error))
        })
    }

    /// Runs statements pipelined: all are sent before the first answer is waited for. Outside a transaction
    /// they are one.
    pub(crate) fn batch(
        &mut self,
        statements: &[Statement],
        timeout: Duration,
        within: bool,
    ) -> Result<Vec<u64>, Failure> {
        for statement in statements {
            text::check(&statement.sql, place(within))?;
        }
        let done = self.batch_once(statements, timeout, within);
        let Err(failure) = &done else {
            return done;
        };
        if !is_stale(failure) {
            return done;
        }
        for statement in statements {
            self.forget(&statement.sql);
        }
        if within {
            return done;
        }
        // Nothing was done: all or none.
        self.batch_once(statements, timeout, within)
    }

    fn batch_once(
        &mut self,
        statements: &[Statement],
        timeout: Duration,
        within: bool,
    ) -> Result<Vec<u64>, Failure> {
        self.used = Instant::now();
        let mut all = Vec::with_capacity(statements.len());
        for statement in statements {
            let prepared = self.prepare_now(&statement.sql, timeout)?;
            value::check(&statement.parameters, prepared.params())?;
            all.push((prepared, statement));
        }
        // One statement is a transaction of its own.
        let within = within || all.len() < 2;
        let client = &self.client;
        self.wait(timeout, async {
            let begin = async {
                if within {
                    return Ok(());
                }
                client.batch_execute("BEGIN").await
            };
            let run = join_all(all.iter().map(|(prepared, statement)| {
                client.execute_raw(prepared, slice(&statement.parameters))
            }));
            let commit = async {
                if within {
                    return Ok(());
                }
                client.batch_execute("COMMIT").await
            };
            // They are polled, and so sent, in this order.
            let (begun, ran, committed) = futures_util::join!(begin, run, commit);
            begun.map_err(|error| Failure::of(&error))?;
            // The first one that failed says why; those after it were not run.
            let counts: Result<Vec<u64>, _> = ran.into_iter().collect();
            let counts = counts.map_err(|error| Failure::of(&error))?;
            committed.map_err(|error| Failure::of(&error))?;
            Ok(counts)
        })
    }

    /// Runs a text without parameters or rows.
    pub(crate) fn simple(&mut self, sql: &str, timeout: Duration) -> Result<(), Failure> {
        self.used = Instant::now();
        let client = &self.client;
        self.wait(timeout, async {
            client
                .batch_execute(sql)
                .await
                .map_err(|error| Failure::of(&error))
        })
    }

    /// Ends a COPY that failed, so that the connection can be used again.
    pub(crate) fn abandon(&mut self, copy: Copy, timeout: Duration) -> Result<(), Failure> {
        // The driver tells the server when it is dropped; the answer to the next statement comes after that.
        drop(copy);
        self.simple("", timeout)
    }

    /// Begins a COPY.
    pub(crate) fn copy_in(&mut self, sql: &str, timeout: Duration) -> Result<Copy, Failure> {
        text::check(sql, Place::Copy)?;
        self.used = Instant::now();
        let client = &self.client;
        self.wait(timeout, async {
            let sink = client
                .copy_in(sql)
                .await
                .map_err(|error| Failure::of(&error))?;
            Ok(Box::pin(sink))
        })
    }

    /// Sends a piece of a COPY.
    pub(crate) fn copy(
        &mut self,
        copy: &mut Copy,
        lines: &str,
        timeout: Duration,
    ) -> Result<(), Failure> {
        let lines = Bytes::copy_from_slice(lines.as_bytes());
        self.wait(timeout, async {
            match copy.send(lines).await {
                Ok(()) => Ok(()),
                // The server has ended it, and says why when it is asked for the number of rows.
                Err(error) => Err(match copy.as_mut().finish().await {
                    Err(reason) if reason.as_db_error().is_some() => Failure::of(&reason),
                    _ => Failure::of(&error),
                }),
            }
        })
    }

    /// Ends a COPY.
    pub(crate) fn finish(&mut self, copy: &mut Copy, timeout: Duration) -> Result<u64, Failure> {
        self.wait(timeout, async {
            copy.as_mut()
                .finish()
                .await
                .map_err(|error| Failure::of(&error))
        })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Statements are planned for their parameters each time: a plan for any parameters may be a hundred times slower,
/// and planning takes less than a round trip.
const PLANS: &str = "SET SESSION plan_cache_mode = force_custom_plan";

fn over() -> Failure {
    Failure::new(FailureKind::Disconnected, "the connection is over")
}

/// Lets what drives the connection send and receive what can be at once.
async fn let_others_go_on() {
    for _ in 0..3 {
        tokio::task::yield_now().await;
    }
}

fn place(within: bool) -> Place {
    if within { Place::Within } else { Place::Alone }
}

/// Makes the statement that tells the server how long statements may take.
fn set_timeout(scope: &str, timeout: Duration) -> String {
    // Zero would mean: as long as it wants.
    let millis = timeout.as_millis().clamp(1, 2_147_483_647);
    format!("SET {scope} statement_timeout = {millis}")
}

/// Runs a prepared query and reads its rows, while they are not too many.
async fn read_all(
    client: &Client,
    prepared: &Prepared,
    parameters: &[Value],
    max_rows: u32,
    max_answer: usize,
) -> Result<RowSet, Failure> {
    /// A row without columns takes memory too.
    const ROW: usize = 24;
    let of = |error| Failure::of(&error);
    let rows = client.query_raw(prepared, slice(parameters)).await;
    let mut rows = pin!(rows.map_err(of)?);
    let columns = prepared.columns();
    let mut set = RowSet {
        columns: columns
            .iter()
            .map(|column| column.name().to_owned())
            .collect(),
        ..RowSet::default()
    };
    let mut bytes = 0;
    while let Some(row) = rows.try_next().await.map_err(of)? {
        if set.rows.len() as u64 >= u64::from(max_rows) {
            return Err(Failure::new(
                FailureKind::TooLarge,
                format!("the answer has more than {max_rows} rows"),
            ));
        }
        bytes += ROW;
        let mut values = Vec::with_capacity(columns.len());
        for (index, column) in columns.iter().enumerate() {
            let raw: Raw<'_> = row.get(index);
            let value = value::read(&raw, column.name(), column.type_())?;
            bytes += value.weight();
            values.push(value);
        }
        if bytes > max_answer {
            return Err(Failure::new(
                FailureKind::TooLarge,
                format!("the answer has more than {max_answer} bytes; ask for fewer rows"),
            ));
        }
        set.rows.push(values);
    }
    set.affected = rows.rows_affected().unwrap_or(set.rows.len() as u64);
    Ok(set)
}

/// Says whether a prepared statement is to be prepared anew: the tables were changed, or the server forgot it.
fn is_stale(failure: &Failure) -> bool {
    matches!(failure.sqlstate.as_deref(), Some("0A000" | "26000"))
}

fn slice(values: &[Value]) -> impl ExactSizeIterator<Item = &(dyn ToSql + Sync)> {
    values.iter().map(|value| value as &(dyn ToSql + Sync))
}

/// What a statement that begins a cursor has in front of its text.
pub(crate) fn cursor_text(name: &str, sql: &str) -> String {
    format!("DECLARE {name} NO SCROLL CURSOR FOR {sql}")
}
