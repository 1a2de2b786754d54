//! The Python host: a wheel with the component in it, a virtual environment with the wheel, and its tests.

use crate::component;
use crate::paths::Paths;
use crate::process::{Failure, output, run};
use crate::step;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the host needs, and what the tests of PostgreSQL do.
const EXTRAS: &str = "postgres,test";

/// Measures the store beside MLflow's, in a virtual environment of their own.
pub(crate) fn peers(paths: &Paths, runs: &str, json: Option<&str>) -> Result<(), Failure> {
    build(paths)?;
    let python = environment(&paths.target.join("peers"))?;
    step("install MLflow");
    run(pip(&python).args(["install", "mlflow>=3,<4"]))?;
    install(
        &python,
        &only_file(&paths.target.join("python/wheels"))?,
        "",
    )?;
    step("run the peers");
    run(Command::new(&python)
        .arg(paths.root.join("tests/peers/peers.py"))
        .arg(runs)
        .args(json)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(&paths.root))
}

/// Makes the wheel and the virtual environment, and returns the interpreter in it.
pub(crate) fn build(paths: &Paths) -> Result<PathBuf, Failure> {
    let directory = paths.target.join("python");
    let python = environment(&directory.join("venv"))?;
    let component = component::build(paths)?;
    step("build the Python package");
    let source = paths.root.join("host/python");
    let carried = source.join("src/metalab_store/component");
    copy(&component, &carried.join("metalab_store.wasm"))?;

    let wheels = directory.join("wheels");
    if wheels.exists() {
        fs::remove_dir_all(&wheels)
            .map_err(|error| Failure::new(format!("{}: {error}", wheels.display())))?;
    }
    run(pip(&python)
        .args(["wheel", "--no-deps", "--wheel-dir"])
        .arg(&wheels)
        .arg(&source))?;
    let wheel = only_file(&wheels)?;
    install(&python, &wheel, &format!("[{EXTRAS}]"))?;
    Ok(python)
}

/// Makes a virtual environment, unless it is there, and returns the interpreter in it.
fn environment(directory: &Path) -> Result<PathBuf, Failure> {
    let python = directory.join("bin/python");
    if !works(&python) {
        run(Command::new(interpreter()?)
            .args(["-m", "venv", "--clear"])
            .arg(directory))?;
    }
    Ok(python)
}

/// Installs a wheel with some of its extras: their dependencies, where they are missing; and then this wheel, also if its
/// version is there already.
fn install(python: &Path, wheel: &Path, extras: &str) -> Result<(), Failure> {
    let mut wanted = wheel.to_owned().into_os_string();
    wanted.push(extras);
    run(pip(python).arg("install").arg(&wanted))?;
    run(pip(python)
        .args(["install", "--no-deps", "--force-reinstall"])
        .arg(wheel))
}

/// Says why the host cannot be tested here, or none if it can.
pub(crate) fn missing() -> Option<String> {
    interpreter().err().map(|failure| failure.to_string())
}

/// Returns the call that tests the host; its last line holds the counts.
pub(crate) fn tests(paths: &Paths, python: &Path) -> Command {
    let mut command = Command::new(python);
    command
        .args(["-m", "pytest", "-p", "no:cacheprovider", "-q"])
        .arg(paths.root.join("host/python"))
        .env("METALAB_TARGET", &paths.target)
        .env("METALAB_CHECKOUT", &paths.root)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(paths.root.join("host/python"));
    command
}

/// Adds the counts of the line that closes pytest's output.
pub(crate) fn add_result(line: &str, sum: &mut [u64; 3]) {
    if !line.contains(" in ") {
        return;
    }
    let line = line.trim_matches(|sign| sign == '=' || sign == ' ');
    let Some((counts, time)) = line.rsplit_once(" in ") else {
        return;
    };
    if !time.starts_with(|first: char| first.is_ascii_digit()) {
        return;
    }
    for part in counts.split(", ") {
        let Some((count, name)) = part.split_once(' ') else {
            continue;
        };
        let place = match name {
            "passed" => 0,
            "failed" | "error" | "errors" => 1,
            "skipped" | "xfailed" => 2,
            _ => continue,
        };
        sum[place] += count.parse::<u64>().unwrap_or_default();
    }
}

fn pip(python: &Path) -> Command {
    let mut command = Command::new(python);
    command.args(["-m", "pip", "--quiet", "--disable-pip-version-check"]);
    command
}

fn works(python: &Path) -> bool {
    output(Command::new(python).args(["-c", "import pip"])).is_ok()
}

/// Finds an interpreter that is new enough.
fn interpreter() -> Result<PathBuf, Failure> {
    let named = env::var_os("METALAB_PYTHON").map(PathBuf::from);
    let known = ["python3", "python3.13", "python3.12", "python3.11"].map(PathBuf::from);
    let check = "import sys, venv; sys.exit(sys.version_info < (3, 11))";
    named
        .into_iter()
        .chain(known)
        .find(|python| output(Command::new(python).args(["-c", check])).is_ok())
        .ok_or_else(|| {
            Failure::new(
                "there is no Python 3.11 or newer with its module venv; METALAB_PYTHON names one"
                    .to_owned(),
            )
        })
}

fn copy(from: &Path, to: &Path) -> Result<(), Failure> {
    let failed =
        |error: std::io::Error| Failure::new(format!("cannot copy to {}: {error}", to.display()));
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    fs::copy(from, to).map(drop).map_err(failed)
}

fn only_file(directory: &Path) -> Result<PathBuf, Failure> {
    let failed = |error: std::io::Error| Failure::new(format!("{}: {error}", directory.display()));
    let mut files = fs::read_dir(directory).map_err(failed)?;
    match files.next() {
        Some(entry) => Ok(entry.map_err(failed)?.path()),
        None => Err(Failure::new(format!(
            "no wheel was made in {}",
            directory.display()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::add_result;

    #[test]
    fn the_counts_of_pytest_are_added_to_those_of_cargo() {
        let mut sum = [1, 0, 0];
        add_result(
            "====== 5 passed, 1 failed, 2 skipped in 0.12s ======",
            &mut sum,
        );
        add_result("3 passed, 1 warning, 1 error in 2.50s", &mut sum);
        add_result(
            "1 passed in the morning is no such line, 7 failed",
            &mut sum,
        );
        assert_eq!(sum, [9, 2, 2]);
    }
}
