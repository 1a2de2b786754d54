// The file store: its calls, its values and its errors.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { execFileSync } from 'node:child_process';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { inspect } from 'node:util';
import * as api from '../src/index.js';
import { directory, open, tree } from './help.mjs';

const { FileStoreConfig, Float, PostgresStoreConfig } = api;
const isRoot = process.getuid() === 0;

const full = {
  runId: '0123456789abcdef',
  experimentId: 'exp:1',
  status: 'failed',
  contextFingerprint: 'c',
  paramsFingerprint: 'p',
  seedFingerprint: 's',
  startedAt: '2026-03-01T09:00:00.123456',
  finishedAt: '2026-03-01T10:00:00+01:00',
  durationMs: 2 ** 40,
  metrics: { big: 2n ** 70n, flag: true, inf: -Infinity, list: [1, null], loss: 0.5, nan: NaN, nothing: null, one: 1, text: 'ü', zero: -0 },
  provenance: { codeHash: 'h', pythonVersion: '3.12', metalabVersion: null, executorId: null, host: 'x', extra: { a: [1] }, unknown: {} },
  error: { type: 'ValueError', message: 'no' },
  paramsResolved: { lr: 1e-7, seed: 2n ** 64n, nested: { a: NaN } },
  tags: ['b', 'a'],
  warnings: [{ message: 'w' }],
  notes: 'n',
  artifacts: [
    { artifactId: 'a', name: 'x', kind: 'blob', format: 'bin', uri: '/e/artifacts/r/x.bin', contentHash: null, sizeBytes: 2 ** 40, metadata: { m: 1 }, unknown: {} },
  ],
  schemaVersion: '0.1',
  unknown: { future: { b: 1 } },
};

test('a record comes back as it was put', (t) => {
  const { store } = open(t);
  const revision = store.putRunRecord(full);
  assert.match(revision, /^[0-9a-f]{16}$/);
  assert.deepEqual(store.getRunRecord(full.runId), full);
  assert.deepEqual(store.getVersionedRun(full.runId), { revision, record: full });
  assert.equal(store.runExists(full.runId), true);
  assert.equal(store.getRunRecord('none'), null);
  assert.equal(store.getVersionedRun('none'), null);
  assert.equal(store.getRunText('none'), null);
});

test('what a put needs is a run id and a status', (t) => {
  const { store } = open(t);
  store.putRunRecord({ runId: 'r', status: 'success' });
  const record = store.getRunRecord('r');
  assert.equal(record.experimentId, 'exp:1');
  assert.deepEqual(record.metrics, {});
  assert.equal(record.startedAt, null);
});

test('reading a record and putting it back changes no byte of its file', (t) => {
  const { store, inside } = open(t);
  store.putRunText('{"run_id": "r", "status": "success", "metrics": {"one": 1.0, "int": 1, "e": 1e22, "big": 36893488147419103232, "nan": NaN, "z": -0.0, "i": -Infinity}, "params_resolved": {"a": [1.0, 2, -0.0, 1e16], "__proto__": {"x": 1.0}, "s": "\\ud800"}, "later": [2.0]}');
  const before = fs.readFileSync(join(inside, 'runs/r.json'), 'latin1');
  store.putRunRecord(store.getRunRecord('r'));
  assert.equal(fs.readFileSync(join(inside, 'runs/r.json'), 'latin1'), before);
  assert.match(before, /"one": 1\.0/);
});

test('a float without a fraction is written where it is asked for', (t) => {
  const { store } = open(t);
  store.putRunRecord({ runId: 'r', status: 'success', metrics: { a: new Float(1), b: 1 }, paramsResolved: { c: new Float(2) } });
  const text = store.getRunText('r');
  assert.match(text, /"a": 1\.0,\s*"b": 1\n/);
  assert.match(text, /"c": 2\.0/);
});

test('an expectation that is not met is a conflict, with what is there', (t) => {
  const { store } = open(t);
  const record = { runId: 'r', status: 'success' };
  const revision = store.putRunRecord(record, { expect: 'absent' });
  assert.throws(() => store.putRunRecord(record, { expect: 'absent' }), { name: 'ConflictError', code: 'conflict', current: revision });
  assert.throws(() => store.putRunText('{"run_id":"r","status":"success"}', { expect: '0000000000000000' }), api.ConflictError);
  store.putRunRecord({ ...record, notes: 'n' }, { expect: revision });
});

test('many records are put at once, each with its outcome', (t) => {
  const { store } = open(t);
  const outcomes = store.putRunRecords([{ runId: 'a', status: 'success' }, { runId: 'a/b', status: 'success' }]);
  assert.match(outcomes[0].revision, /^[0-9a-f]{16}$/);
  assert.equal(outcomes[1].error.code, 'invalid-name');
  assert.equal(outcomes[1].error.given, 'a/b');
  const lines = store.putRunLines('{"run_id":"c","status":"success"}\n\n[]\n');
  assert.equal(lines.length, 2);
  assert.equal(lines[1].error.code, 'invalid-argument');
});

test('lists are handed out by pages, by iteration and at once', async (t) => {
  const { store, inside } = open(t);
  const started = (hour) => `2026-03-01T${String(hour).padStart(2, '0')}:00:00`;
  store.putRunRecords(Array.from({ length: 20 }, (_, index) => ({ runId: `r${index}`, status: 'success', startedAt: started(index), metrics: { loss: index / 2 } })));
  fs.writeFileSync(join(inside, 'runs/bad.json'), '{"run_id": ');
  const ids = Array.from({ length: 20 }, (_, index) => `r${19 - index}`);
  const { records, damaged } = store.listRunRecords();
  assert.deepEqual(records.map(({ runId }) => runId), ids);
  assert.equal(damaged[0].file, 'runs/bad.json');

  const list = store.listRuns('exp:1');
  assert.equal(list.remaining, 20);
  assert.deepEqual(list.next(3).map(({ runId }) => runId), ids.slice(0, 3));
  assert.equal(JSON.parse(list.nextLines(1).trimEnd()).run_id, ids[3]);
  const rest = [];
  for await (const { runId } of list) {
    rest.push(runId);
  }
  assert.deepEqual(rest, ids.slice(4));
  list.close();

  const found = store.queryRuns({ filter: 'metrics.loss < 5 and status = "success"', sort: 'metrics.loss', columns: ['run_id', 'metrics.loss', 'notes'], limit: 2 });
  assert.deepEqual(found.columns, ['run_id', 'metrics.loss', 'notes']);
  assert.equal(found.total, 10);
  assert.deepEqual([...found.rows()], [{ run_id: 'r0', 'metrics.loss': 0 , notes: null }, { run_id: 'r1', 'metrics.loss': 0.5, notes: null }].map(({ notes, ...row }) => row));
  const next = store.queryRuns({ filter: 'metrics.loss < 5 and status = "success"', sort: 'metrics.loss', columns: 'run_id', limit: 1, cursor: found.cursor });
  assert.deepEqual(next.nextRows(), [['r2']]);
  assert.throws(() => store.queryRuns({ filter: 'metrics.loss <' }), { code: 'invalid-query', position: 14 });

  const { fields, complete, runs } = store.listFields();
  assert.equal(runs, 20);
  assert.equal(complete, true);
  const loss = fields.find(({ field }) => field === 'metrics.loss');
  assert.deepEqual([loss.min, loss.max, loss.runs], [0, 9.5, 20]);
});

test('derived metrics and results come back as they were put', (t) => {
  const { store } = open(t);
  assert.equal(store.getDerived('r'), null);
  store.putDerived('r', { a: 2n ** 70n, b: 0.5 });
  assert.deepEqual(store.getDerived('r'), { a: 2n ** 70n, b: 0.5 });
  assert.equal(store.derivedExists('r'), true);
  store.putDerivedText('r', '{"x": NaN}');
  assert.match(store.getDerivedText('r'), /"x": NaN/);

  const result = { data: [[1, 2.5], [NaN, 2n ** 80n]], dtype: 'float64', shape: [2, 2], metadata: { u: 'v' }, unknown: {} };
  store.putResult('r', 'matrix', result);
  assert.deepEqual(store.getResult('r', 'matrix'), result);
  store.putResult('r', 'array', { data: new Float32Array([1, 0.5]) });
  assert.match(store.getResultText('r', 'array'), /1\.0,\s*0\.5/);
  store.putResultText('r', 'number', '1.0');
  store.putResult('r', 'number', store.getResult('r', 'number'));
  assert.match(store.getResultText('r', 'number'), /1\.0/);
  store.putResultText('r', 'text', '[1.0]', { metadata: '{"a": 1.0}' });
  assert.deepEqual(store.listResults('r'), ['array', 'matrix', 'number', 'text']);
  assert.equal(store.getResult('r', 'none'), null);
});

test('logs are put, appended to and read in pieces', async (t) => {
  const { store } = open(t);
  store.putLog('r', 'run', 'first\r\n');
  assert.equal(store.appendLog('r', 'run', 'zwö\n', { sync: true }), 12);
  assert.equal(store.getLog('r', 'run'), 'first\r\nzwö\n');
  assert.deepEqual(store.readLog('r', 'run', { offset: 7, maxBytes: 64 }), { text: 'zwö\n', nextOffset: 12, replaced: 0, end: true });
  assert.equal(store.readLog('r', 'none'), null);
  store.putLog('r', 'long', 'x'.repeat(600_000));
  let length = 0;
  for await (const chunk of store.logChunks('r', 'long')) {
    length += chunk.length;
  }
  assert.equal(length, 600_000);
  assert.deepEqual(store.listLogs('r'), ['long', 'run']);
  assert.ok(fs.existsSync(join(store.getLogPath('r', 'run'), '..')));
});

const describe = (name, more = {}) => ({ artifactId: `r-${name}`, name, kind: 'blob', format: 'bin', metadata: { _run_id: 'r' }, ...more });

test('artifacts of any size go in and out, from bytes, files and streams', async (t) => {
  const { store, root } = open(t);
  const content = Buffer.alloc(1_000_000, 'abc');
  const small = store.putArtifact(content.subarray(0, 10), describe('small'));
  assert.equal(small.sizeBytes, 10);
  assert.deepEqual(Buffer.from(store.getArtifact(small.uri)), content.subarray(0, 10));
  store.putArtifact(content, describe('large'));
  assert.ok(content.equals(store.getArtifact({ runId: 'r', name: 'large' })));

  const source = `${root}-source`;
  fs.writeFileSync(source, content);
  const file = store.putArtifactFile(source, describe('file'));
  await store.putArtifactStream(Readable.from([content.subarray(0, 400_000), content.subarray(400_000)]), describe('stream'));
  const reader = store.openArtifact({ runId: 'r', name: 'stream' }, { verify: true });
  assert.equal(reader.descriptor.contentHash, file.contentHash);
  assert.equal(reader.read(999_998, 10).byteLength, 2);
  assert.equal(reader.read(1_000_000).byteLength, 0);
  const chunks = [];
  for await (const chunk of reader) {
    chunks.push(chunk);
  }
  assert.ok(content.equals(Buffer.concat(chunks)));
  assert.deepEqual(store.listArtifacts('r').map(({ name }) => name), ['small', 'large', 'file', 'stream']);
  assert.throws(() => store.putArtifact(content, describe('bad', { sizeBytes: 1 })), { code: 'invalid-argument' });
  assert.throws(() => store.getArtifact({ runId: 'r', name: 'none' }), { code: 'not-found', missing: 'none' });
});

test('an unfinished artifact leaves nothing behind', (t) => {
  const { store, inside } = open(t);
  store.putArtifact(new Uint8Array(1), describe('kept'));
  const before = Object.keys(tree(join(inside, 'artifacts')));
  const writer = store.createArtifact(describe('lost'));
  writer.write(new Uint8Array(300_000));
  writer.close();
  store.createArtifact(describe('lost too')).write(new Uint8Array(10));
  store.close();
  assert.deepEqual(Object.keys(tree(join(inside, 'artifacts'))), before);
});

test('a source that is no regular file is refused before anything is copied', (t) => {
  const { store, root } = open(t);
  assert.throws(() => store.putArtifactFile(root, describe('x')), /not a regular file/);
  assert.throws(() => store.putArtifactFile('/dev/zero', describe('x')), { code: 'invalid-argument' });
  assert.throws(() => store.putArtifactFile(`${root}-none`, describe('x')), { code: 'invalid-argument' });
  assert.deepEqual(store.listArtifacts('r'), []);
});

test('manifests are kept, the newest first', (t) => {
  const { store } = open(t);
  assert.equal(store.getExperimentManifest('exp:1'), null);
  store.putExperimentManifest('exp:1', { a: 1 }, { timestamp: '20260101_000000' });
  const header = store.putExperimentManifest('exp:1', { a: 2n ** 70n }, { timestamp: '20260101_000000' });
  assert.deepEqual(header, { experimentId: 'exp:1', timestamp: '20260101_000000', counter: 1 });
  assert.deepEqual(store.getExperimentManifest('exp:1').body, { a: 2n ** 70n });
  assert.equal(store.listExperimentManifests('exp:1').length, 2);
});

test('a run is deleted with everything that belongs to it', (t) => {
  const { store } = open(t);
  store.putRunRecord({ runId: 'r', status: 'success' });
  store.putArtifact(new Uint8Array(3), describe('x'));
  assert.equal(store.deleteRun('r'), true);
  assert.equal(store.deleteRun('r'), false);
  assert.deepEqual(store.listArtifacts('r'), []);
});

test('a read-only store reads, refuses every write and changes nothing', (t) => {
  const { store: writer, root } = open(t);
  writer.putRunRecord({ runId: 'r', status: 'success' });
  writer.close();
  const before = tree(root);
  const { store } = open(t, root, { access: 'read-only' });
  assert.equal(store.getRunRecord('r').status, 'success');
  const source = `${root}-source`;
  fs.writeFileSync(source, 'x');
  const writes = [
    () => store.putRunRecord({ runId: 'x', status: 'success' }),
    () => store.putRunText('{"run_id":"x","status":"success"}'),
    () => store.putRunRecords([{ runId: 'x', status: 'success' }]),
    () => store.putDerived('r', {}),
    () => store.putResult('r', 'x', { data: 1 }),
    () => store.putLog('r', 'x', ''),
    () => store.appendLog('r', 'x', ''),
    () => store.putArtifact(new Uint8Array(1), describe('x')),
    () => store.putArtifactFile(source, describe('x')),
    () => store.createArtifact(describe('x')),
    () => store.putExperimentManifest('exp:1', {}),
    () => store.deleteRun('r'),
  ];
  for (const write of writes) {
    assert.throws(write, { name: 'ReadOnlyError', code: 'read-only' }, String(write));
  }
  store.close();
  assert.deepEqual(tree(root), before);
});

test('a closed store says so, and so does what was opened from it', (t) => {
  const { store } = open(t);
  store.putArtifact(new Uint8Array(3), describe('x'));
  const [list, reader, writer] = [store.listRuns(), store.openArtifact({ runId: 'r', name: 'x' }), store.createArtifact(describe('y'))];
  store.close();
  store.close();
  const closed = { name: 'ClosedError', code: 'closed', message: 'the store is closed' };
  for (const call of [() => store.getRunRecord('r'), () => list.next(), () => reader.read(0), () => writer.write(new Uint8Array(1)), () => writer.finish()]) {
    assert.throws(call, closed);
  }
  // What is closed may be closed again.
  list.close();
  writer.close();
});

test('arguments of a wrong type are type errors with the code of every host', (t) => {
  const { store, root } = open(t);
  const wrong = [
    () => store.getRunRecord(1),
    () => store.getRunRecord(),
    () => store.putRunRecord(null),
    () => store.putRunRecord({ runId: 'r', status: 'done' }),
    () => store.putRunRecord({ runId: 'r', status: 'success', experimentID: 'x' }),
    () => store.putRunRecord({ runId: 'r', status: 'success', durationMs: 0.5 }),
    () => store.putRunRecord({ runId: 'r', status: 'success', metrics: [1] }),
    () => store.putRunRecord({ runId: 'r', status: 'success', metrics: { a: () => 1 } }),
    () => store.putRunRecord({ runId: 'r', status: 'success', tags: 'a' }),
    () => store.putRunRecord({ runId: 'r', status: 'success', paramsResolved: [] }),
    () => store.putRunText({}),
    () => store.putRunRecords({}),
    () => store.putResult('r', 'x', {}),
    () => store.putArtifact('text', describe('x')),
    () => store.readLog('r', 'x', { offset: '0' }),
    () => store.queryRuns({ where: 'x' }),
    () => new FileStoreConfig({}),
    () => new FileStoreConfig({ root, acces: 'read-only' }),
    () => new FileStoreConfig({ root, access: 'none' }),
  ];
  for (const call of wrong) {
    assert.throws(call, (error) => error instanceof TypeError && error.code === 'invalid-argument', String(call));
  }
  const refused = [
    () => store.getRunRecord('\ud800'),
    () => store.readLog('r', 'x', { offset: -1 }),
    () => store.putRunRecord({ runId: 'r', status: 'success', durationMs: 2n ** 63n }),
    () => store.putRunText('{'),
  ];
  for (const call of refused) {
    assert.throws(call, { name: 'InvalidArgumentError', code: 'invalid-argument' }, String(call));
  }
  assert.deepEqual(store.listRunRecords().records, []);
});

test('names that are no safe names are refused with what they are', (t) => {
  const { store } = open(t);
  for (const name of ['', '.', '..', '../x', 'a/b', 'a\\b', 'a\0b', '.hidden', 'x'.repeat(300)]) {
    assert.throws(() => store.getRunRecord(name), { name: 'InvalidNameError', code: 'invalid-name', kind: 'run', given: name });
  }
  assert.throws(() => store.putArtifact(new Uint8Array(1), describe('_manifest')), { code: 'invalid-name', kind: 'artifact' });
});

test('damage is told with its file and its place', (t) => {
  const { store, inside } = open(t);
  store.putRunRecord({ runId: 'r', status: 'success' });
  fs.writeFileSync(join(inside, 'runs/r.json'), '{"run_id": "r",');
  assert.throws(() => store.getRunRecord('r'), { name: 'CorruptError', code: 'corrupt', file: 'runs/r.json', offset: 15 });
});

test('a directory that cannot be opened is named with the reason', (t) => {
  const place = directory(t);
  const connect = (root, settings) => new FileStoreConfig({ root, ...settings }).scoped('exp:1').connect();
  const root = join(place, 'none');
  assert.throws(() => connect(root, { access: 'read-only' }), { name: 'RootError', code: 'root', path: `${root}/exp_1`.replace('/exp_1', ''), reason: 'there is no such directory' });
  assert.equal(fs.existsSync(root), false);
  fs.writeFileSync(join(place, 'file'), '');
  assert.throws(() => connect(join(place, 'file')), { code: 'root', reason: 'it is not a directory' });
  fs.mkdirSync(join(place, 'twin'));
  fs.symlinkSync('/', join(place, 'twin/exp_1'));
  assert.throws(() => connect(join(place, 'twin')), { code: 'root', reason: "it leads outside of the store's root" });
});

test('a directory without permission is named as that', (t) => {
  const place = directory(t);
  fs.chmodSync(place, 0o755);
  const [locked, hidden] = [join(place, 'locked'), join(place, 'hidden')];
  fs.mkdirSync(locked, { mode: 0o555 });
  fs.mkdirSync(hidden, { mode: 0 });
  const look = `
    import { FileStoreConfig } from ${JSON.stringify(new URL('../src/index.js', import.meta.url).href)};
    const [locked, hidden] = ${JSON.stringify([locked, hidden])};
    const codes = [{ root: locked }, { root: hidden }, { root: locked, access: 'read-only' }].map((settings) => {
      try {
        new FileStoreConfig(settings).connect().close();
        return 'opened';
      } catch ({ code, reason }) {
        return [code, reason];
      }
    });
    console.log(JSON.stringify(codes));`;
  // Everything is permitted to root.
  const user = isRoot ? { uid: 65534, gid: 65534 } : {};
  const said = execFileSync(process.execPath, ['--input-type=module', '-e', look], { ...user, cwd: '/', encoding: 'utf8' });
  assert.deepEqual(JSON.parse(said), [
    ['root', 'it cannot be written (access is denied); it may be opened read-only'],
    ['root', 'access is denied'],
    'opened',
  ]);
});

test('two ids that map to one directory are a conflict', (t) => {
  const { root } = open(t);
  assert.throws(() => new FileStoreConfig({ root }).scoped('exp_1').connect(), { code: 'conflict' });
});

test('configurations are values', (t) => {
  const root = directory(t);
  const config = new FileStoreConfig({ root });
  const scoped = config.scoped('a:1');
  assert.deepEqual([config.experimentId, scoped.experimentId, scoped.isScoped], [null, 'a:1', true]);
  assert.equal(scoped.scoped('a:1').connect().getWorkingDirectory(), join(root, 'a_1'));
  assert.throws(() => scoped.scoped('b:1').connect(), { code: 'invalid-argument' });
  assert.throws(() => scoped.listExperiments(), { code: 'invalid-argument' });
  assert.deepEqual(config.listExperiments(), { experiments: ['a:1'], damaged: [] });
  assert.deepEqual(new FileStoreConfig({ root: join(root, 'none') }).listExperiments().experiments, []);
  assert.equal(scoped.readOnly().access, 'read-only');
  assert.equal(scoped.with({ durability: 'relaxed' }).experimentId, 'a:1');
  const whole = config.connect();
  t.after(() => whole.close());
  const part = whole.scoped('a:1');
  part.putRunRecord({ runId: 'r', status: 'success' });
  part.close();
  assert.equal(whole.getRunRecord('r').experimentId, 'a:1');
});

test('locators are understood, and secrets are not printed', (t) => {
  const root = directory(t);
  const store = api.openStore(`file://${root}?experiment_id=a:1`);
  assert.equal(store.getWorkingDirectory(), join(root, 'a_1'));
  store.close();
  assert.throws(() => api.openStore('ftp://x'), { code: 'invalid-argument' });
  assert.equal(api.parseLocator('postgresql://u:p@h:1/d').port, 1);
  const config = api.parseToConfig(`postgresql://u:geheim@h/d?file_root=${root}`);
  assert.ok(config instanceof PostgresStoreConfig);
  assert.ok(!inspect(config, { depth: 9, showHidden: true }).includes('geheim'));
  assert.ok(!JSON.stringify(config).includes('geheim'));
  assert.ok(config.toFilestore() instanceof FileStoreConfig);
});

test('the component sees no environment, no arguments and no network', async () => {
  const { wasi } = await import('../src/wasi.js');
  const { imports } = wasi(null);
  assert.deepEqual(imports['wasi:cli/environment'].getEnvironment(), []);
  assert.deepEqual(imports['wasi:cli/environment'].getArguments(), []);
  assert.deepEqual(imports['wasi:filesystem/preopens'].getDirectories(), []);
  assert.deepEqual(Object.keys(imports).filter((name) => /socket|http/.test(name)), []);
});

test('a component of another version is refused as that', async () => {
  const { interfaces } = await import('../src/component.js');
  assert.throws(() => interfaces({ 'metalab:store/config@0.1.0': {}, 'metalab:store/store@0.2.0': {} }), { name: 'EngineError', code: 'engine', message: /another version/ });
});

test('a trap costs one call, and the store goes on with a fresh instance', async (t) => {
  const { raw } = await import('../src/store.js');
  const { store } = open(t);
  store.putRunRecord({ runId: 'r', status: 'success' });
  const list = store.listRuns();
  const writer = store.createArtifact(describe('x'));
  writer.write(new Uint8Array(10));
  assert.throws(
    () =>
      raw(store).call(() => {
        throw new WebAssembly.RuntimeError('unreachable');
      }),
    { name: 'TrapError', code: 'trap' },
  );
  assert.equal(store.getRunRecord('r').status, 'success');
  assert.throws(() => list.next(), { code: 'trap', message: /open it again/ });
  assert.throws(() => writer.finish(), { code: 'trap' });
  store.putArtifact(new Uint8Array(1), describe('x'));
});

test('stores leave no descriptor open, closed, failed or refused', (t) => {
  const { root, store } = open(t);
  const count = () => fs.readdirSync('/proc/self/fd').length;
  const once = () => {
    const other = new FileStoreConfig({ root }).scoped('exp:1').connect();
    other.putRunRecord({ runId: 'r', status: 'success' });
    other.listRuns().next();
    other.openArtifact;
    other.createArtifact(describe('z')).write(new Uint8Array(10));
    other.close();
    assert.throws(() => new FileStoreConfig({ root }).scoped('exp_1').connect());
    assert.throws(() => new FileStoreConfig({ root: '/dev/null' }).connect());
  };
  once();
  const before = count();
  for (let time = 0; time < 20; time += 1) {
    once();
  }
  assert.equal(count(), before);
  store.close();
});

test('where nothing can be locked the user is told once, and what cannot be promised is an error', (t) => {
  const root = directory(t);
  const script = `
    import { FileStoreConfig } from ${JSON.stringify(new URL('../src/index.js', import.meta.url).href)};
    const store = new FileStoreConfig({ root: ${JSON.stringify(root)} }).scoped('exp:1').connect();
    for (const runId of ['a', 'b']) store.putRunRecord({ runId, status: 'success' });
    let code = null;
    try {
      store.putRunRecord({ runId: 'c', status: 'success' }, { expect: 'absent' });
    } catch (error) {
      code = error.code;
    }
    console.log(JSON.stringify({ warnings: store.warnings, code }));
    store.close();
  `;
  // The kernel's answer on a file system without locks.
  const traced = ['-f', '-qq', '-o', '/dev/null', '-e', 'trace=flock', '-e', 'inject=flock:error=ENOLCK'];
  const said = execFileSync('strace', [...traced, process.execPath, '--input-type=module', '-e', script], { encoding: 'utf8' });
  const { warnings, code } = JSON.parse(said);
  assert.equal(warnings.length, 1);
  assert.match(warnings[0], /^nothing can be locked/);
  assert.equal(code, 'locks-unavailable');
});

test('an artifact from a file has the mode of a new file, whatever its source has', (t) => {
  const { root, store } = open(t);
  const before = process.umask(0o022);
  t.after(() => process.umask(before));
  for (const mode of [0o600, 0o400, 0o777, 0o4755, 0o666]) {
    const source = join(root, 'source');
    fs.rmSync(source, { force: true });
    fs.writeFileSync(source, 'x'.repeat(1000));
    fs.chmodSync(source, mode);
    const stored = store.putArtifactFile(source, { artifactId: 'a', name: `mode-${mode}`, kind: 'blob', format: 'bin', metadata: { _run_id: 'r' } });
    assert.equal(fs.statSync(stored.uri).mode & 0o7777, 0o644, mode.toString(8));
  }
});

test('the clock is that of the system, which can be set', (t) => {
  const { store } = open(t);
  t.mock.method(Date, 'now', () => new Date(2031, 1, 3, 4, 5, 6).getTime());
  assert.equal(store.putExperimentManifest('exp:1', {}).timestamp, '20310203_040506');
});

test('a reader that was read to its end, or left, is closed', async (t) => {
  const { store } = open(t);
  store.putArtifact(Buffer.alloc(600_000), { artifactId: 'a', name: 'x', kind: 'blob', format: 'bin', metadata: { _run_id: 'r' } });
  const openFiles = () => fs.readdirSync('/proc/self/fd').length;
  const before = openFiles();
  const whole = store.openArtifact({ runId: 'r', name: 'x' });
  let length = 0;
  for await (const chunk of whole) length += chunk.byteLength;
  assert.equal(length, 600_000);
  const left = store.openArtifact({ runId: 'r', name: 'x' });
  for await (const chunk of left) {
    assert.ok(chunk.byteLength > 0);
    break;
  }
  for (const reader of [whole, left]) {
    assert.throws(() => reader.read(), { code: 'closed' });
    reader.close();
  }
  assert.equal(openFiles(), before);
});
