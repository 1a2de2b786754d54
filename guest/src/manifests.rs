//! Experiment manifests: `experiments/{experiment}_{timestamp}.json`.

use crate::codec;
use crate::commit::Change;
use crate::error::{Error, Result};
use crate::json::{Object, Value};
use crate::layout::{self, StorePath, Top};
use crate::model::{Manifest, ManifestHeader};
use crate::names::{ExperimentId, ManifestStamp};
use crate::scope::Scope;
use crate::time;

/// The lock that orders writers of manifests: a name must be chosen and taken in one step.
pub(crate) const LOCK: &str = "manifests";

/// Names one of several manifests with an equal timestamp, as its file does.
pub(crate) fn numbered(stamp: &str, counter: u32) -> String {
    match counter {
        0 => stamp.to_owned(),
        _ => format!("{stamp}_{counter:06}"),
    }
}

/// How many manifests may have an equal timestamp.
const MAX_COUNTER: u32 = 999_999;

impl Scope {
    /// Stores a manifest under a name that no other has.
    pub(crate) fn put_manifest(
        &self,
        experiment: &ExperimentId,
        body: Object<'_>,
        stamp: Option<&ManifestStamp>,
        first: u32,
    ) -> Result<ManifestHeader> {
        if let Some(scope) = &self.experiment
            && scope != experiment
        {
            return Err(Error::Conflict {
                current: None,
                message: format!(
                    "the manifest is one of experiment {:?}, this store is limited to {:?}",
                    experiment.as_str(),
                    scope.as_str()
                ),
            });
        }
        self.prepare_write()?;
        let stamp = match stamp {
            Some(stamp) => stamp.clone(),
            None => self.default_stamp()?,
        };
        let held = self.lock_named(LOCK, "the list of manifests")?;
        let text = codec::print(&Value::Object(body));
        for counter in first..=MAX_COUNTER {
            let path = layout::experiment_manifest(experiment, &stamp, counter)?;
            if self.tree.stat(&path)?.is_some() {
                continue;
            }
            self.commit(&held, vec![Change::put(path, None, text.as_bytes())])?;
            self.reflect_manifest(experiment, &numbered(stamp.as_str(), counter), &text);
            return Ok(ManifestHeader {
                experiment_id: experiment.as_str().to_owned(),
                timestamp: stamp.as_str().to_owned(),
                counter,
            });
        }
        Err(Error::AlreadyExists(format!(
            "{MAX_COUNTER} manifests of {:?} have the timestamp {:?}; choose another",
            experiment.as_str(),
            stamp.as_str()
        )))
    }

    fn default_stamp(&self) -> Result<ManifestStamp> {
        let micros = i64::try_from(self.ports.clock.now() / 1_000).unwrap_or(i64::MAX);
        let offset = self.ports.roots.utc_offset(micros / 1_000_000);
        let stamp = time::format_naive(micros, offset).map_err(|reason| {
            Error::InvalidArgument(format!(
                "the clock gives no timestamp for the manifest: {reason}; pass one"
            ))
        })?;
        Ok(ManifestStamp::parse(&stamp)?)
    }

    /// Lists the manifests of the directory with their experiments and their stamps: those that say which
    /// experiment they are of, and, in an experiment's own directory, those that say nothing.
    pub(crate) fn all_manifests(&self) -> Result<Vec<(ExperimentId, String, StorePath)>> {
        let mut found = Vec::new();
        for entry in self.tree.list(&layout::directory(Top::Experiments))? {
            if layout::manifest_parts(&entry.name).is_none() {
                continue;
            }
            let path = layout::directory(Top::Experiments).child(&entry.name)?;
            let Some(content) = self.tree.read(&path, codec::MAX_DOCUMENT)? else {
                continue;
            };
            let named = match codec::parse_object(&entry.name, &content) {
                Ok(mut body) => body.remove("experiment_id"),
                Err(_) => None,
            };
            let named = named.as_ref().and_then(Value::as_str);
            let experiment = match named {
                Some(named) => ExperimentId::parse(named).ok(),
                None => self.experiment.clone(),
            };
            if let Some(experiment) = experiment
                && let Some((stamp, counter)) = layout::manifest_of(&entry.name, &experiment)
            {
                found.push((experiment, numbered(stamp.as_str(), counter), path));
            }
        }
        Ok(found)
    }

    /// Lists the manifests of an experiment, the newest first.
    pub(crate) fn list_manifests(&self, experiment: &ExperimentId) -> Result<Vec<ManifestHeader>> {
        let mut found = Vec::new();
        for entry in self.tree.list(&layout::directory(Top::Experiments))? {
            let Some((stamp, counter)) = layout::manifest_of(&entry.name, experiment) else {
                continue;
            };
            let path = layout::experiment_manifest(experiment, &stamp, counter)?;
            let Some(content) = self.tree.read(&path, codec::MAX_DOCUMENT)? else {
                continue;
            };
            // A file of experiment `a_b` also looks like one of `a`: its own word decides. One that says
            // nothing, or is damaged, is taken by its name if that can be read in one way only.
            let named = match codec::parse_object(&entry.name, &content) {
                Ok(mut body) => body.remove("experiment_id"),
                Err(_) => None,
            };
            let belongs = match named {
                Some(Value::String(named)) => named.as_str() == Some(experiment.as_str()),
                _ => stamp.is_default_form(),
            };
            if belongs {
                found.push((stamp, counter));
            }
        }
        found.sort_by(|a, b| (b.0.as_str(), b.1).cmp(&(a.0.as_str(), a.1)));
        Ok(found
            .into_iter()
            .map(|(stamp, counter)| ManifestHeader {
                experiment_id: experiment.as_str().to_owned(),
                timestamp: stamp.as_str().to_owned(),
                counter,
            })
            .collect())
    }

    /// Returns the newest manifest of an experiment.
    pub(crate) fn newest_manifest(&self, experiment: &ExperimentId) -> Result<Option<Manifest>> {
        for header in self.list_manifests(experiment)? {
            let stamp = ManifestStamp::parse(&header.timestamp)?;
            let path = layout::experiment_manifest(experiment, &stamp, header.counter)?;
            // One that vanished since the directory was listed is not the newest.
            let Some(content) = self.tree.read(&path, codec::MAX_DOCUMENT)? else {
                continue;
            };
            let file = self.tree.path(&path);
            let body = codec::parse_object(&file, &content)?;
            return Ok(Some(Manifest {
                header,
                body: codec::print_line(&Value::Object(body)),
            }));
        }
        Ok(None)
    }
}
