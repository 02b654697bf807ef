//! Fuzzes the parser of a Redis client's commands and the policy. The first byte of the input sets the
//! size of the pieces in which the other bytes arrive.
//!
//! The pieces must not change the commands, a backend must read each forwarded command as we do, and
//! only commands listed as reads may be forwarded.

#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use redis::Value;
use redis_lb::policy::{Allowed, CommandTable, Policy, Verdict};
use redis_lb::resp::{Command, CommandParser, Framer, ProtocolError, write};

const MAX_ARGUMENT_BYTES: usize = 1000;

type Args = Vec<Vec<u8>>;

/// Name, arity, flags, subcommands.
struct Listed(&'static str, i64, &'static [&'static str], &'static [Listed]);

const SERVER_7: &[Listed] = &[
    Listed("get", 2, &["readonly", "fast"], &[]),
    Listed("set", -3, &["write", "denyoom"], &[]),
    Listed("ping", -1, &["fast"], &[]),
    Listed("keys", 2, &["readonly"], &[]),
    Listed("role", 1, &["noscript"], &[]),
    Listed("publish", 3, &["pubsub"], &[]),
    Listed("monitor", 1, &["admin"], &[]),
    Listed("blpop", -3, &["write", "blocking"], &[]),
    Listed("xread", -4, &["readonly", "blocking"], &[]),
    Listed("json.get", -2, &["readonly"], &[]),
    Listed("config", -2, &[], &[Listed("config|get", -3, &["admin"], &[])]),
    Listed("memory", -2, &[], &[Listed("memory|usage", -3, &["readonly"], &[])]),
    Listed("xgroup", -2, &[], &[Listed("xgroup|create", -5, &["write"], &[])]),
];

const SERVER_6: &[Listed] = &[
    Listed("get", 2, &["readonly", "fast"], &[]),
    Listed("set", -3, &["write", "denyoom"], &[]),
    Listed("keys", 2, &["readonly"], &[]),
    Listed("role", 1, &["noscript"], &[]),
    Listed("xread", -4, &["readonly"], &[]),
    Listed("memory", -2, &["readonly"], &[]),
    Listed("config", -2, &["admin"], &[]),
];

/// Commands that may pass: both servers know them, and KEYS is allowed.
const READS: [&[u8]; 5] = [b"get", b"keys", b"role", b"xread", b"memory"];

/// Commands that are forwarded only inside MULTI; outside it the session answers them.
const IN_TRANSACTION: [&[u8]; 4] = [b"ping", b"echo", b"time", b"unwatch"];

static POLICY: LazyLock<Policy> = LazyLock::new(|| {
    let table = |rows, is_redis_7| {
        let mut reply = Vec::new();
        list(&mut reply, rows, is_redis_7);
        Arc::new(CommandTable::parse(&reply).expect("a list of commands"))
    };
    Policy::new(
        &[table(SERVER_7, true), table(SERVER_6, false)],
        Allowed { keys: true, scripts: false },
    )
});

/// Writes the reply to `COMMAND`, which has no subcommands before Redis 7.
fn list(out: &mut Vec<u8>, rows: &[Listed], is_redis_7: bool) {
    write::array(out, rows.len());
    for Listed(name, arity, flags, subcommands) in rows {
        write::array(out, if is_redis_7 { 10 } else { 7 });
        write::bulk(out, name.as_bytes());
        write::integer(out, *arity);
        write::array(out, flags.len());
        flags.iter().for_each(|flag| write::simple(out, flag));
        (0..3).for_each(|_| write::integer(out, 0));
        write::array(out, 0);
        if is_redis_7 {
            (0..2).for_each(|_| write::array(out, 0));
            list(out, subcommands, true);
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&size, bytes)) = data.split_first() else { return };
    let whole = parse_pieces([bytes], judge);
    let in_pieces = parse_pieces(bytes.chunks(usize::from(size) + 1), |_| {});
    assert_eq!(in_pieces, whole);
    if let Err(error) = whole.1 {
        let mut reply = Vec::new();
        error.write(&mut reply);
        assert_is_one_frame(&reply);
    }
});

/// Returns all commands, then the number of bytes after the last one or the error.
fn parse_pieces<'a>(
    pieces: impl IntoIterator<Item = &'a [u8]>,
    look: impl Fn(&Command),
) -> (Vec<Args>, Result<usize, ProtocolError>) {
    let mut parser = CommandParser::new(MAX_ARGUMENT_BYTES);
    let mut commands = Vec::new();
    let mut input = Vec::new();
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            let (used, is_whole) = match parser.parse(&input) {
                Ok((used, Some(command))) => {
                    look(&command);
                    commands.push(command.args().map(<[u8]>::to_vec).collect());
                    (used, true)
                }
                Ok((used, None)) => (used, false),
                Err(error) => return (commands, Err(error)),
            };
            input.drain(..used);
            if !is_whole {
                assert_eq!(parser.is_within_command(), !input.is_empty());
                break;
            }
        }
    }
    (commands, Ok(input.len()))
}

fn judge(command: &Command) {
    assert_means_the_same_elsewhere(command);
    let outside = POLICY.verdict(command);
    let inside = POLICY.verdict_in_transaction(command);
    if outside == Verdict::Forward {
        assert!(is_one_of(command, &READS), "{command:?} was forwarded");
    }
    if inside == Verdict::Forward {
        assert!(is_one_of(command, &READS) || is_one_of(command, &IN_TRANSACTION));
    }
    for verdict in [outside, inside] {
        if let Verdict::Refuse(error) = verdict {
            assert!(!error.error.contains(&b'\r') && !error.error.contains(&b'\n'));
            let mut reply = Vec::new();
            write::error(&mut reply, error.error);
            assert_is_one_frame(&reply);
        }
    }
}

/// Checks that another parser reads the forwarded bytes as one array of the arguments.
fn assert_means_the_same_elsewhere(command: &Command) {
    let args = command.args().map(|arg| Value::BulkString(arg.to_vec())).collect();
    let read = redis::parse_redis_value(command.bytes()).expect("an array");
    assert_eq!(read, Value::Array(args));
    assert_is_one_frame(command.bytes());
}

fn assert_is_one_frame(bytes: &[u8]) {
    let mut framer = Framer::new();
    assert_eq!(framer.feed(bytes).expect("a frame"), bytes.len());
    assert!(framer.is_done());
}

fn is_one_of(command: &Command, names: &[&[u8]]) -> bool {
    names.iter().any(|name| command.is(0, name))
}
