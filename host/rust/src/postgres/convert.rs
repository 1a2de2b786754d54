//! Values of the interface and of the driver: the same, case by case.

use crate::bindings::exports::metalab::store::config::{Connection, TlsMode};
use crate::bindings::metalab::store::postgres as wire;
use metalab_store_postgres as driver;
use std::time::Duration;

/// Makes the driver's settings of a connection that the component described.
pub(super) fn settings(connection: Connection) -> driver::Settings {
    let size = |size: u32| usize::try_from(size).unwrap_or(usize::MAX);
    let mut settings = driver::Settings::new("", 0, connection.database);
    settings.hosts = connection.hosts;
    settings.user = connection.user;
    settings.password = connection.password;
    settings.tls_mode = match connection.tls_mode {
        TlsMode::Disable => driver::TlsMode::Disable,
        TlsMode::Prefer => driver::TlsMode::Prefer,
        TlsMode::Require => driver::TlsMode::Require,
        TlsMode::VerifyCa => driver::TlsMode::VerifyCa,
        TlsMode::VerifyFull => driver::TlsMode::VerifyFull,
    };
    settings.ca_file = connection.ca_file;
    settings.parameters = connection.parameters;
    settings.connect_timeout = Duration::from_millis(connection.connect_timeout_ms.into());
    settings.min_size = size(connection.pool_min_size);
    settings.max_size = size(connection.pool_max_size);
    settings
}

impl From<wire::Value> for driver::Value {
    fn from(value: wire::Value) -> Self {
        match value {
            wire::Value::Null => Self::Null,
            wire::Value::Boolean(value) => Self::Boolean(value),
            wire::Value::Integer(value) => Self::Integer(value),
            wire::Value::Float(value) => Self::Float(value),
            wire::Value::Text(value) => Self::Text(value),
            wire::Value::Bytes(value) => Self::Bytes(value),
            wire::Value::Json(value) => Self::Json(value),
            wire::Value::Timestamp(value) => Self::Timestamp(value),
            wire::Value::TextArray(value) => Self::TextArray(value),
        }
    }
}

impl From<driver::Value> for wire::Value {
    fn from(value: driver::Value) -> Self {
        match value {
            driver::Value::Null => Self::Null,
            driver::Value::Boolean(value) => Self::Boolean(value),
            driver::Value::Integer(value) => Self::Integer(value),
            driver::Value::Float(value) => Self::Float(value),
            driver::Value::Text(value) => Self::Text(value),
            driver::Value::Bytes(value) => Self::Bytes(value),
            driver::Value::Json(value) => Self::Json(value),
            driver::Value::Timestamp(value) => Self::Timestamp(value),
            driver::Value::TextArray(value) => Self::TextArray(value),
        }
    }
}

impl From<wire::Statement> for driver::Statement {
    fn from(statement: wire::Statement) -> Self {
        Self {
            sql: statement.sql,
            parameters: statement.parameters.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<driver::RowSet> for wire::RowSet {
    fn from(set: driver::RowSet) -> Self {
        let row = |row: Vec<driver::Value>| row.into_iter().map(Into::into).collect();
        Self {
            columns: set.columns,
            rows: set.rows.into_iter().map(row).collect(),
            affected: set.affected,
        }
    }
}

impl From<wire::Isolation> for driver::Isolation {
    fn from(isolation: wire::Isolation) -> Self {
        match isolation {
            wire::Isolation::ReadCommitted => Self::ReadCommitted,
            wire::Isolation::RepeatableRead => Self::RepeatableRead,
            wire::Isolation::Serializable => Self::Serializable,
        }
    }
}

impl From<driver::Failure> for wire::Failure {
    fn from(failure: driver::Failure) -> Self {
        Self {
            kind: match failure.kind {
                driver::FailureKind::Unreachable => wire::FailureKind::Unreachable,
                driver::FailureKind::PoolExhausted => wire::FailureKind::PoolExhausted,
                driver::FailureKind::TimedOut => wire::FailureKind::TimedOut,
                driver::FailureKind::Disconnected => wire::FailureKind::Disconnected,
                driver::FailureKind::Refused => wire::FailureKind::Refused,
                driver::FailureKind::UnsupportedType => wire::FailureKind::UnsupportedType,
                driver::FailureKind::TooLarge => wire::FailureKind::TooLarge,
            },
            sqlstate: failure.sqlstate,
            retryable: failure.retryable,
            outcome_unknown: failure.outcome_unknown,
            message: failure.message,
        }
    }
}
