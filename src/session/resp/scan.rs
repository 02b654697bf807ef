//! SCAN, HSCAN, SSCAN and ZSCAN: cursors that carry their backend.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::outlet::Outlet;
use super::{Ended, Failure, ServedBy, Session};
use crate::backend::{Backend, BackendError, Connection, Link, Patience};
use crate::balancer::Balancer;
use crate::health::State;
use crate::resp::{Command, command, reply, write};
use crate::{cursor, resp};

const GONE: &str = "ERR invalid cursor: its server is gone or was restarted, and would miss \
    elements: start again from 0";

const NO_RIGHT: &str = "ERR SCAN can't go on: this backend's user lacks the right +info, without which \
    a cursor can't be led back to its server (ACL SETUSER ... +info)";

const TOO_LARGE: &str = "ERR SCAN can't go on: the server's cursor is too large to be passed on";

impl Session<'_> {
    #[inline(never)]
    pub(super) fn scan(&mut self, command: &Command, cursor_arg: usize) -> Result<(), Ended> {
        let Some(cursor) = command.arg(cursor_arg).and_then(cursor::parse) else {
            self.error("ERR invalid cursor");
            return Ok(());
        };
        self.run_batch()?;
        match cursor {
            0 => self.scan_from_the_start(command),
            _ => self.scan_on(command, cursor_arg, cursor),
        }
    }

    fn scan_from_the_start(&mut self, command: &Command) -> Result<(), Ended> {
        let (balancer, is_silent) = (self.balancer, self.is_silent);
        let scanned = self.on_connection(command.bytes(), None, false, |connection, outlet| {
            relay_scan(connection, outlet, is_silent, balancer)
        });
        scanned.or_else(|unanswered| self.unanswered(unanswered))
    }

    /// Goes on where the cursor comes from, which may be another backend than the session's.
    fn scan_on(&mut self, command: &Command, cursor_arg: usize, cursor: u64) -> Result<(), Ended> {
        let (position, tag) = cursor::split(cursor);
        let position = position.to_string();
        let mut there = Vec::new();
        let args = command.args().enumerate();
        let args = args.map(|(at, arg)| if at == cursor_arg { position.as_bytes() } else { arg });
        command::encode(args, &mut there);
        let Some(index) = self.balancer.find_server(tag) else {
            self.error(GONE);
            return Ok(());
        };
        let backend = &self.balancer.backends[index];
        let is_elsewhere = self.upstream.backend().is_none_or(|own| !Arc::ptr_eq(own, backend));
        let lease = is_elsewhere.then(|| self.balancer.table.lease(|backend| backend == index));
        let errors = self.outlet.errors;
        let outcome = self.scan_at(backend, tag, &there);
        drop(lease);
        if let Err(Failure::Backend(error) | Failure::Cut(error)) = &outcome {
            backend.metrics.errors.add_one();
            if error.is_failure() {
                backend.health.failed(error);
            }
        }
        match outcome {
            Ok(time) => {
                let is_error = self.outlet.errors > errors;
                self.served_by = Some(ServedBy { backend: index, time, is_error });
            }
            Err(Failure::Backend(BackendError::OtherCommands | BackendError::Syncing(_))) => {
                self.error(GONE);
            }
            Err(Failure::Backend(error)) => {
                let name = backend.name();
                self.error(format!("ERR the cursor's server, {name}, can't go on: {error}"));
            }
            Err(failure) => return Err(failure.into()),
        }
        Ok(())
    }

    /// Returns how long it took until the reply began.
    fn scan_at(
        &mut self,
        backend: &Backend,
        tag: u16,
        command: &[u8],
    ) -> Result<Duration, Failure> {
        let began = Instant::now();
        let balancer = self.balancer;
        // A new connection may have found another server at this address.
        let is_its_server = |link: &Link| {
            link.run_id().is_some_and(|run_id| balancer.cursor_tag(run_id) == Some(tag))
        };
        let patience = match backend.health.state() {
            State::Up => Patience::First,
            _ => Patience::Until(Instant::now() + balancer.config.backend_timeout),
        };
        let mut connection = backend.request_if(self.mode, command, patience, is_its_server)?;
        let time = began.elapsed();
        relay_scan(&mut connection, &mut self.outlet, self.is_silent, balancer)?;
        connection.keep();
        Ok(time)
    }
}

/// Passes the reply on, with the server's tag in its cursor.
fn relay_scan(
    connection: &mut Connection,
    outlet: &mut Outlet,
    is_silent: bool,
    balancer: &Balancer,
) -> Result<(), Failure> {
    if connection.next_byte()? == b'-' {
        return outlet.relay(connection, is_silent).map(|_| ());
    }
    let from = connection.replies();
    if reply::array(from)? != 2 {
        return Err(resp::Error::Protocol("a SCAN that is none").into());
    }
    let position = reply::bytes(from, reply::MAX_CURSOR_BYTES)?;
    let position = std::str::from_utf8(&position).ok().and_then(|text| text.parse().ok());
    let position = position.ok_or(resp::Error::Protocol("a cursor that is no number"))?;
    let cursor = match outgoing_cursor(position, connection.run_id().map(AsRef::as_ref), balancer) {
        Ok(cursor) => cursor,
        // The server has done nothing wrong.
        Err(why) => {
            outlet.relay(connection, true)?;
            if !is_silent {
                write::error(outlet.out(), &why);
            }
            outlet.errors += 1;
            return Ok(());
        }
    };
    let start = outlet.out().len();
    if !is_silent {
        write::array(outlet.out(), 2);
        write::bulk(outlet.out(), cursor.to_string().as_bytes());
    }
    let passed = outlet.relay(connection, is_silent);
    if let Err(Failure::Backend(_)) = passed {
        outlet.out().truncate(start);
    }
    passed.map(|_| ())
}

/// The cursor that a client gets for a server's; or why there is none.
fn outgoing_cursor(
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
