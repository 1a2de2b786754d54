// The `bulk` import: listing a directory, looking at many files of it, and reading them, in one call.
//
// It gives no more than the granted directory does. What the component names is checked here again, every part of a path is
// opened as one name without following a link, and only what was seen to be a regular file is opened.

import * as fs from 'node:fs';
import { createHash } from 'node:crypto';
import * as libc from './libc.js';

/** The most names of one call. */
const MAX_NAMES = 65_536;

/** The most bytes of a file that is read. */
const MAX_FILE = 1 << 20;

/** The most bytes of a file that is hashed: nothing interrupts that. */
const MAX_DIGEST = 1n << 30n;

/** So many characters of files are given at once. */
const PAGE = 256 << 10;

const { O_RDONLY, O_DIRECTORY, O_NOFOLLOW, O_NONBLOCK, O_NOCTTY } = fs.constants;

const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** Says whether a text is one name, and not a way to somewhere else. */
function isName(name) {
  return name !== '' && name !== '.' && name !== '..' && !/[/\0]/.test(name);
}

/** Opens a directory below the root, name by name; undefined if there is none. */
function openDirectory(root, path) {
  let opened;
  try {
    for (const name of path.split('/')) {
      if (!isName(name)) {
        throw new TypeError(name);
      }
      const below = libc.openat(opened ?? root, name, libc.O_PATH | O_DIRECTORY | O_NOFOLLOW);
      if (opened !== undefined) {
        fs.closeSync(opened);
      }
      opened = below;
    }
    return opened;
  } catch {
    if (opened !== undefined) {
      fs.closeSync(opened);
    }
    return undefined;
  }
}

function line({ size, nlink, mtimeNs, ctimeNs }) {
  // A time before 1970 is none, as in the other hosts.
  return `${size} ${nlink} ${mtimeNs < 0n ? 0n : mtimeNs} ${ctimeNs < 0n ? 0n : ctimeNs}\n`;
}

/** Says what a file is like, with what `told` adds to it. */
function tell(path, told) {
  try {
    const stat = fs.lstatSync(path, { bigint: true, throwIfNoEntry: false });
    if (stat === undefined) {
      return '-\n';
    }
    return stat.isFile() ? told(path, stat) : '?\n';
  } catch (error) {
    return error.code === 'ENOENT' ? '-\n' : '?\n';
  }
}

/** Opens what was seen to be a regular file: to open a device can do something. */
function open(path) {
  return fs.openSync(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
}

/** Hashes a regular file, and returns its line with the digest at the end; undefined where it does not. */
function digest(path) {
  if (!fs.lstatSync(path).isFile()) {
    return undefined;
  }
  const fd = open(path);
  try {
    const stat = fs.fstatSync(fd, { bigint: true });
    if (!stat.isFile() || stat.size > MAX_DIGEST) {
      return undefined;
    }
    const hash = createHash('sha256');
    const piece = Buffer.allocUnsafe(PAGE);
    let size = 0n;
    for (let count = 1; count > 0 && size <= stat.size; size += BigInt(count)) {
      count = fs.readSync(fd, piece, 0, piece.length, null);
      hash.update(piece.subarray(0, count));
    }
    return size === stat.size ? `${line(stat).trimEnd()} ${hash.digest('hex')}` : undefined;
  } finally {
    fs.closeSync(fd);
  }
}

function read(path) {
  // It was looked at before, and is once more in case that it is another by now.
  const fd = open(path);
  try {
    const stat = fs.fstatSync(fd, { bigint: true });
    if (!stat.isFile() || stat.size > MAX_FILE) {
      return '?\n';
    }
    // One byte more tells the end from a file that grew.
    const content = Buffer.allocUnsafe(Number(stat.size) + 1);
    let filled = 0;
    for (let count = 1; count > 0 && filled < content.length; filled += count) {
      count = fs.readSync(fd, content, filled, content.length - filled, null);
    }
    if (filled !== Number(stat.size)) {
      return '?\n';
    }
    return `${line(stat)}${decoder.decode(content.subarray(0, filled))}\n`;
  } finally {
    fs.closeSync(fd);
  }
}

/** Returns the entry of a list. */
function entry(found) {
  const kind = found.isFile() ? 'f' : found.isDirectory() ? 'd' : found.isSymbolicLink() ? 'l' : 'o';
  return `${kind}${found.name}/`;
}

/**
 * @param {import('./grant.js').Grant | null} granted the directory that the instance sees, or none
 */
export function bulk(granted) {
  /** What is open for the instance, to be closed with it. */
  const held = new Set();

  function close(fd) {
    if (held.delete(fd)) {
      fs.closeSync(fd);
    }
  }

  /** Returns a directory and names in it; undefined if they are none. */
  function place(directory, names) {
    const listed = names.split('/', MAX_NAMES + 1);
    if (granted === null || listed.length > MAX_NAMES || !listed.every(isName)) {
      return undefined;
    }
    const fd = openDirectory(granted.fd, directory);
    return fd === undefined ? undefined : { fd, listed };
  }

  class Reader {
    #fd;
    #names;
    #next = 0;

    constructor(fd, names) {
      this.#fd = fd;
      this.#names = names;
      held.add(fd);
    }

    next() {
      let answer = '';
      while (this.#next < this.#names.length && answer.length < PAGE) {
        answer += tell(`/proc/self/fd/${this.#fd}/${this.#names[this.#next]}`, read);
        this.#next += 1;
      }
      return answer;
    }

    [Symbol.dispose]() {
      close(this.#fd);
    }
  }

  const imports = {
    Reader,
    list(directory) {
      const fd = granted === null ? undefined : openDirectory(granted.fd, directory);
      if (fd === undefined) {
        return undefined;
      }
      try {
        const entries = fs.readdirSync(`/proc/self/fd/${fd}`, { withFileTypes: true });
        // A name that is not UTF-8, or is about that: WASI tells them apart.
        return entries.some(({ name }) => name.includes('\ufffd')) ? undefined : entries.map(entry).join('');
      } catch {
        return undefined;
      } finally {
        fs.closeSync(fd);
      }
    },
    look(directory, names) {
      const found = place(directory, names);
      if (found === undefined) {
        return undefined;
      }
      try {
        return found.listed.map((name) => tell(`/proc/self/fd/${found.fd}/${name}`, (_, stat) => line(stat))).join('');
      } finally {
        fs.closeSync(found.fd);
      }
    },
    digest(directory, name) {
      const found = place(directory, name);
      if (found === undefined) {
        return undefined;
      }
      try {
        return found.listed.length === 1 ? digest(`/proc/self/fd/${found.fd}/${name}`) : undefined;
      } catch {
        return undefined;
      } finally {
        fs.closeSync(found.fd);
      }
    },
    read(directory, names) {
      const found = place(directory, names);
      return found === undefined ? undefined : new Reader(found.fd, found.listed);
    },
  };
  return {
    imports: { 'metalab:store/bulk': imports },
    /** Closes what the instance left open: after a trap it cannot do so itself. */
    end() {
      held.forEach(close);
    },
  };
}
