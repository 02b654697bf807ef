//! Backends that DNS names, with a real `dnsmasq` that is changed, frozen, emptied and ended while clients read.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::balancer::Balancer;
use crate::support::data::{DATABASES, Data};
use crate::support::dnsmasq::Dnsmasq;
use crate::support::observe::connections_to;
use crate::support::redis::{RedisServer, free_port};
use crate::support::verify::{Crowd, Habits, KINDS};
use crate::support::{SetOnDrop, seed, wait_until};

/// A server with the data at 127.0.0.`last`.
fn server(data: &Data, last: u8, port: u16) -> RedisServer {
    let server = RedisServer::start_at(&format!("127.0.0.{last}"), port);
    data.load(&server);
    server
}

/// In front of what `url` names, which `dnsmasq` knows.
fn balancer(url: &str, dnsmasq: &Dnsmasq, arguments: &[&str]) -> Balancer {
    let own = ["--quiet", "--check-interval", "200ms", "--resolver", &dnsmasq.address()];
    Balancer::start_at(&[url.to_owned()], &[&own, arguments].concat())
}

/// The backends by name, with what the status says of one thing.
fn backends(lb: &Balancer, what: &str) -> BTreeMap<String, String> {
    let status = lb.get("/-/status.json").json();
    let of = |backend: &serde_json::Value| {
        let name = backend["name"].as_str().expect("a name").to_owned();
        (name, backend[what].to_string().trim_matches('"').to_owned())
    };
    status["backends"].as_array().expect("a list").iter().map(of).collect()
}

/// Waits until these servers are the backends, and up.
fn wait_for(lb: &Balancer, servers: &[&RedisServer]) {
    let up: BTreeMap<_, _> =
        servers.iter().map(|server| (server.address(), "up".to_owned())).collect();
    let mut now = BTreeMap::new();
    wait_until(&format!("the backends are {:?}", up.keys()), || {
        now = backends(lb, "state");
        now == up
    });
}

/// Waits until the source fails for this reason now.
fn wait_for_error(lb: &Balancer, text: &str) {
    wait_until(text, || {
        let error = &lb.get("/-/status.json").json()["sources"][0]["error"];
        error.as_str().is_some_and(|error| error.contains(text))
    });
}

/// A server at 127.0.0.`last` with as many keys as the data have, and others.
fn server_with_others(as_many_as: &RedisServer, last: u8, port: u16) -> RedisServer {
    let server = RedisServer::start_at(&format!("127.0.0.{last}"), port);
    let mut connection = as_many_as.connect();
    for database in 0..DATABASES {
        let size: usize = redis::pipe()
            .cmd("SELECT")
            .arg(database)
            .ignore()
            .cmd("DBSIZE")
            .query::<(usize,)>(&mut connection)
            .expect("a number")
            .0;
        let mut pipe = redis::pipe();
        pipe.cmd("SELECT").arg(database);
        (0..size).for_each(|number| _ = pipe.set(format!("other:{number}"), number));
        pipe.exec(&mut server.connect()).expect("the server takes them");
    }
    server
}

/// Answers all questions at this address with SERVFAIL until it is told to end.
fn fail_at(address: &str, is_over: &AtomicBool) {
    let socket = UdpSocket::bind(address).expect("the port is free");
    socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
    let mut message = [0; 512];
    while !is_over.load(Ordering::Relaxed) {
        if let Ok((length, from)) = socket.recv_from(&mut message) {
            message[2] |= 0x80;
            message[3] = 0x82;
            socket.send_to(&message[..length], from).expect("it is sent");
        }
    }
}

#[test]
fn whatever_the_nameserver_does_no_read_fails() {
    let (data, port) = (Arc::new(Data::new()), free_port());
    let [mut a, mut b, c] = [2, 3, 4].map(|last| server(&data, last, port));
    let mut dnsmasq = Dnsmasq::start("");
    let [of_a, of_b, of_c] =
        ["127.0.0.2 redis.example", "127.0.0.3 redis.example", "127.0.0.4 redis.example"];
    dnsmasq.set_hosts(&[of_a, of_b]);
    let lb = balancer(&format!("dns://redis.example.:{port}"), &dnsmasq, &[]);
    wait_for(&lb, &[&a, &b]);
    let crowd = Crowd::start(lb.port(), &data, &KINDS, Habits::default(), seed());

    dnsmasq.set_hosts(&[of_a, of_b, of_c]);
    wait_for(&lb, &[&a, &b, &c]);
    dnsmasq.set_hosts(&[of_c]);
    wait_for(&lb, &[&c]);
    dnsmasq.set_hosts(&[of_a, of_b]);
    wait_for(&lb, &[&a, &b]);

    // Whatever is no list changes nothing.
    dnsmasq.set_hosts(&[]);
    wait_for_error(&lb, "no such name (NXDOMAIN): redis.example");
    dnsmasq.restart("txt-record=redis.example,nothing else");
    wait_for_error(&lb, "redis.example has neither A nor AAAA records");
    dnsmasq.freeze();
    wait_for_error(&lb, "does not answer");
    dnsmasq.thaw();
    dnsmasq.end();
    wait_for_error(&lb, "nobody listens there");
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _guard = SetOnDrop(&is_over);
        scope.spawn(|| fail_at(&dnsmasq.address(), &is_over));
        wait_for_error(&lb, "answers SERVFAIL");
    });
    wait_for(&lb, &[&a, &b]);

    // An address is given away: its first server is drained before the next one is there.
    dnsmasq.restart("");
    dnsmasq.set_hosts(&[of_b, of_c]);
    wait_for(&lb, &[&b, &c]);
    wait_until("nobody is connected to the one that has gone", || connections_to(&a) == 0);
    a.kill();
    let other = RedisServer::start_at("127.0.0.2", port);
    other.command(&["SET", "string:5:0", "of another"]);
    thread::sleep(Duration::from_millis(500));
    assert_eq!(connections_to(&other), 0, "a server that DNS does not name is left alone");

    // An address is given away, and DNS still names it.
    b.kill();
    let mut other = server_with_others(&c, 3, port);
    wait_until("it is found out", || {
        let reason = backends(&lb, "reason").remove(&b.address()).unwrap_or_default();
        reason.contains("it has other keys than the others")
    });
    let is_syncing = || backends(&lb, "state")[&b.address()] == "syncing";
    thread::sleep(Duration::from_millis(1500));
    assert!(is_syncing(), "it goes on to have other keys");
    other.kill();
    b.restart();
    data.load(&b);
    wait_for(&lb, &[&b, &c]);

    let report = crowd.finish();
    assert!(report.is_clean() && report.right > 1000, "{report}");
}

#[test]
fn service_records_bring_ports_weights_and_backups() {
    let data = Data::new();
    let ports = [(); 3].map(|()| free_port());
    let [a, b, c] = [0, 1, 2].map(|at| server(&data, at as u8 + 2, ports[at]));
    let record = |name: &str, port: u16, priority: u16, weight: u16| {
        format!("srv-host=_redis._tcp.example,{name}.example,{port},{priority},{weight}\n")
    };
    let first = [
        record("a", ports[0], 10, 30),
        record("b", ports[1], 10, 10),
        record("c", ports[2], 20, 0),
    ];
    let hosts = ["127.0.0.2 a.example", "127.0.0.3 b.example", "127.0.0.4 c.example"];
    let mut dnsmasq = Dnsmasq::start(&first.concat());
    dnsmasq.set_hosts(&hosts);
    let lb = balancer("dns+srv://_redis._tcp.example.", &dnsmasq, &["--slow-start", "0s"]);
    wait_for(&lb, &[&a, &b, &c]);
    let told = |what: &str| {
        let backends = backends(&lb, what);
        [&a, &b, &c].map(|server| backends.get(&server.address()).cloned().unwrap_or_default())
    };
    assert_eq!(told("weight"), ["3", "1", "1"]);
    assert_eq!(told("backup"), ["false", "false", "true"]);
    let mut served = BTreeMap::new();
    for _ in 0..40 {
        let answer = lb.get("/string:5:0");
        *served.entry(answer.served_by().to_owned()).or_insert(0) += 1;
    }
    assert_eq!(served.get(&c.address()), None, "{served:?}");
    assert!(served[&a.address()] > served[&b.address()], "{served:?}");

    // Other records, and no server is another one: each keeps its connections.
    let second = [record("b", ports[1], 10, 5), record("c", ports[2], 10, 5)];
    dnsmasq.restart(&second.concat());
    wait_for(&lb, &[&b, &c]);
    wait_until("their settings are others", || told("backup")[1..] == ["false", "false"]);
    assert_eq!(told("weight")[1..], ["1", "1"]);
}
