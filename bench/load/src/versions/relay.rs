//! Stands between the balancer and a server, and can lose what tracking connections carry.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;

use crate::wire;

/// What happens to the bytes of a connection.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fate {
    Passed,
    /// They come later: after this is changed.
    Held,
    /// They never come, and the connection stays.
    Lost,
}

pub struct Relay(Arc<Mutex<Vec<Weak<Link>>>>);

struct Link {
    client: TcpStream,
    server: TcpStream,
    is_tracking: AtomicBool,
    fate: Mutex<Fate>,
    changed: Condvar,
}

impl Relay {
    pub fn start(port: u16, server: u16) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        let links: Arc<Mutex<Vec<Weak<Link>>>> = Arc::default();
        let kept = Arc::clone(&links);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // The balancer sees that a connection fails, and dials again.
                let Ok(link) = Link::open(client, server) else { continue };
                let mut links = links.lock().unwrap_or_else(PoisonError::into_inner);
                links.retain(|link| link.strong_count() > 0);
                links.push(Arc::downgrade(&link));
            }
        });
        Ok(Self(kept))
    }

    /// Sets what happens on the tracking connections that are there; returns how many that are.
    pub fn set(&self, fate: Fate) -> usize {
        let links = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let links = links.iter().filter_map(Weak::upgrade);
        let tracking = links.filter(|link| link.is_tracking.load(Ordering::Relaxed));
        tracking.map(|link| link.set(fate)).filter(|&was_changed| was_changed).count()
    }
}

impl Link {
    fn open(client: TcpStream, server: u16) -> io::Result<Arc<Self>> {
        client.set_nodelay(true)?;
        let link = Arc::new(Self {
            client,
            server: wire::connect(server)?,
            is_tracking: AtomicBool::new(false),
            fate: Mutex::new(Fate::Passed),
            changed: Condvar::new(),
        });
        for is_question in [true, false] {
            let link = Arc::clone(&link);
            thread::spawn(move || link.pass(is_question));
        }
        Ok(link)
    }

    fn pass(&self, is_question: bool) {
        let (mut from, mut to) = match is_question {
            true => (&self.client, &self.server),
            false => (&self.server, &self.client),
        };
        let mut piece = [0; 16 * 1024];
        while let Ok(length @ 1..) = from.read(&mut piece) {
            if is_question && piece[..length].windows(8).any(|word| word == b"TRACKING") {
                self.is_tracking.store(true, Ordering::Relaxed);
            }
            if self.wait_for_fate() == Fate::Passed && to.write_all(&piece[..length]).is_err() {
                break;
            }
        }
        self.set(Fate::Lost);
        for socket in [&self.client, &self.server] {
            // It may have ended already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// A connection that has lost bytes never works again.
    fn set(&self, fate: Fate) -> bool {
        let mut now = self.fate();
        let is_possible = *now != Fate::Lost;
        if is_possible {
            *now = fate;
        }
        self.changed.notify_all();
        is_possible
    }

    fn wait_for_fate(&self) -> Fate {
        let now = self.changed.wait_while(self.fate(), |fate| *fate == Fate::Held);
        *now.unwrap_or_else(PoisonError::into_inner)
    }

    fn fate(&self) -> MutexGuard<'_, Fate> {
        self.fate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
