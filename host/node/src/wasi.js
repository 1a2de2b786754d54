// WASI for one instance of the component: one directory, clocks and random numbers, and nothing else.
//
// jco's own WASI host is not used. It walks paths by their names, so that a link which appears meanwhile can lead it
// out of the directory, and it makes each call in another thread, 0.1 ms a call. Here every path is resolved by the kernel
// below an open directory, and a call is a system call.

import * as fs from 'node:fs';
import { randomBytes } from 'node:crypto';
import * as libc from './libc.js';

/** The name under which the component sees its directory. */
const GUEST_NAME = 'store';

/** The most bytes of one read. */
const MAX_READ = 1 << 20;

/** How many bytes of what the component says when it fails are kept. */
const STDERR_BYTES = 4096;

const { O_RDONLY, O_WRONLY, O_RDWR, O_CREAT, O_EXCL, O_TRUNC, O_DIRECTORY, O_NOFOLLOW, O_NONBLOCK, O_NOCTTY, O_APPEND } = fs.constants;

/** The contract's names of the operating system's errors. */
const CODES = {
  EACCES: 'access', EAGAIN: 'would-block', EBADF: 'bad-descriptor', EBUSY: 'busy', EDEADLK: 'deadlock',
  EDQUOT: 'quota', EEXIST: 'exist', EFBIG: 'file-too-large', EILSEQ: 'illegal-byte-sequence', EINTR: 'interrupted',
  EINVAL: 'invalid', EIO: 'io', EISDIR: 'is-directory', ELOOP: 'loop', EMLINK: 'too-many-links',
  ENAMETOOLONG: 'name-too-long', ENODEV: 'no-device', ENOENT: 'no-entry', ENOLCK: 'no-lock',
  ENOMEM: 'insufficient-memory', ENOSPC: 'insufficient-space', ENOTDIR: 'not-directory', ENOTEMPTY: 'not-empty',
  ENOTSUP: 'unsupported', EOPNOTSUPP: 'unsupported', ENOSYS: 'unsupported', ENXIO: 'no-such-device', EOVERFLOW: 'overflow', EPERM: 'not-permitted',
  EROFS: 'read-only', ESPIPE: 'invalid-seek', ETXTBSY: 'text-file-busy',
  // Across the border of the granted directory: there is no such device for the component.
  EXDEV: 'not-permitted',
};

/** Returns WASI's name of an error; an error that is none of the operating system's is thrown on. */
export function errorCode(error) {
  if (typeof error === 'string') {
    return error;
  }
  if (typeof error?.code !== 'string' || !/^E[A-Z0-9]+$/.test(error.code)) {
    throw error;
  }
  return CODES[error.code] ?? 'io';
}

/** Makes a system call for the component, whose errors are names. */
function attempt(call) {
  try {
    return call();
  } catch (error) {
    throw errorCode(error);
  }
}

function kind(stat) {
  if (stat.isFile()) return 'regular-file';
  if (stat.isDirectory()) return 'directory';
  if (stat.isSymbolicLink()) return 'symbolic-link';
  if (stat.isFIFO()) return 'fifo';
  if (stat.isSocket()) return 'socket';
  if (stat.isCharacterDevice()) return 'character-device';
  if (stat.isBlockDevice()) return 'block-device';
  return 'unknown';
}

function datetime(nanoseconds) {
  // Before 1970 there is none.
  const time = nanoseconds < 0n ? 0n : nanoseconds;
  return { seconds: time / 1_000_000_000n, nanoseconds: Number(time % 1_000_000_000n) };
}

function described(stat) {
  return {
    type: kind(stat),
    linkCount: stat.nlink,
    size: stat.size,
    dataAccessTimestamp: datetime(stat.atimeNs),
    dataModificationTimestamp: datetime(stat.mtimeNs),
    statusChangeTimestamp: datetime(stat.ctimeNs),
  };
}

/** One call of the component uses it at a time, and copies what it got before the next. */
const scratch = Buffer.allocUnsafe(MAX_READ);

const NO_STREAM = { tag: 'closed' };

/**
 * Makes the imports of an instance.
 *
 * @param {{fd: number, writable: boolean} | null} granted the directory that it sees
 */
export function wasi(granted) {
  /** What is open for the instance, to be closed with it. */
  const open = new Set();
  let said = '';

  function opened(fd) {
    open.add(fd);
    return fd;
  }

  function close(fd) {
    if (open.delete(fd)) {
      fs.closeSync(fd);
    }
  }

  class Descriptor {
    #fd;
    #directory;
    #write;

    constructor(fd, directory, write) {
      this.#fd = fd;
      this.#directory = directory;
      this.#write = write;
    }

    [Symbol.dispose]() {
      close(this.#fd);
    }

    /** Calls with an open directory and the last name of a path. */
    #within(path, call) {
      const place = path.lastIndexOf('/');
      const name = path.slice(place + 1);
      if (path.includes('\0')) {
        throw 'illegal-byte-sequence';
      }
      if (name === '' || name === '.' || name === '..') {
        throw 'not-permitted';
      }
      if (place < 0) {
        return attempt(() => call(this.#fd, name));
      }
      const flags = libc.O_PATH | O_DIRECTORY;
      const directory = attempt(() => libc.openBeneath(this.#fd, place === 0 ? '/' : path.slice(0, place), flags));
      try {
        return attempt(() => call(directory, name));
      } finally {
        fs.closeSync(directory);
      }
    }

    #mayWrite() {
      if (!granted.writable) {
        throw 'not-permitted';
      }
    }

    openAt(pathFlags, path, how, flags) {
      const changes = how.create || how.truncate || flags.write;
      if (changes) {
        this.#mayWrite();
      }
      if (path.includes('\0')) {
        throw 'illegal-byte-sequence';
      }
      if (flags.fileIntegritySync || flags.dataIntegritySync || flags.requestedWriteSync) {
        throw 'unsupported';
      }
      // A FIFO must not block, and a terminal must not become ours; neither is handed out.
      let bits = O_NONBLOCK | O_NOCTTY;
      bits |= flags.write ? (flags.read ? O_RDWR : O_WRONLY) : O_RDONLY;
      bits |= how.create ? O_CREAT : 0;
      bits |= how.exclusive ? O_EXCL : 0;
      bits |= how.truncate ? O_TRUNC : 0;
      bits |= how.directory ? O_DIRECTORY : 0;
      bits |= pathFlags.symlinkFollow ? 0 : O_NOFOLLOW;
      return attempt(() => {
        const fd = libc.openBeneath(this.#fd, path, bits, how.create ? 0o666 : 0);
        let stat;
        try {
          stat = how.directory || fs.fstatSync(fd);
        } catch (error) {
          fs.closeSync(fd);
          throw error;
        }
        const directory = how.directory || stat.isDirectory();
        if (!directory && !stat.isFile()) {
          fs.closeSync(fd);
          throw 'not-permitted';
        }
        return new Descriptor(opened(fd), directory, Boolean(flags.write));
      });
    }

    stat() {
      return attempt(() => described(fs.fstatSync(this.#fd, { bigint: true })));
    }

    statAt(pathFlags, path) {
      if (path.includes('\0')) {
        throw 'illegal-byte-sequence';
      }
      return attempt(() => {
        if (path === '.') {
          return described(fs.fstatSync(this.#fd, { bigint: true }));
        }
        const follow = pathFlags.symlinkFollow ? 0 : O_NOFOLLOW;
        const fd = libc.openBeneath(this.#fd, path, libc.O_PATH | follow);
        try {
          return described(fs.fstatSync(fd, { bigint: true }));
        } finally {
          fs.closeSync(fd);
        }
      });
    }

    read(length, offset) {
      if (this.#directory) {
        throw 'is-directory';
      }
      const asked = Number(length < BigInt(MAX_READ) ? length : BigInt(MAX_READ));
      const count = attempt(() => fs.readSync(this.#fd, scratch, 0, asked, offset));
      return [scratch.subarray(0, count), count === 0];
    }

    write(buffer, offset) {
      if (!this.#write) {
        throw 'bad-descriptor';
      }
      return BigInt(attempt(() => fs.writeSync(this.#fd, buffer, 0, buffer.byteLength, Number(offset))));
    }

    appendViaStream() {
      if (!this.#write) {
        throw 'bad-descriptor';
      }
      // The same file once more, so that every write goes to what is its end then.
      const fd = attempt(() => fs.openSync(`/proc/self/fd/${this.#fd}`, O_WRONLY | O_APPEND));
      return new OutputStream(opened(fd));
    }

    setSize(size) {
      if (!this.#write) {
        throw 'bad-descriptor';
      }
      attempt(() => fs.ftruncateSync(this.#fd, Number(size)));
    }

    sync() {
      attempt(() => fs.fsyncSync(this.#fd));
    }

    syncData() {
      attempt(() => fs.fdatasyncSync(this.#fd));
    }

    readDirectory() {
      if (!this.#directory) {
        throw 'not-directory';
      }
      const options = { withFileTypes: true };
      const path = `/proc/self/fd/${this.#fd}`;
      let entries = attempt(() => fs.readdirSync(path, options));
      if (entries.some(({ name }) => name.includes('\ufffd'))) {
        entries = attempt(() => fs.readdirSync(path, { ...options, encoding: 'buffer' }));
      }
      return new DirectoryEntryStream(entries);
    }

    createDirectoryAt(path) {
      this.#mayWrite();
      this.#within(path, (directory, name) => libc.mkdirat(directory, name, 0o777));
    }

    removeDirectoryAt(path) {
      this.#mayWrite();
      this.#within(path, (directory, name) => libc.rmdirat(directory, name));
    }

    unlinkFileAt(path) {
      this.#mayWrite();
      this.#within(path, (directory, name) => libc.unlinkat(directory, name));
    }

    renameAt(path, target, targetPath) {
      this.#mayWrite();
      this.#within(path, (from, name) => target.#within(targetPath, (to, targetName) => libc.renameat(from, name, to, targetName)));
    }

    setTimesAt(pathFlags, path, accessed, modified) {
      this.#mayWrite();
      const time = ({ tag, val }) => {
        if (tag === 'timestamp') {
          return val.seconds * 1_000_000_000n + BigInt(val.nanoseconds);
        }
        return tag === 'now' ? 'now' : undefined;
      };
      this.#within(path, (directory, name) => libc.utimensat(directory, name, time(accessed), time(modified)));
    }
  }

  class DirectoryEntryStream {
    #entries;
    #next = 0;
    #decoder = new TextDecoder('utf-8', { fatal: true });

    constructor(entries) {
      this.#entries = entries;
    }

    readDirectoryEntry() {
      const entry = this.#entries[this.#next];
      if (entry === undefined) {
        return undefined;
      }
      this.#next += 1;
      let { name } = entry;
      if (typeof name !== 'string') {
        try {
          name = this.#decoder.decode(name);
        } catch {
          throw 'illegal-byte-sequence';
        }
      }
      return { type: kind(entry), name };
    }

    [Symbol.dispose]() {}
  }

  class IoError {
    code;
    constructor(code) {
      this.code = code;
    }
    toDebugString() {
      return this.code;
    }
    [Symbol.dispose]() {}
  }

  class OutputStream {
    /** The file, or none: what the component says when it fails. */
    #fd;

    constructor(fd) {
      this.#fd = fd;
    }

    checkWrite() {
      return 4096n;
    }

    write(content) {
      if (this.#fd === null) {
        said = (said + Buffer.from(content).toString('utf8')).slice(-STDERR_BYTES);
        return;
      }
      let written = 0;
      try {
        while (written < content.byteLength) {
          written += fs.writeSync(this.#fd, content, written, content.byteLength - written, null);
        }
      } catch (error) {
        throw { tag: 'last-operation-failed', val: new IoError(errorCode(error)) };
      }
    }

    blockingWriteAndFlush(content) {
      this.write(content);
    }

    flush() {}
    blockingFlush() {}

    subscribe() {
      return new Pollable();
    }

    [Symbol.dispose]() {
      if (this.#fd !== null) {
        close(this.#fd);
      }
    }
  }

  class InputStream {
    blockingRead() {
      throw NO_STREAM;
    }
    read() {
      throw NO_STREAM;
    }
    subscribe() {
      return new Pollable();
    }
    [Symbol.dispose]() {}
  }

  class Pollable {
    ready() {
      return true;
    }
    block() {}
    [Symbol.dispose]() {}
  }

  class TerminalInput {}
  class TerminalOutput {}

  const discarded = () => new OutputStream(null);
  const imports = {
    'wasi:cli/environment': { getEnvironment: () => [], getArguments: () => [], initialCwd: () => undefined },
    'wasi:cli/exit': {
      exit() {
        throw new Error('the component ended itself');
      },
    },
    'wasi:cli/stdin': { getStdin: () => new InputStream() },
    'wasi:cli/stdout': { getStdout: discarded },
    'wasi:cli/stderr': { getStderr: discarded },
    'wasi:cli/terminal-input': { TerminalInput },
    'wasi:cli/terminal-output': { TerminalOutput },
    'wasi:cli/terminal-stdin': { getTerminalStdin: () => undefined },
    'wasi:cli/terminal-stdout': { getTerminalStdout: () => undefined },
    'wasi:cli/terminal-stderr': { getTerminalStderr: () => undefined },
    'wasi:clocks/wall-clock': {
      // Not of `performance`, which goes on from when the process began: it knows neither of a clock that was set nor of a
      // machine that slept.
      now: () => datetime(BigInt(Date.now()) * 1_000_000n),
      resolution: () => datetime(1_000_000n),
    },
    'wasi:filesystem/preopens': {
      getDirectories: () => (granted === null ? [] : [[new Descriptor(opened(duplicate(granted.fd)), true, false), GUEST_NAME]]),
    },
    'wasi:filesystem/types': {
      Descriptor,
      DirectoryEntryStream,
      filesystemErrorCode: (error) => (error instanceof IoError ? error.code : undefined),
    },
    'wasi:io/error': { Error: IoError },
    'wasi:io/poll': { Pollable, poll: (pollables) => Uint32Array.from(pollables.keys()) },
    'wasi:io/streams': { InputStream, OutputStream },
    'wasi:random/insecure-seed': {
      insecureSeed() {
        const bytes = randomBytes(16);
        return [bytes.readBigUInt64LE(0), bytes.readBigUInt64LE(8)];
      },
    },
    'wasi:random/random': {
      getRandomU64: () => randomBytes(8).readBigUInt64LE(),
      getRandomBytes: (length) => randomBytes(Number(length)),
    },
  };
  return {
    imports,
    /** Returns what the component said on its standard error. */
    said: () => said.trim(),
    /** Closes what the instance left open: after a trap it cannot do so itself. */
    end() {
      for (const fd of [...open]) {
        close(fd);
      }
    },
  };
}

/** Opens a directory that is open once more. */
export function duplicate(fd) {
  return libc.openat(fd, '.', O_RDONLY | O_DIRECTORY);
}
