//! Subscriptions: one connection to each backend carries those of all clients.
//!
//! A connection that has subscribed may carry channels, patterns and the channels of shards at once. So there is one for
//! all three kinds, which keeps the order between them: a client whose channel and pattern both match a message gets
//! both, in the order in which the server sends them. It speaks RESP2, which every server does; a message in RESP3
//! differs in its first byte.
//!
//! Subscribing ([`connection`]): each wish of a client is sent on, also for a channel that is carried already. The
//! server's confirmation shows that the connection lives, and its place among the messages says where the client's
//! begin: it gets none before its confirmation, and all after it. The last who leaves a channel ends it at the server.
//!
//! Messages ([`reader`]): the thread that reads the connection keeps each message once, puts it into the queue of each
//! subscriber, and then gives the sockets what they take at once. It waits for nobody. Those whose sockets are full are
//! served by another thread ([`slow`]), and cut off when they leave too much ([`queue`]). While a session's own thread
//! writes to its client, messages wait in the queue ([`subscriber`]).
//!
//! When the connection ends, so that messages may be lost, it wakes the threads of all its subscribers by a pipe that they
//! share ([`wake_pipe`]). Each subscribes anew, where its lease leads it. The reader ends it when the server has closed it,
//! is silent, or is to be left: [`Supervisor::subscribers_leave`](super::Supervisor::subscribers_leave).

mod connection;
mod message;
mod queue;
mod reader;
mod routes;
mod slow;
mod subscriber;
mod subscribers;
mod wake_pipe;

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use self::connection::Unsent;
pub use self::connection::{KINDS, NamesOfKind, Order, SubscriptionConnection};
use self::subscriber::Answer;
pub use self::subscriber::{Recipient, Subscriber};
pub use self::subscribers::{NamesShare, Subscribers};
use super::unable::check_answer;
use super::{Backend, BackendError, Class, WaitPolicy};
use crate::sync::lock;

/// Time between two looks whether to wait on for a confirmation. The thread that brings it wakes who waits.
const WAIT_STEP: Duration = Duration::from_millis(100);

/// Pause before an order is tried again that found too much waiting to be sent.
const FULL_PAUSE: Duration = Duration::from_millis(5);

/// What has become of an order.
pub enum Subscribed {
    /// It is carried by this connection, and the confirmations are in the subscriber's queue.
    By(Arc<SubscriptionConnection>),
    /// All servers that can be asked refuse it with this reply.
    Refused(Vec<u8>),
}

impl Backend {
    /// Subscribes here, on the connection that carries the subscriptions of all.
    ///
    /// # Errors
    /// When the server does not confirm it.
    pub fn subscribe(
        self: &Arc<Self>,
        order: &Arc<Order>,
        wait_policy: &WaitPolicy,
    ) -> Result<Subscribed, BackendError> {
        let mut may_be_stale = true;
        loop {
            let connection = self.subscriptions(order)?;
            let was_made = connection.is_made();
            match self.subscribe_on(&connection, order, wait_policy) {
                // It has ended before, or with what it carried, and not because of this.
                Err(BackendError::SubscriptionsLost(_)) if was_made && may_be_stale => {
                    may_be_stale = false;
                }
                subscribed => return subscribed,
            }
        }
    }

    /// Subscribes on this connection.
    ///
    /// # Errors
    /// When the server does not confirm it, or the connection has ended.
    pub fn subscribe_on(
        &self,
        connection: &Arc<SubscriptionConnection>,
        order: &Arc<Order>,
        wait_policy: &WaitPolicy,
    ) -> Result<Subscribed, BackendError> {
        let began = Instant::now();
        let request = loop {
            match connection.ask(order) {
                Ok(request) => break request,
                Err(Unsent::Over) => return Err(lost(connection.end().unwrap_or_default())),
                Err(Unsent::Full) if !self.may_wait(wait_policy, began)? => {
                    return Err(BackendError::TimedOut);
                }
                Err(Unsent::Full) => thread::sleep(FULL_PAUSE),
            }
        };
        let subscriber = &order.subscriber;
        let answer = loop {
            if let Some(answer) = subscriber.wait_for_answer(WAIT_STEP) {
                break answer;
            }
            let why = match self.may_wait(wait_policy, began) {
                Ok(true) => continue,
                Ok(false) => BackendError::TimedOut,
                Err(error) => error.into(),
            };
            if connection.take_back(&request) {
                return Err(why);
            }
        };
        match answer {
            Answer::Confirmed => Ok(Subscribed::By(Arc::clone(connection))),
            Answer::Ended(why) => Err(lost(&why)),
            Answer::Refused(reply) => {
                check_answer(&reply, &*self.timeouts.supervisor)?;
                Ok(Subscribed::Refused(reply))
            }
        }
    }

    /// Whether a confirmation is waited for any longer, as for a quick read.
    fn may_wait(&self, wait_policy: &WaitPolicy, began: Instant) -> io::Result<bool> {
        let supervisor = &self.timeouts.supervisor;
        let (silent, usual) = (began.elapsed(), self.timeouts.timeout());
        let is_in_time = wait_policy.left().is_none_or(|left| !left.is_zero());
        match wait_policy {
            WaitPolicy::Read { .. } if silent < usual && supervisor.is_up() => Ok(true),
            WaitPolicy::Read { .. } => supervisor.may_wait(Class::Quick, silent, usual),
            WaitPolicy::LastResort(_) => {
                Ok(is_in_time && supervisor.may_wait_as_last_resort(silent, silent >= usual)?)
            }
            WaitPolicy::Until(_) | WaitPolicy::Probe(_) => Ok(is_in_time),
        }
    }

    /// The connection that carries subscriptions, which is begun if there is none.
    fn subscriptions(
        self: &Arc<Self>,
        order: &Order,
    ) -> Result<Arc<SubscriptionConnection>, BackendError> {
        let mut current = lock(&self.subscriptions);
        if let Some(connection) = current.as_ref().filter(|connection| connection.end().is_none()) {
            return Ok(Arc::clone(connection));
        }
        let connection = Arc::new(SubscriptionConnection::new(&order.subscriber.subscribers));
        reader::start(self, &connection)?;
        *current = Some(Arc::clone(&connection));
        Ok(connection)
    }

    /// Takes note that a connection has ended.
    fn forget_subscriptions(&self, ended: &Arc<SubscriptionConnection>) {
        lock(&self.subscriptions).take_if(|current| Arc::ptr_eq(current, ended));
    }

    /// Wakes the threads of its subscribers: there is something that concerns all clients.
    pub fn wake_subscribers(&self) {
        let current = lock(&self.subscriptions).clone();
        if let Some(connection) = current {
            connection.wake();
        }
    }
}

fn lost(why: &str) -> BackendError {
    BackendError::SubscriptionsLost(why.to_owned())
}
