// Makes the calls of the conformance script, as `tests/conformance/README.md` says: `conformance.mjs SCRIPT ROOT`.

import { createHash } from 'node:crypto';
import * as fs from 'node:fs';
import { dirname, join, sep } from 'node:path';
import { pathToFileURL } from 'node:url';
import { ClosedError, FileStoreConfig, PostgresStoreConfig, StoreError, collectGarbage, derive, exportStore, parseLocator, verify } from '../src/index.js';
import { fromWire } from '../src/errors.js';
import { raw } from '../src/store.js';
import { damageTo } from '../src/values.js';
import { TARGET } from './help.mjs';

const sha256 = (content) => createHash('sha256').update(content).digest('hex');
const hashed = (content) => ({ size: content.byteLength, sha256: sha256(content) });
const describe = (error) => ({ code: error.code, message: error.message });
const content = ({ text, times }) => Buffer.from(text.repeat(times));
const wide = (value) => (value === null ? undefined : BigInt(value));
const optional = (value) => (value === null ? undefined : value);
const orNull = (value) => (value === undefined ? null : value);

const descriptorFrom = (given) => ({
  artifactId: given.artifact_id,
  name: given.name,
  kind: given.kind,
  format: given.format,
  uri: given.uri,
  contentHash: optional(given.content_hash),
  sizeBytes: wide(given.size_bytes),
  metadata: given.metadata,
  unknown: given.unknown,
});

const descriptorTo = (wire) =>
  wire === undefined
    ? null
    : {
        artifact_id: wire.artifactId,
        name: wire.name,
        kind: wire.kind,
        format: wire.format,
        uri: wire.uri,
        content_hash: orNull(wire.contentHash),
        size_bytes: wire.sizeBytes === undefined ? null : Number(wire.sizeBytes),
        metadata: wire.metadata,
        unknown: wire.unknown,
      };

const headerTo = ({ experimentId, timestamp, counter }) => ({ experiment_id: experimentId, timestamp, counter });

const expectation = (expect) => {
  if (typeof expect === 'string') {
    return { tag: expect };
  }
  return { tag: 'revision', val: expect.revision };
};

/** Directories whose content is no part of the tree. */
const HIDDEN = ['.index', '.locks', '.quarantine'];

const bits = new DataView(new ArrayBuffer(8));

/** Metrics are `[name, case, value]`: an integer in decimal, a float as the digits of its bits. */
const metricsFrom = (metrics) =>
  metrics.map(([name, tag, given]) => {
    let val = given;
    if (tag === 'integer') {
      val = BigInt(given);
    } else if (tag === 'float') {
      bits.setBigUint64(0, BigInt(`0x${given}`));
      val = bits.getFloat64(0);
    }
    return { name, value: { tag, val } };
  });

const metricsTo = (metrics) =>
  metrics?.map(({ name, value: { tag, val } }) => {
    if (tag === 'float') {
      bits.setFloat64(0, val);
      return [name, tag, bits.getBigUint64(0).toString(16).padStart(16, '0')];
    }
    return [name, tag, tag === 'integer' ? String(val) : val];
  });

const outcomes = (given) => given.map(({ tag, val }) => (tag === 'ok' ? { revision: val } : { error: describe(fromWire(val)) }));

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
      return { answer: this.#calls[call](raw(store), args, store) ?? null };
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

  #reference(artifact) {
    if (artifact.uri !== undefined) {
      return { tag: 'uri', val: artifact.uri.replaceAll('<root>', this.#root) };
    }
    return { tag: 'name', val: [artifact.run, artifact.name] };
  }

  #query({ filter, sort, columns, limit, cursor, check }) {
    return { filter, sort, columns, limit: optional(limit), cursor: cursor === '<last>' ? this.#cursor : optional(cursor), check: check ?? false };
  }

  #lines(holder, open) {
    const list = holder.open(open);
    try {
      const lines = [];
      for (;;) {
        const text = list.call((runs) => runs.nextLines(0x7fffffff));
        if (text === '') {
          break;
        }
        lines.push(...text.slice(0, -1).split('\n'));
      }
      return list.call((runs) => ({
        total: Number(runs.total()),
        columns: runs.columns(),
        lines,
        cursor: orNull(runs.cursor()),
        damaged: damageTo(runs.damaged()),
      }));
    } finally {
      list.drop();
    }
  }

  #calls = {
    close: (_, { store: name }, store) => {
      this.#stores.delete(name);
      store.close();
    },
    working_directory: (holder) => holder.call((store) => store.getWorkingDirectory()),
    put_run_text: (holder, { record, expect }) => holder.call((store) => store.putRunText(record, expectation(expect))),
    put_run_lines: (holder, { lines }) => outcomes(holder.call((store) => store.putRunLines(lines))),
    get_run_text: (holder, { run }) => holder.call((store) => store.getRunText(run)),
    run_status: (holder, { run }) => holder.call((store) => store.getRunRecord(run))?.status,
    run_metrics: (holder, { run }) => metricsTo(holder.call((store) => store.getRunRecord(run))?.metrics),
    get_derived: (holder, { run }) => metricsTo(holder.call((store) => store.getDerived(run))),
    put_derived: (holder, { run, metrics }) => holder.call((store) => store.putDerived(run, metricsFrom(metrics))),
    put_derived_batch: (holder, { derived }) =>
      outcomes(holder.call((store) => store.putDerivedBatch(derived.map(([run, metrics]) => [run, metricsFrom(metrics)])))),
    list_runs: (holder, { experiment }) => this.#lines(holder, (store) => store.listRunRecords(optional(experiment))),
    query_runs: (holder, args) => {
      const answer = this.#lines(holder, (store) => store.queryRuns(this.#query(args)));
      if (answer.cursor !== null) {
        this.#cursor = answer.cursor;
        answer.cursor = '<cursor>';
      }
      return answer;
    },
    query_rows: (holder, args) => {
      const list = holder.open((store) => store.queryRuns(this.#query(args)));
      try {
        const rows = [];
        for (;;) {
          const page = list.call((runs) => runs.nextRows(4096));
          if (page.length === 0) {
            return { columns: list.call((runs) => runs.columns()), rows };
          }
          rows.push(...page.map((row) => row.map(orNull)));
        }
      } finally {
        list.drop();
      }
    },
    list_fields: (holder, { filter }) => {
      const { fields, complete, runs, damaged } = holder.call((store) => store.listFields(filter));
      const field = (one) => ({ ...one, runs: Number(one.runs), min: orNull(one.min), max: orNull(one.max) });
      return { fields: fields.map(field), complete, runs: Number(runs), damaged: damageTo(damaged) };
    },
    run_exists: (holder, { run }) => holder.call((store) => store.runExists(run)),
    delete_run: (holder, { run }) => holder.call((store) => store.deleteRun(run)),
    put_derived_text: (holder, { run, derived }) => holder.call((store) => store.putDerivedText(run, derived)),
    get_derived_text: (holder, { run }) => holder.call((store) => store.getDerivedText(run)),
    derived_exists: (holder, { run }) => holder.call((store) => store.derivedExists(run)),
    put_result: (holder, { run, name, data, dtype, shape, metadata, unknown }) => {
      const sides = shape === null ? undefined : BigUint64Array.from(shape.map(BigInt));
      return holder.call((store) => store.putResult(run, name, { data, dtype: optional(dtype), shape: sides, metadata, unknown }));
    },
    get_result_text: (holder, { run, name }) => holder.call((store) => store.getResultText(run, name)),
    list_results: (holder, { run }) => holder.call((store) => store.listResults(run)),
    put_log: (holder, { run, name, content: text }) => holder.call((store) => store.putLog(run, name, text)),
    append_log: (holder, { run, name, content: text, sync }) => Number(holder.call((store) => store.appendLog(run, name, text, sync))),
    get_log: (holder, { run, name }) => holder.call((store) => store.getLog(run, name)),
    read_log: (holder, { run, name, offset, max_bytes: most }) => {
      const chunk = holder.call((store) => store.readLog(run, name, BigInt(offset), most));
      return chunk && { text: chunk.text, next_offset: Number(chunk.nextOffset), replaced: chunk.replaced, end: chunk.end };
    },
    list_logs: (holder, { run }) => holder.call((store) => store.listLogs(run)),
    log_path: (holder, { run, name }) => holder.call((store) => store.getLogPath(run, name)),
    put_artifact: (holder, args) =>
      descriptorTo(holder.call((store) => store.putArtifact(content(args.content), descriptorFrom(args.descriptor)))),
    write_artifact: (holder, { chunks, descriptor }) => {
      const writer = holder.open((store) => store.createArtifact(descriptorFrom(descriptor)));
      try {
        for (const chunk of chunks) {
          writer.call((artifact) => artifact.write(content(chunk)));
        }
        return descriptorTo(writer.call((artifact) => artifact.finish()));
      } finally {
        writer.drop();
      }
    },
    put_artifact_file: (holder, { content: given, descriptor }) => {
      const wire = descriptorFrom(descriptor);
      const staged = holder.call((store) => store.stageArtifact(wire));
      fs.writeFileSync(`/proc/self/fd/${holder.grant.fd}/${staged}`, content(given), { flag: 'wx' });
      return descriptorTo(holder.call((store) => store.importArtifact(staged, wire)));
    },
    get_artifact: (_, { artifact }, store) => {
      const { tag, val } = this.#reference(artifact);
      return hashed(store.getArtifact(tag === 'uri' ? val : { runId: val[0], name: val[1] }));
    },
    read_artifact: (holder, { artifact, verify, reads }) => {
      const reader = holder.open((store) => store.openArtifact(this.#reference(artifact), verify));
      try {
        return reader.call((opened) => ({
          size: Number(opened.size()),
          pieces: reads.map(([offset, length]) => hashed(opened.read(BigInt(offset), length))),
          descriptor: descriptorTo(opened.descriptor()),
        }));
      } finally {
        reader.drop();
      }
    },
    list_artifacts: (holder, { run }) => holder.call((store) => store.listArtifacts(run)).map(descriptorTo),
    put_manifest: (holder, { experiment, body, timestamp }) =>
      headerTo(holder.call((store) => store.putExperimentManifest(experiment, body, optional(timestamp)))),
    get_manifest: (holder, { experiment }) => {
      const found = holder.call((store) => store.getExperimentManifest(experiment));
      return found && { header: headerTo(found.header), body: found.body };
    },
    list_manifests: (holder, { experiment }) => holder.call((store) => store.listExperimentManifests(experiment)).map(headerTo),
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
