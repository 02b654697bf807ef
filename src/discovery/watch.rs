//! The threads that ask the sources of backends, one for each.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use log::{error, info, warn};

use super::dns::Dns;
use super::primary::Primary;
use super::sentinel::Sentinels;
use super::source::{DiscoveryError, Found, KnownServers, ServiceDiscovery};
use super::{listed, update};
use crate::balance::Balancer;
use crate::balance::discovered::{ReportMeaning, SourceId};
use crate::config::source::{SourceConfig, SourceKind};
use crate::health::BackendState;

/// Time that a source may take for one answer.
const ANSWER_TIME: Duration = Duration::from_secs(3);

/// Time that the start of the process, and a reload, wait for the first answers of sources.
const FIRST_ANSWER_TIME: Duration = Duration::from_secs(2);

/// Time after which a source that has no list to give is asked again.
const RETRY_TIME: Duration = Duration::from_secs(1);

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
    fn answers(&self, name: &str) -> bool {
        let is_it = |state| state <= BackendState::Suspect || state == BackendState::Syncing;
        self.backends().iter().any(|member| member.name() == name && is_it(member.health.state()))
    }
}

struct Watcher {
    balancer: Arc<Balancer>,
    id: SourceId,
    name: String,
    source: Box<dyn ServiceDiscovery>,
}

impl Watcher {
    /// Asks the source until nobody wants it any more. Says to `first` that the first answer is there, and takes no
    /// backends over before `started` has ended.
    fn run(mut self, first: Sender<()>, started: &Receiver<()>) {
        let mut wait = self.ask_and_report();
        drop(first);
        _ = started.recv();
        let mut meaning = ReportMeaning::Changed;
        while self.balancer.discovered.wants(self.id) {
            if meaning == ReportMeaning::Changed {
                update(&self.balancer, || listed(&self.balancer));
            }
            self.source.wait(wait.0.min(MAX_TIME));
            wait = self.ask_and_report();
            meaning = wait.1;
        }
    }

    /// Asks once. Returns how long its list is good, and what the answer means.
    fn ask_and_report(&mut self) -> (Duration, ReportMeaning) {
        let deadline = Instant::now() + ANSWER_TIME;
        let (balancer, source) = (&*self.balancer, &mut self.source);
        // A panic here would leave the list as it is for ever.
        let asked = catch_unwind(AssertUnwindSafe(|| source.discover(balancer, deadline)));
        let asked = asked.unwrap_or_else(|_| {
            Err(DiscoveryError::Unusable("an error of ours: see above".to_owned()))
        });
        let (result, wait) = match asked {
            Ok(Found { servers, .. }) if servers.is_empty() => {
                (Err(DiscoveryError::Empty.to_string()), RETRY_TIME)
            }
            Ok(Found { servers, valid_for }) => (Ok(servers), valid_for),
            Err(error) => (Err(error.to_string()), RETRY_TIME),
        };
        let reason = result.as_ref().err().cloned().unwrap_or_default();
        let meaning = self.balancer.discovered.report(self.id, result, Instant::now());
        match meaning {
            ReportMeaning::Fails => warn!("{}: the last list holds on: {reason}", self.name),
            ReportMeaning::Recovered => info!("{} answers again", self.name),
            ReportMeaning::Changed | ReportMeaning::Same | ReportMeaning::Unwanted => {}
        }
        (wait, meaning)
    }
}
