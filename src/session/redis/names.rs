//! The names that a Redis client may have a server look out for: channels, patterns, watched keys.

/// The most names that one client may have a server look out for: channels, patterns, or watched keys.
const MAX_NAMES: usize = 16 * 1024;

/// The most that they may take together.
const MAX_NAME_BYTES: usize = 1024 * 1024;

/// Memory that a name takes beside its bytes.
const NAME_OVERHEAD_BYTES: usize = 64;

/// Memory that these names take.
pub fn held_bytes<'t>(names: impl IntoIterator<Item = &'t Vec<u8>>) -> usize {
    names.into_iter().map(|name| name.len() + NAME_OVERHEAD_BYTES).sum()
}

/// Whether a client that has the names `there` may have `more`.
pub fn have_room<'t, 'm>(
    there: impl IntoIterator<Item = &'t Vec<u8>>,
    more: impl IntoIterator<Item = &'m [u8]>,
) -> bool {
    let lengths = there.into_iter().map(Vec::len).chain(more.into_iter().map(<[u8]>::len));
    let (count, bytes) = lengths.fold((0, 0), |(count, bytes), length| (count + 1, bytes + length));
    count <= MAX_NAMES && bytes <= MAX_NAME_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_in_number_and_in_bytes() {
        let name = b"n".to_vec();
        let long = vec![b'n'; MAX_NAME_BYTES];
        let names = |count| std::iter::repeat_n(&name, count);
        let more = |count| std::iter::repeat_n(&name[..], count);
        for (there, added, is_room) in [
            (0, MAX_NAMES, true),
            (0, MAX_NAMES + 1, false),
            (MAX_NAMES, 0, true),
            (MAX_NAMES - 1, 1, true),
            (MAX_NAMES, 1, false),
        ] {
            assert_eq!(have_room(names(there), more(added)), is_room, "{there} {added}");
        }
        assert!(have_room([], [&long[..]]));
        assert!(!have_room([&long], [&name[..]]));
        assert!(!have_room([], [&long[..], b"n"]));
        assert!(have_room([&long], [&b""[..]]));
    }
}
