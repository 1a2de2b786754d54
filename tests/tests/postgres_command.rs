//! The command on a store with an index in PostgreSQL says what it says on the files alone, and asks the database.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use metalab_store::PostgresStoreConfig;
use metalab_store::types::{Expectation, IndexStanding, RunRecord, Status};
use metalab_store_cluster::Cluster;
use metalab_store_postgres::Value;
use metalab_store_tests::database::Schema;
use metalab_store_tests::{command, reference_collection};
use std::path::Path;
use std::process::{Command, Stdio};

/// The runs, questions and files that are looked at.
const COMMANDS: [&[&str]; 20] = [
    &["experiments"],
    &["runs"],
    &["--json", "runs"],
    &["runs", "--json-lines"],
    &["runs", "--csv", "--columns", "run_id, status, metrics.loss"],
    &[
        "runs",
        "--where",
        "metrics.loss < 1 or status = \"failed\"",
        "--sort",
        "metrics.loss desc",
    ],
    &["runs", "--where", "exists(metrics.loss)", "--count"],
    &["runs", "--limit", "3"],
    &["-e", "plain", "runs"],
    &["-e", "nobody", "runs"],
    &["runs", "--where", "metrics.loss <"],
    &["show", "run_1"],
    &["--json", "show", "run_1"],
    &["show", "no-such-run"],
    &["fields"],
    &["--json", "fields", "--where", "status = \"success\""],
    &["logs", "run_1"],
    &["artifacts", "run_1"],
    &["--json", "artifacts", "run_1"],
    &["gc"],
];

fn run(mut command: Command) -> (Option<i32>, String, String) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    (
        output.status.code(),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

fn on(locator: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut made = command();
    made.args(["-s", locator]).args(arguments);
    run(made)
}

#[test]
fn every_command_that_reads_says_the_same_with_an_index_in_postgresql() {
    let collection = reference_collection();
    let root = collection.path().join("experiments");
    // What is in it of a server of its own is a warning.
    std::fs::remove_dir_all(root.join("services")).unwrap();
    let schema = Schema::new();
    let locator = schema.locator(&root);
    let (code, out, err) = on(&locator, &["rebuild-index"]);
    assert_eq!(code, Some(0), "{out}{err}");
    let config = schema.config(&root);
    let state = config.read_only().connect().unwrap().index_state().unwrap();
    assert_eq!(state.standing, IndexStanding::Current, "{state:?}");
    let mut found = 0;
    for arguments in COMMANDS {
        let files = on(root.to_str().unwrap(), arguments);
        assert_eq!(on(&locator, arguments), files, "{arguments:?}");
        found += usize::from(files.0 == Some(0));
    }
    // Most of them find something.
    assert!(found > 14, "{found}");
}

#[test]
fn what_the_command_puts_and_deletes_is_in_files_and_index() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let schema = Schema::new();
    let locator = schema.locator(&root);
    let put = |run: &str| {
        let record = directory.path().join("record");
        let text = format!("{{\"run_id\": \"{run}\", \"status\": \"success\"}}");
        std::fs::write(&record, text).unwrap();
        let mut made = command();
        made.args(["-s", &locator, "-e", "exp:1", "put"]);
        let output = made
            .stdin(std::fs::File::open(&record).unwrap())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    put("r1");
    put("r2");
    assert_eq!(schema.count("metalab_store_runs"), 2);
    let (code, _, err) = on(&locator, &["-e", "exp:1", "delete", "r1"]);
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(schema.count("metalab_store_runs"), 1);
    assert_eq!(names(&root), ["r2.json"]);
}

fn names(root: &Path) -> Vec<String> {
    let runs = std::fs::read_dir(root.join("exp_1/runs")).unwrap();
    runs.map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn a_password_is_found_where_the_collection_says_how_its_server_is_reached() {
    let mut cluster = Cluster::start(&[]).unwrap();
    let rules = cluster
        .add_file("rules", b"host all all all scram-sha-256\n")
        .unwrap();
    let password = "p@ss/wörd";
    let role = Schema::on(&cluster.uri(), "public");
    let user = "SELECT current_user::text, current_database()::text";
    let [Value::Text(user), Value::Text(database)] = &role.rows(user)[0][..] else {
        panic!("a server has a user and a database");
    };
    role.run(&format!("ALTER ROLE \"{user}\" PASSWORD '{password}'"));
    cluster
        .configure(&format!("hba_file = '{}'\n", rules.display()))
        .unwrap();
    cluster.restart().unwrap();
    let (uri, port) = (cluster.uri(), cluster.port());
    let known = uri.replacen(
        &format!("{user}@"),
        &format!("{user}:p%40ss%2Fw%C3%B6rd@"),
        1,
    );
    assert_ne!(known, uri);
    let schema = Schema::on(&known, "lab");
    let collection = tempfile::tempdir().unwrap();
    let service = collection.path().join("services/postgres");
    let config = PostgresStoreConfig::new(uri.clone(), collection.path())
        .schema("lab")
        .scoped("a:1");
    let separator = if uri.contains('?') { '&' } else { '?' };
    let locator = format!(
        "{uri}{separator}file_root={}&schema=lab",
        collection.path().display()
    );
    let put = |id: &str| {
        let store = config.connect().unwrap();
        let record = RunRecord::new(id, Status::Success);
        store
            .put_run_record(&record, &Expectation::Anything)
            .unwrap();
        assert_eq!(store.list_run_records(None).unwrap().records.len(), 1);
        let standing = store.index_state().unwrap().standing;
        store.close().unwrap();
        standing
    };
    // Nobody says it.
    assert_eq!(put("one"), IndexStanding::Unreachable);
    let (code, _, err) = on(&locator, &["rebuild-index"]);
    assert_eq!(code, Some(1), "{err}");
    // It lies in the collection.
    std::fs::create_dir_all(&service).unwrap();
    let content = format!(
        "{{\"host\": \"127.0.0.1\", \"port\": {port}, \"database\": \"{database}\", \"user\": \"{user}\", \"password\": \"{password}\"}}"
    );
    std::fs::write(service.join("service.json"), content).unwrap();
    assert_eq!(put("one"), IndexStanding::Current);
    let (code, out, err) = on(&locator, &["rebuild-index"]);
    assert_eq!(code, Some(0), "{out}{err}");
    assert_eq!(schema.count("metalab_store_runs"), 1);
    // Nothing that is shown says it.
    let shown = format!("{out}{err}{:?}", on(&locator, &["runs"]));
    assert!(
        !shown.contains(password) && !shown.contains("p%40ss"),
        "{shown}"
    );
}

#[test]
fn lists_come_out_of_the_database() {
    let collection = reference_collection();
    let root = collection.path().join("experiments");
    let schema = Schema::new();
    let locator = schema.locator(&root);
    assert_eq!(on(&locator, &["rebuild-index"]).0, Some(0));
    let arguments = [
        "runs",
        "--where",
        "run_id = \"run_1\"",
        "--columns",
        "run_id, notes",
        "--json-lines",
    ];
    let (_, before, _) = on(&locator, &arguments);
    assert!(
        before.contains("run_1") && !before.contains("altered"),
        "{before}"
    );
    // Nobody but this test changes a row: what shows it did not come from the file.
    schema.run(
        "UPDATE {metalab_store_runs} SET record = replace(record, '\"run_id\":', '\"notes\":\"altered\",\"run_id\":')",
    );
    let whole = ["runs", "--where", "run_id = \"run_1\"", "--json-lines"];
    let (code, after, err) = on(&locator, &whole);
    assert_eq!(code, Some(0), "{err}");
    assert!(after.contains("altered"), "{after}");
}

#[test]
fn experiments_whose_directories_are_gone_are_named_with_the_way_out_and_pruned() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let schema = Schema::new();
    let locator = schema.locator(&root);
    for (experiment, run) in [("a:1", "a"), ("b:1", "b"), ("c\u{202e}:1", "c")] {
        let store = schema.config(&root).scoped(experiment).connect().unwrap();
        let record = RunRecord::new(run, Status::Success);
        store
            .put_run_record(&record, &Expectation::Anything)
            .unwrap();
        store.close().unwrap();
    }
    for gone in ["a_1", "c\u{202e}_1"] {
        std::fs::remove_dir_all(root.join(gone)).unwrap();
    }
    let said = (
        Some(0),
        "1 runs in the index: 0 added, 0 changed, 0 removed; 0 manifests.\n\
         The index has rows of experiments whose directories are not in the collection any more; \
         `metalab-store rebuild-index --prune EXPERIMENT` removes them:\n  \
         a:1  1 runs\n  \
         c\\u{202e}:1  1 runs\n"
            .to_owned(),
        String::new(),
    );
    assert_eq!(on(&locator, &["rebuild-index"]), said);
    let (code, out, err) = on(
        &locator,
        &["rebuild-index", "--prune", "a:1", "--prune", "b:1"],
    );
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(
        err.starts_with("error: cannot prune experiment \"b:1\": its directory "),
        "{err}"
    );
    assert_eq!(on(&locator, &["rebuild-index"]), said);
    let (code, out, err) = on(
        &locator,
        &["--json", "-e", "b:1", "rebuild-index", "--prune", "a:1"],
    );
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(err.contains("\"code\":\"invalid-argument\""), "{err}");
    let json = |arguments: &[&str]| -> serde_json::Value {
        let (code, out, err) = on(&locator, arguments);
        assert_eq!((code, err.as_str()), (Some(0), ""));
        serde_json::from_str(&out).unwrap()
    };
    let expected = serde_json::json!({
        "runs": 1, "added": 0, "changed": 0, "removed": 0, "manifests": 0, "pruned": 1,
        "orphans": [{ "experiment": "c\u{202e}:1", "runs": 1 }], "orphan_count": 1, "damaged": [],
    });
    assert_eq!(
        json(&["--json", "rebuild-index", "--prune", "a:1"]),
        expected
    );
    let (code, out, err) = on(
        &locator,
        &["rebuild-index", "--prune", "c\u{202e}:1", "--prune", "a:1"],
    );
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert_eq!(
        out,
        "1 runs in the index: 0 added, 0 changed, 0 removed; 0 manifests.\n1 runs pruned.\n"
    );
    assert_eq!(schema.count("metalab_store_runs"), 1);
}
