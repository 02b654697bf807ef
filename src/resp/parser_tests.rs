use std::time::{Duration, Instant};

use super::*;
use crate::resp::CommandBuilder;

const MAX_ARGUMENT: usize = 16 * 1024 * 1024;

/// Bytes of a client, and the canonical form of the commands that Redis 7.0 finds in them.
const CORPUS: [(&[u8], &[&[u8]]); 30] = [
    (b"*1\r\n$4\r\nPING\r\n", &[b"*1\r\n$4\r\nPING\r\n"]),
    (b"*2\r\n$3\r\nGET\r\n$0\r\n\r\n", &[b"*2\r\n$3\r\nGET\r\n$0\r\n\r\n"]),
    (b"*2\r\n$1\r\na\r\n$6\r\n*1\r\n$1\r\n", &[b"*2\r\n$1\r\na\r\n$6\r\n*1\r\n$1\r\n"]),
    (b"*1\r\n$2\r\n\0\xff\r\n", &[b"*1\r\n$2\r\n\0\xff\r\n"]),
    (b"*1\r\n$1\r\na\r\n*1\r\n$1\r\nb\r\n", &[b"*1\r\n$1\r\na\r\n", b"*1\r\n$1\r\nb\r\n"]),
    // Two bytes are skipped after an argument, one after the CR of a line.
    (b"*1\r\n$1\r\naXY*1\r\n$1\r\nb\r\n", &[b"*1\r\n$1\r\na\r\n", b"*1\r\n$1\r\nb\r\n"]),
    (b"*1\r\n$1\r\na\n\r", &[b"*1\r\n$1\r\na\r\n"]),
    (b"*1\rX$1\r\na\r\n", &[b"*1\r\n$1\r\na\r\n"]),
    (b"*1\r\r$1\r\0a\r\n", &[b"*1\r\n$1\r\na\r\n"]),
    // A command without arguments is ignored.
    (b"*0\r\n*-1\r\n*-9223372036854775808\rX*1\r\n$1\r\na\r\n", &[b"*1\r\n$1\r\na\r\n"]),
    (b"\r\n\n \t\x0b\x0c\r\n\r\r\nPING\r\n", &[b"*1\r\n$4\r\nPING\r\n"]),
    (b"*0\r\nPING\n*0\r\n", &[b"*1\r\n$4\r\nPING\r\n"]),
    // Inline commands.
    (b"PING\n", &[b"*1\r\n$4\r\nPING\r\n"]),
    (b"  get\tkey  \r\n", &[b"*2\r\n$3\r\nget\r\n$3\r\nkey\r\n"]),
    (b" *1\r\n$1\r\n", &[b"*1\r\n$2\r\n*1\r\n", b"*1\r\n$2\r\n$1\r\n"]),
    (b"a\rb\r\n", &[b"*2\r\n$1\r\na\r\n$1\r\nb\r\n"]),
    (b"a\x0bb \x0bc\n", &[b"*2\r\n$3\r\na\x0bb\r\n$1\r\nc\r\n"]),
    (b"a\xffb\n", &[b"*1\r\n$3\r\na\xffb\r\n"]),
    (b"\"\" ''\n", &[b"*2\r\n$0\r\n\r\n$0\r\n\r\n"]),
    (b"\"a b\" 'c d'\n", &[b"*2\r\n$3\r\na b\r\n$3\r\nc d\r\n"]),
    (b"a\"b c\"\n", &[b"*1\r\n$4\r\nab c\r\n"]),
    (b"a'b c'\x0bd\n", &[b"*2\r\n$4\r\nab c\r\n$1\r\nd\r\n"]),
    (b"\"\\n\\r\\t\\b\\a\\q\\\\\\\"\"\n", &[b"*1\r\n$8\r\n\n\r\t\x08\x07q\\\"\r\n"]),
    (b"\"\\x00\\xfF\\x4\\x\\X41\"\n", &[b"*1\r\n$8\r\n\0\xffx4xX41\r\n"]),
    (b"'\\n\\'\\\\\"'\n", &[b"*1\r\n$6\r\n\\n'\\\\\"\r\n"]),
    (b"\\x41\\\n", &[b"*1\r\n$5\r\n\\x41\\\r\n"]),
    (b"\"a\"\r\n", &[b"*1\r\n$1\r\na\r\n"]),
    (b"GET / HTTP/1.1\n", &[b"*3\r\n$3\r\nGET\r\n$1\r\n/\r\n$8\r\nHTTP/1.1\r\n"]),
    (
        b"a\n*1\r\n$1\r\nb\r\nc\n",
        &[b"*1\r\n$1\r\na\r\n", b"*1\r\n$1\r\nb\r\n", b"*1\r\n$1\r\nc\r\n"],
    ),
    (b"", &[]),
];

/// Bytes of a client, and the error of Redis 7.0 for them (if it had our limits).
const BROKEN: [(&[u8], ProtocolError); 27] = [
    (b"*\r\n", ProtocolError::InvalidCount),
    (b"*x\r\n", ProtocolError::InvalidCount),
    (b"*01\r\n", ProtocolError::InvalidCount),
    (b"*+1\r\n", ProtocolError::InvalidCount),
    (b"*-0\r\n", ProtocolError::InvalidCount),
    (b"* 1\r\n", ProtocolError::InvalidCount),
    (b"*1 \r\n", ProtocolError::InvalidCount),
    (b"*1\n$1\r\n", ProtocolError::InvalidCount),
    (b"*9223372036854775808\r\n", ProtocolError::InvalidCount),
    (b"*1048577\r\n", ProtocolError::InvalidCount),
    (b"*1\r\nx\r\n", ProtocolError::ExpectedDollar(b'x')),
    (b"*1\r\n*1\r\n", ProtocolError::ExpectedDollar(b'*')),
    (b"*1\r\n\r\n", ProtocolError::ExpectedDollar(b'\r')),
    (b"*1\r\n\n\r\n", ProtocolError::ExpectedDollar(b'\n')),
    (b"*1\r\n\xff\r\n", ProtocolError::ExpectedDollar(0xff)),
    (b"*2\r\n$1\r\na\r\n:1\r\n", ProtocolError::ExpectedDollar(b':')),
    (b"*1\r\n$\r\n", ProtocolError::InvalidLength),
    (b"*1\r\n$-1\r\n", ProtocolError::InvalidLength),
    (b"*1\r\n$01\r\n", ProtocolError::InvalidLength),
    (b"*1\r\n$1\n\r\n", ProtocolError::InvalidLength),
    (b"*1\r\n$16777217\r\n", ProtocolError::InvalidLength),
    (b"*1\r\n$18446744073709551617\r\n", ProtocolError::InvalidLength),
    (b"\"a\n", ProtocolError::UnbalancedQuotes),
    (b"a 'b\r\n", ProtocolError::UnbalancedQuotes),
    (b"\"a\"b\n", ProtocolError::UnbalancedQuotes),
    (b"'a'\"b\"\n", ProtocolError::UnbalancedQuotes),
    (b"\"a\\\n", ProtocolError::UnbalancedQuotes),
];

/// A connection as a session has it: a parser and the bytes that it has not used.
struct Client {
    parser: CommandParser,
    input: Vec<u8>,
    commands: Vec<Vec<u8>>,
}

impl Client {
    fn new() -> Self {
        let parser = CommandParser::new(MAX_ARGUMENT);
        Self { parser, input: Vec::new(), commands: Vec::new() }
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<(), ProtocolError> {
        self.input.extend_from_slice(bytes);
        let mut used = 0;
        loop {
            let (length, command) = self.parser.parse(&self.input[used..])?;
            used += length;
            let Some(command) = command else { break };
            let encoded = command.args().collect::<CommandBuilder>().into_bytes();
            assert_eq!(command.bytes(), encoded);
            self.commands.push(encoded);
        }
        self.input.drain(..used);
        assert_eq!(self.parser.is_within_command(), !self.input.is_empty());
        Ok(())
    }
}

#[test]
fn any_split_of_the_bytes_finds_the_same_commands() {
    for (bytes, commands) in CORPUS {
        for cut in 0..=bytes.len() {
            let mut client = Client::new();
            client.receive(&bytes[..cut]).expect("valid");
            client.receive(&bytes[cut..]).expect("valid");
            assert_eq!(client.commands, commands, "{}", bytes.escape_ascii());
            assert!(!client.parser.is_within_command());
        }
    }
}

#[test]
fn any_random_split_of_many_commands_finds_the_same() {
    let stream: Vec<u8> = CORPUS.iter().flat_map(|(bytes, _)| bytes.to_vec()).collect();
    let commands: Vec<&[u8]> = CORPUS.iter().flat_map(|(_, found)| found.to_vec()).collect();
    let mut random = fastrand::Rng::with_seed(3);
    for _ in 0..2000 {
        let mut client = Client::new();
        let longest = random.usize(1..60);
        let mut rest = &stream[..];
        while !rest.is_empty() {
            let (piece, later) = rest.split_at(random.usize(1..=longest).min(rest.len()));
            client.receive(piece).expect("valid");
            rest = later;
        }
        assert_eq!(client.commands, commands);
    }
}

#[test]
fn any_split_of_what_is_no_command_is_the_same_error() {
    for (bytes, error) in BROKEN {
        for cut in 0..bytes.len() {
            let mut client = Client::new();
            client.receive(&bytes[..cut]).expect("valid so far");
            assert_eq!(client.receive(&bytes[cut..]), Err(error), "{}", bytes.escape_ascii());
            assert_eq!(client.commands, Vec::<Vec<u8>>::new());
        }
    }
}

#[test]
fn errors_are_worded_as_by_redis() {
    for (error, reply) in [
        (ProtocolError::TooBigInline, &b"too big inline request"[..]),
        (ProtocolError::UnbalancedQuotes, b"unbalanced quotes in request"),
        (ProtocolError::TooBigCountLine, b"too big mbulk count string"),
        (ProtocolError::InvalidCount, b"invalid multibulk length"),
        (ProtocolError::TooBigLengthLine, b"too big bulk count string"),
        (ProtocolError::ExpectedDollar(b'x'), b"expected '$', got 'x'"),
        (ProtocolError::ExpectedDollar(b'\r'), b"expected '$', got ' '"),
        (ProtocolError::ExpectedDollar(0xff), b"expected '$', got '\xff'"),
        (ProtocolError::InvalidLength, b"invalid bulk length"),
    ] {
        let mut out = Vec::new();
        error.write(&mut out);
        assert_eq!(out, [b"-ERR Protocol error: ", reply, b"\r\n"].concat());
    }
    let display = ProtocolError::ExpectedDollar(b'\n').to_string();
    assert_eq!(display, "Protocol error: expected '$', got ' '");
}

#[test]
fn a_line_may_have_64_kib_and_no_byte_more() {
    for (start, end, error) in [
        (&b""[..], &b"\n"[..], ProtocolError::TooBigInline),
        (b"*", b"\r\n", ProtocolError::TooBigCountLine),
        (b"*1\r\n$", b"\r\n", ProtocolError::TooBigLengthLine),
    ] {
        let line_start = start.len().min(1);
        let digits = vec![b'1'; MAX_INLINE_BYTES - line_start];
        let longest = [start, &digits, end].concat();
        let over = [start, &digits, b"1", end].concat();
        assert_ne!(Client::new().receive(&longest), Err(error));
        assert_eq!(Client::new().receive(&over), Err(error));

        let mut client = Client::new();
        client.receive(start).expect("begun");
        client.receive(&digits).expect("the longest line, without its end");
        assert_eq!(client.receive(b"1"), Err(error));
    }
}

#[test]
fn a_line_with_a_nul_never_ends_as_in_redis() {
    for (start, error) in [
        (&b"\0"[..], ProtocolError::TooBigInline),
        (b"PING\0\r\n", ProtocolError::TooBigInline),
        (b"*1\0\r\n", ProtocolError::TooBigCountLine),
        (b"*1\r\n\0$1\r\n", ProtocolError::TooBigLengthLine),
    ] {
        let mut client = Client::new();
        client.receive(start).expect("an open line");
        client.receive(b"*1\r\n$4\r\nPING\r\nPING\r\n").expect("an open line");
        assert!(client.parser.is_within_command());
        assert_eq!(client.receive(&vec![b'\n'; MAX_INLINE_BYTES]), Err(error));
        assert_eq!(client.commands, Vec::<Vec<u8>>::new());
    }
}

#[test]
fn canonical_bytes_are_passed_on_as_they_are_and_others_are_not() {
    for (input, is_same) in [
        (&b"*2\r\n$4\r\nECHO\r\n$1\r\na\r\n"[..], true),
        (b"*2\r\n$4\r\nECHO\r\n$1\r\naXY", false),
        (b"*2\r\n$4\rXECHO\r\n$1\r\na\r\n", false),
        (b"ECHO a\r\n", false),
    ] {
        let mut parser = CommandParser::new(MAX_ARGUMENT);
        let (used, command) = parser.parse(input).expect("valid");
        let command = command.expect("whole");
        assert_eq!(used, input.len());
        assert_eq!(std::ptr::eq(command.bytes(), input), is_same);
        assert_eq!(command.bytes(), b"*2\r\n$4\r\nECHO\r\n$1\r\na\r\n");
    }
}

#[test]
fn a_command_tells_its_arguments() {
    let mut parser = CommandParser::new(MAX_ARGUMENT);
    let (_, command) = parser.parse(b"*3\r\n$3\r\nGet\r\n$0\r\n\r\n$2\r\nNx\r\n").expect("valid");
    let command = command.expect("whole");
    assert_eq!(command.arg_count(), 3);
    assert_eq!(command.name(), b"Get");
    assert_eq!(command.args().collect::<Vec<_>>(), [&b"Get"[..], b"", b"Nx"]);
    assert_eq!(command.arg(3), None);
    assert!(command.is(0, b"GET") && command.is(2, b"nX") && command.is(1, b""));
    assert!(!command.is(2, b"N") && !command.is(3, b""));
}

#[test]
fn the_limits_of_arguments_and_of_commands_hold() {
    let mut parser = CommandParser::new(3);
    assert!(parser.parse(b"*1\r\n$3\r\nabc\r\n").is_ok_and(|(_, found)| found.is_some()));
    assert!(matches!(parser.parse(b"*1\r\n$4\r\n"), Err(ProtocolError::InvalidLength)));

    // Four arguments of 16 MiB are over 64 MiB, with their lines.
    let mut client = Client::new();
    client.receive(b"*4\r\n").expect("begun");
    for _ in 0..3 {
        client.receive(b"$16777216\r\n").expect("begun");
        client.receive(&vec![b'a'; MAX_ARGUMENT]).expect("an argument");
        client.receive(b"\r\n").expect("an argument");
    }
    assert_eq!(client.receive(b"$16777216\r\n"), Err(ProtocolError::TooBigCommand));

    // One argument alone may have the greatest length.
    let mut parser = CommandParser::new(usize::MAX);
    assert!(parser.parse(b"*2\r\n$3\r\nGET\r\n$536870912\r\n").is_ok());
    let mut parser = CommandParser::new(usize::MAX);
    assert!(parser.parse(b"*2\r\n$3\r\nGET\r\n$536870913\r\n").is_err());
}

#[test]
fn an_announced_length_allocates_nothing_and_a_giant_command_leaves_nothing() {
    let mut client = Client::new();
    client.receive(b"*1048576\r\n$16777216\r\n").expect("begun");
    assert_eq!(client.parser.args.capacity(), 0);

    let many = [&b"*100000\r\n"[..], &b"$1\r\na\r\n".repeat(100_000)].concat();
    let long = [&b"*1\r\n$60000\r\n"[..], &[b'a'; 60_000], b"XY"].concat();
    for giant in [many, long] {
        let mut client = Client::new();
        client.receive(&giant).expect("valid");
        assert_eq!(client.commands.len(), 1);
        assert!(client.parser.args.capacity() <= KEPT_ARGUMENTS);
        assert!(client.parser.encoded.capacity() <= KEPT_BYTES);
    }
}

#[test]
fn no_byte_is_looked_at_again_and_again() {
    let start = Instant::now();
    let mut parser = CommandParser::new(MAX_ARGUMENT);
    let mut input = b"*2\r\n$3\r\nGET\r\n$16777216\r\n".to_vec();
    for _ in 0..MAX_ARGUMENT / 1024 {
        assert!(parser.parse(&input).is_ok_and(|(used, found)| used == 0 && found.is_none()));
        input.extend_from_slice(&[b'a'; 1024]);
    }
    input.extend_from_slice(b"\r\n");
    assert!(parser.parse(&input).is_ok_and(|(used, found)| used > 0 && found.is_some()));

    // Repeated for every byte, either would take more than 10^9 steps.
    let many_arguments = [&b"*1000000\r\n"[..], &b"$0\r\n\r\n".repeat(50_000)].concat();
    for bytes in [vec![b'a'; 60 * 1024], many_arguments] {
        let mut parser = CommandParser::new(MAX_ARGUMENT);
        for length in 1..=bytes.len() {
            let (used, found) = parser.parse(&bytes[..length]).expect("begun");
            assert!(used == 0 && found.is_none());
        }
    }
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}
