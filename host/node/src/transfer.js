// Copies between stores, and to and from archives. All rules are the component's; this carries the stream between two
// instances of it. `docs/transfer.md` describes what is copied and what is promised.

import * as fs from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { PostgresStoreConfig, StoreConfig, parseToConfig } from './config.js';
import { AlreadyExistsError, DatabaseError, InvalidArgumentError, LockedError, RootError, StoreError } from './errors.js';
import { Instance } from './instance.js';
import * as libc from './libc.js';
import { Store, raw } from './store.js';
import * as values from './values.js';

/** The most bytes of an archive that cross in one call. */
const CHUNK = 256 * 1024;

const { O_WRONLY, O_CREAT } = fs.constants;

/** Reads a place: a configuration, or the path of an archive. */
function place(what, given) {
  if (given instanceof Store) {
    return given.config;
  }
  if (given instanceof StoreConfig) {
    return given;
  }
  const text = given instanceof URL ? fileURLToPath(given) : values.text(what, given);
  return text.endsWith('.tar.zst') || text.endsWith('.tar') ? text : parseToConfig(text);
}

function check(source, destination) {
  if (typeof source === 'string') {
    return;
  }
  if (typeof destination === 'string') {
    if (isWithin(source.root, dirname(resolve(destination)))) {
      throw new InvalidArgumentError('invalid-argument', `the archive ${destination} would lie within ${source.root}, which it is made of; name a place beside that`);
    }
    return;
  }
  const [one, other] = [source.root, destination.root];
  if (one === other) {
    throw new InvalidArgumentError('invalid-argument', `source and destination are the same store, ${one}`);
  }
  for (const [outer, inner] of [[one, other], [other, one]]) {
    const path = relative(outer, inner);
    if (path !== '..' && !path.startsWith('../')) {
      throw new InvalidArgumentError('invalid-argument', `${inner} lies within ${outer}; name a destination beside the source`);
    }
  }
}

/** Says whether a directory is another one or lies in it, both with their links followed. */
function isWithin(outer, inner) {
  try {
    const path = relative(fs.realpathSync(outer), fs.realpathSync(inner));
    return path !== '..' && !path.startsWith('../');
  } catch {
    // What is not there is told by whoever opens it.
    return false;
  }
}

/** A store that hands the stream out. */
class Sender {
  #store;
  #sender;

  constructor(config, selection) {
    this.#store = config.readOnly().connect();
    try {
      this.#sender = raw(this.#store).open((store, { transfer }) => transfer.send(store, selection));
    } catch (error) {
      this.#store.close();
      throw error;
    }
  }

  next() {
    return this.#sender.call((sender) => sender.nextChunk());
  }

  progress() {
    const { runs, total } = this.#sender.call((sender) => sender.progress());
    return [Number(runs), Number(total)];
  }

  damaged() {
    return this.#sender.call((sender) => sender.damaged());
  }

  report() {
    return this.#sender.call((sender) => sender.report());
  }

  close() {
    this.#sender.drop();
    this.#store.close();
  }
}

/** An archive that the stream comes from. */
class Unpacked {
  #fd;
  #instance;
  #unpacker;
  #ended = false;

  constructor(path, limit) {
    this.#fd = fs.openSync(path, 'r');
    try {
      this.#instance = new Instance(null);
      this.#unpacker = this.#instance.call(({ transfer }) => new transfer.Unpacker(limit));
    } catch (error) {
      this.close();
      throw error;
    }
  }

  next() {
    for (;;) {
      const piece = this.#instance.call(() => this.#unpacker.read(this.#ended));
      if (piece.length > 0 || this.#ended) {
        return piece;
      }
      const packed = new Uint8Array(CHUNK);
      const count = fs.readSync(this.#fd, packed);
      this.#ended = count === 0;
      this.#instance.call(() => this.#unpacker.write(packed.subarray(0, count)));
    }
  }

  /** An archive does not know how many runs it holds. */
  progress() {
    return [0, 0];
  }

  damaged() {
    return [];
  }

  close() {
    this.#instance?.end();
    fs.closeSync(this.#fd);
  }
}

/** A store that takes the stream. */
class Destination {
  #store;
  #receiver;
  #standIn = null;

  constructor(config, options, handover) {
    try {
      this.#store = (options.dryRun ? config.readOnly() : config).connect();
    } catch (error) {
      if (!(error instanceof RootError) || !options.dryRun || fs.existsSync(config.root)) {
        throw error;
      }
      // An empty store stands for one that does not exist yet.
      this.#standIn = fs.mkdtempSync(join(tmpdir(), 'metalab-store-'));
      const writer = config.with({ root: this.#standIn });
      writer.connect().close();
      this.#store = writer.readOnly().connect();
    }
    try {
      const wire = { ...options, redirect: handover !== undefined };
      this.#receiver = raw(this.#store).open((store, { transfer }) => transfer.receive(store, wire, handover));
    } catch (error) {
      this.#store.close();
      throw error;
    }
  }

  write(piece) {
    return this.#receiver.call((receiver) => receiver.write(piece));
  }

  refuse(reason) {
    this.#receiver.call((receiver) => receiver.refuse(reason));
  }

  finish(report) {
    const found = this.#receiver.call((receiver) => receiver.finish());
    this.close();
    add(report, found);
  }

  close() {
    this.#receiver.drop();
    this.#store.close();
    if (this.#standIn !== null) {
      fs.rmSync(this.#standIn, { recursive: true });
      this.#standIn = null;
    }
  }
}

function add(report, found) {
  for (const kind of ['copied', 'skipped', 'failed']) {
    for (const what of ['runs', 'files', 'bytes']) {
      report[kind][what] += Number(found[kind][what]);
    }
  }
  report.removed += Number(found.removed);
  for (const { experimentId, runId = null, file = null, reason } of found.failures) {
    report.failures.push({ experimentId, runId, file, reason });
  }
  for (const { experimentId, runs, digest } of found.digests) {
    report.digests.push({ experimentId, runs: Number(runs), digest });
  }
}

function fail(report, file, reason) {
  report.failures.push({ experimentId: '', runId: null, file, reason });
}

function emptyReport() {
  const none = () => ({ runs: 0, files: 0, bytes: 0 });
  return { copied: none(), skipped: none(), failed: none(), removed: 0, failures: [], digests: [] };
}

function intoStore(source, config, options, onProgress) {
  const report = emptyReport();
  const indexed = config instanceof PostgresStoreConfig && !options.dryRun;
  if (indexed) {
    checkDatabase(config);
  }
  let destination = new Destination(config, options, undefined);
  try {
    for (let piece = source.next(); piece.length > 0; piece = source.next()) {
      while (piece.length > 0) {
        const { consumed, elsewhere } = destination.write(piece);
        piece = piece.subarray(Number(consumed));
        if (elsewhere !== undefined) {
          let next;
          try {
            next = new Destination(config.scoped(elsewhere.experimentId), options, elsewhere.handover);
          } catch (error) {
            if (!(error instanceof StoreError)) throw error;
            destination.refuse(error.message);
            continue;
          }
          const before = destination;
          destination = next;
          before.finish(report);
        }
      }
      onProgress?.(...source.progress());
    }
    destination.finish(report);
  } catch (error) {
    destination.close();
    throw error;
  }
  if (indexed) {
    try {
      updateDatabase(config);
    } catch (error) {
      if (!(error instanceof StoreError)) throw error;
      fail(report, null, `the files are in place, and the database does not know all of them yet: ${error.message}; call \`rebuildIndex\``);
    }
  }
  return report;
}

/** Refuses a destination whose database does not answer, before anything is copied. */
function checkDatabase(config) {
  const store = config.connect();
  try {
    if (store.indexState().standing === 'unreachable') {
      // A schema that has no tables yet gets them.
      store.rebuildIndex();
    }
  } catch (error) {
    if (!(error instanceof DatabaseError)) throw error;
    error.message = `nothing was copied: the destination's database cannot be used: ${error.message}`;
    throw error;
  } finally {
    store.close();
  }
}

function updateDatabase(config) {
  const store = config.connect();
  try {
    if (store.indexState().standing !== 'current') {
      store.rebuildIndex();
    }
  } finally {
    store.close();
  }
}

/**
 * An archive that is being written, beside the one that it becomes. It is locked as long as it is open, and has always the
 * same name, so that what a killed export left is written over and no other export writes it too.
 */
class Part {
  #becomes;
  #path;
  #fd;

  constructor(becomes) {
    this.#becomes = becomes;
    this.#path = `${becomes}.part`;
    for (;;) {
      this.#fd = fs.openSync(this.#path, O_WRONLY | O_CREAT, 0o666);
      try {
        libc.flock(this.#fd, libc.LOCK_EX | libc.LOCK_NB);
      } catch (error) {
        if (error.code === 'EWOULDBLOCK' || error.code === 'EAGAIN') {
          fs.closeSync(this.#fd);
          throw new LockedError('locked', `another export is writing the archive ${becomes}; wait for it, or name another archive`);
        }
        // Without working locks, nobody else is told.
      }
      // Who held the lock before may have renamed it meanwhile.
      const named = fs.lstatSync(this.#path, { throwIfNoEntry: false });
      const opened = fs.fstatSync(this.#fd);
      if (named !== undefined && named.dev === opened.dev && named.ino === opened.ino) {
        fs.ftruncateSync(this.#fd);
        return;
      }
      fs.closeSync(this.#fd);
    }
  }

  write(piece) {
    for (let done = 0; done < piece.length; ) {
      done += fs.writeSync(this.#fd, piece, done);
    }
  }

  /** Puts it in place, durably. */
  publish() {
    fs.fsyncSync(this.#fd);
    fs.renameSync(this.#path, this.#becomes);
    const directory = fs.openSync(dirname(this.#becomes), 'r');
    try {
      fs.fsyncSync(directory);
    } finally {
      fs.closeSync(directory);
    }
  }

  discard() {
    fs.rmSync(this.#path, { force: true });
  }

  close() {
    fs.closeSync(this.#fd);
  }
}

function intoArchive(source, path, options, onProgress) {
  if (fs.existsSync(path) && options.existing !== 'overwrite') {
    throw new AlreadyExistsError('already-exists', `the archive ${path} exists already; pass existing: 'overwrite' to replace it`);
  }
  const plain = !path.endsWith('.tar.zst');
  const instance = new Instance(null);
  let part = null;
  try {
    const packer = instance.call(({ transfer }) => new transfer.Packer());
    part = options.dryRun ? null : new Part(path);
    for (;;) {
      const piece = source.next();
      const ended = piece.length === 0;
      const packed = plain ? piece : instance.call(() => (ended ? packer.finish() : packer.write(piece)));
      part?.write(packed);
      if (ended) {
        break;
      }
      onProgress?.(...source.progress());
    }
    part?.publish();
  } catch (error) {
    part?.discard();
    throw error;
  } finally {
    part?.close();
    instance.end();
  }
  const report = emptyReport();
  add(report, source.report());
  return report;
}

const OPTIONS = ['experiments', 'where', 'artifacts', 'derived', 'results', 'logs', 'existing', 'dryRun', 'rewriteUris', 'maxArchiveBytes', 'onProgress'];

const EXISTING = ['fail', 'skip', 'overwrite'];

/** Copies runs from one place to another, and says what became of each. */
export function exportStore(source, destination, options = {}) {
  const given = values.object('the options', options, OPTIONS);
  const experiments = (given.experiments ?? []).map((id) => values.text('an experiment', id));
  const selection = {
    experiments,
    filter: values.text('where', given.where ?? ''),
    artifacts: values.boolean('artifacts', given.artifacts ?? true),
    derived: values.boolean('derived', given.derived ?? true),
    results: values.boolean('results', given.results ?? true),
    logs: values.boolean('logs', given.logs ?? true),
  };
  const existing = given.existing ?? 'fail';
  if (!EXISTING.includes(existing)) {
    throw new InvalidArgumentError('invalid-argument', `existing should be one of ${EXISTING.join(', ')}, not ${JSON.stringify(existing) ?? String(existing)}`);
  }
  const receive = {
    existing,
    dryRun: values.boolean('dryRun', given.dryRun ?? false),
    rewriteUris: values.boolean('rewriteUris', given.rewriteUris ?? false),
    redirect: false,
  };
  const limit = given.maxArchiveBytes === undefined ? undefined : BigInt(given.maxArchiveBytes);
  const [begin, end] = [place('the source', source), place('the destination', destination)];
  check(begin, end);
  if (typeof begin === 'string' && typeof end === 'string') {
    throw new InvalidArgumentError('invalid-argument', 'source and destination are both archives; copy the file');
  }
  const whole = experiments.length === 0 && selection.filter === '' && selection.artifacts && selection.derived && selection.results && selection.logs;
  if (typeof begin === 'string' && !whole) {
    throw new InvalidArgumentError('invalid-argument', 'an archive is copied whole: import it, and export from that store what is wanted');
  }
  const sender = typeof begin === 'string' ? new Unpacked(begin, limit) : new Sender(begin, selection);
  try {
    const report = typeof end === 'string'
      ? intoArchive(sender, end, receive, given.onProgress)
      : intoStore(sender, end, receive, given.onProgress);
    for (const { file, reason } of experiments.length > 0 ? [] : sender.damaged()) {
      fail(report, file, reason);
    }
    return report;
  } finally {
    sender.close();
  }
}
