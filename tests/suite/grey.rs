//! Grey failure: backends that pass their checks and serve badly.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::balancer::Balancer;
use crate::support::data::Data;
use crate::support::observe::{leases, metric, states};
use crate::support::redis::RedisServer;
use crate::support::relay::{Fault, Relay, Rule};
use crate::support::verify::{Crowd, Habits, KINDS, Kind, Report};
use crate::support::{seed, wait_until};

/// Packets of more bytes are lost; the replies to checks are shorter.
const MOST_BYTES: usize = 8000;

/// A long way round.
const DETOUR: Duration = Duration::from_millis(100);

fn filled(data: &Data) -> RedisServer {
    let server = RedisServer::start();
    data.load(&server);
    server
}

/// A balancer in front of these relays.
fn balancer(relays: &[Relay], arguments: &[&str]) -> Balancer {
    let addresses: Vec<String> = relays.iter().map(Relay::address).collect();
    let arguments = [&["--quiet", "--check-interval", "500ms"], arguments].concat();
    Balancer::start_at(&addresses, &arguments)
}

/// Redis clients that read one value at a time.
fn sessions(count: usize) -> Vec<Kind> {
    vec![Kind::Redis { batch: 1, protocol: 2, database: 0 }; count]
}

fn wait_for(lb: &Balancer, wanted: &[&str]) {
    wait_until(&format!("the states are {wanted:?}"), || states(lb) == wanted);
}

fn assert_clean(report: &Report) {
    assert!(report.is_clean(), "{report}");
    assert!(report.of_each.iter().all(|&right| right > 0), "{:?}", report.of_each);
}

#[test]
fn a_backend_that_loses_large_replies_and_passes_its_checks_comes_back_ever_more_seldom() {
    let data = Arc::new(Data::new());
    let servers = [(); 3].map(|()| filled(&data));
    let relays = servers.each_ref().map(Relay::start);
    let lb = balancer(&relays, &["--slow-start", "0s"]);
    let crowd = Crowd::start(lb.port(), &data, &KINDS, Habits::default(), seed());
    wait_until("each reads", || crowd.report().of_each.iter().all(|&right| right > 100));
    let grey = &relays[0];
    let is_up = format!("{} is up: it answers again", grey.address());
    let returns = || lb.log().matches(&is_up).count();
    grey.add(&Rule::new(Fault::LoseLarge(MOST_BYTES)));
    wait_until("it is noticed", || lb.log().contains(&format!("{} is ejected", grey.address())));
    thread::sleep(Duration::from_secs(15));
    let count = returns();
    assert!((1..=6).contains(&count), "{count} returns:\n{}", lb.log());
    let log = lb.log();
    let times = ["1s", "2s", "4s"].map(|time| log.find(&format!("is ejected: for {time}, as its")));
    assert!(times.is_sorted() && times[0].is_some(), "{times:?} in\n{log}");
    assert_eq!(states(&lb)[1..], ["up", "up"]);
    assert!(metric(&lb, "redis_lb_backend_ejections_total") >= 3.0);
    grey.clear();
    grey.reset_all();
    wait_until("it is back", || states(&lb) == ["up", "up", "up"]);
    let report = crowd.finish();
    println!("large replies are lost: {report}");
    assert_clean(&report);
}

#[test]
fn a_backend_far_away_gets_few_sessions_until_it_is_near_and_serves_alone_if_it_must() {
    let data = Arc::new(Data::new());
    let mut servers = [(); 3].map(|()| filled(&data));
    let relays = servers.each_ref().map(Relay::start);
    let lb = balancer(&relays, &["--slow-start", "1s"]);
    let crowd = Crowd::start(lb.port(), &data, &sessions(30), Habits::default(), seed());
    wait_until("they are level", || leases(&lb) == [10, 10, 10]);
    let far = &relays[0];
    far.add(&Rule::new(Fault::Latency(DETOUR)));
    wait_for(&lb, &["slow", "up", "up"]);
    let why = format!("{} is slow: its short reads take ", far.address());
    assert!(lb.log().contains(&why), "{}", lb.log());
    wait_until("most sessions have left", || leases(&lb)[0] <= 1);
    // It may have been suspect for a moment.
    wait_for(&lb, &["slow", "up", "up"]);
    let status = lb.get("/-/status.json").json();
    let reason = status["backends"][0]["reason"].as_str().expect("text");
    assert!(reason.contains("at the median of 5 s, those of its peers"), "{reason}");
    far.clear();
    wait_for(&lb, &["up", "up", "up"]);
    wait_until("they are level again", || leases(&lb) == [10, 10, 10]);
    assert_eq!(lb.log().matches(" is slow: ").count(), 1, "{}", lb.log());
    far.add(&Rule::new(Fault::Latency(DETOUR)));
    wait_for(&lb, &["slow", "up", "up"]);
    servers[1..].iter_mut().for_each(RedisServer::kill);
    wait_for(&lb, &["up", "down", "down"]);
    wait_until("all sessions are there", || leases(&lb) == [30, 0, 0]);
    let seen = crowd.report().right;
    wait_until("it serves", || crowd.report().right > seen + 30);
    assert_clean(&crowd.finish());
}

#[test]
fn backends_that_are_all_far_away_are_not_slow() {
    let data = Arc::new(Data::new());
    let servers = [(); 3].map(|()| filled(&data));
    let relays = servers.each_ref().map(Relay::start);
    let lb = balancer(&relays, &[]);
    relays.iter().for_each(|relay| relay.add(&Rule::new(Fault::Latency(DETOUR))));
    let crowd = Crowd::start(lb.port(), &data, &sessions(12), Habits::default(), seed());
    let began = Instant::now();
    // Longer than the medians look back.
    while began.elapsed() < Duration::from_secs(8) {
        assert_eq!(states(&lb), ["up", "up", "up"]);
        thread::sleep(Duration::from_millis(100));
    }
    wait_until("they are level", || leases(&lb) == [4, 4, 4]);
    assert_clean(&crowd.finish());
}
