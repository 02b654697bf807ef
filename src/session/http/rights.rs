//! What the user of an HTTP request may read.

use std::sync::Arc;
use std::time::Instant;

use super::exchange::KeyInfo;
use crate::balance::Balancer;
use crate::login::Identity;
use crate::policy::Policy;
use crate::policy::users::{DEFAULT_USER, User};
use crate::resp::{CommandBuilder, CommandParser, command};

/// Who sends a request.
#[derive(Clone, Default)]
pub(super) struct Caller {
    /// The user; `None` where no users are configured, and for what is open to everybody.
    pub identity: Option<Arc<Identity>>,
    /// What the user may read; `None` if that is everything.
    pub rights: Option<Rights>,
}

impl Caller {
    /// The name of the user in the log, unless it is `default`.
    pub fn shown_user(&self) -> Option<String> {
        let name = self.identity.as_ref().map(|identity| identity.name());
        name.filter(|name| *name != DEFAULT_USER).map(str::to_owned)
    }

    /// Counts bytes that were sent to the client.
    pub fn charge(&self, bytes: u64) {
        let usage = self.identity.as_ref().map(|identity| identity.usage());
        if let Some(usage) = usage.filter(|usage| usage.has_rates()) {
            usage.charge(bytes, Instant::now());
        }
    }

    /// Whether there is no key that the user may not read.
    pub fn sees_all_keys(&self) -> bool {
        self.rights.as_ref().is_none_or(|rights| rights.user.sees_all_keys())
    }
}

/// What a user may read that may not read everything.
#[derive(Clone)]
pub(super) struct Rights {
    user: Arc<User>,
    policy: Arc<Policy>,
}

impl Rights {
    /// Returns what a user may read; `None` if that is everything.
    pub fn of(identity: &Identity, balancer: &Balancer) -> Option<Self> {
        let restricted = (!identity.is_unrestricted()).then(|| Arc::clone(identity.user()));
        restricted.map(|user| Self { user, policy: balancer.policy().1 })
    }

    pub fn may_read_key(&self, key: &[u8]) -> bool {
        self.user.may_read_key(key)
    }

    /// Whether a command may be run for the user; an error says why not, as Redis does.
    pub fn permits(&self, command: CommandBuilder) -> Result<(), String> {
        let bytes = command.into_bytes();
        let mut parser = CommandParser::new(usize::MAX);
        let Ok((_, Some(command))) = parser.parse(&bytes) else {
            return Err("NOPERM this command is too long".to_owned());
        };
        let permitted = self.policy.permits_known(&self.user, &command);
        permitted.map_err(|denied| String::from_utf8_lossy(&denied.error).into_owned())
    }
}

/// Whether the keys of listings may be counted together for a user.
pub(super) fn may_count(rights: Option<&Rights>) -> bool {
    rights.is_none_or(|rights| {
        rights.user.sees_all_keys() && rights.permits(command("DBSIZE")).is_ok()
    })
}

/// Makes a key look as if it were not there if the user may not read values of its type: listings leave it out.
pub(super) fn hide_unless_readable(info: &mut KeyInfo, key: &[u8], rights: Option<&Rights>) {
    let Some(rights) = rights else { return };
    let is_readable = match info.value_type() {
        Some(value_type) => rights.permits(value_type.read_command(key)).is_ok(),
        None => rights.may_read_key(key),
    };
    if !is_readable {
        info.hide();
    }
}
