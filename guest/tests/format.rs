//! The format, both ways: what the reference wrote is read, and written back byte for byte.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use metalab_store_guest::error::Error;
use metalab_store_guest::model::{Access, Durability, Expectation, StoreOptions};
use metalab_store_guest::native;
use metalab_store_guest::store::Store;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// Unpacks the collection that the reference wrote.
fn collection() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let archive = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/fixtures/reference-store.tar.gz"
    );
    let archive = flate2::read::GzDecoder::new(fs::File::open(archive).unwrap());
    tar::Archive::new(archive).unpack(directory.path()).unwrap();
    directory
}

fn open(directory: &Path, experiment: Option<&str>, access: Access) -> Store {
    let options = StoreOptions {
        directory: directory.to_str().unwrap().to_owned(),
        experiment_id: experiment.map(str::to_owned),
        access,
        durability: Durability::Full,
        lock_timeout_ms: 1000,
        index: None,
    };
    Store::open(native::ports(directory).unwrap(), options).unwrap()
}

/// The experiments of the collection whose records are whole, and their directories.
const EXPERIMENTS: [(&str, &str); 3] = [
    ("curve_fit:1.0", "curve_fit_1.0"),
    ("special:2", "special_2"),
    ("plain", "plain"),
];

#[test]
fn every_record_of_the_reference_is_written_back_byte_for_byte_typed_and_as_text() {
    let unpacked = collection();
    let mut seen = 0;
    for (experiment, directory) in EXPERIMENTS {
        let root = unpacked.path().join("experiments").join(directory);
        let store = open(&root, Some(experiment), Access::ReadWrite);
        for entry in fs::read_dir(root.join("runs")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let run = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let original = fs::read(&path).unwrap();

            let (revision, record) = store.get_versioned_run(&run).unwrap().unwrap();
            fs::write(&path, "{}").unwrap();
            let written = store
                .put_run_record(&record, &Expectation::Anything)
                .unwrap();
            assert_eq!(
                fs::read_to_string(&path).unwrap(),
                String::from_utf8_lossy(&original),
                "{run}"
            );
            assert_eq!(written, revision);

            let text = store.get_run_text(&run).unwrap().unwrap();
            fs::write(&path, "{}").unwrap();
            store.put_run_text(&text, &Expectation::Anything).unwrap();
            assert_eq!(fs::read(&path).unwrap(), original, "{run}");
            seen += 1;
        }
    }
    assert_eq!(seen, 12);
}

#[test]
fn derived_metrics_results_and_manifests_are_written_back_byte_for_byte() {
    let unpacked = collection();
    for (experiment, directory) in EXPERIMENTS {
        let root = unpacked.path().join("experiments").join(directory);
        let store = open(&root, Some(experiment), Access::ReadWrite);
        for entry in fs::read_dir(root.join("derived")).unwrap() {
            let path = entry.unwrap().path();
            let run = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let original = fs::read(&path).unwrap();
            let derived = store.get_derived(&run).unwrap().unwrap();
            fs::remove_file(&path).unwrap();
            store.put_derived(&run, &derived).unwrap();
            assert_eq!(fs::read(&path).unwrap(), original, "{run}");
        }
        for run in fs::read_dir(root.join("results")).unwrap() {
            let run = run.unwrap().file_name().into_string().unwrap();
            for name in store.list_results(&run).unwrap() {
                let path = root.join("results").join(&run).join(format!("{name}.json"));
                let original = fs::read(&path).unwrap();
                let result = store.get_result(&run, &name).unwrap().unwrap();
                fs::remove_file(&path).unwrap();
                store.put_result(&run, &name, &result).unwrap();
                assert_eq!(fs::read(&path).unwrap(), original, "{run} {name}");
            }
        }
        for header in store.list_experiment_manifests(experiment).unwrap() {
            let manifest = store.get_experiment_manifest(experiment).unwrap().unwrap();
            let name = format!("{directory}_{}.json", header.timestamp);
            let path = root.join("experiments").join(name);
            let original = fs::read(&path).unwrap();
            if manifest.header == header {
                fs::remove_file(&path).unwrap();
                store
                    .put_experiment_manifest(experiment, &manifest.body, Some(&header.timestamp))
                    .unwrap();
                assert_eq!(fs::read(&path).unwrap(), original);
            }
        }
    }
}

#[test]
fn a_damaged_file_hides_no_other_and_is_named_with_its_reason() {
    let unpacked = collection();
    let root = unpacked.path().join("experiments/damaged_1");
    let store = open(&root, Some("damaged:1"), Access::ReadOnly);
    let mut list = store.list_run_records(None).unwrap();
    let runs = list.next(100).unwrap();
    let ids: Vec<&str> = runs.iter().map(|run| run.run_id.as_str()).collect();
    assert_eq!(ids, ["good", "minimal"]);
    assert_eq!(runs[1].started_at, None);
    assert_eq!(runs[1].finished_at, None);
    let damaged: Vec<String> = list
        .damaged()
        .into_iter()
        .map(|damage| damage.file)
        .collect();
    let expected = [
        "array",
        "baddate",
        "badstatus",
        "empty",
        "latin1",
        "nullarts",
        "truncated",
    ];
    assert_eq!(damaged, expected.map(|name| format!("runs/{name}.json")));
    assert!(matches!(
        store.get_run_record("truncated"),
        Err(Error::Corrupt {
            offset: Some(_),
            ..
        })
    ));
}

#[test]
fn an_artifact_is_found_by_run_and_name_and_by_its_uri_after_the_store_moved() {
    use metalab_store_guest::model::ArtifactReference;
    let unpacked = collection();
    let root = unpacked.path().join("experiments/curve_fit_1.0");
    let store = open(&root, Some("curve_fit:1.0"), Access::ReadOnly);
    for artifact in store.list_artifacts("ab715c67c9710b4f").unwrap() {
        let by_name = ArtifactReference::Name("ab715c67c9710b4f".into(), artifact.name.clone());
        let by_uri = ArtifactReference::Uri(artifact.uri.clone());
        let content = store.get_artifact(&by_name).unwrap();
        assert_eq!(content, store.get_artifact(&by_uri).unwrap());
        assert_eq!(
            content.len() as u64,
            artifact.size_bytes.unwrap_or(content.len() as u64)
        );
        store.open_artifact(&by_name, true).unwrap();
    }
}

/// Where the collection was when the reference wrote it: the addresses of its artifacts say so.
const WRITTEN_AT: &str = "/srv/experiments";

/// Opens a directory that is called, outside, as it was when the reference wrote it.
fn open_as_written(directory: &Path, experiment: &str, name: &str) -> Store {
    let options = StoreOptions {
        directory: format!("{WRITTEN_AT}/{name}"),
        experiment_id: Some(experiment.to_owned()),
        access: Access::ReadWrite,
        durability: Durability::Full,
        lock_timeout_ms: 1000,
        index: None,
    };
    Store::open(native::ports(directory).unwrap(), options).unwrap()
}

fn sha256(content: &[u8]) -> String {
    Sha256::digest(content)
        .iter()
        .fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap();
            text
        })
}

/// The reference takes hash and size from its caller, and writes null where that names none. They are computed
/// here: the only difference there may be.
#[test]
fn artifact_manifests_are_written_back_byte_for_byte_but_for_hashes_that_nobody_had_computed() {
    use metalab_store_guest::model::ArtifactReference;
    let unpacked = collection();
    let (experiment, name) = EXPERIMENTS[0];
    let reference = unpacked.path().join("experiments").join(name);
    let old = open_as_written(&reference, experiment, name);
    let fresh = tempfile::tempdir().unwrap();
    let new = open_as_written(fresh.path(), experiment, name);
    let mut seen = 0;
    for run in ["920aa42fdc123795", "ab715c67c9710b4f", "legacy-id-012345"] {
        let manifest = format!("artifacts/{run}/_manifest.json");
        let mut expected = fs::read_to_string(reference.join(&manifest)).unwrap();
        for mut artifact in old.list_artifacts(run).unwrap() {
            let by_name = ArtifactReference::Name(run.into(), artifact.name.clone());
            let content = old.get_artifact(&by_name).unwrap();
            // Each entry is there once more with what was null filled in.
            let (before, entry) = expected.split_at(
                expected
                    .find(&format!("{:?}", artifact.artifact_id))
                    .unwrap(),
            );
            let (entry, after) = entry.split_at(entry.find('}').unwrap());
            let after_uri = after.find("\"uri\"").unwrap();
            let filled = |text: &str| {
                text.replace(
                    "\"content_hash\": null",
                    &format!("\"content_hash\": \"{}\"", sha256(&content)),
                )
                .replace(
                    "\"size_bytes\": null",
                    &format!("\"size_bytes\": {}", content.len()),
                )
            };
            expected = format!(
                "{before}{}{}{}",
                filled(entry),
                filled(&after[..after_uri]),
                &after[after_uri..]
            );
            artifact.metadata = format!(
                "{{\"_run_id\": \"{run}\", {}",
                artifact.metadata.strip_prefix('{').unwrap()
            )
            .replace(", }", "}");
            new.put_artifact(&content, artifact).unwrap();
            seen += 1;
        }
        assert_eq!(
            fs::read_to_string(fresh.path().join(&manifest)).unwrap(),
            expected,
            "{run}"
        );
        // In the reference's own directory an addition leaves all entries as they are.
        let before = fs::read_to_string(reference.join(&manifest)).unwrap();
        let mut added = old.list_artifacts(run).unwrap().remove(0);
        added.name = "added".to_owned();
        added.content_hash = None;
        added.size_bytes = None;
        added.metadata = format!("{{\"_run_id\": \"{run}\"}}");
        old.put_artifact(b"added", added).unwrap();
        let after = fs::read_to_string(reference.join(&manifest)).unwrap();
        let kept = before.strip_suffix("\n  ]\n}").unwrap();
        assert!(after.starts_with(&format!("{kept},\n    {{\n")), "{after}");
    }
    assert_eq!(seen, 7);
}

#[test]
fn meta_files_and_logs_are_written_back_byte_for_byte() {
    let unpacked = collection();
    let mut logs = 0;
    for (experiment, name) in EXPERIMENTS {
        let root = unpacked.path().join("experiments").join(name);
        let store = open(&root, Some(experiment), Access::ReadOnly);
        let fresh = tempfile::tempdir().unwrap();
        let new = open(fresh.path(), Some(experiment), Access::ReadWrite);
        assert_eq!(
            fs::read_to_string(fresh.path().join("_meta.json")).unwrap(),
            fs::read_to_string(root.join("_meta.json")).unwrap()
        );
        for entry in fs::read_dir(root.join("logs")).unwrap() {
            let file = entry.unwrap().file_name().into_string().unwrap();
            // Files of the older forms are read, and never written.
            let Some(stem) = file.strip_suffix(".log") else {
                continue;
            };
            if stem.starts_with("lr0.01_") {
                continue;
            }
            let (run, log) = stem.rsplit_once('_').unwrap();
            let text = store.get_log(run, log).unwrap().unwrap();
            new.put_log(run, log, &text).unwrap();
            let path = Path::new("logs").join(&file);
            let original = fs::read(root.join(&path)).unwrap();
            assert_eq!(fs::read(fresh.path().join(&path)).unwrap(), original);
            logs += 1;
        }
        assert_eq!(
            new.list_logs("ab715c67c9710b4f").unwrap().len(),
            if experiment == "curve_fit:1.0" { 3 } else { 0 }
        );
    }
    assert_eq!(logs, 16);
}

/// The reference reads CRLF and a lone CR back as LF: a progress bar becomes as many lines as it had steps.
#[test]
fn every_end_of_line_of_a_log_is_kept_by_every_way_to_write_and_to_read() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), Some("e:1"), Access::ReadWrite);
    let text = "\r\n10%\r20%\rdone\r\n\nlast\r\n\r\r\n\u{2028}\u{85}\0end\r";
    store.put_log("run", "put", text).unwrap();
    for character in text.chars() {
        store
            .append_log("run", "appended", &character.to_string(), false)
            .unwrap();
    }
    for log in ["put", "appended"] {
        let path = directory.path().join(format!("logs/run_{log}.log"));
        assert_eq!(fs::read(path).unwrap(), text.as_bytes(), "{log}");
        assert_eq!(store.get_log("run", log).unwrap().unwrap(), text, "{log}");
        let (mut read, mut offset) = (String::new(), 0);
        loop {
            let piece = store.read_log("run", log, offset, 4).unwrap().unwrap();
            read.push_str(&piece.text);
            offset = piece.next_offset;
            if piece.end {
                break;
            }
        }
        assert_eq!(read, text, "{log}");
    }
}
