//! Properties of the conversion that hold whatever a server sends.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::Resp2Form::{Frames, NullArrays, Pairs, Text};
use super::*;
use crate::resp::Framer;
use crate::resp::arrival::{damaged, damages};

/// Cases of each property; the default, 256, takes no time.
const CASES: u32 = 2000;

/// A frame of RESP3, and what it is in RESP2.
type Both = (Vec<u8>, Vec<u8>);

const LINES: &[(&str, &str)] = &[
    ("+OK\r\n", "+OK\r\n"),
    (":42\r\n", ":42\r\n"),
    ("_\r\n", "$-1\r\n"),
    ("#t\r\n", ":1\r\n"),
    (",-1.5\r\n", "$4\r\n-1.5\r\n"),
    ("(12\r\n", "$2\r\n12\r\n"),
];

fn leaf() -> impl Strategy<Value = Both> {
    let line = select(LINES).prop_map(|(resp3, resp2)| (resp3.into(), resp2.into()));
    let bulk = prop_oneof![vec(any::<u8>(), 0..30), soup(3)].prop_map(|bytes| {
        let mut bulk = Vec::new();
        write::bulk(&mut bulk, &bytes);
        (bulk.clone(), bulk)
    });
    prop_oneof![line, bulk]
}

fn frame() -> impl Strategy<Value = Both> {
    let list = |frames: Vec<Both>, kind: &str, length: usize| -> Both {
        let mut both = (format!("{kind}{length}\r\n").into_bytes(), Vec::new());
        write::array(&mut both.1, frames.len());
        for (resp3, resp2) in frames {
            both.0.extend(resp3);
            both.1.extend(resp2);
        }
        both
    };
    leaf().prop_recursive(MAX_DEPTH as u32, 30, 5, move |frame| {
        let array = (vec(frame.clone(), 0..5), select(&["*", "~"][..]));
        let map = vec((frame.clone(), frame), 0..3);
        prop_oneof![
            array.prop_map(move |(frames, kind)| {
                let length = frames.len();
                list(frames, kind, length)
            }),
            map.prop_map(move |pairs| {
                let length = pairs.len();
                list(pairs.into_iter().flat_map(|(key, value)| [key, value]).collect(), "%", length)
            }),
        ]
    })
}

/// Pieces of the grammar in any order.
fn soup(pieces: usize) -> impl Strategy<Value = Vec<u8>> {
    let grammar = [
        "*",
        "$",
        "%",
        "~",
        "|",
        ">",
        "=",
        "!",
        "+",
        "-",
        ":",
        "_",
        ",",
        "#",
        "(",
        "\r\n",
        "\r",
        "\n",
        "1",
        "-1",
        "*2\r\n",
        "*0\r\n",
        "%1\r\n",
        "_\r\n",
        ",1.5\r\n",
        "#f\r\n",
        "$1\r\na\r\n",
        "*4294967295\r\n",
        "$9223372036854775807\r\n",
        "=5\r\ntxt:a\r\n",
    ];
    vec(select(grammar.to_vec()), 0..=pieces).prop_map(|pieces| pieces.concat().into_bytes())
}

/// Checks what must hold of each conversion.
fn convert_all(reply: &[u8]) {
    for form in [Frames, NullArrays, Pairs, Text] {
        let Some(resp2) = to_resp2(reply, form) else { continue };
        // The shortest double grows most: `,1` becomes `$1` and `1`.
        assert!(resp2.len() <= 2 * reply.len(), "{form:?}: {} of {}", resp2.len(), reply.len());
        let mut framer = Framer::new();
        assert_eq!(framer.feed(&resp2).expect("a reply"), resp2.len());
        assert!(framer.is_done());
        assert!(b"+-:$*".contains(&resp2[0]));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    #[test]
    fn each_frame_becomes_that_of_resp2((resp3, resp2) in frame(), cut in any::<prop::sample::Index>()) {
        prop_assert_eq!(to_resp2(&resp3, Frames), Some(resp2));
        prop_assert_eq!(to_resp2(&resp3[..cut.index(resp3.len())], Frames), None);
        convert_all(&resp3);
    }

    #[test]
    fn any_bytes_become_one_reply_or_none(
        (reply, _) in frame(),
        damages in damages(soup(2)),
        soup in soup(12),
        bytes in vec(any::<u8>(), 0..200),
    ) {
        convert_all(&damaged(reply, &damages));
        convert_all(&soup);
        convert_all(&bytes);
    }
}
