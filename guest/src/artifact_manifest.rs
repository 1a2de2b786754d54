//! The growth of a run's artifact manifest: each addition costs what it adds, however long the list is.
//!
//! The last manifest written is remembered with the state of its hash. If the file still has these bytes, a
//! new entry goes before the closing brackets: nothing is parsed, printed or hashed again, and the journal
//! gets the new entry alone.

use crate::commit::{Change, Content};
use crate::journal::Fingerprint;
use crate::layout;
use crate::names::RunId;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;

/// How a manifest ends that holds a list of artifacts and nothing else.
const TAIL: &[u8] = b"\n  ]\n}";

/// The longest manifest that is remembered, in bytes.
const REMEMBERED: usize = 4 * 1024 * 1024;

/// The manifest that was written last.
pub(crate) struct KnownManifest {
    run: RunId,
    content: Vec<u8>,
    written: Fingerprint,
    /// The state of the hash before the tail.
    hash: Sha256,
    /// The names of the artifacts in it.
    pub(crate) names: BTreeSet<String>,
    /// The files of the artifacts in it.
    pub(crate) files: BTreeSet<String>,
    /// The journal segment that holds the manifest whole, with the patches since.
    segment: Option<u64>,
}

/// A manifest to be written.
pub(crate) struct NewManifest {
    run: RunId,
    previous: Option<Fingerprint>,
    written: Fingerprint,
    content: Vec<u8>,
    /// The piece that was put in, and where, if the journal knows the rest.
    patch: Option<(usize, Vec<u8>)>,
    hash: Sha256,
    /// The names and files in it; none if it cannot grow by a piece.
    entries: Option<(BTreeSet<String>, BTreeSet<String>)>,
}

impl KnownManifest {
    /// Says whether this is the manifest of a run, and its file has this content.
    pub(crate) fn is(&self, run: &RunId, content: &[u8]) -> bool {
        self.run == *run && self.content == content
    }

    /// Puts a piece in before the tail.
    pub(crate) fn grown(
        mut self,
        name: &str,
        file: &str,
        piece: String,
        segment: Option<u64>,
    ) -> NewManifest {
        let at = self.content.len() - TAIL.len();
        let piece = piece.into_bytes();
        let mut content = self.content;
        content.truncate(at);
        content.extend_from_slice(&piece);
        content.extend_from_slice(TAIL);
        self.hash.update(&piece);
        self.names.insert(name.to_owned());
        self.files.insert(file.to_owned());
        let whole = self.hash.clone().chain_update(TAIL);
        NewManifest {
            run: self.run,
            previous: Some(self.written),
            written: Fingerprint {
                size: content.len() as u64,
                hash: Some(whole.finalize().into()),
            },
            content,
            patch: (segment.is_some() && segment == self.segment).then_some((at, piece)),
            hash: self.hash,
            entries: Some((self.names, self.files)),
        }
    }
}

impl NewManifest {
    /// Makes a manifest that is written whole.
    pub(crate) fn whole(
        run: &RunId,
        previous: Option<Fingerprint>,
        content: Vec<u8>,
        entries: Option<(BTreeSet<String>, BTreeSet<String>)>,
    ) -> Self {
        let (hash, written) = match content.strip_suffix(TAIL) {
            Some(head) => {
                let hash = Sha256::new_with_prefix(head);
                let whole = hash.clone().chain_update(TAIL);
                let written = Fingerprint {
                    size: content.len() as u64,
                    hash: Some(whole.finalize().into()),
                };
                (hash, written)
            }
            None => (Sha256::new(), Fingerprint::of(&content)),
        };
        Self {
            run: run.clone(),
            previous,
            written,
            entries: entries.filter(|_| content.ends_with(TAIL)),
            content,
            patch: None,
            hash,
        }
    }

    /// Returns the change that writes it.
    pub(crate) fn change(&self) -> Change<'_> {
        Change::Put {
            path: layout::artifact_manifest(&self.run),
            previous: self.previous,
            written: self.written,
            content: match &self.patch {
                None => Content::Base(self.content.as_slice().into()),
                Some((at, insert)) => Content::Patched {
                    whole: self.content.as_slice().into(),
                    at: *at as u64,
                    removed: 0,
                    insert: insert.clone(),
                },
            },
        }
    }

    /// Remembers it, now that it is written: the segment given holds it.
    pub(crate) fn known(self, segment: Option<u64>) -> Option<KnownManifest> {
        let (names, files) = self.entries?;
        (self.content.len() <= REMEMBERED).then_some(KnownManifest {
            run: self.run,
            content: self.content,
            written: self.written,
            hash: self.hash,
            names,
            files,
            segment,
        })
    }
}
