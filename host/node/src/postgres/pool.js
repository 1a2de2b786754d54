// A connection pool that answers synchronously: it lives in another thread, and this one waits for its answers.

import { userInfo } from 'node:os';
import { MessageChannel, Worker, receiveMessageOnPort } from 'node:worker_threads';
import { failure } from './failure.js';

/** How long a statement outside a transaction may take, in milliseconds. */
const STATEMENT = 30_000;

/** How long a statement within a transaction may take: a rebuild creates indexes. */
const TRANSACTION = 600_000;

/** How long a transaction may be open before its connection is taken back for others. */
const MAX_AGE = 1_800_000;

/** How much longer than its own deadlines the thread may take before it counts as gone, in milliseconds. */
const GRACE = 30_000;

function systemUser() {
  return process.env.USER || process.env.LOGNAME || userInfo().username;
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
    this.#settings = {
      statementTimeoutMs: STATEMENT,
      transactionTimeoutMs: TRANSACTION,
      transactionMaxAgeMs: MAX_AGE,
      ...connection,
      user: connection.user ?? systemUser(),
    };
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
        this.#closed = true;
        this.#worker.terminate();
        throw failure('disconnected', "the database's thread does not answer", { retryable: true, outcomeUnknown: true });
      }
    }
  }

  #patience() {
    const { hosts, connectTimeoutMs, statementTimeoutMs, transactionTimeoutMs } = this.#settings;
    return 2 * hosts.length * connectTimeoutMs + Math.max(statementTimeoutMs, transactionTimeoutMs) + GRACE;
  }

  close() {
    if (this.#closed) {
      return;
    }
    if (this.#worker !== null) {
      try {
        this.ask('close');
      } catch {
        // Connections that are open end with the thread, and what was not committed is rolled back.
      }
      this.#port.close();
      this.#worker.terminate();
    }
    this.#closed = true;
  }
}
