//! What a verdict becomes for the user who sent the command. Every command passes here: on a shared connection and on
//! one of its own, in a transaction, and when it is judged again.

use super::Policy;
use super::users::User;
use super::verdict::{LocalCommand, Refused, Subscription, Verdict};
use crate::metrics::Refusal;
use crate::resp::Command;

/// Error for a client that has to log in, in Redis's own words.
const NOAUTH: &str = "NOAUTH Authentication required.";

/// Channels on which a server tells which keys change begin so.
const KEYSPACE: &[u8] = b"__key";

/// Characters with which the variable part of a pattern begins.
const WILDCARDS: &[u8] = b"*?[\\";

/// Error for channels that name keys. Redis has none.
const KEYSPACE_ERROR: &str = "NOPERM No permissions to access a channel: keyspace notifications name any key, and this \
    user may not read all keys. Subscribe to channels, or to patterns, that do not begin with __key";

/// Turns the verdict about a command into that for the user who sent it; nobody is a client that has to log in.
///
/// As in Redis, a command that does not exist or has a wrong number of arguments is refused first, then one of a client
/// that has to log in, then one that the user may not send, then one that nobody may.
pub(super) fn for_user(
    policy: &Policy,
    user: Option<&User>,
    command: &Command,
    verdict: Verdict,
) -> Verdict {
    match user {
        Some(user) if user.is_unrestricted() => verdict,
        _ if !is_of_users(&verdict) => verdict,
        None if is_before_login(&verdict) => verdict,
        None => refuse(command, Refusal::NotLoggedIn, NOAUTH.into()),
        Some(user) => match policy.permits(user, command) {
            Err(denied) => refuse(command, Refusal::NotPermitted, denied.error),
            Ok(()) if names_keys(user, command, &verdict) => {
                refuse(command, Refusal::NotPermitted, KEYSPACE_ERROR.into())
            }
            Ok(()) => verdict,
        },
    }
}

/// Whether a verdict depends on the user.
fn is_of_users(verdict: &Verdict) -> bool {
    match verdict {
        Verdict::Forward | Verdict::Local(_) => true,
        Verdict::Refuse(Refused { why, .. }) => {
            !matches!(why, Refusal::UnknownCommand | Refusal::BadRequest)
        }
        Verdict::Close => false,
    }
}

/// Whether a client may send this before it has logged in.
fn is_before_login(verdict: &Verdict) -> bool {
    use LocalCommand::{Auth, Hello, Quit, Reset};
    matches!(verdict, Verdict::Local(Auth | Hello | Quit | Reset))
}

/// Whether a subscription would tell a user of keys that it may not read.
fn names_keys(user: &User, command: &Command, verdict: &Verdict) -> bool {
    let Verdict::Local(LocalCommand::Subscribe(kind)) = verdict else { return false };
    command.args().skip(1).any(|name| tells_keys(user, name, *kind))
}

/// Whether what comes on a channel, or on those of a pattern, may name keys that the user may not read.
pub(crate) fn tells_keys(user: &User, name: &[u8], kind: Subscription) -> bool {
    if user.sees_all_keys() {
        return false;
    }
    let fixed = match kind {
        Subscription::Pattern => name.split(|byte| WILDCARDS.contains(byte)).next().unwrap_or(name),
        Subscription::Channel | Subscription::Shard => return name.starts_with(KEYSPACE),
    };
    fixed.starts_with(KEYSPACE) || KEYSPACE.starts_with(fixed) && fixed.len() < name.len()
}

fn refuse(command: &Command, why: Refusal, error: Vec<u8>) -> Verdict {
    // An EXEC that is refused ends its transaction even so.
    let error = match command.is(0, b"exec") {
        true => [b"EXECABORT Transaction discarded because of: ", &*error].concat(),
        false => error,
    };
    Verdict::Refuse(Refused::new(why, error))
}
