//! Asks nameservers, one after the other, until one of them knows.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::exchange::{self, Failure};
use super::message::{Absence, RecordType, Records};
use super::settings::ResolverSettings;

/// Longest time that one nameserver is waited for before the next one is asked. glibc waits 5 s; an answer that has come
/// too late is in the nameserver's cache when it is asked again.
const ATTEMPT_TIME: Duration = Duration::from_millis(500);

/// Reason why a name has no records to give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum LookupError {
    /// There are none.
    Absent(Absence),
    /// No nameserver could say, for these reasons.
    Failed(String),
}

/// The nameservers that are asked.
#[derive(Debug)]
pub(super) struct Resolver {
    settings: ResolverSettings,
    /// Place of the one that is asked first: the one that has answered last.
    first: usize,
}

impl Resolver {
    pub fn new(settings: ResolverSettings) -> Self {
        Self { settings, first: 0 }
    }

    /// Takes over other settings.
    pub fn configure(&mut self, settings: ResolverSettings) {
        if self.settings.nameservers != settings.nameservers {
            self.first = 0;
        }
        self.settings = settings;
    }

    /// Returns the whole names for which a name may stand.
    pub fn candidates(&self, name: &str) -> Vec<String> {
        self.settings.candidates(name)
    }

    /// Returns the records of a whole name, by `deadline`. A nameserver that fails is not asked again; one that is silent
    /// is, after all others.
    ///
    /// # Errors
    /// There are none, or nobody could say.
    pub fn look_up(
        &mut self,
        name: &str,
        record_type: RecordType,
        deadline: Instant,
    ) -> Result<Records, LookupError> {
        let nameservers = &self.settings.nameservers;
        let mut reasons = vec![None; nameservers.len()];
        let mut waiting: VecDeque<usize> = (0..nameservers.len()).collect();
        waiting.rotate_left(self.first);
        while let Some(at) = waiting.pop_front() {
            let now = Instant::now();
            if now >= deadline {
                break;
            }
            let by = deadline.min(now + ATTEMPT_TIME);
            let failure = match exchange::ask(nameservers[at], name, record_type, by) {
                Ok(answer) => {
                    self.first = at;
                    return answer.map_err(LookupError::Absent);
                }
                Err(failure) => failure,
            };
            self.first = (at + 1) % nameservers.len();
            if failure.may_answer_later {
                waiting.push_back(at);
            }
            reasons[at] = Some(failure);
        }
        Err(LookupError::Failed(text(nameservers, &reasons)))
    }
}

/// Returns what each nameserver did, in their order, so that the text is the same each time.
fn text(nameservers: &[SocketAddr], reasons: &[Option<Failure>]) -> String {
    let told = nameservers.iter().zip(reasons).filter_map(|(nameserver, failure)| {
        Some(format!("nameserver {nameserver} {}", failure.as_ref()?.reason))
    });
    let told = told.collect::<Vec<_>>().join(", ");
    if told.is_empty() { "there was no time to ask a nameserver".to_owned() } else { told }
}
