//! Each row of the rule is a scene: the memory of the servers, the report of a check, and the verdict.

use std::fmt::Write;

use super::known::{
    Cause, Completeness, Databases, Grade, Identity, Known, Remembered, Seen, Unproven,
};
use super::rule::{Facts, Verdict, judge, judge_first};
use crate::backend::{Keys, Report};
use std::time::{Duration, Instant};

#[path = "rule_database_tests.rs"]
mod databases;

const SECOND: Duration = Duration::from_secs(1);
const FORGET_AFTER: Duration = Duration::from_secs(600);

type Counts<'a> = &'a [(u32, u64)];

fn primary(run_id: &str, counts: Counts) -> Report {
    Report {
        run_id: run_id.into(),
        replication_id: "history".into(),
        keys: Some(Keys::of(counts)),
        ..Report::default()
    }
}

fn replica(run_id: &str, counts: Counts) -> Report {
    Report { is_replica: true, ..primary(run_id, counts) }
}

fn filled_anew(report: Report) -> Report {
    Report { replication_id: "new".into(), ..report }
}

fn cut_off(report: Report) -> Report {
    Report { is_cut_off: true, ..report }
}

/// The clock of a scene.
#[derive(Clone, Copy)]
struct Clock(Instant);

/// Returns the time of the scenes.
fn clock() -> Clock {
    Clock(Instant::now() + 3600 * SECOND)
}

impl Clock {
    fn ago(self, time: Duration) -> Instant {
        self.0.checked_sub(time).expect("the scenes begin an hour after the clock")
    }

    /// Returns a server that has served these keys for long.
    fn serving(self, report: Report) -> Known {
        let mut remembered = Remembered::default();
        if let Some(keys) = &report.keys {
            remembered.note(keys, self.ago(SECOND), |_| false);
        }
        Known {
            accepted: Some(Identity::of(&report)),
            first_accepted: Some(self.ago(3000 * SECOND)),
            is_serving: true,
            answers: true,
            remembered,
            seen: Some(Seen { report, keys_since: self.ago(60 * SECOND) }),
            judged: Some(self.ago(2 * SECOND)),
            ..Known::default()
        }
    }

    /// Returns a server that served these keys until `time` ago, and does not answer.
    fn away(self, report: Report, time: Duration) -> Known {
        let mut remembered = Remembered::default();
        if let Some(keys) = &report.keys {
            remembered.note(keys, self.ago(time), |_| false);
        }
        let serving = self.serving(report);
        Known { is_serving: false, answers: false, remembered, ..serving }
    }

    /// Returns a server of which the last check has found this report.
    fn found(self, before: Known, report: Report, kept_for: Duration) -> Known {
        let seen = Some(Seen { report, keys_since: self.ago(kept_for) });
        Known { seen, answers: true, ..before }
    }

    /// Returns a restarted server that had the first report's keys, and has had the second's for `kept_for`.
    fn back(self, had: Report, report: Report, kept_for: Duration) -> Known {
        let before = Known {
            is_serving: false,
            must_prove: Some(Cause::Restarted),
            ..self.away(had, 10 * SECOND)
        };
        self.found(before, report, kept_for)
    }
}

/// The report of a check, the memory of its server, and the memory of the others.
struct Scene {
    report: Report,
    before: Known,
    others: Vec<Known>,
    kept_for: Duration,
    in_use: Databases,
}

impl Scene {
    fn new(report: Report, before: Known, others: Vec<Known>) -> Self {
        Self { report, before, others, kept_for: 60 * SECOND, in_use: Databases::of(0) }
    }

    fn kept_for(self, kept_for: Duration) -> Self {
        Self { kept_for, ..self }
    }

    fn using(self, database: i64) -> Self {
        Self { in_use: self.in_use.with(Databases::of(database)), ..self }
    }

    fn verdict(&self, clock: Clock) -> String {
        shown(&judge(&Facts {
            now: clock.0,
            report: &self.report,
            keys_since: clock.ago(self.kept_for),
            before: &self.before,
            others: &self.others,
            in_use: self.in_use,
            forget_after: FORGET_AFTER,
        }))
    }
}

fn shown(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Unserved(_) => "unserved".to_owned(),
        Verdict::NotReady { cause, .. } => format!("not ready {cause:?}"),
        Verdict::Serve { warning: None } => "serve".to_owned(),
        Verdict::Serve { warning: Some(_) } => "serve, warn".to_owned(),
        Verdict::Prove { cause, databases, relevant } => {
            let mut text = cause.map_or("some".to_owned(), |cause| format!("{cause:?}"));
            for (number, Completeness { grade, has, of }) in databases {
                let mark = if relevant.contains(number) { "" } else { "?" };
                let _ = write!(text, " {number}{mark}=");
                let _ = match grade {
                    Grade::Complete => write!(text, "complete({has})"),
                    Grade::Growing => write!(text, "growing({has}/{of})"),
                    Grade::LastResort => write!(text, "resort({has}/{of})"),
                    Grade::Incomplete => write!(text, "lacks({has}/{of})"),
                };
            }
            text
        }
    }
}

fn full() -> Report {
    primary("a", &[(0, 1000)])
}

fn full_b() -> Report {
    primary("b", &[(0, 1000)])
}

fn full_c() -> Report {
    primary("c", &[(0, 1000)])
}

/// A server that lacks keys in one database.
fn unproven(known: Known, number: u32, has: u64, of: u64) -> Known {
    let found = Completeness { grade: Grade::Incomplete, has, of };
    Known { unproven: [(number, Unproven::new(found))].into(), ..known }
}

/// Judges each scene, and compares the verdict with the one after it.
fn check(clock: Clock, scenes: &[(&str, Scene, &str)]) {
    for (name, scene, expected) in scenes {
        assert_eq!(scene.verdict(clock), *expected, "{name}");
    }
}

#[test]
fn losing_keys_is_no_doubt() {
    let clock = clock();
    let serving = |report: Report| clock.serving(report);
    let scenes = [
        (
            "FLUSHALL of a primary, then a SET every 15 ms; its replica is not there yet",
            Scene::new(
                primary("a", &[(0, 3)]),
                serving(full()),
                vec![serving(replica("b", &[(0, 1000)]))],
            )
            .kept_for(Duration::ZERO),
            "serve, warn",
        ),
        (
            "the replica follows, and has the next writes already",
            Scene::new(
                replica("b", &[(0, 9)]),
                serving(replica("b", &[(0, 1000)])),
                vec![clock.found(serving(full()), primary("a", &[(0, 3)]), Duration::ZERO)],
            ),
            "serve",
        ),
        (
            "FLUSHALL of one of several independent servers",
            Scene::new(
                primary("a", &[]),
                serving(full()),
                vec![serving(full_b()), serving(full_c())],
            ),
            "serve, warn",
        ),
        (
            "FLUSHALL of all while one is away, which had more",
            Scene::new(
                primary("a", &[(0, 4)]),
                serving(full()),
                vec![
                    clock.found(serving(full_b()), primary("b", &[(0, 2)]), Duration::ZERO),
                    clock.away(full_c(), 30 * SECOND),
                ],
            ),
            "serve",
        ),
        (
            "FLUSHALL of the only server",
            Scene::new(primary("a", &[(0, 1)]), serving(full()), vec![]),
            "serve",
        ),
        (
            "ordinary TTLs end at one moment while one is away",
            Scene::new(
                primary("a", &[(0, 40)]),
                serving(full()),
                vec![serving(full_b()), clock.away(full_c(), 30 * SECOND)],
            ),
            "serve, warn",
        ),
        (
            "a mass delete that goes on",
            Scene::new(primary("a", &[(0, 700)]), serving(full()), vec![serving(full_b())]),
            "serve, warn",
        ),
        (
            "a smaller data set was loaded while one is away",
            Scene::new(
                primary("a", &[(0, 300)]),
                serving(full()),
                vec![
                    clock.found(serving(full_b()), primary("b", &[(0, 300)]), SECOND),
                    clock.away(full_c(), 300 * SECOND),
                ],
            ),
            "serve",
        ),
        (
            "one write has not arrived everywhere",
            Scene::new(primary("a", &[(0, 999)]), serving(full()), vec![serving(full_b())]),
            "serve",
        ),
    ];
    check(clock, &scenes);
}

#[test]
fn after_a_restart_a_server_has_to_prove_itself() {
    let clock = clock();
    let serving = |report: Report| clock.serving(report);
    let scenes = [
        (
            "an empty restart while a fuller one is up",
            Scene::new(primary("a2", &[]), serving(full()), vec![serving(full_b())]),
            "Restarted 0=lacks(0/1000)",
        ),
        (
            "a half-empty restart, settled for long, while a fuller one is up",
            Scene::new(primary("a2", &[(0, 500)]), serving(full()), vec![serving(full_b())]),
            "Restarted 0=lacks(500/1000)",
        ),
        (
            "most of the keys are not enough while a fuller one is up",
            Scene::new(primary("a2", &[(0, 970)]), serving(full()), vec![serving(full_b())]),
            "Restarted 0=lacks(970/1000)",
        ),
        (
            "a half-empty restart while a fuller one was up within --forget-after",
            Scene::new(
                primary("a2", &[(0, 500)]),
                serving(full()),
                vec![clock.away(full_b(), FORGET_AFTER)],
            ),
            "Restarted 0=lacks(500/1000)",
        ),
        (
            "an empty restart while a fuller one was up within --forget-after",
            Scene::new(primary("a2", &[]), serving(full()), vec![clock.away(full_b(), 9 * SECOND)]),
            "Restarted 0=lacks(0/1000)",
        ),
        (
            "what is away is forgotten",
            Scene::new(
                primary("a2", &[(0, 500)]),
                serving(full()),
                vec![clock.away(full_b(), FORGET_AFTER + SECOND)],
            ),
            "Restarted 0=complete(500)",
        ),
        (
            "a complete restart",
            Scene::new(primary("a2", &[(0, 995)]), serving(full()), vec![serving(full_b())]),
            "Restarted 0=complete(995)",
        ),
        (
            "a restart that is complete while clients add keys everywhere",
            Scene::new(
                primary("a2", &[(0, 1015)]),
                clock.back(full(), primary("a2", &[(0, 1000)]), Duration::ZERO),
                vec![serving(full_b())],
            ),
            "Restarted 0=complete(1015)",
        ),
        (
            "a restart that is still being filled",
            Scene::new(
                primary("a2", &[(0, 995)]),
                clock.back(full(), primary("a2", &[(0, 900)]), Duration::ZERO),
                vec![serving(full_b())],
            ),
            "Restarted 0=growing(995/1000)",
        ),
        (
            "a rolling restart right after FLUSHALL, with steady writes",
            Scene::new(
                primary("a2", &[(0, 12)]),
                clock.back(full(), primary("a2", &[(0, 5)]), Duration::ZERO),
                vec![clock.found(serving(full_b()), primary("b", &[(0, 10)]), Duration::ZERO)],
            ),
            "Restarted 0=complete(12)",
        ),
        (
            "a power failure: back from a snapshot 3 % smaller, beside another; the third is gone",
            Scene::new(
                primary("a2", &[(0, 970)]),
                clock.back(full(), primary("a2", &[(0, 970)]), SECOND),
                vec![
                    clock.back(full_b(), primary("b2", &[(0, 970)]), SECOND),
                    clock.away(full_c(), 10 * SECOND),
                ],
            )
            .kept_for(SECOND),
            "Restarted 0=resort(970/1000)",
        ),
        (
            "but not while it has just got these",
            Scene::new(
                primary("a2", &[(0, 970)]),
                clock.back(full(), primary("a2", &[(0, 900)]), Duration::ZERO),
                vec![clock.away(full_c(), 10 * SECOND)],
            )
            .kept_for(Duration::ZERO),
            "Restarted 0=lacks(970/1000)",
        ),
        (
            "nor where it has less than nine tenths",
            Scene::new(
                primary("a2", &[(0, 899)]),
                clock.back(full(), primary("a2", &[(0, 899)]), 60 * SECOND),
                vec![clock.away(full_c(), 10 * SECOND)],
            ),
            "Restarted 0=lacks(899/1000)",
        ),
        (
            "all restarted with less, and one has not settled: what it had counts",
            Scene::new(
                primary("a2", &[]),
                clock.back(full(), primary("a2", &[]), 5 * SECOND),
                vec![clock.back(full_b(), primary("b2", &[]), 4 * SECOND)],
            ),
            "Restarted 0=lacks(0/1000)",
        ),
        (
            "all restarted with less, answer, and have settled: that is what there is",
            Scene::new(
                primary("a2", &[]),
                clock.back(full(), primary("a2", &[]), 5 * SECOND),
                vec![clock.back(full_b(), primary("b2", &[(0, 300)]), 5 * SECOND)],
            ),
            "Restarted 0=lacks(0/300)",
        ),
        (
            "a server that was away answers again: the process is the accepted one",
            Scene::new(full(), clock.away(full(), 60 * SECOND), vec![clock.away(full_b(), SECOND)]),
            "serve",
        ),
        (
            "one that is known for the first time",
            Scene::new(primary("a", &[(0, 7)]), Known::default(), vec![Known::default()]),
            "FirstMet 0=complete(7)",
        ),
    ];
    check(clock, &scenes);
}

#[test]
fn at_the_start_each_database_waits_that_has_less_than_half() {
    let first = |own: Counts, others: &[Counts]| {
        let others: Vec<Report> = others.iter().map(|counts| primary("b", counts)).collect();
        let others: Vec<&Report> = others.iter().collect();
        shown(&judge_first(&primary("a", own), &others, Databases::of(0)))
    };
    assert_eq!(first(&[(0, 1000)], &[&[(0, 1000)], &[(0, 1000)]]), "serve");
    assert_eq!(first(&[(0, 500)], &[&[(0, 1000)]]), "serve");
    assert_eq!(first(&[(0, 499)], &[&[(0, 1000)]]), "HasFewer 0=lacks(499/1000)");
    let others_keys = [(0, 1000), (5, 9000)];
    assert_eq!(first(&[(0, 1000)], &[&others_keys]), "some 5?=lacks(0/9000)");
    assert_eq!(first(&others_keys, &[&[(0, 1000)]]), "serve");
    assert_eq!(first(&[], &[]), "serve");
}
