// Measures the host: `node bench.mjs [RUNS]`, on a directory below TMPDIR. Each figure is the median of several.

import * as fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { FileStoreConfig, parse } from './src/index.js';

const median = (times) => times.sort((one, other) => one - other)[times.length >> 1];

function time(call, times = 5) {
  const taken = [];
  for (let index = 0; index < times; index += 1) {
    const start = performance.now();
    call(index);
    taken.push(performance.now() - start);
  }
  return median(taken);
}

const show = (what, milliseconds, unit = 'ms') => console.log(`${what.padEnd(58)} ${milliseconds.toFixed(unit === 'ms' ? 1 : 0).padStart(9)} ${unit}`);

const connect = (root) => new FileStoreConfig({ root }).scoped('bench:1').connect();

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
const root = fs.mkdtempSync(join(tmpdir(), 'metalab-node-bench-'));
try {
  const store = connect(root);
  const record = (index) => ({
    runId: index.toString(16).padStart(16, '0'),
    status: index % 9 ? 'success' : 'failed',
    startedAt: new Date(1_767_225_600_000 + index * 1000).toISOString(),
    durationMs: index,
    metrics: { accuracy: index / runs, epochs: 20, f1: 0.5, loss: 1 / (index + 1), note: 'a text' },
    paramsResolved: { optimizer: { lr: 0.1, name: 'adam' }, seed: index, layers: [64, 64, 10] },
    provenance: { codeHash: '0123456789abcdef', host: 'node-1', pythonVersion: '3.12.1' },
    tags: ['bench'],
  });
  const start = performance.now();
  for (let index = 0; index < runs; index += 1000) {
    store.putRunRecords(Array.from({ length: Math.min(1000, runs - index) }, (_, offset) => record(index + offset)));
  }
  show(`put ${runs} runs in batches of 1,000, a run`, ((performance.now() - start) * 1000) / runs, 'us');
  show('put a run, durable', time((index) => store.putRunRecord(record(index)), 200) * 1000, 'us');
  show('get a run', time((index) => store.getRunRecord(record(index).runId), 1000) * 1000, 'us');
  show('get a run as text', time((index) => store.getRunText(record(index).runId), 1000) * 1000, 'us');
  show(`list ${runs} runs as records`, time(() => store.listRunRecords()));
  const lines = () => {
    const list = store.listRuns();
    const found = [];
    for (let text = list.nextLines(); text !== ''; text = list.nextLines()) {
      found.push(...text.slice(0, -1).split('\n'));
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
  const content = Buffer.alloc(64 << 20, 'x');
  const descriptor = { artifactId: 'a', name: 'big', kind: 'blob', format: 'bin', metadata: { _run_id: record(0).runId } };
  show('put an artifact of 64 MiB from bytes', time(() => store.putArtifact(content, descriptor), 3));
  const source = join(root, 'source');
  fs.writeFileSync(source, content);
  show('put an artifact of 64 MiB from a file', time(() => store.putArtifactFile(source, descriptor), 3));
  show('get an artifact of 64 MiB', time(() => store.getArtifact({ runId: record(0).runId, name: 'big' }), 3));
  store.close();
  const fresh = Array.from({ length: 5 }, () => JSON.parse(execFileSync(process.execPath, [fileURLToPath(import.meta.url), 'fresh', root], { encoding: 'utf8' })));
  show('open, in a fresh process', median(fresh.map(([opened]) => opened)));
  show(`list ${runs} runs as records, in a fresh process`, median(fresh.map(([, listed]) => listed)));
  show('open again', time(() => connect(root).close()));
} finally {
  fs.rmSync(root, { recursive: true });
}
