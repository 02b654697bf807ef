//! Detects a client's protocol by its first bytes.

/// Number of bytes that always suffice to tell the protocol.
const DETECTION_BYTES: usize = 16;

/// The protocol that a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WireProtocol {
    /// HTTP, of any version.
    Http,
    /// The Redis protocol.
    Resp,
}

impl WireProtocol {
    /// Detects the protocol by the first bytes that a client has sent; `None` while both are possible.
    ///
    /// HTTP begins with a method in upper case, a space, then `/`, `*` or `http`. Anything else is Redis.
    pub fn detect(received: &[u8]) -> Option<Self> {
        let received = &received[..received.len().min(DETECTION_BYTES)];
        // Both protocols skip empty lines.
        let blank = received.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        let text = &received[blank..];
        let method = text.iter().take_while(|byte| byte.is_ascii_uppercase() || **byte == b'-');
        let method = method.count();
        let is_http = match text[method..].split_first() {
            Some((b' ', target)) if method > 0 => match target.first() {
                Some(b'/' | b'*') => Some(true),
                _ if target.starts_with(b"http") => Some(true),
                _ if b"http".starts_with(target) => None,
                _ => Some(false),
            },
            Some(_) => Some(false),
            None => None,
        };
        match is_http {
            Some(true) => Some(Self::Http),
            None if received.len() < DETECTION_BYTES => None,
            _ => Some(Self::Resp),
        }
    }
}

/// What a connection begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// The handshake of TLS.
    Tls,
    /// The header of the PROXY protocol.
    ProxyHeader,
    /// One of our protocols, in plain text.
    Plain(WireProtocol),
}

impl Opening {
    /// Detects what a connection begins with by its first bytes; `None` while they don't tell.
    ///
    /// TLS begins with a record of the type handshake, whose version is 3 and something (RFC 8446, section 5.1). No command
    /// and no HTTP method begins with that byte. The PROXY protocol begins as `proxy_protocol` tells, of which no more is
    /// looked at than the detection of a protocol takes: no command is called PROXY, and none has a zero after empty lines.
    pub fn detect(received: &[u8]) -> Option<Self> {
        match received {
            [0x16] => None,
            [0x16, 3, ..] => Some(Self::Tls),
            [b'P', b'R', b'O', b'X', b'Y', b' ', b'T' | b'U', ..]
            | [b'\r', b'\n', b'\r', b'\n', 0, ..] => Some(Self::ProxyHeader),
            _ => WireProtocol::detect(received).map(Self::Plain),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use WireProtocol::{Http, Resp};

    /// How many first bytes it takes, and the protocol; more of them must not change it.
    fn decision(bytes: &[u8]) -> (usize, Option<WireProtocol>) {
        let told: Vec<_> =
            (0..=bytes.len()).map(|end| WireProtocol::detect(&bytes[..end])).collect();
        let open = told.iter().take_while(|protocol| protocol.is_none()).count();
        let last = told.last().copied().flatten();
        assert!(
            told[open..].iter().all(|protocol| *protocol == last),
            "{}: more bytes change the decision: {told:?}",
            bytes.escape_ascii()
        );
        (open, last)
    }

    #[test]
    fn the_protocol_is_told_as_soon_as_the_bytes_tell_it_and_never_otherwise() {
        let cases: [(&[u8], usize, WireProtocol); 27] = [
            (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", 5, Http),
            (b"POST / ", 6, Http),
            (b"OPTIONS * ", 9, Http),
            (b"M-SEARCH * HTTP/1.1", 10, Http),
            (b"GET http://x/", 8, Http),
            (b"\r\nGET /", 7, Http),
            (b"\r\n\r\n\r\n\r\nGET /", 13, Http),
            (b"GET key", 5, Resp),
            (b"GET hello", 6, Resp),
            (b"GET htt\r\n", 8, Resp),
            (b"GET HTTP://x/", 5, Resp),
            (b"GET  /", 5, Resp),
            (b"GET\t/", 4, Resp),
            (b"GET\r\n", 4, Resp),
            (b"get /", 1, Resp),
            (b"Get /", 2, Resp),
            (b"PING\r\n", 5, Resp),
            (b"\r\nPING\r\n", 7, Resp),
            (b"*1\r\n$4\r\nPING\r\n", 1, Resp),
            (b"* ", 1, Resp),
            (b"/ HTTP/1.1", 1, Resp),
            (b"HTTP/1.1 200 OK", 5, Resp),
            (b"\0", 1, Resp),
            (b"\xff\xfe", 1, Resp),
            (b"\x16\x03\x01\x02\0\x01\0", 1, Resp),
            // The slash is the sixteenth byte, then the seventeenth.
            (b"ABCDEFGHIJKLMN / HTTP/1.1", 16, Http),
            (b"ABCDEFGHIJKLMNO / HTTP/1.1", 16, Resp),
        ];
        for (bytes, decided_at, protocol) in cases {
            let expected = (decided_at, Some(protocol));
            assert_eq!(decision(bytes), expected, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn what_may_become_either_is_waited_for_up_to_sixteen_bytes() {
        let cases: [&[u8]; 8] =
            [b"", b"G", b"GET", b"GET ", b"GET h", b"GET htt", b"\r\nPING", b"ABCDEFGHIJKLMNO"];
        for bytes in cases {
            assert_eq!(WireProtocol::detect(bytes), None, "{}", bytes.escape_ascii());
        }
        for bytes in [&[b'A'; 16], &[b'\n'; 16], b"ABCDEFGHIJKLMNO ", b"ABCDEFGHIJKL htt"] {
            assert_eq!(decision(bytes), (16, Some(Resp)), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn tls_is_told_by_two_bytes_and_the_header_of_a_proxy_by_a_few() {
        for (bytes, expected) in [
            (&b""[..], None),
            (b"\x16", None),
            (b"\x16\x03", Some(Opening::Tls)),
            (b"\x16\x03\x01\x02\0\x01\0", Some(Opening::Tls)),
            (b"\x16\x02", Some(Opening::Plain(Resp))),
            (b"\x15\x03", Some(Opening::Plain(Resp))),
            (b"*1\r\n", Some(Opening::Plain(Resp))),
            (b"GET /", Some(Opening::Plain(Http))),
            (b"GET", None),
            (b"PROXY ", None),
            (b"PROXY T", Some(Opening::ProxyHeader)),
            (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n", Some(Opening::ProxyHeader)),
            (b"PROXY UNKNOWN\r\n", Some(Opening::ProxyHeader)),
            (b"PROXY / HTTP/1.1\r\n", Some(Opening::Plain(Http))),
            (b"PROXY key\r\n", Some(Opening::Plain(Resp))),
            (b"\r\n\r\n", None),
            (b"\r\n\r\n\0", Some(Opening::ProxyHeader)),
            (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", Some(Opening::ProxyHeader)),
            (b"\r\n\r\nGET /", Some(Opening::Plain(Http))),
        ] {
            assert_eq!(Opening::detect(bytes), expected, "{}", bytes.escape_ascii());
        }
    }
}
