//! Store configurations.

use crate::bindings::exports::metalab::store::config::{self as wire, Backend, Resolution};
use crate::bindings::exports::metalab::store::types::Error as WireError;
use crate::engine::Engine;
use crate::error::Result;
use crate::grant::{Clock, Grant};
use crate::instance::{Instance, Limits};
use crate::pool::{Answer, Pool, off_runtime};
use crate::postgres::Bindings;
use crate::store::Store;
use crate::types::{Access, Durability, ExperimentList};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How long a write waits for another writer by default.
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);

/// The configuration of a store of files.
///
/// It is a value: its methods return changed copies, and nothing is opened before [`connect`](Self::connect).
#[derive(Clone, Debug)]
pub struct FileStoreConfig(StoreConfig);

/// The configuration of a store of any kind, as a locator describes it.
#[derive(Clone)]
pub struct StoreConfig {
    root: PathBuf,
    backend: Backend,
    /// The experiments that the configuration was scoped to, in this order. Whether that makes sense is the
    /// component's to say.
    scopes: Vec<String>,
    access: Access,
    durability: Durability,
    lock_timeout: Duration,
    limits: Limits,
    max_instances: usize,
    engine: Option<Engine>,
    clock: Option<Clock>,
}

impl std::fmt::Debug for StoreConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The backend is left out: a connection string may hold a password.
        f.debug_struct("StoreConfig")
            .field("root", &self.root)
            .field("scopes", &self.scopes)
            .field("access", &self.access)
            .field("durability", &self.durability)
            .finish_non_exhaustive()
    }
}

impl FileStoreConfig {
    /// Makes the configuration of a collection of experiments in a directory, which need not exist.
    ///
    /// The path becomes absolute now, with links resolved as far as it exists; `~` is not expanded.
    #[must_use]
    pub fn new(root: impl AsRef<Path>) -> Self {
        Self(StoreConfig::new(absolute(root.as_ref()), Backend::File))
    }

    /// Limits it to an experiment. Scoping to a second one is an error that [`connect`](Self::connect) reports.
    #[must_use]
    pub fn scoped(self, experiment_id: impl Into<String>) -> Self {
        Self(self.0.scoped(experiment_id))
    }

    /// The same as [`scoped`](Self::scoped), under the name that reads better when browsing.
    #[must_use]
    pub fn for_experiment(self, experiment_id: impl Into<String>) -> Self {
        self.scoped(experiment_id)
    }

    /// Opens it to read only: nothing is created and nothing is changed.
    #[must_use]
    pub fn read_only(self) -> Self {
        Self(self.0.read_only())
    }

    /// Says what an acknowledged write survives.
    #[must_use]
    pub fn durability(self, durability: Durability) -> Self {
        Self(self.0.durability(durability))
    }

    /// Says how long a write waits for another writer of the same run. Default 30 s.
    #[must_use]
    pub fn lock_timeout(self, timeout: Duration) -> Self {
        Self(self.0.lock_timeout(timeout))
    }

    /// Says what an instance of the component may use.
    #[must_use]
    pub fn limits(self, limits: Limits) -> Self {
        Self(self.0.limits(limits))
    }

    /// Uses an engine of the caller's instead of the shared one.
    #[must_use]
    pub fn engine(self, engine: Engine) -> Self {
        Self(self.0.engine(engine))
    }

    /// Opens the store.
    ///
    /// # Errors
    /// [`Error::Root`] if the directory cannot be opened, and what the component reports.
    pub fn connect(&self) -> Result<Store> {
        self.0.connect()
    }

    /// Lists the experiments of the collection. A collection that does not exist has none.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] on a scoped configuration, [`Error::Root`].
    pub fn list_experiments(&self) -> Result<ExperimentList> {
        self.0.list_experiments()
    }
}

/// The configuration of a store of files with PostgreSQL as query index.
///
/// It is a value, like [`FileStoreConfig`]. It keeps what the user passed and nothing that is found out later,
/// and printing it shows no connection string.
#[derive(Clone, Debug)]
pub struct PostgresStoreConfig(StoreConfig);

impl PostgresStoreConfig {
    /// Makes the configuration of a collection of experiments in a directory, with a database as its index.
    ///
    /// The connection string is a URI or `keyword=value` pairs as libpq takes them. If it has no password, one
    /// for this very server is looked for in `services/postgres/service.json` below the directory.
    #[must_use]
    pub fn new(connection_string: impl Into<String>, file_root: impl AsRef<Path>) -> Self {
        let backend = Backend::Postgres(wire::PostgresConfig {
            connection_string: connection_string.into(),
            schema: "public".to_owned(),
            auto_migrate: true,
            connect_timeout_ms: 10_000,
            pool_min_size: 1,
            pool_max_size: 2,
            projection: true,
        });
        Self(StoreConfig::new(absolute(file_root.as_ref()), backend))
    }

    fn change(mut self, change: impl FnOnce(&mut wire::PostgresConfig)) -> Self {
        if let Backend::Postgres(postgres) = &mut self.0.backend {
            change(postgres);
        }
        self
    }

    /// Says which schema holds the tables. Default `public`.
    #[must_use]
    pub fn schema(self, schema: impl Into<String>) -> Self {
        self.change(|postgres| postgres.schema = schema.into())
    }

    /// Says whether tables that are missing are created. Default true.
    #[must_use]
    pub fn auto_migrate(self, auto_migrate: bool) -> Self {
        self.change(|postgres| postgres.auto_migrate = auto_migrate)
    }

    /// Says how long to wait for a connection. Default 10 s.
    #[must_use]
    pub fn connect_timeout(self, timeout: Duration) -> Self {
        let timeout = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        self.change(|postgres| postgres.connect_timeout_ms = timeout)
    }

    /// Says how many connections are kept open, and how many there are at most. Default 1 and 2.
    #[must_use]
    pub fn pool_size(self, min: u32, max: u32) -> Self {
        self.change(|postgres| (postgres.pool_min_size, postgres.pool_max_size) = (min, max))
    }

    /// Says whether the tables of the reference are written too. Default true.
    #[must_use]
    pub fn projection(self, projection: bool) -> Self {
        self.change(|postgres| postgres.projection = projection)
    }

    /// As [`FileStoreConfig::scoped`].
    #[must_use]
    pub fn scoped(self, experiment_id: impl Into<String>) -> Self {
        Self(self.0.scoped(experiment_id))
    }

    /// As [`FileStoreConfig::for_experiment`].
    #[must_use]
    pub fn for_experiment(self, experiment_id: impl Into<String>) -> Self {
        self.scoped(experiment_id)
    }

    /// As [`FileStoreConfig::read_only`]. The database is only read then, too.
    #[must_use]
    pub fn read_only(self) -> Self {
        Self(self.0.read_only())
    }

    /// As [`FileStoreConfig::durability`].
    #[must_use]
    pub fn durability(self, durability: Durability) -> Self {
        Self(self.0.durability(durability))
    }

    /// As [`FileStoreConfig::lock_timeout`].
    #[must_use]
    pub fn lock_timeout(self, timeout: Duration) -> Self {
        Self(self.0.lock_timeout(timeout))
    }

    /// As [`FileStoreConfig::limits`].
    #[must_use]
    pub fn limits(self, limits: Limits) -> Self {
        Self(self.0.limits(limits))
    }

    /// As [`FileStoreConfig::engine`].
    #[must_use]
    pub fn engine(self, engine: Engine) -> Self {
        Self(self.0.engine(engine))
    }

    /// Opens the store. A server that does not answer is no error: the files do.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a connection string that cannot be obeyed, and as
    /// [`FileStoreConfig::connect`].
    pub fn connect(&self) -> Result<Store> {
        self.0.connect()
    }

    /// Lists the experiments of the collection, from its files.
    ///
    /// # Errors
    /// As [`FileStoreConfig::list_experiments`].
    pub fn list_experiments(&self) -> Result<ExperimentList> {
        self.0.list_experiments()
    }

    /// Opens a store on files that are there, with a database as its index, and indexes them: a flat store, a
    /// collection, or, where the configuration is scoped, one experiment. `schema` is `public` by default.
    ///
    /// # Errors
    /// As [`connect`](Self::connect) and [`Store::rebuild_index`].
    pub fn from_filestore(
        connection_string: impl Into<String>,
        files: &FileStoreConfig,
        schema: Option<&str>,
    ) -> Result<Store> {
        let Self(made) =
            Self::new(connection_string, &files.0.root).schema(schema.unwrap_or("public"));
        let config = StoreConfig {
            backend: made.backend,
            ..files.0.clone()
        };
        let store = config.connect()?;
        store.rebuild_index()?.finish()?;
        Ok(store)
    }

    /// Returns the configuration of the same files without the database.
    #[must_use]
    pub fn to_filestore(&self) -> FileStoreConfig {
        let mut config = self.0.clone();
        config.backend = Backend::File;
        FileStoreConfig(config)
    }
}

impl From<PostgresStoreConfig> for StoreConfig {
    fn from(config: PostgresStoreConfig) -> Self {
        config.0
    }
}

impl From<FileStoreConfig> for StoreConfig {
    fn from(config: FileStoreConfig) -> Self {
        config.0
    }
}

impl StoreConfig {
    fn new(root: PathBuf, backend: Backend) -> Self {
        Self {
            root,
            backend,
            scopes: Vec::new(),
            access: Access::ReadWrite,
            durability: Durability::Full,
            lock_timeout: LOCK_TIMEOUT,
            limits: Limits::default(),
            max_instances: std::thread::available_parallelism().map_or(1, usize::from),
            engine: None,
            clock: None,
        }
    }

    /// Makes a configuration from a locator, for instance `./experiments` or
    /// `file:///data/experiments?experiment_id=my_exp:1.0`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the locator cannot be understood.
    pub fn from_locator(locator: &str) -> Result<Self> {
        let config = call(&Engine::shared()?, None, Limits::default(), |instance| {
            let guest = instance.bindings.metalab_store_config();
            guest.call_from_locator(&mut instance.store, locator)
        })?;
        let mut made = Self::new(absolute(Path::new(&config.root)), config.backend);
        made.scopes.extend(config.experiment_id);
        made.access = config.access;
        made.durability = config.durability;
        made.lock_timeout = Duration::from_millis(u64::from(config.lock_timeout_ms));
        Ok(made)
    }

    /// As [`FileStoreConfig::scoped`].
    #[must_use]
    pub fn scoped(mut self, experiment_id: impl Into<String>) -> Self {
        self.scopes.push(experiment_id.into());
        self
    }

    /// As [`FileStoreConfig::read_only`].
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.access = Access::ReadOnly;
        self
    }

    /// As [`FileStoreConfig::durability`].
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// As [`FileStoreConfig::lock_timeout`].
    #[must_use]
    pub fn lock_timeout(mut self, timeout: Duration) -> Self {
        self.lock_timeout = timeout;
        self
    }

    /// As [`FileStoreConfig::limits`].
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Says how many instances of the component may work at once. Default: one a core.
    #[must_use]
    pub fn max_instances(mut self, count: usize) -> Self {
        self.max_instances = count.max(1);
        self
    }

    /// As [`FileStoreConfig::engine`].
    #[must_use]
    pub fn engine(mut self, engine: Engine) -> Self {
        self.engine = Some(engine);
        self
    }

    /// Tells the store another time than the system's, as the time since 1970: for programs whose time is their own, and for
    /// tests of what a clock that is wrong does. No promise depends on it.
    #[must_use]
    pub fn clock(mut self, clock: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        self.clock = Some(Clock(Arc::new(clock)));
        self
    }

    /// Returns the collection root.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Says whether the configuration is limited to an experiment. An empty id is the whole collection.
    #[must_use]
    pub fn is_scoped(&self) -> bool {
        self.scopes.iter().any(|scope| !scope.is_empty())
    }

    /// Says whether the store has a database as its query index.
    pub(crate) fn has_database(&self) -> bool {
        matches!(self.backend, Backend::Postgres(_))
    }

    /// Returns the same configuration for another root.
    pub(crate) fn with_root(mut self, root: PathBuf) -> Self {
        self.root = root;
        self
    }

    pub(crate) fn used_engine(&self) -> Result<Engine> {
        self.engine.clone().map_or_else(Engine::shared, Ok)
    }

    /// Opens the store.
    ///
    /// # Errors
    /// As [`FileStoreConfig::connect`].
    pub fn connect(&self) -> Result<Store> {
        let engine = self.used_engine()?;
        // The file that says where a service is lies in the collection: only the short-lived instance that
        // looks for it sees it.
        let root = match self.backend {
            Backend::Postgres(_) if self.root.is_dir() => {
                Some(Grant::open(&self.root, None, Access::ReadOnly)?)
            }
            Backend::Postgres(_) | Backend::File => None,
        };
        let Resolution {
            subdirectory,
            options,
            connection,
            warnings,
        } = call(&engine, root.as_ref(), self.limits, |instance| {
            let config = match self.wire(instance)? {
                Ok(config) => config,
                Err(error) => return Ok(Err(error)),
            };
            let guest = instance.bindings.metalab_store_config();
            guest.call_resolve(&mut instance.store, &config)
        })?;
        let bindings = match (&self.backend, &options.index, connection) {
            (Backend::Postgres(_), Some(index), Some(connection)) => {
                Bindings::one(&index.binding, connection)?
            }
            // A store of files is granted no database, whatever the component says.
            _ => Bindings::default(),
        };
        let grant = Grant::open(&self.root, subdirectory.as_deref(), self.access)?;
        let grant = grant.with_bindings(bindings).with_clock(self.clock.clone());
        let pool = Pool::open(engine, grant, options, self.limits, self.max_instances)?;
        Ok(Store::new(self.clone(), pool, warnings))
    }

    /// Lists the experiments of the collection.
    ///
    /// # Errors
    /// As [`FileStoreConfig::list_experiments`].
    pub fn list_experiments(&self) -> Result<ExperimentList> {
        let grant = match self.root.try_exists() {
            // Nothing to look at; that is an answer of the component's too.
            Ok(false) => None,
            // What is there and cannot be opened is an error, not an empty collection.
            _ => Some(Grant::open(&self.root, None, Access::ReadOnly)?),
        };
        call(
            &self.used_engine()?,
            grant.as_ref(),
            self.limits,
            |instance| {
                let config = match self.wire(instance)? {
                    Ok(config) => config,
                    Err(error) => return Ok(Err(error)),
                };
                let guest = instance.bindings.metalab_store_config();
                guest.call_list_experiments(&mut instance.store, &config)
            },
        )
    }

    /// Returns the configuration as the component takes it, scoped by the component.
    fn wire(&self, instance: &mut Instance) -> Answer<wire::StoreConfig> {
        let Some(root) = self.root.to_str() else {
            return Ok(Err(WireError::InvalidArgument(format!(
                "the path {:?} is not UTF-8",
                self.root
            ))));
        };
        let mut config = wire::StoreConfig {
            backend: self.backend.clone(),
            root: root.to_owned(),
            experiment_id: None,
            access: self.access,
            durability: self.durability,
            lock_timeout_ms: u32::try_from(self.lock_timeout.as_millis()).unwrap_or(u32::MAX),
        };
        let guest = instance.bindings.metalab_store_config();
        for scope in &self.scopes {
            config = match guest.call_scoped(&mut instance.store, &config, scope)? {
                Ok(config) => config,
                Err(error) => return Ok(Err(error)),
            };
        }
        Ok(Ok(config))
    }
}

/// Calls a function of a short-lived instance.
fn call<T: Send>(
    engine: &Engine,
    grant: Option<&Grant>,
    limits: Limits,
    function: impl FnOnce(&mut Instance) -> Answer<T> + Send,
) -> Result<T> {
    off_runtime(|| Instance::new(engine, grant, limits)?.call(function)?)
}

/// Makes a path absolute: links resolved as far as it exists, the rest as it is.
fn absolute(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for existing in absolute.ancestors() {
        if let Ok(resolved) = existing.canonicalize() {
            let rest = absolute.strip_prefix(existing).unwrap_or(Path::new(""));
            return if rest.as_os_str().is_empty() {
                resolved
            } else {
                resolved.join(rest)
            };
        }
    }
    absolute
}
