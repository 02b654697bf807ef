use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::redis::RedisServer;
use super::resp::RespClient;

/// A client of a Redis server of its own, without a balancer between, that reads while a test runs. It
/// waits only for the computer, so it tells how far a limit of time has to give way on a busy one.
pub struct Yardstick {
    is_over: Arc<AtomicBool>,
    client: Option<JoinHandle<Duration>>,
    _server: RedisServer,
}

/// How many times the longest wait of the yardstick a read through the balancer may take: it passes
/// more threads, each of which waits for a core.
const FACTOR: u32 = 5;

impl Yardstick {
    pub fn start() -> Self {
        let server = RedisServer::start();
        let mut client = RespClient::connect(server.port());
        let is_over = Arc::new(AtomicBool::new(false));
        let client = thread::spawn({
            let is_over = Arc::clone(&is_over);
            move || {
                let mut longest = Duration::ZERO;
                while !is_over.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    assert_eq!(client.call("PING"), "+PONG\r\n");
                    thread::sleep(Duration::from_millis(1));
                    longest = longest.max(began.elapsed());
                }
                longest
            }
        });
        Self { is_over, client: Some(client), _server: server }
    }

    /// Panics if `took` exceeds `limit`, and what the computer made everybody wait as well.
    pub fn assert_below(mut self, took: Duration, limit: Duration, what: &str) {
        self.is_over.store(true, Ordering::Relaxed);
        let client = self.client.take().expect("it runs until here");
        let longest = client.join().expect("no panic");
        assert!(
            took < limit + longest * FACTOR,
            "{what} took {took:?}; without a balancer, {longest:?} at most"
        );
    }
}

impl Drop for Yardstick {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}
