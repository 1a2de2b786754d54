//! A script of mixed calls that follows from a number, what a store holds after them, and what it holds now.

use metalab_store::types::{ArtifactDescriptor, ArtifactReference, Expectation, RunRecord, Status};
use metalab_store::{Result, Store};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

/// Numbers that look random and follow from a seed.
#[derive(Clone, Debug)]
pub struct Numbers(u64);

impl Numbers {
    /// Starts with a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns the next number.
    pub fn draw(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below a limit.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.draw() % limit
    }
}

/// Returns the seed of a test: of `METALAB_STORE_SEED`, or of the time. A failure names it.
#[must_use]
pub fn seed() -> u64 {
    let given = std::env::var("METALAB_STORE_SEED").ok();
    let given = given.and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| {
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed();
        now.map_or(1, |now| u64::from(now.subsec_nanos()))
    })
}

/// What a store holds of one run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunState {
    /// The notes of its record.
    pub notes: Option<String>,
    /// Its derived metrics.
    pub derived: Option<String>,
    /// Its log.
    pub log: Option<String>,
    /// Its artifacts by name, each with its content's length and first bytes.
    pub artifacts: BTreeMap<String, (usize, Vec<u8>)>,
}

/// What a store holds of the runs of a script.
pub type State = BTreeMap<String, RunState>;

/// One call.
#[derive(Clone, Debug)]
pub enum Call {
    /// A record is put.
    Put(String),
    /// Records of several runs are put at once.
    PutMany(Vec<String>),
    /// Derived metrics are put.
    Derived(String),
    /// A line is appended to the log and synced.
    Append(String),
    /// An artifact of bytes.
    Bytes(String, String),
    /// An artifact in pieces.
    Pieces(String, String),
    /// An artifact from a file.
    File(String, String),
    /// The run is deleted.
    Delete(String),
}

/// Names of artifacts.
const NAMES: [&str; 3] = ["model", "plot", "table"];

/// Returns the calls of a script, without end. The runs' ids begin with a prefix.
pub fn calls(prefix: &str, seed: u64) -> impl Iterator<Item = (u64, Call)> {
    let mut numbers = Numbers::new(seed);
    let runs: Vec<String> = ["a", "b", "c", "d"]
        .iter()
        .map(|name| format!("{prefix}{name}"))
        .collect();
    (0..).map(move |_| {
        let run = runs[usize::try_from(numbers.below(4)).unwrap_or_default()].clone();
        let name = NAMES[usize::try_from(numbers.below(3)).unwrap_or_default()].to_owned();
        let call = match numbers.below(16) {
            0..=5 => Call::Put(run),
            6 => Call::PutMany(runs.clone()),
            7 => Call::Derived(run),
            8..=9 => Call::Append(run),
            10..=11 => Call::Bytes(run, name),
            12 => Call::Pieces(run, name),
            13 => Call::File(run, name),
            _ => Call::Delete(run),
        };
        (numbers.draw(), call)
    })
}

fn content(tag: u64, length: usize) -> Vec<u8> {
    tag.to_le_bytes().into_iter().cycle().take(length).collect()
}

fn lengths(call: &Call) -> usize {
    match call {
        Call::Pieces(..) => 100_000,
        Call::File(..) => 300_000,
        _ => 1_000,
    }
}

/// Returns the record of a run; its notes tell the tag, and its size differs from tag to tag.
#[must_use]
pub fn record(run: &str, tag: u64) -> RunRecord {
    let mut record = RunRecord::new(run, Status::Success);
    let notes = format!("{tag} ");
    record.notes = Some(notes.repeat(1 + usize::try_from(tag % 50).unwrap_or_default()));
    record
}

/// Makes a call of a store.
///
/// # Errors
/// That of the call.
pub fn make(store: &Store, call: &Call, tag: u64, source: &Path) -> Result<()> {
    let descriptor = |run: &str, name: &str| ArtifactDescriptor::new(run, name, "blob", "bin");
    match call {
        Call::Put(run) => store
            .put_run_record(&record(run, tag), &Expectation::Anything)
            .map(drop),
        Call::PutMany(runs) => {
            let records: Vec<RunRecord> = runs.iter().map(|run| record(run, tag)).collect();
            let outcomes = store.put_run_records(&records)?;
            outcomes
                .into_iter()
                .try_for_each(|outcome| outcome.map(drop))
        }
        Call::Derived(run) => store
            .put_derived_text(run, &format!("{{\"tag\": {tag}}}"))
            .map(drop),
        Call::Append(run) => store
            .append_log(run, "run", &format!("{tag}\n"), true)
            .map(drop),
        Call::Bytes(run, name) => store
            .put_artifact(&content(tag, lengths(call)), &descriptor(run, name))
            .map(drop),
        Call::Pieces(run, name) => {
            let mut writer = store.create_artifact(&descriptor(run, name))?;
            for piece in content(tag, lengths(call)).chunks(30_000) {
                writer.append(piece)?;
            }
            writer.finish().map(drop)
        }
        Call::File(run, name) => {
            let mut file = std::fs::File::create(source).map_err(|error| broken(&error))?;
            file.write_all(&content(tag, lengths(call)))
                .map_err(|error| broken(&error))?;
            store
                .put_artifact_file(source, &descriptor(run, name))
                .map(drop)
        }
        Call::Delete(run) => store.delete_run(run).map(drop),
    }
}

fn broken(error: &std::io::Error) -> metalab_store::Error {
    metalab_store::Error::InvalidArgument(format!("the test's own file: {error}"))
}

/// Returns the states that may be there when a call was under way: the state before is the first, the one
/// after it the last.
#[must_use]
pub fn after(before: &State, call: &Call, tag: u64) -> Vec<State> {
    let mut states = vec![before.clone()];
    let mut change = |run: &str, change: &dyn Fn(&mut RunState)| {
        let mut more = Vec::new();
        for state in &states {
            let mut state = state.clone();
            change(state.entry(run.to_owned()).or_default());
            more.push(state);
        }
        states.extend(more);
    };
    match call {
        Call::Put(run) => change(run, &|state| state.notes = record(run, tag).notes),
        // Each record by itself is old or new.
        Call::PutMany(runs) => {
            for run in runs {
                change(run, &|state| state.notes = record(run, tag).notes);
            }
        }
        Call::Derived(run) => change(run, &|state| {
            state.derived = Some(format!("{{\n  \"tag\": {tag}\n}}"));
        }),
        Call::Append(run) => {
            let mut created = before.clone();
            let state = created.entry(run.clone()).or_default();
            // A log is created and then written, since other programs may write it at the same time.
            state.log.get_or_insert_default();
            change(run, &|state| {
                state
                    .log
                    .get_or_insert_default()
                    .push_str(&format!("{tag}\n"));
            });
            states.insert(1, created);
        }
        Call::Bytes(run, name) | Call::Pieces(run, name) | Call::File(run, name) => {
            change(run, &|state| {
                let bytes = content(tag, lengths(call));
                let first = bytes[..8].to_vec();
                state.artifacts.insert(name.clone(), (bytes.len(), first));
            });
        }
        Call::Delete(run) => change(run, &|state| *state = RunState::default()),
    }
    states
}

/// Reads what a store holds of some runs.
///
/// # Errors
/// Whatever cannot be read; and what should never be there.
pub fn observe<'r>(store: &Store, runs: impl Iterator<Item = &'r String>) -> Result<State> {
    let list = store.list_run_records(None)?;
    if let Some(damage) = list.damaged.first() {
        return Err(metalab_store::Error::InvalidArgument(format!(
            "damaged: {damage:?}"
        )));
    }
    let mut states = State::new();
    for run in runs {
        let mut state = RunState {
            notes: store.get_run_record(run)?.and_then(|record| record.notes),
            derived: store.get_derived_text(run)?,
            log: store.get_log(run, "run")?,
            artifacts: BTreeMap::new(),
        };
        for artifact in store.list_artifacts(run)? {
            let reference = ArtifactReference::Name((run.clone(), artifact.name.clone()));
            // It is checked against its hash too.
            let mut reader = store.open_artifact(&reference, true)?;
            let bytes = store.get_artifact(&reference)?;
            if Some(bytes.len() as u64) != artifact.size_bytes
                || bytes != content_like(&bytes)
                || reader.read_at(0, 8)? != bytes[..8]
            {
                return Err(metalab_store::Error::InvalidArgument(format!(
                    "artifact {run} {} is not what was stored",
                    artifact.name
                )));
            }
            state
                .artifacts
                .insert(artifact.name, (bytes.len(), bytes[..8].to_vec()));
        }
        states.insert(run.clone(), state);
    }
    Ok(states)
}

/// Returns the content that begins as this one does.
fn content_like(bytes: &[u8]) -> Vec<u8> {
    bytes[..8]
        .iter()
        .copied()
        .cycle()
        .take(bytes.len())
        .collect()
}
