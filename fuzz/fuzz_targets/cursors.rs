//! Fuzzes cursors, links of pages and the tags of servers. Each line of the input is a cursor, a URL
//! and the run id of a server.
//!
//! A cursor must survive a round trip, a link must lead to the page that it was made for, and each
//! server must have a tag of its own that does not depend on the order of servers.

#![no_main]

use std::collections::BTreeSet;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use redis_lb::balance::cursor;
use redis_lb::http::target::{self, PageQuery, Target};

/// Larger integers are not exact in a double.
const MAX_CURSOR: u64 = 1 << 53;

const MAX_SERVERS: usize = 64;

fuzz_target!(|data: &[u8]| {
    for line in data.split(|&byte| byte == b'\n').take(MAX_SERVERS) {
        check_cursor(line);
        if let Ok(text) = std::str::from_utf8(line) {
            check_page(text);
            check_page(&format!("/?cursor={text}"));
        }
    }
    check_tags(data);
});

fn check_cursor(text: &[u8]) {
    let Some(number) = cursor::parse(text) else { return };
    assert_eq!(cursor::parse(number.to_string().as_bytes()), Some(number));
    let (position, tag) = cursor::split(number);
    match cursor::join(position, tag) {
        Some(0) => assert_eq!(position, 0),
        Some(joined) => assert!(joined == number && joined < MAX_CURSOR),
        None => assert!(number >= MAX_CURSOR),
    }
    // Here the number is the position that a server returned.
    if let Some(joined) = cursor::join(number, tag).filter(|_| number != 0) {
        assert_eq!(cursor::split(joined), (number, tag));
    }
}

fn check_page(text: &str) {
    let Some(page) = page(text) else { return };
    let Some(cursor) = &page.cursor else { return };
    assert_eq!(self::page(&page.link(cursor)), Some(page));
}

fn page(text: &str) -> Option<PageQuery> {
    match target::parse(text, false) {
        Ok(Target::Page(page) | Target::Key(_, Some(page))) => Some(page),
        _ => None,
    }
}

/// Checks tags. Each line is a run id; an empty line stands for a server with an unknown one.
fn check_tags(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let ids = text.lines().take(MAX_SERVERS).map(|id| (!id.is_empty()).then(|| Arc::from(id)));
    let mut ids: Vec<Option<Arc<str>>> = ids.collect();
    let tags = cursor::tags(&ids);
    assert!(ids.iter().map(Option::is_some).eq(tags.iter().map(Option::is_some)));
    let known: Vec<u16> = tags.iter().copied().flatten().collect();
    assert_eq!(known.iter().collect::<BTreeSet<_>>().len(), known.len(), "two have the same tag");
    // A server listed twice has two tags, whose order is that of the list.
    if known.len() == ids.iter().flatten().collect::<BTreeSet<_>>().len() {
        ids.reverse();
        assert!(cursor::tags(&ids).into_iter().rev().eq(tags));
    }
}
