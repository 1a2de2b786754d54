//! The conformance script: calls as data, made of the native logic and of the Rust host. `tests/conformance/README.md`
//! describes the script and the transcript.

use crate::database::Schema;
use metalab_store::types::{
    ArtifactDescriptor, ArtifactReference, Damage, Expectation, FieldCatalogue, LogChunk, Manifest,
    ManifestHeader, Metric, MetricValue, RunQuery, StructuredResult,
};
use metalab_store_postgres::Value as SqlValue;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

mod host;
mod native;
mod whole;

pub use host::RustHost;
pub use native::Native;
pub use whole::{Copying, Which};

/// The most bytes of an artifact that cross in one call.
const CHUNK: u32 = 256 * 1024;

/// Why a call failed, as a transcript tells it.
#[derive(Debug)]
pub struct Failure {
    /// The name of the case.
    pub code: String,
    /// The message.
    pub message: String,
}

impl Failure {
    fn closed() -> Self {
        Self {
            code: "closed".to_owned(),
            message: "the store is closed".to_owned(),
        }
    }

    fn json(&self) -> Value {
        json!({ "code": self.code, "message": self.message })
    }
}

type Outcome<T> = Result<T, Failure>;

/// What makes the calls of the script.
pub trait Target: Default {
    /// An open store.
    type Store: Opened;

    /// Opens a store below the root.
    ///
    /// # Errors
    /// That of the call.
    fn open(&self, root: &Path, experiment: Option<&str>, read_only: bool) -> Outcome<Self::Store>;

    /// Lists the experiments below the root, with the files that should name one and do not.
    ///
    /// # Errors
    /// That of the call.
    fn list_experiments(&self, root: &Path) -> Outcome<(Vec<String>, Vec<Damage>)>;

    /// Splits a locator into its parts; none if the target does not offer it.
    ///
    /// # Errors
    /// That of the call.
    fn parse_locator(&self, locator: &str) -> Option<Outcome<Value>>;

    /// Verifies a store, and says what was found.
    ///
    /// # Errors
    /// That of the call.
    fn verify(&self, which: Which<'_>, repair: bool) -> Outcome<Value>;

    /// Looks for garbage of any age, and says what was found.
    ///
    /// # Errors
    /// That of the call.
    fn collect_garbage(&self, which: Which<'_>, apply: bool) -> Outcome<Value>;

    /// Copies from a collection to another one or to an archive.
    ///
    /// # Errors
    /// That of the call.
    fn transfer(&self, from: &Path, to: &Path, how: &Copying<'_>) -> Outcome<Value>;

    /// Runs a plugin of this repository.
    ///
    /// # Errors
    /// That of the call.
    fn derive(&self, which: Which<'_>, plugin: &str, filter: &str, dry_run: bool)
    -> Outcome<Value>;
}

/// A list as a transcript shows it.
pub struct Lines {
    /// How many runs match.
    pub total: u64,
    /// The columns.
    pub columns: Vec<String>,
    /// The pages of text.
    pub text: String,
    /// The cursor.
    pub cursor: Option<String>,
    /// The damaged files.
    pub damaged: Vec<Damage>,
}

/// The columns and rows of a query.
pub type Rows = (Vec<String>, Vec<Vec<Option<String>>>);

/// Pieces of an artifact, read: its size, the pieces, its descriptor.
pub type Pieces = (u64, Vec<Vec<u8>>, Option<ArtifactDescriptor>);

/// An open store. The methods are those of the contract.
#[expect(missing_docs, reason = "the contract describes them")]
#[expect(clippy::missing_errors_doc, reason = "the contract describes them")]
pub trait Opened {
    fn close(self) -> Outcome<()>;
    fn working_directory(&self) -> Outcome<String>;
    fn put_run_text(&self, record: &str, expect: Expectation) -> Outcome<String>;
    fn put_run_lines(&self, lines: &str) -> Outcome<Vec<Outcome<String>>>;
    fn get_run_text(&self, run: &str) -> Outcome<Option<String>>;
    fn run_status(&self, run: &str) -> Outcome<Option<String>>;
    fn list_runs(&self, experiment: Option<&str>) -> Outcome<Lines>;
    fn query_runs(&self, query: &RunQuery) -> Outcome<Lines>;
    fn query_rows(&self, query: &RunQuery) -> Outcome<Rows>;
    fn list_fields(&self, filter: &str) -> Outcome<FieldCatalogue>;
    fn run_exists(&self, run: &str) -> Outcome<bool>;
    fn delete_run(&self, run: &str) -> Outcome<bool>;
    fn put_derived_text(&self, run: &str, derived: &str) -> Outcome<String>;
    fn run_metrics(&self, run: &str) -> Outcome<Option<Vec<Metric>>>;
    fn put_derived(&self, run: &str, metrics: &[Metric]) -> Outcome<String>;
    fn put_derived_batch(&self, derived: &[(String, Vec<Metric>)])
    -> Outcome<Vec<Outcome<String>>>;
    fn get_derived(&self, run: &str) -> Outcome<Option<Vec<Metric>>>;
    fn get_derived_text(&self, run: &str) -> Outcome<Option<String>>;
    fn derived_exists(&self, run: &str) -> Outcome<bool>;
    fn put_result(&self, run: &str, name: &str, result: StructuredResult) -> Outcome<String>;
    fn get_result_text(&self, run: &str, name: &str) -> Outcome<Option<String>>;
    fn list_results(&self, run: &str) -> Outcome<Vec<String>>;
    fn put_log(&self, run: &str, name: &str, content: &str) -> Outcome<()>;
    fn append_log(&self, run: &str, name: &str, content: &str, sync: bool) -> Outcome<u64>;
    fn get_log(&self, run: &str, name: &str) -> Outcome<Option<String>>;
    fn read_log(&self, run: &str, name: &str, offset: u64, max: u32) -> Outcome<Option<LogChunk>>;
    fn list_logs(&self, run: &str) -> Outcome<Vec<String>>;
    fn log_path(&self, run: &str, name: &str) -> Outcome<String>;
    fn put_artifact(
        &self,
        content: &[u8],
        descriptor: ArtifactDescriptor,
    ) -> Outcome<ArtifactDescriptor>;
    fn write_artifact(
        &self,
        chunks: &[Vec<u8>],
        descriptor: ArtifactDescriptor,
    ) -> Outcome<ArtifactDescriptor>;
    fn put_artifact_file(
        &self,
        content: &[u8],
        descriptor: ArtifactDescriptor,
    ) -> Outcome<ArtifactDescriptor>;
    fn read_artifact(
        &self,
        artifact: &ArtifactReference,
        verify: bool,
        reads: &[(u64, u32)],
    ) -> Outcome<Pieces>;
    fn list_artifacts(&self, run: &str) -> Outcome<Vec<ArtifactDescriptor>>;
    fn put_manifest(
        &self,
        experiment: &str,
        body: &str,
        timestamp: Option<&str>,
    ) -> Outcome<ManifestHeader>;
    fn get_manifest(&self, experiment: &str) -> Outcome<Option<Manifest>>;
    fn list_manifests(&self, experiment: &str) -> Outcome<Vec<ManifestHeader>>;
}

/// Makes the calls of the script on an empty root, and returns the transcript.
#[must_use]
pub fn transcript<T: Target>(target: &T, root: &Path) -> Vec<Value> {
    let root = root.canonicalize().unwrap();
    let script = fs::read(crate::checkout().join("tests/conformance/script.json")).unwrap();
    let script: Value = serde_json::from_slice(&script).unwrap();
    assert_eq!(script["format"], 1);
    let mut executor = Executor {
        target,
        plain: T::default(),
        root: root.clone(),
        stores: BTreeMap::new(),
        cursor: None,
    };
    let mut lines: Vec<Value> = script["operations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|operation| {
            let call = operation["call"].as_str().unwrap();
            let line = line(executor.one(call, &Args(&operation["args"])));
            executor.hidden(line)
        })
        .collect();
    for (_, store) in std::mem::take(&mut executor.stores) {
        store
            .close()
            .unwrap_or_else(|failure| panic!("{failure:?}"));
    }
    lines.push(executor.files());
    lines
}

/// Returns what an index holds after the script: the rows of all its tables, as `tables.sql` has them.
#[must_use]
pub fn tables(schema: &Schema, root: &Path) -> Vec<String> {
    let sql = crate::checkout().join("tests/conformance/tables.sql");
    let rows = schema.rows(&fs::read_to_string(sql).unwrap());
    let root = root.canonicalize().unwrap();
    rows.iter()
        .map(|row| match &row[..] {
            [SqlValue::Text(text)] => text.replace(root.to_str().unwrap(), "<root>"),
            other => panic!("{other:?}"),
        })
        .collect()
}

fn line(outcome: Option<Outcome<Value>>) -> Value {
    match outcome {
        None => json!({ "unavailable": true }),
        Some(Ok(answer)) => json!({ "answer": answer }),
        Some(Err(failure)) => json!({ "error": failure.json() }),
    }
}

/// The arguments of a call.
struct Args<'a>(&'a Value);

impl<'a> Args<'a> {
    fn text(&self, name: &str) -> &'a str {
        self.maybe(name)
            .unwrap_or_else(|| panic!("no {name}: {}", self.0))
    }

    fn maybe(&self, name: &str) -> Option<&'a str> {
        self.0[name].as_str()
    }

    fn number(&self, name: &str) -> u64 {
        self.0[name].as_u64().unwrap()
    }

    fn flag(&self, name: &str) -> bool {
        self.0[name].as_bool().unwrap()
    }

    fn list(&self, name: &str) -> &'a [Value] {
        self.0[name].as_array().unwrap()
    }

    fn expect(&self) -> Expectation {
        match &self.0["expect"] {
            Value::String(text) if text == "anything" => Expectation::Anything,
            Value::String(text) if text == "absent" => Expectation::Absent,
            other => Expectation::Revision(other["revision"].as_str().unwrap().to_owned()),
        }
    }

    fn descriptor(&self) -> ArtifactDescriptor {
        serde_json::from_value(self.0["descriptor"].clone()).unwrap()
    }
}

fn content(content: &Value) -> Vec<u8> {
    let text = content["text"].as_str().unwrap();
    let times = content["times"].as_u64().unwrap();
    text.repeat(usize::try_from(times).unwrap()).into_bytes()
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap();
            text
        })
}

fn hashed(content: &[u8]) -> Value {
    json!({ "size": content.len(), "sha256": hex(content) })
}

struct Executor<'t, T: Target> {
    target: &'t T,
    plain: T,
    root: PathBuf,
    stores: BTreeMap<String, T::Store>,
    cursor: Option<String>,
}

impl<T: Target> Executor<'_, T> {
    /// Makes a call. None if the target does not have it.
    fn one(&mut self, call: &str, args: &Args<'_>) -> Option<Outcome<Value>> {
        Some(match call {
            "open" => {
                let root = self.below(args.maybe("below"));
                let opened =
                    self.target(args)
                        .open(&root, args.maybe("experiment"), args.flag("read_only"));
                opened.map(|store| {
                    self.stores.insert(args.text("store").to_owned(), store);
                    Value::Null
                })
            }
            "close" => match self.stores.remove(args.text("store")) {
                Some(store) => store.close().map(|()| Value::Null),
                None => Err(Failure::closed()),
            },
            "list_experiments" => self.target.list_experiments(&self.root).map(
                |(experiments, damaged)| json!({ "experiments": experiments, "damaged": damaged }),
            ),
            "parse_locator" => return self.target.parse_locator(args.text("locator")),
            "plant" => {
                let path = self.root.join(args.text("file"));
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, args.text("text")).unwrap();
                Ok(Value::Null)
            }
            "remove" => {
                fs::remove_file(self.root.join(args.text("file"))).unwrap();
                Ok(Value::Null)
            }
            "query_runs" => self.query_runs(args),
            "verify" | "collect_garbage" | "derive" | "transfer" => self.of_whole(call, args),
            _ => match self.stores.get(args.text("store")) {
                Some(store) => self.of_store(store, call, args),
                None => Err(Failure::closed()),
            },
        })
    }

    /// An index is of the root's collection alone.
    fn target(&self, args: &Args<'_>) -> &T {
        match args.maybe("below") {
            Some(_) => &self.plain,
            None => self.target,
        }
    }

    fn below(&self, directory: Option<&str>) -> PathBuf {
        let mut root = self.root.clone();
        root.extend(directory);
        root
    }

    fn of_whole(&self, call: &str, args: &Args<'_>) -> Outcome<Value> {
        if call == "transfer" {
            let experiments = args.list("experiments").iter();
            let how = Copying {
                experiments: experiments
                    .map(|experiment| experiment.as_str().unwrap().to_owned())
                    .collect(),
                filter: args.text("filter"),
                existing: args.text("existing"),
                dry_run: args.flag("dry_run"),
            };
            let (from, to) = (self.below(args.maybe("from")), self.below(args.maybe("to")));
            return self.target.transfer(&from, &to, &how);
        }
        let root = self.below(args.maybe("below"));
        let which = Which {
            root: &root,
            experiment: args.maybe("experiment"),
            read_only: args.0["read_only"] == true,
        };
        let target = self.target(args);
        match call {
            "verify" => target.verify(which, args.flag("repair")),
            "collect_garbage" => target.collect_garbage(which, args.flag("apply")),
            _ => {
                let (plugin, filter) = (args.text("plugin"), args.text("filter"));
                target.derive(which, plugin, filter, args.flag("dry_run"))
            }
        }
    }

    fn query(&self, args: &Args<'_>) -> RunQuery {
        RunQuery {
            check: false,
            filter: args.text("filter").to_owned(),
            sort: args.text("sort").to_owned(),
            columns: args.text("columns").to_owned(),
            limit: args.0["limit"]
                .as_u64()
                .map(|limit| u32::try_from(limit).unwrap()),
            cursor: match args.maybe("cursor") {
                Some("<last>") => self.cursor.clone(),
                other => other.map(str::to_owned),
            },
        }
    }

    fn query_runs(&mut self, args: &Args<'_>) -> Outcome<Value> {
        let Some(store) = self.stores.get(args.text("store")) else {
            return Err(Failure::closed());
        };
        let mut lines = store.query_runs(&self.query(args))?;
        if let Some(cursor) = lines.cursor.replace("<cursor>".to_owned()) {
            self.cursor = Some(cursor);
        } else {
            lines.cursor = None;
        }
        Ok(shown(&lines))
    }

    fn of_store(&self, store: &T::Store, call: &str, args: &Args<'_>) -> Outcome<Value> {
        let run = || args.text("run");
        let name = || args.text("name");
        let null = |()| Value::Null;
        match call {
            "working_directory" => store.working_directory().map(Value::from),
            "put_run_text" => store
                .put_run_text(args.text("record"), args.expect())
                .map(Value::from),
            "put_run_lines" => store.put_run_lines(args.text("lines")).map(shown_outcomes),
            "get_run_text" => store.get_run_text(run()).map(Value::from),
            "run_status" => store.run_status(run()).map(Value::from),
            "list_runs" => store
                .list_runs(args.maybe("experiment"))
                .map(|lines| shown(&lines)),
            "query_rows" => store
                .query_rows(&self.query(args))
                .map(|(columns, rows)| json!({ "columns": columns, "rows": rows })),
            "list_fields" => store
                .list_fields(args.text("filter"))
                .map(|catalogue| json!(catalogue)),
            "run_exists" => store.run_exists(run()).map(Value::from),
            "delete_run" => store.delete_run(run()).map(Value::from),
            "put_derived_text" => store
                .put_derived_text(run(), args.text("derived"))
                .map(Value::from),
            "run_metrics" => store.run_metrics(run()).map(shown_metrics),
            "get_derived" => store.get_derived(run()).map(shown_metrics),
            "put_derived" => store
                .put_derived(run(), &metrics(&args.0["metrics"]))
                .map(Value::from),
            "put_derived_batch" => {
                let derived: Vec<(String, Vec<Metric>)> = args
                    .list("derived")
                    .iter()
                    .map(|pair| (pair[0].as_str().unwrap().to_owned(), metrics(&pair[1])))
                    .collect();
                store.put_derived_batch(&derived).map(shown_outcomes)
            }
            "get_derived_text" => store.get_derived_text(run()).map(Value::from),
            "derived_exists" => store.derived_exists(run()).map(Value::from),
            "put_result" => {
                let result = StructuredResult {
                    data: args.text("data").to_owned(),
                    dtype: args.maybe("dtype").map(str::to_owned),
                    shape: args.0["shape"].as_array().map(|shape| {
                        let sizes = shape.iter().map(|size| size.as_u64().unwrap());
                        sizes.collect()
                    }),
                    metadata: args.text("metadata").to_owned(),
                    unknown: args.text("unknown").to_owned(),
                };
                store.put_result(run(), name(), result).map(Value::from)
            }
            "get_result_text" => store.get_result_text(run(), name()).map(Value::from),
            "list_results" => store.list_results(run()).map(Value::from),
            "put_log" => store.put_log(run(), name(), args.text("content")).map(null),
            "append_log" => store
                .append_log(run(), name(), args.text("content"), args.flag("sync"))
                .map(Value::from),
            "get_log" => store.get_log(run(), name()).map(Value::from),
            "read_log" => {
                let max = u32::try_from(args.number("max_bytes")).unwrap();
                store
                    .read_log(run(), name(), args.number("offset"), max)
                    .map(|chunk| json!(chunk))
            }
            "list_logs" => store.list_logs(run()).map(Value::from),
            "log_path" => store.log_path(run(), name()).map(Value::from),
            "list_artifacts" => store.list_artifacts(run()).map(|found| json!(found)),
            "put_manifest" => store
                .put_manifest(
                    args.text("experiment"),
                    args.text("body"),
                    args.maybe("timestamp"),
                )
                .map(|header| json!(header)),
            "get_manifest" => store
                .get_manifest(args.text("experiment"))
                .map(|found| json!(found)),
            "list_manifests" => store
                .list_manifests(args.text("experiment"))
                .map(|found| json!(found)),
            _ => self.of_artifact(store, call, args),
        }
    }

    fn of_artifact(&self, store: &T::Store, call: &str, args: &Args<'_>) -> Outcome<Value> {
        match call {
            "put_artifact" => store
                .put_artifact(&content(&args.0["content"]), args.descriptor())
                .map(|stored| json!(stored)),
            "write_artifact" => {
                let chunks: Vec<Vec<u8>> = args.list("chunks").iter().map(content).collect();
                store
                    .write_artifact(&chunks, args.descriptor())
                    .map(|stored| json!(stored))
            }
            "put_artifact_file" => store
                .put_artifact_file(&content(&args.0["content"]), args.descriptor())
                .map(|stored| json!(stored)),
            "get_artifact" => {
                let reads: Vec<(u64, u32)> = (0..64)
                    .map(|index| (index * u64::from(CHUNK), CHUNK))
                    .collect();
                let (_, pieces, _) = store.read_artifact(&self.reference(args), false, &reads)?;
                Ok(hashed(&pieces.concat()))
            }
            "read_artifact" => {
                let reads: Vec<(u64, u32)> = args
                    .list("reads")
                    .iter()
                    .map(|read| {
                        let length = u32::try_from(read[1].as_u64().unwrap()).unwrap();
                        (read[0].as_u64().unwrap(), length)
                    })
                    .collect();
                let (size, pieces, descriptor) =
                    store.read_artifact(&self.reference(args), args.flag("verify"), &reads)?;
                let pieces: Vec<Value> = pieces.iter().map(|piece| hashed(piece)).collect();
                Ok(json!({ "size": size, "pieces": pieces, "descriptor": descriptor }))
            }
            other => panic!("no such call: {other}"),
        }
    }

    fn reference(&self, args: &Args<'_>) -> ArtifactReference {
        let artifact = Args(&args.0["artifact"]);
        match artifact.maybe("uri") {
            Some(uri) => ArtifactReference::Uri(uri.replace("<root>", self.root.to_str().unwrap())),
            None => ArtifactReference::Name((
                artifact.text("run").to_owned(),
                artifact.text("name").to_owned(),
            )),
        }
    }

    /// Replaces the root's path in every text.
    fn hidden(&self, value: Value) -> Value {
        match value {
            Value::String(text) => text.replace(self.root.to_str().unwrap(), "<root>").into(),
            Value::Array(list) => list.into_iter().map(|item| self.hidden(item)).collect(),
            Value::Object(map) => map
                .into_iter()
                .map(|(key, item)| (key, self.hidden(item)))
                .collect(),
            other => other,
        }
    }

    /// The last line: what the calls left behind.
    fn files(&self) -> Value {
        let root = self.root.to_str().unwrap();
        let mut text = String::new();
        let mut files = serde_json::Map::new();
        for (path, content) in crate::tree(&self.root) {
            let mut parents = path.trim_end_matches('/').split('/').rev().skip(1);
            if parents.any(|part| HIDDEN.contains(&part)) {
                continue;
            }
            let digest = if path.ends_with('/') {
                String::new()
            } else {
                hex(&replaced(&content, root.as_bytes(), b"<root>"))
            };
            writeln!(text, "{path}\0{digest}").unwrap();
            files.insert(path, digest.into());
        }
        json!({ "tree": hex(text.as_bytes()), "files": files })
    }
}

/// Directories whose content is no part of the tree.
const HIDDEN: [&str; 3] = [".index", ".locks", ".quarantine"];

fn shown_outcomes(outcomes: Vec<Outcome<String>>) -> Value {
    let shown = outcomes.into_iter().map(|outcome| match outcome {
        Ok(revision) => json!({ "revision": revision }),
        Err(failure) => json!({ "error": failure.json() }),
    });
    shown.collect()
}

/// Reads metrics of the script: `[name, case, value]`.
fn metrics(given: &Value) -> Vec<Metric> {
    let metric = |metric: &Value| {
        let text = || metric[2].as_str().unwrap().to_owned();
        Metric {
            name: metric[0].as_str().unwrap().to_owned(),
            value: match metric[1].as_str().unwrap() {
                "boolean" => MetricValue::Boolean(metric[2].as_bool().unwrap()),
                "integer" => MetricValue::Integer(text().parse().unwrap()),
                "big-integer" => MetricValue::BigInteger(text()),
                "float" => {
                    let bits = u64::from_str_radix(&text(), 16).unwrap();
                    MetricValue::Float(f64::from_bits(bits))
                }
                "text" => MetricValue::Text(text()),
                _ => MetricValue::Other(text()),
            },
        }
    };
    given.as_array().unwrap().iter().map(metric).collect()
}

fn shown_metrics(metrics: Option<Vec<Metric>>) -> Value {
    let metric = |Metric { name, value }| match value {
        MetricValue::Boolean(value) => json!([name, "boolean", value]),
        MetricValue::Integer(value) => json!([name, "integer", value.to_string()]),
        MetricValue::BigInteger(value) => json!([name, "big-integer", value]),
        MetricValue::Float(value) => json!([name, "float", format!("{:016x}", value.to_bits())]),
        MetricValue::Text(value) => json!([name, "text", value]),
        MetricValue::Other(value) => json!([name, "other", value]),
    };
    metrics.map_or(Value::Null, |metrics| {
        metrics.into_iter().map(metric).collect()
    })
}

fn shown(lines: &Lines) -> Value {
    let each: Vec<&str> = lines.text.lines().collect();
    json!({
        "total": lines.total,
        "columns": lines.columns,
        "lines": each,
        "cursor": lines.cursor,
        "damaged": lines.damaged,
    })
}

fn replaced(content: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len());
    let mut rest = content;
    while let Some(at) = rest.windows(from.len()).position(|window| window == from) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(to);
        rest = &rest[at + from.len()..];
    }
    out.extend_from_slice(rest);
    out
}
