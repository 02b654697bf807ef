//! TLS towards real Redis servers, Sentinels and replicas among them; what is said of certificates that are wrong.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::support::balancer::Balancer;
use crate::support::certificates::{CertificateFiles, Certificates, Validity};
use crate::support::data::Data;
use crate::support::dnsmasq::Dnsmasq;
use crate::support::observe::{states, wait_for_up};
use crate::support::redis::{RedisServer, free_port};
use crate::support::resp::{RespClient, encode};
use crate::support::sentinel::{NAME, Sentinel};
use crate::support::verify::{Crowd, Habits, KINDS, Report};
use crate::support::{seed, wait_until};

/// Reloads under load. `RELOADS=100` makes it a hundred.
const RELOADS: usize = 15;

/// A primary fills its replicas without a delay for others that may come.
const AT_ONCE: [&str; 2] = ["--repl-diskless-sync-delay", "0"];

/// Makes a server refuse clients without a certificate.
const MUTUAL: [&str; 2] = ["--tls-auth-clients", "yes"];

fn path(path: &Path) -> &str {
    path.to_str().expect("text")
}

/// A server with the certificate of a CA, and more arguments.
fn server(ca: &Certificates, arguments: &[&str]) -> RedisServer {
    RedisServer::start_tls(&ca.server(), &ca.ca(), arguments)
}

/// The arguments that have a balancer trust the servers of a CA, with checks that come fast.
fn trusting(ca: &Certificates) -> Vec<String> {
    let ca = ca.ca().display().to_string();
    ["--check-interval", "200ms", "--backend-tls-ca", &ca].map(str::to_owned).to_vec()
}

/// The arguments that show a client's certificate.
fn showing(own: &CertificateFiles) -> Vec<String> {
    let (certificate, key) = (path(&own.certificate), path(&own.key));
    ["--backend-tls-cert", certificate, "--backend-tls-key", key].map(str::to_owned).to_vec()
}

fn balancer(backends: &[String], arguments: &[String]) -> Balancer {
    Balancer::start_at(backends, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

fn urls(servers: &[&RedisServer]) -> Vec<String> {
    servers.iter().map(|server| server.url()).collect()
}

fn filled(ca: &Certificates, data: &Data) -> RedisServer {
    let server = server(ca, &AT_ONCE);
    data.load(&server);
    server.save();
    server
}

/// Clients of all kinds that read for as long as `events` take, and then a little longer.
fn read_during(lb: &Balancer, data: &Arc<Data>, events: impl FnOnce(&Crowd)) -> Report {
    let crowd = Crowd::start(lb.port(), data, &KINDS, Habits::default(), seed());
    let each_has_read = |more: u64| {
        let before = crowd.report().of_each;
        wait_until("each reads on", || {
            crowd.report().of_each.iter().zip(&before).all(|(now, before)| *now > before + more)
        });
    };
    each_has_read(20);
    events(&crowd);
    each_has_read(20);
    crowd.finish()
}

/// What the status says of the first backend.
fn first(lb: &Balancer) -> Value {
    lb.get("/-/status.json").json()["backends"][0].clone()
}

#[test]
fn values_of_all_sizes_pipelines_transactions_and_subscriptions_are_as_without_tls() {
    let ca = Certificates::new("ca");
    let server = server(&ca, &MUTUAL);
    let long = "x".repeat(5_000_000);
    server.command(&["SET", "long", &long]);
    server.command(&["SET", "short", "1"]);
    let arguments = [trusting(&ca), showing(&ca.client())].concat();
    let lb = balancer(&[server.url()], &arguments);
    wait_for_up(&lb, &[&server]);
    let logged = lb.log().len();
    let mut client = RespClient::connect(lb.port());
    for _ in 0..3 {
        assert_eq!(client.call("GET short"), "$1\r\n1\r\n");
        assert_eq!(client.call("GET long"), format!("$5000000\r\n{long}\r\n"));
        assert_eq!(lb.get("/short").json(), "1");
        assert_eq!(lb.get("/long").json(), *long);
    }
    client.send_raw(encode(&["GET", "short"]).repeat(1000));
    for _ in 0..1000 {
        assert_eq!(client.reply(), b"$1\r\n1\r\n");
    }
    for (command, reply) in [
        ("MULTI", "+OK\r\n"),
        ("GET short", "+QUEUED\r\n"),
        ("EXEC", "*1\r\n$1\r\n1\r\n"),
        ("SUBSCRIBE news", "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n"),
    ] {
        assert_eq!(client.call(command), reply);
    }
    server.command(&["PUBLISH", "news", "hello"]);
    assert_eq!(client.reply(), encode(&["message", "news", "hello"]));
    assert!(!lb.log()[logged..].contains("WARN"), "{}", lb.log());
}

#[test]
fn no_client_notices_that_servers_with_tls_die_freeze_and_get_another_certificate() {
    let (ca, data) = (Certificates::new("ca"), Arc::new(Data::new()));
    let mut plain = RedisServer::start_with(&AT_ONCE);
    data.load(&plain);
    plain.save();
    let mut servers = [filled(&ca, &data), filled(&ca, &data)];
    let all = [&servers[0], &servers[1], &plain];
    let lb = balancer(&urls(&all), &trusting(&ca));
    wait_for_up(&lb, &all);
    let report = read_during(&lb, &data, |_| {
        let is_up = || wait_until("all are up", || states(&lb) == ["up"; 3]);
        servers[0].kill();
        // In place of the file that it has.
        ca.server();
        servers[0].restart();
        is_up();
        servers[1].freeze();
        // Longer than the backend timeout.
        thread::sleep(Duration::from_millis(1500));
        servers[1].thaw();
        is_up();
        plain.kill();
        plain.restart();
        is_up();
    });
    assert!(report.is_clean(), "{report}\n{}", lb.log());
}

#[test]
fn the_state_and_a_check_say_what_is_wrong_with_a_certificate() {
    let (ca, other) = (Certificates::new("ca"), Certificates::new("other"));
    let signed = |name: &str, host: &str, validity| ca.signed(name, &[host], validity);
    let start = |files: &CertificateFiles, arguments: &[&str]| {
        RedisServer::start_tls(files, &ca.ca(), arguments)
    };
    let expired = start(&signed("old", "127.0.0.1", Validity::Expired), &[]);
    let not_yet = start(&signed("new", "127.0.0.1", Validity::NotYet), &[]);
    let elsewhere = start(&signed("elsewhere", "redis.example", Validity::Valid), &[]);
    let unknown = start(&other.server(), &[]);
    let mutual = start(&ca.server(), &MUTUAL);
    let older = start(&ca.server(), &[&MUTUAL[..], &["--tls-protocols", "TLSv1.2"]].concat());
    let foreign = start(&ca.server(), &MUTUAL);
    let plain = RedisServer::start();
    let with = |own: &CertificateFiles| showing(own);
    for (url, arguments, reason, advice) in [
        (expired.url(), vec![], "TLS: its certificate has expired", "another certificate"),
        (not_yet.url(), vec![], "TLS: its certificate is not valid before", "another certificate"),
        (
            elsewhere.url(),
            vec![],
            "TLS: its certificate is not for 127.0.0.1, but for redis.example",
            "--backend-tls-server-name",
        ),
        (unknown.url(), vec![], "TLS: its certificate is signed by no CA", "--backend-tls-ca"),
        (mutual.url(), vec![], "it wants a certificate of ours", "--backend-tls-cert"),
        (older.url(), vec![], "wants a certificate of ours", "--backend-tls-cert"),
        (
            foreign.url(),
            with(&other.client()),
            "our certificate is signed by no CA that it trusts",
            "--backend-tls-cert",
        ),
        (
            format!("rediss://127.0.0.1:{}", plain.port()),
            vec![],
            "TLS: the TLS handshake was not over in time",
            "write redis://",
        ),
        (
            expired.address(),
            vec![],
            "connection lost: ",
            "Is that a TLS port? Then write rediss://",
        ),
    ] {
        let arguments = [trusting(&ca), arguments].concat();
        let lb = balancer(std::slice::from_ref(&url), &arguments);
        wait_until(reason, || {
            let backend = first(&lb);
            backend["state"] == "down" && backend["reason"].as_str().unwrap_or("").contains(reason)
        });
        // The log has the reasons of the first checks, but not of those that the start does not wait for.
        assert!(lb.log().matches(reason).count() <= 3, "{}", lb.log());
        let arguments = &arguments[2..];
        let mut command = Command::new(env!("CARGO_BIN_EXE_lb"));
        command.args(["check", "--backend", &url]).args(arguments).env_remove("LB_BACKENDS");
        let output = command.output().expect("lb");
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(said.contains(reason) && said.contains(advice), "{said}");
        assert_eq!(output.status.code(), Some(1));
    }
}

#[test]
fn each_backend_of_a_file_may_have_a_ca_a_certificate_and_a_name_of_its_own() {
    let (a, b) = (Certificates::new("a"), Certificates::new("b"));
    let first = server(&a, &[]);
    let hidden = b.signed("hidden", &["redis.example"], Validity::Valid);
    let second = RedisServer::start_tls(&hidden, &b.ca(), &MUTUAL);
    let own = b.client();
    let file = a.folder().join("redis-lb.toml");
    // Paths begin at the folder of the file.
    let text = format!(
        "backend-tls-ca = \"ca.pem\"\ncheck-interval = \"200ms\"\n\
         [[backend]]\nurl = \"{}\"\n\
         [[backend]]\nurl = \"{}\"\ntls-ca = \"{}\"\ntls-cert = \"{}\"\ntls-key = \"{}\"\n\
         tls-server-name = \"redis.example\"\n",
        first.url(),
        second.url(),
        path(&b.ca()),
        path(&own.certificate),
        path(&own.key),
    );
    fs::write(&file, text).expect("a file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_lb"));
    command.args(["--listen", "127.0.0.1:0", "--config", path(&file)]).env_remove("LB_BACKENDS");
    let lb = Balancer::spawn(command);
    wait_for_up(&lb, &[&first, &second]);
}

#[test]
fn mistakes_are_named_with_their_lines_and_lb_config_prints_what_is_right() {
    let (ca, other) = (Certificates::new("ca"), Certificates::new("other"));
    let (own, stranger) = (ca.client(), other.client());
    let file = ca.folder().join("redis-lb.toml");
    let run = |command: &str, text: &str| {
        fs::write(&file, text).expect("a file");
        let mut lb = Command::new(env!("CARGO_BIN_EXE_lb"));
        lb.args(["--config", path(&file), command]).env_remove("LB_BACKENDS");
        let output = lb.output().expect("lb");
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.code(), said)
    };
    let backend = |keys: &str| format!("[[backend]]\nurl = \"rediss://h:1\"\n{keys}\n");
    for (text, mistake) in [
        (
            "[[backend]]\nurl = \"h:1\"\ntls-ca = \"ca.pem\"".to_owned(),
            "3: tls-ca needs a rediss:// URL",
        ),
        (backend("tls-ca = \"none.pem\""), "3: tls-ca: "),
        (backend("tls-ca = \"client.key\""), "has no certificate"),
        (backend("tls-cert = \"client.pem\""), "3: tls-cert needs tls-key"),
        (backend("tls-server-name = \"a b\""), "3: tls-server-name: write the name or the address"),
        (backend("sentinel-tls = true"), "3: sentinel-tls belongs to a sentinel:// URL"),
        (
            backend(&format!("tls-cert = \"client.pem\"\ntls-key = \"{}\"", path(&stranger.key))),
            "4: tls-key: ",
        ),
        (
            "backend = [\"rediss://h:1#insecure\"]".to_owned(),
            "1: backend: #insecure would trust any",
        ),
        ("backend-tls-ca = \"none.pem\"\n".to_owned(), "1: backend-tls-ca: "),
        (
            "backend-tls-key = \"client.key\"\n".to_owned(),
            "1: backend-tls-key needs --backend-tls-cert",
        ),
    ] {
        let (code, said) = run("check", &text);
        assert!(code == Some(2) && said.contains(mistake), "{text}: {said}");
    }
    let keys = "tls-ca = \"ca.pem\"\ntls-cert = \"client.pem\"\ntls-key = \"client.key\"\n\
                tls-server-name = \"redis.example\"";
    let (code, shown) = run("config", &backend(keys));
    assert_eq!(code, Some(0), "{shown}");
    for line in [
        "url = \"rediss://h:1\"".to_owned(),
        format!("tls-ca = \"{}\"", path(&ca.ca())),
        format!("tls-key = \"{}\"", path(&own.key)),
        "tls-server-name = \"redis.example\"".to_owned(),
    ] {
        assert!(shown.contains(&line), "{shown}");
    }
    assert_eq!(run("config", &shown).1.matches("tls-").count(), shown.matches("tls-").count());
}

#[test]
fn sentinels_and_the_servers_that_they_name_are_asked_by_tls() {
    let (ca, data) = (Certificates::new("ca"), Arc::new(Data::new()));
    let by_tls = ["--tls-replication", "yes"];
    let mut servers = vec![server(&ca, &[AT_ONCE, by_tls].concat())];
    data.load(&servers[0]);
    for _ in 0..2 {
        let port = servers[0].balanced_port().to_string();
        let replica = ["--replicaof", "127.0.0.1", &port];
        servers.push(server(&ca, &[&AT_ONCE[..], &by_tls, &replica].concat()));
    }
    let sentinels: Vec<Sentinel> =
        (0..3).map(|_| Sentinel::start_tls(&servers[0], 2, &ca)).collect();
    wait_until("all know each other", || {
        sentinels.iter().all(|sentinel| {
            sentinel.list("SENTINELS").len() == 2 && sentinel.list("REPLICAS").len() == 2
        })
    });
    let all: Vec<&RedisServer> = servers.iter().collect();
    // The others are learned.
    let url = format!("rediss+sentinel://{}/{NAME}", sentinels[0].tls_address());
    let lb = balancer(&[url], &trusting(&ca));
    wait_for_up(&lb, &all);
    let primary = format!("rediss+primary://{}", servers[0].address());
    let by_primary = balancer(&[primary], &trusting(&ca));
    wait_for_up(&by_primary, &all);
    let plain = format!("rediss+sentinel://{}/{NAME}?sentinel-tls=false", sentinels[0].address());
    let without = balancer(&[plain], &[]);
    wait_until("its certificate is refused", || {
        first(&without)["reason"].as_str().is_some_and(|why| why.contains("no CA that we trust"))
    });
    let old = sentinels[0].primary_port();
    let report = read_during(&lb, &data, |_| {
        servers[0].kill();
        wait_until("there is another primary", || {
            sentinels.iter().all(|sentinel| sentinel.primary_port() != old)
        });
        let port = sentinels[0].primary_port().to_string();
        servers[0].restart_with(&["--replicaof", "127.0.0.1", &port]);
        wait_for_up(&lb, &servers.iter().collect::<Vec<_>>());
    });
    assert!(report.is_clean(), "{report}\n{}", lb.log());
}

#[test]
fn servers_that_dns_names_have_certificates_for_that_name() {
    let ca = Certificates::new("ca");
    let named = ca.signed("named", &["redis.example"], Validity::Valid);
    let server = RedisServer::start_tls(&named, &ca.ca(), &[]);
    let dnsmasq = Dnsmasq::start("");
    dnsmasq.set_hosts(&["127.0.0.1 redis.example other.example"]);
    let arguments = [trusting(&ca), vec!["--resolver".to_owned(), dnsmasq.address()]].concat();
    let url = |name: &str| format!("rediss+dns://{name}:{}", server.balanced_port());
    let lb = balancer(&[url("redis.example.")], &arguments);
    wait_for_up(&lb, &[&server]);
    let other = balancer(&[url("other.example.")], &arguments);
    wait_until("the name is another", || {
        let text = "not for other.example, but for redis.example";
        first(&other)["reason"].as_str().is_some_and(|reason| reason.contains(text))
    });
    let name = ["--backend-tls-server-name".to_owned(), "redis.example".to_owned()];
    let told = balancer(&[url("other.example.")], &[&arguments[..], &name].concat());
    wait_for_up(&told, &[&server]);
}

#[test]
fn seed_fills_servers_by_tls_and_names_what_is_wrong() {
    let (ca, other) = (Certificates::new("ca"), Certificates::new("other"));
    let server = server(&ca, &MUTUAL);
    let csv = ca.folder().join("rows.csv");
    fs::write(&csv, "id,name\n1,a\n2,b\n").expect("a file");
    let own = ca.client();
    let run = |trusted: &Certificates, more: &[String]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_seed"));
        command.arg(&csv).args(["--backend", &server.url(), "--backend-tls-ca"]).arg(trusted.ca());
        let output = command.args(more).env_remove("LB_BACKENDS").output().expect("seed");
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.code(), said)
    };
    let (code, said) = run(&ca, &showing(&own));
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(server.command(&["DBSIZE"]), redis::Value::Int(2));
    let (code, said) = run(&other, &showing(&own));
    assert!(code == Some(1) && said.contains("signed by no CA that we trust"), "{said}");
    let (code, said) = run(&ca, &[]);
    assert_eq!(code, Some(1), "{said}");
    let (code, said) = run(&ca, &["--backend-tls-cert".to_owned(), path(&own.key).to_owned()]);
    assert!(code == Some(2) && said.contains("needs --backend-tls-key"), "{said}");
}

#[test]
fn certificates_are_replaced_under_load_and_no_read_fails() {
    let rounds = std::env::var("RELOADS").map_or(RELOADS, |text| text.parse().expect("a number"));
    let (ca, data) = (Certificates::new("ca"), Arc::new(Data::new()));
    let servers = [filled(&ca, &data), filled(&ca, &data)];
    servers.iter().for_each(|server| {
        server.command(&["CONFIG", "SET", "tls-auth-clients", "yes"]);
    });
    // It makes client.pem and client.key.
    ca.client();
    let file = ca.folder().join("redis-lb.toml");
    let tables: String =
        servers.iter().map(|server| format!("[[backend]]\nurl = \"{}\"\n", server.url())).collect();
    let keys = "quiet = true\ncheck-interval = \"200ms\"\nbackend-tls-ca = \"trusted.pem\"\n\
                backend-tls-cert = \"client.pem\"\nbackend-tls-key = \"client.key\"\n";
    fs::write(&file, keys.to_owned() + &tables).expect("a file");
    let trusted = ca.folder().join("trusted.pem");
    fs::copy(ca.ca(), &trusted).expect("a file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_lb"));
    command.args(["--listen", "127.0.0.1:0", "--config", path(&file)]).env_remove("LB_BACKENDS");
    let lb = Balancer::spawn(command);
    wait_for_up(&lb, &servers.iter().collect::<Vec<_>>());
    let counted = |lb: &Balancer, name: &str| {
        let status = lb.get("/-/status.json").json();
        status["configuration"][name].as_u64().expect("a number")
    };
    let report = read_during(&lb, &data, |_| {
        for round in 0..rounds {
            let is_broken = round % 5 == 4;
            let text = if is_broken {
                "nothing".to_owned()
            } else {
                fs::read_to_string(ca.ca()).expect("text") + &"\n".repeat(round)
            };
            fs::write(&trusted, text).expect("a file");
            ca.client();
            let name = if is_broken { "failed_reloads" } else { "reloads" };
            let before = counted(&lb, name);
            lb.signal("-HUP");
            wait_until("it is read again", || counted(&lb, name) > before);
            // Connections are made anew by the new files.
            servers[round % 2].command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
            thread::sleep(Duration::from_millis(20));
        }
    });
    assert!(report.is_clean(), "{report}\n{}", lb.log());
    assert!(lb.log().contains("trusted.pem has no certificate"), "{}", lb.log());
    assert!(lb.log().contains("reload: taken over: the certificates"), "{}", lb.log());
    // A CA that knows no server: what is connected goes on, and nothing new is connected.
    fs::copy(Certificates::new("other").ca(), &trusted).expect("a file");
    let before = counted(&lb, "reloads");
    lb.signal("-HUP");
    wait_until("it is read again", || counted(&lb, "reloads") > before);
    servers.iter().for_each(|server| {
        server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    });
    wait_until("nothing is trusted", || states(&lb) == ["down", "down"]);
}

#[test]
fn certificates_that_end_within_two_weeks_are_warned_about_and_measured() {
    let ca = Certificates::new("ca");
    let soon = ca.signed("soon", &["127.0.0.1"], Validity::Soon);
    let server = RedisServer::start_tls(&soon, &ca.ca(), &MUTUAL);
    let later = self::server(&ca, &[]);
    let arguments = [trusting(&ca), showing(&soon)].concat();
    let lb = balancer(&urls(&[&server, &later]), &arguments);
    wait_for_up(&lb, &[&server, &later]);
    let of_server = format!("backend {}: the certificate expires in 6 days, on ", server.address());
    let of_ours = "soon.pem, which is shown to backends: the certificate expires in 6 days, on ";
    for warning in [&of_server, of_ours] {
        wait_until(warning, || lb.log().contains(warning));
    }
    assert_eq!(lb.log().matches("the certificate expires").count(), 2, "{}", lb.log());
    let metrics = String::from_utf8(lb.get("/-/metrics").body).expect("text");
    let ends = |name: &str| {
        let begin =
            format!("redis_lb_tls_certificate_expiry_timestamp_seconds{{certificate=\"{name}\"}} ");
        let value = metrics.lines().find_map(|line| line.strip_prefix(&begin));
        value.unwrap_or_else(|| panic!("{metrics}")).parse::<f64>().expect("a number")
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_secs_f64();
    let days = (ends(&format!("backend {}", server.address())) - now) / 86_400.0;
    assert!((6.5..7.0).contains(&days), "{days}");
    assert!(ends(&format!("backend {}", later.address())) > now + 1e9);
    ends(&format!("client {}", soon.certificate.display()));
}

#[test]
fn a_backend_with_tls_that_is_added_at_run_time_is_trusted_like_all() {
    let ca = Certificates::new("ca");
    let servers = [server(&ca, &[]), server(&ca, &[])];
    let socket = ca.folder().join("control.sock");
    let arguments =
        [trusting(&ca), vec!["--control".to_owned(), path(&socket).to_owned()]].concat();
    let lb = balancer(&[servers[0].url()], &arguments);
    let mut command = Command::new(env!("CARGO_BIN_EXE_lb"));
    command.args(["--control", path(&socket), "ctl", "add", &servers[1].url()]);
    let output = command.output().expect("lb");
    assert!(output.status.success(), "{output:?}");
    wait_for_up(&lb, &servers.iter().collect::<Vec<_>>());
}

#[test]
fn a_silent_server_costs_the_time_of_a_connect_and_no_more() {
    let (ca, data) = (Certificates::new("ca"), Arc::new(Data::new()));
    let servers = [filled(&ca, &data), filled(&ca, &data)];
    // It accepts, and never says anything.
    let silent = std::net::TcpListener::bind(("127.0.0.1", free_port())).expect("a port");
    let silent = format!("rediss://{}", silent.local_addr().expect("bound"));
    let backends = [urls(&servers.each_ref()), vec![silent]].concat();
    let lb = balancer(&backends, &trusting(&ca));
    wait_until("two are up", || states(&lb) == ["up", "up", "down"]);
    let report = read_during(&lb, &data, |_| thread::sleep(Duration::from_secs(1)));
    assert!(report.is_clean(), "{report}\n{}", lb.log());
}
