//! One client's conversation, on a thread of its own.

mod client;
mod http;
mod redis;

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use self::client::Client;
pub use self::client::{
    Activity, ClientInfo, ClientList, ClientSocket, Doing, Endpoint, IDLE_GRACE, now,
};
pub use self::http::probe_response;
use crate::balance::Balancer;
use crate::metrics::Presence;
use crate::net::protocol::WireProtocol;

/// Answer to a Redis client at the admin address.
const ONLY_HTTP: &[u8] = b"-ERR this address serves HTTP alone, below /-/\r\n";

/// Talks to one client until either side ends the conversation.
pub fn serve(
    socket: &Arc<ClientSocket>,
    address: SocketAddr,
    endpoint: Endpoint,
    balancer: &Arc<Balancer>,
) {
    let mut presence = (endpoint == Endpoint::Public).then(|| Presence::new(&balancer.metrics));
    let mut client = Client::new(socket, address, endpoint, balancer);
    let mut received = Vec::new();
    if !matches!(client.read_more(&mut received), Ok(1..)) {
        return;
    }
    let since = Instant::now();
    let protocol = detect(&mut client, &mut received, since);
    socket.note_protocol(protocol);
    if let Some(presence) = &mut presence {
        presence.speaks(protocol);
    }
    match protocol {
        WireProtocol::Http => http::converse(client, received, since, balancer),
        WireProtocol::Resp if endpoint == Endpoint::Admin => {
            if client.write_all(ONLY_HTTP).is_ok() {
                client.linger();
            }
        }
        WireProtocol::Resp => {
            client.keeps_place = true;
            redis::converse(client, received, since, balancer);
        }
    }
}

/// Reads until the first bytes, which came at `since`, tell the protocol. A client that sends no more in
/// time is taken for a Redis client, whose conversation then ends with an error.
fn detect(client: &mut Client, received: &mut Vec<u8>, since: Instant) -> WireProtocol {
    loop {
        match WireProtocol::detect(received) {
            Some(protocol) => return protocol,
            None if matches!(client.read_head(since, received), Ok(1..)) => {}
            None => return WireProtocol::Resp,
        }
    }
}
