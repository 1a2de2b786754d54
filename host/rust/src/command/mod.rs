//! The command: what people type. It holds no storage logic; every answer comes from the store.

mod artifacts;
mod cat;
mod delete;
mod derive;
mod experiments;
mod fields;
mod gc;
mod logs;
mod progress;
mod put;
mod rebuild_index;
mod runs;
mod show;
mod table;
mod text;
mod transfer;
mod verify;

use clap::{CommandFactory, Parser, Subcommand};
use metalab_store::types::Damage;
use metalab_store::{Error, Store, StoreConfig};
use serde_json::json;
use std::cell::RefCell;
use std::io::{self, Write};
use std::process::ExitCode;

/// The heading of the options that every command has.
const GLOBAL: &str = "Global options";

/// The exit status of a verification that found damage.
const DAMAGED: u8 = 3;

/// Read and write stores of experiment runs
#[derive(Parser)]
#[command(
    name = "metalab-store",
    version,
    max_term_width = 100,
    after_help = "Exit status: 0 if all was done, 1 if something failed, 2 if the arguments are wrong, 3 if verify found damage. \
        Damaged files are reported on standard error and hide nothing else."
)]
struct Arguments {
    /// The store: a directory, or a locator such as file:///data/experiments
    #[arg(
        short,
        long,
        global = true,
        help_heading = GLOBAL,
        value_name = "LOCATOR",
        env = "METALAB_STORE",
        // A locator may hold a password.
        hide_env_values = true,
        default_value = "./experiments"
    )]
    store: String,
    /// The experiment; without it, commands that read cover the whole collection
    #[arg(short, long, global = true, help_heading = GLOBAL, value_name = "ID")]
    experiment: Vec<String>,
    /// Print JSON as Python's json module reads it: it may hold NaN, Infinity and integers of any size
    #[arg(long, global = true, help_heading = GLOBAL)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the experiments of a collection
    Experiments,
    /// List runs, the newest first
    Runs(runs::Runs),
    /// List the fields that runs have: types, ranges, values
    Fields(fields::Fields),
    /// Show one run in full
    Show(show::Show),
    /// Store run records read from standard input: one JSON record, or one a line
    ///
    /// A record has the format of a file in `runs/` and needs a run_id, a status, and an experiment_id unless
    /// one is named with -e. It replaces an earlier record of the same run. A record that is refused is reported with the number of
    /// its line, and the others are stored. With --json, each record's outcome is a line of JSON.
    Put,
    /// Delete runs with everything that belongs to them
    Delete(delete::Delete),
    /// List the logs of a run, or print one
    Logs(logs::Logs),
    /// List the artifacts of a run
    Artifacts(artifacts::Artifacts),
    /// Print an artifact of a run, or else a result of that name
    Cat(cat::Cat),
    /// Derive metrics from runs with a plugin
    ///
    /// A plugin is a WebAssembly component that sees the runs of one experiment, read-only, and nothing else: no file, no
    /// clock, no network. What it derives from a run replaces the derived metrics that the run has; a run for which it
    /// fails keeps them, is reported and stops no other. Without -e, it is run over each experiment of the collection.
    Derive(derive::Derive),
    /// Bring the query index of a PostgreSQL store up to date with its files
    ///
    /// Reads every file and changes only what differs, in one transaction for each experiment. The store goes
    /// on working meanwhile. Needed only where other programs changed the files or the tables. Experiments whose
    /// directories were removed are named, and keep their rows until they are pruned.
    RebuildIndex(rebuild_index::RebuildIndex),
    /// Copy runs from a store to another store, or into an archive
    ///
    /// Everything of a run is copied byte for byte: record, derived metrics, results, logs, artifacts, markers; and
    /// manifests. Killed at any point, the same command goes on and copies nothing twice. A path that ends in
    /// .tar.zst or .tar is an archive. -e names an experiment to copy, and may be given more than once. The digest
    /// of each experiment is printed: it is the same wherever the same content lies.
    Export(transfer::Transfer),
    /// Copy runs into a store from another store, or from an archive
    ///
    /// The same as export, the other way round: what is copied from must be named.
    Import(transfer::Transfer),
    /// Check that every file is what its writer wrote
    ///
    /// Reads and parses everything, and compares it with its name, with the hashes of artifacts, with what each file was
    /// when it was verified last, and, where there is one, with the database. The exit status is 3 if damage was found;
    /// warnings, orphans and leftovers alone are no failure. The digest of each experiment is printed: it is the same
    /// that export prints.
    Verify(verify::Verify),
    /// Remove what dead writers left, and what belongs to nothing
    ///
    /// Half-written files, artifacts that nothing lists, locks of runs that are gone, and journals of other machines of
    /// which nothing is left to do. Nothing that a living writer needs is touched. Without --apply it only lists them.
    Gc(gc::Gc),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// What went wrong with a command.
enum Failure {
    /// The store says so.
    Store(Error),
    /// Input or output failed.
    Io(io::Error),
    /// Something else: a code and a message.
    Other(&'static str, String),
    /// It was said already.
    Said,
    /// A verification found damage, and said so.
    Damaged,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

type Outcome = Result<(), Failure>;

/// What all commands are given.
struct Context {
    config: StoreConfig,
    json: bool,
    out: io::BufWriter<io::Stdout>,
    /// The store that was opened last.
    opened: RefCell<Option<Store>>,
}

impl Context {
    /// Opens the store to read: nothing is created.
    fn reader(&self) -> Result<Store, Failure> {
        self.keep(self.config.clone().read_only().max_instances(1).connect()?)
    }

    /// Opens the store to write.
    fn writer(&self) -> Result<Store, Failure> {
        self.keep(self.config.clone().max_instances(1).connect()?)
    }

    fn keep(&self, store: Store) -> Result<Store, Failure> {
        *self.opened.borrow_mut() = Some(store.clone());
        Ok(store)
    }

    /// Says what the user should know about the store that was opened.
    fn warn(&self) {
        let opened = self.opened.borrow();
        for warning in opened.iter().flat_map(Store::warnings) {
            self.remark("warning", &warning);
        }
    }

    /// Reports damaged files: they hide nothing else, and the command goes on.
    fn warn_of_damage(&self, damaged: &[Damage]) {
        for damage in damaged {
            self.remark("warning", &damage.reason);
        }
    }

    /// Says something that is no error.
    fn remark(&self, kind: &str, message: &str) {
        if self.json {
            say(&json!({ kind: message }).to_string());
        } else {
            say(&format!("{kind}: {message}"));
        }
    }

    /// Reports a failure that the command goes on after.
    fn report(&self, failure: &Failure) {
        report(self.json, failure);
    }

    /// Prints a JSON document.
    fn print_json(&mut self, document: &serde_json::Value) -> Outcome {
        serde_json::to_writer_pretty(&mut self.out, document).map_err(io::Error::from)?;
        writeln!(self.out)?;
        Ok(())
    }
}

/// Runs the command that the process was started with.
pub(crate) fn run() -> ExitCode {
    let arguments = arguments();
    let json = arguments.json;
    match dispatch(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads the output has enough of it.
        Err(Failure::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(Failure::Damaged) => ExitCode::from(DAMAGED),
        Err(failure) => {
            report(json, &failure);
            ExitCode::FAILURE
        }
    }
}

/// Reads the arguments.
fn arguments() -> Arguments {
    let mut arguments = Arguments::parse();
    if arguments.experiment.is_empty() {
        return arguments;
    }
    // Of experiments before the command and after it, the parser keeps those after it alone.
    let before: Vec<String> = Arguments::command()
        .mut_arg("experiment", |argument| argument.global(false))
        .ignore_errors(true)
        .get_matches()
        .remove_many("experiment")
        .into_iter()
        .flatten()
        .collect();
    if before != arguments.experiment {
        arguments.experiment.splice(0..0, before);
    }
    arguments
}

/// Writes an error to standard error.
fn report(json: bool, failure: &Failure) {
    let (code, message) = match failure {
        Failure::Store(error) => (error.code(), error.to_string()),
        Failure::Io(error) => ("io", error.to_string()),
        Failure::Other(code, message) => (*code, message.clone()),
        Failure::Said | Failure::Damaged => return,
    };
    if json {
        say(&json!({ "error": { "code": code, "message": message } }).to_string());
    } else {
        say(&format!("error: {message}"));
    }
}

/// Writes a line to standard error, where nobody may be listening.
fn say(line: &str) {
    writeln!(io::stderr(), "{}", text::safe(line)).ok();
}

fn dispatch(arguments: Arguments) -> Outcome {
    if let Command::Completions { shell } = arguments.command {
        let mut script = Vec::new();
        clap_complete::generate(
            shell,
            &mut Arguments::command(),
            "metalab-store",
            &mut script,
        );
        io::stdout().write_all(&script)?;
        return Ok(());
    }
    let mut config = StoreConfig::from_locator(&arguments.store)?;
    let transfers = matches!(arguments.command, Command::Export(_) | Command::Import(_));
    match arguments.experiment.as_slice() {
        _ if transfers => {}
        [] => {}
        [experiment] => config = config.scoped(experiment),
        _ => usage("this command takes one experiment; export and import take several"),
    }
    let mut context = Context {
        config,
        json: arguments.json,
        out: io::BufWriter::new(io::stdout()),
        opened: RefCell::default(),
    };
    let done = perform(arguments, &mut context);
    context.warn();
    done?;
    context.out.flush()?;
    Ok(())
}

fn perform(arguments: Arguments, context: &mut Context) -> Outcome {
    match arguments.command {
        Command::Experiments => experiments::run(context)?,
        Command::Fields(options) => options.run(context)?,
        Command::Runs(options) => options.run(context)?,
        Command::Show(options) => options.run(context)?,
        Command::Put => put::run(context)?,
        Command::Delete(options) => options.run(context)?,
        Command::Logs(options) => options.run(context)?,
        Command::Artifacts(options) => options.run(context)?,
        Command::Cat(options) => options.run(context)?,
        Command::Derive(options) => {
            options.run(context, arguments.experiment.first().map(String::as_str))?;
        }
        Command::RebuildIndex(options) => options.run(context)?,
        Command::Export(options) => {
            options.run(context, &arguments.store, &arguments.experiment, true)?;
        }
        Command::Import(options) => {
            options.run(context, &arguments.store, &arguments.experiment, false)?;
        }
        Command::Verify(options) => options.run(context)?,
        Command::Gc(options) => options.run(context)?,
        Command::Completions { .. } => {}
    }
    Ok(())
}

/// Ends the process: the arguments are wrong.
fn usage(message: &str) -> ! {
    let kind = clap::error::ErrorKind::MissingRequiredArgument;
    Arguments::command().error(kind, message).exit()
}

/// Makes the error of a run that is not there.
fn no_such_run(run: &str) -> Failure {
    Failure::Other(
        "not-found",
        format!("there is no run {run:?}; `metalab-store runs` lists those there are"),
    )
}
