//! What the benchmarks measure: times, the machine that they were measured on, and both as JSON.

use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Times of one thing that was done several times.
#[derive(Debug, Default)]
pub struct Times(pub Vec<Duration>);

impl Times {
    /// Does it once more.
    pub fn measure<T>(&mut self, function: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let result = function();
        self.0.push(started.elapsed());
        result
    }

    /// Returns the median between the quartiles, in microseconds.
    #[must_use]
    pub fn quartiles(&self) -> [f64; 3] {
        let mut times: Vec<f64> = self.0.iter().map(|time| time.as_secs_f64() * 1e6).collect();
        times.sort_by(f64::total_cmp);
        [1, 2, 3].map(|quarter| times[(times.len() - 1) * quarter / 4])
    }
}

/// What was measured so far.
static MEASURED: Mutex<Vec<Value>> = Mutex::new(Vec::new());

/// Keeps what was measured of something, for [`save`].
///
/// # Panics
/// If another thread panicked in here.
pub fn keep(title: &str, name: &str, times: &Times) {
    let [low, median, high] = times.quartiles();
    MEASURED.lock().unwrap().push(json!({
        "title": title, "name": name, "median_us": median, "quartiles_us": [low, high], "times": times.0.len(),
    }));
}

/// Adds what was measured, and the machine, to a file of JSON: to what another program measured there before.
///
/// # Panics
/// If the file cannot be written, or holds something else.
pub fn save(file: &Path, directory: &Path) {
    let mut whole = match fs::read(file) {
        Ok(text) => serde_json::from_slice(&text).unwrap(),
        Err(_) => json!({ "machine": machine(directory), "measured": [] }),
    };
    let measured = whole["measured"].as_array_mut().unwrap();
    measured.append(&mut MEASURED.lock().unwrap());
    fs::write(file, serde_json::to_string_pretty(&whole).unwrap()).unwrap();
}

/// Says which machine this is, in one line.
#[must_use]
pub fn machine(directory: &Path) -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let value = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.split_once(':'));
        value.map_or_else(
            || "unknown".to_owned(),
            |(_, value)| value.trim().to_owned(),
        )
    };
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let directory = fs::canonicalize(directory).unwrap_or_else(|_| directory.to_owned());
    // The longest mount point that the directory lies below.
    let mounts = read("/proc/mounts");
    let system = mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            Some((fields.next()?, fields.next()?))
        })
        .filter(|(place, _)| directory.starts_with(place))
        .max_by_key(|(place, _)| place.len());
    format!(
        "{}, {cores} cores, {} memory, Linux {}, files on {}",
        value(&read("/proc/cpuinfo"), "model name"),
        value(&read("/proc/meminfo"), "MemTotal"),
        read("/proc/sys/kernel/osrelease").trim(),
        system.map_or("unknown", |(_, kind)| kind),
    )
}

/// Returns the file that `--json` names among the arguments.
#[must_use]
pub fn json_file() -> Option<String> {
    std::env::args()
        .skip_while(|argument| argument != "--json")
        .nth(1)
}
