// One instance of the component, with what it is granted.

import { bulk } from './bulk.js';
import { instantiate } from './component.js';
import { EngineError, LimitExceededError, StoreError, TrapError, fromWire } from './errors.js';
import { postgres } from './postgres/imports.js';
import { roots } from './roots.js';
import { wasi } from './wasi.js';

/** An instance of the component. After a failure that is no answer it must not be used again. */
export class Instance {
  #wasi;
  #bulk;
  #roots;
  #postgres;
  #ended = false;

  /**
   * @param {import('./grant.js').Grant | null} grant the directory that it sees, or none
   * @param {Map<string, object>} [bindings] the databases that it may use, by name
   */
  constructor(grant, bindings = new Map()) {
    this.#wasi = wasi(grant);
    this.#bulk = bulk(grant);
    this.#roots = roots(grant);
    this.#postgres = postgres(bindings);
    try {
      const { config, store, transfer, maintenance } = instantiate({ ...this.#wasi.imports, ...this.#roots.imports, ...this.#bulk.imports, ...this.#postgres.imports });
      this.config = config;
      this.store = store;
      this.transfer = transfer;
      this.maintenance = maintenance;
    } catch (error) {
      this.end();
      throw error instanceof StoreError ? error : new EngineError(error.message, { cause: error });
    }
  }

  /** Whether it failed or was ended. */
  get ended() {
    return this.#ended;
  }

  /**
   * Makes a call of the component.
   *
   * @template T
   * @param {(instance: Instance) => T} call
   * @returns {T}
   */
  call(call) {
    try {
      return this.pass(call);
    } catch (error) {
      throw typeof error?.payload?.tag === 'string' ? fromWire(error.payload) : error;
    }
  }

  /** As `call`, but what the component answers is thrown as it is: to be passed on to another component. */
  pass(call) {
    try {
      return call(this);
    } catch (error) {
      if (typeof error?.payload?.tag === 'string') {
        throw error;
      }
      // Nobody knows in which state it is.
      this.end();
      throw this.#failure(error);
    }
  }

  #failure(error) {
    const said = this.#wasi.said();
    if (error instanceof RangeError && /call stack/i.test(error.message)) {
      return new LimitExceededError('its stack is used up', { cause: error });
    }
    if (/memory allocation of \d+ bytes failed/.test(said)) {
      return new LimitExceededError('the system gave it no more memory', { cause: error });
    }
    return new TrapError(said === '' ? String(error?.message ?? error) : `${error?.message ?? error}: ${said}`, { cause: error });
  }

  /** Closes everything that it holds. */
  end() {
    if (!this.#ended) {
      this.#ended = true;
      this.#postgres.end();
      this.#bulk.end();
      this.#roots.end();
      this.#wasi.end();
    }
  }
}
