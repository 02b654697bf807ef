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
use crate::support::relay::{Fault, GARBAGE, Relay, Rule};
use crate::support::resp::{RespClient, encode};
use crate::support::{seed, wait_until};

/// The values of a batch, in order. The last but two are nearly as long as a reply that is held
/// until it is whole; [`LONG`] is longer.
const SHAPES: [(Shape, usize); 8] = [
    (Shape::Text, 0),
    (Shape::Hash, 1),
    (Shape::Text, 100),
    (Shape::Hash, 3000),
    (Shape::Text, 160 * 1024),
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

/// The number of the one that stands beside a value that is hit. It is short.
const NEIGHBOUR: usize = KEYS_A_PLACE;

/// What a neighbour has at most, in bytes.
const NEIGHBOUR_BYTES: usize = 4096;

/// The number of one that is so long that its like are looked at before they are read over HTTP, for
/// the next thousand reads.
const DETERRENT: usize = NEIGHBOUR + 1;

/// What it has in bytes.
const DETERRENT_BYTES: usize = 20 * 1024;

/// The backend timeout where silence is waited for. Good servers must answer within it, too.
const SHORT_TIMEOUT: &str = "500ms";

/// The backend timeout where nobody should have to wait, however busy the computer is.
const LONG_TIMEOUT: &str = "10s";

#[derive(Debug, Clone, Copy, PartialEq)]
enum Shape {
    Text,
    Hash,
}

/// One key, and what is in it.
struct Value {
    place: usize,
    key: String,
    text: String,
    shape: Shape,
}

impl Value {
    /// For one place in the batch. Each has other bytes, and so has each part of each.
    fn new(place: usize, number: usize) -> Self {
        let (shape, size) = SHAPES[place];
        let size = match number {
            NEIGHBOUR => size.min(NEIGHBOUR_BYTES),
            DETERRENT => DETERRENT_BYTES,
            _ => size,
        };
        let key = format!("value:{place}:{number}");
        let text: String = (0..)
            .flat_map(|n| format!("{place}:{number}:{n:030};").into_bytes())
            .take(size)
            .map(char::from)
            .collect();
        Self { place, key, text, shape }
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

    fn is_long(&self) -> bool {
        self.place == LONG
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

impl Form {
    fn is_pipeline(self) -> bool {
        matches!(self, Self::Resp2 | Self::Resp3 | Self::KeepAlive)
    }

    /// Whether all replies come on one connection of a backend.
    fn is_batch(self) -> bool {
        matches!(self, Self::Resp2 | Self::Resp3)
    }
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
    /// Whether the client may have been given some of the value then.
    is_behind_held: bool,
}

impl Case {
    /// Before, within and after each reply of a batch.
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
        let before = (0..target).map(|place| Value::new(place, NEIGHBOUR).reply(form).len());
        let (before, length) = (before.sum::<usize>(), Value::new(target, 0).reply(form).len());
        let case = |(number, offset)| {
            let is_behind_held = target == LONG && offset > HELD_BYTES;
            Self { form, target, number, at: before + offset, next_at: offset, is_behind_held }
        };
        places_within(length).into_iter().enumerate().map(case).collect()
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
        let number = |place| if place == self.target { self.number } else { NEIGHBOUR };
        (0..SHAPES.len()).map(|place| Value::new(place, number(place))).collect()
    }

    fn rule(&self, fault: Fault, times: usize) -> Rule {
        let rule = Rule::new(fault).asked(format!("{}\r\n", self.value().key)).times(times);
        rule.after(self.at).after(self.next_at)
    }

    /// Asks, and checks what comes.
    fn check(&self, lb: &Balancer, fault: Fault) {
        let values = if self.form.is_pipeline() {
            self.batch()
        } else {
            vec![self.value(), Value::new((self.target + 1) % SHAPES.len(), NEIGHBOUR)]
        };
        // Garbage within a value can't be told from that before the value's end.
        let is_hidden =
            self.form.is_batch() && fault == Fault::Garbage && self.next_at > FIRST_LINE_BYTES;
        let may_be_cut = self.is_behind_held || (self.target == LONG && is_hidden);
        match converse(lb, self.form, &values) {
            Outcome::Right => {}
            Outcome::CutOff(place) if may_be_cut && values[place].is_long() => {}
            Outcome::CutOff(place) => {
                panic!("{fault:?} {self:?}: {} is cut off", values[place].key)
            }
            Outcome::Told(what) | Outcome::Wrong(what) => panic!("{fault:?} {self:?}: {what}"),
        }
    }
}

/// What a client has got.
#[derive(Debug)]
enum Outcome {
    /// All values.
    Right,
    /// Values, and errors that say that no backend could answer.
    Told(String),
    /// Values, and errors; the one in this place breaks off, visibly, and nothing follows.
    CutOff(usize),
    /// Anything else.
    Wrong(String),
}

/// Asks for values, and looks at all that comes.
fn converse(lb: &Balancer, form: Form, values: &[Value]) -> Outcome {
    match form {
        Form::Resp2 | Form::Resp3 => {
            let mut client = RespClient::connect(lb.port());
            let hello = (form == Form::Resp3).then(|| client.call("HELLO 3"));
            if let Some(error) = hello.filter(|reply| reply.starts_with('-')) {
                return Outcome::Told(error);
            }
            let asked = values.iter().flat_map(Value::command);
            client.send_raw(asked.chain(encode(&["PING"])).collect::<Vec<_>>());
            judge_replies(form, values, &client.rest())
        }
        Form::KeepAlive => converse_over_http(lb, "HTTP/1.1", values),
        Form::NewConnection | Form::OldHttp => {
            let version = if form == Form::OldHttp { "HTTP/1.0" } else { "HTTP/1.1" };
            let one_by_one = values.chunks(1).enumerate();
            let outcomes =
                one_by_one.map(|(place, value)| match converse_over_http(lb, version, value) {
                    Outcome::CutOff(_) => Outcome::CutOff(place),
                    outcome => outcome,
                });
            outcomes
                .into_iter()
                .find(|outcome| !matches!(outcome, Outcome::Right))
                .unwrap_or(Outcome::Right)
        }
    }
}

fn judge_replies(form: Form, values: &[Value], came: &[u8]) -> Outcome {
    let (mut rest, mut error) = (came, None);
    for (place, value) in values.iter().enumerate() {
        let reply = value.reply(form);
        if let Some(behind) = rest.strip_prefix(&reply[..]) {
            rest = behind;
            continue;
        }
        let line_end = rest.windows(2).position(|end| end == b"\r\n").map_or(0, |at| at + 2);
        if rest.starts_with(b"-ERR no backend could answer: ") && line_end > 0 {
            error.get_or_insert_with(|| String::from_utf8_lossy(&rest[..line_end]).into_owned());
            rest = &rest[line_end..];
            continue;
        }
        let same = rest.iter().zip(&reply).take_while(|(came, right)| came == right).count();
        if rest.len() < reply.len() && rest[same..].iter().all(|byte| GARBAGE.contains(byte)) {
            return Outcome::CutOff(place);
        }
        let shown = &rest[same.saturating_sub(10)..rest.len().min(same + 400)];
        return Outcome::Wrong(format!("{}: {}", value.key, shown.escape_ascii()));
    }
    match (rest, error) {
        (b"+PONG\r\n", None) => Outcome::Right,
        (b"+PONG\r\n", Some(error)) => Outcome::Told(error),
        _ => Outcome::Wrong(format!("at the end: {}", rest.escape_ascii())),
    }
}

/// All on one connection.
fn converse_over_http(lb: &Balancer, version: &str, values: &[Value]) -> Outcome {
    let mut asked = String::new();
    for (place, value) in values.iter().enumerate() {
        let end = if place == values.len() - 1 { "Connection: close\r\n\r\n" } else { "\r\n" };
        asked.push_str(&format!("GET /{} {version}\r\nHost: localhost\r\n{end}", value.key));
    }
    let mut stream = lb.connect();
    stream.write_all(asked.as_bytes()).expect("lb reads");
    let mut came = Vec::new();
    let is_reset = stream.read_to_end(&mut came).is_err();
    let answers = answers(&came, is_reset);
    let mut error = None;
    for (place, (value, answer)) in values.iter().zip(&answers).enumerate() {
        match answer {
            _ if !answer.is_whole && answers.len() == place + 1 => return Outcome::CutOff(place),
            _ if answer.is_whole && answer.status == 200 && answer.json() == value.json() => {}
            _ if answer.is_whole && [503, 504].contains(&answer.status) => {
                error.get_or_insert_with(|| brief(answer));
            }
            _ => return Outcome::Wrong(format!("{}: {}", value.key, brief(answer))),
        }
    }
    match error {
        _ if answers.len() < values.len() => Outcome::CutOff(answers.len()),
        Some(error) => Outcome::Told(error),
        None => Outcome::Right,
    }
}

/// In a reply: before it, after its first byte, within its first line, within what follows, long
/// after its beginning, and before its last byte.
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

/// The answers that came one after the other; the last may be cut off.
fn answers(mut bytes: &[u8], is_reset: bool) -> Vec<Answer> {
    let mut answers = Vec::new();
    while let Some(head) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
        let body = &bytes[head + 4..];
        let announced = Answer::parse(&bytes[..head + 4]);
        let length =
            announced.header("content-length").map(|length| length.parse().expect("a length"));
        let is_chunked = announced.header("transfer-encoding").is_some();
        let length = length.or_else(|| {
            // No value has this in it.
            let end = body.windows(7).position(|end| end == b"\r\n0\r\n\r\n");
            end.filter(|_| is_chunked).map(|at| at + 7)
        });
        let (answer, rest) =
            bytes.split_at(head + 4 + length.unwrap_or(usize::MAX).min(body.len()));
        let mut answer = Answer::parse(answer);
        // It ends with its connection, where nothing else says where.
        answer.is_whole |= length.is_none() && !is_chunked && !is_reset;
        answers.push(answer);
        bytes = rest;
    }
    answers
}

fn brief(answer: &Answer) -> String {
    let body = String::from_utf8_lossy(&answer.body);
    let words: Vec<_> = body.split_whitespace().collect();
    format!("{} {} bytes {:.400}", answer.status, body.len(), words.join(" "))
}

/// Servers with all values.
fn filled<const COUNT: usize>() -> [RedisServer; COUNT] {
    // HGETALL has the fields in the order in which they were written, on each.
    let in_order = ["--hash-max-listpack-entries", "10000"];
    let servers = [(); COUNT].map(|()| RedisServer::start_with(&in_order));
    let mut pipe = redis::pipe();
    for place in 0..SHAPES.len() {
        (0..=DETERRENT).for_each(|number| Value::new(place, number).store(&mut pipe));
    }
    servers.iter().for_each(|server| {
        pipe.exec(&mut server.connect()).expect("the server takes them");
    });
    servers
}

/// Each of three servers is behind a relay. A read meets the fault on the first `times` backends
/// that it asks, whichever these are; the others are good.
fn assert_right_wherever_it_happens(faults: &[Fault], times: usize, timeout: &str) {
    let servers: [_; 3] = filled();
    let relays = servers.each_ref().map(Relay::start);
    let lb =
        Balancer::start_at(&relays.each_ref().map(Relay::address), &["--backend-timeout", timeout]);
    for form in FORMS {
        let cases = Case::all(form, &servers[0]);
        look_before_reading(&lb);
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

/// No value is read over HTTP on a shared connection for a while (`quick` has that).
fn look_before_reading(lb: &Balancer) {
    for place in 0..SHAPES.len() {
        let value = Value::new(place, DETERRENT);
        // Each of the three backends has its turn.
        for _ in 0..3 {
            assert_eq!(lb.get(&format!("/{}", value.key)).json(), value.json());
        }
    }
}

#[test]
fn a_backend_that_breaks_off_at_any_byte_costs_no_reply() {
    assert_right_wherever_it_happens(&[Fault::Reset, Fault::Close], 2, LONG_TIMEOUT);
}

#[test]
fn a_backend_that_goes_silent_at_any_byte_costs_no_reply() {
    assert_right_wherever_it_happens(&[Fault::Silence], 1, SHORT_TIMEOUT);
}

#[test]
fn bytes_that_are_no_reply_never_reach_a_client_as_one() {
    assert_right_wherever_it_happens(&[Fault::Garbage], 2, LONG_TIMEOUT);
}

#[test]
fn replies_that_come_slowly_or_in_small_pieces_are_the_same() {
    let latency = Fault::Latency(Duration::from_millis(2));
    let faults = [latency, Fault::Bandwidth(2_000_000), Fault::Slices(100)];
    assert_right_wherever_it_happens(&faults, usize::MAX, LONG_TIMEOUT);
}

/// In every form, several clients at the same time.
fn assert_reads_are_right(lb: &Balancer, when: &str) {
    thread::scope(|scope| {
        for form in FORMS.repeat(2) {
            scope.spawn(move || {
                let count = if form.is_pipeline() { 3 } else { 1 };
                let values: Vec<_> = (0..count).map(|place| Value::new(place, 0)).collect();
                let outcome = converse(lb, form, &values);
                assert!(matches!(outcome, Outcome::Right), "{when}: {form:?}: {outcome:?}");
            });
        }
    });
}

#[test]
fn backends_that_accept_no_connections_cost_no_reply() {
    let servers: [_; 3] = filled();
    let relays = [0, 1].map(|number| Relay::start(&servers[number]));
    let [first, second] = relays.each_ref().map(Relay::address);
    let lb = Balancer::start_at(&[first, servers[2].address(), second], &[]);
    assert_reads_are_right(&lb, "all are good");
    for relay in &relays {
        relay.refuse();
        assert_reads_are_right(&lb, "new connections are refused");
        relay.reset_all();
        assert_reads_are_right(&lb, "all connections are gone");
    }
    for relay in &relays {
        relay.listen();
        relay.add(&Rule::new(Fault::Refuse));
    }
    let faults = || relays.each_ref().map(Relay::faults);
    wait_until("connections are closed when they are accepted", || {
        assert_reads_are_right(&lb, "connections are closed when they are accepted");
        !faults().contains(&0)
    });
    relays.iter().for_each(Relay::clear);
    assert_reads_are_right(&lb, "they are back");
}

#[test]
fn backends_that_fail_before_they_are_asked_for_a_value_cost_no_reply() {
    let servers: [_; 3] = filled();
    thread::scope(|scope| {
        for word in ["INFO", "COMMAND", "HELLO"] {
            let servers = &servers;
            scope.spawn(move || {
                for fault in [Fault::Reset, Fault::Close, Fault::Silence, Fault::Garbage] {
                    // Before the reply, in its first line, and within it.
                    [0, 1, 60].into_iter().for_each(|at| fail_at_setup(servers, fault, word, at));
                }
            });
        }
    });
}

fn fail_at_setup(servers: &[RedisServer; 3], fault: Fault, word: &str, at: usize) {
    let rule = Rule::new(fault).asked(word).after(at);
    let relays = [0, 1].map(|number| Relay::start(&servers[number]));
    // The second silence that a read meets may take long.
    let bad = if fault == Fault::Silence { &relays[..1] } else { &relays[..] };
    bad.iter().for_each(|relay| relay.add(&rule));
    let [first, second] = relays.each_ref().map(Relay::address);
    let backends = [first, servers[2].address(), second];
    let timeout = if fault == Fault::Silence { SHORT_TIMEOUT } else { LONG_TIMEOUT };
    let lb = Balancer::start_at(&backends, &["--backend-timeout", timeout]);
    let what = format!("{fault:?} in {word} at {at}");
    wait_until(&what, || {
        assert_reads_are_right(&lb, &what);
        rule.happened() > 0
    });
}

/// Faults of every kind, at every time, on all backends: a client may get an error.
fn add_all_faults(relay: &Relay) {
    let anywhere = |fault| Rule::new(fault).asked("value:").within(0..20_000);
    for rule in [
        anywhere(Fault::Reset).with_probability(0.2),
        anywhere(Fault::Close).with_probability(0.2),
        anywhere(Fault::Garbage).with_probability(0.2),
        anywhere(Fault::Slices(100)).with_probability(0.05),
        anywhere(Fault::Latency(Duration::from_millis(1))).with_probability(0.05),
        anywhere(Fault::Bandwidth(10_000_000)).with_probability(0.05),
        Rule::new(Fault::Reset).asked("INFO").within(0..2000).with_probability(0.02),
        Rule::new(Fault::Garbage).asked("HELLO").within(0..100).with_probability(0.05),
        Rule::new(Fault::Refuse).with_probability(0.05),
    ] {
        relay.add(&rule);
    }
}

/// One client's conversation.
fn read_through_faults(lb: &Balancer, random: &mut fastrand::Rng) {
    let form = FORMS[random.usize(0..FORMS.len())];
    let short = [0, 1, 2, 3, 5];
    let mut value = || {
        let place = match random.u8(0..20) {
            0 => random.usize(0..SHAPES.len()),
            _ => short[random.usize(0..short.len())],
        };
        Value::new(place, random.usize(0..KEYS_A_PLACE))
    };
    let mut values: Vec<_> = (0..8).map(|_| value()).collect();
    values.truncate(random.usize(1..9));
    // Some clients don't wait for what they have asked for.
    if random.u8(0..20) == 0 {
        let asked: Vec<_> = values.iter().flat_map(Value::command).collect();
        return RespClient::connect(lb.port()).send_raw(asked);
    }
    match converse(lb, form, &values) {
        Outcome::CutOff(place) if values[place].is_long() => {}
        Outcome::Right | Outcome::Told(_) => {}
        outcome => panic!("{form:?}: {outcome:?}"),
    }
}

/// Threads and descriptors of the balancer when nobody is served; without its connections to backends,
/// some of which are kept, and the threads that read those that are shared. `None` when these were
/// counted while one of them ended.
fn footprint(lb: &Balancer) -> Option<(usize, usize)> {
    let folder = |what| std::fs::read_dir(format!("/proc/{}/{what}", lb.pid())).expect("Linux");
    let name = |task: std::io::Result<std::fs::DirEntry>| {
        // One that has ended meanwhile has no name any more.
        std::fs::read_to_string(task.expect("Linux").path().join("comm")).unwrap_or_default()
    };
    let threads = |wanted| folder("task").map(name).filter(|name| name.trim() == wanted).count();
    // A client's thread waits a while for another client.
    wait_until("the clients' threads end", || threads("client") == 0);
    // The allocator starts its own when they are needed first.
    let all = folder("task").count() - threads("jemalloc_bg_thd");
    let shared = threads("replies");
    let target = |file: std::io::Result<std::fs::DirEntry>| {
        std::fs::read_link(file.expect("Linux").path()).unwrap_or_default()
    };
    let is_pipe = |target: &std::path::PathBuf| target.to_string_lossy().starts_with("pipe:");
    let (pipes, others): (Vec<_>, Vec<_>) = folder("fd").map(target).partition(is_pipe);
    // Its output, and one for each shared connection that HTTP clients have waited for.
    assert!(pipes.len() <= 2 + 2 * shared.max(12), "{} pipes", pipes.len());
    let descriptors = others.len();
    let connections = connections(lb).iter().sum::<usize>();
    let are_of_one_moment = shared <= connections && shared <= all && connections <= descriptors;
    are_of_one_moment.then(|| (all - shared, descriptors - connections))
}

/// The footprint when nobody is served.
fn settled_footprint(lb: &Balancer) -> Option<(usize, usize)> {
    let (mut last, mut same) = (footprint(lb), 0);
    wait_until("it has settled", || {
        let now = footprint(lb);
        same = if now.is_some() && now == last { same + 1 } else { 0 };
        last = now;
        same == 20
    });
    last
}

/// How many faults is said by `LB_FAULTS`; usually as many as a few seconds have.
#[test]
fn thousands_of_faults_leave_no_lease_thread_or_descriptor_behind() {
    let wanted = std::env::var("LB_FAULTS").ok().map(|text| text.parse().expect("a number"));
    let limit = Duration::from_secs(if wanted.is_some() { 3600 } else { 5 });
    let wanted: usize = wanted.unwrap_or(5000);
    let seed = seed();
    let servers: [_; 3] = filled();
    let relays = servers.each_ref().map(Relay::start);
    let addresses = relays.each_ref().map(Relay::address);
    let lb = Balancer::start_at(&addresses, &["--backend-timeout", "200ms"]);
    assert_reads_are_right(&lb, "all are good");
    let before = settled_footprint(&lb);
    relays.iter().for_each(add_all_faults);
    // A second silence of the same read would take long.
    let silence = Rule::new(Fault::Silence).asked("value:").within(0..5000);
    relays[0].add(&silence.with_probability(0.02));
    let faults = || relays.iter().map(Relay::faults).sum::<usize>();
    let began = Instant::now();
    // As many as a quiet computer has within that time, and on a busy one as many as prove something.
    let is_over = || {
        let least = wanted.min(200);
        faults() >= wanted || (began.elapsed() >= limit && faults() >= least)
    };
    let is_stuck = || began.elapsed() >= limit * 12;
    thread::scope(|scope| {
        for number in 0..8 {
            let mut random = fastrand::Rng::with_seed(seed + number);
            let (lb, is_over, is_stuck) = (&lb, &is_over, &is_stuck);
            scope.spawn(move || {
                let _shown = ShownOnPanic(seed);
                while !is_over() && !is_stuck() {
                    read_through_faults(lb, &mut random);
                }
            });
        }
    });
    println!("{} faults in {:?}", faults(), began.elapsed());
    assert!(faults() >= wanted.min(200), "too few faults: {}", faults());
    relays.iter().for_each(Relay::clear);
    wait_until("leases, threads and descriptors are given back", || {
        leases(&lb) == [0; 3] && footprint(&lb) == before
    });
    assert_reads_are_right(&lb, "all are good again");
}

/// Says how a random test that fails can be repeated.
struct ShownOnPanic(u64);

impl Drop for ShownOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("LB_TEST_SEED={}", self.0);
        }
    }
}
