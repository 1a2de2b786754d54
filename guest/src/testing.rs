//! For tests, those of other crates among them: a directory that is watched, what a store sends, and random records and queries over few names and
//! values, so that they often meet. They are the same in each run.
//!
//! ```
//! use metalab_store_guest::json;
//! use metalab_store_guest::testing::{self, Random};
//!
//! let mut random = Random::new(1);
//! let record = testing::record_text(&mut random, 0);
//! assert!(json::parse(record.as_bytes()).is_ok());
//! let filter = testing::expr(&mut random, 2).to_string();
//! assert!(metalab_store_guest::query::parse_filter(&filter).is_ok());
//! ```

#![expect(clippy::unwrap_used, reason = "a test may stop where it fails")]

use crate::json::{self, Value};
use crate::ports::{Directory, File, Listing, OpenMode, PortResult, Stat};
use crate::query::{
    CompareOp, Direction, Expr, Field, Kind, Literal, Moment, Pattern, Sort, SortKey, Step,
};
use crate::store::Store;
use crate::transfer::{ExperimentDigest, MAX_CHUNK, Selection};
use std::rc::Rc;

/// Returns what a store sends, whole, and the digests of it.
///
/// # Panics
/// If it sends nothing, or more than a chunk at once.
#[must_use]
pub fn stream(store: &Store, selection: Selection) -> (Vec<u8>, Vec<ExperimentDigest>) {
    let mut sender = store.send(selection).unwrap();
    let mut whole = Vec::new();
    loop {
        let chunk = sender.next_chunk().unwrap();
        assert!(chunk.len() <= MAX_CHUNK);
        if chunk.is_empty() {
            return (whole, sender.report().digests.clone());
        }
        whole.extend(chunk);
    }
}

/// What is done in a watched directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    /// A directory is listed.
    List,
    /// A directory was listed, and the list is not yet returned.
    Listed,
    /// A directory is created, or a file opened and perhaps created.
    Make,
    /// A directory is opened, to be synced for example.
    OpenDirectory,
    /// A file is renamed to this path.
    Rename,
    /// A file was renamed to this path.
    Renamed,
    /// A file is removed.
    RemoveFile,
    /// A directory gets another time.
    SetModified,
    /// A file grows at its end.
    Append,
}

/// What one who is told says to it: nothing, or that it fails.
pub trait Answer {
    /// Returns what becomes of it.
    ///
    /// # Errors
    /// What it fails with.
    fn answer(self) -> PortResult<()>;
}

impl Answer for () {
    fn answer(self) -> PortResult<()> {
        Ok(())
    }
}

impl Answer for PortResult<()> {
    fn answer(self) -> PortResult<()> {
        self
    }
}

type Told = Rc<dyn Fn(Touch, &str) -> PortResult<()>>;

/// Returns a directory of which a test is told what is done in it and below, with the path from here, before it is done; so the
/// test can do something else first, or let it fail.
pub fn watched<A: Answer>(
    inner: Rc<dyn Directory>,
    told: impl Fn(Touch, &str) -> A + 'static,
) -> Rc<dyn Directory> {
    Rc::new(Watched {
        inner,
        prefix: String::new(),
        told: Rc::new(move |touch, path| told(touch, path).answer()),
    })
}

struct Watched {
    inner: Rc<dyn Directory>,
    prefix: String,
    told: Told,
}

impl Watched {
    fn path(&self, path: &str) -> String {
        format!("{}{path}", self.prefix)
    }

    fn tell(&self, touch: Touch, path: &str) -> PortResult<()> {
        (self.told)(touch, &self.path(path))
    }
}

impl Directory for Watched {
    fn stat(&self, path: &str) -> PortResult<Stat> {
        self.inner.stat(path)
    }
    fn list(&self, path: &str) -> PortResult<Listing> {
        self.tell(Touch::List, path)?;
        let listing = self.inner.list(path);
        self.tell(Touch::Listed, path)?;
        listing
    }
    fn open_directory(&self, path: &str) -> PortResult<Rc<dyn Directory>> {
        self.tell(Touch::OpenDirectory, path)?;
        Ok(Rc::new(Self {
            inner: self.inner.open_directory(path)?,
            prefix: self.path(path) + "/",
            told: Rc::clone(&self.told),
        }))
    }
    fn create_directory(&self, path: &str) -> PortResult<()> {
        self.tell(Touch::Make, path)?;
        self.inner.create_directory(path)
    }
    fn open(&self, path: &str, mode: OpenMode) -> PortResult<Box<dyn File>> {
        self.tell(Touch::Make, path)?;
        Ok(Box::new(WatchedFile {
            inner: self.inner.open(path, mode)?,
            path: self.path(path),
            told: Rc::clone(&self.told),
        }))
    }
    fn rename(&self, from: &str, to: &str) -> PortResult<()> {
        self.tell(Touch::Rename, to)?;
        self.inner.rename(from, to)?;
        self.tell(Touch::Renamed, to)
    }
    fn remove_file(&self, path: &str) -> PortResult<()> {
        self.tell(Touch::RemoveFile, path)?;
        self.inner.remove_file(path)
    }
    fn remove_directory(&self, path: &str) -> PortResult<()> {
        self.inner.remove_directory(path)
    }
    fn sync(&self) -> PortResult<()> {
        self.inner.sync()
    }
    fn set_modified(&self, path: &str, time: u64) -> PortResult<()> {
        self.tell(Touch::SetModified, path)?;
        self.inner.set_modified(path, time)
    }
}

struct WatchedFile {
    inner: Box<dyn File>,
    path: String,
    told: Told,
}

impl File for WatchedFile {
    fn read(&self, offset: u64, length: usize) -> PortResult<Vec<u8>> {
        self.inner.read(offset, length)
    }
    fn write(&self, offset: u64, content: &[u8]) -> PortResult<()> {
        self.inner.write(offset, content)
    }
    fn append(&self, content: &[u8]) -> PortResult<()> {
        (self.told)(Touch::Append, &self.path)?;
        self.inner.append(content)
    }
    fn set_size(&self, size: u64) -> PortResult<()> {
        self.inner.set_size(size)
    }
    fn stat(&self) -> PortResult<Stat> {
        self.inner.stat()
    }
    fn sync_data(&self) -> PortResult<()> {
        self.inner.sync_data()
    }
}

/// 2026-03-08T00:00:00 UTC: the time that the generated queries take for the present.
pub const NOW: i64 = 1_772_928_000_000_000;

/// Numbers that look random and are the same in each run.
pub struct Random(u64);

impl Random {
    /// Starts a sequence.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns the next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below a limit that is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % (limit as u64)).unwrap()
    }

    /// Returns one of some items.
    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }
}

/// Values in JSON's text, those that are easily confused next to each other.
const VALUES: [&str; 46] = [
    "null",
    "true",
    "false",
    "0",
    "-0.0",
    "1",
    "1.0",
    "-1",
    "0.1",
    "2",
    "9007199254740992.0",
    "9007199254740993",
    "9007199254740992",
    "-9007199254740993",
    "9223372036854775807",
    "9223372036854775808",
    "9223372036854775808.0",
    "-9223372036854775808",
    "-9223372036854775809",
    "1180591620717411303424",
    "1180591620717411303425",
    "-1180591620717411303425",
    "1.1805916207174113e21",
    "-1.1805916207174113e21",
    "1e22",
    "1e23",
    "1e308",
    "5e-324",
    "Infinity",
    "-Infinity",
    "NaN",
    "\"\"",
    "\"a\"",
    "\"A\"",
    "\"ab\"",
    "\"b%\"",
    "\"a_b\"",
    "\"1\"",
    "\"\\u00e9\"",
    "\"\\ud83d\\ude00\"",
    "\"\\ud800\"",
    "\"a\\udc00b\"",
    "[1, \"a\", null, NaN, [2]]",
    "[]",
    "{}",
    "{\"a\": {\"a\": 1}}",
];

const TEXTS: [&str; 12] = [
    "",
    "a",
    "A",
    "ab",
    "AB",
    "b%",
    "a_b",
    "1",
    "é",
    "😀",
    "\u{ffff}",
    "a\\\"\n\u{1}\u{85}",
];

const PATTERNS: [&str; 14] = [
    "", "%", "_", "a%", "%b", "%a%", "a_b", "_%_", "b\\%", "a\\_b", "\\a", "é", "%%_", "A%B",
];

const NAMES: [&str; 4] = ["a", "b c", "0", ""];

const TIMES: [&str; 6] = [
    "\"2026-03-01T09:00:00\"",
    "\"2026-03-01T10:00:00+01:00\"",
    "\"2026-03-07T00:00:00.000001Z\"",
    "\"20260301\"",
    "\"\"",
    "null",
];

/// Returns a value as JSON text.
pub fn value(random: &mut Random) -> &'static str {
    random.pick(&VALUES)
}

/// Returns the text of a record in which any field may be missing.
pub fn record_text(random: &mut Random, run: usize) -> String {
    let mut fields = vec![format!(r#""run_id": "run{run}""#)];
    let mut field = |name: &str, value: String, random: &mut Random| {
        if random.below(4) > 0 {
            fields.push(format!("{name:?}: {value}"));
        }
    };
    let quoted = |text: &str| format!("{text:?}");
    field("experiment_id", quoted(random.pick(&["e", "f"])), random);
    field(
        "status",
        quoted(random.pick(&["success", "failed", "cancelled", "running"])),
        random,
    );
    field(
        "context_fingerprint",
        quoted(random.pick(&["", "a", "ab"])),
        random,
    );
    field("started_at", random.pick(&TIMES).to_owned(), random);
    field("finished_at", random.pick(&TIMES).to_owned(), random);
    field(
        "duration_ms",
        random.pick(&["0", "1", "9007199254740993"]).to_owned(),
        random,
    );
    field(
        "tags",
        random
            .pick(&["[]", "[\"a\"]", "[\"ab\", \"a\"]"])
            .to_owned(),
        random,
    );
    field(
        "notes",
        random
            .pick(&["null", "\"\"", "\"a b\"", "\"A\""])
            .to_owned(),
        random,
    );
    field(
        "error",
        random
            .pick(&["null", "{}", "{\"type\": \"ab\"}", "{\"type\": null}"])
            .to_owned(),
        random,
    );
    let provenance = random.pick(&[
        "{}",
        "null",
        "{\"host\": \"a\", \"extra\": {\"a\": 1}}",
        "{\"host\": null}",
    ]);
    field("provenance", provenance.to_owned(), random);
    let metrics = open_object(random);
    field("metrics", metrics, random);
    let params = open_object(random);
    field("params_resolved", params, random);
    format!("{{{}}}", fields.join(", "))
}

/// Returns the text of an object that can be metrics or parameters.
pub fn open_object(random: &mut Random) -> String {
    let mut entries = Vec::new();
    for name in NAMES {
        if random.below(3) > 0 {
            entries.push(format!("{name:?}: {}", value(random)));
        }
    }
    format!("{{{}}}", entries.join(", "))
}

/// Returns a field.
pub fn field(random: &mut Random) -> Field {
    let name = |random: &mut Random| random.pick(&NAMES).to_owned();
    match random.below(20) {
        0 => Field::RunId,
        1 => Field::ExperimentId,
        2 => Field::Status,
        3 => Field::ContextFingerprint,
        4 => Field::StartedAt,
        5 => Field::FinishedAt,
        6 => Field::DurationMs,
        7 => Field::Tags,
        8 => Field::Notes,
        9 => Field::Error(if random.below(2) == 0 {
            Vec::new()
        } else {
            vec![Step::Key("type".to_owned())]
        }),
        10 => Field::Provenance(vec![Step::Key("host".to_owned())]),
        11 => Field::Provenance(vec![Step::Key("extra".to_owned()), Step::Key(name(random))]),
        12 | 13 => Field::Derived(name(random)),
        14 | 15 => {
            let mut path = vec![Step::Key(name(random))];
            for _ in 0..random.below(3) {
                path.push(match random.below(2) {
                    0 => Step::Key("a".to_owned()),
                    _ => Step::Index(u32::try_from(random.below(3)).unwrap()),
                });
            }
            Field::Param(path)
        }
        _ => Field::Metric(name(random)),
    }
}

fn moment(random: &mut Random) -> Literal {
    Literal::Time(match random.below(2) {
        0 => Moment::At(random.pick(&[
            1_772_355_600_000_000,
            NOW - 86_400_000_000 + 1,
            -62_135_596_800_000_000,
        ])),
        _ => Moment::Now(random.pick(&[0, -1, -60, 3600, -86_400, -604_800, 90, -1_209_600])),
    })
}

fn literal_of(text: &str) -> Literal {
    match json::parse(text.as_bytes()).unwrap() {
        Value::Null => Literal::Null,
        Value::Bool(value) => Literal::Bool(value),
        Value::Int(value) => Literal::Int(value),
        Value::BigInt(digits) => Literal::Big(digits.into_owned()),
        Value::Float(value) => Literal::Float(value),
        _ => Literal::Text("a".to_owned()),
    }
}

/// A value that the field can be compared with.
fn literal(random: &mut Random, field: &Field, order: bool) -> Literal {
    let text = |random: &mut Random| Literal::Text(random.pick(&TEXTS).to_owned());
    match field.kind() {
        Kind::Text | Kind::Texts => text(random),
        Kind::Status => Literal::Text(random.pick(&["success", "failed"]).to_owned()),
        Kind::Time => moment(random),
        Kind::Integer => loop {
            let literal = literal_of(value(random));
            if literal
                .number()
                .is_some_and(|number| !order || !number.is_nan())
            {
                return literal;
            }
        },
        Kind::Any if random.below(4) == 0 => text(random),
        Kind::Any => loop {
            let literal = literal_of(value(random));
            let ordered = literal.number().is_some_and(|number| !number.is_nan())
                || matches!(literal, Literal::Text(_));
            if ordered || !order {
                return literal;
            }
        },
    }
}

fn term(random: &mut Random) -> Expr {
    let field = field(random);
    let kind = field.kind();
    loop {
        let field = field.clone();
        return match random.below(10) {
            0 => Expr::Exists(field),
            1 | 2 if !matches!(kind, Kind::Time | Kind::Integer) => {
                let value = literal(random, &field, false);
                Expr::Contains { field, value }
            }
            _ if kind == Kind::Texts => continue,
            3 | 4 if !matches!(kind, Kind::Time | Kind::Integer) => Expr::Like {
                field,
                pattern: Pattern::new(random.pick(&PATTERNS)).unwrap(),
                fold: random.below(2) == 0,
            },
            5 => {
                let count = 1 + random.below(4);
                let values = (0..count).map(|_| literal(random, &field, false)).collect();
                Expr::In { field, values }
            }
            6 => {
                let low = literal(random, &field, true);
                let high = literal(random, &field, true);
                if low.number().is_some() != high.number().is_some() {
                    continue;
                }
                Expr::Between { field, low, high }
            }
            _ => {
                let op = random.pick(&[
                    CompareOp::Equal,
                    CompareOp::NotEqual,
                    CompareOp::Less,
                    CompareOp::LessOrEqual,
                    CompareOp::Greater,
                    CompareOp::GreaterOrEqual,
                ]);
                let value = literal(random, &field, op.is_order());
                Expr::Compare { field, op, value }
            }
        };
    }
}

/// Returns a filter that the parser could make.
pub fn expr(random: &mut Random, depth: usize) -> Expr {
    let children = |random: &mut Random| {
        let count = 2 + random.below(3);
        (0..count).map(|_| expr(random, depth - 1)).collect()
    };
    match random.below(if depth == 0 { 1 } else { 6 }) {
        1 => Expr::And(children(random)),
        2 => Expr::Or(children(random)),
        3 => Expr::Not(Box::new(expr(random, depth - 1))),
        _ => term(random),
    }
}

/// Returns sort keys.
pub fn sort(random: &mut Random) -> Sort {
    let mut keys = Vec::new();
    for _ in 0..random.below(4) {
        let direction = random.pick(&[Direction::Ascending, Direction::Descending]);
        match field(random) {
            Field::Tags => {}
            field => keys.push(SortKey { field, direction }),
        }
    }
    Sort(keys)
}
