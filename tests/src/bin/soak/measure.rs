//! What is measured meanwhile: how long calls take, and what the workers hold.

use std::collections::BTreeMap;
use std::fs;

/// How long calls took, in microseconds, by the host and the call.
#[derive(Default)]
pub struct Latencies(BTreeMap<(String, String), Vec<u64>>);

impl Latencies {
    /// Adds a call.
    pub fn add(&mut self, host: &str, call: &str, micros: u64) {
        let key = (call.to_owned(), host.to_owned());
        self.0.entry(key).or_default().push(micros);
    }

    /// Counts the calls.
    pub fn count(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    /// Prints a table.
    pub fn print(&mut self) {
        println!(
            "{:10} {:8} {:>8} {:>10} {:>10} {:>10} {:>10}",
            "call", "host", "count", "p50 ms", "p90 ms", "p99 ms", "max ms"
        );
        for ((call, host), times) in &mut self.0 {
            times.sort_unstable();
            let at = |percent: usize| {
                let micros = times[(times.len() - 1) * percent / 100];
                format!("{}.{:02}", micros / 1000, micros % 1000 / 10)
            };
            println!(
                "{call:10} {host:8} {:>8} {:>10} {:>10} {:>10} {:>10}",
                times.len(),
                at(50),
                at(90),
                at(99),
                at(100)
            );
        }
    }
}

/// What a process holds at a moment.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// Memory in use, in KiB.
    pub memory: u64,
    /// Open files.
    pub files: u64,
}

impl Held {
    /// Looks at a process; none if it is gone.
    pub fn of(process: u32) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))?;
        let memory = line.split_whitespace().next()?.parse().ok()?;
        let files = fs::read_dir(format!("/proc/{process}/fd")).ok()?.count() as u64;
        Some(Self { memory, files })
    }
}

/// What a worker held over the time.
#[derive(Default)]
pub struct Course(Vec<Held>);

/// How much more memory a worker may hold at the end than in the middle, in KiB: collectors of garbage are no clocks.
const MORE_MEMORY: u64 = 48 * 1024;

/// How many more files: those of a call that is under way.
const MORE_FILES: u64 = 12;

/// The fewest moments that say anything.
const FEWEST: usize = 16;

impl Course {
    /// Adds a moment.
    pub fn add(&mut self, held: Held) {
        self.0.push(held);
    }

    /// Prints it, and says what is wrong with it: the second quarter is compared with the last, by their medians.
    pub fn judge(&self, name: &str) -> Option<String> {
        if self.0.len() < FEWEST {
            println!("{name}: too few moments to tell what it holds");
            return None;
        }
        let quarter = self.0.len() / 4;
        let early = medians(&self.0[quarter..2 * quarter]);
        let late = medians(&self.0[3 * quarter..]);
        println!(
            "{name}: memory {} MiB, then {} MiB; open files {}, then {}",
            early.memory / 1024,
            late.memory / 1024,
            early.files,
            late.files
        );
        let flat = late.memory <= early.memory + early.memory / 4 + MORE_MEMORY
            && late.files <= early.files + MORE_FILES;
        (!flat).then(|| format!("{name} holds more and more: {early:?}, then {late:?}"))
    }
}

fn medians(moments: &[Held]) -> Held {
    let median = |of: &dyn Fn(&Held) -> u64| {
        let mut values: Vec<u64> = moments.iter().map(of).collect();
        values.sort_unstable();
        values[values.len() / 2]
    };
    Held {
        memory: median(&|held| held.memory),
        files: median(&|held| held.files),
    }
}
