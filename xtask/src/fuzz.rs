//! The long run of fuzzing: every target of `guest/tests/fuzz` for its share of the time, and a report.

use crate::paths::Paths;
use crate::process::{Failure, cargo, run};
use crate::step;
use std::{env, fs, thread};

/// How long a run takes if nobody says it.
const MINUTES: u64 = 10;

/// Runs the targets, and shows what each of them did.
pub(crate) fn fuzz(paths: &Paths, arguments: &[String]) -> Result<(), Failure> {
    let mut minutes = MINUTES;
    let mut names = Vec::new();
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        if argument == "--minutes" {
            let number = arguments.next().and_then(|number| number.parse().ok());
            minutes = number.ok_or_else(|| {
                Failure::new(
                    "--minutes wants a number, as in `cargo xtask fuzz --minutes 60`".to_owned(),
                )
            })?;
        } else {
            names.push(argument);
        }
    }
    // A profile of its own: fast, and with the checks that a release leaves out.
    let mut tests = cargo(paths);
    tests.args([
        "test",
        "--locked",
        "--profile",
        "fuzz",
        "-p",
        "metalab-store-guest",
        "--test",
        "fuzz",
    ]);
    step("build the targets");
    run(cargo(paths).args(tests.get_args()).arg("--no-run"))?;
    let listed = crate::process::output(
        cargo(paths)
            .args(tests.get_args())
            .args(["--", "--list"])
            .args(&names),
    )?;
    let targets = listed
        .lines()
        .filter(|line| line.ends_with(": test"))
        .count() as u64;
    if targets == 0 {
        return Err(Failure::new(format!(
            "no target's test has a name with {names:?} in it"
        )));
    }
    let threads = thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let seconds = (minutes * 60 * threads / targets).max(1);
    step(&format!("fuzz {targets} targets for {seconds} s each"));
    let directory = paths.target.join("fuzz-found");
    let report = directory.join("report.jsonl");
    fs::create_dir_all(&directory)
        .and_then(|()| fs::write(&report, ""))
        .map_err(|error| Failure::new(format!("{}: {error}", report.display())))?;
    let seed = env::var("METALAB_STORE_SEED").unwrap_or_else(|_| std::process::id().to_string());
    tests
        .env("METALAB_STORE_SEED", seed)
        .env("METALAB_STORE_FUZZ_SECONDS", seconds.to_string())
        .env("METALAB_STORE_FUZZ_REPORT", &report)
        .args([
            "--no-fail-fast",
            "--",
            "--test-threads",
            &threads.to_string(),
        ])
        .args(&names);
    let outcome = run(&mut tests);
    match fs::read_to_string(&report) {
        Ok(lines) => print!("{lines}"),
        Err(error) => println!("{}: {error}", report.display()),
    }
    outcome
}
