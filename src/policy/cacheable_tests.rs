use std::collections::BTreeSet;
use std::sync::Arc;

use super::*;
use crate::policy::{Allowed, CommandTable, Policy};
use crate::resp::{CommandBuilder, CommandParser, write};

/// A command as a server lists it.
#[derive(Clone, Copy)]
struct Listed {
    key: &'static str,
    flags: &'static str,
    /// First key, last key, step.
    range: [i64; 3],
    /// Number of key specifications, each with the same keys; `None` before Redis 7.
    specs: Option<usize>,
    spec_flags: &'static str,
}

const READ: Listed = Listed {
    key: "get",
    flags: "readonly fast",
    range: [1, 1, 1],
    specs: Some(1),
    spec_flags: "RO access",
};

fn words(out: &mut Vec<u8>, words: &str) {
    write::array(out, words.split_whitespace().count());
    words.split_whitespace().for_each(|word| write::simple(out, word));
}

impl Listed {
    fn named(name: &'static str) -> Self {
        let last = if matches!(name, "mget" | "exists") { -1 } else { 1 };
        Self { key: name, range: [1, last, 1], ..READ }
    }

    fn write(self, out: &mut Vec<u8>) {
        write::array(out, if self.specs.is_some() { 10 } else { 7 });
        write::bulk(out, self.key.as_bytes());
        write::integer(out, -2);
        words(out, self.flags);
        self.range.iter().for_each(|&number| write::integer(out, number));
        words(out, "@read");
        let Some(specs) = self.specs else { return };
        words(out, "");
        write::array(out, specs);
        (0..specs).for_each(|_| self.write_spec(out));
        words(out, "");
    }

    fn write_spec(self, out: &mut Vec<u8>) {
        let [first, last, step] = self.range;
        let last = if last < 0 { last } else { last - first };
        write::array(out, 6);
        write::bulk(out, b"flags");
        words(out, self.spec_flags);
        for (name, kind, numbers) in [
            ("begin_search", "index", &[("index", first)][..]),
            ("find_keys", "range", &[("lastkey", last), ("keystep", step), ("limit", 0)]),
        ] {
            write::bulk(out, name.as_bytes());
            write::array(out, 4);
            ["type", kind, "spec"].iter().for_each(|word| write::bulk(out, word.as_bytes()));
            write::array(out, 2 * numbers.len());
            for (name, number) in numbers {
                write::bulk(out, name.as_bytes());
                write::integer(out, *number);
            }
        }
    }
}

fn reply(rows: &[Listed]) -> Vec<u8> {
    let mut reply = Vec::new();
    write::array(&mut reply, rows.len());
    rows.iter().for_each(|row| row.write(&mut reply));
    reply
}

fn policy(tables: &[&[Listed]]) -> Policy {
    let table = |rows: &&[Listed]| Arc::new(CommandTable::parse(&reply(rows)).expect("a table"));
    Policy::new(&tables.iter().map(table).collect::<Vec<_>>(), Allowed::default())
}

/// What is kept of a command of words with spaces between them.
fn cached(policy: &Policy, words: &str) -> Option<CachedCommand> {
    let bytes = words.split(' ').collect::<CommandBuilder>().into_bytes();
    let mut parser = CommandParser::new(1024);
    let command = parser.parse(&bytes).expect("valid").1.expect("a whole command");
    policy.shape(&command).cached(&command)
}

fn all(specs: Option<usize>) -> Vec<Listed> {
    names().map(|name| Listed { specs, ..Listed::named(name) }).collect()
}

#[test]
fn each_command_has_a_number_of_its_own_however_its_name_is_written() {
    for specs in [None, Some(1)] {
        let policy = policy(&[&all(specs), &all(None)]);
        let mut numbers = BTreeSet::new();
        for name in names().filter(|name| *name != "mget") {
            let command = cached(&policy, &format!("{name} k")).expect(name);
            assert!(numbers.insert(command.number), "{name}");
            assert_eq!(command.kind, CachedKind::One, "{name}");
            let upper = format!("{} k a b c", name.to_ascii_uppercase());
            assert_eq!(cached(&policy, &upper).expect(name).number, command.number);
        }
        let hashes =
            names().filter(|name| cached(&policy, &format!("{name} k")).expect(name).is_hash);
        let hashes: Vec<_> = hashes.collect();
        assert_eq!(
            hashes,
            "hexists hget hgetall hkeys hlen hmget hstrlen hvals".split(' ').collect::<Vec<_>>()
        );
    }
}

#[test]
fn replies_of_several_keys_are_made_of_those_of_one() {
    let policy = policy(&[&all(Some(1))]);
    let [get, exists] = ["get k", "exists k"].map(|words| cached(&policy, words).expect("kept"));
    for mget in ["mget k", "MGET k l"] {
        assert_eq!(cached(&policy, mget), Some(CachedCommand { kind: CachedKind::Mget, ..get }));
    }
    let of_many = CachedCommand { kind: CachedKind::ExistsOfMany, ..exists };
    assert_eq!(cached(&policy, "exists k k"), Some(of_many));
}

#[test]
fn arguments_decide_about_the_form_of_some_replies() {
    let policy = policy(&[&all(Some(1))]);
    let form = |words| cached(&policy, words).map(|command| command.form);
    for (words, expected) in [
        ("zrank k m", Some(Frames)),
        ("zrank k m withscore", Some(NullArrays)),
        ("ZREVRANK k m x", Some(NullArrays)),
        ("hmget k f", Some(Frames)),
        ("geopos k m", Some(NullArrays)),
        ("zrange k 0 -1 withscores", Some(Pairs)),
        ("json.get k", Some(Text)),
        ("json.get format $.a", Some(Text)),
        ("json.get k $.a Format expand", None),
    ] {
        assert_eq!(form(words), expected, "{words}");
    }
}

#[test]
fn other_commands_are_not_kept() {
    let others =
        ["ttl", "object", "srandmember", "hscan", "sort_ro", "dump", "pfcount", "scan", "touch"];
    let policy = policy(&[&others.map(Listed::named)]);
    for name in others {
        assert_eq!(cached(&policy, &format!("{name} k")), None, "{name}");
    }
    assert_eq!(cached(&policy, "get k"), None, "no backend lists it");
}

#[test]
fn a_command_is_kept_only_if_each_backend_lists_it_as_a_read_of_the_first_argument_alone() {
    assert!(cached(&policy(&[&[READ], &[Listed { specs: None, ..READ }]]), "get k").is_some());
    for (what, other) in [
        ("no read", Listed { flags: "fast", ..READ }),
        ("a write", Listed { flags: "readonly write", ..READ }),
        ("no key", Listed { range: [0, 0, 0], specs: Some(0), ..READ }),
        ("no key before Redis 7", Listed { range: [0, 0, 0], specs: None, ..READ }),
        ("another key", Listed { range: [2, 2, 1], ..READ }),
        ("two keys", Listed { range: [1, 2, 1], ..READ }),
        ("many keys", Listed { range: [1, -1, 1], ..READ }),
        ("many keys before Redis 7", Listed { range: [1, -1, 1], specs: None, ..READ }),
        ("a second specification", Listed { specs: Some(2), ..READ }),
        ("keys that depend", Listed { spec_flags: "RO access incomplete", ..READ }),
        (
            "keys that depend before Redis 7",
            Listed { flags: "readonly movablekeys", specs: None, ..READ },
        ),
    ] {
        assert_eq!(cached(&policy(&[&[other]]), "get k"), None, "{what}");
        assert_eq!(cached(&policy(&[&[READ], &[other]]), "get k"), None, "{what}");
    }
    for name in ["mget", "exists"] {
        let kept = Listed::named(name);
        assert!(cached(&policy(&[&[kept]]), &format!("{name} k l")).is_some());
        for range in [[1, 1, 1], [1, -1, 2], [2, -1, 1], [1, -2, 1]] {
            let other = Listed { range, ..kept };
            assert_eq!(
                cached(&policy(&[&[kept], &[other]]), &format!("{name} k l")),
                None,
                "{range:?}"
            );
        }
    }
}

#[test]
fn another_command_under_the_name_is_not_kept() {
    let mut table = CommandTable::default();
    table.add(&[b"strlen".to_vec()], &reply(&[READ])).expect("a reply about it");
    let policy = Policy::new(&[Arc::new(table)], Allowed::default());
    assert_eq!(cached(&policy, "strlen k"), None);
}

#[test]
fn fields_have_a_time_to_live_if_any_backend_knows_it() {
    assert!(!policy(&[&[READ]]).has_field_ttl());
    assert!(policy(&[&[READ], &[READ, Listed::named("hpttl")]]).has_field_ttl());
}
