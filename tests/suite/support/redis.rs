use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use redis::ConnectionLike;

use super::certificates::CertificateFiles;
use super::{tls_everywhere, wait_until};

/// Where servers listen, unless a test wants another address.
const LOOPBACK: &str = "127.0.0.1";

/// A `redis-server` of the test's own; it ends when this is dropped.
pub struct RedisServer {
    host: String,
    port: u16,
    /// The port where it speaks TLS, if it does: the balancer is to use that one.
    tls_port: Option<u16>,
    process: Child,
    extra_args: Vec<String>,
    folder: tempfile::TempDir,
}

impl RedisServer {
    /// An empty server on a free loopback port.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a server with more `redis-server` arguments, such as `["--requirepass", "secret"]`.
    pub fn start_with(extra_args: &[&str]) -> Self {
        match tls_everywhere::certificates() {
            Some(certificates) => {
                Self::start_tls(&certificates.server(), &certificates.ca(), extra_args)
            }
            None => Self::start_at_free_port(false, extra_args),
        }
    }

    /// Starts a server that speaks TLS as well, with this certificate, and with clients that this CA knows.
    pub fn start_tls(certificate: &CertificateFiles, ca: &Path, extra_args: &[&str]) -> Self {
        let [certificate, key, ca] = [&certificate.certificate, &certificate.key, ca]
            .map(|path| path.to_str().expect("text"));
        let args =
            ["--tls-cert-file", certificate, "--tls-key-file", key, "--tls-ca-cert-file", ca];
        let args = [&args[..], &["--tls-auth-clients", "no"], extra_args].concat();
        Self::start_at_free_port(true, &args)
    }

    fn start_at_free_port(speaks_tls: bool, extra_args: &[&str]) -> Self {
        let start = |_| {
            let tls_port = speaks_tls.then(free_port);
            let text = tls_port.unwrap_or_default().to_string();
            let args = [&["--tls-port", &text], extra_args].concat();
            let args = if speaks_tls { &args[..] } else { extra_args };
            let mut server = Self::try_start(LOOPBACK, free_port(), args)?;
            server.tls_port = tls_port;
            Some(server)
        };
        // A port that was free a moment ago may be taken when the server binds it.
        (0..5).find_map(start).expect("redis-server starts in five attempts")
    }

    /// An empty server at this address, such as 127.0.0.2: on Linux, all of 127.0.0.0/8 is this machine.
    pub fn start_at(host: &str, port: u16) -> Self {
        Self::try_start(host, port, &[]).expect("the address is free")
    }

    fn try_start(host: &str, port: u16, extra_args: &[&str]) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let extra_args: Vec<String> = extra_args.iter().map(|&arg| arg.into()).collect();
        let mut process = spawn(host, port, folder.path(), &extra_args);
        let is_there = answers(folder.path(), &mut process);
        let host = host.to_owned();
        is_there.then_some(Self { host, port, tls_port: None, process, extra_args, folder })
    }

    /// The port where it speaks plain text.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The port that the balancer uses: that of TLS, if there is one.
    pub fn balanced_port(&self) -> u16 {
        self.tls_port.unwrap_or(self.port)
    }

    /// `127.0.0.1:PORT`, the name that the balancer has for it.
    pub fn address(&self) -> String {
        format!("{}:{}", self.host, self.balanced_port())
    }

    /// The address as the balancer needs it.
    pub fn url(&self) -> String {
        let scheme = if self.tls_port.is_some() { "rediss://" } else { "" };
        format!("{scheme}{}", self.address())
    }

    /// The URL of a client that needs no TLS.
    pub fn plain_url(&self) -> String {
        format!("redis://{}:{}", self.host, self.port)
    }

    /// The path of the server's Unix socket.
    pub fn socket(&self) -> std::path::PathBuf {
        self.folder.path().join("redis.sock")
    }

    /// A connection straight to the server (as the default user, without a password).
    pub fn connect(&self) -> redis::Connection {
        redis::Client::open(self.plain_url())
            .and_then(|client| client.get_connection())
            .expect("a connection to the test's own server")
    }

    /// Runs one command straight on the server; its arguments are text or bytes.
    pub fn command<A: redis::ToRedisArgs>(&self, args: &[A]) -> redis::Value {
        let mut command = redis::Cmd::new();
        command.arg(args);
        self.connect().req_command(&command).expect("an answer of the test's own server")
    }

    /// `kill -9`, and waits until the process is gone.
    pub fn kill(&mut self) {
        self.process.kill().expect("the server's process");
        self.process.wait().expect("the server's end");
    }

    /// Writes the data to the file from which a restart reads them.
    pub fn save(&self) {
        self.command(&["SAVE"]);
    }

    /// Removes that file, if there is one.
    pub fn forget(&self) {
        // There may be none.
        let _ = std::fs::remove_file(self.folder.path().join("dump.rdb"));
    }

    /// Ends in good order, its data saved, and waits until the process is gone.
    pub fn shut_down(&mut self) {
        // It ends instead of answering.
        let _ = self.connect().req_command(redis::cmd("SHUTDOWN").arg("SAVE"));
        let mut ended = false;
        wait_until("redis-server ends", || {
            ended = ended || self.process.try_wait().expect("the server's state").is_some();
            ended
        });
    }

    /// Starts a server that has ended again on its old port, with the data that it saved last. It
    /// accepts connections when this returns, and may still be loading them.
    pub fn restart(&mut self) {
        let has_ended = self.process.try_wait().expect("the server's state").is_some();
        assert!(has_ended, "two of it would run, and the old one would answer");
        self.process = spawn(&self.host, self.port, self.folder.path(), &self.extra_args);
        assert!(answers(self.folder.path(), &mut self.process), "port {} is taken", self.port);
    }

    /// Restarts the server with more `redis-server` arguments than before.
    pub fn restart_with(&mut self, more_args: &[&str]) {
        self.extra_args.extend(more_args.iter().map(|&arg| arg.to_owned()));
        self.restart();
    }

    /// Restarts the server so that it answers `LOADING` for a while: 3 s with 20,000 keys.
    pub fn restart_slowly(&mut self) {
        self.restart_with(&[
            "--key-load-delay",
            "150",
            "--loading-process-events-interval-bytes",
            "1024",
        ]);
    }

    /// SIGSTOP: the kernel still accepts and acknowledges, the server says nothing.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    /// SIGCONT
    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = self.process.id().to_string();
        let status = Command::new("kill").args([signal, &pid]).status().expect("kill");
        assert!(status.success(), "kill {signal} {pid}");
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // Nothing is left to do if the process is gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Three servers with one actor.
pub fn three_servers() -> [RedisServer; 3] {
    let servers = [(); 3].map(|()| RedisServer::start());
    for server in &servers {
        server.command(&["HSET", "actor:1", "first_name", "Mara", "last_name", "Ellingworth"]);
    }
    servers
}

/// A replica of a server, with more arguments.
pub fn replica_of(primary: &RedisServer, more_args: &[&str]) -> RedisServer {
    let port = primary.port().to_string();
    RedisServer::start_with(&[&["--replicaof", "127.0.0.1", &port], more_args].concat())
}

/// A port that nothing listens on at this moment. It is none of those that the system gives to
/// connections, of which the tests make thousands.
pub fn free_port() -> u16 {
    loop {
        let port = fastrand::u16(10_000..32_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn spawn(host: &str, port: u16, folder: &Path, extra_args: &[String]) -> Child {
    Command::new("redis-server")
        .args(["--bind", host, "--port", &port.to_string()])
        .args(["--save", "", "--appendonly", "no", "--unixsocket", "redis.sock"])
        .args(["--enable-debug-command", "yes"])
        .arg("--dir")
        .arg(folder)
        .args(extra_args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .current_dir(folder)
        .spawn()
        .expect("redis-server: is it installed?")
}

/// Waits until the server accepts connections; false if its process ended instead. It is asked by
/// its socket, which it makes after its port: on a port that is taken another would answer.
fn answers(folder: &Path, process: &mut Child) -> bool {
    let mut ended = false;
    wait_until("redis-server accepts connections", || {
        ended = process.try_wait().expect("the server's state").is_some();
        ended || UnixStream::connect(folder.join("redis.sock")).is_ok()
    });
    !ended
}
