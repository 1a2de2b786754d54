//! One page of a query's rows, and what is shown of each.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::Query;
use super::cursor::Cursor;
use super::field::Column;
use super::order::{Position, Sort};
use super::row::{Columns, Row};
use crate::json::{Object, Text, Value};

/// The columns that a query asks for, in the order in which it names them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Projection(pub Vec<Column>);

impl Projection {
    /// Returns the values of a row, `None` for what is missing.
    pub fn values<'r>(&self, row: &'r impl Columns) -> Vec<Option<Value<'r>>> {
        self.0.iter().map(|column| row.value(column)).collect()
    }

    /// Returns the values of a row under the names of their columns; what is missing is left out.
    pub fn object<'r>(&self, row: &'r impl Columns) -> Object<'r> {
        self.0
            .iter()
            .filter_map(|column| Some((Text::from(column.to_string()), row.value(column)?)))
            .collect()
    }
}

impl std::fmt::Display for Projection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, column) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            column.fmt(f)?;
        }
        Ok(())
    }
}

/// A page of a query's rows.
#[derive(Debug)]
pub struct Page<T> {
    /// What was kept of each row, in the query's order.
    pub rows: Vec<T>,
    /// The cursor of the next page, if rows are left.
    pub next: Option<String>,
    /// How many rows the filter matches, on this page and all others.
    pub total: u64,
}

/// Makes the page of a query out of rows that come in any order.
///
/// It keeps no more rows than the page has. Without a limit it keeps them all.
pub struct Pager<'q, T> {
    query: &'q Query,
    /// The largest first, so that it can give way to a smaller one.
    best: BinaryHeap<Entry<'q, T>>,
    more: bool,
    total: u64,
}

impl<'q, T> Pager<'q, T> {
    /// Starts the page of a query.
    #[must_use]
    pub fn new(query: &'q Query) -> Self {
        Self {
            query,
            best: BinaryHeap::new(),
            more: false,
            total: 0,
        }
    }

    /// Shows a row; `keep` makes what the page holds of it and is only called if the row may be on the page.
    pub fn offer(&mut self, row: &impl Row, keep: impl FnOnce() -> T) {
        if !self.query.matches(row) {
            return;
        }
        self.total += 1;
        let sort = &self.query.sort;
        let position = sort.position(row);
        if let Some(cursor) = &self.query.cursor
            && sort.compare(&position, &cursor.last).is_le()
        {
            return;
        }
        let limit = self.query.limit.map_or(usize::MAX, |limit| {
            usize::try_from(limit).unwrap_or(usize::MAX)
        });
        if self.best.len() >= limit {
            self.more = true;
            match self.best.peek() {
                Some(worst) if sort.compare(&position, &worst.position).is_lt() => {}
                _ => return,
            }
            self.best.pop();
        }
        self.best.push(Entry {
            sort,
            position,
            kept: keep(),
        });
    }

    /// Ends the page.
    #[must_use]
    pub fn finish(self) -> Page<T> {
        let entries = self.best.into_sorted_vec();
        let last = entries.last().filter(|_| self.more);
        Page {
            next: last.map(|entry| self.query.cursor_after(&entry.position)),
            rows: entries.into_iter().map(|entry| entry.kept).collect(),
            total: self.total,
        }
    }
}

impl Query {
    /// Returns the cursor that goes on after a row.
    #[must_use]
    pub fn cursor_after(&self, last: &Position) -> String {
        let cursor = Cursor {
            now: self.now,
            last: last.clone(),
        };
        cursor.encode(self.owner())
    }
}

struct Entry<'q, T> {
    sort: &'q Sort,
    position: Position,
    kept: T,
}

impl<T> Ord for Entry<'_, T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.sort.compare(&self.position, &other.position)
    }
}

impl<T> PartialOrd for Entry<'_, T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Entry<'_, T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<T> Eq for Entry<'_, T> {}
