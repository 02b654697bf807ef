//! The usual way of an HTTP read: where a value's type can be guessed, it is asked for on a shared
//! connection, whose thread answers the client, while this session waits for the next request.

use std::io::{self, PipeReader};
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::{Instant, SystemTime};

use super::read::{self, Ask};
use super::{Ended, begin, log};
use crate::backend::reply_router::{Progress, Sink};
use crate::backend::shared::{ClientReplyRouter, Entry, SharedConnection, SharedFailure};
use crate::backend::{BackendError, Class};
use crate::balance::Balancer;
use crate::balance::Lease;
use crate::balance::failover::Failover;
use crate::balance::slow::{ReadKey, ReadTraits};
use crate::health::Member;
use crate::http::target::{Format, KeyQuery};
use crate::http::{self, Request, ResponseWriter, Version};
use crate::net::protocol::WireProtocol;
use crate::render::json::{JsonWriter, render, survey};
use crate::resp::value_type::ValueType;
use crate::session::{ClientSocket, TICK};
use crate::sync::{Mutex, lock};

/// Room for what stands before an answer's body.
const HEAD_BYTES: usize = 512;

/// A request for data.
pub struct Question {
    /// The request.
    pub request: Request,
    /// What it asks for.
    pub ask: Ask,
    /// When it came.
    pub began: Instant,
    /// What was leased for it.
    pub lease: Option<Lease>,
    /// What it is known by, unless every server answers it at once.
    pub key: Option<ReadKey>,
    /// What is known of how long it takes.
    pub traits: ReadTraits,
}

impl Question {
    /// What is asked for, where that is a whole value as JSON.
    fn usual(&self) -> Option<&KeyQuery> {
        let Ask::Key(query, None) = &self.ask else { return None };
        let is_usual = query.format == Format::Json
            && query.field.is_none()
            && self.request.version != Version::Http09;
        is_usual.then_some(query)
    }
}

/// One client's reads that go by shared connections, one at a time.
pub struct QuickReads {
    sink: Arc<HttpReplySink>,
    router: Arc<ClientReplyRouter>,
    /// The connection on which one is under way, and its backend.
    under_way: Option<(Arc<SharedConnection>, Arc<Member>)>,
    /// The last connection that was used, and the pipe that is closed when a read there needs this thread.
    wake_pipe: Option<(Weak<SharedConnection>, Option<Arc<PipeReader>>)>,
}

/// How far a read has come.
pub enum Stage<'a> {
    /// None is under way.
    None,
    /// The answer is still to come.
    UnderWay,
    /// The client has the answer, but for its end, which its socket did not take at once.
    Answered {
        /// That end.
        unsent: Vec<u8>,
        /// Whether the connection ends behind it.
        is_last: bool,
    },
    /// It has to be asked in another way, behind what was tried.
    Unanswered(Box<Question>, Failover<'a>),
}

impl QuickReads {
    /// For this client.
    pub fn new(client: &Arc<ClientSocket>, address: SocketAddr, balancer: &Arc<Balancer>) -> Self {
        let (client, balancer) = (Arc::clone(client), Arc::clone(balancer));
        let sink = Arc::new(HttpReplySink { client, address, balancer, state: Mutex::default() });
        let router = Arc::new(ClientReplyRouter::new(Arc::clone(&sink) as Arc<dyn Sink>));
        Self { sink, router, under_way: None, wake_pipe: None }
    }

    /// Asks; returns the question where that is not possible here. None may be under way.
    pub fn ask(&mut self, mut question: Box<Question>) -> Option<Box<Question>> {
        let Some(Plan { backend, kind, shared, command }) = self.plan(&mut question) else {
            return Some(question);
        };
        let Some((ticket, _)) = self.router.expect(1) else { return Some(question) };
        // Before it is sent, so that no wake-up is missed.
        if self.wake_pipe.as_ref().is_none_or(|(last, _)| last.as_ptr() != Arc::as_ptr(&shared)) {
            self.wake_pipe = Some((Arc::downgrade(&shared), shared.wake_pipe()));
        }
        let sent_at = Instant::now();
        lock(&self.sink.state).asked =
            Some(Asked { question, backend: Arc::clone(&backend), kind, sent_at });
        let entry = Entry {
            router: Arc::clone(&self.router),
            protocol: WireProtocol::Http,
            ticket,
            commands: 1,
            began: sent_at,
        };
        if shared.send(entry, &command) {
            self.sink.balancer.retry_budget.deposit();
            self.under_way = Some((shared, backend));
            return None;
        }
        self.router.withdraw(1);
        lock(&self.sink.state).asked.take().map(|asked| asked.question)
    }

    fn plan(&self, question: &mut Question) -> Option<Plan> {
        let balancer = &self.sink.balancer;
        if question.usual().is_none() || !balancer.config.demo_delay.is_zero() {
            return None;
        }
        let backends = balancer.backends();
        let serves = |backend| backends.get(backend).is_some_and(|backend| backend.serves_own());
        let lease = question.lease.insert(balancer.table.lease(Instant::now(), serves)?);
        let backend = backends.get(lease.backend_if_up()?)?;
        if !backend.serves_own() {
            return None;
        }
        let key = &question.usual()?.key;
        let kind = backend.type_hints.of(key)?;
        // Redis reads a string at once.
        let is_quick = question.traits.class == Class::Quick
            || (kind == ValueType::String && question.traits.class == Class::Unknown);
        if !is_quick || question.traits.has_one_try {
            return None;
        }
        let shared = backend.shared(backend.own_mode())?;
        let command = kind.packed_read(key);
        Some(Plan { backend: Arc::clone(backend), kind, shared, command })
    }

    /// Returns the pipe that is closed when the read under way may need this thread; `None` while nothing was asked.
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

    /// How far it has come. Where that `is_awaited`, waits a moment for it to be over.
    pub fn stage<'a>(&mut self, is_awaited: bool, balancer: &'a Balancer) -> Stage<'a> {
        let Some((shared, backend)) = &self.under_way else { return Stage::None };
        let progress = match is_awaited {
            true => self.router.wait(TICK),
            false => self.router.progress(),
        };
        let mut silence = None;
        if progress == Progress::UnderWay {
            silence = self.sink.silence(shared, backend);
            if silence.is_none() {
                return Stage::UnderWay;
            }
            backend.retire_shared(shared);
        }
        self.end(silence, balancer)
    }

    /// Takes back what is not answered.
    fn end<'a>(&mut self, silence: Option<BackendError>, balancer: &'a Balancer) -> Stage<'a> {
        self.under_way = None;
        let failure = self.router.take_back().1;
        let mut state = lock(&self.sink.state);
        let Some(Asked { mut question, backend, sent_at, .. }) = state.asked.take() else {
            let unsent = std::mem::take(&mut state.unsent);
            return Stage::Answered { unsent, is_last: state.is_last };
        };
        drop(state);
        // What went by a shared connection was expected to be quick.
        let has_failed = silence.is_some() || failure.is_some();
        let class = if has_failed { Class::Quick } else { question.traits.class };
        let mut failover = Failover::resumed(balancer, ReadTraits { class, ..question.traits });
        let failure = match (silence, failure) {
            (Some(silence), _) => Some(silence),
            (None, Some(SharedFailure::Backend(error))) => Some(error),
            (None, Some(SharedFailure::Stale)) => None,
            (None, Some(SharedFailure::Lost)) => {
                failover.note_lost(&backend);
                None
            }
            // The guess was wrong, or the value is long.
            (None, Some(SharedFailure::LongReply) | None) => {
                if let Some(query) = question.usual() {
                    backend.type_hints.distrust(&query.key);
                }
                None
            }
        };
        if let Some(error) = failure {
            failover.failed(&failover.made(backend, sent_at, None), error);
            question.lease = None;
        }
        Stage::Unanswered(question, failover)
    }
}

impl Drop for QuickReads {
    fn drop(&mut self) {
        self.router.close();
        // With its lease.
        lock(&self.sink.state).asked = None;
    }
}

/// How a question is asked.
struct Plan {
    backend: Arc<Member>,
    /// What type the value has, probably.
    kind: ValueType,
    shared: Arc<SharedConnection>,
    command: Vec<u8>,
}

/// Where the thread that reads a shared connection answers one client.
struct HttpReplySink {
    client: Arc<ClientSocket>,
    address: SocketAddr,
    balancer: Arc<Balancer>,
    state: Mutex<SinkState>,
}

#[derive(Default)]
struct SinkState {
    /// What is to be answered.
    asked: Option<Asked>,
    /// The end of the last answer, which the client's socket did not take, …
    unsent: Vec<u8>,
    /// … and whether the connection ends behind it.
    is_last: bool,
}

/// A question that is under way.
struct Asked {
    question: Box<Question>,
    /// The backend that was asked, …
    backend: Arc<Member>,
    /// … and for what type of value.
    kind: ValueType,
    sent_at: Instant,
}

impl HttpReplySink {
    /// Why the answer is not waited for any longer, if so.
    fn silence(&self, shared: &SharedConnection, backend: &Member) -> Option<BackendError> {
        let sent_at = lock(&self.state).asked.as_ref()?.sent_at;
        shared.silence(sent_at, &backend.timeouts)
    }

    /// Gives the client what it takes at once, and ends our side behind what `is_last`: some clients
    /// wait for that. Returns how many bytes it took.
    fn send(&self, answer: &[u8], is_last: bool) -> io::Result<usize> {
        let stream = &self.client.stream;
        if is_last { stream.send_last(answer) } else { stream.send_now(answer) }
    }

    /// Writes the whole answer to `out`; `None` where that needs more than this reply.
    fn answer(&self, asked: &Asked, mut reply: &[u8], out: &mut Vec<u8>) -> Option<Ended> {
        let Asked { question, backend, kind, .. } = asked;
        let Question { request, .. } = &**question;
        let value = reply;
        // A guess of the wrong type is an error.
        let survey = survey(*kind, &mut reply).ok()?;
        let mut answer =
            ResponseWriter::new(out, request, !self.balancer.is_draining(), SystemTime::now);
        begin(&mut answer, backend);
        let mut validators = None;
        if !survey.is_empty {
            answer.header("Content-Type", http::JSON);
            let mut json = JsonWriter::new(&mut answer);
            render(*kind, &mut &value[..], &survey, &mut json).ok()?;
            json.finish().ok()?;
            validators = Some((survey.digest, request.if_none_match.as_deref()));
        } else if *kind == ValueType::Stream {
            // That may be one without entries.
            return None;
        } else {
            read::not_found(question.usual()?, "no such key", &mut answer).ok()?;
        }
        // That of a long one must not look whole when it breaks off.
        if answer.is_sent() {
            return None;
        }
        answer.finish(validators).ok()?;
        Some(Ended::by(backend, &answer))
    }
}

impl Sink for HttpReplySink {
    fn send_now(&self, reply: &[u8]) -> io::Result<usize> {
        let mut state = lock(&self.state);
        let Some(asked) = state.asked.take() else { return Ok(0) };
        let mut answer = Vec::with_capacity(2 * reply.len() + HEAD_BYTES);
        let Some(mut ended) = self.answer(&asked, reply, &mut answer) else {
            state.asked = Some(asked);
            return Ok(0);
        };
        let Asked { question, backend, sent_at, kind } = asked;
        let Question { request, began, lease, key, .. } = *question;
        let time = sent_at.elapsed();
        if let Some(key) = key.filter(|_| kind != ValueType::String) {
            self.balancer.slow_lane.note_late(backend.id, sent_at, &[key], time);
        }
        backend.metrics.answer(WireProtocol::Http, time);
        drop(lease);
        let length = answer.len();
        let sent = self.send(&answer, !ended.keep_alive).unwrap_or_else(|error| {
            ended.cut = Some(error.to_string());
            length
        });
        state.unsent = answer.split_off(sent);
        state.is_last = !ended.keep_alive;
        log(&self.balancer, self.address, &request, began, length as u64, &ended);
        Ok(reply.len())
    }
}
