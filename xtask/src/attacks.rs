//! The table of attacks in `tests/README.md`: made of what the tests counted, never by hand.

use crate::paths::Paths;
use crate::process::{Failure, run};
use crate::step;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::{env, fs};

/// Names the file that tests append attacks to.
const VARIABLE: &str = "METALAB_STORE_ATTACKS";

/// Where the table stands, between these two lines.
const BEGIN: &str =
    "<!-- attacks: made by `cargo xtask test`, accepted with METALAB_STORE_ATTACKS=accept -->\n";
const END: &str = "<!-- end of attacks -->\n";

/// What the tests count while they run.
pub(crate) struct Attacks(PathBuf);

impl Attacks {
    /// Begins to count.
    pub(crate) fn begin(paths: &Paths) -> Result<Self, Failure> {
        let file = paths.target.join("attacks.txt");
        fs::create_dir_all(&paths.target)
            .and_then(|()| fs::write(&file, ""))
            .map_err(|error| Failure::new(format!("{}: {error}", file.display())))?;
        Ok(Self(file))
    }

    /// Names the file to the tests.
    pub(crate) fn name_in(&self, command: &mut Command) {
        command.env(VARIABLE, &self.0);
    }

    /// Says whether the table is what was counted, and makes it so if that was asked for.
    pub(crate) fn check(&self, paths: &Paths) -> Result<bool, Failure> {
        let readme = paths.root.join("tests/README.md");
        let failed = |error: std::io::Error| Failure::new(format!("{}: {error}", readme.display()));
        let counted = fs::read_to_string(&self.0).map_err(failed)?;
        let text = fs::read_to_string(&readme).map_err(failed)?;
        let parts = text
            .split_once(BEGIN)
            .and_then(|(before, rest)| Some((before, rest.split_once(END)?)));
        let Some((before, (_, after))) = parts else {
            return Err(Failure::new(format!(
                "{} has no place for the table of attacks",
                readme.display()
            )));
        };
        let now = format!("{before}{BEGIN}{}{END}{after}", table(&counted));
        if now == text {
            return Ok(true);
        }
        if env::var_os(VARIABLE).is_some_and(|value| value == "accept") {
            fs::write(&readme, now).map_err(failed)?;
            return Ok(true);
        }
        println!(
            "the table of attacks in tests/README.md is not what the tests counted; {VARIABLE}=accept makes it so:\n\n{}",
            table(&counted)
        );
        Ok(false)
    }
}

/// Makes the table of lines `class TAB outcome TAB count`.
fn table(counted: &str) -> String {
    let mut sums: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for line in counted.lines() {
        let mut fields = line.split('\t');
        if let (Some(class), Some(outcome), Some(count)) =
            (fields.next(), fields.next(), fields.next())
        {
            *sums.entry((class, outcome)).or_default() += count.parse::<u64>().unwrap_or_default();
        }
    }
    let mut table = "| attacks | outcome | count |\n| --- | --- | ---: |\n".to_owned();
    for ((class, outcome), count) in sums {
        // Writing to a text cannot fail.
        writeln!(table, "| {class} | {outcome} | {count} |").ok();
    }
    table
}

/// Makes sure that there is a tracer, which the audit needs; installs it if that is possible.
pub(crate) fn provide_tracer() -> Result<(), Failure> {
    let there = || {
        let status = Command::new("strace")
            .arg("-V")
            .stdout(Stdio::null())
            .status();
        status.is_ok_and(|status| status.success())
    };
    if there() {
        return Ok(());
    }
    let missing =
        || Failure::new("the tests need strace: run `apt-get install strace` as root".to_owned());
    if !rustix::process::geteuid().is_root() {
        return Err(missing());
    }
    step("install strace from the distribution (apt-get)");
    for arguments in [&["-q", "update"][..], &["-q", "-y", "install", "strace"]] {
        run(Command::new("apt-get")
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive"))
        .map_err(|_| missing())?;
    }
    if there() { Ok(()) } else { Err(missing()) }
}

#[cfg(test)]
mod tests {
    use super::table;

    #[test]
    fn attacks_of_one_class_and_outcome_are_added_up() {
        let counted = "paths\trefused\t2\nloops\tended\t1\npaths\trefused\t3\n";
        assert_eq!(
            table(counted),
            "| attacks | outcome | count |\n| --- | --- | ---: |\n| loops | ended | 1 |\n| paths | refused | 5 |\n"
        );
    }
}
