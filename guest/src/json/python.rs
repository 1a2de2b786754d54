//! Asks the Python on this machine, for tests that compare with it.

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

/// Numbers that look random and are the same in each run.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit).unwrap()).unwrap()
    }

    pub(crate) fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }
}
