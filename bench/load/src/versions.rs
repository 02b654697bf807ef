//! Test of the near cache: clients read what is being written, and each reply must be as new as is promised.
//!
//! One writer numbers all states of the primary, and writes the number of each together with the key that it changes. A
//! value holds the number of the state that wrote it, and each server is asked for its number every 2 ms. So it is known of
//! each reply when its server no longer had that content; a reply never seems older than it is, and at most 2 ms younger.

mod backends;
mod check;
mod faults;
mod history;
mod http_client;
mod keys;
mod plan;
mod redis_client;
mod relay;
mod writer;

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use backends::Connection;
use check::Checker;
pub use plan::Plan;
use writer::Writer;

use crate::soak::{Random, grouped, rate};

const CHECK_INTERVAL: Duration = Duration::from_millis(100);
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);
const START_TIME: Duration = Duration::from_secs(30);

/// The run ends early after this many failures.
const MAX_FAILURES: u64 = 1000;

/// Most reads and half of all writes are of so many keys.
const HOT_KEYS: usize = 64;
const READS_PER_COLD_ONE: usize = 8;
const WRITES_PER_COLD_ONE: usize = 2;

/// One of this many clients speaks HTTP.
const CLIENTS_PER_HTTP: usize = 4;

/// Ends all threads, whether the run goes well or not.
struct EndOnDrop<'a>(&'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One of all keys, or, but for one of so many cases, one of the hot ones.
fn choose_key(random: &mut Random, keys: usize, per_cold_one: usize) -> usize {
    let among = if random.below(per_cold_one) == 0 { keys } else { HOT_KEYS };
    random.below(among)
}

/// Writes and reads until there were enough reads, or the time is over.
pub fn run(plan: &Plan) -> Result<(), Box<dyn Error>> {
    let relays = plan.relays.iter().map(|&(port, server)| relay::Relay::start(port, server));
    let relays = relays.collect::<io::Result<Vec<_>>>()?;
    let checker = Checker::new(plan);
    let is_over = AtomicBool::new(false);
    let mut writer = Writer::new(&checker.history, plan.primary)?;
    writer.fill()?;
    thread::scope(|scope| {
        let _end = EndOnDrop(&is_over);
        for (number, backend) in checker.backends.iter().enumerate() {
            let is_over = &is_over;
            scope.spawn(move || backend.watch(number, is_over));
        }
        wait_until_ready(plan, &checker)?;
        let hits_before = hits(plan)?;
        let began = Instant::now();
        let (checker, is_over) = (&checker, &is_over);
        let writes = scope.spawn(move || note_end(checker, writer.run(is_over)));
        let expiring =
            scope.spawn(move || note_end(checker, writer::let_expire(plan.primary, is_over)));
        start_clients(scope, plan, checker, is_over)?;
        let faults = plan.faults.then(|| {
            let relays = &relays;
            scope.spawn(move || faults::run(checker, relays, is_over))
        });
        watch(plan, checker, began);
        is_over.store(true, Ordering::Relaxed);
        let took = began.elapsed();
        for (what, writer) in [("writes", writes), ("keys that expire", expiring)] {
            println!("{what}: {}", grouped(writer.join().unwrap_or(0)));
        }
        if let Some(faults) = faults {
            println!("faults: {}", faults.join().unwrap_or_else(|_| "they ended early".to_owned()));
        }
        println!("{}/s", grouped(rate(checker.reads(), took)));
        checker.report(hits(plan)? - hits_before)
    })
}

fn note_end(checker: &Checker, written: io::Result<u64>) -> u64 {
    written.unwrap_or_else(|error| {
        checker.fail(check::Failure::Writer, &error.to_string());
        0
    })
}

fn start_clients<'scope>(
    scope: &'scope Scope<'scope, '_>,
    plan: &'scope Plan,
    checker: &'scope Checker,
    is_over: &'scope AtomicBool,
) -> io::Result<()> {
    for number in 0..plan.clients {
        let run = move || match number % CLIENTS_PER_HTTP {
            0 => http_client::run(plan.lb, checker, is_over),
            _ => redis_client::run(plan.lb, checker, is_over),
        };
        thread::Builder::new().spawn_scoped(scope, run)?;
    }
    Ok(())
}

/// Waits until each server knows its number, has all data, and the balancer reads from all of them.
fn wait_until_ready(plan: &Plan, checker: &Checker) -> Result<(), Box<dyn Error>> {
    let began = Instant::now();
    let written = keys::KEYS as u64;
    let all_there = || checker.backends.iter().all(|backend| backend.state() >= written);
    while !all_there() || states(plan.lb).is_none_or(|up| up < checker.backends.len()) {
        if began.elapsed() > START_TIME {
            return Err("cache: the balancer does not read from all servers".into());
        }
        thread::sleep(CHECK_INTERVAL);
    }
    Ok(())
}

/// How many backends are up.
fn states(lb: u16) -> Option<usize> {
    let info = Connection::open(lb).ok()?.command(&["INFO", "balancer"]).ok()?;
    Some(String::from_utf8_lossy(&info).matches("state=up").count())
}

/// How many reads the balancer has answered from its cache; none if it has no cache.
fn hits(plan: &Plan) -> Result<u64, Box<dyn Error>> {
    let info = Connection::open(plan.lb)?.command(&["INFO", "cache"])?;
    let info = String::from_utf8_lossy(&info).into_owned();
    let hits = info.lines().find_map(|line| line.strip_prefix("cache_hits:"));
    Ok(hits.map_or(Ok(0), |hits| hits.trim().parse())?)
}

/// Prints progress until the plan is fulfilled or has failed.
fn watch(plan: &Plan, checker: &Checker, began: Instant) {
    let (mut shown_at, mut shown) = (began, 0);
    while began.elapsed() < plan.time
        && checker.reads() < plan.reads
        && checker.failures() < MAX_FAILURES
    {
        thread::sleep(CHECK_INTERVAL);
        let since = shown_at.elapsed();
        if since >= PROGRESS_INTERVAL {
            let reads = checker.reads();
            println!(
                "{:5.0} s: {} reads, {}/s; {} failures",
                began.elapsed().as_secs_f64(),
                grouped(reads),
                grouped(rate(reads - shown, since)),
                checker.failures(),
            );
            (shown_at, shown) = (Instant::now(), reads);
        }
    }
}

/// A client's connections are opened again after a pause, whatever ended them.
fn repeat(checker: &Checker, is_over: &AtomicBool, mut session: impl FnMut() -> io::Result<()>) {
    while !is_over.load(Ordering::Relaxed) {
        if let Err(error) = session() {
            checker.fail(check::Failure::Dropped, &error.to_string());
            thread::sleep(CHECK_INTERVAL);
        }
    }
}

/// Makes one of these for each client.
fn seen(checker: &Checker) -> check::Seen {
    check::Seen::new(Arc::clone(&checker.backends))
}
