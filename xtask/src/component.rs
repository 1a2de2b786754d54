//! Building the component.

use crate::alone::alone;
use crate::paths::Paths;
use crate::process::{Failure, cargo, run};
use crate::step;
use crate::toolchain::{TARGET, Toolchain};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The first bytes of a component: WebAssembly, layer 1. A core module has layer 0.
const COMPONENT_MAGIC: &[u8] = b"\0asm\x0d\0\x01\0";

/// Returns the call of cargo that compiles a package for WebAssembly, and the target directory that it uses.
pub(crate) fn toolchain_command(
    paths: &Paths,
    toolchain: &Toolchain,
    package: &str,
) -> (Command, PathBuf) {
    // A directory of its own: another compiler may be at work, with other flags.
    let target = paths.target.join("guest").join(&toolchain.name);
    let mut command = cargo(paths);
    command
        .args(["rustc", "--locked", "--release", "--package", package])
        .args(["--lib", "--crate-type", "cdylib"])
        .args(["--target", TARGET, "--target-dir"])
        .arg(&target)
        .env("CARGO_PROFILE_RELEASE_LTO", "fat")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        .env("CARGO_PROFILE_RELEASE_BUILD_OVERRIDE_OPT_LEVEL", "0");
    toolchain.apply(&mut command, &paths.root);
    (command, target)
}

/// Builds the component and returns where it is.
pub(crate) fn build(paths: &Paths) -> Result<PathBuf, Failure> {
    let toolchain = Toolchain::provide(paths)?;
    step(&format!(
        "build the component (compiler: {})",
        toolchain.name
    ));
    let (mut command, target) = toolchain_command(paths, &toolchain, "metalab-store-guest");
    run(&mut command)?;

    let built = target.join(TARGET).join("release/metalab_store_guest.wasm");
    let io = |error: std::io::Error| Failure::new(format!("{}: {error}", built.display()));
    let bytes = fs::read(&built).map_err(io)?;
    if !bytes.starts_with(COMPONENT_MAGIC) {
        return Err(Failure::new(format!(
            "{} is not a component; the linker wasm-component-ld of the target {TARGET} makes one",
            built.display()
        )));
    }
    let directory = paths.target.join("component");
    let component = directory.join("metalab_store.wasm");
    if write_if_changed(&component, &bytes)? || !directory.join(ALONE).exists() {
        write_if_changed(&directory.join(ALONE), &alone(&bytes)?)?;
    }
    Ok(component)
}

/// The component for runtimes that have WASI alone.
const ALONE: &str = "metalab_store_wasi.wasm";

/// Writes a file only if it changed, and says whether it did: everything that embeds it would be built again.
fn write_if_changed(path: &Path, bytes: &[u8]) -> Result<bool, Failure> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(false);
    }
    let staged = path.with_extension("new");
    let directory = path.parent().unwrap_or(path);
    fs::create_dir_all(directory)
        .and_then(|()| fs::write(&staged, bytes))
        .and_then(|()| fs::rename(&staged, path))
        .map(|()| true)
        .map_err(|error| Failure::new(format!("{}: {error}", path.display())))
}
