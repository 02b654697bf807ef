//! Cursors of searches over several servers. No RediSearch is at hand here: a stand-in answers `FT.AGGREGATE` and
//! `FT.CURSOR` in its form, and leaves everything else to a real server. So these tests show what the balancer does with
//! such commands and replies, and not that RediSearch has no others.

use std::collections::HashMap;
use std::io::{self, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use redis_lb::resp::{Command, CommandParser};

use crate::support::balancer::Balancer;
use crate::support::redis::RedisServer;
use crate::support::resp::{RespClient, encode, read_frame};

/// How many rows each index has.
const ROWS: usize = 10;

/// A row is so long that a page is not held whole.
const ROW_BYTES: usize = 40_000;

/// A server that knows searches, in front of a real one.
struct SearchServer {
    _server: RedisServer,
    address: String,
}

/// The cursors of one server, with the row at which each goes on.
#[derive(Default)]
struct Cursors {
    rows: HashMap<u64, usize>,
    count: u64,
}

impl SearchServer {
    fn start(name: &'static str) -> Self {
        let server = RedisServer::start();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let (port, cursors) = (server.port(), Arc::<Mutex<Cursors>>::default());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let server = TcpStream::connect(("127.0.0.1", port));
                let cursors = Arc::clone(&cursors);
                thread::spawn(move || Conversation { name, server: server?, cursors }.run(client));
            }
        });
        Self { _server: server, address }
    }
}

struct Conversation {
    name: &'static str,
    server: TcpStream,
    cursors: Arc<Mutex<Cursors>>,
}

impl Conversation {
    fn run(self, mut client: TcpStream) -> io::Result<()> {
        let mut from_server = BufReader::new(self.server.try_clone()?);
        let (mut parser, mut input, mut is_resp3) =
            (CommandParser::new(usize::MAX), Vec::new(), false);
        loop {
            let mut piece = [0; 16 * 1024];
            let length = client.read(&mut piece)?;
            if length == 0 {
                return Ok(());
            }
            input.extend_from_slice(&piece[..length]);
            let mut used = 0;
            while let Ok((length, Some(command))) = parser.parse(&input[used..]) {
                used += length;
                is_resp3 |= command.is(0, b"hello") && command.is(1, b"3");
                let mut ask = |command: &[u8]| {
                    let mut reply = Vec::new();
                    (&self.server).write_all(command)?;
                    read_frame(&mut from_server, &mut reply).map(|()| reply)
                };
                let reply = match command.name().get(..3) {
                    Some(b"FT.") => self.search(&command, is_resp3),
                    _ if command.is(0, b"command") => listed(&command, &mut ask)?,
                    _ => ask(command.bytes())?,
                };
                client.write_all(&reply)?;
            }
            input.drain(..used);
        }
    }

    fn search(&self, command: &Command, is_resp3: bool) -> Vec<u8> {
        let number =
            |at| std::str::from_utf8(command.arg(at).unwrap_or_default()).ok()?.parse().ok();
        let mut cursors = self.cursors.lock().expect("no panic");
        if command.is(0, b"FT.AGGREGATE") && command.arg_count() == 3 {
            return format!("*2\r\n:1\r\n*2\r\n$3\r\nrow\r\n$1\r\n{}\r\n", self.name).into_bytes();
        }
        let (id, from) = match command.is(0, b"FT.AGGREGATE") {
            true => {
                cursors.count += 1;
                (1_000_000_000 + cursors.count, 0)
            }
            false => {
                let id: u64 = number(3).unwrap_or_default();
                let Some(from) = cursors.rows.remove(&id) else {
                    return format!("-Cursor not found, id: {id}\r\n").into_bytes();
                };
                (id, from)
            }
        };
        if command.is(1, b"DEL") {
            return b"+OK\r\n".to_vec();
        }
        let to = (from + 3).min(ROWS);
        if to < ROWS {
            cursors.rows.insert(id, to);
        }
        page(self.name, from..to, if to < ROWS { id } else { 0 }, is_resp3)
    }
}

/// A page of results as RediSearch has it: the rows after their number, or in RESP3 in a map.
fn page(name: &str, rows: std::ops::Range<usize>, cursor: u64, is_resp3: bool) -> Vec<u8> {
    let count = rows.len();
    let mut page = match is_resp3 {
        true => format!("*2\r\n%1\r\n$7\r\nresults\r\n*{count}\r\n"),
        false => format!("*2\r\n*{}\r\n:{count}\r\n", count + 1),
    };
    for row in rows {
        let row = format!("{name}{row:.<ROW_BYTES$}");
        page += &format!("*2\r\n$3\r\nrow\r\n${}\r\n{row}\r\n", row.len());
    }
    (page + &format!(":{cursor}\r\n")).into_bytes()
}

/// What the server says of its commands, with those that search.
fn listed(
    command: &Command,
    ask: &mut impl FnMut(&[u8]) -> io::Result<Vec<u8>>,
) -> io::Result<Vec<u8>> {
    const SEARCHES: [&str; 2] = ["ft.aggregate", "ft.cursor"];
    let bulk = |text: &str| format!("${}\r\n{text}\r\n", text.len());
    if command.is(1, b"list") {
        let names = ask(command.bytes())?;
        let names = String::from_utf8(names).expect("text");
        let (count, names) = names.split_once("\r\n").expect("a list");
        let count: usize = count[1..].parse().expect("a number");
        let more = SEARCHES.map(bulk).concat();
        return Ok(format!("*{}\r\n{names}{more}", count + SEARCHES.len()).into_bytes());
    }
    let names = command.args().skip(2);
    let mut infos = format!("*{}\r\n", names.len()).into_bytes();
    for name in names {
        let name = String::from_utf8_lossy(name);
        if SEARCHES.contains(&&*name) {
            let rest = ":-1\r\n*1\r\n+readonly\r\n:0\r\n:0\r\n:0\r\n*0\r\n*0\r\n*0\r\n*0\r\n";
            infos.extend(format!("*10\r\n{}{rest}", bulk(&name)).bytes());
        } else {
            let info = ask(&encode(&["COMMAND", "INFO", &name]))?;
            infos.extend_from_slice(info.strip_prefix(b"*1\r\n").expect("one"));
        }
    }
    Ok(infos)
}

/// The cursor at the end of a page, and the rows in it, by the first letters of each.
fn parse(reply: &str) -> (u64, Vec<String>) {
    let (results, cursor) = reply.trim_end().rsplit_once("\r\n:").expect("a cursor");
    let rows = results.split("\r\n").filter(|line| line.len() == ROW_BYTES + 1);
    (cursor.parse().expect("a number"), rows.map(|row| row[..2].to_owned()).collect())
}

#[test]
fn a_search_goes_on_at_the_server_where_it_began() {
    let servers = ["a", "b", "c"].map(SearchServer::start);
    let addresses = servers.each_ref().map(|server| server.address.clone());
    let balancers = [(); 2].map(|()| Balancer::start_at(&addresses, &[]));
    let session = |step: usize| {
        let mut session = RespClient::connect(balancers[step % 2].port());
        if step.is_multiple_of(3) {
            session.call("HELLO 3");
        }
        session
    };
    let mut names = Vec::new();
    for walk in 0..6 {
        let mut reply = session(walk).call("FT.AGGREGATE index * WITHCURSOR COUNT 3");
        let mut found = Vec::new();
        for step in 1.. {
            let (cursor, rows) = parse(&reply);
            found.extend(rows);
            if cursor == 0 {
                break;
            }
            // Each time over a connection of its own.
            reply = session(walk + step).call(&format!("FT.CURSOR READ index {cursor} COUNT 3"));
        }
        let name = found[0][..1].to_owned();
        assert_eq!(found, (0..ROWS).map(|row| format!("{name}{row}")).collect::<Vec<_>>());
        names.push(name);
    }
    names.sort();
    names.dedup();
    assert!(names.len() > 1, "several servers were asked: {names:?}");
}

#[test]
fn a_search_can_be_ended_from_anywhere_and_unknown_cursors_are_errors() {
    let servers = ["a", "b"].map(SearchServer::start);
    let addresses = servers.each_ref().map(|server| server.address.clone());
    let lb = Balancer::start_at(&addresses, &[]);
    let call = |words: &str| RespClient::connect(lb.port()).call(words);
    let (cursor, _) = parse(&call("FT.AGGREGATE index * WITHCURSOR"));
    assert_eq!(call(&format!("FT.CURSOR DEL index {cursor}")), "+OK\r\n");
    let gone = call(&format!("FT.CURSOR READ index {cursor}"));
    assert!(gone.starts_with("-Cursor not found"), "{gone}");
    let unknown = call(&format!("FT.CURSOR READ index {}", cursor ^ 0x5555));
    assert!(unknown.starts_with("-ERR invalid cursor: its server is gone"), "{unknown}");
    for none in ["0", "-1", "x"] {
        assert_eq!(call(&format!("FT.CURSOR READ index {none}")), "-Bad cursor ID\r\n");
    }
    // Results without a cursor are as they were.
    let plain = call("FT.AGGREGATE index *");
    assert!(plain.starts_with("*2\r\n:1\r\n*2\r\n$3\r\nrow\r\n"), "{plain}");
    let mut session = RespClient::connect(lb.port());
    session.call("MULTI");
    let inside = session.call(&format!("FT.CURSOR READ index {cursor}"));
    assert!(inside.starts_with("-ERR FT.CURSOR is not served inside MULTI"), "{inside}");
    assert_eq!(lb.get("/-/status.json").json()["backends"][0]["errors"], 0);
}

#[test]
fn servers_without_searches_know_no_such_command() {
    let server = RedisServer::start();
    let lb = Balancer::start(&[&server]);
    for words in ["FT.AGGREGATE index * WITHCURSOR", "FT.CURSOR READ index 7"] {
        let reply = RespClient::connect(lb.port()).call(words);
        assert_eq!(reply, RespClient::connect(server.port()).call(words));
        assert!(reply.starts_with("-ERR unknown command"), "{reply}");
    }
}
