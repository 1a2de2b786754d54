// JSON as Python prints it, without a number changed.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Float, parse, stringify } from '../src/index.js';

const KEPT = [
  '1', '-7', '0', '1.0', '-0.0', '0.5', '-0.5', '9007199254740991', '9007199254740992', '-9007199254740993', '1180591620717411303424',
  '100000000000000000000.0', 'NaN', 'Infinity', '-Infinity', 'true', 'false', 'null', '""', '"NaN"', '"1.0, 2e5"', '[]', '{}',
  '[1,1.0,2]', '{"a":1.0,"b":[2.0,{"c":NaN}]}', '{"10":1,"a":2.0}', '{"__proto__":1}', '{"__proto__":1.0,"a":[NaN]}',
  '"\\ud800"', '"a\\"b\\\\"', '{"a\\"":1.0}', '["\\\\",1.0]',
];

test('what was read is written back as it was', () => {
  for (const text of KEPT) {
    // A number alone has no place where it could be remembered how it was written.
    const inside = `[${text}]`;
    assert.equal(stringify(parse(inside)), inside, text);
  }
});

test('white space is no matter', () => {
  assert.deepEqual(parse(' { "a" : [ 1.0 ,\n\tNaN ] } '), { a: [1, NaN] });
});

test('numbers are what they are', () => {
  assert.equal(parse('9007199254740993'), 9007199254740993n);
  assert.equal(parse('-0'), 0);
  assert.ok(Object.is(parse('-0'), 0));
  assert.ok(Object.is(parse('-0.0'), -0));
  assert.equal(parse('1e5'), 100000);
  assert.equal(stringify(parse('[1e5]')), '[100000.0]');
  assert.equal(stringify(parse('[1e-7]')), '[1e-7]');
  assert.equal(parse('1e400'), Infinity);
  assert.equal(stringify(1e300), '1e+300');
  assert.equal(stringify(1e20), '100000000000000000000.0');
});

test('a number that took the place of a float is what it is itself', () => {
  const read = parse('{"a":1.0,"b":2.0}');
  read.a = 3;
  assert.equal(stringify(read), '{"a":3,"b":2.0}');
});

test('a float can be written', () => {
  assert.equal(stringify({ a: new Float(1), b: [new Float(NaN)] }), '{"a":1.0,"b":[NaN]}');
  assert.equal(stringify(new Float64Array([1, 0.5])), '[1.0,0.5]');
  assert.equal(stringify(new BigInt64Array([2n ** 60n])), '[1152921504606846976]');
});

test('what has no JSON text is as in JSON.stringify', () => {
  assert.equal(stringify({ a: undefined, b: [undefined, () => 1], c: new Date(0) }), '{"b":[null,null],"c":"1970-01-01T00:00:00.000Z"}');
  assert.throws(() => stringify(undefined), TypeError);
  const loop = [];
  loop.push(loop);
  assert.throws(() => stringify(loop), TypeError);
});

test('what is no JSON text is refused, with the place', () => {
  for (const text of ['[NaN', '[NaN,]', '{"a":NaN', '{a:NaN}', '[1.0 2]', '[1.0]x', '[01.0]', '[NaNa]', '["\\x",NaN]', '[1.0,"', '[+Infinity,NaN]', '[1.0,nul]']) {
    assert.throws(() => parse(text), SyntaxError, text);
  }
  assert.throws(() => parse(`${'['.repeat(1001)}NaN${']'.repeat(1001)}`), SyntaxError);
});
