// The `roots` import: locks, sync and identity of the one directory that is granted.
//
// Everything goes through a descriptor of that directory. Names come from the component and are checked here again:
// whatever runs in its place cannot lock a file anywhere else.

import * as fs from 'node:fs';
import { createHash } from 'node:crypto';
import * as libc from './libc.js';

/** The most bytes of a lock's file that are read or written. */
const MAX_CONTENT = 4096;

/** The longest name of a lock, in bytes: with its suffix it is a file name. */
const MAX_NAME = 250;

/** The longest pause between two tries to take a lock, in milliseconds. */
const LONGEST_PAUSE = 20;

/** How often a lock's file may be replaced while it is locked before the waiting begins. A reference delete replaces it
 * once. */
const FREE_RETRIES = 16;

/** What the user is to know where nothing can be locked. */
const UNLOCKED =
  'nothing can be locked on the file system of this store: writers cannot exclude each other, so that of two that change one run at the '
  + 'same time one may undo what the other did, and what a killed writer left is not put right; let one process write at a time, or use a '
  + 'file system with working flock';

const { O_RDWR, O_CREAT, O_DIRECTORY, O_NOFOLLOW, O_NONBLOCK, O_NOCTTY } = fs.constants;

const sleeping = new Int32Array(new SharedArrayBuffer(4));

function sleep(milliseconds) {
  Atomics.wait(sleeping, 0, 0, milliseconds);
}

function refused(message) {
  return { tag: 'refused', val: message };
}

/** Returns an error of the operating system as the contract has it; any other is thrown on. */
function failed(error) {
  if (typeof error?.tag === 'string') {
    return error;
  }
  if (typeof error?.code !== 'string' || !error.code.startsWith('E')) {
    throw error;
  }
  return error.code === 'EROFS' ? { tag: 'read-only' } : { tag: 'io', val: error.message };
}

/** Returns where a lock's file is: a directory, and a name in it. */
function place(target) {
  const [directory, name] =
    target.tag === 'run' ? ['.locks', target.val]
    : target.tag === 'segment' ? ['.index', target.val]
    : ['.index', 'maintenance'];
  // eslint-disable-next-line no-control-regex
  const harmless = name !== '' && Buffer.byteLength(name) <= MAX_NAME && !/^\.|[/\\\p{Cc}]/u.test(name);
  if (!harmless) {
    throw refused(`${JSON.stringify(name)} is not the name of a file`);
  }
  return { directory, file: `${name}.lock`, path: `${directory}/${name}.lock` };
}

/** Says what something is that is no regular file; null for one that is. */
function misplaced(stat) {
  return stat.isFile() ? null
    : stat.isSymbolicLink() ? 'a symbolic link'
    : stat.isDirectory() ? 'a directory'
    : stat.isFIFO() ? 'a FIFO'
    : stat.isSocket() ? 'a socket'
    : stat.isCharacterDevice() || stat.isBlockDevice() ? 'a device'
    : 'not a regular file';
}

/** Looks at a name in an open directory; undefined if there is nothing, or nothing can be told. */
function look(directory, name) {
  try {
    return fs.lstatSync(`/proc/self/fd/${directory}/${name}`, { throwIfNoEntry: false });
  } catch {
    return undefined;
  }
}

/**
 * Opens a lock's file, and creates it if it is missing. Each of the two steps is one name without a `/`, and neither
 * follows a link: nothing outside the granted directory can be reached.
 */
function openFile(root, { directory, file, path }) {
  let parent;
  try {
    parent = libc.openat(root, directory, libc.O_PATH | O_DIRECTORY | O_NOFOLLOW);
  } catch (error) {
    if (error.code === 'ENOENT') throw { tag: 'no-directory' };
    if (error.code === 'ENOTDIR' || error.code === 'ELOOP') throw refused(`${directory} is not a directory`);
    throw failed(error);
  }
  let fd;
  try {
    // What is no file is not opened: opening alone does something to some devices.
    const seen = look(parent, file);
    const what = seen === undefined ? null : misplaced(seen);
    if (what !== null) throw refused(`${path} is ${what}`);
    // It may have taken the file's place since: a FIFO must not block, and a terminal must not become ours.
    fd = libc.openat(parent, file, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, 0o666);
  } catch (error) {
    // The directory was removed meanwhile.
    if (error.code === 'ENOENT') throw { tag: 'no-directory' };
    if (error.code === 'ELOOP') throw refused(`${path} is a symbolic link`);
    if (error.code === 'EISDIR') throw refused(`${path} is a directory`);
    if (error.code === 'ENXIO') throw refused(`${path} is not a regular file`);
    throw failed(error);
  } finally {
    fs.closeSync(parent);
  }
  try {
    const stat = fs.fstatSync(fd, { bigint: true });
    const what = misplaced(stat);
    if (what !== null) throw refused(`${path} is ${what}`);
    return { fd, stat };
  } catch (error) {
    fs.closeSync(fd);
    throw failed(error);
  }
}

/** Says whether the name still leads to the file that was opened. A reference delete unlinks it, and a lock on a file
 * without a name excludes nobody. */
function stillNamed(root, { path }, opened) {
  try {
    const named = fs.lstatSync(`/proc/self/fd/${root}/${path}`, { bigint: true });
    return named.dev === opened.dev && named.ino === opened.ino;
  } catch {
    return false;
  }
}

/** Reads the tokens of the machine and of its boot. They do not change. */
function readToken(path) {
  let text;
  try {
    text = fs.readFileSync(path, 'utf8').trim();
  } catch {
    return '';
  }
  // In containers the file is often there, and empty: that is no machine's id. And the id is not to be shown to others
  // as it is.
  return text === '' ? '' : createHash('sha256').update(text).digest('hex').slice(0, 32);
}

let tokens;

/**
 * Makes the import of an instance.
 *
 * @param {{fd: number, writable: boolean, unlocked?: string} | null} granted the directory that it is about; `unlocked` becomes what
 *   the user is to know once nothing could be locked
 */
export function roots(granted) {
  const held = new Set();

  class Lock {
    #fd;

    constructor(fd) {
      this.#fd = fd;
      held.add(fd);
    }

    setContent(content) {
      if (content.byteLength > MAX_CONTENT) {
        throw refused(`a lock's file holds at most ${MAX_CONTENT} bytes`);
      }
      try {
        let written = 0;
        while (written < content.byteLength) {
          written += fs.writeSync(this.#fd, content, written, content.byteLength - written, written);
        }
        fs.ftruncateSync(this.#fd, content.byteLength);
      } catch (error) {
        throw failed(error);
      }
    }

    [Symbol.dispose]() {
      if (held.delete(this.#fd)) {
        fs.closeSync(this.#fd);
      }
    }
  }

  function acquire(target, mode, timeoutMs) {
    const where = place(target);
    if (granted === null) {
      throw { tag: 'no-directory' };
    }
    if (!granted.writable) {
      throw { tag: 'read-only' };
    }
    const operation = (mode === 'shared' ? libc.LOCK_SH : libc.LOCK_EX) | libc.LOCK_NB;
    const deadline = performance.now() + timeoutMs;
    let pause = 0.05;
    let replaced = 0;
    for (;;) {
      const { fd, stat } = openFile(granted.fd, where);
      let taken = false;
      try {
        libc.flock(fd, operation);
        if (stillNamed(granted.fd, where, stat)) {
          const content = Buffer.alloc(MAX_CONTENT);
          const count = fs.readSync(fd, content, 0, MAX_CONTENT, 0);
          taken = true;
          return [new Lock(fd), content.subarray(0, count)];
        }
        replaced += 1;
        if (replaced <= FREE_RETRIES) {
          continue;
        }
      } catch (error) {
        if (['ENOLCK', 'EOPNOTSUPP', 'ENOTSUP', 'ENOSYS', 'EINVAL'].includes(error?.code)) {
          granted.unlocked = UNLOCKED;
          throw { tag: 'unavailable', val: `${where.path} cannot be locked on this file system` };
        }
        if (error?.code !== 'EAGAIN') {
          throw failed(error);
        }
      } finally {
        if (!taken) {
          fs.closeSync(fd);
        }
      }
      const left = deadline - performance.now();
      if (left <= 0) {
        throw { tag: 'timed-out' };
      }
      sleep(Math.min(pause, left));
      pause = Math.min(pause * 2, LONGEST_PAUSE);
    }
  }

  const imports = {
    Lock,
    acquire,
    sync() {
      if (granted === null) {
        throw 'no directory is granted';
      }
      try {
        libc.syncfs(granted.fd);
      } catch (error) {
        throw error.message;
      }
    },
    getIdentity() {
      tokens ??= { machine: readToken('/etc/machine-id'), boot: readToken('/proc/sys/kernel/random/boot_id') };
      let place = { dev: 0n, ino: 0n };
      try {
        place = granted === null ? place : fs.fstatSync(granted.fd, { bigint: true });
      } catch {
        // Without a place the component trusts nothing that another process left behind.
      }
      return { ...tokens, device: place.dev, inode: place.ino };
    },
    utcOffset(atSeconds) {
      const offset = -60 * new Date(Number(atSeconds) * 1000).getTimezoneOffset();
      return Number.isFinite(offset) ? Math.round(offset) : 0;
    },
  };
  return {
    imports: { 'metalab:store/roots': imports },
    /** Releases what the instance left locked: after a trap it cannot do so itself. */
    end() {
      for (const fd of held) {
        fs.closeSync(fd);
      }
      held.clear();
    },
  };
}
