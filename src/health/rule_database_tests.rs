//! More scenes of the rule: of single databases, of replication, and of the other servers.

use super::*;
use crate::backend::Unserved;

#[test]
fn each_database_is_judged_by_itself() {
    let clock = clock();
    let serving = |report: Report| clock.serving(report);
    let scenes = [
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
    ];
    check(clock, &scenes);
}

#[test]
fn a_replica_follows_its_primary() {
    let clock = clock();
    let serving = |report: Report| clock.serving(report);
    let scenes = [
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
    ];
    check(clock, &scenes);
}

#[test]
fn other_servers_count_while_they_are_known() {
    let clock = clock();
    let serving = |report: Report| clock.serving(report);
    let scenes = [
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
                Report { unserved: Some(Unserved::Sentinel), ..primary("a", &[]) },
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
    check(clock, &scenes);
}
