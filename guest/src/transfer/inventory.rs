//! What is in a store's directory, and what belongs to what.
//!
//! It lists and stats, and opens nothing. Transfer, `verify` and `gc` all go by it, so that what is copied, what
//! is checked and what is left over never differ.

use crate::error::{Error, Result};
use crate::layout::{self, StorePath, Top};
use crate::logs_naming::{self, RunLookup};
use crate::names::RunId;
use crate::ports::{Directory, Entry, Kind, Stat};
use crate::scope::Scope;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// How deep directories within a run's directory are looked at: as deep as a path of the format may be.
const DEPTH: usize = 14;

/// Which files a run has, as far as the listings of the top directories tell.
#[derive(Clone, Debug, Default)]
pub(crate) struct Belongings {
    record: bool,
    done: bool,
    derived: bool,
    artifacts: bool,
    results: bool,
    nested_logs: bool,
    /// The names of its files directly in `logs/`.
    logs: Vec<String>,
}

impl Belongings {
    /// Says whether there is anything.
    pub(crate) fn has_any(&self) -> bool {
        self.record
            || self.done
            || self.derived
            || self.artifacts
            || self.results
            || self.nested_logs
            || !self.logs.is_empty()
    }

    /// Looks again at which of these a run has, but for the logs that were assigned to it.
    pub(crate) fn again(&self, scope: &Scope, run: &RunId) -> Result<Self> {
        let is = |path: StorePath, kind: Kind| -> Result<bool> {
            Ok(scope
                .tree
                .stat(&path)?
                .is_some_and(|stat| stat.kind == kind))
        };
        Ok(Self {
            record: is(layout::run_record(run), Kind::File)?,
            done: is(layout::done_marker(run), Kind::File)?,
            derived: is(layout::derived(run), Kind::File)?,
            artifacts: is(layout::artifact_directory(run), Kind::Directory)?,
            results: is(layout::result_directory(run), Kind::Directory)?,
            nested_logs: is(layout::log_directory(run), Kind::Directory)?,
            logs: self.logs.clone(),
        })
    }

    /// Returns the same with everything that a run can have: some of it may have come since the directories were listed.
    /// The logs are those that were there then.
    pub(crate) fn at_most(&self) -> Self {
        Self {
            record: true,
            done: true,
            derived: true,
            artifacts: true,
            results: true,
            nested_logs: true,
            logs: self.logs.clone(),
        }
    }
}

/// Which kinds of files are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kinds {
    pub(crate) artifacts: bool,
    pub(crate) derived: bool,
    pub(crate) results: bool,
    pub(crate) logs: bool,
}

/// Something that is no file of the format, where one was looked for.
#[derive(Clone, Debug)]
pub(crate) struct Stray {
    pub(crate) path: StorePath,
    pub(crate) reason: String,
    pub(crate) place: Place,
}

/// In whose place it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The format knows no such name.
    Unknown,
    /// Something of a run.
    Run(RunId),
    /// A file of no run, or one of the run that is looked at.
    File,
    /// A directory. What is in it is not known.
    Directory,
}

/// What is in a store's directory.
#[derive(Default)]
pub(crate) struct Inventory {
    /// The runs with anything of theirs.
    pub(crate) runs: BTreeMap<RunId, Belongings>,
    /// Files of the format that belong to no run: manifests, those of runners in the store's directory, and logs that
    /// nobody can be told to own. Sorted.
    pub(crate) others: Vec<StorePath>,
    /// Files that a writer left half written.
    pub(crate) stages: Vec<StorePath>,
    /// Links, devices, and files that the format does not know.
    pub(crate) strays: Vec<Stray>,
    /// The runs that have the file of a lock, sorted.
    pub(crate) lock_files: Vec<RunId>,
    /// The directories that could not be listed; each is a stray too.
    pub(crate) unlisted: Vec<Top>,
}

/// The files of a run.
#[derive(Default)]
pub(crate) struct Files {
    /// The regular files with what is known of each, in the order of their paths.
    pub(crate) files: Vec<(StorePath, Stat)>,
    /// The directory of its artifacts, if it was opened.
    pub(crate) artifacts: Option<Rc<dyn Directory>>,
    /// Files that a writer left half written.
    pub(crate) stages: Vec<StorePath>,
    /// What is no regular file, and why it is not looked at.
    pub(crate) faults: Vec<Stray>,
}

/// The runs of an inventory, as the rules of logs ask for them.
struct Lookup<'i> {
    runs: &'i BTreeMap<RunId, Belongings>,
    locked: &'i BTreeSet<RunId>,
}

impl RunLookup for Lookup<'_> {
    fn exists(&mut self, run: &RunId) -> bool {
        self.runs.contains_key(run) || self.locked.contains(run)
    }

    fn unique_with_prefix(&mut self, prefix8: &str) -> Option<RunId> {
        let start = RunId::parse(prefix8).ok()?;
        let mut matching = self
            .runs
            .range(start..)
            .take_while(|(run, _)| run.as_str().starts_with(prefix8))
            .filter(|(run, belongings)| belongings.record && run.prefix8() == Some(prefix8));
        let (first, _) = matching.next()?;
        matching.next().is_none().then(|| first.clone())
    }
}

const NO_SUCH_FILE: &str = "the format has no such file";
const NO_DIRECTORY: &str = "it is a file in the place of a directory";

/// Tells in whose place something is that is no regular file.
fn place_of(top: Top, name: &str) -> Place {
    let run = match top {
        Top::Runs => layout::run_id_of_record(name).or_else(|| layout::run_id_of_done_marker(name)),
        Top::Derived => layout::run_id_of_record(name),
        Top::Logs if name.ends_with(".log") => return Place::File,
        Top::Artifacts | Top::Results | Top::Logs => layout::run_id_of_directory(name),
        Top::Experiments if name.ends_with(".json") => return Place::File,
        _ => None,
    };
    run.map_or(Place::Unknown, Place::Run)
}

fn unknown_name(directory: &StorePath, name: &str) -> Stray {
    Stray {
        path: directory.clone(),
        reason: format!("{name:?} is a name that no file of the format has"),
        place: Place::Unknown,
    }
}

/// Says why something is not a regular file.
fn not_regular(kind: Kind) -> &'static str {
    match kind {
        Kind::Link => "it is a symbolic link; links are not followed",
        Kind::Directory => "it is a directory in the place of a file",
        Kind::File | Kind::Other => "it is neither a file nor a directory; it is not opened",
    }
}

impl Inventory {
    /// Looks at the directories of a store. One that cannot be listed is a stray, and hides no other.
    pub(crate) fn take(scope: &Scope) -> Result<Self> {
        let mut found = Self::default();
        let mut logs = Vec::new();
        let mut locked = BTreeSet::new();
        let mut instead = Vec::new();
        for top in Top::ALL_CREATED {
            let directory = layout::directory(top);
            for entry in found.list(scope, top, &directory)? {
                let Ok(path) = directory.child(&entry.name) else {
                    // On this system a name may hold what separates names on another.
                    found.strays.push(unknown_name(&directory, &entry.name));
                    continue;
                };
                if layout::is_stage_name(&entry.name) && entry.kind == Kind::File {
                    found.stages.push(path);
                    continue;
                }
                let run = match (top, entry.kind) {
                    (_, Kind::Link | Kind::Other)
                    | (Top::Runs | Top::Derived | Top::Experiments, Kind::Directory) => {
                        let place = place_of(top, &entry.name);
                        found.stray(path, not_regular(entry.kind), place);
                        continue;
                    }
                    (Top::Runs, Kind::File) => layout::run_id_of_record(&entry.name)
                        .or_else(|| layout::run_id_of_done_marker(&entry.name)),
                    (Top::Derived, Kind::File) => layout::run_id_of_record(&entry.name),
                    (Top::Artifacts | Top::Results | Top::Logs, Kind::Directory) => {
                        layout::run_id_of_directory(&entry.name)
                    }
                    (Top::Logs, Kind::File) => {
                        logs.push(entry.name);
                        continue;
                    }
                    // Whether it is in the place of a run's directory is known when all runs are.
                    (Top::Artifacts | Top::Results, Kind::File) => {
                        instead.push(path);
                        continue;
                    }
                    (Top::Experiments, Kind::File) if entry.name.ends_with(".json") => {
                        found.others.push(path);
                        continue;
                    }
                    (Top::Locks, Kind::File) => {
                        if let Some(run) = layout::run_id_of_lock(&entry.name) {
                            locked.insert(run);
                        }
                        continue;
                    }
                    _ => None,
                };
                let Some(run) = run else {
                    found.stray(path, NO_SUCH_FILE, Place::Unknown);
                    continue;
                };
                let belongings = found.runs.entry(run).or_default();
                match top {
                    Top::Runs if entry.name.ends_with(".json") => belongings.record = true,
                    Top::Runs => belongings.done = true,
                    Top::Derived => belongings.derived = true,
                    Top::Artifacts => belongings.artifacts = true,
                    Top::Results => belongings.results = true,
                    _ => belongings.nested_logs = true,
                }
            }
        }
        let root = layout::directory(Top::Root);
        for entry in found.list(scope, Top::Root, &root)? {
            match (layout::root_file(&entry.name), entry.kind) {
                (None, _) => {}
                (Some(path), Kind::File) => found.others.push(path),
                (Some(path), kind) => found.stray(path, not_regular(kind), Place::File),
            }
        }
        found.assign_logs(logs, &mut instead, &locked)?;
        for path in instead {
            let run = layout::run_id_of_directory(path.file_name());
            match run.filter(|run| found.runs.contains_key(run)) {
                Some(run) => found.stray(path, NO_DIRECTORY, Place::Run(run)),
                None => found.stray(path, NO_SUCH_FILE, Place::Unknown),
            }
        }
        found.lock_files = locked.into_iter().collect();
        found.others.sort_unstable_by_key(StorePath::to_string);
        Ok(found)
    }

    fn list(&mut self, scope: &Scope, top: Top, directory: &StorePath) -> Result<Vec<Entry>> {
        match scope.tree.list(directory) {
            Ok(entries) => Ok(entries),
            Err(error) => {
                self.stray(directory.clone(), &reason(error)?, Place::Directory);
                self.unlisted.push(top);
                Ok(Vec::new())
            }
        }
    }

    fn stray(&mut self, path: StorePath, reason: &str, place: Place) {
        self.strays.push(Stray {
            path,
            reason: reason.to_owned(),
            place,
        });
    }

    /// Finds out whose the files directly in `logs/` are.
    fn assign_logs(
        &mut self,
        mut logs: Vec<String>,
        instead: &mut Vec<StorePath>,
        locked: &BTreeSet<RunId>,
    ) -> Result<()> {
        logs.sort_unstable();
        let directory = layout::directory(Top::Logs);
        let mut owned = Vec::new();
        for name in logs {
            let mut lookup = Lookup {
                runs: &self.runs,
                locked,
            };
            match logs_naming::owner(&name, &mut lookup) {
                Some((run, _, _)) => owned.push((run, name)),
                None if name.ends_with(".log") => self.others.push(directory.child(&name)?),
                None => instead.push(directory.child(&name)?),
            }
        }
        for (run, name) in owned {
            self.runs.entry(run).or_default().logs.push(name);
        }
        Ok(())
    }
}

/// Directories that hold something of each run, opened once: a name is found faster than a path.
#[derive(Default)]
pub(crate) struct Directories {
    runs: Option<Rc<dyn Directory>>,
    derived: Option<Rc<dyn Directory>>,
    logs: Option<Rc<dyn Directory>>,
    artifacts: Option<Rc<dyn Directory>>,
}

impl Directories {
    /// Opens those that can be opened. What is wrong with another is told where its path is used.
    pub(crate) fn open(scope: &Scope) -> Self {
        let open = |top| scope.tree.handle(&layout::directory(top)).ok().flatten();
        Self {
            runs: open(Top::Runs),
            derived: open(Top::Derived),
            logs: open(Top::Logs),
            artifacts: open(Top::Artifacts),
        }
    }

    /// Returns the one that a path is directly in.
    pub(crate) fn of(&self, path: &StorePath) -> Option<&dyn Directory> {
        if path.rest().contains('/') {
            return None;
        }
        match path.top() {
            Top::Runs => self.runs.as_deref(),
            Top::Derived => self.derived.as_deref(),
            Top::Logs => self.logs.as_deref(),
            Top::Artifacts => self.artifacts.as_deref(),
            _ => None,
        }
    }
}

/// Lists the files of a run. What vanished meanwhile is left out.
pub(crate) fn files_of(
    scope: &Scope,
    run: &RunId,
    belongings: &Belongings,
    kinds: Kinds,
) -> Result<Files> {
    files_in(scope, &Directories::default(), run, belongings, kinds)
}

/// Does the same in directories that were opened before.
pub(crate) fn files_in(
    scope: &Scope,
    directories: &Directories,
    run: &RunId,
    belongings: &Belongings,
    kinds: Kinds,
) -> Result<Files> {
    let mut found = Files::default();
    if kinds.artifacts && belongings.artifacts {
        let path = layout::artifact_directory(run);
        // What is wrong with one that cannot be opened is told where it is listed by its path.
        found.artifacts = directories
            .of(&path)
            .and_then(|artifacts| artifacts.open_directory(path.file_name()).ok());
        let opened = found.artifacts.clone();
        collect(scope, opened.as_deref(), &path, 0, &mut found)?;
    }
    let look_at = |scope: &Scope, path: StorePath, found: &mut Files| {
        look_in(scope, directories.of(&path), path, found)
    };
    if kinds.derived && belongings.derived {
        look_at(scope, layout::derived(run), &mut found)?;
    }
    if kinds.logs {
        let logs = layout::directory(Top::Logs);
        for name in &belongings.logs {
            look_at(scope, logs.child(name)?, &mut found)?;
        }
        if belongings.nested_logs {
            collect(scope, None, &layout::log_directory(run), 0, &mut found)?;
        }
    }
    if kinds.results && belongings.results {
        collect(scope, None, &layout::result_directory(run), 0, &mut found)?;
    }
    if belongings.done {
        look_at(scope, layout::done_marker(run), &mut found)?;
    }
    if belongings.record {
        look_at(scope, layout::run_record(run), &mut found)?;
    }
    found.files.sort_by_cached_key(|(path, _)| path.to_string());
    Ok(found)
}

fn look_in(
    scope: &Scope,
    directory: Option<&dyn Directory>,
    path: StorePath,
    found: &mut Files,
) -> Result<()> {
    match scope.tree.stat_in(directory, &path) {
        Ok(None) => {}
        Ok(Some(stat)) if stat.kind == Kind::File => found.files.push((path, stat)),
        Ok(Some(stat)) => found.faults.push(Stray {
            path,
            reason: not_regular(stat.kind).to_owned(),
            place: Place::File,
        }),
        Err(error) => found.faults.push(Stray {
            path,
            reason: reason(error)?,
            place: Place::File,
        }),
    }
    Ok(())
}

fn collect(
    scope: &Scope,
    opened: Option<&dyn Directory>,
    directory: &StorePath,
    depth: usize,
    found: &mut Files,
) -> Result<()> {
    let entries = match scope.tree.list_in(opened, directory) {
        Ok(entries) => entries,
        Err(error) => {
            found.faults.push(Stray {
                path: directory.clone(),
                reason: reason(error)?,
                place: Place::Directory,
            });
            return Ok(());
        }
    };
    for entry in entries {
        let Ok(path) = directory.child(&entry.name) else {
            found.faults.push(unknown_name(directory, &entry.name));
            continue;
        };
        match entry.kind {
            Kind::File if layout::is_stage_name(&entry.name) => found.stages.push(path),
            Kind::File => look_in(scope, opened, path, found)?,
            // The reference makes directories here for artifact names with a slash.
            Kind::Directory if depth < DEPTH => collect(scope, None, &path, depth + 1, found)?,
            kind => found.faults.push(Stray {
                path,
                reason: not_regular(kind).to_owned(),
                place: Place::File,
            }),
        }
    }
    Ok(())
}

/// Turns an error about one file into a reason, so that the others are still looked at.
pub(crate) fn reason(error: Error) -> Result<String> {
    match error {
        Error::Corrupt { message, .. }
        | Error::Io { message, .. }
        | Error::TooLarge(message)
        | Error::AlreadyExists(message)
        | Error::InvalidName { message, .. } => Ok(message),
        other => Err(other),
    }
}
