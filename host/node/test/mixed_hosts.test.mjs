// Rust and Node on one store: locks exclude each other, each reads what the other wrote, and what a killed writer left
// undone is done by the other.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { FileStoreConfig, LockedError } from '../src/index.js';
import { Worker, directory } from './help.mjs';

const place = (test) => join(directory(test), 'store');

function reading(root, call, settings = { access: 'read-only' }) {
  const store = new FileStoreConfig({ root, ...settings }).scoped('exp:1').connect();
  try {
    return call(store);
  } finally {
    store.close();
  }
}

const notes = (root, runId) => reading(root, (store) => store.getRunRecord(runId)?.notes ?? null);

test('writers of both hosts count together and lose nothing', async (t) => {
  const root = place(t);
  const times = 40;
  const workers = [Worker.node, Worker.rust, Worker.node, Worker.rust].map((start) => start(t, 'count', root, 'counter', String(times)));
  assert.deepEqual(await Promise.all(workers.map((worker) => worker.end())), [times, times, times, times]);
  assert.equal(notes(root, 'counter'), String(4 * times));
});

test('a lock of this host keeps the Rust host out until it is released', async (t) => {
  const root = place(t);
  const holder = Worker.node(t, 'hold', root, 'counter');
  assert.equal(await holder.line(), 'held');
  const other = Worker.rust(t, 'count', root, 'counter', '1');
  // Nobody counts as long as it is held.
  reading(root, (store) => assert.throws(() => store.putDerived('counter', {}), LockedError), { lockTimeoutMs: 200 });
  assert.equal(notes(root, 'counter'), null);
  await holder.end();
  assert.equal(await other.line(), 'counted');
  await other.end();
  assert.equal(notes(root, 'counter'), '1');
});

function assertWhole(store) {
  const { records, damaged } = store.listRunRecords();
  assert.deepEqual(damaged, []);
  for (const { runId } of records) {
    for (const { uri, sizeBytes } of store.listArtifacts(runId)) {
      const reader = store.openArtifact(uri, { verify: true });
      assert.equal(reader.size, sizeBytes);
      reader.close();
    }
  }
  return records;
}

/** Whoever came next cleaned up after a writer that was killed. */
function assertClean(root) {
  const names = fs.readdirSync(root, { recursive: true }).map((path) => path.split('/').at(-1));
  const left = names.filter((name) => (name.includes('.tmp.') || name.startsWith('journal-')) && !name.endsWith('.lock'));
  assert.deepEqual(left, []);
}

test('what a killed Node writer said was done is there for the Rust host', async (t) => {
  const root = place(t);
  const writer = Worker.node(t, 'write', root, 'w');
  let done = 0;
  for (; done < 30; done += 1) {
    assert.notEqual(await writer.line(), undefined);
  }
  done += await writer.kill();
  // The Rust host recovers, and goes on.
  await Worker.rust(t, 'count', root, 'other', '1').end();
  assertClean(join(root, 'exp_1'));
  reading(root, (store) => {
    const runs = assertWhole(store).filter(({ runId }) => runId !== 'other');
    const numbers = runs.map((run) => Number(run.notes));
    // The last call may have been done, and not said.
    assert.ok([done - 1, done].includes(Math.max(...numbers)), `${numbers} after ${done}`);
    for (const run of runs) {
      const last = Number(store.getLog(run.runId, 'run').trimEnd().split('\n').at(-1));
      assert.ok([Number(run.notes), Number(run.notes) - 5].includes(last));
    }
  });
});

test('what a killed Rust writer said was done is there for this host', async (t) => {
  const root = place(t);
  const writer = Worker.rust(t, 'script', root, 'w', '7');
  for (let done = 0; done < 30; done += 1) {
    assert.notEqual(await writer.line(), undefined);
  }
  await writer.kill();
  reading(
    root,
    (store) => {
      const records = assertWhole(store);
      assert.notEqual(records.length, 0);
      assert.ok(records.every(({ status }) => status === 'success'));
    },
    {},
  );
  assertClean(join(root, 'exp_1'));
});

test('each host reads what the other wrote', async (t) => {
  const root = place(t);
  const [rust, node] = [Worker.rust(t, 'script', root, 'r', '3'), Worker.node(t, 'write', root, 'n')];
  for (let line = 0; line < 20; line += 1) {
    assert.notEqual(await rust.line(), undefined);
    assert.notEqual(await node.line(), undefined);
  }
  await rust.end();
  await node.end();
  const runs = reading(root, assertWhole).map(({ runId }) => runId);
  assert.deepEqual(new Set(runs.map((runId) => runId[0])), new Set(['n', 'r']));
  // A reader of the Rust host checks what it finds of this one's runs.
  const reader = Worker.rust(t, 'list', root, ...runs.filter((runId) => runId.startsWith('n')).sort());
  assert.equal(await reader.line(), 'listed');
  await reader.end();
});
