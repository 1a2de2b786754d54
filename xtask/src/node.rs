//! The Node host: the component transpiled for it, and its tests.

use crate::component;
use crate::paths::Paths;
use crate::process::{Failure, output, run};
use crate::step;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The oldest major version of Node that the host works on.
const OLDEST: u32 = 20;

/// Fetches the packages, and transpiles the component into the package.
pub(crate) fn build(paths: &Paths) -> Result<(), Failure> {
    if let Some(reason) = missing() {
        return Err(Failure::new(reason));
    }
    let component = component::build(paths)?;
    let package = package(paths);
    if !is_current(&package) {
        step("fetch the packages of the Node host");
        // Nothing of a package is run: what is compiled comes compiled.
        run(Command::new("npm")
            .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
            .current_dir(&package))?;
    }
    step("transpile the component for Node");
    run(Command::new("node")
        .arg("build/transpile.mjs")
        .arg(&component)
        .arg("dist")
        .current_dir(&package))
}

/// Says why the host cannot be tested here, or none if it can.
pub(crate) fn missing() -> Option<String> {
    let Ok(version) = output(Command::new("node").arg("--version")) else {
        return Some(format!(
            "there is no Node; version {OLDEST} or newer is needed"
        ));
    };
    let major = version
        .trim()
        .trim_start_matches('v')
        .split('.')
        .next()
        .and_then(|major| major.parse::<u32>().ok());
    if major.is_none_or(|major| major < OLDEST) {
        return Some(format!(
            "Node is {}, and version {OLDEST} or newer is needed",
            version.trim()
        ));
    }
    output(Command::new("npm").arg("--version"))
        .is_err()
        .then(|| "there is no npm".to_owned())
}

/// Returns the call that tests the host; its last lines hold the counts.
pub(crate) fn tests(paths: &Paths) -> Result<Command, Failure> {
    let package = package(paths);
    let directory = package.join("test");
    let failed = |error: std::io::Error| Failure::new(format!("{}: {error}", directory.display()));
    let mut files = Vec::new();
    for entry in fs::read_dir(&directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.to_string_lossy().ends_with(".test.mjs") {
            files.push(path);
        }
    }
    files.sort();
    let mut command = Command::new("node");
    command
        .args(["--test", "--test-reporter=spec"])
        .args(files)
        .env("METALAB_TARGET", &paths.target)
        .env("METALAB_CHECKOUT", &paths.root)
        .current_dir(package);
    Ok(command)
}

/// Adds the counts of the lines that close the output of Node's test runner.
pub(crate) fn add_result(line: &str, sum: &mut [u64; 3]) {
    let Some(counted) = line.strip_prefix("ℹ ") else {
        return;
    };
    let Some((name, count)) = counted.split_once(' ') else {
        return;
    };
    let place = match name {
        "pass" => 0,
        "fail" | "cancelled" => 1,
        "skipped" | "todo" => 2,
        _ => return,
    };
    sum[place] += count.trim().parse::<u64>().unwrap_or_default();
}

fn package(paths: &Paths) -> PathBuf {
    paths.root.join("host/node")
}

/// Says whether the packages that are there are those of the lock file.
fn is_current(package: &Path) -> bool {
    let written = |path: PathBuf| fs::metadata(path).and_then(|file| file.modified());
    match (
        written(package.join("node_modules/.package-lock.json")),
        written(package.join("package-lock.json")),
    ) {
        (Ok(fetched), Ok(locked)) => fetched >= locked,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::add_result;

    #[test]
    fn the_counts_of_nodes_test_runner_are_added_to_those_of_the_others() {
        let mut sum = [1, 0, 0];
        for line in [
            "✔ pass 7 (1.2ms)",
            "ℹ tests 6",
            "ℹ pass 3",
            "ℹ fail 1",
            "ℹ cancelled 0",
            "ℹ skipped 2",
            "ℹ duration_ms 12.5",
        ] {
            add_result(line, &mut sum);
        }
        assert_eq!(sum, [4, 1, 2]);
    }
}
