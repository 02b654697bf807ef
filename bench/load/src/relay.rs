//! Slow backend: a relay to Redis that answers one read at a time, each after a fixed delay.

use std::error::Error;
use std::io::{self, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::wire;

pub fn run(port: u16, redis: u16, microseconds: u64) -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    let delay = Duration::from_micros(microseconds);
    let turn = Arc::new(Mutex::new(()));
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let turn = Arc::clone(&turn);
            // An error ends this connection only.
            thread::spawn(move || serve(client, redis, delay, &turn));
        }
    });
    println!("ready");
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}

fn serve(mut client: TcpStream, redis: u16, delay: Duration, turn: &Mutex<()>) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut commands = BufReader::new(client.try_clone()?);
    let mut server = wire::connect(redis)?;
    let mut replies = BufReader::new(server.try_clone()?);
    loop {
        let (mut command, mut reply) = (Vec::new(), Vec::new());
        wire::read_value(&mut commands, &mut command)?;
        let mine = is_read(&command).then(|| turn.lock().unwrap_or_else(PoisonError::into_inner));
        if mine.is_some() {
            thread::sleep(delay);
        }
        server.write_all(&command)?;
        wire::read_value(&mut replies, &mut reply)?;
        drop(mine);
        client.write_all(&reply)?;
    }
}

/// Whether to delay the command. Health checks are not delayed, so that the backend stays up.
fn is_read(command: &[u8]) -> bool {
    let name = command.split(|byte| *byte == b'\n').nth(2).unwrap_or_default().trim_ascii();
    name.eq_ignore_ascii_case(b"GET") || name.eq_ignore_ascii_case(b"HGETALL")
}
