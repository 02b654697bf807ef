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

/// Reads the databases that have keys from `INFO keyspace`, as far as a user may know of them.
pub(super) fn readable_databases(info: &str, rights: Option<&Rights>) -> Vec<Database> {
    if !may_count(rights) {
        return Vec::new();
    }
    let may_select = |number| {
        rights.is_none_or(|rights| rights.permits(command("SELECT").number(number)).is_ok())
    };
    let databases = info.lines().filter_map(parse).filter(|one| may_select(one.number));
    databases.take(MAX_NAMED).collect()
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
        let found = readable_databases(info, None);
        let expected = [(0, 1319), (12, 1)].map(|(number, keys)| Database { number, keys });
        assert_eq!(found, expected);
        assert!(links(&found).ends_with("<a href=\"/?db=12\">database 12</a> (1 key)"));
    }
}
