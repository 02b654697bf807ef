//! Properties of the command parser that hold whatever a client sends, and however it arrives.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::resp::CommandBuilder;
use crate::resp::arrival::{cuts, damaged, damages, pieces};

/// Cases of each property; the default, 256, takes no time.
const CASES: u32 = 2000;

/// Long enough for an argument to be refused for its length in these tests.
const MAX_ARGUMENT: usize = 200;

/// Result of parsing a client's bytes.
#[derive(Debug, PartialEq)]
struct Found {
    /// Each command's arguments.
    commands: Vec<Vec<Vec<u8>>>,
    /// Number of bytes at the end that begin a command; or why the bytes are no command.
    end: Result<usize, ProtocolError>,
}

/// Parses as a session does: unused bytes stay in front of those that arrive next. Checks what must
/// hold after each step.
fn parse_pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Found {
    let mut parser = CommandParser::new(MAX_ARGUMENT);
    let mut input = Vec::new();
    let mut commands = Vec::new();
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            let parsed = parser.parse(&input);
            let (used, is_whole) = match parsed {
                Ok((used, command)) => {
                    assert!(used <= input.len(), "used {used} of {}", input.len());
                    commands.extend(command.map(checked_args));
                    (used, command.is_some())
                }
                Err(error) => return Found { commands, end: Err(error) },
            };
            assert_holds_little(&parser, input.len());
            input.drain(..used);
            if !is_whole {
                assert_eq!(parser.is_within_command(), !input.is_empty());
                break;
            }
        }
    }
    Found { commands, end: Ok(input.len()) }
}

/// Returns the arguments of a command after checking that its bytes are their canonical form.
fn checked_args(command: Command) -> Vec<Vec<u8>> {
    let args: Vec<Vec<u8>> = command.args().map(<[u8]>::to_vec).collect();
    assert!(!args.is_empty());
    assert_eq!(command.bytes(), canonical(&args));
    args
}

/// Checks that memory follows from the bytes that arrived, never from a length that they announce.
/// An argument takes at least two of them, and eight bytes in the list; its canonical form is seven
/// bytes. A Vec may have room for twice that.
fn assert_holds_little(parser: &CommandParser, given: usize) {
    let held = parser.args.capacity() * size_of::<Span>() + parser.encoded.capacity();
    assert!(held <= 1024 + 16 * given, "{held} bytes are held for {given}");
}

fn canonical(args: &[Vec<u8>]) -> Vec<u8> {
    args.iter().collect::<CommandBuilder>().into_bytes()
}

/// An argument: any bytes, or what looks like the protocol itself.
fn argument() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![vec(any::<u8>(), 0..20), soup(4)]
}

const GRAMMAR: [&[u8]; 32] = [
    b"*",
    b"$",
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t\x0b\x0c",
    b"\"",
    b"'",
    b"\\",
    b"\\x4",
    b"-",
    b"+",
    b"*0\r\n",
    b"*-1\r\n",
    b"*1\r\n",
    b"*2\r\n",
    b"$0\r\n\r\n",
    b"$1\r\n",
    b"$-1\r\n",
    b"$4\r\nPING\r\n",
    b"*1\r\n$4\r\nPING\r\n",
    b"PING",
    b"get \"a",
    b"*1048576\r\n",
    b"*1048577\r\n",
    b"$200\r\n",
    b"$201\r\n",
    b"$536870912\r\n",
    b"*9223372036854775807\r\n",
    b"$18446744073709551616\r\n",
];

/// Pieces of the grammar in any order.
fn soup(pieces: usize) -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => select(&GRAMMAR[..]).prop_map(<[u8]>::to_vec),
        1 => (0..30_u32).prop_map(|number| number.to_string().into_bytes()),
        1 => vec(any::<u8>(), 0..4),
    ];
    vec(piece, 0..=pieces).prop_map(|pieces| pieces.concat())
}

/// Beginnings of lines that may get too long.
const LINE_STARTS: [&[u8]; 6] = [b"", b"PING ", b"\"", b"*", b"*1\r\n", b"*1\r\n$"];

/// Bytes that Redis ignores.
const NOTHING: [&[u8]; 5] = [b"*0\r\n", b"*-1\r\n", b"\r\n", b"\n", b" \t\x0b\r\n"];

/// A client's bytes, and the arguments of the command in them, if there is one.
type Sent = (Vec<u8>, Option<Vec<Vec<u8>>>);

/// A command in one of the forms that Redis takes, or an empty one.
fn sent() -> impl Strategy<Value = Sent> {
    let args = || vec(argument(), 1..6);
    prop_oneof![
        4 => args().prop_map(|args| (canonical(&args), Some(args))),
        2 => (args(), any::<[u8; 4]>())
            .prop_map(|(args, skipped)| (sloppy(&args, skipped), Some(args))),
        2 => (args(), any::<bool>())
            .prop_map(|(args, escape)| (inline(&args, escape), Some(args))),
        1 => select(&NOTHING[..]).prop_map(|bytes| (bytes.to_vec(), None)),
    ]
}

/// Puts other bytes where Redis does not look at them.
fn sloppy(args: &[Vec<u8>], skipped: [u8; 4]) -> Vec<u8> {
    let [after_count, after_length, rest @ ..] = skipped;
    let mut bytes = format!("*{}\r", args.len()).into_bytes();
    bytes.push(after_count);
    for arg in args {
        bytes.extend_from_slice(format!("${}\r", arg.len()).as_bytes());
        bytes.push(after_length);
        bytes.extend_from_slice(arg);
        bytes.extend_from_slice(&rest);
    }
    bytes
}

/// Puts the arguments in quotes on one line, with every byte escaped or only those that need it.
fn inline(args: &[Vec<u8>], escape_all: bool) -> Vec<u8> {
    let quote = |byte: &u8| match byte {
        b'"' | b'\\' => vec![b'\\', *byte],
        b'\n' | 0 => format!("\\x{byte:02x}").into_bytes(),
        _ if escape_all => format!("\\x{byte:02X}").into_bytes(),
        _ => vec![*byte],
    };
    let mut line = Vec::new();
    for arg in args {
        line.push(b'"');
        line.extend(arg.iter().flat_map(quote));
        line.extend_from_slice(b"\" ");
    }
    line.push(b'\n');
    line
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    #[test]
    fn commands_in_every_form_are_found_however_they_are_split(
        stream in vec(sent(), 0..6), cuts in cuts(),
    ) {
        let bytes = stream.iter().flat_map(|(bytes, _)| bytes.clone()).collect::<Vec<u8>>();
        let commands = stream.into_iter().filter_map(|(_, args)| args).collect();
        prop_assert_eq!(parse_pieces(pieces(&bytes, &cuts)), Found { commands, end: Ok(0) });
    }

    #[test]
    fn damaged_commands_get_the_same_verdict_however_they_are_split(
        stream in vec(sent(), 1..5), damages in damages(soup(2)), cuts in cuts(),
    ) {
        let bytes = stream.into_iter().flat_map(|(bytes, _)| bytes).collect();
        let bytes = damaged(bytes, &damages);
        prop_assert_eq!(parse_pieces(pieces(&bytes, &cuts)), parse_pieces([&bytes[..]]));
        prop_assert_eq!(parse_pieces(bytes.chunks(1)), parse_pieces([&bytes[..]]));
    }

    #[test]
    fn any_bytes_get_the_same_verdict_however_they_are_split(
        bytes in prop_oneof![soup(12), vec(any::<u8>(), 0..200)], cuts in cuts(),
    ) {
        prop_assert_eq!(parse_pieces(pieces(&bytes, &cuts)), parse_pieces([&bytes[..]]));
        prop_assert_eq!(parse_pieces(bytes.chunks(1)), parse_pieces([&bytes[..]]));
    }

    #[test]
    fn lines_around_the_limit_get_the_same_verdict_however_they_are_split(
        start in select(&LINE_STARTS[..]),
        filler in select(&b"1a \0\""[..]),
        length in MAX_INLINE_BYTES - 8..MAX_INLINE_BYTES + 8,
        end in prop_oneof![Just(b"\r\n".to_vec()), Just(b"\n".to_vec()), soup(3)],
    ) {
        let bytes = [start, &vec![filler; length], &end].concat();
        let (most, last) = bytes.split_at(MAX_INLINE_BYTES - 8);
        let pieces = std::iter::once(most).chain(last.chunks(1));
        prop_assert_eq!(parse_pieces(pieces), parse_pieces([&bytes[..]]));
    }
}
