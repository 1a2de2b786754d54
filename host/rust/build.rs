//! Precompiles the component for this machine and embeds it, in both forms.
//!
//! The component itself is built by `cargo xtask component`: a build script cannot bring the toolchain that
//! it needs.

use std::path::{Path, PathBuf};
use std::{env, fs};

#[path = "src/engine_config.rs"]
mod engine_config;

/// Where the component is taken from, if not from where `cargo xtask component` puts it.
const OVERRIDE: &str = "METALAB_STORE_COMPONENT";

fn main() {
    println!("cargo::rerun-if-env-changed={OVERRIDE}");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/engine_config.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let component = match env::var_os(OVERRIDE) {
        Some(path) => PathBuf::from(path),
        None => target_directory(&out).join("component/metalab_store.wasm"),
    };
    println!("cargo::rerun-if-changed={}", component.display());
    if let Err(reason) = embed(&component, &out) {
        println!("cargo::error={reason}");
    }
}

fn embed(component: &Path, out: &Path) -> Result<(), String> {
    let bytes = fs::read(component).map_err(|error| {
        format!(
            "cannot read the component {}: {error}; run `cargo xtask component` first",
            component.display()
        )
    })?;
    let engine = wasmtime::Engine::new(&engine_config::engine_config())
        .map_err(|error| format!("{error:?}"))?;
    let compiled = engine
        .precompile_component(&bytes)
        .map_err(|error| format!("{error:?}"))?;
    let write = |name: &str, content: &[u8]| {
        fs::write(out.join(name), content).map_err(|error| error.to_string())
    };
    write("metalab_store.wasm", &bytes)?;
    write("metalab_store.cwasm", &compiled)
}

/// Cargo does not tell it: `OUT_DIR` is `{target}/{profile}/build/{package}/out`.
fn target_directory(out: &Path) -> PathBuf {
    if let Some(target) = env::var_os("CARGO_TARGET_DIR") {
        let target = PathBuf::from(target);
        if target.is_absolute() {
            return target;
        }
    }
    out.ancestors().nth(4).unwrap_or(out).to_owned()
}
