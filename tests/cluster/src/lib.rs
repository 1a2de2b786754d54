//! A private PostgreSQL cluster: in a temporary directory, on a free loopback port and a socket of its own, and gone
//! when it is dropped.
//!
//! The server refuses to run as root. Then it runs as the user `postgres` if there is one, else as `nobody`.

#![deny(missing_docs)]

use std::fmt;
use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
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
    let has_both = |directory: &Path| {
        ["initdb", "postgres"]
            .iter()
            .all(|name| directory.join(name).is_file())
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    if let Some(found) = std::env::split_paths(&path).find(|directory| has_both(directory)) {
        return Some(found);
    }
    let mut versions: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .filter(|directory| has_both(directory))
        .collect();
    let number = |path: &PathBuf| -> u32 {
        let name = path.parent().and_then(Path::file_name);
        name.and_then(|name| name.to_str()?.parse().ok())
            .unwrap_or_default()
    };
    versions.sort_by_key(number);
    versions.pop()
}

/// A server and its data.
pub struct Cluster {
    programs: PathBuf,
    directory: TempDir,
    port: u16,
    server: Option<Child>,
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
        let directory = tempfile::Builder::new().prefix("pg").tempdir_in("/tmp")?;
        let as_user = rustix::process::geteuid()
            .is_root()
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
        cluster.restart()?;
        let made = cluster
            .command("createdb")
            .args(["-h", "127.0.0.1", "-p"])
            .arg(cluster.port.to_string())
            .args(["-U", USER, DATABASE])
            .output()?;
        if !made.status.success() {
            return Err(Failure(format!(
                "createdb failed: {}",
                String::from_utf8_lossy(&made.stderr).trim()
            )));
        }
        Ok(cluster)
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
        let mut command = Command::new(self.programs.join(program));
        command
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .env("LC_ALL", "C")
            .env("PGCONNECT_TIMEOUT", "5");
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
        command
            .arg("-D")
            .arg(self.data())
            .args(["-p", &self.port.to_string()])
            .stdout(Stdio::from(log.try_clone()?))
            .stderr(Stdio::from(log))
            // A signal at the terminal is for the tests, which stop the server themselves.
            .process_group(0);
        self.server = Some(command.spawn()?);
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(server) = &mut self.server
                && server.try_wait()?.is_some()
            {
                self.server = None;
                return Ok(false);
            }
            let ready = self
                .command("pg_isready")
                .args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()])
                .status()?;
            if ready.success() {
                return Ok(true);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(false)
    }

    /// Stops the server as an administrator does who does not wait for clients.
    ///
    /// # Errors
    /// If it does not stop.
    pub fn stop(&mut self) -> Result<(), Failure> {
        self.end(rustix::process::Signal::INT)
    }

    /// Kills the server with all its processes.
    ///
    /// # Errors
    /// If it cannot be killed.
    pub fn kill(&mut self) -> Result<(), Failure> {
        // Its children end when the postmaster is gone, and new ones cannot start before they did.
        self.end(rustix::process::Signal::KILL)
    }

    /// Stops the processes of the server where they are, or lets them go on.
    ///
    /// # Errors
    /// If they cannot be signalled.
    pub fn freeze(&self, frozen: bool) -> Result<(), Failure> {
        let signal = match frozen {
            true => rustix::process::Signal::STOP,
            false => rustix::process::Signal::CONT,
        };
        self.signal_group(signal)
    }

    fn signal_group(&self, signal: rustix::process::Signal) -> Result<(), Failure> {
        if let Some(server) = &self.server {
            let group = i32::try_from(server.id())
                .ok()
                .and_then(rustix::process::Pid::from_raw);
            if let Some(group) = group {
                rustix::process::kill_process_group(group, signal).map_err(io::Error::from)?;
            }
        }
        Ok(())
    }

    fn end(&mut self, signal: rustix::process::Signal) -> Result<(), Failure> {
        if self.server.is_none() {
            return Ok(());
        }
        if signal == rustix::process::Signal::KILL {
            self.signal_group(signal)?;
        } else if let Some(server) = &self.server
            && let Some(process) = i32::try_from(server.id())
                .ok()
                .and_then(rustix::process::Pid::from_raw)
        {
            rustix::process::kill_process(process, signal).map_err(io::Error::from)?;
        }
        let deadline = Instant::now() + PATIENCE;
        while let Some(server) = &mut self.server {
            if server.try_wait()?.is_some() {
                self.server = None;
            } else if Instant::now() > deadline {
                return Err(Failure("the PostgreSQL server does not stop".to_owned()));
            } else {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        Ok(())
    }
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
