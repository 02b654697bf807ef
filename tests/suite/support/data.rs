//! Data in which each value follows from its key's name, and reads of it whose replies are known.

use std::hash::{DefaultHasher, Hash, Hasher};

use fastrand::Rng;
use redis::Value;
use serde_json::json;

use super::balancer::Answer;
use super::forms::{Sample, encoded, unordered};
use super::redis::RedisServer;
use super::resp::encode;

/// Databases with data, each with its own under the same names.
pub const DATABASES: usize = 2;

/// How long values are, about, and how many there are of each type.
const SIZES: [(usize, usize); 4] = [(5, 60), (1024, 12), (50 * 1024, 2), (200 * 1024, 1)];

const TYPES: [&str; 5] = ["string", "hash", "list", "set", "zset"];

/// Up to this many bytes the balancer holds a reply until it is whole (64 KiB, less the framing): such a
/// one comes from another backend when the first fails. A longer one may be cut off.
pub const LONG: usize = 60 * 1024;

/// The reads of one size are asked for in so many of a hundred cases.
const SIZE_CLASSES: [(usize, u8); 4] = [(512, 70), (8 * 1024, 20), (LONG, 8), (usize::MAX, 2)];

/// What three servers hold.
pub struct Data {
    databases: [Vec<(String, Sample)>; DATABASES],
    commands: [Reads; DATABASES],
    requests: Reads,
}

impl Data {
    pub fn new() -> Self {
        let databases: [_; DATABASES] = std::array::from_fn(|database| {
            let sizes = SIZES.iter().flat_map(|&(bytes, count)| {
                (0..count).flat_map(move |number| TYPES.map(|kind| (kind, bytes, number)))
            });
            sizes
                .map(|(kind, bytes, number)| {
                    let name = format!("{kind}:{bytes}:{number}");
                    let sample = sample(database, &name, kind, bytes);
                    (name, sample)
                })
                .collect::<Vec<_>>()
        });
        let commands = databases.each_ref().map(|samples| Reads::new(commands(samples)));
        let requests = Reads::new(requests(&databases[0]));
        Self { databases, commands, requests }
    }

    /// Reads of a database for Redis clients.
    pub fn commands(&self, database: usize) -> &Reads {
        &self.commands[database]
    }

    /// Reads over HTTP.
    pub fn requests(&self) -> &Reads {
        &self.requests
    }

    /// Puts all of it into a server in which none of it is.
    pub fn load(&self, server: &RedisServer) {
        self.load_in(server, 1, || ());
    }

    /// Loads the data in so many parts; `pause` is called between them.
    pub fn load_in(&self, server: &RedisServer, parts: usize, mut pause: impl FnMut()) {
        let mut connection = server.connect();
        for part in 0..parts {
            if part > 0 {
                pause();
            }
            let mut pipe = redis::pipe();
            for (database, samples) in self.databases.iter().enumerate() {
                pipe.cmd("SELECT").arg(database);
                for (name, sample) in samples.iter().skip(part).step_by(parts) {
                    pipe.add_command(sample.write(name.as_bytes()));
                }
            }
            pipe.exec(&mut connection).expect("the server takes them");
        }
    }

    /// Whether a server answers and has all the keys.
    pub fn is_in(&self, server: &RedisServer) -> bool {
        let Ok(client) = redis::Client::open(server.plain_url()) else {
            return false;
        };
        let Ok(mut connection) = client.get_connection() else { return false };
        (0..DATABASES).all(|database| {
            let asked = redis::pipe()
                .cmd("SELECT")
                .arg(database)
                .ignore()
                .cmd("DBSIZE")
                .query::<(usize,)>(&mut connection);
            asked.is_ok_and(|(size,)| size == self.databases[database].len())
        })
    }
}

/// A value that is the same each time, and another for each name and database.
fn sample(database: usize, name: &str, kind: &'static str, bytes: usize) -> Sample {
    let mut hasher = DefaultHasher::new();
    (database, name).hash(&mut hasher);
    let mut rng = Rng::with_seed(hasher.finish());
    let mut text = |length: usize| -> String { (0..length).map(|_| rng.alphanumeric()).collect() };
    if kind == "string" {
        return Sample::new(kind, [text(bytes)]);
    }
    let count = (bytes / 40).max(1).next_multiple_of(if kind == "hash" { 2 } else { 1 });
    let length = bytes.min(36);
    Sample::new(kind, (0..count).map(|number| format!("{number}:{}", text(length))))
}

/// One read, with what it must answer.
pub struct Read {
    /// As it is sent.
    pub request: Vec<u8>,
    /// As it is shown to a person.
    pub shown: String,
    /// About how long the reply is.
    pub reply_bytes: usize,
    expected: Expected,
}

enum Expected {
    /// Over the Redis protocol: whether it is an aggregate, its leaves, and how those are grouped
    /// whose order does not count.
    Reply {
        is_many: bool,
        leaves: Vec<Option<Vec<u8>>>,
        unordered: Option<usize>,
    },
    /// Over HTTP: a sample's JSON, some other JSON, or none.
    Sample(Sample),
    Json(serde_json::Value),
    NotFound,
}

/// What a reply was.
pub enum Verdict {
    Right,
    Error(String),
    Wrong(String),
}

impl Read {
    fn command(words: &[&[u8]], is_many: bool, leaves: Vec<Option<Vec<u8>>>) -> Self {
        let shown: Vec<_> = words.iter().map(|word| String::from_utf8_lossy(word)).collect();
        Self {
            request: encode(words),
            shown: shown.join(" "),
            reply_bytes: leaves.iter().flatten().map(|leaf| leaf.len() + 10).sum(),
            expected: Expected::Reply { is_many, leaves, unordered: None },
        }
    }

    /// The order of the reply's groups of `size` leaves does not count.
    fn in_any_order(mut self, size: usize) -> Self {
        if let Expected::Reply { leaves, unordered, .. } = &mut self.expected {
            *unordered = Some(size);
            *leaves = sorted(std::mem::take(leaves), size);
        }
        self
    }

    fn get(path: String, expected: Expected) -> Self {
        let json = match &expected {
            Expected::Sample(sample) => &sample.json(),
            Expected::Json(json) => json,
            _ => &serde_json::Value::Null,
        };
        Self {
            request: format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n").into_bytes(),
            reply_bytes: serde_json::to_string_pretty(json).map_or(0, |text| text.len()),
            shown: path,
            expected,
        }
    }

    /// Judges a Redis reply.
    pub fn judge(&self, reply: Value) -> Verdict {
        if let Value::ServerError(error) = &reply {
            return Verdict::Error(format!("{}: {error:?}", self.shown));
        }
        let Expected::Reply { is_many, leaves, unordered } = &self.expected else {
            return Verdict::Wrong(format!("{}: no Redis command", self.shown));
        };
        let found_many = matches!(reply, Value::Array(_) | Value::Set(_) | Value::Map(_));
        let mut found = Vec::new();
        flatten(reply, &mut found);
        if let Some(size) = unordered {
            found = sorted(found, *size);
        }
        if (found_many, &found) == (*is_many, leaves) {
            return Verdict::Right;
        }
        let [found, expected] = [&found, leaves].map(|leaves| shown(leaves));
        Verdict::Wrong(format!("{}: {found} instead of {expected}", self.shown))
    }

    /// Judges an answer over HTTP.
    pub fn judge_answer(&self, answer: &Answer) -> Verdict {
        let body = || {
            let body = answer.body[..answer.body.len().min(300)].escape_ascii();
            format!("{}: {} {body}", self.shown, answer.status)
        };
        let is_right = match (answer.status, &self.expected) {
            (404, Expected::NotFound) => true,
            (200, expected) => match (serde_json::from_slice(&answer.body), expected) {
                (Ok(json), Expected::Sample(sample)) => sample.is(&json),
                (Ok(json), Expected::Json(expected)) => {
                    unordered(json) == unordered(expected.clone())
                }
                _ => false,
            },
            (404, _) => false,
            _ => return Verdict::Error(body()),
        };
        if is_right { Verdict::Right } else { Verdict::Wrong(body()) }
    }
}

/// Strings and numbers in the order in which they came, whatever is around them: RESP2 and RESP3 differ
/// in that alone.
fn flatten(reply: Value, leaves: &mut Vec<Option<Vec<u8>>>) {
    let leaf = match reply {
        Value::Nil => None,
        Value::Array(items) | Value::Set(items) => {
            return items.into_iter().for_each(|item| flatten(item, leaves));
        }
        Value::Map(pairs) => {
            return pairs.into_iter().for_each(|(name, value)| {
                flatten(name, leaves);
                flatten(value, leaves);
            });
        }
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.into_bytes()),
        Value::Int(number) => Some(number.to_string().into_bytes()),
        Value::Double(number) => Some(number.to_string().into_bytes()),
        other => Some(format!("{other:?}").into_bytes()),
    };
    leaves.push(leaf);
}

fn sorted(leaves: Vec<Option<Vec<u8>>>, size: usize) -> Vec<Option<Vec<u8>>> {
    let mut groups: Vec<_> = leaves.chunks(size).collect();
    groups.sort_unstable();
    groups.concat()
}

fn shown(leaves: &[Option<Vec<u8>>]) -> String {
    let first: Vec<_> = leaves
        .iter()
        .take(3)
        .map(|leaf| match leaf {
            None => "nil".to_owned(),
            Some(bytes) => format!("{:.60?}", String::from_utf8_lossy(bytes)),
        })
        .collect();
    format!("{} [{}]", leaves.len(), first.join(", "))
}

/// Reads, by the length of their replies.
pub struct Reads([Vec<Read>; 4]);

impl Reads {
    fn new(reads: Vec<Read>) -> Self {
        let mut classes: [Vec<Read>; 4] = Default::default();
        for read in reads {
            let class = SIZE_CLASSES.iter().position(|(most, _)| read.reply_bytes <= *most);
            classes[class.unwrap_or(0)].push(read);
        }
        Self(classes)
    }

    /// All whose replies are held until they are whole.
    pub fn short(&self) -> impl Iterator<Item = &Read> {
        self.0.iter().flatten().filter(|read| read.reply_bytes <= LONG)
    }

    /// Any, but with a reply of at most about so many bytes, at least 512.
    pub fn choose(&self, rng: &mut Rng, at_most: usize) -> &Read {
        let mut lot = rng.u8(0..100);
        let mut class = 0;
        while lot >= SIZE_CLASSES[class].1 {
            lot -= SIZE_CLASSES[class].1;
            class += 1;
        }
        while class > 0 && SIZE_CLASSES[class].0 > at_most {
            class -= 1;
        }
        &self.0[class][rng.usize(0..self.0[class].len())]
    }
}

fn commands(samples: &[(String, Sample)]) -> Vec<Read> {
    let one = |bytes: &[u8]| vec![Some(bytes.to_vec())];
    let number = |number: usize| one(number.to_string().as_bytes());
    let mut reads = Vec::new();
    for (name, sample) in samples {
        let name = name.as_bytes();
        let strings = &sample.strings;
        let all = || strings.iter().cloned().map(Some).collect::<Vec<_>>();
        let first = strings[0].as_slice();
        reads.push(Read::command(&[b"EXISTS", name], false, number(1)));
        reads.push(Read::command(&[b"TYPE", name], false, one(sample.kind.as_bytes())));
        reads.extend(match sample.kind {
            "string" => [
                Read::command(&[b"GET", name], false, one(first)),
                Read::command(&[b"STRLEN", name], false, number(first.len())),
                Read::command(
                    &[b"MGET", name, b"missing:1"],
                    true,
                    vec![Some(first.to_vec()), None],
                ),
            ],
            "hash" => [
                Read::command(&[b"HGETALL", name], true, all()).in_any_order(2),
                Read::command(&[b"HLEN", name], false, number(strings.len() / 2)),
                Read::command(&[b"HGET", name, first], false, one(&strings[1])),
            ],
            "list" => [
                Read::command(&[b"LRANGE", name, b"0", b"-1"], true, all()),
                Read::command(&[b"LLEN", name], false, number(strings.len())),
                Read::command(&[b"LINDEX", name, b"0"], false, one(first)),
            ],
            "set" => [
                Read::command(&[b"SMEMBERS", name], true, all()).in_any_order(1),
                Read::command(&[b"SCARD", name], false, number(strings.len())),
                Read::command(&[b"SISMEMBER", name, first], false, number(1)),
            ],
            _ => {
                let mut members = strings.clone();
                members.sort_unstable();
                let pairs =
                    members.into_iter().flat_map(|member| [Some(member), Some(b"1".into())]);
                [
                    Read::command(
                        &[b"ZRANGE", name, b"0", b"-1", b"WITHSCORES"],
                        true,
                        pairs.collect(),
                    ),
                    Read::command(&[b"ZCARD", name], false, number(strings.len())),
                    Read::command(&[b"ZSCORE", name, first], false, one(b"1")),
                ]
            }
        });
    }
    for _ in 0..20 {
        reads.extend([
            Read::command(&[b"DBSIZE"], false, number(samples.len())),
            Read::command(&[b"GET", b"missing:1"], false, vec![None]),
            Read::command(&[b"HGETALL", b"missing:2"], true, Vec::new()),
            Read::command(&[b"EXISTS", b"missing:3"], false, number(0)),
        ]);
    }
    reads
}

fn requests(samples: &[(String, Sample)]) -> Vec<Read> {
    let mut reads = Vec::new();
    for (name, sample) in samples {
        reads.push(Read::get(format!("/{name}"), Expected::Sample(sample.clone())));
        if sample.kind == "hash" {
            let path = format!("/{name}?field={}", encoded(&sample.strings[0]));
            let value = String::from_utf8_lossy(&sample.strings[1]);
            reads.push(Read::get(path, Expected::Json(value.into())));
        }
    }
    for number in 0..10 {
        reads.push(Read::get(format!("/missing:{number}"), Expected::NotFound));
    }
    let short: serde_json::Map<_, _> = samples
        .iter()
        .filter(|(name, _)| name.starts_with("string:5:"))
        .map(|(name, sample)| (name.clone(), sample.json()))
        .collect();
    let listing = json!({"count": short.len(), "data": short, "next": null});
    for _ in 0..5 {
        reads.push(Read::get("/string:5:".to_owned(), Expected::Json(listing.clone())));
    }
    reads
}
