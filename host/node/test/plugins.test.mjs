// Plugins: what they see, what they may use, and what becomes of a run when one misbehaves.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, test } from 'node:test';
import { FileStoreConfig, Plugin, derive } from '../src/index.js';
import { TARGET, Worker, directory, open } from './help.mjs';

const EXAMPLE = join(TARGET, 'plugins/example.wasm');
// Nothing here takes long, but machines are busy.
const LIMITS = { timeMs: 300_000, calls: 100 };

/** The plugin for tests: it does what the id of the run says. */
let plugin;
before(async () => {
  plugin = await Plugin.load(join(TARGET, 'plugins/test.wasm'));
});

function put(store, ...runs) {
  for (const runId of runs) {
    store.putRunRecord({ runId, status: 'success', metrics: { loss: 0.25 } });
  }
}

function config(root) {
  return new FileStoreConfig({ root }).scoped('exp:1');
}

test('whatever a plugin does fails that run with a reason and stops no other', async (t) => {
  const { root, store } = open(t);
  const bad = {
    badinteger: 'garbage',
    badjson: 'garbage',
    call: 'calls',
    control: 'garbage',
    exhaust: 'memory',
    large: 'garbage',
    longname: 'garbage',
    overflow: 'trap',
    refuse: 'refused',
    shout: 'refused',
    some: 'garbage',
    trap: 'trap',
    twice: 'garbage',
    unnamed: 'garbage',
  };
  const good = ['count-1', 'count-2', 'hash', 'nan', 'zero'];
  put(store, ...Object.keys(bad), ...good);
  store.putDerived('trap', { kept: 1 });
  const seen = [];
  const report = await derive(config(root), plugin, { limits: LIMITS, onProgress: (progress) => seen.push(progress.done) });
  assert.deepEqual(Object.fromEntries(report.failures.map(({ runId, code }) => [runId, code]).sort()), bad);
  assert.deepEqual([report.runs, report.derived, seen.length], [19, 5, 19]);
  for (const { message } of report.failures) {
    assert.ok(message.length < 2000, message);
  }
  for (const run of good) {
    assert.ok(store.derivedExists(run), run);
  }
  for (const run of Object.keys(bad)) {
    assert.equal(store.derivedExists(run), run === 'trap', run);
  }
  assert.deepEqual({ ...store.getDerived('count-2') }, { runs: 1 });
});

test('a plugin that loops ends when its time is over', async (t) => {
  const { root, store } = open(t);
  put(store, 'loop', 'zero');
  const report = await derive(config(root), plugin, { where: 'run_id = "loop"', limits: { timeMs: 200 } });
  assert.deepEqual(report.failures, [{ runId: 'loop', code: 'time', message: 'the plugin took longer than 200 ms' }]);
});

test('a plugin reads all of a run through the store, and nothing of another experiment', async (t) => {
  const { root, store } = open(t);
  put(store, 'run', 'other');
  store.putDerived('run', { a: 1, b: 2 });
  store.putLog('run', 'out', '0123456789');
  store.putArtifact(Buffer.from('abcdefgh'), { artifactId: 'a', name: 'model', kind: 'blob', format: 'bin', metadata: { _run_id: 'run' } });
  const foreign = new FileStoreConfig({ root }).scoped('other:1').connect();
  put(foreign, 'secret');
  foreign.close();
  const report = await derive(config(root), plugin);
  assert.deepEqual(report.failures, []);
  const read = store.getDerived('run');
  assert.equal(read['artifact model'], 'abcdefgh');
  assert.equal(read['log out'], '23456');
  assert.equal(read.derived, '2');
  assert.equal(read.status, 'Status::Success');
  const seen = store.getDerived('other');
  assert.match(seen.parent, /InvalidName$/);
  assert.match(seen.absolute, /InvalidName$/);
  assert.equal(seen.foreign, 'false');
});

test('the example derives what queries find, and a dry run stores nothing', async (t) => {
  const { root, store } = open(t);
  put(store, 'a', 'b', 'c');
  assert.equal((await derive(config(root), EXAMPLE, { dryRun: true })).derived, 3);
  assert.ok(!store.derivedExists('a'));
  assert.equal((await derive(config(root), EXAMPLE, { where: 'run_id != "c"' })).derived, 2);
  const found = store.queryRuns({ filter: 'derived.metric_norm = 0.25', sort: 'run_id', columns: 'run_id' });
  assert.deepEqual([...found.rows()].map((row) => row.run_id), ['a', 'b']);
  await assert.rejects(derive(config(root), EXAMPLE, { where: 'metrics.loss <' }), { code: 'invalid-query' });
});

test('whoever stops it need not wait for a plugin that loops', async (t) => {
  const { root, store } = open(t);
  put(store, 'loop-1', 'loop-2', 'zero');
  const stop = new AbortController();
  const work = derive(config(root), plugin, {
    limits: { timeMs: 86_400_000 },
    workers: 3,
    signal: stop.signal,
    onProgress: () => stop.abort(new Error('enough')),
  });
  await assert.rejects(work, /enough/);
});

/** Returns the processor time that a process has used, or null if it is gone. */
function usedTime(pid) {
  let stat;
  try {
    stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  } catch {
    return null;
  }
  const [state, ...fields] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return state === 'Z' || state === 'X' ? null : Number(fields[10]);
}

test('a plugin that loops ends when the process that derives is killed', async (t) => {
  const { root, store } = open(t);
  put(store, 'count-1', 'loop-1');
  store.close();
  const worker = Worker.node(t, 'derive', root, join(TARGET, 'plugins/test.wasm'));
  const children = (await worker.line()).split(' ');
  assert.equal(children.length, 1);
  const [child] = children;
  t.after(() => usedTime(child) === null || process.kill(child, 'SIGKILL'));
  // It loops as soon as it uses the processor for longer than anything else that it does takes.
  for (const before = usedTime(child); usedTime(child) < before + 50; ) {
    await new Promise(setImmediate);
  }
  await worker.kill();
  while (usedTime(child) !== null) {
    await new Promise(setImmediate);
  }
});

test('what is no plugin has the code that it has in every host', async (t) => {
  const code = async (source) => {
    try {
      await Plugin.load(source);
      return 'none';
    } catch (error) {
      return error.code;
    }
  };
  assert.equal(await code(join(directory(t), 'nowhere.wasm')), 'plugin-missing');
  const component = readFileSync(join(TARGET, 'component/metalab_store.wasm'));
  for (const bytes of ['', 'no wasm', '\0asm\x01\0\0\0', '\0asm\x0d\0\x01\0']) {
    assert.equal(await code(Buffer.from(bytes, 'latin1')), 'plugin-world', JSON.stringify(bytes));
  }
  assert.equal(await code(component), 'plugin-world');
  const example = readFileSync(EXAMPLE).toString('latin1');
  const other = example.replaceAll('metalab:store/view@0.1.0', 'metalab:store/view@0.9.0');
  assert.equal(await code(Buffer.from(other, 'latin1')), 'plugin-version');
  const whole = new FileStoreConfig({ root: directory(t) });
  await assert.rejects(derive(whole, EXAMPLE), { code: 'invalid-argument' });
});

test('options that there are not, or that make no sense, are refused before anything is done', async (t) => {
  const { root, store } = open(t);
  put(store, 'zero');
  for (const [options, message] of [
    [{ wher: '' }, /"wher", which is none of where,/],
    [{ workers: 'x' }, /workers/],
    [{ workers: 0 }, /workers/],
    [{ workers: 1.5 }, /workers/],
    [{ workers: NaN }, /workers/],
    [{ workers: 257 }, /workers/],
    [{ where: 5 }, /where/],
    [{ dryRun: 'no' }, /dryRun/],
    [{ limits: { timeMS: 5 } }, /timeMS/],
    [{ limits: { timeMs: -1 } }, /timeMs/],
    [{ limits: { memoryBytes: '1' } }, /memoryBytes/],
    [{ limits: 5 }, /limits/],
    [{ onProgress: 5 }, /onProgress/],
    [{ signal: 5 }, /signal/],
    [5, /options/],
  ]) {
    await assert.rejects(derive(config(root), plugin, options), { code: 'invalid-argument', message }, JSON.stringify(options));
  }
  assert.equal(store.derivedExists('zero'), false);
  assert.equal((await derive(config(root), plugin, { limits: LIMITS, workers: 1 })).derived, 1);
});
