//! Lists of run records, handed out a page at a time.

use crate::error::{Error, Result};
use crate::json;
use crate::model::{Damage, RunRecord};
use crate::names::RunId;
use crate::scope::Scope;
use crate::time::Timestamp;
use std::cmp::Ordering;
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
}

/// One record of a list: where it is, what it is sorted by, and its content if that is kept.
struct Listed {
    scope: usize,
    run: RunId,
    key: Key,
    content: Option<Vec<u8>>,
}

/// A run's record as it was found: the scope that holds it, its id, the content of its file.
pub(crate) type Found = (Rc<Scope>, RunId, Vec<u8>);

/// What records are sorted by: newest start first, those without one last, then experiment, then run.
struct Key {
    started: Option<i64>,
    experiment: String,
    run: String,
}

impl Key {
    fn of(record: &RunRecord) -> Self {
        let started = record
            .started_at
            .as_deref()
            .and_then(|text| Timestamp::parse(text).ok());
        Self {
            started: started.map(|time| time.micros_utc),
            experiment: record.experiment_id.clone(),
            run: record.run_id.clone(),
        }
    }

    fn compare(&self, other: &Self) -> Ordering {
        // `None` is less than every `Some`: reversed, the newest comes first and a missing time last.
        let by_time = other.started.cmp(&self.started);
        by_time
            .then_with(|| self.experiment.cmp(&other.experiment))
            .then_with(|| self.run.cmp(&other.run))
    }
}

impl RunList {
    /// Makes the list of the records in some scopes, of one experiment or of all.
    pub(crate) fn open(
        scopes: Vec<Rc<Scope>>,
        experiment: Option<&str>,
        damaged: Vec<Damage>,
    ) -> Result<Self> {
        let mut list = Self {
            scopes,
            entries: VecDeque::new(),
            damaged,
        };
        let mut entries = Vec::new();
        let mut kept = 0;
        for (index, scope) in list.scopes.iter().enumerate() {
            for run in scope.recorded_runs()? {
                let loaded = scope.record_content(&run).and_then(|content| {
                    let Some(content) = content else {
                        return Ok(None);
                    };
                    let record = scope.load_record(&run, &content)?;
                    Ok(Some((content, record)))
                });
                match loaded {
                    // It vanished since the directory was listed: deleted, so not in the list.
                    Ok(None) => {}
                    Ok(Some((content, record))) => {
                        if experiment.is_some_and(|wanted| wanted != record.experiment_id) {
                            continue;
                        }
                        let keep = kept + content.len() <= KEPT_BYTES;
                        if keep {
                            kept += content.len();
                        }
                        let content = keep.then_some(content);
                        entries.push(Listed {
                            scope: index,
                            key: Key::of(&record),
                            run,
                            content,
                        });
                    }
                    Err(error) => list.damaged.push(damage(error)?),
                }
            }
        }
        entries.sort_by(|a, b| a.key.compare(&b.key));
        list.entries = entries.into();
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

    /// Returns the next records as lines of JSON text. An empty text is the end.
    ///
    /// # Errors
    /// `io` if the operating system refuses more than a single file.
    pub fn next_lines(&mut self, max_bytes: u32) -> Result<String> {
        let limit = max_bytes.clamp(1, MAX_PAGE_BYTES) as usize;
        let mut lines = String::new();
        loop {
            let before = lines.len();
            let Some((scope, run, content)) = self.take()? else {
                return Ok(lines);
            };
            if let Err(error) = json::minify(&content, &mut lines) {
                lines.truncate(before);
                let file = scope.tree.path(&crate::layout::run_record(&run));
                self.add_damage(Error::corrupt(file, Some(error.offset), error.reason))?;
                continue;
            }
            lines.push('\n');
            if lines.len() > limit && before > 0 {
                lines.truncate(before);
                let key = Key {
                    started: None,
                    experiment: String::new(),
                    run: String::new(),
                };
                let scope = self
                    .scopes
                    .iter()
                    .position(|other| Rc::ptr_eq(other, &scope))
                    .unwrap_or_default();
                self.entries.push_front(Listed {
                    scope,
                    run,
                    key,
                    content: Some(content),
                });
                return Ok(lines);
            }
        }
    }
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
            let file = message.split(' ').next().unwrap_or_default().to_owned();
            Ok(Damage {
                file,
                offset: None,
                reason: message,
            })
        }
        other => Err(other),
    }
}
