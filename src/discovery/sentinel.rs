//! `sentinel://`: Sentinels, which watch a primary and its replicas.
//!
//! All Sentinels that are known are asked at the same time: those of the configuration, and those that these have named.
//! One of them may be wrong or old, so the majority counts, and then the highest configuration epoch. When none answers, the
//! servers are listened to: each Sentinel announces itself there every two seconds
//! (<https://redis.io/docs/latest/operate/oss_and_stack/management/sentinel/>), even from another address.

use std::collections::HashMap;
use std::thread;
use std::time::{Duration, Instant};

use redis::Value;

use super::peer::{Peer, text};
use super::sentinel_events::{Events, announced};
use super::source::{DiscoveryError, Found, KnownServers, ServiceDiscovery};
use super::topology::{Endpoint, Replica, Topology};
use crate::config::LiveConfig;
use crate::config::address::BackendAddress;
use crate::config::backend::BackendConfig;
use crate::config::rewrite::{Rewrite, rewritten};
use crate::config::source::{MAX_SENTINELS, ReadFrom, SourceConfig};
use crate::resp::{CommandBuilder, command};

/// Time between two questions, while no event is heard.
const INTERVAL: Duration = Duration::from_secs(2);

/// Time that a Sentinel may take for its answers.
const ANSWER_TIME: Duration = Duration::from_secs(1);

/// Time after which the others are asked when the Sentinel whose events are heard has gone.
const AFTER_LOSS: Duration = Duration::from_millis(200);

/// Sentinels of one primary.
pub(super) struct Sentinels {
    source: SourceConfig,
    primary: String,
    read: ReadFrom,
    config: LiveConfig,
    /// Those of the configuration.
    configured: Vec<BackendAddress>,
    /// Those that were named by others.
    learned: Vec<BackendAddress>,
    connections: HashMap<String, Peer>,
    /// The servers of the last list.
    last: Vec<BackendConfig>,
    events: Option<Events>,
}

/// What a Sentinel knows.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answer {
    /// Number of the configuration, which each failover raises.
    epoch: u64,
    topology: Topology,
    /// The other Sentinels.
    sentinels: Vec<Endpoint>,
}

impl Sentinels {
    /// `sentinels` are those of the configuration, `primary` the name by which they know it.
    pub fn new(
        source: &SourceConfig,
        sentinels: &[BackendAddress],
        primary: &str,
        read: ReadFrom,
        config: LiveConfig,
    ) -> Self {
        Self {
            source: source.clone(),
            primary: primary.to_owned(),
            read,
            config,
            configured: sentinels.to_vec(),
            learned: Vec::new(),
            connections: HashMap::new(),
            last: Vec::new(),
            events: None,
        }
    }

    /// Asks all Sentinels at the same time. Returns the answers, or the reason of the first that has none.
    fn ask_all(&mut self, deadline: Instant) -> Result<Vec<Answer>, DiscoveryError> {
        let deadline = deadline.min(Instant::now() + ANSWER_TIME);
        let questions = Questions::new(&self.primary);
        let config = &self.config;
        let known: Vec<_> = self.configured.iter().chain(&self.learned).cloned().collect();
        let mut connections = std::mem::take(&mut self.connections);
        let results: Vec<_> = thread::scope(|scope| {
            let ask = |address: BackendAddress| {
                let connection = connections.remove(address.name());
                let questions = &questions;
                let work = move || questions.ask(connection, &address, config, deadline);
                thread::Builder::new().name("sentinel".to_owned()).spawn_scoped(scope, work)
            };
            let threads: Vec<_> = known.iter().cloned().map(ask).collect();
            let join = |thread: std::io::Result<thread::ScopedJoinHandle<'_, _>>| match thread {
                Ok(thread) => thread.join().unwrap_or_else(|_| {
                    Err(DiscoveryError::Unusable("an error of ours: see above".to_owned()))
                }),
                Err(error) => Err(error.into()),
            };
            threads.into_iter().map(join).collect()
        });
        let (mut answers, mut reason) = (Vec::new(), None);
        for (address, result) in known.iter().zip(results) {
            match result {
                Ok((connection, answer)) => {
                    self.connections.insert(address.name().to_owned(), connection);
                    answers.push(answer);
                }
                Err(error) => {
                    reason.get_or_insert_with(|| error.with_name(address.name()));
                }
            }
        }
        match answers.is_empty() {
            true => Err(reason.unwrap_or(DiscoveryError::Empty)),
            false => Ok(answers),
        }
    }

    /// Takes note of the Sentinels that others have named.
    fn learn(&mut self, named: impl IntoIterator<Item = Endpoint>) {
        let Some(login) = self.configured.first().cloned() else { return };
        // A Sentinel does not name itself.
        self.learned.retain(|address| self.connections.contains_key(address.name()));
        for (host, port) in named {
            let address = login.at(&host, port);
            let is_known = self.configured.contains(&address) || self.learned.contains(&address);
            if !is_known && self.configured.len() + self.learned.len() < MAX_SENTINELS {
                self.learned.push(address);
            }
        }
    }

    /// Listens to the servers of the last list for Sentinels that announce themselves. Returns whether there are any.
    fn learn_from_servers(&mut self, known: &dyn KnownServers, deadline: Instant) -> bool {
        let config = &self.config;
        let mut answering = self.last.iter().filter(|server| known.role(server.name()).is_some());
        let heard = answering
            .find_map(|server| announced(&server.address, &self.primary, config, deadline).ok());
        let heard = heard.unwrap_or_default();
        let is_any = !heard.is_empty();
        self.learn(heard);
        is_any
    }

    /// Hears events of a Sentinel that answers.
    fn hear_events(&mut self, deadline: Instant) {
        if self.events.is_some() {
            return;
        }
        let all = self.configured.iter().chain(&self.learned);
        let mut answering = all.filter(|address| self.connections.contains_key(address.name()));
        // Without events, changes are found a little later.
        self.events =
            answering.find_map(|address| Events::hear(address, &self.config, deadline).ok());
    }
}

impl ServiceDiscovery for Sentinels {
    fn discover(
        &mut self,
        known: &dyn KnownServers,
        deadline: Instant,
    ) -> Result<Found, DiscoveryError> {
        let answers = match self.ask_all(deadline) {
            Ok(answers) => answers,
            Err(error) => {
                self.events = None;
                if !self.learn_from_servers(known, deadline) {
                    return Err(error);
                }
                self.ask_all(Instant::now() + ANSWER_TIME)?
            }
        };
        let last: Vec<_> =
            self.last.iter().map(|one| (one.host().to_owned(), one.port())).collect();
        let answer = agreed(&answers, &last, self.configured.len() + self.learned.len())?;
        self.last = answer.topology.servers(&self.source, self.read, known);
        self.learn(answer.sentinels);
        self.hear_events(deadline);
        Ok(Found { servers: self.last.clone(), valid_for: INTERVAL })
    }

    fn wait(&mut self, time: Duration) {
        let deadline = Instant::now() + time;
        if let Some(events) = &mut self.events {
            match events.wait_for_change(&self.primary, deadline) {
                Ok(()) => return,
                Err(_) => {
                    self.events = None;
                    return thread::sleep(time.min(AFTER_LOSS));
                }
            }
        }
        thread::sleep(time);
    }
}

/// Returns the newest answer about the primary that most Sentinels name. Where there is no majority, it is the newest of
/// those that they could have given a while ago or soon: its primary is theirs, or one of their replicas. A primary that
/// is none of the `last` servers needs half of all `asked` Sentinels, and at least two if there are two. What the others
/// add to the answer that agree with it is in it: one that has just started may not know all replicas yet.
fn agreed(answers: &[Answer], last: &[Endpoint], asked: usize) -> Result<Answer, DiscoveryError> {
    let backers = |answer: &Answer| {
        let agrees = |other: &&Answer| other.topology.primary == answer.topology.primary;
        answers.iter().filter(agrees).count()
    };
    // Of equals the first, so that nothing changes from one round to the next.
    let most = answers.iter().rev().max_by_key(|answer| (backers(answer), answer.epoch));
    let most = most.ok_or(DiscoveryError::Empty)?;
    let has_majority = backers(most) * 2 > answers.len();
    let counts = |answer: &&Answer| match has_majority {
        true => answer.topology.primary == most.topology.primary,
        false => most.topology.has(&answer.topology.primary),
    };
    let newest = answers.iter().rev().filter(counts);
    let newest = newest.max_by_key(|answer| (answer.epoch, backers(answer)));
    let mut agreed = newest.unwrap_or(most).clone();
    let primary = &agreed.topology.primary;
    let are_enough = backers(most) * 2 >= asked && backers(most) >= asked.min(2);
    if !last.is_empty() && !last.contains(primary) && !are_enough {
        let (host, port) = primary;
        let count = backers(most);
        return Err(DiscoveryError::Unusable(format!(
            "{host}:{port} is a primary that was unknown, and {count} of {asked} Sentinels name it"
        )));
    }
    for other in answers.iter().filter(|other| other.topology.primary == agreed.topology.primary) {
        for replica in &other.topology.replicas {
            let replicas = &mut agreed.topology.replicas;
            match replicas.iter_mut().find(|known| known.endpoint == replica.endpoint) {
                Some(known) => known.is_good |= replica.is_good,
                None => replicas.push(replica.clone()),
            }
        }
        for sentinel in &other.sentinels {
            if !agreed.sentinels.contains(sentinel) {
                agreed.sentinels.push(sentinel.clone());
            }
        }
    }
    Ok(agreed)
}

/// The questions to a Sentinel.
struct Questions {
    primary: CommandBuilder,
    replicas: CommandBuilder,
    /// As Redis before 5 calls them.
    slaves: CommandBuilder,
    sentinels: CommandBuilder,
}

impl Questions {
    fn new(name: &str) -> Self {
        let about = |what: &str| command("SENTINEL").arg(what).arg(name);
        Self {
            primary: about("MASTER"),
            replicas: about("REPLICAS"),
            slaves: about("SLAVES"),
            sentinels: about("SENTINELS"),
        }
    }

    /// Asks a Sentinel, over this connection if it is still good.
    fn ask(
        &self,
        connection: Option<Peer>,
        address: &BackendAddress,
        config: &LiveConfig,
        deadline: Instant,
    ) -> Result<(Peer, Answer), DiscoveryError> {
        let rewrites = &config.get().rewrite_addresses;
        if let Some(mut peer) = connection
            && let Ok(answer) = self.ask_on(&mut peer, rewrites, deadline)
        {
            return Ok((peer, answer));
        }
        let mut peer = Peer::connect(address, config, deadline)?;
        let answer = self.ask_on(&mut peer, rewrites, deadline)?;
        Ok((peer, answer))
    }

    fn ask_on(
        &self,
        peer: &mut Peer,
        rewrites: &[Rewrite],
        deadline: Instant,
    ) -> Result<Answer, DiscoveryError> {
        let unusable =
            || DiscoveryError::Unusable("it does not say where the primary is".to_owned());
        let primary = peer.ask(&self.primary, deadline)?;
        let primary = Fields::of(&primary).ok_or_else(unusable)?;
        let endpoint = primary.endpoint(rewrites).ok_or_else(unusable)?;
        let replicas = match peer.ask(&self.replicas, deadline) {
            Err(DiscoveryError::Refused(_)) => peer.ask(&self.slaves, deadline)?,
            replicas => replicas?,
        };
        let sentinels = peer.ask(&self.sentinels, deadline)?;
        let replica = |fields: Fields<'_>| {
            let endpoint = fields.endpoint(rewrites)?;
            Some(Replica { endpoint, is_good: fields.is_good_replica() })
        };
        let sentinel = |fields: Fields<'_>| {
            fields.endpoint(rewrites).filter(|_| !fields.is_flagged(&["s_down", "disconnected"]))
        };
        Ok(Answer {
            epoch: primary.get("config-epoch").and_then(|epoch| epoch.parse().ok()).unwrap_or(0),
            topology: Topology {
                primary: endpoint,
                replicas: list(&replicas).filter_map(replica).collect(),
            },
            sentinels: list(&sentinels).filter_map(sentinel).collect(),
        })
    }
}

/// An instance as a Sentinel describes it: names and values in turn.
struct Fields<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Fields<'a> {
    fn of(value: &'a Value) -> Option<Self> {
        let pair = |name: &'a Value, value: &'a Value| Some((text(name)?, text(value)?));
        match value {
            Value::Array(parts) => {
                let pairs = parts.chunks_exact(2).filter_map(|parts| pair(&parts[0], &parts[1]));
                Some(Self(pairs.collect()))
            }
            Value::Map(pairs) => {
                let pairs = pairs.iter().filter_map(|(name, value)| pair(name, value));
                Some(Self(pairs.collect()))
            }
            _ => None,
        }
    }

    fn get(&self, wanted: &str) -> Option<&'a str> {
        self.0.iter().find_map(|(name, value)| (*name == wanted).then_some(*value))
    }

    fn endpoint(&self, rewrites: &[Rewrite]) -> Option<Endpoint> {
        Some(rewritten(rewrites, self.get("ip")?, self.get("port")?.parse().ok()?))
    }

    fn is_flagged(&self, flags: &[&str]) -> bool {
        self.get("flags").unwrap_or_default().split(',').any(|flag| flags.contains(&flag))
    }

    /// Whether a replica can be reached and has its data, as far as the Sentinel knows.
    fn is_good_replica(&self) -> bool {
        !self.is_flagged(&["s_down", "o_down", "disconnected"])
            && self.get("master-link-status").is_none_or(|status| status == "ok")
            && self.get("role-reported").is_none_or(|role| role == "slave")
    }
}

fn list(value: &Value) -> impl Iterator<Item = Fields<'_>> {
    let parts = match value {
        Value::Array(parts) => &parts[..],
        _ => &[],
    };
    parts.iter().filter_map(Fields::of)
}

#[cfg(test)]
#[path = "sentinel_tests.rs"]
mod tests;
