//! Says why a backend can't be loaded, and what to do about it.

use std::io::{self, Read, Write};
use std::net::ToSocketAddrs;
use std::sync::Arc;
use std::time::Duration;

use redis::{ErrorKind, RedisError};

use crate::backend::{BackendError, Stranger, advice_on_failure};
use crate::config::address::BackendAddress;
use crate::config::backend_tls::{CredentialStore, server_name};
use crate::net::backend_stream::{BackendStream, BackendTls};
use crate::net::tls::TlsError;
use crate::resp::command;

/// How long a server that gave no reply of Redis may take to show what it is.
const STRANGER_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a server may take for the handshake that finds out what is wrong with TLS.
const TLS_TIMEOUT: Duration = Duration::from_secs(2);

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
    let said = reason(error, timeout).trim_end_matches('.').to_owned();
    if let Some(advice) = advice_on_refusal(error) {
        return format!("cannot connect: {said}. {advice}");
    }
    if let Some(tls) = tls_error(address).filter(|_| error.code().is_none()) {
        let tls = BackendError::Tls(tls);
        let advice = advice_on_failure(&tls, address, TLS_TIMEOUT);
        return format!("cannot connect: {tls}. {advice}");
    }
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
    format!("cannot connect: {said}{advice}")
}

/// Says what to do about a server that refuses what `seed` asks of it, if that is known.
pub(super) fn advice_on_refusal(error: &RedisError) -> Option<&'static str> {
    Some(match error.code()? {
        // Redis says so of a replica, to which nothing is written here.
        "READONLY" => "Is that lb, or another proxy? Name the servers behind it by --backend.",
        "NOPERM" => {
            "Give its user what seed needs (ACL SETUSER): +info +select +multi +exec +del +hset +hgetall, and \
             the keys ~PREFIX:*."
        }
        "OOM" => "Raise its maxmemory.",
        "MISCONF" => "It takes no writes because it can't save its data: see its log.",
        "NOREPLICAS" => {
            "It takes writes only while enough replicas follow it (min-replicas-to-write)."
        }
        "MOVED" | "ASK" | "CLUSTERDOWN" | "CROSSSLOT" => {
            "It is a node of a Cluster, and has a part of the keys; seed loads servers that have all of them."
        }
        _ => return None,
    })
}

/// Returns what is wrong with TLS at an address, if anything is: our own words for it say more than the `redis` crate's.
fn tls_error(address: &BackendAddress) -> Option<TlsError> {
    let (settings, store) = (address.tls()?, CredentialStore::default());
    let config = Arc::clone(&settings.credentials(&store)?.config);
    let named = settings.server_name.clone();
    let server_name = named.or_else(|| server_name(address.host()).ok())?;
    let tls = BackendTls { config, server_name };
    let server = (address.host(), address.port()).to_socket_addrs().ok()?.next()?;
    let connected = BackendStream::connect(server, TLS_TIMEOUT, TLS_TIMEOUT, Some(&tls));
    // A server that refuses our certificate says so after the handshake.
    let answered = connected.and_then(|stream| {
        (&stream).write_all(&command("PING").into_bytes())?;
        (&stream).read(&mut [0])
    });
    answered.err()?.downcast().ok()
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
