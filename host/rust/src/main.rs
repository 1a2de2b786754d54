//! The command `metalab-store`.

mod command;

use std::process::ExitCode;

fn main() -> ExitCode {
    command::run()
}
