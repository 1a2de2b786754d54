// Makes the calls of the conformance script, as `tests/conformance/README.md` says: `conformance.mjs SCRIPT ROOT`.
//
// It uses the package's public methods, those for text where the script is about the text itself, and turns what they return
// into what the script has. What is left to calls of the contract: `put_derived` and `put_artifact` where their arguments have no
// value in JavaScript (a name that is there twice, a text that is no JSON or no object), and `put_derived_batch`, which the
// package does not offer.

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import * as fs from 'node:fs';
import { dirname, join, sep } from 'node:path';
import { pathToFileURL } from 'node:url';
import {
  ClosedError, FileStoreConfig, Float, PostgresStoreConfig, StoreError, collectGarbage, derive, exportStore, parse, parseLocator, verify,
} from '../src/index.js';
import { fromWire } from '../src/errors.js';
import { isFloat, parseInto, stringifyFrom } from '../src/json.js';
import { raw } from '../src/store.js';
import { TARGET } from './help.mjs';

const sha256 = (content) => createHash('sha256').update(content).digest('hex');
const hashed = (content) => ({ size: content.byteLength, sha256: sha256(content) });
const describe = (error) => ({ code: error.code, message: error.message });
const content = ({ text, times }) => Buffer.from(text.repeat(times));
const optional = (value) => (value === null ? undefined : value);

/** What stands for a text that JavaScript has no value for. */
const NO_JSON = Symbol('no JSON');

const loaded = (text) => {
  try {
    return parse(text);
  } catch {
    return NO_JSON;
  }
};

const isObject = (value) => typeof value === 'object' && value !== null && !Array.isArray(value);

/** Returns a float as the component prints it, which is as Python does. */
const floatText = (value) => {
  const [digits, power] = value.toExponential().split('e').map((part, index) => (index === 0 ? part : Number(part)));
  if (power >= -4 && power < 16) {
    return Number.isInteger(value) ? `${value}.0` : String(value);
  }
  return `${digits}e${power < 0 ? '-' : '+'}${String(Math.abs(power)).padStart(2, '0')}`;
};

const PARTS = /"(?:[^"\\]|\\.)*"|-?\d[\d.]*(?:e[+-]?\d+)?|[:,]/g;

/** Returns a property's text as the component prints it, with or without a space after its separators. */
const printed = (holder, key, space = '') =>
  stringifyFrom(holder, key).replace(PARTS, (part) => {
    if (part === ':' || part === ',') {
      return part + space;
    }
    if (part.startsWith('"')) {
      return part.replace(/[^\0-\x7f]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`);
    }
    return /[.e]/.test(part) && !Object.is(Number(part), -0) ? floatText(Number(part)) : part;
  });

/** Returns a descriptor as JavaScript has it, or undefined if it cannot: its metadata are no object. */
const descriptorFrom = (given) => {
  const [metadata, unknown] = [loaded(given.metadata), loaded(given.unknown)];
  if (!isObject(metadata) || !isObject(unknown)) {
    return undefined;
  }
  return {
    artifactId: given.artifact_id,
    name: given.name,
    kind: given.kind,
    format: given.format,
    uri: given.uri,
    contentHash: given.content_hash,
    sizeBytes: given.size_bytes,
    metadata,
    unknown,
  };
};

/** What a put returns has the text that it was given, with spaces; what is read has none. */
const descriptorTo = (descriptor, space = '') =>
  descriptor && {
    artifact_id: descriptor.artifactId,
    name: descriptor.name,
    kind: descriptor.kind,
    format: descriptor.format,
    uri: descriptor.uri,
    content_hash: descriptor.contentHash,
    size_bytes: descriptor.sizeBytes,
    metadata: printed(descriptor, 'metadata', space),
    unknown: printed(descriptor, 'unknown', space),
  };

/** A descriptor as the contract has it. */
const descriptorTexts = ({ artifact_id: artifactId, content_hash: hash, size_bytes: size, ...rest }) => ({
  ...rest,
  artifactId,
  contentHash: optional(hash),
  sizeBytes: size === null ? undefined : BigInt(size),
});

const headerTo = ({ experimentId, timestamp, counter }) => ({ experiment_id: experimentId, timestamp, counter });

const expectation = (expect) => ({ expect: typeof expect === 'string' ? expect : expect.revision });

/** Directories whose content is no part of the tree. */
const HIDDEN = ['.index', '.locks', '.quarantine'];

const bits = new DataView(new ArrayBuffer(8));

/** Metrics are `[name, case, value]`: an integer in decimal, a float as the digits of its bits. */
const floatFrom = (digits) => {
  bits.setBigUint64(0, BigInt(`0x${digits}`));
  return bits.getFloat64(0);
};

const metricsFrom = (metrics) =>
  metrics.map(([name, tag, given]) => {
    let val = given;
    if (tag === 'integer') {
      val = BigInt(given);
    } else if (tag === 'float') {
      val = floatFrom(given);
    }
    return { name, value: { tag, val } };
  });

/** Returns metrics as JavaScript has them, or undefined if it cannot: a name twice, or a text that is no JSON. */
const metricValues = (metrics) => {
  const value = { boolean: (given) => given, text: (given) => given, integer: BigInt, float: (given) => new Float(floatFrom(given)) };
  const values = Object.fromEntries(metrics.map(([name, tag, given]) => [name, (value[tag] ?? loaded)(given)]));
  const all = Object.values(values);
  return all.length === metrics.length && !all.includes(NO_JSON) ? values : undefined;
};

const metricsTo = (metrics) => metrics && Object.keys(metrics).sort(byBytes).map((name) => [name, ...metricTo(metrics, name)]);

const byBytes = (one, other) => Buffer.compare(Buffer.from(one), Buffer.from(other));

/** Returns the contract's case of a metric, and its value as the script has it. */
const metricTo = (metrics, name) => {
  const value = metrics[name];
  switch (typeof value) {
    case 'boolean':
      return ['boolean', value];
    case 'bigint':
      return [BigInt.asIntN(64, value) === value ? 'integer' : 'big-integer', String(value)];
    case 'number':
      if (!isFloat(value, metrics, name)) {
        return ['integer', String(value)];
      }
      bits.setFloat64(0, value);
      return ['float', bits.getBigUint64(0).toString(16).padStart(16, '0')];
    case 'string':
      return value.isWellFormed() ? ['text', value] : ['other', printed(metrics, name)];
    default:
      return ['other', printed(metrics, name)];
  }
};

const outcomes = (given) => given.map(({ revision, error }) => (error === undefined ? { revision } : { error: describe(error) }));

const counts = ({ runs, files }) => ({ runs, files });

class Executor {
  #root;
  #index;
  #stores = new Map();
  #cursor;

  constructor(root, index) {
    this.#root = root;
    this.#index = index;
  }

  async *run(operations) {
    for (const { call, args } of operations) {
      yield this.#hidden(await this.#one(call, args));
    }
    for (const store of this.#stores.values()) {
      store.close();
    }
    const files = this.#files();
    const text = Object.entries(files).map(([path, digest]) => `${path}\0${digest}\n`);
    yield { tree: sha256(text.join('')), files };
  }

  async #one(call, args) {
    try {
      if (Object.hasOwn(this.#free, call)) {
        return { answer: (await this.#free[call](args)) ?? null };
      }
      const store = this.#stores.get(args.store);
      if (store === undefined) {
        throw new ClosedError();
      }
      return { answer: this.#calls[call](store, args) ?? null };
    } catch (error) {
      if (error instanceof StoreError) {
        return { error: describe(error) };
      }
      throw error;
    }
  }

  #hidden(value) {
    return JSON.parse(JSON.stringify(value).replaceAll(this.#root, '<root>'));
  }

  #files() {
    const found = [];
    const walk = (directory, prefix) => {
      for (const entry of fs.readdirSync(directory, { withFileTypes: true })) {
        const path = prefix + entry.name;
        if (entry.isDirectory()) {
          found.push([`${path}/`, '']);
          if (!HIDDEN.includes(entry.name)) {
            walk(join(directory, entry.name), `${path}/`);
          }
        } else {
          const text = fs.readFileSync(join(directory, entry.name), 'latin1');
          found.push([path, sha256(Buffer.from(text.replaceAll(this.#root, '<root>'), 'latin1'))]);
        }
      }
    };
    walk(this.#root, '');
    found.sort(([one], [other]) => Buffer.compare(Buffer.from(one), Buffer.from(other)));
    return Object.fromEntries(found);
  }

  #free = {
    open: (args) => {
      this.#stores.set(args.store, this.#config(args).connect());
    },
    verify: (args) => {
      const { findings, runs, damage, warnings, orphans, leftovers, repaired } = verify(this.#config(args), { repair: args.repair });
      return {
        findings: findings.map(({ severity, kind, file, runId, reason, wayOut, repaired: done }) => ({
          severity, kind, file, run_id: runId, reason, way_out: wayOut, repaired: done,
        })),
        report: { runs, damage, warnings, orphans, leftovers, repaired },
      };
    },
    collect_garbage: (args) => {
      const { files, bytes, keptFiles, keptBytes, unseen, found } = collectGarbage(this.#config(args), { apply: args.apply, graceSeconds: 0 });
      return { files, bytes, kept_files: keptFiles, kept_bytes: keptBytes, unseen, found };
    },
    transfer: ({ from, to, experiments, filter: where, existing, dry_run: dryRun }) => {
      const report = exportStore(join(this.#root, from), join(this.#root, to), { experiments, where, existing, dryRun });
      const failures = report.failures.map(({ experimentId, runId, file, reason }) => ({ experiment_id: experimentId, run_id: runId, file, reason }));
      return { copied: counts(report.copied), skipped: counts(report.skipped), failed: counts(report.failed), removed: report.removed, failures };
    },
    derive: async (args) => {
      const plugin = join(TARGET, 'plugins', `${args.plugin}.wasm`);
      const limits = { calls: 100, timeMs: 300_000 };
      const { runs, derived, failures } = await derive(this.#config(args), plugin, { where: args.filter, dryRun: args.dry_run, limits });
      return { runs, derived, failures: failures.map(({ runId, code }) => ({ run_id: runId, code })) };
    },
    list_experiments: () => new FileStoreConfig({ root: this.#root }).listExperiments(),
    parse_locator: ({ locator }) => parseLocator(locator),
    plant: ({ file, text }) => {
      const path = join(this.#root, file);
      fs.mkdirSync(dirname(path), { recursive: true });
      fs.writeFileSync(path, text);
    },
    remove: ({ file }) => fs.unlinkSync(join(this.#root, file)),
  };

  #config({ experiment, read_only: readOnly, below }) {
    const settings = { root: join(this.#root, below ?? ''), access: readOnly ? 'read-only' : 'read-write' };
    const plain = this.#index === null || below !== undefined;
    const config = plain ? new FileStoreConfig(settings) : new PostgresStoreConfig({ ...settings, ...this.#index });
    return experiment === null ? config : config.scoped(experiment);
  }

  #reference({ uri, run, name }) {
    return uri === undefined ? { runId: run, name } : uri.replaceAll('<root>', this.#root);
  }

  #query({ filter, sort, columns, limit, cursor, check }) {
    return { filter, sort, columns, limit, cursor: cursor === '<last>' ? this.#cursor : cursor, check: check ?? false };
  }

  #lines(list) {
    try {
      const lines = [];
      for (let text; (text = list.nextLines(0x7fffffff)) !== ''; ) {
        lines.push(...text.slice(0, -1).split('\n'));
      }
      return { total: list.total, columns: list.columns, lines, cursor: list.cursor, damaged: list.damaged() };
    } finally {
      list.close();
    }
  }

  #calls = {
    close: (store, { store: name }) => {
      this.#stores.delete(name);
      store.close();
    },
    working_directory: (store) => store.getWorkingDirectory(),
    put_run_text: (store, { record, expect }) => store.putRunText(record, expectation(expect)),
    put_run_lines: (store, { lines }) => outcomes(store.putRunLines(lines)),
    get_run_text: (store, { run }) => store.getRunText(run),
    run_status: (store, { run }) => store.getRunRecord(run)?.status,
    run_metrics: (store, { run }) => metricsTo(store.getRunRecord(run)?.metrics),
    get_derived: (store, { run }) => metricsTo(store.getDerived(run)),
    put_derived: (store, { run, metrics }) => {
      const values = metricValues(metrics);
      if (values === undefined) {
        return raw(store).call((wire) => wire.putDerived(run, metricsFrom(metrics)));
      }
      return store.putDerived(run, values);
    },
    put_derived_batch: (store, { derived }) => {
      const given = derived.map(([run, metrics]) => [run, metricsFrom(metrics)]);
      const found = raw(store).call((wire) => wire.putDerivedBatch(given));
      return outcomes(found.map(({ tag, val }) => (tag === 'ok' ? { revision: val } : { error: fromWire(val) })));
    },
    list_runs: (store, { experiment }) => {
      const answer = this.#lines(store.listRuns(experiment));
      // As many records as lines: what has no typed form is damaged there.
      const { records, damaged } = store.listRunRecords(experiment);
      assert.equal(records.length + damaged.length, answer.lines.length + answer.damaged.length);
      return answer;
    },
    query_runs: (store, args) => {
      const answer = this.#lines(store.queryRuns(this.#query(args)));
      if (answer.cursor !== null) {
        this.#cursor = answer.cursor;
        answer.cursor = '<cursor>';
      }
      return answer;
    },
    query_rows: (store, args) => {
      const list = store.queryRuns(this.#query(args));
      try {
        const rows = [];
        for (let page; (page = list.nextRows(4096)).length > 0; ) {
          rows.push(...page.map((row) => row.map((value, index) => (value === undefined ? null : printed(row, index)))));
        }
        return { columns: list.columns, rows };
      } finally {
        list.close();
      }
    },
    list_fields: (store, { filter }) => {
      const { fields, ...rest } = store.listFields(filter);
      const text = (holder, key) => (holder[key] === null ? null : printed(holder, key));
      const field = (one) => ({ ...one, min: text(one, 'min'), max: text(one, 'max'), values: one.values.map((_, index) => printed(one.values, index)) });
      return { fields: fields.map(field), ...rest };
    },
    run_exists: (store, { run }) => store.runExists(run),
    delete_run: (store, { run }) => store.deleteRun(run),
    put_derived_text: (store, { run, derived }) => store.putDerivedText(run, derived),
    get_derived_text: (store, { run }) => store.getDerivedText(run),
    derived_exists: (store, { run }) => store.derivedExists(run),
    put_result: (store, { run, name, dtype, shape, ...texts }) => {
      const result = { dtype, shape, metadata: loaded(texts.metadata), unknown: loaded(texts.unknown) };
      try {
        parseInto(result, 'data', texts.data);
      } catch {
        result.data = NO_JSON;
      }
      if (result.data === NO_JSON || !isObject(result.metadata) || !isObject(result.unknown)) {
        const { data, ...rest } = texts;
        return store.putResultText(run, name, data, { dtype, shape, ...rest });
      }
      return store.putResult(run, name, result);
    },
    get_result_text: (store, { run, name }) => store.getResultText(run, name),
    list_results: (store, { run }) => store.listResults(run),
    put_log: (store, { run, name, content: text }) => store.putLog(run, name, text),
    append_log: (store, { run, name, content: text, sync }) => store.appendLog(run, name, text, { sync }),
    get_log: (store, { run, name }) => store.getLog(run, name),
    read_log: (store, { run, name, offset, max_bytes: maxBytes }) => {
      const chunk = store.readLog(run, name, { offset, maxBytes });
      return chunk && { text: chunk.text, next_offset: chunk.nextOffset, replaced: chunk.replaced, end: chunk.end };
    },
    list_logs: (store, { run }) => store.listLogs(run),
    log_path: (store, { run, name }) => store.getLogPath(run, name),
    put_artifact: (store, { content: given, descriptor }) => {
      const values = descriptorFrom(descriptor);
      if (values === undefined) {
        return raw(store).call((wire) => wire.putArtifact(content(given), descriptorTexts(descriptor)));
      }
      return descriptorTo(store.putArtifact(content(given), values), ' ');
    },
    write_artifact: (store, { chunks, descriptor }) => {
      const writer = store.createArtifact(descriptorFrom(descriptor));
      try {
        for (const chunk of chunks) {
          writer.write(content(chunk));
        }
        return descriptorTo(writer.finish(), ' ');
      } finally {
        writer.close();
      }
    },
    put_artifact_file: (store, { content: given, descriptor }) => {
      const source = `${this.#root}-source`;
      fs.writeFileSync(source, content(given));
      try {
        return descriptorTo(store.putArtifactFile(source, descriptorFrom(descriptor)), ' ');
      } finally {
        fs.unlinkSync(source);
      }
    },
    get_artifact: (store, { artifact }) => hashed(store.getArtifact(this.#reference(artifact))),
    read_artifact: (store, { artifact, verify, reads }) => {
      const reader = store.openArtifact(this.#reference(artifact), { verify });
      try {
        return {
          size: reader.size,
          pieces: reads.map(([offset, length]) => hashed(reader.read(offset, length))),
          descriptor: descriptorTo(reader.descriptor),
        };
      } finally {
        reader.close();
      }
    },
    list_artifacts: (store, { run }) => store.listArtifacts(run).map((descriptor) => descriptorTo(descriptor)),
    put_manifest: (store, { experiment, body: text, timestamp }) => {
      const body = loaded(text);
      const header = isObject(body)
        ? store.putExperimentManifest(experiment, body, { timestamp })
        : store.putExperimentManifestText(experiment, text, { timestamp });
      return headerTo(header);
    },
    get_manifest: (store, { experiment }) => {
      const found = store.getExperimentManifest(experiment);
      return found && { header: headerTo(found.header), body: printed(found, 'body') };
    },
    list_manifests: (store, { experiment }) => store.listExperimentManifests(experiment).map(headerTo),
  };
}

/** Makes the calls of a script on an empty root, with a database as index if its settings are given. */
export async function transcript(script, root, index = null) {
  const { operations } = JSON.parse(fs.readFileSync(script, 'utf8'));
  const lines = [];
  for await (const line of new Executor(fs.realpathSync(root).replace(new RegExp(`${sep}$`), ''), index).run(operations)) {
    lines.push(line);
  }
  return lines;
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(process.argv[1]).href) {
  for (const line of await transcript(process.argv[2], process.argv[3])) {
    process.stdout.write(`${JSON.stringify(line)}\n`);
  }
}
