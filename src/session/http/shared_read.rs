//! The usual way of an HTTP read: on a connection that many clients share.
//!
//! If a type hint tells which command reads the value, that is sent on a shared connection of the
//! backend. The connection's thread writes the response ([`ResponseSink`]), while the session's own
//! thread waits for the next request.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Instant;

use super::read::HttpRead;
use super::response_sink::{ResponseSink, SentRead, UnsentEnd};
use crate::backend::reply_router::{Progress, Sink};
use crate::backend::shared::{Alarm, ClientReplyRouter, Entry, SharedConnection, Unserved};
use crate::backend::{BackendError, Class};
use crate::balance::Balancer;
use crate::balance::failover::Failover;
use crate::balance::slow::ReadProfile;
use crate::health::Member;
use crate::net::protocol::WireProtocol;
use crate::resp::value_type::ValueType;
use crate::session::client::{ClientSocket, TICK};

/// One client's reads on shared connections, one at a time.
pub(super) struct SharedReads {
    balancer: Arc<Balancer>,
    sink: Arc<ResponseSink>,
    router: Arc<ClientReplyRouter>,
    /// The connection on which a read is under way, and its backend.
    under_way: Option<(Arc<SharedConnection>, Arc<Member>)>,
    /// The connection that was used last, and its alarm.
    alarm: Option<(Weak<SharedConnection>, Arc<Alarm>)>,
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

/// How a read is sent.
struct SendPlan {
    backend: Arc<Member>,
    shared: Arc<SharedConnection>,
    /// The type that the value probably has.
    value_type: ValueType,
    command: Vec<u8>,
}

impl SharedReads {
    pub fn new(client: &Arc<ClientSocket>, address: SocketAddr, balancer: &Arc<Balancer>) -> Self {
        let sink = ResponseSink::new(Arc::clone(client), address, Arc::clone(balancer));
        let sink = Arc::new(sink);
        let router = Arc::new(ClientReplyRouter::new(Arc::clone(&sink) as Arc<dyn Sink>));
        Self { balancer: Arc::clone(balancer), sink, router, under_way: None, alarm: None }
    }

    /// Sends a read. Returns it if it can't go by a shared connection. None may be under way.
    pub fn send(&mut self, mut read: Box<HttpRead>) -> Option<Box<HttpRead>> {
        let Some(SendPlan { backend, shared, value_type, command }) = self.plan(&mut read) else {
            return Some(read);
        };
        let Some((ticket, _)) = self.router.expect(1) else { return Some(read) };
        // Before it is sent, so that no ring of the alarm is missed.
        if self.alarm.as_ref().is_none_or(|(last, _)| last.as_ptr() != Arc::as_ptr(&shared)) {
            self.alarm = Some((Arc::downgrade(&shared), shared.alarm()));
        }
        let sent_at = Instant::now();
        self.sink.expect(SentRead { read, backend: Arc::clone(&backend), value_type, sent_at });
        let entry = Entry {
            router: Arc::clone(&self.router),
            client: self.sink.address,
            protocol: WireProtocol::Http,
            ticket,
            commands: 1,
            began: sent_at,
        };
        if shared.send(entry, &command) {
            self.balancer.retry_budget.deposit();
            self.under_way = Some((shared, backend));
            return None;
        }
        self.router.withdraw(1);
        self.sink.take_back().err().map(|sent| sent.read)
    }

    /// Takes a lease, and returns how the read is sent; `None` if it can't go by a shared connection.
    fn plan(&self, read: &mut HttpRead) -> Option<SendPlan> {
        let balancer = &self.balancer;
        if read.whole_value().is_none() || !balancer.config.demo_delay.is_zero() {
            return None;
        }
        let backends = balancer.backends();
        let serves = |backend| backends.get(backend).is_some_and(|backend| backend.serves_own());
        let lease = read.lease.insert(balancer.table.lease(Instant::now(), serves)?);
        let backend = backends.get(lease.backend_if_up()?)?;
        if !backend.serves_own() {
            return None;
        }
        let key = &read.whole_value()?.key;
        let value_type = backend.type_hints.of(key)?;
        // Redis reads a string at once.
        let is_quick = read.profile.class == Class::Quick
            || (value_type == ValueType::String && read.profile.class == Class::Unknown);
        if !is_quick || read.profile.has_one_try {
            return None;
        }
        let shared = backend.shared(backend.own_mode())?;
        let command = value_type.read_command(key).into_bytes();
        Some(SendPlan { backend: Arc::clone(backend), shared, value_type, command })
    }

    /// Returns what rings when this session may have to act on its read; `None` before the first.
    pub fn alarm(&self) -> Option<&Alarm> {
        self.alarm.as_ref().map(|(_, alarm)| &**alarm)
    }

    /// After the alarm may have rung, listens to the next one.
    pub fn renew_alarm(&mut self) {
        if let Some((shared, alarm)) = &mut self.alarm
            && let Some(shared) = shared.upgrade()
        {
            *alarm = shared.alarm();
        }
    }

    /// Returns how far the read has come. If the client's next request waits for it, waits a moment
    /// for its end.
    pub fn progress<'a>(&mut self, is_awaited: bool, balancer: &'a Balancer) -> ReadProgress<'a> {
        let Some((shared, backend)) = &self.under_way else { return ReadProgress::Idle };
        let progress = match is_awaited {
            true => self.router.wait(TICK),
            false => self.router.progress(),
        };
        let mut silence = None;
        if progress == Progress::UnderWay {
            silence = self.sink.silence(shared, backend);
            if silence.is_none() {
                return ReadProgress::UnderWay;
            }
            backend.retire_shared(shared);
        }
        self.end(silence, balancer)
    }

    /// Ends the read here. If it is not answered, takes it back, for another way.
    fn end<'a>(
        &mut self,
        silence: Option<BackendError>,
        balancer: &'a Balancer,
    ) -> ReadProgress<'a> {
        self.under_way = None;
        let unserved = self.router.take_back().failure;
        let SentRead { mut read, backend, sent_at, .. } = match self.sink.take_back() {
            Ok(unsent) => return ReadProgress::Responded(unsent),
            Err(sent) => sent,
        };
        // A read on a shared connection was expected to be quick.
        let has_failed = silence.is_some() || unserved.is_some();
        let class = if has_failed { Class::Quick } else { read.profile.class };
        let mut failover =
            Failover::resumed(balancer, ReadProfile { class, ..read.profile }, Instant::now());
        let error = match (silence, unserved) {
            (Some(error), _) | (None, Some(Unserved::Failed(error))) => Some(error),
            (None, Some(Unserved::Stale)) => None,
            (None, Some(Unserved::Gone)) => {
                failover.connection_lost(&backend);
                None
            }
            // The hint was wrong, or the value is long.
            (None, Some(Unserved::Long) | None) => {
                if let Some(query) = read.whole_value() {
                    backend.type_hints.distrust(&query.key);
                }
                None
            }
        };
        if let Some(error) = error {
            failover.failed(&failover.past_attempt(backend, sent_at, None), error, Instant::now());
            read.lease = None;
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
