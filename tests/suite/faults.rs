//! What clients get when a backend fails at any byte of its replies, in any way: what they asked
//! for, in order; or, where some of a long reply was sent already, a connection that visibly ends
//! within it. Never anything else.

use std::io::{Read, Write};
use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::balancer::{Answer, Balancer};
use crate::support::observe::{connections, leases};
use crate::support::redis::RedisServer;
use crate::support::relay::{Fault, Relay, Rule};
use crate::support::resp::{RespClient, encode};
use crate::support::{seed, wait_until};

/// The values of a batch, in order. The last but two are nearly as long as a reply that is held
/// until it is whole; [`LONG`] is longer.
const SHAPES: [(Shape, usize); 8] = [
    (Shape::Text, 0),
    (Shape::Hash, 1),
    (Shape::Text, 100),
    (Shape::Hash, 3000),
    (Shape::Text, 100 * 1024),
    (Shape::Text, 16 * 1024),
    (Shape::Hash, 40_000),
    (Shape::Text, 65_000),
];

/// The place of the value whose reply is passed on in pieces.
const LONG: usize = 4;

/// What is surely held until it is whole.
const HELD_BYTES: usize = 60 * 1024;

/// The first line of a reply is not longer.
const FIRST_LINE_BYTES: usize = 16;

/// What a hash has in each field, in bytes.
const FIELD_BYTES: usize = 50;

/// How many keys there are for each place in a batch, each with a value of its own.
const KEYS_A_PLACE: usize = 20;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Shape {
    Text,
    Hash,
}

/// One key, and what is in it.
struct Value {
    key: String,
    text: String,
    shape: Shape,
}

impl Value {
    /// For one place in the batch. Each has other bytes, and so has each part of each.
    fn new(place: usize, number: usize) -> Self {
        let (shape, size) = SHAPES[place];
        let key = format!("value:{place}:{number}");
        let text: String = (0..)
            .flat_map(|n| format!("{place}:{number}:{n:030};").into_bytes())
            .take(size)
            .map(char::from)
            .collect();
        Self { key, text, shape }
    }

    fn fields(&self) -> impl Iterator<Item = (String, &str)> {
        let pieces = self.text.as_bytes().chunks(FIELD_BYTES);
        let pieces = pieces.map(|piece| std::str::from_utf8(piece).expect("ASCII"));
        pieces.enumerate().map(|(number, piece)| (format!("f{number}"), piece))
    }

    fn store(&self, pipe: &mut redis::Pipeline) {
        match self.shape {
            Shape::Text => pipe.set(&self.key, &self.text),
            Shape::Hash => pipe.hset_multiple(&self.key, &self.fields().collect::<Vec<_>>()),
        };
    }

    fn command(&self) -> Vec<u8> {
        let name = if self.shape == Shape::Text { "GET" } else { "HGETALL" };
        encode(&[name, &self.key])
    }

    fn reply(&self, form: Form) -> Vec<u8> {
        let bulk = |text: &str| format!("${}\r\n{text}\r\n", text.len());
        if self.shape == Shape::Text {
            return bulk(&self.text).into_bytes();
        }
        let count = self.fields().count();
        let head =
            if form == Form::Resp3 { format!("%{count}") } else { format!("*{}", 2 * count) };
        let fields = self.fields().map(|(name, piece)| bulk(&name) + &bulk(piece));
        format!("{head}\r\n{}", fields.collect::<String>()).into_bytes()
    }

    fn json(&self) -> serde_json::Value {
        match self.shape {
            Shape::Text => self.text.as_str().into(),
            Shape::Hash => {
                self.fields().map(|(name, piece)| (name, serde_json::Value::from(piece))).collect()
            }
        }
    }

    fn request(&self, rest: &str) -> String {
        format!("GET /{} {rest}\r\n\r\n", self.key)
    }

    /// Whether this answers the request for it, as far as it has come.
    fn is_answered_by(&self, answer: &Answer) -> bool {
        answer.status == 200 && answer.json() == self.json()
    }
}

/// How a client asks.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Form {
    /// A pipeline.
    Resp2,
    /// A pipeline.
    Resp3,
    /// A pipeline over HTTP/1.1.
    KeepAlive,
    /// Each value over an HTTP/1.1 connection of its own.
    NewConnection,
    /// The same over HTTP/1.0, where the end of the connection is the end of a long answer.
    OldHttp,
}

const FORMS: [Form; 5] =
    [Form::Resp2, Form::Resp3, Form::KeepAlive, Form::NewConnection, Form::OldHttp];

/// The place of a fault.
#[derive(Debug, Clone)]
struct Case {
    form: Form,
    /// The place in the batch of the value that is hit. Its key is no other case's.
    target: usize,
    number: usize,
    /// Bytes of the replies on one connection, up to the fault …
    at: usize,
    /// … and on the next backend's that is asked for what is not answered then.
    next_at: usize,
    /// Whether the client may have been given some of the long reply then.
    is_behind_held: bool,
}

impl Case {
    /// Before, within and behind each reply of a batch.
    fn all(form: Form, server: &RedisServer) -> Vec<Self> {
        let places = 0..SHAPES.len();
        match form {
            Form::Resp2 | Form::Resp3 => {
                places.flat_map(|place| Self::in_batch(form, place)).collect()
            }
            _ => places.flat_map(|place| Self::in_exchange(form, place, server)).collect(),
        }
    }

    /// All replies come on one connection.
    fn in_batch(form: Form, target: usize) -> Vec<Self> {
        let lengths: Vec<_> =
            (0..SHAPES.len()).map(|place| Value::new(place, 0).reply(form).len()).collect();
        let before = |place| lengths[..place].iter().sum::<usize>();
        let case = |(number, offset)| {
            let at = before(target) + offset;
            let is_behind_held = at > before(LONG) + HELD_BYTES;
            Self { form, target, number, at, next_at: offset, is_behind_held }
        };
        places_within(lengths[target]).into_iter().enumerate().map(case).collect()
    }

    /// What is asked first is the type and size of the value; a long one is asked for twice.
    fn in_exchange(form: Form, target: usize, server: &RedisServer) -> Vec<Self> {
        let length = Value::new(target, 0).reply(Form::Resp2).len();
        let case = |(number, (first, offset, is_behind_held))| {
            let at = first + offset;
            Self { form, target, number, at, next_at: at, is_behind_held }
        };
        let look = look_lengths(server, &Value::new(target, 0));
        let in_look = [0, 1, look.start, look.start + 1, look.end - 1].map(|at| (0, at, false));
        let in_reply = places_within(length).into_iter().map(|at| (look.end, at, false));
        let again = places_within(length).into_iter();
        let again = again.map(|at| (look.end + length, at, at > HELD_BYTES));
        let again = again.filter(|_| target == LONG);
        in_look.into_iter().chain(in_reply).chain(again).enumerate().map(case).collect()
    }

    fn value(&self) -> Value {
        Value::new(self.target, self.number)
    }

    /// All that is asked for.
    fn batch(&self) -> Vec<Value> {
        let number = |place| if place == self.target { self.number } else { KEYS_A_PLACE };
        (0..SHAPES.len()).map(|place| Value::new(place, number(place))).collect()
    }

    fn rule(&self, fault: Fault, times: usize) -> Rule {
        let rule = Rule::new(fault).asked(format!("{}\r\n", self.value().key)).times(times);
        rule.after(self.at).after(self.next_at)
    }

    /// Asks, and checks what comes.
    fn check(&self, lb: &Balancer, fault: Fault) {
        let what = format!("{fault:?} {self:?}");
        match self.form {
            Form::Resp2 | Form::Resp3 => self.check_pipeline(lb, fault, &what),
            Form::KeepAlive => self.check_answers(lb, &what),
            Form::NewConnection | Form::OldHttp => {
                let next = Value::new((self.target + 1) % SHAPES.len(), KEYS_A_PLACE);
                self.check_answer(lb, &self.value(), self.is_behind_held, &what);
                self.check_answer(lb, &next, false, &what);
            }
        }
    }

    fn check_pipeline(&self, lb: &Balancer, fault: Fault, what: &str) {
        let mut client = RespClient::connect(lb.port());
        if self.form == Form::Resp3 {
            client.call("HELLO 3");
        }
        let batch = self.batch();
        let asked: Vec<u8> = batch.iter().flat_map(Value::command).collect();
        client.send_raw([asked, encode(&["PING"])].concat());
        let came = client.rest();
        let mut replies: Vec<_> = batch.iter().map(|value| value.reply(self.form)).collect();
        replies.push(b"+PONG\r\n".to_vec());
        let (expected, end_of_long) = (replies.concat(), replies[..=LONG].concat().len());
        if came == expected {
            return;
        }
        let may_be_cut = match fault {
            // It takes what was sent before it, and not received yet, with it.
            Fault::Reset => self.is_behind_held,
            // Within a value it can't be told from that before the value's end.
            Fault::Garbage => self.target == LONG && self.next_at > FIRST_LINE_BYTES,
            _ => self.target == LONG && self.is_behind_held,
        };
        let is_known = if fault == Fault::Garbage { self.at } else { usize::MAX }.min(came.len());
        let (shown, from) = shown(&came, &expected);
        assert!(
            may_be_cut && came.len() < end_of_long && expected.starts_with(&came[..is_known]),
            "{what}: {} of {} bytes, wrong from {from}: {shown}",
            came.len(),
            expected.len(),
        );
    }

    fn check_answers(&self, lb: &Balancer, what: &str) {
        let batch = self.batch();
        let (last, first) = batch.split_last().expect("values");
        let first = first.iter().map(|value| value.request("HTTP/1.1\r\nHost: localhost"));
        let last = last.request("HTTP/1.1\r\nHost: localhost\r\nConnection: close");
        let came = lb.talk((first.collect::<String>() + &last).as_bytes());
        let answers = answers(&came);
        for (place, (value, answer)) in batch.iter().zip(&answers).enumerate() {
            if place == self.target && self.is_behind_held && !answer.is_whole {
                assert_eq!(answers.len(), place + 1, "{what}: more came behind what was cut off");
                return;
            }
            assert!(answer.is_whole, "{what}: {place} is cut off");
            assert!(value.is_answered_by(answer), "{what}: {place}: {}", brief(answer));
        }
        assert_eq!(answers.len(), batch.len(), "{what}: answers");
    }

    fn check_answer(&self, lb: &Balancer, value: &Value, may_be_cut: bool, what: &str) {
        let is_old = self.form == Form::OldHttp;
        let rest =
            if is_old { "HTTP/1.0" } else { "HTTP/1.1\r\nHost: localhost\r\nConnection: close" };
        let mut stream = lb.connect();
        stream.write_all(value.request(rest).as_bytes()).expect("lb reads");
        let mut came = Vec::new();
        let ended = stream.read_to_end(&mut came);
        let has_head = came.windows(4).any(|window| window == b"\r\n\r\n");
        let answer = has_head.then(|| Answer::parse(&came));
        // The end of the connection must not look like that of the answer.
        let is_whole = |answer: &&Answer| {
            answer.is_whole
                || (is_old && ended.is_ok() && answer.header("content-length").is_none())
        };
        match answer.as_ref().filter(is_whole) {
            Some(answer) => {
                assert!(value.is_answered_by(answer), "{what}: {}: {}", value.key, brief(answer));
            }
            None => assert!(may_be_cut, "{what}: {} is cut off: {ended:?}", value.key),
        }
    }
}

/// In a reply: before it, behind its first byte, within its first line, within what follows, long
/// behind its beginning, and before its last byte.
fn places_within(length: usize) -> Vec<usize> {
    let mut places = vec![0, 1, 2, length / 2, length / 10 * 9, length - 1];
    places.dedup();
    places
}

/// How long the replies are to the look at a value over HTTP: to TYPE, and both.
fn look_lengths(server: &RedisServer, value: &Value) -> Range<usize> {
    let mut direct = RespClient::connect(server.port());
    let kind = direct.call(&format!("TYPE {}", value.key)).len();
    kind..kind + direct.call(&format!("MEMORY USAGE {} SAMPLES 1", value.key)).len()
}

/// The answers that came one behind the other; the last may be cut off.
fn answers(mut bytes: &[u8]) -> Vec<Answer> {
    let mut answers = Vec::new();
    while let Some(head) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
        let body = &bytes[head + 4..];
        let announced = Answer::parse(&bytes[..head + 4]);
        let length = match announced.header("content-length") {
            Some(length) => length.parse().expect("a length"),
            // No value has this in it.
            None => body
                .windows(7)
                .position(|end| end == b"\r\n0\r\n\r\n")
                .map_or(body.len(), |at| at + 7),
        };
        let (answer, rest) = bytes.split_at(head + 4 + length.min(body.len()));
        answers.push(Answer::parse(answer));
        bytes = rest;
    }
    answers
}

fn brief(answer: &Answer) -> String {
    let body = String::from_utf8_lossy(&answer.body);
    let words: Vec<_> = body.split_whitespace().collect();
    format!("{} {} bytes {:.400}", answer.status, body.len(), words.join(" "))
}

/// Where bytes begin to be others than the expected ones, and what is there.
fn shown(came: &[u8], expected: &[u8]) -> (String, usize) {
    let same = came.iter().zip(expected).take_while(|(came, expected)| came == expected).count();
    let from = same.saturating_sub(10);
    (came[from..came.len().min(same + 400)].escape_ascii().to_string(), same)
}

/// Servers with all values.
fn filled<const COUNT: usize>() -> [RedisServer; COUNT] {
    // HGETALL has the fields in the order in which they were written, on each.
    let in_order = ["--hash-max-listpack-entries", "10000"];
    let servers = [(); COUNT].map(|()| RedisServer::start_with(&in_order));
    let mut pipe = redis::pipe();
    for place in 0..SHAPES.len() {
        (0..=KEYS_A_PLACE).for_each(|number| Value::new(place, number).store(&mut pipe));
    }
    servers.iter().for_each(|server| {
        pipe.exec(&mut server.connect()).expect("the server takes them");
    });
    servers
}

/// Each of three servers is behind a relay. A read meets the fault on the first `times` backends
/// that it asks, whichever these are; the others are good.
fn assert_right_wherever_it_happens(faults: &[Fault], times: usize, arguments: &[&str]) {
    let servers: [_; 3] = filled();
    let relays = servers.each_ref().map(Relay::start);
    let lb = Balancer::start_at(&relays.each_ref().map(Relay::address), arguments);
    for form in FORMS {
        let cases = Case::all(form, &servers[0]);
        for &fault in faults {
            let rules: Vec<_> = cases.iter().map(|case| case.rule(fault, times)).collect();
            for relay in &relays {
                relay.clear();
                rules.iter().for_each(|rule| relay.add(rule));
            }
            // All at the same time, so that they also meet the connections that others have left.
            thread::scope(|scope| {
                for case in &cases {
                    scope.spawn(|| case.check(&lb, fault));
                }
            });
            for (case, rule) in cases.iter().zip(&rules) {
                assert!(rule.happened() > 0, "{fault:?} did not happen: {case:?}");
            }
        }
    }
}

#[test]
fn a_backend_that_breaks_off_at_any_byte_costs_no_reply() {
    assert_right_wherever_it_happens(&[Fault::Reset, Fault::Close], 2, &[]);
}

#[test]
fn a_backend_that_goes_silent_at_any_byte_costs_no_reply() {
    assert_right_wherever_it_happens(&[Fault::Silence], 1, &["--backend-timeout", "300ms"]);
}

#[test]
fn bytes_that_are_no_reply_never_reach_a_client_as_one() {
    assert_right_wherever_it_happens(&[Fault::Garbage], 2, &[]);
}

#[test]
fn replies_that_come_slowly_or_in_small_pieces_are_the_same() {
    let latency = Fault::Latency(Duration::from_millis(2));
    let faults = [latency, Fault::Bandwidth(2_000_000), Fault::Slices(100)];
    assert_right_wherever_it_happens(&faults, usize::MAX, &[]);
}
