//! TLS towards clients, with the programs that people use and with clients that misbehave.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::balancer::Balancer;
use crate::support::certificates::{CertificateFiles, Certificates, Validity};
use crate::support::client::Client;
use crate::support::observe::metric;
use crate::support::redis::{RedisServer, free_port};
use crate::support::resp::RespClient;
use crate::support::tls::{TlsClient, config, http_client};
use crate::support::{SetOnDrop, wait_until};

/// A value of some MiB, which takes many records.
const LARGE_BYTES: usize = 5 * 1024 * 1024;

/// Connections that send half a hello.
const FLOOD: usize = 200;

/// Sockets of a test that have to be answered at some time.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A balancer that speaks TLS, and the CA that its clients trust.
struct Site {
    server: RedisServer,
    lb: Balancer,
    certificates: Certificates,
}

impl Site {
    fn start(more: &[&str]) -> Self {
        let certificates = Certificates::new("ca");
        let flags = certificates.server().flags();
        Self::start_as(certificates, &flags, more)
    }

    fn start_as(certificates: Certificates, flags: &[String], more: &[&str]) -> Self {
        let server = RedisServer::start();
        server.command(&["SET", "key", "value"]);
        let flags: Vec<&str> =
            flags.iter().map(String::as_str).chain(more.iter().copied()).collect();
        let lb = Balancer::start_with(&[&server], &flags);
        Self { server, lb, certificates }
    }

    fn connect(&self) -> TlsClient {
        TlsClient::connect(self.lb.port(), &config(&self.certificates.ca(), None)).expect("TLS")
    }

    fn ca(&self) -> String {
        self.certificates.ca().to_str().expect("text").to_owned()
    }

    /// `redis-cli --tls`, with these arguments.
    fn redis_cli(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("redis-cli");
        command.args(["-p", &self.lb.port().to_string(), "--tls", "--cacert", &self.ca()]);
        output(command.args(arguments))
    }

    /// `curl`, which trusts the CA.
    fn curl(&self, arguments: &[&str], path: &str) -> Output {
        let url = format!("https://localhost:{}{path}", self.lb.port());
        let mut command = Command::new("curl");
        output(
            command.args(["-sS", "--max-time", "20", "--cacert", &self.ca(), &url]).args(arguments),
        )
    }

    /// What `openssl s_client` says; it sends this.
    fn openssl(&self, arguments: &[&str], input: &str) -> String {
        let mut command = Command::new("timeout");
        command.args(["20", "openssl", "s_client", "-connect"]);
        command.arg(format!("127.0.0.1:{}", self.lb.port())).args(["-CAfile", &self.ca()]);
        let mut process = command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("openssl");
        process.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("it reads");
        text(&process.wait_with_output().expect("its end"))
    }
}

fn output(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// All that a program has said.
fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

fn has_failed(lb: &Balancer, reason: &str) -> bool {
    metric(lb, &format!("redis_lb_tls_failures_total{{reason=\"{reason}\"}}")) > 0.0
}

/// The value of a row of `/-/metrics`, with its labels.
fn row(lb: &Balancer, name: &str) -> f64 {
    let text = String::from_utf8(lb.get("/-/metrics").body).expect("text");
    let row = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    row.unwrap_or_else(|| panic!("no {name}")).parse().expect("a number")
}

#[test]
fn one_port_speaks_tls_and_plain_text_in_both_protocols() {
    let admin = free_port();
    let site = Site::start(&["--admin-listen", &format!("127.0.0.1:{admin}")]);
    assert_eq!(text(&site.redis_cli(&["get", "key"])), "value\n");
    assert_eq!(RespClient::connect(site.lb.port()).call("GET key"), "$5\r\nvalue\r\n");
    assert_eq!(text(&site.curl(&[], "/key")), "\"value\"\n");
    assert_eq!(site.lb.get("/key").json(), "value");
    let info = text(&site.curl(&["-v", "--http2"], "/key"));
    assert!(
        info.contains("accepted to use http/1.1")
            || info.contains("ALPN: server accepted http/1.1"),
        "{info}"
    );
    let mut of_admin = http_client(admin, &config(&site.certificates.ca(), None));
    assert_eq!(of_admin.get("/-/health").status, 200);
    let url = format!("http://127.0.0.1:{admin}/-/metrics");
    let count = |name: &str| {
        let mut curl = Command::new("curl");
        let metrics = text(&output(curl.args(["-sS", &url])));
        let rows =
            metrics.lines().filter_map(|line| line.strip_prefix(name)?.split(' ').next_back());
        rows.map(|value| value.parse::<f64>().expect("a number")).sum::<f64>()
    };
    wait_until("the clients have left", || count("redis_lb_tls_clients{") == 0.0);
    let client = site.connect();
    wait_until("the client counts", || count("redis_lb_tls_clients{version=\"TLSv1.3\"}") == 1.0);
    assert!(count("redis_lb_tls_sessions_total{version=\"TLSv1.3\"") >= 3.0);
    drop(client);
}

#[test]
fn openssl_finds_the_versions_of_today_no_renegotiation_and_sessions_that_are_resumed() {
    let site = Site::start(&[]);
    for version in ["-tls1", "-tls1_1"] {
        let said = site.openssl(&[version, "-cipher", "ALL:@SECLEVEL=0"], "");
        assert!(said.contains("alert") && said.contains("Cipher is (NONE)"), "{version}: {said}");
    }
    for version in ["-tls1_2", "-tls1_3"] {
        let said = site.openssl(&[version, "-verify_return_error"], "");
        assert!(said.contains("Verify return code: 0 (ok)"), "{version}: {said}");
    }
    let said = site.openssl(&["-tls1_2"], "R\n");
    assert!(said.contains("no renegotiation"), "{said}");
    let said = site.openssl(&["-tls1_2", "-reconnect"], "");
    assert_eq!(said.matches("Reused, TLSv1.2").count(), 5, "{said}");
    let session = site.certificates.folder().join("session.pem");
    let session = session.to_str().expect("text");
    // Tickets of TLS 1.3 come after the handshake: the reply to a command shows that they are there.
    let arguments = ["-tls1_3", "-ign_eof", "-sess_out", session];
    let said = site.openssl(&arguments, "GET key\r\nQUIT\r\n");
    assert!(said.contains("value") && said.contains("New, TLSv1.3"), "{said}");
    let said = site.openssl(&["-tls1_3", "-sess_in", session], "");
    assert!(said.contains("Reused, TLSv1.3"), "{said}");
    assert!(
        row(&site.lb, "redis_lb_tls_sessions_total{version=\"TLSv1.3\",resumed=\"true\"}") > 0.0
    );
    let said = site.openssl(&["-alpn", "h2"], "");
    assert!(said.contains("no application protocol"), "{said}");
    let said = site.openssl(&["-alpn", "h2,http/1.1"], "");
    assert!(said.contains("ALPN protocol: http/1.1"), "{said}");
    assert!(has_failed(&site.lb, "protocol"));
}

#[test]
fn a_client_without_a_certificate_of_the_right_ca_is_refused_and_both_sides_say_why() {
    let certificates = Certificates::new("ca");
    let own_ca = certificates.ca().to_str().expect("text").to_owned();
    let server = certificates.server();
    let client = certificates.client();
    let expired = certificates.signed("expired", &["client.example"], Validity::Expired);
    let others = Certificates::new("other");
    let stranger = others.client();
    let site = Site::start_as(certificates, &server.flags(), &["--tls-client-ca", &own_ca]);
    let get = |files: Option<&CertificateFiles>| {
        let mut arguments = Vec::new();
        if let Some(files) = files {
            let path = |path: &std::path::Path| path.to_str().expect("text").to_owned();
            arguments = vec![
                "--cert".to_owned(),
                path(&files.certificate),
                "--key".to_owned(),
                path(&files.key),
            ];
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let cli = text(&site.redis_cli(&[&arguments[..], &["get", "key"]].concat()));
        (cli, text(&site.curl(&arguments, "/key")))
    };
    assert_eq!(get(Some(&client)), ("value\n".to_owned(), "\"value\"\n".to_owned()));
    for (files, reason, alert) in [
        (None, "no_certificate", "certificate required"),
        (Some(&stranger), "certificate", "unknown ca"),
        (Some(&expired), "certificate", "certificate expired"),
    ] {
        let (_, curl) = get(files);
        assert!(curl.contains(alert), "{curl}");
        assert!(has_failed(&site.lb, reason), "{reason}");
    }
    // The others' lines are held back: one of them passes every ten seconds.
    let line = "no TLS with this client: it has sent no certificate";
    wait_until("the log tells", || site.lb.log().contains(line));
    // Plain text needs none.
    assert_eq!(site.lb.get("/key").status, 200);
}

#[test]
fn pipelines_large_values_transactions_and_messages_pass_through_tls() {
    let site = Site::start(&[]);
    let large = "x".repeat(LARGE_BYTES);
    site.server.command(&["SET", "large", &large]);
    for number in 0..1000 {
        site.server.command(&["SET", &format!("key:{number}"), &format!("{number:03}")]);
    }
    let mut client = site.connect();
    client.send_raw((0..1000).map(|number| format!("GET key:{number}\r\n")).collect::<String>());
    for number in 0..1000 {
        assert_eq!(client.reply(), format!("$3\r\n{number:03}\r\n"));
    }
    assert_eq!(
        client.call("GET large").len(),
        LARGE_BYTES + format!("${LARGE_BYTES}\r\n\r\n").len()
    );
    client.send_raw("MULTI\r\nGET key\r\nSTRLEN large\r\nEXEC\r\n");
    let replies: String = (0..4).map(|_| client.reply()).collect();
    let values = format!("*2\r\n$5\r\nvalue\r\n:{LARGE_BYTES}\r\n");
    assert_eq!(replies, format!("+OK\r\n+QUEUED\r\n+QUEUED\r\n{values}"));
    assert_eq!(client.call("SUBSCRIBE news"), "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n");
    site.server.command(&["PUBLISH", "news", "first"]);
    assert_eq!(client.reply(), "*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$5\r\nfirst\r\n");
    assert_eq!(client.call("UNSUBSCRIBE news"), "*3\r\n$11\r\nunsubscribe\r\n$4\r\nnews\r\n:0\r\n");
    assert_eq!(client.call("GET key"), "$5\r\nvalue\r\n");

    let mut http = http_client(site.lb.port(), &config(&site.certificates.ca(), None));
    for _ in 0..3 {
        assert_eq!(http.get("/key").json(), "value");
        assert_eq!(http.get("/large").body.len(), LARGE_BYTES + "\"\"\n".len());
    }
}

#[test]
fn a_client_that_sends_no_more_still_gets_its_replies_and_an_orderly_end() {
    let site = Site::start(&[]);
    let mut redis = site.connect();
    redis.send_raw("GET key\r\n".repeat(500));
    redis.end();
    let replies = redis.rest().expect("an end as TLS has it");
    assert_eq!(String::from_utf8_lossy(&replies), "$5\r\nvalue\r\n".repeat(500));
    let mut http = site.connect();
    http.send_raw("GET /key HTTP/1.1\r\nHost: localhost\r\n\r\n");
    http.end();
    let response = http.rest().expect("an end as TLS has it");
    assert!(String::from_utf8_lossy(&response).ends_with("\"value\"\n"));
    // We end it, in order, too.
    let mut client = site.connect();
    client.send_raw("QUIT\r\n");
    assert_eq!(client.rest().expect("an end as TLS has it"), b"+OK\r\n");
}

/// A ClientHello, up to its last byte.
fn half_hello() -> Vec<u8> {
    let config = config(&Certificates::new("any").ca(), None);
    let name = rustls_pki_types::ServerName::try_from("localhost").expect("a name");
    let mut connection = rustls::ClientConnection::new(config, name).expect("a connection");
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).expect("a hello");
    hello.pop();
    hello
}

#[test]
fn a_flood_of_half_open_handshakes_leaves_clients_alone_and_newcomers_a_place() {
    let site = Site::start(&["--max-clients", "64"]);
    let config = config(&site.certificates.ca(), None);
    let port = site.lb.port();
    let (is_over, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    let hello = half_hello();
    thread::scope(|scope| {
        let _end = SetOnDrop(&is_over);
        for _ in 0..4 {
            let mut client = site.connect();
            let (is_over, reads) = (&is_over, &reads);
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    assert_eq!(client.call("GET key"), "$5\r\nvalue\r\n");
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        wait_until("they read", || reads.load(Ordering::Relaxed) > 20);
        let flood: Vec<TcpStream> = (0..FLOOD)
            .map(|_| {
                let mut socket = TcpStream::connect(("127.0.0.1", port)).expect("accepted");
                // It may be turned away already.
                let _ = socket.write_all(&hello);
                socket
            })
            .collect();
        let before = reads.load(Ordering::Relaxed);
        wait_until("they read on", || reads.load(Ordering::Relaxed) > before + 100);
        // Half a handshake makes room, once it is two seconds old.
        wait_until("a newcomer is served", || {
            TlsClient::connect(port, &config)
                .and_then(|mut client| client.try_call("GET key"))
                .is_ok_and(|reply| reply == "$5\r\nvalue\r\n")
        });
        drop(flood);
    });
    wait_until("the flood is gone", || has_failed(&site.lb, "ended"));
}

#[test]
fn without_a_certificate_tls_gets_an_alert_at_once_and_the_log_says_what_is_missing() {
    let server = RedisServer::start();
    let lb = Balancer::start(&[&server]);
    let config = config(&Certificates::new("ca").ca(), None);
    let began = Instant::now();
    for _ in 0..3 {
        let error = TlsClient::connect(lb.port(), &config).map(|_| ()).expect_err("no TLS");
        assert!(error.to_string().contains("HandshakeFailure"), "{error}");
    }
    assert!(began.elapsed() < TIMEOUT, "it took {:.1?}", began.elapsed());
    let line = "wants to speak TLS, which takes --tls-cert";
    wait_until("the log tells", || lb.log().contains(line));
    assert_eq!(lb.log().matches(line).count(), 1, "once for each address: {}", lb.log());
    assert_eq!(row(&lb, "redis_lb_tls_failures_total{reason=\"not_configured\"}"), 3.0);
}

#[test]
fn with_tls_only_plain_text_is_refused_in_its_own_words_but_probes_are_answered() {
    let site = Site::start(&["--tls-only"]);
    let talk = |bytes: &str| String::from_utf8_lossy(&site.lb.talk(bytes.as_bytes())).into_owned();
    let refused = talk("GET /key HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(refused.starts_with("HTTP/1.1 400 ") && refused.contains("use https://"), "{refused}");
    let refused = talk("GET key\r\n");
    assert_eq!(refused, "-ERR this port speaks TLS alone: connect with TLS\r\n");
    assert!(talk("GET /-/metrics HTTP/1.1\r\nHost: a\r\n\r\n").starts_with("HTTP/1.1 400 "));
    for probe in ["/-/health", "/-/ready"] {
        assert_eq!(site.lb.get(probe).status, 200, "{probe}");
    }
    assert_eq!(site.connect().call("GET key"), "$5\r\nvalue\r\n");
    let metrics = text(&site.curl(&[], "/-/metrics"));
    assert!(metrics.contains("tls_failures_total{reason=\"plain_text\"} 3\n"), "{metrics}");
    let line = "speaks plain text, which is refused (--tls-only)";
    wait_until("the log tells", || site.lb.log().contains(line));
}

#[test]
fn over_the_limit_tls_gets_an_alert_and_a_probe_its_answer() {
    let site = Site::start(&["--max-clients", "1"]);
    let mut first = site.connect();
    assert_eq!(first.call("GET key"), "$5\r\nvalue\r\n");
    let config = config(&site.certificates.ca(), None);
    // One that is late is closed without an answer.
    wait_until("TLS gets an alert", || {
        TlsClient::connect(site.lb.port(), &config)
            .is_err_and(|error| error.to_string().contains("InternalError"))
    });
    let probe = b"GET /-/health HTTP/1.1\r\nHost: localhost\r\n\r\n";
    wait_until("a probe is answered", || site.lb.talk(probe).starts_with(b"HTTP/1.1 200 "));
    drop(first);
    wait_until("its place is free", || TlsClient::connect(site.lb.port(), &config).is_ok());
}

#[test]
fn what_is_no_tls_within_tls_is_an_error_of_that_client_alone() {
    let site = Site::start(&[]);
    let mut client = site.connect();
    assert_eq!(client.call("GET key"), "$5\r\nvalue\r\n");
    for garbage in [&b"\x16\x03\x01\x00\x05hello"[..], b"\x16\x03\x03\xff\xff", b"\x16\x03\x01\0\0"]
    {
        let mut socket = site.lb.connect();
        socket.write_all(garbage).expect("lb reads");
        socket.shutdown(Shutdown::Write).expect("a connection");
        let mut answer = Vec::new();
        // An alert, or just the end.
        let _ = socket.read_to_end(&mut answer);
        assert!(answer.is_empty() || answer[0] == 0x15, "{}", answer.escape_ascii());
    }
    // TLS is no layer of TLS.
    let mut nested = site.connect();
    nested.send_raw(half_hello());
    nested.end();
    let answer = nested.rest().unwrap_or_default();
    assert!(answer.is_empty() || answer.starts_with(b"-ERR"), "{}", answer.escape_ascii());
    assert_eq!(client.call("GET key"), "$5\r\nvalue\r\n");
    let mut plain = Client::new(site.lb.connect());
    assert_eq!(plain.get("/key").json(), "value");
}
