//! What this machine lacks is no failure of a backend: clients that are served get their answers, and
//! those that would take what they need are turned away.

use std::fs;
use std::io::{self, ErrorKind};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::balancer::{Answer, Balancer};
use crate::support::observe::states;
use crate::support::redis::RedisServer;
use crate::support::resp::RespClient;
use crate::support::wait_until;

const LOAD_TIME: Duration = Duration::from_secs(3);

fn two_servers() -> [RedisServer; 2] {
    let servers = [(); 2].map(|()| RedisServer::start());
    for server in &servers {
        for number in 0..10 {
            server.command(&["SET", &format!("key:{number}"), &format!("value:{number}")]);
        }
        server.command(&["SETRANGE", "long", "199999", "x"]);
    }
    servers
}

/// With so many file descriptors at most.
fn start_limited(servers: &[RedisServer], descriptors: usize) -> Balancer {
    let mut command = Command::new("bash");
    command.args(["-c", &format!("ulimit -n {descriptors} && exec \"$0\" \"$@\"")]);
    command.arg(env!("CARGO_BIN_EXE_lb")).args(["--listen", "127.0.0.1:0", "--quiet"]);
    servers.iter().for_each(|server| _ = command.args(["--backend", &server.address()]));
    Balancer::spawn(command)
}

/// What one client did that came again and again.
#[derive(Default)]
struct Outcome {
    served: usize,
    turned_away: usize,
}

/// Each visit is served to its end, with right answers, or turned away at its beginning.
fn visit_as_redis_client(lb: &Balancer, number: usize, outcome: &mut Outcome) {
    let mut client = RespClient::new(lb.connect());
    for round in 0..20 {
        let database = (number % 3).to_string();
        let reply = match (round, number % 4) {
            // Others want connections of other modes, or of their own.
            (0, 1) => client
                .try_send_raw(encode(&["SELECT", &database]))
                .and_then(|()| client.try_reply()),
            (_, 2) => {
                client.try_send_raw(encode(&["GET", "long"])).and_then(|()| client.try_reply())
            }
            _ => client
                .try_send_raw(encode(&["STRLEN", &format!("key:{}", number % 10)]))
                .and_then(|()| client.try_reply()),
        };
        match reply {
            Ok(reply) if round == 0 && reply.starts_with(b"-ERR max number of clients") => {
                outcome.turned_away += 1;
                return;
            }
            Ok(reply) => {
                let head = String::from_utf8_lossy(&reply[..reply.len().min(80)]).into_owned();
                let is_right = match (round, number % 4) {
                    (0, 1) => head == "+OK\r\n",
                    (_, 1) => head == if database == "0" { ":7\r\n" } else { ":0\r\n" },
                    (_, 2) => head.starts_with("$200000\r\n"),
                    _ => head == ":7\r\n",
                };
                assert!(is_right, "client {number} in round {round}: {head}");
            }
            Err(error) if round == 0 && is_turned_away(&error) => {
                outcome.turned_away += 1;
                return;
            }
            Err(error) => panic!("client {number} in round {round}: {error}"),
        }
    }
    outcome.served += 1;
}

fn visit_over_http(lb: &Balancer, number: usize, outcome: &mut Outcome) {
    let key =
        if number.is_multiple_of(4) { "long".to_owned() } else { format!("key:{}", number % 10) };
    let request = format!("GET /{key} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let said = lb.talk(request.as_bytes());
    if said.is_empty() || String::from_utf8_lossy(&said).contains("too many clients") {
        outcome.turned_away += 1;
        return;
    }
    let answer = Answer::parse(&said);
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    assert!(answer.is_whole);
    outcome.served += 1;
}

fn encode(words: &[&str]) -> Vec<u8> {
    crate::support::resp::encode(words)
}

/// A client that is turned away before it has said anything may be told so over HTTP.
fn is_turned_away(error: &io::Error) -> bool {
    let is_end = matches!(
        error.kind(),
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
    );
    is_end || error.to_string().contains("503 Service Unavailable")
}

/// Many more clients than can be served come all the time.
fn crowd(lb: &Balancer, clients: usize) -> Outcome {
    let deadline = Instant::now() + LOAD_TIME;
    let mut sum = Outcome::default();
    thread::scope(|scope| {
        let visitors: Vec<_> = (0..clients)
            .map(|number| {
                scope.spawn(move || {
                    let mut outcome = Outcome::default();
                    while Instant::now() < deadline {
                        match number % 2 {
                            0 => visit_as_redis_client(lb, number / 2, &mut outcome),
                            _ => visit_over_http(lb, number / 2, &mut outcome),
                        }
                    }
                    outcome
                })
            })
            .collect();
        for visitor in visitors {
            let outcome = visitor.join().expect("no wrong answer");
            sum.served += outcome.served;
            sum.turned_away += outcome.turned_away;
        }
    });
    sum
}

#[test]
fn with_few_file_descriptors_there_are_fewer_clients_and_those_are_served() {
    let servers = two_servers();
    for descriptors in [64, 128] {
        let lb = start_limited(&servers, descriptors);
        let warning = format!("the limit of {descriptors} open files is too low for --max-clients");
        wait_until("it warns", || lb.log().matches(&warning).count() == 1);
        let outcome = crowd(&lb, 2 * descriptors);
        assert!(outcome.served > 0 && outcome.turned_away > 0, "{descriptors}");
        let log = lb.log();
        for word in ["is suspect", "is down", "Too many open files", "can't"] {
            assert!(!log.contains(word), "{word} at {descriptors}: {log}");
        }
        wait_until("all have left", || {
            RespClient::new(lb.connect()).call("INFO balancer").contains("lb_clients:1\r\n")
        });
        assert_eq!(states(&lb), ["up", "up"]);
        assert_eq!(lb.get("/key:1").json(), "value:1");
    }
}

#[test]
fn too_few_file_descriptors_to_serve_anybody_are_an_error_at_the_start() {
    let mut command = Command::new("bash");
    command.args(["-c", "ulimit -n 20 && exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_lb")]);
    command.args(["--listen", "127.0.0.1:0", "--backend", "127.0.0.1:1"]);
    let output = command.output().expect("lb");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("20 open files are too few") && error.contains("ulimit -n"), "{error}");
}

fn descriptors(lb: &Balancer) -> usize {
    fs::read_dir(format!("/proc/{}/fd", lb.pid())).expect("Linux").count()
}

#[test]
#[cfg(target_os = "linux")]
fn a_machine_that_has_no_descriptor_left_takes_no_backend_away() {
    let servers = two_servers();
    let backends: Vec<&RedisServer> = servers.iter().collect();
    let lb = Balancer::start_with(
        &backends,
        &["--check-interval", "100ms", "--backend-timeout", "400ms"],
    );
    let mut sessions: Vec<RespClient> = (0..8).map(|_| RespClient::connect(lb.port())).collect();
    for _ in 0..3 {
        sessions.iter_mut().for_each(|session| assert_eq!(session.call("STRLEN key:1"), ":7\r\n"));
    }
    let mut http = lb.client();
    assert_eq!(http.get("/key:1").json(), "value:1");
    // Its listener is ready, and nothing can be opened any more: neither for clients nor for checks
    // that begin anew.
    lb.limit_descriptors(3);
    assert!(descriptors(&lb) > 3);
    for server in &servers {
        // That of the check as well: what is left are those that can't be made again.
        server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    }
    let waiting = lb.connect();
    let local = "this machine lets lb have no more file descriptors";
    for session in &mut sessions {
        let reply = session.call("STRLEN key:1");
        assert!(reply.starts_with("-ERR ") && reply.contains(local), "{reply}");
    }
    let answer = http.get("/key:1");
    let error = answer.json()["error"].as_str().expect("an error").to_owned();
    assert_eq!(answer.status, 503);
    assert!(error.contains(local), "{error}");
    wait_until("checks can't be made", || lb.log().contains("can't be checked: this machine"));
    lb.limit_descriptors(1000);
    for session in &mut sessions {
        assert_eq!(session.call("STRLEN key:1"), ":7\r\n");
    }
    assert_eq!(http.get("/key:1").json(), "value:1");
    assert_eq!(RespClient::new(waiting).call("STRLEN key:1"), ":7\r\n");
    assert_eq!(states(&lb), ["up", "up"]);
    let log = lb.log();
    assert!(!log.contains("is suspect") && !log.contains("is down"), "{log}");
    // It was not tried without a pause.
    assert!(log.matches("can't take a client").count() < 50, "{log}");
}
