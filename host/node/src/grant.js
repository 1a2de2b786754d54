// What an instance is granted: one directory, by a descriptor that was opened before and is kept.

import * as fs from 'node:fs';
import { join } from 'node:path';
import * as libc from './libc.js';
import { RootError } from './errors.js';

const { O_RDONLY, O_DIRECTORY, W_OK, X_OK } = fs.constants;

/** Says in words why a directory cannot be opened. */
function reason(error) {
  switch (error.code) {
    case 'ENOENT':
      return 'there is no such directory';
    case 'ENOTDIR':
      return 'it is not a directory';
    case 'EEXIST':
      return 'a file is in its place';
    case 'EXDEV':
      return "it leads outside of the store's root";
    case 'EACCES':
    case 'EPERM':
      return 'access is denied';
    case 'EROFS':
      return 'the file system is read-only';
    default:
      return error.message;
  }
}

/** Opens a directory, which is made first if it is missing and may be made. */
function openOrCreate(open, create) {
  try {
    return open();
  } catch (error) {
    if (error.code !== 'ENOENT' || create === null) {
      throw error;
    }
    create();
    return open();
  }
}

/** A directory that instances may use. */
export class Grant {
  #fd;

  /** @param {{root: string, subdirectory?: string, writable: boolean}} place */
  constructor({ root, subdirectory, writable }) {
    this.path = root;
    this.writable = writable;
    try {
      const flags = O_RDONLY | O_DIRECTORY;
      const makeRoot = writable ? () => fs.mkdirSync(root, { recursive: true }) : null;
      this.#fd = openOrCreate(() => fs.openSync(root, flags), makeRoot);
      if (subdirectory !== undefined) {
        this.path = join(root, subdirectory);
        this.#enter(subdirectory, flags);
      }
    } catch (error) {
      this.close();
      throw new RootError(this.path, reason(error), { cause: error });
    }
    if (writable) {
      try {
        fs.accessSync(`/proc/self/fd/${this.#fd}`, W_OK | X_OK);
      } catch (error) {
        this.close();
        throw new RootError(this.path, `it cannot be written (${reason(error)}); it may be opened read-only`, { cause: error });
      }
    }
  }

  /** Goes on to a directory below. It goes through the root's descriptor: no link leads out of it. */
  #enter(name, flags) {
    const root = this.#fd;
    const make = () => {
      try {
        libc.mkdirat(root, name, 0o777);
      } catch (error) {
        // Somebody else opens the same experiment for the first time.
        if (error.code !== 'EEXIST') throw error;
      }
    };
    this.#fd = openOrCreate(() => libc.openBeneath(root, name, flags), this.writable ? make : null);
    fs.closeSync(root);
  }

  /** The directory's descriptor. It stays the directory that was opened, whatever its path leads to by now. */
  get fd() {
    return this.#fd;
  }

  close() {
    if (this.#fd !== undefined) {
      fs.closeSync(this.#fd);
      this.#fd = undefined;
    }
  }
}
