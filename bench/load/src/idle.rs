//! Idle clients: each reads once and keeps its connection open.

use std::error::Error;
use std::io::{BufReader, Write};
use std::net::TcpStream;

use crate::wire;

pub fn run(
    port: u16,
    clients: usize,
    command: &[&str],
    expected: &[u8],
) -> Result<(), Box<dyn Error>> {
    let mut held: Vec<TcpStream> = Vec::with_capacity(clients);
    for number in 0..clients {
        let client = client(port, command, expected)
            .map_err(|error| format!("client {} of {clients}: {error}", number + 1))?;
        held.push(client);
    }
    println!("ready");
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}

fn client(port: u16, command: &[&str], expected: &[u8]) -> Result<TcpStream, Box<dyn Error>> {
    let mut socket = wire::connect_with_timeout(port)?;
    for (words, expected) in [(&["PING"][..], &b"+PONG\r\n"[..]), (command, expected)] {
        socket.write_all(&wire::command(words))?;
        let mut reply = Vec::new();
        wire::read_value(&mut BufReader::new(&socket), &mut reply)?;
        if reply != expected {
            return Err(format!("{:?}", String::from_utf8_lossy(&reply)).into());
        }
    }
    Ok(socket)
}
