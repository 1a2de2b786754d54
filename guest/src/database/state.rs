//! What a database knows of a directory: `.index/database.json`, and when the directory last changed.
//!
//! The file is a cache. Without it, or where it does not match the database or the directory, the database
//! is not believed until it was compared with the files. It says
//!
//! * which database: an id that the database itself was given, so that another one, or another schema, is
//!   told apart, and so is the same one restored from an old backup, by the *mark* that both keep;
//! * which rows: the *scope*, an id that no other directory has. A copied directory is told by its inode;
//! * when `runs/` and `derived/` had last changed when the last writer closed the store. Without other
//!   times since then nobody wrote, and the rows are right without a look at the files;
//! * whether writers are at work that keep both in step. As long as one of them is, another can join.

use crate::codec;
use crate::error::Result;
use crate::json::{self, Object, Text, Value};
use crate::layout::{self, StorePath, Top};
use crate::ports::{Identity, Kind};
use crate::scope::Scope;
use crate::tree::Tree;

/// The most bytes of the file that are read.
const MAX_STATE: u64 = 64 * 1024;

/// The version of the file.
const VERSION: i64 = 1;

/// How old a directory's time must be, in nanoseconds, for a later change to have another one on a file
/// system with a coarse clock.
const TICKS: u64 = 50_000_000;

/// When `runs/` and `derived/` last changed, as far as their times tell: for each the time of its content and
/// that of anything. A missing directory has none.
pub(crate) type Stamps = [Option<(u64, u64)>; 2];

/// The directories whose names tell which runs there are, and which derived metrics.
const WATCHED: [Top; 2] = [Top::Runs, Top::Derived];

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct State {
    /// The database.
    pub(crate) database: String,
    /// The directory, as the database knows it.
    pub(crate) scope: String,
    /// What the database has to say too; empty if the directory was never compared with it.
    pub(crate) mark: String,
    /// Where the directory was when this was written.
    pub(crate) place: Place,
    /// When the directories had changed when nobody wrote any more; none if that is not known.
    pub(crate) stamps: Option<Stamps>,
    /// Whether writers are at work that keep the database in step: true for as long as one of them lives.
    pub(crate) live: bool,
}

/// Where a directory is: enough to tell a copy of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// The machine.
    pub(crate) machine: String,
    /// The directory's own number on its file system if the store was opened on it, else that of the
    /// collection that it was seen in.
    pub(crate) inode: u64,
    /// Its name outside.
    pub(crate) directory: String,
    /// Whether the number is the collection's.
    pub(crate) within: bool,
}

impl Place {
    pub(crate) fn of(scope: &Scope) -> Self {
        let Identity { machine, inode, .. } = scope.ports.roots.identity();
        Self {
            machine,
            inode,
            directory: scope.outside.clone(),
            within: !scope.tree.is_whole(),
        }
    }

    /// Says whether a directory that was there can be the one that is here now: moved, or seen from another
    /// machine of a cluster, but not copied.
    pub(crate) fn can_be(&self, here: &Self) -> bool {
        let same_name = self.machine == here.machine && self.directory == here.directory;
        match self.within == here.within {
            // On another machine a fresh file system may give a copy the same number: then the name decides.
            true => {
                self.inode == here.inode
                    && (self.machine == here.machine || self.directory == here.directory)
            }
            // Once it was opened itself, once seen in its collection.
            false => same_name,
        }
    }
}

impl State {
    /// Reads the file. What is not whole counts as missing.
    pub(crate) fn read(tree: &Tree) -> Option<(Vec<u8>, Self)> {
        let content = tree.read(&layout::database_state(), MAX_STATE).ok()??;
        let state = Self::parse(&content)?;
        Some((content, state))
    }

    /// Says whether the database was in step with a directory when this was written, and nobody else can have
    /// written since; and when the directories had changed, if nobody at all has. Writers that were killed are
    /// recovered before this is asked.
    pub(crate) fn stands(&self, scope: &Scope) -> Result<Option<Option<Stamps>>> {
        if self.mark.is_empty() || !self.place.can_be(&Place::of(scope)) {
            return Ok(None);
        }
        if self.stamps.is_some() && self.stamps == Some(stamps(&scope.tree)?) {
            return Ok(Some(self.stamps));
        }
        let joined = self.live && has_other_writers(scope)?;
        Ok(joined.then_some(None))
    }

    fn parse(content: &[u8]) -> Option<Self> {
        let value = json::parse(content).ok()?;
        let object = value.as_object()?;
        if !matches!(object.get("version"), Some(Value::Int(VERSION))) {
            return None;
        }
        let text = |name: &str| object.get(name).and_then(Value::as_str).map(str::to_owned);
        let stamps = match object.get("stamps") {
            Some(Value::Array(stamps)) => {
                let mut found = Stamps::default();
                for (found, stamp) in found.iter_mut().zip(stamps) {
                    *found = match stamp {
                        Value::Null => None,
                        Value::Array(times) => match times.as_slice() {
                            [Value::Int(modified), Value::Int(changed)] => Some((
                                u64::try_from(*modified).ok()?,
                                u64::try_from(*changed).ok()?,
                            )),
                            _ => return None,
                        },
                        _ => return None,
                    };
                }
                (stamps.len() == found.len()).then_some(found)
            }
            _ => None,
        };
        Some(Self {
            database: text("database")?,
            scope: text("scope").filter(|scope| is_id(scope))?,
            mark: text("mark")?,
            place: Place {
                machine: text("machine")?,
                inode: text("inode")?.parse().ok()?,
                directory: text("directory")?,
                within: matches!(object.get("within"), Some(Value::Bool(true))),
            },
            stamps,
            live: matches!(object.get("live"), Some(Value::Bool(true))),
        })
    }

    fn print(&self) -> String {
        let text = |text: &str| Value::String(Text::from(text.to_owned()));
        let time = |time: u64| Value::Int(i64::try_from(time).unwrap_or(i64::MAX));
        let mut object = Object::new();
        object.insert("version", Value::Int(VERSION));
        object.insert("database", text(&self.database));
        object.insert("scope", text(&self.scope));
        object.insert("mark", text(&self.mark));
        object.insert("machine", text(&self.place.machine));
        object.insert("inode", text(&self.place.inode.to_string()));
        object.insert("directory", text(&self.place.directory));
        object.insert("within", Value::Bool(self.place.within));
        object.insert("live", Value::Bool(self.live));
        let stamps = self.stamps.map(|stamps| {
            let stamp = |stamp: Option<(u64, u64)>| match stamp {
                None => Value::Null,
                Some((modified, changed)) => Value::Array(vec![time(modified), time(changed)]),
            };
            Value::Array(stamps.into_iter().map(stamp).collect())
        });
        object.insert("stamps", stamps.unwrap_or(Value::Null));
        codec::print(&Value::Object(object))
    }

    /// Writes the file, and returns its content. It is not synced: what a power cut leaves of it is told
    /// from a whole one.
    pub(crate) fn write(&self, scope: &Scope) -> Result<Vec<u8>> {
        let content = self.print().into_bytes();
        let path = layout::database_state();
        let stage = scope.stage(&path);
        let written = scope
            .write_stage(&stage, &content, false)
            .and_then(|()| scope.tree.rename(&stage, &path));
        if written.is_err() {
            // The error of the write is what counts.
            drop(scope.tree.remove(&stage));
        }
        written.map(|()| content)
    }
}

/// Says whether a writer other than this store is registered in the journal: one that works, or one that was
/// killed.
pub(crate) fn has_other_writers(scope: &Scope) -> Result<bool> {
    let own = match scope.tree.is_whole() {
        true => scope.writer_number(),
        false => None,
    };
    let index = scope.tree.list(&layout::directory(Top::Index))?;
    let writer = |name: &str| layout::segment_lock_of(name).or_else(|| layout::segment_of(name));
    Ok(index
        .iter()
        .filter(|entry| entry.kind == Kind::File)
        .filter_map(|entry| writer(&entry.name))
        .any(|number| Some(number) != own))
}

/// Says whether a text is an id as this module gives them.
fn is_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Says when `runs/` and `derived/` last changed.
pub(crate) fn stamps(tree: &Tree) -> Result<Stamps> {
    let mut stamps = Stamps::default();
    for (stamp, top) in stamps.iter_mut().zip(WATCHED) {
        let stat = tree.stat(&layout::directory(top))?;
        *stamp = stat.map(|stat| (stat.modified, stat.changed));
    }
    Ok(stamps)
}

/// Says whether a change that comes now might get the same time.
pub(crate) fn is_young(time: u64, now: u64) -> bool {
    time.saturating_add(TICKS) >= now
}

/// Says when the directories last changed, so that every later change gives them another time; none if that
/// cannot be had. Whoever calls it knows that nobody else changes them now.
///
/// A time so young that a later change might get the same one is set back by a little: no clock of a file
/// system gives that time any more.
pub(crate) fn settled_stamps(scope: &Scope) -> Result<Option<Stamps>> {
    let now = scope.ports.clock.now();
    for (stamp, top) in stamps(&scope.tree)?.into_iter().zip(WATCHED) {
        let Some((modified, _)) = stamp else {
            continue;
        };
        if is_young(modified, now) {
            let path: StorePath = layout::directory(top);
            if !scope
                .tree
                .set_modified(&path, now.saturating_sub(2 * TICKS))
            {
                return Ok(None);
            }
        }
    }
    Ok(Some(stamps(&scope.tree)?))
}
