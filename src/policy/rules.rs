//! Exceptions to the flags of `COMMAND`: commands that a session answers itself, commands that pass
//! without the flag `readonly`, and the reasons why others do not pass.
//!
//! Names are in lower case, as Redis lists them, with a space before a subcommand.

use super::verdict::{LocalCommand, Subscription};

/// Error for a write, in Redis's own words: clients know it.
pub(super) const READONLY: &str = "READONLY You can't write against a read only replica.";

/// Error for commands of backends while none has answered `COMMAND`.
pub(super) const NO_TABLE: &str = "ERR redis-lb does not know yet which commands are reads: no backend has \
    answered COMMAND (does one run, and may the user of redis-lb send COMMAND there?)";

/// Reason for a command that only some backends know.
pub(super) const NOT_EVERYWHERE: &str = "not every backend knows this command";

/// Reason for a command with the flag `admin`.
pub(super) const ADMIN: &str = "it administers one server. Ask that server itself";

/// Reason for a command with the flag `blocking`.
pub(super) const BLOCKING: &str = "it may wait without end";

/// Reason for a command of which nothing else is known.
pub(super) const NO_READ: &str = "the backends do not call it a read";

/// Reason for KEYS where it is not allowed.
pub(super) const KEYS_OFF: &str = "it keeps a server busy until it has looked at every key. \
    Use SCAN, or start redis-lb with --allow-keys";

/// Reason for scripts where they are not allowed.
pub(super) const SCRIPTS_OFF: &str = "a script that only reads can still keep a server busy for ever, \
    fill its memory, and administer it. Start redis-lb with --allow-scripts if you trust all clients \
    with that";

/// Reason for functions where they are not allowed.
pub(super) const FUNCTIONS_OFF: &str = "a function that only reads can still keep a server busy for \
    ever, and administer it. Start redis-lb with --allow-scripts if you trust all clients with that";

/// A command that the session handles: its name, arity, what it is, and its categories with its container's.
pub(super) type LocalRow = (&'static str, i64, LocalCommand, &'static str);

/// Commands that the session handles, with their arities and categories in Redis 7.2: a backend may be older, or may
/// have renamed them.
pub(super) const LOCAL: &[LocalRow] = &[
    ("acl whoami", 2, LocalCommand::AclWhoAmI, "slow"),
    ("auth", -2, LocalCommand::Auth, "fast connection"),
    ("client getname", 2, LocalCommand::ClientGetName, "slow connection"),
    ("client id", 2, LocalCommand::ClientId, "slow connection"),
    ("client info", 2, LocalCommand::ClientInfo, "slow connection"),
    ("client no-evict", 3, LocalCommand::ClientOk, "admin slow dangerous connection"),
    ("client no-touch", 3, LocalCommand::ClientOk, "slow connection"),
    ("client reply", 3, LocalCommand::ClientReply, "slow connection"),
    ("client setinfo", 4, LocalCommand::ClientSetInfo, "slow connection"),
    ("client setname", 3, LocalCommand::ClientSetName, "slow connection"),
    ("config get", -3, LocalCommand::ConfigGet, "admin slow dangerous"),
    ("discard", 1, LocalCommand::Discard, "fast transaction"),
    ("echo", 2, LocalCommand::Echo, "fast connection"),
    ("exec", 1, LocalCommand::Exec, "slow transaction"),
    ("hello", -1, LocalCommand::Hello, "fast connection"),
    ("hscan", -3, LocalCommand::Scan { cursor_arg: 2 }, "read hash slow"),
    ("info", -1, LocalCommand::Info, "slow dangerous"),
    ("multi", 1, LocalCommand::Multi, "fast transaction"),
    ("ping", -1, LocalCommand::Ping, "fast connection"),
    ("psubscribe", -2, LocalCommand::Subscribe(Subscription::Pattern), "pubsub slow"),
    ("punsubscribe", -1, LocalCommand::Unsubscribe(Subscription::Pattern), "pubsub slow"),
    ("quit", -1, LocalCommand::Quit, "fast connection"),
    ("readonly", 1, LocalCommand::ClusterMode, "fast connection"),
    ("readwrite", 1, LocalCommand::ClusterMode, "fast connection"),
    ("reset", 1, LocalCommand::Reset, "fast connection"),
    ("scan", -2, LocalCommand::Scan { cursor_arg: 1 }, "keyspace read slow"),
    ("role", 1, LocalCommand::Role, "admin fast dangerous"),
    ("select", 2, LocalCommand::Select, "fast connection"),
    ("sscan", -3, LocalCommand::Scan { cursor_arg: 2 }, "read set slow"),
    ("ssubscribe", -2, LocalCommand::Subscribe(Subscription::Shard), "pubsub slow"),
    ("subscribe", -2, LocalCommand::Subscribe(Subscription::Channel), "pubsub slow"),
    ("sunsubscribe", -1, LocalCommand::Unsubscribe(Subscription::Shard), "pubsub slow"),
    ("time", 1, LocalCommand::Time, "fast"),
    ("unsubscribe", -1, LocalCommand::Unsubscribe(Subscription::Channel), "pubsub slow"),
    ("unwatch", 1, LocalCommand::Unwatch, "fast transaction"),
    ("watch", -2, LocalCommand::Watch, "fast transaction"),
    ("zscan", -3, LocalCommand::Scan { cursor_arg: 2 }, "read sortedset slow"),
];

/// Commands that the session handles where scripts are allowed.
pub(super) const LOCAL_WITH_SCRIPTS: &[LocalRow] = &[
    ("script exists", -3, LocalCommand::ScriptExists, "slow scripting"),
    ("script load", 3, LocalCommand::ScriptLoad, "slow scripting"),
];

/// Commands that search indexes and may have to do with a cursor. Some servers list the parts of FT.CURSOR.
pub(super) const SEARCHES: &[&str] =
    &["ft.aggregate", "ft.search", "ft.cursor", "ft.cursor read", "ft.cursor del"];

/// Commands that only read although they may lack the flag `readonly`, as is every container's `HELP`.
/// Before a colon stands their container. Subcommands of CLUSTER that are not listed could change the node.
const READS: &[&str] = &[
    "command eval_ro evalsha_ro fcall_ro lastsave",
    "cluster: count-failure-reports countkeysinslot getkeysinslot info keyslot links myid myshardid",
    "cluster: nodes replicas shards slaves slot-stats slots",
    "command: count docs getkeys getkeysandflags info list",
    "function: list stats",
    "memory: usage",
    "module: list",
    "object: encoding freq idletime refcount",
    "pubsub: channels numpat numsub shardchannels shardnumsub",
    "script: exists",
    "xinfo: consumers groups stream",
];

/// Commands with the flag `blocking` that only read: the session waits in their place. All others that may block
/// are refused.
const BLOCKING_READS: &str = "xread";

/// Containers of Redis 6, whose `COMMAND` does not list their subcommands.
const CONTAINERS: &str = "acl client cluster command config latency memory module object pubsub script \
    slowlog xgroup xinfo";

/// Reasons for refusing commands that are no writes; commas stand between commands. The reason of a container
/// holds for all its subcommands that are not listed.
const REASONS: &[(&str, &str)] = &[
    ("acl", "it is about the users of one server"),
    ("asking", "it belongs to redirections within a cluster, which redis-lb does not follow"),
    ("bgrewriteaof, bgsave, save", "it makes one server write its data to disk"),
    ("client", "a server sees the connections of redis-lb, not its clients"),
    (
        "client caching, client getredir, client tracking, client trackinginfo",
        "a server can't tell which client has cached what",
    ),
    ("cluster", "it may change one node of a cluster"),
    ("config", "it changes one server, or resets its counters"),
    ("debug", "it may stop or change a server"),
    ("eval, evalsha", "a script may write, and not all servers know EVAL_RO, which may not"),
    ("failover", "it makes another server the primary"),
    ("fcall", "a function may write, and not all servers know FCALL_RO, which may not"),
    ("function", "it is about the functions of one server"),
    ("latency, slowlog", "it is the record of one server"),
    ("memory", "it is about the memory of one server"),
    ("module", "it is about the modules of one server"),
    ("monitor", "it shows the commands of one server"),
    ("psync, replconf, sync", "a replica connects to its primary itself"),
    ("publish, spublish", "the message would reach the subscribers of one server only"),
    ("replicaof, slaveof", "it changes what one server replicates"),
    ("script", "it is about the scripts of one server"),
    ("shutdown", "it would end one server"),
    ("wait, waitaof", "nothing is written through it, so there is nothing to wait for"),
];

/// Whether this command passes without the flag `readonly`, as long as it is no write.
pub(super) fn is_read(path: &str) -> bool {
    let (container, name) = path.split_once(' ').unwrap_or(("", path));
    name == "help" && !container.is_empty() || reads(container).any(|read| read == name)
}

/// Whether the session waits for the reply to this command, if the command asks it to.
pub(super) fn is_blocking_read(path: &str) -> bool {
    BLOCKING_READS.split_ascii_whitespace().any(|name| name == path)
}

/// The commands that only read; of a container, or, without one, those that are none's.
fn reads(container: &str) -> impl Iterator<Item = &'static str> {
    let of_this = READS.iter().filter_map(move |line| {
        let (of, names) = line.split_once(": ").unwrap_or(("", line));
        (of == container).then_some(names)
    });
    of_this.flat_map(str::split_ascii_whitespace)
}

/// The subcommands of a container that only read, for a server that lists none; `None` if it is no container.
pub(super) fn subcommands(container: &str) -> Option<Vec<&'static str>> {
    let is_one = CONTAINERS.split_ascii_whitespace().any(|name| name == container);
    is_one.then(|| reads(container).chain(["help"]).collect())
}

/// The reason to refuse a command whatever its flags are; `None` if those decide.
pub(super) fn reason(path: &str) -> Option<&'static str> {
    if is_read(path) {
        return None;
    }
    let of = |name: &str| {
        let is_named = |names: &str| names.split(", ").any(|named| named == name);
        REASONS.iter().find(|(names, _)| is_named(names)).map(|(_, why)| *why)
    };
    of(path).or_else(|| of(path.split(' ').next()?))
}
