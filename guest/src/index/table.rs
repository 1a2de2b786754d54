//! Runs in columns: some thousand of them, with the text of each, as one run of bytes in memory or in a file.
//!
//! A table never changes. Its rows are in the default order of queries. Where it lies is the same bytes either
//! way: blocks, then a directory of them with a checksum each.

use super::Doubt;
use super::bytes::{Reader, place, put_text, put_u32, put_u64, small, u32s};
use super::column::{Column, ColumnBuilder};
use crate::json::{Part, Value, compare, is_same};
use crate::ports::File;
use crate::query::{self, Cell, Field, Step, cell_of, null_is_missing, time_of};
use std::cell::{Cell as Slot, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use twox_hash::XxHash64;

/// How a table's file begins, and its directory ends.
const MAGIC: &[u8; 8] = b"mlabtab3";

/// The most runs of a table.
pub(super) const MAX_ROWS: usize = 1 << 16;

/// The most bytes of texts and cells that a table is built of, before the next one is begun.
const MAX_BYTES: usize = 24 << 20;

/// Objects below this depth have no columns of their own.
const MAX_DEPTH: usize = 24;

/// The most that is asked of a file in one read.
const READ: usize = 64 * 1024;

/// The bytes of columns that a table keeps between queries.
const KEPT: usize = 24 << 20;

/// The mark of a file whose times are so young that a later change may leave them as they are.
const YOUNG: u64 = 1 << 63;

/// Returns the checksum of a part of a table: half of its XXH64, which takes a fraction of the time of a CRC. All texts of a
/// list are checked each time.
fn check_of(bytes: &[u8]) -> u32 {
    let [a, b, c, d, ..] = XxHash64::oneshot(0, bytes).to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// What was known of a file when it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(super) size: u64,
    pub(super) modified: u64,
    pub(super) changed: u64,
    /// Whether a later change could have left all of this as it is.
    pub(super) young: bool,
}

/// The derived metrics of a run, as they were read.
pub(super) enum DerivedText<'a> {
    Absent,
    /// There is a file, and it is damaged.
    Damaged(Seen),
    Whole(Seen, Part<'a>, &'a [u8]),
}

/// Fields by the names on the way to them.
#[derive(Default)]
struct Node {
    column: Option<usize>,
    children: Vec<(Box<str>, usize)>,
    places: BTreeMap<Box<str>, usize>,
    /// The child that was asked for after the last one: records have the same keys in the same order.
    next: usize,
}

/// The fields with parts: `error`, `metrics`, `params`, `derived` and `provenance`.
const ROOTS: usize = 5;
/// The fields without parts, by the numbers that stand for them in a table.
const PLAIN: [Field; 11] = [
    Field::RunId,
    Field::ExperimentId,
    Field::Status,
    Field::ContextFingerprint,
    Field::ParamsFingerprint,
    Field::SeedFingerprint,
    Field::StartedAt,
    Field::FinishedAt,
    Field::DurationMs,
    Field::Tags,
    Field::Notes,
];

/// What is in columns of a record's entry.
enum Name {
    /// A field of [`PLAIN`].
    Plain(usize),
    /// A field with parts, of [`ROOTS`].
    Root(usize),
}

/// The entries of a record that have columns, in the order of their names.
static NAMES: [(&str, Name); 15] = [
    ("context_fingerprint", Name::Plain(3)),
    ("duration_ms", Name::Plain(8)),
    ("error", Name::Root(0)),
    ("experiment_id", Name::Plain(1)),
    ("finished_at", Name::Plain(7)),
    ("metrics", Name::Root(1)),
    ("notes", Name::Plain(10)),
    ("params_fingerprint", Name::Plain(4)),
    ("params_resolved", Name::Root(2)),
    ("provenance", Name::Root(4)),
    ("run_id", Name::Plain(0)),
    ("seed_fingerprint", Name::Plain(5)),
    ("started_at", Name::Plain(6)),
    ("status", Name::Plain(2)),
    ("tags", Name::Plain(9)),
];

/// Returns what a record has of each of the names.
fn named<'v>(record: Part<'v>) -> [Option<Part<'v>>; NAMES.len()] {
    let mut found = [None; NAMES.len()];
    let mut next = 0;
    for (key, value) in record.entries() {
        let Some(key) = key.map(str::as_bytes) else {
            continue;
        };
        // Both are in order.
        while let Some((name, _)) = NAMES.get(next) {
            if is_same(name.as_bytes(), key) {
                found[next] = Some(value);
                next += 1;
                break;
            }
            if compare(name.as_bytes(), key).is_gt() {
                break;
            }
            next += 1;
        }
    }
    found
}

struct BuiltRow {
    name: Box<str>,
    started_at: Option<i64>,
    experiment_id: Box<str>,
    run_id: Box<str>,
    seen: Seen,
    derived: Option<Seen>,
    at: usize,
    /// The length of the record's text, with the mark [`TYPED`] if it is its typed line too.
    record_length: u32,
    /// The length of the derived metrics' text; [`NONE`] without, [`DAMAGED`] if they are damaged.
    derived_length: u32,
}

/// The mark of a record's text that is handed out as a typed line. A text has fewer bytes than this.
const TYPED: u32 = 1 << 31;

const NONE: u32 = u32::MAX;
const DAMAGED: u32 = u32::MAX - 1;

/// Collects runs for a table.
pub(super) struct Builder {
    rows: Vec<BuiltRow>,
    texts: Vec<u8>,
    columns: Vec<(Field, ColumnBuilder)>,
    nodes: Vec<Node>,
}

impl Builder {
    pub(super) fn new() -> Self {
        let plain = PLAIN.map(|field| (field, ColumnBuilder::default()));
        Self {
            rows: Vec::new(),
            texts: Vec::new(),
            columns: plain.into(),
            nodes: (0..ROOTS).map(|_| Node::default()).collect(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.rows.len() >= MAX_ROWS
            || self.texts.len() > MAX_BYTES
            || (self.rows.len().is_multiple_of(1024)
                && self
                    .columns
                    .iter()
                    .map(|(_, column)| column.bytes())
                    .sum::<usize>()
                    > MAX_BYTES)
    }

    /// Adds a run: the name of its file without the suffix, what it holds, its text without white space, and whether that is
    /// its typed line.
    pub(super) fn add(
        &mut self,
        name: &str,
        seen: Seen,
        record: Part<'_>,
        (text, is_typed): (&[u8], bool),
        derived: &DerivedText<'_>,
    ) {
        let at = small(self.rows.len());
        let (derived_part, derived_text, derived_seen, derived_length) = match derived {
            DerivedText::Absent => (None, [].as_slice(), None, NONE),
            DerivedText::Damaged(seen) => (None, [].as_slice(), Some(*seen), DAMAGED),
            DerivedText::Whole(seen, part, text) => {
                (Some(*part), *text, Some(*seen), small(text.len()))
            }
        };
        let id = |cell: &Cell<'_>| {
            let text = cell.text().map(String::from_utf8_lossy);
            Box::from(text.unwrap_or_default())
        };
        let mut row = BuiltRow {
            name: name.into(),
            started_at: None,
            experiment_id: Box::default(),
            run_id: Box::default(),
            seen,
            derived: derived_seen,
            at: self.texts.len(),
            record_length: small(text.len()) | if is_typed { TYPED } else { 0 },
            derived_length,
        };
        let mut roots = [None; ROOTS];
        roots[3] = derived_part;
        for (value, (_, name)) in named(record).into_iter().zip(&NAMES) {
            let (field, column) = match name {
                Name::Plain(plain) => &mut self.columns[*plain],
                Name::Root(root) => {
                    roots[*root] = value;
                    continue;
                }
            };
            match field {
                Field::StartedAt | Field::FinishedAt => {
                    let time = time_of(value.and_then(Part::text));
                    if *field == Field::StartedAt {
                        row.started_at = time;
                    }
                    column.push_cell(at, &time.map_or(Cell::Missing, Cell::Time));
                }
                Field::Tags => {
                    if let Some(tags) = value.filter(|tags| tags.items().next().is_some()) {
                        column.push_part(at, tags);
                    }
                }
                _ => match cell_of(field, value.map(|value| Cell::of_shape(value.shape()))) {
                    Cell::List(_) => {
                        if let Some(value) = value {
                            column.push_part(at, value);
                        }
                    }
                    cell => {
                        match field {
                            Field::ExperimentId => row.experiment_id = id(&cell),
                            Field::RunId => row.run_id = id(&cell),
                            _ => {}
                        }
                        column.push_cell(at, &cell);
                    }
                },
            }
        }
        for (root, value) in roots.into_iter().enumerate() {
            match (root, value) {
                (_, None) => {}
                (0, Some(error)) => self.nested(at, root, root, error, &mut Vec::new()),
                (1 | 3, Some(metrics)) => {
                    self.entries(at, root, root, metrics, &mut Vec::new(), false);
                }
                (_, Some(object)) => {
                    self.entries(at, root, root, object, &mut Vec::new(), true);
                }
            }
        }
        self.rows.push(row);
        self.texts.extend_from_slice(text);
        self.texts.extend_from_slice(derived_text);
    }

    fn entries<'v>(
        &mut self,
        at: u32,
        root: usize,
        node: usize,
        object: Part<'v>,
        path: &mut Vec<&'v str>,
        descend: bool,
    ) {
        self.nodes[node].next = 0;
        for (key, value) in object.entries() {
            // What no query can spell needs no column.
            let Some(key) = key else {
                continue;
            };
            let child = self.child(node, key);
            path.push(key);
            if descend {
                self.nested(at, root, child, value, path);
            } else {
                let column = self.column(root, child, path);
                self.columns[column].1.push_part(at, value);
            }
            path.pop();
        }
    }

    fn nested<'v>(
        &mut self,
        at: u32,
        root: usize,
        node: usize,
        value: Part<'v>,
        path: &mut Vec<&'v str>,
    ) {
        let column = self.column(root, node, path);
        let (field, cells) = &mut self.columns[column];
        let is_object = value.is_object();
        if is_object && path.len() >= MAX_DEPTH {
            cells.push_deep(at, value);
        } else if !(value.is_null() && null_is_missing(field)) {
            cells.push_part(at, value);
        }
        if is_object && path.len() < MAX_DEPTH {
            self.entries(at, root, node, value, path, true);
        }
    }

    fn child(&mut self, node: usize, key: &str) -> usize {
        let parent = &mut self.nodes[node];
        if let Some((name, child)) = parent.children.get(parent.next)
            && is_same(name.as_bytes(), key.as_bytes())
        {
            parent.next += 1;
            return *child;
        }
        if let Some(index) = parent.places.get(key) {
            parent.next = index + 1;
            return parent.children[*index].1;
        }
        let index = parent.children.len();
        let child = self.nodes.len();
        let parent = &mut self.nodes[node];
        parent.children.push((key.into(), child));
        parent.places.insert(key.into(), index);
        parent.next = index + 1;
        self.nodes.push(Node::default());
        child
    }

    fn column(&mut self, root: usize, node: usize, path: &[&str]) -> usize {
        let parent = &mut self.nodes[node];
        if let Some(column) = parent.column {
            return column;
        }
        let column = self.columns.len();
        parent.column = Some(column);
        let steps = || {
            path.iter()
                .map(|key| Step::Key((*key).to_owned()))
                .collect()
        };
        let name = || {
            path.first()
                .map(|name| (*name).to_owned())
                .unwrap_or_default()
        };
        let field = match root {
            0 => Field::Error(steps()),
            1 => Field::Metric(name()),
            2 => Field::Param(steps()),
            3 => Field::Derived(name()),
            _ => Field::Provenance(steps()),
        };
        self.columns.push((field, ColumnBuilder::default()));
        column
    }

    /// Makes the table.
    pub(super) fn finish(self, id: u64) -> Vec<u8> {
        let mut order: Vec<u32> = (0..small(self.rows.len())).collect();
        order.sort_unstable_by(|left, right| {
            let (left, right) = (&self.rows[*left as usize], &self.rows[*right as usize]);
            right
                .started_at
                .cmp(&left.started_at)
                .then_with(|| left.experiment_id.cmp(&right.experiment_id))
                .then_with(|| left.run_id.cmp(&right.run_id))
        });
        let mut rank = vec![0_u32; order.len()];
        for (place, row) in order.iter().enumerate() {
            rank[*row as usize] = small(place);
        }
        let rows: Vec<&BuiltRow> = order.iter().map(|row| &self.rows[*row as usize]).collect();
        let mut out = Vec::with_capacity(self.texts.len() * 2 + 4096);
        out.extend_from_slice(MAGIC);
        put_u64(&mut out, id);
        let mut blocks = Vec::new();
        // The texts come first, in the order of the rows, so that a list reads on and on.
        let texts_at = out.len();
        let mut places = Vec::with_capacity(rows.len() * 16);
        for row in &rows {
            let derived = if row.derived_length >= DAMAGED {
                0
            } else {
                row.derived_length
            };
            let length = (row.record_length & !TYPED) + derived;
            let text = &self.texts[row.at..row.at + length as usize];
            put_u32(&mut places, small(out.len()));
            put_u32(&mut places, row.record_length);
            put_u32(&mut places, row.derived_length);
            put_u32(&mut places, check_of(text));
            out.extend_from_slice(text);
        }
        let texts_end = out.len();
        blocks.push(block(&mut out, |out| out.extend_from_slice(&places)));
        blocks.push(block(&mut out, |out| {
            let mut end = 0;
            for row in &rows {
                end += row.name.len();
                put_u32(out, small(end));
            }
            for row in &rows {
                out.extend_from_slice(row.name.as_bytes());
            }
        }));
        blocks.push(block(&mut out, |out| {
            let mut by_name: Vec<u32> = (0..small(rows.len())).collect();
            by_name.sort_unstable_by_key(|row| &rows[*row as usize].name);
            for row in by_name {
                put_u32(out, row);
            }
        }));
        blocks.push(block(&mut out, |out| {
            for row in &rows {
                put_seen(out, Some(&row.seen));
                put_seen(out, row.derived.as_ref());
            }
        }));
        let columns: Vec<(&Field, Block)> = self
            .columns
            .iter()
            .map(|(field, column)| (field, block(&mut out, |out| column.encode(&rank, out))))
            .collect();
        let mut directory = Vec::new();
        put_u32(&mut directory, small(rows.len()));
        put_u32(&mut directory, small(texts_at));
        put_u32(&mut directory, small(texts_end));
        for block in blocks {
            block.put(&mut directory);
        }
        put_u32(&mut directory, small(columns.len()));
        for (field, block) in columns {
            put_field(&mut directory, field);
            block.put(&mut directory);
        }
        out.extend_from_slice(&directory);
        put_u32(&mut out, small(directory.len()));
        put_u32(&mut out, check_of(&directory));
        out.extend_from_slice(MAGIC);
        out
    }
}

fn put_seen(out: &mut Vec<u8>, seen: Option<&Seen>) {
    let (size, modified, changed) = match seen {
        None => (u64::MAX, 0, 0),
        Some(seen) => {
            let young = if seen.young { YOUNG } else { 0 };
            (seen.size | young, seen.modified, seen.changed)
        }
    };
    for number in [size, modified, changed] {
        put_u64(out, number);
    }
}

fn seen_of(reader: &mut Reader<'_>) -> Result<Option<Seen>, Doubt> {
    let (size, modified, changed) = (reader.u64()?, reader.u64()?, reader.u64()?);
    Ok((size != u64::MAX).then_some(Seen {
        size: size & !YOUNG,
        modified,
        changed,
        young: size & YOUNG != 0,
    }))
}

/// A piece of a table, and its checksum.
#[derive(Clone, Copy)]
struct Block {
    at: u32,
    length: u32,
    check: u32,
}

impl Block {
    fn put(self, out: &mut Vec<u8>) {
        put_u32(out, self.at);
        put_u32(out, self.length);
        put_u32(out, self.check);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Doubt> {
        Ok(Self {
            at: reader.u32()?,
            length: reader.u32()?,
            check: reader.u32()?,
        })
    }
}

fn block(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) -> Block {
    let at = out.len();
    write(out);
    Block {
        at: small(at),
        length: small(out.len() - at),
        check: check_of(&out[at..]),
    }
}

fn put_field(out: &mut Vec<u8>, field: &Field) {
    let (kind, path): (u8, Vec<&str>) = match field {
        Field::Error(path) => (100, keys(path)),
        Field::Metric(name) => (101, vec![name]),
        Field::Param(path) => (102, keys(path)),
        Field::Derived(name) => (103, vec![name]),
        Field::Provenance(path) => (104, keys(path)),
        plain => {
            let place = PLAIN.iter().position(|other| other == plain);
            (
                place
                    .and_then(|place| u8::try_from(place).ok())
                    .unwrap_or(u8::MAX),
                Vec::new(),
            )
        }
    };
    out.push(kind);
    put_u32(out, small(path.len()));
    for key in path {
        put_text(out, key.as_bytes());
    }
}

fn keys(path: &[Step]) -> Vec<&str> {
    path.iter()
        .filter_map(|step| match step {
            Step::Key(key) => Some(key.as_str()),
            Step::Index(_) => None,
        })
        .collect()
}

fn field_of(reader: &mut Reader<'_>) -> Result<Field, Doubt> {
    let kind = reader.byte()?;
    let count = reader.count(4)?;
    let mut path = Vec::new();
    for _ in 0..count {
        path.push(reader.text()?.to_owned());
    }
    let steps = |path: Vec<String>| path.into_iter().map(Step::Key).collect();
    Ok(match (kind, path.len()) {
        (100, _) => Field::Error(steps(path)),
        (101, 1) => Field::Metric(path.remove(0)),
        (102, 1..) => Field::Param(steps(path)),
        (103, 1) => Field::Derived(path.remove(0)),
        (104, 1..) => Field::Provenance(steps(path)),
        (plain, 0) => PLAIN.get(usize::from(plain)).ok_or(Doubt)?.clone(),
        _ => return Err(Doubt),
    })
}

enum Source {
    Memory(Vec<u8>),
    File(Box<dyn File>),
}

impl Source {
    fn read(&self, at: usize, length: usize) -> Result<Vec<u8>, Doubt> {
        match self {
            Self::Memory(bytes) => {
                let end = at.checked_add(length).ok_or(Doubt)?;
                Ok(bytes.get(at..end).ok_or(Doubt)?.to_vec())
            }
            Self::File(file) => {
                let mut content = Vec::with_capacity(length.min(1 << 26));
                while content.len() < length {
                    let offset = (at + content.len()) as u64;
                    let wanted = (length - content.len()).min(READ);
                    let piece = file.read(offset, wanted).map_err(|_| Doubt)?;
                    if piece.is_empty() || piece.len() > wanted {
                        return Err(Doubt);
                    }
                    content.extend_from_slice(&piece);
                }
                Ok(content)
            }
        }
    }
}

pub(super) struct Names {
    ends: Vec<u32>,
    heap: String,
}

/// Texts that were read ahead.
#[derive(Default)]
struct Window {
    at: usize,
    bytes: Vec<u8>,
}

/// A table.
pub(crate) struct Table {
    pub(super) id: u64,
    pub(super) length: u64,
    pub(super) check: u32,
    rows: usize,
    source: Source,
    texts: (usize, usize),
    blocks: [Block; 4],
    columns: BTreeMap<Field, Block>,
    /// Which rows are of runs that are gone or are in another table now.
    dead: RefCell<Vec<bool>>,
    dead_rows: Slot<usize>,
    kept: RefCell<BTreeMap<Field, Rc<Column>>>,
    places: RefCell<Option<Rc<Vec<u32>>>>,
    names: RefCell<Option<Rc<Names>>>,
    by_name: RefCell<Option<Rc<Vec<u32>>>>,
    seen: RefCell<Option<Rc<Vec<u8>>>>,
    window: RefCell<Window>,
}

/// The texts of a run.
pub(crate) struct Texts {
    pub(crate) record: String,
    pub(crate) derived: Option<String>,
}

impl Table {
    /// Reads a table that is in memory.
    pub(super) fn in_memory(bytes: Vec<u8>) -> Result<Self, Doubt> {
        let length = bytes.len() as u64;
        Self::open(Source::Memory(bytes), length, None)
    }

    /// Reads a table that is in a file of this length, whose directory has this checksum.
    pub(super) fn in_file(file: Box<dyn File>, length: u64, check: u32) -> Result<Self, Doubt> {
        Self::open(Source::File(file), length, Some(check))
    }

    fn open(source: Source, length: u64, expected: Option<u32>) -> Result<Self, Doubt> {
        let size = usize::try_from(length).map_err(|_| Doubt)?;
        let end = size.checked_sub(16).ok_or(Doubt)?;
        let head = source.read(0, 16)?;
        let tail = source.read(end, 16)?;
        let (mut head, mut tail) = (Reader(&head), Reader(&tail));
        if head.take(8)? != MAGIC {
            return Err(Doubt);
        }
        let id = head.u64()?;
        let directory_length = place(u64::from(tail.u32()?));
        let check = tail.u32()?;
        if tail.take(8)? != MAGIC || expected.is_some_and(|expected| expected != check) {
            return Err(Doubt);
        }
        let at = end.checked_sub(directory_length).ok_or(Doubt)?;
        let directory = source.read(at, directory_length)?;
        if check_of(&directory) != check {
            return Err(Doubt);
        }
        let mut reader = Reader(&directory);
        let rows = place(u64::from(reader.u32()?));
        if rows > MAX_ROWS {
            return Err(Doubt);
        }
        let texts = (reader.u32()? as usize, reader.u32()? as usize);
        let mut next = || Block::read(&mut reader);
        let blocks = [next()?, next()?, next()?, next()?];
        let mut columns = BTreeMap::new();
        for _ in 0..reader.count(17)? {
            columns.insert(field_of(&mut reader)?, Block::read(&mut reader)?);
        }
        reader.end()?;
        Ok(Self {
            id,
            length,
            check,
            rows,
            source,
            texts,
            blocks,
            columns,
            dead: RefCell::new(vec![false; rows]),
            dead_rows: Slot::new(0),
            kept: RefCell::default(),
            places: RefCell::default(),
            names: RefCell::default(),
            by_name: RefCell::default(),
            seen: RefCell::default(),
            window: RefCell::default(),
        })
    }

    /// Returns the table's bytes, wherever they are.
    pub(super) fn all_bytes(&self) -> Result<Vec<u8>, Doubt> {
        let length = usize::try_from(self.length).map_err(|_| Doubt)?;
        self.source.read(0, length)
    }

    /// Returns the table's bytes, if they are in memory alone.
    pub(super) fn bytes(&self) -> Option<&[u8]> {
        match &self.source {
            Source::Memory(bytes) => Some(bytes),
            Source::File(_) => None,
        }
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn live_rows(&self) -> usize {
        self.rows - self.dead_rows.get()
    }

    pub(super) fn is_live(&self, row: usize) -> bool {
        !self.dead.borrow()[row]
    }

    pub(super) fn kill(&self, row: usize) {
        let was = std::mem::replace(&mut self.dead.borrow_mut()[row], true);
        self.dead_rows.set(self.dead_rows.get() + usize::from(!was));
    }

    /// Returns the dead rows.
    pub(super) fn dead(&self) -> Vec<u32> {
        let dead = self.dead.borrow();
        (0..small(self.rows))
            .filter(|row| dead[*row as usize])
            .collect()
    }

    /// Tells for each row whether it counts.
    pub(super) fn live(&self) -> Vec<bool> {
        self.dead.borrow().iter().map(|dead| !dead).collect()
    }

    fn load(&self, block: Block) -> Result<Vec<u8>, Doubt> {
        let bytes = self.source.read(block.at as usize, block.length as usize)?;
        if check_of(&bytes) == block.check {
            Ok(bytes)
        } else {
            Err(Doubt)
        }
    }

    /// Returns the column of a field.
    pub(super) fn column(&self, field: &Field) -> Result<Rc<Column>, Doubt> {
        if let Some(column) = self.kept.borrow().get(field) {
            return Ok(Rc::clone(column));
        }
        let mut column = match self.columns.get(field) {
            Some(block) => Column::decode(&self.load(*block)?, self.rows)?,
            None => Column::missing(self.rows),
        };
        type Made = fn(Vec<Step>) -> Field;
        let (path, made): (&[Step], Made) = match field {
            Field::Error(path) => (path, Field::Error),
            Field::Param(path) => (path, Field::Param),
            Field::Provenance(path) => (path, Field::Provenance),
            _ => (&[], Field::Error),
        };
        let first = usize::from(!matches!(field, Field::Error(_)));
        for length in first..path.len() {
            let (outer, rest) = path.split_at(length);
            if let Some(block) = self.columns.get(&made(outer.to_vec())) {
                let outer = Column::decode(&self.load(*block)?, self.rows)?;
                column = column.fill_from(&outer, |value| follow(value, rest));
            }
        }
        let column = Rc::new(column);
        let mut kept = self.kept.borrow_mut();
        if kept.values().map(|column| column.bytes()).sum::<usize>() > KEPT {
            kept.clear();
        }
        kept.insert(field.clone(), Rc::clone(&column));
        Ok(column)
    }

    /// Returns what a run has in some columns, each as JSON text; none if its record has to be asked.
    pub(crate) fn line(
        &self,
        row: usize,
        columns: &[query::Column],
    ) -> Option<Vec<Option<String>>> {
        let value = |column: &query::Column| match column {
            query::Column::Field(field) => self.column(field).ok()?.line(row),
            _ => None,
        };
        columns.iter().map(value).collect()
    }

    fn kept_block(
        slot: &RefCell<Option<Rc<Vec<u32>>>>,
        load: impl FnOnce() -> Result<Vec<u32>, Doubt>,
    ) -> Result<Rc<Vec<u32>>, Doubt> {
        if let Some(kept) = slot.borrow().as_ref() {
            return Ok(Rc::clone(kept));
        }
        let loaded = Rc::new(load()?);
        *slot.borrow_mut() = Some(Rc::clone(&loaded));
        Ok(loaded)
    }

    /// Returns the names of all rows.
    pub(super) fn names(&self) -> Result<Rc<Names>, Doubt> {
        if let Some(names) = self.names.borrow().as_ref() {
            return Ok(Rc::clone(names));
        }
        let bytes = self.load(self.blocks[1])?;
        let mut reader = Reader(&bytes);
        let ends = u32s(reader.take(self.rows * 4)?);
        let heap = String::from_utf8(reader.0.to_vec()).map_err(|_| Doubt)?;
        let whole = ends.last().map_or(0, |end| *end as usize) == heap.len();
        let split = ends.iter().all(|end| heap.is_char_boundary(*end as usize));
        if !whole || !split || !ends.is_sorted() {
            return Err(Doubt);
        }
        let names = Rc::new(Names { ends, heap });
        *self.names.borrow_mut() = Some(Rc::clone(&names));
        Ok(names)
    }

    /// Returns the name of a run's file without its suffix.
    pub(crate) fn name(&self, row: usize) -> Result<String, Doubt> {
        Ok(self.names()?.get(row).to_owned())
    }

    /// Forgets what only finding rows and comparing them with their files needs. It is read again where it is asked for.
    pub(super) fn forget_looks(&self) {
        *self.by_name.borrow_mut() = None;
        *self.seen.borrow_mut() = None;
    }

    /// Finds the row of a run that counts.
    pub(super) fn find(&self, name: &str) -> Result<Option<usize>, Doubt> {
        let names = self.names()?;
        let by_name = Self::kept_block(&self.by_name, || {
            let rows = u32s(&self.load(self.blocks[2])?);
            let right =
                rows.len() == self.rows && rows.iter().all(|row| (*row as usize) < self.rows);
            if right { Ok(rows) } else { Err(Doubt) }
        })?;
        let found = by_name.binary_search_by(|row| names.get(*row as usize).cmp(name));
        let row = found.ok().map(|index| by_name[index] as usize);
        Ok(row.filter(|row| self.is_live(*row)))
    }

    /// Returns what was known of a run's two files.
    pub(super) fn seen(&self, row: usize) -> Result<(Seen, Option<Seen>), Doubt> {
        let known = self.seen.borrow().as_ref().map(Rc::clone);
        let bytes = match known {
            Some(bytes) => bytes,
            None => {
                let bytes = Rc::new(self.load(self.blocks[3])?);
                *self.seen.borrow_mut() = Some(Rc::clone(&bytes));
                bytes
            }
        };
        let mut reader = Reader(bytes.get(row * 48..).ok_or(Doubt)?);
        Ok((seen_of(&mut reader)?.ok_or(Doubt)?, seen_of(&mut reader)?))
    }

    fn place(&self, row: usize) -> Result<[u32; 4], Doubt> {
        let places = Self::kept_block(&self.places, || Ok(u32s(&self.load(self.blocks[0])?)))?;
        let place = places.get(row * 4..row * 4 + 4).ok_or(Doubt)?;
        place.try_into().map_err(|_| Doubt)
    }

    /// Says whether the derived metrics of a run are damaged.
    pub(super) fn derived_is_damaged(&self, row: usize) -> Result<bool, Doubt> {
        Ok(self.place(row)?[2] == DAMAGED)
    }

    /// Says whether the text of a run's record is its typed line.
    pub(crate) fn is_typed_line(&self, row: usize) -> Result<bool, Doubt> {
        Ok(self.place(row)?[1] & TYPED != 0)
    }

    /// Returns the texts of a run.
    pub(crate) fn texts(&self, row: usize) -> Result<Texts, Doubt> {
        self.with_texts(row, |record, derived| Texts {
            record: record.to_owned(),
            derived: derived.map(str::to_owned),
        })
    }

    /// Shows the text of a run's record where it lies. What it is shown to must not ask the table for texts.
    pub(crate) fn with_record<T>(
        &self,
        row: usize,
        show: impl FnOnce(&str) -> T,
    ) -> Result<T, Doubt> {
        self.with_texts(row, |record, _| show(record))
    }

    fn with_texts<T>(
        &self,
        row: usize,
        show: impl FnOnce(&str, Option<&str>) -> T,
    ) -> Result<T, Doubt> {
        let [at, record, derived, check] = self.place(row)?;
        let (at, record) = (at as usize, (record & !TYPED) as usize);
        let there = derived < DAMAGED;
        let whole = record + if there { derived as usize } else { 0 };
        if at < self.texts.0 || at + whole > self.texts.1 {
            return Err(Doubt);
        }
        self.with_bytes(at, whole, |bytes| {
            if check_of(bytes) != check {
                return Err(Doubt);
            }
            let (record, rest) = bytes.split_at_checked(record).ok_or(Doubt)?;
            let text = |bytes| str::from_utf8(bytes).map_err(|_| Doubt);
            let derived = if there { Some(text(rest)?) } else { None };
            Ok(show(text(record)?, derived))
        })
    }

    fn with_bytes<T>(
        &self,
        at: usize,
        length: usize,
        show: impl FnOnce(&[u8]) -> Result<T, Doubt>,
    ) -> Result<T, Doubt> {
        if let Some(bytes) = self.bytes() {
            return show(bytes.get(at..at + length).ok_or(Doubt)?);
        }
        if length > READ {
            return show(&self.source.read(at, length)?);
        }
        let mut window = self.window.borrow_mut();
        let end = window.at + window.bytes.len();
        if at < window.at || at + length > end {
            // Who reads on where the last text ended will go on so.
            let ahead = at >= window.at && at <= end;
            let wanted = if ahead {
                (4 * READ).min(self.texts.1 - at)
            } else {
                length
            };
            window.bytes = self.source.read(at, wanted.max(length))?;
            window.at = at;
        }
        let from = at - window.at;
        show(window.bytes.get(from..from + length).ok_or(Doubt)?)
    }
}

impl Names {
    /// Returns the name of a run's file without its suffix.
    pub(super) fn get(&self, row: usize) -> &str {
        let from = row.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.heap[from as usize..self.ends[row] as usize]
    }
}

fn follow<'r, 'v>(value: &'r Value<'v>, path: &[Step]) -> Option<&'r Value<'v>> {
    path.iter().try_fold(value, |value, step| match step {
        Step::Key(key) => value.as_object()?.get(key),
        Step::Index(index) => value.as_array()?.get(usize::try_from(*index).ok()?),
    })
}
