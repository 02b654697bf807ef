//! What is shown of the near cache, and what may not be configured of it.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::balancer::Balancer;
use crate::support::observe::metric;
use crate::support::redis::RedisServer;
use crate::support::resp::RespClient;
use crate::support::wait_until;

fn cache(lb: &Balancer) -> Value {
    lb.get("/-/status.json").json()["cache"].clone()
}

fn info(lb: &Balancer, sections: &str) -> String {
    RespClient::connect(lb.port()).call(format!("INFO {sections}").trim_end())
}

#[test]
fn the_size_of_the_cache_shows_everywhere_and_nothing_does_without_one() {
    let server = RedisServer::start();
    let without = Balancer::start(&[&server]);
    assert_eq!(cache(&without), Value::Null);
    assert_eq!(metric(&without, "redis_lb_cache_max_bytes"), 0.0);
    assert!(info(&without, "cache").contains("cache_enabled:0\r\n"));
    let with = Balancer::start_with(&[&server], &["--cache", "64mib"]);
    assert_eq!(cache(&with)["max_bytes"], json!(64 << 20));
    assert_eq!(metric(&with, "redis_lb_cache_max_bytes"), f64::from(64 << 20));
    let info = info(&with, "cache");
    assert!(info.contains("cache_enabled:1\r\n"), "{info}");
    assert!(info.contains("cache_max_bytes:67108864\r\n"), "{info}");
}

#[test]
fn each_section_of_info_comes_when_it_is_asked_for() {
    let server = RedisServer::start();
    let lb = Balancer::start(&[&server]);
    let heads = ["# Server", "# Balancer", "# Cache"];
    for (sections, expected) in [
        ("", &heads[..]),
        ("everything", &heads),
        ("CACHE", &["# Cache"]),
        ("balancer", &["# Balancer"]),
        ("cache balancer", &["# Balancer", "# Cache"]),
        ("cache server", &["# Server", "# Cache"]),
        ("server", &["# Server"]),
    ] {
        let text = info(&lb, sections);
        let there: Vec<&str> = heads.into_iter().filter(|head| text.contains(head)).collect();
        assert_eq!(there, expected, "INFO {sections}");
    }
}

#[test]
fn another_cache_takes_a_restart() {
    let server = RedisServer::start();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("lb.toml");
    let write = |cache: &str| {
        let text = format!("{cache}\n[[backend]]\nurl = \"{}\"\n", server.url());
        fs::write(&path, text).expect("a file");
    };
    write("cache = \"32MiB\"\nno-cache = [\"session:*\"]");
    let mut command = Command::new(env!("CARGO_BIN_EXE_lb"));
    command.args(["--listen", "127.0.0.1:0", "--config"]).arg(&path);
    let lb = Balancer::spawn(command);
    for (other, key) in [
        ("cache = \"64MiB\"\nno-cache = [\"session:*\"]", "cache"),
        ("cache = \"32MiB\"\nno-cache = [\"session:?\"]", "no-cache"),
        (
            "cache = \"32MiB\"\nno-cache = [\"session:*\"]\ncache-max-silence = \"2s\"",
            "cache-max-silence",
        ),
    ] {
        write(other);
        lb.signal("-HUP");
        let refusal = format!(": {key} can't change without a restart");
        wait_until("it is refused", || lb.log().contains(&refusal));
    }
    write("cache = \"32768KiB\"\nno-cache = [\"session:*\"]\nfall = 4");
    lb.signal("-HUP");
    wait_until("what is the same is taken over", || lb.log().contains("taken over: fall"));
}
