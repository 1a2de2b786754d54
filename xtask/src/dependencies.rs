//! What `deny.toml` asks of the dependencies, and the list of them.

use crate::paths::Paths;
use crate::process::{Failure, cargo, output, run};
use crate::step;
use std::fs;

/// What cargo-deny says if the list of known weaknesses cannot be fetched.
const UNREACHABLE: &str = "failed to fetch advisory database";

/// Checks licences, duplicates and sources; and known weaknesses, if their list can be reached. Says what was not checked.
pub(crate) fn check(paths: &Paths) -> Result<(), Failure> {
    step("check the dependencies");
    if output(cargo(paths).args(["deny", "--version"])).is_err() {
        println!("the dependencies were not checked: run `cargo install cargo-deny --locked` once");
        return Ok(());
    }
    // It reads the packages of all platforms, and a build fetched those of this one.
    run(cargo(paths).args(["fetch", "--locked"]))?;
    run(cargo(paths).args(["deny", "--offline", "check", "licenses", "bans", "sources"]))?;
    match output(cargo(paths).args(["deny", "check", "advisories"])) {
        Err(failure) if failure.to_string().contains(UNREACHABLE) => {
            println!(
                "known weaknesses were not looked for: their list cannot be fetched from here"
            );
            Ok(())
        }
        checked => checked.map(drop),
    }
}

/// What has a list of its own: its name, where it is, and the platform that it is built for, if not this one.
const LISTED: [(&str, &str, Option<&str>); 2] = [
    ("component", "guest", Some("wasm32-wasip2")),
    ("metalab-store", "host/rust", None),
];

/// Writes the lists of what the component and the Rust host are made of (CycloneDX): `target/sbom`.
pub(crate) fn list(paths: &Paths) -> Result<(), Failure> {
    if output(cargo(paths).args(["cyclonedx", "--version"])).is_err() {
        return Err(Failure::new(
            "the list is written by cargo-cyclonedx: run `cargo install cargo-cyclonedx --locked` once".to_owned(),
        ));
    }
    let lists = paths.target.join("sbom");
    let failed = |error: std::io::Error| Failure::new(format!("{}: {error}", lists.display()));
    fs::create_dir_all(&lists).map_err(failed)?;
    // It writes one beside the manifest of each member of the workspace, whichever is asked for: under a name that nothing has.
    let name = format!("sbom-{}", std::process::id());
    for (what, place, target) in LISTED {
        let manifest = format!("{place}/Cargo.toml");
        let mut command = cargo(paths);
        command.args([
            "cyclonedx",
            "--format",
            "json",
            "--override-filename",
            &name,
        ]);
        command.args(["--manifest-path", &manifest]);
        if let Some(target) = target {
            command.args(["--target", target]);
        }
        let written = run(&mut command);
        let file = format!("{name}.json");
        let to = lists.join(format!("{what}.json"));
        let copied = written.and_then(|()| {
            let copied = fs::copy(paths.root.join(place).join(&file), &to);
            copied.map(drop).map_err(failed)
        });
        let members =
            output(cargo(paths).args(["metadata", "--no-deps", "--format-version", "1"]))?;
        for manifest in manifests(&members) {
            drop(fs::remove_file(
                std::path::Path::new(&manifest).with_file_name(&file),
            ));
        }
        copied?;
        println!("{}", to.display());
    }
    Ok(())
}

/// Returns the paths of all manifests in what cargo tells of the workspace.
fn manifests(metadata: &str) -> Vec<String> {
    let paths = metadata.split("\"manifest_path\":\"").skip(1);
    paths
        .filter_map(|rest| rest.split('"').next())
        .map(str::to_owned)
        .collect()
}
