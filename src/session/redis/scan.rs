//! SCAN, HSCAN, SSCAN and ZSCAN: cursors that carry their backend. Those of searches go on here as well.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::local_commands::integer;
use super::replies::{Answered, ForwardError, SessionEnd, Tried};
use super::reply_writer::ReplyWriter;
use super::search::relay_page;
use super::session::Session;
use crate::backend::{BackendError, Connection, PooledConnection, WaitPolicy};
use crate::balance::Balancer;
use crate::balance::cursor::{self, MAX_SCAN_COUNT};
use crate::balance::slow::{ReadInfo, ReadProfile};
use crate::health::{BackendState, Member};
use crate::policy::users::User;
use crate::resp::{self, Command, reply, write};

/// [`MAX_SCAN_COUNT`] as it is sent.
const MAX_SCAN_COUNT_TEXT: &[u8] = b"10000";

const GONE: &str = "ERR invalid cursor: its server is gone or was restarted, and would miss \
    elements: start again from 0";

const SEARCH_GONE: &str = "ERR invalid cursor: its server is gone or was restarted: search again";

const NO_RIGHT: &str = "ERR a cursor can't go on: this backend's user lacks the right +info, without which \
    it can't be led back to its server (ACL SETUSER ... +info)";

const TOO_LARGE: &str =
    "ERR a cursor can't go on: the server's number is too large to be passed on";

/// Longest keys together of one SCAN that is filtered. They are held in memory; with more, the SCAN fails.
const MAX_FILTERED_BYTES: u64 = 64 * 1024 * 1024;

/// How a reply with a cursor is passed on.
pub(super) struct Passing {
    pub is_silent: bool,
    pub form: CursorReply,
}

/// The form of a reply with a cursor.
pub(super) enum CursorReply {
    /// Of a SCAN; with a user, if there are keys that it may not read.
    Scan(Option<Arc<User>>),
    /// Of a search.
    Search,
}

impl Passing {
    fn relay(&self, connection: &mut PooledConnection, writer: &mut ReplyWriter) -> Tried {
        match &self.form {
            CursorReply::Scan(filter) => {
                relay_scan(connection, writer, self.is_silent, filter.as_deref())
            }
            CursorReply::Search => relay_page(connection, writer, self.is_silent),
        }
    }

    /// Error for a cursor whose server is not there any more.
    fn gone(&self) -> &'static str {
        match &self.form {
            CursorReply::Scan(_) => GONE,
            CursorReply::Search => SEARCH_GONE,
        }
    }

    /// How long a server that is up may work on it. A page of a search takes what the search takes.
    fn wait_policy(&self, read_timeout: Duration) -> WaitPolicy {
        match &self.form {
            CursorReply::Scan(_) => WaitPolicy::QUICK,
            CursorReply::Search => WaitPolicy::Until(Instant::now() + read_timeout),
        }
    }

    /// Whether an error says that the server has failed. That a search takes long does not.
    fn is_failure(&self, error: &BackendError) -> bool {
        let is_search = matches!(self.form, CursorReply::Search);
        error.is_failure() && !(is_search && matches!(error, BackendError::TimedOut))
    }
}

impl Session<'_> {
    #[inline(never)]
    pub(super) fn scan(&mut self, command: &Command, cursor_arg: usize) -> Answered {
        let cursor = command.arg(cursor_arg).and_then(cursor::parse).ok_or("ERR invalid cursor")?;
        self.run_batch()?;
        let args = with_capped_counts(command, cursor_arg);
        if cursor != 0 {
            let passing = self.passing(command);
            return self.scan_on(args, cursor_arg, cursor, &passing);
        }
        let passing = self.passing(command);
        let (profile, info) = (ReadProfile::QUICK, |_| ReadInfo::default());
        self.on_connection(&encode(&args), None, profile, info, |connection, writer| {
            passing.relay(connection, writer)
        })
    }

    /// How a reply is passed on: of a SCAN a user with key patterns gets the keys that it may read.
    fn passing(&self, command: &Command) -> Passing {
        let names_keys = command.is(0, b"scan");
        let filter = if names_keys { self.login.key_filter() } else { None };
        Passing { is_silent: self.is_silent, form: CursorReply::Scan(filter) }
    }

    /// Goes on where the cursor comes from, which may be another backend than the session's.
    pub(super) fn scan_on(
        &mut self,
        args: Vec<&[u8]>,
        cursor_arg: usize,
        cursor: u64,
        passing: &Passing,
    ) -> Answered {
        let (position, tag) = cursor::split(cursor);
        let position = position.to_string();
        let mut args: Vec<&[u8]> = args;
        args[cursor_arg] = position.as_bytes();
        let backend = self.balancer.find_server(tag).ok_or(passing.gone())?;
        let is_elsewhere = self.upstream.backend().is_none_or(|own| own.id != backend.id);
        let lease = is_elsewhere
            .then(|| self.balancer.table.lease(Instant::now(), |other| other == backend.id));
        let given = self.writer.given;
        let outcome = self.scan_at(&backend, tag, &encode(&args), passing);
        drop(lease);
        if let Err(ForwardError::Backend(error) | ForwardError::Cut(error)) = &outcome {
            backend.metrics.errors.add((!error.is_local()).into());
            if passing.is_failure(error) {
                backend.failed(error);
            }
        }
        match outcome {
            Ok(time) => {
                self.local_reply.relayed(given, self.writer.given);
                self.local_reply.served_by = Some((backend, time));
                Ok(())
            }
            Err(ForwardError::Backend(BackendError::OtherCommands | BackendError::Syncing(_))) => {
                Err(passing.gone().into())
            }
            Err(ForwardError::Backend(error)) => {
                let name = backend.name();
                Err(format!("ERR the cursor's server, {name}, can't go on: {error}").into())
            }
            Err(failure) => Err(SessionEnd::from(failure).into()),
        }
    }

    /// Returns how long it took until the reply began.
    fn scan_at(
        &mut self,
        backend: &Member,
        tag: u16,
        command: &[u8],
        passing: &Passing,
    ) -> Tried<Duration> {
        let began = Instant::now();
        let balancer = self.balancer;
        // A new connection may have found another server at this address.
        let is_its_server = |connection: &Connection| {
            connection
                .run_id
                .as_ref()
                .is_some_and(|run_id| balancer.cursor_tag(run_id) == Some(tag))
        };
        let wait_policy = match backend.health.state() {
            BackendState::Up => passing.wait_policy(balancer.config().read_timeout),
            _ => WaitPolicy::Until(Instant::now() + balancer.config().backend_timeout),
        };
        let mut connection = backend.request(self.mode, command, wait_policy, is_its_server)?;
        let time = began.elapsed();
        passing.relay(&mut connection, &mut self.writer)?;
        connection.keep();
        Ok(time)
    }
}

/// The arguments of a SCAN, HSCAN, SSCAN or ZSCAN, in which no COUNT is over [`MAX_SCAN_COUNT`]; what
/// is wrong with one is left to the server to say.
///
/// A number that stands after the word COUNT is that option's value: in no command that is right does
/// one stand where an option's name is due, so a MATCH for `count` is not mistaken for it.
fn with_capped_counts<'a>(command: &Command<'a>, cursor_arg: usize) -> Vec<&'a [u8]> {
    let mut args: Vec<&[u8]> = command.args().collect();
    // Options stand after the cursor, each before its value.
    for at in cursor_arg + 2..args.len() {
        // Redis compares up to a NUL.
        let option = args[at - 1].split(|&byte| byte == 0).next().unwrap_or_default();
        let is_too_much = |count: i64| count > 0 && count.cast_unsigned() > MAX_SCAN_COUNT;
        if option.eq_ignore_ascii_case(b"COUNT") && integer(args[at]).is_some_and(is_too_much) {
            args[at] = MAX_SCAN_COUNT_TEXT;
        }
    }
    args
}

fn encode(args: &[&[u8]]) -> Vec<u8> {
    resp::command(args[0]).args(&args[1..]).into_bytes()
}

/// Passes the reply on, with the server's tag in its cursor.
fn relay_scan(
    connection: &mut PooledConnection,
    writer: &mut ReplyWriter,
    is_silent: bool,
    filter: Option<&User>,
) -> Tried {
    if connection.next_byte()? == b'-' {
        return writer.relay(connection, is_silent).map(|_| ());
    }
    let from = connection.replies();
    if reply::array(from)? != 2 {
        return Err(resp::Error::Protocol("a SCAN that is none").into());
    }
    let position = reply::bytes(from, reply::MAX_CURSOR_BYTES)?;
    let position = std::str::from_utf8(&position).ok().and_then(|text| text.parse().ok());
    let position = position.ok_or(resp::Error::Protocol("a cursor that is no number"))?;
    let cursor =
        match outgoing_cursor(position, connection.run_id.as_deref(), writer.client.balancer) {
            Ok(cursor) => cursor,
            // The server has done nothing wrong.
            Err(why) => {
                writer.relay(connection, true)?;
                if !is_silent {
                    write::error(&mut writer.out, &why);
                }
                writer.given.errors += 1;
                return Ok(());
            }
        };
    let start = writer.out.len();
    if !is_silent {
        write::array(&mut writer.out, 2);
        write::bulk(&mut writer.out, cursor.to_string().as_bytes());
    }
    if let Some(user) = filter {
        let filtered = relay_readable(connection, writer, user, is_silent);
        if filtered.is_err() {
            writer.out.truncate(start);
        }
        return filtered;
    }
    let passed = writer.relay(connection, is_silent);
    if let Err(ForwardError::Backend(_)) = passed {
        writer.out.truncate(start);
    }
    passed.map(|_| ())
}

/// Passes on the keys that a user may read, of those that come next.
fn relay_readable(
    connection: &mut PooledConnection,
    writer: &mut ReplyWriter,
    user: &User,
    is_silent: bool,
) -> Tried {
    let from = connection.replies();
    let (mut keys, mut bytes) = (Vec::new(), 0);
    let mut memory = writer.client.share();
    for _ in 0..reply::array(from)? {
        let key = reply::bytes(from, MAX_FILTERED_BYTES.saturating_sub(bytes)).map_err(too_long)?;
        bytes += key.len() as u64;
        if !user.may_read_key(&key) {
            continue;
        }
        memory.set(bytes as usize).map_err(|error| ForwardError::Client(error.into()))?;
        keys.push(key);
    }
    if !is_silent {
        let start = writer.out.len();
        write::array(&mut writer.out, keys.len());
        keys.iter().for_each(|key| write::bulk(&mut writer.out, key));
        writer.given.bytes += (writer.out.len() - start) as u64;
    }
    writer.deliver_if_full(Some(connection))
}

/// That the keys of one reply are too long to be filtered is the client's fault, and no server's.
fn too_long(error: resp::Error) -> ForwardError {
    match error {
        resp::Error::TooLong => {
            ForwardError::Client(io::Error::other("SCAN with too large a COUNT"))
        }
        error => error.into(),
    }
}

/// The cursor that a client gets for a server's; or why there is none.
pub(super) fn outgoing_cursor(
    position: u64,
    run_id: Option<&str>,
    balancer: &Balancer,
) -> Result<u64, String> {
    if position == 0 {
        return Ok(0);
    }
    let run_id = run_id.ok_or(NO_RIGHT)?;
    let tag = balancer.cursor_tag(run_id).ok_or(GONE)?;
    Ok(cursor::join(position, tag).ok_or(TOO_LARGE)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::CommandParser;

    fn capped(words: &str, cursor_arg: usize) -> String {
        let words: Vec<_> = words.split(' ').map(str::as_bytes).collect();
        let bytes = encode(&words);
        let mut parser = CommandParser::new(1024);
        let command = parser.parse(&bytes).expect("valid").1.expect("whole");
        String::from_utf8(with_capped_counts(&command, cursor_arg).join(&b' ')).expect("text")
    }

    #[test]
    fn a_count_is_capped_and_nothing_else_is_touched() {
        assert_eq!(MAX_SCAN_COUNT_TEXT, MAX_SCAN_COUNT.to_string().as_bytes());
        for (asked, cursor_arg, sent) in [
            ("SCAN 0 COUNT 10000", 1, "SCAN 0 COUNT 10000"),
            ("SCAN 0 COUNT 10001", 1, "SCAN 0 COUNT 10000"),
            ("scan 7 match a* count 1000000000", 1, "scan 7 match a* count 10000"),
            ("SCAN 0 COUNT 9223372036854775807", 1, "SCAN 0 COUNT 10000"),
            ("SCAN 0 COUNT 1 COUNT 20000 COUNT 30000", 1, "SCAN 0 COUNT 1 COUNT 10000 COUNT 10000"),
            ("HSCAN k 0 NOVALUES COUNT 20000", 2, "HSCAN k 0 NOVALUES COUNT 10000"),
            // A pattern, a type, a key that are words of the same kind.
            ("SCAN 0 MATCH COUNT COUNT 20000", 1, "SCAN 0 MATCH COUNT COUNT 10000"),
            ("SCAN 0 TYPE COUNT MATCH 20000", 1, "SCAN 0 TYPE COUNT MATCH 20000"),
            ("SSCAN COUNT 20000", 2, "SSCAN COUNT 20000"),
            ("ZSCAN COUNT 20000 COUNT 20000", 2, "ZSCAN COUNT 20000 COUNT 10000"),
            ("SCAN 20000", 1, "SCAN 20000"),
            // Where Redis compares up to a NUL.
            ("SCAN 0 COUNT\0x 20000", 1, "SCAN 0 COUNT\0x 10000"),
            // Errors that the server is to name.
            ("SCAN 0 COUNT", 1, "SCAN 0 COUNT"),
            ("SCAN 0 COUNT 0", 1, "SCAN 0 COUNT 0"),
            ("SCAN 0 COUNT -20000", 1, "SCAN 0 COUNT -20000"),
            ("SCAN 0 COUNT +20000", 1, "SCAN 0 COUNT +20000"),
            ("SCAN 0 COUNT 020000", 1, "SCAN 0 COUNT 020000"),
            ("SCAN 0 COUNT 2e4", 1, "SCAN 0 COUNT 2e4"),
            ("SCAN 0 COUNT 9223372036854775808", 1, "SCAN 0 COUNT 9223372036854775808"),
        ] {
            assert_eq!(capped(asked, cursor_arg), sent);
        }
    }
}
