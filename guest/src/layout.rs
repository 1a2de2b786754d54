//! Where everything lies in a store: the only module that builds paths.
//!
//! A [`StorePath`] has a private text and is made here alone, out of parsed names ([`crate::names`]). So a
//! path that leaves the store, or that means two things, cannot be written down. It is a lexical promise:
//! what links do on the disk is the business of the directory handle that the path is given to.
//!
//! ```
//! use metalab_store_guest::layout;
//! use metalab_store_guest::names::{ArtifactFormat, ArtifactName, RunId};
//!
//! let run = RunId::parse("ab715c67c9710b4f")?;
//! assert_eq!(layout::run_record(&run).to_string(), "runs/ab715c67c9710b4f.json");
//!
//! let weights = layout::artifact(&run, &ArtifactName::parse("weights")?, &ArtifactFormat::parse("npz")?)?;
//! assert_eq!(weights.to_string(), "artifacts/ab715c67c9710b4f/weights.npz");
//! assert_eq!(weights.stage(0x1f2e_3d4c).to_string(), "artifacts/ab715c67c9710b4f/weights.tmp.1f2e3d4c");
//! # Ok::<(), metalab_store_guest::names::NameError>(())
//! ```
//!
//! A constructor that returns a path without a `Result` cannot collide with another and always fits, its
//! stage file included: that is why names end at [`NAME_LIMIT`] bytes. The others
//! say what they refuse.

use std::fmt;

use crate::names::{
    ArtifactFormat, ArtifactName, ExperimentId, FILE_LIMIT, LogName, ManifestStamp, NAME_LIMIT,
    NameError, NameKind, NameReason, ResultName, RunId, is_default_stamp, is_lower_hex, refusal,
    suffix_start,
};

/// The file that lists the artifacts of a run.
const MANIFEST: &str = "_manifest.json";

/// The file that says whose a store is.
const META: &str = "_meta.json";

/// The directory in a collection that holds files about services, next to the experiments.
const SERVICES: &str = "services";

/// The directory for what a repair replaced.
const QUARANTINE: &str = ".quarantine";

/// The directory under `.index/` for what is not yet in its place.
const STAGING: &str = "staging";

/// What a stage file's name has before its 8 digits.
const STAGE_MARK: &str = ".tmp.";

/// A directory at the top of a store, or the store's own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Top {
    /// The directory of the store itself.
    Root,
    /// Run records.
    Runs,
    /// Derived metrics.
    Derived,
    /// Artifacts, one directory a run.
    Artifacts,
    /// Logs, flat or one directory a run.
    Logs,
    /// Structured results, one directory a run.
    Results,
    /// Experiment manifests.
    Experiments,
    /// Lock files.
    Locks,
    /// The journal and the caches.
    Index,
}

impl Top {
    /// The directories that a store has from its first opening on.
    pub const ALL_CREATED: [Self; 7] = [
        Self::Runs,
        Self::Derived,
        Self::Artifacts,
        Self::Logs,
        Self::Results,
        Self::Experiments,
        Self::Locks,
    ];

    /// Returns the name of the directory; empty for the root.
    pub fn name(self) -> &'static str {
        match self {
            Self::Root => "",
            Self::Runs => "runs",
            Self::Derived => "derived",
            Self::Artifacts => "artifacts",
            Self::Logs => "logs",
            Self::Results => "results",
            Self::Experiments => "experiments",
            Self::Locks => ".locks",
            Self::Index => ".index",
        }
    }
}

/// A relative path inside a store.
///
/// Invariants:
/// * no component is empty, `.` or `..`, and none holds `/`, `\` or NUL; so it never leaves the store;
/// * it has at most three components, or as many more as [`StorePath::child`] was called;
/// * each component has at most 255 bytes.
///
/// Its text has `/` between components on every system; the root's is `.`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StorePath {
    top: Top,
    rest: String,
}

impl StorePath {
    /// Returns the top directory that the path is in.
    pub fn top(&self) -> Top {
        self.top
    }

    /// Returns the path relative to its top directory; empty for the top directory itself.
    pub fn rest(&self) -> &str {
        &self.rest
    }

    /// Returns the last component; empty for the root.
    pub fn file_name(&self) -> &str {
        if self.rest.is_empty() {
            return self.top.name();
        }
        self.rest
            .rsplit_once('/')
            .map_or(self.rest.as_str(), |(_, name)| name)
    }

    /// Returns the directory that the path is in; nothing for the root.
    ///
    /// ```
    /// use metalab_store_guest::layout::{self, Top};
    /// use metalab_store_guest::names::RunId;
    ///
    /// let manifest = layout::artifact_manifest(&RunId::parse("r")?);
    /// let directory = manifest.parent().unwrap();
    /// assert_eq!(directory.to_string(), "artifacts/r");
    /// assert_eq!(directory.parent(), Some(layout::directory(Top::Artifacts)));
    /// assert_eq!(layout::directory(Top::Artifacts).parent(), Some(layout::directory(Top::Root)));
    /// assert_eq!(layout::directory(Top::Root).parent(), None);
    /// # Ok::<(), metalab_store_guest::names::NameError>(())
    /// ```
    pub fn parent(&self) -> Option<Self> {
        match self.rest.rsplit_once('/') {
            Some((directory, _)) => Some(Self {
                top: self.top,
                rest: directory.to_owned(),
            }),
            None if !self.rest.is_empty() => Some(directory(self.top)),
            None if self.top != Top::Root => Some(directory(Top::Root)),
            None => None,
        }
    }

    /// Returns the sibling under which the file is written before it is renamed into its place.
    ///
    /// The last suffix is replaced by `.tmp.` and 8 hexadecimal digits, or they are appended if there is
    /// none: the reference's way, so that its tools know such a file too. Files that differ in their suffix
    /// alone share it; a token is for one write only.
    ///
    /// ```
    /// use metalab_store_guest::layout;
    /// use metalab_store_guest::names::RunId;
    ///
    /// let stage = layout::run_record(&RunId::parse("run.with.dots")?).stage(0xdead_beef);
    /// assert_eq!(stage.to_string(), "runs/run.with.dots.tmp.deadbeef");
    /// assert!(layout::is_stage_name(stage.file_name()));
    /// # Ok::<(), metalab_store_guest::names::NameError>(())
    /// ```
    pub fn stage(&self, token: u32) -> Self {
        let name = self.file_name();
        let staged = format!("{}{STAGE_MARK}{token:08x}", &name[..suffix_start(name)]);
        match self.rest.rsplit_once('/') {
            Some((directory, _)) => Self {
                top: self.top,
                rest: format!("{directory}/{staged}"),
            },
            None if !self.rest.is_empty() => Self {
                top: self.top,
                rest: staged,
            },
            // The sibling of a top directory lies in the root.
            None => Self {
                top: Top::Root,
                rest: staged,
            },
        }
    }

    /// Tells whether the store itself could have written a file here: no part of the path is hidden or holds a
    /// control character, as no name type allows it.
    ///
    /// ```
    /// use metalab_store_guest::layout::parse;
    ///
    /// assert!(parse("artifacts/r/model.bin").unwrap().is_writable());
    /// assert!(!parse("artifacts/r/.DS_Store").unwrap().is_writable());
    /// assert!(!parse("runs/\u{1b}[2J.json").unwrap().is_writable());
    /// ```
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.rest
            .split('/')
            .all(|part| !part.starts_with('.') && !part.contains(char::is_control))
    }

    /// Returns the path of an entry that was found in this directory, whatever wrote it.
    ///
    /// It serves to walk and to remove what lies there. Nothing of ours is written under such a path: a
    /// foreign name may be hidden, a stage file's or one that no name type would take.
    ///
    /// ```
    /// use metalab_store_guest::layout;
    /// use metalab_store_guest::names::RunId;
    ///
    /// let artifacts = layout::artifact_directory(&RunId::parse("r")?);
    /// assert_eq!(artifacts.child(".DS_Store")?.to_string(), "artifacts/r/.DS_Store");
    /// assert!(artifacts.child("..").is_err());
    /// assert!(artifacts.child("a/b").is_err());
    /// # Ok::<(), metalab_store_guest::names::NameError>(())
    /// ```
    ///
    /// # Errors
    /// [`NameError`] if the entry is empty, `.`, `..`, longer than 255 bytes, or holds `/`, `\` or NUL.
    pub fn child(&self, entry: &str) -> Result<Self, NameError> {
        let reason = if entry.is_empty() {
            Some(NameReason::Empty)
        } else if entry.len() > FILE_LIMIT {
            Some(NameReason::TooLong {
                bytes: entry.len(),
                limit: FILE_LIMIT,
            })
        } else if matches!(entry, "." | "..") {
            Some(NameReason::LeadingDot)
        } else {
            entry.chars().find_map(|character| match character {
                '/' | '\\' => Some(NameReason::Separator(character)),
                '\0' => Some(NameReason::Control(character)),
                _ => None,
            })
        };
        match reason {
            Some(reason) => Err(NameError::new(NameKind::Entry, entry, reason)),
            None if self.rest.is_empty() => Ok(Self {
                top: self.top,
                rest: entry.to_owned(),
            }),
            None => Ok(Self {
                top: self.top,
                rest: format!("{}/{entry}", self.rest),
            }),
        }
    }
}

impl fmt::Display for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.top.name(), self.rest.as_str()) {
            ("", "") => f.write_str("."),
            ("", rest) => f.write_str(rest),
            (top, "") => f.write_str(top),
            (top, rest) => write!(f, "{top}/{rest}"),
        }
    }
}

/// Tells whether a file name is that of a stage file: it ends in `.tmp.` and 8 lowercase hexadecimal digits.
///
/// ```
/// use metalab_store_guest::layout::is_stage_name;
///
/// assert!(is_stage_name("leaked.tmp.deadbeef"));
/// assert!(!is_stage_name("leaked.tmp.deadbeef.json"));
/// assert!(!is_stage_name("leaked.tmp.dead"));
/// ```
pub fn is_stage_name(file_name: &str) -> bool {
    let bytes = file_name.as_bytes();
    bytes
        .split_last_chunk::<8>()
        .is_some_and(|(before, digits)| {
            is_lower_hex(digits, 8)
                && before.len() > STAGE_MARK.len()
                && before.ends_with(STAGE_MARK.as_bytes())
        })
}

/// Returns a path of one component under `top`. The caller has made sure of it.
fn single(top: Top, file_name: String) -> StorePath {
    StorePath {
        top,
        rest: file_name,
    }
}

/// Returns a path of two components under `top`. The caller has made sure of both.
fn within(top: Top, directory: &str, file_name: &str) -> StorePath {
    StorePath {
        top,
        rest: format!("{directory}/{file_name}"),
    }
}

/// Checks that a file called so can be staged and is not taken for a stage file.
fn writable(kind: NameKind, file_name: &str) -> Result<(), NameError> {
    let staged = suffix_start(file_name) + STAGE_MARK.len() + 8;
    let bytes = file_name.len().max(staged);
    if bytes > FILE_LIMIT {
        return Err(NameError::new(
            kind,
            file_name,
            NameReason::FileTooLong { bytes },
        ));
    }
    if is_stage_name(file_name) {
        return Err(NameError::new(kind, file_name, NameReason::StageFile));
    }
    Ok(())
}

/// Returns the path of a top directory; the root's own for [`Top::Root`].
pub fn directory(top: Top) -> StorePath {
    single(top, String::new())
}

/// Returns the path of `_meta.json`, which says whose a store is.
pub fn meta() -> StorePath {
    single(Top::Root, META.to_owned())
}

/// Returns the path of the file in which a service of a collection keeps its address and credentials.
pub fn postgres_service() -> StorePath {
    single(Top::Root, format!("{SERVICES}/postgres/service.json"))
}

/// Returns the path of an experiment's directory, seen from the collection that it lies in.
///
/// ```
/// use metalab_store_guest::layout;
/// use metalab_store_guest::names::ExperimentId;
///
/// let experiment = ExperimentId::parse("curve_fit:1.0")?;
/// assert_eq!(layout::experiment_directory(&experiment)?.to_string(), "curve_fit_1.0");
/// assert!(layout::experiment_directory(&ExperimentId::parse("runs")?).is_err());
/// # Ok::<(), metalab_store_guest::names::NameError>(())
/// ```
///
/// # Errors
/// [`NameReason::Reserved`] if a collection uses the name itself (`runs`, `services`, `_meta.json` and so
/// on): the files of the two stores would mix. [`NameReason::StageFile`] if it is a stage file's.
pub fn experiment_directory(experiment: &ExperimentId) -> Result<StorePath, NameError> {
    let name = experiment.directory_name();
    let taken =
        name == META || name == SERVICES || Top::ALL_CREATED.iter().any(|top| top.name() == name);
    let reason = if taken {
        Some(NameReason::Reserved)
    } else {
        is_stage_name(&name).then_some(NameReason::StageFile)
    };
    match reason {
        Some(reason) => Err(NameError::new(
            NameKind::ExperimentId,
            experiment.as_str(),
            reason,
        )),
        None => Ok(single(Top::Root, name)),
    }
}

/// Returns the path of a run record.
pub fn run_record(run: &RunId) -> StorePath {
    single(Top::Runs, [run.as_str(), ".json"].concat())
}

/// Returns the path of the marker by which a cluster job says that the run has ended.
pub fn done_marker(run: &RunId) -> StorePath {
    single(Top::Runs, format!("{run}.done"))
}

/// Returns the path of a run's derived metrics.
pub fn derived(run: &RunId) -> StorePath {
    single(Top::Derived, [run.as_str(), ".json"].concat())
}

/// Returns the path of the directory of a run's artifacts.
pub fn artifact_directory(run: &RunId) -> StorePath {
    single(Top::Artifacts, run.to_string())
}

/// Returns the path of the file that lists a run's artifacts.
pub fn artifact_manifest(run: &RunId) -> StorePath {
    within(Top::Artifacts, run.as_str(), MANIFEST)
}

/// Returns the path of an artifact's file, `{name}.{format}` or `{name}` if the format is empty.
///
/// Two artifacts can share it where a dot can belong to either part: `a` in the format `tar.gz` and `a.tar`
/// in the format `gz`. The run's manifest tells whose the file is, and the second one is a conflict.
///
/// # Errors
/// [`NameError`] if the file would be taken for the manifest or for a stage file, or if its name, alone or
/// with its stage suffix, has more than 255 bytes.
pub fn artifact(
    run: &RunId,
    name: &ArtifactName,
    format: &ArtifactFormat,
) -> Result<StorePath, NameError> {
    let file_name = format!("{name}{}", format.extension());
    writable(NameKind::ArtifactName, &file_name)?;
    if file_name == MANIFEST {
        return Err(NameError::new(
            NameKind::ArtifactName,
            &file_name,
            NameReason::Reserved,
        ));
    }
    Ok(within(Top::Artifacts, run.as_str(), &file_name))
}

/// Returns the path of an artifact's file by the file name that a `uri` gives.
///
/// The file exists already, so it need not be one that can be staged.
///
/// # Errors
/// [`NameError`] if the name is not a safe file name of at most 255 bytes, or that of the manifest or of a
/// stage file.
pub fn artifact_file(run: &RunId, file_name: &str) -> Result<StorePath, NameError> {
    match artifact_file_refusal(file_name) {
        Some(reason) => Err(NameError::new(NameKind::ArtifactFile, file_name, reason)),
        None => Ok(within(Top::Artifacts, run.as_str(), file_name)),
    }
}

/// Returns why `file_name` cannot be that of an existing artifact.
fn artifact_file_refusal(file_name: &str) -> Option<NameReason> {
    refusal(file_name, FILE_LIMIT)
        .or_else(|| (file_name == MANIFEST).then_some(NameReason::Reserved))
        .or_else(|| is_stage_name(file_name).then_some(NameReason::StageFile))
}

/// Returns the path of the directory of a run's results.
pub fn result_directory(run: &RunId) -> StorePath {
    single(Top::Results, run.to_string())
}

/// Returns the path of a result.
pub fn result(run: &RunId, name: &ResultName) -> StorePath {
    within(Top::Results, run.as_str(), &format!("{name}.json"))
}

/// Returns the path of a log in the flat form, `logs/{run}_{name}.log`.
///
/// Different logs can share it (`a` of run `r_b`, `b_a` of run `r`): [`crate::logs_naming::place`] decides
/// where a log is written, and [`crate::logs_naming::claim`] whose one is that was found.
///
/// # Errors
/// [`NameReason::FileTooLong`] if the name, alone or with its stage suffix, has more than 255 bytes.
pub fn log_flat(run: &RunId, name: &LogName) -> Result<StorePath, NameError> {
    let file_name = format!("{run}_{name}.log");
    writable(NameKind::LogName, &file_name)?;
    Ok(single(Top::Logs, file_name))
}

/// Returns the path of a log in the nested form, `logs/{run}/{name}.txt`.
///
/// The directory can be called like a flat log or its stage file (run `r_a.log`); then nothing may be
/// written under it, which [`crate::logs_naming::place`] sees to.
pub fn log_nested(run: &RunId, name: &LogName) -> StorePath {
    within(Top::Logs, run.as_str(), &format!("{name}.txt"))
}

/// Returns the path of the directory of a run's nested logs.
pub fn log_directory(run: &RunId) -> StorePath {
    single(Top::Logs, run.to_string())
}

/// Returns the path of an experiment manifest, `experiments/{experiment}_{stamp}.json`, with the counter
/// after the stamp if it is not 0.
///
/// Within one experiment, different stamps and counters have different files. Two experiments can share one
/// only if a stamp is not of the default form (`exp` at `2_v1` and `exp_2` at `v1`). A manifest is therefore
/// published create-only, with the next counter if the name is taken, and read as [`manifest_of`] says.
///
/// # Errors
/// [`NameError`] if the file name, alone or with its stage suffix, has more than 255 bytes, or if the
/// counter is above 999,999.
pub fn experiment_manifest(
    experiment: &ExperimentId,
    stamp: &ManifestStamp,
    counter: u32,
) -> Result<StorePath, NameError> {
    let file_name = format!(
        "{}_{}.json",
        experiment.directory_name(),
        stamp.numbered(counter)?
    );
    writable(NameKind::ManifestStamp, &file_name)?;
    Ok(single(Top::Experiments, file_name))
}

/// Returns the path of a run's lock file.
pub fn lock(run: &RunId) -> StorePath {
    single(Top::Locks, format!("{run}.lock"))
}

/// Returns the path of a file under `.index/`, a cache for instance.
///
/// # Errors
/// [`NameError`] if the name is not a safe file name that can be staged, or is that of the staging directory.
pub fn index(name: &str) -> Result<StorePath, NameError> {
    let reason =
        refusal(name, NAME_LIMIT).or_else(|| (name == STAGING).then_some(NameReason::Reserved));
    if let Some(reason) = reason {
        return Err(NameError::new(NameKind::IndexFile, name, reason));
    }
    writable(NameKind::IndexFile, name)?;
    Ok(single(Top::Index, name.to_owned()))
}

/// The file that counts the changes of names in `logs/`.
#[must_use]
pub fn log_changes() -> StorePath {
    single(Top::Index, "log-changes".to_owned())
}

/// The file that says what a database knows of this directory.
#[must_use]
pub fn database_state() -> StorePath {
    single(Top::Index, "database.json".to_owned())
}

/// Returns the path of a note of runs that a database was not told of, `.index/pending-{16 hexadecimal digits}`.
#[must_use]
pub fn pending_note(token: u64) -> StorePath {
    single(Top::Index, format!("pending-{token:016x}"))
}

/// Returns the path of the note that a file under `.index/` is.
#[must_use]
pub fn pending_note_of(file_name: &str) -> Option<StorePath> {
    hex16(file_name.strip_prefix("pending-")?).map(pending_note)
}

/// The file that says which tables the index has, and what of the store's directories they know.
#[must_use]
pub fn index_head() -> StorePath {
    single(Top::Index, "columns".to_owned())
}

/// The file that says what each file was when it was verified last.
#[must_use]
pub fn known_digests() -> StorePath {
    single(Top::Index, "digests".to_owned())
}

/// Returns where a file is kept that a repair replaces: `.quarantine/BATCH/` and its path.
///
/// ```
/// use metalab_store_guest::layout;
/// use metalab_store_guest::names::RunId;
///
/// let record = layout::run_record(&RunId::parse("r")?);
/// let kept = layout::quarantined("20260302_085900", &record)?;
/// assert_eq!(kept.to_string(), ".quarantine/20260302_085900/runs/r.json");
/// # Ok::<(), metalab_store_guest::names::NameError>(())
/// ```
///
/// # Errors
/// [`NameError`] if the batch is no safe file name.
pub fn quarantined(batch: &str, path: &StorePath) -> Result<StorePath, NameError> {
    let mut kept = directory(Top::Root).child(QUARANTINE)?.child(batch)?;
    for component in path.to_string().split('/') {
        kept = kept.child(component)?;
    }
    Ok(kept)
}

/// The file in which writers note which runs they changed.
#[must_use]
pub fn index_changes() -> StorePath {
    single(Top::Index, "changes".to_owned())
}

/// Returns the path of a table of the index, `.index/columns-{16 hexadecimal digits}.tab`.
#[must_use]
pub fn index_table(table: u64) -> StorePath {
    single(Top::Index, format!("columns-{table:016x}.tab"))
}

/// Returns the number of the table of the index that a file under `.index/` is.
///
/// ```
/// use metalab_store_guest::layout;
///
/// assert_eq!(layout::index_table_of(layout::index_table(7).file_name()), Some(7));
/// assert_eq!(layout::index_table_of("columns"), None);
/// ```
pub fn index_table_of(file_name: &str) -> Option<u64> {
    hex16(file_name.strip_prefix("columns-")?.strip_suffix(".tab")?)
}

/// Tells whether a file is a stage file of another one in the same directory.
pub fn is_stage_of(file_name: &str, path: &StorePath) -> bool {
    is_stage_name(file_name)
        && file_name.len() == path.stage(0).file_name().len()
        && file_name.starts_with(path.file_name())
}

/// Returns the path of a journal segment, `.index/journal-{16 hexadecimal digits}.seg`.
pub fn journal_segment(segment: u64) -> StorePath {
    single(Top::Index, format!("journal-{segment:016x}.seg"))
}

/// Returns the path of the directory for what is not yet in its place.
pub fn staging_directory() -> StorePath {
    single(Top::Index, STAGING.to_owned())
}

/// Returns the path of a file in the staging directory.
pub fn staging(token: u64) -> StorePath {
    within(Top::Index, STAGING, &format!("{token:016x}"))
}

/// Reads a path as a journal names a file of the format; nothing for one that no entry may name: outside
/// the format's directories, not safe, or too deep.
///
/// ```
/// use metalab_store_guest::layout::parse;
///
/// assert_eq!(parse("artifacts/r/model.bin").unwrap().to_string(), "artifacts/r/model.bin");
/// for other in ["runs", "runs/", "runs/../_meta.json", "/etc/passwd", ".index/x", ".locks/r.lock", "a/b"] {
///     assert!(parse(other).is_none(), "{other}");
/// }
/// ```
pub fn parse(text: &str) -> Option<StorePath> {
    const DEPTH: usize = 16;
    let (top, rest) = text.split_once('/')?;
    let top = Top::ALL_CREATED
        .into_iter()
        .find(|known| known.name() == top && *known != Top::Locks)?;
    let mut path = directory(top);
    for (depth, component) in rest.split('/').enumerate() {
        if depth == DEPTH {
            return None;
        }
        path = path.child(component).ok()?;
    }
    Some(path)
}

/// Returns the path of a file directly in the store's directory that runners and executors leave there: the manifests of
/// a submission. Nothing for any other name.
///
/// ```
/// use metalab_store_guest::layout;
///
/// assert!(layout::root_file("curve_fit:1.0_context_manifest.json").is_some());
/// assert!(layout::root_file("slurm_array_spec.json").is_some());
/// for other in ["_meta.json", "notes.json", "runs/manifest.json", ".index", "_context_manifest.json"] {
///     assert!(layout::root_file(other).is_none(), "{other}");
/// }
/// ```
pub fn root_file(name: &str) -> Option<StorePath> {
    let known = matches!(
        name,
        "manifest.json" | "slurm_array_spec.json" | "context_spec.json"
    ) || name
        .strip_suffix("_context_manifest.json")
        .is_some_and(|experiment| !experiment.is_empty() && !experiment.starts_with('.'));
    if known {
        directory(Top::Root).child(name).ok()
    } else {
        None
    }
}

/// Reads the path of a file in the staging directory.
pub fn parse_staging(text: &str) -> Option<StorePath> {
    let name = text.strip_prefix(&format!("{}/", staging_directory()))?;
    staging_token_of(name).map(staging)
}

/// Returns the number of the writer that a file in the staging directory belongs to.
pub fn staging_owner(token: u64) -> u64 {
    token >> 32
}

/// Returns the number of the journal segment that a file under `.index/` is.
///
/// ```
/// use metalab_store_guest::layout;
///
/// assert_eq!(layout::segment_of(layout::journal_segment(0xa1).file_name()), Some(0xa1));
/// assert_eq!(layout::segment_of("journal-1.seg"), None);
/// ```
pub fn segment_of(file_name: &str) -> Option<u64> {
    hex16(file_name.strip_prefix("journal-")?.strip_suffix(".seg")?)
}

/// Returns the number of the journal segment whose lock a file under `.index/` is.
pub fn segment_lock_of(file_name: &str) -> Option<u64> {
    hex16(file_name.strip_prefix("journal-")?.strip_suffix(".lock")?)
}

/// Returns the token of a file in the staging directory.
pub fn staging_token_of(file_name: &str) -> Option<u64> {
    hex16(file_name)
}

/// Reads a number of exactly 16 lowercase hexadecimal digits.
fn hex16(text: &str) -> Option<u64> {
    if is_lower_hex(text.as_bytes(), 16) {
        u64::from_str_radix(text, 16).ok()
    } else {
        None
    }
}

/// Returns the run whose record, or whose derived metrics, a file is; nothing for a stage file, another
/// kind of file, or one whose name no run can have.
///
/// ```
/// use metalab_store_guest::layout::run_id_of_record;
///
/// assert_eq!(run_id_of_record("run.with.dots.json").unwrap().as_str(), "run.with.dots");
/// for other in ["ab715c67c9710b4f.done", "leaked.tmp.deadbeef", ".json", ".hidden.json", "x.JSON"] {
///     assert_eq!(run_id_of_record(other), None, "{other}");
/// }
/// ```
pub fn run_id_of_record(file_name: &str) -> Option<RunId> {
    RunId::parse(file_name.strip_suffix(".json")?).ok()
}

/// Returns the run whose end a marker file tells.
pub fn run_id_of_done_marker(file_name: &str) -> Option<RunId> {
    RunId::parse(file_name.strip_suffix(".done")?).ok()
}

/// Returns the run that a lock file is for.
pub fn run_id_of_lock(file_name: &str) -> Option<RunId> {
    RunId::parse(file_name.strip_suffix(".lock")?).ok()
}

/// Returns the run that a directory of artifacts, results or nested logs belongs to.
pub fn run_id_of_directory(name: &str) -> Option<RunId> {
    RunId::parse(name).ok()
}

/// Returns the result that a file in a run's directory of results is.
pub fn result_of(file_name: &str) -> Option<ResultName> {
    ResultName::parse(file_name.strip_suffix(".json")?).ok()
}

/// Returns the log that a file in a run's directory of nested logs is.
pub fn nested_log_of(file_name: &str) -> Option<LogName> {
    LogName::parse(file_name.strip_suffix(".txt")?).ok()
}

/// Returns the timestamp and the counter of a file that can be a manifest of `experiment`.
///
/// Every manifest of the experiment is found, whatever its timestamp. Some others may be found as well:
/// `exp_2_20260302_085900.json` of `exp:2` can also be one of `exp` with a timestamp that somebody chose.
/// The file itself decides: **the `experiment_id` in it must be the one asked for**. If it names none,
/// the file belongs to `experiment` only if the timestamp is of the default form
/// ([`ManifestStamp::is_default_form`]), as it can be for one experiment directory alone.
///
/// The latest manifest is the greatest pair that passes, so a look-up sorts the pairs and reads files from
/// the greatest on until one passes; only foreign files cost a second read.
///
/// ```
/// use metalab_store_guest::layout::manifest_of;
/// use metalab_store_guest::names::ExperimentId;
///
/// let experiment = ExperimentId::parse("curve_fit:1.0")?;
/// let (stamp, counter) = manifest_of("curve_fit_1.0_20260302_085900_000001.json", &experiment).unwrap();
/// assert_eq!((stamp.as_str(), counter), ("20260302_085900", 1));
/// assert_eq!(manifest_of("curve_fit_1.0.json", &experiment), None);
/// assert_eq!(manifest_of("curve_fit_1_20260302_085900.json", &experiment), None);
/// # Ok::<(), metalab_store_guest::names::NameError>(())
/// ```
pub fn manifest_of(file_name: &str, experiment: &ExperimentId) -> Option<(ManifestStamp, u32)> {
    let numbered = file_name
        .strip_suffix(".json")?
        .strip_prefix(&experiment.directory_name())?
        .strip_prefix('_')?;
    ManifestStamp::parse_numbered(numbered).ok()
}

/// Returns the experiment directory, the timestamp and the counter in a manifest's file name, if the
/// timestamp is of the default form. At most one way to read the name has such a timestamp.
///
/// ```
/// use metalab_store_guest::layout::manifest_parts;
///
/// let (directory, stamp, counter) = manifest_parts("exp_2_20260302_085900.json").unwrap();
/// assert_eq!((directory, stamp.as_str(), counter), ("exp_2", "20260302_085900", 0));
/// assert_eq!(manifest_parts("exp_v1.json"), None);
/// ```
pub fn manifest_parts(file_name: &str) -> Option<(&str, ManifestStamp, u32)> {
    let stem = file_name.strip_suffix(".json")?;
    let last = stem.rmatch_indices('_').map(|(at, _)| at);
    // The stamp has one `_` in it and one before it; a counter has one more before it.
    last.skip(1).take(2).find_map(|at| {
        let (stamp, counter) = ManifestStamp::parse_numbered(&stem[at + 1..]).ok()?;
        let directory = &stem[..at];
        (is_default_stamp(stamp.as_str()) && refusal(directory, NAME_LIMIT).is_none())
            .then_some((directory, stamp, counter))
    })
}

/// Returns what counts of an artifact's `uri`: the directory before the tail, the run and the file name.
///
/// Only the tail `artifacts/RUN/FILE` is looked at, so a store that was moved or copied still finds its
/// files. In a store of one experiment the directory before the tail must be called like the store's own;
/// it is absent if the `uri` is that of a path relative to the store (`artifacts/RUN/FILE`,
/// `./artifacts/RUN/FILE`), and empty if the tail is all of an absolute path.
///
/// A leading `file://` is dropped, and nothing is decoded: the reference writes plain paths. `\` separates
/// like `/`, since no name here can hold it and a store may come from Windows. No part of the result can lead
/// out of the run's directory.
///
/// ```
/// use metalab_store_guest::layout::artifact_tail;
///
/// let uri = "/srv/experiments/curve_fit_1.0/artifacts/ab715c67c9710b4f/weights.npz";
/// let (directory, run, file) = artifact_tail(uri).unwrap();
/// assert_eq!((directory, run.as_str(), file), (Some("curve_fit_1.0"), "ab715c67c9710b4f", "weights.npz"));
///
/// for foreign in ["/etc/passwd", "/x/artifacts/../secret", "/x/artifacts/r/..", "/x/artifacts/r/_manifest.json"] {
///     assert_eq!(artifact_tail(foreign), None, "{foreign}");
/// }
/// ```
pub fn artifact_tail(uri: &str) -> Option<(Option<&str>, RunId, &str)> {
    let path = uri.strip_prefix("file://").unwrap_or(uri);
    let mut rest = path;
    let file = last_component(&mut rest)?;
    let run = last_component(&mut rest)?;
    let artifacts = last_component(&mut rest)?;
    if artifacts != Top::Artifacts.name() || artifact_file_refusal(file).is_some() {
        return None;
    }
    let run = RunId::parse(run).ok()?;
    let absolute = path.starts_with(['/', '\\']);
    let directory = loop {
        match last_component(&mut rest) {
            Some(".") => {}
            None if absolute => break Some(""),
            directory => break directory,
        }
    };
    Some((directory, run, file))
}

/// Takes the last component off a path, together with the separators before it; nothing if the path is
/// empty or ends in a separator.
fn last_component<'a>(path: &mut &'a str) -> Option<&'a str> {
    let whole: &'a str = path;
    let start = whole
        .rfind(['/', '\\'])
        .map_or(0, |separator| separator + 1);
    *path = whole[..start].trim_end_matches(['/', '\\']);
    Some(&whole[start..]).filter(|component| !component.is_empty())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use std::collections::HashMap;
    use std::path::{Component, Path};

    use proptest::prelude::*;

    use super::*;
    use crate::logs_naming;
    use crate::names::generate;

    fn run(text: &str) -> RunId {
        RunId::parse(text).unwrap()
    }

    fn artifact_of(name: &str, format: &str) -> Result<String, NameReason> {
        let name = ArtifactName::parse(name).unwrap();
        let format = ArtifactFormat::parse(format).unwrap();
        artifact(&run("r"), &name, &format)
            .map(|path| path.to_string())
            .map_err(|error| error.reason)
    }

    #[test]
    fn paths_are_those_of_the_reference() {
        let id = run("ab715c67c9710b4f");
        let experiment = ExperimentId::parse("curve_fit:1.0").unwrap();
        let stamp = ManifestStamp::parse("20260301_085900").unwrap();
        let log = LogName::parse("stdout").unwrap();
        let paths = [
            meta(),
            run_record(&id),
            done_marker(&id),
            derived(&id),
            artifact_directory(&id),
            artifact_manifest(&id),
            artifact_file(&id, "weights.npz").unwrap(),
            result_directory(&id),
            result(&id, &ResultName::parse("train_loss").unwrap()),
            log_flat(&id, &log).unwrap(),
            log_nested(&id, &log),
            log_directory(&id),
            experiment_manifest(&experiment, &stamp, 0).unwrap(),
            experiment_manifest(&experiment, &stamp, 1).unwrap(),
            lock(&id),
            index("columns").unwrap(),
            journal_segment(0x0123_4567_89ab_cdef),
            staging_directory(),
            staging(1),
            directory(Top::Root),
            directory(Top::Locks),
        ]
        .map(|path| path.to_string());
        assert_eq!(
            paths,
            [
                "_meta.json",
                "runs/ab715c67c9710b4f.json",
                "runs/ab715c67c9710b4f.done",
                "derived/ab715c67c9710b4f.json",
                "artifacts/ab715c67c9710b4f",
                "artifacts/ab715c67c9710b4f/_manifest.json",
                "artifacts/ab715c67c9710b4f/weights.npz",
                "results/ab715c67c9710b4f",
                "results/ab715c67c9710b4f/train_loss.json",
                "logs/ab715c67c9710b4f_stdout.log",
                "logs/ab715c67c9710b4f/stdout.txt",
                "logs/ab715c67c9710b4f",
                "experiments/curve_fit_1.0_20260301_085900.json",
                "experiments/curve_fit_1.0_20260301_085900_000001.json",
                ".locks/ab715c67c9710b4f.lock",
                ".index/columns",
                ".index/journal-0123456789abcdef.seg",
                ".index/staging",
                ".index/staging/0000000000000001",
                ".",
                ".locks",
            ]
        );
        let created = Top::ALL_CREATED.map(Top::name);
        assert_eq!(
            created,
            [
                "runs",
                "derived",
                "artifacts",
                "logs",
                "results",
                "experiments",
                ".locks"
            ]
        );
    }

    #[test]
    fn a_stage_file_replaces_the_last_suffix_as_pathlib_does() {
        let id = run("r");
        for (file, stage) in [
            ("a.json", "a.tmp.1f2e3d4c"),
            ("a.tar.gz", "a.tar.tmp.1f2e3d4c"),
            ("a", "a.tmp.1f2e3d4c"),
            ("a.", "a..tmp.1f2e3d4c"),
            ("a..b", "a..tmp.1f2e3d4c"),
        ] {
            let path = artifact_file(&id, file).unwrap().stage(0x1f2e_3d4c);
            assert_eq!(path.to_string(), format!("artifacts/r/{stage}"));
            assert!(is_stage_name(path.file_name()));
        }
        assert_eq!(meta().stage(1).to_string(), "_meta.tmp.00000001");
        assert_eq!(
            run_record(&run("x")).stage(1).to_string(),
            "runs/x.tmp.00000001"
        );
    }

    #[test]
    fn an_artifact_cannot_take_the_place_of_the_manifest() {
        assert_eq!(artifact_of("_manifest.json", ""), Err(NameReason::Reserved));
        assert_eq!(
            artifact_of("_manifest.json", "gz"),
            Ok("artifacts/r/_manifest.json.gz".to_owned())
        );
        assert_eq!(
            artifact_file(&run("r"), "_manifest.json")
                .unwrap_err()
                .reason,
            NameReason::Reserved
        );
    }

    #[test]
    fn an_artifact_cannot_take_the_place_of_a_stage_file() {
        assert_eq!(artifact_of("a", "tmp.deadbeef"), Err(NameReason::StageFile));
        assert_eq!(artifact_of("a.tmp", "deadbeef"), Err(NameReason::StageFile));
        assert_eq!(
            artifact_of("a.tmp.deadbeef", ""),
            Err(NameReason::StageFile)
        );
        assert_eq!(
            artifact_of("a.tmp.deadbeef", "json"),
            Ok("artifacts/r/a.tmp.deadbeef.json".to_owned())
        );
        assert_eq!(
            artifact_file(&run("r"), "a.tmp.deadbeef")
                .unwrap_err()
                .reason,
            NameReason::StageFile
        );
    }

    #[test]
    fn a_file_that_fits_only_without_its_stage_suffix_is_refused() {
        let x = |count| "x".repeat(count);
        assert!(artifact_of(&x(242), "json").is_ok());
        assert!(artifact_of(&x(242), &x(12)).is_ok());
        assert_eq!(
            artifact_of(&x(242), &x(13)),
            Err(NameReason::FileTooLong { bytes: 256 })
        );
        // A final dot begins no suffix, so the stage suffix comes on top.
        assert_eq!(
            artifact_of(&x(240), "ab."),
            Err(NameReason::FileTooLong { bytes: 257 })
        );
        let long = NameError::new(
            NameKind::ArtifactName,
            "x",
            NameReason::FileTooLong { bytes: 257 },
        );
        assert!(
            long.to_string().ends_with("shorten it by 2 or more"),
            "{long}"
        );

        let experiment = ExperimentId::parse(&x(226)).unwrap();
        let stamp = ManifestStamp::parse("20260301_085900").unwrap();
        assert!(experiment_manifest(&experiment, &stamp, 0).is_ok());
        let reason = experiment_manifest(&experiment, &stamp, 1)
            .unwrap_err()
            .reason;
        assert_eq!(reason, NameReason::FileTooLong { bytes: 262 });
    }

    #[test]
    fn an_experiment_cannot_live_in_a_directory_of_the_collection() {
        for taken in [
            "runs",
            "derived",
            "artifacts",
            "logs",
            "results",
            "experiments",
            "services",
            "_meta.json",
        ] {
            let reason = experiment_directory(&ExperimentId::parse(taken).unwrap())
                .unwrap_err()
                .reason;
            assert_eq!(reason, NameReason::Reserved, "{taken}");
        }
        let stage = ExperimentId::parse("_meta.tmp.deadbeef").unwrap();
        assert_eq!(
            experiment_directory(&stage).unwrap_err().reason,
            NameReason::StageFile
        );
    }

    #[test]
    fn a_counter_that_no_file_name_can_hold_is_refused() {
        let experiment = ExperimentId::parse("e").unwrap();
        let stamp = ManifestStamp::parse("v1").unwrap();
        let reason = experiment_manifest(&experiment, &stamp, 1_000_000)
            .unwrap_err()
            .reason;
        assert_eq!(reason, NameReason::CounterTooLarge(1_000_000));
    }

    #[test]
    fn only_the_tail_of_a_uri_counts() {
        let found = |uri| {
            artifact_tail(uri).map(|(directory, run, file)| (directory, run.to_string(), file))
        };
        let to = |directory| Some((directory, "r".to_owned(), "f.json"));
        for (uri, expected) in [
            ("/srv/e_1/artifacts/r/f.json", to(Some("e_1"))),
            ("file:///srv/e_1/artifacts/r/f.json", to(Some("e_1"))),
            ("C:\\data\\e_1\\artifacts\\r\\f.json", to(Some("e_1"))),
            ("//host/e_1//artifacts///r/f.json", to(Some("e_1"))),
            ("/srv/e_1/./artifacts/r/f.json", to(Some("e_1"))),
            ("/srv/e_1/../artifacts/r/f.json", to(Some(".."))),
            ("/artifacts/artifacts/r/f.json", to(Some("artifacts"))),
            ("artifacts/r/f.json", to(None)),
            ("./artifacts/r/f.json", to(None)),
            ("/artifacts/r/f.json", to(Some(""))),
            ("/./artifacts/r/f.json", to(Some(""))),
            ("", None),
            ("f.json", None),
            ("r/f.json", None),
            ("/srv/e_1/artifacts/r/", None),
            ("/srv/e_1/artifacts/r/sub/f.json", None),
            ("/srv/e_1/artifacts/../f.json", None),
            ("/srv/e_1/artifacts/r/..", None),
            ("/srv/e_1/artifacts/r/.hidden", None),
            ("/srv/e_1/artifacts/r/f\n.json", None),
            ("/srv/e_1/artifacts/r/_manifest.json", None),
            ("/srv/e_1/artifacts/r/f.tmp.deadbeef", None),
            ("/srv/e_1/Artifacts/r/f.json", None),
            ("/srv/e_1/xartifacts/r/f.json", None),
        ] {
            assert_eq!(found(uri), expected, "{uri}");
        }
    }

    /// The reference finds manifests by a prefix: asked for `exp`, it returns one of `exp:2`, the wrong
    /// experiment's. Here a timestamp of the default form leaves no doubt, and any other is left to the
    /// `experiment_id` in the file.
    #[test]
    fn a_manifest_of_a_longer_experiment_id_is_never_taken_by_its_name_alone() {
        let exp = ExperimentId::parse("exp").unwrap();
        let longer = ExperimentId::parse("exp:2").unwrap();
        let file = "exp_2_20260302_085900.json";

        let (stamp, counter) = manifest_of(file, &longer).unwrap();
        assert!(stamp.is_default_form());
        assert_eq!((stamp.as_str(), counter), ("20260302_085900", 0));

        let (stamp, _) = manifest_of(file, &exp).unwrap();
        assert!(!stamp.is_default_form());
        assert_eq!(manifest_parts(file).unwrap().0, "exp_2");

        for other in [
            "exp.json",
            "exp_.json",
            "exp20260302_085900.json",
            "exp_20260302_085900",
            "exp_x.tmp.deadbeef",
        ] {
            assert_eq!(manifest_of(other, &exp), None, "{other}");
        }
    }

    #[test]
    fn the_latest_manifest_is_the_greatest_stamp_then_the_greatest_counter() {
        let experiment = ExperimentId::parse("e").unwrap();
        let ordered = [
            "e_20260301_085900.json",
            "e_20260301_085900_000001.json",
            "e_20260301_085900_000010.json",
            "e_20260301_090000.json",
        ];
        let mut found: Vec<_> = ordered
            .iter()
            .rev()
            .map(|file| manifest_of(file, &experiment).unwrap())
            .collect();
        found.sort();
        let expected: Vec<_> = ordered
            .iter()
            .map(|file| manifest_of(file, &experiment).unwrap())
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn lists_leave_out_what_is_no_record() {
        let files = [
            "11a45ec594c1b3e8.json",
            "ab715c67c9710b4f.done",
            "leaked.tmp.deadbeef",
            "run.with.dots.json",
            "Ünïcode-ïd.json",
            ".json",
            "..json",
            "x.tmp.deadbeef.json",
            "x.json~",
            "a\\b.json",
        ];
        let found: Vec<_> = files
            .iter()
            .filter_map(|file| run_id_of_record(file))
            .collect();
        assert_eq!(
            found.iter().map(RunId::as_str).collect::<Vec<_>>(),
            [
                "11a45ec594c1b3e8",
                "run.with.dots",
                "Ünïcode-ïd",
                "x.tmp.deadbeef"
            ]
        );
    }

    /// Checks that a path is made of `components` plain names under its top directory.
    fn check_shape(path: &StorePath, top: Top, components: usize) -> Result<(), TestCaseError> {
        let text = path.to_string();
        let expected = components + usize::from(top != Top::Root);
        let parts: Vec<_> = Path::new(&text).components().collect();
        prop_assert_eq!(path.top(), top);
        prop_assert!(
            parts
                .iter()
                .all(|part| matches!(part, Component::Normal(_))),
            "{}",
            text
        );
        prop_assert_eq!(parts.len(), expected, "{}", text);
        prop_assert_eq!(text.split('/').count(), expected, "{}", text);
        prop_assert!(
            top == Top::Root || text.split('/').next() == Some(top.name()),
            "{}",
            text
        );
        prop_assert!(!text.contains(['\\', '\0']));
        prop_assert!(text.split('/').all(|part| part.len() <= 255), "{}", text);
        prop_assert_eq!(text.rsplit('/').next(), Some(path.file_name()));
        Ok(())
    }

    /// The same for a file, together with its stage file and its directory.
    fn check_file(path: &StorePath, top: Top, components: usize) -> Result<(), TestCaseError> {
        check_shape(path, top, components)?;
        prop_assert!(!is_stage_name(path.file_name()));
        let stage = path.stage(0xdead_beef);
        check_shape(&stage, top, components)?;
        prop_assert!(is_stage_name(stage.file_name()));
        prop_assert_eq!(stage.parent(), path.parent());
        prop_assert_eq!(
            path.parent().unwrap().child(path.file_name()).unwrap(),
            path.clone()
        );
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 100_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_path_leaves_the_store_and_every_name_comes_back(
            first in generate::texts(),
            second in generate::texts(),
            stamp in generate::stamps(),
            counter in 0_u32..3,
        ) {
            if let Ok(run) = RunId::parse(&first) {
                check_file(&run_record(&run), Top::Runs, 1)?;
                prop_assert_eq!(run_id_of_record(run_record(&run).file_name()), Some(run.clone()));
                check_file(&done_marker(&run), Top::Runs, 1)?;
                prop_assert_eq!(run_id_of_done_marker(done_marker(&run).file_name()), Some(run.clone()));
                check_file(&derived(&run), Top::Derived, 1)?;
                prop_assert_eq!(run_id_of_record(derived(&run).file_name()), Some(run.clone()));
                check_shape(&lock(&run), Top::Locks, 1)?;
                prop_assert_eq!(run_id_of_lock(lock(&run).file_name()), Some(run.clone()));
                check_file(&artifact_manifest(&run), Top::Artifacts, 2)?;
                for (path, top) in [
                    (artifact_directory(&run), Top::Artifacts),
                    (result_directory(&run), Top::Results),
                    (log_directory(&run), Top::Logs),
                ] {
                    check_shape(&path, top, 1)?;
                    prop_assert_eq!(run_id_of_directory(path.file_name()), Some(run.clone()));
                }
                if let Ok(name) = ResultName::parse(&second) {
                    let path = result(&run, &name);
                    check_file(&path, Top::Results, 2)?;
                    prop_assert_eq!(path.parent(), Some(result_directory(&run)));
                    prop_assert_eq!(result_of(path.file_name()), Some(name));
                }
                if let Ok(name) = LogName::parse(&second) {
                    if let Ok(path) = log_flat(&run, &name) {
                        check_file(&path, Top::Logs, 1)?;
                    }
                    let path = log_nested(&run, &name);
                    check_file(&path, Top::Logs, 2)?;
                    prop_assert_eq!(path.parent(), Some(log_directory(&run)));
                    prop_assert_eq!(nested_log_of(path.file_name()), Some(name.clone()));
                    if let Some(path) = logs_naming::candidates(&run, &name).flat {
                        check_shape(&path, Top::Logs, 1)?;
                    }
                }
                if let Ok(format) = ArtifactFormat::parse(&stamp)
                    && let Ok(name) = ArtifactName::parse(&second)
                    && let Ok(path) = artifact(&run, &name, &format)
                {
                    check_file(&path, Top::Artifacts, 2)?;
                    prop_assert_eq!(&artifact_file(&run, path.file_name()).unwrap(), &path);
                }
                if let Ok(path) = artifact_file(&run, &second) {
                    check_shape(&path, Top::Artifacts, 2)?;
                    prop_assert_eq!(path.parent(), artifact_manifest(&run).parent());
                    let uri = format!("/srv/e_1/{path}");
                    prop_assert_eq!(artifact_tail(&uri), Some((Some("e_1"), run.clone(), second.as_str())));
                }
                if let Ok(path) = artifact_directory(&run).child(&second) {
                    check_shape(&path, Top::Artifacts, 2)?;
                }
            }
            if let Ok(experiment) = ExperimentId::parse(&first) {
                if let Ok(path) = experiment_directory(&experiment) {
                    check_shape(&path, Top::Root, 1)?;
                }
                for text in [&second, &stamp] {
                    if let Ok((stamp, _)) = ManifestStamp::parse_numbered(text)
                        && let Ok(path) = experiment_manifest(&experiment, &stamp, counter)
                    {
                        check_file(&path, Top::Experiments, 1)?;
                        prop_assert_eq!(manifest_of(path.file_name(), &experiment), Some((stamp.clone(), counter)));
                        if stamp.is_default_form() {
                            let directory = experiment.directory_name();
                            let expected = Some((directory.as_str(), stamp, counter));
                            prop_assert_eq!(manifest_parts(path.file_name()), expected);
                        }
                    }
                }
            }
            if let Ok(path) = index(&first) {
                check_file(&path, Top::Index, 1)?;
            }
            if let Some((_, run, file)) = artifact_tail(&format!("{first}/artifacts/{second}")) {
                check_shape(&artifact_file(&run, file).unwrap(), Top::Artifacts, 2)?;
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 25_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn different_inputs_never_share_a_path(
            texts in prop::collection::vec(prop_oneof![generate::twins(), generate::texts()], 4),
            stamps in prop::collection::vec(generate::stamps(), 3),
        ) {
            let mut paths: HashMap<StorePath, String> = HashMap::new();
            let mut directories: HashMap<StorePath, String> = HashMap::new();
            let mut add = |path: StorePath, what: String| {
                let mut parent = path.parent();
                while let Some(directory) = parent {
                    parent = directory.parent();
                    directories.insert(directory, what.clone());
                }
                let before = paths.insert(path.clone(), what.clone());
                prop_assert!(before.as_ref().is_none_or(|before| *before == what), "{path}: {before:?} and {what}");
                Ok(())
            };
            add(meta(), "meta".to_owned())?;
            for first in &texts {
                if let Ok(run) = RunId::parse(first) {
                    add(run_record(&run), format!("record {first:?}"))?;
                    add(done_marker(&run), format!("done {first:?}"))?;
                    add(derived(&run), format!("derived {first:?}"))?;
                    add(lock(&run), format!("lock {first:?}"))?;
                    add(artifact_manifest(&run), format!("manifest {first:?}"))?;
                    for second in &texts {
                        if let Ok(name) = ResultName::parse(second) {
                            add(result(&run, &name), format!("result {first:?} {second:?}"))?;
                        }
                        if let Ok(name) = LogName::parse(second)
                            && let Ok(path) = logs_naming::place(&run, &name)
                        {
                            // The stage file has a place as well, which no other log may take.
                            add(path.stage(0xdead_beef), format!("stage of log {path}"))?;
                            add(path, format!("log {first:?} {second:?}"))?;
                        }
                        for format in ["", "json", "tmp.deadbeef"] {
                            if let Ok(name) = ArtifactName::parse(second)
                                && let Ok(path) = artifact(&run, &name, &ArtifactFormat::parse(format).unwrap())
                            {
                                let file = if format.is_empty() { second.clone() } else { format!("{second}.{format}") };
                                add(path, format!("artifact {first:?} {file:?}"))?;
                            }
                        }
                    }
                }
                if let Ok(path) = index(first) {
                    add(path, format!("index {first:?}"))?;
                }
            }
            add(staging(7), "staging 7".to_owned())?;
            if let Ok(experiment) = ExperimentId::parse(&texts[0]) {
                for text in &stamps {
                    for counter in 0..3 {
                        if let Ok(stamp) = ManifestStamp::parse(text)
                            && let Ok(path) = experiment_manifest(&experiment, &stamp, counter)
                        {
                            add(path, format!("manifest {text:?} {counter}"))?;
                        }
                    }
                }
            }
            for (directory, inside) in directories {
                prop_assert!(!paths.contains_key(&directory), "{directory} is a file and holds {inside}");
            }
        }
    }
}
