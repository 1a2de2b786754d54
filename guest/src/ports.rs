//! What the storage logic needs from the outside: directories, locks, a clock, randomness, databases.
//!
//! One module maps these traits to WASI and the imports `roots` and `bulk`, another to the operating system, a third
//! to a simulated disk. Everything that crosses a port is data: nothing here knows the format.

use std::fmt;
use std::rc::Rc;

/// The result of a port call.
pub type PortResult<T> = Result<T, PortError>;

/// Why a port call failed: the reason alone. The caller knows which file and which operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PortError {
    /// There is no such file or directory.
    NotFound,
    /// The file or directory is there already.
    AlreadyExists,
    /// A component of the path is not a directory.
    NotDirectory,
    /// The path names a directory where a file was expected.
    IsDirectory,
    /// The directory is not empty.
    NotEmpty,
    /// The operating system denies it to this process, or the path leads out of the granted directory.
    Denied,
    /// The file system or the granted directory is read-only.
    ReadOnly,
    /// No space is left, or the quota is used up.
    NoSpace,
    /// Too many symbolic links.
    Loop,
    /// A name or a path is too long.
    NameTooLong,
    /// The file is larger than the file system or the caller allows.
    TooLarge,
    /// The device reported an error.
    Device,
    /// A name is not UTF-8.
    IllegalName,
    /// The file system does not support the operation.
    Unsupported,
    /// Something else, as the name of a WASI error code.
    Other(&'static str),
}

impl PortError {
    /// Returns the reason as a WASI error code.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::NotFound => "no-entry",
            Self::AlreadyExists => "exist",
            Self::NotDirectory => "not-directory",
            Self::IsDirectory => "is-directory",
            Self::NotEmpty => "not-empty",
            Self::Denied => "access",
            Self::ReadOnly => "read-only",
            Self::NoSpace => "insufficient-space",
            Self::Loop => "loop",
            Self::NameTooLong => "name-too-long",
            Self::TooLarge => "file-too-large",
            Self::Device => "io",
            Self::IllegalName => "illegal-byte-sequence",
            Self::Unsupported => "unsupported",
            Self::Other(code) => code,
        }
    }
}

impl fmt::Display for PortError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "there is no such file or directory",
            Self::AlreadyExists => "it exists already",
            Self::NotDirectory => "a part of the path is not a directory",
            Self::IsDirectory => "it is a directory",
            Self::NotEmpty => "the directory is not empty",
            Self::Denied => "access is denied, or a link leads out of the store",
            Self::ReadOnly => "the file system is read-only",
            Self::NoSpace => "no space is left on the device",
            Self::Loop => "it is a symbolic link, or one of too many",
            Self::NameTooLong => "the name is too long for the file system",
            Self::TooLarge => "it is too large",
            Self::Device => "the device reported an error",
            Self::IllegalName => "the name is not UTF-8",
            Self::Unsupported => "the file system does not support it",
            Self::Other(code) => code,
        })
    }
}

/// What kind of thing a directory entry is. Links are never followed to find out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// Anything else: a FIFO, a socket, a device. Never opened.
    Other,
}

/// What is known about a file without opening it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// What kind of thing it is.
    pub kind: Kind,
    /// The size in bytes.
    pub size: u64,
    /// How many names it has; 0 for an open file that was removed.
    pub links: u64,
    /// When the content last changed, in nanoseconds since 1970; 0 if unknown.
    pub modified: u64,
    /// When the file last changed in any way, in nanoseconds since 1970; 0 if unknown.
    pub changed: u64,
}

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The file name.
    pub name: String,
    /// What kind of thing it is.
    pub kind: Kind,
}

/// The entries of a directory, and how many of them could not be told because their names are not UTF-8.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The entries, in no particular order. Entries that vanished while listing are left out.
    pub entries: Vec<Entry>,
    /// How many names are not UTF-8.
    pub illegal_names: u64,
}

/// How a file is opened. Only regular files are ever opened, and no final link is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// To read; it must exist.
    Read,
    /// To read and write; it must not exist.
    CreateNew,
    /// To read and write; it must exist.
    Update,
    /// To read and write; created if missing, content kept.
    Append,
}

/// A directory that was granted, or one below it.
///
/// Paths are relative, with `/` between components; the empty path is the directory itself. An
/// implementation refuses every path that leads out of the directory, whatever links lie in it.
pub trait Directory {
    /// Returns what is known about an entry, without following a link.
    fn stat(&self, path: &str) -> PortResult<Stat>;
    /// Returns what is known about entries directly in this directory: of each what `stat` returns, but faster for many.
    ///
    /// When a file last changed can be another time than that of `stat`, so that the two are not to be compared.
    fn look(&self, names: &[&str]) -> Vec<PortResult<Stat>> {
        names.iter().map(|name| self.stat(name)).collect()
    }
    /// Reads a whole file, and returns what it was like when it was opened and the SHA-256 of its content; `Unsupported` where it
    /// is no faster than reading it.
    fn digest(&self, _path: &str) -> PortResult<(Stat, [u8; 32])> {
        Err(PortError::Unsupported)
    }
    /// Begins to read whole files directly in this directory, in the order of their names; none where it is no faster than one
    /// after the other.
    fn read(&self, _names: &[&str]) -> Option<Box<dyn Reading>> {
        None
    }
    /// Lists a directory.
    fn list(&self, path: &str) -> PortResult<Listing>;
    /// Opens a directory below this one.
    fn open_directory(&self, path: &str) -> PortResult<Rc<dyn Directory>>;
    /// Creates a directory.
    fn create_directory(&self, path: &str) -> PortResult<()>;
    /// Opens a regular file. The caller has looked at its type before.
    fn open(&self, path: &str, mode: OpenMode) -> PortResult<Box<dyn File>>;
    /// Renames a file, in place of one that has the new name.
    fn rename(&self, from: &str, to: &str) -> PortResult<()>;
    /// Removes a file or a link.
    fn remove_file(&self, path: &str) -> PortResult<()>;
    /// Removes an empty directory.
    fn remove_directory(&self, path: &str) -> PortResult<()>;
    /// Makes the names in this directory durable.
    fn sync(&self) -> PortResult<()>;
    /// Sets when a directory last changed, in nanoseconds since 1970.
    ///
    /// # Errors
    /// Also where it cannot be done at all, as by default.
    fn set_modified(&self, path: &str, time: u64) -> PortResult<()> {
        let _: (&str, u64) = (path, time);
        Err(PortError::Unsupported)
    }
}

/// Files that are being read.
pub trait Reading {
    /// Returns what the next file was like when it was opened, and its content. What is not read this way is `Unsupported`.
    fn next(&mut self) -> PortResult<(Stat, &str)>;
}

/// An open regular file. Dropping it closes it.
pub trait File {
    /// Reads at most `length` bytes from an offset. Fewer may come; none means the end.
    fn read(&self, offset: u64, length: usize) -> PortResult<Vec<u8>>;
    /// Writes all bytes at an offset.
    fn write(&self, offset: u64, content: &[u8]) -> PortResult<()>;
    /// Writes all bytes at the end, wherever that is when they are written.
    fn append(&self, content: &[u8]) -> PortResult<()>;
    /// Cuts or extends the file.
    fn set_size(&self, size: u64) -> PortResult<()>;
    /// Returns what is known about the file.
    fn stat(&self) -> PortResult<Stat>;
    /// Makes the content durable, and the size as far as reading needs it.
    fn sync_data(&self) -> PortResult<()>;
}

/// What is locked: see the `roots` interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockTarget<'a> {
    /// A run.
    Run(&'a str),
    /// A journal segment.
    Segment(&'a str),
    /// The store as a whole.
    Maintenance,
}

/// How something is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockMode {
    /// Together with other shared holders.
    Shared,
    /// Alone.
    Exclusive,
}

/// Why a lock was not taken, or its file not read or written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockError {
    /// Somebody else held it until the deadline.
    TimedOut,
    /// The file system has no working locks.
    Unavailable(String),
    /// The lock's file cannot be one: a bad name, a link, a directory.
    Refused(String),
    /// The directory of the lock's file does not exist.
    NoDirectory,
    /// The directory is read-only.
    ReadOnly,
    /// The operating system reported an error.
    Io(String),
}

/// A lock that is held. Dropping it releases it.
pub trait Lock {
    /// Returns the content of the lock's file.
    fn content(&self) -> Result<Vec<u8>, LockError>;
    /// Replaces the content of the lock's file; not synced.
    fn set_content(&self, content: &[u8]) -> Result<(), LockError>;
}

/// Tokens to compare, never to interpret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The machine; empty if unknown.
    pub machine: String,
    /// The machine's boot; empty if unknown.
    pub boot: String,
    /// The file system of the granted directory.
    pub device: u64,
    /// The granted directory on its file system.
    pub inode: u64,
}

/// What WASI lacks on a granted directory.
pub trait Roots {
    /// Takes a lock, waiting at most `timeout_ms` milliseconds.
    fn acquire(
        &self,
        target: LockTarget<'_>,
        mode: LockMode,
        timeout_ms: u32,
    ) -> Result<Box<dyn Lock>, LockError>;
    /// Makes durable everything written so far to the file system of the directory.
    fn sync(&self) -> Result<(), String>;
    /// Says which machine, boot and directory this is.
    fn identity(&self) -> Identity;
    /// Returns the local offset from UTC in seconds at a time in seconds since 1970.
    fn utc_offset(&self, at_seconds: i64) -> i32;
}

/// The time of day.
pub trait Clock {
    /// Returns the nanoseconds since 1970.
    fn now(&self) -> u64;
}

/// Says whether a time is at most so long ago. One that is yet to come is not: the clock was set back.
pub(crate) fn was_within(time: u64, length: u64, now: u64) -> bool {
    now.checked_sub(time).is_some_and(|passed| passed < length)
}

/// Unpredictable numbers, for names that must not collide.
pub trait Random {
    /// Returns a random number.
    fn next(&self) -> u64;
}

/// A value of a statement or of a row: see the `postgres` interface.
#[derive(Clone, Debug, PartialEq)]
pub enum SqlValue {
    /// NULL.
    Null,
    /// `boolean`.
    Boolean(bool),
    /// `smallint`, `integer` or `bigint`.
    Integer(i64),
    /// `real` or `double precision`.
    Float(f64),
    /// `text`.
    Text(String),
    /// `bytea`.
    Bytes(Vec<u8>),
    /// `jsonb` or `json`, as text.
    Json(String),
    /// `timestamptz`, in microseconds since 1970.
    Timestamp(i64),
    /// `text[]`.
    TextArray(Vec<Option<String>>),
}

/// A statement with parameters `$1`, `$2`, ….
#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    /// The text: constant but for quoted identifiers.
    pub sql: String,
    /// The parameters.
    pub parameters: Vec<SqlValue>,
}

/// Rows of a result.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowSet {
    /// The columns' names.
    pub columns: Vec<String>,
    /// The rows.
    pub rows: Vec<Vec<SqlValue>>,
    /// The rows that the statement changed or returned.
    pub affected: u64,
}

/// What failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatabaseFailureKind {
    /// The host granted no binding of this name.
    NotGranted,
    /// No connection could be made.
    Unreachable,
    /// All connections were in use until the deadline.
    PoolExhausted,
    /// The statement took longer than it may, and was cancelled.
    TimedOut,
    /// The connection broke.
    Disconnected,
    /// The server refused the statement.
    Refused,
    /// A value has a type that the interface does not have.
    UnsupportedType,
    /// A limit of the host was exceeded.
    TooLarge,
}

/// Why a statement failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseFailure {
    /// What failed.
    pub kind: DatabaseFailureKind,
    /// The SQLSTATE, if the server answered.
    pub sqlstate: Option<String>,
    /// Whether the same statement may succeed later.
    pub retryable: bool,
    /// Whether the statement may have taken effect nevertheless.
    pub outcome_unknown: bool,
    /// The server's message or the host's; never a password or a connection string.
    pub message: String,
}

/// The result of a call of the database.
pub type DatabaseResult<T> = Result<T, DatabaseFailure>;

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

/// A pool of connections to one database, which the host granted under a name.
pub trait Database {
    /// Runs a query outside a transaction. More than `max_rows` rows are `TooLarge`.
    fn query(&self, statement: &Statement, max_rows: u32) -> DatabaseResult<RowSet>;
    /// Runs a statement outside a transaction and returns the number of rows changed.
    fn execute(&self, statement: &Statement) -> DatabaseResult<u64>;
    /// Runs statements pipelined in one transaction: all or none. Returns the rows changed by each.
    fn batch(&self, statements: &[Statement]) -> DatabaseResult<Vec<u64>>;
    /// Begins a transaction.
    fn begin(&self, isolation: Isolation, read_only: bool) -> DatabaseResult<Box<dyn Transaction>>;
    /// Begins a transaction that may write, and sends it statements, maybe without waiting for what becomes of them:
    /// the next call of the transaction says that, its commit at the latest. Should the server crash soon after the
    /// commit of one that may be lost, it may be.
    fn begin_with(
        &self,
        statements: &[Statement],
        may_be_lost: bool,
    ) -> DatabaseResult<Box<dyn Transaction>>;
}

/// A transaction. Dropping it rolls back.
pub trait Transaction {
    /// Runs a query. More than `max_rows` rows are `TooLarge`.
    fn query(&self, statement: &Statement, max_rows: u32) -> DatabaseResult<RowSet>;
    /// Runs a statement and returns the number of rows changed.
    fn execute(&self, statement: &Statement) -> DatabaseResult<u64>;
    /// Runs statements pipelined. Returns the rows changed by each.
    fn batch(&self, statements: &[Statement]) -> DatabaseResult<Vec<u64>>;
    /// Opens a cursor, which is to be dropped before the transaction.
    fn open_cursor(&self, statement: &Statement) -> DatabaseResult<Box<dyn Cursor>>;
    /// Begins a `COPY … FROM STDIN` in text format, which is to be finished before anything else.
    fn copy_in(&self, sql: &str) -> DatabaseResult<Box<dyn CopyWriter>>;
    /// Commits. The transaction is over afterwards, also when this fails.
    fn commit(self: Box<Self>) -> DatabaseResult<()>;
}

/// A cursor within a transaction.
pub trait Cursor {
    /// Returns the next rows: at most `max_rows`, and no more once `max_bytes` are reached. An empty page is
    /// the end.
    fn next(&self, max_rows: u32, max_bytes: u32) -> DatabaseResult<RowSet>;
}

/// A running COPY. Dropping it before it is finished cancels it.
pub trait CopyWriter {
    /// Sends lines: at most 256 KiB a call.
    fn write(&self, lines: &str) -> DatabaseResult<()>;
    /// Ends the COPY and returns the number of rows.
    fn finish(self: Box<Self>) -> DatabaseResult<u64>;
}

/// Finds the database that the host granted under a name.
pub trait Databases {
    /// Returns it. Whether the host granted it shows when it is used.
    fn named(&self, binding: &str) -> Rc<dyn Database>;
}

/// Everything that a store needs from the outside.
#[derive(Clone)]
pub struct Ports {
    /// The granted directory.
    pub directory: Rc<dyn Directory>,
    /// Locks, sync and identity of the same directory.
    pub roots: Rc<dyn Roots>,
    /// The clock.
    pub clock: Rc<dyn Clock>,
    /// The source of randomness.
    pub random: Rc<dyn Random>,
    /// The databases.
    pub databases: Rc<dyn Databases>,
}

/// No database at all.
pub struct NoDatabases;

impl Databases for NoDatabases {
    fn named(&self, _binding: &str) -> Rc<dyn Database> {
        Rc::new(Self)
    }
}

impl NoDatabases {
    fn fail<T>() -> DatabaseResult<T> {
        Err(DatabaseFailure {
            kind: DatabaseFailureKind::NotGranted,
            sqlstate: None,
            retryable: false,
            outcome_unknown: false,
            message: "the host granted no PostgreSQL binding".into(),
        })
    }
}

impl Database for NoDatabases {
    fn query(&self, _statement: &Statement, _max_rows: u32) -> DatabaseResult<RowSet> {
        Self::fail()
    }

    fn execute(&self, _statement: &Statement) -> DatabaseResult<u64> {
        Self::fail()
    }

    fn batch(&self, _statements: &[Statement]) -> DatabaseResult<Vec<u64>> {
        Self::fail()
    }

    fn begin(
        &self,
        _isolation: Isolation,
        _read_only: bool,
    ) -> DatabaseResult<Box<dyn Transaction>> {
        Self::fail()
    }

    fn begin_with(
        &self,
        _statements: &[Statement],
        _may_be_lost: bool,
    ) -> DatabaseResult<Box<dyn Transaction>> {
        Self::fail()
    }
}
