//! The entries of the stream that are no files of a store: what begins, what a unit holds, what ends.
//!
//! They lie in a directory of their own, `.transfer`, so that an archive that somebody unpacks by hand is a
//! working store: no store looks into a hidden directory.

use super::inventory::Kinds;
use super::tar::refused;
use crate::codec;
use crate::error::Result;
use crate::json::{Object, Value};
use crate::names::{ExperimentId, RunId};
use crate::scope::hex;

/// The directory of the notes, at the top and in each experiment's part.
const DIRECTORY: &str = ".transfer";

/// The first entry of a stream.
pub(crate) const HEAD: &str = ".transfer/stream.json";

/// The last entry of a stream.
pub(crate) const TAIL: &str = ".transfer/stream-end.json";

/// The version of the stream's form.
const FORMAT: u64 = 1;

/// The largest note that is read.
pub(crate) const MAX_NOTE: u64 = 1024 * 1024;

/// Which part of a store a stream comes to: an experiment's directory, or the collection's own runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// The directory's name, empty for the collection's own.
    pub(crate) directory: String,
    /// The experiment; none for the collection's own.
    pub(crate) experiment: Option<ExperimentId>,
    /// Which kinds of files come: what is left out says nothing about what the source has.
    pub(crate) kinds: Kinds,
}

impl Part {
    /// Returns the path of a file of this part in the stream.
    pub(crate) fn path(&self, path: &str) -> String {
        if self.directory.is_empty() {
            path.to_owned()
        } else {
            format!("{}/{path}", self.directory)
        }
    }

    /// Returns the experiment's id; empty for the collection's own.
    pub(crate) fn id(&self) -> &str {
        self.experiment.as_ref().map_or("", ExperimentId::as_str)
    }
}

/// What is noted after the files of a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnitNote {
    /// The run; none for a file that belongs to none.
    pub(crate) run: Option<RunId>,
    /// The digest of the unit in hexadecimal.
    pub(crate) digest: String,
    /// Why the unit must not be used, if it was changed while it was read.
    pub(crate) torn: Option<String>,
    /// Files that could not be read, and why.
    pub(crate) faults: Vec<(String, String)>,
    /// How many more there are, which are not named.
    pub(crate) more_faults: u64,
}

/// The most files of a unit that are named as faults: so a note stays far below its limit.
pub(crate) const MAX_FAULTS: usize = 100;

/// Says that more files could not be read than are named.
pub(crate) fn more_faults(count: u64) -> String {
    format!("{count} more files of it cannot be copied, and are not named")
}

/// What is noted after the last unit of a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PartNote {
    pub(crate) runs: u64,
    pub(crate) digest: String,
}

/// A note, by the path of its entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The stream begins.
    Head,
    /// The stream is whole.
    Tail,
    /// A part begins.
    Begin,
    /// A unit is whole.
    Unit,
    /// A part is whole.
    End,
}

/// Tells which note an entry is, and of which directory's part; nothing for a file of a store.
pub(crate) fn kind(path: &str) -> Option<(Kind, &str)> {
    match path {
        HEAD => return Some((Kind::Head, "")),
        TAIL => return Some((Kind::Tail, "")),
        _ => {}
    }
    let (directory, name) = match path.split_once('/')? {
        (DIRECTORY, name) => ("", name),
        (directory, rest) => (directory, rest.strip_prefix(DIRECTORY)?.strip_prefix('/')?),
    };
    let kind = match name {
        "begin.json" => Kind::Begin,
        "end.json" => Kind::End,
        name if name.starts_with("unit-") => Kind::Unit,
        _ => return None,
    };
    Some((kind, directory))
}

/// Returns the path of the note with which a part begins.
pub(crate) fn begin_path(part: &Part) -> String {
    part.path(&format!("{DIRECTORY}/begin.json"))
}

/// Returns the path of the note with which a part ends.
pub(crate) fn end_path(part: &Part) -> String {
    part.path(&format!("{DIRECTORY}/end.json"))
}

/// Returns the path of the note of a unit, which counts them.
pub(crate) fn unit_path(part: &Part, unit: u64) -> String {
    part.path(&format!("{DIRECTORY}/unit-{unit:08}.json"))
}

pub(crate) fn head() -> String {
    let mut object = Object::new();
    object.insert("created_by", "metalab-store");
    object.insert("format", FORMAT);
    print(object)
}

pub(crate) fn tail(parts: u64) -> String {
    let mut object = Object::new();
    object.insert("parts", parts);
    print(object)
}

pub(crate) fn begin(part: &Part) -> String {
    let mut object = Object::new();
    object.insert("directory", part.directory.as_str());
    object.insert(
        "experiment_id",
        part.experiment.as_ref().map(ExperimentId::as_str),
    );
    let without: Vec<Value<'_>> = kinds(part.kinds)
        .into_iter()
        .filter(|(_, comes)| !comes)
        .map(|(name, _)| Value::from(name))
        .collect();
    if !without.is_empty() {
        object.insert("without", without);
    }
    print(object)
}

/// Returns the names of the kinds of files, and whether each comes.
fn kinds(kinds: Kinds) -> [(&'static str, bool); 4] {
    [
        ("artifacts", kinds.artifacts),
        ("derived", kinds.derived),
        ("logs", kinds.logs),
        ("results", kinds.results),
    ]
}

pub(crate) fn unit(note: &UnitNote) -> String {
    let mut object = Object::new();
    object.insert("digest", note.digest.as_str());
    if !note.faults.is_empty() {
        let mut faults: Vec<Value<'_>> = Vec::new();
        for (file, reason) in &note.faults {
            let mut fault = Object::new();
            fault.insert("file", file.as_str());
            fault.insert("reason", reason.as_str());
            faults.push(Value::Object(fault));
        }
        object.insert("faults", faults);
    }
    if note.more_faults > 0 {
        object.insert("more_faults", note.more_faults);
    }
    object.insert("run_id", note.run.as_ref().map(RunId::as_str));
    if let Some(torn) = &note.torn {
        object.insert("torn", torn.as_str());
    }
    print(object)
}

pub(crate) fn end(note: &PartNote) -> String {
    let mut object = Object::new();
    object.insert("digest", note.digest.as_str());
    object.insert("runs", note.runs);
    print(object)
}

fn print(object: Object<'_>) -> String {
    let mut text = codec::print_line(&Value::Object(object));
    text.push('\n');
    text
}

fn parse(content: &[u8]) -> Result<Object<'_>> {
    codec::parse_object("a note", content).map_err(|error| refused(&error.to_string()))
}

/// Refuses a stream of another form.
pub(crate) fn check_head(content: &[u8]) -> Result<()> {
    match parse(content)?.get("format") {
        Some(format) if *format == Value::from(FORMAT) => Ok(()),
        Some(format) => Err(refused(&format!(
            "it has form {}, this version reads {FORMAT}: update the store",
            codec::print_line(format)
        ))),
        None => Err(refused("its first entry does not say which form it has")),
    }
}

/// Refuses a stream that came to its end with another number of parts.
pub(crate) fn check_tail(content: &[u8], parts: u64) -> Result<()> {
    if parse(content)?.get("parts") == Some(&Value::from(parts)) {
        Ok(())
    } else {
        Err(refused("parts are missing"))
    }
}

pub(crate) fn read_begin(content: &[u8]) -> Result<Part> {
    let object = parse(content)?;
    let directory = text(&object, "directory").ok_or_else(|| missing("directory"))?;
    let experiment = match object.get("experiment_id") {
        None | Some(Value::Null) => None,
        Some(Value::String(id)) => Some(
            ExperimentId::parse(id.as_str().unwrap_or_default())
                .map_err(|error| refused(&error.to_string()))?,
        ),
        Some(_) => return Err(missing("experiment_id")),
    };
    if directory.is_empty() != experiment.is_none() {
        return Err(refused("a part names a directory and no experiment"));
    }
    let without = match object.get("without") {
        None => Vec::new(),
        Some(Value::Array(without)) => without.iter().map(Value::as_str).collect(),
        Some(_) => return Err(missing("without")),
    };
    let comes = |kind| !without.contains(&Some(kind));
    Ok(Part {
        directory: directory.to_owned(),
        experiment,
        kinds: Kinds {
            artifacts: comes("artifacts"),
            derived: comes("derived"),
            results: comes("results"),
            logs: comes("logs"),
        },
    })
}

pub(crate) fn read_unit(content: &[u8]) -> Result<UnitNote> {
    let object = parse(content)?;
    let run = match object.get("run_id") {
        None | Some(Value::Null) => None,
        Some(Value::String(id)) => Some(
            RunId::parse(id.as_str().unwrap_or_default())
                .map_err(|error| refused(&error.to_string()))?,
        ),
        Some(_) => return Err(missing("run_id")),
    };
    let mut faults = Vec::new();
    if let Some(Value::Array(found)) = object.get("faults") {
        for fault in found {
            let fault = fault.as_object().ok_or_else(|| missing("faults"))?;
            let named = |key| text(fault, key).map(str::to_owned);
            let (Some(file), Some(reason)) = (named("file"), named("reason")) else {
                return Err(missing("faults"));
            };
            faults.push((file, reason));
        }
    }
    Ok(UnitNote {
        run,
        digest: text(&object, "digest")
            .ok_or_else(|| missing("digest"))?
            .to_owned(),
        torn: text(&object, "torn").map(str::to_owned),
        faults,
        more_faults: match object.get("more_faults") {
            None => 0,
            Some(more) => codec::print_line(more)
                .parse()
                .map_err(|_| missing("more_faults"))?,
        },
    })
}

pub(crate) fn read_end(content: &[u8]) -> Result<PartNote> {
    let object = parse(content)?;
    let runs = match object.get("runs") {
        Some(runs) => codec::print_line(runs).parse().ok(),
        None => None,
    };
    Ok(PartNote {
        runs: runs.ok_or_else(|| missing("runs"))?,
        digest: text(&object, "digest")
            .ok_or_else(|| missing("digest"))?
            .to_owned(),
    })
}

fn text<'o>(object: &'o Object<'_>, key: &str) -> Option<&'o str> {
    object.get(key)?.as_str()
}

fn missing(key: &str) -> crate::error::Error {
    refused(&format!("a note has no usable `{key}`"))
}

/// Returns a digest as notes hold it.
pub(crate) fn digest_text(digest: &super::digest::Digest) -> String {
    hex(digest)
}
