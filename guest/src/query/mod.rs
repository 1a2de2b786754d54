//! The query language: which runs, in which order, and what is shown of them.
//!
//! `docs/query-language.md` holds the grammar and says what every comparison means. This module reads the
//! texts of a query into a tree, prints a tree as text, decides whether a run is as a tree says, and orders
//! runs. It does no I/O and knows no index: an index and the translation to SQL take the same tree and have to
//! give the same rows in the same order.
//!
//! No text makes it panic or overflow the stack. A text is at most [`MAX_TEXT`] bytes; parentheses and `not`
//! nest at most [`MAX_DEPTH`] deep.
//!
//! ```
//! use metalab_store_guest::json;
//! use metalab_store_guest::query::{Pager, Query, QueryText, RecordRow};
//!
//! let query = Query::parse(
//!     &QueryText {
//!         filter: r#"status = "success" and metrics.loss < 0.5 or tags contains "best""#,
//!         sort: "metrics.loss",
//!         columns: "run_id, metrics.loss",
//!         limit: Some(1),
//!         cursor: None,
//!         check: false,
//!     },
//!     0,
//! )?;
//! let runs = [
//!     r#"{"run_id": "a", "status": "success", "metrics": {"loss": 0.25}}"#,
//!     r#"{"run_id": "b", "status": "failed", "metrics": {"loss": 0.125}}"#,
//!     r#"{"run_id": "c", "status": "failed", "tags": ["best"]}"#,
//! ];
//! let mut pager = Pager::new(&query);
//! for run in runs {
//!     let record = json::parse(run.as_bytes())?;
//!     let record = record.as_object().ok_or("no object")?;
//!     let row = RecordRow::new(record, None);
//!     pager.offer(&row, || {
//!         let columns = query.columns.as_ref().map(|columns| columns.object(&row).into_owned());
//!         format!("{columns:?}")
//!     });
//! }
//! let page = pager.finish();
//! assert_eq!(page.rows, [r#"Some({"metrics.loss": 0.25, "run_id": "a"})"#]);
//! assert_eq!(page.total, 2);
//! assert!(page.next.is_some());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod catalogue;
mod cursor;
mod error;
mod eval;
mod expr;
mod field;
mod lexer;
mod like;
mod number;
mod order;
mod page;
mod parser;
mod row;

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop where it fails")]
pub(crate) mod tests;

pub use catalogue::{Catalogue, FieldSummary, MAX_FIELDS, MAX_VALUES};
pub use cursor::Cursor;
pub use error::{Part, QueryError, Reason};
pub use eval::{compares, contains, equals, order};
pub use expr::{CompareOp, Expr, Literal, Moment};
pub use field::{Column, Field, Kind, Step};
pub use like::Pattern;
pub use number::Number;
pub use order::{Direction, Position, SORTED_CHARACTERS, Sort, SortKey, SortValue, compare_cells};
pub use page::{Page, Pager, Projection};
pub use parser::{parse_columns, parse_filter, parse_sort};
pub use row::{Cell, Columns, List, RecordRow, Row};
pub(crate) use row::{cell_of, null_is_missing, time_of};

use cursor::Owner;

/// The longest filter, sort or list of columns, in bytes.
pub const MAX_TEXT: usize = 64 * 1024;

/// The most comparisons of a filter.
pub const MAX_TERMS: usize = 1000;

/// The most values of a filter, those in lists included.
pub const MAX_LITERALS: usize = 4096;

/// The deepest nesting of parentheses and `not`.
pub const MAX_DEPTH: usize = 64;

/// The most sort keys.
pub const MAX_SORT_KEYS: usize = 8;

/// The most columns.
pub const MAX_COLUMNS: usize = 256;

/// The longest pattern of `like`, in bytes.
pub const MAX_PATTERN: usize = 1024;

/// The texts of a query as a caller passes them.
#[derive(Clone, Copy, Debug, Default)]
pub struct QueryText<'q> {
    /// Which runs; all if it is empty.
    pub filter: &'q str,
    /// The sort keys; the default order if it is empty.
    pub sort: &'q str,
    /// The columns; whole records if it is empty.
    pub columns: &'q str,
    /// The most rows of a page; no limit if there is none.
    pub limit: Option<u32>,
    /// The cursor that the page before came with.
    pub cursor: Option<&'q str>,
    /// Whether every file is looked at, also those whose directories say that nothing changed.
    pub check: bool,
}

/// A query.
#[derive(Clone, Debug)]
pub struct Query {
    /// Which runs; all if there is none.
    pub filter: Option<Expr>,
    /// The sort keys.
    pub sort: Sort,
    /// The columns; whole records if there are none.
    pub columns: Option<Projection>,
    /// The most rows of a page.
    pub limit: Option<u32>,
    /// Where to go on.
    pub cursor: Option<Cursor>,
    /// What `now` means, in microseconds since 1970-01-01 UTC. On a later page that is the time of the first.
    pub now: i64,
}

impl Query {
    /// Reads a query; `now` is the present time in microseconds since 1970-01-01 UTC.
    ///
    /// With a cursor, the query's `now` becomes the cursor's, so that all pages mean the same time.
    ///
    /// # Errors
    /// The first problem: which text, where, and what was expected. A cursor of a query with another filter
    /// or sort is refused.
    pub fn parse(text: &QueryText<'_>, now: i64) -> Result<Self, QueryError> {
        let mut query = Self {
            filter: parse_filter(text.filter)?,
            sort: parse_sort(text.sort)?,
            columns: parse_columns(text.columns)?,
            limit: text.limit,
            cursor: None,
            now,
        };
        if let Some(cursor) = text.cursor {
            let decoded = Cursor::decode(cursor, query.owner(), &query.sort);
            let cursor = decoded
                .map_err(|reason| error::Fault::new(0, reason).within(Part::Cursor, cursor))?;
            query.now = cursor.now;
            query.cursor = Some(cursor);
        }
        Ok(query)
    }

    /// Tells whether a run is as the filter says.
    #[must_use]
    pub fn matches(&self, row: &impl Row) -> bool {
        let filter = self.filter.as_ref();
        filter.is_none_or(|filter| filter.matches(row, self.now))
    }

    /// Shows every field that the filter and the sort keys name.
    pub fn for_each_field<'e>(&'e self, mut show: impl FnMut(&'e Field)) {
        if let Some(filter) = &self.filter {
            filter.for_each_field(&mut show);
        }
        for key in &self.sort.0 {
            show(&key.field);
        }
    }

    /// Returns the mark that binds cursors to this query, however it was spelled.
    fn owner(&self) -> Owner {
        let filter = self.filter.as_ref().map(Expr::to_string);
        Owner::of(&filter.unwrap_or_default(), &self.sort.to_string())
    }
}
