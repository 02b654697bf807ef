//! Which databases of a server have keys.

use super::page::link;
use crate::http::target::link_to_keys;
use crate::resp::command;
use crate::session::http::rights::{Rights, may_count};
use crate::text::figures::count;

/// Most databases that are named.
const MAX_NAMED: usize = 64;

/// A database that has keys.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Database {
    pub number: i64,
    pub keys: u64,
}

/// The databases of a server that have keys.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Databases {
    /// Those of which the user may know.
    pub named: Vec<Database>,
    /// Whether there are no others.
    pub are_all: bool,
}

/// Reads the databases that have keys from `INFO keyspace`, if that was told, as far as a user may know of them.
pub(super) fn readable_databases(info: Option<&str>, rights: Option<&Rights>) -> Databases {
    let Some(info) = info.filter(|_| may_count(rights)) else { return Databases::default() };
    let may_select = |number| {
        rights.is_none_or(|rights| rights.permits(command("SELECT").number(number)).is_ok())
    };
    let mut named: Vec<Database> = info.lines().filter_map(parse).collect();
    let count = named.len();
    named.retain(|one| may_select(one.number));
    named.truncate(MAX_NAMED);
    Databases { are_all: named.len() == count, named }
}

/// Parses a line such as `db0:keys=1319,expires=0,avg_ttl=0`.
fn parse(line: &str) -> Option<Database> {
    let (number, facts) = line.strip_prefix("db")?.split_once(':')?;
    let keys = facts.trim().split(',').find_map(|fact| fact.strip_prefix("keys="))?;
    Some(Database { number: number.parse().ok()?, keys: keys.parse().ok()? })
}

/// Returns links to these databases, as HTML: `3 (2 keys), 5 (1,319 keys)`.
pub(super) fn links<'d>(databases: impl IntoIterator<Item = &'d Database>) -> String {
    let link = |one: &Database| {
        let to = link(&link_to_keys(Some(one.number)), format!("database {}", one.number));
        format!("{to} ({})", count(one.keys, "key"))
    };
    databases.into_iter().map(link).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_and_their_keys_are_read_from_info() {
        let info =
            "# Keyspace\r\ndb0:keys=1319,expires=0,avg_ttl=0\r\ndb12:keys=1,expires=1\r\nx:y\r\n";
        let found = readable_databases(Some(info), None);
        let expected = [(0, 1319), (12, 1)].map(|(number, keys)| Database { number, keys });
        assert_eq!(found, Databases { named: expected.into(), are_all: true });
        assert!(links(&found.named).ends_with("<a href=\"/?db=12\">database 12</a> (1 key)"));
        assert!(!readable_databases(None, None).are_all, "INFO was not permitted");
    }
}
