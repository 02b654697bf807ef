//! The list of clients, and the end of one.

use serde::Serialize;

use crate::balance::Balancer;
use crate::net::protocol::WireProtocol;
use crate::session::{ClientInfo, ClientList, Doing};

/// The clients, as JSON.
#[derive(Debug, Serialize)]
pub(super) struct Clients {
    /// Number of all, of which the list may have only a part.
    total: usize,
    clients: Vec<ClientRow>,
}

#[derive(Debug, Serialize)]
struct ClientRow {
    id: u64,
    address: String,
    protocol: Option<&'static str>,
    tls: Option<&'static str>,
    name: Option<String>,
    user: Option<String>,
    connected_seconds: f64,
    idle_seconds: Option<f64>,
    backend: Option<String>,
    doing: Doing,
    command: Option<String>,
    memory_bytes: usize,
}

impl Clients {
    /// Returns the clients as they are now, the oldest first, at most `limit` of them.
    pub fn of(balancer: &Balancer, list: &dyn ClientList, limit: usize) -> Self {
        let mut clients = list.clients();
        let total = clients.len();
        clients.sort_unstable_by_key(|client| client.id);
        clients.truncate(limit);
        let rows = clients.iter().map(|client| ClientRow::of(balancer, client.info()));
        Self { total, clients: rows.collect() }
    }
}

impl ClientRow {
    fn of(balancer: &Balancer, client: ClientInfo) -> Self {
        let backend = client.lease.and_then(|slot| balancer.table.holder(slot));
        let backend = backend.and_then(|id| balancer.backend(id));
        let protocol = |protocol| match protocol {
            WireProtocol::Http => "http",
            WireProtocol::Resp => "resp",
        };
        let seconds = |time: std::time::Duration| time.as_millis() as f64 / 1000.0;
        Self {
            id: client.id,
            address: client.address.to_string(),
            protocol: client.protocol.map(protocol),
            tls: client.tls,
            name: client.name,
            user: client.user,
            connected_seconds: seconds(client.connected),
            idle_seconds: client.idle.map(seconds),
            backend: backend.map(|backend| backend.name().to_owned()),
            doing: client.doing,
            command: client.command,
            memory_bytes: client.memory_bytes,
        }
    }
}

/// Closes the connection of the client with this number or address. Returns what was done, in words; `None` if there
/// is no such client.
pub(super) fn kill(list: &dyn ClientList, wanted: &str) -> Option<String> {
    let id = wanted.parse::<u64>().ok();
    let clients = list.clients();
    let is_wanted = |id_now: u64, address: String| id == Some(id_now) || address == wanted;
    let client = clients.iter().find(|one| is_wanted(one.id, one.address().to_string()))?;
    client.kill();
    Some(format!("client {} ({}) is closed", client.id, client.address()))
}
