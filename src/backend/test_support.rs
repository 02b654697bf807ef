//! Fakes for the tests of a backend's connections.

use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::{BackendError, Class, STUCK, Supervisor, Timeouts};
use crate::config::LiveConfig;
use crate::net::backend_stream::BackendStream;
use crate::sync::{Mutex, lock};

/// The timeout of the connections of tests that don't wait for it to be over.
pub const LONG: Duration = Duration::from_secs(10);

/// A supervisor whose answers a test sets.
#[derive(Debug, Default)]
pub struct FakeSupervisor {
    /// Whether the backend is up.
    pub is_up: AtomicBool,
    /// How often a wait may go on.
    pub waits: AtomicUsize,
    /// Whether the backend answers others when the waits are over.
    pub is_stuck: AtomicBool,
    /// Whether all backends refuse alike.
    pub all_refuse: AtomicBool,
    /// The class and the usual silence in each question about a read.
    pub asked: Mutex<Vec<(Class, Duration)>>,
    /// The failures that were noted.
    pub failures: Mutex<Vec<String>>,
}

impl FakeSupervisor {
    fn may_wait_once_more(&self) -> io::Result<bool> {
        let waits = self.waits.load(Ordering::SeqCst);
        match waits.checked_sub(1) {
            Some(left) => self.waits.store(left, Ordering::SeqCst),
            None if self.is_stuck.load(Ordering::SeqCst) => return Err(STUCK.into()),
            None => {}
        }
        Ok(waits > 0)
    }
}

impl Supervisor for FakeSupervisor {
    fn admit(&self, _: &str) -> Result<(), String> {
        Ok(())
    }

    fn refusal(&self, _: i64) -> Option<String> {
        None
    }

    fn is_up(&self) -> bool {
        self.is_up.load(Ordering::SeqCst)
    }

    fn failed(&self, error: &BackendError) {
        lock(&self.failures).push(error.to_string());
    }

    fn may_wait(&self, class: Class, _: Duration, usual: Duration) -> io::Result<bool> {
        lock(&self.asked).push((class, usual));
        self.may_wait_once_more()
    }

    fn may_wait_as_last_resort(&self, _: Duration, _: bool) -> io::Result<bool> {
        self.may_wait_once_more()
    }

    fn subscribers_leave(&self, silent: Duration, _: Duration) -> Option<BackendError> {
        (silent >= LONG).then_some(BackendError::TimedOut)
    }

    fn refuses(&self, _: &str) -> bool {
        self.all_refuse.load(Ordering::SeqCst)
    }

    fn scripts(&self) -> Vec<Arc<[u8]>> {
        Vec::new()
    }
}

/// Timeouts that ask this supervisor.
pub fn timeouts(supervisor: &Arc<FakeSupervisor>, timeout: Duration) -> Timeouts {
    let supervisor = Arc::clone(supervisor);
    let timeout = format!("{}ms", timeout.as_millis());
    let config = LiveConfig::of(&["--backend-timeout", &timeout, "--read-timeout", &timeout]);
    Timeouts { supervisor, config }
}

/// A connection over the loopback interface: our end, and the server's.
pub fn connected() -> (BackendStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    let stream = BackendStream::connect(address, LONG, LONG, None).expect("it listens");
    (stream, listener.accept().expect("it has connected").0)
}
