// Store configurations: values, whose methods return changed copies. Nothing is opened before `connect`.

import * as fs from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { wrongType } from './errors.js';
import { Grant } from './grant.js';
import { Instance } from './instance.js';
import { Pool } from './postgres/pool.js';
import { Store } from './store.js';
import * as values from './values.js';

/** Makes a path absolute: links resolved as far as it exists, the rest as it is. */
function absolute(path) {
  if (path instanceof URL) {
    return absolute(fileURLToPath(path));
  }
  const whole = resolve(values.text('the root', path));
  for (let existing = whole; ; existing = dirname(existing)) {
    try {
      return join(fs.realpathSync(existing), relative(existing, whole));
    } catch (error) {
      if (existing === dirname(existing)) {
        return whole;
      }
    }
  }
}

/** Calls a function of a short-lived instance. */
function brief(grant, call) {
  const instance = new Instance(grant);
  try {
    return instance.call(call);
  } finally {
    instance.end();
  }
}

const ACCESS = ['read-write', 'read-only'];
const DURABILITY = ['full', 'relaxed'];

function oneOf(what, value, known) {
  if (!known.includes(value)) {
    throw wrongType(`${what} should be one of ${known.join(', ')}, not ${JSON.stringify(value) ?? String(value)}`);
  }
  return value;
}

const COMMON = ['root', 'experimentId', 'access', 'durability', 'lockTimeoutMs'];

/** What the configurations of all backends have. */
export class StoreConfig {
  #root;
  #scopes;
  #access;
  #durability;
  #lockTimeoutMs;

  constructor({ root, experimentId, access = 'read-write', durability = 'full', lockTimeoutMs = 30_000 }, scopes) {
    this.#root = absolute(root);
    // Whether scoping twice makes sense is the component's to say.
    this.#scopes = [experimentId, ...(scopes ?? [])].filter((scope) => scope !== undefined && scope !== null).map((scope) => values.text('experimentId', scope));
    this.#access = oneOf('access', access, ACCESS);
    this.#durability = oneOf('durability', durability, DURABILITY);
    this.#lockTimeoutMs = values.u32('lockTimeoutMs', lockTimeoutMs);
  }

  get root() {
    return this.#root;
  }

  /** The experiment that it is limited to, or null. */
  get experimentId() {
    return this.#scopes.find((scope) => scope !== '') ?? null;
  }

  get isScoped() {
    return this.experimentId !== null;
  }

  get access() {
    return this.#access;
  }

  get durability() {
    return this.#durability;
  }

  get lockTimeoutMs() {
    return this.#lockTimeoutMs;
  }

  /** What another configuration of the same kind is made of. */
  _settings() {
    return { root: this.#root, access: this.#access, durability: this.#durability, lockTimeoutMs: this.#lockTimeoutMs };
  }

  get _scopes() {
    return this.#scopes;
  }

  with(changes) {
    values.object('the changes', changes);
    const scopes = 'experimentId' in changes ? [] : this.#scopes;
    return new this.constructor({ ...this._settings(), ...changes }, scopes);
  }

  scoped(experimentId) {
    return new this.constructor(this._settings(), [...this.#scopes, values.text('experimentId', experimentId)]);
  }

  forExperiment(experimentId) {
    return this.scoped(experimentId);
  }

  readOnly() {
    return this.with({ access: 'read-only' });
  }

  /** The configuration as the component takes it, scoped by the component. */
  #wire({ config }) {
    let wire = {
      backend: this._backend(),
      root: this.#root,
      experimentId: undefined,
      access: this.#access,
      durability: this.#durability,
      lockTimeoutMs: this.#lockTimeoutMs,
    };
    for (const scope of this.#scopes) {
      wire = config.scoped(wire, scope);
    }
    return wire;
  }

  connect() {
    // The file that says where a service is lies in the collection: only the short-lived instance that looks for it
    // sees it.
    const looked = this._backend().tag !== 'file' && fs.statSync(this.#root, { throwIfNoEntry: false })?.isDirectory();
    const view = looked ? new Grant({ root: this.#root, writable: false }) : null;
    let resolution;
    try {
      resolution = brief(view, (instance) => instance.config.resolve(this.#wire(instance)));
    } finally {
      view?.close();
    }
    const { subdirectory, options, connection, warnings } = resolution;
    const grant = new Grant({ root: this.#root, subdirectory, writable: this.#access === 'read-write' });
    const bindings = new Map();
    if (options.index !== undefined && connection !== undefined) {
      try {
        bindings.set(options.index.binding, new Pool(connection));
      } catch (error) {
        grant.close();
        throw error;
      }
    }
    return new Store(this, grant, options, bindings, warnings);
  }

  listExperiments() {
    // What is there and cannot be opened is an error, not an empty collection.
    const grant = fs.existsSync(this.#root) ? new Grant({ root: this.#root, writable: false }) : null;
    try {
      const { experiments, damaged } = brief(grant, (instance) => instance.config.listExperiments(this.#wire(instance)));
      return { experiments, damaged: values.damageTo(damaged) };
    } finally {
      grant?.close();
    }
  }
}

/** The configuration of a store of files. */
export class FileStoreConfig extends StoreConfig {
  constructor(settings, scopes = undefined) {
    super(values.object('the configuration', settings, COMMON), scopes);
  }

  _backend() {
    return { tag: 'file' };
  }
}

const POSTGRES = ['connectionString', 'schema', 'autoMigrate', 'connectTimeoutMs', 'poolMinSize', 'poolMaxSize', 'projection'];

/** The configuration of a store of files with PostgreSQL as its query index. */
export class PostgresStoreConfig extends StoreConfig {
  // Private, so that printing the configuration does not show the password that the connection string may hold.
  #postgres;

  constructor(settings, scopes = undefined) {
    super(values.object('the configuration', settings, [...COMMON, ...POSTGRES]), scopes);
    this.#postgres = {
      connectionString: values.text('connectionString', settings.connectionString),
      schema: values.text('schema', settings.schema ?? 'public'),
      autoMigrate: values.boolean('autoMigrate', settings.autoMigrate ?? true),
      connectTimeoutMs: values.u32('connectTimeoutMs', settings.connectTimeoutMs ?? 10_000),
      poolMinSize: values.u32('poolMinSize', settings.poolMinSize ?? 1),
      poolMaxSize: values.u32('poolMaxSize', settings.poolMaxSize ?? 2),
      projection: values.boolean('projection', settings.projection ?? true),
    };
  }

  _settings() {
    return { ...super._settings(), ...this.#postgres };
  }

  _backend() {
    return { tag: 'postgres', val: this.#postgres };
  }

  get schema() {
    return this.#postgres.schema;
  }

  /** The configuration of the same files without the database. */
  toFilestore() {
    return new FileStoreConfig(super._settings(), this._scopes);
  }

  /** Opens the files of a configuration with a database, and indexes those that are there. */
  static fromFilestore(connectionString, files, settings = {}) {
    const config = new PostgresStoreConfig({ ...files._settings(), ...settings, connectionString }, files._scopes);
    const store = config.connect();
    try {
      store.rebuildIndex();
    } catch (error) {
      store.close();
      throw error;
    }
    return store;
  }
}

/** Splits a locator into its parts. */
export function parseLocator(locator) {
  const given = values.text('the locator', locator);
  const parsed = brief(null, ({ config }) => config.parseLocator(given));
  const { scheme, path, host = null, port = null, user = null, password = null, parameters } = parsed;
  return { scheme, path, host, port, user, password, parameters };
}

/** Makes a configuration from a locator, for instance `./experiments`. */
export function parseToConfig(locator) {
  const given = values.text('the locator', locator);
  const { backend, root, experimentId, access, durability, lockTimeoutMs } = brief(null, ({ config }) => config.fromLocator(given));
  const settings = { root, experimentId, access, durability, lockTimeoutMs };
  return backend.tag === 'file' ? new FileStoreConfig(settings) : new PostgresStoreConfig({ ...settings, ...backend.val });
}

/** Opens the store that a locator names. */
export function openStore(locator) {
  return parseToConfig(locator).connect();
}
