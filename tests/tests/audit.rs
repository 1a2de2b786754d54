//! What a process opens, by the word of the kernel: whatever an enemy left in a store, nothing beyond it. And what a
//! file system without working locks leaves of what many processes were told.
//!
//! `strace` watches and, for the locks, answers in the kernel's place. `cargo xtask test` installs it if it is missing.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use metalab_store::FileStoreConfig;
use metalab_store::types::{ArtifactDescriptor, Expectation, RunRecord, Status, StructuredResult};
use metalab_store_tests::{attacks, program, tree};
use rustix::fs::{FileType, Mode, mknodat};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What no process of the tests takes as long for.
const DEADLINE: Duration = Duration::from_mins(2);

/// Where an enemy puts something: every file and directory that the store knows of.
const PLACES: [&str; 20] = [
    "runs",
    "runs/bad.json",
    "derived/bad.json",
    "results/bad",
    "results/bad/x.json",
    "logs",
    "logs/bad_run.log",
    "logs/bad",
    "artifacts",
    "artifacts/bad",
    "artifacts/bad/_manifest.json",
    "artifacts/bad/x.bin",
    "experiments",
    "_meta.json",
    ".locks",
    ".locks/bad.lock",
    ".index",
    ".index/columns",
    ".index/journal-00000000000000aa.seg",
    ".index/staging",
];

/// What an enemy puts there.
const THINGS: [&str; 11] = [
    "an absolute link",
    "a relative link",
    "a chain of links",
    "a loop of links",
    "a link to a directory",
    "a link to nothing",
    "a FIFO",
    "a socket",
    "a directory",
    "an unreadable file",
    "a device",
];

fn strace() -> Command {
    let found = Command::new("strace")
        .arg("-V")
        .stdout(Stdio::null())
        .status();
    assert!(
        found.is_ok_and(|status| status.success()),
        "this test needs strace: run `apt-get install strace` as root"
    );
    Command::new("strace")
}

/// Fills a store with two runs that have everything.
fn fill(root: &Path) {
    let store = FileStoreConfig::new(root)
        .scoped("exp:1")
        .connect()
        .unwrap();
    for run in ["bad", "good"] {
        let record = RunRecord::new(run, Status::Success);
        store
            .put_run_record(&record, &Expectation::Anything)
            .unwrap();
        store.put_derived_text(run, "{\"a\": 1}").unwrap();
        store
            .put_result(run, "x", &StructuredResult::new("[1]"))
            .unwrap();
        store.put_log(run, "run", "line\n").unwrap();
        let descriptor = ArtifactDescriptor::new(run, "x", "blob", "bin");
        store.put_artifact(b"content", &descriptor).unwrap();
    }
    store.close().unwrap();
}

fn plant(thing: &str, path: &Path, outside: &Path) {
    fs::remove_file(path).ok();
    fs::remove_dir_all(path).ok();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let secret = outside.join("secret");
    let relative = |target: &str| {
        let root = outside.parent().unwrap();
        let depth = path.strip_prefix(root).unwrap().components().count() - 1;
        "../".repeat(depth) + target
    };
    match thing {
        "an absolute link" => symlink(secret, path).unwrap(),
        "a relative link" => symlink(relative("outside/secret"), path).unwrap(),
        "a chain of links" => symlink(relative("outside/chain"), path).unwrap(),
        "a loop of links" => symlink(path.file_name().unwrap(), path).unwrap(),
        "a link to a directory" => symlink(outside, path).unwrap(),
        "a link to nothing" => symlink(outside.join("new"), path).unwrap(),
        "a FIFO" => {
            let mode = Mode::from_raw_mode(0o666);
            mknodat(rustix::fs::CWD, path, FileType::Fifo, mode, 0).unwrap();
        }
        "a device" => {
            // A number that no driver has: whoever opened it would be told something else. Only root may make one.
            let mode = Mode::from_raw_mode(0o666);
            let device = rustix::fs::makedev(511, 1);
            let made = mknodat(
                rustix::fs::CWD,
                path,
                FileType::CharacterDevice,
                mode,
                device,
            );
            if let Err(error) = made {
                println!("a FIFO stands in for a device: {error}");
                mknodat(rustix::fs::CWD, path, FileType::Fifo, mode, 0).unwrap();
            }
        }
        "a socket" => {
            // Bound where its name is short enough.
            let short = tempfile::tempdir().unwrap();
            drop(UnixListener::bind(short.path().join("s")).unwrap());
            fs::rename(short.path().join("s"), path).unwrap();
        }
        "a directory" => fs::create_dir_all(path.join("inside")).unwrap(),
        "an unreadable file" => {
            fs::write(path, "{}").unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o0)).unwrap();
        }
        other => panic!("{other}"),
    }
}

/// Waits for a program that an enemy may have made wait for ever.
fn finish(mut child: std::process::Child, what: &str) {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{what}: {status}");
            return;
        }
        if begun.elapsed() > DEADLINE {
            child.kill().unwrap();
            panic!("{what}: the process hangs");
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// A line of a trace that opened something or changed a name.
fn touched(trace: &str, root: &Path) -> BTreeSet<String> {
    let mut touched = BTreeSet::new();
    for line in trace.lines().filter(|line| !line.contains(" = -1 ")) {
        let Some((call, rest)) = line.split_once('(') else {
            continue;
        };
        let call = call.rsplit(' ').next().unwrap();
        if call.starts_with("open") {
            // What the kernel says that the new descriptor is.
            let Some((_, opened)) = rest.rsplit_once(" = ") else {
                continue;
            };
            let path = opened
                .split_once('<')
                .unwrap_or_default()
                .1
                .trim_end_matches('>');
            if !below(path, root) {
                touched.insert(format!("open {}", without_numbers(path)));
            }
        } else {
            // A name in a directory: both of them, for a rename.
            let mut parts = rest.split(", ");
            while let Some(part) = parts.next() {
                let Some((_, directory)) = part.split_once('<') else {
                    continue;
                };
                let directory = directory.trim_end_matches('>');
                let name = parts.next().unwrap_or_default().trim_matches('"');
                let within =
                    below(directory, root) && !name.starts_with('/') && !name.contains("..");
                if !within {
                    touched.insert(format!("{call} {} {name}", without_numbers(directory)));
                }
            }
        }
    }
    touched
}

fn below(path: &str, root: &Path) -> bool {
    Path::new(path).starts_with(root)
}

/// Process ids and descriptors differ from run to run.
fn without_numbers(path: &str) -> String {
    path.chars()
        .filter(|character| !character.is_ascii_digit())
        .collect()
}

/// Runs a worker that makes every call, and returns what it touched outside of the store.
fn watch(root: &Path, what: &str) -> BTreeSet<String> {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("trace");
    let calls = "openat,openat2,open,creat,mkdir,mkdirat,unlink,unlinkat,rmdir,rename,renameat,renameat2,link,linkat,symlink,symlinkat,mknod,mknodat,truncate";
    let child = strace()
        .args([
            "-f",
            "-y",
            "-s",
            "4096",
            "--seccomp-bpf",
            "-e",
            &format!("trace={calls}"),
            "-o",
        ])
        .arg(&log)
        .arg(program("store-worker"))
        .args(["everything", root.to_str().unwrap()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    finish(child, what);
    let trace = String::from_utf8_lossy(&fs::read(&log).unwrap()).into_owned();
    assert!(
        trace.contains(root.to_str().unwrap()),
        "{what}: nothing was traced"
    );
    touched(&trace, root)
}

#[test]
fn whatever_an_enemy_leaves_in_a_store_nothing_beyond_it_is_opened_made_or_removed() {
    let place = tempfile::tempdir().unwrap();
    let outside = place.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "secret").unwrap();
    symlink("secret", outside.join("chain")).unwrap();
    let before = tree(&outside);
    let root = place.path().join("store");
    // What a process opens for itself: libraries, its own maps, the clock.
    fill(&root);
    let own = watch(&root, "a store as it should be");
    assert!(own.iter().any(|line| line.contains("libc")), "{own:?}");
    let mut found = BTreeMap::new();
    for thing in THINGS {
        for at in PLACES {
            let what = format!("{thing} at {at}");
            fs::remove_dir_all(&root).unwrap();
            fill(&root);
            plant(thing, &root.join("exp_1").join(at), &outside);
            let beyond: Vec<String> = watch(&root, &what).difference(&own).cloned().collect();
            if !beyond.is_empty() {
                found.insert(what.clone(), beyond);
            }
            assert_eq!(tree(&outside), before, "{what}");
            attacks::count(
                "enemy's files, traced by the kernel",
                "nothing beyond the root",
                1,
            );
        }
    }
    assert_eq!(found, BTreeMap::new());
}

#[test]
fn where_no_file_can_be_locked_many_processes_lose_nothing_and_are_told_what_cannot_be_promised() {
    // 1,000 for the long run.
    let runs: usize =
        std::env::var("METALAB_STORE_UNLOCKED_RUNS").map_or(12, |runs| runs.parse().unwrap());
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let worker = program("store-worker");
    let script = format!(
        "for i in $(seq 32); do {} puts {} p$i {runs} </dev/null > {}/out$i & done; wait",
        worker.display(),
        root.join("store").display(),
        root.display()
    );
    // The kernel's answer on file systems without locks, for every call of every process.
    let child = strace()
        .args([
            "-f",
            "-qq",
            "--seccomp-bpf",
            "-e",
            "trace=flock",
            "-e",
            "inject=flock:error=ENOLCK",
            "-o",
            "/dev/null",
        ])
        .args(["sh", "-c", &script])
        .spawn()
        .unwrap();
    finish(child, "32 processes without locks");
    let mut acknowledged = BTreeSet::new();
    for process in 1..=32 {
        let said = fs::read_to_string(root.join(format!("out{process}"))).unwrap();
        let mut said: Vec<String> = said.lines().map(str::to_owned).collect();
        // Told once, however many calls found it.
        let warning = said.pop().unwrap();
        assert!(warning.starts_with("nothing can be locked"), "{warning}");
        assert_eq!(
            said.pop().as_deref(),
            Some("locks-unavailable"),
            "process {process}"
        );
        acknowledged.extend(said);
    }
    assert_eq!(acknowledged.len(), 32 * runs);
    let store = FileStoreConfig::new(root.join("store"))
        .scoped("exp:1")
        .connect()
        .unwrap();
    let page = store.list_run_records(None).unwrap();
    assert_eq!(page.damaged, []);
    let listed: BTreeSet<String> = page.records.into_iter().map(|run| run.run_id).collect();
    assert!(
        listed == acknowledged,
        "{} of {} runs are there",
        listed.len(),
        acknowledged.len()
    );
    attacks::count("no working locks, 32 processes", "0 lost", 32 * runs as u64);
}

#[test]
fn who_writes_with_the_command_where_nothing_can_be_locked_is_told_so_once() {
    let directory = tempfile::tempdir().unwrap();
    let put = |options: &[&str]| {
        let mut child = strace();
        child
            .args(["-f", "-qq", "-o", "/dev/null"])
            .args(options)
            .arg(program("metalab-store"))
            .args([
                "-s",
                directory.path().to_str().unwrap(),
                "-e",
                "exp:1",
                "put",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = child.spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        for run in ["a", "b"] {
            let record = format!("{{\"run_id\": \"{run}\", \"status\": \"success\"}}");
            writeln!(input, "{record}").unwrap();
        }
        drop(input);
        let ended = child.wait_with_output().unwrap();
        assert!(ended.status.success());
        String::from_utf8(ended.stderr).unwrap()
    };
    let told = put(&["-e", "trace=flock", "-e", "inject=flock:error=ENOLCK"]);
    assert_eq!(told.matches("nothing can be locked").count(), 1, "{told}");
    assert!(told.starts_with("warning: "), "{told}");
    assert_eq!(put(&["-e", "trace=flock"]), "");
}

#[test]
fn a_hard_link_to_a_file_outside_is_written_only_where_that_is_said() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("store");
    let secret = place.path().join("secret");
    let mut written = BTreeSet::new();
    for at in PLACES {
        fs::remove_dir_all(&root).ok();
        fs::write(&secret, "secret").unwrap();
        fill(&root);
        let path = root.join("exp_1").join(at);
        if path.is_dir() {
            continue;
        }
        fs::remove_file(&path).ok();
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::hard_link(&secret, &path).unwrap();
        let child = Command::new(program("store-worker"))
            .args(["everything", root.to_str().unwrap()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        finish(child, at);
        let outcome = if fs::read_to_string(&secret).unwrap() == "secret" {
            "not written"
        } else {
            written.insert(at);
            "written, as SECURITY.md says"
        };
        attacks::count("hard links to a file outside", outcome, 1);
    }
    // A log that is appended to would be, too: here it was replaced before.
    assert_eq!(written, BTreeSet::from([".locks/bad.lock"]));
}
