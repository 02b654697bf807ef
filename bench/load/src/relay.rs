//! A backend that is the limit: each read takes a fixed time, and there is only one at a time.

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
            // Its end is the client's.
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

/// Checks of health are answered at once, so that the backend counts as good.
fn is_read(command: &[u8]) -> bool {
    let name = command.split(|byte| *byte == b'\n').nth(2).unwrap_or_default().trim_ascii();
    name.eq_ignore_ascii_case(b"GET") || name.eq_ignore_ascii_case(b"HGETALL")
}
