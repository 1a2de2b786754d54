// The little that is to be known of WebAssembly's binary format.

/** The section of a module that says which memories it has. */
const MEMORY_SECTION = 5;
const PAGE = 65_536;
/** A memory's flag that it has a greatest size, and those that memories of a component's modules do not have. */
const HAS_MAXIMUM = 1;
const OTHER_FLAGS = ~HAS_MAXIMUM;

function readNumber(bytes, at) {
  let value = 0;
  for (let shift = 0; ; shift += 7) {
    const byte = bytes[at++];
    if (byte === undefined || shift > 28) {
      throw new RangeError('a number in the module is cut off');
    }
    value += (byte & 0x7f) * 2 ** shift;
    if (byte < 0x80) {
      return { value, at };
    }
  }
}

function number(value) {
  const bytes = [];
  do {
    const more = value >= 0x80;
    bytes.push((value % 0x80) | (more ? 0x80 : 0));
    value = Math.floor(value / 0x80);
  } while (value > 0);
  return bytes;
}

/**
 * Returns a core module whose own memories may have at most so many bytes: a runtime of JavaScript has no other limit.
 *
 * @param {Uint8Array} module
 * @param {number} most
 */
export function limitMemory(module, most) {
  const pages = Math.max(1, Math.floor(most / PAGE));
  for (let at = 8; at < module.length; ) {
    const id = module[at];
    const size = readNumber(module, at + 1);
    const end = size.at + size.value;
    if (id !== MEMORY_SECTION) {
      at = end;
      continue;
    }
    const count = readNumber(module, size.at);
    const body = number(count.value);
    let inside = count.at;
    for (let memory = 0; memory < count.value; memory++) {
      const flags = readNumber(module, inside);
      if ((flags.value & OTHER_FLAGS) !== 0) {
        throw new RangeError('the module has a memory of an unknown kind');
      }
      const least = readNumber(module, flags.at);
      inside = least.at;
      let greatest = pages;
      if ((flags.value & HAS_MAXIMUM) !== 0) {
        const own = readNumber(module, inside);
        inside = own.at;
        greatest = Math.min(greatest, own.value);
      }
      body.push(HAS_MAXIMUM, ...number(least.value), ...number(Math.max(greatest, least.value)));
    }
    return Buffer.concat([module.subarray(0, at), Buffer.from([id, ...number(body.length), ...body]), module.subarray(end)]);
  }
  return module;
}
