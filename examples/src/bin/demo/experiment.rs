//! The experiment as a runner does it: what is written about each run, and in which order.

use crate::fit::{Fit, Parameters, SEED, STEPS, evaluate, fit, samples};
use metalab_store::types::{
    ArtifactDescriptor, Expectation, Metric, MetricValue, Provenance, RunRecord, Status,
    StructuredResult,
};
use metalab_store::{Error, Store};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::time::Instant;

const NAME: &str = "curve_fit";

const LEARNING_RATES: [f64; 4] = [0.01, 0.1, 0.4, 1.2];
const MOMENTA: [f64; 4] = [0.0, 0.5, 0.9, 0.95];
const DEGREES: [u32; 4] = [1, 2, 3, 5];

/// A fit whose mean squared error is below this is as good as the noise lets it be.
const GOOD: f64 = 0.002;

/// Returns the first version of the experiment that is not there yet.
pub(crate) fn next_version(experiments: &[String]) -> String {
    let mut version = 1_u64;
    loop {
        let id = format!("{NAME}:{version}");
        if !experiments.contains(&id) {
            return id;
        }
        version += 1;
    }
}

/// What all runs of an experiment share.
struct Context<'a> {
    store: &'a Store,
    experiment: &'a str,
    samples: Vec<(f64, f64)>,
    context_fingerprint: String,
    seed_fingerprint: String,
    code_hash: String,
    host: Option<String>,
}

/// Runs the experiment into a store of its own; `progress` hears of each run before it begins.
///
/// Returns the ids of the runs.
pub(crate) fn run(
    store: &Store,
    experiment: &str,
    mut progress: impl FnMut(usize, usize),
) -> Result<Vec<String>, Error> {
    let samples = samples();
    let mut text = String::new();
    for (x, y) in &samples {
        text.extend([number(*x), ",".to_owned(), number(*y), "\n".to_owned()]);
    }
    let context = Context {
        store,
        experiment,
        samples,
        context_fingerprint: fingerprint(&text),
        seed_fingerprint: fingerprint(&seed()),
        code_hash: fingerprint(include_str!("fit.rs")),
        host: host(),
    };
    let grid = grid();
    let run_ids: Vec<String> = grid.iter().map(|point| context.run_id(*point)).collect();
    context.put_manifest(&run_ids)?;
    for (index, (parameters, run_id)) in grid.iter().zip(&run_ids).enumerate() {
        progress(index + 1, grid.len());
        context.run(run_id, *parameters)?;
    }
    Ok(run_ids)
}

fn grid() -> Vec<Parameters> {
    let mut grid = Vec::new();
    for learning_rate in LEARNING_RATES {
        for momentum in MOMENTA {
            for degree in DEGREES {
                grid.push(Parameters {
                    learning_rate,
                    momentum,
                    degree,
                });
            }
        }
    }
    grid
}

impl Context<'_> {
    /// Returns the id of a run: a fingerprint of all that distinguishes it.
    fn run_id(&self, parameters: Parameters) -> String {
        fingerprint(&format!(
            r#"{{"context_fp":"{}","experiment_id":"{}","params_fp":"{}","seed_fp":"{}"}}"#,
            self.context_fingerprint,
            self.experiment,
            params_fingerprint(parameters),
            self.seed_fingerprint
        ))
    }

    fn put_manifest(&self, run_ids: &[String]) -> Result<(), Error> {
        let version = self.experiment.split_once(':').map(|(_, version)| version);
        let manifest = json!({
            "experiment_id": self.experiment,
            "name": NAME,
            "version": version,
            "description": "fits polynomials to noisy samples by gradient descent",
            "tags": ["demo"],
            "operation": { "ref": "demo::fit", "name": "fit", "code_hash": self.code_hash },
            "params": { "learning_rate": LEARNING_RATES, "momentum": MOMENTA, "degree": DEGREES },
            "seeds": { "base": SEED, "replicates": 1 },
            "context_fingerprint": self.context_fingerprint,
            "metadata": { "steps": STEPS },
            "total_runs": run_ids.len(),
            "run_ids": run_ids,
            "submitted_at": now(),
        });
        self.store
            .put_experiment_manifest(self.experiment, &manifest.to_string(), None)?;
        Ok(())
    }

    /// Does one run. Its record is there from the start, so that others see that it is running.
    fn run(&self, run_id: &str, parameters: Parameters) -> Result<(), Error> {
        let started = Instant::now();
        let mut record = RunRecord::new(run_id, Status::Running);
        record.params_resolved = params(parameters).to_string();
        record.params_fingerprint = params_fingerprint(parameters);
        record
            .context_fingerprint
            .clone_from(&self.context_fingerprint);
        record.seed_fingerprint.clone_from(&self.seed_fingerprint);
        record.started_at = Some(now());
        record.finished_at.clone_from(&record.started_at);
        record.provenance = Provenance {
            code_hash: Some(self.code_hash.clone()),
            executor_id: Some("sequential".to_owned()),
            host: self.host.clone(),
            extra: json!({ "demo": env!("CARGO_PKG_VERSION") }).to_string(),
            ..Provenance::default()
        };
        let running = self.store.put_run_record(&record, &Expectation::Absent)?;

        let log = |level: &str, message: &str| {
            let short = run_id.get(..8).unwrap_or(run_id);
            let time = jiff::Zoned::now().strftime("%Y-%m-%d %H:%M:%S");
            let line = format!("{time} [{level:7}] [metalab.run.{short}.main] {message}\n");
            self.store.append_log(run_id, "run", &line, false).map(drop)
        };
        log("INFO", &format!("fitting with {}", record.params_resolved))?;
        let fit = fit(parameters, &self.samples, |step, loss| {
            log("INFO", &format!("step {step}: loss {loss:.6}"))
        })?;
        self.put_fit(run_id, &fit)?;

        let ((_, first), (steps, last)) = fit.ends();
        record.metrics = vec![
            float("final_loss", last),
            float("first_loss", first),
            Metric {
                name: "steps".to_owned(),
                value: MetricValue::Integer(steps.into()),
            },
        ];
        self.store.put_derived(
            run_id,
            &[
                float("improvement", first / last),
                float("rmse", last.sqrt()),
            ],
        )?;
        if let Some(message) = &fit.failure {
            log("ERROR", message)?;
            record.status = Status::Failed;
            let error = json!({ "type": "Diverged", "message": message, "traceback": null });
            record.error = Some(error.to_string());
        } else {
            log("INFO", "done")?;
            record.status = Status::Success;
            if last < GOOD {
                record.tags.push("good".to_owned());
            }
        }
        record.artifacts = self.store.list_artifacts(run_id)?;
        record.finished_at = Some(now());
        record.duration_ms = i64::try_from(started.elapsed().as_millis()).unwrap_or(i64::MAX);
        // Whoever changed the record meanwhile would lose the change; nobody should have.
        self.store
            .put_run_record(&record, &Expectation::Revision(running))?;
        Ok(())
    }

    /// Stores what a fit gave: its losses as a stepped metric, its coefficients and its curve as artifacts.
    fn put_fit(&self, run_id: &str, fit: &Fit) -> Result<(), Error> {
        let points: Vec<String> = fit
            .losses
            .iter()
            .map(|(step, loss)| format!("[{step}, {}]", number(*loss)))
            .collect();
        let mut losses = StructuredResult::new(format!("[{}]", points.join(", ")));
        losses.shape = Some(vec![points.len() as u64, 2]);
        losses.metadata = json!({ "type": "stepped_metric" }).to_string();
        self.store.put_result(run_id, "train_loss", &losses)?;

        let coefficients: Vec<String> = fit.coefficients.iter().map(|c| number(*c)).collect();
        let model = format!("{{\"coefficients\": [{}]}}", coefficients.join(", "));
        let descriptor = ArtifactDescriptor::new(run_id, "model", "json", "json");
        self.store.put_artifact(model.as_bytes(), &descriptor)?;

        let mut curve = String::from("x,y,fitted\n");
        for (x, y) in &self.samples {
            // Writing to a string cannot fail.
            writeln!(curve, "{x},{y},{}", evaluate(&fit.coefficients, *x)).ok();
        }
        let descriptor = ArtifactDescriptor::new(run_id, "curve", "file", "csv");
        self.store.put_artifact(curve.as_bytes(), &descriptor)?;
        Ok(())
    }
}

fn params(parameters: Parameters) -> serde_json::Value {
    json!({
        "degree": parameters.degree,
        "learning_rate": parameters.learning_rate,
        "momentum": parameters.momentum,
    })
}

/// Returns the fingerprint of the format's canonical JSON: sorted keys, no spaces, floats as text.
fn params_fingerprint(parameters: Parameters) -> String {
    let Parameters {
        learning_rate,
        momentum,
        degree,
    } = parameters;
    fingerprint(&format!(
        r#"{{"degree":{degree},"learning_rate":"{learning_rate:?}","momentum":"{momentum:?}"}}"#
    ))
}

fn seed() -> String {
    format!(r#"{{"base":{SEED}}}"#)
}

/// Returns the first 16 hexadecimal digits of the SHA-256 of a text.
fn fingerprint(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    digest
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Returns a number as the format's JSON has it, which knows numbers that are not finite.
fn number(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned()
    } else {
        format!("{value:?}")
    }
}

fn float(name: &str, value: f64) -> Metric {
    Metric {
        name: name.to_owned(),
        value: MetricValue::Float(value),
    }
}

/// Returns the local time without an offset, as the format's own runner writes it.
fn now() -> String {
    jiff::Zoned::now()
        .strftime("%Y-%m-%dT%H:%M:%S%.6f")
        .to_string()
}

fn host() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::{fingerprint, grid, next_version, number, params_fingerprint};
    use std::collections::BTreeSet;

    #[test]
    fn the_next_version_is_the_first_one_that_is_free() {
        let taken = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
        assert_eq!(next_version(&[]), "curve_fit:1");
        let ids = taken(&["curve_fit:1", "curve_fit:2", "other:3"]);
        assert_eq!(next_version(&ids), "curve_fit:3");
        assert_eq!(next_version(&taken(&["curve_fit:2"])), "curve_fit:1");
    }

    #[test]
    fn every_point_of_the_grid_has_a_fingerprint_of_its_own() {
        let fingerprints: BTreeSet<_> = grid().into_iter().map(params_fingerprint).collect();
        assert_eq!(fingerprints.len(), 64);
    }

    #[test]
    fn a_fingerprint_is_the_start_of_the_sha_256() {
        assert_eq!(fingerprint("abc"), "ba7816bf8f01cfea");
    }

    #[test]
    fn numbers_that_are_not_finite_are_kept() {
        let texts = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1.0].map(number);
        assert_eq!(texts, ["NaN", "Infinity", "-Infinity", "1.0"]);
    }
}
