//! XREAD with BLOCK: the session reads at once, and where nothing is there, waits on a connection of its own.
//!
//! The wait is the server's, as long as the client has asked for, also for ever. Meanwhile the session's thread watches
//! both sockets. A client that leaves ends it, and takes the connection with it. When the server fails, or is to be left,
//! the read is repeated at another with the time that is left. That takes IDs that mean the same everywhere, so `$`, the
//! last ID of a stream, is asked for first, and sent from then on. (`+`, since Redis 7.4, is a question about entries that
//! are there, and can be repeated as it is.)
//!
//! A server that can't be reached any more is noticed by the kernel, which probes idle connections
//! (`net/backend_stream.rs`), one that is silent by its health checks, and at the end of a wait that has one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::forward::MAX_JUDGEMENTS;
use super::local_commands::integer;
use super::replies::{
    Answered, ForwardError, SessionEnd, Tried, Unanswered, served_by, short_reply,
};
use super::reply_writer::ReplyWriter;
use super::session::Session;
use crate::backend::{BackendError, Connection, PooledConnection};
use crate::balance::slow::{ReadInfo, ReadProfile, shown};
use crate::balance::{Balancer, Phase, why_outranked};
use crate::health::{BackendState, Member};
use crate::metrics::Outcome;
use crate::policy::{LocalCommand, Refused, Shape, Verdict, XreadOptions};
use crate::resp::{self, Command, CommandParser};
use crate::session::client::IDLE_GRACE;

/// Error where as many connections as may be are waited on, at each server.
const TOO_MANY: &str = "ERR too many clients wait in XREAD BLOCK: try again later";

/// Error for a subscriber: its messages would wait as long as the read does.
const SUBSCRIBER: &str =
    "ERR XREAD with BLOCK is not served to subscribers by redis-lb: use another connection";

/// Time between two looks at what ends a wait and shows on no socket: the end of the process, the state of the server.
const LOOK_INTERVAL: Duration = IDLE_GRACE;

/// A wait that has lasted for so long was a good one, however it ends.
const GOOD_WAIT: Duration = Duration::from_secs(1);

/// How many waits that were not good may follow each other in one command.
const MAX_LOSSES: usize = 3;

/// Number of streams whose last IDs are asked for in one write: a server answers nobody else meanwhile.
const IDS_AT_ONCE: usize = 128;

/// Number of bytes of a reply that tell an ID or hold an error.
const HEAD_BYTES: usize = 512;

/// Replies without entries.
const NOTHING: [&[u8]; 2] = [b"*-1\r\n", b"_\r\n"];

/// One XREAD with BLOCK, whose options are right as far as the wait goes.
struct BlockingRead<'a> {
    /// Its arguments without BLOCK; an ID that is resolved takes the place of a `$`.
    args: Vec<&'a [u8]>,
    /// The number of the first key among them, and how many streams there are.
    streams: (usize, usize),
    /// Last IDs of streams, by the numbers of their arguments.
    ids: Vec<(usize, Vec<u8>)>,
    /// End of the wait, if it has one.
    deadline: Option<Instant>,
}

impl<'a> BlockingRead<'a> {
    /// Reads a command; `None` if its time is none, or its streams are not what they should be: a server refuses it
    /// at once, in its own words.
    fn new(command: &Command<'a>, now: Instant) -> Option<Self> {
        let options = XreadOptions::of(command);
        let time_at = |block: &usize| command.arg(block + 1).and_then(integer);
        let times: Option<Vec<i64>> = options.blocks.iter().map(time_at).collect();
        let time = match times?.as_slice() {
            times if times.iter().any(|time| *time < 0) => return None,
            [.., last] => Duration::from_millis(last.cast_unsigned()),
            [] => return None,
        };
        let is_block =
            |at: usize| options.blocks.iter().any(|block| at == *block || at == block + 1);
        let args = command.args().enumerate().filter(|(at, _)| !is_block(*at));
        let args: Vec<&[u8]> = args.map(|(_, arg)| arg).collect();
        let first = options.streams? + 1 - 2 * options.blocks.len();
        let rest = args.len() - first;
        if rest == 0 || !rest.is_multiple_of(2) {
            return None;
        }
        let streams = (first, rest / 2);
        // A time beyond the clock's is for ever.
        let deadline = (!time.is_zero()).then(|| now.checked_add(time)).flatten();
        Some(Self { args, streams, ids: Vec::new(), deadline })
    }

    /// The numbers of the arguments that are still `$`.
    fn unresolved(&self) -> Vec<usize> {
        let (first, count) = self.streams;
        let ids = first + count..self.args.len();
        // They were asked for in this order.
        let is_known = |at: &usize| self.ids.binary_search_by_key(at, |(at, _)| *at).is_ok();
        ids.filter(|at| self.args[*at] == b"$" && !is_known(at)).collect()
    }

    /// The time that is left; `None` if there is no end.
    fn left(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// The read as a server gets it: one that waits, or one that does not.
    fn encoded(&self, waits: bool) -> Vec<u8> {
        let mut args: Vec<&[u8]> = self.args.clone();
        for (at, id) in &self.ids {
            args[*at] = id;
        }
        // Not a moment less than is left; 0 means for ever.
        let time = self.left().map_or(0, |left| left.as_millis() as u64 + 1).to_string();
        let block: &[&[u8]] = if waits { &[b"BLOCK", time.as_bytes()] } else { &[] };
        let (name, rest) =
            args.split_first().map_or((&b""[..], &[][..]), |(name, rest)| (*name, rest));
        resp::command(name).args(block).args(rest).into_bytes()
    }
}

/// How a wait has ended.
enum Waited {
    /// The client has its reply.
    Answered,
    /// The server can't be waited for any longer.
    Left(BackendError),
}

impl Session<'_> {
    #[inline(never)]
    pub(super) fn blocking_xread(&mut self, command: &Command) -> Answered {
        if self.subscriptions.is_some() {
            return Err(SUBSCRIBER.into());
        }
        // What came before is answered before, and is not held up.
        self.run_batch()?;
        self.writer.deliver().map_err(SessionEnd::from)?;
        let shape = self.policy.shape(command);
        let mut read = BlockingRead::new(command, Instant::now());
        for _ in 0..MAX_JUDGEMENTS {
            let done = match &mut read {
                Some(read) => self.read_or_wait(read, shape),
                None => self.read_once(command.bytes(), shape, true).map(|_| ()),
            };
            let Err(Unanswered::OtherCommands) = done else { return done };
            self.refresh_policy();
            match self.policy.verdict_for(self.login.user(), command) {
                Verdict::Local(LocalCommand::BlockingXread) => {}
                Verdict::Refuse(Refused { why, error }) => {
                    return Err(Unanswered::Error(error, Outcome::Refused(why)));
                }
                _ => break,
            }
        }
        Err(Unanswered::OtherCommands)
    }

    fn read_or_wait(&mut self, read: &mut BlockingRead, shape: Shape) -> Answered {
        let mut losses = 0;
        loop {
            self.resolve_last_ids(read)?;
            let is_over = read.left().is_some_and(|left| left.is_zero());
            if self.read_once(&read.encoded(false), shape, is_over)? {
                return Ok(());
            }
            let (connection, backend) = self.connection_to_wait()?;
            let began = Instant::now();
            let Waited::Left(error) = self.wait_for_entries(connection, &backend, read)? else {
                return Ok(());
            };
            backend.metrics.errors.add(error.is_failure().into());
            losses = if began.elapsed() < GOOD_WAIT { losses + 1 } else { 0 };
            if losses > MAX_LOSSES {
                let why = format!("no backend could answer: {}: {error}", backend.name());
                return Err(Unanswered::AllFailed(why));
            }
        }
    }

    /// Asks what `$` stands for, where it stands.
    fn resolve_last_ids(&mut self, read: &mut BlockingRead) -> Answered {
        let version = Some(self.commands_version);
        for places in read.unresolved().chunks(IDS_AT_ONCE) {
            let mut questions = Vec::new();
            for at in places {
                let key = read.args[at - read.streams.1];
                let last = resp::command("XREVRANGE").arg(key).args(["+", "-", "COUNT", "1"]);
                last.append_to(&mut questions);
            }
            let info = |_| ReadInfo::default();
            let ids = self.on_connection(
                &questions,
                version,
                ReadProfile::QUICK,
                info,
                |connection, writer| {
                    places.iter().map(|_| last_id(connection, writer)).collect::<Tried<Vec<_>>>()
                },
            )?;
            for (at, id) in places.iter().zip(ids) {
                read.ids.push((*at, id?));
            }
        }
        Ok(())
    }

    /// Reads without a wait. Returns whether the client has its reply: it gets none that is empty, unless
    /// `is_last`.
    fn read_once(&mut self, bytes: &[u8], shape: Shape, is_last: bool) -> Answered<bool> {
        let mut parser = CommandParser::new(usize::MAX);
        // It was whole when it came, and is made of the same arguments.
        let Ok((_, Some(command))) = parser.parse(bytes) else {
            return Err("ERR syntax error".into());
        };
        let profile = self.balancer.profile(&command, shape);
        let (profile, _) = profile.map_err(Unanswered::refused)?;
        let read_key = self.balancer.read_key(&command, shape);
        let key = command.arg(shape.key_arg(&command)).unwrap_or_default();
        let label = shown(command.name(), key);
        let info = |is_alone| ReadInfo {
            class: profile.class,
            keys: vec![read_key],
            label: label.clone(),
            is_alone,
            context: None,
        };
        let (version, is_silent) = (Some(self.commands_version), self.is_silent);
        self.on_connection(bytes, version, profile, info, |connection, writer| {
            let (start, given, mut head) = (writer.out.len(), writer.given, Vec::new());
            let look = |piece: &[u8]| keep_head(&mut head, piece);
            writer.relay_watched(connection, is_silent, true, look)?;
            let is_empty = NOTHING.contains(&&*head) && !is_last;
            if is_empty {
                writer.out.truncate(start);
                writer.given = given;
            }
            Ok(!is_empty)
        })
    }

    /// A connection of the session's own, to a server that answers.
    fn connection_to_wait(&mut self) -> Answered<(PooledConnection, Arc<Member>)> {
        let version = self.commands_version;
        let Self { upstream, writer, mode, local_reply, balancer, .. } = self;
        let ping = resp::command("PING").into_bytes();
        let mut is_full = false;
        let found = upstream.with_failover(writer.client.handle(), |upstream, attempt| {
            let backend = &attempt.backend;
            let is_judged = |connection: &Connection| {
                backend.is_current(connection) && version == balancer.commands_version()
            };
            let wait_policy = attempt.wait_policy();
            let mut connection = backend.request(*mode, &ping, wait_policy, is_judged)?;
            short_reply(&mut connection)?;
            if !connection.pin_to_wait() {
                is_full = true;
                let error = connection.no_room();
                connection.keep();
                return Err(error.into());
            }
            // The wait is no time that the server takes for the read.
            local_reply.served_by = served_by(attempt);
            upstream.pin_lease(backend.id);
            Ok((connection, Arc::clone(backend)))
        });
        found.map_err(|unanswered| match unanswered {
            Unanswered::AllFailed(_) if is_full => TOO_MANY.into(),
            unanswered => unanswered,
        })
    }

    fn wait_for_entries(
        &mut self,
        mut connection: PooledConnection,
        backend: &Member,
        read: &BlockingRead,
    ) -> Answered<Waited> {
        if let Err(error) = connection.post(&read.encoded(true)) {
            return Ok(Waited::Left(error));
        }
        let since = Instant::now();
        while !self.wait_beside_client(&connection)? {
            let (balancer, database) = (self.balancer, self.mode.database);
            let limit = balancer.config().backend_timeout;
            let is_late = read.deadline.is_some_and(|deadline| deadline.elapsed() >= limit);
            let late = || is_late.then_some(BackendError::TimedOut);
            if let Some(why) = reason_to_leave(balancer, backend, since, database).or_else(late) {
                return Ok(Waited::Left(why));
            }
        }
        let given = self.writer.given;
        match self.writer.relay(&mut connection, self.is_silent) {
            Ok(_) => {
                self.local_reply.relayed(given, self.writer.given);
                connection.keep();
                Ok(Waited::Answered)
            }
            Err(ForwardError::Backend(error)) => Ok(Waited::Left(error)),
            Err(failure) => Err(SessionEnd::from(failure).into()),
        }
    }

    /// Waits a moment for the server, and takes in what the client sends meanwhile. Returns whether the server has
    /// sent something.
    fn wait_beside_client(&mut self, connection: &Connection) -> Result<bool, SessionEnd> {
        let left = || SessionEnd::Gone("left while its read waited".to_owned());
        if self.balancer.has_reached(Phase::Closing) {
            return Err(SessionEnd::Gone("the balancer ends".to_owned()));
        }
        self.refresh_login()?;
        let ReplyWriter { client, backlog, .. } = &mut self.writer;
        if connection.has_buffered() {
            return Ok(true);
        }
        if !backlog.is_open() {
            // It has sent as much as it may.
            return match client.handle().is_gone() {
                true => Err(left()),
                false => Ok(connection.stream().wait_for_input(LOOK_INTERVAL)),
            };
        }
        let client = client.stream();
        let (from_client, from_backend) =
            client.wait_for_input_or_backend(connection.stream(), LOOK_INTERVAL)?;
        if from_client {
            backlog.fill_from(client)?;
        }
        // As in Redis, one that sends no more has left.
        if backlog.is_half_closed { Err(left()) } else { Ok(from_backend) }
    }
}

/// Reads the last ID from a reply to XREVRANGE, or 0-0 where there is no entry; or the error, which is the client's.
fn last_id(
    connection: &mut PooledConnection,
    writer: &mut ReplyWriter,
) -> Tried<Result<Vec<u8>, Unanswered>> {
    let (given, mut head) = (writer.given, Vec::new());
    writer.relay_watched(connection, true, true, |piece| keep_head(&mut head, piece))?;
    writer.given = given;
    if let Some(error) = head.strip_prefix(b"-") {
        return Ok(Err(error.trim_ascii_end().to_vec().into()));
    }
    // One array of entries, in that one of an ID and fields, in that the ID.
    let mut lines = head.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii_end);
    let id = match lines.next() {
        Some(b"*0") => Some(&b"0-0"[..]),
        _ => lines.nth(2),
    };
    let id = id.filter(|id| id.first().is_some_and(u8::is_ascii_digit));
    let id = id.ok_or(resp::Error::Protocol("no entry of a stream"))?;
    Ok(Ok(id.to_vec()))
}

fn keep_head(head: &mut Vec<u8>, piece: &[u8]) {
    head.extend_from_slice(&piece[..piece.len().min(HEAD_BYTES - head.len())]);
}

/// Why a client should wait at another server now, if it should.
fn reason_to_leave(
    balancer: &Balancer,
    backend: &Member,
    since: Instant,
    database: i64,
) -> Option<BackendError> {
    let departure = || backend.health.departure().map(BackendError::Departed);
    if matches!(backend.health.state(), BackendState::Down | BackendState::Syncing) {
        return departure().or(Some(BackendError::Unresponsive));
    }
    let backends = balancer.backends();
    let serves = |id| backends.get(id).is_some_and(|backend| backend.health.serves(database));
    if since.elapsed() < GOOD_WAIT || !balancer.table.is_outranked(backend.id, serves) {
        return None;
    }
    departure().or_else(|| Some(why_outranked(balancer.table.terms(backend.id))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown_read(words: &str) -> Option<(Vec<String>, Vec<usize>, bool)> {
        let words: Vec<&str> = words.split(' ').collect();
        let bytes = resp::command(words[0]).args(&words[1..]).into_bytes();
        let mut parser = CommandParser::new(usize::MAX);
        let command = parser.parse(&bytes).expect("valid").1.expect("whole");
        let read = BlockingRead::new(&command, Instant::now())?;
        let args = read.args.iter().map(|arg| String::from_utf8_lossy(arg).into_owned());
        Some((args.collect(), read.unresolved(), read.deadline.is_some()))
    }

    #[test]
    fn a_read_is_taken_apart_as_redis_does() {
        for (words, expected) in [
            ("xread block 0 streams a $", Some(("xread streams a $", vec![3], false))),
            (
                "XREAD COUNT 2 BLOCK 5 STREAMS $ b 0 $",
                Some(("XREAD COUNT 2 STREAMS $ b 0 $", vec![7], true)),
            ),
            (
                "xread block 5 block 0 streams a b $ $",
                Some(("xread streams a b $ $", vec![4, 5], false)),
            ),
            (
                "xread block 5 nosuch a 0 streams a 0",
                Some(("xread nosuch a 0 streams a 0", vec![], true)),
            ),
            ("xread block 5 nosuch", None),
            ("xread block 5 streams a", None),
            ("xread block 5 streams", None),
            (
                "xread block 9223372036854775807 streams a 0",
                Some(("xread streams a 0", vec![], true)),
            ),
            ("xread block -1 streams a $", None),
            ("xread block 1 block x streams a $", None),
            ("xread block 05 streams a $", None),
        ] {
            let found = shown_read(words);
            let expected = expected.map(|(args, unresolved, ends)| {
                let args: Vec<String> = args.split(' ').map(str::to_owned).collect();
                (args, unresolved, ends)
            });
            match (&found, &expected) {
                // Whether the clock reaches so far is the system's to say.
                (Some((args, ..)), Some((expected, ..))) if words.contains("9223") => {
                    assert_eq!(args, expected);
                }
                _ => assert_eq!(found, expected, "{words}"),
            }
        }
    }

    #[test]
    fn a_read_is_sent_with_ids_for_what_was_the_last() {
        let bytes = resp::command("xread").args(["block", "0", "streams", "a", "b", "$", "0"]);
        let bytes = bytes.into_bytes();
        let mut parser = CommandParser::new(usize::MAX);
        let command = parser.parse(&bytes).expect("valid").1.expect("whole");
        let mut read = BlockingRead::new(&command, Instant::now()).expect("a time");
        read.ids.push((4, b"5-1".to_vec()));
        assert!(read.unresolved().is_empty());
        let encoded = |words: &[&str]| resp::command(words[0]).args(&words[1..]).into_bytes();
        assert_eq!(read.encoded(false), encoded(&["xread", "streams", "a", "b", "5-1", "0"]));
        let waits = encoded(&["xread", "BLOCK", "0", "streams", "a", "b", "5-1", "0"]);
        assert_eq!(read.encoded(true), waits);
    }
}
