// What the tests share.

import { spawn } from 'node:child_process';
import * as fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { FileStoreConfig } from '../src/index.js';

export const CHECKOUT = process.env.METALAB_CHECKOUT ?? fileURLToPath(new URL('../../..', import.meta.url));
export const TARGET = process.env.METALAB_TARGET ?? join(CHECKOUT, 'target');

/** Makes a directory for a test, removed after it. */
export function directory(test) {
  const made = fs.mkdtempSync(join(fs.realpathSync(tmpdir()), 'metalab-node-'));
  test.after(() => fs.rmSync(made, { recursive: true, force: true }));
  return made;
}

/** Opens a store of the experiment `exp:1`, closed after the test. */
export function open(test, root = join(directory(test), 'store'), settings = {}) {
  const store = new FileStoreConfig({ root, ...settings }).scoped('exp:1').connect();
  test.after(() => store.close());
  return { root, inside: join(root, 'exp_1'), store };
}

/** Returns all paths below a directory with their content. */
export function tree(root) {
  const found = {};
  for (const entry of fs.readdirSync(root, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath ?? entry.path, entry.name);
    found[path] = entry.isFile() ? fs.readFileSync(path, 'latin1') : 'directory';
  }
  return found;
}

/** A process that a test started. It is killed if the test ends before it does. */
export class Worker {
  #process;
  #lines;
  #ended;

  constructor(test, command, ...rest) {
    this.#process = spawn(command, rest, { stdio: ['pipe', 'pipe', 'inherit'] });
    this.#ended = new Promise((resolve) => {
      this.#process.on('close', (code, signal) => resolve(code ?? signal));
    });
    this.#lines = createInterface({ input: this.#process.stdout })[Symbol.asyncIterator]();
    test.after(() => this.#process.kill('SIGKILL'));
  }

  static node(test, mode, root, ...rest) {
    return new Worker(test, process.execPath, fileURLToPath(new URL('worker.mjs', import.meta.url)), mode, root, ...rest);
  }

  static rust(test, mode, root, ...rest) {
    const program = join(TARGET, 'release/store-worker');
    if (!fs.existsSync(program)) {
      throw new Error(`${program} is missing: \`cargo xtask test\` builds it`);
    }
    return new Worker(test, program, mode, root, ...rest);
  }

  /** Waits for the next line; undefined is the end. */
  async line() {
    return (await this.#lines.next()).value;
  }

  async #rest() {
    let count = 0;
    while ((await this.line()) !== undefined) {
      count += 1;
    }
    return count;
  }

  /** Kills it, without a chance to do anything more, and returns how many lines more it had written. */
  async kill() {
    this.#process.kill('SIGKILL');
    const count = await this.#rest();
    await this.#ended;
    return count;
  }

  /** Tells it to end, waits until it does, and returns how many lines more it had written. */
  async end() {
    this.#process.stdin.end();
    const count = await this.#rest();
    const code = await this.#ended;
    if (code !== 0) {
      throw new Error(`a worker ended with ${code}`);
    }
    return count;
  }
}
