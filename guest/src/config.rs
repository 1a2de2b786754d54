//! Store configurations: locators, scoping, and what a host must grant.

use crate::codec;
use crate::collection;
use crate::connection::{self, Connection, LOCAL, Parts, TlsMode};
use crate::error::{Error, Result};
use crate::json::Value;
use crate::layout;
use crate::model::{Access, Damage, Durability, IndexOptions, StoreOptions};
use crate::names::ExperimentId;
use crate::ports::Ports;
use crate::scope::Scope;
use crate::tree::Tree;
use std::rc::Rc;

/// The name under which a store's component knows its pool of connections.
const BINDING: &str = "index";

/// The most bytes of a file that says where a service is.
const MAX_SERVICE: u64 = 64 * 1024;

/// The parameters of a PostgreSQL locator that are the store's own; all others are the server's.
const OWN_PARAMETERS: [&str; 7] = [
    "file_root",
    "schema",
    "experiment_id",
    "auto_migrate",
    "pool_min_size",
    "pool_max_size",
    "projection",
];

/// How long a write waits for another writer by default, in milliseconds.
pub const LOCK_TIMEOUT_MS: u32 = 30_000;

/// A parsed locator.
#[derive(Clone, PartialEq, Eq)]
pub struct Locator {
    /// What stands before the colon.
    pub scheme: String,
    /// The path, or the database's name.
    pub path: String,
    /// The host.
    pub host: Option<String>,
    /// The port.
    pub port: Option<u16>,
    /// The user.
    pub user: Option<String>,
    /// The password.
    pub password: Option<String>,
    /// The parameters; of equal keys the first.
    pub parameters: Vec<(String, String)>,
}

/// The PostgreSQL side of a store.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresConfig {
    /// As the user passed it; may hold a password.
    pub connection_string: String,
    /// The schema that holds the tables.
    pub schema: String,
    /// Whether tables are created when missing.
    pub auto_migrate: bool,
    /// How long to wait for a connection, in milliseconds.
    pub connect_timeout_ms: u32,
    /// Connections kept open.
    pub pool_min_size: u32,
    /// Connections at most.
    pub pool_max_size: u32,
    /// Whether the reference's tables are written too.
    pub projection: bool,
}

/// Which backend a store uses.
#[derive(Clone, PartialEq, Eq)]
pub enum Backend {
    /// Files alone.
    File,
    /// Files, with PostgreSQL as query index.
    Postgres(PostgresConfig),
}

/// A store configuration.
#[derive(Clone, PartialEq, Eq)]
pub struct StoreConfig {
    /// Which backend.
    pub backend: Backend,
    /// The collection root, by its name outside.
    pub root: String,
    /// The experiment that the store is limited to.
    pub experiment_id: Option<String>,
    /// What may be done with it.
    pub access: Access,
    /// What an acknowledged write survives.
    pub durability: Durability,
    /// How long a write waits for another writer, in milliseconds.
    pub lock_timeout_ms: u32,
}

/// What a host has to grant for a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolution {
    /// The directory to grant, directly below the root; none: the root.
    pub subdirectory: Option<String>,
    /// What to open the store with.
    pub options: StoreOptions,
    /// The server to connect the binding to.
    pub connection: Option<Connection>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// The experiments of a collection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExperimentList {
    /// Their ids, each once, sorted.
    pub experiments: Vec<String>,
    /// Files that should name an experiment and do not.
    pub damaged: Vec<Damage>,
}

/// Splits a locator into its parts.
///
/// # Errors
/// `invalid-argument`; the message never repeats a password.
pub fn parse_locator(text: &str) -> Result<Locator> {
    let text = text.trim();
    if text.is_empty() {
        return Err(Error::InvalidArgument(
            "the locator is empty; name a directory, for instance ./experiments".into(),
        ));
    }
    if text.contains('\0') {
        return Err(Error::InvalidArgument(
            "the locator holds a NUL character".into(),
        ));
    }
    if text.eq_ignore_ascii_case("discover") {
        return Err(Error::InvalidArgument(
            "\"discover\" is resolved by the experiment runner; pass the locator that it found"
                .into(),
        ));
    }
    let mut characters = text.chars();
    let drive = characters
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic())
        && characters.next() == Some(':');
    if text.starts_with('/') || text.starts_with("./") || text.starts_with("..") || drive {
        return Ok(file(text));
    }
    let Some((scheme, rest)) = split_scheme(text) else {
        return Ok(file(text));
    };
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let parameters = parameters(query)?;
    let Some(rest) = rest.strip_prefix("//") else {
        return Ok(Locator {
            scheme,
            parameters,
            ..file(rest)
        });
    };
    let (authority, path) = rest
        .find('/')
        .map_or((rest, ""), |slash| rest.split_at(slash));
    if scheme == "file" {
        // The reference drops the authority, and so reads and writes `/x` for `file://runs/x`.
        if !authority.is_empty() && authority != "localhost" {
            return Err(Error::InvalidArgument(format!(
                "file://{authority}{path} names a host; write file:///{authority}{path} for an absolute path, or ./{authority}{path} for a relative one"
            )));
        }
        if path.is_empty() {
            return Err(Error::InvalidArgument(
                "the file locator names no path".into(),
            ));
        }
        return Ok(Locator {
            scheme,
            parameters,
            ..file(path)
        });
    }
    let (credentials, server) = authority
        .rsplit_once('@')
        .map_or((None, authority), |(left, right)| (Some(left), right));
    let (user, password) = match credentials.map(|text| {
        text.split_once(':')
            .map_or((text, None), |(u, p)| (u, Some(p)))
    }) {
        None => (None, None),
        Some((user, password)) => (Some(decode(user)?), password.map(decode).transpose()?),
    };
    let (host, port) = split_port(server)?;
    Ok(Locator {
        scheme,
        path: decode(path.trim_start_matches('/'))?,
        host: (!host.is_empty()).then(|| host.to_owned()),
        port,
        user,
        password,
        parameters,
    })
}

fn file(path: &str) -> Locator {
    Locator {
        scheme: "file".into(),
        path: path.to_owned(),
        host: None,
        port: None,
        user: None,
        password: None,
        parameters: Vec::new(),
    }
}

/// Splits off a scheme as RFC 3986 spells it.
fn split_scheme(text: &str) -> Option<(String, &str)> {
    let (scheme, rest) = text.split_once(':')?;
    let first = scheme.chars().next()?;
    let spelled = scheme
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    (first.is_ascii_alphabetic() && spelled).then(|| (scheme.to_ascii_lowercase(), rest))
}

fn split_port(server: &str) -> Result<(&str, Option<u16>)> {
    // The port follows the bracket of an IPv6 address, and of several hosts only one alone has its own.
    let after = server.rfind(']').map_or(0, |bracket| bracket + 1);
    let Some(colon) = server[after..].rfind(':').map(|colon| after + colon) else {
        return Ok((server.trim_start_matches('[').trim_end_matches(']'), None));
    };
    if server.contains(',') {
        return Ok((server, None));
    }
    let (host, port) = (&server[..colon], &server[colon + 1..]);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if port.is_empty() {
        return Ok((host, None));
    }
    let number = port.parse().map_err(|_| {
        Error::InvalidArgument(format!("the locator's port {port:?} is not a port"))
    })?;
    Ok((host, Some(number)))
}

fn parameters(query: &str) -> Result<Vec<(String, String)>> {
    let mut found: Vec<(String, String)> = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (key, value) = (
            decode(&key.replace('+', " "))?,
            decode(&value.replace('+', " "))?,
        );
        if !found.iter().any(|(other, _)| *other == key) {
            found.push((key, value));
        }
    }
    Ok(found)
}

/// Decodes `%XX`. What is not a valid escape stays as it is.
fn decode(text: &str) -> Result<String> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let escape = (bytes[index] == b'%')
            .then(|| bytes.get(index + 1..index + 3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match escape {
            Some(byte) => {
                decoded.push(byte);
                index += 3;
            }
            None => {
                decoded.push(bytes[index]);
                index += 1;
            }
        }
    }
    String::from_utf8(decoded).map_err(|_| {
        Error::InvalidArgument("a percent-encoded part of the locator is not UTF-8".into())
    })
}

/// Makes a configuration from a locator.
///
/// # Errors
/// `invalid-argument` for an unknown scheme, a missing or an unknown parameter.
pub fn from_locator(text: &str) -> Result<StoreConfig> {
    let locator = parse_locator(text)?;
    let parameter = |name: &str| {
        locator
            .parameters
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.clone())
    };
    let experiment_id = parameter("experiment_id").filter(|id| !id.is_empty());
    if let Some(id) = &experiment_id {
        ExperimentId::parse(id)?;
    }
    let (backend, root) = match locator.scheme.as_str() {
        "file" => {
            if let Some((key, _)) = locator
                .parameters
                .iter()
                .find(|(key, _)| key != "experiment_id")
            {
                return Err(Error::InvalidArgument(format!(
                    "the file locator has the parameter {key:?}; only experiment_id is known"
                )));
            }
            (Backend::File, locator.path.clone())
        }
        "postgresql" | "postgres" => {
            let Some(root) = parameter("file_root").filter(|root| !root.is_empty()) else {
                return Err(Error::InvalidArgument(
                    "a PostgreSQL store needs a directory for its files: add ?file_root=/path/to/experiments".into(),
                ));
            };
            (Backend::Postgres(postgres(text.trim(), &parameter)?), root)
        }
        other => {
            return Err(Error::InvalidArgument(format!(
                "unknown store scheme {other:?}; known are file and postgresql. A directory whose name holds a colon is written with ./ before it"
            )));
        }
    };
    Ok(StoreConfig {
        backend,
        root,
        experiment_id,
        access: Access::ReadWrite,
        durability: Durability::Full,
        lock_timeout_ms: LOCK_TIMEOUT_MS,
    })
}

/// Keeps the connection string as it was passed, without the parameters that are the store's own.
fn postgres(text: &str, parameter: &impl Fn(&str) -> Option<String>) -> Result<PostgresConfig> {
    let (base, query) = text.split_once('?').unwrap_or((text, ""));
    let kept: Vec<&str> = query
        .split('&')
        .filter(|pair| {
            !pair.is_empty()
                && !OWN_PARAMETERS.contains(&pair.split('=').next().unwrap_or_default())
        })
        .collect();
    let connection_string = if kept.is_empty() {
        base.to_owned()
    } else {
        format!("{base}?{}", kept.join("&"))
    };
    let refuse = |name: &str, wanted: &str| {
        Error::InvalidArgument(format!("the locator's parameter {name} is {wanted}"))
    };
    let truth = |name: &str| match parameter(name).as_deref() {
        None | Some("true") => Ok(true),
        Some("false") => Ok(false),
        Some(_) => Err(refuse(name, "true or false")),
    };
    let size = |name: &str, default: u32| match parameter(name) {
        None => Ok(default),
        Some(text) => text
            .parse()
            .map_err(|_| refuse(name, "a number of connections")),
    };
    let config = PostgresConfig {
        connection_string,
        schema: parameter("schema")
            .filter(|schema| !schema.is_empty())
            .unwrap_or_else(|| "public".into()),
        auto_migrate: truth("auto_migrate")?,
        connect_timeout_ms: 10_000,
        pool_min_size: size("pool_min_size", 1)?,
        pool_max_size: size("pool_max_size", 2)?,
        projection: truth("projection")?,
    };
    // What is wrong with the address is said now, not when the store is opened.
    connection::parse(&config.connection_string)?;
    Ok(config)
}

/// Finds the server of a configuration. Where the user passed no password, the collection's own file is
/// looked at: it may hold one for the very server that the user named.
fn connect(
    config: &PostgresConfig,
    ports: Option<&Ports>,
    warnings: &mut Vec<String>,
) -> Result<Connection> {
    if config.pool_max_size == 0 || config.pool_min_size > config.pool_max_size {
        return Err(Error::InvalidArgument(format!(
            "a pool of at least {} and at most {} connections is none",
            config.pool_min_size, config.pool_max_size
        )));
    }
    let mut parts = connection::parse(&config.connection_string)?;
    if parts.password.is_none()
        && let Some(ports) = ports
    {
        let tree = Tree::new(Rc::clone(&ports.directory));
        let path = layout::postgres_service();
        match discover(&tree, &parts) {
            Ok(None) => {}
            Ok(Some(found)) => parts = found,
            Err(reason) => warnings.push(format!("{path} is ignored: {reason}")),
        }
    }
    let user = parts.user;
    Ok(Connection {
        hosts: match parts.hosts.is_empty() {
            true => vec![(LOCAL.to_owned(), Parts::PORT)],
            false => parts.hosts,
        },
        // As libpq: a database is called like its user, unless it is named.
        database: parts.database.or_else(|| user.clone()).unwrap_or_default(),
        user,
        password: parts.password,
        tls_mode: parts.tls_mode.unwrap_or(TlsMode::Prefer),
        ca_file: parts.ca_file,
        parameters: parts.parameters,
        connect_timeout_ms: parts
            .connect_timeout_ms
            .unwrap_or(config.connect_timeout_ms),
        pool_min_size: config.pool_min_size,
        pool_max_size: config.pool_max_size,
    })
}

/// Completes the parts of a connection string with what the collection's own file says of the same server;
/// none if there is no such file.
///
/// Whoever can write the collection can write this file: it never leads what the user passed elsewhere. The
/// reason of a refusal holds nothing of the file's content.
fn discover(tree: &Tree, parts: &Parts) -> std::result::Result<Option<Parts>, String> {
    let path = layout::postgres_service();
    let content = tree
        .read(&path, MAX_SERVICE)
        .map_err(|error| error.to_string())?;
    let Some(content) = content else {
        return Ok(None);
    };
    let service = codec::parse_object(&path.to_string(), &content)
        .map_err(|_| "it is not a JSON object".to_owned())?;
    let text = |name: &str| match service.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.as_str().is_some_and(|text| !text.contains('\0')) => {
            Ok(text
                .as_str()
                .filter(|text| !text.is_empty())
                .map(str::to_owned))
        }
        Some(_) => Err(format!("its `{name}` should be a text")),
    };
    let required = |name: &str| text(name)?.ok_or_else(|| format!("it has no `{name}`"));
    let (host, database, user) = (required("host")?, required("database")?, required("user")?);
    let port = match service.get("port") {
        Some(Value::Int(port)) => u16::try_from(*port).ok().filter(|port| *port != 0),
        Some(Value::String(port)) => port.as_str().and_then(|port| port.parse().ok()),
        _ => None,
    };
    let port = port.ok_or("its `port` should be a number from 1 to 65535")?;
    let server = (host, port);
    // It says where the connection goes, whatever host the file names.
    let has_address = parts.parameters.iter().any(|(name, _)| name == "hostaddr");
    if has_address && parts.hosts.is_empty() {
        return Err("the locator names an address with `hostaddr`, and no host to compare".into());
    }
    if !parts.hosts.is_empty() && !parts.hosts.iter().all(|named| same_server(named, &server)) {
        return Err("it is about another server than the locator names".into());
    }
    let differs =
        |named: &Option<String>, found: &str| named.as_ref().is_some_and(|named| named != found);
    if differs(&parts.database, &database) {
        return Err("it is about another database than the locator names".into());
    }
    if differs(&parts.user, &user) {
        return Err("it is about another user than the locator names".into());
    }
    Ok(Some(Parts {
        hosts: vec![server],
        database: Some(database),
        user: Some(user),
        password: text("password")?,
        ..parts.clone()
    }))
}

fn same_server(left: &(String, u16), right: &(String, u16)) -> bool {
    left.0.eq_ignore_ascii_case(&right.0) && left.1 == right.1
}

/// Returns the configuration limited to an experiment.
///
/// # Errors
/// `invalid-name` if the id is no safe name, `invalid-argument` if the configuration is limited to
/// another experiment already.
pub fn scoped(mut config: StoreConfig, experiment_id: &str) -> Result<StoreConfig> {
    let id = ExperimentId::parse(experiment_id)?;
    match experiment(&config) {
        Some(current) if current != experiment_id => Err(Error::InvalidArgument(format!(
            "the configuration is scoped to {current:?} already and cannot be re-scoped to {experiment_id:?}; start from the unscoped one"
        ))),
        _ => {
            config.experiment_id = Some(id.as_str().to_owned());
            Ok(config)
        }
    }
}

fn experiment(config: &StoreConfig) -> Option<&str> {
    config.experiment_id.as_deref().filter(|id| !id.is_empty())
}

/// Says what the host must grant to open the store. The ports are those of the collection's root, to read.
///
/// # Errors
/// `invalid-name` for an experiment id that is no safe name, `invalid-argument` for a connection string
/// that cannot be obeyed.
pub fn resolve(config: &StoreConfig, ports: Option<&Ports>) -> Result<Resolution> {
    let mut warnings = Vec::new();
    let (index, connection) = match &config.backend {
        Backend::File => (None, None),
        Backend::Postgres(postgres) => {
            let index = IndexOptions {
                binding: BINDING.to_owned(),
                schema: postgres.schema.clone(),
                auto_migrate: postgres.auto_migrate,
                projection: postgres.projection,
            };
            let connection = connect(postgres, ports, &mut warnings)?;
            (Some(index), Some(connection))
        }
    };
    let experiment = experiment(config).map(ExperimentId::parse).transpose()?;
    // The names of the store's own directories are refused: an experiment called `runs` has no place.
    let subdirectory = match &experiment {
        Some(id) => Some(layout::experiment_directory(id)?.to_string()),
        None => None,
    };
    let root = config.root.trim_end_matches('/');
    let directory = match &subdirectory {
        Some(name) => format!("{root}/{name}"),
        None if root.is_empty() => "/".to_owned(),
        None => root.to_owned(),
    };
    Ok(Resolution {
        subdirectory,
        options: StoreOptions {
            directory,
            experiment_id: experiment.map(|id| id.as_str().to_owned()),
            access: config.access,
            durability: config.durability,
            lock_timeout_ms: config.lock_timeout_ms,
            index,
        },
        connection,
        warnings,
    })
}

/// Lists the experiments of the collection in the granted directory; none granted means none there.
///
/// # Errors
/// `invalid-argument` on a scoped configuration, `io`.
pub fn list_experiments(config: &StoreConfig, ports: Option<Ports>) -> Result<ExperimentList> {
    if let Some(id) = experiment(config) {
        return Err(Error::InvalidArgument(format!(
            "cannot list experiments on a configuration scoped to {id:?}; use the unscoped one"
        )));
    }
    let Some(ports) = ports else {
        return Ok(ExperimentList {
            experiments: Vec::new(),
            damaged: Vec::new(),
        });
    };
    let options = StoreOptions {
        directory: config.root.clone(),
        experiment_id: None,
        access: Access::ReadOnly,
        durability: config.durability,
        lock_timeout_ms: config.lock_timeout_ms,
        index: None,
    };
    let found = collection::discover(&Scope::new(ports, Rc::new(options), None))?;
    let mut experiments: Vec<String> = found
        .scopes
        .iter()
        .filter_map(|scope| scope.experiment.as_ref())
        .map(|id| id.as_str().to_owned())
        .collect();
    experiments.dedup();
    Ok(ExperimentList {
        experiments,
        damaged: found.damaged,
    })
}
