//! Asks a server which commands it knows, in parts, so that each reply is short.
//!
//! Redis closes the connection of a client to which it owes more than `client-output-buffer-limit
//! normal`, and the whole reply to `COMMAND` is about 90 KB (Redis 7.0; more with modules). So, since
//! Redis 7.0, the names are asked for first (`COMMAND LIST`), then [`NAMES_AT_A_TIME`] of them at a
//! time (`COMMAND INFO name…`). An older server knows no `COMMAND LIST` and is asked for all at once:
//! without subcommands its reply is a third as long.
//!
//! Asked by name, a server also says what a name means to it: after `rename-command`, `COMMAND` goes
//! on listing commands by their old names.

use std::io;

use super::check::if_allowed;
use super::connection::Connection;
use super::error::BackendError;
use crate::policy::CommandTable;
use crate::resp::{self, CommandBuilder, command, reply};

/// Number of commands that one `COMMAND INFO` asks for. In the order of their names, Redis 7.0 owes at most
/// 34 KB at a time (its buffers included), and 30 KB if it is asked for each alone.
const NAMES_AT_A_TIME: usize = 16;

/// Most commands that a server may know: Redis 7.0 has 240, and modules bring some hundreds.
const MAX_NAMES: usize = 16 * 1024;

/// Likely reason why a server closed a connection on which it was asked for its commands.
const HINT: &str = "when asked which commands it knows; is its client-output-buffer-limit for normal \
    clients below 40kb (before Redis 7.0: 64kb)?";

/// Most bytes of one reply about commands.
const MAX_REPLY_BYTES: usize = 16 * 1024 * 1024;

/// Asks a server which commands it knows; `None` when its user may not ask. There must be no reply
/// outstanding on `connection`.
///
/// # Errors
/// When the connection fails, or the server says something that is no list of commands.
pub fn ask(connection: &mut Connection) -> Result<Option<CommandTable>, BackendError> {
    match in_parts(connection)? {
        Some(table) => Ok(Some(table)),
        None => at_once(connection),
    }
}

/// Asks for a few commands at a time; `None` when the server knows no `COMMAND LIST`, or leaves something out.
fn in_parts(connection: &mut Connection) -> Result<Option<CommandTable>, BackendError> {
    let list = exchange(connection, command("COMMAND").arg("LIST"))?;
    let Some(mut names) = CommandTable::parse_names(&list).filter(|names| names.len() <= MAX_NAMES)
    else {
        return Ok(None);
    };
    // A server lists them in another order each time it starts. In some orders, the longest come together.
    names.sort_unstable();
    let mut table = CommandTable::default();
    for names in names.chunks(NAMES_AT_A_TIME) {
        let infos = exchange(connection, command("COMMAND").arg("INFO").args(names))?;
        if table.add(names, &infos).is_none() {
            return Ok(None);
        }
    }
    Ok(Some(table).filter(|table| !table.is_empty()))
}

fn at_once(connection: &mut Connection) -> Result<Option<CommandTable>, BackendError> {
    let reply = exchange(connection, command("COMMAND"))?;
    // A user who may not ask is enough for HTTP.
    if if_allowed(reply::no_error(&reply))?.is_none() {
        return Ok(None);
    }
    Ok(Some(CommandTable::parse(&reply).map_err(resp::Error::Protocol)?))
}

/// Returns the whole reply to one command, error replies included.
fn exchange(connection: &mut Connection, command: CommandBuilder) -> Result<Vec<u8>, BackendError> {
    let mut reply = Vec::new();
    let sent = connection.send(&command.into_bytes());
    match sent.and_then(|()| connection.hold(&mut reply, MAX_REPLY_BYTES)) {
        Ok(true) => Ok(reply),
        Ok(false) => Err(resp::Error::TooLong.into()),
        Err(BackendError::Lost(error)) => {
            Err(BackendError::Lost(io::Error::new(error.kind(), format!("{error} {HINT}"))))
        }
        Err(error) => Err(error),
    }
}
