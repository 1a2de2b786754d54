//! The compiler's settings: the same when the component is precompiled and when it is loaded.

/// How many bytes of stack the component may use. Threads have 2 MiB by default, and the host needs some.
const WASM_STACK: usize = 1024 * 1024;

/// Returns the settings.
pub(crate) fn engine_config() -> wasmtime::Config {
    let mut config = wasmtime::Config::new();
    config.wasm_component_model(true);
    config.epoch_interruption(true);
    config.max_wasm_stack(WASM_STACK);
    config
}
