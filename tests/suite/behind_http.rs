//! Behind nginx and HAProxy, with the recipes of docs/HTTP.md.

use std::fs;
use std::path::Path;

use crate::support::balancer::{Answer, Balancer};
use crate::support::client::{Client, connect_from};
use crate::support::front::Front;
use crate::support::observe::metric;
use crate::support::redis::RedisServer;
use crate::support::wait_until;

/// The recipe for one of them, as it stands in the document, for a balancer on this port.
fn recipe(name: &str, lb: &Balancer) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/HTTP.md");
    let text = fs::read_to_string(path).expect("the document");
    let begin = format!("```{name}\n");
    let (_, recipe) = text.split_once(&begin).expect("a recipe");
    let (recipe, _) = recipe.split_once("```").expect("its end");
    recipe
        .replace("listen 80;", "listen 127.0.0.1:PORT;")
        .replace("bind :80", "bind 127.0.0.1:PORT")
        .replace("127.0.0.1:1310", &format!("127.0.0.1:{}", lb.port()))
}

fn start() -> (RedisServer, Balancer, [Front; 2]) {
    let server = RedisServer::start();
    let lb = Balancer::start_with(
        &[&server],
        &["--trusted-proxy", "127.0.0.1", "--allow-host", "data.example"],
    );
    let fronts = [Front::nginx(&recipe("nginx", &lb)), Front::haproxy(&recipe("haproxy", &lb))];
    (server, lb, fronts)
}

/// A client with another address than the proxies.
fn client(front: &Front) -> Client {
    Client::new(connect_from([127, 0, 0, 2], front.port))
}

fn get(front: &Front, path: &str, headers: &str) -> Answer {
    let mut client = client(front);
    client.send(format!("GET {path} HTTP/1.1\r\nHost: data.example\r\n{headers}\r\n"));
    client.answer().expect("an answer")
}

#[test]
fn keys_and_values_come_through_nginx_and_haproxy_as_they_are() {
    let (server, lb, fronts) = start();
    let long = "0123456789".repeat(300_000);
    for (key, value) in [("a/b", "1"), ("a//b", "2"), ("a%2Fb", "3"), ("~!$", "4"), ("ä ö?", "5")]
    {
        server.command(&["SET", key, value]);
    }
    server.command(&["SET", "long", &long]);
    let long_key = "k".repeat(60_000);
    server.command(&["SET", &long_key, "6"]);
    for front in &fronts {
        for (path, value) in [
            ("/a%2Fb", "1"),
            ("/a%2F%2Fb", "2"),
            ("/a%252Fb", "3"),
            ("/~!$", "4"),
            ("/%C3%A4%20%C3%B6%3F", "5"),
        ] {
            assert_eq!(get(front, path, "").json(), value, "{path}");
        }
        assert_eq!(get(front, "/long", "").json(), *long);
        assert_eq!(get(front, &format!("/{long_key}"), "").json(), "6");
        let packed = get(front, "/long", "Accept-Encoding: gzip\r\n");
        assert_eq!(packed.header("content-encoding"), Some("gzip"));
        assert!(packed.body.len() < long.len() / 10);
        let tag = get(front, "/a%2Fb", "").header("etag").expect("a tag").to_owned();
        assert_eq!(get(front, "/a%2Fb", &format!("If-None-Match: {tag}\r\n")).status, 304);
        assert_eq!(get(front, "/none", "").status, 404);
    }
    assert!(!lb.log().contains("malformed"), "{}", lb.log());
}

#[test]
fn nginx_and_haproxy_keep_connections_and_name_their_clients_in_the_log() {
    let (server, lb, fronts) = start();
    server.command(&["SET", "key", "value"]);
    for front in &fronts {
        let before = metric(&lb, "redis_lb_connections_total{protocol=\"http\"}");
        let mut client = client(front);
        for _ in 0..50 {
            client.send("GET /key HTTP/1.1\r\nHost: data.example\r\n\r\n");
            assert_eq!(client.answer().expect("an answer").json(), "value");
        }
        let more = metric(&lb, "redis_lb_connections_total{protocol=\"http\"}") - before;
        assert!(more < 10.0, "{more} connections for 50 requests");
    }
    wait_until("all are logged", || lb.log().matches("GET /key 200").count() == 100);
    assert_eq!(lb.log().matches(" for=127.0.0.2 GET /key 200").count(), 100, "{}", lb.log());
}

#[test]
fn when_no_server_answers_nginx_and_haproxy_say_so_and_serve_again_afterwards() {
    let (mut server, _lb, fronts) = start();
    server.command(&["SET", "key", "value"]);
    server.save();
    let statuses = || fronts.each_ref().map(|front| get(front, "/key", "").status);
    assert_eq!(statuses(), [200, 200]);
    server.kill();
    wait_until("both say so", || statuses() == [503, 503]);
    server.restart();
    wait_until("both serve", || statuses() == [200, 200]);
}
