//! A long script of mixed operations by two processes on one store, and what the store should hold after
//! each of them.

use crate::sim::{Numbers, SimDisk, Tree};
use metalab_store_guest::error::{Error, Result};
use metalab_store_guest::model::{
    Access, ArtifactDescriptor, ArtifactReference, Durability, Expectation, Metric, MetricValue,
    Provenance, RunRecord, Status, StoreOptions, StructuredResult,
};
use metalab_store_guest::store::Store;
use std::collections::BTreeMap;
use std::rc::Rc;

/// The experiment of the store.
const EXPERIMENT: &str = "sim:1";

/// The runs of the script.
pub const RUNS: [&str; 5] = ["00112233445566aa", "run-b", "c", "d.e", "f_g"];

/// The seed of everything that is sampled.
pub fn seed() -> u64 {
    let text = std::env::var("METALAB_STORE_SEED").ok();
    text.map_or(20_260, |text| {
        text.parse().expect("METALAB_STORE_SEED is a number")
    })
}

/// How many states are looked at per crash.
pub fn samples(default: usize) -> usize {
    let text = std::env::var("METALAB_STORE_SAMPLES").ok();
    text.map_or(default, |text| {
        text.parse().expect("METALAB_STORE_SAMPLES is a number")
    })
}

pub fn options(access: Access) -> StoreOptions {
    StoreOptions {
        directory: "/data/sim_1".into(),
        experiment_id: Some(EXPERIMENT.into()),
        access,
        durability: Durability::Full,
        lock_timeout_ms: 0,
        index: None,
    }
}

/// Opens the store as a new process.
pub fn open(disk: &SimDisk, access: Access) -> Result<Store> {
    Store::open(disk.process(), options(access))
}

pub fn record(run: &str, tag: &str, size: usize) -> RunRecord {
    RunRecord {
        run_id: run.into(),
        experiment_id: EXPERIMENT.into(),
        status: Status::Success,
        context_fingerprint: "c".into(),
        params_fingerprint: "p".into(),
        seed_fingerprint: "s".into(),
        started_at: Some("2026-01-01T00:00:00".into()),
        finished_at: None,
        duration_ms: 12,
        metrics: vec![Metric {
            name: "tag".into(),
            value: MetricValue::Text(tag.into()),
        }],
        provenance: Provenance {
            code_hash: None,
            python_version: None,
            metalab_version: None,
            executor_id: None,
            host: None,
            extra: "{}".into(),
            unknown: "{}".into(),
        },
        error: None,
        params_resolved: "{}".into(),
        tags: Vec::new(),
        warnings: Vec::new(),
        notes: Some(filler(tag, size)),
        artifacts: Vec::new(),
        schema_version: "0.1".into(),
        unknown: "{}".into(),
    }
}

/// Makes a text of about a size that a tag determines.
pub fn filler(tag: &str, size: usize) -> String {
    let mut numbers = Numbers::new(tag.bytes().fold(7_u64, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(u64::from(byte))
    }));
    let mut text = format!("<{tag}>");
    while text.len() < size {
        text.push_str(&format!("{:016x}", numbers.next()));
    }
    text
}

pub fn descriptor(run: &str, name: &str, format: &str) -> ArtifactDescriptor {
    ArtifactDescriptor {
        artifact_id: format!("id-{name}"),
        name: name.into(),
        kind: "data".into(),
        format: format.into(),
        uri: String::new(),
        content_hash: None,
        size_bytes: None,
        metadata: format!("{{\"_run_id\": \"{run}\"}}"),
        unknown: "{}".into(),
    }
}

/// How an artifact comes into the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Whole,
    Stream,
    Staged,
}

/// What is done.
#[derive(Clone, Debug)]
pub enum Action {
    Open,
    Close,
    /// Drops the store without closing it: to the others, its process was killed.
    Abandon,
    Put {
        run: usize,
        size: usize,
    },
    PutText {
        run: usize,
    },
    /// Puts on the condition that the record is the one that is there.
    Swap {
        run: usize,
    },
    /// Puts on the condition that there is none.
    Create {
        run: usize,
    },
    Batch {
        runs: Vec<usize>,
    },
    Derived {
        run: usize,
    },
    Result {
        run: usize,
        name: &'static str,
        size: usize,
    },
    Artifact {
        run: usize,
        name: &'static str,
        format: &'static str,
        size: usize,
        way: Way,
    },
    Append {
        run: usize,
        log: &'static str,
        sync: bool,
    },
    Log {
        run: usize,
        log: &'static str,
        size: usize,
    },
    Delete {
        run: usize,
    },
    Manifest {
        stamp: &'static str,
    },
}

/// An operation: which of the two processes does what. Its number makes its values its own.
#[derive(Clone, Debug)]
pub struct Operation {
    pub process: usize,
    pub number: usize,
    pub action: Action,
}

/// What the store should hold: texts, or parts of them, by what they are of.
pub type Model = BTreeMap<String, String>;

/// The part of a log that is durable, by its file, where more was appended than that; none: not even a
/// name is.
pub type Soft = BTreeMap<String, Option<Rc<Vec<u8>>>>;

/// Two processes on a disk, and what their store should hold.
pub struct World {
    pub disk: SimDisk,
    pub stores: [Option<Store>; 2],
    pub model: Model,
    pub soft: Soft,
    /// Whether each process appended something without a sync: its close makes everything durable.
    appended: [bool; 2],
}

fn log_file(run: &str, log: &str) -> String {
    if log.contains('_') && !(run.len() == 16 && run.bytes().all(|digit| digit.is_ascii_hexdigit()))
    {
        format!("logs/{run}/{log}.txt")
    } else {
        format!("logs/{run}_{log}.log")
    }
}

impl World {
    pub fn new(disk: SimDisk) -> Self {
        Self {
            disk,
            stores: [None, None],
            model: Model::new(),
            soft: Soft::new(),
            appended: [false; 2],
        }
    }

    fn store(&self, process: usize) -> &Store {
        self.stores[process].as_ref().expect("the script opened it")
    }

    /// Says whether an operation can be done now.
    pub fn can(&self, operation: &Operation) -> bool {
        let open = self.stores[operation.process].is_some();
        match &operation.action {
            Action::Open => !open,
            Action::Create { run } => {
                open && !self.model.contains_key(&format!("record {}", RUNS[*run]))
            }
            Action::Swap { run } => {
                open && self.model.contains_key(&format!("record {}", RUNS[*run]))
            }
            _ => open,
        }
    }

    /// Makes the call of an operation.
    pub fn call(&mut self, operation: &Operation) -> Result<()> {
        let process = operation.process;
        let tag = format!("tag-{}", operation.number);
        match &operation.action {
            Action::Open => {
                self.stores[process] = Some(open(&self.disk, Access::ReadWrite)?);
                Ok(())
            }
            Action::Close => {
                let closed = self.store(process).close();
                self.stores[process] = None;
                closed
            }
            Action::Abandon => {
                self.stores[process] = None;
                Ok(())
            }
            Action::Put { run, size } => {
                let record = record(RUNS[*run], &tag, *size);
                let put = self
                    .store(process)
                    .put_run_record(&record, &Expectation::Anything);
                put.map(drop)
            }
            Action::PutText { run } => {
                let text = format!(
                    "{{\"run_id\": \"{}\", \"status\": \"failed\", \"notes\": \"<{tag}>\", \"more\": [1.5, 1e22]}}",
                    RUNS[*run]
                );
                let put = self
                    .store(process)
                    .put_run_text(&text, &Expectation::Anything);
                put.map(drop)
            }
            Action::Create { run } => {
                let record = record(RUNS[*run], &tag, 100);
                let put = self
                    .store(process)
                    .put_run_record(&record, &Expectation::Absent);
                put.map(drop)
            }
            Action::Swap { run } => {
                let found = self.store(process).get_versioned_run(RUNS[*run])?;
                let (revision, mut record) = found.expect("the model knows it");
                record.notes = Some(filler(&tag, 200));
                let expect = Expectation::Revision(revision);
                self.store(process)
                    .put_run_record(&record, &expect)
                    .map(drop)
            }
            Action::Batch { runs } => {
                let records: Vec<RunRecord> = runs
                    .iter()
                    .map(|run| record(RUNS[*run], &tag, 300))
                    .collect();
                let outcomes = self.store(process).put_run_records(&records)?;
                outcomes
                    .into_iter()
                    .try_for_each(|outcome| outcome.map(drop))
            }
            Action::Derived { run } => {
                let text = format!("{{\"tag\": \"<{tag}>\", \"x\": 1.25}}");
                self.store(process)
                    .put_derived_text(RUNS[*run], &text)
                    .map(drop)
            }
            Action::Result { run, name, size } => {
                let result = StructuredResult {
                    data: format!("[\"{}\", NaN]", filler(&tag, *size)),
                    dtype: None,
                    shape: Some(vec![1, 2]),
                    metadata: "{}".into(),
                    unknown: "{}".into(),
                };
                self.store(process)
                    .put_result(RUNS[*run], name, &result)
                    .map(drop)
            }
            Action::Artifact {
                run,
                name,
                format,
                size,
                way,
            } => self.artifact(
                process,
                *way,
                filler(&tag, *size).as_bytes(),
                descriptor(RUNS[*run], name, format),
            ),
            Action::Append { run, log, sync } => {
                let line = format!("{}\n", filler(&tag, 90));
                self.store(process)
                    .append_log(RUNS[*run], log, &line, *sync)
                    .map(drop)
            }
            Action::Log { run, log, size } => {
                self.store(process)
                    .put_log(RUNS[*run], log, &filler(&tag, *size))
            }
            Action::Delete { run } => self.store(process).delete_run(RUNS[*run]).map(drop),
            Action::Manifest { stamp } => {
                let body = format!("{{\"experiment_id\": \"{EXPERIMENT}\", \"tag\": \"<{tag}>\"}}");
                let put =
                    self.store(process)
                        .put_experiment_manifest(EXPERIMENT, &body, Some(stamp));
                put.map(drop)
            }
        }
    }

    fn artifact(
        &self,
        process: usize,
        way: Way,
        content: &[u8],
        descriptor: ArtifactDescriptor,
    ) -> Result<()> {
        let store = self.store(process);
        match way {
            Way::Whole => store.put_artifact(content, descriptor).map(drop),
            Way::Stream => {
                let mut writer = store.create_artifact(descriptor)?;
                for piece in content.chunks(30_000) {
                    writer.write(piece)?;
                }
                writer.finish().map(drop)
            }
            Way::Staged => {
                let staged = store.stage_artifact(descriptor.clone())?;
                self.disk.foreign_write(&staged, content);
                store.import_artifact(&staged, descriptor).map(drop)
            }
        }
    }

    /// Notes what an operation that succeeded changed.
    pub fn note(&mut self, operation: &Operation, before: &Tree) {
        let tag = format!("<tag-{}>", operation.number);
        let model = &mut self.model;
        match &operation.action {
            Action::Open => {}
            Action::Abandon => self.appended[operation.process] = false,
            Action::Close => {
                if std::mem::take(&mut self.appended[operation.process]) {
                    self.soft.clear();
                }
            }
            Action::Put { run, .. }
            | Action::PutText { run }
            | Action::Create { run }
            | Action::Swap { run } => {
                model.insert(format!("record {}", RUNS[*run]), tag);
            }
            Action::Batch { runs } => {
                for run in runs {
                    model.insert(format!("record {}", RUNS[*run]), tag.clone());
                }
            }
            Action::Derived { run } => {
                model.insert(format!("derived {}", RUNS[*run]), tag);
            }
            Action::Result { run, name, .. } => {
                model.insert(format!("result {} {name}", RUNS[*run]), tag);
            }
            Action::Artifact {
                run, name, size, ..
            } => {
                let content = filler(tag.trim_matches(['<', '>']), *size);
                model.insert(format!("artifact {} {name}", RUNS[*run]), content);
            }
            Action::Append { run, log, sync } => {
                let file = log_file(RUNS[*run], log);
                let line = format!("{}\n", filler(tag.trim_matches(['<', '>']), 90));
                let whole = model
                    .entry(format!("log {} {log}", RUNS[*run]))
                    .or_default();
                whole.push_str(&line);
                if *sync {
                    self.soft.remove(&file);
                } else {
                    self.appended[operation.process] = true;
                    let durable = || before.get(&file).cloned();
                    self.soft.entry(file.clone()).or_insert_with(durable);
                }
            }
            Action::Log { run, log, size } => {
                self.soft.remove(&log_file(RUNS[*run], log));
                let content = filler(tag.trim_matches(['<', '>']), *size);
                model.insert(format!("log {} {log}", RUNS[*run]), content);
            }
            Action::Delete { run } => {
                let run = RUNS[*run];
                model.retain(|key, _| key.split(' ').nth(1) != Some(run));
                let flat = format!("logs/{run}_");
                let nested = format!("logs/{run}/");
                self.soft
                    .retain(|file, _| !file.starts_with(&flat) && !file.starts_with(&nested));
            }
            Action::Manifest { stamp } => {
                let equal = format!("manifest {stamp} ");
                let counter = model.keys().filter(|key| key.starts_with(&equal)).count();
                model.insert(format!("{equal}{counter}"), tag);
            }
        }
    }
}

/// Reads everything that a store holds, and finds nothing damaged.
pub fn dump(store: &Store) -> Result<Model> {
    let mut found = Model::new();
    let mut list = store.list_run_records(None)?;
    let mut listed = Vec::new();
    loop {
        let page = list.next(3)?;
        if page.is_empty() {
            break;
        }
        listed.extend(page.into_iter().map(|record| record.run_id));
    }
    assert_eq!(list.damaged(), [], "damage in the list of runs");
    listed.sort();
    for run in RUNS {
        if let Some(text) = store.get_run_text(run)? {
            found.insert(format!("record {run}"), text);
            assert!(
                listed.iter().any(|listed| listed == run),
                "{run} is not listed"
            );
        } else {
            assert!(listed.iter().all(|listed| listed != run), "{run} is listed");
        }
        if let Some(text) = store.get_derived_text(run)? {
            found.insert(format!("derived {run}"), text);
        }
        for name in store.list_results(run)? {
            if let Some(text) = store.get_result_text(run, &name)? {
                found.insert(format!("result {run} {name}"), text);
            }
        }
        for artifact in store.list_artifacts(run)? {
            let reference = ArtifactReference::Name(run.into(), artifact.name.clone());
            let reader = store.open_artifact(&reference, true)?;
            let mut content = Vec::new();
            loop {
                let piece = reader.read(content.len() as u64, 256 * 1024)?;
                if piece.is_empty() {
                    break;
                }
                content.extend(piece);
            }
            let content = String::from_utf8(content).unwrap();
            found.insert(format!("artifact {run} {}", artifact.name), content);
        }
        for log in store.list_logs(run)? {
            if let Some(text) = store.get_log(run, &log)? {
                found.insert(format!("log {run} {log}"), text);
            }
        }
    }
    for header in store.list_experiment_manifests(EXPERIMENT)? {
        found.insert(
            format!("manifest {} {}", header.timestamp, header.counter),
            String::new(),
        );
    }
    if let Some(newest) = store.get_experiment_manifest(EXPERIMENT)? {
        let header = newest.header;
        let key = format!("manifest {} {}", header.timestamp, header.counter);
        found.insert(key, newest.body);
    }
    Ok(found)
}

/// Compares what a store holds with what it should hold.
pub fn check_model(store: &Store, model: &Model, context: &str) {
    let found = dump(store).unwrap();
    let keys: Vec<&String> = found.keys().collect();
    assert_eq!(keys, model.keys().collect::<Vec<_>>(), "{context}");
    let newest = model.keys().rfind(|key| key.starts_with("manifest "));
    for (key, wanted) in model {
        let text = &found[key];
        let right = match key.split(' ').next() {
            Some("artifact" | "log") => text == wanted,
            Some("manifest") if Some(key) != newest => true,
            _ => text.contains(wanted),
        };
        assert!(
            right,
            "{context}: {key} should hold {wanted:.80}, and is {text:.300}"
        );
    }
}

/// Returns the files of the format alone: without the store's own.
pub fn canonical(mut tree: Tree) -> Tree {
    tree.retain(|path, _| !path.starts_with(".index/") && !path.starts_with(".locks/"));
    tree
}

/// Returns what should not be there after a recovery and a close: segments, lock files of writers, stages. What
/// the index leaves is not among it: it is a cache, and sweeps up after itself when it is saved.
pub fn leftovers(tree: &Tree) -> Vec<String> {
    let known = [
        ".index/maintenance.lock",
        ".index/manifests.lock",
        ".index/log-changes",
    ];
    tree.keys()
        .filter(|path| !path.starts_with(".index/columns") && !path.starts_with(".index/changes"))
        .filter(|path| {
            path.contains(".tmp.") || path.starts_with(".index/") && !known.contains(&path.as_str())
        })
        .cloned()
        .collect()
}

/// A state of the store that a crash may leave: the files, and which logs may be cut.
#[derive(Clone)]
pub struct Allowed {
    pub tree: Tree,
    pub soft: Soft,
    /// Whether one of them is just being appended to: it may be cut by a kill too.
    pub under_way: bool,
}

impl Allowed {
    /// Says how a tree differs; nothing if it does not. Where unsynced lines may be lost, they may.
    pub fn difference(&self, found: &Tree, lost: bool) -> Option<String> {
        let paths = self.tree.keys().chain(found.keys());
        for path in paths {
            let (wanted, is) = (self.tree.get(path), found.get(path));
            if wanted == is {
                continue;
            }
            let cut = self.soft.get(path).filter(|_| lost || self.under_way);
            let reason = match (cut, wanted, is) {
                (Some(None), _, None) => None,
                (Some(durable), Some(wanted), Some(is)) => {
                    let durable = durable.as_ref().map_or(0, |durable| durable.len());
                    let right = is.len() >= durable
                        && is.len() <= wanted.len()
                        && is[..durable] == wanted[..durable]
                        && is
                            .iter()
                            .zip(wanted.iter())
                            .all(|(is, wanted)| *is == 0 || is == wanted);
                    (!right).then(|| differing(wanted, is))
                }
                (_, Some(wanted), Some(is)) => Some(differing(wanted, is)),
                (_, Some(_), None) => Some("is missing".into()),
                (_, None, _) => Some("should not be there".into()),
            };
            if let Some(reason) = reason {
                return Some(format!("{path} {reason}"));
            }
        }
        None
    }
}

fn differing(wanted: &[u8], is: &[u8]) -> String {
    let at = wanted
        .iter()
        .zip(is)
        .take_while(|(wanted, is)| wanted == is)
        .count();
    let show = |bytes: &[u8]| {
        let from = at.saturating_sub(40).min(bytes.len());
        let to = (at + 60).min(bytes.len());
        String::from_utf8_lossy(&bytes[from..to]).into_owned()
    };
    format!(
        "has {} bytes and should have {}; they differ from byte {at} on: {:?} should be {:?}",
        is.len(),
        wanted.len(),
        show(is),
        show(wanted)
    )
}

/// Returns the script: every kind of operation in an order that was thought of, then a random mix.
pub fn script(seed: u64) -> Vec<Operation> {
    use Action::{
        Abandon, Append, Artifact, Batch, Close, Create, Delete, Derived, Log, Manifest, Open, Put,
        PutText, Result, Swap,
    };
    let artifact = |run, name, format, size, way| Artifact {
        run,
        name,
        format,
        size,
        way,
    };
    let first = vec![
        (0, Open),
        (0, Put { run: 0, size: 100 }),
        (0, Put { run: 0, size: 3000 }),
        (0, Swap { run: 0 }),
        (0, Create { run: 1 }),
        (
            0,
            Batch {
                runs: vec![0, 1, 2, 3],
            },
        ),
        (1, Open),
        (1, Put { run: 0, size: 900 }),
        (0, Put { run: 0, size: 700 }),
        (0, PutText { run: 4 }),
        (0, Derived { run: 0 }),
        (1, Derived { run: 0 }),
        (
            0,
            Result {
                run: 0,
                name: "r",
                size: 100,
            },
        ),
        (
            0,
            Result {
                run: 0,
                name: "r",
                size: 2000,
            },
        ),
        (
            0,
            Put {
                run: 0,
                size: 70_000,
            },
        ),
        (0, Put { run: 0, size: 100 }),
        (0, artifact(0, "small", "txt", 100, Way::Whole)),
        (0, artifact(0, "other", "txt", 1500, Way::Whole)),
        (0, artifact(0, "third", "txt", 300, Way::Whole)),
        (0, artifact(0, "small", "txt", 50, Way::Whole)),
        (0, artifact(0, "small", "bin", 60, Way::Whole)),
        (0, artifact(0, "large", "bin", 66_000, Way::Whole)),
        (0, artifact(0, "stream", "bin", 70_000, Way::Stream)),
        (0, artifact(0, "stream", "bin", 500, Way::Stream)),
        (0, artifact(0, "staged", "bin", 67_000, Way::Staged)),
        (1, artifact(0, "b-own", "txt", 200, Way::Whole)),
        (0, artifact(0, "a-own", "txt", 210, Way::Whole)),
        (0, artifact(0, "a-more", "txt", 220, Way::Whole)),
        (1, Close),
        (0, artifact(0, "a-last", "txt", 230, Way::Whole)),
        (
            0,
            Append {
                run: 0,
                log: "out",
                sync: false,
            },
        ),
        (
            0,
            Append {
                run: 0,
                log: "out",
                sync: false,
            },
        ),
        (
            0,
            Append {
                run: 0,
                log: "out",
                sync: true,
            },
        ),
        (
            0,
            Append {
                run: 1,
                log: "std_err",
                sync: true,
            },
        ),
        (
            0,
            Append {
                run: 1,
                log: "std_err",
                sync: false,
            },
        ),
        (
            0,
            Log {
                run: 0,
                log: "out",
                size: 400,
            },
        ),
        (
            0,
            Append {
                run: 0,
                log: "out",
                sync: false,
            },
        ),
        (
            0,
            Log {
                run: 0,
                log: "out",
                size: 300,
            },
        ),
        (
            0,
            Manifest {
                stamp: "20260101_000000",
            },
        ),
        (
            0,
            Manifest {
                stamp: "20260101_000000",
            },
        ),
        (
            0,
            Append {
                run: 0,
                log: "out",
                sync: false,
            },
        ),
        (0, Delete { run: 0 }),
        (0, Create { run: 0 }),
        (0, Delete { run: 0 }),
        (0, Put { run: 0, size: 120 }),
        (1, Open),
        (0, artifact(2, "one", "txt", 300, Way::Whole)),
        (0, artifact(2, "two", "txt", 300, Way::Whole)),
        (1, Put { run: 2, size: 99 }),
        (1, Close),
        (0, artifact(2, "three", "txt", 300, Way::Whole)),
        (0, artifact(2, "four", "txt", 300, Way::Whole)),
        (1, Open),
        (1, Delete { run: 2 }),
        (1, Abandon),
        (1, Open),
        (1, Put { run: 2, size: 99 }),
        (0, Close),
        (0, Open),
    ];
    let mut actions = first;
    let mut numbers = Numbers::new(seed);
    let names = ["alpha", "beta", "gamma", "delta", "eps"];
    while actions.len() < 230 {
        let process = numbers.below(2);
        let run = numbers.below(RUNS.len());
        let size = [20, 600, 1200, 5000][numbers.below(4)];
        let name = names[numbers.below(names.len())];
        let log = ["out", "std_err", "x"][numbers.below(3)];
        let action = match numbers.below(40) {
            0..=5 => Put { run, size },
            6 => Put { run, size: 66_000 },
            7 => PutText { run },
            8..=10 => Swap { run },
            11 => Create { run },
            12 | 13 => Batch {
                runs: vec![run, (run + 1) % RUNS.len(), (run + 3) % RUNS.len()],
            },
            14..=16 => Derived { run },
            17 | 18 => Result { run, name, size },
            19..=24 => artifact(
                run,
                name,
                ["txt", "bin"][numbers.below(8) / 7],
                size,
                Way::Whole,
            ),
            25 => artifact(run, name, "txt", 66_000, Way::Stream),
            26 => artifact(run, name, "bin", 1000, Way::Staged),
            27..=29 => Append {
                run,
                log,
                sync: numbers.percent(40),
            },
            30 | 31 => Log { run, log, size },
            32..=34 => Delete { run },
            35 => Manifest {
                stamp: ["20260102_000000", "20260103_111111"][numbers.below(2)],
            },
            36 | 37 => Close,
            38 => Abandon,
            _ => Open,
        };
        let closed = matches!(action, Close | Abandon);
        actions.push((process, action));
        if closed {
            actions.push((process, Open));
        }
    }
    let operation = |(number, (process, action))| Operation {
        process,
        number,
        action,
    };
    actions.into_iter().enumerate().map(operation).collect()
}

/// Says whether each file may be as before or after the operation by itself, not all of them together.
pub fn is_many_calls(operation: &Operation) -> bool {
    matches!(operation.action, Action::Batch { .. } | Action::Open)
}

/// Returns the log that an operation appends to.
pub fn appended_to(operation: &Operation) -> Option<String> {
    match &operation.action {
        Action::Append { run, log, .. } => Some(log_file(RUNS[*run], log)),
        _ => None,
    }
}

/// Says whether an error leaves open whether the call takes effect.
pub fn is_unknown(error: &Error) -> bool {
    matches!(
        error,
        Error::Io {
            outcome_unknown: true,
            ..
        }
    )
}
