//! Who sends an HTTP request: Basic authentication, for the users that Redis clients log in as.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::response::LocalResponse;
use super::rights::{Caller, Rights};
use crate::http::Request;
use crate::http::authorization::Authorization;
use crate::http::target::{AdminTarget, Target};
use crate::login::{Identity, LoginError, MAX_WAIT};
use crate::metrics::Refusal;
use crate::net::protocol::WireProtocol;
use crate::resp::command;
use crate::session::client::Client;

/// What a browser is told that asks for a name and a password.
const CHALLENGE: &str = "Basic realm=\"redis-lb\", charset=\"UTF-8\"";

/// Error for a request without a user.
const LOG_IN: &str = "log in with the name and the password of a user, by Basic authentication (curl -u NAME:PASSWORD \
    …); if there is a password alone, the name is default";

/// Error for wrong credentials.
const WRONG: &str = "wrong name or password, or the user is off";

/// The login of one connection. Each request brings its own credentials; those of the request before it, when they
/// were right, need not be looked at again.
#[derive(Default)]
pub(super) struct HttpLogin {
    /// The user, the digest of its credentials if any were sent, and the version of the users.
    last: Option<(Arc<Identity>, Option<[u8; 32]>, u64)>,
}

impl HttpLogin {
    /// Returns who sends a request, unless what it asks for is open to everybody, and what of its target that user may
    /// have. Has it wait if the user is over a limit.
    pub fn admit(
        &mut self,
        request: &Request,
        target: Target,
        client: &Client,
    ) -> Result<(Caller, Target), LocalResponse> {
        // A browser that asks for the page of somebody else sends no password with OPTIONS.
        let is_open = match &target {
            Target::Admin(target) => target.is_open(),
            other => *other == Target::Options,
        };
        if is_open || !client.balancer.logins.are_configured() {
            return Ok((Caller::default(), target));
        }
        let identity = self.identity(request.authorization.as_ref(), client)?;
        let rights = Rights::of(&identity, client.balancer);
        wait_for_limit(&identity, client)?;
        let target = permitted(target, rights.as_ref())?;
        Ok((Caller { identity: Some(identity), rights }, target))
    }

    fn identity(
        &mut self,
        authorization: Option<&Authorization>,
        client: &Client,
    ) -> Result<Arc<Identity>, LocalResponse> {
        let logins = &client.balancer.logins;
        let (version, digest) = (logins.version(), authorization.map(Authorization::digest));
        match &self.last {
            Some((identity, known, at)) if *known == digest && *at == version => {
                return Ok(Arc::clone(identity));
            }
            // Its place is free before another is taken.
            _ => self.last = None,
        }
        client.socket.note_user("");
        let identity = match authorization.map(Authorization::basic) {
            None => logins.anonymous().and_then(|identity| identity.ok_or(LoginError::Wrong)),
            Some(Ok((name, password))) => {
                logins.log_in(client.address, WireProtocol::Http, &name, &password)
            }
            Some(Err(why)) => return Err(challenge(why)),
        };
        let identity = Arc::new(identity.map_err(|error| refusal(error, digest.is_some()))?);
        client.socket.note_user(identity.name());
        self.last = Some((Arc::clone(&identity), digest, version));
        Ok(identity)
    }
}

fn refusal(error: LoginError, has_credentials: bool) -> LocalResponse {
    let retry_after = match &error {
        LoginError::Wrong if has_credentials => return challenge(WRONG),
        LoginError::Wrong | LoginError::Gone(_) => return challenge(LOG_IN),
        LoginError::TooManyClients(_) => Duration::from_secs(1),
        LoginError::TooManyGuesses => Duration::from_secs(60),
    };
    too_many(error.to_string(), retry_after)
}

fn challenge(why: &'static str) -> LocalResponse {
    LocalResponse::error(401, why)
        .with_header("WWW-Authenticate", CHALLENGE)
        .because(Refusal::NotLoggedIn)
}

fn too_many(why: String, retry_after: Duration) -> LocalResponse {
    let seconds = match retry_after.as_millis().div_ceil(1000) {
        0 | 1 => "1",
        2..=10 => "10",
        _ => "60",
    };
    LocalResponse::error(429, why).with_header("Retry-After", seconds).because(Refusal::Throttled)
}

fn wait_for_limit(identity: &Identity, client: &Client) -> Result<(), LocalResponse> {
    let usage = identity.usage();
    if !usage.has_rates() {
        return Ok(());
    }
    let max_wait = MAX_WAIT.min(client.balancer.config().read_timeout);
    let admitted = usage.admit(identity.name(), max_wait, Instant::now());
    let wait = admitted.map_err(|error| too_many(error.to_string(), error.retry_after))?;
    if !wait.is_zero() {
        thread::sleep(wait);
    }
    Ok(())
}

/// Returns what a user may have of what it asks for.
fn permitted(target: Target, rights: Option<&Rights>) -> Result<Target, LocalResponse> {
    let Some(rights) = rights else { return Ok(target) };
    let forbidden = |why: String| LocalResponse::error(403, why).because(Refusal::NotPermitted);
    let may_list = || rights.permits(command("SCAN").arg("0"));
    if let Some(database) = target.database() {
        rights.permits(command("SELECT").number(database)).map_err(forbidden)?;
    }
    match target {
        Target::Key(key, page) if rights.may_read_key(&key.key) => {
            Ok(Target::Key(key, page.filter(|_| may_list().is_ok())))
        }
        Target::Key(_, Some(page)) => may_list().map(|()| Target::Page(page)).map_err(forbidden),
        Target::Keys(keys) if keys.keys.iter().all(|key| rights.may_read_key(key)) => {
            Ok(Target::Keys(keys))
        }
        Target::Key(..) | Target::Keys(_) => {
            Err(forbidden("NOPERM No permissions to access a key".to_owned()))
        }
        Target::Page(page) => may_list().map(|()| Target::Page(page)).map_err(forbidden),
        Target::Admin(AdminTarget::Page | AdminTarget::Status { .. } | AdminTarget::Metrics) => {
            rights.permits(command("INFO")).map(|()| target).map_err(forbidden)
        }
        other => Ok(other),
    }
}
