//! Prometheus, and its `promtool`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};

use serde_json::Value;

use super::balancer::Balancer;
use super::front::unpacked;
use super::redis::free_port;
use super::{wait_until, wait_up_to};

/// The folder with the files for users of Prometheus.
pub fn contrib() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/prometheus")
}

/// Runs `promtool` in a folder, with this input.
pub fn promtool(folder: &Path, arguments: &[&str], input: &str) -> Output {
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), input).expect("room");
    unpacked("promtool")
        .args(arguments)
        .current_dir(folder)
        .stdin(fs::File::open(file.path()).expect("it is there"))
        .output()
        .expect("promtool: is it there? bash tests/unpack.sh gets it")
}

/// A Prometheus of the test's own, on a free port; it ends when this is dropped.
pub struct Prometheus {
    process: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    /// Scrapes a balancer each second, as the file for users says, and evaluates the rules.
    pub fn start(lb: &Balancer) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::copy(contrib().join("alerts.yml"), folder.path().join("alerts.yml")).expect("a copy");
        let text = fs::read_to_string(contrib().join("scrape.yml")).expect("the file");
        let text = text.replace("127.0.0.1:1310", &format!("127.0.0.1:{}", lb.port()));
        let text = format!("global:\n  evaluation_interval: 1s\n{}", text.replace("15s", "1s"));
        fs::write(folder.path().join("prometheus.yml"), text).expect("room");
        // A port that was free a moment ago may be taken when it binds it.
        for _ in 0..5 {
            let port = free_port();
            let mut process = unpacked("prometheus")
                .arg("--config.file=prometheus.yml")
                .arg("--storage.tsdb.path=data")
                .arg(format!("--web.listen-address=127.0.0.1:{port}"))
                .current_dir(folder.path())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("prometheus: is it there? bash tests/unpack.sh gets it");
            if is_ready(port, &mut process) {
                return Self { process, port, _folder: folder };
            }
        }
        panic!("Prometheus did not start in five attempts");
    }

    /// What its API says at a path.
    pub fn api(&self, path: &str, parameters: &[(&str, &str)]) -> Value {
        let url = format!("http://127.0.0.1:{}/api/v1/{path}", self.port);
        let config = ureq::Agent::config_builder().http_status_as_error(false).build();
        let request = ureq::Agent::new_with_config(config).get(url);
        let request = request.query_pairs(parameters.iter().copied());
        let text = request.call().and_then(|mut answer| answer.body_mut().read_to_string());
        let json: Value = serde_json::from_str(&text.expect("an answer")).expect("JSON");
        assert_eq!(json["status"], "success", "{parameters:?}: {json}");
        json["data"].clone()
    }

    /// The rows that an expression has now.
    pub fn query(&self, expression: &str) -> Vec<Value> {
        self.api("query", &[("query", expression)])["result"].as_array().expect("rows").clone()
    }

    /// The only value of an expression, if it has one.
    pub fn value(&self, expression: &str) -> Option<f64> {
        match &self.query(expression)[..] {
            [row] => row["value"][1].as_str().expect("text").parse().ok(),
            _ => None,
        }
    }

    /// Waits until an expression has this value.
    pub fn wait_for(&self, expression: &str, value: f64) {
        let mut last = None;
        wait_up_to(std::time::Duration::from_secs(30), expression, || {
            last = self.value(expression);
            last == Some(value)
        });
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // Nothing is left to do if the process is gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Waits until it is ready; false if its process ended instead.
fn is_ready(port: u16, process: &mut Child) -> bool {
    let mut ended = false;
    wait_until("Prometheus is ready", || {
        ended = process.try_wait().expect("its state").is_some();
        ended || ureq::get(format!("http://127.0.0.1:{port}/-/ready")).call().is_ok()
    });
    !ended
}
