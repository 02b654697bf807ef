//! When certificates are valid, and when to warn of their end. The time is a value here.

use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use x509_cert::Certificate;
use x509_cert::der::Decode;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A certificate that ends within this is warned about. Those that live for 90 days are mostly renewed 30 days before
/// (certbot), so one that has come this far will not be renewed by itself.
pub const WARNING_TIME: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// The time in which a certificate, or a chain of them, is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// Its first moment.
    pub not_before: SystemTime,
    /// Its last moment.
    pub not_after: SystemTime,
}

/// A reason to look at a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ValidityConcern {
    /// It is not valid yet.
    #[error("is not valid before {}", shown(*.0))]
    NotYetValid(SystemTime),
    /// It is not valid any more.
    #[error("has expired on {}", shown(*.0))]
    Expired(SystemTime),
    /// It is valid for a few days more.
    #[error("expires in {} days, on {}", .left.as_secs() / DAY.as_secs(), shown(*.not_after))]
    ExpiresSoon {
        /// How long it is still valid.
        left: Duration,
        /// Its last moment.
        not_after: SystemTime,
    },
}

impl ValidityConcern {
    /// Returns whether the certificate is of no use at this moment.
    pub fn is_invalid(&self) -> bool {
        !matches!(self, Self::ExpiresSoon { .. })
    }
}

impl Validity {
    /// Returns the time in which all these certificates are valid; `None` if one can't be read, or there is none.
    pub fn of_chain(chain: &[CertificateDer]) -> Option<Self> {
        let all = chain.iter().map(Self::of).collect::<Option<Vec<_>>>()?;
        all.into_iter().reduce(|one, other| Self {
            not_before: one.not_before.max(other.not_before),
            not_after: one.not_after.min(other.not_after),
        })
    }

    fn of(certificate: &CertificateDer) -> Option<Self> {
        let certificate = Certificate::from_der(certificate).ok()?;
        let validity = certificate.tbs_certificate().validity();
        Some(Self {
            not_before: validity.not_before.to_system_time(),
            not_after: validity.not_after.to_system_time(),
        })
    }

    /// Returns the reason to look at it at this time, if there is one.
    pub fn concern(&self, now: SystemTime) -> Option<ValidityConcern> {
        let Self { not_before, not_after } = *self;
        match not_after.duration_since(now) {
            _ if now < not_before => Some(ValidityConcern::NotYetValid(not_before)),
            Err(_) => Some(ValidityConcern::Expired(not_after)),
            Ok(left) if left < WARNING_TIME => {
                Some(ValidityConcern::ExpiresSoon { left, not_after })
            }
            Ok(_) => None,
        }
    }
}

/// The last second that can be shown, in seconds since 1970: later years have five digits. Certificates name none.
pub const LAST_SECOND: u64 = 253_402_300_799;

/// Returns a time as the log and the status page show it.
pub fn shown(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    #[test]
    fn a_certificate_is_warned_about_two_weeks_before_its_end() {
        let (not_before, not_after) = (UNIX_EPOCH + 100 * DAY, UNIX_EPOCH + 190 * DAY);
        let validity = Validity { not_before, not_after };
        let second = Duration::from_secs(1);
        for (now, expected) in [
            (not_before - second, Some("is not valid before 1970-04-11T00:00:00Z")),
            (not_before, None),
            (not_after - WARNING_TIME, None),
            (
                not_after - WARNING_TIME + second,
                Some("expires in 13 days, on 1970-07-10T00:00:00Z"),
            ),
            (not_after - second, Some("expires in 0 days, on 1970-07-10T00:00:00Z")),
            (not_after, Some("expires in 0 days, on 1970-07-10T00:00:00Z")),
            (not_after + second, Some("has expired on 1970-07-10T00:00:00Z")),
        ] {
            let concern = validity.concern(now);
            assert_eq!(concern.map(|concern| concern.to_string()).as_deref(), expected);
            let is_valid = (not_before..=not_after).contains(&now);
            assert_eq!(concern.is_some_and(|concern| concern.is_invalid()), !is_valid);
        }
    }

    #[test]
    fn a_chain_is_valid_while_each_of_its_certificates_is() {
        let certificate = |from: i32, to: i32| {
            let mut params = CertificateParams::new(Vec::new()).expect("parameters");
            params.not_before = date_time_ymd(from, 1, 1);
            params.not_after = date_time_ymd(to, 1, 1);
            let key = KeyPair::generate().expect("a key");
            params.self_signed(&key).expect("a certificate").der().clone()
        };
        let chain = [certificate(2020, 2030), certificate(2021, 2060), certificate(2019, 2029)];
        let validity = Validity::of_chain(&chain).expect("dates");
        assert_eq!(shown(validity.not_before), "2021-01-01T00:00:00Z");
        assert_eq!(shown(validity.not_after), "2029-01-01T00:00:00Z");
        assert_eq!(Validity::of_chain(&[]), None);
        assert_eq!(Validity::of_chain(&[CertificateDer::from(vec![1, 2, 3])]), None);
    }
}
