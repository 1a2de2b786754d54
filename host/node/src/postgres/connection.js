// One connection to a server, by the driver `pg`.

import { readFileSync } from 'node:fs';
import { finished } from 'node:stream/promises';
import pg from 'pg';
import { from as copyFrom } from 'pg-copy-streams';
import { broke, failure, ofConnecting, ofStatement } from './failure.js';
import { check, leavesTraces } from './text.js';
import { parameter, read, weight } from './values.js';

/** How much longer than the server we wait: a statement that the server cancels leaves a good connection. */
const GRACE = 2_000;

/** How many bytes an answer may have. */
const MAX_ANSWER = 64 * 1024 * 1024;

/** What every session begins with: how values are printed, and plans that know their parameters. */
const SESSION =
  "SET SESSION DateStyle = 'ISO'; SET SESSION TimeZone = 'UTC'; SET SESSION bytea_output = 'hex'; SET SESSION extra_float_digits = 1; " +
  'SET SESSION plan_cache_mode = force_custom_plan';

/** Ends what others that use the connection later must not find. */
const RESET =
  'ROLLBACK; CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ALL; UNLISTEN *; SELECT pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES';

/** Statements that are sent together, before the first answer. After one that failed the server skips the others. */
class Together {
  counts = [];
  columns = [];
  rows = [];
  #statements;
  #maxRows;
  #bytes = 0;
  #failed;
  #settle;

  constructor(statements, maxRows) {
    this.#statements = statements;
    this.#maxRows = maxRows;
    this.done = new Promise((resolve, reject) => {
      this.#settle = { resolve, reject };
    });
  }

  submit(connection) {
    try {
      const prepared = this.#statements.map(({ sql, parameters }) => ({ sql, values: parameters.map(parameter) }));
      connection.stream.cork();
      for (const { sql, values } of prepared) {
        connection.parse({ text: sql });
        connection.bind({ values });
        connection.describe({ type: 'P' });
        connection.execute({});
      }
      connection.sync();
    } catch (error) {
      return error;
    } finally {
      connection.stream.uncork();
    }
    return null;
  }

  handleRowDescription({ fields }) {
    this.columns = fields;
  }

  handleDataRow({ fields }) {
    if (this.#failed !== undefined || this.#maxRows === undefined) {
      return;
    }
    try {
      const row = fields.map((text, index) => read(text, this.columns[index]));
      this.#bytes += row.reduce((sum, value) => sum + weight(value), 0);
      if (this.rows.length >= this.#maxRows) {
        throw failure('too-large', `the answer has more than ${this.#maxRows} rows`);
      }
      if (this.#bytes > MAX_ANSWER) {
        throw failure('too-large', `the answer has more than ${MAX_ANSWER} bytes`);
      }
      this.rows.push(row);
    } catch (error) {
      this.#fail(error);
      if (broke(this.#failed)) {
        // What follows is not waited for.
        this.#settle.reject(this.#failed);
      }
    }
  }

  handleCommandComplete({ text }) {
    const count = /(\d+)$/.exec(text);
    this.counts.push(count === null ? 0n : BigInt(count[1]));
  }

  handleEmptyQuery() {
    this.counts.push(0n);
  }

  handlePortalSuspended() {}

  #fail(error) {
    this.#failed ??= error;
  }

  handleError(error) {
    this.#fail(error);
    this.#settle.reject(this.#failed);
  }

  handleReadyForQuery() {
    if (this.#failed === undefined) {
      this.#settle.resolve(this);
    } else {
      this.#settle.reject(this.#failed);
    }
  }
}

function encryption(settings, host) {
  const { tlsMode, caFile } = settings;
  // As in libpq: a socket of this machine is not encrypted, whatever the mode.
  if (host.startsWith('/') || tlsMode === 'disable') {
    return false;
  }
  // And who names the certificates to trust wants to trust no others.
  const verified = tlsMode === 'verify-ca' || tlsMode === 'verify-full' || (tlsMode === 'require' && caFile !== undefined);
  if (!verified) {
    return { rejectUnauthorized: false };
  }
  let ca;
  if (caFile !== undefined) {
    try {
      ca = readFileSync(caFile, 'utf8');
    } catch (error) {
      throw failure('unreachable', `connections cannot be encrypted: sslrootcert ${JSON.stringify(caFile)}: ${error.code}`);
    }
    if (!ca.includes('-----BEGIN CERTIFICATE-----')) {
      throw failure('unreachable', `connections cannot be encrypted: sslrootcert ${JSON.stringify(caFile)}: it holds no certificate`);
    }
  }
  const named = tlsMode === 'verify-full' ? {} : { checkServerIdentity: () => undefined };
  return { rejectUnauthorized: true, ...(ca === undefined ? {} : { ca }), ...named };
}

/** Takes the parameters that this driver can obey, and refuses the others. */
function obey(settings) {
  const taken = { application_name: 'metalab-store', keepAlive: true, keepAliveInitialDelayMillis: 30_000 };
  let wanted = 'any';
  const refuse = (name) => {
    throw failure('unreachable', `the connection parameter ${JSON.stringify(name)} has a value that this host's driver cannot obey`);
  };
  for (const [name, value] of settings.parameters) {
    switch (name) {
      case 'application_name':
      case 'options':
        taken[name] = value;
        break;
      case 'target_session_attrs':
        if (!['any', 'read-write', 'read-only'].includes(value)) {
          refuse(name);
        }
        wanted = value;
        break;
      case 'channel_binding':
        // The driver binds where it can, and cannot insist.
        if (value === 'require') {
          refuse(name);
        }
        taken.enableChannelBinding = value === 'prefer';
        break;
      case 'load_balance_hosts':
        if (value !== 'disable') {
          refuse(name);
        }
        break;
      case 'keepalives':
        taken.keepAlive = value !== '0';
        break;
      case 'keepalives_idle':
        taken.keepAliveInitialDelayMillis = Number(value) * 1000;
        break;
      default:
        throw failure('unreachable', `the connection parameter ${JSON.stringify(name)} cannot be obeyed by this host's driver`);
    }
  }
  return { taken, wanted };
}

/** Tells the server how long statements may take, unless the user's own options tell it. */
export function setTimeoutText(settings, scope, milliseconds) {
  const told = settings.parameters.some(([name, value]) => name === 'options' && value.includes('statement_timeout'));
  return told ? 'SELECT' : `SET ${scope} statement_timeout = ${Math.max(1, milliseconds)}`;
}

/** A connection. */
export class Connection {
  #client;
  #settings;
  #over = false;
  #mute = false;
  #traces = false;

  constructor(client, settings) {
    this.#client = client;
    this.#settings = settings;
    const end = () => {
      this.#over = true;
    };
    client.on('error', end);
    client.on('end', end);
  }

  /** Connects to the first of the hosts that answers. */
  static async open(settings) {
    const { taken, wanted } = obey(settings);
    let failed;
    for (const [host, port] of settings.hosts) {
      try {
        return await Connection.#to(settings, host, port, taken, wanted);
      } catch (error) {
        failed = ofConnecting(error);
      }
    }
    throw failed ?? failure('unreachable', 'no connection could be made: there is no host');
  }

  static async #to(settings, host, port, taken, wanted) {
    const ssl = encryption(settings, host);
    try {
      return await Connection.#with(settings, host, port, taken, wanted, ssl);
    } catch (error) {
      if (ssl === false || settings.tlsMode !== 'prefer' || error.message !== 'The server does not support SSL connections') {
        throw error;
      }
      return await Connection.#with(settings, host, port, taken, wanted, false);
    }
  }

  static async #with(settings, host, port, taken, wanted, ssl) {
    const client = new pg.Client({
      ...taken,
      host,
      port,
      ssl,
      database: settings.database === '' ? settings.user : settings.database,
      user: settings.user,
      // A function is asked alone: the driver would look into files and the environment for a password.
      password: () => settings.password ?? '',
      connectionTimeoutMillis: Math.max(1, settings.connectTimeoutMs),
    });
    // Errors of a connection that is not used tell nobody anything; the next one who wants it sees that it is over.
    client.on('error', () => {});
    try {
      await client.connect();
      const connection = new Connection(client, settings);
      await connection.simple(connection.#session(), settings.connectTimeoutMs);
      if (wanted !== 'any') {
        const set = await connection.query({ sql: "SELECT current_setting('transaction_read_only')", parameters: [] }, 1, settings.connectTimeoutMs, 'alone');
        const found = set.rows[0][0].val === 'on' ? 'read-only' : 'read-write';
        if (found !== wanted) {
          throw failure('unreachable', `no connection could be made: the session is ${found}, and target_session_attrs is ${wanted}`);
        }
      }
      return connection;
    } catch (error) {
      client.connection.stream.destroy();
      throw error;
    }
  }

  #session() {
    return `${SESSION}; ${setTimeoutText(this.#settings, 'SESSION', this.#settings.statementTimeoutMs)}`;
  }

  /** Whether it cannot be used any more. */
  get over() {
    return this.#over;
  }

  /** Whether the server did not answer in time. */
  get mute() {
    return this.#mute;
  }

  /** Waits for an answer; one that does not come in time is not waited for any more. */
  async #wait(answer, timeout) {
    let timer;
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => {
        this.#mute = true;
        reject(failure('timed-out', `the statement took longer than ${timeout} ms`, { outcomeUnknown: true }));
      }, timeout + GRACE);
    });
    try {
      return await Promise.race([answer, late]);
    } catch (error) {
      const failed = ofStatement(error);
      if (broke(failed)) {
        this.destroy();
      }
      throw failed;
    } finally {
      clearTimeout(timer);
    }
  }

  /** Runs statements without parameters. */
  async simple(sql, timeout) {
    return await this.#wait(this.#client.query(sql), timeout);
  }

  async #together(statements, maxRows, timeout, place) {
    for (const { sql } of statements) {
      if (place !== 'pipeline') {
        check(sql, place);
        this.#traces ||= leavesTraces(sql);
      }
    }
    const sent = new Together(statements, maxRows);
    this.#client.query(sent);
    return await this.#wait(sent.done, timeout);
  }

  async query(statement, maxRows, timeout, place) {
    const { columns, rows, counts } = await this.#together([statement], maxRows, timeout, place);
    return { columns: columns.map(({ name }) => name), rows, affected: counts[0] ?? 0n };
  }

  async execute(statement, timeout, place) {
    const { counts } = await this.#together([statement], undefined, timeout, place);
    return counts[0] ?? 0n;
  }

  async batch(statements, timeout, place) {
    if (statements.length === 0) {
      return [];
    }
    // One statement is a transaction of its own.
    if (place === 'within' || statements.length === 1) {
      const { counts } = await this.#together(statements, undefined, timeout, place);
      return counts;
    }
    for (const { sql } of statements) {
      check(sql, place);
      this.#traces ||= leavesTraces(sql);
    }
    const bare = (sql) => ({ sql, parameters: [] });
    try {
      const { counts } = await this.#together([bare('BEGIN'), ...statements, bare('COMMIT')], undefined, timeout, 'pipeline');
      return counts.slice(1, -1);
    } catch (error) {
      if (!this.#over) {
        await this.simple('ROLLBACK', timeout);
      }
      throw error;
    }
  }

  /** Begins a COPY. */
  async copy(sql, timeout) {
    check(sql, 'copy');
    const stream = this.#client.query(copyFrom(sql));
    const copy = { stream, error: null };
    stream.on('error', (error) => {
      copy.error ??= error;
    });
    // The server's answer to the statement: whether it takes lines, or why not.
    await this.#wait(
      new Promise((resolve, reject) => {
        stream.on('error', reject);
        stream.write('', () => resolve());
      }),
      timeout,
    );
    return copy;
  }

  async write(copy, lines, timeout) {
    await this.#wait(
      new Promise((resolve, reject) => {
        if (copy.error !== null) {
          reject(copy.error);
          return;
        }
        copy.stream.once('error', reject);
        copy.stream.write(lines, () => {
          copy.stream.off('error', reject);
          resolve();
        });
      }),
      timeout,
    );
  }

  async finish(copy, timeout) {
    await this.#wait(
      (async () => {
        if (copy.error !== null) {
          throw copy.error;
        }
        copy.stream.end();
        await finished(copy.stream);
      })(),
      timeout,
    );
    return BigInt(copy.stream.rowCount);
  }

  async abandon(copy, timeout) {
    if (copy.error === null && !copy.stream.destroyed) {
      const ended = new Promise((resolve) => copy.stream.once('close', resolve));
      copy.stream.destroy();
      await this.#wait(ended, timeout);
    }
  }

  /** Makes it as good as new, if it may not be. */
  async reset(timeout) {
    if (this.#traces) {
      await this.simple(`${RESET}; ${this.#session()}`, timeout);
      this.#traces = false;
    }
  }

  /** Ends the session. */
  async end() {
    this.#over = true;
    await this.#client.end().catch(() => {});
  }

  /** Ends it at once: whatever it does is not waited for. */
  destroy() {
    this.#over = true;
    this.#client.connection.stream.destroy();
  }
}
