// metalab-store: run records, metrics, results, logs and artifacts of experiments, as plain files.
//
// The storage logic is a WebAssembly component, the same in every host. What is here grants it one directory, locks on it
// and, if wanted, a database, and turns its values into JavaScript's. `index.d.ts` documents all of it.

export { FileStoreConfig, PostgresStoreConfig, openStore, parseLocator, parseToConfig } from './config.js';
export { ArtifactReader, ArtifactWriter, RunList, Store } from './store.js';
export { Plugin, derive } from './plugins.js';
export { exportStore } from './transfer.js';
export { collectGarbage, verify } from './maintenance.js';
export { Float, parse, stringify } from './json.js';
export {
  AlreadyExistsError, ClosedError, ConflictError, CorruptError, DatabaseError, EngineError, InvalidArgumentError, InvalidNameError,
  InvalidQueryError, IoError, LimitExceededError, LockedError, LocksUnavailableError, NotFoundError, NotGrantedError, PluginMissingError,
  PluginVersionError, PluginWorldError, ReadOnlyError,
  RootError, StoreError, TooLargeError, TrapError, UnrepresentableError,
} from './errors.js';
