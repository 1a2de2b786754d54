// The `postgres` import: connection pools that this host made, under the names by which the component knows them.
//
// The component never sees an address or a password, and cannot name a pool that it was not granted. Numbers and sizes
// that it passes are bounded here.

/** The most statements of one batch. */
const MAX_BATCH = 10_000;

/** The most bytes of one page of a cursor. */
const MAX_PAGE = 16 * 1024 * 1024;

/** The most bytes of one piece of a COPY. */
const MAX_LINES = 256 * 1024;

function failure(kind, message) {
  return { kind, sqlstate: undefined, retryable: false, outcomeUnknown: false, message };
}

function bounded(statements) {
  if (statements.length > MAX_BATCH) {
    throw failure('too-large', `a batch has at most ${MAX_BATCH} statements`);
  }
  return statements;
}

/**
 * Makes the import of an instance.
 *
 * @param {Map<string, import('./pool.js').Pool>} bindings
 */
export function postgres(bindings) {
  /** What the instance holds of the pools: given back with it. */
  const held = new Set();

  function pool(binding) {
    const found = bindings.get(binding);
    if (found === undefined) {
      throw failure('not-granted', `the host granted no PostgreSQL binding ${JSON.stringify(binding)}`);
    }
    return found;
  }

  class Held {
    #pool;
    #id;
    #drop;

    constructor(pool, id, drop) {
      this.#pool = pool;
      this.#id = id;
      this.#drop = drop;
      held.add(this);
    }

    ask(call, ...rest) {
      return this.#pool.ask(call, this.#id, ...rest);
    }

    get pool() {
      return this.#pool;
    }

    [Symbol.dispose]() {
      if (held.delete(this)) {
        this.#pool.ask(this.#drop, this.#id);
      }
    }
  }

  class Transaction extends Held {
    static begin(binding, isolation, readOnly) {
      const from = pool(binding);
      return new Transaction(from, from.ask('begin', isolation, readOnly), 'drop');
    }

    static beginWith(binding, statements, mayBeLost) {
      const from = pool(binding);
      return new Transaction(from, from.ask('beginWith', bounded(statements), mayBeLost), 'drop');
    }

    query(statement, maxRows) {
      return this.ask('query', statement, maxRows);
    }

    execute(statement) {
      return this.ask('execute', statement);
    }

    batch(statements) {
      return BigUint64Array.from(this.ask('batch', bounded(statements)));
    }

    openCursor(statement) {
      return new Cursor(this.pool, this.ask('openCursor', statement), 'dropCursor');
    }

    copyIn(sql) {
      return new CopyWriter(this.pool, this.ask('copyIn', sql), 'dropCopy');
    }

    commit() {
      this.ask('commit');
    }
  }

  class Cursor extends Held {
    next(maxRows, maxBytes) {
      return this.ask('next', maxRows, Math.min(maxBytes, MAX_PAGE));
    }
  }

  class CopyWriter extends Held {
    write(lines) {
      if (Buffer.byteLength(lines) > MAX_LINES) {
        throw failure('too-large', `a COPY takes at most ${MAX_LINES} bytes at a time`);
      }
      this.ask('write', lines);
    }

    finish() {
      return this.ask('finish');
    }
  }

  const imports = {
    query: (binding, statement, maxRows) => pool(binding).ask('queryOnce', statement, maxRows),
    execute: (binding, statement) => pool(binding).ask('executeOnce', statement),
    batch: (binding, statements) => BigUint64Array.from(pool(binding).ask('batchOnce', bounded(statements))),
    Transaction,
    Cursor,
    CopyWriter,
  };
  return {
    imports: { 'metalab:store/postgres': imports },
    /** Gives back what the instance holds: what was not committed is rolled back. */
    end() {
      for (const resource of [...held]) {
        try {
          resource[Symbol.dispose]();
        } catch {
          // The pool is closed, or its thread is gone: nothing is held any more.
        }
      }
    },
  };
}
