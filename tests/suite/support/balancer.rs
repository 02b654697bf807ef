use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::client::Client;
use super::redis::RedisServer;
use super::{tls_everywhere, wait_until};

/// An `lb` process of the test's own, on a free port; it ends when this is dropped.
pub struct Balancer {
    process: Child,
    port: u16,
    log: Arc<Mutex<String>>,
}

impl Balancer {
    /// In front of these servers.
    pub fn start(servers: &[&RedisServer]) -> Self {
        Self::start_with(servers, &[])
    }

    /// Starts the balancer with more arguments, such as `["--demo-delay", "1s"]`.
    pub fn start_with(servers: &[&RedisServer], arguments: &[&str]) -> Self {
        let backends: Vec<String> = servers.iter().map(|server| server.url()).collect();
        Self::start_at(&backends, arguments)
    }

    /// In front of these addresses, whatever is there.
    pub fn start_at(backends: &[String], arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lb"));
        command.args(["--listen", "127.0.0.1:0"]);
        for backend in backends {
            command.args(["--backend", backend]);
        }
        command.args(arguments);
        Self::spawn(command)
    }

    /// From a command whose `--listen` has port 0.
    pub fn spawn(mut command: Command) -> Self {
        tls_everywhere::configure(&mut command);
        // With `CACHE=1`, tests run with a near cache, but for those that say otherwise.
        if std::env::var_os("CACHE").is_some() {
            command.env("LB_CACHE", "16MiB");
        }
        let mut process =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("lb starts");
        let log = Arc::new(Mutex::new(String::new()));
        collect(process.stderr.take().expect("a pipe"), Arc::clone(&log));
        let mut lines = BufReader::new(process.stdout.take().expect("a pipe")).lines();
        let first = lines.next().expect("lb says where it listens").expect("text");
        let port = first
            .trim_end_matches('/')
            .rsplit(':')
            .next()
            .and_then(|port| port.parse().ok())
            .unwrap_or_else(|| panic!("no port in {first:?}"));
        let port = tls_everywhere::port_for_tests(port);
        Self { process, port, log }
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// `http://127.0.0.1:PORT` with `path` after it.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// What has been logged so far.
    pub fn log(&self) -> String {
        self.log.lock().expect("no panic while it is held").clone()
    }

    /// A connection of the test's own, with a timeout on every operation.
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("lb accepts");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        stream.set_write_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        stream
    }

    /// A connection that understands HTTP.
    pub fn client(&self) -> Client {
        Client::new(self.connect())
    }

    /// Sends bytes and returns all that comes until the connection ends.
    pub fn talk(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = self.connect();
        // lb may refuse and close before it has read everything.
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        answer
    }

    /// GET over a connection of its own.
    pub fn get(&self, path: &str) -> Answer {
        self.request("GET", path, &[])
    }

    /// A request over a connection of its own.
    pub fn request(&self, method: &str, path: &str, headers: &[&str]) -> Answer {
        let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n"
        );
        Answer::parse(&self.talk(request.as_bytes()))
    }

    /// SIGTERM, SIGINT, …
    pub fn signal(&self, signal: &str) {
        let pid = self.pid().to_string();
        let status = Command::new("kill").args([signal, &pid]).status().expect("kill");
        assert!(status.success(), "kill {signal} {pid}");
    }

    /// From now on it may open no file descriptor with that number or a higher one.
    pub fn limit_descriptors(&self, limit: usize) {
        let (pid, limit) = (self.pid().to_string(), format!("--nofile={limit}:"));
        let status = Command::new("prlimit").args(["--pid", &pid, &limit]).status();
        assert!(status.expect("prlimit").success());
    }

    /// Waits until the process has ended.
    pub fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        wait_until("lb ends", || {
            status = self.process.try_wait().expect("the process's state");
            status.is_some()
        });
        status.expect("an exit status")
    }

    /// Whether the process is still there.
    pub fn is_running(&mut self) -> bool {
        self.process.try_wait().expect("the process's state").is_none()
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        // Nothing is left to do if the process is gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!(
                "the log of lb ends:\n{}",
                lines[lines.len().saturating_sub(30)..].join("\n")
            );
        }
    }
}

/// One HTTP answer, its chunks joined.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Whether the body came to the end that its head announced.
    pub is_whole: bool,
}

impl Answer {
    /// Reads an answer to GET from the bytes of a connection that carried nothing else.
    pub fn parse(bytes: &[u8]) -> Self {
        let head_end = bytes
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
            .unwrap_or_else(|| panic!("no head in {:?}", String::from_utf8_lossy(bytes)));
        let head = String::from_utf8_lossy(&bytes[..head_end]).into_owned();
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).expect("a status line");
        let mut answer = Self {
            status: status.parse().expect("a status"),
            headers: lines
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
                .collect(),
            body: Vec::new(),
            is_whole: false,
        };
        let rest = &bytes[head_end + 4..];
        match answer.header("transfer-encoding") {
            Some("chunked") => answer.join_chunks(rest),
            _ => {
                answer.body = rest.to_vec();
                let length = answer.header("content-length").and_then(|text| text.parse().ok());
                answer.is_whole = length == Some(rest.len());
            }
        }
        answer
    }

    fn join_chunks(&mut self, mut rest: &[u8]) {
        while let Some(line_end) = rest.iter().position(|&byte| byte == b'\n') {
            let size = std::str::from_utf8(&rest[..line_end - 1]).expect("a chunk's size");
            let size = usize::from_str_radix(size, 16).expect("hexadecimal");
            rest = &rest[line_end + 1..];
            if size == 0 {
                self.is_whole = rest == b"\r\n";
                return;
            }
            if rest.len() < size + 2 {
                return;
            }
            self.body.extend_from_slice(&rest[..size]);
            rest = &rest[size + 2..];
        }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| {
            let begin = &self.body[..self.body.len().min(300)];
            panic!("{error}: {} …", String::from_utf8_lossy(begin))
        })
    }

    /// The backend that answered.
    pub fn served_by(&self) -> &str {
        self.header("x-served-by").unwrap_or_else(|| panic!("no X-Served-By: {self:?}"))
    }
}

fn collect(from: impl Read + Send + 'static, into: Arc<Mutex<String>>) {
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            let mut log = into.lock().expect("no panic while it is held");
            log.push_str(&line);
            log.push('\n');
        }
    });
}
