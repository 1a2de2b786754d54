//! A private PostgreSQL cluster: in a temporary directory, on a free loopback port and a socket of its own, and gone
//! when it is dropped.
//!
//! The server refuses to run as root. Then it runs as the user `postgres` if there is one, else as `nobody`.

#![deny(missing_docs)]

use rustix::process::{Pid, Signal};
use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The user of the database that owns everything.
pub const USER: &str = "metalab";

/// The database.
pub const DATABASE: &str = "metalab";

/// How long a server may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often another port is tried.
const ATTEMPTS: usize = 5;

/// How the directories of clusters begin, before the id of the process that made one.
const PREFIX: &str = "metalab-pg-";

/// Why there is no cluster, in one sentence.
#[derive(Debug)]
pub struct Failure(String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self(format!("the PostgreSQL cluster: {error}"))
    }
}

/// Finds the directory with `initdb` and `postgres`: on PATH, or where distributions put them.
#[must_use]
pub fn find_programs() -> Option<PathBuf> {
    let has_all = |directory: &Path| {
        ["initdb", "postgres", "createdb", "pg_isready"]
            .iter()
            .all(|name| directory.join(name).is_file())
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    if let Some(found) = std::env::split_paths(&path).find(|directory| has_all(directory)) {
        return Some(found);
    }
    let mut versions: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .filter(|directory| has_all(directory))
        .collect();
    let number = |path: &PathBuf| -> u32 {
        let name = path.parent().and_then(Path::file_name);
        name.and_then(|name| name.to_str()?.parse().ok())
            .unwrap_or_default()
    };
    versions.sort_by_key(number);
    versions.pop()
}

/// Says whether this program is root, which the server refuses to be.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A server and its data.
pub struct Cluster {
    programs: PathBuf,
    directory: TempDir,
    port: u16,
    server: Option<Child>,
    keeper: Option<Keeper>,
    /// The user that the server runs as, if this program is root.
    as_user: Option<(u32, u32)>,
}

impl Cluster {
    /// Makes a cluster and starts its server, with settings as in `postgresql.conf`.
    ///
    /// # Errors
    /// Why there is none.
    pub fn start(settings: &[(&str, &str)]) -> Result<Self, Failure> {
        let programs = find_programs().ok_or_else(|| {
            Failure(
                "the tests need the PostgreSQL programs initdb and postgres; install them, for instance with `apt-get install postgresql`, or name a server in METALAB_TEST_POSTGRES"
                    .to_owned(),
            )
        })?;
        // Sockets have short paths.
        sweep();
        let directory = tempfile::Builder::new()
            .prefix(&format!("{PREFIX}{}-", std::process::id()))
            .tempdir_in("/tmp")?;
        let as_user = is_root()
            .then(|| user("postgres").or_else(|| user("nobody")))
            .flatten();
        if let Some((uid, gid)) = as_user {
            std::os::unix::fs::chown(directory.path(), Some(uid), Some(gid))?;
        }
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
        let mut cluster = Self {
            programs,
            directory,
            port: 0,
            server: None,
            keeper: None,
            as_user,
        };
        let data = cluster.data();
        let mut initdb = cluster.command("initdb");
        initdb
            .args([
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C",
                "--username",
                USER,
                "--no-sync",
                "-D",
            ])
            .arg(&data);
        let made = initdb.output()?;
        if !made.status.success() {
            return Err(Failure(format!(
                "initdb failed: {}",
                String::from_utf8_lossy(&made.stderr).trim()
            )));
        }
        let mut configuration = format!(
            "listen_addresses = '127.0.0.1'\nunix_socket_directories = '{}'\nlogging_collector = off\n",
            cluster.directory.path().display()
        );
        for (name, value) in settings {
            configuration.push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
        }
        cluster.configure(&configuration)?;
        cluster.create_database()?;
        cluster.restart()?;
        Ok(cluster)
    }

    /// Makes the database, without a client: a distribution may have the server's programs alone.
    fn create_database(&self) -> Result<(), Failure> {
        let mut single = self
            .command("postgres")
            .args(["--single", "-D"])
            .arg(self.data())
            .arg("postgres")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut input) = single.stdin.take() {
            writeln!(input, "CREATE DATABASE {DATABASE}")?;
        }
        let ended = single.wait_with_output()?;
        let said = String::from_utf8_lossy(&ended.stderr);
        if ended.status.success() && !said.contains("ERROR") {
            return Ok(());
        }
        Err(Failure(format!(
            "the database cannot be created: {}",
            said.trim()
        )))
    }

    /// Appends to `postgresql.conf`; it counts from the next start on.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn configure(&self, text: &str) -> Result<(), Failure> {
        let path = self.data().join("postgresql.conf");
        let mut configuration = fs::read_to_string(&path)?;
        configuration.push_str(text);
        fs::write(&path, configuration)?;
        Ok(())
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Returns a directory that the server can read, for certificates for instance.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Makes a file in that directory that is the server's alone.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn add_file(&self, name: &str, content: &[u8]) -> Result<PathBuf, Failure> {
        let path = self.directory.path().join(name);
        fs::write(&path, content)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        if let Some((uid, gid)) = self.as_user {
            std::os::unix::fs::chown(&path, Some(uid), Some(gid))?;
        }
        Ok(path)
    }

    fn command(&self, program: &str) -> Command {
        self.command_at(&self.programs.join(program))
    }

    fn command_at(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .env("LC_ALL", "C");
        if let Some((uid, gid)) = self.as_user {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Returns the port of the server: the same after a restart.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the address of the database.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("postgresql://{USER}@127.0.0.1:{}/{DATABASE}", self.port)
    }

    /// Returns the process of the server, if it runs.
    #[must_use]
    pub fn process(&self) -> Option<u32> {
        self.server.as_ref().map(Child::id)
    }

    /// Starts the server, after it was stopped if it runs.
    ///
    /// # Errors
    /// If it does not start.
    pub fn restart(&mut self) -> Result<(), Failure> {
        self.stop()?;
        for _ in 0..ATTEMPTS {
            if self.port == 0 {
                // Somebody may take it before the server does; then another one is tried.
                self.port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
            }
            if self.try_start()? {
                return Ok(());
            }
            if self.process().is_some() {
                break;
            }
            self.port = 0;
        }
        let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        let end = log.len().saturating_sub(2000);
        Err(Failure(format!(
            "the PostgreSQL server does not start: {}",
            log.get(end..).unwrap_or_default().trim()
        )))
    }

    fn try_start(&mut self) -> Result<bool, Failure> {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.directory.path().join("log"))?;
        let mut command = self.command("postgres");
        // Whoever starts a server may be killed, and cannot stop it then: the kernel does.
        if let Some(setpriv) = on_path("setpriv") {
            let server = command.get_program().to_owned();
            command = self.command_at(&setpriv);
            command.args(["--pdeathsig", "INT", "--"]).arg(server);
        }
        command
            .arg("-D")
            .arg(self.data())
            .args(["-p", &self.port.to_string()])
            .stdout(Stdio::from(log.try_clone()?))
            .stderr(Stdio::from(log))
            // A signal at the terminal is for the tests, which stop the server themselves.
            .process_group(0);
        let (keeper, server) = Keeper::spawn(command)?;
        self.server = Some(server);
        self.keeper = Some(keeper);
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(server) = &mut self.server
                && server.try_wait()?.is_some()
            {
                self.server = None;
                return Ok(false);
            }
            if self.is_ready() {
                return Ok(true);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(false)
    }

    /// Says whether the server that was started last takes connections: it notes so itself.
    fn is_ready(&self) -> bool {
        let noted = fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
        let mut lines = noted.lines().map(str::trim);
        let is_this_one = lines.next().and_then(|id| id.parse().ok()) == self.process();
        is_this_one && lines.any(|line| line == "ready")
    }

    /// Stops the server as an administrator does who does not wait for clients.
    ///
    /// # Errors
    /// If it does not stop.
    pub fn stop(&mut self) -> Result<(), Failure> {
        self.end(Signal::INT)
    }

    /// Kills the server with all its processes.
    ///
    /// # Errors
    /// If it cannot be killed.
    pub fn kill(&mut self) -> Result<(), Failure> {
        let family = self.signal_all(Signal::KILL)?;
        self.end(Signal::KILL)?;
        // The next server does not start before the memory that they share is left by all.
        let deadline = Instant::now() + PATIENCE;
        while family
            .iter()
            .any(|process| Path::new(&format!("/proc/{}", process.as_raw_nonzero())).exists())
        {
            if Instant::now() > deadline {
                return Err(Failure("processes of the server do not end".to_owned()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Stops the processes of the server where they are, or lets them go on.
    ///
    /// # Errors
    /// If they cannot be signalled.
    pub fn freeze(&self, frozen: bool) -> Result<(), Failure> {
        let signal = if frozen { Signal::STOP } else { Signal::CONT };
        self.signal_all(signal).map(drop)
    }

    /// Signals the server and then its children, which are those it has: it can start none any more. They are in
    /// no group of processes with it. Returns the children.
    fn signal_all(&self, signal: Signal) -> Result<Vec<Pid>, Failure> {
        let Some(server) = self.process().and_then(pid) else {
            return Ok(Vec::new());
        };
        // Once the parent is gone, nobody knows whose they were.
        rustix::process::kill_process(server, Signal::STOP).map_err(io::Error::from)?;
        let children = children(server);
        for process in children.iter().chain([&server]) {
            match rustix::process::kill_process(*process, signal) {
                // It has ended by itself.
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
        Ok(children)
    }

    fn end(&mut self, signal: Signal) -> Result<(), Failure> {
        let Some(process) = self.process().and_then(pid) else {
            return Ok(());
        };
        rustix::process::kill_process(process, signal).map_err(io::Error::from)?;
        let deadline = Instant::now() + PATIENCE;
        while let Some(server) = &mut self.server {
            if server.try_wait()?.is_some() {
                self.server = None;
                self.keeper = None;
            } else if Instant::now() > deadline {
                return Err(Failure("the PostgreSQL server does not stop".to_owned()));
            } else {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        Ok(())
    }
}

fn pid(process: u32) -> Option<Pid> {
    i32::try_from(process).ok().and_then(Pid::from_raw)
}

/// Finds the children of a process.
fn children(parent: Pid) -> Vec<Pid> {
    let parent = parent.as_raw_nonzero().to_string();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter(|entry| {
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            // The name in parentheses may hold anything; the state and the parent follow it.
            let after_name = stat.rsplit(") ").next().unwrap_or_default();
            after_name.split(' ').nth(1) == Some(&parent)
        })
        .filter_map(|entry| pid(entry.file_name().to_str()?.parse().ok()?))
        .collect()
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.server.is_some() {
            // What stands still cannot stop.
            self.freeze(false).ok();
            if self.stop().is_err() {
                self.kill().ok();
            }
        }
    }
}

/// The thread that started the server, and lives as long: the kernel stops the server when this thread ends, which
/// the thread of a test does too soon.
struct Keeper {
    /// Dropped to let the thread end.
    held: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    fn spawn(mut command: Command) -> io::Result<(Self, Child)> {
        let (held, released) = mpsc::channel::<()>();
        let (started, child) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("postgres".to_owned())
            .spawn(move || {
                if started.send(command.spawn()).is_ok() {
                    // It fails when the other end is dropped: that is what it waits for.
                    released.recv().ok();
                }
            })?;
        let keeper = Self {
            held: Some(held),
            thread: Some(thread),
        };
        let child = child.recv().map_err(io::Error::other)??;
        Ok((keeper, child))
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.held.take());
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// Removes the directories of clusters whose makers were killed.
fn sweep() {
    for entry in fs::read_dir("/tmp").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let maker = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX)?.split('-').next())
            .and_then(|id| id.parse::<i32>().ok())
            .and_then(rustix::process::Pid::from_raw);
        let is_gone = maker.is_some_and(|maker| {
            rustix::process::test_kill_process(maker) == Err(rustix::io::Errno::SRCH)
        });
        if is_gone {
            // One that is another user's stays.
            fs::remove_dir_all(entry.path()).ok();
        }
    }
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|directory| directory.join(program))
        .find(|program| program.is_file())
}

/// Finds a user's numbers by its name.
fn user(name: &str) -> Option<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next()? != name {
            return None;
        }
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some((uid, gid))
    })
}
