//! Why a statement failed: never with a password or a connection string.

use std::error::Error;
use tokio_postgres::error::SqlState;

/// What failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
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
    /// A value has a type that the contract does not have.
    UnsupportedType,
    /// A limit was exceeded.
    TooLarge,
}

/// Why a statement failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What failed.
    pub kind: FailureKind,
    /// The SQLSTATE, if the server answered.
    pub sqlstate: Option<String>,
    /// Whether the same statement may succeed later.
    pub retryable: bool,
    /// Whether the statement may have taken effect nevertheless.
    pub outcome_unknown: bool,
    /// The server's message or ours.
    pub message: String,
}

impl Failure {
    /// Makes a failure that the server did not report.
    pub(crate) fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        let retryable = match kind {
            FailureKind::Unreachable
            | FailureKind::PoolExhausted
            | FailureKind::TimedOut
            | FailureKind::Disconnected => true,
            FailureKind::Refused | FailureKind::UnsupportedType | FailureKind::TooLarge => false,
        };
        Self {
            kind,
            sqlstate: None,
            retryable,
            outcome_unknown: false,
            message: message.into(),
        }
    }

    /// Makes the failure of a statement that was sent.
    pub(crate) fn of(error: &tokio_postgres::Error) -> Self {
        if let Some(refusal) = error.as_db_error() {
            let state = refusal.code();
            let kind = match *state {
                SqlState::QUERY_CANCELED => FailureKind::TimedOut,
                SqlState::ADMIN_SHUTDOWN | SqlState::CRASH_SHUTDOWN => FailureKind::Disconnected,
                _ => FailureKind::Refused,
            };
            let passing = ["40", "53", "57", "08"];
            let retryable = passing.iter().any(|class| state.code().starts_with(class))
                || *state == SqlState::LOCK_NOT_AVAILABLE;
            return Self {
                kind,
                sqlstate: Some(state.code().to_owned()),
                retryable,
                outcome_unknown: false,
                message: refusal.message().to_owned(),
            };
        }
        let mut failure = Self::new(
            FailureKind::Disconnected,
            format!("the connection broke: {}", reason(error)),
        );
        failure.outcome_unknown = true;
        failure
    }

    /// Makes the failure of a connection that was not made.
    pub(crate) fn to_connect(error: &tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(refusal) => {
                let state = refusal.code().code().to_owned();
                Self {
                    kind: FailureKind::Unreachable,
                    // A wrong password stays wrong, a server that starts up does not.
                    retryable: !(state.starts_with("28") || state.starts_with("3D")),
                    sqlstate: Some(state),
                    outcome_unknown: false,
                    message: format!("the server refused the connection: {}", refusal.message()),
                }
            }
            None => Self::new(
                FailureKind::Unreachable,
                format!("no connection could be made: {}", reason(error)),
            ),
        }
    }

    /// Says whether the connection cannot be used any more.
    pub(crate) fn broke(&self) -> bool {
        matches!(
            self.kind,
            FailureKind::Disconnected | FailureKind::TimedOut | FailureKind::Unreachable
        )
    }
}

/// Returns the innermost reason: what the driver says itself is too little.
fn reason(error: &tokio_postgres::Error) -> String {
    let mut reason: &dyn Error = error;
    while let Some(source) = reason.source() {
        reason = source;
    }
    reason.to_string()
}
