//! The soak: processes of all hosts use a store of files and a store with PostgreSQL at once, while some of them are
//! killed, the server is restarted, the disk is full and clocks jump. What was acknowledged is compared with what they
//! and every list say, and at the end with what is there.
//!
//! `soak --seconds N --seed S`, and `--steady` to leave the clocks alone; `cargo xtask soak` builds what it needs and starts it. `METALAB_SOAK_PYTHON` names an
//! interpreter that has the package, `METALAB_SOAK_NODE` says that the Node host is built. The calls follow from the
//! seed; what happens between them does not.

#![expect(
    clippy::unwrap_used,
    reason = "what the soak itself cannot do ends it with a panic"
)]

mod measure;
mod model;
mod worker;

use measure::{Course, Held, Latencies};
use metalab_store::{Store, StoreConfig};
use metalab_store_cluster::Cluster;
use metalab_store_tests::checkout;
use metalab_store_tests::script::{Numbers, seed};
use model::{Change, Ended, World};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use worker::{Host, Worker};

/// How many runs a worker has to itself.
const RUNS: usize = 6;

/// Of so many calls of a worker that may be killed, one is the last.
const KILLED: u64 = 150;

/// After so much time beyond the end, something hangs.
const HANGING: Duration = Duration::from_mins(4);

/// How large the disk is that is filled, in MiB.
const DISK: u64 = 192;

/// Something that goes wrong with a store from outside, on purpose. The number is odd while it does.
#[derive(Default)]
struct Trouble(AtomicU64);

impl Trouble {
    fn now(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn turn(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    /// Says whether anything went wrong since a moment.
    fn since(&self, moment: u64) -> bool {
        moment % 2 == 1 || self.now() != moment
    }
}

/// One of the two stores.
struct Place {
    name: &'static str,
    locator: String,
    world: Mutex<World>,
    trouble: Trouble,
}

/// What all threads share.
struct Soak {
    places: [Place; 2],
    programs: PathBuf,
    scratch: PathBuf,
    seed: u64,
    /// Whether no clock is set.
    steady: bool,
    over: AtomicBool,
    faults: Mutex<Vec<String>>,
    latencies: Mutex<Latencies>,
    living: Mutex<BTreeMap<String, u32>>,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    kills: AtomicU64,
    refused: AtomicU64,
    compared: AtomicU64,
    commands: AtomicU64,
    jumps: AtomicU64,
    restarts: AtomicU64,
    full: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Soak {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn fault(&self, what: String) {
        println!("FAULT: {what}");
        self.faults.lock().unwrap().push(what);
        self.over.store(true, Ordering::Relaxed);
    }

    /// Waits, but not past the end.
    fn pause(&self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until && !self.is_over() {
            thread::park_timeout(Duration::from_millis(20));
        }
    }
}

/// A worker's place in the soak: what it is replaced by when it is killed has the same runs.
struct Slot<'s> {
    soak: &'s Soak,
    place: &'s Place,
    name: String,
    host: Host,
    /// Whether it is never killed, so that what it holds can be told.
    survives: bool,
    runs: Vec<String>,
    numbers: Numbers,
    tag: u64,
}

impl Slot<'_> {
    fn work(mut self) {
        let Some(mut worker) = self.start() else {
            return;
        };
        while !self.soak.is_over() {
            let done = self.one(&mut worker);
            if done == Some(true) {
                continue;
            }
            // It was killed, or nobody knows what became of its call: another one finds out.
            worker.kill();
            let status = worker.end();
            if done.is_none() && !self.soak.is_over() {
                let said = fs::read_to_string(self.errors()).unwrap_or_default();
                self.soak
                    .fault(format!("{} ended by itself ({status}): {said}", self.name));
                return;
            }
            match self.start() {
                Some(next) => worker = next,
                None => return,
            }
        }
        self.settle(&mut worker);
        worker.call(&json!({"op": "close"}));
    }

    fn errors(&self) -> PathBuf {
        self.soak.scratch.join(format!("{}.errors", self.name))
    }

    /// Starts a worker, and looks at all runs of which the last call's outcome is not known.
    fn start(&mut self) -> Option<Worker> {
        loop {
            let moment = self.place.trouble.now();
            fs::remove_file(self.errors()).ok();
            if let Some(mut worker) = Worker::start(&self.host, &self.place.locator, &self.errors())
            {
                self.soak
                    .living
                    .lock()
                    .unwrap()
                    .insert(self.name.clone(), worker.id());
                if self.settle(&mut worker) || self.soak.is_over() {
                    return Some(worker);
                }
                continue;
            }
            if !self.place.trouble.since(moment) {
                let said = fs::read_to_string(self.errors()).unwrap_or_default();
                self.soak
                    .fault(format!("{} cannot open its store: {said}", self.name));
                return None;
            }
            if self.soak.is_over() {
                return None;
            }
            // The disk is full, perhaps.
            self.soak.pause(Duration::from_millis(100));
        }
    }

    /// Looks at the runs of which something is not known; false if that cannot be done now.
    fn settle(&mut self, worker: &mut Worker) -> bool {
        for run in self.runs.clone() {
            if !self.place.world.lock().unwrap().is_certain(&run) && !self.observe(worker, &run) {
                return false;
            }
        }
        true
    }

    /// Looks at a run; false if that cannot be done now.
    fn observe(&mut self, worker: &mut Worker, run: &str) -> bool {
        let moment = self.place.trouble.now();
        match worker.call(&json!({"op": "observe", "run": run})) {
            Some(answer) if answer.get("ok").is_some() => {
                self.measured("observe", &answer);
                let saw = self.place.world.lock().unwrap().saw(run, &answer["ok"]);
                if let Err(wrong) = saw {
                    self.soak.fault(format!("{}: {wrong}", self.name));
                }
                true
            }
            Some(answer) => {
                self.allow("observe", &answer, moment);
                false
            }
            None => false,
        }
    }

    fn measured(&self, call: &str, answer: &Value) {
        let micros = answer["us"].as_u64().unwrap_or_default();
        let mut latencies = self.soak.latencies.lock().unwrap();
        latencies.add(self.host.name(), call, micros);
    }

    /// Lets an error pass that the trouble since a moment explains.
    fn allow(&self, call: &str, answer: &Value, moment: u64) {
        count(&self.soak.counts.refused);
        let code = answer["error"].as_str().unwrap_or_default();
        let expected = matches!(
            (self.place.name, code),
            ("files", "io") | ("postgres", "database")
        );
        if !(expected && self.place.trouble.since(moment)) {
            self.soak.fault(format!("{}: {call}: {answer}", self.name));
        }
    }

    /// Makes one call. True: go on; false: the worker has to be replaced; none: it is gone, and nobody killed it.
    fn one(&mut self, worker: &mut Worker) -> Option<bool> {
        let run = self.runs[usize::try_from(self.numbers.below(RUNS as u64)).unwrap()].clone();
        let op = match self.numbers.below(100) {
            0..24 => "put",
            24..30 => "many",
            30..40 => "derived",
            40..46 => "result",
            46..60 => "append",
            60..70 => "artifact",
            70..76 => "delete",
            76..88 => return self.look(worker, &run),
            88..93 => return self.list(worker),
            93..98 => return self.query(worker),
            _ => return self.jump(worker),
        };
        self.tag += 1;
        let runs = match op {
            "many" => self.runs.clone(),
            _ => vec![run],
        };
        let change = Change {
            op,
            runs,
            tag: self.tag,
        };
        self.change(worker, &change)
    }

    fn change(&mut self, worker: &mut Worker, change: &Change) -> Option<bool> {
        let kill = !self.survives && self.numbers.below(KILLED) == 0;
        let moment = self.place.trouble.now();
        self.place.world.lock().unwrap().begin(change);
        let end = |ended| self.place.world.lock().unwrap().end(change, ended);
        if !worker.tell(&change.line()) {
            end(Ended::Unknown);
            return None;
        }
        if kill {
            thread::park_timeout(Duration::from_micros(self.numbers.below(4000)));
            worker.kill();
            count(&self.soak.counts.kills);
        }
        let Some(answer) = worker.answer() else {
            end(Ended::Unknown);
            return kill.then_some(false);
        };
        if answer.get("ok").is_some() {
            end(Ended::Done);
            self.measured(change.op, &answer);
            return Some(!kill);
        }
        let unknown = answer["unknown"] == true || change.op == "many";
        end(if unknown {
            Ended::Unknown
        } else {
            Ended::Refused
        });
        self.allow(change.op, &answer, moment);
        // What was refused left nothing behind; where that is not known, whoever opens the store next puts it right.
        let seen = !unknown && (kill || change.runs.iter().all(|run| self.observe(worker, run)));
        Some(!kill && seen)
    }

    fn look(&mut self, worker: &mut Worker, run: &str) -> Option<bool> {
        let moment = self.place.trouble.now();
        let looked = self.observe(worker, run);
        (looked || self.place.trouble.since(moment)).then_some(looked)
    }

    fn list(&mut self, worker: &mut Worker) -> Option<bool> {
        let call = json!({"op": "list"});
        self.compare(
            worker,
            &call,
            &|run| run.record.is_some(),
            &|listed, run| listed.get(run).map(Value::as_u64),
        )
    }

    fn query(&mut self, worker: &mut Worker) -> Option<bool> {
        let least = self.tag.saturating_sub(self.numbers.below(20));
        let call = json!({"op": "query", "tag": least});
        let shown = move |run: &model::Run| run.record.is_some_and(|tag| tag >= least);
        self.compare(worker, &call, &shown, &|listed, run| {
            let found = listed.as_array().into_iter().flatten();
            found.into_iter().any(|name| name == run).then_some(None)
        })
    }

    fn compare(
        &mut self,
        worker: &mut Worker,
        call: &Value,
        shown: &dyn Fn(&model::Run) -> bool,
        listed: &dyn Fn(&Value, &str) -> Option<Option<u64>>,
    ) -> Option<bool> {
        let moment = self.place.trouble.now();
        let before = self.place.world.lock().unwrap().changes();
        let answer = worker.call(call)?;
        let op = call["op"].as_str().unwrap();
        let Some(found) = answer.get("ok") else {
            self.allow(op, &answer, moment);
            return Some(true);
        };
        self.measured(op, &answer);
        let world = self.place.world.lock().unwrap();
        match world.compare(before, shown, &|run| listed(found, run)) {
            Ok(compared) => {
                let compared = compared as u64;
                self.soak
                    .counts
                    .compared
                    .fetch_add(compared, Ordering::Relaxed);
            }
            Err(wrong) => self.soak.fault(format!("{}: {op}: {wrong}", self.name)),
        }
        Some(true)
    }

    /// Sets the clock of a worker forward or back; only the Rust host has one that can be set.
    fn jump(&mut self, worker: &mut Worker) -> Option<bool> {
        if self.soak.steady || !matches!(self.host, Host::Rust(_)) {
            return Some(true);
        }
        const JUMPS: [i64; 6] = [0, 5, -5, 3_600, -3_600, 200_000];
        let seconds = JUMPS[usize::try_from(self.numbers.below(6)).unwrap()];
        count(&self.soak.counts.jumps);
        worker
            .call(&json!({"op": "clock", "seconds": seconds}))
            .map(|_| true)
    }
}

/// Runs the commands for whole stores on one store, one after the other.
fn command(soak: &Soak, place: &Place, numbers: &mut Numbers) {
    let archive = soak.scratch.join(format!("{}.tar", place.name));
    fs::remove_file(&archive).ok();
    let archive = archive.to_str().unwrap();
    let arguments: Vec<&str> = match numbers.below(5) {
        0 | 1 => vec!["verify"],
        2 => vec!["gc", "--apply", "--grace", "0s"],
        3 => vec!["export", "--to", archive],
        _ if place.name == "postgres" => vec!["rebuild-index"],
        _ => vec!["runs"],
    };
    let moment = place.trouble.now();
    let mut program = Command::new(soak.programs.join("metalab-store"));
    program
        .args(["-s", &place.locator, "-e", "exp:1"])
        .args(&arguments);
    let begun = Instant::now();
    let done = program.stdin(Stdio::null()).output().unwrap();
    count(&soak.counts.commands);
    let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
    soak.latencies
        .lock()
        .unwrap()
        .add("command", arguments[0], micros);
    let busy = String::from_utf8_lossy(&done.stderr).contains("being compared");
    let explained = done.status.code() == Some(1) && (place.trouble.since(moment) || busy);
    if !done.status.success() && !explained {
        soak.fault(format!(
            "{arguments:?} on the store of {}: {}\n{}{}",
            place.name,
            done.status,
            String::from_utf8_lossy(&done.stdout),
            String::from_utf8_lossy(&done.stderr)
        ));
    }
}

/// A small disk of its own for the store of files, if this machine allows to mount one.
struct Disk {
    path: PathBuf,
    mounted: bool,
}

impl Disk {
    fn make(path: PathBuf) -> Self {
        fs::create_dir(&path).unwrap();
        let size = format!("size={DISK}m");
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(&path)
            .stderr(Stdio::null())
            .status();
        let mounted = mount.is_ok_and(|status| status.success());
        if !mounted {
            println!("no disk is filled: this machine does not allow to mount a small one");
        }
        Self { path, mounted }
    }

    /// Takes all the room that is left, until it is asked to give it back.
    fn fill(&self) -> PathBuf {
        use std::io::Write;
        let filler = self.path.join("filler");
        if let Ok(mut file) = fs::File::create(&filler) {
            for size in [1 << 20, 1 << 12, 1] {
                let piece = vec![0; size];
                while file.write_all(&piece).is_ok() {}
            }
        }
        filler
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            Command::new("umount")
                .arg("-l")
                .arg(&self.path)
                .status()
                .ok();
        }
    }
}

/// Fills the disk now and then.
fn fill_disk(soak: &Soak, disk: &Disk) {
    let place = &soak.places[0];
    let mut numbers = Numbers::new(soak.seed ^ 0xd15c);
    while disk.mounted && !soak.is_over() {
        soak.pause(Duration::from_millis(4_000 + numbers.below(4_000)));
        place.trouble.turn();
        let filler = disk.fill();
        count(&soak.counts.full);
        soak.pause(Duration::from_millis(300 + numbers.below(1_500)));
        fs::remove_file(filler).ok();
        place.trouble.turn();
    }
}

/// Restarts the server now and then.
fn restart_server(soak: &Soak, cluster: &mut Cluster) {
    let place = &soak.places[1];
    let mut numbers = Numbers::new(soak.seed ^ 0xdb);
    while !soak.is_over() {
        soak.pause(Duration::from_millis(5_000 + numbers.below(6_000)));
        if soak.is_over() {
            return;
        }
        place.trouble.turn();
        let stopped = match numbers.below(2) {
            0 => cluster.stop(),
            _ => cluster.kill(),
        };
        soak.pause(Duration::from_millis(numbers.below(1_500)));
        if let Err(failure) = stopped.and_then(|()| cluster.restart()) {
            soak.fault(failure.to_string());
        }
        count(&soak.counts.restarts);
        place.trouble.turn();
    }
}

/// Looks at what the workers hold that are never killed.
fn watch(soak: &Soak, names: &[String]) -> Vec<(String, Course)> {
    let mut courses: Vec<(String, Course)> = names
        .iter()
        .map(|name| (name.clone(), Course::default()))
        .collect();
    while !soak.is_over() {
        for (name, course) in &mut courses {
            let process = soak.living.lock().unwrap().get(name).copied();
            if let Some(held) = process.and_then(Held::of) {
                course.add(held);
            }
        }
        soak.pause(Duration::from_millis(500));
    }
    courses
}

fn open(place: &Place) -> Store {
    let config = StoreConfig::from_locator(&place.locator).unwrap();
    config.scoped("exp:1").connect().unwrap()
}

/// Compares all runs with what is there when everybody is gone.
fn check_end(soak: &Soak, place: &Place) {
    let store = open(place);
    let page = store.list_run_records(None).unwrap();
    if !page.damaged.is_empty() {
        soak.fault(format!("{}: damaged: {:?}", place.name, page.damaged));
    }
    let listed: BTreeMap<String, u64> = page
        .records
        .into_iter()
        .map(|run| (run.run_id, run.notes.unwrap_or_default().parse().unwrap()))
        .collect();
    let world = place.world.lock().unwrap();
    let shown = |run: &model::Run| run.record.is_some();
    let wrong = world.compare(u64::MAX, shown, &|run| {
        listed.get(run).map(|tag| Some(*tag))
    });
    match wrong {
        Err(wrong) => soak.fault(format!("{} at the end: {wrong}", place.name)),
        Ok(compared) if compared < world.names().len() => {
            soak.fault(format!(
                "{}: of some runs it is not known what they are",
                place.name
            ));
        }
        Ok(_) => {}
    }
    drop(world);
    store.close().unwrap();
    let mut program = Command::new(soak.programs.join("metalab-store"));
    program.args(["-s", &place.locator, "-e", "exp:1", "verify"]);
    let verified = program.output().unwrap();
    if !verified.status.success() {
        soak.fault(format!(
            "{} at the end: {}",
            place.name,
            String::from_utf8_lossy(&verified.stdout)
        ));
    }
}

/// Returns the hosts that there are.
fn hosts(programs: &Path) -> Vec<Host> {
    let mut hosts = vec![Host::Rust(programs.join("soak-worker"))];
    let worker = |name: &str| checkout().join("tests/soak").join(name);
    match std::env::var_os("METALAB_SOAK_PYTHON") {
        Some(python) => hosts.push(Host::Python(python.into(), worker("worker.py"))),
        None => println!("the Python host is left out"),
    }
    match std::env::var_os("METALAB_SOAK_NODE") {
        Some(_) => hosts.push(Host::Node(worker("worker.mjs"))),
        None => println!("the Node host is left out"),
    }
    hosts
}

/// Returns the value of an option.
fn option(name: &str) -> Option<u64> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    arguments.nth(1).map(|value| value.parse().unwrap())
}

fn main() -> ExitCode {
    let seconds = option("--seconds").unwrap_or(600);
    let seed = option("--seed").unwrap_or_else(seed);
    println!("METALAB_STORE_SEED={seed}");
    let scratch = tempfile::tempdir().unwrap();
    let disk = Disk::make(scratch.path().join("disk"));
    let mut cluster = Cluster::start(&[("max_connections", "100")]).unwrap();
    let programs = std::env::current_exe()
        .unwrap()
        .parent()
        .unwrap()
        .to_owned();
    let hosts = hosts(&programs);
    let files = disk.path.join("store");
    let root = scratch.path().join("indexed");
    let place = |name, locator| Place {
        name,
        locator,
        world: Mutex::default(),
        trouble: Trouble::default(),
    };
    let indexed = format!("{}?file_root={}&schema=soak", cluster.uri(), root.display());
    let soak = Soak {
        places: [
            place("files", files.to_str().unwrap().to_owned()),
            place("postgres", indexed),
        ],
        programs,
        scratch: scratch.path().to_owned(),
        seed,
        steady: std::env::args().any(|argument| argument == "--steady"),
        over: AtomicBool::new(false),
        faults: Mutex::default(),
        latencies: Mutex::default(),
        living: Mutex::default(),
        counts: Counts::default(),
    };
    // A command that only reads makes no store, and may be faster than the first worker.
    for place in &soak.places {
        open(place).close().unwrap();
    }
    let mut slots = Vec::new();
    for (at, place) in soak.places.iter().enumerate() {
        // One more of the Rust host. Of each host, one is never killed in one of the stores.
        for (number, host) in hosts.iter().chain(&hosts[..1]).enumerate() {
            let name = format!("{}-{}{number}", place.name, host.name());
            let runs: Vec<String> = (0..RUNS).map(|run| format!("{name}-{run}")).collect();
            let mut world = place.world.lock().unwrap();
            runs.iter().for_each(|run| world.add(run));
            drop(world);
            slots.push(Slot {
                soak: &soak,
                place,
                survives: number < hosts.len() && (number + at) % 2 == 0,
                host: host.clone(),
                runs,
                numbers: Numbers::new(seed ^ (0x50ac << 16) ^ slots.len() as u64),
                tag: (slots.len() as u64 + 1) * 1_000_000_000,
                name,
            });
        }
    }
    let survivors: Vec<String> = slots
        .iter()
        .filter(|slot| slot.survives)
        .map(|slot| slot.name.clone())
        .collect();
    let begun = Instant::now();
    thread::spawn(move || {
        thread::sleep(Duration::from_secs(seconds) + HANGING);
        println!("FAULT: a call hangs; METALAB_STORE_SEED={seed}");
        std::process::exit(1);
    });
    let courses = thread::scope(|threads| {
        for slot in slots {
            threads.spawn(move || slot.work());
        }
        for place in &soak.places {
            let soak = &soak;
            threads.spawn(move || {
                let mut numbers = Numbers::new(seed ^ 0xc0de ^ place.name.len() as u64);
                while !soak.is_over() {
                    soak.pause(Duration::from_millis(500 + numbers.below(2_500)));
                    command(soak, place, &mut numbers);
                }
            });
        }
        threads.spawn(|| fill_disk(&soak, &disk));
        threads.spawn(|| restart_server(&soak, &mut cluster));
        let watching = threads.spawn(|| watch(&soak, &survivors));
        soak.pause(Duration::from_secs(seconds));
        soak.over.store(true, Ordering::Relaxed);
        watching.join().unwrap()
    });
    if soak.faults.lock().unwrap().is_empty() {
        soak.places.iter().for_each(|place| check_end(&soak, place));
    }
    summary(&soak, &courses, begun.elapsed())
}

fn summary(soak: &Soak, courses: &[(String, Course)], time: Duration) -> ExitCode {
    let mut latencies = soak.latencies.lock().unwrap();
    println!();
    latencies.print();
    println!();
    let mut faults = soak.faults.lock().unwrap();
    for (name, course) in courses {
        faults.extend(course.judge(name));
    }
    let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let counts = &soak.counts;
    println!(
        "\nsoak: {} s, {} calls, {} runs compared in lists, {} commands; {} kills, {} restarts of the server, {} times a full disk, \
         {} jumps of clocks, {} calls refused for these; {} faults; METALAB_STORE_SEED={}",
        time.as_secs(),
        latencies.count(),
        of(&counts.compared),
        of(&counts.commands),
        of(&counts.kills),
        of(&counts.restarts),
        of(&counts.full),
        of(&counts.jumps),
        of(&counts.refused),
        faults.len(),
        soak.seed
    );
    for fault in faults.iter() {
        println!("FAULT: {fault}");
    }
    match faults.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
