//! Measures the component against the same logic run natively and against raw file operations, side by side.
//!
//! Everything is measured in turns in one run, on one directory tree, and medians are printed: machines are
//! noisy, so the ratios of one run count, not the numbers of two. Durable puts sync; "relaxed" ones do not.

#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that cannot run fails by panicking"
)]

use metalab_store::types::{Durability, Expectation};
use metalab_store::{Engine, FileStoreConfig, Store};
use metalab_store_guest::model;
use metalab_store_guest::native;
use metalab_store_guest::store::Store as NativeStore;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

/// Returns the text of a record like those that runners write: about 1.4 KB.
fn record(index: usize) -> String {
    let metrics: Vec<String> = (0..5)
        .map(|metric| format!("\"metric_{metric}\": {index}.{metric}25"))
        .collect();
    let params: Vec<String> = (0..5)
        .map(|param| format!("\"param_{param}\": {index}"))
        .collect();
    format!(
        "{{\"run_id\": \"{index:016x}\", \"experiment_id\": \"bench:1\", \"status\": \"success\", \
         \"started_at\": \"2026-03-01T09:00:00.123456\", \"finished_at\": \"2026-03-01T09:00:01.123456\", \
         \"duration_ms\": 1000, \"metrics\": {{{}}}, \"params_resolved\": {{{}}}, \"tags\": [\"bench\"], \
         \"artifacts\": [{{\"artifact_id\": \"19322fed-157c-49c6-b16e-2d5cabeb9592\", \"name\": \"model\", \
         \"kind\": \"json\", \"format\": \"json\", \"uri\": \"/x/artifacts/{index:016x}/model.json\", \
         \"content_hash\": \"3cfde99669d2a7b7\", \"size_bytes\": 71, \"metadata\": {{}}}}]}}",
        metrics.join(", "),
        params.join(", ")
    )
}

fn native_store(directory: &Path, durability: model::Durability) -> NativeStore {
    let options = model::StoreOptions {
        directory: directory.to_str().unwrap().to_owned(),
        experiment_id: Some("bench:1".to_owned()),
        access: model::Access::ReadWrite,
        durability,
        lock_timeout_ms: 1000,
        index: None,
    };
    fs::create_dir_all(directory).unwrap();
    NativeStore::open(native::ports(directory).unwrap(), options).unwrap()
}

fn component_store(directory: &Path, durability: Durability) -> Store {
    FileStoreConfig::new(directory)
        .scoped("bench:1")
        .durability(durability)
        .connect()
        .unwrap()
}

/// Times of one thing that was done several times.
#[derive(Default)]
struct Times(Vec<Duration>);

impl Times {
    fn measure<T>(&mut self, function: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let result = function();
        self.0.push(started.elapsed());
        result
    }

    /// Returns the median and the quartiles in microseconds.
    fn quartiles(&self) -> [f64; 3] {
        let mut times: Vec<f64> = self.0.iter().map(|time| time.as_secs_f64() * 1e6).collect();
        times.sort_by(f64::total_cmp);
        [1, 2, 3].map(|quarter| times[(times.len() - 1) * quarter / 4])
    }
}

fn print(title: &str, rows: &[(&str, &Times)]) {
    println!("\n{title}");
    let [_, base, _] = rows[0].1.quartiles();
    for (name, times) in rows {
        let [low, median, high] = times.quartiles();
        println!(
            "  {name:32} {median:>10.1} us  (quartiles {low:.1} to {high:.1})  {:.2} x",
            median / base
        );
    }
}

/// Writes a file as a durable put does, with the calls alone.
fn raw_put(directory: &Path, name: &str, content: &[u8], sync: bool) {
    let stage = directory.join(format!("{name}.tmp"));
    let mut file = File::create_new(&stage).unwrap();
    file.write_all(content).unwrap();
    if sync {
        file.sync_data().unwrap();
    }
    fs::rename(&stage, directory.join(name)).unwrap();
    if sync {
        File::open(directory).unwrap().sync_all().unwrap();
    }
}

fn puts(directory: &Path, count: usize, durable: bool) {
    let (component_durability, native_durability) = if durable {
        (Durability::Full, model::Durability::Full)
    } else {
        (Durability::Relaxed, model::Durability::Relaxed)
    };
    let kind = if durable { "durable" } else { "relaxed" };
    let component = component_store(
        &directory.join(format!("component-{kind}")),
        component_durability,
    );
    let native = native_store(&directory.join(format!("native-{kind}")), native_durability);
    let raw = directory.join(format!("raw-{kind}"));
    fs::create_dir(&raw).unwrap();
    let mut times: [Times; 3] = Default::default();
    for index in 0..count {
        let text = record(index);
        times[0].measure(|| {
            raw_put(
                &raw,
                &format!("{index:016x}.json"),
                text.as_bytes(),
                durable,
            );
        });
        times[1].measure(|| {
            native
                .put_run_text(&text, &model::Expectation::Anything)
                .unwrap()
        });
        times[2].measure(|| {
            component
                .put_run_text(&text, &Expectation::Anything)
                .unwrap()
        });
    }
    let synced = if durable {
        "file and directory synced"
    } else {
        "nothing synced"
    };
    print(
        &format!("put of a run, {kind} ({synced}), {count} runs"),
        &[
            ("raw file operations", &times[0]),
            ("the same logic, native", &times[1]),
            ("component", &times[2]),
        ],
    );
}

fn gets(directory: &Path, count: usize) {
    let root = directory.join("component-relaxed");
    let component = component_store(&root, Durability::Relaxed);
    let native = native_store(&root.join("bench_1"), model::Durability::Relaxed);
    let mut times: [Times; 5] = Default::default();
    for round in 0..3 {
        for index in 0..count {
            let run = format!("{index:016x}");
            let path = root.join(format!("bench_1/runs/{run}.json"));
            let raw = times[0].measure(|| fs::read(&path).unwrap());
            let text = times[1].measure(|| native.get_run_text(&run).unwrap().unwrap());
            let same = times[2].measure(|| component.get_run_text(&run).unwrap().unwrap());
            times[3].measure(|| native.get_run_record(&run).unwrap().unwrap());
            times[4].measure(|| component.get_run_record(&run).unwrap().unwrap());
            assert!(raw == text.as_bytes() && text == same, "round {round}");
        }
    }
    print(
        &format!("get of a run, {count} runs"),
        &[
            ("raw read of the file", &times[0]),
            ("text, the same logic, native", &times[1]),
            ("text, component", &times[2]),
            ("typed, the same logic, native", &times[3]),
            ("typed, component", &times[4]),
        ],
    );
}

fn lists(directory: &Path, count: usize) {
    let root = directory.join("component-relaxed");
    let component = component_store(&root, Durability::Relaxed);
    let native = native_store(&root.join("bench_1"), model::Durability::Relaxed);
    let mut times: [Times; 4] = Default::default();
    for _ in 0..7 {
        times[0].measure(|| {
            let files = fs::read_dir(root.join("bench_1/runs")).unwrap();
            files
                .map(|entry| fs::read(entry.unwrap().path()).unwrap().len())
                .sum::<usize>()
        });
        times[1].measure(|| {
            let mut list = native.list_run_records(None).unwrap();
            while !list.next(1024).unwrap().is_empty() {}
        });
        let records = times[2].measure(|| component.list_run_records(None).unwrap().records);
        assert_eq!(records.len(), count);
        times[3].measure(|| {
            let mut list = component.list_runs(None).unwrap();
            while !list.next_lines(4 << 20).unwrap().is_empty() {}
        });
    }
    print(
        &format!("list of all {count} runs, from the files"),
        &[
            ("raw read of all files", &times[0]),
            ("typed, the same logic, native", &times[1]),
            ("typed, component", &times[2]),
            ("as lines, component", &times[3]),
        ],
    );
}

fn opens(directory: &Path) {
    let mut times: [Times; 2] = Default::default();
    for index in 0..20 {
        let root = directory.join(format!("open-{}", index % 2));
        times[0].measure(|| Engine::new().unwrap());
        times[1].measure(|| drop(component_store(&root, Durability::Relaxed)));
    }
    print(
        "opening",
        &[
            ("loading the component (once a process)", &times[0]),
            ("opening a store", &times[1]),
        ],
    );
}

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let count = if quick { 200 } else { 2000 };
    let directory = tempfile::tempdir().unwrap();
    opens(directory.path());
    puts(directory.path(), count, false);
    puts(directory.path(), count.min(500), true);
    gets(directory.path(), count);
    lists(directory.path(), count);
}
