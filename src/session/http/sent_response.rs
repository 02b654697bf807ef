//! What the log says of a response, and what all responses from a backend have in common.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::Level;

use crate::backend::Backend;
use crate::balance::Balancer;
use crate::health::Member;
use crate::http::{Request, ResponseWriter};
use crate::logging::access_log::{Event, HttpRequest, Text};
use crate::metrics::{BackendMetrics, Completion, Metrics, Outcome};
use crate::net::protocol::WireProtocol;

/// A response that was sent, for the log.
pub(super) struct SentResponse {
    pub status: u16,
    /// The name of the backend that has answered.
    pub backend: Option<Arc<str>>,
    /// Whether the connection can carry another request.
    pub keep_alive: bool,
    /// Level of the line in the log.
    pub level: Level,
    /// What went wrong after the first byte of the response.
    pub cut: Option<String>,
}

impl SentResponse {
    /// A response that this backend has answered.
    pub fn from_backend<W: Write>(backend: &Member, response: &ResponseWriter<W>) -> Self {
        Self {
            status: response.sent_status(),
            backend: Some(Arc::clone(&backend.health.name)),
            keep_alive: response.keeps_alive(),
            level: Level::Info,
            cut: None,
        }
    }

    /// Writes the request's line in the log.
    pub fn log(
        &self,
        balancer: &Balancer,
        client: SocketAddr,
        request: &Request,
        began: Instant,
        bytes: u64,
    ) {
        balancer.access_log.write_at(self.level, || {
            Event::Request(HttpRequest {
                client,
                method: Text::cut(&request.method_name),
                target: Text::cut(&request.target),
                status: self.status,
                backend: self.backend.as_deref().map(str::to_owned),
                ms: began.elapsed().as_micros() as f64 / 1000.0,
                bytes,
                cut: self.cut.clone(),
            })
        });
    }
}

/// Counts a request that is over. If a backend has answered it, `answered_by` is that and the time
/// until its reply began.
pub(super) fn complete(
    metrics: &Metrics,
    client: SocketAddr,
    target: &[u8],
    answered_by: Option<(&BackendMetrics, Duration)>,
    bytes: u64,
    outcome: Outcome,
) {
    let (backend, time) = answered_by.unzip();
    metrics.complete(&Completion {
        client,
        protocol: WireProtocol::Http,
        what: target,
        backend,
        count: 1,
        bytes,
        time: time.unwrap_or_default(),
        outcome,
    });
}

/// Adds the headers of every response from a backend.
pub(super) fn add_backend_headers<W: Write>(response: &mut ResponseWriter<W>, backend: &Backend) {
    response.header("X-Served-By", header_value(backend.name()));
    response.header("Cache-Control", "no-cache");
    response.header("Vary", "Accept");
}

/// The path of a Unix socket can contain what a header can't.
fn header_value(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_graphic() { c } else { '?' }).collect()
}
