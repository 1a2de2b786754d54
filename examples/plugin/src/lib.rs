//! A plugin: derives a few metrics from what a run left behind. `docs/plugins.md` says how it is built and run.

// A plugin is a component and nothing else.
#![cfg(target_family = "wasm")]
#![allow(
    missing_docs,
    unsafe_code,
    clippy::allow_attributes,
    reason = "generated bindings: an expectation would depend on the generator's version"
)]

wit_bindgen::generate!({
    path: "../../wit",
    world: "plugin",
    generate_all,
});

use metalab::store::types::RunRecord;
use metalab::store::view;

struct Plugin;

export!(Plugin);

impl Guest for Plugin {
    fn derive(run_id: String) -> Result<Vec<(String, MetricValue)>, String> {
        let run = view::get_run_record(&run_id).map_err(|error| format!("{error:?}"))?;
        let run = run.ok_or("there is no such run")?;
        let mut derived = Vec::new();
        if let Some(rank) = rank(&run)? {
            derived.push(("loss_rank".to_owned(), MetricValue::Integer(rank)));
        }
        let numbers = run
            .metrics
            .iter()
            .filter_map(|metric| number(&metric.value));
        derived.push((
            "metric_count".to_owned(),
            MetricValue::Integer(i64::try_from(run.metrics.len()).unwrap_or(i64::MAX)),
        ));
        derived.push((
            "metric_norm".to_owned(),
            MetricValue::Float(numbers.map(|value| value * value).sum::<f64>().sqrt()),
        ));
        derived.push(("log_bytes".to_owned(), log_bytes(&run_id)?));
        Ok(derived)
    }
}

/// Returns how many runs of the experiment have a smaller loss, none if the run has no loss.
fn rank(run: &RunRecord) -> Result<Option<i64>, String> {
    let loss = run.metrics.iter().find(|metric| metric.name == "loss");
    let Some(loss) = loss.and_then(|metric| number(&metric.value)) else {
        return Ok(None);
    };
    let better = view::list_runs(&format!("metrics.loss < {loss:?}"), 4096);
    let better = better.map_err(|error| format!("{error:?}"))?;
    Ok(i64::try_from(better.len()).ok())
}

/// Returns how many bytes the logs of a run have.
fn log_bytes(run_id: &str) -> Result<MetricValue, String> {
    let mut bytes = 0;
    for name in view::list_logs(run_id).map_err(|error| format!("{error:?}"))? {
        let mut offset = 0;
        while let Some(piece) = view::read_log(run_id, &name, offset, 256 * 1024)
            .map_err(|error| format!("{error:?}"))?
        {
            if piece.next_offset == offset {
                break;
            }
            offset = piece.next_offset;
        }
        bytes += offset;
    }
    Ok(MetricValue::Integer(
        i64::try_from(bytes).unwrap_or(i64::MAX),
    ))
}

#[expect(clippy::cast_precision_loss, reason = "a metric is a measurement")]
fn number(value: &MetricValue) -> Option<f64> {
    match value {
        MetricValue::Integer(value) => Some(*value as f64),
        MetricValue::Float(value) => Some(*value),
        _ => None,
    }
}
