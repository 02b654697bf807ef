//! A primary and its replicas, and which of them are read from.

use super::source::{KnownServers, Role, is_usable};
use crate::config::backend::BackendConfig;
use crate::config::rewrite::is_host;
use crate::config::source::{ReadFrom, SourceConfig};

/// Most replicas of one primary: more come from an answer that is wrong.
const MAX_REPLICAS: usize = 1000;

/// Host and port at which this machine reaches a server.
pub(super) type Endpoint = (String, u16);

/// A primary and its replicas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Topology {
    pub primary: Endpoint,
    pub replicas: Vec<Replica>,
}

/// A replica, as its primary or a Sentinel knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Replica {
    pub endpoint: Endpoint,
    /// Whether it is there and has its data, as far as the other side knows.
    pub is_good: bool,
}

impl Topology {
    /// Returns whether this is the primary or one of the replicas.
    pub fn has(&self, endpoint: &Endpoint) -> bool {
        self.primary == *endpoint
            || self.replicas.iter().any(|replica| replica.endpoint == *endpoint)
    }

    /// Returns the servers, with how much is read from each.
    ///
    /// A replica that is not good joins when it is. One that has joined stays for as long as it answers our own checks,
    /// which know better whether it can be read from; but it is not read from while it calls itself a primary, as one
    /// does that was replaced and has not heard of it. One that has announced no port yet is left out.
    pub fn servers(
        &self,
        source: &SourceConfig,
        read: ReadFrom,
        known: &dyn KnownServers,
    ) -> Vec<BackendConfig> {
        let server = |(host, port): &Endpoint| source.server(host, *port);
        let mut primary = server(&self.primary);
        match read {
            ReadFrom::All => {}
            ReadFrom::PrimaryLast => primary.settings.is_backup = true,
            ReadFrom::Replicas => primary.settings.is_never_read = true,
        }
        let mut servers = vec![primary];
        for Replica { endpoint, is_good } in self.replicas.iter().take(MAX_REPLICAS) {
            if !is_reachable(endpoint) {
                continue;
            }
            let mut replica = server(endpoint);
            if servers.iter().any(|other| other.name() == replica.name()) {
                continue;
            }
            match known.role(replica.name()) {
                Some(Role::Primary) => replica.settings.is_never_read = true,
                Some(Role::Replica) => {}
                None if *is_good => {}
                None => continue,
            }
            servers.push(replica);
        }
        // Whatever the order in which they are named.
        servers[1..].sort_by(|one, other| one.name().cmp(other.name()));
        servers
    }
}

/// Whether a server can be there.
fn is_reachable((host, port): &Endpoint) -> bool {
    *port > 0 && is_host(host) && host.parse().map_or(true, is_usable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    struct Known;

    impl KnownServers for Known {
        fn role(&self, name: &str) -> Option<Role> {
            match name {
                "10.0.0.3:2" => Some(Role::Replica),
                "10.0.0.3:3" => Some(Role::Primary),
                _ => None,
            }
        }
    }

    fn replica(host: &str, port: u16, is_good: bool) -> Replica {
        Replica { endpoint: (host.to_owned(), port), is_good }
    }

    /// Each server with what is special about it.
    fn listed(topology: &Topology, url: &str, read: ReadFrom) -> Vec<String> {
        let config = Config::from_arguments(["lb".to_owned(), format!("--backend={url}")]);
        let config = config.expect("right");
        let source = config.sources().next().expect("one");
        let servers = topology.servers(source, read, &Known);
        let text = |server: &BackendConfig| format!("{} {}", server.name(), server.settings);
        servers.iter().map(text).collect()
    }

    #[test]
    fn replicas_are_listed_with_their_primary_as_it_is_to_be_read() {
        let replicas = vec![
            replica("10.0.0.2", 1, true),
            replica("10.0.0.3", 1, false),
            replica("10.0.0.3", 2, false),
            replica("10.0.0.3", 3, false),
            replica("10.0.0.2", 1, true),
            replica("10.0.0.4", 0, true),
            replica("", 6379, true),
            replica("0.0.0.0", 6379, true),
            replica("a\nb", 6379, true),
        ];
        let topology = Topology { primary: ("db".to_owned(), 1), replicas };
        let url = "primary://db:1?weight=2";
        let names = |first: &str, read| {
            let replaced = "10.0.0.3:3 weight 2, never read from";
            let expected = [first, "10.0.0.2:1 weight 2", "10.0.0.3:2 weight 2", replaced];
            assert_eq!(listed(&topology, url, read), expected);
        };
        names("db:1 weight 2", ReadFrom::All);
        names("db:1 weight 2, backup", ReadFrom::PrimaryLast);
        names("db:1 weight 2, never read from", ReadFrom::Replicas);
        let alone = Topology { replicas: Vec::new(), ..topology };
        assert_eq!(listed(&alone, "primary://other:1", ReadFrom::All), ["db:1 weight 1"]);
    }
}
