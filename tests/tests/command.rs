//! The command `metalab-store`, as people and scripts see it.

use metalab_store::FileStoreConfig;
use metalab_store::types::{Expectation, RunRecord, Status};
use metalab_store_tests::{checkout, command, reference_collection, tree};
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use tempfile::TempDir;

type TestResult<T = ()> = Result<T, Box<dyn Error>>;

/// A directory with what the reference wrote, in which commands are run.
struct Place(TempDir);

/// What a command left behind.
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Place {
    fn empty() -> TestResult<Self> {
        Ok(Self(tempfile::tempdir()?))
    }

    fn with_fixtures() -> Self {
        Self(reference_collection())
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    /// Makes a command that runs here and whose output is read.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = command();
        command
            .args(arguments)
            .current_dir(self.0.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str]) -> TestResult<Ran> {
        Ran::from(self.command(arguments))
    }

    fn run_on(&self, input: &[u8], arguments: &[&str]) -> TestResult<Ran> {
        let file = self.0.path().join("input");
        fs::write(&file, input)?;
        let mut command = self.command(arguments);
        command.stdin(fs::File::open(file)?);
        Ran::from(command)
    }

    /// Runs commands and returns a transcript of them.
    fn transcript(&self, commands: &[&[&str]]) -> TestResult<String> {
        let mut transcript = String::new();
        for arguments in commands {
            let ran = self.run(arguments)?;
            write!(
                transcript,
                "$ metalab-store {}\n{}",
                arguments.join(" "),
                ran.out
            )?;
            if !ran.out.is_empty() && !ran.out.ends_with('\n') {
                writeln!(transcript, "[no line feed]")?;
            }
            if !ran.err.is_empty() {
                let here = self.0.path().canonicalize()?;
                let err = ran.err.replace(&here.display().to_string(), "[HERE]");
                write!(transcript, "[standard error]\n{err}")?;
            }
            writeln!(transcript, "[exit status {}]\n", ran.code.unwrap_or(-1))?;
        }
        Ok(transcript)
    }
}

impl Ran {
    fn from(mut command: Command) -> TestResult<Self> {
        let output = command.output()?;
        Ok(Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout)?,
            err: String::from_utf8(output.stderr)?,
        })
    }

    /// The output of a command that succeeded without a word on standard error.
    fn quiet(self) -> TestResult<String> {
        if self.code == Some(0) && self.err.is_empty() {
            Ok(self.out)
        } else {
            Err(format!("exit status {:?}: {}", self.code, self.err).into())
        }
    }
}

#[test]
fn help_tells_everything() -> TestResult {
    let place = Place::empty()?;
    let mut help = place.run(&["--help"])?.quiet()?;
    let commands: Vec<String> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect();
    assert!(commands.len() >= 9, "{commands:?}");
    for name in commands {
        let text = place.run(&[&name, "--help"])?.quiet()?;
        write!(help, "\n---- {name}\n\n{text}")?;
    }
    insta::assert_snapshot!(help);
    Ok(())
}

#[test]
fn lists_for_people_are_aligned_and_name_what_is_damaged() -> TestResult {
    let place = Place::with_fixtures();
    insta::assert_snapshot!(place.transcript(&[
        &["experiments"],
        &["runs"],
        &["runs", "--limit", "3"],
        &["-e", "curve_fit:1.0", "runs"],
        &["-e", "damaged:1", "runs"],
        &[
            "runs",
            "--where",
            r#"status = "success" and metrics.loss < 0.5"#,
            "--columns",
            "run_id, params.lr, metrics.loss, tags",
            "--sort",
            "metrics.loss desc",
            "-n",
            "4"
        ],
        &[
            "-e",
            "curve_fit:1.0",
            "runs",
            "--where",
            r#"started_at > 2026-03-01T09:02:00Z or not tags exists"#,
            "--count"
        ],
        &[
            "-e",
            "special:2",
            "runs",
            "--csv",
            "--columns",
            r#"run_id, duration_ms, metrics."nan", metrics.one, tags"#
        ],
        &["-e", "nobody", "runs", "--where", "duration_ms > 3 ms"],
        &["-e", "curve_fit:1.0", "fields"],
        &[
            "-e",
            "curve_fit:1.0",
            "fields",
            "--where",
            "status = \"nothing\""
        ],
        &["artifacts", "ab715c67c9710b4f"],
        &["artifacts", "run_1"],
        &["logs", "ab715c67c9710b4f"],
        &["logs", "ab715c67c9710b4f", "run"],
        &["cat", "ab715c67c9710b4f", "summary"],
        &["cat", "ab715c67c9710b4f", "scalar"],
    ])?);
    Ok(())
}

#[test]
fn a_run_is_shown_in_full() -> TestResult {
    let place = Place::with_fixtures();
    insta::assert_snapshot!(place.transcript(&[
        &["show", "ab715c67c9710b4f"],
        &["show", "920aa42fdc123795"],
        &["show", "e2b101c679f81bb5"],
        &["show", "minimal"],
    ])?);
    Ok(())
}

#[test]
fn json_for_programs_is_stable() -> TestResult {
    let place = Place::with_fixtures();
    insta::assert_snapshot!(place.transcript(&[
        &["experiments", "--json"],
        &["runs", "--json"],
        &["runs", "--json-lines", "-n", "1"],
        &[
            "-e",
            "curve_fit:1.0",
            "runs",
            "--json",
            "--columns",
            "run_id, derived, metrics.loss"
        ],
        &["-e", "curve_fit:1.0", "runs", "--json", "--count"],
        &[
            "-e",
            "special:2",
            "fields",
            "--json",
            "--where",
            "metrics.nan exists"
        ],
        &["logs", "ab715c67c9710b4f", "--json"],
        &["logs", "ab715c67c9710b4f", "run", "--json"],
        &["artifacts", "ab715c67c9710b4f", "--json"],
        &["show", "nobody", "--json"],
        &["show", "empty", "--json"],
    ])?);
    Ok(())
}

#[test]
fn a_table_fits_the_columns_there_are() -> TestResult {
    let place = Place::with_fixtures();
    for columns in [60, 80, 100, 140] {
        for arguments in [
            &["runs"][..],
            &["-e", "curve_fit:1.0", "runs"],
            &["artifacts", "ab715c67c9710b4f"],
        ] {
            let mut command = place.command(arguments);
            command.env("COLUMNS", columns.to_string());
            let out = Ran::from(command)?.out;
            assert!(out.lines().count() > 3);
            let widest = out.lines().map(|line| line.chars().count()).max();
            assert!(widest <= Some(columns), "{columns} columns:\n{out}");
        }
    }
    Ok(())
}

#[test]
fn what_cannot_be_done_is_one_clear_sentence() -> TestResult {
    let place = Place::with_fixtures();
    fs::write(place.path("file"), "")?;
    insta::assert_snapshot!(place.transcript(&[
        &["-s", "nowhere", "experiments"],
        &["-s", "nowhere", "runs"],
        &["-s", "nowhere", "delete", "run_1"],
        &["-s", "file", "runs"],
        &["-s", "", "runs"],
        &["-s", "ftp://host/path", "runs"],
        &["-e", "plain", "experiments"],
        &["-e", "nobody", "runs"],
        &["show", "nobody"],
        &["show", "../run_1"],
        &["show", "truncated"],
        &["logs", "nobody"],
        &["logs", "run_1", "nothing"],
        &["artifacts", "nobody"],
        &["cat", "run_1", "nothing"],
        &["put"],
        &["delete"],
    ])?);
    assert!(!place.path("nowhere").exists());
    Ok(())
}

#[test]
fn commands_that_read_change_nothing() -> TestResult {
    let place = Place::with_fixtures();
    let before = tree(place.0.path());
    for arguments in [
        &["experiments"][..],
        &["runs"],
        &["runs", "--json"],
        &["-e", "plain", "runs"],
        &["show", "ab715c67c9710b4f"],
        &["logs", "ab715c67c9710b4f"],
        &["logs", "ab715c67c9710b4f", "run"],
        &["artifacts", "ab715c67c9710b4f"],
        &["cat", "ab715c67c9710b4f", "weights"],
    ] {
        assert_eq!(Ran::from_bytes(place.command(arguments))?, Some(0));
    }
    assert_eq!(tree(place.0.path()), before);
    Ok(())
}

impl Ran {
    /// The exit status of a command whose output is not text.
    fn from_bytes(mut command: Command) -> TestResult<Option<i32>> {
        Ok(command.output()?.status.code())
    }
}

#[test]
fn bytes_and_records_come_out_as_their_files_hold_them() -> TestResult {
    let place = Place::with_fixtures();
    let experiment = place.path("experiments/curve_fit_1.0");
    let output = place
        .command(&["cat", "--verify", "ab715c67c9710b4f", "weights"])
        .output()?;
    let file = experiment.join("artifacts/ab715c67c9710b4f/weights.npz");
    assert_eq!(output.stdout, fs::read(file)?);

    let text = place
        .run(&["show", "ab715c67c9710b4f", "--json"])?
        .quiet()?;
    let file = experiment.join("runs/ab715c67c9710b4f.json");
    assert_eq!(text.trim_end(), fs::read_to_string(file)?);

    let lines = place
        .run(&["-e", "special:2", "runs", "--json-lines"])?
        .quiet()?;
    for text in [
        "\"nan\":NaN",
        "\"big\":1180591620717411303424",
        "\"neg0\":-0.0",
        "\"exp\":1e+22",
    ] {
        assert!(lines.contains(text), "{text} in {lines}");
    }
    Ok(())
}

#[test]
fn runs_that_are_piped_into_another_store_are_the_same_files_there() -> TestResult {
    let place = Place::with_fixtures();
    for (experiment, directory) in [
        ("curve_fit:1.0", "curve_fit_1.0"),
        ("special:2", "special_2"),
    ] {
        let lines = place
            .run(&["-e", experiment, "runs", "--json-lines"])?
            .quiet()?;
        let put = place.run_on(lines.as_bytes(), &["-s", "copy", "-e", experiment, "put"])?;
        let count = lines.lines().count();
        assert!(count >= 3);
        assert_eq!(put.quiet()?, format!("Stored {count} runs.\n"));
        for line in lines.lines() {
            let id = line
                .split_once("\"run_id\":\"")
                .and_then(|(_, rest)| rest.split('"').next())
                .ok_or("a line without a run id")?;
            let file = format!("{directory}/runs/{id}.json");
            assert_eq!(
                fs::read_to_string(place.path("copy").join(&file))?,
                fs::read_to_string(place.path("experiments").join(&file))?
            );
        }
    }
    Ok(())
}

#[test]
fn one_record_may_be_spread_over_lines() -> TestResult {
    let place = Place::empty()?;
    let record =
        "\n{\n  \"run_id\": \"r\",\n  \"status\": \"success\", \"metrics\": {\"a\": NaN}\n}\n";
    let put = place.run_on(record.as_bytes(), &["-e", "e:1", "put"])?;
    assert_eq!(put.quiet()?, "Stored 1 run.\n");
    let text = fs::read_to_string(place.path("experiments/e_1/runs/r.json"))?;
    assert!(text.contains("\"a\": NaN"), "{text}");
    assert!(text.contains("\"experiment_id\": \"e:1\""), "{text}");
    Ok(())
}

#[test]
fn a_refused_record_is_named_by_its_line_and_the_others_are_stored() -> TestResult {
    let place = Place::empty()?;
    let mut lines = Vec::new();
    lines.extend(b"{\"run_id\": \"a\", \"status\": \"success\"}\n\n{\"run_id\": \"../b\", \"status\": \"success\"}\n");
    lines.extend(
        b"no JSON\n\xff\n{\"run_id\": \"c\", \"status\": \"success\", \"experiment_id\": \"f\"}\n",
    );
    lines.extend(b"{\"run_id\": \"d\", \"status\": \"running\"}");
    let human = place.run_on(&lines, &["-e", "e", "put"])?;
    let json = place.run_on(&lines, &["-e", "e", "put", "--json"])?;
    assert_eq!((human.code, json.code), (Some(1), Some(1)));
    insta::assert_snapshot!(format!(
        "{}---- standard error\n{}---- with --json\n{}---- standard error\n{}",
        human.out, human.err, json.out, json.err
    ));
    let ids = place.run(&["-e", "e", "runs", "--json-lines"])?.quiet()?;
    assert_eq!(ids.lines().count(), 2);
    Ok(())
}

#[test]
fn a_damaged_first_line_does_not_hide_the_lines_behind_it() -> TestResult {
    let place = Place::empty()?;
    let lines = "{\"run_id\": \"a\", \n{\"run_id\": \"b\", \"status\": \"success\"}\n";
    let put = place.run_on(lines.as_bytes(), &["-e", "e", "put"])?;
    assert_eq!((put.code, put.out.as_str()), (Some(1), "Stored 1 run.\n"));
    assert!(put.err.starts_with("error: line 1: "), "{}", put.err);
    assert!(place.path("experiments/e/runs/b.json").exists());
    Ok(())
}

#[test]
fn the_document_that_runs_prints_is_not_mistaken_for_lines() -> TestResult {
    let place = Place::with_fixtures();
    let document = place.run(&["-e", "plain", "runs", "--json"])?.quiet()?;
    let put = place.run_on(document.as_bytes(), &["-s", "copy", "-e", "plain", "put"])?;
    assert_eq!((put.code, put.out.as_str()), (Some(1), "Stored 0 runs.\n"));
    let runs = place.run(&["-s", "copy", "-e", "plain", "runs"])?.quiet()?;
    assert_eq!(runs, "No runs found\n");
    Ok(())
}

#[test]
fn a_put_to_a_collection_says_where_it_goes() -> TestResult {
    let place = Place::with_fixtures();
    let record = b"{\"run_id\": \"r\", \"status\": \"success\", \"experiment_id\": \"plain\"}";
    let put = place.run_on(record, &["put"])?;
    assert_eq!(put.code, Some(0));
    assert!(
        put.err.contains("the collection's own directory"),
        "{}",
        put.err
    );
    assert!(place.path("experiments/runs/r.json").exists());
    let put = place.run_on(record, &["-e", "plain", "put"])?;
    assert_eq!(put.quiet()?, "Stored 1 run.\n");
    Ok(())
}

#[test]
fn delete_removes_what_is_there_and_fails_for_what_is_not() -> TestResult {
    let place = Place::with_fixtures();
    let ran = place.run(&["-e", "plain", "delete", "run_1", "nobody", "run.with.dots"])?;
    assert_eq!(ran.code, Some(1));
    assert_eq!(ran.out, "Deleted run run_1\nDeleted run run.with.dots\n");
    assert!(
        ran.err.contains("there is no run \"nobody\""),
        "{}",
        ran.err
    );
    assert!(!place.path("experiments/plain/runs/run_1.json").exists());
    assert!(!place.path("experiments/plain/logs/run_1_run.log").exists());
    assert!(place.path("experiments/plain/runs/run_1_2.json").exists());
    assert!(
        place
            .path("experiments/plain/logs/run_1_2_run.log")
            .exists()
    );
    let ran = place.run(&["-e", "plain", "delete", "run_1_2", "--json"])?;
    assert_eq!(
        ran.quiet()?,
        "{\n  \"deleted\": [\n    \"run_1_2\"\n  ]\n}\n"
    );
    Ok(())
}

#[test]
fn a_run_with_a_damaged_part_is_shown_without_it() -> TestResult {
    let place = Place::with_fixtures();
    let experiment = place.path("experiments/curve_fit_1.0");
    fs::write(experiment.join("derived/ab715c67c9710b4f.json"), "{\"a\": ")?;
    fs::write(
        experiment.join("artifacts/ab715c67c9710b4f/_manifest.json"),
        "[",
    )?;
    let ran = place.run(&["show", "ab715c67c9710b4f"])?;
    assert_eq!(ran.code, Some(0));
    assert_eq!(ran.err.lines().count(), 2, "{}", ran.err);
    assert!(
        ran.err.contains("derived/ab715c67c9710b4f.json"),
        "{}",
        ran.err
    );
    assert!(
        ran.err.contains("ab715c67c9710b4f/_manifest.json"),
        "{}",
        ran.err
    );
    for part in ["\nParameters\n", "\nMetrics\n", "\nResults\n", "\nLogs\n"] {
        assert!(ran.out.contains(part), "{}", ran.out);
    }
    Ok(())
}

#[test]
fn nothing_in_a_store_reaches_the_terminal_as_a_control_character() -> TestResult {
    let place = Place::empty()?;
    let evil = "\\u001b[2J\\u0007\\u009b31m\\u202e\\r";
    let record = format!(
        "{{\"run_id\": \"r\", \"status\": \"failed\", \"started_at\": \"2026-03-01T09:00:00\", \
         \"metrics\": {{\"{evil}\": \"{evil}\"}}, \"tags\": [\"{evil}\"], \"notes\": \"{evil}\", \
         \"params_resolved\": {{\"{evil}\": \"{evil}\"}}, \"warnings\": [{{\"{evil}\": \"{evil}\"}}], \
         \"error\": {{\"type\": \"{evil}\"}}, \"more\": \"{evil}\", \"provenance\": {{\"host\": \"{evil}\"}}}}"
    );
    place
        .run_on(record.as_bytes(), &["-e", "e", "put"])?
        .quiet()?;
    for arguments in [&["runs"][..], &["show", "r"]] {
        let out = place.run(arguments)?.quiet()?;
        assert!(
            out.contains("\\u{1b}[2J\\u{7}\\u{9b}31m\\u{202e}\\r"),
            "{out}"
        );
        let control = out.chars().find(|character| {
            *character != '\n' && (character.is_control() || *character == '\u{202e}')
        });
        assert_eq!(control, None, "{out}");
    }
    let ran = place.run(&["show", "\u{1b}[2J"])?;
    assert_eq!(ran.code, Some(1));
    assert!(!ran.err.contains('\u{1b}'), "{:?}", ran.err);
    Ok(())
}

#[test]
fn a_reader_that_has_enough_is_no_error() -> TestResult {
    let place = Place::with_fixtures();
    for arguments in [
        &["-e", "plain", "runs"][..],
        &["-e", "plain", "runs", "--json"],
        &["--help"],
    ] {
        let mut child = place.command(arguments).spawn()?;
        drop(child.stdout.take());
        let output = child.wait_with_output()?;
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(output.stderr.is_empty(), "{output:?}");
    }
    Ok(())
}

#[test]
fn a_put_is_finished_although_nobody_reads_its_outcomes() -> TestResult {
    // Stopping at the first outcome that nobody reads left most of the records out, with exit status 0.
    const COUNT: usize = 500;
    let place = Place::empty()?;
    let mut child = place
        .command(&["-e", "e", "put", "--json"])
        .stdin(Stdio::piped())
        .spawn()?;
    drop(child.stdout.take());
    let mut input = child.stdin.take().ok_or("no standard input")?;
    for number in 0..COUNT {
        writeln!(
            input,
            "{{\"run_id\": \"r{number}\", \"status\": \"success\"}}"
        )?;
    }
    drop(input);
    let output = child.wait_with_output()?;
    assert!(output.stderr.is_empty(), "{output:?}");
    let runs = fs::read_dir(place.path("experiments/e/runs"))?.count();
    assert_eq!(runs, COUNT);
    Ok(())
}

#[test]
fn a_followed_log_ends_with_its_run() -> TestResult {
    let place = Place::empty()?;
    let store = FileStoreConfig::new(place.path("experiments"))
        .scoped("e")
        .connect()?;
    let put = |status| {
        let mut record = RunRecord::new("r", status);
        record.experiment_id = "e".to_owned();
        store.put_run_record(&record, &Expectation::Anything)
    };
    put(Status::Running)?;
    store.append_log("r", "run", "one\n", false)?;
    let mut child = place
        .command(&["-e", "e", "logs", "r", "run", "--follow"])
        .spawn()?;
    let mut out = BufReader::new(child.stdout.take().ok_or("no standard output")?);
    let mut line = String::new();
    out.read_line(&mut line)?;
    assert_eq!(line, "one\n");
    // Only now: the line is printed although the command has read beyond it.
    store.append_log("r", "run", "two\n", false)?;
    line.clear();
    out.read_line(&mut line)?;
    assert_eq!(line, "two\n");
    store.append_log("r", "run", "the end\n", false)?;
    put(Status::Success)?;
    let mut rest = String::new();
    out.read_to_string(&mut rest)?;
    assert_eq!(rest, "the end\n");
    assert_eq!(child.wait()?.code(), Some(0));
    Ok(())
}

#[test]
fn a_password_in_a_locator_is_never_printed() -> TestResult {
    let place = Place::empty()?;
    for locator in [
        "postgresql://user:geheim@host/db?file_root=.",
        "postgresql://user:geheim@host:port/db",
        "postgresql://user:geheim@host/db",
        "other://user:geheim@host/db",
    ] {
        for arguments in [
            &["--help"][..],
            &["runs"],
            &["experiments", "--json"],
            &["nonsense"],
        ] {
            let mut command = place.command(arguments);
            command.env("METALAB_STORE", locator);
            let ran = Ran::from(command)?;
            assert!(!ran.out.contains("geheim"), "{}", ran.out);
            assert!(!ran.err.contains("geheim"), "{}", ran.err);
        }
    }
    Ok(())
}

#[test]
fn there_are_completions_for_the_usual_shells() -> TestResult {
    let place = Place::empty()?;
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = place.run(&["completions", shell])?.quiet()?;
        assert!(
            script.contains("metalab-store") && script.contains("artifacts"),
            "{shell}"
        );
    }
    Ok(())
}

#[test]
fn json_output_holds_every_record_and_all_damage() -> TestResult {
    let place = Place::with_fixtures();
    let runs = place.run(&["runs", "--json"])?.quiet()?;
    // One record holds NaN and infinities, as Python writes them; everything else is plain JSON.
    let plain = runs
        .replace("-Infinity", "null")
        .replace("Infinity", "null")
        .replace("NaN", "null");
    let runs: serde_json::Value = serde_json::from_str(&plain)?;
    let count = |name: &str| runs[name].as_array().map(Vec::len);
    assert_eq!((count("runs"), count("damaged")), (Some(14), Some(8)));
    for arguments in [
        &["experiments", "--json"][..],
        &["logs", "ab715c67c9710b4f", "--json"],
        &["artifacts", "ab715c67c9710b4f", "--json"],
        &["artifacts", "run_1", "--json"],
        &["-s", "nowhere", "experiments", "--json"],
    ] {
        serde_json::from_str::<serde_json::Value>(&place.run(arguments)?.quiet()?)?;
    }
    Ok(())
}

#[test]
fn every_test_file_is_built() -> TestResult {
    // Cargo finds them by itself unless that is switched off.
    let manifest = fs::read_to_string(checkout().join("tests/Cargo.toml"))?;
    assert!(!manifest.contains("autotests"));
    Ok(())
}
