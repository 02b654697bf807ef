//! WATCH and UNWATCH: a connection of the session's own watches, and EXEC is sent on it.

use super::errors::SessionEnd;
use super::local_reply::ServedBy;
use super::replies::short_reply;
use super::session::Session;
use super::upstream::{SendTarget, TOO_MANY_PINNED, Watch};
use crate::resp::{Command, command};

/// Keys that a server is asked to watch in one command: it compares each with all that the client
/// watches already, and answers nobody else meanwhile (Redis 7.0 takes seconds for 16,384 keys).
const WATCH_STEP_KEYS: usize = 128;

const OK: &[u8] = b"+OK\r\n";

impl Session<'_> {
    /// A connection of the client's own watches: at EXEC it tells whether something was touched.
    #[inline(never)]
    pub(super) fn watch(&mut self, command: &Command) -> Result<(), SessionEnd> {
        if !self.upstream.has_room_to_watch(command.args().skip(1)) {
            self.error("ERR too many watched keys for one client");
            return Ok(());
        }
        self.run_batch()?;
        let keys: Vec<&[u8]> = command.args().skip(1).collect();
        let steps: Vec<Vec<u8>> = keys.chunks(WATCH_STEP_KEYS).map(watch_command).collect();
        let Self { upstream, writer, mode, local_reply, .. } = self;
        let watched = upstream.with_failover(writer.client.handle(), |upstream, attempt| {
            if matches!(upstream.watch, Watch::InUse(_) | Watch::Lost) {
                // What EXEC will answer is known already.
                return Ok(OK.to_vec());
            }
            let target = SendTarget { attempt, mode: *mode, commands_version: None };
            let mut connection = upstream.send(target, &steps[0])?;
            let mut reply = short_reply(&mut connection)?;
            local_reply.served_by = Some(ServedBy::attempt(attempt));
            let watches = reply == OK;
            for step in &steps[1..] {
                if reply == OK {
                    connection.send(step)?;
                    reply = short_reply(&mut connection)?;
                }
            }
            match (&upstream.watch, &reply[..]) {
                (Watch::None, OK) => {
                    if !upstream.watch_with(connection, attempt.backend.id) {
                        return Ok(format!("-{TOO_MANY_PINNED}\r\n").into_bytes());
                    }
                }
                // Closed: it watches for nobody, as the watch before it is lost, or as some of its
                // keys can't be watched.
                (Watch::Lost, _) => drop(connection),
                (Watch::None, _) if watches => drop(connection),
                _ => upstream.release(connection),
            }
            Ok(reply)
        });
        match watched {
            Ok(reply) => {
                if reply == OK {
                    self.upstream.note_watched(keys.into_iter());
                }
                self.raw(&reply);
                Ok(())
            }
            Err(unanswered) => self.unanswered(unanswered),
        }
    }

    #[inline(never)]
    pub(super) fn unwatch(&mut self) {
        self.upstream.forget_watch();
        self.ok();
    }
}

fn watch_command(keys: &[&[u8]]) -> Vec<u8> {
    let args: Vec<&[u8]> = [&b"WATCH"[..]].iter().chain(keys).copied().collect();
    let mut command = Vec::new();
    command::encode(args.into_iter(), &mut command);
    command
}
