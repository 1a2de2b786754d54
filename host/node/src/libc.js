// What Node does not offer of the C library: locks, a sync of a file system, and opening files below a directory.

import koffi from 'koffi';
import { constants } from 'node:fs';
import { getSystemErrorName } from 'node:util';

const library = koffi.load(null);

const raw = {
  prctl: library.func('int prctl(int option, unsigned long argument)'),
  flock: library.func('int flock(int fd, int operation)'),
  syncfs: library.func('int syncfs(int fd)'),
  // On every machine that Linux runs on, the number of openat2 is 437, and no C library wraps it yet. What the C library
  // declares with dots is passed in the same registers as these.
  syscall: library.func('long syscall(long number, long directory, const char *path, void *how, size_t size)'),
  openat: library.func('int openat(int directory, const char *path, int flags, unsigned int mode)'),
  mkdirat: library.func('int mkdirat(int directory, const char *path, unsigned int mode)'),
  unlinkat: library.func('int unlinkat(int directory, const char *path, int flags)'),
  renameat: library.func('int renameat(int from, const char *path, int to, const char *target)'),
  utimensat: library.func('int utimensat(int directory, const char *path, void *times, int flags)'),
};

const OPENAT2 = 437;
const RESOLVE_NO_MAGICLINKS = 0x02n;
const RESOLVE_BENEATH = 0x08n;

/** The flags that `node:fs` has no names for; the same on every machine. */
export const O_PATH = 0o10000000;
export const O_CLOEXEC = 0o2000000;
const AT_REMOVEDIR = 0x200;
const AT_SYMLINK_NOFOLLOW = 0x100;
const UTIME_OMIT = (1n << 30n) - 2n;
const UTIME_NOW = (1n << 30n) - 1n;

export const LOCK_SH = 1;
export const LOCK_EX = 2;
export const LOCK_NB = 4;

/** Names of the operating system's errors, by number. */
const names = new Map();

/** Returns the name of an error. Node knows those that its own calls have: no ENOLCK, for one. */
function nameOf(errno) {
  const name = getSystemErrorName(-errno);
  return /^E[A-Z0-9]+$/.test(name) ? name : Object.entries(koffi.os.errno).find(([, number]) => number === errno)?.[0] ?? name;
}

/**
 * An error of a system call. `code` is its name, as in the errors of `node:fs`. It is not an `Error`: a file that is not
 * there is an everyday answer, and a stack trace costs more than the call.
 */
export class SystemError {
  constructor(operation, errno) {
    if (!names.has(errno)) {
      names.set(errno, nameOf(errno));
    }
    this.code = names.get(errno);
    this.operation = operation;
  }

  get message() {
    return `${this.operation}: ${this.code}`;
  }
}

const { EINTR, EAGAIN, ENOSYS, EXDEV } = koffi.os.errno;

/** Makes a call again that a signal interrupted. */
function call(operation, function_, ...rest) {
  for (;;) {
    const result = function_(...rest);
    if (result >= 0) {
      return result;
    }
    const errno = koffi.errno();
    if (errno !== EINTR) {
      throw new SystemError(operation, errno);
    }
  }
}

/** Locks an open file, or throws at once if somebody else holds it. */
/** Tells the kernel to end this process when the thread that started it ends, whatever it is doing then. */
export function endWithParent() {
  const PR_SET_PDEATHSIG = 1;
  const SIGKILL = 9;
  raw.prctl(PR_SET_PDEATHSIG, SIGKILL);
}

export function flock(fd, operation) {
  call('flock', raw.flock, fd, operation);
}

/** Makes durable what was written to the file system of an open file. */
export function syncfs(fd) {
  call('syncfs', raw.syncfs, fd);
}

/** Opens one name in a directory. */
export function openat(directory, name, flags, mode = 0) {
  return call('open', raw.openat, directory, name, flags | O_CLOEXEC, mode);
}

const how = new BigUint64Array(3);

/**
 * Opens a path below a directory. The kernel resolves it, and no link, no `..` and no rename meanwhile leads out of the
 * directory: that is the error EXDEV.
 */
export function openBeneath(directory, path, flags, mode = 0) {
  for (;;) {
    how[0] = BigInt(flags | O_CLOEXEC);
    how[1] = BigInt(mode);
    how[2] = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
    const fd = raw.syscall(OPENAT2, directory, path, how, how.byteLength);
    if (fd >= 0) {
      return Number(fd);
    }
    const errno = koffi.errno();
    if (errno === ENOSYS) {
      return walk(directory, path, flags, mode);
    }
    // The kernel gives up where something was renamed meanwhile.
    if (errno !== EINTR && errno !== EAGAIN) {
      throw new SystemError('open', errno);
    }
  }
}

/** Does the same on a kernel without `openat2`, older than 5.6: step by step, following no link at all. */
function walk(directory, path, flags, mode) {
  const names = path.split('/').filter((name) => name !== '' && name !== '.');
  if (path.startsWith('/') || names.includes('..')) {
    throw new SystemError('open', EXDEV);
  }
  let last = names.pop() ?? '.';
  let current = directory;
  const close = () => {
    if (current !== directory) {
      closeQuietly(current);
    }
  };
  try {
    for (const name of names) {
      const next = openat(current, name, O_PATH | constants.O_DIRECTORY | constants.O_NOFOLLOW);
      close();
      current = next;
    }
    return openat(current, last, flags | constants.O_NOFOLLOW, mode);
  } finally {
    close();
  }
}

const closeRaw = library.func('int close(int fd)');

function closeQuietly(fd) {
  closeRaw(fd);
}

export function mkdirat(directory, name, mode) {
  call('mkdir', raw.mkdirat, directory, name, mode);
}

export function unlinkat(directory, name) {
  call('unlink', raw.unlinkat, directory, name, 0);
}

export function rmdirat(directory, name) {
  call('rmdir', raw.unlinkat, directory, name, AT_REMOVEDIR);
}

export function renameat(from, name, to, target) {
  call('rename', raw.renameat, from, name, to, target);
}

/** Sets the times of a name in a directory. Each is nanoseconds since 1970, `now`, or none to keep it. */
export function utimensat(directory, name, accessed, modified) {
  const times = new BigInt64Array(4);
  [accessed, modified].forEach((time, index) => {
    if (time === undefined) {
      times[2 * index + 1] = UTIME_OMIT;
    } else if (time === 'now') {
      times[2 * index + 1] = UTIME_NOW;
    } else {
      times[2 * index] = time / 1_000_000_000n;
      times[2 * index + 1] = time % 1_000_000_000n;
    }
  });
  call('utimensat', raw.utimensat, directory, name, times, AT_SYMLINK_NOFOLLOW);
}
