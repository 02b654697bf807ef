//! The beginning of a connection: the address of the client, its place among those of its address, TLS, the protocol.
//!
//! All of it happens on the client's own thread, in the time of a request's head, and makes room for newcomers as an
//! unfinished head does. So half a handshake holds up nobody but itself.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use log::{debug, warn};

use super::client::{Client, ClientSocket, Endpoint};
use super::denial::{DENIAL_TIME, Denial, deny, named};
use super::once_each::OnceEach;
use crate::backend::is_timeout;
use crate::balance::Balancer;
use crate::logging::throttle::Throttle;
use crate::metrics::tls::{self, TlsPresence};
use crate::net::protocol::{Opening, WireProtocol};
use crate::net::proxy_protocol;
use crate::net::tls::TlsError;

/// Lines of the log about clients that come to nothing, which anybody can cause.
static WITHOUT_HEADER: OnceEach = OnceEach::new();
static WITH_HEADER: OnceEach = OnceEach::new();
static ADDRESS_FULL: Throttle = Throttle::new();
static NO_TLS: OnceEach = OnceEach::new();
static PLAIN_TEXT: Throttle = Throttle::new();
static HANDSHAKE: Throttle = Throttle::new();

/// What a client has begun its conversation with.
pub(super) struct Beginning<'a> {
    pub protocol: WireProtocol,
    /// The first bytes of its protocol, which came at `since`.
    pub received: Vec<u8>,
    pub since: Instant,
    /// Counts it among the clients of TLS.
    pub tls: Option<TlsPresence<'a>>,
}

/// Reads the beginning of a connection; `None` if that has come to nothing.
pub(super) fn welcome<'a>(client: &mut Client<'a>) -> Option<Beginning<'a>> {
    let mut received = Vec::new();
    if client.endpoint == Endpoint::Public && client.balancer.config().proxy_protocol {
        read_proxy_header(client, &mut received)?;
    }
    if client.endpoint == Endpoint::Public && !take_address_place(client.socket, client.balancer) {
        deny(client, &mut received, Denial::AddressFull, DENIAL_TIME);
        return None;
    }
    let mut since = first_bytes(client, &mut received)?;
    let mut tls = None;
    let mut opening = detect(client, &mut received, since, Opening::detect);
    if opening == Opening::ProxyHeader {
        refuse_proxy_header(client, &mut received);
        return None;
    }
    if opening == Opening::Tls {
        tls = start_tls(client, &mut received, since)?;
        since = first_bytes(client, &mut received)?;
        let plain = |received: &[u8]| WireProtocol::detect(received).map(Opening::Plain);
        opening = detect(client, &mut received, since, plain);
    } else if client.balancer.config().tls.tls_only {
        refuse_plain_text(client, &mut received);
        return None;
    }
    let Opening::Plain(protocol) = opening else { return None };
    Some(Beginning { protocol, received, since, tls })
}

/// Waits for a client's first bytes, unless they have come with something else; returns when they came.
fn first_bytes(client: &mut Client, received: &mut Vec<u8>) -> Option<Instant> {
    if received.is_empty() && !matches!(client.read_more(received), Ok(1..)) {
        return None;
    }
    Some(Instant::now())
}

/// Reads until the first bytes, which came at `since`, tell what they are. A client that sends no more in time is
/// taken for a Redis client, whose conversation then ends with an error.
fn detect(
    client: &mut Client,
    received: &mut Vec<u8>,
    since: Instant,
    detect: impl Fn(&[u8]) -> Option<Opening>,
) -> Opening {
    loop {
        match detect(received) {
            Some(opening) => return opening,
            None if matches!(client.read_head(since, received), Ok(1..)) => {}
            None => return Opening::Plain(WireProtocol::Resp),
        }
    }
}

/// Reads the header by which a proxy names its client, and takes the address from it. The bytes after it stay.
fn read_proxy_header(client: &mut Client, received: &mut Vec<u8>) -> Option<()> {
    let since = Instant::now();
    let header = loop {
        match proxy_protocol::parse(received) {
            Ok(Some(header)) => break header,
            Ok(None) => {}
            Err(error) => return refuse_header(client, &error.to_string()),
        }
        match client.read_head(since, received) {
            Ok(1..) => {}
            // Health checks of many proxies connect and say nothing.
            Ok(_) | Err(_) if received.is_empty() => return None,
            Err(error) if is_late(client, since, &error) => {
                return refuse_header(client, "its PROXY header was not whole in time");
            }
            Ok(_) | Err(_) => return refuse_header(client, "its PROXY header breaks off"),
        }
    };
    received.drain(..header.length);
    if let Some(address) = header.client {
        client.socket.note_address(address);
        client.address = address;
    }
    Some(())
}

fn is_late(client: &Client, since: Instant, error: &io::Error) -> bool {
    since.elapsed() >= client.head_timeout || is_timeout(error)
}

fn refuse_header(client: &Client, why: &str) -> Option<()> {
    client.balancer.metrics.without_proxy_header.add_one();
    if let Some(more) = WITHOUT_HEADER.pass(client.address.ip(), Instant::now()) {
        let address = named(client.address);
        warn!(
            "{address}: connection closed, because {why}: let the proxy there send one (send-proxy in HAProxy), or \
             leave out --proxy-protocol{more}"
        );
    }
    None
}

/// Refuses a client that begins with a header that nobody has asked for. What follows it would else be answered as
/// the reply to something else.
fn refuse_proxy_header(client: &mut Client, received: &mut Vec<u8>) {
    if let Some(more) = WITH_HEADER.pass(client.address.ip(), Instant::now()) {
        let address = named(client.address);
        let is_second =
            client.endpoint == Endpoint::Public && client.balancer.config().proxy_protocol;
        let advice = match client.endpoint {
            Endpoint::Public if is_second => "a second one: let one proxy alone send it",
            Endpoint::Public => {
                "which takes --proxy-protocol; without that, let the proxy send none"
            }
            Endpoint::Admin => "which --admin-listen never takes: let the proxy send none there",
        };
        warn!(
            "{address}: connection closed, because it begins with a PROXY header, {advice}{more}"
        );
    }
    if let Ok(Some(header)) = proxy_protocol::parse(received) {
        received.drain(..header.length);
    }
    deny(client, received, Denial::ProxyHeader, DENIAL_TIME);
}

/// Gives a client its place among those of its address, unless it has one; returns false if none is left.
pub fn take_address_place(socket: &ClientSocket, balancer: &Balancer) -> bool {
    if socket.has_address_place() {
        return true;
    }
    let (address, max) = (socket.address(), balancer.config().max_clients_per_address);
    if let Some(place) = balancer.client_addresses.admit(address.ip(), max) {
        socket.keep_address_place(place);
        return true;
    }
    balancer.metrics.limited_by_address.add_one();
    if let Some(more) = ADDRESS_FULL.pass(Instant::now()) {
        let address = named(address);
        warn!(
            "{address} has {max} clients, and further ones are refused (--max-clients-per-address){more}"
        );
    }
    false
}

/// Begins TLS with a client whose first bytes are `received`; they are used up. `None` if that fails.
#[expect(clippy::option_option, reason = "a failure is not a version that is not counted")]
fn start_tls<'a>(
    client: &mut Client<'a>,
    received: &mut Vec<u8>,
    since: Instant,
) -> Option<Option<TlsPresence<'a>>> {
    let metrics = &client.balancer.metrics.tls;
    let config = client.balancer.config();
    let Some(tls) = config.listener_tls.as_ref().map(|tls| Arc::clone(&tls.config)) else {
        refuse_tls(client, received);
        return None;
    };
    drop(config);
    if let Err(error) = client.start_tls(&tls, &std::mem::take(received), since) {
        metrics.fail(error.label());
        log_failure(client, &error);
        // The alert is lost if the connection is closed with unread bytes.
        client.linger(true);
        return None;
    }
    let summary = client.stream().tls()?;
    client.socket.note_tls(summary.version);
    Some(match client.endpoint {
        Endpoint::Public => TlsPresence::new(metrics, summary.version, summary.is_resumed),
        Endpoint::Admin => None,
    })
}

fn log_failure(client: &Client, error: &TlsError) {
    let address = client.address;
    // Scanners and health checks leave without a word.
    let has_left = matches!(error, TlsError::Ended | TlsError::TimedOut | TlsError::Io(_));
    if has_left {
        debug!("{address}: no TLS with this client: {error}");
    } else if let Some(more) = HANDSHAKE.pass(Instant::now()) {
        warn!("{address}: no TLS with this client: {error}{more}");
    } else {
        debug!("{address}: no TLS with this client: {error}");
    }
}

fn refuse_tls(client: &mut Client, received: &mut Vec<u8>) {
    client.balancer.metrics.tls.fail(tls::NOT_CONFIGURED);
    if let Some(more) = NO_TLS.pass(client.address.ip(), Instant::now()) {
        let address = named(client.address);
        warn!(
            "{address} wants to speak TLS, which takes --tls-cert and --tls-key; without them, its URL begins with \
             http:// or redis://{more}"
        );
    }
    deny(client, received, Denial::NoTls, DENIAL_TIME);
}

fn refuse_plain_text(client: &mut Client, received: &mut Vec<u8>) {
    let time = client.head_timeout;
    if deny(client, received, Denial::PlainText, time) {
        client.balancer.metrics.tls.fail(tls::PLAIN_TEXT);
        if let Some(more) = PLAIN_TEXT.pass(Instant::now()) {
            let address = named(client.address);
            warn!("{address} speaks plain text, which is refused (--tls-only){more}");
        }
    }
}
