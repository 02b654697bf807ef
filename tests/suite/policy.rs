//! Which commands pass: for each command that a real server lists, the answer of lb, and whether the
//! server got it.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

use redis::Value;

use crate::support::balancer::Balancer;
use crate::support::redis::RedisServer;
use crate::support::resp::RespClient;
use crate::support::wait_until;

/// Commands that lb answers or handles itself, or sends in another form.
const LOCAL: &str = "acl|whoami auth client|getname client|id client|info client|no-evict client|no-touch \
    client|reply client|setinfo client|setname config|get discard echo eval evalsha exec fcall hello \
    hscan info multi ping psubscribe punsubscribe quit readonly readwrite reset role scan \
    script|exists script|load select sscan ssubscribe subscribe sunsubscribe time unsubscribe unwatch \
    watch zscan";

/// Commands that pass although they lack the flag `readonly` or have the flag `blocking`.
const EXCEPTIONS: &str = "cluster|count-failure-reports cluster|countkeysinslot \
    cluster|getkeysinslot cluster|info cluster|keyslot cluster|links cluster|myid \
    cluster|myshardid cluster|nodes cluster|replicas cluster|shards cluster|slaves \
    cluster|slot-stats cluster|slots command command|count command|docs command|getkeys \
    command|getkeysandflags command|info command|list function|list function|stats lastsave \
    module|list pubsub|channels pubsub|numpat pubsub|numsub pubsub|shardchannels pubsub|shardnumsub \
    xread";

const READONLY: &str = "-READONLY You can't write against a read only replica.\r\n";

/// A command or subcommand that the server lists.
struct Listed {
    /// `get`, `config|get`
    name: String,
    arity: i64,
    flags: Vec<String>,
    is_container: bool,
}

#[derive(Debug, PartialEq)]
enum Expected {
    Forwarded,
    LocalCommand,
    Write,
    Refused,
    /// A container with a subcommand that does not exist.
    Unknown,
}

impl Listed {
    fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|given| given == flag)
    }

    fn is_in(&self, names: &str) -> bool {
        names.split_whitespace().any(|name| name == self.name)
    }

    fn expected(&self) -> Expected {
        let is_read = self.has("readonly") && !self.has("blocking") && self.name != "keys";
        if self.is_in(LOCAL) {
            Expected::LocalCommand
        } else if self.is_container && self.name != "command" {
            Expected::Unknown
        } else if self.has("write") {
            Expected::Write
        } else if is_read || self.is_in(EXCEPTIONS) || self.name.ends_with("|help") {
            Expected::Forwarded
        } else {
            Expected::Refused
        }
    }

    /// The words of the name, then as many `x` as make `count` arguments.
    fn with_arguments(&self, count: usize) -> Vec<&str> {
        let mut words: Vec<&str> = self.name.split('|').collect();
        words.resize(count, "x");
        words
    }

    fn fewest(&self) -> usize {
        self.arity.unsigned_abs() as usize
    }
}

fn list(server: &RedisServer) -> Vec<Listed> {
    let mut all = Vec::new();
    add_listed(&server.command(&["COMMAND"]), &mut all);
    assert!(all.len() > 300, "{} commands", all.len());
    all
}

fn add_listed(rows: &Value, all: &mut Vec<Listed>) {
    for row in array(rows) {
        let [name, arity, flags, .., subcommands] = array(row) else { panic!("{row:?}") };
        all.push(Listed {
            name: redis::from_redis_value_ref(name).expect("a name"),
            arity: redis::from_redis_value_ref(arity).expect("an arity"),
            flags: redis::from_redis_value_ref(flags).expect("flags"),
            is_container: !array(subcommands).is_empty(),
        });
        add_listed(subcommands, all);
    }
}

fn array(value: &Value) -> &[Value] {
    let Value::Array(items) = value else { panic!("no array: {value:?}") };
    items
}

/// How often the server was asked for each command, also in vain.
fn calls(server: &RedisServer) -> HashMap<String, u64> {
    let info = server.command(&["INFO", "commandstats"]);
    let info: String = redis::from_redis_value(info).expect("text");
    let count = |stats: &str, name: &str| -> u64 {
        let stat = stats.split(',').find_map(|stat| stat.strip_prefix(name)?.strip_prefix('='));
        stat.and_then(|count| count.parse().ok()).expect("a count")
    };
    info.lines()
        .filter_map(|line| line.strip_prefix("cmdstat_")?.split_once(':'))
        .map(|(name, stats)| {
            (name.to_owned(), count(stats, "calls") + count(stats, "rejected_calls"))
        })
        .collect()
}

/// A connection that speaks RESP2, read line by line.
struct Raw(BufReader<TcpStream>);

impl Raw {
    fn direct(server: &RedisServer) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", server.port())).expect("the server accepts");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        Self(BufReader::new(stream))
    }

    fn through(lb: &Balancer) -> Self {
        Self(BufReader::new(lb.connect()))
    }

    /// Sends a command and returns the first line of its reply, or nothing at the end.
    fn ask<A: AsRef<[u8]>>(&mut self, args: &[A]) -> String {
        let mut command = format!("*{}\r\n", args.len()).into_bytes();
        for arg in args.iter().map(AsRef::as_ref) {
            command.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
            command.extend_from_slice(&[arg, b"\r\n"].concat());
        }
        self.0.get_mut().write_all(&command).expect("the other side reads");
        let mut line = Vec::new();
        self.0.read_until(b'\n', &mut line).expect("a reply in time");
        // Not UTF-8: each byte is one character.
        line.into_iter().map(char::from).collect()
    }
}

#[test]
fn each_command_of_the_server_passes_or_not_as_its_flags_say() {
    let server = RedisServer::start();
    let lb = Balancer::start_with(&[&server], &["--allow-scripts"]);
    let all = list(&server);
    let before = calls(&server);
    for command in &all {
        let args = command.with_arguments(command.fewest());
        let reply = Raw::through(&lb).ask(&args);
        let shown = command.name.to_uppercase().replace('|', " ");
        let is_refused = reply.starts_with("-READONLY")
            || reply.contains("served by redis-lb")
            || reply.contains("unknown")
            || reply.contains("wrong number");
        let is_right = match command.expected() {
            Expected::Forwarded | Expected::LocalCommand => !reply.is_empty() && !is_refused,
            Expected::Write => reply == READONLY,
            Expected::Refused => {
                reply.starts_with(&format!("-ERR {shown} is not served by redis-lb: "))
            }
            Expected::Unknown => {
                reply == format!("-ERR unknown subcommand 'x'. Try {shown} HELP.\r\n")
            }
        };
        assert!(is_right, "{args:?}, {:?}: {reply}", command.expected());
    }
    let after = calls(&server);
    for command in &all {
        let [before, after] =
            [&before, &after].map(|calls| calls.get(&command.name).copied().unwrap_or(0));
        match command.expected() {
            Expected::Forwarded => assert!(after > before, "{} was not asked for", command.name),
            Expected::LocalCommand => {}
            _ => assert_eq!(after, before, "{} has reached the server", command.name),
        }
    }
}

#[test]
fn a_wrong_number_of_arguments_is_what_the_server_says_it_is() {
    let server = RedisServer::start();
    let lb = Balancer::start(&[&server]);
    let (mut direct, mut through) = (Raw::direct(&server), Raw::through(&lb));
    for command in &list(&server) {
        let words = command.name.split('|').count();
        let too_few = (command.fewest() > words).then(|| command.fewest() - 1);
        let too_many = (command.arity > 0).then(|| command.fewest() + 1);
        for count in [too_few, too_many].into_iter().flatten() {
            let args = command.with_arguments(count);
            let expected = direct.ask(&args);
            assert!(expected.contains("wrong number of arguments"), "{args:?}: {expected}");
            assert_eq!(through.ask(&args), expected, "{args:?}");
        }
    }
}

#[test]
fn what_does_not_exist_is_what_the_server_says_it_is() {
    let server = RedisServer::start();
    let lb = Balancer::start(&[&server]);
    let (mut direct, mut through) = (Raw::direct(&server), Raw::through(&lb));
    let [x123, x124, x125, x200] = [123, 124, 125, 200].map(|length| vec![b'x'; length]);
    let cases: &[&[&[u8]]] = &[
        &[b"foo"],
        &[b"FOO", b"a", b"b"],
        &[b""],
        &[b"", b""],
        &[b"F\0OO", b"a\0x", b"b\r\nc\xff\xfe"],
        &[&x200, &x200, b"b"],
        &[b"f", &x123, &x200, b"c"],
        &[b"f", &x124, &x200, b"c"],
        &[b"f", &x125, &x200, b"c"],
        &[b"".as_slice(); 60],
        &[b"config|get", b"save"],
        &[b"coNfig", b"foo"],
        &[b"config", b""],
        &[b"config", b"f\0oo"],
        &[b"Pubsub", &x200],
        &[b"command", b"a\nb", b"c"],
        &[b"get "],
    ];
    for args in cases {
        let expected = direct.ask(args);
        assert!(expected.starts_with("-ERR unknown "), "{expected}");
        assert_eq!(through.ask(args), expected);
    }
}

#[test]
fn keys_passes_when_it_is_turned_on() {
    let server = RedisServer::start();
    server.command(&["SET", "a", "1"]);
    let lb = Balancer::start_with(&[&server], &["--allow-keys"]);
    assert_eq!(Raw::through(&lb).ask(&["KEYS", "*"]), "*1\r\n");
}

#[test]
fn what_only_some_servers_know_is_refused() {
    let servers = [RedisServer::start(), RedisServer::start_with(&["--rename-command", "LCS", ""])];
    let lb = Balancer::start(&servers.each_ref());
    let refusal = "-ERR LCS is not served by redis-lb: not every backend knows this command\r\n";
    // As long as the second server is not known, only the first counts.
    wait_until("both servers are known", || Raw::through(&lb).ask(&["LCS", "a", "b"]) == refusal);
}

#[test]
fn http_within_a_session_closes_it() {
    let server = RedisServer::start();
    let lb = Balancer::start(&[&server]);
    for name in ["POST", "Host:"] {
        let mut through = Raw::through(&lb);
        assert_eq!(through.ask(&["PING"]), "+PONG\r\n");
        assert_eq!(through.ask(&[name, "x"]), "");
    }
}

#[test]
fn a_command_is_what_its_name_means_to_the_server() {
    // Redis still lists both by their old names: one as a read, the other as a write.
    let server = RedisServer::start_with(&[
        "--rename-command",
        "EXISTS",
        "hidden",
        "--rename-command",
        "DEL",
        "EXISTS",
    ]);
    server.command(&["SET", "key", "value"]);
    let lb = Balancer::start(&[&server]);
    let mut session = RespClient::connect(lb.port());
    let reply = session.call("EXISTS key");
    assert!(reply.starts_with("-READONLY "), "{reply}");
    assert_eq!(session.call("GET key"), "$5\r\nvalue\r\n");
}

#[test]
fn a_server_that_owes_little_to_a_client_is_asked_in_parts_what_it_knows() {
    for limit in ["normal 64kb 64kb 1", "normal 40kb 40kb 1"] {
        let server = RedisServer::start_with(&["--client-output-buffer-limit", limit]);
        server.command(&["SET", "key", "value"]);
        let lb = Balancer::start(&[&server]);
        let mut session = RespClient::connect(lb.port());
        assert_eq!(session.call("GET key"), "$5\r\nvalue\r\n", "{limit}");
        for (words, begin) in [
            ("STRLEN key", ":5"),
            ("OBJECT ENCODING key", "$6"),
            ("MEMORY USAGE key", ":"),
            ("XINFO HELP", "*"),
            ("SET key x", "-READONLY"),
            ("CLUSTER RESET", "-ERR CLUSTER RESET is not served"),
            ("NOSUCH x", "-ERR unknown command 'NOSUCH'"),
            ("CONFIG NOSUCH", "-ERR unknown subcommand"),
        ] {
            let reply = session.call(words);
            assert!(reply.starts_with(begin), "{limit}: {words}: {reply}");
        }
        assert!(lb.get("/key").json() == "value");
    }
    let limit = "normal 16kb 16kb 1";
    let server = RedisServer::start_with(&["--client-output-buffer-limit", limit]);
    let lb = Balancer::start(&[&server]);
    wait_until("it is told why", || lb.log().contains("is its client-output-buffer-limit"));
}
