//! What a statement's text says of itself, as far as a connection that others use later must know.

use crate::failure::{Failure, FailureKind};

/// Where a statement is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Alone, or in a batch of its own.
    Alone,
    /// Within a transaction.
    Within,
    /// As a COPY.
    Copy,
}

/// Refuses statements that would begin or end a transaction behind the back of whoever holds the connection, and
/// those that change the protocol, before anything is sent.
pub(crate) fn check(sql: &str, place: Place) -> Result<(), Failure> {
    let refused = |reason: &str| Err(Failure::new(FailureKind::Refused, reason));
    if sql.contains('\0') {
        return refused("the statement has a NUL in it");
    }
    let mut words = Words(sql);
    let first = words.next().unwrap_or_default();
    match (first.as_str(), place) {
        ("COPY", Place::Copy) => Ok(()),
        (_, Place::Copy) => refused("the statement is no COPY"),
        ("COPY", _) => refused("a COPY is begun as such, within a transaction"),
        ("ROLLBACK", Place::Within) => {
            // To a savepoint: the transaction goes on.
            let second = words.next().unwrap_or_default();
            let second = match second.as_str() {
                "WORK" | "TRANSACTION" => words.next().unwrap_or_default(),
                _ => second,
            };
            if second == "TO" {
                Ok(())
            } else {
                refused("a transaction is not ended by a statement")
            }
        }
        ("BEGIN" | "START" | "COMMIT" | "END" | "ROLLBACK" | "ABORT", _) => {
            refused("a transaction is not begun or ended by a statement")
        }
        ("PREPARE", _) if words.next().as_deref() == Some("TRANSACTION") => {
            refused("a transaction is not ended by a statement")
        }
        _ => Ok(()),
    }
}

/// Says whether a statement may leave something in the session: settings, temporary tables, locks, cursors.
pub(crate) fn leaves_traces(sql: &str) -> bool {
    let first = Words(sql).next().unwrap_or_default();
    let is_plain = matches!(
        first.as_str(),
        "SELECT" | "INSERT" | "UPDATE" | "DELETE" | "MERGE" | "WITH" | "VALUES" | "TABLE" | "LOCK"
    );
    // Locks of a transaction, `pg_advisory_xact_lock`, end with it; to count them costs a round trip, not an error.
    const TELLTALES: [&[u8]; 3] = [b"set_config", b"advisory", b"temp"];
    !is_plain
        || TELLTALES.iter().any(|telltale| {
            let text = sql.as_bytes().windows(telltale.len());
            text.into_iter()
                .any(|window| window.eq_ignore_ascii_case(telltale))
        })
}

/// The words that a text begins with, in capitals; comments, blanks and empty statements are skipped.
struct Words<'a>(&'a str);

impl Words<'_> {
    fn skip(&mut self) {
        loop {
            let rest = self
                .0
                .trim_start_matches(|c: char| c.is_whitespace() || c == ';' || c == '(');
            self.0 = if let Some(comment) = rest.strip_prefix("--") {
                comment
                    .find(['\n', '\r'])
                    .and_then(|end| comment.get(end..))
                    .unwrap_or_default()
            } else if let Some(comment) = rest.strip_prefix("/*") {
                after_comment(comment)
            } else {
                self.0 = rest;
                return;
            };
        }
    }
}

/// Returns what follows a comment; comments nest.
fn after_comment(text: &str) -> &str {
    let mut depth = 1;
    let mut rest = text;
    while depth > 0 {
        let Some(at) = rest.find(['*', '/']) else {
            return "";
        };
        rest = rest.get(at..).unwrap_or_default();
        rest = if let Some(after) = rest.strip_prefix("*/") {
            depth -= 1;
            after
        } else if let Some(after) = rest.strip_prefix("/*") {
            depth += 1;
            after
        } else {
            rest.get(1..).unwrap_or_default()
        };
    }
    rest
}

impl Iterator for Words<'_> {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        self.skip();
        let end = self
            .0
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(self.0.len());
        let (word, rest) = self.0.split_at(end);
        self.0 = rest;
        (!word.is_empty()).then(|| word.to_ascii_uppercase())
    }
}

#[cfg(test)]
mod tests {
    use super::{Place, check, leaves_traces};

    #[test]
    fn transactions_are_not_begun_or_ended_by_statements() {
        for sql in [
            "BEGIN",
            "commit",
            " ;; End work",
            "-- SELECT\nROLLBACK",
            "/* a /* nested */ comment */ abort",
            "start transaction",
            "prepare/**/transaction 'x'",
            "rollback and chain",
        ] {
            assert!(check(sql, Place::Alone).is_err(), "{sql}");
            assert!(check(sql, Place::Within).is_err(), "{sql}");
        }
        assert!(check("ROLLBACK TO SAVEPOINT a", Place::Within).is_ok());
        assert!(check("ROLLBACK TO SAVEPOINT a", Place::Alone).is_err());
        assert!(check("SAVEPOINT a", Place::Within).is_ok());
        assert!(check("SELECT 'COMMIT'", Place::Alone).is_ok());
        assert!(check("SELECT '\0'", Place::Alone).is_err());
        assert!(check("/* without an end", Place::Alone).is_ok());
    }

    #[test]
    fn a_copy_is_begun_as_a_copy_and_nothing_else_is() {
        assert!(check("copy t FROM STDIN", Place::Copy).is_ok());
        assert!(check("SELECT 1", Place::Copy).is_err());
        assert!(check("COPY t FROM STDIN", Place::Within).is_err());
        assert!(check("COPY t TO STDOUT", Place::Alone).is_err());
    }

    #[test]
    fn statements_that_leave_traces_are_told_from_plain_ones() {
        for sql in [
            "SET search_path = a",
            "SELECT pg_Advisory_lock(1)",
            "CREATE TEMP TABLE a ()",
            "SELECT 1 INTO TEMPORARY b",
            "LISTEN a",
            "select SET_CONFIG('a.b', 'c', false)",
        ] {
            assert!(leaves_traces(sql), "{sql}");
        }
        assert!(!leaves_traces("(SELECT 1)"));
        assert!(!leaves_traces("insert INTO a VALUES (1)"));
    }
}
