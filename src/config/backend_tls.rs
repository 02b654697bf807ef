//! TLS towards backends: which files and name the configuration gives for it, and what is read from the files.
//!
//! A backend's address has its [`TlsSettings`]; the configuration that is in effect has the [`Credentials`] that were read
//! from the files last. So a reload that finds other certificates in the same files counts from the next connection on,
//! and changes no backend.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use xxhash_rust::xxh64::Xxh64;

use super::address::BackendAddress;
use super::text_file;
use crate::net::tls::certificates::{self, CertificateFileError};
use crate::net::tls::error::of_certificate;
use crate::net::tls::expiry::Validity;

/// The flags of TLS towards backends, which count for all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct BackendTlsFlags {
    /// Certificates (PEM) of those who may issue the certificates of rediss:// backends [default: the system's]
    #[arg(help_heading = "Backends", id = "backend_tls_ca")]
    #[arg(long = "backend-tls-ca", env = "LB_BACKEND_TLS_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,

    /// Our own certificate (PEM), for rediss:// backends that ask for one
    #[arg(help_heading = "Backends", id = "backend_tls_cert")]
    #[arg(long = "backend-tls-cert", env = "LB_BACKEND_TLS_CERT", value_name = "FILE")]
    pub cert: Option<PathBuf>,

    /// The private key (PEM) of --backend-tls-cert
    #[arg(help_heading = "Backends", id = "backend_tls_key")]
    #[arg(long = "backend-tls-key", env = "LB_BACKEND_TLS_KEY", value_name = "FILE")]
    pub key: Option<PathBuf>,
}

impl BackendTlsFlags {
    /// Returns these flags, and those of `before` that are not among them.
    pub(super) fn or(self, before: Self) -> Self {
        Self {
            ca: self.ca.or(before.ca),
            cert: self.cert.or(before.cert),
            key: self.key.or(before.key),
        }
    }

    /// Returns the files that they name.
    pub(super) fn files(&self) -> TlsFiles {
        let Self { ca, cert, key } = self.clone();
        TlsFiles { ca, cert, key }
    }
}

/// The files for TLS towards a backend.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates of those who may issue the backend's certificate; the system's if there is no such file.
    pub ca: Option<PathBuf>,
    /// Our own certificate, for a backend that asks for one.
    pub cert: Option<PathBuf>,
    /// The private key of our own certificate.
    pub key: Option<PathBuf>,
}

impl TlsFiles {
    /// Returns the files with their names.
    pub(super) fn named(&self) -> impl Iterator<Item = (TlsFile, &Path)> {
        let files =
            [(TlsFile::Ca, &self.ca), (TlsFile::Cert, &self.cert), (TlsFile::Key, &self.key)];
        files.into_iter().filter_map(|(file, path)| Some((file, path.as_deref()?)))
    }

    pub(super) fn set(&mut self, file: TlsFile, path: PathBuf) {
        let place = match file {
            TlsFile::Ca => &mut self.ca,
            TlsFile::Cert => &mut self.cert,
            TlsFile::Key => &mut self.key,
        };
        *place = Some(path);
    }

    /// Checks that a certificate and its key are named together.
    ///
    /// # Errors
    /// One of them is missing.
    pub(super) fn check_pair(&self) -> Result<(), MissingFile> {
        let (named, missing) = match (&self.cert, &self.key) {
            (Some(_), None) => (TlsFile::Cert, TlsFile::Key),
            (None, Some(_)) => (TlsFile::Key, TlsFile::Cert),
            _ => return Ok(()),
        };
        Err(MissingFile { named, missing })
    }

    /// Reads the files that are named, to find out what is wrong with them.
    pub(super) fn check(&self) -> Result<(), TlsFileError> {
        let digest = &mut Xxh64::new(0);
        if let Some(ca) = &self.ca {
            roots(Some(ca), digest)?;
        }
        let own = self.own_certificate(digest)?;
        client_config(RootCertStore::empty(), own).map_err(|error| self.misfit(&error))?;
        Ok(())
    }

    fn own_certificate(&self, digest: &mut Xxh64) -> Result<Option<OwnCertificate>, TlsFileError> {
        match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => {
                let (chain, _) = read(TlsFile::Cert, cert, certificates::chain, digest)?;
                let (key, is_open_to_all) =
                    read(TlsFile::Key, key, certificates::private_key, digest)?;
                Ok(Some(OwnCertificate { chain, key, is_open_to_all }))
            }
            _ => Ok(None),
        }
    }

    /// Error for a certificate and a key that are no pair.
    fn misfit(&self, error: &rustls::Error) -> TlsFileError {
        let (file, path, why) = match error {
            rustls::Error::InvalidCertificate(error) => {
                (TlsFile::Cert, &self.cert, format!("is of no use: {}", of_certificate(error)))
            }
            rustls::Error::InconsistentKeys(_) => {
                (TlsFile::Key, &self.key, "does not fit the certificate".to_owned())
            }
            error => (TlsFile::Key, &self.key, format!("is of no use: {error}")),
        };
        TlsFileError::new(file, path.as_deref().unwrap_or(Path::new("")), why)
    }

    /// Returns these files, and of those for all backends the ones that these lack. A certificate comes with its key.
    fn or(&self, all: &Self) -> Self {
        let own = if self.cert.is_some() { self } else { all };
        Self {
            ca: self.ca.clone().or_else(|| all.ca.clone()),
            cert: own.cert.clone(),
            key: own.key.clone(),
        }
    }
}

/// One of the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsFile {
    /// [`TlsFiles::ca`]
    Ca,
    /// [`TlsFiles::cert`]
    Cert,
    /// [`TlsFiles::key`]
    Key,
}

impl TlsFile {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ca, Self::Cert, Self::Key];

    /// Returns its key in the table of a backend. The flag for all backends is `--backend-` and this.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Ca => "tls-ca",
            Self::Cert => "tls-cert",
            Self::Key => "tls-key",
        }
    }
}

/// Error for a certificate without its key, or a key without its certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MissingFile {
    /// The file that is named.
    pub named: TlsFile,
    missing: TlsFile,
}

impl MissingFile {
    /// Returns the text with the keys of a backend.
    pub(super) fn with_keys(self) -> String {
        format!("{} needs {}", self.named.key(), self.missing.key())
    }

    /// Returns the text with the flags for all backends.
    pub(super) fn with_flags(self) -> String {
        format!("--backend-{} needs --backend-{}", self.named.key(), self.missing.key())
    }
}

/// Error for a file that can't be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct TlsFileError {
    /// The file that is to blame.
    pub file: TlsFile,
    /// The reason, with the file's path.
    pub reason: String,
}

impl TlsFileError {
    /// Returns the text with the flag that names the file for all backends.
    pub fn with_flag(&self) -> String {
        format!("--backend-{}: {}", self.file.key(), self.reason)
    }

    fn new(file: TlsFile, path: &Path, reason: impl fmt::Display) -> Self {
        Self { file, reason: format!("{} {reason}", path.display()) }
    }
}

/// How TLS is spoken with a backend, as it is configured.
#[derive(Debug, Clone, Default)]
pub struct TlsSettings {
    /// The files.
    pub files: TlsFiles,
    /// The name that the backend's certificate must have, if it is not the host of the address.
    pub server_name: Option<ServerName<'static>>,
    /// What was read from the files when the configuration was made.
    credentials: Option<Arc<Credentials>>,
}

/// Equal settings name the same files and ask for the same name; what is in the files may differ.
impl PartialEq for TlsSettings {
    fn eq(&self, other: &Self) -> bool {
        self.files == other.files && self.server_name == other.server_name
    }
}

impl TlsSettings {
    /// Returns settings for which nothing was read yet.
    pub(super) fn new(files: TlsFiles, server_name: Option<ServerName<'static>>) -> Self {
        Self { files, server_name, credentials: None }
    }

    /// Adds what counts for all backends where these settings say nothing, and reads the files.
    ///
    /// # Errors
    /// A file can't be used.
    pub fn load(&mut self, all: &Self, store: &mut CredentialStore) -> Result<(), TlsFileError> {
        self.files = self.files.or(&all.files);
        self.server_name = self.server_name.take().or_else(|| all.server_name.clone());
        self.credentials = Some(store.load(&self.files)?);
        Ok(())
    }

    /// Returns what was read from the files last.
    pub fn credentials<'a>(&'a self, store: &'a CredentialStore) -> Option<&'a Arc<Credentials>> {
        store.get(&self.files).or(self.credentials.as_ref())
    }
}

/// Reads the files for TLS with servers that no configuration names. Returns a warning if no server needs them.
///
/// # Errors
/// A file can't be used.
pub fn read_tls_files(
    flags: &BackendTlsFlags,
    addresses: &mut [BackendAddress],
) -> Result<Option<String>, String> {
    let (all, mut store) = (TlsSettings::new(flags.files(), None), CredentialStore::default());
    all.files.check_pair().map_err(MissingFile::with_flags)?;
    all.files.check().map_err(|error| error.with_flag())?;
    let mut is_used = false;
    for tls in addresses.iter_mut().filter_map(BackendAddress::tls_mut) {
        tls.load(&all, &mut store).map_err(|error| error.with_flag())?;
        is_used = true;
    }
    let idle = all.files.named().next().filter(|_| !is_used);
    Ok(idle.map(|(file, _)| {
        format!("--backend-{} has no effect: no backend's URL begins with rediss://", file.key())
    }))
}

/// Parses the name that a certificate must have.
///
/// # Errors
/// It is neither the name nor the address of a host.
pub fn server_name(text: &str) -> Result<ServerName<'static>, String> {
    let name = ServerName::try_from(text.to_owned());
    name.map_err(|_| "write the name or the address of a host".to_owned())
}

/// What is read from the files.
#[derive(Debug)]
pub struct Credentials {
    /// The files.
    pub files: TlsFiles,
    /// How TLS is spoken with them. It remembers sessions, which new connections resume.
    pub config: Arc<ClientConfig>,
    /// When our own certificate is valid, if there is one.
    pub validity: Option<Validity>,
    /// Warning about a private key that every user can read.
    pub warning: Option<String>,
    /// Digest of all that was read.
    digest: u64,
}

/// What is read from the files of all backends, once for each combination of files.
#[derive(Debug, Clone, Default)]
pub struct CredentialStore(Vec<Arc<Credentials>>);

impl CredentialStore {
    /// Returns what was read from these files.
    pub fn get(&self, files: &TlsFiles) -> Option<&Arc<Credentials>> {
        self.0.iter().find(|credentials| credentials.files == *files)
    }

    /// Returns what was read from all files.
    pub fn all(&self) -> &[Arc<Credentials>] {
        &self.0
    }

    /// Reads these files, unless that was done already.
    ///
    /// # Errors
    /// A file can't be used.
    pub fn load(&mut self, files: &TlsFiles) -> Result<Arc<Credentials>, TlsFileError> {
        if let Some(known) = self.get(files) {
            return Ok(Arc::clone(known));
        }
        let credentials = Arc::new(Credentials::load(files)?);
        self.0.push(Arc::clone(&credentials));
        Ok(credentials)
    }

    /// Returns whether a file is named that may have other contents one day.
    pub fn has_files(&self) -> bool {
        self.0.iter().any(|credentials| credentials.files != TlsFiles::default())
    }

    /// Returns whether another store has found something else in the same files.
    pub fn differs(&self, other: &Self) -> bool {
        let is_other = |old: &Arc<Credentials>| {
            other.get(&old.files).is_some_and(|new| new.digest != old.digest)
        };
        self.0.iter().any(is_other)
    }
}

impl Credentials {
    fn load(files: &TlsFiles) -> Result<Self, TlsFileError> {
        let mut digest = Xxh64::new(0);
        let roots = roots(files.ca.as_deref(), &mut digest)?;
        let own = files.own_certificate(&mut digest)?;
        let validity = own.as_ref().and_then(|own| Validity::of_chain(&own.chain));
        let warning = match (&own, &files.key) {
            (Some(own), Some(key)) if own.is_open_to_all => {
                Some(text_file::warning_of(key, "a private key"))
            }
            _ => None,
        };
        let config = client_config(roots, own).map_err(|error| files.misfit(&error))?;
        let (files, digest) = (files.clone(), digest.digest());
        Ok(Self { files, config: Arc::new(config), validity, warning, digest })
    }
}

/// Makes a configuration with our only provider of cryptography, for TLS 1.2 and 1.3.
fn client_config(
    roots: RootCertStore,
    own: Option<OwnCertificate>,
) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    match own {
        Some(OwnCertificate { chain, key, .. }) => builder.with_client_auth_cert(chain, key),
        None => Ok(builder.with_no_client_auth()),
    }
}

/// Our own certificate, with those that follow it in its file, and its key.
struct OwnCertificate {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    /// Whether every user can read the key.
    is_open_to_all: bool,
}

/// Reads the certificates of those who may issue a backend's certificate.
fn roots(path: Option<&Path>, digest: &mut Xxh64) -> Result<RootCertStore, TlsFileError> {
    if let Some(path) = path {
        return Ok(read(TlsFile::Ca, path, certificates::trusted, digest)?.0);
    }
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs().certs;
    found.iter().for_each(|certificate| digest.update(certificate));
    match roots.add_parsable_certificates(found) {
        (0, _) => Err(TlsFileError {
            file: TlsFile::Ca,
            reason: "this system has no CA certificates; name a file with that of the backends"
                .to_owned(),
        }),
        _ => Ok(roots),
    }
}

/// Reads a file. Returns what is in it, and whether every user can read it.
fn read<T>(
    file: TlsFile,
    path: &Path,
    parse: impl FnOnce(&[u8]) -> Result<T, CertificateFileError>,
    digest: &mut Xxh64,
) -> Result<(T, bool), TlsFileError> {
    let read = text_file::read_pem(path, parse);
    let (contents, read) = read.map_err(|why| TlsFileError::new(file, path, why))?;
    digest.update(&read.bytes);
    Ok((contents, read.is_open_to_all))
}
