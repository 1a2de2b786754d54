//! Errors: those of the contract with their data, and those of the host itself.

use crate::bindings::exports::metalab::store::types::Error as Wire;
use crate::types::{Conflict, Corrupt, DatabaseError, InvalidName, InvalidQuery, IoError, Missing};
use std::path::PathBuf;

/// The result of a store call.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call failed. The message names the thing, the place and, if there is one, the way out.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A name is not a safe name. Nothing was touched.
    #[error("{}", .0.message)]
    InvalidName(InvalidName),
    /// An argument other than a name cannot be used. Nothing was touched.
    #[error("{0}")]
    InvalidArgument(String),
    /// What the call needs is not there.
    #[error("{}", .0.message)]
    NotFound(Missing),
    /// What the call would create is there already.
    #[error("{0}")]
    AlreadyExists(String),
    /// The call would undo a write that it does not know of, or has no single answer.
    #[error("{}", .0.message)]
    Conflict(Conflict),
    /// A file is damaged.
    #[error("{}", .0.message)]
    Corrupt(Corrupt),
    /// A file is sound, but holds a value that the typed form cannot; the text form can.
    #[error("{}", .0.message)]
    Unrepresentable(Corrupt),
    /// A lock was held by somebody else until the deadline.
    #[error("{0}")]
    Locked(String),
    /// The file system has no working locks, and the call needs them.
    #[error("{0}")]
    LocksUnavailable(String),
    /// The store is read-only.
    #[error("{0}")]
    ReadOnly(String),
    /// The database refused or did not answer.
    #[error("{}", .0.message)]
    Database(DatabaseError),
    /// No such directory or binding was granted.
    #[error("{0}")]
    NotGranted(String),
    /// A query cannot be understood.
    #[error("{}", .0.message)]
    InvalidQuery(InvalidQuery),
    /// A value is larger than the store takes in one piece.
    #[error("{0}")]
    TooLarge(String),
    /// The operating system reported an error.
    #[error("{}", .0.message)]
    Io(IoError),
    /// The store's directory cannot be opened.
    #[error("cannot open the store {}: {reason}", path.display())]
    Root {
        /// The directory.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The plugin cannot be read.
    #[error("cannot read the plugin {}: {reason}", path.display())]
    PluginMissing {
        /// Its file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The file is no plugin: no component, or one that imports or exports something else.
    #[error("this is no plugin: {0}")]
    PluginWorld(String),
    /// The plugin was made for another version of the contract.
    #[error("this plugin cannot be used: {0}")]
    PluginVersion(String),
    /// The caller stopped it.
    #[error("stopped; run the same command again to go on")]
    Cancelled,
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// The component used more memory or time than it may. The store goes on with a fresh instance.
    #[error("the store's component exceeded its limit: {0}")]
    LimitExceeded(String),
    /// The component failed. The store goes on with a fresh instance; whether the call had an effect is not
    /// known.
    #[error("the store's component failed: {0}")]
    Trap(String),
    /// The host failed: the component cannot be compiled, linked or started.
    #[error("the store's component cannot be started: {0}")]
    Engine(String),
}

impl Error {
    /// Returns a stable name of the error's kind, the same in every host.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidName(_) => "invalid-name",
            Self::InvalidArgument(_) => "invalid-argument",
            Self::NotFound(_) => "not-found",
            Self::AlreadyExists(_) => "already-exists",
            Self::Conflict(_) => "conflict",
            Self::Corrupt(_) => "corrupt",
            Self::Unrepresentable(_) => "unrepresentable",
            Self::Locked(_) => "locked",
            Self::LocksUnavailable(_) => "locks-unavailable",
            Self::ReadOnly(_) => "read-only",
            Self::Database(_) => "database",
            Self::NotGranted(_) => "not-granted",
            Self::InvalidQuery(_) => "invalid-query",
            Self::TooLarge(_) => "too-large",
            Self::Io(_) => "io",
            Self::Root { .. } => "root",
            Self::PluginMissing { .. } => "plugin-missing",
            Self::PluginWorld(_) => "plugin-world",
            Self::PluginVersion(_) => "plugin-version",
            Self::Cancelled => "cancelled",
            Self::Closed => "closed",
            Self::LimitExceeded(_) => "limit-exceeded",
            Self::Trap(_) => "trap",
            Self::Engine(_) => "engine",
        }
    }
}

impl Error {
    /// Returns the contract's error that this is, for a plugin; or itself, if the contract has no word for it.
    pub(crate) fn into_wire(self) -> std::result::Result<Wire, Self> {
        Ok(match self {
            Self::InvalidName(data) => Wire::InvalidName(data),
            Self::InvalidArgument(message) => Wire::InvalidArgument(message),
            Self::NotFound(data) => Wire::NotFound(data),
            Self::AlreadyExists(message) => Wire::AlreadyExists(message),
            Self::Conflict(data) => Wire::Conflict(data),
            Self::Corrupt(data) => Wire::Corrupt(data),
            Self::Unrepresentable(data) => Wire::Unrepresentable(data),
            Self::Locked(message) => Wire::Locked(message),
            Self::LocksUnavailable(message) => Wire::LocksUnavailable(message),
            Self::ReadOnly(message) => Wire::ReadOnly(message),
            Self::Database(data) => Wire::Database(data),
            Self::NotGranted(message) => Wire::NotGranted(message),
            Self::InvalidQuery(data) => Wire::InvalidQuery(data),
            Self::TooLarge(message) => Wire::TooLarge(message),
            Self::Io(data) => Wire::Io(data),
            Self::Root { .. }
            | Self::PluginMissing { .. }
            | Self::PluginWorld(_)
            | Self::PluginVersion(_)
            | Self::Cancelled
            | Self::Closed
            | Self::LimitExceeded(_)
            | Self::Trap(_)
            | Self::Engine(_) => return Err(self),
        })
    }
}

/// The one place that converts the contract's errors.
impl From<Wire> for Error {
    fn from(error: Wire) -> Self {
        match error {
            Wire::InvalidName(data) => Self::InvalidName(data),
            Wire::InvalidArgument(message) => Self::InvalidArgument(message),
            Wire::NotFound(data) => Self::NotFound(data),
            Wire::AlreadyExists(message) => Self::AlreadyExists(message),
            Wire::Conflict(data) => Self::Conflict(data),
            Wire::Corrupt(data) => Self::Corrupt(data),
            Wire::Unrepresentable(data) => Self::Unrepresentable(data),
            Wire::Locked(message) => Self::Locked(message),
            Wire::LocksUnavailable(message) => Self::LocksUnavailable(message),
            Wire::ReadOnly(message) => Self::ReadOnly(message),
            Wire::Database(data) => Self::Database(data),
            Wire::NotGranted(message) => Self::NotGranted(message),
            Wire::InvalidQuery(data) => Self::InvalidQuery(data),
            Wire::TooLarge(message) => Self::TooLarge(message),
            Wire::Io(data) => Self::Io(data),
        }
    }
}
