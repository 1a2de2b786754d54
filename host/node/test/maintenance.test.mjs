// Verifying, repairing and collecting garbage.

import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { FileStoreConfig, ReadOnlyError, RootError, collectGarbage, exportStore, verify } from '../src/index.js';
import { directory } from './help.mjs';

const LONG_AGO = 1_700_000_000;

/** Makes a collection of two experiments, whose files have a time long ago. */
function collection(t) {
  const root = join(directory(t), 'store');
  const config = new FileStoreConfig({ root });
  for (const experiment of ['a:1', 'b']) {
    const store = config.scoped(experiment).connect();
    for (const runId of ['r1', 'r2']) {
      const artifact = store.putArtifact(new TextEncoder().encode('weights'), { artifactId: runId, name: 'w', kind: 'blob', format: 'bin', metadata: { _run_id: runId } });
      store.putRunRecord({ runId, status: 'success', artifacts: [artifact] });
    }
    store.close();
  }
  for (const entry of fs.readdirSync(root, { recursive: true, withFileTypes: true })) {
    if (entry.isFile()) {
      fs.utimesSync(join(entry.parentPath ?? entry.path, entry.name), LONG_AGO, LONG_AGO);
    }
  }
  return { root, config };
}

/** Changes a byte of a file, and gives it back the time that it had. */
function changeBehind(path) {
  const content = fs.readFileSync(path);
  content[content.length - 1] ^= 1;
  fs.writeFileSync(path, content);
  fs.utimesSync(path, LONG_AGO, LONG_AGO);
}

const kinds = (findings) => findings.map(({ kind, file, runId }) => `${kind} ${file} ${runId}`).sort();

test('a sound collection is verified with progress and without findings', (t) => {
  const { root, config } = collection(t);
  const seen = [];
  const report = verify(config, { onProgress: (progress) => seen.push(progress) });
  assert.deepEqual([report.findings, report.runs, report.damage], [[], 4, 0]);
  assert.ok(report.files === report.fresh && report.files > 8 && report.bytes > 0);
  assert.equal(seen.at(-1).phase, 'done');
  assert.ok(['a_1', 'b'].every((name) => seen.some((progress) => progress.directory === name)));
  assert.deepEqual(exportStore(config, `${root}-copy`).digests, report.digests);
  assert.equal(report.digests.length, 2);
  assert.equal(verify(config).fresh, 0);
});

test('what is damaged is found by name, and what has one answer is repaired', (t) => {
  const { root, config } = collection(t);
  verify(config);
  changeBehind(join(root, 'a_1/artifacts/r1/w.bin'));
  fs.writeFileSync(join(root, 'b/artifacts/r2/_manifest.json'), '{');
  const told = [];
  const report = verify(root, { onFinding: (finding) => told.push(finding) });
  assert.deepEqual(told, report.findings);
  assert.deepEqual(kinds(told), [
    'altered a_1/artifacts/r1/w.bin r1',
    'artifact-differs a_1/artifacts/r1/w.bin r1',
    'changed b/artifacts/r2/_manifest.json r2',
    'unreadable b/artifacts/r2/_manifest.json r2',
  ]);
  assert.ok(told.every(({ reason, wayOut, repaired }) => reason !== '' && wayOut !== '' && repaired === null));

  const repaired = verify(config, { repair: true });
  assert.deepEqual(repaired.findings.filter((finding) => finding.repaired !== null).map(({ file }) => file), ['b/artifacts/r2/_manifest.json']);
  assert.deepEqual([repaired.repaired, repaired.damage], [1, 2]);
  const store = config.scoped('b').connect();
  t.after(() => store.close());
  assert.deepEqual(store.listArtifacts('r2').map(({ name }) => name), ['w']);
  // An open store is verified too.
  assert.equal(verify(store).damage, 0);
});

test('what a callback throws ends a verification', (t) => {
  const { root, config } = collection(t);
  const enough = new Error('enough');
  const stop = () => {
    throw enough;
  };
  assert.throws(() => verify(config, { onProgress: stop }), enough);
  fs.writeFileSync(join(root, 'a_1/runs/r1.json'), '{');
  assert.throws(() => verify(config, { onFinding: stop }), enough);
  // It noted nothing, and nothing is left that would be in the way.
  assert.deepEqual(kinds(verify(config).findings), ['unreadable a_1/runs/r1.json r1']);
});

test('garbage is listed, and only removed when told', (t) => {
  const { root, config } = collection(t);
  const left = join(root, 'a_1/artifacts/r1/old.bin');
  fs.writeFileSync(left, "nobody's");
  const [seen, told] = [[], []];
  const listed = collectGarbage(config, { graceSeconds: 0, onProgress: ({ directory: name }) => seen.push(name), onFound: (garbage) => told.push(garbage) });
  assert.deepEqual(told.map(({ kind, file, bytes, kept }) => [kind, file, bytes, kept]), [['unlisted', 'a_1/artifacts/r1/old.bin', 8, null]]);
  assert.deepEqual([listed.found, listed.files, listed.bytes], [told, 1, 8]);
  assert.deepEqual([...new Set(seen)].sort(), ['', 'a_1', 'b']);
  assert.ok(fs.existsSync(left));

  // Young files may be a writer's.
  const young = collectGarbage(config, { apply: true });
  assert.deepEqual([young.files, young.keptFiles], [0, 1]);
  assert.equal(typeof young.found[0].kept, 'string');
  assert.equal(collectGarbage(config, { apply: true, graceSeconds: 0 }).files, 1);
  assert.ok(!fs.existsSync(left) && fs.existsSync(join(root, 'a_1/artifacts/r1/w.bin')));
  assert.equal(verify(config).damage, 0);
});

test('garbage of all others is removed where one store cannot be opened', (t) => {
  const { root, config } = collection(t);
  const left = join(root, 'b/artifacts/r1/old.bin');
  fs.writeFileSync(left, "nobody's");
  // Something lies in the place of a directory.
  fs.rmSync(join(root, 'a_1/runs'), { recursive: true });
  fs.writeFileSync(join(root, 'a_1/runs'), '');
  // And one that does not say whose it is.
  fs.mkdirSync(join(root, 'c'));
  fs.writeFileSync(join(root, 'c/_meta.json'), '{');
  for (const [apply, directories] of [[false, ['a_1/runs', 'c/_meta.json']], [true, ['a:1', 'c/_meta.json']]]) {
    const { files, unseen, found } = collectGarbage(config, { apply, graceSeconds: 0 });
    assert.deepEqual([files, unseen, fs.existsSync(left)], [1, 2, !apply]);
    const kept = found.filter(({ kind }) => kind === 'unreadable').map((garbage) => [garbage.file, garbage.kept]);
    assert.deepEqual(kept, directories.map((file) => [file, 'what is in it was not looked at']));
  }
});

test('maintenance makes nothing, and repairs nothing that is read-only', (t) => {
  const { root, config } = collection(t);
  const nowhere = join(root, '../nowhere');
  for (const work of [verify, collectGarbage]) {
    assert.throws(() => work(nowhere), RootError);
    assert.throws(() => work(7), { name: 'TypeError', code: 'invalid-argument' });
    assert.throws(() => work(config, { sideways: true }), { code: 'invalid-argument' });
  }
  assert.ok(!fs.existsSync(nowhere));
  assert.equal(verify(config.readOnly()).damage, 0);
  assert.ok(!fs.existsSync(join(root, 'a_1/.index/digests')));
  assert.throws(() => verify(config.readOnly(), { repair: true }), ReadOnlyError);
  assert.throws(() => collectGarbage(config.readOnly().scoped('b'), { apply: true }), ReadOnlyError);
  for (const graceSeconds of [-1, 1.5, '1']) {
    assert.throws(() => collectGarbage(config, { graceSeconds }), { code: 'invalid-argument' });
  }
});
