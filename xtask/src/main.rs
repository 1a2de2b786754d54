//! The only entrance to building, testing and showing metalab-store: `cargo xtask COMMAND`.
//!
//! What a command needs, it fetches or builds, or it names the one command that helps.

mod alone;
mod attacks;
mod component;
mod dependencies;
mod fuzz;
mod node;
mod paths;
mod plugin;
mod postgres;
mod process;
mod python;
mod reproduce;
mod seal;
mod soak;
mod toolchain;

use paths::Paths;
use process::{Failure, cargo, run};
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, ExitCode, Stdio};

const HELP: &str = "\
Builds, tests and shows metalab-store.

Usage: cargo xtask COMMAND [ARGUMENTS]

  demo        build everything, run a small real experiment into ./demo-store and show it
  test        build everything and run all tests
  build       build the component, the command and the libraries
  component   build the component alone: target/component/metalab_store.wasm, and metalab_store_wasi.wasm beside it
  reproduce   build the component twice, in different directories, and compare the bytes
  plugins     build the plugins, the example among them: target/plugins
  python      build the Python package, and a virtual environment with it: target/python
  node        fetch the packages of the Node host, and transpile the component into it: host/node/dist
  check       check the formatting and the lints
  sbom        list what the component and the Rust host are made of, with cargo-cyclonedx: target/sbom
  bench       build everything and measure it (arguments are passed on)
  soak        use two stores with processes of all hosts while they are killed, the server is restarted, the disk is full
              and clocks jump: --seconds N (600), --seed S, --steady (leaves the clocks alone)
  fuzz        fuzz everything that reads what others wrote: --minutes N, and parts of the tests' names

METALAB_WASM_TOOLCHAIN=installed|rustup|debian forces where the compiler for the component comes from.
METALAB_TEST_POSTGRES names a PostgreSQL database for tests, as postgresql://user@host/database; else a private
server is started, and installed before if that is possible.
";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next().unwrap_or_default();
    let rest: Vec<String> = arguments.collect();
    let paths = Paths::find();
    let outcome = match command.as_str() {
        "demo" => build(&paths).and_then(|()| run_binary(&paths, "demo", &rest)),
        "bench" => build(&paths).and_then(|()| bench(&paths, &rest)),
        "test" => test(&paths, &rest),
        "build" => build(&paths),
        "component" => component::build(&paths).map(drop),
        "reproduce" => reproduce::reproduce(&paths),
        "plugins" => plugin::build(&paths),
        "python" => python::build(&paths).map(drop),
        "node" => node::build(&paths),
        "check" => check(&paths),
        "sbom" => dependencies::list(&paths),
        "fuzz" => fuzz::fuzz(&paths, &rest),
        "soak" => soak::soak(&paths, &rest),
        "" | "help" | "-h" | "--help" => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        other => Err(Failure::new(format!(
            "unknown command {other:?}; `cargo xtask help` lists those there are"
        ))),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("xtask: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Says which step begins.
fn step(text: &str) {
    eprintln!("==> {text}");
}

fn build(paths: &Paths) -> Result<(), Failure> {
    component::build(paths)?;
    plugin::build(paths)?;
    step("build the command, the libraries and the examples");
    run(cargo(paths).args(["build", "--locked", "--release", "--workspace"]))
}

fn check(paths: &Paths) -> Result<(), Failure> {
    step("check the formatting");
    run(cargo(paths).args(["fmt", "--all", "--check"]))?;
    // The host's build script embeds the component.
    component::build(paths)?;
    step("check the lints");
    run(cargo(paths).args([
        "clippy",
        "--locked",
        "--release",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]))?;
    dependencies::check(paths)
}

/// The part of the benchmark that a program of its own measures, with a server.
const POSTGRES: &str = "postgres";

/// Measures the file parts and then the part with PostgreSQL, or those of them that the arguments name.
fn bench(paths: &Paths, arguments: &[String]) -> Result<(), Failure> {
    if let Some(file) = value(arguments, "--json") {
        // Each of the programs adds what it measured.
        drop(std::fs::remove_file(paths.root.join(file)));
    }
    if arguments.iter().any(|argument| argument == "--peers") {
        let runs = value(arguments, "--runs").unwrap_or("1000");
        return python::peers(paths, runs, value(arguments, "--json"));
    }
    let parts = parts(arguments);
    let postgres = parts.is_empty() || parts.contains(&POSTGRES);
    let files = parts.is_empty() || parts.iter().any(|part| *part != POSTGRES);
    let rest: Vec<String> = arguments
        .iter()
        .filter(|argument| *argument != POSTGRES)
        .cloned()
        .collect();
    if files {
        run_binary(paths, "bench", &rest)?;
    }
    if postgres {
        let server = postgres::Server::provide()?;
        step("run bench-postgres");
        let mut command = Command::new(paths.target.join("release").join("bench-postgres"));
        server.name_in(&mut command);
        run(command.args(&rest).current_dir(&paths.root))?;
    }
    Ok(())
}

/// Returns the value of an option.
fn value<'a>(arguments: &'a [String], option: &str) -> Option<&'a str> {
    let mut after = arguments.iter().skip_while(|argument| *argument != option);
    after.nth(1).map(String::as_str)
}

/// Returns the arguments that are neither options nor their values.
fn parts(arguments: &[String]) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--runs" | "--puts" | "--mib" | "--kib" | "--json" => drop(arguments.next()),
            option if option.starts_with('-') => {}
            part => parts.push(part),
        }
    }
    parts
}

fn run_binary(paths: &Paths, name: &str, arguments: &[String]) -> Result<(), Failure> {
    step(&format!("run {name}"));
    run(Command::new(paths.target.join("release").join(name))
        .args(arguments)
        .current_dir(&paths.root))
}

/// Runs all tests, passes their output on, and closes with their sum.
fn test(paths: &Paths, arguments: &[String]) -> Result<(), Failure> {
    build(paths)?;
    let server = postgres::Server::provide()?;
    attacks::provide_tracer()?;
    let attacks = attacks::Attacks::begin(paths)?;
    let mut sum = [0_u64; 3];
    let mut good = test_rust(paths, &server, &attacks, arguments, &mut sum)?;
    // Arguments are cargo's: they select tests of its.
    if arguments.is_empty() {
        good &= attacks.check(paths)?;
        reproduce::reproduce(paths)?;
        sum[0] += 1;
        if node::missing().is_none() {
            // The tests of the Python host start programs of this one too.
            node::build(paths)?;
        }
        good &= test_python(paths, &server, &mut sum)?;
        good &= test_node(paths, &server, &mut sum)?;
        let soaked = watch(
            soak::command(paths)?.args(["--seconds", soak::SHORT]),
            |_| (),
        )?;
        sum[usize::from(!soaked)] += 1;
        good &= soaked;
    }
    let [passed, failed, skipped] = sum;
    println!("\n{passed} passed, {failed} failed, {skipped} skipped");
    if good {
        Ok(())
    } else {
        Err(Failure::new("some tests failed".to_owned()))
    }
}

fn test_python(
    paths: &Paths,
    server: &postgres::Server,
    sum: &mut [u64; 3],
) -> Result<bool, Failure> {
    if let Some(reason) = python::missing() {
        println!("the Python host was not tested: {reason}");
        sum[2] += 1;
        return Ok(std::env::var_os("CI").is_none_or(|ci| ci != "true"));
    }
    let python = python::build(paths)?;
    step("run the tests of the Python host");
    let mut tests = python::tests(paths, &python);
    server.name_in(&mut tests);
    watch(&mut tests, |line| {
        python::add_result(line, sum);
    })
}

fn test_node(
    paths: &Paths,
    server: &postgres::Server,
    sum: &mut [u64; 3],
) -> Result<bool, Failure> {
    if let Some(reason) = node::missing() {
        println!("the Node host was not tested: {reason}");
        sum[2] += 1;
        return Ok(std::env::var_os("CI").is_none_or(|ci| ci != "true"));
    }
    step("run the tests of the Node host");
    let mut tests = node::tests(paths)?;
    server.name_in(&mut tests);
    watch(&mut tests, |line| node::add_result(line, sum))
}

fn test_rust(
    paths: &Paths,
    server: &postgres::Server,
    attacks: &attacks::Attacks,
    arguments: &[String],
    sum: &mut [u64; 3],
) -> Result<bool, Failure> {
    step("run the tests");
    let mut command = cargo(paths);
    server.name_in(&mut command);
    attacks.name_in(&mut command);
    command
        .args([
            "test",
            "--locked",
            "--release",
            "--workspace",
            "--no-fail-fast",
        ])
        .args(arguments);
    watch(&mut command, |line| add_result(line, sum))
}

/// Runs a program, passes its output on and shows each line of it. Says whether it went well.
fn watch(command: &mut Command, mut show: impl FnMut(&str)) -> Result<bool, Failure> {
    let name = command.get_program().to_string_lossy().into_owned();
    let failed = |error: std::io::Error| Failure::new(format!("{name}: {error}"));
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(failed)?;
    if let Some(output) = child.stdout.take() {
        let mut out = std::io::stdout().lock();
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            show(&line);
            // Whoever closed the output does not want it; the tests go on.
            writeln!(out, "{line}").ok();
        }
    }
    Ok(child.wait().map_err(failed)?.success())
}

/// Adds the counts of a line that closes a test binary's output.
fn add_result(line: &str, sum: &mut [u64; 3]) {
    let Some(counts) = line.strip_prefix("test result: ") else {
        return;
    };
    for (name, total) in ["passed", "failed", "ignored"].into_iter().zip(sum) {
        let count = counts
            .split([';', '.'])
            .find_map(|part| part.trim().strip_suffix(name)?.trim().parse::<u64>().ok());
        *total += count.unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::{add_result, parts};

    #[test]
    fn the_values_of_options_are_no_parts_of_the_benchmark() {
        let arguments = [
            "--runs", "1000", "postgres", "--puts", "5", "--quick", "--json", "put",
        ];
        assert_eq!(parts(&arguments.map(str::to_owned)), ["postgres"]);
    }

    #[test]
    fn the_counts_of_all_test_binaries_are_added_up() {
        let mut sum = [0; 3];
        add_result(
            "test result: ok. 6 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.01s",
            &mut sum,
        );
        add_result(
            "test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out",
            &mut sum,
        );
        add_result("running 5 tests", &mut sum);
        assert_eq!(sum, [8, 3, 1]);
    }
}
