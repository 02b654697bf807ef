//! Who a Redis client is: AUTH, HELLO, and what a login means for the session.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::replies::{Answered, SessionEnd, Unanswered};
use super::session::Session;
use crate::balance::{Balancer, Phase};
use crate::login::{Identity, LoginError, MAX_WAIT};
use crate::metrics::{Outcome, Refusal};
use crate::net::protocol::WireProtocol;
use crate::policy::users::{DEFAULT_USER, User};
use crate::policy::{LocalCommand, Refused, Subscription, Verdict, tells_keys};
use crate::resp::{Command, write};

/// Longest time that a client may take to log in, where it has to. Other clients' places are free again after that;
/// no person and no library needs longer.
const LOGIN_TIME: Duration = Duration::from_secs(60);

/// Reply of Redis to a password without a user where the user `default` needs none.
const NO_PASSWORD: &str = "ERR AUTH <password> called without any password configured for the \
    default user. Are you sure your configuration is correct?";

/// Reply of Redis to HELLO of a client that has to log in.
const HELLO_FIRST: &str = "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO \
    <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at \
    the same time";

/// Who a client is.
pub(super) struct Login {
    /// `None` while the client has to log in.
    identity: Option<Identity>,
    /// Whether the client has logged in itself, and is not `default` without having said so.
    is_named: bool,
    /// The version of the users by which this was decided.
    version: u64,
    /// When the client had to log in.
    since: Instant,
    /// Whether the user had a limit of requests or bytes when this was decided.
    has_rates: bool,
    /// Number of bytes of replies that were charged to the user.
    charged_bytes: u64,
}

impl Login {
    /// Nobody, until it is looked up who the client is.
    pub fn unknown() -> Self {
        let (since, version) = (Instant::now(), u64::MAX);
        Self { identity: None, is_named: false, version, since, has_rates: false, charged_bytes: 0 }
    }

    /// A client that has said nothing yet. An error says why it can't be served.
    pub fn new(balancer: &Balancer) -> (Self, Option<LoginError>) {
        let version = balancer.logins.version();
        let (identity, error) = match balancer.logins.anonymous() {
            Ok(identity) => (identity, None),
            Err(error) => (None, Some(error)),
        };
        (Self { identity, version, ..Self::unknown() }, error)
    }

    /// The user, if there are keys that it may not read.
    pub fn key_filter(&self) -> Option<Arc<User>> {
        let user = self.identity.as_ref().map(Identity::user);
        user.filter(|user| !user.sees_all_keys()).cloned()
    }

    /// The user; `None` while the client has to log in.
    pub fn user(&self) -> Option<&User> {
        self.identity.as_deref()
    }

    /// The name of the user; none while the client has to log in.
    pub fn user_name(&self) -> &str {
        self.user().map_or("", User::name)
    }

    /// The name of the user in the log, unless it is `default`.
    pub fn shown_user(&self) -> Option<String> {
        let name = self.user().map(User::name).filter(|name| *name != DEFAULT_USER);
        name.map(str::to_owned)
    }
}

impl Session<'_> {
    /// Takes over who the client is now.
    pub(super) fn follow_login(&mut self) {
        let client = &mut self.writer.client;
        let name = self.login.user_name();
        client.socket.note_user(name);
        client.keeps_place = self.login.identity.is_some();
        client.has_to_log_in_since = self.login.identity.is_none().then_some(self.login.since);
        let has_rates = |identity: &Identity| identity.usage().has_rates();
        self.login.has_rates = self.login.identity.as_ref().is_some_and(has_rates);
        client.idle_timeout = self.balancer.config().client_timeout;
    }

    /// Follows other users, if the configuration was read again.
    ///
    /// # Errors
    /// The client's user is gone or off, or may not have one of its subscriptions any more.
    pub(super) fn refresh_login(&mut self) -> Result<(), SessionEnd> {
        match self.login.version == self.balancer.logins.version() {
            true => Ok(()),
            false => self.renew_login(),
        }
    }

    #[inline(never)]
    fn renew_login(&mut self) -> Result<(), SessionEnd> {
        self.charge_replies();
        let logins = &self.balancer.logins;
        self.login.version = logins.version();
        let named = self.login.identity.as_mut().filter(|_| self.login.is_named);
        match named.map(|identity| logins.renew(identity)) {
            Some(Ok(())) => {}
            Some(Err(error)) => return Err(SessionEnd::Gone(error.to_string())),
            None => self.begin_login()?,
        }
        self.follow_login();
        self.check_subscriptions()
    }

    /// The client is who it was at its beginning.
    pub(super) fn begin_login(&mut self) -> Result<(), SessionEnd> {
        self.charge_replies();
        // The time to log in begins when the client ceases to be somebody.
        let was_somebody = self.login.identity.is_some();
        let since = if was_somebody { Instant::now() } else { self.login.since };
        // Its place is free before another is taken.
        self.login = self.login_left();
        let (login, refused) = Login::new(self.balancer);
        self.login = Login { charged_bytes: self.login.charged_bytes, since, ..login };
        self.follow_login();
        match refused {
            None => Ok(()),
            Some(error) => Err(self.refuse_with(&error.to_string(), Refusal::Throttled)),
        }
    }

    /// Charges the user with the replies that the client has got since the last time.
    pub(super) fn charge_replies(&mut self) {
        self.in_flight.is_under_way();
        let given = self.writer.given.bytes + self.in_flight.bytes;
        let bytes = given.saturating_sub(std::mem::replace(&mut self.login.charged_bytes, given));
        if let Some(identity) = self.login.identity.as_ref().filter(|_| self.login.has_rates) {
            identity.usage().charge(bytes, Instant::now());
        }
    }

    fn check_subscriptions(&self) -> Result<(), SessionEnd> {
        let Some(subscriptions) = &self.subscriptions else { return Ok(()) };
        let may_stay = |user: &User, name: &[u8], kind: Subscription| {
            user.may_receive(name, kind == Subscription::Pattern) && !tells_keys(user, name, kind)
        };
        let may_stay = self.login.user().is_some_and(|user| {
            subscriptions.names.iter().all(|(kind, name)| may_stay(user, name, kind))
        });
        match may_stay {
            true => Ok(()),
            false => Err(SessionEnd::Gone("its user may not have its subscriptions".to_owned())),
        }
    }

    /// Decides about a command that has just arrived, and has it wait if the user is over a limit.
    pub(super) fn hold_back(&mut self, verdict: Verdict) -> Result<Verdict, SessionEnd> {
        match self.login.has_rates && is_limited(&verdict) {
            true => self.wait_for_limit(verdict),
            false => Ok(verdict),
        }
    }

    #[inline(never)]
    fn wait_for_limit(&mut self, verdict: Verdict) -> Result<Verdict, SessionEnd> {
        let has_byte_limit = |identity: &Identity| identity.usage().has_byte_limit();
        if self.login.identity.as_ref().is_some_and(has_byte_limit) {
            // Replies count once they have come, so no more than one is on its way.
            self.run_batch()?;
            self.wait_in_flight()?;
        }
        self.charge_replies();
        let Some(identity) = &self.login.identity else { return Ok(verdict) };
        let mut max_wait = MAX_WAIT.min(self.balancer.config().read_timeout);
        if self.writer.client.handle().is_gone() || self.balancer.has_reached(Phase::Closing) {
            // A client that has left would hold its place for as long as what it has sent lasts.
            max_wait = Duration::ZERO;
        }
        match identity.usage().admit(identity.name(), max_wait, Instant::now()) {
            Ok(Duration::ZERO) => Ok(verdict),
            Ok(wait) => {
                // What came before it is not held up.
                self.flush()?;
                thread::sleep(wait);
                Ok(verdict)
            }
            Err(throttled) => {
                let error = format!("ERR {throttled}: try again later").into_bytes();
                Ok(Verdict::Refuse(Refused { why: Refusal::Throttled, error }))
            }
        }
    }

    #[inline(never)]
    pub(super) fn auth(&mut self, command: &Command) -> Answered {
        match (command.arg(1), command.arg(2), command.arg_count()) {
            (Some(_), None, 2) if self.balancer.logins.is_default_open() => Err(NO_PASSWORD.into()),
            (Some(password), None, 2) => self.log_in(DEFAULT_USER.as_bytes(), password),
            (Some(name), Some(password), 3) => self.log_in(name, password),
            _ => Err("ERR syntax error".into()),
        }?;
        self.ok()
    }

    /// Makes the client this user, if the password is right.
    pub(super) fn log_in(&mut self, name: &[u8], password: &[u8]) -> Answered {
        let logins = &self.balancer.logins;
        let version = logins.version();
        // What came before belongs to the user so far, and a login may take longer.
        self.run_batch()?;
        self.writer.deliver().map_err(SessionEnd::from)?;
        self.charge_replies();
        let address = self.writer.client.address;
        let refused =
            |text: String, why| Unanswered::Error(text.into_bytes(), Outcome::Refused(why));
        match logins.log_in(address, WireProtocol::Resp, name, password) {
            Ok(identity) => {
                let login = Login {
                    identity: Some(identity),
                    is_named: true,
                    version,
                    ..self.login_left()
                };
                self.login = login;
                self.follow_login();
                Ok(self.check_subscriptions()?)
            }
            Err(error @ LoginError::Wrong) => {
                Err(refused(format!("WRONGPASS {error}"), Refusal::NotLoggedIn))
            }
            Err(error) => Err(refused(format!("ERR {error}"), Refusal::Throttled)),
        }
    }

    /// What stays of a login when another takes its place.
    fn login_left(&self) -> Login {
        Login { charged_bytes: self.login.charged_bytes, ..Login::unknown() }
    }

    /// Lets a client that has to log in wait for as long as it may.
    pub(super) fn limit_login_time(&mut self) -> Result<(), SessionEnd> {
        if self.login.identity.is_some() {
            return Ok(());
        }
        let left = LOGIN_TIME.saturating_sub(self.login.since.elapsed());
        if left.is_zero() {
            return Err(SessionEnd::Gone("did not log in in time".to_owned()));
        }
        let timeout = self.balancer.config().client_timeout;
        self.writer.client.idle_timeout = timeout.min(left);
        Ok(())
    }

    /// Fails if the client has to log in before HELLO is answered.
    pub(super) fn check_greeted(&self) -> Answered {
        match self.login.user() {
            Some(_) => Ok(()),
            None => {
                Err(Unanswered::Error(HELLO_FIRST.into(), Outcome::Refused(Refusal::NotLoggedIn)))
            }
        }
    }

    pub(super) fn acl_whoami(&mut self) {
        let name = self.login.user_name().to_owned();
        self.answer(|out| write::bulk(out, name.as_bytes()));
    }
}

/// Whether a user's limits hold for a command: for all but those about the session itself. An EXEC is not held back,
/// since its commands were.
fn is_limited(verdict: &Verdict) -> bool {
    use LocalCommand::{AclWhoAmI, Auth, Discard, Exec, Hello, Multi, Quit, Reset, Unsubscribe};
    match verdict {
        Verdict::Forward => true,
        Verdict::Local(local) => !matches!(
            local,
            AclWhoAmI | Auth | Discard | Exec | Hello | Multi | Quit | Reset | Unsubscribe(_)
        ),
        Verdict::Refuse(_) | Verdict::Close => false,
    }
}
