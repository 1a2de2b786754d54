// The process that a plugin runs in: it computes one run at a time, each in an instance of its own.

import { FileStoreConfig, PostgresStoreConfig } from './config.js';
import { endWithParent } from './libc.js';
import { raw } from './store.js';

/** The most runs of a list, and the most bytes of a piece of an artifact. */
const LIST = 4096;
const CHUNK = 256 * 1024;

const REASON = 1000;

// The transpiled code wraps exports that nobody awaits, and catches the error where the runtime has no such thing: to word it,
// V8 parses all of that code again, 4 ms each time.
WebAssembly.promising ??= (exported) => exported;

/** What `start` made. */
let limits;
let store;
let instantiate;
const modules = new Map();
/** The same with a little more memory. */
const roomy = new Map();

/** Opens the store, and loads the plugin. */
async function start({ plugin, kind, settings, scopes, limits: given, parent }) {
  // A plugin that loops lets no message through, not even that nobody is left who would end it.
  endWithParent();
  if (process.ppid !== parent) {
    process.exit();
  }
  limits = given;
  const Config = kind === 'file' ? FileStoreConfig : PostgresStoreConfig;
  store = raw(new Config(settings, scopes).connect());
  for (const [from, to] of [[plugin.modules, modules], [plugin.roomy, roomy]]) {
    for (const [name, content] of from) {
      to.set(name, new WebAssembly.Module(content));
    }
  }
  // The code imports nothing: what the plugin may use is given to it below.
  ({ instantiate } = await import(`data:text/javascript;base64,${Buffer.from(plugin.code).toString('base64')}`));
}

function short(text) {
  const signs = [...text];
  return signs.length <= REASON ? text : `${signs.slice(0, REASON).join('')}…`;
}

/** What the calls of one run work on. */
class View {
  #calls = limits.calls;
  /** Why a call ended the run, if it was not the plugin that failed. */
  ended = null;

  /** Passes a call on to the store; what the store says is what the plugin is told. */
  call(function_) {
    if (this.#calls === 0) {
      this.#end('calls', `the plugin called the store more than ${limits.calls} times`);
    }
    this.#calls -= 1;
    try {
      return function_();
    } catch (error) {
      if (typeof error?.payload?.tag === 'string') {
        throw error;
      }
      // The store's own failure: its next call finds a fresh instance, this run does not go on.
      return this.#end('store', error.message);
    }
  }

  #end(code, message) {
    this.ended = { code, message };
    throw new Error(message);
  }

  imports() {
    const view = {};
    for (const name of ['getRunRecord', 'getRunText', 'getDerived', 'listResults', 'getResult', 'listLogs', 'readLog', 'listArtifacts']) {
      view[name] = (...given) => this.call(() => store.pass((inner) => inner[name](...given)));
    }
    view.listRuns = (filter, limit) => this.call(() => listRuns(filter, limit));
    view.readArtifact = (...given) => this.call(() => readArtifact(...given));
    return { 'metalab:store/view': view, 'metalab:store/types': {} };
  }
}

function listRuns(filter, limit) {
  return store.pass((inner) => {
    const list = inner.queryRuns({ filter, sort: '', columns: 'run_id', limit: Math.min(limit, LIST), check: false });
    try {
      return list.nextRows(LIST).map(([text]) => JSON.parse(text));
    } finally {
      list[Symbol.dispose]();
    }
  });
}

function readArtifact(runId, name, offset, maxBytes) {
  return store.pass((inner) => {
    const reader = inner.openArtifact({ tag: 'name', val: [runId, name] }, false);
    try {
      return reader.read(offset, Math.min(maxBytes, CHUNK));
    } finally {
      reader[Symbol.dispose]();
    }
  });
}

/** Computes a run: its metrics, or why there are none. */
function compute(runId) {
  const answer = computeWith(modules, runId);
  if (answer.code !== 'trap') {
    return answer;
  }
  // A plugin that gets no more memory traps, and nothing tells that from another trap. What a plugin does depends on the
  // store alone: with a little more memory it does the same again, and either takes it or not.
  const memories = [];
  process.send('ready');
  computeWith(roomy, runId, memories);
  if (memories.some((memory) => memory.buffer.byteLength > limits.memoryBytes)) {
    return { code: 'memory', message: `the plugin wanted more than ${limits.memoryBytes} bytes of memory` };
  }
  return answer;
}

function computeWith(from, runId, memories = []) {
  const view = new View();
  const instance = (module, imports) => {
    const made = new WebAssembly.Instance(module, imports);
    memories.push(...Object.values(made.exports).filter((value) => value instanceof WebAssembly.Memory));
    return made;
  };
  try {
    const { derive } = instantiate((name) => from.get(name), view.imports(), instance);
    return { derived: derive(runId) };
  } catch (error) {
    if (view.ended !== null) {
      return view.ended;
    }
    if (typeof error?.payload === 'string') {
      return { code: 'refused', message: short(error.payload) };
    }
    const stack = error instanceof RangeError && /call stack/i.test(error.message);
    if (stack || error instanceof WebAssembly.RuntimeError) {
      return { code: 'trap', message: short(`the plugin failed: ${error.message}`) };
    }
    return { code: 'garbage', message: short(`the plugin's answer cannot be used: ${error?.message ?? error}`) };
  }
}

/** The answer to the first message: when it is there, runs can be computed. */
let started;

process.on('message', async (message) => {
  if (started === undefined) {
    started = start(message);
    return;
  }
  try {
    await started;
  } catch (error) {
    process.send({ code: 'store', message: error.message });
    return;
  }
  // Its time begins now.
  process.send('ready', () => process.send(compute(message.runId)));
});

// Whoever started it is gone.
process.on('disconnect', () => process.exit());
