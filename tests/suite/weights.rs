//! What a backend's settings and an operator's wishes do while clients read: weights, backups, zones, drain and
//! maintenance. The balancer runs in this process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use redis_lb::config::backend::{BackendConfig, BackendSettings};
use redis_lb::health::Admin;

use crate::support::data::Data;
use crate::support::local::{Local, addresses};
use crate::support::observe::connections_to;
use crate::support::redis::RedisServer;
use crate::support::resp::RespClient;
use crate::support::verify::{Crowd, Habits, KINDS};
use crate::support::{SetOnDrop, seed, wait_until};

fn servers<const N: usize>(data: &Data) -> [RedisServer; N] {
    let servers = [(); N].map(|()| RedisServer::start());
    servers.iter().for_each(|server| data.load(server));
    servers
}

/// The backends at these servers, each with the query of its URL.
fn with_settings(servers: &[(&RedisServer, &str)]) -> Vec<BackendConfig> {
    let parse = |(server, query): &(&RedisServer, &str)| {
        format!("redis://{}?{query}", server.address()).parse().expect("a backend")
    };
    servers.iter().map(parse).collect()
}

impl Local {
    fn set_admin(&self, server: &RedisServer, admin: Admin) {
        assert!(self.balancer.set_admin(self.id(server), admin, Instant::now()));
    }

    fn set_weight(&self, server: &RedisServer, weight: u16) {
        assert!(self.balancer.set_weight(self.id(server), Some(weight), Instant::now()));
    }

    fn wait_for(&self, server: &RedisServer, state: &str) {
        wait_until(state, || self.status_of(server)["state"] == state);
    }

    /// Reads so often over HTTP, one after the other: of several at a time, one that the system pauses would hold its lease.
    /// Returns the part that each of the servers has answered.
    fn read(&self, servers: &[&RedisServer], count: usize) -> Vec<f64> {
        let answered = || -> Vec<f64> {
            let of = |server: &&RedisServer| self.status_of(server)["requests"]["http"].as_f64();
            servers.iter().map(|server| of(server).expect("a count")).collect()
        };
        let before = answered();
        let agent = ureq::agent();
        let url = format!("http://127.0.0.1:{}/none", self.port);
        for _ in 0..count {
            // There is no such key.
            let request = agent.get(&url).config().http_status_as_error(false).build();
            let mut answer = request.call().expect("an answer");
            answer.body_mut().read_to_vec().expect("a body");
        }
        answered().iter().zip(before).map(|(now, before)| (now - before) / count as f64).collect()
    }
}

fn assert_near(shares: &[f64], expected: &[f64]) {
    let is_near = |(share, expected): (&f64, &f64)| (share - expected).abs() <= 0.02;
    assert!(shares.iter().zip(expected).all(is_near), "{shares:?} instead of {expected:?}");
}

#[test]
fn shares_of_both_protocols_follow_weights_that_change_at_run_time() {
    let data = Data::new();
    let servers = servers::<3>(&data);
    let all = servers.each_ref();
    let lb = Local::start(&all, &["--slow-start=0s"]);
    assert_near(&lb.read(&all, 3000), &[0.333; 3]);
    let mut sessions: Vec<RespClient> = (0..100).map(|_| RespClient::connect(lb.port)).collect();
    sessions.iter_mut().for_each(|session| _ = session.call("GET none"));
    for weights in [[1, 2, 7], [7, 2, 1], [0, 1, 1]] {
        servers.iter().zip(weights).for_each(|(server, weight)| lb.set_weight(server, weight));
        let sum: u16 = weights.iter().sum();
        let shares = weights.map(|weight| f64::from(weight) / f64::from(sum));
        wait_until("the sessions are where they should be", || {
            let leases = lb.leases(&all);
            leases
                .iter()
                .zip(shares)
                .all(|(count, share)| (*count as f64 - share * 100.0).abs() <= 2.0)
        });
        sessions.iter_mut().for_each(|session| assert_eq!(session.call("GET none"), "$-1\r\n"));
    }
    drop(sessions);
    wait_until("all leases are given back", || lb.leases(&all) == [0; 3]);
    for weights in [[1, 2, 7], [3, 1, 1]] {
        servers.iter().zip(weights).for_each(|(server, weight)| lb.set_weight(server, weight));
        let sum: u16 = weights.iter().sum();
        let shares = weights.map(|weight| f64::from(weight) / f64::from(sum));
        assert_near(&lb.read(&all, 4000), &shares);
    }
    let status = lb.status_of(all[0]);
    assert_eq!((&status["weight"], &status["state"]), (&3.into(), &"up".into()));
    lb.set_admin(all[0], Admin::Ready);
    assert_eq!(lb.status_of(all[0])["weight"], 1, "as configured");
}

#[test]
fn drain_and_maintenance_under_load_fail_no_read_and_leave_nothing_behind() {
    let data = Arc::new(Data::new());
    let servers = servers::<3>(&data);
    let [a, b, c] = servers.each_ref();
    let lb = Local::start(&[a, b, c], &["--slow-start=500ms"]);
    let crowd = Crowd::start(lb.port, &data, &KINDS, Habits::default(), seed());
    let mut subscriber = RespClient::connect(lb.port);
    subscriber.call("SUBSCRIBE news");
    for drained in [a, b, c] {
        lb.set_admin(drained, Admin::Drain);
        lb.wait_for(drained, "draining");
        wait_until("it has no lease", || lb.leases(&[drained]) == [0]);
        lb.set_admin(drained, Admin::Ready);
        wait_until("it has leases again", || lb.leases(&[drained])[0] > 0);
        lb.set_admin(drained, Admin::Maint);
        lb.wait_for(drained, "maint");
        wait_until("nobody is connected to it", || connections_to(drained) == 0);
        assert_eq!(lb.leases(&[drained]), [0]);
        lb.set_admin(drained, Admin::Ready);
        lb.wait_for(drained, "up");
        wait_until("it has leases again", || lb.leases(&[drained])[0] > 0);
    }
    for server in [a, b, c] {
        lb.set_admin(server, Admin::Drain);
    }
    let before = crowd.report().right;
    wait_until("all are read from as a last resort", || crowd.report().right > before + 500);
    lb.set_admin(a, Admin::Maint);
    lb.set_admin(b, Admin::Maint);
    let before = crowd.report().right;
    wait_until("the one that drains serves", || crowd.report().right > before + 500);
    for server in [a, b, c] {
        lb.set_admin(server, Admin::Ready);
        lb.wait_for(server, "up");
    }
    for server in [a, b, c] {
        server.command(&["PUBLISH", "news", "hello"]);
    }
    assert!(subscriber.reply().ends_with(b"hello\r\n"), "it hears one of them");
    let report = crowd.finish();
    assert!(report.is_clean() && report.right > 1000, "{report}");
    drop(subscriber);
    wait_until("all leases are given back", || lb.leases(&[a, b, c]) == [0; 3]);
}

#[test]
fn a_backup_is_read_from_while_no_other_is_up_and_left_by_all_then() {
    let data = Arc::new(Data::new());
    let mut servers = servers::<2>(&data);
    let lb = {
        let [usual, backup] = servers.each_ref();
        let backends = with_settings(&[(usual, "weight=1"), (backup, "backup=true")]);
        Local::start_at(backends, &["--slow-start=0s"])
    };
    let crowd = Crowd::start(lb.port, &data, &KINDS, Habits::default(), seed());
    wait_until("they read", || crowd.report().right > 200);
    assert_eq!(lb.status_of(&servers[1])["requests"]["resp"], 0);
    servers[0].kill();
    wait_until("the backup is used", || lb.leases(&[&servers[1]])[0] >= 6);
    servers[0].restart();
    data.load(&servers[0]);
    lb.wait_for(&servers[0], "up");
    wait_until("the backup is left", || lb.leases(&[&servers[1]]) == [0]);
    let report = crowd.finish();
    assert!(report.is_clean(), "{report}");
    assert_eq!(lb.status_of(&servers[1])["backup"], true);
}

#[test]
fn the_own_zone_is_preferred_and_spills_over_when_a_part_of_it_is_gone() {
    let data = Data::new();
    let servers = servers::<3>(&data);
    let all @ [a, b, c] = servers.each_ref();
    let backends = with_settings(&[(a, "zone=x"), (b, "zone=x"), (c, "zone=y")]);
    let lb = Local::start_at(backends, &["--zone=x", "--slow-start=100ms"]);
    assert_near(&lb.read(&all, 3200), &[0.5, 0.5, 0.0]);
    lb.set_admin(a, Admin::Maint);
    assert_near(&lb.read(&all, 3200), &[0.0, 0.7, 0.3]);
    lb.set_admin(b, Admin::Maint);
    assert_near(&lb.read(&all, 240), &[0.0, 0.0, 1.0]);
    for server in [a, b] {
        lb.set_admin(server, Admin::Ready);
        lb.wait_for(server, "up");
    }
    thread::sleep(Duration::from_millis(100));
    assert_near(&lb.read(&all, 3200), &[0.5, 0.5, 0.0]);
    assert_eq!(lb.status()["zone"]["own"], "x");
    assert_eq!(lb.status_of(c)["zone"], "y");
}

#[test]
fn an_update_applies_settings_keeps_what_an_operator_has_set_and_shows_no_name_twice() {
    let data = Arc::new(Data::new());
    let servers = servers::<2>(&data);
    let [a, b] = servers.each_ref();
    let lb = Local::start(&[a, b], &["--slow-start=0s"]);
    let crowd = Crowd::start(lb.port, &data, &KINDS[..6], Habits::default(), seed());
    let before = lb.ids();
    lb.set_weight(a, 5);
    lb.set_admin(b, Admin::Drain);
    let changes = lb.update(with_settings(&[(a, "weight=3"), (b, "zone=z")]));
    let (one, other) = (a.address(), b.address());
    assert_eq!(
        (changes.changed, changes.added, changes.removed.len()),
        (vec![one, other], vec![], 0)
    );
    let overridden = [a, b].map(|server| {
        let set = lb.balancer.overrides(lb.id(server));
        (set.weight, set.admin)
    });
    assert_eq!(overridden, [(Some(5), Admin::Ready), (None, Admin::Drain)]);
    assert_eq!((lb.ids(), lb.status_of(a)["weight"].clone()), (before, 5.into()));
    assert_eq!(lb.status_of(b)["state"], "draining");
    lb.set_admin(b, Admin::Ready);
    lb.set_admin(a, Admin::Ready);
    assert_eq!(lb.status_of(a)["weight"], 3);
    // A URL with another database is another backend. Redis clients don't notice which.
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let (lb, is_over) = (&lb, &is_over);
        scope.spawn(move || {
            let _set = SetOnDrop(is_over);
            for round in 0..6 {
                let database = round % 2;
                let url = |server: &RedisServer| format!("redis://{}/{database}", server.address());
                let backends = [a, b].map(|server| url(server).parse().expect("a backend"));
                lb.update(backends.to_vec());
            }
        });
        while !is_over.load(Ordering::Relaxed) {
            let names: Vec<_> = lb.balancer.shown_backends();
            assert!(names.len() == 2, "{} names", names.len());
        }
    });
    let report = crowd.finish();
    assert!(report.is_clean(), "{report}");
    assert_eq!(addresses(&[a, b]).len(), lb.ids().len());
}

#[test]
fn the_last_backend_that_answers_stays_until_one_that_is_listed_is_up() {
    let data = Arc::new(Data::new());
    let [full] = servers::<1>(&data);
    let empty = RedisServer::start();
    let lb = Local::start(&[&full], &["--slow-start=0s"]);
    let crowd = Crowd::start(lb.port, &data, &KINDS, Habits::default(), seed());
    let changes = lb.update(addresses(&[&empty]));
    assert_eq!((changes.added, changes.removed), (vec![empty.address()], vec![full.address()]));
    assert_eq!(lb.ids().len(), 2, "after ten seconds there is nothing else to read from");
    data.load(&empty);
    wait_until("the new one takes its place", || lb.ids().len() == 1);
    wait_until("all read there", || lb.leases(&[&empty])[0] >= 6);
    lb.update(addresses(&[&full, &empty]));
    let report = crowd.finish();
    assert!(report.is_clean() && report.right > 1000, "{report}");
    let settings = BackendSettings::default();
    assert!(!lb.balancer.set_settings(lb.id(&empty), settings, Instant::now()), "they are these");
}
