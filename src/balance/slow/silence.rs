//! How long a read waits for a server that is silent, or whose reply trickles. The rule is one for both protocols
//! and for both kinds of connection, shared and pooled.

use std::time::Duration;

use crate::backend::Class;
use crate::config::Config;
use crate::health::BackendState;

/// The timeouts of the configuration that the rule needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeLimits {
    /// `--backend-timeout`: how long a server may be silent before a quick read leaves.
    pub backend: Duration,
    /// `--read-timeout`: how long any read waits.
    pub read: Duration,
}

impl TimeLimits {
    /// Those of a configuration.
    pub fn of(config: &Config) -> Self {
        Self { backend: config.backend_timeout, read: config.read_timeout }
    }
}

/// A read that was sent to a server which has been silent since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Situation {
    /// Knowledge about how long the read takes.
    pub class: Class,
    /// How long nothing has come on this connection, or too little: `backend/pace.rs` says what is enough.
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

/// Decides what a read does that has met silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The read stays where it is.
    Wait,
    /// It is sent to another server.
    Leave {
        /// Whether that costs nothing of the retry budget.
        is_free: bool,
    },
    /// It is sent to another server, and its own is not blamed: that works on a slow read.
    LeaveBusy,
    /// It is sent to another server at once, and its own is not blamed: the checks have found that down.
    LeaveDown,
    /// It is sent again on another connection: this one is broken, not the server.
    Stuck,
    /// It fails: its time is up.
    GiveUp,
}

/// Whether the silence means that the server has failed, and is `suspect`. The only one that serves is not when it
/// has answered a check meanwhile: no read could go elsewhere.
pub fn is_suspicious(now: &Situation, limits: TimeLimits) -> bool {
    let is_cleared = now.answers_checks && !now.has_other;
    now.class == Class::Quick && now.silent >= limits.backend && !now.is_server_busy && !is_cleared
}

/// Decides what a read does that has met silence.
///
/// A quick read leaves after the backend timeout, or as soon as its server is down. Any other read may itself be the reason for the silence, and
/// would silence the next server as well. So it stays until the read timeout, even if health checks fail: a busy
/// server does not answer them either.
pub fn decide(now: &Situation, limits: TimeLimits) -> Decision {
    if now.silent < limits.backend.min(limits.read) {
        let is_down = now.class == Class::Quick && now.state == BackendState::Down;
        return if is_down && now.has_better { Decision::LeaveDown } else { Decision::Wait };
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
        // Reads of a server that is down are the others' share anyway: they cost no budget.
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
        use Decision::{GiveUp, Leave, LeaveBusy, LeaveDown, Stuck, Wait};
        let long = Duration::from_secs(30);
        let short = Duration::from_millis(999);
        for (at, (situation, wanted)) in [
            // No read leaves before the backend timeout, but for a quick one whose server is down.
            (Situation { silent: short, ..quick() }, Wait),
            (Situation { silent: short, state: BackendState::Suspect, ..quick() }, Wait),
            (Situation { silent: short, state: BackendState::Down, ..quick() }, LeaveDown),
            (Situation { silent: short, state: BackendState::Down, ..unknown() }, Wait),
            (Situation { silent: short, state: BackendState::Down, ..slow() }, Wait),
            (
                Situation {
                    silent: short,
                    state: BackendState::Down,
                    has_better: false,
                    ..quick()
                },
                Wait,
            ),
            (Situation { silent: short, answers_checks: true, ..slow() }, Wait),
            // A quick read leaves then, where there is another to go to.
            (quick(), Leave { is_free: false }),
            (Situation { state: BackendState::Suspect, ..quick() }, Leave { is_free: false }),
            (Situation { state: BackendState::Down, ..quick() }, Leave { is_free: true }),
            (Situation { is_server_busy: true, ..quick() }, LeaveBusy),
            // Without another server, it stays until the checks say that its server is dead.
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
            // A read that waits for the end of a slow one is not on a dead server.
            (
                Situation {
                    has_better: false,
                    state: BackendState::Suspect,
                    is_server_busy: true,
                    ..quick()
                },
                Wait,
            ),
            // Reads that may be the reason for the silence stay, whatever the checks say.
            (unknown(), Wait),
            (slow(), Wait),
            (Situation { state: BackendState::Down, ..unknown() }, Wait),
            (Situation { state: BackendState::Down, ..slow() }, Wait),
            (Situation { has_better: false, state: BackendState::Down, ..slow() }, Wait),
            // They give up when all servers are silent, even those that run nothing slow.
            (Situation { are_all_frozen: true, has_better: false, ..unknown() }, GiveUp),
            (Situation { are_all_frozen: true, has_better: false, ..slow() }, Wait),
            // A server that answers checks has not received the read: the connection is broken.
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
        let cleared = Situation { answers_checks: true, ..quick() };
        assert!(is_suspicious(&cleared, LIMITS));
        assert!(!is_suspicious(&Situation { has_other: false, ..cleared }, LIMITS));
        let silent = Duration::from_millis(999);
        assert!(!is_suspicious(&Situation { silent, ..quick() }, LIMITS));
    }

    #[test]
    fn a_read_timeout_below_the_backend_timeout_holds() {
        let limits = TimeLimits { backend: Duration::from_secs(5), read: Duration::from_secs(1) };
        assert_eq!(decide(&quick(), limits), Decision::GiveUp);
    }
}
