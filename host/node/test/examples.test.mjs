// The examples for this host, as somebody runs them who has installed the package.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { execFileSync } from 'node:child_process';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { CHECKOUT, directory } from './help.mjs';

test('the example that embeds the store runs', (t) => {
  const place = directory(t);
  fs.mkdirSync(join(place, 'node_modules'));
  fs.symlinkSync(fileURLToPath(new URL('..', import.meta.url)), join(place, 'node_modules/metalab-store'));
  fs.copyFileSync(join(CHECKOUT, 'examples/node/embed.mjs'), join(place, 'embed.mjs'));
  const run = () => execFileSync(process.execPath, ['embed.mjs', 'store'], { cwd: place, encoding: 'utf8' });
  const expected = ['run-5 0.167 0.02', 'run-4 0.200 0.025', 'run-3 0.250 0.03333333333333333', '16 bytes of weights', ''].join('\n');
  assert.equal(run(), expected);
  // And again, on what is there.
  assert.equal(run(), expected);
});
