//! The processes that use the stores.

use serde_json::Value;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// The hosts of which there are workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    Rust(PathBuf),
    /// The interpreter, and the program.
    Python(PathBuf, PathBuf),
    Node(PathBuf),
}

impl Host {
    /// Returns its name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Rust(_) => "rust",
            Self::Python(..) => "python",
            Self::Node(_) => "node",
        }
    }

    fn command(&self) -> Command {
        match self {
            Self::Rust(program) => Command::new(program),
            Self::Python(interpreter, program) => {
                let mut command = Command::new(interpreter);
                command.arg(program);
                command
            }
            Self::Node(program) => {
                let mut command = Command::new("node");
                command.arg(program);
                command
            }
        }
    }
}

/// A worker. It is killed when this is dropped.
pub struct Worker {
    child: Child,
    input: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    /// Starts one, and waits until it has opened its store; none if it could not.
    pub fn start(host: &Host, locator: &str, errors: &Path) -> Option<Self> {
        let said = std::fs::File::options()
            .create(true)
            .append(true)
            .open(errors)
            .ok()?;
        let mut child = host
            .command()
            .arg(locator)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(said)
            .spawn()
            .ok()?;
        let (input, output) = (child.stdin.take()?, child.stdout.take()?);
        let mut worker = Self {
            child,
            input,
            lines: BufReader::new(output).lines(),
        };
        worker.answer().map(|_| worker)
    }

    /// Returns its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Passes a call on; false if it is gone.
    pub fn tell(&mut self, call: &Value) -> bool {
        writeln!(self.input, "{call}").is_ok()
    }

    /// Waits for the next answer; none if it is gone.
    pub fn answer(&mut self) -> Option<Value> {
        let line = self.lines.next()?.ok()?;
        serde_json::from_str(&line).ok()
    }

    /// Makes a call; none if it is gone.
    pub fn call(&mut self, call: &Value) -> Option<Value> {
        self.tell(call).then(|| self.answer()).flatten()
    }

    /// Kills it without a chance to do anything more. What it had said before is still to be heard.
    pub fn kill(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }

    /// Says how it ended.
    pub fn end(mut self) -> String {
        match self.child.wait() {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
