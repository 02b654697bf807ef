//! A read that goes from backend to backend until one has answered.
//!
//! A response can start again on another backend as long as the client has got no byte of it. So
//! [`ResponseWriter`] holds the first 64 KiB of a body, with its head. If the backend fails before
//! that is full, what it has said is thrown away, the client notices nothing, and the next backend
//! is asked. A longer body is sent while it is read. If the backend fails then, the connection is
//! cut, so that half a response is never taken for a whole one.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use super::browse::Frame;
use super::failed_read::no_backend_answered;
use super::local_response::LocalResponse;
use super::outcome::{ReadError, ReadOutcome};
use super::read::HttpRead;
use super::sent_response::{SentResponse, add_backend_headers, complete};
use crate::backend::{BackendError, Class, is_not_permitted};
use crate::balance::failover::{Attempt, Failover};
use crate::balance::slow::{LaneError, LaneOutcome, OpenRead, ReadInfo};
use crate::balance::{Balancer, Lease};
use crate::http::{ResponseWriter, Version};
use crate::logging::access_log::Event;
use crate::metrics::{BackendMetrics, Outcome};
use crate::session::client::{Client, ClientHandle};

/// How often a read starts again because the value changed while it was read.
const MAX_CHANGES: usize = 30;

/// Reads from the backend that has the fewest leases, and from others if it fails; sends the response.
pub(super) fn send_balanced(
    client: &mut Client,
    read: &mut HttpRead,
    failover: Failover,
) -> SentResponse {
    let balancer = client.balancer;
    // The end of the connection ends the body then: if it is cut, that must look like an error.
    let ends_with_connection = read.request.version != Version::Http11;
    if ends_with_connection {
        client.stream().reset_on_close(true);
    }
    let keep_alive = !balancer.is_draining();
    let balanced = BalancedRead {
        balancer,
        peer: client.handle(),
        first_lease: read.lease.take(),
        read,
        failover,
        response: ResponseWriter::new(&mut *client, &read.request, keep_alive, SystemTime::now),
        changes: 0,
        is_held: false,
    };
    let sent = balanced.run();
    if ends_with_connection && sent.as_ref().map_or(true, |sent| sent.cut.is_none()) {
        client.stream().reset_on_close(false);
    }
    sent.unwrap_or_else(|refusal| refusal.send_refusal(client, &read.request))
}

/// A lease of the backend that is tried, and the read's entry in the slow lane if it is not quick.
type Place = (Lease, Option<Arc<OpenRead>>);

struct BalancedRead<'a, 'c, 'r> {
    balancer: &'a Balancer,
    peer: ClientHandle<'c>,
    read: &'r HttpRead,
    failover: Failover<'a>,
    response: ResponseWriter<&'r mut Client<'c>>,
    /// The lease that was taken before, until an attempt has used it.
    first_lease: Option<Lease>,
    /// How often the value has changed while it was read.
    changes: usize,
    /// Whether `--demo-delay` has held the request.
    is_held: bool,
}

impl BalancedRead<'_, '_, '_> {
    /// Sends the response of the first backend that answers. Returns the response to be sent if no
    /// backend could answer, or the read is refused.
    fn run(mut self) -> Result<SentResponse, LocalResponse<'static>> {
        loop {
            self.failover.forgive();
            let Some((attempt, _lease)) = self.next_attempt()? else {
                // A backend that is up, but must not be read from in this database, is not waited for.
                match !self.refuses_while_up() && self.failover.wait() {
                    true => continue,
                    false => return Err(self.no_backend_answered()),
                }
            };
            match self.read_from(&attempt) {
                Ok(ReadOutcome::OtherBackend) => {
                    self.failover.pass_over(&attempt);
                    self.response.restart();
                }
                Err(ReadError::Backend(error)) if !self.response.is_sent() => {
                    self.response.restart();
                    self.prepare_retry(&attempt, error)?;
                }
                Ok(ReadOutcome::Written(digest)) => return Ok(self.finish(&attempt, Ok(digest))),
                Err(error) => return Ok(self.finish(&attempt, Err(error))),
            }
        }
    }

    /// Takes a lease for the next attempt; `None` if no backend is left, or no time.
    fn next_attempt(&mut self) -> Result<Option<(Attempt, Lease)>, LocalResponse<'static>> {
        let place = self.place().map_err(|why| LocalResponse::unavailable(why.to_string()))?;
        let Some((lease, open)) = place else { return Ok(None) };
        if !std::mem::replace(&mut self.is_held, true) {
            demo_delay(self.balancer);
        }
        let attempt = lease
            .backend()
            .and_then(|backend| self.failover.attempt(backend, open, Instant::now()));
        Ok(attempt.map(|attempt| (attempt, lease)))
    }

    /// Takes a lease of a backend that may be tried. A read that is not quick also gets its place in
    /// the slow lane.
    fn place(&mut self) -> Result<Option<Place>, LaneError> {
        let first = self.first_lease.take();
        let Self { balancer, failover, read, peer, .. } = &*self;
        let backends = balancer.backends();
        let serves = |backend| backends.get(backend).is_some_and(|backend| backend.serves_own());
        // A read that `--demo-delay` holds is no reason to keep others away.
        if failover.class() == Class::Quick || !balancer.config.demo_delay.is_zero() {
            let may_serve = |backend| failover.may_try(backend) && serves(backend);
            let lease = first.or_else(|| balancer.table.lease(Instant::now(), may_serve));
            return Ok(lease.map(|lease| (lease, None)));
        }
        let preferred = first.as_ref().and_then(Lease::backend);
        let info = ReadInfo {
            class: failover.class(),
            keys: read.key.into_iter().collect(),
            label: read.query.label(),
            is_alone: false,
            context: None,
        };
        match failover.begin(info, preferred, serves, || peer.is_gone()) {
            Ok(LaneOutcome::Open(open)) => {
                let backend = open.backend();
                let another = || balancer.table.lease(Instant::now(), |other| other == backend);
                let lease = first.filter(|_| preferred == Some(backend)).or_else(another);
                Ok(lease.map(|lease| (lease, Some(open))))
            }
            // Two requests never share a reply.
            Ok(LaneOutcome::Answered(_)) | Err(LaneError::NoBackend) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads from one backend and writes the response, all but its end.
    fn read_from(&mut self, attempt: &Attempt) -> Result<ReadOutcome, ReadError> {
        let (balancer, response) = (self.balancer, &mut self.response);
        let frame = Frame::new(&balancer.config);
        add_backend_headers(response, &attempt.backend);
        let max_stall = balancer.config.backend_timeout / 2;
        response.writer().held = Some((Arc::clone(attempt.backend.backend()), max_stall));
        let result = self.read.query.read_from(attempt, frame, response);
        response.writer().held = None;
        // A client that knows that the connection goes on may have sent its next request already.
        if balancer.is_draining() && !response.is_sent() {
            response.close();
        }
        // A long response to HEAD is complete with its head, whatever comes after.
        if matches!(result, Ok(ReadOutcome::Written(_))) || response.is_done() {
            let until = response.writer().answer_began().unwrap_or_else(Instant::now);
            let time = until.saturating_duration_since(attempt.began);
            self.complete(Some((&attempt.backend.metrics, time)), Outcome::Answered);
        }
        result
    }

    /// Notes a failed attempt. Returns the response to be sent if there must not be another.
    fn prepare_retry(
        &mut self,
        attempt: &Attempt,
        error: BackendError,
    ) -> Result<(), LocalResponse<'static>> {
        if error.is_change() && self.changes < MAX_CHANGES {
            self.changes += 1;
            return Ok(());
        }
        let refusal = error.refusal().map(str::to_owned);
        let refusal = refusal.filter(|refusal| attempt.backend.refuser().refuses(refusal));
        self.failover.failed(attempt, error, Instant::now());
        if let Some(refusal) = refusal {
            let status = if is_not_permitted(&refusal) { 403 } else { 503 };
            return Err(LocalResponse::error(status, refusal));
        }
        if self.failover.is_over() {
            let poisonous = self.failover.refusal().map(LocalResponse::unavailable);
            return Err(poisonous.unwrap_or_else(|| self.no_backend_answered()));
        }
        Ok(())
    }

    /// Sends the end of the response, unless it has to be cut.
    fn finish(mut self, attempt: &Attempt, digest: Result<Option<u64>, ReadError>) -> SentResponse {
        let finished = match digest {
            Ok(digest) => {
                let if_none_match = self.read.request.if_none_match.as_deref();
                let validators = digest.map(|digest| (digest, if_none_match));
                self.response.finish(validators).map_err(ReadError::Client)
            }
            Err(error) => {
                let is_complete = self.response.is_done();
                if let ReadError::Backend(error) = &error {
                    Failover::count_failure(attempt, error);
                    if !is_complete {
                        self.complete(None, Outcome::Cut);
                    }
                }
                if is_complete { Ok(()) } else { Err(error) }
            }
        };
        SentResponse {
            keep_alive: finished.is_ok() && self.response.keeps_alive(),
            cut: finished.err().map(|error| error.to_string()),
            ..SentResponse::from_backend(&attempt.backend, &self.response)
        }
    }

    fn complete(&mut self, answered_by: Option<(&BackendMetrics, Duration)>, outcome: Outcome) {
        let client = self.response.writer();
        let (address, bytes) = (client.address, client.answer_bytes);
        let target = self.read.request.target.as_bytes();
        complete(&self.balancer.metrics, address, target, answered_by, bytes, outcome);
    }

    /// Whether a backend that was not tried is up, but must not be read from in this database.
    fn refuses_while_up(&self) -> bool {
        let backends = self.balancer.backends();
        let mut left = backends.iter().filter(|backend| self.failover.may_try(backend.id));
        left.any(|backend| backend.health.refusal_while_up(backend.own_mode().database).is_some())
    }

    fn no_backend_answered(&self) -> LocalResponse<'static> {
        no_backend_answered(&self.read.query, &self.failover, self.balancer)
    }
}

/// Holds the first attempt for `--demo-delay`, with its lease, so that the table can be watched.
fn demo_delay(balancer: &Balancer) {
    let delay = balancer.config.demo_delay;
    if !delay.is_zero() {
        balancer.access_log.write(|| Event::Held { seconds: delay.as_secs_f64() });
        thread::sleep(delay);
    }
}
