//! What all clients share.

use std::cmp::Reverse;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde::Serialize;

use crate::backend::{Backend, Refusals, Timeouts};
use crate::balance::cursor;
use crate::balance::retry_budget::RetryBudget;
use crate::balance::slow::{Poison, Poisoned, ReadKey, ReadTraits, SlowLane};
use crate::balance::{BackendState, ConnectionTable};
use crate::config::Config;
use crate::config::address::BackendAddress;
use crate::health::{Change, Databases, DatabasesInUse, Health, HealthSettings};
use crate::logging::access_log::AccessLog;
use crate::metrics::Metrics;
use crate::observe::history::{BackendReading, History, Reading};
use crate::policy::scripts::Scripts;
use crate::policy::{self, Allowed, Policy, Shape};
use crate::resp::Command;
use crate::sync::lock;

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
    /// The backends, in the order of the configuration.
    pub backends: Vec<Arc<Backend>>,
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
    /// What requests and sessions leave in the log.
    pub access_log: AccessLog,
}

fn allowed(config: &Config) -> Allowed {
    Allowed { keys: config.allow_keys, scripts: config.allow_scripts }
}

impl Balancer {
    /// Nothing is connected yet.
    pub fn new(config: Config) -> Arc<Self> {
        let table = ConnectionTable::new(config.backends.len(), config.slow_start);
        let retry_budget = Arc::new(RetryBudget::new(config.max_clients));
        let refusals = Refusals::new(Arc::clone(&table));
        let settings = HealthSettings {
            fall: config.fall,
            rise: config.rise,
            forget_after: config.forget_after,
        };
        let in_use = Arc::new(DatabasesInUse::default());
        config.backends.iter().for_each(|address| in_use.note(Databases::of(address.database())));
        let backend = |(index, address): (usize, &BackendAddress)| {
            let timeouts = Timeouts {
                health: Health::new(
                    address.name(),
                    index,
                    Arc::clone(&table),
                    settings,
                    Arc::clone(&in_use),
                ),
                retry_budget: Arc::clone(&retry_budget),
                timeout: config.backend_timeout,
                read_timeout: config.read_timeout,
            };
            let refuser = refusals.of(index, address.name());
            Arc::new(Backend::new(address.clone(), timeouts, config.backend_connections, refuser))
        };
        let backends: Vec<_> = config.backends.iter().enumerate().map(backend).collect();
        let healths = backends.iter().map(|backend| Arc::clone(&backend.health)).collect();
        let slow_lane =
            SlowLane::new(Arc::clone(&table), healths, config.backend_timeout, config.read_timeout);
        let history = History::new(config.backends.len());
        let policy = Mutex::new((0, Arc::new(Policy::new(&[], allowed(&config)))));
        let names: Vec<Arc<str>> =
            config.backends.iter().map(|address| Arc::from(address.name())).collect();
        let counted = Arc::clone(&table);
        let count_leases = move || names.iter().cloned().zip(counted.counts()).collect();
        let access_log = AccessLog::new(count_leases, config.quiet);
        Arc::new(Self {
            config,
            backends,
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

    /// Changes whenever a backend turns out to know other commands than before.
    pub fn commands_version(&self) -> u64 {
        self.backends.iter().map(|backend| backend.commands_version()).sum()
    }

    /// What the backends' commands allow together, and their version that it was made of.
    pub fn policy(&self) -> (u64, Arc<Policy>) {
        let mut policy = lock(&self.policy);
        let version = self.commands_version();
        if policy.0 != version {
            let tables: Vec<_> =
                self.backends.iter().filter_map(|backend| backend.commands()).collect();
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
        let run_ids = self.run_ids();
        let index = run_ids.iter().position(|known| known.as_deref() == Some(run_id))?;
        cursor::tags(&run_ids)[index]
    }

    /// The index of the backend whose server has this tag. Those that have never answered are asked
    /// when it is none of the others.
    pub fn find_server(&self, tag: u16) -> Option<usize> {
        let find = || cursor::tags(&self.run_ids()).iter().position(|known| *known == Some(tag));
        find().or_else(|| {
            for backend in self.backends.iter().filter(|backend| backend.run_id().is_none()) {
                // If it can't say, it is not the one.
                let _ = backend.introduce();
            }
            find()
        })
    }

    fn run_ids(&self) -> Vec<Option<Arc<str>>> {
        self.backends.iter().map(|backend| backend.run_id()).collect()
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

    /// What is counted now.
    pub fn reading(&self) -> Reading {
        let backends = self.backends.iter().zip(self.table.counts());
        let backends = backends.map(|(backend, leases)| BackendReading {
            state: backend.health.state(),
            leases,
            errors: backend.metrics.errors.get(),
            times: backend.metrics.times(),
        });
        let here = &self.metrics.answered_here;
        Reading { answered_here: here.http.get() + here.resp.get(), backends: backends.collect() }
    }

    /// The last changes of the backends' states, with their names, the newest first; `max` at most.
    pub fn changes(&self, max: usize) -> Vec<(&str, Change)> {
        let backends = self.backends.iter();
        let mut changes: Vec<_> = backends
            .flat_map(|backend| {
                let of_one = backend.health.changes();
                of_one.into_iter().map(|change| (backend.name(), change))
            })
            .collect();
        changes.sort_by_key(|(_, change)| Reverse(change.at));
        changes.truncate(max);
        changes
    }
}
