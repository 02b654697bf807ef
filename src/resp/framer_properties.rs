//! Properties of the framer that hold whatever a server sends, and however it arrives.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::resp::Protocol;
use crate::resp::arrival::{cuts, damaged, damages, pieces};

/// Cases of each property; the default, 256, takes no time.
const CASES: u32 = 2000;

/// Result of framing a server's bytes.
#[derive(Debug, PartialEq)]
struct Found {
    kind: Option<u8>,
    /// End of the reply, `None` if it is not complete; or why it is no reply.
    end: Result<Option<usize>, String>,
}

/// Feeds pieces until the reply ends, and checks what must hold after each step.
fn feed_pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Found {
    let mut framer = Framer::new();
    let mut given = 0;
    let mut consumed = 0;
    for piece in pieces {
        let fed = framer.feed(piece);
        given += piece.len();
        // Only an unfinished line is held, whatever lengths are announced.
        let held = framer.line.capacity();
        assert!(held <= 2 * given.clamp(8, MAX_LINE_BYTES), "{held} bytes are held for {given}");
        match fed {
            Ok(used) => consumed += used,
            Err(error) => return Found { kind: framer.kind(), end: Err(error.to_string()) },
        }
        if framer.is_done() {
            assert!(consumed <= given, "{consumed} of {given}");
            return Found { kind: framer.kind(), end: Ok(Some(consumed)) };
        }
        assert_eq!(consumed, given, "all is taken of a reply that goes on");
    }
    Found { kind: framer.kind(), end: Ok(None) }
}

/// A reply of up to some dozens of frames of that version of the protocol.
fn reply(protocol: Protocol) -> BoxedStrategy<Vec<u8>> {
    let string = match protocol {
        Protocol::Resp2 => line(LINES_2).boxed(),
        Protocol::Resp3 => line(LINES_3).boxed(),
    };
    let leaf = prop_oneof![string, payload(protocol)];
    leaf.prop_recursive(6, 40, 5, move |frame| match protocol {
        Protocol::Resp2 => list(&["*"], frame).boxed(),
        Protocol::Resp3 => prop_oneof![
            list(&["*", "~", ">"], frame.clone()),
            pairs("%", frame.clone()),
            (pairs("|", frame.clone()), frame)
                .prop_map(|(attribute, frame)| [attribute, frame].concat()),
        ]
        .boxed(),
    })
    .boxed()
}

/// Frames of one line in RESP2.
const LINES_2: &[&str] = &["+OK", "+", "-ERR no", ":42", ":-9223372036854775808", "$-1", "*-1"];
/// Frames of one line in RESP3.
const LINES_3: &[&str] =
    &["+OK", "-ERR no", ":0", "_", ",-1.5e300", ",inf", "#t", "(349289032840923"];

fn line(lines: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    select(lines).prop_map(|line| [line, "\r\n"].concat().into_bytes())
}

/// A string with a length, which may look like the protocol itself.
fn payload(protocol: Protocol) -> impl Strategy<Value = Vec<u8>> {
    let kinds: &[&str] = match protocol {
        Protocol::Resp2 => &["$"],
        Protocol::Resp3 => &["$", "!", "="],
    };
    (select(kinds), prop_oneof![vec(any::<u8>(), 0..30), soup(3)]).prop_map(|(kind, bytes)| {
        [format!("{kind}{}\r\n", bytes.len()).as_bytes(), &bytes, b"\r\n"].concat()
    })
}

fn list(
    kinds: &'static [&'static str],
    frame: impl Strategy<Value = Vec<u8>>,
) -> impl Strategy<Value = Vec<u8>> {
    (select(kinds), vec(frame, 0..5)).prop_map(|(kind, frames)| {
        [format!("{kind}{}\r\n", frames.len()).into_bytes(), frames.concat()].concat()
    })
}

fn pairs(
    kind: &'static str,
    frame: impl Strategy<Value = Vec<u8>> + Clone,
) -> impl Strategy<Value = Vec<u8>> {
    vec((frame.clone(), frame), 0..3).prop_map(move |pairs| {
        let frames = pairs.iter().flat_map(|(key, value)| [&key[..], value]).collect::<Vec<_>>();
        [format!("{kind}{}\r\n", pairs.len()).as_bytes(), &frames.concat()].concat()
    })
}

const GRAMMAR: [&[u8]; 30] = [
    b"*",
    b"$",
    b"%",
    b"|",
    b"~",
    b">",
    b"=",
    b"!",
    b"+",
    b"-",
    b":",
    b"_",
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b"?",
    b"+OK\r\n",
    b"_\r\n",
    b"$0\r\n\r\n",
    b"$3\r\nabc\r\n",
    b"*0\r\n",
    b"*-1\r\n",
    b"*2\r\n",
    b"|1\r\n",
    b"%1\r\n",
    b"*4294967295\r\n",
    b"%4294967296\r\n",
    b"$9223372036854775807\r\n",
    b"$18446744073709551615\r\n",
];

/// Pieces of the grammar in any order.
fn soup(pieces: usize) -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        6 => select(&GRAMMAR[..]).prop_map(<[u8]>::to_vec),
        1 => (-2..30_i32).prop_map(|number| number.to_string().into_bytes()),
        1 => vec(any::<u8>(), 0..4),
    ];
    vec(piece, 0..=pieces).prop_map(|pieces| pieces.concat())
}

/// A reply of either version.
fn any_reply() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![reply(Protocol::Resp2), reply(Protocol::Resp3)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    #[test]
    fn a_reply_ends_where_it_ends_however_it_is_split(
        attributes in vec(pairs("|", reply(Protocol::Resp3)), 0..2),
        reply in any_reply(),
        after in soup(2),
        cuts in cuts(),
    ) {
        // The generator may have put attributes of its own before the reply.
        prop_assume!(reply[0] != b'|');
        let whole = [attributes.concat(), reply.clone()].concat();
        let stream = [&whole[..], &after].concat();
        let found = Found { kind: Some(reply[0]), end: Ok(Some(whole.len())) };
        prop_assert_eq!(feed_pieces(stream.chunks(1)), found);
        prop_assert_eq!(feed_pieces(pieces(&stream, &cuts)), feed_pieces([&stream[..]]));
        prop_assert_eq!(feed_pieces([&stream[..whole.len() - 1]]).end, Ok(None));
    }

    #[test]
    fn a_damaged_reply_gets_the_same_verdict_however_it_is_split(
        reply in any_reply(), damages in damages(soup(2)), cuts in cuts(),
    ) {
        let bytes = damaged(reply, &damages);
        prop_assert_eq!(feed_pieces(pieces(&bytes, &cuts)), feed_pieces([&bytes[..]]));
        prop_assert_eq!(feed_pieces(bytes.chunks(1)), feed_pieces([&bytes[..]]));
    }

    #[test]
    fn any_bytes_get_the_same_verdict_however_they_are_split(
        bytes in prop_oneof![soup(12), vec(any::<u8>(), 0..200)], cuts in cuts(),
    ) {
        prop_assert_eq!(feed_pieces(pieces(&bytes, &cuts)), feed_pieces([&bytes[..]]));
        prop_assert_eq!(feed_pieces(bytes.chunks(1)), feed_pieces([&bytes[..]]));
    }

    #[test]
    fn lines_around_the_limit_get_the_same_verdict_however_they_are_split(
        start in select(&["+", "-ERR ", ":", "$", "*1\r\n+", "|1\r\n+a\r\n+"][..]),
        length in MAX_LINE_BYTES - 12..MAX_LINE_BYTES + 4,
        end in select(&["\r\n", "\n", "\r", "1"][..]),
    ) {
        let bytes = [start, &"1".repeat(length), end].concat().into_bytes();
        let (most, last) = bytes.split_at(MAX_LINE_BYTES - 16);
        let pieces = std::iter::once(most).chain(last.chunks(1));
        prop_assert_eq!(feed_pieces(pieces), feed_pieces([&bytes[..]]));
    }
}
