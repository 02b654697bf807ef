use super::*;

#[test]
fn numbers_within_keys_are_in_the_order_of_numbers() {
    let sorted = ["", "a", "a1", "a01", "a1b", "a2", "a10", "a10b2", "a10b10", "b", "é"];
    for (i, a) in sorted.iter().enumerate() {
        for (j, b) in sorted.iter().enumerate() {
            // "a1" and "a01" are the same number: their order is that of their bytes.
            let expected = match (*a, *b) {
                ("a1", "a01") => Ordering::Greater,
                ("a01", "a1") => Ordering::Less,
                _ => i.cmp(&j),
            };
            assert_eq!(natural_order(a.as_bytes(), b.as_bytes()), expected, "{a} {b}");
        }
    }
}

#[test]
fn rare_keys_are_searched_in_longer_steps() {
    for (wanted, scanned, found, expected) in [
        (10, 0, 0, 10),
        (100_000, 0, 0, MAX_STEP_KEYS),
        (10, 10, 0, 100),
        (10, 110, 0, MAX_STEP_KEYS),
        (5, 100, 50, 10),
        (1, 1000, 1001, 1),
        (usize::MAX, usize::MAX, 0, MAX_STEP_KEYS),
    ] {
        assert_eq!(next_step(wanted, scanned, found), expected);
    }
}
