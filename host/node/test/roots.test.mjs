// Locks, sync and identity of the granted directory.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import * as fs from 'node:fs';
import { once } from 'node:events';
import { syncBuiltinESMExports } from 'node:module';
import { join } from 'node:path';
import koffi from 'koffi';
import { Grant } from '../src/grant.js';
import { SystemError } from '../src/libc.js';
import { roots } from '../src/roots.js';
import { directory } from './help.mjs';

const RUN = { tag: 'run', val: 'a' };

/** A directory with `.locks` and `.index` in it, and two imports on it. */
function two(t, writable = true) {
  const root = directory(t);
  fs.mkdirSync(join(root, '.locks'));
  fs.mkdirSync(join(root, '.index'));
  const [first, second] = [1, 2].map(() => {
    const grant = new Grant({ root, writable });
    const { imports, end } = roots(grant);
    t.after(() => {
      end();
      grant.close();
    });
    return Object.assign(imports['metalab:store/roots'], { end });
  });
  return { root, first, second };
}

const reason = (call) => {
  try {
    call();
  } catch (error) {
    return error;
  }
  return { tag: 'taken' };
};

const timedOut = { tag: 'timed-out' };

test('a run is locked by one holder at a time and free after it', (t) => {
  const { first, second } = two(t);
  const [lock] = first.acquire(RUN, 'exclusive', 0);
  assert.deepEqual(reason(() => second.acquire(RUN, 'exclusive', 1)), timedOut);
  second.acquire({ tag: 'run', val: 'b' }, 'exclusive', 0);
  lock[Symbol.dispose]();
  second.acquire(RUN, 'exclusive', 0);
});

test('shared holders exclude only an exclusive one', (t) => {
  const { first, second } = two(t);
  first.acquire({ tag: 'maintenance' }, 'shared', 0);
  const [lock] = second.acquire({ tag: 'maintenance' }, 'shared', 0);
  lock[Symbol.dispose]();
  assert.deepEqual(reason(() => second.acquire({ tag: 'maintenance' }, 'exclusive', 1)), timedOut);
});

test('the lock excludes another program that locks the same file', async (t) => {
  const { root, first } = two(t);
  const other = spawn('flock', [join(root, '.locks/a.lock'), 'sh', '-c', 'echo held; exec cat'], { stdio: ['pipe', 'pipe', 'inherit'] });
  await once(other.stdout, 'data');
  assert.deepEqual(reason(() => first.acquire(RUN, 'exclusive', 1)), timedOut);
  other.stdin.end();
  await once(other, 'close');
  first.acquire(RUN, 'exclusive', 0);
  assert.throws(() => execFileSync('flock', ['-n', join(root, '.locks/a.lock'), 'true']));
});

test('a lock on a file that was unlinked meanwhile does not count', (t) => {
  const { root, first, second } = two(t);
  const [lock] = first.acquire(RUN, 'exclusive', 0);
  fs.unlinkSync(join(root, '.locks/a.lock'));
  const [other] = second.acquire(RUN, 'exclusive', 0);
  lock[Symbol.dispose]();
  assert.deepEqual(reason(() => first.acquire(RUN, 'exclusive', 1)), timedOut);
  other[Symbol.dispose]();
});

test('a file that is replaced between opening and locking is opened again', (t) => {
  const { root, first, second } = two(t);
  const path = join(root, '.locks/a.lock');
  // The look at the opened file is the last thing before it is locked.
  const { fstatSync } = fs.default;
  let replaced = 0;
  fs.default.fstatSync = (...rest) => {
    const stat = fstatSync(...rest);
    if (replaced < 3) {
      replaced += 1;
      fs.unlinkSync(path);
    }
    return stat;
  };
  syncBuiltinESMExports();
  let lock;
  try {
    [lock] = first.acquire(RUN, 'exclusive', 0);
  } finally {
    fs.default.fstatSync = fstatSync;
    syncBuiltinESMExports();
  }
  assert.equal(replaced, 3);
  assert.ok(fs.existsSync(path));
  assert.deepEqual(reason(() => second.acquire(RUN, 'exclusive', 1)), timedOut);
  lock[Symbol.dispose]();
});

test('the content of the file is kept from one holder to the next', (t) => {
  const { root, first, second } = two(t);
  const [lock, content] = first.acquire({ tag: 'segment', val: 's' }, 'exclusive', 0);
  assert.equal(content.byteLength, 0);
  lock.setContent(Buffer.from('a longer text'));
  lock.setContent(Buffer.from('short'));
  assert.deepEqual(reason(() => lock.setContent(Buffer.alloc(4097))), { tag: 'refused', val: "a lock's file holds at most 4096 bytes" });
  lock[Symbol.dispose]();
  assert.equal(fs.readFileSync(join(root, '.index/s.lock'), 'utf8'), 'short');
  assert.equal(Buffer.from(second.acquire({ tag: 'segment', val: 's' }, 'shared', 0)[1]).toString(), 'short');
});

test('an error that Node has no name for has the one of the C library', () => {
  assert.equal(new SystemError('flock', koffi.os.errno.ENOLCK).code, 'ENOLCK');
  assert.equal(new SystemError('flock', koffi.os.errno.EAGAIN).code, 'EAGAIN');
});

test('only regular files directly in the directory of locks are locked', (t) => {
  const { root, first } = two(t);
  for (const name of ['', '.', '..', '../x', 'a/b', 'a\\b', 'a\0', '.a', 'x'.repeat(251), 'a\u0085']) {
    assert.equal(reason(() => first.acquire({ tag: 'run', val: name }, 'exclusive', 0)).tag, 'refused', JSON.stringify(name));
  }
  const locks = join(root, '.locks');
  fs.writeFileSync(join(root, 'victim'), 'kept');
  fs.symlinkSync('../victim', join(locks, 'link.lock'));
  fs.symlinkSync('../new', join(locks, 'dangling.lock'));
  fs.mkdirSync(join(locks, 'directory.lock'));
  execFileSync('mkfifo', [join(locks, 'fifo.lock')]);
  const why = { link: 'a symbolic link', dangling: 'a symbolic link', directory: 'a directory', fifo: 'a FIFO' };
  const server = spawnSync(process.execPath, ['-e', `require('node:net').createServer().listen(${JSON.stringify(join(locks, 'socket.lock'))}, () => process.kill(process.pid, 'SIGKILL'))`]);
  assert.equal(server.signal, 'SIGKILL');
  why.socket = 'a socket';
  // A number that no driver has, so that opening it would be another error; only root may make one.
  if (spawnSync('mknod', [join(locks, 'device.lock'), 'c', '511', '1']).status === 0) {
    why.device = 'a device';
  }
  for (const [name, what] of Object.entries(why)) {
    const refused = reason(() => first.acquire({ tag: 'run', val: name }, 'exclusive', 0));
    assert.deepEqual(refused, { tag: 'refused', val: `.locks/${name}.lock is ${what}` });
  }
  assert.equal(fs.existsSync(join(root, 'new')), false);
  fs.renameSync(locks, join(root, 'aside'));
  assert.deepEqual(reason(() => first.acquire(RUN, 'exclusive', 0)), { tag: 'no-directory' });
  fs.symlinkSync('aside', locks);
  assert.deepEqual(reason(() => first.acquire(RUN, 'exclusive', 0)), { tag: 'refused', val: '.locks is not a directory' });
});

test('a directory that is granted to read cannot be locked', (t) => {
  const { root, first } = two(t, false);
  assert.deepEqual(reason(() => first.acquire(RUN, 'shared', 0)), { tag: 'read-only' });
  assert.deepEqual(fs.readdirSync(join(root, '.locks')), []);
});

test('what an instance held is free when it ends', (t) => {
  const { first, second } = two(t);
  first.acquire(RUN, 'exclusive', 0);
  first.end();
  second.acquire(RUN, 'exclusive', 0);
});

test('the identity is that of the machine and of the directory', (t) => {
  const { root, first } = two(t);
  const { dev, ino } = fs.statSync(root, { bigint: true });
  const identity = first.getIdentity();
  assert.deepEqual([identity.device, identity.inode], [dev, ino]);
  const boot = fs.readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
  assert.equal(identity.boot, createHash('sha256').update(boot).digest('hex').slice(0, 32));
  first.sync();
});

test('the local offset is that of the time', (t) => {
  const { first } = two(t);
  const before = process.env.TZ;
  t.after(() => {
    if (before === undefined) {
      delete process.env.TZ;
    } else {
      process.env.TZ = before;
    }
  });
  process.env.TZ = 'Europe/Berlin';
  assert.equal(first.utcOffset(1_735_689_600n), 3600);
  assert.equal(first.utcOffset(1_751_328_000n), 7200);
  assert.equal(first.utcOffset(2n ** 62n), 0);
});
