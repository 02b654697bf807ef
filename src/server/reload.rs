//! Takes over another configuration while clients are served.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use log::{error, info, warn};

use super::banner::{warn_of_pages, warn_of_users};
use super::limits::raise_limits;
use crate::balance::{Balancer, Phase};
use crate::config::Config;
use crate::discovery::{self, Changes};
use crate::logging;
use crate::observe::certificates;
use crate::sync::lock;

/// Keys that are read once, at the start.
const FIXED_KEYS: [&str; 8] = [
    "listen",
    "admin-listen",
    "log-format",
    "control",
    "control-owner",
    "cache",
    "cache-max-silence",
    "no-cache",
];

const NO_FILES: &str =
    "there is no file to read again: start lb with --config FILE, or with a flag that names a file";

/// Reads the configuration file again and takes it over as a whole, or leaves everything as it is. Returns what it has
/// done, in lines for people, or why it has not. Both are logged, and shown on the status page.
///
/// It may take a second where all backends are replaced. Of several calls at a time the others wait.
///
/// # Errors
/// The file is wrong, a key can't change without a restart, or the process is to end.
pub fn reload(balancer: &Arc<Balancer>) -> Result<Vec<String>, Vec<String>> {
    if !balancer.config().has_files() {
        // Nothing was refused: there is nothing that could be.
        warn!("reload: {NO_FILES}");
        return Err(vec![NO_FILES.to_owned()]);
    }
    let result = balancer.reloads.run(|| Ok(take_over(balancer, changed(balancer)?)));
    match &result {
        Ok(lines) => lines.iter().for_each(|line| info!("reload: {line}")),
        Err(reasons) => {
            error!("reload: the configuration stays as it was:");
            reasons.iter().for_each(|reason| error!("reload: {reason}"));
        }
    }
    result
}

/// A configuration that is to be taken over.
struct Changed {
    config: Config,
    /// The keys that have changed.
    keys: Vec<String>,
    /// Whether the certificates or keys in its files have changed.
    has_other_certificates: bool,
}

/// Reads the configuration that is to be taken over.
fn changed(balancer: &Balancer) -> Result<Changed, Vec<String>> {
    if balancer.has_reached(Phase::Leaving) {
        return Err(vec!["the process is to end".to_owned()]);
    }
    let old = balancer.config();
    let mut new = old.reread().map_err(|error| error.lines())?;
    let keys: Vec<String> = old.changes(&new).into_iter().map(str::to_owned).collect();
    let is_fixed = |key: &&String| FIXED_KEYS.contains(&key.as_str());
    let fixed: Vec<String> = keys.iter().filter(is_fixed).map(|key| new.fixed(key)).collect();
    if !fixed.is_empty() {
        return Err(fixed);
    }
    // The file may have been emptied by accident, or be half written.
    if new.has_default_backends() && !old.has_default_backends() {
        return Err(vec!["the file names no backend any more".to_owned()]);
    }
    // Port 0 was replaced by the one that was found.
    (new.listen, new.admin_listen) = (old.listen, old.admin_listen);
    let of_listener = new.read_certificates(Some(&old)).map_err(|error| vec![error])?;
    let has_other_certificates = of_listener || old.credentials.differs(&new.credentials);
    raise_limits(&mut new).map_err(|error| vec![error.to_string()])?;
    Ok(Changed { config: new, keys, has_other_certificates })
}

fn take_over(balancer: &Arc<Balancer>, changed: Changed) -> Vec<String> {
    let Changed { config, keys, has_other_certificates } = changed;
    config.warnings().iter().for_each(|warning| warn!("{warning}"));
    let overridden = config.overridden_keys().iter().map(ToString::to_string);
    let mut lines: Vec<String> = overridden.collect();
    let is_set_by_operator = lock(&balancer.overlay).log_level.is_some();
    if keys.iter().any(|key| key == "log-level") && !is_set_by_operator {
        logging::set_level(config.log_level);
    }
    balancer.reconfigure(config, Instant::now());
    lines.splice(0..0, [summary(&keys, has_other_certificates)]);
    certificates::warn_of_expiry(balancer, SystemTime::now());
    drop(discovery::follow(balancer));
    lines.extend(described(&discovery::update(balancer, || discovery::listed(balancer))));
    warn_of_users(balancer);
    warn_of_pages(&balancer.config());
    let left = discovery::left_in_place(balancer).into_iter();
    lines
        .extend(left.map(|(name, what)| format!("{name} stays as it was set at run time: {what}")));
    lines
}

fn summary(keys: &[String], has_other_certificates: bool) -> String {
    let certificates = has_other_certificates.then_some("the certificates");
    match keys.iter().map(String::as_str).chain(certificates).collect::<Vec<_>>()[..] {
        [] => "nothing has changed".to_owned(),
        ref changed => format!("taken over: {}", changed.join(", ")),
    }
}

/// Describes what has become of the backends.
fn described(changes: &Changes) -> Vec<String> {
    let mut lines = Vec::new();
    let (staying, removed): (Vec<String>, Vec<String>) =
        changes.removed.iter().cloned().partition(|name| changes.staying.contains(name));
    for (what, names) in [
        ("added", &changes.added),
        ("removed", &removed),
        ("still read from, until a backend that is listed is up:", &staying),
        ("other settings for", &changes.changed),
    ] {
        if !names.is_empty() {
            lines.push(format!("{what} {}", names.join(", ")));
        }
    }
    lines
}
