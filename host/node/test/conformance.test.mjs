// The script of calls that every host makes.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { CHECKOUT, directory } from './help.mjs';
import { transcript } from './conformance.mjs';

test('this host gives what all hosts give', async (t) => {
  const place = join(CHECKOUT, 'tests/conformance');
  const { operations } = JSON.parse(fs.readFileSync(join(place, 'script.json'), 'utf8'));
  const calls = [...operations, 'the files'];
  const expected = fs.readFileSync(join(place, 'expected.jsonl'), 'utf8').trimEnd().split('\n').map((line) => JSON.parse(line));
  const found = await transcript(join(place, 'script.json'), directory(t));
  assert.ok(calls.length > 600);
  assert.equal(found.length, expected.length);
  found.forEach((line, index) => assert.deepEqual(line, expected[index], JSON.stringify(calls[index])));
});
