//! Thousands of records with hostile values pass through component and file unchanged, and Python's `json`
//! prints the same bytes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use metalab_store::types::{Durability, Expectation};
use metalab_store::{FileStoreConfig, Store};
use metalab_store_guest::codec;
use metalab_store_tests::script::{Numbers, seed};
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// How many records there are.
const RECORDS: usize = 5_000;

/// Numbers as JSON texts at whose borders printers differ. All are as Python prints them.
const FLOATS: [&str; 26] = [
    "0.0",
    "-0.0",
    "1.0",
    "-1.5",
    "0.1",
    "1e+16",
    "9999999999999998.0",
    "1e+22",
    "1.2345678901234567e+22",
    "123456789012345.6",
    "0.0001",
    "0.00012",
    "9.9e-05",
    "1e-05",
    "1e-07",
    "5e-324",
    "2.2250738585072014e-308",
    "2.225073858507201e-308",
    "1.7976931348623157e+308",
    "-1.7976931348623157e+308",
    "3.141592653589793",
    "2.718281828459045e-100",
    "4503599627370497.5",
    "NaN",
    "Infinity",
    "-Infinity",
];

/// Where the printed form of a float changes. Its neighbours are tried too.
const BORDERS: [f64; 6] = [
    1e16,
    1e22,
    1e-4,
    1e-7,
    9_007_199_254_740_992.0,
    f64::MIN_POSITIVE,
];

/// Texts as JSON string contents: escapes of every kind, and characters that need none.
const TEXTS: [&str; 33] = [
    "",
    "plain",
    "\\u0000",
    "\\u0001\\u001f",
    "\\b\\f\\n\\r\\t",
    "\\\"\\\\/",
    "\\u007f",
    "\\u0080\\u009f",
    "caf\\u00e9",
    "\\u2028\\u2029",
    "\\uffff",
    "\\ufeff",
    "\\ue000",
    "\\ud83d\\ude00",
    "\\ud83d",
    "\\ude00",
    "\\ude00\\ud83d",
    "a\\ud800b",
    "\\ud800\\ud800\\udc00",
    "null",
    "NaN",
    "1e5",
    "{\\\"a\\\": 1}",
    "../../etc/passwd",
    "\\r\\n",
    "' or 1=1 --",
    "\u{e9}",
    "\u{7f}\u{80}",
    "\u{2028}",
    "\u{ffff}",
    "\u{1f600}",
    "e\u{301}",
    "\\u00E9\\uD83D\\uDE00",
];

/// Makes values as JSON text.
struct Maker(Numbers);

impl Maker {
    fn pick<'t>(&mut self, from: &[&'t str]) -> &'t str {
        from[usize::try_from(self.0.below(from.len() as u64)).unwrap()]
    }

    fn integer(&mut self) -> String {
        match self.0.below(6) {
            0 => (self.0.draw() as i64).to_string(),
            1 => self.0.below(100).to_string(),
            2 => "9223372036854775808".to_owned(),
            3 => "-9223372036854775809".to_owned(),
            4 => "9007199254740993".to_owned(),
            _ => {
                let digits = 1 + self.0.below(300);
                let rest: String = (0..digits)
                    .map(|_| char::from(b'0' + u8::try_from(self.0.below(10)).unwrap()))
                    .collect();
                format!("-{}{rest}", 1 + self.0.below(9))
            }
        }
    }

    fn float(&mut self) -> String {
        match self.0.below(5) {
            0 => self.pick(&FLOATS).to_owned(),
            2 => {
                let border = BORDERS[usize::try_from(self.0.below(6)).unwrap()];
                let bits = border.to_bits() + self.0.below(5) - 2;
                format!("{:e}", f64::from_bits(bits))
            }
            // So small that few bits are left.
            3 => format!(
                "-{:e}",
                f64::from_bits(self.0.draw() >> (12 + self.0.below(52)))
            ),
            1 => loop {
                let value = f64::from_bits(self.0.draw());
                if value.is_finite() {
                    // Not as Python prints it, but the same number: the component prints it right.
                    break format!("{value:e}");
                }
            },
            _ => format!("{}e{}", self.0.below(1000), self.0.below(40)),
        }
    }

    fn text(&mut self) -> String {
        let pieces = match self.0.below(500) {
            0 => 5_000,
            _ => 1 + self.0.below(3),
        };
        let text: String = (0..pieces).map(|_| self.pick(&TEXTS)).collect();
        format!("\"{text}\"")
    }

    fn value(&mut self, depth: u64) -> String {
        match self.0.below(if depth == 0 { 5 } else { 8 }) {
            0 => self.pick(&["null", "true", "false"]).to_owned(),
            1 => self.integer(),
            2 | 3 => self.float(),
            4 => self.text(),
            5 => {
                let items: Vec<String> = (0..self.0.below(5))
                    .map(|_| self.value(depth - 1))
                    .collect();
                format!("[{}]", items.join(","))
            }
            6 if self.0.below(20) == 0 => {
                // Python itself gives up a little below a thousand, and what is so deep prints large.
                let deepest = if self.0.below(20) == 0 { 900 } else { 80 };
                let deep = usize::try_from(self.0.below(deepest)).unwrap();
                if self.0.below(2) == 0 {
                    format!("{}{}{}", "[".repeat(deep), self.value(0), "]".repeat(deep))
                } else {
                    let open = "{\"\":".repeat(deep);
                    format!("{open}{}{}", self.value(0), "}".repeat(deep))
                }
            }
            _ => self.object(depth - 1),
        }
    }

    fn object(&mut self, depth: u64) -> String {
        // Now and then a key comes twice: the last one counts, in Python too.
        let members: Vec<String> = (0..self.0.below(6))
            .map(|_| format!("{}:{}", self.text(), self.value(depth)))
            .collect();
        format!("{{{}}}", members.join(","))
    }

    /// Makes a record. Every field that may be absent is so at times.
    fn record(&mut self, run: &str) -> String {
        let mut fields = vec![
            format!("\"run_id\": \"{run}\""),
            format!(
                "\"status\": \"{}\"",
                self.pick(&["success", "failed", "cancelled", "running"])
            ),
        ];
        let times = [
            "2026-03-01T09:00:00",
            "2026-03-01T09:00:00.123456",
            "2026-03-01T09:00:00+00:00",
            "2026-03-01T09:00:00.000001-11:30",
            "0001-01-01T00:00:00",
            "9999-12-31T23:59:59.999999",
        ];
        let mut maybe = |name: &str, value: String, numbers: &mut Numbers| {
            if numbers.below(2) == 0 {
                fields.push(format!("\"{name}\": {value}"));
            }
        };
        for name in [
            "context_fingerprint",
            "params_fingerprint",
            "seed_fingerprint",
            "notes",
        ] {
            let text = self.text();
            maybe(name, text, &mut self.0);
        }
        // Keys that nobody knows, before and behind all others by their code points.
        for name in [
            "",
            " ",
            "\\u0000",
            "zz\u{e9}",
            "\\uffff",
            "\u{1f600}",
            "\\ud83d",
        ] {
            let value = self.value(2);
            if self.0.below(4) == 0 {
                maybe(name, value, &mut self.0);
            }
        }
        let error = self.object(2);
        maybe("error", error, &mut self.0);
        let warnings = format!("[{}, {}]", self.object(1), self.object(1));
        maybe("warnings", warnings, &mut self.0);
        // With every field: a typed put names those that are missing.
        let artifacts = format!(
            "[{{\"artifact_id\": {}, \"name\": {}, \"kind\": {}, \"format\": \"\", \"uri\": {}, \
             \"content_hash\": {}, \"size_bytes\": {}, \"metadata\": {}, \"other\": {}}}]",
            self.text(),
            self.text(),
            self.text(),
            self.text(),
            self.text(),
            self.0.below(1 << 62),
            self.object(2),
            self.value(1)
        );
        maybe("artifacts", artifacts, &mut self.0);
        for name in ["started_at", "finished_at"] {
            let time = format!("\"{}\"", self.pick(&times));
            maybe(name, time, &mut self.0);
        }
        let duration = self.0.below(1 << 62).to_string();
        maybe("duration_ms", duration, &mut self.0);
        for name in ["params_resolved", "metrics", "unknown \\u00e9 key"] {
            let object = self.object(3);
            maybe(name, object, &mut self.0);
        }
        let provenance = format!(
            "{{\"host\": {}, \"extra\": {}}}",
            self.text(),
            self.object(2)
        );
        maybe("provenance", provenance, &mut self.0);
        let tags = format!("[{}, {}]", self.text(), self.text());
        maybe("tags", tags, &mut self.0);
        format!("{{{}}}", fields.join(", "))
    }
}

fn open(directory: &Path) -> Store {
    FileStoreConfig::new(directory)
        .scoped("corpus:1")
        .durability(Durability::Relaxed)
        .connect()
        .unwrap()
}

/// Fills a store, and returns the runs' ids with the bytes of their files.
fn fill(directory: &Path, count: usize, seed: u64) -> Vec<(String, Vec<u8>)> {
    let store = open(directory);
    let mut maker = Maker(Numbers::new(seed));
    (0..count)
        .map(|index| {
            let run = format!("{index:016x}");
            let record = maker.record(&run);
            store
                .put_run_text(&record, &Expectation::Anything)
                .unwrap_or_else(|error| panic!("METALAB_STORE_SEED={seed}: {record}: {error}"));
            let file = directory.join(format!("corpus_1/runs/{run}.json"));
            (run, fs::read(file).unwrap())
        })
        .collect()
}

#[test]
fn thousands_of_hostile_records_pass_through_component_and_file_unchanged() {
    let seed = seed();
    println!("METALAB_STORE_SEED={seed}");
    let directory = tempfile::tempdir().unwrap();
    let corpus = fill(directory.path(), RECORDS, seed);
    let store = open(directory.path());
    let (mut typed, mut unrepresentable) = (0, 0);
    for (run, bytes) in &corpus {
        let context = format!("METALAB_STORE_SEED={seed}, run {run}");
        // What is in the file is the canonical text.
        let object = codec::parse_object(run, bytes).unwrap();
        let printed = codec::print(&metalab_store_guest::json::Value::Object(object));
        assert!(printed.as_bytes() == bytes, "{context}: not canonical");
        let text = store.get_run_text(run).unwrap().unwrap();
        assert!(text.as_bytes() == bytes, "{context}: the text is another");
        // As text and back.
        let revision = store.put_run_text(&text, &Expectation::Anything).unwrap();
        // Typed and back, where WIT's strings can hold it.
        let file = directory.path().join(format!("corpus_1/runs/{run}.json"));
        assert!(&fs::read(&file).unwrap() == bytes, "{context}: put as text");
        match store.get_run_record(run) {
            Ok(record) => {
                let again = store
                    .put_run_record(&record.unwrap(), &Expectation::Revision(revision))
                    .unwrap();
                let written = fs::read(&file).unwrap();
                // A typed put names every field; apart from that it changes nothing.
                let typed_again = store.get_run_record(run).unwrap().unwrap();
                store
                    .put_run_record(&typed_again, &Expectation::Revision(again))
                    .unwrap();
                assert!(fs::read(&file).unwrap() == written, "{context}: put typed");
                superset(run, bytes, &written, &context);
                typed += 1;
            }
            Err(error) => {
                assert_eq!(error.code(), "unrepresentable", "{context}: {error}");
                unrepresentable += 1;
            }
        }
    }
    println!("{typed} typed, {unrepresentable} with lone surrogates where the contract has texts");
    assert!(typed > RECORDS / 10 && unrepresentable > 0);
    let mut lines = 0;
    let mut list = store.list_runs(None).unwrap();
    loop {
        let page = list.next_lines(1 << 20).unwrap();
        if page.is_empty() {
            break;
        }
        lines += page.lines().count();
    }
    assert_eq!(lines, RECORDS);
    assert_eq!(list.damaged().unwrap(), []);
    let page = store.list_run_records(None).unwrap();
    assert_eq!(page.records.len(), typed);
    assert_eq!(page.damaged.len(), unrepresentable);
}

/// Checks that all that one document holds is in another, unchanged.
fn superset(file: &str, small: &[u8], large: &[u8], context: &str) {
    let small = codec::parse_object(file, small).unwrap();
    let large = codec::parse_object(file, large).unwrap();
    for (name, value) in small.iter() {
        // By comparing, as a name with a lone surrogate is none that could be looked up as text.
        let found = large.iter().find(|(other, _)| *other == name);
        let found = found.map(|(_, value)| codec::print(value));
        let shown = name.as_str().unwrap_or("a name with a lone surrogate");
        assert!(
            found == Some(codec::print(value)),
            "{context}: {shown} was {} and is {found:?}",
            codec::print(value)
        );
    }
}

#[test]
fn metrics_results_and_manifests_of_any_value_pass_unchanged() {
    let seed = seed();
    println!("METALAB_STORE_SEED={seed}");
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let mut maker = Maker(Numbers::new(seed));
    for index in 0..500 {
        let context = format!("METALAB_STORE_SEED={seed}, number {index}");
        let derived = maker.object(2);
        store.put_derived_text("run", &derived).unwrap();
        let text = store.get_derived_text("run").unwrap().unwrap();
        store.put_derived_text("run", &text).unwrap();
        assert_eq!(
            store.get_derived_text("run").unwrap().unwrap(),
            text,
            "{context}"
        );
        let canonical = codec::print(&metalab_store_guest::json::Value::Object(
            codec::parse_object("derived", derived.as_bytes()).unwrap(),
        ));
        assert_eq!(text, canonical, "{context}");

        let mut result = metalab_store::types::StructuredResult::new(maker.value(3));
        result.metadata = maker.object(2);
        store.put_result("run", "x", &result).unwrap();
        let first = store.get_result_text("run", "x").unwrap().unwrap();
        let read = store.get_result("run", "x").unwrap().unwrap();
        store.put_result("run", "x", &read).unwrap();
        assert_eq!(
            store.get_result_text("run", "x").unwrap().unwrap(),
            first,
            "{context}"
        );

        let body = maker.object(3);
        let header = store.put_experiment_manifest("corpus:1", &body, Some("20260301_090000"));
        header.unwrap();
        let manifest = store.get_experiment_manifest("corpus:1").unwrap().unwrap();
        let canonical = |text: &str| {
            codec::print(&metalab_store_guest::json::Value::Object(
                codec::parse_object("manifest", text.as_bytes()).unwrap(),
            ))
        };
        assert_eq!(canonical(&manifest.body), canonical(&body), "{context}");
    }
}

#[test]
fn python_reads_and_prints_the_same_bytes() {
    let python = Command::new("python3").arg("--version").output();
    if !python.is_ok_and(|python| python.status.success()) {
        println!("NOT RUN: there is no python3 to compare with");
        return;
    }
    let seed = seed();
    println!("METALAB_STORE_SEED={seed}");
    let directory = tempfile::tempdir().unwrap();
    let corpus = fill(directory.path(), RECORDS, seed);
    let store = open(directory.path());
    let mut maker = Maker(Numbers::new(seed));
    let mut files: Vec<String> = Vec::new();
    for (run, _) in &corpus {
        files.push(format!("runs/{run}.json"));
    }
    for (run, _) in corpus.iter().take(300) {
        store.put_derived_text(run, &maker.object(2)).unwrap();
        files.push(format!("derived/{run}.json"));
        let mut result = metalab_store::types::StructuredResult::new(maker.value(3));
        result.metadata = maker.object(2);
        store.put_result(run, "x", &result).unwrap();
        files.push(format!("results/{run}/x.json"));
        let mut artifact = metalab_store::types::ArtifactDescriptor::new(run, "x", "blob", "bin");
        artifact.unknown = maker.object(2);
        artifact
            .artifact_id
            .push_str("\u{e9}\u{1f600}\u{2028}\u{7f}");
        store.put_artifact(b"content", &artifact).unwrap();
        files.push(format!("artifacts/{run}/_manifest.json"));
        let body = maker.object(3);
        let stamp = format!("t{run}");
        let header = store.put_experiment_manifest("corpus:1", &body, Some(&stamp));
        header.unwrap();
        files.push(format!("experiments/corpus_1_{stamp}.json"));
    }
    files.push("_meta.json".to_owned());
    let program = "
import json, sys
differing = total = 0
for path in sys.stdin.read().splitlines():
    total += 1
    with open(path, 'rb') as file:
        data = file.read()
    printed = json.dumps(json.loads(data), indent=2, sort_keys=True).encode('ascii')
    if printed != data:
        differing += 1
        print(path)
print('differing', differing, 'of', total)
";
    let mut child = Command::new("python3")
        .args(["-c", program])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut paths = String::new();
    for file in &files {
        let path = directory.path().join("corpus_1").join(file);
        writeln!(paths, "{}", path.display()).unwrap();
    }
    child
        .stdin
        .take()
        .unwrap()
        .write_all(paths.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said.ends_with(&format!("differing 0 of {}\n", files.len())),
        "METALAB_STORE_SEED={seed}: {said}"
    );
}
