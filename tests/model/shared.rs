//! Models of what is sent on a shared connection, and of the replies that come from there.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use loom::thread;

use crate::lock::{Mutex, lock};
use crate::outbox::{Outbox, Progress, Replies, Sink};
use crate::pipeline::Pipeline;

/// What has been written, to a backend or a client.
struct Wire(Mutex<Vec<u8>>);

impl Wire {
    fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Vec::new())))
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        lock(&self.0).extend_from_slice(bytes);
        Ok(())
    }
}

impl Sink for Wire {
    fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        self.write(bytes).map(|()| bytes.len())
    }
}

/// The thread that reads replies: a backend answers each byte that it got, in order.
struct Reader {
    pipeline: Arc<Pipeline<u8>>,
    wire: Arc<Wire>,
    entries: VecDeque<u8>,
    answered: usize,
}

impl Reader {
    /// Takes the replies that are there.
    fn read(&mut self) {
        let asked = lock(&self.wire.0)[self.answered..].to_vec();
        if asked.is_empty() {
            return;
        }
        self.pipeline.take(&mut self.entries);
        for byte in &asked {
            assert_eq!(self.entries.pop_front().as_ref(), Some(byte), "another client's reply");
        }
        self.answered += asked.len();
        self.pipeline.answered(asked.len(), |bytes| self.wire.write(bytes)).expect("a wire");
    }
}

fn push(pipeline: &Pipeline<u8>, wire: &Wire, byte: u8) -> bool {
    pipeline.push(byte, &[byte], |bytes| wire.write(bytes)).expect("a wire")
}

pub fn sent_in_order() {
    let (pipeline, wire) = (Arc::new(Pipeline::new()), Wire::new());
    let clients = [1, 2].map(|byte| {
        let (pipeline, wire) = (Arc::clone(&pipeline), Arc::clone(&wire));
        thread::spawn(move || assert!(push(&pipeline, &wire, byte)))
    });
    let mut reader = Reader { pipeline, wire, entries: VecDeque::new(), answered: 0 };
    reader.read();
    clients.into_iter().for_each(|client| client.join().expect("no panic"));
    // A reply is to come as long as a byte waits.
    (0..2).for_each(|_| reader.read());
    assert_eq!(reader.answered, 2);
    assert!(reader.pipeline.is_idle());
}

pub fn pushed_while_closed() {
    let (pipeline, wire) = (Arc::new(Pipeline::new()), Wire::new());
    let client = {
        let (pipeline, wire) = (Arc::clone(&pipeline), Arc::clone(&wire));
        thread::spawn(move || push(&pipeline, &wire, 1))
    };
    pipeline.close();
    let mut told = VecDeque::new();
    pipeline.take(&mut told);
    let is_sent = client.join().expect("no panic");
    assert_eq!(told.len(), usize::from(is_sent));
}

fn one_reply() -> Replies<()> {
    Replies { answered: 1, ..Replies::default() }
}

pub fn taken_back_while_answered() {
    let client = Wire::new();
    let outbox = Arc::new(Outbox::new(Arc::clone(&client) as Arc<dyn Sink>));
    let (ticket, _) = outbox.expect(2).expect("nothing was sent before");
    let reader = {
        let outbox = Arc::clone(&outbox);
        thread::spawn(move || {
            outbox.deliver(ticket, b"a", &one_reply(), || {});
            outbox.deliver(ticket, b"b", &one_reply(), || {});
        })
    };
    let answered = outbox.take_back().answered;
    // The client's own thread goes on where the other has stopped.
    client.write(&b"ab"[answered..]).expect("a wire");
    reader.join().expect("no panic");
    assert_eq!(*lock(&client.0), b"ab");
}

pub fn awaited() {
    let client = Wire::new();
    let outbox = Arc::new(Outbox::new(Arc::clone(&client) as Arc<dyn Sink>));
    let (ticket, _) = outbox.expect(1).expect("nothing was sent before");
    let reader = {
        let outbox = Arc::clone(&outbox);
        thread::spawn(move || outbox.deliver(ticket, b"a", &one_reply(), || {}))
    };
    assert_eq!(outbox.wait(Duration::from_secs(1)), Progress::Done);
    assert_eq!(*lock(&client.0), b"a");
    reader.join().expect("no panic");
}
