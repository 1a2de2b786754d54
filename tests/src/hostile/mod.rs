//! Components that stand in the place of the store and mean harm: a core module in the text format, of which a test
//! says what some functions do. All others trap.
//!
//! Only what a module uses is imported. Its memory: below 64 KiB are places for arguments and answers, above is what
//! `cabi_realloc` gives out. The functions `$text`, `$report` and `$answer` save tests the bytes of the canonical ABI.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use wit_component::{ComponentEncoder, StringEncoding};
use wit_parser::abi::{AbiVariant, WasmType};
use wit_parser::{Function, FunctionKind, Resolve, TypeDefKind, WorldItem};

/// What components import of WASI.
const WASI: &str = include_str!("wasi.wit");

/// How a component reports that something happened that never should.
pub const ESCAPED: &str = "63";

/// A component that is being made.
#[derive(Default)]
pub struct Guest {
    exports: BTreeMap<String, String>,
    items: String,
    pages: u32,
}

impl Guest {
    /// Begins one that traps whatever it is asked.
    #[must_use]
    pub fn new() -> Self {
        Self {
            pages: 64,
            ..Self::default()
        }
        // No subdirectory, no options: what was asked for is granted as it is.
        .does("config#resolve", "(i32.const 1024)")
        .does("store#[static]store.open", "(call $opened)")
    }

    /// Says what an exported function does, as instructions that leave its result.
    #[must_use]
    pub fn does(mut self, export: &str, instructions: &str) -> Self {
        self.exports
            .insert(export.to_owned(), instructions.to_owned());
        self
    }

    /// Makes opening a store the attack: it can do all that the component may do.
    #[must_use]
    pub fn attacks(self, instructions: &str) -> Self {
        self.does("store#[static]store.open", instructions)
    }

    /// Adds items to the module.
    #[must_use]
    pub fn with(mut self, items: &str) -> Self {
        self.items.push_str(items);
        self
    }

    /// Says how many pages of memory it begins with.
    #[must_use]
    pub fn pages(mut self, pages: u32) -> Self {
        self.pages = pages;
        self
    }

    /// Makes the component.
    #[must_use]
    pub fn component(&self) -> Vec<u8> {
        let mut resolve = Resolve::default();
        resolve.push_dir(crate::checkout().join("wit")).unwrap();
        let package = resolve.push_str("wasi.wit", WASI).unwrap();
        let world = resolve
            .select_world(&[package], Some("metalab:hostile/guest"))
            .unwrap();
        let text = self.module(&resolve, world);
        let mut module = wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}"));
        wit_component::embed_component_metadata(
            &mut module,
            &resolve,
            world,
            StringEncoding::UTF8,
            false,
        )
        .unwrap();
        ComponentEncoder::default()
            .module(&module)
            .unwrap()
            .validate(true)
            .encode()
            .unwrap_or_else(|error| panic!("{error:?}"))
    }

    fn module(&self, resolve: &Resolve, world: wit_parser::WorldId) -> String {
        let world = &resolve.worlds[world];
        let mut exports = String::new();
        for (key, item) in &world.exports {
            let WorldItem::Interface { id, .. } = item else {
                continue;
            };
            let interface = resolve.name_world_key(key);
            let short = resolve.interfaces[*id].name.as_deref().unwrap();
            for (name, function) in &resolve.interfaces[*id].functions {
                let body = self.exports.get(&format!("{short}#{name}"));
                let body = body.map_or("unreachable", String::as_str);
                let signature = signature(resolve, AbiVariant::GuestExport, function);
                writeln!(
                    exports,
                    "(func (export \"{interface}#{name}\") {signature} {body})"
                )
                .unwrap();
            }
            for (name, ty) in &resolve.interfaces[*id].types {
                if let Some(body) = self.exports.get(&format!("{short}#[dtor]{name}"))
                    && matches!(resolve.types[*ty].kind, TypeDefKind::Resource)
                {
                    writeln!(
                        exports,
                        "(func (export \"{interface}#[dtor]{name}\") (param i32) {body})"
                    )
                    .unwrap();
                }
            }
        }
        let used = format!("{exports}{}{PRELUDE}", self.items);
        let mut imports = String::new();
        for (key, item) in &world.imports {
            let WorldItem::Interface { id, .. } = item else {
                continue;
            };
            let interface = resolve.name_world_key(key);
            for (name, function) in &resolve.interfaces[*id].functions {
                let short = match function.kind {
                    FunctionKind::Freestanding => name.as_str(),
                    _ => name.split(']').next_back().unwrap(),
                };
                if used.contains(&format!("$import:{short})"))
                    || used.contains(&format!("$import:{short} "))
                {
                    let signature = signature(resolve, AbiVariant::GuestImport, function);
                    writeln!(
                        imports,
                        "(import \"{interface}\" \"{name}\" (func $import:{short} {signature}))"
                    )
                    .unwrap();
                }
            }
            for (name, ty) in &resolve.interfaces[*id].types {
                if matches!(resolve.types[*ty].kind, TypeDefKind::Resource)
                    && used.contains(&format!("$drop:{name} "))
                {
                    writeln!(
                        imports,
                        "(import \"{interface}\" \"[resource-drop]{name}\" (func $drop:{name} (param i32)))"
                    )
                    .unwrap();
                }
            }
        }
        format!(
            "(module\n{imports}(import \"[export]metalab:store/store@0.1.0\" \"[resource-new]store\" (func $new (param i32) (result i32)))\n\
             (memory (export \"memory\") {})\n{PRELUDE}\n{}\n{exports})",
            self.pages, self.items
        )
    }
}

/// What every module has.
const PRELUDE: &str = r#"
(global $top (mut i32) (i32.const 65536))
;; What is wrong with `$realloc`: 1 an endless loop, 2 a place beyond the memory, 3 an odd place, 4 it calls itself.
(global $evil (mut i32) (i32.const 0))
;; Gives memory out, and takes none back.
(func $realloc (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
  (local $at i32)
  (if (i32.eq (global.get $evil) (i32.const 1)) (then (loop $forever (br $forever))))
  (if (i32.eq (global.get $evil) (i32.const 2)) (then (return (i32.const -16))))
  (if (i32.eq (global.get $evil) (i32.const 3)) (then (return (i32.const 65537))))
  (if (i32.eq (global.get $evil) (i32.const 4))
    (then (return (call $realloc (local.get 0) (local.get 1) (local.get 2) (local.get 3)))))
  (local.set $at (i32.and (i32.add (global.get $top) (i32.const 15)) (i32.const -16)))
  (global.set $top (i32.add (local.get $at) (local.get 3)))
  (block $fits
    (br_if $fits (i32.le_u (global.get $top) (i32.mul (memory.size) (i32.const 65536))))
    (drop (memory.grow (i32.const 4096))))
  (local.get $at))
;; A store was opened: a handle of it, as the answer of `open`.
(func $opened (result i32)
  (local $handle i32)
  (local.set $handle (call $new (i32.const 7)))
  (i32.store (i32.const 2052) (local.get $handle))
  (i32.store (i32.const 2056) (local.get $handle))
  (i32.const 2048))
;; The answer `invalid-argument` with a text.
(func $answer (param $at i32) (param $length i32) (result i32)
  (i32.store8 (i32.const 4096) (i32.const 1))
  (i32.store8 (i32.const 4104) (i32.const 1))
  (i32.store (i32.const 4112) (local.get $at))
  (i32.store (i32.const 4116) (local.get $length))
  (i32.const 4096))
(data (i32.const 4200) "0123456789abcdef")
;; The answer `invalid-argument` with a number, in two hexadecimal digits.
(func $report (param $code i32) (result i32)
  (i32.store8 (i32.const 4220) (i32.load8_u offset=4200 (i32.and (i32.shr_u (local.get $code) (i32.const 4)) (i32.const 15))))
  (i32.store8 (i32.const 4221) (i32.load8_u offset=4200 (i32.and (local.get $code) (i32.const 15))))
  (call $answer (i32.const 4220) (i32.const 2)))
;; Reports the error of a result at an address, or that there is none.
(func $outcome (param $at i32) (param $error i32) (result i32)
  (if (result i32) (i32.load8_u (local.get $at))
    (then (call $report (i32.load8_u (local.get $error))))
    (else (call $report (i32.const 0x63)))))
"#;

/// A function that finds the granted directory.
pub const PREOPEN: &str = r#"
(func $preopen (result i32)
  (call $import:get-directories (i32.const 5000))
  (i32.load (i32.load (i32.const 5000))))
"#;

fn signature(resolve: &Resolve, variant: AbiVariant, function: &Function) -> String {
    let signature = resolve.wasm_signature(variant, function);
    let list = |types: &[WasmType]| -> String {
        let names = types.iter().map(|ty| match ty {
            WasmType::I64 | WasmType::PointerOrI64 => " i64",
            WasmType::F32 => " f32",
            WasmType::F64 => " f64",
            WasmType::I32 | WasmType::Pointer | WasmType::Length => " i32",
        });
        names.collect()
    };
    let mut text = format!("(param{})", list(&signature.params));
    if !signature.results.is_empty() {
        write!(text, " (result{})", list(&signature.results)).unwrap();
    }
    text
}
