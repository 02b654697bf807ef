//! The flags of HTTP: which web pages may read, and which proxies name their clients.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use clap::builder::BoolishValueParser;
use ipnet::IpNet;

use crate::http::host_name;

const CLIENTS: &str = "Clients";

/// Most origins, and most networks of proxies: each is compared for a request.
pub(super) const MAX_LISTED: usize = 64;

/// Length of the prefix of those addresses of IPv6 that stand for ones of IPv4 (RFC 4291, section 2.5.5.2).
const MAPPED_PREFIX_BITS: u8 = 96;

/// The flags of HTTP.
#[derive(Debug, clap::Args)]
pub struct HttpFlags {
    /// A web page of this origin (scheme, name and port, as browsers send it) may read over HTTP (CORS); * stands for any;
    /// repeat it for each, or separate them by commas
    #[arg(help_heading = CLIENTS)]
    #[arg(
        long = "cors-origin",
        env = "LB_CORS_ORIGINS",
        value_name = "ORIGIN",
        value_delimiter = ','
    )]
    pub cors_origins: Vec<Origin>,

    /// A proxy, or a network of proxies, whose X-Forwarded-For tells the log which client has sent a request; repeat it
    /// for each, or separate them by commas
    #[arg(help_heading = CLIENTS)]
    #[arg(
        long = "trusted-proxy",
        env = "LB_TRUSTED_PROXIES",
        value_name = "ADDRESS[/BITS]",
        value_delimiter = ','
    )]
    pub trusted_proxies: Vec<Network>,

    /// Compresses no answers over HTTP, also for clients that ask for it: the network is faster than that
    #[arg(help_heading = CLIENTS)]
    #[arg(long, env = "LB_NO_COMPRESSION", value_parser = BoolishValueParser::new())]
    pub no_compression: bool,
}

impl HttpFlags {
    /// Checks how many there are of each.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.cors_origins.len() > MAX_LISTED {
            return Err(format!("--cors-origin: at most {MAX_LISTED}; * stands for any"));
        }
        if self.trusted_proxies.len() > MAX_LISTED {
            return Err(format!("--trusted-proxy: at most {MAX_LISTED} addresses or networks"));
        }
        Ok(())
    }

    /// Whether web pages of any origin may read.
    pub fn allows_all_origins(&self) -> bool {
        self.cors_origins.contains(&Origin::Any)
    }

    /// Whether a web page of this origin, as its browser names it, may read.
    pub fn allows_origin(&self, named: &str) -> bool {
        self.cors_origins.iter().any(|origin| match origin {
            Origin::Any => true,
            Origin::One(origin) => origin.eq_ignore_ascii_case(named),
        })
    }

    /// Returns the client for which `peer` has passed a request on, if that is a proxy that is trusted: of the addresses in
    /// this `X-Forwarded-For`, the last that is no such proxy itself. What stands before that is anybody's word.
    pub fn forwarded_client(&self, peer: IpAddr, forwarded_for: Option<&str>) -> Option<IpAddr> {
        let peer = peer.to_canonical();
        let is_trusted = |ip: &IpAddr| self.trusted_proxies.iter().any(|net| net.0.contains(ip));
        let named = forwarded_for.filter(|_| is_trusted(&peer))?;
        let mut client = None;
        for address in named.rsplit(',').map_while(|text| forwarded_address(text.trim())) {
            client = Some(address);
            if !is_trusted(&address) {
                break;
            }
        }
        client
    }
}

/// Parses the name of a host that is served on loopback; returns it as [`host_name`] does.
///
/// # Errors
/// No `Host` of a request could be it.
pub(super) fn allowed_host(text: &str) -> Result<String, String> {
    if let Ok(ip) = text.trim().parse::<Ipv6Addr>() {
        return Ok(format!("[{ip}]"));
    }
    let name = host_name(text).into_owned();
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let is_name = name.split('.').all(|part| !part.is_empty() && part.bytes().all(is_part));
    let bracketed = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if is_name && !text.contains('/') || bracketed.is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok())
    {
        return Ok(name);
    }
    let why = match &*name {
        _ if name.contains('*') || name.starts_with('.') => "there is no wildcard",
        _ if text.contains('/') => "a name has no scheme and no path",
        _ if !name.is_ascii() => "in a Host, other letters than those of ASCII are written xn--…",
        _ => "no host has this name",
    };
    Err(format!("{why}: write one name as it is in URLs, such as redis.example"))
}

/// An address in `X-Forwarded-For`, which some proxies write with a port.
fn forwarded_address(text: &str) -> Option<IpAddr> {
    let ip =
        text.parse().or_else(|_| text.parse().map(|address: std::net::SocketAddr| address.ip()));
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    ip.ok().or_else(bracketed).map(|ip: IpAddr| ip.to_canonical())
}

/// A proxy or a network of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network(IpNet);

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let network = text.parse().or_else(|_| text.parse().map(|ip: IpAddr| IpNet::from(ip)));
        let why = "write an address or a network, such as 10.0.0.7, 10.0.0.0/8 or fd00::/8";
        network.map(|network| Self(canonical(network))).map_err(|_| why.to_owned())
    }
}

/// Returns a network of IPv4 that is written as one of IPv6 (`::ffff:10.0.0.0/104`) in the form of the addresses that are
/// compared with it.
fn canonical(network: IpNet) -> IpNet {
    let bits = network.prefix_len().checked_sub(MAPPED_PREFIX_BITS);
    match (network.addr().to_canonical(), bits) {
        (ip @ IpAddr::V4(_), Some(bits)) => IpNet::new(ip, bits).unwrap_or(network),
        _ => network,
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which web pages may read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// All.
    Any,
    /// Those of this origin, in the form in which browsers name it.
    One(String),
}

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let why = || {
            "write an origin as browsers name it, such as https://app.example or http://localhost:5173, without a path; \
             or * for any"
                .to_owned()
        };
        let origin = text.to_ascii_lowercase();
        let (scheme, host) = origin.split_once("://").ok_or_else(why)?;
        let is_scheme = !scheme.is_empty()
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        let is_host = !host.is_empty()
            && host.bytes().all(|byte| byte.is_ascii_graphic() && !b"/?#@\\*\"',".contains(&byte));
        if !is_scheme || !is_host {
            return Err(why());
        }
        // Browsers leave the usual port out.
        let usual_port = match scheme {
            "http" => ":80",
            "https" => ":443",
            _ => "",
        };
        let origin = origin.strip_suffix(usual_port).unwrap_or(&origin);
        Ok(Self::One(origin.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(origins: &[&str], proxies: &[&str]) -> HttpFlags {
        let origins = origins.iter().map(|text| text.parse().expect("an origin"));
        let proxies = proxies.iter().map(|text| text.parse().expect("a network"));
        HttpFlags {
            cors_origins: origins.collect(),
            trusted_proxies: proxies.collect(),
            no_compression: false,
        }
    }

    #[test]
    fn an_origin_is_what_a_browser_sends() {
        let some =
            flags(&["https://App.example:443", "http://localhost:5173", "http://[::1]:80"], &[]);
        for (origin, is_allowed) in [
            ("https://app.example", true),
            ("http://localhost:5173", true),
            ("http://[::1]", true),
            ("https://app.example:8443", false),
            ("http://app.example", false),
            ("https://app.example.evil.example", false),
            ("https://evil.example/https://app.example", false),
            ("null", false),
            ("", false),
        ] {
            assert_eq!(some.allows_origin(origin), is_allowed, "{origin}");
        }
        assert!(!some.allows_all_origins() && flags(&["*"], &[]).allows_origin("https://any"));
        assert!(!flags(&[], &[]).allows_origin("https://any"));
        for wrong in [
            "app.example",
            "https://",
            "https://a/",
            "https://a/b",
            "https://u@a",
            "null",
            "https://*.a",
            "",
            "://a",
        ] {
            let error = wrong.parse::<Origin>().expect_err(wrong);
            assert!(error.contains("https://app.example"), "{error}");
        }
    }

    #[test]
    fn a_host_that_no_request_can_name_is_refused_with_what_to_write() {
        for (text, expected) in [
            ("redis.example", "redis.example"),
            ("X.Example.:80", "x.example"),
            ("my_host", "my_host"),
            ("10.0.0.1:1310", "10.0.0.1"),
            ("[FD00::1]:1310", "[fd00::1]"),
            ("fd00::1", "[fd00::1]"),
        ] {
            assert_eq!(allowed_host(text).as_deref(), Ok(expected), "{text}");
        }
        for (text, expected) in [
            ("*", "there is no wildcard"),
            ("*.example", "there is no wildcard"),
            (".example", "there is no wildcard"),
            ("http://x.example", "no scheme"),
            ("x.example/path", "no path"),
            ("bücher.example", "xn--"),
            ("a..b", "no host has this name"),
            ("a b", "no host has this name"),
            ("", "no host has this name"),
        ] {
            let error = allowed_host(text).expect_err(text);
            assert!(error.contains(expected) && error.contains("redis.example"), "{text}: {error}");
        }
    }

    #[test]
    fn a_client_is_whom_the_last_trusted_proxy_names() {
        let flags = flags(&[], &["10.0.0.0/8", "fd00::/8", "192.0.2.7"]);
        let client = |peer: &str, named: &str| {
            let ip = flags.forwarded_client(peer.parse().expect("an address"), Some(named));
            ip.map(|ip| ip.to_string())
        };
        for (peer, named, expected) in [
            ("10.1.2.3", "203.0.113.9", Some("203.0.113.9")),
            ("::ffff:10.1.2.3", "203.0.113.9", Some("203.0.113.9")),
            ("fd00::1", "2001:db8::1", Some("2001:db8::1")),
            ("192.0.2.7", "1.2.3.4, 203.0.113.9, 10.9.9.9", Some("203.0.113.9")),
            ("10.1.2.3", "10.0.0.1,10.0.0.2", Some("10.0.0.1")),
            ("10.1.2.3", "203.0.113.9:4711", Some("203.0.113.9")),
            ("10.1.2.3", "[2001:db8::1]:4711", Some("2001:db8::1")),
            ("10.1.2.3", "[2001:db8::1]", Some("2001:db8::1")),
            ("10.1.2.3", "203.0.113.9, unknown", None),
            ("10.1.2.3", "unknown, 10.0.0.1", Some("10.0.0.1")),
            ("10.1.2.3", "", None),
            ("192.0.2.8", "203.0.113.9", None),
            ("127.0.0.1", "203.0.113.9", None),
        ] {
            assert_eq!(client(peer, named).as_deref(), expected, "{peer} {named}");
        }
        assert_eq!(flags.forwarded_client("10.1.2.3".parse().expect("an address"), None), None);
        for (written, expected) in [
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:10.0.0.7", "10.0.0.7/32"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("::/0", "::/0"),
            ("::ffff:0.0.0.0/95", "::ffff:0.0.0.0/95"),
            ("fd00::7", "fd00::7/128"),
        ] {
            let network = written.parse::<Network>().expect(written);
            assert_eq!(network.to_string(), expected, "{written}");
        }
        for wrong in ["", "a", "10.0.0.0/33", "10.0.0/8", "10.0.0.1:80"] {
            let error = wrong.parse::<Network>().expect_err(wrong);
            assert!(error.contains("10.0.0.0/8"), "{error}");
        }
    }
}
