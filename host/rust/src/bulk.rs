//! The `bulk` import: listing a directory, looking at many files of it, and reading them, in one call.
//!
//! It gives no more than the granted directory does. What the component names is checked here again, every part of a path is
//! opened as one name without following a link, and only what was seen to be a regular file is opened.

use crate::bindings::metalab::store::bulk::{Host, HostReader};
use crate::roots::{RootsView, hex};
use cap_std::fs::Dir;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Statx, StatxFlags, StatxTimestamp};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read as _;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{self, JoinHandle};
use wasmtime::component::Resource;

/// The most names of one call.
const MAX_NAMES: usize = 65_536;

/// The most bytes of a list.
const MAX_LIST: usize = 64 << 20;

/// The most bytes of a file that is read.
const MAX_FILE: u64 = 1 << 20;

/// The most bytes of a file that is hashed: nothing interrupts that.
const MAX_DIGEST: u64 = 1 << 30;

/// So many bytes of files are given at once.
const PAGE: usize = 256 << 10;

/// So many pages are read ahead.
const PAGES_AHEAD: usize = 4;

/// So many files are read at once: their pages, and one for the end, need nobody who takes them.
const FEW: usize = PAGES_AHEAD - 1;

/// So many readers an instance has at once: each has a thread, and its pages.
const MAX_READERS: usize = 8;

/// So many names are worth a thread.
const WORTH_A_THREAD: usize = 128;

/// The most threads of one look.
const MAX_THREADS: usize = 4;

/// Files that are being read ahead of the component.
#[derive(Debug)]
pub struct HeldReader {
    /// None once it is being dropped.
    pages: Option<Receiver<String>>,
    thread: Option<JoinHandle<()>>,
    /// Counts the readers of an instance.
    _counted: Arc<()>,
}

impl HeldReader {
    fn new(directory: OwnedFd, names: String, counted: Arc<()>) -> Option<Self> {
        let (sender, pages) = sync_channel(PAGES_AHEAD);
        let few = names.split('/').count() <= FEW;
        let read = move || {
            let mut page = Answer::with_capacity(PAGE);
            for name in names.split('/') {
                match read(&directory, name) {
                    Ok((stat, content)) => {
                        page.file(&stat);
                        page.0.push_str(&content);
                        page.0.push('\n');
                    }
                    Err(error) => page.no_file(error),
                }
                if page.0.len() >= PAGE {
                    let full = std::mem::replace(&mut page, Answer::with_capacity(PAGE));
                    // Nobody wants the rest.
                    if sender.send(full.0).is_err() {
                        return;
                    }
                }
            }
            drop(sender.send(page.0));
        };
        let thread = if few {
            read();
            None
        } else {
            let thread = thread::Builder::new().name("reading ahead".to_owned());
            Some(thread.spawn(read).ok()?)
        };
        Some(Self {
            pages: Some(pages),
            thread,
            _counted: counted,
        })
    }
}

impl Drop for HeldReader {
    fn drop(&mut self) {
        // Then the thread ends with the page that it is at.
        self.pages = None;
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Host for RootsView<'_> {
    fn list(&mut self, directory: String) -> wasmtime::Result<Option<String>> {
        Ok(self
            .bulk_directory(&directory)
            .and_then(|directory| list(&directory).ok().flatten()))
    }

    fn look(&mut self, directory: String, names: String) -> wasmtime::Result<Option<String>> {
        Ok(listed(&names)
            .zip(self.bulk_directory(&directory))
            .and_then(|(names, directory)| look_at(&directory, &names)))
    }

    fn digest(&mut self, directory: String, name: String) -> wasmtime::Result<Option<String>> {
        Ok(self
            .bulk_directory(&directory)
            .filter(|_| is_name(&name))
            .and_then(|directory| digest(&directory, &name).ok()))
    }

    fn read(
        &mut self,
        directory: String,
        names: String,
    ) -> wasmtime::Result<Option<Resource<HeldReader>>> {
        let counted = Arc::clone(&self.context.readers);
        // One is the context's own, and one is this.
        let reader = listed(&names)
            .filter(|_| Arc::strong_count(&counted) < MAX_READERS + 2)
            .and_then(|_| self.bulk_directory(&directory))
            .and_then(|directory| HeldReader::new(directory, names, counted));
        Ok(match reader {
            Some(reader) => Some(self.table.push(reader)?),
            None => None,
        })
    }
}

impl HostReader for RootsView<'_> {
    fn next(&mut self, reader: Resource<HeldReader>) -> wasmtime::Result<String> {
        let pages = self.table.get(&reader)?.pages.as_ref();
        Ok(pages
            .and_then(|pages| pages.recv().ok())
            .unwrap_or_default())
    }

    fn drop(&mut self, reader: Resource<HeldReader>) -> wasmtime::Result<()> {
        self.table.delete(reader)?;
        Ok(())
    }
}

impl RootsView<'_> {
    fn bulk_directory(&self, path: &str) -> Option<OwnedFd> {
        open_directory(self.context.directory()?, path)
    }
}

/// Lists a directory; none if that would be too long.
fn list(directory: &OwnedFd) -> Result<Option<String>, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(directory, ".", flags, Mode::empty())?;
    let mut answer = String::new();
    for entry in rustix::fs::Dir::new(opened)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().to_str() else {
            answer.push_str("!/");
            continue;
        };
        if matches!(name, "." | "..") {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => match entry_type(directory, name) {
                Ok(kind) => kind,
                // It vanished since.
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error),
            },
            kind => kind,
        };
        answer.push(match kind {
            FileType::RegularFile => 'f',
            FileType::Directory => 'd',
            FileType::Symlink => 'l',
            _ => 'o',
        });
        answer.push_str(name);
        answer.push('/');
        if answer.len() > MAX_LIST {
            return Ok(None);
        }
    }
    Ok(Some(answer))
}

/// Says what an entry is, where the file system does not list it with the name.
fn entry_type(directory: &OwnedFd, name: &str) -> Result<FileType, Errno> {
    let stat = rustix::fs::statx(directory, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE)?;
    Ok(FileType::from_raw_mode(stat.stx_mode.into()))
}

/// Looks at files, by several threads if there are many.
fn look_at(directory: &OwnedFd, names: &[&str]) -> Option<String> {
    let work = |names: &[&str]| {
        let mut answer = Answer::with_capacity(names.len() * 64);
        for name in names {
            match look(directory, name) {
                Ok(stat) => answer.file(&stat),
                Err(error) => answer.no_file(error),
            }
        }
        answer.0
    };
    let threads = thread::available_parallelism()
        .map_or(1, NonZero::get)
        .min(MAX_THREADS)
        .min(names.len() / WORTH_A_THREAD)
        .max(1);
    let mut parts = names.chunks(names.len().div_ceil(threads));
    let first = parts.next()?;
    thread::scope(|scope| {
        let work = &work;
        let others: Option<Vec<_>> = parts
            .map(|names| {
                let thread = thread::Builder::new();
                thread.spawn_scoped(scope, move || work(names)).ok()
            })
            .collect();
        let mut answer = work(first);
        for other in others? {
            answer.push_str(&other.join().ok()?);
        }
        Some(answer)
    })
}

/// What is said of some names.
struct Answer(String);

impl Answer {
    fn with_capacity(bytes: usize) -> Self {
        Self(String::with_capacity(bytes))
    }

    /// Says what a regular file is like.
    fn file(&mut self, stat: &Statx) {
        let nanoseconds = |time: &StatxTimestamp| {
            // A time before 1970 is none.
            u64::try_from(time.tv_sec).map_or(0, |seconds| {
                seconds
                    .saturating_mul(1_000_000_000)
                    .saturating_add(u64::from(time.tv_nsec))
            })
        };
        let (modified, changed) = (nanoseconds(&stat.stx_mtime), nanoseconds(&stat.stx_ctime));
        let (size, links) = (stat.stx_size, stat.stx_nlink);
        // Writing to a text does not fail.
        _ = writeln!(self.0, "{size} {links} {modified} {changed}");
    }

    /// Says of what is no regular file that can be looked at or read whether it is not there.
    fn no_file(&mut self, error: Errno) {
        self.0.push_str(match error {
            Errno::NOENT => "-\n",
            _ => "?\n",
        });
    }
}

/// Returns names; none if there are too many or one is more than a name.
fn listed(names: &str) -> Option<Vec<&str>> {
    let names: Vec<&str> = names.split('/').take(MAX_NAMES + 1).collect();
    (names.len() <= MAX_NAMES && names.iter().all(|name| is_name(name))).then_some(names)
}

/// Says whether a text is one name, and not a way to somewhere else.
fn is_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\0'])
}

/// Opens a directory below the root, name by name.
fn open_directory(root: &Dir, path: &str) -> Option<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut opened: Option<OwnedFd> = None;
    for name in path.split('/') {
        let above = opened.as_ref().map_or(root.as_fd(), OwnedFd::as_fd);
        if !is_name(name) {
            return None;
        }
        opened = Some(rustix::fs::openat(above, name, flags, Mode::empty()).ok()?);
    }
    opened
}

/// Looks at a regular file.
fn look(directory: &OwnedFd, name: &str) -> Result<Statx, Errno> {
    regular(rustix::fs::statx(
        directory,
        name,
        AtFlags::SYMLINK_NOFOLLOW,
        StatxFlags::BASIC_STATS,
    )?)
}

fn regular(stat: Statx) -> Result<Statx, Errno> {
    match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::RegularFile => Ok(stat),
        _ => Err(Errno::INVAL),
    }
}

/// Opens a regular file to read, if it has no more bytes than it may.
fn open(directory: &OwnedFd, name: &str, most: u64) -> Result<(File, Statx), Errno> {
    // To open a device can do something, so it is looked at first, and once more in case that it is another by then.
    look(directory, name)?;
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::openat(directory, name, flags, Mode::empty())?);
    let stat = regular(rustix::fs::statx(
        &file,
        "",
        AtFlags::EMPTY_PATH,
        StatxFlags::BASIC_STATS,
    )?)?;
    if stat.stx_size > most {
        return Err(Errno::FBIG);
    }
    Ok((file, stat))
}

/// Hashes a regular file, and returns its line with the digest at the end.
fn digest(directory: &OwnedFd, name: &str) -> Result<String, Errno> {
    let (mut file, stat) = open(directory, name, MAX_DIGEST)?;
    let mut hash = Sha256::new();
    let mut piece = vec![0; PAGE];
    let mut size = 0;
    loop {
        match file.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => {
                hash.update(&piece[..count]);
                size += count as u64;
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return Err(Errno::IO),
        }
        if size > stat.stx_size {
            break;
        }
    }
    if size != stat.stx_size {
        return Err(Errno::AGAIN);
    }
    let mut answer = Answer::with_capacity(160);
    answer.file(&stat);
    answer.0.pop();
    answer.0.push(' ');
    answer.0.push_str(&hex(&hash.finalize()));
    Ok(answer.0)
}

/// Reads a regular file.
fn read(directory: &OwnedFd, name: &str) -> Result<(Statx, String), Errno> {
    let (mut file, stat) = open(directory, name, MAX_FILE)?;
    let size = usize::try_from(stat.stx_size).unwrap_or_default();
    // One byte more tells the end from a file that grew.
    let mut content = vec![0; size + 1];
    let mut read = 0;
    while read < size {
        match file.read(&mut content[read..]) {
            Ok(0) => break,
            Ok(count) => read += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return Err(Errno::IO),
        }
    }
    if read != size {
        return Err(Errno::AGAIN);
    }
    content.truncate(size);
    String::from_utf8(content)
        .map(|content| (stat, content))
        .map_err(|_| Errno::ILSEQ)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::roots::RootsContext;
    use crate::types::Access;
    use cap_std::ambient_authority;
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::path::Path;
    use wasmtime::component::ResourceTable;

    /// A granted directory `in` beside a directory `out`, of which nothing may be seen.
    struct Place {
        directory: tempfile::TempDir,
        context: RootsContext,
        table: ResourceTable,
    }

    impl Place {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let inside = directory.path().join("in");
            fs::create_dir_all(inside.join("runs")).unwrap();
            fs::create_dir_all(inside.join("deep/er")).unwrap();
            fs::create_dir(directory.path().join("out")).unwrap();
            fs::write(directory.path().join("out/secret"), "secret").unwrap();
            let opened = Dir::open_ambient_dir(&inside, ambient_authority()).unwrap();
            Self {
                context: RootsContext::new(opened, Access::ReadOnly).unwrap(),
                table: ResourceTable::new(),
                directory,
            }
        }

        fn inside(&self, path: &str) -> std::path::PathBuf {
            self.directory.path().join("in").join(path)
        }

        fn view(&mut self) -> RootsView<'_> {
            RootsView {
                context: &self.context,
                table: &mut self.table,
            }
        }

        fn list(&mut self, directory: &str) -> Option<Vec<String>> {
            let listed = self.view().list(directory.to_owned()).unwrap()?;
            let mut entries: Vec<String> =
                listed.split_terminator('/').map(str::to_owned).collect();
            entries.sort();
            Some(entries)
        }

        fn look(&mut self, directory: &str, names: &str) -> Option<String> {
            self.view()
                .look(directory.to_owned(), names.to_owned())
                .unwrap()
        }

        /// Reads files to the end, and says in how many pages.
        fn read(&mut self, directory: &str, names: &str) -> Option<(String, usize)> {
            let mut view = self.view();
            let reader = view.read(directory.to_owned(), names.to_owned()).unwrap()?;
            let (mut all, mut pages) = (String::new(), 0);
            loop {
                let page = view.next(Resource::new_own(reader.rep())).unwrap();
                if page.is_empty() {
                    break;
                }
                all.push_str(&page);
                pages += 1;
            }
            HostReader::drop(&mut view, reader).unwrap();
            Some((all, pages))
        }
    }

    fn line_of(path: &Path) -> String {
        let found = fs::symlink_metadata(path).unwrap();
        format!(
            "{} {} {} {}\n",
            found.size(),
            found.nlink(),
            found.mtime() * 1_000_000_000 + found.mtime_nsec(),
            found.ctime() * 1_000_000_000 + found.ctime_nsec(),
        )
    }

    #[test]
    fn files_are_listed_looked_at_and_read_in_the_order_of_their_names() {
        let mut place = Place::new();
        fs::write(place.inside("runs/b.json"), "{\n}").unwrap();
        fs::write(place.inside("runs/a.json"), "").unwrap();
        fs::write(place.inside("deep/er/ä"), "ö").unwrap();
        assert_eq!(
            place.list("runs").unwrap(),
            ["fa.json", "fb.json"].map(str::to_owned)
        );
        assert_eq!(place.list("deep").unwrap(), ["der"].map(str::to_owned));
        let (a, b) = (
            line_of(&place.inside("runs/a.json")),
            line_of(&place.inside("runs/b.json")),
        );
        assert_eq!(
            place.look("runs", "b.json/none/a.json").unwrap(),
            format!("{b}-\n{a}")
        );
        assert_eq!(
            place.read("runs", "b.json/none/a.json").unwrap(),
            (format!("{b}{{\n}}\n-\n{a}\n"), 1)
        );
        let line = line_of(&place.inside("deep/er/ä"));
        assert_eq!(place.read("deep/er", "ä").unwrap().0, format!("{line}ö\n"));
    }

    #[test]
    fn a_file_of_any_bytes_is_hashed() {
        let mut place = Place::new();
        let path = place.inside("runs/a");
        symlink("a", place.inside("runs/link")).unwrap();
        for content in [vec![], b"abc".to_vec(), vec![0xff; 3 * PAGE + 1]] {
            fs::write(&path, &content).unwrap();
            let digest = hex(&Sha256::digest(&content));
            let line = line_of(&path);
            assert_eq!(
                place.view().digest("runs".into(), "a".into()).unwrap(),
                Some(format!("{} {digest}", line.trim_end()))
            );
        }
        File::create(place.inside("runs/large"))
            .unwrap()
            .set_len(MAX_DIGEST + 1)
            .unwrap();
        for name in ["large", "link", "none", "..", "", "../runs/a"] {
            let digest = place.view().digest("runs".into(), name.into()).unwrap();
            assert_eq!(digest, None, "{name}");
        }
        assert_eq!(place.view().digest("..".into(), "in".into()).unwrap(), None);
    }

    #[test]
    fn many_files_come_in_pages_and_all_of_them() {
        let mut place = Place::new();
        let names: Vec<String> = (0..2000).map(|run| format!("{run:04}.json")).collect();
        let mut looked = String::new();
        let mut read = String::new();
        for name in &names {
            let path = place.inside("runs").join(name);
            fs::write(&path, name.repeat(100)).unwrap();
            looked.push_str(&line_of(&path));
            read.push_str(&format!("{}{}\n", line_of(&path), name.repeat(100)));
        }
        assert!(place.look("runs", &names.join("/")).unwrap() == looked);
        let (all, pages) = place.read("runs", &names.join("/")).unwrap();
        assert!(all == read);
        assert!(pages > 4, "{pages}");
        // Who wants no more of them need not take them.
        let mut view = place.view();
        let reader = view.read("runs".to_owned(), names.join("/")).unwrap();
        HostReader::drop(&mut view, reader.unwrap()).unwrap();
    }

    #[test]
    fn what_is_no_regular_file_is_told_apart_and_never_opened() {
        let mut place = Place::new();
        let runs = place.inside("runs");
        fs::create_dir(runs.join("directory")).unwrap();
        symlink("../../out/secret", runs.join("link")).unwrap();
        let mode = Mode::from_raw_mode(0o666);
        // Who opened this to read would wait for ever.
        rustix::fs::mknodat(rustix::fs::CWD, runs.join("fifo"), FileType::Fifo, mode, 0).unwrap();
        fs::write(runs.join("bytes"), [0xff, 0xfe]).unwrap();
        fs::write(runs.join("large"), vec![b'x'; (1 << 20) + 1]).unwrap();
        fs::write(runs.join(std::ffi::OsStr::from_bytes(b"\xff")), "").unwrap();
        assert_eq!(
            place.list("runs").unwrap(),
            ["!", "ddirectory", "fbytes", "flarge", "llink", "ofifo"].map(str::to_owned)
        );
        assert_eq!(
            place.look("runs", "directory/link/fifo").unwrap(),
            "?\n?\n?\n"
        );
        assert_eq!(
            place
                .read("runs", "directory/link/fifo/bytes/large")
                .unwrap()
                .0,
            "?\n?\n?\n?\n?\n"
        );
    }

    #[test]
    fn nothing_but_a_name_in_a_directory_below_the_granted_one_is_looked_at() {
        let mut place = Place::new();
        symlink("../out", place.inside("link")).unwrap();
        symlink("/", place.inside("root")).unwrap();
        for directory in [
            "",
            ".",
            "..",
            "../out",
            "runs/../../out",
            "/",
            "/etc",
            "link",
            "root",
            "root/etc",
            "runs/",
            "runs//",
            "none",
            "a\0b",
        ] {
            assert_eq!(place.list(directory), None, "{directory:?}");
            assert_eq!(place.look(directory, "secret"), None, "{directory:?}");
            assert_eq!(place.read(directory, "secret"), None, "{directory:?}");
        }
        for names in ["", ".", "..", "a//b", "../x", "a/../b", "/", "a\0"] {
            assert_eq!(place.look("runs", names), None, "{names:?}");
            assert_eq!(place.read("runs", names), None, "{names:?}");
        }
        let many = vec!["a"; MAX_NAMES + 1].join("/");
        assert_eq!(place.look("runs", &many), None);
        let mut nothing = ResourceTable::new();
        let mut view = RootsView {
            context: &RootsContext::none(),
            table: &mut nothing,
        };
        assert_eq!(view.list("runs".to_owned()).unwrap(), None);
    }

    #[test]
    fn an_instance_has_no_more_readers_at_once_than_it_may() {
        let mut place = Place::new();
        fs::write(place.inside("runs/a"), "a").unwrap();
        let mut view = place.view();
        let mut read = || {
            let reader = view.read("runs".to_owned(), "a".to_owned());
            reader.unwrap()
        };
        let readers: Vec<_> = (0..=MAX_READERS).filter_map(|_| read()).collect();
        assert_eq!(readers.len(), MAX_READERS);
        for reader in readers {
            HostReader::drop(&mut view, reader).unwrap();
        }
        let again = view.read("runs".to_owned(), "a".to_owned()).unwrap();
        assert!(again.is_some());
    }
}
