//! Mutations: those that any bytes may suffer, and tokens and numbers that formats trip over.

/// Numbers that a seed determines.
pub struct Numbers(u64);

impl Numbers {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below a limit that is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % (limit as u64)).unwrap()
    }

    pub fn pick<'i, T>(&mut self, items: &'i [T]) -> &'i T {
        &items[self.below(items.len())]
    }
}

/// What formats trip over, whatever the format.
const TOKENS: &[&[u8]] = &[
    b"\0",
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\xed\xa0\x80",
    b"\xc3",
    b"\xe2\x80\xae",
    b"\xef\xbb\xbf",
    b"/",
    b"\\",
    b"..",
    b"../",
    b"../../outside/secret",
    b"/etc/passwd",
    b".",
    b"./",
    b"//",
    b"%2e%2e%2f",
    b"%00",
    b"\r\n",
    b"\n",
    b"\t",
    b"\x1b[2J",
    b"\x7f",
    b"\"",
    b"'",
    b"''",
    b"\\\"",
    b"\\u0000",
    b"\\ud800",
    b"\\udc00\\ud800",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"{\"a\":",
    b"[[[[[[[[",
    b"null",
    b"true",
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"-0.0",
    b"0.1e-400",
    b"9223372036854775808",
    b"-9223372036854775809",
    b"18446744073709551616",
    b"00",
    b"--",
    b"/*",
    b";",
    b"$1",
    b"(",
    b")",
    b"and",
    b"or",
    b"not ",
    b"in (",
    b"between",
    b"like",
    b"now - 9999999999d",
    b"metrics.",
    b"params.\"",
    b"postgresql://",
    b"file://",
    b"@",
    b"?",
    b"&",
    b"=",
    b"#",
    b"[::1]",
    b":0",
    b":65536",
    b"sslmode=",
    b"password=",
    b"ustar",
    b"path=",
    b"\x28\xb5\x2f\xfd",
];

/// Numbers that lengths and places trip over.
pub const INTERESTING: &[u64] = &[
    0,
    1,
    2,
    7,
    8,
    15,
    16,
    127,
    128,
    255,
    256,
    511,
    512,
    4095,
    4096,
    0x7fff,
    0x8000,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fffe,
    0xffff_ffff,
    0x1_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_ffff_ffff_fffe,
    0xffff_ffff_ffff_ffff,
];

/// No input grows beyond this. What large inputs do is tested where the limits are.
const LARGEST: usize = 64 * 1024;

/// Changes an input in one to eight ways. `others` are inputs to take pieces from, `tokens` those of the format.
pub fn mutate(input: &mut Vec<u8>, others: &[Vec<u8>], tokens: &[&str], numbers: &mut Numbers) {
    for _ in 0..=numbers.below(8) {
        once(input, others, tokens, numbers);
        input.truncate(LARGEST);
    }
}

fn once(input: &mut Vec<u8>, others: &[Vec<u8>], tokens: &[&str], numbers: &mut Numbers) {
    let at = numbers.below(input.len() + 1);
    let length = numbers.below((input.len() - at).min(64) + 1);
    let range = at..at + length;
    match numbers.below(14) {
        0 if at < input.len() => input[at] ^= 1 << numbers.below(8),
        1 if at < input.len() => input[at] = numbers.next().to_le_bytes()[0],
        2 => drop(input.drain(range)),
        3 => input.truncate(at),
        4 => {
            let piece = input[range].to_vec();
            drop(input.splice(at..at, piece));
        }
        5 => {
            // The same piece often: nesting and lists.
            let piece = input[range].repeat(1 + numbers.below(200));
            drop(input.splice(at..at, piece));
        }
        6 => put(input, at, &numbers.pick(INTERESTING).to_le_bytes()),
        7 => {
            let [a, b, c, d, ..] = numbers.pick(INTERESTING).to_le_bytes();
            put(input, at, &[a, b, c, d]);
        }
        8 => {
            let digits = numbers.pick(INTERESTING).to_string();
            drop(input.splice(range, digits.into_bytes()));
        }
        9 => {
            let other = numbers.pick(others);
            let from = numbers.below(other.len() + 1);
            let to = from + numbers.below(other.len() - from + 1);
            drop(input.splice(range, other[from..to].iter().copied()));
        }
        10 | 11 if !tokens.is_empty() => {
            let token = numbers.pick(tokens).as_bytes();
            drop(input.splice(range, token.iter().copied()));
        }
        _ => {
            let token = *numbers.pick(TOKENS);
            drop(input.splice(range, token.iter().copied()));
        }
    }
}

/// Writes over what is there, as far as it is there.
pub fn put(input: &mut [u8], at: usize, bytes: &[u8]) {
    for (place, byte) in input.iter_mut().skip(at).zip(bytes) {
        *place = *byte;
    }
}
