//! A PostgreSQL server that encrypts, with a certificate of an authority that was made for it: for the tests of hosts in
//! other languages. Says where it is in one line of JSON, and ends when its input does.
//!
//! The certificate is for `localhost`, and not for the address of the same host.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use metalab_store_cluster::Cluster;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::json;
use std::io::{Read, stdin};

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut parameters = CertificateParams::default();
    // Whose subject is its issuer's has signed itself, for OpenSSL.
    let names = &mut parameters.distinguished_name;
    names.push(DnType::CommonName, name);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap()
}

fn main() {
    let (ours, other) = (authority("ours"), authority("other"));
    let key = KeyPair::generate().unwrap();
    let parameters = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = parameters.signed_by(&key, &ours).unwrap();
    let mut cluster = Cluster::start(&[]).unwrap();
    let add = |name: &str, content: String| {
        let path = cluster.add_file(name, content.as_bytes()).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let certificate = add("server.crt", certificate.pem());
    let key = add("server.key", key.serialize_pem());
    let trusted = [("ours", ours.pem()), ("other", other.pem())].map(|(name, pem)| {
        // The server's directory is the server's alone.
        let path = std::env::temp_dir().join(format!("metalab-{name}-{}.pem", std::process::id()));
        std::fs::write(&path, pem).unwrap();
        path
    });
    let settings = format!("ssl = on\nssl_cert_file = '{certificate}'\nssl_key_file = '{key}'\n");
    cluster.configure(&settings).unwrap();
    cluster.restart().unwrap();
    println!(
        "{}",
        json!({ "uri": cluster.uri(), "port": cluster.port(), "ours": trusted[0], "other": trusted[1] })
    );
    stdin().read_to_end(&mut Vec::new()).unwrap();
    for path in trusted {
        std::fs::remove_file(path).unwrap();
    }
}
