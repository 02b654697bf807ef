//! One client's conversation, on a thread of its own.

mod client;
mod http;
mod redis;

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::client::Client;
pub use self::client::{ClientSocket, Endpoint, IDLE_GRACE};
use crate::balance::Balancer;
use crate::metrics::Presence;
use crate::net::protocol::WireProtocol;

/// Answer to a Redis client at the admin address.
const ONLY_HTTP: &[u8] = b"-ERR this address serves HTTP alone, below /-/\r\n";

/// Deadline for receiving enough bytes to detect the protocol, from the first byte on.
const DETECTION_TIME: Duration = Duration::from_secs(10);

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
    let protocol = detect(&mut client, &mut received, since + DETECTION_TIME);
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
        WireProtocol::Resp => redis::converse(client, received, since, balancer),
    }
}

/// Reads until the first bytes tell the protocol. A client that sends no more by `deadline` is taken for
/// a Redis client, whose conversation then ends with an error.
fn detect(client: &mut Client, received: &mut Vec<u8>, deadline: Instant) -> WireProtocol {
    loop {
        match WireProtocol::detect(received) {
            Some(protocol) => return protocol,
            None if matches!(client.read_until(deadline, received), Ok(1..)) => {}
            None => return WireProtocol::Resp,
        }
    }
}
