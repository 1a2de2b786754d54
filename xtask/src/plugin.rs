//! Building plugins: the example, and the one that the tests torment hosts with.

use crate::component::toolchain_command;
use crate::paths::Paths;
use crate::process::{Failure, run};
use crate::seal::seal;
use crate::step;
use crate::toolchain::{TARGET, Toolchain};
use std::fs;

/// The crates, and what their plugins are called.
const PLUGINS: [(&str, &str); 2] = [
    ("metalab-store-example-plugin", "example.wasm"),
    ("metalab-store-test-plugin", "test.wasm"),
];

/// Builds the plugins of this repository into `target/plugins`.
pub(crate) fn build(paths: &Paths) -> Result<(), Failure> {
    let toolchain = Toolchain::provide(paths)?;
    step("build the plugins");
    let directory = paths.target.join("plugins");
    for (package, name) in PLUGINS {
        let (mut command, target) = toolchain_command(paths, &toolchain, package);
        // What is linked is to be sealed before it becomes a component.
        run(command.args(["--", "-C", "link-arg=--skip-wit-component"]))?;
        let file = format!("release/{}.wasm", package.replace('-', "_"));
        let built = target.join(TARGET).join(file);
        let failed = |error: std::io::Error| Failure::new(format!("{}: {error}", built.display()));
        let sealed = seal(&fs::read(&built).map_err(failed)?)?;
        fs::create_dir_all(&directory)
            .and_then(|()| fs::write(directory.join(name), sealed))
            .map_err(failed)?;
    }
    Ok(())
}
