//! Just enough of the Redis protocol to write commands and to find where a command or reply ends.

use std::io::{self, BufRead, BufReader, Error, ErrorKind, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(10);

pub fn connect(port: u16) -> io::Result<TcpStream> {
    let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

pub fn connect_with_timeout(port: u16) -> io::Result<TcpStream> {
    let socket = connect(port)?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    socket.set_write_timeout(Some(TIMEOUT))?;
    Ok(socket)
}

pub fn command(words: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend(format!("${}\r\n{word}\r\n", word.len()).into_bytes());
    }
    bytes
}

/// Sends one command to the server on `port` and returns the reply's bytes; an error reply is an `Err`.
pub fn ask(port: u16, words: &[&str]) -> io::Result<Vec<u8>> {
    let mut socket = connect_with_timeout(port)?;
    socket.write_all(&command(words))?;
    let mut reply = Vec::new();
    read_value(&mut BufReader::new(socket), &mut reply)?;
    if reply.starts_with(b"-") {
        return Err(Error::other(String::from_utf8_lossy(&reply).into_owned()));
    }
    Ok(reply)
}

/// Reads one command or reply and appends its bytes to `bytes`.
pub fn read_value(from: &mut impl BufRead, bytes: &mut Vec<u8>) -> io::Result<()> {
    let mut values = 1_u64;
    while values > 0 {
        values -= 1;
        let start = bytes.len();
        if from.read_until(b'\n', bytes)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let kind = bytes[start];
        let count = || {
            let text = std::str::from_utf8(&bytes[start + 1..]).map_err(Error::other)?;
            text.trim_end().parse::<i64>().map_err(Error::other)
        };
        match kind {
            b'$' | b'=' | b'!' => {
                // -1 means null: no bytes follow.
                if let Ok(length) = usize::try_from(count()?) {
                    let body = bytes.len();
                    bytes.resize(body + length + 2, 0);
                    from.read_exact(&mut bytes[body..])?;
                }
            }
            b'*' | b'~' | b'>' => values += u64::try_from(count()?).unwrap_or(0),
            b'%' => values += 2 * u64::try_from(count()?).unwrap_or(0),
            _ => {}
        }
    }
    Ok(())
}
