//! What a session knows of its client: what HELLO and CLIENT say and ask.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::session::client::Client;

/// Reply of Redis to arguments that it can't make sense of.
pub const SYNTAX_ERROR: &str = "ERR syntax error";

/// The longest name of a client, and the longest name or version of its library.
const MAX_NAME_BYTES: usize = 64 * 1024;

/// Number of the last client. As in Redis, no number is given twice.
static LAST_ID: AtomicU64 = AtomicU64::new(0);

/// Which replies a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyMode {
    On,
    Off,
    /// None to the next command.
    SkipNext,
}

impl ReplyMode {
    /// Whether the next command gets no reply.
    pub fn next(&mut self) -> bool {
        match self {
            Self::On => false,
            Self::Off => true,
            Self::SkipNext => {
                *self = Self::On;
                true
            }
        }
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
            id: LAST_ID.fetch_add(1, Ordering::Relaxed) + 1,
            address: client.address,
            local_address: client.stream().local_address(),
            since: Instant::now(),
            name: Box::default(),
            library_name: Box::default(),
            library_version: Box::default(),
            reply_mode: ReplyMode::On,
        }
    }

    /// Forgets what `RESET` ends.
    pub fn reset(&mut self) {
        self.name = Box::default();
        self.reply_mode = ReplyMode::On;
    }

    /// Takes a name, which may be empty for none, or says what is wrong with it.
    pub fn set_name(&mut self, name: &[u8]) -> Result<(), String> {
        ensure_name(name, "Client names")?;
        self.name = name.into();
        Ok(())
    }
}

/// Takes what Redis would take for a name, unless it is too long; `what` says what is named.
pub fn ensure_name(name: &[u8], what: &str) -> Result<(), String> {
    if !is_plain(name) {
        let why = "cannot contain spaces, newlines or special characters.";
        return Err(format!("ERR {what} {why}"));
    }
    if name.len() > MAX_NAME_BYTES {
        return Err(format!("ERR {what} can have at most {} KiB", MAX_NAME_BYTES / 1024));
    }
    Ok(())
}

/// Whether Redis would take it for a client's name.
fn is_plain(name: &[u8]) -> bool {
    name.iter().all(|byte| (b'!'..=b'~').contains(byte))
}
