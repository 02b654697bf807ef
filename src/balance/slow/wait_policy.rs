//! How long a read waits for a silent server: one rule, for both protocols and for both kinds of
//! connection.

use std::time::Duration;

use crate::backend::Class;
use crate::health::BackendState;

/// The two times of the configuration that the rule knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeLimits {
    /// `--backend-timeout`: how long a server may be silent before a quick read leaves.
    pub backend: Duration,
    /// `--read-timeout`: how long any read waits.
    pub read: Duration,
}

/// What is known of a read that was sent and has met nothing but silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Situation {
    /// What is known of the read.
    pub class: Class,
    /// How long its server has said nothing on this connection.
    pub silent: Duration,
    /// The state of its server.
    pub state: BackendState,
    /// Whether another read, known to be slow or overdue, runs on that server.
    pub is_server_busy: bool,
    /// Whether the server has answered a health check that began after the read was sent.
    pub answers_checks: bool,
    /// Whether another server is up and runs no slow read.
    pub has_better: bool,
    /// Whether another server is up, whatever it runs.
    pub has_other: bool,
    /// Whether no other server is configured.
    pub is_only_server: bool,
    /// Whether the checks have found every server silent, also those that run no slow read.
    pub are_all_frozen: bool,
}

/// What is done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The read stays where it is.
    Wait,
    /// It is sent to another server; `is_free` where that costs nothing of the retry budget.
    Leave {
        /// Whether the retry budget is spared.
        is_free: bool,
    },
    /// Its server works on a slow read of somebody else: it is sent to another, and blames nobody.
    LeaveBusy,
    /// The connection is broken, not the server: the read is sent again on another.
    Stuck,
    /// Its time is up.
    GiveUp,
}

/// Whether a silence says that the server has failed: then it is `suspect`.
pub fn is_suspicious(now: &Situation, limits: TimeLimits) -> bool {
    now.class == Class::Quick && now.silent >= limits.backend && !now.is_server_busy
}

/// What a read does that has met silence.
///
/// A quick read leaves after the backend timeout. Any other one may be why the server is silent: sent
/// elsewhere it would silence the next. It stays until the read timeout; also when checks fail, as a
/// busy server fails them, too.
pub fn decide(now: &Situation, limits: TimeLimits) -> Decision {
    if now.silent < limits.backend.min(limits.read) {
        return Decision::Wait;
    }
    if now.answers_checks && now.has_other {
        return Decision::Stuck;
    }
    if now.silent >= limits.read {
        return Decision::GiveUp;
    }
    match now.class {
        Class::Unknown if now.are_all_frozen => Decision::GiveUp,
        Class::Unknown | Class::Slow => Decision::Wait,
        Class::Quick => decide_quick(now),
    }
}

fn decide_quick(now: &Situation) -> Decision {
    match (now.has_better, now.state) {
        // Leaving what is known to be silent costs nobody anything.
        (true, BackendState::Down) => Decision::Leave { is_free: true },
        (true, _) if now.is_server_busy => Decision::LeaveBusy,
        (true, _) => Decision::Leave { is_free: false },
        // It is busy, not dead.
        (false, _) if now.is_server_busy || now.is_only_server => Decision::Wait,
        (false, BackendState::Down) => Decision::Leave { is_free: true },
        (false, _) => Decision::Wait,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: TimeLimits =
        TimeLimits { backend: Duration::from_secs(1), read: Duration::from_secs(30) };

    /// A quick read, silent for just over the backend timeout on a server that is up, with others up.
    fn quick() -> Situation {
        Situation {
            class: Class::Quick,
            silent: Duration::from_millis(1001),
            state: BackendState::Up,
            is_server_busy: false,
            answers_checks: false,
            has_better: true,
            has_other: true,
            is_only_server: false,
            are_all_frozen: false,
        }
    }

    fn slow() -> Situation {
        Situation { class: Class::Slow, ..quick() }
    }

    fn unknown() -> Situation {
        Situation { class: Class::Unknown, ..quick() }
    }

    #[test]
    fn each_row_of_the_rule() {
        use Decision::{GiveUp, Leave, LeaveBusy, Stuck, Wait};
        let long = Duration::from_secs(30);
        let short = Duration::from_millis(999);
        for (at, (situation, wanted)) in [
            // Nobody leaves before the backend timeout.
            (Situation { silent: short, ..quick() }, Wait),
            (Situation { silent: short, state: BackendState::Down, ..quick() }, Wait),
            (Situation { silent: short, answers_checks: true, ..slow() }, Wait),
            // A quick read leaves then, where there is another to go to.
            (quick(), Leave { is_free: false }),
            (Situation { state: BackendState::Suspect, ..quick() }, Leave { is_free: false }),
            (Situation { state: BackendState::Down, ..quick() }, Leave { is_free: true }),
            (Situation { is_server_busy: true, ..quick() }, LeaveBusy),
            // With none, it stays until the checks say that the server is dead.
            (Situation { has_better: false, ..quick() }, Wait),
            (Situation { has_better: false, state: BackendState::Suspect, ..quick() }, Wait),
            (
                Situation { has_better: false, state: BackendState::Down, ..quick() },
                Leave { is_free: true },
            ),
            (
                Situation {
                    has_better: false,
                    state: BackendState::Down,
                    is_only_server: true,
                    ..quick()
                },
                Wait,
            ),
            // What waits for a slow read to end is not on a dead server.
            (
                Situation {
                    has_better: false,
                    state: BackendState::Suspect,
                    is_server_busy: true,
                    ..quick()
                },
                Wait,
            ),
            // Reads that may be why it is silent stay, whatever the checks say.
            (unknown(), Wait),
            (slow(), Wait),
            (Situation { state: BackendState::Down, ..unknown() }, Wait),
            (Situation { state: BackendState::Down, ..slow() }, Wait),
            (Situation { has_better: false, state: BackendState::Down, ..slow() }, Wait),
            // Unless all are silent, those included that run nothing slow.
            (Situation { are_all_frozen: true, has_better: false, ..unknown() }, GiveUp),
            (Situation { are_all_frozen: true, has_better: false, ..slow() }, Wait),
            // A server that answers checks has not got the read: the connection is broken.
            (Situation { answers_checks: true, ..quick() }, Stuck),
            (Situation { answers_checks: true, ..unknown() }, Stuck),
            (Situation { answers_checks: true, ..slow() }, Stuck),
            (Situation { answers_checks: true, has_better: false, ..slow() }, Stuck),
            (
                Situation { answers_checks: true, has_better: false, has_other: false, ..slow() },
                Wait,
            ),
            // The read timeout ends every wait.
            (Situation { silent: long, has_better: false, ..quick() }, GiveUp),
            (Situation { silent: long, ..unknown() }, GiveUp),
            (Situation { silent: long, ..slow() }, GiveUp),
        ]
        .into_iter()
        .enumerate()
        {
            assert_eq!(decide(&situation, LIMITS), wanted, "row {at}: {situation:?}");
        }
    }

    #[test]
    fn only_a_quick_read_makes_its_server_suspect() {
        assert!(is_suspicious(&quick(), LIMITS));
        assert!(!is_suspicious(&unknown(), LIMITS));
        assert!(!is_suspicious(&slow(), LIMITS));
        assert!(!is_suspicious(&Situation { is_server_busy: true, ..quick() }, LIMITS));
        let silent = Duration::from_millis(999);
        assert!(!is_suspicious(&Situation { silent, ..quick() }, LIMITS));
    }

    #[test]
    fn a_read_timeout_below_the_backend_timeout_holds() {
        let limits = TimeLimits { backend: Duration::from_secs(5), read: Duration::from_secs(1) };
        assert_eq!(decide(&quick(), limits), Decision::GiveUp);
    }
}
