//! What a run and an experiment hold, as one number: the same wherever they lie.
//!
//! `docs/transfer.md` describes it, so that anybody can compute it.

use crate::codec;
use crate::json::{Object, Value};
use crate::layout::{StorePath, Top};
use crate::scope::hex;
use sha2::{Digest as _, Sha256};
use std::borrow::Cow;

/// A SHA-256.
pub(crate) type Digest = [u8; 32];

/// Says whether a file names where artifacts lie, and so is different in each place.
pub(crate) fn names_places(path: &StorePath) -> bool {
    match path.top() {
        Top::Runs => path.rest().ends_with(".json"),
        Top::Artifacts => {
            path.file_name() == "_manifest.json" && path.rest().matches('/').count() == 1
        }
        _ => false,
    }
}

/// Returns the content of a file that counts: without the places of its artifacts.
///
/// Only a record and an artifact manifest with artifacts in them have any; all others, damaged ones too, count
/// as they are.
pub(crate) fn counted<'c>(path: &StorePath, content: &'c [u8]) -> Cow<'c, [u8]> {
    const KEY: &[u8] = b"\"uri\"";
    // Nearly all files without artifacts need not be parsed.
    if !names_places(path) || !content.windows(KEY.len()).any(|window| window == KEY) {
        return Cow::Borrowed(content);
    }
    let Ok(object) = codec::parse_object("", content) else {
        return Cow::Borrowed(content);
    };
    without_places(object).map_or(Cow::Borrowed(content), Cow::Owned)
}

/// Prints a document without the places of its artifacts; none if there are no places in it.
pub(crate) fn without_places(mut object: Object<'_>) -> Option<Vec<u8>> {
    let mut found = false;
    if let Some(Value::Array(artifacts)) = object.get_mut("artifacts") {
        for artifact in artifacts {
            if let Value::Object(artifact) = artifact {
                found |= artifact.remove("uri").is_some();
            }
        }
    }
    found.then(|| codec::print(&Value::Object(object)).into_bytes())
}

/// Returns the digest of a file whose content is in memory.
pub(crate) fn of_file(path: &StorePath, content: &[u8]) -> Digest {
    Sha256::digest(counted(path, content)).into()
}

/// Adds up a list: of a run's files, or of an experiment's runs and other files. In the order of its lines.
#[derive(Clone, Default)]
pub(crate) struct List(Sha256);

impl List {
    /// Adds a line, as `sha256sum` prints it.
    pub(crate) fn add(&mut self, digest: &Digest, name: &str) {
        self.0.update(hex(digest));
        self.0.update("  ");
        self.0.update(name);
        self.0.update("\n");
    }

    /// Returns the digest of the list.
    pub(crate) fn finish(self) -> Digest {
        self.0.finalize().into()
    }
}
