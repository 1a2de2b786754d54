//! Rows of experiments whose directories are not in the collection any more: they are told, and removed on request.
//!
//! No query shows them, since a query asks for the rows of directories that are there. They are found and removed by what
//! the database says of directories, never by their experiment alone: another collection may have the same.

use super::Sql;
use super::state::{Place, State};
use super::sync::{lock_comparison, lock_writers_out};
use crate::error::{Error, Result};
use crate::layout::{self, Top};
use crate::names::ExperimentId;
use crate::ports::{DatabaseResult, Isolation, Kind, Lock, SqlValue, Transaction};
use crate::scope::Scope;
use crate::sql::directories::text;
use crate::sql::{projection, prune};
use std::rc::Rc;

/// An experiment that the index has something of, and whose directory is not in the collection any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphan {
    /// The experiment, as it is given to be pruned.
    pub experiment: String,
    /// Its runs in the index.
    pub runs: u64,
}

/// Returns the orphans of a collection, at most [`prune::MOST`], and how many there are. Its root is the first of its
/// directories.
pub(super) fn orphans(scopes: &[Rc<Scope>]) -> Result<(Vec<Orphan>, u64)> {
    let root = scopes.first();
    let Some((root, sql)) = root.and_then(|root| Some((root, root.sql.as_ref()?))) else {
        return Ok((Vec::new(), 0));
    };
    let entries = root.tree.list(&layout::directory(Top::Root))?;
    let names = || entries.iter().filter(|entry| entry.kind != Kind::File);
    let ids = ids(sql, scopes)?;
    let found = at(root, |collection| {
        let names = names().map(|entry| entry.name.as_str());
        let projection = sql.options.projection;
        let orphans = prune::orphans(&sql.schema, projection, collection, &ids, names);
        sql.ask(|database| database.query(&orphans, prune::MOST))
    })?;
    let mut orphans = Vec::new();
    let mut count = found.rows.first().map_or(0, |row| number(row, 3));
    for row in &found.rows {
        // A directory is named by what leads to it: an experiment that its rows name, or its own name.
        let named = text(row, 0).and_then(|name| {
            let of_runs = text(row, 1).filter(|experiment| leads_to(experiment, name));
            of_runs.or(Some(name).filter(|name| leads_to(name, name)))
        });
        match named {
            Some(experiment) => orphans.push(Orphan {
                experiment: experiment.to_owned(),
                runs: number(row, 2),
            }),
            // No store can have had such a directory.
            None => count = count.saturating_sub(1),
        }
    }
    Ok((orphans, count))
}

/// Says whether a text is an experiment whose directory has this name.
fn leads_to(experiment: &str, name: &str) -> bool {
    ExperimentId::parse(experiment)
        .ok()
        .and_then(|experiment| layout::experiment_directory(&experiment).ok())
        .is_some_and(|path| path.file_name() == name)
}

fn number(row: &[SqlValue], column: usize) -> u64 {
    match row.get(column) {
        Some(SqlValue::Integer(number)) => u64::try_from(*number).unwrap_or_default(),
        _ => 0,
    }
}

/// Shows where a collection is, as the database knows directories.
fn at<T>(root: &Scope, show: impl FnOnce(&prune::Collection<'_>) -> T) -> T {
    let here = Place::of(root);
    let inode = match here.inode {
        // It is not known.
        0 => String::new(),
        inode => inode.to_string(),
    };
    show(&prune::Collection {
        machine: &here.machine,
        inode: &inode,
        outside: &here.directory,
    })
}

/// Returns the ids of directories that are there, as far as they are known: one may have another name than when the database
/// saw it last.
fn ids(sql: &Sql, scopes: &[Rc<Scope>]) -> Result<Vec<String>> {
    let database = sql.id(true)?;
    let states = scopes.iter().filter_map(|scope| {
        let (_, state) = State::read(&scope.tree)?;
        (state.database == database && state.place.can_be(&Place::of(scope))).then_some(state.scope)
    });
    Ok(states.collect())
}

/// Experiments whose rows are about to be removed.
pub(super) struct Prune {
    sql: Rc<Sql>,
    /// The directories that are there; the first is the root.
    scopes: Vec<Rc<Scope>>,
    root: Rc<Scope>,
    experiments: Vec<ExperimentId>,
    /// Nobody compares the root meanwhile.
    _lock: Option<Box<dyn Lock>>,
}

impl Prune {
    /// Begins with the names of experiments, in a store whose own directory is `root`.
    pub(super) fn begin(
        sql: Rc<Sql>,
        root: &Rc<Scope>,
        scopes: &[Rc<Scope>],
        names: &[String],
    ) -> Result<Self> {
        let mut experiments = Vec::with_capacity(names.len());
        for name in names {
            let experiment = ExperimentId::parse(name)?;
            refuse(root, &experiment)?;
            experiments.push(experiment);
        }
        let lock = lock_comparison(root)?;
        sql.id(true)?;
        Ok(Self {
            sql,
            scopes: scopes.to_vec(),
            root: Rc::clone(root),
            experiments,
            _lock: lock,
        })
    }

    /// Returns how many they are.
    pub(super) fn len(&self) -> u64 {
        self.experiments.len() as u64
    }

    /// Removes their rows, all or none, and returns how many runs these were of.
    pub(super) fn run(self) -> Result<u64> {
        let ids = ids(&self.sql, &self.scopes)?;
        let deleted = self.delete(&ids);
        let (transaction, pruned) = self.sql.heard(deleted)?;
        for experiment in &self.experiments {
            // It may have come back meanwhile. One that comes back from now on is compared before it is believed.
            refuse(&self.root, experiment)?;
        }
        self.sql.heard(transaction.commit())?;
        Ok(pruned)
    }

    fn delete(&self, ids: &[String]) -> DatabaseResult<(Box<dyn Transaction>, u64)> {
        let schema = &self.sql.schema;
        let projection = self.sql.options.projection;
        let database = self.sql.database()?;
        let transaction = database.begin(Isolation::ReadCommitted, false)?;
        lock_writers_out(&*transaction, schema)?;
        if projection {
            transaction.execute(&projection::lock_manifests(schema))?;
        }
        let names: Vec<String> = self
            .experiments
            .iter()
            .map(ExperimentId::directory_name)
            .collect();
        let former = at(&self.root, |collection| {
            prune::former(schema, collection, &names, ids)
        });
        let former = transaction.query(&former, prune::FORMER)?;
        let scopes: Vec<String> = former
            .rows
            .iter()
            .filter_map(|row| text(row, 0))
            .map(str::to_owned)
            .collect();
        if projection {
            let experiments: Vec<&str> =
                self.experiments.iter().map(ExperimentId::as_str).collect();
            for delete in prune::projected(schema, &scopes, &experiments) {
                transaction.execute(&delete)?;
            }
        }
        let counted = transaction.query(&prune::own(schema, &scopes), 1)?;
        for forget in prune::forget(schema, projection, &scopes) {
            transaction.execute(&forget)?;
        }
        let pruned = counted.rows.first().map_or(0, |row| number(row, 0));
        Ok((transaction, pruned))
    }
}

/// Refuses to prune an experiment of another store, and one that has a directory.
fn refuse(root: &Scope, experiment: &ExperimentId) -> Result<()> {
    let name = experiment.as_str();
    let there = match &root.experiment {
        Some(own) if own != experiment => {
            return Err(Error::InvalidArgument(format!(
                "cannot prune experiment {name:?} with a store that is limited to {:?}; use the store of the whole collection",
                own.as_str()
            )));
        }
        Some(_) => Some(root.outside.clone()),
        None => {
            let path = layout::experiment_directory(experiment)?;
            let there = root.tree.stat(&path)?;
            there
                .filter(|there| there.kind != Kind::File)
                .map(|_| root.outside(&path))
        }
    };
    match there {
        None => Ok(()),
        Some(directory) => Err(Error::InvalidArgument(format!(
            "cannot prune experiment {name:?}: its directory {directory} is there, and a rebuild keeps the index in step with it; delete the runs that are not wanted, or remove the directory first"
        ))),
    }
}
