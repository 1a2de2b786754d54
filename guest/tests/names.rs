//! A hundred thousand names that want to escape, to collide or to break something, through every operation.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use metalab_store_guest::error::{Error, Result};
use metalab_store_guest::model::{
    Access, ArtifactDescriptor, ArtifactReference, Durability, Expectation, StoreOptions,
    StructuredResult,
};
use metalab_store_guest::native;
use metalab_store_guest::store::Store;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// How many names are tried in each quarter.
const NAMES: usize = 25_000;

/// One of so many accepted names is written, read back and kept.
const WRITTEN: u64 = 16;

/// Pieces that names are made of.
const PIECES: [&str; 64] = [
    "a",
    "b",
    "A",
    "x1",
    "run",
    "_",
    "__",
    "-",
    ".",
    "..",
    "...",
    "/",
    "//",
    "\\",
    "\0",
    "\n",
    "\r",
    "\t",
    "\x1b",
    "\x7f",
    "\u{85}",
    "\u{200b}",
    "\u{202e}",
    "\u{2028}",
    "\u{feff}",
    " ",
    "  ",
    "é",
    "e\u{301}",
    "ß",
    "ẞ",
    "İ",
    "ﬁ",
    "😀",
    "漢字",
    "CON",
    "NUL",
    "aux.txt",
    "~",
    "~1",
    "$HOME",
    "%2f",
    "%2e%2e",
    "*",
    "?",
    "[a]",
    "{b}",
    ":",
    ";",
    "|",
    "<",
    ">",
    "\"",
    "'",
    "`",
    ".json",
    ".log",
    ".txt",
    ".done",
    ".tmp.0123abcd",
    "_manifest",
    "0123456789abcdef",
    "ab715c67",
    "etc/passwd",
];

struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((self.0 >> 33) % limit as u64).unwrap()
    }

    fn name(&mut self) -> String {
        match self.below(12) {
            // Near the longest.
            0 => {
                let piece = ["x", "é", "漢", "😀"][self.below(4)];
                let bytes = 236 + self.below(16);
                let mut name = piece.repeat(bytes / piece.len());
                name.push_str(&"y".repeat(bytes - name.len()));
                name
            }
            1 => format!("../{}", PIECES[self.below(PIECES.len())]),
            2 => format!("{:016x}", self.below(50)),
            3 => format!("{:016x}_{}", self.below(50), PIECES[self.below(5)]),
            _ => (0..1 + self.below(5))
                .map(|_| PIECES[self.below(PIECES.len())])
                .collect(),
        }
    }
}

fn open(directory: &Path) -> Store {
    let options = StoreOptions {
        directory: directory.to_str().unwrap().to_owned(),
        experiment_id: Some("e:1".to_owned()),
        access: Access::ReadWrite,
        durability: Durability::Relaxed,
        lock_timeout_ms: 1000,
        index: None,
    };
    Store::open(native::ports(directory).unwrap(), options).unwrap()
}

/// A descriptor as a caller makes it.
fn artifact(run: &str, name: &str, format: &str) -> ArtifactDescriptor {
    let text = format!(
        "{{\"_run_id\": {}}}",
        metalab_store_guest::codec::print_line(&metalab_store_guest::json::Value::String(
            run.into()
        ))
    );
    ArtifactDescriptor {
        artifact_id: String::new(),
        name: name.to_owned(),
        kind: "blob".to_owned(),
        format: format.to_owned(),
        uri: String::new(),
        content_hash: None,
        size_bytes: None,
        metadata: text,
        unknown: "{}".to_owned(),
    }
}

fn named(run: &str, name: &str) -> ArtifactReference {
    ArtifactReference::Name(run.to_owned(), name.to_owned())
}

/// What was stored: by kind, run and name.
type Stored = BTreeMap<(&'static str, String, String), String>;

/// Does everything that only looks, with a name in each place. It is refused in all, or found missing.
fn look(store: &Store, other: &str, name: &str) {
    let results = [
        store.get_run_record(name).map(drop),
        store.get_versioned_run(name).map(drop),
        store.get_run_text(name).map(drop),
        store.run_exists(name).map(drop),
        store.get_derived(name).map(drop),
        store.get_derived_text(name).map(drop),
        store.derived_exists(name).map(drop),
        store.get_result(name, "x").map(drop),
        store.get_result(other, name).map(drop),
        store.get_result_text(other, name).map(drop),
        store.list_results(name).map(drop),
        store.get_log(name, "x").map(drop),
        store.get_log(other, name).map(drop),
        store.read_log(other, name, 0, 10).map(drop),
        store.list_logs(name).map(drop),
        store.get_log_path(other, name).map(drop),
        store.get_artifact(&named(name, "x")).map(drop),
        store.get_artifact(&named(other, name)).map(drop),
        store
            .get_artifact(&ArtifactReference::Uri(name.to_owned()))
            .map(drop),
        store.list_artifacts(name).map(drop),
        store.delete_run(&format!("{name}-not-there")).map(drop),
    ];
    for result in results {
        if let Err(error) = result {
            let expected = matches!(
                error,
                Error::InvalidName { .. }
                    | Error::NotFound { .. }
                    | Error::InvalidArgument(_)
                    | Error::NotGranted(_)
            );
            assert!(expected, "{name:?}: {error:?}");
        }
    }
}

/// Writes with a name in each place; returns whether it was accepted anywhere.
fn write(store: &Store, other: &str, name: &str, number: usize, stored: &mut Stored) {
    let value = format!("value {number}");
    let text = |text: &str| {
        metalab_store_guest::codec::print_line(&metalab_store_guest::json::Value::String(
            text.into(),
        ))
    };
    let mut keep = |kind: &'static str, run: &str, name: &str, result: Result<()>| match result {
        Ok(()) => {
            stored.insert((kind, run.to_owned(), name.to_owned()), value.clone());
        }
        Err(Error::InvalidName { .. } | Error::Conflict { .. }) => {}
        Err(error) => panic!("{kind} {run:?} {name:?}: {error:?}"),
    };
    let record = format!(
        "{{\"run_id\": {}, \"status\": \"success\", \"notes\": {}}}",
        text(name),
        text(&value)
    );
    let put = store.put_run_text(&record, &Expectation::Anything);
    keep("record", name, "", put.map(drop));
    let derived = format!("{{\"value\": {}}}", text(&value));
    keep(
        "derived",
        name,
        "",
        store.put_derived_text(name, &derived).map(drop),
    );
    let result = StructuredResult {
        data: text(&value),
        dtype: None,
        shape: None,
        metadata: "{}".to_owned(),
        unknown: "{}".to_owned(),
    };
    for (run, name) in [(name, "x"), (other, name)] {
        keep(
            "result",
            run,
            name,
            store.put_result(run, name, &result).map(drop),
        );
        keep("log", run, name, store.put_log(run, name, &value));
        let put = store.put_artifact(value.as_bytes(), artifact(run, name, "bin"));
        keep("artifact", run, name, put.map(drop));
    }
    let put = store.put_artifact(
        value.as_bytes(),
        artifact("formats", &format!("n{number}"), name),
    );
    keep("artifact", "formats", &format!("n{number}"), put.map(drop));
    let log = format!("{name}+{number}");
    let appended = store.append_log(other, &log, &value, false);
    keep("log", other, &log, appended.map(drop));
    if number.is_multiple_of(8) || number < 2_000 {
        let body = format!("{{\"value\": {}}}", text(&value));
        let put = store.put_experiment_manifest(name, &body, None);
        keep("manifest", name, "", put.map(drop));
    }
}

/// Reads what was stored.
fn read(store: &Store, kind: &str, run: &str, name: &str) -> Option<String> {
    let strip = |text: String| {
        let start = text.find("value ")?;
        let number: String = text[start + 6..]
            .chars()
            .take_while(char::is_ascii_digit)
            .collect();
        Some(format!("value {number}"))
    };
    match kind {
        "record" => {
            let record = store.get_run_record(run).unwrap()?;
            assert_eq!(record.run_id, run);
            record.notes
        }
        "derived" => strip(store.get_derived_text(run).unwrap()?),
        "result" => {
            assert!(
                store
                    .list_results(run)
                    .unwrap()
                    .iter()
                    .any(|found| found == name)
            );
            strip(store.get_result(run, name).unwrap()?.data)
        }
        "log" => {
            assert!(
                store
                    .list_logs(run)
                    .unwrap()
                    .iter()
                    .any(|found| found == name),
                "{run:?} {name:?}"
            );
            store.get_log(run, name).unwrap()
        }
        "artifact" => {
            let content = store.get_artifact(&named(run, name)).unwrap();
            Some(String::from_utf8(content).unwrap())
        }
        _ => strip(store.get_experiment_manifest(run).unwrap()?.body),
    }
}

/// A quarter of the names: the quarters run at the same time.
macro_rules! quarter {
    ($name:ident, $seed:literal) => {
        #[test]
        fn $name() {
            names_of_a_seed($seed);
        }
    };
}

quarter!(
    no_name_escapes_collides_or_breaks_anything_in_any_operation,
    2026
);
quarter!(nor_does_one_of_the_second_quarter, 2027);
quarter!(nor_does_one_of_the_third_quarter, 2028);
quarter!(nor_does_one_of_the_fourth_quarter, 2029);

fn names_of_a_seed(seed: u64) {
    let outer = tempfile::tempdir().unwrap();
    let root = outer.path().join("store");
    fs::create_dir(&root).unwrap();
    for sentinel in ["etc", "x", "run.json", "passwd"] {
        fs::write(outer.path().join(sentinel), sentinel).unwrap();
    }
    let store = open(&root);
    println!("seed {seed}");
    let mut numbers = Numbers(seed);
    let mut stored = Stored::new();
    for number in 0..NAMES {
        let name = numbers.name();
        // Not all in one run: its lists would be long.
        let other = format!("run{}", number % 1_000);
        look(&store, &other, &name);
        // All manifests are looked at for those of one experiment.
        if number.is_multiple_of(100) {
            for result in [
                store.get_experiment_manifest(&name).map(drop),
                store.list_experiment_manifests(&name).map(drop),
            ] {
                assert!(matches!(result, Ok(()) | Err(Error::InvalidName { .. })));
            }
        }
        let refused = metalab_store_guest::names::RunId::parse(&name).is_err();
        if refused || (number as u64).is_multiple_of(WRITTEN) {
            // What is refused touches nothing, so it costs nothing either.
            write(&store, &other, &name, number, &mut stored);
        }
    }
    println!("{} contents stored", stored.len());
    assert!(stored.len() > 3_000);
    for ((kind, run, name), value) in &stored {
        assert_eq!(
            read(&store, kind, run, name).as_ref(),
            Some(value),
            "{kind} of {run:?}, {name:?}"
        );
    }
    // Each deleted run takes what is its own and nothing else.
    let runs: Vec<String> = stored.keys().map(|(_, run, _)| run.clone()).collect();
    for run in runs
        .iter()
        .filter(|run| run.len() % 3 == 0 && !run.starts_with("run"))
    {
        if metalab_store_guest::names::RunId::parse(run).is_ok() {
            store.delete_run(run).unwrap();
            stored.retain(|(kind, owner, _), _| owner != run || *kind == "manifest");
        }
    }
    for ((kind, run, name), value) in &stored {
        assert_eq!(
            read(&store, kind, run, name).as_ref(),
            Some(value),
            "{kind} of {run:?}, {name:?} after others were deleted"
        );
    }
    let mut beside: Vec<String> = fs::read_dir(outer.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    beside.sort();
    assert_eq!(beside, ["etc", "passwd", "run.json", "store", "x"]);
    let mut tops: Vec<String> = fs::read_dir(&root)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    tops.sort();
    assert_eq!(
        tops,
        [
            ".index",
            ".locks",
            "_meta.json",
            "artifacts",
            "derived",
            "experiments",
            "logs",
            "results",
            "runs"
        ]
    );
}
