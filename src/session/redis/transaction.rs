//! A transaction: the commands since MULTI. Reads are gathered and go to a backend with the EXEC, all at once, so that a
//! client that ponders holds no connection.

use std::collections::HashSet;
use std::io;

use super::replies::{Answered, SessionEnd};
use crate::backend::Class;
use crate::balance::slow::{Kinds, MAX_FAST_ARGUMENTS, ReadInfo, ReadKey, shown};
use crate::memory::{OutOfMemory, Share};
use crate::policy::scripts::Scripts;
use crate::policy::users::User;
use crate::policy::{self, Policy, Script, Shape, Verdict};
use crate::resp::{self, Command, CommandParser};
use crate::text::figures::size;

/// The most that may be queued between MULTI and EXEC, in bytes; all of it counts towards `--max-memory`. Client
/// libraries send a pipeline as a transaction by default: 50,000 commands take 2 to 5 MiB. Redis has no limit but
/// that of its memory.
pub const MAX_QUEUED_BYTES: usize = 64 * 1024 * 1024;

/// Length in bytes from which on a piece of a transaction is full. A server answers each queued command, so the
/// replies to a piece stay below what the buffers of a connection hold. It is more than a server reads at once: the
/// first of several pieces is never taken for a whole transaction.
const PIECE_BYTES: usize = 64 * 1024;

const MULTI: &[u8] = b"*1\r\n$5\r\nMULTI\r\n";
const EXEC: &[u8] = b"*1\r\n$4\r\nEXEC\r\n";

/// A part of a transaction that is sent in one write.
pub struct Piece {
    bytes: Vec<u8>,
    /// How many replies it gets before that to EXEC.
    pub replies: usize,
}

/// Commands that were sent since MULTI.
pub struct Transaction<'a> {
    /// MULTI, the commands and, once it is sealed, EXEC.
    pieces: Vec<Piece>,
    /// The pieces in the form in which they are sent, where that is another.
    sent: Vec<Piece>,
    /// Length of all commands.
    bytes: usize,
    /// How much memory the pieces take.
    held: usize,
    memory: Share<'a>,
    /// How many arguments the commands have together.
    arguments: usize,
    /// Key by which the slow lane knows all of it together.
    key: Option<ReadKey>,
    /// Keys of its reads that are not fast, each once.
    parts: Vec<ReadKey>,
    /// Its first read that is not fast, for the log.
    label: String,
    pub script: Option<Script>,
    /// ECHO of the user's name, sent in the place of ACL WHOAMI: the backend does not know that user.
    echo: Option<Vec<u8>>,
    /// Whether something was refused, so that EXEC will be.
    pub is_aborted: bool,
}

impl<'a> Transaction<'a> {
    /// An empty transaction, whose commands are counted in this share.
    pub fn new(memory: Share<'a>) -> Self {
        Self {
            pieces: vec![Piece { bytes: MULTI.to_vec(), replies: 1 }],
            sent: Vec::new(),
            bytes: 0,
            held: 0,
            memory,
            arguments: 0,
            key: None,
            parts: Vec::new(),
            label: String::new(),
            script: None,
            echo: None,
            is_aborted: false,
        }
    }

    /// Adds a command.
    ///
    /// # Errors
    /// The error reply, when there is no room: then EXEC will be refused. The session ends if all clients together
    /// hold too much memory.
    pub fn add(&mut self, command: &Command, shape: Shape, key: ReadKey) -> Answered {
        if self.bytes + command.bytes().len() > MAX_QUEUED_BYTES {
            self.abort();
            let max = size(MAX_QUEUED_BYTES as u64);
            return Err(format!("ERR at most {max} may be queued after MULTI").into());
        }
        if self.is_aborted {
            return Ok(());
        }
        self.push(command.bytes()).map_err(io::Error::from).map_err(SessionEnd::from)?;
        self.arguments += command.arg_count();
        self.script = self.script.or(policy::script(command));
        self.key = Some(self.key.map_or(key, |before| before.with(key)));
        if !key.is_fast && self.is_short() && !self.parts.contains(&key) {
            self.parts.push(key);
        }
        if self.label.is_empty() && !key.is_fast {
            let key = command.arg(shape.key_arg(command)).unwrap_or_default();
            self.label = shown(b"MULTI", command.name()) + &shown(b"", key);
        }
        Ok(())
    }

    /// Adds an ACL WHOAMI of this user.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn add_whoami(&mut self, user: &str, shape: Shape, key: ReadKey) -> Answered {
        let echo = resp::command("ECHO").arg(user).into_bytes();
        let mut parser = CommandParser::new(usize::MAX);
        if let Ok((_, Some(command))) = parser.parse(&echo) {
            self.add(&command, shape, key)?;
        }
        self.echo = Some(echo);
        Ok(())
    }

    /// Adds a command to the last piece, or to a new one.
    fn push(&mut self, command: &[u8]) -> Result<(), OutOfMemory> {
        if self.pieces.last().is_none_or(|last| last.bytes.len() >= PIECE_BYTES) {
            self.pieces.push(Piece { bytes: Vec::with_capacity(PIECE_BYTES), replies: 0 });
            self.held += PIECE_BYTES + size_of::<Piece>();
        }
        if let Some(last) = self.pieces.last_mut() {
            let before = last.bytes.capacity();
            if last.bytes.len() + command.len() > PIECE_BYTES {
                // It is full then.
                last.bytes.reserve_exact(command.len());
            }
            last.bytes.extend_from_slice(command);
            last.replies += 1;
            self.held += last.bytes.capacity() - before;
        }
        self.bytes += command.len();
        self.memory.set(self.held)
    }

    /// EXEC will be refused.
    pub fn abort(&mut self) {
        self.is_aborted = true;
        (self.pieces, self.bytes, self.held) = (Vec::new(), 0, 0);
        self.memory.clear();
    }

    /// EXEC has come: no command follows.
    ///
    /// # Errors
    /// When all clients together hold too much memory.
    pub fn seal(&mut self, scripts: &Scripts) -> Result<(), OutOfMemory> {
        if let Some(last) = self.pieces.last_mut() {
            last.bytes.extend_from_slice(EXEC);
        }
        if self.script.is_some() {
            let mut brought = HashSet::new();
            for Piece { bytes, replies } in &self.pieces {
                let bytes = scripts.as_sent(bytes, &mut brought);
                self.held += bytes.capacity();
                self.memory.set(self.held)?;
                self.sent.push(Piece { bytes, replies: *replies });
            }
        }
        Ok(())
    }

    /// All of it, as a backend gets it: piece by piece, the last with the EXEC.
    pub fn pieces(&self) -> &[Piece] {
        if self.sent.is_empty() { &self.pieces } else { &self.sent }
    }

    /// The piece that is sent first.
    pub fn first(&self) -> &[u8] {
        self.pieces().first().map_or(&[], Piece::bytes)
    }

    /// Key by which the slow lane knows all of it: it is one read.
    pub fn read_key(&self) -> Option<ReadKey> {
        let key = self.key?;
        Some(ReadKey { is_fast: key.is_fast && self.is_short(), ..key })
    }

    /// Returns what is known of how long it takes. All of one with few arguments is quick if each read is.
    pub fn class(&self, kinds: &Kinds) -> Option<Class> {
        let key = self.read_key()?;
        Some(match self.is_short() {
            true => kinds.class_together(&key, &self.parts),
            false => kinds.class(&key),
        })
    }

    fn is_short(&self) -> bool {
        self.arguments <= MAX_FAST_ARGUMENTS
    }

    pub fn read_info(&self, class: Class) -> ReadInfo {
        let keys = self.read_key().into_iter().collect();
        ReadInfo { class, keys, label: self.label.clone(), is_alone: false, context: None }
    }

    /// Whether all of it is still allowed.
    pub fn may_pass(&self, policy: &Policy, user: Option<&User>) -> bool {
        let mut parser = CommandParser::new(usize::MAX);
        self.pieces.iter().all(|piece| {
            let mut rest = &piece.bytes[..];
            while let Ok((length, Some(command))) = parser.parse(rest) {
                let is_own = [MULTI, EXEC].contains(&command.bytes())
                    || self.echo.as_deref() == Some(command.bytes());
                let verdict = || policy.verdict_in_transaction_for(user, &command);
                if !is_own && verdict() != Verdict::Forward {
                    return false;
                }
                rest = &rest[length..];
            }
            rest.is_empty()
        })
    }
}

impl Piece {
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}
