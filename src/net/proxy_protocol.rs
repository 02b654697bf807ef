//! The header by which a proxy in front tells the address of its client: the PROXY protocol, versions 1 and 2.
//!
//! The specification is <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>. Nothing here knows of sockets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Longest header of version 1, as its specification says, with the end of the line.
const MAX_TEXT_BYTES: usize = 107;

/// Most bytes after the fixed part of a header of version 2, as in nginx (`NGX_PROXY_PROTOCOL_MAX_HEADER`). Addresses take
/// 216 at most; what proxies add (names, a certificate of the client) is skipped.
const MAX_BINARY_BYTES: usize = 4096;

/// First bytes of version 1.
const TEXT_SIGNATURE: &[u8] = b"PROXY ";

/// First bytes of version 2.
const BINARY_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Length of the fixed part of version 2: the signature, version and command, family and transport, the length of the rest.
const FIXED_BYTES: usize = BINARY_SIGNATURE.len() + 4;

/// Longest header of either version.
pub const MAX_BYTES: usize = FIXED_BYTES + MAX_BINARY_BYTES;

/// A whole header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyHeader {
    /// The client's address. `None` where the proxy speaks for itself (`LOCAL`, as in its health checks), does not know
    /// the address (`UNKNOWN`), or the client came by a Unix socket: the address of the connection itself holds.
    pub client: Option<SocketAddr>,
    /// Number of bytes of the header. Those after it are the client's.
    pub length: usize,
}

/// Why the first bytes of a connection are no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProxyHeaderError {
    /// They begin otherwise than a header.
    #[error("it begins with no PROXY header")]
    Missing,
    /// They begin like a header.
    #[error("its PROXY header is malformed")]
    Malformed,
}

/// Parses the header that a connection begins with; `None` while more bytes are needed.
///
/// # Errors
/// The bytes are no header, and no further bytes make one of them.
pub fn parse(received: &[u8]) -> Result<Option<ProxyHeader>, ProxyHeaderError> {
    let begins_like = |signature: &[u8]| {
        let length = received.len().min(signature.len());
        received[..length] == signature[..length]
    };
    if begins_like(TEXT_SIGNATURE) {
        parse_text(received)
    } else if begins_like(BINARY_SIGNATURE) {
        parse_binary(received)
    } else {
        Err(ProxyHeaderError::Missing)
    }
}

fn parse_text(received: &[u8]) -> Result<Option<ProxyHeader>, ProxyHeaderError> {
    let line = &received[..received.len().min(MAX_TEXT_BYTES)];
    let Some(end) = line.windows(2).position(|bytes| bytes == b"\r\n") else {
        return if line.len() < MAX_TEXT_BYTES {
            Ok(None)
        } else {
            Err(ProxyHeaderError::Malformed)
        };
    };
    let line = std::str::from_utf8(&line[..end]).map_err(|_| ProxyHeaderError::Malformed)?;
    let client = text_client(line).ok_or(ProxyHeaderError::Malformed)?;
    Ok(Some(ProxyHeader { client, length: end + 2 }))
}

/// Returns the address that a line of version 1 names; the outer `None` if it is malformed.
fn text_client(line: &str) -> Option<Option<SocketAddr>> {
    let words: Vec<&str> = line.split(' ').collect();
    match words[..] {
        // What follows has no meaning.
        ["PROXY", "UNKNOWN", ..] => Some(None),
        ["PROXY", "TCP4", source, destination, source_port, destination_port] => {
            let _: Ipv4Addr = destination.parse().ok()?;
            port(destination_port)?;
            Some(Some(address(source.parse::<Ipv4Addr>().ok()?.into(), port(source_port)?)))
        }
        ["PROXY", "TCP6", source, destination, source_port, destination_port] => {
            let _: Ipv6Addr = destination.parse().ok()?;
            port(destination_port)?;
            Some(Some(address(source.parse::<Ipv6Addr>().ok()?.into(), port(source_port)?)))
        }
        _ => None,
    }
}

/// Parses a port, which has digits alone and no zeros before them.
fn port(text: &str) -> Option<u16> {
    let port: u16 = text.parse().ok()?;
    (port.to_string() == text).then_some(port)
}

/// Returns an address whose IPv4 form, if it has one, is the plain one.
fn address(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip.to_canonical(), port)
}

fn parse_binary(received: &[u8]) -> Result<Option<ProxyHeader>, ProxyHeaderError> {
    let Some((fixed, rest)) = received.split_first_chunk::<FIXED_BYTES>() else { return Ok(None) };
    let [version_and_command, family_and_transport, length @ ..] = [
        fixed[FIXED_BYTES - 4],
        fixed[FIXED_BYTES - 3],
        fixed[FIXED_BYTES - 2],
        fixed[FIXED_BYTES - 1],
    ];
    let length = usize::from(u16::from_be_bytes(length));
    let is_local = match version_and_command {
        0x20 => true,
        0x21 => false,
        _ => return Err(ProxyHeaderError::Malformed),
    };
    if length > MAX_BINARY_BYTES {
        return Err(ProxyHeaderError::Malformed);
    }
    let Some(body) = rest.get(..length) else { return Ok(None) };
    let client = match family_and_transport {
        _ if is_local => None,
        // TCP, or UDP, over IPv4, then over IPv6.
        0x11 | 0x12 => Some(ipv4_client(body).ok_or(ProxyHeaderError::Malformed)?),
        0x21 | 0x22 => Some(ipv6_client(body).ok_or(ProxyHeaderError::Malformed)?),
        // Unix sockets, and what the proxy does not know.
        _ => None,
    };
    Ok(Some(ProxyHeader { client, length: FIXED_BYTES + length }))
}

/// The addresses of the source and the destination, then the ports of both.
fn ipv4_client(body: &[u8]) -> Option<SocketAddr> {
    let (addresses, ports) = body.split_first_chunk::<8>()?;
    let source: [u8; 4] = *addresses.first_chunk()?;
    Some(address(Ipv4Addr::from(source).into(), source_port(ports)?))
}

fn ipv6_client(body: &[u8]) -> Option<SocketAddr> {
    let (addresses, ports) = body.split_first_chunk::<32>()?;
    let source: [u8; 16] = *addresses.first_chunk()?;
    Some(address(Ipv6Addr::from(source).into(), source_port(ports)?))
}

fn source_port(ports: &[u8]) -> Option<u16> {
    let [high, low, ..] = *ports.first_chunk::<4>()?;
    Some(u16::from_be_bytes([high, low]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::ProxyHeaderError::{Malformed, Missing};
    use super::*;

    const V4: &str = "192.0.2.1:56324";
    const V6: &str = "[2001:db8::1]:56324";

    /// A header of version 2.
    fn binary(version_and_command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = (body.len() as u16).to_be_bytes();
        [BINARY_SIGNATURE, &[version_and_command, family], &length, body].concat()
    }

    fn ipv4_body() -> Vec<u8> {
        [&[192, 0, 2, 1, 10, 0, 0, 1][..], &56324u16.to_be_bytes(), &[5, 30]].concat()
    }

    fn ipv6_body(source: &str) -> Vec<u8> {
        let source: Ipv6Addr = source.parse().expect("an address");
        [&source.octets()[..], &[0; 16], &56324u16.to_be_bytes(), &[5, 30]].concat()
    }

    /// Any piece of it that lacks bytes is incomplete, and what comes after it is left.
    fn whole(header: &[u8]) -> Option<String> {
        for end in 0..header.len() {
            assert_eq!(parse(&header[..end]), Ok(None), "{}", header[..end].escape_ascii());
        }
        for after in [&b""[..], b"PING\r\n", b"\r\n", b"PROXY UNKNOWN\r\n"] {
            let parsed = parse(&[header, after].concat()).expect("a header").expect("a whole one");
            assert_eq!(parsed.length, header.len(), "{}", header.escape_ascii());
        }
        parse(header).expect("a header")?.client.map(|client| client.to_string())
    }

    #[test]
    fn a_header_names_the_client_and_ends_where_its_bytes_begin() {
        let longest = format!("PROXY UNKNOWN{}\r\n", " f".repeat(46));
        assert_eq!(longest.len(), MAX_TEXT_BYTES);
        let texts: [(&str, Option<&str>); 8] = [
            ("PROXY TCP4 192.0.2.1 10.0.0.1 56324 1310\r\n", Some(V4)),
            ("PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n", Some("0.0.0.0:0")),
            ("PROXY TCP6 2001:db8::1 ::1 56324 1310\r\n", Some(V6)),
            ("PROXY TCP6 ::ffff:192.0.2.1 ::1 56324 1310\r\n", Some(V4)),
            ("PROXY UNKNOWN\r\n", None),
            ("PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n", None),
            ("PROXY UNKNOWN a b c d e f g\r\n", None),
            (&longest, None),
        ];
        for (text, expected) in texts {
            assert_eq!(whole(text.as_bytes()).as_deref(), expected, "{text}");
        }
        let with_more = [ipv4_body(), vec![0x20; MAX_BINARY_BYTES - 12]].concat();
        let binaries = [
            (binary(0x21, 0x11, &ipv4_body()), Some(V4)),
            (binary(0x21, 0x11, &with_more), Some(V4)),
            (binary(0x21, 0x12, &ipv4_body()), Some(V4)),
            (binary(0x21, 0x21, &ipv6_body("2001:db8::1")), Some(V6)),
            (binary(0x21, 0x21, &ipv6_body("::ffff:192.0.2.1")), Some(V4)),
            (binary(0x21, 0x31, &[b'/'; 216]), None),
            (binary(0x21, 0x00, b""), None),
            (binary(0x20, 0x00, b""), None),
            (binary(0x20, 0x11, &ipv4_body()), None),
            (binary(0x20, 0x11, b"?"), None),
        ];
        for (bytes, expected) in binaries {
            assert_eq!(whole(&bytes).as_deref(), expected, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn what_is_no_header_is_refused_at_once() {
        let malformed: [&[u8]; 16] = [
            b"PROXY \r\n",
            b"PROXY TCP4\r\n",
            b"PROXY TCP5 192.0.2.1 10.0.0.1 56324 1310\r\n",
            b"PROXY TCP4 192.0.2.1 10.0.0.1 56324\r\n",
            b"PROXY TCP4 192.0.2.1 10.0.0.1 56324 1310 1\r\n",
            b"PROXY TCP4 192.0.2.1  10.0.0.1 56324 1310\r\n",
            b"PROXY TCP4 192.0.2.256 10.0.0.1 56324 1310\r\n",
            b"PROXY TCP4 192.0.2.1 name 56324 1310\r\n",
            b"PROXY TCP4 192.0.2.1 10.0.0.1 65536 1310\r\n",
            b"PROXY TCP4 192.0.2.1 10.0.0.1 056324 1310\r\n",
            b"PROXY TCP4 192.0.2.1 10.0.0.1 +1 1310\r\n",
            b"PROXY TCP4 2001:db8::1 ::1 56324 1310\r\n",
            b"PROXY TCP6 192.0.2.1 10.0.0.1 56324 1310\r\n",
            b"PROXY unknown\r\n",
            b"PROXY UNKNOWN\xff \xfe\r\n",
            &[&b"PROXY UNKNOWN "[..], &[b'f'; MAX_TEXT_BYTES - 14]].concat(),
        ];
        for bytes in malformed {
            assert_eq!(parse(bytes), Err(Malformed), "{}", bytes.escape_ascii());
        }
        for bytes in [
            binary(0x11, 0x11, &ipv4_body()),
            binary(0x22, 0x11, &ipv4_body()),
            binary(0x21, 0x11, &ipv4_body()[..11]),
            binary(0x21, 0x21, &ipv6_body("::1")[..35]),
            binary(0x21, 0x11, &[0; MAX_BINARY_BYTES + 1]),
        ] {
            assert_eq!(parse(&bytes), Err(Malformed), "{}", bytes.escape_ascii());
        }
        let missing: [&[u8]; 6] = [
            b"GET / HTTP/1.1\r\n",
            b"PING\r\n",
            b"proxy ",
            b"\r\nPING",
            b"\x16\x03\x01",
            b"*1\r\n",
        ];
        for bytes in missing {
            assert_eq!(parse(bytes), Err(Missing), "{}", bytes.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_decided_within_bounds_and_more_bytes_change_nothing(
            signature in prop::sample::select(vec![&b""[..], b"PROXY ", b"PROXY TCP4 ", BINARY_SIGNATURE]),
            tail in prop::collection::vec(any::<u8>(), 0..300),
            after in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let bytes = [signature, &tail[..]].concat();
            let longer = [&bytes[..], &after].concat();
            match parse(&bytes) {
                Ok(None) => prop_assert!(bytes.len() < FIXED_BYTES + MAX_BINARY_BYTES),
                decided => prop_assert_eq!(decided, parse(&longer)),
            }
            if let Ok(Some(header)) = parse(&bytes) {
                prop_assert!(header.length <= bytes.len());
                prop_assert_eq!(parse(&bytes[..header.length]), Ok(Some(header)));
            }
        }
    }
}
