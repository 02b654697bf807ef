use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::redis::RedisServer;

/// Stands before a real server and breaks connections off.
pub struct Broken {
    port: u16,
    breaks: Arc<AtomicUsize>,
}

impl Broken {
    /// Breaks off `after` so many bytes of the reply to what contains `word`.
    pub fn start(server: &RedisServer, word: &'static str, after: usize) -> Self {
        Self::start_with(server, move |asked| {
            let has_word = |asked: &[u8]| asked.windows(word.len()).any(|w| w == word.as_bytes());
            asked.is_some_and(has_word).then_some(after)
        })
    }

    /// Breaks each connection off somewhere, at the latest behind so many bytes.
    pub fn at_random(server: &RedisServer, at_most: usize) -> Self {
        Self::start_with(server, move |asked| match asked {
            None => Some(fastrand::usize(0..at_most)),
            Some(_) => None,
        })
    }

    /// `left` says how many bytes are still to be passed on: at the beginning of a connection, and
    /// for each piece that was asked on it.
    fn start_with(
        server: &RedisServer,
        left: impl Fn(Option<&[u8]>) -> Option<usize> + Copy + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let breaks = Arc::new(AtomicUsize::new(0));
        let (server, counter) = (server.port(), Arc::clone(&breaks));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { continue };
                for socket in [&client, &server] {
                    socket.set_nodelay(true).expect("a socket");
                }
                let counter = Arc::clone(&counter);
                thread::spawn(move || pass(client, server, left, counter));
            }
        });
        Self { port, breaks }
    }

    /// `127.0.0.1:PORT`
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// How often it has broken off.
    pub fn breaks(&self) -> usize {
        self.breaks.load(Ordering::Relaxed)
    }
}

fn pass(
    mut client: TcpStream,
    mut server: TcpStream,
    left_behind: impl Fn(Option<&[u8]>) -> Option<usize>,
    breaks: Arc<AtomicUsize>,
) {
    let [to_client, from_server] = [&client, &server].map(|s| s.try_clone().expect("a socket"));
    let left = Arc::new(AtomicUsize::new(left_behind(None).unwrap_or(usize::MAX)));
    let seen_left = Arc::clone(&left);
    let replies = thread::spawn(move || pass_replies(from_server, to_client, &seen_left, &breaks));
    let mut piece = [0; 64 * 1024];
    while let Ok(length @ 1..) = client.read(&mut piece) {
        if let Some(after) = left_behind(Some(&piece[..length])) {
            left.store(after, Ordering::SeqCst);
        }
        if server.write_all(&piece[..length]).is_err() {
            break;
        }
    }
    // Either side may be gone already.
    let _ = server.shutdown(Shutdown::Both);
    let _ = replies.join();
}

fn pass_replies(
    mut server: TcpStream,
    mut client: TcpStream,
    left: &AtomicUsize,
    breaks: &AtomicUsize,
) {
    let mut piece = [0; 4096];
    while let Ok(length @ 1..) = server.read(&mut piece) {
        // Asked once: the next request, which sets it, may come as soon as this piece is written.
        let may_pass = left.load(Ordering::SeqCst);
        let passed = length.min(may_pass);
        if client.write_all(&piece[..passed]).is_err() {
            break;
        }
        if passed < length {
            breaks.fetch_add(1, Ordering::Relaxed);
            break;
        }
        if may_pass != usize::MAX {
            left.fetch_sub(passed, Ordering::SeqCst);
        }
    }
    // With a reset the balancer could lose what it was sent.
    let _ = client.shutdown(Shutdown::Write);
}
