//! What a server says that can't answer, now or for us, while another server may: one table for both
//! protocols.

use std::sync::Arc;

use super::error::{BackendError, shown};
use super::supervisor::Supervisor;

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
    ("MASTERDOWN", "Link with MASTER is down", Inability::Server),
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

/// Judge of one server's replies: which of them are no answer, so that another server is asked.
#[derive(Debug, Clone)]
pub struct Refuser(Arc<dyn Supervisor>);

impl Refuser {
    /// Refuser that asks this supervisor what all servers refuse.
    pub fn new(supervisor: Arc<dyn Supervisor>) -> Self {
        Self(supervisor)
    }
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

    /// Whether all servers that can be asked refuse, as this one has just done.
    pub fn refuses(&self, error: &str) -> bool {
        self.0.refuses(error)
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
                "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
                Some(Server),
            ),
            (
                "MASTERDOWN Link with MASTER is down, replica-serve-stale-data is set to 'no' and \
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
}
