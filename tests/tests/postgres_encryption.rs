//! A store whose locator asks for encryption, against a real server with a certificate of the test's own authority.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use metalab_store::types::{Expectation, IndexStanding, RunRecord, Status};
use metalab_store::{Error, Store, StoreConfig};
use metalab_store_cluster::Cluster;
use metalab_store_postgres::Value;
use metalab_store_tests::command;
use metalab_store_tests::database::{self, Schema};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::fs;
use std::path::Path;

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut parameters = CertificateParams::default();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap()
}

/// Gives a server a certificate for `localhost`, and not for the address of the same host.
fn encrypt(cluster: &mut Cluster, authority: &CertifiedIssuer<'static, KeyPair>) {
    let key = KeyPair::generate().unwrap();
    let parameters = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = parameters.signed_by(&key, authority).unwrap().pem();
    let file = |name: &str, content: &str| {
        let path = cluster.add_file(name, content.as_bytes()).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let certificate = file("server.crt", &certificate);
    let key = file("server.key", &key.serialize_pem());
    cluster
        .configure(&format!(
            "ssl = on\nssl_cert_file = '{certificate}'\nssl_key_file = '{key}'\n"
        ))
        .unwrap();
    cluster.restart().unwrap();
}

/// Returns the locator of a store of its own on a server.
fn locator(schema: &Schema, root: &Path, host: &str, parameters: &str) -> String {
    let uri = schema.uri.replace("127.0.0.1", host);
    assert!(uri.contains(host), "{uri}");
    let (before, after) = uri.split_once("://").unwrap();
    let user_and_rest = match after.split_once('@') {
        Some((user, rest)) => format!("{}:hunter2@{rest}", user.split(':').next().unwrap()),
        None => format!("lab:hunter2@{after}"),
    };
    let separator = if after.contains('?') { '&' } else { '?' };
    format!(
        "{before}://{user_and_rest}{separator}file_root={}&schema={}&experiment_id=a:1&{parameters}",
        root.display(),
        schema.name
    )
}

/// Writes a run, and says whether the database was told of it through an encrypted connection; none: it was not told.
fn is_encrypted(schema: &Schema, config: &StoreConfig, name: &str) -> Option<bool> {
    let store: Store = config.connect().unwrap();
    let record = RunRecord::new("one", Status::Success);
    store
        .put_run_record(&record, &Expectation::Anything)
        .unwrap();
    // Whatever the database does, the answer is right.
    assert_eq!(store.list_run_records(None).unwrap().records.len(), 1);
    let state = store.index_state().unwrap();
    let encrypted = match state.standing {
        IndexStanding::Current => {
            let rows = schema.rows(&format!(
                "SELECT bool_and(ssl) FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) WHERE application_name = '{name}'"
            ));
            Some(rows[0][0] == Value::Boolean(true))
        }
        IndexStanding::Unreachable => {
            let refused = store.rebuild_index().err().unwrap();
            let Error::Database(data) = &refused else {
                panic!("{refused:?}");
            };
            assert!(data.retryable && data.sqlstate.is_none(), "{data:?}");
            let shown = format!("{state:?} {refused:?} {refused} {config:?}");
            assert!(!shown.contains("hunter2"), "{shown}");
            assert!(state.trouble.is_some_and(|trouble| !trouble.is_empty()));
            None
        }
        other => panic!("{other:?}"),
    };
    store.close().unwrap();
    encrypted
}

#[test]
fn a_store_is_told_through_the_encryption_that_its_locator_asks_for_or_not_at_all() {
    let (ours, other) = (authority(), authority());
    let mut cluster = Cluster::start(&[]).unwrap();
    encrypt(&mut cluster, &ours);
    let schema = Schema::on(&cluster.uri(), "lab");
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, content: String| {
        let path = directory.path().join(name);
        fs::write(&path, content).unwrap();
        format!("&sslrootcert={}", path.display())
    };
    let (our, other) = (file("ours.pem", ours.pem()), file("other.pem", other.pem()));
    let cases = [
        ("localhost", "sslmode=disable".to_owned(), Some(false)),
        ("localhost", String::new(), Some(true)),
        ("127.0.0.1", "sslmode=require".to_owned(), Some(true)),
        ("127.0.0.1", format!("sslmode=verify-ca{our}"), Some(true)),
        ("localhost", format!("sslmode=verify-full{our}"), Some(true)),
        ("127.0.0.1", format!("sslmode=verify-full{our}"), None),
        ("localhost", format!("sslmode=verify-full{other}"), None),
        ("localhost", format!("sslmode=verify-ca{other}"), None),
    ];
    for (number, (host, parameters, expected)) in cases.into_iter().enumerate() {
        let root = directory.path().join(number.to_string());
        fs::create_dir(&root).unwrap();
        let name = format!("case{number}");
        let locator = locator(
            &schema,
            &root,
            host,
            &format!("application_name={name}&{parameters}"),
        );
        let config = database::config(locator.trim_end_matches('&'));
        assert_eq!(
            is_encrypted(&schema, &config, &name),
            expected,
            "{host} {parameters}"
        );
    }
}

#[test]
fn without_a_file_of_its_own_a_store_trusts_whom_the_system_trusts() {
    let (ours, other) = (authority(), authority());
    let mut cluster = Cluster::start(&[]).unwrap();
    encrypt(&mut cluster, &ours);
    let schema = Schema::on(&cluster.uri(), "lab");
    let root = tempfile::tempdir().unwrap();
    for (name, authority, expected) in [("ours", &ours, Some(0)), ("other", &other, Some(1))] {
        let system = root.path().join(name);
        fs::write(&system, authority.pem()).unwrap();
        for parameters in [
            "sslmode=verify-full",
            "sslmode=verify-full&sslrootcert=system",
        ] {
            // The roots of the system are those of the environment, where it names any.
            let mut command = command();
            command.args([
                "-s",
                &locator(&schema, root.path(), "localhost", parameters),
            ]);
            command.arg("rebuild-index").env("SSL_CERT_FILE", &system);
            let output = command.env_remove("SSL_CERT_DIR").output().unwrap();
            assert_eq!(output.status.code(), expected, "{name} {output:?}");
        }
    }
    assert_eq!(schema.count("metalab_store_directories"), 1);
}

#[test]
fn a_store_that_asks_for_encryption_tells_a_server_without_it_nothing() {
    let cluster = Cluster::start(&[]).unwrap();
    let schema = Schema::on(&cluster.uri(), "lab");
    for (parameters, expected) in [("sslmode=prefer", Some(false)), ("sslmode=require", None)] {
        let root = tempfile::tempdir().unwrap();
        let parameters = format!("application_name=lab&{parameters}");
        let config = database::config(&locator(&schema, root.path(), "localhost", &parameters));
        assert_eq!(is_encrypted(&schema, &config, "lab"), expected);
    }
}
