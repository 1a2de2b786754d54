//! Encryption, by libpq's modes.

use crate::failure::{Failure, FailureKind};
use crate::settings::{Settings, TlsMode};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::sync::Arc;
use tokio_postgres_rustls::MakeRustlsConnect;

/// Makes what encrypts connections.
pub(crate) fn connector(settings: &Settings) -> Result<MakeRustlsConnect, Failure> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&error.to_string()))?;
    let mode = match settings.tls_mode {
        // As in libpq: who names the certificates to trust wants to trust no others.
        TlsMode::Require if settings.ca_file.is_some() => TlsMode::VerifyCa,
        mode => mode,
    };
    let config = match mode {
        TlsMode::Disable | TlsMode::Prefer | TlsMode::Require => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyServer(provider)))
            .with_no_client_auth(),
        TlsMode::VerifyCa | TlsMode::VerifyFull => {
            let named = named(settings)?;
            let inner = WebPkiServerVerifier::builder_with_provider(roots(&named)?, provider)
                .build()
                .map_err(|error| failed(&error.to_string()))?;
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Trusted {
                    inner,
                    named,
                    checks_name: mode == TlsMode::VerifyFull,
                }))
                .with_no_client_auth()
        }
    };
    Ok(MakeRustlsConnect::new(config))
}

fn failed(reason: &str) -> Failure {
    Failure::new(
        FailureKind::Unreachable,
        format!("connections cannot be encrypted: {reason}"),
    )
}

/// Reads the certificates that the settings name.
fn named(settings: &Settings) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let Some(file) = &settings.ca_file else {
        return Ok(Vec::new());
    };
    let unreadable = |reason: &str| failed(&format!("sslrootcert {file:?}: {reason}"));
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    let certificates: Vec<_> = read.map_err(|error| unreadable(&error.to_string()))?;
    if certificates.is_empty() {
        return Err(unreadable("it holds no certificate"));
    }
    Ok(certificates)
}

/// Returns the authorities to trust: those that are named, else the system's.
fn roots(named: &[CertificateDer<'static>]) -> Result<Arc<RootCertStore>, Failure> {
    let mut roots = RootCertStore::empty();
    for certificate in named {
        roots
            .add(certificate.clone())
            .map_err(|error| failed(&format!("sslrootcert: {error}")))?;
    }
    if named.is_empty() {
        // Some of the system's may be of a kind that is not known here; the others count.
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            return Err(failed(
                "the system has no certificates to trust; name a file with sslrootcert",
            ));
        }
    }
    Ok(Arc::new(roots))
}

/// Takes any certificate: `prefer` and `require` hide from those who listen, and from nobody else.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

/// Takes a certificate of a trusted authority.
#[derive(Debug)]
struct Trusted {
    inner: Arc<WebPkiServerVerifier>,
    /// The certificates that the user named.
    named: Vec<CertificateDer<'static>>,
    /// Whether the certificate must be for the host.
    checks_name: bool,
}

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        // Whose key it is does not matter, and a certificate of the first version would not be understood.
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for Trusted {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        // One that signs itself is an authority and no server to the verifier, which refuses it. Who named it
        // trusts it.
        if self.named.contains(certificate) {
            if self.checks_name {
                verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
            }
            return Ok(ServerCertVerified::assertion());
        }
        match self
            .inner
            .verify_server_cert(certificate, intermediates, name, ocsp, now)
        {
            // The name is looked at last: all else was found good.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.checks_name => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
