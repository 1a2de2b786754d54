// Errors: those of the contract with their data, and those of the host itself.

/** Why a call failed. The message names the thing, the place and, if there is one, the way out. */
export class StoreError extends Error {
  /**
   * @param {string} code the error's kind, the same in every host
   * @param {string} message
   * @param {object} [data] what the contract says besides, as properties of the error
   * @param {ErrorOptions} [options]
   */
  constructor(code, message, data = {}, options = undefined) {
    super(message, options);
    Object.assign(this, data);
    this.code = code;
  }

  get name() {
    return this.constructor.name;
  }
}

/** A name is not a safe name. Nothing was touched. Has `kind` and `given`. */
export class InvalidNameError extends StoreError {}
/** An argument other than a name cannot be used. Nothing was touched. */
export class InvalidArgumentError extends StoreError {}
/** What the call needs is not there. Has `kind` and `missing`. */
export class NotFoundError extends StoreError {}
/** What the call would create is there already. */
export class AlreadyExistsError extends StoreError {}
/** The call would undo a write that it does not know of, or has no single answer. Has `current`. */
export class ConflictError extends StoreError {}
/** A file is damaged. Has `file` and `offset`. */
export class CorruptError extends StoreError {}
/** A file is sound, but holds a value that the typed form cannot; the text form can. Has `file` and `offset`. */
export class UnrepresentableError extends StoreError {}
/** A lock was held by somebody else until the deadline. */
export class LockedError extends StoreError {}
/** The file system has no working locks, and the call needs them. */
export class LocksUnavailableError extends StoreError {}
/** The store is read-only. */
export class ReadOnlyError extends StoreError {}
/** The database refused or did not answer. Has `sqlstate` and `retryable`. */
export class DatabaseError extends StoreError {}
/** No such directory or binding was granted. */
export class NotGrantedError extends StoreError {}
/** A query cannot be understood. Has `position`, in bytes. */
export class InvalidQueryError extends StoreError {}
/** A value is larger than the store takes in one piece. */
export class TooLargeError extends StoreError {}
/** The operating system reported an error. Has `file`, `operation`, `reason` and `outcomeUnknown`. */
export class IoError extends StoreError {}
/** The store's directory cannot be opened. Has `path` and `reason`. */
export class RootError extends StoreError {
  constructor(path, reason, options = undefined) {
    super('root', `cannot open the store ${path}: ${reason}`, { path, reason }, options);
  }
}
/** The plugin cannot be read. */
export class PluginMissingError extends StoreError {}
/** The file is no plugin: no component, or one that imports or exports something else. */
export class PluginWorldError extends StoreError {}
/** The plugin was made for another version of the contract. */
export class PluginVersionError extends StoreError {}
/** The store was closed. */
export class ClosedError extends StoreError {
  constructor(message = 'the store is closed') {
    super('closed', message);
  }
}
/** The component used more memory than there is. The store goes on with a fresh instance. */
export class LimitExceededError extends StoreError {
  constructor(what, options = undefined) {
    super('limit-exceeded', `the store's component exceeded its limit: ${what}`, {}, options);
  }
}
/** The component failed. The store goes on with a fresh instance; whether the call had an effect is not known. */
export class TrapError extends StoreError {
  constructor(what, options = undefined) {
    super('trap', `the store's component failed: ${what}`, {}, options);
  }
}
/** The host failed: the component cannot be loaded, linked or started. */
export class EngineError extends StoreError {
  constructor(what, options = undefined) {
    super('engine', `the store's component cannot be started: ${what}`, {}, options);
  }
}

/** The contract's cases. A case whose data is a text has no properties but its message. */
const CASES = {
  'invalid-name': [InvalidNameError, ({ kind, name }) => ({ kind, given: name })],
  'invalid-argument': [InvalidArgumentError],
  'not-found': [NotFoundError, ({ kind, name }) => ({ kind, missing: name })],
  'already-exists': [AlreadyExistsError],
  conflict: [ConflictError, ({ current }) => ({ current: current ?? null })],
  corrupt: [CorruptError, place],
  unrepresentable: [UnrepresentableError, place],
  locked: [LockedError],
  'locks-unavailable': [LocksUnavailableError],
  'read-only': [ReadOnlyError],
  database: [DatabaseError, ({ sqlstate, retryable }) => ({ sqlstate: sqlstate ?? null, retryable })],
  'not-granted': [NotGrantedError],
  'invalid-query': [InvalidQueryError, ({ position }) => ({ position })],
  'too-large': [TooLargeError],
  io: [IoError, ({ file, operation, code, outcomeUnknown }) => ({ file, operation, reason: code, outcomeUnknown })],
};

function place({ file, offset }) {
  return { file, offset: offset === undefined ? null : Number(offset) };
}

/** The one place that converts the contract's errors. */
export function fromWire({ tag, val }) {
  const known = CASES[tag];
  if (known === undefined) {
    return new EngineError(`it reports an error of an unknown kind, ${tag}; it belongs to another version`);
  }
  const [Kind, data] = known;
  return typeof val === 'string' ? new Kind(tag, val) : new Kind(tag, val.message, data(val));
}

/** Makes the error of an argument of a wrong type: the language's own kind, with the code that every host has. */
export function wrongType(message) {
  return Object.assign(new TypeError(message), { code: 'invalid-argument' });
}
