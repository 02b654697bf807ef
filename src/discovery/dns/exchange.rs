//! One question to one nameserver: by UDP and, if the answer is too long for that, by TCP.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use super::message::{Absence, Question, RecordType, Records, Response};

/// Longest answer by UDP that is read. A question without EDNS gets at most 512 bytes; this is the size that resolvers
/// with EDNS agree on by default (1232), and more.
const UDP_BYTES: usize = 4096;

/// Reason why a nameserver has given no answer that counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// What it did.
    pub reason: String,
    /// Whether it may answer if it is asked again: a datagram gets lost, and an answer can take longer than the question
    /// is waited for.
    pub may_answer_later: bool,
}

impl Failure {
    pub fn final_for(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), may_answer_later: false }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                Self { reason: "does not answer".to_owned(), may_answer_later: true }
            }
            ErrorKind::ConnectionRefused => {
                Self::final_for("can't be reached: nobody listens there")
            }
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset => {
                Self::final_for("ends the connection without a whole answer")
            }
            _ => Self::final_for(format!("can't be asked: {error}")),
        }
    }
}

/// Asks a nameserver for the records of a whole name. Returns by `deadline`, however slowly the answer comes.
///
/// # Errors
/// No answer has come by then, or one that counts for nothing.
pub(super) fn ask(
    nameserver: SocketAddr,
    name: &str,
    record_type: RecordType,
    deadline: Instant,
) -> Result<Result<Records, Absence>, Failure> {
    let question = Question { id: random_id(), name, record_type };
    let message =
        question.encode().ok_or_else(|| Failure::final_for("is not asked: that is no name"))?;
    let response = match ask_by_udp(nameserver, &question, &message, deadline)? {
        Response::Truncated => ask_by_tcp(nameserver, &question, &message, deadline)?,
        response => response,
    };
    match response {
        Response::Truncated => Err(Failure::final_for("cuts its answer off, even by TCP")),
        Response::Failed(reason) => Err(Failure::final_for(reason)),
        Response::Answer(answer) => Ok(answer),
    }
}

/// Returns a number that nobody can foresee who does not see our questions: the hash of nothing, by a key that the
/// standard library takes from the system's random numbers.
fn random_id() -> u16 {
    RandomState::new().build_hasher().finish() as u16
}

fn ask_by_udp(
    nameserver: SocketAddr,
    question: &Question<'_>,
    message: &[u8],
    deadline: Instant,
) -> Result<Response, Failure> {
    let any: SocketAddr = match nameserver {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    // From here on the kernel drops what comes from elsewhere.
    socket.connect(nameserver)?;
    socket.send(message)?;
    let mut answer = [0; UDP_BYTES];
    let mut unfit = None;
    loop {
        let received = left_until(deadline).and_then(|left| {
            socket.set_read_timeout(Some(left))?;
            socket.recv(&mut answer)
        });
        match (received, unfit) {
            // Others may send what looks like an answer: the true one may still come.
            (Ok(length), _) => match question.read(&answer[..length]) {
                Ok(response) => return Ok(response),
                Err(reason) => unfit = Some(reason),
            },
            (Err(error), Some(unfit)) if is_timeout(&error) => {
                return Err(Failure { reason: unfit.to_string(), may_answer_later: true });
            }
            (Err(error), _) => return Err(error.into()),
        }
    }
}

fn ask_by_tcp(
    nameserver: SocketAddr,
    question: &Question<'_>,
    message: &[u8],
    deadline: Instant,
) -> Result<Response, Failure> {
    let mut stream = TcpStream::connect_timeout(&nameserver, left_until(deadline)?)?;
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    stream.set_write_timeout(Some(left_until(deadline)?))?;
    stream.write_all(&[&length.to_be_bytes(), message].concat())?;
    let mut length = [0; 2];
    read_by(&mut stream, &mut length, deadline)?;
    let mut answer = vec![0; u16::from_be_bytes(length).into()];
    read_by(&mut stream, &mut answer, deadline)?;
    question.read(&answer).map_err(|unfit| Failure::final_for(unfit.to_string()))
}

/// Fills the buffer, or fails at the deadline, however few bytes come at a time.
fn read_by(stream: &mut TcpStream, mut buffer: &mut [u8], deadline: Instant) -> io::Result<()> {
    while !buffer.is_empty() {
        stream.set_read_timeout(Some(left_until(deadline)?))?;
        match stream.read(buffer)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            length => buffer = &mut buffer[length..],
        }
    }
    Ok(())
}

fn left_until(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
