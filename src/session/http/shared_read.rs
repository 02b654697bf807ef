//! The usual way of an HTTP read: on a connection that many clients share.
//!
//! If a type hint tells which command reads the value, that is sent on a shared connection of the
//! backend. The connection's thread writes the response ([`ResponseSink`]), while the session's own
//! thread waits for the next request.

use std::io::{self, PipeReader, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Instant;

use super::balanced::HttpRead;
use super::freshness;
use super::response::{
    AnsweredBy, Caching, SentResponse, add_backend_headers, add_timing, begin, complete,
};
use crate::backend::Class;
use crate::backend::reply_router::{Progress, Sink};
use crate::backend::shared::{ClientReplyRouter, Entry, SharedConnection, SharedFailure};
use crate::balance::failover::Failover;
use crate::balance::slow::ReadProfile;
use crate::balance::{Balancer, Lease};
use crate::health::Member;
use crate::http::target::KeyQuery;
use crate::http::{self, ResponseWriter};
use crate::metrics::{CommandId, Outcome, SentCommands};
use crate::net::protocol::WireProtocol;
use crate::render::json::{JsonWriter, render, survey};
use crate::resp::value_type::ValueType;
use crate::session::client::{ClientSocket, TICK};
use crate::sync::{Mutex, lock};

/// Longest body that the thread of a shared connection compresses: that takes it a tenth of a millisecond, for which other
/// clients wait. A longer one is read again by the thread of its client, as a long value is.
const MAX_COMPRESSED_BYTES: usize = 8 * 1024;

/// One client's reads on shared connections, one at a time.
pub(super) struct SharedReads {
    sink: Arc<ResponseSink>,
    router: Arc<ClientReplyRouter>,
    /// The connection on which a read is under way, and its backend.
    under_way: Option<(Arc<SharedConnection>, Arc<Member>)>,
    /// The connection that was used last, and the pipe that is closed when a read there needs this thread.
    wake_pipe: Option<(Weak<SharedConnection>, Option<Arc<PipeReader>>)>,
}

/// How far a read has come.
pub(super) enum ReadProgress<'a> {
    /// There is no read.
    Idle,
    /// The backend has not answered yet.
    UnderWay,
    /// The response was sent, all but these bytes, which the client's socket did not take at once.
    Responded(UnsentEnd),
    /// The read has to go another way, after the attempt here.
    Unanswered(Box<HttpRead>, Failover<'a>),
}

/// A backend, its shared connection, the type that the value probably has, and the command that reads it.
type SendPlan = (Arc<Member>, Arc<SharedConnection>, ValueType, Vec<u8>);

impl SharedReads {
    pub fn new(client: &Arc<ClientSocket>, address: SocketAddr, balancer: &Arc<Balancer>) -> Self {
        let sink = Arc::new(ResponseSink {
            client: Arc::clone(client),
            address,
            balancer: Arc::clone(balancer),
            state: Mutex::default(),
        });
        let router = Arc::new(ClientReplyRouter::new(Arc::clone(&sink) as Arc<dyn Sink>));
        Self { sink, router, under_way: None, wake_pipe: None }
    }

    /// Sends a read. Returns it if it can't go by a shared connection. None may be under way.
    pub fn send(&mut self, mut read: Box<HttpRead>) -> Option<Box<HttpRead>> {
        let Some((backend, shared, value_type, command)) = self.plan(&mut read) else {
            return Some(read);
        };
        let Some((ticket, _)) = self.router.expect(1) else { return Some(read) };
        // Before it is sent, so that no wake-up is missed.
        if self.wake_pipe.as_ref().is_none_or(|(last, _)| last.as_ptr() != Arc::as_ptr(&shared)) {
            self.wake_pipe = Some((Arc::downgrade(&shared), shared.wake_pipe()));
        }
        let sent_at = Instant::now();
        self.sink.client.note_lease(read.lease.as_ref());
        let backend_of_read = Arc::clone(&backend);
        let sent = SentRead { read, backend: backend_of_read, value_type, sent_at };
        lock(&self.sink.state).sent = Some(sent);
        let entry = Entry {
            router: Arc::clone(&self.router),
            protocol: WireProtocol::Http,
            ticket,
            commands: 1,
            sent: SentCommands::Alike(CommandId::default()),
            began: sent_at,
            received: shared.received(),
        };
        if shared.send(entry, &command) {
            self.sink.balancer.retry_budget.deposit();
            self.under_way = Some((shared, backend));
            return None;
        }
        self.router.withdraw(1);
        self.sink.client.note_lease(None);
        self.sink.take_back().err().map(|sent| sent.read)
    }

    /// Takes a lease. Returns `None` if the read can't go by a shared connection.
    fn plan(&self, read: &mut HttpRead) -> Option<SendPlan> {
        let balancer = &self.sink.balancer;
        if read.whole_value().is_none() || !balancer.config().demo_delay.is_zero() {
            return None;
        }
        let backends = balancer.backends();
        let (max_staleness, database) = (read.max_staleness, read.query.database());
        let serves = |backend| {
            backends.get(backend).is_some_and(|backend| backend.serves_in(database))
                && max_staleness.allows(backend, balancer)
        };
        // It may have been taken before, and its backend have failed since.
        let is_good = |lease: &Lease| lease.backend_if_up().is_some_and(serves);
        if !read.lease.as_ref().is_some_and(is_good) {
            read.lease = balancer.table.lease(Instant::now(), serves);
        }
        let lease = read.lease.as_ref()?;
        let backend = backends.get(lease.backend_if_up()?)?;
        if !backend.serves_in(database) {
            return None;
        }
        read.staleness = max_staleness.admit(backend.id, balancer)?;
        let key = &read.whole_value()?.key;
        let mode = backend.mode_in(database);
        let value_type = backend.type_hints.of(mode.database, key)?;
        if !is_read_at_once(value_type, &read.profile) {
            return None;
        }
        let rights = read.caller.rights.as_ref();
        if rights.is_some_and(|rights| rights.permits(value_type.read_command(key)).is_err()) {
            return None;
        }
        let shared = backend.shared(mode)?;
        let command = value_type.read_command(key).into_bytes();
        Some((Arc::clone(backend), shared, value_type, command))
    }

    /// Returns what rings when this session may have to act on its read; `None` before the first.
    pub fn wake_pipe(&self) -> Option<&PipeReader> {
        self.wake_pipe.as_ref()?.1.as_deref()
    }

    /// Takes the next pipe, as the last one may be closed. Call it before the next look at the read.
    pub fn renew_wake_pipe(&mut self) {
        if let Some((shared, wake_pipe)) = &mut self.wake_pipe
            && let Some(shared) = shared.upgrade()
        {
            *wake_pipe = shared.wake_pipe();
        }
    }

    /// Returns how far the read has come. If the client's next request waits for it, waits a moment
    /// for its end.
    pub fn progress<'a>(&mut self, is_awaited: bool, balancer: &'a Balancer) -> ReadProgress<'a> {
        let Some((shared, backend)) = &self.under_way else { return ReadProgress::Idle };
        let progress = if is_awaited { self.router.wait(TICK) } else { self.router.progress() };
        let mut left = None;
        if progress == Progress::UnderWay {
            let sent_at = lock(&self.sink.state).sent.as_ref().map(|sent| sent.sent_at);
            left = sent_at.and_then(|sent_at| backend.leave_shared(shared, &self.router, sent_at));
            if left.is_none() {
                return ReadProgress::UnderWay;
            }
        }
        self.under_way = None;
        let (_, failure) = self.router.take_back();
        let unserved = left.or(failure);
        let SentRead { mut read, backend, sent_at, .. } = match self.sink.take_back() {
            Ok(unsent) => return ReadProgress::Responded(unsent),
            Err(sent) => sent,
        };
        self.sink.client.note_lease(None);
        // A read on a shared connection was expected to be quick.
        let class = if unserved.is_some() { Class::Quick } else { read.profile.class };
        let mut failover =
            Failover::resumed(balancer, ReadProfile { class, ..read.profile }, Instant::now());
        match unserved {
            Some(SharedFailure::Backend(error)) => {
                failover.failed(
                    &failover.past_attempt(backend, sent_at, None),
                    error,
                    Instant::now(),
                );
                read.lease = None;
            }
            Some(SharedFailure::Stale) => {}
            Some(SharedFailure::Lost) => failover.connection_lost(&backend),
            // The hint was wrong, or the value is long, or long to compress.
            Some(SharedFailure::LongReply) | None => {
                if let Some(query) = read.whole_value() {
                    let database = backend.mode_in(query.database).database;
                    backend.type_hints.distrust(database, &query.key);
                }
            }
        }
        ReadProgress::Unanswered(read, failover)
    }
}

impl Drop for SharedReads {
    fn drop(&mut self) {
        self.router.close();
        // Ends the lease of an unanswered read: the router may keep the sink for a while.
        drop(self.sink.take_back());
    }
}

/// A read that was sent on a shared connection.
struct SentRead {
    read: Box<HttpRead>,
    backend: Arc<Member>,
    /// The type that the value has if the hint is right.
    value_type: ValueType,
    sent_at: Instant,
}

/// Turns the reply to one client's read into the response, and sends it.
struct ResponseSink {
    client: Arc<ClientSocket>,
    address: SocketAddr,
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
    /// Takes the read back if it is not answered, or else the end of its response.
    fn take_back(&self) -> Result<UnsentEnd, SentRead> {
        let mut state = lock(&self.state);
        match state.sent.take() {
            Some(read) => Err(read),
            None => Ok(std::mem::take(&mut state.unsent)),
        }
    }

    /// Makes the response of the reply, and gives the client of it what its socket takes at once; returns the rest. Returns
    /// the read if this reply is not enough for that, or it takes too long here.
    fn respond(&self, sent: SentRead, reply: &[u8]) -> Result<UnsentEnd, SentRead> {
        let answered = Instant::now();
        let Some((mut response, mut bytes)) = self.response(&sent, reply, answered) else {
            return Err(sent);
        };
        let SentRead { read, backend, sent_at, value_type } = sent;
        let HttpRead { request, caller, query, began, lease, key, .. } = *read;
        let time = answered.saturating_duration_since(sent_at);
        if let Some(key) = key.filter(|_| value_type != ValueType::String) {
            self.balancer.slow_lane.record_late(backend.id, sent_at, &[key], time);
        }
        let (length, is_last) = (bytes.len(), !response.keep_alive);
        let answered_by = Some(AnsweredBy { backend: &backend.metrics, kind: query.kind(), time });
        complete(&self.balancer.metrics, answered_by, response.status, Outcome::Answered);
        self.client.note_lease(None);
        drop(lease);
        let stream = &self.client.stream;
        // Some clients wait for the end of our side after the last response.
        let taken = if is_last { stream.send_last(&bytes) } else { stream.send_now(&bytes) };
        let taken = taken.unwrap_or_else(|error| {
            response.cut = Some(error.to_string());
            length
        });
        let unsent = UnsentEnd { bytes: bytes.split_off(taken), is_last };
        caller.charge(length as u64);
        response.log(&self.balancer, self.address, &request, &caller, began, length as u64);
        Ok(unsent)
    }

    /// Makes the whole response; `None` if this reply is not enough for that, or it takes too long here.
    fn response(
        &self,
        sent: &SentRead,
        reply: &[u8],
        answered: Instant,
    ) -> Option<(SentResponse, Vec<u8>)> {
        let SentRead { read, backend, value_type, sent_at } = sent;
        let mut response = begin(io::sink(), &read.request, &self.balancer);
        add_backend_headers(&mut response, backend, Caching::of(&self.balancer));
        add_timing(&mut response, backend, read.began, *sent_at);
        response.answered(answered);
        freshness::add_header(&mut response, read.staleness);
        response.header("Content-Type", http::JSON);
        let digest = write_reply(*value_type, reply, read.whole_value()?, &mut response)?;
        response.settle(read.validators(digest));
        if response.bytes_to_compress() > MAX_COMPRESSED_BYTES {
            return None;
        }
        let message = response.held_message();
        Some((SentResponse::from_backend(backend, &response), message))
    }
}

/// Whether a value may be read beside others: it is quick, as far as is known. Redis reads a string at once.
pub(super) fn is_read_at_once(value_type: ValueType, profile: &ReadProfile) -> bool {
    let is_quick = match profile.class {
        Class::Quick => true,
        Class::Unknown => value_type == ValueType::String,
        Class::Slow => false,
    };
    is_quick && !profile.has_one_try
}

/// Writes status and body of the response to a read of a whole value, of this reply to the command that reads it. Returns the
/// digest for its ETag, if it gets one; `None` if the reply is not enough, or the response is too long to be held.
pub(super) fn write_reply<W: Write>(
    value_type: ValueType,
    mut reply: &[u8],
    query: &KeyQuery,
    response: &mut ResponseWriter<W>,
) -> Option<Option<u64>> {
    let value = reply;
    // A response that is longer than what is held might be cut, and has to look so.
    response.hold_only();
    // If the hint was wrong, the reply is an error.
    let survey = survey(value_type, &mut reply).ok()?;
    let mut digest = None;
    if !survey.is_empty {
        let mut json = JsonWriter::new(&mut *response);
        render(value_type, &mut &value[..], &survey, &mut json).ok()?;
        json.finish().ok()?;
        digest = Some(survey.digest);
    } else if value_type == ValueType::Stream {
        // Either there is no such key, or the stream has no entries.
        return None;
    } else {
        response.status(404);
        response.json_body(&query.error("no such key")).ok()?;
    }
    Some(digest)
}

impl Sink for ResponseSink {
    fn send_now(&self, reply: &[u8]) -> io::Result<usize> {
        let mut state = lock(&self.state);
        let Some(sent) = state.sent.take() else { return Ok(0) };
        match self.respond(sent, reply) {
            Ok(unsent) => {
                state.unsent = unsent;
                Ok(reply.len())
            }
            Err(sent) => {
                state.sent = Some(sent);
                Ok(0)
            }
        }
    }
}
