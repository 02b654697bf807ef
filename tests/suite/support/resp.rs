use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

/// One connection of a Redis client that is spoken to byte by byte, and read frame by frame.
pub struct RespClient(BufReader<TcpStream>);

impl RespClient {
    pub fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("a socket");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        stream.set_write_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        Self(BufReader::with_capacity(64 * 1024, stream))
    }

    /// A connection to a port of this computer.
    pub fn connect(port: u16) -> Self {
        Self::new(TcpStream::connect(("127.0.0.1", port)).expect("the server accepts"))
    }

    pub fn stream(&self) -> &TcpStream {
        self.0.get_ref()
    }

    /// Sends one command.
    pub fn send<A: AsRef<[u8]>>(&mut self, args: &[A]) {
        self.send_raw(encode(args));
    }

    pub fn send_raw(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send_raw(bytes).expect("the server reads");
    }

    pub fn try_send_raw(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.0.get_mut().write_all(bytes.as_ref())
    }

    /// The next reply, as its bytes: one whole frame of RESP2 or RESP3.
    pub fn reply(&mut self) -> Vec<u8> {
        self.try_reply().expect("a reply")
    }

    /// Reads the next reply, or returns the reason why there is none.
    pub fn try_reply(&mut self) -> io::Result<Vec<u8>> {
        let mut frame = Vec::new();
        read_frame(&mut self.0, &mut frame)?;
        Ok(frame)
    }

    /// Sends one command and returns the bytes of its reply.
    pub fn command<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Vec<u8> {
        self.send(args);
        self.reply()
    }

    /// Sends words with spaces between them as a command; returns the reply as text, with its line ends.
    pub fn call(&mut self, words: &str) -> String {
        let words: Vec<&str> = words.split(' ').collect();
        String::from_utf8_lossy(&self.command(&words)).into_owned()
    }

    /// Ends our side, and returns all that still comes, however the connection ends.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        // A server that has reset the connection knows no end of it.
        let _ = self.stream().shutdown(Shutdown::Write);
        let _ = self.0.read_to_end(&mut rest);
        rest
    }

    /// Whether a reply begins within this time.
    pub fn has_reply_within(&mut self, time: Duration) -> bool {
        let usual = self.stream().read_timeout().expect("a socket");
        self.stream().set_read_timeout(Some(time)).expect("a timeout");
        let has_begun = self.0.fill_buf().is_ok_and(|bytes| !bytes.is_empty());
        self.stream().set_read_timeout(usual).expect("a timeout");
        has_begun
    }

    /// Whether the server has ended the connection, or does so now; panics if bytes come instead.
    pub fn is_closed(&mut self) -> bool {
        match self.0.fill_buf() {
            Ok(bytes) => {
                assert!(bytes.is_empty(), "unread: {:?}", String::from_utf8_lossy(bytes));
                true
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => true,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                false
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// A command as a client sends it.
pub fn encode<A: AsRef<[u8]>>(args: &[A]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args.iter().map(AsRef::as_ref) {
        bytes.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        bytes.extend_from_slice(arg);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// Appends the next frame, with all that is nested in it.
pub fn read_frame(from: &mut impl BufRead, frame: &mut Vec<u8>) -> io::Result<()> {
    let mut missing = 1;
    while missing > 0 {
        missing -= 1;
        let begin = frame.len();
        from.read_until(b'\n', frame)?;
        let Some((kind, number)) =
            frame[begin..].strip_suffix(b"\r\n").and_then(<[u8]>::split_first)
        else {
            return Err(if frame[begin..].ends_with(b"\n") {
                bad_frame(&frame[begin..])
            } else {
                ErrorKind::UnexpectedEof.into()
            });
        };
        // What is no length is told by its kind; a length of -1 is a null, and nothing follows.
        let length = std::str::from_utf8(number).ok().and_then(|text| text.parse::<i64>().ok());
        let length = length.map(|length| u64::try_from(length).unwrap_or(0));
        match (kind, length) {
            (b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(', _) => {}
            (b'$' | b'!' | b'=', _) if number == b"-1" => {}
            (b'$' | b'!' | b'=', Some(length)) => {
                let length = length + 2;
                if from.take(length).read_to_end(frame)? as u64 != length {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
            }
            (b'*' | b'~' | b'>', Some(length)) => missing += length,
            (b'%', Some(length)) => missing += 2 * length,
            // An attribute comes before the frame that it describes.
            (b'|', Some(length)) => missing += 2 * length + 1,
            _ => return Err(bad_frame(&frame[begin..])),
        }
    }
    Ok(())
}

fn bad_frame(line: &[u8]) -> io::Error {
    io::Error::other(format!("no frame begins so: {:?}", String::from_utf8_lossy(line)))
}

#[test]
fn frames_of_both_protocols_are_told_apart() {
    let frames: [&[u8]; 9] = [
        b"+OK\r\n",
        b"$-1\r\n",
        b"*-1\r\n",
        b"_\r\n",
        b"$4\r\na\r\nb\r\n",
        b"*2\r\n*1\r\n:1\r\n$0\r\n\r\n",
        b"%1\r\n+a\r\n~2\r\n,1.5\r\n#t\r\n",
        b"|1\r\n+ttl\r\n:3\r\n=5\r\ntxt:x\r\n",
        b">2\r\n+message\r\n(123\r\n",
    ];
    let stream = frames.concat();
    let mut from = &stream[..];
    for expected in frames {
        let mut frame = Vec::new();
        read_frame(&mut from, &mut frame).expect("a frame");
        assert_eq!(frame, expected);
    }
    for broken in [&b"$5\r\nab"[..], b"+OK", b"*2\r\n:1\r\n", b"?\r\n", b"$x\r\n", b"\r\n"] {
        assert!(read_frame(&mut &broken[..], &mut Vec::new()).is_err(), "{broken:?}");
    }
}
