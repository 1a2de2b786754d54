//! What the component may touch, read from its binary, and what the README says about it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use metalab_store_tests::checkout;
use std::collections::BTreeSet;
use std::fs;
use wit_component::DecodedWasm;

/// The interfaces that the component imports, without versions.
fn imports() -> BTreeSet<String> {
    let DecodedWasm::Component(resolve, world) =
        wit_component::decode(metalab_store::component_bytes()).unwrap()
    else {
        panic!("the binary is not a component");
    };
    let world = &resolve.worlds[world];
    let names = world.imports.keys().map(|key| resolve.name_world_key(key));
    names
        .map(|name| name.split('@').next().unwrap().to_owned())
        .collect()
}

#[test]
fn the_component_imports_the_filesystem_clocks_random_io_and_our_interfaces_alone() {
    let imports = imports();
    let ours = [
        "metalab:store/bulk",
        "metalab:store/postgres",
        "metalab:store/roots",
    ];
    let granted = [
        "wasi:filesystem/",
        "wasi:clocks/",
        "wasi:random/",
        "wasi:io/",
    ];
    // What the standard library's runtime cannot avoid: it is given no arguments, no environment, no input.
    let runtime = ["wasi:cli/"];
    for import in &imports {
        let known = ours.contains(&import.as_str())
            || granted
                .iter()
                .chain(&runtime)
                .any(|prefix| import.starts_with(prefix));
        assert!(known, "{import}");
    }
    // `postgres` is imported as soon as the component uses it.
    assert!(imports.contains("metalab:store/roots"));
    for forbidden in ["wasi:sockets", "wasi:http"] {
        assert!(
            !imports.iter().any(|import| import.starts_with(forbidden)),
            "{forbidden}"
        );
    }
}

#[test]
fn the_readme_lists_exactly_what_the_component_imports() {
    let readme = fs::read_to_string(checkout().join("README.md")).unwrap();
    let listed: BTreeSet<String> = readme
        .lines()
        .filter_map(|line| line.strip_prefix("- `"))
        .filter_map(|line| line.split('`').next())
        .filter(|name| name.starts_with("wasi:") || name.starts_with("metalab:"))
        .map(str::to_owned)
        .collect();
    let imports = imports();
    assert_eq!(
        imports.difference(&listed).collect::<Vec<_>>(),
        Vec::<&String>::new(),
        "not listed"
    );
    // Some versions of the standard library do without these.
    let optional = ["wasi:cli/terminal-", "wasi:io/poll"];
    let missing: Vec<&String> = listed
        .difference(&imports)
        .filter(|name| !optional.iter().any(|prefix| name.starts_with(prefix)))
        .collect();
    assert_eq!(missing, Vec::<&String>::new(), "listed and not imported");
}

#[test]
fn the_readme_shows_the_example_that_is_compiled() {
    let readme = fs::read_to_string(checkout().join("README.md")).unwrap();
    let example = fs::read_to_string(checkout().join("examples/src/bin/embed.rs")).unwrap();
    let body = example.split("// [example]\n").nth(1).unwrap();
    assert!(
        readme.contains(&format!("```rust\n{body}```")),
        "the README's example differs from examples/src/bin/embed.rs"
    );
}

#[test]
fn every_item_of_the_contract_is_documented() {
    let mut resolve = wit_parser::Resolve::default();
    let (package, _) = resolve.push_dir(checkout().join("wit")).unwrap();
    for (name, interface) in &resolve.packages[package].interfaces {
        let interface = &resolve.interfaces[*interface];
        assert!(interface.docs.contents.is_some(), "{name}");
        for (function, item) in &interface.functions {
            assert!(item.docs.contents.is_some(), "{name} {function}");
        }
        for (type_name, item) in &interface.types {
            let used = matches!(
                resolve.types[*item].kind,
                wit_parser::TypeDefKind::Type(wit_parser::Type::Id(_))
            );
            assert!(
                used || resolve.types[*item].docs.contents.is_some(),
                "{name} {type_name}"
            );
        }
    }
}
