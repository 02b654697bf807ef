//! Through the balancer and straight from the server: the same bytes.
//!
//! The server is a read-only replica, as which the balancer presents itself: so writes and whatever
//! else is refused can be asked of both sides as well.

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};

use fastrand::Rng;

use crate::support::balancer::Balancer;
use crate::support::commands::{self, CommandStream, Item};
use crate::support::observe::{metric, states};
use crate::support::redis::RedisServer;
use crate::support::resp::RespClient;
use crate::support::{SetOnDrop, seed, wait_until};

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

/// For so many commands of each connection, and as long as the chaos lasts: servers die, return empty, and freeze.
#[test]
fn commands_get_the_same_bytes_while_servers_die_and_freeze() {
    let seed = seed();
    let primary = RedisServer::start_with(&["--repl-diskless-sync-delay", "0"]);
    commands::load(&mut primary.connect(), seed);
    let mut replicas = [(); 3].map(|()| replica_of(&primary));
    commands::settle(&mut primary.connect());
    // One server is left for a while, on a computer that does much else.
    let arguments = ["--allow-scripts", "--quiet", "--backend-timeout", "3s"];
    let balancer = Balancer::start_with(&replicas.iter().collect::<Vec<_>>(), &arguments);
    let (proxied, direct) = (balancer.port(), replicas[0].port());
    // Known to the balancer, so that servers have it again after a restart, also within a transaction.
    let mut client = RespClient::connect(proxied);
    client.send(&["SCRIPT", "LOAD", commands::CACHED_SCRIPT]);
    assert!(client.reply().starts_with(b"$40"));
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..CONNECTIONS)
            .map(|number| {
                let seed = seed.wrapping_mul(CONNECTIONS).wrapping_add(number);
                let stream = CommandStream::new(seed, &mut replicas[0].connect()).across_servers();
                let mut comparison = Comparison::new(stream, !seed, 1, [proxied, direct]);
                comparison.ignores_order = true;
                let goes_on = || !is_over.load(Ordering::Relaxed);
                scope.spawn(move || comparison.run(COMMANDS / 100, goes_on))
            })
            .collect();
        let [_, killed, frozen] = &mut replicas;
        let ends = SetOnDrop(&is_over);
        for _ in 0..3 {
            killed.kill();
            wait_until("it is down", || states(&balancer)[1] == "down");
            frozen.freeze();
            wait_until("the other is silent", || states(&balancer)[2] != "up");
            killed.restart_with(&["--replicaof", "127.0.0.1", &primary.port().to_string()]);
            frozen.thaw();
            wait_until("all are up", || states(&balancer).iter().all(|state| state == "up"));
        }
        drop(ends);
        for thread in threads {
            let compared = thread.join().expect("no panic");
            compared.unwrap_or_else(|difference| panic!("LB_TEST_SEED={seed}: {difference}"));
        }
    });
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
                let mut comparison = Comparison::new(stream, !seed, times, [proxied, direct]);
                scope.spawn(move || comparison.run(commands / CONNECTIONS as usize, || false))
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

/// Sends the same batches to both ports, in different pieces, and compares reply by reply.
struct Comparison {
    stream: CommandStream,
    rng: Rng,
    /// How often reads are sent.
    times: usize,
    proxied: RespClient,
    direct: RespClient,
    /// Whether the elements of a reply may come in another order: that of a hash is another on each server.
    ignores_order: bool,
}

impl Comparison {
    fn new(stream: CommandStream, seed: u64, times: usize, ports: [u16; 2]) -> Self {
        let [proxied, direct] = ports.map(RespClient::connect);
        let rng = Rng::with_seed(seed);
        Self { stream, rng, times, proxied, direct, ignores_order: false }
    }

    /// Compares so many commands, and more as long as it `goes_on`. The error tells of the first reply that differs.
    fn run(&mut self, commands: usize, goes_on: impl Fn() -> bool) -> Result<(), String> {
        let mut compared = 0;
        while compared < commands || goes_on() {
            let depth = match self.rng.u8(0..4) {
                0 => 1,
                1..3 => self.rng.usize(1..20),
                _ => self.rng.usize(1..=200),
            };
            let batch: Vec<Item> = (0..depth).map(|_| self.stream.next()).collect();
            compared += depth;
            // Reads that follow each other are repeated together.
            let times = self.times;
            let same = |one: &Item, other: &Item| times == 1 || one.is_read == other.is_read;
            for part in batch.chunk_by(same) {
                for _ in 0..if part[0].is_read { times } else { 1 } {
                    self.exchange(part)?;
                }
            }
        }
        Ok(())
    }

    fn exchange(&mut self, batch: &[Item]) -> Result<(), String> {
        let bytes: Vec<u8> = batch.iter().flat_map(|item| &item.bytes).copied().collect();
        let (to_proxied, to_direct) = (clone(&self.proxied), clone(&self.direct));
        let mut rng = self.rng.fork();
        std::thread::scope(|scope| {
            // Beside the reading, as a server may stop to read from a client that does not.
            scope.spawn(|| {
                write(to_direct, &bytes);
                write_in_pieces(to_proxied, &bytes, &mut rng);
            });
            self.compare_replies(batch)
        })
    }

    fn compare_replies(&mut self, batch: &[Item]) -> Result<(), String> {
        for (place, item) in batch.iter().enumerate() {
            for _ in 0..item.replies {
                let (expected, found) = (self.direct.try_reply(), self.proxied.try_reply());
                if let (Ok(expected), Ok(found)) = (&expected, &found)
                    && self.is_same(item, expected, found)
                {
                    continue;
                }
                let [expected, found] = [expected, found]
                    .map(|reply| reply.unwrap_or_else(|error| error.to_string().into()));
                return Err(difference(batch, place, &expected, &found));
            }
        }
        Ok(())
    }

    fn is_same(&self, item: &Item, expected: &[u8], found: &[u8]) -> bool {
        expected == found
            || !item.is_comparable && expected[0] == found[0]
            || self.ignores_order && sorted_lines(expected) == sorted_lines(found)
    }
}

fn sorted_lines(reply: &[u8]) -> Vec<&[u8]> {
    let mut lines: Vec<&[u8]> = reply.split(|byte| *byte == b'\n').collect();
    lines.sort_unstable();
    lines
}

fn difference(batch: &[Item], place: usize, expected: &[u8], found: &[u8]) -> String {
    let same = found.iter().zip(expected).take_while(|(a, b)| a == b).count();
    let before = batch[place.saturating_sub(8)..place].iter().map(|item| shown(&item.bytes, 0));
    let before: Vec<String> = before.collect();
    format!(
        "another reply through the balancer\n command: {}\n  direct: {}\n proxied: {}\n\
         before it came, of {} pipelined:\n{}",
        shown(&batch[place].bytes, 0),
        shown(expected, same),
        shown(found, same),
        batch.len(),
        before.join("\n"),
    )
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
