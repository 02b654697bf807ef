//! Other proxies in front of the balancer, and programs of Debian's packages.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::redis::free_port;
use super::wait_until;

/// A program of a package that `tests/unpack.sh` gets where it is not installed.
pub fn unpacked(name: &str) -> Command {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/unpacked/usr");
    let places = ["bin", "sbin"].map(|place| folder.join(place).join(name));
    Command::new(places.into_iter().find(|path| path.exists()).unwrap_or_else(|| name.into()))
}

/// nginx or HAProxy; it ends with this.
pub struct Front {
    process: Child,
    /// Where clients come.
    pub port: u16,
    _folder: TempDir,
}

impl Front {
    /// With this `server` and what belongs to it, in which `PORT` is where clients come.
    pub fn nginx(server: &str) -> Self {
        Self::start(server, |text, path| {
            let folder = path.parent().expect("a folder").display();
            let folders = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                .map(|name| format!("{name}_temp_path {folder}/{name};"));
            let text = format!(
                "daemon off; master_process off; pid {folder}/pid; error_log stderr; events {{}}\n\
                 http {{ access_log off; {} {text} }}",
                folders.concat()
            );
            fs::write(&path, text).expect("room");
            let mut command = unpacked("nginx");
            command.arg("-c").arg(path);
            command
        })
    }

    /// With these sections, in which `PORT` is where clients come.
    pub fn haproxy(sections: &str) -> Self {
        Self::start(sections, |text, path| {
            let timeouts = "timeout connect 5s\n timeout client 30s\n timeout server 30s";
            fs::write(&path, format!("defaults\n {timeouts}\n{text}")).expect("room");
            let mut command = Command::new("haproxy");
            command.arg("-f").arg(path);
            command
        })
    }

    fn start(text: &str, configure: impl Fn(&str, PathBuf) -> Command) -> Self {
        // A port that was free a moment ago may be taken when it binds it.
        for _ in 0..5 {
            let (folder, port) = (TempDir::new().expect("a folder"), free_port());
            let text = text.replace("PORT", &port.to_string());
            let mut command = configure(&text, folder.path().join("conf"));
            let command = command.stdout(Stdio::null()).stderr(Stdio::null());
            let mut process = command.spawn().expect("it is there: make test gets it");
            let mut has_ended = false;
            wait_until("it listens", || {
                has_ended = process.try_wait().expect("its state").is_some();
                has_ended || TcpStream::connect(("127.0.0.1", port)).is_ok()
            });
            if !has_ended {
                return Self { process, port, _folder: folder };
            }
        }
        panic!("it did not start in five attempts");
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
