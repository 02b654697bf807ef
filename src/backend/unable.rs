//! What a server says that can't answer, now or for us, while another server may: one table for both
//! protocols.

use std::sync::Arc;
use std::time::{Duration, Instant};

use log::warn;

use super::error::{BackendError, shown};
use crate::balance::{BackendState, ConnectionTable};
use crate::sync::{Mutex, lock};

/// A refusal counts as a server's for so long after the server has said it.
const REFUSAL_TIME: Duration = Duration::from_secs(10);

/// A warning of one refusal is repeated after so long, …
const WARNING_INTERVAL: Duration = Duration::from_secs(60);
/// … and a server is the subject of one warning in so long, whatever it refuses.
const WARNING_GAP: Duration = Duration::from_secs(1);

/// So many refusals of different words are remembered; a new one takes the place of the oldest.
const MAX_REFUSALS: usize = 64;

/// What an error reply says of the server that sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inability {
    /// The server can answer nobody, and its checks fail as well: it has failed.
    Server,
    /// The server can answer hardly anybody, but checks don't notice: it has failed, and one good
    /// check does not prove the contrary.
    Unnoticed,
    /// The server can't do what was asked, for us or now, and is good for other reads: its state
    /// stays as it is. What all servers refuse with the same words is the client's answer.
    Request,
}

/// The code of an error, what its text contains, and what that says.
///
/// The texts are those of Redis 6.2 to 8 and Valkey 7.2 to 9; Valkey puts its own name where Redis
/// has its own, so that no row contains one. The comments name the functions that send them.
///
/// Not here, as they are answers: what any server would say of the command (`WRONGTYPE`, `NOSCRIPT`,
/// `CROSSSLOT`, `ERR …`), and what only writes get (`READONLY`, `NOREPLICAS`, `MISCONF`; a `PING` gets
/// `MISCONF` as well, but a server that can't save serves reads).
const TABLE: [(&str, &str, Inability); 14] = [
    // server.c: createSharedObjects, processCommand.
    ("LOADING", " is loading the dataset in memory", Inability::Server),
    // server.c: createSharedObjects, processCommand; script.c: scriptPrepareForRun.
    ("MASTERDOWN", "Connection with MASTER is down", Inability::Server),
    // server.c: createSharedObjects (slowevalerr, slowscripterr, slowmoduleerr), processCommand.
    ("BUSY", " is busy running ", Inability::Server),
    // server.c: createSharedObjects, processCommand; networking.c: helloCommand.
    ("NOAUTH", "", Inability::Server),
    // acl.c: addAuthErrReply, for AUTH.
    ("WRONGPASS", "", Inability::Server),
    // networking.c: clientAcceptHandler, before any command.
    ("DENIED", " is running in protected mode", Inability::Server),
    // networking.c: acceptCommonHandler, before any command.
    ("ERR", "max number of clients ", Inability::Server),
    // cluster.c: clusterRedirectClient. PING and INFO are answered all the same.
    ("CLUSTERDOWN", "The cluster is down", Inability::Unnoticed),
    // cluster.c: clusterRedirectClient. A key decides: other slots are served.
    ("CLUSTERDOWN", "Hash slot not served", Inability::Request),
    ("MOVED", "", Inability::Request),
    ("ASK", "", Inability::Request),
    ("TRYAGAIN", "", Inability::Request),
    // acl.c: getAclErrorMessage; in 6.2 server.c: processCommand.
    ("NOPERM", "", Inability::Request),
    // server.c: processCommand. Reads get it between MULTI and EXEC.
    ("OOM", "command not allowed when used memory > 'maxmemory'", Inability::Request),
];

/// How EXEC repeats why it was refused (multi.c: execCommandAbort).
const EXEC_ABORTED: &str = "EXECABORT Transaction discarded because of: ";

/// What an error says of its server, without the `-` before it; `None` where it is an answer.
pub fn inability(error: &str) -> Option<Inability> {
    let error = error.strip_prefix(EXEC_ABORTED).unwrap_or(error);
    let (code, _) = error.split_once(' ')?;
    // Where it is our own text that a server repeats, that does not come first.
    let says_so = |says: &str, of: &str| match of {
        "ERR" => error[code.len()..].trim_start().starts_with(says),
        _ => error.contains(says),
    };
    let row = TABLE.iter().find(|(of, says, _)| *of == code && says_so(says, of));
    row.map(|(_, _, inability)| *inability)
}

/// Whether a user's rights are why a command was refused.
pub fn is_not_permitted(error: &str) -> bool {
    error.starts_with("NOPERM")
}

/// Whether a server that answers a `PING` so serves reads.
pub fn serves_reads(error: &str) -> bool {
    error.starts_with("MISCONF ")
}

/// What all servers have refused lately.
#[derive(Debug)]
pub struct Refusals {
    table: Arc<ConnectionTable>,
    said: Mutex<Vec<RefusedCommand>>,
}

/// One refusal, and when each server has said it last.
#[derive(Debug)]
struct RefusedCommand {
    text: String,
    at: Vec<Option<Instant>>,
    /// When the log said so last, for each server.
    warned: Vec<Option<Instant>>,
}

impl RefusedCommand {
    fn last(&self) -> Option<Instant> {
        self.at.iter().flatten().max().copied()
    }
}

impl Refusals {
    /// Of the servers in this table.
    pub fn new(table: Arc<ConnectionTable>) -> Arc<Self> {
        Arc::new(Self { table, said: Mutex::default() })
    }

    /// The part that one server has in it.
    pub fn of(self: &Arc<Self>, backend: usize, name: &str) -> Arc<Refuser> {
        Arc::new(Refuser { backend, name: name.to_owned(), all: Arc::clone(self) })
    }

    /// One server has refused; whether all that can be asked have done so lately, and whether the
    /// log should say so.
    fn note(&self, backend: usize, text: &str, now: Instant) -> (bool, bool) {
        let mut said = lock(&self.said);
        let backends = self.table.backend_count();
        let index = said.iter().position(|refusal| refusal.text == text).unwrap_or_else(|| {
            if said.len() == MAX_REFUSALS
                && let Some(oldest) = (0..said.len()).min_by_key(|&at| said[at].last())
            {
                said.swap_remove(oldest);
            }
            let none = || vec![None; backends];
            said.push(RefusedCommand { text: text.to_owned(), at: none(), warned: none() });
            said.len() - 1
        });
        let is_recent = |at: &Option<Instant>, time| {
            at.is_some_and(|at| now.saturating_duration_since(at) < time)
        };
        let may_warn = said.iter().all(|other| !is_recent(&other.warned[backend], WARNING_GAP));
        let refusal = &mut said[index];
        refusal.at[backend] = Some(now);
        let warns = may_warn && !is_recent(&refusal.warned[backend], WARNING_INTERVAL);
        if warns {
            refusal.warned[backend] = Some(now);
        }
        let recent: Vec<bool> = refusal.at.iter().map(|at| is_recent(at, REFUSAL_TIME)).collect();
        drop(said);
        let can_be_asked = |other: usize| self.table.state(other) <= BackendState::Suspect;
        let by_all = (0..backends).all(|other| recent[other] || !can_be_asked(other));
        (by_all, warns)
    }
}

/// One server, as far as it refuses what others may answer.
#[derive(Debug)]
pub struct Refuser {
    backend: usize,
    name: String,
    all: Arc<Refusals>,
}

impl Refuser {
    /// Fails when a whole reply of this server is no answer, so that another should be asked.
    ///
    /// # Errors
    /// With what the server said: that it can't answer at all; or that it can't answer this, unless
    /// all other servers that can be asked have said so as well.
    pub fn check_answer(&self, reply: &[u8]) -> Result<(), BackendError> {
        self.check(reply, |inability, error| {
            inability != Inability::Request || !self.refuses(error)
        })
    }

    /// Fails when a whole reply, or a message, says that the server can't answer anybody.
    ///
    /// # Errors
    /// With what the server said.
    pub fn check_server(&self, reply: &[u8]) -> Result<(), BackendError> {
        self.check(reply, |inability, _| inability != Inability::Request)
    }

    fn check(
        &self,
        reply: &[u8],
        is_failure: impl FnOnce(Inability, &str) -> bool,
    ) -> Result<(), BackendError> {
        let Some(error) = said(reply) else { return Ok(()) };
        match inability(&error) {
            Some(inability) if is_failure(inability, &error) => Err(BackendError::Redis(error)),
            _ => Ok(()),
        }
    }

    /// The server has refused what was asked; whether all that can be asked do.
    pub fn refuses(&self, error: &str) -> bool {
        let (by_all, warns) = self.all.note(self.backend, error, Instant::now());
        if warns {
            let what = match is_not_permitted(error) {
                true => "does not permit the user that it is read as what a client asked",
                false => "can't answer what a client asked",
            };
            let others = if by_all { "and so do all others" } else { "others are asked" };
            warn!("{} {what}, {others}: {error}", self.name);
        }
        by_all
    }
}

/// What a whole reply says that is an error, as it is shown.
pub fn said(reply: &[u8]) -> Option<String> {
    let error = reply.strip_prefix(b"-")?;
    Some(shown(String::from_utf8_lossy(error).trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOPERM: &str = "NOPERM User reader has no permissions to run the 'get' command";

    #[test]
    fn the_texts_of_redis_and_valkey_are_known() {
        use Inability::{Request, Server, Unnoticed};
        for (error, expected) in [
            ("ERR max number of clients reached", Some(Server)),
            // What a client has said, repeated.
            ("ERR Unknown argument max number of clients reached", None),
            ("LOADING Redis is loading the dataset in memory", Some(Server)),
            ("LOADING Valkey is loading the dataset in memory", Some(Server)),
            (
                "MASTERDOWN Connection with MASTER is down and replica-serve-stale-data is set to 'no'.",
                Some(Server),
            ),
            (
                "MASTERDOWN Connection with MASTER is down, replica-serve-stale-data is set to 'no' and \
                 'allow-stale' flag is not set on the script.",
                Some(Server),
            ),
            (
                "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN \
                 NOSAVE.",
                Some(Server),
            ),
            ("BUSY Valkey is busy running a module command.", Some(Server)),
            ("NOAUTH Authentication required.", Some(Server)),
            (
                "NOAUTH HELLO must be called with the client already authenticated, otherwise the \
                 HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client",
                Some(Server),
            ),
            ("WRONGPASS invalid username-password pair or user is disabled.", Some(Server)),
            ("DENIED Redis is running in protected mode because protected mode is", Some(Server)),
            ("ERR max number of clients reached", Some(Server)),
            ("ERR max number of clients + cluster connections reached", Some(Server)),
            ("CLUSTERDOWN The cluster is down", Some(Unnoticed)),
            ("CLUSTERDOWN Hash slot not served", Some(Request)),
            ("MOVED 3999 127.0.0.1:6381", Some(Request)),
            ("ASK 3999 127.0.0.1:6381", Some(Request)),
            ("TRYAGAIN Multiple keys request during rehashing of slot", Some(Request)),
            (NOPERM, Some(Request)),
            ("NOPERM this user has no permissions to run the 'get' command or its", Some(Request)),
            ("NOPERM No permissions to access a key", Some(Request)),
            ("OOM command not allowed when used memory > 'maxmemory'.", Some(Request)),
            (
                "EXECABORT Transaction discarded because of: LOADING Redis is loading the dataset \
                 in memory",
                Some(Server),
            ),
            ("EXECABORT Transaction discarded because of previous errors.", None),
            ("ERR unknown command 'foo', with args beginning with: ", None),
            ("WRONGTYPE Operation against a key holding the wrong kind of value", None),
            ("CROSSSLOT Keys in request don't hash to the same slot", None),
            ("NOSCRIPT No matching script. Please use EVAL.", None),
            ("MISCONF Redis is configured to save RDB snapshots, but it's currently", None),
            ("BUSYGROUP Consumer Group name already exists", None),
            ("BUSYKEY Target key name already exists.", None),
            ("LOADING something else", None),
            ("LOADING", None),
            ("", None),
        ] {
            assert_eq!(inability(error), expected, "{error}");
        }
    }

    /// Three servers that are up, and what they refuse.
    fn three() -> (Arc<ConnectionTable>, Arc<Refusals>) {
        let table = ConnectionTable::new(3, Duration::ZERO);
        (0..3).for_each(|backend| table.set_state(backend, BackendState::Up, false));
        let refusals = Refusals::new(Arc::clone(&table));
        (table, refusals)
    }

    #[test]
    fn what_all_servers_refuse_within_a_while_is_an_answer() {
        let (table, refusals) = three();
        let now = Instant::now();
        assert!(!refusals.note(0, NOPERM, now).0);
        assert!(!refusals.note(0, NOPERM, now).0, "one server twice is not two");
        assert!(!refusals.note(1, NOPERM, now).0);
        assert!(!refusals.note(2, "NOPERM other words", now).0);
        assert!(refusals.note(2, NOPERM, now).0);
        assert!(refusals.note(0, NOPERM, now + REFUSAL_TIME / 2).0);
        assert!(!refusals.note(0, NOPERM, now + REFUSAL_TIME).0, "the others may permit it now");
        // A server that can't be asked has no say.
        table.set_state(1, BackendState::Down, false);
        table.set_state(2, BackendState::Syncing, false);
        assert!(refusals.note(0, NOPERM, now + REFUSAL_TIME).0);
    }

    #[test]
    fn a_refusal_is_warned_of_once_a_minute_and_a_server_once_a_second() {
        let (_, refusals) = three();
        let now = Instant::now();
        let warns = |backend, text: &str, at| refusals.note(backend, text, now + at).1;
        assert!(warns(0, NOPERM, Duration::ZERO));
        assert!(warns(1, NOPERM, Duration::ZERO), "each server is named");
        assert!(!warns(0, "NOPERM other words", WARNING_GAP / 2));
        assert!(warns(0, "NOPERM other words", WARNING_GAP));
        assert!(!warns(0, NOPERM, WARNING_INTERVAL / 2));
        assert!(warns(0, NOPERM, WARNING_INTERVAL));
    }

    #[test]
    fn few_refusals_are_remembered() {
        let (_, refusals) = three();
        for number in 0..10 * MAX_REFUSALS {
            refusals.note(0, &format!("NOPERM {number}"), Instant::now());
        }
        assert_eq!(lock(&refusals.said).len(), MAX_REFUSALS);
    }
}
