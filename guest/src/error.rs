//! Errors of the store, as data. The component's surface maps them to the WIT variant in one place.

use crate::names::{self, NameError};
use crate::ports::PortError;

/// The result of a store call.
pub type Result<T> = std::result::Result<T, Error>;

/// Which kind of name was refused or not found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NameKind {
    /// A run id.
    Run,
    /// An experiment id.
    Experiment,
    /// An artifact's name.
    Artifact,
    /// An artifact's format.
    ArtifactFormat,
    /// A result's name.
    Result,
    /// A log's name.
    Log,
    /// A manifest or its timestamp.
    Manifest,
}

/// Why a call failed. Every case names the thing, the place and, if there is one, the way out; the
/// message is a whole sentence. No message holds a password or a connection string.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A name is not a safe name.
    #[error("{message}")]
    InvalidName {
        /// What it should have named.
        kind: NameKind,
        /// The name as it was given.
        name: String,
        /// The whole story.
        message: String,
    },
    /// Another argument cannot be used.
    #[error("{0}")]
    InvalidArgument(String),
    /// What the call needs is not there.
    #[error("{message}")]
    NotFound {
        /// What was asked for.
        kind: NameKind,
        /// Its name.
        name: String,
        /// The whole story.
        message: String,
    },
    /// What the call would create is there already.
    #[error("{0}")]
    AlreadyExists(String),
    /// The call would undo a write that it does not know of, or has no single answer.
    #[error("{message}")]
    Conflict {
        /// The revision that is there now.
        current: Option<String>,
        /// The whole story.
        message: String,
    },
    /// A file is damaged.
    #[error("{message}")]
    Corrupt {
        /// The file, relative to the granted directory.
        file: String,
        /// The byte offset of the problem.
        offset: Option<u64>,
        /// The whole story.
        message: String,
    },
    /// A file holds a value that the typed form cannot.
    #[error("{message}")]
    Unrepresentable {
        /// The file, relative to the granted directory.
        file: String,
        /// The byte offset of the problem.
        offset: Option<u64>,
        /// The whole story.
        message: String,
    },
    /// A lock was held by somebody else until the deadline.
    #[error("{0}")]
    Locked(String),
    /// The file system has no working locks.
    #[error("{0}")]
    LocksUnavailable(String),
    /// The store is read-only.
    #[error("{0}")]
    ReadOnly(String),
    /// The database refused or did not answer.
    #[error("{message}")]
    Database {
        /// The SQLSTATE, if the server answered.
        sqlstate: Option<String>,
        /// Whether the same call may succeed later.
        retryable: bool,
        /// The whole story.
        message: String,
    },
    /// The host granted no such directory or binding.
    #[error("{0}")]
    NotGranted(String),
    /// A query cannot be understood.
    #[error("{message}")]
    InvalidQuery {
        /// Where in the text, in bytes.
        position: u32,
        /// What was found and what was expected.
        message: String,
    },
    /// A value is larger than the store takes in one piece.
    #[error("{0}")]
    TooLarge(String),
    /// The operating system reported an error.
    #[error("{message}")]
    Io {
        /// The file, relative to the granted directory.
        file: String,
        /// The operation that failed.
        operation: &'static str,
        /// The reason as a WASI error code.
        code: &'static str,
        /// Whether the write may have happened.
        outcome_unknown: bool,
        /// The whole story.
        message: String,
    },
}

impl From<NameError> for Error {
    fn from(error: NameError) -> Self {
        let kind = match error.kind {
            names::NameKind::RunId => NameKind::Run,
            names::NameKind::ExperimentId => NameKind::Experiment,
            names::NameKind::ArtifactName | names::NameKind::ArtifactFile => NameKind::Artifact,
            names::NameKind::ArtifactFormat => NameKind::ArtifactFormat,
            names::NameKind::ResultName => NameKind::Result,
            names::NameKind::LogName => NameKind::Log,
            names::NameKind::ManifestStamp => NameKind::Manifest,
            // These name files found in a directory, never something that a caller passed.
            names::NameKind::IndexFile | names::NameKind::Entry => NameKind::Artifact,
        };
        let message = error.to_string();
        Self::InvalidName {
            kind,
            name: error.name,
            message,
        }
    }
}

impl Error {
    /// Makes the error of a port call: which file, which operation, why.
    #[must_use]
    pub fn io(file: impl Into<String>, operation: &'static str, reason: PortError) -> Self {
        let file = file.into();
        if reason == PortError::ReadOnly {
            return Self::ReadOnly(format!("cannot {operation} {file}: {reason}"));
        }
        let message = format!("cannot {operation} {file}: {reason}");
        Self::Io {
            file,
            operation,
            code: reason.code(),
            outcome_unknown: false,
            message,
        }
    }

    /// Makes the error of a damaged file.
    #[must_use]
    pub fn corrupt(
        file: impl Into<String>,
        offset: Option<u64>,
        reason: impl std::fmt::Display,
    ) -> Self {
        let file = file.into();
        let place = offset.map_or(String::new(), |offset| format!(" at byte {offset}"));
        let message = format!("{file} is damaged{place}: {reason}");
        Self::Corrupt {
            file,
            offset,
            message,
        }
    }

    /// Makes the error of a sound file that the typed form cannot hold.
    #[must_use]
    pub fn unrepresentable(file: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        let file = file.into();
        let message = format!("{file} cannot be returned as typed data: {reason}; read it as text");
        Self::Unrepresentable {
            file,
            offset: None,
            message,
        }
    }
}
