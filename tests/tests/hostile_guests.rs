//! Components that mean harm, in the place of the store: the host is unharmed, the error says what happened, the next
//! call works, and other stores of the process notice nothing.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use metalab_store::types::{Durability, Expectation, RunRecord, Status};
use metalab_store::{Engine, Error, FileStoreConfig, Limits, PostgresStoreConfig, Result, Store};
use metalab_store_guest::config::{from_locator, resolve};
use metalab_store_tests::hostile::{ESCAPED, Guest, PREOPEN};
use metalab_store_tests::tree;
use metalab_store_tests::{attacks, database};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const MIB: usize = 1 << 20;

/// What hostile components may use here. Little, so that tests are quick and a breach shows.
fn limits() -> Limits {
    Limits {
        memory_bytes: 64 * MIB,
        table_entries: 10_000,
        // What is ended for another reason is not to be ended for this one, however busy the machine is.
        call_deadline: Duration::from_mins(1),
        resources: 100,
        host_call_bytes: 32 * MIB,
    }
}

/// What the process may need beyond what it has, for any of them: memory of the component, what it passes to the
/// host, the host's copy of that, and the compiler's.
const MOST_MEMORY: u64 = 400 << 20;

/// The memory of the process is measured, so that tests run one after the other.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A directory that is granted, one beside it that is not, and a store of the same process that goes on.
struct Place {
    directory: tempfile::TempDir,
    good: Store,
    limits: Limits,
    _alone: MutexGuard<'static, ()>,
}

impl Place {
    fn new() -> Self {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        fs::create_dir_all(path.join("granted/runs")).unwrap();
        fs::create_dir_all(path.join("granted/.locks")).unwrap();
        fs::write(path.join("granted/runs/kept.json"), "kept").unwrap();
        fs::create_dir(path.join("outside")).unwrap();
        fs::write(path.join("outside/secret"), "secret").unwrap();
        let good = FileStoreConfig::new(path.join("good"))
            .scoped("exp:1")
            .durability(Durability::Relaxed)
            .connect()
            .unwrap();
        Self {
            directory,
            good,
            limits: limits(),
            _alone: alone,
        }
    }

    /// A place in which calls do not take long.
    fn hasty() -> Self {
        let mut place = Self::new();
        place.limits.call_deadline = Duration::from_secs(1);
        place
    }

    fn granted(&self) -> PathBuf {
        self.directory.path().join("granted")
    }

    fn config(&self, guest: &Guest) -> FileStoreConfig {
        FileStoreConfig::new(self.granted())
            .engine(Engine::of_component(&guest.component()).unwrap())
            .limits(self.limits)
    }

    /// Lets a component attack while it opens a store, and checks what it was answered and what it left behind.
    fn attack(&mut self, class: &str, name: &str, guest: &Guest) -> Error {
        self.run(class, name, || self.config(guest).connect())
    }

    fn attack_read_only(&mut self, class: &str, name: &str, guest: &Guest) -> Error {
        let before = tree(&self.granted());
        let error = self.run(class, name, || self.config(guest).read_only().connect());
        assert_eq!(tree(&self.granted()), before, "{name}");
        error
    }

    fn run<T>(&self, class: &str, name: &str, attack: impl FnOnce() -> Result<T>) -> Error {
        let before = memory("VmRSS");
        // From here on the peak counts.
        fs::write("/proc/self/clear_refs", "5").unwrap();
        let Err(error) = attack() else {
            panic!("{name} succeeded")
        };
        let used = memory("VmHWM").saturating_sub(before);
        assert!(used < MOST_MEMORY, "{name} cost {} MiB", used >> 20);
        assert!(
            error.to_string().len() < 10_000,
            "{name}: the message has {} bytes",
            error.to_string().len()
        );
        let outside = BTreeMap::from([("secret".to_owned(), b"secret".to_vec())]);
        assert_eq!(
            tree(&self.directory.path().join("outside")),
            outside,
            "{name}"
        );
        let beside: Vec<String> = tree(self.directory.path())
            .into_keys()
            .filter(|path| {
                !["granted/", "outside/", "good/"]
                    .iter()
                    .any(|known| path.starts_with(known))
            })
            .collect();
        assert_eq!(beside, [""; 0], "{name}");
        // The same process goes on: another store, and a component that is not hostile on the attacked directory.
        let run = RunRecord::new(name.replace(['/', '\\'], "_"), Status::Success);
        self.good
            .put_run_record(&run, &Expectation::Anything)
            .unwrap();
        assert!(self.good.run_exists(&run.run_id).unwrap());
        let next = FileStoreConfig::new(self.granted()).read_only().connect();
        assert!(!next.unwrap().run_exists("other").unwrap(), "{name}");
        attacks::count(class, error.code(), 1);
        error
    }
}

/// Returns a figure of this process, in bytes.
fn memory(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[test]
fn what_never_ends_is_ended_when_its_time_is_up() {
    let endless = "(loop $forever (br $forever)) unreachable";
    let mut place = Place::hasty();
    let starts = |body: &str| Guest::new().with(&format!("(func $start {body}) (start $start)"));
    let guests = [
        ("opening", Guest::new().attacks(endless)),
        ("resolving", Guest::new().does("config#resolve", endless)),
        ("starting", starts("(loop $forever (br $forever))")),
        ("allocating", starts("(global.set $evil (i32.const 1))")),
        (
            "waiting for a lock that it holds itself",
            Guest::new().with(LOCK).attacks(
                "(drop (call $lock (i32.const 1) (i32.const 0)))
                 (drop (call $lock (i32.const 1) (i32.const -1)))
                 (loop $forever (br $forever)) unreachable",
            ),
        ),
        (
            "asking for the same over and over",
            Guest::new()
                .with(PREOPEN)
                .attacks("(loop $more (drop (call $preopen)) (br $more)) unreachable"),
        ),
    ];
    for (name, guest) in guests {
        let error = place.attack("endless", name, &guest);
        assert_eq!(error.code(), "limit-exceeded", "{name}: {error}");
        assert!(!error.to_string().is_empty());
    }
}

/// Locks the run whose id is one letter; returns where the answer is.
const LOCK: &str = r#"
(data (i32.const 6000) "abcdefghijklmnopqrstuvwxyz")
(func $lock (param $letter i32) (param $timeout i32) (result i32)
  (call $import:acquire (i32.const 0) (i32.add (i32.const 6000) (local.get $letter)) (i32.const 1)
    (i32.const 1) (local.get $timeout) (i32.const 6144))
  (i32.const 6144))
"#;

#[test]
fn a_call_of_an_open_store_that_never_ends_costs_that_call_and_the_next_one_gets_a_fresh_instance()
{
    let place = Place::hasty();
    // The first run that is asked for takes for ever; the instance after that one is asked for another.
    let guest = Guest::new().does(
        "store#[method]store.run-exists",
        "(if (i32.eq (local.get 2) (i32.const 4)) (then (loop $forever (br $forever)))) (i32.const 7000)",
    );
    let store = place.config(&guest).connect().unwrap();
    for _ in 0..2 {
        let error = place.run("endless", "a call", || store.run_exists("ever"));
        assert_eq!(error.code(), "limit-exceeded", "{error}");
        assert!(!store.run_exists("other").unwrap());
    }
    // Closing traps, and says so.
    assert_eq!(
        place.run("endless", "close", || store.close()).code(),
        "trap"
    );
}

#[test]
fn memory_tables_stack_and_handles_have_bounds_that_an_error_names() {
    let mut place = Place::new();
    let guests = [
        (
            "a memory that grows for ever",
            "bytes of memory",
            Guest::new().attacks(
                "(loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) unreachable",
            ),
        ),
        ("a memory that is too large from the beginning", "bytes of memory", Guest::new().pages(60_000)),
        (
            "a table that grows for ever",
            "entries",
            Guest::new().with("(table $t 1 funcref)").attacks(
                "(loop $more (br_if $more (i32.ne (table.grow $t (ref.null func) (i32.const 1000)) (i32.const -1)))) unreachable",
            ),
        ),
        ("a table that is too large from the beginning", "entries", Guest::new().with("(table 1000000 funcref)")),
        (
            "recursion without end",
            "stack",
            Guest::new()
                .with("(func $deeper (param i32) (result i32) (i32.add (call $deeper (local.get 0)) (i32.const 1)))")
                .attacks("(call $deeper (i32.const 0))"),
        ),
        (
            "an allocator that calls itself",
            "stack",
            Guest::new().with("(func $start (global.set $evil (i32.const 4))) (start $start)"),
        ),
        (
            "a million locks",
            "resources",
            Guest::new().with(LOCKS).attacks("(call $locks)"),
        ),
        (
            "a million open files",
            "resources",
            Guest::new().with(PREOPEN).with(FILES).attacks("(call $files)"),
        ),
        (
            "a million handles of the granted directory",
            "resources",
            Guest::new().with(PREOPEN).attacks("(loop $more (drop (call $preopen)) (global.set $top (i32.const 65536)) (br $more)) unreachable"),
        ),
    ];
    for (name, limit, guest) in guests {
        let error = place.attack("exhaustion", name, &guest);
        assert_eq!(error.code(), "limit-exceeded", "{name}: {error}");
        assert!(error.to_string().contains(limit), "{name}: {error}");
    }
}

/// Takes lock after lock, and drops none.
const LOCKS: &str = r#"
(func $locks (result i32)
  (local $count i32)
  (loop $more
    (local.set $count (i32.add (local.get $count) (i32.const 1)))
    (i32.store (i32.const 6000) (i32.or (i32.const 0x40404040) (i32.and (local.get $count) (i32.const 0x0f0f0f0f))))
    (i32.store (i32.const 6004) (i32.or (i32.const 0x40404040) (i32.and (i32.shr_u (local.get $count) (i32.const 4)) (i32.const 0x0f0f0f0f))))
    (call $import:acquire (i32.const 0) (i32.const 6000) (i32.const 8) (i32.const 0) (i32.const 0) (i32.const 6144))
    (br_if $more (i32.eqz (i32.load8_u (i32.const 6144)))))
  (call $report (i32.load8_u (i32.const 6148))))
"#;

/// Opens a file again and again, and drops none of the handles.
const FILES: &str = r#"
(data (i32.const 6000) "runs/kept.json")
(func $files (result i32)
  (local $root i32)
  (local.set $root (call $preopen))
  (loop $more
    (call $import:descriptor.open-at (local.get $root) (i32.const 0) (i32.const 6000) (i32.const 14)
      (i32.const 0) (i32.const 1) (i32.const 6144))
    (br_if $more (i32.eqz (i32.load8_u (i32.const 6144)))))
  (call $report (i32.load8_u (i32.const 6148))))
"#;

#[test]
fn gigantic_lists_and_texts_cost_the_host_no_more_than_its_limit() {
    let mut place = Place::new();
    // A list of a million texts, all of them the same MiB of the component's memory.
    let amplified = "(func $amplify (param $count i32) (result i32)
        (local $i i32)
        (drop (memory.grow (i32.const 512)))
        (loop $more
          (i32.store (i32.add (i32.const 8388608) (i32.mul (local.get $i) (i32.const 8))) (i32.const 65536))
          (i32.store (i32.add (i32.const 8388612) (i32.mul (local.get $i) (i32.const 8))) (i32.const 1048576))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br_if $more (i32.lt_u (local.get $i) (local.get $count))))
        (i32.const 8388608))";
    let listing = Guest::new().with(amplified).does(
        "config#list-experiments",
        "(i32.store (i32.const 9004) (call $amplify (i32.const 1000000)))
         (i32.store (i32.const 9008) (call $amplify (i32.const 1000000)))
         (i32.store (i32.const 9012) (i32.const 1000000))
         (i32.store (i32.const 9016) (i32.const 1000000)) (i32.const 9000)",
    );
    let error = place.run("gigantic values", "an answer of a TiB", || {
        place.config(&listing).list_experiments()
    });
    assert!(
        ["trap", "limit-exceeded"].contains(&error.code()),
        "{error}"
    );
    let texts = |call: &str| format!("(drop (memory.grow (i32.const 512))) {}", reported(call));
    let guests = [
        (
            "the name of a lock of 30 MiB",
            Guest::new().attacks(&texts(
                "(call $import:acquire (i32.const 0) (i32.const 65536) (i32.const 31000000) (i32.const 0) (i32.const 0) (i32.const 6144))",
            )),
            Some("02"),
        ),
        (
            "the name of a lock of 4 GiB",
            Guest::new().attacks(&texts(
                "(call $import:acquire (i32.const 0) (i32.const 65536) (i32.const -1) (i32.const 0) (i32.const 0) (i32.const 6144))",
            )),
            None,
        ),
        (
            "a path of 30 MiB",
            Guest::new().with(PREOPEN).attacks(&texts(
                "(call $import:descriptor.create-directory-at (call $preopen) (i32.const 65536) (i32.const 31000000) (i32.const 6144))",
            )),
            Some(""),
        ),
        (
            "the name of a binding of 30 MiB",
            Guest::new().attacks(&texts(
                "(i32.store (i32.const 6160) (i32.const 99))
                 (call $import:execute (i32.const 65536) (i32.const 31000000) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 6144))",
            )),
            Some(""),
        ),
        (
            "a million parameters of a MiB each",
            Guest::new().with(amplified).with(PARAMETERS).attacks(&texts("(call $parameters)")),
            None,
        ),
        (
            "a write of more than there is",
            Guest::new().with(PREOPEN).attacks(&texts(
                "(call $import:descriptor.write (call $preopen) (i32.const 65536) (i32.const -1) (i64.const 0) (i32.const 6144))",
            )),
            None,
        ),
        (
            "a read of everything there could be",
            Guest::new().with(PREOPEN).attacks(&texts(
                "(call $import:descriptor.read (call $preopen) (i64.const -1) (i64.const 0) (i32.const 6144))",
            )),
            Some(""),
        ),
        (
            "a TiB of random numbers",
            Guest::new().attacks("(call $import:get-random-bytes (i64.const 1099511627776) (i32.const 6144)) unreachable"),
            None,
        ),
        (
            "a flood of its standard error",
            Guest::new().attacks(&flood("get-stderr")),
            None,
        ),
        (
            "a flood of its standard output",
            Guest::new().attacks(&flood("get-stdout")),
            None,
        ),
    ];
    for (name, guest, code) in guests {
        let error = place.attack("gigantic values", name, &guest);
        match (code, &error) {
            (Some(code), Error::InvalidArgument(reported)) => {
                assert!(
                    reported.contains(code) && reported != ESCAPED,
                    "{name}: {reported}"
                );
            }
            _ => assert!(
                code.is_none() && ["trap", "limit-exceeded"].contains(&error.code()),
                "{name}: {error}"
            ),
        }
    }
}

/// Runs a statement whose parameters are the texts of `$amplify`.
const PARAMETERS: &str = r#"
(func $parameters
  (local $i i32)
  (drop (memory.grow (i32.const 300)))
  (loop $more
    (i32.store8 (i32.add (i32.const 8388608) (i32.mul (local.get $i) (i32.const 16))) (i32.const 4))
    (i32.store (i32.add (i32.const 8388616) (i32.mul (local.get $i) (i32.const 16))) (i32.const 65536))
    (i32.store (i32.add (i32.const 8388620) (i32.mul (local.get $i) (i32.const 16))) (i32.const 1048576))
    (local.set $i (i32.add (local.get $i) (i32.const 1)))
    (br_if $more (i32.lt_u (local.get $i) (i32.const 1000000))))
  (call $import:execute (i32.const 65536) (i32.const 5) (i32.const 65536) (i32.const 5)
    (i32.const 8388608) (i32.const 1000000) (i32.const 6144)))
"#;

fn flood(stream: &str) -> String {
    format!(
        "(local $stream i32) (local.set $stream (call $import:{stream}))
         (loop $more
           (call $import:output-stream.write (local.get $stream) (i32.const 65536) (i32.const 1000000) (i32.const 6144))
           (br_if $more (i32.eqz (i32.load8_u (i32.const 6144)))))
         unreachable"
    )
}

#[test]
fn forged_handles_and_answers_end_the_instance_and_nothing_else() {
    let mut place = Place::new();
    let begins = "(func $start (global.set $evil (i32.const MODE))) (start $start)";
    let guests = [
        (
            "a handle that was never given",
            Guest::new().attacks(
                "(call $import:descriptor.create-directory-at (i32.const 12345) (i32.const 65536) (i32.const 1) (i32.const 6144)) unreachable",
            ),
        ),
        (
            "a handle dropped twice",
            Guest::new().with(PREOPEN).attacks(
                "(local $root i32) (local.set $root (call $preopen))
                 (call $drop:descriptor (local.get $root)) (call $drop:descriptor (local.get $root)) unreachable",
            ),
        ),
        (
            "a handle used after it was dropped",
            Guest::new().with(PREOPEN).attacks(
                "(local $root i32) (local.set $root (call $preopen)) (call $drop:descriptor (local.get $root))
                 (call $import:descriptor.create-directory-at (local.get $root) (i32.const 65536) (i32.const 1) (i32.const 6144)) unreachable",
            ),
        ),
        (
            "a directory taken for a lock",
            Guest::new().with(PREOPEN).attacks(
                "(call $import:lock.set-content (call $preopen) (i32.const 65536) (i32.const 1) (i32.const 6144)) unreachable",
            ),
        ),
        (
            "a handle taken for a transaction",
            Guest::new().with(PREOPEN).attacks("(call $drop:transaction (call $preopen)) unreachable"),
        ),
        (
            "a store that was never made",
            Guest::new().attacks(
                "(i32.store (i32.const 2052) (i32.const 4711)) (i32.store (i32.const 2056) (i32.const 4711)) (i32.const 2048)",
            ),
        ),
        (
            "an answer of a kind that there is not",
            Guest::new().attacks("(i32.store8 (i32.const 3000) (i32.const 200)) (i32.const 3000)"),
        ),
        (
            "an error of a kind that there is not",
            Guest::new().attacks(
                "(i32.store8 (i32.const 3000) (i32.const 1)) (i32.store8 (i32.const 3008) (i32.const 200)) (i32.const 3000)",
            ),
        ),
        ("an answer beyond the memory", Guest::new().attacks("(i32.const -8)")),
        ("an answer in an odd place", Guest::new().attacks("(i32.const 3001)")),
        (
            "a message that is no text",
            Guest::new().with("(data (i32.const 3000) \"\\ff\\fe\")").attacks("(call $answer (i32.const 3000) (i32.const 2))"),
        ),
        (
            "a message beyond the memory",
            Guest::new().attacks("(call $answer (i32.const 3000) (i32.const -1))"),
        ),
        ("memory beyond the memory", Guest::new().with(&begins.replace("MODE", "2"))),
        ("memory in an odd place", Guest::new().with(&begins.replace("MODE", "3"))),
        ("a call into nothing", Guest::new().with("(table $t 1 funcref)").attacks("(call_indirect $t (result i32) (i32.const 0))")),
    ];
    for (name, guest) in guests {
        let error = place.attack("forged handles and answers", name, &guest);
        assert_eq!(error.code(), "trap", "{name}: {error}");
    }
}

#[test]
fn what_a_component_says_of_its_failure_does_not_steer_a_terminal() {
    let mut place = Place::new();
    let guest = Guest::new().with("(data (i32.const 3000) \"\\1b[2Jgone\")").attacks(
        "(call $import:output-stream.write (call $import:get-stderr) (i32.const 3000) (i32.const 8) (i32.const 6144)) unreachable",
    );
    let error = place.attack("forged handles and answers", "escape sequences", &guest);
    assert!(error.to_string().contains("[2Jgone"), "{error}");
    assert!(!error.to_string().contains('\u{1b}'), "{error:?}");
}

/// Paths that lead out of the granted directory, each in its own way; `in` and the others are links that are planted.
const WAYS_OUT: [&str; 12] = [
    "..",
    "../outside/secret",
    "/etc/hostname",
    "/",
    "runs/../../outside/secret",
    "./././../outside/secret",
    "absolute",
    "relative",
    "chain",
    "into/secret",
    "chained/secret",
    "runs/../into/../secret",
];

fn plant(granted: &Path) {
    let outside = granted.parent().unwrap().join("outside");
    symlink(outside.join("secret"), granted.join("absolute")).unwrap();
    symlink("../outside/secret", granted.join("relative")).unwrap();
    symlink("relative", granted.join("chain")).unwrap();
    symlink("../outside", granted.join("into")).unwrap();
    symlink("into", granted.join("chained")).unwrap();
    symlink("loop", granted.join("loop")).unwrap();
}

/// Calls on a path, with the directory's handle in `$root` and the path at 6000. They answer at 6144.
fn path_calls(length: usize) -> Vec<(&'static str, String)> {
    let path = format!("(local.get $root) (i32.const 6000) (i32.const {length})");
    let open = |follow: u32, how: u32, flags: u32| {
        format!(
            "(call $import:descriptor.open-at (local.get $root) (i32.const {follow}) (i32.const 6000) (i32.const {length}) (i32.const {how}) (i32.const {flags}) (i32.const 6144))"
        )
    };
    vec![
        ("read", open(1, 0, 1)),
        ("read a directory", open(1, 2, 1)),
        ("create", open(1, 1, 3)),
        ("create anew", open(1, 5, 3)),
        ("truncate", open(1, 8, 2)),
        ("truncate to read", open(1, 8, 1)),
        ("create and truncate", open(1, 9, 3)),
        (
            "create a directory",
            format!("(call $import:descriptor.create-directory-at {path} (i32.const 6144))"),
        ),
        (
            "remove",
            format!("(call $import:descriptor.unlink-file-at {path} (i32.const 6144))"),
        ),
        (
            "remove a directory",
            format!("(call $import:descriptor.remove-directory-at {path} (i32.const 6144))"),
        ),
        (
            "rename to it",
            format!(
                "(call $import:descriptor.rename-at (local.get $root) (i32.const 6200) (i32.const 14) {path} (i32.const 6144))"
            ),
        ),
        (
            "rename it",
            format!(
                "(call $import:descriptor.rename-at {path} (local.get $root) (i32.const 6300) (i32.const 8) (i32.const 6144))"
            ),
        ),
        (
            "link to it",
            format!(
                "(call $import:descriptor.link-at (local.get $root) (i32.const 0) (i32.const 6200) (i32.const 14) {path} (i32.const 6144))"
            ),
        ),
        (
            "link it",
            format!(
                "(call $import:descriptor.link-at (local.get $root) (i32.const 1) (i32.const 6000) (i32.const {length}) (local.get $root) (i32.const 6300) (i32.const 8) (i32.const 6144))"
            ),
        ),
        (
            "make a link there",
            format!(
                "(call $import:descriptor.symlink-at (local.get $root) (i32.const 6300) (i32.const 8) (i32.const 6000) (i32.const {length}) (i32.const 6144))"
            ),
        ),
    ]
}

/// Makes the outcome of a call, which is at 6144, the answer: an error is behind the flag that there is one, aligned as
/// what there would be without one.
fn reported(call: &str) -> String {
    let align = match call {
        _ if call.contains(":execute ") || call.contains("$parameters") => 8,
        _ if call.contains(":descriptor.write ") => 8,
        _ if [":acquire ", ":descriptor.open-at ", ":descriptor.read "]
            .iter()
            .any(|name| call.contains(name)) =>
        {
            4
        }
        _ => 1,
    };
    format!(
        "{call} (call $outcome (i32.const 6144) (i32.const {}))",
        6144 + align
    )
}

fn path_guest(path: &str, call: &str) -> Guest {
    Guest::new()
        .with(PREOPEN)
        .with(&format!(
            "(data (i32.const 6000) \"{path}\") (data (i32.const 6200) \"runs/kept.json\") (data (i32.const 6300) \"runs/new\")"
        ))
        .attacks(&format!(
            "(local $root i32) (local.set $root (call $preopen)) {}",
            reported(call)
        ))
}

/// Returns the error code that a guest reported of a call that is refused.
fn refused(error: &Error) -> u8 {
    match error {
        Error::InvalidArgument(code) => u8::from_str_radix(code, 16).unwrap(),
        other => panic!("{other}"),
    }
}

#[test]
fn no_path_and_no_link_leads_a_component_out_of_its_directory() {
    let mut place = Place::new();
    plant(&place.granted());
    let before = tree(&place.granted());
    for path in WAYS_OUT {
        for (what, call) in path_calls(path.len()) {
            let name = format!("{what} {path}");
            // Of a link itself, and not of what it leads to, may be done what one likes.
            let is_link = !path.contains('/') && path != "..";
            if is_link && ["remove", "rename it", "rename to it"].contains(&what) {
                continue;
            }
            let guest = path_guest(path, &call);
            let error = place.attack("paths out of the root", &name, &guest);
            let code = refused(&error);
            assert_ne!(format!("{code:02x}"), ESCAPED, "{name}");
            // Not because there is nothing there: because it leads outside, or is a link.
            let not_there = 0x14;
            assert_ne!(code, not_there, "{name}");
            assert_eq!(tree(&place.granted()), before, "{name}");
        }
    }
}

#[test]
fn nothing_can_be_changed_through_a_root_that_is_granted_to_read() {
    let mut place = Place::new();
    let (read_only, not_permitted, access) = (0x21, 0x1f, 0x00);
    for path in ["runs/kept.json", "new", "runs"] {
        for (what, call) in path_calls(path.len()) {
            if what.starts_with("read") {
                continue;
            }
            let name = format!("{what} {path}");
            let error = place.attack_read_only(
                "writing to a read-only root",
                &name,
                &path_guest(path, &call),
            );
            let code = refused(&error);
            assert!(
                [read_only, not_permitted, access].contains(&code),
                "{name}: {code:#x}"
            );
        }
    }
    // A file that was opened to read does not become one to write.
    for call in [
        "(call $import:descriptor.set-size (local.get $file) (i64.const 0) (i32.const 6144))",
        "(call $import:descriptor.write (local.get $file) (i32.const 6000) (i32.const 4) (i64.const 0) (i32.const 6144))",
    ] {
        let guest = Guest::new().with(PREOPEN).with("(data (i32.const 6000) \"runs/kept.json\")").attacks(&format!(
            "(local $file i32)
             (call $import:descriptor.open-at (call $preopen) (i32.const 0) (i32.const 6000) (i32.const 14) (i32.const 0) (i32.const 1) (i32.const 6144))
             (local.set $file (i32.load (i32.const 6148)))
             (i32.store8 (i32.const 6152) (i32.const 0))
             {}",
            reported(call)
        ));
        let error = place.attack_read_only("writing to a read-only root", call, &guest);
        assert_ne!(format!("{:02x}", refused(&error)), ESCAPED, "{call}");
    }
    let guest = Guest::new().with(LOCK).attacks(
        "(drop (call $lock (i32.const 1) (i32.const 0))) (call $outcome (i32.const 6144) (i32.const 6148))",
    );
    // `read-only`, of the errors of locks.
    assert_eq!(
        refused(&place.attack_read_only("writing to a read-only root", "lock", &guest)),
        4
    );
}

#[test]
fn no_name_of_a_lock_is_a_path() {
    let mut place = Place::new();
    plant(&place.granted());
    symlink(
        "../../outside/secret",
        place.granted().join(".locks/linked.lock"),
    )
    .unwrap();
    for name in [
        "..",
        "../x",
        "../../outside/secret",
        "a/b",
        "/x",
        "",
        ".",
        ".hidden",
        "a\\00b",
        "a\\0ab",
        "linked",
    ] {
        let length = name.len() - name.matches("\\0").count() * 2;
        for kind in [0, 1] {
            if name == "linked" && kind == 1 {
                continue;
            }
            let guest = Guest::new().with(&format!("(data (i32.const 6000) \"{name}\")")).attacks(&format!(
                "(call $import:acquire (i32.const {kind}) (i32.const 6000) (i32.const {length}) (i32.const 1) (i32.const 0) (i32.const 6144))
                 (call $outcome (i32.const 6144) (i32.const 6148))"
            ));
            let error = place.attack("paths out of the root", &format!("lock {name:?}"), &guest);
            assert_eq!(refused(&error), 2, "{name:?}");
        }
    }
}

/// Says so when it is dropped.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn links_that_somebody_swaps_while_a_component_works_lead_it_nowhere() {
    let place = Place::new();
    let granted = place.granted();
    fs::create_dir(granted.join("swapped")).unwrap();
    fs::write(granted.join("swapped/secret"), "inside").unwrap();
    symlink("../outside", granted.join("link")).unwrap();
    // Opens `swapped/secret` to read, to create and to truncate, and reports if it ever reads what is outside.
    let guest = Guest::new().with(PREOPEN).with("(data (i32.const 6000) \"swapped/secret\")").attacks(
        "(local $root i32) (local $round i32) (local $file i32) (local.set $root (call $preopen))
         (loop $more
           (global.set $top (i32.const 65536))
           (call $import:descriptor.open-at (local.get $root) (i32.const 1) (i32.const 6000) (i32.const 14)
             (i32.const 1) (i32.const 3) (i32.const 6144))
           (if (i32.eqz (i32.load8_u (i32.const 6144))) (then
             (local.set $file (i32.load (i32.const 6148)))
             (call $import:descriptor.read (local.get $file) (i64.const 6) (i64.const 0) (i32.const 6144))
             (if (i32.eqz (i32.load8_u (i32.const 6144))) (then
               (if (i32.ge_u (i32.load (i32.const 6152)) (i32.const 1)) (then
                 (if (i32.eq (i32.load8_u (i32.load (i32.const 6148))) (i32.const 0x73))
                   (then (return (call $report (i32.const 0x63)))))))))
             (call $import:descriptor.write (local.get $file) (i32.const 6006) (i32.const 2) (i64.const 100) (i32.const 6144))
             (call $drop:descriptor (local.get $file))))
           (local.set $round (i32.add (local.get $round) (i32.const 1)))
           (br_if $more (i32.lt_u (local.get $round) (i32.const 20000))))
         (call $report (i32.const 1))",
    );
    let ended = AtomicBool::new(false);
    let swaps = std::thread::scope(|scope| {
        let swapper = scope.spawn(|| {
            let at = |name: &str| granted.join(name);
            let mut swaps = 0_u64;
            while !ended.load(Ordering::Relaxed) {
                fs::rename(at("swapped"), at("aside")).unwrap();
                fs::rename(at("link"), at("swapped")).unwrap();
                fs::rename(at("swapped"), at("link")).unwrap();
                fs::rename(at("aside"), at("swapped")).unwrap();
                swaps += 1;
            }
            swaps
        });
        // Also when something fails, or the other thread would go on for ever.
        let ends = Ends(&ended);
        let config = place.config(&guest);
        let mut swaps = 0;
        let error = place.run("links swapped meanwhile", "swapped links", || {
            let connected = config.connect();
            // Whoever looks at the directories now finds them still.
            drop(ends);
            swaps = swapper.join().unwrap();
            connected
        });
        assert_ne!(format!("{:02x}", refused(&error)), ESCAPED);
        swaps
    });
    assert!(swaps > 100, "{swaps}");
}

#[test]
fn what_the_embedded_component_does_not_import_no_other_component_gets() {
    for (import, call) in [
        (
            "wasi:sockets/",
            "(drop (call $import:instance-network)) unreachable",
        ),
        (
            "wasi:clocks/monotonic-clock",
            "(drop (call $import:subscribe-duration (i64.const -1))) unreachable",
        ),
    ] {
        let error = Engine::of_component(&Guest::new().attacks(call).component()).unwrap_err();
        assert_eq!(error.code(), "engine", "{error}");
        assert!(error.to_string().contains(import), "{error}");
        attacks::count("imports that are not granted", error.code(), 1);
    }
    for nonsense in [&b""[..], b"\0asm", b"\0asm\x01\0\0\0", b"(component)"] {
        assert_eq!(Engine::of_component(nonsense).unwrap_err().code(), "engine");
        attacks::count("imports that are not granted", "engine", 1);
    }
}

#[test]
fn a_component_is_told_no_argument_and_no_environment() {
    let mut place = Place::new();
    for call in ["get-environment", "get-arguments"] {
        let guest = Guest::new().attacks(&format!(
            "(call $import:{call} (i32.const 6144)) (call $report (i32.load (i32.const 6148)))"
        ));
        assert_eq!(
            refused(&place.attack("imports that are not granted", call, &guest)),
            0
        );
    }
}

#[test]
fn a_configuration_that_a_component_makes_up_leads_neither_out_of_the_root_nor_to_a_server() {
    let mut place = Place::new();
    plant(&place.granted());
    for name in ["..", "../outside", "/etc", "into", "chained"] {
        let guest = Guest::new().with(&format!("(data (i32.const 3000) \"{name}\")")).does(
            "config#resolve",
            &format!(
                "(i32.store8 (i32.const 1032) (i32.const 1)) (i32.store (i32.const 1036) (i32.const 3000))
                 (i32.store (i32.const 1040) (i32.const {})) (i32.const 1024)",
                name.len()
            ),
        );
        let error = place.attack("paths out of the root", &format!("grant {name}"), &guest);
        assert_eq!(error.code(), "root", "{name}: {error}");
        assert!(error.to_string().contains("outside"), "{name}: {error}");
    }
    // The store is one of files: what the component says of a server is of no consequence.
    let guest = Guest::new().with(&resolution("127.0.0.1", 9, "x", "x")).does("config#resolve", "(call $resolution)").attacks(
        "(call $import:execute (i32.const 3600) (i32.const 5) (i32.const 3000) (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 6144))
         (call $outcome (i32.const 6144) (i32.const 6152))",
    );
    // `not-granted`, of the kinds of failures.
    assert_eq!(
        refused(&place.attack("databases", "a server for a store of files", &guest)),
        0
    );
}

#[test]
fn a_component_with_a_database_gets_its_pool_and_no_more_of_it_than_there_is() {
    let place = Place::new();
    let connection = connection(&database::server());
    let loads = |name: &str, call: &str| {
        let data = format!(
            "(data (i32.const 3800) \"{name}\") (data (i32.const 3900) \"SELECT $1::text\")"
        );
        Guest::new()
            .with(&connection)
            .with(&data)
            .does("config#resolve", "(call $resolution)")
            .attacks(call)
    };
    let named = |name: &str| {
        format!(
            "(i32.const 3800) (i32.const {})",
            name.len() - name.matches("\\0").count() * 2
        )
    };
    let attack = |what: &str, guest: &Guest| {
        let engine = Engine::of_component(&guest.component()).unwrap();
        let config = PostgresStoreConfig::new(database::server(), place.granted());
        let config = config
            .connect_timeout(Duration::from_secs(2))
            .engine(engine)
            .limits(limits());
        refused(&place.run("databases", what, || config.connect()))
    };
    let (not_granted, pool_exhausted, unsupported_type) = (0, 2, 6);
    // The name of its binding, and no other one.
    for name in [
        "postgres",
        "",
        "INDEX",
        "index\\00",
        "../index",
        "postgresql://localhost/postgres",
    ] {
        let call = format!(
            "(call $import:execute {} (i32.const 3900) (i32.const 15) (i32.const 0) (i32.const 0) (i32.const 6144))",
            named(name)
        );
        assert_eq!(
            attack(
                &format!("the binding {name:?}"),
                &loads(name, &reported(&call))
            ),
            not_granted,
            "{name}"
        );
    }
    // Transactions that are begun and never ended.
    let begins = format!(
        "(loop $more
           (call $import:transaction.begin {} (i32.const 0) (i32.const 0) (i32.const 6144))
           (br_if $more (i32.eqz (i32.load8_u (i32.const 6144)))))
         (call $report (i32.load8_u (i32.const 6148)))",
        named("index")
    );
    assert_eq!(
        attack("a million transactions", &loads("index", &begins)),
        pool_exhausted
    );
    // More parameters than the protocol can count, and than the statement has.
    for count in [2, 100_000] {
        let call = format!(
            "(drop (memory.grow (i32.const 100)))
             (call $import:execute {} (i32.const 3900) (i32.const 15) (i32.const 4194304) (i32.const {count}) (i32.const 6144))",
            named("index")
        );
        assert_eq!(
            attack("parameters", &loads("index", &reported(&call))),
            unsupported_type
        );
    }
}

/// The function that answers `resolve` with the server of the tests.
fn connection(uri: &str) -> String {
    let separator = if uri.contains('?') { '&' } else { '?' };
    let config = from_locator(&format!("{uri}{separator}file_root=/")).unwrap();
    let connection = resolve(&config, None).unwrap().connection.unwrap();
    let (host, port) = &connection.hosts[0];
    resolution(host, *port, &connection.database, &connection.user.unwrap())
}

/// A function that answers `resolve` with a server under the name `index`.
fn resolution(host: &str, port: u16, database: &str, user: &str) -> String {
    let text = |at: u32, text: &str, place: u32| {
        format!(
            "(i32.store (i32.const {place}) (i32.const {at})) (i32.store (i32.const {}) (i32.const {}))",
            place + 4,
            text.len()
        )
    };
    format!(
        r#"(data (i32.const 3200) "{host}") (data (i32.const 3300) "{database}") (data (i32.const 3400) "{user}")
           (data (i32.const 3500) "public") (data (i32.const 3600) "index")
        (func $resolution (result i32)
          (i32.store8 (i32.const 1064) (i32.const 1))
          (i32.store8 (i32.const 1072) (i32.const 1)) {} {}
          (i32.store8 (i32.const 1096) (i32.const 1))
          (i32.store (i32.const 1100) (i32.const 3700)) (i32.store (i32.const 1104) (i32.const 1))
          {} (i32.store16 (i32.const 3708) (i32.const {port})) {}
          (i32.store8 (i32.const 1116) (i32.const 1)) {}
          (i32.store (i32.const 1164) (i32.const 2000)) (i32.store (i32.const 1168) (i32.const 1)) (i32.store (i32.const 1172) (i32.const 2))
          (i32.const 1024))"#,
        text(3600, "index", 1076),
        text(3500, "public", 1084),
        text(3200, host, 3700),
        text(3300, database, 1108),
        text(3400, user, 1120),
    )
}
