//! Unpacks run records that crossed as one text and numbers: `packed-records` in `wit/store.wit` says what they are.
//!
//! What they say is the component's, so that nothing of it is taken without a look.

use crate::bindings::exports::metalab::store::store::PackedRecords;
use crate::error::{Error, Result};
use crate::types::{ArtifactDescriptor, Metric, MetricValue, Provenance, RunRecord, Status};

/// Returns the records.
///
/// # Errors
/// [`Error::Trap`] if the numbers are none of such records.
pub(crate) fn unpack(packed: &PackedRecords) -> Result<Vec<RunRecord>> {
    let mut reader = Reader {
        text: &packed.text,
        left: packed.text.len(),
        fields: packed.fields.iter().copied(),
    };
    let mut records = Vec::new();
    for _ in 0..packed.count {
        records.push(reader.record().ok_or_else(malformed)?);
    }
    match reader.fields.next() {
        None => Ok(records),
        Some(_) => Err(malformed()),
    }
}

fn malformed() -> Error {
    Error::Trap("the component returned records that are none".to_owned())
}

struct Reader<'a, F> {
    text: &'a str,
    /// How many bytes of it may still be taken: no two texts share any.
    left: usize,
    fields: F,
}

/// Of what is none of it, these return nothing.
impl<F: Iterator<Item = u32>> Reader<'_, F> {
    fn number(&mut self) -> Option<u32> {
        self.fields.next()
    }

    fn wide(&mut self) -> Option<u64> {
        let (low, high) = (self.number()?, self.number()?);
        Some(u64::from(high) << 32 | u64::from(low))
    }

    fn text(&mut self) -> Option<String> {
        let (start, end) = (self.number()?, self.number()?);
        self.piece(start, end)
    }

    fn piece(&mut self, start: u32, end: u32) -> Option<String> {
        let piece = self.text.get(start as usize..end as usize)?;
        self.left = self.left.checked_sub(piece.len())?;
        Some(piece.to_owned())
    }

    fn optional(&mut self) -> Option<Option<String>> {
        let (start, end) = (self.number()?, self.number()?);
        if (start, end) == (u32::MAX, u32::MAX) {
            return Some(None);
        }
        self.piece(start, end).map(Some)
    }

    fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        // Nothing is made room for on the word of the component alone.
        let mut items = Vec::new();
        for _ in 0..self.number()? {
            items.push(item(self)?);
        }
        Some(items)
    }

    fn record(&mut self) -> Option<RunRecord> {
        Some(RunRecord {
            run_id: self.text()?,
            experiment_id: self.text()?,
            status: match self.number()? {
                0 => Status::Success,
                1 => Status::Failed,
                2 => Status::Cancelled,
                3 => Status::Running,
                _ => return None,
            },
            context_fingerprint: self.text()?,
            params_fingerprint: self.text()?,
            seed_fingerprint: self.text()?,
            started_at: self.optional()?,
            finished_at: self.optional()?,
            duration_ms: self.wide()?.cast_signed(),
            metrics: self.list(Self::metric)?,
            provenance: self.provenance()?,
            error: self.optional()?,
            params_resolved: self.text()?,
            tags: self.list(Self::text)?,
            warnings: self.list(Self::text)?,
            notes: self.optional()?,
            artifacts: self.list(Self::artifact)?,
            schema_version: self.text()?,
            unknown: self.text()?,
        })
    }

    fn metric(&mut self) -> Option<Metric> {
        Some(Metric {
            name: self.text()?,
            value: match self.number()? {
                0 => MetricValue::Boolean(self.number()? == 1),
                1 => MetricValue::Integer(self.wide()?.cast_signed()),
                2 => MetricValue::BigInteger(self.text()?),
                3 => MetricValue::Float(f64::from_bits(self.wide()?)),
                4 => MetricValue::Text(self.text()?),
                5 => MetricValue::Other(self.text()?),
                _ => return None,
            },
        })
    }

    fn provenance(&mut self) -> Option<Provenance> {
        Some(Provenance {
            code_hash: self.optional()?,
            python_version: self.optional()?,
            metalab_version: self.optional()?,
            executor_id: self.optional()?,
            host: self.optional()?,
            extra: self.text()?,
            unknown: self.text()?,
        })
    }

    fn artifact(&mut self) -> Option<ArtifactDescriptor> {
        Some(ArtifactDescriptor {
            artifact_id: self.text()?,
            name: self.text()?,
            kind: self.text()?,
            format: self.text()?,
            uri: self.text()?,
            content_hash: self.optional()?,
            size_bytes: match (self.number()?, self.wide()?) {
                (0, _) => None,
                (_, size) => Some(size),
            },
            metadata: self.text()?,
            unknown: self.text()?,
        })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop where it fails")]
mod tests {
    use super::*;

    /// The numbers of a record without anything in it but its run, `r`.
    fn fields() -> Vec<u32> {
        const NONE: u32 = u32::MAX;
        let mut fields = vec![
            0, 1, 1, 1, 3, 1, 1, 1, 1, 1, 1, NONE, NONE, NONE, NONE, 7, 0,
        ];
        fields.push(1); // One metric, `m`, of which the bits are those of 1.5.
        fields.extend([1, 2, 3, 0, 0x3ff8_0000]);
        fields.extend([NONE; 10]); // Of the provenance, and both its objects.
        fields.extend([2, 2, 2, 2]);
        fields.extend([NONE, NONE, 2, 2, 0, 0, NONE, NONE]);
        fields.extend([
            1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, NONE, NONE, 1, 9, 0, 2, 2, 2, 2,
        ]);
        fields.extend([2, 2, 2, 2]);
        fields
    }

    fn packed(fields: Vec<u32>) -> PackedRecords {
        PackedRecords {
            count: 1,
            text: "rm\u{e4}".to_owned(),
            fields,
        }
    }

    #[test]
    fn a_record_is_what_its_numbers_say() {
        let records = unpack(&packed(fields())).unwrap();
        let [record] = records.as_slice() else {
            panic!("{records:?}");
        };
        assert_eq!((record.run_id.as_str(), record.duration_ms), ("r", 7));
        assert_eq!(record.status, Status::Running);
        assert_eq!(record.metrics[0].name, "m");
        assert_eq!(record.metrics[0].value, MetricValue::Float(1.5));
        assert_eq!(record.artifacts[0].size_bytes, Some(9));
        assert_eq!((&record.notes, record.tags.len()), (&None, 0));
    }

    #[test]
    fn numbers_that_are_those_of_no_record_are_refused() {
        let refused = |fields: Vec<u32>| matches!(unpack(&packed(fields)), Err(Error::Trap(_)));
        let whole = fields();
        for length in 0..whole.len() {
            assert!(refused(whole[..length].to_vec()), "{length}");
        }
        assert!(refused([whole.clone(), vec![0]].concat()));
        let changed = |place: usize, number: u32| {
            let mut fields = whole.clone();
            fields[place] = number;
            fields
        };
        // Beyond the text, within a character, before its start, and no case.
        for (place, number) in [(1, 5), (1, 3), (1, u32::MAX), (0, 2), (4, 4), (20, 6)] {
            assert!(refused(changed(place, number)), "{place} {number}");
        }
        // Lists that nobody has room for.
        assert!(refused(changed(17, u32::MAX)));
        // The same bytes twice.
        let mut twice = whole.clone();
        (twice[2], twice[3]) = (0, 4);
        assert!(refused(twice));
        // No place but may hold anything.
        for place in 0..whole.len() {
            for number in [0, 1, 2, 4, 0x7fff_ffff, u32::MAX] {
                drop(unpack(&packed(changed(place, number))));
            }
        }
    }
}
