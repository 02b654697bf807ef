//! The decision about a command.

use crate::metrics::Refusal;

/// The decision about a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It goes to a backend as it is.
    Forward,
    /// The session answers or handles it.
    Local(LocalCommand),
    /// It is answered with an error.
    Refuse(Refused),
    /// It is HTTP (`POST` or `Host:`): the connection is closed, as Redis does, because a browser
    /// may have been tricked into sending what follows.
    Close,
}

/// The error that a command gets which is not served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The reason that the metrics count.
    pub why: Refusal,
    /// Code and text of the error, without CR and LF; perhaps not UTF-8.
    pub error: Vec<u8>,
}

impl Refused {
    pub(super) fn new(why: Refusal, error: impl Into<Vec<u8>>) -> Self {
        Self { why, error: error.into() }
    }
}

/// A command that the session itself answers or handles.
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
    ConfigGet,
    /// SCAN, HSCAN, SSCAN, ZSCAN
    Scan {
        /// The number of the argument that is the cursor; the command's name is number 0.
        cursor_arg: usize,
    },
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
