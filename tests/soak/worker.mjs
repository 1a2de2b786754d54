// A process that uses a store as the soak tells it: a call a line on standard input, its answer a line on standard output.
//
// `worker.mjs LOCATOR`; it ends with its standard input. `tests/src/bin/soak` says what the calls are.

import * as fs from 'node:fs';
import { createInterface } from 'node:readline';
import { parseToConfig } from '../../host/node/src/index.js';

const NAME = 'a';

const record = (run, tag) =>
  JSON.stringify({ run_id: run, experiment_id: 'exp:1', status: 'success', notes: String(tag), metrics: { tag } });

function content(tag) {
  const piece = Buffer.alloc(8);
  piece.writeBigUInt64LE(BigInt(tag));
  return Buffer.alloc(1000 + (tag % 7) * 60_000, piece);
}

function whole(damaged) {
  if (damaged.length > 0) {
    throw new Error(`damaged: ${JSON.stringify(damaged[0])}`);
  }
}

const store = parseToConfig(process.argv[2]).scoped('exp:1').connect();

const calls = {
  put: ({ run, tag }) => void store.putRunText(record(run, tag)),
  many({ runs, tag }) {
    for (const outcome of store.putRunLines(runs.map((run) => record(run, tag)).join('\n'))) {
      if (outcome.error !== undefined) throw outcome.error;
    }
  },
  derived: ({ run, tag }) => void store.putDerivedText(run, JSON.stringify({ tag })),
  result: ({ run, tag }) => void store.putResult(run, NAME, { data: tag }),
  append: ({ run, tag }) => void store.appendLog(run, 'run', `${tag}\n`, { sync: true }),
  artifact({ run, tag }) {
    const descriptor = { artifactId: `${run}-${NAME}`, name: NAME, kind: 'blob', format: 'bin', metadata: { _run_id: run } };
    store.putArtifact(content(tag), descriptor);
  },
  delete: ({ run }) => void store.deleteRun(run),
  observe({ run }) {
    let artifact = null;
    if (store.listArtifacts(run).length > 0) {
      const read = Buffer.from(store.getArtifact({ runId: run, name: NAME }));
      artifact = Number(read.readBigUInt64LE());
      if (!read.equals(content(artifact))) {
        throw new Error(`the artifact of ${run} is not what was stored`);
      }
    }
    const found = store.getRunRecord(run);
    const derived = store.getDerivedText(run);
    const result = store.getResult(run, NAME);
    const lines = (store.getLog(run, 'run') ?? '').split('\n');
    if (lines.pop() !== '') {
      throw new Error(`the log of ${run} ends in the middle of a line`);
    }
    return {
      record: found === null ? null : Number(found.notes),
      derived: derived === null ? null : JSON.parse(derived).tag,
      result: result === null ? null : Number(result.data),
      artifact,
      log: lines.map(Number),
    };
  },
  list() {
    const { records, damaged } = store.listRunRecords();
    whole(damaged);
    return Object.fromEntries(records.map(({ runId, notes }) => [runId, Number(notes)]));
  },
  query({ tag }) {
    const list = store.queryRuns({ filter: `metrics.tag >= ${tag}`, columns: 'run_id' });
    const found = [...list.rows()].map((row) => row.run_id);
    whole(list.damaged());
    list.close();
    return found;
  },
  close: () => store.close(),
};

// Written at once: a process that is killed has said all that it did.
const say = (answer) => fs.writeSync(1, `${JSON.stringify(answer)}\n`);

say({ ok: null, us: 0 });
for await (const line of createInterface({ input: process.stdin })) {
  const call = JSON.parse(line);
  const begun = performance.now();
  let done;
  try {
    done = { ok: calls[call.op](call) ?? null };
  } catch (error) {
    if (typeof error?.code !== 'string') throw error;
    done = { error: error.code, unknown: error.outcomeUnknown === true, message: error.message };
  }
  say({ ...done, us: Math.round((performance.now() - begun) * 1000) });
}
process.exit();
