//! The error replies of servers that can't answer, now or for us, while another server may. The table is
//! the same for both protocols.

use super::error::{BackendError, shown};
use super::supervisor::Supervisor;

/// Meaning of an error reply for the server that sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inability {
    /// The server can answer no client, and its checks fail as well: it has failed.
    Server,
    /// The server can answer hardly any client, but checks don't notice: it has failed, and one good
    /// check does not prove the contrary.
    Unnoticed,
    /// The server can't do this one thing, for us or now, and is good for other reads: its state
    /// stays as it is. If all servers refuse with the same words, these are the client's answer.
    Request,
}

/// Rows of an error's code, a part of its text, and their meaning.
///
/// The texts are those of Redis 6.2 to 8 and Valkey 7.2 to 9. Valkey puts its own name where Redis
/// has its own, so no row contains a name. The comments name the functions that send the texts.
///
/// Two sorts of errors are answers, and not in the table: errors that any server would send for the
/// command (`WRONGTYPE`, `NOSCRIPT`, `CROSSSLOT`, `ERR …`), and errors that only writes get (`READONLY`,
/// `NOREPLICAS`, `MISCONF`; a `PING` gets `MISCONF` as well, but a server that can't save serves reads).
const TABLE: [(&str, &str, Inability); 15] = [
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
    // blocked.c: disconnectOrRedirectAllBlockedClients, where a primary becomes a replica.
    ("UNBLOCKED", "force unblock from blocking operation", Inability::Request),
    // acl.c: getAclErrorMessage; in 6.2 server.c: processCommand.
    ("NOPERM", "", Inability::Request),
    // server.c: processCommand. Reads get it between MULTI and EXEC.
    ("OOM", "command not allowed when used memory > 'maxmemory'", Inability::Request),
];

/// Beginning of EXEC's error before the reason (multi.c: execCommandAbort).
const EXEC_ABORTED: &str = "EXECABORT Transaction discarded because of: ";

/// Returns the meaning of an error, given without its `-`; `None` where it is an answer.
pub fn inability(error: &str) -> Option<Inability> {
    let error = error.strip_prefix(EXEC_ABORTED).unwrap_or(error);
    let (code, _) = error.split_once(' ')?;
    // A server may repeat the client's text, but not at the beginning.
    let says_so = |says: &str, of: &str| match of {
        "ERR" => error[code.len()..].trim_start().starts_with(says),
        _ => error.contains(says),
    };
    let row = TABLE.iter().find(|(of, says, _)| *of == code && says_so(says, of));
    row.map(|(_, _, inability)| *inability)
}

/// Returns whether a command was refused for lack of rights.
pub fn is_not_permitted(error: &str) -> bool {
    error.starts_with("NOPERM")
}

/// Fails if a whole reply is no answer, so that another server has to be asked.
///
/// # Errors
/// With the server's words: it can't answer at all, or it can't answer this request and another server
/// that can be asked has not said so as well.
pub(super) fn check_answer(reply: &[u8], supervisor: &dyn Supervisor) -> Result<(), BackendError> {
    let Some(error) = said(reply) else { return Ok(()) };
    match inability(&error) {
        None => Ok(()),
        Some(Inability::Request) if supervisor.refuses(&error) => Ok(()),
        Some(_) => Err(BackendError::Redis(error)),
    }
}

/// Fails if a whole reply, or a message, says that the server can answer no client.
///
/// # Errors
/// With the server's words.
pub fn check_server(reply: &[u8]) -> Result<(), BackendError> {
    match said(reply) {
        Some(error) if !matches!(inability(&error), None | Some(Inability::Request)) => {
            Err(BackendError::Redis(error))
        }
        _ => Ok(()),
    }
}

/// Returns the text of a whole reply that is an error, as it is shown.
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
            // The client's text, repeated.
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
            (
                "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
                Some(Request),
            ),
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
