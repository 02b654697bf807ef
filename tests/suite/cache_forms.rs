//! The replies that the near cache keeps: a real server's reply in RESP3, converted, is byte for byte its reply in RESP2, for
//! each command of the table and for values of all types.

use std::collections::BTreeSet;
use std::sync::Arc;

use redis_lb::policy::cacheable::{CachedCommand, CachedKind, names};
use redis_lb::policy::{Allowed, CommandTable, Policy, Verdict};
use redis_lb::resp::{CommandBuilder, CommandParser, to_resp2, write};

use crate::support::redis::RedisServer;
use crate::support::resp::RespClient;

/// Commands that make values of all types, with spaces between their words.
const VALUES: &[&str] = &[
    "SET text some-text",
    "SET number -42",
    "SETBIT bits 100 1",
    "HSET hash f 1 g -1.50",
    "RPUSH list a b a c a",
    "SADD set a b 1.5",
    "SADD numbers 3 1 2",
    "ZADD zset 1 a 1.5 b 0.1 c -0 d 1e300 e 12345678901234567 f 3.0000000000000004 g -1e-7 h +inf i -inf j",
    "ZADD ranks 1 a",
    "ZADD lex 0 a 0 b 0 c 0 d",
    "GEOADD geo 13.361389 38.115556 a 15.087269 37.502669 b -180 -85 c 0 0 d",
    "XADD stream 1-1 f v g w",
    "XADD stream 1-2 f v",
    "XADD stream 2-0 h x",
    "XADD emptied 1-1 f v",
    "XDEL emptied 1-1",
];

/// The keys that each command reads, among them some with no value. Others, whose values are no words, are made in [`load`].
const KEYS: &[&[u8]] = &[
    b"text",
    b"number",
    b"bits",
    b"hash",
    b"list",
    b"set",
    b"numbers",
    b"zset",
    b"ranks",
    b"lex",
    b"geo",
    b"stream",
    b"emptied",
    b"empty",
    b"binary",
    b"large-hash",
    b"large-zset",
    b"\r\n\0\xff",
    b"",
    b"missing",
];

/// Commands, and what may follow the key: words with spaces between them.
const READS: &[(&str, &[&str])] = &[
    ("bitcount", &["", "0 -1", "1 9 BIT", "0 0 BYTE", "5 2", "x 1"]),
    ("bitfield_ro", &["", "GET u8 0", "GET i4 100 GET u63 0", "GET u64 0"]),
    ("bitpos", &["1", "0", "1 2", "1 0 -1 BIT", "0 0 -1", "2"]),
    ("exists", &[""]),
    ("geodist", &["a b", "a b km", "a none", "none a", "a b parsecs"]),
    ("geohash", &["", "a none b"]),
    ("geopos", &["", "a none b", "none"]),
    (
        "geosearch",
        &[
            "FROMMEMBER a BYRADIUS 500 km ASC",
            "FROMMEMBER none BYRADIUS 1 m",
            "FROMLONLAT 15 37 BYBOX 400 400 km WITHCOORD WITHDIST WITHHASH",
            "FROMLONLAT 15 37 BYBOX 400 400 km DESC WITHCOORD",
            "FROMLONLAT 15 37 BYRADIUS 400 km WITHDIST COUNT 1 ANY",
            "FROMLONLAT 15 37 BYRADIUS 400 km WITHHASH COUNT 1",
            "FROMLONLAT 90 0 BYRADIUS 1 m WITHCOORD",
        ],
    ),
    ("get", &[""]),
    ("getbit", &["0", "100", "100000", "x"]),
    ("getrange", &["0 -1", "1 2", "5 1"]),
    ("hexists", &["f", "none"]),
    ("hget", &["f", "g", "none"]),
    ("hgetall", &[""]),
    ("hkeys", &[""]),
    ("hlen", &[""]),
    ("hmget", &["f", "f none g none"]),
    ("hstrlen", &["f", "none"]),
    ("hvals", &[""]),
    ("lindex", &["0", "-1", "99"]),
    ("llen", &[""]),
    (
        "lpos",
        &[
            "a",
            "none",
            "a RANK -1",
            "a RANK 9",
            "a COUNT 0",
            "none COUNT 0",
            "a RANK 2 COUNT 2 MAXLEN 10",
            "a RANK 0",
        ],
    ),
    ("lrange", &["0 -1", "1 1", "9 10"]),
    ("scard", &[""]),
    ("sismember", &["a", "1", "none"]),
    ("smembers", &[""]),
    ("smismember", &["a", "1 none a"]),
    ("strlen", &[""]),
    ("substr", &["0 1", "3 1"]),
    ("type", &[""]),
    ("xlen", &[""]),
    ("xrange", &["- +", "- + COUNT 1", "- + COUNT 0", "(1-1 2", "9-9 +", "x +"]),
    ("xrevrange", &["+ -", "+ - COUNT 2", "+ - COUNT 0", "1 1"]),
    ("zcard", &[""]),
    ("zcount", &["-inf +inf", "(1 5", "x 1"]),
    ("zlexcount", &["- +", "[a (c"]),
    ("zmscore", &["a", "none a i j d"]),
    ("zrank", &["a", "none", "a WITHSCORE", "none WITHSCORE"]),
    ("zrevrank", &["a", "none", "a WITHSCORE", "none WITHSCORE"]),
    ("zscore", &["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "none"]),
    (
        "zrange",
        &[
            "0 -1",
            "0 -1 WITHSCORES",
            "0 0 WITHSCORES",
            "0 -1 REV WITHSCORES",
            "-inf +inf BYSCORE",
            "-inf +inf BYSCORE LIMIT 1 2 WITHSCORES",
            "+inf -inf BYSCORE REV WITHSCORES",
            "- + BYLEX",
            "- + BYLEX LIMIT 0 1",
            "+ - BYLEX REV",
            "5 1 WITHSCORES",
            "x y",
        ],
    ),
    ("zrangebylex", &["- +", "[a (c", "- + LIMIT 1 1", "a b"]),
    (
        "zrangebyscore",
        &["-inf +inf", "-inf +inf WITHSCORES LIMIT 0 2", "1 1 WITHSCORES", "(1 1 WITHSCORES"],
    ),
    ("zrevrange", &["0 -1", "0 -1 WITHSCORES", "50 60 WITHSCORES"]),
    ("zrevrangebylex", &["+ -", "(c [a", "+ - LIMIT 0 1"]),
    ("zrevrangebyscore", &["+inf -inf", "+inf -inf WITHSCORES", "1 1 WITHSCORES LIMIT 0 1"]),
];

/// Commands of the table that belong to a module, which the servers of these tests do not have.
const OF_MODULES: &[&str] = &["json.get"];

/// A server with connections in both versions of the protocol, and the policy that its commands make.
struct Beside {
    _server: RedisServer,
    resp2: RespClient,
    resp3: RespClient,
    policy: Policy,
}

impl Beside {
    fn start() -> Self {
        let server = RedisServer::start();
        let [mut resp2, mut resp3] = [(); 2].map(|()| RespClient::connect(server.port()));
        load(&mut resp2);
        let table = CommandTable::parse(&resp2.command(&["COMMAND"])).expect("commands");
        let policy = Policy::new(&[Arc::new(table)], Allowed::default());
        assert!(resp3.call("HELLO 3").starts_with('%'));
        Self { _server: server, resp2, resp3, policy }
    }

    /// What is kept of a command that may pass.
    fn cached(&self, args: &[&[u8]]) -> Option<CachedCommand> {
        let bytes = args.iter().collect::<CommandBuilder>().into_bytes();
        let mut parser = CommandParser::new(usize::MAX);
        let command = parser.parse(&bytes).expect("valid").1.expect("a whole command");
        let passes = self.policy.verdict(&command) == Verdict::Forward;
        self.policy.shape(&command).cached(&command).filter(|_| passes)
    }

    /// The replies in RESP2 and in RESP3.
    fn replies(&mut self, args: &[&[u8]]) -> [Vec<u8>; 2] {
        [self.resp2.command(args), self.resp3.command(args)]
    }

    /// Compares the converted reply with that of the server, and returns the reply in RESP3. `None` if the policy refuses
    /// the command, for the number of its arguments.
    fn compare(&mut self, args: &[&[u8]]) -> Option<Vec<u8>> {
        let shown = args.join(&b' ').escape_ascii().to_string();
        let cached = self.cached(args)?;
        assert_eq!(cached.kind, CachedKind::One, "{shown}");
        let [resp2, resp3] = self.replies(args);
        let converted = to_resp2(&resp3, cached.form)
            .unwrap_or_else(|| panic!("{shown}: {}", resp3.escape_ascii()));
        assert_eq!(
            converted.escape_ascii().to_string(),
            resp2.escape_ascii().to_string(),
            "{shown} with {}",
            resp3.escape_ascii()
        );
        Some(resp3)
    }
}

fn load(client: &mut RespClient) {
    for words in VALUES {
        assert!(!client.call(words).starts_with('-'), "{words}");
    }
    // Members and fields of more than 64 bytes have other encodings.
    let long = "long".repeat(50);
    for args in [
        [&b"SET"[..], b"empty", b""],
        [b"SET", b"binary", b"\0\xff\r\n$-1\r\n"],
        [b"SET", b"\r\n\0\xff", b"a key of any bytes"],
        [b"SET", b"", b"the empty key"],
        [b"HDEL", b"hash", b"no such field"],
    ] {
        assert!(!client.command(&args).starts_with(b"-"));
    }
    client.command(&["HSET", "large-hash", "f", &long, "", "g"]);
    client.command(&["ZADD", "large-zset", "0.3", &long, "-inf", "", "2", "a", "1e21", "b"]);
}

#[test]
fn a_reply_in_resp3_becomes_the_reply_that_the_server_sends_in_resp2() {
    let mut beside = Beside::start();
    let mut tested = BTreeSet::new();
    let mut kinds = BTreeSet::new();
    for (name, endings) in READS {
        for (key, ending) in
            KEYS.iter().flat_map(|key| endings.iter().map(move |ending| (key, ending)))
        {
            let mut args = vec![name.as_bytes(), *key];
            args.extend(ending.split_ascii_whitespace().map(str::as_bytes));
            let Some(reply) = beside.compare(&args) else { continue };
            if !reply.starts_with(b"-") {
                tested.insert(*name);
            }
            kinds.extend(reply.split_inclusive(|&byte| byte == b'\n').map(|line| line[0]));
        }
    }
    let parts = ["mget"];
    let table: BTreeSet<_> =
        names().filter(|name| !OF_MODULES.contains(name) && !parts.contains(name)).collect();
    assert_eq!(tested, table, "each command of the table has been answered");
    for kind in *b"+-:$*_,%~" {
        assert!(kinds.contains(&kind), "no reply had a frame of type {:?}", char::from(kind));
    }
}

#[test]
fn mget_and_exists_are_made_of_the_replies_for_each_key() {
    let mut beside = Beside::start();
    for keys in [&KEYS[..1], KEYS, &[b"missing"], &[b"hash", b"hash", b"text", b"missing", b"text"]]
    {
        let of = |name: &'static [u8]| [&[name], keys].concat();
        let mget = beside.cached(&of(b"MGET")).expect("it is kept");
        let get = beside.cached(&[b"get", b"text"]).expect("it is kept");
        assert_eq!(mget, CachedCommand { kind: CachedKind::Mget, ..get });
        let mut expected = [Vec::new(), Vec::new()];
        expected.iter_mut().for_each(|reply| write::array(reply, keys.len()));
        for key in keys {
            let parts = beside.replies(&[b"GET", key]);
            for ((reply, part), null) in expected.iter_mut().zip(parts).zip(["$-1\r\n", "_\r\n"]) {
                reply.extend(if part.starts_with(b"-") { null.as_bytes().to_vec() } else { part });
            }
        }
        assert_eq!(beside.replies(&of(b"MGET")), expected);

        let kind = if keys.len() == 1 { CachedKind::One } else { CachedKind::ExistsOfMany };
        let exists = beside.cached(&[b"exists", b"text"]).expect("it is kept");
        assert_eq!(beside.cached(&of(b"EXISTS")), Some(CachedCommand { kind, ..exists }));
        let sum = keys
            .iter()
            .filter(|key| beside.resp2.command(&[b"EXISTS", **key]) == b":1\r\n")
            .count();
        assert_eq!(beside.resp3.command(&of(b"EXISTS")), format!(":{sum}\r\n").into_bytes());
    }
}
