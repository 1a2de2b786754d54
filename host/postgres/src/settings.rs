//! Where a server is, and within which bounds it is used.

use crate::failure::{Failure, FailureKind};
use std::time::Duration;
use tokio_postgres::Config;
use tokio_postgres::config::{ChannelBinding, LoadBalanceHosts, SslMode, TargetSessionAttrs};

/// How to encrypt a connection, in libpq's terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    /// Never.
    Disable,
    /// If the server can.
    Prefer,
    /// Always, whoever the server is.
    Require,
    /// Always, with a certificate of a trusted authority.
    VerifyCa,
    /// Always, with a certificate that also names the host.
    VerifyFull,
}

/// A server and how to use it.
#[derive(Clone)]
pub struct Settings {
    /// Host names, addresses or socket directories, with ports; tried in order.
    pub hosts: Vec<(String, u16)>,
    /// The database.
    pub database: String,
    /// The user; none: the name of the user that this program runs as.
    pub user: Option<String>,
    /// The password.
    pub password: Option<String>,
    /// How to encrypt.
    pub tls_mode: TlsMode,
    /// A file with the certificates to trust; none: the system's.
    pub ca_file: Option<String>,
    /// All other parameters, by their names in libpq.
    pub parameters: Vec<(String, String)>,
    /// How long to wait for a connection, and for one of the pool to become free.
    pub connect_timeout: Duration,
    /// Connections that stay open.
    pub min_size: usize,
    /// Connections at most.
    pub max_size: usize,
    /// How long a statement outside a transaction may take. Default 30 s.
    pub statement_timeout: Duration,
    /// How long a statement within a transaction may take. Default 10 minutes: a rebuild creates indexes.
    pub transaction_timeout: Duration,
    /// How long a transaction may be open before its connection is taken back for others. Default 30 minutes.
    pub transaction_max_age: Duration,
    /// How many bytes an answer may have. Default 64 MiB.
    pub max_answer: usize,
}

impl Settings {
    /// Makes the settings of a server on this machine.
    #[must_use]
    pub fn new(host: impl Into<String>, port: u16, database: impl Into<String>) -> Self {
        Self {
            hosts: vec![(host.into(), port)],
            database: database.into(),
            user: None,
            password: None,
            tls_mode: TlsMode::Prefer,
            ca_file: None,
            parameters: Vec::new(),
            connect_timeout: Duration::from_secs(10),
            min_size: 1,
            max_size: 2,
            statement_timeout: Duration::from_secs(30),
            transaction_timeout: Duration::from_mins(10),
            transaction_max_age: Duration::from_mins(30),
            max_answer: 64 * 1024 * 1024,
        }
    }

    /// Says whether the server is told how long statements may take: not if the user's own options tell it.
    pub(crate) fn tells_timeout(&self) -> bool {
        !self
            .parameters
            .iter()
            .any(|(name, value)| name == "options" && value.contains("statement_timeout"))
    }

    /// Makes the driver's configuration.
    pub(crate) fn config(&self) -> Result<Config, Failure> {
        let mut config = Config::new();
        for (host, port) in &self.hosts {
            config.host(host).port(*port);
        }
        let user = self.user.clone().or_else(system_user);
        let user = user.unwrap_or_else(|| "postgres".to_owned());
        if !self.database.is_empty() {
            config.dbname(&self.database);
        }
        config.user(user);
        if let Some(password) = &self.password {
            config.password(password);
        }
        // As in libpq: a socket of this machine is not encrypted, whatever the mode.
        let is_local = self
            .hosts
            .iter()
            .all(|(host, _)| host.starts_with(['/', '@']));
        config.ssl_mode(match self.tls_mode {
            _ if is_local => SslMode::Disable,
            TlsMode::Disable => SslMode::Disable,
            TlsMode::Prefer => SslMode::Prefer,
            TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => SslMode::Require,
        });
        config
            .connect_timeout(self.connect_timeout)
            .keepalives_idle(Duration::from_secs(30))
            .application_name("metalab-store");
        for (name, value) in &self.parameters {
            obey(&mut config, name, value)?;
        }
        Ok(config)
    }
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Neither the password nor the parameters.
        f.debug_struct("Settings")
            .field("hosts", &self.hosts)
            .field("database", &self.database)
            .field("user", &self.user)
            .field("tls_mode", &self.tls_mode)
            .finish_non_exhaustive()
    }
}

fn system_user() -> Option<String> {
    ["USER", "LOGNAME"]
        .iter()
        .find_map(|name| std::env::var(name).ok())
        .filter(|name| !name.is_empty())
}

fn obey(config: &mut Config, name: &str, value: &str) -> Result<(), Failure> {
    let refused = || {
        Failure::new(
            FailureKind::Unreachable,
            format!("the connection parameter {name} has a value that it cannot have"),
        )
    };
    let seconds = || {
        value
            .parse()
            .map(Duration::from_secs)
            .map_err(|_| refused())
    };
    match name {
        "application_name" => {
            config.application_name(value);
        }
        "options" => {
            config.options(value);
        }
        "target_session_attrs" => {
            config.target_session_attrs(match value {
                "any" => TargetSessionAttrs::Any,
                "read-write" => TargetSessionAttrs::ReadWrite,
                "read-only" => TargetSessionAttrs::ReadOnly,
                _ => return Err(refused()),
            });
        }
        "channel_binding" => {
            config.channel_binding(match value {
                "disable" => ChannelBinding::Disable,
                "prefer" => ChannelBinding::Prefer,
                "require" => ChannelBinding::Require,
                _ => return Err(refused()),
            });
        }
        "load_balance_hosts" => {
            config.load_balance_hosts(match value {
                "disable" => LoadBalanceHosts::Disable,
                "random" => LoadBalanceHosts::Random,
                _ => return Err(refused()),
            });
        }
        "hostaddr" => {
            for address in value.split(',') {
                config.hostaddr(address.parse().map_err(|_| refused())?);
            }
        }
        "keepalives" => {
            config.keepalives(value != "0");
        }
        "keepalives_idle" => {
            config.keepalives_idle(seconds()?);
        }
        "keepalives_interval" => {
            config.keepalives_interval(seconds()?);
        }
        "keepalives_count" => {
            config.keepalives_retries(value.parse().map_err(|_| refused())?);
        }
        "tcp_user_timeout" => {
            let millis = value.parse().map_err(|_| refused())?;
            config.tcp_user_timeout(Duration::from_millis(millis));
        }
        _ => {
            return Err(Failure::new(
                FailureKind::Unreachable,
                format!("the connection parameter {name:?} cannot be obeyed"),
            ));
        }
    }
    Ok(())
}
