// The `postgres` import on a real server: the one that METALAB_TEST_POSTGRES names.

import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { randomBytes } from 'node:crypto';
import * as fs from 'node:fs';
import { once } from 'node:events';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { Worker as Thread } from 'node:worker_threads';
import pg from 'pg';
import { PostgresStoreConfig, FileStoreConfig } from '../src/index.js';
import { postgres } from '../src/postgres/imports.js';
import { Pool } from '../src/postgres/pool.js';
import { check, leavesTraces } from '../src/postgres/text.js';
import { CHECKOUT, directory } from './help.mjs';
import { transcript } from './conformance.mjs';

const uri = process.env.METALAB_TEST_POSTGRES;
if (!uri) {
  throw new Error('METALAB_TEST_POSTGRES is not set: it has to hold the URI of a database for the tests');
}

const admin = new pg.Client({ connectionString: uri });
await admin.connect();
after(() => admin.end());

/** Makes a schema of the test's own. */
async function schema(t) {
  const name = `node_${randomBytes(6).toString('hex')}`;
  await admin.query(`CREATE SCHEMA ${name}`);
  t.after(() => admin.query(`DROP SCHEMA ${name} CASCADE`));
  return name;
}

function connection(more = {}) {
  const { host, port, database, user, password } = admin;
  return {
    hosts: [[host, port]], database, user, password: password ?? undefined, tlsMode: 'prefer', caFile: undefined, parameters: [],
    connectTimeoutMs: 5000, poolMinSize: 1, poolMaxSize: 2, ...more,
  };
}

/** Makes the import with one binding, `index`. */
function granted(t, more) {
  const pool = new Pool(connection(more));
  const { imports, end } = postgres(new Map([['index', pool]]));
  t.after(() => {
    end();
    pool.close();
  });
  return Object.assign(imports['metalab:store/postgres'], { end });
}

const statement = (sql, ...parameters) => ({ sql, parameters });
const text = (val) => ({ tag: 'text', val });
const number = (val) => ({ tag: 'integer', val: BigInt(val) });

const failed = (call) => {
  try {
    call();
  } catch (error) {
    return error;
  }
  return { kind: 'nothing' };
};

test('every type of the contract goes there and back', (t) => {
  const { query } = granted(t);
  const values = {
    bool: [{ tag: 'boolean', val: true }, { tag: 'boolean', val: false }, { tag: 'null' }],
    int2: [number(-32768)],
    int4: [number(2 ** 31 - 1)],
    int8: [number(2n ** 63n - 1n), number(-(2n ** 63n))],
    float4: [{ tag: 'float', val: 0.5 }],
    float8: [NaN, Infinity, -Infinity, -0, 5e-324, 1.7976931348623157e308, 0.1].map((val) => ({ tag: 'float', val })),
    text: [text(''), text('ü\u{1f600}\n\\"\'')],
    varchar: [text('x')],
    name: [text('n')],
    bytea: [{ tag: 'bytes', val: new Uint8Array([0, 1, 255, 92]) }, { tag: 'bytes', val: new Uint8Array() }],
    jsonb: [{ tag: 'json', val: '{"a": [1.10, null]}' }],
    json: [{ tag: 'json', val: '{"a" :1}' }],
    timestamptz: [0n, -1n, 1_767_225_600_123_456n, -62_135_596_800_000_001n, 253_402_300_800_000_000n].map((val) => ({ tag: 'timestamp', val })),
    'text[]': [[], ['a', undefined, '', 'NULL', 'null', '{"\\,}', ' ']].map((val) => ({ tag: 'text-array', val })),
  };
  for (const [type, list] of Object.entries(values)) {
    for (const value of list) {
      const { rows, columns, affected } = query('index', statement(`SELECT $1::${type} AS v`, value), 10);
      assert.deepEqual({ rows, columns, affected }, { rows: [[value]], columns: ['v'], affected: 1n }, type);
    }
  }
});

test('other types, infinite times and what does not fit fail loudly', (t) => {
  const { query } = granted(t);
  for (const sql of ["SELECT '1 day'::interval", 'SELECT 1.5::numeric', "SELECT 'infinity'::timestamptz", "SELECT '{{a},{b}}'::text[]", 'SELECT ARRAY[1]']) {
    assert.equal(failed(() => query('index', statement(sql), 10)).kind, 'unsupported-type', sql);
  }
  assert.equal(failed(() => query('index', statement('SELECT $1::int4', number(2 ** 31)), 1)).sqlstate, '22003');
  assert.equal(failed(() => query('index', statement('SELECT $1::int4', text('a')), 1)).sqlstate, '22P02');
  assert.equal(failed(() => query('index', statement('SELECT 1', text('a')), 1)).kind, 'refused');
  // The connection goes on.
  assert.equal(query('index', statement('SELECT 1'), 1).rows.length, 1);
});

test('a batch is done as a whole or not at all', async (t) => {
  const place = await schema(t);
  const { batch, execute, query } = granted(t);
  assert.equal(execute('index', statement(`CREATE TABLE ${place}.t (a int8 PRIMARY KEY)`)), 0n);
  const insert = (value) => statement(`INSERT INTO ${place}.t VALUES ($1)`, number(value));
  assert.deepEqual(batch('index', [1, 2, 3].map(insert)), BigUint64Array.of(1n, 1n, 1n));
  assert.deepEqual(batch('index', []), new BigUint64Array());
  const refused = failed(() => batch('index', [4, 5, 1, 6].map(insert)));
  assert.deepEqual([refused.kind, refused.sqlstate, refused.retryable, refused.outcomeUnknown], ['refused', '23505', false, false]);
  assert.deepEqual(query('index', statement(`SELECT count(*) FROM ${place}.t`), 1).rows, [[number(3)]]);
  assert.equal(batch('index', Array.from({ length: 5000 }, (_, index) => insert(index + 10))).length, 5000);
  assert.equal(failed(() => batch('index', Array.from({ length: 10_001 }, () => statement('SELECT 1')))).kind, 'too-large');
});

test('a transaction is committed, and one that is dropped has no effect', async (t) => {
  const place = await schema(t);
  const { Transaction, execute, query } = granted(t);
  execute('index', statement(`CREATE TABLE ${place}.t (a int8)`));
  const count = () => query('index', statement(`SELECT count(*) FROM ${place}.t`), 1).rows[0][0].val;
  const insert = statement(`INSERT INTO ${place}.t VALUES (1)`);
  const kept = Transaction.begin('index', 'read-committed', false);
  assert.equal(kept.execute(insert), 1n);
  assert.deepEqual(kept.batch([insert, insert]), BigUint64Array.of(1n, 1n));
  assert.equal(count(), 0n);
  kept.commit();
  assert.equal(count(), 3n);
  assert.equal(failed(() => kept.execute(insert)).message, 'the transaction is over');
  kept[Symbol.dispose]();
  const dropped = Transaction.begin('index', 'serializable', false);
  dropped.execute(insert);
  dropped[Symbol.dispose]();
  assert.equal(count(), 3n);
  const begun = Transaction.beginWith('index', [insert, insert], true);
  assert.equal(count(), 3n);
  const shown = begun.query(statement("SELECT current_setting('synchronous_commit')"), 1);
  assert.equal(shown.rows[0][0].val, 'off');
  begun.commit();
  assert.equal(count(), 5n);
  const refused = failed(() => Transaction.beginWith('index', [insert, statement('SELECT 1/0')], false).commit());
  assert.equal(refused.sqlstate, '22012');
  assert.equal(count(), 5n);
});

test('a transaction in which a statement failed says at its commit that it was rolled back', (t) => {
  const { Transaction } = granted(t);
  const transaction = Transaction.begin('index', 'read-committed', false);
  assert.equal(failed(() => transaction.query(statement('SELECT 1/0'), 1)).sqlstate, '22012');
  const commit = failed(() => transaction.commit());
  assert.equal(commit.sqlstate, '22012');
  assert.match(commit.message, /rolled back/);
  transaction[Symbol.dispose]();
  const mended = Transaction.begin('index', 'read-committed', false);
  mended.execute(statement('SAVEPOINT a'));
  failed(() => mended.execute(statement('SELECT 1/0')));
  mended.execute(statement('ROLLBACK TO SAVEPOINT a'));
  mended.commit();
});

test('isolation and read-only are what was asked for', (t) => {
  const { Transaction } = granted(t);
  for (const [level, found] of [['read-committed', 'read committed'], ['repeatable-read', 'repeatable read'], ['serializable', 'serializable']]) {
    const transaction = Transaction.begin('index', level, true);
    assert.deepEqual(transaction.query(statement("SELECT current_setting('transaction_isolation'), current_setting('transaction_read_only')"), 1).rows, [[text(found), text('on')]]);
    assert.equal(failed(() => transaction.execute(statement('CREATE TABLE x ()'))).sqlstate, '25006');
    transaction[Symbol.dispose]();
  }
});

test('more transactions than connections are told so, and one that ends makes room', (t) => {
  const { Transaction } = granted(t);
  const [one] = [Transaction.begin('index', 'read-committed', true), Transaction.begin('index', 'read-committed', true)];
  const refused = failed(() => Transaction.begin('index', 'read-committed', true));
  assert.deepEqual([refused.kind, refused.retryable], ['pool-exhausted', true]);
  one[Symbol.dispose]();
  Transaction.begin('index', 'read-committed', true);
});

test('a transaction that is held for too long gives its connection to others', (t) => {
  const { Transaction, query } = granted(t, { poolMaxSize: 1, transactionMaxAgeMs: 0 });
  const held = Transaction.begin('index', 'read-committed', false);
  assert.equal(query('index', statement('SELECT 1'), 1).rows.length, 1);
  for (const call of [() => held.execute(statement('SELECT 1')), () => held.commit(), () => held.copyIn('COPY t FROM STDIN')]) {
    const { kind, message } = failed(call);
    assert.deepEqual([kind, message], ['refused', 'the transaction is over']);
  }
  held[Symbol.dispose]();
  assert.equal(query('index', statement('SELECT 1'), 1).rows.length, 1);
});

test('a transaction that took too long in all is not committed', async (t) => {
  const place = await schema(t);
  const { Transaction, execute, query } = granted(t, { transactionMaxAgeMs: 200 });
  execute('index', statement(`CREATE TABLE ${place}.t (a int8)`));
  const sleep = statement(`INSERT INTO ${place}.t SELECT 1 FROM pg_sleep(0.3)`);
  const elsewhere = () => query('index', statement('SELECT 1 FROM pg_sleep(0.3)'), 1);
  const late = (work) => {
    const transaction = Transaction.begin('index', 'read-committed', false);
    try {
      return failed(() => work(transaction));
    } finally {
      transaction[Symbol.dispose]();
    }
  };
  const found = [
    late((begun) => {
      begun.execute(sleep);
      begun.commit();
    }),
    late((begun) => {
      const cursor = begun.openCursor(statement('SELECT 1'));
      begun.execute(sleep);
      cursor.next(1, 1);
    }),
    late((begun) => {
      const copy = begun.copyIn(`COPY ${place}.t FROM STDIN`);
      elsewhere();
      copy.write('1\n');
    }),
  ];
  for (const { kind, message } of found) {
    assert.deepEqual([kind, message], ['refused', 'the transaction is over']);
  }
  assert.equal(query('index', statement(`SELECT count(*) FROM ${place}.t`), 1).rows[0][0].val, 0n);
});

test('more rows than allowed are too large', (t) => {
  const { query } = granted(t);
  assert.equal(query('index', statement('SELECT generate_series(1, 10)'), 10).rows.length, 10);
  assert.equal(failed(() => query('index', statement('SELECT generate_series(1, 11)'), 10)).kind, 'too-large');
  assert.equal(failed(() => query('index', statement("SELECT repeat('x', 10000000) FROM generate_series(1, 10)"), 10)).kind, 'too-large');
  assert.equal(query('index', statement('SELECT 1'), 10).rows.length, 1);
});

test('a cursor pages by rows and by bytes and misses nothing', (t) => {
  const { Transaction } = granted(t);
  const transaction = Transaction.begin('index', 'repeatable-read', true);
  const cursor = transaction.openCursor(statement("SELECT a, repeat('x', 1000) FROM generate_series(1, $1::int8) AS a", number(1000)));
  const other = transaction.openCursor(statement('SELECT 1 AS one'));
  const found = [];
  for (;;) {
    const { rows, columns } = cursor.next(300, 50_000);
    assert.deepEqual(columns.length === 0 ? [] : columns, ['a', 'repeat']);
    if (rows.length === 0) {
      break;
    }
    assert.ok(rows.length <= 52, String(rows.length));
    found.push(...rows.map(([{ val }]) => Number(val)));
  }
  assert.deepEqual(found, Array.from({ length: 1000 }, (_, index) => index + 1));
  assert.deepEqual(other.next(10, 0).rows, [[number(1)]]);
  cursor[Symbol.dispose]();
  transaction.commit();
  assert.equal(failed(() => other.next(1, 1)).kind === 'nothing', false);
});

test('a cursor that is dropped in the middle is closed, and its transaction goes on', (t) => {
  const { Transaction } = granted(t);
  const transaction = Transaction.begin('index', 'repeatable-read', true);
  const cursor = transaction.openCursor(statement('SELECT generate_series(1, 100000)'));
  assert.equal(cursor.next(3, 1 << 20).rows.length, 3);
  cursor[Symbol.dispose]();
  const open = transaction.query(statement("SELECT count(*) FROM pg_cursors WHERE name <> ''"), 1).rows;
  assert.deepEqual(open, [[number(0)]]);
  transaction.commit();
});

test('a cursor that is dropped after its connection broke says nothing, and the next call does', async (t) => {
  const { Transaction, query } = granted(t);
  const transaction = Transaction.begin('index', 'repeatable-read', true);
  const own = transaction.query(statement('SELECT pg_backend_pid()::int8'), 1).rows[0][0].val;
  const cursor = transaction.openCursor(statement('SELECT generate_series(1, 100000)'));
  cursor.next(3, 1 << 20);
  await admin.query('SELECT pg_terminate_backend($1)', [String(own)]);
  // A component that drops a resource takes no answer: an error here would end it.
  cursor[Symbol.dispose]();
  assert.notEqual(failed(() => transaction.commit()).kind, 'nothing');
  transaction[Symbol.dispose]();
  assert.equal(query('index', statement('SELECT 1'), 1).rows.length, 1);
});

test('a COPY brings rows in, and one that is dropped brings none', async (t) => {
  const place = await schema(t);
  const { Transaction, execute, query } = granted(t);
  execute('index', statement(`CREATE TABLE ${place}.t (a int8, b text)`));
  const count = () => query('index', statement(`SELECT count(*) FROM ${place}.t`), 1).rows[0][0].val;
  const copying = (call) => {
    const transaction = Transaction.begin('index', 'read-committed', false);
    const copy = transaction.copyIn(`COPY ${place}.t FROM STDIN`);
    try {
      return call(copy, transaction);
    } finally {
      copy[Symbol.dispose]();
      transaction[Symbol.dispose]();
    }
  };
  copying((copy, transaction) => {
    copy.write('1\tä\\n\n'.repeat(20_000));
    copy.write('2\t\\N\n');
    assert.equal(copy.finish(), 20_001n);
    transaction.commit();
  });
  assert.equal(count(), 20_001n);
  copying((copy) => copy.write('3\tx\n'));
  copying((copy, transaction) => {
    copy.write('3\tx\n');
    assert.match(failed(() => transaction.commit()).message, /a COPY in it was not finished/);
  });
  copying((copy) => {
    copy.write('no number\tx\n');
    assert.equal(failed(() => copy.finish()).sqlstate, '22P02');
  });
  copying((copy) => assert.equal(failed(() => copy.write('x'.repeat(262_145))).kind, 'too-large'));
  const transaction = Transaction.begin('index', 'read-committed', false);
  assert.equal(failed(() => transaction.copyIn('COPY no_such_table FROM STDIN')).sqlstate, '42P01');
  transaction[Symbol.dispose]();
  assert.equal(count(), 20_001n);
});

test('a statement that takes too long is cancelled, and its connection stays', (t) => {
  const { query } = granted(t, { statementTimeoutMs: 50 });
  const pid = () => query('index', statement('SELECT pg_backend_pid()'), 1).rows[0][0].val;
  const before = pid();
  const late = failed(() => query('index', statement('SELECT pg_sleep(60) IS NULL'), 1));
  assert.deepEqual([late.kind, late.sqlstate, late.retryable], ['timed-out', '57014', true]);
  assert.equal(pid(), before);
});

test('a session that was ended while idle is replaced unseen', async (t) => {
  const { query, Transaction } = granted(t);
  const pid = () => query('index', statement('SELECT pg_backend_pid()'), 1).rows[0][0].val;
  const before = pid();
  await admin.query('SELECT pg_terminate_backend($1)', [String(before)]);
  for (;;) {
    const { rows } = await admin.query('SELECT 1 FROM pg_stat_activity WHERE pid = $1', [String(before)]);
    if (rows.length === 0) break;
  }
  assert.notEqual(pid(), before);
  const transaction = Transaction.begin('index', 'read-committed', false);
  const own = transaction.query(statement('SELECT pg_backend_pid()'), 1).rows[0][0].val;
  await admin.query('SELECT pg_terminate_backend($1)', [String(own)]);
  const broken = failed(() => transaction.query(statement('SELECT 1'), 1));
  assert.deepEqual([broken.kind, broken.outcomeUnknown], ['disconnected', false]);
  assert.equal(query('index', statement('SELECT 1'), 1).rows.length, 1);
});

test('what a statement leaves in the session is gone for the next user', (t) => {
  const { query, execute } = granted(t);
  execute('index', statement('SET search_path = pg_temp'));
  execute('index', statement('CREATE TEMP TABLE left_behind ()'));
  assert.notDeepEqual(query('index', statement('SHOW search_path'), 1).rows, [[text('pg_temp')]]);
  assert.equal(failed(() => query('index', statement('SELECT * FROM left_behind'), 1)).sqlstate, '42P01');
});

test('nothing but the transaction itself begins or ends one', (t) => {
  const { execute, Transaction } = granted(t);
  for (const sql of ['BEGIN', ' ;; End work', '-- SELECT\nROLLBACK', '/* a /* nested */ comment */ abort', 'prepare/**/transaction \'x\'', 'COPY t TO STDOUT', 'rollback and chain', "SELECT '\0'"]) {
    assert.equal(failed(() => execute('index', statement(sql))).kind, 'refused', sql);
  }
  const transaction = Transaction.begin('index', 'read-committed', false);
  assert.equal(failed(() => transaction.execute(statement('COMMIT'))).kind, 'refused');
  assert.equal(failed(() => transaction.copyIn('SELECT 1')).kind, 'refused');
  assert.equal(failed(() => transaction.openCursor(statement('COMMIT'))).kind, 'refused');
  assert.doesNotThrow(() => check("SELECT 'COMMIT'", 'alone'));
  assert.doesNotThrow(() => check('ROLLBACK TO SAVEPOINT a', 'within'));
  assert.ok(leavesTraces('select SET_CONFIG(1)') && leavesTraces('LISTEN a') && !leavesTraces('(SELECT 1)'));
});

test('a binding that was not granted is told as that', (t) => {
  const { query } = granted(t);
  assert.equal(failed(() => query('other', statement('SELECT 1'), 1)).kind, 'not-granted');
});

test('a server that is not there or is none is unreachable, and the next host is tried', async (t) => {
  const garbage = createServer((socket) => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n')).listen(0, '127.0.0.1');
  await new Promise((resolve) => garbage.once('listening', resolve));
  const dead = ['127.0.0.1', 1];
  const { query } = granted(t, { hosts: [dead] });
  const refused = failed(() => query('index', statement('SELECT 1'), 1));
  assert.deepEqual([refused.kind, refused.retryable, refused.sqlstate], ['unreachable', true, undefined]);
  const both = granted(t, { hosts: [dead, ...connection().hosts] });
  assert.equal(both.query('index', statement('SELECT 1'), 1).rows.length, 1);
  garbage.close();
});

/** A server that answers nobody before it is told to, and then those alone that wait for it. */
const GATE = `
  const { parentPort, workerData } = require('node:worker_threads');
  const { connect, createServer } = require('node:net');
  const held = [];
  const gate = createServer((socket) => held.push(socket.on('error', () => {})));
  gate.listen(workerData.port, '127.0.0.1', () => parentPort.postMessage('listening'));
  parentPort.on('message', () => {
    for (const socket of held) {
      socket.pipe(connect(workerData.server).on('error', () => {})).pipe(socket);
    }
    parentPort.postMessage(held.length);
  });
`;

// Whoever asked a server that was known not to answer waited again for as long as a connection may take.
test('a server that did not answer is tried again, and nobody waits for it', async (t) => {
  const free = createServer();
  await new Promise((resolve) => free.listen(0, '127.0.0.1', resolve));
  const { port } = free.address();
  await new Promise((resolve) => free.close(resolve));
  const { query } = granted(t, { hosts: [['127.0.0.1', port]], tlsMode: 'disable', connectTimeoutMs: 5000 });
  const ask = () => failed(() => query('index', statement('SELECT 1'), 1)).kind;
  assert.equal(ask(), 'unreachable');
  const gate = new Thread(GATE, { eval: true, workerData: { port, server: { host: admin.host, port: admin.port } } });
  t.after(() => gate.terminate());
  assert.deepEqual(await once(gate, 'message'), ['listening']);
  for (let asked = 0; asked < 5; asked += 1) {
    assert.equal(ask(), 'unreachable');
  }
  // What the first of them began waits still, though they are back, and serves the next.
  gate.postMessage('answer');
  assert.deepEqual(await once(gate, 'message'), [1]);
  let kind = 'unreachable';
  for (let asked = 0; asked < 100 && kind === 'unreachable'; asked += 1) {
    kind = ask();
  }
  assert.equal(kind, 'nothing');
});

test('no message holds the password, and no environment reaches the driver', (t) => {
  process.env.PGOPTIONS = '-c statement_timeout=1';
  t.after(() => delete process.env.PGOPTIONS);
  const secret = 'gar-geheim-0815';
  const hosts = [...connection().hosts, ['127.0.0.1', 1], ['no.such.host.invalid', 5432]];
  for (const host of hosts) {
    const { query } = granted(t, { hosts: [host], password: secret, user: secret, database: `no_${secret}` });
    const refused = failed(() => query('index', statement('SELECT 1'), 1));
    assert.equal(refused.kind, 'unreachable');
    assert.ok(!JSON.stringify(refused).includes(secret), refused.message);
  }
  const { query } = granted(t);
  assert.deepEqual(query('index', statement('SHOW statement_timeout'), 1).rows, [[text('30s')]]);
});

test('what an instance held is given back when it ends', (t) => {
  const { Transaction, end } = granted(t);
  Transaction.begin('index', 'read-committed', true).openCursor(statement('SELECT 1'));
  Transaction.begin('index', 'read-committed', true);
  end();
  Transaction.begin('index', 'read-committed', true);
  Transaction.begin('index', 'read-committed', true);
});

test('a store with an index answers as its files do', async (t) => {
  const place = await schema(t);
  const root = directory(t);
  const config = new PostgresStoreConfig({ root, connectionString: uri, schema: place }).scoped('exp:1');
  const store = config.connect();
  t.after(() => store.close());
  // It is believed from where it was compared with the files.
  assert.equal(store.rebuildIndex().runs, 0);
  const records = Array.from({ length: 50 }, (_, index) => ({ runId: `r${index}`, status: index % 2 ? 'success' : 'failed', metrics: { loss: index / 3, big: 2n ** 70n, nan: NaN } }));
  assert.ok(store.putRunRecords(records).every(({ revision }) => revision !== undefined));
  store.putDerived('r1', { score: 0.25 });
  store.deleteRun('r2');
  assert.deepEqual(store.indexState(), { standing: 'current', pending: 0, trouble: null });
  const { rows } = await admin.query(`SELECT count(*)::int AS runs FROM ${place}.runs`);
  assert.equal(rows[0].runs, 49);
  const files = config.toFilestore().readOnly().connect();
  t.after(() => files.close());
  for (const filter of ['', 'status = "failed" and metrics.loss < 5', 'metrics.big > 1e20', 'derived.score < 1']) {
    const answers = [store, files].map((one) => {
      const list = one.queryRuns({ filter, sort: 'metrics.loss desc', columns: 'run_id, metrics.loss', limit: 20 });
      return { rows: [...list.rows()], total: list.total };
    });
    assert.deepEqual(answers[0], answers[1], filter);
    assert.notEqual(answers[0].total, 0);
  }
  assert.deepEqual(store.listRunRecords(), files.listRunRecords());
  const steps = [];
  const report = store.rebuildIndex((step) => steps.push(step));
  assert.deepEqual([report.runs, report.added, report.changed, report.removed], [49, 0, 0, 0]);
  assert.notEqual(steps.length, 0);
});

test('rows of an experiment whose directory is gone are reported, stay, and are pruned on request', async (t) => {
  const place = await schema(t);
  const root = directory(t);
  const config = new PostgresStoreConfig({ root, connectionString: uri, schema: place });
  for (const experiment of ['a:1', 'b:1']) {
    const store = config.scoped(experiment).connect();
    store.putRunRecords(['x', 'y'].map((name) => ({ runId: experiment[0] + name, status: 'success' })));
    store.close();
  }
  const runs = async () => (await admin.query(`SELECT run_id FROM ${place}.runs ORDER BY run_id`)).rows.map((row) => row.run_id);
  fs.rmSync(join(root, 'a_1'), { recursive: true });
  const store = config.connect();
  t.after(() => store.close());
  const found = store.rebuildIndex();
  assert.deepEqual([found.runs, found.removed, found.pruned, found.orphanCount], [2, 0, 0, 1]);
  assert.deepEqual(found.orphans, [{ experiment: 'a:1', runs: 2 }]);
  assert.deepEqual(await runs(), ['ax', 'ay', 'bx', 'by']);
  assert.throws(() => store.rebuildIndex({ prune: ['a:1', 'b:1'] }), (error) => error.code === 'invalid-argument' && error.message.includes('"b:1"'));
  assert.throws(() => store.rebuildIndex({ prune: 'a:1' }), { code: 'invalid-argument' });
  assert.throws(() => store.rebuildIndex({ prune: [1] }), { code: 'invalid-argument' });
  assert.throws(() => store.rebuildIndex({ prune: ['../a'] }), { code: 'invalid-name' });
  assert.throws(() => store.rebuildIndex({ prnue: [] }), { code: 'invalid-argument' });
  assert.equal((await runs()).length, 4);
  const phases = new Set();
  const pruned = store.rebuildIndex({ prune: ['a:1'], onProgress: ({ phase }) => phases.add(phase) });
  assert.deepEqual([pruned.runs, pruned.pruned, pruned.orphanCount, pruned.orphans], [2, 2, 0, []]);
  assert.ok(phases.has('prune') && phases.has('done'));
  assert.deepEqual(await runs(), ['bx', 'by']);
  assert.equal(store.rebuildIndex({ prune: ['a:1'] }).pruned, 0);
});

test('files that were there before are indexed', async (t) => {
  const place = await schema(t);
  const root = directory(t);
  const files = new FileStoreConfig({ root }).scoped('exp:1');
  const before = files.connect();
  before.putRunRecord({ runId: 'r', status: 'success' });
  before.close();
  const store = PostgresStoreConfig.fromFilestore(uri, files, { schema: place });
  assert.equal(store.indexState().standing, 'current');
  store.close();
});

test('a database that is dead keeps nobody from the files', (t) => {
  const store = new PostgresStoreConfig({ root: directory(t), connectionString: 'postgresql://u:geheim-0815@127.0.0.1:1/d', connectTimeoutMs: 200 }).scoped('exp:1').connect();
  t.after(() => store.close());
  store.putRunRecord({ runId: 'r', status: 'success' });
  assert.equal(store.getRunRecord('r').status, 'success');
  assert.equal(store.listRunRecords().records.length, 1);
  const state = store.indexState();
  assert.equal(state.standing, 'unreachable');
  assert.ok(!JSON.stringify(state).includes('geheim-0815'));
  assert.throws(() => store.rebuildIndex(), (error) => error.code === 'database' && !error.message.includes('geheim-0815'));
});

test('a server is found where the collection says how it is reached', async (t) => {
  const [root, name] = [directory(t), await schema(t)];
  const { host, port, database, user, password } = admin;
  const service = { host, port, database, user, password: password ?? 'gar-geheim-0815' };
  fs.mkdirSync(join(root, 'services/postgres'), { recursive: true });
  fs.writeFileSync(join(root, 'services/postgres/service.json'), JSON.stringify(service));
  const store = new PostgresStoreConfig({ root, connectionString: 'postgresql://', schema: name }).scoped('exp:1').connect();
  t.after(() => store.close());
  store.putRunRecord({ runId: 'r', status: 'success' });
  assert.equal(store.listRunRecords().records.length, 1);
  assert.equal(store.indexState().standing, 'current');
});

test('this host gives the same with PostgreSQL as index', async (t) => {
  const place = join(CHECKOUT, 'tests/conformance');
  const { operations } = JSON.parse(fs.readFileSync(join(place, 'script.json'), 'utf8'));
  const expected = fs.readFileSync(join(place, 'expected.jsonl'), 'utf8').trimEnd().split('\n').map((line) => JSON.parse(line));
  const [root, name] = [directory(t), await schema(t)];
  const found = await transcript(join(place, 'script.json'), root, { connectionString: uri, schema: name });
  assert.equal(found.length, expected.length);
  found.forEach((line, index) => {
    assert.deepEqual(line, expected[index], JSON.stringify(operations[index]));
  });
  const sql = fs.readFileSync(join(place, 'tables.sql'), 'utf8').replaceAll(/\{(\w+)\}/g, `"${name}".$1`);
  const { rows } = await admin.query({ text: sql, rowMode: 'array' });
  const written = rows.map(([row]) => row.replaceAll(root, '<root>'));
  assert.deepEqual(written, fs.readFileSync(join(place, 'tables.jsonl'), 'utf8').trimEnd().split('\n'));
});
