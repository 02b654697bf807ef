//! One event for each command or request that is over, from which the counters and histograms come.

use std::net::SocketAddr;
use std::time::Duration;

use super::{BackendMetrics, Metrics, Refusal};
use crate::net::protocol::WireProtocol;

/// How a command or request ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Outcome {
    /// The client gets what it asked for.
    #[default]
    Answered,
    /// The client gets an error reply: the backend's, or ours to a command that it may send.
    ErrorReply,
    /// The client gets an error of ours instead of what it asked for.
    Refused(Refusal),
    /// The client gets nothing, and its connection is closed.
    Closed(Refusal),
    /// The reply broke off because of a backend.
    Cut,
}

/// A command or request that is over, or several of one client that were answered together.
#[derive(Debug)]
pub struct Completion<'a> {
    /// Address of the client.
    pub client: SocketAddr,
    /// Protocol of the client.
    pub protocol: WireProtocol,
    /// Name of the command, or target of the request. It is empty for commands that were answered
    /// together and for bytes that are no command.
    pub what: &'a [u8],
    /// Counters of the backend that answered; `None` for an answer of our own.
    pub backend: Option<&'a BackendMetrics>,
    /// Number of commands.
    pub count: u64,
    /// Length of the replies, as far as they are known when they are counted.
    pub bytes: u64,
    /// Time from the try on the backend that answered until its reply began.
    pub time: Duration,
    /// How it ended.
    pub outcome: Outcome,
}

impl Metrics {
    /// Counts commands or requests that are over. This comes before the client can have the reply, so
    /// that the counts agree with the client's own.
    pub fn complete(&self, completion: &Completion) {
        let Completion { protocol, count, outcome, .. } = *completion;
        match (outcome, completion.backend) {
            (Outcome::Cut, _) => self.cut.of(protocol).add(count),
            (Outcome::Closed(_), _) => {}
            (_, Some(backend)) => backend.answered.of(protocol).add(completion.time, count),
            (_, None) => self.answered_here.of(protocol).add(count),
        }
        match (outcome, completion.backend) {
            (Outcome::Refused(why) | Outcome::Closed(why), _) => {
                self.refused.of(protocol)[why as usize].add(count);
            }
            (Outcome::ErrorReply, Some(backend)) => backend.error_replies.add(count),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outcome_is_counted_where_it_belongs() {
        let why = Refusal::Write;
        let cases = [
            // Outcome, by a backend, [answered by it, its errors, answered here, refused, cut].
            (Outcome::Answered, true, [2, 0, 0, 0, 0]),
            (Outcome::Answered, false, [0, 0, 2, 0, 0]),
            (Outcome::ErrorReply, true, [2, 2, 0, 0, 0]),
            (Outcome::ErrorReply, false, [0, 0, 2, 0, 0]),
            (Outcome::Refused(why), true, [2, 0, 0, 2, 0]),
            (Outcome::Refused(why), false, [0, 0, 2, 2, 0]),
            (Outcome::Closed(why), false, [0, 0, 0, 2, 0]),
            (Outcome::Cut, true, [0, 0, 0, 0, 2]),
        ];
        for (outcome, is_by_backend, expected) in cases {
            let (metrics, backend) = (Metrics::default(), BackendMetrics::default());
            metrics.complete(&Completion {
                client: SocketAddr::from(([127, 0, 0, 1], 1)),
                protocol: WireProtocol::Resp,
                what: b"GET",
                backend: is_by_backend.then_some(&backend),
                count: 2,
                bytes: 10,
                time: Duration::from_millis(1),
                outcome,
            });
            let counted = [
                backend.answered.resp.count(),
                backend.error_replies.get(),
                metrics.answered_here.resp.get(),
                metrics.refused(WireProtocol::Resp, why),
                metrics.cut.resp.get(),
            ];
            assert_eq!(counted, expected, "{outcome:?}");
            assert_eq!(metrics.answered_here.http.get() + metrics.cut.http.get(), 0);
        }
    }
}
