//! The component for a runtime that knows nothing of this store: with WASI alone.
//!
//! What the component imports besides WASI is answered within it, by a second component that says "no" to every call:
//! there is no lock, no database, and no way past WASI. It is made from the interfaces that the component imports; each
//! function returns a constant. A store that is only read needs no more.

use crate::process::Failure;
use std::convert::Infallible;
use wasm_encoder::reencode::{self, Reencode, ReencodeComponent};
use wasm_encoder::{
    Alias, CodeSection, Component, ComponentAliasSection, ComponentExportKind,
    ComponentImportSection, ComponentInstanceSection, ComponentSectionId, ConstExpr, DataSection,
    ExportKind, ExportSection, Function, FunctionSection, GlobalSection, GlobalType, Instruction,
    MemorySection, MemoryType, Module, RawSection, TypeSection, ValType,
};
use wasmparser::{Parser, Payload};
use wit_component::{ComponentEncoder, DecodedWasm, StringEncoding};
use wit_parser::abi::{AbiVariant, WasmType};
use wit_parser::{
    Int, LiftLowerAbi, ManglingAndAbi, Resolve, SizeAlign, Type, TypeDefKind, WasmExport,
    WasmExportKind, WorldId, WorldItem,
};

/// What is not WASI's.
const OURS: &str = "metalab:store/";

/// The cases that are a "no". Where a type has none of them it is the first.
const NO: [&str; 2] = ["read-only", "not-granted"];

/// Why.
const REASON: &str = "the component was linked with WASI alone: a store can only be read";

/// Where the constants begin: no pointer to one is null.
const CONSTANTS: u32 = 16;

/// Links a component with answers to what it imports besides WASI.
pub(crate) fn alone(component: &[u8]) -> Result<Vec<u8>, Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::new(format!(
            "the component cannot be linked with WASI alone: {error:#}"
        ))
    };
    let answers = answers(component).map_err(|error| failed(&error))?;
    let mut linked = Component::new();
    let mut linker = Linker { depth: 0, answers };
    linker
        .parse_component(&mut linked, Parser::new(0), component)
        .map_err(|error| failed(&error))?;
    let linked = linked.finish();
    wasmparser::Validator::new()
        .validate_all(&linked)
        .map_err(|error| failed(&error))?;
    Ok(linked)
}

type Made<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Makes the component that answers.
fn answers(component: &[u8]) -> Made<Vec<u8>> {
    let DecodedWasm::Component(mut resolve, world) = wit_component::decode(component)? else {
        return Err("it is no component".into());
    };
    let imported = resolve.worlds[world].imports.keys();
    let exports: String = imported
        .map(|key| resolve.name_world_key(key))
        .filter(|name| name.starts_with(OURS))
        .map(|name| format!("export {name};\n"))
        .collect();
    let text = format!("package local:alone;\nworld answers {{\n{exports}}}\n");
    let package = resolve.push_str("answers.wit", &text)?;
    let world = resolve.select_world(&[package], Some("answers"))?;
    let mut module = Answers::new(&resolve)?.module(world);
    wit_component::embed_component_metadata(
        &mut module,
        &resolve,
        world,
        StringEncoding::UTF8,
        false,
    )?;
    let mut encoder = ComponentEncoder::default();
    encoder.validate(true);
    Ok(encoder.module(&module)?.encode()?)
}

/// Makes a core module whose functions return constants.
struct Answers<'a> {
    resolve: &'a Resolve,
    sizes: SizeAlign,
    /// What lies in the memory from `CONSTANTS` on.
    constants: Vec<u8>,
}

impl<'a> Answers<'a> {
    fn new(resolve: &'a Resolve) -> Made<Self> {
        let mut sizes = SizeAlign::default();
        sizes.fill(resolve)?;
        let constants = Vec::new();
        Ok(Self {
            resolve,
            sizes,
            constants,
        })
    }

    fn module(mut self, world: WorldId) -> Vec<u8> {
        let abi = ManglingAndAbi::Legacy(LiftLowerAbi::Sync);
        let mut types = TypeSection::new();
        let mut functions = FunctionSection::new();
        let mut exports = ExportSection::new();
        let mut code = CodeSection::new();
        for (key, item) in &self.resolve.worlds[world].exports {
            let WorldItem::Interface { id, .. } = item else {
                continue;
            };
            for func in self.resolve.interfaces[*id].functions.values() {
                let signature = self.resolve.wasm_signature(AbiVariant::GuestExport, func);
                let export = WasmExport::Func {
                    interface: Some(key),
                    func,
                    kind: WasmExportKind::Normal,
                };
                exports.export(
                    &self.resolve.wasm_export_name(abi, export),
                    ExportKind::Func,
                    functions.len(),
                );
                functions.function(types.len());
                let (parameters, results) = (&signature.params, &signature.results);
                types.ty().function(flat(parameters), flat(results));
                let answer = func.result.filter(|_| signature.retptr);
                code.function(&body(answer.map(|ty| self.constant(&ty)), results));
            }
        }
        exports.export("cabi_realloc", ExportKind::Func, functions.len());
        functions.function(types.len());
        types.ty().function([ValType::I32; 4], [ValType::I32]);
        code.function(&allocate());
        exports.export("memory", ExportKind::Memory, 0);

        let end = CONSTANTS + u32::try_from(self.constants.len()).unwrap_or(u32::MAX);
        let mut module = Module::new();
        module
            .section(&types)
            .section(&functions)
            .section(&memory(end));
        module
            .section(&globals(end))
            .section(&exports)
            .section(&code);
        let mut data = DataSection::new();
        data.active(
            0,
            &ConstExpr::i32_const(CONSTANTS.cast_signed()),
            self.constants,
        );
        module.section(&data);
        module.finish()
    }

    /// Lays a "no" down, and returns where it is.
    fn constant(&mut self, ty: &Type) -> u32 {
        let align = self.sizes.align(ty).align_wasm32();
        let offset = self.constants.len().next_multiple_of(align.max(1));
        self.constants
            .resize(offset + self.sizes.size(ty).size_wasm32(), 0);
        self.refuse(ty, offset);
        CONSTANTS + u32::try_from(offset).unwrap_or(u32::MAX)
    }

    /// Writes a "no" in place of zeros, which are a number, an empty text, none and the first case.
    fn refuse(&mut self, ty: &Type, offset: usize) {
        let resolve = self.resolve;
        let id = match ty {
            Type::Id(id) => *id,
            Type::String => return self.text(offset, REASON),
            _ => return,
        };
        match &resolve.types[id].kind {
            TypeDefKind::Type(inner) => self.refuse(inner, offset),
            TypeDefKind::Result(result) => {
                self.constants[offset] = 1;
                let cases = [result.ok.as_ref(), result.err.as_ref()];
                let payload = self.sizes.payload_offset(Int::U8, cases);
                if let Some(error) = &result.err {
                    self.refuse(error, offset + payload.size_wasm32());
                }
            }
            TypeDefKind::Enum(kinds) => {
                self.constants[offset] = chosen(kinds.cases.iter().map(|case| case.name.as_str()));
            }
            TypeDefKind::Variant(variant) => {
                // The cases that are a "no" hold nothing; another one holds zeros.
                self.constants[offset] =
                    chosen(variant.cases.iter().map(|case| case.name.as_str()));
            }
            TypeDefKind::Record(record) => {
                let fields = self
                    .sizes
                    .field_offsets(record.fields.iter().map(|field| &field.ty));
                let offsets: Vec<usize> = fields.iter().map(|(at, _)| at.size_wasm32()).collect();
                for (field, at) in record.fields.iter().zip(offsets) {
                    // Other texts of a record are names, and stay empty.
                    if field.ty != Type::String || field.name == "message" {
                        self.refuse(&field.ty, offset + at);
                    }
                }
            }
            _ => {}
        }
    }

    /// Writes a text, which lies behind all that is there.
    fn text(&mut self, offset: usize, text: &str) {
        let start = CONSTANTS + u32::try_from(self.constants.len()).unwrap_or(u32::MAX);
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
        self.constants[offset..offset + 4].copy_from_slice(&start.to_le_bytes());
        self.constants[offset + 4..offset + 8].copy_from_slice(&length.to_le_bytes());
        self.constants.extend_from_slice(text.as_bytes());
    }
}

/// Returns the number of the case that is a "no".
fn chosen<'a>(cases: impl Iterator<Item = &'a str>) -> u8 {
    let found = cases.zip(0..).find(|(name, _)| NO.contains(name));
    found.map_or(0, |(_, number)| number)
}

fn flat(types: &[WasmType]) -> Vec<ValType> {
    let flat = types.iter().map(|ty| match ty {
        WasmType::I64 | WasmType::PointerOrI64 => ValType::I64,
        WasmType::F32 => ValType::F32,
        WasmType::F64 => ValType::F64,
        WasmType::I32 | WasmType::Pointer | WasmType::Length => ValType::I32,
    });
    flat.collect()
}

/// Forgets the arguments, and returns where the answer is, or zero.
fn body(answer: Option<u32>, results: &[WasmType]) -> Function {
    let mut body = Function::new([]);
    body.instruction(&Instruction::GlobalGet(BOTTOM));
    body.instruction(&Instruction::GlobalSet(TOP));
    for result in flat(results) {
        body.instruction(&match result {
            ValType::I64 => Instruction::I64Const(0),
            ValType::F32 => Instruction::F32Const(0.0.into()),
            ValType::F64 => Instruction::F64Const(0.0.into()),
            _ => Instruction::I32Const(answer.unwrap_or_default().cast_signed()),
        });
    }
    body.instruction(&Instruction::End);
    body
}

/// Where arguments begin, and where the next one goes.
const BOTTOM: u32 = 0;
const TOP: u32 = 1;

fn globals(end: u32) -> GlobalSection {
    let mut globals = GlobalSection::new();
    for mutable in [false, true] {
        let ty = GlobalType {
            val_type: ValType::I32,
            mutable,
            shared: false,
        };
        globals.global(
            ty,
            &ConstExpr::i32_const(end.next_multiple_of(16).cast_signed()),
        );
    }
    globals
}

fn memory(end: u32) -> MemorySection {
    let mut memories = MemorySection::new();
    memories.memory(MemoryType {
        minimum: u64::from(end).div_ceil(PAGE),
        maximum: None,
        memory64: false,
        shared: false,
        page_size_log2: None,
    });
    memories
}

const PAGE: u64 = 1 << 16;

/// Makes room for an argument: aligned to 16, behind the others.
fn allocate() -> Function {
    use Instruction::{
        Block, BrIf, Drop, End, GlobalGet, GlobalSet, I32Add, I32And, I32Const, I32LeU, I32ShrU,
        I32Sub, LocalGet, LocalTee, MemoryGrow, MemorySize,
    };
    let (size, start, pages) = (3, 4, 5);
    let mut function = Function::new([(2, ValType::I32)]);
    for instruction in [
        GlobalGet(TOP),
        LocalTee(start),
        LocalGet(size),
        I32Add,
        I32Const(15),
        I32Add,
        I32Const(-16),
        I32And,
        GlobalSet(TOP),
        Block(wasm_encoder::BlockType::Empty),
        // The pages that are wanted; as many as there are may be enough.
        GlobalGet(TOP),
        I32Const(16),
        I32ShrU,
        I32Const(1),
        I32Add,
        LocalTee(pages),
        MemorySize(0),
        I32LeU,
        BrIf(0),
        LocalGet(pages),
        MemorySize(0),
        I32Sub,
        MemoryGrow(0),
        // Without room the argument lies beyond the memory, and that is a trap.
        Drop,
        End,
        LocalGet(start),
        End,
    ] {
        function.instruction(&instruction);
    }
    function
}

/// Puts the component that answers before everything else, and what it exports in the place of imports.
struct Linker {
    depth: u32,
    answers: Vec<u8>,
}

impl Linker {
    /// Components and instances are numbered one higher: the first is the one that answers.
    fn shifted(&self, index: u32) -> u32 {
        index + u32::from(self.depth == 0)
    }
}

impl Reencode for Linker {
    type Error = Infallible;
}

impl ReencodeComponent for Linker {
    fn push_depth(&mut self) {
        self.depth += 1;
    }

    fn pop_depth(&mut self) {
        self.depth -= 1;
    }

    fn component_index(&mut self, index: u32) -> u32 {
        self.shifted(index)
    }

    fn component_instance_index(&mut self, index: u32) -> u32 {
        self.shifted(index)
    }

    fn parse_component_payload(
        &mut self,
        component: &mut Component,
        payload: Payload<'_>,
        whole: &[u8],
    ) -> Result<(), reencode::Error> {
        if self.depth > 0 {
            return reencode::component_utils::parse_component_payload(
                self, component, payload, whole,
            );
        }
        match payload {
            Payload::Version { .. } => {
                component.section(&RawSection {
                    id: ComponentSectionId::Component.into(),
                    data: &self.answers,
                });
                let mut instances = ComponentInstanceSection::new();
                instances.instantiate::<_, &str>(0, []);
                component.section(&instances);
                Ok(())
            }
            Payload::ComponentImportSection(section) => {
                for import in section {
                    let import = import?;
                    if import.name.name.starts_with(OURS) {
                        let mut aliases = ComponentAliasSection::new();
                        aliases.alias(Alias::InstanceExport {
                            instance: 0,
                            kind: ComponentExportKind::Instance,
                            name: import.name.name,
                        });
                        component.section(&aliases);
                    } else {
                        let mut imports = ComponentImportSection::new();
                        imports.import(import.name, self.component_type_ref(import.ty)?);
                        component.section(&imports);
                    }
                }
                Ok(())
            }
            other => {
                reencode::component_utils::parse_component_payload(self, component, other, whole)
            }
        }
    }
}
