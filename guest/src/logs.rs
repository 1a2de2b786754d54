//! Logs of all three generations. Where a log is, and whose a file is, is settled in `logs_naming`.

use crate::codec;
use crate::commit::Change;
use crate::error::{Error, Result};
use crate::layout::{self, StorePath, Top};
use crate::log_files::LogChange;
use crate::logs_naming::{self, RunLookup};
use crate::model::{Access, Durability, LogChunk};
use crate::names::{LogName, RunId};
use crate::ports::{File, Kind};
use crate::scope::Scope;

/// The most bytes of a log that are read in one call.
pub const MAX_CHUNK: u32 = 256 * 1024;

/// Answers what the naming rules ask about the runs of a scope. An error answers nothing and is kept.
struct Runs<'s> {
    scope: &'s Scope,
    /// The runs that have a record, once they were listed.
    recorded: Option<Vec<RunId>>,
    failed: Option<Error>,
}

impl<'s> Runs<'s> {
    fn of(scope: &'s Scope) -> Self {
        Self {
            scope,
            recorded: None,
            failed: None,
        }
    }

    fn keep<T: Default>(&mut self, result: Result<T>) -> T {
        result.unwrap_or_else(|error| {
            self.failed.get_or_insert(error);
            T::default()
        })
    }

    /// Returns an answer, unless an error made it worthless.
    fn settle<T>(self, answer: T) -> Result<T> {
        self.failed.map_or(Ok(answer), Err)
    }
}

impl RunLookup for Runs<'_> {
    fn exists(&mut self, run: &RunId) -> bool {
        for path in [layout::run_record(run), layout::lock(run)] {
            let stat = self.scope.tree.stat(&path);
            if self.keep(stat).is_some() {
                return true;
            }
        }
        false
    }

    fn unique_with_prefix(&mut self, prefix8: &str) -> Option<RunId> {
        if self.recorded.is_none() {
            let recorded = self.scope.recorded_runs();
            self.recorded = Some(self.keep(recorded));
        }
        let mut matching = self
            .recorded
            .as_deref()
            .unwrap_or_default()
            .iter()
            .filter(|run| run.prefix8() == Some(prefix8));
        let first = matching.next()?;
        matching.next().is_none().then(|| first.clone())
    }
}

impl Scope {
    /// Stores a log whole.
    pub(crate) fn put_log(&self, run: &RunId, name: &LogName, content: &str) -> Result<()> {
        let path = logs_naming::place(run, name)?;
        self.prepare_write()?;
        let held = self.lock_run(run)?;
        let flat = path.parent() == Some(layout::directory(Top::Logs));
        // The reference prefers an older text in a flat file to a nested one.
        let older = if flat {
            Vec::new()
        } else {
            self.older_logs(run, name)?
        };
        if self.sync_log(&path)? {
            self.sync_names(&path)?;
        }
        for path in &older {
            self.sync_log(path)?;
        }
        let mut names: Vec<LogChange<'_>> = older
            .iter()
            .map(|older| LogChange::Removed(older.file_name()))
            .collect();
        if flat {
            names.push(LogChange::Added(path.file_name()));
        }
        let mut changes = vec![Change::put(
            path.clone(),
            self.fingerprint(&path)?,
            content.as_bytes(),
        )];
        for path in &older {
            if let Some(previous) = self.fingerprint(path)? {
                let path = path.clone();
                changes.push(Change::Remove { path, previous });
            }
        }
        self.changing_logs(&names, || self.commit(&held, changes))
    }

    /// Lists the files directly in `logs/` that hold a log of a run.
    fn older_logs(&self, run: &RunId, name: &LogName) -> Result<Vec<StorePath>> {
        let found = self.flat_logs(run)?.into_iter();
        Ok(found
            .filter(|(_, found)| found == name)
            .map(|(path, _)| path)
            .collect())
    }

    /// Makes the content of a log durable that is to be replaced or removed, and says whether there is one.
    ///
    /// Lines are appended without a sync. Else a power cut could leave something that is neither what
    /// the journal names as replaced nor what it names as written, and a recovery would take it for a change by
    /// another program.
    pub(crate) fn sync_log(&self, path: &StorePath) -> Result<bool> {
        if self.options.durability == Durability::Relaxed {
            return Ok(false);
        }
        let Some((file, _)) = self.tree.open(path)? else {
            return Ok(false);
        };
        file.sync_data()
            .map_err(|reason| Error::io(self.tree.path(path), "sync", reason))?;
        Ok(true)
    }

    /// Appends to a log and returns its new size.
    pub(crate) fn append_log(
        &self,
        run: &RunId,
        name: &LogName,
        content: &str,
        sync: bool,
    ) -> Result<u64> {
        let place = logs_naming::place(run, name)?;
        self.prepare_write()?;
        let held = self.lock_run(run)?;
        // An old log goes on where it is.
        let path = self.find_log(run, name)?.unwrap_or(place);
        let (file, before) =
            if path.parent() == Some(layout::directory(Top::Logs)) && !self.tree.is_file(&path)? {
                let added = [LogChange::Added(path.file_name())];
                self.changing_logs(&added, || self.tree.open_to_append(&path))?
            } else {
                self.tree.open_to_append(&path)?
            };
        let failed = |operation, reason| Error::io(self.tree.path(&path), operation, reason);
        if let Err(reason) = file.append(content.as_bytes()) {
            // Else the next line would go on where this one was cut.
            take_back(&*file, before, content.as_bytes());
            return Err(failed("append to", reason));
        }
        if sync {
            file.sync_data().map_err(|reason| failed("sync", reason))?;
            self.sync_names(&path)?;
        }
        if !sync {
            self.unsynced.set(true);
        }
        let size = file
            .stat()
            .map_err(|reason| failed("look at", reason))?
            .size;
        drop(held);
        Ok(size)
    }

    /// Finds the file of a log: where it would be written, else in one of the older forms.
    fn find_log(&self, run: &RunId, name: &LogName) -> Result<Option<StorePath>> {
        let candidates = logs_naming::candidates(run, name);
        // Whatever else has this name is an error when it is opened.
        if let Ok(place) = logs_naming::place(run, name)
            && self.tree.stat(&place)?.is_some()
        {
            return Ok(Some(place));
        }
        if let Some(flat) = candidates.flat
            && self.tree.is_file(&flat)?
        {
            let mut runs = Runs::of(self);
            let owned = logs_naming::owner_is(flat.file_name(), run, &mut runs);
            if runs.settle(owned)? {
                return Ok(Some(flat));
            }
        }
        if self.tree.is_file(&candidates.nested)? {
            return Ok(Some(candidates.nested));
        }
        let mut runs = Runs::of(self);
        // Two labels of one run and name: the first name counts.
        let found = self.log_file_names(run)?.into_iter().find(|file| {
            candidates.label.matches(file)
                && logs_naming::claim(file, run, &mut runs)
                    .is_some_and(|(claimed, _)| claimed == *name)
        });
        match runs.settle(found)? {
            None => Ok(None),
            Some(file) => Ok(Some(layout::directory(Top::Logs).child(&file)?)),
        }
    }

    /// Returns a log whole.
    pub(crate) fn get_log(&self, run: &RunId, name: &LogName) -> Result<Option<String>> {
        let Some(path) = self.find_log(run, name)? else {
            return Ok(None);
        };
        let Some(content) = self.tree.read(&path, codec::MAX_DOCUMENT)? else {
            return Ok(None);
        };
        String::from_utf8(content).map(Some).map_err(|error| {
            let offset = error.utf8_error().valid_up_to() as u64;
            Error::corrupt(
                self.tree.path(&path),
                Some(offset),
                "it is not UTF-8; read it in pieces",
            )
        })
    }

    /// Reads a piece of a log.
    pub(crate) fn read_log(
        &self,
        run: &RunId,
        name: &LogName,
        offset: u64,
        max_bytes: u32,
    ) -> Result<Option<LogChunk>> {
        let Some(path) = self.find_log(run, name)? else {
            return Ok(None);
        };
        let Some((file, _)) = self.tree.open(&path)? else {
            return Ok(None);
        };
        // A character has at most 4 bytes: with fewer, a piece might never get past one.
        let wanted = max_bytes.clamp(4, MAX_CHUNK) as usize;
        let mut bytes = Vec::new();
        let mut end = false;
        while bytes.len() < wanted {
            let next = offset.saturating_add(bytes.len() as u64);
            let piece = self
                .tree
                .read_piece(&path, file.as_ref(), next, wanted - bytes.len())?;
            if piece.is_empty() {
                end = true;
                break;
            }
            bytes.extend_from_slice(&piece);
        }
        let (text, taken, replaced) = decode(&bytes);
        Ok(Some(LogChunk {
            text,
            next_offset: offset.saturating_add(taken as u64),
            replaced,
            end,
        }))
    }

    /// Lists the names of a run's logs, sorted.
    pub(crate) fn list_logs(&self, run: &RunId) -> Result<Vec<String>> {
        let mut names: Vec<String> = self
            .flat_logs(run)?
            .into_iter()
            .map(|(_, name)| name.as_str().to_owned())
            .collect();
        for entry in self.tree.list(&layout::log_directory(run))? {
            if entry.kind == Kind::File
                && let Some(name) = layout::nested_log_of(&entry.name)
            {
                names.push(name.as_str().to_owned());
            }
        }
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    /// Lists the files directly in `logs/` that belong to a run, with the names of the logs.
    pub(crate) fn flat_logs(&self, run: &RunId) -> Result<Vec<(StorePath, LogName)>> {
        let mut runs = Runs::of(self);
        let mut found = Vec::new();
        for file in self.log_file_names(run)? {
            if let Some((name, _)) = logs_naming::claim(&file, run, &mut runs) {
                found.push((layout::directory(Top::Logs).child(&file)?, name));
            }
        }
        runs.settle(found)
    }

    /// Returns where a program may write a log itself.
    pub(crate) fn log_path(&self, run: &RunId, name: &LogName) -> Result<String> {
        let path = logs_naming::place(run, name)?;
        if self.options.access == Access::ReadWrite {
            self.prepare_write()?;
            if let Some(parent) = path.parent() {
                self.tree.ensure_directory(&parent)?;
            }
        }
        Ok(self.outside(&path))
    }
}

/// Takes back what a failed append wrote, if nobody appended to the file since: a full disk may take half a line.
/// Whether that works is no matter here, the error of the append is what counts.
fn take_back(file: &dyn File, before: u64, content: &[u8]) {
    let Ok(stat) = file.stat() else {
        return;
    };
    let written = usize::try_from(stat.size.saturating_sub(before)).unwrap_or(usize::MAX);
    if let Some(begun) = content.get(..written)
        && written > 0
        && holds(file, before, begun)
        && file.stat().is_ok_and(|again| again.size == stat.size)
    {
        file.set_size(before).ok();
    }
}

/// Says whether a file holds these bytes at an offset.
fn holds(file: &dyn File, offset: u64, bytes: &[u8]) -> bool {
    let mut seen = 0;
    while seen < bytes.len() {
        match file.read(offset + seen as u64, bytes.len() - seen) {
            Ok(piece) if !piece.is_empty() && bytes[seen..].starts_with(&piece) => {
                seen += piece.len();
            }
            _ => return false,
        }
    }
    true
}

/// Decodes a piece: the text, how many bytes it stands for, how many replacement characters it has.
///
/// An incomplete character at the end is left for the next piece.
fn decode(bytes: &[u8]) -> (String, usize, u32) {
    let mut text = String::with_capacity(bytes.len());
    let (mut taken, mut replaced) = (0, 0);
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        taken += chunk.valid().len();
        let invalid = chunk.invalid();
        if invalid.is_empty() {
            continue;
        }
        let last = taken + invalid.len() == bytes.len();
        let incomplete =
            std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none());
        if last && incomplete {
            break;
        }
        text.push('\u{fffd}');
        taken += invalid.len();
        replaced += 1;
    }
    (text, taken, replaced)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop where it fails")]
mod tests {
    use super::{decode, take_back};
    use crate::native;
    use crate::ports::OpenMode;

    /// Returns what is left of a log after an append to it failed.
    fn left(found: &str, before: usize, content: &str) -> String {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        std::fs::write(&path, found).unwrap();
        let ports = native::ports(directory.path()).unwrap();
        let file = ports.directory.open("log", OpenMode::Append).unwrap();
        take_back(&*file, before as u64, content.as_bytes());
        std::fs::read_to_string(&path).unwrap()
    }

    #[test]
    fn what_a_failed_append_wrote_is_taken_back_and_what_others_wrote_is_not() {
        assert_eq!(left("old\nhalf a l", 4, "half a line\n"), "old\n");
        assert_eq!(left("old\n", 4, "half a line\n"), "old\n");
        // Another program appended before it, after it, or cut the file.
        for found in [
            "old\nother\n",
            "old\nother\nhalf",
            "old\nhalf a lother\n",
            "o",
        ] {
            assert_eq!(left(found, 4, "half a line\n"), found);
        }
        let long = "x".repeat(200_000);
        let cut = format!("old\n{}", &long[..150_000]);
        assert_eq!(left(&cut, 4, &long), "old\n");
    }

    #[test]
    fn a_character_cut_by_the_end_of_a_piece_is_left_for_the_next() {
        assert_eq!(decode("aé".as_bytes()), ("aé".into(), 3, 0));
        assert_eq!(decode(b"a\xc3"), ("a".into(), 1, 0));
        assert_eq!(decode(b"a\xe2\x9c"), ("a".into(), 1, 0));
    }

    #[test]
    fn bytes_that_are_not_utf8_are_replaced_and_counted() {
        assert_eq!(decode(b"a\xffb\xc3("), ("a\u{fffd}b\u{fffd}(".into(), 5, 2));
        assert_eq!(decode(b"\r\n\r"), ("\r\n\r".into(), 3, 0));
    }
}
