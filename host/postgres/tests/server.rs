//! The pool: its bounds, servers that go away, and who may call it from where.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Schema, one, settings, settings_of, sql};
use metalab_store_cluster::Cluster;
use metalab_store_postgres::{FailureKind, Isolation, Pool, Value};
use std::io::{ErrorKind, Read, Write, copy};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Barrier, mpsc};
use std::thread;
use std::time::Duration;

/// A deadline that is reached in a test.
const SOON: Duration = Duration::from_millis(300);

#[test]
fn five_hundred_pools_leave_no_session_behind() {
    let schema = Schema::new();
    let observer = Pool::new(settings()).unwrap();
    for round in 0..500 {
        let pool = schema.pool();
        assert_eq!(one(&pool, "SELECT 1::bigint"), Value::Integer(1));
        if round % 3 == 0 {
            drop(pool.begin(Isolation::ReadCommitted, true).unwrap());
        }
        if round % 2 == 0 {
            pool.close();
            assert_eq!(pool.size(), 0);
            let failure = pool.execute(&sql("SELECT 1")).unwrap_err();
            assert_eq!(failure.kind, FailureKind::Unreachable);
        }
    }
    schema.wait_for_sessions(&observer, 0);
}

#[test]
fn sixty_four_threads_share_a_pool_of_three_and_no_more() {
    let mut schema = Schema::new();
    schema.settings.max_size = 3;
    let pool = schema.pool();
    pool.execute(&sql("CREATE TABLE t (n bigint)")).unwrap();
    let start = Barrier::new(64);
    let observer = Pool::new(settings()).unwrap();
    thread::scope(|scope| {
        for number in 0..64 {
            let (pool, start, schema, observer) = (&pool, &start, &schema, &observer);
            scope.spawn(move || {
                start.wait();
                for round in 0..20 {
                    if round % 5 == 0 {
                        let transaction = pool.begin(Isolation::ReadCommitted, false).unwrap();
                        transaction
                            .execute(&sql("INSERT INTO t VALUES (1)"))
                            .unwrap();
                        transaction.commit().unwrap();
                    } else {
                        pool.execute(&sql("INSERT INTO t VALUES (1)")).unwrap();
                    }
                }
                if number % 8 == 0 {
                    assert!(schema.sessions(observer) <= 3);
                }
            });
        }
    });
    assert_eq!(
        one(&pool, "SELECT count(*) FROM t"),
        Value::Integer(64 * 20)
    );
    assert!(pool.size() <= 3);
}

#[test]
fn who_waits_too_long_for_a_connection_is_told_so() {
    let mut schema = Schema::new();
    schema.settings.max_size = 1;
    schema.settings.connect_timeout = SOON;
    let pool = schema.pool();
    let transaction = pool.begin(Isolation::ReadCommitted, false).unwrap();
    let failure = pool.execute(&sql("SELECT 1")).unwrap_err();
    assert_eq!(failure.kind, FailureKind::PoolExhausted);
    assert!(failure.retryable && !failure.outcome_unknown);
    drop(transaction);
    pool.execute(&sql("SELECT 1")).unwrap();
}

#[test]
fn a_transaction_that_is_held_for_too_long_gives_its_connection_to_others() {
    let mut schema = Schema::new();
    schema.settings.max_size = 1;
    schema.settings.transaction_max_age = Duration::ZERO;
    let pool = schema.pool();
    let held = pool.begin(Isolation::ReadCommitted, false).unwrap();
    pool.execute(&sql("CREATE TABLE t ()")).unwrap();
    let failure = held.execute(&sql("SELECT 1")).unwrap_err();
    assert!(failure.message.contains("over"), "{failure}");
    assert!(held.commit().is_err());
    assert_eq!(pool.size(), 1);
}

#[test]
fn what_is_left_of_a_dropped_transaction_keeps_no_connection() {
    let mut schema = Schema::new();
    schema.settings.max_size = 1;
    let pool = schema.pool();
    pool.execute(&sql("CREATE TABLE t ()")).unwrap();
    let transaction = pool.begin(Isolation::ReadCommitted, true).unwrap();
    let mut cursor = transaction.open_cursor(&sql("SELECT 1")).unwrap();
    drop(transaction);
    pool.execute(&sql("SELECT 1")).unwrap();
    assert!(cursor.next(1, 1).is_err());
    let transaction = pool.begin(Isolation::ReadCommitted, false).unwrap();
    let mut copy = transaction.copy_in("COPY t FROM STDIN").unwrap();
    drop(transaction);
    pool.execute(&sql("SELECT 1")).unwrap();
    assert!(copy.write("\n").is_err());
    drop(copy);
    assert_eq!(pool.size(), 1);
}

#[test]
fn a_statement_that_takes_too_long_is_cancelled_and_its_connection_stays() {
    let mut schema = Schema::new();
    schema.settings.max_size = 1;
    schema.settings.statement_timeout = SOON;
    schema.settings.transaction_timeout = SOON;
    let pool = schema.pool();
    let session = one(&pool, "SELECT pg_backend_pid()::bigint");
    let sleep = sql("SELECT pg_sleep(600)::text");
    let failure = pool.query(&sleep, 1).unwrap_err();
    assert_eq!(failure.kind, FailureKind::TimedOut);
    assert_eq!(failure.sqlstate.as_deref(), Some("57014"));
    assert!(failure.retryable && !failure.outcome_unknown);
    let transaction = pool.begin(Isolation::ReadCommitted, false).unwrap();
    let failure = transaction.execute(&sleep).unwrap_err();
    assert_eq!(failure.kind, FailureKind::TimedOut);
    assert!(transaction.commit().is_err());
    drop(transaction);
    let failure = pool.batch(&[sql("SELECT 1"), sleep]).unwrap_err();
    assert_eq!(failure.kind, FailureKind::TimedOut);
    assert_eq!(one(&pool, "SELECT pg_backend_pid()::bigint"), session);
}

#[test]
fn a_statement_that_the_server_does_not_end_is_given_up_with_its_connection() {
    // The user's own options let the server wait for ever; this side does not.
    let mut schema = Schema::new();
    schema.settings.statement_timeout = SOON;
    schema
        .settings
        .parameters
        .retain(|(name, _)| name != "options");
    schema
        .settings
        .parameters
        .push(("options".to_owned(), "-cstatement_timeout=0".to_owned()));
    let pool = schema.pool();
    let session = one(&pool, "SELECT pg_backend_pid()::bigint");
    let failure = pool
        .query(&sql("SELECT pg_sleep(600)::text"), 1)
        .unwrap_err();
    assert_eq!(failure.kind, FailureKind::TimedOut);
    assert_ne!(one(&pool, "SELECT pg_backend_pid()::bigint"), session);
}

#[test]
fn a_session_that_was_ended_while_idle_is_replaced_unseen() {
    let schema = Schema::new();
    let pool = schema.pool();
    let observer = Pool::new(settings()).unwrap();
    for _ in 0..20 {
        let Value::Integer(session) = one(&pool, "SELECT pg_backend_pid()::bigint") else {
            unreachable!("a process has a number")
        };
        let ended = format!("SELECT pg_terminate_backend({session})");
        assert_eq!(one(&observer, &ended), Value::Boolean(true));
        schema.wait_for_sessions(&observer, 0);
    }
    assert_eq!(pool.size(), 1);
}

#[test]
fn a_session_that_is_ended_in_a_transaction_leaves_no_doubt() {
    let schema = Schema::new();
    let pool = schema.pool();
    pool.execute(&sql("CREATE TABLE t ()")).unwrap();
    let transaction = pool.begin(Isolation::ReadCommitted, false).unwrap();
    let set = transaction
        .query(&sql("SELECT pg_backend_pid()::bigint"), 1)
        .unwrap();
    let Value::Integer(session) = set.rows[0][0] else {
        unreachable!("a process has a number")
    };
    transaction
        .execute(&sql("INSERT INTO t DEFAULT VALUES"))
        .unwrap();
    let observer = Pool::new(settings()).unwrap();
    one(
        &observer,
        &format!("SELECT pg_terminate_backend({session})"),
    );
    schema.wait_for_sessions(&observer, 0);
    let failure = transaction
        .execute(&sql("INSERT INTO t DEFAULT VALUES"))
        .unwrap_err();
    assert_eq!(failure.kind, FailureKind::Disconnected);
    assert!(failure.retryable && !failure.outcome_unknown, "{failure:?}");
    assert!(transaction.commit().is_err());
    assert_eq!(one(&pool, "SELECT count(*) FROM t"), Value::Integer(0));
}

#[test]
fn a_server_that_is_stopped_answers_at_once_and_works_again_after_its_start() {
    let mut cluster = Cluster::start(&[]).unwrap();
    let mut settings = settings_of(&cluster.uri());
    // It would show: the test would take this long.
    settings.connect_timeout = Duration::from_hours(1);
    let pool = Pool::new(settings).unwrap();
    pool.execute(&sql("CREATE TABLE t (n bigint)")).unwrap();
    let transaction = pool.begin(Isolation::ReadCommitted, false).unwrap();
    transaction
        .execute(&sql("INSERT INTO t VALUES (1)"))
        .unwrap();
    for kill in [false, true] {
        if kill {
            cluster.kill().unwrap();
        } else {
            cluster.stop().unwrap();
        }
        let failure = transaction.commit().unwrap_err();
        assert!(
            kill || failure.kind == FailureKind::Disconnected,
            "{failure}"
        );
        // All at once, too: none waits for another one's attempt.
        thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    let failure = pool.execute(&sql("INSERT INTO t VALUES (2)")).unwrap_err();
                    assert_eq!(failure.kind, FailureKind::Unreachable, "{failure}");
                    assert!(failure.retryable && !failure.outcome_unknown);
                });
            }
        });
        cluster.restart().unwrap();
        // The first ones may come before a connection is made.
        while pool.execute(&sql("SELECT 1")).is_err() {
            thread::yield_now();
        }
        assert_eq!(one(&pool, "SELECT count(*) FROM t"), Value::Integer(0));
        // An idle connection that the server lost with its restart is not given out.
        cluster.restart().unwrap();
        assert_eq!(one(&pool, "SELECT count(*) FROM t"), Value::Integer(0));
    }
}

#[test]
fn a_server_that_hangs_is_left_after_the_deadline() {
    let cluster = Cluster::start(&[]).unwrap();
    let mut settings = settings_of(&cluster.uri());
    settings.connect_timeout = SOON;
    settings.statement_timeout = SOON;
    settings.max_size = 1;
    let pool = Pool::new(settings).unwrap();
    pool.execute(&sql("SELECT 1")).unwrap();
    cluster.freeze(true).unwrap();
    let failure = pool.execute(&sql("SELECT 1")).unwrap_err();
    assert_eq!(failure.kind, FailureKind::TimedOut);
    assert!(failure.retryable && failure.outcome_unknown);
    let failure = pool.execute(&sql("SELECT 1")).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Unreachable);
    cluster.freeze(false).unwrap();
    while pool.execute(&sql("SELECT 1")).is_err() {
        thread::yield_now();
    }
}

/// Passes on what two ends say to each other, until one of them hangs up.
fn connect(client: &TcpStream, server: &TcpStream) {
    for (from, to) in [(client, server), (server, client)] {
        let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
        thread::spawn(move || {
            drop(copy(&mut from, &mut to));
            drop(to.shutdown(Shutdown::Both));
        });
    }
}

/// Failure: whoever asked a server that was known not to answer waited again for as long as a connection may take. Consequence:
/// with a server that swallows what it is sent, a put in a minute took ten seconds more. Fix: a thread of the pool's own tries.
#[test]
fn a_server_that_did_not_answer_is_tried_again_and_nobody_waits_for_it() {
    let real = settings();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut gated = real.clone();
    gated.hosts = vec![(
        "127.0.0.1".to_owned(),
        listener.local_addr().unwrap().port(),
    )];
    gated.tls_mode = metalab_store_postgres::TlsMode::Disable;
    // A caller that waits for it comes back when the attempt is over, and that shows.
    gated.connect_timeout = Duration::from_secs(20);
    let (attempts, attempt) = mpsc::channel();
    thread::spawn(move || {
        // It hangs up at first.
        drop(listener.accept().unwrap());
        for stream in listener.incoming() {
            if attempts.send(stream.unwrap()).is_err() {
                return;
            }
        }
    });
    let ask = |pool: &Pool| {
        let failure = pool.execute(&sql("SELECT 1")).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Unreachable, "{failure}");
    };
    let pool = Pool::new(gated).unwrap();
    ask(&pool);
    ask(&pool);
    // The one that asked is back, and what it began waits for an answer still.
    let mut held: TcpStream = attempt.recv().unwrap();
    held.set_nonblocking(true).unwrap();
    let mut said = Vec::new();
    let mut is_waiting = |held: &mut TcpStream| {
        let end = held.read_to_end(&mut said);
        end.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    };
    assert!(is_waiting(&mut held));
    for _ in 0..5 {
        ask(&pool);
    }
    // Nobody began another one.
    assert!(is_waiting(&mut held) && attempt.try_recv().is_err());
    assert_eq!(pool.size(), 1);
    // Once it is answered, all are.
    held.set_nonblocking(false).unwrap();
    let (host, port) = &real.hosts[0];
    let mut server = TcpStream::connect((host.as_str(), *port)).unwrap();
    server.write_all(&said).unwrap();
    connect(&held, &server);
    while pool.execute(&sql("SELECT 1")).is_err() {
        thread::yield_now();
    }
    assert_eq!(pool.size(), 1);
    pool.close();
}

#[test]
fn a_server_made_read_only_refuses_writes_and_reads_on() {
    let mut cluster = Cluster::start(&[]).unwrap();
    let pool = Pool::new(settings_of(&cluster.uri())).unwrap();
    pool.execute(&sql("CREATE TABLE t ()")).unwrap();
    cluster
        .configure("default_transaction_read_only = on\n")
        .unwrap();
    cluster.restart().unwrap();
    let failure = pool
        .execute(&sql("INSERT INTO t DEFAULT VALUES"))
        .unwrap_err();
    assert_eq!(failure.sqlstate.as_deref(), Some("25006"));
    assert_eq!(one(&pool, "SELECT count(*) FROM t"), Value::Integer(0));
}

#[test]
fn a_server_without_room_refuses_and_is_asked_again_later() {
    let cluster = Cluster::start(&[
        ("max_connections", "2"),
        ("superuser_reserved_connections", "0"),
        ("max_wal_senders", "0"),
    ])
    .unwrap();
    let settings = settings_of(&cluster.uri());
    let [first, second, third] = [(); 3].map(|()| Pool::new(settings.clone()).unwrap());
    let held = [&first, &second].map(|pool| pool.begin(Isolation::ReadCommitted, true).unwrap());
    let failure = third.execute(&sql("SELECT 1")).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Unreachable);
    assert_eq!(failure.sqlstate.as_deref(), Some("53300"));
    assert!(failure.retryable);
    drop(held);
    first.close();
    while third.execute(&sql("SELECT 1")).is_err() {
        thread::yield_now();
    }
}

#[test]
fn no_message_holds_the_password() {
    const PASSWORD: &str = "hunter2-äöü";
    let mut settings = settings();
    settings.password = Some(PASSWORD.to_owned());
    assert!(!format!("{settings:?}").contains("hunter2"));
    let pool = Pool::new(settings.clone()).unwrap();
    assert!(!format!("{pool:?}").contains("hunter2"));
    let repeat = format!("DO $$ BEGIN RAISE EXCEPTION 'password {PASSWORD}'; END $$");
    let failure = pool.execute(&sql(&repeat)).unwrap_err();
    assert_eq!(failure.message, "password ***");

    // A server that repeats what it is told.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    settings.hosts = vec![(
        "127.0.0.1".to_owned(),
        listener.local_addr().unwrap().port(),
    )];
    settings.tls_mode = metalab_store_postgres::TlsMode::Disable;
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut buffer = [0; 4096];
        assert!(stream.read(&mut buffer).unwrap() > 0);
        // It asks for the password in clear.
        stream.write_all(b"R\0\0\0\x08\0\0\0\x03").unwrap();
        let length = stream.read(&mut buffer).unwrap();
        let said = String::from_utf8_lossy(&buffer[5..length - 1]).into_owned();
        assert_eq!(said, PASSWORD);
        let fields = format!("SFATAL\0VFATAL\0C28P01\0Mwrong: {said}\u{1b}[2J\0\0");
        let mut message = vec![b'E'];
        message.extend(u32::try_from(fields.len() + 4).unwrap().to_be_bytes());
        message.extend(fields.as_bytes());
        stream.write_all(&message).unwrap();
    });
    let failure = Pool::new(settings)
        .unwrap()
        .execute(&sql("SELECT 1"))
        .unwrap_err();
    server.join().unwrap();
    assert_eq!(failure.kind, FailureKind::Unreachable);
    assert_eq!(failure.sqlstate.as_deref(), Some("28P01"));
    assert!(!failure.retryable);
    assert_eq!(
        failure.message,
        "the server refused the connection: wrong: *** [2J"
    );
}

#[test]
fn garbage_instead_of_a_server_is_no_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut settings = settings();
    settings.hosts = vec![(
        "127.0.0.1".to_owned(),
        listener.local_addr().unwrap().port(),
    )];
    let answers: [&[u8]; 4] = [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"R\xff\xff\xff\xff",
        b"E\0\0\0\x04",
        b"",
    ];
    let server = thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buffer = [0; 4096];
            assert!(stream.read(&mut buffer).unwrap() > 0);
            stream.write_all(answer).unwrap();
        }
    });
    settings.tls_mode = metalab_store_postgres::TlsMode::Disable;
    settings.connect_timeout = Duration::from_secs(20);
    for answer in answers {
        let failure = Pool::new(settings.clone())
            .unwrap()
            .execute(&sql("SELECT 1"))
            .unwrap_err();
        assert_eq!(failure.kind, FailureKind::Unreachable, "{answer:?}");
    }
    server.join().unwrap();
}

#[test]
fn the_second_host_is_tried_when_the_first_does_not_answer() {
    // It takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let absent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    let mut settings = settings();
    settings
        .hosts
        .insert(0, ("127.0.0.1".to_owned(), port(&absent)));
    drop(absent);
    Pool::new(settings.clone())
        .unwrap()
        .execute(&sql("SELECT 1"))
        .unwrap();
    settings.hosts = vec![("127.0.0.1".to_owned(), port(&silent))];
    settings.connect_timeout = SOON;
    let failure = Pool::new(settings)
        .unwrap()
        .execute(&sql("SELECT 1"))
        .unwrap_err();
    assert_eq!(failure.kind, FailureKind::Unreachable);
}

#[test]
fn a_socket_directory_is_a_host() {
    let cluster = Cluster::start(&[]).unwrap();
    let mut settings = settings_of(&cluster.uri());
    settings.hosts[0].0 = cluster.directory().to_str().unwrap().to_owned();
    // As with libpq, sockets of this machine are not encrypted.
    settings.tls_mode = metalab_store_postgres::TlsMode::Require;
    let pool = Pool::new(settings).unwrap();
    assert_eq!(one(&pool, "SELECT inet_client_addr()::text"), Value::Null);
}

/// Everything that blocks or ends something, in the place where it is called.
fn use_everything() {
    let pool = Pool::new(settings()).unwrap();
    assert_eq!(one(&pool, "SELECT 1::bigint"), Value::Integer(1));
    pool.batch(&[sql("SELECT 1"), sql("SELECT 2")]).unwrap();
    let transaction = pool.begin(Isolation::ReadCommitted, false).unwrap();
    transaction
        .execute(&sql("CREATE TEMPORARY TABLE t (n bigint) ON COMMIT DROP"))
        .unwrap();
    let mut copy = transaction.copy_in("COPY t FROM STDIN").unwrap();
    copy.write("1\n").unwrap();
    copy.finish().unwrap();
    let mut cursor = transaction.open_cursor(&sql("SELECT n FROM t")).unwrap();
    assert_eq!(cursor.next(9, 999).unwrap().rows.len(), 1);
    drop(cursor);
    transaction.commit().unwrap();
    drop(transaction);
    let transaction = pool.begin(Isolation::ReadCommitted, false).unwrap();
    transaction
        .execute(&sql("CREATE TEMPORARY TABLE t (n bigint)"))
        .unwrap();
    drop(transaction.copy_in("COPY t FROM STDIN").unwrap());
    drop(transaction);
    let mut broken = settings();
    broken.hosts = vec![("127.0.0.1".to_owned(), 1)];
    assert!(
        Pool::new(broken)
            .unwrap()
            .execute(&sql("SELECT 1"))
            .is_err()
    );
    pool.close();
}

#[tokio::test]
async fn it_works_in_a_task_of_a_runtime_of_one_thread() {
    use_everything();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_works_in_a_task_of_a_runtime_of_many_threads() {
    use_everything();
    tokio::task::spawn_blocking(use_everything).await.unwrap();
    tokio::spawn(async { use_everything() }).await.unwrap();
}

#[test]
fn it_works_in_a_plain_thread() {
    use_everything();
}
