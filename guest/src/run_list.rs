//! Lists of run records, handed out a page at a time.

use crate::codec;
use crate::error::{Error, Result};
use crate::json::{self, Object, Value};
use crate::layout;
use crate::model::{Damage, RunRecord};
use crate::names::RunId;
use crate::query::{Catalogue, Column, Field, FieldSummary, Pager, Query, RecordRow};
use crate::scope::Scope;
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
    entries: VecDeque<Listed>,
    damaged: Vec<Damage>,
    columns: Vec<String>,
    total: u64,
    cursor: Option<String>,
}

/// One record of a list: where it is, and what is kept of it.
struct Listed {
    scope: usize,
    run: RunId,
    /// The content of its file; read again if it is not kept.
    content: Option<Vec<u8>>,
    /// The columns that the query asks for, each as JSON text.
    row: Option<Vec<Option<String>>>,
}

/// A run's record as it was found: the scope that holds it, its id, the content of its file.
pub(crate) type Found = (Rc<Scope>, RunId, Vec<u8>);

impl RunList {
    /// Makes the list of the records in some scopes that a query asks for, of one experiment or of all.
    pub(crate) fn open(
        scopes: Vec<Rc<Scope>>,
        experiment: Option<&str>,
        query: &Query,
        damaged: Vec<Damage>,
    ) -> Result<Self> {
        let mut list = Self {
            scopes,
            entries: VecDeque::new(),
            damaged,
            columns: column_names(query),
            total: 0,
            cursor: None,
        };
        let mut pager = Pager::new(query);
        let mut kept = 0;
        let scanned = scan(&list.scopes, needs_derived(query), |found| {
            let named = found.record.get("experiment_id").and_then(Value::as_str);
            if experiment.is_some_and(|wanted| wanted != named.unwrap_or_default()) {
                return;
            }
            let row = RecordRow::new(found.record, found.derived);
            pager.offer(&row, || {
                let columns = query.columns.as_ref();
                let shown = columns.map(|columns| {
                    let values = columns.values(&row).into_iter();
                    values
                        .map(|value| value.as_ref().map(codec::print_line))
                        .collect()
                });
                let keep = shown.is_none() && kept + found.content.len() <= KEPT_BYTES;
                if keep {
                    kept += found.content.len();
                }
                Listed {
                    scope: found.scope,
                    run: found.run.clone(),
                    content: keep.then(|| found.content.to_vec()),
                    row: shown,
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
            let content = match entry.content {
                Some(content) => Ok(Some(content)),
                None => scope.record_content(&entry.run),
            };
            match content {
                Ok(Some(content)) => return Ok(Some((scope, entry.run, content))),
                Ok(None) => {}
                Err(error) => self.add_damage(error)?,
            }
        }
        Ok(None)
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
        let mut records = Vec::with_capacity(limit.min(self.entries.len()));
        let mut bytes = 0;
        // An empty page is the end: damaged files alone do not fill one.
        while records.is_empty() || (records.len() < limit && bytes < MAX_PAGE_BYTES as usize) {
            let Some((scope, run, content)) = self.take()? else {
                break;
            };
            bytes += content.len();
            match scope.load_record(&run, &content) {
                Ok(record) => records.push(record),
                Err(error) => self.add_damage(error)?,
            }
        }
        Ok(records)
    }

    /// Returns the columns of the next runs, at most `limit`, each as JSON text. None left is the end, and there
    /// is none if the query named no columns.
    pub fn next_rows(&mut self, limit: u32) -> Vec<Vec<Option<String>>> {
        let count = limit.clamp(1, MAX_PAGE) as usize;
        let rows = self.entries.drain(..count.min(self.entries.len()));
        rows.filter_map(|listed| listed.row).collect()
    }

    /// Returns the next records as lines of JSON text. An empty text is the end.
    ///
    /// # Errors
    /// `io` if the operating system refuses more than a single file.
    pub fn next_lines(&mut self, max_bytes: u32) -> Result<String> {
        let limit = max_bytes.clamp(1, MAX_PAGE_BYTES) as usize;
        let mut lines = String::new();
        loop {
            let before = lines.len();
            if let Some(listed) = self.entries.front()
                && let Some(row) = &listed.row
            {
                push_row(&mut lines, &self.columns, row);
                if before > 0 && lines.len() > limit {
                    lines.truncate(before);
                    return Ok(lines);
                }
                self.entries.pop_front();
                continue;
            }
            let Some((scope, run, content)) = self.take()? else {
                return Ok(lines);
            };
            if let Err(error) = json::minify(&content, &mut lines) {
                lines.truncate(before);
                let file = scope.tree.path(&layout::run_record(&run));
                self.add_damage(Error::corrupt(file, Some(error.offset), error.reason))?;
                continue;
            }
            lines.push('\n');
            if lines.len() > limit && before > 0 {
                lines.truncate(before);
                let scope = self
                    .scopes
                    .iter()
                    .position(|other| Rc::ptr_eq(other, &scope))
                    .unwrap_or_default();
                self.entries.push_front(Listed {
                    scope,
                    run,
                    content: Some(content),
                    row: None,
                });
                return Ok(lines);
            }
        }
    }
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
