//! Asks the Python on this machine, for tests that compare with it.

pub(crate) use crate::testing::Random;
use std::io::Write as _;
use std::process::{Command, Stdio};

/// Runs a script with the input and returns what it prints.
///
/// `None` if there is no `python3` whose version satisfies the condition (an expression over
/// `v`, its major and minor version); then the test says that it was skipped.
pub(crate) fn ask(condition: &str, script: &str, input: &str) -> Option<String> {
    let script = format!(
        "import sys\nv = sys.version_info[:2]\nif not ({condition}): sys.exit(77)\n{script}"
    );
    let child = Command::new("python3")
        .args(["-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        eprintln!("skipped: there is no python3 to compare with");
        return None;
    };
    // Every script reads all of its input before it prints, so that neither side can block. One
    // that exits at once leaves a broken pipe, and its exit code tells why.
    let mut stdin = child.stdin.take()?;
    let written = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    if output.status.code() == Some(77) {
        eprintln!("skipped: python3 does not satisfy {condition}");
        return None;
    }
    assert!(output.status.success(), "the script failed: {written:?}");
    Some(String::from_utf8(output.stdout).unwrap())
}
