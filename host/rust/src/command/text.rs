//! Text for people: nothing in it can control a terminal, and no number in it is another one than stored.

use metalab_store::types::Status;

/// Returns a status as the format writes it.
pub(super) fn status(status: Status) -> &'static str {
    match status {
        Status::Success => "success",
        Status::Failed => "failed",
        Status::Cancelled => "cancelled",
        Status::Running => "running",
    }
}

/// Returns a text with everything escaped that controls a terminal, line feeds and tabs excepted.
pub(super) fn safe(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        let harmless = match character {
            '\n' | '\t' => true,
            // What changes the direction of a text makes it look like another one.
            '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => false,
            _ => !character.is_control(),
        };
        if harmless {
            safe.push(character);
        } else {
            safe.extend(character.escape_default());
        }
    }
    safe
}

/// Returns a text for one cell of a table, or one line.
pub(super) fn cell(text: &str) -> String {
    safe(text).replace('\n', "\\n").replace('\t', " ")
}

/// Returns a text of several lines, the later ones indented by so many spaces.
pub(super) fn indented(text: &str, spaces: usize) -> String {
    safe(text.trim_end()).replace('\n', &format!("\n{:spaces$}", ""))
}

/// Returns a time without the fraction of its seconds, and without the offset of UTC: a time that has no
/// offset counts as UTC.
pub(super) fn time(time: &str) -> String {
    let time = time.strip_suffix("+00:00").unwrap_or(time);
    let Some((seconds, rest)) = time.split_once(['.', ',']) else {
        return time.to_owned();
    };
    seconds.to_owned() + rest.trim_start_matches(|digit: char| digit.is_ascii_digit())
}

/// Returns a duration in milliseconds in a form that people read.
pub(super) fn duration(milliseconds: i64) -> String {
    let seconds = milliseconds / 1000;
    match milliseconds {
        ..1_000 => format!("{milliseconds} ms"),
        1_000..60_000 => format!("{seconds}.{} s", milliseconds % 1000 / 100),
        60_000..3_600_000 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// Returns a size in bytes in a form that people read.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut tenths = u128::from(bytes) * 10 / 1024;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// Follows JSON text byte by byte, as far as telling strings and nesting apart goes.
#[derive(Default)]
pub(super) struct Brackets {
    depth: i64,
    quoted: bool,
    escaped: bool,
}

impl Brackets {
    /// Takes a byte and says whether it lies outside of all strings and brackets.
    pub(super) fn take(&mut self, byte: u8) -> bool {
        match byte {
            _ if self.escaped => self.escaped = false,
            b'\\' if self.quoted => self.escaped = true,
            b'"' => self.quoted = !self.quoted,
            b'{' | b'[' if !self.quoted => self.depth += 1,
            b'}' | b']' if !self.quoted => self.depth -= 1,
            _ => {}
        }
        self.balanced()
    }

    /// Says whether everything that was opened is closed.
    pub(super) fn balanced(&self) -> bool {
        self.depth <= 0 && !self.quoted
    }
}

/// Returns the names and values of a JSON object's members, in their order: a value that is a string as its
/// text, any other as the JSON text it is. The object is trusted to be one.
///
/// The values may hold NaN and integers of any size, which no JSON library would leave alone.
pub(super) fn members(object: &str) -> Vec<(String, String)> {
    let inner = inside(object);
    let mut members = Vec::new();
    let mut brackets = Brackets::default();
    let (mut start, mut colon) = (0, None);
    let mut end_member = |start: usize, colon: &mut Option<usize>, end: usize| {
        if let Some(colon) = colon.take() {
            members.push((plain(&inner[start..colon]), plain(&inner[colon + 1..end])));
        }
    };
    for (at, byte) in inner.bytes().enumerate() {
        if brackets.take(byte) {
            match byte {
                b':' if colon.is_none() => colon = Some(at),
                b',' => {
                    end_member(start, &mut colon, at);
                    start = at + 1;
                }
                _ => {}
            }
        }
    }
    end_member(start, &mut colon, inner.len());
    members
}

/// Returns what stands between the braces of a JSON object.
pub(super) fn inside(object: &str) -> &str {
    let object = object.trim();
    object
        .strip_prefix('{')
        .and_then(|object| object.strip_suffix('}'))
        .unwrap_or_default()
        .trim()
}

/// Returns the text of a JSON string, and any other value as it is.
fn plain(value: &str) -> String {
    serde_json::from_str(value).unwrap_or_else(|_| value.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_text_controls_the_terminal() {
        assert_eq!(safe("a\u{1b}[31mb\r\u{7}c\n"), "a\\u{1b}[31mb\\r\\u{7}c\n");
        assert_eq!(safe("\u{9b}31m\u{202e}"), "\\u{9b}31m\\u{202e}");
        assert_eq!(cell("a\nb\tc"), "a\\nb c");
        assert_eq!(indented("a\n\u{1b}b\n", 2), "a\n  \\u{1b}b");
    }

    #[test]
    fn times_durations_and_sizes_are_short() {
        assert_eq!(time("2026-03-01T09:00:00.123456"), "2026-03-01T09:00:00");
        assert_eq!(
            time("2026-03-01T09:00:00.5+02:00"),
            "2026-03-01T09:00:00+02:00"
        );
        assert_eq!(time("2026-03-01T09:00:00.5+00:00"), "2026-03-01T09:00:00");
        assert_eq!(time("2026-03-01"), "2026-03-01");
        assert_eq!(duration(999), "999 ms");
        assert_eq!(duration(1_234), "1.2 s");
        assert_eq!(duration(61_000), "1 min 1 s");
        assert_eq!(duration(3_660_000), "1 h 1 min");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(5 << 30), "5.0 GiB");
    }

    #[test]
    fn members_of_an_object_keep_their_order_and_their_numbers() {
        let object = r#" {"b": NaN, "a:,\"": "x\u00e9\n,", "c": {"d": [1, 2]}, "e": 1180591620717411303424} "#;
        let members = members(object);
        let members: Vec<(&str, &str)> = members
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(
            members,
            [
                ("b", "NaN"),
                ("a:,\"", "xé\n,"),
                ("c", r#"{"d": [1, 2]}"#),
                ("e", "1180591620717411303424"),
            ]
        );
        assert!(super::members("{}").is_empty());
        assert!(super::members("").is_empty());
    }
}
