//! `export` and `import` with each of their options, and what their digests are.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use metalab_store::FileStoreConfig;
use metalab_store::types::{
    ArtifactDescriptor, ArtifactReference, Expectation, RunRecord, Status, StructuredResult,
};
use metalab_store_guest::transfer::Packer;
use metalab_store_tests::{command, tree};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::SystemTime;
use tempfile::TempDir;

/// The runs of each experiment: one with the id of a fingerprint, ones that begin alike, one with odd letters, one that fails.
const RUNS: [&str; 5] = ["0123456789abcdef", "run_1", "run_1_2", "Ünïcode", "failed"];

/// The experiments by their directories.
const EXPERIMENTS: [(&str, &str); 2] = [("a_1", "a:1"), ("b", "b")];

fn write(path: impl AsRef<Path>, content: impl AsRef<[u8]>) {
    let path = path.as_ref();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// Makes a collection of two experiments with files of all kinds, of runs and of none.
fn filled() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, experiment) in EXPERIMENTS {
        let root = directory.path().join(name);
        let store = FileStoreConfig::new(directory.path())
            .scoped(experiment)
            .connect()
            .unwrap();
        for run in RUNS {
            let status = match run {
                "failed" => Status::Failed,
                _ => Status::Success,
            };
            let mut record = RunRecord::new(run, status);
            record.notes = Some("é, \u{1f600} and \u{7}".to_owned());
            for (artifact, size) in [("weights", 3_000), ("é", 10)] {
                let descriptor = ArtifactDescriptor::new(run, artifact, "blob", "bin");
                let content = format!("{experiment} {run}").repeat(size);
                let put = store.put_artifact(content.as_bytes(), &descriptor);
                record.artifacts.push(put.unwrap());
            }
            store
                .put_run_record(&record, &Expectation::Anything)
                .unwrap();
            store.put_derived_text(run, "{\"d\": NaN}").unwrap();
            store.put_log(run, "stdout", "one\r\ntwo\n").unwrap();
            store.put_log(run, "step_1", "flat or nested\n").unwrap();
            let result = StructuredResult {
                data: "[1, 2.5]".to_owned(),
                dtype: None,
                shape: Some(vec![2]),
                metadata: "{}".to_owned(),
                unknown: "{}".to_owned(),
            };
            store.put_result(run, "scores", &result).unwrap();
        }
        for stamp in ["20260101_000000", "20260101_000001"] {
            store
                .put_experiment_manifest(experiment, "{\"k\": 1}", Some(stamp))
                .unwrap();
        }
        store.close().unwrap();
        write(root.join("runs/run_1.done"), "{}");
        // A label with the beginning of an id, one that two runs may have, and a log that nobody owns.
        write(root.join("logs/lr0.1_01234567_stdout.log"), "label");
        write(root.join("logs/nobody knows.log"), "?");
        // A run of which there is no record.
        write(root.join("artifacts/orphan/state"), "orphan");
        write(root.join("a_context_manifest.json"), "{}");
    }
    directory
}

/// The files of a collection that a copy has, by their paths.
fn files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = tree(root);
    found.retain(|path, _| {
        !path.ends_with('/')
            && !path.ends_with("_meta.json")
            && !path.contains(".index/")
            && !path.contains(".locks/")
    });
    found
}

fn assert_same(
    found: &BTreeMap<String, Vec<u8>>,
    wanted: &BTreeMap<String, Vec<u8>>,
    context: &str,
) {
    let mut paths = wanted.keys().chain(found.keys());
    let differs = paths.find(|path| wanted.get(*path) != found.get(*path));
    assert_eq!(differs, None, "{context}");
    assert!(!wanted.is_empty(), "{context}");
}

/// Runs the command, and returns its exit status and the document that it printed.
fn run(arguments: &[&str]) -> (Option<i32>, Value) {
    let output = output(arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    let document = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{arguments:?} printed no document: {error}"));
    (output.status.code(), document)
}

fn output(arguments: &[&str]) -> Output {
    command().arg("--json").args(arguments).output().unwrap()
}

/// Runs the command, which must succeed.
fn good(arguments: &[&str]) -> Value {
    let (status, document) = run(arguments);
    assert_eq!(status, Some(0), "{arguments:?}: {document:#}");
    document
}

/// Asserts that each run and file of a copy was counted once, and returns how many were copied, skipped and failed.
fn counts(document: &Value, runs: u64, files: &BTreeMap<String, Vec<u8>>) -> [(u64, u64); 3] {
    let count = |what: &str, of: &str| document[what][of].as_u64().unwrap();
    let kinds = ["copied", "skipped", "failed"];
    let sum = |of: &str| kinds.iter().map(|what| count(what, of)).sum::<u64>();
    let bytes: usize = files.values().map(Vec::len).sum();
    assert_eq!(
        (sum("runs"), sum("files"), sum("bytes")),
        (runs, files.len() as u64, bytes as u64),
        "{document:#}"
    );
    kinds.map(|what| (count(what, "runs"), count(what, "files")))
}

/// How many runs there are, with those without a record.
const ALL: u64 = 2 * (RUNS.len() as u64 + 1);

/// The bytes of a path as text, for arguments.
fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn what_is_left_out_is_not_there_and_all_else_is_byte_for_byte() {
    let source = filled();
    let from = text(source.path());
    let all = files(source.path());
    for (option, kind) in [
        ("--no-artifacts", "/artifacts/"),
        ("--no-logs", "/logs/"),
        ("--no-results", "/results/"),
        ("--no-derived", "/derived/"),
    ] {
        let mut wanted = all.clone();
        wanted.retain(|path, _| !path.contains(kind));
        assert!(wanted.len() < all.len(), "{option}");
        // What there is of the run without a record are artifacts.
        let runs = if option == "--no-artifacts" {
            ALL - 2
        } else {
            ALL
        };
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        for (verb, name) in [
            ("export", "store"),
            ("import", "other"),
            ("export", "a.tar.zst"),
        ] {
            let to = at(name);
            let document = good(&[verb, "--from", from, "--to", text(&to), option]);
            let copied = (runs, wanted.len() as u64);
            assert_eq!(
                counts(&document, runs, &wanted),
                [copied, (0, 0), (0, 0)],
                "{verb} {option}"
            );
        }
        let (archive, unpacked) = (at("a.tar.zst"), at("unpacked"));
        good(&["import", "--from", text(&archive), "--to", text(&unpacked)]);
        for name in ["store", "other", "unpacked"] {
            assert_same(&files(&at(name)), &wanted, &format!("{option}: {name}"));
        }
        // What is there already is not taken away, and is not part of what is compared.
        let whole = at("whole");
        good(&["export", "--from", from, "--to", text(&whole)]);
        good(&[
            "export",
            "--from",
            from,
            "--to",
            text(&whole),
            option,
            "--overwrite",
        ]);
        assert_same(&files(&whole), &all, option);
    }
}

#[test]
fn a_copy_without_artifacts_misses_those_that_its_records_list_and_nothing_else() {
    let source = filled();
    let to = tempfile::tempdir().unwrap();
    let (from, to) = (text(source.path()), text(to.path()));
    good(&["export", "--from", from, "--to", to, "--no-artifacts"]);
    let (status, document) = run(&["-s", to, "verify"]);
    let findings = document["findings"].as_array().unwrap();
    let damage = |finding: &&Value| finding["severity"] == "damage";
    let missing: BTreeSet<&str> = findings
        .iter()
        .filter(damage)
        .map(|finding| {
            assert_eq!(finding["kind"], "artifact-missing", "{finding:#}");
            let way_out = finding["way_out"].as_str().unwrap();
            assert!(way_out.contains("copied without artifacts"), "{way_out}");
            finding["file"].as_str().unwrap()
        })
        .collect();
    let of_records = files(source.path()).into_keys().filter(|path| {
        path.contains("/artifacts/") && !path.contains("/orphan/") && !path.ends_with(".json")
    });
    assert_eq!(
        missing
            .into_iter()
            .map(str::to_owned)
            .collect::<BTreeSet<_>>(),
        of_records.collect()
    );
    assert_eq!(status, Some(3));
    // The source is sound, and so is the copy once they came.
    let (status, document) = run(&["-s", from, "verify"]);
    assert_eq!(status, Some(0), "{document:#}");
    good(&["export", "--from", from, "--to", to]);
    let (status, document) = run(&["-s", to, "verify"]);
    assert_eq!((status, &document["damage"]), (Some(0), &json!(0)));
}

#[test]
fn uris_that_are_rewritten_lead_to_the_destination_and_nothing_else_changes() {
    let source = filled();
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().canonicalize().unwrap().join(name);
    let all = files(source.path());
    let old = text(source.path()).to_owned();
    let archive = at("a.tar.zst");
    let plain = good(&["export", "--from", &old, "--to", text(&archive)]);
    for (from, name) in [(&old, "store"), (&text(&archive).to_owned(), "unpacked")] {
        let to = at(name);
        let arguments = [
            "import",
            "--from",
            from,
            "--to",
            text(&to),
            "--rewrite-uris",
        ];
        let document = good(&arguments);
        // They do not count.
        assert_eq!(document["digests"], plain["digests"], "{name}");
        assert_eq!(good(&arguments)["copied"]["files"], 0, "{name}");
        let mut wanted = all.clone();
        for (path, content) in &mut wanted {
            if path.contains("/runs/") || path.ends_with("/_manifest.json") {
                let text = String::from_utf8(content.clone()).unwrap();
                *content = text
                    .replace(&format!("\"{old}/"), &format!("\"{}/", to.display()))
                    .into();
            }
        }
        assert_ne!(wanted, all);
        assert_same(&files(&to), &wanted, name);
    }
    // They are opened by what they say, with nothing left at the source.
    source.close().unwrap();
    for (_, experiment) in EXPERIMENTS {
        let store = FileStoreConfig::new(at("store"))
            .scoped(experiment)
            .read_only()
            .connect()
            .unwrap();
        for run in RUNS {
            let record = store.get_run_record(run).unwrap().unwrap();
            assert_eq!(record.artifacts.len(), 2);
            let listed = store.list_artifacts(run).unwrap();
            for artifact in record.artifacts.iter().chain(&listed) {
                assert!(
                    Path::new(&artifact.uri).starts_with(at("store")),
                    "{}",
                    artifact.uri
                );
                let file = fs::read(&artifact.uri).unwrap();
                let opened = store.get_artifact(&ArtifactReference::Uri(artifact.uri.clone()));
                assert_eq!(opened.unwrap(), file);
            }
        }
    }
}

/// Makes a destination that lacks one run of each experiment, has another record of another one, and one log more.
fn destination(source: &Path) -> TempDir {
    let to = tempfile::tempdir().unwrap();
    good(&["export", "--from", text(source), "--to", text(to.path())]);
    for (directory, _) in EXPERIMENTS {
        let root = to.path().join(directory);
        for path in files(&root)
            .into_keys()
            .filter(|path| path.contains("failed"))
        {
            fs::remove_file(root.join(path)).unwrap();
        }
        let record = root.join("runs/run_1.json");
        let text = fs::read_to_string(&record).unwrap();
        fs::write(record, text.replace("\"success\"", "\"failed\"")).unwrap();
        write(root.join("logs/run_1_more.log"), "more");
    }
    to
}

#[test]
fn of_a_run_that_differs_the_one_is_kept_that_was_asked_for_and_all_is_counted() {
    let source = filled();
    let archives = tempfile::tempdir().unwrap();
    let archive = archives.path().join("a.tar.zst");
    good(&[
        "export",
        "--from",
        text(source.path()),
        "--to",
        text(&archive),
    ]);
    let all = files(source.path());
    let of = |part: &str| all.keys().filter(|path| path.contains(part)).count() as u64;
    let new = of("failed");
    // Its log may be flat or nested; the names of the other run begin alike.
    let differing = of("/run_1.") + of("/run_1/") + of("/run_1_stdout");
    let both = all.len() as u64;
    for (options, status, copied, skipped, failed) in [
        (
            &[][..],
            1,
            (2, new),
            (ALL - 4, both - new - differing),
            (2, differing),
        ),
        (
            &["--fail-existing"],
            1,
            (2, new),
            (ALL - 4, both - new - differing),
            (2, differing),
        ),
        (
            &["--skip-existing"],
            0,
            (2, new),
            (ALL - 2, both - new),
            (0, 0),
        ),
        (
            &["--overwrite"],
            0,
            (4, new + 2),
            (ALL - 4, both - new - 2),
            (0, 0),
        ),
    ] {
        for (verb, from) in [
            ("export", text(source.path())),
            ("import", text(source.path())),
            ("import", text(&archive)),
        ] {
            let to = destination(source.path());
            let before = files(to.path());
            let arguments = [&[verb, "--from", from, "--to", text(to.path())], options].concat();
            let (found, document) = run(&arguments);
            assert_eq!(found, Some(status), "{arguments:?}: {document:#}");
            assert_eq!(
                counts(&document, ALL, &all),
                [copied, skipped, failed],
                "{arguments:?}: {document:#}"
            );
            let overwritten = options == ["--overwrite"];
            assert_eq!(document["removed"], if overwritten { 2 } else { 0 });
            let mut wanted = all.clone();
            if !overwritten {
                let kept = before
                    .into_iter()
                    .filter(|(path, _)| path.contains("run_1"));
                wanted.extend(kept);
            }
            assert_same(&files(to.path()), &wanted, &format!("{arguments:?}"));
            let failures = document["failures"].as_array().unwrap();
            let named: Vec<_> = failures
                .iter()
                .map(|failure| (&failure["experiment_id"], &failure["run_id"]))
                .collect();
            match status {
                0 => assert_eq!(named, []),
                _ => assert_eq!(
                    named,
                    [
                        (&json!("a:1"), &json!("run_1")),
                        (&json!("b"), &json!("run_1"))
                    ]
                ),
            }
            for failure in failures {
                let reason = failure["reason"].as_str().unwrap();
                assert!(
                    reason.contains("runs/run_1.json with another content"),
                    "{reason}"
                );
                assert!(reason.contains("--overwrite"), "{reason}");
            }
        }
    }
}

#[test]
fn runs_that_a_query_selects_are_copied_with_all_of_theirs_and_no_others() {
    let source = filled();
    let from = text(source.path());
    let all = files(source.path());
    for (options, runs, experiments) in [
        (
            &["--where", "status = \"failed\""][..],
            &["failed"][..],
            &["a_1", "b"][..],
        ),
        (
            &[
                "--where",
                "status = \"success\" and run_id != \"Ünïcode\"",
                "-e",
                "b",
            ],
            &["0123456789abcdef", "run_1", "run_1_2"],
            &["b"],
        ),
        (&["--where", "run_id = \"nobody\""], &[], &["a_1", "b"]),
    ] {
        let own = |run: &&str| {
            all.keys()
                .filter(|path| {
                    let rest = path
                        .split_once("/")
                        .unwrap()
                        .1
                        .split_once('/')
                        .map(|(_, rest)| rest);
                    rest.is_some_and(|rest| rest.starts_with(*run))
                })
                .collect::<Vec<_>>()
        };
        let mut wanted = all.clone();
        wanted.retain(|path, _| {
            let (experiment, rest) = path.split_once('/').unwrap();
            let of_none = rest.starts_with("experiments/") || !rest.contains('/');
            let is_label = rest.contains("_01234567_") && runs.contains(&"0123456789abcdef");
            experiments.contains(&experiment)
                && (of_none || is_label || runs.iter().any(|run| own(run).contains(&path)))
        });
        let count = (runs.len() * experiments.len()) as u64;
        let place = tempfile::tempdir().unwrap();
        let (store, archive) = (place.path().join("store"), place.path().join("a.tar"));
        for to in [&store, &archive] {
            let arguments = [&["export", "--from", from, "--to", text(to)], options].concat();
            let document = good(&arguments);
            counts(&document, count, &wanted);
            assert_eq!(
                document["digests"].as_array().unwrap().len(),
                experiments.len()
            );
        }
        assert_same(&files(&store), &wanted, &format!("{options:?}"));
        let unpacked = place.path().join("unpacked");
        good(&["import", "--from", text(&archive), "--to", text(&unpacked)]);
        assert_same(&files(&unpacked), &wanted, &format!("{options:?}"));
    }
}

#[test]
fn several_experiments_are_copied_in_one_command_and_others_are_not() {
    let source = filled();
    let third = FileStoreConfig::new(source.path())
        .scoped("c")
        .connect()
        .unwrap();
    let record = RunRecord::new("r", Status::Success);
    third
        .put_run_record(&record, &Expectation::Anything)
        .unwrap();
    third.close().unwrap();
    let from = text(source.path());
    let chosen = ["--experiment", "a:1", "-e", "b"];
    for (before, verb, after) in [
        (&chosen[..], "export", &[][..]),
        (&chosen[..2], "export", &chosen[2..]),
        (&[], "export", &chosen),
        (&[], "import", &chosen),
    ] {
        let to = tempfile::tempdir().unwrap();
        let places = [verb, "--from", from, "--to", text(to.path())];
        let document = good(&[before, &places, after].concat());
        let mut wanted = files(source.path());
        wanted.retain(|path, _| !path.starts_with("c/"));
        counts(&document, ALL, &wanted);
        assert_same(&files(to.path()), &wanted, verb);
        assert!(!to.path().join("c").exists());
    }
}

/// What is in a directory, with the time of the last change of each file and directory.
fn moments(root: &Path) -> BTreeMap<PathBuf, (SystemTime, Vec<u8>)> {
    let paths = tree(root).into_iter();
    let moment = |(name, content): (String, Vec<u8>)| {
        let path = root.join(name);
        let changed = fs::symlink_metadata(&path).unwrap().modified().unwrap();
        (path, (changed, content))
    };
    paths.map(moment).collect()
}

/// What a destination has, in words, and how it comes there.
type There<'t> = (&'static str, &'t dyn Fn(&Path));

#[test]
fn a_dry_run_writes_nothing_anywhere_and_counts_what_the_copy_then_does() {
    let source = filled();
    let from = text(source.path());
    // Artifacts that are not kept in memory: the same at the destination, another of the same size, a beginning, a longer one;
    // and logs, one of which has grown.
    let large: Vec<u8> = (0..500_000_u32).flat_map(u32::to_le_bytes).collect();
    for name in ["same", "other", "begun", "longer"] {
        write(
            source.path().join(format!("b/artifacts/run_1_2/{name}")),
            &large,
        );
    }
    for name in ["grown", "torn"] {
        write(
            source
                .path()
                .join(format!("b/logs/0123456789abcdef_{name}.log")),
            &large,
        );
    }
    let new = |_: &Path| {};
    let old = |to: &Path| {
        fs::remove_dir(to).unwrap();
        fs::rename(destination(source.path()).keep(), to).unwrap();
    };
    let log_grew = |to: &Path| {
        old(to);
        write(
            to.join("b/logs/0123456789abcdef_grown.log"),
            &large[..1_500_000],
        );
    };
    let differing = |to: &Path| {
        log_grew(to);
        let artifacts = to.join("b/artifacts/run_1_2");
        write(artifacts.join("other"), vec![1; large.len()]);
        write(artifacts.join("begun"), &large[..1_200_000]);
        write(artifacts.join("longer"), [&large[..], &large[..]].concat());
        write(
            to.join("b/logs/0123456789abcdef_torn.log"),
            [&large[..1_500_000], b"other"].concat(),
        );
    };
    let places: [There<'_>; 4] = [
        ("new", &new),
        ("old", &old),
        ("a log grew", &log_grew),
        ("differing", &differing),
    ];
    for (what, place) in places {
        for options in [
            &["--fail-existing"][..],
            &["--skip-existing"],
            &["--overwrite"],
        ] {
            let (to, temporary) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            place(to.path());
            let arguments = [
                &["export", "--json", "--from", from, "--to", text(to.path())],
                options,
            ]
            .concat();
            let before = moments(to.path());
            let dry = command()
                .env("TMPDIR", temporary.path())
                .args(&arguments)
                .arg("--dry-run")
                .output()
                .unwrap();
            assert!(moments(to.path()) == before, "{what}: {options:?}");
            assert_eq!(tree(temporary.path()), BTreeMap::new());
            let real = command().args(&arguments).output().unwrap();
            assert_eq!(dry.status, real.status, "{what}: {options:?}");
            let document =
                |output: &Output| -> Value { serde_json::from_slice(&output.stdout).unwrap() };
            let (mut dry, real) = (document(&dry), document(&real));
            assert_eq!(
                (&dry["dry_run"], &real["dry_run"]),
                (&json!(true), &json!(false))
            );
            dry["dry_run"] = json!(false);
            assert_eq!(dry, real, "{what}: {options:?}");
            counts(&real, ALL, &files(source.path()));
        }
    }
    // Into places that do not exist.
    let place = tempfile::tempdir().unwrap();
    for name in ["store", "a.tar.zst", "a.tar"] {
        let to = place.path().join(name);
        let arguments = ["export", "--from", from, "--to", text(&to)];
        let temporary = tempfile::tempdir().unwrap();
        let before = tree(place.path());
        let dry = command()
            .env("TMPDIR", temporary.path())
            .args(
                ["--json", "--dry-run"]
                    .iter()
                    .skip(1)
                    .chain(&arguments)
                    .rev()
                    .rev()
                    .take(0),
            )
            .args(arguments)
            .args(["--json", "--dry-run"])
            .output()
            .unwrap();
        assert_eq!(tree(place.path()), before, "{name}");
        assert_eq!(tree(temporary.path()), BTreeMap::new(), "{name}");
        let mut dry: Value = serde_json::from_slice(&dry.stdout).unwrap();
        dry["dry_run"] = json!(false);
        assert_eq!(dry, good(&arguments), "{name}");
    }
}

/// Prints a document as the format does: as Python's `json.dumps(document, indent=2, sort_keys=True)`.
fn printed(document: &Value) -> String {
    let mut text = String::new();
    for letter in serde_json::to_string_pretty(document).unwrap().chars() {
        if letter.is_ascii() {
            text.push(letter);
            continue;
        }
        for unit in letter.encode_utf16(&mut [0; 2]) {
            text.push_str(&format!("\\u{unit:04x}"));
        }
    }
    text
}

/// The digest of a file, as `docs/transfer.md` has it.
fn digest_of(path: &str, content: &[u8]) -> String {
    let is_record = path.starts_with("runs/") && path.ends_with(".json");
    let is_manifest = path.starts_with("artifacts/")
        && path.matches('/').count() == 2
        && path.ends_with("/_manifest.json");
    let mut counted = content.to_vec();
    if (is_record || is_manifest)
        && let Ok(mut document) = serde_json::from_slice::<Value>(content)
        && let Some(artifacts) = document["artifacts"].as_array_mut()
    {
        let places = artifacts.iter_mut().filter_map(Value::as_object_mut);
        if places.filter_map(|artifact| artifact.remove("uri")).count() > 0 {
            counted = printed(&document).into_bytes();
        }
    }
    hex(&counted)
}

fn hex(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Says whose a file is, as `docs/transfer.md` has it; nobody's if it belongs to no run.
fn owner(path: &str, records: &BTreeSet<&str>, runs: &BTreeSet<String>) -> Option<String> {
    let (top, rest) = path.split_once('/')?;
    if top == "experiments" {
        return None;
    }
    if let Some((run, _)) = rest.split_once('/') {
        return Some(run.to_owned());
    }
    if top != "logs" {
        let stem = rest
            .strip_suffix(".json")
            .or_else(|| rest.strip_suffix(".done"));
        return stem.map(str::to_owned);
    }
    let stem = rest.strip_suffix(".log")?;
    let begins: Vec<&str> = stem.match_indices('_').map(|(at, _)| &stem[..at]).collect();
    let is_hex = |text: &&&str| {
        text.len() == 16
            && text
                .chars()
                .all(|letter| letter.is_ascii_hexdigit() && !letter.is_uppercase())
    };
    if let Some(run) = begins.first().filter(is_hex) {
        return Some((*run).to_owned());
    }
    if let Some(run) = begins.iter().rfind(|begin| runs.contains(**begin)) {
        return Some((*run).to_owned());
    }
    let possible: BTreeSet<&str> = stem
        .match_indices('_')
        .filter_map(|(at, _)| {
            let (end, _) = stem[at + 1..].char_indices().nth(8)?;
            let (begin, rest) = stem[at + 1..].split_at(end);
            let found: Vec<&&str> = records
                .iter()
                .filter(|run| run.starts_with(begin))
                .collect();
            (rest.starts_with('_') && found.len() == 1).then(|| *found[0])
        })
        .collect();
    match Vec::from_iter(possible)[..] {
        [run] => Some(run.to_owned()),
        _ => None,
    }
}

/// The digest of an experiment's directory, and how many runs it has.
fn experiment_digest(root: &Path) -> (String, u64) {
    let files = files(root);
    let records: BTreeSet<&str> = files
        .keys()
        .filter_map(|path| path.strip_prefix("runs/")?.strip_suffix(".json"))
        .collect();
    let mut known: BTreeSet<String> = files
        .keys()
        .filter(|path| !path.starts_with("logs/") || path.matches('/').count() > 1)
        .filter_map(|path| owner(path, &records, &BTreeSet::new()))
        .collect();
    let locks = fs::read_dir(root.join(".locks")).into_iter().flatten();
    let locks = locks.map(|lock| lock.unwrap().file_name().into_string().unwrap());
    known.extend(locks.filter_map(|lock| lock.strip_suffix(".lock").map(str::to_owned)));
    let mut runs: BTreeMap<String, String> = BTreeMap::new();
    let mut others = String::new();
    for (path, content) in &files {
        let line = format!("{}  {path}\n", digest_of(path, content));
        match owner(path, &records, &known) {
            Some(run) => runs.entry(run).or_default().push_str(&line),
            None => others.push_str(&line),
        }
    }
    let count = runs.len() as u64;
    let lines = runs
        .into_iter()
        .map(|(run, lines)| format!("{}  {run}\n", hex(lines.as_bytes())));
    let whole: String = lines.chain([others]).collect();
    (hex(whole.as_bytes()), count)
}

#[test]
fn the_digest_of_an_experiment_is_what_the_documentation_says() {
    let source = filled();
    let a = source.path().join("a_1");
    // Two runs that begin alike, and logs that may be one's; one that is told by a longer id, and one of a run that is gone.
    for run in ["experiment-one", "experiment-two", "deadbeef"] {
        write(
            a.join(format!("runs/{run}.json")),
            format!("{{\"run_id\": \"{run}\"}}"),
        );
    }
    write(a.join("logs/x_experime_stdout.log"), "whose");
    write(a.join("logs/x_deadbeef_stdout.log"), "deadbeef's");
    write(a.join("logs/run_1_2_more_to_say.log"), "run_1_2's");
    write(
        a.join("logs/fedcba9876543210_stdout.log"),
        "of a run without a record",
    );
    write(a.join("logs/FEDCBA9876543210_stdout.log"), "nobody's");
    write(a.join("logs/deep/er/stdout.txt"), "deep's");
    write(a.join("results/run_1/more/of.json"), "{\"data\": 1}");
    write(a.join("runs/damaged.json"), "{\"artifacts\": [{\"uri\": ");
    write(a.join("derived/only.json"), "{\"d\": 1.50}");
    let of_hand = "{\"b\": 0.5, \"a\": {}, \"artifacts\":[ {\"uri\": \"/x\", \"name\":\"\u{1f600}\"}, 1, {}], \"c\": []}";
    write(a.join("runs/by.hand.json"), of_hand);
    write(a.join("artifacts/by.hand/_manifest.json"), of_hand);
    write(a.join("artifacts/by.hand/deeper/_manifest.json"), of_hand);
    write(a.join("manifest.json"), of_hand);
    let expected: Vec<Value> = EXPERIMENTS
        .iter()
        .map(|(directory, experiment)| {
            let (digest, runs) = experiment_digest(&source.path().join(directory));
            json!({"experiment_id": experiment, "runs": runs, "digest": digest})
        })
        .collect();
    let expected = json!(expected);
    let (_, document) = run(&["-s", text(source.path()), "verify"]);
    assert_eq!(document["digests"], expected);
    let place = tempfile::tempdir().unwrap();
    let archive = place.path().join("a.tar.zst");
    let to = place.path().join("store");
    for (from, to) in [(text(source.path()), &archive), (text(&archive), &to)] {
        let document = good(&["export", "--from", from, "--to", text(to)]);
        assert_eq!(document["digests"], expected);
    }
    let computed = EXPERIMENTS.map(|(directory, _)| experiment_digest(&to.join(directory)));
    let copied = computed.map(|(digest, _)| digest);
    assert_eq!(
        json!(copied),
        json!([expected[0]["digest"], expected[1]["digest"]])
    );
    // For people, as `sha256sum` prints it.
    let output = command()
        .args(["-s", text(&to), "verify"])
        .output()
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    for digest in expected.as_array().unwrap() {
        let line = format!("{}  {}", digest["digest"], digest["experiment_id"]).replace('"', "");
        assert!(printed.lines().any(|printed| printed == line), "{printed}");
    }
}

/// The entries of an archive.
fn entries(archive: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut archive = tar::Archive::new(archive);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_str().unwrap().to_owned();
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
        (path, content)
    });
    entries.collect()
}

/// Makes an archive of entries, compressed.
fn packed(entries: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in entries {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        builder
            .append_data(&mut header, path, content.as_slice())
            .unwrap();
    }
    let stream = builder.into_inner().unwrap();
    let mut packer = Packer::default();
    let mut archive = packer.write(&stream);
    archive.extend(packer.finish());
    archive
}

#[test]
fn an_archive_whose_end_says_something_else_than_what_came_is_told_with_the_reason() {
    let source = filled();
    let place = tempfile::tempdir().unwrap();
    let (plain, altered) = (place.path().join("a.tar"), place.path().join("b.tar.zst"));
    let from = [
        "export",
        "--from",
        text(source.path()),
        "--to",
        text(&plain),
    ];
    let sent = good(&from)["digests"].clone();
    let digest = sent[0]["digest"].as_str().unwrap();
    let entries = entries(&fs::read(&plain).unwrap());
    let wrong = "0".repeat(64);
    let runs = RUNS.len() + 1;
    for (end, status, code, reason) in [
        (
            json!({"digest": digest, "runs": runs}),
            0,
            "",
            String::new(),
        ),
        (
            json!({"digest": wrong, "runs": runs}),
            1,
            "",
            format!(
                "what came has digest {digest} and {runs} runs, what was sent {wrong} and {runs}"
            ),
        ),
        (
            json!({"digest": digest, "runs": runs + 1}),
            1,
            "",
            format!(
                "what came has digest {digest} and {runs} runs, what was sent {digest} and {}",
                runs + 1
            ),
        ),
        (
            json!({"runs": runs}),
            1,
            "invalid-argument",
            "no usable `digest`".to_owned(),
        ),
        (
            json!({"digest": 1, "runs": runs}),
            1,
            "invalid-argument",
            "no usable `digest`".to_owned(),
        ),
        (
            json!({"digest": digest, "runs": -1}),
            1,
            "invalid-argument",
            "no usable `runs`".to_owned(),
        ),
        (
            json!([digest]),
            1,
            "invalid-argument",
            "expected an object".to_owned(),
        ),
    ] {
        let mut entries = entries.clone();
        let note = entries
            .iter_mut()
            .find(|(path, _)| path == "a_1/.transfer/end.json");
        note.unwrap().1 = end.to_string().into();
        fs::write(&altered, packed(&entries)).unwrap();
        let to = tempfile::tempdir().unwrap();
        let output = output(&["import", "--from", text(&altered), "--to", text(to.path())]);
        assert_eq!(output.status.code(), Some(status), "{end}");
        // What came before is in place either way.
        let there = files(&to.path().join("a_1"));
        assert_same(&there, &files(&source.path().join("a_1")), &end.to_string());
        if code.is_empty() {
            let document: Value = serde_json::from_slice(&output.stdout).unwrap();
            let failures = document["failures"].as_array().unwrap();
            let told = failures.iter().map(|failure| {
                (
                    &failure["experiment_id"],
                    &failure["run_id"],
                    &failure["reason"],
                )
            });
            let expected = (&json!("a:1"), &Value::Null, &json!(reason));
            let expected = Vec::from_iter((!reason.is_empty()).then_some(expected));
            assert_eq!(told.collect::<Vec<_>>(), expected, "{end}");
            // The digest is that of what came, and the rest of the archive is copied.
            assert_eq!(document["digests"], sent);
            assert_same(&files(to.path()), &files(source.path()), &end.to_string());
        } else {
            let error = String::from_utf8(output.stderr).unwrap();
            let error: Value = serde_json::from_str(error.lines().last().unwrap()).unwrap();
            assert_eq!(error["error"]["code"], code, "{end}: {error:#}");
            let message = error["error"]["message"].as_str().unwrap();
            assert!(message.contains(&reason), "{end}: {message}");
        }
    }
}
