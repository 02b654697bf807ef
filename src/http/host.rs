//! The host that a request asks for.

use std::borrow::Cow;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::RequestError;

/// Returns the host if it is `HOST` or `HOST:PORT` (RFC 9110, section 7.2).
pub(super) fn checked_host(host: &str) -> Result<String, RequestError> {
    let name = host_without_port(host);
    let port = host.strip_prefix(name).unwrap_or_default();
    let is_port = port.is_empty()
        || port.strip_prefix(':').is_some_and(|digits| {
            digits.is_empty() || (digits.parse::<u16>().is_ok() && !digits.starts_with('+'))
        });
    let is_name = match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(&b)),
    };
    match is_port && is_name && !name.is_empty() {
        true => Ok(host.to_owned()),
        false => Err(RequestError::Malformed("a Host that is not HOST or HOST:PORT")),
    }
}

/// Returns the host of `HOST:PORT`; an IPv6 address keeps its brackets.
fn host_without_port(host: &str) -> &str {
    let name_end = match host.find(']') {
        Some(bracket) if host.starts_with('[') => bracket + 1,
        _ => host.find(':').unwrap_or(host.len()),
    };
    &host[..name_end]
}

/// Returns the name in `HOST:PORT` as it is compared: without port and final dot, in lower case.
pub fn host_name(host: &str) -> Cow<'_, str> {
    let name = host_without_port(host.trim()).trim_end_matches('.');
    match name.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase()) {
        true => name.into(),
        false => name.to_lowercase().into(),
    }
}

/// Whether a [`host_name`] can only mean this machine.
pub fn is_local_host(name: &str) -> bool {
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost"
        || name.ends_with(".localhost")
        || address.parse::<Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
        || address.parse::<Ipv6Addr>().is_ok_and(|ip| ip.is_loopback())
}
