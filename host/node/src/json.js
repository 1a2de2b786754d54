// JSON as the store has it: what Python's `json` module prints and reads.
//
// Numbers keep what they are. An integer beyond 2^53 is a BigInt; NaN and the infinities are numbers; -0.0 is -0. Whether a
// number without a fraction was written as a float (`1.0`) is remembered beside the object that holds it, so that
// what was read and is put back has the same text, and `new Float(1)` writes one.

/** A number that is written as a float, also without a fraction: `new Float(1)` is `1.0`. */
export class Float {
  /** @param {number} value */
  constructor(value) {
    this.value = Number(value);
    Object.freeze(this);
  }

  valueOf() {
    return this.value;
  }

  toJSON() {
    return this.value;
  }
}

/** Sets a property. Of the name `__proto__`, an assignment would not make one. */
export function put(holder, key, value) {
  if (key === '__proto__') {
    Object.defineProperty(holder, key, { value, enumerable: true, writable: true, configurable: true });
  } else {
    holder[key] = value;
  }
}

/** For objects and lists that were read: which of their numbers without a fraction are floats. */
const floats = new WeakMap();

/** Remembers that a number without a fraction is a float. */
export function noteFloat(holder, key) {
  let keys = floats.get(holder);
  if (keys === undefined) {
    keys = new Map();
    floats.set(holder, keys);
  }
  keys.set(String(key), holder[key]);
}

/** Says whether this number was read as a float. Another number in its place was not. */
export function isNotedFloat(holder, key, value) {
  const keys = floats.get(holder);
  return keys !== undefined && Object.is(keys.get(String(key)), value);
}

/** Says whether a number is written as a float. Integers beyond 2^53 are BigInts here, so a number there is none. */
export function isFloat(value, holder, key) {
  return !Number.isSafeInteger(value) || Object.is(value, -0) || isNotedFloat(holder, key, value);
}

/** What JSON.parse would change: literals that it refuses, long integers, floats without a fraction or with an exponent. */
const UNUSUAL = /(?:^|[:[,\s])(?:-?(?:\d{16}|\d+\.0+(?!\d)|\d+(?:\.\d+)?[eE])|-0(?![\d.])|NaN|-?Infinity)/;

/**
 * Reads JSON text.
 *
 * @param {string} text
 * @returns {any}
 */
export function parse(text) {
  // What most of a record's open parts are.
  if (text === '{}') {
    return {};
  }
  return UNUSUAL.test(text) ? new Reader(text).whole() : JSON.parse(text);
}

/**
 * Reads JSON text into a property, so that it is remembered there if all of it is a float.
 *
 * @param {object} holder
 * @param {string | number} key
 * @param {string} text
 */
export function parseInto(holder, key, text) {
  const value = parse(text);
  put(holder, key, value);
  if (Number.isSafeInteger(value) && !Object.is(value, -0) && /[.eE]/.test(text)) {
    noteFloat(holder, key);
  }
}

const NUMBER = /-?(?:0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?/y;
const SPACE = /[ \t\n\r]*/y;
const LITERALS = [['null', null], ['true', true], ['false', false], ['NaN', NaN], ['Infinity', Infinity], ['-Infinity', -Infinity]];
const MAX_DEPTH = 1000;

class Reader {
  #text;
  #at = 0;
  #depth = 0;

  constructor(text) {
    this.#text = text;
  }

  whole() {
    const holder = [undefined];
    this.#value(holder, 0);
    if (this.#at < this.#text.length) {
      this.#fail();
    }
    return holder[0];
  }

  #fail() {
    throw new SyntaxError(`unexpected ${this.#at < this.#text.length ? 'text' : 'end'} at character ${this.#at} of JSON text`);
  }

  #space() {
    SPACE.lastIndex = this.#at;
    SPACE.test(this.#text);
    this.#at = SPACE.lastIndex;
  }

  #match(pattern) {
    pattern.lastIndex = this.#at;
    const found = pattern.exec(this.#text);
    if (found !== null) {
      this.#at = pattern.lastIndex;
    }
    return found;
  }

  #take(character) {
    if (this.#text[this.#at] !== character) {
      return false;
    }
    this.#at += 1;
    return true;
  }

  #string() {
    const start = this.#at;
    // The pattern cannot match a text of many megabytes at once; the end is looked for, and the rest checked by JSON.parse.
    let end = start + 1;
    for (;;) {
      end = this.#text.indexOf('"', end);
      if (end < 0) {
        this.#at = this.#text.length;
        this.#fail();
      }
      let slashes = 0;
      while (this.#text[end - 1 - slashes] === '\\') {
        slashes += 1;
      }
      end += 1;
      if (slashes % 2 === 0) {
        break;
      }
    }
    this.#at = end;
    return JSON.parse(this.#text.slice(start, end));
  }

  /** Reads a value into its place. */
  #value(holder, key) {
    this.#space();
    const value = this.#bare(holder, key);
    put(holder, key, value.value);
    if (value.float) {
      noteFloat(holder, key);
    }
    this.#space();
  }

  #bare() {
    switch (this.#text[this.#at]) {
      case '"':
        return { value: this.#string() };
      case '{':
        return { value: this.#nested(() => this.#object()) };
      case '[':
        return { value: this.#nested(() => this.#list()) };
      default:
        return this.#scalar();
    }
  }

  #nested(read) {
    this.#depth += 1;
    if (this.#depth > MAX_DEPTH) {
      throw new SyntaxError(`JSON text is nested deeper than ${MAX_DEPTH}`);
    }
    this.#at += 1;
    const value = read();
    this.#depth -= 1;
    return value;
  }

  #object() {
    const object = {};
    this.#space();
    if (this.#take('}')) {
      return object;
    }
    do {
      this.#space();
      if (this.#text[this.#at] !== '"') {
        this.#fail();
      }
      const key = this.#string();
      this.#space();
      if (!this.#take(':')) {
        this.#fail();
      }
      this.#value(object, key);
    } while (this.#take(','));
    if (!this.#take('}')) {
      this.#fail();
    }
    return object;
  }

  #list() {
    const list = [];
    this.#space();
    if (this.#take(']')) {
      return list;
    }
    do {
      this.#value(list, list.length);
    } while (this.#take(','));
    if (!this.#take(']')) {
      this.#fail();
    }
    return list;
  }

  #scalar() {
    for (const [literal, value] of LITERALS) {
      if (this.#text.startsWith(literal, this.#at)) {
        this.#at += literal.length;
        return { value };
      }
    }
    const found = this.#match(NUMBER);
    if (found === null) {
      this.#fail();
    }
    const [text, fraction, exponent] = found;
    const value = Number(text);
    if (fraction === undefined && exponent === undefined) {
      // The integer -0 is 0.
      return { value: Number.isSafeInteger(value) ? value + 0 : BigInt(text) };
    }
    return { value, float: Number.isSafeInteger(value) && !Object.is(value, -0) };
  }
}

function floatText(value) {
  if (Object.is(value, -0)) {
    return '-0.0';
  }
  const text = String(value);
  return /^-?\d+$/.test(text) ? `${text}.0` : text;
}

/**
 * Writes a value as JSON text: as `JSON.stringify` does, but for numbers.
 *
 * @param {any} value
 * @returns {string}
 */
export function stringify(value) {
  return stringifyFrom({ '': value }, '');
}

/**
 * Writes a property as JSON text.
 *
 * @param {object} holder
 * @param {string | number} key
 */
export function stringifyFrom(holder, key) {
  const value = holder[key];
  const text = print(holder, key, value, 0);
  if (text === undefined) {
    throw new TypeError(`a ${typeof value} is not a JSON value`);
  }
  return text;
}

function print(holder, key, given, depth) {
  let value = given;
  if (value instanceof Float) {
    return floatText(value.value);
  }
  if (typeof value?.toJSON === 'function') {
    value = value.toJSON(String(key));
  }
  switch (typeof value) {
    case 'bigint':
      return value.toString();
    case 'number':
      return isFloat(value, holder, key) ? floatText(value) : String(value);
    case 'string':
    case 'boolean':
      return JSON.stringify(value);
    case 'object':
      break;
    default:
      return undefined;
  }
  if (value === null) {
    return 'null';
  }
  if (depth > MAX_DEPTH) {
    throw new TypeError(`the value is nested deeper than ${MAX_DEPTH}, or holds itself`);
  }
  if (value instanceof Number || value instanceof String || value instanceof Boolean) {
    return print(holder, key, value.valueOf(), depth);
  }
  if (Array.isArray(value)) {
    const items = Array.from(value, (item, index) => print(value, index, item, depth + 1) ?? 'null');
    return `[${items.join(',')}]`;
  }
  if (ArrayBuffer.isView(value) && !(value instanceof DataView)) {
    // Numbers of a typed array are all of one type.
    const float = value instanceof Float32Array || value instanceof Float64Array;
    return `[${Array.from(value, (item) => (float ? floatText(item) : String(item))).join(',')}]`;
  }
  const members = [];
  for (const name of Object.keys(value)) {
    const text = print(value, name, value[name], depth + 1);
    if (text !== undefined) {
      members.push(`${JSON.stringify(name)}:${text}`);
    }
  }
  return `{${members.join(',')}}`;
}
