//! Replies of backends that a session looks into.

use super::errors::ForwardError;
use crate::backend::PooledConnection;
use crate::resp;

/// Length of the longest reply that a session looks into: of INFO, HELLO, SELECT.
const MAX_SHORT_REPLY_BYTES: usize = 1024 * 1024;

/// Error of a backend that sends a push where a reply is due.
pub const UNWANTED_PUSH: &str = "a push that nobody asked for";

/// Reads a whole reply that is not long, to what is no script.
pub fn short_reply(connection: &mut PooledConnection) -> Result<Vec<u8>, ForwardError> {
    let reply = short_reply_unchecked(connection)?;
    connection.check_answer(&reply)?;
    Ok(reply)
}

/// Reads a whole reply that is not long, also one that says that the server can't answer.
pub fn short_reply_unchecked(connection: &mut PooledConnection) -> Result<Vec<u8>, ForwardError> {
    let mut reply = Vec::new();
    if !connection.hold(&mut reply, MAX_SHORT_REPLY_BYTES)? {
        return Err(resp::Error::TooLong.into());
    }
    if reply.starts_with(b">") {
        return Err(resp::Error::Protocol(UNWANTED_PUSH).into());
    }
    Ok(reply)
}

/// Returns the first word of an array in the canonical form, after its length and that of the word.
pub fn first_word(array: &[u8]) -> &[u8] {
    let word = array.split(|&byte| byte == b'\n').nth(2).unwrap_or_default();
    word.strip_suffix(b"\r").unwrap_or(word)
}
