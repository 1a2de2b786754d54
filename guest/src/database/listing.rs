//! Lists of runs out of the database: the same calls and the same answers as a list out of the files.

use super::Sql;
use crate::codec::{self, LineForm};
use crate::error::{Error, Result};
use crate::layout;
use crate::model::{Access, Damage, RunRecord};
use crate::names::RunId;
use crate::ports::{DatabaseResult, Statement};
use crate::query::Query;
use crate::run_list::{
    FieldCatalogue, MAX_PAGE, MAX_PAGE_BYTES, RunList, column_names, damage, needs_derived,
    push_row, refuse_columns,
};
use crate::scope::Scope;
use crate::sql::directories;
use crate::sql::fields;
use crate::sql::page::{self, Found, Key, Listing, Within};
use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;

/// A list of runs, out of the files or out of the database.
pub enum RunListing {
    /// Out of the files.
    Files(RunList),
    /// Out of the database.
    Database(Box<DatabaseList>),
}

/// A list of runs out of the database.
pub struct DatabaseList {
    sql: Rc<Sql>,
    scopes: Vec<Rc<Scope>>,
    ids: Vec<String>,
    query: Query,
    experiment: Option<String>,
    /// What was read already.
    rows: VecDeque<Found>,
    /// Where the rest comes from.
    rest: Option<Listing>,
    left: u64,
    total: Cell<Option<u64>>,
    next: Option<String>,
    columns: Vec<String>,
    damaged: Vec<Damage>,
    /// The runs of the lines that were handed out last.
    handed: Vec<Key>,
    /// The directories whose marks a crash of the server would have removed.
    steady: Vec<String>,
}

impl DatabaseList {
    /// Asks the database, if it is believed; none: the files have to answer.
    pub(crate) fn open(
        scopes: &[Rc<Scope>],
        access: Access,
        experiment: Option<&str>,
        query: &Query,
        damaged: &[Damage],
    ) -> Result<Option<Self>> {
        let Some(sql) = scopes.first().and_then(|scope| scope.sql.clone()) else {
            return Ok(None);
        };
        let Some(ids) = sql.believed(scopes, access)? else {
            return Ok(None);
        };
        let steady = sql.steady.borrow().clone();
        let mut list = Self {
            sql,
            scopes: scopes.to_vec(),
            ids,
            query: query.clone(),
            experiment: experiment.map(str::to_owned),
            rows: VecDeque::new(),
            rest: None,
            left: 0,
            total: Cell::new(None),
            next: None,
            columns: column_names(query),
            damaged: damaged.to_vec(),
            handed: Vec::new(),
            steady,
        };
        if access == Access::ReadWrite {
            list.sql.sorted_by(query);
        }
        let begun = list.sql.now();
        let asked = list.ask();
        let took = list.sql.now().saturating_sub(begun);
        let Ok(found) = list.sql.heard(asked) else {
            return Ok(None);
        };
        if access == Access::ReadWrite {
            list.sql.filtered_by(query, took);
        }
        for key in found {
            list.add_damage_of(&key)?;
        }
        Ok(Some(list))
    }

    /// Asks for the rows, and for the runs that cannot be read.
    fn ask(&mut self) -> DatabaseResult<Vec<Key>> {
        let sql = Rc::clone(&self.sql);
        let indexes = sql.indexes_for(&self.query);
        let within = Within {
            schema: &sql.schema,
            scopes: &self.ids,
            experiment: self.experiment.as_deref(),
            indexes: &indexes,
        };
        let database = sql.database()?;
        let mut damaged = Vec::new();
        if self.query.limit.is_some() || self.query.columns.is_some() {
            let page = page::run(&**database, within, &self.query, false)?;
            self.left = page.rows.len() as u64;
            self.next = page.next;
            let all = self.query.limit.is_none_or(|limit| limit > 0);
            if all && self.query.cursor.is_none() && self.next.is_none() {
                self.total.set(Some(self.left));
            }
            self.rows = page.rows.into();
            damaged.extend(page.damaged);
            let ask = |question: &Statement| database.query(question, u32::MAX);
            let unreadable = directories::unreadable(ask, &sql.schema, &self.ids, &self.steady)?;
            damaged.extend(unreadable);
            return Ok(damaged);
        }
        let mut listing = Listing::open(&**database, within, &self.query, true)?;
        self.total.set(listing.total());
        self.left = listing.total().unwrap_or_default();
        // There may be no other connection.
        let ask = |question: &Statement| listing.ask(question);
        damaged = directories::unreadable(ask, &sql.schema, &self.ids, &self.steady)?;
        damaged.extend(listing.take_damaged());
        self.rest = Some(listing);
        if self.left <= u64::from(MAX_PAGE) {
            // It would hold its connection for as long as nobody reads it.
            damaged.extend(self.read_on()?);
        }
        Ok(damaged)
    }

    /// Reads on where all that was read is handed out. Once all is read, the connection is given back. Returns the runs that
    /// were found damaged.
    fn read_on(&mut self) -> DatabaseResult<Vec<Key>> {
        let Some(rest) = &mut self.rest else {
            return Ok(Vec::new());
        };
        let read = rest.next(MAX_PAGE, MAX_PAGE_BYTES);
        let damaged = rest.take_damaged();
        self.rows = read?.into();
        if self.rows.is_empty() || self.rows.len() as u64 >= self.left {
            self.rest = None;
        }
        Ok(damaged)
    }

    fn scope(&self, key: &Key) -> Option<&Rc<Scope>> {
        let mut pairs = self.ids.iter().zip(&self.scopes);
        pairs.find_map(|(id, scope)| (*id == key.scope).then_some(scope))
    }

    /// Says what is wrong with the files of a run, in the words of a list out of the files.
    fn add_damage_of(&mut self, key: &Key) -> Result<()> {
        let Some(scope) = self.scope(key).cloned() else {
            return Ok(());
        };
        let Ok(run) = RunId::parse(&key.run_id) else {
            return Ok(());
        };
        if let Err(error) = scope.check_run(&run, needs_derived(&self.query)) {
            self.damaged.push(damage(error)?);
            self.damaged.sort();
        }
        Ok(())
    }

    fn take(&mut self) -> Result<Option<Found>> {
        if self.rows.is_empty() {
            let read = self.read_on();
            for key in Rc::clone(&self.sql).heard(read)? {
                self.add_damage_of(&key)?;
            }
        }
        let found = self.rows.pop_front();
        if found.is_some() {
            self.left = self.left.saturating_sub(1);
        }
        Ok(found)
    }

    /// Returns the path of the file that a row was made of.
    fn file(&self, key: &Key) -> String {
        let run = RunId::parse(&key.run_id).ok();
        let path = run.map(|run| layout::run_record(&run));
        match (self.scope(key), path) {
            (Some(scope), Some(path)) => scope.tree.path(&path),
            _ => key.run_id.clone(),
        }
    }

    fn next(&mut self, limit: u32) -> Result<Vec<RunRecord>> {
        let limit = limit.clamp(1, MAX_PAGE) as usize;
        let mut page = Vec::new();
        let mut bytes = 0;
        while page.is_empty() || (page.len() < limit && bytes < MAX_PAGE_BYTES as usize) {
            let Some(found) = self.take()? else {
                break;
            };
            bytes += found.record.len();
            let file = self.file(&found.key);
            match codec::load_run_record(&file, found.record.as_bytes()) {
                Ok(record) => page.push(record),
                Err(error) => self.add(error)?,
            }
        }
        Ok(page)
    }

    fn add(&mut self, error: Error) -> Result<()> {
        self.damaged.push(damage(error)?);
        self.damaged.sort();
        Ok(())
    }

    fn next_rows(&mut self, limit: u32) -> Vec<Vec<Option<String>>> {
        let count = limit.clamp(1, MAX_PAGE) as usize;
        let rows: Vec<_> = self.rows.drain(..count.min(self.rows.len())).collect();
        self.left = self.left.saturating_sub(rows.len() as u64);
        rows.into_iter().filter_map(|found| found.values).collect()
    }

    fn lines(&mut self, form: LineForm, max_lines: u32, max_bytes: u32) -> Result<String> {
        self.handed.clear();
        let limit = max_bytes.clamp(1, MAX_PAGE_BYTES) as usize;
        let mut lines = String::new();
        loop {
            if self.handed.len() >= max_lines as usize {
                return Ok(lines);
            }
            let before = lines.len();
            let Some(found) = self.take()? else {
                return Ok(lines);
            };
            if let Some(row) = &found.values {
                push_row(&mut lines, &self.columns, row);
            } else if let Err(error) = codec::push_line(
                form,
                &|| self.file(&found.key),
                found.record.as_bytes(),
                &mut lines,
            ) {
                self.add(error)?;
                continue;
            } else {
                lines.push('\n');
            }
            if before > 0 && lines.len() > limit {
                lines.truncate(before);
                self.rows.push_front(found);
                self.left += 1;
                return Ok(lines);
            }
            self.handed.push(found.key);
        }
    }

    fn files(&self) -> Vec<String> {
        self.handed.iter().map(|key| self.file(key)).collect()
    }

    fn total(&self) -> u64 {
        if let Some(total) = self.total.get() {
            return total;
        }
        let indexes = self.sql.indexes_for(&self.query);
        let within = Within {
            schema: &self.sql.schema,
            scopes: &self.ids,
            experiment: self.experiment.as_deref(),
            indexes: &indexes,
        };
        let counted = self.sql.database().and_then(|database| {
            let total = page::count(&**database, within, &self.query)?;
            let ask = |question: &Statement| database.query(question, u32::MAX);
            directories::unreadable(ask, &self.sql.schema, &[], &self.steady)?;
            Ok(total)
        });
        let total = self.sql.heard(counted).unwrap_or_else(|_| {
            // The files know it too.
            let query = Query {
                limit: Some(0),
                cursor: None,
                ..self.query.clone()
            };
            let list = RunList::open(
                self.scopes.clone(),
                self.experiment.as_deref(),
                &query,
                Vec::new(),
                false,
            );
            list.map(|list| list.total()).unwrap_or_default()
        });
        self.total.set(Some(total));
        total
    }
}

impl RunListing {
    /// Returns how many runs are left.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        match self {
            Self::Files(list) => list.remaining(),
            Self::Database(list) => list.left,
        }
    }

    /// Returns the files found damaged so far.
    #[must_use]
    pub fn damaged(&self) -> Vec<Damage> {
        match self {
            Self::Files(list) => list.damaged(),
            Self::Database(list) => list.damaged.clone(),
        }
    }

    /// Returns the names of the query's columns; none if it named none.
    #[must_use]
    pub fn columns(&self) -> &[String] {
        match self {
            Self::Files(list) => list.columns(),
            Self::Database(list) => &list.columns,
        }
    }

    /// Returns how many runs the query's filter matches, those that it leaves out for other reasons included.
    #[must_use]
    pub fn total(&self) -> u64 {
        match self {
            Self::Files(list) => list.total(),
            Self::Database(list) => list.total(),
        }
    }

    /// Returns the cursor of the runs after these, if there are any.
    #[must_use]
    pub fn cursor(&self) -> Option<String> {
        match self {
            Self::Files(list) => list.cursor(),
            Self::Database(list) => list.next.clone(),
        }
    }

    /// Returns the next records: at most `limit`, and no more once their files have 16 MiB. None left is the end.
    ///
    /// # Errors
    /// `invalid-argument` if the query named columns, `io` if the operating system refuses more than a single file, `database`
    /// if it breaks off in the middle.
    pub fn next(&mut self, limit: u32) -> Result<Vec<RunRecord>> {
        refuse_columns(self.columns())?;
        match self {
            Self::Files(list) => list.next(limit),
            Self::Database(list) => list.next(limit),
        }
    }

    /// Returns the columns of the next runs, at most `limit`, each as JSON text. None left is the end, and there
    /// is none if the query named no columns.
    pub fn next_rows(&mut self, limit: u32) -> Vec<Vec<Option<String>>> {
        match self {
            Self::Files(list) => list.next_rows(limit),
            Self::Database(list) => list.next_rows(limit),
        }
    }

    /// Returns the next records as lines of JSON text. An empty text is the end.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub fn next_lines(&mut self, max_bytes: u32) -> Result<String> {
        self.lines(LineForm::AsWritten, u32::MAX, max_bytes)
    }

    /// Returns the next records as typed lines, at most `limit`. An empty text is the end.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub fn next_typed_lines(&mut self, limit: u32, max_bytes: u32) -> Result<String> {
        refuse_columns(self.columns())?;
        self.lines(LineForm::Typed, limit.clamp(1, MAX_PAGE), max_bytes)
    }

    fn lines(&mut self, form: LineForm, max_lines: u32, max_bytes: u32) -> Result<String> {
        match self {
            Self::Files(list) => list.lines(form, max_lines, max_bytes),
            Self::Database(list) => list.lines(form, max_lines, max_bytes),
        }
    }

    /// Returns the files of the records whose lines were returned last, in their order.
    #[must_use]
    pub fn files(&self) -> Vec<String> {
        match self {
            Self::Files(list) => list.files(),
            Self::Database(list) => list.files(),
        }
    }
}

/// Collects the fields of the runs that a query's filter matches; none: the files have to answer.
pub(crate) fn catalogue(
    scopes: &[Rc<Scope>],
    access: Access,
    query: &Query,
    damaged: &[Damage],
) -> Result<Option<FieldCatalogue>> {
    let Some(sql) = scopes.first().and_then(|scope| scope.sql.clone()) else {
        return Ok(None);
    };
    let Some(ids) = sql.believed(scopes, access)? else {
        return Ok(None);
    };
    let indexes = sql.indexes_for(query);
    let within = Within {
        schema: &sql.schema,
        scopes: &ids,
        experiment: None,
        indexes: &indexes,
    };
    let asked = sql.database().and_then(|database| {
        let found = fields::run(&**database, within, query)?;
        let steady = sql.steady.borrow();
        let ask = |question: &Statement| database.query(question, u32::MAX);
        let unreadable = directories::unreadable(ask, &sql.schema, &ids, &steady)?;
        Ok((found, unreadable))
    });
    let Ok((found, unreadable)) = sql.heard(asked) else {
        return Ok(None);
    };
    let mut damaged = damaged.to_vec();
    for key in unreadable.iter().chain(&found.damaged) {
        let mut pairs = ids.iter().zip(scopes);
        let scope = pairs.find_map(|(id, scope)| (*id == key.scope).then_some(scope));
        if let Some(scope) = scope
            && let Ok(run) = RunId::parse(&key.run_id)
            && let Err(error) = scope.check_run(&run, true)
        {
            damaged.push(damage(error)?);
        }
    }
    damaged.sort();
    Ok(Some(FieldCatalogue {
        fields: found.fields,
        complete: found.complete,
        runs: found.runs,
        damaged,
    }))
}

impl Scope {
    /// Says what is wrong with a run's files, if something is.
    pub(crate) fn check_run(&self, run: &RunId, with_derived: bool) -> Result<()> {
        let Some(content) = self.record_content(run)? else {
            return Ok(());
        };
        match self.load_record(run, &content) {
            Ok(_) | Err(Error::Unrepresentable { .. }) => {}
            Err(error) => return Err(error),
        }
        if with_derived && let Some(content) = self.derived_content(run)? {
            codec::parse_object(&self.tree.path(&layout::derived(run)), &content)?;
        }
        Ok(())
    }
}
