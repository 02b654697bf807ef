//! Models of what is sent on a shared connection, and of the replies that come from there.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use loom::thread;

use crate::pipeline::Pipeline;
use crate::reply_router::{Progress, Replies, ReplyRouter, Sink};
use crate::sync::{Mutex, lock};

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
    fn new(pipeline: &Arc<Pipeline<u8>>, wire: &Arc<Wire>) -> Self {
        let (pipeline, wire) = (Arc::clone(pipeline), Arc::clone(wire));
        Self { pipeline, wire, entries: VecDeque::new(), answered: 0 }
    }

    /// Takes the replies that are there; returns how many.
    fn read(&mut self) -> usize {
        let asked = lock(&self.wire.0)[self.answered..].to_vec();
        for byte in &asked {
            assert_eq!(self.next_entry().as_ref(), Some(byte), "another client's reply");
        }
        self.answered += asked.len();
        asked.len()
    }

    /// Whose reply the next frame is.
    fn next_entry(&mut self) -> Option<u8> {
        if self.entries.is_empty() {
            self.pipeline.take_written(&mut self.entries);
        }
        self.entries.pop_front()
    }

    /// All that was read is given to the clients.
    fn go_on(&self, replies: usize) {
        if replies > 0 {
            self.pipeline.answered(replies, |bytes| self.wire.write(bytes)).expect("a wire");
        }
    }

    fn read_and_go_on(&mut self) {
        let replies = self.read();
        self.go_on(replies);
    }

    /// The connection ends; returns those who are told so.
    fn end(mut self) -> VecDeque<u8> {
        self.pipeline.close_and_take(&mut self.entries);
        self.entries
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
    let mut reader = Reader::new(&pipeline, &wire);
    reader.read_and_go_on();
    clients.into_iter().for_each(|client| client.join().expect("no panic"));
    // A reply is to come as long as a byte waits.
    (0..2).for_each(|_| reader.read_and_go_on());
    assert_eq!(reader.answered, 2);
    assert!(reader.pipeline.is_idle());
}

pub fn pushed_while_closed() {
    let (pipeline, wire) = (Arc::new(Pipeline::new()), Wire::new());
    let client = {
        let (pipeline, wire) = (Arc::clone(&pipeline), Arc::clone(&wire));
        thread::spawn(move || push(&pipeline, &wire, 1))
    };
    let mut told = VecDeque::new();
    pipeline.close_and_take(&mut told);
    let is_sent = client.join().expect("no panic");
    assert_eq!(told.len(), usize::from(is_sent));
}

/// Two clients that send a byte each; returns which of them could.
fn two_clients(
    pipeline: &Arc<Pipeline<u8>>,
    wire: &Arc<Wire>,
) -> [thread::JoinHandle<Option<u8>>; 2] {
    [1, 2].map(|byte| {
        let (pipeline, wire) = (Arc::clone(pipeline), Arc::clone(wire));
        thread::spawn(move || push(&pipeline, &wire, byte).then_some(byte))
    })
}

/// Each command that was sent is answered or told, once.
fn assert_all_served(
    clients: [thread::JoinHandle<Option<u8>>; 2],
    answered: &[u8],
    told: VecDeque<u8>,
) {
    let mut sent: Vec<u8> =
        clients.into_iter().filter_map(|client| client.join().expect("no panic")).collect();
    let mut served: Vec<u8> = answered.iter().copied().chain(told).collect();
    sent.sort_unstable();
    served.sort_unstable();
    assert_eq!(served, sent);
}

pub fn more_than_asked() {
    let (pipeline, wire) = (Arc::new(Pipeline::new()), Wire::new());
    let clients = two_clients(&pipeline, &wire);
    let mut reader = Reader::new(&pipeline, &wire);
    let replies = reader.read();
    if replies > 0 {
        // Another frame has come with the replies.
        assert_eq!(reader.next_entry(), None, "it is given to a client that was not sent");
    }
    let answered = lock(&wire.0)[..reader.answered].to_vec();
    let told = reader.end();
    assert_all_served(clients, &answered, told);
}

pub fn fewer_than_asked() {
    let (pipeline, wire) = (Arc::new(Pipeline::new()), Wire::new());
    let clients = two_clients(&pipeline, &wire);
    let mut reader = Reader::new(&pipeline, &wire);
    reader.read_and_go_on();
    // The end, or a frame that is no reply, comes in the place of the next.
    let answered = lock(&wire.0)[..reader.answered].to_vec();
    let told = reader.end();
    assert_all_served(clients, &answered, told);
    assert!(!push(&pipeline, &wire, 3), "nobody would tell");
}

fn one_reply() -> Replies {
    Replies { answered: 1, ..Replies::default() }
}

pub fn taken_back_while_answered() {
    let client = Wire::new();
    let router = Arc::new(ReplyRouter::<()>::new(Arc::clone(&client) as Arc<dyn Sink>));
    let (ticket, _) = router.expect(2).expect("nothing was sent before");
    let reader = {
        let router = Arc::clone(&router);
        thread::spawn(move || {
            router.deliver(ticket, b"a", &one_reply(), || {});
            router.deliver(ticket, b"b", &one_reply(), || {});
        })
    };
    let answered = router.take_back().0.answered;
    // The client's own thread goes on where the other has stopped.
    client.write(&b"ab"[answered..]).expect("a wire");
    reader.join().expect("no panic");
    assert_eq!(*lock(&client.0), b"ab");
}

pub fn awaited() {
    let client = Wire::new();
    let router = Arc::new(ReplyRouter::<()>::new(Arc::clone(&client) as Arc<dyn Sink>));
    let (ticket, _) = router.expect(1).expect("nothing was sent before");
    let reader = {
        let router = Arc::clone(&router);
        thread::spawn(move || router.deliver(ticket, b"a", &one_reply(), || {}))
    };
    assert_eq!(router.wait(Duration::from_secs(1)), Progress::Done);
    assert_eq!(*lock(&client.0), b"a");
    reader.join().expect("no panic");
}

pub fn awaited_in_vain() {
    let client = Wire::new();
    let router = Arc::new(ReplyRouter::new(Arc::clone(&client) as Arc<dyn Sink>));
    let (ticket, _) = router.expect(1).expect("nothing was sent before");
    let reader = {
        let router = Arc::clone(&router);
        thread::spawn(move || router.fail(ticket, ()).expect("somebody waits"))
    };
    assert_eq!(router.wait(Duration::from_secs(1)), Progress::Stopped);
    reader.join().expect("no panic");
    assert!(router.take_back().1.is_some());
    assert!(router.fail(ticket, ()).is_err(), "it was taken back");
}
