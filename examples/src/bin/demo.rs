//! A small real experiment, through the component into a store: fits polynomials to noisy samples of a curve
//! by gradient descent, over a grid of learning rates, momenta and degrees. Too large a learning rate makes
//! a fit diverge, and that run fails.

use metalab_store::types::{
    ArtifactDescriptor, Expectation, Metric, MetricValue, Provenance, RunRecord, Status,
    StructuredResult,
};
use metalab_store::{Error, FileStoreConfig, Store};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::error::Error as StdError;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::time::Instant;

/// Prints a line. Whoever closed the output has seen enough of it.
macro_rules! say {
    ($($text:tt)*) => {{ writeln!(std::io::stdout(), $($text)*).ok(); }};
}

/// How many times a fit looks at all samples.
const STEPS: usize = 200;

/// After how many steps the loss is recorded.
const EVERY: usize = 10;

/// How many samples there are.
const SAMPLES: usize = 64;

/// One point of the grid.
struct Parameters {
    learning_rate: f64,
    momentum: f64,
    degree: usize,
}

/// A finished fit.
struct Fit {
    coefficients: Vec<f64>,
    losses: Vec<(usize, f64)>,
}

fn main() -> Result<(), Box<dyn StdError>> {
    let mut arguments = std::env::args().skip(1);
    let mut root = "demo-store".to_owned();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--store" => root = arguments.next().ok_or("--store needs a directory")?,
            other => {
                return Err(format!(
                    "unknown argument {other:?}; the only one is --store DIRECTORY"
                )
                .into());
            }
        }
    }
    let config = FileStoreConfig::new(&root);
    let experiment = next_version(&config.list_experiments()?.experiments);
    let store = config.clone().scoped(&experiment).connect()?;

    let started = Instant::now();
    let grid = grid();
    let samples = samples();
    let run_ids: Vec<String> = grid
        .iter()
        .map(|parameters| run_id(&experiment, parameters))
        .collect();
    put_manifest(&store, &experiment, &run_ids)?;
    let progress = std::io::stderr().is_terminal();
    for (index, (parameters, run_id)) in grid.iter().zip(&run_ids).enumerate() {
        if progress {
            eprint!("\r{experiment}: run {} of {}", index + 1, grid.len());
        }
        run(&store, run_id, parameters, &samples)?;
    }
    if progress {
        eprint!("\r\u{1b}[K");
    }
    store.close()?;
    say!(
        "Ran {} runs of {experiment} in {:.2} s.\n",
        grid.len(),
        started.elapsed().as_secs_f64()
    );
    show(&config, &experiment)?;

    let command = std::env::current_exe()?.with_file_name("metalab-store");
    let here = std::env::current_dir()?;
    let command = command.strip_prefix(&here).unwrap_or(&command).display();
    say!(
        "\nTry next:\n  {command} -s {root} runs\n  {command} -s {root} -e {experiment} logs {} run",
        run_ids[0]
    );
    Ok(())
}

/// Returns the first version of the experiment that is not in the store yet.
fn next_version(experiments: &[String]) -> String {
    let mut version = 1;
    loop {
        let id = format!("curve_fit:{version}");
        if !experiments.contains(&id) {
            return id;
        }
        version += 1;
    }
}

fn grid() -> Vec<Parameters> {
    let mut grid = Vec::new();
    for learning_rate in [0.01, 0.1, 0.4, 1.2] {
        for momentum in [0.0, 0.5, 0.9, 0.95] {
            for degree in [1, 2, 3, 5] {
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

/// Returns noisy samples of a curve; the same in every run of the program.
fn samples() -> Vec<(f64, f64)> {
    let mut state: u64 = 0x2545_f491_4f6c_dd1d;
    let mut noise = move || {
        // A linear congruential generator: good enough for noise, and the same everywhere.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let bits = u32::try_from(state >> 32).unwrap_or_default();
        f64::from(bits) / f64::from(u32::MAX) - 0.5
    };
    let x = |index: u32| {
        f64::from(index) / f64::from(u32::try_from(SAMPLES).unwrap_or(1) - 1) * 2.0 - 1.0
    };
    (0..SAMPLES)
        .filter_map(|index| u32::try_from(index).ok())
        .map(|index| {
            let x = x(index);
            (x, (2.5 * x).sin() + 0.3 * x * x + 0.1 * noise())
        })
        .collect()
}

fn fingerprint(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    digest[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn run_id(experiment: &str, parameters: &Parameters) -> String {
    fingerprint(&json!({ "experiment_id": experiment, "params": parameters.to_json() }).to_string())
}

impl Parameters {
    fn to_json(&self) -> serde_json::Value {
        json!({ "learning_rate": self.learning_rate, "momentum": self.momentum, "degree": self.degree })
    }
}

fn evaluate(coefficients: &[f64], x: f64) -> f64 {
    coefficients
        .iter()
        .rev()
        .fold(0.0, |sum, coefficient| sum * x + coefficient)
}

#[expect(clippy::cast_precision_loss, reason = "there are few samples")]
fn loss(coefficients: &[f64], samples: &[(f64, f64)]) -> f64 {
    samples
        .iter()
        .map(|(x, y)| (evaluate(coefficients, *x) - y).powi(2))
        .sum::<f64>()
        / samples.len() as f64
}

/// Fits a polynomial, and tells the log how it goes.
#[expect(clippy::cast_precision_loss, reason = "there are few samples")]
fn fit(
    parameters: &Parameters,
    samples: &[(f64, f64)],
    log: &mut dyn FnMut(&str) -> Result<(), Error>,
) -> Result<Result<Fit, String>, Error> {
    let mut coefficients = vec![0.0; parameters.degree + 1];
    let mut velocity = vec![0.0; coefficients.len()];
    let mut losses = Vec::new();
    for step in 0..STEPS {
        let mut gradient = vec![0.0; coefficients.len()];
        for (x, y) in samples {
            let error = evaluate(&coefficients, *x) - y;
            let mut power = 1.0;
            for slope in &mut gradient {
                *slope += 2.0 * error * power / samples.len() as f64;
                power *= x;
            }
        }
        for ((coefficient, speed), slope) in
            coefficients.iter_mut().zip(&mut velocity).zip(&gradient)
        {
            *speed = parameters.momentum * *speed - parameters.learning_rate * slope;
            *coefficient += *speed;
        }
        if step % EVERY == 0 || step + 1 == STEPS {
            let loss = loss(&coefficients, samples);
            losses.push((step, loss));
            log(&format!("step {step}: loss {loss:.6}"))?;
            if !loss.is_finite() || loss > 1e6 {
                return Ok(Err(format!(
                    "the fit diverged: loss {loss:.3e} after step {step}"
                )));
            }
        }
    }
    Ok(Ok(Fit {
        coefficients,
        losses,
    }))
}

fn now() -> String {
    jiff::Zoned::now()
        .datetime()
        .to_string()
        .chars()
        .take(26)
        .collect()
}

/// Does one run, in the order in which a runner writes: the record first, so that the run can be seen.
fn run(
    store: &Store,
    run_id: &str,
    parameters: &Parameters,
    samples: &[(f64, f64)],
) -> Result<(), Box<dyn StdError>> {
    let started = Instant::now();
    let mut record = RunRecord::new(run_id, Status::Running);
    record.params_resolved = parameters.to_json().to_string();
    record.params_fingerprint = fingerprint(&record.params_resolved);
    record.context_fingerprint = fingerprint("curve_fit samples");
    record.seed_fingerprint = fingerprint("0x2545f4914f6cdd1d");
    record.started_at = Some(now());
    record.provenance = Provenance {
        executor_id: Some("sequential".to_owned()),
        ..Provenance::default()
    };
    store.put_run_record(&record, &Expectation::Absent)?;

    let mut log = |line: &str| {
        let line = format!("{} [INFO   ] {line}\n", now());
        store.append_log(run_id, "run", &line, false).map(drop)
    };
    log(&format!("fitting with {}", parameters.to_json()))?;
    let outcome = fit(parameters, samples, &mut log)?;
    match outcome {
        Ok(fit) => {
            put_fit(store, run_id, &fit, samples)?;
            let last = fit.losses.last().map_or(f64::NAN, |(_, loss)| *loss);
            let first = fit.losses.first().map_or(f64::NAN, |(_, loss)| *loss);
            record.status = Status::Success;
            record.metrics = vec![metric("final_loss", last), metric("first_loss", first)];
            let improvement = [metric("improvement", first / last)];
            store.put_derived(run_id, &improvement)?;
            record.tags = if last < 0.02 {
                vec!["good".to_owned()]
            } else {
                Vec::new()
            };
            record.artifacts = store.list_artifacts(run_id)?;
        }
        Err(message) => {
            log(&message)?;
            record.status = Status::Failed;
            record.error = Some(
                json!({ "type": "Diverged", "message": message, "traceback": null }).to_string(),
            );
            put_failure(store, run_id, parameters, &message)?;
            record.artifacts = store.list_artifacts(run_id)?;
        }
    }
    record.finished_at = Some(now());
    record.duration_ms = i64::try_from(started.elapsed().as_millis())?;
    store.put_run_record(&record, &Expectation::Anything)?;
    Ok(())
}

fn metric(name: &str, value: f64) -> Metric {
    Metric {
        name: name.to_owned(),
        value: MetricValue::Float(value),
    }
}

/// Stores what a fit gave: its losses as a stepped metric, its coefficients and its curve as artifacts.
fn put_fit(store: &Store, run_id: &str, fit: &Fit, samples: &[(f64, f64)]) -> Result<(), Error> {
    let mut losses = StructuredResult::new(json!(fit.losses).to_string());
    losses.shape = Some(vec![fit.losses.len() as u64, 2]);
    losses.metadata = json!({ "type": "stepped_metric" }).to_string();
    store.put_result(run_id, "train_loss", &losses)?;
    let model = json!({ "coefficients": fit.coefficients }).to_string();
    store.put_artifact(
        model.as_bytes(),
        &ArtifactDescriptor::new(run_id, "model", "json", "json"),
    )?;
    let mut curve = String::from("x,y,fitted\n");
    for (x, y) in samples {
        // Writing to a string cannot fail.
        let _ = writeln!(curve, "{x},{y},{}", evaluate(&fit.coefficients, *x));
    }
    store.put_artifact(
        curve.as_bytes(),
        &ArtifactDescriptor::new(run_id, "curve", "table", "csv"),
    )?;
    Ok(())
}

/// Stores what is known about a fit that failed.
fn put_failure(
    store: &Store,
    run_id: &str,
    parameters: &Parameters,
    message: &str,
) -> Result<(), Error> {
    let report = json!({ "params": parameters.to_json(), "message": message }).to_string();
    store.put_artifact(
        report.as_bytes(),
        &ArtifactDescriptor::new(run_id, "report", "json", "json"),
    )?;
    store.put_artifact(
        message.as_bytes(),
        &ArtifactDescriptor::new(run_id, "message", "text", "txt"),
    )?;
    Ok(())
}

fn put_manifest(store: &Store, experiment: &str, run_ids: &[String]) -> Result<(), Error> {
    let (name, version) = experiment.split_once(':').unwrap_or((experiment, ""));
    let manifest = json!({
        "experiment_id": experiment,
        "name": name,
        "version": version,
        "description": "fits polynomials by gradient descent",
        "tags": ["demo"],
        "total_runs": run_ids.len(),
        "run_ids": run_ids,
        "submitted_at": now(),
    });
    store.put_experiment_manifest(experiment, &manifest.to_string(), None)?;
    Ok(())
}

/// Shows what is in the store now.
fn show(config: &FileStoreConfig, experiment: &str) -> Result<(), Error> {
    say!("Experiments in the store:");
    for id in config.list_experiments()?.experiments {
        say!("  {id}");
    }
    let store = config.clone().scoped(experiment).read_only().connect()?;
    let page = store.list_run_records(None)?;
    let failed = page
        .records
        .iter()
        .filter(|record| record.status == Status::Failed)
        .count();
    let mut best: Vec<(&RunRecord, f64)> = page
        .records
        .iter()
        .filter_map(|record| {
            match record
                .metrics
                .iter()
                .find(|metric| metric.name == "final_loss")?
                .value
            {
                MetricValue::Float(loss) => Some((record, loss)),
                _ => None,
            }
        })
        .collect();
    best.sort_by(|a, b| a.1.total_cmp(&b.1));
    say!(
        "\nThe best of {} runs ({failed} failed):",
        page.records.len()
    );
    say!("  {:16}  {:>10}  PARAMETERS", "RUN", "FINAL LOSS");
    for (record, loss) in best.iter().take(5) {
        say!(
            "  {:16}  {loss:>10.6}  {}",
            record.run_id,
            record.params_resolved
        );
    }
    let Some((record, _)) = best.first() else {
        return Ok(());
    };
    say!("\nThe best run in full, as its file holds it:");
    say!(
        "{}",
        store.get_run_text(&record.run_id)?.unwrap_or_default()
    );
    say!(
        "\nits derived metrics: {}",
        store.get_derived_text(&record.run_id)?.unwrap_or_default()
    );
    say!(
        "its results: {}",
        store.list_results(&record.run_id)?.join(", ")
    );
    say!("its logs: {}", store.list_logs(&record.run_id)?.join(", "));
    for artifact in store.list_artifacts(&record.run_id)? {
        say!(
            "its artifact {}: {} bytes, SHA-256 {}",
            artifact.name,
            artifact.size_bytes.unwrap_or_default(),
            artifact.content_hash.unwrap_or_default()
        );
    }
    if let Some(failed) = page
        .records
        .iter()
        .find(|record| record.status == Status::Failed)
    {
        say!(
            "\nA run that failed: {}: {}",
            failed.run_id,
            failed.error.clone().unwrap_or_default()
        );
    }
    Ok(())
}
