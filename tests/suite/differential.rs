//! Through the balancer and straight from the server: the same bytes.
//!
//! The server is a read-only replica, as which the balancer presents itself: so writes and whatever
//! else is refused can be asked of both sides as well.

use std::io::Write;
use std::net::TcpStream;

use fastrand::Rng;

use crate::support::balancer::Balancer;
use crate::support::commands::{self, CommandStream, Item};
use crate::support::observe::metric;
use crate::support::redis::RedisServer;
use crate::support::resp::RespClient;
use crate::support::{seed, wait_until};

const CONNECTIONS: u64 = 8;
const COMMANDS: usize = 100_000;

#[test]
fn a_hundred_thousand_commands_get_the_same_bytes_through_the_balancer() {
    compare_streams(COMMANDS, 1, &[]);
}

/// `LB_DIFFERENTIAL_COMMANDS` sets how many.
#[test]
fn commands_that_are_repeated_get_the_same_bytes_from_the_cache() {
    let asked = std::env::var("LB_DIFFERENTIAL_COMMANDS");
    let commands = asked.map_or(COMMANDS / 20, |text| text.parse().expect("a number"));
    let hits = compare_streams(commands, 3, &["--cache", "64MiB"]);
    println!("{hits} hits");
    assert!(hits > commands as u64 / 20, "{hits} hits");
}

/// Sends so many commands, and reads so often. Returns how many were answered from the cache.
fn compare_streams(commands: usize, times: usize, arguments: &[&str]) -> u64 {
    let seed = seed();
    let primary = RedisServer::start_with(&["--repl-diskless-sync-delay", "0"]);
    commands::load(&mut primary.connect(), seed);
    let replica = replica_of(&primary);
    commands::settle(&mut replica.connect());
    let arguments = [arguments, &["--allow-scripts"]].concat();
    let balancer = Balancer::start_with(&[&replica], &arguments);
    let (proxied, direct) = (balancer.port(), replica.port());
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..CONNECTIONS)
            .map(|number| {
                let seed = seed.wrapping_mul(CONNECTIONS).wrapping_add(number);
                let stream = CommandStream::new(seed, &mut replica.connect());
                let rng = Rng::with_seed(!seed);
                scope.spawn(move || compare(stream, rng, (commands, times), [proxied, direct]))
            })
            .collect();
        for thread in threads {
            let compared = thread.join().expect("no panic");
            compared.unwrap_or_else(|difference| panic!("LB_TEST_SEED={seed}: {difference}"));
        }
    });
    metric(&balancer, "redis_lb_cache_hits_total") as u64
}

fn replica_of(primary: &RedisServer) -> RedisServer {
    let replica = RedisServer::start();
    replica.command(&["REPLICAOF", "127.0.0.1", &primary.port().to_string()]);
    wait_until("the replica has the data", || {
        format!("{:?}", replica.command(&["INFO", "replication"])).contains("master_link_status:up")
    });
    replica
}

/// Sends the same batches to both ports, in different pieces, and compares reply by reply. The error
/// tells of the first that differs.
fn compare(
    mut stream: CommandStream,
    mut rng: Rng,
    (commands, times): (usize, usize),
    ports: [u16; 2],
) -> Result<(), String> {
    let [mut proxied, mut direct] = ports.map(RespClient::connect);
    let mut left = commands / CONNECTIONS as usize;
    while left > 0 {
        let depth = match rng.u8(0..4) {
            0 => 1,
            1..3 => rng.usize(1..20),
            _ => rng.usize(1..=200),
        };
        let batch: Vec<Item> = (0..depth.min(left)).map(|_| stream.next()).collect();
        left -= batch.len();
        // Reads that follow each other are repeated together.
        let same = |one: &Item, other: &Item| times == 1 || one.is_read == other.is_read;
        for part in batch.chunk_by(same) {
            let times = if part[0].is_read { times } else { 1 };
            for _ in 0..times {
                exchange(part, &mut rng, &mut proxied, &mut direct)?;
            }
        }
    }
    Ok(())
}

fn exchange(
    batch: &[Item],
    rng: &mut Rng,
    proxied: &mut RespClient,
    direct: &mut RespClient,
) -> Result<(), String> {
    let bytes: Vec<u8> = batch.iter().flat_map(|item| &item.bytes).copied().collect();
    let (to_proxied, to_direct) = (clone(proxied), clone(direct));
    std::thread::scope(|scope| {
        // Beside the reading, as a server may stop to read from a client that does not.
        scope.spawn(|| {
            write(to_direct, &bytes);
            write_in_pieces(to_proxied, &bytes, rng);
        });
        compare_replies(batch, proxied, direct)
    })
}

fn compare_replies(
    batch: &[Item],
    proxied: &mut RespClient,
    direct: &mut RespClient,
) -> Result<(), String> {
    for (place, item) in batch.iter().enumerate() {
        for _ in 0..item.replies {
            let (expected, found) = (direct.try_reply(), proxied.try_reply());
            match (&expected, &found) {
                (Ok(expected), Ok(found)) if found == expected => continue,
                (Ok(expected), Ok(found)) if !item.is_comparable && found[0] == expected[0] => {
                    continue;
                }
                _ => {}
            }
            let [expected, found] = [expected, found]
                .map(|reply| reply.unwrap_or_else(|error| error.to_string().into()));
            let same = found.iter().zip(&expected).take_while(|(a, b)| a == b).count();
            let before: Vec<String> = batch[place.saturating_sub(8)..place]
                .iter()
                .map(|item| shown(&item.bytes, 0))
                .collect();
            return Err(format!(
                "another reply through the balancer\n command: {}\n  direct: {}\n proxied: {}\n\
                 before it came, of {} pipelined:\n{}",
                shown(&item.bytes, 0),
                shown(&expected, same),
                shown(&found, same),
                batch.len(),
                before.join("\n"),
            ));
        }
    }
    Ok(())
}

fn write(mut to: TcpStream, bytes: &[u8]) {
    // If the server does not read, what is missing in its replies says so.
    let _ = to.write_all(bytes);
}

/// Whole, in a few pieces, or some of it byte by byte.
fn write_in_pieces(mut to: TcpStream, bytes: &[u8], rng: &mut Rng) {
    let longest = [usize::MAX, 2000, 300, 5][rng.usize(0..4)];
    let mut rest = bytes;
    for _ in 0..200 {
        if rest.is_empty() {
            return;
        }
        let (piece, behind) = rest.split_at(rng.usize(1..=longest.min(rest.len())));
        write(clone_stream(&to), piece);
        rest = behind;
    }
    let _ = to.write_all(rest);
}

fn clone(client: &RespClient) -> TcpStream {
    clone_stream(client.stream())
}

fn clone_stream(stream: &TcpStream) -> TcpStream {
    stream.try_clone().expect("a socket")
}

/// As text: some of it around this place.
fn shown(bytes: &[u8], place: usize) -> String {
    let begin = place.saturating_sub(100);
    let end = bytes.len().min(begin + 600);
    let cut = |at: usize, edge: usize| if at == edge { "" } else { "…" };
    format!("{}{}{}", cut(begin, 0), bytes[begin..end].escape_ascii(), cut(end, bytes.len()))
}
