/**
 * metalab-store: run records, metrics, results, logs and artifacts of experiments, as plain files.
 *
 * ```js
 * import { FileStoreConfig } from 'metalab-store';
 *
 * const store = new FileStoreConfig({ root: './experiments' }).scoped('my_exp:1.0').connect();
 * store.putRunRecord({ runId: '0123456789abcdef', status: 'success', metrics: { loss: 0.25 } });
 * for (const run of store.listRuns()) console.log(run.runId, run.metrics.loss);
 * store.close();
 * ```
 *
 * Calls block, as those of `node:sqlite` do: a put that returned has the durability of the configuration. Lists, artifacts
 * and logs can also be iterated asynchronously; others have their turn between two pages. What must not wait belongs into a
 * worker thread.
 */

// --- values ----------------------------------------------------------------------------------------------------------

/**
 * A value of JSON as Python's `json` module has it: integers beyond 2^53 are `bigint`, and NaN and the infinities are numbers.
 *
 * A number without a fraction that was written as a float (`1.0`) is a number; beside the object that holds it, it is
 * remembered that it was one, so that what was read and is put back keeps its text. A copy does not remember it. To write one,
 * use {@link Float}.
 */
export type Json = null | boolean | number | bigint | string | Float | Json[] | { [key: string]: Json };

/** An object of {@link Json}. */
export type JsonObject = { [key: string]: Json };

/** A number that is written as a float, also without a fraction: `new Float(1)` is `1.0`. */
export class Float {
  constructor(value: number);
  readonly value: number;
  valueOf(): number;
  toJSON(): number;
}

/** Reads JSON text without damage to a number. Throws a `SyntaxError`. */
export function parse(text: string): Json;

/** Writes JSON text as the store takes it. Throws a `TypeError` for what has none. */
export function stringify(value: unknown): string;

/** An integer: a `bigint` where a number cannot hold it. */
export type Integer = number | bigint;

/** What was a file's content: the first 16 digits of its SHA-256, the same in every host. */
export type Revision = string;

/** How a run ended, or that it has not. */
export type Status = 'success' | 'failed' | 'cancelled' | 'running';

/** Metrics by their names. */
export type Metrics = { [name: string]: Json };

/** Where a run's code ran, and which code it was. */
export interface Provenance {
  codeHash: string | null;
  pythonVersion: string | null;
  metalabVersion: string | null;
  executorId: string | null;
  host: string | null;
  extra: JsonObject;
  /** Keys that this version does not know. */
  unknown: JsonObject;
}

/** What the store knows about an artifact. */
export interface ArtifactDescriptor {
  artifactId: string;
  /** Unique within its run. */
  name: string;
  kind: string;
  /** The extension of its file. */
  format: string;
  /** Where the file is. Written by the store. */
  uri: string;
  contentHash: string | null;
  sizeBytes: Integer | null;
  /** The key `_run_id` names the run. */
  metadata: JsonObject;
  unknown: JsonObject;
}

/** One run of an experiment. */
export interface RunRecord {
  runId: string;
  experimentId: string;
  status: Status;
  contextFingerprint: string;
  paramsFingerprint: string;
  seedFingerprint: string;
  /** ISO 8601, as it was written. */
  startedAt: string | null;
  finishedAt: string | null;
  durationMs: Integer;
  metrics: Metrics;
  provenance: Provenance;
  error: Json;
  paramsResolved: JsonObject;
  tags: string[];
  warnings: Json[];
  notes: string | null;
  artifacts: ArtifactDescriptor[];
  schemaVersion: string;
  unknown: JsonObject;
}

/** Structured result data of a run. */
export interface StructuredResult {
  data: Json;
  dtype: string | null;
  shape: Integer[] | null;
  metadata: JsonObject;
  unknown: JsonObject;
}

type Given<T, Needed extends keyof T> = Pick<T, Needed> & { [K in Exclude<keyof T, Needed>]?: T[K] | null };

/** A descriptor as a put takes it. */
export type ArtifactDescriptorInput = Given<ArtifactDescriptor, 'artifactId' | 'name' | 'kind' | 'format'>;

/** A record as a put takes it: a run id and a status; everything else is empty or absent by default. */
export type RunRecordInput = Given<Omit<RunRecord, 'provenance' | 'artifacts'>, 'runId' | 'status'> & {
  provenance?: Partial<Provenance> | null;
  artifacts?: ArtifactDescriptorInput[] | null;
};

/** A result as a put takes it. A typed array is a list of numbers. */
export type StructuredResultInput = Given<Omit<StructuredResult, 'data'>, never> & { data: Json | ArrayBufferView };

/** A file that could not be read as what it should be. */
export interface Damage {
  /** Relative to the store's directory. */
  file: string;
  offset: Integer | null;
  reason: string;
}

/** A record with the revision to require in a later put. */
export interface VersionedRun {
  revision: Revision;
  record: RunRecord;
}

/** What became of a record of a batch. */
export type PutOutcome = { revision: Revision; error?: undefined } | { error: StoreError; revision?: undefined };

/** What a put requires of what it replaces: nothing, that there is nothing, or that it has this revision. */
export interface Expectation {
  expect?: 'anything' | 'absent' | Revision;
}

/** Which runs, in which order, and what is shown of them: `docs/query-language.md`. */
export interface RunQuery {
  filter?: string;
  sort?: string;
  columns?: string | string[];
  limit?: Integer;
  cursor?: string | null;
  /** Whether every file is looked at, so that one that another program rewrote in place is noticed. */
  check?: boolean;
}

/** What some runs have in one field. */
export interface FieldSummary {
  field: string;
  types: string[];
  runs: Integer;
  min: Json;
  max: Json;
  values: Json[];
  complete: boolean;
}

/** Which fields some runs have. */
export interface FieldCatalogue {
  fields: FieldSummary[];
  complete: boolean;
  runs: Integer;
  damaged: Damage[];
}

/** A piece of a log. */
export interface LogChunk {
  text: string;
  nextOffset: Integer;
  /** How many replacement characters stand for bytes that are not UTF-8. */
  replaced: number;
  end: boolean;
}

/** Which version of an experiment's manifest a body is. */
export interface ManifestHeader {
  experimentId: string;
  timestamp: string;
  counter: number;
}

/** How a query index is. */
export interface IndexState {
  standing: 'none' | 'current' | 'behind' | 'unreachable';
  pending: Integer;
  trouble: string | null;
}

/** How far the rebuild of an index is. */
export interface RebuildProgress {
  directory: string;
  phase: string;
  done: Integer;
  total: Integer;
}

/** What is done when an index is rebuilt. */
export interface RebuildOptions {
  /** Experiments whose directories were removed, and whose rows go first. No file is touched. */
  prune?: string[];
  onProgress?: (progress: RebuildProgress) => void;
}

/** An experiment that the index has something of, and whose directory is not in the collection any more. */
export interface OrphanedExperiment {
  /** The experiment, as `prune` takes it. */
  experiment: string;
  /** The runs that the index has of it. None, if it has manifests alone. */
  runs: Integer;
}

/** What the rebuild of an index found and did. */
export interface RebuildReport {
  runs: Integer;
  added: Integer;
  changed: Integer;
  removed: Integer;
  manifests: Integer;
  /** Runs that were removed from the index because their experiment was to be pruned. */
  pruned: Integer;
  /** Experiments with rows whose directories are not in the collection any more: the first 100. */
  orphans: OrphanedExperiment[];
  /** How many these are. */
  orphanCount: Integer;
  damaged: Damage[];
}

/** An artifact: its uri, or its run and its name. */
export type ArtifactReference = string | { uri: string } | { runId: string; name: string };

/** Bytes. */
export type Bytes = ArrayBufferView | ArrayBuffer;

// --- configurations --------------------------------------------------------------------------------------------------

/** What the configurations of all backends have. */
export interface StoreSettings {
  /** The directory of the collection; it need not exist. It becomes absolute now, with links resolved; `~` is not expanded. */
  root: string | URL;
  /** The experiment that the store is limited to. */
  experimentId?: string | null;
  /** Default `read-write`. A store that is opened to read creates and changes nothing. */
  access?: 'read-write' | 'read-only';
  /** What an acknowledged write survives: a power cut too (`full`, the default), or a kill alone (`relaxed`). */
  durability?: 'full' | 'relaxed';
  /** How long a write waits for another writer of the same run, in milliseconds. Default 30,000. */
  lockTimeoutMs?: Integer;
}

/** With PostgreSQL as the query index. */
export interface PostgresSettings extends StoreSettings {
  /** A URI or `keyword=value` pairs as libpq takes them. */
  connectionString: string;
  /** Default `public`. */
  schema?: string;
  /** Whether missing tables are created. Default true. */
  autoMigrate?: boolean;
  /** Default 10,000. */
  connectTimeoutMs?: Integer;
  /** Connections that stay open. Default 1. */
  poolMinSize?: Integer;
  /** Connections at most. Default 2. */
  poolMaxSize?: Integer;
  /** Whether the tables of the reference are written too. Default true. */
  projection?: boolean;
}

/** A configuration: a value, whose methods return changed copies. Nothing is opened before `connect`. */
interface StoreConfig<Settings> {
  readonly root: string;
  readonly experimentId: string | null;
  readonly isScoped: boolean;
  readonly access: 'read-write' | 'read-only';
  readonly durability: 'full' | 'relaxed';
  readonly lockTimeoutMs: number;
  /** Returns it with other settings. */
  with(changes: Partial<Settings>): this;
  /** Limits it to an experiment. Scoping to a second one is an error that `connect` reports. */
  scoped(experimentId: string): this;
  /** The same as `scoped`. */
  forExperiment(experimentId: string): this;
  readOnly(): this;
  /** Opens the store. Throws {@link RootError} if the directory cannot be opened, and what the component reports. */
  connect(): Store;
  /** Lists the experiments of the collection. One that does not exist has none. */
  listExperiments(): { experiments: string[]; damaged: Damage[] };
}

/** The configuration of a store of files. */
export class FileStoreConfig implements StoreConfig<StoreSettings> {
  constructor(settings: StoreSettings);
  readonly root: string;
  readonly experimentId: string | null;
  readonly isScoped: boolean;
  readonly access: 'read-write' | 'read-only';
  readonly durability: 'full' | 'relaxed';
  readonly lockTimeoutMs: number;
  with(changes: Partial<StoreSettings>): this;
  scoped(experimentId: string): this;
  forExperiment(experimentId: string): this;
  readOnly(): this;
  connect(): Store;
  listExperiments(): { experiments: string[]; damaged: Damage[] };
}

/** The configuration of a store of files with PostgreSQL as its query index. Printing it shows no password. */
export class PostgresStoreConfig implements StoreConfig<PostgresSettings> {
  constructor(settings: PostgresSettings);
  readonly root: string;
  readonly experimentId: string | null;
  readonly isScoped: boolean;
  readonly access: 'read-write' | 'read-only';
  readonly durability: 'full' | 'relaxed';
  readonly lockTimeoutMs: number;
  readonly schema: string;
  with(changes: Partial<PostgresSettings>): this;
  scoped(experimentId: string): this;
  forExperiment(experimentId: string): this;
  readOnly(): this;
  connect(): Store;
  listExperiments(): { experiments: string[]; damaged: Damage[] };
  /** Returns the configuration of the same files without the database. */
  toFilestore(): FileStoreConfig;
  /** Opens the files of a configuration with a database, and indexes those that are there. */
  static fromFilestore(connectionString: string, files: FileStoreConfig, settings?: Partial<PostgresSettings>): Store;
}

/** A parsed locator. */
export interface Locator {
  scheme: string;
  path: string;
  host: string | null;
  port: number | null;
  user: string | null;
  password: string | null;
  parameters: [string, string][];
}

/** Splits a locator into its parts. */
export function parseLocator(locator: string): Locator;

/** Makes a configuration from a locator: `./experiments`, `file:///data?experiment_id=…`, `postgresql://…?file_root=…`. */
export function parseToConfig(locator: string): FileStoreConfig | PostgresStoreConfig;

/** Opens the store that a locator names. */
export function openStore(locator: string): Store;

// --- copies ----------------------------------------------------------------------------------------------------------

/** A locator, a configuration, an open store, or the path of an archive, which ends in `.tar.zst` or `.tar`. */
export type Place = string | URL | FileStoreConfig | PostgresStoreConfig | Store;

/** What is copied, and how. */
export interface ExportOptions {
  /** The experiments. Default: all. */
  experiments?: string[];
  /** Which runs, as a query's filter says. Default: all. */
  where?: string;
  /** Whether artifacts and their manifests are copied. Default true, as for the other kinds of files. */
  artifacts?: boolean;
  derived?: boolean;
  results?: boolean;
  logs?: boolean;
  /** What happens to a run that the destination has with another content. Default `fail`: it stays, and is a failure. */
  existing?: 'fail' | 'skip' | 'overwrite';
  /** Whether nothing is written, and only told what would be. */
  dryRun?: boolean;
  /** Whether the places of artifacts are rewritten to those of the destination. */
  rewriteUris?: boolean;
  /** How many bytes an archive may hold. Default: 1 GiB and 1,000 times its size. */
  maxArchiveBytes?: Integer;
  /** Is given how many runs were looked at, and how many there are, as far as it is known: 0 of an archive. If it throws, the
   * copy ends, and the same call goes on from there. */
  onProgress?: (runs: number, total: number) => void;
}

/** How much. */
export interface TransferCounts {
  runs: number;
  files: number;
  bytes: number;
}

/** Something that was not copied, and why. */
export interface TransferFailure {
  /** Empty for what belongs to none. */
  experimentId: string;
  runId: string | null;
  /** Relative to the experiment's directory. */
  file: string | null;
  reason: string;
}

/** What became of a copy. Every run and file is counted once. */
export interface TransferReport {
  copied: TransferCounts;
  /** What was there already, or was to be passed over. */
  skipped: TransferCounts;
  failed: TransferCounts;
  /** How many files were removed: those of a replaced run that the source does not have. */
  removed: number;
  failures: TransferFailure[];
  /** What each experiment holds, as one number: the same wherever the same content lies. */
  digests: { experimentId: string; runs: number; digest: string }[];
}

/** Copies runs, and says what became of each. What is wrong with one run ends nothing: look at `failures`. */
export function exportStore(source: Place, destination: Place, options?: ExportOptions): TransferReport;

// --- stores ----------------------------------------------------------------------------------------------------------

/**
 * An open store. After `close` its calls are {@link ClosedError}.
 *
 * An argument of a wrong type is a `TypeError` with the code `invalid-argument`; every other error is a {@link StoreError}.
 * What a call returns as `null` is not there. Each call that takes or returns JSON values has a twin for its text.
 */
export class Store {
  private constructor();
  /** The configuration that it was opened with. */
  readonly config: FileStoreConfig | PostgresStoreConfig;
  /** What the user should know, in sentences: about the configuration, and that nothing can be locked, once a write has found that. */
  readonly warnings: string[];
  /** Opens the store of an experiment of this store's collection. */
  scoped(experimentId: string): Store;
  /** Makes everything durable and ends the store's work. Readers, writers and lists end too. */
  close(): void;
  [Symbol.dispose](): void;
  [Symbol.asyncDispose](): Promise<void>;
  getWorkingDirectory(): string;

  /** Stores a run record whole, in place of an earlier one. Throws {@link ConflictError} if an expectation is not met. */
  putRunRecord(record: RunRecordInput, options?: Expectation): Revision;
  /** Stores a record given as JSON text in the format of its file. */
  putRunText(record: string, options?: Expectation): Revision;
  /** Stores many records, synced together; the outcomes are in their order. */
  putRunRecords(records: RunRecordInput[]): PutOutcome[];
  /** Stores many records, each on a line of JSON text. */
  putRunLines(lines: string): PutOutcome[];
  getRunRecord(runId: string): RunRecord | null;
  getVersionedRun(runId: string): VersionedRun | null;
  getRunText(runId: string): string | null;
  /** Returns all records, the newest start first, and the files that are damaged: they hide no record. */
  listRunRecords(experimentId?: string | null): { records: RunRecord[]; damaged: Damage[] };
  /** Lists records a page at a time. */
  listRuns(experimentId?: string | null): RunList;
  /** Lists the runs that a query asks for. Throws {@link InvalidQueryError}. */
  queryRuns(query?: RunQuery): RunList;
  listFields(filter?: string): FieldCatalogue;
  indexState(): IndexState;
  /**
   * Brings the query index up to date with the files. A function is told of the progress. Throws `invalid-argument` if an experiment
   * in `prune` has a directory, or is not the one that the store is limited to.
   */
  rebuildIndex(options?: RebuildOptions | ((progress: RebuildProgress) => void)): RebuildReport;
  runExists(runId: string): boolean;
  /** Deletes a run with everything that belongs to it, and says whether there was anything. */
  deleteRun(runId: string): boolean;

  putDerived(runId: string, metrics: Metrics): Revision;
  putDerivedText(runId: string, derived: string): Revision;
  getDerived(runId: string): Metrics | null;
  getDerivedText(runId: string): string | null;
  derivedExists(runId: string): boolean;

  putResult(runId: string, name: string, result: StructuredResultInput): Revision;
  putResultText(
    runId: string,
    name: string,
    data: string,
    options?: { dtype?: string | null; shape?: Integer[] | null; metadata?: string; unknown?: string },
  ): Revision;
  getResult(runId: string, name: string): StructuredResult | null;
  getResultText(runId: string, name: string): string | null;
  listResults(runId: string): string[];

  putLog(runId: string, name: string, content: string): void;
  /** Appends to a log and returns its new size in bytes. With `sync`, it is durable then. */
  appendLog(runId: string, name: string, content: string, options?: { sync?: boolean }): Integer;
  getLog(runId: string, name: string): string | null;
  /** Reads a piece of a log from a byte offset. */
  readLog(runId: string, name: string, options?: { offset?: Integer; maxBytes?: Integer }): LogChunk | null;
  /** Reads a log a piece at a time, to the end that it has then. */
  logChunks(runId: string, name: string, options?: { offset?: Integer }): AsyncGenerator<string, void, void>;
  listLogs(runId: string): string[];
  /** Returns where a program may write a log itself. */
  getLogPath(runId: string, name: string): string;

  /** Stores an artifact of bytes, however many. */
  putArtifact(content: Bytes, descriptor: ArtifactDescriptorInput): ArtifactDescriptor;
  /** Stores an artifact from a file, without passing its bytes through memory. */
  putArtifactFile(path: string | URL, descriptor: ArtifactDescriptorInput): ArtifactDescriptor;
  /** Stores an artifact from a stream, or anything else that hands out bytes. */
  putArtifactStream(source: AsyncIterable<Bytes> | Iterable<Bytes>, descriptor: ArtifactDescriptorInput): Promise<ArtifactDescriptor>;
  createArtifact(descriptor: ArtifactDescriptorInput): ArtifactWriter;
  getArtifact(artifact: ArtifactReference): Uint8Array;
  /** Opens an artifact for reading. With `verify`, its content is hashed first. */
  openArtifact(artifact: ArtifactReference, options?: { verify?: boolean }): ArtifactReader;
  /** Lists the artifacts of a run; the one put last is last. */
  listArtifacts(runId: string): ArtifactDescriptor[];

  putExperimentManifest(experimentId: string, body: JsonObject, options?: { timestamp?: string | null }): ManifestHeader;
  putExperimentManifestText(experimentId: string, body: string, options?: { timestamp?: string | null }): ManifestHeader;
  getExperimentManifest(experimentId: string): { header: ManifestHeader; body: JsonObject } | null;
  getExperimentManifestText(experimentId: string): { header: ManifestHeader; body: string } | null;
  /** Lists the manifests of an experiment, the newest first. */
  listExperimentManifests(experimentId: string): ManifestHeader[];
}

/** A list of run records, handed out a page at a time. It lives in the store. */
export class RunList implements Iterable<RunRecord>, AsyncIterable<RunRecord> {
  private constructor();
  /** How many runs are left to hand out. */
  readonly remaining: Integer;
  /** How many runs the filter matches, those beyond the limit too. */
  readonly total: Integer;
  readonly columns: string[];
  /** The cursor of the next runs, if the query had a limit and there are more. */
  readonly cursor: string | null;
  /** Returns the next records, at most 4,096. An empty page is the end. */
  next(limit?: Integer): RunRecord[];
  /** Returns the next records as lines of JSON text: the quickest way to read many. An empty text is the end. */
  nextLines(maxBytes?: Integer): string;
  /** Returns the next rows of the query's columns; `undefined` is what a run does not have. */
  nextRows(limit?: Integer): (Json | undefined)[][];
  nextRowsText(limit?: Integer): (string | undefined)[][];
  /** Returns the files found damaged so far. */
  damaged(): Damage[];
  /** The rows that are left, as objects of the columns that the run has. */
  rows(): Generator<{ [column: string]: Json }, void, void>;
  [Symbol.iterator](): Generator<RunRecord, void, void>;
  [Symbol.asyncIterator](): AsyncGenerator<RunRecord, void, void>;
  close(): void;
  [Symbol.dispose](): void;
}

/** An artifact open for reading. It lives in the store. */
export class ArtifactReader implements AsyncIterable<Uint8Array> {
  private constructor();
  readonly size: Integer;
  readonly descriptor: ArtifactDescriptor | null;
  /** Reads from a byte offset: at most `length` bytes, or 256 KiB. Empty at and beyond the end. */
  read(offset?: Integer, length?: Integer): Uint8Array;
  /** Its content, a chunk at a time. The reader is closed then, and also when the loop is left. */
  [Symbol.asyncIterator](): AsyncGenerator<Uint8Array, void, void>;
  close(): void;
  [Symbol.dispose](): void;
}

/** An artifact being written. Closed before `finish`, it leaves nothing behind. It lives in the store. */
export class ArtifactWriter {
  private constructor();
  write(content: Bytes): void;
  finish(): ArtifactDescriptor;
  close(): void;
  [Symbol.dispose](): void;
}

// --- errors ----------------------------------------------------------------------------------------------------------

/** Why a call failed. The message names the thing, the place and, if there is one, the way out. */
export class StoreError extends Error {
  /** The error's kind, the same in every host. */
  readonly code: string;
}

/** A name is not a safe name. Nothing was touched. */
export class InvalidNameError extends StoreError {
  readonly code: 'invalid-name';
  readonly kind: string;
  readonly given: string;
}

/** An argument other than a name cannot be used. Nothing was touched. */
export class InvalidArgumentError extends StoreError {
  readonly code: 'invalid-argument';
}

/** What the call needs is not there. */
export class NotFoundError extends StoreError {
  readonly code: 'not-found';
  readonly kind: string;
  readonly missing: string;
}

/** What the call would create is there already. */
export class AlreadyExistsError extends StoreError {
  readonly code: 'already-exists';
}

/** The call would undo a write that it does not know of, or has no single answer. */
export class ConflictError extends StoreError {
  readonly code: 'conflict';
  /** The revision that is there now, if one was required. */
  readonly current: Revision | null;
}

/** A file is damaged. */
export class CorruptError extends StoreError {
  readonly code: 'corrupt';
  readonly file: string;
  readonly offset: Integer | null;
}

/** A file is sound, but holds a value that the typed form cannot; the text form can. */
export class UnrepresentableError extends StoreError {
  readonly code: 'unrepresentable';
  readonly file: string;
  readonly offset: Integer | null;
}

/** A lock was held by somebody else until the deadline. */
export class LockedError extends StoreError {
  readonly code: 'locked';
}

/** The file system has no working locks, and the call needs them. */
export class LocksUnavailableError extends StoreError {
  readonly code: 'locks-unavailable';
}

/** The store is read-only. */
export class ReadOnlyError extends StoreError {
  readonly code: 'read-only';
}

/** The database refused or did not answer. */
export class DatabaseError extends StoreError {
  readonly code: 'database';
  readonly sqlstate: string | null;
  readonly retryable: boolean;
}

/** No such directory or binding was granted. */
export class NotGrantedError extends StoreError {
  readonly code: 'not-granted';
}

/** A query cannot be understood. */
export class InvalidQueryError extends StoreError {
  readonly code: 'invalid-query';
  /** Where in the text, in bytes. */
  readonly position: number;
}

/** A value is larger than the store takes in one piece. */
export class TooLargeError extends StoreError {
  readonly code: 'too-large';
}

/** The operating system reported an error. */
export class IoError extends StoreError {
  readonly code: 'io';
  readonly file: string;
  readonly operation: string;
  /** The reason as a WASI error code. */
  readonly reason: string;
  /** Whether the write may or may not have happened. */
  readonly outcomeUnknown: boolean;
}

/** The store's directory cannot be opened. */
export class RootError extends StoreError {
  readonly code: 'root';
  readonly path: string;
  readonly reason: string;
}

/** The plugin cannot be read. */
export class PluginMissingError extends StoreError {
  readonly code: 'plugin-missing';
}

/** The file is no plugin: no component, or one that imports or exports something else. */
export class PluginWorldError extends StoreError {
  readonly code: 'plugin-world';
}

/** The plugin was made for another version of the contract. */
export class PluginVersionError extends StoreError {
  readonly code: 'plugin-version';
}

/** The store was closed. */
export class ClosedError extends StoreError {
  readonly code: 'closed';
}

/** The component used more memory than there is. The store goes on with a fresh instance. */
export class LimitExceededError extends StoreError {
  readonly code: 'limit-exceeded';
}

/** The component failed. The store goes on with a fresh instance; whether the call had an effect is not known. */
export class TrapError extends StoreError {
  readonly code: 'trap';
}

/** The host failed: the component cannot be loaded, linked or started. */
export class EngineError extends StoreError {
  readonly code: 'engine';
}

// --- maintenance -----------------------------------------------------------------------------------------------------

/** Something that is not as it should be: `docs/verify.md`. */
export interface Finding {
  severity: 'damage' | 'warning' | 'orphan' | 'leftover';
  /** What it is: `unreadable`, `altered`, …. */
  kind: string;
  /** The file or directory, relative to the collection's root, or to the directory of the experiment's store. */
  file: string;
  /** The run that it belongs to. */
  runId: string | null;
  /** What is wrong, in one sentence. */
  reason: string;
  /** What can be done about it, in one sentence. */
  wayOut: string;
  /** What was done about it, if it was put right. */
  repaired: string | null;
}

/** How far a verification is. */
export interface VerifyProgress {
  /** The directory, relative to the store's; empty for the store's own. */
  directory: string;
  phase: 'journal' | 'runs' | 'other files' | 'index' | 'database' | 'done';
  /** How much of the phase is done. */
  done: number;
  /** Out of how much. */
  total: number;
  /** The bytes read so far. */
  bytes: number;
}

/** How a store is verified. */
export interface VerifyOptions {
  /** Whether what has exactly one right answer is put right. What is replaced is kept in `.quarantine/`. */
  repair?: boolean;
  /** Called often. An exception of it stops the work; what was put right stays so. */
  onProgress?: (progress: VerifyProgress) => void;
  /** Called for each finding. An exception of it stops the work too. */
  onFinding?: (finding: Finding) => void;
}

/** What was looked at, and what was found. */
export interface VerifyReport {
  runs: number;
  files: number;
  /** Bytes that were read. */
  bytes: number;
  /** Files of which nothing was known before. */
  fresh: number;
  /** Files that this store's own writers replaced since, or that have only grown. */
  replaced: number;
  /** Damaged things that are not put right. */
  damage: number;
  warnings: number;
  /** Things that belong to nothing. */
  orphans: number;
  /** Things that dead writers left. */
  leftovers: number;
  /** Findings that were put right. */
  repaired: number;
  /** What each experiment holds, as one number: the same that a transfer computes. */
  digests: { experimentId: string; runs: number; digest: string }[];
  findings: Finding[];
}

/**
 * Reads every file of a store, of a collection all of it, and says what is not as it should be.
 *
 * A store that may be written notes what each file was, for the next time. What is wrong with a file, or with one
 * experiment, is a finding and ends nothing.
 */
export function verify(store: string | URL | FileStoreConfig | PostgresStoreConfig | Store, options?: VerifyOptions): VerifyReport;

/** Something that a dead writer left, or that belongs to nothing. */
export interface Garbage {
  /** What it is. */
  kind: string;
  /** The file, relative to the collection's root, or to the directory of the experiment's store. */
  file: string;
  /** Its size in bytes. */
  bytes: number;
  /** Why it is not needed, in one sentence. */
  reason: string;
  /** Why it stays; null if it is removed, or would be. */
  kept: string | null;
}

/** How garbage is collected. */
export interface GarbageOptions {
  /** Whether anything is removed, or only told what would be. Default false. */
  apply?: boolean;
  /** How long a file must not have changed, in seconds. Default a day. */
  graceSeconds?: number;
  /** Called often, with the directory and the runs looked at. An exception of it stops the work; what was removed stays so. */
  onProgress?: (progress: { directory: string; runs: number; total: number }) => void;
  /** Called for everything that is found. An exception of it stops the work too. */
  onFound?: (garbage: Garbage) => void;
}

/** What was found, and what became of it. */
export interface GarbageReport {
  /** The files that were removed, or would be. */
  files: number;
  bytes: number;
  /** The files that stay. */
  keptFiles: number;
  keptBytes: number;
  /** Directories that could not be looked at: what is left in them is not known. */
  unseen: number;
  /** All of them. */
  found: Garbage[];
}

/** Looks for what dead writers left in a store, in all of a collection, and removes it if told. */
export function collectGarbage(store: string | URL | FileStoreConfig | PostgresStoreConfig | Store, options?: GarbageOptions): GarbageReport;

// --- plugins ---------------------------------------------------------------------------------------------------------

/** What a plugin may use for one run. */
export interface PluginLimits {
  /** Memory in bytes. Default 256 MiB. A plugin that traps is run once more with a sixteenth more, to tell whether that was why. */
  memoryBytes?: number;
  /** How long it may take, in milliseconds, what the store does for it included. Default 10,000. */
  timeMs?: number;
  /** How many calls of the view it may make. Default 10,000. */
  calls?: number;
}

/** How far it is. */
export interface DeriveProgress {
  /** Runs of which is known what became of them. */
  done: number;
  /** Those of them that failed. */
  failed: number;
  /** All runs. */
  total: number;
}

/** How a plugin is run. */
export interface DeriveOptions {
  /** Which runs: a filter of the query language. Default all. */
  where?: string;
  limits?: PluginLimits;
  /** How many runs are computed at once, each in a process: 1 to 256. Default one a core. */
  workers?: number;
  /** Whether nothing is stored, and only told what would be. */
  dryRun?: boolean;
  /** Called after each run. */
  onProgress?: (progress: DeriveProgress) => void;
  /** Stops the work, also a plugin that loops; what was stored until then stays. */
  signal?: AbortSignal;
}

/** What became of the runs. */
export interface DeriveReport {
  /** Runs that the filter matches. */
  runs: number;
  /** Runs whose derived metrics were stored, or would be. */
  derived: number;
  /** The runs that failed, in the order of the list: they keep the derived metrics that they had. */
  failures: { runId: string; code: 'refused' | 'trap' | 'time' | 'memory' | 'calls' | 'garbage' | 'store'; message: string }[];
  /** The files found damaged: they hide no run. */
  damaged: Damage[];
}

/** A plugin, transpiled by jco and checked: `docs/plugins.md`. */
export class Plugin {
  private constructor();
  /** Loads a plugin of a file, or of its bytes. `@bytecodealliance/jco` has to be installed. */
  static load(source: string | URL | Uint8Array): Promise<Plugin>;
}

/**
 * Runs a plugin over the runs of an experiment, and stores what it derives in place of what they had.
 *
 * The plugin sees that experiment, read-only. What happens to one run is in the report, and stops nothing.
 */
export function derive(
  config: FileStoreConfig | PostgresStoreConfig,
  plugin: Plugin | string | URL | Uint8Array,
  options?: DeriveOptions,
): Promise<DeriveReport>;
