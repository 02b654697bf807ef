//! What a session knows of its client: what HELLO and CLIENT say and ask.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::Session;
use crate::resp::{Command, write};
use crate::session::client::Client;

/// What Redis says of arguments that it can't make sense of.
pub const SYNTAX_ERROR: &str = "ERR syntax error";

/// The longest name of a client, and the longest name or version of its library.
const MAX_NAME_BYTES: usize = 64 * 1024;

/// The same numbers are never given twice, as in Redis.
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
    address: SocketAddr,
    local_address: Option<SocketAddr>,
    since: Instant,
    name: Box<[u8]>,
    library_name: Box<[u8]>,
    library_version: Box<[u8]>,
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

    /// What `RESET` leaves of it.
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
fn ensure_name(name: &[u8], what: &str) -> Result<(), String> {
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

impl Session<'_> {
    pub(super) fn client_setname(&mut self, command: &Command) {
        match self.state.set_name(command.arg(2).unwrap_or_default()) {
            Ok(()) => self.ok(),
            Err(error) => self.error(error),
        }
    }

    pub(super) fn client_getname(&mut self) {
        let (name, protocol) = (std::mem::take(&mut self.state.name), self.mode.protocol);
        self.answer(|out| match name.is_empty() {
            true => write::null(out, protocol),
            false => write::bulk(out, &name),
        });
        self.state.name = name;
    }

    /// `CLIENT SETINFO`, as Redis 7.2 has it.
    #[inline(never)]
    pub(super) fn client_setinfo(&mut self, command: &Command) {
        let value = command.arg(3).unwrap_or_default();
        let (option, known) = match (command.is(2, b"lib-name"), command.is(2, b"lib-ver")) {
            (true, _) => ("lib-name", &mut self.state.library_name),
            (_, true) => ("lib-ver", &mut self.state.library_version),
            _ => {
                let option = command.arg(2).unwrap_or_default();
                return self.error([b"ERR Unrecognized option '", option, b"'"].concat());
            }
        };
        if let Err(error) = ensure_name(value, option) {
            return self.error(error);
        }
        *known = value.into();
        self.ok();
    }

    /// The fields that Redis 7.0 has: redis-py, for one, fails where one is missing. Those about a
    /// server's memory say nothing here.
    #[inline(never)]
    pub(super) fn client_info(&mut self) {
        let state = &self.state;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let counts = self.subscriptions.as_ref().map_or([0; 3], |all| all.counts());
        let line = format!(
            "id={} addr={} laddr={} fd=-1 name={} age={} idle=0 flags={} db={} sub={} psub={} ssub={} \
             multi=-1 qbuf=0 qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 omem=0 \
             tot-mem=0 events=r cmd=client|info user=default redir=-1 resp={} lib-name={} \
             lib-ver={}\n",
            state.id,
            state.address,
            state.local_address.map(|address| address.to_string()).unwrap_or_default(),
            text(&state.name),
            state.since.elapsed().as_secs(),
            if counts == [0; 3] { "N" } else { "P" },
            self.mode.database,
            counts[0],
            counts[1],
            counts[2],
            self.mode.protocol.version(),
            text(&state.library_name),
            text(&state.library_version),
        );
        let protocol = self.mode.protocol;
        self.answer(|out| write::text(out, line.as_bytes(), protocol));
    }

    pub(super) fn client_reply(&mut self, command: &Command) {
        let mode = &mut self.state.reply_mode;
        if command.is(2, b"on") {
            *mode = ReplyMode::On;
            self.is_silent = false;
            self.ok();
        } else if command.is(2, b"off") {
            *mode = ReplyMode::Off;
        } else if command.is(2, b"skip") {
            if *mode == ReplyMode::On {
                *mode = ReplyMode::SkipNext;
            }
        } else {
            self.error(SYNTAX_ERROR);
        }
    }

    /// `CLIENT NO-EVICT` and `NO-TOUCH`: nothing of ours is evicted, or touched.
    pub(super) fn client_ok(&mut self, command: &Command) {
        match command.is(2, b"on") || command.is(2, b"off") {
            true => self.ok(),
            false => self.error(SYNTAX_ERROR),
        }
    }
}
