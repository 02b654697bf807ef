//! Users over HTTP: Basic authentication, what each may read, what listings and pages show.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::support::balancer::{Answer, Balancer};
use crate::support::redis::RedisServer;
use crate::support::wait_until;
use crate::users::{Files, acl_file, command, tables};

const USERS: &[(&str, &str)] = &[
    ("app", "on >secret ~app:* +get +hgetall +scan"),
    ("all", "on >secret ~* &* +@all"),
    ("scraper", "on >secret +info"),
    ("pinger", "on >secret ~* +ping"),
];

pub fn basic(login: &str) -> String {
    format!("Authorization: Basic {}", STANDARD.encode(login))
}

fn get(lb: &Balancer, path: &str, login: &str) -> Answer {
    match login {
        "" => lb.get(path),
        login => lb.request("GET", path, &[&basic(login)]),
    }
}

fn site() -> (RedisServer, Files, Balancer) {
    let (server, files) = (RedisServer::start(), Files::new());
    let mut pipe = redis::pipe();
    pipe.set("app:1", "one").hset("app:2", "name", "Ada").rpush("app:3", &["a"]);
    pipe.set("hidden:1", "secret value").set("app", "exact");
    pipe.exec(&mut server.connect()).expect("loaded");
    let path = files.write("users.acl", &acl_file(USERS));
    let lb = Balancer::start_with(&[&server], &["--users-file", &path]);
    (server, files, lb)
}

#[test]
fn each_path_is_for_users_with_the_rights_to_it() {
    let (_server, _files, lb) = site();
    let (app, all, scraper) = ("app:secret", "all:secret", "scraper:secret");
    for (path, login, status) in [
        ("/-/health", "", 200),
        ("/-/ready", "", 200),
        ("/app:1", "", 401),
        ("/", "", 401),
        ("/-/", "", 401),
        ("/-/status.json", "", 401),
        ("/-/metrics", "", 401),
        ("/app:1", "app:wrong", 401),
        ("/app:1", "nobody:secret", 401),
        ("/app:1", ":secret", 401),
        ("/app:1", app, 200),
        ("/app:1?format=raw", app, 200),
        ("/app:1?format=html", app, 200),
        ("/app:2", app, 200),
        // Its type is read by a command that the user may not send.
        ("/app:3", app, 403),
        ("/app:3?format=html", app, 403),
        ("/app:2?field=name", app, 403),
        ("/app:nothing", app, 404),
        ("/hidden:1", app, 403),
        ("/hidden:nothing", app, 403),
        ("/?limit=5", app, 200),
        ("/?limit=5", scraper, 403),
        ("/app:1", scraper, 403),
        ("/-/metrics", scraper, 200),
        ("/-/status.json", scraper, 200),
        ("/-/", scraper, 200),
        ("/-/metrics", app, 403),
        ("/hidden:1", all, 200),
        ("/-/metrics", all, 200),
    ] {
        // A value is read in one way the first time, and in another the second time.
        for time in 0..2 {
            let answer = get(&lb, path, login);
            assert_eq!(answer.status, status, "{path} {login} {time}: {answer:?}");
            let challenge = answer.header("www-authenticate");
            let expected = "Basic realm=\"redis-lb\", charset=\"UTF-8\"";
            assert_eq!(challenge, (status == 401).then_some(expected), "{path} {login}");
            if !path.starts_with("/-/h") && !path.starts_with("/-/r") && status != 302 {
                assert_eq!(
                    answer.header("vary"),
                    Some("Accept, Accept-Encoding, Authorization"),
                    "{path}"
                );
                assert_eq!(answer.header("cache-control"), Some("private, no-cache"), "{path}");
            }
            let body = String::from_utf8_lossy(&answer.body).into_owned();
            assert!(login == all || !body.contains("secret value"), "{path} {login}: {body}");
        }
    }
    let error = get(&lb, "/app:1", "").json()["error"].as_str().expect("text").to_owned();
    assert!(error.contains("curl -u NAME:PASSWORD"), "{error}");
    let denied = get(&lb, "/hidden:1", app).json()["error"].as_str().expect("text").to_owned();
    assert!(denied.starts_with("NOPERM "), "{denied}");
    let twice = lb.request("GET", "/app:1", &[&basic(app), &basic(app)]);
    assert_eq!(twice.status, 400);
    assert_eq!(lb.request("GET", "/app:1", &["Authorization: Bearer x"]).status, 401);
    wait_until("the user is in the log", || lb.log().contains(" user=app GET /app:1 200 "));
}

#[test]
fn a_user_without_any_command_for_a_key_is_not_told_whether_it_is_there() {
    let (_server, _files, lb) = site();
    for form in ["", "?format=html"] {
        let answer = |key: &str| {
            let answer = get(&lb, &format!("/{key}{form}"), "pinger:secret");
            assert_eq!(answer.status, 403, "{key}: {answer:?}");
            String::from_utf8_lossy(&answer.body).replace(key, "KEY")
        };
        let missing = answer("app:nothing");
        for key in ["app:1", "app:2", "app:3"] {
            assert_eq!(answer(key), missing, "{key}{form}");
        }
    }
}

#[test]
fn listings_and_pages_show_only_what_the_user_may_read() {
    let (_server, _files, lb) = site();
    for format in ["json", "html"] {
        let path = format!("/?limit=100&format={format}");
        let body = |login| String::from_utf8(get(&lb, &path, login).body).expect("text");
        let (app, all) = (body("app:secret"), body("all:secret"));
        for key in ["app:1", "app:2"] {
            assert!(app.contains(key) && all.contains(key), "{app} {all}");
        }
        assert!(all.contains("hidden:1") && all.contains("app:3"), "{all}");
        // Of app:3 the value could not be shown.
        assert!(!app.contains("hidden:") && !app.contains("app:3"), "{app}");
        // How many keys there are tells of others.
        assert!(!app.contains("in the database"), "{app}");
    }
    let listing = get(&lb, "/?limit=100&format=json", "app:secret").json();
    assert_eq!(listing["count"], 2);
    let page = get(&lb, "/?limit=100&format=html", "app:secret").body;
    let page = String::from_utf8_lossy(&page);
    assert!(page.contains("2 keys here") && page.contains("1 more key not shown"), "{page}");
    // A page of keys stands where the user may not read a key of that name.
    let answer = get(&lb, "/app", "app:secret");
    assert!([200, 403].contains(&answer.status), "{answer:?}");
    assert!(!String::from_utf8_lossy(&answer.body).contains("exact"), "{answer:?}");
}

#[test]
fn requests_of_one_connection_may_be_of_different_users() {
    let (_server, _files, lb) = site();
    let mut client = lb.client();
    for (path, login, status) in [
        ("/app:1", "app:secret", 200),
        ("/hidden:1", "app:secret", 403),
        ("/hidden:1", "all:secret", 200),
        ("/hidden:1", "app:secret", 403),
        ("/app:1", "app:wrong", 401),
        ("/app:1", "app:secret", 200),
    ] {
        let login = basic(login);
        client.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{login}\r\n\r\n"));
        assert_eq!(client.answer().expect("an answer").status, status, "{path} {login}");
    }
    client.send("GET /app:1 HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(client.answer().expect("an answer").status, 401);
}

#[test]
fn a_user_without_a_password_needs_no_credentials_and_limits_hold() {
    let (server, files) = (RedisServer::start(), Files::new());
    server.command(&["SET", "open:1", "x"]);
    server.command(&["SET", "closed:1", "x"]);
    let users = tables(&[
        ("default", "rules = \"on nopass ~open:* +@read\""),
        ("slow", "rules = \"on >x ~* +@all\"\nmax-requests-per-second = 1"),
    ]);
    let file = files.write("lb.toml", &users);
    let lb = Balancer::spawn(command(Path::new(&file), &[&server]));
    assert_eq!(get(&lb, "/open:1", "").status, 200);
    assert_eq!(get(&lb, "/closed:1", "").status, 403);
    assert_eq!(get(&lb, "/open:1", "default:anything").status, 200);
    assert_eq!(get(&lb, "/open:1", "slow:wrong").status, 401);
    let mut clients: Vec<_> = (0..8).map(|_| lb.client()).collect();
    let login = basic("slow:x");
    for client in &mut clients {
        client.send(format!("GET /open:1 HTTP/1.1\r\nHost: localhost\r\n{login}\r\n\r\n"));
    }
    let answers: Vec<_> = clients.iter_mut().map(|c| c.answer().expect("an answer")).collect();
    let refused: Vec<_> = answers.iter().filter(|answer| answer.status == 429).collect();
    assert!((1..=6).contains(&refused.len()), "{answers:?}");
    assert!(refused.iter().all(|answer| answer.header("retry-after").is_some()));
    let error = refused[0].json()["error"].as_str().expect("text").to_owned();
    assert!(error.starts_with("user slow is over its limit of 1 requests a second"), "{error}");
}
