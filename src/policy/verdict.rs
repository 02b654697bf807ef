//! The decision about a command, and the errors of those that are refused, in Redis's own words if it has any.

use super::rules;
use crate::metrics::Refusal;
use crate::resp::Command;

/// Limit up to which Redis quotes an unknown command's name, and its arguments together.
const MAX_QUOTED_BYTES: usize = 128;

/// The decision about a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It goes to a backend unchanged.
    Forward,
    /// The session answers or handles it.
    Local(LocalCommand),
    /// It is answered with an error.
    Refuse(Refused),
    /// It is HTTP (`POST` or `Host:`). The connection is closed, as Redis does: a browser may have been tricked
    /// into sending Redis commands.
    Close,
}

/// The error for a command that is not served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Reason that the metrics count.
    pub why: Refusal,
    /// Code and text of the error, without CR and LF; perhaps not UTF-8.
    pub error: Vec<u8>,
}

impl Refused {
    pub(super) fn new(why: Refusal, error: impl Into<Vec<u8>>) -> Self {
        Self { why, error: error.into() }
    }
}

/// A command that the session answers or handles itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // most are named as the command
pub enum LocalCommand {
    Ping,
    Echo,
    Quit,
    Reset,
    Time,
    /// READONLY and READWRITE, which clients of a Cluster send.
    ClusterMode,
    Hello,
    Auth,
    AclWhoAmI,
    ClientSetName,
    ClientGetName,
    ClientSetInfo,
    ClientId,
    ClientInfo,
    ClientReply,
    /// CLIENT NO-EVICT and CLIENT NO-TOUCH: answered with `OK`, without effect.
    ClientOk,
    Select,
    Info,
    Role,
    ConfigGet,
    ScriptExists,
    ScriptLoad,
    /// FT.AGGREGATE or FT.SEARCH with WITHCURSOR
    SearchPage,
    /// FT.CURSOR READ or DEL
    SearchCursor,
    /// SCAN, HSCAN, SSCAN, ZSCAN
    Scan {
        /// The number of the argument that is the cursor; the command's name is number 0.
        cursor_arg: usize,
    },
    /// XREAD with BLOCK
    BlockingXread,
    Multi,
    Exec,
    Discard,
    Watch,
    Unwatch,
    /// SUBSCRIBE, PSUBSCRIBE, SSUBSCRIBE
    Subscribe(Subscription),
    /// UNSUBSCRIBE, PUNSUBSCRIBE, SUNSUBSCRIBE
    Unsubscribe(Subscription),
}

/// The kind of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subscription {
    /// One channel, by its name.
    Channel,
    /// All channels whose names match a pattern.
    Pattern,
    /// A channel of a Cluster's shard.
    Shard,
}

/// Error in Redis's own words.
pub(super) fn unknown_command(command: &Command) -> Vec<u8> {
    let mut args = Vec::new();
    for arg in command.args().skip(1) {
        let left = MAX_QUOTED_BYTES.saturating_sub(args.len());
        if left == 0 {
            break;
        }
        args.extend_from_slice(&[b"'", c_string(arg, left), b"' "].concat());
    }
    let name = c_string(command.name(), MAX_QUOTED_BYTES);
    one_line([b"ERR unknown command '", name, b"', with args beginning with: ", &args].concat())
}

/// Error in Redis's own words.
pub(super) fn unknown_subcommand(container: &[u8], name: &[u8]) -> Vec<u8> {
    let name = c_string(name, MAX_QUOTED_BYTES);
    let container = container.to_ascii_uppercase();
    one_line([b"ERR unknown subcommand '", name, b"'. Try ", &container, b" HELP."].concat())
}

/// Refusal of a command that the session answers, but not between MULTI and EXEC.
pub(super) fn not_in_transaction(command: &Command) -> Refused {
    let name = String::from_utf8_lossy(command.name()).to_ascii_uppercase();
    let error = format!(
        "ERR {name} is not served inside MULTI by redis-lb: send it before MULTI or after EXEC"
    );
    Refused::new(Refusal::NotServed, error)
}

/// Refusal of a command that exists.
pub(super) fn not_served(shown: &str, why: &str) -> Refused {
    Refused::new(Refusal::NotServed, format!("ERR {shown} is not served by redis-lb: {why}"))
}

/// Refusal of every command while no backend has answered `COMMAND`.
pub(super) fn no_table() -> Refused {
    Refused::new(Refusal::Unanswered, rules::NO_TABLE)
}

/// Cuts text as C's `%.*s` does: to `max` bytes, and before a NUL.
pub(super) fn c_string(bytes: &[u8], max: usize) -> &[u8] {
    let bytes = &bytes[..bytes.len().min(max)];
    bytes.iter().position(|&byte| byte == 0).map_or(bytes, |end| &bytes[..end])
}

/// Replaces line breaks: an error is one line of the protocol.
pub(super) fn one_line(mut text: Vec<u8>) -> Vec<u8> {
    for byte in &mut text {
        if matches!(byte, b'\r' | b'\n') {
            *byte = b' ';
        }
    }
    text
}
