//! Ids and names as parsed types that can only hold a safe file name.
//!
//! A caller's text is parsed **once**, where it enters the component. From then on the type is the proof:
//! no later code checks a name again, and nothing but [`crate::layout`] turns one into a path.
//!
//! One rule holds for all of them. A name is 1 to [`NAME_LIMIT`] bytes of UTF-8 without `/`, `\`, NUL or any
//! other control character ([`char::is_control`]; the line separators U+2028 and U+2029 are not among them)
//! and does not start with a dot. It is kept verbatim: no Unicode folding, no change of case, no trimming.
//!
//! ```
//! use metalab_store_guest::names::{NameReason, RunId};
//!
//! let run = RunId::parse("ab715c67c9710b4f")?;
//! assert_eq!(run.as_str(), "ab715c67c9710b4f");
//!
//! let refused = RunId::parse("../outside").unwrap_err();
//! assert_eq!(refused.reason, NameReason::LeadingDot);
//! assert_eq!(
//!     refused.to_string(),
//!     r#"run id "../outside" starts with a dot; put another character before it"#
//! );
//! # Ok::<(), metalab_store_guest::names::NameError>(())
//! ```

use std::fmt;
use std::str::FromStr;

/// The most bytes that an id or a name may have.
///
/// It is the longest name whose file can still be staged: a file system holds 255 bytes, and a stage file
/// is called like the target with 13 more.
pub const NAME_LIMIT: usize = 242;

/// The most bytes that the name of a file may have, on every file system that matters here.
pub const FILE_LIMIT: usize = 255;

/// How many characters of a refused name a message repeats.
const SHOWN: usize = 64;

/// Which kind of name was refused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum NameKind {
    /// The id of a run.
    RunId,
    /// The id of an experiment.
    ExperimentId,
    /// The name of an artifact.
    ArtifactName,
    /// The format of an artifact, which is the extension of its file.
    ArtifactFormat,
    /// The file name of an existing artifact, as its `uri` gives it.
    ArtifactFile,
    /// The name of a structured result.
    ResultName,
    /// The name of a log.
    LogName,
    /// The timestamp in the file name of an experiment manifest.
    ManifestStamp,
    /// The name of a file under `.index/`.
    IndexFile,
    /// The name of an entry found in a directory of the store.
    Entry,
}

impl fmt::Display for NameKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RunId => "run id",
            Self::ExperimentId => "experiment id",
            Self::ArtifactName => "artifact name",
            Self::ArtifactFormat => "artifact format",
            Self::ArtifactFile => "artifact file name",
            Self::ResultName => "result name",
            Self::LogName => "log name",
            Self::ManifestStamp => "manifest timestamp",
            Self::IndexFile => "index file name",
            Self::Entry => "directory entry",
        })
    }
}

/// Why a name was refused, and the way out. Its text continues a sentence that began with the name.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NameReason {
    /// It has no characters.
    #[error("is empty; give it at least one character")]
    Empty,
    /// It is too long to be a name.
    #[error("has {bytes} bytes; use at most {limit}")]
    TooLong {
        /// Its length in bytes.
        bytes: usize,
        /// The most that is allowed, in bytes.
        limit: usize,
    },
    /// It starts with a dot, as `.`, `..` and hidden files do.
    #[error("starts with a dot; put another character before it")]
    LeadingDot,
    /// It holds a character that separates the parts of a path, here or on another system.
    #[error("holds {0:?}, which separates the parts of a path; write '_' or '-' instead")]
    Separator(char),
    /// It holds NUL or another control character.
    #[error("holds the control character {0:?}; leave it out")]
    Control(char),
    /// The store uses this name itself.
    #[error("is a name that the store uses itself; choose another one")]
    Reserved,
    /// The file called so would be taken for the stage file of an unfinished write.
    #[error(
        "ends like the stage file of an unfinished write ('.tmp.' and 8 hexadecimal digits); choose another ending"
    )]
    StageFile,
    /// The name of the file that it leads to is too long, alone or with its stage suffix.
    #[error("leads to a file name of {bytes} bytes, counted with its stage suffix; shorten it by {} or more", .bytes.saturating_sub(FILE_LIMIT))]
    FileTooLong {
        /// The length of the file name in bytes, or that of its stage file if that is longer.
        bytes: usize,
    },
    /// The directory of this run's logs would be called like the file of another log.
    #[error(
        "is called like a log file of another run, so that this log has no place; choose an id that does not end in '.log'"
    )]
    LogFile,
    /// The timestamp ends like the counter that equal timestamps get.
    #[error(
        "ends like the counter of an equal timestamp ('_' and 6 digits); pass the part before it and the counter apart"
    )]
    Counter,
    /// No counter of this size exists.
    #[error("has {0} as its counter; use at most 999999 manifests with one timestamp")]
    CounterTooLarge(u32),
}

/// A text that is not the name it should be. Nothing was touched.
///
/// The message is one sentence with the kind, the name (escaped, and cut if it is long), the reason and the
/// way out.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{kind} {} {reason}", shown(.name))]
pub struct NameError {
    /// What it should have named.
    pub kind: NameKind,
    /// The name as it was given, whole.
    pub name: String,
    /// Why it was refused.
    pub reason: NameReason,
}

impl NameError {
    /// Makes the error that refuses `name`.
    pub(crate) fn new(kind: NameKind, name: &str, reason: NameReason) -> Self {
        Self {
            kind,
            name: name.to_owned(),
            reason,
        }
    }
}

/// Returns the name escaped and in quotes, cut after [`SHOWN`] characters.
fn shown(name: &str) -> String {
    match name.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}...", &name[..end]),
        None => format!("{name:?}"),
    }
}

/// Returns why `text` cannot be a name of at most `limit` bytes.
///
/// The length comes first, so that a hostile text of any size costs nothing.
pub(crate) fn refusal(text: &str, limit: usize) -> Option<NameReason> {
    if text.is_empty() {
        return Some(NameReason::Empty);
    }
    if text.len() > limit {
        return Some(NameReason::TooLong {
            bytes: text.len(),
            limit,
        });
    }
    if text.starts_with('.') {
        return Some(NameReason::LeadingDot);
    }
    unsafe_character(text)
}

/// Returns why the characters of `text` cannot all stand in a file name.
fn unsafe_character(text: &str) -> Option<NameReason> {
    text.chars().find_map(|character| match character {
        '/' | '\\' => Some(NameReason::Separator(character)),
        _ if character.is_control() => Some(NameReason::Control(character)),
        _ => None,
    })
}

/// Tells whether `text` is `digits` digits as hexadecimal numbers are written here: lowercase.
pub(crate) fn is_lower_hex(text: &[u8], digits: usize) -> bool {
    text.len() == digits
        && text
            .iter()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Defines a name type: a private text, `parse`, `as_str` and the usual conversions.
macro_rules! name_type {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub struct $type(String);

        impl $type {
            /// Parses a text, and keeps it verbatim.
            ///
            /// # Errors
            /// [`NameError`] if the text breaks one of the invariants of the type.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                match Self::refusal(text) {
                    None => Ok(Self(text.to_owned())),
                    Some(reason) => Err(NameError::new(NameKind::$type, text, reason)),
                }
            }

            /// Returns the text, exactly as it was parsed.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::parse(text)
            }
        }
    };
}

name_type! {
    /// The id of a run.
    ///
    /// Invariants:
    /// * 1 to 242 bytes, no `/`, `\` or control character, no leading dot;
    /// * kept verbatim.
    ///
    /// ```
    /// use metalab_store_guest::names::{NameReason, RunId};
    ///
    /// for good in ["ab715c67c9710b4f", "run.with.dots", "Ünïcode-ïd", "a b", "*", "x.tmp.deadbeef"] {
    ///     assert_eq!(RunId::parse(good)?.as_str(), good);
    /// }
    /// for bad in ["", ".", "..", ".hidden", "a/b", "/a", "a\\b", "a\0b", "a\nb", "a\u{85}b", &"x".repeat(243)] {
    ///     assert!(RunId::parse(bad).is_err(), "{bad:?}");
    /// }
    /// assert!(RunId::parse(&"x".repeat(242)).is_ok());
    /// assert_eq!(RunId::parse("a\nb").unwrap_err().reason, NameReason::Control('\n'));
    /// # Ok::<(), metalab_store_guest::names::NameError>(())
    /// ```
    RunId
}

impl RunId {
    fn refusal(text: &str) -> Option<NameReason> {
        refusal(text, NAME_LIMIT)
    }

    /// Tells whether the id has the form that ids computed from parameters have: 16 lowercase hexadecimal digits.
    ///
    /// Uppercase digits do not count: they are never computed, so such an id was chosen by a person, like
    /// any other.
    ///
    /// ```
    /// use metalab_store_guest::names::RunId;
    ///
    /// assert!(RunId::parse("ab715c67c9710b4f")?.is_fingerprint());
    /// assert!(!RunId::parse("AB715C67C9710B4F")?.is_fingerprint());
    /// assert!(!RunId::parse("run_1")?.is_fingerprint());
    /// # Ok::<(), metalab_store_guest::names::NameError>(())
    /// ```
    pub fn is_fingerprint(&self) -> bool {
        is_lower_hex(self.0.as_bytes(), 16)
    }

    /// Returns the first 8 characters, which the file names of old logs carry; nothing if there are fewer.
    ///
    /// ```
    /// use metalab_store_guest::names::RunId;
    ///
    /// assert_eq!(RunId::parse("ab715c67c9710b4f")?.prefix8(), Some("ab715c67"));
    /// assert_eq!(RunId::parse("Ünïcode-ïd")?.prefix8(), Some("Ünïcode-"));
    /// assert_eq!(RunId::parse("run_1")?.prefix8(), None);
    /// # Ok::<(), metalab_store_guest::names::NameError>(())
    /// ```
    pub fn prefix8(&self) -> Option<&str> {
        let (last, character) = self.0.char_indices().nth(7)?;
        Some(&self.0[..last + character.len_utf8()])
    }
}

name_type! {
    /// The id of an experiment, usually `name:version`.
    ///
    /// Invariants:
    /// * 1 to 242 bytes, no `/`, `\` or control character, no leading dot;
    /// * the same holds for [`ExperimentId::directory_name`];
    /// * kept verbatim.
    ///
    /// ```
    /// use metalab_store_guest::names::{ExperimentId, NameReason};
    ///
    /// assert_eq!(ExperimentId::parse("curve_fit:1.0")?.as_str(), "curve_fit:1.0");
    /// assert_eq!(ExperimentId::parse("").unwrap_err().reason, NameReason::Empty);
    /// assert_eq!(ExperimentId::parse("../other").unwrap_err().reason, NameReason::LeadingDot);
    /// assert_eq!(ExperimentId::parse("a/b").unwrap_err().reason, NameReason::Separator('/'));
    /// # Ok::<(), metalab_store_guest::names::NameError>(())
    /// ```
    ExperimentId
}

impl ExperimentId {
    fn refusal(text: &str) -> Option<NameReason> {
        // The directory name needs no check of its own: it differs in `_` for `:` only.
        refusal(text, NAME_LIMIT)
    }

    /// Returns the name of the experiment's directory: the id with `_` for each `:`.
    ///
    /// Two ids can share one (`a:1` and `a_1`). `_meta.json` in the directory tells whose it is, and the
    /// second id is a conflict.
    ///
    /// ```
    /// use metalab_store_guest::names::ExperimentId;
    ///
    /// assert_eq!(ExperimentId::parse("curve_fit:1.0")?.directory_name(), "curve_fit_1.0");
    /// assert_eq!(ExperimentId::parse("a:b:c")?.directory_name(), "a_b_c");
    /// assert_eq!(ExperimentId::parse(":a")?.directory_name(), "_a");
    /// # Ok::<(), metalab_store_guest::names::NameError>(())
    /// ```
    pub fn directory_name(&self) -> String {
        self.0.replace(':', "_")
    }
}

name_type! {
    /// The name of an artifact, unique within its run.
    ///
    /// Invariants:
    /// * 1 to 242 bytes, no `/`, `\` or control character, no leading dot;
    /// * not `_manifest`, whose file lists the others;
    /// * kept verbatim.
    ///
    /// ```
    /// use metalab_store_guest::names::{ArtifactName, NameReason};
    ///
    /// assert_eq!(ArtifactName::parse("weights.v2")?.as_str(), "weights.v2");
    /// assert_eq!(ArtifactName::parse("_manifest").unwrap_err().reason, NameReason::Reserved);
    /// assert_eq!(ArtifactName::parse("..").unwrap_err().reason, NameReason::LeadingDot);
    /// assert_eq!(ArtifactName::parse("a\\b").unwrap_err().reason, NameReason::Separator('\\'));
    /// # Ok::<(), metalab_store_guest::names::NameError>(())
    /// ```
    ArtifactName
}

impl ArtifactName {
    fn refusal(text: &str) -> Option<NameReason> {
        refusal(text, NAME_LIMIT).or_else(|| (text == "_manifest").then_some(NameReason::Reserved))
    }
}

name_type! {
    /// The format of an artifact: what follows the dot in the name of its file.
    ///
    /// Invariants:
    /// * 0 to 242 bytes, no `/`, `\` or control character; empty means a file name without a dot;
    /// * a dot may stand anywhere, since the format never begins a file name;
    /// * kept verbatim.
    ///
    /// ```
    /// use metalab_store_guest::names::{ArtifactFormat, NameReason};
    ///
    /// for good in ["json", "tar.gz", "", ".npz"] {
    ///     assert_eq!(ArtifactFormat::parse(good)?.as_str(), good);
    /// }
    /// assert_eq!(ArtifactFormat::parse("npz").unwrap().extension(), ".npz");
    /// assert_eq!(ArtifactFormat::parse("").unwrap().extension(), "");
    /// assert_eq!(ArtifactFormat::parse("/../x").unwrap_err().reason, NameReason::Separator('/'));
    /// # Ok::<(), metalab_store_guest::names::NameError>(())
    /// ```
    ArtifactFormat
}

impl ArtifactFormat {
    fn refusal(text: &str) -> Option<NameReason> {
        if text.len() > NAME_LIMIT {
            return Some(NameReason::TooLong {
                bytes: text.len(),
                limit: NAME_LIMIT,
            });
        }
        unsafe_character(text)
    }

    /// Returns what the file name has after the artifact's name: nothing, or a dot and the format.
    pub fn extension(&self) -> String {
        if self.0.is_empty() {
            String::new()
        } else {
            format!(".{}", self.0)
        }
    }

    /// Returns the format that a file brings with it: what follows the last dot of its name, if that dot
    /// neither begins nor ends the name.
    ///
    /// ```
    /// use metalab_store_guest::names::ArtifactFormat;
    ///
    /// assert_eq!(ArtifactFormat::of_file("weights.npz")?.as_str(), "npz");
    /// assert_eq!(ArtifactFormat::of_file("logs.tar.gz")?.as_str(), "gz");
    /// assert_eq!(ArtifactFormat::of_file(".bashrc")?.as_str(), "");
    /// assert_eq!(ArtifactFormat::of_file("README")?.as_str(), "");
    /// # Ok::<(), metalab_store_guest::names::NameError>(())
    /// ```
    ///
    /// # Errors
    /// [`NameError`] if what follows the dot cannot be a format.
    pub fn of_file(file_name: &str) -> Result<Self, NameError> {
        let suffix = &file_name[suffix_start(file_name)..];
        Self::parse(suffix.strip_prefix('.').unwrap_or(suffix))
    }
}

/// Returns where the suffix of a file name begins: at its last dot, or at the end if that dot begins or ends
/// the name or there is none. It is the rule of Python 3.11's `pathlib`, by which the reference stages.
pub(crate) fn suffix_start(file_name: &str) -> usize {
    match file_name.rfind('.') {
        Some(dot) if dot > 0 && dot + 1 < file_name.len() => dot,
        _ => file_name.len(),
    }
}

name_type! {
    /// The name of a structured result, unique within its run.
    ///
    /// Invariants:
    /// * 1 to 242 bytes, no `/`, `\` or control character, no leading dot;
    /// * kept verbatim.
    ///
    /// ```
    /// use metalab_store_guest::names::{NameReason, ResultName};
    ///
    /// assert_eq!(ResultName::parse("train_loss")?.as_str(), "train_loss");
    /// assert_eq!(ResultName::parse("a/../../b").unwrap_err().reason, NameReason::Separator('/'));
    /// assert_eq!(ResultName::parse("a\0").unwrap_err().reason, NameReason::Control('\0'));
    /// # Ok::<(), metalab_store_guest::names::NameError>(())
    /// ```
    ResultName
}

impl ResultName {
    fn refusal(text: &str) -> Option<NameReason> {
        refusal(text, NAME_LIMIT)
    }
}

name_type! {
    /// The name of a log, unique within its run.
    ///
    /// Invariants:
    /// * 1 to 242 bytes, no `/`, `\` or control character, no leading dot;
    /// * kept verbatim.
    ///
    /// ```
    /// use metalab_store_guest::names::{LogName, NameReason};
    ///
    /// assert_eq!(LogName::parse("stdout")?.as_str(), "stdout");
    /// assert_eq!(LogName::parse("").unwrap_err().reason, NameReason::Empty);
    /// assert_eq!(LogName::parse(".x").unwrap_err().reason, NameReason::LeadingDot);
    /// # Ok::<(), metalab_store_guest::names::NameError>(())
    /// ```
    LogName
}

impl LogName {
    fn refusal(text: &str) -> Option<NameReason> {
        refusal(text, NAME_LIMIT)
    }
}

name_type! {
    /// The timestamp in the name of a manifest file, without the counter that equal timestamps get.
    ///
    /// The default form is the local time as `20260301_085900`. A caller may give any other safe text. The
    /// order of the type is by code point, which for the default form is the order in time.
    ///
    /// Invariants:
    /// * 1 to 242 bytes, no `/`, `\` or control character, no leading dot;
    /// * does not end like a counter, so that the timestamp and the counter can be told apart in a file name
    ///   ([`ManifestStamp::parse_numbered`] takes such a text apart instead of refusing it);
    /// * kept verbatim.
    ///
    /// ```
    /// use metalab_store_guest::names::{ManifestStamp, NameReason};
    ///
    /// for good in ["20260301_085900", "2026-03-01T08:59:00", "v1", "20260301"] {
    ///     assert_eq!(ManifestStamp::parse(good)?.as_str(), good);
    /// }
    /// let refused = ManifestStamp::parse("20260301_085900_000001").unwrap_err();
    /// assert_eq!(refused.reason, NameReason::Counter);
    /// assert_eq!(ManifestStamp::parse("../x").unwrap_err().reason, NameReason::LeadingDot);
    /// # Ok::<(), metalab_store_guest::names::NameError>(())
    /// ```
    ManifestStamp
}

impl ManifestStamp {
    fn refusal(text: &str) -> Option<NameReason> {
        // Only a text of bounded length is taken apart.
        refusal(text, NAME_LIMIT)
            .or_else(|| (split_counter(text).1 != 0).then_some(NameReason::Counter))
    }

    /// Parses a timestamp that may carry a counter; without one the counter is 0.
    ///
    /// A timestamp with microseconds, `20260301_085900_123456`, has the form of a counted one. Taking it so
    /// gives it the same file name and the same place in the order as if it were one text.
    ///
    /// ```
    /// use metalab_store_guest::names::ManifestStamp;
    ///
    /// let (stamp, counter) = ManifestStamp::parse_numbered("20260301_085900_000002")?;
    /// assert_eq!((stamp.as_str(), counter), ("20260301_085900", 2));
    /// assert_eq!(stamp.numbered(counter)?, "20260301_085900_000002");
    ///
    /// let (stamp, counter) = ManifestStamp::parse_numbered("20260301_085900")?;
    /// assert_eq!((stamp.as_str(), counter), ("20260301_085900", 0));
    /// # Ok::<(), metalab_store_guest::names::NameError>(())
    /// ```
    ///
    /// # Errors
    /// [`NameError`] if the timestamp breaks one of the invariants other than the one about counters.
    pub fn parse_numbered(text: &str) -> Result<(Self, u32), NameError> {
        // A hostile length is refused before the text is taken apart.
        if let Some(reason) = refusal(text, NAME_LIMIT) {
            return Err(NameError::new(NameKind::ManifestStamp, text, reason));
        }
        let (stamp, counter) = split_counter(text);
        Ok((Self::parse(stamp)?, counter))
    }

    /// Returns the text with its counter as a file name has it: `_` and 6 digits, nothing for 0.
    ///
    /// After 8 digits alone the counter has 7, since `20260301_000001` is a second after midnight.
    ///
    /// ```
    /// use metalab_store_guest::names::ManifestStamp;
    ///
    /// assert_eq!(ManifestStamp::parse("v1")?.numbered(0)?, "v1");
    /// assert_eq!(ManifestStamp::parse("v1")?.numbered(1)?, "v1_000001");
    /// assert_eq!(ManifestStamp::parse("20260301")?.numbered(1)?, "20260301_0000001");
    /// assert!(ManifestStamp::parse("v1")?.numbered(1_000_000).is_err());
    /// # Ok::<(), metalab_store_guest::names::NameError>(())
    /// ```
    ///
    /// # Errors
    /// [`NameReason::CounterTooLarge`] above 999,999.
    pub fn numbered(&self, counter: u32) -> Result<String, NameError> {
        match counter {
            0 => Ok(self.0.clone()),
            1..=999_999 if is_digits(&self.0, 8) => Ok(format!("{}_{counter:07}", self.0)),
            1..=999_999 => Ok(format!("{}_{counter:06}", self.0)),
            _ => Err(NameError::new(
                NameKind::ManifestStamp,
                &self.0,
                NameReason::CounterTooLarge(counter),
            )),
        }
    }

    /// Tells whether it has the default form, 8 digits, `_` and 6 digits.
    ///
    /// ```
    /// use metalab_store_guest::names::ManifestStamp;
    ///
    /// assert!(ManifestStamp::parse("20260301_085900")?.is_default_form());
    /// assert!(!ManifestStamp::parse("2_20260301")?.is_default_form());
    /// # Ok::<(), metalab_store_guest::names::NameError>(())
    /// ```
    pub fn is_default_form(&self) -> bool {
        is_default_stamp(&self.0)
    }
}

/// Tells whether `text` is exactly `count` ASCII digits.
fn is_digits(text: &str, count: usize) -> bool {
    text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Tells whether `text` is 8 digits, `_` and 6 digits.
pub(crate) fn is_default_stamp(text: &str) -> bool {
    text.split_once('_')
        .is_some_and(|(date, time)| is_digits(date, 8) && is_digits(time, 6))
}

/// Takes the counter off a timestamp; 0 if it has none.
///
/// It inverts [`ManifestStamp::numbered`]: what is left of `_` counts as a timestamp only if it has no
/// counter itself, so there is exactly one way to take a text apart. Recursion ends: each step is at least 7
/// bytes shorter, and callers bound the length.
fn split_counter(text: &str) -> (&str, u32) {
    if is_default_stamp(text) {
        return (text, 0);
    }
    let Some((stamp, digits)) = text.rsplit_once('_') else {
        return (text, 0);
    };
    let width = if is_digits(stamp, 8) { 7 } else { 6 };
    if stamp.is_empty() || !is_digits(digits, width) || split_counter(stamp).1 != 0 {
        return (text, 0);
    }
    match digits.parse() {
        Ok(counter @ 1..=999_999) => (stamp, counter),
        _ => (text, 0),
    }
}

/// Texts that callers and enemies may pass as names, for the property tests of this crate.
#[cfg(test)]
pub(crate) mod generate {
    use proptest::prelude::*;
    use proptest::sample::select;

    /// What file names, their suffixes and their collisions are made of.
    const PIECES: &[&str] = &[
        "a",
        "b",
        "A",
        "_",
        "_",
        ".",
        "..",
        ":",
        "*",
        " ",
        "ü",
        ".json",
        ".log",
        ".txt",
        ".done",
        ".lock",
        ".tmp.deadbeef",
        ".tmp.",
        "_manifest",
        "_meta",
        "journal-",
        "staging",
        "artifacts",
        "runs",
        "1",
        "0123456789abcdef",
        "0123456789abcdeF",
        "ab715c67",
        "20260301",
        "_085900",
        "_000001",
        "\u{2028}",
        "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    ];

    /// What no file name may hold.
    const POISON: &[&str] = &[
        "/", "\\", "\0", "\n", "\u{7f}", "\u{85}", "/../", "../", "..\\",
    ];

    /// Returns texts of which about half are names.
    pub(crate) fn texts() -> impl Strategy<Value = String> {
        let piece = prop_oneof![12 => select(PIECES), 1 => select(POISON)];
        prop_oneof![
            6 => prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat()),
            1 => prop::collection::vec(any::<char>(), 0..12).prop_map(String::from_iter),
        ]
    }

    /// Returns texts that are likely to be taken for each other: few pieces, no poison.
    pub(crate) fn twins() -> impl Strategy<Value = String> {
        let pieces = [
            "a",
            "b",
            "_",
            "_",
            ".log",
            ".tmp.deadbeef",
            "0123456789abcdef",
            "ab715c67",
        ];
        prop::collection::vec(select(pieces.to_vec()), 1..5).prop_map(|pieces| pieces.concat())
    }

    /// Returns texts that look like timestamps with and without counters.
    pub(crate) fn stamps() -> impl Strategy<Value = String> {
        let pieces = [
            "20260301", "_", "_", "085900", "000001", "0", "0000001", "v", "2",
        ];
        prop::collection::vec(select(pieces.to_vec()), 1..7).prop_map(|pieces| pieces.concat())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_refusal_names_the_kind_the_name_the_reason_and_the_way_out() {
        let long = "x".repeat(300);
        let messages = [
            RunId::parse("").unwrap_err(),
            RunId::parse(&long).unwrap_err(),
            LogName::parse("a\u{1b}[2J").unwrap_err(),
            ExperimentId::parse("a/b").unwrap_err(),
            ArtifactName::parse("_manifest").unwrap_err(),
            ManifestStamp::parse("v1_000001").unwrap_err(),
        ]
        .map(|error| error.to_string());
        let expected = [
            r#"run id "" is empty; give it at least one character"#.to_owned(),
            format!(r#"run id "{}"... has 300 bytes; use at most 242"#, "x".repeat(64)),
            r#"log name "a\u{1b}[2J" holds the control character '\u{1b}'; leave it out"#.to_owned(),
            r#"experiment id "a/b" holds '/', which separates the parts of a path; write '_' or '-' instead"#
                .to_owned(),
            r#"artifact name "_manifest" is a name that the store uses itself; choose another one"#.to_owned(),
            r#"manifest timestamp "v1_000001" ends like the counter of an equal timestamp ('_' and 6 digits); pass the part before it and the counter apart"#
                .to_owned(),
        ];
        assert_eq!(messages, expected);
    }

    #[test]
    fn an_error_keeps_the_name_whole_although_its_message_cuts_it() {
        let long = "ü".repeat(200);
        let error = RunId::parse(&long).unwrap_err();
        assert_eq!(error.name, long);
        assert_eq!(
            error.reason,
            NameReason::TooLong {
                bytes: 400,
                limit: 242
            }
        );
        assert!(
            error
                .to_string()
                .contains(&format!("\"{}\"...", "ü".repeat(64)))
        );
    }

    #[test]
    fn the_limit_counts_bytes_not_characters() {
        assert!(RunId::parse(&"ü".repeat(121)).is_ok());
        assert!(RunId::parse(&"ü".repeat(122)).is_err());
    }

    #[test]
    fn the_line_separators_are_no_control_characters() {
        assert!(LogName::parse("a\u{2028}b\u{2029}").is_ok());
    }

    #[test]
    fn a_hostile_timestamp_of_any_length_is_refused_without_taking_it_apart() {
        let hostile = "_000001".repeat(1_000_000);
        let reason = NameReason::TooLong {
            bytes: hostile.len(),
            limit: NAME_LIMIT,
        };
        assert_eq!(ManifestStamp::parse(&hostile).unwrap_err().reason, reason);
        assert_eq!(
            ManifestStamp::parse_numbered(&hostile).unwrap_err().reason,
            reason
        );
    }

    #[test]
    fn a_counter_of_zero_or_of_a_counted_timestamp_belongs_to_the_text() {
        for whole in [
            "v1_000000",
            "a_000001_000002",
            "20260301_085900",
            "_000001",
            "20260301_1000000",
            "1234567_0000001",
        ] {
            let (stamp, counter) = ManifestStamp::parse_numbered(whole).unwrap();
            assert_eq!((stamp.as_str(), counter), (whole, 0), "{whole}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 120_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_accepted_is_safe_and_comes_back_verbatim(text in generate::texts()) {
            // Written anew, so that a slip in the rule itself shows.
            let plain = (1..=242).contains(&text.len())
                && !text.starts_with('.')
                && !text.contains(|c: char| c == '/' || c == '\\' || c < ' ' || ('\u{7f}'..='\u{9f}').contains(&c));
            let kept = [
                RunId::parse(&text).map(|name| name.to_string()),
                ExperimentId::parse(&text).map(|name| name.to_string()),
                ResultName::parse(&text).map(|name| name.to_string()),
                LogName::parse(&text).map(|name| name.to_string()),
            ];
            for name in kept {
                prop_assert_eq!(name.ok(), plain.then(|| text.clone()));
            }
            let artifact = ArtifactName::parse(&text).map(|name| name.to_string()).ok();
            prop_assert_eq!(artifact, (plain && text != "_manifest").then(|| text.clone()));
            let numbered = ManifestStamp::parse_numbered(&text).and_then(|(stamp, counter)| stamp.numbered(counter));
            prop_assert_eq!(numbered.ok(), plain.then(|| text.clone()));
            if let Ok(format) = ArtifactFormat::parse(&text) {
                prop_assert_eq!(format.as_str(), text.as_str());
                prop_assert!(text.is_empty() || text.starts_with('.') || plain);
            } else {
                prop_assert!(!plain);
            }
        }

        #[test]
        fn a_timestamp_and_its_counter_are_told_apart_in_one_way(text in generate::stamps(), counter in 0_u32..3) {
            if let Ok((stamp, first)) = ManifestStamp::parse_numbered(&text) {
                prop_assert_eq!(&stamp.numbered(first).unwrap(), &text);
                prop_assert_eq!(ManifestStamp::parse(&text).is_ok(), first == 0);
                for counter in [counter, counter + 999_997] {
                    let numbered = stamp.numbered(counter).unwrap();
                    prop_assert_eq!(ManifestStamp::parse_numbered(&numbered).unwrap(), (stamp.clone(), counter));
                }
            }
        }
    }
}
