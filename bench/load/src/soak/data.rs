//! The soak test's data, and the reply to each command that reads it.
//!
//! Each value repeats its key, its database and the position in the value, so a reply that belongs to
//! another command, or is shifted, can't pass for the right one.

use std::error::Error;
use std::fmt::Write as _;
use std::io::{BufReader, Write as _};

use crate::wire;

/// Number of databases that are filled, from 0.
pub const DATABASES: usize = 2;

const STRINGS: usize = 1000;
const HASHES: usize = 200;
const MGETS: usize = 500;
const LONG_LENGTHS: [usize; 6] = [20, 20, 64, 64, 200, 200];
const WRONG_TYPE: &str = "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n";

/// A command and its reply.
pub struct Item {
    pub request: Vec<u8>,
    pub reply: Vec<u8>,
}

impl Item {
    fn new(words: &[&str], reply: impl Into<Vec<u8>>) -> Item {
        Item { request: wire::command(words), reply: reply.into() }
    }
}

/// Commands for one database and one version of the protocol.
pub struct Table {
    /// Frequent commands, one list for each command name.
    pub usual: [Vec<Item>; 6],
    pub long: Vec<Item>,
    /// Commands with unknown keys, wrong types or no key.
    pub odd: Vec<Item>,
}

/// An HTTP request and its response.
pub struct HttpItem {
    pub request: Vec<u8>,
    pub status: u16,
    pub body: Vec<u8>,
}

impl HttpItem {
    fn new(key: &str, status: u16, body: String) -> HttpItem {
        let request = format!("GET /{key} HTTP/1.1\r\nHost: localhost\r\n\r\n").into_bytes();
        HttpItem { request, status, body: body.into_bytes() }
    }
}

/// Requests over HTTP, which reads database 0.
pub fn http_items() -> Vec<HttpItem> {
    let strings = (0..STRINGS).map(|number| {
        let (key, value) = string(0, number);
        HttpItem::new(&key, 200, format!("\"{value}\"\n"))
    });
    // Repeated, so that hashes are as frequent as strings.
    let hashes = (0..STRINGS).map(|number| {
        let (key, fields) = hash(0, number % HASHES);
        let (fields, _) = fields.as_chunks::<2>();
        let lines = fields.iter().map(|[name, value]| format!("  \"{name}\": \"{value}\""));
        let lines = lines.collect::<Vec<_>>().join(",\n");
        HttpItem::new(&key, 200, format!("{{\n{lines}\n}}\n"))
    });
    let unknown = (0..MGETS).map(|number| {
        // Half of them share the strings' prefix, from which the balancer guesses the type.
        let key = if number % 2 == 0 { format!("soak:no{number}") } else { unknown(number) };
        let body = format!("{{\n  \"error\": \"no such key\",\n  \"key\": \"{key}\"\n}}\n");
        HttpItem::new(&key, 404, body)
    });
    let (key, value) = long_string(0, 0);
    let long = HttpItem::new(&key, 200, format!("\"{value}\"\n"));
    strings.chain(hashes).chain(unknown).chain([long]).collect()
}

/// Returns the tables of all databases in RESP2 and RESP3, in the order of [`table_index`].
pub fn tables() -> Vec<Table> {
    (0..DATABASES).flat_map(|database| [false, true].map(|is_3| table(database, is_3))).collect()
}

pub fn table_index(database: usize, is_resp3: bool) -> usize {
    database * 2 + usize::from(is_resp3)
}

fn table(database: usize, is_resp3: bool) -> Table {
    let null = if is_resp3 { "_\r\n" } else { "$-1\r\n" };
    let mut usual: [Vec<Item>; 6] = Default::default();
    for number in 0..STRINGS {
        let (key, value) = string(database, number);
        usual[0].push(Item::new(&["GET", &key], bulk(&value)));
        usual[1].push(Item::new(&["STRLEN", &key], format!(":{}\r\n", value.len())));
        usual[2].push(Item::new(&["TYPE", &key], "+string\r\n"));
        usual[3].push(Item::new(&["EXISTS", &key, &unknown(number), &key], ":2\r\n"));
    }
    for number in 0..HASHES {
        let (key, fields) = hash(database, number);
        let texts: String = fields.iter().map(|text| bulk(text)).collect();
        let head = if is_resp3 {
            format!("%{}\r\n", fields.len() / 2)
        } else {
            format!("*{}\r\n", fields.len())
        };
        usual[4].push(Item::new(&["HGETALL", &key], head + &texts));
        usual[2].push(Item::new(&["TYPE", &key], "+hash\r\n"));
    }
    for number in 0..MGETS {
        usual[5].push(mget(database, number, null));
    }
    let long = (0..LONG_LENGTHS.len()).map(|number| {
        let (key, value) = long_string(database, number);
        Item::new(&["GET", &key], bulk(&value))
    });
    let mut odd = vec![Item::new(&["PING"], "+PONG\r\n")];
    for number in 0..HASHES {
        odd.push(Item::new(&["GET", &unknown(number)], null));
        odd.push(Item::new(&["TYPE", &unknown(number)], "+none\r\n"));
        odd.push(Item::new(&["GET", &hash(database, number).0], WRONG_TYPE));
        odd.push(Item::new(&["HGETALL", &string(database, number).0], WRONG_TYPE));
    }
    Table { usual, long: long.collect(), odd }
}

/// An MGET of up to eight keys, of which one is unknown in every third.
fn mget(database: usize, number: usize, null: &str) -> Item {
    let count = 1 + number % 8;
    let mut keys = Vec::new();
    let mut reply = format!("*{count}\r\n");
    for index in 0..count {
        if index == number % 3 && number.is_multiple_of(3) {
            keys.push(unknown(number));
            reply += null;
        } else {
            let (key, value) = string(database, (number * 31 + index * 7) % STRINGS);
            keys.push(key);
            reply += &bulk(&value);
        }
    }
    let words: Vec<&str> = std::iter::once("MGET").chain(keys.iter().map(String::as_str)).collect();
    Item::new(&words, reply)
}

/// Writes the data into the Redis server on `port`; other keys stay.
pub fn fill(port: u16) -> Result<(), Box<dyn Error>> {
    let mut socket = wire::connect_with_timeout(port)?;
    let mut replies = BufReader::new(socket.try_clone()?);
    for database in 0..DATABASES {
        let mut commands = vec![wire::command(&["SELECT", &database.to_string()])];
        let strings = (0..STRINGS).map(|number| string(database, number));
        let long = (0..LONG_LENGTHS.len()).map(|number| long_string(database, number));
        for (key, value) in strings.chain(long) {
            commands.push(wire::command(&["SET", &key, &value]));
        }
        for number in 0..HASHES {
            let (key, fields) = hash(database, number);
            let mut words = vec!["HSET", &key];
            words.extend(fields.iter().map(String::as_str));
            commands.push(wire::command(&["DEL", &key]));
            commands.push(wire::command(&words));
        }
        for command in commands {
            socket.write_all(&command)?;
            let mut reply = Vec::new();
            wire::read_value(&mut replies, &mut reply)?;
            if reply.starts_with(b"-") {
                return Err(String::from_utf8_lossy(&reply).trim_end().into());
            }
        }
    }
    Ok(())
}

/// Returns a key and its value. After its prefix the value has 1 to 2047 bytes, with all orders of
/// magnitude equally frequent.
fn string(database: usize, number: usize) -> (String, String) {
    let scale = 1 << (number % 11);
    with_value(database, format!("soak:{number}"), scale + number * 7919 % scale)
}

fn long_string(database: usize, number: usize) -> (String, String) {
    with_value(database, format!("soak:long:{number}"), LONG_LENGTHS[number] * 1024)
}

/// Returns a key, and its fields and values alternately. They are few and short, so Redis keeps their
/// order.
fn hash(database: usize, number: usize) -> (String, Vec<String>) {
    let key = format!("soak:hash:{number}");
    let field = |index| [format!("field:{index}"), format!("{key}:{database}:{index}")];
    let fields = (0..1 + number % 24).flat_map(field).collect();
    (key, fields)
}

fn unknown(number: usize) -> String {
    format!("soak:unknown:{number}")
}

fn with_value(database: usize, key: String, length: usize) -> (String, String) {
    let mut value = format!("{key}:{database}:");
    let end = value.len() + length;
    while value.len() < end {
        // Writing into a `String` can't fail.
        let _ = write!(value, "{} of {key}:{database}, ", value.len());
    }
    value.truncate(end);
    (key, value)
}

pub fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}
