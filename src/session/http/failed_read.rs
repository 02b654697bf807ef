//! The response to a read that no backend could answer.

use std::sync::Arc;

use super::local_response::LocalResponse;
use super::read::ReadQuery;
use crate::backend::BackendError;
use crate::balance::Balancer;
use crate::balance::failover::Failover;
use crate::http::{BackendFailure, ErrorBody};

/// Returns the response to a read after every backend has failed, or was not the one to which the
/// query's cursor belongs.
pub(super) fn no_backend_answered(
    query: &ReadQuery,
    failover: &Failover,
    balancer: &Balancer,
) -> LocalResponse<'static> {
    if let Some(trouble) = BackendError::local_trouble(failover.failures()) {
        return LocalResponse::unavailable(trouble);
    }
    let all_unreachable = failover.failures().all(BackendError::is_unreachable);
    let (status, why) = if failover.failures().any(BackendError::is_timeout) {
        (504, "no backend answered in time")
    } else if query.has_cursor() && failover.was_anyone_asked() && all_unreachable {
        (410, "the backend of this cursor is gone or was restarted; start again without it")
    } else if all_unreachable {
        (503, "no backend can be reached")
    } else {
        (503, "no backend could answer")
    };
    let backends = balancer.backends();
    let refusals = backends.iter().filter_map(|backend| {
        let refusal = backend.health.refusal_while_up(backend.own_mode().database)?;
        failover.may_try(backend.id).then(|| (Arc::clone(backend), refusal))
    });
    let troubles = failover.troubles().into_iter().chain(refusals);
    let failures = troubles.map(|(backend, error)| BackendFailure {
        backend: backend.name().to_owned().into(),
        error,
    });
    let error = ErrorBody { backends: failures.collect(), ..ErrorBody::new(why) };
    let response = LocalResponse::error_body(status, error);
    match status {
        410 => response,
        _ => response.with_header("Retry-After", "1"),
    }
}
