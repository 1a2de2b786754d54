// Embeds the store in a Node program: `node embed.mjs [DIRECTORY]`.

import { FileStoreConfig } from 'metalab-store';

const root = process.argv[2] ?? './example-store';
const store = new FileStoreConfig({ root }).scoped('curve_fit:1.0').connect();

for (let seed = 1; seed <= 5; seed += 1) {
  const runId = `run-${seed}`;
  store.putRunRecord({
    runId,
    status: 'success',
    startedAt: new Date(Date.UTC(2026, 0, 1, 9, seed)).toISOString(),
    paramsResolved: { lr: 0.1 / seed, seed },
    metrics: { loss: 1 / (seed + 1), steps: 2n ** 60n },
    tags: seed === 5 ? ['best'] : [],
  });
  store.appendLog(runId, 'run', `seed ${seed}: done\n`);
}
const descriptor = { artifactId: 'run-5-weights', name: 'weights', kind: 'blob', format: 'bin', metadata: { _run_id: 'run-5' } };
store.putArtifact(new Float64Array([0.5, 0.25]), descriptor);

const query = { filter: 'metrics.loss < 0.3 or tags contains "best"', sort: 'metrics.loss', columns: 'run_id, metrics.loss, params.lr' };
for (const row of store.queryRuns(query).rows()) {
  console.log(row.run_id, row['metrics.loss'].toFixed(3), row['params.lr']);
}

for await (const chunk of store.openArtifact({ runId: 'run-5', name: 'weights' }, { verify: true })) {
  console.log(`${chunk.byteLength} bytes of weights`);
}
store.close();
