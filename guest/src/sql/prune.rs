//! Rows of directories that are not in their collection any more: which there are, and how they go.
//!
//! A directory is known by its path and its machine, or by the number of the collection's root if it was compared from
//! there, as another machine of a cluster did. Nothing else tells whose it was once it is gone.

use super::directories::{DIRECTORIES, MANIFESTS, STEADY, UNREADABLE, statement, texts};
use super::{Schema, runs};
use crate::ports::{SqlValue, Statement};

/// The most directories that are told.
pub(crate) const MOST: u32 = 100;

/// The most former directories of some paths.
pub(crate) const FORMER: u32 = 100_000;

/// Where a collection is.
pub(crate) struct Collection<'c> {
    /// The machine.
    pub(crate) machine: &'c str,
    /// The root's number on its file system; empty if it is not known.
    pub(crate) inode: &'c str,
    /// The root, by its name outside.
    pub(crate) outside: &'c str,
}

impl Collection<'_> {
    fn parameters(&self) -> Vec<SqlValue> {
        [self.machine, self.inode]
            .map(|text| SqlValue::Text(text.to_owned()))
            .to_vec()
    }

    /// What the path of a directory in it begins with.
    fn prefix(&self) -> String {
        format!("{}/", self.outside.trim_end_matches('/'))
    }
}

/// Makes the query for the directories of a collection that are not among these ids and these names, and of which there are
/// rows: the name of each, an experiment that leads to it if its rows say one, how many runs there are, and how many such
/// directories.
pub(crate) fn orphans<'n>(
    schema: &Schema,
    projection: bool,
    collection: &Collection<'_>,
    ids: &[String],
    names: impl Iterator<Item = &'n str>,
) -> Statement {
    let own = schema.name(runs::TABLE);
    let experiment = |table: &str| {
        format!(
            "(SELECT min(kept.experiment_id) FROM {table} AS kept WHERE kept.scope = below.scope \
             AND replace(kept.experiment_id, ':', '_') = below.name)"
        )
    };
    let of_runs = experiment(&own);
    let (manifests, experiment) = match projection {
        true => {
            let had = schema.name(MANIFESTS);
            (
                format!("(SELECT count(*) FROM {had} AS kept WHERE kept.scope = below.scope)"),
                format!("coalesce({of_runs}, {})", experiment(&had)),
            )
        }
        false => ("0".to_owned(), of_runs),
    };
    let sql = format!(
        "WITH below AS (SELECT known.scope, substr(known.directory, length($3::text) + 1) COLLATE \"C\" AS name \
         FROM {} AS known WHERE (known.machine = $1 OR known.inode = $2) AND left(known.directory, length($3::text)) = $3::text \
         AND NOT EXISTS (SELECT 1 FROM unnest($4::text[]) AS there (scope) WHERE there.scope = known.scope)), \
         counted AS (SELECT name, {manifests} AS manifests, \
         (SELECT count(*) FROM (SELECT kept.run_id FROM {own} AS kept WHERE kept.scope = below.scope \
         UNION SELECT kept.run_id FROM {} AS kept WHERE kept.scope = below.scope) AS kept) AS runs, \
         {experiment} AS experiment FROM below WHERE name <> '' AND strpos(name, '/') = 0 \
         AND NOT EXISTS (SELECT 1 FROM unnest($5::text[]) AS there (name) WHERE there.name = below.name)) \
         SELECT name, min(experiment), sum(runs)::bigint, count(*) OVER () FROM counted WHERE runs > 0 OR manifests > 0 \
         GROUP BY name ORDER BY name LIMIT {MOST}",
        schema.name(DIRECTORIES),
        schema.name(UNREADABLE)
    );
    let mut parameters = collection.parameters();
    parameters.push(SqlValue::Text(collection.prefix()));
    parameters.push(texts(ids.iter().map(String::as_str)));
    parameters.push(texts(names));
    statement(sql, parameters)
}

/// Makes the query for the ids of the directories that were at these paths in a collection and are not among `there`.
pub(crate) fn former(
    schema: &Schema,
    collection: &Collection<'_>,
    names: &[String],
    there: &[String],
) -> Statement {
    let sql = format!(
        "SELECT scope FROM {} WHERE (machine = $1 OR inode = $2) AND directory = ANY($3::text[]) AND NOT scope = ANY($4::text[])",
        schema.name(DIRECTORIES)
    );
    let prefix = collection.prefix();
    let paths: Vec<String> = names.iter().map(|name| format!("{prefix}{name}")).collect();
    let mut parameters = collection.parameters();
    parameters.push(texts(paths.iter().map(String::as_str)));
    parameters.push(texts(there.iter().map(String::as_str)));
    statement(sql, parameters)
}

/// Makes the statements that delete from the reference's tables what these directories have, and what there is of these
/// experiments, as far as no other directory has it too. They come before the rows of our own tables are deleted.
pub(crate) fn projected(
    schema: &Schema,
    scopes: &[String],
    experiments: &[&str],
) -> [Statement; 3] {
    let own = schema.name(runs::TABLE);
    let runs = schema.name("runs");
    let derived = schema.name("derived");
    let had = schema.name(MANIFESTS);
    let manifests = schema.name("experiment_manifests");
    let scopes = texts(scopes.iter().map(String::as_str));
    let both = vec![scopes.clone(), texts(experiments.iter().copied())];
    [
        statement(
            format!(
                "WITH named AS (SELECT run_id, experiment_id FROM {own} WHERE scope = ANY($1::text[]) \
                 UNION SELECT run_id, experiment_id FROM {runs} WHERE experiment_id = ANY($2::text[])), \
                 gone AS (DELETE FROM {runs} AS kept USING named WHERE kept.run_id = named.run_id \
                 AND kept.experiment_id = named.experiment_id AND NOT EXISTS (SELECT 1 FROM {own} AS other \
                 WHERE other.run_id = named.run_id AND other.experiment_id = named.experiment_id \
                 AND NOT other.scope = ANY($1::text[])) RETURNING kept.run_id) \
                 DELETE FROM {derived} AS kept USING gone WHERE kept.run_id = gone.run_id"
            ),
            both.clone(),
        ),
        // Of runs that another directory has too, without these.
        statement(
            format!(
                "DELETE FROM {derived} AS kept USING {own} AS had WHERE had.scope = ANY($1::text[]) AND had.run_id = kept.run_id \
                 AND NOT EXISTS (SELECT 1 FROM {own} AS other WHERE other.run_id = had.run_id AND other.derived IS NOT NULL \
                 AND NOT other.scope = ANY($1::text[])) \
                 AND NOT EXISTS (SELECT 1 FROM {runs} AS other WHERE other.run_id = had.run_id AND other.experiment_id <> had.experiment_id)"
            ),
            vec![scopes],
        ),
        statement(
            format!(
                "WITH had AS (DELETE FROM {had} WHERE scope = ANY($1::text[]) RETURNING experiment_id, timestamp), \
                 named AS (SELECT experiment_id, timestamp FROM had \
                 UNION SELECT experiment_id, timestamp FROM {manifests} WHERE experiment_id = ANY($2::text[])) \
                 DELETE FROM {manifests} AS kept USING named WHERE kept.experiment_id = named.experiment_id \
                 AND kept.timestamp = named.timestamp AND NOT EXISTS (SELECT 1 FROM {had} AS other \
                 WHERE other.experiment_id = named.experiment_id AND other.timestamp = named.timestamp \
                 AND NOT other.scope = ANY($1::text[]))"
            ),
            both,
        ),
    ]
}

/// Makes the query that deletes the runs of these directories from our own tables, and returns how many there were.
pub(crate) fn own(schema: &Schema, scopes: &[String]) -> Statement {
    let sql = format!(
        "WITH gone AS (DELETE FROM {} WHERE scope = ANY($1::text[]) RETURNING scope, run_id), \
         forgotten AS (DELETE FROM {} WHERE scope = ANY($1::text[]) RETURNING scope, run_id) \
         SELECT count(*) FROM (SELECT scope, run_id FROM gone UNION SELECT scope, run_id FROM forgotten) AS pruned",
        schema.name(runs::TABLE),
        schema.name(UNREADABLE)
    );
    statement(sql, vec![texts(scopes.iter().map(String::as_str))])
}

/// Makes the statements that end what is known of these directories, and every comparison of them that is under way: it has
/// seen rows that are gone. One that wants to begin waits for the end of the transaction.
///
/// Without the reference's tables a directory stays known, with no mark: its manifests are left for a store that has them.
pub(crate) fn forget(schema: &Schema, projection: bool, scopes: &[String]) -> [Statement; 3] {
    let steady = schema.name(STEADY);
    let directories = schema.name(DIRECTORIES);
    let scopes = || vec![texts(scopes.iter().map(String::as_str))];
    let known = match projection {
        true => format!("DELETE FROM {directories} WHERE scope = ANY($1::text[])"),
        false => format!("UPDATE {directories} SET mark = '' WHERE scope = ANY($1::text[])"),
    };
    [
        statement(
            format!("LOCK TABLE {steady} IN SHARE ROW EXCLUSIVE MODE"),
            Vec::new(),
        ),
        statement(
            format!("DELETE FROM {steady} WHERE scope = ANY($1::text[]) OR mark = ANY($1::text[])"),
            scopes(),
        ),
        statement(known, scopes()),
    ]
}
