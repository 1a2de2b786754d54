// The component: transpiled by jco when the package is built, compiled once in a process.

import { readFileSync } from 'node:fs';
import { EngineError } from './errors.js';

/** The version of the contract that this adapter speaks. */
const VERSION = '0.1.0';

const directory = new URL('../dist/', import.meta.url);

let transpiled;
let missing;
try {
  transpiled = await import(new URL('metalab_store.js', directory).href);
} catch (error) {
  // Who does not open a store does not need it.
  missing = error;
}

const modules = new Map();

function coreModule(name) {
  let module = modules.get(name);
  if (module === undefined) {
    module = new WebAssembly.Module(readFileSync(new URL(name, directory)));
    modules.set(name, module);
  }
  return module;
}

/**
 * Makes an instance of the component, and returns its interfaces.
 *
 * @param {object} imports
 */
export function instantiate(imports) {
  if (transpiled === undefined) {
    throw new EngineError(`${missing.message}; \`cargo xtask node\` builds it in a checkout`, { cause: missing });
  }
  return interfaces(withPromising(() => transpiled.instantiate(coreModule, imports)));
}

/**
 * Calls with `WebAssembly.promising` there. The generated code wraps some thirty functions with it, for asynchronous calls
 * that this component does not have, and catches the error where it is missing, as in Node 20: 15 ms each, because the error's
 * message is made from the text of the largest function there is.
 */
function withPromising(call) {
  if (WebAssembly.promising !== undefined) {
    return call();
  }
  WebAssembly.promising = (function_) => function_;
  try {
    return call();
  } finally {
    delete WebAssembly.promising;
  }
}

/** Returns the interfaces of this version, if the component has them. */
export function interfaces(root) {
  const named = (name) => {
    const found = root[`metalab:store/${name}@${VERSION}`];
    if (found === undefined) {
      throw new EngineError(`it does not export metalab:store/${name}@${VERSION}; it belongs to another version of this package`);
    }
    return found;
  };
  return { config: named('config'), store: named('store'), transfer: named('transfer'), maintenance: named('maintenance') };
}
