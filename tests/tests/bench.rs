//! The benchmarks run: what they measure has to be right too.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

#[test]
fn a_verification_that_is_measured_finds_nothing() {
    let output = Command::new(env!("CARGO_BIN_EXE_bench"))
        .args(["--quick", "verify", "--runs", "20", "--mib", "1"])
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
}
