//! Which nameservers are asked, and for which names: `--resolver` and `/etc/resolv.conf`.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::config::{MAX_NAMESERVERS, NAMESERVER_PORT};

/// Where the system says which nameservers to ask.
const FILE: &str = "/etc/resolv.conf";

/// Most domains in which a name is looked for. Kubernetes allows 32.
const MAX_SEARCH: usize = 32;

/// Most dots that `ndots` may ask for, as in glibc (`RES_MAXNDOTS`).
const MAX_NDOTS: usize = 15;

/// Whom to ask, and for which names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ResolverSettings {
    /// Nameservers, in the order in which they are asked: at least one.
    pub nameservers: Vec<SocketAddr>,
    /// Domains in which a name is looked for.
    search: Vec<String>,
    /// A name with so many dots is looked for as it is first.
    ndots: usize,
}

impl ResolverSettings {
    /// Reads what counts now. Without the file, and without a nameserver in it, there is one on this machine, as for all
    /// programs.
    pub fn read(resolvers: &[SocketAddr]) -> Self {
        let mut settings = Self::parse(&fs::read_to_string(FILE).unwrap_or_default());
        if !resolvers.is_empty() {
            settings.nameservers = resolvers.to_vec();
        }
        if settings.nameservers.is_empty() {
            settings.nameservers.push((Ipv4Addr::LOCALHOST, NAMESERVER_PORT).into());
        }
        settings
    }

    /// Reads the text of `resolv.conf`. What it does not understand counts for nothing, as in glibc.
    fn parse(text: &str) -> Self {
        let mut settings = Self { nameservers: Vec::new(), search: Vec::new(), ndots: 1 };
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let address = words.next().and_then(|text| text.parse::<IpAddr>().ok());
                    let has_room = settings.nameservers.len() < MAX_NAMESERVERS;
                    let address = address.filter(|_| has_room);
                    settings
                        .nameservers
                        .extend(address.map(|ip| SocketAddr::new(ip, NAMESERVER_PORT)));
                }
                // The last one counts.
                Some("search" | "domain") => {
                    settings.search = words.take(MAX_SEARCH).map(without_end).collect();
                }
                Some("options") => {
                    let mut ndots =
                        words.filter_map(|word| word.strip_prefix("ndots:")?.parse().ok());
                    settings.ndots = ndots.next_back().unwrap_or(settings.ndots).min(MAX_NDOTS);
                }
                _ => {}
            }
        }
        settings.search.retain(|domain| !domain.is_empty());
        settings
    }

    /// Returns the whole names for which a name may stand, in the order in which they are looked for: the first that has
    /// records counts. A name that ends with a dot is whole.
    pub fn candidates(&self, name: &str) -> Vec<String> {
        let whole = without_end(name);
        if name.ends_with('.') {
            return vec![whole];
        }
        let mut candidates: Vec<String> =
            self.search.iter().map(|domain| format!("{whole}.{domain}")).collect();
        let is_first = name.matches('.').count() >= self.ndots;
        candidates.insert(if is_first { 0 } else { candidates.len() }, whole);
        candidates
    }
}

fn without_end(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    const IN_A_POD: &str = "
# made by kubelet
search prod.svc.cluster.local svc.cluster.local cluster.local.
nameserver 10.96.0.10
nameserver fe80::1%eth0
; another
nameserver 2001:db8::53
options ndots:5 edns0
";

    #[test]
    fn nameservers_search_and_ndots_are_taken_and_the_rest_is_not() {
        let settings = ResolverSettings::parse(IN_A_POD);
        let nameservers =
            ["10.96.0.10:53", "[2001:db8::53]:53"].map(|text| text.parse().expect(text));
        assert_eq!(settings.nameservers, nameservers);
        let more = "domain a.example\nsearch\noptions ndots:99\n".to_owned()
            + &"nameserver 10.0.0.1\n".repeat(5);
        let settings = ResolverSettings::parse(&more);
        assert_eq!((settings.nameservers.len(), settings.ndots), (3, 15));
        assert_eq!(settings.candidates("a"), ["a"]);
    }

    #[test]
    fn names_are_looked_for_as_the_system_does() {
        let pod = ResolverSettings::parse(IN_A_POD);
        for (name, candidates) in [
            ("redis.", &["redis"][..]),
            (
                "Redis",
                &[
                    "redis.prod.svc.cluster.local",
                    "redis.svc.cluster.local",
                    "redis.cluster.local",
                    "redis",
                ],
            ),
            (
                "_redis._tcp.redis.prod.svc.x",
                &[
                    "_redis._tcp.redis.prod.svc.x",
                    "_redis._tcp.redis.prod.svc.x.prod.svc.cluster.local",
                    "_redis._tcp.redis.prod.svc.x.svc.cluster.local",
                    "_redis._tcp.redis.prod.svc.x.cluster.local",
                ],
            ),
        ] {
            assert_eq!(pod.candidates(name), candidates, "{name}");
        }
        let plain = ResolverSettings::parse("search a.example");
        assert_eq!(plain.candidates("b.example"), ["b.example", "b.example.a.example"]);
        assert_eq!(plain.candidates("b"), ["b.a.example", "b"]);
        assert_eq!(ResolverSettings::parse("").candidates("b"), ["b"]);
    }
}
