//! What a person sees in a web browser: a real one, headless.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::clients::installed;
use crate::support::balancer::Balancer;
use crate::support::redis::RedisServer;
use crate::support::resp::RespClient;
use crate::support::wait_until;

/// Chromium, driven by `tests/clients/browser.js`; it ends when this is dropped.
pub(crate) struct Browser {
    process: Child,
    answers: BufReader<ChildStdout>,
}

impl Browser {
    pub(crate) fn start(lb: &Balancer) -> Self {
        let mut process = Command::new(installed("node"))
            .env("NODE_PATH", installed("node_modules"))
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/browser.js"))
            .arg(lb.url(""))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node starts");
        let answers = BufReader::new(process.stdout.take().expect("a pipe"));
        Self { process, answers }
    }

    /// Has a step done, and returns what comes of it.
    pub(crate) fn step(&mut self, step: &str, argument: &str) -> Value {
        let input = self.process.stdin.as_mut().expect("a pipe");
        writeln!(input, "{}", json!([step, argument])).expect("it reads");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("an answer");
        serde_json::from_str(&answer).unwrap_or_else(|_| panic!("{step} {argument}: {answer:?}"))
    }

    fn shown(&mut self) -> Value {
        self.step("shown", "")
    }

    /// Timeouts until the status page shows what `is_so`.
    fn wait_until(&mut self, what: &str, is_so: impl Fn(&Value) -> bool) {
        wait_until(what, || is_so(&self.shown()));
    }

    /// Timeouts until the status page is drawn.
    fn open_status(&mut self) {
        self.step("open", "/-/");
        self.wait_until("it is drawn", |shown| shown["updates"].as_u64() > Some(0));
    }

    /// Has axe-core look at the page that is open, on a computer and on a phone, in both schemes.
    pub(crate) fn assert_accessible(&mut self, what: &str) {
        for view in ["1024 light", "1024 dark", "390 light", "390 dark"] {
            self.step("view", view);
            assert_eq!(self.step("findings", ""), json!([]), "{what}, {view}");
        }
    }

    pub(crate) fn assert_nothing_wrong(&mut self) {
        assert_eq!(self.step("wrong", ""), json!([]));
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // At the end of its input it closes Chromium and ends.
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// Three servers with the 1319 actors.
fn three_servers_with_actors() -> [RedisServer; 3] {
    let servers = [(); 3].map(|()| RedisServer::start());
    seed(&servers.each_ref());
    servers
}

fn seed(servers: &[&RedisServer]) {
    let mut seed = Command::new(env!("CARGO_BIN_EXE_seed"));
    seed.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/actors.csv"));
    for server in servers {
        seed.args(["--backend", &server.address()]);
    }
    assert!(seed.output().expect("seed runs").status.success());
}

/// The row of a server in the table of backends.
fn row<'a>(shown: &'a Value, server: &RedisServer) -> &'a Value {
    let mut rows = shown["rows"].as_array().expect("rows").iter();
    rows.find(|row| row["name"] == *server.address()).expect("its row")
}

fn states(shown: &Value) -> Vec<&str> {
    let rows = shown["rows"].as_array().expect("rows").iter();
    rows.map(|row| row["state"].as_str().unwrap_or("none")).collect()
}

#[test]
fn the_status_page_follows_what_happens() {
    let mut servers = three_servers_with_actors();
    // No check is due while this test runs: a kill that shows was noticed at once.
    let arguments = ["--slow-start", "0s", "--check-interval", "60s"];
    let lb = Balancer::start_with(&servers.each_ref(), &arguments);
    let mut sessions: Vec<RespClient> = (0..9).map(|_| RespClient::connect(lb.port())).collect();
    sessions.iter_mut().for_each(|session| _ = session.call("GET none"));
    let mut browser = Browser::start(&lb);
    browser.step("open", "/-/");
    browser.wait_until("all are up and have what they have", |shown| {
        let rows = shown["rows"].as_array().expect("rows");
        states(shown) == ["up"; 3]
            && rows.iter().all(|row| row["leases"] == "3" && row["keys"] == "1,319")
    });
    let first = browser.shown();
    assert_eq!(first["overall"], "3 of 3 up");
    assert_eq!(first["title"], "3/3 up – redis-lb");
    sessions[0].call("STRLEN none");
    browser.wait_until("it is drawn anew, with what was asked for meanwhile", |shown| {
        let commands = shown["commands"].as_array().expect("commands");
        shown["updates"].as_u64() > first["updates"].as_u64()
            && commands.iter().any(|name| name == "strlen")
    });
    browser.assert_nothing_wrong();

    servers[1].kill();
    browser.wait_until("the kill shows, first of all", |shown| {
        shown["rows"][0]["name"] == servers[1].address()
            && states(shown)[0] != "up"
            && shown["rows"][0]["leases"] == "0"
    });
    let overall = browser.shown()["overall"].clone();
    let begin = format!("2 of 3 up · {} ", servers[1].address());
    assert!(overall.as_str().is_some_and(|text| text.starts_with(&begin)), "{overall}");
    servers[1].restart();
    seed(&[&servers[1]]);
    browser.wait_until("its return shows", |shown| {
        states(shown) == ["up"; 3] && row(shown, &servers[1])["leases"] != "0"
    });
    browser.assert_nothing_wrong();
}

#[test]
fn the_near_cache_is_on_the_status_page_while_there_is_one() {
    let server = RedisServer::start();
    for (arguments, expected) in
        [(&[][..], Value::Null), (&["--cache", "64MiB"], json!(" of 64 MiB, "))]
    {
        let lb = Balancer::start_with(&[&server], arguments);
        let mut browser = Browser::start(&lb);
        browser.open_status();
        let note = browser.shown()["cache"]["note"].clone();
        let is_shown = match (note.as_str(), expected.as_str()) {
            (Some(note), Some(expected)) => note.contains(expected),
            (note, expected) => note == expected,
        };
        assert!(is_shown, "{note}");
        browser.assert_nothing_wrong();
    }
}

#[test]
fn the_status_page_says_what_sources_have_found() {
    let primary = RedisServer::start();
    let lb = Balancer::start_at(&[format!("primary://{}?read=all", primary.address())], &[]);
    let mut browser = Browser::start(&lb);
    browser.open_status();
    wait_until("it does", || {
        let text = browser.step("text", "");
        text.as_str().is_some_and(|text| text.contains("1 server found by primary://"))
    });
    browser.assert_nothing_wrong();
}

#[test]
fn the_pages_fit_on_a_phone() {
    let server = RedisServer::start();
    seed(&[&server]);
    let lb = Balancer::start_with(&[&server], &["--cache", "64MiB"]);
    let mut browser = Browser::start(&lb);
    browser.step("phone", "");
    browser.open_status();
    assert_eq!(browser.step("isTooWide", ""), false, "the status page");
    for path in ["/", "/?search=actor:13", "/actor:1", "/actor:none"] {
        browser.step("open", path);
        assert_eq!(browser.step("isTooWide", ""), false, "{path}");
    }
}

#[test]
fn the_status_page_is_accessible_also_while_a_backend_is_down() {
    let mut servers = three_servers_with_actors();
    let lb = Balancer::start_with(&servers.each_ref(), &["--cache", "64MiB"]);
    servers[1].kill();
    let mut browser = Browser::start(&lb);
    browser.open_status();
    browser.wait_until("the kill shows", |shown| states(shown).contains(&"down"));
    assert_eq!(browser.step("tabTo", &servers[1].address()), true);
    browser.step("press", "Enter");
    wait_until("its details are there", || {
        let text = browser.step("text", "");
        text.as_str().is_some_and(|text| text.contains("1 time, "))
    });
    browser.assert_accessible("one down");
    browser.assert_nothing_wrong();
}

#[test]
fn all_of_the_status_page_is_reached_by_the_keyboard() {
    let servers = three_servers_with_actors();
    let lb = Balancer::start(&servers.each_ref());
    let mut browser = Browser::start(&lb);
    browser.open_status();
    let stops = browser.step("tabStops", "");
    let stops = stops.as_array().expect("a list");
    assert!(stops.len() < 40, "it ends: {stops:?}");
    for target in ["/", "metrics", "status.json", "openapi.json", "changes", "slow"] {
        assert!(stops.iter().any(|stop| stop["target"] == target), "{target}: {stops:?}");
    }
    for server in &servers {
        assert!(stops.iter().any(|stop| stop["name"] == *server.address()), "{stops:?}");
    }
    assert!(stops.iter().all(|stop| stop["isSeen"] == true), "{stops:?}");
    assert_eq!(browser.step("tabTo", "Leases of the last minute, by backend"), true);
    for (key, expected) in
        [("ArrowLeft", "1 s ago "), ("ArrowLeft", "2 s ago "), ("End", "Now 0: ")]
    {
        browser.step("press", key);
        let said = browser.step("valueText", "");
        assert!(said.as_str().is_some_and(|text| text.starts_with(expected)), "{key}: {said}");
    }
}

#[test]
fn what_is_open_focused_and_selected_stays_so_when_a_backend_is_added() {
    let [one, two] = [(); 2].map(|()| RedisServer::start());
    let folder = tempfile::tempdir().expect("a folder");
    let control = folder.path().join("control");
    let control = control.to_str().expect("a path");
    let lb = Balancer::start_with(&[&one], &["--control", control]);
    RespClient::connect(lb.port()).call("GET none");
    let mut browser = Browser::start(&lb);
    browser.open_status();
    let command = |shown: &Value| shown["commands"][0].as_str().map(str::to_owned);
    browser.wait_until("the command shows", |shown| command(shown).as_deref() == Some("get"));
    assert_eq!(browser.step("tabTo", &one.address()), true);
    browser.step("press", "Enter");
    browser.step("select", "[data-command] th");
    let mut add = Command::new(env!("CARGO_BIN_EXE_lb"));
    add.args(["ctl", "--control", control, "add", &two.address()]);
    assert!(add.output().expect("it runs").status.success());
    browser.wait_until("both show", |shown| states(shown) == ["up"; 2]);
    assert_eq!(browser.step("focused", ""), *one.address());
    assert_eq!(browser.step("selected", ""), "get");
    let text = browser.step("text", "");
    assert!(text.as_str().is_some_and(|text| text.contains("not since the start")), "{text}");
    browser.assert_nothing_wrong();
}

#[test]
fn a_status_page_that_is_refused_says_so_and_asks_no_longer() {
    let server = RedisServer::start();
    let lb = Balancer::start(&[&server]);
    let mut browser = Browser::start(&lb);
    for (status, expected) in [("401", "lb asks for a login"), ("403", "the right to use INFO")] {
        browser.open_status();
        browser.step("refuse", status);
        browser.wait_until("it is refused", |shown| shown["answering"] == "no");
        let text = browser.step("text", "");
        let text = text.as_str().expect("text");
        assert!(text.contains(expected) && text.contains("Load the page again"), "{text}");
        assert_eq!(browser.step("asks", ""), false, "{status}");
        browser.step("allow", "");
    }
}

#[test]
fn an_error_of_the_status_page_is_shown_and_leaves_the_rest_as_it_is() {
    let server = RedisServer::start();
    let lb = Balancer::start(&[&server]);
    let mut browser = Browser::start(&lb);
    browser.open_status();
    browser.step("omit", "slow_reads");
    wait_until("it is shown", || {
        let text = browser.step("text", "");
        text.as_str().is_some_and(|text| text.contains("This page has an error"))
    });
    assert_eq!(lb.get("/none").status, 404);
    browser.wait_until("the rest goes on", |shown| shown["counts"]["4xx"]["total"] == "1");
}

#[test]
fn fourteen_backends_fit_a_screen() {
    let servers = [(); 14].map(|()| RedisServer::start());
    let lb = Balancer::start(&servers.each_ref());
    let mut browser = Browser::start(&lb);
    browser.step("view", "1024 light");
    browser.open_status();
    browser.wait_until("all are up", |shown| states(shown) == ["up"; 14]);
    let bottom = browser.step("bottomOf", "#backends").as_f64().expect("a number");
    assert!(bottom < 768.0, "{bottom}");
    assert_eq!(browser.step("isTooWide", ""), false);
}

#[test]
fn the_status_page_has_the_counts_of_the_clients_to_the_unit() {
    let mut servers = three_servers_with_actors();
    let lb = Balancer::start_with(&servers.each_ref(), &["--check-interval", "60s"]);
    let mut sessions: Vec<RespClient> = (0..6).map(|_| RespClient::connect(lb.port())).collect();
    let mut commands = 0;
    let mut client = lb.client();
    for round in 0..60 {
        if round == 30 {
            servers[1].kill();
        }
        for session in &mut sessions {
            session.call("HGET actor:1 last_name");
            commands += 1;
        }
        assert_eq!(client.get("/actor:1").status, 200);
    }
    assert_eq!(lb.get("/none").status, 404);
    let status = lb.get("/-/status.json").json();
    assert_eq!(status["last_minute"]["requests"], json!({ "http": 61, "resp": commands }));
    let mut browser = Browser::start(&lb);
    browser.open_status();
    let shown = browser.shown();
    let errors = status["last_minute"]["errors"].to_string();
    for (name, expected) in [
        ("requests_http", "61"),
        ("requests_resp", &*commands.to_string()),
        ("connections_resp", "6"),
        ("2xx", "60"),
        ("4xx", "1"),
        ("unanswered", "0"),
        ("errors", &*errors),
    ] {
        let expected = json!({ "minute": expected, "total": expected });
        assert_eq!(shown["counts"][name], expected, "{name}");
    }
    assert_eq!(row(&shown, &servers[1])["failed"], errors.as_str());
    let window = shown["window"].as_str().expect("text");
    assert!(window.starts_with("in the last ") && window.ends_with("\u{a0}s"), "{window}");
}

#[test]
fn the_status_page_says_when_nobody_answers_and_goes_on_by_itself() {
    let server = RedisServer::start();
    let mut lb = Balancer::start(&[&server]);
    let listen = format!("127.0.0.1:{}", lb.port());
    let mut browser = Browser::start(&lb);
    browser.open_status();
    lb.signal("-KILL");
    lb.wait();
    browser.wait_until("it says so", |shown| shown["answering"] == "no");
    let mut again = Command::new(env!("CARGO_BIN_EXE_lb"));
    again.args(["--listen", &listen, "--backend", &server.address()]);
    let _lb = Balancer::spawn(again);
    browser
        .wait_until("it goes on", |shown| shown["answering"] == "yes" && states(shown) == ["up"]);
    let wrong = browser.step("wrong", "");
    let is_expected =
        |it: &Value| it.as_str().is_some_and(|it| it.starts_with("console: Failed to load"));
    assert!(wrong.as_array().expect("a list").iter().all(is_expected), "{wrong}");
}

#[test]
fn the_actors_can_be_browsed_searched_and_opened() {
    let servers = three_servers_with_actors();
    let lb = Balancer::start(&servers.each_ref());
    let mut browser = Browser::start(&lb);
    for (first, pages) in [("/", 1), ("/?limit=100", 10)] {
        let browsed = browser.step("browse", first);
        let mut keys: Vec<&str> =
            browsed["keys"].as_array().expect("keys").iter().filter_map(Value::as_str).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), 1319, "{first}");
        assert!(browsed["pages"].as_u64() >= Some(pages), "{first}: {}", browsed["pages"]);
    }
    let found = |browser: &mut Browser, text: &str| {
        browser.step("search", text).as_array().expect("keys").len()
    };
    assert_eq!(found(&mut browser, "actor:13"), 1 + 10 + 20, "13, 130 to 139, 1300 to 1319");
    assert_eq!(found(&mut browser, "*:13?"), 10);
    browser.step("open", "/?search=actor:1");
    browser.step("click", "actor:1");
    let text = browser.step("text", "");
    let text = text.as_str().expect("text");
    assert!(
        ["Mara", "Ellingworth", "1974-03-18", "hash"].iter().all(|it| text.contains(it)),
        "{text}"
    );
    browser.assert_nothing_wrong();
}

#[test]
fn keys_and_values_that_are_markup_are_shown_as_text() {
    const KEY: &str = "<script>window.pwned=1</script>";
    const VALUE: &str = "<img src=x onerror=\"window.pwned=1\">\"'><svg onload=alert(1)>&lt;";
    let server = RedisServer::start();
    server.command(&["SET", KEY, VALUE]);
    server.command(&["HSET", "hash", KEY, VALUE, "onclick=alert(1) x", "javascript:alert(1)"]);
    server.command(&["RPUSH", VALUE, KEY, VALUE]);
    let lb = Balancer::start(&[&server]);
    // What clients say comes back on the status page as well.
    RespClient::connect(lb.port()).command(&[KEY, VALUE]);
    let mut browser = Browser::start(&lb);
    for link in [KEY, "hash", VALUE] {
        browser.step("open", "/");
        let listing = browser.step("text", "");
        assert!(listing.as_str().expect("text").contains(KEY), "{listing}");
        browser.step("click", link);
        let text = browser.step("text", "");
        assert!(text.as_str().expect("text").contains(VALUE), "{text}");
        assert_eq!(browser.step("pwned", ""), "no");
    }
    browser.open_status();
    assert_eq!(browser.step("pwned", ""), "no");
    browser.assert_nothing_wrong();
}

#[test]
fn names_and_reasons_that_are_markup_are_shown_as_text() {
    const NAME: &str = "<img src=x onerror=window.pwned=1>";
    const REASON: &str = "ERR <svg onload=window.pwned=1>";
    let server = RedisServer::start();
    let socket = server.socket().with_file_name(NAME);
    std::os::unix::fs::symlink(server.socket(), &socket).expect("another name of its socket");
    let failing = format!("127.0.0.1:{}", says(REASON));
    let lb = Balancer::start_at(&[format!("redis+unix://{}", socket.display()), failing], &[]);
    let mut browser = Browser::start(&lb);
    browser.open_status();
    browser.wait_until("both are known", |shown| states(shown) == ["down", "up"]);
    let text = browser.step("text", "");
    let text = text.as_str().expect("text");
    // Of a long name the middle is left out.
    assert!(text.contains(&NAME[..10]) && text.contains(REASON), "{text}");
    assert_eq!(browser.step("pwned", ""), "no");
    browser.assert_nothing_wrong();
}

/// Something that says this error to whoever connects; returns its port.
fn says(error: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("its address").port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // Whatever fails here, the balancer sees a broken backend, as it should.
            let _ = write!(stream, "-{error}\r\n");
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
    port
}
