//! Soak test: clients send random pipelines or HTTP requests, compare every byte of every reply, and
//! disconnect at random.

mod batch;
mod client;
mod data;
mod http;
mod socket;

use std::error::Error;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use client::{Client, Failure, Leave};
use data::{HttpItem, Table};
use rustls::ClientConfig;

const STACK_BYTES: usize = 128 * 1024;
const CHECK_INTERVAL: Duration = Duration::from_millis(100);
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

/// The run ends early after this many failures.
const MAX_FAILURES: u64 = 1000;

/// How many failures are printed.
const SHOWN_FAILURES: usize = 5;

pub struct Plan {
    lb: u16,
    backends: Vec<u16>,
    tls: Option<Arc<ClientConfig>>,
    clients: usize,
    replies: u64,
    time: Duration,
}

impl Plan {
    pub fn from_flags(flags: &[&str]) -> Result<Plan, Box<dyn Error>> {
        let mut plan = Plan {
            lb: 0,
            backends: Vec::new(),
            tls: None,
            clients: 500,
            replies: 100_000_000,
            time: Duration::from_secs(3600),
        };
        let (pairs, rest) = flags.as_chunks::<2>();
        for [flag, value] in pairs {
            match *flag {
                "--lb" => plan.lb = port(value)?,
                "--backend" => plan.backends.push(port(value)?),
                "--tls-ca" => plan.tls = Some(socket::trust(value)?),
                "--clients" => plan.clients = value.parse()?,
                "--replies" => plan.replies = value.parse()?,
                "--seconds" => plan.time = Duration::from_secs(value.parse()?),
                _ => return Err(format!("soak: unknown flag {flag}").into()),
            }
        }
        if plan.lb == 0 || plan.backends.is_empty() || plan.clients == 0 || !rest.is_empty() {
            return Err("soak: --lb, --backend and at least one client are required".into());
        }
        Ok(plan)
    }
}

fn port(address: &str) -> Result<u16, Box<dyn Error>> {
    let port =
        address.strip_prefix("127.0.0.1:").ok_or("soak: an address must be 127.0.0.1:PORT")?;
    Ok(port.parse()?)
}

/// State shared by all clients.
struct Soak {
    lb: u16,
    tls: Option<Arc<ClientConfig>>,
    tables: Vec<Table>,
    http_items: Vec<HttpItem>,
    is_over: AtomicBool,
    verified: AtomicU64,
    connections: AtomicU64,
    /// Sessions ended by the client, by [`Leave`].
    left: [AtomicU64; Leave::ALL.len()],
    /// Failures by [`Failure::kind`].
    failed: [AtomicU64; Failure::KINDS.len()],
    first_failures: Mutex<Vec<String>>,
}

impl Soak {
    fn note(&self, client: usize, failure: &Failure) {
        add(&self.failed[failure.kind()], 1);
        let mut first = self.first_failures.lock().unwrap_or_else(PoisonError::into_inner);
        if first.len() < SHOWN_FAILURES {
            first.push(format!("client {client}: {failure}"));
        }
    }

    fn failures(&self) -> u64 {
        self.failed.iter().map(get).sum()
    }

    /// Prints progress until the plan is fulfilled or has failed.
    fn watch(&self, plan: &Plan, began: Instant) {
        let (mut shown_at, mut shown) = (began, 0);
        while began.elapsed() < plan.time
            && get(&self.verified) < plan.replies
            && self.failures() < MAX_FAILURES
        {
            thread::sleep(CHECK_INTERVAL);
            let since = shown_at.elapsed();
            if since >= PROGRESS_INTERVAL {
                let verified = get(&self.verified);
                println!(
                    "{:5.0} s: {} replies, {}/s; {} connections, {} failures",
                    began.elapsed().as_secs_f64(),
                    grouped(verified),
                    grouped(rate(verified - shown, since)),
                    grouped(get(&self.connections)),
                    self.failures(),
                );
                (shown_at, shown) = (Instant::now(), verified);
            }
        }
    }

    fn report(&self, plan: &Plan, took: Duration) {
        let verified = get(&self.verified);
        println!(
            "verified: {} of {} in {:.1} s, {}/s",
            grouped(verified),
            grouped(plan.replies),
            took.as_secs_f64(),
            grouped(rate(verified, took)),
        );
        println!("connections: {}", grouped(get(&self.connections)));
        for (way, count) in Leave::ALL.iter().zip(&self.left) {
            println!("left {way}: {}", grouped(get(count)));
        }
        for (kind, count) in Failure::KINDS.iter().zip(&self.failed) {
            println!("{kind}: {}", grouped(get(count)));
        }
        for failure in self.first_failures.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            println!("{failure}");
        }
    }
}

/// Fills the backends, then runs clients until enough replies are verified or the time is over.
pub fn run(plan: &Plan) -> Result<(), Box<dyn Error>> {
    for backend in &plan.backends {
        data::fill(*backend).map_err(|error| format!("127.0.0.1:{backend}: {error}"))?;
    }
    let soak = Soak {
        lb: plan.lb,
        tls: plan.tls.clone(),
        tables: data::tables(),
        http_items: data::http_items(),
        is_over: AtomicBool::new(false),
        verified: AtomicU64::new(0),
        connections: AtomicU64::new(0),
        left: Default::default(),
        failed: Default::default(),
        first_failures: Mutex::default(),
    };
    let began = Instant::now();
    thread::scope(|scope| {
        for number in 0..plan.clients {
            let client = Client::new(&soak, number, Random::new());
            let thread = thread::Builder::new().stack_size(STACK_BYTES);
            if let Err(error) = thread.spawn_scoped(scope, || client.run()) {
                // The scope waits for the clients that already run.
                soak.is_over.store(true, Ordering::Relaxed);
                return Err(error);
            }
        }
        soak.watch(plan, began);
        soak.is_over.store(true, Ordering::Relaxed);
        Ok(())
    })?;
    soak.report(plan, began.elapsed());
    if soak.failures() > 0 {
        return Err("soak: some replies or sessions failed".into());
    }
    if get(&soak.verified) == 0 {
        return Err("soak: nothing was verified".into());
    }
    Ok(())
}

pub fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

pub fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

pub fn rate(count: u64, time: Duration) -> u64 {
    (count as f64 / time.as_secs_f64()) as u64
}

/// Formats 1234567 as 1,234,567.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Xorshift generator: random enough for a test, and cheap beside the I/O.
pub struct Random(u64);

impl Random {
    pub fn new() -> Random {
        // A seed without another dependency: `RandomState` has random keys.
        Random(RandomState::new().hash_one(0) | 1)
    }

    /// Returns a number below `limit`, which must not be 0.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % limit
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}
