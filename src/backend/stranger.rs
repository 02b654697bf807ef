//! Servers that are no Redis, told by how their first answer begins.

use std::fmt;
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use crate::resp::command;
use crate::text;

/// Most bytes of an answer that are looked at, and most that are shown.
const LOOKED_AT_BYTES: usize = 64;
const SHOWN_BYTES: usize = 24;

/// How the answers of the servers begin that are named.
static SIGNS: [(&[u8], Stranger); 19] = [
    (b"HTTP/", Stranger::Http),
    (b"<!DOCTYPE", Stranger::Http),
    (b"<!doctype", Stranger::Http),
    (b"<html", Stranger::Http),
    (b"<HTML", Stranger::Http),
    (b"<?xml", Stranger::Http),
    // An alert of TLS (RFC 8446, section 5.1), and a handshake.
    (b"\x15\x03", Stranger::Tls),
    (b"\x16\x03", Stranger::Tls),
    (b"SSH-", Stranger::Named("SSH")),
    (b"AMQP", Stranger::Named("AMQP, as RabbitMQ does")),
    (b"ERROR\r\n", Stranger::Named("the protocol of memcached")),
    (b"+OK", Stranger::Named("POP3, as mail servers do")),
    (b"* OK", Stranger::Named("IMAP, as mail servers do")),
    (b"220 ", Stranger::Named("SMTP or FTP")),
    (b"220-", Stranger::Named("SMTP or FTP")),
    (b"INFO {", Stranger::Named("the protocol of NATS")),
    (b"RFB ", Stranger::Named("VNC")),
    // An error of PostgreSQL before its version 3 of the protocol, and since.
    (b"EFATAL", Stranger::Named("the protocol of PostgreSQL")),
    (b"E\0\0\0", Stranger::Named("the protocol of PostgreSQL")),
];

/// What answers in place of a Redis server. Its text goes on from the name of a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stranger {
    /// A web server, or a proxy that speaks HTTP.
    Http,
    /// A server that wants TLS first.
    Tls,
    /// A server of another protocol, which is named.
    Named(&'static str),
    /// Something else: the beginning of its answer, as it is shown.
    Other(String),
}

impl fmt::Display for Stranger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http => f.write_str("it speaks HTTP there, not the Redis protocol"),
            Self::Tls => f.write_str("it speaks TLS there: its URL begins with rediss://"),
            Self::Named(what) => write!(f, "it speaks {what}, not the Redis protocol"),
            Self::Other(said) => write!(f, "its answer is no Redis reply: '{said}'"),
        }
    }
}

impl Stranger {
    /// Returns what has begun its answer with these bytes, if no reply of Redis does that: `kinds` are the first bytes
    /// of those that are expected.
    pub fn of(answer: &[u8], kinds: &[u8]) -> Option<Self> {
        match answer.first() {
            None => None,
            Some(kind) if kinds.contains(kind) => None,
            Some(_) => Some(Self::by(answer)),
        }
    }

    /// Returns what has answered PING with this status, if Redis does not.
    pub fn of_pong(status: &str) -> Option<Self> {
        let is_pong = status.eq_ignore_ascii_case("PONG");
        (!is_pong).then(|| Self::by(format!("+{status}").as_bytes()))
    }

    fn by(answer: &[u8]) -> Self {
        let sign = SIGNS.iter().find(|(sign, _)| answer.starts_with(sign));
        match sign {
            Some((_, stranger)) => stranger.clone(),
            None if is_http2(answer) => Self::Http,
            None if is_mysql(answer) => Self::Named("the protocol of MySQL"),
            None => Self::Other(shown(answer)),
        }
    }

    /// Asks what answers at an address: sends a PING in plain text and takes the first bytes that come. `None` if that
    /// is Redis, or says nothing within `timeout`.
    pub fn at(host: &str, port: u16, timeout: Duration) -> Option<Self> {
        let deadline = Instant::now() + timeout;
        let address = (host, port).to_socket_addrs().ok()?.next()?;
        let mut stream = TcpStream::connect_timeout(&address, timeout).ok()?;
        stream.set_write_timeout(Some(timeout)).ok()?;
        stream.write_all(&command("PING").into_bytes()).ok()?;
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        stream.set_read_timeout(Some(left)).ok()?;
        let mut answer = [0; LOOKED_AT_BYTES];
        let length = stream.read(&mut answer).ok()?;
        let answer = &answer[..length];
        Self::of(answer, b"+-").or_else(|| {
            let status = answer.strip_prefix(b"+")?.trim_ascii_end();
            Self::of_pong(&String::from_utf8_lossy(status))
        })
    }
}

/// The frame of SETTINGS with which an HTTP/2 server begins (RFC 9113, section 3.4): three bytes of length, the type 4, no
/// flags, stream 0.
fn is_http2(answer: &[u8]) -> bool {
    matches!(answer, [0, 0, _, 4, 0, 0, 0, 0, 0, ..])
}

/// The greeting of MySQL: three bytes of length, the number 0, then version 10 of the protocol, or an error.
fn is_mysql(answer: &[u8]) -> bool {
    matches!(answer, [_, 0, 0, 0, 10 | 0xff, ..])
}

/// Returns the beginning of an answer, safe to be shown.
fn shown(answer: &[u8]) -> String {
    let part = &answer[..answer.len().min(SHOWN_BYTES)];
    let text = String::from_utf8_lossy(part);
    let plain = text.trim_end().chars();
    let plain = plain.map(|c| if text::is_hidden(c) || c == '\u{fffd}' { '?' } else { c });
    let more = if answer.len() > SHOWN_BYTES { "…" } else { "" };
    format!("{}{more}", plain.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_of_other_protocols_are_told_by_how_they_begin() {
        for (answer, expected) in [
            (&b"HTTP/1.1 400 Bad Request\r\n"[..], "it speaks HTTP there"),
            (b"<!DOCTYPE HTML>\n<html", "it speaks HTTP there"),
            (b"\0\0\x12\x04\0\0\0\0\0\0\x03", "it speaks HTTP there"),
            (b"\x15\x03\x01\0\x02\x02\x28", "it speaks TLS there"),
            (b"SSH-2.0-OpenSSH_9.2\r\n", "it speaks SSH"),
            (b"J\0\0\0\n8.0.35\0", "the protocol of MySQL"),
            (b"ERROR\r\n", "the protocol of memcached"),
            (b"220 mail.example ESMTP\r\n", "it speaks SMTP"),
            (
                b"hello\x1b[2J, this is something else",
                "no Redis reply: 'hello?[2J, this is somet…'",
            ),
            (b"hello\r\n", "no Redis reply: 'hello'"),
        ] {
            let stranger = Stranger::of(answer, b"+-").expect("no Redis").to_string();
            assert!(stranger.contains(expected), "{}: {stranger}", answer.escape_ascii());
        }
        for answer in [&b""[..], b"+PONG\r\n", b"-NOAUTH Authentication required.\r\n"] {
            assert_eq!(Stranger::of(answer, b"+-"), None, "{}", answer.escape_ascii());
        }
        assert_eq!(Stranger::of_pong("PONG"), None);
        let mail = Stranger::of_pong("OK Dovecot ready.").expect("no Redis").to_string();
        assert!(mail.contains("POP3"), "{mail}");
    }
}
