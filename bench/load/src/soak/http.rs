//! A session over HTTP: one request after the other, each answer's status and body compared.

use std::io::{BufRead, BufReader, Error, Read, Write};
use std::net::TcpStream;

use super::Random;
use super::client::{Failure, Leave, shown};
use super::data::Question;

const MAX_HEAD_BYTES: u64 = 8 * 1024;

/// A connection, with what has come and is not compared yet.
pub struct Http {
    stream: BufReader<TcpStream>,
    body: Vec<u8>,
}

impl Http {
    pub fn new(socket: TcpStream) -> Http {
        Http { stream: BufReader::new(socket), body: Vec::new() }
    }

    pub fn ask(&mut self, question: &Question) -> Result<(), Failure> {
        self.stream.get_mut().write_all(&question.request)?;
        let wrong =
            |what: String| Failure::Wrong(format!("to {}: {what}", shown(&question.request, 0)));
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let read = (&mut self.stream).take(MAX_HEAD_BYTES).read_line(&mut head)?;
            if read == 0 {
                return Err(Error::from(std::io::ErrorKind::UnexpectedEof).into());
            }
        }
        if !head.starts_with(&format!("HTTP/1.1 {} ", question.status)) {
            return Err(wrong(format!("got {}", shown(head.as_bytes(), 0))));
        }
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        if length != Some(&question.body.len().to_string()) {
            return Err(wrong(format!("a length of {length:?}, not {}", question.body.len())));
        }
        self.body.resize(question.body.len(), 0);
        self.stream.read_exact(&mut self.body)?;
        if self.body != question.body {
            let equal = |(one, other): &(&u8, &u8)| one == other;
            let place = self.body.iter().zip(&question.body).take_while(equal).count();
            return Err(wrong(format!("got {}", shown(&self.body, place))));
        }
        match self.stream.buffer() {
            [] => Ok(()),
            more => Err(wrong(format!("more than was asked for: {}", shown(more, 0)))),
        }
    }

    /// Sends what a client sends that leaves in this way; then the connection may be closed.
    pub fn leave(
        &mut self,
        way: Leave,
        question: &Question,
        random: &mut Random,
    ) -> Result<&TcpStream, Failure> {
        let length = match way {
            Leave::Idle => 0,
            Leave::HalfSent => 1 + random.below(question.request.len() - 1),
            Leave::Unread | Leave::Reset => question.request.len(),
        };
        self.stream.get_mut().write_all(&question.request[..length])?;
        Ok(self.stream.get_ref())
    }
}
