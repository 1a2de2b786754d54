// Listing, looking at and reading many files in one call.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { bulk } from '../src/bulk.js';
import { Grant } from '../src/grant.js';
import { directory } from './help.mjs';

/** A granted directory, beside one of which nothing may be seen, and the import on it. */
function place(t) {
  const above = directory(t);
  const inside = join(above, 'in');
  fs.mkdirSync(join(inside, 'runs'), { recursive: true });
  fs.mkdirSync(join(inside, 'deep/er'), { recursive: true });
  fs.mkdirSync(join(above, 'out'));
  fs.writeFileSync(join(above, 'out/secret'), 'secret');
  const grant = new Grant({ root: inside, writable: false });
  const { imports, end } = bulk(grant);
  t.after(() => {
    end();
    grant.close();
  });
  return { inside, runs: join(inside, 'runs'), calls: imports['metalab:store/bulk'] };
}

function line(path) {
  const { size, nlink, mtimeNs, ctimeNs } = fs.lstatSync(path, { bigint: true });
  return `${size} ${nlink} ${mtimeNs} ${ctimeNs}\n`;
}

/** Reads files to the end, in pages. */
function read(calls, from, names) {
  const reader = calls.read(from, names);
  if (reader === undefined) {
    return undefined;
  }
  const pages = [];
  for (let page = reader.next(); page !== ''; page = reader.next()) {
    pages.push(page);
  }
  reader[Symbol.dispose]();
  return pages;
}

test('files are listed, looked at and read in the order of their names', (t) => {
  const { inside, runs, calls } = place(t);
  fs.writeFileSync(join(runs, 'b.json'), '{\n}');
  fs.writeFileSync(join(runs, 'a.json'), '');
  fs.writeFileSync(join(inside, 'deep/er/ä'), 'ö');
  assert.deepEqual(calls.list('runs').split('/').sort(), ['', 'fa.json', 'fb.json']);
  assert.equal(calls.list('deep'), 'der/');
  const [a, b] = ['a.json', 'b.json'].map((name) => line(join(runs, name)));
  assert.equal(calls.look('runs', 'b.json/none/a.json'), `${b}-\n${a}`);
  assert.deepEqual(read(calls, 'runs', 'b.json/none/a.json'), [`${b}{\n}\n-\n${a}\n`]);
  assert.deepEqual(read(calls, 'deep/er', 'ä'), [`${line(join(inside, 'deep/er/ä'))}ö\n`]);
});

test('a file of any bytes is hashed', (t) => {
  const { runs, calls } = place(t);
  const path = join(runs, 'a');
  fs.symlinkSync('a', join(runs, 'link'));
  for (const content of ['', 'abc', Buffer.alloc(1_000_001, 0xff)]) {
    fs.writeFileSync(path, content);
    const digest = createHash('sha256').update(content).digest('hex');
    assert.equal(calls.digest('runs', 'a'), `${line(path).trimEnd()} ${digest}`);
  }
  fs.writeFileSync(join(runs, 'large'), '');
  fs.truncateSync(join(runs, 'large'), (1 << 30) + 1);
  for (const name of ['large', 'link', 'none', '..', '', '../runs/a']) {
    assert.equal(calls.digest('runs', name), undefined, name);
  }
  assert.equal(calls.digest('..', 'in'), undefined);
});

test('many files come in pages, and all of them', (t) => {
  const { runs, calls } = place(t);
  const names = Array.from({ length: 2000 }, (_, run) => `${run}.json`);
  let expected = '';
  for (const name of names) {
    fs.writeFileSync(join(runs, name), name.repeat(100));
    expected += `${line(join(runs, name))}${name.repeat(100)}\n`;
  }
  const pages = read(calls, 'runs', names.join('/'));
  assert.equal(pages.join(''), expected);
  assert.ok(pages.length > 4);
});

test('what is no regular file is told apart and never opened', (t) => {
  const { runs, calls } = place(t);
  fs.mkdirSync(join(runs, 'directory'));
  fs.symlinkSync('../../out/secret', join(runs, 'link'));
  // Who opened this to read would wait for ever.
  execFileSync('mkfifo', [join(runs, 'fifo')]);
  fs.writeFileSync(join(runs, 'bytes'), Buffer.from([0xff, 0xfe]));
  fs.writeFileSync(join(runs, 'large'), 'x'.repeat((1 << 20) + 1));
  assert.deepEqual(calls.list('runs').split('/').sort(), ['', 'ddirectory', 'fbytes', 'flarge', 'llink', 'ofifo']);
  assert.equal(calls.look('runs', 'directory/link/fifo'), '?\n?\n?\n');
  assert.deepEqual(read(calls, 'runs', 'directory/link/fifo/bytes/large'), ['?\n?\n?\n?\n?\n']);
  fs.writeFileSync(Buffer.concat([Buffer.from(`${runs}/`), Buffer.from([0xff])]), '');
  assert.equal(calls.list('runs'), undefined);
});

test('nothing but names in a directory below the granted one is looked at', (t) => {
  const { inside, calls } = place(t);
  fs.symlinkSync('../out', join(inside, 'link'));
  fs.symlinkSync('/', join(inside, 'root'));
  const directories = ['', '.', '..', '../out', 'runs/../../out', '/', '/etc', 'link', 'root', 'root/etc', 'runs/', 'runs//', 'none', 'a\0b'];
  for (const from of directories) {
    assert.equal(calls.list(from), undefined, from);
    assert.equal(calls.look(from, 'secret'), undefined, from);
    assert.equal(calls.read(from, 'secret'), undefined, from);
  }
  for (const names of ['', '.', '..', 'a//b', '../x', 'a/../b', '/', 'a\0', Array(65_537).fill('a').join('/')]) {
    assert.equal(calls.look('runs', names), undefined, names.slice(0, 20));
    assert.equal(calls.read('runs', names), undefined, names.slice(0, 20));
  }
});
