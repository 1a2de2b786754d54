// What the component can reach of the file system: one directory, and no way out of it.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { execFileSync } from 'node:child_process';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { Grant } from '../src/grant.js';
import { wasi } from '../src/wasi.js';
import { directory, open, tree } from './help.mjs';

const READ = { read: true };
const WRITE = { read: true, write: true };

/** A granted directory with links that lead out of it, and one that does not. */
function granted(t, writable = true) {
  const outside = directory(t);
  const root = join(outside, 'root');
  fs.mkdirSync(join(root, 'inner'), { recursive: true });
  fs.mkdirSync(join(outside, 'secrets'));
  fs.writeFileSync(join(outside, 'secrets/secret'), 'secret');
  fs.writeFileSync(join(root, 'inner/file'), 'content');
  fs.symlinkSync(join(outside, 'secrets'), join(root, 'absolute'));
  fs.symlinkSync('../secrets', join(root, 'relative'));
  fs.symlinkSync('relative', join(root, 'chain'));
  fs.symlinkSync('loop', join(root, 'loop'));
  fs.symlinkSync('inner', join(root, 'harmless'));
  fs.symlinkSync('/proc/self/root/etc', join(root, 'magic'));
  fs.symlinkSync('../secrets/secret', join(root, 'file'));
  const grant = new Grant({ root, writable });
  const { imports, end } = wasi(grant);
  t.after(() => {
    end();
    grant.close();
  });
  const [[top]] = imports['wasi:filesystem/preopens'].getDirectories();
  return { outside, root, top, end };
}

const reason = (call) => {
  try {
    call();
  } catch (error) {
    return error;
  }
  return 'nothing';
};

const OUT = ['..', '../secrets', '../secrets/secret', '/etc/passwd', '/', 'inner/../../secrets/secret', 'absolute/secret', 'relative/secret', 'chain/secret', 'magic/passwd', './/..//secrets/secret'];

test('no path leads out of the directory, and each is refused for that reason', (t) => {
  const { outside, top } = granted(t);
  const before = tree(outside);
  for (const path of OUT) {
    assert.equal(reason(() => top.openAt({}, path, {}, READ)), 'not-permitted', `open ${path}`);
    assert.equal(reason(() => top.openAt({ symlinkFollow: true }, path, {}, READ)), 'not-permitted', `open, following ${path}`);
    assert.equal(reason(() => top.openAt({}, `${path}/new`, { create: true }, WRITE)), 'not-permitted', `create below ${path}`);
    assert.equal(reason(() => top.openAt({}, path, { create: true, truncate: true }, WRITE)), 'not-permitted', `truncate ${path}`);
    assert.equal(reason(() => top.statAt({}, path)), 'not-permitted', `stat ${path}`);
    assert.equal(reason(() => top.unlinkFileAt(path)), 'not-permitted', `unlink ${path}`);
    assert.equal(reason(() => top.removeDirectoryAt(path)), 'not-permitted', `rmdir ${path}`);
    assert.equal(reason(() => top.createDirectoryAt(path)), 'not-permitted', `mkdir ${path}`);
    assert.equal(reason(() => top.renameAt('inner/file', top, `${path}/x`)), 'not-permitted', `rename to ${path}`);
    assert.equal(reason(() => top.renameAt(path, top, 'x')), 'not-permitted', `rename from ${path}`);
    assert.equal(reason(() => top.setTimesAt({}, path, { tag: 'now' }, { tag: 'now' })), 'not-permitted', `times of ${path}`);
  }
  assert.deepEqual(tree(outside), before);
});

test('a link itself is not followed where that was not asked for', (t) => {
  const { top } = granted(t);
  for (const path of ['absolute', 'relative', 'file', 'harmless', 'loop']) {
    assert.equal(top.statAt({}, path).type, 'symbolic-link');
    assert.equal(reason(() => top.openAt({}, path, {}, READ)), 'loop', path);
    assert.equal(reason(() => top.openAt({}, path, { create: true }, WRITE)), 'loop', path);
  }
  assert.equal(reason(() => top.openAt({}, 'loop/x', {}, READ)), 'loop');
  // A link that stays inside is a way like any other.
  assert.equal(top.openAt({}, 'harmless/file', {}, READ).stat().size, 7n);
});

test('names that are none are refused', (t) => {
  const { top } = granted(t);
  assert.equal(reason(() => top.openAt({}, 'inner\0/file', {}, READ)), 'illegal-byte-sequence');
  assert.equal(reason(() => top.unlinkFileAt('inner/file\0')), 'illegal-byte-sequence');
  assert.equal(reason(() => top.openAt({}, '', {}, READ)), 'no-entry');
  assert.equal(reason(() => top.openAt({}, 'x'.repeat(300), {}, READ)), 'name-too-long');
});

test('a FIFO, a device and a socket are never handed out, and never waited for', (t) => {
  const { root, top } = granted(t);
  execFileSync('mkfifo', [join(root, 'fifo')]);
  assert.equal(reason(() => top.openAt({}, 'fifo', {}, READ)), 'not-permitted');
  assert.equal(reason(() => top.openAt({}, 'fifo', {}, { write: true })), 'no-such-device');
  assert.equal(top.statAt({}, 'fifo').type, 'fifo');
});

test('a directory that is granted to read is not written by any call', (t) => {
  const { outside, root, top } = granted(t, false);
  const before = tree(outside);
  const calls = [
    () => top.openAt({}, 'new', { create: true }, READ),
    () => top.openAt({}, 'inner/file', { truncate: true }, READ),
    () => top.openAt({}, 'inner/file', {}, WRITE),
    () => top.openAt({}, 'inner/file', {}, { write: true }),
    () => top.createDirectoryAt('new'),
    () => top.unlinkFileAt('inner/file'),
    () => top.removeDirectoryAt('inner'),
    () => top.renameAt('inner/file', top, 'new'),
    () => top.setTimesAt({}, 'inner/file', { tag: 'now' }, { tag: 'now' }),
  ];
  for (const call of calls) {
    assert.equal(reason(call), 'not-permitted', String(call));
  }
  const file = top.openAt({}, 'inner/file', {}, READ);
  assert.equal(reason(() => file.write(new Uint8Array(1), 0n)), 'bad-descriptor');
  assert.equal(reason(() => file.setSize(0n)), 'bad-descriptor');
  assert.equal(reason(() => file.appendViaStream()), 'bad-descriptor');
  assert.deepEqual(tree(outside), before);
  assert.ok(fs.existsSync(join(root, 'inner/file')));
});

test('files are written, read, appended to, renamed and removed', (t) => {
  const { root, top } = granted(t);
  const file = top.openAt({}, 'inner/new', { create: true, exclusive: true }, WRITE);
  assert.equal(file.write(Buffer.from('hello'), 2n), 5n);
  file.setSize(6n);
  file.syncData();
  assert.equal(Buffer.from(file.read(100n, 0n)[0]).toString(), '\0\0hell');
  assert.equal(file.read(10n, 6n)[1], true);
  const stream = file.appendViaStream();
  stream.blockingWriteAndFlush(Buffer.from('!'));
  stream[Symbol.dispose]();
  top.setTimesAt({}, 'inner/new', { tag: 'no-change' }, { tag: 'timestamp', val: { seconds: 1_700_000_000n, nanoseconds: 123_456_789 } });
  assert.deepEqual(top.statAt({}, 'inner/new').dataModificationTimestamp, { seconds: 1_700_000_000n, nanoseconds: 123_456_789 });
  top.renameAt('inner/new', top, 'renamed');
  assert.equal(fs.readFileSync(join(root, 'renamed'), 'latin1'), '\0\0hell!');
  assert.equal(reason(() => top.openAt({}, 'renamed', { create: true, exclusive: true }, WRITE)), 'exist');
  top.openAt({}, '.', { directory: true }, READ).sync();
  top.unlinkFileAt('renamed');
  top.createDirectoryAt('made');
  assert.equal(reason(() => top.removeDirectoryAt('inner')), 'not-empty');
  top.removeDirectoryAt('made');
  assert.equal(reason(() => top.unlinkFileAt('made')), 'no-entry');
});

test('a directory is listed with its kinds, and a name that is not UTF-8 is told', (t) => {
  const { root, top } = granted(t);
  fs.mkdirSync(join(root, 'names'));
  fs.writeFileSync(join(root, 'names/ü\ufffd'), '');
  fs.writeFileSync(Buffer.concat([Buffer.from(join(root, 'names/bad')), Buffer.from([0xff])]), '');
  const stream = top.openAt({}, 'names', { directory: true }, READ).readDirectory();
  const found = [];
  for (let entry; entry !== undefined || found.length === 0; ) {
    try {
      entry = stream.readDirectoryEntry();
      found.push(entry?.name);
    } catch (error) {
      found.push(error);
      entry = error;
    }
  }
  assert.deepEqual(found.slice(0, -1).sort(), ['illegal-byte-sequence', 'ü\ufffd']);
  assert.equal(found.at(-1), undefined);
});

test('links planted in a store are not followed', (t) => {
  const { store, inside, root } = open(t);
  store.putRunRecord({ runId: 'r', status: 'success' });
  const outside = `${root}-outside`;
  fs.mkdirSync(outside);
  fs.writeFileSync(join(outside, 'x.json'), '{"run_id": "x", "status": "success"}');
  fs.symlinkSync(join(outside, 'x.json'), join(inside, 'runs/x.json'));
  execFileSync('mkfifo', [join(inside, 'runs/f.json')]);
  assert.throws(() => store.getRunRecord('x'), { code: /corrupt|io/ });
  assert.throws(() => store.getRunRecord('f'), { code: /corrupt|io/ });
  const { records, damaged } = store.listRunRecords();
  assert.deepEqual(records.map(({ runId }) => runId), ['r']);
  assert.deepEqual(damaged.map(({ file }) => file).sort(), ['runs/f.json', 'runs/x.json']);
  fs.rmSync(join(inside, 'artifacts'), { recursive: true, force: true });
  fs.symlinkSync(outside, join(inside, 'artifacts'));
  const before = tree(outside);
  assert.throws(() => store.putArtifact(new Uint8Array(1), { artifactId: 'a', name: 'n', kind: 'k', format: 'f', metadata: { _run_id: 'r' } }));
  assert.deepEqual(tree(outside), before);
});
