//! Measures the component against the same logic run natively and against raw file operations, side by side.
//!
//! Everything is measured in turns in one run, on one directory tree, and medians are printed: machines are
//! noisy, so the ratios of one run count, not the numbers of two. Durable puts sync; "relaxed" ones do not.

#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that cannot run fails by panicking"
)]

use metalab_store::maintenance::VerifyOptions;
use metalab_store::plugin::{DeriveOptions, Plugin, derive};
use metalab_store::transfer::{Place, TransferOptions, transfer};
use metalab_store::types::{
    ArtifactDescriptor, Durability, Expectation, Metric, MetricValue, RunQuery,
};
use metalab_store::{Engine, FileStoreConfig, Limits, Store};
use metalab_store_guest::model;
use metalab_store_guest::native;
use metalab_store_guest::store::Store as NativeStore;
use metalab_store_tests::measured::{self, Times};
use metalab_store_tests::peak_memory;
use std::fs::{self, File};
use std::io::Write;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
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

/// Returns the same without an artifact: a record is damaged whose artifact is not there.
fn record_alone(index: usize) -> String {
    let text = record(index);
    let (before, _) = text.split_once("\"artifacts\"").unwrap();
    format!("{before}\"artifacts\": []}}")
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

/// Says that a figure is to be reached.
fn reach(count: usize, of_10_000: &str, of_100_000: &str) -> String {
    match count {
        10_000 if !of_10_000.is_empty() => format!(" (reach {of_10_000})"),
        100_000 if !of_100_000.is_empty() => format!(" (reach {of_100_000})"),
        _ => String::new(),
    }
}

fn print(title: &str, rows: &[(&str, &Times)]) {
    println!("\n{title}");
    let [_, base, _] = rows[0].1.quartiles();
    for (name, times) in rows {
        measured::keep(title, name, times);
        let [low, median, high] = times.quartiles();
        println!(
            "  {name:32} {median:>10.1} us  (quartiles {low:.1} to {high:.1})  {:.2} x",
            median / base
        );
    }
}

/// A journal written with the calls alone: each entry in its place and synced.
struct RawJournal {
    file: File,
    end: u64,
    /// The bytes that exist ahead of the end; none: the file grows with each entry.
    allocated: Option<u64>,
}

impl RawJournal {
    const SPACE: u64 = 256 * 1024;

    fn create(path: &Path, allocate: bool) -> Self {
        Self {
            file: File::create_new(path).unwrap(),
            end: 0,
            allocated: allocate.then_some(0),
        }
    }

    fn append(&mut self, entry: &[u8]) {
        let end = self.end + entry.len() as u64;
        if let Some(allocated) = &mut self.allocated
            && end > *allocated
        {
            let zeros = vec![0; usize::try_from(Self::SPACE).unwrap() + entry.len()];
            self.file.write_all_at(&zeros, *allocated).unwrap();
            *allocated += zeros.len() as u64;
        }
        self.file.write_all_at(entry, self.end).unwrap();
        self.end = end;
        self.file.sync_data().unwrap();
    }
}

/// Writes a file by another name and renames it, without a sync.
fn raw_put(directory: &Path, name: &str, content: &[u8]) {
    let stage = directory.join(format!("{name}.tmp"));
    let mut file = File::create_new(&stage).unwrap();
    file.write_all(content).unwrap();
    drop(file);
    fs::rename(&stage, directory.join(name)).unwrap();
}

/// Writes a file and syncs it and its directory.
fn raw_synced_put(directory: &Path, name: &str, content: &[u8]) {
    let stage = directory.join(format!("{name}.tmp"));
    let mut file = File::create_new(&stage).unwrap();
    file.write_all(content).unwrap();
    file.sync_data().unwrap();
    fs::rename(&stage, directory.join(name)).unwrap();
    File::open(directory).unwrap().sync_all().unwrap();
}

fn relaxed_puts(directory: &Path, count: usize) {
    let component = component_store(&directory.join("component-relaxed"), Durability::Relaxed);
    let native = native_store(
        &directory.join("native-relaxed"),
        model::Durability::Relaxed,
    );
    let raw = directory.join("raw-relaxed");
    fs::create_dir(&raw).unwrap();
    let mut times: [Times; 3] = Default::default();
    for index in 0..count {
        let text = record(index);
        let name = format!("{index:016x}.json");
        times[0].measure(|| raw_put(&raw, &name, text.as_bytes()));
        let anything = &model::Expectation::Anything;
        times[1].measure(|| native.put_run_text(&text, anything).unwrap());
        let anything = &Expectation::Anything;
        times[2].measure(|| component.put_run_text(&text, anything).unwrap());
    }
    print(
        &format!("put of a run, relaxed (nothing synced), {count} runs"),
        &[
            ("create, write, rename", &times[0]),
            ("the same logic, native", &times[1]),
            ("component", &times[2]),
        ],
    );
}

fn durable_puts(directory: &Path, count: usize) {
    let component = component_store(&directory.join("component-durable"), Durability::Full);
    let native = native_store(&directory.join("native-durable"), model::Durability::Full);
    let roots = ["allocated", "growing", "synced"].map(|name| directory.join(name));
    for root in &roots {
        fs::create_dir(root).unwrap();
    }
    // As in a store, the journal is not in the directory of the files.
    let journals = directory.join("journals");
    fs::create_dir(&journals).unwrap();
    let mut allocated = RawJournal::create(&journals.join("allocated"), true);
    let mut growing = RawJournal::create(&journals.join("growing"), false);
    let mut times: [Times; 5] = Default::default();
    for index in 0..count {
        let text = record(index);
        let name = format!("{index:016x}.json");
        // The same bytes as the store writes: its text is longer than what it is given.
        let anything = &model::Expectation::Anything;
        times[3].measure(|| native.put_run_text(&text, anything).unwrap());
        let bytes = &fs::read(directory.join("native-durable/runs").join(&name)).unwrap();
        times[0].measure(|| {
            allocated.append(bytes);
            raw_put(&roots[0], &name, bytes);
        });
        times[1].measure(|| {
            growing.append(bytes);
            raw_put(&roots[1], &name, bytes);
        });
        times[2].measure(|| raw_synced_put(&roots[2], &name, bytes));
        let anything = &Expectation::Anything;
        times[4].measure(|| component.put_run_text(&text, anything).unwrap());
    }
    print(
        &format!("put of a run, durable (one sync each), {count} runs"),
        &[
            ("raw, allocated journal + rename", &times[0]),
            ("raw, growing journal + rename", &times[1]),
            ("raw, file and directory synced", &times[2]),
            ("the same logic, native", &times[3]),
            ("component", &times[4]),
        ],
    );
}

fn batches(directory: &Path, rounds: usize) {
    const RUNS: usize = 1000;
    let component = component_store(&directory.join("component-batches"), Durability::Full);
    let native = native_store(&directory.join("native-batches"), model::Durability::Full);
    let raw = directory.join("raw-batches");
    fs::create_dir(&raw).unwrap();
    let mut journal = RawJournal::create(&raw.join("journal"), true);
    let mut times: [Times; 3] = Default::default();
    for round in 0..rounds {
        let records: Vec<String> = (0..RUNS)
            .map(|index| record(round * RUNS + index))
            .collect();
        let lines = records.join("\n");
        times[0].measure(|| {
            journal.append(lines.as_bytes());
            for (index, record) in records.iter().enumerate() {
                raw_put(&raw, &format!("{round}-{index}.json"), record.as_bytes());
            }
        });
        times[1].measure(|| native.put_run_lines(&lines).unwrap());
        let outcomes = times[2].measure(|| component.put_run_lines(&lines).unwrap());
        assert!(outcomes.iter().all(Result::is_ok));
    }
    print(
        &format!("put of {RUNS} runs at once, durable, {rounds} times"),
        &[
            ("raw, one sync, files renamed", &times[0]),
            ("the same logic, native", &times[1]),
            ("component", &times[2]),
        ],
    );
    let [_, median, _] = times[2].quartiles();
    println!("  {:.0} runs a second", RUNS as f64 / median * 1e6);
}

/// Measures calls in a store of few and in one of many runs.
fn growth(directory: &Path, many: usize) {
    const FEW: usize = 100;
    let stores = [FEW, many].map(|count| {
        let root = directory.join(format!("growth-{count}"));
        let store = component_store(&root, Durability::Relaxed);
        for from in (0..count).step_by(1000) {
            let records: Vec<String> = (from..count.min(from + 1000)).map(record).collect();
            store.put_run_lines(&records.join("\n")).unwrap();
        }
        let logs = root.join("bench_1/logs");
        for index in 0..count {
            fs::write(logs.join(format!("{index:016x}_stdout.log")), "text\n").unwrap();
        }
        drop(store);
        component_store(&root, Durability::Full)
    });
    let mut times: [[Times; 2]; 6] = Default::default();
    let mut first: [Times; 2] = Default::default();
    for (which, store) in stores.iter().enumerate() {
        first[which].measure(|| store.list_logs(&format!("{:016x}", 1)).unwrap());
    }
    for round in 0..300_usize {
        for (which, store) in stores.iter().enumerate() {
            let index = round % FEW;
            let old = format!("{index:016x}");
            let new = format!("{:016x}", 1_000_000 + round);
            let text = record(1_000_000 + round);
            let times = &mut times;
            times[0][which].measure(|| store.put_run_text(&text, &Expectation::Anything).unwrap());
            times[1][which].measure(|| store.get_run_text(&old).unwrap().unwrap());
            times[2][which].measure(|| store.append_log(&old, "stdout", "line\n", false).unwrap());
            times[3][which].measure(|| store.append_log(&new, "run", "line\n", false).unwrap());
            let logs = times[4][which].measure(|| store.list_logs(&old).unwrap());
            assert_eq!(logs, ["stdout"]);
            assert!(times[5][which].measure(|| store.delete_run(&new).unwrap()));
        }
    }
    println!("\nthe first list of a run's logs after opening, in stores of {FEW} and {many} runs");
    for times in &first {
        println!("  {:>10.1} us", times.quartiles()[1]);
    }
    let names = [
        "put",
        "get",
        "append",
        "append to a new log",
        "list logs",
        "delete",
    ];
    for (name, [few, many_times]) in names.iter().zip(&times) {
        print(
            &format!("{name}, in stores of {FEW} and {many} runs, durable, logs not synced"),
            &[("few runs", few), ("many runs", many_times)],
        );
    }
}

fn many_artifacts(directory: &Path, runs: usize) {
    const ARTIFACTS: usize = 500;
    let store = component_store(&directory.join("artifacts"), Durability::Full);
    let mut times: [Times; 2] = Default::default();
    for run in 0..runs {
        let run = format!("{run:016x}");
        for index in 0..ARTIFACTS {
            let descriptor = ArtifactDescriptor::new(&run, format!("a{index}"), "blob", "bin");
            let mut spent = Times::default();
            spent.measure(|| store.put_artifact(&[7; 1000], &descriptor).unwrap());
            if index < 10 {
                times[0].0.append(&mut spent.0);
            } else if index >= ARTIFACTS - 10 {
                times[1].0.append(&mut spent.0);
            }
        }
    }
    print(
        &format!("put of an artifact of 1,000 bytes, durable, {runs} runs of {ARTIFACTS}"),
        &[("the first ten", &times[0]), ("the last ten", &times[1])],
    );
}

/// Returns the most memory that this process had since the last call, in MiB, if the system can tell.
fn peak_since() -> u64 {
    let peak = peak_memory();
    // Begins anew; only Linux can.
    fs::write("/proc/self/clear_refs", "5").ok();
    peak
}

fn big_artifact(directory: &Path, bytes: u64) {
    let source = directory.join("source");
    let mut file = File::create_new(&source).unwrap();
    let mut piece = vec![0_u8; 1 << 20];
    let mut state = 1_u64;
    for _ in 0..bytes >> 20 {
        for word in piece.chunks_exact_mut(8) {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            word.copy_from_slice(&state.to_le_bytes());
        }
        file.write_all(&piece).unwrap();
    }
    file.sync_all().unwrap();
    drop((file, piece));
    let store = component_store(&directory.join("big"), Durability::Full);
    let mut times: [Times; 3] = Default::default();
    let mut peaks = [0, 0];
    let run = |command: &mut Command| assert!(command.status().unwrap().success());
    let rounds = if bytes > 1 << 32 { 1 } else { 3 };
    for round in 0..rounds {
        let copied = directory.join("copied");
        times[0].measure(|| {
            run(Command::new("cp")
                .arg("--reflink=auto")
                .arg(&source)
                .arg(&copied));
            run(Command::new("sync").arg(&copied));
            run(Command::new("sha256sum")
                .arg(&copied)
                .stdout(std::process::Stdio::null()));
        });
        fs::remove_file(copied).unwrap();
        let staged = ArtifactDescriptor::new("run", format!("staged{round}"), "blob", "bin");
        peak_since();
        times[1].measure(|| store.put_artifact_file(&source, &staged).unwrap());
        peaks[0] = peaks[0].max(peak_since());
        store.delete_run("run").unwrap();
        let streamed = ArtifactDescriptor::new("run", format!("streamed{round}"), "blob", "bin");
        times[2].measure(|| {
            let mut writer = store.create_artifact(&streamed).unwrap();
            std::io::copy(&mut File::open(&source).unwrap(), &mut writer).unwrap();
            writer.finish().unwrap()
        });
        peaks[1] = peaks[1].max(peak_since());
        store.delete_run("run").unwrap();
    }
    fs::remove_file(source).unwrap();
    print(
        &format!(
            "an artifact of {} MiB, durable, {rounds} times",
            bytes >> 20
        ),
        &[
            ("cp, sync, sha256sum", &times[0]),
            ("staged from a file", &times[1]),
            ("streamed", &times[2]),
        ],
    );
    println!(
        "  most memory of host and component: staged {} MiB, streamed {} MiB",
        peaks[0], peaks[1]
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

/// The query of a page: filtered, sorted, the first 100.
fn page_query() -> RunQuery {
    RunQuery {
        filter: "status = \"success\" and metrics.metric_1 > 100".to_owned(),
        sort: "metrics.metric_2 desc".to_owned(),
        limit: Some(100),
        ..RunQuery::default()
    }
}

fn count_query() -> RunQuery {
    RunQuery {
        limit: Some(0),
        ..page_query()
    }
}

fn lines_of(list: &mut metalab_store::RunList) -> usize {
    let mut lines = 0;
    loop {
        let page = list.next_lines(4 << 20).unwrap();
        if page.is_empty() {
            return lines;
        }
        lines += page.bytes().filter(|byte| *byte == b'\n').count();
    }
}

/// What a process of its own measures: opening a store and its first query, in microseconds.
fn fresh(root: &str) {
    let started = Instant::now();
    let store = component_store(Path::new(root), Durability::Full);
    let opened = started.elapsed();
    let mut list = store.query_runs(&page_query()).unwrap();
    let lines = lines_of(&mut list);
    println!(
        "{} {} {lines}",
        opened.as_micros(),
        started.elapsed().as_micros()
    );
}

/// Starts this program again for its first query.
fn measure_fresh(root: &Path, opened: &mut Times, queried: &mut Times) {
    let program = std::env::current_exe().unwrap();
    let output = Command::new(program)
        .arg("--fresh")
        .arg(root)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let numbers: Vec<u64> = text
        .split_whitespace()
        .map(|word| word.parse().unwrap())
        .collect();
    opened.0.push(Duration::from_micros(numbers[0]));
    queried.0.push(Duration::from_micros(numbers[1]));
}

fn stat_all(runs: &Path) -> u64 {
    let sizes = fs::read_dir(runs)
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len());
    sizes.sum()
}

fn remove_index(root: &Path) {
    for entry in fs::read_dir(root.join("bench_1/.index")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.starts_with("columns") || name == "changes" {
            fs::remove_file(path).unwrap();
        }
    }
}

/// Runs a plugin over many runs: what it costs besides the plugin's own work.
fn derived(directory: &Path, count: usize, rounds: usize) {
    let plugin = Plugin::load(&metalab_store_tests::plugin("test")).unwrap();
    let options = DeriveOptions::default();
    let dry = DeriveOptions {
        dry_run: true,
        ..options.clone()
    };
    // The plugin does what a run's id begins with: it answers one number, or reads all that there is of a run.
    for (what, begin) in [("answers one number", "count-"), ("reads the run", "r-")] {
        let root = directory.join(begin);
        let store = component_store(&root, Durability::Relaxed);
        for from in (0..count).step_by(1000) {
            let named = |index| {
                record(index).replacen("\"run_id\": \"", &format!("\"run_id\": \"{begin}"), 1)
            };
            let records: Vec<String> = (from..count.min(from + 1000)).map(named).collect();
            store.put_run_lines(&records.join("\n")).unwrap();
        }
        store.close().unwrap();
        let config = FileStoreConfig::new(&root).scoped("bench:1").into();
        let mut times: [Times; 3] = Default::default();
        // The first round is not measured: to replace a file takes longer than to make one.
        for round in 0..=rounds {
            let runs = (0..count).map(|index| format!("{begin}{index:016x}"));
            let value = MetricValue::Integer(i64::try_from(round).unwrap());
            let metrics = || {
                vec![Metric {
                    name: "runs".to_owned(),
                    value: value.clone(),
                }]
            };
            let all: Vec<_> = runs.map(|run| (run, metrics())).collect();
            let store = component_store(&root, Durability::Full);
            let started = Instant::now();
            for batch in all.chunks(128) {
                store.put_derived_batch(batch).unwrap();
            }
            store.close().unwrap();
            if round == 0 {
                continue;
            }
            let a_run = u32::try_from(count).unwrap();
            times[0].0.push(started.elapsed() / a_run);
            for (options, at) in [(&dry, 1), (&options, 2)] {
                let started = Instant::now();
                let report = derive(
                    &config,
                    &plugin,
                    options,
                    &mut |_| ControlFlow::Continue(()),
                );
                assert_eq!(report.unwrap().derived, count as u64);
                times[at].0.push(started.elapsed() / a_run);
            }
        }
        print(
            &format!("a plugin that {what}, over {count} runs, a run"),
            &[
                ("the metrics stored, no plugin", &times[0]),
                ("computed, not stored", &times[1]),
                ("computed and stored", &times[2]),
            ],
        );
    }
}

fn native_lines(store: &NativeStore, query: &RunQuery) -> usize {
    let query = metalab_store_guest::query::QueryText {
        filter: &query.filter,
        sort: &query.sort,
        limit: query.limit,
        ..Default::default()
    };
    let mut list = store.query_runs(&query).unwrap();
    let mut lines = 0;
    loop {
        let page = list.next_lines(4 << 20).unwrap();
        if page.is_empty() {
            return lines;
        }
        lines += page.lines().count();
    }
}

fn index(directory: &Path, count: usize) {
    let root = directory.join("index");
    let runs = root.join("bench_1/runs");
    {
        let store = component_store(&root, Durability::Relaxed);
        for from in (0..count).step_by(1000) {
            let records: Vec<String> = (from..count.min(from + 1000)).map(record).collect();
            store.put_run_lines(&records.join("\n")).unwrap();
        }
    }
    let rounds = if count > 20_000 { 5 } else { 9 };
    let mut times: [Times; 3] = Default::default();
    for _ in 0..3 {
        times[0].measure(|| {
            let files = fs::read_dir(&runs).unwrap();
            files
                .map(|entry| fs::read(entry.unwrap().path()).unwrap().len())
                .sum::<usize>()
        });
        remove_index(&root);
        let native = native_store(&root.join("bench_1"), model::Durability::Full);
        times[1].measure(|| native_lines(&native, &count_query()));
        remove_index(&root);
        let component = component_store(&root, Durability::Full);
        let total = times[2].measure(|| component.query_runs(&count_query()).unwrap().total());
        assert!(total.unwrap() > 0);
    }
    print(
        &format!(
            "the index of {count} runs made from the files{}",
            reach(count, "", "1.5 s")
        ),
        &[
            ("raw read of all files", &times[0]),
            ("the same logic, native", &times[1]),
            ("component", &times[2]),
        ],
    );
    let component = component_store(&root, Durability::Full);
    let native = native_store(&root.join("bench_1"), model::Durability::Full);
    let mut times: [Times; 3] = Default::default();
    for round in 0..rounds {
        let foreign = format!("{:016x}", 1_u64 << 40);
        fs::write(runs.join(format!("{foreign}.json")), record(round)).unwrap();
        times[0].measure(|| stat_all(&runs));
        times[1].measure(|| native_lines(&native, &count_query()));
        times[2].measure(|| component.query_runs(&count_query()).unwrap());
        fs::remove_file(runs.join(format!("{foreign}.json"))).unwrap();
        component.query_runs(&count_query()).unwrap();
    }
    print(
        &format!(
            "a query after a foreign change, {count} runs{}",
            reach(count, "", "700 ms")
        ),
        &[
            ("raw names and stats", &times[0]),
            ("the same logic, native", &times[1]),
            ("component", &times[2]),
        ],
    );
    let mut times: [Times; 12] = Default::default();
    let everything = RunQuery::default();
    for _ in 0..rounds {
        times[4].measure(|| native_lines(&native, &everything));
        let lines = times[5].measure(|| lines_of(&mut component.query_runs(&everything).unwrap()));
        assert_eq!(lines, count);
        for (at, page) in [(6, 1024), (8, 100)] {
            times[at].measure(|| {
                let mut list = native.list_run_records(None).unwrap();
                while !list.next(page).unwrap().is_empty() {}
            });
            times[at + 1].measure(|| {
                let mut list = component.list_runs(None).unwrap();
                while !list.next(page).unwrap().is_empty() {}
            });
        }
        times[10].measure(|| {
            let mut list = native.list_run_records(None).unwrap();
            let mut records = Vec::new();
            while records.len() < count {
                records.extend(list.next(1024).unwrap());
            }
            records
        });
        let listed = times[11].measure(|| component.list_run_records(None).unwrap());
        assert_eq!(listed.records.len(), count);
        drop(listed);
        // The allocator puts millions of freed texts together when it is next asked for much: not in the next measurement.
        drop(std::hint::black_box(vec![1_u8; 8 << 20]));
    }
    // Not after each list of everything, which most likely takes from the processor's caches what the query before left; and not right
    // after the files were made, when all of them are looked at each time.
    native_lines(&native, &page_query());
    component.query_runs(&page_query()).unwrap();
    for _ in 0..rounds {
        times[0].measure(|| native_lines(&native, &page_query()));
        times[1].measure(|| lines_of(&mut component.query_runs(&page_query()).unwrap()));
        times[2].measure(|| native_lines(&native, &count_query()));
        times[3].measure(|| {
            component
                .query_runs(&count_query())
                .unwrap()
                .total()
                .unwrap()
        });
    }
    let rows = [
        ("filter, sort, first 100", 0, reach(count, "", "10 ms")),
        ("count", 2, reach(count, "", "10 ms")),
        ("list all as lines", 4, reach(count, "30 ms", "350 ms")),
        (
            "list all typed, at once",
            10,
            reach(count, "70 ms", "800 ms"),
        ),
        (
            "list all typed, in pages of 1,024",
            6,
            reach(count, "70 ms", "800 ms"),
        ),
        (
            "list all typed, in pages of 100",
            8,
            reach(count, "70 ms", "800 ms"),
        ),
    ];
    for (name, at, reach) in rows {
        print(
            &format!("{name}, {count} runs, warm{reach}"),
            &[
                ("the same logic, native", &times[at]),
                ("component", &times[at + 1]),
            ],
        );
    }
    drop(component);
    let mut times: [Times; 2] = Default::default();
    let [opened, queried] = &mut times;
    for _ in 0..rounds {
        measure_fresh(&root, opened, queried);
    }
    print(
        &format!(
            "a fresh process, {count} runs: since its start{}",
            reach(count, "", "60 ms")
        ),
        &[
            ("store opened", &times[0]),
            ("first query answered", &times[1]),
        ],
    );
    puts_beside_an_index(directory);
}

/// Says with how much memory for the component a page of a query is answered, the second page too: from an index that is
/// there, and after another program added a file.
fn memory(directory: &Path, count: usize) {
    let root = directory.join("memory");
    let runs = root.join("bench_1/runs");
    fs::create_dir_all(&runs).unwrap();
    for index in 0..count {
        fs::write(runs.join(format!("{index:016x}.json")), record(index)).unwrap();
    }
    let pages = |mebibytes: usize| {
        let limits = Limits {
            memory_bytes: mebibytes << 20,
            ..Limits::default()
        };
        let config = FileStoreConfig::new(&root).scoped("bench:1");
        let store = config.limits(limits).connect()?;
        let mut query = page_query();
        let mut list = store.query_runs(&query)?;
        assert_eq!(lines_of(&mut list), 100);
        query.cursor = list.cursor()?;
        assert_eq!(lines_of(&mut store.query_runs(&query)?), 100);
        Ok::<(), metalab_store::Error>(())
    };
    pages(4096).unwrap();
    let least = |before: &dyn Fn()| {
        const STEPS: [usize; 12] = [16, 32, 48, 64, 80, 96, 128, 192, 256, 384, 512, 1024];
        STEPS.into_iter().find(|mebibytes| {
            before();
            pages(*mebibytes).is_ok()
        })
    };
    println!("\nmemory of the component for a page of a query, {count} runs");
    println!("  from the index: {:?} MiB", least(&|| {}).unwrap());
    let foreign = || {
        let name = format!("{:016x}.json", 1_u64 << 40);
        drop(fs::remove_file(runs.join(&name)));
        fs::write(runs.join(name), record(1 << 20)).unwrap();
    };
    println!(
        "  after a foreign change: {:?} MiB",
        least(&foreign).unwrap()
    );
}

fn puts_beside_an_index(directory: &Path) {
    const PUTS: usize = 600;
    for durability in [Durability::Full, Durability::Relaxed] {
        let roots =
            ["without", "with"].map(|name| directory.join(format!("{name}-{durability:?}")));
        let stores = roots.clone().map(|root| component_store(&root, durability));
        let anything = &Expectation::Anything;
        for store in &stores {
            store.put_run_text(&record(0), anything).unwrap();
        }
        // From now on its writers note their changes.
        stores[1].query_runs(&count_query()).unwrap();
        let stores = roots.map(|root| component_store(&root, durability));
        let mut times: [Times; 2] = Default::default();
        for index in 1..PUTS {
            let text = record(index);
            for (store, times) in stores.iter().zip(&mut times) {
                times.measure(|| store.put_run_text(&text, anything).unwrap());
            }
        }
        print(
            &format!("put of a run, {durability:?}, component, {PUTS} runs"),
            &[
                ("without an index", &times[0]),
                ("with an index", &times[1]),
            ],
        );
    }
}

/// Hashes every file of a tree with the system's program.
fn sha256sum(root: &Path) {
    let status = Command::new("sh")
        .arg("-c")
        .arg("find \"$0\" -type f -print0 | xargs -0 sha256sum > /dev/null")
        .arg(root)
        .status()
        .unwrap();
    assert!(status.success());
}

/// Verifies a whole store in the component; nothing is found.
fn verify_in_component(root: &Path) -> u64 {
    let store = component_store(root, Durability::Full);
    let mut verification = store.verify(VerifyOptions::default()).unwrap();
    while verification.step().unwrap().is_some() {
        let findings = verification.findings().unwrap();
        assert!(findings.is_empty(), "{findings:?}");
    }
    let report = verification.report().unwrap();
    drop(verification);
    store.close().unwrap();
    report.bytes
}

fn verify_natively(root: &Path) {
    let store = native_store(root, model::Durability::Full);
    let mut verification = store
        .verify(metalab_store_guest::verify::VerifyOptions::default())
        .unwrap();
    while verification.step().unwrap().is_some() {}
    store.close().unwrap();
}

/// Compares a verification with `sha256sum` over the same files.
fn measure_verification(title: &str, root: &Path, rounds: usize) {
    // The first one notes all digests, and brings everything into the system's memory.
    let bytes = verify_in_component(root);
    let mut times: [Times; 3] = Default::default();
    for _ in 0..rounds {
        times[0].measure(|| sha256sum(root));
        times[1].measure(|| verify_natively(&root.join("bench_1")));
        times[2].measure(|| verify_in_component(root));
    }
    print(
        &format!("verify {title}, {} MiB", bytes >> 20),
        &[
            ("sha256sum of all files", &times[0]),
            ("the same logic, native", &times[1]),
            ("component", &times[2]),
        ],
    );
    println!("peak memory of this process: {} MiB", peak_memory());
}

fn verifications(directory: &Path, runs: usize, kibibytes: u64, rounds: usize) {
    let root = directory.join("verify");
    let store = native_store(&root.join("bench_1"), model::Durability::Relaxed);
    let content: Vec<u8> = (0..kibibytes << 10).map(|at| at.to_le_bytes()[0]).collect();
    for index in 0..runs {
        let run = format!("{index:016x}");
        let put = store.put_run_text(&record_alone(index), &model::Expectation::Anything);
        put.unwrap();
        store.put_derived_text(&run, "{\"best\": 1.5}").unwrap();
        let descriptor = model::ArtifactDescriptor {
            artifact_id: format!("{run}-w"),
            name: "w".to_owned(),
            kind: "blob".to_owned(),
            format: "bin".to_owned(),
            uri: String::new(),
            content_hash: None,
            size_bytes: None,
            metadata: format!("{{\"_run_id\": \"{run}\"}}"),
            unknown: "{}".to_owned(),
        };
        store.put_artifact(&content, descriptor).unwrap();
    }
    store.close().unwrap();
    let title = format!("{runs} runs with an artifact of {kibibytes} KiB");
    measure_verification(&title, &root, rounds);
    fs::remove_dir_all(root).unwrap();
}

fn verification_of_one(directory: &Path, bytes: u64, rounds: usize) {
    let root = directory.join("verify-one");
    let store = component_store(&root, Durability::Relaxed);
    store
        .put_run_text(&record_alone(0), &Expectation::Anything)
        .unwrap();
    let descriptor = ArtifactDescriptor::new(&format!("{:016x}", 0), "w", "blob", "bin");
    let mut writer = store.create_artifact(&descriptor).unwrap();
    let piece = vec![7; 256 << 10];
    for _ in 0..bytes / (256 << 10) {
        writer.write_all(&piece).unwrap();
    }
    writer.finish().unwrap();
    store.close().unwrap();
    measure_verification("one large artifact", &root, rounds);
    fs::remove_dir_all(root).unwrap();
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

/// Fills a collection with runs: a record, derived metrics, a log, and an artifact of 4 KiB with its manifest.
fn fill(root: &Path, runs: usize) {
    let directory = root.join("bench_1");
    drop(component_store(root, Durability::Relaxed));
    for index in 0..runs {
        let run = format!("{index:016x}");
        let artifacts = directory.join("artifacts").join(&run);
        fs::create_dir(&artifacts).unwrap();
        let content: Vec<u8> = (0..512_usize)
            .flat_map(|at| (at * index).to_le_bytes())
            .collect();
        fs::write(artifacts.join("model.json"), content).unwrap();
        let manifest = format!(
            "{{\n  \"artifacts\": [\n    {{\n      \"name\": \"model\",\n      \"uri\": \"/x/{run}/model.json\"\n    }}\n  ]\n}}"
        );
        fs::write(artifacts.join("_manifest.json"), manifest).unwrap();
        fs::write(directory.join(format!("runs/{run}.json")), record(index)).unwrap();
        fs::write(
            directory.join(format!("derived/{run}.json")),
            "{\n  \"best\": 1.5\n}",
        )
        .unwrap();
        fs::write(
            directory.join(format!("logs/{run}_run.log")),
            "a line\n".repeat(20),
        )
        .unwrap();
    }
}

/// Copies one place to another, and returns the most memory that host and component had meanwhile, in MiB.
fn copy(times: &mut Times, from: &Place, to: &Place) -> u64 {
    peak_since();
    let options = TransferOptions::default();
    let report =
        times.measure(|| transfer(from, to, &options, &mut |_| ControlFlow::Continue(())).unwrap());
    assert!(report.failures.is_empty() && report.copied.files > 0);
    peak_since()
}

fn sync(path: &Path) {
    assert!(
        Command::new("sync")
            .arg("-f")
            .arg(path)
            .status()
            .unwrap()
            .success()
    );
}

/// Measures copies of a store beside `cp -r` and a sync of the same.
fn transfers(directory: &Path, runs: usize, rounds: usize, artifact: u64) {
    let place = |path: &Path| Place::Store(Box::new(FileStoreConfig::new(path).into()));
    for runs in [runs / 10, runs] {
        let source = directory.join(format!("transfer-{runs}"));
        fill(&source, runs);
        sync(&source);
        let mut times: [Times; 4] = Default::default();
        let mut peaks = [0; 3];
        for round in 0..rounds {
            let target = directory.join("target");
            let archive = directory.join("target.tar.zst");
            // What comes first meets a disk in another state.
            for which in [round % 2, 1 - round % 2] {
                if which == 0 {
                    times[0].measure(|| {
                        let mut cp = Command::new("cp");
                        assert!(
                            cp.arg("-r")
                                .arg(&source)
                                .arg(&target)
                                .status()
                                .unwrap()
                                .success()
                        );
                        sync(&target);
                    });
                } else {
                    peaks[0] = peaks[0].max(copy(&mut times[1], &place(&source), &place(&target)));
                }
                fs::remove_dir_all(&target).unwrap();
                sync(directory);
            }
            let to = Place::Archive(archive.clone());
            peaks[1] = peaks[1].max(copy(&mut times[2], &place(&source), &to));
            peaks[2] = peaks[2].max(copy(&mut times[3], &to, &place(&target)));
            fs::remove_file(archive).unwrap();
            fs::remove_dir_all(&target).unwrap();
            sync(directory);
        }
        print(
            &format!("copy of {runs} runs with artifacts, durable, {rounds} times"),
            &[
                ("cp -r, sync", &times[0]),
                ("store to store", &times[1]),
                ("store to archive", &times[2]),
                ("archive to store", &times[3]),
            ],
        );
        println!("  most memory of host and component: {peaks:?} MiB");
        fs::remove_dir_all(source).unwrap();
    }
    let source = directory.join("transfer-big");
    fill(&source, 1);
    let file = File::create_new(source.join("bench_1/artifacts/0000000000000000/big.bin")).unwrap();
    let mut writer = std::io::BufWriter::with_capacity(1 << 20, file);
    for word in 0..artifact / 8 {
        let word = word.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        writer.write_all(&word.to_le_bytes()).unwrap();
    }
    drop(writer);
    sync(directory);
    let mut times: [Times; 2] = Default::default();
    let mut peak = 0;
    for _ in 0..rounds.min(3) {
        let target = directory.join("target");
        times[0].measure(|| {
            let mut cp = Command::new("cp");
            assert!(
                cp.arg("-r")
                    .arg(&source)
                    .arg(&target)
                    .status()
                    .unwrap()
                    .success()
            );
            sync(&target);
        });
        fs::remove_dir_all(&target).unwrap();
        peak = peak.max(copy(&mut times[1], &place(&source), &place(&target)));
        fs::remove_dir_all(&target).unwrap();
    }
    print(
        &format!(
            "copy of a run with an artifact of {} MiB, durable",
            artifact >> 20
        ),
        &[("cp -r, sync", &times[0]), ("store to store", &times[1])],
    );
    println!("  most memory of host and component: {peak} MiB");
    fs::remove_dir_all(source).unwrap();
}

/// Returns the number after an option.
fn number_of(option: &str) -> Option<u64> {
    let arguments: Vec<String> = std::env::args().collect();
    let at = arguments.iter().position(|argument| argument == option)?;
    arguments.get(at + 1)?.parse().ok()
}

/// What can be measured.
const PARTS: [&str; 13] = [
    "open",
    "put",
    "durable",
    "batch",
    "get",
    "growth",
    "artifacts",
    "big",
    "index",
    "verify",
    "transfer",
    "derive",
    "memory",
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, root] = arguments.as_slice()
        && flag == "--fresh"
    {
        return fresh(root);
    }
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let only: Vec<&str> = PARTS
        .into_iter()
        .filter(|part| arguments.iter().any(|argument| argument == part))
        .collect();
    let wanted = |part: &str| only.is_empty() || only.contains(&part);
    let count = if quick { 200 } else { 2000 };
    let directory = match std::env::var_os("METALAB_STORE_BENCH_DIRECTORY") {
        Some(root) => tempfile::tempdir_in(PathBuf::from(root)).unwrap(),
        None => tempfile::tempdir().unwrap(),
    };
    let root = directory.path();
    println!("{}", measured::machine(root));
    if wanted("open") {
        opens(root);
    }
    if wanted("put") || wanted("get") {
        relaxed_puts(root, count);
    }
    if wanted("durable") {
        durable_puts(root, count.min(1000));
    }
    if wanted("batch") {
        batches(root, if quick { 3 } else { 15 });
    }
    if wanted("get") {
        gets(root, count);
        lists(root, count);
    }
    if wanted("growth") {
        let runs = number_of("--runs").unwrap_or(if quick { 2_000 } else { 100_000 });
        growth(root, usize::try_from(runs).unwrap());
    }
    if wanted("artifacts") {
        many_artifacts(root, if quick { 1 } else { 5 });
    }
    if wanted("big") {
        let mebibytes = number_of("--mib").unwrap_or(if quick { 64 } else { 1024 });
        big_artifact(root, mebibytes << 20);
    }
    if wanted("index") {
        let runs = number_of("--runs").unwrap_or(if quick { 1_000 } else { 10_000 });
        index(root, usize::try_from(runs).unwrap());
    }
    // A million files take minutes.
    if only.contains(&"memory") {
        let runs = number_of("--runs").unwrap_or(1_000_000);
        memory(root, usize::try_from(runs).unwrap());
    }
    if wanted("verify") {
        let runs = number_of("--runs").unwrap_or(if quick { 500 } else { 10_000 });
        let kibibytes = number_of("--kib").unwrap_or(16);
        let mebibytes = number_of("--mib").unwrap_or(if quick { 64 } else { 2048 });
        let rounds = if quick { 1 } else { 3 };
        verifications(root, usize::try_from(runs).unwrap(), kibibytes, rounds);
        verification_of_one(root, mebibytes << 20, rounds);
    }
    if wanted("transfer") {
        let runs = number_of("--runs").unwrap_or(if quick { 500 } else { 10_000 });
        let mebibytes = number_of("--mib").unwrap_or(if quick { 16 } else { 1024 });
        let rounds = if quick { 2 } else { 5 };
        transfers(
            root,
            usize::try_from(runs).unwrap(),
            rounds,
            mebibytes << 20,
        );
    }
    if wanted("derive") {
        let runs = number_of("--runs").unwrap_or(if quick { 1_000 } else { 10_000 });
        derived(
            root,
            usize::try_from(runs).unwrap(),
            if quick { 1 } else { 5 },
        );
    }
    if let Some(file) = measured::json_file() {
        measured::save(Path::new(&file), root);
    }
}
