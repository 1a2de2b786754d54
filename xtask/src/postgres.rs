//! The PostgreSQL server that tests and benchmarks work on: one that the caller names, or a private one.

use crate::process::{Failure, run};
use crate::step;
use metalab_store_cluster::{Cluster, find_programs, is_root};
use std::env;
use std::path::Path;
use std::process::Command;

/// The variable that names a database in which the tests may create schemas.
const VARIABLE: &str = "METALAB_TEST_POSTGRES";

/// A server for as long as this is held. A private one is stopped and removed when it is dropped, and stops too
/// when this program is killed.
pub(crate) struct Server {
    uri: String,
    cluster: Option<Cluster>,
}

impl Server {
    /// Takes the server that the environment names, or starts one; installs PostgreSQL where that is possible.
    pub(crate) fn start() -> Result<Self, Failure> {
        if let Some(uri) = env::var(VARIABLE).ok().filter(|uri| !uri.is_empty()) {
            step(&format!("use the PostgreSQL server of {VARIABLE}"));
            return Ok(Self { uri, cluster: None });
        }
        if find_programs().is_none() {
            install()?;
        }
        step("start a private PostgreSQL server");
        let cluster = Cluster::start(&[]).map_err(|failure| Failure::new(failure.to_string()))?;
        Ok(Self {
            uri: cluster.uri(),
            cluster: Some(cluster),
        })
    }

    /// Tells a program where the server is.
    pub(crate) fn tell(&self, command: &mut Command) {
        command.env(VARIABLE, &self.uri);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.cluster.take().is_some() {
            step("the private PostgreSQL server is stopped and removed");
        }
    }
}

/// Installs the distribution's server, if this program may.
fn install() -> Result<(), Failure> {
    let apt = ["/usr/bin/apt-get", "/bin/apt-get"]
        .into_iter()
        .find(|path| Path::new(path).is_file());
    let (Some(apt), true) = (apt, is_root()) else {
        return Err(Failure::new(format!(
            "the tests need a PostgreSQL server: install it (`apt-get install postgresql`), or name a database in which they may create schemas in {VARIABLE}"
        )));
    };
    step("install PostgreSQL: apt-get install postgresql");
    let apt_get = || {
        let mut command = Command::new(apt);
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    let install = || {
        let arguments = ["install", "-y", "--no-install-recommends", "postgresql"];
        run(apt_get().args(arguments))
    };
    // The list of packages may be missing or out of date.
    if install().is_err() {
        run(apt_get().arg("update"))?;
        install()?;
    }
    if find_programs().is_none() {
        return Err(Failure::new(format!(
            "the tests need a PostgreSQL server, and installing it brought no initdb; name a database in which they may create schemas in {VARIABLE}"
        )));
    }
    Ok(())
}
