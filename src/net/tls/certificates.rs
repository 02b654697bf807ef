//! Certificates and private keys, as PEM files have them.

use rustls::RootCertStore;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Why a file has not what it should have. The text goes on from the file's name.
#[derive(Debug, thiserror::Error)]
pub enum CertificateFileError {
    /// There is no certificate.
    #[error("has no certificate: it should have -----BEGIN CERTIFICATE-----")]
    NoCertificate,
    /// There is no private key.
    #[error("has no private key: it should have -----BEGIN PRIVATE KEY-----")]
    NoKey,
    /// The private key needs a passphrase.
    #[error(
        "has a private key with a passphrase, which nobody types here: write one without it \
         (openssl pkey -in FILE -out NEW)"
    )]
    EncryptedKey,
    /// The text is damaged.
    #[error("is no PEM file: {0}")]
    Pem(String),
    /// The contents of a certificate are damaged.
    #[error("has a certificate that can't be read")]
    Unreadable,
}

/// Reads the certificates of a PEM file: the first is that of its owner, the others those that have signed it.
///
/// # Errors
/// There is none, or one is damaged.
pub fn chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertificateFileError> {
    let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let certificates = certificates.map_err(|error| of_pem(&error))?;
    match certificates.is_empty() {
        true => Err(CertificateFileError::NoCertificate),
        false => Ok(certificates),
    }
}

/// Reads the first private key of a PEM file.
///
/// # Errors
/// There is none, it needs a passphrase, or it is damaged.
pub fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, CertificateFileError> {
    let has = |text: &[u8]| pem.windows(text.len()).any(|part| part == text);
    match PrivateKeyDer::from_pem_slice(pem) {
        Ok(key) if !has(b"Proc-Type: 4,ENCRYPTED") => Ok(key),
        Err(pem::Error::NoItemsFound) if !has(b"ENCRYPTED PRIVATE KEY") => {
            Err(CertificateFileError::NoKey)
        }
        Err(error) if !has(b"ENCRYPTED") => Err(of_pem(&error)),
        _ => Err(CertificateFileError::EncryptedKey),
    }
}

/// Reads the certificates of a PEM file as those of CAs that are trusted.
///
/// # Errors
/// There is none, or one is damaged.
pub fn trusted(pem: &[u8]) -> Result<RootCertStore, CertificateFileError> {
    let mut store = RootCertStore::empty();
    for certificate in chain(pem)? {
        store.add(certificate).map_err(|_| CertificateFileError::Unreadable)?;
    }
    Ok(store)
}

/// Describes damaged text without repeating it, because it may be a key.
fn of_pem(error: &pem::Error) -> CertificateFileError {
    CertificateFileError::Pem(match error {
        pem::Error::MissingSectionEnd { .. } => "an -----END …----- is missing".to_owned(),
        pem::Error::IllegalSectionStart { .. } => "an -----BEGIN …----- is damaged".to_owned(),
        pem::Error::Base64Decode(_) => "it is not in base64".to_owned(),
        pem::Error::NoItemsFound => "it has nothing of the kind".to_owned(),
        error => error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn text<T, E: ToString>(result: Result<T, E>) -> String {
        result.err().map_or_else(|| "read".to_owned(), |error| error.to_string())
    }

    #[test]
    fn what_a_file_lacks_is_named_and_its_text_is_not_repeated() {
        let key = KeyPair::generate().expect("a key");
        let own = CertificateParams::new(vec!["a.example".to_owned()]).expect("parameters");
        let certificate = own.self_signed(&key).expect("a certificate").pem();
        let key = key.serialize_pem();
        let both = format!("{key}{certificate}{certificate}");
        assert_eq!(chain(both.as_bytes()).expect("two").len(), 2);
        assert_eq!(trusted(certificate.as_bytes()).expect("one").len(), 1);
        assert_eq!(text(private_key(both.as_bytes())), "read");
        let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
        let old =
            key.replace("PRIVATE KEY-----\n", "RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\n");
        let cut = &key[..key.len() / 2];
        for (pem, of_chain, of_key) in [
            ("", "has no certificate", "has no private key"),
            ("text", "has no certificate", "has no private key"),
            (&key, "has no certificate", "read"),
            (&certificate, "read", "has no private key"),
            (&encrypted, "has no certificate", "with a passphrase"),
            (&old, "", "with a passphrase"),
            (cut, "is no PEM file: an -----END", "is no PEM file: an -----END"),
        ] {
            let (found_chain, found_key) =
                (text(chain(pem.as_bytes())), text(private_key(pem.as_bytes())));
            assert!(found_chain.contains(of_chain), "{pem}: {found_chain}");
            assert!(found_key.contains(of_key), "{pem}: {found_key}");
        }
        let wrong = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(text(trusted(wrong.as_bytes())).contains("can't be read"));
    }
}
