//! The state that all clients share.

use std::cmp::Reverse;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Instant, SystemTime};

use arc_swap::Guard;
use serde::Serialize;

use super::client_addresses::ClientAddresses;
use super::cursor;
use super::discovered::Discovered;
use super::gone::named_changes;
use super::history::History;
use super::long_replies::LongReplies;
use super::outages::Outages;
use super::overlay::Overlay;
use super::refusals::RecentRefusals;
use super::registry::{Backends, Registry};
use super::reloads::Reloads;
use super::retry_budget::RetryBudget;
use super::slow::{Poison, Poisoned, ReadKey, ReadProfile, SlowLane};
use super::supervisor::{BackendSupervisor, TableRow};
use super::table::ConnectionTable;
use crate::backend::subscriptions::Subscribers;
use crate::backend::{Backend, BackendId, Timeouts};
use crate::cache::Cache;
use crate::config::backend::BackendConfig;
use crate::config::{Config, LiveConfig};
use crate::health::checker::{CheckSettings, Peers};
use crate::health::{
    Change, Databases, DatabasesInUse, Health, Member, Replication, Settings, sample_interval,
};
use crate::logging::access_log::{AccessLog, AccessLogSettings};
use crate::login::Logins;
use crate::memory::{self, MemoryBudget};
use crate::metrics::Metrics;
use crate::metrics::cache::CacheSummary;
use crate::policy::scripts::Scripts;
use crate::policy::{self, Allowed, Policy, Shape};
use crate::resp::Command;
use crate::sync::{Mutex, lock};

/// How far the end of the process has come. What holds in one phase holds in all later ones.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Phase {
    /// Clients are served.
    Serving,
    /// The process is to end: `/-/ready` says so, but clients that come are still served.
    Leaving,
    /// No new clients are accepted. Each HTTP response is the last on its connection.
    Draining,
    /// A session ends as soon as it has answered all that has arrived.
    Closing,
}

/// The configuration, the backends, and all that is known of them and of the clients.
#[derive(Debug)]
pub struct Balancer {
    /// The configuration, which a reload replaces.
    pub(super) config: LiveConfig,
    registry: Arc<Registry>,
    /// The leases of each backend.
    pub table: Arc<ConnectionTable>,
    /// How old the data of each backend are.
    pub replication: Replication,
    /// How many reads may be sent again.
    pub retry_budget: Arc<RetryBudget>,
    /// The reads that may keep a backend busy.
    pub slow_lane: Arc<SlowLane>,
    /// The reads of Redis clients that have had long replies.
    pub long_replies: LongReplies,
    /// The reads that have killed backends.
    pub poison: Poison,
    /// How many clients each address has.
    pub client_addresses: Arc<ClientAddresses>,
    /// Counters of what all clients have done.
    pub metrics: Arc<Metrics>,
    /// Replies that are asked for again and again; `None` if it is off.
    pub cache: Option<Arc<Cache>>,
    /// The users who may log in, and what is known of those who do.
    pub logins: Logins,
    /// The memory that clients make us hold.
    pub memory: Arc<MemoryBudget>,
    /// What all subscribers share.
    pub subscribers: Arc<Subscribers>,
    /// The last minutes.
    pub history: History,
    /// When it began to serve.
    pub began: Instant,
    /// The same moment by the system's clock.
    pub began_at: SystemTime,
    phase: AtomicU8,
    /// Policy made from the backends' commands, and the version of those.
    policy: Mutex<(u64, Arc<Policy>)>,
    /// The scripts that clients have sent.
    pub scripts: Arc<Scripts>,
    refusals: Arc<RecentRefusals>,
    /// How often the configuration was read again, and with what result.
    pub reloads: Reloads,
    /// How often the list of backends was updated.
    pub(super) updates: Mutex<u64>,
    /// What the sources of backends have found.
    pub discovered: Discovered,
    /// What an operator has set at run time.
    pub overlay: Mutex<Overlay>,
    /// The databases that clients read.
    in_use: Arc<DatabasesInUse>,
    /// Where requests and sessions leave lines in the log.
    pub access_log: AccessLog,
    /// Notices when no backend is left.
    pub(super) outages: Arc<Outages>,
}

fn max_memory(config: &Config) -> usize {
    config.max_memory.unwrap_or_else(|| memory::default_bytes() as usize)
}

fn access_log_settings(config: &Config) -> AccessLogSettings {
    // A delay is there to watch the leases.
    let has_leases = config.log_leases || !config.demo_delay.is_zero();
    AccessLogSettings { is_quiet: config.quiet, has_leases }
}

fn allowed(config: &Config) -> Allowed {
    Allowed { keys: config.allow_keys, scripts: config.allow_scripts }
}

impl Balancer {
    /// Balancer without backends.
    pub fn new(config: Config) -> Arc<Self> {
        let now = Instant::now();
        let live = LiveConfig::new(config);
        let config = live.get();
        let table = ConnectionTable::new(config.slow_start, now);
        let retry_budget = Arc::new(RetryBudget::new(config.max_clients));
        let registry = Arc::new(Registry::default());
        let slow_lane = SlowLane::new(&table, &registry, &live);
        let history = History::new(now);
        let policy = Mutex::new((0, Arc::new(Policy::new(&[], allowed(&config)))));
        let shared = (Arc::clone(&table), Arc::clone(&registry));
        let leases = move || {
            let (table, registry) = &shared;
            let leases = |backend: &Arc<Member>| {
                (Arc::clone(&backend.health.name), table.leases(backend.id))
            };
            registry.snapshot().iter().map(leases).collect()
        };
        let access_log = AccessLog::new(leases, access_log_settings(&config));
        let outages = Outages::new(&table, access_log.states());
        let refusals = RecentRefusals::new(Arc::clone(&table));
        let memory = Arc::new(MemoryBudget::new(max_memory(&config)));
        let logins = Logins::new(&config.users);
        let metrics: Arc<Metrics> = Arc::default();
        let cache = Cache::new(&config, Arc::clone(&metrics));
        drop(config);
        Arc::new(Self {
            config: live,
            subscribers: Subscribers::new(Arc::clone(&memory)),
            memory,
            logins,
            registry,
            refusals,
            reloads: Reloads::default(),
            updates: Mutex::new(0),
            discovered: Discovered::default(),
            overlay: Mutex::default(),
            in_use: Arc::default(),
            table,
            replication: Replication::default(),
            retry_budget,
            slow_lane: Arc::new(slow_lane),
            long_replies: LongReplies::default(),
            poison: Poison::default(),
            client_addresses: Arc::default(),
            cache,
            metrics,
            history,
            began: now,
            began_at: SystemTime::now(),
            phase: AtomicU8::new(Phase::Serving as u8),
            policy,
            scripts: Arc::default(),
            access_log,
            outages,
        })
    }

    /// The configuration as all parts share it.
    pub fn live_config(&self) -> LiveConfig {
        self.config.clone()
    }

    /// The configuration as it is now.
    pub fn config(&self) -> Guard<Arc<Config>> {
        self.config.get()
    }

    /// Takes over another configuration, but for its backends. Clients that are connected keep their own timeouts and
    /// limits.
    pub fn reconfigure(&self, config: Config, now: Instant) {
        self.memory.set_max_bytes(max_memory(&config));
        self.access_log.configure(access_log_settings(&config));
        self.table.set_slow_start(config.slow_start);
        self.logins.replace(&config.users);
        let max_connections = config.backend_connections;
        self.config.replace(config);
        for member in self.backends().known() {
            member.pool.set_max_open(max_connections);
            // The zone may be another.
            self.apply(member.id, &member.settings.effective(), now);
        }
        // Other commands may be allowed.
        self.registry.touch();
        // They may not stay.
        self.wake_subscribers();
    }

    /// Has subscribers, which ask for nothing, look around.
    fn wake_subscribers(&self) {
        self.backends().known().for_each(|member| member.wake_subscribers());
    }

    /// Adds these backends, which count as down until they are checked.
    pub fn add_all<'a>(&self, backends: impl IntoIterator<Item = &'a BackendConfig>) {
        let now = Instant::now();
        backends.into_iter().for_each(|backend| _ = self.add(backend, now));
    }

    /// Adds a backend, which counts as down until it is checked.
    pub fn add(&self, backend: &BackendConfig, now: Instant) -> Arc<Member> {
        self.in_use.note(Databases::of(backend.database()));
        self.registry.add(|id| self.member(id, backend, now))
    }

    fn member(&self, id: BackendId, backend: &BackendConfig, now: Instant) -> Member {
        let config = self.config();
        self.table.add(id);
        let row = TableRow {
            table: Arc::clone(&self.table),
            id,
            name: backend.name().into(),
            outages: Arc::clone(&self.outages),
            log: self.access_log.states(),
        };
        let in_use = Arc::clone(&self.in_use);
        let health = Health::new(backend.name(), Box::new(row), self.config.clone(), in_use, now);
        let supervisor = Arc::new(BackendSupervisor {
            id,
            health: Arc::clone(&health),
            table: Arc::clone(&self.table),
            retry_budget: Arc::clone(&self.retry_budget),
            refusals: Arc::clone(&self.refusals),
            config: self.config.clone(),
            scripts: Arc::clone(&self.scripts),
        });
        let timeouts = Timeouts { supervisor, config: self.config.clone() };
        let (address, metrics) = (backend.address.clone(), Arc::clone(&self.metrics));
        let settings = backend.settings.clone();
        let backend = Backend::new(id, address, timeouts, config.backend_connections, metrics);
        let settings = Settings::new(settings);
        self.apply(id, &settings.effective(), now);
        Member { backend: Arc::new(backend), health, settings }
    }

    /// Removes a backend. It gets no more reads, its sessions move to others between two commands, and its
    /// connections are closed as they become free.
    pub fn remove(&self, id: BackendId, now: Instant) {
        let Some(member) = self.registry.remove(id) else { return };
        self.table.remove(id, now);
        member.health.remove(now);
        member.close_all();
        if let Some(cache) = &self.cache {
            cache.forget(id);
        }
    }

    /// Forgets the removed backends that no session uses any more.
    pub fn forget_drained(&self) {
        self.registry.forget(|id| self.table.knows(id));
    }

    /// The backends as they are now.
    pub fn backends(&self) -> Guard<Arc<Backends>> {
        self.registry.snapshot()
    }

    /// The backend with this identity; a removed one is found as long as a session uses it.
    pub fn backend(&self, id: BackendId) -> Option<Arc<Member>> {
        self.registry.get(id)
    }

    /// Number that changes whenever the backends' commands do.
    pub fn commands_version(&self) -> u64 {
        self.backends().commands_version()
    }

    /// Returns the policy made from all backends' commands, and the version of those.
    pub fn policy(&self) -> (u64, Arc<Policy>) {
        let mut policy = lock(&self.policy);
        let version = self.commands_version();
        if policy.0 != version {
            let backends = self.backends();
            let tables: Vec<_> = backends.iter().filter_map(|backend| backend.commands()).collect();
            let mut new = Policy::new(&tables, allowed(&self.config()));
            new.share_counts(&policy.1);
            new.time_commands(&self.metrics.command_times);
            *policy = (version, Arc::new(new));
        }
        policy.clone()
    }

    /// Returns the profile of a command and, unless it is surely quick, its key.
    ///
    /// # Errors
    /// The reason, if it is refused because it has killed servers.
    pub fn profile(
        &self,
        command: &Command,
        shape: Shape,
    ) -> Result<(ReadProfile, Option<ReadKey>), &'static str> {
        if self.slow_lane.kinds.is_surely_quick(command.arg_count(), shape.is_fast) {
            return Ok((ReadProfile::QUICK, None));
        }
        let key = self.read_key(command, shape);
        let profile = ReadProfile { script: policy::script(command), ..self.profile_of(&key)? };
        Ok((profile, Some(key)))
    }

    /// The key by which a command is known.
    pub fn read_key(&self, command: &Command, shape: Shape) -> ReadKey {
        self.slow_lane.kinds.key(command, shape.key_arg(command), shape.is_fast)
    }

    /// Returns the profile of a read.
    ///
    /// # Errors
    /// The reason, if it is refused because it has killed servers.
    pub fn profile_of(&self, key: &ReadKey) -> Result<ReadProfile, &'static str> {
        let poisoned = self.poison.lookup(key, Instant::now());
        if poisoned == Some(Poisoned::Itself) {
            return Err(
                "this read has killed servers within the last minute: it is not sent again",
            );
        }
        Ok(ReadProfile {
            class: self.slow_lane.kinds.class(key),
            is_fast: key.is_fast,
            has_one_try: poisoned.is_some(),
            script: None,
        })
    }

    /// The tag of a server in the cursors that clients get.
    pub fn cursor_tag(&self, run_id: &str) -> Option<u16> {
        let run_ids = run_ids(&self.backends());
        let index = run_ids.iter().position(|known| known.as_deref() == Some(run_id))?;
        cursor::tags(&run_ids)[index]
    }

    /// The backend whose server has this tag. If it is none of those that have answered before, the others are
    /// asked now.
    pub fn find_server(&self, tag: u16) -> Option<Arc<Member>> {
        let backends = self.backends();
        let find = || {
            let tags = cursor::tags(&run_ids(&backends));
            tags.into_iter().zip(backends.known()).find(|(known, _)| *known == Some(tag))
        };
        let found = find().or_else(|| {
            for backend in backends.iter().filter(|backend| backend.run_id().is_none()) {
                // A backend that can't answer is not the one.
                _ = backend.introduce();
            }
            find()
        });
        found.map(|(_, backend)| Arc::clone(backend))
    }

    /// Enters a phase of the process's end; there is no way back.
    pub fn enter(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::SeqCst);
        if self.has_reached(Phase::Closing) {
            self.wake_subscribers();
        }
    }

    /// Whether the process has reached a phase of its end.
    pub fn has_reached(&self, phase: Phase) -> bool {
        self.phase.load(Ordering::SeqCst) >= phase as u8
    }

    /// The phase that the process has reached.
    pub fn phase(&self) -> Phase {
        let phases = [Phase::Closing, Phase::Draining, Phase::Leaving];
        phases.into_iter().find(|&phase| self.has_reached(phase)).unwrap_or(Phase::Serving)
    }

    /// Whether each HTTP response is the last on its connection.
    pub fn is_draining(&self) -> bool {
        self.has_reached(Phase::Draining)
    }

    /// Whether new clients should be sent here: the process stays, and there is a backend to read from.
    pub fn is_ready(&self) -> bool {
        !self.has_reached(Phase::Leaving) && self.table.can_serve(|_| true)
    }

    /// What the near cache holds, with at most `hottest` of its hottest keys; `None` without a cache.
    pub fn cache_summary(&self, hottest: usize) -> Option<CacheSummary> {
        self.cache.as_ref().map(|cache| cache.summary(hottest))
    }

    /// Reason why a backend is read without the near cache; `None` if it is not, or without a cache.
    pub fn cache_refusal(&self, backend: BackendId) -> Option<String> {
        self.cache.as_ref()?.refusal(backend)
    }

    /// The last changes of backends' states, at most `max`, the newest first, each with the backend's name. Those of
    /// removed backends are among them.
    pub fn changes(&self, max: usize) -> Vec<(Arc<str>, Change)> {
        let backends = self.backends();
        let known = backends.known().flat_map(|member| named_changes(member));
        let mut changes: Vec<_> = known.chain(backends.gone().changes.iter().cloned()).collect();
        changes.sort_by_key(|(_, change)| Reverse(change.at));
        changes.truncate(max);
        changes
    }
}

impl Peers for Balancer {
    fn members(&self) -> Vec<Arc<Member>> {
        self.backends().iter().cloned().collect()
    }

    fn check_settings(&self) -> CheckSettings {
        let (config, asked) = (self.config(), self.replication.asked(Instant::now()));
        let lag = config.lag_bounds();
        CheckSettings {
            interval: config.check_interval,
            timeout: config.check_timeout,
            lag,
            sample_interval: sample_interval(
                lag.time.into_iter().chain(asked),
                lag.bytes.is_some(),
            ),
        }
    }

    fn replication(&self) -> &Replication {
        &self.replication
    }

    fn checked(&self) {
        // Reads that were given up on this server may be over.
        self.slow_lane.backend_checked(Instant::now());
    }

    fn all_checked(&self) {
        self.outages.begin(Instant::now());
    }
}

/// The run ids of all servers, those of removed backends included: a SCAN that is under way there gets its
/// cursor.
fn run_ids(backends: &Backends) -> Vec<Option<Arc<str>>> {
    backends.known().map(|backend| backend.run_id()).collect()
}
