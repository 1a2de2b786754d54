//! Where a repair keeps what it replaces: `.quarantine/`, with a directory for each verification that repaired
//! something. Nothing in it is ever removed.

use crate::error::{Error, Result};
use crate::layout::{self, StorePath};
use crate::scope::Scope;
use crate::time;

/// The directory of one verification.
pub(super) struct Quarantine {
    batch: String,
}

impl Quarantine {
    /// Returns the directory, which gets its name when it is needed first.
    pub(super) fn open<'q>(slot: &'q mut Option<Self>, scope: &Scope) -> Result<&'q Self> {
        if slot.is_none() {
            let micros = i64::try_from(scope.ports.clock.now() / 1_000).unwrap_or(i64::MAX);
            let stamp = time::format_naive(micros, 0).unwrap_or_default();
            // Two verifications may repair in the same second.
            let token = scope.ports.random.next() >> 32;
            *slot = Some(Self {
                batch: format!("{stamp}_{token:08x}"),
            });
        }
        slot.as_ref().ok_or_else(|| Error::Io {
            file: String::new(),
            operation: "name",
            code: "io",
            outcome_unknown: false,
            message: "the quarantine has no name".into(),
        })
    }

    /// Returns where a file is kept.
    fn place(&self, path: &StorePath) -> Result<StorePath> {
        Ok(layout::quarantined(&self.batch, path)?)
    }

    /// Keeps a copy of a file that is about to be replaced, durably.
    pub(super) fn keep(&self, scope: &Scope, path: &StorePath, content: &[u8]) -> Result<()> {
        let place = self.place(path)?;
        if scope.tree.stat(&place)?.is_some() {
            // It was kept before it was replaced the first time.
            return Ok(());
        }
        scope.write_stage(&place, content, true)
    }

    /// Moves a file away, and says whether there was one.
    pub(super) fn take(&self, scope: &Scope, path: &StorePath) -> Result<bool> {
        if scope.tree.stat(path)?.is_none() {
            return Ok(false);
        }
        let place = self.place(path)?;
        if let Some(parent) = place.parent() {
            scope.tree.ensure_directory(&parent)?;
        }
        scope.tree.rename(path, &place)?;
        Ok(true)
    }
}
