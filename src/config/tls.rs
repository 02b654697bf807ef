//! TLS towards clients: its flags, and the files that they name.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use clap::builder::BoolishValueParser;

use super::Config;
use super::text_file;
use crate::net::tls::certificates::{self, CertificateFileError};
use crate::net::tls::listener::ListenerTls;

const TLS: &str = "TLS towards clients";

/// The flags of TLS towards clients.
#[derive(Debug, clap::Args)]
pub struct TlsFlags {
    /// Certificate that is shown to clients, followed by those that have signed it, in PEM; clients may then speak TLS
    /// on the same ports
    #[arg(help_heading = TLS, long, env = "LB_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,

    /// Private key of this certificate, in PEM, without a passphrase
    #[arg(help_heading = TLS, long, env = "LB_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,

    /// CAs in PEM, one of which must have signed the certificate that each TLS client then has to show
    #[arg(help_heading = TLS, long, env = "LB_TLS_CLIENT_CA", value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,

    /// Refuses plain text, but for the probes /-/health and /-/ready
    #[arg(help_heading = TLS)]
    #[arg(long, env = "LB_TLS_ONLY", value_parser = BoolishValueParser::new())]
    pub tls_only: bool,
}

impl TlsFlags {
    /// Checks that the flags which need each other are there.
    pub(super) fn check(&self) -> Result<(), String> {
        let (cert, key) = (self.tls_cert.is_some(), self.tls_key.is_some());
        let wrong = match () {
            () if cert && !key => "--tls-cert needs --tls-key FILE, too",
            () if key && !cert => "--tls-key needs --tls-cert FILE, too",
            () if self.tls_client_ca.is_some() && !cert => {
                "--tls-client-ca needs --tls-cert and --tls-key, too"
            }
            () if self.tls_only && !cert => "--tls-only needs --tls-cert and --tls-key, too",
            () => return Ok(()),
        };
        Err(wrong.to_owned())
    }
}

impl Config {
    /// Reads the certificates and keys that it names. Those of `old`, the configuration until now, stay in use if the
    /// files have not changed: clients then resume their sessions. Returns whether others are in use.
    ///
    /// # Errors
    /// A file is wrong, with its name and the reason. What takes the place of `old` has to be valid now; at the start,
    /// nothing would be gained by an end.
    pub fn read_certificates(&mut self, old: Option<&Self>) -> Result<bool, String> {
        let is_reload = old.is_some();
        let old = old.and_then(|old| old.listener_tls.as_ref());
        let new = self.read_listener_tls()?;
        let is_same = match (old, &new) {
            (Some(old), Some(new)) => old.is_same(new),
            (None, None) => true,
            _ => false,
        };
        if let (true, false, Some(new)) = (is_reload, is_same, &new)
            && let Some(concern) = new.validity.concern(SystemTime::now())
            && concern.is_invalid()
        {
            return Err(format!("--tls-cert {}: the certificate {concern}", self.shown_cert()));
        }
        self.listener_tls = match old.filter(|_| is_same) {
            Some(old) => Some(Arc::clone(old)),
            None => new.map(Arc::new),
        };
        Ok(!is_same)
    }

    fn read_listener_tls(&mut self) -> Result<Option<ListenerTls>, String> {
        let TlsFlags { tls_cert, tls_key, tls_client_ca, .. } = &self.flags.tls;
        let (Some(cert), Some(key)) = (tls_cert, tls_key) else { return Ok(None) };
        let (chain, _) = read_pem("--tls-cert", cert, certificates::chain)?;
        let (private_key, is_open_to_all) = read_pem("--tls-key", key, certificates::private_key)?;
        let client_ca = tls_client_ca.as_ref().map(|path| {
            read_pem("--tls-client-ca", path, certificates::trusted).map(|(roots, _)| roots)
        });
        let shown = format!("--tls-cert {} with --tls-key {}", cert.display(), key.display());
        let tls = ListenerTls::new(chain, private_key, client_ca.transpose()?)
            .map_err(|error| format!("{shown}: {error}"))?;
        if is_open_to_all {
            let warning = text_file::warning_of(key, "a private key");
            self.warnings.push(warning);
        }
        Ok(Some(tls))
    }

    /// Returns the name of the file with the certificate that clients are shown.
    pub fn shown_cert(&self) -> String {
        self.flags.tls.tls_cert.as_ref().map(|path| path.display().to_string()).unwrap_or_default()
    }
}

/// Reads a PEM file that a flag names. Returns its contents, and whether every user of the machine may read it.
fn read_pem<T>(
    flag: &str,
    path: &Path,
    parse: impl FnOnce(&[u8]) -> Result<T, CertificateFileError>,
) -> Result<(T, bool), String> {
    let read = text_file::read_pem(path, parse);
    let (contents, file) = read.map_err(|why| format!("{flag} {}: {why}", path.display()))?;
    Ok((contents, file.is_open_to_all))
}
