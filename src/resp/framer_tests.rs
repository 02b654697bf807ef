use super::*;

const REPLIES: [&[u8]; 24] = [
    b"+OK\r\n",
    b"-ERR no\r\n",
    b":42\r\n",
    b"$-1\r\n",
    b"$0\r\n\r\n",
    b"$5\r\na\r\nbc\r\n",
    b"*-1\r\n",
    b"*2\r\n*2\r\n$1\r\na\r\n*0\r\n*1\r\n:7\r\n",
    b"_\r\n",
    b",-1.5e300\r\n",
    b"#t\r\n",
    b"(3492890328409238509324850943850943825024385\r\n",
    b"!5\r\nERR x\r\n",
    b"=7\r\ntxt:a\r\n\r\n",
    b"%0\r\n",
    b"%2\r\n+a\r\n%1\r\n+b\r\n_\r\n$1\r\nc\r\n~2\r\n:1\r\n#f\r\n",
    b"~3\r\n,inf\r\n*0\r\n~1\r\n+a\r\n",
    b">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n",
    b">0\r\n",
    b"|0\r\n-ERR no\r\n",
    b"|1\r\n+ttl\r\n:3600\r\n!2\r\nno\r\n",
    b"|1\r\n+a\r\n|1\r\n+b\r\n+c\r\n*1\r\n+d\r\n%1\r\n+k\r\n+v\r\n",
    b"|1\r\n+a\r\n+b\r\n|1\r\n+c\r\n+d\r\n~1\r\n+e\r\n",
    b"*2\r\n|1\r\n+a\r\n+b\r\n:1\r\n|1\r\n+c\r\n+d\r\n:2\r\n",
];

#[test]
fn any_split_of_the_bytes_finds_the_same_end() {
    for reply in REPLIES {
        let stream = [reply, b"+next\r\n"].concat();
        for cut in 0..reply.len() {
            let mut framer = Framer::new();
            assert_eq!(framer.feed(&stream[..cut]).expect("valid"), cut);
            assert!(!framer.is_done());
            assert_eq!(framer.feed(&stream[cut..]).expect("valid"), reply.len() - cut);
            assert!(framer.is_done());
        }
    }
}

#[test]
fn byte_by_byte_is_the_same() {
    for reply in REPLIES {
        let mut framer = Framer::new();
        for byte in reply {
            assert!(!framer.is_done());
            assert_eq!(framer.feed(&[*byte]).expect("valid"), 1);
        }
        assert!(framer.is_done(), "{reply:?}");
    }
}

#[test]
fn the_kind_is_that_of_the_reply_and_not_of_attributes_before_it() {
    for (reply, kind) in [
        (&b"-ERR no\r\n"[..], b'-'),
        (b"$5\r\n", b'$'),
        (b"*2\r\n+a\r\n-ERR within\r\n", b'*'),
        (b">1\r\n+a\r\n", b'>'),
        (b"|0\r\n!2\r\n", b'!'),
        (b"|1\r\n+a\r\n|1\r\n+b\r\n+c\r\n*1\r\n+d\r\n%0\r\n", b'%'),
    ] {
        let mut framer = Framer::new();
        framer.feed(reply).expect("valid");
        assert_eq!(framer.kind(), Some(kind), "{reply:?}");
    }
    for unknown in [&b""[..], b"-ERR", b"|1\r\n-a\r\n-b\r\n", b"|0\r\n|0\r\n"] {
        let mut framer = Framer::new();
        framer.feed(unknown).expect("valid");
        assert_eq!(framer.kind(), None, "{unknown:?}");
    }
}

#[test]
fn no_number_of_nested_frames_overflows() {
    let mut framer = Framer::new();
    for _ in 0..100_000 {
        framer.feed(b"%4294967295\r\n|4294967295\r\n").expect("valid");
    }
    assert!(!framer.is_done());
    framer.frames_left = u64::MAX - 1;
    assert!(framer.feed(b"*4294967295\r\n").is_err());
}

#[test]
fn what_is_no_reply_is_refused() {
    for garbage in [
        &b"HTTP/1.1 200\r\n"[..],
        b"$x\r\n",
        b"$2\r\nabXY",
        b"$2\r\nab\r\r",
        b"$0\r\n\n\n",
        b"=4\r\ntxt:\xff\n",
        b"$-2\r\n",
        b"$+5\r\n",
        b"$05\r\n",
        b":12x\r\n",
        b":\r\n",
        b":-\r\n",
        b"_x\r\n",
        b"#x\r\n",
        b",zz\r\n",
        b"(-\r\n",
        b"*99999999999\r\n",
        b"+no carriage return\n",
        b"$?\r\n",
        b"*?\r\n",
        b"!-1\r\n",
        b"=-1\r\n",
        b"~-1\r\n",
        b">-1\r\n",
        b"%-1\r\n",
        b"|-1\r\n",
        b"%4294967296\r\n",
        b";0\r\n",
        b".\r\n",
        b"\r\n",
        b"\n",
    ] {
        assert!(Framer::new().feed(garbage).is_err(), "{garbage:?}");
    }
    assert!(Framer::new().feed(&vec![b'+'; MAX_LINE_BYTES + 1]).is_err());
}
