//! What users may run, by tables of servers of several versions. `tests/suite/acl_matrix.rs` has the commands of a
//! real one.

use std::sync::Arc;

use super::users::{User, Users};
use super::{Allowed, CommandTable, Denied, Lacking, Policy};
use crate::resp::{Command, CommandBuilder, CommandParser};

/// A value of RESP2, to make replies to `COMMAND` of.
enum Reply<'a> {
    Text(&'a str),
    Words(&'a str),
    Number(i64),
    List(Vec<Reply<'a>>),
}

use Reply::{List, Number, Text, Words};

impl Reply<'_> {
    fn write(&self, out: &mut String) {
        match self {
            Text(text) => *out += &format!("${}\r\n{text}\r\n", text.len()),
            Number(number) => *out += &format!(":{number}\r\n"),
            Words(words) => List(words.split_ascii_whitespace().map(Text).collect()).write(out),
            List(items) => {
                *out += &format!("*{}\r\n", items.len());
                items.iter().for_each(|item| item.write(out));
            }
        }
    }
}

fn table(rows: Vec<Reply>) -> Arc<CommandTable> {
    let mut reply = String::new();
    List(rows).write(&mut reply);
    Arc::new(CommandTable::parse(reply.as_bytes()).expect("a table"))
}

/// A row before Redis 6: name, arity, flags, first key, last key, step.
fn row_5<'a>(name: &'a str, flags: &'a str, [first, last, step]: [i64; 3]) -> Vec<Reply<'a>> {
    let keys = [Number(first), Number(last), Number(step)];
    [Text(name), Number(-1), Words(flags)].into_iter().chain(keys).collect()
}

fn row_6<'a>(name: &'a str, flags: &'a str, keys: [i64; 3], categories: &'a str) -> Vec<Reply<'a>> {
    let mut row = row_5(name, flags, keys);
    row.push(Words(categories));
    row
}

fn row_7<'a>(
    name: &'a str,
    flags: &'a str,
    categories: &'a str,
    specs: Vec<Reply<'a>>,
) -> Reply<'a> {
    let mut row = row_6(name, flags, [0; 3], categories);
    row.extend([List(vec![]), List(specs), List(vec![])]);
    List(row)
}

fn spec<'a>(
    flags: &'a str,
    begin: (&'a str, Vec<Reply<'a>>),
    find: (&'a str, Vec<Reply<'a>>),
) -> Reply<'a> {
    let search = |(kind, spec): (&'a str, Vec<Reply<'a>>)| {
        List(vec![Text("type"), Text(kind), Text("spec"), List(spec)])
    };
    let names = ["flags", "begin_search", "find_keys"].map(Text);
    let values = [Words(flags), search(begin), search(find)];
    List(names.into_iter().zip(values).flat_map(|(name, value)| [name, value]).collect())
}

fn index<'a>(index: i64) -> (&'a str, Vec<Reply<'a>>) {
    ("index", vec![Text("index"), Number(index)])
}

fn range<'a>([last, step, limit]: [i64; 3]) -> (&'a str, Vec<Reply<'a>>) {
    let fields = [
        Text("lastkey"),
        Number(last),
        Text("keystep"),
        Number(step),
        Text("limit"),
        Number(limit),
    ];
    ("range", fields.into())
}

fn keynum<'a>([at, first, step]: [i64; 3]) -> (&'a str, Vec<Reply<'a>>) {
    let fields = [
        Text("keynumidx"),
        Number(at),
        Text("firstkey"),
        Number(first),
        Text("keystep"),
        Number(step),
    ];
    ("keynum", fields.into())
}

fn redis_7() -> Arc<CommandTable> {
    table(vec![
        row_7("get", "readonly fast", "@read", vec![spec("RO access", index(1), range([0, 1, 0]))]),
        row_7("exists", "readonly fast", "@read", vec![spec("RO", index(1), range([-1, 1, 0]))]),
        row_7(
            "zdiff",
            "readonly movablekeys",
            "@read",
            vec![spec("RO access", index(1), keynum([0, 1, 1]))],
        ),
        row_7(
            "json.get",
            "readonly module",
            "@json",
            vec![spec("RW access update variable_flags", index(1), range([0, 1, 0]))],
        ),
        row_7(
            "movable.get",
            "readonly module movablekeys",
            "",
            vec![spec("RO access", index(1), range([0, 1, 0]))],
        ),
        row_7(
            "FT.SEARCH",
            "readonly module",
            "@search",
            vec![spec("RO access", index(1), range([0, 1, 0]))],
        ),
        row_7("ts.mget", "readonly module", "@timeseries", vec![]),
        row_7(
            "odd",
            "readonly",
            "@read",
            vec![
                spec("RO access", index(1), range([0, 1, 0])),
                spec("RO access incomplete", index(2), range([0, 1, 0])),
            ],
        ),
        row_7(
            "odder",
            "readonly",
            "@read",
            vec![spec("RO access", ("unknown", vec![]), ("unknown", vec![]))],
        ),
        row_7(
            "shard",
            "readonly",
            "@read",
            vec![
                spec("not_key", index(1), range([0, 1, 0])),
                spec("RO access", index(2), range([0, 1, 0])),
            ],
        ),
        row_7("lolwut", "readonly fast", "@read @fast", vec![]),
    ])
}

fn redis_6() -> Arc<CommandTable> {
    let rows = [
        row_6("get", "readonly fast", [1, 1, 1], "@read"),
        row_6("mget", "readonly fast", [1, -1, 1], "@read"),
        row_6("zdiff", "readonly movablekeys", [0; 3], "@read"),
        row_6("object", "readonly random", [2, 2, 1], "@keyspace @read"),
        row_6("cluster", "admin random stale", [0; 3], "@admin @dangerous"),
        row_6("role", "readonly fast", [0; 3], "@fast @dangerous"),
    ];
    table(rows.into_iter().map(List).collect())
}

fn redis_5() -> Arc<CommandTable> {
    table(vec![List(row_5("get", "readonly fast", [1, 1, 1]))])
}

fn user(rules: &str) -> Arc<User> {
    let users = Users::from_entries(&[("alice".into(), rules.into())]);
    let users = users.unwrap_or_else(|error| panic!("{rules}: {error}"));
    Arc::clone(users.get(b"alice").expect("the user"))
}

fn with_command<T>(words: &str, decide: impl FnOnce(&Command) -> T) -> T {
    let bytes = words.split(' ').collect::<CommandBuilder>().into_bytes();
    let mut parser = CommandParser::new(1024);
    decide(&parser.parse(&bytes).expect("valid").1.expect("a whole command"))
}

fn permits(tables: &[Arc<CommandTable>], rules: &str, words: &str) -> Result<(), Denied> {
    let policy = Policy::new(tables, Allowed { keys: true, scripts: true });
    with_command(words, |command| policy.permits(&user(rules), command))
}

fn assert_table(tables: &[Arc<CommandTable>], cases: &[(&str, &str, Result<(), Lacking>)]) {
    for (rules, words, expected) in cases {
        let found = permits(tables, rules, words).map_err(|denied| denied.lacking);
        assert_eq!(found, *expected, "{rules}: {words}");
    }
}

const COMMAND: Result<(), Lacking> = Err(Lacking::Command);
const KEY: Result<(), Lacking> = Err(Lacking::Key);
const CHANNEL: Result<(), Lacking> = Err(Lacking::Channel);

#[test]
fn keys_are_found_by_the_specifications_of_redis_7() {
    assert_table(
        &[redis_7()],
        &[
            ("+@read ~a", "get a", Ok(())),
            ("+@read ~a", "GET b", KEY),
            ("+@read %W~b ~a", "get b", KEY),
            ("+@read %W~b ~a", "exists b a", Ok(())),
            ("+@read ~a", "exists a c", KEY),
            ("+@read ~a", "zdiff 2 a a b", Ok(())),
            ("+@read ~a", "zdiff 2 a b", KEY),
            ("+@all ~a", "shard b a", Ok(())),
            ("+@all ~a", "shard a b", KEY),
            ("+@all ~a", "lolwut", Ok(())),
            ("+@all ~a", "scan 0", Ok(())),
            ("+@all ~a", "json.get a", Ok(())),
            ("+@all %R~a", "json.get a", KEY),
        ],
    );
}

#[test]
fn a_command_whose_keys_can_not_be_known_is_for_those_who_read_all() {
    let commands = [
        "zdiff 3 a b",
        "zdiff 0 a",
        "zdiff x a",
        "zdiff -1 a",
        "zdiff 99999999999999999999 a",
        "movable.get a",
        "ft.search a *",
        "ts.mget filter x",
        "odd a a",
        "odder a",
    ];
    for words in commands {
        assert_table(
            &[redis_7()],
            &[("+@all ~a", words, KEY), ("+@all ~*", words, Ok(())), ("+@all %R~*", words, Ok(()))],
        );
    }
    let denied = permits(&[redis_7()], "+@all ~a", "ft.search a *").expect_err("denied");
    assert_eq!(
        String::from_utf8_lossy(&denied.error),
        "NOPERM User alice has no permissions to run the 'FT.SEARCH' command: redis-lb can't tell \
         which keys it reads, and this user may not read all keys"
    );
}

#[test]
fn of_servers_before_redis_7_first_and_last_key_are_known() {
    assert_table(
        &[redis_6()],
        &[
            ("+@read ~a", "get a", Ok(())),
            ("+@read ~a", "get b", KEY),
            ("+@read %R~a", "mget a a", Ok(())),
            ("+@read ~a", "mget a b", KEY),
            ("+@read ~a", "zdiff 1 a", KEY),
            ("+@read ~*", "zdiff 1 b", Ok(())),
            ("+@read ~a", "object freq a", Ok(())),
            ("+@read ~a", "object freq b", KEY),
            ("+@read ~a", "object help", Ok(())),
            ("+@all ~a -object|freq", "object freq a", COMMAND),
            ("+@all ~a -object|freq", "object encoding a", Ok(())),
            ("+@all ~a", "cluster getkeysinslot 1 1", KEY),
            ("+@all ~a", "cluster info", Ok(())),
            ("+@all ~a -@dangerous", "cluster info", COMMAND),
            ("+@all ~a", "role", Ok(())),
        ],
    );
    // Redis 5 has no categories: a rule that takes one away holds, and one that grants it does not.
    assert_table(
        &[redis_5()],
        &[
            ("+@all ~a", "get a", Ok(())),
            ("+@all ~a", "get b", KEY),
            ("+@read ~a", "get a", COMMAND),
            ("+@all -@write ~a", "get a", COMMAND),
            ("+@all -@write +get ~a", "get a", Ok(())),
        ],
    );
}

#[test]
fn all_servers_must_permit_it() {
    assert_table(
        &[redis_7(), redis_6(), redis_5()],
        &[
            ("+get ~a", "get a", Ok(())),
            ("+@read ~a", "get a", COMMAND),
            ("+get ~a", "get b", KEY),
            ("+zdiff ~a", "zdiff 1 a", KEY),
        ],
    );
}

#[test]
fn what_a_session_answers_is_permitted_with_or_without_servers() {
    for tables in [&[][..], &[redis_7()], &[redis_6()]] {
        assert_table(
            tables,
            &[
                ("", "ping", COMMAND),
                ("+@connection", "ping", Ok(())),
                ("+@connection", "client id", Ok(())),
                ("+client -client|id", "client id", COMMAND),
                ("+client -client|id", "client getname", Ok(())),
                ("+@all -@dangerous", "info", COMMAND),
                ("+@all -@dangerous", "select 1", Ok(())),
                ("+select|1", "select 1", Ok(())),
                ("+select|1", "select 2", COMMAND),
                ("+select|1 -select", "select 1", COMMAND),
                ("-@all", "auth x", Ok(())),
                ("-@all", "hello 3", Ok(())),
                ("-@all -quit", "quit", Ok(())),
                ("-@all", "reset", Ok(())),
                ("+@all ~a", "watch a", Ok(())),
                ("+@all ~a", "watch a b", KEY),
                ("+@all ~a", "hscan b 0", KEY),
                ("+@all &a*", "subscribe a1 a2", Ok(())),
                ("+@all &a*", "subscribe a1 b", CHANNEL),
                ("+@all &a*", "psubscribe a*", Ok(())),
                ("+@all &a*", "psubscribe a1", CHANNEL),
                ("+@all &a*", "ssubscribe b", CHANNEL),
                ("+@all &a*", "unsubscribe b", Ok(())),
                // It does not exist, or has too few arguments: the verdict says so.
                ("", "nosuch x", Ok(())),
            ],
        );
    }
}

#[test]
fn a_part_of_a_command_that_has_none_takes_the_command() {
    assert_table(
        &[redis_7()],
        &[
            ("+@all -select|1", "select 0", COMMAND),
            ("+@all -select|1 +select", "select 1", Ok(())),
            ("~* +@all -get|a +get|b", "get b", Ok(())),
            ("~* +@all -get|a +get|b", "get a", COMMAND),
        ],
    );
}

#[test]
fn errors_are_those_of_redis_and_of_the_selector_that_permits_most() {
    for (rules, words, error) in [
        ("", "get a", "NOPERM User alice has no permissions to run the 'get' command"),
        ("", "CLIENT ID", "NOPERM User alice has no permissions to run the 'client|id' command"),
        ("+get", "get a", "NOPERM No permissions to access a key"),
        ("(+get ~b)", "get a", "NOPERM No permissions to access a key"),
        ("+get ~b (+exists)", "get a", "NOPERM No permissions to access a key"),
        ("+subscribe", "subscribe a", "NOPERM No permissions to access a channel"),
        ("(+subscribe) (+get)", "subscribe a", "NOPERM No permissions to access a channel"),
    ] {
        let denied = permits(&[redis_7()], rules, words).expect_err(words);
        assert_eq!(String::from_utf8_lossy(&denied.error), error);
    }
    // One selector must permit all of it.
    assert_table(
        &[redis_7()],
        &[
            ("+exists ~a (+exists ~b)", "exists a b", KEY),
            ("+exists ~a (+exists ~b)", "exists b b", Ok(())),
            ("+exists ~a (+get ~b)", "exists b", KEY),
        ],
    );
}

#[test]
fn commands_that_no_server_knows_are_named() {
    let rules = "+get -nosuch +client|id -client|nosuch +select|1 +@all -ft.search (-gte ~a) +config|get \
        -object|freq -object|nosuch";
    for (tables, expected) in [
        (&[][..], &[][..]),
        (&[redis_7()], &["client|nosuch", "gte", "nosuch", "object|freq", "object|nosuch"]),
        (&[redis_7(), redis_6()], &["client|nosuch", "gte", "nosuch"]),
    ] {
        let policy = Policy::new(tables, Allowed::default());
        // What an older server has as subcommands is not known.
        let rules = rules.replace(" +@all", "");
        assert_eq!(policy.unknown_commands(&user(&rules)), expected);
    }
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_specification_of_a_server_and_no_command_breaks_it(
            begin in any::<i64>(), small in -3i64..4, fields in any::<[i64; 3]>(), few in prop::array::uniform3(-3i64..4),
            words in "[a0-9-]{1,3}( [a0-9-]{1,3}){0,5}",
        ) {
            let begins = [index(begin), index(small), ("keyword", vec![Text("keyword"), Text("a"), Text("startfrom"), Number(small)])];
            for first in begins {
                for find in [range(fields), range(few), keynum(fields), keynum(few)] {
                    let first = (first.0, first.1.iter().map(|reply| match reply {
                        Number(number) => Number(*number),
                        Text(text) => Text(text),
                        _ => Number(0),
                    }).collect());
                    let specs = vec![spec("RO access", first, find)];
                    let table = table(vec![row_7("get", "readonly", "@read", specs)]);
                    let _ = permits(&[table], "+@all ~b", &format!("get {words}"));
                }
            }
        }
    }
}
