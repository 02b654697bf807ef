//! Serves the control socket: one request a connection, each on a thread of its own, few at a time.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use log::{info, warn};

use super::operations::Response;
use super::routes::{Refusal, route};
use super::{Control, ControlSocket, Reload};
use crate::balance::Balancer;
use crate::http::{self, JSON, Request, ResponseWriter};
use crate::session::ClientList;
use crate::sync::{Condvar, Mutex, lock, wait};

/// Most connections at a time; the kernel keeps some more waiting. People and scripts make one after the other.
const MAX_CONNECTIONS: usize = 8;

/// Longest time for which a request may take to arrive, and for which its response may take to be read.
const TRANSFER_TIME: Duration = Duration::from_secs(5);

/// Longest time, and number of bytes, for which is read on after a response: what has arrived and is not read would make
/// the kernel reset the connection.
const LINGER_TIME: Duration = Duration::from_millis(200);
const LINGER_BYTES: usize = 64 * 1024;

/// Pause after a failed `accept`.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A thread's stack.
const STACK_BYTES: usize = 256 * 1024;

impl ControlSocket {
    /// Serves the socket, on threads of its own, for as long as the process lives.
    ///
    /// # Errors
    /// There can be no thread.
    pub fn serve(
        &self,
        balancer: &Arc<Balancer>,
        clients: Arc<dyn ClientList>,
        reload: Reload,
    ) -> io::Result<()> {
        let listener = self.listener.try_clone()?;
        let (balancer, places) = (Arc::clone(balancer), Places::default());
        let control = Arc::new(Control { balancer, clients, reload, places });
        info!("control by {}: lb ctl --control {0} status", self.path().display());
        begin_thread(move || accept_all(&listener, &control))
    }
}

fn begin_thread(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let thread = thread::Builder::new().name("control".to_owned()).stack_size(STACK_BYTES);
    thread.spawn(work).map(|_thread| ())
}

fn accept_all(listener: &UnixListener, control: &Arc<Control>) {
    loop {
        let place = Place::take(control);
        let begun = listener
            .accept()
            .and_then(|(stream, _)| begin_thread(move || converse(&stream, &place.0)));
        if let Err(error) = begun {
            warn!("can't serve a connection to the control socket: {error}");
            thread::sleep(ACCEPT_PAUSE);
        }
    }
}

/// The places of connections.
#[derive(Default)]
pub(super) struct Places {
    /// Number of those that are taken.
    taken: Mutex<usize>,
    left: Condvar,
}

/// The place of one connection, for as long as that lives.
struct Place(Arc<Control>);

impl Place {
    /// Takes a place, once there is one.
    fn take(control: &Arc<Control>) -> Self {
        let places = &control.places;
        let mut taken = lock(&places.taken);
        while *taken >= MAX_CONNECTIONS {
            taken = wait(&places.left, taken, TRANSFER_TIME);
        }
        *taken += 1;
        Self(Arc::clone(control))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *lock(&self.0.places.taken) -= 1;
        self.0.places.left.notify_one();
    }
}

/// Answers the one request of a connection.
fn converse(stream: &UnixStream, control: &Control) {
    let deadline = Instant::now() + TRANSFER_TIME;
    let mut out = Vec::new();
    let is_written = match read_request(stream, deadline) {
        Ok(None) => return,
        Ok(Some(request)) => {
            let done = respond(&request, control, &asker(stream));
            write(ResponseWriter::new(&mut out, &request, false, SystemTime::now), done)
        }
        Err(refusal) => {
            write(ResponseWriter::to_no_request(&mut out, SystemTime::now), Err(refusal))
        }
    };
    // A client that does not read it has left, or hangs.
    let _ = is_written.and_then(|()| send(stream, &out, Instant::now() + TRANSFER_TIME));
    linger(stream);
}

/// Reads the head of a request; `None` if the client leaves.
fn read_request(stream: &UnixStream, deadline: Instant) -> Result<Option<Request>, Refusal> {
    let mut received = Vec::new();
    let mut piece = [0; 4096];
    loop {
        match http::parse(&received) {
            Ok(None) => {}
            Ok(Some((request, _))) => return Ok(Some(request)),
            Err(error) => return Err(Refusal::new(error.status(), error.to_string())),
        }
        match read_until(stream, deadline, &mut piece) {
            Ok(length @ 1..) => received.extend_from_slice(&piece[..length]),
            Ok(_) => return Ok(None),
            Err(_) => {
                let seconds = TRANSFER_TIME.as_secs();
                let why = format!("the request took longer than {seconds} seconds to arrive");
                return Err(Refusal::new(408, why));
            }
        }
    }
}

fn read_until(mut stream: &UnixStream, deadline: Instant, piece: &mut [u8]) -> io::Result<usize> {
    stream.set_read_timeout(Some(time_left(deadline)?))?;
    stream.read(piece)
}

/// Sends a response within a time, however little the client takes at once.
fn send(mut stream: &UnixStream, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.set_write_timeout(Some(time_left(deadline)?))?;
        match stream.write(bytes)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            sent => bytes = &bytes[sent..],
        }
    }
    Ok(())
}

fn time_left(deadline: Instant) -> io::Result<Duration> {
    match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
        left => Ok(left),
    }
}

/// Ends our side, and reads what the client still sends for a moment.
fn linger(stream: &UnixStream) {
    let deadline = Instant::now() + LINGER_TIME;
    let (mut piece, mut total) = ([0; 4096], 0);
    if stream.shutdown(Shutdown::Write).is_ok() {
        while let Ok(length @ 1..) = read_until(stream, deadline, &mut piece) {
            total += length;
            if total > LINGER_BYTES {
                return;
            }
        }
    }
}

fn respond(request: &Request, control: &Control, by: &str) -> Result<Response, Refusal> {
    if request.has_body {
        let why = "a request has no body here; parameters stand in the URL: curl -G -X POST \
                   --data-urlencode NAME=VALUE";
        return Err(Refusal::new(400, why));
    }
    control.perform(route(&request.method_name, &request.target, &request.query)?, by)
}

fn write<W: Write>(
    mut response: ResponseWriter<W>,
    done: Result<Response, Refusal>,
) -> io::Result<()> {
    response.header("Cache-Control", "no-store");
    match done {
        Ok((status, text)) => {
            response.status(status);
            response.header("Content-Type", JSON);
            response.write_all(text.as_bytes())?;
        }
        Err(refusal) => {
            response.status(refusal.status);
            if let Some(allow) = refusal.allow {
                response.header("Allow", allow);
            }
            response.json(&refusal)?;
        }
    }
    response.finish()
}

/// Names the user at the other end, for the log.
#[cfg(target_os = "linux")]
fn asker(stream: &UnixStream) -> String {
    let credentials = rustix::net::sockopt::socket_peercred(stream);
    credentials.map_or_else(
        |_| "somebody".to_owned(),
        |of| format!("user {} (process {})", of.uid.as_raw(), of.pid.as_raw_nonzero()),
    )
}

#[cfg(not(target_os = "linux"))]
fn asker(_stream: &UnixStream) -> String {
    "somebody".to_owned()
}
