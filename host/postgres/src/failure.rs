//! Why a statement failed: never with a password or a connection string.

use std::error::Error;
use tokio_postgres::error::{Severity, SqlState};

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
            // The server ends the session after these.
            let is_last = matches!(
                refusal.parsed_severity(),
                Some(Severity::Fatal | Severity::Panic)
            );
            let kind = match *state {
                _ if is_last => FailureKind::Disconnected,
                SqlState::QUERY_CANCELED => FailureKind::TimedOut,
                _ => FailureKind::Refused,
            };
            let passing = ["40", "53", "57", "08"];
            let retryable = passing.iter().any(|class| state.code().starts_with(class))
                || *state == SqlState::LOCK_NOT_AVAILABLE;
            return Self {
                kind,
                sqlstate: Some(state.code().to_owned()),
                retryable,
                // A commit may have been done before the session ended.
                outcome_unknown: is_last,
                message: clean(refusal.message()),
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
                    message: format!(
                        "the server refused the connection: {}",
                        clean(refusal.message())
                    ),
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
        match self.kind {
            FailureKind::Disconnected | FailureKind::Unreachable => true,
            // Where the server cancelled the statement itself, all is well; where it did not, answers may come
            // that nobody waits for.
            FailureKind::TimedOut => self.sqlstate.is_none(),
            // Neither may an answer that was not read to its end be read by the next one.
            FailureKind::TooLarge => true,
            FailureKind::PoolExhausted | FailureKind::Refused | FailureKind::UnsupportedType => {
                false
            }
        }
    }

    /// Takes a secret out of the message, in case that a server repeats it.
    pub(crate) fn without(mut self, secret: Option<&str>) -> Self {
        // A shorter one would be no secret, and its place would show.
        const SHORTEST: usize = 4;
        if let Some(secret) = secret.filter(|secret| secret.len() >= SHORTEST) {
            self.message = self.message.replace(secret, "***");
        }
        self
    }
}

/// Returns the innermost reason: what the driver says itself is too little.
fn reason(error: &tokio_postgres::Error) -> String {
    let mut reason: &dyn Error = error;
    while let Some(source) = reason.source() {
        reason = source;
    }
    clean(&reason.to_string())
}

/// Bounds a message that comes from the server, and makes it safe to print.
fn clean(message: &str) -> String {
    const LONGEST: usize = 2000;
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    message.chars().take(LONGEST).map(printable).collect()
}

#[cfg(test)]
mod tests {
    use super::{Failure, FailureKind, clean};

    #[test]
    fn a_secret_that_a_server_repeats_is_taken_out() {
        let failure = Failure::new(FailureKind::Refused, "no hunter2 here: hunter2");
        assert_eq!(failure.without(Some("hunter2")).message, "no *** here: ***");
    }

    #[test]
    fn messages_are_bounded_and_safe_to_print() {
        assert_eq!(clean("a\u{1b}[2Jb\n"), "a [2Jb ");
        assert_eq!(clean(&"x".repeat(1_000_000)).len(), 2000);
    }
}
