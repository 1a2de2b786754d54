//! What `deny.toml` asks of the dependencies.

use crate::paths::Paths;
use crate::process::{Failure, cargo, output, run};
use crate::step;

/// What cargo-deny says if the list of known weaknesses cannot be fetched.
const UNREACHABLE: &str = "failed to fetch advisory database";

/// Checks licences, duplicates and sources; and known weaknesses, if their list can be reached. Says what was not checked.
pub(crate) fn check(paths: &Paths) -> Result<(), Failure> {
    step("check the dependencies");
    if output(cargo(paths).args(["deny", "--version"])).is_err() {
        println!("the dependencies were not checked: run `cargo install cargo-deny --locked` once");
        return Ok(());
    }
    // It reads the packages of all platforms, and a build fetched those of this one.
    run(cargo(paths).args(["fetch", "--locked"]))?;
    run(cargo(paths).args(["deny", "--offline", "check", "licenses", "bans", "sources"]))?;
    match output(cargo(paths).args(["deny", "check", "advisories"])) {
        Err(failure) if failure.to_string().contains(UNREACHABLE) => {
            println!(
                "known weaknesses were not looked for: their list cannot be fetched from here"
            );
            Ok(())
        }
        checked => checked.map(drop),
    }
}
