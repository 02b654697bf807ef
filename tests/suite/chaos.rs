//! What clients see while servers fail in every way that we could think of: nothing, as long as one
//! good server is left.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::balancer::Balancer;
use crate::support::data::Data;
use crate::support::redis::RedisServer;
use crate::support::verify::{Crowd, Habits, KINDS, Kind};
use crate::support::{seed, wait_until};

/// Of a stall that shall be under 1.2 s, on a computer that does much else at the time.
const LONGEST_STALL: Duration = Duration::from_secs(2);

/// A server that has the data, and has them again after a restart.
fn filled(data: &Data) -> RedisServer {
    let server = RedisServer::start_with(&["--repl-diskless-sync-delay", "0"]);
    data.load(&server);
    server.save();
    server
}

fn three(data: &Data) -> [RedisServer; 3] {
    [(); 3].map(|()| filled(data))
}

/// So many clients, of all kinds.
fn kinds(count: usize) -> Vec<Kind> {
    KINDS.into_iter().cycle().take(count).collect()
}

#[test]
fn the_verifying_clients_notice_a_lost_connection_a_wrong_value_and_a_stall() {
    let data = Arc::new(Data::new());
    let straight = [KINDS[0], KINDS[2], KINDS[3], KINDS[4], KINDS[5]];
    let mut server = filled(&data);
    let lb = Balancer::start(&[&server]);
    let habits = Habits { long_replies: true, ..Habits::default() };
    let healthy = Crowd::start(lb.port(), &data, &KINDS, habits, seed());
    let direct = Crowd::start(server.port(), &data, &straight, habits, seed());
    for crowd in [&healthy, &direct] {
        wait_until("each is answered", || crowd.report().of_each.iter().all(|&right| right > 50));
    }
    let report = healthy.finish();
    assert!(report.is_clean() && report.cut == 0, "{report}");
    let report = direct.report();
    assert!(report.is_clean() && report.cut == 0, "{report}");
    server.freeze();
    thread::sleep(Duration::from_millis(700));
    server.thaw();
    wait_until("the stall is over", || direct.report().longest_stall().as_millis() >= 650);
    server.kill();
    wait_until("each is cut off", || direct.report().dropped + direct.report().cut >= 5);
    let report = direct.finish();
    assert_eq!((report.errors, report.wrong), (0, 0), "{report}");
    server.restart();
    wait_until("it has its data", || data.is_in(&server));
    server.command(&["APPEND", "string:5:7", "x"]);
    let kinds = [KINDS[2], KINDS[3], KINDS[5], KINDS[6]];
    let crowds = kinds.map(|kind| Crowd::start(lb.port(), &data, &[kind], habits, seed()));
    for crowd in crowds {
        wait_until("the wrong value is read", || crowd.report().wrong > 0);
        let report = crowd.finish();
        assert!(report.texts.iter().any(|text| text.contains("string:5:")), "{report}");
    }
}

#[test]
fn no_client_notices_that_one_server_returns_empty_and_another_freezes() {
    let data = Arc::new(Data::new());
    let [mut killed, frozen, other] = three(&data);
    let lb = Balancer::start(&[&killed, &frozen, &other]);
    let four = [KINDS[1], KINDS[3], KINDS[4], KINDS[5], KINDS[7]];
    let kinds: Vec<Kind> = four.into_iter().cycle().take(20).collect();
    let crowd = Crowd::start(lb.port(), &data, &kinds, Habits::default(), seed());
    let began = Instant::now();
    let until = |second| {
        thread::sleep((began + Duration::from_secs(second)).duration_since(Instant::now()));
    };
    until(1);
    killed.kill();
    killed.forget();
    until(2);
    killed.restart();
    until(4);
    data.load(&killed);
    until(5);
    frozen.freeze();
    until(8);
    frozen.thaw();
    until(9);
    let report = crowd.finish();
    println!("one returns empty, another freezes: {report}");
    assert!(report.is_clean() && report.cut == 0, "{report}");
    assert!(report.longest_stall() < LONGEST_STALL, "{report}");
    assert!(report.of_each.iter().all(|&right| right > 100), "{:?}", report.of_each);
}
