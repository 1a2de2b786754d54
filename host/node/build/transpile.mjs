// Transpiles the component: `node build/transpile.mjs COMPONENT OUTPUT`. `cargo xtask node` runs it.

import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join, dirname } from 'node:path';
import { transpile } from '@bytecodealliance/jco';

const [component, output] = process.argv.slice(2);
const { files } = await transpile(await readFile(component), {
  name: 'metalab_store',
  instantiation: { tag: 'sync' },
  noTypescript: true,
  noNodejsCompat: true,
  wasiShim: false,
});

// Every step of a call looks whether the environment asks for a trace, and in Node each look is a system call's worth: a
// third of the time of a list.
const CHECK = 'if (!globalThis?.process?.env?.JCO_DEBUG) { return; }';

await rm(output, { recursive: true, force: true });
for (const [name, content] of Object.entries(files)) {
  let data = content;
  if (name === 'metalab_store.js') {
    const text = Buffer.from(content).toString('utf8');
    if (!text.includes(CHECK)) {
      throw new Error('jco writes its traces in another way than before: build/transpile.mjs has to follow');
    }
    data = text.replace(CHECK, 'return;');
  }
  const path = join(output, name);
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, data);
}
