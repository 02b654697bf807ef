//! Nameservers of the test's own, which answer oddly.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use simple_dns::rdata::{A, AAAA, RData, SRV};
use simple_dns::{CLASS, Packet, PacketFlag, QTYPE, RCODE, ResourceRecord, TYPE};

use super::super::source::Role;
use super::*;
use crate::config::Config;
use crate::config::backend::BackendSettings;

/// Longer than any of the answers takes, shorter than what a silent nameserver would need.
const TIME: Duration = Duration::from_millis(600);

struct NoServers;

impl KnownServers for NoServers {
    fn role(&self, _name: &str) -> Option<Role> {
        None
    }
}

/// A nameserver on a free port, by UDP and TCP. It answers with the bytes that its function makes of a question; none is
/// silence. It ends with the process.
struct Nameserver {
    address: SocketAddr,
    questions: Arc<AtomicUsize>,
}

type Answer = fn(&Packet<'_>, bool) -> Vec<u8>;

impl Nameserver {
    fn start(answer: Answer) -> Self {
        let (udp, tcp) = sockets();
        let address = udp.local_addr().expect("an address");
        let questions = Arc::new(AtomicUsize::new(0));
        let asked = Arc::clone(&questions);
        thread::spawn(move || {
            let mut bytes = [0; 512];
            while let Ok((length, from)) = udp.recv_from(&mut bytes) {
                asked.fetch_add(1, Ordering::Relaxed);
                let question = Packet::parse(&bytes[..length]).expect("a question");
                let answer = answer(&question, false);
                if !answer.is_empty() {
                    _ = udp.send_to(&answer, from);
                }
            }
        });
        thread::spawn(move || {
            for mut stream in tcp.incoming().flatten() {
                let mut bytes = [0; 512];
                let Ok(length @ 3..) = stream.read(&mut bytes) else { continue };
                let question = Packet::parse(&bytes[2..length]).expect("a question");
                let answer = answer(&question, true);
                let whole = [&(answer.len() as u16).to_be_bytes(), &*answer].concat();
                // One byte at a time, far slower than anybody waits for.
                let is_drip = answer.ends_with(b"drip");
                for part in whole.chunks(if is_drip { 1 } else { 7 }) {
                    _ = stream.write_all(part);
                    thread::sleep(Duration::from_millis(if is_drip { 100 } else { 0 }));
                }
            }
        });
        Self { address, questions }
    }
}

/// Sockets of both protocols on one port.
fn sockets() -> (UdpSocket, TcpListener) {
    loop {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().expect("an address")) {
            return (udp, tcp);
        }
    }
}

/// The answer to a question, with records of these kinds that are asked for.
fn reply(question: &Packet<'_>, records: &[RData<'static>]) -> Packet<'static> {
    let mut packet = Packet::new_reply(question.id());
    let asked = question.questions[0].clone().into_owned();
    for rdata in records {
        if asked.qtype == QTYPE::TYPE(rdata.type_code()) {
            let record = ResourceRecord::new(asked.qname.clone(), CLASS::IN, 7, rdata.clone());
            packet.answers.push(record);
        }
    }
    packet.questions.push(asked);
    packet
}

fn bytes(packet: &Packet<'_>) -> Vec<u8> {
    packet.build_bytes_vec_compressed().expect("a message")
}

fn a(last: u8) -> RData<'static> {
    RData::A(A { address: u32::from_be_bytes([10, 0, 0, last]) })
}

fn failure(question: &Packet<'_>, rcode: RCODE) -> Vec<u8> {
    let mut packet = reply(question, &[]);
    *packet.rcode_mut() = rcode;
    bytes(&packet)
}

fn truncated(question: &Packet<'_>) -> Vec<u8> {
    let mut packet = reply(question, &[]);
    packet.set_flags(PacketFlag::TRUNCATION);
    bytes(&packet)
}

fn dns(url: &str, nameservers: &[&Nameserver]) -> Dns {
    let mut arguments = vec!["lb".to_owned(), format!("--backend={url}")];
    let of = |server: &&Nameserver| format!("--resolver={}", server.address);
    arguments.extend(nameservers.iter().map(of));
    let config = Config::from_arguments(arguments).expect("a configuration");
    let source = config.sources().next().expect("a source").clone();
    Dns::new(&source, LiveConfig::new(config))
}

fn discover(dns: &mut Dns, time: Duration) -> Result<(Vec<String>, Duration), String> {
    let found = dns.discover(&NoServers, Instant::now() + time);
    let names =
        |found: Found| found.servers.iter().map(|server| server.name().to_owned()).collect();
    let valid_for = |found: &Found| found.valid_for;
    found
        .map(|found| (valid_for(&found), found))
        .map(|(time, found)| (names(found), time))
        .map_err(|error| error.to_string())
}

/// The error of a nameserver that answers so, without its address.
fn error_of(answer: Answer) -> String {
    let nameserver = Nameserver::start(answer);
    let mut dns = dns("dns://redis.example.:6379", &[&nameserver]);
    let began = Instant::now();
    let error = discover(&mut dns, TIME).expect_err("no list");
    // A busy machine wakes late, but not by this much.
    assert!(began.elapsed() < TIME + Duration::from_secs(2), "{error}: {:?}", began.elapsed());
    error.replace(&nameserver.address.to_string(), "N")
}

#[test]
fn odd_answers_are_errors_in_time_that_say_what_is_wrong() {
    let cases: [(Answer, &str); 14] = [
        (|_, _| Vec::new(), "redis.example: nameserver N does not answer"),
        (|_, _| vec![1; 40], "redis.example: nameserver N sent something that answers no question"),
        (
            |question, _| {
                let mut packet = reply(question, &[a(1)]);
                packet.set_id(question.id().wrapping_add(1));
                bytes(&packet)
            },
            "redis.example: nameserver N sent something that answers no question",
        ),
        (
            |question, _| {
                let mut packet = reply(question, &[a(1)]);
                packet.questions[0].qname = "other.example".try_into().expect("a name");
                bytes(&packet)
            },
            "redis.example: nameserver N answered another question",
        ),
        (
            |question, _| {
                let whole = bytes(&reply(question, &[a(1)]));
                whole[..whole.len() - 2].to_vec()
            },
            "redis.example: nameserver N sent an answer that can't be read",
        ),
        (
            |question, _| failure(question, RCODE::ServerFailure),
            "redis.example: nameserver N answers SERVFAIL",
        ),
        (
            |question, _| failure(question, RCODE::Refused),
            "redis.example: nameserver N answers REFUSED",
        ),
        (
            |question, _| failure(question, RCODE::NameError),
            "no such name (NXDOMAIN): redis.example",
        ),
        (
            |question, _| bytes(&reply(question, &[])),
            "redis.example has neither A nor AAAA records",
        ),
        (
            |question, _| truncated(question),
            "redis.example: nameserver N cuts its answer off, even by TCP",
        ),
        (
            |question, is_tcp| if is_tcp { Vec::new() } else { truncated(question) },
            "redis.example: nameserver N sent something that answers no question",
        ),
        (
            |question, is_tcp| match is_tcp {
                true => [bytes(&reply(question, &[a(1)])), b"drip".to_vec()].concat(),
                false => truncated(question),
            },
            "redis.example: nameserver N does not answer",
        ),
        (
            |question, _| bytes(&reply(question, &[RData::A(A { address: 0 })])),
            "the answer has 0.0.0.0, where no server is",
        ),
        (
            |question, is_tcp| match is_tcp {
                true => {
                    let many: Vec<_> =
                        (0..1001).map(|at| RData::A(A { address: at + 1 })).collect();
                    bytes(&reply(question, &many))
                }
                false => truncated(question),
            },
            "the answer has 1001 servers; more than 1000 are taken for a mistake",
        ),
    ];
    let cases = cases.map(|(answer, expected)| (thread::spawn(move || error_of(answer)), expected));
    for (error, expected) in cases {
        let error = error.join().expect(expected);
        assert!(error.starts_with(expected), "{error} instead of {expected}");
    }
}

#[test]
fn addresses_are_servers_in_an_order_that_stays() {
    let nameserver = Nameserver::start(|question, _| {
        let mapped = "::ffff:10.0.0.1".parse::<std::net::Ipv6Addr>().expect("an address");
        let v6 = [mapped.into(), 1_u128].map(|address| RData::AAAA(AAAA { address }));
        bytes(&reply(question, &[&[a(9), a(1), a(9)], &v6[..]].concat()))
    });
    let mut dns = dns("dns://redis.example.:6379/3", &[&nameserver]);
    let names = ["10.0.0.1:6379", "10.0.0.9:6379", "[::1]:6379"].map(str::to_owned);
    assert_eq!(discover(&mut dns, TIME * 4), Ok((names.to_vec(), Duration::from_secs(7))));
    for (literal, name) in [("10.0.0.5", "10.0.0.5:1"), ("[::1]", "[::1]:1")] {
        let mut dns = self::dns(&format!("dns://{literal}:1"), &[]);
        let names = discover(&mut dns, TIME).map(|found| found.0);
        assert_eq!(names, Ok(vec![name.to_owned()]));
    }
}

#[test]
fn a_long_answer_comes_by_tcp() {
    let nameserver = Nameserver::start(|question, is_tcp| match is_tcp {
        true => bytes(&reply(question, &(1..=200).map(a).collect::<Vec<_>>())),
        false => truncated(question),
    });
    let mut dns = dns("dns://redis.example.:6379", &[&nameserver]);
    let (names, _) = discover(&mut dns, TIME * 4).expect("a list");
    assert_eq!(names.len(), 200);
}

#[test]
fn nameservers_that_are_silent_or_fail_are_passed_over_and_then_asked_last() {
    let silent = Nameserver::start(|_, _| Vec::new());
    let failing = Nameserver::start(|question, _| failure(question, RCODE::ServerFailure));
    let good = Nameserver::start(|question, _| bytes(&reply(question, &[a(1)])));
    let mut dns = dns("dns://redis.example.:6379", &[&silent, &failing, &good]);
    let one = |dns: &mut Dns| discover(dns, TIME * 5).expect("a list").0;
    assert_eq!(one(&mut dns), ["10.0.0.1:6379"]);
    let asked = |server: &Nameserver| server.questions.load(Ordering::Relaxed);
    let before = [asked(&silent), asked(&failing)];
    assert_eq!(one(&mut dns), ["10.0.0.1:6379"]);
    assert_eq!([asked(&silent), asked(&failing)], before, "the good one is asked first now");
}

#[test]
fn one_family_without_an_answer_hides_nothing_of_the_other() {
    let nameserver = Nameserver::start(|question, _| match question.questions[0].qtype {
        QTYPE::TYPE(TYPE::A) => bytes(&reply(question, &[a(1)])),
        _ => Vec::new(),
    });
    let mut dns = dns("dns://redis.example.:6379", &[&nameserver]);
    let names = discover(&mut dns, TIME).map(|found| found.0);
    assert_eq!(names, Ok(vec!["10.0.0.1:6379".to_owned()]));
}

/// What a service's servers are: names, weights, and whether they are backups.
fn services(dns: &mut Dns) -> Result<Vec<(String, u16, bool)>, String> {
    let found = dns.discover(&NoServers, Instant::now() + TIME * 5);
    let told = |server: BackendConfig| {
        let BackendSettings { weight, is_backup, .. } = server.settings;
        (server.address.name().to_owned(), weight, is_backup)
    };
    let found = found.map(|found| found.servers.into_iter().map(told).collect());
    found.map_err(|error| error.to_string())
}

fn srv(priority: u16, weight: u16, port: u16, target: &'static str) -> RData<'static> {
    let target = target.try_into().expect("a name");
    RData::SRV(SRV { priority, weight, port, target })
}

#[test]
fn service_records_are_servers_with_weights_and_backups() {
    let nameserver = Nameserver::start(|question, _| {
        let records = [
            srv(2, 0, 7003, "c.example"),
            srv(1, 30, 7001, "a.example"),
            srv(1, 10, 7002, "b.example"),
            srv(1, 10, 7009, "gone.example"),
            // The server is there already, with a better priority.
            srv(3, 1, 7001, "a.example"),
        ];
        match question.questions[0].qname.to_string().as_str() {
            "_redis._tcp.example" => {
                let mut packet = reply(question, &records);
                let name = "a.example".try_into().expect("a name");
                let record = ResourceRecord::new(name, CLASS::IN, 7, a(1));
                packet.additional_records.push(record);
                bytes(&packet)
            }
            "b.example" => bytes(&reply(question, &[a(2)])),
            "c.example" => bytes(&reply(question, &[a(3)])),
            _ => failure(question, RCODE::NameError),
        }
    });
    let mut dns = dns("dns+srv://_redis._tcp.example.", &[&nameserver]);
    let expected =
        [("10.0.0.1:7001", 3, false), ("10.0.0.2:7002", 1, false), ("10.0.0.3:7003", 1, true)];
    let expected = expected.map(|(name, weight, is_backup)| (name.to_owned(), weight, is_backup));
    assert_eq!(services(&mut dns), Ok(expected.to_vec()));
}

#[test]
fn a_target_that_can_not_be_looked_up_keeps_its_addresses() {
    static IS_BROKEN: AtomicUsize = AtomicUsize::new(0);
    let nameserver = Nameserver::start(|question, _| {
        let is_broken = IS_BROKEN.load(Ordering::Relaxed) > 0;
        match question.questions[0].qname.to_string().as_str() {
            "_redis._tcp.example" => {
                bytes(&reply(question, &[srv(0, 1, 1, "a.example"), srv(0, 1, 2, "b.example")]))
            }
            "a.example" if is_broken => failure(question, RCODE::ServerFailure),
            "a.example" => bytes(&reply(question, &[a(1)])),
            "b.example" if is_broken => failure(question, RCODE::NameError),
            _ => bytes(&reply(question, &[a(2)])),
        }
    });
    let mut dns = dns("dns+srv://_redis._tcp.example.", &[&nameserver]);
    let mut names = || {
        let services = services(&mut dns).expect("a list");
        services.into_iter().map(|(name, ..)| name).collect::<Vec<_>>()
    };
    assert_eq!(names(), ["10.0.0.1:1", "10.0.0.2:2"]);
    IS_BROKEN.store(1, Ordering::Relaxed);
    assert_eq!(names(), ["10.0.0.1:1"]);
}

#[test]
fn a_service_that_says_it_is_nowhere_has_no_servers() {
    let nameserver = Nameserver::start(|question, _| bytes(&reply(question, &[srv(0, 0, 0, ".")])));
    let mut dns = dns("dns+srv://_redis._tcp.example.", &[&nameserver]);
    assert_eq!(services(&mut dns), Ok(Vec::new()));
}
