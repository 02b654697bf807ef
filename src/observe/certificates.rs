//! The certificates that somebody has to renew, and the warnings about those that end soon.

use std::collections::HashSet;
use std::time::SystemTime;

use log::{error, warn};
use serde::Serialize;

use crate::balance::Balancer;
use crate::net::tls::expiry::{self, Validity, ValidityConcern};

/// What to do about a certificate of ours.
const RENEW_OURS: &str = "renew it, and reload";

/// A certificate that somebody has to renew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WatchedCertificate {
    /// What it is for, in metrics.
    pub name: String,
    /// Where it comes from, in the log.
    pub origin: String,
    /// What to do before it expires.
    pub advice: &'static str,
    /// When it is valid.
    pub validity: Validity,
}

/// A certificate that somebody has to renew, as the status has it.
#[derive(Debug, Serialize)]
pub(super) struct CertificateStatus {
    certificate: String,
    origin: String,
    not_before: String,
    not_after: String,
    concern: Option<String>,
}

/// Returns all certificates that are watched.
pub(crate) fn watched(balancer: &Balancer) -> Vec<WatchedCertificate> {
    let config = balancer.config();
    let of_listener = config.listener_tls.as_ref().map(|tls| WatchedCertificate {
        name: "listener".to_owned(),
        origin: format!("--tls-cert {}", config.shown_cert()),
        advice: RENEW_OURS,
        validity: tls.validity,
    });
    let of_ours = config.credentials.all().iter().filter_map(|credentials| {
        let path = credentials.files.cert.as_ref()?.display();
        Some(WatchedCertificate {
            name: format!("client {path}"),
            origin: format!("{path}, which is shown to backends"),
            advice: RENEW_OURS,
            validity: credentials.validity?,
        })
    });
    let backends = balancer.backends();
    let of_backends = backends.iter().filter_map(|member| {
        Some(WatchedCertificate {
            name: format!("backend {}", member.name()),
            origin: format!("backend {}", member.name()),
            advice: "renew it there",
            validity: member.certificate_validity()?,
        })
    });
    let mut watched: Vec<_> = of_listener.into_iter().chain(of_ours).chain(of_backends).collect();
    // One file may be shown to backends of several CAs.
    let mut names = HashSet::new();
    watched.retain(|certificate| names.insert(certificate.name.clone()));
    watched
}

/// Returns all certificates that are watched, as the status has them.
pub(super) fn statuses(balancer: &Balancer, now: SystemTime) -> Vec<CertificateStatus> {
    let status = |certificate: WatchedCertificate| CertificateStatus {
        certificate: certificate.name,
        origin: certificate.origin,
        not_before: expiry::shown(certificate.validity.not_before),
        not_after: expiry::shown(certificate.validity.not_after),
        concern: certificate.validity.concern(now).map(|concern| concern.to_string()),
    };
    watched(balancer).into_iter().map(status).collect()
}

/// Warns of the certificates that end soon, or are of no use at this time.
pub fn warn_of_expiry(balancer: &Balancer, now: SystemTime) {
    for certificate in watched(balancer) {
        let origin = &certificate.origin;
        match certificate.validity.concern(now) {
            None => {}
            Some(concern @ ValidityConcern::ExpiresSoon { .. }) => {
                warn!("{origin}: the certificate {concern}; {}", certificate.advice);
            }
            Some(concern) => {
                error!("{origin}: the certificate {concern}; it is refused by those who check it")
            }
        }
    }
}
