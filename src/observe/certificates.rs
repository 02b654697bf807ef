//! The certificates that somebody has to renew, and the warnings about those that end soon.

use std::time::SystemTime;

use log::{error, warn};
use serde::Serialize;

use crate::balance::Balancer;
use crate::net::tls::expiry::{self, Validity, ValidityConcern};

/// A certificate that somebody has to renew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WatchedCertificate {
    /// What it is for, in metrics.
    pub name: &'static str,
    /// Where it comes from, in the log.
    pub origin: String,
    /// When it is valid.
    pub validity: Validity,
}

/// A certificate that somebody has to renew, as the status has it.
#[derive(Debug, Serialize)]
pub(super) struct CertificateStatus {
    certificate: &'static str,
    origin: String,
    not_before: String,
    not_after: String,
    concern: Option<String>,
}

/// Returns all certificates that are watched.
pub(crate) fn watched(balancer: &Balancer) -> Vec<WatchedCertificate> {
    let config = balancer.config();
    let of_listener = config.listener_tls.as_ref().map(|tls| WatchedCertificate {
        name: "listener",
        origin: format!("--tls-cert {}", config.shown_cert()),
        validity: tls.validity,
    });
    of_listener.into_iter().collect()
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
                warn!("{origin}: the certificate {concern}; renew it, and reload");
            }
            Some(concern) => {
                error!("{origin}: the certificate {concern}; it is refused by those who check it")
            }
        }
    }
}
