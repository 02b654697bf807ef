//! Searches whose results come in pages: `FT.AGGREGATE` with `WITHCURSOR`, and `FT.CURSOR`. Their cursors carry their
//! backend, as those of SCAN do.

use super::forward::MAX_JUDGEMENTS;
use super::replies::{Answered, ForwardError, Tried, Unanswered};
use super::reply_writer::{Relayed, ReplyWriter};
use super::scan::{CursorReply, Passing, outgoing_cursor};
use super::session::Session;
use crate::backend::PooledConnection;
use crate::balance::cursor;
use crate::balance::slow::{ReadInfo, shown};
use crate::policy::{LocalCommand, Verdict};
use crate::resp::reply::Header;
use crate::resp::{Command, reply, write};

/// The number of the argument of `FT.CURSOR` that is the cursor.
const CURSOR_ARG: usize = 3;

impl Session<'_> {
    /// A search whose reply has a cursor.
    #[inline(never)]
    pub(super) fn search_page(&mut self, command: &Command) -> Answered {
        self.run_batch()?;
        let is_silent = self.is_silent;
        let profile = self.balancer.profile(command, self.policy.shape(command));
        let (profile, key) = profile.map_err(Unanswered::refused)?;
        let label = shown(command.name(), command.arg(1).unwrap_or_default());
        let (class, keys) = (profile.class, key.into_iter().collect::<Vec<_>>());
        let info = |is_alone| {
            let (keys, label) = (keys.clone(), label.clone());
            ReadInfo { class, keys, label, is_alone, context: None }
        };
        for _ in 0..MAX_JUDGEMENTS {
            let verdict = self.policy.verdict_for(self.login.user(), command);
            if verdict != Verdict::Local(LocalCommand::SearchPage) {
                break;
            }
            let version = Some(self.commands_version);
            let ran = self.on_connection(
                command.bytes(),
                version,
                profile,
                info,
                |connection, writer| relay_page(connection, writer, is_silent),
            );
            match ran {
                Err(Unanswered::OtherCommands) => self.refresh_policy(),
                ran => return ran,
            }
        }
        Err(Unanswered::OtherCommands)
    }

    /// `FT.CURSOR`, at the server that the cursor comes from.
    #[inline(never)]
    pub(super) fn search_cursor(&mut self, command: &Command) -> Answered {
        let cursor = command.arg(CURSOR_ARG).and_then(cursor::parse).filter(|cursor| *cursor > 0);
        // As RediSearch words it.
        let cursor = cursor.ok_or("Bad cursor ID")?;
        self.run_batch()?;
        let passing = Passing { is_silent: self.is_silent, form: CursorReply::Search };
        self.scan_on(command.args().collect(), CURSOR_ARG, cursor, &passing)
    }
}

/// Passes a page on, with the server's tag in its cursor: an array of the results and the cursor. Anything else is
/// passed on as it is.
pub(super) fn relay_page(
    connection: &mut PooledConnection,
    writer: &mut ReplyWriter,
    is_silent: bool,
) -> Tried {
    if connection.next_byte()? != b'*' {
        return writer.relay(connection, is_silent).map(|_| ());
    }
    let (start, given) = (writer.out.len(), writer.given);
    let mut is_partly_given = false;
    let passed = relay_parts(connection, writer, is_silent, &mut is_partly_given);
    match passed {
        Err(ForwardError::Backend(error)) if is_partly_given => Err(ForwardError::Cut(error)),
        Err(error) if !is_partly_given => {
            writer.out.truncate(start);
            writer.given = given;
            Err(error)
        }
        passed => passed,
    }
}

/// Passes an array on, part by part. Sets `is_partly_given` once the client may have got some of it.
fn relay_parts(
    connection: &mut PooledConnection,
    writer: &mut ReplyWriter,
    is_silent: bool,
    is_partly_given: &mut bool,
) -> Tried {
    let length = match reply::header(connection.replies())? {
        Header::Array(length) => length,
        _ => {
            writer.out.extend_from_slice(if is_silent { b"" } else { b"*-1\r\n" });
            return Ok(());
        }
    };
    if !is_silent {
        write::array(&mut writer.out, length as usize);
    }
    let mut before = None;
    for _ in 0..length {
        let kind = connection.next_byte()?;
        if length == 2 && ends_page(before, kind) {
            relay_cursor(connection, writer, is_silent)?;
        } else {
            let relayed = writer.relay(connection, is_silent)?;
            *is_partly_given |= relayed == Relayed::InPieces && !is_silent;
        }
        before = Some(kind);
        if writer.is_full() {
            *is_partly_given |= !is_silent;
            writer.deliver_if_full(Some(connection))?;
        }
    }
    Ok(())
}

/// Whether a frame that begins with `kind` is a page's cursor: it is a number, and the frame before it, of which
/// there is one, has the results. (Results without a cursor begin with their number.)
fn ends_page(before: Option<u8>, kind: u8) -> bool {
    kind == b':' && matches!(before, Some(b'*' | b'%'))
}

/// Passes a cursor on. One that can't be led back is an error in its place: the results are the client's already.
fn relay_cursor(
    connection: &mut PooledConnection,
    writer: &mut ReplyWriter,
    is_silent: bool,
) -> Tried {
    let position = reply::integer(connection.replies())?.unwrap_or_default().cast_unsigned();
    let run_id = connection.run_id.as_deref();
    let cursor = outgoing_cursor(position, run_id, writer.client.balancer);
    if !is_silent {
        write_cursor(&mut writer.out, cursor);
    }
    Ok(())
}

fn write_cursor(out: &mut Vec<u8>, cursor: Result<u64, String>) {
    match cursor {
        Ok(cursor) => write::integer(out, cursor.cast_signed()),
        Err(why) => write::error(out, why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_number_after_results_is_a_cursor() {
        for (before, kind, expected) in [
            (Some(b'*'), b':', true),
            (Some(b'%'), b':', true),
            // Results without a cursor: how many there are, and one row.
            (Some(b':'), b'*', false),
            (Some(b':'), b':', false),
            (None, b':', false),
            (Some(b'*'), b'*', false),
            (Some(b'*'), b'$', false),
        ] {
            assert_eq!(ends_page(before, kind), expected, "{before:?} {kind}");
        }
    }

    #[test]
    fn a_cursor_is_a_number_or_the_reason_why_there_is_none() {
        let mut out = Vec::new();
        write_cursor(&mut out, Ok(0));
        write_cursor(&mut out, Ok(cursor::join(342_459_320, 0xabcd).expect("in range")));
        write_cursor(&mut out, Err("ERR too large".to_owned()));
        assert_eq!(out, b":0\r\n:22443414039501\r\n-ERR too large\r\n");
    }
}
