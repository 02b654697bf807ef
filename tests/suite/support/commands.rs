//! A random stream of commands whose replies depend on nothing but the data: reads of every type,
//! and whatever a read-only replica says to all else.

use std::collections::VecDeque;
use std::iter;

use fastrand::Rng;
use redis::{Connection, Pipeline, Value};

use super::resp::encode;

/// Databases with data, each with its own; the others are empty.
pub const DATABASES: usize = 4;

/// Of each type there are ten keys in each database. The stream also asks for two that are missing.
const KEYS: usize = 10;

const TYPES: [&str; 10] =
    ["string", "number", "bitmap", "hash", "list", "set", "zset", "stream", "geo", "hll"];

/// What is asked for. `<type>` is a key of that type, `<key>` one of any type; for the others see
/// [`CommandStream::fill`].
const READS: &[&str] = &[
    "GET <string>",
    "GET <number>",
    "GET <key>",
    "GET <expiring>",
    "MGET <string> <number> <key>",
    "STRLEN <string>",
    "GETRANGE <string> <int> <int>",
    "SUBSTR <string> <int> <int>",
    "LCS <string> <number>",
    "LCS <string> <string> LEN",
    "LCS <string> <string> IDX MINMATCHLEN <int> WITHMATCHLEN",
    "GETBIT <bitmap> <int>",
    "BITCOUNT <bitmap>",
    "BITCOUNT <bitmap> <int> <int> BIT",
    "BITPOS <bitmap> 1 <int> <int> BYTE",
    "BITPOS <bitmap> 0",
    "BITFIELD_RO <bitmap> GET u8 <int> GET i5 #2",
    "BITFIELD_RO <number> GET u63 0",
    "HGET <hash> <element>",
    "HMGET <hash> <element> <element> <word>",
    "HGETALL <hash>",
    "HKEYS <hash>",
    "HVALS <hash>",
    "HLEN <hash>",
    "HEXISTS <hash> <element>",
    "HSTRLEN <hash> <element>",
    "LLEN <list>",
    "LINDEX <list> <int>",
    "LRANGE <list> <int> <int>",
    "LRANGE <list> 0 -1",
    "LPOS <list> <element>",
    "LPOS <list> <element> RANK <int> COUNT 0 MAXLEN <int>",
    "SMEMBERS <set>",
    "SCARD <set>",
    "SISMEMBER <set> <element>",
    "SMISMEMBER <set> <element> <word>",
    "SINTER <set> <set>",
    "SUNION <set> <set>",
    "SDIFF <set> <set> <set>",
    "SINTERCARD 2 <set> <set> LIMIT <int>",
    "ZCARD <zset>",
    "ZSCORE <zset> <element>",
    "ZMSCORE <zset> <element> <element>",
    "ZRANK <zset> <element>",
    "ZREVRANK <zset> <element>",
    "ZCOUNT <zset> <score> <score>",
    "ZLEXCOUNT <zset> <lex> <lex>",
    "ZRANGE <zset> <int> <int> WITHSCORES",
    "ZRANGE <zset> <score> <score> BYSCORE LIMIT <int> <int>",
    "ZRANGE <zset> <lex> <lex> BYLEX REV",
    "ZREVRANGE <zset> <int> <int>",
    "ZRANGEBYSCORE <zset> <score> <score> WITHSCORES",
    "ZREVRANGEBYSCORE <zset> <score> <score> LIMIT <int> <int>",
    "ZRANGEBYLEX <zset> <lex> <lex>",
    "ZREVRANGEBYLEX <zset> <lex> <lex>",
    "ZDIFF 2 <zset> <zset> WITHSCORES",
    "ZINTER 2 <zset> <set> WEIGHTS 2 <score> AGGREGATE MAX",
    "ZUNION 2 <zset> <zset> WITHSCORES",
    "ZINTERCARD 2 <zset> <zset>",
    "XLEN <stream>",
    "XRANGE <stream> <id> <id> COUNT <int>",
    "XRANGE <stream> - +",
    "XREVRANGE <stream> + - COUNT 3",
    "XREAD COUNT <int> STREAMS <stream> <stream> <id> 0",
    "XREAD STREAMS <stream> $",
    "XREAD BLOCK 1 STREAMS <stream> $",
    "XREAD COUNT <int> BLOCK 2 STREAMS <stream> <stream> <id> $",
    "XINFO STREAM <stream>",
    "XINFO STREAM <stream> FULL COUNT <int>",
    "XINFO GROUPS <stream>",
    "XPENDING <stream> group",
    "GEOPOS <geo> <element> <element>",
    "GEODIST <geo> <element> <element> km",
    "GEOHASH <geo> <element>",
    "GEOSEARCH <geo> FROMMEMBER <element> BYRADIUS 3000 km ASC WITHCOORD WITHDIST WITHHASH",
    "GEOSEARCH <geo> FROMLONLAT 15 37 BYBOX 4000 4000 km COUNT <int>",
    "GEORADIUS_RO <geo> 15 37 2000 km WITHDIST DESC",
    "GEORADIUSBYMEMBER_RO <geo> <element> 900 mi",
    "PFCOUNT <hll>",
    "PFCOUNT <hll> <hll>",
    "TYPE <key>",
    "TYPE <expiring>",
    "TTL <key>",
    "PTTL <key>",
    "EXPIRETIME <expiring>",
    "PEXPIRETIME <expiring>",
    "EXISTS <key> <key> <expiring>",
    "TOUCH <key> <key>",
    "DUMP <key>",
    "OBJECT ENCODING <key>",
    "OBJECT REFCOUNT <key>",
    "OBJECT FREQ <key>",
    "MEMORY USAGE <key>",
    "MEMORY USAGE <key> SAMPLES <int>",
    "DBSIZE",
    "SORT_RO <list> ALPHA LIMIT <int> <int>",
    "SORT_RO <set> ALPHA DESC GET # GET string:*",
    "SORT_RO <zset> BY nosort",
    "SORT_RO <list>",
    "EVAL_RO <script> 1 <key>",
    "EVAL_RO <script> 1 <hash> <element>",
    "EVAL <reader> 1 <key>",
    "EVAL <reader> 1 <hash> <element>",
    "EVALSHA_RO <sha> 1 <string>",
    "EVALSHA <sha> 1 <string>",
    "FCALL_RO reading 1 <string>",
    "FCALL_RO <word> 0",
    "FCALL reading 1 <string>",
    "FCALL <word> 0",
    "PUBSUB NUMSUB <word>",
    "SCRIPT EXISTS <sha> <word>",
    "FUNCTION LIST WITHCODE",
    "FUNCTION STATS",
    "LASTSAVE",
    "PING",
    "PING <word>",
    "ECHO <word>",
    "<word>",
    "<word> <word> <key> <int>",
];

/// Parts of templates that have another reply on each server with the same data: what is written in the order of a hash,
/// memory, encodings (a server that loads a dataset chooses them anew), ranges of names among elements of different scores.
/// And WATCH, which ends with its server.
const OF_ONE_SERVER: &[&str] =
    &["DUMP ", "LASTSAVE", "MEMORY USAGE ", "OBJECT ENCODING ", "<lex>", "WATCH "];

/// Not within a transaction, where they have an error of our own.
const SESSION: &[&str] = &[
    "AUTH <word>",
    "AUTH <word> <word>",
    "AUTH default <word>",
    "READONLY",
    "READWRITE",
    "CLUSTER INFO",
    "CLUSTER KEYSLOT <key>",
    "COMMAND COUNT",
    "COMMAND INFO get <word>",
    "COMMAND DOCS hset",
    "COMMAND GETKEYS MGET <key> <key>",
    "COMMAND GETKEYS <word>",
    "COMMAND LIST FILTERBY ACLCAT geo",
    "EXEC",
    "DISCARD",
    "UNWATCH",
    "WATCH <key> <key>",
];

/// Sent as they stand: with anything changed their replies would be made by chance, be our own, or
/// have a cursor that carries its backend.
const FIXED: &[&str] = &[
    "SCAN 0 COUNT 10000",
    "SCAN 0 COUNT 10000 MATCH string:* TYPE string",
    "SCAN 0 COUNT 0",
    "SCAN 0 COUNT x",
    "SCAN x",
    "SCAN",
    "HSCAN <hash> 0 COUNT 10000",
    "HSCAN <list> 0",
    "HSCAN <hash> x",
    "HSCAN <hash>",
    "SSCAN <set> 0 COUNT 10000 MATCH m1*",
    "SSCAN <zset> 0",
    "ZSCAN <zset> 0 COUNT 10000",
    "ZSCAN <key>",
    "HELLO 2",
    "HELLO 3",
    "HELLO 4",
    "HELLO x",
    "HELLO 3 AUTH <word> <word>",
    "HELLO 3 <word>",
    "RESET",
    "OBJECT HELP",
    "MEMORY HELP",
    "XINFO HELP",
    "XGROUP HELP",
    "PUBSUB HELP",
    "PUBSUB CHANNELS o*",
    "SCRIPT HELP",
    "FUNCTION HELP",
    "COMMAND HELP",
    "CLIENT HELP",
    "CONFIG HELP",
];

/// Long replies, asked for now and then.
const BIG: &[&str] = &[
    "GET big:string",
    "GETRANGE big:string 5 700000",
    "DUMP big:string",
    "MGET big:edge big:edge big:string",
    "HGETALL big:hash",
    "HVALS big:hash",
    "LRANGE big:list 0 -1",
    "SMEMBERS big:set",
    "ZRANGE big:zset 0 -1 WITHSCORES",
    "COMMAND",
    "COMMAND DOCS",
];

/// The commands that have subcommands.
const CONTAINERS: [&str; 15] = [
    "ACL", "CLIENT", "CLUSTER", "COMMAND", "CONFIG", "FUNCTION", "LATENCY", "MEMORY", "MODULE",
    "OBJECT", "PUBSUB", "SCRIPT", "SLOWLOG", "XGROUP", "XINFO",
];

const SCRIPTS: &[&str] = &[
    "return redis.call('GET', KEYS[1])",
    "return redis.call('HGET', KEYS[1], ARGV[1])",
    "return redis.pcall('TYPE', KEYS[1])",
    "return {1, 'two', {3, false, nil}, 4}",
    "return {err = 'MINE of my own'}",
    "return redis.status_reply('FINE')",
    "redis.setresp(3) return redis.call('HGETALL', KEYS[1])",
    "redis.setresp(3) return redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')",
    "redis.setresp(3) return {{double = 3.5}, true, {set = {a = true}}, {big_number = '12345'}}",
    "redis.setresp(3) return {map = {only = {verbatim_string = {format = 'txt', string = 'x'}}}}",
    "this is no Lua",
    "return nothing.at_all",
    "",
];

/// A replica has another error for it where it may write.
const WRITING_SCRIPT: &str = "return redis.call('SET', KEYS[1], 'x')";

pub const CACHED_SCRIPT: &str = "return {KEYS[1], redis.call('STRLEN', KEYS[1])}";

const FUNCTION: &str = "#!lua name=library\nredis.register_function{function_name = 'reading', \
     callback = function(keys) return redis.call('GET', keys[1]) end, flags = {'no-writes'}}";

/// Words that are often wrong where they stand, and some that are right.
const JUNK: [&[u8]; 22] = [
    b"",
    b"0",
    b"-1",
    b"2",
    b"1.5",
    b"nan",
    b"inf",
    b"1e400",
    b"9223372036854775807",
    b"-9223372036854775808",
    b"9223372036854775808",
    b" 1",
    b"*",
    b"WITHSCORES",
    b"LIMIT",
    b"COUNT",
    b"STORE",
    b"REV",
    b"\r\n",
    b"a\r\n+OK\r\n\0\xff",
    b"'\"\\",
    &[b'x'; 300],
];

/// One command of the stream.
pub struct Item {
    pub bytes: Vec<u8>,
    /// How many replies it has: none if it says nothing.
    pub replies: usize,
    /// Whether two servers in the same state give the same bytes.
    pub is_comparable: bool,
    /// Whether it may be sent again without a change to anything.
    pub is_read: bool,
}

/// An endless stream, the same for the same seed.
pub struct CommandStream {
    rng: Rng,
    sha: String,
    writes: Vec<(String, i64)>,
    ready: VecDeque<Item>,
    is_across_servers: bool,
}

impl CommandStream {
    /// For the data of [`load`], with the commands that `server` knows.
    pub fn new(seed: u64, server: &mut Connection) -> Self {
        let sha = redis::cmd("SCRIPT").arg("LOAD").arg(CACHED_SCRIPT).query(server);
        let commands: Vec<Value> = redis::cmd("COMMAND").query(server).expect("commands");
        let mut stream = Self {
            rng: Rng::with_seed(seed),
            sha: sha.expect("a digest"),
            writes: commands.iter().flat_map(writes).collect(),
            ready: VecDeque::new(),
            is_across_servers: false,
        };
        stream.writes.sort();
        // What comes first decides the protocol of a connection, which others test.
        let begin: &[&str] = if seed.is_multiple_of(2) { &["HELLO", "3"] } else { &["PING"] };
        stream.push(begin.iter().map(|word| word.as_bytes().to_vec()).collect());
        stream
    }

    /// One that may go from one server with these data to another amid everything: without what differs between them, and
    /// without long replies, in which a client may be cut off.
    pub fn across_servers(mut self) -> Self {
        self.is_across_servers = true;
        self
    }

    /// Whether this stream may have a command of this template.
    fn has(&self, template: &str) -> bool {
        !self.is_across_servers || !OF_ONE_SERVER.iter().any(|part| template.contains(part))
    }

    pub fn next(&mut self) -> Item {
        while self.ready.is_empty() {
            match self.rng.u32(0..1000) {
                0..2 if !self.is_across_servers => {
                    let template = self.choose(BIG);
                    self.push_filled(template);
                }
                2..20 => {
                    let index = match self.rng.u32(0..8) {
                        0..5 => self.rng.usize(0..DATABASES).to_string().into_bytes(),
                        5..7 => self.rng.usize(0..20).to_string().into_bytes(),
                        _ => self.junk(),
                    };
                    self.push(vec![b"SELECT".to_vec(), index]);
                }
                20..30 => self.push_transaction(),
                30..60 => {
                    let template = self.choose(FIXED);
                    self.push_filled(template);
                }
                60..100 => {
                    let template = self.template(SESSION);
                    self.push_spoiled(template);
                }
                100..150 => self.push_write(),
                // Redis passes over what is empty.
                150..155 => self.push_silent(),
                155..165 => self.push_subscriptions(),
                _ => {
                    self.push_read();
                    self.ready.iter_mut().for_each(|item| item.is_read = true);
                }
            }
        }
        self.ready.pop_front().expect("an item")
    }

    fn push_read(&mut self) {
        let template = self.template(READS);
        self.push_spoiled(template);
    }

    fn template(&mut self, from: &[&'static str]) -> &'static str {
        let template = self.choose(from);
        if self.has(template) { template } else { "PING" }
    }

    /// A command that no replica carries out, mostly with as many arguments as it takes.
    fn push_write(&mut self) {
        let (name, arity) = self.choose(&self.writes.clone());
        let mut args: Vec<Vec<u8>> = name.split('|').map(|word| word.as_bytes().to_vec()).collect();
        while (args.len() as i64) < arity.abs() {
            args.push(if self.rng.bool() { self.key() } else { self.junk() });
        }
        if self.rng.u8(0..8) == 0 {
            self.spoil(&mut args);
        }
        self.push(args);
    }

    fn push_silent(&mut self) {
        let bytes = self.choose(&[&b"\r\n"[..], b"\n", b"*0\r\n", b"*-1\r\n", b"  \r\n"]).to_vec();
        self.ready.push_back(Item { bytes, replies: 0, is_comparable: true, is_read: false });
    }

    fn push_transaction(&mut self) {
        if self.rng.u8(0..4) == 0 {
            let template = self.template(&["WATCH <key> <key>"]);
            self.push_filled(template);
        }
        self.push_filled("MULTI");
        // Half of them have nothing in them that Redis refuses to queue.
        let is_clean = self.rng.bool();
        for _ in 0..self.rng.usize(0..12) {
            match self.rng.u32(0..20) {
                0 if !is_clean => self.push_filled("MULTI"),
                1 if !is_clean => self.push_filled("WATCH <key>"),
                2 if !is_clean => self.push_write(),
                3..9 if !is_clean => self.push_read(),
                9 => self.push_filled("UNWATCH"),
                _ => {
                    let template = self.template(READS);
                    self.push_filled(if template.starts_with('<') { "PING" } else { template });
                }
            }
        }
        match self.rng.u8(0..20) {
            0 => self.push_filled("RESET"),
            1..4 => self.push_filled("DISCARD"),
            _ => self.push_filled("EXEC"),
        }
    }

    /// Subscribes, asks for this and that meanwhile, and leaves everything again.
    fn push_subscriptions(&mut self) {
        let kinds = self.choose(&[&["", "P"][..], &["P", "S"], &[""], &["P"], &["S"]]);
        let channels = 1 + self.rng.usize(0..3);
        let all: String = (0..channels).map(|number| format!(" news:{number}")).collect();
        for kind in kinds {
            self.push_subscription(&format!("{kind}SUBSCRIBE{all}"), channels);
        }
        for _ in 0..self.rng.usize(0..8) {
            match self.rng.u8(0..10) {
                0 => self.push_filled("PING"),
                1 => self.push_filled("PING <word>"),
                2 => self.push_filled("PING <word> <word>"),
                3 => self.push_filled("SUBSCRIBE"),
                4 => self.push_subscription(&format!("{}SUBSCRIBE{all}", kinds[0]), channels),
                5 => self.push_filled("UNSUBSCRIBE <word>"),
                6 => self.push_write(),
                _ => {
                    // A subscriber does not wait for streams.
                    let template = self.template(READS);
                    self.push_spoiled(if template.contains(" BLOCK ") { "PING" } else { template });
                }
            }
        }
        let resets = self.rng.u8(0..8) == 0;
        for kind in kinds {
            match self.rng.bool() {
                _ if resets => {}
                // The order in which a server leaves several is its own.
                true if channels == 1 => self.push_filled(&format!("{kind}UNSUBSCRIBE")),
                _ => self.push_subscription(&format!("{kind}UNSUBSCRIBE{all}"), channels),
            }
        }
        if resets {
            self.push_filled("RESET");
        }
    }

    /// Each channel is confirmed on its own.
    fn push_subscription(&mut self, command: &str, channels: usize) {
        self.push_filled(command);
        if let Some(item) = self.ready.back_mut() {
            item.replies = channels;
        }
    }

    fn push_filled(&mut self, template: &str) {
        let args = template.split(' ').map(|word| self.fill(word)).collect();
        self.push(args);
    }

    /// Adds a command of this template, often with something wrong in it.
    fn push_spoiled(&mut self, template: &str) {
        let mut args: Vec<Vec<u8>> = template.split(' ').map(|word| self.fill(word)).collect();
        // Something else in the place of a time may be a very long one.
        if !template.contains(" BLOCK ") && self.rng.u8(0..4) == 0 {
            self.spoil(&mut args);
        }
        self.push(args);
    }

    fn push(&mut self, mut args: Vec<Vec<u8>>) {
        match self.rng.u8(0..10) {
            0 => args[0].make_ascii_lowercase(),
            1 => args[0].iter_mut().step_by(2).for_each(|byte| *byte = byte.to_ascii_lowercase()),
            _ => {}
        }
        // HELLO's reply has the number of the connection in it.
        let is_comparable = !args[0].eq_ignore_ascii_case(b"HELLO");
        let bytes = match self.rng.u8(0..20) {
            0 => self.inline(&args),
            _ => encode(&args),
        };
        self.ready.push_back(Item { bytes, replies: 1, is_comparable, is_read: false });
    }

    /// A line as one would type it, with quotes where they are needed and where they are not.
    fn inline(&mut self, args: &[Vec<u8>]) -> Vec<u8> {
        let mut line = Vec::new();
        for arg in args {
            line.extend_from_slice(self.choose(&[&b" "[..], b" ", b"  ", b"\t "]));
            let is_printable = arg.iter().all(|byte| matches!(byte, b' '..=b'~'));
            let is_word = !arg.is_empty() && arg.iter().all(u8::is_ascii_alphanumeric);
            match self.rng.u8(0..4) {
                0 if is_printable && !arg.contains(&b'\'') && !arg.contains(&b'\\') => {
                    line.extend_from_slice(&[b"'", &arg[..], b"'"].concat());
                }
                1.. if is_word => line.extend_from_slice(arg),
                _ => line.extend_from_slice(&in_quotes(arg)),
            }
        }
        line.extend_from_slice(self.choose(&[&b"\r\n"[..], b"\n", b" \r\n"]));
        line
    }

    fn spoil(&mut self, args: &mut Vec<Vec<u8>>) {
        let place = self.rng.usize(0..args.len());
        match self.rng.u8(0..5) {
            0 if args.len() > 1 => drop(args.pop()),
            1 if place > 0 => args[place] = self.junk(),
            2 if place > 0 => args[place] = self.key(),
            3 if place > 0 => args.insert(place, args[place].clone()),
            _ => args.push(self.junk()),
        }
    }

    /// A word of a template, or what it stands for.
    fn fill(&mut self, word: &str) -> Vec<u8> {
        let Some(name) = word.strip_prefix('<').and_then(|word| word.strip_suffix('>')) else {
            return word.into();
        };
        match name {
            "key" => self.key(),
            "element" => element(self.rng.usize(0..260)),
            "int" => match self.rng.u8(0..10) {
                0 => self.junk(),
                1..3 => (-self.rng.i64(0..300)).to_string().into_bytes(),
                _ => self.rng.i64(0..40).to_string().into_bytes(),
            },
            "score" => match self.rng.u8(0..4) {
                0 => self.choose(&["-inf", "+inf", "inf", "(3", "x"]).into(),
                1 => format!("({}", self.rng.i64(-5..100)).into(),
                _ => (self.rng.i64(-20..400) as f64 / 4.0).to_string().into_bytes(),
            },
            "lex" => match self.rng.u8(0..4) {
                0 => self.choose(&["-", "+", "x", "["]).into(),
                side => {
                    let mut bound = vec![if side == 1 { b'(' } else { b'[' }];
                    bound.extend(element(self.rng.usize(0..260)));
                    bound
                }
            },
            "id" => match self.rng.u8(0..5) {
                0 => self.choose(&["-", "+", "x-y", "(3-0", "0-0"]).into(),
                1 => self.rng.i64(0..100).to_string().into_bytes(),
                _ => format!("{}-1", self.rng.i64(0..100)).into(),
            },
            "script" if self.rng.u8(0..14) == 0 => WRITING_SCRIPT.into(),
            "script" | "reader" => self.choose(SCRIPTS).into(),
            "sha" => match self.rng.u8(0..3) {
                0 => format!("{:040x}", self.rng.u128(..)).into(),
                _ => self.sha.clone().into(),
            },
            "word" => match self.rng.bool() {
                true => self.junk(),
                // Never by chance a command that ends the connection, such as POST.
                false => {
                    let rest = (0..self.rng.usize(0..12)).map(|_| self.rng.alphanumeric());
                    iter::once('o').chain(rest).collect::<String>().into()
                }
            },
            name => key(name, self.rng.usize(0..KEYS + 2)),
        }
    }

    fn key(&mut self) -> Vec<u8> {
        let name = self.choose(&TYPES);
        key(name, self.rng.usize(0..KEYS + 2))
    }

    fn junk(&mut self) -> Vec<u8> {
        self.choose(&JUNK).to_vec()
    }

    fn choose<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.rng.usize(0..from.len())].clone()
    }
}

/// Some keys are not text, and one is empty.
fn key(name: &str, number: usize) -> Vec<u8> {
    match number {
        0 if name == "string" => Vec::new(),
        1 => [name.as_bytes(), b":\0\xff\r\n \"1"].concat(),
        _ => format!("{name}:{number}").into(),
    }
}

/// A field, a member or an element; some are not text, and one is empty.
fn element(number: usize) -> Vec<u8> {
    match number {
        3 => Vec::new(),
        4 => b"m4\r\n\xfe\0".into(),
        _ => format!("m{number}").into(),
    }
}

fn in_quotes(arg: &[u8]) -> Vec<u8> {
    let escaped = arg.iter().map(|&byte| match byte {
        b'"' | b'\\' => format!("\\{}", byte as char),
        b'\n' => "\\n".to_owned(),
        b' '..=b'~' => (byte as char).to_string(),
        _ => format!("\\x{byte:02x}"),
    });
    format!("\"{}\"", escaped.collect::<String>()).into()
}

/// The commands and subcommands with the flag `write` in one entry of COMMAND, each with the number
/// of its words: negative if it may have more.
fn writes(entry: &Value) -> Vec<(String, i64)> {
    let Value::Array(parts) = entry else { panic!("no entry: {entry:?}") };
    let (Value::BulkString(name), Value::Int(arity)) = (&parts[0], &parts[1]) else {
        panic!("no entry: {entry:?}")
    };
    let is_write = format!("{:?}", parts[2]).contains("'write'")
        || format!("{:?}", parts[2]).contains("\"write\"");
    let mut found = match is_write {
        true => vec![(String::from_utf8_lossy(name).to_uppercase(), *arity)],
        false => Vec::new(),
    };
    if let Some(Value::Array(subcommands)) = parts.get(9) {
        found.extend(subcommands.iter().flat_map(writes));
    }
    found
}

/// Fills the databases of a server. Other data for another seed.
pub fn load(server: &mut Connection, seed: u64) {
    let mut rng = Rng::with_seed(seed);
    for database in 0..DATABASES {
        let mut commands = redis::pipe();
        commands.cmd("SELECT").arg(database);
        for number in 0..KEYS {
            for kind in TYPES {
                fill_key(&mut commands, &mut rng, kind, number);
            }
            let expiring = key("expiring", number);
            commands.cmd("SET").arg(expiring).arg("x").arg("EX").arg(100_000 + number);
        }
        fill_big_keys(&mut commands, &mut rng);
        commands.exec(server).expect("loaded");
    }
    redis::cmd("FUNCTION").arg("LOAD").arg(FUNCTION).exec(server).expect("a function");
}

/// Brings a server to where reads no longer change what it says: SORT_RO gives a sorted set another
/// encoding, each look at a table – also that of a command's subcommands – moves Redis on with
/// enlarging it, and PFCOUNT keeps its result within the key.
pub fn settle(server: &mut Connection) {
    let looks: Vec<Vec<u8>> = (0..10_000).map(element).collect();
    for database in 0..DATABASES {
        let mut commands = redis::pipe();
        commands.cmd("SELECT").arg(database);
        for number in 0..KEYS {
            commands.cmd("SORT_RO").arg(key("zset", number)).arg("ALPHA");
            commands.cmd("SORT_RO").arg(key("geo", number)).arg("ALPHA");
            commands.cmd("HMGET").arg(key("hash", number)).arg(&looks[..1000]);
            commands.cmd("SMISMEMBER").arg(key("set", number)).arg(&looks[..1000]);
            commands.cmd("ZMSCORE").arg(key("zset", number)).arg(&looks[..1000]);
            commands.cmd("ZMSCORE").arg(key("geo", number)).arg(&looks[..1000]);
            commands.cmd("PFCOUNT").arg(key("hll", number));
        }
        commands.cmd("HMGET").arg("big:hash").arg(&looks);
        commands.cmd("SMISMEMBER").arg("big:set").arg(&looks);
        commands.cmd("ZMSCORE").arg("big:zset").arg(&looks);
        commands.exec(server).expect("answers");
    }
    for container in CONTAINERS {
        for _ in 0..64 {
            // CLUSTER's is an error, but looked up all the same.
            let _ = redis::cmd(container).arg("HELP").exec(server);
        }
    }
}

fn fill_key(commands: &mut Pipeline, rng: &mut Rng, kind: &str, number: usize) {
    let key = key(kind, number);
    // One, a few, or so many that Redis chooses another encoding.
    let count = [1, 3, 20, 250][rng.usize(0..4)];
    for n in 0..count {
        match kind {
            "string" => commands.set(&key, value(rng)),
            "number" => commands.set(&key, rng.i64(-1000..100_000)),
            "bitmap" => commands.setbit(&key, rng.usize(0..4000), true),
            "hash" => commands.hset(&key, element(n), value(rng)),
            // All or none of the elements are integers: what SORT_RO says to others that look like
            // numbers depends on what the server did before.
            "list" if number.is_multiple_of(3) => commands.rpush(&key, rng.i64(..)),
            "list" if number % 3 == 1 => {
                commands.rpush(&key, [b"long", &bytes(rng, 300)[..]].concat())
            }
            "list" => commands.rpush(&key, element(n % 50)),
            "set" if number.is_multiple_of(3) => commands.sadd(&key, rng.i64(-1000..1000)),
            "set" => commands.sadd(&key, element(n)),
            // One score for all, so that the commands that compare names have something to do.
            "zset" if number.is_multiple_of(3) => commands.zadd(&key, element(n), 1),
            "zset" => commands.zadd(&key, element(n), rng.i64(-20..400) as f64 / 8.0),
            "stream" => commands
                .cmd("XADD")
                .arg(&key)
                .arg(format!("{}-{}", n / 2 + 1, n % 2 + 1))
                .arg(&[element(n), value(rng), b"field".to_vec(), value(rng)]),
            "geo" => commands
                .cmd("GEOADD")
                .arg(&key)
                .arg(&[rng.f64() * 360.0 - 180.0, rng.f64() * 160.0 - 80.0])
                .arg(element(n)),
            "hll" => commands.pfadd(&key, &[rng.u64(..), rng.u64(..), rng.u64(..)]),
            other => panic!("no such type: {other}"),
        };
    }
    if kind == "stream" && number.is_multiple_of(2) {
        commands.cmd("XGROUP").arg("CREATE").arg(&key).arg("group").arg(0);
        commands.cmd("XREADGROUP").arg(&["GROUP", "group", "reader", "COUNT", "2", "STREAMS"]);
        commands.arg(&key).arg(">");
    }
}

fn fill_big_keys(commands: &mut Pipeline, rng: &mut Rng) {
    commands.set("big:string", bytes(rng, 1024 * 1024));
    // Around the 64 KiB up to which a reply is held.
    commands.set("big:edge", bytes(rng, 64 * 1024 - 20));
    for n in 0..5000 {
        commands.hset("big:hash", element(n), value(rng));
        commands.rpush("big:list", element(n));
        commands.sadd("big:set", element(n));
        commands.zadd("big:zset", element(n), n as f64 / 3.0);
    }
}

fn value(rng: &mut Rng) -> Vec<u8> {
    match rng.u8(0..8) {
        0 => Vec::new(),
        1 => b"\r\n$-1\r\n+OK\r\n".to_vec(),
        2 => rng.i64(..).to_string().into(),
        3 => format!("{}.5", rng.i64(0..1000)).into(),
        4 => bytes(rng, 300),
        _ => {
            let length = rng.usize(1..40);
            (0..length).map(|_| rng.lowercase() as u8).collect()
        }
    }
}

fn bytes(rng: &mut Rng, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    rng.fill(&mut bytes);
    bytes
}
