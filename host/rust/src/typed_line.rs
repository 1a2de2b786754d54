//! Reads run records that crossed as typed lines: `next-typed-lines` in `wit/store.wit` says what these are.
//!
//! Every key has its place there, so that it need only be looked for. What the lines say is the component's: of anything that
//! is not such a line this says nothing.

use crate::error::{Error, Result};
use crate::types::{ArtifactDescriptor, Metric, MetricValue, Provenance, RunRecord, Status};

/// Returns the records of some lines.
///
/// # Errors
/// [`Error::Trap`] if a line is none of a record.
pub(crate) fn read(lines: &str) -> Result<Vec<RunRecord>> {
    let mut reader = Reader { rest: lines };
    let mut records = Vec::new();
    while !reader.rest.is_empty() {
        records.push(reader.line().ok_or_else(|| {
            Error::Trap("the component returned records that are none".to_owned())
        })?);
    }
    Ok(records)
}

/// An object without entries, as text.
const EMPTY: &str = "{}";

struct Reader<'a> {
    rest: &'a str,
}

/// Where the text is another one, these return nothing.
impl<'a> Reader<'a> {
    /// Takes a text that has to be next.
    fn take(&mut self, text: &str) -> Option<()> {
        self.rest = self.rest.strip_prefix(text)?;
        Some(())
    }

    /// Takes a text if it is next.
    fn took(&mut self, text: &str) -> bool {
        self.take(text).is_some()
    }

    fn next(&self) -> Option<u8> {
        self.rest.as_bytes().first().copied()
    }

    /// Takes so many bytes.
    fn piece(&mut self, length: usize) -> Option<&'a str> {
        let (piece, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(piece)
    }

    /// Takes a string as it is written, with its quotes, and what it says; nothing if it has a lone surrogate.
    fn written(&mut self) -> Option<(&'a str, Option<String>)> {
        let (end, escaped) = string_end(self.rest.as_bytes(), 0)?;
        let written = self.piece(end)?;
        let content = match escaped {
            true => serde_json::from_str(written).ok(),
            false => written.get(1..end - 1).map(str::to_owned),
        };
        Some((written, content))
    }

    fn string(&mut self) -> Option<String> {
        self.written()?.1
    }

    /// Takes a string, or null.
    fn optional(&mut self) -> Option<Option<String>> {
        if self.took("null") {
            return Some(None);
        }
        self.string().map(Some)
    }

    /// Takes what number, truth value or null there is.
    fn word(&mut self) -> Option<&'a str> {
        let end = self.rest.find([',', '}', ']'])?;
        self.piece(end)
    }

    /// Takes any value, as it is written.
    fn raw(&mut self) -> Option<&'a str> {
        let bytes = self.rest.as_bytes();
        let (mut at, mut depth) = (0, 0_usize);
        loop {
            match bytes.get(at)? {
                b'"' => at = string_end(bytes, at)?.0,
                b'{' | b'[' => {
                    depth += 1;
                    at += 1;
                    continue;
                }
                b'}' | b']' if depth > 0 => {
                    depth -= 1;
                    at += 1;
                }
                b',' | b':' if depth > 0 => {
                    at += 1;
                    continue;
                }
                b',' | b':' | b'}' | b']' | b'\n' => return None,
                _ => {
                    let word = bytes.get(at..)?;
                    at += word
                        .iter()
                        .position(|byte| matches!(byte, b',' | b'}' | b']' | b'"' | b'\n'))?;
                }
            }
            if depth == 0 {
                return self.piece(at);
            }
        }
    }

    /// Takes an object, as it is written.
    fn object(&mut self) -> Option<String> {
        match self.next()? {
            b'{' => self.raw().map(str::to_owned),
            _ => None,
        }
    }

    /// Takes the entries that the format does not know, if there are any.
    fn unknown(&mut self) -> Option<String> {
        match self.took(r#","unknown":"#) {
            true => self.object(),
            false => Some(EMPTY.to_owned()),
        }
    }

    /// Takes the items of an array after its bracket.
    fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let mut items = Vec::new();
        if self.took("]") {
            return Some(items);
        }
        loop {
            items.push(item(self)?);
            if self.took("]") {
                return Some(items);
            }
            self.take(",")?;
        }
    }

    fn line(&mut self) -> Option<RunRecord> {
        self.take(r#"{"_schema_version":"#)?;
        let schema_version = self.string()?;
        self.take(r#","artifacts":["#)?;
        let artifacts = self.list(Self::artifact)?;
        self.take(r#","context_fingerprint":"#)?;
        let context_fingerprint = self.string()?;
        self.take(r#","duration_ms":"#)?;
        let duration_ms = self.word()?.parse().ok()?;
        self.take(r#","error":"#)?;
        let error = match self.raw()? {
            "null" => None,
            error => Some(error.to_owned()),
        };
        self.take(r#","experiment_id":"#)?;
        let experiment_id = self.string()?;
        self.take(r#","finished_at":"#)?;
        let finished_at = self.optional()?;
        self.take(r#","metrics":{"#)?;
        let metrics = self.metrics()?;
        self.take(r#","notes":"#)?;
        let notes = self.optional()?;
        self.take(r#","params_fingerprint":"#)?;
        let params_fingerprint = self.string()?;
        self.take(r#","params_resolved":"#)?;
        let params_resolved = self.object()?;
        self.take(r#","provenance":{"#)?;
        let provenance = self.provenance()?;
        self.take(r#","run_id":"#)?;
        let run_id = self.string()?;
        self.take(r#","seed_fingerprint":"#)?;
        let seed_fingerprint = self.string()?;
        self.take(r#","started_at":"#)?;
        let started_at = self.optional()?;
        self.take(r#","status":"#)?;
        let status = match self.string()?.as_str() {
            "success" => Status::Success,
            "failed" => Status::Failed,
            "cancelled" => Status::Cancelled,
            "running" => Status::Running,
            _ => return None,
        };
        self.take(r#","tags":["#)?;
        let tags = self.list(Self::string)?;
        let unknown = self.unknown()?;
        self.take(r#","warnings":["#)?;
        let warnings = self.list(|reader| reader.raw().map(str::to_owned))?;
        self.take("}\n")?;
        Some(RunRecord {
            run_id,
            experiment_id,
            status,
            context_fingerprint,
            params_fingerprint,
            seed_fingerprint,
            started_at,
            finished_at,
            duration_ms,
            metrics,
            provenance,
            error,
            params_resolved,
            tags,
            warnings,
            notes,
            artifacts,
            schema_version,
            unknown,
        })
    }

    /// Takes the entries of the metrics after their bracket.
    fn metrics(&mut self) -> Option<Vec<Metric>> {
        let mut metrics = Vec::new();
        if self.took("}") {
            return Some(metrics);
        }
        loop {
            let name = self.string()?;
            self.take(":")?;
            let value = self.metric()?;
            metrics.push(Metric { name, value });
            if self.took("}") {
                return Some(metrics);
            }
            self.take(",")?;
        }
    }

    fn metric(&mut self) -> Option<MetricValue> {
        Some(match self.next()? {
            b'"' => match self.written()? {
                (_, Some(text)) => MetricValue::Text(text),
                (written, None) => MetricValue::Other(written.to_owned()),
            },
            b'{' | b'[' => MetricValue::Other(self.raw()?.to_owned()),
            _ => match self.word()? {
                "null" => MetricValue::Other("null".to_owned()),
                "true" => MetricValue::Boolean(true),
                "false" => MetricValue::Boolean(false),
                "NaN" => MetricValue::Float(f64::NAN),
                "Infinity" => MetricValue::Float(f64::INFINITY),
                "-Infinity" => MetricValue::Float(f64::NEG_INFINITY),
                number => self::number(number)?,
            },
        })
    }

    fn provenance(&mut self) -> Option<Provenance> {
        self.take(r#""code_hash":"#)?;
        let code_hash = self.optional()?;
        self.take(r#","executor_id":"#)?;
        let executor_id = self.optional()?;
        self.take(r#","extra":"#)?;
        let extra = self.object()?;
        self.take(r#","host":"#)?;
        let host = self.optional()?;
        self.take(r#","metalab_version":"#)?;
        let metalab_version = self.optional()?;
        self.take(r#","python_version":"#)?;
        let python_version = self.optional()?;
        let unknown = self.unknown()?;
        self.take("}")?;
        Some(Provenance {
            code_hash,
            python_version,
            metalab_version,
            executor_id,
            host,
            extra,
            unknown,
        })
    }

    fn artifact(&mut self) -> Option<ArtifactDescriptor> {
        self.take(r#"{"artifact_id":"#)?;
        let artifact_id = self.string()?;
        self.take(r#","content_hash":"#)?;
        let content_hash = self.optional()?;
        self.take(r#","format":"#)?;
        let format = self.string()?;
        self.take(r#","kind":"#)?;
        let kind = self.string()?;
        self.take(r#","metadata":"#)?;
        let metadata = self.object()?;
        self.take(r#","name":"#)?;
        let name = self.string()?;
        self.take(r#","size_bytes":"#)?;
        let size_bytes = match self.word()? {
            "null" => None,
            number => Some(number.parse().ok()?),
        };
        let unknown = self.unknown()?;
        self.take(r#","uri":"#)?;
        let uri = self.string()?;
        self.take("}")?;
        Some(ArtifactDescriptor {
            artifact_id,
            name,
            kind,
            format,
            uri,
            content_hash,
            size_bytes,
            metadata,
            unknown,
        })
    }
}

/// Returns where the string ends that begins at a place, its quotes included, and whether it has escapes.
fn string_end(bytes: &[u8], start: usize) -> Option<(usize, bool)> {
    if bytes.get(start) != Some(&b'"') {
        return None;
    }
    let mut at = start + 1;
    let mut escaped = false;
    loop {
        let rest = bytes.get(at..)?;
        at += rest.iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
        if bytes.get(at) == Some(&b'"') {
            return Some((at + 1, escaped));
        }
        escaped = true;
        at += 2;
    }
}

/// Returns the number of a metric.
fn number(text: &str) -> Option<MetricValue> {
    let digits = text.strip_prefix('-').unwrap_or(text).as_bytes();
    if !digits.first()?.is_ascii_digit() {
        return None;
    }
    if digits.iter().all(u8::is_ascii_digit) {
        return Some(match text.parse() {
            Ok(value) => MetricValue::Integer(value),
            Err(_) => MetricValue::BigInteger(text.to_owned()),
        });
    }
    text.parse().ok().map(MetricValue::Float)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop where it fails")]
mod tests {
    use super::*;

    const LINE: &str = concat!(
        r#"{"_schema_version":"0.1","artifacts":[{"artifact_id":"i","content_hash":null,"format":"npz","kind":"numpy","#,
        r#""metadata":{"shape":[2,3]},"name":"w","size_bytes":71,"unknown":{"more":"]}"},"uri":"/x/w.npz"}],"#,
        r#""context_fingerprint":"c","duration_ms":-7,"error":{"type":"E","message":"\"}"},"experiment_id":"e:1","#,
        r#""finished_at":null,"metrics":{"a":1.5,"b":true,"c":"t\u00e4","d":12345678901234567890,"dd":"\ud800","e":null,"f":[1,{"g":2}],"#,
        r#""h":NaN,"i":-Infinity,"j":-3},"notes":"n","params_fingerprint":"p","params_resolved":{"lr":0.001,"n":{"x":[[],{}]}},"#,
        r#""provenance":{"code_hash":"h","executor_id":null,"extra":{},"host":"m","metalab_version":null,"python_version":"3","#,
        r#""unknown":{"z":1}},"run_id":"r","seed_fingerprint":"s","started_at":"2026-03-01T09:00:00","status":"running","#,
        r#""tags":["a","\ud83d\ude00"],"unknown":{"zzz":[]},"warnings":[{"message":"w"},"plain",1.5]}"#,
        "\n"
    );

    #[test]
    fn a_record_is_what_its_line_says() {
        let records = read(&LINE.repeat(2)).unwrap();
        assert_eq!(records.len(), 2);
        let record = records.last().unwrap();
        assert_eq!((record.run_id.as_str(), record.duration_ms), ("r", -7));
        assert_eq!(record.status, Status::Running);
        assert_eq!(
            (record.finished_at.as_ref(), record.schema_version.as_str()),
            (None, "0.1")
        );
        assert_eq!(
            record.error.as_deref(),
            Some(r#"{"type":"E","message":"\"}"}"#)
        );
        assert_eq!(record.params_resolved, r#"{"lr":0.001,"n":{"x":[[],{}]}}"#);
        assert_eq!(record.tags, ["a", "\u{1f600}"]);
        assert_eq!(record.warnings, [r#"{"message":"w"}"#, r#""plain""#, "1.5"]);
        assert_eq!(
            (record.unknown.as_str(), record.provenance.unknown.as_str()),
            (r#"{"zzz":[]}"#, r#"{"z":1}"#)
        );
        let [artifact] = record.artifacts.as_slice() else {
            panic!("{record:?}");
        };
        assert_eq!(
            (artifact.size_bytes, artifact.uri.as_str()),
            (Some(71), "/x/w.npz")
        );
        assert_eq!(artifact.unknown, r#"{"more":"]}"}"#);
        let values: Vec<String> = record
            .metrics
            .iter()
            .map(|metric| format!("{:?}", metric.value))
            .collect();
        let expected = [
            MetricValue::Float(1.5),
            MetricValue::Boolean(true),
            MetricValue::Text("t\u{e4}".to_owned()),
            MetricValue::BigInteger("12345678901234567890".to_owned()),
            MetricValue::Other(r#""\ud800""#.to_owned()),
            MetricValue::Other("null".to_owned()),
            MetricValue::Other(r#"[1,{"g":2}]"#.to_owned()),
            MetricValue::Float(f64::NAN),
            MetricValue::Float(f64::NEG_INFINITY),
            MetricValue::Integer(-3),
        ];
        // As text, for what is no number equals nothing.
        assert_eq!(values, expected.map(|value| format!("{value:?}")));
        assert_eq!(read("").unwrap(), []);
    }

    #[test]
    fn what_is_no_line_of_a_record_is_refused() {
        for length in 1..LINE.len() {
            assert!(
                matches!(read(&LINE[..length]), Err(Error::Trap(_))),
                "{length}"
            );
        }
        for (from, to) in [
            ("running", "unheard of"),
            (":-7", ":7.5"),
            (":71", ":-1"),
            ("\"run_id\"", "\"run_ie\""),
            (r"\ud83d\ude00", r"\ud83d"),
            ("}\n", "}"),
            ("}\n", "},\n"),
            (r#":{"lr":0.001"#, r#":[],"x":{"lr":0.001"#),
            (":1.5,", ":one,"),
            (":1.5,", ":,"),
        ] {
            assert!(LINE.contains(from), "{from}");
            assert!(read(&LINE.replacen(from, to, 1)).is_err(), "{from} {to}");
        }
        // No place but may hold anything.
        for place in 0..LINE.len() {
            for other in [
                "\"", ",", ":", "{", "}", "[", "]", "0", "a", "\\", " ", "\n", "\u{e4}",
            ] {
                let (before, after) = LINE.split_at(place);
                drop(read(&format!("{before}{other}{after}")));
                drop(read(&format!("{before}{other}{}", &after[1..])));
            }
        }
    }
}
