//! Values, and how they cross the wire: in the binary form of each type, and only the types of the contract.

use crate::failure::{Failure, FailureKind};
use bytes::{BufMut, BytesMut};
use fallible_iterator::FallibleIterator;
use postgres_protocol::types as wire;
use std::error::Error;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

/// The microseconds from 1970 to 2000, where PostgreSQL begins to count.
const EPOCH: i64 = 946_684_800_000_000;

/// A value, as parameter or in a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// NULL.
    Null,
    /// `boolean`.
    Boolean(bool),
    /// `smallint`, `integer`, `bigint`.
    Integer(i64),
    /// `real`, `double precision`.
    Float(f64),
    /// `text`, `varchar`, `name`.
    Text(String),
    /// `bytea`.
    Bytes(Vec<u8>),
    /// `jsonb` or `json`, as text.
    Json(String),
    /// `timestamptz`: microseconds since 1970.
    Timestamp(i64),
    /// `text[]`.
    TextArray(Vec<Option<String>>),
}

impl Value {
    fn name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Boolean(_) => "boolean",
            Self::Integer(_) => "integer",
            Self::Float(_) => "float",
            Self::Text(_) => "text",
            Self::Bytes(_) => "bytes",
            Self::Json(_) => "json",
            Self::Timestamp(_) => "timestamp",
            Self::TextArray(_) => "text-array",
        }
    }

    /// Returns about how many bytes it takes.
    pub(crate) fn weight(&self) -> usize {
        const BASE: usize = 16;
        BASE + match self {
            Self::Text(text) | Self::Json(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
            Self::TextArray(items) => items
                .iter()
                .map(|item| BASE + item.as_ref().map_or(0, String::len))
                .sum(),
            _ => 0,
        }
    }

    /// Says whether it can be a parameter of a type.
    fn fits(&self, kind: &Type) -> bool {
        match self {
            Self::Null => true,
            Self::Boolean(_) => *kind == Type::BOOL,
            Self::Integer(value) => match *kind {
                Type::INT2 => i16::try_from(*value).is_ok(),
                Type::INT4 => i32::try_from(*value).is_ok(),
                Type::INT8 => true,
                _ => false,
            },
            Self::Float(value) => match *kind {
                // Rounding is what a real means; infinity is not.
                Type::FLOAT4 => !value.is_finite() || to_real(*value).is_finite(),
                Type::FLOAT8 => true,
                _ => false,
            },
            Self::Text(_) => is_text(kind),
            Self::Bytes(_) => *kind == Type::BYTEA,
            Self::Json(_) => matches!(*kind, Type::JSON | Type::JSONB),
            Self::Timestamp(value) => {
                // The least number means minus infinity.
                *kind == Type::TIMESTAMPTZ
                    && value
                        .checked_sub(EPOCH)
                        .is_some_and(|since| since > i64::MIN)
            }
            Self::TextArray(_) => {
                matches!(
                    *kind,
                    Type::TEXT_ARRAY | Type::VARCHAR_ARRAY | Type::NAME_ARRAY
                )
            }
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the statement asks for a real: rounding is what it means"
)]
fn to_real(value: f64) -> f32 {
    value as f32
}

fn is_text(kind: &Type) -> bool {
    matches!(
        *kind,
        Type::TEXT | Type::VARCHAR | Type::NAME | Type::BPCHAR | Type::UNKNOWN
    )
}

/// Refuses parameters that are not of the types that the statement wants, before anything is sent.
pub(crate) fn check(values: &[Value], kinds: &[Type]) -> Result<(), Failure> {
    if values.len() != kinds.len() {
        return Err(Failure::new(
            FailureKind::UnsupportedType,
            format!(
                "the statement has {} parameters, {} were given",
                kinds.len(),
                values.len()
            ),
        ));
    }
    if values.len() > usize::from(u16::MAX) {
        return Err(Failure::new(
            FailureKind::TooLarge,
            "a statement has at most 65535 parameters",
        ));
    }
    for (index, (value, kind)) in values.iter().zip(kinds).enumerate() {
        if !value.fits(kind) {
            return Err(Failure::new(
                FailureKind::UnsupportedType,
                format!(
                    "parameter ${} is of type {kind}, which this value of kind {} cannot be; cast it in the statement",
                    index + 1,
                    value.name()
                ),
            ));
        }
    }
    Ok(())
}

impl ToSql for Value {
    fn to_sql(
        &self,
        kind: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self {
            Self::Null => return Ok(IsNull::Yes),
            Self::Boolean(value) => wire::bool_to_sql(*value, out),
            Self::Integer(value) => match *kind {
                Type::INT2 => wire::int2_to_sql(i16::try_from(*value)?, out),
                Type::INT4 => wire::int4_to_sql(i32::try_from(*value)?, out),
                _ => wire::int8_to_sql(*value, out),
            },
            Self::Float(value) => match *kind {
                Type::FLOAT4 => wire::float4_to_sql(to_real(*value), out),
                _ => wire::float8_to_sql(*value, out),
            },
            Self::Text(value) => wire::text_to_sql(value, out),
            Self::Bytes(value) => wire::bytea_to_sql(value, out),
            Self::Json(value) => {
                if *kind == Type::JSONB {
                    out.put_u8(1);
                }
                wire::text_to_sql(value, out);
            }
            Self::Timestamp(value) => {
                let since = value.checked_sub(EPOCH).ok_or("the time is out of range")?;
                wire::timestamp_to_sql(since, out);
            }
            Self::TextArray(items) => {
                let length = i32::try_from(items.len())?;
                let dimension = wire::ArrayDimension {
                    len: length,
                    lower_bound: 1,
                };
                let member = match *kind {
                    Type::VARCHAR_ARRAY => Type::VARCHAR,
                    Type::NAME_ARRAY => Type::NAME,
                    _ => Type::TEXT,
                };
                wire::array_to_sql(
                    Some(dimension).filter(|_| length > 0),
                    member.oid(),
                    items.iter(),
                    |item, out| match item {
                        None => Ok(postgres_protocol::IsNull::Yes),
                        Some(text) => {
                            wire::text_to_sql(text, out);
                            Ok(postgres_protocol::IsNull::No)
                        }
                    },
                    out,
                )?;
            }
        }
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        // `check` looked at it, with the value.
        true
    }

    to_sql_checked!();
}

/// A value of a row as it came.
pub(crate) struct Raw<'r>(Option<&'r [u8]>);

impl<'r> tokio_postgres::types::FromSql<'r> for Raw<'r> {
    fn from_sql(_: &Type, raw: &'r [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(Some(raw)))
    }

    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(None))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// Reads a value of a row.
pub(crate) fn read(raw: &Raw<'_>, column: &str, kind: &Type) -> Result<Value, Failure> {
    let Some(raw) = raw.0 else {
        return Ok(Value::Null);
    };
    let broken = |error: Box<dyn Error + Sync + Send>| {
        Failure::new(
            FailureKind::UnsupportedType,
            format!("the column {column:?} of type {kind} cannot be read: {error}"),
        )
    };
    let value = match *kind {
        Type::BOOL => wire::bool_from_sql(raw).map(Value::Boolean),
        Type::INT2 => wire::int2_from_sql(raw).map(|value| Value::Integer(value.into())),
        Type::INT4 => wire::int4_from_sql(raw).map(|value| Value::Integer(value.into())),
        Type::INT8 => wire::int8_from_sql(raw).map(Value::Integer),
        Type::FLOAT4 => wire::float4_from_sql(raw).map(|value| Value::Float(value.into())),
        Type::FLOAT8 => wire::float8_from_sql(raw).map(Value::Float),
        Type::BYTEA => Ok(Value::Bytes(wire::bytea_from_sql(raw).to_vec())),
        Type::JSON => wire::text_from_sql(raw).map(|text| Value::Json(text.to_owned())),
        Type::JSONB => match raw.split_first() {
            Some((1, text)) => wire::text_from_sql(text).map(|text| Value::Json(text.to_owned())),
            _ => Err("it is of an unknown version of jsonb".into()),
        },
        Type::TIMESTAMPTZ => wire::timestamp_from_sql(raw).and_then(|since| {
            if since == i64::MAX || since == i64::MIN {
                return Err("it is infinite".into());
            }
            since
                .checked_add(EPOCH)
                .map(Value::Timestamp)
                .ok_or_else(|| "it is out of range".into())
        }),
        Type::TEXT_ARRAY | Type::VARCHAR_ARRAY | Type::NAME_ARRAY => {
            text_array(raw).map(Value::TextArray)
        }
        _ if is_text(kind) => wire::text_from_sql(raw).map(|text| Value::Text(text.to_owned())),
        _ => {
            return Err(Failure::new(
                FailureKind::UnsupportedType,
                format!(
                    "the column {column:?} is of type {kind}, which has no value here; cast it in the statement"
                ),
            ));
        }
    };
    value.map_err(broken)
}

fn text_array(raw: &[u8]) -> Result<Vec<Option<String>>, Box<dyn Error + Sync + Send>> {
    let array = wire::array_from_sql(raw)?;
    if array.dimensions().count()? > 1 {
        return Err("it has more than one dimension".into());
    }
    // Not collected: that would make room for as many items as the server says there are.
    let mut items = Vec::new();
    let mut values = array.values();
    while let Some(value) = values.next()? {
        let text = value.map(wire::text_from_sql).transpose()?;
        items.push(text.map(str::to_owned));
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::{Raw, Value, read};
    use bytes::BytesMut;
    use tokio_postgres::types::{ToSql, Type};

    /// Each type of the contract, with a value of it.
    fn values() -> Vec<(Type, Value)> {
        let array =
            || Value::TextArray(vec![Some("a".to_owned()), None, Some("\u{fc}".to_owned())]);
        vec![
            (Type::BOOL, Value::Boolean(true)),
            (Type::INT2, Value::Integer(-2)),
            (Type::INT4, Value::Integer(1 << 20)),
            (Type::INT8, Value::Integer(i64::MIN)),
            (Type::FLOAT4, Value::Float(0.5)),
            (Type::FLOAT8, Value::Float(f64::NEG_INFINITY)),
            (Type::TEXT, Value::Text("text".to_owned())),
            (Type::BYTEA, Value::Bytes(vec![0, 255])),
            (Type::JSON, Value::Json("[1]".to_owned())),
            (Type::JSONB, Value::Json("{}".to_owned())),
            (Type::TIMESTAMPTZ, Value::Timestamp(1_772_928_000_000_000)),
            (Type::TEXT_ARRAY, array()),
            (Type::VARCHAR_ARRAY, array()),
            (Type::NAME_ARRAY, array()),
        ]
    }

    fn wire(kind: &Type, value: &Value) -> Vec<u8> {
        let mut out = BytesMut::new();
        assert!(value.to_sql(kind, &mut out).is_ok(), "{kind}");
        out.to_vec()
    }

    #[test]
    fn what_is_sent_is_read_back_the_same() {
        for (kind, value) in values() {
            let raw = wire(&kind, &value);
            assert_eq!(
                read(&Raw(Some(&raw)), "c", &kind).ok(),
                Some(value),
                "{kind}"
            );
        }
    }

    /// Failure: the reader made room for as many items as the head of an array says there are, before it read one.
    /// Consequence: a server, or whoever is on the way to it, ended the process with 20 bytes.
    /// Fix: room is made for items that were read.
    #[test]
    fn an_array_that_says_it_has_two_billion_items_is_refused_and_costs_no_memory() {
        let mut raw = wire(
            &Type::TEXT_ARRAY,
            &Value::TextArray(vec![Some("a".to_owned())]),
        );
        raw[12..16].copy_from_slice(&i32::MAX.to_be_bytes());
        assert!(read(&Raw(Some(&raw)), "c", &Type::TEXT_ARRAY).is_err());
    }

    #[test]
    fn no_bytes_of_a_server_break_the_reader_of_values() {
        let mut state = 1_u64;
        let mut next = move |limit: usize| {
            // Numbers that look random and are the same in each run.
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            usize::try_from(state >> 33).unwrap_or_default() % limit
        };
        let numbers: [&[u8]; 6] = [
            &[0; 4],
            &[0xff; 4],
            &[0x7f, 0xff, 0xff, 0xff],
            &[0x80, 0, 0, 0],
            &[0, 0, 0, 1],
            &[0, 0, 0, 0x64],
        ];
        let (mut read_well, mut refused) = (0, 0);
        for _ in 0..200_000 {
            let (kind, value) = values().swap_remove(next(14));
            let mut raw = wire(&kind, &value);
            for _ in 0..=next(3) {
                let at = next(raw.len() + 1);
                match next(4) {
                    0 => raw.truncate(at),
                    1 if at < raw.len() => raw[at] ^= 1 << next(8),
                    2 => drop(raw.splice(at..at, numbers[next(6)].iter().copied())),
                    _ => {
                        for (place, byte) in raw.iter_mut().skip(at).zip(numbers[next(6)]) {
                            *place = *byte;
                        }
                    }
                }
            }
            // Read as what it is, and as what it is not.
            let (other, _) = values().swap_remove(next(14));
            for kind in [kind, other] {
                match read(&Raw(Some(&raw)), "c", &kind) {
                    Ok(_) => read_well += 1,
                    Err(failure) => {
                        refused += 1;
                        assert!(failure.to_string().contains("\"c\""), "{failure}");
                    }
                }
            }
        }
        assert!(read_well > 0 && refused > 0, "{read_well} {refused}");
    }
}
