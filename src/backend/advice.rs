//! Advice on servers that can't be read from, for `lb check`, for the start of `lb`, and for `seed`.

use std::time::Duration;

use rustls::{AlertDescription, CertificateError};

use super::error::BackendError;
use super::report::Unserved;
use super::stranger::Stranger;
use crate::config::address::BackendAddress;
use crate::net::tls::TlsError;
use crate::net::tls::error::is_of_ca;

/// Says what to do about a server that can't be read from, and has had `timeout` to answer. The text has whole
/// sentences.
pub(crate) fn advice_on_failure(
    error: &BackendError,
    address: &BackendAddress,
    timeout: Duration,
) -> String {
    let advice = match error {
        BackendError::Unresolved(_) => "Is the name right?",
        BackendError::Connect(_) => "Does Redis run there, and is the address right?",
        BackendError::Tls(error) => advice_on_tls(error),
        BackendError::Lost(_) if address.tls().is_none() && address.unix_path().is_none() => {
            let name = address.name();
            return format!(
                "Is that a TLS port? Then write rediss://{name}. If not, is it a Redis server? See its log."
            );
        }
        BackendError::Lost(_) => "Is that a Redis server? See its log.",
        BackendError::Stranger(stranger) => return advice_on_stranger(stranger, address),
        BackendError::Protocol(_) => "Is that a Redis server?",
        BackendError::Redis(why) => return advice_on_refusal(why, address),
        BackendError::Silent(_) => {
            let timeout = humantime::format_duration(timeout);
            return format!(
                "Is that a Redis server? If so, is it frozen or overloaded? It had {timeout} (--check-timeout)."
            );
        }
        error if error.is_timeout() => {
            let timeout = humantime::format_duration(timeout);
            return format!(
                "Is it frozen or overloaded, or is there a firewall? It had {timeout} (--check-timeout)."
            );
        }
        _ => "See its log.",
    };
    advice.to_owned()
}

/// Says what to do about a server that is none to read from, for this reason.
pub(crate) fn advice_on_unserved(why: Unserved) -> &'static str {
    match why {
        Unserved::Sentinel => "Write sentinel://HOST:PORT/NAME, and its servers are found.",
        Unserved::PartOfCluster(_) => "Leave it out.",
    }
}

/// Returns the URL by which this server is reached with a password.
pub(crate) fn with_password(address: &BackendAddress) -> String {
    let name = address.name();
    match (address.unix_path(), address.tls()) {
        (Some(_), _) => format!("redis+unix://{name}?pass=PASSWORD"),
        (None, Some(_)) => format!("rediss://:PASSWORD@{name}"),
        (None, None) => format!("redis://:PASSWORD@{name}"),
    }
}

fn advice_on_stranger(stranger: &Stranger, address: &BackendAddress) -> String {
    let name = address.name();
    match stranger {
        Stranger::Tls => format!("Is that a TLS port? Then write rediss://{name}."),
        Stranger::Http => {
            "Is that a web server's port? Write that of a Redis server, which is usually 6379."
                .to_owned()
        }
        Stranger::Named(_) | Stranger::Other(_) => {
            "Write the address of a Redis server, whose port is usually 6379.".to_owned()
        }
    }
}

/// Says what to do about a server that has refused in these words.
fn advice_on_refusal(why: &str, address: &BackendAddress) -> String {
    let advice = match why.split(' ').next().unwrap_or_default() {
        "NOAUTH" => return format!("It wants a password: write {}.", with_password(address)),
        "WRONGPASS" => "Check its user and its password: in its URL, or in its password-file.",
        "NOPERM" => "Give its user that right (ACL SETUSER).",
        "LOADING" => "Wait until it has loaded its data.",
        "DENIED" => {
            "It lets in nobody from other machines: give it a password (requirepass), or turn \
             protected-mode off."
        }
        _ if why.contains("DB index") => {
            "It has no such database: name another in its URL, or raise its setting databases."
        }
        _ if why.contains("SELECT is not allowed") => {
            "A Cluster has database 0 alone: take the number out of its URL."
        }
        _ if why.contains("max number of clients") => "Raise its maxclients.",
        _ if why.contains("AUTH") => "It has no password: leave it out of the URL.",
        _ => "See its log.",
    };
    advice.to_owned()
}

/// Says what to do about a server with which TLS can't be spoken.
fn advice_on_tls(error: &TlsError) -> &'static str {
    match error {
        TlsError::NotTls | TlsError::Ended => {
            "Is that its TLS port (tls-port)? If not, write redis://."
        }
        TlsError::TimedOut => {
            "Is that its TLS port (tls-port)? If not, write redis://. If so, it is frozen or \
             overloaded."
        }
        TlsError::Certificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => {
            "Write one of its names in the URL, or name it by --backend-tls-server-name \
             (tls-server-name in the file)."
        }
        TlsError::Certificate(CertificateError::UnknownIssuer) => {
            "Name the certificate of its CA by --backend-tls-ca (tls-ca in the file)."
        }
        TlsError::Certificate(why) if is_of_ca(why) => {
            "Sign another one with it for the server; openssl req -x509 makes one that stands alone with -addext \
             basicConstraints=critical,CA:FALSE."
        }
        TlsError::Certificate(_) => "Give the server another certificate.",
        TlsError::Alert(AlertDescription::ProtocolVersion) => {
            "Let it speak TLS 1.2 or 1.3 (tls-protocols)."
        }
        TlsError::Alert(
            AlertDescription::CertificateRequired
            | AlertDescription::NoCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::CertificateExpired
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::HandshakeFailure,
        ) => {
            "Name a certificate of ours that it trusts by --backend-tls-cert and --backend-tls-key \
             (tls-cert and tls-key in the file)."
        }
        _ => "See its log.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_has_its_advice_which_can_be_typed() {
        let address = |text: &str| text.parse::<BackendAddress>().expect("an address");
        let (plain, tls) = (address("10.0.0.1:6379"), address("rediss://10.0.0.1:6379"));
        let said = |error: &BackendError, address| {
            advice_on_failure(error, address, Duration::from_secs(1))
        };
        let redis = |text: &str| BackendError::Redis(text.to_owned());
        let lost = || BackendError::Lost(std::io::ErrorKind::UnexpectedEof.into());
        let refused = |error| BackendError::Tls(TlsError::Certificate(error));
        let alert = |alert| BackendError::Tls(TlsError::Alert(alert));
        for (error, address, expected) in [
            (redis("NOAUTH Authentication required."), &plain, "redis://:PASSWORD@10.0.0.1:6379"),
            (redis("NOAUTH Authentication required."), &tls, "rediss://:PASSWORD@10.0.0.1:6379"),
            (redis("DENIED Redis is running in protected mode"), &plain, "protected-mode"),
            (redis("ERR max number of clients reached"), &plain, "maxclients"),
            (redis("ERR AUTH <password> called without any password"), &plain, "leave it out"),
            (redis("ERR DB index is out of range"), &plain, "name another in its URL"),
            (redis("LOADING Redis is loading the dataset in memory"), &plain, "Wait"),
            (redis("NOPERM this user has no permissions"), &plain, "ACL SETUSER"),
            (lost(), &plain, "Is that a TLS port? Then write rediss://10.0.0.1:6379."),
            (lost(), &tls, "Is that a Redis server?"),
            (BackendError::Stranger(Stranger::Tls), &plain, "rediss://10.0.0.1:6379"),
            (BackendError::Stranger(Stranger::Http), &plain, "a web server's port?"),
            (BackendError::Silent("PING"), &plain, "It had 1s (--check-timeout)"),
            (refused(CertificateError::NotValidForName), &tls, "--backend-tls-server-name"),
            (refused(CertificateError::UnknownIssuer), &tls, "--backend-tls-ca"),
            (refused(CertificateError::Expired), &tls, "another certificate"),
            (alert(AlertDescription::ProtocolVersion), &tls, "TLS 1.2 or 1.3"),
            (alert(AlertDescription::UnknownCA), &tls, "--backend-tls-cert"),
            (alert(AlertDescription::HandshakeFailure), &tls, "--backend-tls-cert"),
            (alert(AlertDescription::AccessDenied), &tls, "See its log."),
            (BackendError::TimedOut, &plain, "firewall"),
        ] {
            let advice = said(&error, address);
            assert!(advice.contains(expected), "{error}: {advice}");
        }
    }
}
