//! Where the compiler for the component comes from.
//!
//! Three routes, tried in this order: the wasm32-wasip2 target is installed; rustup installs it; Debian's
//! packages of a Rust compiler and of the standard library's source are unpacked into a private directory,
//! and the standard library is built with the component. The last one needs no Rust release server.

use crate::paths::Paths;
use crate::process::{Failure, output};
use crate::step;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The target of the component.
pub(crate) const TARGET: &str = "wasm32-wasip2";

/// How long rustup may take.
const RUSTUP_DEADLINE: Duration = Duration::from_mins(3);

/// A way to get a compiler for the component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    Installed,
    Rustup,
    Debian,
}

impl Route {
    const ALL: [Self; 3] = [Self::Installed, Self::Rustup, Self::Debian];

    fn name(self) -> &'static str {
        match self {
            Self::Installed => "installed",
            Self::Rustup => "rustup",
            Self::Debian => "debian",
        }
    }

    /// Returns the routes to try: all of them, or the one that is forced.
    fn choose(forced: Option<&str>) -> Result<Vec<Self>, Failure> {
        match forced.filter(|name| !name.is_empty()) {
            None => Ok(Self::ALL.to_vec()),
            Some(name) => Self::ALL
                .into_iter()
                .find(|route| route.name() == name)
                .map(|route| vec![route])
                .ok_or_else(|| {
                    Failure::new(format!(
                        "METALAB_WASM_TOOLCHAIN is {name:?}; it may be installed, rustup or debian"
                    ))
                }),
        }
    }
}

/// A compiler for the component.
pub(crate) struct Toolchain {
    /// Where it comes from, for messages.
    pub(crate) name: String,
    /// The private directory of Debian's compiler; none: the active toolchain has the target.
    debian: Option<PathBuf>,
    /// The active toolchain.
    sysroot: PathBuf,
    host: String,
}

impl Toolchain {
    /// Finds a compiler, or fetches one.
    pub(crate) fn provide(paths: &Paths) -> Result<Self, Failure> {
        let forced = env::var("METALAB_WASM_TOOLCHAIN").ok();
        let sysroot =
            PathBuf::from(output(Command::new("rustc").args(["--print", "sysroot"]))?.trim());
        let host = host(&output(Command::new("rustc").arg("-vV"))?)?;
        let mut tried = Vec::new();
        for route in Route::choose(forced.as_deref())? {
            let found = match route {
                Route::Installed => installed(&sysroot).map(|()| None),
                Route::Rustup => rustup(&sysroot).map(|()| None),
                Route::Debian => debian(&paths.cache).map(Some),
            };
            match found {
                Ok(debian) => {
                    return Ok(Self {
                        name: route.name().to_owned(),
                        debian,
                        sysroot,
                        host,
                    });
                }
                Err(reason) => tried.push(format!("  {}: {reason}", route.name())),
            }
        }
        Err(Failure::new(format!(
            "no compiler for {TARGET} was found. Tried:\n{}\nThe way out: rustup target add {TARGET}",
            tried.join("\n")
        )))
    }

    /// Sets up a call of cargo that builds the component.
    pub(crate) fn apply(&self, cargo: &mut Command, root: &Path) {
        let mut flags = Vec::new();
        // Nothing of this machine's directories goes into the component.
        let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from);
        let cargo_home =
            cargo_home.or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
        for (from, to) in [
            (Some(root), "."),
            (cargo_home.as_deref(), "/cargo"),
            (Some(self.sysroot.as_path()), "/rust"),
        ] {
            if let Some(from) = from {
                flags.push(format!("--remap-path-prefix={}={to}", from.display()));
            }
        }
        if let Some(prefix) = &self.debian {
            flags.push(format!("--remap-path-prefix={}=/rust", prefix.display()));
            flags.push(format!(
                "-Lnative={}",
                prefix.join("usr/lib/wasm32-wasi").display()
            ));
            flags.push("-Clink-self-contained=no".to_owned());
            let tools = self
                .sysroot
                .join("lib/rustlib")
                .join(&self.host)
                .join("bin");
            let mut path = vec![tools.clone(), tools.join("gcc-ld")];
            path.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
            if let Ok(path) = env::join_paths(path) {
                cargo.env("PATH", path);
            }
            cargo.env("RUSTC", prefix.join("rustc"));
            // Building the standard library needs it; it reaches this build alone.
            cargo.env("RUSTC_BOOTSTRAP", "1");
            cargo.args(["-Z", "build-std=std,panic_abort"]);
        }
        // Every host has it since years, and hashes are computed faster with it.
        flags.push("-Ctarget-feature=+simd128".to_owned());
        // In the form in which a directory's name may hold a space. They are for the target alone.
        cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
        cargo
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_ENCODED_RUSTFLAGS");
    }
}

/// Returns the machine's own target from what `rustc -vV` prints.
fn host(version: &str) -> Result<String, Failure> {
    let line = version.lines().find_map(|line| line.strip_prefix("host: "));
    line.map(str::to_owned)
        .ok_or_else(|| Failure::new("rustc does not say which target it runs on".to_owned()))
}

fn installed(sysroot: &Path) -> Result<(), String> {
    let library = sysroot.join("lib/rustlib").join(TARGET).join("lib");
    if library.is_dir() {
        Ok(())
    } else {
        Err(format!("the active toolchain has no target {TARGET}"))
    }
}

fn rustup(sysroot: &Path) -> Result<(), String> {
    step(&format!("install the target {TARGET} (rustup)"));
    let mut child = Command::new("rustup")
        .args(["target", "add", TARGET])
        .stdin(Stdio::null())
        .spawn()
        .map_err(|error| format!("rustup cannot be started: {error}"))?;
    let deadline = Instant::now() + RUSTUP_DEADLINE;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < deadline => sleep(Duration::from_millis(100)),
            Ok(None) | Err(_) => {
                child.kill().ok();
                child.wait().ok();
                return Err(format!("rustup took longer than {RUSTUP_DEADLINE:?}"));
            }
        }
    };
    if !status.success() {
        return Err(format!("`rustup target add {TARGET}` failed ({status})"));
    }
    installed(sysroot)
}

/// Unpacks Debian's compiler into the cache, unless it is there, and returns its directory.
fn debian(cache: &Path) -> Result<PathBuf, String> {
    let text = |command: &mut Command| output(command).map_err(|failure| failure.to_string());
    // The cache alone is enough: whoever has it needs neither the packages' lists nor the network.
    if let Some(prefix) = cached(cache) {
        return Ok(prefix);
    }
    let architecture = text(Command::new("dpkg").arg("--print-architecture"))?;
    let library = match architecture.trim() {
        "amd64" => "x86_64-linux-gnu",
        "arm64" => "aarch64-linux-gnu",
        other => {
            return Err(format!(
                "Debian's route is not known for the architecture {other}"
            ));
        }
    };
    let mut compiler = describe("rustc-web");
    if compiler.is_err() {
        step("read the lists of packages (apt-get update)");
        let updated = text(Command::new("apt-get").args(["-q", "update"]));
        updated.map_err(|reason| {
            format!("the package rustc-web is not known, and apt-get update failed: {reason}")
        })?;
        compiler = describe("rustc-web");
    }
    let compiler = compiler?;
    // The compiler depends on its library by way of the package for developers, and that one on LLVM.
    let library_package = dependency(&describe("libstd-rust-web-dev")?, "libstd-rust-web-")?;
    let llvm = dependency(&describe(&library_package)?, "libllvm")?;
    let version = field(&compiler, "Version: ")?;
    let packages = [
        format!("rustc-web={version}"),
        format!("{library_package}={version}"),
        format!("libstd-rust-web-dev={version}"),
        llvm,
        format!("rust-web-src={version}"),
        "wasi-libc".to_owned(),
    ];
    let name = format!(
        "{CACHE_PREFIX}{}",
        version.replace(['/', ':', '~', '+'], "-")
    );
    let prefix = cache.join(&name);
    step(&format!(
        "fetch the compiler {version} from Debian's packages, about 170 MB, once"
    ));
    let staging = cache.join(format!("{name}.{}", std::process::id()));
    let unpacked = unpack(&staging, &packages, library);
    if unpacked.is_ok() && !prefix.exists() {
        // Another build may have been faster; either result will do.
        fs::rename(&staging, &prefix).ok();
    }
    fs::remove_dir_all(&staging).ok();
    unpacked?;
    if prefix.join(COMPLETE).exists() {
        Ok(prefix)
    } else {
        Err(format!("{} cannot be made", prefix.display()))
    }
}

/// What the names of the cache's compilers begin with.
const CACHE_PREFIX: &str = "wasm-toolchain-debian-";

/// The file that says that a compiler is whole: it is written last.
const COMPLETE: &str = "rustc";

/// Returns the newest compiler in the cache.
fn cached(cache: &Path) -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(cache)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    found.retain(|path| {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        name.starts_with(CACHE_PREFIX) && path.join(COMPLETE).exists()
    });
    found.sort();
    found.pop()
}

/// Returns what the lists of packages say about one.
fn describe(package: &str) -> Result<String, String> {
    let shown = output(Command::new("apt-cache").args(["show", "--no-all-versions", package]));
    let shown = shown.map_err(|failure| failure.to_string())?;
    if shown.trim().is_empty() {
        Err(format!("the package {package} is not known"))
    } else {
        Ok(shown)
    }
}

/// Returns a field of a package's description.
fn field(description: &str, name: &str) -> Result<String, String> {
    let value = description.lines().find_map(|line| line.strip_prefix(name));
    value
        .map(str::to_owned)
        .ok_or_else(|| format!("the description of a package has no field {name:?}"))
}

/// Returns the package that a description depends on, by the beginning of its name.
fn dependency(description: &str, prefix: &str) -> Result<String, String> {
    let depends = field(description, "Depends: ")?;
    let mut names = depends
        .split(',')
        .map(|part| part.split_whitespace().next().unwrap_or_default());
    let found = names
        .find(|name| name.starts_with(prefix))
        .map(str::to_owned);
    found.ok_or_else(|| format!("no package whose name begins with {prefix} is in {depends:?}"))
}

fn unpack(prefix: &Path, packages: &[String], library: &str) -> Result<(), String> {
    let io = |error: std::io::Error| format!("{}: {error}", prefix.display());
    let downloads = prefix.join("debs");
    fs::create_dir_all(&downloads).map_err(io)?;
    let download = output(
        Command::new("apt-get")
            .args(["-q", "download"])
            .args(packages)
            .current_dir(&downloads),
    );
    download.map_err(|failure| {
        format!("{failure}; if the packages are not known, run `apt-get update` as root")
    })?;
    for entry in fs::read_dir(&downloads).map_err(io)? {
        let archive = entry.map_err(io)?.path();
        output(Command::new("dpkg").arg("-x").arg(&archive).arg(prefix))
            .map_err(|failure| failure.to_string())?;
    }
    fs::remove_dir_all(&downloads).map_err(io)?;
    let wrapper = format!(
        "#!/bin/sh\nprefix=$(CDPATH= cd -- \"$(dirname -- \"$0\")\" && pwd)\n\
         LD_LIBRARY_PATH=\"$prefix/usr/lib/{library}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}\" exec \"$prefix/usr/bin/rustc\" \"$@\"\n"
    );
    let staged = prefix.join("rustc.new");
    fs::write(&staged, wrapper).map_err(io)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&staged, fs::Permissions::from_mode(0o755)).map_err(io)?;
    }
    output(Command::new(&staged).arg("--version")).map_err(|failure| failure.to_string())?;
    fs::rename(&staged, prefix.join(COMPLETE)).map_err(io)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn all_routes_are_tried_in_order_unless_one_is_forced() {
        assert_eq!(Route::choose(None).unwrap(), Route::ALL);
        assert_eq!(Route::choose(Some("")).unwrap(), Route::ALL);
        assert_eq!(Route::choose(Some("debian")).unwrap(), [Route::Debian]);
        let refused = Route::choose(Some("nix")).unwrap_err().to_string();
        assert!(
            refused.contains("\"nix\"") && refused.contains("installed, rustup or debian"),
            "{refused}"
        );
    }

    #[test]
    fn packages_are_found_in_the_descriptions_of_those_that_need_them() {
        let description = "Package: libstd-rust-web-dev\nVersion: 1.96.0+dfsg1-1~deb12u2\n\
                           Depends: libc6 (>= 2.34), libstd-rust-web-1.96 (= 1.96.0+dfsg1-1~deb12u2)\n";
        assert_eq!(
            dependency(description, "libstd-rust-web-").unwrap(),
            "libstd-rust-web-1.96"
        );
        assert_eq!(
            field(description, "Version: ").unwrap(),
            "1.96.0+dfsg1-1~deb12u2"
        );
        assert!(
            dependency(description, "libllvm")
                .unwrap_err()
                .contains("libllvm")
        );
        assert!(dependency("Package: x\n", "libllvm").is_err());
    }

    #[test]
    fn a_compiler_in_the_cache_counts_only_when_it_is_whole() {
        let cache = env::temp_dir().join(format!("metalab-store-xtask-{}", std::process::id()));
        fs::create_dir_all(cache.join("wasm-toolchain-debian-1")).unwrap();
        assert_eq!(cached(&cache), None);
        fs::write(cache.join("wasm-toolchain-debian-1").join(COMPLETE), "").unwrap();
        assert_eq!(cached(&cache), Some(cache.join("wasm-toolchain-debian-1")));
        fs::remove_dir_all(&cache).unwrap();
    }

    #[test]
    fn the_machine_s_target_is_read_from_the_compiler() {
        assert_eq!(
            host("rustc 1.95.0\nhost: x86_64-unknown-linux-gnu\n").unwrap(),
            "x86_64-unknown-linux-gnu"
        );
        assert!(host("rustc 1.95.0\n").is_err());
    }
}
