//! The experiments below a collection's root.

use crate::error::{Error, Result};
use crate::layout::{self, Top};
use crate::model::Damage;
use crate::names::ExperimentId;
use crate::ports::Kind;
use crate::run_list::damage;
use crate::scope::Scope;
use std::rc::Rc;

/// The experiments of a collection, and what could not be told.
#[derive(Default)]
pub(crate) struct Collection {
    /// The scope of each experiment's directory, sorted by id, then by directory.
    pub(crate) scopes: Vec<Rc<Scope>>,
    /// Files that should say which experiment a directory belongs to, and do not; links.
    pub(crate) damaged: Vec<Damage>,
}

/// Looks for experiments: direct child directories whose `_meta.json` names one.
pub(crate) fn discover(root: &Scope) -> Result<Collection> {
    let mut found = Collection::default();
    for entry in root.tree.list(&layout::directory(Top::Root))? {
        if entry.name.starts_with('.') {
            continue;
        }
        match entry.kind {
            Kind::Directory => {}
            Kind::Link => {
                found.damaged.push(Damage {
                    reason: format!("{} is a symbolic link; links are not followed", entry.name),
                    file: entry.name,
                    offset: None,
                });
                continue;
            }
            Kind::File | Kind::Other => continue,
        }
        let Ok(unnamed) = ExperimentId::parse(&entry.name) else {
            continue;
        };
        let child = match root.child(&entry.name, unnamed) {
            Ok(child) => child,
            Err(error) => {
                found.damaged.push(damage(error)?);
                continue;
            }
        };
        let declared = child
            .declared_experiment()
            .and_then(|declared| match declared {
                None => Ok(None),
                Some(id) => match ExperimentId::parse(&id) {
                    Ok(id) => Ok(Some(id)),
                    Err(reason) => Err(Error::corrupt(
                        child.tree.path(&layout::meta()),
                        None,
                        reason,
                    )),
                },
            });
        match declared {
            Ok(None) => {}
            Ok(Some(id)) => found.scopes.push(Rc::new(root.child(&entry.name, id)?)),
            Err(error) => found.damaged.push(damage(error)?),
        }
    }
    let id = |scope: &Rc<Scope>| {
        (
            scope.experiment.as_ref().map(|id| id.as_str().to_owned()),
            scope.outside.clone(),
        )
    };
    found.scopes.sort_by_cached_key(id);
    found.damaged.sort();
    Ok(found)
}
