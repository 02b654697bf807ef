//! The conversation with a client of the Redis protocol: commands in, replies out, in order.

mod backlog;
mod batch;
mod client;
mod client_commands;
mod dispatch;
mod errors;
mod exec;
mod forward;
mod in_flight;
mod info;
mod local_commands;
mod local_reply;
mod memory;
mod names;
mod replies;
mod reply_writer;
mod scan;
mod script;
mod session;
mod shared_reads;
mod subscribe;
mod subscription;
mod transaction;
mod upstream;
mod watch;

use std::time::Instant;

use self::errors::SessionEnd;
use self::session::Session;
use crate::balance::Balancer;
use crate::logging::access_log::{self, Event};
use crate::metrics::Outcome;
use crate::session::client::Client;

/// Serves commands until the client or we have had enough. `input` holds what it said so far, and
/// began `since`.
pub fn converse(client: Client, input: Vec<u8>, since: Instant, balancer: &Balancer) {
    // Not on the stack, which takes whole pages.
    let mut session = Session::boxed(client, balancer);
    let Err(ended) = session.run(input, since);
    end(session, &ended, since, balancer);
}

/// Gives back what the session has, then notes its end.
#[inline(never)]
fn end(session: Box<Session>, ended: &SessionEnd, since: Instant, balancer: &Balancer) {
    let Session { commands, mut writer, upstream, subscriptions, in_flight, .. } = *session;
    let backend = upstream.backend().map(|backend| backend.name().to_owned());
    drop((upstream, subscriptions));
    if let SessionEnd::Cut(_) = ended {
        writer.complete(b"", None, 0, Outcome::Cut);
    }
    balancer.access_log.write(|| {
        Event::Session(access_log::Session {
            client: writer.client.address,
            commands,
            errors: writer.given.errors + in_flight.errors,
            backend,
            seconds: since.elapsed().as_secs_f64(),
            ended: ended.to_string(),
        })
    });
    if !matches!(ended, SessionEnd::Cut(_)) {
        writer.client.linger();
    }
}
