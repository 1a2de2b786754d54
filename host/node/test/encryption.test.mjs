// Encrypted connections, to a server with a certificate of an authority that was made for the test.

import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { PostgresStoreConfig } from '../src/index.js';
import { postgres } from '../src/postgres/imports.js';
import { Pool } from '../src/postgres/pool.js';
import { TARGET, Worker, directory } from './help.mjs';

const IS_ENCRYPTED = 'SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()';

let worker;
let server;

before(async () => {
  const program = join(TARGET, 'release/encrypted-server');
  assert.ok(fs.existsSync(program), `${program} is missing: \`cargo xtask test\` builds it`);
  // It is ended by the end of its input, also if this process dies, and stops its server then.
  worker = new Worker({ after() {} }, program);
  server = JSON.parse(await worker.line());
});

after(() => worker?.end());

/** Says whether connections are encrypted; null: there is none, and why. */
function isEncrypted(tlsMode, host, caFile) {
  const pool = new Pool({
    hosts: [[host, server.port]], database: 'metalab', user: 'metalab', password: undefined, tlsMode, caFile, parameters: [],
    connectTimeoutMs: 10_000, poolMinSize: 1, poolMaxSize: 1,
  });
  const { imports, end } = postgres(new Map([['index', pool]]));
  try {
    const { rows } = imports['metalab:store/postgres'].query('index', { sql: IS_ENCRYPTED, parameters: [] }, 1);
    return [rows[0][0].val, ''];
  } catch (error) {
    assert.equal(error.kind, 'unreachable', String(error));
    return [null, error.message];
  } finally {
    end();
    pool.close();
  }
}

test('each mode trusts what libpq trusts', () => {
  const { ours, other } = server;
  // The certificate is for localhost, and not for the address of the same host.
  for (const [mode, host, ca, expected, reason] of [
    ['disable', 'localhost', undefined, false],
    ['prefer', '127.0.0.1', undefined, true],
    ['require', '127.0.0.1', undefined, true],
    ['require', '127.0.0.1', ours, true],
    ['require', '127.0.0.1', other, null, /certificate/],
    ['verify-ca', '127.0.0.1', ours, true],
    ['verify-ca', 'localhost', other, null, /certificate/],
    ['verify-full', 'localhost', ours, true],
    ['verify-full', '127.0.0.1', ours, null, /127\.0\.0\.1/],
    ['verify-full', 'localhost', other, null, /certificate/],
    // Nobody else knows either authority.
    ['verify-full', 'localhost', undefined, null, /certificate/],
  ]) {
    const [encrypted, message] = isEncrypted(mode, host, ca);
    assert.equal(encrypted, expected, `${mode} ${host} ${ca}: ${message}`);
    assert.match(message, reason ?? /^$/, `${mode} ${host} ${ca}`);
  }
});

test('a file of certificates that is none is refused with its name', (t) => {
  const file = join(directory(t), 'empty.pem');
  fs.writeFileSync(file, 'no certificate');
  for (const caFile of [file, `${file}.absent`]) {
    const [encrypted, message] = isEncrypted('verify-full', 'localhost', caFile);
    assert.equal(encrypted, null);
    assert.ok(message.includes(caFile), message);
  }
});

test('a store uses an index through an encrypted connection, or says why it cannot', (t) => {
  const root = join(directory(t), 'store');
  const open = (ca) => {
    const connectionString = `postgresql://metalab@localhost:${server.port}/metalab?sslmode=verify-full&sslrootcert=${ca}`;
    const store = new PostgresStoreConfig({ root, connectionString, schema: 'node_encrypted' }).scoped('exp:1').connect();
    t.after(() => store.close());
    return store;
  };
  const good = open(server.ours);
  good.putRunRecord({ runId: 'run', status: 'success' });
  good.rebuildIndex();
  assert.equal(good.indexState().standing, 'current');
  const bad = open(server.other);
  assert.throws(() => bad.rebuildIndex(), { code: 'database' });
  assert.equal(bad.getRunRecord('run').status, 'success');
});
