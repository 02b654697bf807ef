//! Sessions that share few connections to the backends: nothing of one shows in another.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::support::SetOnDrop;
use crate::support::balancer::Balancer;
use crate::support::redis::RedisServer;
use crate::support::resp::{RespClient, encode};

const BATCHES: usize = 200;

/// Commands and the replies that they must get, in one batch.
type Batch = Vec<(String, String)>;

fn servers() -> [RedisServer; 2] {
    [(); 2].map(|()| {
        let server = RedisServer::start();
        let mut direct = server.connect();
        for database in [0, 3, 5] {
            let mut pipe = redis::pipe();
            pipe.cmd("SELECT").arg(database).cmd("SET").arg("where").arg(format!("db{database}"));
            pipe.cmd("HSET").arg("hash").arg("db").arg(database);
            pipe.exec(&mut direct).expect("the server takes it");
        }
        server
    })
}

fn batch(exchanges: &[(&str, &str)]) -> Batch {
    exchanges.iter().map(|&(command, reply)| (command.into(), reply.into())).collect()
}

/// Sends the whole batch, then compares each reply.
fn run(session: &mut RespClient, batch: &Batch) {
    let bytes: Vec<u8> = batch
        .iter()
        .flat_map(|(command, _)| encode(&command.split(' ').collect::<Vec<_>>()))
        .collect();
    session.send_raw(bytes);
    for (command, expected) in batch {
        let reply = String::from_utf8_lossy(&session.reply()).replace("\r\n", " ");
        assert_eq!(reply, *expected, "{command} in {batch:?}");
    }
}

const NO_SUCH_DB: &str = "-ERR DB index is out of range ";

/// A session's first batch, and the one that it repeats.
fn kinds() -> Vec<(Batch, Batch)> {
    let kind = |first: &[(&str, &str)], again: &[(&str, &str)]| (batch(first), batch(again));
    vec![
        kind(
            &[],
            &[
                ("GET where", "$3 db0 "),
                ("HGETALL hash", "*2 $2 db $1 0 "),
                ("GET none", "$-1 "),
                ("CLIENT GETNAME", "$-1 "),
            ],
        ),
        kind(
            &[("CLIENT SETNAME ann", "+OK ")],
            &[
                ("GET where", "$3 db0 "),
                ("SELECT 3", "+OK "),
                ("GET where", "$3 db3 "),
                ("SELECT 99", NO_SUCH_DB),
                ("GET where", "$3 db3 "),
                ("SELECT 0", "+OK "),
                ("CLIENT GETNAME", "$3 ann "),
            ],
        ),
        kind(&[("SELECT 5", "+OK ")], &[("GET where", "$3 db5 "), ("HGET hash db", "$1 5 ")]),
        kind(
            &[("SELECT 3", "+OK ")],
            &[
                ("MULTI", "+OK "),
                ("GET where", "+QUEUED "),
                ("GET none", "+QUEUED "),
                ("EXEC", "*2 $3 db3 $-1 "),
                ("MULTI", "+OK "),
                ("GET where", "+QUEUED "),
                ("DISCARD", "+OK "),
                ("GET where", "$3 db3 "),
            ],
        ),
        kind(
            &[("CLIENT SETNAME bob", "+OK ")],
            &[
                ("HELLO x", "-ERR Protocol version is not an integer or out of range "),
                ("GET none", "$-1 "),
                ("RESET", "+RESET "),
                ("CLIENT GETNAME", "$-1 "),
                ("GET where", "$3 db0 "),
                ("SELECT 3", "+OK "),
                ("MULTI", "+OK "),
                ("GET where", "+QUEUED "),
                ("RESET", "+RESET "),
                ("GET where", "$3 db0 "),
                ("EXEC", "-ERR EXEC without MULTI "),
            ],
        ),
        // The greeting is not compared.
        kind(
            &[("HELLO 3", "")],
            &[
                ("GET where", "$3 db0 "),
                ("HGETALL hash", "%1 $2 db $1 0 "),
                ("GET none", "_ "),
                ("CLIENT GETNAME", "_ "),
                ("MULTI", "+OK "),
                ("HGETALL hash", "+QUEUED "),
                ("EXEC", "*1 %1 $2 db $1 0 "),
            ],
        ),
        kind(
            &[("HELLO 3 SETNAME eve", ""), ("SELECT 5", "+OK ")],
            &[
                ("HGETALL hash", "%1 $2 db $1 5 "),
                ("SELECT 99", NO_SUCH_DB),
                ("GET where", "$3 db5 "),
                ("CLIENT GETNAME", "$3 eve "),
            ],
        ),
    ]
}

/// Each holds a connection, so there are few of these.
fn watch() -> Batch {
    batch(&[
        ("WATCH where", "+OK "),
        ("GET where", "$3 db0 "),
        ("MULTI", "+OK "),
        ("GET where", "+QUEUED "),
        ("EXEC", "*1 $3 db0 "),
        ("WATCH where", "+OK "),
        ("SELECT 3", "+OK "),
        ("GET where", "$3 db3 "),
        ("SELECT 0", "+OK "),
        ("UNWATCH", "+OK "),
    ])
}

#[test]
fn sessions_of_all_kinds_over_few_connections_see_only_what_is_theirs() {
    let servers = servers();
    let arguments = ["--backend-connections", "4", "--backend-timeout", "10s"];
    let lb = Balancer::start_with(&servers.each_ref(), &arguments);
    let kinds = kinds();
    let (is_over, has_left) = (AtomicBool::new(false), AtomicBool::new(false));
    let messages = AtomicUsize::new(0);
    thread::scope(|scope| {
        let _ends = [SetOnDrop(&is_over), SetOnDrop(&has_left)];
        scope.spawn(|| publish(&servers, &has_left));
        let subscriber = scope.spawn(|| subscribe(&lb, &is_over, &messages));
        let readers: Vec<_> = (0..5)
            .flat_map(|_| &kinds)
            .map(|(first, again)| {
                let lb = &lb;
                scope.spawn(move || {
                    let mut session = RespClient::connect(lb.port());
                    for (command, expected) in first {
                        let reply = session.call(command);
                        assert!(
                            command.starts_with("HELLO") || reply.trim_end() == expected.trim_end()
                        );
                    }
                    (0..BATCHES).for_each(|_| run(&mut session, again));
                })
            })
            .chain((0..2).map(|_| {
                scope.spawn(|| {
                    let mut session = RespClient::connect(lb.port());
                    (0..BATCHES).for_each(|_| run(&mut session, &watch()));
                })
            }))
            .collect();
        for reader in readers {
            reader.join().expect("each reply is right");
        }
        is_over.store(true, Ordering::Relaxed);
        subscriber.join().expect("each message is right");
    });
    assert!(messages.load(Ordering::Relaxed) > 0);
}

fn publish(servers: &[RedisServer], has_left: &AtomicBool) {
    let mut direct: Vec<_> = servers.iter().map(RedisServer::connect).collect();
    while !has_left.load(Ordering::Relaxed) {
        for server in &mut direct {
            for channel in ["news", "gossip"] {
                let mut publish = redis::cmd("PUBLISH");
                publish.arg(channel).arg(channel).exec(server).expect("the server takes it");
            }
        }
    }
}

/// Subscribes and unsubscribes again and again, and reads in between.
fn subscribe(lb: &Balancer, is_over: &AtomicBool, messages: &AtomicUsize) {
    let mut session = RespClient::connect(lb.port());
    while !is_over.load(Ordering::Relaxed) {
        assert_eq!(session.call("SUBSCRIBE news"), "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n");
        for _ in 0..20 {
            let message = String::from_utf8(session.reply()).expect("text");
            assert_eq!(message, "*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$4\r\nnews\r\n");
            messages.fetch_add(1, Ordering::Relaxed);
        }
        session.send(&["UNSUBSCRIBE"]);
        while session.reply().starts_with(b"*3\r\n$7\r\nmessage") {}
        assert_eq!(session.call("GET where"), "$3\r\ndb0\r\n");
    }
}
