//! The session's side of what it has in flight on a shared connection.

use std::sync::Arc;
use std::time::Instant;

use super::errors::SessionEnd;
use super::in_flight::{Late, TakenBack};
use super::session::Session;
use crate::backend::BackendError;
use crate::backend::reply_router::Progress;
use crate::backend::shared::Unserved;
use crate::balance::failover::Failover;
use crate::health::Member;

impl Session<'_> {
    /// Sends the commands that are gathered on a shared connection; false when they have to go on one
    /// of the session's own.
    pub(super) fn send_shared(&mut self) -> Result<bool, SessionEnd> {
        let Some(mut backend) = self.usual_backend() else { return Ok(false) };
        if !self.in_flight.has_room(&self.batch, backend.id, self.mode) {
            if self.in_flight.is_begun() {
                self.wait_in_flight()?;
                // That may have failed over and met other commands: nothing is as it was.
                let Some(now) = self.usual_backend() else { return Ok(false) };
                backend = now;
            }
            let shared = backend.shared(self.mode);
            let Some(shared) = shared else { return Ok(false) };
            self.in_flight.set_connection(Arc::clone(&backend), shared);
        }
        // With the connection at hand: it leads to the server whose commands these are.
        let Self { balancer, writer, in_flight, batch, .. } = self;
        let commands_version = in_flight.connection().map(|(_, shared)| shared.commands_version());
        if commands_version != Some(backend.commands_version()) {
            in_flight.forget_connection();
            return Ok(false);
        }
        let Some(batch) = batch.as_plain(balancer.commands_version()) else { return Ok(false) };
        let is_sent = in_flight.send(batch, writer.client.socket, writer.client.address);
        if is_sent {
            balancer.retry_budget.deposit();
        }
        Ok(is_sent)
    }

    /// The backend to which what is gathered may go by a shared connection.
    fn usual_backend(&mut self) -> Option<Arc<Member>> {
        let Self { writer, upstream, in_flight, batch, subscriptions, .. } = self;
        let is_usual = writer.is_empty() && subscriptions.is_none() && in_flight.is_wanted(batch);
        if is_usual { upstream.usual_backend(writer.client.address) } else { None }
    }

    /// Whether replies may be on their way that this thread knows nothing of.
    pub(super) fn is_in_flight(&mut self) -> bool {
        self.in_flight.is_begun() && self.in_flight.progress() != Progress::Done
    }

    /// Waits until the client has all replies to what went by a shared connection.
    #[inline(never)]
    pub(super) fn wait_in_flight(&mut self) -> Result<(), SessionEnd> {
        while self.in_flight.is_begun() && self.in_flight.wait() != Progress::Done {
            self.recover_in_flight()?;
        }
        Ok(())
    }

    /// Sees to what went by a shared connection, where that does not go on by itself.
    #[inline(never)]
    pub(super) fn recover_in_flight(&mut self) -> Result<(), SessionEnd> {
        let failure = match self.in_flight.progress() {
            Progress::Done => return Ok(()),
            Progress::Stopped => None,
            Progress::UnderWay => match self.silence() {
                None => return Ok(()),
                silence => silence,
            },
        };
        let Some((backend, shared)) = self.in_flight.connection().cloned() else { return Ok(()) };
        let since = self.in_flight.since().unwrap_or_else(Instant::now);
        if failure.is_some() {
            backend.retire_shared(&shared);
        }
        let TakenBack { unsent, failure: unserved, mut batch } = self.in_flight.take_back();
        self.writer.out().extend_from_slice(&unsent);
        let is_gone = matches!(unserved, Some(Unserved::Gone));
        let failure = failure.or(match unserved {
            Some(Unserved::Failed(error)) => Some(error),
            _ => None,
        });
        let mut failover = Failover::resumed(self.balancer, batch.profile(), Instant::now());
        if is_gone {
            failover.connection_lost(&backend);
        }
        if let Some(error) = failure {
            batch.failed(&error);
            failover.failed(&failover.past_attempt(backend, since, None), error, Instant::now());
        }
        let batch = self.run_on(batch, Some(failover))?;
        if self.batch.is_empty() {
            // With what it has learned of the replies.
            self.batch = batch;
        }
        Ok(self.writer.deliver()?)
    }

    /// Reads that were expected to be quick, and were late, have to prove that they are.
    pub(super) fn record_late(&mut self) {
        let Some(Late { time, backend, sent_at, batch }) = self.in_flight.take_late() else {
            return;
        };
        let lane = &self.balancer.slow_lane;
        let keys = batch.read_info(false, self.mode.context(), self.balancer, &self.policy).keys;
        let keys: Vec<_> = keys.into_iter().filter(|key| !key.is_fast).collect();
        lane.record_late(backend.id, sent_at, &keys, time);
    }

    /// Why what went by a shared connection is not waited for any longer, if so.
    fn silence(&self) -> Option<BackendError> {
        let (backend, shared) = self.in_flight.connection()?;
        shared.silence(self.in_flight.since()?, backend.timeouts())
    }
}
