//! What clients ask about the server that they talk to: one role, the settings that all servers have, and small
//! things as a real Redis answers them.

use std::collections::BTreeMap;

use redis::Value;

use crate::support::balancer::Balancer;
use crate::support::observe::{transcript, wait_for_up};
use crate::support::redis::{RedisServer, replica_of};
use crate::support::resp::RespClient;

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

/// The fields of INFO's section about replication.
fn replication(client: &mut RespClient, sections: &str) -> BTreeMap<String, String> {
    let info = client.call(sections);
    let (_, section) = info.split_once("# Replication\r\n").expect("the section");
    let lines = section.lines().take_while(|line| !line.is_empty());
    let fields = lines.map(|line| line.split_once(':').expect("a field"));
    fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// The role in the reply to HELLO.
fn greeted_as(client: &mut RespClient, protocol: u8) -> String {
    let greeting = client.call(&format!("HELLO {protocol}"));
    let (_, after) = greeting.split_once("$4\r\nrole\r\n").expect("a role");
    after.lines().nth(1).expect("a word").to_owned()
}

#[test]
fn clients_are_told_one_role_whatever_their_server_is() {
    let primary = RedisServer::start();
    let replicas = [(); 2].map(|()| replica_of(&primary, &[]));
    let servers = [&primary, &replicas[0], &replicas[1]];
    for (arguments, greeting, role) in [
        (&[][..], "master", "master"),
        (&["--role", "master"], "master", "master"),
        (&["--role", "replica"], "replica", "slave"),
    ] {
        let lb = Balancer::start_with(&servers, arguments);
        wait_for_up(&lb, &servers);
        let own_port = lb.port().to_string();
        // One for each server, and both protocols.
        let mut clients: Vec<_> = (0..6).map(|_| RespClient::connect(lb.port())).collect();
        for (at, client) in clients.iter_mut().enumerate() {
            let protocol = 2 + (at / 3) as u8;
            client.call("DBSIZE");
            assert_eq!(greeted_as(client, protocol), greeting);
            let fields = replication(client, "INFO replication");
            for sections in ["INFO", "INFO all", "INFO server replication cpu", "INFO everything"] {
                assert_eq!(replication(client, sections), fields, "{sections}");
            }
            let field = |name: &str| fields.get(name).map(String::as_str);
            assert_eq!(field("role"), Some(role));
            assert_eq!(field("connected_slaves"), Some("0"));
            assert!(!fields.contains_key("slave0"));
            let offset = field("master_repl_offset").expect("an offset");
            let expected = match role {
                "master" => format!("*3\r\n{}:{offset}\r\n*0\r\n", bulk("master")),
                _ => {
                    assert_eq!(field("master_link_status"), Some("up"));
                    assert_eq!(field("master_port"), Some(&*own_port));
                    let host = field("master_host").expect("a host");
                    let offset = field("slave_repl_offset").expect("an offset");
                    let (slave, host, state) = (bulk("slave"), bulk(host), bulk("connected"));
                    format!("*5\r\n{slave}{host}:{own_port}\r\n{state}:{offset}\r\n")
                }
            };
            assert_eq!(client.call("ROLE"), expected);
            for server in servers {
                let port = server.port().to_string();
                assert!(fields.values().all(|value| !value.contains(&port)), "{fields:?}");
            }
            let refused = transcript(lb.port(), &["MULTI", "ROLE", "EXEC"]);
            assert!(refused.contains("ROLE is not served inside MULTI"), "{refused}");
        }
    }
}

/// The settings that CONFIG GET of these patterns finds.
fn settings(client: &mut RespClient, patterns: &[&str]) -> BTreeMap<String, String> {
    let reply = client.command(&[&["CONFIG", "GET"], patterns].concat());
    let reply = redis::parse_redis_value(&reply).expect("a reply");
    let pairs: Vec<(Value, Value)> = match reply {
        Value::Array(items) => {
            items.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()
        }
        Value::Map(pairs) => pairs,
        other => panic!("{other:?}"),
    };
    let text = |value| redis::from_redis_value::<String>(value).expect("text");
    pairs.into_iter().map(|(name, value)| (text(name), text(value))).collect()
}

#[test]
fn settings_are_those_on_which_all_servers_agree() {
    let options = ["--notify-keyspace-events", "KEA", "--databases", "20", "--requirepass", ""];
    let servers = [(); 3].map(|()| RedisServer::start_with(&options));
    let lb = Balancer::start_with(&servers.each_ref(), &["--max-clients", "77"]);
    wait_for_up(&lb, &servers.each_ref());
    for hello in ["PING", "HELLO 3"] {
        let mut client = RespClient::connect(lb.port());
        client.call(hello);
        let all = settings(&mut client, &["*"]);
        let value = |name: &str| all.get(name).map(String::as_str);
        assert_eq!(value("databases"), Some("20"));
        assert_eq!(value("appendonly"), Some("no"));
        assert_eq!(value("save"), Some(""));
        assert_eq!(value("maxclients"), Some("77"));
        let direct =
            settings(&mut RespClient::connect(servers[0].port()), &["notify-keyspace-events"]);
        assert_eq!(settings(&mut client, &["Notify-*", "nosuch"]), direct);
        for secret in
            ["requirepass", "masterauth", "dir", "tls-key-file", "bind", "port", "replicaof"]
        {
            assert_eq!(value(secret), None, "{secret}");
        }
    }
    let mut client = RespClient::connect(lb.port());
    servers[1].command(&["CONFIG", "SET", "notify-keyspace-events", ""]);
    assert!(settings(&mut client, &["notify-keyspace-events"]).is_empty(), "they disagree");
    assert_eq!(settings(&mut client, &["databases"]).len(), 1);
    servers[1].command(&["CONFIG", "SET", "notify-keyspace-events", "KEA"]);
    assert_eq!(settings(&mut client, &["notify-keyspace-events"]).len(), 1);
    servers[2].command(&["ACL", "SETUSER", "default", "-config"]);
    assert!(settings(&mut client, &["notify-keyspace-events"]).is_empty(), "one does not say");
    assert_eq!(settings(&mut client, &["maxclients"]).len(), 1);
}

#[test]
fn a_command_without_arguments_ends_a_silence_as_in_redis() {
    let server = RedisServer::start();
    let lb = Balancer::start(&[&server]);
    let words = ["CLIENT", "REPLY", "SKIP"];
    let skip = crate::support::resp::encode(&words);
    for between in [
        "",
        "*0\r\n",
        "*-1\r\n",
        "\r\n",
        "  \r\n",
        "\n",
        "*0\r\n*0\r\n",
        "*0\r\n*1\r\n$4\r\nPING\r\n",
    ] {
        for before in ["", "*0\r\n", "\r\n", "MULTI\r\n"] {
            for after in ["ECHO a\r\n", "*1\r\n!\r\n"] {
                let mut bytes = before.as_bytes().to_vec();
                bytes.extend_from_slice(&skip);
                bytes.extend_from_slice(between.as_bytes());
                bytes.extend_from_slice(after.as_bytes());
                bytes.extend_from_slice(b"QUIT\r\n");
                let [through, direct] = [lb.port(), server.port()].map(|port| {
                    let mut client = RespClient::connect(port);
                    client.send_raw(&bytes);
                    String::from_utf8(client.rest()).expect("text")
                });
                // Between MULTI and EXEC, CLIENT is refused.
                if before == "MULTI\r\n" {
                    continue;
                }
                assert_eq!(through, direct, "{:?}", String::from_utf8_lossy(&bytes));
            }
        }
    }
}

#[test]
fn whoami_is_answered_as_by_redis_with_and_without_users() {
    let server = RedisServer::start();
    server.command(&["ACL", "SETUSER", "ada", "on", ">secret", "~*", "+@all", "-echo"]);
    let lb = Balancer::start(&[&server]);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("users.acl");
    let rules = "user default on nopass ~* &* +@all\nuser ada on >secret ~* +@all -echo\n";
    std::fs::write(&file, rules).expect("a file");
    let path = file.to_str().expect("text");
    let with_users = Balancer::start_with(&[&server], &["--users-file", path]);
    let commands = [
        "ACL WHOAMI",
        "acl whoami x",
        "MULTI",
        "ACL WHOAMI",
        "DBSIZE",
        "Acl WhoAmI",
        "EXEC",
        "MULTI",
        "acl whoami x",
        "EXEC",
        "WATCH a",
        "MULTI",
        "ACL WHOAMI",
        "EXEC",
        "MODULE LIST",
    ];
    let direct = transcript(server.port(), &commands);
    for port in [lb.port(), with_users.port()] {
        assert_eq!(transcript(port, &commands), direct);
    }
    let commands = [&["AUTH ada secret"], &commands[..]].concat();
    assert_eq!(transcript(with_users.port(), &commands), transcript(server.port(), &commands));
}
