//! Counters of TLS towards clients.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::Counter;

/// The versions, as OpenSSL writes them.
pub const VERSIONS: [&str; 2] = ["TLSv1.2", "TLSv1.3"];

/// A client spoke TLS, which is not configured.
pub const NOT_CONFIGURED: &str = "not_configured";

/// A client spoke plain text where TLS alone is served.
pub const PLAIN_TEXT: &str = "plain_text";

/// Words for why TLS was not agreed on: those of [`TlsError::label`](crate::net::tls::TlsError::label), and our own.
pub const FAILURES: [&str; 9] = [
    "alert",
    "certificate",
    "ended",
    "no_certificate",
    "no_tls",
    "protocol",
    "timeout",
    NOT_CONFIGURED,
    PLAIN_TEXT,
];

/// What has become of the clients that speak TLS, or should.
#[derive(Debug, Default)]
pub struct TlsMetrics {
    clients: [AtomicUsize; VERSIONS.len()],
    /// For each version, of new sessions and of resumed ones.
    handshakes: [[Counter; 2]; VERSIONS.len()],
    failures: [Counter; FAILURES.len()],
}

impl TlsMetrics {
    /// Counts a client with which TLS was not agreed on, by a word of [`FAILURES`].
    pub fn fail(&self, why: &str) {
        if let Some(index) = FAILURES.iter().position(|known| *known == why) {
            self.failures[index].add_one();
        }
    }

    /// How many clients there were for each word of [`FAILURES`].
    pub fn failures(&self) -> impl Iterator<Item = (&'static str, u64)> {
        FAILURES.into_iter().zip(&self.failures).map(|(why, count)| (why, count.get()))
    }

    /// How many handshakes have succeeded: the version, whether the session was resumed, and the count.
    pub fn handshakes(&self) -> impl Iterator<Item = (&'static str, bool, u64)> {
        VERSIONS.into_iter().zip(&self.handshakes).flat_map(|(version, counts)| {
            [(version, false, counts[0].get()), (version, true, counts[1].get())]
        })
    }

    /// How many clients are connected by each version.
    pub fn clients(&self) -> impl Iterator<Item = (&'static str, usize)> {
        VERSIONS
            .into_iter()
            .zip(&self.clients)
            .map(|(version, count)| (version, count.load(Ordering::Relaxed)))
    }
}

/// Counts a client as connected by TLS until it is dropped.
#[derive(Debug)]
pub struct TlsPresence<'a>(&'a AtomicUsize);

impl<'a> TlsPresence<'a> {
    /// Counts a client whose handshake has succeeded; `None` for a version that is none of [`VERSIONS`].
    pub fn new(metrics: &'a TlsMetrics, version: &str, is_resumed: bool) -> Option<Self> {
        let index = VERSIONS.iter().position(|known| *known == version)?;
        metrics.handshakes[index][usize::from(is_resumed)].add_one();
        metrics.clients[index].fetch_add(1, Ordering::Relaxed);
        Some(Self(&metrics.clients[index]))
    }
}

impl Drop for TlsPresence<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::net::tls::TlsError;

    #[test]
    fn every_failure_has_its_word() {
        for error in [
            TlsError::Io(io::ErrorKind::Other.into()),
            TlsError::TimedOut,
            TlsError::Ended,
            TlsError::NotTls,
            TlsError::Certificate(rustls::CertificateError::BadEncoding),
            TlsError::NoCertificate,
            TlsError::Alert(rustls::AlertDescription::CloseNotify),
            TlsError::Protocol(String::new()),
        ] {
            assert!(FAILURES.contains(&error.label()), "{error:?}");
        }
    }

    #[test]
    fn clients_count_while_they_are_there_and_handshakes_for_ever() {
        let metrics = TlsMetrics::default();
        let presence = TlsPresence::new(&metrics, "TLSv1.3", true).expect("a version");
        assert!(metrics.clients().eq([("TLSv1.2", 0), ("TLSv1.3", 1)]));
        drop(presence);
        assert!(metrics.clients().eq([("TLSv1.2", 0), ("TLSv1.3", 0)]));
        let resumed: Vec<_> = metrics.handshakes().filter(|(_, _, count)| *count > 0).collect();
        assert_eq!(resumed, [("TLSv1.3", true, 1)]);
    }
}
