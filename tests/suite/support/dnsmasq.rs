//! `dnsmasq` as the nameserver of a test.

use std::fs::{self, Permissions};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::redis::free_port;
use super::wait_until;

/// What it is told each time. It knows all of the zone `example`: names in it that have no record do not exist.
const LINES: &str = "
no-resolv
no-hosts
no-negcache
bind-interfaces
listen-address=127.0.0.1
local=/example/
local-ttl=1
";

/// A `dnsmasq` of the test's own, on a free port; it ends when this is dropped.
pub struct Dnsmasq {
    port: u16,
    process: Child,
    folder: tempfile::TempDir,
}

impl Dnsmasq {
    /// Starts it with more lines of its configuration, such as `srv-host=_redis._tcp.example,a.example,6379`.
    pub fn start(lines: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        // It gives root's rights up, and reads its files again after that.
        let is_read_by_all = Permissions::from_mode(0o755);
        fs::set_permissions(folder.path(), is_read_by_all).expect("permissions");
        fs::write(folder.path().join("hosts"), "").expect("a file");
        // A port that was free a moment ago may be taken when it binds it.
        for _ in 0..5 {
            let port = free_port();
            let mut process = spawn(port, folder.path(), lines);
            if answers(port, &mut process) {
                return Self { port, process, folder };
            }
        }
        panic!("dnsmasq did not start in five attempts");
    }

    /// `127.0.0.1:PORT`
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// From now on these are its addresses, each with the names that have it: lines of `/etc/hosts`.
    pub fn set_hosts(&self, lines: &[&str]) {
        fs::write(self.folder.path().join("hosts"), lines.join("\n") + "\n").expect("a file");
        self.signal("-HUP");
    }

    /// Starts it again at its port, with other lines of its configuration.
    pub fn restart(&mut self, lines: &str) {
        self.end();
        self.process = spawn(self.port, self.folder.path(), lines);
        assert!(answers(self.port, &mut self.process), "port {} is taken", self.port);
    }

    /// SIGSTOP: the kernel takes questions, and nobody answers.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    /// SIGCONT
    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    /// Ends it, and waits until its port is free.
    pub fn end(&mut self) {
        // Nothing is left to do if the process is gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    fn signal(&self, signal: &str) {
        let pid = self.process.id().to_string();
        let status = Command::new("kill").args([signal, &pid]).status().expect("kill");
        assert!(status.success(), "kill {signal} {pid}");
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        self.end();
    }
}

fn spawn(port: u16, folder: &Path, lines: &str) -> Child {
    let [config, hosts] = ["dnsmasq.conf", "hosts"].map(|name| folder.join(name));
    let text = format!("{LINES}port={port}\naddn-hosts={}\n{lines}\n", hosts.display());
    fs::write(&config, text).expect("a file");
    let program = ["/usr/sbin/dnsmasq", "/usr/local/sbin/dnsmasq"];
    let program = program.into_iter().find(|path| Path::new(path).exists()).unwrap_or("dnsmasq");
    Command::new(program)
        .args(["--keep-in-foreground", "--pid-file"])
        .arg(format!("--conf-file={}", config.display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("dnsmasq: is it installed? bash tests/clients/install.sh installs it")
}

/// Waits until it answers; false if its process ended instead.
fn answers(port: u16, process: &mut Child) -> bool {
    let mut ended = false;
    wait_until("dnsmasq answers", || {
        ended = process.try_wait().expect("its state").is_some();
        ended || TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
    !ended
}
