//! A primary and its replicas, and which of them are read from.

use super::source::KnownServers;
use crate::config::backend::BackendConfig;
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
    /// which know better whether it can be read from. One that has announced no port yet is left out.
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
            if endpoint.0.is_empty() || endpoint.1 == 0 {
                continue;
            }
            let replica = server(endpoint);
            let is_listed = servers.iter().any(|other| other.name() == replica.name());
            if !is_listed && (*is_good || known.answers(replica.name())) {
                servers.push(replica);
            }
        }
        servers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    struct Answering(&'static [&'static str]);

    impl KnownServers for Answering {
        fn answers(&self, name: &str) -> bool {
            self.0.contains(&name)
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
        let servers = topology.servers(source, read, &Answering(&["10.0.0.3:2"]));
        let text = |server: &BackendConfig| format!("{} {}", server.name(), server.settings);
        servers.iter().map(text).collect()
    }

    #[test]
    fn replicas_are_listed_with_their_primary_as_it_is_to_be_read() {
        let replicas = vec![
            replica("10.0.0.2", 1, true),
            replica("10.0.0.3", 1, false),
            replica("10.0.0.3", 2, false),
            replica("10.0.0.2", 1, true),
            replica("10.0.0.4", 0, true),
            replica("", 6379, true),
        ];
        let topology = Topology { primary: ("db".to_owned(), 1), replicas };
        let url = "primary://db:1?weight=2";
        let names = |first: &str, read| {
            let expected = [first, "10.0.0.2:1 weight 2", "10.0.0.3:2 weight 2"];
            assert_eq!(listed(&topology, url, read), expected);
        };
        names("db:1 weight 2", ReadFrom::All);
        names("db:1 weight 2, backup", ReadFrom::PrimaryLast);
        names("db:1 weight 2, never read from", ReadFrom::Replicas);
        let alone = Topology { replicas: Vec::new(), ..topology };
        assert_eq!(listed(&alone, "primary://other:1", ReadFrom::All), ["db:1 weight 1"]);
    }
}
