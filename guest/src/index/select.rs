//! Which rows a query asks for, and in which order: column by column, with the meaning that
//! [`Expr::matches`] and [`Sort::compare`](crate::query::Sort::compare) have row by row.

use super::Doubt;
use super::column::Column;
use super::table::Table;
use crate::query::{
    Cell, Expr, Field, Position, Query, SortValue, compare_cells, compares, contains, equals,
};
use std::cmp::Ordering;
use std::rc::Rc;

/// A row of a query: the number of its table among those given, and its place there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chosen {
    pub(crate) table: usize,
    pub(crate) row: usize,
}

/// What a query asks for.
#[derive(Default)]
pub(crate) struct Selection {
    pub(crate) rows: Vec<Chosen>,
    /// How many rows the filter matches.
    pub(crate) total: u64,
    /// The cursor of the next page.
    pub(crate) next: Option<String>,
}

/// Finds the rows of a query.
pub(crate) fn choose(
    tables: &[Rc<Table>],
    query: &Query,
    experiment: Option<&str>,
    without_damaged_derived: bool,
) -> Result<Selection, Doubt> {
    let mut total = 0;
    let mut sorted = Vec::with_capacity(tables.len());
    let mut wanted = Vec::with_capacity(tables.len());
    for table in tables {
        let mut mask = table.live();
        if let Some(filter) = &query.filter {
            and(&mut mask, &matching(table, filter, query.now)?);
        }
        if let Some(experiment) = experiment {
            let named = table
                .column(&Field::ExperimentId)?
                .select(|cell| match cell {
                    Cell::Text(text) => *text == experiment,
                    _ => experiment.is_empty(),
                });
            and(&mut mask, &named);
        }
        if without_damaged_derived {
            for (row, wanted) in mask.iter_mut().enumerate() {
                *wanted = *wanted && !table.derived_is_damaged(row)?;
            }
        }
        total += mask.iter().filter(|wanted| **wanted).count() as u64;
        sorted.push(Sorted::new(table, query, tables.len() > 1)?);
        wanted.push(mask);
    }
    let order = Order {
        tables: &sorted,
        query,
    };
    let limit = query.limit.map_or(usize::MAX, |limit| {
        usize::try_from(limit).unwrap_or(usize::MAX)
    });
    let mut rows = Vec::new();
    let mut more = false;
    for (table, mask) in wanted.iter().enumerate() {
        let candidates = (0..mask.len()).filter(|row| mask[*row]);
        let candidates = candidates.map(|row| Chosen { table, row });
        let candidates = candidates.filter(|row| order.is_after_cursor(*row));
        if query.sort.0.is_empty() {
            // In order already: no more than the first ones can be on the page.
            let before = rows.len();
            rows.extend(candidates.take(limit.saturating_add(1)));
            if rows.len() - before > limit {
                rows.pop();
                more = true;
            }
        } else if limit == usize::MAX {
            rows.extend(candidates);
        } else {
            more |= order.keep_best(&mut rows, candidates, limit);
        }
    }
    if query.sort.0.is_empty() {
        if tables.len() > 1 {
            // Each table's rows are in order, which this sort makes use of.
            rows.sort_by(|left, right| order.compare(*left, *right));
        }
    } else {
        rows.sort_unstable_by(|left, right| order.compare(*left, *right));
    }
    if rows.len() > limit {
        rows.truncate(limit);
        more = true;
    }
    let next = match rows.last() {
        Some(last) if more => Some(query.cursor_after(&order.position(*last)?)),
        _ => None,
    };
    Ok(Selection { rows, total, next })
}

fn and(mask: &mut [bool], other: &[bool]) {
    for (to, from) in mask.iter_mut().zip(other) {
        *to &= *from;
    }
}

/// Tells for each row whether it is as a filter says.
fn matching(table: &Table, expr: &Expr, now: i64) -> Result<Vec<bool>, Doubt> {
    let column = |field: &Field| table.column(field);
    Ok(match expr {
        Expr::And(children) => {
            let mut mask = vec![true; table.rows()];
            for child in children {
                and(&mut mask, &matching(table, child, now)?);
            }
            mask
        }
        Expr::Or(children) => {
            let mut mask = vec![false; table.rows()];
            for child in children {
                let other = matching(table, child, now)?;
                for (to, from) in mask.iter_mut().zip(other) {
                    *to |= from;
                }
            }
            mask
        }
        Expr::Not(child) => {
            let mut mask = matching(table, child, now)?;
            for answer in &mut mask {
                *answer = !*answer;
            }
            mask
        }
        Expr::Compare { field, op, value } => {
            column(field)?.select(|cell| compares(cell, *op, value, now))
        }
        Expr::In { field, values } => {
            column(field)?.select(|cell| values.iter().any(|value| equals(cell, value, now)))
        }
        Expr::Between { field, low, high } => {
            use crate::query::CompareOp::{GreaterOrEqual, LessOrEqual};
            column(field)?.select(|cell| {
                compares(cell, GreaterOrEqual, low, now) && compares(cell, LessOrEqual, high, now)
            })
        }
        Expr::Contains { field, value } => column(field)?.select(|cell| contains(cell, value, now)),
        Expr::Like {
            field,
            pattern,
            fold,
        } => column(field)?
            .select(|cell| cell.text().is_some_and(|text| pattern.matches(text, *fold))),
        Expr::Exists(field) => column(field)?.select(|cell| !matches!(cell, Cell::Missing)),
    })
}

/// A table with the columns that its rows are sorted by.
struct Sorted<'t> {
    table: &'t Table,
    keys: Vec<Rc<Column>>,
    /// Numbers in the order of the first key; rows with the same one are compared by their cells.
    first: Vec<u64>,
    /// When the run started, its experiment and itself: to compare with rows elsewhere.
    last: Option<[Rc<Column>; 3]>,
}

const LAST: [Field; 3] = [Field::StartedAt, Field::ExperimentId, Field::RunId];

impl<'t> Sorted<'t> {
    fn new(table: &'t Table, query: &Query, several: bool) -> Result<Self, Doubt> {
        let keys = query.sort.0.iter().map(|key| table.column(&key.field));
        let keys = keys.collect::<Result<Vec<Rc<Column>>, _>>()?;
        let first = keys.first().zip(query.sort.0.first());
        let first = first.map(|(column, key)| column.order_keys(key.direction));
        let last = if several || query.cursor.is_some() {
            let [started_at, experiment, run] = LAST;
            Some([
                table.column(&started_at)?,
                table.column(&experiment)?,
                table.column(&run)?,
            ])
        } else {
            None
        };
        Ok(Self {
            table,
            keys,
            first: first.unwrap_or_default(),
            last,
        })
    }
}

/// The order of a query's rows.
struct Order<'o, 't> {
    tables: &'o [Sorted<'t>],
    query: &'o Query,
}

fn is_whole(field: &Field) -> bool {
    matches!(field, Field::RunId | Field::ExperimentId)
}

/// Compares starts: the newest first, none last.
fn compare_starts(left: &Cell<'_>, right: &Cell<'_>) -> Ordering {
    match (left, right) {
        (Cell::Time(left), Cell::Time(right)) => right.cmp(left),
        (Cell::Time(_), _) => Ordering::Less,
        (_, Cell::Time(_)) => Ordering::Greater,
        _ => Ordering::Equal,
    }
}

/// Returns an id as a query's order has it.
fn id(cell: &Cell<'_>) -> String {
    let text = cell.text().map(String::from_utf8_lossy);
    text.unwrap_or_default().into_owned()
}

fn compare_ids(left: &Cell<'_>, right: &Cell<'_>) -> Ordering {
    match (left, right) {
        (Cell::Text(left), Cell::Text(right)) => left.cmp(right),
        _ => id(left).cmp(&id(right)),
    }
}

impl Order<'_, '_> {
    fn compare(&self, left: Chosen, right: Chosen) -> Ordering {
        let (one, other) = (&self.tables[left.table], &self.tables[right.table]);
        if let (Some(a), Some(b)) = (one.first.get(left.row), other.first.get(right.row))
            && a != b
        {
            return a.cmp(b);
        }
        for (index, key) in self.query.sort.0.iter().enumerate() {
            let (a, b) = (&one.keys[index], &other.keys[index]);
            let order = compare_cells(
                &a.cell(left.row),
                &b.cell(right.row),
                key.direction,
                is_whole(&key.field),
            );
            if order.is_ne() {
                return order;
            }
        }
        if left.table == right.table {
            // A table's rows are in the default order.
            return left.row.cmp(&right.row);
        }
        let (Some(a), Some(b)) = (&one.last, &other.last) else {
            return Ordering::Equal;
        };
        let cells = |index: usize| (a[index].cell(left.row), b[index].cell(right.row));
        let (started, other_started) = cells(0);
        compare_starts(&started, &other_started)
            .then_with(|| {
                let (experiment, other) = cells(1);
                compare_ids(&experiment, &other)
            })
            .then_with(|| {
                let (run, other) = cells(2);
                compare_ids(&run, &other)
            })
    }

    fn is_after_cursor(&self, chosen: Chosen) -> bool {
        let Some(cursor) = &self.query.cursor else {
            return true;
        };
        let table = &self.tables[chosen.table];
        let last: &Position = &cursor.last;
        for ((key, column), value) in self.query.sort.0.iter().zip(&table.keys).zip(&last.keys) {
            let cell = column.cell(chosen.row);
            let order = compare_cells(&cell, &value.cell(), key.direction, is_whole(&key.field));
            if order.is_ne() {
                return order.is_gt();
            }
        }
        let Some(columns) = &table.last else {
            return true;
        };
        let cell = |index: usize| columns[index].cell(chosen.row);
        let started = last.started_at.map_or(Cell::Missing, Cell::Time);
        compare_starts(&cell(0), &started)
            .then_with(|| compare_ids(&cell(1), &Cell::Text(&last.experiment_id)))
            .then_with(|| compare_ids(&cell(2), &Cell::Text(&last.run_id)))
            .is_gt()
    }

    /// Keeps the best of the rows kept so far and of some candidates, and says whether one had to give way.
    fn keep_best(
        &self,
        kept: &mut Vec<Chosen>,
        candidates: impl Iterator<Item = Chosen>,
        limit: usize,
    ) -> bool {
        // More than wanted are collected before the worst go, so that few comparisons are made for each candidate.
        let mut bound: Option<Chosen> = None;
        let mut more = false;
        let room = limit.saturating_mul(2).max(1024);
        for candidate in candidates {
            if let Some(bound) = bound
                && self.compare(candidate, bound).is_ge()
            {
                more = true;
                continue;
            }
            kept.push(candidate);
            if kept.len() >= room {
                more = true;
                let Some(last) = limit.checked_sub(1) else {
                    // A page of no rows.
                    kept.clear();
                    return true;
                };
                kept.select_nth_unstable_by(last, |left, right| self.compare(*left, *right));
                kept.truncate(limit);
                bound = kept.last().copied();
            }
        }
        more
    }

    fn position(&self, chosen: Chosen) -> Result<Position, Doubt> {
        let table = &self.tables[chosen.table];
        let cell = |field: &Field| table.table.column(field);
        let [started_at, experiment, run] = LAST;
        let value = |(index, column): (usize, &Rc<Column>)| {
            let field = &self.query.sort.0[index].field;
            SortValue::of(&column.cell(chosen.row), is_whole(field))
        };
        Ok(Position {
            keys: table.keys.iter().enumerate().map(value).collect(),
            started_at: match cell(&started_at)?.cell(chosen.row) {
                Cell::Time(micros) => Some(micros),
                _ => None,
            },
            experiment_id: id(&cell(&experiment)?.cell(chosen.row)),
            run_id: id(&cell(&run)?.cell(chosen.row)),
        })
    }
}
