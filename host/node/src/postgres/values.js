// Values of the contract and of the protocol, which is text here: the server converts a parameter to the type that
// the statement has in its place.

import { failure } from './failure.js';

/** The bytes that a value weighs besides its content. */
const BASE = 16;

const MICROS = 1_000_000n;
const DAY = 86_400n * MICROS;

/** Returns the text of a time in microseconds since 1970, as PostgreSQL reads it. */
function timeText(micros) {
  const fraction = ((micros % MICROS) + MICROS) % MICROS;
  const date = new Date(Number((micros - fraction) / 1000n));
  if (Number.isNaN(date.getTime())) {
    throw failure('unsupported-type', `the time ${micros} is out of range`);
  }
  const year = date.getUTCFullYear();
  const pad = (number, width = 2) => String(number).padStart(width, '0');
  const day = `${pad(year > 0 ? year : 1 - year, 4)}-${pad(date.getUTCMonth() + 1)}-${pad(date.getUTCDate())}`;
  const time = `${pad(date.getUTCHours())}:${pad(date.getUTCMinutes())}:${pad(date.getUTCSeconds())}.${pad(fraction, 6)}`;
  return `${day} ${time}+00${year > 0 ? '' : ' BC'}`;
}

const TIME = /^(\d{4,})-(\d\d)-(\d\d) (\d\d):(\d\d):(\d\d)(?:\.(\d{1,6}))?\+00( BC)?$/;

/** Reads a time that the server printed, in UTC. */
function readTime(text) {
  const found = TIME.exec(text);
  if (found === null) {
    throw new Error(`it is ${text}`);
  }
  const [, year, month, day, hour, minute, second, fraction = '', before] = found;
  const date = new Date(0);
  date.setUTCFullYear(before === undefined ? Number(year) : 1 - Number(year), Number(month) - 1, Number(day));
  if (Number.isNaN(date.getTime())) {
    throw new Error('it is out of range');
  }
  const days = BigInt(date.getTime() / 86_400_000);
  const seconds = BigInt(Number(hour) * 3600 + Number(minute) * 60 + Number(second));
  return days * DAY + seconds * MICROS + BigInt(fraction.padEnd(6, '0'));
}

function arrayText(items) {
  const item = (text) => (text === undefined || text === null ? 'NULL' : `"${text.replace(/["\\]/g, '\\$&')}"`);
  return `{${items.map(item).join(',')}}`;
}

/** Reads a list of texts that the server printed. */
function readArray(text) {
  if (!text.startsWith('{')) {
    throw new Error('its indexes do not begin with 1');
  }
  const items = [];
  const pattern = /[{,](?:"((?:[^"\\]|\\[^])*)"|([^"{},\\]+))/y;
  let at = 0;
  while (text[at] !== '}' && text !== '{}') {
    pattern.lastIndex = at;
    const found = pattern.exec(text);
    if (found === null) {
      throw new Error('it has more than one dimension');
    }
    const [, quoted, bare] = found;
    items.push(quoted === undefined ? (bare === 'NULL' ? undefined : bare) : quoted.replace(/\\([^])/g, '$1'));
    at = pattern.lastIndex;
  }
  return items;
}

function floatText(value) {
  return Object.is(value, -0) ? '-0' : String(value);
}

/** Returns a parameter as the driver takes it: text, bytes or nothing. */
export function parameter({ tag, val }) {
  switch (tag) {
    case 'null':
      return null;
    case 'boolean':
      return val ? 't' : 'f';
    case 'integer':
      return val.toString();
    case 'float':
      return floatText(val);
    case 'timestamp':
      return timeText(val);
    case 'bytes':
      return Buffer.from(val);
    case 'text-array':
      return arrayText(val);
    default:
      return val;
  }
}

/** How the text of a column is read, by the number of its type. */
const READERS = new Map([
  [16, (text) => ({ tag: 'boolean', val: text === 't' })],
  ...[20, 21, 23].map((type) => [type, (text) => ({ tag: 'integer', val: BigInt(text) })]),
  ...[700, 701].map((type) => [type, (text) => ({ tag: 'float', val: Number(text) })]),
  ...[25, 19, 705, 1042, 1043].map((type) => [type, (text) => ({ tag: 'text', val: text })]),
  [17, (text) => ({ tag: 'bytes', val: new Uint8Array(Buffer.from(text.slice(2), 'hex')) })],
  ...[114, 3802].map((type) => [type, (text) => ({ tag: 'json', val: text })]),
  [1184, (text) => ({ tag: 'timestamp', val: readTime(text) })],
  ...[1003, 1009, 1015].map((type) => [type, (text) => ({ tag: 'text-array', val: readArray(text) })]),
]);

/** Reads a value of a row. */
export function read(text, { name, dataTypeID }) {
  if (text === null) {
    return { tag: 'null' };
  }
  const reader = READERS.get(dataTypeID);
  if (reader === undefined) {
    throw failure('unsupported-type', `the column ${JSON.stringify(name)} is of type ${dataTypeID}, which has no value here; cast it in the statement`);
  }
  try {
    return reader(text);
  } catch (error) {
    throw failure('unsupported-type', `the column ${JSON.stringify(name)} cannot be read: ${error.message}`);
  }
}

/** Returns how many bytes a value weighs, about. */
export function weight({ tag, val }) {
  switch (tag) {
    case 'text':
    case 'json':
      return BASE + Buffer.byteLength(val);
    case 'bytes':
      return BASE + val.byteLength;
    case 'text-array':
      return val.reduce((sum, item) => sum + BASE + (item === undefined ? 0 : Buffer.byteLength(item)), BASE);
    default:
      return BASE;
  }
}
