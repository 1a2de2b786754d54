//! Measures stores with PostgreSQL against the same statements alone, on the same server, in one run.
//!
//! `METALAB_TEST_POSTGRES` names the server; `cargo xtask bench postgres` starts a private one, with `fsync` on.

#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that cannot run fails by panicking"
)]

use metalab_store::types::{Expectation, RebuildReport, RunQuery};
use metalab_store::{PostgresStoreConfig, Store};
use metalab_store_guest::ports::SqlValue;
use metalab_store_guest::sql::Schema as Quoted;
use metalab_store_guest::sql::runs;
use metalab_store_postgres::{Isolation, Pool, Statement, Value};
use metalab_store_tests::database::{Schema, pool};
use metalab_store_tests::measured::{self, Times};
use std::fmt::Write;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How many runs the large store has unless `--runs` says otherwise.
const RUNS: usize = 100_000;

fn record(index: usize) -> String {
    let metrics: Vec<String> = (0..5)
        .map(|metric| {
            format!(
                "\"metric_{metric}\": {}.{metric}25",
                (index * 7919) % 100_003
            )
        })
        .collect();
    let params: Vec<String> = (0..5)
        .map(|param| format!("\"param_{param}\": {}", index % (param + 7)))
        .collect();
    let status = ["success", "success", "success", "failed"][index % 4];
    let (minute, second) = (index / 60 % 60, index % 60);
    let (hour, day) = (index / 3600 % 24, 1 + index / 86_400);
    format!(
        "{{\"run_id\": \"{index:016x}\", \"experiment_id\": \"bench:1\", \"status\": \"{status}\", \
         \"started_at\": \"2026-03-{day:02}T{hour:02}:{minute:02}:{second:02}.123456\", \
         \"finished_at\": \"2026-04-01T09:00:01.123456\", \"duration_ms\": 1000, \"metrics\": {{{}}}, \
         \"params_resolved\": {{{}}}, \"tags\": [\"bench\", \"t{}\"], \"artifacts\": [{{\"artifact_id\": \
         \"19322fed-157c-49c6-b16e-2d5cabeb9592\", \"name\": \"model\", \"kind\": \"json\", \"format\": \"json\", \
         \"uri\": \"/x/artifacts/{index:016x}/model.json\", \"content_hash\": \"3cfde99669d2a7b7\", \
         \"size_bytes\": 71, \"metadata\": {{}}}}]}}",
        metrics.join(", "),
        params.join(", "),
        index % 10
    )
}

/// Begins with something.
fn title(title: &str) {
    println!("\n{title}");
    title.clone_into(&mut TITLE.lock().unwrap());
}

/// What is being measured.
static TITLE: Mutex<String> = Mutex::new(String::new());

fn show(name: &str, times: &Times, base: Option<&Times>) {
    measured::keep(&TITLE.lock().unwrap(), name, times);
    let milliseconds = |times: &Times| times.quartiles().map(|time| time / 1e3);
    let [low, median, high] = milliseconds(times);
    let ratio = base.map(|base| format!("  {:.2} x", median / milliseconds(base)[1]));
    println!(
        "  {name:52} {median:>10.3} ms  (quartiles {low:.3} to {high:.3}){}",
        ratio.unwrap_or_default()
    );
}

/// The tables that a store made, and the statements of a put, as a program would run them by itself.
struct Raw {
    pool: Pool,
    own: String,
    runs: String,
}

impl Raw {
    fn new(schema: &Schema) -> Self {
        Self {
            pool: pool(&schema.uri),
            own: schema.table("metalab_store_runs"),
            runs: schema.table("runs"),
        }
    }

    /// The upserts of one run into both tables, as one statement: the rows that its put left, under another name.
    fn upsert(&self, store: &Store, index: usize) -> Statement {
        let run = format!("raw{index:013x}");
        let stored = format!("{index:016x}");
        let text = store.get_run_text(&stored).unwrap().unwrap();
        // A row whose record names another run has no document, and so fewer entries in the indexes.
        let text = text.replace(&stored, &run);
        let row = runs::Row::new(
            "00000000000000000000000000000000",
            &run,
            "0123456789abcdef",
            &text,
            None,
            "0.0.0",
        )
        .unwrap();
        let name = Quoted::new("x").unwrap();
        let own = runs::upsert_from(&name, &[&row], 1);
        let sql = own.sql.replace("\"x\".\"metalab_store_runs\"", &self.own);
        let next = own.parameters.len() + 1;
        let runs = &self.runs;
        let mut parameters = own.parameters;
        parameters.push(SqlValue::Text(run));
        parameters.push(SqlValue::Text(text));
        let sql = format!(
            "WITH own AS ({sql}) INSERT INTO {runs} (run_id, experiment_id, status, context_fingerprint, params_fingerprint, \
             seed_fingerprint, started_at, finished_at, duration_ms, record_json) \
             VALUES (${next}::text, 'bench:1', 'success', '', '', '', now(), now(), 1000, ${}::text::jsonb) \
             ON CONFLICT (run_id) DO UPDATE SET status = EXCLUDED.status, record_json = EXCLUDED.record_json",
            next + 1
        );
        Statement {
            sql,
            parameters: parameters.into_iter().map(from_sql).collect(),
        }
    }
}

fn from_sql(value: SqlValue) -> Value {
    match value {
        SqlValue::Null => Value::Null,
        SqlValue::Boolean(value) => Value::Boolean(value),
        SqlValue::Integer(value) => Value::Integer(value),
        SqlValue::Float(value) => Value::Float(value),
        SqlValue::Text(value) => Value::Text(value),
        SqlValue::Bytes(value) => Value::Bytes(value),
        SqlValue::Json(value) => Value::Json(value),
        SqlValue::Timestamp(value) => Value::Timestamp(value),
        SqlValue::TextArray(value) => Value::TextArray(value),
    }
}

/// So many puts are measured if nothing else is asked for.
const PUTS: usize = 1_000;

/// So many puts of one side are measured before the other's.
const BLOCK: usize = 50;

fn puts(store: &Store, raw: &Raw, count: usize) {
    title("put of a new run, durable (file journal synced, then one autocommit statement)");
    let (mut ours, mut alone) = (Times::default(), Times::default());
    // In blocks: a sync of one side would also write what the other one left to the server.
    let indices: Vec<usize> = (0..count).collect();
    for block in indices.chunks(BLOCK) {
        for index in block {
            let text = record(1_000_000 + index);
            ours.measure(|| store.put_run_text(&text, &Expectation::Anything).unwrap());
        }
        let upsert = |index: &usize| raw.upsert(store, 1_000_000 + index);
        let statements: Vec<Statement> = block.iter().map(upsert).collect();
        for statement in statements {
            alone.measure(|| raw.pool.execute(&statement).unwrap());
        }
    }
    show("the same upserts alone, autocommit", &alone, None);
    show("put (reach 1.33 x)", &ours, Some(&alone));

    title("batch of 1,000 new runs");
    let (mut ours, mut alone) = (Times::default(), Times::default());
    for batch in 0..5 {
        let first = 2_000_000 + batch * 1000;
        let mut lines = String::new();
        for index in first..first + 1000 {
            writeln!(lines, "{}", record(index)).unwrap();
        }
        ours.measure(|| {
            let stored = store.put_run_lines(&lines).unwrap();
            assert!(stored.iter().all(Result::is_ok));
        });
        let statements: Vec<Statement> = (first..first + 1000)
            .map(|index| raw.upsert(store, index))
            .collect();
        alone.measure(|| raw.pool.batch(&statements).unwrap());
    }
    show(
        "the same upserts alone, pipelined, one commit",
        &alone,
        None,
    );
    show("put-run-lines (reach 2 x)", &ours, Some(&alone));
}

fn gets(store: &Store, schema: &Schema, raw: &Raw, runs: usize) {
    title("get of a run");
    let (mut ours, mut alone) = (Times::default(), Times::default());
    for index in 0..500 {
        let id = format!("{:016x}", (index * 97) % runs);
        ours.measure(|| store.get_run_text(&id).unwrap().unwrap());
        let select = Statement {
            sql: format!(
                "SELECT record_json FROM {} WHERE run_id = $1",
                schema.table("runs")
            ),
            parameters: vec![Value::Text(id)],
        };
        alone.measure(|| raw.pool.query(&select, 1).unwrap());
    }
    show("a raw point select", &alone, None);
    show(
        "get-run-text, from the file (reach 3 x)",
        &ours,
        Some(&alone),
    );
}

fn queries(store: &Store) {
    title("filtered, sorted page of 100 (reach 5 ms)");
    for (filter, sort) in [
        ("", ""),
        ("status = \"failed\"", ""),
        ("status = \"failed\" and metrics.metric_1 < 50000", ""),
        ("tags contains \"t3\"", ""),
        (
            "started_at > 2026-03-01T12:00:00 and metrics.metric_2 > 90000",
            "",
        ),
        ("params.param_3 = 4 or metrics.metric_0 < 100", ""),
        // It has an index after three slow pages.
        ("metrics.metric_0 < 100", ""),
        ("status = \"failed\"", "metrics.metric_0"),
        ("", "metrics.metric_0 desc"),
    ] {
        let mut times = Times::default();
        for _ in 0..15 {
            times.measure(|| {
                let mut list = store
                    .query_runs(&RunQuery {
                        filter: filter.to_owned(),
                        sort: sort.to_owned(),
                        columns: String::new(),
                        limit: Some(100),
                        ..RunQuery::default()
                    })
                    .unwrap();
                list.next_lines(1 << 24).unwrap()
            });
        }
        show(&format!("{filter} / {sort}"), &times, None);
    }
    let mut times = Times::default();
    for _ in 0..3 {
        times.measure(|| {
            let mut list = store.query_runs(&RunQuery::default()).unwrap();
            while !list.next_lines(1 << 22).unwrap().is_empty() {}
        });
    }
    title("list of all runs as lines");
    show("query-runs, next-lines", &times, None);
}

/// Returns what a table holds as pieces of a COPY in text format.
fn lines_of(pool: &Pool, schema: &Schema, table: &str) -> Vec<String> {
    let columns = Statement {
        sql: "SELECT column_name::text FROM information_schema.columns WHERE table_schema = $1 AND table_name = $2 \
              ORDER BY ordinal_position"
            .to_owned(),
        parameters: vec![
            Value::Text(schema.name.clone()),
            Value::Text(table.to_owned()),
        ],
    };
    let columns = pool.query(&columns, 100).unwrap().rows;
    let columns: Vec<String> = columns
        .iter()
        .map(|row| match &row[0] {
            Value::Text(name) => format!("\"{name}\"::text"),
            other => panic!("{other:?}"),
        })
        .collect();
    let transaction = pool.begin(Isolation::RepeatableRead, true).unwrap();
    let mut cursor = transaction
        .open_cursor(&Statement {
            sql: format!("SELECT {} FROM {}", columns.join(", "), schema.table(table)),
            parameters: Vec::new(),
        })
        .unwrap();
    let mut pieces = vec![String::new()];
    loop {
        let page = cursor.next(10_000, 16 << 20).unwrap();
        if page.rows.is_empty() {
            return pieces;
        }
        for row in page.rows {
            if pieces.last().is_some_and(|piece| piece.len() > 200_000) {
                pieces.push(String::new());
            }
            let piece = pieces.last_mut().unwrap();
            for (index, value) in row.iter().enumerate() {
                if index > 0 {
                    piece.push('\t');
                }
                runs::push_value(
                    match value {
                        Value::Text(text) => Some(text),
                        _ => None,
                    },
                    piece,
                );
            }
            piece.push('\n');
        }
    }
}

/// COPY of the same rows into the same tables, and the same indexes, in plain SQL.
fn build_alone(schema: &Schema, name: &str) -> Duration {
    let pool = pool(&schema.uri);
    let plain = |sql: String| Statement {
        sql,
        parameters: Vec::new(),
    };
    let run = |sql: String| {
        pool.execute(&plain(sql)).unwrap();
    };
    run(format!("CREATE SCHEMA {name}"));
    for table in ["metalab_store_runs", "runs"] {
        run(format!(
            "CREATE TABLE {name}.{table} (LIKE {} INCLUDING DEFAULTS INCLUDING STORAGE)",
            schema.table(table)
        ));
    }
    let definitions = |table: &str| {
        let quoted = Statement {
            sql: "SELECT indexdef FROM pg_indexes WHERE schemaname = $1 AND tablename = $2"
                .to_owned(),
            parameters: vec![
                Value::Text(schema.name.clone()),
                Value::Text(table.to_owned()),
            ],
        };
        let rows = pool.query(&quoted, 100).unwrap().rows;
        rows.into_iter()
            .filter_map(|row| match row.into_iter().next() {
                Some(Value::Text(text)) => {
                    Some(text.replace(&format!(" ON {}.", schema.name), &format!(" ON {name}.")))
                }
                _ => None,
            })
            .collect::<Vec<String>>()
    };
    let mut took = Duration::ZERO;
    for table in ["metalab_store_runs", "runs"] {
        let content = lines_of(&pool, schema, table);
        let transaction = pool.begin(Isolation::ReadCommitted, false).unwrap();
        let started = Instant::now();
        let mut copy = transaction
            .copy_in(&format!("COPY {name}.{table} FROM STDIN"))
            .unwrap();
        for chunk in &content {
            copy.write(chunk).unwrap();
        }
        copy.finish().unwrap();
        for definition in definitions(table) {
            transaction.execute(&plain(definition)).unwrap();
        }
        transaction.commit().unwrap();
        took += started.elapsed();
    }
    run(format!("DROP SCHEMA {name} CASCADE"));
    took
}

/// Brings the index up to date, and says how long each phase took.
fn rebuild(store: &Store) -> RebuildReport {
    let started = Instant::now();
    let mut rebuild = store.rebuild_index().unwrap();
    let mut phases = vec![("begin".to_owned(), started.elapsed())];
    loop {
        let started = Instant::now();
        let Some(step) = rebuild.step().unwrap() else {
            break;
        };
        let took = started.elapsed();
        match phases.last_mut() {
            Some((phase, sum)) if *phase == step.phase => *sum += took,
            _ => phases.push((step.phase, took)),
        }
    }
    for (phase, took) in phases {
        println!("    then {phase:12} {:>10.1} ms", took.as_secs_f64() * 1e3);
    }
    rebuild.report().unwrap()
}

/// Measures calls while the database does not answer: after the first one, it is left alone.
fn silence(root: &Path) {
    title("calls while the server does not answer (reach 50 ms)");
    // The system accepts connections, and nobody ever says anything.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let uri = format!("postgresql://lab@127.0.0.1:{port}/lab?sslmode=disable");
    let store = PostgresStoreConfig::new(uri, root)
        .scoped("silent:1")
        .connect_timeout(Duration::from_millis(500))
        .connect()
        .unwrap();
    let put = |index: usize| {
        let text = record(index).replace("bench:1", "silent:1");
        store.put_run_text(&text, &Expectation::Anything).unwrap();
    };
    let mut first = Times::default();
    first.measure(|| put(0));
    let (mut puts, mut pages) = (Times::default(), Times::default());
    for index in 1..=20 {
        puts.measure(|| put(index));
        pages.measure(|| {
            let query = RunQuery {
                filter: "metrics.metric_0 < 100".to_owned(),
                limit: Some(100),
                ..RunQuery::default()
            };
            let mut list = store.query_runs(&query).unwrap();
            list.next_lines(1 << 24).unwrap()
        });
    }
    show("the first put, which waits for a connection", &first, None);
    for (name, times) in [("put", &puts), ("page", &pages)] {
        show(name, times, None);
        let longest = times.0.iter().max().unwrap().as_secs_f64() * 1e3;
        println!("    the longest {name:12} {longest:>10.3} ms");
    }
    store.close().unwrap();
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut count = RUNS;
    let mut put_count = PUTS;
    while let Some(argument) = arguments.next() {
        if argument == "--quick" {
            count = count.min(2_000);
        } else if argument == "--runs" {
            count = arguments.next().unwrap().parse().unwrap();
        } else if argument == "--puts" {
            put_count = arguments.next().unwrap().parse().unwrap();
        }
    }
    let schema = Schema::on(
        &metalab_store_tests::database::server(),
        &format!("bench{}", std::process::id()),
    );
    // On the disk of the build, and no part of the checkout if it is left behind.
    let programs = std::env::current_exe().unwrap();
    let root = tempfile::tempdir_in(programs.parent().unwrap()).unwrap();
    let config: PostgresStoreConfig = schema.config(root.path()).scoped("bench:1");
    println!("{}", measured::machine(root.path()));
    println!("{count} runs of about 1.3 KB; the server syncs, the store syncs");
    let files = config.to_filestore().connect().unwrap();
    for first in (0..count).step_by(2000) {
        let mut lines = String::new();
        for index in first..(first + 2000).min(count) {
            writeln!(lines, "{}", record(index)).unwrap();
        }
        files.put_run_lines(&lines).unwrap();
    }
    files.close().unwrap();

    title("index of the files");
    let store = config.connect().unwrap();
    let mut first = Times::default();
    let report = first.measure(|| rebuild(&store));
    assert_eq!(usize::try_from(report.added).unwrap(), count);
    let mut again = Times::default();
    again.measure(|| rebuild(&store));
    let mut alone = Times::default();
    alone.0.push(build_alone(
        &schema,
        &format!("benchraw{}", std::process::id()),
    ));
    show("COPY and the same indexes, in plain SQL", &alone, None);
    show("first rebuild-index (reach 1.3 x)", &first, Some(&alone));
    show("again with nothing changed (reach 4,000 ms)", &again, None);
    store.close().unwrap();

    let store = config.connect().unwrap();
    let raw = Raw::new(&schema);
    queries(&store);
    gets(&store, &schema, &raw, count);
    puts(&store, &raw, put_count);
    store.close().unwrap();
    silence(root.path());
    if let Some(file) = measured::json_file() {
        measured::save(Path::new(&file), root.path());
    }
}
