//! The way from all keys to a key, along the colons in its name.

use std::io::{self, Write};

use super::page::{link, shortened_to};
use crate::http::target::{link_to_keys, link_to_prefix};

/// Most levels that are shown.
const MAX_LEVELS: usize = 8;

/// Longest beginning of a key that gets a link.
const MAX_PREFIX_BYTES: usize = 1024;

/// Longest part of a name that is shown whole.
const LEVEL_BYTES: usize = 40;

/// What a page is about.
#[derive(Clone, Copy)]
pub(super) enum Subject<'a> {
    /// A key.
    Key(&'a [u8]),
    /// The keys that begin so.
    Prefix(&'a [u8]),
}

/// Writes the links to what is above the subject of a page in this database.
pub(super) fn write_crumbs(
    response: &mut impl Write,
    subject: Subject,
    database: Option<i64>,
) -> io::Result<()> {
    let all = match database {
        Some(number) => format!("All keys of database {number}"),
        None => "All keys".to_owned(),
    };
    let all = link(&link_to_keys(database), all);
    write!(response, "<nav class=\"crumbs\" aria-label=\"Breadcrumbs\"><ol><li>{all}</li>")?;
    let (Subject::Key(name) | Subject::Prefix(name)) = subject;
    let mut begin = 0;
    for end in levels(subject) {
        let to = link_to_prefix(&name[..end], database);
        let level = link(&to, shortened_to(LEVEL_BYTES, &name[begin..end]));
        write!(response, "<li class=\"mono\">{level}</li>")?;
        begin = end;
    }
    response.write_all(b"</ol></nav>\n")
}

/// Returns where the levels above a subject end: behind each colon. A key `a:` is below the keys that begin with it.
fn levels(subject: Subject) -> impl Iterator<Item = usize> {
    let (name, below) = match subject {
        Subject::Key(key) => (key, key.len()),
        Subject::Prefix(prefix) => (prefix, prefix.len().saturating_sub(1)),
    };
    let colons = name.iter().enumerate().filter(|(_, byte)| **byte == b':').map(|(at, _)| at + 1);
    colons.take_while(move |end| *end <= below.min(MAX_PREFIX_BYTES)).take(MAX_LEVELS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_colon_within_a_name_ends_a_level() {
        for (subject, expected) in [
            (Subject::Key(b"actor:1"), &[6][..]),
            (Subject::Key(b"actor:"), &[6]),
            (Subject::Prefix(b"actor:"), &[]),
            (Subject::Prefix(b"a:b:c"), &[2, 4]),
            (Subject::Key(b":a"), &[1]),
            (Subject::Key(b"::"), &[1, 2]),
            (Subject::Key(b""), &[]),
            (Subject::Prefix(b""), &[]),
        ] {
            assert_eq!(levels(subject).collect::<Vec<_>>(), expected);
        }
        assert_eq!(levels(Subject::Key(&[b':'; 70_000])).count(), MAX_LEVELS);
    }
}
