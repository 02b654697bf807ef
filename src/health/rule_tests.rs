//! Each row of the rule is a scene: what was known, what a check finds, and what that means.

use std::fmt::Write;

use super::known::{
    Cause, Completeness, Databases, Grade, Identity, Known, Remembered, Seen, Unproven,
};
use super::rule::{Facts, Verdict, judge, judge_first};
use crate::backend::{Keys, Report};
use std::time::{Duration, Instant};

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

impl Clock {
    fn ago(self, time: Duration) -> Instant {
        self.0.checked_sub(time).expect("the scenes begin an hour after the clock")
    }

    /// A server that serves these, and has for long.
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

    /// One that served these until so long ago, and does not answer.
    fn away(self, report: Report, time: Duration) -> Known {
        let mut remembered = Remembered::default();
        if let Some(keys) = &report.keys {
            remembered.note(keys, self.ago(time), |_| false);
        }
        let serving = self.serving(report);
        Known { is_serving: false, answers: false, remembered, ..serving }
    }

    /// One that serves still, or did a moment ago, and of which the last check has found this.
    fn found(self, before: Known, report: Report, kept_for: Duration) -> Known {
        let seen = Some(Seen { report, keys_since: self.ago(kept_for) });
        Known { seen, answers: true, ..before }
    }

    /// One that had the first, answers, and has the second since so long ago, unproven.
    fn back(self, had: Report, report: Report, kept_for: Duration) -> Known {
        let before = Known {
            is_serving: false,
            must_prove: Some(Cause::Restarted),
            ..self.away(had, 10 * SECOND)
        };
        self.found(before, report, kept_for)
    }
}

/// A check finds this, in a server of which that was known, beside those.
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

#[test]
fn each_scene_has_its_verdict() {
    let clock = Clock(Instant::now() + 3600 * SECOND);
    let full = || primary("a", &[(0, 1000)]);
    let full_b = || primary("b", &[(0, 1000)]);
    let full_c = || primary("c", &[(0, 1000)]);
    let serving = |report: Report| clock.serving(report);
    let unproven = |known: Known, number: u32, has: u64, of: u64| {
        let found = Completeness { grade: Grade::Incomplete, has, of };
        let unproven = [(number, Unproven::new(found))].into();
        Known { unproven, ..known }
    };
    let rows: Vec<(&str, Scene, &str)> = vec![
        // Losing keys is no doubt.
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
        // A restart.
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
        // Each database for itself.
        (
            "a stray key in database 7 of one server, and a rolling restart of another",
            Scene::new(
                primary("a2", &[(0, 1000)]),
                serving(full()),
                vec![serving(primary("b", &[(0, 1000), (7, 1)]))],
            ),
            "Restarted 0=complete(1000) 7?=lacks(0/1)",
        ),
        (
            "the end of the server that had it",
            Scene::new(
                primary("a2", &[(0, 1000)]),
                unproven(serving(primary("a2", &[(0, 1000)])), 7, 0, 1),
                vec![
                    clock.away(primary("b", &[(0, 1000), (7, 1)]), 10 * SECOND),
                    unproven(serving(full_c()), 7, 0, 1),
                ],
            ),
            "some 7?=lacks(0/1)",
        ),
        (
            "beside one that was never restarted, and serves it without that key",
            Scene::new(
                primary("a2", &[(0, 1000)]),
                unproven(serving(primary("a2", &[(0, 1000)])), 7, 0, 1),
                vec![
                    clock.away(primary("b", &[(0, 1000), (7, 1)]), 10 * SECOND),
                    serving(full_c()),
                ],
            ),
            "some 7?=complete(0)",
        ),
        (
            "clients read database 7",
            Scene::new(
                primary("a2", &[(0, 1000)]),
                unproven(serving(primary("a2", &[(0, 1000)])), 7, 0, 1),
                vec![clock.away(primary("b", &[(0, 1000), (7, 1)]), 10 * SECOND)],
            )
            .using(7),
            "some 7=lacks(0/1)",
        ),
        (
            "it is forgotten",
            Scene::new(
                primary("a2", &[(0, 1000)]),
                unproven(serving(primary("a2", &[(0, 1000)])), 7, 0, 1),
                vec![clock.away(primary("b", &[(0, 1000), (7, 1)]), FORGET_AFTER + SECOND)],
            ),
            "some 7?=complete(0)",
        ),
        (
            "no client has read yet: each database matters",
            Scene {
                in_use: Databases::of(3),
                ..Scene::new(
                    primary("a2", &[(1, 9)]),
                    serving(primary("a", &[(1, 9), (2, 9)])),
                    vec![serving(primary("b", &[(1, 9), (2, 9)]))],
                )
            },
            "Restarted 1=complete(9) 2=lacks(0/9)",
        ),
        // Replication.
        (
            "a primary that restarted empty has emptied its replica, and no check saw how",
            Scene::new(
                filled_anew(replica("a", &[])),
                serving(replica("a", &[(0, 1000)])),
                vec![
                    serving(replica("b", &[(0, 1000)])),
                    clock.back(full_c(), primary("c2", &[]), SECOND),
                ],
            ),
            "FilledAnew 0=lacks(0/1000)",
        ),
        (
            "a replica that was emptied, with a first write in it, and all others too",
            Scene::new(
                filled_anew(replica("a", &[(0, 1)])),
                serving(replica("a", &[(0, 1000)])),
                vec![
                    clock.found(
                        serving(replica("b", &[(0, 1000)])),
                        filled_anew(replica("b", &[(0, 1)])),
                        Duration::ZERO,
                    ),
                    clock.back(full_c(), primary("c2", &[(0, 1)]), SECOND),
                ],
            )
            .kept_for(Duration::ZERO),
            "FilledAnew 0=lacks(1/1000)",
        ),
        (
            "a replica that was filled anew and is complete",
            Scene::new(
                filled_anew(replica("a", &[(0, 1000)])),
                serving(replica("a", &[(0, 1000)])),
                vec![serving(full_b())],
            ),
            "FilledAnew 0=complete(1000)",
        ),
        (
            "its primary was replaced by a replica: the history goes on under another name",
            Scene::new(
                Report {
                    previous_replication_id: "history".into(),
                    ..filled_anew(replica("a", &[(0, 1000)]))
                },
                serving(replica("a", &[(0, 1000)])),
                vec![],
            ),
            "serve",
        ),
        (
            "a primary's history has another name: it has got its first replica",
            Scene::new(filled_anew(full()), serving(full()), vec![serving(full_b())]),
            "serve",
        ),
        (
            "a replica whose link is down has its data",
            Scene::new(
                cut_off(replica("a", &[(0, 1000)])),
                serving(replica("a", &[(0, 1000)])),
                vec![serving(full_b())],
            ),
            "serve",
        ),
        (
            "a replica whose link was down since the last check",
            Scene::new(
                replica("a", &[(0, 1000)]),
                serving(cut_off(replica("a", &[(0, 1000)]))),
                vec![serving(full_b())],
            ),
            "LinkWasDown 0=complete(1000)",
        ),
        (
            "that has not caught up",
            Scene::new(
                replica("a", &[(0, 900)]),
                serving(cut_off(replica("a", &[(0, 900)]))),
                vec![serving(full_b())],
            ),
            "LinkWasDown 0=lacks(900/1000)",
        ),
        (
            "a mass delete while the links of all replicas were down, with no primary to be asked",
            Scene::new(
                replica("a", &[]),
                serving(cut_off(replica("a", &[(0, 1000)]))),
                vec![Known {
                    must_prove: Some(Cause::LinkWasDown),
                    is_serving: false,
                    ..clock.found(serving(replica("b", &[(0, 1000)])), replica("b", &[]), SECOND)
                }],
            )
            .kept_for(Duration::ZERO),
            "LinkWasDown 0?=complete(0)",
        ),
        (
            "a replica in a full resynchronisation",
            Scene::new(
                Report {
                    not_ready: Some("it gets its data".to_owned()),
                    ..cut_off(replica("a", &[(0, 1000)]))
                },
                serving(replica("a", &[(0, 1000)])),
                vec![serving(full_b())],
            ),
            "not ready None",
        ),
        (
            "after that it has to prove itself",
            Scene::new(
                replica("a", &[(0, 10)]),
                Known {
                    must_prove: Some(Cause::WasNotReady),
                    is_serving: false,
                    ..serving(replica("a", &[(0, 1000)]))
                },
                vec![serving(full_b())],
            ),
            "WasNotReady 0=lacks(10/1000)",
        ),
        // Others.
        (
            "one that was there first, and is empty, once a full one is there",
            Scene::new(
                primary("a", &[]),
                serving(primary("a", &[])),
                vec![Known { first_accepted: Some(clock.ago(SECOND)), ..serving(full_b()) }],
            ),
            "some 0=lacks(0/1000)",
        ),
        (
            "a full one that was accepted at the same moment, at the start",
            Scene::new(
                primary("a", &[]),
                serving(primary("a", &[])),
                vec![Known {
                    first_accepted: serving(primary("a", &[])).judged,
                    ..serving(full_b())
                }],
            ),
            "serve, warn",
        ),
        (
            "a full one that was compared with it already",
            Scene::new(primary("a", &[]), serving(primary("a", &[])), vec![serving(full_b())]),
            "serve, warn",
        ),
        (
            "a Sentinel",
            Scene::new(
                Report { unserved: Some("a Sentinel".to_owned()), ..primary("a", &[]) },
                Known::default(),
                vec![],
            ),
            "unserved",
        ),
        (
            "a user that may not use INFO",
            Scene::new(Report::default(), Known::default(), vec![serving(full_b())]),
            "FirstMet 0?=complete(0)",
        ),
    ];
    for (scene, facts, expected) in rows {
        assert_eq!(facts.verdict(clock), expected, "{scene}");
    }
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
