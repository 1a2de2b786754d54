//! Names of schemas, tables and indexes in the text of a statement.

use std::fmt;

/// The most bytes of a name in PostgreSQL. It cuts longer ones silently, so that two names would become one.
pub const MAX_BYTES: usize = 63;

/// Why a text cannot be the name of a schema.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// It is empty.
    #[error("the name of the schema is empty; leave it out for `public`")]
    Empty,
    /// It holds a NUL character.
    #[error("schema {0:?} holds a NUL character, which PostgreSQL does not allow in names")]
    Nul(String),
    /// It is too long.
    #[error(
        "schema {name:?} has {bytes} bytes; PostgreSQL cuts names to {MAX_BYTES}, so choose a shorter one"
    )]
    TooLong {
        /// The name.
        name: String,
        /// Its length.
        bytes: usize,
    },
}

/// The schema that holds our tables.
///
/// It holds a name of 1 to [`MAX_BYTES`] bytes without NUL, whatever else stands in it:
///
/// ```
/// use metalab_store_guest::sql::Schema;
///
/// let schema = Schema::new("my \"lab\"; drop")?;
/// assert_eq!(schema.quoted(), "\"my \"\"lab\"\"; drop\"");
/// assert_eq!(schema.name("runs"), "\"my \"\"lab\"\"; drop\".\"runs\"");
///
/// assert!(Schema::new("").is_err());
/// assert!(Schema::new("a\0b").is_err());
/// assert!(Schema::new("a".repeat(64)).is_err());
/// # Ok::<(), metalab_store_guest::sql::identifier::SchemaError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Schema {
    name: String,
}

impl Schema {
    /// Takes the name of a schema.
    ///
    /// # Errors
    /// The name is empty, too long or holds a NUL character.
    pub fn new(name: impl Into<String>) -> Result<Self, SchemaError> {
        let name = name.into();
        if name.is_empty() {
            Err(SchemaError::Empty)
        } else if name.contains('\0') {
            Err(SchemaError::Nul(name))
        } else if name.len() > MAX_BYTES {
            Err(SchemaError::TooLong {
                bytes: name.len(),
                name,
            })
        } else {
            Ok(Self { name })
        }
    }

    /// Returns the name as it was given: to be a parameter.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// Returns the name in quotes: to stand in a statement.
    #[must_use]
    pub fn quoted(&self) -> String {
        quoted(&self.name)
    }

    /// Returns the name of a table or an index of this schema, both parts in quotes.
    #[must_use]
    pub fn name(&self, of: &'static str) -> String {
        format!("{}.{}", quoted(&self.name), quoted(of))
    }
}

impl fmt::Display for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.quoted())
    }
}

pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop where it fails")]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_63_bytes_is_kept_and_a_longer_one_refused_by_its_bytes() {
        assert!(Schema::new("é".repeat(31) + "a").is_ok());
        let long = "é".repeat(32);
        let error = Schema::new(long.clone()).unwrap_err();
        assert_eq!(
            error,
            SchemaError::TooLong {
                name: long,
                bytes: 64
            }
        );
        assert!(error.to_string().contains("has 64 bytes"), "{error}");
    }

    #[test]
    fn every_quote_is_doubled() {
        let schema = Schema::new("\"\"a\"").unwrap();
        assert_eq!(schema.quoted(), "\"\"\"\"\"a\"\"\"");
        assert_eq!(schema.as_str(), "\"\"a\"");
    }
}
