//! The questions of a health check, and what the answers say.

use std::io::BufRead;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::connection::Connection;
use super::report::{Keys, Report};
use super::unable::{is_not_permitted, serves_reads};
use super::{Backend, BackendError, MAX_INFO_BYTES, WaitPolicy};
use crate::resp::{self, command, reply};

impl Backend {
    /// Asks it how it is, on the connection that was `kept` for that. It has until `deadline`; a
    /// replica is to have heard from its primary within `max_lag`.
    pub fn check(
        &self,
        kept: &mut Option<Connection>,
        deadline: Instant,
        max_lag: Option<Duration>,
    ) -> Result<Report, BackendError> {
        let has_moved = self.has_moved.swap(false, Ordering::AcqRel);
        let wait_policy = WaitPolicy::Until(deadline);
        let mut link = match kept.take().filter(|_| !has_moved) {
            Some(link) => link,
            None => self.open(wait_policy.clone(), Duration::ZERO)?,
        };
        link.set_wait_policy(wait_policy, Duration::ZERO);
        link.send(&["PING", "INFO", "DBSIZE"].map(|name| command(name).into_bytes()).concat())?;
        let not_ready = match reply::simple(link.replies()) {
            Ok(_) => None,
            Err(resp::Error::Redis(text)) if is_not_allowed(&text) || serves_reads(&text) => None,
            Err(resp::Error::Redis(text)) if has_no_data(&text) => Some(text),
            Err(error) => return Err(error.into()),
        };
        let info = info(link.replies())?;
        let size = match reply::integer(link.replies()) {
            Ok(size) => size,
            Err(resp::Error::Redis(_)) => None,
            Err(error) => return Err(error.into()),
        };
        let mut report = match info {
            Some(info) => Report::from_info(&info, max_lag),
            None => Report::default(),
        };
        report.not_ready = not_ready.or(report.not_ready);
        if report.run_id.is_empty() {
            report.lacks.push("+info");
        }
        if report.is_cluster_node {
            ask_of_cluster(&mut link, &mut report)?;
        }
        if report.keys.is_none() {
            let count = size.and_then(|count| u64::try_from(count).ok());
            report.keys = count.map(Keys::in_one_database);
        }
        link.set_run_id((!report.run_id.is_empty()).then(|| Arc::clone(&report.run_id)));
        // Where it does not say which server it is, each client finds out what it knows. What one knows
        // that is not served from limits nobody.
        if !report.run_id.is_empty() && report.unserved.is_none() {
            self.meet(&mut link)?;
        }
        *kept = Some(link);
        Ok(report)
    }
}

/// What `INFO` says; `None` where its user may not ask.
fn info(from: &mut impl BufRead) -> Result<Option<String>, resp::Error> {
    match reply::bytes(from, MAX_INFO_BYTES) {
        Err(resp::Error::Redis(text)) if is_not_allowed(&text) => Ok(None),
        Ok(info) => Ok(Some(String::from_utf8_lossy(&info).into_owned())),
        Err(error) => Err(error),
    }
}

/// Reads what `INFO server` says of its run id, `None` where its user may not ask, and whether it is a
/// node of a Cluster.
pub(super) fn read_server_info(
    from: &mut impl BufRead,
) -> Result<(Option<Arc<str>>, bool), resp::Error> {
    let info = info(from)?.unwrap_or_default();
    let field = |name| info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    Ok((field("run_id:").map(Arc::from), field("redis_mode:") == Some("cluster")))
}

/// Reads what `INFO server` says of its run id; `None` where its user may not ask.
pub fn read_run_id(from: &mut impl BufRead) -> Result<Option<Arc<str>>, resp::Error> {
    read_server_info(from).map(|(run_id, _)| run_id)
}

/// Lets a node of a Cluster answer reads on this connection also where it is a replica, which else
/// sends clients to its primary. False when its user may not ask for that: then a primary can still be
/// read from.
pub(super) fn read_only(link: &mut Connection) -> Result<bool, BackendError> {
    link.send(&command("READONLY").into_bytes())?;
    match reply::simple(link.replies()) {
        Ok(_) => Ok(true),
        Err(resp::Error::Redis(text)) if is_not_allowed(&text) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Asks a node of a Cluster whether it has all of the data, as far as its user may ask, and whether it
/// lets it read from replicas.
fn ask_of_cluster(link: &mut Connection, report: &mut Report) -> Result<(), BackendError> {
    link.send(&command("CLUSTER").arg("INFO").into_bytes())?;
    match reply::bytes(link.replies(), MAX_INFO_BYTES) {
        Ok(info) => report.add_cluster_info(&String::from_utf8_lossy(&info)),
        Err(resp::Error::Redis(text)) if is_not_allowed(&text) => {
            report.lacks.push("+cluster|info")
        }
        Err(error) => return Err(error.into()),
    }
    if !read_only(link)? {
        report.lacks.push("+readonly");
    }
    Ok(())
}

/// Whether a server says that it has no data to read (yet).
fn has_no_data(error: &str) -> bool {
    error.starts_with("LOADING") || error.starts_with("MASTERDOWN")
}

/// Whether a command is one that our user must not use, or that was renamed.
pub(super) fn is_not_allowed(error: &str) -> bool {
    is_not_permitted(error) || error.starts_with("ERR unknown command")
}
