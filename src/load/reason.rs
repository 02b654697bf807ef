//! Says why a backend can't be loaded, and what to do about it.

use std::io;
use std::net::ToSocketAddrs;
use std::time::Duration;

use redis::{ErrorKind, RedisError};

use crate::backend::{BackendError, Stranger, advice_on_failure};
use crate::config::address::BackendAddress;

/// How long a server that gave no reply of Redis may take to show what it is.
const STRANGER_TIMEOUT: Duration = Duration::from_secs(2);

/// Returns whether a server refuses because it is loading its data.
pub(super) fn is_loading(error: &RedisError) -> bool {
    error.code() == Some("LOADING")
}

/// Says why no connection could be made, and what to do about it.
pub(super) fn why_not_connected(
    error: &RedisError,
    address: &BackendAddress,
    timeout: Duration,
) -> String {
    let said = reason(error, timeout);
    if error.is_timeout() {
        return format!("cannot connect: {said}; is that a Redis server?");
    }
    let is_unix = address.unix_path().is_some();
    if let Some(error) = (!is_unix).then(|| unresolved(address)).flatten() {
        let advice = advice_on_failure(&error, address, timeout);
        return format!("cannot connect: {error}. {advice}");
    }
    let has_refused = error.code().is_some() || error.is_connection_refusal();
    let is_plain = address.tls().is_none() && !is_unix;
    let stranger = match is_plain && !has_refused {
        true => Stranger::at(address.host(), address.port(), STRANGER_TIMEOUT),
        false => None,
    };
    if let Some(stranger) = stranger {
        let text = stranger.to_string();
        let advice = advice_on_failure(&BackendError::Stranger(stranger), address, timeout);
        return format!("it is no Redis server: {text}. {advice}");
    }
    let known = if error.code().is_some() {
        Some(BackendError::Redis(said.clone()))
    } else if error.is_connection_refusal() {
        Some(BackendError::Connect(io::ErrorKind::ConnectionRefused.into()))
    } else if error.is_connection_dropped() {
        Some(BackendError::Lost(io::ErrorKind::UnexpectedEof.into()))
    } else {
        None
    };
    let advice = known.map(|known| advice_on_failure(&known, address, timeout));
    let advice = advice.map(|advice| format!(". {advice}")).unwrap_or_default();
    format!("cannot connect: {}{advice}", said.trim_end_matches('.'))
}

/// Returns why a name has no address, if it has none.
fn unresolved(address: &BackendAddress) -> Option<BackendError> {
    let found = (address.host(), address.port()).to_socket_addrs();
    found.err().map(|error| BackendError::Unresolved(error.to_string()))
}

/// The reason in the words of Redis or the system, without the `redis` crate's error classes.
pub(super) fn reason(error: &RedisError, timeout: Duration) -> String {
    if error.is_timeout() {
        return format!("no reply within {} s", timeout.as_secs());
    }
    if error.is_connection_dropped() && !error.is_connection_refusal() {
        return "the connection was closed by the server".into();
    }
    if error.kind() == ErrorKind::AuthenticationFailed {
        // The crate keeps only this of the server's reply.
        return "the login was refused; check the user and the password in its URL, and that the \
                server takes more clients"
            .into();
    }
    match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        (None, Some(detail)) => detail.to_owned(),
        _ => error.to_string(),
    }
}
