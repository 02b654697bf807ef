//! Cursors of SCAN that carry their backend: shifted left by 16 bits, with a tag in the low bits.
//!
//! The tag is a hash of the server's `run_id`. So no table of cursors is needed: every session finds the server
//! again, this balancer after a restart, and other balancers in front of the same servers. A server that was
//! restarted has another `run_id`. Its old cursors would miss keys; their tag is unknown then, unless another
//! server has it by chance (1 in 65,536 for each server).

use std::sync::Arc;

/// Limit of `COUNT` in SCAN, HSCAN, SSCAN and ZSCAN: a server answers nobody else meanwhile. Redis takes the
/// number as a hint, so a client that asks for more gets shorter pages, and more of them.
pub const MAX_SCAN_COUNT: u64 = 10_000;

/// Number of low bits of a cursor that are its server's tag.
const TAG_BITS: u32 = 16;

/// Limit of cursors: some clients keep numbers in doubles, which are exact up to here.
const MAX_CURSOR: u64 = 1 << 53;

/// The tag of each server; `None` for a server whose `run_id` is not known. Tags are distinct: of two that would
/// be equal, the one of the greater `run_id` moves on.
pub fn tags(run_ids: &[Option<Arc<str>>]) -> Vec<Option<u16>> {
    let mut order: Vec<usize> = (0..run_ids.len()).collect();
    order.sort_by_key(|&index| &run_ids[index]);
    let mut tags = vec![None; run_ids.len()];
    for index in order {
        let Some(run_id) = &run_ids[index] else { continue };
        let mut tag = hash(run_id.as_bytes());
        while tags.contains(&Some(tag)) {
            tag = tag.wrapping_add(1);
        }
        tags[index] = Some(tag);
    }
    tags
}

/// 32-bit FNV-1a, its halves folded together.
fn hash(bytes: &[u8]) -> u16 {
    let hash = bytes
        .iter()
        .fold(0x811c_9dc5_u32, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    (hash >> 16) as u16 ^ hash as u16
}

/// Parses a cursor as Redis does: like C's `strtoull`, without blanks and overflow.
pub fn parse(text: &[u8]) -> Option<u64> {
    let digits = text.strip_prefix(b"+").or_else(|| text.strip_prefix(b"-")).unwrap_or(text);
    let is_number = digits.iter().all(u8::is_ascii_digit);
    let cursor = match digits {
        [] if text.is_empty() => 0,
        digits if is_number => std::str::from_utf8(digits).ok()?.parse().ok()?,
        _ => return None,
    };
    // No cursor of ours is negative.
    (cursor == 0 || !text.starts_with(b"-")).then_some(cursor)
}

/// Makes a client's cursor of a backend's; `None` if it would be too large. The end, 0, stays 0.
pub fn join(position: u64, tag: u16) -> Option<u64> {
    match position {
        0 => Some(0),
        _ if position < MAX_CURSOR >> TAG_BITS => Some(position << TAG_BITS | u64::from(tag)),
        _ => None,
    }
}

/// Splits a client's cursor into the backend's and the tag.
pub fn split(cursor: u64) -> (u64, u16) {
    (cursor >> TAG_BITS, cursor as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_as_it_went() {
        for position in [1, 17, 0xffff, (1 << 37) - 1] {
            for tag in [0, 1, u16::MAX] {
                let cursor = join(position, tag).expect("in range");
                assert!(cursor < MAX_CURSOR);
                assert_eq!(split(cursor), (position, tag));
            }
        }
        assert_eq!(join(0, 7), Some(0));
        assert_eq!(join(1 << 37, 7), None);
    }

    #[test]
    fn a_cursor_is_read_as_redis_does() {
        for (text, cursor) in [
            (&b""[..], 0),
            (b"0", 0),
            (b"-0", 0),
            (b"+7", 7),
            (b"007", 7),
            (b"18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse(text), Some(cursor), "{}", text.escape_ascii());
        }
        for text in [&b" 1"[..], b"1 ", b"-1", b"+-1", b"0x1", b"\xff", b"18446744073709551616"] {
            assert_eq!(parse(text), None, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn tags_depend_on_the_servers_alone_and_are_distinct() {
        let ids: Vec<Option<Arc<str>>> =
            (0..2000).map(|number| Some(format!("{number:040x}").into())).collect();
        let there = tags(&ids);
        let mut distinct = there.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), 2000);
        let back: Vec<_> = ids.iter().rev().cloned().collect();
        assert!(tags(&back).into_iter().rev().eq(there));
        assert_eq!(tags(&[None]), [None]);
    }
}
