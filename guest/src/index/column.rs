//! One field of all runs of a table: built cell by cell, kept as bytes, read as typed cells.
//!
//! A cell is a tag and a number: the number itself, the bits of a float, or the place of a text in the column's
//! list of different texts. Lists and integers beyond 64 bits are texts too, so that a query looks at each
//! different one once.

use super::Doubt;
use super::bytes::{Reader, place, put_u32, small, u32s};
use crate::json::{self, Part, Value, is_same};
use crate::query::{Cell, Direction, List};
use std::collections::HashMap;

const MISSING: u8 = 0;
const NULL: u8 = 1;
const FALSE: u8 = 2;
const TRUE: u8 = 3;
const INT: u8 = 4;
const FLOAT: u8 = 5;
const TIME: u8 = 6;
/// An object of which only that it is one is known, or whose parts are columns of their own.
const OBJECT: u8 = 7;
/// From here on the number is the place of a text.
const TEXT: u8 = 8;
const BIG: u8 = 9;
/// A list, as JSON text.
const LIST: u8 = 10;
/// An object that lies too deep for columns of its own, as JSON text.
const DEEP: u8 = 11;

/// Collects the cells of a column in the order of their rows; missing ones are left out.
#[derive(Default)]
pub(super) struct ColumnBuilder {
    rows: Vec<u32>,
    tags: Vec<u8>,
    values: Vec<u64>,
    places: HashMap<Box<[u8]>, u32>,
    /// The place of the last text: the next one is often the same.
    latest: u32,
    ends: Vec<u32>,
    heap: Vec<u8>,
}

impl ColumnBuilder {
    fn push(&mut self, row: u32, tag: u8, value: u64) {
        self.rows.push(row);
        self.tags.push(tag);
        self.values.push(value);
    }

    fn push_text(&mut self, row: u32, tag: u8, text: &[u8]) {
        if !self
            .text(self.latest)
            .is_some_and(|latest| is_same(latest, text))
        {
            self.latest = self.place(text);
        }
        self.push(row, tag, u64::from(self.latest));
    }

    /// Returns the place of a text among the different ones.
    fn place(&mut self, text: &[u8]) -> u32 {
        if let Some(place) = self.places.get(text) {
            return *place;
        }
        let place = small(self.ends.len());
        self.heap.extend_from_slice(text);
        self.ends.push(small(self.heap.len()));
        self.places.insert(text.into(), place);
        place
    }

    fn text(&self, place: u32) -> Option<&[u8]> {
        let place = place as usize;
        let end = *self.ends.get(place)?;
        let start = place.checked_sub(1).map_or(0, |before| self.ends[before]);
        self.heap.get(start as usize..end as usize)
    }

    /// Appends a value; of an object only that it is one.
    pub(super) fn push_part(&mut self, row: u32, part: Part<'_>) {
        match Cell::of_shape(part.shape()) {
            Cell::List(_) => self.push_line(row, LIST, part),
            cell => self.push_cell(row, &cell),
        }
    }

    /// Appends an object with everything in it.
    pub(super) fn push_deep(&mut self, row: u32, part: Part<'_>) {
        self.push_line(row, DEEP, part);
    }

    fn push_line(&mut self, row: u32, tag: u8, part: Part<'_>) {
        let mut text = String::new();
        part.line(&mut text);
        self.push_text(row, tag, text.as_bytes());
    }

    /// Appends a cell that is no list.
    pub(super) fn push_cell(&mut self, row: u32, cell: &Cell<'_>) {
        match cell {
            Cell::Missing => {}
            Cell::Null => self.push(row, NULL, 0),
            Cell::Bool(false) => self.push(row, FALSE, 0),
            Cell::Bool(true) => self.push(row, TRUE, 0),
            Cell::Int(value) => self.push(row, INT, value.cast_unsigned()),
            Cell::Big(digits) => self.push_text(row, BIG, digits.as_bytes()),
            Cell::Float(value) => self.push(row, FLOAT, value.to_bits()),
            Cell::Text(text) => self.push_text(row, TEXT, text.as_bytes()),
            Cell::Wtf8(bytes) => self.push_text(row, TEXT, bytes),
            Cell::Time(micros) => self.push(row, TIME, micros.cast_unsigned()),
            // Its items are not in the cell.
            Cell::List(_) => {}
            Cell::Object => self.push(row, OBJECT, 0),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.rows.len() * 13 + self.heap.len()
    }

    /// Appends the column's bytes; `rank` says where each row comes to stand.
    pub(super) fn encode(&self, rank: &[u32], out: &mut Vec<u8>) {
        let mut order: Vec<u32> = (0..small(self.rows.len())).collect();
        let row = |index: &u32| rank[self.rows[*index as usize] as usize];
        order.sort_unstable_by_key(row);
        let full = self.rows.len() == rank.len();
        let tag = self.tags.first().copied().unwrap_or(MISSING);
        let same = self.tags.iter().all(|other| *other == tag);
        let largest = self.values.iter().copied().max().unwrap_or_default();
        let width: u8 = match largest {
            0 => 0,
            1..=0xFF => 1,
            0x100..=0xFFFF => 2,
            0x1_0000..=0xFFFF_FFFF => 4,
            _ => 8,
        };
        put_u32(out, small(self.rows.len()));
        out.extend_from_slice(&[u8::from(full), u8::from(same), width]);
        if !full {
            for index in &order {
                put_u32(out, row(index));
            }
        }
        if same {
            out.push(tag);
        } else {
            out.extend(order.iter().map(|index| self.tags[*index as usize]));
        }
        for index in &order {
            let bytes = self.values[*index as usize].to_le_bytes();
            out.extend_from_slice(&bytes[..usize::from(width)]);
        }
        put_u32(out, small(self.ends.len()));
        for end in &self.ends {
            put_u32(out, *end);
        }
        out.extend_from_slice(&self.heap);
    }
}

/// A column: a cell for each row of a table.
pub(super) struct Column {
    tags: Vec<u8>,
    values: Vec<u64>,
    ends: Vec<u32>,
    heap: Vec<u8>,
}

impl Column {
    /// Makes the column of a field that no row has.
    pub(super) fn missing(rows: usize) -> Self {
        Self {
            tags: vec![MISSING; rows],
            values: vec![0; rows],
            ends: Vec::new(),
            heap: Vec::new(),
        }
    }

    /// Reads a column of a table of so many rows.
    pub(super) fn decode(bytes: &[u8], rows: usize) -> Result<Self, Doubt> {
        let mut reader = Reader(bytes);
        let count = place(u64::from(reader.u32()?));
        let (full, same, width) = (reader.byte()?, reader.byte()?, reader.byte()?);
        if count > rows || (full != 0 && count != rows) {
            return Err(Doubt);
        }
        let places = if full == 0 {
            Some(u32s(reader.take(count * 4)?))
        } else {
            None
        };
        let tags = if same == 0 {
            reader.take(count)?.to_vec()
        } else {
            vec![reader.byte()?; count]
        };
        let raw = reader.take(count * usize::from(width))?;
        let values: Vec<u64> = match width {
            0 => vec![0; count],
            1 => raw.iter().map(|byte| u64::from(*byte)).collect(),
            2 => {
                let (chunks, _) = raw.as_chunks::<2>();
                let value = |chunk: &[u8; 2]| u64::from(u16::from_le_bytes(*chunk));
                chunks.iter().map(value).collect()
            }
            4 => {
                let (chunks, _) = raw.as_chunks::<4>();
                let value = |chunk: &[u8; 4]| u64::from(u32::from_le_bytes(*chunk));
                chunks.iter().map(value).collect()
            }
            8 => {
                let (chunks, _) = raw.as_chunks::<8>();
                chunks.iter().copied().map(u64::from_le_bytes).collect()
            }
            _ => return Err(Doubt),
        };
        let texts = reader.count(4)?;
        let ends = u32s(reader.take(texts * 4)?);
        let heap = reader.0.to_vec();
        let ordered = ends.is_sorted() && ends.last().is_none_or(|end| *end as usize == heap.len());
        let known = tags.iter().zip(&values).all(|(tag, value)| match *tag {
            TEXT..=DEEP => place(*value) < texts,
            tag => tag < TEXT,
        });
        if !ordered || !known {
            return Err(Doubt);
        }
        let Some(places) = places else {
            return Ok(Self {
                tags,
                values,
                ends,
                heap,
            });
        };
        let mut column = Self {
            ends,
            heap,
            ..Self::missing(rows)
        };
        for ((row, tag), value) in places.into_iter().zip(tags).zip(values) {
            *column.tags.get_mut(row as usize).ok_or(Doubt)? = tag;
            column.values[row as usize] = value;
        }
        Ok(column)
    }

    pub(super) fn bytes(&self) -> usize {
        self.tags.len() * 9 + self.ends.len() * 4 + self.heap.len()
    }

    fn text(&self, value: u64) -> &[u8] {
        let index = place(value);
        let from = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.heap[from as usize..self.ends[index] as usize]
    }

    /// Returns a cell as an order sees it: a list without its items.
    pub(super) fn cell(&self, row: usize) -> Cell<'_> {
        self.shape(self.tags[row], self.values[row])
    }

    /// Returns a cell as JSON text, or that it is missing; nothing of a cell that does not hold all of what the record has there.
    pub(super) fn line(&self, row: usize) -> Option<Option<String>> {
        let value = match self.cell(row) {
            Cell::Missing => return Some(None),
            Cell::Null => Value::Null,
            Cell::Bool(value) => Value::Bool(value),
            Cell::Int(value) => Value::Int(value),
            Cell::Float(value) => Value::Float(value),
            Cell::Text(text) => Value::String(text.into()),
            Cell::Big(_) | Cell::Wtf8(_) | Cell::Time(_) | Cell::List(_) | Cell::Object => {
                return None;
            }
        };
        let mut text = String::new();
        json::line(&value, &mut text);
        Some(Some(text))
    }

    fn shape(&self, tag: u8, value: u64) -> Cell<'_> {
        match tag {
            NULL => Cell::Null,
            FALSE => Cell::Bool(false),
            TRUE => Cell::Bool(true),
            INT => Cell::Int(value.cast_signed()),
            FLOAT => Cell::Float(f64::from_bits(value)),
            TIME => Cell::Time(value.cast_signed()),
            OBJECT | DEEP => Cell::Object,
            TEXT => {
                let bytes = self.text(value);
                std::str::from_utf8(bytes).map_or(Cell::Wtf8(bytes), Cell::Text)
            }
            BIG => match std::str::from_utf8(self.text(value)) {
                Ok(digits) => Cell::Big(digits),
                Err(_) => Cell::Missing,
            },
            LIST => Cell::List(List::Cells(Vec::new())),
            _ => Cell::Missing,
        }
    }

    /// Returns a number for each row that is less only if its cell stands before in an order by this column.
    pub(super) fn order_keys(&self, direction: Direction) -> Vec<u64> {
        const VALUE: u64 = (1 << 60) - 1;
        // Like the integers, with the sign turned.
        let int = |value: u64| (value ^ (1 << 63)) >> 4;
        // The bits of floats are in the order of their sizes.
        let float = |value: f64| {
            // There is one zero.
            let bits = (value + 0.0).to_bits();
            (if bits >> 63 == 0 {
                bits | (1 << 63)
            } else {
                !bits
            }) >> 4
        };
        let start = |text: &[u8]| {
            let mut bytes = [0; 8];
            for (to, from) in bytes.iter_mut().skip(1).zip(text) {
                *to = *from;
            }
            u64::from_be_bytes(bytes)
        };
        let key = |(tag, value): (&u8, &u64)| {
            let (group, key) = match *tag {
                // Rounding keeps the order, or makes equal what is compared exactly then.
                #[expect(
                    clippy::cast_precision_loss,
                    reason = "what rounding makes equal is compared exactly"
                )]
                INT => (0, float(value.cast_signed() as f64)),
                FLOAT if f64::from_bits(*value).is_nan() => (2, 0),
                FLOAT => (0, float(f64::from_bits(*value))),
                BIG => {
                    let digits = std::str::from_utf8(self.text(*value)).ok();
                    let rounded = digits.and_then(|digits| digits.parse().ok());
                    (0, float(rounded.unwrap_or(0.0)))
                }
                TIME => (1, int(*value)),
                TEXT => (3, start(self.text(*value))),
                FALSE => (4, 0),
                TRUE => (4, 1),
                NULL => (5, 0),
                LIST => (6, 0),
                OBJECT | DEEP => (7, 0),
                _ => (8, 0),
            };
            let key = match direction {
                Direction::Ascending => key,
                Direction::Descending => VALUE - (key & VALUE),
            };
            (group << 60) | (key & VALUE)
        };
        self.tags.iter().zip(&self.values).map(key).collect()
    }

    /// Tells for each row whether its cell is as a function says; each different text is shown once.
    pub(super) fn select(&self, wanted: impl Fn(&Cell<'_>) -> bool) -> Vec<bool> {
        let fixed: [bool; 8] = std::array::from_fn(|tag| match u8::try_from(tag) {
            Ok(tag @ (MISSING | NULL | FALSE | TRUE | OBJECT)) => wanted(&self.shape(tag, 0)),
            _ => false,
        });
        // By the kind and the place of a text: 0 not looked at yet, else the answer and one.
        let mut known = vec![0_u8; self.ends.len() * 4];
        let row = |(tag, value): (&u8, &u64)| match *tag {
            INT => wanted(&Cell::Int(value.cast_signed())),
            FLOAT => wanted(&Cell::Float(f64::from_bits(*value))),
            TIME => wanted(&Cell::Time(value.cast_signed())),
            tag @ TEXT..=DEEP => {
                let at = place(*value) * 4 + usize::from(tag - TEXT);
                if known[at] == 0 {
                    let answer = match tag {
                        LIST => match json::parse(self.text(*value)) {
                            Ok(list) => wanted(&Cell::of(&list)),
                            Err(_) => false,
                        },
                        tag => wanted(&self.shape(tag, *value)),
                    };
                    known[at] = 1 + u8::from(answer);
                }
                known[at] == 2
            }
            tag => fixed[usize::from(tag)],
        };
        self.tags.iter().zip(&self.values).map(row).collect()
    }

    /// Fills rows from another column: where that one holds a list or a deep object as text, with what a
    /// function finds in it.
    pub(super) fn fill_from<'t>(
        &self,
        outer: &'t Self,
        find: impl for<'v> Fn(&'v Value<'v>) -> Option<&'v Value<'v>>,
    ) -> Self {
        let mut builder = ColumnBuilder::default();
        let mut found: HashMap<u64, Option<Value<'t>>> = HashMap::new();
        for row in 0..self.tags.len() {
            let at = small(row);
            let (tag, value) = (outer.tags[row], outer.values[row]);
            if !matches!(tag, LIST | DEEP) {
                builder.push_same(at, self, row);
                continue;
            }
            let whole = found
                .entry(value)
                .or_insert_with(|| json::parse(outer.text(value)).ok());
            match whole.as_ref().and_then(&find) {
                None => {}
                Some(object @ Value::Object(_)) => builder.push_deep(at, Part::Tree(object)),
                Some(value) => builder.push_part(at, Part::Tree(value)),
            }
        }
        builder.finish(self.tags.len())
    }
}

impl ColumnBuilder {
    fn push_same(&mut self, at: u32, column: &Column, row: usize) {
        match (column.tags[row], column.values[row]) {
            (MISSING, _) => {}
            (tag @ TEXT..=DEEP, value) => self.push_text(at, tag, column.text(value)),
            (tag, value) => self.push(at, tag, value),
        }
    }

    /// Makes the column of cells that are in order.
    fn finish(self, rows: usize) -> Column {
        let mut column = Column {
            ends: self.ends,
            heap: self.heap,
            ..Column::missing(rows)
        };
        for ((row, tag), value) in self.rows.into_iter().zip(self.tags).zip(self.values) {
            column.tags[row as usize] = tag;
            column.values[row as usize] = value;
        }
        column
    }
}
