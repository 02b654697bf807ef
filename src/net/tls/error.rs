//! What goes wrong in TLS, in words that say what to do.

use std::io;
use std::time::{Duration, UNIX_EPOCH};

use rustls::{AlertDescription, CertificateError};

use super::expiry;

/// Error of a TLS handshake, or of a TLS connection.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The socket failed.
    #[error("{0}")]
    Io(io::Error),
    /// The handshake was not over in time.
    #[error("the TLS handshake was not over in time")]
    TimedOut,
    /// The other end closed the connection amid the handshake.
    #[error("the connection ended within the TLS handshake")]
    Ended,
    /// The bytes are no TLS.
    #[error("it does not speak TLS there")]
    NotTls,
    /// We refuse the certificate of the other end.
    #[error("{}", of_certificate(.0))]
    Certificate(CertificateError),
    /// The other end has sent no certificate, and has to.
    #[error("it has sent no certificate")]
    NoCertificate,
    /// The other end refuses something of ours.
    #[error("the other end refuses the TLS connection: {}", of_alert(*.0))]
    Alert(AlertDescription),
    /// The two ends have no version, cipher suite or protocol in common, or one breaks the rules.
    #[error("TLS failed: {0}")]
    Protocol(String),
}

impl TlsError {
    /// A word for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Io(_) | Self::Ended => "ended",
            Self::TimedOut => "timeout",
            Self::NotTls => "no_tls",
            Self::Certificate(_) => "certificate",
            Self::NoCertificate => "no_certificate",
            Self::Alert(_) => "alert",
            Self::Protocol(_) => "protocol",
        }
    }

    /// Returns the TLS error in an error of a stream's read or write, if it is one.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> Self {
        use rustls::Error;
        match error {
            Error::InvalidCertificate(error) => Self::Certificate(error),
            Error::NoCertificatesPresented => Self::NoCertificate,
            Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType) => Self::NotTls,
            Error::AlertReceived(alert) => Self::Alert(alert),
            error => Self::Protocol(error.to_string()),
        }
    }
}

impl From<TlsError> for io::Error {
    fn from(error: TlsError) -> Self {
        match error {
            TlsError::Io(error) => error,
            TlsError::TimedOut => Self::new(io::ErrorKind::TimedOut, error),
            TlsError::Ended => Self::new(io::ErrorKind::UnexpectedEof, error),
            error => Self::new(io::ErrorKind::InvalidData, error),
        }
    }
}

/// Reason why a certificate is refused.
pub fn of_certificate(error: &CertificateError) -> String {
    match error {
        CertificateError::Expired => "its certificate has expired".to_owned(),
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("its certificate has expired: it was valid until {}", date(not_after.as_secs()))
        }
        CertificateError::NotValidYet => "its certificate is not valid yet".to_owned(),
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("its certificate is not valid before {}", date(not_before.as_secs()))
        }
        CertificateError::NotValidForName => "its certificate is for another name".to_owned(),
        CertificateError::NotValidForNameContext { expected, presented } => {
            let names = if presented.is_empty() { "no name".to_owned() } else { shown(presented) };
            format!("its certificate is not for {}, but for {names}", expected.to_str())
        }
        CertificateError::UnknownIssuer => {
            "its certificate is signed by no CA that we trust".to_owned()
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "its certificate is for another purpose".to_owned()
        }
        CertificateError::BadEncoding => "its certificate can't be read".to_owned(),
        other if is_of_ca(other) => {
            "its certificate is that of a CA, which may only sign those of servers".to_owned()
        }
        CertificateError::Other(other) if other.to_string().contains("UnsupportedCertVersion") => {
            "its certificate is of X.509 version 1: sign it with extensions (subjectAltName, extendedKeyUsage)"
                .to_owned()
        }
        CertificateError::Revoked => "its certificate is revoked".to_owned(),
        error => format!("its certificate is refused: {error}"),
    }
}

/// Returns whether a certificate is refused because it is that of a CA.
pub fn is_of_ca(error: &CertificateError) -> bool {
    let CertificateError::Other(other) = error else { return false };
    other.to_string().contains("CaUsedAsEndEntity")
}

/// The first names of a certificate, which may have hundreds: `DnsName("a.example")` is shown as `a.example`.
fn shown(names: &[String]) -> String {
    const MAX_NAMES: usize = 4;
    const MAX_NAME_CHARS: usize = 64;
    let bare = |name: &String| -> String {
        let inner = name.split_once('(').map_or(name.as_str(), |(_, rest)| rest);
        let inner = inner.trim_end_matches(')').trim_matches('"');
        inner.chars().filter(|c| !c.is_control()).take(MAX_NAME_CHARS).collect()
    };
    let mut shown: Vec<String> = names.iter().take(MAX_NAMES).map(bare).collect();
    if names.len() > MAX_NAMES {
        shown.push(format!("{} more", names.len() - MAX_NAMES));
    }
    shown.join(", ")
}

fn date(seconds: u64) -> String {
    expiry::shown(UNIX_EPOCH + Duration::from_secs(seconds.min(expiry::LAST_SECOND)))
}

/// What an alert of the other end means for us (RFC 8446, section 6.2).
fn of_alert(alert: AlertDescription) -> String {
    let words = match alert {
        AlertDescription::CertificateRequired | AlertDescription::NoCertificate => {
            "it wants a certificate of ours"
        }
        AlertDescription::UnknownCA => "our certificate is signed by no CA that it trusts",
        AlertDescription::CertificateExpired => "our certificate has expired",
        AlertDescription::BadCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnsupportedCertificate => "it does not accept our certificate",
        AlertDescription::CertificateRevoked => "our certificate is revoked",
        AlertDescription::AccessDenied => "it denies access",
        AlertDescription::ProtocolVersion => "it speaks none of our versions of TLS",
        AlertDescription::HandshakeFailure => {
            "it accepts none of our parameters, or wants a certificate of ours"
        }
        AlertDescription::UnrecognisedName => "it has no certificate for this name",
        AlertDescription::NoApplicationProtocol => "it speaks none of our protocols (ALPN)",
        other => return format!("{other:?}"),
    };
    words.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_certificate_are_shown_bare_and_a_few_at_most() {
        let names =
            |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(shown(&names(&["DnsName(\"a.example\")"])), "a.example");
        assert_eq!(shown(&names(&["IpAddress(127.0.0.1)", "b"])), "127.0.0.1, b");
        assert_eq!(shown(&names(&["1", "2", "3", "4", "5", "6"])), "1, 2, 3, 4, 2 more");
    }

    #[test]
    fn dates_of_any_size_are_shown() {
        assert_eq!(date(0), "1970-01-01T00:00:00Z");
        assert_eq!(date(u64::MAX), "9999-12-31T23:59:59Z");
    }
}
