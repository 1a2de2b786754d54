//! Copying runs from one store to another, or into an archive.
//!
//! A component sees one store. So a copy is a *stream*: the source's instance hands it out in pieces
//! ([`Sender`]), the destination's instance takes it ([`Receiver`]), and the host carries the pieces and knows
//! nothing of what they hold. The stream is a tar archive (`tar`), and an archive is the stream, compressed
//! ([`Packer`], [`Unpacker`]).
//!
//! The stream goes experiment by experiment and *unit* by unit. A unit is a run with everything that belongs
//! to it, or a file that belongs to none. After its files comes a note with its digest, and only then does the
//! receiver put any of them in place, under the run's lock, the record last. So a run that is new at the
//! destination has a record only once it is whole, and a run that was changed while it was read is never copied
//! half. One that is being replaced can be left between old and new by a kill; the same copy again goes on.
//!
//! Files are staged and renamed without a sync; one sync of everything comes at the end. A copy that was ended
//! before it is done again: what is there with the same content is not written a second time.

mod archive;
pub(crate) mod digest;
pub(crate) mod inventory;
mod note;
mod receiver;
mod sender;
#[cfg(target_family = "wasm")]
mod surface;
mod tar;

pub use archive::{Packer, Unpacker};
pub use receiver::{Elsewhere, Receiver, Step};
pub use sender::{Progress, Sender};

/// The most bytes of the stream that cross the component's surface in one call.
pub const MAX_CHUNK: usize = 256 * 1024;

/// The most bytes of a unit that are kept in memory. A run with more is streamed.
const KEPT: u64 = 4 * 1024 * 1024;

/// The most failures that are told one by one.
pub const MAX_FAILURES: usize = 10_000;

/// What is copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// The experiments; all if there are none.
    pub experiments: Vec<String>,
    /// Which runs, as a query says; all if it is empty. A run without a record matches no query.
    pub filter: String,
    /// Whether artifacts and their manifests are copied.
    pub artifacts: bool,
    /// Whether derived metrics are copied.
    pub derived: bool,
    /// Whether structured results are copied.
    pub results: bool,
    /// Whether logs are copied.
    pub logs: bool,
}

impl Default for Selection {
    fn default() -> Self {
        Self {
            experiments: Vec::new(),
            filter: String::new(),
            artifacts: true,
            derived: true,
            results: true,
            logs: true,
        }
    }
}

/// What happens to a run that the destination has with another content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Existing {
    /// It stays, and that is reported as a failure.
    #[default]
    Fail,
    /// It stays. Any run that has a record already is passed over, whatever it holds.
    Skip,
    /// It is replaced: a run whose record comes is then what the source has of it, and nothing else.
    Overwrite,
}

/// How a stream is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ReceiveOptions {
    /// What happens to a run that is there with another content.
    pub existing: Existing,
    /// Whether nothing is written, and only told what would be.
    pub dry_run: bool,
    /// Whether the places of artifacts are rewritten to those of this store.
    pub rewrite_uris: bool,
    /// Whether another experiment's part is answered with its name, for the host to open its store.
    pub redirect: bool,
}

/// How much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Counts {
    /// Runs.
    pub runs: u64,
    /// Files.
    pub files: u64,
    /// Bytes in these files.
    pub bytes: u64,
}

impl Counts {
    fn add(&mut self, runs: u64, files: u64, bytes: u64) {
        self.runs += runs;
        self.files += files;
        self.bytes += bytes;
    }
}

/// Something that was not copied, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The experiment; empty for what belongs to none.
    pub experiment_id: String,
    /// The run, if it is about one.
    pub run_id: Option<String>,
    /// The file, if it is about one, relative to the experiment's directory.
    pub file: Option<String>,
    /// What is wrong, in one sentence.
    pub reason: String,
}

/// What an experiment holds, as one number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExperimentDigest {
    /// The experiment; empty for what belongs to none.
    pub experiment_id: String,
    /// How many runs it has.
    pub runs: u64,
    /// The digest, in hexadecimal.
    pub digest: String,
}

/// What became of a stream. Every run and file of it is counted once: as copied, as skipped since it is there
/// already, or as failed.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Report {
    /// What was written.
    pub copied: Counts,
    /// What was there already, or was to be passed over.
    pub skipped: Counts,
    /// What was not copied.
    pub failed: Counts,
    /// How many files were removed: those of a replaced run that the source does not have.
    pub removed: u64,
    /// What was not copied, and why; at most 10,000 of them.
    pub failures: Vec<Failure>,
    /// The digests of what came, experiment by experiment: the same at the source.
    pub digests: Vec<ExperimentDigest>,
}

impl Report {
    fn fail(&mut self, failure: Failure) {
        if self.failures.len() < MAX_FAILURES {
            self.failures.push(failure);
        }
    }
}
