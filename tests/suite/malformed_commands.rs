//! Frames that are broken or odd: what comes back through the balancer, and whether the connection
//! ends there, is what the server itself makes of them.
//!
//! The server asked and the one behind the balancer are two with the same data, so that the second
//! can tell in the end whether a write has ever reached it. Both are read-only replicas, as which
//! the balancer presents itself. Each stream ends with a command whose reply shows that the
//! connection still is in step, and then the client closes its side: so nobody waits.
//!
//! Left out are the differences that docs/REDIS.md names: HTTP, lines over 64 KiB, more than 1,048,576
//! arguments. The longest argument is set to that of Redis.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use fastrand::Rng;

use crate::support::balancer::Balancer;
use crate::support::redis::{RedisServer, free_port};
use crate::support::resp::encode;
use crate::support::seed;

const STILL_IN_STEP: &[u8] = b"*2\r\n$4\r\nECHO\r\n$13\r\nstill in step\r\n";

/// No commands: Redis says so and closes.
const BROKEN: [&[u8]; 59] = [
    // The number of arguments.
    b"*\r\n",
    b"*x\r\n",
    b"*1x\r\n",
    b"*01\r\n",
    b"*+1\r\n",
    b"*-0\r\n",
    b"*--1\r\n",
    b"*-\r\n",
    b"* 1\r\n",
    b"*1 \r\n",
    b"*1.0\r\n",
    b"*0x1\r\n",
    b"*\xff\r\n",
    b"*\r\r\n",
    b"*1\n$4\r\nPING\r\n",
    b"*$4\r\nPING\r\n",
    b"**1\r\n$4\r\nPING\r\n",
    b"*2147483648\r\n",
    b"*4294967297\r\n",
    b"*9223372036854775807\r\n",
    b"*9223372036854775808\r\n",
    b"*-9223372036854775809\r\n",
    b"*18446744073709551617\r\n",
    b"*111111111111111111111111111111\r\n",
    // What is where `$` should be.
    b"*1\r\n\r\n",
    b"*1\r\n\n\r\n",
    b"*1\r\n \r\n",
    b"*1\r\nPING\r\n",
    b"*1\r\n*1\r\n",
    b"*1\r\n:1\r\n",
    b"*1\r\n+PING\r\n",
    b"*1\r\n%1\r\n",
    b"*1\r\n'\r\n",
    b"*1\r\n\xff\r\n",
    b"*2\r\n$4\r\nPING\r\nx\r\n",
    b"*2\r\n$4\r\nECHO\r\n\r\n$1\r\na\r\n",
    b"*2\r\n$5\r\nECHO\r\n$1\r\na\r\n",
    b"*2\r\n$4\r\nECHO$1\r\na\r\n",
    // An argument's length.
    b"*1\r\n$\r\n",
    b"*1\r\n$x\r\n",
    b"*1\r\n$-1\r\n",
    b"*1\r\n$-0\r\n",
    b"*1\r\n$+4\r\nPING\r\n",
    b"*1\r\n$04\r\nPING\r\n",
    b"*1\r\n$4 \r\nPING\r\n",
    b"*1\r\n$4\n\r\nPING\r\n",
    b"*1\r\n$$4\r\nPING\r\n",
    b"*1\r\n$536870913\r\n",
    b"*1\r\n$4294967300\r\nPING\r\n",
    b"*1\r\n$18446744073709551620\r\nPING\r\n",
    b"*2\r\n$4\r\nECHO\r\n$-1\r\n",
    // Quotes.
    b"\"\r\n",
    b"'PING\r\n",
    b"ECHO \"a\n",
    b"ECHO \"a\\\"\r\n",
    b"ECHO \"a\"b\r\n",
    b"ECHO 'a'b\r\n",
    b"ECHO 'a''b'\r\n",
    // Replies come before the error, commands after it are lost.
    b"PING\r\n*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n*1\r\n\xfe\r\nPING\r\n",
];

/// Odd, and yet commands, or none that Redis would complain of.
const ODD: [&[u8]; 59] = [
    b"",
    b"\n",
    b"\r\n",
    b"\r\n\r\n\n\n \t\x0b\x0c\r\n",
    b"\r\r\n",
    b"*0\r\n",
    b"*-1\r\n",
    b"*-9223372036854775808\r\n",
    b"*0\r\n\r\n*-7\r\nPING\r\n*0\r\n",
    b"*1\r\n$0\r\n\r\n",
    b"*2\r\n$0\r\n\r\n$0\r\n\r\n",
    b"*2\r\n$4\r\nECHO\r\n$0\r\n\r\n",
    b"*2\r\n$4\r\nECHO\r\n$4\r\n\r\n\r\n\r\n",
    b"*2\r\n$4\r\nECHO\r\n$5\r\n\0\xff*$\n\r\n",
    b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n",
    b"*2\r\n$3\r\nGET\r\n$8\r\n*1\r\n$4\r\n\r\n",
    // Redis does not look at the bytes after an argument, nor at the one after a CR.
    b"*1\r\n$4\r\nPINGxy",
    b"*1\r\n$3\r\nPING\r\n",
    b"*2\r\n$4\r\nECHO\r\n$1\r\nabc\r\n",
    b"*1\r\n$4\r\nPING\n\n",
    b"*2\r\n$4\r\nECHO*1$1\r\na\n\r",
    b"*1\rx$4\rxPING\r\n",
    b"*1\r\r$4\r\rPING\r\r",
    b"*1\r\0$4\r\0PING\0\0",
    b"*1\r\n$4\r\nping\r\n*1\r\n$4\r\npInG\r\n",
    // Lines of words.
    b"PING\n",
    b"PING\r\n",
    b"PING\r\r\n",
    b"  PING  \r\n",
    b"\tGET\tkey\t\r\n",
    b"GET\rkey\r\n",
    b"GET\x0bkey\r\n",
    b"GET \x0bkey\r\n",
    b"GET \x0ckey\r\n",
    b"GET\xa0key\r\n",
    b"\"GET\" 'key'\r\n",
    b"G\"ET\" k'ey'\r\n",
    b"G'ET'\x0bkey\r\n",
    b"ECHO \"\"\r\nECHO ''\r\n",
    b"ECHO \"\\x00\\xff\\x0A\\n\\r\\t\\a\\b\\q\\\\\\\"'\"\r\n",
    b"ECHO \"\\x4\" \r\nECHO \"\\xg0\"\r\nECHO \"\\X41\"\r\n",
    b"ECHO '\\n\\x41\\'\"'\r\n",
    b"ECHO \\n\\x41\\\r\n",
    b"ECHO a\\\"b\"\r\n",
    b"ECHO $4\r\nECHO *1\r\n",
    b" *1\r\n$4\r\nPING\r\n",
    b"+PING\r\n-ERR\r\n:1\r\n%1\r\n>2\r\n_\r\n,1\r\n#t\r\n(1\r\n=4\r\n|1\r\n~1\r\n!1\r\n",
    b"\xef\xbb\xbfPING\r\n",
    b"PING\r\n*1\r\n$4\r\nPING\r\nPING\n*0\r\nPING\r\n",
    // Names that are none, and how they are quoted.
    b"NOSUCH\r\nNOSUCH a 'b c' \"d\\r\\ne\"\r\n",
    b"\"NO SUCH\"\r\n\"NO\\r\\nSUCH\"\r\n\"NO\\x00SUCH\" \"a\\x00b\" c\r\n\"\\xff\" \"\\xfe\"\r\n",
    b"GETT key\r\nGE key\r\n'GET ' key\r\n'get\n",
    // They begin a frame that never ends.
    b"*",
    b"*3\r\n$4\r\nECHO\r\n",
    b"*1048576\r\n",
    b"*1\r\n$536870912\r\n",
    b"*1\r\n$1000\r\n",
    b"PING\0\r\n",
    b"*1\0\r\n",
];

/// What Redis thinks of the arguments of commands that the balancer answers itself, or has a look
/// at: lines of words, in a connection each.
const ARGUMENTS: [&[u8]; 34] = [
    b"PING a b\r\nPING ''\r\nPING \"\\x00\\xff\\r\\n\"\r\nECHO\r\nECHO a b\r\nTIME x\r\n",
    b"GET\r\nGET key x\r\nMGET\r\nGET list\r\nOBJECT\r\nOBJECT ENCODING\r\nOBJECT ENCODING key\r\n",
    b"SET\r\nSET a\r\nSET a b\r\nDEL a\r\nFLUSHALL\r\nFLUSHALL x y z\r\nXGROUP CREATE a b c\r\n",
    b"READONLY\r\nREADWRITE\r\nREADONLY x\r\nRESET x\r\nRESET\r\nEXEC\r\nDISCARD\r\n",
    b"AUTH\r\nAUTH a\r\nAUTH a b\r\nAUTH a b c\r\nAUTH default ''\r\nAUTH DEFAULT a\r\n",
    b"SELECT\r\nSELECT x\r\nSELECT ''\r\nSELECT -1\r\nSELECT 01\r\nSELECT +1\r\nSELECT 1 2\r\n",
    b"SELECT 99\r\nGET key\r\nSELECT 9\r\nGET key\r\nSELECT 99\r\nGET key\r\nSELECT 0\r\nGET key\r\n",
    b"SELECT 4294967296\r\nSELECT 9223372036854775808\r\nSELECT \"0\\x00\"\r\nGET key\r\n",
    b"HELLO x\r\nHELLO ''\r\nHELLO 1\r\nHELLO 4\r\nHELLO -1\r\nHELLO 02\r\nHELLO 3 x\r\nGET none\r\n",
    b"HELLO 2 AUTH a\r\nHELLO 2 AUTH a b\r\nHELLO 2 SETNAME\r\nHELLO 2 SETNAME 'a b'\r\n",
    b"HELLO 2 \"a\\r\\nb\"\r\nHELLO 3 AUTH a b SETNAME c\r\nCLIENT GETNAME\r\nGET none\r\n",
    b"CLIENT\r\nCLIENT x\r\nCLIENT \"a\\r\\nb\"\r\nCLIENT ID x\r\nCLIENT GETNAME x\r\nCLIENT REPLY x\r\n",
    b"CLIENT GETNAME\r\nCLIENT SETNAME a\r\nCLIENT SETNAME 'b c'\r\nCLIENT GETNAME\r\n",
    b"CLIENT SETNAME a\r\nCLIENT SETNAME ''\r\nCLIENT GETNAME\r\nCLIENT SETNAME \"\\xff\"\r\n",
    b"CLIENT SETNAME a\r\nRESET\r\nCLIENT GETNAME\r\n",
    b"CLIENT REPLY OFF\r\nPING\r\nNOSUCH\r\nCLIENT REPLY ON\r\nPING\r\n",
    b"CLIENT REPLY SKIP\r\nPING\r\nPING\r\nCLIENT REPLY SKIP\r\nNOSUCH\r\nPING\r\n",
    b"CLIENT REPLY OFF\r\nQUIT\r\n",
    b"CLIENT REPLY OFF\r\nRESET\r\nPING\r\n",
    b"CLIENT REPLY OFF\r\nPING\r\n*x\r\n",
    b"CLIENT REPLY SKIP\r\n*x\r\n",
    b"CONFIG\r\nCONFIG GET\r\nCONFIG x\r\nCONFIG GET nosuch\r\nCOMMAND x\r\nXINFO\r\nXINFO x y\r\n",
    b"INFO nosuch\r\nINFO nosuch neither\r\n",
    b"SCAN x\r\nSCAN ' 0'\r\nSCAN 99999999999999999999\r\nSCAN 0 x\r\nSCAN 0 COUNT\r\nSCAN 0 COUNT 0\r\n",
    b"HSCAN\r\nHSCAN key\r\nHSCAN key 0\r\nHSCAN none x\r\nSSCAN none 0\r\nZSCAN none 0 MATCH\r\n",
    b"MULTI x\r\nMULTI\r\nMULTI\r\nWATCH a\r\nGET key\r\nEXEC\r\nEXEC\r\n",
    b"MULTI\r\nGET\r\nGET key\r\nEXEC\r\nMULTI\r\nNOSUCH\r\nDISCARD\r\nMULTI\r\nEXEC\r\n",
    b"MULTI\r\nEXEC x\r\nEXEC\r\nMULTI\r\nSET a b\r\nEXEC\r\nMULTI\r\nRESET\r\nEXEC\r\n",
    b"WATCH\r\nWATCH key\r\nUNWATCH x\r\nUNWATCH\r\nMULTI\r\nPING\r\nECHO a\r\nUNWATCH\r\nEXEC\r\n",
    b"SUBSCRIBE\r\nSUBSCRIBE a '' a\r\nGET key\r\nNOSUCH\r\nSET a b\r\nPING x\r\nPING x y\r\nQUIT\r\n",
    b"SUBSCRIBE a\r\nPSUBSCRIBE b*\r\nSSUBSCRIBE c\r\nUNSUBSCRIBE a a\r\nPUNSUBSCRIBE\r\nSUNSUBSCRIBE\r\n",
    b"UNSUBSCRIBE\r\nUNSUBSCRIBE a b\r\nPUNSUBSCRIBE\r\nSUNSUBSCRIBE x\r\nSUBSCRIBE a\r\nRESET\r\n",
    b"XREAD\r\nXREAD BLOCK\r\nXREAD STREAMS a b c\r\nXREAD COUNT x STREAMS a 0\r\nXREAD x STREAMS a 0\r\n",
    b"QUIT x\r\nPING\r\n",
];

#[test]
fn every_broken_or_odd_frame_is_answered_as_by_redis_however_it_is_split() {
    let servers = Servers::start();
    for stream in BROKEN.iter().chain(&ODD).map(|bytes| [*bytes, STILL_IN_STEP].concat()) {
        let expected = servers.ask_directly(&[&stream]);
        for cut in 0..=stream.len() - STILL_IN_STEP.len() {
            let (begin, rest) = stream.split_at(cut);
            same(&expected, &servers.ask_balancer(&[begin, rest]), &stream, &format!("cut {cut}"));
        }
    }
    servers.assert_nothing_written();
}

#[test]
fn a_client_that_sent_no_command_is_told_so_and_disconnected_at_once() {
    let servers = Servers::start();
    for bytes in BROKEN {
        let mut stream = connect(servers.balancer.port());
        stream.write_all(bytes).expect("lb reads");
        // It ends although our side is open.
        let answer = read_to_end(stream);
        assert!(answer.starts_with(b"-ERR Protocol error: ") || bytes.starts_with(b"PING"));
        same(&servers.ask_directly(&[bytes]), &answer, bytes, "left open");
    }
}

#[test]
fn wrong_arguments_get_the_errors_of_redis() {
    let servers = Servers::start();
    for lines in ARGUMENTS {
        let stream = [lines, STILL_IN_STEP].concat();
        let expected = servers.ask_directly(&[&stream]);
        same(&expected, &servers.ask_balancer(&[&stream]), &stream, "whole");
        let pieces: Vec<&[u8]> = stream.split_inclusive(|&byte| byte == b'\n').collect();
        same(&expected, &servers.ask_balancer(&pieces), &stream, "line by line");
    }
    servers.assert_nothing_written();
}

const MUTATED_STREAMS: u64 = 4000;
const THREADS: u64 = 4;

#[test]
fn damaged_streams_get_the_same_bytes_through_the_balancer() {
    let seed = seed();
    let servers = Servers::start();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let servers = &servers;
            scope.spawn(move || {
                let mut rng = Rng::with_seed(seed.wrapping_mul(THREADS).wrapping_add(thread));
                for _ in 0..MUTATED_STREAMS / THREADS {
                    let stream = damaged_stream(&mut rng);
                    let (begin, rest) = stream.split_at(rng.usize(..=stream.len()));
                    let expected = servers.ask_directly(&[&stream]);
                    let found = servers.ask_balancer(&[begin, rest]);
                    let [expected, found] = [expected, found].map(in_order);
                    same(&expected, &found, &stream, &format!("LB_TEST_SEED={seed}"));
                }
            });
        }
    });
    servers.assert_nothing_written();
}

/// UNSUBSCRIBE of all leaves the channels in an order that each server has chosen for itself: where
/// there are several, the lines are sorted.
fn in_order(reply: Vec<u8>) -> Vec<u8> {
    let word = b"unsubscribe\r\n";
    if reply.windows(word.len()).filter(|part| part == word).count() < 2 {
        return reply;
    }
    let mut lines: Vec<&[u8]> = reply.split_inclusive(|&byte| byte == b'\n').collect();
    lines.sort_unstable();
    lines.concat()
}

/// Two servers with the same data, and a balancer in front of one.
struct Servers {
    direct: RedisServer,
    behind: RedisServer,
    balancer: Balancer,
}

impl Servers {
    fn start() -> Self {
        let (direct, behind) = (read_only_server(), read_only_server());
        let balancer = Balancer::start_with(&[&behind], &["--max-argument-mib", "512"]);
        Self { direct, behind, balancer }
    }

    fn ask_directly(&self, pieces: &[&[u8]]) -> Vec<u8> {
        ask(self.direct.port(), pieces)
    }

    fn ask_balancer(&self, pieces: &[&[u8]]) -> Vec<u8> {
        ask(self.balancer.port(), pieces)
    }

    /// Not even one that the server has refused.
    fn assert_nothing_written(&self) {
        let writes = self.behind.command(&["COMMAND", "LIST", "FILTERBY", "ACLCAT", "write"]);
        let writes: Vec<String> = redis::from_redis_value(writes).expect("names");
        let stats = self.behind.command(&["INFO", "commandstats"]);
        let stats: String = redis::from_redis_value(stats).expect("text");
        assert!(stats.contains("cmdstat_get:") || stats.contains("cmdstat_client"), "{stats}");
        for line in stats.lines() {
            let name = line.trim_start_matches("cmdstat_").split(':').next().unwrap_or_default();
            assert!(!writes.iter().any(|write| write == name), "{line}");
        }
    }
}

/// A server with a key of each kind whose replies are in the same order on every server. It is a
/// replica of nobody, and so refuses writes.
fn read_only_server() -> RedisServer {
    let server = RedisServer::start();
    for command in [
        "SET key value",
        "RPUSH list a b c d",
        "HSET hash field value other thing",
        "ZADD zset 1 a 2.5 b",
        "SADD set 1 2 3",
    ] {
        server.command(&command.split(' ').collect::<Vec<_>>());
    }
    server.command(&["REPLICAOF", "127.0.0.1", &free_port().to_string()]);
    server.command(&["CONFIG", "RESETSTAT"]);
    server
}

/// Sends these pieces one after the other, ends the client's side, and returns all that comes back.
fn ask(port: u16, pieces: &[&[u8]]) -> Vec<u8> {
    let mut stream = connect(port);
    for piece in pieces {
        // Behind an error nobody may be reading any more.
        let _ = stream.write_all(piece);
    }
    let _ = stream.shutdown(Shutdown::Write);
    read_to_end(stream)
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("the server accepts");
    stream.set_nodelay(true).expect("a socket");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    stream
}

/// All that comes until the connection ends, in one way or the other.
fn read_to_end(mut stream: TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => bytes,
        // Closed with bytes unread.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => bytes,
        Err(error) => panic!("{error} behind {}", bytes.escape_ascii()),
    }
}

#[track_caller]
fn same(expected: &[u8], found: &[u8], stream: &[u8], how: &str) {
    assert!(
        expected == found,
        "another answer through the balancer\n    sent: {} ({how})\n  direct: {}\n proxied: {}",
        stream.escape_ascii(),
        expected.escape_ascii(),
        found.escape_ascii()
    );
}

/// Reads, from which the damaged streams are made. None of them is a letter away from a command
/// that the balancer refuses otherwise than a replica does.
const READS: [&[&str]; 12] = [
    &["GET", "key"],
    &["GET", "none"],
    &["MGET", "key", "none", "list"],
    &["STRLEN", "key"],
    &["EXISTS", "key", "list"],
    &["LRANGE", "list", "0", "-1"],
    &["HGETALL", "hash"],
    &["HGET", "hash", "field"],
    &["ZRANGE", "zset", "0", "-1", "WITHSCORES"],
    &["SMEMBERS", "set"],
    &["ECHO", "two words"],
    &["PING"],
];

/// Commands that change a session. The two kinds are not for one stream: between MULTI and EXEC the
/// balancer refuses the second.
const TRANSACTION: [&[&str]; 3] = [&["MULTI"], &["EXEC"], &["DISCARD"]];
const SESSION: [&[&str]; 4] =
    [&["SELECT", "0"], &["SUBSCRIBE", "channel"], &["UNSUBSCRIBE", "channel"], &["EXEC"]];

/// A few commands with a few wounds, and after them the one that shows whether it is in step.
fn damaged_stream(rng: &mut Rng) -> Vec<u8> {
    loop {
        let mut stream = Vec::new();
        let others: &[&[&str]] = if rng.bool() { &TRANSACTION } else { &SESSION };
        for _ in 0..rng.usize(1..5) {
            let from = if rng.u8(..3) == 0 { others } else { &READS };
            let command = from[rng.usize(..from.len())];
            match rng.u8(..3) {
                0 => stream.extend_from_slice(inline(command, rng).as_bytes()),
                _ => stream.extend_from_slice(&encode(command)),
            }
        }
        for _ in 0..rng.usize(1..4) {
            damage(&mut stream, rng);
        }
        stream.extend_from_slice(STILL_IN_STEP);
        if !is_http(&stream) && !has_many_arguments(&stream) {
            return stream;
        }
    }
}

/// The command as a line, each word with quotes or without.
fn inline(words: &[&str], rng: &mut Rng) -> String {
    let quoted = |word: &&str| match rng.u8(..4) {
        0 => format!("'{word}'"),
        1 => format!("\"{word}\""),
        _ => (*word).to_owned(),
    };
    let words: Vec<String> = words.iter().map(quoted).collect();
    format!("{}\r\n", words.join(" "))
}

/// What makes a difference to a parser.
const BYTES: &[u8] = b"*$\r\n\0 \t\x0b\"'\\x0123456789-+:\xff\x80aG";

const LINES: [&[u8]; 12] = [
    b"\r\n",
    b"\n",
    b"\r",
    b"*0\r\n",
    b"*-1\r\n",
    b"*1\r\n",
    b"$-1\r\n",
    b"$4\r\n",
    b"\"",
    b"'a'b",
    b"\\x",
    b"PING\r\n",
];

const NUMBERS: [&[u8]; 16] = [
    b"",
    b"-1",
    b"0",
    b"-0",
    b"1",
    b"2",
    b"5",
    b"01",
    b"+1",
    b"1 ",
    b"1000",
    b"536870913",
    b"2147483648",
    b"9223372036854775807",
    b"9223372036854775808",
    b"18446744073709551617",
];

fn damage(stream: &mut Vec<u8>, rng: &mut Rng) {
    let begin = rng.usize(..=stream.len());
    let end = (begin + rng.usize(1..8)).min(stream.len());
    match rng.u8(..8) {
        0 => stream[begin..end].iter_mut().take(1).for_each(|byte| *byte ^= 1 << rng.u8(..8)),
        1 => stream.insert(begin, BYTES[rng.usize(..BYTES.len())]),
        2 => stream[begin..end].iter_mut().for_each(|byte| *byte = BYTES[rng.usize(..BYTES.len())]),
        3 => drop(stream.drain(begin..end)),
        4 if rng.u8(..4) == 0 => stream.truncate(begin),
        5 => drop(stream.splice(begin..begin, stream[begin..end].to_vec())),
        6 => drop(stream.splice(begin..begin, LINES[rng.usize(..LINES.len())].to_vec())),
        _ => {
            let Some(sign) = stream[begin..].iter().position(|byte| b"*$".contains(byte)) else {
                return;
            };
            let number = begin + sign + 1;
            let digits = stream[number..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            let other = NUMBERS[rng.usize(..NUMBERS.len())];
            drop(stream.splice(number..number + digits, other.to_vec()));
        }
    }
}

/// Whether the balancer takes it for HTTP.
fn is_http(stream: &[u8]) -> bool {
    let text = stream.trim_ascii_start();
    let method = text.iter().take_while(|byte| byte.is_ascii_uppercase() || **byte == b'-').count();
    [&b" /"[..], b" *", b" http"].iter().any(|target| text[method..].starts_with(target))
}

/// Whether a number of arguments may lie between the limits of the balancer and of Redis.
fn has_many_arguments(stream: &[u8]) -> bool {
    stream.split(|&byte| byte == b'*').skip(1).any(|behind| {
        let digits = behind.iter().take_while(|byte| byte.is_ascii_digit());
        let number = digits.fold(0_u64, |number, digit| {
            number.saturating_mul(10).saturating_add(u64::from(digit - b'0'))
        });
        (1_048_577..1 << 31).contains(&number)
    })
}
