//! One client's conversation, on a thread of its own.

mod client;
mod denial;
mod http;
mod once_each;
mod redis;
mod welcome;

use std::io::Write;
use std::sync::Arc;

use self::client::Client;
pub use self::client::{
    Activity, ClientInfo, ClientList, ClientSocket, Doing, Endpoint, IDLE_GRACE, now,
};
pub use self::denial::{DENIAL_BYTES, DENIAL_TIME, Denial, DenialAnswer, denial_answer};
pub use self::welcome::take_address_place;
use self::welcome::{Beginning, welcome};
use crate::balance::Balancer;
use crate::metrics::Presence;
use crate::net::protocol::WireProtocol;

/// Answer to a Redis client at the admin address.
const ONLY_HTTP: &[u8] = b"-ERR this address serves HTTP alone, below /-/\r\n";

/// Talks to one client until either side ends the conversation.
pub fn serve(socket: &Arc<ClientSocket>, endpoint: Endpoint, balancer: &Arc<Balancer>) {
    let mut presence = (endpoint == Endpoint::Public).then(|| Presence::new(&balancer.metrics));
    let mut client = Client::new(socket, endpoint, balancer);
    let Some(beginning) = welcome(&mut client) else { return };
    let Beginning { protocol, received, since, tls: _tls } = beginning;
    socket.note_protocol(protocol);
    if let Some(presence) = &mut presence {
        presence.speaks(protocol);
        let traffic = Arc::clone(balancer.metrics.traffic.of(protocol));
        socket.stream.count_bytes(traffic, received.len());
    }
    match protocol {
        WireProtocol::Http => http::converse(client, received, since, balancer),
        WireProtocol::Resp if endpoint == Endpoint::Admin => {
            if client.write_all(ONLY_HTTP).is_ok() {
                client.linger(true);
            }
        }
        WireProtocol::Resp => {
            client.keeps_place = true;
            redis::converse(client, received, since, balancer);
        }
    }
}
