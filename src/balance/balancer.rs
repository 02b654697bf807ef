//! What all clients share.

use std::cmp::Reverse;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;

use serde::Serialize;

use arc_swap::Guard;

use super::cursor;
use super::history::{BackendReading, History, Reading};
use super::refusals::Refusals;
use super::registry::{Backends, Registry};
use super::retry_budget::RetryBudget;
use super::slow::{Poison, Poisoned, ReadKey, ReadTraits, SlowLane, TimeLimits};
use super::supervision::{Supervision, TableRow};
use super::table::ConnectionTable;
use crate::backend::{Backend, BackendId, Timeouts};
use crate::config::Config;
use crate::config::address::BackendAddress;
use crate::health::checker::{CheckSettings, Peers};
use crate::health::{
    BackendState, Change, Databases, DatabasesInUse, Health, HealthSettings, Member,
};
use crate::logging::access_log::AccessLog;
use crate::metrics::Metrics;
use crate::policy::scripts::Scripts;
use crate::policy::{self, Allowed, Policy, Shape};
use crate::resp::Command;
use crate::sync::{Mutex, lock};

/// How far the end of the process has come; what holds in one phase holds in those behind it.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Phase {
    /// It has not been asked for.
    Serving,
    /// It has been asked for: we are not ready for new clients, and take those that come all the
    /// same.
    Leaving,
    /// No new clients. An HTTP answer says that it is the last on its connection.
    Draining,
    /// A session ends as soon as it has answered what has arrived.
    Closing,
}

/// The configuration, the backends, and how many leases each has.
#[derive(Debug)]
pub struct Balancer {
    /// The checked configuration.
    pub config: Config,
    registry: Arc<Registry>,
    /// How many leases each of them has.
    pub table: Arc<ConnectionTable>,
    /// How many reads may be sent again.
    pub retry_budget: Arc<RetryBudget>,
    /// Reads that may keep a backend busy.
    pub slow_lane: Arc<SlowLane>,
    /// Reads that have killed backends.
    pub poison: Poison,
    /// What all clients have done.
    pub metrics: Metrics,
    /// The last minutes.
    pub history: History,
    /// When it began to serve.
    pub began: Instant,
    phase: AtomicU8,
    /// What the backends' commands allow, and their version that it was made of.
    policy: Mutex<(u64, Arc<Policy>)>,
    /// The scripts that clients have sent.
    pub scripts: Scripts,
    refusals: Arc<Refusals>,
    /// The databases that clients read.
    in_use: Arc<DatabasesInUse>,
    /// What requests and sessions leave in the log.
    pub access_log: AccessLog,
}

fn allowed(config: &Config) -> Allowed {
    Allowed { keys: config.allow_keys, scripts: config.allow_scripts }
}

impl Balancer {
    /// Balancer without backends.
    pub fn new(config: Config) -> Arc<Self> {
        let now = Instant::now();
        let table = ConnectionTable::new(config.slow_start, now);
        let retry_budget = Arc::new(RetryBudget::new(config.max_clients));
        let registry = Arc::new(Registry::default());
        let slow_lane = SlowLane::new(
            Arc::clone(&table),
            Arc::clone(&registry),
            config.backend_timeout,
            config.read_timeout,
        );
        let history = History::default();
        let policy = Mutex::new((0, Arc::new(Policy::new(&[], allowed(&config)))));
        let leases = {
            let (registry, table) = (Arc::clone(&registry), Arc::clone(&table));
            move || {
                let backends = registry.snapshot();
                let leases = |backend: &Arc<Member>| {
                    (Arc::clone(&backend.health.name), table.leases(backend.id))
                };
                backends.iter().map(leases).collect()
            }
        };
        let access_log = AccessLog::new(leases, config.quiet);
        let refusals = Refusals::new(Arc::clone(&table));
        Arc::new(Self {
            config,
            registry,
            refusals,
            in_use: Arc::default(),
            table,
            retry_budget,
            slow_lane: Arc::new(slow_lane),
            poison: Poison::default(),
            metrics: Metrics::default(),
            history,
            began: Instant::now(),
            phase: AtomicU8::new(Phase::Serving as u8),
            policy,
            scripts: Scripts::default(),
            access_log,
        })
    }

    /// Adds these backends, which count as down until they are checked.
    pub fn add_all(&self, addresses: &[BackendAddress]) {
        let now = Instant::now();
        addresses.iter().for_each(|address| _ = self.add(address, now));
    }

    /// Adds a backend, which counts as down until it is checked.
    pub fn add(&self, address: &BackendAddress, now: Instant) -> Arc<Member> {
        self.in_use.note(Databases::of(address.database()));
        self.registry.add(|id| self.member(id, address, now))
    }

    fn member(&self, id: BackendId, address: &BackendAddress, now: Instant) -> Member {
        let config = &self.config;
        self.table.add(id);
        let row = TableRow { table: Arc::clone(&self.table), id };
        let settings = HealthSettings {
            fall: config.fall,
            rise: config.rise,
            forget_after: config.forget_after,
        };
        let in_use = Arc::clone(&self.in_use);
        let health = Health::new(address.name(), Box::new(row), settings, in_use, now);
        let supervisor = Arc::new(Supervision {
            id,
            health: Arc::clone(&health),
            table: Arc::clone(&self.table),
            retry_budget: Arc::clone(&self.retry_budget),
            refusals: Arc::clone(&self.refusals),
            limits: TimeLimits { backend: config.backend_timeout, read: config.read_timeout },
        });
        let timeouts = Timeouts {
            supervisor,
            timeout: config.backend_timeout,
            read_timeout: config.read_timeout,
        };
        let backend = Backend::new(id, address.clone(), timeouts, config.backend_connections);
        Member { backend: Arc::new(backend), health }
    }

    /// Removes a backend: it gets no more reads, its sessions move to others between two commands, and its
    /// connections are closed as they become free.
    pub fn remove(&self, id: BackendId, now: Instant) {
        let Some(member) = self.registry.remove(id) else { return };
        self.table.remove(id, now);
        member.health.remove(now);
        member.close_all();
    }

    /// Forgets the backends that were removed and are not used any more.
    pub fn forget_drained(&self) {
        self.registry.forget(|id| self.table.knows(id));
    }

    /// How backends are checked.
    pub fn check_settings(&self) -> CheckSettings {
        let Config { check_interval, check_timeout, max_lag, .. } = self.config;
        CheckSettings { interval: check_interval, timeout: check_timeout, max_lag }
    }

    /// The backends as they are now.
    pub fn backends(&self) -> Guard<Arc<Backends>> {
        self.registry.snapshot()
    }

    /// The backend with this identity; one that was removed is found as long as a session uses it.
    pub fn backend(&self, id: BackendId) -> Option<Arc<Member>> {
        self.registry.get(id)
    }

    /// Changes whenever a backend turns out to know other commands than before.
    pub fn commands_version(&self) -> u64 {
        self.backends().commands_version()
    }

    /// What the backends' commands allow together, and their version that it was made of.
    pub fn policy(&self) -> (u64, Arc<Policy>) {
        let mut policy = lock(&self.policy);
        let version = self.commands_version();
        if policy.0 != version {
            let tables: Vec<_> =
                self.backends().iter().filter_map(|backend| backend.commands()).collect();
            let mut new = Policy::new(&tables, allowed(&self.config));
            new.share_counts(&policy.1);
            *policy = (version, Arc::new(new));
        }
        policy.clone()
    }

    /// What is to be known of a command before it is sent, and what it is known by where that matters.
    ///
    /// # Errors
    /// Where it is refused, as it has killed servers: the reason.
    pub fn traits(
        &self,
        command: &Command,
        shape: Shape,
    ) -> Result<(ReadTraits, Option<ReadKey>), &'static str> {
        if self.slow_lane.kinds.is_surely_quick(command.arg_count(), shape.is_fast) {
            return Ok((ReadTraits::QUICK, None));
        }
        let key = self.read_key(command, shape);
        let traits = ReadTraits { script: policy::script(command), ..self.traits_of(&key)? };
        Ok((traits, Some(key)))
    }

    /// What a command is known by.
    pub fn read_key(&self, command: &Command, shape: Shape) -> ReadKey {
        self.slow_lane.kinds.key(command, shape.key_arg(command), shape.is_fast)
    }

    /// What is to be known of a read before it is sent.
    ///
    /// # Errors
    /// Where it is refused, as it has killed servers: the reason.
    pub fn traits_of(&self, key: &ReadKey) -> Result<ReadTraits, &'static str> {
        let poisoned = self.poison.of(key, Instant::now());
        if poisoned == Some(Poisoned::Itself) {
            return Err(
                "this read has killed servers within the last minute: it is not sent again",
            );
        }
        Ok(ReadTraits {
            class: self.slow_lane.kinds.class(key),
            is_fast: key.is_fast,
            has_one_try: poisoned.is_some(),
            script: None,
        })
    }

    /// The tag of this server in the cursors that clients get.
    pub fn cursor_tag(&self, run_id: &str) -> Option<u16> {
        let run_ids = run_ids(&self.backends());
        let index = run_ids.iter().position(|known| known.as_deref() == Some(run_id))?;
        cursor::tags(&run_ids)[index]
    }

    /// The backend whose server has this tag. Those that have never answered are asked when it is none of
    /// the others.
    pub fn find_server(&self, tag: u16) -> Option<Arc<Member>> {
        let backends = self.backends();
        let find = || {
            let tags = cursor::tags(&run_ids(&backends));
            tags.into_iter().zip(backends.iter()).find(|(known, _)| *known == Some(tag))
        };
        let found = find().or_else(|| {
            for backend in backends.iter().filter(|backend| backend.run_id().is_none()) {
                // If it can't say, it is not the one.
                _ = backend.introduce();
            }
            find()
        });
        found.map(|(_, backend)| Arc::clone(backend))
    }

    /// The end of the process has come so far. There is no way back.
    pub fn enter(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::SeqCst);
    }

    /// Whether the end of the process has come so far.
    pub fn has_reached(&self, phase: Phase) -> bool {
        self.phase.load(Ordering::SeqCst) >= phase as u8
    }

    /// How far the end of the process has come.
    pub fn phase(&self) -> Phase {
        let phases = [Phase::Closing, Phase::Draining, Phase::Leaving];
        phases.into_iter().find(|&phase| self.has_reached(phase)).unwrap_or(Phase::Serving)
    }

    /// Whether each HTTP answer is the last on its connection.
    pub fn is_draining(&self) -> bool {
        self.has_reached(Phase::Draining)
    }

    /// Whether new clients should be sent here: we stay, and there is a backend to read from.
    pub fn is_ready(&self) -> bool {
        !self.has_reached(Phase::Leaving) && self.table.best(|_| true) <= BackendState::Suspect
    }

    /// What is counted now of these backends.
    pub fn reading(&self, backends: &Backends) -> Reading {
        let reading = |backend: &Arc<Member>| BackendReading {
            id: backend.id,
            state: backend.health.state(),
            leases: self.table.leases(backend.id),
            errors: backend.metrics.errors.get(),
            times: backend.metrics.times(),
        };
        let here = &self.metrics.answered_here;
        let answered_here = here.http.get() + here.resp.get();
        Reading { answered_here, backends: backends.iter().map(reading).collect() }
    }

    /// The last changes of the backends' states, the newest first; `max` at most.
    pub fn changes(&self, max: usize) -> Vec<(Arc<Member>, Change)> {
        let of_one = |backend: &Arc<Member>| {
            let backend = Arc::clone(backend);
            backend.health.changes().into_iter().map(move |change| (Arc::clone(&backend), change))
        };
        let mut changes: Vec<_> = self.backends().iter().flat_map(of_one).collect();
        changes.sort_by_key(|(_, change)| Reverse(change.at));
        changes.truncate(max);
        changes
    }
}

impl Peers for Balancer {
    fn members(&self) -> Vec<Arc<Member>> {
        self.backends().iter().cloned().collect()
    }

    fn checked(&self) {
        // A server that answers is busy no more, and one that is down is not waited for.
        self.slow_lane.note_check();
    }
}

fn run_ids(backends: &Backends) -> Vec<Option<Arc<str>>> {
    backends.iter().map(|backend| backend.run_id()).collect()
}
