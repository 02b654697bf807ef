use super::*;
use crate::resp::{CommandBuilder, CommandParser};

type Listed<'a> = (&'a str, i64, &'a str, &'a [(&'a str, i64, &'a str)]);

/// A part of what a Redis 7 lists.
const REDIS_7: &[Listed] = &[
    ("get", 2, "readonly fast", &[]),
    ("set", -3, "write denyoom", &[]),
    ("sort", -2, "write denyoom movablekeys", &[]),
    ("ping", -1, "fast", &[]),
    ("exec", 1, "noscript", &[]),
    ("keys", 2, "readonly", &[]),
    ("role", 1, "noscript", &[]),
    ("publish", 3, "pubsub", &[]),
    ("monitor", 1, "admin", &[]),
    ("pfselftest", 1, "admin", &[]),
    ("eval", -3, "noscript", &[]),
    ("evalsha", -3, "noscript", &[]),
    ("fcall", -3, "noscript", &[]),
    ("eval_ro", -3, "readonly noscript", &[]),
    ("evalsha_ro", -3, "readonly noscript", &[]),
    ("fcall_ro", -3, "readonly noscript", &[]),
    (
        "script",
        -2,
        "",
        &[
            ("script|exists", -3, "noscript"),
            ("script|kill", 2, "noscript"),
            ("script|load", 3, "noscript"),
        ],
    ),
    ("blpop", -3, "write blocking", &[]),
    ("xread", -4, "readonly blocking movablekeys", &[]),
    ("command", -1, "loading stale", &[("command|docs", -2, "loading stale")]),
    ("config", -2, "", &[("config|get", -3, "admin"), ("config|set", -4, "admin")]),
    ("client", -2, "", &[("client|kill", -3, "admin"), ("client|help", 2, "")]),
    (
        "cluster",
        -2,
        "",
        &[
            ("cluster|replicas", 3, "admin stale"),
            ("cluster|reset", -2, "admin"),
            ("cluster|unheard-of", 2, ""),
        ],
    ),
    ("xgroup", -2, "", &[("xgroup|create", -5, "write denyoom"), ("xgroup|help", 2, "")]),
];

/// A part of what a Redis 6 lists.
const REDIS_6: &[Listed] = &[
    ("get", 2, "readonly fast", &[]),
    ("xread", -4, "readonly movablekeys", &[]),
    ("memory", -2, "readonly random movablekeys", &[]),
    ("config", -2, "admin", &[]),
    ("xgroup", -2, "write denyoom", &[]),
    ("cluster", -2, "admin random", &[]),
    ("post", -1, "loading stale", &[]),
];

fn listing(rows: &[Listed], is_redis_7: bool) -> String {
    let mut reply = format!("*{}\r\n", rows.len());
    for (name, arity, flags, subcommands) in rows {
        reply += &format!("*{}\r\n", if is_redis_7 { 10 } else { 7 });
        reply += &format!("${}\r\n{name}\r\n:{arity}\r\n", name.len());
        let flags: Vec<&str> = flags.split_whitespace().collect();
        reply += &format!("*{}\r\n", flags.len());
        flags.iter().for_each(|flag| reply += &format!("+{flag}\r\n"));
        reply += ":0\r\n:0\r\n:0\r\n*0\r\n";
        if is_redis_7 {
            let subcommands: Vec<Listed> = subcommands
                .iter()
                .map(|(name, arity, flags)| (*name, *arity, *flags, &[][..]))
                .collect();
            reply += "*0\r\n*0\r\n";
            reply += &listing(&subcommands, true);
        }
    }
    reply
}

fn table(rows: &[Listed], is_redis_7: bool) -> Arc<CommandTable> {
    let reply = listing(rows, is_redis_7);
    Arc::new(CommandTable::parse(reply.as_bytes()).expect("a table"))
}

const NOTHING: Allowed = Allowed { keys: false, scripts: false };
const SCRIPTS: Allowed = Allowed { keys: false, scripts: true };

fn redis_7() -> Policy {
    Policy::new(&[table(REDIS_7, true)], NOTHING)
}

/// The verdict on words between spaces.
fn verdict(policy: &Policy, words: impl AsRef<[u8]>) -> Verdict {
    with_command(words.as_ref(), |command| policy.verdict(command))
}

fn in_transaction(policy: &Policy, words: &str) -> Verdict {
    with_command(words.as_bytes(), |command| policy.verdict_in_transaction(command))
}

fn with_command(words: &[u8], decide: impl Fn(&Command) -> Verdict) -> Verdict {
    let command: CommandBuilder = words.split(|&byte| byte == b' ').collect();
    let bytes = command.into_bytes();
    let mut parser = CommandParser::new(1024);
    decide(&parser.parse(&bytes).expect("valid").1.expect("a whole command"))
}

#[track_caller]
fn assert_refused(verdict: Verdict, error: &str) {
    let Verdict::Refuse(Refused { error: text, .. }) = verdict else {
        panic!("{verdict:?}, not {error}")
    };
    assert_eq!(String::from_utf8_lossy(&text), error);
}

#[test]
fn reads_pass_and_writes_do_not() {
    let policy = redis_7();
    for read in ["get k", "GeT k", "command", "command docs get"] {
        assert_eq!(verdict(&policy, read), Verdict::Forward, "{read}");
    }
    for help in ["client help", "XGROUP Help", "cluster replicas id"] {
        assert_eq!(verdict(&policy, help), Verdict::Forward, "{help}");
    }
    for write in ["set k v", "sort k", "blpop k 0", "xgroup create k g $"] {
        assert_refused(verdict(&policy, write), rules::READONLY);
    }
}

#[test]
fn what_is_neither_is_refused_with_its_reason() {
    let policy = redis_7();
    for (words, reason) in [
        ("monitor", "MONITOR is not served by redis-lb: it shows the commands of one server"),
        (
            "client kill id 3",
            "CLIENT KILL is not served by redis-lb: \
             a server sees the connections of redis-lb, not its clients",
        ),
        (
            "config set a b",
            "CONFIG SET is not served by redis-lb: it changes one server, or resets its counters",
        ),
        (
            "cluster reset",
            "CLUSTER RESET is not served by redis-lb: it may change one node of a cluster",
        ),
        (
            "pfselftest",
            "PFSELFTEST is not served by redis-lb: it administers one server. Ask that server itself",
        ),
        (
            "publish c m",
            "PUBLISH is not served by redis-lb: \
             the message would reach the subscribers of one server only",
        ),
    ] {
        assert_refused(verdict(&policy, words), &format!("ERR {reason}"));
    }
    assert!(matches!(verdict(&policy, "cluster unheard-of"), Verdict::Refuse(_)));
}

#[test]
fn keys_passes_only_where_it_is_allowed() {
    assert_refused(
        verdict(&redis_7(), "keys *"),
        "ERR KEYS is not served by redis-lb: it keeps a server busy until it has looked at every \
         key. Use SCAN, or start redis-lb with --allow-keys",
    );
    let policy = Policy::new(&[table(REDIS_7, true)], Allowed { keys: true, ..NOTHING });
    assert_eq!(verdict(&policy, "keys *"), Verdict::Forward);
}

#[test]
fn scripts_and_functions_pass_only_where_they_are_allowed() {
    let off = redis_7();
    for name in ["EVAL_RO", "EVALSHA_RO"] {
        assert_refused(
            verdict(&off, format!("{name} s 0")),
            &format!("ERR {name} is not served by redis-lb: {}", rules::SCRIPTS_OFF),
        );
    }
    assert_refused(
        verdict(&off, "fcall_ro f 0"),
        &format!("ERR FCALL_RO is not served by redis-lb: {}", rules::FUNCTIONS_OFF),
    );
    assert!(rules::SCRIPTS_OFF.contains("--allow-scripts"));
    assert!(rules::FUNCTIONS_OFF.contains("--allow-scripts"));
    assert!(matches!(in_transaction(&off, "eval_ro s 0"), Verdict::Refuse(_)));
    assert_refused(
        verdict(&off, "eval_ro s"),
        "ERR wrong number of arguments for 'eval_ro' command",
    );
    let on = Policy::new(&[table(REDIS_7, true)], SCRIPTS);
    for allowed in ["eval_ro s 0", "EVALSHA_RO s 0", "fcall_ro f 0"] {
        assert_eq!(verdict(&on, allowed), Verdict::Forward, "{allowed}");
        assert_eq!(in_transaction(&on, allowed), Verdict::Forward, "{allowed}");
    }
    for (words, reason) in [
        ("eval s 0", format!("EVAL is not served by redis-lb: {}", rules::SCRIPTS_OFF)),
        ("evalsha s 0", format!("EVALSHA is not served by redis-lb: {}", rules::SCRIPTS_OFF)),
        ("fcall f 0", format!("FCALL is not served by redis-lb: {}", rules::FUNCTIONS_OFF)),
    ] {
        assert_refused(verdict(&off, words), &format!("ERR {reason}"));
        assert_eq!(verdict(&on, words), Verdict::Forward, "{words}");
        assert_eq!(in_transaction(&on, words), Verdict::Forward, "{words}");
    }
    for (words, ours) in [
        ("script exists s", LocalCommand::ScriptExists),
        ("script load s", LocalCommand::ScriptLoad),
    ] {
        assert_eq!(verdict(&on, words), Verdict::Local(ours));
        assert_eq!(in_transaction(&on, words), Verdict::Forward, "{words}");
    }
    assert_eq!(verdict(&off, "script exists s"), Verdict::Forward);
    assert!(matches!(verdict(&off, "script load s"), Verdict::Refuse(_)));
    for policy in [off, on] {
        assert!(matches!(verdict(&policy, "script kill"), Verdict::Refuse(_)));
    }
    // Only some servers have it: that can't be helped by a flag.
    let both = Policy::new(&[table(REDIS_7, true), table(REDIS_6, false)], SCRIPTS);
    assert_refused(
        verdict(&both, "eval_ro s 0"),
        "ERR EVAL_RO is not served by redis-lb: not every backend knows this command",
    );
    assert!(matches!(verdict(&both, "eval s 0"), Verdict::Refuse(_)), "it would be sent as that");
}

/// What searches an index, as servers list it with and without the parts of FT.CURSOR.
const SEARCH: &[Listed] =
    &[("FT.AGGREGATE", -1, "readonly", &[]), ("FT.CURSOR", -1, "readonly", &[])];
const SEARCH_IN_PARTS: &[Listed] = &[
    ("FT.AGGREGATE", -1, "readonly", &[]),
    (
        "FT.CURSOR",
        -2,
        "readonly",
        &[("FT.CURSOR|READ", -4, "readonly"), ("FT.CURSOR|DEL", 4, "readonly")],
    ),
];

#[test]
fn searches_with_cursors_are_handled_where_servers_know_them() {
    let (page, cursor) = (LocalCommand::SearchPage, LocalCommand::SearchCursor);
    for listed in [SEARCH, SEARCH_IN_PARTS] {
        let policy = Policy::new(&[table(listed, true)], NOTHING);
        for (words, expected) in [
            ("ft.aggregate index *", Verdict::Forward),
            ("FT.AGGREGATE WITHCURSOR withcursor", Verdict::Forward),
            ("FT.AGGREGATE index * WithCursor COUNT 3", Verdict::Local(page)),
            ("FT.CURSOR READ index 7", Verdict::Local(cursor)),
            ("ft.cursor read index 7 COUNT 3", Verdict::Local(cursor)),
            ("ft.cursor Del index 7", Verdict::Local(cursor)),
        ] {
            assert_eq!(verdict(&policy, words), expected, "{words}");
        }
        assert!(matches!(in_transaction(&policy, "FT.CURSOR READ index 7"), Verdict::Refuse(_)));
    }
    let without = verdict(&redis_7(), "FT.CURSOR READ index 7");
    assert!(matches!(without, Verdict::Refuse(Refused { why: Refusal::UnknownCommand, .. })));
}

#[test]
fn xread_passes_and_is_the_sessions_if_it_blocks() {
    let blocking = Verdict::Local(LocalCommand::BlockingXread);
    for policy in [redis_7(), Policy::new(&[table(REDIS_6, false)], NOTHING)] {
        for (args, expected) in [
            ("streams block 0", &Verdict::Forward),
            ("count 2 streams k 0", &Verdict::Forward),
            ("count block streams k 0", &Verdict::Forward),
            ("block 0 streams k $", &blocking),
            ("count 2 Block 5 streams k $", &blocking),
            ("block\0x 0 streams k $", &blocking),
            ("nosuch block 0 streams k $", &blocking),
        ] {
            assert_eq!(&verdict(&policy, format!("xread {args}")), expected, "{args}");
        }
    }
    let policy = redis_7();
    let xread = "xread block 0 streams k $";
    let words: Vec<&str> = xread.split(' ').collect();
    let bytes = crate::resp::command(words[0]).args(&words[1..]).into_bytes();
    let mut parser = CommandParser::new(usize::MAX);
    let parsed = parser.parse(&bytes).expect("valid").1.expect("whole");
    assert_eq!(policy.verdict_in_transaction(&parsed), Verdict::Forward, "it does not block");
    let options = XreadOptions::of(&parsed);
    assert_eq!(options, XreadOptions { blocks: vec![1], streams: Some(3) });
}

#[test]
fn our_own_commands_are_ours_whatever_the_backends_say() {
    let nothing = Policy::new(&[], NOTHING);
    assert!(nothing.is_empty());
    assert!(!redis_7().is_empty());
    for policy in [nothing, redis_7()] {
        for (words, local) in [
            ("PING", LocalCommand::Ping),
            ("client SETINFO lib-name x", LocalCommand::ClientSetInfo),
            ("CLIENT no-touch on", LocalCommand::ClientOk),
            ("config get save", LocalCommand::ConfigGet),
            ("scan 0", LocalCommand::Scan { cursor_arg: 1 }),
            ("hscan k 0", LocalCommand::Scan { cursor_arg: 2 }),
            ("psubscribe a*", LocalCommand::Subscribe(Subscription::Pattern)),
        ] {
            assert_eq!(verdict(&policy, words), Verdict::Local(local), "{words}");
        }
        let error = "ERR wrong number of arguments for 'client|setinfo' command";
        assert_refused(verdict(&policy, "client setinfo x"), error);
        assert_eq!(verdict(&policy, "pOsT /"), Verdict::Close);
        assert_eq!(verdict(&policy, "Host: x"), Verdict::Close);
    }
}

#[test]
fn without_any_table_nothing_else_is_known() {
    let policy = Policy::new(&[], NOTHING);
    for words in ["get k", "foo", "client kill", "client", "config set a b"] {
        assert!(matches!(verdict(&policy, words), Verdict::Refuse(_)), "{words}");
    }
    assert_refused(verdict(&policy, "get k"), rules::NO_TABLE);
    assert_refused(verdict(&policy, "client kill"), rules::NO_TABLE);
}

#[test]
fn the_number_of_arguments_is_checked_before_whether_it_is_allowed() {
    let policy = redis_7();
    for (words, name) in [
        ("get", "get"),
        ("GET a b", "get"),
        ("set k", "set"),
        ("config", "config"),
        ("CONFIG Get", "config|get"),
        ("config set a", "config|set"),
        ("monitor x", "monitor"),
        ("time x", "time"),
    ] {
        let error = format!("ERR wrong number of arguments for '{name}' command");
        assert_refused(verdict(&policy, words), &error);
    }
    assert_refused(
        verdict(&policy, "exec x"),
        "EXECABORT Transaction discarded because of: wrong number of arguments for 'exec' command",
    );
}

#[test]
fn unknown_commands_are_quoted_as_redis_does() {
    let policy = redis_7();
    let long = "x".repeat(200);
    let cut = "x".repeat(128);
    for (words, error) in [
        ("FOO a b", "unknown command 'FOO', with args beginning with: 'a' 'b' ".to_owned()),
        ("F\0OO a\0 b\r\nc", "unknown command 'F', with args beginning with: 'a' 'b  c' ".into()),
        (&long, format!("unknown command '{cut}', with args beginning with: ")),
        (
            &format!("f {long} b"),
            format!("unknown command 'f', with args beginning with: '{cut}' "),
        ),
        ("config|get x", "unknown command 'config|get', with args beginning with: 'x' ".into()),
        ("coNfig foo\n", "unknown subcommand 'foo '. Try CONFIG HELP.".into()),
        (&format!("config {long}"), format!("unknown subcommand '{cut}'. Try CONFIG HELP.")),
    ] {
        assert_refused(verdict(&policy, words), &format!("ERR {error}"));
    }
    let error = b"ERR unknown command '\xff', with args beginning with: '\xfe' ".to_vec();
    assert_eq!(
        verdict(&policy, b"\xff\0 \xfe"),
        Verdict::Refuse(Refused::new(Refusal::UnknownCommand, error))
    );
}

#[test]
fn a_command_must_be_a_read_on_every_backend() {
    let module: &[Listed] = &[
        ("FT.SEARCH", -3, "readonly module", &[]),
        ("get", -2, "readonly", &[]),
        ("command", -1, "write", &[]),
        ("config", -2, "", &[("config|get", -2, "admin")]),
    ];
    let alone = Policy::new(&[table(module, true)], NOTHING);
    assert_eq!(verdict(&alone, "ft.search a b"), Verdict::Forward);
    assert_refused(
        verdict(&alone, "ft.search a"),
        "ERR wrong number of arguments for 'FT.SEARCH' command",
    );
    let both = Policy::new(&[table(module, true), table(REDIS_7, true)], NOTHING);
    assert_refused(
        verdict(&both, "ft.search a b"),
        "ERR FT.SEARCH is not served by redis-lb: not every backend knows this command",
    );
    assert_eq!(verdict(&both, "get a b"), Verdict::Forward, "the looser arity, for it to judge");
    assert_refused(verdict(&both, "command"), rules::READONLY);
    assert_refused(verdict(&both, "set k v"), rules::READONLY);
    assert!(matches!(verdict(&both, "eval_ro s 0"), Verdict::Refuse(_)));
    assert!(matches!(verdict(&both, "config set a b"), Verdict::Refuse(_)));
}

#[test]
fn of_an_older_server_the_subcommands_that_read_are_known() {
    let policy = Policy::new(&[table(REDIS_6, false)], NOTHING);
    for read in ["memory usage k", "memory help", "xgroup help", "cluster info"] {
        assert_eq!(verdict(&policy, read), Verdict::Forward, "{read}");
    }
    assert_refused(verdict(&policy, "xgroup create k g $"), rules::READONLY);
    assert_refused(
        verdict(&policy, "memory purge"),
        "ERR this subcommand of MEMORY is not served by redis-lb: \
         it is about the memory of one server",
    );
    for refused in ["config set a b", "cluster reset", "memory", "client kill"] {
        assert!(matches!(verdict(&policy, refused), Verdict::Refuse(_)), "{refused}");
    }
    assert_eq!(verdict(&policy, "post /"), Verdict::Close);
}

#[test]
fn in_a_transaction_few_commands_act_at_once() {
    let policy = redis_7();
    for queued in ["get k", "ping", "echo a", "time", "unwatch"] {
        assert_eq!(in_transaction(&policy, queued), Verdict::Forward, "{queued}");
    }
    for (words, local) in [
        ("multi", LocalCommand::Multi),
        ("EXEC", LocalCommand::Exec),
        ("watch k", LocalCommand::Watch),
    ] {
        assert_eq!(in_transaction(&policy, words), Verdict::Local(local));
    }
    for (words, name) in [
        ("select 3", "SELECT"),
        ("Client id", "CLIENT"),
        ("client help", "CLIENT"),
        ("command", "COMMAND"),
        ("scan 0", "SCAN"),
        ("subscribe c", "SUBSCRIBE"),
        ("readonly", "READONLY"),
    ] {
        let error = format!(
            "ERR {name} is not served inside MULTI by redis-lb: send it before MULTI or after EXEC"
        );
        assert_refused(in_transaction(&policy, words), &error);
    }
    assert_refused(in_transaction(&policy, "set k v"), rules::READONLY);
    assert_refused(
        in_transaction(&policy, "select"),
        "ERR wrong number of arguments for 'select' command",
    );
}

#[test]
fn what_is_no_list_of_commands_is_no_table() {
    for reply in [
        "",
        "*0\r\n",
        "*-1\r\n",
        "$-1\r\n",
        "-NOPERM no\r\n",
        "*1\r\n:1\r\n",
        "*1\r\n*1\r\n$3\r\nget\r\n",
        "*4000000000\r\n:1\r\n",
        "*1\r\n*3\r\n$3\r\nget\r\n:2\r\n:3\r\n",
    ] {
        assert!(CommandTable::parse(reply.as_bytes()).is_err(), "{reply:?}");
    }
    let extreme = format!("*1\r\n*3\r\n$3\r\nget\r\n:{}\r\n*0\r\n", i64::MIN);
    let extreme = Arc::new(CommandTable::parse(extreme.as_bytes()).expect("a table"));
    let policy = Policy::new(&[extreme, table(REDIS_7, true)], NOTHING);
    assert!(matches!(verdict(&policy, "get k"), Verdict::Refuse(_)));
}
