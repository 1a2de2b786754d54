//! The PostgreSQL server that tests need: the one that the environment names, or a private one.

use crate::process::{Failure, run};
use crate::step;
use metalab_store_cluster::{Cluster, find_programs};
use std::env;
use std::process::Command;

/// Names the server for the tests.
const VARIABLE: &str = "METALAB_TEST_POSTGRES";

/// A server. A private one is stopped and removed when this is dropped.
pub(crate) enum Server {
    /// The environment names it.
    Named,
    /// It was started for us.
    Private(Box<Cluster>),
}

impl Server {
    /// Finds or starts a server; installs one before if it is missing and that is possible.
    pub(crate) fn provide() -> Result<Self, Failure> {
        if env::var_os(VARIABLE).is_some() {
            return Ok(Self::Named);
        }
        if find_programs().is_none() {
            install()?;
        }
        step("start a private PostgreSQL server");
        let cluster = Cluster::start(&[("max_connections", "200")])
            .map_err(|failure| Failure::new(failure.to_string()))?;
        Ok(Self::Private(Box::new(cluster)))
    }

    /// Names the server to a program.
    pub(crate) fn name_in(&self, command: &mut Command) {
        if let Self::Private(cluster) = self {
            command.env(VARIABLE, cluster.uri());
        }
    }
}

/// Installs the server from the distribution.
fn install() -> Result<(), Failure> {
    let missing = || {
        Failure::new(format!(
            "the tests need the PostgreSQL programs initdb and postgres: run `apt-get install postgresql` as root, or name a server in {VARIABLE}"
        ))
    };
    if !rustix::process::geteuid().is_root()
        || Command::new("apt-get").arg("--version").output().is_err()
    {
        return Err(missing());
    }
    step("install PostgreSQL from the distribution (apt-get)");
    let apt = |arguments: &[&str]| {
        run(Command::new("apt-get")
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive"))
    };
    apt(&["-q", "update"])?;
    apt(&["-q", "-y", "install", "postgresql"])?;
    find_programs().map(drop).ok_or_else(missing)
}
