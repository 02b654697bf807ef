//! The names that a Redis client may have a server look out for: channels, patterns, watched keys.

/// The most names that one client may have a server look out for: channels, patterns, or watched keys.
pub const MAX_NAMES: usize = 16 * 1024;

/// The most that they may take together.
const MAX_NAME_BYTES: usize = 1024 * 1024;

/// Memory that a name takes beside its bytes: its places among the client's names and, for a channel, among those of
/// all clients.
const NAME_OVERHEAD_BYTES: usize = 192;

/// Memory that names of these lengths take.
pub fn held_bytes(lengths: impl IntoIterator<Item = usize>) -> usize {
    lengths.into_iter().map(|length| length + NAME_OVERHEAD_BYTES).sum()
}

/// Whether a client that has the names `there` may have `more`.
pub fn have_room(
    there: impl IntoIterator<Item: AsRef<[u8]>>,
    more: impl IntoIterator<Item: AsRef<[u8]>>,
) -> bool {
    let there = there.into_iter().map(|name| name.as_ref().len());
    let lengths = there.chain(more.into_iter().map(|name| name.as_ref().len()));
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
        let none: [&[u8]; 0] = [];
        assert!(have_room(none, [&long[..]]));
        assert!(!have_room([&long], [&name[..]]));
        assert!(!have_room(none, [&long[..], b"n"]));
        assert!(have_room([&long], [&b""[..]]));
    }
}
