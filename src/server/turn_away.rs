//! What clients over the limit are told.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::net::client_stream::ClientStream;
use crate::net::protocol::WireProtocol;

/// Longest time for one client over the limit to say what it speaks, and to be told so.
const TURN_AWAY_TIME: Duration = Duration::from_millis(20);

/// Room for what such a client says.
const RECEIVED_BYTES: usize = 1024;

const HTTP_FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    Content-Type: application/json; charset=utf-8\r\n\
    X-Content-Type-Options: nosniff\r\n\
    Content-Length: 51\r\n\
    Retry-After: 1\r\n\
    Connection: close\r\n\r\n\
    {\n  \"error\": \"too many clients: try again later\"\n}\n";
const RESP_FULL: &[u8] = b"-ERR max number of clients reached\r\n";

/// Queue of the thread that turns clients away.
#[derive(Clone)]
pub(super) struct TurnAway(SyncSender<ClientStream>);

impl TurnAway {
    /// Starts the thread, for which at most `queue` clients wait.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn start(queue: usize) -> io::Result<Self> {
        let (turned_away, waiting) = sync_channel(queue);
        let work = move || turn_all_away(&waiting);
        thread::Builder::new().name("full".to_owned()).spawn(work)?;
        Ok(Self(turned_away))
    }

    /// Leaves a client to the thread.
    ///
    /// When too many wait there, the client is told at once if it has said already what it speaks, which
    /// one that is still sending may miss; else it is closed.
    pub fn turn_away(&self, client: ClientStream) {
        if let Err(TrySendError::Full(client)) = self.0.try_send(client) {
            tell_full(&client, |received| client.read_now(received));
        }
    }
}

/// Tells clients that they are too many, one after the other, briefly.
fn turn_all_away(waiting: &Receiver<ClientStream>) {
    for client in waiting {
        tell_full(&client, |received| client.read(received, TURN_AWAY_TIME));
    }
}

/// Tells a client that there are too many, in the protocol that it speaks.
///
/// A client that has not said within [`TURN_AWAY_TIME`] what it speaks gets no answer: one in the wrong
/// protocol would be an error of its own, where the end of the connection is understood by all.
fn tell_full(client: &ClientStream, mut read: impl FnMut(&mut Vec<u8>) -> io::Result<usize>) {
    let deadline = Instant::now() + TURN_AWAY_TIME;
    let mut received = Vec::with_capacity(RECEIVED_BYTES);
    let Some(answer) = full_answer(&mut received, &mut read, deadline) else { return };
    // A new socket takes this at once. Whatever fails, the client is closed, which it understands.
    if client.send_last(answer).is_err() {
        return;
    }
    // Closed with unread bytes, the socket would be reset and the answer lost.
    loop {
        received.clear();
        if Instant::now() >= deadline || !matches!(read(&mut received), Ok(1..)) {
            return;
        }
    }
}

/// The answer to a client over the limit, by the first bytes that `read` brings; `None` when these do
/// not tell the protocol before `deadline`, or before a read fails.
fn full_answer(
    received: &mut Vec<u8>,
    mut read: impl FnMut(&mut Vec<u8>) -> io::Result<usize>,
    deadline: Instant,
) -> Option<&'static [u8]> {
    while matches!(read(received), Ok(1..)) {
        match WireProtocol::detect(received) {
            Some(WireProtocol::Resp) => return Some(RESP_FULL),
            Some(WireProtocol::Http) => return Some(HTTP_FULL),
            None if Instant::now() >= deadline => return None,
            None => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answer to a client that sends these pieces, then nothing more.
    fn answer_to(pieces: &[&str], deadline: Instant) -> Option<&'static [u8]> {
        let mut pieces = pieces.iter();
        let read = |received: &mut Vec<u8>| {
            let piece = pieces.next().ok_or(io::ErrorKind::WouldBlock)?;
            received.extend_from_slice(piece.as_bytes());
            Ok(piece.len())
        };
        full_answer(&mut Vec::new(), read, deadline)
    }

    #[test]
    fn a_client_over_the_limit_is_answered_in_its_protocol_or_not_at_all() {
        let later = Instant::now() + Duration::from_secs(60);
        let cases: [(&[&str], Option<&[u8]>); 9] = [
            (&["GET / HTTP/1.1\r\n"], Some(HTTP_FULL)),
            (&["GE", "T ", "/"], Some(HTTP_FULL)),
            (&["*1\r\n$4\r\nPING\r\n"], Some(RESP_FULL)),
            (&["*"], Some(RESP_FULL)),
            (&["GET", " key\r\n"], Some(RESP_FULL)),
            (&[], None),
            (&["GET"], None),
            (&["\r\n"], None),
            (&["", "*1\r\n"], None),
        ];
        for (pieces, answer) in cases {
            assert_eq!(answer_to(pieces, later), answer, "{pieces:?}");
        }
        assert_eq!(answer_to(&["GET", " /"], Instant::now()), None, "too late");
    }

    #[test]
    fn the_fixed_answer_has_the_length_that_it_names() {
        let text = std::str::from_utf8(HTTP_FULL).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("head and body");
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{text}");
        serde_json::from_str::<serde_json::Value>(body).expect("JSON");
    }
}
