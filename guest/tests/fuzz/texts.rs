//! Targets that read a text and need no store.

use crate::harness::{Target, outcome, shape};
use metalab_store_guest::testing::{self, Random};
use metalab_store_guest::{codec, config, json, layout, names, query, sql};
use query::{Query, QueryText};

fn bytes(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn line(value: &json::Value<'_>) -> String {
    let mut line = String::new();
    json::line(value, &mut line);
    line
}

pub fn records() -> Vec<Vec<u8>> {
    let mut random = Random::new(7);
    let mut records: Vec<Vec<u8>> = (0..20)
        .map(|run| testing::record_text(&mut random, run).into_bytes())
        .collect();
    records.push(
        br#"{"run_id": "r", "experiment_id": "e", "status": "failed", "schema_version": "0.1", "started_at": "2026-03-01T09:00:00+01:00", "error": {"type": "ValueError", "message": "m", "traceback": "t"}, "artifacts": [{"artifact_id": "i", "name": "w", "kind": "numpy", "format": "npz", "uri": "/x/artifacts/r/w.npz", "content_hash": "00", "size_bytes": 7, "metadata": {"_run_id": "r"}, "more": [1e400]}], "warnings": [{"message": "w"}], "provenance": {"code_hash": "c", "python_version": "3.11", "executor_id": null, "host": "h", "extra": {"a": [1, {"b": -0.0}]}}, "tags": ["a", "b"], "seed_fingerprint": "s", "unknown": {"deep": [[[[]]]]}}"#
            .to_vec(),
    );
    records
}

const JSON: &[&str] = &[
    "\"\":",
    "[",
    "]",
    "{",
    "}",
    "1E+5",
    "\\u00e9",
    "\\ud83d\\ude00",
    "\\/",
    "\u{2028}",
];

const KEYS: &[&str] = &[
    "\"run_id\"",
    "\"experiment_id\"",
    "\"status\"",
    "\"success\"",
    "\"artifacts\"",
    "\"metadata\"",
    "\"_run_id\"",
    "\"started_at\"",
    "\"2026-03-01T09:00:00\"",
    "\"duration_ms\"",
    "\"metrics\"",
    "\"provenance\"",
    "\"extra\"",
    "\"error\"",
    "\"tags\"",
    "\"schema_version\"",
    "\"0.2\"",
    "\"uri\"",
    "\"size_bytes\"",
    "\"shape\"",
    "\"data\"",
];

#[test]
fn no_json_text_breaks_the_reader_and_what_is_read_is_printed_as_it_was_meant() {
    let mut seeds = records();
    seeds.extend(bytes(&[
        "0",
        "-0.0",
        "NaN",
        "[1, [2, [3, {\"a\": null}]]]",
        "\"\\ud800\"",
        "1e308",
        "5e-324",
        "{\"b\": 1, \"a\": 2, \"b\": 3}",
        "123456789012345678901234567890",
        "\"\u{10ffff}\\u0000\"",
        "[true, false, null, Infinity, -Infinity]",
    ]));
    let target = Target {
        name: "json",
        seeds,
        tokens: JSON,
        inputs: 2000,
    };
    target.run(|input| {
        let mut minified = String::new();
        let value = match json::parse(input) {
            Ok(value) => value,
            Err(error) => {
                assert!(error.offset <= input.len() as u64, "{error}");
                assert_eq!(json::minify(input, &mut minified), Err(error));
                assert_eq!(minified, "");
                return outcome(shape(error.reason));
            }
        };
        json::minify(input, &mut minified).unwrap();
        let printed = line(&value);
        let mut pretty = String::new();
        json::pretty(&value, &mut pretty);
        for text in [&minified, &printed, &pretty] {
            assert_eq!(line(&json::parse(text.as_bytes()).unwrap()), printed);
        }
        outcome((value.kind(), printed.len().ilog2()))
    });
}

#[test]
fn no_record_breaks_its_reader_and_what_is_read_is_written_back_the_same() {
    // As they are, and as they are kept: the usual form has a reader of its own.
    let mut seeds = records();
    for seed in records() {
        let object = codec::parse_object("runs/r.json", &seed).unwrap();
        seeds.push(codec::print_line(&json::Value::Object(object)).into_bytes());
    }
    let target = Target {
        name: "records",
        seeds,
        tokens: KEYS,
        inputs: 2000,
    };
    target.run(|input| {
        let loaded = codec::load_run_record("runs/r.json", input);
        let by_tree = codec::parse_object("runs/r.json", input)
            .and_then(|object| codec::run_record("runs/r.json", object));
        // As text, for what is no number equals nothing.
        assert_eq!(format!("{loaded:?}"), format!("{by_tree:?}"));
        let object = match codec::parse_object("runs/r.json", input) {
            Ok(object) => object,
            Err(error) => return outcome(shape(error)),
        };
        if let Err(error) = codec::structured_result("results/r/x.json", object.clone()) {
            drop(error);
        }
        let completed = codec::complete_record(object.clone(), Some("e")).map(|(run, _)| run);
        let record = match codec::run_record("runs/r.json", object) {
            Ok(record) => record,
            Err(error) => return outcome((shape(error), completed.is_ok())),
        };
        let written = codec::print(&json::Value::Object(codec::run_record_to(&record).unwrap()));
        let again = codec::parse_object("runs/r.json", written.as_bytes()).unwrap();
        let again = codec::run_record("runs/r.json", again).unwrap();
        let twice = codec::print(&json::Value::Object(codec::run_record_to(&again).unwrap()));
        assert_eq!(written, twice);
        outcome((
            completed.is_ok(),
            record.artifacts.len(),
            record.unknown.len().ilog2(),
        ))
    });
}

fn queries() -> Vec<Vec<u8>> {
    let mut random = Random::new(3);
    let mut seeds: Vec<Vec<u8>> = (0..30)
        .map(|_| testing::expr(&mut random, 3).to_string().into_bytes())
        .collect();
    seeds.extend((0..10).map(|_| testing::sort(&mut random).to_string().into_bytes()));
    seeds.extend(bytes(&[
        "status = \"failed\" and metrics.loss < 0.5 or tags contains \"best\"",
        "started_at > now - 7d",
        "params.\"odd name\".0.x in (1, 2.5, \"a\", true, null)",
        "not (run_id like \"a%\" or notes ilike \"%ü_\\\\%\")",
        "duration_ms between 1 and 9223372036854775808",
        "run_id, metrics.loss, params.lr desc",
    ]));
    seeds
}

const QUERY: &[&str] = &[
    " and ",
    " or ",
    " not ",
    "(",
    ")",
    " in (",
    " between ",
    " like ",
    " ilike ",
    " contains ",
    " exists",
    "metrics.",
    "params.",
    "derived.",
    "provenance.",
    "started_at",
    "now",
    " - 7d",
    "<=",
    "!=",
    "\"",
    "\\",
    " desc",
    " asc",
    ",",
    "tags",
    "status",
    "error.type",
    "null",
    "true",
    "1e5",
    "-",
];

#[test]
fn no_query_breaks_the_parser_and_every_refusal_says_where() {
    let target = Target {
        name: "query",
        seeds: queries(),
        tokens: QUERY,
        inputs: 3000,
    };
    target.run(|input| {
        let text = String::from_utf8_lossy(input);
        let mut found = Vec::new();
        let mut refused = |error: query::QueryError| {
            let position = error.position as usize;
            assert!(
                position <= text.len() && text.is_char_boundary(position),
                "{error}: {text:?}"
            );
            let before = &text[..position];
            assert_eq!(
                error.line as usize,
                1 + before.matches('\n').count(),
                "{error}"
            );
            assert!(error.column >= 1, "{error}");
            let printed = error.to_string();
            // A message is printed on terminals, and must not steer them.
            assert!(!printed.chars().any(char::is_control), "{printed:?}");
            assert!(printed.len() < 2000, "{printed}");
            found.push(shape(error.reason));
        };
        match query::parse_filter(&text) {
            Err(error) => refused(error),
            Ok(None) => {}
            Ok(Some(filter)) => {
                let printed = filter.to_string();
                if printed.len() <= query::MAX_TEXT {
                    assert_eq!(
                        query::parse_filter(&printed).unwrap(),
                        Some(filter.clone()),
                        "{printed}"
                    );
                }
                let mut parameters = sql::translate::Parameters::default();
                let condition = sql::translate::condition(&filter, testing::NOW, &mut parameters);
                // Nothing of the query's texts is in the statement: they are parameters.
                assert!(condition.is_ascii(), "{condition}");
            }
        }
        match query::parse_sort(&text) {
            Err(error) => refused(error),
            Ok(sort) => assert_eq!(query::parse_sort(&sort.to_string()).unwrap(), sort),
        }
        if let Err(error) = query::parse_columns(&text) {
            refused(error);
        }
        outcome(found)
    });
}

#[test]
fn no_cursor_breaks_its_reader_and_one_of_another_query_is_refused() {
    let sort = "metrics.loss desc, notes, started_at";
    let first = QueryText {
        sort,
        limit: Some(1),
        ..QueryText::default()
    };
    let first = Query::parse(&first, testing::NOW).unwrap();
    let mut random = Random::new(11);
    let cursors: Vec<String> = (0..40)
        .map(|run| {
            let text = testing::record_text(&mut random, run);
            let record = json::parse(text.as_bytes()).unwrap();
            let row = query::RecordRow::new(record.as_object().unwrap(), None);
            first.cursor_after(&first.sort.position(&row))
        })
        .collect();
    // The bytes that the text stands for are mutated, and its checksum is made right again.
    let seeds = cursors.iter().map(|cursor| base64(cursor)).collect();
    let target = Target {
        name: "cursor",
        seeds,
        tokens: &[],
        inputs: 3000,
    };
    target.run(|input| {
        let mut seen = Vec::new();
        let body = &input[..input.len().saturating_sub(4)];
        let whole = [body, &crc32fast::hash(body).to_le_bytes()].concat();
        for cursor in [
            to_base64(&whole),
            to_base64(input),
            String::from_utf8_lossy(input).into_owned(),
        ] {
            let text = QueryText {
                sort,
                limit: Some(1),
                cursor: Some(&cursor),
                ..QueryText::default()
            };
            match Query::parse(&text, testing::NOW) {
                Err(error) => seen.push(shape(error)),
                Ok(query) => {
                    let cursor = query.cursor.as_ref().unwrap();
                    assert_eq!(cursor.last.keys.len(), 3);
                    // What was read can be gone on from, in files and in SQL.
                    let mut parameters = sql::translate::Parameters::default();
                    drop(sql::translate::order(&query, &mut parameters));
                    let again = query.cursor_after(&cursor.last);
                    let again = QueryText {
                        cursor: Some(&again),
                        ..text
                    };
                    Query::parse(&again, testing::NOW).unwrap();
                }
            }
            let other = QueryText {
                sort: "notes",
                ..text
            };
            assert!(Query::parse(&other, testing::NOW).is_err());
        }
        outcome(seen)
    });
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

fn to_base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    let (mut bits, mut held) = (0_u32, 0);
    for byte in bytes {
        bits = (bits << 8) | u32::from(*byte);
        held += 8;
        while held >= 6 {
            held -= 6;
            text.push(char::from(DIGITS[(bits >> held) as usize & 63]));
        }
    }
    if held > 0 {
        text.push(char::from(DIGITS[(bits << (6 - held)) as usize & 63]));
    }
    text
}

fn base64(text: &str) -> Vec<u8> {
    let (mut bits, mut held) = (0_u32, 0);
    let mut bytes = Vec::new();
    for digit in text.bytes() {
        let value = DIGITS.iter().position(|known| *known == digit).unwrap();
        bits = (bits << 6) | u32::try_from(value).unwrap();
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push(((bits >> held) & 0xff) as u8);
        }
    }
    bytes
}

#[test]
fn no_locator_breaks_its_reader_and_no_password_gets_into_what_is_printed() {
    let seeds = bytes(&[
        "./experiments",
        "file:///data/experiments?experiment_id=my_exp:1.0&access=read-only",
        "postgresql://lab:PASSWORD@db.example:5433/lab?file_root=./experiments&schema=s&sslmode=verify-full",
        "postgresql://lab:PASSWORD@[::1]:5432,other/lab?application_name=x&connect_timeout=3&file_root=/",
        "host=db port=5432 user=lab password='PASSWORD' dbname=lab sslmode=require options='-c a=b'",
        "postgresql:///lab?host=/var/run/postgresql&password=PASSWORD&file_root=/x",
        "C:\\experiments",
        "",
    ]);
    let tokens = &[
        "postgresql://",
        "postgres://",
        "file://",
        "?file_root=/x",
        "&schema=",
        "experiment_id=",
        "sslmode=prefer",
        "PASSWORD",
        ":PASSWORD@",
        "%40",
        "%",
        "host=",
        "'",
        "\\'",
        " ",
        "[::1]",
        "localhost",
        ",",
    ];
    let target = Target {
        name: "locators",
        seeds,
        tokens,
        inputs: 3000,
    };
    target.run(|input| {
        let text = String::from_utf8_lossy(input);
        let mut seen = Vec::new();
        if let Err(error) = config::parse_locator(&text) {
            seen.push(shape(error));
        }
        // Only what no part of the text but a password can be.
        let is_secret = |secret: &str| secret.len() >= 6 && text.matches(secret).count() == 1;
        match config::from_locator(&text) {
            Err(error) => seen.push(shape(error)),
            Ok(config) => {
                // A configuration cannot be printed at all; what comes of it can.
                match config::resolve(&config, None) {
                    Err(error) => seen.push(shape(error)),
                    Ok(resolved) => {
                        let shown = format!("{resolved:?}");
                        if let Some(connection) = resolved.connection
                            && let Some(password) = connection.password
                            && is_secret(&password)
                        {
                            assert!(!shown.contains(&password), "{shown}");
                        }
                        let directory = resolved.subdirectory;
                        assert!(directory.is_none_or(|name| !name.contains('/') && name != ".."));
                    }
                }
            }
        }
        outcome(seen)
    });
}

#[test]
fn what_is_taken_for_a_name_makes_only_paths_that_stay_below_the_store() {
    let seeds = bytes(&[
        "run_1",
        "0123456789abcdef",
        "my_exp:1.0",
        "weights.npz",
        "20260301_085900_000001",
        "_manifest",
        "ü",
        "a.json",
        "runs/run_1.json",
        "logs/run_1/step_1.txt",
        "/x/exp_1/artifacts/run_1/w.npz",
        ".index/staging/00000000000000aa",
        "exp_1/artifacts/../x",
        "file:///x/artifacts/r/w",
    ]);
    let tokens = &[
        "runs/",
        "artifacts/",
        "logs/",
        ".index/",
        ".locks/",
        "staging/",
        ".json",
        ".txt",
        ".log",
        ".done",
        ".lock",
        ".seg",
        ".tmp.deadbeef",
        "_000001",
        "journal-",
        "_meta.json",
        "experiments/",
        "_manifest.json",
        "file:///",
    ];
    let target = Target {
        name: "names",
        seeds,
        tokens,
        inputs: 3000,
    };
    target.run(|input| {
        use names::{
            ArtifactFormat, ArtifactName, ExperimentId, LogName, ManifestStamp, ResultName, RunId,
        };
        let text = String::from_utf8_lossy(input);
        let mut paths = Vec::new();
        let run = RunId::parse(&text);
        let other = RunId::parse("r").unwrap();
        if let Ok(run) = &run {
            paths.extend([
                layout::run_record(run),
                layout::done_marker(run),
                layout::derived(run),
                layout::lock(run),
                layout::artifact_directory(run),
                layout::artifact_manifest(run),
                layout::result_directory(run),
                layout::log_directory(run),
            ]);
        }
        if let Ok(name) = LogName::parse(&text) {
            paths.push(layout::log_nested(&other, &name));
            paths.extend(layout::log_flat(&other, &name));
        }
        if let Ok(name) = ResultName::parse(&text) {
            paths.push(layout::result(&other, &name));
        }
        if let Ok(name) = ArtifactName::parse(&text) {
            for format in ["", "bin", &text] {
                if let Ok(format) = ArtifactFormat::parse(format) {
                    paths.extend(layout::artifact(&other, &name, &format));
                }
            }
        }
        if let Ok(id) = ExperimentId::parse(&text) {
            paths.extend(layout::experiment_directory(&id));
        }
        if let Ok((stamp, counter)) = ManifestStamp::parse_numbered(&text) {
            assert_eq!(stamp.numbered(counter).unwrap(), text);
        }
        if let Some((directory, _, file)) = layout::artifact_tail(&text) {
            for part in directory.into_iter().chain([file]) {
                assert!(!part.contains('/'), "{text:?}");
            }
            paths.extend(layout::artifact_file(&other, file));
        }
        paths.extend(layout::parse(&text));
        paths.extend(layout::parse_staging(&text));
        paths.extend(layout::index(&text));
        paths.extend(layout::directory(layout::Top::Logs).child(&text));
        let seen = outcome((run.map_err(shape), paths.len()));
        for path in paths {
            let path = path.to_string();
            for part in path.split('/') {
                assert!(
                    !part.is_empty() && part != "." && part != ".." && part.len() <= 255,
                    "{text:?}: {path:?}"
                );
                assert!(!part.contains(['\0', '\\']), "{text:?}: {path:?}");
            }
        }
        seen
    });
}

#[test]
fn no_name_of_a_schema_gets_out_of_its_quotes() {
    let seeds = bytes(&["public", "a\"b", "x; drop table y", "ü"]);
    let target = Target {
        name: "schemas",
        seeds,
        tokens: &["\"", "\"\"", ";", "--", "."],
        inputs: 2000,
    };
    target.run(|input| {
        let text = String::from_utf8_lossy(input);
        match sql::Schema::new(&*text) {
            Err(error) => outcome(shape(error)),
            Ok(schema) => {
                let quoted = schema.quoted();
                let inner = quoted
                    .strip_prefix('"')
                    .and_then(|rest| rest.strip_suffix('"'))
                    .unwrap();
                assert!(!inner.replace("\"\"", "").contains('"'), "{quoted}");
                assert_eq!(inner.replace("\"\"", "\""), text);
                outcome("")
            }
        }
    });
}
