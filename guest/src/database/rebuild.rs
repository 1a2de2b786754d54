//! The query index seen from outside: how it is, and bringing it up to date on request.

use super::pending::notes;
pub use super::prune::Orphan;
use super::prune::{Prune, orphans};
use super::ready::place_in_grant;
use super::sync::Sync;
pub use super::sync::{SyncProgress, SyncReport};
use crate::error::{Error, Result};
use crate::model::{Access, Damage};
use crate::scope::Scope;
use std::collections::VecDeque;
use std::rc::Rc;

/// How a query index is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// There is no database: the files answer.
    None,
    /// It says what the files say, and answers.
    Current,
    /// It is not known to say what the files say: the files answer, until a store that may write has compared
    /// them.
    Behind,
    /// It does not answer, or refuses: the files answer.
    Unreachable,
}

/// What is known of a query index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexState {
    /// How it is.
    pub standing: Standing,
    /// Notes of runs that it was not told of.
    pub pending: u64,
    /// Why it was not asked last.
    pub trouble: Option<String>,
}

/// Looks at the query index of some directories, without changing anything.
pub(crate) fn index_state(scopes: &[Rc<Scope>]) -> Result<IndexState> {
    let mut state = IndexState {
        standing: Standing::None,
        pending: 0,
        trouble: None,
    };
    let Some(sql) = scopes.first().and_then(|scope| scope.sql.as_ref()) else {
        return Ok(state);
    };
    for scope in scopes {
        state.pending += notes(scope)?.len() as u64;
    }
    let believed = sql.believed(scopes, Access::ReadOnly)?;
    state.trouble = sql.trouble();
    state.standing = match (believed, &state.trouble) {
        (Some(_), _) => Standing::Current,
        (None, None) => Standing::Behind,
        (None, Some(_)) => Standing::Unreachable,
    };
    Ok(state)
}

/// Bringing the query index up to date, in steps. Dropping it leaves what was not finished as it was.
pub struct IndexRebuild {
    /// The directories of a collection, its root first; none for those of one that is not looked at as a whole.
    collection: Vec<Rc<Scope>>,
    prune: Option<Prune>,
    waiting: VecDeque<Rc<Scope>>,
    current: Option<Sync>,
    /// The path of the directory that is compared now.
    directory: String,
    report: SyncReport,
    pruned: u64,
    orphans: (Vec<Orphan>, u64),
}

impl IndexRebuild {
    /// Begins with the directories of a store, the first of which is its own, and with experiments to be pruned.
    pub(crate) fn begin(
        scopes: Vec<Rc<Scope>>,
        damaged: Vec<Damage>,
        prune: &[String],
    ) -> Result<Self> {
        if scopes.iter().any(|scope| scope.sql.is_none()) {
            return Err(Error::InvalidArgument(
                "a store of files has no index to rebuild but caches that it rebuilds itself; open it with a postgresql:// locator to rebuild its index".into(),
            ));
        }
        let own = scopes.first();
        let prune = match own.and_then(|own| Some((own, own.sql.clone()?))) {
            Some((own, sql)) if !prune.is_empty() => Some(Prune::begin(sql, own, &scopes, prune)?),
            _ => None,
        };
        let collection = match own {
            Some(own) if own.experiment.is_none() => scopes.clone(),
            _ => Vec::new(),
        };
        Self::new(scopes, collection, damaged, prune)
    }

    /// Begins with one directory, whatever is below it.
    pub(crate) fn of_directory(scope: &Rc<Scope>) -> Result<Self> {
        Self::new(vec![Rc::clone(scope)], Vec::new(), Vec::new(), None)
    }

    fn new(
        scopes: Vec<Rc<Scope>>,
        collection: Vec<Rc<Scope>>,
        damaged: Vec<Damage>,
        prune: Option<Prune>,
    ) -> Result<Self> {
        let mut rebuild = Self {
            collection,
            prune,
            waiting: scopes.into(),
            current: None,
            directory: String::new(),
            report: SyncReport {
                damaged,
                ..SyncReport::default()
            },
            pruned: 0,
            orphans: (Vec::new(), 0),
        };
        if rebuild.prune.is_none() {
            // What cannot work at all fails before anything is shown.
            rebuild.begin_next()?;
        }
        Ok(rebuild)
    }

    fn begin_next(&mut self) -> Result<()> {
        self.current = None;
        let Some((scope, sql)) = self
            .waiting
            .pop_front()
            .and_then(|scope| Some((Rc::clone(&scope), scope.sql.clone()?)))
        else {
            self.orphans = orphans(&self.collection)?;
            return Ok(());
        };
        self.directory = place_in_grant(&scope);
        self.current = Some(Sync::begin(&scope, &sql, true)?);
        Ok(())
    }

    /// Does the next piece, and says how far it is; none at the end.
    ///
    /// # Errors
    /// `database`, `io`, `locked`, and `invalid-argument` if an experiment to be pruned got a directory meanwhile.
    /// Directories that were finished before stay finished, and what was pruned stays so.
    pub fn step(&mut self) -> Result<Option<SyncProgress>> {
        if let Some(prune) = self.prune.take() {
            let experiments = prune.len();
            self.pruned = prune.run()?;
            // The first of the reference's runs are written anew where one that is gone had their place.
            self.begin_next()?;
            return Ok(Some(SyncProgress {
                phase: "prune",
                done: experiments,
                total: experiments,
            }));
        }
        let Some(current) = &mut self.current else {
            return Ok(None);
        };
        if current.step()? {
            return Ok(Some(current.progress()));
        }
        let progress = current.progress();
        let part = current.report();
        let report = &mut self.report;
        report.runs += part.runs;
        report.added += part.added;
        report.changed += part.changed;
        report.removed += part.removed;
        report.manifests += part.manifests;
        report.damaged.extend(part.damaged.iter().cloned());
        report.damaged.sort();
        self.begin_next()?;
        Ok(Some(progress))
    }

    /// Returns the path of the directory that is compared now, relative to the store's; empty for its own.
    #[must_use]
    pub fn directory(&self) -> &str {
        &self.directory
    }

    /// Returns what was found and done in the directories that are finished.
    #[must_use]
    pub fn report(&self) -> &SyncReport {
        &self.report
    }

    /// Returns how many runs were pruned.
    #[must_use]
    pub fn pruned(&self) -> u64 {
        self.pruned
    }

    /// Returns the orphans of a collection, once all of it is compared, and how many there are: more than are returned, if
    /// they are many.
    #[must_use]
    pub fn orphans(&self) -> (&[Orphan], u64) {
        let (orphans, count) = &self.orphans;
        (orphans, *count)
    }
}
