//! Commands that the session answers itself, or that change it.

use std::time::SystemTime;

use wildmatch::WildMatch;

use super::client::{ReplyMode, SYNTAX_ERROR};
use super::errors::SessionEnd;
use super::session::{FIRST_MODE, Session};
use crate::backend::Mode;
use crate::policy::LocalCommand;
use crate::resp::{self, Command, Protocol, write};

/// Reply of a Redis without cluster to READONLY and READWRITE.
const NO_CLUSTER: &str = "ERR This instance has cluster support disabled";

/// Reply of a Redis without passwords to a password without a user.
const NO_PASSWORD: &str = "ERR AUTH <password> called without any password configured for the \
    default user. Are you sure your configuration is correct?";

const WRONG_PASSWORD: &str = "WRONGPASS invalid username-password pair or user is disabled.";

/// A longer pattern of CONFIG GET matches nothing.
const MAX_PATTERN_BYTES: usize = 256;

/// The most patterns of one CONFIG GET.
const MAX_PATTERNS: usize = 1000;

impl Session<'_> {
    /// Handles a command of the session's own.
    pub(super) fn answer_locally(
        &mut self,
        local: LocalCommand,
        command: &Command,
    ) -> Result<(), SessionEnd> {
        if self.is_subscriber() && !is_for_subscribers(local) {
            self.not_for_subscribers(command);
            return Ok(());
        }
        match local {
            LocalCommand::Ping => self.ping(command),
            LocalCommand::Echo => {
                self.answer(|out| write::bulk(out, command.arg(1).unwrap_or_default()))
            }
            LocalCommand::Time => self.time(),
            LocalCommand::ClusterMode => self.error(NO_CLUSTER),
            LocalCommand::Auth => self.auth(command),
            LocalCommand::ClientSetName => self.client_setname(command),
            LocalCommand::ClientGetName => self.client_getname(),
            LocalCommand::ClientSetInfo => self.client_setinfo(command),
            LocalCommand::ClientId => {
                let id = self.state.id.cast_signed();
                self.answer(|out| write::integer(out, id));
            }
            LocalCommand::ClientInfo => self.client_info(),
            LocalCommand::ClientReply => self.client_reply(command),
            LocalCommand::ClientOk => self.client_ok(command),
            LocalCommand::ConfigGet => self.config_get(command),
            LocalCommand::Hello => return self.hello(command),
            LocalCommand::Select => return self.select(command),
            LocalCommand::Info => return self.info(command),
            LocalCommand::Scan { cursor_arg } => return self.scan(command, cursor_arg),
            LocalCommand::Multi => self.multi(),
            LocalCommand::Exec | LocalCommand::Discard => self.without_multi(command),
            LocalCommand::Watch => return self.watch(command),
            LocalCommand::Unwatch => self.unwatch(),
            LocalCommand::Subscribe(kind) => return self.subscribe(kind, command),
            LocalCommand::Unsubscribe(kind) => return self.unsubscribe(kind, command),
            LocalCommand::Reset => return self.reset(),
            LocalCommand::Quit => return Err(self.quit()),
        }
        Ok(())
    }

    fn ping(&mut self, command: &Command) {
        let text = command.arg(1);
        if command.arg_count() > 2 {
            return self.error("ERR wrong number of arguments for 'ping' command");
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

    #[inline(never)]
    fn auth(&mut self, command: &Command) {
        match (command.arg(1), command.arg_count()) {
            (_, 2) => self.error(NO_PASSWORD),
            (Some(user), 3) if is_known(user) => self.ok(),
            (_, 3) => self.error(WRONG_PASSWORD),
            _ => self.error(SYNTAX_ERROR),
        }
    }

    /// A short list of settings that clients ask for, which are true of the balancer.
    #[inline(never)]
    fn config_get(&mut self, command: &Command) {
        // The patterns follow CONFIG and GET.
        if command.arg_count() - 2 > MAX_PATTERNS {
            return self.error(format!("ERR CONFIG GET takes at most {MAX_PATTERNS} patterns"));
        }
        let config = &self.balancer.config;
        let settings = [
            ("appendonly", "no".to_owned()),
            ("databases", "16".to_owned()),
            ("maxclients", config.max_clients.to_string()),
            ("maxmemory", "0".to_owned()),
            ("maxmemory-policy", "noeviction".to_owned()),
            ("proto-max-bulk-len", config.max_argument_bytes().to_string()),
            ("save", String::new()),
            ("timeout", config.client_timeout.as_secs().to_string()),
        ];
        let patterns: Vec<WildMatch> = command
            .args()
            .skip(2)
            .filter(|pattern| pattern.len() <= MAX_PATTERN_BYTES)
            .map(|pattern| WildMatch::new(&String::from_utf8_lossy(pattern).to_ascii_lowercase()))
            .collect();
        let is_asked = |name: &str| patterns.iter().any(|pattern| pattern.matches(name));
        let found: Vec<_> = settings.iter().filter(|(name, _)| is_asked(name)).collect();
        let protocol = self.mode.protocol;
        self.answer(|out| {
            write::map(out, found.len(), protocol);
            for (name, value) in found {
                write::bulk(out, name.as_bytes());
                write::bulk(out, value.as_bytes());
            }
        });
    }

    /// HELLO is a backend's answer, but for the client's id.
    #[inline(never)]
    fn hello(&mut self, command: &Command) -> Result<(), SessionEnd> {
        let protocol = match self.apply_hello_options(command) {
            Ok(protocol) => protocol,
            Err(error) => {
                self.error(error);
                return Ok(());
            }
        };
        self.run_batch()?;
        let hello = resp::command("HELLO").number(protocol.version()).into_bytes();
        match self.change_mode(&hello, Mode { protocol, ..self.mode }) {
            Ok(greeting) if greeting.starts_with(b"-") => self.answer_raw(&greeting),
            Ok(greeting) => {
                self.mode.protocol = protocol;
                self.greet_subscription(&hello)?;
                let greeting = with_id(&greeting, self.state.id);
                self.answer_raw(&greeting);
            }
            Err(unanswered) => return self.unanswered(unanswered),
        }
        Ok(())
    }

    /// Checks HELLO and takes its name: one before something wrong stays, as in Redis.
    fn apply_hello_options(&mut self, command: &Command) -> Result<Protocol, Vec<u8>> {
        let protocol = match command.arg(1).map(integer) {
            None => self.mode.protocol,
            Some(Some(2)) => Protocol::Resp2,
            Some(Some(3)) => Protocol::Resp3,
            Some(Some(_)) => return Err(b"NOPROTO unsupported protocol version".into()),
            Some(None) => {
                return Err(b"ERR Protocol version is not an integer or out of range".into());
            }
        };
        let mut at = 2;
        while let Some(option) = command.arg(at) {
            let values = command.arg_count() - at - 1;
            if command.is(at, b"auth") && values >= 2 {
                if !command.arg(at + 1).is_some_and(is_known) {
                    return Err(WRONG_PASSWORD.into());
                }
                at += 3;
            } else if command.is(at, b"setname") && values >= 1 {
                self.state.set_name(command.arg(at + 1).unwrap_or_default())?;
                at += 2;
            } else {
                return Err([b"ERR Syntax error in HELLO option '", option, b"'"].concat());
            }
        }
        Ok(protocol)
    }

    /// The backend says whether there is such a database; its connection is then one for that.
    #[inline(never)]
    fn select(&mut self, command: &Command) -> Result<(), SessionEnd> {
        self.run_batch()?;
        // What is no number is an error of the backend's.
        let database = command.arg(1).and_then(integer).unwrap_or(-1);
        match self.change_mode(command.bytes(), Mode { database, ..self.mode }) {
            Ok(reply) => {
                if !reply.starts_with(b"-") {
                    self.mode.database = database;
                    self.upstream.database = Some(database);
                }
                self.answer_raw(&reply);
                Ok(())
            }
            Err(unanswered) => self.unanswered(unanswered),
        }
    }

    /// Makes the session what it was at its beginning.
    #[inline(never)]
    fn reset(&mut self) -> Result<(), SessionEnd> {
        self.run_batch()?;
        if self.state.reply_mode == ReplyMode::Off {
            self.is_silent = false;
        }
        self.transaction = None;
        self.subscriptions = None;
        self.upstream.forget_watch();
        self.state.reset();
        self.mode = FIRST_MODE;
        self.upstream.database = Some(self.mode.database);
        self.answer(|out| write::simple(out, "RESET"));
        Ok(())
    }

    #[inline(never)]
    fn quit(&mut self) -> SessionEnd {
        self.ok();
        self.complete(b"QUIT");
        self.flush().err().unwrap_or_else(|| SessionEnd::Gone("quit".to_owned()))
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

/// The one user that a Redis without passwords has takes any password.
fn is_known(user: &[u8]) -> bool {
    user == b"default"
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
