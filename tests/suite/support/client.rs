use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::balancer::Answer;

/// A connection from another address of this machine.
pub fn connect_from(ip: [u8; 4], port: u16) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((ip, 0)).into()).expect("an address of this machine");
    let target = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    socket.connect(&target.into()).expect("lb accepts");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    stream
}

/// One HTTP connection that is spoken to byte by byte, and read answer by answer.
pub struct Client<S: Read = TcpStream>(BufReader<S>);

impl Client {
    pub fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("a socket");
        Self::over(stream)
    }

    /// Ends our side: lb sees that nothing more will come.
    pub fn end(&self) {
        self.0.get_ref().shutdown(Shutdown::Write).expect("a connection");
    }
}

impl<S: Read + Write> Client<S> {
    /// Over a connection of any kind.
    pub fn over(stream: S) -> Self {
        Self(BufReader::new(stream))
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("lb reads");
    }

    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.0.get_mut().write_all(bytes.as_ref())?;
        self.0.get_mut().flush()
    }

    /// GET over HTTP/1.1.
    pub fn get(&mut self, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        self.answer().expect("an answer")
    }

    /// The next answer; `None` when lb has closed the connection in good order.
    pub fn answer(&mut self) -> Option<Answer> {
        self.try_answer().expect("a whole answer in time")
    }

    /// Reads the next answer, or returns the reason why there is none.
    pub fn try_answer(&mut self) -> io::Result<Option<Answer>> {
        let Some(mut answer) = self.try_head()? else { return Ok(None) };
        let bodiless = [204, 304].contains(&answer.status);
        match answer.header("content-length").map(|text| text.parse().expect("a length")) {
            Some(length) => self.read_exact(length, &mut answer.body)?,
            None if answer.header("transfer-encoding") == Some("chunked") => {
                self.chunks(&mut answer)?;
            }
            None if bodiless => {}
            None => {
                self.0.read_to_end(&mut answer.body)?;
            }
        }
        answer.is_whole = true;
        Ok(Some(answer))
    }

    /// The next answer, when it is one to HEAD: no body, whatever its head says.
    pub fn head(&mut self) -> Option<Answer> {
        self.try_head().expect("a whole head in time")
    }

    fn try_head(&mut self) -> io::Result<Option<Answer>> {
        let Some(status) = self.line()? else { return Ok(None) };
        let mut headers = Vec::new();
        loop {
            let line = self.line()?.ok_or(ErrorKind::UnexpectedEof)?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(": ").expect("NAME: VALUE");
            headers.push((name.to_lowercase(), value.to_owned()));
        }
        let status = status.strip_prefix("HTTP/1.1 ").and_then(|status| status.get(..3));
        let status = status.and_then(|status| status.parse().ok()).expect("a status line");
        Ok(Some(Answer { status, headers, body: Vec::new(), is_whole: false }))
    }

    /// The statuses of all answers up to the end of the connection.
    pub fn statuses(&mut self) -> Vec<u16> {
        std::iter::from_fn(|| self.answer()).map(|answer| answer.status).collect()
    }

    /// Whether nothing more comes and the connection ends.
    pub fn is_at_end(&mut self) -> bool {
        self.0.fill_buf().expect("an end in good order").is_empty()
    }

    /// `None` at the end of the connection; what breaks off within a line is an error.
    fn line(&mut self) -> io::Result<Option<String>> {
        let mut line = String::new();
        match self.0.read_line(&mut line)? {
            0 => Ok(None),
            _ => match line.strip_suffix("\r\n") {
                Some(line) => Ok(Some(line.to_owned())),
                None => Err(ErrorKind::UnexpectedEof.into()),
            },
        }
    }

    fn read_exact(&mut self, length: usize, into: &mut Vec<u8>) -> io::Result<()> {
        let begin = into.len();
        into.resize(begin + length, 0);
        self.0.read_exact(&mut into[begin..])
    }

    fn chunks(&mut self, answer: &mut Answer) -> io::Result<()> {
        loop {
            let size = self.line()?.ok_or(ErrorKind::UnexpectedEof)?;
            let size = usize::from_str_radix(&size, 16).expect("hexadecimal");
            self.read_exact(size, &mut answer.body)?;
            let end = self.line()?.ok_or(ErrorKind::UnexpectedEof)?;
            assert_eq!(end, "", "behind a chunk");
            if size == 0 {
                return Ok(());
            }
        }
    }
}
