//! What of the index is kept under `.index/`: the head, which names the tables and says what they know, and the
//! tables.

use super::bytes::{Reader, put_text, put_u32, put_u64, small};
use super::changes::{HEADER, MAGIC as LOG_MAGIC};
use super::table::Table;
use super::{Access, Doubt, Outcome, Stamp, State, TICKS, Trouble};
use crate::error::Result;
use crate::layout::{self, StorePath, Top};
use crate::ports::{Kind, Lock, LockMode, LockTarget};
use crate::scope::Scope;
use std::rc::Rc;

/// How the head begins.
const MAGIC: &[u8; 8] = b"mlabidx1";

/// The largest head that is read.
const MAX_HEAD: u64 = 64 << 20;

/// The size beyond which the file of notes is begun anew.
const MAX_LOG: u64 = 1 << 20;

/// For so long, in nanoseconds, a file may be in memory alone that was written without a sync: some systems wait
/// ten minutes.
const LATELY: u64 = 660_000_000_000;

/// The name of the lock of whoever saves the index.
const LOCK: &str = "columns";

impl Scope {
    /// Reads what was saved; none if there is nothing that can be used.
    pub(super) fn load_index(&self) -> Option<State> {
        self.try_load().ok()
    }

    fn try_load(&self) -> Outcome<State> {
        let content = self
            .tree
            .read(&layout::index_head(), MAX_HEAD)?
            .ok_or(Doubt)?;
        let end = content.len().checked_sub(4).ok_or(Doubt)?;
        let (body, check) = content.split_at(end);
        if crc32fast::hash(body).to_le_bytes() != check {
            return Err(Trouble::Doubt);
        }
        let mut reader = Reader(body);
        if reader.take(8)? != MAGIC {
            return Err(Trouble::Doubt);
        }
        let boot = reader.text()?.to_owned();
        let mut state = State::default();
        let written = reader.u64()?;
        let settled = reader.byte()? != 0;
        let changed = reader.byte()? != 0;
        for stamp in &mut state.stamps {
            *stamp = Stamp {
                modified: reader.u64()?,
                changed: reader.u64()?,
            };
        }
        let log = (reader.u64()?, reader.u64()?);
        state.log = (log != (0, 0)).then_some(log);
        for _ in 0..reader.count(4)? {
            state.again.push(reader.text()?.to_owned());
        }
        for _ in 0..reader.count(24)? {
            let (id, length, check) = (reader.u64()?, reader.u64()?, reader.u32()?);
            let opened = self.tree.open(&layout::index_table(id))?;
            let (file, stat) = opened.ok_or(Doubt)?;
            if stat.size != length {
                return Err(Trouble::Doubt);
            }
            let table = Table::in_file(file, length, check)?;
            for _ in 0..reader.count(4)? {
                let row = reader.u32()? as usize;
                if row >= table.rows() {
                    return Err(Trouble::Doubt);
                }
                table.kill(row);
            }
            state.tables.push(Rc::new(table));
        }
        reader.end()?;
        let here = self.ports.roots.identity().boot;
        if here.is_empty() || here != boot {
            // The machine went down since, or it is another one: what the directories say is no proof, and files
            // that may not have reached the disk are read again.
            let from = written.saturating_sub(LATELY);
            for table in &state.tables {
                for row in 0..table.rows() {
                    let (record, derived) = table.seen(row)?;
                    let young = |modified: u64, changed: u64| modified.max(changed) > from;
                    if young(record.modified, record.changed)
                        || derived.is_some_and(|seen| young(seen.modified, seen.changed))
                    {
                        table.kill(row);
                    }
                }
            }
            return Ok(state);
        }
        state.settled = settled;
        state.changed = changed;
        state.looked = self.ports.clock.now();
        Ok(state)
    }

    /// Writes a table to a file of its own, and returns it as it is read from there; none if that failed.
    pub(super) fn save_table(&self, table: &Table) -> Option<Table> {
        if self.options.access == Access::ReadOnly {
            return None;
        }
        let copied;
        let bytes = match table.bytes() {
            Some(bytes) => bytes,
            None => {
                copied = table.all_bytes().ok()?;
                &copied
            }
        };
        let path = layout::index_table(table.id);
        // Nobody knows the name until a head says it, so that it is written in place.
        let written = || -> Result<Table> {
            let file = self.tree.create(&path)?;
            file.write(0, bytes).map_err(|reason| {
                crate::error::Error::io(self.tree.path(&path), "write", reason)
            })?;
            drop(file);
            let opened = self.tree.open(&path)?;
            let saved =
                opened.and_then(|(file, _)| Table::in_file(file, table.length, table.check).ok());
            saved.ok_or_else(|| {
                crate::error::Error::corrupt(self.tree.path(&path), None, "it vanished")
            })
        };
        match written() {
            Ok(saved) => {
                for row in table.dead() {
                    saved.kill(row as usize);
                }
                Some(saved)
            }
            Err(_) => {
                // A file that is left over is removed by the next one who saves.
                drop(self.tree.remove(&path));
                None
            }
        }
    }

    /// Saves the index. If that fails, others read more files: nothing else.
    pub(super) fn save_index(&self, state: &mut State) {
        let target = LockTarget::Segment(LOCK);
        // Whoever has it saves the same.
        let Ok(lock) = self.ports.roots.acquire(target, LockMode::Exclusive, 0) else {
            return;
        };
        if self.try_save(state, lock.as_ref()).is_ok() {
            state.unsaved = 0;
            state.outdated = false;
        }
    }

    fn try_save(&self, state: &mut State, _lock: &dyn Lock) -> Outcome<()> {
        self.tree.ensure_directory(&layout::directory(Top::Index))?;
        for table in &mut state.tables {
            // A file that no head named may have been swept by another writer: the time of a file is no proof that nobody
            // needs it. This store has it open, and nobody sweeps now.
            if table.bytes().is_some() || self.tree.stat(&layout::index_table(table.id))?.is_none()
            {
                *table = Rc::new(self.save_table(table).ok_or(Doubt)?);
            }
        }
        self.renew_log(state)?;
        let mut out = Vec::new();
        out.extend_from_slice(MAGIC);
        put_text(&mut out, self.ports.roots.identity().boot.as_bytes());
        put_u64(&mut out, self.ports.clock.now());
        out.push(u8::from(state.settled));
        out.push(u8::from(state.changed));
        for stamp in state.stamps {
            put_u64(&mut out, stamp.modified);
            put_u64(&mut out, stamp.changed);
        }
        let (id, place) = state.log.unwrap_or_default();
        put_u64(&mut out, id);
        put_u64(&mut out, place);
        let damaged = state.records.keys().chain(state.derived.keys());
        let names: Vec<&String> = damaged.chain(&state.again).collect();
        put_u32(&mut out, small(names.len()));
        for name in names {
            put_text(&mut out, name.as_bytes());
        }
        put_u32(&mut out, small(state.tables.len()));
        for table in &state.tables {
            put_u64(&mut out, table.id);
            put_u64(&mut out, table.length);
            put_u32(&mut out, table.check);
            let dead = table.dead();
            put_u32(&mut out, small(dead.len()));
            for row in dead {
                put_u32(&mut out, row);
            }
        }
        let check = crc32fast::hash(&out);
        put_u32(&mut out, check);
        self.replace(&layout::index_head(), &out)?;
        self.sweep_tables(state)?;
        Ok(())
    }

    /// Begins the file of notes, or begins it anew if it is long.
    fn renew_log(&self, state: &mut State) -> Outcome<()> {
        let mut old = self.open_log()?;
        if old.as_ref().is_some_and(|log| log.size <= MAX_LOG) {
            return Ok(());
        }
        let id = self.ports.random.next();
        let mut header = LOG_MAGIC.to_vec();
        put_u64(&mut header, id);
        self.replace(&layout::index_changes(), &header)?;
        let known = state.log.replace((id, HEADER));
        state.notes = None;
        if let Some((known, from)) = known {
            // What was noted since is not in the new file, and whoever notes something now finds that.
            let old = old.as_mut().filter(|old| old.id == known).ok_or(Doubt);
            let notes = old.and_then(|old| {
                old.is_there();
                old.notes(from)
            });
            let Ok(notes) = notes else {
                state.settled = false;
                return Err(Trouble::Doubt);
            };
            let runs = notes.into_iter().flat_map(|note| note.runs);
            state.again.extend(runs.map(|run| run.as_str().to_owned()));
        }
        Ok(())
    }

    /// Puts a file of the index in place of another, without a sync: it is checked when it is read.
    fn replace(&self, path: &StorePath, content: &[u8]) -> Result<()> {
        let stage = self.stage(path);
        let written = self
            .write_stage(&stage, content, false)
            .and_then(|()| self.tree.rename(&stage, path));
        if written.is_err() {
            drop(self.tree.remove(&stage));
        }
        written
    }

    /// Removes the tables that no head names, once nobody can be about to name them, and what a writer that was
    /// killed left of a head.
    fn sweep_tables(&self, state: &State) -> Result<()> {
        let now = self.ports.clock.now();
        let index = layout::directory(Top::Index);
        let staged = [layout::index_head(), layout::index_changes()];
        for entry in self.tree.list(&index)? {
            let unnamed = match layout::index_table_of(&entry.name) {
                Some(id) => state.tables.iter().all(|table| table.id != id),
                None => staged
                    .iter()
                    .any(|path| layout::is_stage_of(&entry.name, path)),
            };
            if entry.kind != Kind::File || !unnamed {
                continue;
            }
            let path = index.child(&entry.name)?;
            let old = self.tree.stat(&path)?.is_some_and(|stat| {
                stat.modified.max(stat.changed).saturating_add(1200 * TICKS) < now
            });
            if old {
                self.tree.remove(&path)?;
            }
        }
        Ok(())
    }
}
