// The contract's values and JavaScript's: plain objects with the same names.
//
// What the contract leaves open (parameters, metadata, result data, …) is JSON text there and values here, as `json.js`
// has them. What is absent is `null` in an answer, and may be left out in an argument.

import { Float, isFloat, noteFloat, parse, parseInto, put, stringify, stringifyFrom } from './json.js';
import { InvalidArgumentError, fromWire, wrongType } from './errors.js';

const MIN_S64 = -(2n ** 63n);
const MAX_S64 = 2n ** 63n - 1n;

/** Returns an integer of the contract as a number, or as a BigInt where a number cannot hold it. */
export function integer(value) {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}

function describe(value) {
  if (value === null) return 'null';
  if (Array.isArray(value)) return 'a list';
  return typeof value === 'object' ? 'an object' : `a ${typeof value}`;
}

/** Takes a text. WIT strings hold no lone surrogates, and nothing is replaced silently. */
export function text(what, value) {
  if (typeof value !== 'string') {
    throw wrongType(`${what} should be a string, not ${describe(value)}`);
  }
  if (!value.isWellFormed()) {
    throw new InvalidArgumentError('invalid-argument', `${what} holds a lone surrogate; in JSON text it can be escaped, as \\ud800`);
  }
  return value;
}

export function optionalText(what, value) {
  return value === undefined || value === null ? undefined : text(what, value);
}

/** Takes an integer of so many values, as a number or a BigInt, and returns it as a BigInt. */
export function wide(what, value, min, max) {
  const given = typeof value === 'number' && Number.isSafeInteger(value) ? BigInt(value) : value;
  if (typeof given !== 'bigint') {
    throw wrongType(`${what} should be an integer, not ${typeof value === 'number' ? value : describe(value)}`);
  }
  if (given < min || given > max) {
    throw new InvalidArgumentError('invalid-argument', `${what} is ${given}, which is not from ${min} to ${max}`);
  }
  return given;
}

export function u64(what, value) {
  return wide(what, value, 0n, 2n ** 64n - 1n);
}

export function u32(what, value) {
  return Number(wide(what, value, 0n, 2n ** 32n - 1n));
}

export function boolean(what, value) {
  if (typeof value !== 'boolean') {
    throw wrongType(`${what} should be true or false, not ${describe(value)}`);
  }
  return value;
}

export function list(what, value) {
  if (!Array.isArray(value)) {
    throw wrongType(`${what} should be a list, not ${describe(value)}`);
  }
  return value;
}

/** Takes an object, and refuses properties that it should not have: a misspelt one would be lost silently. */
export function object(what, value, known) {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw wrongType(`${what} should be an object, not ${describe(value)}`);
  }
  for (const key of known === undefined ? [] : Object.keys(value)) {
    if (!known.includes(key)) {
      throw wrongType(`${what} has a property ${JSON.stringify(key)}, which is none of ${known.join(', ')}`);
    }
  }
  return value;
}

/** Takes any JSON value and returns its text. */
function json(what, value) {
  try {
    return stringify(value);
  } catch (error) {
    throw wrongType(`${what}: ${error.message}`);
  }
}

/** As {@link json} for a property of this name. */
function jsonOf(name, holder) {
  try {
    return stringifyFrom(holder, name);
  } catch (error) {
    throw wrongType(`${name}: ${error.message}`);
  }
}

/** As {@link json} for what must be an object; absent, it is an empty one. */
function jsonObject(what, value) {
  return value === undefined || value === null ? '{}' : json(what, object(what, value));
}

// --- metrics ---------------------------------------------------------------------------------------------------------

function metricTo(holder, name, { tag, val }) {
  let value;
  let float = false;
  switch (tag) {
    case 'integer':
      value = integer(val);
      break;
    case 'big-integer':
      value = BigInt(val);
      break;
    case 'other':
      value = parse(val);
      break;
    default:
      value = val;
      float = tag === 'float' && Number.isSafeInteger(val) && !Object.is(val, -0);
  }
  put(holder, name, value);
  if (float) {
    noteFloat(holder, name);
  }
}

export function metricsTo(metrics) {
  const object = {};
  for (const { name, value } of metrics) {
    metricTo(object, name, value);
  }
  return object;
}

function metricFrom(holder, name) {
  const value = holder[name];
  switch (typeof value) {
    case 'boolean':
      return { tag: 'boolean', val: value };
    case 'bigint':
      return value >= MIN_S64 && value <= MAX_S64 ? { tag: 'integer', val: value } : { tag: 'big-integer', val: value.toString() };
    case 'number':
      return isFloat(value, holder, name) ? { tag: 'float', val: value } : { tag: 'integer', val: BigInt(value) };
    case 'string':
      return value.isWellFormed() ? { tag: 'text', val: value } : { tag: 'other', val: stringify(value) };
    default:
      if (value instanceof Float) {
        return { tag: 'float', val: value.value };
      }
      return { tag: 'other', val: json(`the metric ${JSON.stringify(name)}`, value) };
  }
}

export function metricsFrom(metrics) {
  object('metrics', metrics);
  return Object.keys(metrics)
    .filter((name) => metrics[name] !== undefined)
    .map((name) => ({ name: text('the name of a metric', name), value: metricFrom(metrics, name) }));
}

// --- records ---------------------------------------------------------------------------------------------------------

const STATUSES = ['success', 'failed', 'cancelled', 'running'];
const RECORD = [
  'runId', 'experimentId', 'status', 'contextFingerprint', 'paramsFingerprint', 'seedFingerprint', 'startedAt', 'finishedAt',
  'durationMs', 'metrics', 'provenance', 'error', 'paramsResolved', 'tags', 'warnings', 'notes', 'artifacts', 'schemaVersion',
  'unknown',
];
const PROVENANCE = ['codeHash', 'pythonVersion', 'metalabVersion', 'executorId', 'host', 'extra', 'unknown'];
const DESCRIPTOR = ['artifactId', 'name', 'kind', 'format', 'uri', 'contentHash', 'sizeBytes', 'metadata', 'unknown'];
const RESULT = ['data', 'dtype', 'shape', 'metadata', 'unknown'];

export function recordTo(record) {
  const { provenance } = record;
  return {
    runId: record.runId,
    experimentId: record.experimentId,
    status: record.status,
    contextFingerprint: record.contextFingerprint,
    paramsFingerprint: record.paramsFingerprint,
    seedFingerprint: record.seedFingerprint,
    startedAt: record.startedAt ?? null,
    finishedAt: record.finishedAt ?? null,
    durationMs: integer(record.durationMs),
    metrics: metricsTo(record.metrics),
    provenance: {
      codeHash: provenance.codeHash ?? null,
      pythonVersion: provenance.pythonVersion ?? null,
      metalabVersion: provenance.metalabVersion ?? null,
      executorId: provenance.executorId ?? null,
      host: provenance.host ?? null,
      extra: parse(provenance.extra),
      unknown: parse(provenance.unknown),
    },
    error: record.error === undefined ? null : parse(record.error),
    paramsResolved: parse(record.paramsResolved),
    tags: record.tags,
    warnings: record.warnings.map(parse),
    notes: record.notes ?? null,
    artifacts: record.artifacts.map(descriptorTo),
    schemaVersion: record.schemaVersion,
    unknown: parse(record.unknown),
  };
}

export function recordFrom(record) {
  object('the record', record, RECORD);
  const provenance = object("the record's provenance", record.provenance ?? {}, PROVENANCE);
  if (!STATUSES.includes(record.status)) {
    throw wrongType(`the record's status should be one of ${STATUSES.join(', ')}, not ${JSON.stringify(record.status) ?? describe(record.status)}`);
  }
  const texts = (of, names) => Object.fromEntries(names.map((name) => [name, optionalText(name, of[name])]));
  return {
    ...texts(record, ['startedAt', 'finishedAt', 'notes']),
    runId: text('runId', record.runId),
    experimentId: text('experimentId', record.experimentId ?? ''),
    status: record.status,
    contextFingerprint: text('contextFingerprint', record.contextFingerprint ?? ''),
    paramsFingerprint: text('paramsFingerprint', record.paramsFingerprint ?? ''),
    seedFingerprint: text('seedFingerprint', record.seedFingerprint ?? ''),
    durationMs: wide('durationMs', record.durationMs ?? 0, MIN_S64, MAX_S64),
    metrics: metricsFrom(record.metrics ?? {}),
    provenance: {
      ...texts(provenance, ['codeHash', 'pythonVersion', 'metalabVersion', 'executorId', 'host']),
      extra: jsonObject('provenance.extra', provenance.extra),
      unknown: jsonObject('provenance.unknown', provenance.unknown),
    },
    error: record.error === undefined || record.error === null ? undefined : json('error', record.error),
    paramsResolved: jsonObject('paramsResolved', record.paramsResolved),
    tags: list('tags', record.tags ?? []).map((tag) => text('a tag', tag)),
    warnings: list('warnings', record.warnings ?? []).map((warning) => json('a warning', warning)),
    artifacts: list('artifacts', record.artifacts ?? []).map(descriptorFrom),
    schemaVersion: text('schemaVersion', record.schemaVersion ?? ''),
    unknown: jsonObject('unknown', record.unknown),
  };
}

export function descriptorTo(descriptor) {
  return {
    artifactId: descriptor.artifactId,
    name: descriptor.name,
    kind: descriptor.kind,
    format: descriptor.format,
    uri: descriptor.uri,
    contentHash: descriptor.contentHash ?? null,
    sizeBytes: descriptor.sizeBytes === undefined ? null : integer(descriptor.sizeBytes),
    metadata: parse(descriptor.metadata),
    unknown: parse(descriptor.unknown),
  };
}

export function descriptorFrom(descriptor) {
  object('the descriptor', descriptor, DESCRIPTOR);
  const { sizeBytes } = descriptor;
  return {
    artifactId: text('artifactId', descriptor.artifactId),
    name: text('the name of the artifact', descriptor.name),
    kind: text('kind', descriptor.kind),
    format: text('format', descriptor.format),
    uri: text('uri', descriptor.uri ?? ''),
    contentHash: optionalText('contentHash', descriptor.contentHash),
    sizeBytes: sizeBytes === undefined || sizeBytes === null ? undefined : u64('sizeBytes', sizeBytes),
    metadata: jsonObject('metadata', descriptor.metadata),
    unknown: jsonObject('unknown', descriptor.unknown),
  };
}

export function resultTo(result) {
  const read = {
    data: undefined,
    dtype: result.dtype ?? null,
    shape: result.shape === undefined ? null : Array.from(result.shape, integer),
    metadata: parse(result.metadata),
    unknown: parse(result.unknown),
  };
  parseInto(read, 'data', result.data);
  return read;
}

export function resultFrom(result) {
  object('the result', result, RESULT);
  const { shape } = result;
  return {
    data: jsonOf('data', result),
    dtype: optionalText('dtype', result.dtype),
    shape: shape === undefined || shape === null ? undefined : BigUint64Array.from(list('shape', shape), (side) => u64('a side of the shape', side)),
    metadata: jsonObject('metadata', result.metadata),
    unknown: jsonObject('unknown', result.unknown),
  };
}

export function manifestTo({ header, body }) {
  return { header, body: parse(body) };
}

export function bodyFrom(body) {
  return json('the manifest', object('the manifest', body));
}

export function damageTo(damage) {
  return damage.map(({ file, offset, reason }) => ({ file, offset: offset === undefined ? null : integer(offset), reason }));
}

export function derivedFrom(derived) {
  return metricsFrom(object('the derived metrics', derived));
}

/** Takes what a put requires: nothing, `'absent'`, or a revision. */
export function expectationFrom(expect) {
  if (expect === undefined || expect === null || expect === 'anything') {
    return { tag: 'anything' };
  }
  if (expect === 'absent') {
    return { tag: 'absent' };
  }
  return { tag: 'revision', val: text('expect', expect) };
}

/** Takes a uri, or a run and a name. */
export function referenceFrom(artifact) {
  if (typeof artifact === 'string') {
    return { tag: 'uri', val: text('the uri', artifact) };
  }
  const { uri, runId, name } = object('the artifact', artifact);
  if (runId === undefined && uri !== undefined) {
    return { tag: 'uri', val: text('the uri', uri) };
  }
  return { tag: 'name', val: [text('runId', runId), text('name', name)] };
}

const QUERY = ['filter', 'sort', 'columns', 'limit', 'cursor', 'check'];

export function queryFrom(query) {
  object('the query', query, QUERY);
  const { limit } = query;
  const columns = Array.isArray(query.columns) ? query.columns.join(', ') : query.columns;
  return {
    filter: text('filter', query.filter ?? ''),
    sort: text('sort', query.sort ?? ''),
    columns: text('columns', columns ?? ''),
    limit: limit === undefined || limit === null ? undefined : u32('limit', limit),
    cursor: optionalText('cursor', query.cursor),
    check: boolean('check', query.check ?? false),
  };
}

export function catalogueTo({ fields, complete, runs, damaged }) {
  return {
    fields: fields.map((field) => {
      const read = { field: field.field, types: field.types, runs: integer(field.runs), min: null, max: null, values: [], complete: field.complete };
      for (const bound of ['min', 'max']) {
        if (field[bound] !== undefined) {
          parseInto(read, bound, field[bound]);
        }
      }
      field.values.forEach((value, index) => parseInto(read.values, index, value));
      return read;
    }),
    complete,
    runs: integer(runs),
    damaged: damageTo(damaged),
  };
}

/** Returns what became of each record of a batch: its revision or its error. */
export function outcomesTo(outcomes) {
  return outcomes.map(({ tag, val }) => (tag === 'ok' ? { revision: val } : { error: fromWire(val) }));
}
