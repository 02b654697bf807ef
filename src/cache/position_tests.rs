//! What a stamp and a tracker's position mean.

use super::position::Position;
use super::versions::Versions;
use crate::backend::BackendId;

#[test]
fn a_stamp_counts_until_its_key_or_all_keys_are_invalid_or_its_time_is_up() {
    let (position, versions) = (Position::new(), Versions::new(1024));
    let place = |number: u64| versions.place(BackendId::new(1), &number.to_le_bytes());
    let own = place(0);
    let other = (1..).map(place).find(|other| *other != own).expect("another place");
    let stamp = position.stamp(&versions, own, 10);
    assert!(stamp.is_current(&position, &versions, 9));
    assert!(!stamp.is_current(&position, &versions, 10), "its time is up");
    versions.raise(other);
    assert!(stamp.is_current(&position, &versions, 9));
    versions.raise(own);
    assert!(!stamp.is_current(&position, &versions, 9), "its key is invalid");
    let stamp = position.stamp(&versions, own, 10);
    position.flush();
    assert!(!stamp.is_current(&position, &versions, 9), "all keys are");
}

#[test]
fn a_tracker_counts_while_it_was_checked_a_short_time_ago() {
    let position = Position::new();
    assert!(!position.is_recent(5, 10), "never checked");
    position.answered(5, true);
    assert!(position.is_recent(15, 10));
    position.answered(16, false);
    assert!(!position.is_recent(16, 10), "an answer alone is no check");
    assert_eq!(position.as_of(), 16);
    position.answered(8, false);
    assert_eq!(position.as_of(), 16, "it never goes back");
}
