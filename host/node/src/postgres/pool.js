// A connection pool that answers synchronously: it lives in another thread, and this one waits for its answers.

import { MessageChannel, Worker, receiveMessageOnPort } from 'node:worker_threads';

/** How much longer than its own deadlines the thread may take before it counts as gone, in milliseconds. */
const GRACE = 30_000;

/** A failure as the contract has it. */
export function failure(kind, message, more = {}) {
  return { kind, sqlstate: undefined, retryable: false, outcomeUnknown: false, message, ...more };
}

/** The pool of one binding. It connects when it is first used. */
export class Pool {
  #settings;
  #worker = null;
  #port = null;
  #bell = null;
  #closed = false;

  /** @param {object} connection where the server is and how to reach it, as the contract describes it */
  constructor(connection) {
    this.#settings = connection;
  }

  #start() {
    const { port1, port2 } = new MessageChannel();
    this.#bell = new Int32Array(new SharedArrayBuffer(4));
    this.#port = port1;
    this.#worker = new Worker(new URL('./worker.js', import.meta.url), {
      workerData: { settings: this.#settings, port: port2, bell: this.#bell },
      transferList: [port2],
      // Nothing of the process's environment reaches the driver: it would read PGPASSWORD and others.
      env: {},
      stderr: true,
      stdout: true,
    });
    this.#worker.on('error', () => {});
    // An open store keeps no process alive.
    this.#worker.unref();
    this.#port.unref();
  }

  /** Makes a call and waits for its answer. What it throws is a failure of the contract. */
  ask(call, ...rest) {
    if (this.#closed) {
      throw failure('unreachable', 'the pool of connections is closed');
    }
    if (this.#worker === null) {
      this.#start();
    }
    const before = Atomics.load(this.#bell, 0);
    this.#port.postMessage({ call, rest });
    for (;;) {
      const received = receiveMessageOnPort(this.#port);
      if (received !== undefined) {
        const { answer, failed } = received.message;
        if (failed !== undefined) {
          throw failed;
        }
        return answer;
      }
      if (Atomics.wait(this.#bell, 0, before, this.#patience()) === 'timed-out') {
        this.close();
        throw failure('disconnected', "the database's thread does not answer", { retryable: true, outcomeUnknown: true });
      }
    }
  }

  #patience() {
    const { connectTimeoutMs, statementTimeoutMs = 600_000 } = this.#settings;
    return 2 * connectTimeoutMs + statementTimeoutMs + GRACE;
  }

  close() {
    if (this.#closed) {
      return;
    }
    this.#closed = true;
    if (this.#worker !== null) {
      // Connections that are open end with the thread, and what was not committed is rolled back.
      this.#port.postMessage({ call: 'close', rest: [] });
      this.#port.close();
      this.#worker.terminate();
    }
  }
}
