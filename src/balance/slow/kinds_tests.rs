use super::*;
use crate::resp::CommandParser;

const TIMEOUT: Duration = Duration::from_secs(1);
const SHORT: Duration = Duration::from_millis(1);
const LONG: Duration = Duration::from_millis(600);

/// The key of a command whose first key is argument 1, not flagged `fast`.
fn key(kinds: &Kinds, words: &str) -> ReadKey {
    key_of(kinds, words, false)
}

fn key_of(kinds: &Kinds, words: &str, is_fast: bool) -> ReadKey {
    let line = format!("{words}\r\n");
    let mut parser = CommandParser::new(usize::MAX);
    let (_, command) = parser.parse(line.as_bytes()).expect("a command");
    kinds.key(&command.expect("a whole one"), 1, is_fast)
}

fn answer(kinds: &Kinds, read: &ReadKey, times: usize) {
    (0..times).for_each(|_| kinds.record_answer(read, SHORT, true));
}

#[test]
fn each_row_of_what_an_answer_says() {
    use Class::{Quick, Slow, Unknown};
    let ms = Duration::from_millis;
    for (time, class, is_alone, wanted) in [
        (ms(99), Unknown, true, Observation::Quick),
        (ms(99), Slow, false, Observation::Quick),
        (ms(100), Unknown, true, Observation::Late),
        (ms(499), Unknown, true, Observation::Late),
        (ms(500), Unknown, true, Observation::Slow),
        (ms(500), Slow, true, Observation::Slow),
        (ms(500), Quick, true, Observation::Late),
        (ms(499), Unknown, false, Observation::None),
        (ms(500), Unknown, false, Observation::MeasureAlone),
        (ms(500), Quick, false, Observation::MeasureAlone),
    ] {
        let learned = observe(time, TIMEOUT, class, is_alone);
        assert_eq!(learned, wanted, "{time:?}, {class:?}, alone: {is_alone}");
    }
}

#[test]
fn twenty_quick_answers_make_a_kind_quick_and_a_late_one_unknown() {
    let kinds = Kinds::new(&LiveConfig::of(&[]));
    let read = key(&kinds, "HGETALL user:1");
    assert_eq!(kinds.class(&read), Class::Unknown);
    answer(&kinds, &read, 19);
    assert_eq!(kinds.class(&read), Class::Unknown);
    answer(&kinds, &read, 1);
    assert_eq!(kinds.class(&key(&kinds, "hgetall user:2")), Class::Quick, "its like is, too");
    assert_eq!(kinds.class(&key(&kinds, "HGETALL film:1")), Class::Unknown);
    assert_eq!(kinds.class(&key(&kinds, "HKEYS user:1")), Class::Unknown);
    kinds.record_answer(&read, LONG, true);
    assert_eq!(kinds.class(&read), Class::Unknown, "once is no proof");
}

#[test]
fn several_reads_as_one_are_quick_if_each_is_unless_they_were_late_together() {
    let kinds = Kinds::new(&LiveConfig::of(&[]));
    let each = ["HGETALL user:1", "LRANGE list:1 0 -1"].map(|words| key(&kinds, words));
    let together = each[0].with(each[1]);
    let class = || kinds.class_together(&together, &each);
    assert_eq!(class(), Class::Unknown);
    answer(&kinds, &each[0], 20);
    assert_eq!(class(), Class::Unknown);
    answer(&kinds, &each[1], 20);
    assert_eq!(class(), Class::Quick);
    answer(&kinds, &together, 1);
    assert_eq!(class(), Class::Quick);
    kinds.record_answer(&together, Duration::from_millis(200), true);
    assert_eq!(class(), Class::Unknown);
    kinds.record_answer(&together, LONG, true);
    assert_eq!(class(), Class::Slow);
    kinds.mark_slow(&each[0]);
    assert_eq!(kinds.class_together(&each[1], &each), Class::Quick, "known itself");
}

#[test]
fn a_slow_read_makes_its_kind_slow_until_twenty_of_that_were_quick_and_itself_for_longer() {
    let kinds = Kinds::new(&LiveConfig::of(&[]));
    let read = key(&kinds, "SORT_RO big ALPHA LIMIT 0 1");
    kinds.record_answer(&read, LONG, true);
    assert_eq!(kinds.class(&read), Class::Slow);
    let like = key(&kinds, "SORT_RO big ALPHA LIMIT 0 2");
    assert_eq!(kinds.class(&like), Class::Slow);
    answer(&kinds, &like, 20);
    assert_eq!(kinds.class(&like), Class::Quick);
    assert_eq!(kinds.class(&read), Class::Slow);
}

#[test]
fn of_several_that_were_slow_together_each_is_measured_alone() {
    let kinds = Kinds::new(&LiveConfig::of(&[]));
    let read = key(&kinds, "LRANGE list:1 0 -1");
    answer(&kinds, &read, 20);
    kinds.record_answer(&read, LONG, false);
    assert!(kinds.is_measured_alone(&read));
    assert_eq!(kinds.class(&read), Class::Unknown);
    answer(&kinds, &read, 1);
    assert!(!kinds.is_measured_alone(&read));
    assert_eq!(kinds.class(&read), Class::Quick);
}

#[test]
fn what_servers_flag_fast_is_quick_unless_it_was_slow_itself_or_has_many_arguments() {
    let kinds = Kinds::new(&LiveConfig::of(&[]));
    let get = key_of(&kinds, "GET key:1", true);
    assert_eq!(kinds.class(&get), Class::Quick);
    kinds.mark_slow(&get);
    assert_eq!(kinds.class(&get), Class::Slow);
    assert_eq!(kinds.class(&key_of(&kinds, "GET key:2", true)), Class::Quick);
    let many = |count| format!("MGET{}", " key:1".repeat(count));
    assert_eq!(kinds.class(&key_of(&kinds, &many(63), true)), Class::Quick);
    let more = key_of(&kinds, &many(64), true);
    assert_eq!(kinds.class(&more), Class::Unknown);
    answer(&kinds, &more, 20);
    let other = key_of(&kinds, &many(2000), true);
    assert_eq!(kinds.class(&other), Class::Unknown, "far more arguments are another kind");
}

#[test]
fn a_read_that_was_blamed_for_a_broken_connection_is_as_before() {
    let kinds = Kinds::new(&LiveConfig::of(&[]));
    let read = key(&kinds, "HGETALL user:1");
    kinds.mark_slow(&read);
    assert_eq!(kinds.class(&read), Class::Slow);
    kinds.clear_blame(&read);
    assert_eq!(kinds.class(&read), Class::Unknown);
}

#[test]
fn kinds_are_told_by_what_their_keys_begin_with() {
    for (key, wanted) in [
        ("user:17:name", "user:17:"),
        ("user:17", "user:"),
        ("user17", "user"),
        ("17", "17"),
        ("", ""),
    ] {
        assert_eq!(beginning(key.as_bytes()), wanted.as_bytes());
    }
}

#[test]
fn a_request_for_many_keys_is_of_another_kind_than_one_for_a_few() {
    let kinds = Kinds::new(&LiveConfig::of(&[]));
    let of = |count| kinds.http_key("values", b"actor:1", b"", count);
    answer(&kinds, &of(1), 20);
    assert_eq!(kinds.class(&of(2)), Class::Quick);
    assert_eq!(kinds.class(&of(1000)), Class::Unknown);
    kinds.mark_slow(&of(1000));
    assert_eq!(kinds.class(&kinds.http_key("values", b"actor:2", b"", 3)), Class::Quick);
}

#[test]
fn a_flood_of_kinds_leaves_most_of_those_that_are_known() {
    let kinds = Kinds::new(&LiveConfig::of(&[]));
    let known: Vec<_> =
        (0..200).map(|number| key(&kinds, &format!("HGETALL known:{number}:a"))).collect();
    known.iter().for_each(|read| answer(&kinds, read, 20));
    for number in 0..100_000 {
        answer(&kinds, &key(&kinds, &format!("HGETALL flood:{number}:a")), 1);
    }
    let left = known.iter().filter(|read| kinds.class(read) == Class::Quick).count();
    assert!(left > 190, "{left} of 200");
}
