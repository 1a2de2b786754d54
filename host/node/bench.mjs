// Measures the host: `node bench.mjs [RUNS] [MIB]`, on a directory below TMPDIR, with sync unless it says otherwise.
//
// Each figure is the median of several; where there is something to compare with, both take turns. The last column is what is
// to be reached: a time, or the ratio.

import * as fs from 'node:fs';
import { randomBytes } from 'node:crypto';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { FileStoreConfig, Plugin, derive, parse, stringify } from './src/index.js';

const TARGET = process.env.METALAB_TARGET ?? fileURLToPath(new URL('../../target', import.meta.url));
/** The Rust host's part: `cargo xtask build` builds it. */
const RUST = join(TARGET, 'release/store-worker');
/** A plugin that answers one number for runs of these names. `cargo xtask plugins` builds it. */
const PLUGIN = join(TARGET, 'plugins/test.wasm');
const ONE_NUMBER = 'count-';

const median = (times) => times.sort((one, other) => one - other)[times.length >> 1];

function once(call, index = 0) {
  const start = performance.now();
  call(index);
  return performance.now() - start;
}

const time = (call, times = 5) => median(Array.from({ length: times }, (_, index) => once(call, index)));

/** The medians of two calls that take turns. */
function compared(one, other, times = 5) {
  const pairs = Array.from({ length: times }, () => [once(one), once(other)]);
  return [median(pairs.map(([mine]) => mine)), median(pairs.map(([, theirs]) => theirs))];
}

const text = (milliseconds, unit) => (unit === 'ms' ? `${milliseconds.toFixed(1)} ms` : `${(milliseconds * 1000).toFixed(0)} us`);

const line = (what, ours, theirs, ratio, reach) => console.log(what.padEnd(58) + ours.padStart(12) + theirs.padStart(12) + ratio.padStart(8) + reach.padStart(10));

const show = (what, milliseconds, { unit = 'ms', reach = '' } = {}) => line(what, text(milliseconds, unit), '', '', reach);

const against = (what, [ours, theirs], { unit = 'ms', reach = '' } = {}) =>
  line(what, text(ours, unit), text(theirs, unit), (ours / theirs).toFixed(2), reach);

const connect = (root, settings = {}) => new FileStoreConfig({ root, ...settings }).scoped('bench:1').connect();

if (process.argv[2] === 'fresh') {
  const start = performance.now();
  const store = connect(process.argv[3]);
  const opened = performance.now();
  const { records } = store.listRunRecords();
  console.log(JSON.stringify([opened - start, performance.now() - opened, records.length]));
  store.close();
  process.exit();
}

const runs = Number(process.argv[2] ?? 10_000);
const mib = Number(process.argv[3] ?? 100);
const root = fs.mkdtempSync(join(tmpdir(), 'metalab-node-bench-'));

const record = (index, runId = index.toString(16).padStart(16, '0')) => ({
  runId,
  status: index % 9 ? 'success' : 'failed',
  startedAt: new Date(1_767_225_600_000 + index * 1000).toISOString(),
  durationMs: index,
  metrics: { accuracy: index / runs, epochs: 20, f1: 0.5, loss: 1 / (index + 1), note: 'a text' },
  paramsResolved: { optimizer: { lr: 0.1, name: 'adam' }, seed: index, layers: [64, 64, 10] },
  provenance: { codeHash: '0123456789abcdef', host: 'node-1', pythonVersion: '3.12.1' },
  tags: ['bench'],
});

function fill(store, name) {
  for (let index = 0; index < runs; index += 1000) {
    store.putRunRecords(Array.from({ length: Math.min(1000, runs - index) }, (_, offset) => record(index + offset, name?.(index + offset))));
  }
}

/** Durable puts beside those of the Rust host: the same texts, in turns. The first turn makes the files that the others replace. */
function besideRust() {
  if (!fs.existsSync(RUST)) {
    line('put a run, durable, beside the Rust host', 'not built', '', '', '');
    return;
  }
  const place = join(root, 'beside');
  const store = connect(place);
  for (let index = 0; index < 100; index += 1) {
    store.putRunRecord(record(index));
  }
  // Each store puts its own experiment into them.
  const texts = Array.from({ length: 100 }, (_, index) => stringify({ ...parse(store.getRunText(record(index).runId)), experiment_id: '' }));
  fs.writeFileSync(join(root, 'records'), `${texts.join('\n')}\n`);
  const [ours, theirs] = [[], []];
  for (let turn = 0; turn <= 5; turn += 1) {
    const mine = texts.map((given) => once(() => store.putRunText(given)));
    const said = execFileSync(RUST, ['timed', place, join(root, 'records')], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] });
    if (turn > 0) {
      ours.push(...mine);
      theirs.push(...said.trim().split('\n').map((microseconds) => Number(microseconds) / 1e3));
    }
  }
  store.close();
  against('put a run, durable, in turns with the Rust host', [median(ours), median(theirs)], { unit: 'us' });
}

function artifacts(store) {
  const descriptor = { artifactId: 'a', name: 'big', kind: 'blob', format: 'bin', metadata: { _run_id: record(0).runId } };
  const [source, copied] = [join(root, 'source'), join(root, 'copied')];
  const content = randomBytes(mib << 20);
  fs.writeFileSync(source, content);
  const copy = () => fs.copyFileSync(source, copied);
  const copySynced = () => {
    copy();
    const file = fs.openSync(copied);
    fs.fsyncSync(file);
    fs.closeSync(file);
  };
  const put = () => store.putArtifactFile(source, descriptor);
  const what = `an artifact of ${mib} MiB from a file`;
  against(`${what}, theirs a copy`, compared(put, copy), { reach: '2 x' });
  against('  the same, theirs synced', compared(put, copySynced), { reach: '2 x' });
  const relaxed = connect(join(root, 'relaxed'), { durability: 'relaxed' });
  against('  the same, neither synced', compared(() => relaxed.putArtifactFile(source, descriptor), copy), { reach: '2 x' });
  relaxed.close();
  show(`put an artifact of ${mib} MiB from bytes`, time(() => store.putArtifact(content, descriptor), 3));
  show(`get an artifact of ${mib} MiB`, time(() => store.getArtifact({ runId: record(0).runId, name: 'big' }), 3));
}

/** What a plugin costs beside its own work: it answers one number, and nothing is stored. */
async function plugin() {
  if (!fs.existsSync(PLUGIN)) {
    line('a plugin', 'not built', '', '', '');
    return;
  }
  const config = new FileStoreConfig({ root: join(root, 'plugin'), durability: 'relaxed' }).scoped('bench:1');
  const store = config.connect();
  fill(store, (index) => ONE_NUMBER + index);
  store.close();
  const loaded = await Plugin.load(PLUGIN);
  const taken = [];
  for (let round = 0; round < 3; round += 1) {
    const start = performance.now();
    const { derived } = await derive(config, loaded, { dryRun: true });
    taken.push((performance.now() - start) / derived);
  }
  show(`a plugin over ${runs} runs, not stored, a run`, median(taken), { unit: 'us', reach: '100 us' });
}

try {
  line('', 'store', 'beside it', 'ratio', 'reach');
  const store = connect(root);
  show(`put ${runs} runs in batches of 1,000, a run`, once(() => fill(store)) / runs, { unit: 'us' });
  show('put a run, durable', time((index) => store.putRunRecord(record(index)), 200), { unit: 'us' });
  besideRust();
  show('get a run', time((index) => store.getRunRecord(record(index).runId), 1000), { unit: 'us', reach: '300 us' });
  show('get a run as text', time((index) => store.getRunText(record(index).runId), 1000), { unit: 'us' });
  show(`list ${runs} runs as records`, time(() => store.listRunRecords()), { reach: '500 ms' });
  const lines = () => {
    const list = store.listRuns();
    const found = [];
    for (let page = list.nextLines(); page !== ''; page = list.nextLines()) {
      found.push(...page.slice(0, -1).split('\n'));
    }
    list.close();
    return found;
  };
  show(`list ${runs} runs as lines`, time(lines));
  show(`list ${runs} runs as lines, and parse them`, time(() => lines().map(parse)));
  const directory = join(root, 'bench_1/runs');
  show(`read and parse ${runs} files with node:fs`, time(() => fs.readdirSync(directory).map((name) => JSON.parse(fs.readFileSync(join(directory, name), 'utf8')))));
  const query = { filter: 'metrics.loss < 0.5 and status = "success"', sort: 'metrics.accuracy desc', columns: 'run_id, metrics.loss', limit: 100 };
  show('filter, sort, the first 100', time(() => [...store.queryRuns(query).rows()]));
  artifacts(store);
  store.close();
  const fresh = Array.from({ length: 5 }, () => JSON.parse(execFileSync(process.execPath, [fileURLToPath(import.meta.url), 'fresh', root], { encoding: 'utf8' })));
  show('open, in a fresh process', median(fresh.map(([opened]) => opened)), { reach: '100 ms' });
  show(`list ${runs} runs as records, in a fresh process`, median(fresh.map(([, listed]) => listed)), { reach: '500 ms' });
  show('open again', time(() => connect(root).close()));
  await plugin();
} finally {
  fs.rmSync(root, { recursive: true });
}
