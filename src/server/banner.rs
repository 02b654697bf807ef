//! What `lb` says when it starts: what it serves and from where, and what will cause trouble.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use console::Style;
use log::warn;

use crate::backend::{BackendError, is_not_permitted};
use crate::balance::Balancer;
use crate::config::Config;
use crate::health::{BackendState, Member, ShownState};
use crate::logging;
use crate::memory;
use crate::observe::certificates;
use crate::observe::misconfiguration::{
    DATABASES_DIFFER, SAME_SERVER, databases_differ, duplicates,
};
use crate::text::figures::size;
use crate::text::table::{Alignment, table};

/// How long clients wait at the start for servers that are asked for what lacks there.
const MAX_WAIT: Duration = Duration::from_secs(1);

/// Prints what is served, from where, and what to try, and warns of what will cause trouble. The address
/// is in the first line.
pub fn introduce(balancer: &Arc<Balancer>, was_passed_on: bool) {
    let mut text = serves(&balancer.config(), was_passed_on);
    let head = [("reads from", Alignment::Left), ("state", Alignment::Left), ("", Alignment::Left)];
    let rows: Vec<_> = balancer.backends().iter().map(|backend| row(backend)).collect();
    table(&head, &rows).lines().for_each(|line| text += &format!("  {line}\n"));
    for source in balancer.discovered.states() {
        let name = source.source.name();
        text += &match (source.servers, source.error) {
            (Some(servers), _) => format!("  {} of them found by {name}\n", servers.len()),
            (None, Some(error)) => format!("  {name} names no servers yet: {error}\n"),
            (None, None) => format!("  {name} has not answered yet\n"),
        };
    }
    text += &to_try(&balancer.config());
    // That nobody reads it is no reason not to serve.
    let _ = std::io::stdout().write_all(text.as_bytes());
    warn_of_addresses(&balancer.config());
    warn_of_pages(&balancer.config());
    warn_of_memory(balancer);
    certificates::warn_of_expiry(balancer, SystemTime::now());
    warn_of_list(balancer);
    warn_of_users(balancer);
    let backends = balancer.backends();
    for backend in backends.iter() {
        for right in backend.health.lacking_rights() {
            warn!("{}: its user lacks the right {right}: {}", backend.name(), without_right(right));
        }
    }
    drop(backends);
    let (balancer, (is_done, done)) = (Arc::clone(balancer), mpsc::channel());
    // Without a thread for it, nobody is warned.
    let _ = thread::Builder::new().name("warnings".to_owned()).spawn(move || {
        ask_and_warn(&balancer);
        // Nobody may wait for it any more.
        let _ = is_done.send(());
    });
    // So that what servers lack is said first, unless one is silent.
    let _ = done.recv_timeout(MAX_WAIT);
}

/// Asks the servers for what lacks there, and warns of it.
fn ask_and_warn(balancer: &Balancer) {
    let backends = balancer.backends();
    for backend in backends.iter().filter(|backend| backend.health.state() == BackendState::Up) {
        warn_of_database(backend);
        warn_of_rights(backend);
        warn_of_scripts(backend, &balancer.config());
    }
}

fn serves(config: &Config, was_passed_on: bool) -> String {
    let (version, address) = (env!("CARGO_PKG_VERSION"), config.listen);
    let scheme = scheme(config);
    let mut text = format!("redis-lb {version} listens on {scheme}://{address}/\n");
    if config.listener_tls.is_some() {
        let plain = if config.tls.tls_only { "TLS alone" } else { "TLS and plain text" };
        text += &format!("  {plain}, for HTTP and the Redis protocol\n");
    }
    match was_passed_on {
        true => text + "  on the socket that was passed on to it; not on --listen\n",
        false => text,
    }
}

/// The scheme of our own URLs.
fn scheme(config: &Config) -> &'static str {
    if config.listener_tls.is_some() { "https" } else { "http" }
}

fn row(backend: &Member) -> Vec<String> {
    let summary = backend.health.summary(Instant::now());
    let style = match summary.state {
        ShownState::Up => Style::new().green(),
        ShownState::Down => Style::new().red(),
        _ => Style::new().yellow(),
    };
    let role = summary.role().unwrap_or("primary");
    let what = match (summary.state, summary.keys) {
        (ShownState::Up, Some(keys)) => format!("{role}, {keys} keys"),
        (ShownState::Up, None) => "does not say how many keys it has".to_owned(),
        _ => logging::escaped(&summary.reason),
    };
    vec![backend.name().to_owned(), style.apply_to(summary.state).to_string(), what]
}

/// Commands that can be typed on this machine.
fn to_try(config: &Config) -> String {
    to_try_at(config.listen, config.status_address(), scheme(config))
}

fn to_try_at(listen: SocketAddr, status: Option<SocketAddr>, scheme: &str) -> String {
    let address = from_here(listen);
    let (cli_tls, curl_ca) = match scheme {
        "https" => ("--tls --cacert CA ", "--cacert CA "),
        _ => ("", ""),
    };
    let host = match address.ip() == IpAddr::from(Ipv4Addr::LOCALHOST) {
        true => String::new(),
        false => format!("-h {} ", address.ip()),
    };
    let watch =
        status.map(|status| format!(", and {scheme}://{}/-/ to watch it", from_here(status)));
    let watch = watch.unwrap_or_default();
    format!(
        "  try {scheme}://{address}/ in a browser{watch}\n      \
         curl {curl_ca}'{scheme}://{address}/?limit=10'\n      redis-cli {cli_tls}{host}-p {} randomkey\n",
        address.port()
    )
}

/// The address by which this machine reaches what listens there.
fn from_here(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// Warns of mistakes in the list of backends.
fn warn_of_list(balancer: &Balancer) {
    let backends = balancer.backends();
    let (names, run_ids): (Vec<_>, Vec<_>) =
        backends.iter().map(|backend| (backend.name(), backend.run_id())).unzip();
    for (one, other) in duplicates(&run_ids) {
        warn!("{} and {} {SAME_SERVER}", names[one], names[other]);
    }
    if databases_differ(&balancer.config().backends) {
        warn!("{DATABASES_DIFFER}");
    }
}

/// Warns of rules about commands that no backend knows.
pub(super) fn warn_of_users(balancer: &Balancer) {
    let (config, (_, policy)) = (balancer.config(), balancer.policy());
    for user in config.users.users.iter() {
        let unknown = policy.unknown_commands(user);
        if !unknown.is_empty() {
            let (name, unknown) = (logging::escaped(user.name()), unknown.join(", "));
            let unknown = logging::escaped(&unknown);
            warn!("user {name}: no backend knows the command {unknown}, which its rules name");
        }
    }
}

/// Warns where the database of a URL can't be read.
fn warn_of_database(backend: &Member) {
    let database = backend.own_mode().database;
    if database == 0 {
        return;
    }
    // Any other failure says nothing about the database.
    if let Err(BackendError::Redis(why)) = backend.introduce() {
        let name = backend.name();
        warn!(
            "database {database} of {name} can't be read, so HTTP reads fail there: {why}; \
             name another in its URL"
        );
    }
}

/// Warns where the user of a backend may not read, or not say what a read is.
fn warn_of_rights(backend: &Member) {
    let name = backend.name();
    if let Err(BackendError::Redis(why)) = backend.may_read()
        && is_not_permitted(&why)
    {
        warn!("{name}: its user may not read ({why}): give it +@read and its keys (ACL SETUSER)");
    }
    if backend.commands().is_none() {
        warn!(
            "{name}: its user lacks the right +command: no Redis client is served by it, because nothing tells which \
             commands are reads"
        );
    }
}

/// Warns where a script that runs for too long can't be ended.
fn warn_of_scripts(backend: &Member, config: &Config) {
    if !config.allow_scripts {
        return;
    }
    let missing =
        backend.missing_kill_rights(Instant::now() + config.check_timeout).unwrap_or_default();
    if !missing.is_empty() {
        warn!(
            "the user of redis-lb at {} has not the right {}, so nothing there ends a script \
             that runs for too long: give it that right, or leave --allow-scripts out",
            backend.name(),
            missing.join(" "),
        );
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

/// Warns when the near cache and the clients may take more memory than there is.
fn warn_of_memory(balancer: &Balancer) {
    let (cache, clients) = (balancer.config().cache_bytes, balancer.memory.max_bytes() as u64);
    if let Some(excess) = memory_excess(cache, clients, memory::available_bytes()) {
        warn!("{excess}");
    }
}

/// Says that there is less memory than the near cache and the clients may take together.
fn memory_excess(cache: u64, clients: u64, available: u64) -> Option<String> {
    let is_too_much = cache > 0 && cache.saturating_add(clients) > available;
    is_too_much.then(|| {
        format!(
            "--cache {} and --max-memory {} are more than the memory that there is, {}: the system may end lb \
             when both are used",
            size(cache),
            size(clients),
            size(available)
        )
    })
}

/// Warns when other machines can connect.
fn warn_of_addresses(config: &Config) {
    let (has_users, has_tls) = (config.users.require_login(), config.listener_tls.is_some());
    for address in [Some(config.listen), config.admin_listen].into_iter().flatten() {
        if let Some(exposed) = exposure(address, has_users, has_tls) {
            warn!("{exposed}");
        }
    }
}

/// Warns when any web page can read everything by the browser of somebody who reaches `lb`.
pub(super) fn warn_of_pages(config: &Config) {
    if config.http.allows_all_origins() && !config.users.require_login() {
        warn!(
            "--cors-origin '*': any web page can read everything here, in the browser of anybody who reaches {} and looks \
             at that page: name the origins of yours, or have users log in (--require-password-file, --users-file)",
            config.listen
        );
    }
}

/// Says that other machines can connect, if neither users who have to log in nor TLS stand between.
fn exposure(address: SocketAddr, has_users: bool, has_tls: bool) -> Option<String> {
    let is_exposed = !address.ip().is_loopback() && !has_users && !has_tls;
    is_exposed.then(|| {
        format!(
            "{address} can be reached from other machines, and anybody there can read everything: no \
             user has to log in (--require-password-file, --users-file), and there is no TLS"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_address_that_others_reach_without_users_and_tls_is_warned_of() {
        for (address, has_users, has_tls, is_warned_of) in [
            ("0.0.0.0:1", false, false, true),
            ("[::]:1", false, false, true),
            ("10.0.0.1:1", false, false, true),
            ("10.0.0.1:1", true, false, false),
            ("10.0.0.1:1", false, true, false),
            ("10.0.0.1:1", true, true, false),
            ("127.0.0.1:1", false, false, false),
            ("[::1]:1", false, false, false),
        ] {
            let address = address.parse().expect("an address");
            let warning = exposure(address, has_users, has_tls);
            assert_eq!(warning.is_some(), is_warned_of, "{address} {has_users} {has_tls}");
        }
    }

    #[test]
    fn a_cache_that_does_not_fit_beside_the_clients_is_warned_of() {
        for (cache, clients, available, is_warned_of) in [
            (0, 200, 100, false),
            (50, 50, 100, false),
            (50, 51, 100, true),
            (u64::MAX, 1, 100, true),
        ] {
            let warning = memory_excess(cache, clients, available);
            assert_eq!(warning.is_some(), is_warned_of, "{cache} {clients} {available}");
        }
    }

    #[test]
    fn what_is_to_be_tried_can_be_typed_on_this_machine() {
        let tried = |address: &str| {
            let address = address.parse().expect("an address");
            to_try_at(address, Some(address), "http")
        };
        assert!(tried("127.0.0.1:1310").contains("redis-cli -p 1310 "));
        assert!(tried("0.0.0.0:1310").contains("http://127.0.0.1:1310/-/"));
        assert!(tried("[::]:1310").contains("http://[::1]:1310/"));
        assert!(tried("10.0.0.1:1310").contains("redis-cli -h 10.0.0.1 -p 1310 "));
    }
}
