//! What `lb` says at its start: what it serves and from where, and what will hurt.

use std::env;
use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Instant;

use console::Style;
use log::warn;
use rlimit::Resource;

use crate::backend::BackendError;
use crate::balance::Balancer;
use crate::config::Config;
use crate::doctor::{DATABASES_DIFFER, SAME_SERVER, databases_differ, doubled};
use crate::health::{BackendState, Member};
use crate::logging;
use crate::server::listener::{MAX_ADMIN_CLIENTS, TURNED_AWAY_QUEUE};
use crate::text::table::{Alignment, table};

/// Descriptors beside those of clients and backends: standard streams, two listeners, what signals
/// and the system's statistics take, the client that is just being accepted, and some to spare.
const OWN_DESCRIPTORS: usize = 16;

/// Descriptors for each backend beside the connections in its pool: the one that checks, and one with
/// which its name is looked up.
const DESCRIPTORS_OF_A_BACKEND: usize = 2;

/// With fewer connections to a backend it is not served.
const MIN_CONNECTIONS: usize = 2;

/// Threads beside those of clients and backends: the log, signals, and what levels sessions.
const OTHER_THREADS: u64 = 16;

/// Each backend is checked by a thread, and has another that looks its name up.
const THREADS_OF_A_BACKEND: u64 = 2;

/// Prints what is served, from where, and what can be tried. Where it listens is the first line.
pub fn introduce(balancer: &Balancer, was_passed_on: bool) {
    let address = balancer.config.listen;
    let mut text = format!("redis-lb {} listens on http://{address}/\n", env!("CARGO_PKG_VERSION"));
    if was_passed_on {
        text += "  on the socket that was passed on to it; not on --listen\n";
    }
    let head = [("reads from", Alignment::Left), ("state", Alignment::Left), ("", Alignment::Left)];
    let rows: Vec<Vec<String>> = balancer.backends().iter().map(|backend| row(backend)).collect();
    table(&head, &rows).lines().for_each(|line| text += &format!("  {line}\n"));
    text += &to_try(address, balancer.config.status_address());
    // Nobody may be reading: that is no reason not to serve.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn row(backend: &Member) -> Vec<String> {
    let summary = backend.health.summary(Instant::now());
    let style = match summary.state {
        BackendState::Up => Style::new().green(),
        BackendState::Suspect | BackendState::Syncing => Style::new().yellow(),
        BackendState::Down => Style::new().red(),
    };
    let role = summary.role().unwrap_or("primary");
    let what = match (summary.state, summary.keys) {
        (BackendState::Up, Some(keys)) => format!("{role}, {keys} keys"),
        (BackendState::Up, None) => "does not say how many keys it has".to_owned(),
        _ => logging::escaped(&summary.reason),
    };
    vec![backend.name().to_owned(), style.apply_to(summary.state).to_string(), what]
}

/// What can be typed, on this machine.
fn to_try(listen: SocketAddr, status: Option<SocketAddr>) -> String {
    let address = from_here(listen);
    let host = match address.ip() == IpAddr::from(Ipv4Addr::LOCALHOST) {
        true => String::new(),
        false => format!("-h {} ", address.ip()),
    };
    let watch = status.map(|status| format!(", and http://{}/-/ to watch it", from_here(status)));
    let watch = watch.unwrap_or_default();
    format!(
        "  try http://{address}/ in a browser{watch}\n      \
         curl 'http://{address}/?limit=10'\n      redis-cli {host}-p {} randomkey\n",
        address.port()
    )
}

/// How this machine reaches what listens there.
fn from_here(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// Warns of what is wrong with the backends, as far as it is known; that of those that don't answer
/// the first checks have said.
pub fn warn_of_backends(balancer: &Balancer) {
    let backends: Vec<_> = balancer.backends().iter().cloned().collect();
    let run_ids: Vec<_> = backends.iter().map(|backend| backend.run_id()).collect();
    for (one, other) in doubled(&run_ids) {
        warn!("{} and {} {SAME_SERVER}", backends[one].name(), backends[other].name());
    }
    if databases_differ(&backends) {
        warn!("{DATABASES_DIFFER}");
    }
    for backend in &backends {
        for right in backend.health.lacking_rights() {
            warn!("{}: its user lacks the right {right}: {}", backend.name(), without_right(right));
        }
    }
    for backend in &backends {
        let database = backend.own_mode().database;
        if database == 0 || backend.health.state() != BackendState::Up {
            continue;
        }
        // What else may fail says nothing about the database.
        if let Err(BackendError::Redis(why)) = backend.introduce() {
            let name = backend.name();
            warn!(
                "database {database} of {name} can't be read, so HTTP reads fail there: {why}; \
                 name another in its URL"
            );
        }
    }
}

/// Warns where a script that runs for too long could not be ended.
pub fn warn_of_scripts(balancer: &Balancer) {
    if !balancer.config.allow_scripts {
        return;
    }
    let backends = balancer.backends();
    for backend in backends.iter().filter(|b| b.health.state() == BackendState::Up) {
        let deadline = Instant::now() + balancer.config.check_timeout;
        let missing = backend.missing_kill_rights(deadline);
        if !missing.is_empty() {
            warn!(
                "the user of redis-lb at {} has not the right {}, so nothing there ends a script \
                 that runs for too long: give it that right, or leave --allow-scripts out",
                backend.name(),
                missing.join(" "),
            );
        }
    }
}

/// What does not work where the user lacks a right that a check needs.
fn without_right(right: &str) -> &'static str {
    match right {
        "+info" => {
            "a restart without its data can't be told, and SCAN and listings fail where one step is \
             not enough"
        }
        "+readonly" => "where it is a replica of a Cluster, it refuses reads (MOVED)",
        _ => {
            "a node that has only a part of its Cluster's data can't be told from one that has all"
        }
    }
}

/// Warns when others can connect.
pub fn warn_of_addresses(config: &Config) {
    for address in [Some(config.listen), config.admin_listen].into_iter().flatten() {
        if !address.ip().is_loopback() {
            warn!("{address} can be reached from other machines, and there are no passwords yet");
        }
    }
}

/// What `thread_priority` calls the niceness 0 of a process, from 0 to 99.
#[cfg(target_os = "linux")]
const NICENESS_0: u8 = 48;

/// Asks the scheduler not to interrupt others at once when one of our threads has something to do
/// (`SCHED_BATCH` of sched(7), which threads inherit): on busy cores more has come for each thread by
/// the time that it runs, so what a wake-up costs is shared by more requests. On idle cores nothing
/// changes.
#[cfg(target_os = "linux")]
pub fn schedule_in_batches() {
    use thread_priority::ThreadPriority;
    use thread_priority::unix::{
        NormalThreadSchedulePolicy, ThreadSchedulePolicy, set_thread_priority_and_policy,
        thread_native_id,
    };
    // The library sets the niceness as well: that of a process that was started with one stays.
    if rustix::process::getpriority_process(None) != Ok(0) {
        return;
    }
    let batch = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Batch);
    let is_set = ThreadPriority::try_from(NICENESS_0).is_ok_and(|niceness| {
        set_thread_priority_and_policy(thread_native_id(), niceness, batch).is_ok()
    });
    if !is_set {
        log::debug!("the system schedules our threads as any others");
    }
}

/// Other systems have nothing of the kind.
#[cfg(not(target_os = "linux"))]
pub fn schedule_in_batches() {}

/// How the file descriptors of this process are shared out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// Clients at a time.
    pub clients: usize,
    /// Connections to each backend.
    pub backend_connections: usize,
    /// Clients of the admin address at a time.
    pub admin_clients: usize,
    /// Clients that wait to be told that they are too many.
    pub turned_away: usize,
}

impl Shares {
    /// What is configured.
    fn wanted(config: &Config) -> Self {
        Self {
            clients: config.max_clients,
            backend_connections: config.backend_connections,
            admin_clients: config.admin_listen.map_or(0, |_| MAX_ADMIN_CLIENTS),
            turned_away: TURNED_AWAY_QUEUE,
        }
    }

    /// How many descriptors these take in front of so many backends.
    fn descriptors(&self, backends: usize) -> usize {
        let connections = backends * (self.backend_connections + DESCRIPTORS_OF_A_BACKEND);
        self.clients + self.admin_clients + self.turned_away + connections + OWN_DESCRIPTORS
    }

    /// As much of this as `limit` descriptors suffice for: each client needs one, so that these are
    /// fewer. Where there are so few that half of them are not enough for the pools, those are
    /// smaller, too. `None` where not even that is possible.
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

/// Raises what limits the number of clients as far as we may. Where there may be too few file
/// descriptors all the same, there are fewer clients, and a warning says so: so none that is served
/// can take what the connections to the backends need.
///
/// # Errors
/// When there are too few to serve anybody.
pub fn raise_limits(config: &mut Config) -> io::Result<Shares> {
    let backends = config.backends.len();
    let wanted = Shares::wanted(config);
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

/// How many threads the user may have; `None` where no system says.
fn raise_thread_limit(wanted: u64) -> Option<u64> {
    let (soft, hard) = Resource::NPROC.get().ok()?;
    let raised = wanted.min(hard);
    match soft < raised && Resource::NPROC.set(raised, hard).is_ok() {
        true => Some(raised),
        false => Some(soft),
    }
}

/// How many threads our control group may have; `None` where there is no limit, and on other
/// systems than Linux.
fn pids_limit() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let limit = |file: PathBuf| fs::read_to_string(file).ok()?.trim().parse().ok();
    pids_files(&groups).into_iter().filter_map(limit).min()
}

/// Where the limits are that hold for us: our group's and those of the groups around it, of the one
/// hierarchy of version 2 or the one for pids of version 1.
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

/// Why sockets that seem to have been passed on are none of ours, if so. Call it before they are
/// taken, which changes the environment.
pub fn ignored_sockets() -> Option<String> {
    let text = |name| env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    let count = text("LISTEN_FDS")?;
    let for_whom = text("LISTEN_PID").filter(|pid| !pid.is_empty());
    ignored(&count, for_whom.as_deref(), std::process::id())
}

fn ignored(count: &str, for_whom: Option<&str>, pid: u32) -> Option<String> {
    if count.parse::<usize>().is_err() {
        return Some(format!("LISTEN_FDS={count:?} is no number and ignored: --listen counts"));
    }
    let for_whom = for_whom.filter(|other| other.parse() != Ok(pid))?;
    Some(format!(
        "LISTEN_FDS={count} is ignored and --listen counts: LISTEN_PID={for_whom:?} is not this \
         process, {pid}; start lb without a shell between, or by exec"
    ))
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

    #[test]
    fn sockets_for_another_process_are_named_and_ours_are_not() {
        assert_eq!(ignored("1", Some("7"), 7), None);
        assert_eq!(ignored("1", None, 7), None);
        assert!(ignored("1", Some("8"), 7).is_some_and(|why| why.contains("LISTEN_PID=\"8\"")));
        assert!(ignored("one", None, 7).is_some_and(|why| why.contains("\"one\"")));
    }

    #[test]
    fn what_is_to_be_tried_can_be_typed_on_this_machine() {
        let tried = |address: &str| {
            let address = address.parse().expect("an address");
            to_try(address, Some(address))
        };
        assert!(tried("127.0.0.1:1310").contains("redis-cli -p 1310 "));
        assert!(tried("0.0.0.0:1310").contains("http://127.0.0.1:1310/-/"));
        assert!(tried("[::]:1310").contains("http://[::1]:1310/"));
        assert!(tried("10.0.0.1:1310").contains("redis-cli -h 10.0.0.1 -p 1310 "));
    }
}
