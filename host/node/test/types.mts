// Compiled and not run: uses of the declarations that are right, and some that are not.

import { ConflictError, FileStoreConfig, Float, PostgresStoreConfig, type RunRecord, type RunRecordInput, StoreError, openStore, stringify } from '../src/index.js';

const config: FileStoreConfig = new FileStoreConfig({ root: new URL('file:///tmp'), access: 'read-only' }).scoped('a').with({ durability: 'relaxed' });
const store = config.connect();
const input: RunRecordInput = { runId: 'r', status: 'success', metrics: { a: 1, b: 2n ** 70n, c: new Float(1) }, provenance: { host: 'x' }, notes: null };
const revision: string = store.putRunRecord(input, { expect: 'absent' });
const record: RunRecord | null = store.getRunRecord('r');
if (record !== null) {
  // What was read can be put.
  store.putRunRecord(record, { expect: revision });
  const started: string | null = record.startedAt;
  stringify([started, record.metrics.a]);
}
for (const { revision: put, error } of store.putRunRecords([input])) {
  const message: string = error === undefined ? put : error.message;
  stringify(message);
}
for (const run of store.listRuns()) stringify(run.durationMs);
for await (const chunk of store.openArtifact({ runId: 'r', name: 'x' })) stringify(chunk.byteLength);
store.putResult('r', 'x', { data: new Float64Array(3) });
await store.putArtifactStream([new Uint8Array(1)], { artifactId: 'a', name: 'n', kind: 'k', format: 'f' });
try {
  openStore('./x');
} catch (error) {
  if (error instanceof ConflictError) stringify(error.current);
  if (error instanceof StoreError) stringify(error.code);
}
new PostgresStoreConfig({ root: '.', connectionString: '' }).toFilestore().readOnly();

stringify(store.rebuildIndex({ prune: ['a:1'], onProgress: ({ phase }) => stringify(phase) }).orphans[0]?.runs);
store.rebuildIndex(({ done }) => stringify(done));

// @ts-expect-error: a list of experiments.
store.rebuildIndex({ prune: 'a:1' });
// @ts-expect-error: a record has a status.
store.putRunRecord({ runId: 'r' });
// @ts-expect-error: there is no such status.
store.putRunRecord({ runId: 'r', status: 'done' });
// @ts-expect-error: stores are made by `connect`.
new Store();
// @ts-expect-error: bytes, not a text.
store.putArtifact('text', { artifactId: 'a', name: 'n', kind: 'k', format: 'f' });
