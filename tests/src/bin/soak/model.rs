//! What a run may be by now, by what was acknowledged.

use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A run as it may be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// What was put last of each part, by its tag.
    pub record: Option<u64>,
    derived: Option<u64>,
    result: Option<u64>,
    artifact: Option<u64>,
    /// The lines of its log.
    log: Vec<u64>,
}

/// A call that changes something.
#[derive(Clone, Debug)]
pub struct Change {
    /// What is done, by the name that the workers know.
    pub op: &'static str,
    /// The runs that it is about: one, but for a batch.
    pub runs: Vec<String>,
    /// What is stored.
    pub tag: u64,
}

impl Change {
    /// Makes the line for a worker.
    pub fn line(&self) -> Value {
        match self.op {
            "many" => json!({"op": "many", "runs": self.runs, "tag": self.tag}),
            "delete" => json!({"op": "delete", "run": self.runs[0]}),
            op => json!({"op": op, "run": self.runs[0], "tag": self.tag}),
        }
    }

    fn apply(&self, run: &mut Run) {
        let tag = Some(self.tag);
        match self.op {
            "put" | "many" => run.record = tag,
            "derived" => run.derived = tag,
            "result" => run.result = tag,
            "artifact" => run.artifact = tag,
            "append" => run.log.push(self.tag),
            "delete" => *run = Run::default(),
            other => panic!("no such change: {other}"),
        }
    }
}

/// All that a run may be: one thing, unless the outcome of a call is not known.
#[derive(Clone, Debug)]
struct Known {
    possible: Vec<Run>,
    /// Whether a call that changes it is under way.
    busy: bool,
    /// When it was changed last, by the count of changes.
    since: u64,
}

/// How a call that changes something ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was acknowledged.
    Done,
    /// It was refused: nothing happened.
    Refused,
    /// Nobody knows.
    Unknown,
}

/// The runs of one store.
#[derive(Default)]
pub struct World {
    runs: BTreeMap<String, Known>,
    changes: u64,
}

impl World {
    /// Adds a run of which there is nothing yet.
    pub fn add(&mut self, run: &str) {
        let known = Known {
            possible: vec![Run::default()],
            busy: false,
            since: 0,
        };
        self.runs.insert(run.to_owned(), known);
    }

    /// Says how many changes ended so far.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Notes that a call is under way.
    pub fn begin(&mut self, change: &Change) {
        for run in &change.runs {
            self.known(run).busy = true;
        }
    }

    /// Notes how it ended.
    pub fn end(&mut self, change: &Change, ended: Ended) {
        self.changes += 1;
        let since = self.changes;
        for run in &change.runs {
            let known = self.known(run);
            known.busy = false;
            known.since = since;
            if ended == Ended::Refused {
                continue;
            }
            let mut after = known.possible.clone();
            after.iter_mut().for_each(|run| change.apply(run));
            match ended {
                Ended::Done => known.possible = after,
                _ => known.possible.extend(after),
            }
        }
    }

    /// Says whether it is known what a run is.
    pub fn is_certain(&self, run: &str) -> bool {
        self.runs[run]
            .possible
            .windows(2)
            .all(|two| two[0] == two[1])
    }

    /// Takes what a worker saw of a run that nobody else changes.
    pub fn saw(&mut self, run: &str, seen: &Value) -> Result<(), String> {
        let number = |name: &str| seen[name].as_u64();
        let found = Run {
            record: number("record"),
            derived: number("derived"),
            result: number("result"),
            artifact: number("artifact"),
            log: seen["log"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_u64)
                .collect(),
        };
        self.changes += 1;
        let since = self.changes;
        let known = self.known(run);
        let wrong = !known.possible.contains(&found);
        let expected = std::mem::replace(&mut known.possible, vec![found.clone()]);
        known.since = since;
        match wrong {
            false => Ok(()),
            true => Err(format!(
                "run {run} is {found:?}; it should be one of {expected:?}"
            )),
        }
    }

    /// Compares a list, which began after so many changes, with all runs that nobody changed since: `shown` says which of
    /// them it has to show, and as what.
    pub fn compare(
        &self,
        before: u64,
        shown: impl Fn(&Run) -> bool,
        listed: &dyn Fn(&str) -> Option<Option<u64>>,
    ) -> Result<usize, String> {
        let mut compared = 0;
        for (name, known) in &self.runs {
            if known.busy || known.since > before || !self.is_certain(name) {
                continue;
            }
            compared += 1;
            let run = &known.possible[0];
            let right = match listed(name) {
                None => !shown(run),
                Some(tag) => shown(run) && tag.is_none_or(|tag| Some(tag) == run.record),
            };
            if !right {
                return Err(format!(
                    "run {name} is listed as {:?}, and is {run:?}",
                    listed(name)
                ));
            }
        }
        Ok(compared)
    }

    /// Names all runs.
    pub fn names(&self) -> Vec<String> {
        self.runs.keys().cloned().collect()
    }

    fn known(&mut self, run: &str) -> &mut Known {
        self.runs
            .entry(run.to_owned())
            .or_insert_with(|| panic!("no such run: {run}"))
    }
}
