//! How many clients the limits of the system allow: file descriptors and threads.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use log::warn;
use rlimit::Resource;

use crate::config::Config;
use crate::discovery::DESCRIPTORS_OF_A_BACKEND;

/// Descriptors besides those of clients and backends: standard streams, two listeners, what signals
/// and the system's statistics take, the client that is just being accepted, and some to spare.
const OWN_DESCRIPTORS: usize = 16;

/// Fewest connections to a backend with which `lb` serves.
const MIN_CONNECTIONS: usize = 2;

/// Threads besides those of clients and backends: the log, signals, and what rebalances sessions.
const OTHER_THREADS: u64 = 16;

/// Threads for each backend: one checks it, one looks its name up.
const THREADS_OF_A_BACKEND: u64 = 2;

/// Connections to the admin address at a time. They do not count as clients: probes get through when
/// there are too many of those.
const MAX_ADMIN_CLIENTS: usize = 64;

/// One in so many of these is for clients that find no place there: they are turned away, or are probes.
const ADMIN_TURNED_AWAY_PART: usize = 4;

/// Clients over the limit that may wait to be told so.
const TURNED_AWAY_QUEUE: usize = 64;

/// How the file descriptors of this process are shared out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// Clients at a time.
    pub clients: usize,
    /// Connections to each backend.
    pub backend_connections: usize,
    /// Connections to the admin address at a time.
    pub admin_clients: usize,
    /// Clients that wait to be told that they are too many.
    pub turned_away: usize,
}

impl Shares {
    /// Returns the number of places at the admin address, and of clients there that may wait to be turned
    /// away.
    pub fn of_admin_address(&self) -> (usize, usize) {
        let turned_away = self.admin_clients / ADMIN_TURNED_AWAY_PART;
        (self.admin_clients - turned_away, turned_away)
    }

    /// How many descriptors these shares take with so many backends.
    fn descriptors(&self, backends: usize) -> usize {
        let connections = backends * (self.backend_connections + DESCRIPTORS_OF_A_BACKEND);
        self.clients + self.admin_clients + self.turned_away + connections + OWN_DESCRIPTORS
    }

    /// Reduces the shares to what `limit` descriptors suffice for; `None` where that is too little.
    ///
    /// Each client needs one, so there are fewer clients. Where half of the descriptors are not enough
    /// for the pools, those are smaller, too.
    fn within(self, limit: usize, backends: usize) -> Option<Self> {
        if self.descriptors(backends) <= limit {
            return Some(self);
        }
        let own = OWN_DESCRIPTORS + backends * DESCRIPTORS_OF_A_BACKEND;
        let left = limit.checked_sub(own)?;
        let turned_away = self.turned_away.min(left / 8);
        let admin_clients = self.admin_clients.min(left / 8);
        let left = left - turned_away - admin_clients;
        let backend_connections = self.backend_connections.min(left / 2 / backends.max(1));
        let clients = self.clients.min(left - backends * backend_connections);
        let is_enough =
            clients > 0 && backend_connections >= MIN_CONNECTIONS.min(self.backend_connections);
        is_enough.then_some(Self { clients, backend_connections, admin_clients, turned_away })
    }
}

/// Number of servers that a source is expected to find. For each one that it finds, the limit is raised further.
const SERVERS_OF_A_SOURCE: usize = 4;

/// Raises the limits on the number of clients as far as we may.
///
/// Where there are too few file descriptors all the same, there may be fewer clients, and a warning says
/// so: then no client takes a descriptor that a connection to a backend needs.
///
/// # Errors
/// When there are too few to serve anybody.
pub fn raise_limits(config: &mut Config) -> io::Result<Shares> {
    let backends = config.servers().count() + config.sources().count() * SERVERS_OF_A_SOURCE;
    let wanted = Shares {
        clients: config.max_clients,
        backend_connections: config.backend_connections,
        admin_clients: config.admin_listen.map_or(0, |_| MAX_ADMIN_CLIENTS),
        turned_away: TURNED_AWAY_QUEUE,
    };
    let needed = wanted.descriptors(backends);
    let limit = rlimit::increase_nofile_limit(needed as u64).unwrap_or(needed as u64);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let Some(shares) = wanted.within(limit, backends) else {
        return Err(io::Error::other(format!(
            "{limit} open files are too few for {backends} backends: raise the limit to {needed} \
             (ulimit -n, or LimitNOFILE of systemd)"
        )));
    };
    if shares.clients < wanted.clients {
        let pools = match shares.backend_connections == wanted.backend_connections {
            true => String::new(),
            false => format!(
                ", and {} connections to each backend, not --backend-connections {}",
                shares.backend_connections, wanted.backend_connections
            ),
        };
        warn!(
            "the limit of {limit} open files is too low for --max-clients {}: there may be {} \
             clients{pools}; raise it to {needed} (ulimit -n, or LimitNOFILE of systemd)",
            wanted.clients, shares.clients
        );
    }
    config.max_clients = shares.clients;
    config.backend_connections = shares.backend_connections;
    warn_of_threads(shares.clients + shares.admin_clients, backends as u64, shares.clients);
    Ok(shares)
}

/// Warns when there may be fewer threads than clients.
fn warn_of_threads(all_clients: usize, backends: u64, max_clients: usize) {
    let wanted = all_clients as u64 + backends * THREADS_OF_A_BACKEND + OTHER_THREADS;
    for (limit, how) in [
        (raise_thread_limit(wanted), "ulimit -u, or LimitNPROC of systemd"),
        (pids_limit(), "pids.max of the control group, or TasksMax of systemd"),
    ] {
        if let Some(limit) = limit.filter(|limit| *limit < wanted) {
            warn!(
                "the limit of {limit} threads is too low for {max_clients} clients, each of which \
                 takes one: raise it to {wanted} ({how})"
            );
        }
    }
}

/// How many threads the user may have, after that was raised; `None` where the system does not say.
fn raise_thread_limit(wanted: u64) -> Option<u64> {
    let (soft, hard) = Resource::NPROC.get().ok()?;
    let raised = wanted.min(hard);
    match soft < raised && Resource::NPROC.set(raised, hard).is_ok() {
        true => Some(raised),
        false => Some(soft),
    }
}

/// How many threads our control group may have; `None` without a limit, and on systems other than Linux.
fn pids_limit() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let limit = |file: PathBuf| fs::read_to_string(file).ok()?.trim().parse().ok();
    pids_files(&groups).into_iter().filter_map(limit).min()
}

/// The files with the limits of our control group and of the groups around it.
///
/// They are in the only hierarchy of version 2, or in the one for pids of version 1.
fn pids_files(groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let root = match fields.next() {
            Some("") => "/sys/fs/cgroup",
            Some("pids") => "/sys/fs/cgroup/pids",
            _ => continue,
        };
        let group = fields.next().unwrap_or_default();
        let group = Path::new(group.trim_start_matches('/'));
        files.extend(group.ancestors().map(|group| Path::new(root).join(group).join("pids.max")));
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_what_the_connections_to_backends_leave_of_the_descriptors() {
        let wanted = |clients, backend_connections, admin_clients| Shares {
            clients,
            backend_connections,
            admin_clients,
            turned_away: 64,
        };
        let fits = |clients, backend_connections, admin_clients, turned_away| {
            Some(Shares { clients, backend_connections, admin_clients, turned_away })
        };
        for (wanted, limit, backends, expected) in [
            (wanted(4096, 128, 0), 4566, 3, fits(4096, 128, 0, 64)),
            (wanted(4096, 128, 0), 4565, 3, fits(4095, 128, 0, 64)),
            (wanted(4096, 128, 64), 4630, 3, fits(4096, 128, 64, 64)),
            (wanted(4096, 128, 0), 1024, 3, fits(554, 128, 0, 64)),
            (wanted(4096, 128, 64), 1024, 3, fits(490, 128, 64, 64)),
            (wanted(4096, 128, 0), 128, 3, fits(48, 15, 0, 13)),
            (wanted(4096, 128, 0), 64, 3, fits(19, 6, 0, 5)),
            (wanted(4096, 1, 0), 64, 3, fits(34, 1, 0, 5)),
            (wanted(4096, 128, 0), 64, 1, fits(21, 20, 0, 5)),
            (wanted(4096, 128, 0), 36, 3, fits(7, 2, 0, 1)),
            (wanted(4096, 128, 0), 34, 3, None),
            (wanted(4096, 128, 0), 3, 3, None),
        ] {
            let shares = wanted.within(limit, backends);
            assert_eq!(shares, expected, "{limit} descriptors, {backends} backends");
            if let Some(shares) = shares {
                assert!(shares.descriptors(backends) <= limit, "{shares:?}");
            }
        }
    }

    #[test]
    fn the_limits_of_all_groups_around_ours_count() {
        let two = "0::/system.slice/lb.service\n";
        let files = pids_files(two);
        let expected = ["system.slice/lb.service/pids.max", "system.slice/pids.max", "pids.max"];
        assert_eq!(files, expected.map(|file| Path::new("/sys/fs/cgroup").join(file)));
        let one = "9:pids:/a\n3:cpu,cpuacct:/b\n1:name=systemd:/c\n";
        let expected = ["a/pids.max", "pids.max"];
        assert_eq!(
            pids_files(one),
            expected.map(|file| Path::new("/sys/fs/cgroup/pids").join(file))
        );
        assert!(pids_files("nothing").is_empty());
    }
}
