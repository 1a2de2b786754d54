// Verifying a store, repairing what has one right answer, and removing what dead writers left. All rules are the
// component's; `docs/verify.md` says what they are. This opens the stores of a collection's experiments one after the other
// where they are to be changed: an instance of the component can lock the runs of its own directory alone.

import { relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { StoreConfig, parseToConfig } from './config.js';
import { AlreadyExistsError, IoError, ReadOnlyError, StoreError, wrongType } from './errors.js';
import { Store, raw } from './store.js';
import * as values from './values.js';

/** How long a file must not have changed to be garbage, in seconds. */
const GRACE = 86_400;

function configOf(given) {
  if (given instanceof Store) {
    return given.config;
  }
  if (given instanceof StoreConfig) {
    return given;
  }
  return parseToConfig(given instanceof URL ? fileURLToPath(given) : values.text('the store', given));
}

/** Opens a store for a while. */
function using(store, work) {
  try {
    return work(store);
  } finally {
    store.close();
  }
}

/**
 * Opens a store to write; to read where that is not allowed, or where something lies in the place of one of its
 * directories: then it is a finding.
 */
function writerOrReader(config) {
  try {
    return config.connect();
  } catch (error) {
    const refused = error instanceof ReadOnlyError || error instanceof AlreadyExistsError || (error instanceof IoError && error.reason === 'access');
    if (!refused) {
      throw error;
    }
    return config.readOnly().connect();
  }
}

function within(directory, file) {
  return [directory, file].filter((part) => part !== '').join('/');
}

/** Makes steps of a resource until the last, and takes what was found after each. Returns its report. */
function steps(store, begin, { take, progress }) {
  const resource = raw(store).open(begin);
  try {
    for (;;) {
      const step = resource.call((handle) => handle.step());
      take(resource);
      if (step === undefined) {
        return resource.call((handle) => handle.report());
      }
      progress(step);
    }
  } finally {
    resource.drop();
  }
}

function notOpened(experiment, error) {
  return `the store of experiment ${JSON.stringify(experiment)} cannot be opened: ${error.message}`;
}

function add(report, part, names) {
  for (const name of names) {
    report[name] += Number(part[name]);
  }
}

const COUNTS = ['runs', 'files', 'bytes', 'fresh', 'replaced', 'damage', 'warnings', 'orphans', 'leftovers', 'repaired'];

/** Verifies stores one after the other, and adds up what was found. */
class Verification {
  report = { ...Object.fromEntries(COUNTS.map((name) => [name, 0])), digests: [], findings: [] };
  #onProgress;
  #onFinding;

  constructor({ onProgress, onFinding }) {
    this.#onProgress = onProgress;
    this.#onFinding = onFinding;
  }

  /** Tells of a directory that cannot be verified. */
  unverified(file, reason, wayOut) {
    this.report.damage += 1;
    this.#tell({ severity: 'damage', kind: 'unreadable', file, runId: null, reason, wayOut, repaired: null });
  }

  #tell(finding) {
    this.report.findings.push(finding);
    this.#onFinding?.(finding);
  }

  run(store, directory, options) {
    const before = this.report.bytes;
    const part = steps(store, (handle, { maintenance }) => maintenance.verify(handle, options), {
      take: (resource) => {
        for (const { severity, kind, file, runId = null, reason, wayOut, repaired = null } of resource.call((handle) => handle.findings())) {
          this.#tell({ severity, kind, file: within(directory, file), runId, reason, wayOut, repaired });
        }
      },
      progress: ({ directory: below, phase, done, total, bytes }) => {
        this.#onProgress?.({ directory: within(directory, below), phase, done: Number(done), total: Number(total), bytes: before + Number(bytes) });
      },
    });
    add(this.report, part, COUNTS);
    for (const { experimentId, runs, digest } of part.digests) {
      this.report.digests.push({ experimentId, runs: Number(runs), digest });
    }
  }
}

/** Reads every file of a store, of a collection all of it, and says what is not as it should be. */
export function verify(store, options = {}) {
  const given = values.object('the options', options, ['repair', 'onProgress', 'onFinding']);
  const repair = values.boolean('repair', given.repair ?? false);
  const config = configOf(store);
  const work = new Verification(given);
  // What does not exist is not made.
  config.readOnly().connect().close();
  if (config.isScoped || !repair) {
    using(repair ? config.connect() : writerOrReader(config), (opened) => work.run(opened, '', { repair, below: true }));
    return work.report;
  }
  const { experiments, damaged } = config.listExperiments();
  for (const experiment of experiments) {
    let opened;
    try {
      opened = config.scoped(experiment).connect();
    } catch (error) {
      if (!(error instanceof StoreError)) throw error;
      work.unverified(experiment, notOpened(experiment, error), 'open it by itself when that is put right');
      continue;
    }
    using(opened, () => work.run(opened, relative(config.root, opened.getWorkingDirectory()), { repair, below: false }));
  }
  for (const { file, reason } of damaged) {
    work.unverified(file, reason, 'restore its _meta.json, or move it away');
  }
  using(config.connect(), (opened) => work.run(opened, '', { repair, below: false }));
  return work.report;
}

/** Looks for what dead writers left in a store, in all of a collection, and removes it if told. */
export function collectGarbage(store, options = {}) {
  const given = values.object('the options', options, ['apply', 'graceSeconds', 'onProgress', 'onFound']);
  const apply = values.boolean('apply', given.apply ?? false);
  const grace = given.graceSeconds ?? GRACE;
  if (!Number.isSafeInteger(grace) || grace < 0) {
    throw wrongType(`graceSeconds should be an integer that is not negative, not ${String(grace)}`);
  }
  const config = configOf(store);
  const report = { files: 0, bytes: 0, keptFiles: 0, keptBytes: 0, unseen: 0, found: [] };
  const open = (scope) => (apply ? scope.connect() : writerOrReader(scope));
  const tell = (garbage) => {
    report.found.push(garbage);
    given.onFound?.(garbage);
  };
  const unseen = (file, reason) => {
    report.unseen += 1;
    tell({ kind: 'unreadable', file, bytes: 0, reason, kept: 'what is in it was not looked at' });
  };
  const collect = (store, directory) => using(store, (opened) => {
    const part = steps(opened, (handle, { maintenance }) => maintenance.collectGarbage(handle, { apply, graceSeconds: BigInt(grace) }), {
      take: (resource) => {
        for (const { kind, file, bytes, reason, kept = null } of resource.call((handle) => handle.found())) {
          tell({ kind, file: within(directory, file), bytes: Number(bytes), reason, kept });
        }
      },
      progress: ({ runs, total }) => given.onProgress?.({ directory, runs: Number(runs), total: Number(total) }),
    });
    add(report, part, ['files', 'bytes', 'keptFiles', 'keptBytes', 'unseen']);
  });
  // What does not exist is not made.
  config.readOnly().connect().close();
  const { experiments, damaged } = config.isScoped ? { experiments: [], damaged: [] } : config.listExperiments();
  for (const experiment of experiments) {
    let opened;
    try {
      opened = open(config.scoped(experiment));
    } catch (error) {
      if (!(error instanceof StoreError)) throw error;
      unseen(experiment, notOpened(experiment, error));
      continue;
    }
    collect(opened, relative(config.root, opened.getWorkingDirectory()));
  }
  for (const { file, reason } of damaged) {
    unseen(file, reason);
  }
  collect(open(config), '');
  return report;
}
