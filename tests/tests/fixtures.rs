//! The component answers about the reference's collection as the reference does.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use metalab_store::types::{ArtifactReference, MetricValue, Status};
use metalab_store::{FileStoreConfig, Store};
use metalab_store_tests::{golden, reference_collection, tree};
use serde_json::{Value, json};

fn status(status: Status) -> &'static str {
    match status {
        Status::Success => "success",
        Status::Failed => "failed",
        Status::Cancelled => "cancelled",
        Status::Running => "running",
    }
}

/// Asks about one run what the golden file says about it.
fn answers(store: &Store, run: &str) -> Value {
    let logs = store.list_logs(run).unwrap();
    let contents: serde_json::Map<String, Value> = logs
        .iter()
        .map(|name| {
            (
                name.clone(),
                json!(store.get_log(run, name).unwrap().unwrap()),
            )
        })
        .collect();
    let artifacts: Vec<String> = store
        .list_artifacts(run)
        .unwrap()
        .into_iter()
        .map(|entry| entry.name)
        .collect();
    let derived = store.get_derived_text(run).unwrap();
    json!({
        "status": status(store.get_run_record(run).unwrap().unwrap().status),
        "logs": logs,
        "log_contents": contents,
        "results": store.list_results(run).unwrap(),
        "artifacts": artifacts,
        "derived": derived.map(|text| serde_json::from_str::<Value>(&text).unwrap()),
        "derived_exists": store.derived_exists(run).unwrap(),
    })
}

#[test]
fn every_answer_of_the_reference_is_given_but_the_one_that_is_a_defect() {
    let unpacked = reference_collection();
    let root = unpacked.path().join("experiments");
    let before = tree(&root);
    let golden = golden();
    let config = FileStoreConfig::new(&root).read_only();
    assert_eq!(
        json!(config.list_experiments().unwrap().experiments),
        golden["list_experiments"]
    );

    let mut checked = 0;
    for (experiment, runs) in golden["runs"].as_object().unwrap() {
        if let Some(experiment) = experiment.strip_suffix("#manifest_description") {
            let store = config.clone().scoped(experiment).connect().unwrap();
            let manifest = store.get_experiment_manifest(experiment).unwrap();
            let description = manifest.map(|manifest| {
                serde_json::from_str::<Value>(&manifest.body).unwrap()["description"].clone()
            });
            assert_eq!(description.unwrap_or_default(), *runs, "{experiment}");
            continue;
        }
        let store = config.clone().scoped(experiment).connect().unwrap();
        let mut listed: Vec<String> = store
            .list_run_records(None)
            .unwrap()
            .records
            .into_iter()
            .map(|record| record.run_id)
            .collect();
        listed.sort();
        let expected: Vec<&String> = runs.as_object().unwrap().keys().collect();
        assert_eq!(listed.iter().collect::<Vec<_>>(), expected, "{experiment}");
        for (run, expected) in runs.as_object().unwrap() {
            let mut expected = expected.clone();
            if (experiment.as_str(), run.as_str()) == ("plain", "run_1") {
                // The reference gives the log of `run_1_2` to `run_1` too.
                expected["logs"] = json!(["run"]);
                expected["log_contents"]
                    .as_object_mut()
                    .unwrap()
                    .remove("2_run");
            }
            assert_eq!(answers(&store, run), expected, "{experiment} {run}");
            checked += 1;
        }
    }
    assert_eq!(checked, 12);
    assert_eq!(tree(&root), before, "reading changed the collection");
}

#[test]
fn the_whole_collection_answers_like_its_experiments_one_by_one() {
    let unpacked = reference_collection();
    let root = unpacked.path().join("experiments");
    let golden = golden();
    let store = FileStoreConfig::new(&root).read_only().connect().unwrap();
    let mut runs = 0;
    for (experiment, expected) in golden["runs"].as_object().unwrap() {
        for (run, expected) in expected.as_object().into_iter().flatten() {
            if run != "run_1" {
                assert_eq!(answers(&store, run), *expected, "{experiment} {run}");
            }
            runs += 1;
        }
    }
    let page = store.list_run_records(None).unwrap();
    // Two records of the damaged experiment are whole.
    assert_eq!(page.records.len(), runs + 2);
    assert_eq!(
        store
            .list_run_records(Some("special:2"))
            .unwrap()
            .records
            .len(),
        3
    );
}

#[test]
fn damaged_files_hide_no_others_and_are_named_with_their_reasons() {
    let unpacked = reference_collection();
    let config = FileStoreConfig::new(unpacked.path().join("experiments")).read_only();
    let store = config.clone().scoped("damaged:1").connect().unwrap();
    let page = store.list_run_records(None).unwrap();
    let ids: Vec<&str> = page
        .records
        .iter()
        .map(|record| record.run_id.as_str())
        .collect();
    assert_eq!(ids, ["good", "minimal"]);
    assert_eq!(page.records[1].started_at, None);
    assert_eq!(page.records[1].finished_at, None);
    let damaged: Vec<(&str, &str)> = page
        .damaged
        .iter()
        .map(|damage| (damage.file.as_str(), damage.reason.as_str()))
        .collect();
    for (name, reason) in [
        ("array", "expected an object, found a list"),
        ("baddate", "\"yesterday\""),
        ("badstatus", "\"paused\""),
        ("empty", "at byte 0"),
        ("latin1", "UTF-8"),
        ("nullarts", "`artifacts` should be a list"),
        ("truncated", "at byte"),
    ] {
        let file = format!("runs/{name}.json");
        let found = damaged.iter().find(|(path, _)| *path == file);
        let (_, found) = found.unwrap_or_else(|| panic!("{file} is not reported"));
        assert!(found.contains(reason) && found.contains(&file), "{found}");
        assert_eq!(store.get_run_record(name).unwrap_err().code(), "corrupt");
        assert!(store.run_exists(name).unwrap());
    }
    assert_eq!(damaged.len(), 7);
    let list = config.list_experiments().unwrap();
    assert_eq!(list.damaged.len(), 1);
    assert_eq!(list.damaged[0].file, "badmeta/_meta.json");
}

#[test]
fn values_that_other_stores_lose_are_exact() {
    let unpacked = reference_collection();
    let config = FileStoreConfig::new(unpacked.path().join("experiments"))
        .read_only()
        .scoped("special:2");
    let store = config.connect().unwrap();
    let record = store.get_run_record("e2b101c679f81bb5").unwrap().unwrap();
    let metric = |name: &str| {
        &record
            .metrics
            .iter()
            .find(|metric| metric.name == name)
            .unwrap()
            .value
    };
    let mut seen = (false, false, false);
    for metric in &record.metrics {
        match &metric.value {
            MetricValue::Float(value) if value.is_nan() => seen.0 = true,
            MetricValue::Float(value) if *value == 0.0 && value.is_sign_negative() => seen.1 = true,
            MetricValue::BigInteger(value) => {
                assert_eq!(value, "1180591620717411303424");
                seen.2 = true;
            }
            _ => {}
        }
    }
    assert_eq!(
        seen,
        (true, true, true),
        "{:?}",
        record
            .metrics
            .iter()
            .map(|entry| metric(&entry.name))
            .collect::<Vec<_>>()
    );
    let zoned = store.get_run_record("e64b21375b1b2442").unwrap().unwrap();
    assert!(zoned.started_at.unwrap().ends_with("+05:30"));
}

#[test]
fn artifacts_of_a_moved_store_are_found_and_agree_with_their_hashes() {
    let unpacked = reference_collection();
    let config = FileStoreConfig::new(unpacked.path().join("experiments"))
        .read_only()
        .scoped("curve_fit:1.0");
    let store = config.connect().unwrap();
    let run = "ab715c67c9710b4f";
    for artifact in store.list_artifacts(run).unwrap() {
        let by_name = ArtifactReference::Name((run.to_owned(), artifact.name.clone()));
        let content = store.get_artifact(&by_name).unwrap();
        assert_eq!(
            store
                .get_artifact(&ArtifactReference::Uri(artifact.uri.clone()))
                .unwrap(),
            content
        );
        store.open_artifact(&by_name, true).unwrap();
        let path = unpacked
            .path()
            .join("experiments/curve_fit_1.0/artifacts")
            .join(run);
        assert_eq!(
            std::fs::read(path.join(artifact.uri.rsplit('/').next().unwrap())).unwrap(),
            content
        );
    }
}
