//! Sentinels of the tests' own.

use std::fs;
use std::process::{Child, Command, Stdio};

use redis::{ConnectionLike, Value};

use super::certificates::Certificates;
use super::redis::{RedisServer, free_port};
use super::wait_until;

/// Name by which the Sentinels know the primary.
pub const NAME: &str = "mine";

/// A Sentinel of the test's own; it ends when this is dropped.
pub struct Sentinel {
    port: u16,
    tls_port: Option<u16>,
    password: Option<String>,
    process: Child,
    // The Sentinel writes what it knows to the file there.
    folder: tempfile::TempDir,
}

impl Sentinel {
    /// Like [`start_with`](Self::start_with), and speaks TLS with servers and Sentinels, and with clients at a port of its own.
    pub fn start_tls(primary: &RedisServer, quorum: usize, certificates: &Certificates) -> Self {
        let (tls_port, own) = (free_port(), certificates.server());
        let lines = format!(
            "tls-port {tls_port}\ntls-replication yes\ntls-auth-clients no\ntls-cert-file {}\n\
             tls-key-file {}\ntls-ca-cert-file {}\n",
            own.certificate.display(),
            own.key.display(),
            certificates.ca().display(),
        );
        let mut sentinel = Self::start_with(primary, quorum, &lines);
        sentinel.tls_port = Some(tls_port);
        sentinel
    }

    /// Watches a primary; `quorum` Sentinels decide that it is down. `lines` are more of its configuration.
    pub fn start_with(primary: &RedisServer, quorum: usize, lines: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("sentinel.conf");
        let port = free_port();
        let text = format!(
            "bind 127.0.0.1\nport {port}\ndir {}\nlogfile {}\n\
             sentinel monitor {NAME} 127.0.0.1 {} {quorum}\n\
             sentinel down-after-milliseconds {NAME} 500\n\
             sentinel failover-timeout {NAME} 2000\nsentinel parallel-syncs {NAME} 3\n{lines}\n",
            folder.path().display(),
            folder.path().join("log").display(),
            if lines.contains("tls-replication yes") {
                primary.balanced_port()
            } else {
                primary.port()
            },
        );
        fs::write(&file, text).expect("a file");
        let process = Command::new("redis-server")
            .arg(&file)
            .arg("--sentinel")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server");
        let password = lines.lines().find_map(|line| line.strip_prefix("requirepass "));
        let password = password.map(str::to_owned);
        let sentinel = Self { port, tls_port: None, password, process, folder };
        wait_until("the Sentinel answers", || sentinel.client().get_connection().is_ok());
        // It would ask servers for their replicas every 10 s. Before Redis 7 it can't be told otherwise.
        let _ = sentinel.ask(&["DEBUG", "INFO-PERIOD", "500"]);
        sentinel
    }

    /// `127.0.0.1:PORT`
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `127.0.0.1:PORT`, where it speaks TLS.
    pub fn tls_address(&self) -> String {
        format!("127.0.0.1:{}", self.tls_port.expect("it speaks TLS"))
    }

    fn client(&self) -> redis::Client {
        let login = self.password.as_ref().map(|password| format!(":{password}@"));
        let url = format!("redis://{}{}", login.unwrap_or_default(), self.address());
        redis::Client::open(url).expect("an address")
    }

    /// Its answer to a command, or what kept it from one.
    pub fn ask(&self, arguments: &[&str]) -> redis::RedisResult<Value> {
        let command = redis::cmd("SENTINEL").arg(arguments).clone();
        self.client().get_connection()?.req_command(&command)?.extract_error()
    }

    /// Names and values of each instance that it lists, such as `REPLICAS`.
    pub fn list(&self, what: &str) -> Vec<std::collections::HashMap<String, String>> {
        let answer = self.ask(&[what, NAME]).expect("a list");
        redis::from_redis_value(answer).expect("a list of instances")
    }

    /// The port of the primary, as it knows it.
    pub fn primary_port(&self) -> u16 {
        let answer = self.ask(&["GET-MASTER-ADDR-BY-NAME", NAME]).expect("an answer");
        let (_, port): (String, u16) = redis::from_redis_value(answer).expect("an address");
        port
    }

    /// What it has written to its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// SIGSTOP: the kernel still accepts and acknowledges, the Sentinel says nothing.
    pub fn freeze(&self) {
        let pid = self.process.id().to_string();
        let status = Command::new("kill").args(["-STOP", &pid]).status().expect("kill");
        assert!(status.success());
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        // Nothing is left to do if the process is gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
