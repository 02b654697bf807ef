//! Commands that the session answers itself, or that change it.

use std::mem;
use std::time::SystemTime;

use super::client::{ReplyMode, allowed_name};
use super::replies::{Answered, SessionEnd};
use super::role::with_role;
use super::session::{FIRST_MODE, Session};
use crate::backend::Mode;
use crate::policy::LocalCommand;
use crate::policy::users::User;
use crate::resp::{self, Command, Protocol, write};

/// Reply of Redis to arguments that it can't make sense of.
const SYNTAX_ERROR: &str = "ERR syntax error";

/// Reply of a Redis without cluster to READONLY and READWRITE.
const NO_CLUSTER: &str = "ERR This instance has cluster support disabled";

impl Session<'_> {
    /// Handles a command of the session's own.
    pub(super) fn answer_locally(&mut self, local: LocalCommand, command: &Command) -> Answered {
        if self.is_subscriber() && !is_for_subscribers(local) {
            return Err(self.not_for_subscribers(command));
        }
        match local {
            LocalCommand::Ping => return self.ping(command),
            LocalCommand::Echo => {
                self.answer(|out| write::bulk(out, command.arg(1).unwrap_or_default()))
            }
            LocalCommand::Time => self.time(),
            LocalCommand::ClusterMode => return Err(NO_CLUSTER.into()),
            LocalCommand::Auth => return self.auth(command),
            LocalCommand::AclWhoAmI => self.acl_whoami(),
            LocalCommand::ClientSetName => {
                let name = command.arg(2).unwrap_or_default();
                self.set_name(name)?;
                return self.ok();
            }
            LocalCommand::ClientGetName => self.client_getname(),
            LocalCommand::ClientSetInfo => return self.client_setinfo(command),
            LocalCommand::ClientId => {
                let id = self.state.id.cast_signed();
                self.answer(|out| write::integer(out, id));
            }
            LocalCommand::ClientInfo => self.client_info(),
            LocalCommand::ClientReply => return self.client_reply(command),
            LocalCommand::ClientOk => return self.client_ok(command),
            LocalCommand::ConfigGet => return self.config_get(command),
            LocalCommand::Hello => return self.hello(command),
            LocalCommand::Select => return self.select(command),
            LocalCommand::Info => return self.info(command),
            LocalCommand::Role => return self.role(),
            LocalCommand::BlockingXread => return self.blocking_xread(command),
            LocalCommand::Scan { cursor_arg } => return self.scan(command, cursor_arg),
            LocalCommand::ScriptExists => return self.script_exists(command),
            LocalCommand::ScriptLoad => return self.script_load(command),
            LocalCommand::SearchPage => return self.search_page(command),
            LocalCommand::SearchCursor => return self.search_cursor(command),
            LocalCommand::Multi => return self.multi(),
            LocalCommand::Exec | LocalCommand::Discard => return Err(self.without_multi(command)),
            LocalCommand::Watch => return self.watch(command),
            LocalCommand::Unwatch => return self.unwatch(),
            LocalCommand::Subscribe(kind) => return self.subscribe(kind, command),
            LocalCommand::Unsubscribe(kind) => return self.unsubscribe(kind, command),
            LocalCommand::Reset => return self.reset(),
            LocalCommand::Quit => return self.quit(),
        }
        Ok(())
    }

    fn ping(&mut self, command: &Command) -> Answered {
        let text = command.arg(1);
        if command.arg_count() > 2 {
            return Err("ERR wrong number of arguments for 'ping' command".into());
        }
        let is_subscriber = self.is_subscriber();
        self.answer(|out| {
            if is_subscriber {
                write::array(out, 2);
                write::bulk(out, b"pong");
                write::bulk(out, text.unwrap_or_default());
            } else if let Some(text) = text {
                write::bulk(out, text);
            } else {
                write::simple(out, "PONG");
            }
        });
        Ok(())
    }

    #[inline(never)]
    fn time(&mut self) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.answer(|out| {
            write::array(out, 2);
            write::bulk(out, now.as_secs().to_string().as_bytes());
            write::bulk(out, now.subsec_micros().to_string().as_bytes());
        });
    }

    fn set_name(&mut self, name: &[u8]) -> Answered {
        self.state.name = allowed_name(name, "Client names")?;
        self.writer.client.socket.note_name(&self.state.name);
        Ok(())
    }

    fn client_getname(&mut self) {
        let (name, protocol) = (mem::take(&mut self.state.name), self.mode.protocol);
        self.answer(|out| match name.is_empty() {
            true => write::null(out, protocol),
            false => write::bulk(out, &name),
        });
        self.state.name = name;
    }

    /// `CLIENT SETINFO`, as Redis 7.2 has it.
    #[inline(never)]
    fn client_setinfo(&mut self, command: &Command) -> Answered {
        let value = command.arg(3).unwrap_or_default();
        let (option, known) = match (command.is(2, b"lib-name"), command.is(2, b"lib-ver")) {
            (true, _) => ("lib-name", &mut self.state.library_name),
            (_, true) => ("lib-ver", &mut self.state.library_version),
            _ => {
                let option = command.arg(2).unwrap_or_default();
                return Err([b"ERR Unrecognized option '", option, b"'"].concat().into());
            }
        };
        *known = allowed_name(value, option)?;
        self.ok()
    }

    /// The fields that Redis 7.0 has: redis-py, for one, fails where one is missing. Those about a
    /// server's memory say nothing here.
    #[inline(never)]
    fn client_info(&mut self) {
        let state = &self.state;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let counts = self.subscriptions.as_ref().map_or([0; 3], |all| all.names.counts());
        let line = format!(
            "id={} addr={} laddr={} fd=-1 name={} age={} idle=0 flags={} db={} sub={} psub={} ssub={} \
             multi=-1 qbuf=0 qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 omem=0 \
             tot-mem=0 events=r cmd=client|info user={} redir=-1 resp={} lib-name={} \
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
            self.login.user().map_or("", User::name),
            self.mode.protocol.version(),
            text(&state.library_name),
            text(&state.library_version),
        );
        let protocol = self.mode.protocol;
        self.answer(|out| write::text(out, line.as_bytes(), protocol));
    }

    fn client_reply(&mut self, command: &Command) -> Answered {
        let mode = &mut self.state.reply_mode;
        if command.is(2, b"on") {
            *mode = ReplyMode::On;
            self.is_silent = false;
            return self.ok();
        } else if command.is(2, b"off") {
            *mode = ReplyMode::Off;
        } else if command.is(2, b"skip") {
            if *mode == ReplyMode::On {
                *mode = ReplyMode::SkipNext;
            }
        } else {
            return Err(SYNTAX_ERROR.into());
        }
        Ok(())
    }

    /// `CLIENT NO-EVICT` and `NO-TOUCH`: nothing of ours is evicted, or touched.
    fn client_ok(&mut self, command: &Command) -> Answered {
        if !command.is(2, b"on") && !command.is(2, b"off") {
            return Err(SYNTAX_ERROR.into());
        }
        self.ok()
    }

    /// HELLO is a backend's answer, but for the client's id and our role.
    #[inline(never)]
    fn hello(&mut self, command: &Command) -> Answered {
        let protocol = self.apply_hello_options(command)?;
        self.run_batch()?;
        let hello = resp::command("HELLO").number(protocol.version()).into_bytes();
        let mut greeting = self.change_mode(&hello, Mode { protocol, ..self.mode })?;
        if !greeting.starts_with(b"-") {
            self.mode.protocol = protocol;
            self.switch_messages();
            greeting = with_id(&greeting, self.state.id);
            greeting = with_role(&greeting, self.balancer.config().role);
        }
        self.answer_raw(&greeting);
        Ok(())
    }

    /// Checks HELLO, logs in, and takes its name, in the order of its options: what comes before something wrong stays,
    /// as in Redis.
    fn apply_hello_options(&mut self, command: &Command) -> Answered<Protocol> {
        let protocol = match command.arg(1).map(integer) {
            None => self.mode.protocol,
            Some(Some(2)) => Protocol::Resp2,
            Some(Some(3)) => Protocol::Resp3,
            Some(Some(_)) => return Err("NOPROTO unsupported protocol version".into()),
            Some(None) => {
                return Err("ERR Protocol version is not an integer or out of range".into());
            }
        };
        let mut at = 2;
        while let Some(option) = command.arg(at) {
            let values = command.arg_count() - at - 1;
            if command.is(at, b"auth") && values >= 2 {
                let [name, password] =
                    [at + 1, at + 2].map(|at| command.arg(at).unwrap_or_default());
                self.log_in(name, password)?;
                at += 3;
            } else if command.is(at, b"setname") && values >= 1 {
                let name = command.arg(at + 1).unwrap_or_default();
                self.set_name(name)?;
                at += 2;
            } else {
                return Err([b"ERR Syntax error in HELLO option '", option, b"'"].concat().into());
            }
        }
        self.check_greeted()?;
        Ok(protocol)
    }

    /// The backend says whether there is such a database; its connection is then one for that.
    #[inline(never)]
    fn select(&mut self, command: &Command) -> Answered {
        self.run_batch()?;
        // What is no number is an error of the backend's.
        let database = command.arg(1).and_then(integer).unwrap_or(-1);
        let reply = self.change_mode(command.bytes(), Mode { database, ..self.mode })?;
        if !reply.starts_with(b"-") {
            self.mode.database = database;
            self.upstream.database = Some(database);
        }
        self.answer_raw(&reply);
        Ok(())
    }

    /// Makes the session what it was at its beginning.
    #[inline(never)]
    fn reset(&mut self) -> Answered {
        self.run_batch()?;
        if self.state.reply_mode == ReplyMode::Off {
            self.is_silent = false;
        }
        self.transaction = None;
        self.subscriptions = None;
        drop(self.upstream.take_watch());
        self.set_name(b"")?;
        self.state.reply_mode = ReplyMode::On;
        self.mode = FIRST_MODE;
        self.upstream.database = Some(self.mode.database);
        self.begin_login()?;
        self.answer(|out| write::simple(out, "RESET"));
        Ok(())
    }

    #[inline(never)]
    fn quit(&mut self) -> Answered {
        self.ok()?;
        self.complete(Ok(()))?;
        self.flush()?;
        // Where QUIT itself has no reply, others may be on their way.
        self.wait_in_flight()?;
        Err(SessionEnd::Gone("quit".to_owned()).into())
    }
}

/// Whether a subscriber that has not asked for RESP3 may send this command.
fn is_for_subscribers(local: LocalCommand) -> bool {
    matches!(
        local,
        LocalCommand::Ping
            | LocalCommand::Subscribe(_)
            | LocalCommand::Unsubscribe(_)
            | LocalCommand::Quit
            | LocalCommand::Reset
    )
}

/// A number as Redis reads it.
pub(super) fn integer(text: &[u8]) -> Option<i64> {
    let number: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    // No plus, no leading zeros.
    (number.to_string().as_bytes() == text).then_some(number)
}

/// A greeting with the client's id in the place of that of a backend's connection.
fn with_id(greeting: &[u8], id: u64) -> Vec<u8> {
    const BEFORE: &[u8] = b"$2\r\nid\r\n:";
    let found = greeting.windows(BEFORE.len()).position(|window| window == BEFORE);
    let Some(begin) = found.map(|at| at + BEFORE.len()) else { return greeting.to_vec() };
    let end = greeting[begin..].iter().position(|&byte| byte == b'\r').map_or(begin, |n| begin + n);
    [&greeting[..begin], id.to_string().as_bytes(), &greeting[end..]].concat()
}
