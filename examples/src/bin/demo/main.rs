//! A small real experiment through the component into a store, and what the store then holds.
//!
//! Fits polynomials to noisy samples of a curve by gradient descent, over a grid of learning rates, momenta
//! and degrees. Too large a learning rate makes a fit diverge, and that run fails.

mod experiment;
mod fit;
mod report;

use metalab_store::FileStoreConfig;
use std::error::Error;
use std::ffi::OsString;
use std::io::{ErrorKind, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

const HELP: &str = "\
Runs a small real experiment into a store, and shows what the store holds then.

Usage: demo [--store DIRECTORY]

The directory is a collection of experiments; without the option it is ./demo-store. It is created if needed,
and every call adds one version of the experiment to it.
";

fn main() -> ExitCode {
    match demo(std::env::args_os().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn demo(mut arguments: impl Iterator<Item = OsString>) -> Result<(), Box<dyn Error>> {
    let mut root = PathBuf::from("demo-store");
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--store") => {
                root = arguments
                    .next()
                    .ok_or("--store needs the name of a directory")?
                    .into();
            }
            Some("-h" | "--help") => return print(HELP),
            _ => {
                return Err(format!(
                    "unknown argument {}; `--help` lists those there are",
                    argument.display()
                )
                .into());
            }
        }
    }
    let collection = FileStoreConfig::new(&root);
    let id = experiment::next_version(&collection.list_experiments()?.experiments);
    let store = collection.clone().scoped(&id).connect()?;

    let started = Instant::now();
    // For people only: whoever reads the output by a program wants no line that overwrites itself.
    let watched = std::io::stderr().is_terminal();
    let done = experiment::run(&store, &id, |number, all| {
        if watched {
            eprint!("\r{id}: run {number} of {all}");
        }
    });
    if watched {
        eprint!("\r\u{1b}[K");
    }
    let run_ids = done?;
    store.close()?;
    let took = started.elapsed();

    let report = report::Report {
        collection: &collection,
        root: &root,
        experiment: &id,
        took,
        runs: run_ids.len(),
    };
    print(&report.text()?)
}

fn print(text: &str) -> Result<(), Box<dyn Error>> {
    match std::io::stdout().write_all(text.as_bytes()) {
        // Whoever closed the output has seen enough.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        Ok(()) | Err(_) => Ok(()),
    }
}
