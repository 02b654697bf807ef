//! The rules of users beside those of a real Redis: for each command that it lists, and for many sets of rules, both
//! permit the same. The server is asked by `ACL DRYRUN`.

use std::collections::BTreeSet;
use std::sync::Arc;

use redis::Value;
use redis_lb::policy::users::{User, Users};
use redis_lb::policy::{Allowed, CommandTable, Lacking, Policy, Verdict};
use redis_lb::resp::{Command, CommandBuilder, CommandParser};

use crate::support::redis::RedisServer;
use crate::support::resp::{RespClient, encode};

/// Commands that sit between both: they may show any key, so users who may not read all keys are refused, whatever
/// Redis says.
const SHOW_ANY_KEY: &[&str] = &[
    "cluster|getkeysinslot",
    "eval",
    "eval_ro",
    "evalsha",
    "evalsha_ro",
    "fcall",
    "fcall_ro",
    "keys",
    "randomkey",
];

/// Rules for one user each, as `ACL SETUSER` takes them after `reset on nopass`.
const RULES: &[&str] = &[
    "",
    "~* &* +@all",
    "allkeys allchannels allcommands",
    "~* +@all",
    "&* +@all",
    "+@all",
    "~* &* +@all -@dangerous",
    "~* &* +@read -@slow",
    "~* &* +@all -@write -@admin",
    "~* &* -@all +@read +@connection",
    "~* &* +@all -@all +get",
    "~* &* +@all -config +config|get",
    "~* &* +@all -config|get",
    "~* &* +config|get -config",
    "~* &* +client -client|id",
    "~* &* -@all +client|id +command|docs +object|encoding",
    "~* &* +@slow -@connection",
    "~* &* +@fast +@slow -object",
    "~* &* -@all +select|0 +get|a:1",
    "~* &* -@all +select|0 +@connection -@fast",
    "~* &* +@all -select +select|1",
    "~* &* +@all -select -ping -hello -auth -reset -quit",
    "~a:* +@all",
    "~a:* +@read &news",
    "~a:* ~b:* resetkeys ~w:* +@all &*",
    "~a* +@all allkeys resetkeys ~b:?",
    "%R~a:* +@all",
    "%W~a:* %R~b:* +@all",
    "%RW~a:* %R~w:* %W~b:* +@read +@pubsub &news &a:*",
    "%R~a:* %W~a:* +@all",
    "%R~* +@all",
    "%W~* %R~a:* +@all",
    "~[ab]:? +@all &[an]*",
    "~\\a:1 +@all &\\*",
    "~a:* +@all &* resetchannels &b:*",
    "+@all ~a:1 (~b:* +get +mget) (%R~w:* +@read -mget)",
    "+get ~a:* (+@all ~b:* &b:*) (+@pubsub &a:*)",
    "-@all (~* +@read) (&* +@pubsub)",
    "~a:* +exists +type (~b:* +@read) clearselectors (~w:* +@read -hscan)",
    "(%R~a:* +@all) (%W~b:* +@all) ~w:* +eval_ro +keys +scan",
    "~a:* +zdiff +zinter +sintercard +xread +lcs +sort_ro +georadius_ro +watch +hscan +memory +object",
];

/// The words that stand for each key, in turn; and for other arguments, if there is no key.
const KEYS: &[&[&str]] =
    &[&["a:1"], &["b:1"], &["a:1", "b:1"], &["b:1", "w:1"], &["w:1"], &["*"], &["news"], &["0"]];

/// A command or subcommand that the server lists.
struct Listed {
    /// `get`, `config|get`
    name: String,
    arity: i64,
    specs: Vec<Spec>,
}

/// Where some keys of a command are.
#[derive(Debug)]
struct Spec {
    begin: Begin,
    find: Find,
}

#[derive(Debug)]
enum Begin {
    Index(usize),
    Keyword(String),
}

#[derive(Debug)]
enum Find {
    Range { last: i64, step: usize, limit: usize },
    Number { at: usize, first: usize },
}

fn text(value: &Value) -> String {
    redis::from_redis_value_ref(value).expect("text")
}

fn array(value: &Value) -> &[Value] {
    let Value::Array(items) = value else { panic!("no array: {value:?}") };
    items
}

fn field<'a>(value: &'a Value, name: &str) -> &'a Value {
    let fields: Vec<_> = array(value).chunks(2).collect();
    let found = fields.iter().find(|field| text(&field[0]) == name);
    &found.unwrap_or_else(|| panic!("no {name} in {value:?}"))[1]
}

fn number<T: TryFrom<i64>>(value: &Value, name: &str) -> T {
    let Value::Int(number) = field(value, name) else { panic!("no number: {value:?}") };
    T::try_from(*number).ok().expect("a number in bounds")
}

/// Reads a key specification that says where keys are.
fn spec(value: &Value) -> Option<Spec> {
    let [begin, find] = ["begin_search", "find_keys"].map(|name| field(value, name));
    let [begin_type, find_type] = [begin, find].map(|search| text(field(search, "type")));
    let [begin, find] = [begin, find].map(|search| field(search, "spec"));
    Some(Spec {
        begin: match begin_type.as_str() {
            "index" => Begin::Index(number(begin, "index")),
            "keyword" => Begin::Keyword(text(field(begin, "keyword"))),
            _ => return None,
        },
        find: match find_type.as_str() {
            "range" => Find::Range {
                last: number(find, "lastkey"),
                step: number(find, "keystep"),
                limit: number(find, "limit"),
            },
            "keynum" => {
                Find::Number { at: number(find, "keynumidx"), first: number(find, "firstkey") }
            }
            _ => return None,
        },
    })
}

fn add_listed(rows: &Value, all: &mut Vec<Listed>) {
    for row in array(rows) {
        let [name, Value::Int(arity), .., specs, subcommands] = array(row) else {
            panic!("{row:?}")
        };
        let specs = array(specs).iter().filter_map(spec).collect();
        all.push(Listed { name: text(name), arity: *arity, specs });
        add_listed(subcommands, all);
    }
}

fn list(server: &RedisServer) -> Vec<Listed> {
    let mut all = Vec::new();
    add_listed(&server.command(&["COMMAND"]), &mut all);
    assert!(all.len() > 300, "{} commands", all.len());
    all
}

impl Listed {
    /// The command with these words as its keys, in turn, and in place of its other arguments if it has no keys.
    fn with_keys(&self, keys: &[&str]) -> Vec<String> {
        let mut args: Vec<String> = self.name.split('|').map(str::to_owned).collect();
        let least = self.arity.unsigned_abs() as usize;
        let filler = if self.specs.is_empty() { keys[0] } else { "1" };
        args.resize(least.max(args.len()), filler.to_owned());
        let mut count = 0;
        let mut next_key = || {
            count += 1;
            keys[(count - 1) % keys.len()].to_owned()
        };
        for spec in &self.specs {
            spec.put_keys(&mut args, self.arity, &mut next_key);
        }
        args
    }
}

impl Spec {
    fn put_keys(&self, args: &mut Vec<String>, arity: i64, next_key: &mut impl FnMut() -> String) {
        let put = |args: &mut Vec<String>, at: usize, word: String| {
            args.resize(args.len().max(at + 1), "1".to_owned());
            args[at] = word;
        };
        let first = match &self.begin {
            Begin::Index(index) => *index,
            Begin::Keyword(word) => {
                args.push(word.clone());
                args.len()
            }
        };
        match self.find {
            Find::Number { at, first: after } => {
                put(args, first + at, "2".to_owned());
                (0..2).for_each(|number| put(args, first + after + number, next_key()));
            }
            // Half of what follows are keys, the others are positions in them.
            Find::Range { limit: 2, .. } => {
                (0..2).for_each(|number| put(args, first + number, next_key()));
                args.extend(["0".to_owned(), "0".to_owned()]);
            }
            Find::Range { last, step, .. } => {
                if last < 0 && arity < 0 {
                    let least = (first + 2 * step).max(args.len());
                    args.resize(least, "1".to_owned());
                }
                let end = match usize::try_from(last) {
                    Ok(last) => first + last,
                    Err(_) => args.len() - last.unsigned_abs() as usize,
                };
                (first..=end).step_by(step).for_each(|at| put(args, at, next_key()));
            }
        }
    }
}

/// The kind of permission that is lacking, by the answer to `ACL DRYRUN`; `None` if the server does not know the command
/// or takes another number of arguments.
fn dry_run_result(reply: &[u8]) -> Option<Result<(), Lacking>> {
    let reply = String::from_utf8_lossy(reply);
    let reply = reply.trim_end();
    Some(match reply {
        "+OK" => Ok(()),
        _ if reply.starts_with('-') => return None,
        _ if reply.contains(" no permissions to run the ") => Err(Lacking::Command),
        _ if reply.ends_with("' key") => Err(Lacking::Key),
        _ if reply.ends_with("' channel") => Err(Lacking::Channel),
        _ => panic!("{reply}"),
    })
}

/// Runs a function with a command as a client sends it.
fn with_command<T>(args: &[impl AsRef<[u8]>], decide: impl FnOnce(&Command) -> T) -> T {
    let bytes = args.iter().collect::<CommandBuilder>().into_bytes();
    let mut parser = CommandParser::new(usize::MAX);
    decide(&parser.parse(&bytes).expect("valid").1.expect("a whole command"))
}

/// A server with the policy that its commands make.
struct Beside {
    server: RedisServer,
    client: RespClient,
    policy: Policy,
}

impl Beside {
    fn start() -> Self {
        let server = RedisServer::start();
        let mut client = RespClient::connect(server.port());
        let table = CommandTable::parse(&client.command(&["COMMAND"])).expect("commands");
        let policy = Policy::new(&[Arc::new(table)], Allowed { keys: true, scripts: true });
        Self { server, client, policy }
    }

    /// Whether the command is served, if the user may send it.
    fn serves(&self, args: &[String]) -> bool {
        let verdict = with_command(args, |command| self.policy.verdict(command));
        matches!(verdict, Verdict::Forward | Verdict::Local(_))
    }

    fn lacking(&self, user: &User, args: &[impl AsRef<[u8]>]) -> Result<(), Lacking> {
        let denied = with_command(args, |command| self.policy.permits(user, command));
        denied.map_err(|denied| denied.lacking)
    }

    /// Sets a user of the server; returns its error if it refuses the rules.
    fn set_user(&mut self, name: &str, rules: &str) -> Result<(), String> {
        let mut args = vec!["ACL", "SETUSER", name, "reset", "on", "nopass"];
        args.extend(rules.split_ascii_whitespace());
        match self.client.command(&args).as_slice() {
            b"+OK\r\n" => Ok(()),
            error => Err(String::from_utf8_lossy(error).into_owned()),
        }
    }

    /// What the server says of these commands of a user.
    fn dry_run(
        &mut self,
        user: &str,
        commands: &[Vec<String>],
    ) -> Vec<Option<Result<(), Lacking>>> {
        let mut results = Vec::new();
        for some in commands.chunks(500) {
            let bytes: Vec<u8> = some
                .iter()
                .flat_map(|args| {
                    let dry_run = ["ACL", "DRYRUN", user].into_iter();
                    encode(&dry_run.chain(args.iter().map(String::as_str)).collect::<Vec<_>>())
                })
                .collect();
            self.client.send_raw(bytes);
            results.extend(some.iter().map(|_| dry_run_result(&self.client.reply())));
        }
        results
    }
}

fn users(rules: &[(String, String)]) -> Users {
    Users::from_entries(rules).unwrap_or_else(|error| panic!("{error}"))
}

/// The rules of all users, by name: those above, and for each category one that has it alone and one that lacks it.
fn all_rules(beside: &mut Beside) -> Vec<(String, String)> {
    let reply = redis::parse_redis_value(&beside.client.command(&["ACL", "CAT"])).expect("names");
    let categories: Vec<String> = array(&reply).iter().map(text).collect();
    assert!(categories.len() > 20, "{categories:?}");
    let by_category = categories
        .iter()
        .flat_map(|name| [format!("~* &* +@{name}"), format!("~* &* +@all -@{name}")]);
    let rules = RULES.iter().map(|&rules| rules.to_owned()).chain(by_category);
    rules
        .enumerate()
        .map(|(at, rules)| (format!("user-{at}"), format!("on nopass {rules}")))
        .collect()
}

#[test]
fn users_may_run_what_redis_lets_them_run() {
    let mut beside = Beside::start();
    let listed = list(&beside.server);
    let rules = all_rules(&mut beside);
    for (name, rules) in &rules {
        beside.set_user(name, rules).unwrap_or_else(|error| panic!("{rules}: {error}"));
    }
    // What ACL LIST prints can be used as it is.
    let printed =
        redis::parse_redis_value(&beside.client.command(&["ACL", "LIST"])).expect("users");
    let printed: Vec<String> = array(&printed).iter().map(text).collect();
    let both = [
        users(&rules),
        Users::parse_acl_file(&printed.join("\n")).unwrap_or_else(|error| panic!("{error}")),
    ];
    let mut commands: Vec<(usize, Vec<String>)> = Vec::new();
    for (at, command) in listed.iter().enumerate() {
        let all = KEYS.iter().map(|keys| command.with_keys(keys));
        commands.extend(all.filter(|args| beside.serves(args)).map(|args| (at, args)));
    }
    commands.dedup();
    let args: Vec<Vec<String>> = commands.iter().map(|(_, args)| args.clone()).collect();
    let mut seen = BTreeSet::new();
    let (mut compared, mut differences) = (0, Vec::new());
    for (name, rules) in &rules {
        let expected = beside.dry_run(name, &args);
        for ((at, args), expected) in commands.iter().zip(expected) {
            let expected = expected.unwrap_or_else(|| panic!("DRYRUN does not take {args:?}"));
            let command = listed[*at].name.as_str();
            for users in &both {
                let user = users.get(name.as_bytes()).expect("the user");
                let found = beside.lacking(user, args);
                let shows_any = SHOW_ANY_KEY.iter().find(|name| **name == command);
                compared += 1;
                if found == expected {
                    continue;
                }
                match shows_any {
                    Some(name) if found == Err(Lacking::Key) && !user.sees_all_keys() => {
                        seen.insert(*name);
                    }
                    _ => differences
                        .push(format!("{rules}: {args:?}: {found:?}, Redis {expected:?}")),
                }
            }
        }
    }
    differences.truncate(30);
    assert!(differences.is_empty(), "{differences:#?}");
    assert!(compared > 100_000, "{compared}");
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), SHOW_ANY_KEY, "each deviation is one");
}

/// Words of which rules are made at random.
const RULE_WORDS: &[&str] = &[
    "+@all",
    "-@all",
    "+@read",
    "-@read",
    "+@slow",
    "-@fast",
    "+@dangerous",
    "-@connection",
    "+get",
    "-get",
    "+GET",
    "+config",
    "-config",
    "+config|get",
    "-config|get",
    "+client",
    "-client|id",
    "+Client|Id",
    "+select",
    "-select",
    "+select|0",
    "+select|1",
    "-select|1",
    "+get|a",
    "+object",
    "-object|freq",
    "+a|b|c",
    "+config|",
    "+config|get|x",
    "+@nosuch",
    "~*",
    "~a:*",
    "~b",
    "%R~a:*",
    "%W~a:*",
    "%rw~b*",
    "%RR~a",
    "%X~a",
    "%~a",
    "%",
    "%*",
    "resetkeys",
    "allkeys",
    "&*",
    "&a",
    "&a:*",
    "resetchannels",
    "allchannels",
    "allcommands",
    "nocommands",
    "reset",
    "on",
    "off",
    "nopass",
    "resetpass",
    ">one",
    "<one",
    ">two",
    "(+get ~b:*)",
    "(~a:* +@read -get)",
    "(+@all (",
    "(+get",
    "+mget)",
    "(on)",
    "()",
    "clearselectors",
    "CLEARSELECTORS",
    "(%R~w:* +@all &a)",
    "foo",
    "#ab",
    "sanitize-payload",
    "skip-sanitize-payload",
];

/// Commands by which users of random rules are told apart.
const PROBES: &[&str] = &[
    "get a:1",
    "get b:1",
    "get b",
    "mget a:1 w:1",
    "mget a:1 b:1",
    "exists a:1",
    "exists b:1",
    "object freq a:1",
    "object encoding a:1",
    "config get a",
    "client id",
    "client getname",
    "select 0",
    "select 1",
    "ping",
    "auth a",
    "hello",
    "info",
    "subscribe a",
    "subscribe a:1 a",
    "psubscribe a:*",
    "unsubscribe b",
    "time",
    "hscan w:1 0",
    "scan 0",
    "dbsize",
    "xread streams a:1 b:1 0 0",
];

#[test]
fn rules_in_any_order_mean_what_they_mean_to_redis() {
    let mut beside = Beside::start();
    let mut random = fastrand::Rng::with_seed(18);
    let probes: Vec<Vec<String>> =
        PROBES.iter().map(|words| words.split(' ').map(str::to_owned).collect()).collect();
    let (mut taken, mut refused, mut differences) = (0, 0, Vec::new());
    for _ in 0..6000 {
        let count = random.usize(1..9);
        let rules: Vec<&str> =
            (0..count).map(|_| *random.choice(RULE_WORDS).expect("a word")).collect();
        let rules = rules.join(" ");
        let is_taken = beside.set_user("random", &rules);
        let ours = Users::from_entries(&[("random".to_owned(), format!("on nopass {rules}"))]);
        let ours = match (&is_taken, ours) {
            (Ok(()), Ok(users)) => users,
            (Err(_), Err(_)) => {
                refused += 1;
                continue;
            }
            // A name may be that of a module's command, and so is kept.
            (Err(_), Ok(_)) if rules.contains("-select|1") => continue,
            (Ok(()), Err(error)) if error.to_string().contains("writing only") => continue,
            // Redis 7.0 forgets a selector that is not closed when another begins.
            (Ok(()), Err(error)) if error.to_string().contains("a selector has rules") => continue,
            (theirs, ours) => {
                differences.push(format!("{rules}: {:?}, Redis {theirs:?}", ours.map(drop)));
                continue;
            }
        };
        taken += 1;
        let user = ours.get(b"random").expect("the user");
        for (args, expected) in probes.iter().zip(beside.dry_run("random", &probes)) {
            let found = beside.lacking(user, args);
            if Some(found) != expected {
                differences.push(format!("{rules}: {args:?}: {found:?}, Redis {expected:?}"));
            }
        }
    }
    differences.truncate(30);
    assert!(differences.is_empty(), "{differences:#?}");
    assert!(taken > 1000 && refused > 300, "{taken} taken, {refused} refused");
}

#[test]
fn patterns_match_what_they_match_in_redis() {
    let mut beside = Beside::start();
    let mut random = fastrand::Rng::with_seed(18);
    let word = |random: &mut fastrand::Rng, letters: &str, longest: usize| -> String {
        let letters: Vec<char> = letters.chars().collect();
        let length = random.usize(0..=longest);
        (0..length).map(|_| letters[random.usize(0..letters.len())]).collect()
    };
    // A range of other bytes depends on the machine's `char`.
    let letters = if cfg!(target_arch = "x86_64") { "aab*?[]^-\\cé" } else { "aab*?[]^-\\c" };
    let mut matched = 0;
    for _ in 0..1500 {
        let pattern = word(&mut random, letters, 9);
        let rules = format!("+get %R~{pattern}");
        beside.set_user("random", &rules).expect("a pattern");
        let ours = users(&[("random".to_owned(), rules)]);
        let user = ours.get(b"random").expect("the user");
        let gets: Vec<Vec<String>> =
            (0..20).map(|_| vec!["get".to_owned(), word(&mut random, "aabc^-\\]é", 5)]).collect();
        for (args, expected) in gets.iter().zip(beside.dry_run("random", &gets)) {
            let found = beside.lacking(user, args);
            matched += usize::from(found.is_ok());
            assert_eq!(Some(found), expected, "{pattern}: {args:?}");
            assert_eq!(user.may_read_key(args[1].as_bytes()), found.is_ok(), "{pattern}: {args:?}");
        }
    }
    assert!(matched > 500, "{matched}");
}

#[test]
fn sort_ro_reads_other_keys_for_those_who_may_read_all_of_them() {
    let mut beside = Beside::start();
    let commands = [
        "sort_ro a",
        "sort_ro a by nosort",
        "sort_ro a by w*",
        "sort_ro a get #",
        "sort_ro a get w*",
        "sort_ro a limit 0 1 asc by w* get #",
        "sort_ro a desc alpha",
        "sort_ro b by w*",
        "sort_ro b",
        "sort_ro a BY w*->field",
        "sort_ro a limit 0 1",
        "sort_ro a by\0x w*",
    ];
    for rules in [
        "~a +@all",
        "%R~a +@all",
        "~* +@all",
        "%R~* +@all",
        "%W~* %R~a +@all",
        "~a +sort_ro (~* +get)",
        "~a +get (%R~* +sort_ro)",
        "~* +get",
    ] {
        beside.set_user("sorter", rules).expect("rules");
        let ours = users(&[("sorter".to_owned(), rules.to_owned())]);
        let user = ours.get(b"sorter").expect("the user");
        let mut client = RespClient::connect(beside.server.port());
        assert_eq!(client.call("AUTH sorter any"), "+OK\r\n");
        for words in commands {
            let args: Vec<&str> = words.split(' ').collect();
            let theirs = String::from_utf8_lossy(&client.command(&args)).into_owned();
            let ours = with_command(&args, |command| beside.policy.permits(user, command));
            let Err(denied) = ours else {
                assert!(theirs.starts_with('*'), "{rules}: {words}: {theirs}");
                continue;
            };
            let is_option = theirs.starts_with("-ERR ");
            let ours = format!("-{}\r\n", String::from_utf8_lossy(&denied.error));
            assert!(theirs.starts_with("-NOPERM ") || is_option, "{rules}: {words}: {theirs}");
            assert!(!is_option || ours == theirs, "{rules}: {words}: {ours} {theirs}");
        }
    }
}
