//! `dns://` and `dns+srv://`: the records of a name are the servers.
//!
//! `settings.rs` says whom to ask and for which whole names, `message.rs` turns questions into bytes and bytes into
//! records, `exchange.rs` asks one nameserver, `resolver.rs` one after the other. `addresses.rs` joins IPv4 and IPv6,
//! and `services.rs` says what priorities and weights mean.

mod addresses;
mod exchange;
mod message;
mod resolver;
mod services;
mod settings;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use self::addresses::{Addresses, KnownAddresses};
use self::message::{Absence, RecordType, Records};
use self::resolver::{LookupError, Resolver};
use self::settings::ResolverSettings;
use super::source::{DiscoveryError, Found, KnownServers, ServiceDiscovery, is_usable};
use crate::config::LiveConfig;
use crate::config::backend::BackendConfig;
use crate::config::source::{SourceConfig, SourceKind};

/// Shortest time between two questions, whatever the time to live: 0 is usual for records that change often, and asking
/// once a second is no load for a nameserver.
const MIN_TIME_TO_LIVE: Duration = Duration::from_secs(1);

/// Longest time for which an answer counts, whatever the time to live, so that a server that has gone is noticed. It is
/// the usual time to live in Kubernetes.
const MAX_TIME_TO_LIVE: Duration = Duration::from_secs(30);

/// Most servers that one name may lead to: each has threads and connections of its own. More is taken for a mistake.
const MAX_SERVERS: usize = 1000;

/// A name in DNS.
pub(super) struct Dns {
    source: SourceConfig,
    config: LiveConfig,
    resolver: Resolver,
    known: KnownAddresses,
}

impl Dns {
    /// The name that a source has, asked for as the configuration says at the time.
    pub fn new(source: &SourceConfig, config: LiveConfig) -> Self {
        let source = source.clone();
        let resolver = Resolver::new(ResolverSettings::read(&config.get().resolvers));
        Self { source, config, resolver, known: KnownAddresses::default() }
    }

    /// Finds the servers of `dns://`: each address of the name.
    fn find_addresses(&mut self, deadline: Instant) -> Result<Found, DiscoveryError> {
        let (host, port) = (self.source.target.host().to_owned(), self.source.target.port());
        let Addresses { all, time_to_live } = match host.parse::<IpAddr>() {
            Ok(ip) => Addresses { all: vec![ip], time_to_live: MAX_TIME_TO_LIVE },
            Err(_) => self.of_first_candidate(&host, |dns, name| {
                dns.known.look_up(&mut dns.resolver, name, deadline)
            })?,
        };
        let server = |ip: IpAddr| self.source.server_named(&ip.to_string(), port, &host);
        found(usable(all)?.into_iter().map(server).collect(), time_to_live)
    }

    /// Finds the servers of `dns+srv://`: each address of each record's target.
    fn find_services(&mut self, deadline: Instant) -> Result<Found, DiscoveryError> {
        let host = self.source.target.host().to_owned();
        let half = deadline.saturating_duration_since(Instant::now()) / 2;
        let records = self.of_first_candidate(&host, |dns, name| {
            let deadline = deadline.min(Instant::now() + half);
            dns.resolver.look_up(name, RecordType::Srv, deadline)
        })?;
        let Records { services, additional, time_to_live, .. } = records;
        let services = services::shares(services);
        if services.len() > MAX_SERVERS {
            return Err(too_many(services.len()));
        }
        let mut targets: Vec<&str> = services.iter().map(|share| share.target.as_str()).collect();
        targets.sort_unstable();
        targets.dedup();
        let of_targets = self.look_up_targets(&targets, &additional, deadline);
        let mut servers: Vec<BackendConfig> = Vec::new();
        for share in &services {
            for ip in usable(self.known.get(&share.target))? {
                let (host, name) = (ip.to_string(), share.target.trim_end_matches('.'));
                let mut server = self.source.server_named(&host, share.port, name);
                server.settings.weight = share.weight;
                server.settings.is_backup |= share.is_backup;
                // Of two records, the one with the better priority counts.
                if !servers.iter().any(|other| other.name() == server.name()) {
                    servers.push(server);
                }
            }
        }
        match of_targets {
            Err(reason) if servers.is_empty() => Err(DiscoveryError::NoAnswer(reason)),
            of_targets => found(servers, time_to_live.min(of_targets.unwrap_or(MIN_TIME_TO_LIVE))),
        }
    }

    /// Looks the targets of SRV records up, but for those whose addresses came along. Each may take an equal part of the
    /// time. A target that can't be looked up keeps the addresses that it had. Returns how long all are good.
    ///
    /// # Errors
    /// One can't be looked up.
    fn look_up_targets(
        &mut self,
        targets: &[&str],
        additional: &[(String, IpAddr)],
        deadline: Instant,
    ) -> Result<Duration, String> {
        self.known.retain(|name| targets.contains(&name));
        let mut result = Ok(MAX_TIME_TO_LIVE);
        for (target, left) in targets.iter().zip((1..=targets.len()).rev()) {
            let came_along = additional.iter().filter(|(name, _)| name == target);
            let came_along: Vec<IpAddr> = came_along.map(|(_, ip)| *ip).collect();
            if !came_along.is_empty() {
                self.known.set(target, &came_along);
                continue;
            }
            let now = Instant::now();
            let by = now + deadline.saturating_duration_since(now).div_f64(left as f64);
            match self.known.look_up(&mut self.resolver, target, by) {
                Ok(addresses) => {
                    result = result.map(|time: Duration| time.min(addresses.time_to_live));
                }
                Err(LookupError::Absent(_)) => self.known.set(target, &[]),
                Err(LookupError::Failed(reason)) => {
                    self.known.note_failure(target, &reason);
                    result = Err(format!("{target}: {reason}"));
                }
            }
        }
        result
    }

    /// Looks up the names for which a name may stand, in their order, until one has records. One that can't be looked up
    /// ends the search: a later one may be another service.
    fn of_first_candidate<T>(
        &mut self,
        host: &str,
        mut look_up: impl FnMut(&mut Self, &str) -> Result<T, LookupError>,
    ) -> Result<T, DiscoveryError> {
        let candidates = self.resolver.candidates(host);
        let mut exists = None;
        for name in &candidates {
            match look_up(self, name) {
                Ok(found) => return Ok(found),
                Err(LookupError::Failed(reason)) => {
                    return Err(DiscoveryError::NoAnswer(format!("{name}: {reason}")));
                }
                Err(LookupError::Absent(Absence::NoRecords)) => exists = exists.or(Some(name)),
                Err(LookupError::Absent(Absence::NoSuchName)) => {}
            }
        }
        Err(DiscoveryError::Unusable(match (exists, &self.source.kind) {
            (Some(name), SourceKind::DnsSrv) => format!("{name} has no SRV records"),
            (Some(name), _) => format!("{name} has neither A nor AAAA records"),
            (None, _) => format!("no such name (NXDOMAIN): {}", candidates.join(", ")),
        }))
    }
}

impl ServiceDiscovery for Dns {
    fn discover(
        &mut self,
        _known: &dyn KnownServers,
        deadline: Instant,
    ) -> Result<Found, DiscoveryError> {
        self.resolver.configure(ResolverSettings::read(&self.config.get().resolvers));
        match self.source.kind {
            SourceKind::DnsSrv => self.find_services(deadline),
            _ => self.find_addresses(deadline),
        }
    }
}

/// Returns the addresses where a server can be, in an order that stays, each once. A filter of names answers 0.0.0.0 for
/// what it hides, which would be a server of this machine.
fn usable(addresses: Vec<IpAddr>) -> Result<Vec<IpAddr>, DiscoveryError> {
    let mut usable: Vec<IpAddr> = addresses.iter().map(IpAddr::to_canonical).collect();
    if let Some(ip) = usable.iter().find(|ip| !is_usable(**ip)) {
        return Err(DiscoveryError::Unusable(format!("the answer has {ip}, where no server is")));
    }
    usable.sort_unstable();
    usable.dedup();
    Ok(usable)
}

fn found(servers: Vec<BackendConfig>, time_to_live: Duration) -> Result<Found, DiscoveryError> {
    if servers.len() > MAX_SERVERS {
        return Err(too_many(servers.len()));
    }
    let valid_for = time_to_live.clamp(MIN_TIME_TO_LIVE, MAX_TIME_TO_LIVE);
    Ok(Found { servers, valid_for })
}

fn too_many(number: usize) -> DiscoveryError {
    DiscoveryError::Unusable(format!(
        "the answer has {number} servers; more than {MAX_SERVERS} are taken for a mistake"
    ))
}

#[cfg(test)]
mod tests;
