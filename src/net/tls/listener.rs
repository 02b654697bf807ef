//! TLS towards clients: what a listener needs for it, made from the contents of files.

use std::fmt;
use std::sync::Arc;

use rustls::crypto::ring::{self, Ticketer};
use rustls::server::WebPkiClientVerifier;
use rustls::{CertificateError, InconsistentKeys, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};

use super::error::of_certificate;
use super::expiry::Validity;

/// The protocol that is agreed on with clients that ask for one (ALPN). HTTP/2 is not spoken here; Redis clients ask for
/// none.
const HTTP: &[u8] = b"http/1.1";

/// What a listener needs to speak TLS.
pub struct ListenerTls {
    /// What each session begins with.
    pub config: Arc<ServerConfig>,
    /// When the certificate and those that have signed it are valid.
    pub validity: Validity,
    /// Digest of the certificates and the key, by which equal ones are told.
    digest: [u8; 32],
}

impl fmt::Debug for ListenerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListenerTls").field("validity", &self.validity).finish_non_exhaustive()
    }
}

/// Why there can be no TLS towards clients.
#[derive(Debug, thiserror::Error)]
pub enum ListenerTlsError {
    /// The key is for another certificate.
    #[error("the key does not fit the certificate")]
    OtherKey,
    /// The certificate can't be read.
    #[error("the certificate can't be read")]
    Unreadable,
    /// The certificate is of no use.
    #[error("{0}")]
    Refused(String),
    /// Something else is wrong with the certificate or the key.
    #[error("{0}")]
    Rustls(rustls::Error),
    /// The certificates of the CA are of no use.
    #[error("{0}")]
    ClientCa(String),
}

impl From<rustls::Error> for ListenerTlsError {
    fn from(error: rustls::Error) -> Self {
        match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => Self::OtherKey,
            rustls::Error::InvalidCertificate(CertificateError::BadEncoding) => Self::Unreadable,
            rustls::Error::InvalidCertificate(error) => Self::Refused(of_certificate(&error)),
            error => Self::Rustls(error),
        }
    }
}

impl ListenerTls {
    /// Makes it of a certificate with those that have signed it, and its key. With `client_ca`, clients have to show a
    /// certificate that one of these CAs has signed.
    ///
    /// Sessions are resumed by tickets, which the clients keep, so nothing is held for them here. Tickets are of no use
    /// after the next reload with other certificates: a client that was let in by a CA is not let in without it.
    ///
    /// # Errors
    /// The key does not fit, or one of them can't be used.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        client_ca: Option<RootCertStore>,
    ) -> Result<Self, ListenerTlsError> {
        let validity = Validity::of_chain(&chain).ok_or(ListenerTlsError::Unreadable)?;
        let digest = digest(&chain, &key, client_ca.as_ref());
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?;
        let builder = match client_ca {
            None => builder.with_no_client_auth(),
            Some(roots) => {
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                builder.with_client_cert_verifier(
                    verifier.map_err(|error| ListenerTlsError::ClientCa(error.to_string()))?,
                )
            }
        };
        let mut config = builder.with_single_cert(chain, key)?;
        config.alpn_protocols = vec![HTTP.to_vec()];
        config.ticketer = Ticketer::new()?;
        Ok(Self { config: Arc::new(config), validity, digest })
    }

    /// Returns whether it is made of the same certificates and the same key.
    pub fn is_same(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

fn digest(
    chain: &[CertificateDer],
    key: &PrivateKeyDer,
    client_ca: Option<&RootCertStore>,
) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut add = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    chain.iter().for_each(|certificate| add(certificate));
    add(key.secret_der());
    for ca in client_ca.into_iter().flat_map(|roots| &roots.roots) {
        add(&ca.subject);
        add(&ca.subject_public_key_info);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use rustls_pki_types::pem::PemObject;

    use super::*;

    fn key(pair: &KeyPair) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(pair.serialize_pem().as_bytes()).expect("a key")
    }

    #[test]
    fn a_key_must_fit_its_certificate_and_equal_files_are_told() {
        let (one, other) =
            (KeyPair::generate().expect("a key"), KeyPair::generate().expect("a key"));
        let params = CertificateParams::new(vec!["a.example".to_owned()]).expect("parameters");
        let certificate = params.self_signed(&one).expect("a certificate").der().clone();
        let chain = || vec![certificate.clone()];
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).expect("a certificate");
        let first = ListenerTls::new(chain(), key(&one), None).expect("it fits");
        let again = ListenerTls::new(chain(), key(&one), None).expect("it fits");
        let mutual = ListenerTls::new(chain(), key(&one), Some(roots)).expect("it fits");
        assert!(first.is_same(&again) && !first.is_same(&mutual));
        let error = ListenerTls::new(chain(), key(&other), None).expect_err("it does not fit");
        assert!(matches!(error, ListenerTlsError::OtherKey), "{error:?}");
        let none = ListenerTls::new(chain(), key(&one), Some(RootCertStore::empty()));
        assert!(matches!(none, Err(ListenerTlsError::ClientCa(_))));
        let error = ListenerTls::new(vec![vec![1, 2].into()], key(&one), None);
        assert!(matches!(error, Err(ListenerTlsError::Unreadable)));
        assert!(!format!("{first:?}").contains("ServerConfig"));
    }
}
