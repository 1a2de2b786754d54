//! Whose log a file is, and where a log is written.
//!
//! There are three generations of log files, and all of them are read:
//!
//! | generation | file | written by us |
//! |---|---|---|
//! | flat | `logs/{run}_{name}.log` | if nobody else's log can have this name |
//! | label | `logs/{label}_{first 8 characters of the run}_{name}.log` | never |
//! | nested | `logs/{run}/{name}.txt` | otherwise |
//!
//! A flat name does not say where the run id ends. So **what is written** takes the flat form only where its
//! end can be told from the name alone ([`place`]), and **what is found** belongs to the run that the rules of
//! [`owner`] give it to, or to nobody. A store acts on a file as follows.
//!
//! * *Write*: at [`place`]. After writing a nested log, it removes a flat or label file for which [`claim`]
//!   answers the same run and log: reading would prefer that older text, as the reference does.
//! * *Read*: the [`candidates`] in order; the flat one only if [`owner_is`] accepts it, a label file only if
//!   [`claim`] gives it.
//! * *List*: the names that [`claim`] gives for the files in `logs/`, and those of the nested directory.
//! * *Delete*: the files for which [`owner`] says the run, asked while the run still exists, and the nested
//!   directory. What is ambiguous stays.

use crate::layout::{self, StorePath, Top};
use crate::names::{LogName, NameError, NameKind, NameReason, RunId, is_lower_hex};

/// Which form the name of a log file has.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum LogGeneration {
    /// `logs/{run}_{name}.log`.
    Flat,
    /// `logs/{label}_{first 8 characters of the run}_{name}.log`.
    Label,
    /// `logs/{run}/{name}.txt`.
    Nested,
}

/// What the naming rules ask about the runs of a store.
pub trait RunLookup {
    /// Tells whether the store knows the run.
    ///
    /// True for a run that has a record, and for one that the store itself has written anything for (a
    /// lock file tells), a log before its record included. Otherwise the log of a run that has no record
    /// yet can look like one of another run.
    fn exists(&mut self, run: &RunId) -> bool;

    /// Returns the run whose id begins with these 8 characters, if there is exactly one.
    fn unique_with_prefix(&mut self, prefix8: &str) -> Option<RunId>;
}

/// Returns the path at which a log is written.
///
/// It is flat if the log's name has no `_` (then the last `_` of the file name divides it) or the run id is
/// a fingerprint, 16 lowercase hexadecimal digits (then the first one does); but nested if the run id itself
/// begins like a fingerprint and `_`, or if the flat name would be too long. Different logs never share a
/// path, nor does a file have the name of a directory that another one is in.
///
/// ```
/// use metalab_store_guest::logs_naming::place;
/// use metalab_store_guest::names::{LogName, RunId};
///
/// for (run, name, path) in [
///     ("ab715c67c9710b4f", "stdout", "logs/ab715c67c9710b4f_stdout.log"),
///     ("ab715c67c9710b4f", "step_1", "logs/ab715c67c9710b4f_step_1.log"),
///     ("run_1", "stdout", "logs/run_1_stdout.log"),
///     ("run_1", "step_1", "logs/run_1/step_1.txt"),
///     ("ab715c67c9710b4f_b", "stdout", "logs/ab715c67c9710b4f_b/stdout.txt"),
/// ] {
///     assert_eq!(place(&RunId::parse(run)?, &LogName::parse(name)?)?.to_string(), path);
/// }
/// # Ok::<(), metalab_store_guest::names::NameError>(())
/// ```
///
/// # Errors
/// [`NameError`] for a nested log of a run whose id looks like the file of a flat log or its stage file
/// (`run_a.log`), since its directory would be in that file's place.
pub fn place(run: &RunId, name: &LogName) -> Result<StorePath, NameError> {
    if divides(run, name)
        && let Ok(path) = layout::log_flat(run, name)
    {
        return Ok(path);
    }
    let id = run.as_str();
    let reason = if layout::is_stage_name(id) {
        Some(NameReason::StageFile)
    } else {
        id.strip_suffix(".log")
            .is_some_and(|stem| stem.contains('_'))
            .then_some(NameReason::LogFile)
    };
    match reason {
        Some(reason) => Err(NameError::new(NameKind::RunId, id, reason)),
        None => Ok(layout::log_nested(run, name)),
    }
}

/// Tells whether the flat name of a log says by itself where the run id ends.
fn divides(run: &RunId, name: &LogName) -> bool {
    run.is_fingerprint() || (!name.as_str().contains('_') && fingerprint_of(run.as_str()).is_none())
}

/// Splits a text that begins with a fingerprint and `_`.
fn fingerprint_of(stem: &str) -> Option<(&str, &str)> {
    let (first, rest) = stem.split_once('_')?;
    is_lower_hex(first.as_bytes(), 16).then_some((first, rest))
}

/// Where a log can be found, in the order in which to look.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidates {
    /// The flat file, to be accepted by [`owner_is`]; absent if no file can have so long a name.
    pub flat: Option<StorePath>,
    /// What the name of a label file looks like, to be confirmed by [`claim`]. If several are confirmed, the
    /// least name counts, so that every host reads the same one.
    pub label: LabelPattern,
    /// The nested file, which nobody else can own.
    pub nested: StorePath,
}

/// Returns where to look for a log.
pub fn candidates(run: &RunId, name: &LogName) -> Candidates {
    // A file that was not staged by the store may have a longer name than one that was.
    let flat = layout::directory(Top::Logs)
        .child(&format!("{run}_{name}.log"))
        .ok();
    Candidates {
        flat,
        label: LabelPattern {
            run: run.clone(),
            name: name.clone(),
        },
        nested: layout::log_nested(run, name),
    }
}

/// The form of the label files of one log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LabelPattern {
    run: RunId,
    name: LogName,
}

impl LabelPattern {
    /// Tells whether a file has the form `{label}_{first 8 characters of the run}_{name}.log`.
    ///
    /// It looks at the text alone and is cheap; [`claim`] decides.
    ///
    /// ```
    /// use metalab_store_guest::logs_naming::candidates;
    /// use metalab_store_guest::names::{LogName, RunId};
    ///
    /// let label = candidates(&RunId::parse("ab715c67c9710b4f")?, &LogName::parse("stdout")?).label;
    /// assert!(label.matches("lr0.01_ab715c67_stdout.log"));
    /// assert!(!label.matches("lr0.01_ab715c67_stderr.log"));
    /// assert!(!label.matches("lr0.01_ab715c67c9710b4f_stdout.log"));
    /// # Ok::<(), metalab_store_guest::names::NameError>(())
    /// ```
    pub fn matches(&self, file_name: &str) -> bool {
        let Some(stem) = file_name.strip_suffix(".log") else {
            return false;
        };
        let Some(prefix8) = self.run.prefix8() else {
            return false;
        };
        // The name is what follows the first place where the 8 characters stand, as in the reference.
        let first = label_parts(stem).find(|(piece, _)| *piece == prefix8);
        first.is_some_and(|(_, name)| name == self.name.as_str())
    }
}

/// Returns the texts of 8 characters in the name of a file in `logs/` that may begin a run's id, if the file is
/// a label file.
pub(crate) fn label_pieces(file_name: &str) -> impl Iterator<Item = &str> {
    let stem = file_name.strip_suffix(".log");
    let stem = stem.filter(|stem| fingerprint_of(stem).is_none());
    stem.into_iter()
        .flat_map(label_parts)
        .map(|(piece, _)| piece)
}

/// Returns the ways to read a label file: 8 characters between two `_`, and what follows.
fn label_parts(stem: &str) -> impl Iterator<Item = (&str, &str)> {
    stem.match_indices('_').filter_map(|(at, _)| {
        let after = &stem[at + 1..];
        let (end, _) = after.char_indices().nth(8)?;
        Some((&after[..end], after[end..].strip_prefix('_')?))
    })
}

/// Returns the run, the log and the form of a file in `logs/`, or nothing if that cannot be known.
///
/// The first rule that applies decides:
/// 1. the name begins with a fingerprint and `_`: flat, of that run, whether it exists or not;
/// 2. a part before some `_` is the id of a run that exists: flat, of the longest such id;
/// 3. exactly one run has its first 8 characters between two `_`: label, of that run. If two runs are
///    possible, nobody owns it. An id of fewer than 8 characters has no label files.
///
/// A stage file, a file without `.log`, and one whose name no log can have belong to nobody.
pub fn owner(
    file_name: &str,
    lookup: &mut dyn RunLookup,
) -> Option<(RunId, LogName, LogGeneration)> {
    let (run, name, generation) = owning_run(file_name.strip_suffix(".log")?, lookup)?;
    Some((run, LogName::parse(name).ok()?, generation))
}

/// Returns whose file it is and what would be the log's name, which may be one that no log can have.
fn owning_run<'a>(
    stem: &'a str,
    lookup: &mut dyn RunLookup,
) -> Option<(RunId, &'a str, LogGeneration)> {
    if let Some((run, name)) = fingerprint_of(stem) {
        return Some((RunId::parse(run).ok()?, name, LogGeneration::Flat));
    }
    for (at, _) in stem.rmatch_indices('_') {
        if let Ok(run) = RunId::parse(&stem[..at])
            && lookup.exists(&run)
        {
            return Some((run, &stem[at + 1..], LogGeneration::Flat));
        }
    }
    let mut found: Option<(RunId, &str)> = None;
    for (prefix8, name) in label_parts(stem) {
        let Some(run) = lookup.unique_with_prefix(prefix8) else {
            continue;
        };
        match &found {
            None => found = Some((run, name)),
            // The name is what follows the first place where the 8 characters stand, as in the reference.
            Some((other, _)) if *other == run => {}
            Some(_) => return None,
        }
    }
    found.map(|(run, name)| (run, name, LogGeneration::Label))
}

/// Returns the log of `run` that a file in `logs/` is, and its form; nothing if it is not one of that run.
///
/// It differs from [`owner`] for a run that does not exist, a log without a record for instance: such a run
/// has the flat files that are written in its name ([`place`]), and those in its form that nobody owns.
pub fn claim(
    file_name: &str,
    run: &RunId,
    lookup: &mut dyn RunLookup,
) -> Option<(LogName, LogGeneration)> {
    let stem = file_name.strip_suffix(".log")?;
    let flat = stem
        .strip_prefix(run.as_str())
        .and_then(|rest| rest.strip_prefix('_'));
    let flat = flat.and_then(|name| LogName::parse(name).ok());
    if let Some(name) = &flat
        && divides(run, name)
    {
        return flat.map(|name| (name, LogGeneration::Flat));
    }
    match owning_run(stem, lookup) {
        Some((other, _, _)) if other != *run => None,
        Some((_, name, generation)) => Some((LogName::parse(name).ok()?, generation)),
        None => flat.map(|name| (name, LogGeneration::Flat)),
    }
}

/// Tells whether a flat file can be taken for the log of `run` in whose form its name is: it is so unless a
/// longer run id that exists, another fingerprint or, for a run that does not exist, a label claims it.
pub fn owner_is(file_name: &str, run: &RunId, lookup: &mut dyn RunLookup) -> bool {
    claim(file_name, run, lookup).is_some_and(|(_, generation)| generation == LogGeneration::Flat)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::names::generate;

    /// The runs of a store.
    struct Runs(BTreeSet<RunId>);

    impl Runs {
        fn of<'a>(ids: impl IntoIterator<Item = &'a str>) -> Self {
            Self(ids.into_iter().map(run).collect())
        }
    }

    impl RunLookup for Runs {
        fn exists(&mut self, run: &RunId) -> bool {
            self.0.contains(run)
        }

        fn unique_with_prefix(&mut self, prefix8: &str) -> Option<RunId> {
            let mut found = self
                .0
                .iter()
                .filter(|run| run.as_str().starts_with(prefix8));
            found.next().filter(|_| found.next().is_none()).cloned()
        }
    }

    fn run(text: &str) -> RunId {
        RunId::parse(text).unwrap()
    }

    fn log(text: &str) -> LogName {
        LogName::parse(text).unwrap()
    }

    /// Lists the logs of a run, as a store does.
    fn list(id: &str, flat: &[&str], nested: &[(&str, &str)], runs: &mut Runs) -> Vec<String> {
        let id = run(id);
        let found = flat
            .iter()
            .filter_map(|file| claim(file, &id, runs))
            .map(|(name, _)| name);
        let nested = nested
            .iter()
            .filter(|(directory, _)| *directory == id.as_str());
        let nested = nested.filter_map(|(_, file)| layout::nested_log_of(file));
        let names: BTreeSet<_> = found.chain(nested).collect();
        names.iter().map(LogName::to_string).collect()
    }

    const CURVE_FIT: &[&str] = &[
        "11a45ec594c1b3e8_run.log",
        "1deac0593be0feb0_run.log",
        "920aa42fdc123795_logging.log",
        "920aa42fdc123795_run.log",
        "ab715c67c9710b4f_run.log",
        "ab715c67c9710b4f_stderr.log",
        "ab715c67c9710b4f_stdout.log",
        "lr0.01_ab715c67_legacylabel.log",
        "lr0.01_ab715c67_stdout.log",
    ];

    #[test]
    fn every_generation_of_the_reference_is_listed() {
        let nested = [("920aa42fdc123795", "stdout.txt")];
        let ids = [
            "11a45ec594c1b3e8",
            "1deac0593be0feb0",
            "920aa42fdc123795",
            "ab715c67c9710b4f",
        ];
        let mut runs = Runs::of(ids);
        let listed = ids.map(|id| list(id, CURVE_FIT, &nested, &mut runs));
        assert_eq!(listed[0], ["run"]);
        assert_eq!(listed[1], ["run"]);
        assert_eq!(listed[2], ["logging", "run", "stdout"]);
        assert_eq!(listed[3], ["legacylabel", "run", "stderr", "stdout"]);
    }

    /// The reference takes `run_1_2_run.log` for the log `2_run` of `run_1`: it lists and returns another
    /// run's log, and deletes it together with `run_1`. Here the longest run id that exists owns the file.
    #[test]
    fn a_run_whose_id_begins_another_never_owns_its_logs() {
        let files = [
            "run.with.dots_run.log",
            "run_1_2_run.log",
            "run_1_run.log",
            "Ünïcode-ïd_run.log",
        ];
        let mut runs = Runs::of(["run.with.dots", "run_1", "run_1_2", "Ünïcode-ïd"]);
        for id in ["run.with.dots", "run_1", "run_1_2", "Ünïcode-ïd"] {
            assert_eq!(list(id, &files, &[], &mut runs), ["run"], "{id}");
        }
        assert!(!owner_is("run_1_2_run.log", &run("run_1"), &mut runs));
        assert!(owner_is("run_1_2_run.log", &run("run_1_2"), &mut runs));
        assert_eq!(
            owner("run_1_2_run.log", &mut runs).unwrap().0,
            run("run_1_2")
        );
    }

    #[test]
    fn a_log_of_a_fingerprint_needs_no_record() {
        let mut runs = Runs::of(["e2b101c679f81bb5"]);
        let expected = Some((run("0000000000000000"), log("run"), LogGeneration::Flat));
        assert_eq!(owner("0000000000000000_run.log", &mut runs), expected);
        assert!(owner_is(
            "0000000000000000_run.log",
            &run("0000000000000000"),
            &mut runs
        ));
    }

    #[test]
    fn a_log_written_before_its_record_is_found_by_its_own_run() {
        let mut runs = Runs::of(["run", "ab715c67c9710b4f"]);
        for id in ["run_1", "lr0.01_ab715c67", "other"] {
            let file = place(&run(id), &log("out")).unwrap();
            assert!(owner_is(file.file_name(), &run(id), &mut runs), "{id}");
        }
        // A foreign log, whose name does not say where the id ends, is the run's if nobody owns it.
        assert!(owner_is("other_step_1.log", &run("other"), &mut runs));
        // That of a run which exists is not.
        assert!(!owner_is("run_1_step_1.log", &run("run_1"), &mut runs));
        assert!(!owner_is(
            "lr0.01_ab715c67_stdout.log",
            &run("lr0.01"),
            &mut runs
        ));
    }

    #[test]
    fn a_label_file_belongs_to_the_only_run_with_its_prefix_and_to_nobody_if_there_are_two() {
        let file = "lr0.01_ab715c67_stdout.log";
        let one = Some((run("ab715c67c9710b4f"), log("stdout"), LogGeneration::Label));
        assert_eq!(
            owner(file, &mut Runs::of(["ab715c67c9710b4f", "other"])),
            one
        );
        assert_eq!(
            owner(
                file,
                &mut Runs::of(["ab715c67c9710b4f", "ab715c67ffffffff"])
            ),
            None
        );
        assert_eq!(owner(file, &mut Runs::of(["other"])), None);
        let mut two = Runs::of(["ab715c67c9710b4f", "ab715c67ffffffff"]);
        assert_eq!(claim(file, &run("ab715c67c9710b4f"), &mut two), None);
        // Two prefixes, a run for each.
        let double = "x_ab715c67_920aa42f_out.log";
        let mut runs = Runs::of(["ab715c67c9710b4f", "920aa42fdc123795"]);
        assert_eq!(owner(double, &mut runs), None);
        // The same prefix twice: the name follows the first, as in the reference.
        let (_, name, _) = owner("x_ab715c67_ab715c67_out.log", &mut runs).unwrap();
        assert_eq!(name, log("ab715c67_out"));
    }

    #[test]
    fn a_run_that_exists_owns_a_flat_file_before_a_label_does() {
        let file = "lr0.01_ab715c67_stdout.log";
        let flat = |id, name| Some((run(id), log(name), LogGeneration::Flat));
        let mut runs = Runs::of(["ab715c67c9710b4f", "lr0.01"]);
        assert_eq!(owner(file, &mut runs), flat("lr0.01", "ab715c67_stdout"));
        let mut runs = Runs::of(["ab715c67c9710b4f", "lr0.01", "lr0.01_ab715c67"]);
        assert_eq!(owner(file, &mut runs), flat("lr0.01_ab715c67", "stdout"));
    }

    #[test]
    fn what_is_no_log_belongs_to_nobody() {
        let mut runs = Runs::of(["run", "run_1", "ab715c67c9710b4f"]);
        for file in [
            "run_out.txt",
            "run_out.tmp.deadbeef",
            "run.log",
            "out.log",
            ".log",
            "",
            "run_.log",
            "run_1_.log",
            "ab715c67c9710b4f_.log",
            "ab715c67c9710b4f_.hidden.log",
            "_ab715c67_.log",
        ] {
            assert_eq!(owner(file, &mut runs), None, "{file}");
            for id in ["run", "run_1", "ab715c67c9710b4f"] {
                assert_eq!(claim(file, &run(id), &mut runs), None, "{file} {id}");
            }
        }
    }

    #[test]
    fn a_flat_name_that_is_too_long_goes_to_the_nested_form() {
        let x = |count| "x".repeat(count);
        let fits = place(&run(&x(235)), &log("stdout")).unwrap();
        assert_eq!(fits.to_string(), format!("logs/{}_stdout.log", x(235)));
        let nested = place(&run(&x(236)), &log("stdout")).unwrap();
        assert_eq!(nested.to_string(), format!("logs/{}/stdout.txt", x(236)));
        // A logger that writes the file itself needs no stage file, so it is looked for.
        assert!(candidates(&run(&x(242)), &log("stdout")).flat.is_some());
        assert_eq!(candidates(&run(&x(242)), &log(&x(242))).flat, None);
    }

    #[test]
    fn a_directory_of_logs_is_never_made_where_a_log_file_can_be() {
        let refused = |id| place(&run(id), &log("a_b")).map_err(|error| error.reason);
        assert_eq!(refused("run_a.log"), Err(NameReason::LogFile));
        assert_eq!(refused("run_a.tmp.deadbeef"), Err(NameReason::StageFile));
        assert!(refused("run.log").is_ok());
        assert!(place(&run("run_a.log"), &log("out")).is_ok());
    }

    #[test]
    fn a_log_is_looked_for_flat_then_by_label_then_nested() {
        let found = candidates(&run("ab715c67c9710b4f"), &log("stdout"));
        assert_eq!(
            found.flat.unwrap().to_string(),
            "logs/ab715c67c9710b4f_stdout.log"
        );
        assert_eq!(found.nested.to_string(), "logs/ab715c67c9710b4f/stdout.txt");
        let matching: Vec<_> = CURVE_FIT
            .iter()
            .filter(|file| found.label.matches(file))
            .collect();
        assert_eq!(matching, [&"lr0.01_ab715c67_stdout.log"]);
        assert!(
            !candidates(&run("short"), &log("out"))
                .label
                .matches("x_short_out.log")
        );
        assert!(
            candidates(&run("Ünïcode-ïd"), &log("out"))
                .label
                .matches("x_Ünïcode-_out.log")
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 60_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_we_write_comes_back_to_its_run_whatever_other_runs_exist(
            ids in prop::collection::btree_set(prop_oneof![4 => generate::twins(), 1 => generate::texts()], 1..6),
            names in prop::collection::btree_set(prop_oneof![4 => generate::twins(), 1 => generate::texts()], 1..4),
        ) {
            let runs: Vec<RunId> = ids.iter().filter_map(|id| RunId::parse(id).ok()).collect();
            let names: Vec<LogName> = names.iter().filter_map(|name| LogName::parse(name).ok()).collect();
            let mut lookup = Runs(runs.iter().cloned().collect());
            let mut places = BTreeMap::new();
            for run in &runs {
                for name in &names {
                    let Ok(path) = place(run, name) else { continue };
                    let before = places.insert(path.clone(), (run, name));
                    prop_assert!(before.is_none(), "{path}: {before:?} and {run:?} {name:?}");

                    let found = candidates(run, name);
                    let nested = path.parent() == Some(layout::log_directory(run));
                    if nested {
                        prop_assert_eq!(&found.nested, &path);
                        prop_assert_eq!(layout::nested_log_of(path.file_name()), Some(name.clone()));
                        continue;
                    }
                    prop_assert_eq!(found.flat.as_ref(), Some(&path));
                    let file = path.file_name();
                    let expected = Some((run.clone(), name.clone(), LogGeneration::Flat));
                    prop_assert_eq!(owner(file, &mut lookup), expected, "{}", file);
                    for other in &runs {
                        let claimed = claim(file, other, &mut lookup);
                        let expected = (other == run).then(|| (name.clone(), LogGeneration::Flat));
                        prop_assert_eq!(claimed, expected, "{} {:?}", file, other);
                    }
                    let mut without = Runs(runs.iter().filter(|other| *other != run).cloned().collect());
                    prop_assert!(owner_is(file, run, &mut without), "{}", file);
                }
            }
        }

        #[test]
        fn a_foreign_file_has_at_most_one_owner_among_the_runs(
            stem in prop_oneof![4 => generate::twins(), 1 => generate::texts()],
            ids in prop::collection::btree_set(generate::twins(), 1..6),
        ) {
            let file = format!("{stem}.log");
            let runs: Vec<RunId> = ids.iter().filter_map(|id| RunId::parse(id).ok()).collect();
            let mut lookup = Runs(runs.iter().cloned().collect());
            let owner = owner(&file, &mut lookup);
            for run in &runs {
                let claimed = claim(&file, run, &mut lookup);
                let owned = owner.as_ref().filter(|(owner, _, _)| owner == run);
                let expected = owned.map(|(_, name, generation)| (name.clone(), *generation));
                prop_assert_eq!(claimed, expected, "{} {:?}", file, run);
            }
            if let Some((run, name, generation)) = owner {
                let middle = if generation == LogGeneration::Label { run.prefix8().unwrap() } else { run.as_str() };
                prop_assert!(file.ends_with(&format!("{middle}_{name}.log")), "{}", file);
            }
        }
    }
}
