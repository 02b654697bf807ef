//! Clients that are not served: each is told why in the protocol that it speaks, and probes among them are answered.

use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::Endpoint;
use super::client::Client;
use super::http::probe_response;
use crate::balance::Balancer;
use crate::net::protocol::{Opening, WireProtocol};

/// Longest time for a client over a limit to say what it wants, and to take the answer.
pub const DENIAL_TIME: Duration = Duration::from_millis(20);

/// Most bytes that are read of such a client. The head of a probe fits.
pub const DENIAL_BYTES: usize = 1024;

/// How requests begin that are answered all the same.
const PROBES: [&[u8]; 4] = [b"GET /-/health", b"GET /-/ready", b"HEAD /-/health", b"HEAD /-/ready"];

/// Alerts of TLS (RFC 8446, section 6).
const HANDSHAKE_FAILURE: u8 = 40;
const INTERNAL_ERROR: u8 = 80;

/// Why a client is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    /// There are too many clients.
    Full,
    /// Its address has too many clients.
    AddressFull,
    /// It speaks plain text, and TLS alone is served.
    PlainText,
    /// It speaks TLS, which is not configured.
    NoTls,
    /// A proxy has sent a PROXY header, which is not configured.
    ProxyHeader,
}

impl Denial {
    /// Returns the answer to a client that begins so.
    fn answer(self, opening: Opening) -> Vec<u8> {
        match opening {
            Opening::Tls => alert(self),
            // What follows a header is not known.
            Opening::ProxyHeader | Opening::Plain(WireProtocol::Resp) => {
                format!("-ERR {}\r\n", self.redis_text()).into()
            }
            Opening::Plain(WireProtocol::Http) => self.response(),
        }
    }

    fn redis_text(self) -> &'static str {
        match self {
            Self::Full => "max number of clients reached",
            Self::AddressFull => "max number of clients reached for this address",
            Self::PlainText | Self::NoTls => "this port speaks TLS alone: connect with TLS",
            Self::ProxyHeader => "a PROXY header came first, which takes --proxy-protocol",
        }
    }

    fn response(self) -> Vec<u8> {
        let (status, retry, text) = match self {
            Self::Full => (
                "503 Service Unavailable",
                "Retry-After: 1\r\n",
                "too many clients: try again later",
            ),
            Self::AddressFull => (
                "429 Too Many Requests",
                "Retry-After: 1\r\n",
                "too many clients of this address: try again later",
            ),
            Self::PlainText | Self::NoTls => {
                ("400 Bad Request", "", "this port speaks TLS alone: use https://")
            }
            Self::ProxyHeader => {
                ("400 Bad Request", "", "a PROXY header came first, which takes --proxy-protocol")
            }
        };
        let body = format!("{{\n  \"error\": \"{text}\"\n}}\n");
        let length = body.len();
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json; charset=utf-8\r\n\
             X-Content-Type-Options: nosniff\r\nContent-Length: {length}\r\n{retry}\
             Connection: close\r\n\r\n{body}"
        )
        .into()
    }
}

/// Returns the alert by which TLS ends before there is a session: a record of version 1.0, as before any is agreed on.
fn alert(denial: Denial) -> Vec<u8> {
    let description = match denial {
        // There is no alert for it: "unrelated to the peer or the correctness of the protocol" comes nearest.
        Denial::Full | Denial::AddressFull => INTERNAL_ERROR,
        Denial::PlainText | Denial::NoTls | Denial::ProxyHeader => HANDSHAKE_FAILURE,
    };
    vec![0x15, 3, 1, 0, 2, 2, description]
}

/// The answer to a client that is not served.
#[derive(Debug, PartialEq, Eq)]
pub enum DenialAnswer {
    /// It is told why.
    Denied(Vec<u8>),
    /// It asks for what is answered all the same.
    Probe(Vec<u8>),
}

/// Returns the answer to a client that is not served, by the bytes that it has sent; `None` while they don't tell what it
/// wants. `is_all` says that no more are waited for.
pub fn denial_answer(
    denial: Denial,
    received: &[u8],
    is_all: bool,
    endpoint: Endpoint,
    balancer: &Balancer,
) -> Option<DenialAnswer> {
    answer_to(denial, received, is_all, |head| probe_response(head, endpoint, balancer))
}

/// As [`denial_answer`]; `probe` answers a whole request for health or readiness.
fn answer_to(
    denial: Denial,
    received: &[u8],
    is_all: bool,
    probe: impl FnOnce(&[u8]) -> Option<Vec<u8>>,
) -> Option<DenialAnswer> {
    let opening = Opening::detect(received)?;
    let denied = || Some(DenialAnswer::Denied(denial.answer(opening)));
    match opening {
        // Where no client of a proxy is served, its probes must not say that all is well.
        Opening::Plain(WireProtocol::Http)
            if denial != Denial::ProxyHeader && may_be_probe(received) =>
        {
            match probe(received) {
                None if is_all => denied(),
                answer => answer.map(DenialAnswer::Probe),
            }
        }
        _ => denied(),
    }
}

/// Returns whether a request that begins with these bytes may be one for health or readiness.
fn may_be_probe(received: &[u8]) -> bool {
    let line = received.strip_prefix(b"\r\n").unwrap_or(received);
    PROBES.iter().any(|probe| line.starts_with(probe) || probe.starts_with(line))
}

/// Answers a client that is not served, as soon as it has sent enough for that, within `time`. Returns whether it was
/// denied: else it was a probe, or has left.
pub(super) fn deny(
    client: &mut Client,
    received: &mut Vec<u8>,
    denial: Denial,
    time: Duration,
) -> bool {
    let since = Instant::now();
    client.head_timeout = time;
    loop {
        let is_late = since.elapsed() >= time || received.len() >= DENIAL_BYTES;
        match denial_answer(denial, received, is_late, client.endpoint, client.balancer) {
            Some(DenialAnswer::Denied(answer)) => {
                send_last(client, &answer);
                return true;
            }
            Some(DenialAnswer::Probe(answer)) => {
                send_last(client, &answer);
                return false;
            }
            None if is_late => return true,
            None => {}
        }
        match client.read_head(since, received) {
            Ok(1..) => {}
            Ok(_) => return false,
            // It has said too little in time, which the next look decides.
            Err(_) if since.elapsed() >= time => {}
            Err(_) => return false,
        }
    }
}

fn send_last(client: &mut Client, answer: &[u8]) {
    if client.write_all(answer).is_ok() {
        client.linger(true);
    }
}

/// Returns a client's address as lines of the log about denials name it: without the port, which tells nothing.
pub(super) fn named(address: SocketAddr) -> String {
    address.ip().to_canonical().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEALTH: &str = "GET /-/health HTTP/1.1\r\n\r\n";

    fn answer(denial: Denial, received: &[u8], is_all: bool) -> Option<String> {
        let probe = |head: &[u8]| head.ends_with(b"\r\n\r\n").then(|| b"OK".to_vec());
        answer_to(denial, received, is_all, probe).map(|answer| match answer {
            DenialAnswer::Denied(bytes) => bytes.escape_ascii().to_string(),
            DenialAnswer::Probe(bytes) => {
                format!("probe: {}", bytes.escape_ascii())
            }
        })
    }

    #[test]
    fn a_client_is_denied_in_its_protocol_or_not_at_all() {
        for (denial, http, resp, tls) in [
            (Denial::Full, "HTTP/1.1 503 ", "-ERR max number of clients reached\\r\\n", "\\x02P"),
            (
                Denial::AddressFull,
                "HTTP/1.1 429 ",
                "-ERR max number of clients reached for this address\\r\\n",
                "\\x02P",
            ),
            (Denial::PlainText, "HTTP/1.1 400 ", "-ERR this port speaks TLS alone", "\\x02("),
            (Denial::NoTls, "HTTP/1.1 400 ", "-ERR this port speaks TLS alone", "\\x02("),
        ] {
            let (http, resp) = (Some(http.to_owned()), Some(resp.to_owned()));
            let tls = Some(format!("\\x15\\x03\\x01\\x00\\x02{tls}"));
            for (received, now, at_the_end) in [
                (&b"GET /key HTTP/1.1\r\n"[..], &http, &http),
                (b"GET /-/metrics HTTP/1.1\r\n", &http, &http),
                (b"GET /", &None, &http),
                (b"\r\nGET /-/he", &None, &http),
                (&HEALTH.as_bytes()[..HEALTH.len() - 2], &None, &http),
                (b"*1\r\n$4\r\nPING\r\n", &resp, &resp),
                (b"*", &resp, &resp),
                (b"GET key\r\n", &resp, &resp),
                (b"\x16\x03\x01", &tls, &tls),
                (b"\x16", &None, &None),
                (b"", &None, &None),
                (b"GET", &None, &None),
                (b"\r\n", &None, &None),
            ] {
                for (is_all, expected) in [(false, now), (true, at_the_end)] {
                    let found = answer(denial, received, is_all);
                    let begins = found.as_ref().zip(expected.as_ref());
                    assert!(
                        begins.is_some_and(|(found, expected)| found.starts_with(expected))
                            || (found.is_none() && expected.is_none()),
                        "{denial:?} {}: {found:?}",
                        received.escape_ascii()
                    );
                }
            }
        }
    }

    #[test]
    fn a_probe_behind_a_header_that_is_not_taken_does_not_say_that_all_is_well() {
        let denied = |received: &[u8]| answer(Denial::ProxyHeader, received, false);
        for (received, expected) in [
            (HEALTH.as_bytes(), "HTTP/1.1 400 "),
            (b"*1\r\n", "-ERR a PROXY header came first"),
            (b"PROXY TCP4 ", "-ERR a PROXY header came first"),
            (b"\x16\x03\x01", "\\x15\\x03"),
        ] {
            let found = denied(received).expect("an answer");
            assert!(found.starts_with(expected), "{}: {found}", received.escape_ascii());
        }
        assert_eq!(denied(b""), None);
    }

    #[test]
    fn a_probe_is_answered_all_the_same() {
        for head in [HEALTH, "HEAD /-/ready?from=a HTTP/1.1\r\n\r\n", "\r\nGET /-/ready\r\n\r\n"] {
            for denial in [Denial::Full, Denial::PlainText] {
                let answer = answer(denial, head.as_bytes(), false);
                assert_eq!(answer.as_deref(), Some("probe: OK"), "{head:?}");
            }
        }
    }

    #[test]
    fn a_response_has_the_length_that_it_names() {
        for denial in [Denial::Full, Denial::AddressFull, Denial::PlainText] {
            let text = String::from_utf8(denial.response()).expect("text");
            let (head, body) = text.split_once("\r\n\r\n").expect("head and body");
            assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{text}");
            serde_json::from_str::<serde_json::Value>(body).expect("JSON");
        }
    }
}
