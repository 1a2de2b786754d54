//! Making a component of a core module that wants nothing of WASI.
//!
//! The standard library of the target wasm32-wasip2 imports WASI for what a plugin never does: files, the environment,
//! output. The world of a plugin has none of it, and no host links it. So what is imported from WASI is replaced by
//! functions in the module that trap, before the module becomes a component. The one exception is the random number
//! that each hash map begins with: it is drawn as a constant, so that a plugin's answer is always the same.

use crate::process::Failure;
use wasm_encoder::reencode::{self, Reencode};
use wasm_encoder::{
    CodeSection, Function, FunctionSection, ImportSection, Instruction, MemArg, MemArgTarget,
};
use wasmparser::{Parser, Payload, TypeRef};

/// Where the standard library's imports come from: from WASI, or by way of the older one from an adapter.
const REPLACED: [&str; 2] = ["wasi:", "wasi_snapshot_preview1"];

/// What `wasi:random/insecure-seed` answers: a hash map needs no secret where the only input is a store.
const SEED: [i64; 2] = [0x6d65_7461_6c61_6231, 0x6d65_7461_6c61_6232];

/// Makes a component of a core module that was linked with `--skip-wit-component`.
pub(crate) fn seal(module: &[u8]) -> Result<Vec<u8>, Failure> {
    let sealed = replace(module)?;
    let mut encoder = wit_component::ComponentEncoder::default();
    encoder.validate(true);
    encoder
        .module(&sealed)
        .and_then(|encoder| encoder.encode())
        .map_err(|error| Failure::new(format!("{error:#}")))
}

/// Replaces the imports of WASI in a core module.
fn replace(module: &[u8]) -> Result<Vec<u8>, Failure> {
    let mut sealer = Sealer::look_at(module).map_err(|error| failure(&error))?;
    let mut sealed = wasm_encoder::Module::new();
    sealer
        .parse_core_module(&mut sealed, Parser::new(0), module)
        .map_err(|error| failure(&error))?;
    Ok(sealed.finish())
}

fn failure(error: &dyn std::fmt::Display) -> Failure {
    Failure::new(format!("the module cannot be read: {error}"))
}

/// A function that takes the place of an import.
struct Stub {
    signature: u32,
    parameters: usize,
    is_seed: bool,
}

/// Replaces imports. Functions are numbered anew: those that stay imported, the module's own, the replaced ones.
struct Sealer {
    /// What becomes of each imported function: its number, or which of the stubs it is.
    imported: Vec<Result<u32, usize>>,
    stubs: Vec<Stub>,
    defined: u32,
}

impl Sealer {
    fn look_at(module: &[u8]) -> Result<Self, wasmparser::BinaryReaderError> {
        let mut sealer = Self {
            imported: Vec::new(),
            stubs: Vec::new(),
            defined: 0,
        };
        let mut parameters = Vec::new();
        let mut kept = 0;
        for payload in Parser::new(0).parse_all(module) {
            match payload? {
                Payload::TypeSection(types) => {
                    for group in types {
                        for subtype in group?.types() {
                            parameters.push(match &subtype.composite_type.inner {
                                wasmparser::CompositeInnerType::Func(func) => func.params().len(),
                                _ => 0,
                            });
                        }
                    }
                }
                Payload::ImportSection(imports) => {
                    for import in imports.into_imports() {
                        let import = import?;
                        let TypeRef::Func(signature) = import.ty else {
                            continue;
                        };
                        if REPLACED
                            .iter()
                            .any(|start| import.module.starts_with(start))
                        {
                            sealer.imported.push(Err(sealer.stubs.len()));
                            sealer.stubs.push(Stub {
                                signature,
                                parameters: parameters[signature as usize],
                                is_seed: import.module.starts_with("wasi:random/insecure-seed"),
                            });
                        } else {
                            sealer.imported.push(Ok(kept));
                            kept += 1;
                        }
                    }
                }
                Payload::FunctionSection(functions) => sealer.defined = functions.count(),
                _ => {}
            }
        }
        Ok(sealer)
    }

    fn removed(&self) -> u32 {
        u32::try_from(self.stubs.len()).unwrap_or(u32::MAX)
    }

    fn all_imported(&self) -> u32 {
        u32::try_from(self.imported.len()).unwrap_or(u32::MAX)
    }
}

type Outcome<T = ()> = Result<T, reencode::Error>;

impl Reencode for Sealer {
    type Error = std::convert::Infallible;

    fn function_index(&mut self, function: u32) -> Outcome<u32> {
        Ok(match self.imported.get(function as usize) {
            Some(Ok(number)) => *number,
            Some(Err(stub)) => {
                let stub = u32::try_from(*stub).unwrap_or(u32::MAX);
                self.all_imported() - self.removed() + self.defined + stub
            }
            None => function - self.removed(),
        })
    }

    fn parse_import_section(
        &mut self,
        imports: &mut ImportSection,
        section: wasmparser::ImportSectionReader<'_>,
    ) -> Outcome {
        for import in section.into_imports() {
            let import = import?;
            let replaced = REPLACED
                .iter()
                .any(|start| import.module.starts_with(start));
            if !(replaced && matches!(import.ty, TypeRef::Func(_))) {
                reencode::utils::parse_import(self, imports, import)?;
            }
        }
        Ok(())
    }

    fn parse_function_section(
        &mut self,
        functions: &mut FunctionSection,
        section: wasmparser::FunctionSectionReader<'_>,
    ) -> Outcome {
        reencode::utils::parse_function_section(self, functions, section)?;
        for index in 0..self.stubs.len() {
            let signature = self.type_index(self.stubs[index].signature)?;
            functions.function(signature);
        }
        Ok(())
    }

    fn parse_code_section(
        &mut self,
        code: &mut CodeSection,
        section: wasmparser::CodeSectionReader<'_>,
    ) -> Outcome {
        reencode::utils::parse_code_section(self, code, section)?;
        for stub in &self.stubs {
            let mut body = Function::new([]);
            if stub.is_seed && stub.parameters == 1 {
                for (value, offset) in SEED.into_iter().zip([0, 8]) {
                    body.instruction(&Instruction::LocalGet(0));
                    body.instruction(&Instruction::I64Const(value));
                    body.instruction(&Instruction::I64Store(MemArg {
                        offset,
                        align: 3,
                        target: MemArgTarget::default(),
                        ordering: None,
                    }));
                }
            } else {
                body.instruction(&Instruction::Unreachable);
            }
            body.instruction(&Instruction::End);
            code.function(&body);
        }
        Ok(())
    }

    fn parse_custom_section(
        &mut self,
        module: &mut wasm_encoder::Module,
        section: wasmparser::CustomSectionReader<'_>,
    ) -> Outcome {
        // The names of functions are by number.
        if section.name() != "name" {
            reencode::utils::parse_custom_section(self, module, section)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use wasm_encoder::{
        EntityType, ExportKind, ExportSection, MemorySection, MemoryType, Module, TypeSection,
        ValType,
    };
    use wasmparser::Operator;

    /// Makes a module that calls what it imports, WASI's and others, and a function of its own.
    fn module() -> Vec<u8> {
        let mut types = TypeSection::new();
        types.ty().function([ValType::I32], []);
        let mut imports = ImportSection::new();
        for (module, name) in [
            ("wasi:cli/stderr@0.2.6", "get-stderr"),
            ("metalab:store/view@0.1.0", "list-runs"),
            ("wasi:random/insecure-seed@0.2.6", "insecure-seed"),
        ] {
            imports.import(module, name, EntityType::Function(0));
        }
        let mut functions = FunctionSection::new();
        functions.function(0).function(0);
        let mut memories = MemorySection::new();
        memories.memory(MemoryType {
            minimum: 1,
            maximum: None,
            memory64: false,
            shared: false,
            page_size_log2: None,
        });
        let mut exports = ExportSection::new();
        exports.export("run", ExportKind::Func, 4);
        let mut code = CodeSection::new();
        let mut own = Function::new([]);
        own.instruction(&Instruction::End);
        code.function(&own);
        let mut run = Function::new([]);
        for function in 0..4 {
            run.instruction(&Instruction::I32Const(8));
            run.instruction(&Instruction::Call(function));
        }
        run.instruction(&Instruction::End);
        code.function(&run);
        let mut module = Module::new();
        module.section(&types).section(&imports).section(&functions);
        module.section(&memories).section(&exports).section(&code);
        module.finish()
    }

    #[test]
    fn what_is_imported_of_wasi_is_replaced_and_calls_find_what_they_called_before() {
        let sealed = replace(&module()).unwrap();
        wasmparser::validate(&sealed).unwrap();
        let (mut imported, mut bodies, mut exported) = (Vec::new(), Vec::new(), None);
        for payload in Parser::new(0).parse_all(&sealed) {
            match payload.unwrap() {
                Payload::ImportSection(imports) => {
                    let names = imports.into_imports().map(|import| import.unwrap().name);
                    imported.extend(names.map(str::to_owned));
                }
                Payload::ExportSection(exports) => {
                    exported = exports
                        .into_iter()
                        .next()
                        .map(|export| export.unwrap().index);
                }
                Payload::CodeSectionEntry(body) => {
                    let operators = body.get_operators_reader().unwrap();
                    bodies.push(
                        operators
                            .into_iter()
                            .map(Result::unwrap)
                            .collect::<Vec<_>>(),
                    );
                }
                _ => {}
            }
        }
        assert_eq!(imported, ["list-runs"]);
        // The import that stays, the module's own two, and the two that were replaced.
        assert_eq!((exported, bodies.len()), (Some(2), 4));
        let called = bodies[1].iter().filter_map(|operator| match operator {
            Operator::Call { function_index } => Some(*function_index),
            _ => None,
        });
        assert_eq!(called.collect::<Vec<_>>(), [3, 0, 4, 1]);
        assert!(matches!(bodies[2][0], Operator::Unreachable));
        let stored = |operator: &&Operator<'_>| matches!(operator, Operator::I64Store { .. });
        assert_eq!(bodies[3].iter().filter(stored).count(), 2);
    }
}
