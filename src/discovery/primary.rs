//! `primary://`: a primary, which knows its replicas.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use redis::Value;

use super::peer::{Peer, text};
use super::source::{DiscoveryError, Found, KnownServers, ServiceDiscovery};
use super::topology::{Endpoint, Replica, Topology};
use crate::backend::AnnouncedReplica;
use crate::config::LiveConfig;
use crate::config::address::BackendAddress;
use crate::config::backend::BackendConfig;
use crate::config::rewrite::{Rewrite, rewritten};
use crate::config::source::{ReadFrom, SourceConfig};
use crate::resp::command;

/// Time between two questions.
const INTERVAL: Duration = Duration::from_secs(2);

/// Time that one server may take for its answer.
const ANSWER_TIME: Duration = Duration::from_secs(1);

/// Most servers that are asked one after the other for the primary.
const MAX_ASKED: usize = 16;

/// Number of replication histories of the primary that are remembered. A restart or a promotion begins another.
const MAX_HISTORIES: usize = 8;

/// A primary that is asked for its replicas.
pub(super) struct Primary {
    source: SourceConfig,
    read: ReadFrom,
    config: LiveConfig,
    /// The servers of the last list.
    last: Vec<BackendConfig>,
    /// IDs of the replication histories that the primary has had, the newest last.
    histories: VecDeque<String>,
}

impl Primary {
    pub fn new(source: &SourceConfig, read: ReadFrom, config: LiveConfig) -> Self {
        let source = source.clone();
        Self { source, read, config, last: Vec::new(), histories: VecDeque::new() }
    }

    /// Finds the primary: the configured server, the one that it follows now or, if it does not answer or has no
    /// replicas, one of the others that has.
    fn find(&self, deadline: Instant) -> Result<(BackendAddress, RoleReport), DiscoveryError> {
        let target = &self.source.target;
        let others = self.last.iter().map(|server| server.address.clone());
        let mut to_ask: VecDeque<_> = [target.clone()].into_iter().chain(others).collect();
        let mut asked: Vec<String> = Vec::new();
        let (mut reason, mut lonely) = (None, None);
        while let Some(address) = to_ask.pop_front() {
            if asked.iter().any(|name| name == address.name()) {
                continue;
            }
            if asked.len() == MAX_ASKED || Instant::now() >= deadline {
                break;
            }
            asked.push(address.name().to_owned());
            let replication = match self.ask(&address, deadline) {
                Ok(replication) => replication,
                Err(error) => {
                    reason.get_or_insert(error);
                    continue;
                }
            };
            match &replication.primary {
                Some((host, port)) => to_ask.push_front(target.at(host, *port)),
                // A stand-alone server may have been a replica: it is the primary if others follow it.
                None if !replication.replicas.is_empty() => return Ok((address, replication)),
                None if address == *target => lonely = Some((address, replication)),
                None => {}
            }
        }
        lonely.ok_or_else(|| {
            reason.unwrap_or_else(|| {
                DiscoveryError::Unusable(format!("{} leads to no primary", target.name()))
            })
        })
    }

    /// Asks a server for its role.
    fn ask(
        &self,
        address: &BackendAddress,
        deadline: Instant,
    ) -> Result<RoleReport, DiscoveryError> {
        let deadline = deadline.min(Instant::now() + ANSWER_TIME);
        let mut peer = Peer::connect(address, &self.config, deadline)?;
        let rewrites = &self.config.get().rewrite_addresses;
        let info = command("INFO").arg("replication");
        let replication = match peer.ask(&info, deadline) {
            Ok(info) => RoleReport::from_info(text(&info).unwrap_or_default(), rewrites),
            // Its user may lack the right.
            Err(DiscoveryError::Refused(_)) => {
                RoleReport::from_role(&peer.ask(&command("ROLE"), deadline)?, rewrites)
            }
            Err(error) => return Err(error),
        };
        let name = address.name();
        replication.ok_or_else(|| DiscoveryError::Unusable(format!("{name} does not say its role")))
    }

    /// Keeps replicas that the primary has lost, unless they say themselves that they belong to another: their links
    /// may have been cut for a moment, and the primary may have been restarted.
    fn add_lost(&self, topology: &mut Topology, known: &dyn KnownServers, deadline: Instant) {
        for server in self.last.iter().filter(|server| known.role(server.name()).is_some()) {
            let endpoint = (server.host().to_owned(), server.port());
            let is_it = |other: &Replica| other.endpoint == endpoint;
            if topology.replicas.iter().any(is_it) || topology.primary == endpoint {
                continue;
            }
            let belongs = match self.ask(&server.address, deadline) {
                Ok(own) => own.primary.is_some() && self.histories.contains(&own.history),
                Err(_) => true,
            };
            if belongs {
                topology.replicas.push(Replica { endpoint, is_good: true });
            }
        }
    }

    /// Remembers a history of the primary.
    fn remember(&mut self, history: String) {
        if !history.is_empty() && !self.histories.contains(&history) {
            self.histories.push_back(history);
        }
        if self.histories.len() > MAX_HISTORIES {
            self.histories.pop_front();
        }
    }
}

impl ServiceDiscovery for Primary {
    fn discover(
        &mut self,
        known: &dyn KnownServers,
        deadline: Instant,
    ) -> Result<Found, DiscoveryError> {
        let (address, replication) = self.find(deadline)?;
        self.remember(replication.history);
        let primary = (address.host().to_owned(), address.port());
        let mut topology = Topology { primary, replicas: replication.replicas };
        self.add_lost(&mut topology, known, deadline);
        self.last = topology.servers(&self.source, self.read, known);
        Ok(Found { servers: self.last.clone(), valid_for: INTERVAL })
    }
}

/// What a server says of its replication. Addresses are those at which this machine reaches the others.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct RoleReport {
    /// Its primary; `None` if it is one.
    primary: Option<Endpoint>,
    /// ID of its history; empty where it may not be asked.
    history: String,
    replicas: Vec<Replica>,
}

impl RoleReport {
    /// Reads the replication section of `INFO`.
    fn from_info(info: &str, rewrites: &[Rewrite]) -> Option<Self> {
        let mut replication = Self::default();
        let (mut role, mut host, mut port) = (None, None, None);
        for (name, value) in info.lines().filter_map(|line| line.trim_end().split_once(':')) {
            match name {
                "role" => role = Some(value),
                "master_host" => host = Some(value),
                "master_port" => port = value.parse().ok(),
                "master_replid" => value.clone_into(&mut replication.history),
                // There are fields such as slave_repl_offset, too.
                _ if name.strip_prefix("slave").is_some_and(|rest| rest.parse::<u32>().is_ok()) => {
                    replication.replicas.extend(replica(value, rewrites));
                }
                _ => {}
            }
        }
        match role? {
            "master" => {}
            "slave" => replication.primary = Some(rewritten(rewrites, host?, port?)),
            _ => return None,
        }
        Some(replication)
    }

    /// Reads the reply to `ROLE`, which does not say the state of replicas: only those that are online are in it.
    fn from_role(role: &Value, rewrites: &[Rewrite]) -> Option<Self> {
        let Value::Array(parts) = role else { return None };
        let endpoint = |host: &Value, port: &Value| {
            let port = match port {
                Value::Int(port) => u16::try_from(*port).ok()?,
                port => text(port)?.parse().ok()?,
            };
            Some(rewritten(rewrites, text(host)?, port))
        };
        let mut replication = Self::default();
        match (text(parts.first()?)?, &parts[1..]) {
            ("master", [_, Value::Array(replicas), ..]) => {
                let replicas = replicas.iter().filter_map(|replica| match replica {
                    Value::Array(parts) => endpoint(parts.first()?, parts.get(1)?),
                    _ => None,
                });
                let good = replicas.map(|endpoint| Replica { endpoint, is_good: true });
                replication.replicas = good.collect();
            }
            ("slave", [host, port, ..]) => replication.primary = Some(endpoint(host, port)?),
            _ => return None,
        }
        Some(replication)
    }
}

/// Returns a replica that its primary's `INFO` names.
fn replica(fields: &str, rewrites: &[Rewrite]) -> Option<Replica> {
    let AnnouncedReplica { host, port, state } = AnnouncedReplica::read(fields)?;
    Some(Replica { endpoint: rewritten(rewrites, host, port), is_good: state == "online" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(host: &str, port: u16, is_good: bool) -> Replica {
        Replica { endpoint: (host.to_owned(), port), is_good }
    }

    #[test]
    fn a_role_is_read_from_info() {
        let rewrites = ["10.0.0.3=h3".parse().expect("a rule")];
        let info = "# Replication\r\nrole:master\r\nconnected_slaves:3\r\n\
            slave0:ip=10.0.0.2,port=6379,state=online,offset=14,lag=1\r\n\
            slave1:ip=10.0.0.3,port=6380,state=wait_bgsave,offset=0,lag=0\r\n\
            slave2:ip=10.0.0.4,port=0,state=online\r\nslave3:broken\r\n\
            slave_repl_offset:7\r\nmaster_replid:abc\r\n";
        let replication = RoleReport::from_info(info, &rewrites).expect("a role");
        let replicas = [
            replica("10.0.0.2", 6379, true),
            replica("h3", 6380, false),
            replica("10.0.0.4", 0, true),
        ];
        assert_eq!(replication.primary, None);
        assert_eq!((replication.history.as_str(), &*replication.replicas), ("abc", &replicas[..]));

        let info = "role:slave\r\nmaster_host:10.0.0.3\r\nmaster_port:6379\r\nmaster_replid:x\r\n";
        let replication = RoleReport::from_info(info, &rewrites).expect("a role");
        assert_eq!(replication.primary, Some(("h3".to_owned(), 6379)));
        for wrong in ["", "role:sentinel", "role:slave", "role:slave\r\nmaster_host:x"] {
            assert_eq!(RoleReport::from_info(wrong, &[]), None, "{wrong}");
        }
    }

    #[test]
    fn a_role_is_read_from_role() {
        let value = |text: &str| redis::parse_redis_value(text.as_bytes()).expect("a reply");
        let role =
            "*3\r\n$6\r\nmaster\r\n:9\r\n*2\r\n*3\r\n$1\r\na\r\n$4\r\n6379\r\n$1\r\n9\r\n*0\r\n";
        let replication = RoleReport::from_role(&value(role), &[]).expect("a role");
        assert_eq!(replication.replicas, [replica("a", 6379, true)]);
        let role = "*5\r\n$5\r\nslave\r\n$1\r\na\r\n:6379\r\n$9\r\nconnected\r\n:9\r\n";
        let replication = RoleReport::from_role(&value(role), &[]).expect("a role");
        assert_eq!(replication.primary, Some(("a".to_owned(), 6379)));
        for wrong in ["*0\r\n", "$-1\r\n", "*1\r\n$6\r\nmaster\r\n", "*1\r\n$8\r\nsentinel\r\n"] {
            assert_eq!(RoleReport::from_role(&value(wrong), &[]), None, "{wrong}");
        }
    }
}
