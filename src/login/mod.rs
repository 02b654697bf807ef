//! Who clients are: the users that are in effect, failed logins, and the limits of each user.

mod bucket;
mod guesses;
mod usage;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use log::warn;
use sha2::{Digest, Sha256};

use self::guesses::{Guesses, TooManyGuesses};
pub use self::usage::{MAX_WAIT, Throttled, UserUsage};
use crate::config::users::UsersConfig;
use crate::logging::escaped;
use crate::logging::throttle::Throttle;
use crate::metrics::{ByProtocol, Counter};
use crate::net::protocol::WireProtocol;
use crate::policy::users::{User, Users};

/// Longest part of the name in a failed login that is logged, in characters.
const LOGGED_NAME_CHARS: usize = 64;

/// Shortest time between two lines of the log about failed logins.
const LOG_PAUSE: Duration = Duration::from_secs(1);

/// The users that are in effect, and what is known of those who log in.
#[derive(Debug)]
pub struct Logins {
    roster: ArcSwap<Roster>,
    /// Number that changes whenever the users do.
    version: AtomicU64,
    guesses: Guesses,
    /// Failed logins.
    pub failures: ByProtocol<Counter>,
    log_throttle: Throttle,
}

/// The users at one moment.
#[derive(Debug)]
struct Roster {
    is_configured: bool,
    users: Arc<Users>,
    usages: BTreeMap<String, Arc<UserUsage>>,
}

impl Roster {
    /// Those that were there keep what their clients use.
    fn of(config: &UsersConfig, old: Option<&Self>) -> Self {
        let usage = |name: &str| {
            let limits = config.limits.get(name).copied().unwrap_or_default();
            match old.and_then(|old| old.usages.get(name)) {
                Some(usage) => {
                    usage.set_limits(limits, Instant::now());
                    Arc::clone(usage)
                }
                None => Arc::new(UserUsage::new(limits)),
            }
        };
        let names = config.users.iter().map(|user| user.name());
        let usages = names.map(|name| (name.to_owned(), usage(name))).collect();
        Self { is_configured: config.is_configured, users: Arc::clone(&config.users), usages }
    }

    fn enter(&self, user: Arc<User>) -> Result<Identity, LoginError> {
        let name = user.name();
        let usage = self.usages.get(name).cloned();
        let usage = usage.unwrap_or_else(|| Arc::new(UserUsage::new(Default::default())));
        match usage.enter() {
            true => Ok(Identity { user, place: Place(usage) }),
            false => Err(LoginError::TooManyClients(name.to_owned())),
        }
    }
}

/// Returns what stands for a name with its password, which are not kept.
fn digest(name: &[u8], password: &[u8]) -> [u8; 32] {
    let length = (name.len() as u64).to_le_bytes();
    Sha256::new().chain_update(length).chain_update(name).chain_update(password).finalize().into()
}

/// Error of a login.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// There is no such user with this password, or it is off. Which of these it is nobody is told.
    #[error("invalid username-password pair or user is disabled.")]
    Wrong,
    /// The user has as many clients as it may have.
    #[error("user {0} has as many clients as it may have")]
    TooManyClients(String),
    /// The user of a client is not there any more, or is off.
    #[error("its user {0} is gone or off")]
    Gone(String),
    /// Too many logins from this address have failed, and too many wait.
    #[error("too many failed logins from your address: wait a minute")]
    TooManyGuesses,
}

/// The user as whom a client is logged in. The client counts among that user's clients until this is dropped.
#[derive(Debug)]
pub struct Identity {
    user: Arc<User>,
    place: Place,
}

impl Identity {
    /// The user, with the rules of the moment at which they were last looked at.
    pub fn user(&self) -> &Arc<User> {
        &self.user
    }

    /// What the user's clients use.
    pub fn usage(&self) -> &Arc<UserUsage> {
        &self.place.0
    }
}

impl Deref for Identity {
    type Target = User;

    fn deref(&self) -> &User {
        &self.user
    }
}

/// One client's place among those of its user.
#[derive(Debug)]
struct Place(Arc<UserUsage>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl Logins {
    /// The users of a configuration.
    pub fn new(config: &UsersConfig) -> Self {
        Self {
            roster: ArcSwap::from_pointee(Roster::of(config, None)),
            version: AtomicU64::new(0),
            guesses: Guesses::default(),
            failures: ByProtocol::default(),
            log_throttle: Throttle::every(LOG_PAUSE),
        }
    }

    /// Takes over the users of another configuration.
    pub fn replace(&self, config: &UsersConfig) {
        let roster = Roster::of(config, Some(&self.roster.load()));
        self.roster.store(Arc::new(roster));
        // After the users: whoever sees the number finds them.
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Number that changes whenever the users do.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Whether any users are configured. Without, everybody is `default`, who may read all.
    pub fn are_configured(&self) -> bool {
        self.roster.load().is_configured
    }

    /// Whether the user `default` takes any password, as in a Redis without users.
    pub fn is_default_open(&self) -> bool {
        self.roster.load().users.default_user().is_some()
    }

    /// Returns who a client is that has not logged in; `None` if it has to.
    ///
    /// # Errors
    /// The user has too many clients.
    pub fn anonymous(&self) -> Result<Option<Identity>, LoginError> {
        let roster = self.roster.load();
        roster.users.default_user().map(|user| roster.enter(user)).transpose()
    }

    /// Takes over the rules and the limits that a client's user has now.
    ///
    /// # Errors
    /// The user is gone or off, or is another of that name, who has too many clients.
    pub fn renew(&self, identity: &mut Identity) -> Result<(), LoginError> {
        let roster = self.roster.load();
        let name = identity.name();
        let Some(user) = roster.users.get(name.as_bytes()).filter(|user| user.is_on()).cloned()
        else {
            return Err(LoginError::Gone(name.to_owned()));
        };
        match roster.usages.get(name) {
            Some(usage) if Arc::ptr_eq(usage, identity.usage()) => identity.user = user,
            _ => *identity = roster.enter(user)?,
        }
        Ok(())
    }

    /// Logs a client in. For an address that goes on guessing this takes longer.
    ///
    /// # Errors
    /// The password is wrong, or the client may not log in now.
    pub fn log_in(
        &self,
        address: SocketAddr,
        protocol: WireProtocol,
        name: &[u8],
        password: &[u8],
    ) -> Result<Identity, LoginError> {
        let login = digest(name, password);
        if let Err(TooManyGuesses) = self.guesses.wait(address.ip(), login) {
            self.note_failure(address, protocol, name);
            return Err(LoginError::TooManyGuesses);
        }
        let roster = self.roster.load();
        match roster.users.authenticate(name, password) {
            Some(user) => {
                self.guesses.succeeded(address.ip(), login);
                roster.enter(user)
            }
            None => {
                self.guesses.failed(address.ip(), login);
                self.note_failure(address, protocol, name);
                Err(LoginError::Wrong)
            }
        }
    }

    fn note_failure(&self, address: SocketAddr, protocol: WireProtocol, name: &[u8]) {
        self.failures.of(protocol).add_one();
        let Some(left_out) = self.log_throttle.admit(Instant::now()) else { return };
        let name = String::from_utf8_lossy(&name[..name.len().min(4 * LOGGED_NAME_CHARS)]);
        let name: String = name.chars().take(LOGGED_NAME_CHARS).collect();
        let protocol = match protocol {
            WireProtocol::Http => "HTTP",
            WireProtocol::Resp => "the Redis protocol",
        };
        let more = match left_out {
            0 => String::new(),
            count => format!("; {count} more failed since the last such line"),
        };
        warn!("{address} failed to log in as '{}' by {protocol}{more}", escaped(&name));
    }

    /// Returns the users that are configured, with what their clients use.
    pub fn usages(&self) -> Vec<(String, Arc<UserUsage>)> {
        let roster = self.roster.load();
        let usages = roster.usages.iter().filter(|_| roster.is_configured);
        usages.map(|(name, usage)| (name.clone(), Arc::clone(usage))).collect()
    }
}
