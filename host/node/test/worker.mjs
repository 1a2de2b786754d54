// A process that uses a store as a test tells it, and says on standard output what it has done.
//
// `worker.mjs MODE ROOT ARGUMENTS…`; it ends with its standard input, if it does not end by itself.

import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import { ConflictError, FileStoreConfig, derive } from '../src/index.js';
import { raw } from '../src/store.js';
import { roots } from '../src/roots.js';

const [mode, root, ...rest] = process.argv.slice(2);
const store = new FileStoreConfig({ root }).scoped('exp:1').connect();
let over = false;
const told = new Promise((resolve) => {
  process.stdin.resume().on('end', () => {
    over = true;
    resolve();
  });
});

// Written at once: a process that is killed has said all that it did.
const say = (line) => fs.writeSync(1, `${line}\n`);
const turn = () => new Promise((resolve) => setImmediate(resolve));

const modes = {
  /** Adds one to the number in a run's notes, so many times, by compare and swap. */
  async count(runId, times) {
    for (let left = Number(times); left > 0; ) {
      const found = store.getVersionedRun(runId);
      const number = found === null ? 0 : Number(found.record.notes);
      try {
        store.putRunRecord({ runId, status: 'success', notes: String(number + 1) }, { expect: found?.revision ?? 'absent' });
      } catch (error) {
        if (error instanceof ConflictError) continue;
        throw error;
      }
      left -= 1;
      say('counted');
    }
  },

  /** Puts records, metrics, logs and artifacts until it is killed or told to end. */
  async write(prefix) {
    for (let number = 0; !over; number += 1) {
      const runId = `${prefix}${number % 5}`;
      store.putRunRecord({ runId, status: 'success', notes: String(number) });
      store.putDerived(runId, { number });
      store.appendLog(runId, 'run', `${number}\n`, { sync: true });
      const descriptor = { artifactId: `${runId}-data`, name: 'data', kind: 'blob', format: 'bin', metadata: { _run_id: runId } };
      store.putArtifact(Buffer.from(String(number).repeat(1000)), descriptor);
      say(`done ${number}`);
      await turn();
    }
  },

  /** Says of each run what another host says of it too, after a look at everything that the run has. */
  async read() {
    const { records, damaged } = store.listRunRecords();
    assert.deepEqual(damaged, []);
    for (const { runId, notes } of records.sort((a, b) => (a.runId < b.runId ? -1 : 1))) {
      const [{ uri, contentHash }] = store.listArtifacts(runId);
      store.openArtifact(uri, { verify: true }).close();
      assert.equal(Buffer.from(store.getArtifact(uri)).toString(), notes.repeat(1000));
      assert.deepEqual(store.getDerived(runId), { number: Number(notes) });
      assert.equal(store.getLog(runId, 'run').trimEnd().split('\n').at(-1), notes);
      say(`${runId} ${notes} ${contentHash}`);
    }
  },

  /** Runs a plugin, one run after the other, and says after each which processes it has started. */
  async derive(plugin) {
    const onProgress = () => say(fs.readFileSync(`/proc/self/task/${process.pid}/children`, 'utf8').trim());
    await derive(store.config, plugin, { workers: 1, limits: { timeMs: 86_400_000 }, onProgress });
  },

  /** Holds the lock of a run, as a call in the middle does. */
  async hold(runId) {
    const { imports } = roots(raw(store).grant);
    const [lock] = imports['metalab:store/roots'].acquire({ tag: 'run', val: runId }, 'exclusive', 10_000);
    say('held');
    await told;
    lock[Symbol.dispose]();
  },
};

await modes[mode](...rest);
store.close();
process.exit();
