//! CLIENT and its subcommands.

use super::client::{ReplyMode, SYNTAX_ERROR, ensure_name};
use super::session::Session;
use crate::resp::{Command, write};

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
