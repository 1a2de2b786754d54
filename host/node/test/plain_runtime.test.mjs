// The same component in a runtime that knows nothing of us: jco's own WASI host, with a directory and stubs.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fs from 'node:fs';
import { WASIShim } from '@bytecodealliance/preview2-shim/instantiation';
import { instantiate } from '../src/component.js';
import { open } from './help.mjs';

test('jco\'s own host opens a store to read, and lists it as this one does', (t) => {
  const { store, root, inside } = open(t);
  store.putRunRecords(Array.from({ length: 10 }, (_, index) => ({ runId: `r${index}`, status: 'success', metrics: { loss: index / 7 } })));
  const list = store.listRuns();
  const lines = list.nextLines();
  store.close();
  const before = fs.readdirSync(root, { recursive: true });

  class Never {}
  const never = () => {
    throw { kind: 'not-granted', retryable: false, outcomeUnknown: false, message: 'no database' };
  };
  const stubs = {
    'metalab:store/roots': {
      Lock: Never,
      acquire() {
        throw { tag: 'read-only' };
      },
      sync() {},
      getIdentity: () => ({ machine: '', boot: '', device: 0n, inode: 0n }),
      utcOffset: () => 0,
    },
    'metalab:store/bulk': { Reader: Never, list() {}, look() {}, digest() {}, read() {} },
    'metalab:store/postgres': { Transaction: Never, Cursor: Never, CopyWriter: Never, query: never, execute: never, batch: never },
  };
  const shim = new WASIShim({ sandbox: { preopens: { store: inside }, env: {}, args: [], enableNetwork: false } });
  const { store: plain } = instantiate({ ...shim.getImportObject(), ...stubs });
  const opened = plain.Store.open({ directory: inside, experimentId: 'exp:1', access: 'read-only', durability: 'full', lockTimeoutMs: 0 });
  assert.equal(opened.listRunRecords(undefined).nextLines(1 << 20), lines);
  assert.equal(opened.getRunRecord('r3').metrics[0].value.val, 3 / 7);
  assert.throws(() => opened.deleteRun('r3'), ({ payload }) => payload.tag === 'read-only');
  assert.deepEqual(fs.readdirSync(root, { recursive: true }), before);
});
