//! The threads that ask the sources of backends, one for each.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use log::{error, info, warn};

use super::advice::advice_on_source;
use super::dns::Dns;
use super::primary::Primary;
use super::sentinel::Sentinels;
use super::source::{DiscoveryError, Found, KnownServers, Role, ServiceDiscovery};
use super::{listed, update};
use crate::balance::Balancer;
use crate::balance::discovered::{ReportMeaning, SourceId, SourceState};
use crate::config::source::{SourceConfig, SourceKind};
use crate::health::BackendState;

/// Time that a source may take for one answer.
const ANSWER_TIME: Duration = Duration::from_secs(3);

/// Time that the start of the process, and a reload, wait for the first answers of sources.
const FIRST_ANSWER_TIME: Duration = Duration::from_secs(2);

/// Time after which a source that has no list to give is asked again.
const RETRY_TIME: Duration = Duration::from_secs(1);

/// Most reasons of one source that are logged while it fails.
const MAX_REASONS: usize = 8;

/// Longest time between two questions to a source, however long its list is good.
const MAX_TIME: Duration = Duration::from_secs(30);

/// Sources that were started. They change no backends until this is dropped.
pub struct Started(#[expect(dead_code, reason = "what counts is its end")] Vec<Sender<()>>);

/// Asks the sources that are configured now, each in a thread of its own, and no others. Returns when the new ones have
/// answered, or have taken 2 s.
pub fn follow(balancer: &Arc<Balancer>) -> Started {
    let config = balancer.config();
    let new = balancer.discovered.configure(config.sources());
    drop(config);
    let (to_us, answers) = channel();
    let mut starts = Vec::new();
    for (id, source) in new {
        let (start, started) = channel();
        starts.push(start);
        let watcher = Watcher {
            balancer: Arc::clone(balancer),
            id,
            name: source.name().to_owned(),
            source: build(&source, balancer),
            reasons: Vec::new(),
        };
        let to_us = to_us.clone();
        let work = move || watcher.run(to_us, &started);
        if let Err(error) = thread::Builder::new().name("discovery".to_owned()).spawn(work) {
            error!("cannot start a thread to ask {}: {error}", source.name());
        }
    }
    drop(to_us);
    let deadline = Instant::now() + FIRST_ANSWER_TIME;
    let left = || deadline.saturating_duration_since(Instant::now());
    while answers.recv_timeout(left()).is_ok() {}
    Started(starts)
}

/// Returns what asks a source.
fn build(source: &SourceConfig, balancer: &Balancer) -> Box<dyn ServiceDiscovery> {
    match &source.kind {
        SourceKind::Dns | SourceKind::DnsSrv => Box::new(Dns::new(source, balancer.live_config())),
        SourceKind::Primary { read } => {
            Box::new(Primary::new(source, *read, balancer.live_config()))
        }
        SourceKind::Sentinel { sentinels, primary, read } => {
            let config = balancer.live_config();
            Box::new(Sentinels::new(source, sentinels, primary, *read, config))
        }
    }
}

impl KnownServers for Balancer {
    fn role(&self, name: &str) -> Option<Role> {
        let backends = self.backends();
        let health = &backends.iter().find(|member| member.name() == name)?.health;
        match health.state() {
            BackendState::Down => None,
            _ if health.is_replica() => Some(Role::Replica),
            _ => Some(Role::Primary),
        }
    }
}

/// Asks one source.
struct Watcher {
    balancer: Arc<Balancer>,
    id: SourceId,
    name: String,
    source: Box<dyn ServiceDiscovery>,
    /// Reasons that were logged since it gave a list last.
    reasons: Vec<String>,
}

impl Watcher {
    /// Asks the source until nobody wants it any more. Says to `first` that the first answer is there, and takes no
    /// backends over before `started` has ended.
    fn run(mut self, first: Sender<()>, started: &Receiver<()>) {
        let mut wait = self.supervised(Self::ask).unwrap_or(RETRY_TIME);
        drop(first);
        _ = started.recv();
        self.supervised(Self::take_over);
        while self.balancer.discovered.wants(self.id) {
            let round = |watcher: &mut Self| watcher.wait_and_ask(wait);
            wait = self.supervised(round).unwrap_or_else(|| {
                thread::sleep(RETRY_TIME);
                RETRY_TIME
            });
        }
    }

    /// Does a part of the work. A panic in it must not leave the list as it is for ever.
    fn supervised<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> Option<T> {
        let done = catch_unwind(AssertUnwindSafe(|| work(self)));
        if done.is_err() {
            error!("{}: an error of ours, see above; it is asked again", self.name);
        }
        done.ok()
    }

    fn wait_and_ask(&mut self, wait: Duration) -> Duration {
        self.source.wait(wait.min(MAX_TIME));
        if self.balancer.discovered.wants(self.id) { self.ask_and_take_over() } else { wait }
    }

    /// Takes over the whole list.
    fn take_over(&mut self) {
        update(&self.balancer, || listed(&self.balancer));
    }

    fn ask_and_take_over(&mut self) -> Duration {
        let (wait, meaning) = self.ask_once();
        if meaning == ReportMeaning::Changed {
            self.take_over();
        }
        wait
    }

    fn ask(&mut self) -> Duration {
        self.ask_once().0
    }

    /// Asks once. Returns how long its list is good, and what the answer means.
    fn ask_once(&mut self) -> (Duration, ReportMeaning) {
        let result = match self.source.discover(&*self.balancer, Instant::now() + ANSWER_TIME) {
            Ok(Found { servers, .. }) if servers.is_empty() => Err(DiscoveryError::Empty),
            result => result,
        };
        match &result {
            Ok(_) if self.reasons.is_empty() => {}
            Ok(_) => {
                info!("{} answers again", self.name);
                self.reasons.clear();
            }
            Err(error) => self.warn_once(error.to_string()),
        }
        let wait = result.as_ref().map_or(RETRY_TIME, |found| found.valid_for);
        let servers = result.map(|found| found.servers).map_err(|error| error.to_string());
        (wait, self.balancer.discovered.report(self.id, servers, Instant::now()))
    }

    /// Logs each reason once, until the source gives a list again.
    fn warn_once(&mut self, reason: String) {
        if self.reasons.contains(&reason) || self.reasons.len() >= MAX_REASONS {
            return;
        }
        let states = self.balancer.discovered.states();
        match states.into_iter().find(|state| state.id == self.id) {
            Some(SourceState { source, servers: None, .. }) => {
                let advice = advice_on_source(&source.kind, &reason);
                warn!(
                    "{} names no servers yet: {}. {advice}",
                    self.name,
                    reason.trim_end_matches('.')
                );
            }
            _ => warn!("{}: the last list holds on: {reason}", self.name),
        }
        self.reasons.push(reason);
    }
}
