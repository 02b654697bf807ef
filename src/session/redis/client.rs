//! What a session knows of its client: what HELLO and CLIENT say and ask.

use std::net::SocketAddr;
use std::time::Instant;

use crate::session::client::Client;

/// The longest name of a client, and the longest name or version of its library.
const MAX_NAME_BYTES: usize = 64 * 1024;

/// Which replies a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyMode {
    On,
    Off,
    /// None to the next command.
    SkipNext,
}

impl ReplyMode {
    /// Takes note of a command without arguments, which gets no reply itself: it is the next command.
    pub fn pass_empty(&mut self) {
        if *self == Self::SkipNext {
            *self = Self::On;
        }
    }

    /// Whether the next command gets no reply.
    pub fn next(&mut self) -> bool {
        let is_silent = *self != Self::On;
        if *self == Self::SkipNext {
            *self = Self::On;
        }
        is_silent
    }
}

/// One client, as `CLIENT INFO` describes it.
#[derive(Debug)]
pub struct ClientState {
    pub id: u64,
    pub address: SocketAddr,
    pub local_address: Option<SocketAddr>,
    pub since: Instant,
    pub name: Box<[u8]>,
    pub library_name: Box<[u8]>,
    pub library_version: Box<[u8]>,
    pub reply_mode: ReplyMode,
}

impl ClientState {
    pub fn new(client: &Client) -> Self {
        Self {
            id: client.socket.id,
            address: client.address,
            local_address: client.stream().local_address(),
            since: Instant::now(),
            name: Box::default(),
            library_name: Box::default(),
            library_version: Box::default(),
            reply_mode: ReplyMode::On,
        }
    }
}

/// Takes what Redis would take for a name (none, where it is empty), unless it is too long; `what` says
/// what is named.
pub fn allowed_name(name: &[u8], what: &str) -> Result<Box<[u8]>, String> {
    if !name.iter().all(|byte| (b'!'..=b'~').contains(byte)) {
        let why = "cannot contain spaces, newlines or special characters.";
        return Err(format!("ERR {what} {why}"));
    }
    if name.len() > MAX_NAME_BYTES {
        return Err(format!("ERR {what} can have at most {} KiB", MAX_NAME_BYTES / 1024));
    }
    Ok(name.into())
}
