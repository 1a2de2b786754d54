// The calls of a pool: connections that are idle, and transactions with their cursors and COPYs.

import { Connection, setTimeoutText } from './connection.js';
import { broke, failure } from './failure.js';
import { check } from './text.js';
import { weight } from './values.js';

/** The most rows that a cursor fetches at once. */
const FETCH = 1000;

/** How long a caller waits for a connection to a server that did not answer before, in milliseconds. */
const PROMPT = 40;

const LEVELS = {
  'read-committed': 'READ COMMITTED',
  'repeatable-read': 'REPEATABLE READ',
  serializable: 'SERIALIZABLE',
};

function over() {
  return failure('refused', 'the transaction is over');
}

const rowWeight = (row) => row.reduce((sum, value) => sum + weight(value), 0);

/** What a pool is asked for. One call is made after the other. */
export class Calls {
  #settings;
  #idle = [];
  #used = 0;
  #ids = 0;
  /** Why the server did not answer last, if it did not; and what tries to reach it again. */
  #silence;
  #attempt;
  /** Transactions, cursors and COPYs, by their numbers. */
  #held = new Map();

  constructor(settings) {
    this.#settings = settings;
  }

  // --- connections ---------------------------------------------------------------------------------------------------

  #isUsedUp() {
    return this.#used >= Math.max(1, this.#settings.poolMaxSize);
  }

  async #take() {
    if (this.#isUsedUp()) {
      // Transactions that were forgotten make room.
      for (const held of this.#held.values()) {
        await this.#endIfOld(held);
      }
    }
    for (;;) {
      const idle = this.#idle.pop();
      if (idle === undefined) {
        break;
      }
      // One whose session was ended meanwhile is replaced unseen.
      await new Promise((resolve) => setImmediate(resolve));
      if (!idle.over) {
        this.#used += 1;
        return idle;
      }
    }
    if (this.#isUsedUp()) {
      // Whoever could give one back waits for this answer.
      throw failure('pool-exhausted', `all ${this.#used} connections are in use: read long lists to their end or close them, or allow more by poolMaxSize`);
    }
    const connection = await (this.#silence === undefined ? this.#open() : this.#openSoon());
    this.#used += 1;
    return connection;
  }

  async #open() {
    try {
      const connection = await Connection.open(this.#settings);
      this.#silence = undefined;
      return connection;
    } catch (error) {
      this.#silence = error;
      throw error;
    }
  }

  /** Tries again to reach a server that did not answer. Nobody waits for it longer than for one that is there. */
  async #openSoon() {
    this.#attempt ??= this.#open()
      .then((connection) => this.#idle.push(connection))
      .catch(() => {})
      .finally(() => {
        this.#attempt = undefined;
      });
    let timer;
    const late = new Promise((resolve) => {
      timer = setTimeout(resolve, PROMPT);
    });
    await Promise.race([this.#attempt, late]);
    clearTimeout(timer);
    const connection = this.#idle.pop();
    if (connection === undefined) {
      throw this.#silence;
    }
    return connection;
  }

  /** Remembers that the server did not answer. What is idle would not be answered either. */
  #fellSilent() {
    this.#silence = failure('unreachable', 'the server did not answer in time');
    for (const connection of this.#idle.splice(0)) {
      connection.destroy();
    }
  }

  async #give(connection) {
    this.#used -= 1;
    if (connection.mute) {
      this.#fellSilent();
    }
    if (connection.over) {
      return;
    }
    try {
      await connection.reset(this.#settings.connectTimeoutMs);
    } catch {
      connection.destroy();
      return;
    }
    if (this.#idle.length < Math.max(1, this.#settings.poolMinSize)) {
      this.#idle.push(connection);
    } else {
      await connection.end();
    }
  }

  async #once(call) {
    const connection = await this.#take();
    try {
      return await call(connection, this.#settings.statementTimeoutMs);
    } finally {
      await this.#give(connection);
    }
  }

  queryOnce(statement, maxRows) {
    return this.#once((connection, timeout) => connection.query(statement, maxRows, timeout, 'alone'));
  }

  executeOnce(statement) {
    return this.#once((connection, timeout) => connection.execute(statement, timeout, 'alone'));
  }

  batchOnce(statements) {
    return this.#once((connection, timeout) => connection.batch(statements, timeout, 'alone'));
  }

  async close() {
    for (const held of this.#held.values()) {
      held.connection?.destroy();
    }
    await Promise.all(this.#idle.splice(0).map((connection) => connection.end()));
  }

  // --- transactions --------------------------------------------------------------------------------------------------

  #hold(thing) {
    this.#ids += 1;
    this.#held.set(this.#ids, thing);
    return this.#ids;
  }

  /** Ends a transaction if it is open for longer than it may be. */
  async #endIfOld(held) {
    if (held.begun !== undefined && performance.now() - held.begun > this.#settings.transactionMaxAgeMs) {
      await this.#end(held, held.copying);
    }
  }

  async #transaction(id) {
    const held = this.#held.get(id);
    if (held !== undefined) {
      await this.#endIfOld(held);
    }
    if (held === undefined || held.connection === null) {
      throw over();
    }
    return held;
  }

  async begin(isolation, readOnly) {
    const { transactionTimeoutMs } = this.#settings;
    const begin = `BEGIN ISOLATION LEVEL ${LEVELS[isolation]} ${readOnly ? 'READ ONLY' : 'READ WRITE'}`;
    const connection = await this.#take();
    try {
      await connection.simple(`${begin}; ${setTimeoutText(this.#settings, 'LOCAL', transactionTimeoutMs)}`, transactionTimeoutMs);
    } catch (error) {
      connection.destroy();
      await this.#give(connection);
      throw error;
    }
    return this.#hold({ connection, begun: performance.now(), failed: null, copying: false, cursors: 0 });
  }

  /** Begins a transaction and runs statements in it. A crash of the server may lose it if it may be lost. */
  async beginWith(statements, mayBeLost) {
    const id = await this.begin('read-committed', false);
    try {
      if (mayBeLost) {
        await this.#within(id, (connection, timeout) => connection.simple('SET LOCAL synchronous_commit = off', timeout));
      }
      await this.batch(id, statements);
    } catch (error) {
      await this.drop(id);
      throw error;
    }
    return id;
  }

  /** Makes a call within a transaction, and notes what became of it. */
  async #within(id, call) {
    const held = await this.#transaction(id);
    try {
      const answer = await call(held.connection, this.#settings.transactionTimeoutMs);
      // Only a return to a savepoint is done after a failure, and mends it.
      held.failed = null;
      return answer;
    } catch (error) {
      // What is not committed has no effect.
      const failed = { ...error, outcomeUnknown: false };
      if (broke(failed)) {
        await this.#end(held, true);
      } else if (failed.sqlstate !== undefined) {
        held.failed ??= failed;
      }
      throw failed;
    }
  }

  query(id, statement, maxRows) {
    return this.#within(id, (connection, timeout) => connection.query(statement, maxRows, timeout, 'within'));
  }

  execute(id, statement) {
    return this.#within(id, (connection, timeout) => connection.execute(statement, timeout, 'within'));
  }

  batch(id, statements) {
    return this.#within(id, (connection, timeout) => connection.batch(statements, timeout, 'within'));
  }

  /** Ends a transaction without an effect, and gives its connection back or away. */
  async #end(held, discard) {
    const { connection } = held;
    if (connection === null) {
      return;
    }
    held.connection = null;
    if (discard) {
      connection.destroy();
    } else if (!connection.over) {
      try {
        await connection.simple('ROLLBACK', this.#settings.connectTimeoutMs);
      } catch {
        connection.destroy();
      }
    }
    await this.#give(connection);
  }

  async commit(id) {
    const held = await this.#transaction(id);
    if (held.copying) {
      await this.#end(held, true);
      throw failure('refused', 'the transaction was rolled back, because a COPY in it was not finished');
    }
    if (held.failed !== null) {
      await this.#end(held, false);
      throw { ...held.failed, message: `the transaction was rolled back, because a statement in it had failed: ${held.failed.message}` };
    }
    const { connection } = held;
    try {
      await connection.simple('COMMIT', this.#settings.transactionTimeoutMs);
    } catch (error) {
      await this.#end(held, false);
      throw error;
    }
    held.connection = null;
    await this.#give(connection);
  }

  /** Ends a transaction that its holder dropped. */
  async drop(id) {
    const held = this.#held.get(id);
    this.#held.delete(id);
    if (held !== undefined) {
      // It cannot be asked for anything before the COPY ends.
      await this.#end(held, held.copying);
    }
  }

  // --- cursors -------------------------------------------------------------------------------------------------------

  async openCursor(id, statement) {
    check(statement.sql, 'within');
    const held = await this.#transaction(id);
    held.cursors += 1;
    const name = `metalab_${held.cursors}`;
    await this.#within(id, (connection, timeout) =>
      connection.execute({ ...statement, sql: `DECLARE ${name} NO SCROLL CURSOR FOR ${statement.sql}` }, timeout, 'within'),
    );
    return this.#hold({ transaction: id, name, columns: [], rows: [], ended: false, fetched: 0, largest: 0 });
  }

  async next(id, maxRows, maxBytes) {
    const cursor = this.#held.get(id);
    if (cursor === undefined) {
      throw over();
    }
    const page = { columns: [], rows: [], affected: 0n };
    let bytes = 0;
    while (page.rows.length < maxRows && (bytes < maxBytes || page.rows.length === 0)) {
      if (cursor.rows.length === 0) {
        if (cursor.ended) {
          break;
        }
        await this.#fetch(cursor, maxRows, Math.max(0, maxBytes - bytes));
        continue;
      }
      const row = cursor.rows.shift();
      bytes += rowWeight(row);
      page.rows.push(row);
    }
    page.columns = cursor.columns;
    page.affected = BigInt(page.rows.length);
    return page;
  }

  /** Fetches as many rows as there is room for, by the largest of the last ones. It begins with one. */
  async #fetch(cursor, maxRows, maxBytes) {
    const room = cursor.largest === 0 ? 1 : Math.floor(maxBytes / cursor.largest);
    const count = Math.max(1, Math.min(room, Math.max(1, cursor.fetched * 2), maxRows, FETCH));
    const statement = { sql: `FETCH FORWARD ${count} FROM ${cursor.name}`, parameters: [] };
    const set = await this.#within(cursor.transaction, (connection, timeout) => connection.query(statement, count, timeout, 'within'));
    cursor.ended = set.rows.length < count;
    cursor.fetched = count;
    cursor.largest = set.rows.reduce((largest, row) => Math.max(largest, rowWeight(row)), 1);
    cursor.columns = set.columns;
    cursor.rows.push(...set.rows);
  }

  async dropCursor(id) {
    const cursor = this.#held.get(id);
    this.#held.delete(id);
    const held = cursor && this.#held.get(cursor.transaction);
    if (held !== undefined && held.connection !== null && held.failed === null && !held.copying) {
      try {
        await this.#within(cursor.transaction, (connection, timeout) => connection.simple(`CLOSE ${cursor.name}`, timeout));
      } catch {
        // Nobody waits for an answer: what became of the transaction shows at its next call.
      }
    }
  }

  // --- COPY ----------------------------------------------------------------------------------------------------------

  async copyIn(id, sql) {
    const copy = await this.#within(id, (connection, timeout) => connection.copy(sql, timeout));
    this.#held.get(id).copying = true;
    return this.#hold({ transaction: id, copy });
  }

  #copy(id) {
    const held = this.#held.get(id);
    if (held === undefined || held.copy === null) {
      throw over();
    }
    return held;
  }

  write(id, lines) {
    const { transaction, copy } = this.#copy(id);
    return this.#within(transaction, (connection, timeout) => connection.write(copy, lines, timeout));
  }

  async finish(id) {
    const held = this.#copy(id);
    const { transaction, copy } = held;
    held.copy = null;
    try {
      return await this.#within(transaction, (connection, timeout) => connection.finish(copy, timeout));
    } finally {
      const of = this.#held.get(transaction);
      if (of !== undefined) {
        of.copying = false;
      }
    }
  }

  async dropCopy(id) {
    const held = this.#held.get(id);
    this.#held.delete(id);
    const of = held && this.#held.get(held.transaction);
    if (of === undefined || of.connection === null || held.copy === null) {
      return;
    }
    const { copy } = held;
    try {
      await of.connection.abandon(copy, this.#settings.connectTimeoutMs);
      of.copying = false;
      of.failed = failure('refused', 'a COPY in it was not finished');
    } catch {
      await this.#end(of, true);
    }
  }
}
