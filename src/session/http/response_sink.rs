//! Writes the response to a read on a shared connection, on that connection's thread.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::read::HttpRead;
use super::sent_response::{SentResponse, add_backend_headers, complete};
use super::value::write_not_found;
use crate::backend::BackendError;
use crate::backend::reply_router::Sink;
use crate::backend::shared::SharedConnection;
use crate::balance::Balancer;
use crate::health::Member;
use crate::http::{self, ResponseWriter};
use crate::metrics::Outcome;
use crate::render::json::{JsonWriter, render, survey};
use crate::resp::value_type::ValueType;
use crate::session::client::ClientSocket;
use crate::sync::{Mutex, lock};

/// Room for a response's head.
const HEAD_BYTES: usize = 512;

/// A read that was sent on a shared connection.
pub(super) struct SentRead {
    pub read: Box<HttpRead>,
    pub backend: Arc<Member>,
    /// The type that the value has if the hint is right.
    pub value_type: ValueType,
    pub sent_at: Instant,
}

/// Turns the reply to one client's read into the response, and sends it.
pub(super) struct ResponseSink {
    client: Arc<ClientSocket>,
    pub address: SocketAddr,
    balancer: Arc<Balancer>,
    state: Mutex<SinkState>,
}

#[derive(Default)]
struct SinkState {
    /// The read that is not answered yet.
    sent: Option<SentRead>,
    unsent: UnsentEnd,
}

/// The end of a response that the client's socket did not take at once.
#[derive(Default)]
pub(super) struct UnsentEnd {
    pub bytes: Vec<u8>,
    /// Whether the connection closes after it.
    pub is_last: bool,
}

impl ResponseSink {
    pub fn new(client: Arc<ClientSocket>, address: SocketAddr, balancer: Arc<Balancer>) -> Self {
        Self { client, address, balancer, state: Mutex::default() }
    }

    /// Expects the reply to a read that is about to be sent.
    pub fn expect(&self, read: SentRead) {
        lock(&self.state).sent = Some(read);
    }

    /// Takes the read back if it is not answered, or else the end of its response.
    pub fn take_back(&self) -> Result<UnsentEnd, SentRead> {
        let mut state = lock(&self.state);
        match state.sent.take() {
            Some(read) => Err(read),
            None => Ok(std::mem::take(&mut state.unsent)),
        }
    }

    /// Returns the error if the reply has been awaited for too long.
    pub fn silence(&self, shared: &SharedConnection, backend: &Member) -> Option<BackendError> {
        let sent_at = lock(&self.state).sent.as_ref()?.sent_at;
        shared.silence(sent_at, backend.timeouts())
    }

    /// Sends what the client's socket takes at once; returns how many bytes that is. Ends our side
    /// after the last response, because some clients wait for that.
    fn send_at_once(&self, response: &[u8], is_last: bool) -> io::Result<usize> {
        let stream = &self.client.stream;
        if is_last { stream.send_last(response) } else { stream.send_now(response) }
    }

    /// Writes the whole response to `out`; `None` if this reply is not enough for that.
    fn write_response(
        &self,
        sent: &SentRead,
        mut reply: &[u8],
        out: &mut Vec<u8>,
    ) -> Option<SentResponse> {
        let SentRead { read, backend, value_type, .. } = sent;
        let value = reply;
        // If the hint was wrong, the reply is an error.
        let survey = survey(*value_type, &mut reply).ok()?;
        let keep_alive = !self.balancer.is_draining();
        let mut response = ResponseWriter::new(out, &read.request, keep_alive, SystemTime::now);
        add_backend_headers(&mut response, backend);
        let mut validators = None;
        if !survey.is_empty {
            response.header("Content-Type", http::JSON);
            let mut json = JsonWriter::new(&mut response);
            render(*value_type, &mut &value[..], &survey, &mut json).ok()?;
            json.finish().ok()?;
            validators = Some((survey.digest, read.request.if_none_match.as_deref()));
        } else if *value_type == ValueType::Stream {
            // Either there is no such key, or the stream has no entries.
            return None;
        } else {
            write_not_found(read.whole_value()?, "no such key", &mut response).ok()?;
        }
        // A response that is longer than what is held might be cut, and has to look so.
        if response.is_sent() {
            return None;
        }
        response.finish(validators).ok()?;
        Some(SentResponse::from_backend(backend, &response))
    }
}

impl Sink for ResponseSink {
    fn send_now(&self, reply: &[u8]) -> io::Result<usize> {
        let mut state = lock(&self.state);
        let Some(sent) = state.sent.take() else { return Ok(0) };
        let mut bytes = Vec::with_capacity(2 * reply.len() + HEAD_BYTES);
        let Some(mut response) = self.write_response(&sent, reply, &mut bytes) else {
            state.sent = Some(sent);
            return Ok(0);
        };
        let SentRead { read, backend, sent_at, value_type } = sent;
        let HttpRead { request, began, lease, key, .. } = *read;
        let time = sent_at.elapsed();
        if let Some(key) = key.filter(|_| value_type != ValueType::String) {
            self.balancer.slow_lane.record_late(backend.id, sent_at, &[key], time);
        }
        let (length, is_last) = (bytes.len(), !response.keep_alive);
        let (metrics, target) = (&self.balancer.metrics, request.target.as_bytes());
        let answered_by = Some((&backend.metrics, time));
        complete(metrics, self.address, target, answered_by, length as u64, Outcome::Answered);
        drop(lease);
        let sent = self.send_at_once(&bytes, is_last).unwrap_or_else(|error| {
            response.cut = Some(error.to_string());
            length
        });
        state.unsent = UnsentEnd { bytes: bytes.split_off(sent), is_last };
        response.log(&self.balancer, self.address, &request, began, length as u64);
        Ok(reply.len())
    }
}
