//! Reads that ask for data of at most some age (`Max-Staleness`).

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backend::BackendId;
use crate::balance::Balancer;
use crate::health::{Member, is_fresh_enough};
use crate::http::{Request, ResponseWriter};

/// The greatest age of the data that may answer a read; without one, nothing is looked at.
#[derive(Debug, Clone, Copy)]
pub(super) struct MaxStaleness(Option<Duration>);

impl MaxStaleness {
    /// Returns what a valid request asks for, and has offsets sampled as often as that needs.
    pub fn asked(request: &Request, balancer: &Balancer) -> Self {
        let max = request.max_staleness.ok().flatten();
        if let Some(max) = max {
            balancer.replication.ask(max, Instant::now());
        }
        Self(max)
    }

    /// Whether data of any age may answer.
    pub fn is_any(self) -> bool {
        self.0.is_none()
    }

    /// Returns whether the read may go to this backend now.
    pub fn allows(self, backend: BackendId, balancer: &Balancer) -> bool {
        self.0.is_none_or(|max| is_fresh_enough(staleness(backend, balancer), max))
    }

    /// Returns what the response has to say of the age of this backend's data; `None` if they may not answer now.
    pub fn admit(self, backend: BackendId, balancer: &Balancer) -> Option<Option<Duration>> {
        let Some(max) = self.0 else { return Some(None) };
        let staleness = staleness(backend, balancer);
        is_fresh_enough(staleness, max).then_some(staleness)
    }

    /// Returns those of these backends whose data are too old, with the reasons.
    pub fn too_old<'b>(
        self,
        backends: impl Iterator<Item = &'b Arc<Member>>,
        balancer: &Balancer,
    ) -> Vec<TooOld> {
        let Some(max) = self.0 else { return Vec::new() };
        let too_old = backends.filter_map(|backend| {
            let staleness = staleness(backend.id, balancer);
            let is_enough = is_fresh_enough(staleness, max);
            (!is_enough).then(|| TooOld { backend: Arc::clone(backend), staleness })
        });
        too_old.collect()
    }

    /// Returns the error for a read that none but these could have answered.
    pub fn error(self, too_old: &[TooOld]) -> String {
        let max = self.0.unwrap_or_default().as_secs_f64();
        let freshest = too_old.iter().filter_map(|one| one.staleness).min();
        let freshest = match freshest {
            Some(staleness) => format!("the freshest may be {} s old", seconds(staleness)),
            None => "how old they are is not known".to_owned(),
        };
        format!(
            "no backend that answers has data that are at most {max} s old (Max-Staleness): {freshest}"
        )
    }
}

/// A backend whose data are too old for a read, or of which that is not known.
pub(super) struct TooOld {
    pub backend: Arc<Member>,
    staleness: Option<Duration>,
}

impl TooOld {
    /// Returns the reason in words.
    pub fn reason(&self) -> String {
        match self.staleness {
            Some(staleness) => format!("its data may be {} s old", seconds(staleness)),
            None => "how old its data are is not known".to_owned(),
        }
    }
}

/// Says in a response how old its data are at most.
pub(super) fn add_header<W: Write>(response: &mut ResponseWriter<W>, staleness: Option<Duration>) {
    if let Some(staleness) = staleness {
        response.header("X-Staleness", &seconds(staleness));
    }
}

fn staleness(backend: BackendId, balancer: &Balancer) -> Option<Duration> {
    balancer.replication.staleness(backend, Instant::now())
}

/// Returns a time in seconds, rounded up to milliseconds.
fn seconds(time: Duration) -> String {
    let millis = time.as_micros().div_ceil(1000);
    format!("{}.{:03}", millis / 1000, millis % 1000)
}
