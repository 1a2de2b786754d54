//! The database as query index of a store: what of it is believed, when it is told what, and what happens
//! when it does not answer.
//!
//! Files first. A call changes the files, and before it returns, while it still holds the run's lock, the
//! database is told what the files say ([`reflect`]). If that fails, the runs are noted in `.index/`
//! ([`pending`]), and the call has succeeded all the same: the files are the truth. Lists and queries ask
//! the database only where it is known to say what the files say ([`ready`]); everywhere else, and for
//! single runs always, the files answer. Reading a run's file takes a fifth of the time of a question to
//! a server on the same machine, and is never behind.
//!
//! What is known is kept in `.index/database.json` ([`state`]) and compared with what the database says. A
//! database that is behind is brought up to date by comparing it with the files ([`sync`]).

pub mod listing;
mod names;
pub(crate) mod pending;
mod prune;
pub(crate) mod ready;
pub mod rebuild;
pub(crate) mod reflect;
pub(crate) mod state;
pub(crate) mod sync;

use crate::error::{Error, Result};
use crate::model::IndexOptions;
use crate::ports::{
    Clock, Database, DatabaseFailure, DatabaseFailureKind, DatabaseResult, Ports, Random, Stat,
};
use crate::query::{Query, SortKey};
use crate::sql::directories::{self, Tables};
use crate::sql::{Schema, sorting, translate};
use state::Stamps;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// How long the database is left alone after it did not answer, in nanoseconds, for the first time.
const FIRST_PAUSE: u64 = 1_000_000_000;

/// How many pages with one sort key are many.
const OFTEN: u32 = 3;

/// How long a page takes, in nanoseconds, that takes long.
const SLOW: u64 = 10_000_000;

/// How many sort keys are counted.
const SORT_KEYS: usize = 64;

/// How long it is left alone at most.
const LONGEST_PAUSE: u64 = 30_000_000_000;

/// The database of a store.
pub(crate) struct Sql {
    database: Rc<dyn Database>,
    pub(crate) schema: Schema,
    pub(crate) options: IndexOptions,
    /// The text of the statement that most puts send, once one did: it is long, and always the same.
    pub(crate) put_text: OnceCell<String>,
    clock: Rc<dyn Clock>,
    random: Rc<dyn Random>,
    /// Until when the database is left alone, in nanoseconds since 1970, and the last pause.
    pause: Cell<(u64, u64)>,
    /// The id of the database, once its tables were seen.
    id: RefCell<Option<String>>,
    /// The directories, by their paths in the granted one, whose files the database was found to agree with.
    agreed: RefCell<BTreeMap<String, Agreed>>,
    /// The ids of directories, by their paths in the granted one, and what the files that say so were like.
    pub(crate) known: RefCell<BTreeMap<String, (Stat, String)>>,
    /// How often pages were asked for, by the first sort key.
    sorted: RefCell<BTreeMap<String, u32>>,
    /// How often pages took long whose filter compares a number, by its field.
    compared: RefCell<BTreeMap<String, u32>>,
    /// The names of the indexes that were made for sort keys and numbers, once they were asked for.
    indexes: RefCell<Option<Rc<BTreeSet<String>>>>,
    /// Why the database was not asked last.
    trouble: RefCell<Option<String>>,
    /// The directories that the server was found not to have crashed for since they were given their marks.
    pub(crate) steady: RefCell<Vec<String>>,
    /// The directories, by their paths in the granted one, whose state says that writers are at work.
    pub(crate) live: RefCell<BTreeSet<String>>,
    /// Whether this store told the database of anything.
    pub(crate) told: Cell<bool>,
    /// The number of this store's note of runs that the database was not told of.
    pub(crate) note: Cell<u64>,
    /// Whether it holds runs that this store noted.
    pub(crate) noted: Cell<bool>,
    /// When the store was last recovered.
    pub(crate) recovered: Cell<u64>,
    /// Whether the database answers again since then.
    pub(crate) due: Cell<bool>,
    /// The directories, by their paths in the granted one, that other writers are at work on, and whose names were not compared
    /// with the database yet.
    pub(crate) unchecked: RefCell<BTreeSet<String>>,
}

/// What the database was found to agree with.
struct Agreed {
    /// The content of the directory's state.
    state: Vec<u8>,
    /// When the directories had changed, as far as nobody but this store changed them since; none if somebody
    /// else did.
    stamps: Option<Stamps>,
}

impl Sql {
    /// Makes the handle. Nothing is asked of the database yet.
    pub(crate) fn new(ports: &Ports, options: &IndexOptions) -> Result<Self> {
        Ok(Self {
            database: ports.databases.named(&options.binding),
            schema: Schema::new(options.schema.clone())
                .map_err(|reason| Error::InvalidArgument(reason.to_string()))?,
            options: options.clone(),
            put_text: OnceCell::new(),
            clock: Rc::clone(&ports.clock),
            random: Rc::clone(&ports.random),
            pause: Cell::new((0, 0)),
            id: RefCell::default(),
            agreed: RefCell::default(),
            known: RefCell::default(),
            sorted: RefCell::default(),
            compared: RefCell::default(),
            indexes: RefCell::default(),
            trouble: RefCell::default(),
            steady: RefCell::default(),
            live: RefCell::default(),
            told: Cell::new(false),
            note: Cell::new(ports.random.next()),
            noted: Cell::new(false),
            recovered: Cell::new(0),
            due: Cell::new(false),
            unchecked: RefCell::default(),
        })
    }

    /// Draws an id of 32 hexadecimal digits.
    pub(crate) fn new_id(&self) -> String {
        format!("{:016x}{:016x}", self.random.next(), self.random.next())
    }

    /// Says whether the database is left alone for now.
    pub(crate) fn is_paused(&self) -> bool {
        let (until, pause) = self.pause.get();
        let left = until.saturating_sub(self.clock.now());
        // More than the pause is left if the clock was set back.
        left > 0 && left <= pause
    }

    /// Returns the time, in nanoseconds since 1970.
    pub(crate) fn now(&self) -> u64 {
        self.clock.now()
    }

    /// Asks the database, unless it is left alone for now.
    ///
    /// What is asked here may be asked twice: a connection that broke, since the server was restarted for
    /// instance, is no reason to believe that the server is gone.
    pub(crate) fn ask<T>(
        &self,
        question: impl Fn(&dyn Database) -> DatabaseResult<T>,
    ) -> DatabaseResult<T> {
        if self.is_paused() {
            return Err(self.paused());
        }
        let mut answer = question(&*self.database);
        if let Err(failure) = &answer
            && failure.kind == DatabaseFailureKind::Disconnected
        {
            answer = question(&*self.database);
        }
        self.heard(answer)
    }

    /// Hands out the database for something that is not done in one call; what fails is reported by `heard`.
    pub(crate) fn database(&self) -> DatabaseResult<&Rc<dyn Database>> {
        if self.is_paused() {
            return Err(self.paused());
        }
        Ok(&self.database)
    }

    /// Remembers how the database answered something that is asked again in another way if it failed: a connection
    /// that broke says nothing yet.
    pub(crate) fn tried<T>(&self, answer: DatabaseResult<T>) -> DatabaseResult<T> {
        match answer {
            Err(failure) if failure.kind == DatabaseFailureKind::Disconnected => Err(failure),
            answer => self.heard(answer),
        }
    }

    fn paused(&self) -> DatabaseFailure {
        let trouble = self.trouble.borrow();
        DatabaseFailure {
            kind: DatabaseFailureKind::Unreachable,
            sqlstate: None,
            retryable: true,
            outcome_unknown: false,
            message: trouble
                .clone()
                .unwrap_or_else(|| "the database did not answer a moment ago".into()),
        }
    }

    /// Remembers how the database answered: one that does not is left alone for a while.
    pub(crate) fn heard<T>(&self, answer: DatabaseResult<T>) -> DatabaseResult<T> {
        match &answer {
            Ok(_) => {
                self.pause.set((0, 0));
                *self.trouble.borrow_mut() = None;
            }
            Err(failure) => {
                *self.trouble.borrow_mut() = Some(failure.message.clone());
                if is_silence(failure) {
                    let (_, last) = self.pause.get();
                    let pause = last.saturating_mul(2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
                    let until = self.clock.now().saturating_add(pause);
                    self.pause.set((until, pause));
                }
                if directories::is_missing(failure) {
                    // Somebody took the tables away.
                    self.forget();
                }
            }
        }
        answer
    }

    /// Forgets what the database was known to say.
    pub(crate) fn forget(&self) {
        *self.id.borrow_mut() = None;
        self.agreed.borrow_mut().clear();
        self.live.borrow_mut().clear();
        self.known.borrow_mut().clear();
        *self.indexes.borrow_mut() = None;
    }

    /// Returns why the database was not asked last, if it was not.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.borrow().clone()
    }

    /// Returns the id of the database; creates the tables if they are missing and that is wanted.
    pub(crate) fn id(&self, may_create: bool) -> DatabaseResult<String> {
        if let Some(id) = &*self.id.borrow() {
            return Ok(id.clone());
        }
        let projection = self.options.projection;
        let mut tables =
            self.ask(|database| directories::look(database, &self.schema, projection))?;
        if tables == Tables::Missing {
            if !(may_create && self.options.auto_migrate) {
                return self.heard(Err(directories::missing(&self.schema)));
            }
            let id = self.new_id();
            tables =
                self.ask(|database| directories::migrate(database, &self.schema, projection, &id))?;
        }
        match tables {
            Tables::Ready(id) => {
                *self.id.borrow_mut() = Some(id.clone());
                Ok(id)
            }
            Tables::Newer(table, version) => self.heard(Err(directories::newer(table, &version))),
            Tables::Missing => self.heard(Err(directories::missing(&self.schema))),
        }
    }

    /// Remembers that the database agrees with the files of a directory as long as its state is this; and when
    /// it had changed, if that is known.
    pub(crate) fn agree(&self, place: &str, state: Vec<u8>, stamps: Option<Stamps>) {
        self.unchecked.borrow_mut().remove(place);
        let agreed = Agreed { state, stamps };
        self.agreed.borrow_mut().insert(place.to_owned(), agreed);
    }

    /// Says whether the database was found to agree with the files of a directory in this state.
    pub(crate) fn agrees(&self, place: &str, state: &[u8]) -> bool {
        let agreed = self.agreed.borrow();
        agreed
            .get(place)
            .is_some_and(|agreed| agreed.state == state)
    }

    /// Returns when a directory had changed, if nobody but this store changed it since.
    pub(crate) fn explained(&self, place: &str) -> Option<Stamps> {
        self.agreed.borrow().get(place)?.stamps
    }

    /// Notes when a directory has changed now; none if somebody else changed it.
    pub(crate) fn explain(&self, place: &str, stamps: Option<Stamps>) {
        if let Some(agreed) = self.agreed.borrow_mut().get_mut(place) {
            agreed.stamps = stamps;
        }
    }

    /// Gives a sort key that is asked for again and again an index of its own: without one, every page sorted by
    /// it looks at all runs. It keeps writers waiting while it is made, so that once or twice is no reason.
    pub(crate) fn sorted_by(&self, query: &Query) {
        let Some(key) = query.sort.0.first().filter(|_| query.limit.is_some()) else {
            return;
        };
        if let Some(statements) = sorting::create(&self.schema, key)
            && self.is_often(&self.sorted, key)
        {
            // Without it the page only takes longer.
            drop(self.ask(|database| database.batch(&statements)));
        }
    }

    /// Gives a number that filters compare an index of its own if page after page took long: then few runs match,
    /// and all others are looked at for them.
    pub(crate) fn filtered_by(&self, query: &Query, took: u64) {
        if took < SLOW || query.limit.is_none() {
            return;
        }
        let compared = query.filter.as_ref().map(translate::compared);
        for key in compared.unwrap_or_default() {
            if let Some(statements) = sorting::create_for_ranges(&self.schema, &key) {
                if self.is_often(&self.compared, &key) {
                    // Without it the page only takes longer.
                    drop(self.ask(|database| database.batch(&statements)));
                }
                // Somebody else may have made it, or taken it away.
                *self.indexes.borrow_mut() = None;
                return;
            }
        }
    }

    /// Returns the names of the indexes that a query's filter might use.
    pub(crate) fn indexes_for(&self, query: &Query) -> Rc<BTreeSet<String>> {
        let compares = query.filter.as_ref().map(translate::compared);
        if compares.is_none_or(|keys| keys.is_empty()) {
            return Rc::default();
        }
        if let Some(indexes) = &*self.indexes.borrow() {
            return Rc::clone(indexes);
        }
        let existing = sorting::existing(&self.schema);
        let most = u32::try_from(sorting::MAX_INDEXES).unwrap_or(u32::MAX);
        let found = self.ask(|database| database.query(&existing, 2 * most));
        let rows = found.map(|found| found.rows).unwrap_or_default();
        let names = rows.iter().filter_map(|row| directories::text(row, 0));
        let indexes: Rc<BTreeSet<String>> = Rc::new(names.map(str::to_owned).collect());
        *self.indexes.borrow_mut() = Some(Rc::clone(&indexes));
        indexes
    }

    /// Counts a key, and says whether that makes it a frequent one.
    fn is_often(&self, counted: &RefCell<BTreeMap<String, u32>>, key: &SortKey) -> bool {
        let mut counted = counted.borrow_mut();
        let name = key.to_string();
        if counted.len() >= SORT_KEYS && !counted.contains_key(&name) {
            return false;
        }
        let asked = counted.entry(name).or_default();
        *asked += 1;
        *asked == OFTEN
    }

    /// Stops believing what was found of a directory.
    pub(crate) fn doubt(&self, place: &str) {
        self.agreed.borrow_mut().remove(place);
        self.live.borrow_mut().remove(place);
    }
}

/// Says whether the database did not answer, rather than answer with a refusal.
fn is_silence(failure: &DatabaseFailure) -> bool {
    match failure.kind {
        DatabaseFailureKind::Unreachable
        | DatabaseFailureKind::PoolExhausted
        | DatabaseFailureKind::TimedOut
        | DatabaseFailureKind::Disconnected => true,
        // A server that is shutting down, starting up, or has no connection left.
        DatabaseFailureKind::Refused => failure
            .sqlstate
            .as_deref()
            .is_some_and(|state| state.starts_with("57P") || state.starts_with("53")),
        DatabaseFailureKind::NotGranted
        | DatabaseFailureKind::UnsupportedType
        | DatabaseFailureKind::TooLarge => false,
    }
}

impl From<DatabaseFailure> for Error {
    fn from(failure: DatabaseFailure) -> Self {
        if failure.kind == DatabaseFailureKind::NotGranted {
            return Self::NotGranted(failure.message);
        }
        Self::Database {
            sqlstate: failure.sqlstate,
            retryable: failure.retryable,
            message: format!("the database: {}", failure.message),
        }
    }
}
