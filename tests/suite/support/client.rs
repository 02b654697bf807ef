use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};

use super::balancer::Answer;

/// One HTTP connection that is spoken to byte by byte, and read answer by answer.
pub struct Client(BufReader<TcpStream>);

impl Client {
    pub fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("a socket");
        Self(BufReader::new(stream))
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.get_mut().write_all(bytes.as_ref()).expect("lb reads");
    }

    /// Ends our side: lb sees that nothing more will come.
    pub fn end(&self) {
        self.0.get_ref().shutdown(Shutdown::Write).expect("a connection");
    }

    /// GET over HTTP/1.1.
    pub fn get(&mut self, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        self.answer().expect("an answer")
    }

    /// The next answer; `None` when lb has closed the connection in good order.
    pub fn answer(&mut self) -> Option<Answer> {
        let mut answer = self.head()?;
        let bodiless = [204, 304].contains(&answer.status);
        match answer.header("content-length").map(|text| text.parse().expect("a length")) {
            Some(length) => self.read_exact(length, &mut answer.body),
            None if answer.header("transfer-encoding") == Some("chunked") => {
                self.chunks(&mut answer)
            }
            None if bodiless => {}
            None => {
                self.0.read_to_end(&mut answer.body).expect("a body up to the end");
            }
        }
        answer.is_whole = true;
        Some(answer)
    }

    /// The next answer, when it is one to HEAD: no body, whatever its head says.
    pub fn head(&mut self) -> Option<Answer> {
        let status = self.line()?;
        let mut headers = Vec::new();
        while let Some(line) = self.line().filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(": ").expect("NAME: VALUE");
            headers.push((name.to_lowercase(), value.to_owned()));
        }
        let status = status.strip_prefix("HTTP/1.1 ").and_then(|status| status.get(..3));
        let status = status.and_then(|status| status.parse().ok()).expect("a status line");
        Some(Answer { status, headers, body: Vec::new(), is_whole: false })
    }

    /// The statuses of all answers up to the end of the connection.
    pub fn statuses(&mut self) -> Vec<u16> {
        std::iter::from_fn(|| self.answer()).map(|answer| answer.status).collect()
    }

    /// Whether nothing more comes and the connection ends.
    pub fn is_at_end(&mut self) -> bool {
        self.0.fill_buf().expect("an end in good order").is_empty()
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.0.read_line(&mut line).expect("a line in time") {
            0 => None,
            _ => Some(line.strip_suffix("\r\n").expect("a whole line").to_owned()),
        }
    }

    fn read_exact(&mut self, length: usize, into: &mut Vec<u8>) {
        let begin = into.len();
        into.resize(begin + length, 0);
        self.0.read_exact(&mut into[begin..]).expect("as much as was announced");
    }

    fn chunks(&mut self, answer: &mut Answer) {
        loop {
            let size = self.line().expect("a chunk's size");
            let size = usize::from_str_radix(&size, 16).expect("hexadecimal");
            self.read_exact(size, &mut answer.body);
            assert_eq!(self.line().as_deref(), Some(""), "behind a chunk");
            if size == 0 {
                return;
            }
        }
    }
}
