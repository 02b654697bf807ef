//! The part of a client that other threads use: they answer it, end its wait, or list it.
//!
//! A session notes what it does in atomic words of its own socket, without a lock and without a look at the clock, so
//! that the list of clients costs a read nothing.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::activity::{Activity, ActivityCell, now};
use crate::balance::{AddressPlace, Lease};
use crate::memory::{Account, Holder};
use crate::net::client_stream::ClientStream;
use crate::net::protocol::WireProtocol;
use crate::sync::{Mutex, lock};

/// Number of bytes of a command's name that are kept: no name of a read that is common is longer.
const MAX_COMMAND_BYTES: usize = 16;

/// Number of bytes of a client's own name that are kept for the list.
const MAX_NAME_BYTES: usize = 64;

/// Number of the last client. As in Redis, no number is given twice.
static LAST_ID: AtomicU64 = AtomicU64::new(0);

/// The part of a client that other threads use: they answer it, end its wait, or list it.
#[derive(Debug)]
pub struct ClientSocket {
    /// The connection.
    pub stream: ClientStream,
    /// Number of the client, as `CLIENT ID` says.
    pub id: u64,
    /// The address of the other end.
    peer: SocketAddr,
    /// The client's address, if a proxy has named it.
    proxied: OnceLock<SocketAddr>,
    /// Its place among the clients of its address.
    address_place: OnceLock<AddressPlace>,
    since: Duration,
    /// The memory that the client makes us hold.
    account: Account,
    /// The wait that the session's thread is in.
    pub(super) activity: ActivityCell,
    notes: Notes,
    is_killed: AtomicBool,
    /// Whether we have ended it because it did not take its messages.
    is_cut_off: AtomicBool,
}

/// What a session notes for the list of clients.
#[derive(Debug, Default)]
struct Notes {
    /// 0 while unknown, else the protocol and one more.
    protocol: AtomicU8,
    /// The version of TLS, if it speaks that.
    tls: OnceLock<&'static str>,
    occupation: AtomicU8,
    /// The beginning of the last command's name.
    command: [AtomicU64; 2],
    /// 0 without a lease, else its slot and one more.
    lease: AtomicUsize,
    name: Mutex<Box<[u8]>>,
    user: Mutex<Box<str>>,
}

/// What a session is for, as long as that lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Occupation {
    /// Commands, one after the other.
    Commands,
    /// It is between MULTI and EXEC.
    Transaction,
    /// It waits for messages.
    Subscription,
}

/// What a client does, as it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Doing {
    /// It has not asked for anything yet, or its last request is answered.
    Idle,
    /// Its request is under way.
    Busy,
    /// A part of its request has come.
    Sending,
    /// It is between MULTI and EXEC.
    Transaction,
    /// It waits for messages.
    Subscribed,
    /// It makes room for another.
    Leaving,
}

impl Doing {
    fn of(activity: Activity, occupation: u8) -> Self {
        match (activity, occupation) {
            (Activity::Leaving, _) => Self::Leaving,
            (Activity::Head(_), _) => Self::Sending,
            (_, occupation) if occupation == Occupation::Subscription as u8 => Self::Subscribed,
            (Activity::Busy, _) => Self::Busy,
            (_, occupation) if occupation == Occupation::Transaction as u8 => Self::Transaction,
            (Activity::Idle(_) | Activity::Spare(_) | Activity::Silent(_), _) => Self::Idle,
        }
    }
}

/// A client at one moment.
#[derive(Debug)]
pub struct ClientInfo {
    /// Its number, as `CLIENT ID` says.
    pub id: u64,
    /// Its address.
    pub address: SocketAddr,
    /// The protocol; `None` until the first bytes have told it.
    pub protocol: Option<WireProtocol>,
    /// The version of TLS; `None` in plain text.
    pub tls: Option<&'static str>,
    /// The name that it has given itself with `CLIENT SETNAME`, or the beginning of a long one.
    pub name: Option<String>,
    /// The user as whom it is logged in.
    pub user: Option<String>,
    /// How long it has been connected.
    pub connected: Duration,
    /// How long it has asked for nothing; `None` for a subscriber.
    pub idle: Option<Duration>,
    /// What it does.
    pub doing: Doing,
    /// The last command of a Redis client.
    pub command: Option<String>,
    /// The slot of its lease.
    pub lease: Option<usize>,
    /// The memory that counts for it.
    pub memory_bytes: usize,
}

impl ClientSocket {
    /// Of a client that has just come.
    pub fn new(stream: ClientStream, peer: SocketAddr) -> Self {
        Self {
            stream,
            id: LAST_ID.fetch_add(1, Ordering::Relaxed) + 1,
            peer,
            proxied: OnceLock::new(),
            address_place: OnceLock::new(),
            since: now(),
            account: Account::default(),
            activity: ActivityCell::default(),
            notes: Notes::default(),
            is_killed: AtomicBool::new(false),
            is_cut_off: AtomicBool::new(false),
        }
    }

    /// Returns the client's address: that of the other end, unless a proxy has named it.
    pub fn address(&self) -> SocketAddr {
        *self.proxied.get().unwrap_or(&self.peer)
    }

    /// Notes the address that a proxy has named.
    pub(in super::super) fn note_address(&self, address: SocketAddr) {
        // A connection has one header.
        let _ = self.proxied.set(address);
    }

    /// Notes the version of TLS that the client speaks.
    pub(in super::super) fn note_tls(&self, version: &'static str) {
        // TLS begins once at most.
        let _ = self.notes.tls.set(version);
    }

    /// Returns whether the client counts among those of its address.
    pub(in super::super) fn has_address_place(&self) -> bool {
        self.address_place.get().is_some()
    }

    /// Keeps the client's place among those of its address until it is gone.
    pub(in super::super) fn keep_address_place(&self, place: AddressPlace) {
        // It is asked before whether there is one.
        let _ = self.address_place.set(place);
    }

    /// Returns why we have ended the connection, if we have.
    pub fn closed_because(&self) -> Option<&'static str> {
        match (self.account.is_closed(), self.is_killed.load(Ordering::Relaxed)) {
            (true, _) => Some("closed: it held too much memory"),
            (_, true) => Some("closed: an operator has ended it"),
            _ if self.is_cut_off.load(Ordering::Relaxed) => {
                Some("closed: it did not take its messages")
            }
            (false, false) => None,
        }
    }

    /// Ends the connection of a subscriber that does not take its messages.
    pub fn cut_off_subscriber(&self) {
        self.is_cut_off.store(true, Ordering::Relaxed);
        self.stream.shutdown();
    }

    /// Ends the connection, as an operator wishes. Returns false if that was done before.
    pub fn kill(&self) -> bool {
        let is_first = !self.is_killed.swap(true, Ordering::Relaxed);
        self.stream.shutdown();
        is_first
    }

    /// Returns the wait that the session's thread is in.
    pub fn activity(&self) -> Activity {
        self.activity.get()
    }

    /// Makes the client leave if its session still waits for what was `seen`. End its
    /// [input](ClientStream::end_input) after that: the session wakes up, and reads what has arrived.
    pub fn make_leave(&self, seen: Activity) -> bool {
        self.activity.make_leave(seen)
    }

    /// Returns whether the client has to leave, so that another gets its place.
    pub fn is_leaving(&self) -> bool {
        self.activity() == Activity::Leaving
    }

    /// Ends the wait for a client that asks for nothing. What it has sent already is still read.
    pub fn end_if_idle(&self) {
        if matches!(self.activity(), Activity::Idle(_) | Activity::Spare(_) | Activity::Silent(_)) {
            self.stream.end_input();
        }
    }

    /// Notes the protocol that the client speaks.
    pub fn note_protocol(&self, protocol: WireProtocol) {
        self.notes.protocol.store(protocol as u8 + 1, Ordering::Relaxed);
    }

    /// Notes what the session is for.
    pub fn note_occupation(&self, occupation: Occupation) {
        self.notes.occupation.store(occupation as u8, Ordering::Relaxed);
    }

    /// Notes the name of a command that the client has sent.
    pub fn note_command(&self, name: &[u8]) {
        let mut padded = [0; MAX_COMMAND_BYTES];
        let length = name.len().min(MAX_COMMAND_BYTES);
        padded[..length].copy_from_slice(&name[..length]);
        let whole = u128::from_le_bytes(padded);
        self.notes.command[0].store(whole as u64, Ordering::Relaxed);
        self.notes.command[1].store((whole >> 64) as u64, Ordering::Relaxed);
    }

    /// Notes the lease that the client's reads count by, until it is given back. Note that before it is.
    pub fn note_lease(&self, lease: Option<&Lease>) {
        let slot = lease.map_or(0, |lease| lease.slot() + 1);
        self.notes.lease.store(slot, Ordering::Relaxed);
    }

    /// Notes the name that the client has given itself; none is the end of that.
    pub fn note_name(&self, name: &[u8]) {
        *lock(&self.notes.name) = name[..name.len().min(MAX_NAME_BYTES)].into();
    }

    /// Notes the user as whom the client is logged in; none is the end of that.
    pub fn note_user(&self, name: &str) {
        let mut user = lock(&self.notes.user);
        if **user != *name {
            *user = name.into();
        }
    }

    /// Returns the client as it is at this moment.
    pub fn info(&self) -> ClientInfo {
        let now = now();
        let notes = &self.notes;
        let activity = self.activity();
        let doing = Doing::of(activity, notes.occupation.load(Ordering::Relaxed));
        let idle = match activity {
            Activity::Idle(since) | Activity::Spare(since) | Activity::Silent(since) => {
                now.saturating_sub(since)
            }
            _ => Duration::ZERO,
        };
        let name = String::from_utf8_lossy(&lock(&notes.name)).into_owned();
        ClientInfo {
            id: self.id,
            address: self.address(),
            tls: notes.tls.get().copied(),
            protocol: match notes.protocol.load(Ordering::Relaxed) {
                0 => None,
                code if code == WireProtocol::Http as u8 + 1 => Some(WireProtocol::Http),
                _ => Some(WireProtocol::Resp),
            },
            name: (!name.is_empty()).then_some(name),
            user: Some(lock(&notes.user).to_string()).filter(|user| !user.is_empty()),
            connected: now.saturating_sub(self.since),
            idle: (doing != Doing::Subscribed).then_some(idle),
            doing,
            command: self.command(),
            lease: notes.lease.load(Ordering::Relaxed).checked_sub(1),
            memory_bytes: self.account.bytes(),
        }
    }

    fn command(&self) -> Option<String> {
        let parts = self.notes.command.each_ref().map(|part| part.load(Ordering::Relaxed));
        let bytes = parts.map(u64::to_le_bytes).concat();
        let name = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        let name = name.escape_ascii().to_string().to_ascii_lowercase();
        (!name.is_empty()).then_some(name)
    }
}

impl Holder for ClientSocket {
    fn account(&self) -> &Account {
        &self.account
    }

    fn name(&self) -> String {
        self.address().to_string()
    }

    fn close(&self) {
        self.stream.shutdown();
    }
}

/// The clients that are connected, as those who serve them know.
pub trait ClientList: Send + Sync {
    /// All clients of the public address.
    fn clients(&self) -> Vec<Arc<ClientSocket>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_does_follows_from_its_wait_and_from_what_its_session_is_for() {
        let time = Duration::from_secs(1);
        let [commands, transaction, subscription] =
            [Occupation::Commands, Occupation::Transaction, Occupation::Subscription];
        for (activity, occupation, expected) in [
            (Activity::Idle(time), commands, Doing::Idle),
            (Activity::Spare(time), commands, Doing::Idle),
            (Activity::Busy, commands, Doing::Busy),
            (Activity::Head(time), commands, Doing::Sending),
            (Activity::Idle(time), transaction, Doing::Transaction),
            (Activity::Busy, transaction, Doing::Busy),
            (Activity::Busy, subscription, Doing::Subscribed),
            (Activity::Idle(time), subscription, Doing::Subscribed),
            (Activity::Leaving, subscription, Doing::Leaving),
        ] {
            assert_eq!(
                Doing::of(activity, occupation as u8),
                expected,
                "{activity:?} {occupation:?}"
            );
        }
    }
}
