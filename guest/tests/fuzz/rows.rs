//! What a database answers, by a server that was not asked what we asked.

use crate::harness::{Target, outcome, shape};
use crate::mutate::Numbers;
use crate::texts::records;
use metalab_store_guest::ports::{
    CopyWriter, Cursor, Database, DatabaseResult, Isolation, RowSet, SqlValue, Statement,
    Transaction,
};
use metalab_store_guest::query::{Query, QueryText};
use metalab_store_guest::sql::{self, Schema, fields, page};
use metalab_store_guest::testing;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

/// A database that answers every statement with rows that it makes of numbers, a bounded number of times.
#[derive(Clone)]
struct Liar(Rc<RefCell<Lies>>);

/// What it makes its rows of, and how often it answers.
type Lies = (Numbers, Vec<Vec<u8>>, u32);

impl Liar {
    fn value(&self) -> SqlValue {
        let (numbers, texts, _) = &mut *self.0.borrow_mut();
        let text = |numbers: &mut Numbers| {
            String::from_utf8_lossy(numbers.pick::<Vec<u8>>(texts)).into_owned()
        };
        match numbers.below(16) {
            0 => SqlValue::Null,
            1 => SqlValue::Boolean(numbers.below(2) == 0),
            2 => SqlValue::Integer(numbers.next().cast_signed()),
            3 => SqlValue::Integer(numbers.below(4) as i64),
            4 => SqlValue::Float(f64::from_bits(numbers.next())),
            5 => SqlValue::Bytes(numbers.pick(texts).clone()),
            6 => SqlValue::Json(text(numbers)),
            7 => SqlValue::Timestamp(numbers.next().cast_signed()),
            8 => SqlValue::TextArray(vec![None, Some(text(numbers))]),
            _ => SqlValue::Text(text(numbers)),
        }
    }

    /// Rows that nearly are what was asked for: the columns of a page, with one or none of them replaced.
    fn rows(&self) -> RowSet {
        let left = {
            let mut state = self.0.borrow_mut();
            state.2 = state.2.saturating_sub(1);
            state.2
        };
        let mut rows = Vec::new();
        let (count, kind) = {
            let (numbers, ..) = &mut *self.0.borrow_mut();
            (
                if left == 0 { 0 } else { numbers.below(4) },
                numbers.below(3),
            )
        };
        for number in 0..count {
            let record = loop {
                if let SqlValue::Text(text) = self.value() {
                    break text;
                }
            };
            let mut row = vec![
                SqlValue::Text("e".into()),
                SqlValue::Text(format!("run{number}")),
                SqlValue::Text("0123456789abcdef".into()),
                SqlValue::Text(record),
                SqlValue::Null,
            ];
            match kind {
                0 => row.push(SqlValue::Integer(i64::try_from(number).unwrap())),
                1 => row.push(SqlValue::Boolean(number == 0)),
                _ => row.insert(0, SqlValue::Integer(i64::try_from(number).unwrap())),
            }
            let odd = self.value();
            let (numbers, ..) = &mut *self.0.borrow_mut();
            let at = numbers.below(row.len());
            match numbers.below(6) {
                0 => row[at] = odd,
                1 => drop(row.remove(at)),
                2 => row.insert(at, odd),
                _ => {}
            }
            rows.push(row);
        }
        RowSet {
            columns: Vec::new(),
            affected: rows.len() as u64,
            rows,
        }
    }
}

impl Database for Liar {
    fn query(&self, _: &Statement, _: u32) -> DatabaseResult<RowSet> {
        Ok(self.rows())
    }

    fn execute(&self, _: &Statement) -> DatabaseResult<u64> {
        Ok(0)
    }

    fn batch(&self, statements: &[Statement]) -> DatabaseResult<Vec<u64>> {
        Ok(vec![0; statements.len()])
    }

    fn begin(&self, _: Isolation, _: bool) -> DatabaseResult<Box<dyn Transaction>> {
        Ok(Box::new(self.clone()))
    }

    fn begin_with(&self, _: &[Statement], _: bool) -> DatabaseResult<Box<dyn Transaction>> {
        Ok(Box::new(self.clone()))
    }
}

impl Transaction for Liar {
    fn query(&self, _: &Statement, _: u32) -> DatabaseResult<RowSet> {
        Ok(self.rows())
    }

    fn execute(&self, _: &Statement) -> DatabaseResult<u64> {
        Ok(0)
    }

    fn batch(&self, statements: &[Statement]) -> DatabaseResult<Vec<u64>> {
        Ok(vec![0; statements.len()])
    }

    fn open_cursor(&self, _: &Statement) -> DatabaseResult<Box<dyn Cursor>> {
        Ok(Box::new(self.clone()))
    }

    fn copy_in(&self, _: &str) -> DatabaseResult<Box<dyn CopyWriter>> {
        Ok(Box::new(self.clone()))
    }

    fn commit(self: Box<Self>) -> DatabaseResult<()> {
        Ok(())
    }
}

impl Cursor for Liar {
    fn next(&self, _: u32, _: u32) -> DatabaseResult<RowSet> {
        Ok(self.rows())
    }
}

impl CopyWriter for Liar {
    fn write(&self, _: &str) -> DatabaseResult<()> {
        Ok(())
    }

    fn finish(self: Box<Self>) -> DatabaseResult<u64> {
        Ok(0)
    }
}

#[test]
fn no_answer_of_a_database_breaks_the_reader_of_rows() {
    let schema = Schema::new("s").unwrap();
    let scopes = ["e".to_owned()];
    let target = Target {
        name: "rows",
        seeds: records(),
        tokens: &[],
        inputs: 1500,
    };
    target.run(|input| {
        let mut random = testing::Random::new(outcome(input));
        let filter = testing::expr(&mut random, 2).to_string();
        let sort = testing::sort(&mut random).to_string();
        let text = QueryText {
            filter: &filter,
            sort: &sort,
            columns: random.pick(&["", "run_id, metrics.a, params.a"]),
            limit: random.pick(&[None, Some(1), Some(3)]),
            ..QueryText::default()
        };
        let query = Query::parse(&text, testing::NOW).unwrap();
        let mut texts = records();
        texts.push(input.to_vec());
        let liar = Liar(Rc::new(RefCell::new((
            Numbers::new(outcome(input)),
            texts,
            12,
        ))));
        let within = page::Within {
            schema: &schema,
            scopes: &scopes,
            experiment: None,
            indexes: &BTreeSet::new(),
        };
        let mut seen = Vec::new();
        seen.push(page::run(&liar, within, &query, true).map_or_else(
            |error| shape(error.message),
            |page| {
                let most = query.limit.map_or(usize::MAX, |limit| limit as usize);
                assert!(
                    page.rows.len() <= most,
                    "{} rows of at most {most}",
                    page.rows.len()
                );
                format!("{} {}", page.rows.len(), page.damaged.len())
            },
        ));
        seen.push(
            page::count(&liar, within, &query)
                .map_or_else(|error| shape(error.message), |_| String::new()),
        );
        seen.push(sql::fields::run(&liar, within, &query).map_or_else(
            |error| shape(error.message),
            |found: fields::Fields| (found.fields.len() / 8).to_string(),
        ));
        outcome(seen)
    });
}
