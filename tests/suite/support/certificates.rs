//! Certificates for tests, in a folder of their own.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use tempfile::TempDir;

const WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// A CA and a folder with its certificate, `ca.pem`, and with those that it signs.
pub struct Certificates {
    folder: TempDir,
    ca: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, as PEM files.
#[derive(Debug, Clone)]
pub struct CertificateFiles {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl CertificateFiles {
    /// The flags by which `lb` shows it to clients.
    pub fn flags(&self) -> [String; 4] {
        let text = |path: &Path| path.to_str().expect("text").to_owned();
        let [cert, key] = ["--tls-cert", "--tls-key"].map(str::to_owned);
        [cert, text(&self.certificate), key, text(&self.key)]
    }
}

/// When a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// For many years.
    Valid,
    /// For another week.
    Soon,
    /// Until the year 2001.
    Expired,
    /// From the year 2200 on.
    NotYet,
}

impl Certificates {
    /// Makes a CA of this name.
    pub fn new(name: &str) -> Self {
        let mut params = params(name, &[], Validity::Valid);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let ca = CertifiedIssuer::self_signed(params, key).expect("a CA");
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("ca.pem"), ca.pem()).expect("a file");
        Self { folder, ca }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The CA's certificate.
    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A server's certificate for `localhost`, `127.0.0.1` and `::1`.
    pub fn server(&self) -> CertificateFiles {
        self.signed("server", &["localhost", "127.0.0.1", "::1"], Validity::Valid)
    }

    /// A client's certificate.
    pub fn client(&self) -> CertificateFiles {
        self.signed("client", &["client.example"], Validity::Valid)
    }

    /// Makes `NAME.pem` and `NAME.key` for these host names and addresses; those of an older one are replaced.
    pub fn signed(&self, name: &str, hosts: &[&str], validity: Validity) -> CertificateFiles {
        let mut params = params(name, hosts, validity);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.ca).expect("a certificate");
        let files = CertificateFiles {
            certificate: self.folder.path().join(format!("{name}.pem")),
            key: self.folder.path().join(format!("{name}.key")),
        };
        fs::write(&files.certificate, certificate.pem()).expect("a file");
        fs::write(&files.key, key.serialize_pem()).expect("a file");
        files
    }
}

fn params(name: &str, hosts: &[&str], validity: Validity) -> CertificateParams {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut params = CertificateParams::new(hosts).expect("names");
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    let (from, until) = match validity {
        Validity::Valid | Validity::Soon => (2000, 2200),
        Validity::Expired => (2000, 2001),
        Validity::NotYet => (2200, 2201),
    };
    params.not_before = date_time_ymd(from, 1, 1);
    params.not_after = date_time_ymd(until, 1, 1);
    if validity == Validity::Soon {
        params.not_after = (SystemTime::now() + WEEK).into();
    }
    params
}
