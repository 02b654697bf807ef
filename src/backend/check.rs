//! The questions of a health check, and the meaning of the answers.

use std::io::BufRead;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::connection::Connection;
use super::report::{Keys, Report};
use super::stranger::Stranger;
use super::{Backend, BackendError, MAX_INFO_BYTES, WaitPolicy, is_not_permitted};
use crate::resp::{self, command, reply};

impl Backend {
    /// Asks for its state, on the connection that was `kept` for that. It has until `deadline`; a
    /// replica must have heard from its primary within `max_lag`.
    pub fn check(
        &self,
        kept: &mut Option<Connection>,
        deadline: Instant,
        max_lag: Option<Duration>,
    ) -> Result<Report, BackendError> {
        let has_moved = self.has_moved.swap(false, Ordering::AcqRel);
        let wait_policy = WaitPolicy::Until(deadline);
        let kept_connection = kept.take().filter(|_| !has_moved);
        let mut connection = match kept_connection {
            Some(connection) => connection,
            None => self.open(wait_policy.clone(), Duration::ZERO)?,
        };
        connection.set_wait_policy(wait_policy, Duration::ZERO);
        let mut questions = Vec::new();
        ["PING", "INFO", "DBSIZE"].iter().for_each(|name| command(name).append_to(&mut questions));
        connection.send(&questions).map_err(|error| error.of_first("PING"))?;
        connection.expect_redis(b"+-")?;
        let not_ready = match reply::simple(connection.replies()) {
            Ok(status) => match Stranger::of_pong(&status) {
                Some(stranger) => return Err(BackendError::Stranger(stranger)),
                None => None,
            },
            Err(resp::Error::Redis(text)) => match text.split(' ').next() {
                // It has no data to read (yet).
                Some("LOADING" | "MASTERDOWN") => Some(text),
                // A server that can't save serves reads.
                Some("MISCONF") => None,
                _ if is_not_allowed(&text) => None,
                _ => return Err(resp::Error::Redis(text).into()),
            },
            Err(error) => return Err(error.into()),
        };
        let info = info(connection.replies())?;
        let size = match reply::integer(connection.replies()) {
            Ok(size) => size.and_then(|size| u64::try_from(size).ok()),
            Err(resp::Error::Redis(_)) => None,
            Err(error) => return Err(error.into()),
        };
        let mut report = info.map(|info| Report::from_info(&info, max_lag)).unwrap_or_default();
        report.not_ready = not_ready.or(report.not_ready);
        if report.run_id.is_empty() {
            report.lacks.push("+info");
        }
        if report.is_cluster_node {
            ask_cluster_node(&mut connection, &mut report)?;
        }
        report.keys = report.keys.or(size.map(Keys::in_one_database));
        connection.run_id = (!report.run_id.is_empty()).then(|| Arc::clone(&report.run_id));
        // A server that does not tell its `run_id` is asked for its commands on each connection. A
        // server that is not read from must not limit the commands of all.
        if connection.run_id.is_some() && report.unserved.is_none() {
            self.meet(&mut connection)?;
        }
        *kept = Some(connection);
        Ok(report)
    }

    /// Asks only how far its data are, on the connection of the last check. The report has no more than
    /// `INFO replication` says: no keys, and no `run_id`, which is that of the connection.
    pub fn sample(
        &self,
        connection: &mut Connection,
        deadline: Instant,
        max_lag: Option<Duration>,
    ) -> Result<Report, BackendError> {
        connection.set_wait_policy(WaitPolicy::Until(deadline), Duration::ZERO);
        connection.send(&command("INFO").arg("replication").into_bytes())?;
        let info = info(connection.replies())?;
        let mut report = info.map(|info| Report::from_info(&info, max_lag)).unwrap_or_default();
        // It has not said how many keys it has.
        report.keys = None;
        report.not_ready.take_if(|_| !report.is_syncing);
        Ok(report)
    }
}

/// Returns an answer; `None` where our user may not ask.
pub(super) fn if_allowed<T>(answer: Result<T, resp::Error>) -> Result<Option<T>, resp::Error> {
    match answer {
        Err(resp::Error::Redis(text)) if is_not_allowed(&text) => Ok(None),
        answer => answer.map(Some),
    }
}

/// Reads a reply to `INFO`; `None` where our user may not ask.
pub(crate) fn info(from: &mut impl BufRead) -> Result<Option<String>, resp::Error> {
    let info = if_allowed(reply::bytes(from, MAX_INFO_BYTES))?;
    Ok(info.map(|info| String::from_utf8_lossy(&info).into_owned()))
}

/// Reads the reply to `INFO server`: the `run_id`, `None` where our user may not ask, and whether the
/// server is a node of a Cluster.
pub(crate) fn read_server_info(
    from: &mut impl BufRead,
) -> Result<(Option<Arc<str>>, bool), resp::Error> {
    let info = info(from)?.unwrap_or_default();
    let field = |name| info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    Ok((field("run_id:").map(Arc::from), field("redis_mode:") == Some("cluster")))
}

/// Lets a replica in a Cluster answer reads on this connection, which else sends clients to its primary.
/// Returns false when our user may not ask for that: then a primary can still be read from.
pub(super) fn read_only(connection: &mut Connection) -> Result<bool, BackendError> {
    connection.send(&command("READONLY").into_bytes())?;
    Ok(if_allowed(reply::simple(connection.replies()))?.is_some())
}

/// Asks a node of a Cluster whether it has all of the data, as far as our user may ask, and whether it
/// lets our user read from replicas.
fn ask_cluster_node(connection: &mut Connection, report: &mut Report) -> Result<(), BackendError> {
    connection.send(&command("CLUSTER").arg("INFO").into_bytes())?;
    match info(connection.replies())? {
        Some(info) => report.add_cluster_info(&info),
        None => report.lacks.push("+cluster|info"),
    }
    if !read_only(connection)? {
        report.lacks.push("+readonly");
    }
    Ok(())
}

/// Returns whether a command is forbidden to our user, or was renamed.
fn is_not_allowed(error: &str) -> bool {
    is_not_permitted(error) || error.starts_with("ERR unknown command")
}
