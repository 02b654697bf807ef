use super::*;

/// The moment at which each scene is judged, in milliseconds.
const NOW: u64 = 10_000;

/// How long each check takes.
const TAKES: u64 = 10;

fn at(began: Instant, millis: u64) -> Instant {
    began + Duration::from_millis(millis)
}

fn primary(history: &str, offset: u64) -> Position {
    Position {
        history: history.into(),
        previous: "0".into(),
        previous_end: None,
        offset: Some(offset),
        is_replica: false,
        is_ready: true,
    }
}

fn replica(history: &str, offset: u64) -> Position {
    Position { is_replica: true, ..primary(history, offset) }
}

impl Position {
    /// It continues this history, up to the byte before `end`.
    fn after(self, previous: &str, end: u64) -> Self {
        Self { previous: previous.into(), previous_end: Some(end), ..self }
    }

    fn not_ready(self) -> Self {
        Self { is_ready: false, ..self }
    }
}

/// Checks of the members 0, 1, … in order: the member, when its check began, and what it said, if it did.
type Checks = Vec<(u32, u64, Option<Position>)>;

/// What is known of a member at the end: how old its data are at most, the bytes that it lacks, and whether it may
/// lack more.
type Expected = (Option<u64>, Option<u64>, bool);

fn offsets_after(checks: Checks, start: Instant) -> Offsets {
    let mut offsets = Offsets::default();
    for (member, began, said) in checks {
        let id = BackendId::new(member);
        match said {
            Some(said) => offsets.note(id, said, at(start, began), at(start, began + TAKES)),
            None => offsets.note_failed(id),
        }
    }
    offsets
}

#[track_caller]
fn scene(name: &str, checks: Checks, expected: &[Expected]) {
    let start = Instant::now();
    let offsets = offsets_after(checks, start);
    let found: Vec<Expected> = (0..expected.len())
        .map(|member| {
            let lag = offsets.lag(BackendId::new(member as u32), at(start, NOW));
            let millis = |time: Duration| time.as_millis() as u64;
            (lag.staleness.map(millis), lag.bytes, lag.is_at_least)
        })
        .collect();
    assert_eq!(found, expected, "{name}");
}

const CURRENT: Expected = (Some(0), Some(0), false);
const UNKNOWN: Expected = (None, None, false);

#[test]
fn data_are_as_old_as_the_last_sample_of_the_primary_that_the_replica_has_reached() {
    let a = |offset| Some(primary("a", offset));
    let r = |offset| Some(replica("a", offset));
    scene("a copy that stands alone", vec![(0, 9_000, a(5))], &[CURRENT]);
    scene(
        "it has all, whichever was asked first",
        vec![(0, 8_000, a(50)), (1, 9_000, r(50)), (2, 7_000, r(50))],
        &[CURRENT, (Some(2000), Some(0), false), (Some(2000), Some(0), false)],
    );
    scene(
        "an idle primary keeps its replica fresh",
        vec![(0, 1_000, a(50)), (1, 1_100, r(50)), (0, 9_500, a(50))],
        &[CURRENT, (Some(500), Some(0), false)],
    );
    scene(
        "it lacks the last writes",
        vec![(0, 1_000, a(50)), (0, 4_000, a(60)), (0, 7_000, a(75)), (1, 9_000, r(74))],
        &[CURRENT, (Some(6000), Some(1), false)],
    );
    scene(
        "more than the primary had when it was asked before",
        vec![(0, 9_000, a(50)), (1, 9_500, r(80))],
        &[CURRENT, (Some(1000), Some(0), false)],
    );
    scene(
        "what was written after its last check counts for its age alone",
        vec![(0, 7_000, a(50)), (1, 8_000, r(50)), (0, 9_500, a(90))],
        &[CURRENT, (Some(3000), Some(0), false)],
    );
    scene(
        "it has lacked the same for long",
        vec![(0, 1_000, a(40)), (0, 2_000, a(50)), (1, 9_000, r(45)), (0, 9_500, a(50))],
        &[CURRENT, (Some(9000), Some(5), false)],
    );
    scene(
        "less than any sample",
        vec![(0, 9_000, a(50)), (1, 9_500, r(40))],
        &[CURRENT, (None, Some(10), false)],
    );
    scene(
        "the replica of a replica",
        vec![(0, 9_000, a(50)), (1, 9_100, r(50)), (2, 9_200, r(45)), (0, 9_300, a(50))],
        &[CURRENT, (Some(700), Some(0), false), (None, Some(5), false)],
    );
    scene(
        "another history",
        vec![(0, 9_000, a(50)), (1, 9_100, Some(replica("b", 50)))],
        &[CURRENT, UNKNOWN],
    );
}

#[test]
fn without_its_primary_a_replica_gets_older_and_lacks_what_another_has_at_least() {
    let a = |offset| Some(primary("a", offset));
    let r = |offset| Some(replica("a", offset));
    let cut_off = vec![(0, 4_000, a(50)), (1, 5_000, r(50)), (0, 6_000, None), (1, 9_500, r(50))];
    scene("it is silent", cut_off, &[(Some(6000), Some(0), false), (Some(6000), Some(0), true)]);
    let again = vec![(0, 4_000, a(50)), (1, 5_000, r(50)), (0, 6_000, None), (0, 9_000, a(50))];
    scene("it answers again", again, &[CURRENT, (Some(1000), Some(0), false)]);
    scene(
        "it is no member",
        vec![(0, 9_000, r(50)), (1, 9_500, r(30))],
        &[(None, Some(0), true), (None, Some(20), true)],
    );
    scene("it is the only one", vec![(0, 9_000, r(50))], &[UNKNOWN]);
    let mut removed = offsets_after(
        vec![(0, 4_000, a(50)), (1, 5_000, r(50)), (2, 5_000, r(49))],
        Instant::now(),
    );
    removed.forget(BackendId::new(0));
    let replica = BackendId::new(1);
    assert!(matches!(removed.freshness(replica), Freshness::AsOf(_)), "as of its last sample");
    assert!(removed.is_compared(replica));
    removed.forget(BackendId::new(2));
    assert!(!removed.is_compared(replica));
}

#[test]
fn a_failover_counts_samples_of_the_history_before_as_far_as_it_is_shared() {
    let old = |offset| Some(primary("a", offset));
    let r = |offset| Some(replica("a", offset));
    let new = |offset| Some(primary("b", offset).after("a", 61));
    let follows = |offset, end| Some(replica("b", offset).after("a", end));
    let before = || vec![(0, 1_000, old(60)), (1, 2_000, r(60)), (2, 2_000, r(60))];
    let with = |more: Checks| [before(), vec![(0, 3_000, None)], more].concat();
    scene(
        "one replica is promoted, the other still follows nobody",
        with(vec![(1, 8_000, new(60)), (1, 9_000, new(99)), (2, 9_500, r(60))]),
        &[(Some(9000), Some(0), false), CURRENT, (Some(9000), Some(0), true)],
    );
    scene(
        "the other follows, and lags",
        with(vec![(1, 8_000, new(70)), (2, 9_000, follows(60, 61))]),
        &[(Some(9000), Some(0), false), CURRENT, (Some(9000), Some(10), false)],
    );
    scene(
        "the other follows, and has caught up",
        with(vec![(1, 8_000, new(70)), (2, 9_000, follows(70, 61))]),
        &[(Some(9000), Some(0), false), CURRENT, (Some(2000), Some(0), false)],
    );
    // The old primary goes on alone, unnoticed by the new one.
    scene(
        "samples of the old primary after the promotion don't count",
        [before(), vec![(1, 4_000, new(70)), (2, 4_500, follows(60, 61)), (0, 9_000, old(60))]]
            .concat(),
        &[(None, Some(0), false), (None, Some(0), false), (None, Some(10), false)],
    );
    scene(
        "nothing is shared",
        with(vec![(1, 8_000, new(70)), (2, 9_000, follows(60, 50))]),
        &[(Some(9000), Some(0), false), CURRENT, (None, Some(10), false)],
    );
}

#[test]
fn of_two_primaries_of_one_history_those_that_may_lack_writes_are_in_doubt() {
    let old = |offset| Some(primary("a", offset));
    let heir = |history: &str, offset, end| Some(primary(history, offset).after("a", end));
    let r = |offset| Some(replica("a", offset));
    let doubtful: Expected = (None, Some(0), false);
    scene(
        "a copy that was detached",
        vec![(0, 9_000, old(60)), (1, 9_000, heir("b", 60, 61))],
        &[(Some(1000), Some(0), false); 2],
    );
    for (name, checks) in [
        ("the heir goes on", vec![(0, 9_000, old(60)), (1, 9_000, heir("b", 61, 61))]),
        ("the elder goes on", vec![(0, 9_000, old(61)), (1, 9_000, heir("b", 60, 61))]),
    ] {
        let replicas = vec![(2, 9_500, r(61))];
        scene(name, [checks, replicas].concat(), &[doubtful, doubtful, doubtful]);
    }
    scene(
        "the elder does not answer",
        vec![(0, 9_000, old(60)), (1, 9_000, heir("b", 99, 61)), (0, 9_900, None)],
        &[(Some(1000), Some(0), false), CURRENT],
    );
    scene(
        "the elder was restarted from an older snapshot",
        vec![(0, 9_000, heir("c", 50, 51)), (1, 9_000, heir("b", 99, 61))],
        &[doubtful, CURRENT],
    );
    scene(
        "copies of one snapshot",
        vec![(0, 9_000, heir("c", 99, 51)), (1, 9_000, heir("b", 60, 51))],
        &[CURRENT, CURRENT],
    );
}

#[test]
fn what_contradicts_itself_is_never_fresh() {
    let a = |offset| Some(primary("a", offset));
    let r = |offset| Some(replica("a", offset));
    scene(
        "the primary has less than the replica had before",
        vec![(0, 8_000, a(50)), (1, 9_000, r(50)), (0, 9_500, a(40))],
        &[CURRENT, (None, Some(0), false)],
    );
    scene(
        "its offset falls, and samples from before count no more",
        vec![(0, 7_000, a(50)), (0, 8_000, a(30)), (1, 9_000, r(29))],
        &[CURRENT, (None, Some(1), false)],
    );
    scene(
        "the offset of a replica falls",
        vec![(0, 7_000, a(50)), (0, 8_000, a(60)), (1, 8_500, r(60)), (1, 9_000, r(50))],
        &[CURRENT, (Some(3000), Some(10), false)],
    );
    scene(
        "a replica that is filled",
        vec![(0, 9_000, a(50)), (1, 9_000, Some(replica("a", 1).not_ready()))],
        &[CURRENT, UNKNOWN],
    );
    scene(
        "a check that began earlier and is noted later",
        vec![(0, 9_000, a(50)), (0, 8_000, a(60)), (1, 9_500, r(50))],
        &[CURRENT, (Some(1000), Some(0), false)],
    );
    let silent = Position { offset: None, ..replica("a", 0) };
    scene(
        "a replica that does not say",
        vec![(0, 9_000, a(50)), (1, 9_000, Some(silent))],
        &[CURRENT, UNKNOWN],
    );
    let nameless = || Some(replica("", 50));
    scene("no history", vec![(0, 9_000, nameless()), (1, 9_000, nameless())], &[UNKNOWN, UNKNOWN]);
}

#[test]
fn a_day_of_samples_is_kept_in_little_room_and_ages_are_a_sixteenth_off_at_most() {
    let start = Instant::now();
    let mut samples = Samples::default();
    let step = Duration::from_millis(500);
    let count = 2 * 24 * 60 * 60;
    (0..count).for_each(|number| samples.add(start + step * number, u64::from(number)));
    assert!(samples.0.len() < MAX_SAMPLES / 2, "{}", samples.0.len());
    let now = start + step * (count - 1);
    for age in [0, 1, 2, 7, 60, 1000, 30_000, 80_000].map(|seconds| step * 2 * seconds) {
        let had = u64::from(count - 1) - (age.as_millis() / step.as_millis()) as u64;
        let found = now.duration_since(samples.last_at(had, None).expect("a sample"));
        assert!(found >= age && found <= age + age / 14 + step, "{age:?}: {found:?}");
    }
}

#[test]
fn a_replica_that_lacks_more_than_a_bound_says_so() {
    let lag = |bytes: u64, age: u64| Lag {
        bytes: Some(bytes),
        age: Some(Duration::from_secs(age)),
        ..Lag::default()
    };
    let bounds =
        |time: Option<u64>, bytes| LagBounds { time: time.map(Duration::from_secs), bytes };
    let mib = 1 << 20;
    for (lag, bounds, why) in [
        (Lag::default(), bounds(Some(1), Some(1)), None),
        (lag(0, 99), bounds(Some(1), Some(1)), None),
        (lag(mib, 0), bounds(None, Some(mib)), None),
        (
            lag(12 * mib, 0),
            bounds(None, Some(mib)),
            Some("lacks 12 MiB of its primary's writes (--max-lag-bytes 1.0 MiB)"),
        ),
        (lag(12, 9), bounds(None, None), None),
        (lag(12, 9), bounds(Some(9), None), None),
        (lag(12, 10), bounds(Some(9), Some(mib)), Some("are 10.0 s old (--max-lag 9s)")),
        (
            Lag { is_at_least: true, ..lag(12, 10) },
            bounds(Some(9), None),
            Some("it lacks at least 12 B"),
        ),
    ] {
        let said = lag.excess(bounds, false);
        assert!(said.is_some() == why.is_some(), "{lag:?} {bounds:?}: {said:?}");
        assert!(
            why.is_none_or(|why| said.clone().is_some_and(|said| said.contains(why))),
            "{said:?}"
        );
    }
}

#[test]
fn one_that_lags_too_much_has_to_come_below_half_of_the_bound() {
    let second = Duration::from_secs(1);
    let bounds = LagBounds { time: Some(10 * second), bytes: Some(1000) };
    for (bytes, seconds, fresh, stale) in [
        (400, 4, false, false),
        (501, 0, false, true),
        (400, 6, false, true),
        (1001, 0, true, true),
        (400, 11, true, true),
    ] {
        let lag = Lag { bytes: Some(bytes), age: Some(seconds * second), ..Lag::default() };
        let is_excess = [false, true].map(|is_stale| lag.excess(bounds, is_stale).is_some());
        assert_eq!(is_excess, [fresh, stale], "{lag:?}");
    }
}

#[test]
fn only_data_whose_age_is_known_are_fresh_enough() {
    let second = Duration::from_secs(1);
    for (staleness, max, is_enough) in [
        (Some(Duration::ZERO), Duration::ZERO, true),
        (Some(second), second, true),
        (Some(second + Duration::from_nanos(1)), second, false),
        (None, second * 1000, false),
    ] {
        assert_eq!(is_fresh_enough(staleness, max), is_enough, "{staleness:?} {max:?}");
    }
}
