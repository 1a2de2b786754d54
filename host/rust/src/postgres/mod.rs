//! The `postgres` import: connection pools that this host made, under the names by which the component knows them.
//!
//! `host` implements the interface, `convert` turns its values into the driver's. The component never sees an address
//! or a password, and cannot name a pool that it was not granted.

mod convert;
mod host;

use crate::bindings::exports::metalab::store::config::Connection;
use crate::error::{Error, Result};
use metalab_store_postgres as driver;
use std::collections::BTreeMap;
use std::sync::Arc;
use wasmtime::component::ResourceTable;

pub use host::{HeldCopy, HeldCursor, HeldTransaction};

/// The pools that an instance may use, by name.
#[derive(Clone, Debug, Default)]
pub struct Bindings(Arc<BTreeMap<String, driver::Pool>>);

impl Bindings {
    /// Grants one pool.
    #[must_use]
    pub fn new(name: impl Into<String>, pool: driver::Pool) -> Self {
        Self(Arc::new(BTreeMap::from([(name.into(), pool)])))
    }

    /// Makes a pool for the server that a configuration leads to. It connects when it is first used.
    pub(crate) fn one(name: &str, connection: Connection) -> Result<Self> {
        let pool = driver::Pool::new(convert::settings(connection))
            .map_err(|failure| Error::InvalidArgument(failure.message))?;
        Ok(Self::new(name, pool))
    }

    fn get(&self, name: &str) -> Option<&driver::Pool> {
        self.0.get(name)
    }

    /// Closes the pools: idle connections now, others when they come back.
    pub(crate) fn close(&self) {
        for pool in self.0.values() {
            pool.close();
        }
    }
}

/// What the `postgres` import works on: the pools, and the instance's table of resources.
pub struct PostgresView<'a> {
    /// The pools.
    pub bindings: &'a Bindings,
    /// The table that holds transactions, cursors and COPYs.
    pub table: &'a mut ResourceTable,
}

impl std::fmt::Debug for PostgresView<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresView").finish_non_exhaustive()
    }
}
