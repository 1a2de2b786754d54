// An open store: the contract's calls as methods with JavaScript's values.

import * as fs from 'node:fs';
import { ClosedError, InvalidArgumentError, IoError, ReadOnlyError, TrapError, wrongType } from './errors.js';
import { Instance } from './instance.js';
import { parseInto } from './json.js';
import * as libc from './libc.js';
import * as values from './values.js';
import { errorCode } from './wasi.js';

/** The most bytes that cross into or out of the component in one call. */
const CHUNK = 256 * 1024;

/** How many records a page of a list has when all of them are wanted. */
const PAGE = 1024;

const { O_RDONLY, O_WRONLY, O_CREAT, O_EXCL, O_NONBLOCK, O_NOCTTY, COPYFILE_FICLONE } = fs.constants;

/** Lets others work: what follows runs when they had their turn. */
function turn() {
  return new Promise((resolve) => {
    setImmediate(resolve);
  });
}

/** The instance of an open store: replaced when it fails. */
class Holder {
  #grant;
  #options;
  #bindings;
  #instance = null;
  #store = null;
  #resources = new Set();
  #closed = false;

  constructor(grant, options, bindings) {
    this.#grant = grant;
    this.#options = options;
    this.#bindings = bindings;
    // Errors of the directory show at once.
    try {
      this.#take();
    } catch (error) {
      this.#end();
      throw error;
    }
  }

  get grant() {
    return this.#grant;
  }

  #take() {
    if (this.#closed) {
      throw new ClosedError();
    }
    if (this.#instance === null || this.#instance.ended) {
      this.#resources.clear();
      this.#instance = new Instance(this.#grant, this.#bindings);
      try {
        this.#store = this.#instance.call(({ store }) => store.Store.open(this.#options));
      } catch (error) {
        this.#instance.end();
        throw error;
      }
    }
    return this.#instance;
  }

  /** What the user is to know, once nothing could be locked. */
  get unlocked() {
    return this.#grant.unlocked;
  }

  call(function_) {
    return this.#take().call(() => function_(this.#store));
  }

  /** As `call`, but what the component answers is thrown as it is. */
  pass(function_) {
    return this.#take().pass(() => function_(this.#store));
  }

  /** As `call`, for a call that returns a resource. */
  open(function_) {
    const instance = this.#take();
    const handle = instance.call(() => function_(this.#store, instance));
    this.#resources.add(handle);
    return {
      call: (inner) => {
        if (this.#closed) {
          throw new ClosedError();
        }
        if (instance.ended) {
          throw new TrapError('the instance that this was opened in is gone; open it again');
        }
        if (!this.#resources.has(handle)) {
          throw new ClosedError('this was closed');
        }
        return instance.call(() => inner(handle));
      },
      drop: () => {
        if (this.#resources.delete(handle) && !instance.ended) {
          instance.call(() => handle[Symbol.dispose]());
        }
      },
    };
  }

  close() {
    if (this.#closed) {
      return;
    }
    this.#closed = true;
    const instance = this.#instance;
    try {
      if (instance !== null && !instance.ended) {
        // An unfinished writer would leave its file behind.
        for (const handle of this.#resources) {
          instance.call(() => handle[Symbol.dispose]());
        }
        instance.call(() => this.#store.close());
      }
    } finally {
      this.#end();
    }
  }

  #end() {
    this.#closed = true;
    this.#resources.clear();
    this.#instance?.end();
    for (const pool of this.#bindings.values()) {
      pool.close();
    }
    this.#grant.close();
  }
}

const holders = new WeakMap();

/** Returns the instance of a store, whose calls take and return the contract's values: for the tests. */
export function raw(store) {
  return holders.get(store);
}

/** An open store. Its calls block; a put that returned has the durability of the configuration. */
export class Store {
  #holder;
  #config;
  #warnings;

  /** @hidden Stores are made by `connect`. */
  constructor(config, grant, options, bindings, warnings) {
    this.#config = config;
    this.#warnings = warnings;
    this.#holder = new Holder(grant, options, bindings);
    holders.set(this, this.#holder);
  }

  get config() {
    return this.#config;
  }

  get warnings() {
    const unlocked = this.#holder.unlocked;
    return unlocked === undefined ? [...this.#warnings] : [...this.#warnings, unlocked];
  }

  scoped(experimentId) {
    return this.#config.scoped(experimentId).connect();
  }

  close() {
    this.#holder.close();
  }

  [Symbol.dispose]() {
    this.close();
  }

  async [Symbol.asyncDispose]() {
    this.close();
  }

  #call(function_) {
    return this.#holder.call(function_);
  }

  getWorkingDirectory() {
    return this.#call((store) => store.getWorkingDirectory());
  }

  // --- run records ---------------------------------------------------------------------------------------------------

  putRunRecord(record, { expect } = {}) {
    const [wire, expected] = [values.recordFrom(record), values.expectationFrom(expect)];
    return this.#call((store) => store.putRunRecord(wire, expected));
  }

  putRunText(record, { expect } = {}) {
    const [wire, expected] = [values.text('the record', record), values.expectationFrom(expect)];
    return this.#call((store) => store.putRunText(wire, expected));
  }

  putRunRecords(records) {
    const wire = values.list('the records', records).map(values.recordFrom);
    return values.outcomesTo(this.#call((store) => store.putRunRecords(wire)));
  }

  putRunLines(lines) {
    const wire = values.text('the lines', lines);
    return values.outcomesTo(this.#call((store) => store.putRunLines(wire)));
  }

  getRunRecord(runId) {
    const run = values.text('runId', runId);
    const found = this.#call((store) => store.getRunRecord(run));
    return found === undefined ? null : values.recordTo(found);
  }

  getVersionedRun(runId) {
    const run = values.text('runId', runId);
    const found = this.#call((store) => store.getVersionedRun(run));
    return found === undefined ? null : { revision: found.revision, record: values.recordTo(found.record) };
  }

  getRunText(runId) {
    const run = values.text('runId', runId);
    return this.#call((store) => store.getRunText(run)) ?? null;
  }

  listRunRecords(experimentId) {
    const runs = this.listRuns(experimentId);
    try {
      const records = [...runs];
      return { records, damaged: runs.damaged() };
    } finally {
      runs.close();
    }
  }

  listRuns(experimentId) {
    const experiment = values.optionalText('experimentId', experimentId);
    return new RunList(this.#holder.open((store) => store.listRunRecords(experiment)));
  }

  queryRuns(query = {}) {
    const wire = values.queryFrom(query);
    return new RunList(this.#holder.open((store) => store.queryRuns(wire)));
  }

  listFields(filter = '') {
    const wire = values.text('filter', filter);
    return values.catalogueTo(this.#call((store) => store.listFields(wire)));
  }

  indexState() {
    const { standing, pending, trouble } = this.#call((store) => store.indexState());
    return { standing, pending: values.integer(pending), trouble: trouble ?? null };
  }

  rebuildIndex(options = {}) {
    const given = typeof options === 'function' ? { onProgress: options } : values.object('the options', options, ['onProgress', 'prune']);
    const { onProgress: progress } = given;
    const prune = values.list('prune', given.prune ?? []).map((experiment) => values.text('an experiment to prune', experiment));
    const resource = this.#holder.open((store) => store.rebuildIndex(prune));
    try {
      for (;;) {
        const step = resource.call((rebuild) => rebuild.step());
        if (step === undefined) {
          break;
        }
        progress?.({ ...step, done: values.integer(step.done), total: values.integer(step.total) });
      }
      const report = resource.call((rebuild) => rebuild.report());
      const counts = ['runs', 'added', 'changed', 'removed', 'manifests', 'pruned', 'orphanCount'].map((name) => [name, values.integer(report[name])]);
      const orphans = report.orphans.map(({ experiment, runs }) => ({ experiment, runs: values.integer(runs) }));
      return { ...Object.fromEntries(counts), orphans, damaged: values.damageTo(report.damaged) };
    } finally {
      resource.drop();
    }
  }

  runExists(runId) {
    const run = values.text('runId', runId);
    return this.#call((store) => store.runExists(run));
  }

  deleteRun(runId) {
    const run = values.text('runId', runId);
    return this.#call((store) => store.deleteRun(run));
  }

  // --- derived metrics -----------------------------------------------------------------------------------------------

  putDerived(runId, metrics) {
    const [run, wire] = [values.text('runId', runId), values.derivedFrom(metrics)];
    return this.#call((store) => store.putDerived(run, wire));
  }

  putDerivedText(runId, derived) {
    const [run, wire] = [values.text('runId', runId), values.text('the derived metrics', derived)];
    return this.#call((store) => store.putDerivedText(run, wire));
  }

  getDerived(runId) {
    const run = values.text('runId', runId);
    const found = this.#call((store) => store.getDerived(run));
    return found === undefined ? null : values.metricsTo(found);
  }

  getDerivedText(runId) {
    const run = values.text('runId', runId);
    return this.#call((store) => store.getDerivedText(run)) ?? null;
  }

  derivedExists(runId) {
    const run = values.text('runId', runId);
    return this.#call((store) => store.derivedExists(run));
  }

  // --- structured results --------------------------------------------------------------------------------------------

  putResult(runId, name, result) {
    const [run, named, wire] = [values.text('runId', runId), values.text('name', name), values.resultFrom(result)];
    return this.#call((store) => store.putResult(run, named, wire));
  }

  putResultText(runId, name, data, { dtype, shape, metadata = '{}', unknown = '{}' } = {}) {
    const [run, named] = [values.text('runId', runId), values.text('name', name)];
    const wire = {
      ...values.resultFrom({ data: null, dtype, shape }),
      data: values.text('data', data),
      metadata: values.text('metadata', metadata),
      unknown: values.text('unknown', unknown),
    };
    return this.#call((store) => store.putResult(run, named, wire));
  }

  getResult(runId, name) {
    const [run, named] = [values.text('runId', runId), values.text('name', name)];
    const found = this.#call((store) => store.getResult(run, named));
    return found === undefined ? null : values.resultTo(found);
  }

  getResultText(runId, name) {
    const [run, named] = [values.text('runId', runId), values.text('name', name)];
    return this.#call((store) => store.getResultText(run, named)) ?? null;
  }

  listResults(runId) {
    const run = values.text('runId', runId);
    return this.#call((store) => store.listResults(run));
  }

  // --- logs ----------------------------------------------------------------------------------------------------------

  putLog(runId, name, content) {
    const [run, named, wire] = [values.text('runId', runId), values.text('name', name), values.text('content', content)];
    this.#call((store) => store.putLog(run, named, wire));
  }

  appendLog(runId, name, content, { sync = false } = {}) {
    const [run, named, wire] = [values.text('runId', runId), values.text('name', name), values.text('content', content)];
    const synced = values.boolean('sync', sync);
    return values.integer(this.#call((store) => store.appendLog(run, named, wire, synced)));
  }

  getLog(runId, name) {
    const [run, named] = [values.text('runId', runId), values.text('name', name)];
    return this.#call((store) => store.getLog(run, named)) ?? null;
  }

  readLog(runId, name, { offset = 0, maxBytes = CHUNK } = {}) {
    const [run, named] = [values.text('runId', runId), values.text('name', name)];
    const [from, most] = [values.u64('offset', offset), values.u32('maxBytes', maxBytes)];
    const chunk = this.#call((store) => store.readLog(run, named, from, most));
    if (chunk === undefined) {
      return null;
    }
    return { text: chunk.text, nextOffset: values.integer(chunk.nextOffset), replaced: chunk.replaced, end: chunk.end };
  }

  /** Reads a log a piece at a time, to the end that it has then. */
  async *logChunks(runId, name, { offset = 0 } = {}) {
    let from = offset;
    for (;;) {
      const chunk = this.readLog(runId, name, { offset: from });
      if (chunk === null) {
        return;
      }
      if (chunk.text !== '') {
        yield chunk.text;
      }
      if (chunk.end) {
        return;
      }
      from = chunk.nextOffset;
      await turn();
    }
  }

  listLogs(runId) {
    const run = values.text('runId', runId);
    return this.#call((store) => store.listLogs(run));
  }

  getLogPath(runId, name) {
    const [run, named] = [values.text('runId', runId), values.text('name', name)];
    return this.#call((store) => store.getLogPath(run, named));
  }

  // --- artifacts -----------------------------------------------------------------------------------------------------

  putArtifact(content, descriptor) {
    const bytes = bytesFrom(content);
    if (bytes.byteLength <= CHUNK) {
      const wire = values.descriptorFrom(descriptor);
      return values.descriptorTo(this.#call((store) => store.putArtifact(bytes, wire)));
    }
    const writer = this.createArtifact(descriptor);
    try {
      writer.write(bytes);
      return writer.finish();
    } finally {
      writer.close();
    }
  }

  putArtifactFile(path, descriptor) {
    const wire = values.descriptorFrom(descriptor);
    const source = openSource(path);
    try {
      const staged = this.#call((store) => store.stageArtifact(wire));
      const { grant } = this.#holder;
      // The component refuses to stage in a read-only store; the host's own descriptor could write there.
      if (!grant.writable) {
        throw new ReadOnlyError('read-only', 'the store was opened read-only');
      }
      copy(source, grant.fd, staged);
      return values.descriptorTo(this.#call((store) => store.importArtifact(staged, wire)));
    } finally {
      fs.closeSync(source);
    }
  }

  createArtifact(descriptor) {
    const wire = values.descriptorFrom(descriptor);
    return new ArtifactWriter(this.#holder.open((store) => store.createArtifact(wire)));
  }

  /** Stores an artifact from a stream, or anything else that hands out bytes. */
  async putArtifactStream(source, descriptor) {
    const writer = this.createArtifact(descriptor);
    try {
      for await (const chunk of source) {
        writer.write(chunk);
      }
      return writer.finish();
    } finally {
      writer.close();
    }
  }

  getArtifact(artifact) {
    const reader = this.openArtifact(artifact);
    try {
      const content = new Uint8Array(reader.size);
      let length = 0;
      // No more than it said: what the component hands out must not fill the host's memory.
      while (length < content.byteLength) {
        const piece = reader.read(length, content.byteLength - length);
        if (piece.byteLength === 0) {
          break;
        }
        content.set(piece, length);
        length += piece.byteLength;
      }
      return content.subarray(0, length);
    } finally {
      reader.close();
    }
  }

  openArtifact(artifact, { verify = false } = {}) {
    const [wire, verified] = [values.referenceFrom(artifact), values.boolean('verify', verify)];
    return new ArtifactReader(this.#holder.open((store) => store.openArtifact(wire, verified)));
  }

  listArtifacts(runId) {
    const run = values.text('runId', runId);
    return this.#call((store) => store.listArtifacts(run)).map(values.descriptorTo);
  }

  // --- experiment manifests ------------------------------------------------------------------------------------------

  putExperimentManifest(experimentId, body, { timestamp } = {}) {
    return this.putExperimentManifestText(experimentId, values.bodyFrom(body), { timestamp });
  }

  putExperimentManifestText(experimentId, body, { timestamp } = {}) {
    const [experiment, wire] = [values.text('experimentId', experimentId), values.text('the manifest', body)];
    const at = values.optionalText('timestamp', timestamp);
    return this.#call((store) => store.putExperimentManifest(experiment, wire, at));
  }

  getExperimentManifest(experimentId) {
    const found = this.getExperimentManifestText(experimentId);
    return found === null ? null : values.manifestTo(found);
  }

  getExperimentManifestText(experimentId) {
    const experiment = values.text('experimentId', experimentId);
    return this.#call((store) => store.getExperimentManifest(experiment)) ?? null;
  }

  listExperimentManifests(experimentId) {
    const experiment = values.text('experimentId', experimentId);
    return this.#call((store) => store.listExperimentManifests(experiment));
  }
}

/** What lives in the store: after the store's `close` its calls are {@link ClosedError}. */
class Held {
  #resource;

  constructor(resource) {
    this.#resource = resource;
  }

  _call(function_) {
    return this.#resource.call(function_);
  }

  close() {
    this.#resource.drop();
  }

  [Symbol.dispose]() {
    this.close();
  }
}

/** A list of run records, handed out a page at a time. */
export class RunList extends Held {
  next(limit = PAGE) {
    const most = values.u32('limit', limit);
    return this._call((list) => list.next(most)).map(values.recordTo);
  }

  nextLines(maxBytes = 4 << 20) {
    const most = values.u32('maxBytes', maxBytes);
    return this._call((list) => list.nextLines(most));
  }

  nextRows(limit = PAGE) {
    return this.nextRowsText(limit).map((row) => {
      const read = new Array(row.length).fill(undefined);
      row.forEach((value, index) => value !== undefined && parseInto(read, index, value));
      return read;
    });
  }

  nextRowsText(limit = PAGE) {
    const most = values.u32('limit', limit);
    return this._call((list) => list.nextRows(most));
  }

  get columns() {
    return this._call((list) => list.columns());
  }

  get remaining() {
    return values.integer(this._call((list) => list.remaining()));
  }

  get total() {
    return values.integer(this._call((list) => list.total()));
  }

  get cursor() {
    return this._call((list) => list.cursor()) ?? null;
  }

  damaged() {
    return values.damageTo(this._call((list) => list.damaged()));
  }

  /** The records that are left. */
  *[Symbol.iterator]() {
    for (;;) {
      const page = this.next();
      if (page.length === 0) {
        return;
      }
      yield* page;
    }
  }

  /** The records that are left; others have their turn between two pages. */
  async *[Symbol.asyncIterator]() {
    for (;;) {
      const page = this.next();
      if (page.length === 0) {
        return;
      }
      yield* page;
      await turn();
    }
  }

  /** The rows that are left, as objects of the columns that the run has. */
  *rows() {
    const { columns } = this;
    for (;;) {
      const page = this.nextRowsText();
      if (page.length === 0) {
        return;
      }
      for (const row of page) {
        const read = {};
        row.forEach((value, index) => value !== undefined && parseInto(read, columns[index], value));
        yield read;
      }
    }
  }
}

/** An artifact open for reading. */
export class ArtifactReader extends Held {
  #size;

  constructor(resource) {
    super(resource);
    this.#size = values.integer(this._call((reader) => reader.size()));
  }

  get size() {
    return this.#size;
  }

  get descriptor() {
    const found = this._call((reader) => reader.descriptor());
    return found === undefined ? null : values.descriptorTo(found);
  }

  /** Reads from a byte offset: at most `length` bytes, or 256 KiB. Empty at and beyond the end. */
  read(offset = 0, length = CHUNK) {
    const [from, most] = [values.u64('offset', offset), Math.min(values.u32('length', length), CHUNK)];
    // The length is the component's: no more than was asked for.
    return this._call((reader) => reader.read(from, most)).subarray(0, most);
  }

  /** Its content, a chunk at a time. It is closed then, and also when the loop is left. */
  async *[Symbol.asyncIterator]() {
    try {
      for (let offset = 0; ; ) {
        const chunk = this.read(offset);
        if (chunk.byteLength === 0) {
          return;
        }
        yield chunk;
        offset += chunk.byteLength;
        await turn();
      }
    } finally {
      this.close();
    }
  }
}

/** An artifact being written. Closed before `finish`, it leaves nothing behind. */
export class ArtifactWriter extends Held {
  write(content) {
    const bytes = bytesFrom(content);
    for (let at = 0; at < bytes.byteLength; at += CHUNK) {
      this._call((writer) => writer.write(bytes.subarray(at, at + CHUNK)));
    }
  }

  finish() {
    return values.descriptorTo(this._call((writer) => writer.finish()));
  }
}

function bytesFrom(content) {
  if (content instanceof Uint8Array) {
    return content;
  }
  if (content instanceof ArrayBuffer) {
    return new Uint8Array(content);
  }
  if (ArrayBuffer.isView(content)) {
    return new Uint8Array(content.buffer, content.byteOffset, content.byteLength);
  }
  throw wrongType('the content should be a Uint8Array, or another view of bytes');
}

/** Opens the file that an artifact is to be copied from. */
function openSource(path) {
  const refused = (reason, cause) =>
    new InvalidArgumentError('invalid-argument', `cannot read the artifact's source ${path}: ${reason}`, {}, { cause });
  let source;
  try {
    // Opening a FIFO without a writer must not block, and what was opened is what is looked at.
    source = fs.openSync(path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
  } catch (error) {
    throw error.code === undefined || error instanceof TypeError ? wrongType(`the artifact's source: ${error.message}`) : refused(error.message, error);
  }
  if (!fs.fstatSync(source).isFile()) {
    fs.closeSync(source);
    throw refused('it is not a regular file');
  }
  return source;
}

/** Copies a file into the store's directory, to a name that must not exist. */
function copy(source, directory, name) {
  let target;
  try {
    target = libc.openBeneath(directory, name, O_WRONLY | O_CREAT | O_EXCL, 0o666);
    const from = `/proc/self/fd/${source}`;
    const to = `/proc/self/fd/${target}`;
    const { mode } = fs.fstatSync(target);
    // As a reflink where the file system can.
    fs.copyFileSync(from, to, COPYFILE_FICLONE);
    // That gave the copy the mode of its source: one that nobody else reads would be so in a store that others share.
    fs.fchmodSync(target, mode & 0o7777);
  } catch (error) {
    if (target !== undefined) {
      // Only what was created here goes.
      fs.rmSync(fs.readlinkSync(`/proc/self/fd/${target}`), { force: true });
    }
    const code = errorCode(error);
    throw new IoError(
      'io',
      `cannot copy the artifact into the store's file ${name}: ${error.message}`,
      { file: name, operation: 'copy', reason: code, outcomeUnknown: false },
      { cause: error },
    );
  } finally {
    if (target !== undefined) {
      fs.closeSync(target);
    }
  }
}
