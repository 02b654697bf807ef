//! Checks the backends, each in a thread of its own and over a connection of its own, and moves
//! sessions to those that have few.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use log::warn;

use crate::backend::{Backend, BackendError, Connection};
use crate::balance::BackendState;
use crate::balance::Balancer;
use crate::health::{Known, Report};
use crate::logging::access_log::Event;

/// How often a backend that is not up is checked. While all is well, a check looks so often whether
/// it is wanted.
const FAST_INTERVAL: Duration = Duration::from_millis(100);

/// How often a backend's name is looked up again, so that one that moves is found.
const RESOLVE_INTERVAL: Duration = Duration::from_secs(5);

/// How often the log says that this machine can't check a backend.
const LOCAL_WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// How often sessions are moved.
const REBALANCE_INTERVAL: Duration = Duration::from_millis(100);

/// Checks differ by so much of the interval, so that those of several balancers don't coincide.
const JITTER: f64 = 0.1;

/// While another backend has just gone, replicas are looked at as often as what is not up: it may be
/// their primary, which empties them when it comes back empty.
const ALERT_TIME: Duration = Duration::from_secs(60);

/// Starts to check, and returns when it is known which backends can serve: after the check timeout
/// at the latest.
pub fn start(balancer: &Arc<Balancer>) {
    let (to_us, looks) = channel();
    // Each waits for these to go before it goes on.
    let mut starts = Vec::new();
    for index in 0..balancer.backends.len() {
        let (balancer, to_us) = (Arc::clone(balancer), to_us.clone());
        let (start, started) = channel();
        starts.push(start);
        spawn("check", move || Checker::new(&balancer, index).run(&to_us, &started));
    }
    drop(to_us);
    accept_first(balancer, &looks);
    drop(starts);
    if balancer.config.rebalance {
        let balancer = Arc::clone(balancer);
        spawn("rebalance", move || rebalance(&balancer));
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) {
    if let Err(error) = thread::Builder::new().name(name.to_owned()).spawn(work) {
        warn!("no thread to {name} the backends with: {error}");
    }
}

type FirstLook = (usize, Result<Report, BackendError>);

/// What is there at the start is accepted; only databases that have far fewer keys than elsewhere wait.
fn accept_first(balancer: &Balancer, looks: &Receiver<FirstLook>) {
    let deadline = Instant::now() + balancer.config.check_timeout;
    let mut reports = Vec::new();
    for _ in &balancer.backends {
        let left = deadline.saturating_duration_since(Instant::now());
        match looks.recv_timeout(left) {
            Ok((index, Ok(report))) => reports.push((index, report)),
            Ok((index, Err(error))) if error.is_local() => {
                warn!("{} can't be checked yet: {error}", balancer.backends[index].name());
            }
            Ok((index, Err(error))) => {
                let backend = &balancer.backends[index];
                warn!("{} does not answer yet: {error}", backend.name());
                backend.health.check_failed(&error, error.is_timeout());
            }
            Err(_) => break,
        }
    }
    let now = Instant::now();
    for (index, report) in &reports {
        let others = reports.iter().filter(|(other, _)| other != index);
        let others: Vec<&Report> = others.map(|(_, report)| report).collect();
        balancer.backends[*index].health.accept_first(report, &others, now);
    }
    if balancer.table.best(|_| true) != BackendState::Up {
        warn!("no backend answers: reads fail until one does");
    }
}

/// Checks one backend.
struct Checker<'a> {
    balancer: &'a Balancer,
    backend: &'a Arc<Backend>,
    index: usize,
    link: Option<Connection>,
    /// When the last check began.
    last: Instant,
    /// When the log said last that this machine could not check.
    warned_at: Option<Instant>,
    /// Whether the connection of the check before was ended right behind it.
    ends_at_once: bool,
}

impl<'a> Checker<'a> {
    fn new(balancer: &'a Balancer, index: usize) -> Self {
        Self {
            balancer,
            backend: &balancer.backends[index],
            index,
            link: None,
            last: Instant::now(),
            warned_at: None,
            ends_at_once: false,
        }
    }

    fn run(mut self, first: &Sender<FirstLook>, start: &Receiver<()>) {
        self.backend.resolve();
        if self.backend.has_name() {
            let backend = Arc::clone(self.backend);
            spawn("resolve", move || keep_resolved(&backend));
        }
        let began = Instant::now();
        let look = self.look(began);
        if let Err(late) = first.send((self.index, look)) {
            let (_, look) = late.0;
            self.note(look, began);
        }
        // Nothing ever comes: this ends when all first looks have been considered.
        let _ = start.recv();
        // Each begins at another moment.
        let backends = self.balancer.backends.len() as u32;
        let mut next = Instant::now() + self.interval() * (self.index as u32 + 1) / backends;
        loop {
            self.wait_until(next);
            let began = Instant::now();
            let look = self.look(began);
            self.note(look, began);
            next = Instant::now() + self.interval().mul_f64(1.0 + JITTER * (fastrand::f64() - 0.5));
        }
    }

    fn interval(&self) -> Duration {
        self.balancer.config.check_interval
    }

    fn look(&mut self, began: Instant) -> Result<Report, BackendError> {
        let config = &self.balancer.config;
        self.last = began;
        // Another server may be behind the address by now: it is that which is to be looked at.
        if self.backend.health.state() != BackendState::Up {
            self.link = None;
        }
        self.backend.check(&mut self.link, began + config.check_timeout, config.max_lag)
    }

    fn note(&mut self, look: Result<Report, BackendError>, began: Instant) {
        self.judge(look, began);
        // Whoever answers is busy no more, and whoever is down is not waited for.
        self.balancer.slow_lane.note_check();
    }

    fn judge(&mut self, look: Result<Report, BackendError>, began: Instant) {
        let health = &self.backend.health;
        match look {
            Ok(report) => {
                let others = self.others().map(|backend| backend.health.known());
                health.check_answered(&report, began, &others.collect::<Vec<Known>>());
                // Down, for what it is: nobody shall go on reading from it.
                if report.unserved.is_some() {
                    self.backend.close_all();
                }
            }
            // That says nothing of the backend.
            Err(error) if error.is_local() => {
                if self.warned_at.is_none_or(|at| at.elapsed() > LOCAL_WARNING_INTERVAL) {
                    self.warned_at = Some(Instant::now());
                    warn!("{} can't be checked: {error}", self.backend.name());
                }
            }
            Err(error) => {
                health.check_failed(&error, error.is_timeout() || error.is_script());
                if health.state() == BackendState::Down {
                    self.backend.close_all();
                }
            }
        }
    }

    fn others(&self) -> impl Iterator<Item = &Arc<Backend>> {
        let others = self.balancer.backends.iter().enumerate();
        others.filter(|(index, _)| *index != self.index).map(|(_, backend)| backend)
    }

    /// Whether it may get other data, or none, at any moment.
    fn is_to_be_watched(&self) -> bool {
        let health = &self.backend.health;
        let has_just_gone = |other: &Arc<Backend>| {
            other.health.left_up().is_some_and(|since| since.elapsed() < ALERT_TIME)
        };
        health.is_to_be_watched() || (health.is_replica() && self.others().any(has_just_gone))
    }

    /// Timeouts until it is time, or there is a reason to check now: something is wrong with the
    /// backend, or it has ended our connection.
    fn wait_until(&mut self, next: Instant) {
        loop {
            let left = next.saturating_duration_since(Instant::now());
            let is_news = self.pause(left.min(FAST_INTERVAL)) && self.is_end_news();
            let health = &self.backend.health;
            // A server that seems to be busy may be one to which a connection is broken.
            let is_up = health.state() == BackendState::Up && !health.is_busy();
            let is_good = is_up && !is_news && !self.is_to_be_watched();
            if left <= FAST_INTERVAL || !is_good {
                return;
            }
        }
    }

    /// Whether it says something that our connection was ended: not if that happens to each of them
    /// right behind its check.
    fn is_end_news(&mut self) -> bool {
        let is_at_once = self.last.elapsed() < FAST_INTERVAL;
        if is_at_once {
            thread::sleep(FAST_INTERVAL);
        }
        !(std::mem::replace(&mut self.ends_at_once, is_at_once) && is_at_once)
    }

    /// Lets some time pass; true when the backend has ended our connection meanwhile.
    fn pause(&mut self, time: Duration) -> bool {
        let Some(link) = &self.link else {
            thread::sleep(time);
            return false;
        };
        let has_ended = link.stream().wait_for_input(time);
        match has_ended {
            true => self.link = None,
            false => self.ends_at_once = false,
        }
        has_ended
    }
}

fn keep_resolved(backend: &Backend) {
    loop {
        thread::sleep(RESOLVE_INTERVAL);
        backend.resolve();
    }
}

/// Moves sessions away from backends that can't serve, and to those that have few.
fn rebalance(balancer: &Balancer) {
    loop {
        thread::sleep(REBALANCE_INTERVAL);
        let moved = balancer.table.rebalance();
        if moved > 0 {
            balancer.access_log.write(|| Event::Moved { sessions: moved });
        }
    }
}
