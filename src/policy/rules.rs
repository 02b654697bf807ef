//! Exceptions to the flags of `COMMAND`: commands that a session answers itself, commands that pass
//! although they lack the flag `readonly`, and the reasons why others do not pass.
//!
//! Names are in lower case, as Redis lists them, with a space before a subcommand.

use super::verdict::{LocalCommand, Subscription};

/// Error for a write, in Redis's own words: clients know it.
pub(super) const READONLY: &str = "READONLY You can't write against a read only replica.";

/// Error for all but our own commands while no backend has answered `COMMAND`.
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

/// Reason for XREAD with BLOCK.
pub(super) const NO_BLOCK: &str = "poll with XREAD without BLOCK";

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

/// Commands that the session handles, with their arities as of Redis 7.2: a backend may be older, or
/// may have renamed them.
pub(super) const LOCAL: &[(&str, i64, LocalCommand)] = &[
    ("auth", -2, LocalCommand::Auth),
    ("client getname", 2, LocalCommand::ClientGetName),
    ("client id", 2, LocalCommand::ClientId),
    ("client info", 2, LocalCommand::ClientInfo),
    ("client no-evict", 3, LocalCommand::ClientOk),
    ("client no-touch", 3, LocalCommand::ClientOk),
    ("client reply", 3, LocalCommand::ClientReply),
    ("client setinfo", 4, LocalCommand::ClientSetInfo),
    ("client setname", 3, LocalCommand::ClientSetName),
    ("config get", -3, LocalCommand::ConfigGet),
    ("discard", 1, LocalCommand::Discard),
    ("echo", 2, LocalCommand::Echo),
    ("exec", 1, LocalCommand::Exec),
    ("hello", -1, LocalCommand::Hello),
    ("hscan", -3, LocalCommand::Scan { cursor_arg: 2 }),
    ("info", -1, LocalCommand::Info),
    ("multi", 1, LocalCommand::Multi),
    ("ping", -1, LocalCommand::Ping),
    ("psubscribe", -2, LocalCommand::Subscribe(Subscription::Pattern)),
    ("punsubscribe", -1, LocalCommand::Unsubscribe(Subscription::Pattern)),
    ("quit", -1, LocalCommand::Quit),
    ("readonly", 1, LocalCommand::ClusterMode),
    ("readwrite", 1, LocalCommand::ClusterMode),
    ("reset", 1, LocalCommand::Reset),
    ("scan", -2, LocalCommand::Scan { cursor_arg: 1 }),
    ("select", 2, LocalCommand::Select),
    ("sscan", -3, LocalCommand::Scan { cursor_arg: 2 }),
    ("ssubscribe", -2, LocalCommand::Subscribe(Subscription::Shard)),
    ("subscribe", -2, LocalCommand::Subscribe(Subscription::Channel)),
    ("sunsubscribe", -1, LocalCommand::Unsubscribe(Subscription::Shard)),
    ("time", 1, LocalCommand::Time),
    ("unsubscribe", -1, LocalCommand::Unsubscribe(Subscription::Channel)),
    ("unwatch", 1, LocalCommand::Unwatch),
    ("watch", -2, LocalCommand::Watch),
    ("zscan", -3, LocalCommand::Scan { cursor_arg: 2 }),
];

/// Commands that only read although they may lack the flag `readonly`; so does each container's
/// `HELP`. The subcommands of CLUSTER that are not listed could change the node.
const READS: &[&str] = &[
    "cluster count-failure-reports",
    "cluster countkeysinslot",
    "cluster getkeysinslot",
    "cluster info",
    "cluster keyslot",
    "cluster links",
    "cluster myid",
    "cluster myshardid",
    "cluster nodes",
    "cluster replicas",
    "cluster shards",
    "cluster slaves",
    "cluster slot-stats",
    "cluster slots",
    "command",
    "command count",
    "command docs",
    "command getkeys",
    "command getkeysandflags",
    "command info",
    "command list",
    "eval_ro",
    "evalsha_ro",
    "fcall_ro",
    "function list",
    "function stats",
    "lastsave",
    "memory usage",
    "object encoding",
    "object freq",
    "object idletime",
    "object refcount",
    "pubsub channels",
    "pubsub numpat",
    "pubsub numsub",
    "pubsub shardchannels",
    "pubsub shardnumsub",
    "role",
    "script exists",
    "xinfo consumers",
    "xinfo groups",
    "xinfo stream",
];

/// Containers of Redis 6, whose `COMMAND` does not list their subcommands.
const CONTAINERS: &[&str] = &[
    "acl", "client", "cluster", "command", "config", "latency", "memory", "module", "object",
    "pubsub", "script", "slowlog", "xgroup", "xinfo",
];

/// Reasons for refusing commands that are no writes. That of a container holds for all its
/// subcommands that are not listed.
const REASONS: &[(&str, &str)] = &[
    ("acl", "it is about the users of one server"),
    ("asking", "it belongs to redirections within a cluster, which redis-lb does not follow"),
    ("bgrewriteaof", "it makes one server write its data to disk"),
    ("bgsave", "it makes one server write its data to disk"),
    ("client", "a server sees the connections of redis-lb, not its clients"),
    ("client caching", "a server can't tell which client has cached what"),
    ("client getredir", "a server can't tell which client has cached what"),
    ("client tracking", "a server can't tell which client has cached what"),
    ("client trackinginfo", "a server can't tell which client has cached what"),
    ("cluster", "it may change one node of a cluster"),
    ("config", "it changes one server, or resets its counters"),
    ("debug", "it may stop or change a server"),
    ("eval", "a script may write. Use EVAL_RO"),
    ("evalsha", "a script may write. Use EVALSHA_RO"),
    ("failover", "it makes another server the primary"),
    ("fcall", "a function may write. Use FCALL_RO"),
    ("function", "it is about the functions of one server"),
    ("latency", "it is the record of one server"),
    ("memory", "it is about the memory of one server"),
    ("module", "it is about the modules of one server"),
    ("monitor", "it shows the commands of one server"),
    ("psync", "a replica connects to its primary itself"),
    ("publish", "the message would reach the subscribers of one server only"),
    ("replconf", "a replica connects to its primary itself"),
    ("replicaof", "it changes what one server replicates"),
    ("save", "it makes one server write its data to disk"),
    ("script", "it is about the scripts of one server"),
    ("script load", "the script would reach one server only. Send it whole, with EVAL_RO"),
    ("shutdown", "it would end one server"),
    ("slaveof", "it changes what one server replicates"),
    ("slowlog", "it is the record of one server"),
    ("spublish", "the message would reach the subscribers of one server only"),
    ("sync", "a replica connects to its primary itself"),
    ("wait", "nothing is written through it, so there is nothing to wait for"),
    ("waitaof", "nothing is written through it, so there is nothing to wait for"),
];

/// Whether this command passes without the flag `readonly`, as long as it is no write.
pub(super) fn is_read(path: &str) -> bool {
    READS.contains(&path) || path.ends_with(" help")
}

/// The subcommands of a container that only read, for a server that lists none. `None` if this is no
/// container.
pub(super) fn subcommands(container: &str) -> Option<Vec<&'static str>> {
    let reads = || READS.iter().filter_map(|read| read.split_once(' '));
    CONTAINERS.contains(&container).then(|| {
        let of_this = reads().filter(|(of, _)| *of == container).map(|(_, name)| name);
        of_this.chain(["help"]).collect()
    })
}

/// The reason to refuse a command whatever its flags are; `None` where those decide.
pub(super) fn reason(path: &str) -> Option<&'static str> {
    if is_read(path) {
        return None;
    }
    let of = |name: &str| REASONS.iter().find(|(named, _)| *named == name).map(|(_, why)| *why);
    of(path).or_else(|| of(path.split(' ').next()?))
}
