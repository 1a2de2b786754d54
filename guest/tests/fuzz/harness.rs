//! Runs a target over inputs: those that broke it once, the seeds, and mutations of what was new so far.

use crate::mutate::{Numbers, mutate};
use std::any::Any;
use std::collections::HashSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long one input may take. It is no claim about speed: inputs take microseconds or milliseconds.
const DEADLINE: Duration = Duration::from_mins(1);

/// The stack of a target: what the component has.
const STACK: usize = 1024 * 1024;

/// The most inputs that are kept because they did something new.
const KEPT: usize = 2048;

/// What is fuzzed, and with what.
pub struct Target {
    /// Its name, in reports and directories.
    pub name: &'static str,
    /// Inputs to begin with.
    pub seeds: Vec<Vec<u8>>,
    /// Words of its format.
    pub tokens: &'static [&'static str],
    /// How many inputs a short run takes.
    pub inputs: u64,
}

/// What an input did, in few words. Inputs that did something new are mutated further.
pub fn outcome(parts: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    parts.hash(&mut hasher);
    hasher.finish()
}

/// A message without what differs from input to input: numbers, and what is quoted.
pub fn shape(message: impl ToString) -> String {
    let mut quoted = false;
    let message = message.to_string();
    let kept = message.chars().filter(|character| {
        quoted ^= *character == '"';
        !quoted && !character.is_ascii_digit()
    });
    kept.take(200).collect()
}

impl Target {
    /// Runs the target.
    ///
    /// `METALAB_STORE_FUZZ_SECONDS` makes the run as long; `METALAB_STORE_FUZZ_REPORT` names a file that a line about
    /// it is appended to.
    pub fn run(self, check: impl FnMut(&[u8]) -> u64 + Send) {
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().stack_size(STACK);
            let run = thread
                .spawn_scoped(scope, move || self.run_here(check))
                .unwrap();
            if let Err(panic) = run.join() {
                resume_unwind(panic);
            }
        });
    }

    fn run_here(self, mut check: impl FnMut(&[u8]) -> u64) {
        let seed = match std::env::var("METALAB_STORE_SEED") {
            Ok(seed) => seed.parse().unwrap(),
            Err(_) => 0x5eed,
        };
        let seconds = std::env::var("METALAB_STORE_FUZZ_SECONDS").ok();
        let length = seconds.map(|seconds| Duration::from_secs(seconds.parse().unwrap()));
        let mut numbers = Numbers::new(seed ^ outcome(self.name));
        let watch = Watch::start(self.name);
        let (mut inputs, mut slowest) = (0_u64, Duration::ZERO);
        let mut seen = HashSet::new();
        let mut kept = Vec::new();
        let mut found = self.found();
        found.extend(self.seeds.iter().cloned());
        let mut first = found.into_iter();
        let begun = Instant::now();
        loop {
            let input = match first.next() {
                Some(input) => input,
                None if length
                    .map_or(inputs >= self.inputs, |length| begun.elapsed() >= length) =>
                {
                    break;
                }
                None => {
                    let mut input = numbers.pick(&kept as &Vec<Vec<u8>>).clone();
                    mutate(&mut input, &kept, self.tokens, &mut numbers);
                    input
                }
            };
            watch.begins(&input);
            let started = Instant::now();
            let outcome = match catch_unwind(AssertUnwindSafe(|| check(&input))) {
                Ok(outcome) => outcome,
                Err(panic) => self.broken(&input, seed, panic),
            };
            slowest = slowest.max(started.elapsed());
            inputs += 1;
            if kept.len() < KEPT && seen.insert(outcome) {
                kept.push(input);
            }
        }
        drop(watch);
        if length.is_none()
            && let Some(attacks) = std::env::var_os("METALAB_STORE_ATTACKS")
        {
            // For the table in `tests/README.md`; short runs alone, whose number of inputs is always the same.
            let mut attacks = fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(attacks)
                .unwrap();
            let line = format!(
                "mutated inputs: {}\tread or refused, typed\t{inputs}\n",
                self.name
            );
            attacks.write_all(line.as_bytes()).unwrap();
        }
        if let Some(report) = std::env::var_os("METALAB_STORE_FUZZ_REPORT") {
            let mut report = fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(report)
                .unwrap();
            let line = format!(
                "{{\"target\": \"{}\", \"inputs\": {inputs}, \"outcomes\": {}, \"seconds\": {}, \"slowest_ms\": {}, \"seed\": {seed}}}\n",
                self.name,
                seen.len(),
                begun.elapsed().as_secs(),
                slowest.as_millis(),
            );
            report.write_all(line.as_bytes()).unwrap();
        }
    }

    /// Returns the inputs that broke the target once, in the order of their names.
    fn found(&self) -> Vec<Vec<u8>> {
        let directory = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz/found"));
        let Ok(entries) = fs::read_dir(directory.join(self.name)) else {
            return Vec::new();
        };
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths.iter().map(|path| fs::read(path).unwrap()).collect()
    }

    /// Keeps an input, says where, and fails.
    fn broken(&self, input: &[u8], seed: u64, panic: Box<dyn Any + Send>) -> ! {
        let kept = keep(self.name, input);
        eprintln!(
            "{}: seed {seed}: the input is kept in {}",
            self.name,
            kept.display()
        );
        resume_unwind(panic);
    }
}

fn keep(target: &str, input: &[u8]) -> PathBuf {
    let directory =
        PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/fuzz-found")).join(target);
    fs::create_dir_all(&directory).unwrap();
    let path = directory.join(format!("{:016x}", outcome(input)));
    fs::write(&path, input).unwrap();
    path
}

/// Ends the process if an input takes too long: nothing else ends an endless loop.
struct Watch(Arc<Mutex<Option<Current>>>);

/// An input, and since when it runs.
type Current = (Instant, Vec<u8>);

impl Watch {
    fn start(target: &'static str) -> Self {
        let current = Arc::new(Mutex::new(Some((Instant::now(), Vec::new()))));
        let seen = Arc::clone(&current);
        std::thread::spawn(move || {
            loop {
                std::thread::park_timeout(Duration::from_secs(1));
                match &*seen.lock().unwrap() {
                    None => return,
                    Some((begun, input)) if begun.elapsed() > DEADLINE => {
                        let kept = keep(target, input);
                        eprintln!(
                            "{target}: an input takes longer than {DEADLINE:?}: it is kept in {}",
                            kept.display()
                        );
                        std::process::abort();
                    }
                    Some(_) => {}
                }
            }
        });
        Self(current)
    }

    fn begins(&self, input: &[u8]) {
        if let Some((begun, kept)) = &mut *self.0.lock().unwrap() {
            *begun = Instant::now();
            kept.clear();
            kept.extend_from_slice(input);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // The lock of a run that panicked is of no use to anybody.
        if let Ok(mut current) = self.0.lock() {
            *current = None;
        }
    }
}
