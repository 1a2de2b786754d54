//! Lists of run records, handed out a page at a time.

use crate::codec::{self, LineForm};
use crate::error::{Error, Result};
use crate::index::{self, Chosen, Selection, Table, Trouble};
use crate::json::{Object, Value};
use crate::layout;
use crate::model::{Damage, RunRecord};
use crate::names::RunId;
use crate::query::{Catalogue, Column, Field, FieldSummary, Pager, Projection, Query, RecordRow};
use crate::quick;
use crate::scope::Scope;
use crate::typed_line;
use std::collections::VecDeque;
use std::rc::Rc;

/// The most records of one page.
pub const MAX_PAGE: u32 = 4096;

/// The most bytes of one page of lines.
pub const MAX_PAGE_BYTES: u32 = 16 * 1024 * 1024;

/// How many bytes of record text a list keeps, so that a record is read once. Beyond, it is read again.
const KEPT_BYTES: usize = 64 * 1024 * 1024;

/// A list of run records.
pub struct RunList {
    scopes: Vec<Rc<Scope>>,
    projection: Option<Projection>,
    entries: VecDeque<Listed>,
    damaged: Vec<Damage>,
    columns: Vec<String>,
    total: u64,
    cursor: Option<String>,
    /// The records of the lines that were handed out last.
    handed: Vec<Handed>,
}

/// A record that was handed out.
enum Handed {
    /// The scope, and the run.
    File(usize, RunId),
    /// The scope, and the row of the index.
    Indexed(usize, Rc<Table>, usize),
}

/// One record of a list: where it is, and what is kept of it.
struct Listed {
    scope: usize,
    kept: Kept,
}

/// What is kept of a record of a list.
enum Kept {
    /// The run, and the content of its file; it is read again if it is not kept.
    File(RunId, Option<Vec<u8>>),
    /// The run, and the columns that the query asks for, each as JSON text.
    Row(RunId, Vec<Option<String>>),
    /// A row of the index.
    Indexed(Rc<Table>, usize),
}

/// A run's record as it was found: the scope that holds it, its id, the content of its file.
pub(crate) type Found = (Rc<Scope>, RunId, Vec<u8>);

impl RunList {
    /// Makes the list of the records in some scopes that a query asks for, of one experiment or of all.
    ///
    /// With `check`, every file is looked at, also those that no name in a directory says have changed.
    pub(crate) fn open(
        scopes: Vec<Rc<Scope>>,
        experiment: Option<&str>,
        query: &Query,
        damaged: Vec<Damage>,
        check: bool,
    ) -> Result<Self> {
        match indexed(&scopes, experiment, query, check)? {
            None => Self::scan(scopes, experiment, query, damaged),
            Some(found) => {
                let mut list = Self::empty(scopes, query, damaged);
                list.damaged.extend(found.damaged);
                list.damaged.sort();
                list.total = found.selection.total;
                list.cursor = found.selection.next;
                let listed = |chosen: Chosen| Listed {
                    scope: found.scopes[chosen.table],
                    kept: Kept::Indexed(Rc::clone(&found.tables[chosen.table]), chosen.row),
                };
                list.entries = found.selection.rows.into_iter().map(listed).collect();
                Ok(list)
            }
        }
    }

    fn empty(scopes: Vec<Rc<Scope>>, query: &Query, damaged: Vec<Damage>) -> Self {
        Self {
            scopes,
            projection: query.columns.clone(),
            entries: VecDeque::new(),
            damaged,
            columns: column_names(query),
            total: 0,
            cursor: None,
            handed: Vec::new(),
        }
    }

    /// Makes the same list by a look at every file: what the index has to agree with, and what answers where it
    /// cannot be used.
    pub(crate) fn scan(
        scopes: Vec<Rc<Scope>>,
        experiment: Option<&str>,
        query: &Query,
        damaged: Vec<Damage>,
    ) -> Result<Self> {
        let mut list = Self::empty(scopes, query, damaged);
        let mut pager = Pager::new(query);
        let mut kept = 0;
        let scanned = scan(&list.scopes, needs_derived(query), |found| {
            let named = found.record.get("experiment_id").and_then(Value::as_str);
            if experiment.is_some_and(|wanted| wanted != named.unwrap_or_default()) {
                return;
            }
            let row = RecordRow::new(found.record, found.derived);
            pager.offer(&row, || {
                let keep = match &query.columns {
                    Some(columns) => Kept::Row(found.run.clone(), shown(columns, &row)),
                    None => {
                        let keep = kept + found.content.len() <= KEPT_BYTES;
                        if keep {
                            kept += found.content.len();
                        }
                        Kept::File(found.run.clone(), keep.then(|| found.content.to_vec()))
                    }
                };
                Listed {
                    scope: found.scope,
                    kept: keep,
                }
            });
        });
        list.damaged.extend(scanned?);
        let page = pager.finish();
        list.entries = page.rows.into();
        list.total = page.total;
        list.cursor = page.next;
        list.damaged.sort();
        Ok(list)
    }

    /// Returns how many runs are left.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Returns the files found damaged so far.
    #[must_use]
    pub fn damaged(&self) -> Vec<Damage> {
        self.damaged.clone()
    }

    /// Returns the names of the query's columns; none if it named none.
    #[must_use]
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// Returns how many runs the query's filter matches, those that it leaves out for other reasons included.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Returns the cursor of the runs after these, if there are any.
    #[must_use]
    pub fn cursor(&self) -> Option<String> {
        self.cursor.clone()
    }

    /// Takes the next record that is still there: its scope, its run and its content.
    fn take(&mut self) -> Result<Option<Found>> {
        while let Some(entry) = self.entries.pop_front() {
            let scope = Rc::clone(&self.scopes[entry.scope]);
            let (run, content) = match entry.kept {
                Kept::File(run, Some(content)) => (run, Ok(Some(content))),
                Kept::File(run, None) => {
                    let content = scope.record_content(&run);
                    (run, content)
                }
                Kept::Row(..) => continue,
                Kept::Indexed(table, row) => {
                    let name = table.name(row).ok();
                    let Some(run) = name.and_then(|name| RunId::parse(&name).ok()) else {
                        // It could be read a moment ago: somebody damages the index meanwhile.
                        scope.index.distrust();
                        return Err(index_vanished(&scope));
                    };
                    let content = match table.texts(row) {
                        Ok(texts) => Ok(Some(texts.record.into_bytes())),
                        Err(_) => {
                            scope.index.distrust();
                            scope.record_content(&run)
                        }
                    };
                    (run, content)
                }
            };
            match content {
                Ok(Some(content)) => return Ok(Some((scope, run, content))),
                Ok(None) => {}
                Err(error) => self.add_damage(error)?,
            }
        }
        Ok(None)
    }

    /// Makes the row of a run that the index found; none if it cannot be read any more.
    fn indexed_row(&self, scope: usize, table: &Table, row: usize) -> Option<Vec<Option<String>>> {
        let projection = self.projection.as_ref()?;
        // To read the record takes longer than to ask the columns.
        if let Some(line) = table.line(row, &projection.0) {
            return Some(line);
        }
        let scope = &self.scopes[scope];
        let (record, derived) = match table.texts(row) {
            Ok(texts) => (
                texts.record.into_bytes(),
                texts.derived.map(String::into_bytes),
            ),
            Err(_) => {
                scope.index.distrust();
                let run = RunId::parse(&table.name(row).ok()?).ok()?;
                let record = scope.record_content(&run).ok()??;
                (record, scope.derived_content(&run).ok()?)
            }
        };
        let record = codec::parse_object("", &record).ok()?;
        let derived = match &derived {
            Some(derived) => Some(codec::parse_object("", derived).ok()?),
            None => None,
        };
        Some(shown(
            projection,
            &RecordRow::new(&record, derived.as_ref()),
        ))
    }

    fn add_damage(&mut self, error: Error) -> Result<()> {
        self.damaged.push(damage(error)?);
        self.damaged.sort();
        Ok(())
    }

    /// Returns the next records, at most `limit`, and no more once their files have 16 MiB. None left is the
    /// end.
    ///
    /// # Errors
    /// `io` if the operating system refuses more than a single file.
    pub fn next(&mut self, limit: u32) -> Result<Vec<RunRecord>> {
        let limit = limit.clamp(1, MAX_PAGE) as usize;
        let mut page = Vec::new();
        let mut bytes = 0;
        // An empty page is the end: damaged files alone do not fill one.
        while page.is_empty() || (page.len() < limit && bytes < MAX_PAGE_BYTES as usize) {
            // Straight from the index, if it is there and there is nothing to say about its file.
            if let Some(listed) = self.entries.front()
                && let Kept::Indexed(table, row) = &listed.kept
                && let Ok(Some((record, length))) = table.with_record(*row, |text| {
                    quick::run_record(text).map(|record| (record, text.len()))
                })
            {
                bytes += length;
                page.push(record);
                self.entries.pop_front();
                continue;
            }
            let Some((scope, run, content)) = self.take()? else {
                break;
            };
            bytes += content.len();
            match scope.load_record(&run, &content) {
                Ok(record) => page.push(record),
                Err(error) => self.add_damage(error)?,
            }
        }
        Ok(page)
    }

    /// Returns the columns of the next runs, at most `limit`, each as JSON text. None left is the end, and there
    /// is none if the query named no columns.
    pub fn next_rows(&mut self, limit: u32) -> Vec<Vec<Option<String>>> {
        let count = limit.clamp(1, MAX_PAGE) as usize;
        let mut rows = Vec::new();
        while rows.len() < count
            && let Some(listed) = self.entries.pop_front()
        {
            match listed.kept {
                Kept::Row(_, row) => rows.push(row),
                Kept::Indexed(table, row) => {
                    rows.extend(self.indexed_row(listed.scope, &table, row));
                }
                Kept::File(..) => {}
            }
        }
        rows
    }

    /// Returns the next records as lines of JSON text, at most so many. An empty text is the end.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub(crate) fn lines(
        &mut self,
        form: LineForm,
        max_lines: u32,
        max_bytes: u32,
    ) -> Result<String> {
        let limit = max_bytes.clamp(1, MAX_PAGE_BYTES) as usize;
        let mut lines = String::new();
        self.handed.clear();
        loop {
            if self.handed.len() >= max_lines as usize {
                return Ok(lines);
            }
            let before = lines.len();
            if let Some(projected) = self.front_row() {
                if let Some(row) = projected {
                    push_row(&mut lines, &self.columns, &row);
                    if before > 0 && lines.len() > limit {
                        lines.truncate(before);
                        return Ok(lines);
                    }
                    self.hand_row();
                }
                self.entries.pop_front();
                continue;
            }
            if let Some(listed) = self.entries.front()
                && let Kept::Indexed(table, row) = &listed.kept
                && let Ok(is_typed) = table.is_typed_line(*row)
                && let Ok(Some(fits)) = table.with_record(*row, |text| {
                    match form {
                        LineForm::Typed if !is_typed => {
                            typed_line::push(&quick::run_record(text)?, &mut lines);
                        }
                        _ => lines.push_str(text),
                    }
                    lines.push('\n');
                    let fits = before == 0 || lines.len() <= limit;
                    if !fits {
                        lines.truncate(before);
                    }
                    Some(fits)
                })
            {
                if !fits {
                    return Ok(lines);
                }
                let handed = Handed::Indexed(listed.scope, Rc::clone(table), *row);
                self.handed.push(handed);
                self.entries.pop_front();
                continue;
            }
            let Some((scope, run, content)) = self.take()? else {
                return Ok(lines);
            };
            let file = || scope.tree.path(&layout::run_record(&run));
            if let Err(error) = codec::push_line(form, &file, &content, &mut lines) {
                self.add_damage(error)?;
                continue;
            }
            lines.push('\n');
            let scope = self
                .scopes
                .iter()
                .position(|other| Rc::ptr_eq(other, &scope))
                .unwrap_or_default();
            if lines.len() > limit && before > 0 {
                lines.truncate(before);
                self.entries.push_front(Listed {
                    scope,
                    kept: Kept::File(run, Some(content)),
                });
                return Ok(lines);
            }
            self.handed.push(Handed::File(scope, run));
        }
    }

    /// Notes that the line of the next run, of columns, was handed out.
    fn hand_row(&mut self) {
        let Some(listed) = self.entries.front() else {
            return;
        };
        let scope = listed.scope;
        self.handed.push(match &listed.kept {
            Kept::Row(run, _) | Kept::File(run, _) => Handed::File(scope, run.clone()),
            Kept::Indexed(table, row) => Handed::Indexed(scope, Rc::clone(table), *row),
        });
    }

    /// Returns the files of the records whose lines were returned last, in their order.
    #[must_use]
    pub fn files(&self) -> Vec<String> {
        let path = |scope: usize, run: &RunId| {
            let scope = &self.scopes[scope];
            scope.tree.path(&layout::run_record(run))
        };
        let file = |handed: &Handed| match handed {
            Handed::File(scope, run) => path(*scope, run),
            Handed::Indexed(scope, table, row) => {
                let name = table.name(*row).unwrap_or_default();
                RunId::parse(&name).map_or(name, |run| path(*scope, &run))
            }
        };
        self.handed.iter().map(file).collect()
    }
}

impl RunList {
    /// Returns the columns of the next run, if the query named some; none in it if the run cannot be read.
    fn front_row(&self) -> Option<Option<Vec<Option<String>>>> {
        self.projection.as_ref()?;
        let listed = self.entries.front()?;
        Some(match &listed.kept {
            Kept::Row(_, row) => Some(row.clone()),
            Kept::Indexed(table, row) => self.indexed_row(listed.scope, table, *row),
            Kept::File(..) => None,
        })
    }
}

/// Prints the columns of a run.
fn shown(columns: &Projection, row: &RecordRow<'_, '_>) -> Vec<Option<String>> {
    let values = columns.values(row).into_iter();
    values
        .map(|value| value.as_ref().map(codec::print_line))
        .collect()
}

fn index_vanished(scope: &Scope) -> Error {
    Error::Io {
        file: scope.tree.path(&layout::directory(layout::Top::Index)),
        operation: "read",
        code: "io",
        outcome_unknown: false,
        message: "the index of the store cannot be read any more; list again".into(),
    }
}

/// What the index says to a query.
struct Indexed {
    tables: Vec<Rc<Table>>,
    /// The scope of each table.
    scopes: Vec<usize>,
    selection: Selection,
    damaged: Vec<Damage>,
}

/// How often the rows of a query are looked for again because a file is not what the index knew.
const ATTEMPTS: u32 = 4;

/// Answers a query from the index; none if it cannot.
fn indexed(
    scopes: &[Rc<Scope>],
    experiment: Option<&str>,
    query: &Query,
    check: bool,
) -> Result<Option<Indexed>> {
    for attempt in 0..ATTEMPTS {
        match try_indexed(scopes, experiment, query, check, attempt) {
            Ok(Some(found)) => return Ok(Some(found)),
            Ok(None) => {}
            Err(Trouble::Beyond) => return Ok(None),
            Err(Trouble::Doubt) => scopes.iter().for_each(|scope| scope.index.distrust()),
            Err(Trouble::Store(error)) => return Err(error),
        }
    }
    Ok(None)
}

/// Answers a query from the index; none if a file was not what it knew, which it read again.
fn try_indexed(
    scopes: &[Rc<Scope>],
    experiment: Option<&str>,
    query: &Query,
    check: bool,
    attempt: u32,
) -> std::result::Result<Option<Indexed>, Trouble> {
    let derived = needs_derived(query);
    let mut found = Indexed {
        tables: Vec::new(),
        scopes: Vec::new(),
        selection: Selection::default(),
        damaged: Vec::new(),
    };
    let mut without_damaged = false;
    let mut comparable = Vec::with_capacity(scopes.len());
    for (index, scope) in scopes.iter().enumerate() {
        let view = match scope
            .index
            .refresh(scope, check && attempt == 0, derived, attempt > 0)
        {
            Ok(view) => view,
            // The first is the store's own directory; one experiment hides no other.
            Err(Trouble::Store(error)) if index > 0 => {
                found.damaged.push(damage(error)?);
                comparable.push(false);
                continue;
            }
            Err(trouble) => return Err(trouble),
        };
        comparable.push(view.comparable);
        without_damaged |= view.derived_damaged;
        found.damaged.extend(view.damaged);
        found.scopes.extend(view.tables.iter().map(|_| index));
        found.tables.extend(view.tables);
    }
    found.selection = index::choose(&found.tables, query, experiment, without_damaged)?;
    let mut rows: Vec<Vec<Chosen>> = scopes.iter().map(|_| Vec::new()).collect();
    for chosen in &found.selection.rows {
        rows[found.scopes[chosen.table]].push(*chosen);
    }
    let mut whole = true;
    for ((scope, rows), comparable) in scopes.iter().zip(rows).zip(comparable) {
        if comparable && !rows.is_empty() {
            let rows = rows
                .iter()
                .map(|chosen| (&*found.tables[chosen.table], chosen.row));
            whole &= scope.index.look_again(scope, rows, derived)?;
        }
    }
    Ok(whole.then_some(found))
}

/// A run that a scan came to.
struct Scanned<'s> {
    scope: usize,
    run: &'s RunId,
    content: &'s [u8],
    record: &'s Object<'s>,
    derived: Option<&'s Object<'s>>,
}

/// Reads all records, and the derived metrics if they are wanted, in no particular order. Returns the files that
/// are damaged; they are not shown.
fn scan(
    scopes: &[Rc<Scope>],
    with_derived: bool,
    mut show: impl FnMut(&Scanned<'_>),
) -> Result<Vec<Damage>> {
    let mut damaged = Vec::new();
    for (index, scope) in scopes.iter().enumerate() {
        let runs = match scope.recorded_runs() {
            Ok(runs) => runs,
            // The first is the store's own directory; one experiment hides no other.
            Err(error) if index > 0 => {
                damaged.push(damage(error)?);
                continue;
            }
            Err(error) => return Err(error),
        };
        for run in runs {
            let scanned = scope.record_content(&run).and_then(|content| {
                // It vanished since the directory was listed: deleted, so it is not there.
                let Some(content) = content else {
                    return Ok(());
                };
                let file = scope.tree.path(&layout::run_record(&run));
                let record = codec::parse_object(&file, &content)?;
                match codec::run_record(&file, record.clone()) {
                    // Lines of text can hold what typed records cannot.
                    Ok(_) | Err(Error::Unrepresentable { .. }) => {}
                    // What cannot be loaded is damaged, whatever a query sees of it.
                    Err(error) => return Err(error),
                }
                let derived_content = match with_derived {
                    true => scope.derived_content(&run)?,
                    false => None,
                };
                let derived_file = scope.tree.path(&layout::derived(&run));
                let derived = derived_content
                    .as_deref()
                    .map(|content| codec::parse_object(&derived_file, content))
                    .transpose()?;
                show(&Scanned {
                    scope: index,
                    run: &run,
                    content: &content,
                    record: &record,
                    derived: derived.as_ref(),
                });
                Ok(())
            });
            if let Err(error) = scanned {
                damaged.push(damage(error)?);
            }
        }
    }
    Ok(damaged)
}

/// Collects which fields the runs in some scopes have that a query's filter matches.
pub(crate) fn catalogue(
    scopes: &[Rc<Scope>],
    query: &Query,
    damaged: Vec<Damage>,
) -> Result<FieldCatalogue> {
    // Every run's derived metrics are looked at, whatever the filter needs.
    let all = Query {
        columns: Some(Projection(vec![Column::Derived])),
        ..query.clone()
    };
    if let Some(found) = indexed(scopes, None, &all, false)?
        && let Some(catalogue) = indexed_catalogue(&found)
    {
        let mut catalogue = catalogue;
        catalogue.damaged = damaged;
        catalogue.damaged.extend(found.damaged);
        catalogue.damaged.sort();
        return Ok(catalogue);
    }
    scanned_catalogue(scopes, query, damaged)
}

/// Collects the fields of the runs that the index found; none if one cannot be read.
fn indexed_catalogue(found: &Indexed) -> Option<FieldCatalogue> {
    let mut catalogue = Catalogue::default();
    for chosen in &found.selection.rows {
        let texts = found.tables[chosen.table].texts(chosen.row).ok()?;
        let record = codec::parse_object("", texts.record.as_bytes()).ok()?;
        let derived = match &texts.derived {
            Some(derived) => Some(codec::parse_object("", derived.as_bytes()).ok()?),
            None => None,
        };
        catalogue.add(&record, derived.as_ref());
    }
    let (fields, complete) = catalogue.finish();
    Some(FieldCatalogue {
        fields,
        complete,
        runs: found.selection.total,
        damaged: Vec::new(),
    })
}

/// Collects the same by a look at every file.
pub(crate) fn scanned_catalogue(
    scopes: &[Rc<Scope>],
    query: &Query,
    mut damaged: Vec<Damage>,
) -> Result<FieldCatalogue> {
    let mut catalogue = Catalogue::default();
    let mut runs = 0;
    let scanned = scan(scopes, true, |found| {
        if query.matches(&RecordRow::new(found.record, found.derived)) {
            runs += 1;
            catalogue.add(found.record, found.derived);
        }
    });
    damaged.extend(scanned?);
    damaged.sort();
    let (fields, complete) = catalogue.finish();
    Ok(FieldCatalogue {
        fields,
        complete,
        runs,
        damaged,
    })
}

/// Which fields some runs have.
pub struct FieldCatalogue {
    /// The fields.
    pub fields: Vec<FieldSummary>,
    /// Whether these are all.
    pub complete: bool,
    /// How many runs there are.
    pub runs: u64,
    /// The files found damaged, sorted by name.
    pub damaged: Vec<Damage>,
}

/// Appends a row as an object of the columns that the run has.
pub(crate) fn push_row(lines: &mut String, columns: &[String], row: &[Option<String>]) {
    let there = columns
        .iter()
        .zip(row)
        .filter_map(|(name, value)| Some((name, value.as_ref()?)));
    lines.push('{');
    for (index, (name, value)) in there.enumerate() {
        if index > 0 {
            lines.push_str(", ");
        }
        lines.push_str(&codec::print_line(&Value::String(name.as_str().into())));
        lines.push_str(": ");
        lines.push_str(value);
    }
    lines.push_str("}\n");
}

/// Refuses to make records of what a query shows columns of.
pub(crate) fn refuse_columns(columns: &[String]) -> Result<()> {
    if columns.is_empty() {
        return Ok(());
    }
    Err(Error::InvalidArgument(format!(
        "the query shows columns ({}), so that its rows are no records; take them as rows or as lines",
        columns.join(", ")
    )))
}

pub(crate) fn column_names(query: &Query) -> Vec<String> {
    let columns = query.columns.iter().flat_map(|columns| &columns.0);
    columns.map(Column::to_string).collect()
}

/// Tells whether a query needs the derived metrics of runs.
pub(crate) fn needs_derived(query: &Query) -> bool {
    let mut needed = false;
    query.for_each_field(|field| needed |= matches!(field, Field::Derived(_)));
    let columns = query.columns.as_ref();
    needed
        || columns.is_some_and(|columns| {
            columns
                .0
                .iter()
                .any(|column| matches!(column, Column::Derived | Column::Field(Field::Derived(_))))
        })
}

/// Turns the error of one file into an entry of the list of damaged ones; other errors stay errors.
pub(crate) fn damage(error: Error) -> Result<Damage> {
    match error {
        Error::Corrupt {
            file,
            offset,
            message,
        }
        | Error::Unrepresentable {
            file,
            offset,
            message,
        } => Ok(Damage {
            file,
            offset,
            reason: message,
        }),
        Error::Io { file, message, .. } => Ok(Damage {
            file,
            offset: None,
            reason: message,
        }),
        Error::TooLarge(message) => {
            // The message begins with the file, whose name may hold spaces too.
            let end = message
                .rfind(" has ")
                .or_else(|| message.rfind(" grows;"))
                .unwrap_or_default();
            let file = message[..end].to_owned();
            Ok(Damage {
                file,
                offset: None,
                reason: message,
            })
        }
        other => Err(other),
    }
}
