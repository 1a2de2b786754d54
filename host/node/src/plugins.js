// Plugins: components of other people that compute derived metrics of runs, and see nothing but one experiment.
//
// A plugin is transpiled by jco, which has to be installed beside this package, and runs in a process of its own: that can be
// ended when a plugin loops. It opens the store read-only and answers the plugin's calls; this process stores.

import { fork } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { EngineError, InvalidArgumentError, PluginMissingError, PluginVersionError, PluginWorldError, fromWire, wrongType } from './errors.js';
import { raw } from './store.js';
import * as values from './values.js';
import { limitMemory } from './wasm.js';

/** The version of the contract that this adapter speaks, to the part that has to match. */
const VERSION = '0.1.0';
const TRACK = /^0\.1\./;

/** The program of the processes that plugins run in. */
const WORKER = fileURLToPath(new URL('plugin-worker.js', import.meta.url));

/** The most runs that are stored with one sync, and the most text of their metrics. */
const BATCH = 128;
const BATCH_BYTES = 4 * 2 ** 20;

/** The most metrics of a run, and the most bytes of a metric's name. */
const METRICS = 10_000;
const NAME_BYTES = 256;

/** The most text of a run's metrics. */
const ANSWER = 2 * 2 ** 20;

/** How much more memory a plugin that trapped gets for a second look at why: this part of its limit, or as many bytes. */
const ROOM = 16;
const LEAST_ROOM = 4 * 2 ** 20;

/** How many characters of a plugin's reason are kept. */
const REASON = 1000;

/** The most processes. */
const WORKERS = 256;

const LIMITS = { memoryBytes: 256 * 2 ** 20, timeMs: 10_000, calls: 10_000 };

function short(text) {
  const signs = [...text];
  return signs.length <= REASON ? text : `${signs.slice(0, REASON).join('')}…`;
}

function noPlugin(reason) {
  return new PluginWorldError('plugin-world', `this is no plugin: ${reason}`);
}

async function transpiler() {
  try {
    return await import('@bytecodealliance/jco');
  } catch (error) {
    throw new EngineError('plugins are transpiled by @bytecodealliance/jco, which is not installed: npm install @bytecodealliance/jco', { cause: error });
  }
}

/** A plugin, transpiled and checked. */
export class Plugin {
  #files;

  /** @hidden Plugins are made by `load`. */
  constructor(files) {
    this.#files = files;
  }

  /** Transpiles a plugin of a file, or of its bytes, and checks that it is of the contract's world `plugin`. */
  static async load(source) {
    let bytes = source;
    if (!(source instanceof Uint8Array)) {
      try {
        bytes = readFileSync(source);
      } catch (error) {
        throw new PluginMissingError('plugin-missing', `cannot read the plugin ${source}: ${error.message}`, {}, { cause: error });
      }
    }
    // Else jco would take it for a module, or for text.
    if (Buffer.compare(bytes.subarray(0, 8), Buffer.from([0, 0x61, 0x73, 0x6d, 0x0d, 0, 1, 0])) !== 0) {
      throw noPlugin('it is no component');
    }
    const { transpile, componentWit } = await transpiler();
    let made;
    let wit;
    try {
      wit = await componentWit(bytes);
    } catch (error) {
      throw noPlugin(short(String(error?.message ?? error)));
    }
    check(wit);
    try {
      made = await transpile(bytes, {
        name: 'plugin',
        instantiation: { tag: 'sync' },
        noTypescript: true,
        noNodejsCompat: true,
        wasiShim: false,
      });
    } catch (error) {
      throw noPlugin(short(String(error?.message ?? error)));
    }
    if (!made.exports.some(([name, kind]) => name === 'derive' && kind === 'function')) {
      throw noPlugin('it exports no function derive');
    }
    const modules = new Map();
    let code = '';
    for (const [name, content] of Object.entries(made.files)) {
      if (name === 'plugin.js') {
        code = Buffer.from(content).toString('utf8');
      } else if (name.endsWith('.wasm')) {
        modules.set(name, content);
      }
    }
    return new Plugin({ code, modules });
  }

  /** @hidden What a worker needs. */
  _files(memoryBytes) {
    const limited = (bytes) => new Map([...this.#files.modules].map(([name, content]) => [name, limitMemory(content, bytes)]));
    return { code: this.#files.code, modules: limited(memoryBytes), roomy: limited(memoryBytes + Math.max(memoryBytes / ROOM, LEAST_ROOM)) };
  }
}

/** Refuses what a plugin must not import. */
function check(wit) {
  // What jco makes of the component does not know the versions of its imports; its text does.
  const [, world = ''] = /^world root \{\n([^]*?)^\}/m.exec(wit) ?? [];
  const foreign = [];
  for (const [, name] of world.matchAll(/^ {2}import ([^;{]+?)[;:]? *[;{]/gm)) {
    const [found, version = ''] = name.split('@');
    if (found !== 'metalab:store/view' && found !== 'metalab:store/types') {
      foreign.push(name);
    } else if (!TRACK.test(version)) {
      throw new PluginVersionError(
        'plugin-version',
        `this plugin cannot be used: it is made for version ${version} of the store's contract, and this store has ${VERSION}`,
      );
    }
  }
  if (foreign.length > 0) {
    throw noPlugin(`it imports ${foreign.join(', ')}, and a plugin gets nothing but metalab:store/view; docs/plugins.md says how to build one`);
  }
}

/** A process that computes runs, one at a time; a new one takes its place when it has to be ended. */
class Computer {
  #data;
  #child = null;
  #settle = () => {};

  constructor(data) {
    this.#data = data;
  }

  #start() {
    if (this.#child === null) {
      this.#child = fork(WORKER, [], { serialization: 'advanced', env: {}, execArgv: [], stdio: ['ignore', 'ignore', 'ignore', 'ipc'] });
      this.#child.send(this.#data);
    }
    return this.#child;
  }

  /** Computes a run. Returns its metrics, or why there are none. */
  async run(runId) {
    const child = this.#start();
    const { timeMs } = this.#data.limits;
    let clock;
    try {
      return await new Promise((resolve) => {
        this.#settle = resolve;
        const gone = (message) => resolve({ code: 'trap', message, gone: true });
        child.removeAllListeners();
        child.on('message', (answer) => {
          if (answer === 'ready') {
            // To start the process and to open the store was not the plugin's work. A second look has its own time.
            clearTimeout(clock);
            clock = setTimeout(resolve, timeMs, { code: 'time', message: `the plugin took longer than ${timeMs} ms`, gone: true });
          } else {
            resolve(answer);
          }
        });
        child.on('error', (error) => gone(`the plugin's process failed: ${error.message}`));
        child.on('exit', (code, signal) => gone(`the plugin's process ended (${signal ?? code})`));
        child.send({ runId });
      });
    } finally {
      clearTimeout(clock);
    }
  }

  /** Ends the process. */
  end() {
    const child = this.#child;
    this.#child = null;
    if (child !== null) {
      child.removeAllListeners();
      // Messages that are under way to it may find it gone.
      child.on('error', () => {});
      child.kill('SIGKILL');
    }
    this.#settle({ code: 'trap', message: 'it was stopped', gone: true });
  }
}

/** Checks what a plugin derived. That values are what they say, and names unique, the store checks. */
function metricsOf(derived) {
  const garbage = (reason) => ({ code: 'garbage', message: `the plugin's answer cannot be used: ${reason}` });
  if (derived.length > METRICS) {
    return garbage(`${derived.length} metrics; a run may have ${METRICS}`);
  }
  for (const [name] of derived) {
    // eslint-disable-next-line no-control-regex
    if (name === '' || Buffer.byteLength(name) > NAME_BYTES || /[\u0000-\u001f\u007f-\u009f]/.test(name)) {
      return garbage(`${JSON.stringify(short(name))} is no name of a metric: 1 to ${NAME_BYTES} bytes without control characters`);
    }
  }
  const metrics = derived.map(([name, value]) => ({ name, value }));
  return weight(metrics) > ANSWER ? garbage(`it has more than ${ANSWER} bytes`) : { metrics };
}

/** How much text metrics have. */
function weight(metrics) {
  return metrics.reduce((sum, { name, value }) => sum + name.length + (typeof value.val === 'string' ? value.val.length : 0), 0);
}

/** What was computed and is not stored yet. */
class Work {
  #report;
  #writer;
  #batch = [];
  #bytes = 0;

  constructor(report, writer) {
    this.#report = report;
    this.#writer = writer;
  }

  keep(index, runId, answer) {
    const found = answer.derived === undefined ? answer : metricsOf(answer.derived);
    if (found.metrics === undefined) {
      this.#failed(index, runId, found.code, found.message);
      return;
    }
    this.#batch.push({ index, runId, metrics: found.metrics });
    this.#bytes += weight(found.metrics);
    if (this.#batch.length === BATCH || this.#bytes > BATCH_BYTES) {
      this.store();
    }
  }

  store() {
    const batch = this.#batch;
    this.#batch = [];
    this.#bytes = 0;
    if (this.#writer === null || batch.length === 0) {
      this.#report.derived += batch.length;
      return;
    }
    const outcomes = raw(this.#writer).call((store) => store.putDerivedBatch(batch.map(({ runId, metrics }) => [runId, metrics])));
    for (const [place, outcome] of outcomes.entries()) {
      const { index, runId } = batch[place];
      if (outcome.tag === 'ok') {
        this.#report.derived += 1;
        continue;
      }
      const error = fromWire(outcome.val);
      // The store was asked to keep what the plugin said, and what it said is none.
      const garbage = error instanceof InvalidArgumentError;
      this.#failed(index, runId, garbage ? 'garbage' : 'store', garbage ? `the plugin's answer cannot be used: ${error.message}` : error.message);
    }
  }

  #failed(index, runId, code, message) {
    this.#report.failures.push({ index, runId, code, message });
  }
}

function runsOf(store, filter) {
  const list = raw(store).open((inner) => inner.queryRuns({ filter, sort: '', columns: 'run_id', check: false }));
  const runs = [];
  try {
    for (;;) {
      const rows = list.call((inner) => inner.nextRows(4096));
      if (rows.length === 0) {
        return { runs, damaged: values.damageTo(list.call((inner) => inner.damaged())) };
      }
      runs.push(...rows.map(([text]) => JSON.parse(text)));
    }
  } finally {
    list.drop();
  }
}

/** Runs a plugin over the runs of an experiment, and stores what it derives in place of what they had. */
export async function derive(config, plugin, options = {}) {
  const given = values.object('the options', options, ['where', 'limits', 'workers', 'dryRun', 'onProgress', 'signal']);
  const where = values.text('where', given.where ?? '');
  const workers = given.workers ?? Math.min(availableParallelism(), WORKERS);
  if (!Number.isSafeInteger(workers) || workers < 1 || workers > WORKERS) {
    throw wrongType(`workers should be an integer from 1 to ${WORKERS}, not ${String(workers)}`);
  }
  const dryRun = values.boolean('dryRun', given.dryRun ?? false);
  const limits = values.object('limits', given.limits ?? {}, Object.keys(LIMITS));
  for (const [name, limit] of Object.entries(limits)) {
    if (limit !== undefined && (!Number.isSafeInteger(limit) || limit < 0)) {
      throw wrongType(`${name} should be an integer that is not negative, not ${String(limit)}`);
    }
  }
  const { onProgress, signal } = given;
  if (onProgress !== undefined && typeof onProgress !== 'function') {
    throw wrongType('onProgress should be a function');
  }
  if (signal !== undefined && !(signal instanceof AbortSignal)) {
    throw wrongType('signal should be an AbortSignal');
  }
  if (!config.isScoped) {
    throw new InvalidArgumentError('invalid-argument', 'a plugin sees one experiment: limit the store to it');
  }
  const loaded = plugin instanceof Plugin ? plugin : await Plugin.load(plugin);
  const all = Object.fromEntries(Object.entries(LIMITS).map(([name, limit]) => [name, limits[name] ?? limit]));
  const writer = dryRun ? null : config.with({ access: 'read-write' }).connect();
  const computers = [];
  let stopped = false;
  try {
    const reader = config.readOnly().connect();
    let found;
    try {
      found = runsOf(reader, where);
    } finally {
      reader.close();
    }
    const { runs, damaged } = found;
    const report = { runs: runs.length, derived: 0, failures: [], damaged };
    const work = new Work(report, writer);
    const data = {
      plugin: loaded._files(all.memoryBytes),
      kind: config._backend().tag,
      settings: config.readOnly()._settings(),
      scopes: config._scopes,
      limits: all,
      parent: process.pid,
    };
    let next = 0;
    let done = 0;
    const compute = async () => {
      const computer = new Computer(data);
      computers.push(computer);
      while (next < runs.length) {
        signal?.throwIfAborted();
        const index = next++;
        const answer = await computer.run(runs[index]);
        if (stopped) {
          return;
        }
        if (answer.gone) {
          computer.end();
        }
        work.keep(index, runs[index], answer);
        onProgress?.({ done: ++done, failed: report.failures.length, total: runs.length });
      }
    };
    const aborted = new Promise((_, reject) => {
      signal?.addEventListener('abort', () => reject(signal.reason), { once: true });
    });
    const count = Math.max(1, Math.min(workers, runs.length));
    await Promise.race([Promise.all(Array.from({ length: count }, compute)), aborted]);
    work.store();
    report.failures.sort((a, b) => a.index - b.index);
    report.failures = report.failures.map(({ runId, code, message }) => ({ runId, code, message }));
    return report;
  } finally {
    stopped = true;
    for (const computer of computers) {
      computer.end();
    }
    writer?.close();
  }
}

