//! Values, statements, batches, transactions, cursors and COPYs on a real server.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "other tests use the rest")]
mod common;

use common::{Schema, one, random_name, settings, sql, statement};
use metalab_store_postgres::{FailureKind, Isolation, Pool, Value};

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

#[test]
fn every_type_of_the_contract_round_trips() {
    let pool = Pool::new(settings()).unwrap();
    let array = Value::TextArray(vec![Some("a".to_owned()), None, Some(String::new())]);
    let cases: Vec<(&str, Vec<Value>)> = vec![
        ("boolean", vec![Value::Boolean(true), Value::Boolean(false)]),
        (
            "smallint",
            vec![
                Value::Integer(i16::MIN.into()),
                Value::Integer(i16::MAX.into()),
            ],
        ),
        (
            "integer",
            vec![
                Value::Integer(i32::MIN.into()),
                Value::Integer(i32::MAX.into()),
            ],
        ),
        (
            "bigint",
            vec![Value::Integer(i64::MIN), Value::Integer(i64::MAX)],
        ),
        (
            "real",
            vec![Value::Float(0.5), Value::Float(f64::NEG_INFINITY)],
        ),
        (
            "double precision",
            vec![
                Value::Float(5e-324),
                Value::Float(f64::MAX),
                Value::Float(f64::INFINITY),
                Value::Float(-0.0),
            ],
        ),
        ("text", vec![text(""), text("ü🦀\u{1}'\"\\")]),
        ("varchar", vec![text("v")]),
        ("name", vec![text("n")]),
        (
            "bytea",
            vec![Value::Bytes(vec![]), Value::Bytes(vec![0, 255, 1])],
        ),
        (
            "json",
            vec![Value::Json("{\"b\":1,  \"a\":[1.50]}".to_owned())],
        ),
        (
            "jsonb",
            vec![Value::Json("{\"a\": [1.50], \"b\": null}".to_owned())],
        ),
        (
            "timestamptz",
            vec![
                Value::Timestamp(0),
                Value::Timestamp(-1),
                Value::Timestamp(1_700_000_000_123_456),
                Value::Timestamp(-62_135_596_800_000_000),
            ],
        ),
        ("text[]", vec![Value::TextArray(vec![]), array.clone()]),
        ("varchar[]", vec![array.clone()]),
        ("name[]", vec![array]),
    ];
    for (kind, values) in cases {
        for value in values.into_iter().chain([Value::Null]) {
            let echo = statement(&format!("SELECT $1::{kind} AS echo"), vec![value.clone()]);
            let set = pool.query(&echo, 1).unwrap();
            assert_eq!(set.columns, ["echo"]);
            assert_eq!(set.rows, [[value]], "{kind}");
        }
    }
    let nan = statement("SELECT $1::float8", vec![Value::Float(f64::NAN)]);
    let set = pool.query(&nan, 1).unwrap();
    assert!(matches!(set.rows[0][0], Value::Float(value) if value.is_nan()));
}

#[test]
fn values_that_do_not_fit_their_type_are_refused_before_anything_is_done() {
    let schema = Schema::new();
    let pool = schema.pool();
    pool.execute(&sql(
        "CREATE TABLE t (s smallint, i integer, r real, t timestamptz, x text)",
    ))
    .unwrap();
    for (column, value) in [
        ("s", Value::Integer(32_768)),
        ("i", Value::Integer(i64::from(i32::MIN) - 1)),
        ("r", Value::Float(1e39)),
        ("t", Value::Timestamp(i64::MIN)),
        ("x", Value::Integer(1)),
        ("i", text("1")),
        ("i", Value::Float(1.0)),
        ("t", text("now")),
    ] {
        let good = sql("INSERT INTO t DEFAULT VALUES");
        let bad = statement(
            &format!("INSERT INTO t ({column}) VALUES ($1)"),
            vec![value],
        );
        // In a batch the statements around it have no effect either.
        for batch in [vec![bad.clone()], vec![good.clone(), bad, good]] {
            let failure = pool.batch(&batch).unwrap_err();
            assert_eq!(failure.kind, FailureKind::UnsupportedType, "{failure}");
        }
    }
    assert_eq!(one(&pool, "SELECT count(*) FROM t"), Value::Integer(0));
    let failure = pool
        .execute(&statement("SELECT 1", vec![Value::Null]))
        .unwrap_err();
    assert_eq!(failure.kind, FailureKind::UnsupportedType);
}

#[test]
fn other_types_and_infinite_times_fail_loudly() {
    let pool = Pool::new(settings()).unwrap();
    for expression in [
        "1::numeric",
        "now()::timestamp",
        "current_date",
        "ARRAY[1]",
        "'127.0.0.1'::inet",
        "interval '1 day'",
        "gen_random_uuid()",
        "ROW(1, 2)",
        "'infinity'::timestamptz",
        "'-infinity'::timestamptz",
        "ARRAY[['a'], ['b']]::text[]",
    ] {
        let failure = pool
            .query(&sql(&format!("SELECT {expression} AS odd")), 1)
            .unwrap_err();
        assert_eq!(failure.kind, FailureKind::UnsupportedType, "{expression}");
        assert!(failure.message.contains("odd"), "{failure}");
    }
    let parameter = statement("SELECT $1::numeric::text", vec![Value::Float(1.0)]);
    assert_eq!(
        pool.query(&parameter, 1).unwrap_err().kind,
        FailureKind::UnsupportedType
    );
    assert_eq!(one(&pool, "SELECT 1::bigint"), Value::Integer(1));
}

#[test]
fn a_batch_is_done_as_a_whole_or_not_at_all() {
    let schema = Schema::new();
    let pool = schema.pool();
    pool.execute(&sql("CREATE TABLE t (id bigint PRIMARY KEY)"))
        .unwrap();
    let insert = |id| statement("INSERT INTO t VALUES ($1)", vec![Value::Integer(id)]);
    let failure = pool
        .batch(&[insert(1), insert(2), insert(1), insert(3)])
        .unwrap_err();
    assert_eq!(failure.kind, FailureKind::Refused);
    assert_eq!(failure.sqlstate.as_deref(), Some("23505"));
    assert!(!failure.retryable && !failure.outcome_unknown);
    assert_eq!(one(&pool, "SELECT count(*) FROM t"), Value::Integer(0));

    // Thousands are sent at once, and run in their order.
    let mut many: Vec<_> = (0..5_000).map(insert).collect();
    many.push(sql("DELETE FROM t WHERE id >= 10"));
    many.extend((10..13).map(insert));
    let counts = pool.batch(&many).unwrap();
    assert_eq!(counts.len(), 5_004);
    assert_eq!(counts[5_000], 4_990);
    assert_eq!(one(&pool, "SELECT count(*) FROM t"), Value::Integer(13));
    assert_eq!(pool.batch(&[]).unwrap(), Vec::<u64>::new());
}

#[test]
fn a_statement_that_is_known_takes_one_round_trip_and_is_prepared_once() {
    let mut settings = settings();
    settings.max_size = 1;
    let pool = Pool::new(settings).unwrap();
    let add = |a| {
        statement(
            "SELECT $1::bigint + 1 /* prepared */",
            vec![Value::Integer(a)],
        )
    };
    for a in 0..20 {
        pool.query(&add(a), 1).unwrap();
    }
    assert_eq!(
        one(
            &pool,
            "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%1 /* prepared */'"
        ),
        Value::Integer(1)
    );
    // However many there are, a connection keeps a bounded number.
    for number in 0..200 {
        pool.query(&sql(&format!("SELECT {number}::bigint")), 1)
            .unwrap();
    }
    let Value::Integer(kept) = one(&pool, "SELECT count(*) FROM pg_prepared_statements") else {
        unreachable!("count is a number")
    };
    assert!((2..=64).contains(&kept), "{kept}");
}

#[test]
fn a_plan_that_a_change_of_the_table_made_stale_is_made_anew() {
    let schema = Schema::new();
    let pool = schema.pool();
    pool.execute(&sql("CREATE TABLE t AS SELECT 1::bigint AS a"))
        .unwrap();
    let all = sql("SELECT * FROM t");
    assert_eq!(pool.query(&all, 9).unwrap().columns, ["a"]);
    pool.execute(&sql("ALTER TABLE t ADD COLUMN b text DEFAULT 'x'"))
        .unwrap();
    let set = pool.query(&all, 9).unwrap();
    assert_eq!(set.rows, [[Value::Integer(1), text("x")]]);
    pool.execute(&sql("ALTER TABLE t DROP COLUMN a")).unwrap();
    let both = [sql("UPDATE t SET b = 'y'"), all.clone()];
    assert_eq!(pool.batch(&both).unwrap(), [1, 1]);
    assert_eq!(pool.query(&all, 9).unwrap().rows, [[text("y")]]);
}

#[test]
fn a_transaction_that_is_dropped_has_no_effect() {
    let schema = Schema::new();
    let pool = schema.pool();
    pool.execute(&sql("CREATE TABLE t (id bigint)")).unwrap();
    let transaction = pool.begin(Isolation::ReadCommitted, false).unwrap();
    transaction
        .execute(&sql("INSERT INTO t VALUES (1)"))
        .unwrap();
    drop(transaction);
    assert_eq!(one(&pool, "SELECT count(*) FROM t"), Value::Integer(0));

    let transaction = pool.begin(Isolation::Serializable, false).unwrap();
    transaction
        .execute(&sql("INSERT INTO t VALUES (1)"))
        .unwrap();
    transaction.commit().unwrap();
    assert_eq!(transaction.commit().unwrap_err().kind, FailureKind::Refused);
    assert_eq!(one(&pool, "SELECT count(*) FROM t"), Value::Integer(1));
}

#[test]
fn a_transaction_in_which_a_statement_failed_says_at_its_commit_that_it_was_rolled_back() {
    // The server answers such a COMMIT with success, and rolls back.
    let schema = Schema::new();
    let pool = schema.pool();
    pool.execute(&sql("CREATE TABLE t (id bigint PRIMARY KEY)"))
        .unwrap();
    let insert = sql("INSERT INTO t VALUES (1)");
    let transaction = pool.begin(Isolation::ReadCommitted, false).unwrap();
    transaction.execute(&insert).unwrap();
    transaction.execute(&insert).unwrap_err();
    let failure = transaction.commit().unwrap_err();
    assert_eq!(failure.sqlstate.as_deref(), Some("23505"));
    assert!(failure.message.contains("rolled back"), "{failure}");
    assert_eq!(one(&pool, "SELECT count(*) FROM t"), Value::Integer(0));

    // A savepoint mends it.
    let transaction = pool.begin(Isolation::ReadCommitted, false).unwrap();
    transaction.execute(&insert).unwrap();
    transaction.execute(&sql("SAVEPOINT a")).unwrap();
    transaction.execute(&insert).unwrap_err();
    transaction
        .execute(&sql("ROLLBACK TO SAVEPOINT a"))
        .unwrap();
    transaction.commit().unwrap();
    assert_eq!(one(&pool, "SELECT count(*) FROM t"), Value::Integer(1));
}

#[test]
fn statements_that_begin_a_transaction_run_while_nobody_waits_and_count_from_its_commit_on() {
    let schema = Schema::new();
    let pool = schema.pool();
    pool.execute(&sql("CREATE TABLE t (id bigint PRIMARY KEY)"))
        .unwrap();
    let insert = |id| statement("INSERT INTO t VALUES ($1)", vec![Value::Integer(id)]);
    let count = |pool: &Pool| one(pool, "SELECT count(*) FROM t");
    let observer = schema.pool();
    let session = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = '{}' AND state = 'idle in transaction' \
         AND query LIKE 'INSERT%'",
        schema.name
    );

    let begun = pool.begin_with(vec![insert(1), insert(2)], false).unwrap();
    // The server has done them although nothing was asked of the connection since.
    while one(&observer, &session) != Value::Integer(1) {
        std::thread::yield_now();
    }
    assert_eq!(count(&observer), Value::Integer(0));
    begun.commit().unwrap();
    assert_eq!(begun.commit().unwrap_err().kind, FailureKind::Refused);
    assert_eq!(count(&observer), Value::Integer(2));

    // What comes later in the transaction sees them.
    let begun = pool.begin_with(vec![insert(3)], false).unwrap();
    let seen = begun.query(&sql("SELECT count(*) FROM t"), 1).unwrap();
    assert_eq!(seen.rows, [[Value::Integer(3)]]);
    begun.execute(&insert(4)).unwrap();
    begun.commit().unwrap();
    assert_eq!(count(&observer), Value::Integer(4));

    // One that is dropped leaves nothing, and a connection that can be used.
    drop(pool.begin_with(vec![insert(5), insert(6)], false).unwrap());
    assert_eq!(count(&pool), Value::Integer(4));
    let many: Vec<_> = (10..3_000).map(insert).collect();
    pool.begin_with(many, false).unwrap().commit().unwrap();
    assert_eq!(count(&pool), Value::Integer(2_994));
    pool.begin_with(Vec::new(), false)
        .unwrap()
        .commit()
        .unwrap();
    // Whether the server makes it durable at once is a matter of this transaction alone.
    let durable = |transaction: &metalab_store_postgres::Transaction| {
        let shown = sql("SELECT current_setting('synchronous_commit')");
        transaction.query(&shown, 1).unwrap().rows
    };
    for (may_be_lost, expected) in [(true, "off"), (false, "on")] {
        let begun = pool.begin_with(vec![insert(5_000)], may_be_lost).unwrap();
        assert_eq!(durable(&begun), [[text(expected)]]);
    }
    assert_eq!(pool.size(), 1);
}

#[test]
fn a_statement_that_begins_a_transaction_and_fails_says_so_at_the_next_call() {
    let schema = Schema::new();
    let pool = schema.pool();
    pool.execute(&sql("CREATE TABLE t (id bigint PRIMARY KEY)"))
        .unwrap();
    let insert = |id| statement("INSERT INTO t VALUES ($1)", vec![Value::Integer(id)]);
    pool.execute(&insert(1)).unwrap();
    let begun = pool
        .begin_with(vec![insert(2), insert(1), insert(3)], false)
        .unwrap();
    let failure = begun.commit().unwrap_err();
    assert_eq!(failure.sqlstate.as_deref(), Some("23505"), "{failure}");
    assert!(!failure.outcome_unknown && !failure.retryable);
    let begun = pool.begin_with(vec![insert(2), insert(1)], false).unwrap();
    let failure = begun.execute(&insert(4)).unwrap_err();
    assert_eq!(failure.sqlstate.as_deref(), Some("23505"), "{failure}");
    let failure = begun.commit().unwrap_err();
    assert!(failure.message.contains("was rolled back"), "{failure}");
    assert_eq!(one(&pool, "SELECT count(*) FROM t"), Value::Integer(1));

    // What cannot be sent at all begins nothing.
    for (bad, state) in [
        (sql("SELECT * FROM nothing_of_this_name"), Some("42P01")),
        (sql("COMMIT"), None),
    ] {
        let failure = pool
            .begin_with(vec![insert(5), bad], false)
            .map(drop)
            .unwrap_err();
        assert_eq!(failure.sqlstate.as_deref(), state, "{failure}");
    }
    assert_eq!(one(&pool, "SELECT count(*) FROM t"), Value::Integer(1));

    // A plan that became stale meanwhile is told, and made anew the next time.
    let all = sql("SELECT * FROM t");
    pool.begin_with(vec![all.clone()], false)
        .unwrap()
        .commit()
        .unwrap();
    pool.execute(&sql("ALTER TABLE t ADD COLUMN a text"))
        .unwrap();
    pool.begin_with(vec![all.clone()], false)
        .unwrap()
        .commit()
        .ok();
    pool.begin_with(vec![all], false).unwrap().commit().unwrap();
    assert_eq!(pool.size(), 1);
}

#[test]
fn isolation_and_read_only_are_what_was_asked_for() {
    let pool = Pool::new(settings()).unwrap();
    for (isolation, name) in [
        (Isolation::ReadCommitted, "read committed"),
        (Isolation::RepeatableRead, "repeatable read"),
        (Isolation::Serializable, "serializable"),
    ] {
        for (read_only, switch) in [(false, "off"), (true, "on")] {
            let transaction = pool.begin(isolation, read_only).unwrap();
            let asked = transaction
                .query(
                    &sql(
                        "SELECT current_setting('transaction_isolation'), current_setting('transaction_read_only')",
                    ),
                    1,
                )
                .unwrap();
            assert_eq!(asked.rows, [[text(name), text(switch)]]);
        }
    }
}

#[test]
fn conflicts_of_transactions_are_told_as_passing() {
    let schema = Schema::new();
    let pool = schema.pool();
    pool.execute(&sql("CREATE TABLE t AS SELECT 0::bigint AS n"))
        .unwrap();
    let update = sql("UPDATE t SET n = n + 1");
    let first = pool.begin(Isolation::RepeatableRead, false).unwrap();
    first.query(&sql("SELECT n FROM t"), 1).unwrap();
    pool.execute(&update).unwrap();
    let failure = first.execute(&update).unwrap_err();
    assert_eq!(failure.sqlstate.as_deref(), Some("40001"));
    assert!(failure.retryable && !failure.outcome_unknown);
}

#[test]
fn nothing_but_the_transaction_itself_begins_or_ends_one() {
    let pool = Pool::new(settings()).unwrap();
    for text in [
        "BEGIN",
        "COMMIT",
        " -- x\n ROLLBACK",
        ";END",
        "COPY (SELECT 1) TO STDOUT",
        "SELECT '\0'",
    ] {
        let failure = pool.execute(&sql(text)).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Refused, "{text}");
        assert!(!failure.outcome_unknown);
        let transaction = pool.begin(Isolation::ReadCommitted, false).unwrap();
        assert!(transaction.execute(&sql(text)).is_err(), "{text}");
        assert!(transaction.batch(&[sql(text)]).is_err(), "{text}");
        transaction.commit().unwrap();
    }
    assert_eq!(pool.size(), 1);
}

#[test]
fn more_rows_or_bytes_than_allowed_are_too_large() {
    let mut settings = settings();
    settings.max_answer = 100_000;
    let pool = Pool::new(settings).unwrap();
    for (text, rows) in [
        ("SELECT generate_series(1, 11)", 10),
        ("SELECT generate_series(1, 1000000000)", 10),
        ("SELECT repeat('x', 100000)", 10),
        (
            "SELECT FROM (SELECT generate_series(1, 100000000)) many",
            u32::MAX,
        ),
    ] {
        let failure = pool.query(&sql(text), rows).unwrap_err();
        assert_eq!(failure.kind, FailureKind::TooLarge, "{text}");
        assert!(!failure.retryable);
    }
    let set = pool
        .query(&sql("SELECT generate_series(1::bigint, 10)"), 10)
        .unwrap();
    assert_eq!((set.rows.len(), set.affected), (10, 10));
}

#[test]
fn a_cursor_pages_by_rows_and_by_bytes_and_misses_nothing() {
    let mut settings = settings();
    settings.max_answer = 4 << 20;
    let pool = Pool::new(settings).unwrap();
    let transaction = pool.begin(Isolation::RepeatableRead, true).unwrap();
    // 300 rows of 100,000 bytes are more than an answer may have.
    let rows = statement(
        "SELECT n::bigint, repeat('x', 100000) FROM generate_series(1, $1::bigint) n ORDER BY n",
        vec![Value::Integer(300)],
    );
    let mut cursor = transaction.open_cursor(&rows).unwrap();
    let mut other = transaction
        .open_cursor(&sql("SELECT 'other'::text"))
        .unwrap();
    let mut seen = Vec::new();
    loop {
        let page = cursor.next(1_000, 1_000_000).unwrap();
        if page.rows.is_empty() {
            break;
        }
        assert_eq!(page.columns, ["n", "repeat"]);
        assert!(page.rows.len() <= 10, "{}", page.rows.len());
        seen.extend(page.rows.into_iter().map(|mut row| row.remove(0)));
    }
    assert_eq!(seen, (1..=300).map(Value::Integer).collect::<Vec<_>>());
    assert!(cursor.next(10, 10).unwrap().rows.is_empty());
    assert_eq!(
        other.next(u32::MAX, u32::MAX).unwrap().rows,
        [[text("other")]]
    );

    let mut small = transaction
        .open_cursor(&sql("SELECT generate_series(1::bigint, 1000)"))
        .unwrap();
    assert_eq!(small.next(7, u32::MAX).unwrap().rows.len(), 7);
    // One row comes even where there is no room for it.
    assert_eq!(small.next(7, 0).unwrap().rows, [[Value::Integer(8)]]);
    assert_eq!(small.next(0, 100).unwrap().rows, [[Value::Integer(9)]]);
    let rest = small.next(u32::MAX, u32::MAX).unwrap();
    assert_eq!(rest.rows.len(), 991);
}

#[test]
fn cursors_of_the_same_name_in_later_transactions_have_their_own_columns() {
    // A FETCH whose description was kept from an earlier transaction would be read with its types.
    let pool = Pool::new(settings()).unwrap();
    for (query, expected) in [
        ("SELECT 1::bigint", Value::Integer(1)),
        ("SELECT 'a'::text", text("a")),
        ("SELECT true", Value::Boolean(true)),
    ] {
        let transaction = pool.begin(Isolation::ReadCommitted, true).unwrap();
        let mut cursor = transaction.open_cursor(&sql(query)).unwrap();
        assert_eq!(cursor.next(10, 1000).unwrap().rows, [[expected]]);
    }
}

#[test]
fn a_cursor_outlives_no_transaction() {
    let pool = Pool::new(settings()).unwrap();
    let transaction = pool.begin(Isolation::ReadCommitted, true).unwrap();
    let mut cursor = transaction
        .open_cursor(&sql("SELECT generate_series(1, 10000)"))
        .unwrap();
    transaction.commit().unwrap();
    assert_eq!(cursor.next(10, 10).unwrap_err().kind, FailureKind::Refused);
}

#[test]
fn a_copy_brings_rows_in_and_one_that_is_dropped_brings_none() {
    let schema = Schema::new();
    let pool = schema.pool();
    pool.execute(&sql("CREATE TABLE t (id bigint, x text)"))
        .unwrap();
    let copy = "COPY t (id, x) FROM STDIN";

    let transaction = pool.begin(Isolation::ReadCommitted, false).unwrap();
    let mut writer = transaction.copy_in(copy).unwrap();
    assert_eq!(
        transaction.execute(&sql("SELECT 1")).unwrap_err().kind,
        FailureKind::Refused
    );
    // Lines may be cut anywhere.
    writer.write("1\ta\n2\t\\N").unwrap();
    writer.write("\n3\tü\\\\\n").unwrap();
    assert_eq!(writer.finish().unwrap(), 3);
    assert_eq!(writer.finish().unwrap_err().kind, FailureKind::Refused);
    transaction.commit().unwrap();
    let all = pool.query(&sql("SELECT x FROM t ORDER BY id"), 9).unwrap();
    assert_eq!(all.rows, [[text("a")], [Value::Null], [text("ü\\")]]);

    let transaction = pool.begin(Isolation::ReadCommitted, false).unwrap();
    let mut writer = transaction.copy_in(copy).unwrap();
    writer.write("4\tb\n").unwrap();
    drop(writer);
    let failure = transaction.commit().unwrap_err();
    assert!(failure.message.contains("COPY"), "{failure}");
    assert_eq!(one(&pool, "SELECT count(*) FROM t"), Value::Integer(3));

    let transaction = pool.begin(Isolation::ReadCommitted, false).unwrap();
    let _unfinished = transaction.copy_in(copy).unwrap();
    assert!(transaction.commit().is_err());
    assert_eq!(one(&pool, "SELECT count(*) FROM t"), Value::Integer(3));
}

#[test]
fn a_copy_of_bad_lines_says_what_the_server_says() {
    let schema = Schema::new();
    let pool = schema.pool();
    pool.execute(&sql("CREATE TABLE t (id bigint)")).unwrap();
    let transaction = pool.begin(Isolation::ReadCommitted, false).unwrap();
    let mut writer = transaction.copy_in("COPY t FROM STDIN").unwrap();
    let line = "no number\n".repeat(1000);
    let failure = (0..10_000)
        .find_map(|_| writer.write(&line).err())
        .unwrap_or_else(|| writer.finish().unwrap_err());
    assert_eq!(failure.sqlstate.as_deref(), Some("22P02"), "{failure}");
    drop(writer);
    assert!(transaction.commit().is_err());
    for not_in in ["SELECT 1", "COPY t TO STDOUT", "COPY absent FROM STDIN"] {
        let transaction = pool.begin(Isolation::ReadCommitted, false).unwrap();
        assert!(transaction.copy_in(not_in).is_err(), "{not_in}");
    }
    assert_eq!(one(&pool, "SELECT count(*) FROM t"), Value::Integer(0));
    assert!(pool.size() <= 1);
}

#[test]
fn what_a_statement_leaves_in_the_session_is_gone_for_the_next_user() {
    let mut settings = settings();
    settings.max_size = 1;
    let pool = Pool::new(settings).unwrap();
    let lock = random_name("").len();
    let before = one(&pool, "SELECT current_setting('statement_timeout')");
    for text in [
        "SET work_mem = '1MB'",
        "SELECT set_config('statement_timeout', '1h', false)",
        "CREATE TEMPORARY TABLE left_over ()",
        "LISTEN left_over",
        &format!("SELECT pg_advisory_lock({lock})::text"),
    ] {
        pool.execute(&sql(text)).unwrap();
        pool.execute(&sql(text)).unwrap();
    }
    let transaction = pool.begin(Isolation::ReadCommitted, false).unwrap();
    transaction
        .execute(&sql("CREATE TEMPORARY TABLE left_over ()"))
        .unwrap();
    transaction.commit().unwrap();
    assert_eq!(
        one(&pool, "SELECT current_setting('statement_timeout')"),
        before
    );
    assert_ne!(
        one(&pool, "SELECT current_setting('work_mem')"),
        text("1MB")
    );
    assert_eq!(
        one(&pool, "SELECT to_regclass('pg_temp.left_over')::text"),
        Value::Null
    );
    let held =
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()";
    assert_eq!(one(&pool, held), Value::Integer(0));
    assert_eq!(pool.size(), 1);
}
