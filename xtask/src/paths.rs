//! Where things are.

use std::env;
use std::path::{Path, PathBuf};

/// The directories that the commands work in.
pub(crate) struct Paths {
    /// The checkout.
    pub(crate) root: PathBuf,
    /// Where everything is built: `target`, unless `CARGO_TARGET_DIR` says otherwise.
    pub(crate) target: PathBuf,
    /// Where what is fetched once is kept, outside of `target`.
    pub(crate) cache: PathBuf,
}

impl Paths {
    /// Finds them.
    pub(crate) fn find() -> Self {
        // Cargo says it when it runs this, too: what another checkout built may be in a shared target directory.
        let package = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = package.parent().unwrap_or(Path::new(".")).to_owned();
        let target = env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| root.join("target"), |target| root.join(target));
        let cache = env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .filter(|cache| cache.is_absolute())
            .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
            .unwrap_or_else(|| target.join("cache"))
            .join("metalab-store");
        Self {
            root,
            target,
            cache,
        }
    }
}
