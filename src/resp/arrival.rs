//! Bytes that arrive in pieces or damaged, for property tests.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

/// Up to eight places at which bytes are cut into pieces.
pub fn cuts() -> impl Strategy<Value = Vec<Index>> {
    vec(any::<Index>(), 0..8)
}

/// `bytes` cut at these places; some pieces may be empty.
pub fn pieces<'a>(bytes: &'a [u8], cuts: &[Index]) -> Vec<&'a [u8]> {
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    ends.extend([0, bytes.len()]);
    ends.sort_unstable();
    ends.windows(2).map(|ends| &bytes[ends[0]..ends[1]]).collect()
}

/// Replaces some bytes at one place by others.
#[derive(Debug, Clone)]
pub struct Damage {
    place: Index,
    lost: usize,
    instead: Vec<u8>,
}

/// One to three damages; `instead` makes the bytes that are put in.
pub fn damages(instead: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<Damage>> {
    let lost = prop_oneof![8 => 0..4_usize, 1 => Just(usize::MAX)];
    let damage = (any::<Index>(), lost, instead);
    vec(damage.prop_map(|(place, lost, instead)| Damage { place, lost, instead }), 1..4)
}

/// `bytes` with all of the damages.
pub fn damaged(mut bytes: Vec<u8>, damages: &[Damage]) -> Vec<u8> {
    for Damage { place, lost, instead } in damages {
        let place = place.index(bytes.len() + 1);
        let end = place.saturating_add(*lost).min(bytes.len());
        bytes.splice(place..end, instead.iter().copied());
    }
    bytes
}
