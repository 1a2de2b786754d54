//! The pool: at most so many connections, each given to one caller at a time.

use crate::connection::{Connection, RowSet, Statement};
use crate::failure::{Failure, FailureKind};
use crate::settings::Settings;
use crate::tls;
use crate::transaction::{Held, Isolation, Transaction};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio_postgres_rustls::MakeRustlsConnect;

/// After being idle for so long a connection is asked whether it is still there before it is given out.
const IDLE: Duration = Duration::from_secs(20);

/// How long a connection beyond the least number may be idle before it is closed.
const SURPLUS: Duration = Duration::from_mins(1);

/// How long a caller waits for a connection to a server that did not answer before.
const PROMPT: Duration = Duration::from_millis(40);

/// How long that question, and the end of a transaction that nobody waits for, may take.
const SHORT: Duration = Duration::from_secs(5);

/// Connections to one database. Cheap to clone; threads may use it at once.
#[derive(Clone)]
pub struct Pool(Arc<Inner>);

struct Inner {
    settings: Settings,
    tls: MakeRustlsConnect,
    state: Mutex<State>,
    returned: Condvar,
    /// The transactions that are open.
    begun: Mutex<Vec<Weak<Held>>>,
}

#[derive(Default)]
struct State {
    /// The one used last at the end.
    idle: Vec<Connection>,
    /// All there are: idle, given out, or being made.
    open: usize,
    /// Why the server did not answer last, if it did not.
    silence: Option<Failure>,
    /// Whether a thread tries to reach it again.
    trying: bool,
    closed: bool,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool")
            .field("settings", &self.0.settings)
            .finish_non_exhaustive()
    }
}

impl Pool {
    /// Makes a pool. No connection is made before the first is needed.
    ///
    /// # Errors
    /// If the settings cannot be obeyed: a parameter, or the file with the certificates to trust.
    pub fn new(mut settings: Settings) -> Result<Self, Failure> {
        settings.max_size = settings.max_size.max(1);
        settings.config()?;
        let tls = tls::connector(&settings)?;
        Ok(Self(Arc::new(Inner {
            settings,
            tls,
            state: Mutex::default(),
            returned: Condvar::new(),
            begun: Mutex::default(),
        })))
    }

    /// Returns how many connections there are: idle, in use, and being made.
    #[must_use]
    pub fn size(&self) -> usize {
        self.0.state().open
    }

    /// Closes the connections that are idle, and each other one when it comes back.
    pub fn close(&self) {
        let mut state = self.0.state();
        state.closed = true;
        let idle = std::mem::take(&mut state.idle);
        state.open -= idle.len();
        drop(state);
        self.0.returned.notify_all();
        // Outside of the lock: it talks to the server.
        drop(idle);
    }

    /// Runs a query outside a transaction. More than `max_rows` rows are [`FailureKind::TooLarge`].
    ///
    /// # Errors
    /// Why it failed.
    pub fn query(&self, statement: &Statement, max_rows: u32) -> Result<RowSet, Failure> {
        let timeout = self.0.settings.statement_timeout;
        self.with(|connection| connection.query(statement, max_rows, timeout, false))
    }

    /// Runs a statement outside a transaction and returns the number of rows changed.
    ///
    /// # Errors
    /// Why it failed.
    pub fn execute(&self, statement: &Statement) -> Result<u64, Failure> {
        let timeout = self.0.settings.statement_timeout;
        self.with(|connection| connection.execute(statement, timeout, false))
    }

    /// Runs statements pipelined in one transaction: all or none. Returns the rows changed by each.
    ///
    /// # Errors
    /// Why the first one that failed did.
    pub fn batch(&self, statements: &[Statement]) -> Result<Vec<u64>, Failure> {
        let timeout = self.0.settings.statement_timeout;
        self.with(|connection| connection.batch(statements, timeout, false))
    }

    /// Begins a transaction. Dropping it rolls back.
    ///
    /// # Errors
    /// Why it could not begin.
    pub fn begin(&self, isolation: Isolation, read_only: bool) -> Result<Transaction, Failure> {
        blocking(|| {
            let mut lease = Lease::take(&self.0)?;
            lease.run(|connection| {
                let begin = isolation.begin(read_only);
                connection.begin(&begin, self.0.settings.transaction_timeout)
            })?;
            let timeout = self.0.settings.transaction_timeout;
            Ok(self.begun(Transaction::new(lease, None, timeout, &self.0.settings)))
        })
    }

    /// Begins a transaction and sends statements in it, without waiting for the server: it works on them while the
    /// caller does something else. Whether they succeeded is said by the next call of the transaction, its commit
    /// at the latest. Dropping it rolls back.
    ///
    /// The commit of one that may be lost is not made durable before it is answered: should the server crash within
    /// the next second, it may be gone.
    ///
    /// # Errors
    /// Why it could not begin.
    pub fn begin_with(
        &self,
        statements: Vec<Statement>,
        may_be_lost: bool,
    ) -> Result<Transaction, Failure> {
        blocking(|| {
            let mut lease = Lease::take(&self.0)?;
            let timeout = self.0.settings.statement_timeout;
            let mut begin = Isolation::ReadCommitted.begin(false);
            // These come again and again, and write: there is one way to do that, whatever the parameters are.
            begin.push_str("; SET LOCAL plan_cache_mode = force_generic_plan");
            if may_be_lost {
                begin.push_str("; SET LOCAL synchronous_commit = off");
            }
            let answers = lease.run(|connection| connection.start(begin, statements, timeout))?;
            Ok(self.begun(Transaction::new(
                lease,
                Some(answers),
                timeout,
                &self.0.settings,
            )))
        })
    }

    /// Remembers a transaction, for those who wait for its connection should it be forgotten.
    fn begun(&self, transaction: Transaction) -> Transaction {
        let mut begun = self.0.begun();
        begun.retain(|held| held.strong_count() > 0);
        begun.push(transaction.held());
        transaction
    }

    fn with<T: Send>(
        &self,
        run: impl FnOnce(&mut Connection) -> Result<T, Failure> + Send,
    ) -> Result<T, Failure> {
        blocking(|| Lease::take(&self.0)?.run(run))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let idle = std::mem::take(&mut self.state().idle);
        drop(idle);
    }
}

/// Runs something that waits for the server: on another thread where this one belongs to a Tokio runtime, in
/// which waiting is not possible.
pub(crate) fn blocking<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    if tokio::runtime::Handle::try_current().is_err() {
        return run();
    }
    std::thread::scope(|scope| match scope.spawn(run).join() {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that holds the lock can leave the state wrong.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begun(&self) -> MutexGuard<'_, Vec<Weak<Held>>> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends transactions that were forgotten, for those who wait. Says whether there was one.
    fn reclaim(&self) -> bool {
        let begun = self.begun().clone();
        begun
            .iter()
            .filter_map(Weak::upgrade)
            .any(|held| held.end_if_old())
    }

    /// Takes an idle connection, or the right to make one.
    ///
    /// A server that did not answer is tried again by a thread of its own: who asks meanwhile is told so, and waits for
    /// an answer at most as long as one that is there takes.
    fn take(self: &Arc<Self>) -> Result<Option<Connection>, Failure> {
        let begun = Instant::now();
        let deadline = begun + self.settings.connect_timeout;
        let mut tried = false;
        let mut state = self.state();
        loop {
            if state.closed {
                return Err(Failure::new(FailureKind::Unreachable, "the pool is closed"));
            }
            if let Some(connection) = state.idle.pop() {
                return Ok(Some(connection));
            }
            if let Some(silence) = state.silence.clone() {
                if !tried && !state.trying && state.open < self.settings.max_size {
                    self.try_again(&mut state);
                }
                tried = true;
                let left = PROMPT.saturating_sub(begun.elapsed());
                if !state.trying || left.is_zero() {
                    return Err(silence);
                }
                let waited = self.returned.wait_timeout(state, left);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            if state.open < self.settings.max_size {
                state.open += 1;
                return Ok(None);
            }
            drop(state);
            // What was not used at all for so long is used by nobody.
            let reclaimed = self.reclaim();
            state = self.state();
            if reclaimed || !state.idle.is_empty() || state.open < self.settings.max_size {
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Failure::new(
                    FailureKind::PoolExhausted,
                    format!(
                        "all {} connections were in use for {} ms: read long lists to their end or close them, or allow more by pool_max_size",
                        self.settings.max_size,
                        self.settings.connect_timeout.as_millis()
                    ),
                ));
            }
            let waited = self.returned.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Begins to reach a server that did not answer.
    fn try_again(self: &Arc<Self>, state: &mut State) {
        let inner = Arc::clone(self);
        let thread = std::thread::Builder::new().name("metalab-postgres".into());
        // Without a thread the next caller tries again.
        if thread.spawn(move || inner.reach()).is_ok() {
            state.trying = true;
            state.open += 1;
        }
    }

    fn reach(&self) {
        let opened = Connection::open(&self.settings, &self.tls);
        let mut state = self.state();
        state.trying = false;
        match opened {
            Ok(connection) => {
                state.silence = None;
                drop(state);
                self.give_back(connection);
            }
            Err(failure) => {
                state.open -= 1;
                state.silence = Some(self.scrub(failure));
                drop(state);
            }
        }
        self.returned.notify_all();
    }

    /// Remembers that the server did not answer. What is idle would not be answered either.
    fn fell_silent(&self, failure: &Failure) {
        let mut state = self.state();
        state.silence = Some(Failure {
            kind: FailureKind::Unreachable,
            outcome_unknown: false,
            ..failure.clone()
        });
        let idle = std::mem::take(&mut state.idle);
        state.open -= idle.len();
        drop(state);
        self.returned.notify_all();
        drop(idle);
    }

    fn scrub(&self, failure: Failure) -> Failure {
        failure.without(self.settings.password.as_deref())
    }

    /// Gives the right to a connection back.
    fn forget(&self) {
        self.state().open -= 1;
        self.returned.notify_one();
    }

    fn give_back(&self, connection: Connection) {
        let mut state = self.state();
        let mut surplus = Vec::new();
        if state.closed {
            surplus.push(connection);
        } else {
            state.idle.push(connection);
            // The first one was idle for longest.
            while state.open - surplus.len() > self.settings.min_size
                && state
                    .idle
                    .first()
                    .is_some_and(|oldest| oldest.used.elapsed() > SURPLUS)
            {
                surplus.push(state.idle.remove(0));
            }
        }
        state.open -= surplus.len();
        drop(state);
        self.returned.notify_one();
        drop(surplus);
    }
}

/// A connection that is given out. It goes back when this is dropped, unless it broke.
pub(crate) struct Lease {
    pool: Arc<Inner>,
    connection: Option<Connection>,
}

impl Lease {
    fn take(pool: &Arc<Inner>) -> Result<Self, Failure> {
        loop {
            let taken = pool.take()?;
            let mut lease = Self {
                pool: Arc::clone(pool),
                connection: taken,
            };
            let Some(connection) = &mut lease.connection else {
                // The right to it goes back if this fails.
                let opened = Connection::open(&pool.settings, &pool.tls);
                lease.connection = Some(opened.map_err(|failure| {
                    let failure = pool.scrub(failure);
                    pool.fell_silent(&failure);
                    failure
                })?);
                return Ok(lease);
            };
            let asleep = connection.used.elapsed() > IDLE;
            let is_over = connection.is_over()
                || (asleep && lease.run(|asked| asked.simple("", SHORT)).is_err());
            if !is_over {
                return Ok(lease);
            }
            // Another one is taken, or made.
            lease.connection = None;
        }
    }

    /// Runs something on the connection. One that broke is not given to anybody else.
    pub(crate) fn run<T>(
        &mut self,
        run: impl FnOnce(&mut Connection) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let Some(connection) = &mut self.connection else {
            return Err(Failure::new(
                FailureKind::Disconnected,
                "the connection is over",
            ));
        };
        let answer = run(connection);
        if let Err(failure) = &answer
            && connection.is_mute()
        {
            self.pool.fell_silent(failure);
        }
        if answer.as_ref().is_err_and(Failure::broke) {
            self.connection = None;
        }
        answer.map_err(|failure| self.pool.scrub(failure))
    }

    /// Rolls back; a connection on which that fails is closed.
    pub(crate) fn roll_back(&mut self) {
        drop(self.run(|connection| {
            let rolled_back = connection.simple("ROLLBACK", SHORT);
            rolled_back.map_err(|mut failure| {
                failure.kind = FailureKind::Disconnected;
                failure
            })
        }));
    }

    /// Closes the connection.
    pub(crate) fn discard(&mut self) {
        self.connection = None;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else {
            return self.pool.forget();
        };
        let reset = blocking(|| connection.reset(SHORT));
        if reset.is_err() || connection.was_cancelled() || std::thread::panicking() {
            drop(connection);
            self.pool.forget();
        } else {
            self.pool.give_back(connection);
        }
    }
}
