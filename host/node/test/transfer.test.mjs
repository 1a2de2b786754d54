// Copies between stores and archives.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { FileStoreConfig, exportStore } from '../src/index.js';
import { TARGET, directory, tree } from './help.mjs';

/** Makes a collection of two experiments. */
function collection(root) {
  for (const experiment of ['a:1', 'b']) {
    const store = new FileStoreConfig({ root }).scoped(experiment).connect();
    for (let index = 0; index < 5; index += 1) {
      const runId = `run${index}`;
      store.putRunRecord({ runId, status: 'success', metrics: { loss: index } });
      store.putArtifact(new Uint8Array(300_000).fill(index), { artifactId: `${runId}w`, name: 'w', kind: 'bytes', format: 'bin', metadata: { _run_id: runId } });
      store.appendLog(runId, 'run', 'a line\r\n');
    }
    store.close();
  }
}

/** The files of the format, relative to a root. */
function files(root) {
  const found = Object.entries(tree(root)).map(([path, content]) => [path.slice(root.length + 1), content]);
  return Object.fromEntries(found.filter(([path, content]) => content !== 'directory' && path !== '_meta.json' && !/\.(index|locks)\//.test(path)));
}

test('a collection is the same in a store and in an archive, and what the command makes of it', (t) => {
  const here = directory(t);
  const [source, copy, again] = ['source', 'copy', 'again'].map((name) => join(here, name));
  collection(source);
  const seen = [];
  const report = exportStore(source, new FileStoreConfig({ root: copy }), { onProgress: (runs, total) => seen.push([runs, total]) });
  assert.deepEqual(report.failures, []);
  assert.deepEqual([report.copied.runs, report.skipped.runs, report.removed], [10, 0, 0]);
  assert.deepEqual(seen.at(-1), [10, 10]);
  assert.deepEqual(files(copy), files(source));
  assert.deepEqual(exportStore(source, copy).skipped, report.copied);

  const archives = ['one.tar.zst', 'two.tar.zst', 'plain.tar'].map((name) => join(here, name));
  for (const archive of archives) {
    assert.deepEqual(exportStore(copy, archive).digests, report.digests);
  }
  const command = join(TARGET, 'release/metalab-store');
  execFileSync(command, ['export', '--from', source, '--to', join(here, 'command.tar.zst')]);
  const [one, two, byCommand] = [archives[0], archives[1], join(here, 'command.tar.zst')].map((path) => fs.readFileSync(path));
  assert.ok(one.equals(two) && one.equals(byCommand));
  assert.deepEqual(exportStore(archives[0], again).digests, report.digests);
  assert.deepEqual(exportStore(archives[2], again).skipped.runs, 10);
  assert.deepEqual(files(again), files(source));
});

test('what is selected is copied, what differs is told, and what is stopped goes on', (t) => {
  const here = directory(t);
  const [source, copy] = ['source', 'copy'].map((name) => join(here, name));
  collection(source);
  const options = { experiments: ['b'], where: 'metrics.loss >= 3', artifacts: false };
  const dry = exportStore(source, copy, { ...options, dryRun: true });
  assert.ok(!fs.existsSync(copy));
  const report = exportStore(source, copy, options);
  assert.deepEqual(report, dry);
  assert.deepEqual(fs.readdirSync(join(copy, 'b/runs')), ['run3.json', 'run4.json']);
  assert.ok(!fs.existsSync(join(copy, 'a_1')));

  fs.writeFileSync(join(copy, 'b/runs/run3.json'), '{"run_id": "run3", "status": "failed"}');
  const refused = exportStore(source, copy, { experiments: ['b'] });
  assert.deepEqual(refused.failures.map(({ runId }) => runId), ['run3']);
  assert.equal(exportStore(source, copy, { experiments: ['b'], existing: 'overwrite' }).failures.length, 0);

  const stop = () => {
    throw new Error('enough');
  };
  assert.throws(() => exportStore(source, copy, { onProgress: stop }), /enough/);
  assert.deepEqual(exportStore(source, copy).failures, []);
  assert.deepEqual(files(copy), files(source));
});

test('what cannot be copied is one error with a code', (t) => {
  const here = directory(t);
  const source = join(here, 'source');
  collection(source);
  fs.writeFileSync(join(here, 'text.tar.zst'), 'no archive');
  const cases = [
    [source, source, {}, 'invalid-argument'],
    [source, join(source, 'inside'), {}, 'invalid-argument'],
    [join(here, 'nowhere'), join(here, 'copy'), {}, 'root'],
    [join(here, 'text.tar.zst'), join(here, 'copy'), {}, 'invalid-argument'],
    [join(here, 'text.tar.zst'), join(here, 'copy'), { experiments: ['b'] }, 'invalid-argument'],
    [source, join(here, 'text.tar.zst'), {}, 'already-exists'],
    [source, join(here, 'copy'), { experiments: ['c'] }, 'not-found'],
    [source, join(here, 'copy'), { where: 'loss <' }, 'invalid-query'],
    [source, join(here, 'copy'), { existing: 'always' }, 'invalid-argument'],
    [source, 7, {}, 'invalid-argument'],
  ];
  for (const [from, to, options, code] of cases) {
    assert.throws(() => exportStore(from, to, options), { code }, `${from} ${to}`);
  }
});

test('an archive within the store that it is made of is refused', (t) => {
  const here = directory(t);
  const source = join(here, 'source');
  collection(source);
  fs.symlinkSync(source, join(here, 'link'));
  for (const place of [join(source, 'new.tar.zst'), join(source, 'a_1/new.tar'), join(here, 'link/new.tar')]) {
    assert.throws(() => exportStore(source, place), { code: 'invalid-argument', message: /would lie within/ });
    assert.ok(!fs.existsSync(place));
  }
  exportStore(source, join(here, 'new.tar'));
});
