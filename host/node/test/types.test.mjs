// The declarations: they compile, and say what there is.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { execFileSync } from 'node:child_process';
import * as fs from 'node:fs';
import { fileURLToPath } from 'node:url';
import * as api from '../src/index.js';

const here = (path) => fileURLToPath(new URL(path, import.meta.url));

test('the declarations take what is right and refuse what is not', () => {
  const options = ['--noEmit', '--strict', '--target', 'es2022', '--module', 'nodenext', '--moduleResolution', 'nodenext', '--lib', 'es2022,esnext.disposable,dom', '--types', 'node'];
  execFileSync(process.execPath, [here('../node_modules/typescript/bin/tsc'), ...options, here('types.mts')], { stdio: ['ignore', 'inherit', 'inherit'] });
});

test('everything that is exported is declared, and every method too', () => {
  const text = fs.readFileSync(here('../src/index.d.ts'), 'utf8');
  for (const [name, value] of Object.entries(api)) {
    assert.match(text, new RegExp(`export (class|function) ${name}\\b`), name);
    const declared = text.split(`export class ${name} `)[1]?.split(/^}/m)[0] ?? '';
    for (const method of Object.getOwnPropertyNames(value.prototype ?? {})) {
      if (method !== 'name' && !method.startsWith('_')) {
        assert.ok(new RegExp(`\\b${method}\\b`).test(declared) || method === 'constructor', `${name}.${method}`);
      }
    }
  }
});
