//! Building the component again, elsewhere: the same sources give the same bytes.

use crate::component;
use crate::paths::Paths;
use crate::process::{Failure, output};
use crate::step;
use std::fs;
use std::process::Command;

/// Builds the component from a copy of the sources in another directory, from nothing, and compares it with the
/// one that is there.
pub(crate) fn reproduce(paths: &Paths) -> Result<(), Failure> {
    let built = component::build(paths)?;
    step("build the component again, from nothing, in another directory");
    let elsewhere = paths.target.join("elsewhere");
    let failed = |what: &std::path::Path, error: std::io::Error| {
        Failure::new(format!("{}: {error}", what.display()))
    };
    if elsewhere.exists() {
        fs::remove_dir_all(&elsewhere).map_err(|error| failed(&elsewhere, error))?;
    }
    let copy = Paths {
        root: elsewhere.join("a checkout"),
        target: elsewhere.join("build"),
        cache: paths.cache.clone(),
    };
    let files = output(Command::new("git").current_dir(&paths.root).args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]))?;
    for file in files.split('\0').filter(|file| !file.is_empty()) {
        let (from, to) = (paths.root.join(file), copy.root.join(file));
        if !from.is_file() {
            // It was removed and not committed yet.
            continue;
        }
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).map_err(|error| failed(parent, error))?;
        }
        fs::copy(&from, &to).map_err(|error| failed(&from, error))?;
    }
    let again = component::build(&copy)?;
    let read = |path: &std::path::Path| fs::read(path).map_err(|error| failed(path, error));
    if read(&built)? != read(&again)? {
        return Err(Failure::new(format!(
            "{} and {} were built of the same sources and differ",
            built.display(),
            again.display()
        )));
    }
    println!("both have the same bytes");
    fs::remove_dir_all(&elsewhere).map_err(|error| failed(&elsewhere, error))
}
