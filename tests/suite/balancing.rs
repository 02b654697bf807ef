//! Which backend a client gets.

use std::collections::HashMap;
use std::thread;
use std::time::Duration;

use crate::support::balancer::Balancer;
use crate::support::redis::{RedisServer, three_servers};
use crate::support::wait_until;

fn counts(answers: impl IntoIterator<Item = String>) -> Vec<usize> {
    let mut counts: HashMap<String, usize> = HashMap::new();
    answers.into_iter().for_each(|backend| *counts.entry(backend).or_default() += 1);
    let mut counts: Vec<usize> = counts.into_values().collect();
    counts.sort_unstable();
    counts
}

#[test]
fn seven_clients_at_once_land_three_two_two() {
    let servers = three_servers();
    // Long enough for all seven to be there at the same time.
    let lb = Balancer::start_with(&servers.each_ref(), &["--demo-delay", "500ms"]);
    let answers: Vec<String> = thread::scope(|scope| {
        let clients: Vec<_> =
            (0..7).map(|_| scope.spawn(|| lb.get("/actor:1").served_by().to_owned())).collect();
        clients.into_iter().map(|client| client.join().expect("an answer")).collect()
    });
    assert_eq!(counts(answers), [2, 2, 3]);
    wait_until("each request has its line in the log", || {
        lb.log().matches("GET /actor:1 200").count() == 7
    });
}

#[test]
fn the_demo_delay_shows_the_table_filling_and_emptying() {
    let servers = three_servers();
    let lb = Balancer::start_with(&servers.each_ref(), &["--demo-delay", "700ms"]);
    let shown = |counts: [usize; 3]| {
        let parts: Vec<String> = servers
            .iter()
            .zip(counts)
            .map(|(server, count)| format!("{}={count}", server.address()))
            .collect();
        parts.join(" ")
    };
    thread::scope(|scope| {
        for _ in 0..7 {
            scope.spawn(|| lb.get("/actor:1"));
        }
    });
    wait_until("the table is full once and empty at the end", || {
        let log = lb.log();
        log.contains(&format!("held for 700ms leases {}", shown([3, 2, 2])))
            && log.trim_end().ends_with(&shown([0, 0, 0]))
    });
}

#[test]
fn many_requests_over_keep_alive_connections_are_shared_evenly() {
    let servers = three_servers();
    // The delay is the same for each, so that the shares do not hang on how busy the machine is.
    let lb = Balancer::start_with(&servers.each_ref(), &["--demo-delay", "3ms"]);
    let answers: Vec<String> = thread::scope(|scope| {
        let clients: Vec<_> = (0..30)
            .map(|_| {
                scope.spawn(|| {
                    let agent = ureq::agent();
                    let one = |_| {
                        let mut answer = agent.get(lb.url("/actor:1")).call().expect("200");
                        answer.body_mut().read_to_string().expect("a body");
                        answer.headers()["x-served-by"].to_str().expect("text").to_owned()
                    };
                    (0..100).map(one).collect::<Vec<_>>()
                })
            })
            .collect();
        clients.into_iter().flat_map(|client| client.join().expect("answers")).collect()
    });
    let counts = counts(answers);
    assert_eq!(counts.iter().sum::<usize>(), 3000);
    assert!(counts.len() == 3 && counts[2] <= 1080, "{counts:?}");
}

#[test]
fn while_one_backend_is_busy_the_next_clients_go_to_the_others() {
    let servers = three_servers();
    let busy = &servers[0];
    let lb = Balancer::start_with(&servers.each_ref(), &["--backend-timeout", "20s"]);
    busy.freeze();
    thread::scope(|scope| {
        // Equals take turns: of the first three, one gets the frozen server and keeps its lease.
        let held: Vec<_> = (0..3).map(|_| scope.spawn(|| lb.get("/actor:1"))).collect();
        wait_until("two of three are answered", || {
            held.iter().filter(|client| client.is_finished()).count() == 2
        });
        for _ in 0..10 {
            assert_ne!(lb.get("/actor:1").served_by(), busy.address());
        }
        busy.thaw();
    });
    let backends: Vec<String> = (0..6).map(|_| lb.get("/actor:1").served_by().to_owned()).collect();
    assert_eq!(counts(backends), [2, 2, 2], "free again, it takes its turns");
}

#[test]
fn a_redis_that_answers_slowly_is_given_the_time_that_it_was_promised() {
    let server = RedisServer::start();
    server.command(&["SET", "a", "1"]);
    let lb = Balancer::start_with(&[&server], &["--backend-timeout", "5s"]);
    let sleeper = thread::spawn({
        let mut connection = server.connect();
        move || redis::cmd("DEBUG").arg("SLEEP").arg(1).exec(&mut connection)
    });
    thread::sleep(Duration::from_millis(100));
    assert_eq!(lb.get("/a").status, 200);
    sleeper.join().expect("no panic").expect("DEBUG SLEEP");
}
