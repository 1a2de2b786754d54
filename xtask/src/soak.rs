//! The soak: processes of all hosts on two stores, with kills, restarts, a full disk and clocks that jump.

use crate::paths::Paths;
use crate::process::{Failure, run};
use crate::{build, node, python, step};
use std::process::Command;

/// How long the soak within the tests takes, in seconds.
pub(crate) const SHORT: &str = "60";

/// Builds the hosts that can be built here, and runs the soak.
pub(crate) fn soak(paths: &Paths, arguments: &[String]) -> Result<(), Failure> {
    build(paths)?;
    run(command(paths)?.args(arguments))
}

/// Returns the call that runs it. The Rust host is built already.
pub(crate) fn command(paths: &Paths) -> Result<Command, Failure> {
    let mut command = Command::new(paths.target.join("release/soak"));
    command.current_dir(&paths.root);
    match python::missing() {
        None => {
            command.env("METALAB_SOAK_PYTHON", python::build(paths)?);
            command.env("PYTHONDONTWRITEBYTECODE", "1");
        }
        Some(reason) => println!("the Python host is not soaked: {reason}"),
    }
    match node::missing() {
        None => {
            node::build(paths)?;
            command.env("METALAB_SOAK_NODE", "1");
        }
        Some(reason) => println!("the Node host is not soaked: {reason}"),
    }
    step("run the soak");
    Ok(command)
}
