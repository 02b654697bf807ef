//! Where what is below `/-/` is served, and where not.

use std::io::{BufRead, BufReader};
use std::time::Duration;

use crate::support::balancer::{Answer, Balancer};
use crate::support::redis::{RedisServer, free_port};
use crate::support::wait_until;

const INTERNAL: [&str; 7] =
    ["/-/", "/-/status.json", "/-/metrics", "/-/openapi.json", "/-/ping", "/-/health", "/-/ready"];

/// With an address of its own for what is below `/-/`.
fn start(server: &RedisServer, arguments: &[&str]) -> (Balancer, Admin) {
    let admin = Admin { port: free_port() };
    let address = format!("127.0.0.1:{}", admin.port);
    let arguments = [&["--admin-listen", &address], arguments].concat();
    (Balancer::start_with(&[server], &arguments), admin)
}

struct Admin {
    port: u16,
}

impl Admin {
    fn talk(&self, bytes: &str) -> Vec<u8> {
        use std::io::{Read, Write};
        let mut stream =
            std::net::TcpStream::connect(("127.0.0.1", self.port)).expect("it accepts");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        stream.write_all(bytes.as_bytes()).expect("it reads");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        answer
    }

    fn get(&self, path: &str) -> Answer {
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        Answer::parse(&self.talk(&request))
    }
}

#[test]
fn with_an_admin_address_the_balancer_is_shown_there_alone_and_data_is_not() {
    let server = RedisServer::start();
    let (lb, admin) = start(&server, &[]);
    for path in INTERNAL {
        assert_eq!((admin.get(path).status, lb.get(path).status), (200, 404), "{path}");
    }
    let leads_to_data = |page: Answer| String::from_utf8_lossy(&page.body).contains("href=\"/\"");
    assert!(
        !leads_to_data(admin.get("/-/")) && leads_to_data(Balancer::start(&[&server]).get("/-/"))
    );
    assert_eq!(admin.get("/none").status, 404);
    assert!(admin.get("/none").json()["error"].as_str().expect("why").contains("/-/"));
    let to_page = admin.get("/");
    assert_eq!((to_page.status, to_page.header("location")), (302, Some("/-/")));
    assert!(admin.talk("*1\r\n$4\r\nPING\r\n").starts_with(b"-ERR this address serves HTTP alone"));
    assert!(
        Answer::parse(&admin.talk("GET /-/ HTTP/1.1\r\nHost: evil.example\r\n\r\n")).status == 421
    );
    for path in ["/-/health", "/-/ready"] {
        let probe =
            format!("GET {path} HTTP/1.1\r\nHost: 10.1.2.3:8080\r\nConnection: close\r\n\r\n");
        assert_eq!(Answer::parse(&admin.talk(&probe)).status, 200, "{path}");
    }
    assert_eq!(lb.get("/?limit=1").status, 200);
}

#[test]
fn probes_get_through_when_there_are_too_many_clients_and_while_it_drains() {
    let server = RedisServer::start();
    let (mut lb, admin) = start(&server, &["--max-clients", "1", "--demo-delay", "3s"]);
    let mut client = lb.client();
    client.send("GET /none HTTP/1.1\r\nHost: localhost\r\n\r\n");
    wait_until("it is served", || lb.log().contains("held for"));
    assert_eq!((admin.get("/-/ready").status, lb.get("/none").status), (200, 503));
    let status = admin.get("/-/status.json").json();
    assert_eq!((&status["clients"]["http"], &status["phase"]), (&1.into(), &"serving".into()));
    assert_eq!(status["refused"]["too_many_clients"], 1);
    lb.signal("-TERM");
    wait_until("it drains", || lb.log().contains("no new clients"));
    assert_eq!((admin.get("/-/ready").status, admin.get("/-/health").status), (503, 200));
    assert_eq!(admin.get("/-/status.json").json()["ready"], false);
    assert_eq!(client.answer().expect("an answer").status, 404);
    assert!(lb.wait().success());
}

#[test]
fn no_status_turns_off_the_page_and_its_json_but_not_probes_and_metrics() {
    let server = RedisServer::start();
    let lb = Balancer::start_with(&[&server], &["--no-status"]);
    for path in INTERNAL {
        let expected = if ["/-/", "/-/status.json"].contains(&path) { 404 } else { 200 };
        assert_eq!(lb.get(path).status, expected, "{path}");
    }
    let (public, admin) = start(&server, &["--no-status"]);
    assert_eq!((admin.get("/-/").status, public.get("/-/").status), (200, 404));
}

#[test]
fn an_admin_address_that_is_taken_is_named_and_nothing_is_served() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let mut lb = std::process::Command::new(env!("CARGO_BIN_EXE_lb"))
        .args(["--listen", "127.0.0.1:0", "--admin-listen", &address])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("lb starts");
    let said = BufReader::new(lb.stderr.take().expect("a pipe")).lines().map_while(Result::ok);
    let said: Vec<String> = said.collect();
    assert!(
        said.iter().any(|line| line.contains(&address) && line.contains("--admin-listen")),
        "{said:?}"
    );
    assert_eq!(lb.wait().expect("an end").code(), Some(1));
}
