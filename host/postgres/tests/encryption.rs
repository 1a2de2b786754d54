//! Encryption, against a server with a certificate of the test's own authority.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "other tests use the rest")]
mod common;

use common::{one, settings_of};
use metalab_store_cluster::Cluster;
use metalab_store_postgres::{FailureKind, Pool, Settings, TlsMode, Value};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::path::Path;

/// A certificate and its key, as PEM.
struct Identity {
    certificate: String,
    key: String,
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut parameters = CertificateParams::default();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap()
}

fn identity(names: &[&str], authority: &CertifiedIssuer<'static, KeyPair>) -> Identity {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let key = KeyPair::generate().unwrap();
    let parameters = CertificateParams::new(names).unwrap();
    Identity {
        certificate: parameters.signed_by(&key, authority).unwrap().pem(),
        key: key.serialize_pem(),
    }
}

fn encrypted_cluster(identity: &Identity) -> Cluster {
    let mut cluster = Cluster::start(&[]).unwrap();
    let certificate = cluster
        .add_file("server.crt", identity.certificate.as_bytes())
        .unwrap();
    let key = cluster
        .add_file("server.key", identity.key.as_bytes())
        .unwrap();
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    cluster
        .configure(&format!(
            "ssl = on\nssl_cert_file = '{}'\nssl_key_file = '{}'\n",
            path(&certificate),
            path(&key)
        ))
        .unwrap();
    cluster.restart().unwrap();
    cluster
}

fn with(settings: &Settings, mode: TlsMode, host: &str, ca: Option<&Path>) -> Pool {
    let mut settings = settings.clone();
    settings.tls_mode = mode;
    settings.hosts[0].0 = host.to_owned();
    settings.ca_file = ca.map(|ca| ca.to_str().unwrap().to_owned());
    Pool::new(settings).unwrap()
}

const IS_ENCRYPTED: &str = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";

/// Says whether connections are encrypted; none: there is no connection.
fn is_encrypted(pool: &Pool) -> Option<bool> {
    let ssl = common::sql(IS_ENCRYPTED);
    match pool.query(&ssl, 1) {
        Ok(set) => Some(set.rows[0][0] == Value::Boolean(true)),
        Err(failure) => {
            assert_eq!(failure.kind, FailureKind::Unreachable, "{failure}");
            None
        }
    }
}

#[test]
fn each_mode_trusts_what_libpq_trusts() {
    let ours = authority();
    let other = authority();
    let cluster = encrypted_cluster(&identity(&["localhost"], &ours));
    let settings = settings_of(&cluster.uri());
    let directory = cluster.directory();
    let our_file = directory.join("ours.pem");
    let other_file = directory.join("other.pem");
    std::fs::write(&our_file, ours.pem()).unwrap();
    std::fs::write(&other_file, other.pem()).unwrap();
    let (our, other) = (Some(our_file.as_path()), Some(other_file.as_path()));
    // The certificate is for localhost, and not for the address of the same host.
    let cases = [
        (TlsMode::Disable, "localhost", None, Some(false)),
        (TlsMode::Prefer, "127.0.0.1", None, Some(true)),
        (TlsMode::Require, "127.0.0.1", None, Some(true)),
        (TlsMode::Require, "127.0.0.1", our, Some(true)),
        (TlsMode::Require, "127.0.0.1", other, None),
        (TlsMode::VerifyCa, "127.0.0.1", our, Some(true)),
        (TlsMode::VerifyCa, "localhost", other, None),
        (TlsMode::VerifyFull, "localhost", our, Some(true)),
        (TlsMode::VerifyFull, "127.0.0.1", our, None),
        (TlsMode::VerifyFull, "localhost", other, None),
        // The system knows neither authority.
        (TlsMode::VerifyFull, "localhost", None, None),
    ];
    for (mode, host, ca, expected) in cases {
        let mut made = settings.clone();
        made.tls_mode = mode;
        made.ca_file = ca.map(|ca: &Path| ca.to_str().unwrap().to_owned());
        if Pool::new(made).is_err() {
            // A machine without any certificates says so before it connects.
            assert!(ca.is_none() && expected.is_none(), "{mode:?}");
            continue;
        }
        let pool = with(&settings, mode, host, ca);
        assert_eq!(is_encrypted(&pool), expected, "{mode:?} {host} {ca:?}");
    }
}

#[test]
fn a_server_that_cannot_encrypt_is_used_only_where_that_was_allowed() {
    let cluster = Cluster::start(&[]).unwrap();
    let settings = settings_of(&cluster.uri());
    assert_eq!(
        is_encrypted(&with(&settings, TlsMode::Prefer, "127.0.0.1", None)),
        Some(false)
    );
    assert_eq!(
        is_encrypted(&with(&settings, TlsMode::Require, "127.0.0.1", None)),
        None
    );
}

#[test]
fn a_server_certificate_that_signs_itself_is_trusted_where_it_is_named() {
    // What `openssl req -x509` makes: an authority and a server in one.
    let key = KeyPair::generate().unwrap();
    let mut parameters = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = parameters.self_signed(&key).unwrap();
    let cluster = encrypted_cluster(&Identity {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    });
    let settings = settings_of(&cluster.uri());
    let file = cluster.directory().join("server.pem");
    std::fs::write(&file, certificate.pem()).unwrap();
    for (mode, host, expected) in [
        (TlsMode::VerifyCa, "127.0.0.1", Some(true)),
        (TlsMode::VerifyFull, "localhost", Some(true)),
        (TlsMode::VerifyFull, "127.0.0.1", None),
    ] {
        let pool = with(&settings, mode, host, Some(&file));
        assert_eq!(is_encrypted(&pool), expected, "{mode:?}");
    }
}

#[test]
fn a_file_of_certificates_that_is_none_is_refused_with_its_name() {
    let cluster = Cluster::start(&[]).unwrap();
    let mut settings = settings_of(&cluster.uri());
    settings.tls_mode = TlsMode::VerifyFull;
    for (name, content) in [("absent.pem", None), ("empty.pem", Some("no certificate"))] {
        let file = cluster.directory().join(name);
        if let Some(content) = content {
            std::fs::write(&file, content).unwrap();
        }
        settings.ca_file = Some(file.to_str().unwrap().to_owned());
        let failure = Pool::new(settings.clone()).unwrap_err();
        assert!(failure.message.contains(name), "{failure}");
    }
}

#[test]
fn passwords_are_checked_and_statements_cancelled_through_an_encrypted_connection() {
    let ours = authority();
    let mut cluster = encrypted_cluster(&identity(&["localhost"], &ours));
    let mut settings = settings_of(&cluster.uri());
    settings.tls_mode = TlsMode::Require;
    let pool = Pool::new(settings.clone()).unwrap();
    let set = common::sql("ALTER ROLE metalab PASSWORD 'right one'");
    pool.execute(&set).unwrap();
    cluster
        .add_file(
            "data/pg_hba.conf",
            b"hostssl all all 127.0.0.1/32 scram-sha-256\n",
        )
        .unwrap();
    cluster.restart().unwrap();
    let with_password = |password: Option<&str>, mode| {
        let mut settings = settings.clone();
        settings.password = password.map(str::to_owned);
        settings.tls_mode = mode;
        settings.statement_timeout = std::time::Duration::from_millis(300);
        let timeless = "-cstatement_timeout=0".to_owned();
        settings.parameters.push(("options".to_owned(), timeless));
        Pool::new(settings).unwrap()
    };
    let good = with_password(Some("right one"), TlsMode::Require);
    assert_eq!(one(&good, IS_ENCRYPTED), Value::Boolean(true));
    let sleep = common::sql("SELECT pg_sleep(600)::text");
    let failure = good.query(&sleep, 1).unwrap_err();
    assert_eq!(failure.kind, FailureKind::TimedOut);
    assert!(!failure.outcome_unknown, "{failure:?}");
    for bad in [
        with_password(Some("wrong one"), TlsMode::Require),
        with_password(None, TlsMode::Require),
        with_password(Some("right one"), TlsMode::Disable),
    ] {
        let failure = bad.execute(&common::sql("SELECT 1")).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Unreachable);
        assert!(!failure.message.contains("one"), "{failure}");
    }
}
