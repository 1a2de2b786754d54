//! Files of one store directory, by their place in the layout: reading, listing, and the steps of writing.
//!
//! Every error names the file relative to the granted directory. Only regular files are opened, and their
//! type is looked at first: opening a FIFO would block for ever.

use crate::error::{Error, Result};
use crate::layout::{StorePath, Top};
use crate::ports::{Directory, Entry, File, Kind, OpenMode, PortError, PortResult, Stat};
use sha2::{Digest as _, Sha256};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// The most that is asked of the file port in one read: more than the host gives at once.
const READ_SIZE: usize = 64 * 1024;

/// How often a directory is made again that somebody removes meanwhile.
pub(crate) const ATTEMPTS: u32 = 16;

/// What is read in place of files that a crash kept from the disk, in a store that is not written.
pub(crate) struct Overlay {
    files: BTreeMap<StorePath, Overlaid>,
    /// The journal segments that it comes from. Once one of them is gone, somebody recovered the store, and
    /// the files themselves are right.
    segments: Vec<StorePath>,
}

/// What is read in place of one file.
#[derive(Clone)]
pub(crate) enum Overlaid {
    /// This content.
    Content(Rc<[u8]>),
    /// This other file.
    Moved(StorePath),
    /// Nothing: the file is deleted.
    Removed,
}

impl Overlay {
    /// Makes an overlay from what replaces each file, and the segments that say so.
    pub(crate) fn new(files: BTreeMap<StorePath, Overlaid>, segments: Vec<StorePath>) -> Self {
        Self { files, segments }
    }

    /// Changes the entries of a directory to those that there would be.
    fn change_list(&self, directory: &StorePath, entries: &mut Vec<Entry>) {
        for (path, overlaid) in &self.files {
            // The entry of the directory that the file is, or is in.
            let mut entry = path.clone();
            let mut kind = Kind::File;
            let found = loop {
                match entry.parent() {
                    Some(parent) if parent == *directory => break true,
                    Some(parent) => {
                        entry = parent;
                        kind = Kind::Directory;
                    }
                    None => break false,
                }
            };
            if !found {
                continue;
            }
            let name = entry.file_name();
            let listed = entries.iter().any(|entry| entry.name == name);
            match overlaid {
                Overlaid::Removed if kind == Kind::File => {
                    entries.retain(|entry| entry.name != name);
                }
                Overlaid::Content(_) | Overlaid::Moved(_) if !listed => entries.push(Entry {
                    name: name.to_owned(),
                    kind,
                }),
                _ => {}
            }
        }
    }
}

/// A content that is only in memory.
struct MemoryFile(Rc<[u8]>);

impl File for MemoryFile {
    fn read(&self, offset: u64, length: usize) -> PortResult<Vec<u8>> {
        let from = usize::try_from(offset).map_or(self.0.len(), |from| from.min(self.0.len()));
        let to = from.saturating_add(length).min(self.0.len());
        Ok(self.0[from..to].to_vec())
    }

    fn write(&self, _offset: u64, _content: &[u8]) -> PortResult<()> {
        Err(PortError::ReadOnly)
    }

    fn append(&self, _content: &[u8]) -> PortResult<()> {
        Err(PortError::ReadOnly)
    }

    fn set_size(&self, _size: u64) -> PortResult<()> {
        Err(PortError::ReadOnly)
    }

    fn stat(&self) -> PortResult<Stat> {
        Ok(stat_of(&self.0))
    }

    fn sync_data(&self) -> PortResult<()> {
        Err(PortError::ReadOnly)
    }
}

fn stat_of(content: &[u8]) -> Stat {
    Stat {
        kind: Kind::File,
        size: content.len() as u64,
        links: 1,
        modified: 0,
        changed: 0,
    }
}

/// The files of one store directory: the granted directory, or one experiment's below it.
#[derive(Clone)]
pub(crate) struct Tree {
    root: Rc<dyn Directory>,
    /// What stands before each path: empty, or the experiment's directory and a slash.
    prefix: String,
    overlay: Option<Rc<Overlay>>,
    /// The directories directly below, opened to rename files in them.
    opened: Rc<RefCell<BTreeMap<Top, Rc<dyn Directory>>>>,
}

impl Tree {
    /// Makes the tree of the granted directory itself.
    pub(crate) fn new(root: Rc<dyn Directory>) -> Self {
        Self {
            root,
            prefix: String::new(),
            overlay: None,
            opened: Rc::default(),
        }
    }

    /// Makes the tree of a directory directly below this one. The name comes from a listing.
    pub(crate) fn child(&self, name: &str) -> Self {
        Self {
            root: Rc::clone(&self.root),
            prefix: format!("{}{name}/", self.prefix),
            overlay: None,
            opened: Rc::default(),
        }
    }

    /// Says whether this is the granted directory itself.
    pub(crate) fn is_whole(&self) -> bool {
        self.prefix.is_empty()
    }

    /// Reads through an overlay from now on.
    pub(crate) fn set_overlay(&mut self, overlay: Option<Rc<Overlay>>) {
        self.overlay = overlay;
    }

    /// Returns the overlay, unless somebody recovered the store since.
    fn overlay(&self) -> Result<Option<&Overlay>> {
        let Some(overlay) = self.overlay.as_deref() else {
            return Ok(None);
        };
        for segment in &overlay.segments {
            if self.stat_below(segment)?.is_none() {
                return Ok(None);
            }
        }
        Ok(Some(overlay))
    }

    fn overlaid(&self, path: &StorePath) -> Result<Option<Overlaid>> {
        if self.overlay.is_none() {
            return Ok(None);
        }
        Ok(self
            .overlay()?
            .and_then(|overlay| overlay.files.get(path).cloned()))
    }

    /// Returns the path of a file relative to the granted directory.
    pub(crate) fn path(&self, path: &StorePath) -> String {
        if path.top() == Top::Root && path.rest().is_empty() {
            return self.prefix.trim_end_matches('/').to_owned();
        }
        format!("{}{path}", self.prefix)
    }

    /// Returns what is known about a file, or none if nothing of this name exists.
    pub(crate) fn stat(&self, path: &StorePath) -> Result<Option<Stat>> {
        match self.overlaid(path)? {
            None => self.stat_below(path),
            Some(Overlaid::Content(content)) => Ok(Some(stat_of(&content))),
            Some(Overlaid::Moved(other)) => self.stat_below(&other),
            Some(Overlaid::Removed) => Ok(None),
        }
    }

    /// Looks at a file itself, below any overlay.
    fn stat_below(&self, path: &StorePath) -> Result<Option<Stat>> {
        let path = self.path(path);
        absent(self.root.stat(&path)).map_err(|reason| Error::io(path, "look at", reason))
    }

    /// Says whether a regular file of this name exists.
    pub(crate) fn is_file(&self, path: &StorePath) -> Result<bool> {
        Ok(self.stat(path)?.is_some_and(|stat| stat.kind == Kind::File))
    }

    /// Opens a regular file to read, or returns none if there is nothing of this name.
    pub(crate) fn open(&self, path: &StorePath) -> Result<Option<(Box<dyn File>, Stat)>> {
        let moved = match self.overlaid(path)? {
            None => None,
            Some(Overlaid::Content(content)) => {
                let stat = stat_of(&content);
                return Ok(Some((Box::new(MemoryFile(content)), stat)));
            }
            Some(Overlaid::Moved(other)) => Some(other),
            Some(Overlaid::Removed) => return Ok(None),
        };
        let path = moved.as_ref().unwrap_or(path);
        let Some(stat) = self.stat_below(path)? else {
            return Ok(None);
        };
        let path = self.path(path);
        regular(&path, stat.kind)?;
        let file = absent(self.root.open(&path, OpenMode::Read))
            .map_err(|reason| Error::io(path, "open", reason))?;
        Ok(file.map(|file| (file, stat)))
    }

    /// Looks at a file through its directory, if that was opened before: a name is found faster than a path.
    pub(crate) fn stat_in(
        &self,
        directory: Option<&dyn Directory>,
        path: &StorePath,
    ) -> Result<Option<Stat>> {
        let Some(directory) = directory.filter(|_| self.overlay.is_none()) else {
            return self.stat(path);
        };
        absent(directory.stat(path.file_name()))
            .map_err(|reason| Error::io(self.path(path), "look at", reason))
    }

    /// Lists a directory that was opened before, or else is found by its path.
    pub(crate) fn list_in(
        &self,
        directory: Option<&dyn Directory>,
        path: &StorePath,
    ) -> Result<Vec<Entry>> {
        let Some(directory) = directory.filter(|_| self.overlay.is_none()) else {
            return self.list(path);
        };
        let listing = directory.list("");
        let listing = listing.map_err(|reason| Error::io(self.path(path), "list", reason))?;
        Ok(listing.entries)
    }

    /// Opens a file whose type was looked at a moment ago, through its directory if that was opened before.
    pub(crate) fn open_seen(
        &self,
        directory: Option<&dyn Directory>,
        path: &StorePath,
        seen: &Stat,
    ) -> Result<Option<(Box<dyn File>, Stat)>> {
        if self.overlay.is_some() || seen.kind != Kind::File {
            return self.open(path);
        }
        let opened = match directory {
            Some(directory) => directory.open(path.file_name(), OpenMode::Read),
            None => self.root.open(&self.path(path), OpenMode::Read),
        };
        let file = absent(opened).map_err(|reason| Error::io(self.path(path), "open", reason))?;
        Ok(file.map(|file| (file, *seen)))
    }

    /// Opens a regular file through its directory, if that was opened before: a name is found faster than a path.
    pub(crate) fn open_in(
        &self,
        directory: Option<&dyn Directory>,
        path: &StorePath,
    ) -> Result<Option<(Box<dyn File>, Stat)>> {
        let Some(directory) = directory.filter(|_| self.overlay.is_none()) else {
            return self.open(path);
        };
        let failed = |operation, reason| Error::io(self.path(path), operation, reason);
        let name = path.file_name();
        let stat = absent(directory.stat(name)).map_err(|reason| failed("look at", reason))?;
        let Some(stat) = stat else {
            return Ok(None);
        };
        if stat.kind != Kind::File {
            regular(&self.path(path), stat.kind)?;
        }
        let file = absent(directory.open(name, OpenMode::Read))
            .map_err(|reason| failed("open", reason))?;
        Ok(file.map(|file| (file, stat)))
    }

    /// Returns what a regular file was like when it was opened and the SHA-256 of its content, where the host says that faster
    /// than it is read.
    pub(crate) fn digest(&self, path: &StorePath) -> Option<(Stat, [u8; 32])> {
        if self.overlay.is_some() {
            return None;
        }
        self.root.digest(&self.path(path)).ok()
    }

    /// Reads an open file to its end, and returns how many bytes it has and their SHA-256.
    pub(crate) fn hash_open(&self, path: &StorePath, file: &dyn File) -> Result<(u64, [u8; 32])> {
        let mut hash = Sha256::new();
        let mut size = 0;
        loop {
            let piece = self.read_piece(path, file, size, READ_SIZE)?;
            if piece.is_empty() {
                return Ok((size, hash.finalize().into()));
            }
            hash.update(&piece);
            size += piece.len() as u64;
        }
    }

    /// Reads a whole file, or returns none if there is nothing of this name.
    pub(crate) fn read(&self, path: &StorePath, limit: u64) -> Result<Option<Vec<u8>>> {
        if let Some(read) = self.read_at_once(path, limit) {
            return Ok(read);
        }
        let Some((file, stat)) = self.open(path)? else {
            return Ok(None);
        };
        self.read_open(path, file.as_ref(), &stat, limit).map(Some)
    }

    /// Reads a small file directly in a directory of the store where the host does it in fewer calls; none where it does not, or
    /// where something is in the way: then the file is opened, and that says what.
    fn read_at_once(&self, path: &StorePath, limit: u64) -> Option<Option<Vec<u8>>> {
        let parent = path.parent().filter(|parent| parent.rest().is_empty())?;
        if self.overlay.is_some() {
            return None;
        }
        let mut reading = self.opened(&parent)?.read(&[path.file_name()])?;
        match reading.next() {
            Ok((stat, content)) if stat.size <= limit => Some(Some(content.as_bytes().to_vec())),
            Err(PortError::NotFound) => Some(None),
            _ => None,
        }
    }

    /// Reads a file that was opened.
    pub(crate) fn read_open(
        &self,
        path: &StorePath,
        file: &dyn File,
        stat: &Stat,
        limit: u64,
    ) -> Result<Vec<u8>> {
        if stat.size > limit {
            let path = self.path(path);
            return Err(Error::TooLarge(format!(
                "{path} has {} bytes; at most {limit} are read in one piece",
                stat.size
            )));
        }
        let expected = usize::try_from(stat.size).unwrap_or(READ_SIZE);
        // One byte more than expected tells the end from a file that grew.
        let mut content = self.read_piece(path, file, 0, (expected + 1).min(READ_SIZE))?;
        if content.len() == expected && expected < READ_SIZE {
            return Ok(content);
        }
        loop {
            if content.len() as u64 > limit {
                let path = self.path(path);
                return Err(Error::TooLarge(format!(
                    "{path} grows; at most {limit} bytes are read in one piece"
                )));
            }
            let piece = self.read_piece(path, file, content.len() as u64, READ_SIZE)?;
            if piece.is_empty() {
                return Ok(content);
            }
            content.extend_from_slice(&piece);
        }
    }

    /// Reads a piece of an open file.
    pub(crate) fn read_piece(
        &self,
        path: &StorePath,
        file: &dyn File,
        offset: u64,
        length: usize,
    ) -> Result<Vec<u8>> {
        file.read(offset, length.min(READ_SIZE))
            .map_err(|reason| Error::io(self.path(path), "read", reason))
    }

    /// Lists a directory; one that does not exist has no entries.
    pub(crate) fn list(&self, path: &StorePath) -> Result<Vec<Entry>> {
        let name = self.path(path);
        let mut entries = match self.root.list(&name) {
            Ok(listing) => listing.entries,
            Err(PortError::NotFound) => Vec::new(),
            // Hosts differ in what they say of a link.
            Err(reason @ (PortError::NotDirectory | PortError::Loop | PortError::Denied)) => {
                self.no_directory(path, reason)?;
                Vec::new()
            }
            Err(reason) => return Err(Error::io(name, "list", reason)),
        };
        if self.overlay.is_some()
            && let Some(overlay) = self.overlay()?
        {
            overlay.change_list(path, &mut entries);
        }
        Ok(entries)
    }

    /// Judges what cannot be listed: as empty if it holds nothing of the format, else as damage. What is in
    /// the place of `runs` must not look as if there were no runs.
    fn no_directory(&self, path: &StorePath, reason: PortError) -> Result<()> {
        // Without the journal's directory there is no journal.
        if path.top() == Top::Index && path.rest().is_empty() && reason == PortError::NotDirectory {
            return Ok(());
        }
        let name = self.path(path);
        let found = match self.stat_below(path)?.map(|stat| stat.kind) {
            // Something above it is no directory, and is judged where that is listed.
            None => return Ok(()),
            Some(Kind::Directory) => return Err(Error::io(name, "list", reason)),
            // The file of one run can be called like the directory of another.
            Some(Kind::File) if !path.rest().is_empty() => return Ok(()),
            Some(Kind::File) => "a file",
            Some(Kind::Link) => "a symbolic link, which is not followed",
            Some(Kind::Other) => "neither a file nor a directory",
        };
        Err(Error::corrupt(
            name,
            None,
            format!("expected a directory, found {found}"),
        ))
    }

    /// Creates a directory and those above it, and says whether it was missing.
    pub(crate) fn ensure_directory(&self, path: &StorePath) -> Result<bool> {
        match self.stat(path)? {
            Some(stat) if stat.kind == Kind::Directory => return Ok(false),
            Some(_) => {
                let path = self.path(path);
                return Err(Error::AlreadyExists(format!(
                    "{path} should be a directory and is not; move it away"
                )));
            }
            None => {}
        }
        let name = self.path(path);
        let mut attempt = 0;
        loop {
            if let Some(parent) = path.parent() {
                self.ensure_directory(&parent)?;
            }
            match self.root.create_directory(&name) {
                // Another writer may have been faster.
                Ok(()) | Err(PortError::AlreadyExists) => return Ok(true),
                // Somebody removed the one above it meanwhile.
                Err(PortError::NotFound) if attempt < ATTEMPTS => attempt += 1,
                Err(reason) => return Err(Error::io(name, "create the directory", reason)),
            }
        }
    }

    /// Creates a new file, and its directory if that is missing.
    pub(crate) fn create(&self, path: &StorePath) -> Result<Box<dyn File>> {
        self.open_for_writing(path, OpenMode::CreateNew)
    }

    /// Opens a file to append, and creates it and its directory if missing. Returns the size too that it had a moment ago.
    pub(crate) fn open_to_append(&self, path: &StorePath) -> Result<(Box<dyn File>, u64)> {
        let mut size = 0;
        if let Some(stat) = self.stat(path)? {
            regular(&self.path(path), stat.kind)?;
            size = stat.size;
        }
        let file = self.open_for_writing(path, OpenMode::Append)?;
        Ok((file, size))
    }

    fn open_for_writing(&self, path: &StorePath, mode: OpenMode) -> Result<Box<dyn File>> {
        let name = self.path(path);
        let mut opened = self.root.open(&name, mode);
        let mut attempt = 0;
        while matches!(opened, Err(PortError::NotFound))
            && attempt < ATTEMPTS
            && let Some(parent) = path.parent()
        {
            attempt += 1;
            self.ensure_directory(&parent)?;
            opened = self.root.open(&name, mode);
        }
        opened.map_err(|reason| Error::io(name, "create", reason))
    }

    /// Renames a file in place of another.
    pub(crate) fn rename(&self, from: &StorePath, to: &StorePath) -> Result<()> {
        if let Some(parent) = from.parent()
            && parent.rest().is_empty()
            && Some(&parent) == to.parent().as_ref()
            && let Some(directory) = self.opened(&parent)
        {
            // Two names in one directory, so the host need not walk to it twice.
            if directory.rename(from.file_name(), to.file_name()).is_ok() {
                return Ok(());
            }
            // The directory may have been replaced. By its name it works, or the error is the right one.
            self.opened.borrow_mut().remove(&parent.top());
        }
        let target = self.path(to);
        let renamed = self.root.rename(&self.path(from), &target);
        renamed.map_err(|reason| Error::io(target, "rename the finished file to", reason))
    }

    /// Returns a handle on a directory directly below; none if it cannot be opened.
    fn opened(&self, path: &StorePath) -> Option<Rc<dyn Directory>> {
        let mut opened = self.opened.borrow_mut();
        if let Some(directory) = opened.get(&path.top()) {
            return Some(Rc::clone(directory));
        }
        let directory = self.root.open_directory(&self.path(path)).ok()?;
        opened.insert(path.top(), Rc::clone(&directory));
        Some(directory)
    }

    /// Opens a directory, to look at many files in it.
    pub(crate) fn handle(&self, path: &StorePath) -> Result<Option<Rc<dyn Directory>>> {
        let name = self.path(path);
        absent(self.root.open_directory(&name)).map_err(|reason| Error::io(name, "open", reason))
    }

    /// Says whether some files are read from somewhere else.
    pub(crate) fn has_overlay(&self) -> Result<bool> {
        Ok(self.overlay()?.is_some())
    }

    /// Removes a file, and says whether there was one.
    pub(crate) fn remove(&self, path: &StorePath) -> Result<bool> {
        let name = self.path(path);
        match absent(self.root.remove_file(&name)) {
            Ok(removed) => Ok(removed.is_some()),
            Err(reason) => Err(Error::io(name, "remove", reason)),
        }
    }

    /// Removes a directory if it is empty, and says whether it was removed.
    pub(crate) fn remove_directory(&self, path: &StorePath) -> Result<bool> {
        let name = self.path(path);
        match self.root.remove_directory(&name) {
            Ok(()) => Ok(true),
            Err(PortError::NotFound | PortError::NotEmpty | PortError::NotDirectory) => Ok(false),
            Err(reason) => Err(Error::io(name, "remove the directory", reason)),
        }
    }

    /// Sets when a directory last changed, in nanoseconds since 1970, and says whether that was possible.
    pub(crate) fn set_modified(&self, path: &StorePath, time: u64) -> bool {
        self.root.set_modified(&self.path(path), time).is_ok()
    }

    /// Makes the names in a directory durable.
    pub(crate) fn sync_directory(&self, path: &StorePath) -> Result<()> {
        let name = self.path(path);
        let synced = if name.is_empty() {
            self.root.sync()
        } else {
            self.root
                .open_directory(&name)
                .and_then(|directory| directory.sync())
        };
        synced.map_err(|reason| Error::io(name, "sync the directory", reason))
    }
}

/// Turns "there is no such file" into none. A file where a directory should be hides nothing either.
fn absent<T>(
    result: std::result::Result<T, PortError>,
) -> std::result::Result<Option<T>, PortError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(PortError::NotFound | PortError::NotDirectory) => Ok(None),
        Err(reason) => Err(reason),
    }
}

fn regular(path: &str, kind: Kind) -> Result<()> {
    let found = match kind {
        Kind::File => return Ok(()),
        Kind::Directory => "a directory",
        Kind::Link => "a symbolic link",
        Kind::Other => "neither a file nor a directory",
    };
    Err(Error::corrupt(
        path,
        None,
        format!("expected a regular file, found {found}; it was not opened"),
    ))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop where it fails")]
mod tests {
    use super::*;
    use crate::layout;
    use crate::native;
    use crate::testing::{Touch, watched};
    use std::cell::Cell;

    /// The tree of a directory in which somebody else removes `.index` a few times, just before anything is made in that.
    fn vanishing(root: &std::path::Path, times: u32) -> Tree {
        let inner = native::ports(root).unwrap().directory;
        let (removed, left) = (Rc::clone(&inner), Cell::new(times));
        Tree::new(watched(inner, move |touch, path| {
            if touch == Touch::Make
                && path.starts_with(".index/")
                && left.get() > 0
                && removed.remove_directory(".index").is_ok()
            {
                left.set(left.get() - 1);
            }
        }))
    }

    #[test]
    fn a_directory_that_is_removed_while_something_is_made_in_it_is_made_again() {
        let directory = tempfile::tempdir().unwrap();
        let tree = vanishing(directory.path(), 3);
        assert!(tree.ensure_directory(&layout::staging_directory()).unwrap());
        assert!(directory.path().join(".index/staging").is_dir());
        let other = tempfile::tempdir().unwrap();
        let tree = vanishing(other.path(), 3);
        tree.create(&layout::index_head()).unwrap();
        assert!(other.path().join(".index/columns").is_file());
        // Who does it without end is told.
        let last = tempfile::tempdir().unwrap();
        let tree = vanishing(last.path(), u32::MAX);
        assert!(tree.ensure_directory(&layout::staging_directory()).is_err());
    }
}
