//! An HTTP session of the soak test: sequential requests, with status and body compared.

use std::io::{BufRead, BufReader, Error, Read, Write};

use super::Random;
use super::client::{Failure, Leave, shown};
use super::data::HttpItem;
use super::socket::Socket;

const MAX_HEAD_BYTES: u64 = 8 * 1024;

pub struct Http<'a> {
    stream: BufReader<&'a Socket>,
    body: Vec<u8>,
}

impl<'a> Http<'a> {
    pub fn new(socket: &'a Socket) -> Http<'a> {
        Http { stream: BufReader::new(socket), body: Vec::new() }
    }

    pub fn ask(&mut self, item: &HttpItem) -> Result<(), Failure> {
        self.stream.get_mut().write_all(&item.request)?;
        let wrong = |what: String| {
            Failure::Wrong(format!("response to {}: {what}", shown(&item.request, 0)))
        };
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let read = (&mut self.stream).take(MAX_HEAD_BYTES).read_line(&mut head)?;
            if read == 0 {
                return Err(Error::from(std::io::ErrorKind::UnexpectedEof).into());
            }
        }
        if !head.starts_with(&format!("HTTP/1.1 {} ", item.status)) {
            return Err(wrong(format!("got {}", shown(head.as_bytes(), 0))));
        }
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        if length != Some(&item.body.len().to_string()) {
            return Err(wrong(format!(
                "got Content-Length {length:?} instead of {}",
                item.body.len()
            )));
        }
        self.body.resize(item.body.len(), 0);
        self.stream.read_exact(&mut self.body)?;
        if self.body != item.body {
            let equal = |(one, other): &(&u8, &u8)| one == other;
            let place = self.body.iter().zip(&item.body).take_while(equal).count();
            return Err(wrong(format!("got {}", shown(&self.body, place))));
        }
        match self.stream.buffer() {
            [] => Ok(()),
            surplus => Err(wrong(format!("more bytes than expected: {}", shown(surplus, 0)))),
        }
    }

    /// Sends what a client sends before it leaves in this way. The caller then drops the connection.
    pub fn leave(
        &mut self,
        way: Leave,
        item: &HttpItem,
        random: &mut Random,
    ) -> Result<(), Failure> {
        let length = match way {
            Leave::Idle => 0,
            Leave::HalfSent => 1 + random.below(item.request.len() - 1),
            Leave::Unread | Leave::Reset => item.request.len(),
        };
        Ok(self.stream.get_mut().write_all(&item.request[..length])?)
    }
}
