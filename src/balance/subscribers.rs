//! When subscribers leave the backend that they are at: each move may lose messages, so they stay while it may serve.

use std::time::Duration;

use super::rows::LeaseTerms;
use crate::backend::BackendError;
use crate::health::BackendState;

/// Shortest time for which subscribers stay before they move to a better backend: should that not take them, it is not
/// tried all the time.
const MIN_STAY: Duration = Duration::from_secs(1);

/// What is known of a backend and of the connection that carries its subscriptions.
#[derive(Debug, Clone, Copy)]
pub struct Carrier {
    pub state: BackendState,
    /// Whether it runs a slow read of ours, which keeps it from answering.
    pub is_busy: bool,
    /// How long it has been silent on the connection while an answer was due.
    pub silent: Duration,
    /// `--backend-timeout`
    pub timeout: Duration,
    /// How long ago the connection was made.
    pub age: Duration,
    /// Whether another backend is up.
    pub has_better: bool,
    /// Whether another backend is up and a better choice than this one, even if this one is up.
    pub is_outranked: bool,
}

/// Reason why subscribers leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Departure {
    /// The backend is down, or may lack data.
    Out,
    /// It does not answer.
    Silent,
    /// Another is a better choice: this one drains, is a backup, or is stale.
    Outranked,
}

/// Returns the reason why subscribers should go to another backend now, if they should.
///
/// A backend that is suspect has failed once, perhaps for others. Whether it still serves subscribers, it shows on their
/// connection: it is asked there as long as it is in doubt.
pub fn departure(carrier: &Carrier) -> Option<Departure> {
    let Carrier { state, is_busy, silent, timeout, age, has_better, is_outranked } = *carrier;
    let is_out = matches!(state, BackendState::Down | BackendState::Syncing);
    if has_better && is_out {
        Some(Departure::Out)
    } else if has_better && !is_busy && silent >= timeout {
        Some(Departure::Silent)
    } else if is_outranked && age >= MIN_STAY {
        Some(Departure::Outranked)
    } else {
        None
    }
}

/// Returns what clients are told that leave a backend of these terms because it is outranked.
pub fn why_outranked(terms: LeaseTerms) -> BackendError {
    match terms {
        LeaseTerms { weight: 0, .. } => BackendError::Departed("its weight is 0"),
        LeaseTerms { is_backup: true, .. } => {
            BackendError::Departed("it is a backup, and another is up")
        }
        _ => BackendError::Stale,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subscribers_leave_when_they_lose_messages_otherwise_and_have_somewhere_to_go() {
        let timeout = Duration::from_secs(1);
        let good = Carrier {
            state: BackendState::Up,
            is_busy: false,
            silent: Duration::ZERO,
            timeout,
            age: MIN_STAY,
            has_better: true,
            is_outranked: false,
        };
        let alone = Carrier { has_better: false, ..good };
        let (down, suspect) = (BackendState::Down, BackendState::Suspect);
        let almost = timeout - Duration::from_millis(1);
        for (carrier, expected) in [
            (good, None),
            (Carrier { state: suspect, ..good }, None),
            (Carrier { state: down, ..good }, Some(Departure::Out)),
            (Carrier { state: BackendState::Syncing, ..good }, Some(Departure::Out)),
            (Carrier { state: down, ..alone }, None),
            (Carrier { silent: almost, ..good }, None),
            (Carrier { silent: timeout, ..good }, Some(Departure::Silent)),
            (Carrier { silent: timeout, state: suspect, ..good }, Some(Departure::Silent)),
            (Carrier { silent: timeout, is_busy: true, ..good }, None),
            (Carrier { silent: timeout, ..alone }, None),
            (Carrier { is_outranked: true, ..good }, Some(Departure::Outranked)),
            (Carrier { is_outranked: true, age: Duration::ZERO, ..good }, None),
        ] {
            assert_eq!(departure(&carrier), expected, "{carrier:?}");
        }
    }
}
